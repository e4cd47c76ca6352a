//! `millrace gateway bench`: how good are orchestrators?
use std::path::PathBuf;
use std::time::Duration;

use clap::Args as ClapArgs;
use gateway::{BenchError, BenchOptions, BenchReport, Pace};
use livepeer::profile::Profile;
use mpegts::segment::Looper;

use crate::failure::{self, Code, Failure, Outcome};
use crate::push::Peers;
use crate::{source, table, text};

/// Measure orchestrators.
#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Each orchestrator gets the same streams for the same time, one orchestrator after the other. The score is the one
stock gateways choose by: (start of upload to end of result) / segment duration, the lower the better; above 1 is
slower than real time. No segment is tried twice. The bench ends by itself; the exit code is 1 when segments were lost.

Examples:
  millrace gateway bench clip.ts --orch https://127.0.0.1:8935
  millrace gateway bench clip.ts --orch https://a:8935,https://b:8935 --streams 10 --duration 2m --json
  millrace gateway bench clip.ts --orch https://a:8935 --key-file gateway.key --unpaced"
)]
pub(crate) struct BenchArgs {
    /// The clip that every stream repeats: MPEG-TS with H.264 or HEVC video
    input: PathBuf,
    #[command(flatten)]
    peers: Peers,
    /// Streams at once, 1 to 1000
    #[arg(long, value_name = "N", default_value_t = 1)]
    streams: usize,
    /// How long each orchestrator is measured
    #[arg(long, value_parser = text::duration, value_name = "TIME", default_value = "30s")]
    duration: Duration,
    /// Send the next segment as soon as the one before is back, rather than as a live source would
    #[arg(long)]
    unpaced: bool,
    /// Renditions wanted: 144p 240p 360p 480p 576p 720p 1080p, or network names such as P720p30fps16x9
    #[arg(long, value_delimiter = ',', value_parser = text::profile, value_name = "NAMES",
          default_value = "240p,360p,480p,720p")]
    profiles: Vec<Profile>,
    /// Length of a segment; each is cut at the first key frame after it
    #[arg(long, value_parser = text::duration, value_name = "TIME", default_value = "2s")]
    segment: Duration,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: BenchArgs) -> failure::Result {
    let config = args.peers.config(true)?;
    let bytes = source::read_ts(&args.input)?;
    let target = u64::try_from(args.segment.as_millis()).unwrap_or(u64::MAX);
    let unusable = |text: String| Failure::new(Code::Data, format!("{}: {text}", args.input.display()));
    let demuxed = mpegts::demux(&bytes).map_err(|error| unusable(error.to_string()))?;
    let input = demuxed.video.map(|video| video.codec).ok_or_else(|| unusable("no video".into()))?;
    // Cut once; each stream repeats it with times of its own.
    let probe = Looper::new(&bytes, target).map_err(|error| unusable(error.to_string()))?;
    probe.ok_or_else(|| unusable("no key frame to begin with".into()))?;
    let clip = || -> crate::push::Segments {
        let looper = Looper::new(&bytes, target).ok().flatten();
        Box::new(looper.into_iter().flatten())
    };
    let options = BenchOptions {
        profiles: args.profiles,
        input,
        streams: args.streams,
        duration: args.duration,
        pace: if args.unpaced { Pace::Max } else { Pace::RealTime },
        dir: std::env::temp_dir(),
    };
    let told = |report: &BenchReport| {
        if !args.json {
            print(report);
        }
    };
    let reports = gateway::bench(&config, &clip, &options, told).await.map_err(|error| explain(&error))?;
    if args.json {
        table::json(&reports)?;
    } else if reports.len() > 1 {
        compare(&reports);
    }
    let whole = reports.iter().all(|report| report.returned == report.segments && report.accepted == report.streams);
    Ok(if whole { Outcome::Done } else { Outcome::Partly })
}

fn explain(error: &BenchError) -> Failure {
    let code = match error {
        BenchError::NoProfiles | BenchError::Streams => Code::Usage,
        BenchError::Nobody => Code::Unavailable,
        BenchError::Disk { .. } => Code::CannotCreate,
    };
    Failure::from_error(code, error)
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.3}"))
}

fn millis(value: Option<u64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value} ms"))
}

fn print(report: &BenchReport) {
    table::facts(&[
        ("orchestrator", report.service_uri.clone()),
        ("streams", format!("{} of {} taken", report.accepted, report.streams)),
        (
            "segments",
            format!("{} sent, {} came back ({:.1} %)", report.segments, report.returned, report.success_rate * 100.0),
        ),
        ("score", format!("{} mean, {} at the 95th percentile", number(report.score), number(report.score_p95))),
        (
            "latency",
            format!(
                "{} median, {} p95, {} p99",
                millis(report.latency_ms_p50),
                millis(report.latency_ms_p95),
                millis(report.latency_ms_p99)
            ),
        ),
        (
            "with renditions",
            format!("{} median, {} p99", millis(report.delivered_ms_p50), millis(report.delivered_ms_p99)),
        ),
        ("real-time ratio", report.realtime_ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"))),
        ("throughput", format!("{:.2} s of content per second", report.throughput)),
        ("pixels", text::grouped(report.pixels.0)),
        (
            "tickets",
            if report.tickets > 0 {
                format!("{} sent, worth {} on average", report.tickets, text::money(&report.ev_sent_wei))
            } else {
                String::new()
            },
        ),
    ]);
    for failure in &report.failures {
        table::line(&format!("{:15}  {} x {}", "failure", failure.count, failure.error));
    }
    table::line("");
}

/// All of them, the best first.
fn compare(reports: &[BenchReport]) {
    let mut sorted: Vec<&BenchReport> = reports.iter().collect();
    let key = |report: &BenchReport| (report.score.unwrap_or(f64::INFINITY), -report.success_rate);
    sorted.sort_by(|a, b| key(a).0.total_cmp(&key(b).0).then(key(a).1.total_cmp(&key(b).1)));
    let row = |report: &&BenchReport| {
        vec![
            report.service_uri.clone(),
            number(report.score),
            format!("{:.1} %", report.success_rate * 100.0),
            millis(report.latency_ms_p50),
            millis(report.latency_ms_p99),
        ]
    };
    let rows: Vec<_> = sorted.iter().map(row).collect();
    table::print(&["orchestrator", "score", "success", "median", "p99"], &rows);
}
