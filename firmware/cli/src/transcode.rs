//! `millrace transcode`: a file in, renditions out, nobody else involved.
use std::fs;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args as ClapArgs;
use livepeer::profile::Profile;
use livepeer::units::Pixels;
use mpegts::segment;
use sandbox::launch::{RunError, Worker};
use sandbox::memfd::Sealed;
use sandbox::message::{Job, JobError, Limits, Signatures};
use sandbox::preset::Preset;
use serde::Serialize;

use crate::failure::{self, Code, Failure, Outcome, unwritable};
use crate::source::{self, Kind};
use crate::{table, text, worker};

/// Longer files are done piece by piece.
const WHOLE: Duration = Duration::from_secs(300);
/// Larger files too.
const WHOLE_BYTES: usize = 256 << 20;
/// Length of a piece.
const PIECE: Duration = Duration::from_secs(60);
/// A job may take this many times the length of its content, and never less than a minute.
const PATIENCE: u32 = 20;
const LEAST_PATIENCE: Duration = Duration::from_secs(60);

/// Transcode a file on this machine.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Each profile becomes OUT/<profile>.ts. Sound is carried over as it is; a portrait source makes
portrait renditions. The media is read by a jailed worker without network, files or keys.

Examples:
  millrace transcode clip.ts --profiles 360p,720p -o out/
  millrace transcode clip.mp4 --profiles P720p30fps16x9 -o out/ --json")]
pub(crate) struct Args {
    /// The file: MPEG-TS or MP4 with H.264 or HEVC video
    input: PathBuf,
    /// Renditions wanted: 144p 240p 360p 480p 576p 720p 1080p, or network names such as P720p30fps16x9
    #[arg(long, value_delimiter = ',', value_parser = text::profile, required = true, value_name = "NAMES")]
    profiles: Vec<Profile>,
    /// Directory for the renditions; made if needed
    #[arg(short, long, value_name = "DIR")]
    out: PathBuf,
    /// What the encoders aim at: latency (least processor time), balanced, or quality
    #[arg(long, default_value_t, value_name = "NAME")]
    preset: Preset,
    /// The worker program. Default: millrace-worker beside this program, or in PATH
    #[arg(long, value_name = "PATH", env = "MILLRACE_WORKER")]
    worker: Option<PathBuf>,
    /// Show what the worker says
    #[arg(long)]
    verbose: bool,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Summary {
    input: PathBuf,
    engine: String,
    jobs: usize,
    source_frames: u64,
    duration_ms: u64,
    took_ms: u64,
    cpu_ms: u64,
    renditions: Vec<RenditionSummary>,
}

#[derive(Debug, Serialize)]
struct RenditionSummary {
    profile: String,
    path: PathBuf,
    width: u32,
    height: u32,
    frames: u64,
    pixels: Pixels,
    bytes: u64,
}

pub(crate) fn run(args: &Args) -> failure::Result {
    let source = source::read(&args.input)?;
    let pieces = cut(source, &args.input)?;
    let (mut worker, ready) = worker::start_with(&worker::find(args.worker.as_deref())?, args.verbose, args.preset)?;
    let mut output = Output::create(&args.out, &args.profiles)?;
    let mut summary = Summary {
        input: args.input.clone(),
        engine: ready.engine,
        jobs: pieces.len(),
        source_frames: 0,
        duration_ms: 0,
        took_ms: 0,
        cpu_ms: 0,
        renditions: output.summaries(&args.profiles),
    };
    let begun = Instant::now();
    for (id, piece) in (1u64..).zip(pieces) {
        one(&mut worker, id, &piece, args, &mut output, &mut summary)?;
    }
    summary.took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    output.keep()?;
    if args.json {
        table::json(&summary)?;
    } else {
        summary.print();
    }
    Ok(Outcome::Done)
}

/// A piece of the input and about how long it plays; nothing is known of an MP4 file.
struct Piece {
    bytes: Vec<u8>,
    duration: Duration,
}

fn cut(source: source::Source, path: &Path) -> failure::Result<Vec<Piece>> {
    if source.kind == Kind::Mp4 {
        return Ok(vec![Piece { bytes: source.bytes, duration: WHOLE }]);
    }
    let in_millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let unreadable = |error| Failure::new(Code::Data, format!("{}: {error}", path.display()));
    let segments = segment::cut(&source.bytes, in_millis(PIECE)).map_err(unreadable)?;
    let length = segments.iter().fold(0u64, |sum, segment| sum.saturating_add(segment.duration_ms));
    if Duration::from_millis(length) <= WHOLE && source.bytes.len() <= WHOLE_BYTES {
        return Ok(vec![Piece { bytes: source.bytes, duration: Duration::from_millis(length) }]);
    }
    let piece = |segment: segment::Segment| Piece {
        duration: Duration::from_millis(segment.duration_ms),
        bytes: segment.bytes,
    };
    Ok(segments.into_iter().map(piece).collect())
}

fn one(
    worker: &mut Worker,
    id: u64,
    piece: &Piece,
    args: &Args,
    output: &mut Output,
    summary: &mut Summary,
) -> failure::Result<()> {
    let ours = |what: &str, error: &dyn std::error::Error| {
        Failure::new(Code::Software, format!("{what}: {}", service::with_causes(error)))
    };
    let deadline = (piece.duration * PATIENCE).max(LEAST_PATIENCE);
    let limits = Limits { deadline_ms: u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX), ..Limits::default() };
    let job = Job {
        id,
        profiles: args.profiles.clone(),
        clip: None,
        limits,
        threads: std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1)),
        service_provider: format!("Livepeer Transcoder {} (offline)", env!("CARGO_PKG_VERSION")),
        signatures: Signatures::None,
        video_seen: false,
    };
    let segment = Sealed::from_bytes(&piece.bytes).map_err(|error| ours("cannot hand the file over", &error))?;
    let (done, renditions) =
        worker.run(&job, segment.as_fd(), deadline).map_err(|error| explain(&error, &args.input))?;
    summary.source_frames += done.decoded_frames;
    summary.duration_ms += done.duration_ms;
    summary.cpu_ms += done.cpu_ms;
    for (index, (report, sealed)) in done.renditions.iter().zip(&renditions).enumerate() {
        let bytes = sealed.to_vec().map_err(|error| ours("cannot take a rendition over", &error))?;
        output.append(index, &bytes)?;
        if let Some(total) = summary.renditions.get_mut(index) {
            (total.width, total.height) = (report.width, report.height);
            total.frames += report.frames;
            total.pixels = Pixels(total.pixels.0.saturating_add(report.pixels.0));
            total.bytes += report.bytes;
        }
    }
    Ok(())
}

fn explain(error: &RunError, input: &Path) -> Failure {
    let RunError::Job { error: job, detail } = error else {
        let text = format!("the worker was lost on {}: {}", input.display(), service::with_causes(error));
        return Failure::new(Code::Software, text).advise("run the command again with --verbose to see what it says");
    };
    let detail = if detail.is_empty() { String::new() } else { format!(" ({detail})") };
    let failure = Failure::new(Code::Data, format!("cannot transcode {}: {job}{detail}", input.display()));
    match job {
        JobError::InvalidDuration => failure.advise(format!(
            "an MP4 file may play for at most 300 s, a transport stream for any time\n{}",
            source::conversion(input)
        )),
        JobError::NoKeyframes | JobError::InvalidVideo | JobError::UnknownContainer => {
            failure.advise("does it play? A cut that begins between key frames does not: cut at a key frame")
        }
        JobError::UnsupportedCodec | JobError::UnsupportedPixelFormat => {
            failure.advise("`millrace hw` lists what can be decoded here; 8-bit 4:2:0 H.264 always works")
        }
        JobError::EncoderNotFound => failure.advise("`millrace hw` lists what can be encoded here"),
        JobError::Timeout => failure.advise("the machine may be overloaded: try fewer or smaller profiles"),
        _ => failure,
    }
}

/// The files being written: under a hidden name until all of them are complete.
struct Output {
    files: Vec<(PathBuf, PathBuf, fs::File)>,
    kept: bool,
}

impl Output {
    fn create(dir: &Path, profiles: &[Profile]) -> failure::Result<Self> {
        fs::create_dir_all(dir).map_err(|error| unwritable(dir, &error))?;
        let mut output = Self { files: Vec::new(), kept: false };
        for profile in profiles {
            let path = dir.join(format!("{}.{}", profile.name, profile.container.extension()));
            let partial = dir.join(format!(".{}.part", profile.name));
            if output.files.iter().any(|(other, ..)| *other == path) {
                return Err(Failure::new(Code::Usage, format!("profile {} is named twice", profile.name)));
            }
            let file = fs::File::create(&partial).map_err(|error| unwritable(&partial, &error))?;
            output.files.push((path, partial, file));
        }
        Ok(output)
    }

    fn summaries(&self, profiles: &[Profile]) -> Vec<RenditionSummary> {
        let summary = |(profile, (path, ..)): (&Profile, &(PathBuf, PathBuf, fs::File))| RenditionSummary {
            profile: profile.name.clone(),
            path: path.clone(),
            width: 0,
            height: 0,
            frames: 0,
            pixels: Pixels(0),
            bytes: 0,
        };
        profiles.iter().zip(&self.files).map(summary).collect()
    }

    fn append(&mut self, index: usize, bytes: &[u8]) -> failure::Result<()> {
        let Some((_, partial, file)) = self.files.get_mut(index) else { return Ok(()) };
        file.write_all(bytes).map_err(|error| unwritable(partial, &error))
    }

    fn keep(&mut self) -> failure::Result<()> {
        for (path, partial, _) in &self.files {
            fs::rename(partial, path).map_err(|error| unwritable(path, &error))?;
        }
        self.kept = true;
        Ok(())
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if !self.kept {
            for (_, partial, _) in &self.files {
                // What is already renamed or gone needs no removing.
                let _ = fs::remove_file(partial);
            }
        }
    }
}

impl Summary {
    fn print(&self) {
        let row = |rendition: &RenditionSummary| {
            vec![
                rendition.profile.clone(),
                format!("{}x{}", rendition.width, rendition.height),
                rendition.frames.to_string(),
                text::grouped(rendition.pixels.0),
                text::bytes(rendition.bytes),
                rendition.path.display().to_string(),
            ]
        };
        let rows: Vec<_> = self.renditions.iter().map(row).collect();
        table::print(&["profile", "size", "frames", "pixels", "bytes", "file"], &rows);
        println!();
        let (played, took) = (self.duration_ms, self.took_ms.max(1));
        let ratio = played.saturating_mul(10) / took;
        table::facts(&[
            ("content", format!("{}, {} frames", text::seconds(played), self.source_frames)),
            ("time", format!("{} ({}.{} times real time)", text::seconds(took), ratio / 10, ratio % 10)),
            ("processor", text::seconds(self.cpu_ms)),
            ("engine", self.engine.clone()),
        ]);
    }
}
