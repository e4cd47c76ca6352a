//! `millrace gateway`: the box from the payer's side.
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{Args as ClapArgs, Subcommand, ValueEnum};
use futures_util::stream::{self, Stream};
use gateway::{
    Fed, Gateway, GatewayConfig, IngestError, IngestOptions, Listen, Offer, OfferLimits, Pace, Protocol, PushError,
    PushOptions, PushReport, SegmentReport, Webhook,
};
use http::Uri;
use livepeer::price::PricePerPixel;
use livepeer::profile::{Profile, preset};
use livepeer::units::Wei;
use mpegts::segment::{self, Looper, Segment};
use serde::Serialize;

use crate::decoder::Jailed;
use crate::failure::{self, Code, Failure, Outcome};
use crate::{bench, keys, source, stop, table, text};

/// Longest segment an orchestrator takes.
const LONGEST_SEGMENT: Duration = Duration::from_secs(300);

/// Use orchestrators as a paying gateway.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Send a clip or a live source as a stream, pay for it, and write the renditions as an HLS ladder
    Push(Box<PushArgs>),
    /// Measure orchestrators: streams at once, score, latency, what is lost
    Bench(Box<bench::BenchArgs>),
    /// Ask orchestrators for their offers, without using them
    Ask(Box<AskArgs>),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Peers {
    /// An orchestrator's service URI; may be given several times, or several with commas
    #[arg(long = "orch", visible_alias = "orchestrator", value_name = "URI", value_delimiter = ',',
          required_unless_present = "webhook", value_parser = service_uri)]
    orchestrators: Vec<Uri>,
    /// URL of a list of orchestrators, JSON as stock gateways read it: [{"address": "https://HOST:8935"}]
    #[arg(long, value_name = "URL", value_parser = service_uri)]
    webhook: Option<Uri>,
    /// Key file of the paying account, made by `millrace keys new`. Without a key the gateway is off-chain
    #[arg(long, value_name = "FILE", conflicts_with = "keystore")]
    key_file: Option<PathBuf>,
    /// geth keystore file of the paying account
    #[arg(long, value_name = "FILE", requires = "password_file")]
    keystore: Option<PathBuf>,
    /// File with the keystore's password
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Highest price to accept, in wei per pixel such as 1200 or 0.7. Default: any
    #[arg(long, value_name = "PRICE", value_parser = price)]
    max_price: Option<PricePerPixel>,
    /// Highest expected value of one ticket, in wei
    #[arg(long, value_name = "WEI", value_parser = text::wei, default_value = "3000000000000")]
    max_ticket_ev: Wei,
    /// Highest expected value of the tickets for one segment, in wei
    #[arg(long, value_name = "WEI", value_parser = text::wei, default_value = "20000000000000")]
    max_segment_ev: Wei,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "INPUT is a file, or an address at which this program waits for one live stream:
  rtmp://HOST[:1935][/APP/KEY]  H.264 or HEVC and AAC from an encoder; with APP/KEY nothing else is taken
  srt://HOST[:9710]             MPEG-TS from one caller
  http://HOST[:9935]            segments by PUT or POST to /live/NAME/NUMBER.ts, as stock gateways take them; a pusher
                                that accepts multipart/mixed gets the renditions in the answer
A live stream ends with its connection, when it is silent for --idle, or with Ctrl-C: then the segments on their way
are waited for and the playlists are closed. A second Ctrl-C does not wait.

Video is cut at key frames. DIR/in holds the segments as sent, DIR/out/master.m3u8 plays the result, also while it is
written. A real-time ratio is segment duration / (start of upload to end of result).

Each segment is tried up to three times, with another orchestrator after a failure. With --verify a jailed worker
decodes every rendition: pixels as reported, pictures and sound of the source. Who claimed otherwise is avoided
from then on, and the exit code is 1.

Examples:
  millrace gateway push clip.ts --orch https://127.0.0.1:8935
  millrace gateway push clip.ts --orch https://a:8935,https://b:8935 --profiles 360p,720p --pace max
  millrace gateway push clip.ts --orch https://a:8935 --key-file gateway.key --max-price 1200 --loop-to 60s --verify
  millrace gateway push rtmp://127.0.0.1/live/key --webhook https://lists.example/orchestrators --window 10
  ffmpeg -re -i clip.mp4 -c copy -f flv rtmp://127.0.0.1/live/key")]
pub(crate) struct PushArgs {
    /// The clip (MPEG-TS with H.264 or HEVC video), or rtmp://, srt:// or http:// HOST:PORT to listen on
    input: String,
    #[command(flatten)]
    peers: Peers,
    /// Renditions wanted: 144p 240p 360p 480p 576p 720p 1080p, or network names such as P720p30fps16x9
    #[arg(long, value_delimiter = ',', value_parser = text::profile, value_name = "NAMES",
          default_value = "240p,360p,480p,720p")]
    profiles: Vec<Profile>,
    /// Length of a segment; each is cut at the first key frame after it
    #[arg(long, value_parser = text::duration, value_name = "TIME", default_value = "2s")]
    segment: Duration,
    /// Repeat the clip without a break in time until the stream is at least this long
    #[arg(long, value_parser = text::duration, value_name = "TIME")]
    loop_to: Option<Duration>,
    /// Directory for in/ and out/
    #[arg(long, value_name = "DIR", default_value = "millrace-push")]
    out: PathBuf,
    /// Keep so many segments in the playlists, and twice as many on disk. Default: all of them
    #[arg(long, value_name = "SEGMENTS")]
    window: Option<NonZeroUsize>,
    /// A live source that is silent for so long has ended
    #[arg(long, value_parser = text::duration, value_name = "TIME", default_value = "30s")]
    idle: Duration,
    /// How long SRT waits for lost packets to come again
    #[arg(long, value_parser = text::duration, value_name = "TIME", default_value = "200ms")]
    latency: Duration,
    /// Send as a live source would, or as fast as segments come back
    #[arg(long, value_enum, default_value_t = PaceArg::Realtime)]
    pace: PaceArg,
    /// Decode every rendition in a jailed worker and hold it against the source and against what was reported
    #[arg(long, conflicts_with = "no_verify")]
    verify: bool,
    /// Believe the pixel counts that are reported; otherwise pictures are counted without decoding them
    #[arg(long)]
    no_verify: bool,
    /// The worker program for --verify. Default: millrace-worker beside this program, or in PATH
    #[arg(long, value_name = "PATH", env = "MILLRACE_WORKER")]
    worker: Option<PathBuf>,
    /// Print the report as JSON on standard output; progress goes to standard error
    #[arg(long)]
    json: bool,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "Example:\n  millrace gateway ask --orch https://127.0.0.1:8935 --key-file gateway.key")]
pub(crate) struct AskArgs {
    #[command(flatten)]
    peers: Peers,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PaceArg {
    /// One segment per segment duration
    Realtime,
    /// The next as soon as there is room
    Max,
}

pub(crate) async fn run(command: Command) -> failure::Result {
    match command {
        Command::Push(args) => push(*args).await,
        Command::Bench(args) => bench::run(*args).await,
        Command::Ask(args) => ask(&args).await,
    }
}

impl Peers {
    /// The gateway these arguments describe.
    pub(crate) fn config(&self, verify: bool) -> failure::Result<GatewayConfig> {
        let signer = keys::signer(self.key_file.as_deref(), self.keystore.as_deref(), self.password_file.as_deref())?;
        let webhook = self.webhook.clone().map(Webhook::new).transpose();
        Ok(GatewayConfig {
            orchestrators: self.orchestrators.clone(),
            webhook: webhook.map_err(|error| Failure::from_error(Code::Unavailable, &error))?.map(Arc::new),
            signer,
            chain: None,
            limits: OfferLimits {
                max_price: self.max_price,
                max_ticket_value: self.max_ticket_ev,
                max_segment_value: self.max_segment_ev,
            },
            verify,
            decoder: None,
        })
    }
}

async fn push(args: PushArgs) -> failure::Result {
    if args.segment > LONGEST_SEGMENT {
        return Err(Failure::new(Code::Usage, "a segment may be at most 300 s long"));
    }
    let mut config = args.peers.config(!args.no_verify)?;
    if args.verify {
        config.decoder = Some(Arc::new(Jailed::start(args.worker.clone()).await?));
    }
    let (stop, wanted) = stop::on_ctrl_c();
    match Listen::parse(&args.input) {
        Some(listen) => {
            let listen = listen.map_err(|error| Failure::from_error(Code::Usage, &error))?;
            let scheme = match listen.protocol() {
                Protocol::Rtmp => "rtmp",
                Protocol::Srt => "srt",
                Protocol::Http => "http",
            };
            if args.loop_to.is_some() {
                return Err(Failure::new(Code::Usage, "--loop-to is for a file: a live stream is not repeated"));
            }
            let options = IngestOptions { segment: args.segment, idle: args.idle, latency: args.latency };
            let unavailable = |error: IngestError| Failure::from_error(Code::Unavailable, &error);
            let ingest = listen.open(&options).await.map_err(unavailable)?;
            eprintln!("waiting for a stream at {scheme}://{}", ingest.local());
            let started = tokio::select! {
                started = ingest.start() => started.map_err(unavailable)?,
                () = wanted => return Err(Failure::new(Code::NoInput, "stopped before a stream came")),
            };
            // The source gives the pace.
            send(&args, config, started.0, started.1, Pace::Max, stop).await
        }
        None => {
            let (path, target, loop_to) = (PathBuf::from(&args.input), args.segment, args.loop_to);
            let prepared = tokio::task::spawn_blocking(move || prepare(&path, target, loop_to)).await;
            let (input, segments) = prepared
                .unwrap_or_else(|error| Err(Failure::new(Code::Software, format!("cutting broke: {error}"))))?;
            let pace = match args.pace {
                PaceArg::Realtime => Pace::RealTime,
                PaceArg::Max => Pace::Max,
            };
            let segments = stream::iter(segments.map(|segment| Ok(Fed::from(segment))));
            send(&args, config, input, segments, pace, stop).await
        }
    }
}

async fn send(
    args: &PushArgs,
    config: GatewayConfig,
    input: mpegts::VideoCodec,
    segments: impl Stream<Item = Result<Fed, IngestError>> + Send,
    pace: Pace,
    stop: impl Future<Output = ()> + Send,
) -> failure::Result {
    let options =
        PushOptions { profiles: args.profiles.clone(), input, dir: args.out.clone(), pace, window: args.window };
    let json = args.json;
    let mut progress = |segment: &SegmentReport| {
        let line = describe(segment);
        if json { eprintln!("{line}") } else { table::line(&line) }
    };
    let gateway = Arc::new(Gateway::new(config));
    let report = gateway::push(gateway, segments, &options, stop, &mut progress).await;
    let report = report.map_err(|error| explain(&error))?;
    if args.json {
        table::json(&report)?;
    } else {
        print(&report, args);
    }
    for claim in report.each.iter().flat_map(|segment| &segment.false_claims) {
        eprintln!("millrace: {} made a false claim: {}", claim.service_uri, claim.claim);
    }
    Ok(if report.failed == 0 && report.false_claims == 0 { Outcome::Done } else { Outcome::Partly })
}

pub(crate) type Segments = Box<dyn Iterator<Item = Segment> + Send>;

/// Reads and cuts the clip.
fn prepare(
    path: &Path,
    target: Duration,
    loop_to: Option<Duration>,
) -> failure::Result<(mpegts::VideoCodec, Segments)> {
    let bytes = source::read_ts(path)?;
    let fault = |error: mpegts::Error| Failure::new(Code::Data, format!("{}: {error}", path.display()));
    let no_video = || {
        Failure::new(Code::Data, format!("{} has no video that can be cut into segments", path.display()))
            .advise("it must hold H.264 or HEVC with at least one key frame")
    };
    let codec = mpegts::demux(&bytes).map_err(fault)?.video.map(|video| video.codec).ok_or_else(no_video)?;
    let target = u64::try_from(target.as_millis()).unwrap_or(u64::MAX);
    let segments: Segments = match loop_to {
        None => {
            let segments = segment::cut(&bytes, target).map_err(fault)?;
            if segments.is_empty() {
                return Err(no_video());
            }
            Box::new(segments.into_iter())
        }
        Some(length) => {
            let looper = Looper::new(&bytes, target).map_err(fault)?.ok_or_else(no_video)?;
            let length = u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
            let mut sent = 0u64;
            Box::new(looper.take_while(move |segment| {
                let goes_on = sent < length;
                sent = sent.saturating_add(segment.duration_ms.max(1));
                goes_on
            }))
        }
    };
    Ok((codec, segments))
}

fn explain(error: &PushError) -> Failure {
    match error {
        PushError::NoProfiles | PushError::SameName(_) | PushError::Container(_) => {
            Failure::from_error(Code::Usage, error)
        }
        PushError::Ladder(_) => Failure::from_error(Code::CannotCreate, error),
        PushError::Source(_) => Failure::from_error(Code::Data, error),
        PushError::Discovery(_) | PushError::Hopeless { .. } => Failure::from_error(Code::Unavailable, error).advise(
            "`millrace gateway ask --orch URI` shows what an orchestrator offers; on its box, `millrace status`",
        ),
    }
}

fn describe(segment: &SegmentReport) -> String {
    let number = format!("segment {:>4}  {:>7}", segment.seq, text::seconds(segment.duration_ms));
    match (&segment.error, segment.round_trip_ms, segment.realtime_ratio) {
        (None, Some(trip), Some(ratio)) => {
            let retried = if segment.attempts > 1 { format!("  attempt {}", segment.attempts) } else { String::new() };
            let verified = if segment.verified { "  verified" } else { "" };
            let tickets = if segment.tickets > 0 { format!("  {} tickets", segment.tickets) } else { String::new() };
            format!(
                "{number}  back in {:>7}  {ratio:>5.1} x real time  {} renditions{verified}{tickets}{retried}",
                text::seconds(trip),
                segment.rendition_bytes.len()
            )
        }
        (error, ..) => {
            format!("{number}  LOST after {} attempts: {}", segment.attempts, error.as_deref().unwrap_or_default())
        }
    }
}

fn print(report: &PushReport, args: &PushArgs) {
    table::line("");
    for orchestrator in &report.orchestrators {
        let price = orchestrator.price.map(|(wei, pixels)| format!(", {wei} wei for {pixels} pixels"));
        table::line(&format!(
            "orchestrator  {} returned {} segments{}",
            orchestrator.service_uri,
            orchestrator.segments,
            price.unwrap_or_default()
        ));
    }
    let ratio = |ratio: Option<f64>| ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
    let trip = |trip: Option<u64>| trip.map_or_else(|| "-".to_owned(), text::seconds);
    table::facts(&[
        ("segments", format!("{} sent, {} lost, {} retried", report.segments, report.failed, report.retries)),
        ("renditions", report.renditions.to_string()),
        (
            "verified",
            if args.verify {
                format!("{} segments, {} false claims", report.verified, report.false_claims)
            } else {
                String::new()
            },
        ),
        ("content", text::seconds(report.duration_ms)),
        ("time", text::seconds(report.took_ms)),
        (
            "real-time ratio",
            format!("{} median, {} for the slowest of twenty", ratio(report.rtr_p50), ratio(report.rtr_p95)),
        ),
        (
            "round trip",
            format!(
                "{} median, {} for the slowest of twenty",
                trip(report.round_trip_ms_p50),
                trip(report.round_trip_ms_p95)
            ),
        ),
        ("pixels", text::grouped(report.pixels.0)),
        ("tickets", format!("{} sent, worth {} on average", report.tickets_sent, text::money(&report.ev_sent_wei))),
        ("plays", args.out.join("out/master.m3u8").display().to_string()),
    ]);
}

#[derive(Debug, Serialize)]
struct OfferReport {
    asked: String,
    service_uri: String,
    session: String,
    signer: String,
    recipient: Option<String>,
    price: Option<(u64, u64)>,
    face_value_wei: Option<Wei>,
    ticket_ev_wei: Option<Wei>,
    expiration_block: Option<u64>,
}

async fn ask(args: &AskArgs) -> failure::Result {
    let gateway = Gateway::new(args.peers.config(true)?);
    let plain: Vec<Profile> = preset("720p").into_iter().collect();
    let found = gateway.discover(&gateway::needs(mpegts::VideoCodec::H264, &plain)).await;
    let found = found.map_err(|error| {
        Failure::from_error(Code::Unavailable, &error).advise("on the orchestrator's box: millrace status")
    })?;
    let reports: Vec<_> = found.iter().map(|(asked, offer)| report_offer(asked, offer)).collect();
    if args.json {
        table::json(&reports)?;
    } else {
        let text = |value: Option<String>| value.unwrap_or_else(|| "off-chain".to_owned());
        let row = |offer: &OfferReport| {
            vec![
                offer.asked.clone(),
                offer.service_uri.clone(),
                text(offer.recipient.clone()),
                text(offer.price.map(|(wei, pixels)| format!("{wei}/{pixels}"))),
                text(offer.face_value_wei.map(|wei| wei.to_string())),
                text(offer.ticket_ev_wei.map(|wei| wei.to_string())),
            ]
        };
        let rows: Vec<_> = reports.iter().map(row).collect();
        table::print(&["asked", "service URI", "recipient", "wei/pixels", "face value", "ticket EV"], &rows);
    }
    Ok(Outcome::Done)
}

fn report_offer(asked: &Uri, offer: &Offer) -> OfferReport {
    let terms = offer.terms.as_ref();
    OfferReport {
        asked: asked.to_string(),
        service_uri: offer.service_uri.to_string(),
        session: offer.auth_token.session_id.clone(),
        signer: offer.signer.to_string(),
        recipient: terms.map(|terms| terms.params.recipient.to_string()),
        price: terms.map(|terms| terms.price.parts()),
        face_value_wei: terms.map(|terms| terms.params.face_value),
        ticket_ev_wei: terms.map(|terms| terms.ticket_value().to_wei_floor()),
        expiration_block: terms.map(|terms| terms.params.expiration_block.0),
    }
}

fn service_uri(text: &str) -> Result<Uri, String> {
    let wrong = || format!("{text:?} is no service URI: write https://HOST:PORT");
    let uri: Uri = text.parse().map_err(|_| wrong())?;
    let usable = matches!(uri.scheme_str(), Some("https" | "http")) && uri.host().is_some_and(|host| !host.is_empty());
    if usable { Ok(uri) } else { Err(wrong()) }
}

fn price(text: &str) -> Result<PricePerPixel, String> {
    text.parse().map_err(|error: livepeer::price::PriceError| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_uri_has_a_scheme_and_a_host() {
        assert!(service_uri("https://127.0.0.1:8935").is_ok());
        for wrong in ["127.0.0.1:8935", "ftp://host", "https://", "", "orch"] {
            assert!(service_uri(wrong).is_err(), "{wrong}");
        }
    }
}
