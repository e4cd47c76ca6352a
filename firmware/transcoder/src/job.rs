//! One segment, from its notice to its renditions.
//!
//! Walk 5, steps 2 to 5. Every failure becomes a text to the orchestrator, which may then give the segment to somebody
//! else; none of them touches the connection or another segment.
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use livepeer::capability::{Capability, CapabilitySet, version_satisfies};
use livepeer::multipart::{self, PartHead};
use livepeer::wire::{SegmentMeta, net, segment_from_wire};
use orchestrator::info::VERSION;
use orchestrator::pool::{Origin, TranscodeError, TranscodeRequest, Transcoded, Transcoder};
use rand::RngCore;
use sandbox::message::Clip;
use service::Secret;
use tokio::time::Instant;

use crate::http::{Http, HttpError, MAX_SEGMENT, Outcome};
use crate::sessions::{Sessions, Stay};

/// An orchestrator waits at least this long …
const PATIENCE: Duration = Duration::from_secs(8);
/// … and we keep this much of it for the way back.
const MARGIN: Duration = Duration::from_millis(500);
/// How long an error is worth telling beyond that.
const TELL: Duration = Duration::from_secs(10);
/// Longest content, in milliseconds.
const MAX_DURATION_MS: u64 = 300_000;

/// Why a segment was not transcoded, as the orchestrator is told.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The notice makes no sense.
    #[error("{0}")]
    Notice(String),
    /// It needs what we cannot do.
    #[error("incompatible segment capabilities")]
    Incompatible,
    /// All sessions are taken.
    #[error("TranscoderBusy")]
    Busy,
    /// The segment could not be fetched.
    #[error("input could not be fetched: {0}")]
    Fetch(String),
    /// Another number of renditions than profiles.
    #[error("segment / profile mismatch")]
    Mismatch,
    /// The workers' words, or ours for what is nobody's business.
    #[error("{}", transcode_text(.0))]
    Transcode(TranscodeError),
}

fn transcode_text(error: &TranscodeError) -> String {
    match error {
        TranscodeError::Job(fault) => fault.to_string(),
        TranscodeError::Busy | TranscodeError::Nobody(_) => "TranscoderBusy".to_owned(),
        TranscodeError::Timeout => "TranscoderTimeout".to_owned(),
        TranscodeError::Stopped => "TranscoderStopped".to_owned(),
        TranscodeError::WorkerLost { .. } | TranscodeError::Unfit { .. } => "TranscoderFailed".to_owned(),
    }
}

/// What a job needs beside its notice.
pub(crate) struct Bench<T> {
    pub(crate) transcoder: Arc<T>,
    pub(crate) can: Arc<dyn Fn() -> CapabilitySet + Send + Sync>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) http: Http,
    pub(crate) secret: Secret,
    /// Keeps sessions of different orchestrators apart.
    pub(crate) rank: usize,
}

impl<T: Transcoder> Bench<T> {
    /// The session's name among our workers.
    pub(crate) fn session_name(&self, session: &str) -> String {
        format!("{}:{session}", self.rank)
    }

    /// Serves one notice; was it done, and posted?
    pub(crate) async fn serve(&self, notice: net::NotifySegment) -> bool {
        let received = Instant::now();
        let task = notice.task_id;
        let data = notice.seg_data.clone().unwrap_or_default();
        let content = Duration::from_millis(u64::try_from(data.duration).unwrap_or(2000));
        let until = received + PATIENCE.max(content.saturating_mul(4)).saturating_sub(MARGIN);
        let (posted, done) = match self.transcode(&notice, &data, until).await {
            Ok((done, _stay)) => {
                let boundary = boundary();
                let content_type = format!("{}; boundary={boundary}", multipart::MIXED);
                let body = multipart::write(&boundary, &parts(&data, &done));
                let pixels = done.decoded_pixels.0;
                let result = Outcome { secret: &self.secret, task, pixels, content_type: &content_type, body };
                (self.http.post(&result, until + MARGIN).await, true)
            }
            Err(refusal) => {
                tracing::warn!(task, seq = data.seq, reason = %refusal, detail = detail(&refusal), "segment not transcoded");
                let body = vec![Bytes::from(refusal.to_string())];
                let result = Outcome { secret: &self.secret, task, pixels: 0, content_type: multipart::ERROR, body };
                (self.http.post(&result, Instant::now() + TELL).await, false)
            }
        };
        let took_ms = u64::try_from(received.elapsed().as_millis()).unwrap_or(u64::MAX);
        match &posted {
            Ok(()) if done => tracing::info!(task, seq = data.seq, took_ms, "segment transcoded and posted"),
            Ok(()) => {}
            Err(HttpError::Refused { status, text }) => {
                tracing::warn!(task, seq = data.seq, %status, text, "result was refused");
            }
            Err(error) => tracing::warn!(task, seq = data.seq, reason = %error, "result was not posted"),
        }
        done && posted.is_ok()
    }

    async fn transcode(
        &self,
        notice: &net::NotifySegment,
        data: &net::SegData,
        until: Instant,
    ) -> Result<(Transcoded, Stay), Refusal> {
        let meta = segment_from_wire(data).map_err(|error| Refusal::Notice(error.to_string()))?;
        if !meta.needs.is_subset(&(self.can)()) || !version_satisfies(VERSION, &meta.min_version) {
            return Err(Refusal::Incompatible);
        }
        let session = meta.auth_token.as_ref().map(|token| token.session_id.as_str()).unwrap_or_default();
        if session.is_empty() || meta.profiles.is_empty() {
            return Err(Refusal::Notice("segment data is missing its session or its profiles".to_owned()));
        }
        let stay = self.sessions.enter(&self.session_name(session)).map_err(|_| Refusal::Busy)?;
        let left = until.saturating_duration_since(Instant::now());
        // What cannot be fetched in half of the time cannot be transcoded in the other.
        let segment = self.http.fetch(&notice.url, Instant::now() + left / 2).await;
        let segment = segment.map_err(|error| Refusal::Fetch(error.to_string()))?;
        let request = TranscodeRequest {
            segment,
            profiles: meta.profiles.clone(),
            clip: meta.clip.map(|(from_ms, to_ms)| Clip { from_ms, to_ms }),
            deadline: until.saturating_duration_since(Instant::now()),
            max_duration_ms: MAX_DURATION_MS,
            max_output_bytes: MAX_SEGMENT,
            service_provider: format!("Livepeer Transcoder {VERSION} ({})", plain(&notice.orch_id)),
            origin: origin(&meta, notice, stay.video_seen()),
            signatures: meta.wants_perceptual_hash,
        };
        let done = self.transcoder.transcode(&stay.name, request).await.map_err(Refusal::Transcode)?;
        if done.renditions.len() != meta.profiles.len() {
            return Err(Refusal::Mismatch);
        }
        if done.encoded_pixels().0 > 0 {
            stay.saw_video();
        }
        Ok((done, stay))
    }
}

/// What our log gets to know.
fn detail(refusal: &Refusal) -> String {
    match refusal {
        Refusal::Transcode(error) => error.to_string(),
        _ => String::new(),
    }
}

fn origin(meta: &SegmentMeta, notice: &net::NotifySegment, video_seen: bool) -> Origin {
    Origin {
        manifest_id: meta.manifest_id.clone(),
        seq: meta.seq,
        duration: Duration::from_millis(meta.duration_ms.into()),
        needs: meta.needs.clone(),
        video_seen,
        min_version: meta.min_version.clone(),
        orchestrator: plain(&notice.orch_id),
    }
}

/// A text of a peer, fit for a container's metadata.
fn plain(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_graphic()).take(64).collect()
}

/// The renditions in order, each with its signature behind it where there is one.
fn parts(data: &net::SegData, done: &Transcoded) -> Vec<(PartHead, Bytes)> {
    let profiles = segment_from_wire(data).map(|meta| meta.profiles).unwrap_or_default();
    let pairs = profiles.iter().zip(&done.renditions);
    let rendition = |(profile, output): (&livepeer::profile::Profile, &orchestrator::pool::Output)| {
        let head = PartHead {
            content_type: profile.container.media_type().to_owned(),
            length: None,
            pixels: Some(output.rendition.pixels.0),
        };
        let hash = output.signature.clone().map(|signature| {
            (PartHead { content_type: multipart::SIGNATURE.to_owned(), ..PartHead::default() }, signature)
        });
        std::iter::once((head, output.media.clone())).chain(hash)
    };
    pairs.flat_map(rendition).collect()
}

fn boundary() -> String {
    let mut random = [0; 20];
    rand::rngs::OsRng.fill_bytes(&mut random);
    hex::encode(random)
}

/// What we can do for an orchestrator, with what is between it and its gateways.
#[must_use]
pub fn with_the_orchestrators_own(can: &CapabilitySet) -> CapabilitySet {
    let mut all = can.clone();
    for own in [Capability::StorageDirect, Capability::StorageS3, Capability::StorageGcs, Capability::AuthToken] {
        all.insert(own);
    }
    all
}
