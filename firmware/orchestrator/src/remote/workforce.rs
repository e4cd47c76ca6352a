//! All who can transcode: our own pool, and the boxes attached to us.
//!
//! Walk 1, step 6. A segment goes to one of them; when that one fails, or takes so long that another could still
//! make it, to the next, until the deadline. A stream that is said to be at fault gets a second opinion, since the
//! gateway will not try it anywhere else.
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use livepeer::capability::CapabilitySet;
use livepeer::profile::Profile;
use sandbox::message::JobError;
use tokio::time::Instant;

use super::Remotes;
use super::dispatch::{Fault, transcoding_needs};
use super::registry::{LOCAL, MemberId, Nobody, Wanted};
use crate::admission::load::Load;
use crate::info::VERSION;
use crate::pool::{Capacity, TranscodeError, TranscodeRequest, Transcoded, Transcoder};

/// Frames per second of a rendition that keeps those of its source.
const PASSTHROUGH_FPS: f64 = 30.0;
/// Below this no attempt is worth its start.
const SHORTEST: Duration = Duration::from_millis(200);

/// Our own pool and the attached transcoders, as one transcoder.
pub struct Workforce<L> {
    local: L,
    local_can: Box<dyn Fn() -> CapabilitySet + Send + Sync>,
    remotes: Arc<Remotes>,
}

impl<L: fmt::Debug> fmt::Debug for Workforce<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workforce").field("local", &self.local).finish_non_exhaustive()
    }
}

/// What came of an attempt.
enum Attempt {
    Done(Transcoded),
    /// The stream is said to be at fault.
    Blamed(JobError),
    Failed(TranscodeError),
}

impl<L: Transcoder> Workforce<L> {
    /// Both as one. `local_can` says what our own pool can do; it is asked for each segment.
    pub fn new(local: L, local_can: impl Fn() -> CapabilitySet + Send + Sync + 'static, remotes: Arc<Remotes>) -> Self {
        Self { local, local_can: Box::new(local_can), remotes }
    }

    /// Gives the segment to one after the other until one of them has it right.
    async fn hand_round(&self, session: &str, request: &TranscodeRequest) -> Result<Transcoded, TranscodeError> {
        let began = Instant::now();
        let needs = transcoding_needs(&request.origin.needs);
        let rate = request.profiles.iter().map(pixel_rate).sum();
        let mut tried: Vec<MemberId> = Vec::new();
        let mut blamed: Vec<(MemberId, JobError)> = Vec::new();
        let mut failure = None;
        let mut input = None;
        loop {
            let left = request.deadline.saturating_sub(began.elapsed());
            let min_version = &request.origin.min_version;
            let wanted = Wanted { session, needs: &needs, min_version, rate, tried: &tried };
            let chosen = if left < SHORTEST { Err(Nobody::Available) } else { self.remotes.choose(&wanted) };
            let chosen = match (chosen, blamed.first()) {
                (Ok(chosen), _) => chosen,
                (Err(_), Some((_, error))) => return Err((*error).into()),
                (Err(_), None) if left < SHORTEST => return Err(failure.unwrap_or(TranscodeError::Timeout)),
                (Err(nobody), None) => return Err(failure.unwrap_or_else(|| TranscodeError::Nobody(nobody))),
            };
            if let Some(before) = chosen.before {
                self.leave(before, session);
            }
            let member = chosen.member;
            let attempt = if member == LOCAL {
                self.here(session, request, left).await
            } else {
                let input = match &mut input {
                    Some(input) => &*input,
                    none => &*none.insert(self.remotes.lay_ready(session, request).map_err(unreadable)?),
                };
                // Half of the time that is left, so that another one can still make it.
                let limit = if self.remotes.has_other(&wanted, member) { left / 2 } else { left };
                elsewhere(self.remotes.ask(member, session, request, input, limit).await)
            };
            match attempt {
                Attempt::Done(mut done) => {
                    for (member, _) in blamed {
                        self.fail(member, session, "it blamed the stream for its own fault");
                    }
                    done.took = began.elapsed();
                    return Ok(done);
                }
                // Our own workers are believed; of others, two of the same opinion.
                Attempt::Blamed(error) if member == LOCAL || blamed.iter().any(|(_, other)| *other == error) => {
                    return Err(error.into());
                }
                Attempt::Blamed(error) => blamed.push((member, error)),
                Attempt::Failed(error) => {
                    self.fail(member, session, &error.to_string());
                    failure = Some(error);
                }
            }
            tried.push(member);
        }
    }

    async fn here(&self, session: &str, request: &TranscodeRequest, left: Duration) -> Attempt {
        let segment = match request.segment.try_clone() {
            Ok(segment) => segment,
            Err(error) => return Attempt::Failed(unreadable(error)),
        };
        let in_hand = self.remotes.in_our_hands();
        let own = TranscodeRequest {
            segment,
            profiles: request.profiles.clone(),
            deadline: left,
            service_provider: request.service_provider.clone(),
            origin: request.origin.clone(),
            ..*request
        };
        match self.local.transcode(session, own).await {
            Ok(done) => {
                self.remotes.succeeded(LOCAL, session, request, &done, in_hand.beside);
                Attempt::Done(done)
            }
            Err(TranscodeError::Job(error)) => Attempt::Blamed(error),
            Err(error) => Attempt::Failed(error),
        }
    }

    /// Takes note that a member failed a segment, and takes its session away.
    fn fail(&self, member: MemberId, session: &str, reason: &str) {
        if member != LOCAL {
            tracing::warn!(transcoder = member, session, reason, "attached transcoder failed a segment");
        }
        let now = self.remotes.now();
        self.remotes.lock().registry.failed(member, session, now);
        self.leave(member, session);
    }

    /// A session has moved away.
    fn leave(&self, member: MemberId, session: &str) {
        if member == LOCAL {
            self.local.end_session(session);
        } else {
            self.remotes.tear_down(member, session);
        }
    }
}

impl<L: Transcoder> Transcoder for Workforce<L> {
    async fn transcode(&self, session: &str, request: TranscodeRequest) -> Result<Transcoded, TranscodeError> {
        if !self.remotes.takes_any() {
            return self.local.transcode(session, request).await;
        }
        let (room, can) = (self.local.capacity().total, (self.local_can)());
        self.remotes.lock().registry.set_local(room, can, VERSION);
        self.hand_round(session, &request).await
    }

    fn end_session(&self, session: &str) {
        self.local.end_session(session);
        let had = self.remotes.lock().registry.forget(session);
        if let Some(member) = had {
            self.remotes.tear_down(member, session);
        }
    }

    fn capacity(&self) -> Capacity {
        let local = self.local.capacity();
        let (total, busy) = self.remotes.capacity();
        Capacity { total: local.total.saturating_add(total), busy: local.busy.saturating_add(busy) }
    }

    /// Our own pool's; attached transcoders say how many sessions they take.
    fn load(&self) -> Option<&Load> {
        self.local.load()
    }
}

/// Our own memory failed us.
fn unreadable(error: sandbox::memfd::MemfdError) -> TranscodeError {
    TranscodeError::WorkerLost { cause: error.to_string() }
}

fn elsewhere(result: Result<Transcoded, Fault>) -> Attempt {
    match result {
        Ok(done) => Attempt::Done(done),
        Err(Fault::Late) => Attempt::Failed(TranscodeError::Timeout),
        Err(Fault::Said(text)) => match streams_fault(&text) {
            Some(error) => Attempt::Blamed(error),
            None => Attempt::Failed(TranscodeError::WorkerLost { cause: Fault::Said(text).to_string() }),
        },
        Err(fault) => Attempt::Failed(TranscodeError::WorkerLost { cause: fault.to_string() }),
    }
}

/// The words on which a gateway blames the stream.
///
/// *Source:* livepeer-wire §1.5.
fn streams_fault(text: &str) -> Option<JobError> {
    let known = [
        JobError::UnsupportedPixelFormat,
        JobError::TooManyOutputs,
        JobError::UnsupportedCodec,
        JobError::NoKeyframes,
        JobError::Runaway,
        JobError::UnknownContainer,
        JobError::EncoderNotFound,
        JobError::InvalidArgument,
        JobError::InvalidResolution,
        JobError::InvalidVideo,
        JobError::UnrecognizedFormat,
        JobError::UnrecognizedProfile,
        JobError::InvalidGop,
    ];
    known.into_iter().find(|error| error.to_string() == text)
}

/// Pixels per second of content.
fn pixel_rate(profile: &Profile) -> f64 {
    let fps = profile.fps.map_or(PASSTHROUGH_FPS, |fps| f64::from(fps.num) / f64::from(fps.den.max(1)));
    f64::from(profile.width) * f64::from(profile.height) * fps
}
