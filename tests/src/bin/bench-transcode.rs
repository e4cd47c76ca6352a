//! `just bench transcode`: the worker against the ffmpeg command line, paired and interleaved.
//!
//! Same segments, same ladder (240p 360p 480p 720p), decode once on both sides. ffmpeg runs as one process per
//! segment, the worker as the product runs it: warm, jailed, media in memfds. Twice: with the product's
//! defaults against ffmpeg veryfast, and with x264 settings identical to ffmpeg's. Prints a table and writes
//! `target/bench/transcode.json`.
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use livepeer::profile::{CodecProfile, Profile, preset};
use millrace_tests::{bins, media};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use nix::time::clock_gettime;
use nix::unistd::Pid;
use sandbox::jail::{JailPlan, ProcessLimits};
use sandbox::launch::{LaunchPlan, Worker, launch};
use sandbox::memfd::Sealed;
use sandbox::message::{Job, Limits, Signatures};
use serde_json::json;

/// The worker against ffmpeg on the same segments.
#[derive(Debug, Parser)]
struct Args {
    /// How often each segment is done by each side.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// The source, an MPEG-TS file with H.264; our own 720p clip unless given.
    #[arg(long)]
    clip: Option<PathBuf>,
    /// Leave the quality figures out.
    #[arg(long)]
    no_quality: bool,
}

const LADDER: [&str; 4] = ["720p", "480p", "360p", "240p"];
const PATIENCE: Duration = Duration::from_secs(120);
const KEY_INT: u32 = 60;

/// What one run cost.
#[derive(Debug, Clone, Copy)]
struct Cost {
    wall: f64,
    cpu: f64,
}

/// One way to transcode.
struct Contender {
    name: &'static str,
    worker: Option<Worker>,
    profiles: Vec<Profile>,
    costs: Vec<Cost>,
    peak_rss: u64,
    /// Renditions of the last round, per segment.
    files: Vec<Vec<PathBuf>>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let clip = args.clip.clone().unwrap_or_else(media::bunny);
    let input = std::fs::read(&clip).with_context(|| format!("read {}", clip.display()))?;
    let segments: Vec<Vec<u8>> = mpegts::segment::cut(&input, 2000)?.into_iter().map(|s| s.bytes).collect();
    ensure!(!segments.is_empty(), "{} has no segment", clip.display());
    let dir = tempfile::tempdir()?;
    let sources: Vec<PathBuf> = (0..segments.len()).map(|n| dir.path().join(format!("in-{n}.ts"))).collect();
    for (path, bytes) in sources.iter().zip(&segments) {
        std::fs::write(path, bytes)?;
    }
    let cores = std::thread::available_parallelism()?.get();
    let same = format!("preset=veryfast,bframes=3,keyint={KEY_INT},threads=0");
    let registry = dir.path().join("registry");
    let mut contenders = [
        contender("ffmpeg", None, true),
        contender("defaults", Some(start(&registry, None)?), false),
        contender("same settings", Some(start(&registry, Some(&same))?), true),
    ];
    println!(
        "{} segments of {}, {} rounds, {cores} cores, {}",
        segments.len(),
        clip.display(),
        args.rounds,
        ffmpeg_version()?
    );
    for round in 0..args.rounds + 1 {
        for (index, source) in sources.iter().enumerate() {
            // The order turns with every pair, so that no side always follows the same other one.
            for turn in 0..contenders.len() {
                let contender = &mut contenders[(turn + round + index) % 3];
                let cost = contender.run(source, index, dir.path(), cores)?;
                // The first round warms caches and is not counted.
                if round > 0 {
                    contender.costs.push(cost);
                }
            }
        }
    }
    let quality = if args.no_quality { Vec::new() } else { quality(&contenders, &sources)? };
    report(&args, &contenders, &quality)
}

fn contender(name: &'static str, worker: Option<Worker>, high: bool) -> Contender {
    let mut profiles: Vec<Profile> = LADDER.iter().filter_map(|name| preset(name)).collect();
    if high {
        profiles.iter_mut().for_each(|p| p.codec_profile = CodecProfile::H264High);
    }
    Contender { name, worker, profiles, costs: Vec::new(), peak_rss: 0, files: Vec::new() }
}

/// A worker as the product starts it, and ready.
fn start(registry: &Path, settings: Option<&str>) -> Result<Worker> {
    let program = bins::bin("millrace-worker");
    let scanned = Command::new(&program).arg("--scan").env("GST_REGISTRY", registry).status()?;
    ensure!(scanned.success(), "the plugin registry cannot be written");
    let mut plan =
        LaunchPlan::software(program, JailPlan::software(ProcessLimits::default()), Some(registry.to_owned()));
    if let Some(settings) = settings {
        plan.args = vec!["--x264".into(), settings.into()];
    }
    let mut worker = launch(&plan)?;
    worker.wait_ready(PATIENCE)?;
    Ok(worker)
}

impl Contender {
    fn run(&mut self, source: &Path, index: usize, dir: &Path, cores: usize) -> Result<Cost> {
        let paths: Vec<PathBuf> = LADDER.iter().map(|p| dir.join(format!("{}-{index}-{p}.ts", self.name))).collect();
        let cost = match &mut self.worker {
            None => {
                let before = children_cpu()?;
                let started = Instant::now();
                let status = ffmpeg(source, &self.profiles, &paths).status()?;
                let wall = started.elapsed().as_secs_f64();
                ensure!(status.success(), "ffmpeg failed");
                let peak = getrusage(UsageWho::RUSAGE_CHILDREN)?.max_rss();
                self.peak_rss = u64::try_from(peak)? * 1024;
                Cost { wall, cpu: children_cpu()? - before }
            }
            Some(worker) => {
                let limits = Limits { deadline_ms: 100_000, ..Limits::default() };
                let profiles = self.profiles.clone();
                let threads = u32::try_from(cores)?;
                let (service_provider, signatures) = (String::new(), Signatures::None);
                let job = Job {
                    id: 1,
                    profiles,
                    clip: None,
                    limits,
                    threads,
                    service_provider,
                    signatures,
                    video_seen: false,
                };
                let bytes = std::fs::read(source)?;
                let clock = nix::time::clock_getcpuclockid(Pid::from_raw(i32::try_from(worker.pid())?))?;
                let before = clock_gettime(clock)?;
                let started = Instant::now();
                let segment = Sealed::from_bytes(&bytes)?;
                let (done, files) = worker.run(&job, segment.as_fd(), PATIENCE)?;
                let wall = started.elapsed().as_secs_f64();
                let cpu = seconds(clock_gettime(clock)?.num_nanoseconds() - before.num_nanoseconds());
                self.peak_rss = done.peak_rss;
                for (file, path) in files.iter().zip(&paths) {
                    std::fs::write(path, &*file.map()?)?;
                }
                Cost { wall, cpu }
            }
        };
        self.files.resize(self.files.len().max(index + 1), Vec::new());
        self.files[index] = paths;
        Ok(cost)
    }
}

/// ffmpeg as a person would call it for this ladder: one decode, each size scaled from the source.
fn ffmpeg(source: &Path, profiles: &[Profile], outputs: &[PathBuf]) -> Command {
    let mut command = Command::new("ffmpeg");
    command.args(["-v", "error", "-nostdin", "-y", "-copyts", "-i"]).arg(source);
    let branches: String = (0..profiles.len()).map(|n| format!("[s{n}]")).collect();
    let scales: Vec<String> = profiles
        .iter()
        .enumerate()
        .map(|(n, p)| format!("[s{n}]scale={}:{}:flags=bicubic[v{n}]", p.width, p.height))
        .collect();
    command.args(["-filter_complex", &format!("[0:v]split={}{branches};{}", profiles.len(), scales.join(";"))]);
    for (n, (profile, output)) in profiles.iter().zip(outputs).enumerate() {
        let rate = profile.bitrate.0.to_string();
        command.args([
            "-map",
            &format!("[v{n}]"),
            "-map",
            "0:a?",
            "-c:a",
            "copy",
            "-c:v",
            "libx264",
            "-preset",
            "veryfast",
        ]);
        command.args(["-profile:v", "high", "-b:v", &rate, "-minrate", &rate, "-maxrate", &rate, "-bufsize", &rate]);
        command.args(["-g", &KEY_INT.to_string(), "-f", "mpegts"]).arg(output);
    }
    command
}

fn ffmpeg_version() -> Result<String> {
    let out = Command::new("ffmpeg").arg("-version").output().context("ffmpeg is not installed")?;
    Ok(String::from_utf8_lossy(&out.stdout).split_whitespace().take(3).collect::<Vec<_>>().join(" "))
}

fn children_cpu() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    Ok(seconds(usage.user_time().num_nanoseconds() + usage.system_time().num_nanoseconds()))
}

#[expect(clippy::cast_precision_loss, reason = "a bench's durations are far below 2^53 ns")]
fn seconds(nanos: i64) -> f64 {
    nanos as f64 / 1e9
}

/// One rendition's quality: contender, profile, value, bits per second of video and sound together.
struct Quality {
    contender: &'static str,
    profile: &'static str,
    value: f64,
    bytes: u64,
}

/// Which measure of quality can be had.
enum Meter {
    Vmaf(PathBuf),
    Psnr,
}

impl Meter {
    fn find() -> Self {
        let tool = media::repository().join(".tools/ffmpeg-vmaf");
        if tool.is_file() { Self::Vmaf(tool) } else { Self::Psnr }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Vmaf(_) => "vmaf",
            Self::Psnr => "psnr_y",
        }
    }

    /// The likeness of a rendition, scaled to the source's size, to the source.
    fn measure(&self, rendition: &Path, source: &Path) -> Result<f64> {
        let (program, filter, mark) = match self {
            Self::Vmaf(tool) => (tool.clone(), "libvmaf", "VMAF score: "),
            Self::Psnr => (PathBuf::from("ffmpeg"), "psnr", " y:"),
        };
        let width = media::stream_field(source, "v", "width");
        let height = media::stream_field(source, "v", "height");
        let graph = format!(
            "[0:v]scale={width}:{height}:flags=bicubic,settb=1/1000,setpts=N[d];[1:v]settb=1/1000,setpts=N[r];[d][r]{filter}"
        );
        let out = Command::new(program)
            .args(["-hide_banner", "-nostdin", "-i"])
            .arg(rendition)
            .arg("-i")
            .arg(source)
            .args(["-lavfi", &graph, "-f", "null", "-"])
            .output()?;
        let text = String::from_utf8_lossy(&out.stderr);
        let Some((_, after)) = text.rsplit_once(mark) else { bail!("no {} in: {text}", self.name()) };
        let number: String = after.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
        Ok(number.parse()?)
    }
}

fn quality(contenders: &[Contender], sources: &[PathBuf]) -> Result<Vec<Quality>> {
    let meter = Meter::find();
    let mut all = Vec::new();
    for contender in contenders {
        for (place, profile) in LADDER.iter().enumerate() {
            let (mut values, mut bytes) = (Vec::new(), 0);
            for (files, source) in contender.files.iter().zip(sources) {
                let file = files.get(place).context("a rendition is missing")?;
                values.push(meter.measure(file, source)?);
                bytes += std::fs::metadata(file)?.len();
            }
            let value = mean(&values);
            all.push(Quality { contender: contender.name, profile, value, bytes });
        }
    }
    Ok(all)
}

fn report(args: &Args, contenders: &[Contender; 3], quality: &[Quality]) -> Result<()> {
    let [ffmpeg, defaults, same] = contenders;
    let command = format!("just bench transcode --rounds {}", args.rounds);
    let against = format!("{} veryfast, one process per segment", ffmpeg_version()?);
    let mut rows = Vec::new();
    let mut row = |measure: &str, value: f64, unit: &str| {
        let value = (value * 10_000.0).round() / 10_000.0;
        rows.push(json!({"measure": measure, "value": value, "unit": unit, "against": against, "command": command}));
    };
    println!("\n{:<15} {:>9} {:>9} {:>9} {:>9} {:>9}", "", "wall s", "CPU s", "wall x", "CPU x", "peak MiB");
    for contender in contenders {
        let wall = ratio(contender, ffmpeg, |c| c.wall);
        let cpu = ratio(contender, ffmpeg, |c| c.cpu);
        println!(
            "{:<15} {:>9.3} {:>9.3} {:>9.3} {:>9.3} {:>9}",
            contender.name,
            median(contender.costs.iter().map(|c| c.wall).collect()),
            median(contender.costs.iter().map(|c| c.cpu).collect()),
            wall,
            cpu,
            contender.peak_rss >> 20
        );
    }
    let memory = |c: &Contender| c.peak_rss >> 10;
    let against_rss = |c: &Contender| as_float(memory(c)) / as_float(memory(ffmpeg));
    row("wall_ratio_ffmpeg_720p", ratio(defaults, ffmpeg, |c| c.wall), "ratio");
    row("cpu_ratio_ffmpeg_720p", ratio(defaults, ffmpeg, |c| c.cpu), "ratio");
    row("wall_ratio_ffmpeg_720p_same_settings", ratio(same, ffmpeg, |c| c.wall), "ratio");
    row("cpu_ratio_ffmpeg_720p_same_settings", ratio(same, ffmpeg, |c| c.cpu), "ratio");
    row("peak_rss_ratio_ffmpeg_720p", against_rss(defaults), "ratio");
    row("peak_rss_ratio_ffmpeg_720p_same_settings", against_rss(same), "ratio");
    row("wall_per_segment_720p", median(defaults.costs.iter().map(|c| c.wall).collect()), "s");
    row("cpu_per_segment_720p", median(defaults.costs.iter().map(|c| c.cpu).collect()), "s");
    if !quality.is_empty() {
        let meter = Meter::find().name();
        println!(
            "\n{:<15} {:>9} {:>9} {:>9} {:>9}   ({meter}, and bytes against ffmpeg's)",
            "", LADDER[0], LADDER[1], LADDER[2], LADDER[3]
        );
        let of =
            |contender: &str, profile: &str| quality.iter().find(|q| q.contender == contender && q.profile == profile);
        for contender in contenders {
            let cells: Vec<String> = LADDER
                .iter()
                .filter_map(|profile| of(contender.name, profile).zip(of(ffmpeg.name, profile)))
                .map(|(q, f)| format!("{:>9.2} ({:.2})", q.value, as_float(q.bytes) / as_float(f.bytes)))
                .collect();
            println!("{:<15} {}", contender.name, cells.join(""));
        }
        for (contender, suffix) in [(defaults, ""), (same, "_same_settings")] {
            let deltas = LADDER.iter().filter_map(|p| Some(of(contender.name, p)?.value - of(ffmpeg.name, p)?.value));
            let least = deltas.fold(f64::INFINITY, f64::min);
            row(&format!("{meter}_delta_min_720p{suffix}"), least, if meter == "vmaf" { "points" } else { "dB" });
        }
    }
    let path = media::repository().join("target/bench/transcode.json");
    std::fs::create_dir_all(path.parent().context("a file has a folder")?)?;
    std::fs::write(&path, serde_json::to_string_pretty(&rows)?)?;
    println!("\nwritten to {}", path.display());
    Ok(())
}

/// The median of the ratios of paired runs.
fn ratio(ours: &Contender, theirs: &Contender, of: impl Fn(&Cost) -> f64) -> f64 {
    median(ours.costs.iter().zip(&theirs.costs).map(|(a, b)| of(a) / of(b)).collect())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / as_float(u64::try_from(values.len()).unwrap_or(1))
}

#[expect(clippy::cast_precision_loss, reason = "counts of bytes far below 2^53")]
fn as_float(count: u64) -> f64 {
    count as f64
}
