//! A worker's first job, of our own: a second of known film. It touches all that a first segment would find cold, and
//! tells on a fresh box how fast it is before any gateway has asked.
use std::os::fd::AsFd;
use std::time::Duration;

use livepeer::profile::{Profile, preset};
use livepeer::units::Pixels;
use sandbox::launch::{RunError, Worker};
use sandbox::memfd::{MemfdError, Sealed};
use sandbox::message::{Job, Limits};
use tokio::time::Instant;

use crate::admission::load::{Spent, work};

/// A second of 640×360 at 30 frames per second, made by ffmpeg: see `tests/media/README.md`.
const FILM: &[u8] = include_bytes!("warm-up.ts");
/// How long it may take; far more than the slowest box needs.
const PATIENCE: Duration = Duration::from_secs(30);

/// The job and its film.
#[derive(Debug)]
pub struct WarmUp {
    film: Sealed,
    profiles: Vec<Profile>,
    threads: u32,
}

impl WarmUp {
    /// The film, to be encoded in a large and a small size by so many threads.
    ///
    /// # Errors
    /// [`MemfdError`] when the kernel gives no memory.
    pub fn new(threads: usize) -> Result<Self, MemfdError> {
        let size = |name: &str, width, height| Profile {
            width,
            height,
            ..preset(name).expect("a preset that is in the table")
        };
        let profiles = vec![size("360p", 640, 360), size("240p", 426, 240)];
        let threads = u32::try_from(threads.max(1)).unwrap_or(u32::MAX);
        Ok(Self { film: Sealed::from_bytes(FILM)?, profiles, threads })
    }

    /// Has a worker do it.
    ///
    /// # Errors
    /// [`RunError`]; a worker that fails at this is of no use.
    pub fn run(&self, worker: &mut Worker) -> Result<Spent, RunError> {
        let job = Job {
            id: 0,
            profiles: self.profiles.clone(),
            clip: None,
            limits: Limits::default(),
            threads: self.threads,
            service_provider: String::new(),
            signatures: sandbox::message::Signatures::None,
            video_seen: false,
        };
        let (began, before) = (Instant::now(), worker.cpu_time());
        let (done, _) = worker.run(&job, self.film.as_fd(), PATIENCE)?;
        let encoded = done.renditions.iter().fold(0u64, |sum, rendition| sum.saturating_add(rendition.pixels.0));
        Ok(Spent {
            work: work(Pixels(encoded), done.decoded_pixels),
            cpu: worker.cpu_time().saturating_sub(before),
            wall: began.elapsed(),
            content: Duration::from_millis(done.duration_ms),
        })
    }
}
