//! Walk 3, step 2: what is wrong, as a pure function of what was seen.

use std::time::Duration;

use fleet_protocol::event::{Severity, id, is_event_id};
use serde_json::{Value, json};
use service::status::NodeStatus;

use crate::alarms::Finding;
use crate::collect::Sample;
use crate::config::Limits;

/// What one round of the collector saw.
#[derive(Debug, Clone)]
pub(crate) struct Seen<'a> {
    pub(crate) sample: &'a Sample,
    /// The node's answer, `None` when it gave none.
    pub(crate) node: Option<&'a NodeStatus>,
    /// Time since a ticket came or no session ran.
    pub(crate) without_ticket: Duration,
    /// Segments of the last quarter of an hour: ok, failed.
    pub(crate) recent_segments: (u64, u64),
    /// Clock quality.
    pub(crate) tq: u8,
    /// Fill of the spool and of its ledger class, percent.
    pub(crate) spool_percent: u64,
    pub(crate) ledger_percent: u64,
}

/// What it amounts to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct HealthReport {
    /// 0 to 100.
    pub(crate) score: u32,
    /// What is wrong.
    pub(crate) findings: Vec<Finding>,
}

/// Judge one round.
pub(crate) fn assess(seen: &Seen<'_>, limits: &Limits) -> HealthReport {
    let mut findings = Vec::new();
    let mut found = |condition: bool, id: &str, sev: Severity, val: Value, lim: Value, raise: u64, clear: u64| {
        if condition {
            findings.push(Finding {
                id: id.to_owned(),
                inst: None,
                sev,
                val: (!val.is_null()).then_some(val),
                lim: (!lim.is_null()).then_some(lim),
                raise_after: Duration::from_secs(raise),
                clear_after: Duration::from_secs(clear),
            });
        }
    };
    let Limits { node_silent_s, chain_silent_s, no_ticket_s, cpu_celsius, disk_percent, ref gas_low_wei } = *limits;
    use Severity::{Crit, Err, Warn};

    found(seen.node.is_none(), id::NODE_DOWN, Err, Value::Null, json!(node_silent_s), node_silent_s.into(), 0);
    if let Some(node) = seen.node {
        let busy = node.sessions.active > 0;
        let slow = node.segments.realtime_ratio_p05;
        found(busy && slow > 0.0 && slow < 1.0, id::STREAM_SLOW, Err, json!(slow), json!(1), 300, 60);
        let (ok, failed) = seen.recent_segments;
        let many = failed * 50 > ok + failed;
        found(many && failed >= 3, id::STREAM_FAIL, Err, json!(failed), json!(ok + failed), 0, 300);
        if let Some(chain) = &node.chain {
            let age = chain.poll_age_s;
            found(age > chain_silent_s.into(), id::RPC_DOWN, Err, json!(age), json!(chain_silent_s), 0, 30);
            let waited = seen.without_ticket.as_secs();
            found(busy && waited >= no_ticket_s.into(), id::EARN_NONE, Err, json!(waited), json!(no_ticket_s), 0, 0);
            let low: u128 = gas_low_wei.parse().unwrap_or(0);
            let balance: Option<u128> = chain.hot_balance_wei.parse().ok();
            if let Some(balance) = balance {
                let sev = if balance < low / 4 { Crit } else { Err };
                found(balance < low, id::GAS_LOW, sev, json!(chain.hot_balance_wei), json!(gas_low_wei), 0, 60);
            }
        }
    }
    // A node that looks at the hardware has its own limits, and tells of them below.
    let node_looks = seen.node.is_some_and(|node| node.hardware.is_some());
    if let Some(celsius) = seen.sample.celsius.filter(|_| !node_looks) {
        let sev = if celsius >= f64::from(cpu_celsius) + 10.0 { Err } else { Warn };
        found(celsius >= f64::from(cpu_celsius), id::CPU_TEMP_HIGH, sev, json!(celsius), json!(cpu_celsius), 60, 300);
    }
    if let Some(percent) = seen.sample.disk_percent {
        found(percent > f64::from(disk_percent), id::DISK_FULL, Err, json!(percent), json!(disk_percent), 0, 60);
    }
    found(seen.sample.read_only == Some(true), id::FS_RO, Crit, Value::Null, Value::Null, 0, 0);
    found(seen.tq == 0, id::CLOCK_UNSYNC, Warn, json!(seen.tq), Value::Null, 600, 0);
    let (spool, ledger) = (seen.spool_percent, seen.ledger_percent);
    let sev = if ledger >= 80 { Crit } else { Warn };
    found(spool >= 70 || ledger >= 80, id::SPOOL_HIGH, sev, json!(spool), json!(70), 0, 60);
    if let Some(node) = seen.node {
        findings.extend(node.alarms.iter().filter_map(of_node));
    }
    HealthReport { score: score(&findings), findings }
}

/// An alarm the node raised itself: it has done its own waiting.
fn of_node(alarm: &service::status::Alarm) -> Option<Finding> {
    let sev = Severity::parse(&alarm.severity)?;
    is_event_id(&alarm.id).then(|| Finding {
        id: alarm.id.clone(),
        inst: (!alarm.instance.is_empty()).then(|| alarm.instance.chars().filter(char::is_ascii).take(32).collect()),
        sev,
        val: None,
        lim: None,
        raise_after: Duration::ZERO,
        clear_after: Duration::ZERO,
    })
}

fn score(findings: &[Finding]) -> u32 {
    let cost: u32 = findings
        .iter()
        .map(|finding| match finding.sev {
            Severity::Crit => 40,
            Severity::Err => 20,
            Severity::Warn => 5,
            Severity::Info => 0,
        })
        .fold(0, u32::saturating_add);
    100u32.saturating_sub(cost)
}

#[cfg(test)]
mod tests {
    use service::status::{Alarm, Chain};

    use super::*;

    fn assess_with(change: impl Fn(&mut Sample, &mut NodeStatus, &mut Seen<'_>)) -> Vec<(String, Severity)> {
        let (mut sample, mut node) = (Sample::default(), NodeStatus::default());
        let (empty, none) = (Sample::default(), NodeStatus::default());
        let mut seen = Seen {
            sample: &empty,
            node: Some(&none),
            without_ticket: Duration::ZERO,
            recent_segments: (0, 0),
            tq: 2,
            spool_percent: 0,
            ledger_percent: 0,
        };
        change(&mut sample, &mut node, &mut seen);
        let node = seen.node.is_some().then_some(&node);
        let seen = Seen { sample: &sample, node, ..seen };
        assess(&seen, &Limits::default()).findings.into_iter().map(|f| (f.id, f.sev)).collect()
    }

    #[test]
    fn a_quiet_box_has_no_finding_and_a_full_score() {
        assert!(assess_with(|_, _, _| {}).is_empty());
        assert_eq!(score(&[]), 100);
    }

    #[test]
    fn a_silent_node_is_itself_a_finding() {
        assert_eq!(assess_with(|_, _, seen| seen.node = None), [(id::NODE_DOWN.to_owned(), Severity::Err)]);
    }

    #[test]
    fn an_unread_chain_and_an_empty_wallet_are_found_and_an_unknown_balance_is_not() {
        let chain = |age, balance: &str| {
            let balance = balance.to_owned();
            assess_with(move |_, node, _| {
                node.chain = Some(Chain { poll_age_s: age, hot_balance_wei: balance.clone(), ..Chain::default() });
            })
        };
        assert_eq!(chain(121, "10000000000000000"), [(id::RPC_DOWN.to_owned(), Severity::Err)]);
        assert_eq!(chain(0, "9999999999999999"), [(id::GAS_LOW.to_owned(), Severity::Err)]);
        assert_eq!(chain(0, "0"), [(id::GAS_LOW.to_owned(), Severity::Crit)]);
        assert_eq!(chain(0, ""), []);
    }

    #[test]
    fn work_that_earns_nothing_or_loses_time_is_found_only_while_there_is_work() {
        let with = |active, ratio| {
            assess_with(move |_, node, seen| {
                node.sessions.active = active;
                node.segments.realtime_ratio_p05 = ratio;
                node.chain = Some(Chain { hot_balance_wei: "1000000000000000000".into(), ..Chain::default() });
                seen.without_ticket = Duration::from_secs(21_600);
            })
        };
        assert_eq!(with(0, 0.5), []);
        let ids: Vec<String> = with(1, 0.5).into_iter().map(|(id, _)| id).collect();
        assert_eq!(ids, [id::STREAM_SLOW, id::EARN_NONE]);
    }

    #[test]
    fn heat_disk_and_spool_grow_grave_by_degree() {
        let found = assess_with(|sample, _, seen| {
            sample.celsius = Some(95.0);
            sample.disk_percent = Some(90.5);
            sample.read_only = Some(true);
            seen.ledger_percent = 80;
        });
        use Severity::{Crit, Err};
        let expected = [(id::CPU_TEMP_HIGH, Err), (id::DISK_FULL, Err), (id::FS_RO, Crit), (id::SPOOL_HIGH, Crit)];
        assert_eq!(found, expected.map(|(id, sev)| (id.to_owned(), sev)));
    }

    #[test]
    fn heat_is_told_once_by_the_node_while_it_looks() {
        let found = assess_with(|sample, node, _| {
            sample.celsius = Some(95.0);
            node.hardware = Some(service::status::Hardware::default());
            node.alarms = vec![Alarm { id: "CPU-TEMP-HIGH".into(), severity: "warn".into(), ..Alarm::default() }];
        });
        assert_eq!(found, [(id::CPU_TEMP_HIGH.to_owned(), Severity::Warn)]);
    }

    #[test]
    fn the_nodes_own_alarms_pass_only_with_a_known_shape() {
        let found = assess_with(|_, node, _| {
            let alarm =
                |id: &str, severity: &str| Alarm { id: id.into(), severity: severity.into(), ..Alarm::default() };
            node.alarms = vec![alarm("TKT-REDEEM-FAIL", "crit"), alarm("lower", "crit"), alarm("GAS-LOW", "loud")];
        });
        assert_eq!(found, [("TKT-REDEEM-FAIL".to_owned(), Severity::Crit)]);
    }
}
