use proptest::prelude::*;

use super::*;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn ticket(job: JobId, deadline: u64) -> Ticket {
    Ticket { job, deadline: ms(deadline), least: Duration::ZERO }
}

fn schedule(slots: usize, threads: usize) -> Schedule {
    Schedule::new(Parallel { slots, threads })
}

fn started(schedule: &mut Schedule) -> Vec<JobId> {
    std::iter::from_fn(|| schedule.next(|_| true)).map(|start| start.job).collect()
}

#[test]
fn the_earliest_deadline_runs_first_and_no_more_than_fit() {
    let mut schedule = schedule(2, 4);
    for (session, job, deadline) in [("a", 1, 900), ("b", 2, 300), ("c", 3, 600)] {
        schedule.push(session, ticket(job, deadline)).unwrap();
    }
    assert_eq!(started(&mut schedule), [2, 3]);
    schedule.end(2);
    assert_eq!(started(&mut schedule), [1]);
}

#[test]
fn a_session_runs_one_at_a_time_and_in_order_whatever_the_deadlines() {
    let mut schedule = schedule(4, 4);
    for (job, deadline) in [(1, 900), (2, 100), (3, 500)] {
        schedule.push("a", ticket(job, deadline)).unwrap();
    }
    for job in 1..=3 {
        assert_eq!(started(&mut schedule), [job]);
        schedule.end(job);
    }
}

#[test]
fn a_line_holds_four_and_a_lost_segment_still_goes_back_to_its_front() {
    let mut schedule = schedule(1, 1);
    schedule.push("a", ticket(1, 100)).unwrap();
    assert_eq!(started(&mut schedule), [1]);
    for job in 2..=5 {
        schedule.push("a", ticket(job, 100)).unwrap();
    }
    assert_eq!(schedule.push("a", ticket(6, 100)), Err(Full));
    assert!(schedule.put_back(1) && !schedule.put_back(1));
    assert_eq!(started(&mut schedule), [1]);
}

#[test]
fn a_segment_that_cannot_be_done_in_time_is_known_before_its_deadline() {
    let mut schedule = schedule(1, 1);
    schedule.push("a", ticket(1, 1000)).unwrap();
    assert_eq!(started(&mut schedule), [1]);
    schedule.push("b", Ticket { job: 2, deadline: ms(1000), least: ms(400) }).unwrap();
    schedule.push("b", ticket(3, 2000)).unwrap();
    assert_eq!(schedule.due(), Some(ms(600)));
    assert!(schedule.hopeless(ms(599)).is_empty());
    assert_eq!(schedule.hopeless(ms(600)), [2]);
    schedule.end(2);
    assert_eq!((schedule.due(), schedule.hopeless(ms(600))), (Some(ms(2000)), vec![]));
}

#[test]
fn one_segment_alone_has_all_threads_and_on_a_loaded_box_each_encoder_has_one() {
    let threads = |sessions: &[&str]| {
        let mut schedule = schedule(4, 8);
        for (job, session) in (1..).zip(sessions) {
            schedule.push(session, ticket(job, 100)).unwrap();
        }
        schedule.next(|_| true).unwrap().threads
    };
    assert_eq!(threads(&["a"]), 8);
    assert_eq!(threads(&["a", "b"]), 4);
    assert_eq!(threads(&["a", "b", "c"]), 2);
    assert_eq!(threads(&["a", "b", "c", "d"]), 1);
    assert_eq!(threads(&["a", "b", "c", "d", "e", "f", "g", "h"]), 1);
    let mut narrow = schedule(2, 1);
    narrow.push("a", ticket(1, 100)).unwrap();
    assert_eq!(narrow.next(|_| true).unwrap().threads, 1);
}

#[test]
fn a_session_whose_worker_is_not_ready_holds_up_nobody() {
    let mut schedule = schedule(1, 1);
    schedule.push("a", ticket(1, 100)).unwrap();
    schedule.push("b", ticket(2, 200)).unwrap();
    assert_eq!(schedule.next(|session| session != "a").unwrap().job, 2);
}

#[test]
fn a_session_is_closed_when_it_has_nothing_left() {
    let mut schedule = schedule(1, 1);
    schedule.push("a", ticket(1, 100)).unwrap();
    assert!(!schedule.close("a") && schedule.waits("a"));
    assert_eq!(started(&mut schedule), [1]);
    assert!(!schedule.close("a") && !schedule.waits("a"));
    schedule.end(1);
    assert!(schedule.close("a") && schedule.close("unknown"));
}

/// A box in steps of ten milliseconds: sessions ask at their own pace, `slots` segments run at a time, each as long as
/// it takes; what is hopeless is dropped.
struct Sim {
    schedule: Schedule,
    now: u64,
    /// Job, session, when it ends.
    running: Vec<(JobId, usize, u64)>,
    asked: Vec<(usize, Ticket)>,
    done: Vec<u64>,
    dropped: Vec<u64>,
    turned_away: u64,
    order: Vec<(usize, JobId)>,
}

/// A stream: a segment every so many milliseconds, which takes so long, and must be done within so long.
#[derive(Debug, Clone, Copy)]
struct Stream {
    every: u64,
    takes: u64,
    within: u64,
}

fn simulate(streams: &[Stream], slots: usize, until: u64) -> Sim {
    let none = vec![0; streams.len()];
    let mut sim = Sim {
        schedule: schedule(slots, slots),
        now: 0,
        running: Vec::new(),
        asked: Vec::new(),
        done: none.clone(),
        dropped: none,
        turned_away: 0,
        order: Vec::new(),
    };
    let mut next = 0;
    while sim.now < until {
        let now = sim.now;
        for (job, ..) in sim.running.extract_if(.., |(.., end)| *end <= now).collect::<Vec<_>>() {
            let (session, ticket) = *sim.asked.iter().find(|(_, ticket)| ticket.job == job).unwrap();
            assert!(ms(now) <= ticket.deadline, "begun in time, done in time");
            sim.schedule.end(job);
            sim.done[session] += 1;
        }
        for (session, stream) in streams.iter().enumerate().filter(|(_, stream)| now.is_multiple_of(stream.every)) {
            next += 1;
            let ticket = Ticket { job: next, deadline: ms(now + stream.within), least: ms(stream.takes) };
            match sim.schedule.push(&format!("{session:03}"), ticket) {
                Ok(()) => sim.asked.push((session, ticket)),
                Err(Full) => sim.turned_away += 1,
            }
        }
        for job in sim.schedule.hopeless(ms(now)) {
            let (session, ticket) = *sim.asked.iter().find(|(_, ticket)| ticket.job == job).unwrap();
            assert!(ms(now) + ticket.least >= ticket.deadline, "dropped although there was time");
            sim.schedule.end(job);
            sim.dropped[session] += 1;
        }
        while let Some(start) = sim.schedule.next(|_| true) {
            let (session, ticket) = *sim.asked.iter().find(|(_, ticket)| ticket.job == start.job).unwrap();
            // Nobody who could have run had less time.
            let heads = sim.schedule.lines.values().filter(|line| line.running.is_none());
            assert!(heads.filter_map(|line| line.waiting.front()).all(|other| other.deadline >= ticket.deadline));
            assert!(ms(now) + ticket.least < ticket.deadline, "begun although it cannot be done");
            sim.running.push((start.job, session, now + streams[session].takes));
            sim.order.push((session, start.job));
        }
        assert!(sim.running.len() <= slots && sim.schedule.running() == sim.running.len());
        sim.now += 10;
    }
    sim
}

fn streams() -> impl Strategy<Value = Vec<Stream>> {
    let stream = (1u64..40, 1u64..30, 10u64..200).prop_map(|(every, takes, slack)| Stream {
        every: every * 50,
        takes: takes * 10,
        within: takes * 10 + slack * 10,
    });
    prop::collection::vec(stream, 1..12)
}

proptest! {
    #[test]
    fn whatever_comes_runs_by_deadline_within_the_bound_or_is_dropped_in_time(streams in streams(), slots in 1usize..5) {
        let sim = simulate(&streams, slots, 20_000);
        for session in 0..streams.len() {
            let jobs: Vec<JobId> = sim.order.iter().filter(|(of, _)| *of == session).map(|(_, job)| *job).collect();
            prop_assert!(jobs.is_sorted(), "a session runs in order");
        }
        let asked = u64::try_from(sim.asked.len()).unwrap();
        let left = u64::try_from(sim.schedule.waiting().count() + sim.running.len()).unwrap();
        prop_assert_eq!(sim.done.iter().sum::<u64>() + sim.dropped.iter().sum::<u64>() + left, asked);
        prop_assert!(sim.schedule.waiting().count() <= streams.len() * SESSION_QUEUE);
    }

    #[test]
    fn streams_that_fit_the_box_lose_nothing(count in 1usize..8, slots in 1usize..4, every in 1u64..10) {
        // Together they take at most 90 % of the slots, and each may wait for one segment of everybody else.
        let every = every * 200;
        let takes = every * u64::try_from(slots).unwrap() * 9 / 10 / u64::try_from(count).unwrap() / 10 * 10;
        let stream = Stream { every, takes: takes.min(every * 9 / 100 * 10), within: every * 4 };
        let sim = simulate(&vec![stream; count], slots, every * 40);
        prop_assert_eq!((sim.dropped.iter().sum::<u64>(), sim.turned_away), (0, 0));
    }
}

#[test]
fn equal_streams_on_a_box_too_small_for_them_starve_evenly() {
    let stream = Stream { every: 1000, takes: 700, within: 4000 };
    let sim = simulate(&[stream; 6], 1, 60_000);
    let (least, most) = (sim.done.iter().min().unwrap(), sim.done.iter().max().unwrap());
    assert!(*least > 0 && most - least <= 2, "{:?}", sim.done);
    assert!(sim.done.iter().sum::<u64>() >= 60 * 10 / 7 - 6, "the box did not idle: {:?}", sim.done);
}

#[test]
fn a_patient_stream_is_not_starved_by_hasty_ones() {
    let hasty = Stream { every: 500, takes: 240, within: 1000 };
    let patient = Stream { every: 2000, takes: 400, within: 8000 };
    let sim = simulate(&[hasty, hasty, patient], 1, 60_000);
    assert!(sim.done[2] >= 10, "done {:?}, dropped {:?}", sim.done, sim.dropped);
}
