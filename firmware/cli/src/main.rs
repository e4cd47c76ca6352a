//! millrace: the one command people type.
//!
//! Every human task has a subcommand here; the daemons have none. Each command prints plain tables, or JSON with
//! `--json`, and ends with a number that scripts can rely on.
mod bench;
mod decoder;
mod doctor;
mod failure;
mod fleet;
mod hw;
mod import;
mod keys;
mod keystore;
mod label;
mod money;
mod push;
mod release;
mod signature;
mod site;
mod source;
mod status;
mod stop;
mod table;
mod text;
mod transcode;
mod worker;

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

use crate::failure::{Code, Outcome};

/// Threads of the event loop: the work is done by others.
const THREADS: usize = 2;

#[derive(Debug, Parser)]
#[command(
    name = "millrace",
    version,
    about = "Run and look after a Millrace box: transcode, push streams, see status, money and fleet",
    arg_required_else_help = true,
    after_help = "Exit codes:
   0  done
   1  done in part: some segments failed, or a check found something
  64  called wrongly
  65  the input is no good
  66  an input file cannot be read
  69  somebody needed does not answer: node, orchestrator, controller, worker
  70  a fault of ours
  73  an output file cannot be written
  77  not allowed, or a key file that others can read

Examples:
  millrace hw
  millrace transcode clip.ts --profiles 360p,720p -o out/
  millrace gateway push clip.ts --orch https://127.0.0.1:8935 --loop-to 60s --out demo/
  millrace gateway bench clip.ts --orch https://127.0.0.1:8935 --streams 4 --duration 1m
  millrace status"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Transcode a file on this machine, with no network at all
    Transcode(transcode::Args),
    /// Write the MPEG-7 video signature of a file, as FFmpeg's filter does
    Signature(signature::Args),
    /// Use orchestrators as a paying gateway
    #[command(subcommand, arg_required_else_help = true)]
    Gateway(push::Command),
    /// Say what this box has and what truly encodes here
    Hw(hw::Args),
    /// Show the running node
    Status(status::Args),
    /// Show the tickets the node received, won and redeemed
    Tickets(money::Args),
    /// Show what the node earned
    Earn(money::Args),
    /// Look at the fleet through its controller, order updates, run campaigns
    #[command(subcommand, arg_required_else_help = true)]
    Fleet(Box<fleet::Command>),
    /// Make the tokens by which machines become boxes of the fleet
    #[command(subcommand, arg_required_else_help = true)]
    Claim(fleet::ClaimCommand),
    /// Make and look at gateway keys
    #[command(subcommand, arg_required_else_help = true)]
    Keys(keys::Command),
    /// Turn a configuration of go-livepeer into one of millrace-node
    ImportConfig(import::Args),
    /// Make, sign and check releases of the system image
    #[command(subcommand, arg_required_else_help = true)]
    Release(release::Command),
    /// Make, sign and check the site files that boxes are provisioned from
    #[command(subcommand, arg_required_else_help = true)]
    Site(site::SiteCommand),
    /// Make the labels of boxes that passed the factory's test
    Label(label::Args),
    /// Check what a box needs to work, and say what to do about what is missing
    Doctor(doctor::Args),
}

fn main() -> ExitCode {
    service::init_crypto();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return explain(&error),
    };
    service::init_journal("millrace");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("millrace: cannot start its event loop: {error}");
            return Code::Software.into();
        }
    };
    match runtime.block_on(run(cli.command)) {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Partly) => Code::Partly.into(),
        Err(failure) => {
            eprintln!("{failure}");
            failure.code.into()
        }
    }
}

/// Help and version are answers; anything else is a wrong call.
fn explain(error: &clap::Error) -> ExitCode {
    // Standard error being closed is no reason to fail differently.
    let _ = error.print();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
        _ => Code::Usage.into(),
    }
}

async fn run(command: Command) -> failure::Result {
    match command {
        Command::Transcode(args) => blocking(move || transcode::run(&args)).await,
        Command::Signature(args) => blocking(move || signature::run(&args)).await,
        Command::Gateway(command) => push::run(command).await,
        Command::Hw(args) => {
            let node = hw::node(&args).await;
            blocking(move || hw::run(&args, node)).await
        }
        Command::Status(args) => status::run(&args).await,
        Command::Tickets(args) => money::tickets(&args).await,
        Command::Earn(args) => money::earn(&args).await,
        Command::Fleet(command) => fleet::run(*command).await,
        Command::Claim(command) => fleet::claim(command).await,
        Command::Keys(command) => keys::run(command),
        Command::Release(command) => blocking(move || release::run(command)).await,
        Command::Site(command) => site::site(command),
        Command::ImportConfig(args) => blocking(move || import::run(&args)).await,
        Command::Label(args) => label::run(&args),
        Command::Doctor(args) => doctor::run(&args).await,
    }
}

/// Runs work that waits on files and workers away from the event loop.
async fn blocking(work: impl FnOnce() -> failure::Result + Send + 'static) -> failure::Result {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(failure::Failure::new(Code::Software, format!("the command broke: {error}"))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_subcommand_says_what_it_does() {
        fn walk(command: &clap::Command) {
            assert!(command.get_about().is_some(), "{} has no help", command.get_name());
            for argument in command.get_arguments().filter(|a| a.get_id() != "help" && a.get_id() != "version") {
                let (command, argument) = (command.get_name(), argument);
                assert!(argument.get_help().is_some(), "{command}: {} has no help", argument.get_id());
            }
            if command.get_subcommands().next().is_none() {
                assert!(command.get_after_help().is_some(), "{} has no example", command.get_name());
            }
            command.get_subcommands().filter(|sub| sub.get_name() != "help").for_each(walk);
        }
        walk(&Cli::command());
    }
}
