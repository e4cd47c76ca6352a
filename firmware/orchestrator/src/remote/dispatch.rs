//! One segment to one attached transcoder, and what becomes of it.
//!
//! Walk 1, step 6, outwards. A task has a number nobody can guess and is known only while we wait for it: results
//! that are late, forged or for somebody else's task find nothing.
use std::sync::Arc;
use std::time::Duration;

use livepeer::capability::{Capability, CapabilitySet};
use livepeer::units::Pixels;
use livepeer::wire::{net, profiles_into_seg_data};
use rand::RngCore;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Remotes;
use super::registry::{LOCAL, MemberId, Work};
use super::results::{Report, Task};
use super::verify::{self, Lie, Part};
use crate::info::VERSION;
use crate::pool::{Output, TranscodeRequest, Transcoded};

/// What stands where the network once had something.
const LEGACY: &[u8] = b"invalid";
/// Files of a rendition: itself, and its signature.
const FILES: usize = 2;

/// Why an attached transcoder brought no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    #[error("it went away")]
    Gone,
    #[error("it does not listen")]
    Deaf,
    #[error("it took too long")]
    Late,
    #[error("it said: {0}")]
    Said(String),
    #[error("its result could not be read: {0}")]
    Broken(String),
    #[error("its result is wrong: {0}")]
    Lie(#[from] Lie),
}

/// A segment that lies ready to be fetched for as long as this lives.
#[derive(Debug)]
pub(crate) struct Input {
    remotes: Arc<Remotes>,
    path: String,
}

impl Input {
    /// Where to fetch it.
    fn url(&self) -> String {
        format!("{}{}", self.remotes.service_uri, self.path)
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        self.remotes.lock().inputs.remove(&self.path);
    }
}

/// A segment in a member's hands.
pub(crate) struct InHand<'a> {
    remotes: &'a Remotes,
    member: MemberId,
    /// The task waited for, when the member is another box.
    task: Option<i64>,
    /// Segments in these hands, this one included.
    pub(crate) beside: usize,
}

impl Drop for InHand<'_> {
    fn drop(&mut self) {
        let mut inner = self.remotes.lock();
        if let Some(task) = self.task {
            inner.tasks.remove(&task);
        }
        inner.registry.end(self.member);
    }
}

impl Remotes {
    /// Lays a segment ready, at a path nobody can guess.
    pub(crate) fn lay_ready(
        self: &Arc<Self>,
        session: &str,
        request: &TranscodeRequest,
    ) -> Result<Input, sandbox::memfd::MemfdError> {
        let mut random = [0; 16];
        rand::rngs::OsRng.fill_bytes(&mut random);
        let session: String = session.chars().filter(char::is_ascii_alphanumeric).take(64).collect();
        let path = format!("/stream/{session}/{}-{}.tempfile", request.origin.seq, hex::encode(random));
        let media = bytes::Bytes::from_owner(request.segment.map()?);
        self.lock().inputs.insert(path.clone(), media);
        Ok(Input { remotes: Arc::clone(self), path })
    }

    /// Gives a segment to an attached transcoder and waits for its renditions, checked.
    pub(crate) async fn ask(
        &self,
        member: MemberId,
        session: &str,
        request: &TranscodeRequest,
        input: &Input,
        limit: Duration,
    ) -> Result<Transcoded, Fault> {
        let began = Instant::now();
        let (reply, report) = oneshot::channel();
        let in_hand = {
            // Positive, and not zero: what the network's own clients can read.
            let number = i64::try_from(rand::rngs::OsRng.next_u64() >> 1).unwrap_or(1).max(1);
            let mut inner = self.lock();
            let line = inner.lines.get(&member).ok_or(Fault::Gone)?;
            let notice = notify(session, number, request, input.url());
            line.notices.try_send(notice).map_err(|_| Fault::Deaf)?;
            let task = Task {
                member,
                reply,
                renditions: request.profiles.len(),
                files: request.profiles.len().saturating_mul(FILES),
                max_bytes: request.max_output_bytes,
                until: began + limit,
            };
            inner.tasks.insert(number, task);
            InHand { remotes: self, member, task: Some(number), beside: inner.registry.begin(member) }
        };
        let report = match tokio::time::timeout(limit, report).await {
            Err(_) => return Err(Fault::Late),
            Ok(Err(_)) => return Err(Fault::Gone),
            Ok(Ok(report)) => report,
        };
        let beside = in_hand.beside;
        drop(in_hand);
        let (parts, decoded) = match report {
            Report::Done { parts, decoded, memory: _held } => (parts, decoded),
            Report::Said(text) => return Err(Fault::Said(text)),
            Report::Broken(text) => return Err(Fault::Broken(text)),
        };
        let took = began.elapsed();
        let segment = self.lock().inputs.get(&input.path).cloned().unwrap_or_default();
        let renditions = checked(request, parts, segment).await?;
        let transcoded = Transcoded {
            renditions,
            decoded_frames: 0,
            decoded_pixels: Pixels(decoded),
            duration: request.origin.duration,
            took,
            cpu: Duration::ZERO,
        };
        self.succeeded(member, session, request, &transcoded, beside);
        Ok(transcoded)
    }

    /// A segment is in the hands of our own pool for as long as this lives.
    pub(crate) fn in_our_hands(&self) -> InHand<'_> {
        let beside = self.lock().registry.begin(LOCAL);
        InHand { remotes: self, member: LOCAL, task: None, beside }
    }

    /// A member did a segment right.
    pub(crate) fn succeeded(
        &self,
        member: MemberId,
        session: &str,
        request: &TranscodeRequest,
        done: &Transcoded,
        beside: usize,
    ) {
        #[expect(clippy::cast_precision_loss, reason = "a measure of load, not of money")]
        let pixels = done.encoded_pixels().0 as f64;
        let work = Work { pixels, content: request.origin.duration, took: done.took };
        let now = self.now();
        self.lock().registry.succeeded(member, session, work, beside, now);
    }

    /// Tells a transcoder that a session is over.
    pub(crate) fn tear_down(&self, member: MemberId, session: &str) {
        if member == LOCAL {
            return;
        }
        if let Some(line) = self.lock().lines.get(&member)
            && line.notices.try_send(teardown(session)).is_err()
        {
            tracing::debug!(transcoder = member, session, "transcoder was not told that a session is over");
        }
    }
}

/// Counts the pixels of a result, off the async threads: it reads every rendition.
async fn checked(request: &TranscodeRequest, parts: Vec<Part>, segment: bytes::Bytes) -> Result<Vec<Output>, Fault> {
    let profiles = request.profiles.clone();
    let counting = tokio::task::spawn_blocking(move || {
        let renditions = verify::verify(&profiles, &parts, &segment)?;
        let outputs = renditions.into_iter().zip(parts).map(|(rendition, part)| Output {
            rendition,
            media: part.media,
            signature: part.signature,
        });
        Ok::<_, Lie>(outputs.collect())
    });
    Ok(counting.await.map_err(|error| Fault::Broken(error.to_string()))??)
}

/// What a transcoder has to be able to do for this job: storage and tokens are between us and the gateway.
pub(crate) fn transcoding_needs(needs: &CapabilitySet) -> CapabilitySet {
    let ours = [Capability::StorageDirect, Capability::StorageS3, Capability::StorageGcs, Capability::AuthToken];
    needs.iter().filter(|number| ours.iter().all(|own| *own as u32 != *number)).collect()
}

fn notify(session: &str, task: i64, request: &TranscodeRequest, url: String) -> net::NotifySegment {
    let origin = &request.origin;
    let mut data = net::SegData {
        manifest_id: origin.manifest_id.clone(),
        seq: origin.seq,
        hash: vec![0; 32],
        profiles: LEGACY.to_vec(),
        duration: i32::try_from(origin.duration.as_millis()).unwrap_or(i32::MAX),
        capabilities: Some(net::Capabilities {
            constraints: Some(net::capabilities::Constraints {
                min_version: origin.min_version.clone(),
                ..net::capabilities::Constraints::default()
            }),
            ..livepeer::wire::capabilities_to_wire(&transcoding_needs(&origin.needs), VERSION)
        }),
        auth_token: Some(session_only(session)),
        calc_perceptual_hash: request.signatures,
        segment_parameters: request.clip.map(|clip| net::SegParameters { from: clip.from_ms, to: clip.to_ms }),
        ..net::SegData::default()
    };
    profiles_into_seg_data(&request.profiles, &mut data);
    net::NotifySegment {
        url,
        task_id: task,
        seg_data: Some(data),
        profiles: LEGACY.to_vec(),
        orch_id: origin.orchestrator.clone(),
    }
}

fn teardown(session: &str) -> net::NotifySegment {
    let data = net::SegData { auth_token: Some(session_only(session)), ..net::SegData::default() };
    net::NotifySegment { seg_data: Some(data), ..net::NotifySegment::default() }
}

/// A token that names the session and opens nothing.
fn session_only(session: &str) -> net::AuthToken {
    net::AuthToken { session_id: session.to_owned(), ..net::AuthToken::default() }
}
