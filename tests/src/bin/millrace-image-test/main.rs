//! `just image-test`: the appliance image in an emulated machine, from the first boot to what must be refused.
//!
//! The images are those of the profile `test`: the product's, with one unit more that lends the test its hands. What
//! is asked of the machine is asked from outside where a stranger could ask it: the service port, the broker, the
//! disk. Timing never decides: each wait has a limit far beyond what a busy machine needs.

mod disk;
mod ending;
mod hands;
mod machine;
mod payer;
mod release;
mod report;
mod site;
mod steps;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use millrace_tests::media;

use crate::machine::Places;
use crate::report::Report;
use crate::steps::Lab;

/// Boot the image in emulation and see whether it keeps its promises. Run by `just image-test`, as root.
#[derive(Debug, Parser)]
#[command(name = "millrace-image-test")]
struct Args {
    /// Version of the image to begin with; its files are in target/image/test-images.
    #[arg(long, default_value = "0.1.0")]
    version: String,
    /// Version to update to.
    #[arg(long, default_value = "0.1.1")]
    next: String,
    /// Version whose node does not start.
    #[arg(long, default_value = "0.1.2")]
    broken: String,
    /// Only these steps. Unless named: serve, update and tamper, with --long all of them.
    #[arg(long = "only", value_name = "STEP")]
    only: Vec<Step>,
    /// Also what takes an hour and more: the rest of a box's life, power cuts.
    #[arg(long)]
    long: bool,
    /// Power cuts to make, half of them during an update, half while tickets are won. Those that are on record for the same
    /// images, number and seed are not made again.
    #[arg(long, default_value_t = 32)]
    cuts: u32,
    /// Directory below target/image for the machines and what they showed; another one for a second run beside the first.
    #[arg(long, default_value = "test")]
    work: String,
    /// Where the moments of the cuts come from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// A part of the test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Step {
    /// From a blank disk to segments served.
    Serve,
    /// To the next version while a stream runs, and back from one that is no good; goes on from `serve`.
    Update,
    /// What must be refused.
    Tamper,
    /// A stick, a hang, a factory reset, a credential.
    Life,
    /// What a box in `life` writes, at rest and at work; waits a quarter of an hour.
    Measure,
    /// Power cuts during an update.
    CutUpdates,
    /// Power cuts at any moment of the update that `cut-updates` kept on record; starts no machine. Part of `cut-updates`.
    CutReplay,
    /// Power cuts while tickets are won.
    CutTickets,
    /// The image of arm64, in an ARM machine.
    Arm64,
    /// The image of a Jetson, made of made-up packages, in an ARM machine; only when named.
    Jetson,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("image-test: {error:#}");
            ExitCode::from(69)
        }
    }
}

fn run(args: &Args) -> Result<bool> {
    ensure!(nix::unistd::geteuid().is_root(), "the tool root needs root: just image-test");
    ending::take_all_along()?;
    let repository = media::repository();
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| repository.join("target"), PathBuf::from);
    let places = Places { out: target.join("image"), repository };
    let image = places.out.join(format!("test-images/millrace_{}.raw", args.version));
    ensure!(
        image.is_file() || matches!(args.only[..], [Step::Arm64 | Step::Jetson]),
        "{} is not there: image/test.sh builds it",
        image.display()
    );
    let work = places.out.join(&args.work);
    std::fs::create_dir_all(&work).context("the test's directory")?;

    let wanted = |step: Step| match (args.only.is_empty(), step) {
        (false, step) => args.only.contains(&step),
        (true, Step::Serve | Step::Update | Step::Tamper) => true,
        (true, Step::Jetson) => false,
        (true, _) => args.long,
    };
    let mut report = Report::new();
    let mut lab = Lab::new(places, work.clone(), image, args.version.clone())?;
    if wanted(Step::Serve) || wanted(Step::Update) {
        steps::serve::run(&mut lab, &mut report);
    }
    if wanted(Step::Update) {
        steps::update::run(&mut lab, &mut report, &args.next, &args.broken);
    }
    if wanted(Step::Tamper) {
        steps::tamper::run(&mut lab, &mut report);
    }
    if wanted(Step::Life) || wanted(Step::Measure) {
        steps::life::run(&mut lab, &mut report, wanted(Step::Measure));
    }
    let plan = steps::power::Plan {
        updates: wanted(Step::CutUpdates),
        replay: wanted(Step::CutUpdates) || wanted(Step::CutReplay),
        tickets: wanted(Step::CutTickets),
        each: args.cuts.div_ceil(2),
        seed: args.seed,
    };
    if plan.updates || plan.tickets || plan.replay {
        steps::power::run(&mut lab, &mut report, &args.next, plan);
    }
    if wanted(Step::Arm64) {
        steps::arm64::run(&mut lab, &mut report);
    }
    if wanted(Step::Jetson) {
        steps::arm64::jetson(&mut lab, &mut report);
    }
    lab.machine = None;
    report.show(&work)?;
    Ok(report.good())
}
