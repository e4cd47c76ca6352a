//! millrace-worker: decode a segment once, encode its renditions.
//!
//! Started by the node with a channel on descriptor 3, never by hand. Walk 4, step 2.
use std::process::ExitCode;

use sandbox::preset::Preset;
use worker::{Ended, Engine, Tuning};

/// Sysexits: the channel or the jail, something missing, a fault of ours, the command line.
const UNAVAILABLE: u8 = 69;
const SOFTWARE: u8 = 70;
const USAGE: u8 = 64;

fn main() -> ExitCode {
    // A panic costs the worker, at once and whole: whatever a hostile segment reached is gone with it.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        report(info);
        std::process::abort();
    }));
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(ended) => {
            eprintln!("millrace-worker: {ended}");
            ExitCode::from(match ended {
                Ended::Setting(_) | Ended::Preset(_) | Ended::Engine(_) | Ended::Argument(_) => USAGE,
                Ended::Unfit(_) | Ended::Channel(_) => UNAVAILABLE,
                Ended::Jail(_) | Ended::Lockdown(_) => SOFTWARE,
            })
        }
    }
}

/// `--scan` writes the plugin registry named by `GST_REGISTRY` and ends: done once after plugins change, so
/// that no worker has to look through all of them. `--engine NAME` says what to transcode with, `--prove` to only
/// prove that it works and end, `--preset NAME` what software encoders aim at. The bench may instead
/// change their settings: `--x264 preset=veryfast,bframes=3,keyint=60,threads=0`.
fn start() -> Result<(), Ended> {
    let (mut engine, mut tuning, mut prove) = ("software".to_owned(), Tuning::default(), false);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--scan" => return worker::scan(),
            "--prove" => prove = true,
            "--engine" => engine = args.next().ok_or(Ended::Argument(arg))?,
            "--preset" => tuning = args.next().ok_or(Ended::Argument(arg))?.parse::<Preset>()?.into(),
            "--x264" => tuning = args.next().ok_or(Ended::Argument(arg))?.parse()?,
            _ => return Err(Ended::Argument(arg)),
        }
    }
    let engine = Engine::named(&engine, tuning)?;
    if prove { worker::run_proof(&engine) } else { worker::run(&engine) }
}
