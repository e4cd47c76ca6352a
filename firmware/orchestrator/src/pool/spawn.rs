//! One worker's process, held by one thread: everything that blocks happens here.
//!
//! Walk 4, step 1. The thread starts the worker, gives it the jobs that come, and reports; it ends with the
//! worker, and the worker ends with it.
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use sandbox::launch::{Interrupter, LaunchPlan, RunError, Worker, launch};
use sandbox::memfd::Sealed;
use sandbox::message::{Done, Job, JobError, Ready};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::warm_up::WarmUp;
use crate::admission::load::Spent;

/// A worker's number within the pool.
pub(super) type WorkerId = u64;

/// How often an idle worker is looked at, to notice that it died.
const IDLE_LOOK: Duration = Duration::from_millis(500);
/// Jobs on their way to one worker; the state machine gives it one at a time.
const JOBS: usize = 1;

/// A job for a worker.
#[derive(Debug)]
pub(super) struct Assignment {
    pub(super) job: Job,
    pub(super) segment: Arc<Sealed>,
    pub(super) deadline: Duration,
}

/// A worker's answer: checked renditions, or the stream's fault and detail for our log.
pub(super) type Answered = Result<(Done, Vec<Sealed>), (JobError, String)>;

/// What a worker's thread has to say.
#[derive(Debug)]
pub(super) enum News {
    /// The process runs; this cuts its channel.
    Started { pid: u32, interrupter: Interrupter },
    /// It is ready; what its warm-up took.
    Ready { ready: Box<Ready>, warmed_up: Option<Spent> },
    /// It answered and lives on; the time it took, by our own count.
    Answered { job: u64, memory: u64, cpu: Duration, wall: Duration, answer: Answered },
    /// It is gone; the thread ends.
    Gone { cause: String, timed_out: bool },
}

/// How a worker comes to life.
#[derive(Debug)]
pub(super) struct Birth {
    pub(super) plan: LaunchPlan,
    pub(super) timeout: Duration,
    /// A job to do before it counts as ready.
    pub(super) warm_up: Option<Arc<WarmUp>>,
}

/// The driver's end of a worker's thread. Dropping it ends the worker when it is idle.
#[derive(Debug)]
pub(super) struct Hand {
    jobs: SyncSender<Assignment>,
}

impl Hand {
    /// Gives the worker a job; `false` when its thread is gone, which it has reported or will.
    pub(super) fn give(&self, assignment: Assignment) -> bool {
        self.jobs.try_send(assignment).is_ok()
    }
}

/// Starts a worker on a thread of its own.
///
/// # Errors
/// When no thread can be had.
pub(super) fn start(id: WorkerId, birth: Birth, news: mpsc::Sender<(WorkerId, News)>) -> std::io::Result<Hand> {
    let (jobs, inbox) = sync_channel(JOBS);
    thread::Builder::new().name(format!("worker-{id}")).spawn(move || {
        let (cause, timed_out) = hold(id, &birth, &inbox, &news);
        // The driver may have ended; then nobody wants to know.
        let _ = news.blocking_send((id, News::Gone { cause, timed_out }));
    })?;
    Ok(Hand { jobs })
}

/// Runs a worker until it is gone; returns why, and whether it was for its deadline.
fn hold(
    id: WorkerId,
    birth: &Birth,
    inbox: &Receiver<Assignment>,
    news: &mpsc::Sender<(WorkerId, News)>,
) -> (String, bool) {
    let tell = |item| news.blocking_send((id, item)).is_ok();
    let mut worker = match launch(&birth.plan) {
        Ok(worker) => worker,
        Err(error) => return (service::with_causes(&error), false),
    };
    let interrupter = match worker.interrupter() {
        Ok(interrupter) => interrupter,
        Err(error) => return (service::with_causes(&error), false),
    };
    if !tell(News::Started { pid: worker.pid(), interrupter }) {
        return ("the pool ended".to_owned(), false);
    }
    let ready = match worker.wait_ready(birth.timeout) {
        Ok(ready) => Box::new(ready),
        Err(error) => return (service::with_causes(&error), false),
    };
    let warmed_up = match birth.warm_up.as_ref().map(|warm_up| warm_up.run(&mut worker)).transpose() {
        Ok(spent) => spent,
        Err(error) => return (format!("its warm-up: {}", service::with_causes(&error)), false),
    };
    tell(News::Ready { ready, warmed_up });
    loop {
        match inbox.recv_timeout(IDLE_LOOK) {
            Ok(assignment) => match run(&mut worker, &assignment) {
                Ok(item) => {
                    tell(item);
                }
                Err(error) => return (service::with_causes(&error), matches!(error, RunError::Timeout(_))),
            },
            Err(RecvTimeoutError::Timeout) => {
                if let Some(ending) = worker.ended() {
                    return (ending.to_string(), false);
                }
            }
            Err(RecvTimeoutError::Disconnected) => return ("no longer needed".to_owned(), false),
        }
    }
}

/// Runs one job; an error means that the worker is dead.
fn run(worker: &mut Worker, assignment: &Assignment) -> Result<News, RunError> {
    use std::os::fd::AsFd;
    let (began, before) = (Instant::now(), worker.cpu_time());
    let answer = match worker.run(&assignment.job, assignment.segment.as_fd(), assignment.deadline) {
        Ok(done) => Ok(done),
        Err(RunError::Job { error, detail }) => Err((error, detail)),
        Err(fatal) => return Err(fatal),
    };
    let memory = worker.resident_memory().unwrap_or(0);
    let cpu = worker.cpu_time().saturating_sub(before);
    Ok(News::Answered { job: assignment.job.id, memory, cpu, wall: began.elapsed(), answer })
}
