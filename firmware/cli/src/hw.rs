//! `millrace hw`: what the box has, and what a worker proved by doing it.
use std::path::{Path, PathBuf};

use clap::Args as ClapArgs;
use millrace_hal::encoders::{Hardware, detect};
use sandbox::message::Ready;
use serde::Serialize;

use crate::failure::{self, Outcome};
use crate::{table, text, worker};

/// Say what this box has and what truly encodes.
#[derive(Debug, ClapArgs)]
#[command(
    after_help = "What is detected is only a candidate; what a jailed worker has proved by encoding a clip counts.

Examples:
  millrace hw
  millrace hw --json"
)]
pub(crate) struct Args {
    /// The worker program. Default: millrace-worker beside this program, or in PATH
    #[arg(long, value_name = "PATH", env = "MILLRACE_WORKER")]
    worker: Option<PathBuf>,
    /// Show what the worker says
    #[arg(long)]
    verbose: bool,
    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    hardware: Hardware,
    worker: Option<Ready>,
    worker_error: Option<String>,
}

pub(crate) fn run(args: &Args) -> failure::Result {
    let started = worker::find(args.worker.as_deref()).and_then(|program| worker::start(&program, args.verbose));
    let (ready, error) = match started {
        Ok((_worker, ready)) => (Some(ready), None),
        Err(failure) => (None, Some(failure)),
    };
    let worker_error = error.as_ref().map(ToString::to_string);
    let report = Report { hardware: detect(Path::new("/")), worker: ready, worker_error };
    if args.json {
        table::json(&report)?;
    } else {
        print(&report);
    }
    error.map_or(Ok(Outcome::Done), Err)
}

fn print(report: &Report) {
    let hardware = &report.hardware;
    let identity = &hardware.identity;
    let processor = &hardware.processor;
    table::facts(&[
        (
            "board",
            [identity.vendor.clone(), identity.model.clone()].into_iter().flatten().collect::<Vec<_>>().join(" "),
        ),
        ("system", identity.system.clone().unwrap_or_default()),
        ("kernel", identity.kernel.clone().unwrap_or_default()),
        (
            "processor",
            format!(
                "{}, {} threads, {} {}",
                processor.model.clone().unwrap_or_else(|| "unnamed".to_owned()),
                processor.threads,
                processor.architecture,
                processor.vectors.join(" ")
            ),
        ),
        ("memory", hardware.memory.map(|memory| text::bytes(memory.0)).unwrap_or_default()),
    ]);
    println!();
    for gpu in &hardware.gpus {
        let driver = gpu.driver.clone().unwrap_or_else(|| "no driver".to_owned());
        println!("gpu  {} {:04x}:{:04x} at {}, {driver}", gpu.vendor_name(), gpu.vendor, gpu.device, gpu.address);
    }
    let row = |candidate: &millrace_hal::Candidate| {
        let verdict = format!("{:?}", candidate.verdict).to_lowercase();
        vec![candidate.engine.name().to_owned(), verdict, candidate.reason.clone()]
    };
    let rows: Vec<_> = hardware.candidates.iter().map(row).collect();
    table::print(&["engine", "detected", "why"], &rows);
    println!();
    match &report.worker {
        Some(ready) => print_ready(ready),
        None => println!("worker  none could be started"),
    }
}

fn print_ready(ready: &Ready) {
    table::facts(&[
        ("engine in use", ready.engine.clone()),
        ("framework", ready.framework.clone()),
        ("proved", ready.proved.join(" ")),
        ("jail", ready.layers.join(" ")),
    ]);
    for (what, why) in &ready.refused {
        println!("refused  {what}: {why}");
    }
    for (layer, why) in &ready.missing_layers {
        println!("jail lacks  {layer}: {why}");
    }
}
