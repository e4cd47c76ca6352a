//! `just image-test`: the appliance image in an emulated machine, from the first boot to what must be refused.
//!
//! The images are those of the profile `test`: the product's, with one unit more that lends the test its hands. What
//! is asked of the machine is asked from outside where a stranger could ask it: the service port, the broker, the
//! disk. Timing never decides: each wait has a limit far beyond what a busy machine needs.

mod hands;
mod machine;
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
    /// Only these: serve update tamper. All unless named.
    #[arg(long = "only", value_name = "STEP")]
    only: Vec<String>,
    /// Also what takes an hour and more: power cuts.
    #[arg(long)]
    long: bool,
    /// Power cuts to make, with --long.
    #[arg(long, default_value_t = 30)]
    cuts: u32,
    /// Where the moments of the cuts come from, with --long.
    #[arg(long, default_value_t = 1)]
    seed: u64,
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
    let repository = media::repository();
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| repository.join("target"), PathBuf::from);
    let places = Places { out: target.join("image"), repository };
    let image = places.out.join(format!("test-images/millrace_{}.raw", args.version));
    ensure!(image.is_file(), "{} is not there: image/test.sh builds it", image.display());
    let work = places.out.join("test");
    std::fs::create_dir_all(&work).context("the test's directory")?;

    let wanted = |step: &str| args.only.is_empty() || args.only.iter().any(|name| name == step);
    let mut report = Report::new();
    let mut lab = Lab::new(places, work.clone(), image, args.version.clone())?;
    if wanted("serve") || wanted("update") {
        steps::serve::run(&mut lab, &mut report);
    }
    if wanted("update") {
        steps::update::run(&mut lab, &mut report, &args.next, &args.broken);
    }
    if wanted("tamper") {
        steps::tamper::run(&mut lab, &mut report);
    }
    if args.long {
        // A box of its own, which still runs the first version.
        steps::serve::run(&mut lab, &mut report);
        steps::power::run(&mut lab, &mut report, &args.next, args.cuts, args.seed);
    }
    lab.machine = None;
    report.show(&work.join("result.json"))?;
    Ok(report.good())
}
