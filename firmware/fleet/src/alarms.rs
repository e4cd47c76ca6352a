//! Which alarms are open: a condition must hold for a while to raise one and be gone for a while to clear it. Events
//! over the hourly budget are folded into one digest; grave ones never are.

use std::collections::BTreeMap;
use std::time::Duration;

use fleet_protocol::event::{Op, Severity, id};
use fleet_protocol::payload::EventBody;
use serde_json::Value;

/// Events per hour that go out as they are.
const BUDGET: u32 = 60;
const HOUR: Duration = Duration::from_secs(3600);
/// Most alarms tracked at once; the identifiers come from a closed set, the instances from the node.
const OPEN_MAX: usize = 256;

/// A condition that is true now.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Finding {
    pub(crate) id: String,
    pub(crate) inst: Option<String>,
    pub(crate) sev: Severity,
    pub(crate) val: Option<Value>,
    pub(crate) lim: Option<Value>,
    /// It must hold this long before it counts.
    pub(crate) raise_after: Duration,
    /// It must be gone this long before it is over.
    pub(crate) clear_after: Duration,
}

#[derive(Debug)]
struct Alarm {
    finding: Finding,
    since: Duration,
    seen: Duration,
    raised: Option<Severity>,
}

/// The alarms of this box.
#[derive(Debug, Default)]
pub(crate) struct Alarms {
    known: BTreeMap<(String, Option<String>), Alarm>,
    hour: Duration,
    used: u32,
    folded: u64,
}

impl Alarms {
    /// Take the conditions that are true at `now`; the events to send.
    pub(crate) fn step(&mut self, findings: Vec<Finding>, now: Duration) -> Vec<EventBody> {
        let mut events = Vec::new();
        for finding in findings {
            let key = (finding.id.clone(), finding.inst.clone());
            if !self.known.contains_key(&key) && self.known.len() >= OPEN_MAX {
                continue;
            }
            let alarm = self.known.entry(key).or_insert(Alarm {
                finding: finding.clone(),
                since: now,
                seen: now,
                raised: None,
            });
            alarm.seen = now;
            alarm.finding = finding;
            let due = now.saturating_sub(alarm.since) >= alarm.finding.raise_after;
            // A raised alarm that grew worse is raised again with its new severity.
            if due && alarm.raised.is_none_or(|raised| alarm.finding.sev > raised) {
                alarm.raised = Some(alarm.finding.sev);
                events.push(body(&alarm.finding, Op::Raise, alarm.finding.sev));
            }
        }
        self.known.retain(|_, alarm| {
            let gone = now.saturating_sub(alarm.seen);
            let Some(raised) = alarm.raised else { return gone.is_zero() };
            if gone.is_zero() || gone < alarm.finding.clear_after {
                return true;
            }
            events.push(EventBody { val: None, lim: None, ..body(&alarm.finding, Op::Clear, raised) });
            false
        });
        self.budget(events, now)
    }

    /// The open alarms, gravest first.
    pub(crate) fn open(&self) -> Vec<(&str, Severity)> {
        let mut open: Vec<(&str, Severity)> = self
            .known
            .values()
            .filter_map(|alarm| alarm.raised.map(|severity| (alarm.finding.id.as_str(), severity)))
            .collect();
        open.sort_by_key(|(id, severity)| (std::cmp::Reverse(*severity), *id));
        open
    }

    fn budget(&mut self, events: Vec<EventBody>, now: Duration) -> Vec<EventBody> {
        let mut out = Vec::new();
        if now.saturating_sub(self.hour) >= HOUR {
            if self.folded > 0 {
                out.push(EventBody {
                    cnt: Some(self.folded),
                    ..EventBody::new(id::LOG_DIGEST, Op::Occur, Severity::Info)
                });
            }
            (self.hour, self.used, self.folded) = (now, 0, 0);
        }
        for event in events {
            if event.sev == Severity::Crit || self.used < BUDGET {
                self.used += u32::from(event.sev != Severity::Crit);
                out.push(event);
            } else {
                self.folded += 1;
            }
        }
        out
    }
}

fn body(finding: &Finding, op: Op, sev: Severity) -> EventBody {
    EventBody {
        inst: finding.inst.clone(),
        val: finding.val.clone(),
        lim: finding.lim.clone(),
        ..EventBody::new(&finding.id, op, sev)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(sev: Severity) -> Finding {
        Finding {
            id: id::NODE_DOWN.to_owned(),
            inst: None,
            sev,
            val: None,
            lim: None,
            raise_after: Duration::from_secs(30),
            clear_after: Duration::from_secs(10),
        }
    }

    fn secs(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    fn ops(events: &[EventBody]) -> Vec<(Op, Severity)> {
        events.iter().map(|event| (event.op, event.sev)).collect()
    }

    #[test]
    fn an_alarm_is_raised_once_after_its_time_and_cleared_after_its_time() {
        let mut alarms = Alarms::default();
        assert!(alarms.step(vec![finding(Severity::Err)], secs(0)).is_empty());
        assert!(alarms.step(vec![finding(Severity::Err)], secs(29)).is_empty());
        assert_eq!(ops(&alarms.step(vec![finding(Severity::Err)], secs(30))), [(Op::Raise, Severity::Err)]);
        assert!(alarms.step(vec![finding(Severity::Err)], secs(31)).is_empty());
        assert_eq!(alarms.open(), [(id::NODE_DOWN, Severity::Err)]);
        assert!(alarms.step(vec![], secs(40)).is_empty());
        assert_eq!(ops(&alarms.step(vec![], secs(41))), [(Op::Clear, Severity::Err)]);
        assert!(alarms.open().is_empty());
    }

    #[test]
    fn a_condition_that_comes_and_goes_raises_nothing() {
        let mut alarms = Alarms::default();
        for at in (0..300).step_by(20) {
            assert!(alarms.step(vec![finding(Severity::Err)], secs(at)).is_empty());
            assert!(alarms.step(vec![], secs(at + 10)).is_empty());
        }
    }

    #[test]
    fn an_alarm_that_grows_worse_is_raised_again() {
        let mut alarms = Alarms::default();
        alarms.step(vec![finding(Severity::Warn)], secs(0));
        alarms.step(vec![finding(Severity::Warn)], secs(30));
        assert_eq!(ops(&alarms.step(vec![finding(Severity::Crit)], secs(31))), [(Op::Raise, Severity::Crit)]);
        assert!(alarms.step(vec![finding(Severity::Warn)], secs(32)).is_empty());
    }

    #[test]
    fn events_over_the_budget_are_folded_and_grave_ones_never() {
        let mut alarms = Alarms::default();
        let at_once = |i: u64, sev| Finding { inst: Some(format!("{i}")), raise_after: secs(0), ..finding(sev) };
        let many: Vec<Finding> = (0..100).map(|i| at_once(i, Severity::Warn)).collect();
        assert_eq!(alarms.step(many.clone(), secs(1)).len(), 60);
        let mut more = many;
        more.push(at_once(200, Severity::Crit));
        assert_eq!(ops(&alarms.step(more, secs(2))), [(Op::Raise, Severity::Crit)]);
        let digest = alarms.step(vec![], secs(3601));
        assert_eq!((digest[0].id.as_str(), digest[0].cnt), (id::LOG_DIGEST, Some(40)));
    }
}
