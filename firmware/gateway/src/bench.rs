//! How good are orchestrators? Each is given the same streams for a while, and what comes back is measured.
//!
//! One orchestrator after the other, so that they do not disturb each other where they share a machine. Every stream
//! has a session of its own and sends one segment at a time, without second tries: a lost segment counts as lost.
//! The score is the stock gateway's: time from the start of the upload until the whole result was read ÷ duration.
//! The bench ends by itself: no segment is begun after its time, and every segment has the network's deadlines.
//!
//! *Source:* livepeer-wire §1.4.
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use http::Uri;
use livepeer::address::keccak256;
use livepeer::profile::Profile;
use livepeer::units::Pixels;
use mpegts::segment::Segment;
use rand::RngCore;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::gateway::{Gateway, GatewayConfig};
use crate::needs::needs;
use crate::push::Pace;
use crate::report::{millis, percentile};
use crate::session::{SCORE_FLOOR, Session, Upload};

/// Streams at once.
const MAX_STREAMS: usize = 1000;
/// So many lost segments in a row end a stream.
const HOPELESS: u32 = 5;
/// Different errors kept for the report.
const MAX_ERRORS: usize = 20;

/// What is asked of each orchestrator.
#[derive(Debug, Clone)]
pub struct BenchOptions {
    /// The renditions wanted.
    pub profiles: Vec<Profile>,
    /// Codec of the source.
    pub input: mpegts::VideoCodec,
    /// Streams at once.
    pub streams: usize,
    /// How long each orchestrator is measured.
    pub duration: Duration,
    /// When segments are sent.
    pub pace: Pace,
    /// Where renditions are put while they are looked at; nothing is left there.
    pub dir: PathBuf,
}

/// A bench that cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// Nothing to ask for.
    #[error("no profiles: name at least one rendition")]
    NoProfiles,
    /// None, or too many.
    #[error("a bench has 1 to {MAX_STREAMS} streams")]
    Streams,
    /// Nobody to measure.
    #[error("no orchestrator is known")]
    Nobody,
    /// No place for renditions.
    #[error("make {path}")]
    Disk {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Why a stream ended before its time, or single segments were lost, and how often.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamFailure {
    /// In words.
    pub error: String,
    /// How often.
    pub count: u64,
}

/// What one orchestrator came to.
///
/// Latencies are those of segments that came back: `latency` until the result was read, `delivered` until the
/// renditions were here and checked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BenchReport {
    /// Which one.
    pub service_uri: String,
    /// Streams asked for, and streams it took.
    pub streams: usize,
    /// Streams it took.
    pub accepted: usize,
    /// Segments sent.
    pub segments: u64,
    /// Segments that came back.
    pub returned: u64,
    /// Their share.
    pub success_rate: f64,
    /// Mean score; below 1 is faster than real time, lower is better.
    pub score: Option<f64>,
    /// The score that ninety-five of a hundred segments keep.
    pub score_p95: Option<f64>,
    /// Round trip, median.
    pub latency_ms_p50: Option<u64>,
    /// Round trip, 95th percentile.
    pub latency_ms_p95: Option<u64>,
    /// Round trip, 99th percentile.
    pub latency_ms_p99: Option<u64>,
    /// Until all renditions were here, median.
    pub delivered_ms_p50: Option<u64>,
    /// Until all renditions were here, 99th percentile.
    pub delivered_ms_p99: Option<u64>,
    /// Duration ÷ round trip, median.
    pub realtime_ratio: Option<f64>,
    /// Seconds of content that came back per second, all streams together.
    pub throughput: f64,
    /// How long it took.
    pub took_ms: u64,
    /// Pixels of all renditions.
    pub pixels: Pixels,
    /// Tickets sent.
    pub tickets: u64,
    /// Their expected value in wei, rounded down.
    pub ev_sent_wei: String,
    /// What went wrong.
    pub failures: Vec<StreamFailure>,
}

/// A source of endless segments, one per stream.
pub type Clip<'a> = dyn Fn() -> Box<dyn Iterator<Item = Segment> + Send> + Send + Sync + 'a;

/// Measures every orchestrator that the configuration names, one after the other.
///
/// # Errors
/// [`BenchError`] when there is nothing to measure or nowhere to put it.
pub async fn bench(
    config: &GatewayConfig,
    clip: &Clip<'_>,
    options: &BenchOptions,
    mut told: impl FnMut(&BenchReport),
) -> Result<Vec<BenchReport>, BenchError> {
    if options.profiles.is_empty() {
        return Err(BenchError::NoProfiles);
    }
    if !(1..=MAX_STREAMS).contains(&options.streams) {
        return Err(BenchError::Streams);
    }
    let orchestrators = Gateway::new(config.clone()).candidates().await;
    if orchestrators.is_empty() {
        return Err(BenchError::Nobody);
    }
    let scratch = Scratch::make(&options.dir)?;
    let mut reports = Vec::new();
    for uri in orchestrators {
        let report = one(config, uri, clip, options, &scratch.0).await;
        told(&report);
        reports.push(report);
    }
    Ok(reports)
}

/// A directory of our own that goes with us.
struct Scratch(PathBuf);

impl Scratch {
    fn make(dir: &Path) -> Result<Self, BenchError> {
        let path = dir.join(format!("millrace-bench-{:016x}", rand::rngs::OsRng.next_u64()));
        match std::fs::create_dir_all(&path) {
            Ok(()) => Ok(Self(path)),
            Err(source) => Err(BenchError::Disk { path, source }),
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed is a few temporary files.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A segment that came back.
struct Sample {
    round_trip: Duration,
    delivered: Duration,
    duration: Duration,
    pixels: Pixels,
}

/// What became of one stream.
#[derive(Default)]
struct Streamed {
    accepted: bool,
    sent: u64,
    samples: Vec<Sample>,
    failures: BTreeMap<String, u64>,
}

async fn one(config: &GatewayConfig, uri: Uri, clip: &Clip<'_>, options: &BenchOptions, dir: &Path) -> BenchReport {
    let only = GatewayConfig { orchestrators: vec![uri.clone()], webhook: None, ..config.clone() };
    let gateway = Arc::new(Gateway::new(only));
    let begun = Instant::now();
    let streams = (0..options.streams).map(|number| stream(&gateway, number, clip, options, dir, begun));
    let streamed = join_all(streams).await;
    report(&uri, &streamed, begun.elapsed(), &gateway)
}

async fn stream(
    gateway: &Arc<Gateway>,
    number: usize,
    clip: &Clip<'_>,
    options: &BenchOptions,
    dir: &Path,
    begun: Instant,
) -> Streamed {
    let mut streamed = Streamed::default();
    let profiles: Arc<[Profile]> = options.profiles.clone().into();
    let needed = needs(options.input, &profiles);
    let offer = match gateway.discover(&needed).await {
        Ok(offers) => offers.into_iter().next(),
        Err(error) => {
            streamed.fail(error.to_string());
            return streamed;
        }
    };
    let Some((asked, offer)) = offer else { return streamed };
    let id = format!("{:08x}", rand::rngs::OsRng.next_u32());
    let session = Session::new(Arc::clone(gateway), asked, offer, id, Arc::clone(&profiles), needed);
    let targets: Vec<PathBuf> = (0..profiles.len()).map(|index| dir.join(format!("{number}-{index}.ts"))).collect();
    let mut due: Option<Instant> = None;
    let mut lost_in_a_row = 0;
    for (seq, segment) in (0i64..).zip(clip()) {
        let duration = Duration::from_millis(segment.duration_ms);
        if options.pace == Pace::RealTime {
            // Streams do not begin all at once.
            let share = u32::try_from(number).unwrap_or(0) as f64 / options.streams.max(1) as f64;
            let at = *due.get_or_insert_with(|| begun + duration.mul_f64(share));
            if at.duration_since(begun) >= options.duration {
                break;
            }
            tokio::time::sleep_until(at).await;
            due = Some(at + duration);
        }
        if begun.elapsed() >= options.duration || lost_in_a_row >= HOPELESS {
            break;
        }
        let hash = keccak256(&segment.bytes);
        let work = Upload { seq, bytes: segment.bytes.into(), hash, duration, targets: targets.clone() };
        let sent = Instant::now();
        streamed.sent += 1;
        match session.transcode(&work).await {
            Ok(done) => {
                let (round_trip, delivered) = (done.round_trip, sent.elapsed());
                streamed.samples.push(Sample { round_trip, delivered, duration, pixels: done.pixels });
                streamed.accepted = true;
                lost_in_a_row = 0;
            }
            Err(error) => {
                streamed.fail(service::with_causes(&error));
                lost_in_a_row += 1;
            }
        }
    }
    session.end().await;
    streamed
}

impl Streamed {
    fn fail(&mut self, error: String) {
        if self.failures.len() < MAX_ERRORS || self.failures.contains_key(&error) {
            *self.failures.entry(error).or_default() += 1;
        }
    }
}

fn report(uri: &Uri, streamed: &[Streamed], took: Duration, gateway: &Gateway) -> BenchReport {
    let samples = || streamed.iter().flat_map(|stream| &stream.samples);
    let sorted = |of: fn(&Sample) -> u64| {
        let mut values: Vec<u64> = samples().map(of).collect();
        values.sort_unstable();
        values
    };
    let latency = sorted(|sample| millis(sample.round_trip));
    let delivered = sorted(|sample| millis(sample.delivered));
    let score = |sample: &Sample| sample.round_trip.as_secs_f64() / sample.duration.max(SCORE_FLOOR).as_secs_f64();
    let mut scores: Vec<f64> = samples().map(score).collect();
    scores.sort_by(f64::total_cmp);
    let mut ratios: Vec<f64> = samples().map(|s| s.duration.as_secs_f64() / s.round_trip.as_secs_f64()).collect();
    ratios.sort_by(f64::total_cmp);
    let (segments, returned) = (streamed.iter().map(|stream| stream.sent).sum(), latency.len());
    let mut failures: BTreeMap<&str, u64> = BTreeMap::new();
    for (error, count) in streamed.iter().flat_map(|stream| &stream.failures) {
        *failures.entry(error).or_default() += count;
    }
    let totals = gateway.totals();
    let content: Duration = samples().map(|sample| sample.duration).sum();
    let share = |part: f64, whole: f64| if whole > 0.0 { part / whole } else { 0.0 };
    BenchReport {
        service_uri: uri.to_string(),
        streams: streamed.len(),
        accepted: streamed.iter().filter(|stream| stream.accepted).count(),
        segments,
        returned: u64::try_from(returned).unwrap_or(u64::MAX),
        success_rate: share(returned as f64, segments as f64),
        score: (!scores.is_empty()).then(|| scores.iter().sum::<f64>() / scores.len() as f64),
        score_p95: percentile(&scores, 95),
        latency_ms_p50: percentile(&latency, 50),
        latency_ms_p95: percentile(&latency, 95),
        latency_ms_p99: percentile(&latency, 99),
        delivered_ms_p50: percentile(&delivered, 50),
        delivered_ms_p99: percentile(&delivered, 99),
        realtime_ratio: percentile(&ratios, 50),
        throughput: share(content.as_secs_f64(), took.as_secs_f64()),
        took_ms: millis(took),
        pixels: Pixels(samples().fold(0, |sum, sample| sum.saturating_add(sample.pixels.0))),
        tickets: totals.tickets,
        ev_sent_wei: totals.value.to_string(),
        failures: failures
            .into_iter()
            .take(MAX_ERRORS)
            .map(|(error, count)| StreamFailure { error: error.to_owned(), count })
            .collect(),
    }
}
