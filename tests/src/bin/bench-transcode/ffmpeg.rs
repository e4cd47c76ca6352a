//! ffmpeg as a person would call it for this ladder: one decode, each size scaled from the source.
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use livepeer::profile::Profile;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

use crate::contender::Cost;
use crate::work::seconds;
use crate::{KEY_INT, ladder};

/// How often the persistent process goes through the segments, so that its start hardly counts.
const TIMES: usize = 3;

pub(crate) fn version() -> Result<String> {
    let out = Command::new("ffmpeg").arg("-version").output().context("ffmpeg is not installed")?;
    Ok(String::from_utf8_lossy(&out.stdout).split_whitespace().nth(2).unwrap_or("unknown").to_owned())
}

/// One process for one segment; also the most memory it had.
pub(crate) fn one(source: &Path, preset: &str, outputs: &[PathBuf]) -> Result<u64> {
    let mut command = start(&["-copyts"]);
    command.arg("-i").arg(source);
    graph(&mut command);
    for ((n, profile), output) in ladder().iter().enumerate().zip(outputs) {
        encoder(&mut command, n, profile, preset);
        command.args(["-f", "mpegts"]).arg(output);
    }
    peak(&command.output()?)
}

/// The same, with what it cost.
pub(crate) fn measured(source: &Path, preset: &str, outputs: &[PathBuf]) -> Result<(Cost, u64)> {
    let before = children_cpu()?;
    let started = Instant::now();
    let peak = one(source, preset, outputs)?;
    let wall = started.elapsed().as_secs_f64();
    Ok((Cost { wall, cpu: children_cpu()? - before }, peak))
}

/// One process for all segments, several times over: its best form for throughput. What one segment cost on average.
pub(crate) fn many(segments: &[PathBuf], preset: &str, dir: &Path) -> Result<(Cost, u64)> {
    let list = dir.join("list.txt");
    let names = segments.iter().map(|path| format!("file '{}'\n", path.display())).collect::<String>();
    std::fs::write(&list, names.repeat(TIMES))?;
    let mut command = start(&["-f", "concat", "-safe", "0"]);
    command.arg("-i").arg(&list);
    graph(&mut command);
    for (n, profile) in ladder().iter().enumerate() {
        encoder(&mut command, n, profile, preset);
        command.args(["-f", "segment", "-segment_time", "2", "-segment_format", "mpegts"]);
        command.arg(dir.join(format!("many-{n}-%d.ts")));
    }
    let before = children_cpu()?;
    let started = Instant::now();
    let peak = peak(&command.output()?)?;
    let wall = started.elapsed().as_secs_f64();
    let done = f64::from(u32::try_from(segments.len() * TIMES)?);
    Ok((Cost { wall: wall / done, cpu: (children_cpu()? - before) / done }, peak))
}

fn start(more: &[&str]) -> Command {
    let mut command = Command::new("ffmpeg");
    command.args(["-v", "info", "-nostats", "-benchmark", "-nostdin", "-y"]).args(more).stdin(Stdio::null());
    command
}

fn graph(command: &mut Command) {
    let profiles = ladder();
    let branches: String = (0..profiles.len()).map(|n| format!("[s{n}]")).collect();
    let scale = |(n, p): (usize, &Profile)| format!("[s{n}]scale={}:{}:flags=bicubic[v{n}]", p.width, p.height);
    let scales: Vec<String> = profiles.iter().enumerate().map(scale).collect();
    command.args(["-filter_complex", &format!("[0:v]split={}{branches};{}", profiles.len(), scales.join(";"))]);
}

fn encoder(command: &mut Command, n: usize, profile: &Profile, preset: &str) {
    let rate = profile.bitrate.0.to_string();
    command.args(["-map", &format!("[v{n}]"), "-map", "0:a?", "-c:a", "copy", "-c:v", "libx264", "-preset", preset]);
    command.args(["-profile:v", "high", "-b:v", &rate, "-minrate", &rate, "-maxrate", &rate, "-bufsize", &rate]);
    command.args(["-g", &KEY_INT.to_string()]);
}

fn peak(output: &Output) -> Result<u64> {
    let said = String::from_utf8_lossy(&output.stderr);
    let last = || said.lines().rev().find(|line| !line.starts_with("bench:")).unwrap_or_default();
    ensure!(output.status.success(), "ffmpeg failed: {}", last());
    let (_, after) = said.rsplit_once("maxrss=").context("ffmpeg does not tell its memory")?;
    let kib: String = after.chars().take_while(char::is_ascii_digit).collect();
    Ok(kib.parse::<u64>()? * 1024)
}

/// Processor time of all processes that have ended.
pub(crate) fn children_cpu() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    Ok(seconds(usage.user_time().num_nanoseconds() + usage.system_time().num_nanoseconds()))
}
