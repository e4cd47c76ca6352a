//! What a sample and a status look like as metrics of the registry: pure.

use std::collections::BTreeMap;

use fleet_protocol::event::Severity;
use fleet_protocol::payload::Mode;
use fleet_protocol::registry::{self, REFRESH_PERIODS, is_wei};
use serde_json::{Map, Value, json};
use service::status::{Gpu, NodeStatus};

use crate::collect::Sample;

type Metrics = Map<String, Value>;

/// The heartbeat: always whole.
pub(crate) fn heartbeat(
    score: u32,
    open: &[(&str, Severity)],
    node: Option<&NodeStatus>,
    ticks: u64,
    spool_percent: u64,
) -> Metrics {
    let count = |of| open.iter().filter(|(_, severity)| *severity == of).count();
    let mut short: Vec<&str> = open.iter().map(|(id, _)| *id).collect();
    short.dedup();
    short.truncate(8);
    object(json!({
        "ok": score,
        "al": short,
        "alc": count(Severity::Crit),
        "ale": count(Severity::Err),
        "alw": count(Severity::Warn),
        "md": mode(node).key(),
        "ss": node.map(|node| node.sessions.active),
        "sc": node.map(|node| node.sessions.capacity),
        "pa": node.and_then(|node| node.workers.probe_age_s),
        "lt": ticks,
        "sp": spool_percent,
        "ca": node.and_then(|node| node.chain.as_ref()).map(|chain| chain.poll_age_s),
    }))
}

/// What only this box's key can move.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Purse {
    /// Wei of the hot account; `None` when nobody can say.
    pub(crate) hot_wei: Option<u128>,
    /// Winning tickets that are not redeemed.
    pub(crate) winners: u64,
}

/// What the node says of its money.
pub(crate) fn purse(node: Option<&NodeStatus>) -> Purse {
    let hot_wei = node.and_then(|node| node.chain.as_ref()).and_then(|chain| chain.hot_balance_wei.parse().ok());
    Purse { hot_wei, winners: node.map_or(0, |node| node.money.tickets_pending) }
}

/// What the box is willing to do, as its node says.
pub(crate) fn mode(node: Option<&NodeStatus>) -> Mode {
    match node.map(|node| node.mode.as_str()) {
        Some("drain" | "stopping") => Mode::Drain,
        Some("run") => Mode::Run,
        // A box without a working node takes no streams and can still be repaired.
        _ => Mode::Safe,
    }
}

/// Vitals of the machine over one period.
pub(crate) fn vitals(samples: &[Sample], node: Option<&NodeStatus>) -> Metrics {
    let Some(last) = samples.last() else { return Metrics::new() };
    let cpu: Vec<f64> = samples.iter().filter_map(|sample| sample.cpu_percent).collect();
    let hottest = samples.iter().filter_map(|sample| sample.celsius).reduce(f64::max);
    let throttle = samples.iter().fold(0, |all, sample| all | sample.throttle);
    let mut metrics = known(json!({
        "cpu": spread(&cpu),
        "l1": last.load1,
        "mem": last.memory_percent,
        "memp": last.memory_pressure,
        "iop": last.io_pressure,
        "oom": last.oom_kills,
        "tc": hottest,
        "tb": last.board_celsius,
        "ti": last.inlet_celsius,
        "fan": (!last.fans.is_empty()).then_some(&last.fans),
        "vin": last.input_volts,
        "thr": throttle,
        "swp": last.swap_percent,
        "pw": last.watts,
        "up": last.uptime_s,
    }));
    metrics.extend(node.and_then(|node| node.hardware.as_ref()).map(graphics).unwrap_or_default());
    metrics
}

/// The graphics processors, by index, as the node sees them: it asks their driver, this daemon does not.
fn graphics(hardware: &service::status::Hardware) -> Metrics {
    let gpus = hardware.gpus.get(..hardware.gpus.len().min(registry::ARRAY_MAX)).unwrap_or_default();
    let each = |of: &dyn Fn(&Gpu) -> Value| {
        let values: Vec<Value> = gpus.iter().map(of).collect();
        // What no card tells is left out; one that is silent among others has its place.
        values.iter().any(|value| !value.is_null()).then_some(values)
    };
    known(json!({
        "gu": each(&|gpu| json!(gpu.busy_percent.map(tenth))),
        "ge": each(&|gpu| json!(gpu.encoder_percent.map(tenth))),
        "gd": each(&|gpu| json!(gpu.decoder_percent.map(tenth))),
        "gm": each(&|gpu| json!(gpu.memory_percent.map(tenth))),
        "gt": each(&|gpu| json!(gpu.celsius.map(tenth))),
        "gth": each(&|gpu| json!(gpu.inside_celsius.map(tenth))),
        "gp": each(&|gpu| json!(gpu.watts.map(tenth))),
        "gpl": each(&|gpu| json!(gpu.watts_limit.map(tenth))),
        "gc": each(&|gpu| json!(gpu.megahertz)),
        "gmc": each(&|gpu| json!(gpu.memory_megahertz)),
        "gthr": each(&|gpu| json!(gpu.throttle_bits)),
        "ecc": each(&|gpu| json!(gpu.ecc_uncorrected)),
        "es": each(&|gpu| json!(gpu.encoder_sessions)),
        "gfo": each(&|gpu| json!(u8::from(gpu.fault.is_some()))),
    }))
}

/// To one decimal, as the registry's bands are.
fn tenth(value: f32) -> f64 {
    (f64::from(value) * 10.0).round() / 10.0
}

/// Streams and work; absent while the node does not answer.
pub(crate) fn streams(node: &NodeStatus) -> Metrics {
    let segments = &node.segments;
    let measured = segments.ok > 0;
    known(json!({
        "ss": node.sessions.active,
        "sc": node.sessions.capacity,
        "sin": node.sessions.started,
        "sdn": node.sessions.ended,
        "srj": [node.sessions.refused],
        "sg": segments.ok,
        "sf": [segments.failed],
        "srt": segments.retried,
        "px": segments.pixels / 1_000_000,
        "by": [segments.bytes_in, segments.bytes_out],
        "rtr": measured.then(|| [rounded(segments.realtime_ratio_p50), rounded(segments.realtime_ratio_p05)]),
        "lat": measured.then_some([segments.latency_ms_p50, segments.latency_ms_p95]),
    }))
}

/// Cumulative earnings; absent while the node does not answer.
pub(crate) fn earnings(node: &NodeStatus) -> Metrics {
    let money = &node.money;
    let chain = node.chain.as_ref();
    let errors: Vec<Value> =
        money.payment_errors.iter().take(registry::ARRAY_MAX).map(|(cause, n)| json!([cause, n])).collect();
    known(json!({
        "tr": money.tickets_received,
        "tv": wei(&money.received_ev_wei),
        "tw": money.tickets_won,
        "twv": wei(&money.won_wei),
        "rd": money.tickets_redeemed,
        "rdv": wei(&money.paid_wei),
        "rf": money.redemption_failures,
        "pd": money.tickets_pending,
        "pdv": wei(&money.pending_wei),
        "pre": (!errors.is_empty()).then_some(errors),
        "eth": chain.and_then(|chain| wei(&chain.hot_balance_wei)),
        "act": chain.map(|chain| u8::from(chain.active)),
        "rnd": chain.map(|chain| chain.round),
        "rin": chain.map(|chain| u8::from(chain.round_initialized)),
        "gas": chain.and_then(|chain| wei(&chain.gas_price_wei)).map(|price| [price]),
    }))
}

/// The counters whose every step is money.
const LEDGER: [&str; 5] = ["tw", "twv", "rd", "rdv", "rf"];

/// The ledger's counters as they stand in the newest step on disk; all zero before the first.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct LedgerBase(BTreeMap<String, Value>);

impl LedgerBase {
    /// Continue from a step; a counter it does not name keeps its value.
    pub(crate) fn follow(&mut self, step: &Metrics) {
        for part in step.get("stp").and_then(Value::as_array).into_iter().flatten() {
            if let Some([Value::String(key), _, new]) = part.as_array().map(Vec::as_slice) {
                self.0.insert(key.clone(), new.clone());
            }
        }
    }

    /// The step from here to these earnings: `[key, old, new]` for every counter (so that the newest step alone says
    /// where the next begins), or nothing when none moved.
    pub(crate) fn step(&self, earnings: &Metrics, l1_block: u64) -> Option<Metrics> {
        let zero = |value: &Value| if value.is_string() { json!("0") } else { json!(0) };
        let mut moved = false;
        let mut steps = Vec::new();
        for key in LEDGER {
            let new = earnings.get(key)?;
            let old = self.0.get(key).cloned().unwrap_or_else(|| zero(new));
            moved |= old != *new;
            steps.push(json!([key, old, new]));
        }
        moved.then(|| {
            let mut step = object(json!({ "stp": steps, "blk": l1_block }));
            if let Some(round) = earnings.get("rnd") {
                step.insert("rnd".to_owned(), round.clone());
            }
            step
        })
    }
}

/// What was last sent of one class, to leave out what has not moved.
#[derive(Debug, Default)]
pub(crate) struct DeadBand {
    sent: BTreeMap<String, (Value, u32)>,
}

impl DeadBand {
    /// Keep the metrics that moved beyond their band or have not been sent for [`REFRESH_PERIODS`].
    pub(crate) fn pick(&mut self, metrics: Metrics) -> Metrics {
        let mut out = Metrics::new();
        for (key, value) in metrics {
            let Some(metric) = registry::metric(&key) else { continue };
            let still = self
                .sent
                .get_mut(&key)
                .filter(|(old, age)| *age + 1 < REFRESH_PERIODS && !registry::moved(metric, old, &value));
            match still {
                Some((_, age)) => *age += 1,
                None => {
                    self.sent.insert(key.clone(), (value.clone(), 0));
                    out.insert(key, value);
                }
            }
        }
        out
    }
}

/// Least, mean and most.
fn spread(values: &[f64]) -> Option<[f64; 3]> {
    let count = u32::try_from(values.len()).ok().filter(|count| *count > 0)?;
    let mean = values.iter().sum::<f64>() / f64::from(count);
    Some([values.iter().copied().reduce(f64::min)?, rounded(mean), values.iter().copied().reduce(f64::max)?])
}

fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// An amount as the contract writes it; what the node leaves empty is unknown.
fn wei(text: &str) -> Option<&str> {
    is_wei(text).then_some(text)
}

fn object(value: Value) -> Metrics {
    match value {
        Value::Object(map) => map,
        _ => Metrics::new(),
    }
}

/// Without what is not known.
fn known(value: Value) -> Metrics {
    let mut map = object(value);
    map.retain(|_, value| !value.is_null());
    map
}

/// Whether every metric belongs to its class and has its shape: what is sent is held to the rule it will be read by.
#[cfg(test)]
pub(crate) fn is_sound(class: registry::Class, metrics: &Metrics) -> bool {
    metrics.iter().all(|(key, value)| {
        registry::metric(key).is_some_and(|metric| registry::belongs(metric, class) && registry::fits(metric, value))
    })
}

#[cfg(test)]
mod tests {
    use fleet_protocol::registry::Class;
    use service::status::{Chain, Money};

    use super::*;

    fn node() -> NodeStatus {
        let money = Money {
            tickets_received: 9,
            received_ev_wei: "900".into(),
            tickets_won: 2,
            won_wei: "2000".into(),
            tickets_redeemed: 1,
            paid_wei: "1000".into(),
            pending_wei: "1000".into(),
            tickets_pending: 1,
            payment_errors: [("price".to_owned(), 3)].into(),
            ..Money::default()
        };
        let chain = Chain {
            round: 41,
            l1_block: 777,
            hot_balance_wei: "5".into(),
            gas_price_wei: "7".into(),
            ..Chain::default()
        };
        let mut node = NodeStatus { mode: "run".into(), money, chain: Some(chain), ..NodeStatus::default() };
        node.segments.ok = 5;
        node.segments.realtime_ratio_p50 = 3.456;
        node.sessions.capacity = 8;
        node
    }

    fn with_gpus() -> NodeStatus {
        let gpu = |celsius| Gpu { celsius, throttle_bits: 3, ..Gpu::default() };
        let lost = Gpu { fault: Some("fell off the bus".into()), ..Gpu::default() };
        let gpus = vec![gpu(Some(70.04)), lost, gpu(None)];
        let hardware = service::status::Hardware { gpus, ..service::status::Hardware::default() };
        NodeStatus { hardware: Some(hardware), ..NodeStatus::default() }
    }

    #[test]
    fn graphics_processors_are_arrays_by_index_and_what_none_tells_is_left_out() {
        let vitals = vitals(&[Sample { throttle: 1, ..Sample::default() }, Sample::default()], Some(&with_gpus()));
        assert_eq!(vitals["gt"], json!([70.0, null, null]));
        assert_eq!((&vitals["gthr"], &vitals["gfo"]), (&json!([3, 0, 3]), &json!([0, 1, 0])));
        assert_eq!(vitals["thr"], json!(1), "what was at any time of the period");
        assert!(!vitals.contains_key("gu") && !vitals.contains_key("fan"));
    }

    #[test]
    fn every_report_keeps_to_the_registry() {
        let sample = Sample { cpu_percent: Some(5.0), celsius: Some(50.5), uptime_s: Some(9), ..Sample::default() };
        let open = [("NODE-DOWN", Severity::Err)];
        for (class, metrics) in [
            (Class::Heartbeat, heartbeat(80, &open, Some(&node()), 7, 3)),
            (Class::Heartbeat, heartbeat(80, &open, None, 7, 3)),
            (Class::Vitals, vitals(&[sample.clone(), sample.clone()], None)),
            (Class::Vitals, vitals(&[sample], Some(&with_gpus()))),
            (Class::Streams, streams(&node())),
            (Class::Earnings, earnings(&node())),
            (Class::Earnings, earnings(&NodeStatus::default())),
            (Class::Ledger, LedgerBase::default().step(&earnings(&node()), 777).unwrap()),
        ] {
            assert!(!metrics.is_empty() && is_sound(class, &metrics), "{class:?} {metrics:?}");
        }
    }

    #[test]
    fn a_ledger_step_says_old_and_new_and_the_next_begins_where_it_ended() {
        let mut base = LedgerBase::default();
        let first = base.step(&earnings(&node()), 777).unwrap();
        assert_eq!(first["stp"][0], json!(["tw", 0, 2]));
        assert_eq!(first["stp"][1], json!(["twv", "0", "2000"]));
        assert_eq!((first["blk"].clone(), first["rnd"].clone()), (json!(777), json!(41)));
        base.follow(&first);
        assert_eq!(base.step(&earnings(&node()), 778), None);
        let mut later = node();
        later.money.tickets_won = 3;
        let second = base.step(&earnings(&later), 779).unwrap();
        assert_eq!(second["stp"][0], json!(["tw", 2, 3]));
        let mut restarted = LedgerBase::default();
        restarted.follow(&second);
        assert_eq!(restarted.step(&earnings(&later), 780), None);
    }

    #[test]
    fn an_amount_the_node_leaves_out_is_unknown_and_makes_no_step() {
        assert_eq!(LedgerBase::default().step(&earnings(&NodeStatus::default()), 0), None);
    }

    #[test]
    fn what_has_not_moved_is_left_out_until_its_refresh() {
        let mut band = DeadBand::default();
        let metrics = |mem: f64| object(json!({ "mem": mem, "up": 1 }));
        assert_eq!(band.pick(metrics(50.0)).len(), 2);
        assert_eq!(band.pick(metrics(51.0)).len(), 1);
        assert_eq!(band.pick(metrics(53.0)).len(), 2);
        let sent: Vec<bool> = (0..12).map(|_| band.pick(metrics(53.0)).contains_key("mem")).collect();
        assert_eq!(sent.iter().filter(|sent| **sent).count(), 1);
        assert!(sent[11]);
    }

    #[test]
    fn a_box_without_a_working_node_is_in_safe_mode() {
        assert_eq!(mode(None), Mode::Safe);
        assert_eq!(mode(Some(&node())), Mode::Run);
        assert_eq!(mode(Some(&NodeStatus { mode: "drain".into(), ..NodeStatus::default() })), Mode::Drain);
    }
}
