use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const MB: u64 = 1 << 20;

fn ready() -> WorkerState {
    let mut worker = WorkerState::new(Duration::ZERO, 10 * SECOND, Recycle { segments: 3, ..Recycle::DEFAULT });
    assert_eq!(worker.step(Event::Ready, SECOND), []);
    worker
}

fn assign(job: JobId) -> Event {
    Event::Assign { job, deadline: 5 * SECOND }
}

#[test]
fn a_worker_serves_one_job_after_the_other() {
    let mut worker = ready();
    for job in [1, 2] {
        assert_eq!(worker.step(assign(job), SECOND), [Action::Run(job)]);
        assert_eq!(worker.step(assign(99), SECOND), [Action::Refuse(99)]);
        assert_eq!(worker.step(Event::Answered { job, memory: MB, sick: false }, SECOND), [Action::Accept(job)]);
        assert_eq!(worker.phase(), Phase::Ready);
    }
}

#[test]
fn an_answer_to_another_job_is_not_handed_on() {
    let mut worker = ready();
    worker.step(assign(1), SECOND);
    assert_eq!(worker.step(Event::Answered { job: 2, memory: MB, sick: false }, SECOND), []);
    assert!(matches!(worker.phase(), Phase::Busy { job: 1, .. }));
}

#[test]
fn a_death_loses_the_job_in_hand_and_no_other() {
    let mut worker = ready();
    worker.step(assign(7), SECOND);
    assert_eq!(worker.step(Event::Died, SECOND), [Action::Lose(7)]);
    assert_eq!(worker.step(assign(8), SECOND), [Action::Refuse(8)]);
    assert_eq!(worker.step(Event::Died, SECOND), []);
}

#[test]
fn a_hung_worker_is_killed_at_its_deadline_and_not_before() {
    let mut worker = ready();
    worker.step(assign(1), SECOND);
    assert_eq!(worker.due(), Some(5 * SECOND));
    assert_eq!(worker.step(Event::Tick, 4 * SECOND), []);
    assert_eq!(worker.step(Event::Tick, 5 * SECOND), [Action::Expire(1), Action::Kill]);
}

#[test]
fn a_worker_that_never_gets_ready_is_given_up() {
    let mut worker = WorkerState::new(Duration::ZERO, 10 * SECOND, Recycle::DEFAULT);
    assert_eq!(worker.step(Event::Tick, 9 * SECOND), []);
    assert_eq!(worker.step(Event::Tick, 10 * SECOND), [Action::GiveUpStart, Action::Kill]);
}

#[test]
fn draining_lets_the_job_in_hand_finish() {
    let mut worker = ready();
    worker.step(assign(1), SECOND);
    assert_eq!(worker.step(Event::Drain, SECOND), []);
    assert_eq!(
        worker.step(Event::Answered { job: 1, memory: MB, sick: false }, SECOND),
        [Action::Accept(1), Action::Kill]
    );
    let mut idle = ready();
    assert_eq!(idle.step(Event::Drain, SECOND), [Action::Kill]);
}

#[test]
fn a_worker_is_replaced_after_its_share_of_segments() {
    let mut worker = ready();
    let mut last = vec![];
    for job in 1..=3 {
        worker.step(assign(job), SECOND);
        last = worker.step(Event::Answered { job, memory: MB, sick: false }, SECOND);
    }
    assert_eq!(last, [Action::Accept(3), Action::Recycled, Action::Kill]);
}

#[test]
fn a_worker_whose_memory_grows_is_replaced_but_jitter_is_not_growth() {
    let mut worker = ready();
    worker.step(assign(1), SECOND);
    worker.step(Event::Answered { job: 1, memory: 40 * MB, sick: false }, SECOND);
    worker.step(assign(2), SECOND);
    assert_eq!(worker.step(Event::Answered { job: 2, memory: 100 * MB, sick: false }, SECOND), [Action::Accept(2)]);
    let mut worker = ready();
    worker.step(assign(1), SECOND);
    worker.step(Event::Answered { job: 1, memory: 300 * MB, sick: false }, SECOND);
    worker.step(assign(2), SECOND);
    let replaced = worker.step(Event::Answered { job: 2, memory: 700 * MB, sick: false }, SECOND);
    assert_eq!(replaced, [Action::Accept(2), Action::Recycled, Action::Kill]);
}

#[test]
fn a_worker_whose_device_failed_is_replaced_and_its_job_is_not_taken_for_done() {
    for draining in [false, true] {
        let mut worker = ready();
        worker.step(assign(1), SECOND);
        if draining {
            worker.step(Event::Drain, SECOND);
        }
        let replaced = worker.step(Event::Answered { job: 1, memory: MB, sick: true }, SECOND);
        assert_eq!(replaced, [Action::Lose(1), Action::Recycled, Action::Kill]);
        assert_eq!(worker.phase(), Phase::Dead);
    }
}

fn any_event() -> impl Strategy<Value = Event> {
    let job = 0u64..4;
    prop_oneof![
        Just(Event::Ready),
        (job.clone(), 0u64..100).prop_map(|(job, at)| Event::Assign { job, deadline: Duration::from_secs(at) }),
        (job, any::<u64>(), any::<bool>()).prop_map(|(job, memory, sick)| Event::Answered { job, memory, sick }),
        Just(Event::Drain),
        Just(Event::Died),
        Just(Event::Tick),
    ]
}

proptest! {
    /// Whatever happens, in whatever order: every job that was run ends in exactly one of accepted, lost and
    /// expired, a dead worker stays dead, and only a living one is killed, once.
    #[test]
    fn every_job_ends_once_and_the_dead_stay_dead(events in proptest::collection::vec((any_event(), 0u64..5), 0..60)) {
        let mut worker = WorkerState::new(Duration::ZERO, 20 * SECOND, Recycle { segments: 5, ..Recycle::DEFAULT });
        let (mut now, mut running, mut kills) = (Duration::ZERO, None, 0);
        for (event, seconds) in events {
            now += Duration::from_secs(seconds);
            let before = worker.phase();
            let actions = worker.step(event, now);
            if before == Phase::Dead {
                prop_assert_eq!(worker.phase(), Phase::Dead);
                prop_assert!(actions.iter().all(|action| matches!(action, Action::Refuse(_))));
            }
            for action in actions {
                match action {
                    Action::Run(job) => {
                        prop_assert_eq!(running.replace(job), None);
                    }
                    Action::Accept(job) | Action::Lose(job) | Action::Expire(job) => {
                        prop_assert_eq!(running.take(), Some(job));
                    }
                    Action::Kill => kills += 1,
                    Action::Refuse(_) | Action::GiveUpStart | Action::Recycled => {}
                }
            }
            let in_hand = matches!(worker.phase(), Phase::Busy { .. } | Phase::Draining { .. });
            prop_assert_eq!(in_hand, running.is_some());
            if worker.phase() == Phase::Dead {
                prop_assert_eq!(worker.due(), None);
            }
        }
        prop_assert!(kills <= 1);
    }
}
