//! Decoding for `--verify`: in a jailed worker, because what comes back from an orchestrator is hostile media.
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use gateway::{DecodeError, Decoded, Decoder, Decoding};
use sandbox::launch::{RunError, Worker};
use sandbox::memfd::Sealed;
use sandbox::message::{Job, Limits, Signatures};

use crate::failure::{self, Code, Failure};
use crate::worker;

/// How long a piece of media may be decoded.
const PATIENCE: Duration = Duration::from_secs(60);

/// A jailed worker that is started again when media has killed it.
#[derive(Debug)]
pub(crate) struct Jailed {
    program: PathBuf,
    worker: Arc<Mutex<Option<Worker>>>,
    jobs: AtomicU64,
}

impl Jailed {
    /// Starts the worker, so that one that cannot work says so at once.
    pub(crate) async fn start(told: Option<PathBuf>) -> failure::Result<Self> {
        let starting = tokio::task::spawn_blocking(move || {
            let program = worker::find(told.as_deref())?;
            let (worker, _) = worker::start(&program, false)?;
            Ok(Self { program, worker: Arc::new(Mutex::new(Some(worker))), jobs: AtomicU64::new(1) })
        });
        let started = starting.await;
        started.unwrap_or_else(|error| Err(Failure::new(Code::Software, format!("the worker's thread broke: {error}"))))
    }
}

impl Decoder for Jailed {
    fn decode(&self, media: Bytes) -> Decoding<'_> {
        let (program, worker) = (self.program.clone(), Arc::clone(&self.worker));
        let id = self.jobs.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            let decoding = tokio::task::spawn_blocking(move || decode(&program, &worker, id, &media));
            decoding.await.unwrap_or_else(|error| Err(DecodeError::Unavailable(error.to_string())))
        })
    }
}

/// Decodes with the worker there is, or a new one. Media that kills two of them is no good.
fn decode(program: &Path, shared: &Mutex<Option<Worker>>, id: u64, media: &[u8]) -> Result<Decoded, DecodeError> {
    let unavailable = |error: &dyn std::error::Error| DecodeError::Unavailable(service::with_causes(error));
    let sealed = Sealed::from_bytes(media).map_err(|error| unavailable(&error))?;
    let limits = Limits { deadline_ms: u64::try_from(PATIENCE.as_millis()).unwrap_or(u64::MAX), ..Limits::default() };
    let job = Job {
        id,
        profiles: Vec::new(),
        clip: None,
        limits,
        threads: 1,
        service_provider: String::new(),
        signatures: Signatures::Source,
        video_seen: false,
    };
    let mut held = shared.lock().unwrap_or_else(PoisonError::into_inner);
    let mut lost = String::new();
    for _ in 0..2 {
        let mut worker = match held.take() {
            Some(worker) => worker,
            None => worker::start(program, false).map_err(|f| DecodeError::Unavailable(f.to_string()))?.0,
        };
        match worker.run(&job, sealed.as_fd(), PATIENCE) {
            Ok((done, signatures)) => {
                *held = Some(worker);
                let signature = signatures.first().filter(|file| !file.is_empty()).map(Sealed::to_vec).transpose();
                let signature = signature.map_err(|error| unavailable(&error))?.map(Bytes::from);
                return Ok(Decoded { frames: done.decoded_frames, pixels: done.decoded_pixels, signature });
            }
            Err(RunError::Job { error, detail }) => {
                *held = Some(worker);
                return Err(DecodeError::Media(format!("{error} {detail}").trim().to_owned()));
            }
            Err(error) => lost = service::with_causes(&error),
        }
    }
    Err(DecodeError::Media(lost))
}
