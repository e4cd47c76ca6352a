//! All who can transcode: our own pool, and the boxes attached to us.
//!
//! Walk 1, step 6. A segment goes to one of them; when that one fails, or takes so long that another could still
//! make it, to the next too, until the deadline. A stream that is said to be at fault gets a second opinion, since the
//! gateway will not try it anywhere else.
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use livepeer::capability::CapabilitySet;
use livepeer::profile::Profile;
use sandbox::message::JobError;
use tokio::time::Instant;

use super::Remotes;
use super::dispatch::{Fault, Input, transcoding_needs};
use super::registry::{Chosen, LOCAL, MemberId, Nobody, Wanted};
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

/// How a segment went round so far.
struct Round {
    /// Another one is to be asked.
    wants_another: bool,
    tried: Vec<MemberId>,
    /// Of these, who is still at it.
    running: Vec<MemberId>,
    /// Of these, who should have been done.
    overdue: Vec<MemberId>,
    /// Who says that the stream is at fault.
    blamed: Vec<(MemberId, JobError)>,
    failure: Option<TranscodeError>,
}

impl Default for Round {
    fn default() -> Self {
        Self {
            wants_another: true,
            tried: Vec::new(),
            running: Vec::new(),
            overdue: Vec::new(),
            blamed: Vec::new(),
            failure: None,
        }
    }
}

impl Round {
    /// Nobody is left to be asked.
    fn verdict(self, nobody: Nobody) -> TranscodeError {
        let blamed = self.blamed.first().map(|(_, error)| TranscodeError::from(*error));
        blamed.or(self.failure).unwrap_or(TranscodeError::Nobody(nobody))
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

    /// Gives the segment to one after the other until one of them has it right. Who is overdue is not given up for that:
    /// the first right result is taken, whosever it is.
    async fn hand_round(&self, session: &str, request: &TranscodeRequest) -> Result<Transcoded, TranscodeError> {
        let began = Instant::now();
        let deadline = began + request.deadline;
        let needs = transcoding_needs(&request.origin.needs);
        let rate = request.profiles.iter().map(pixel_rate).sum();
        let input = OnceLock::new();
        let mut running = FuturesUnordered::new();
        let mut round = Round::default();
        let mut overdue_at = None;
        loop {
            if std::mem::take(&mut round.wants_another) {
                let left = deadline.saturating_duration_since(Instant::now());
                let min_version = &request.origin.min_version;
                let wanted = Wanted { session, needs: &needs, min_version, rate, tried: &round.tried };
                let chosen = if left < SHORTEST { Err(Nobody::Available) } else { self.remotes.choose(&wanted) };
                overdue_at = None;
                match chosen {
                    Ok(Chosen { member, before }) => {
                        if let Some(before) = before.filter(|before| !round.tried.contains(before)) {
                            self.leave(before, session);
                        }
                        // After half of the time that is left another one can still make it.
                        if self.remotes.has_other(&wanted, member) {
                            overdue_at = Some(Instant::now() + left / 2);
                        }
                        round.tried.push(member);
                        round.running.push(member);
                        running.push(self.attempt(member, session, request, &input, left));
                    }
                    Err(nobody) if running.is_empty() => return Err(round.verdict(nobody)),
                    Err(_) => {}
                }
            }
            let overdue = async {
                match overdue_at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let (member, attempt) = tokio::select! {
                Some(ended) = running.next() => ended,
                () = overdue => {
                    round.overdue.clone_from(&round.running);
                    round.wants_another = true;
                    continue;
                }
            };
            round.running.retain(|other| *other != member);
            match attempt {
                Attempt::Done(mut done) => {
                    self.settle(&round, member, session, rate);
                    done.took = began.elapsed();
                    return Ok(done);
                }
                // Our own workers are believed; of others, two of the same opinion.
                Attempt::Blamed(error) if member == LOCAL || round.blamed.iter().any(|(_, other)| *other == error) => {
                    return Err(error.into());
                }
                Attempt::Blamed(error) => round.blamed.push((member, error)),
                Attempt::Failed(error) => {
                    self.fail(member, session, &error.to_string());
                    round.failure = Some(error);
                }
            }
            round.wants_another = true;
        }
    }

    /// Gives the segment to one member.
    async fn attempt(
        &self,
        member: MemberId,
        session: &str,
        request: &TranscodeRequest,
        input: &OnceLock<Input>,
        left: Duration,
    ) -> (MemberId, Attempt) {
        if member == LOCAL {
            return (member, self.here(session, request, left).await);
        }
        let ready = match input.get() {
            Some(ready) => ready,
            None => match self.remotes.lay_ready(session, request) {
                Ok(fresh) => input.get_or_init(|| fresh),
                Err(error) => return (member, Attempt::Failed(unreadable(error))),
            },
        };
        (member, elsewhere(self.remotes.ask(member, session, request, ready, left).await))
    }

    /// A member has it right: what becomes of the others, and of the session.
    fn settle(&self, round: &Round, winner: MemberId, session: &str, rate: f64) {
        for (member, _) in &round.blamed {
            self.fail(*member, session, "it blamed the stream for its own fault");
        }
        for member in &round.running {
            if round.overdue.contains(member) {
                self.fail(*member, session, "it took too long");
            } else {
                self.leave(*member, session);
            }
        }
        let now = self.remotes.now();
        self.remotes.lock().registry.rebind(session, winner, rate, now);
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
