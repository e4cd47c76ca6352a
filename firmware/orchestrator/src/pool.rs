//! The workers: who transcodes which segment, and what happens when a worker does not come back.
//!
//! Walk 1, steps 7 to 9; walk 4, step 1. The pool is the only part that starts, feeds and ends workers.
//! What it decides is in [`state`], pure; what it does is in [`spawn`].
use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use livepeer::profile::Profile;
use livepeer::units::Pixels;
use sandbox::memfd::Sealed;
use sandbox::message::{Clip, JobError, Rendition};

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
