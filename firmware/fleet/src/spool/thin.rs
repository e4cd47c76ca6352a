//! What a full class gives up, as pure functions over its records.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::Record;

/// Tag of an event of severity info.
pub(super) const INFO: u8 = 0;
/// Tag of an event of severity warn.
pub(super) const WARN: u8 = 1;
/// One cumulative snapshot is kept per this time.
const SNAPSHOT_MS: u64 = 6 * 3600 * 1000;

/// Cumulative snapshots: all but the first, the last and one per six hours.
pub(super) fn cumulative(records: &[Record]) -> BTreeSet<u64> {
    let mut gone = BTreeSet::new();
    let mut kept: Option<(Value, u64)> = None;
    for (index, record) in records.iter().enumerate() {
        let body: Value = serde_json::from_slice(&record.body).unwrap_or(Value::Null);
        let boot = body.get("b").cloned().unwrap_or(Value::Null);
        let up = body.get("u").and_then(Value::as_u64).unwrap_or(0);
        let last = index + 1 == records.len();
        match &kept {
            // Time since boot is comparable inside one boot only; a new boot is kept.
            Some((same, at)) if *same == boot && up.saturating_sub(*at) < SNAPSHOT_MS && !last => {
                gone.insert(record.q);
            }
            _ => kept = Some((boot, up)),
        }
    }
    gone
}

/// Pairs of raise and clear of the same alarm at this severity; also things that only occurred, when it is info.
pub(super) fn pairs(records: &[Record], tag: u8) -> BTreeSet<u64> {
    let mut gone = BTreeSet::new();
    let mut raised: BTreeMap<(String, String), u64> = BTreeMap::new();
    for record in records.iter().filter(|record| record.tag == tag) {
        let body: Value = serde_json::from_slice(&record.body).unwrap_or(Value::Null);
        let text = |key: &str| {
            body.get("body").and_then(|body| body.get(key)).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let alarm = (text("id"), text("inst"));
        match text("op").as_str() {
            "raise" => {
                raised.insert(alarm, record.q);
            }
            "clear" => {
                if let Some(raise) = raised.remove(&alarm) {
                    gone.extend([raise, record.q]);
                }
            }
            _ if tag == INFO => {
                gone.insert(record.q);
            }
            _ => {}
        }
    }
    gone
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(q: u64, tag: u8, op: &str, inst: &str) -> Record {
        let body = json!({"body": {"id": "STR-SLOW", "op": op, "inst": inst}});
        Record { q, tag, body: body.to_string().into_bytes() }
    }

    #[test]
    fn a_closed_alarm_of_the_severity_goes_and_an_open_one_stays() {
        let records = [
            event(1, WARN, "raise", "a"),
            event(2, WARN, "raise", "b"),
            event(3, WARN, "clear", "a"),
            event(4, 2, "raise", "c"),
            event(5, 2, "clear", "c"),
        ];
        assert_eq!(pairs(&records, WARN), BTreeSet::from([1, 3]));
        assert_eq!(pairs(&records, INFO), BTreeSet::new());
    }

    #[test]
    fn snapshots_keep_the_first_the_last_and_one_per_six_hours() {
        let hour = 3600 * 1000;
        let records: Vec<Record> = (0..14)
            .map(|i| Record { q: i + 1, tag: 0, body: json!({"b": 1, "u": i * hour}).to_string().into_bytes() })
            .collect();
        let kept: Vec<u64> =
            records.iter().map(|record| record.q).filter(|q| !cumulative(&records).contains(q)).collect();
        assert_eq!(kept, [1, 7, 13, 14]);
    }
}
