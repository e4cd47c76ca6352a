use fleet_protocol::payload::Event;
use fleet_protocol::{Epoch, payload};
use serde_json::json;

use super::*;
use crate::spool::Caps;

fn life(n: u64) -> Life {
    Life { e: Epoch::new("9c1f02aa").unwrap(), b: 3, n }
}

fn outbox(dir: &std::path::Path) -> Outbox {
    let caps = Caps { ledger: 1 << 20, events: 1 << 20, earnings: 1 << 20 };
    let (spool, _) = Spool::open(dir, caps).unwrap();
    let box_id = BoxId::new("box-7f3a9c2e41d05b68").unwrap();
    Outbox::new(
        FleetId::new("acme").unwrap(),
        box_id,
        spool,
        Expiry { heartbeat_s: 120, vitals_s: 600, streams_s: 600 },
    )
}

fn event(severity: Severity) -> Item {
    item(Content::Event(EventBody::new("NODE-DOWN", Op::Occur, severity)))
}

fn earnings(n: u64) -> Item {
    item(Content::Earnings(json!({"tr": n}).as_object().unwrap().clone()))
}

fn item(content: Content) -> Item {
    Item { stamp: Stamp { t: None, u: 5, tq: 0 }, content }
}

fn drain(outbox: &mut Outbox) -> Vec<(Durable, u64)> {
    std::iter::from_fn(|| outbox.next_durable(&life(9), false).unwrap()).filter_map(|out| out.record).collect()
}

fn ack(events: u64, earnings: u64) -> Ack {
    Ack {
        v: 1,
        e: Epoch::new("9c1f02aa").unwrap(),
        ledger: None,
        events: Some(events),
        earnings: Some(earnings),
        srv: "main".into(),
    }
}

#[test]
fn grave_events_go_first_and_nothing_goes_twice_on_one_connection() {
    let dir = tempfile::tempdir().unwrap();
    let mut outbox = outbox(dir.path());
    let now = Instant::now();
    for item in [
        earnings(1),
        event(Severity::Info),
        event(Severity::Crit),
        event(Severity::Warn),
        item(Content::Ledger(json!({"blk": 1}).as_object().unwrap().clone())),
    ] {
        outbox.take(3, item, now);
    }
    use Durable::{Earnings, Events, Ledger};
    assert_eq!(drain(&mut outbox), [(Events, 2), (Ledger, 1), (Events, 1), (Events, 3), (Earnings, 1)]);
    assert_eq!(drain(&mut outbox), []);
    outbox.take(3, event(Severity::Crit), now);
    assert_eq!(drain(&mut outbox), [(Events, 4)]);
}

#[test]
fn a_new_connection_sends_all_that_is_unacknowledged_again_as_history() {
    let dir = tempfile::tempdir().unwrap();
    let mut outbox = outbox(dir.path());
    let now = Instant::now();
    for _ in 0..3 {
        outbox.take(3, event(Severity::Warn), now);
    }
    drain(&mut outbox);
    outbox.acknowledge(&ack(1, 0));
    assert_eq!(outbox.unacknowledged(), (true, 1));
    outbox.born();
    outbox.take(3, event(Severity::Warn), now);
    let sent: Vec<Event> = std::iter::from_fn(|| outbox.next_durable(&life(10), false).unwrap())
        .map(|out| payload::Event::parse(&out.payload).unwrap())
        .collect();
    let seen: Vec<(u64, Option<u8>)> = sent.iter().map(|event| (event.envelope.q, event.envelope.h)).collect();
    assert_eq!(seen, [(2, Some(1)), (3, Some(1)), (4, None)]);
    assert!(sent.iter().all(|event| event.envelope.life.n == 10 && event.envelope.life.b == 3));
}

#[test]
fn while_nobody_listens_only_grave_events_and_heartbeats_go() {
    let dir = tempfile::tempdir().unwrap();
    let mut outbox = outbox(dir.path());
    let now = Instant::now();
    let live = |class, m: Value| item(Content::Live(class, m.as_object().unwrap().clone()));
    for item in [
        event(Severity::Err),
        event(Severity::Crit),
        live(Class::Vitals, json!({"up": 1})),
        live(Class::Heartbeat, json!({"ok": 1})),
    ] {
        outbox.take(3, item, now);
    }
    assert!(outbox.next_durable(&life(9), true).unwrap().unwrap().topic.ends_with("event/crit"));
    assert!(outbox.next_durable(&life(9), true).unwrap().is_none());
    assert!(outbox.next_live(&life(9), true).unwrap().topic.ends_with("tele/hb"));
    assert!(outbox.next_live(&life(9), true).is_none());
    assert_eq!(drain(&mut outbox), [(Durable::Events, 1)]);
    assert!(outbox.next_live(&life(9), false).unwrap().topic.ends_with("tele/vit"));
}

#[test]
fn live_telemetry_keeps_only_the_latest_and_counts_what_it_sent() {
    let dir = tempfile::tempdir().unwrap();
    let mut outbox = outbox(dir.path());
    let now = Instant::now();
    for ok in [1, 2] {
        let m = json!({"ok": ok}).as_object().unwrap().clone();
        outbox.take(3, item(Content::Live(Class::Heartbeat, m)), now);
    }
    let sent = outbox.next_live(&life(9), false).unwrap();
    let (tele, unknown) = Tele::parse(Class::Heartbeat, &sent.payload).unwrap();
    assert_eq!((tele.m["ok"].as_u64(), tele.envelope.q, unknown, sent.expiry), (Some(2), 1, 0, Some(120)));
    assert!(outbox.next_live(&life(9), false).is_none());
}

#[test]
fn the_newest_ledger_step_survives_its_acknowledgement() {
    let dir = tempfile::tempdir().unwrap();
    let mut outbox = outbox(dir.path());
    let m = json!({"blk": 7, "stp": [["tw", 0, 1]]}).as_object().unwrap().clone();
    outbox.take(3, item(Content::Ledger(m.clone())), Instant::now());
    outbox.acknowledge(&Ack { ledger: Some(1), ..ack(0, 0) });
    assert_eq!(drain(&mut outbox), []);
    assert_eq!(outbox.newest_ledger(), Some(m));
}

#[test]
fn two_steps_that_waited_for_the_disk_become_one_without_losing_either() {
    let step = |old: u64, new: u64, block: u64| {
        json!({"blk": block, "stp": [["tw", old, new], ["twv", old.to_string(), new.to_string()]]})
            .as_object()
            .unwrap()
            .clone()
    };
    let mut first = step(1, 2, 10);
    fold_step(&mut first, &step(2, 5, 11));
    assert_eq!(first, step(1, 5, 11));
}

#[test]
fn what_the_disk_refused_is_held_and_stored_when_it_recovers() {
    let dir = tempfile::tempdir().unwrap();
    let mut outbox = outbox(dir.path());
    let now = Instant::now();
    // A directory where the next segment belongs: the write is refused as it would be on a full disk.
    let blocks: Vec<_> =
        ["A", "L"].iter().map(|class| dir.path().join(class).join(format!("{:016x}.seg", 1))).collect();
    for block in &blocks {
        std::fs::create_dir(block).unwrap();
    }
    let step = |old: u64, new: u64| {
        item(Content::Ledger(json!({"blk": 1, "stp": [["tw", old, new]]}).as_object().unwrap().clone()))
    };
    outbox.take(3, event(Severity::Warn), now);
    outbox.take(3, step(0, 1), now);
    outbox.take(3, step(1, 3), now);
    assert_eq!(drain(&mut outbox), []);
    for block in &blocks {
        std::fs::remove_dir(block).unwrap();
    }
    outbox.tend(3, now);
    assert_eq!(drain(&mut outbox), [(Durable::Ledger, 1), (Durable::Events, 1)]);
    assert_eq!(outbox.newest_ledger().unwrap()["stp"], json!([["tw", 0, 3]]));
}
