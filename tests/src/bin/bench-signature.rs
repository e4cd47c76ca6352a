//! `just bench signature`: the MPEG-7 signature against FFmpeg's filter, paired and interleaved, on the same pictures.
//!
//! Our clip is decoded once and scaled to each size as Y4M. Both sides then read that file and write the signature,
//! ours as `millrace signature`, theirs as `ffmpeg -vf signature`; FFmpeg runs once more without the filter, so that
//! the filter's own cost can be told from its reading. Both must write the same bytes. Then the worker transcodes the
//! clip with and without signatures, in turns. Prints a table and writes `target/bench/signature.json`.
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use livepeer::profile::{Profile, preset};
use millrace_tests::{bins, media};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use sandbox::jail::{JailPlan, ProcessLimits};
use sandbox::launch::{LaunchPlan, Worker, launch};
use sandbox::memfd::Sealed;
use sandbox::message::{Job, Limits, Signatures};
use serde_json::json;

/// Our signature against FFmpeg's.
#[derive(Debug, Parser)]
struct Args {
    /// How often each side does each clip.
    #[arg(long, default_value_t = 9)]
    rounds: usize,
}

const SIZES: [&str; 4] = ["426x240", "854x480", "1280x720", "1920x1080"];
const LADDER: [&str; 4] = ["720p", "480p", "360p", "240p"];
const FRAMES: f64 = 120.0;
const PATIENCE: Duration = Duration::from_secs(120);
const COMMAND: &str = "just bench signature";

/// What one run cost, in seconds.
#[derive(Debug, Clone, Copy)]
struct Cost {
    wall: f64,
    cpu: f64,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let dir = tempfile::tempdir()?;
    let mut rows = Vec::new();
    let mut row = |measure: String, value: f64, unit: &str, against: &str| {
        let value = (value * 10_000.0).round() / 10_000.0;
        rows.push(json!({"measure": measure, "value": value, "unit": unit, "against": against, "command": COMMAND}));
    };
    println!("{:<10} {:>10} {:>10} {:>10} {:>10} {:>12} {:>12}", "", "ours us", "ffmpeg us", "wall x", "CPU x", "", "");
    for size in SIZES {
        let found = compare(size, args.rounds, dir.path())?;
        println!(
            "{size:<10} {:>10.1} {:>10.1} {:>10.3} {:>10.3}   (CPU per picture, the filter's own; whole commands)",
            found.ours * 1e6,
            found.filter * 1e6,
            found.wall,
            found.cpu
        );
        let against = "ffmpeg -vf signature=format=binary on the same Y4M";
        row(format!("signature_command_wall_ratio_{size}"), found.wall, "ratio", against);
        row(format!("signature_command_cpu_ratio_{size}"), found.cpu, "ratio", against);
        row(format!("signature_cpu_per_picture_{size}"), found.ours * 1e6, "us", "");
        row(
            format!("signature_filter_cpu_ratio_{size}"),
            found.ours / found.filter,
            "ratio",
            "the filter's cost alone",
        );
    }
    let (wall, cpu) = transcode(args.rounds, dir.path())?;
    println!("transcode of four renditions with their signatures: wall {wall:.3}x, CPU {cpu:.3}x of without");
    row("transcode_with_signatures_wall_ratio".to_owned(), wall, "ratio", "the same job without signatures");
    row("transcode_with_signatures_cpu_ratio".to_owned(), cpu, "ratio", "the same job without signatures");
    let path = media::repository().join("target/bench/signature.json");
    std::fs::create_dir_all(path.parent().context("a file has a folder")?)?;
    std::fs::write(&path, serde_json::to_string_pretty(&rows)?)?;
    println!("\nwritten to {}", path.display());
    Ok(())
}

struct Found {
    /// Seconds of processor per picture: our signing and reading, and the filter alone.
    ours: f64,
    filter: f64,
    /// Medians of the ratios of whole commands.
    wall: f64,
    cpu: f64,
}

fn compare(size: &str, rounds: usize, dir: &Path) -> Result<Found> {
    let clip = dir.join("clip.y4m");
    let (ours, theirs) = (dir.join("ours.bin"), dir.join("theirs.bin"));
    let scaled = format!("scale={}:flags=bicubic", size.replace('x', ":"));
    let mut make = Command::new("ffmpeg");
    make.args(["-nostdin", "-v", "error", "-y", "-i"]).arg(media::bunny()).args(["-vf", &scaled]).arg(&clip);
    ensure!(make.status()?.success(), "ffmpeg makes no clip of {size}");
    let mut signing = Command::new(bins::bin("millrace"));
    signing.arg("signature").arg(&clip).arg("-o").arg(&ours).arg("--json").stdout(std::process::Stdio::null());
    let mut filter = ffmpeg(&clip);
    let name = theirs.to_str().context("a plain path")?;
    filter.args(["-vf", &format!("signature=format=binary:filename={name}"), "-f", "null", "-"]);
    let mut bare = ffmpeg(&clip);
    bare.args(["-vf", "null", "-f", "null", "-"]);
    let mut costs: [Vec<Cost>; 3] = Default::default();
    for round in 0..=rounds {
        // The order turns, so that no side always follows the same other one.
        for turn in 0..3 {
            let which = (turn + round) % 3;
            let command = [&mut signing, &mut filter, &mut bare].into_iter().nth(which).context("one of three")?;
            let cost = run(command)?;
            // The first round warms caches and is not counted.
            if let Some(costs) = costs.get_mut(which).filter(|_| round > 0) {
                costs.push(cost);
            }
        }
    }
    ensure!(std::fs::read(&ours)? == std::fs::read(&theirs)?, "the signatures of {size} differ");
    let [ours, filter, bare] = costs;
    let ratio = |of: fn(&Cost) -> f64| median(ours.iter().zip(&filter).map(|(a, b)| of(a) / of(b)).collect());
    Ok(Found {
        ours: median(ours.iter().map(|c| c.cpu).collect()) / FRAMES,
        filter: median(filter.iter().zip(&bare).map(|(a, b)| a.cpu - b.cpu).collect()) / FRAMES,
        wall: ratio(|c| c.wall),
        cpu: ratio(|c| c.cpu),
    })
}

fn ffmpeg(clip: &Path) -> Command {
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-v", "error", "-y", "-i"]).arg(clip);
    command
}

fn run(command: &mut Command) -> Result<Cost> {
    let before = children_cpu()?;
    let started = Instant::now();
    ensure!(command.status()?.success(), "{command:?} failed");
    Ok(Cost { wall: started.elapsed().as_secs_f64(), cpu: children_cpu()? - before })
}

fn children_cpu() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    Ok(seconds(usage.user_time().num_microseconds() + usage.system_time().num_microseconds()))
}

#[expect(clippy::cast_precision_loss, reason = "some minutes at most")]
fn seconds(micros: i64) -> f64 {
    micros as f64 / 1e6
}

/// Medians of wall and processor time with signatures over those without.
fn transcode(rounds: usize, dir: &Path) -> Result<(f64, f64)> {
    let mut worker = start(&dir.join("registry"))?;
    let segment = Sealed::from_bytes(&std::fs::read(media::bunny())?)?;
    let (mut walls, mut cpus) = (Vec::new(), Vec::new());
    for round in 0..=rounds {
        let mut pair = [Cost { wall: 0.0, cpu: 0.0 }; 2];
        for turn in 0..2 {
            let which = (turn + round) % 2;
            let asked = if which == 1 { Signatures::Renditions } else { Signatures::None };
            let started = Instant::now();
            let (done, files) = worker.run(&job(asked), segment.as_fd(), PATIENCE)?;
            ensure!(files.len() == LADDER.len() * (1 + which), "{} files came back", files.len());
            let cpu = Duration::from_millis(done.cpu_ms).as_secs_f64();
            if let Some(cost) = pair.get_mut(which) {
                *cost = Cost { wall: started.elapsed().as_secs_f64(), cpu };
            }
        }
        if round > 0 {
            let [without, with] = pair;
            walls.push(with.wall / without.wall);
            cpus.push(with.cpu / without.cpu);
        }
    }
    Ok((median(walls), median(cpus)))
}

fn job(signatures: Signatures) -> Job {
    let profiles: Vec<Profile> = LADDER.iter().filter_map(|name| preset(name)).collect();
    Job {
        id: 1,
        profiles,
        clip: None,
        limits: Limits { deadline_ms: 100_000, ..Limits::default() },
        threads: 2,
        service_provider: String::new(),
        signatures,
        video_seen: false,
    }
}

/// A worker as the product starts it, and ready.
fn start(registry: &Path) -> Result<Worker> {
    let program: PathBuf = bins::bin("millrace-worker");
    let scanned = Command::new(&program).arg("--scan").env("GST_REGISTRY", registry).status()?;
    ensure!(scanned.success(), "the plugin registry cannot be written");
    let jail = JailPlan::software(ProcessLimits::default());
    let mut worker = launch(&LaunchPlan::software(program, jail, Some(registry.to_owned())))?;
    worker.wait_ready(PATIENCE)?;
    Ok(worker)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
