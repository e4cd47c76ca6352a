//! `millrace signature`: the MPEG-7 video signature of a file, as FFmpeg's filter writes it.
//!
//! A YUV4MPEG2 stream is pictures already and is read here. Everything else is decoded by a jailed worker.
use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use clap::Args as ClapArgs;
use sandbox::channel::MAX_SEGMENT;
use sandbox::launch::RunError;
use sandbox::memfd::{MemfdError, Writer};
use sandbox::message::{Job, Limits, Signatures};
use serde::Serialize;
use video_signature::{Overview, Signer, y4m};

use crate::failure::{self, Code, Failure, Outcome, unreadable, unwritable};
use crate::{table, text, worker};

/// How a YUV4MPEG2 stream begins.
const Y4M: &[u8] = b"YUV4MPEG2 ";
/// Bytes read at a time: about a frame.
const BUFFER: usize = 1 << 20;
/// A file may be decoded for so long.
const PATIENCE: Duration = Duration::from_secs(3600);
/// And play for so long.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// How often a person is told how far it has come.
const TELL: Duration = Duration::from_millis(500);

/// Write the MPEG-7 video signature of a file.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Writes byte for byte what FFmpeg writes with
  ffmpeg -noautorotate -i INPUT -vf signature=format=binary:filename=OUT -f null -
Video of 8 bits, and of 10 or 12 bits in limited range, with sides of 32 pixels at least. Y4M is read as it comes,
from a pipe too; anything else is decoded by a jailed worker without network, files or keys.

Examples:
  millrace signature clip.ts -o clip.bin
  ffmpeg -i film.mkv -f yuv4mpegpipe - | millrace signature - -o film.bin")]
pub(crate) struct Args {
    /// The file: MPEG-TS, MP4 or Y4M; `-` for standard input
    input: PathBuf,
    /// The signature; `-` for standard output
    #[arg(short, long, value_name = "FILE")]
    out: PathBuf,
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
    output: PathBuf,
    width: u32,
    height: u32,
    frames: u32,
    bytes: usize,
    took_ms: u64,
}

pub(crate) fn run(args: &Args) -> failure::Result {
    let to_stdout = args.out == Path::new("-");
    if to_stdout && args.json {
        return Err(Failure::new(Code::Usage, "the signature and JSON cannot both go to standard output"));
    }
    let begun = Instant::now();
    let mut input = open(&args.input)?;
    let head = input.fill_buf().map_err(|error| unreadable(&args.input, &error))?;
    let progress = Progress::start(&args.input);
    let signed = if head.starts_with(Y4M) { pictures(input, args, &progress) } else { film(input, args) };
    progress.end();
    let signature = signed?;
    let overview = Overview::read(&signature)
        .ok_or_else(|| Failure::new(Code::Data, format!("{} has no picture", args.input.display())))?;
    if to_stdout {
        return io::stdout().write_all(&signature).map(|()| Outcome::Done).map_err(|e| unwritable(&args.out, &e));
    }
    keep(&args.out, &signature)?;
    let summary = Summary {
        input: args.input.clone(),
        output: args.out.clone(),
        width: overview.width,
        height: overview.height,
        frames: overview.frames,
        bytes: signature.len(),
        took_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
    };
    if args.json {
        table::json(&summary)?;
    } else {
        table::facts(&[
            ("pictures", format!("{} of {}x{}", summary.frames, summary.width, summary.height)),
            ("signature", format!("{} bytes in {}", summary.bytes, summary.output.display())),
            ("time", text::seconds(summary.took_ms)),
        ]);
    }
    Ok(Outcome::Done)
}

fn open(path: &Path) -> failure::Result<Box<dyn BufRead>> {
    if path == Path::new("-") {
        return Ok(Box::new(BufReader::with_capacity(BUFFER, io::stdin())));
    }
    let file = File::open(path).map_err(|error| unreadable(path, &error))?;
    Ok(Box::new(BufReader::with_capacity(BUFFER, file)))
}

/// Signs a stream of pictures as they come.
fn pictures(input: Box<dyn BufRead>, args: &Args, progress: &Progress) -> failure::Result<Vec<u8>> {
    let bad = |error: &dyn std::error::Error| {
        Failure::new(Code::Data, format!("cannot sign {}: {}", args.input.display(), service::with_causes(error)))
    };
    let mut reader = y4m::Reader::new(input).map_err(|error| bad(&error))?;
    let mut signer = Signer::new(reader.width(), reader.height(), reader.time_base()).map_err(|error| bad(&error))?;
    let width = reader.width() as usize;
    for number in 0.. {
        let Some(luma) = reader.next_frame().map_err(|error| bad(&error))? else { break };
        signer.push(number, luma, width).map_err(|error| bad(&error))?;
        progress.frames.fetch_add(1, Ordering::Relaxed);
    }
    Ok(signer.finish())
}

/// Lets a jailed worker decode a file and sign what it decoded.
fn film(mut input: Box<dyn BufRead>, args: &Args) -> failure::Result<Vec<u8>> {
    let ours = |error: &dyn std::error::Error| {
        Failure::new(Code::Software, format!("cannot hand the file over: {}", service::with_causes(error)))
    };
    let mut media = Writer::new(MAX_SEGMENT).map_err(|error| ours(&error))?;
    let mut piece = vec![0; BUFFER];
    loop {
        let count = input.read(&mut piece).map_err(|error| unreadable(&args.input, &error))?;
        let Some(bytes) = piece.get(..count).filter(|bytes| !bytes.is_empty()) else { break };
        media.append(bytes).map_err(|error| match error {
            MemfdError::TooLarge { max, .. } => {
                let text = format!("{} is larger than {}", args.input.display(), text::bytes(max));
                Failure::new(Code::Data, text)
                    .advise("let ffmpeg decode it: ffmpeg -i FILE -f yuv4mpegpipe - | millrace signature - -o OUT")
            }
            error => ours(&error),
        })?;
    }
    let media = media.seal().map_err(|error| ours(&error))?;
    let (mut worker, _) = worker::start(&worker::find(args.worker.as_deref())?, args.verbose)?;
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let job = Job {
        id: 1,
        profiles: Vec::new(),
        clip: None,
        limits: Limits { deadline_ms: millis(PATIENCE), max_duration_ms: millis(LONGEST), ..Limits::default() },
        threads: std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1)),
        service_provider: String::new(),
        signatures: Signatures::Source,
        video_seen: false,
    };
    let (_, signatures) = worker.run(&job, media.as_fd(), PATIENCE).map_err(|error| explain(&error, &args.input))?;
    let Some(signature) = signatures.first() else { return Ok(Vec::new()) };
    signature.to_vec().map_err(|error| ours(&error))
}

fn explain(error: &RunError, input: &Path) -> Failure {
    let RunError::Job { error: job, detail } = error else {
        let text = format!("the worker was lost on {}: {}", input.display(), service::with_causes(error));
        return Failure::new(Code::Software, text).advise("run the command again with --verbose to see what it says");
    };
    let reason = if detail.is_empty() { job.to_string() } else { detail.clone() };
    Failure::new(Code::Data, format!("cannot sign {}: {reason}", input.display()))
        .advise("MPEG-TS and MP4 with H.264 or HEVC are decoded here; of anything else, give it the pictures as Y4M")
}

/// Writes the file whole or not at all.
fn keep(path: &Path, signature: &[u8]) -> failure::Result<()> {
    let name =
        path.file_name().ok_or_else(|| Failure::new(Code::Usage, format!("{} names no file", path.display())))?;
    // A device or a pipe cannot be put in place of.
    if path.exists() && !path.is_file() {
        return std::fs::write(path, signature).map_err(|error| unwritable(path, &error));
    }
    let partial = path.with_file_name(format!(".{}.part", name.to_string_lossy()));
    let written = std::fs::write(&partial, signature).and_then(|()| std::fs::rename(&partial, path));
    written.map_err(|error| {
        // There may be nothing to remove.
        let _ = std::fs::remove_file(&partial);
        unwritable(path, &error)
    })
}

/// Tells a person at a terminal that something happens.
struct Progress {
    frames: Arc<AtomicU64>,
    running: Option<(SyncSender<()>, JoinHandle<()>)>,
}

impl Progress {
    fn start(input: &Path) -> Self {
        let frames = Arc::new(AtomicU64::new(0));
        if !io::stderr().is_terminal() {
            return Self { frames, running: None };
        }
        let (stop, stopped) = sync_channel(0);
        let (seen, name, begun) = (Arc::clone(&frames), input.display().to_string(), Instant::now());
        let thread = std::thread::spawn(move || {
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(TELL) {
                let pictures = match seen.load(Ordering::Relaxed) {
                    0 => String::new(),
                    frames => format!(", {frames} pictures"),
                };
                eprint!("\rsigning {name}: {} s{pictures}", begun.elapsed().as_secs());
            }
            eprint!("\r\x1b[K");
        });
        Self { frames, running: Some((stop, thread)) }
    }

    fn end(self) {
        let Some((stop, thread)) = self.running else { return };
        drop(stop);
        // It only prints.
        let _ = thread.join();
    }
}
