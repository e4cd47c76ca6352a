use proptest::prelude::*;

use super::*;
use crate::name::Epoch;

fn life(b: u64, n: u64) -> Life {
    Life { e: Epoch::new("9c1f02aa").unwrap(), b, n }
}

fn secs(s: u64) -> Duration {
    Duration::from_secs(s)
}

fn birth(b: u64, n: u64) -> Event {
    Event::Birth { life: life(b, n), heartbeat: Some(secs(60)), keepalive: Some(secs(120)) }
}

fn online() -> Tracker {
    let mut tracker = Tracker::default();
    tracker.step(birth(1, 1), secs(0)).unwrap();
    tracker
}

#[test]
fn a_retained_message_is_history_and_never_proof_of_life() {
    let mut tracker = Tracker::default();
    assert_eq!(tracker.step(Event::Retained, secs(0)), None);
    assert_eq!(tracker.state(), Presence::Unknown);
    tracker.step(Event::Tick, secs(10_000));
    assert_eq!(tracker.state(), Presence::Unknown);
}

#[test]
fn silence_makes_suspect_after_two_and_a_half_heartbeats_then_offline() {
    let mut tracker = online();
    assert_eq!(tracker.step(Event::Tick, secs(149)), None);
    assert_eq!(tracker.step(Event::Tick, secs(150)).unwrap().to, Presence::Suspect);
    assert_eq!(tracker.step(Event::Tick, secs(239)), None);
    let change = tracker.step(Event::Tick, secs(240)).unwrap();
    assert_eq!((change.from, change.to, change.why), (Presence::Suspect, Presence::Offline, "silence"));
    assert_eq!(tracker.step(Event::Alive(life(1, 1)), secs(300)).unwrap().to, Presence::Online);
}

#[test]
fn a_short_heartbeat_still_waits_for_the_keepalive_before_offline() {
    let mut tracker = Tracker::default();
    tracker.step(Event::Birth { life: life(1, 1), heartbeat: Some(secs(2)), keepalive: Some(secs(10)) }, secs(0));
    assert_eq!(tracker.step(Event::Tick, secs(5)).unwrap().to, Presence::Suspect);
    assert_eq!(tracker.step(Event::Tick, secs(44)), None);
    assert_eq!(tracker.step(Event::Tick, secs(45)).unwrap().to, Presence::Offline);
}

#[test]
fn a_death_is_suspect_at_once_and_offline_after_its_grace() {
    let mut tracker = online();
    assert_eq!(tracker.step(Event::Death(life(1, 1)), secs(5)).unwrap().to, Presence::Suspect);
    assert_eq!(tracker.step(Event::Tick, secs(64)), None);
    assert_eq!(tracker.step(Event::Tick, secs(65)).unwrap().to, Presence::Offline);
}

#[test]
fn a_birth_inside_the_grace_is_a_flap_and_not_an_outage() {
    let mut tracker = online();
    tracker.step(Event::Death(life(1, 1)), secs(5));
    assert_eq!(tracker.step(birth(1, 2), secs(30)).unwrap().to, Presence::Online);
    assert_eq!(tracker.step(Event::Tick, secs(100)), None);
}

#[test]
fn a_late_will_of_an_older_connection_is_dropped() {
    let mut tracker = online();
    tracker.step(birth(1, 2), secs(10));
    assert_eq!(tracker.step(Event::Death(life(1, 1)), secs(11)), None);
    assert_eq!(tracker.state(), Presence::Online);
}

#[test]
fn a_message_of_the_dead_connection_does_not_revive_it() {
    let mut tracker = online();
    tracker.step(Event::Death(life(1, 1)), secs(5));
    assert_eq!(tracker.step(Event::Alive(life(1, 1)), secs(6)), None);
    assert_eq!(tracker.state(), Presence::Suspect);
    assert_eq!(tracker.step(Event::Alive(life(1, 2)), secs(7)).unwrap().to, Presence::Online);
}

#[test]
fn a_new_epoch_is_accepted_and_the_old_ones_will_is_not() {
    let mut tracker = online();
    let fresh = Life { e: Epoch::new("00000001").unwrap(), b: 0, n: 1 };
    tracker.step(Event::Alive(fresh), secs(10));
    assert_eq!(tracker.step(Event::Death(life(1, 1)), secs(11)), None);
    assert_eq!(tracker.state(), Presence::Online);
}

#[test]
fn a_blind_controller_says_unknown_and_needs_fresh_traffic() {
    let mut tracker = online();
    assert_eq!(tracker.step(Event::Blind, secs(10)).unwrap().to, Presence::Unknown);
    assert_eq!(tracker.step(Event::Tick, secs(10_000)), None);
    assert_eq!(tracker.step(Event::Alive(life(1, 1)), secs(10_001)).unwrap().to, Presence::Online);
}

#[test]
fn interleaved_lives_look_cloned_and_one_take_over_does_not() {
    let mut tracker = online();
    tracker.step(birth(1, 2), secs(1));
    tracker.step(Event::Alive(life(1, 1)), secs(2));
    assert!(!tracker.looks_cloned());
    for at in 3..7 {
        tracker.step(Event::Alive(life(1, 1)), secs(at));
    }
    assert!(tracker.looks_cloned());
    tracker.step(Event::Tick, secs(1000));
    assert!(!tracker.looks_cloned());
}

#[test]
fn a_retired_box_stays_retired() {
    let mut tracker = online();
    assert_eq!(tracker.step(Event::Retire, secs(1)).unwrap().to, Presence::Retired);
    assert_eq!(tracker.step(birth(1, 2), secs(2)), None);
    assert_eq!(tracker.state(), Presence::Retired);
}

fn any_event() -> impl Strategy<Value = Event> {
    let lives = (0..3u64, 0..4u64).prop_map(|(b, n)| life(b, n));
    prop_oneof![
        Just(Event::Retained),
        lives.clone().prop_map(|life| Event::Birth { life, heartbeat: Some(secs(60)), keepalive: Some(secs(120)) }),
        lives.clone().prop_map(Event::Alive),
        lives.prop_map(Event::Death),
        Just(Event::Tick),
        Just(Event::Blind),
    ]
}

proptest! {
    #[test]
    fn online_always_rests_on_a_proof_of_life_younger_than_the_limit(
        steps in proptest::collection::vec((any_event(), 0..100u64), 1..60),
    ) {
        let mut tracker = Tracker::default();
        let mut now = secs(0);
        let mut latest: Option<(u64, u64)> = None;
        for (event, pause) in steps {
            now += secs(pause);
            tracker.step(event, now);
            tracker.step(Event::Tick, now);
            if tracker.state() == Presence::Online {
                let age = now - tracker.alive_at().expect("an online box was alive");
                prop_assert!(age < secs(150), "online with a proof {age:?} old");
            }
            // The current life never goes backwards.
            let life = tracker.life().map(|life| (life.b, life.n));
            prop_assert!(life >= latest);
            latest = life;
        }
    }
}
