//! `millrace-node`: serve gateways, keep their tickets, redeem the winners.
//!
//! The story of the daemon in ten steps: parse, log, read the configuration, detect what works, open the
//! ledger, build, say ready, wait, drain, end. What the parts do stands in their crates; how they are put
//! together in [`build`].

mod admin;
mod attached;
mod build;
mod config;
mod hardware;
mod metrics;
mod run;
mod sensing;
mod speed;
mod starting;

use std::path::PathBuf;

use clap::Parser;
use service::{Exit, ExitReason};

use crate::config::Config;

/// Serve Livepeer gateways: transcode their segments, keep their tickets, redeem the winners.
///
/// Without a configuration the node works off-chain on port 8935 and keeps its state in ./millrace-state.
/// MILLRACE_LOG sets what is logged, such as `info` or `warn,orchestrator=debug`. With `[admin] listen` in the
/// configuration it answers operators there, and Prometheus at /metrics.
///
/// Exit status: 0 stopped as asked, 64 called wrongly, 69 something needed is missing, 70 own fault,
/// 77 not permitted, 78 configuration wrong.
#[derive(Debug, Parser)]
#[command(name = "millrace-node", version)]
struct Args {
    /// Configuration file, TOML; every key has a default.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Directory for keys and ledger; wins over the configuration.
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Check the configuration and end.
    #[arg(long)]
    check: bool,
    /// Answer each line on standard input with readings of the hardware below this directory; how the node looks at
    /// it, not for people.
    #[arg(long, value_name = "ROOT", hide = true)]
    sense: Option<PathBuf>,
}

fn main() -> Exit {
    service::init_crypto();
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(told) => return usage(&told),
    };
    if let Some(root) = args.sense {
        return match sensing::answer(&root) {
            Ok(()) => Exit::stopped(),
            Err(error) => Exit::because(ExitReason::Software, error),
        };
    }
    service::init_journal("millrace-node");
    let config = match Config::read(args.config.as_deref()) {
        Ok(config) => config,
        Err(error) => return Exit::because(ExitReason::Config, error),
    };
    if args.check {
        tracing::info!("configuration is good");
        return Exit::stopped();
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Exit::because(ExitReason::Software, error),
    };
    let role = async {
        match config.transcoder.clone() {
            Some(transcoder) => attached::run(config, transcoder, args.state_dir).await,
            None => run::run(config, args.state_dir).await,
        }
    };
    match runtime.block_on(role) {
        Ok(()) => Exit::stopped(),
        Err(error) => Exit::because(error.reason(), error),
    }
}

/// Help and version are answers; everything else is a call gone wrong.
fn usage(told: &clap::Error) -> Exit {
    let printed = told.print();
    if told.use_stderr() || printed.is_err() {
        return Exit::because(ExitReason::Usage, "see millrace-node --help");
    }
    Exit::stopped()
}
