use millrace_hal::Engine;
use proptest::prelude::*;

use super::*;

fn choice(decode: Engine, encode: Engine) -> Choice {
    Choice { decode, encode, nodes: Vec::new() }
}

fn choices() -> Vec<Choice> {
    use Engine::{Nvidia, Software, Va};
    vec![choice(Nvidia, Nvidia), choice(Va, Va), choice(Nvidia, Software), Choice::software()]
}

fn proof(engine: &str) -> Proof {
    Proof {
        engine: engine.to_owned(),
        framework: "GStreamer 1.22.0".to_owned(),
        proved: vec!["encode-h264".to_owned()],
        refused: Vec::new(),
        sessions: Some(8),
    }
}

fn name(step: Step) -> String {
    match step {
        Step::Use(choice) => format!("use {}", choice.name()),
        Step::Prove(choice) => format!("prove {}", choice.name()),
    }
}

#[test]
fn the_best_engine_proves_itself_first_and_the_next_one_when_it_fails() {
    let (mut book, choices) = (Book::default(), choices());
    assert_eq!(name(book.next(&choices, 0)), "prove nvidia");
    book.failed("nvidia", "it crashed", 0);
    assert_eq!(name(book.next(&choices, 1)), "prove va");
    book.proved("va", proof("va"), 1);
    assert_eq!(name(book.next(&choices, 2)), "use va");
    assert_eq!(book.retry_at(&choices, "va"), Some(600));
    assert_eq!(name(book.next(&choices, 600)), "prove nvidia", "its time is up");
    assert_eq!(book.stopgap(&choices, 600).name(), "va", "meanwhile");
}

#[test]
fn without_silicon_nothing_is_proved_and_the_main_processor_used() {
    let book = Book::default();
    assert_eq!(name(book.next(&[Choice::software()], 0)), "use software");
    assert_eq!(book.stopgap(&choices(), 0).name(), "software");
    assert_eq!(book.retry_at(&[Choice::software()], "software"), None);
}

#[test]
fn every_further_failure_keeps_an_engine_away_four_times_as_long_up_to_a_day() {
    let mut book = Book::default();
    let mut now = 0;
    let mut held = Vec::new();
    for _ in 0..6 {
        book.failed("va", "no", now);
        let until = book.engines["va"].quarantine.as_ref().unwrap().until;
        held.push(until - now);
        now = until;
    }
    assert_eq!(held, [600, 2400, 9600, 38_400, 86_400, 86_400]);
}

#[test]
fn an_engine_that_proves_itself_and_fails_at_work_is_left_alone_longer_and_longer() {
    let (mut book, choices) = (Book::default(), choices());
    book.failed("nvidia", "no", 0);
    book.proved("nvidia", proof("nvidia"), 600);
    assert_eq!(name(book.next(&choices, 600)), "use nvidia");
    book.failed("nvidia", "no", 700);
    assert_eq!(book.engines["nvidia"].quarantine.as_ref().unwrap().until, 700 + 2400);
    // After a good day all is forgotten.
    book.proved("nvidia", proof("nvidia"), 700 + 2400);
    book.proved("nvidia", proof("nvidia"), 700 + 86_401);
    assert_eq!(book.engines["nvidia"].quarantine, None);
}

#[test]
fn a_lost_worker_makes_its_engine_suspect_until_it_proves_itself_and_the_third_is_one_too_many() {
    let (mut book, choices) = (Book::default(), choices());
    for (n, at) in [(1, 0), (2, 60)] {
        book.proved("nvidia", proof("nvidia"), at);
        book.trouble("nvidia", "it vanished", at);
        assert_eq!(name(book.next(&choices, at)), "prove nvidia", "{n}");
        assert_eq!(book.stopgap(&choices, at).name(), "software", "{n}");
    }
    book.proved("nvidia", proof("nvidia"), 100);
    book.trouble("nvidia", "it vanished", 120);
    assert_eq!(name(book.next(&choices, 120)), "prove va");
    let quarantine = book.engines["nvidia"].quarantine.clone().unwrap();
    assert_eq!((quarantine.reason.as_str(), quarantine.until), ("it vanished", 720));
    // News of its other workers does not make it longer.
    book.trouble("nvidia", "again", 130);
    assert_eq!(book.engines["nvidia"].quarantine, Some(quarantine));
}

#[test]
fn a_clock_that_went_back_keeps_no_engine_away() {
    let mut book = Book::default();
    book.failed("va", "no", 1_700_000_000);
    assert_eq!(name(book.next(&choices()[1..], 1_700_000_001)), "prove nvidia+software");
    assert_eq!(name(book.next(&choices()[1..], 1000)), "prove va");
}

#[test]
fn troubles_far_apart_are_not_added_up() {
    let mut book = Book::default();
    for at in [0, 3600, 7200, 10_800] {
        book.proved("va", proof("va"), at);
        book.trouble("va", "it vanished", at);
    }
    assert!(book.engines["va"].quarantine.is_none());
}

#[test]
fn new_hardware_and_a_new_framework_make_everything_unknown_again() {
    let mut book = Book::default().on("box 1");
    book.failed("nvidia", "no", 0);
    book.proved("va", proof("va"), 0);
    assert_eq!(book.clone().on("box 1"), book);
    assert_eq!(name(book.clone().on("box 2").next(&choices(), 1)), "prove nvidia");
    book.framework("GStreamer 1.22.0");
    assert_eq!(name(book.next(&choices(), 1)), "use va");
    book.framework("GStreamer 1.26.0");
    assert_eq!(name(book.next(&choices(), 1)), "prove va");
}

proptest! {
    #[test]
    fn whatever_happens_what_is_used_is_proved_and_not_held(
        events in proptest::collection::vec((0u8..4, 0usize..3, 0u64..50_000), 0..60)
    ) {
        let (mut book, choices) = (Book::default(), choices());
        let mut now = 0;
        for (event, which, later) in events {
            now += later;
            let name = choices[which].name();
            match event {
                0 => book.proved(&name, proof(&name), now),
                1 => book.failed(&name, "no", now),
                2 => book.trouble(&name, "lost", now),
                _ => {}
            }
            for used in [book.stopgap(&choices, now), match book.next(&choices, now) {
                Step::Use(choice) => choice,
                Step::Prove(_) => Choice::software(),
            }] {
                if used != Choice::software() {
                    let standing = &book.engines[&used.name()];
                    prop_assert!(standing.proof.is_some() && !standing.suspect);
                    prop_assert!(!standing.is_held(now));
                }
            }
            let written = serde_json::to_string(&book).unwrap();
            prop_assert_eq!(&serde_json::from_str::<Book>(&written).unwrap(), &book);
        }
    }
}
