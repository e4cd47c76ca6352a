//! The metrics of the fleet as one table: number, key, class, unit, dead-band and shape.
//!
//! Keys are at most six characters, unique over all classes and never reused. A metric that is left out of a message
//! has not moved by more than its band since it was last sent; it comes again after [`REFRESH_PERIODS`] at the latest.

use serde_json::Value;

/// A metric still inside its band is sent again after this many periods.
pub const REFRESH_PERIODS: u32 = 12;
/// Most metrics in one message.
pub const METRICS_MAX: usize = 64;
/// Most elements in one array metric.
pub const ARRAY_MAX: usize = 16;

/// Class of telemetry: the last level of `…/tele/<class>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Heartbeat.
    Heartbeat,
    /// Vitals of the machine.
    Vitals,
    /// Streams and work.
    Streams,
    /// Cumulative earnings, durable.
    Earnings,
    /// Steps of the ledger, durable.
    Ledger,
}

impl Class {
    /// Every class.
    pub const ALL: [Class; 5] = [Class::Heartbeat, Class::Vitals, Class::Streams, Class::Earnings, Class::Ledger];

    /// The topic level.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Class::Heartbeat => "hb",
            Class::Vitals => "vit",
            Class::Streams => "str",
            Class::Earnings => "earn",
            Class::Ledger => "led",
        }
    }

    /// The class of a topic level.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.key() == text)
    }
}

/// How far a metric must move before it is worth sending.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Band {
    /// Sent in every message of its class.
    Always,
    /// Sent on any change.
    Change,
    /// Sent when it moved by at least this much, in the metric's unit.
    Abs(f64),
    /// Sent when it moved by at least this share of what was last sent.
    Share(f64),
}

/// What a value looks like in JSON; `null` stands for "not known" everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A number.
    Number,
    /// Text.
    Text,
    /// A decimal string of wei.
    Wei,
    /// An array of numbers.
    Numbers,
    /// An array of texts.
    Texts,
    /// An array of numbers, texts and arrays of them.
    Mixed,
}

/// One row of the registry.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Metric {
    /// Number, the key of the compact encoding.
    pub id: u16,
    /// Key in JSON.
    pub key: &'static str,
    /// Its home class.
    pub class: Class,
    /// Unit, empty for a plain count or text.
    pub unit: &'static str,
    /// Dead-band.
    pub band: Band,
    /// Shape.
    pub shape: Shape,
}

const fn row(id: u16, key: &'static str, class: Class, unit: &'static str, band: Band, shape: Shape) -> Metric {
    Metric { id, key, class, unit, band, shape }
}

use Band::{Abs, Always, Change, Share};
use Class::{Earnings, Heartbeat, Ledger, Streams, Vitals};
use Shape::{Mixed, Number, Numbers, Text, Texts, Wei};

/// Every metric this version knows, by number.
pub const METRICS: &[Metric] = &[
    row(1, "ok", Heartbeat, "score 0-100", Always, Number),
    row(2, "al", Heartbeat, "", Always, Texts),
    row(3, "alc", Heartbeat, "", Always, Number),
    row(3, "ale", Heartbeat, "", Always, Number),
    row(3, "alw", Heartbeat, "", Always, Number),
    row(4, "md", Heartbeat, "", Always, Text),
    row(5, "ss", Heartbeat, "sessions", Always, Number),
    row(6, "sc", Heartbeat, "sessions", Always, Number),
    row(7, "pa", Heartbeat, "s", Always, Number),
    row(8, "lt", Heartbeat, "ticks", Always, Number),
    row(9, "sp", Heartbeat, "%", Always, Number),
    row(10, "ca", Heartbeat, "s", Always, Number),
    row(20, "cpu", Vitals, "%", Abs(5.0), Numbers),
    row(21, "l1", Vitals, "", Abs(0.5), Number),
    row(22, "mem", Vitals, "%", Abs(3.0), Number),
    row(23, "memp", Vitals, "%", Abs(2.0), Number),
    row(24, "iop", Vitals, "%", Abs(2.0), Number),
    row(25, "swp", Vitals, "%", Abs(5.0), Number),
    row(26, "oom", Vitals, "", Change, Number),
    row(27, "tc", Vitals, "°C", Abs(2.0), Number),
    row(28, "tb", Vitals, "°C", Abs(3.0), Number),
    row(29, "ti", Vitals, "°C", Abs(2.0), Number),
    row(30, "fan", Vitals, "rpm", Abs(200.0), Numbers),
    row(31, "pw", Vitals, "W", Abs(5.0), Number),
    row(32, "kwh", Vitals, "kWh", Abs(0.1), Number),
    row(33, "vin", Vitals, "V", Abs(0.3), Number),
    row(34, "thr", Vitals, "bits", Change, Number),
    row(35, "up", Vitals, "s", Always, Number),
    row(36, "rb", Vitals, "", Change, Text),
    row(37, "kt", Vitals, "", Change, Number),
    row(38, "pcie", Vitals, "", Change, Text),
    row(39, "aer", Vitals, "", Change, Number),
    row(50, "gu", Vitals, "%", Abs(5.0), Numbers),
    row(51, "ge", Vitals, "%", Abs(5.0), Numbers),
    row(52, "gd", Vitals, "%", Abs(5.0), Numbers),
    row(53, "gm", Vitals, "%", Abs(3.0), Numbers),
    row(54, "gt", Vitals, "°C", Abs(2.0), Numbers),
    row(55, "gth", Vitals, "°C", Abs(2.0), Numbers),
    row(56, "gp", Vitals, "W", Abs(5.0), Numbers),
    row(57, "gpl", Vitals, "W", Change, Numbers),
    row(58, "gc", Vitals, "MHz", Abs(60.0), Numbers),
    row(59, "gmc", Vitals, "MHz", Abs(60.0), Numbers),
    row(60, "gthr", Vitals, "", Change, Numbers),
    row(61, "xid", Vitals, "", Change, Numbers),
    row(62, "ecc", Vitals, "", Change, Numbers),
    row(63, "rpg", Vitals, "", Change, Numbers),
    row(64, "es", Vitals, "", Change, Numbers),
    row(65, "esm", Vitals, "", Change, Numbers),
    row(67, "gfo", Vitals, "", Change, Numbers),
    row(82, "sin", Streams, "sessions", Change, Number),
    row(83, "sdn", Streams, "sessions", Change, Number),
    row(84, "srj", Streams, "sessions", Change, Mixed),
    row(85, "sg", Streams, "segments", Change, Number),
    row(86, "sf", Streams, "segments", Change, Mixed),
    row(87, "srt", Streams, "segments", Change, Number),
    row(88, "px", Streams, "Mpx", Change, Number),
    row(89, "fps", Streams, "frames/s", Share(0.05), Number),
    row(90, "by", Streams, "bytes", Change, Numbers),
    row(100, "rtr", Streams, "ratio", Abs(0.05), Numbers),
    row(101, "lat", Streams, "ms", Share(0.1), Numbers),
    row(102, "ttf", Streams, "ms", Share(0.1), Number),
    row(103, "slow", Streams, "%", Abs(0.5), Number),
    row(104, "vq", Streams, "score", Abs(1.0), Number),
    row(105, "swa", Streams, "", Change, Number),
    row(106, "scr", Streams, "score", Abs(0.02), Number),
    row(107, "vfy", Streams, "", Change, Number),
    row(120, "tr", Earnings, "tickets", Always, Number),
    row(121, "tv", Earnings, "wei", Always, Wei),
    row(122, "tw", Earnings, "tickets", Always, Number),
    row(123, "twv", Earnings, "wei", Always, Wei),
    row(124, "rd", Earnings, "tickets", Always, Number),
    row(125, "rdv", Earnings, "wei", Always, Wei),
    row(126, "rf", Earnings, "tickets", Always, Number),
    row(127, "pd", Earnings, "tickets", Always, Number),
    row(128, "pdv", Earnings, "wei", Always, Wei),
    row(129, "pdx", Earnings, "rounds", Change, Number),
    row(130, "pre", Earnings, "", Change, Mixed),
    row(131, "eth", Earnings, "wei", Always, Wei),
    row(132, "rwy", Earnings, "redemptions", Change, Number),
    row(133, "fees", Earnings, "wei", Change, Wei),
    row(134, "stk", Earnings, "wei", Change, Wei),
    row(135, "act", Earnings, "0/1", Change, Number),
    row(136, "rk", Earnings, "", Change, Number),
    row(137, "rnd", Earnings, "round", Always, Number),
    row(138, "rin", Earnings, "0/1", Change, Number),
    row(139, "rwd", Earnings, "0/1", Change, Number),
    row(140, "rwf", Earnings, "", Change, Number),
    row(141, "cut", Earnings, "", Change, Mixed),
    row(142, "ppu", Earnings, "", Change, Text),
    row(143, "gas", Earnings, "wei", Change, Mixed),
    row(144, "rpc", Earnings, "", Change, Mixed),
    row(145, "dep", Earnings, "", Change, Mixed),
    row(146, "wd", Earnings, "", Change, Mixed),
    // A ledger step is `[old, new]` of the counters above, at this block.
    row(147, "blk", Ledger, "L1 block", Always, Number),
    row(148, "stp", Ledger, "steps", Always, Mixed),
];

/// The metric of a key.
#[must_use]
pub fn metric(key: &str) -> Option<&'static Metric> {
    METRICS.iter().find(|metric| metric.key == key)
}

/// Whether a metric may stand in a message of `class`: its own, and the few that are repeated elsewhere.
#[must_use]
pub fn belongs(metric: &Metric, class: Class) -> bool {
    metric.class == class
        || match class {
            Class::Streams => matches!(metric.key, "ss" | "sc"),
            Class::Ledger => metric.key == "rnd",
            Class::Heartbeat | Class::Vitals | Class::Earnings => false,
        }
}

/// Whether a JSON value has the metric's shape.
#[must_use]
pub fn fits(metric: &Metric, value: &Value) -> bool {
    let number = |v: &Value| v.is_number() || v.is_null();
    let text = |v: &Value| v.is_string() || v.is_null();
    let list = |v: &Value, of: &dyn Fn(&Value) -> bool| {
        v.as_array().is_some_and(|list| list.len() <= ARRAY_MAX && list.iter().all(of))
    };
    if value.is_null() {
        return true;
    }
    match metric.shape {
        Shape::Number => value.is_number(),
        Shape::Text => value.is_string(),
        Shape::Wei => value.as_str().is_some_and(is_wei),
        Shape::Numbers => list(value, &number) || value.is_number(),
        Shape::Texts => list(value, &text),
        Shape::Mixed => {
            list(value, &|v| number(v) || text(v) || list(v, &|inner| number(inner) || text(inner)))
                || value.is_number()
        }
    }
}

/// A decimal amount of wei: digits only, no sign, no leading zero, at most 2²⁵⁶ − 1 in length.
#[must_use]
pub fn is_wei(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 78
        && text.bytes().all(|b| b.is_ascii_digit())
        && (text.len() == 1 || !text.starts_with('0'))
}

/// Whether `new` is worth sending when `old` was the last value sent.
#[must_use]
pub fn moved(metric: &Metric, old: &Value, new: &Value) -> bool {
    match metric.band {
        Band::Always => true,
        Band::Change => old != new,
        Band::Abs(band) => beyond(old, new, &|was, is| (is - was).abs() >= band),
        Band::Share(share) => beyond(old, new, &|was, is| (is - was).abs() >= share * was.abs().max(f64::MIN_POSITIVE)),
    }
}

fn beyond(old: &Value, new: &Value, far: &dyn Fn(f64, f64) -> bool) -> bool {
    match (old, new) {
        (Value::Array(old), Value::Array(new)) => {
            old.len() != new.len() || old.iter().zip(new).any(|(old, new)| beyond(old, new, far))
        }
        _ => match (old.as_f64(), new.as_f64()) {
            (Some(was), Some(is)) => far(was, is),
            _ => old != new,
        },
    }
}

/// Name of this table: first 16 hex digits of the SHA-256 of its numbers and keys, sent at birth.
#[must_use]
pub fn registry_hash() -> String {
    use sha2::{Digest, Sha256};
    let mut hash = Sha256::new();
    for metric in METRICS {
        hash.update(format!("{}={};", metric.id, metric.key));
    }
    hex::encode(hash.finalize().get(..8).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;

    #[test]
    fn keys_are_short_unique_and_in_order_of_their_numbers() {
        let mut seen = BTreeSet::new();
        for pair in METRICS.windows(2) {
            assert!(pair[0].id <= pair[1].id, "{} before {}", pair[0].key, pair[1].key);
        }
        for metric in METRICS {
            assert!(seen.insert(metric.key), "{} twice", metric.key);
            assert!((1..=6).contains(&metric.key.len()) && metric.key.starts_with(|c: char| c.is_ascii_lowercase()));
        }
    }

    #[test]
    fn money_is_a_string_of_digits_and_never_a_number() {
        let twv = metric("twv").unwrap();
        assert!(fits(twv, &json!("340282366920938463463374607431768211456")));
        for bad in [json!(1), json!("1.5"), json!("-1"), json!("0x10"), json!("01"), json!("")] {
            assert!(!fits(twv, &bad), "{bad}");
        }
    }

    #[test]
    fn a_value_inside_its_band_is_not_sent_again() {
        let temperature = metric("tc").unwrap();
        assert!(!moved(temperature, &json!(60.0), &json!(61.9)));
        assert!(moved(temperature, &json!(60.0), &json!(62.0)));
        assert!(moved(temperature, &json!(null), &json!(60)));
        let ratio = metric("rtr").unwrap();
        assert!(!moved(ratio, &json!([3.0, 2.0]), &json!([3.01, 2.0])));
        assert!(moved(ratio, &json!([3.0, 2.0]), &json!([3.0, 1.9])));
        assert!(!moved(metric("sg").unwrap(), &json!(5), &json!(5)));
        assert!(moved(metric("up").unwrap(), &json!(5), &json!(5)));
    }

    #[test]
    fn a_metric_belongs_to_its_class_and_sessions_also_to_streams() {
        assert!(belongs(metric("ss").unwrap(), Class::Streams));
        assert!(!belongs(metric("cpu").unwrap(), Class::Streams));
        assert!(!belongs(metric("twv").unwrap(), Class::Heartbeat));
    }
}
