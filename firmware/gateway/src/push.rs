//! A whole stream: segments in, a ladder out.
//!
//! Segments go out in order, at the pace of a live source or as fast as they come back, few at a time. Each is
//! tried up to three times, with another orchestrator after each failure; what cannot be had is left out of the
//! ladder and reported.
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesOrdered, StreamExt};
use livepeer::address::keccak256;
use livepeer::profile::{Container, Profile};
use mpegts::segment::Segment;
use rand::RngCore;
use tokio::time::Instant;

use crate::gateway::{DiscoveryError, Gateway};
use crate::ladder::{Ladder, LadderError, file_name};
use crate::needs::needs;
use crate::report::{OrchestratorReport, PushReport, SegmentReport, millis};
use crate::session::{Session, SessionError, Transcoded, Upload};
use crate::stream::Stream;

/// Segments on their way at once while they come back in real time: one is transcoded while the next is uploaded.
/// When they do not, one at a time: more would wait behind it until their deadlines pass.
const IN_FLIGHT: usize = 2;
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
    /// Too many segments in a row were lost.
    #[error("{HOPELESS} segments in a row were lost, the last one because: {last}")]
    Hopeless {
        /// Why the last one was.
        last: String,
    },
}

/// Pushes segments until there are no more, telling `progress` of each in order.
///
/// # Errors
/// [`PushError`] when it cannot begin or go on; single lost segments are in the report instead.
pub async fn push(
    gateway: Arc<Gateway>,
    segments: impl Iterator<Item = Segment> + Send,
    options: &PushOptions,
    progress: &mut (dyn FnMut(&SegmentReport) + Send),
) -> Result<PushReport, PushError> {
    check(&options.profiles)?;
    let profiles: Arc<[Profile]> = options.profiles.clone().into();
    let needed = needs(options.input, &profiles);
    let stream = Stream::new(Arc::clone(&gateway), random_id(), profiles, needed);
    // Nothing is written before somebody takes the stream.
    stream.pick().await?;
    let mut run = Run {
        ladder: Ladder::create(&options.dir, &options.profiles)?,
        report: PushReport::default(),
        lost_in_a_row: 0,
        keeps_up: false,
        progress,
    };
    let begun = Instant::now();
    let ended = run.all(&stream, segments, options.pace, begun).await;
    stream.end().await;
    ended?;
    run.ladder.finish()?;
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
    seq: u64,
    bytes: u64,
    duration: Duration,
    attempts: u32,
    session: Option<Arc<Session>>,
    outcome: Result<Transcoded, String>,
}

impl Run<'_> {
    async fn all(
        &mut self,
        stream: &Stream,
        segments: impl Iterator<Item = Segment> + Send,
        pace: Pace,
        begun: Instant,
    ) -> Result<(), PushError> {
        let mut in_flight = FuturesOrdered::new();
        let mut due = begun;
        for (seq, segment) in (0u64..).zip(segments) {
            while in_flight.len() >= if self.keeps_up { IN_FLIGHT } else { 1 } {
                self.take(in_flight.next().await)?;
            }
            loop {
                tokio::select! {
                    // Both arms are cancel safe: a sleep, and the next of futures that stay in the collection.
                    biased;
                    finished = in_flight.next(), if !in_flight.is_empty() => self.take(finished)?,
                    () = tokio::time::sleep_until(due) => break,
                }
            }
            let duration = Duration::from_millis(segment.duration_ms);
            if pace == Pace::RealTime {
                due += duration;
            }
            let source = self.ladder.source(seq);
            let written = tokio::fs::write(&source, &segment.bytes).await;
            written.map_err(|error| LadderError { path: source, source: error })?;
            in_flight.push_back(one(stream, seq, segment, self.ladder.targets(seq)));
        }
        while !in_flight.is_empty() {
            self.take(in_flight.next().await)?;
        }
        Ok(())
    }

    fn take(&mut self, finished: Option<Finished>) -> Result<(), PushError> {
        let Some(finished) = finished else { return Ok(()) };
        let segment = self.describe(&finished);
        self.keeps_up = segment.realtime_ratio.is_some_and(|ratio| ratio >= 1.0);
        (self.progress)(&segment);
        self.report.add(segment);
        match finished.outcome {
            Ok(done) => {
                self.lost_in_a_row = 0;
                Ok(self.ladder.add(finished.seq, millis(finished.duration), &done.renditions)?)
            }
            Err(last) => {
                self.ladder.skip();
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
async fn one(stream: &Stream, seq: u64, segment: Segment, targets: Vec<PathBuf>) -> Finished {
    let duration = Duration::from_millis(segment.duration_ms);
    let bytes = u64::try_from(segment.bytes.len()).unwrap_or(u64::MAX);
    let hash = keccak256(&segment.bytes);
    let work =
        Upload { seq: i64::try_from(seq).unwrap_or(i64::MAX), bytes: segment.bytes.into(), hash, duration, targets };
    let mut over = Finished { seq, bytes, duration, attempts: 0, session: None, outcome: Err(String::new()) };
    while over.attempts < ATTEMPTS {
        over.attempts += 1;
        let session = match stream.pick().await {
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
                over.outcome = Err(format!("{orchestrator} {}", with_causes(&error)));
                if error.is_the_streams_fault() {
                    return over;
                }
                tracing::warn!(seq, %orchestrator, error = with_causes(&error), "segment was not returned");
                stream.suspend(&session).await;
            }
        }
    }
    over
}

fn with_causes(error: &SessionError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
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
