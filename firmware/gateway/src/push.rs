//! A whole stream: segments in, a ladder out.
//!
//! Segments go out in order, at the pace of a live source or as fast as they come back, few at a time. Each is
//! tried up to three times, with another orchestrator after each failure; what cannot be had is left out of the
//! ladder and reported. Told to stop, it takes no more segments, waits for those on their way and ends the ladder.
use std::future::Future;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesOrdered, Stream, StreamExt};
use livepeer::address::keccak256;
use livepeer::profile::{Container, Profile};
use rand::RngCore;
use tokio::time::Instant;

use crate::gateway::{DiscoveryError, Gateway};
use crate::ingest::{Fed, IngestError, Reply};
use crate::ladder::{Ladder, LadderError, file_name};
use crate::needs::needs;
use crate::report::{FalseClaim, OrchestratorReport, PushReport, SegmentReport, millis};
use crate::session::{Session, Transcoded, Upload};
use crate::sessions::Sessions;

/// Segments on their way at once while they come back in real time: one is transcoded while the next is uploaded.
/// When they do not, one at a time: more would wait behind it until their deadlines pass.
const IN_FLIGHT: usize = 2;
/// Rounds of discovery for which an orchestrator is avoided after a false claim.
const FALSE_CLAIM: u32 = 10;
/// How often a segment is tried.
const ATTEMPTS: u32 = 3;
/// So many failed segments in a row end the push.
const HOPELESS: u32 = 5;

/// When segments are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// One segment per segment duration, as from a live source.
    RealTime,
    /// The next as soon as there is room.
    Max,
}

/// How a stream is pushed.
#[derive(Debug, Clone)]
pub struct PushOptions {
    /// The renditions wanted; names must differ.
    pub profiles: Vec<Profile>,
    /// Codec of the source.
    pub input: mpegts::VideoCodec,
    /// Where `in/` and `out/` are made.
    pub dir: PathBuf,
    /// When segments are sent.
    pub pace: Pace,
    /// Segments kept on disk and in the playlists; all of them when absent.
    pub window: Option<NonZeroUsize>,
}

/// Why a push ended early, or never began.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// No profiles.
    #[error("no profiles: name at least one rendition")]
    NoProfiles,
    /// Two profiles would write the same files.
    #[error("two profiles are named {0}")]
    SameName(String),
    /// A ladder is made of transport streams.
    #[error("profile {0} is not MPEG-TS, which a ladder is made of")]
    Container(String),
    /// The ladder could not be written.
    #[error(transparent)]
    Ladder(#[from] LadderError),
    /// Nobody takes the stream.
    #[error(transparent)]
    Discovery(#[from] DiscoveryError),
    /// The source failed; what it gave before is in the ladder.
    #[error("the source failed")]
    Source(#[from] IngestError),
    /// Too many segments in a row were lost.
    #[error("{HOPELESS} segments in a row were lost, the last one because: {last}")]
    Hopeless {
        /// Why the last one was.
        last: String,
    },
}

/// Pushes segments until there are no more or `stop` is ready, telling `progress` of each in order.
///
/// # Errors
/// [`PushError`] when it cannot begin or go on; single lost segments are in the report instead.
pub async fn push(
    gateway: Arc<Gateway>,
    segments: impl Stream<Item = Result<Fed, IngestError>> + Send,
    options: &PushOptions,
    stop: impl Future<Output = ()> + Send,
    progress: &mut (dyn FnMut(&SegmentReport) + Send),
) -> Result<PushReport, PushError> {
    check(&options.profiles)?;
    let profiles: Arc<[Profile]> = options.profiles.clone().into();
    let needed = needs(options.input, &profiles);
    let sessions = Sessions::new(Arc::clone(&gateway), random_id(), profiles, needed);
    // Nothing is written before somebody takes the stream.
    sessions.pick(Duration::ZERO).await?;
    let mut run = Run {
        ladder: Ladder::create(&options.dir, &options.profiles, options.window)?,
        report: PushReport::default(),
        lost_in_a_row: 0,
        keeps_up: false,
        progress,
    };
    let begun = Instant::now();
    let ended = run.all(&sessions, segments, options, stop, begun).await;
    sessions.end().await;
    // A ladder that will not grow any more says so, however it came to that.
    let finished = run.ladder.finish();
    ended?;
    finished?;
    run.report.finish(begun.elapsed());
    let totals = gateway.totals();
    run.report.tickets_sent = totals.tickets;
    run.report.ev_sent_wei = totals.value.to_string();
    Ok(run.report)
}

fn check(profiles: &[Profile]) -> Result<(), PushError> {
    if profiles.is_empty() {
        return Err(PushError::NoProfiles);
    }
    for (index, profile) in profiles.iter().enumerate() {
        if profile.container != Container::MpegTs {
            return Err(PushError::Container(profile.name.clone()));
        }
        if profiles.iter().skip(index + 1).any(|other| file_name(&other.name) == file_name(&profile.name)) {
            return Err(PushError::SameName(profile.name.clone()));
        }
    }
    Ok(())
}

/// What is known while a push runs.
struct Run<'a> {
    ladder: Ladder,
    report: PushReport,
    lost_in_a_row: u32,
    /// Did the last segment come back in less time than it plays?
    keeps_up: bool,
    progress: &'a mut (dyn FnMut(&SegmentReport) + Send),
}

/// A segment that is over.
struct Finished {
    reply: Option<Reply>,
    seq: u64,
    bytes: u64,
    duration: Duration,
    attempts: u32,
    session: Option<Arc<Session>>,
    outcome: Result<Transcoded, String>,
    caught: Vec<FalseClaim>,
}

impl Run<'_> {
    async fn all(
        &mut self,
        sessions: &Sessions,
        segments: impl Stream<Item = Result<Fed, IngestError>> + Send,
        options: &PushOptions,
        stop: impl Future<Output = ()> + Send,
        begun: Instant,
    ) -> Result<(), PushError> {
        let (mut segments, mut stop) = (pin!(segments), pin!(stop));
        let mut in_flight = FuturesOrdered::new();
        // The next segment, which waits for its time and for room.
        let mut held: Option<Fed> = None;
        let (mut due, mut seq, mut over) = (begun, 0u64, Ok(true));
        loop {
            let room = in_flight.len() < if self.keeps_up { IN_FLIGHT } else { 1 };
            let goes_on = matches!(over, Ok(true));
            if in_flight.is_empty() && held.is_none() && !goes_on {
                return over.map(drop);
            }
            tokio::select! {
                // All arms are cancel safe: the next of futures that stay in the collection, the next of a stream,
                // a sleep, and the stop, which is looked at again.
                biased;
                finished = in_flight.next(), if !in_flight.is_empty() => self.take(finished)?,
                () = &mut stop, if goes_on => {
                    over = Ok(false);
                    held = None;
                }
                () = tokio::time::sleep_until(due), if held.is_some() && room => {
                    let Some(fed) = held.take() else { continue };
                    if options.pace == Pace::RealTime {
                        due += Duration::from_millis(fed.segment.duration_ms);
                    }
                    let source = self.ladder.source(seq);
                    let written = tokio::fs::write(&source, &fed.segment.bytes).await;
                    written.map_err(|error| LadderError { path: source, source: error })?;
                    in_flight.push_back(one(sessions, seq, fed, self.ladder.targets(seq)));
                    seq += 1;
                }
                next = segments.next(), if held.is_none() && goes_on => match next {
                    Some(Ok(fed)) => held = Some(fed),
                    Some(Err(error)) => over = Err(error.into()),
                    None => over = Ok(false),
                },
            }
        }
    }

    fn take(&mut self, finished: Option<Finished>) -> Result<(), PushError> {
        let Some(finished) = finished else { return Ok(()) };
        let segment = self.describe(&finished);
        self.keeps_up = segment.realtime_ratio.is_some_and(|ratio| ratio >= 1.0);
        (self.progress)(&segment);
        self.report.add(segment);
        if let Some(reply) = finished.reply {
            let renditions = finished.outcome.as_ref().map(|done| self.ladder.named(&done.renditions));
            // A pusher that went away asks no more.
            let _ = reply.send(renditions.map_err(Clone::clone));
        }
        match finished.outcome {
            Ok(done) => {
                self.lost_in_a_row = 0;
                Ok(self.ladder.add(finished.seq, millis(finished.duration), &done.renditions)?)
            }
            Err(last) => {
                self.ladder.skip(finished.seq);
                self.lost_in_a_row += 1;
                if self.lost_in_a_row >= HOPELESS { Err(PushError::Hopeless { last }) } else { Ok(()) }
            }
        }
    }

    fn describe(&mut self, finished: &Finished) -> SegmentReport {
        let done = finished.outcome.as_ref().ok();
        if let (Some(session), Some(_)) = (&finished.session, done) {
            self.count(session);
        }
        SegmentReport {
            seq: finished.seq,
            duration_ms: millis(finished.duration),
            bytes: finished.bytes,
            attempts: finished.attempts,
            orchestrator: finished.session.as_ref().map(|session| session.asked().to_string()),
            round_trip_ms: done.map(|done| millis(done.round_trip)),
            realtime_ratio: done.map(|done| finished.duration.as_secs_f64() / done.round_trip.as_secs_f64()),
            pixels: done.map_or_else(Default::default, |done| done.pixels),
            rendition_bytes: done.map(|done| done.renditions.iter().map(|r| r.bytes).collect()).unwrap_or_default(),
            tickets: done.map_or(0, |done| done.tickets),
            verified: done.is_some_and(|done| done.verified),
            false_claims: finished.caught.clone(),
            error: finished.outcome.as_ref().err().cloned(),
        }
    }

    fn count(&mut self, session: &Session) {
        let offer = session.offer();
        let service_uri = session.asked().to_string();
        let known = self.report.orchestrators.iter_mut().find(|known| known.service_uri == service_uri);
        if let Some(known) = known {
            known.segments += 1;
            return;
        }
        self.report.orchestrators.push(OrchestratorReport {
            service_uri,
            signer: offer.signer.to_string(),
            recipient: offer.terms.map(|terms| terms.params.recipient.to_string()).unwrap_or_default(),
            price: offer.terms.map(|terms| terms.price.parts()),
            segments: 1,
        });
    }
}

/// Sends one segment until it comes back or all attempts are used.
async fn one(sessions: &Sessions, seq: u64, fed: Fed, targets: Vec<PathBuf>) -> Finished {
    let Fed { segment, reply } = fed;
    let duration = Duration::from_millis(segment.duration_ms);
    let bytes = u64::try_from(segment.bytes.len()).unwrap_or(u64::MAX);
    let hash = keccak256(&segment.bytes);
    let work =
        Upload { seq: i64::try_from(seq).unwrap_or(i64::MAX), bytes: segment.bytes.into(), hash, duration, targets };
    let mut over = Finished {
        reply,
        seq,
        bytes,
        duration,
        attempts: 0,
        session: None,
        outcome: Err(String::new()),
        caught: Vec::new(),
    };
    while over.attempts < ATTEMPTS {
        over.attempts += 1;
        let session = match sessions.pick(duration).await {
            Ok(session) => session,
            Err(error) => {
                over.outcome = Err(error.to_string());
                continue;
            }
        };
        over.session = Some(Arc::clone(&session));
        match session.transcode(&work).await {
            Ok(done) => {
                over.outcome = Ok(done);
                return over;
            }
            Err(error) => {
                let orchestrator = session.asked();
                over.outcome = Err(format!("{orchestrator} {}", service::with_causes(&error)));
                if error.is_the_streams_fault() {
                    return over;
                }
                tracing::warn!(seq, %orchestrator, error = service::with_causes(&error), "segment was not returned");
                let rounds = if error.is_a_false_claim() {
                    over.caught.push(FalseClaim {
                        service_uri: orchestrator.to_string(),
                        claim: service::with_causes(&error),
                    });
                    FALSE_CLAIM
                } else {
                    1
                };
                sessions.suspend(&session, rounds).await;
            }
        }
    }
    over
}

/// Names the stream at the orchestrators.
fn random_id() -> String {
    format!("{:08x}", rand::rngs::OsRng.next_u32())
}

#[cfg(test)]
mod tests {
    use super::*;
    use livepeer::profile::preset;

    #[test]
    fn profiles_that_would_overwrite_each_other_are_refused() {
        let twice = [preset("240p").unwrap(), preset("240p").unwrap()];
        assert!(matches!(check(&twice), Err(PushError::SameName(_))));
        assert!(matches!(check(&[]), Err(PushError::NoProfiles)));
        let mut mp4 = preset("240p").unwrap();
        mp4.container = Container::Mp4;
        assert!(matches!(check(&[mp4]), Err(PushError::Container(_))));
        assert!(check(&[preset("240p").unwrap(), preset("360p").unwrap()]).is_ok());
    }
}
