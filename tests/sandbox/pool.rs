//! The pool with real processes: a worker's death costs its segment at most.
use std::time::Duration;

use orchestrator::pool::{
    Driver, Parallel, Pool, PoolConfig, PoolError, Recycle, TranscodeError, TranscodeRequest, Transcoded, Transcoder,
};
use sandbox::jail::ProcessLimits;
use sandbox::memfd::Sealed;
use sandbox::message::JobError;
use service::Restart;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::probe::{PATIENCE, job, plan};

struct Running {
    pool: Pool,
    stop: CancellationToken,
    driver: JoinHandle<Result<(), PoolError>>,
}

fn config(sessions: usize) -> PoolConfig {
    PoolConfig::new(plan(ProcessLimits::default(), &[]), sessions, 2)
}

fn run(config: PoolConfig) -> Running {
    let (pool, driver): (Pool, Driver) = Pool::new(config);
    let stop = CancellationToken::new();
    Running { pool, stop: stop.clone(), driver: tokio::spawn(driver.run(stop)) }
}

fn request(behaviour: &str, deadline: Duration) -> TranscodeRequest {
    let job = job(behaviour);
    TranscodeRequest {
        segment: Sealed::from_bytes(b"some media, eight bytes and more").unwrap(),
        profiles: job.profiles,
        clip: None,
        deadline,
        max_duration_ms: 300_000,
        max_output_bytes: 1 << 20,
        service_provider: job.service_provider,
        origin: orchestrator::pool::Origin::default(),
        signatures: false,
    }
}

impl Running {
    async fn ask(&self, session: &str, behaviour: &str) -> Result<Transcoded, TranscodeError> {
        self.pool.transcode(session, request(behaviour, PATIENCE)).await
    }

    async fn end(self) {
        self.stop.cancel();
        self.driver.await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_comes_back_as_renditions() {
    let running = run(config(2));
    let done = running.ask("s", "echo").await.unwrap();
    assert_eq!(&*done.renditions[0].media, b"some media, eight bytes and more");
    assert_eq!(done.encoded_pixels().0, 640 * 360);
    assert_eq!(running.pool.proved().await.unwrap().engine, "probe");
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_death_costs_one_segment() {
    let running = run(config(2));
    assert!(running.ask("steady", "echo").await.is_ok());
    let crashed = running.ask("s", "crash").await;
    assert!(matches!(&crashed, Err(TranscodeError::WorkerLost { cause }) if cause.contains("SIGABRT")), "{crashed:?}");
    // The same session goes on with its next segment, and the other one never noticed.
    assert!(running.ask("s", "echo").await.is_ok());
    assert!(running.ask("steady", "echo").await.is_ok());
    let status = running.pool.status().borrow().clone();
    assert_eq!((status.done, status.lost), (3, 2), "the crash was tried twice: {status:?}");
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_lost_with_its_worker_is_tried_once_more_on_a_fresh_one() {
    let running = run(config(2));
    assert!(running.ask("s", "echo").await.is_ok());
    assert!(running.ask("s", "crash-unless-fresh").await.is_ok());
    assert_eq!(running.pool.status().borrow().lost, 1);
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hang_ends_at_the_deadline_and_the_session_goes_on() {
    let running = run(config(1));
    assert!(running.ask("s", "echo").await.is_ok());
    let hung = running.pool.transcode("s", request("hang", Duration::from_millis(200))).await;
    assert_eq!(hung.unwrap_err(), TranscodeError::Timeout);
    assert!(running.ask("s", "echo").await.is_ok());
    running.end().await;
}

/// Workers that count as hung after half a second without any use of the processor.
fn impatient(sessions: usize) -> PoolConfig {
    let mut config = config(sessions);
    config.launch.stall = Duration::from_millis(500);
    config
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_without_progress_is_killed_long_before_the_deadline_and_its_segment_tried_again() {
    let running = run(impatient(1));
    assert!(running.ask("s", "echo").await.is_ok());
    assert!(running.ask("s", "hang-unless-fresh").await.is_ok());
    let status = running.pool.status().borrow().clone();
    assert_eq!((status.done, status.lost), (2, 1), "{status:?}");
    assert!(status.last_loss.unwrap().contains("no progress"));
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_works_for_long_is_left_alone() {
    let running = run(impatient(1));
    assert!(running.ask("s", "busy").await.is_ok());
    assert_eq!(running.pool.status().borrow().lost, 0);
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_device_failed_is_replaced_and_its_segment_tried_again() {
    let running = run(config(1));
    assert!(running.ask("s", "echo").await.is_ok());
    assert!(running.ask("s", "fail-unless-fresh").await.is_ok());
    let status = running.pool.status().borrow().clone();
    assert_eq!((status.done, status.refused, status.recycled, status.lost), (2, 0, 1, 1), "{status:?}");
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_segments_run_at_a_time_than_there_are_slots() {
    let mut config = config(3);
    config.parallel = Parallel { slots: 1, threads: 2 };
    config.idle = 3;
    let running = run(config);
    for session in ["a", "b", "c"] {
        assert!(running.ask(session, "echo").await.is_ok());
    }
    let mut status = running.pool.status();
    let most = tokio::spawn(async move {
        let mut most = 0;
        while status.changed().await.is_ok() {
            most = most.max(status.borrow().busy);
        }
        most
    });
    let asked = ["a", "b", "c"].map(|session| {
        let pool = running.pool.clone();
        tokio::spawn(async move { pool.transcode(session, request("slow", PATIENCE)).await })
    });
    for one in asked {
        assert!(one.await.unwrap().is_ok());
    }
    let Running { pool, stop, driver } = running;
    stop.cancel();
    driver.await.unwrap().unwrap();
    drop(pool);
    assert_eq!(most.await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn finished_segments_say_how_fast_the_box_is_and_what_a_session_asks_for() {
    let running = run(config(1));
    let load = running.pool.load().unwrap();
    let claim = load.claim("s", 1.0);
    claim.keep();
    assert_eq!(load.figures().speed, None);
    assert!(running.ask("s", "busy").await.is_ok());
    let figures = load.figures();
    assert!(figures.speed.is_some_and(|speed| speed > 0.0) && figures.demand > 1.0, "{figures:?}");
    running.pool.end_session("s");
    assert_eq!(load.figures().sessions, 0);
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lie_is_a_loss_and_a_refusal_is_the_streams_fault() {
    let running = run(config(1));
    assert!(matches!(running.ask("s", "lie-pixels").await, Err(TranscodeError::WorkerLost { .. })));
    assert_eq!(running.ask("s", "refuse").await.unwrap_err(), TranscodeError::Job(JobError::InvalidVideo));
    let status = running.pool.status().borrow().clone();
    assert_eq!((status.lost, status.refused), (2, 1));
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_breach_of_the_jail_kills_the_worker_and_not_the_node() {
    let running = run(config(1));
    let breach = running.ask("s", "socket").await;
    let named = matches!(&breach, Err(TranscodeError::WorkerLost { cause }) if cause.contains("forbidden system call"));
    assert!(named, "{breach:?}");
    assert!(running.ask("s", "echo").await.is_ok());
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_sessions_than_workers_are_turned_away_until_one_ends() {
    let running = run(config(1));
    assert!(running.ask("first", "echo").await.is_ok());
    assert_eq!(running.ask("second", "echo").await.unwrap_err(), TranscodeError::Busy);
    assert_eq!(running.pool.capacity().free(), 0);
    running.pool.end_session("first");
    let mut status = running.pool.status();
    status.wait_for(|status| status.sessions == 0).await.unwrap();
    assert!(running.ask("second", "echo").await.is_ok());
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_never_serves_a_second_session() {
    let running = run(config(2));
    assert!(running.ask("first", "echo").await.is_ok());
    running.pool.end_session("first");
    // "crash-unless-fresh" would die twice on a worker that served before, and be lost.
    assert!(running.ask("second", "crash-unless-fresh").await.is_ok());
    assert_eq!(running.pool.status().borrow().lost, 0);
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_queue_is_bounded_and_says_what_it_drops() {
    let running = run(config(1));
    assert!(running.ask("s", "echo").await.is_ok());
    let asked: Vec<_> = (0..10)
        .map(|_| {
            let pool = running.pool.clone();
            tokio::spawn(async move { pool.transcode("s", request("slow", PATIENCE)).await })
        })
        .collect();
    let (mut done, mut busy) = (0, 0);
    for one in asked {
        match one.await.unwrap() {
            Ok(_) => done += 1,
            Err(TranscodeError::Busy) => busy += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert!(done >= 1 && busy >= 1 && done + busy == 10, "{done} done, {busy} turned away");
    assert_eq!(running.pool.status().borrow().turned_away, busy);
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_replaced_after_its_share_without_anybody_noticing() {
    let recycle = Recycle { segments: 2, ..Recycle::DEFAULT };
    let running = run(PoolConfig { recycle, ..config(1) });
    for _ in 0..5 {
        assert!(running.ask("s", "echo").await.is_ok());
    }
    let status = running.pool.status().borrow().clone();
    assert_eq!((status.done, status.recycled, status.lost), (5, 2, 0), "{status:?}");
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_leaks_is_replaced() {
    let running = run(config(1));
    for behaviour in ["echo", "leak", "echo"] {
        assert!(running.ask("s", behaviour).await.is_ok(), "{behaviour}");
    }
    let status = running.pool.status().borrow().clone();
    assert_eq!((status.done, status.recycled, status.lost), (3, 1, 0), "{status:?}");
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_do_not_start_are_given_up_loudly() {
    let restart = Restart {
        first: Duration::from_millis(1),
        max: Duration::from_millis(5),
        cap: 3,
        window: Duration::from_secs(600),
    };
    let running = run(PoolConfig { restart, ..PoolConfig::new(plan(ProcessLimits::default(), &["--unfit"]), 1, 2) });
    let refused = running.ask("s", "echo").await;
    assert!(matches!(&refused, Err(TranscodeError::Unfit { reason }) if reason.contains("install")), "{refused:?}");
    let PoolError::GaveUp { last } = running.driver.await.unwrap().unwrap_err();
    assert!(last.contains("install"), "{last}");
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_finishes_the_segment_in_hand_and_refuses_the_rest() {
    let running = run(config(1));
    assert!(running.ask("s", "echo").await.is_ok());
    let pool = running.pool.clone();
    let in_hand = tokio::spawn(async move { pool.transcode("s", request("slow", PATIENCE)).await });
    running.pool.status().wait_for(|status| status.busy == 1).await.unwrap();
    let pool = running.pool.clone();
    running.end().await;
    assert!(in_hand.await.unwrap().is_ok());
    assert_eq!(pool.transcode("s", request("echo", PATIENCE)).await.unwrap_err(), TranscodeError::Stopped);
}
