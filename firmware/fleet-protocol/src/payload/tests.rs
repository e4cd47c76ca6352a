use proptest::prelude::*;
use serde_json::json;

use super::*;

/// The examples printed in the contract.
const BIRTH: &str = r#"{"v":1,"on":true,"e":"9c1f02aa","b":37,"n":912,"t":1795327238123,"hb":60,"why":"boot","fw":"1.8.2","ring":"r1","mode":"run"}"#;
const WILL: &str = r#"{"v":1,"on":false,"e":"9c1f02aa","b":37,"n":912,"why":"will"}"#;
const EVENT: &str = r#"{"v":1,"e":"9c1f02aa","b":37,"n":912,"q":5512,"t":1795327238123,"u":864213,"tq":2,"id":"GPU-TEMP-HIGH","op":"raise","sev":"warn","inst":"gpu0","val":87,"lim":85,"cnt":1,"act":"throttle-1","ctx":{"streams":6}}"#;
const ACK: &str = r#"{"v":1,"e":"9c1f02aa","L":48211,"A":5512,"E":902,"srv":"main"}"#;

fn same(text: &str, value: impl Serialize) {
    let back: Value = serde_json::to_value(value).unwrap();
    assert_eq!(back, serde_json::from_str::<Value>(text).unwrap());
}

#[test]
fn the_examples_of_the_contract_are_read_and_written_back() {
    same(BIRTH, State::parse(BIRTH.as_bytes()).unwrap());
    same(WILL, State::parse(WILL.as_bytes()).unwrap());
    same(EVENT, Event::parse(EVENT.as_bytes()).unwrap());
    same(ACK, Ack::parse(ACK.as_bytes()).unwrap());
}

#[test]
fn an_unknown_field_is_ignored_and_an_unknown_metric_counted() {
    let text = json!({"v":1,"e":"9c1f02aa","b":1,"n":1,"q":1,"u":1,"future":{"x":1},"m":{"ok":90,"novel":1}});
    let (tele, unknown) = Tele::parse(Class::Heartbeat, text.to_string().as_bytes()).unwrap();
    assert_eq!(unknown, 1);
    assert_eq!(tele.m.len(), 1);
}

#[test]
fn a_metric_of_another_class_or_shape_is_refused() {
    let tele = |class, m: Value| {
        let text = json!({"v":1,"e":"9c1f02aa","b":1,"n":1,"q":1,"u":1,"m":m});
        Tele::parse(class, text.to_string().as_bytes())
    };
    assert!(tele(Class::Earnings, json!({"twv":"5"})).is_ok());
    assert!(matches!(tele(Class::Earnings, json!({"twv":5})), Err(PayloadError::Metric(key)) if key == "twv"));
    assert!(matches!(tele(Class::Heartbeat, json!({"twv":"5"})), Err(PayloadError::Metric(_))));
    assert!(matches!(tele(Class::Heartbeat, json!({"NOT A KEY":1})), Err(PayloadError::Metric(_))));
    assert!(matches!(tele(Class::Heartbeat, json!({})), Err(PayloadError::Range("m"))));
}

#[test]
fn fields_out_of_range_are_refused_by_name() {
    let state = |patch: Value| {
        let mut base: Value = serde_json::from_str(BIRTH).unwrap();
        for (key, value) in patch.as_object().unwrap() {
            base[key] = value.clone();
        }
        State::parse(base.to_string().as_bytes())
    };
    assert!(state(json!({"hb": 2})).is_ok());
    assert!(matches!(state(json!({"hb": 0})), Err(PayloadError::Range("hb"))));
    assert!(matches!(state(json!({"v": 2})), Err(PayloadError::Range("v"))));
    assert!(matches!(state(json!({"n": COUNTER_MAX + 1})), Err(PayloadError::Range("n"))));
    assert!(matches!(state(json!({"e": "xyz"})), Err(PayloadError::Shape(_))));
    assert!(matches!(state(json!({"b": -1})), Err(PayloadError::Shape(_))));
    assert!(matches!(state(json!({"why": "bored"})), Err(PayloadError::Shape(_))));
    let event = EVENT.replace("GPU-TEMP-HIGH", "gpu");
    assert!(matches!(Event::parse(event.as_bytes()), Err(PayloadError::Range("id"))));
    let event = EVENT.replace("\"q\":5512", "\"q\":5512,\"pq\":5512");
    assert!(matches!(Event::parse(event.as_bytes()), Err(PayloadError::Range("pq"))));
}

#[test]
fn a_controllers_window_is_clamped_because_it_is_only_a_hint() {
    let ctl = |w: u32| Ctl::parse(json!({"v":1,"on":true,"srv":"main","n":3,"w":w}).to_string().as_bytes()).unwrap().w;
    assert_eq!((ctl(0), ctl(60), ctl(999_999)), (Some(5), Some(60), Some(3600)));
}

#[test]
fn a_later_life_follows_an_earlier_one_only_inside_its_epoch() {
    let life = |e: &str, b, n| Life { e: Epoch::new(e).unwrap(), b, n };
    assert!(life("00000000", 2, 1).follows(&life("00000000", 1, 9)));
    assert!(!life("00000000", 1, 8).follows(&life("00000000", 1, 9)));
    assert!(!life("00000001", 9, 9).follows(&life("00000000", 1, 1)));
}

proptest! {
    #[test]
    fn an_event_survives_its_encoding(
        b in 0..COUNTER_MAX, n in 0..COUNTER_MAX, q in 1..COUNTER_MAX, u in 0..COUNTER_MAX,
        t in proptest::option::of(any::<i64>()), gap in proptest::option::of(1..1000u64), h in any::<bool>(),
        id in "[A-Z][A-Z0-9-]{2,23}", inst in proptest::option::of("[ -~]{0,32}"), val in proptest::option::of(any::<i64>()),
    ) {
        let event = Event {
            envelope: Envelope {
                v: 1,
                life: Life { e: Epoch::new("9c1f02aa").unwrap(), b, n },
                q,
                pq: gap.map(|gap| q.saturating_sub(gap)).filter(|pq| *pq < q),
                t, u, tq: Some(2), h: h.then_some(1),
            },
            body: EventBody { inst, val: val.map(Value::from), ..EventBody::new(&id, Op::Occur, Severity::Info) },
        };
        let bytes = serde_json::to_vec(&event).unwrap();
        prop_assert_eq!(Event::parse(&bytes).unwrap(), event);
    }

    #[test]
    fn no_bytes_make_a_parser_panic(text in "[\\[\\]{}\",:0-9a-z.-]{0,200}") {
        let bytes = text.as_bytes();
        let _ = (State::parse(bytes), Event::parse(bytes), Tele::parse(Class::Vitals, bytes), Info::parse(bytes), Ack::parse(bytes), Ctl::parse(bytes));
    }
}
