//! `just interop`: our programs against stock go-livepeer, on loopback, with counts of what happened.
//!
//! Not part of CI: it needs a go-livepeer program of your own (`MILLRACE_GO_LIVEPEER=/path/to/livepeer`), and without one it
//! fails and says so. What it showed stands in `firmware/docs/interop.md`.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program people read")]

mod cases;
mod chained;
mod compare;
mod ours;
mod procfs;
mod push;
mod report;
mod rtmp;
mod source;
mod stock;
mod tap;
mod vectors;
mod web;
mod webhook;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::Parser;

use crate::report::Report;
use crate::stock::Livepeer;

/// Runs our programs against a stock go-livepeer on this machine and counts what happened.
#[derive(Debug, Parser)]
#[command(name = "just interop", version)]
struct Args {
    /// What to run: `gateway`, `rtmp`, `onchain`, `discovery`, `transcoder`, `orchestrator`, `verify`, `fast-verify`, `long`, `capture`,
    /// `compare`. All but `long`, `capture` and `compare` when none is named.
    cases: Vec<String>,
    /// The go-livepeer program.
    #[arg(long, env = "MILLRACE_GO_LIVEPEER")]
    livepeer: Option<PathBuf>,
    /// Where configurations, logs and renditions go.
    #[arg(long, default_value = "target/interop")]
    dir: PathBuf,
    /// Segments of each stream.
    #[arg(long, default_value_t = 10)]
    segments: usize,
    /// Rounds of `compare`.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Streams at once in `compare`.
    #[arg(long, default_value_t = 1)]
    streams: usize,
}

/// What every case is given.
#[derive(Debug)]
struct Bench {
    livepeer: Livepeer,
    dir: PathBuf,
    segments: usize,
    rounds: usize,
    streams: usize,
}

const USUAL: [&str; 8] =
    ["gateway", "rtmp", "onchain", "discovery", "transcoder", "orchestrator", "verify", "fast-verify"];

#[tokio::main]
async fn main() -> ExitCode {
    service::init_crypto();
    match run(Args::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("interop: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Tells whoever watches.
fn say(text: &str) {
    println!("{text}");
}

async fn run(args: Args) -> Result<bool> {
    let Some(program) = args.livepeer else {
        bail!(
            "no go-livepeer: set MILLRACE_GO_LIVEPEER to its program (built from its public source, outside this checkout)"
        );
    };
    std::fs::create_dir_all(&args.dir)?;
    let livepeer = Livepeer::new(&program)?;
    println!("interop: go-livepeer {} at {}", livepeer.version(), program.display());
    let dir = args.dir.canonicalize().context("the directory for logs")?;
    let bench = Bench { livepeer, dir, segments: args.segments, rounds: args.rounds, streams: args.streams };
    let named: Vec<&str> = args.cases.iter().map(String::as_str).collect();
    let cases = if named.is_empty() { USUAL.to_vec() } else { named };
    let mut report = Report::default();
    for case in cases {
        match case {
            "gateway" => cases::gateway(&bench, &mut report).await?,
            "rtmp" => cases::rtmp(&bench, &mut report).await?,
            "onchain" => cases::onchain(&bench, &mut report, false).await?,
            "discovery" => cases::onchain(&bench, &mut report, true).await?,
            "transcoder" => cases::our_transcoder(&bench, &mut report).await?,
            "orchestrator" => cases::stock_transcoder(&bench, &mut report).await?,
            "verify" => cases::verify(&bench, &mut report).await?,
            "fast-verify" => cases::fast_verify(&bench, &mut report).await?,
            "long" => cases::long(&bench, &mut report).await?,
            "capture" => vectors::capture(&bench).await?,
            "compare" => compare::run(&bench).await?,
            other => bail!("there is no case {other}"),
        }
    }
    report.write(&bench.dir.join("report.json"))?;
    report.print();
    Ok(report.good())
}
