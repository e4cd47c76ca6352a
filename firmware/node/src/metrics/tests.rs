use service::status::{Alarm, GatewayMoney, NodeStatus, Segments};

use super::*;

fn origin() -> Origin {
    Origin { node_type: "orch", node_id: "box".into(), orchestrator: Some("0xabc".into()) }
}

fn exposed(status: &NodeStatus, beside: &Beside) -> String {
    text(&origin(), status, beside, &Measures::default()).unwrap()
}

/// The value of the one sample of a name with such labels, in whatever order.
fn value(text: &str, name: &str, labels: &[&str]) -> f64 {
    let begins = format!("{name}{{");
    let has = |line: &&str| line.starts_with(&begins) && labels.iter().all(|label| line.contains(label));
    let found: Vec<&str> = text.lines().filter(has).collect();
    let [line] = found.as_slice() else { panic!("{name} {labels:?} is {found:?} in\n{text}") };
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn every_number_carries_the_nodes_labels_and_its_own_unit() {
    let money = Money {
        tickets_received: 7,
        received_ev_wei: "3000000000".into(),
        tickets_pending: 3,
        tickets_submitted: 1,
        paid_wei: "2500000000".into(),
        payment_errors: [("nonce".to_owned(), 2)].into(),
        gateways: vec![GatewayMoney {
            address: "0xfee".into(),
            tickets: 7,
            value_wei: "3000000000".into(),
            winners: 1,
            face_value_wei: "4000000000".into(),
            max_float_wei: String::new(),
        }],
        ..Money::default()
    };
    let segments = Segments {
        ok: 3,
        failed: 1,
        pixels: 2_500_000,
        failures: [("timeout".to_owned(), 1)].into(),
        ..Segments::default()
    };
    let status = NodeStatus {
        mode: "drain".into(),
        money,
        segments,
        chain: Some(Chain { poll_age_s: u64::MAX, hot_balance_wei: "500000000000000000".into(), ..Chain::default() }),
        ..NodeStatus::default()
    };
    let endpoint = EndpointHealth { endpoint: "https://a".into(), requests: 9, failures: 2, preferred: true };
    let beside = Beside { endpoints: vec![endpoint], gas_bounds: Some(("20000000".into(), None)) };
    let text = exposed(&status, &beside);
    let base = ["node_id=\"box\"", "node_type=\"orch\"", "orchestrator=\"0xabc\""];
    assert_eq!(value(&text, "livepeer_tickets_recv", &base), 7.0);
    assert_eq!(value(&text, "livepeer_ticket_value_recv", &[]), 3.0);
    assert_eq!(value(&text, "livepeer_value_redeemed", &[]), 2.5);
    assert_eq!(value(&text, "livepeer_mil_pixels_processed", &[]), 2.5);
    assert_eq!(value(&text, "livepeer_success_rate", &[]), 0.75);
    assert_eq!(value(&text, "livepeer_segment_transcode_failed_total", &["error_code=\"timeout\""]), 1.0);
    assert_eq!(value(&text, "livepeer_payment_recv_errors", &["error_code=\"nonce\""]), 2.0);
    assert_eq!(value(&text, "livepeer_min_gas_price", &[]), 0.02);
    assert!(!text.contains("livepeer_max_gas_price{"), "there is no bound");
    assert_eq!(value(&text, "millrace_winners", &["state=\"held\""]), 2.0);
    assert_eq!(value(&text, "millrace_mode", &["mode=\"drain\""]), 1.0);
    assert_eq!(value(&text, "millrace_hot_balance_ether", &[]), 0.5);
    assert_eq!(value(&text, "livepeer_gateway_ticket_face_value", &[]), 4.0);
    assert!(
        text.contains("# TYPE livepeer_gateway_max_float gauge\n") && !text.contains("gateway_max_float{"),
        "{text}"
    );
    assert_eq!(value(&text, "millrace_chain_head_age_seconds", &[]), f64::INFINITY);
    assert_eq!(value(&text, "millrace_rpc_failures_total", &["endpoint=\"https://a\"", "number=\"0\""]), 2.0);
}

#[test]
fn a_prices_fraction_is_reckoned_out() {
    assert_eq!(price("1200 wei per pixel"), Some(1200.0));
    assert_eq!(price("7 wei per 2 pixels"), Some(3.5));
    assert_eq!(price(""), None);
}

#[test]
fn off_chain_there_is_no_money() {
    let text = exposed(&NodeStatus { mode: "run".into(), ..NodeStatus::default() }, &Beside::default());
    assert!(text.contains("livepeer_max_sessions_total{") && !text.contains("tickets_recv"));
}

#[test]
fn alarms_of_one_id_are_told_apart_and_names_of_others_are_escaped() {
    let alarm = |instance: &str| Alarm {
        id: "GPU".into(),
        severity: "err".into(),
        instance: instance.into(),
        ..Alarm::default()
    };
    let status = NodeStatus { alarms: vec![alarm("a\"b\n"), alarm("c")], ..NodeStatus::default() };
    let text = exposed(&status, &Beside::default());
    assert!(text.contains("instance=\"a\\\"b\\n\"") && text.contains("instance=\"c\""), "{text}");
    assert_eq!(value(&text, "millrace_alarms", &[]), 2.0);
}
