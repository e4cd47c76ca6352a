//! The workers: who transcodes which segment, and what happens when a worker does not come back.
//!
//! Walk 1, steps 7 to 9; walk 4, step 1. The pool is the only part that starts, feeds and ends workers.
//! What it decides of one worker is in [`state`], which segment comes next in [`schedule`], both pure; [`spawn`]
//! holds a worker's process, one thread each; [`driver`] is the one task that owns them all.
use std::collections::BTreeSet;
use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use livepeer::capability::CapabilitySet;
use livepeer::profile::Profile;
use livepeer::units::Pixels;
use sandbox::launch::LaunchPlan;
use sandbox::memfd::Sealed;
use sandbox::message::{Clip, JobError, Ready, Rendition};
use service::Restart;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::admission::load::Load;
use crate::engines::Engines;

mod driver;
mod schedule;
mod spawn;
mod state;
mod warm_up;

pub use driver::{Driver, PoolError};
pub use schedule::{Full, Schedule, Start, Ticket};
pub use state::{Action, Event, JobId, Phase, Recycle, WorkerState};
pub use warm_up::WarmUp;

/// Turns segments into renditions.
///
/// The real body is the pool of jailed workers; tests have one that is scripted.
pub trait Transcoder: Send + Sync + 'static {
    /// Transcodes one segment of a session. Segments of one session run one after the other, in the order
    /// of the calls. Dropping the future gives the result up, not the worker.
    ///
    /// # Errors
    /// [`TranscodeError`]: see there for whose fault it is and whether another try makes sense.
    fn transcode(
        &self,
        session: &str,
        request: TranscodeRequest,
    ) -> impl Future<Output = Result<Transcoded, TranscodeError>> + Send;

    /// Forgets a session: its worker ends after the segment in hand. Unknown sessions are nothing to it.
    fn end_session(&self, session: &str);

    /// How much room there is now.
    fn capacity(&self) -> Capacity;

    /// The load that newcomers are measured against; without one they are only counted.
    fn load(&self) -> Option<&Load> {
        None
    }
}

/// One segment to transcode.
#[derive(Debug)]
pub struct TranscodeRequest {
    /// The media, sealed.
    pub segment: Sealed,
    /// Renditions wanted, 1 to 10, in the order of the results.
    pub profiles: Vec<Profile>,
    /// Part of the segment to keep, or all of it.
    pub clip: Option<Clip>,
    /// Time from now after which nobody wants the result any more; covers the wait and a second try.
    pub deadline: Duration,
    /// Longest content, in milliseconds.
    pub max_duration_ms: u64,
    /// Largest rendition, in bytes.
    pub max_output_bytes: u64,
    /// Written into the container's metadata, e.g. `Livepeer Transcoder 0.1.0 (offchain)`.
    pub service_provider: String,
    /// What another box has to know of the segment.
    pub origin: Origin,
    /// Wants each rendition's MPEG-7 signature too.
    pub signatures: bool,
}

/// Where a segment comes from and what its job needs: what a box that transcodes for us is told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Origin {
    /// The stream, as the gateway names it.
    pub manifest_id: Vec<u8>,
    /// Number of the segment in its stream.
    pub seq: i64,
    /// Length of the content as the gateway states it.
    pub duration: Duration,
    /// Capabilities the job needs.
    pub needs: CapabilitySet,
    /// Did an earlier segment of the session have pictures?
    pub video_seen: bool,
    /// Version the gateway insists on, or empty.
    pub min_version: String,
    /// Who we are in the metadata: our account, or `offchain`.
    pub orchestrator: String,
}

/// A transcoded segment. Everything in it has been checked against the request.
#[derive(Debug, Clone)]
pub struct Transcoded {
    /// One output per profile, in order.
    pub renditions: Vec<Output>,
    /// Frames the decoder gave.
    pub decoded_frames: u64,
    /// Σ width × height of the decoded frames.
    pub decoded_pixels: Pixels,
    /// Length of the content.
    pub duration: Duration,
    /// Wall time from the call to the result, waiting and retries included.
    pub took: Duration,
    /// Processor time of the worker for this job.
    pub cpu: Duration,
}

impl Transcoded {
    /// Pixels of all renditions: what is billed.
    #[must_use]
    pub fn encoded_pixels(&self) -> Pixels {
        Pixels(self.renditions.iter().fold(0, |sum, output| sum.saturating_add(output.rendition.pixels.0)))
    }
}

/// One rendition and its bytes.
#[derive(Debug, Clone)]
pub struct Output {
    /// Size, frames and pixels.
    pub rendition: Rendition,
    /// The file; the worker's sealed memory, mapped, not copied.
    pub media: Bytes,
    /// The MPEG-7 signature of its pictures, where it was asked for and they have one.
    pub signature: Option<Bytes>,
}

/// Why a segment was not transcoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TranscodeError {
    /// The stream's fault, in the words the gateway reacts to; another try will not help.
    #[error(transparent)]
    Job(#[from] JobError),
    /// Our fault: the worker died or lied, and so did its replacement.
    #[error("the worker was lost: {cause}")]
    WorkerLost {
        /// What became of it, for our log; never shown to a peer.
        cause: String,
    },
    /// No worker is free and no room is left to wait in. The gateway may try again, or elsewhere.
    #[error("no worker is free")]
    Busy,
    /// The deadline passed.
    #[error("the deadline passed")]
    Timeout,
    /// Workers cannot be started here; a person must act.
    #[error("no worker can be started: {reason}")]
    Unfit {
        /// What is missing and what to do.
        reason: String,
    },
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopped,
    /// Nobody here or attached to us can take it.
    #[error(transparent)]
    Nobody(#[from] crate::remote::registry::Nobody),
}

impl TranscodeError {
    /// A word for counting.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Job(_) => "stream",
            Self::WorkerLost { .. } => "worker-lost",
            Self::Busy => "busy",
            Self::Timeout => "timeout",
            Self::Unfit { .. } => "unfit",
            Self::Stopped => "stopped",
            Self::Nobody(_) => "nobody",
        }
    }
}

/// Room in the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Capacity {
    /// Sessions that can run at the same time.
    pub total: usize,
    /// Sessions that hold a worker now.
    pub busy: usize,
}

impl Capacity {
    /// Sessions that could still be taken.
    #[must_use]
    pub fn free(self) -> usize {
        self.total.saturating_sub(self.busy)
    }
}

/// Segments of one session that may wait behind the one in hand.
pub const SESSION_QUEUE: usize = 4;
/// Requests on their way to the driver; each waits there under its own deadline, so few need to wait here.
const REQUESTS: usize = 64;
/// How long after its deadline a request is answered at the latest: killing a worker takes its time.
const GRACE: Duration = Duration::from_secs(2);

/// How much runs at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parallel {
    /// Segments at the same time, each of another session; at least 1.
    pub slots: usize,
    /// Processor threads that they share; at least 1.
    pub threads: usize,
}

impl Parallel {
    /// For a box with so many processor threads that encodes in software: a segment keeps about two of them busy even
    /// with one thread for each encoder, since its renditions run side by side.
    #[must_use]
    pub fn of(threads: usize) -> Self {
        let threads = threads.max(1);
        Self { slots: threads.div_ceil(2).max(2).min(threads), threads }
    }

    /// So much of it, but never nothing.
    #[must_use]
    pub fn percent(self, percent: u8) -> Self {
        let part = |whole: usize| (whole.saturating_mul(usize::from(percent)) / 100).max(1);
        Self { slots: part(self.slots), threads: part(self.threads) }
    }
}

/// What the pool is made of.
#[derive(Debug, Clone)]
pub struct PoolConfig {
    /// How a worker is started.
    pub launch: LaunchPlan,
    /// GStreamer's cache of plugins, written once before the first worker; must be the launch plan's.
    pub registry: Option<PathBuf>,
    /// What the workers may encode with; without it `launch` says so.
    pub engines: Option<Arc<Engines>>,
    /// Sessions at the same time, each with a worker of its own; at least 1.
    pub sessions: usize,
    /// Workers kept ready for sessions to come, within `sessions`; 1 or 2.
    pub idle: usize,
    /// How much runs at a time.
    pub parallel: Parallel,
    /// Percent of the measured speed that sessions never get.
    pub headroom_percent: u8,
    /// What a worker does before it counts as ready; none in tests whose workers transcode nothing.
    pub warm_up: Option<Arc<WarmUp>>,
    /// How long a worker may take to be ready.
    pub start_timeout: Duration,
    /// When a worker is replaced although nothing is wrong with it.
    pub recycle: Recycle,
    /// How workers that do not even start are tried again, and when not any more.
    pub restart: Restart,
}

impl PoolConfig {
    /// Usual values for a box with so many processor threads.
    #[must_use]
    pub fn new(launch: LaunchPlan, sessions: usize, threads: usize) -> Self {
        Self {
            launch,
            registry: None,
            engines: None,
            sessions: sessions.max(1),
            idle: 1,
            parallel: Parallel::of(threads),
            headroom_percent: 20,
            warm_up: None,
            start_timeout: Duration::from_secs(60),
            recycle: Recycle::DEFAULT,
            restart: Restart::DEFAULT,
        }
    }
}

/// What the pool says of itself.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PoolStatus {
    /// What a worker proved last; `None` until the first is ready.
    pub proved: Option<Ready>,
    /// Workers that are starting.
    pub starting: usize,
    /// Workers that wait for a session or for the next segment of theirs.
    pub ready: usize,
    /// Workers at work.
    pub busy: usize,
    /// Sessions that hold a worker.
    pub sessions: usize,
    /// Segments that wait.
    pub waiting: usize,
    /// Segments transcoded.
    pub done: u64,
    /// Segments that failed by the stream's fault.
    pub refused: u64,
    /// Workers that died, hung or lied with a segment in hand.
    pub lost: u64,
    /// Workers replaced as a precaution.
    pub recycled: u64,
    /// Requests turned away for want of room.
    pub turned_away: u64,
    /// Segments dropped while they waited, since they could not be done in time any more.
    pub dropped: u64,
    /// What became of the last worker that was lost or did not start.
    pub last_loss: Option<String>,
}

/// A request on its way to the driver.
#[derive(Debug)]
struct Order {
    session: String,
    request: TranscodeRequest,
    arrived: Instant,
    reply: oneshot::Sender<Result<Transcoded, TranscodeError>>,
}

/// The pool of jailed workers, as requests see it. Clones are the same pool.
#[derive(Debug, Clone)]
pub struct Pool {
    orders: mpsc::Sender<Order>,
    ended: Arc<Ended>,
    status: watch::Receiver<PoolStatus>,
    sessions: usize,
    load: Load,
    parallel: Arc<watch::Sender<Parallel>>,
    engines: Option<Arc<Engines>>,
}

/// Sessions to be forgotten, for the driver to take; a set, so that it stays as small as there are sessions.
#[derive(Debug, Default)]
struct Ended {
    sessions: Mutex<BTreeSet<String>>,
    news: Notify,
}

impl Pool {
    /// A pool and the driver that makes it work; nothing starts before the driver runs.
    #[must_use]
    pub fn new(config: PoolConfig) -> (Self, Driver) {
        let (orders, inbox) = mpsc::channel(REQUESTS);
        let (publish, status) = watch::channel(PoolStatus::default());
        let ended = Arc::new(Ended::default());
        let load = Load::new(config.headroom_percent);
        let (parallel, in_force) = watch::channel(config.parallel);
        let pool = Self {
            orders,
            ended: Arc::clone(&ended),
            status,
            sessions: config.sessions,
            load: load.clone(),
            parallel: Arc::new(parallel),
            engines: config.engines.clone(),
        };
        (pool, Driver::new(config, inbox, ended, publish, in_force, load))
    }

    /// Changes how much runs at a time; segments at work go on as they are.
    pub fn set_parallel(&self, parallel: Parallel) {
        self.parallel.send_if_modified(|now| std::mem::replace(now, parallel) != parallel);
    }

    /// What the workers may encode with, where that is chosen.
    #[must_use]
    pub fn engines(&self) -> Option<Arc<Engines>> {
        self.engines.clone()
    }

    /// The pool's status, as it changes.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<PoolStatus> {
        self.status.clone()
    }

    /// Waits until a worker is ready, and says what it proved. Cancel safe.
    ///
    /// # Errors
    /// [`TranscodeError::Unfit`] when the driver has ended without a worker ever being ready.
    pub async fn proved(&self) -> Result<Ready, TranscodeError> {
        let mut status = self.status.clone();
        let ready =
            status.wait_for(|status| status.proved.is_some()).await.ok().and_then(|status| status.proved.clone());
        ready.ok_or_else(|| TranscodeError::Unfit {
            reason: self.status.borrow().last_loss.clone().unwrap_or_else(|| "the pool has ended".to_owned()),
        })
    }
}

impl Transcoder for Pool {
    async fn transcode(&self, session: &str, request: TranscodeRequest) -> Result<Transcoded, TranscodeError> {
        let latest = request.deadline.saturating_add(GRACE);
        let (reply, answer) = oneshot::channel();
        let order = Order { session: session.to_owned(), request, arrived: Instant::now(), reply };
        self.orders.try_send(order).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => TranscodeError::Busy,
            mpsc::error::TrySendError::Closed(_) => TranscodeError::Stopped,
        })?;
        match tokio::time::timeout(latest, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(TranscodeError::Stopped),
            Err(_) => Err(TranscodeError::Timeout),
        }
    }

    fn end_session(&self, session: &str) {
        self.load.release(session);
        self.ended.sessions.lock().unwrap_or_else(PoisonError::into_inner).insert(session.to_owned());
        self.ended.news.notify_one();
    }

    fn capacity(&self) -> Capacity {
        Capacity { total: self.sessions, busy: self.status.borrow().sessions }
    }

    fn load(&self) -> Option<&Load> {
        Some(&self.load)
    }
}
