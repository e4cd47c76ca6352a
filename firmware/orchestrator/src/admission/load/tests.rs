use livepeer::profile::preset;
use livepeer::units::FrameRate;
use proptest::prelude::*;

use super::*;

const MPX: f64 = 1e6;

/// A second of content that took this much of a box with one thread and one slot.
fn spent(mpx: u64, ms: u64) -> Spent {
    let time = Duration::from_millis(ms);
    Spent { work: mpx * 1_000_000, cpu: time, wall: time, content: Duration::from_secs(1) }
}

/// A box that does 100 Mpx in a second, of which 80 are sold.
fn box_of_100() -> Load {
    let load = Load::new(20);
    load.finished("nobody", &spent(100, 1000), 1, 1);
    load
}

fn enter(load: &Load, session: &str, mpx: f64) -> bool {
    let claim = load.claim(session, mpx * MPX);
    if claim.fits() {
        claim.keep();
    }
    claim.fits()
}

#[test]
fn newcomers_are_let_in_while_they_fit_and_sessions_always() {
    let load = box_of_100();
    assert!(enter(&load, "a", 50.0));
    assert!(!enter(&load, "b", 31.0));
    assert!(enter(&load, "b", 30.0));
    assert!(!load.has_room() && !enter(&load, "c", 1.0));
    for session in ["a", "b"] {
        assert!(load.claim(session, 1000.0 * MPX).fits());
    }
    assert_eq!((load.figures().sessions, load.figures().refused), (2, 2));
    load.release("a");
    assert!(load.has_room() && enter(&load, "c", 50.0));
}

#[test]
fn an_idle_box_takes_anybody_and_learns_from_it() {
    let load = box_of_100();
    assert!(enter(&load, "huge", 5000.0));
    assert!(!load.has_room());
    load.finished("huge", &spent(20, 200), 1, 1);
    assert!((load.figures().demand - 20.0 * MPX).abs() < 1.0, "measured, not estimated any more");
    assert!(load.has_room());
}

#[test]
fn heat_refuses_newcomers_by_degrees_and_never_a_session() {
    let load = box_of_100();
    assert!(enter(&load, "a", 30.0));
    for (percent, room) in [(100.0, true), (75.0, true), (50.0, false), (25.0, false), (0.0, false), (100.0, true)] {
        load.set_derate(percent);
        assert_eq!(load.has_room(), room, "{percent} %");
        assert!(load.claim("a", 30.0 * MPX).fits());
    }
    load.release("a");
    load.set_derate(25.0);
    assert!(load.has_room(), "an idle box takes one");
    load.set_derate(0.0);
    assert!(!load.has_room() && !enter(&load, "b", 1.0), "but not past the last limit");
    load.set_derate(f32::NAN);
    assert!(!load.has_room());
}

#[test]
fn a_refused_first_segment_gives_its_room_back_with_the_last_claim() {
    let load = box_of_100();
    let (one, other) = (load.claim("a", 80.0 * MPX), load.claim("a", 80.0 * MPX));
    drop(one);
    assert!(!load.has_room(), "another segment of it is on its way");
    drop(other);
    assert_eq!(load.figures().sessions, 0);
    let (one, other) = (load.claim("a", 80.0 * MPX), load.claim("a", 80.0 * MPX));
    other.keep();
    drop((one, other));
    assert_eq!(load.figures().sessions, 1);
}

#[test]
fn a_session_that_took_over_anothers_place_has_room_after_all() {
    let load = box_of_100();
    assert!(enter(&load, "old", 80.0));
    let claim = load.claim("new", 80.0 * MPX);
    assert!(!claim.fits());
    load.release("old");
    claim.keep();
    drop(claim);
    assert_eq!(load.figures().sessions, 1);
    assert!(load.claim("new", 80.0 * MPX).fits());
}

#[test]
fn an_engine_that_hardly_uses_the_processor_is_measured_by_its_slots() {
    let load = Load::new(0);
    let spent = Spent { cpu: Duration::from_millis(10), ..spent(100, 500) };
    load.finished("s", &spent, 8, 2);
    // Half a second in one of two slots is a quarter of a second of the box.
    assert_eq!(load.figures().speed, Some(400.0 * MPX));
    let load = Load::new(0);
    load.finished("s", &Spent { cpu: Duration::from_millis(900), ..spent }, 2, 2);
    assert_eq!(load.figures().speed.map(rounded), Some(222_222_222));
}

#[test]
fn a_speed_is_unlearned_when_the_box_becomes_slower() {
    let load = box_of_100();
    for _ in 0..300 {
        load.finished("s", &spent(50, 1000), 1, 1);
    }
    let speed = load.figures().speed.unwrap() / MPX;
    assert!((50.0..56.0).contains(&speed), "{speed}");
}

#[test]
fn a_remembered_speed_holds_until_it_is_measured_anew() {
    let load = Load::new(0);
    load.remember(box_of_100().speed());
    load.warmed_up(&spent(1, 1000), 1, 1);
    assert_eq!(load.figures().speed, Some(100.0 * MPX));
    let broken: Speed = serde_json::from_str(r#"{"work":-1.0,"time":3.0}"#).unwrap();
    load.remember(broken);
    assert_eq!(load.figures().speed, Some(100.0 * MPX));
    let fresh = Load::new(0);
    fresh.warmed_up(&spent(1, 100), 1, 1);
    fresh.finished("s", &spent(100, 1000), 1, 1);
    let speed = fresh.figures().speed.unwrap() / MPX;
    assert!((90.0..=100.0).contains(&speed), "a real segment outweighs the warm-up: {speed}");
}

#[test]
fn a_ladder_is_estimated_by_its_pixels_and_its_source() {
    let one = |name: &str| preset(name).unwrap();
    let p720 = one("720p");
    let rate = f64::from(p720.width) * f64::from(p720.height) * 30.0;
    let p720 = Profile { fps: Some(FrameRate { num: 30, den: 1 }), ..p720 };
    assert!((estimate(std::slice::from_ref(&p720)) - rate * (1.0 + 1.0 / 6.0)).abs() < 1.0);
    let twice = Profile { fps: Some(FrameRate { num: 60, den: 1 }), ..p720.clone() };
    assert!((estimate(&[p720, twice]) - rate * (3.0 + 2.0 / 6.0)).abs() < 1.0);
    assert!(estimate(&[]).abs() < f64::EPSILON);
}

#[test]
fn only_what_was_measured_makes_a_segment_hopeless() {
    let load = box_of_100();
    assert!(enter(&load, "a", 1000.0));
    assert_eq!(load.least("a", Duration::from_secs(2)), Duration::ZERO);
    load.finished("a", &spent(50, 500), 1, 1);
    assert_eq!(load.least("a", Duration::from_secs(2)), Duration::from_secs(1));
    assert_eq!(load.least("unknown", Duration::from_secs(2)), Duration::ZERO);
}

proptest! {
    #[test]
    fn what_is_let_in_beyond_the_first_never_asks_for_more_than_is_sold(
        asks in prop::collection::vec((0.1f64..60.0, 0u8..4), 1..40),
    ) {
        let load = box_of_100();
        for (number, (ask, derate)) in asks.into_iter().enumerate() {
            load.set_derate(25.0 * f32::from(derate + 1));
            let before = load.figures();
            let entered = enter(&load, &number.to_string(), ask);
            let after = load.figures();
            if entered && before.sessions > 0 {
                prop_assert!(after.demand <= after.sold.unwrap() + 1.0);
            }
            if !entered {
                prop_assert!(before.demand == after.demand && before.sessions == after.sessions);
            }
        }
    }
}
