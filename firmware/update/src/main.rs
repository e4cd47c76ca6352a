//! `millrace-update`: what changes the box itself. Updates step by step, the gate a new version must pass, and the site
//! file by which a box learns where it stands. Each command is a short-lived program that a unit calls;
//! `docs/updates.md` is the contract.

mod admit;
mod command;
mod destroy;
mod fetch;
mod files;
mod floor;
mod health;
mod install;
mod machine;
mod network;
mod outcome;
mod paths;
mod progress;
mod provision;
mod recovery;
mod request;
mod reset;
mod screen;
mod stage;
mod state;
mod tpm;
mod trial;
mod unpack;

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use fleet_protocol::version::Version;
use millrace_hal::{Clock as _, LinuxClock};
use serde::Serialize;
use serde_json::json;
use service::{Exit, ExitReason};

use command::Tools;
use install::{AtDeadline, InstallError};
use paths::Paths;
use stage::StageError;
use state::State;

/// Update this box, judge its health, tell it where it stands.
///
/// Exit codes: 0 done, 1 refused or not healthy, 64 called wrongly, 69 something needed does not answer, 70 a fault of ours,
/// 77 not allowed, 78 keys or configuration wrong.
#[derive(Debug, Parser)]
#[command(name = "millrace-update", version)]
struct Arguments {
    /// The box's root directory.
    #[arg(long, value_name = "DIR", default_value = "/", global = true)]
    root: PathBuf,
    /// systemd's command, if it is elsewhere.
    #[arg(long, value_name = "FILE", default_value = "systemctl", global = true, hide = true)]
    systemctl: PathBuf,
    /// systemd's updater, if it is elsewhere.
    #[arg(long, value_name = "FILE", default_value = "/usr/lib/systemd/systemd-sysupdate", global = true, hide = true)]
    sysupdate: PathBuf,
    /// systemd's program for key slots, if it is elsewhere.
    #[arg(long, value_name = "FILE", default_value = "systemd-cryptenroll", global = true, hide = true)]
    cryptenroll: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Fetch and check a release, so that it can be installed
    Stage(StageArgs),
    /// Install the staged version and start it
    Install(InstallArgs),
    /// Say where the last update stands
    Status(JsonArgs),
    /// Never take this version on this box
    Refuse {
        /// The version.
        version: Version,
        /// Why.
        #[arg(long, default_value = "refused by hand")]
        reason: String,
    },
    /// At boot: decide what became of the last update
    Outcome(JsonArgs),
    /// The gate: is this version fit to stay?
    Health(HealthArgs),
    /// When the gate stays shut: give up the try, or go into safe mode
    TrialFailed,
    /// First boot: take the signed site file, if there is one
    Provision {
        /// Only put network and time in place for this boot.
        #[arg(long)]
        apply: bool,
    },
    /// First boot: see to it that the operator can open /var when the board breaks
    Recovery,
    /// Obey the fleet agent's order to destroy the keys, or go on with one that was cut off
    Decommission {
        /// The checked order.
        #[arg(long, value_name = "FILE")]
        request: PathBuf,
    },
    /// Write the status page on standard output, again and again
    Screen,
    /// Set the board's light, again and again
    Light,
    /// Destroy the keys and make the box as it left the factory
    Reset {
        /// Yes: nothing on the box survives, and a hot key that was not emptied is lost with its funds.
        #[arg(long, required = true)]
        yes: bool,
    },
}

#[derive(Debug, Args)]
struct JsonArgs {
    /// As JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct StageArgs {
    /// The signed manifest: a file, or an http or https address; the artifacts lie beside it.
    #[arg(long, value_name = "FILE|URL", required_unless_present = "request")]
    manifest: Option<String>,
    /// Megabits per second it may use; as many as there are unless told.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate_mbit: Option<u32>,
    /// Whether patches against the running slot are used.
    #[arg(long, default_value = "always")]
    delta: stage::Delta,
    /// A request of the fleet agent's instead of all this.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["manifest", "rate_mbit"])]
    request: Option<PathBuf>,
    /// Progress as lines of JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct InstallArgs {
    /// The staged version.
    #[arg(required_unless_present = "request")]
    version: Option<Version>,
    /// Seconds to wait for a quiet moment.
    #[arg(long, value_name = "N", default_value_t = 1800, value_parser = clap::value_parser!(u64).range(0..=259_200))]
    deadline_s: u64,
    /// What to do when there was none until then.
    #[arg(long, default_value = "defer")]
    at_deadline: AtDeadline,
    /// Leave the reboot to whoever asks.
    #[arg(long)]
    no_reboot: bool,
    /// A request of the fleet agent's instead of all this.
    #[arg(long, value_name = "FILE", conflicts_with = "version")]
    request: Option<PathBuf>,
    /// The node's status socket.
    #[arg(long, value_name = "FILE", hide = true)]
    node_socket: Option<PathBuf>,
    /// Progress as lines of JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct HealthArgs {
    /// Seconds until the gate gives up.
    #[arg(long, value_name = "N", default_value_t = 120, value_parser = clap::value_parser!(u64).range(0..=3600))]
    deadline_s: u64,
    /// The node's status socket.
    #[arg(long, value_name = "FILE", hide = true)]
    node_socket: Option<PathBuf>,
    /// The signer's socket.
    #[arg(long, value_name = "FILE", hide = true)]
    signer_socket: Option<PathBuf>,
    /// The version the node must have.
    #[arg(long, hide = true, default_value_t = service::system_version(env!("CARGO_PKG_VERSION")))]
    expected: String,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

fn main() -> std::process::ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(told) => {
            let usage = told.use_stderr();
            let _ = told.print();
            return std::process::ExitCode::from(if usage { 64 } else { 0 });
        }
    };
    service::init_crypto();
    service::init_journal("millrace-update");
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return report(Exit::because(ExitReason::Software, error)),
    };
    runtime.block_on(run(arguments)).unwrap_or_else(report)
}

fn report(exit: Exit) -> std::process::ExitCode {
    std::process::Termination::report(exit)
}

const DONE: std::process::ExitCode = std::process::ExitCode::SUCCESS;

/// A check said no; the reason is for the journal and for whoever called.
fn no(reason: &dyn std::error::Error) -> std::process::ExitCode {
    tracing::error!("{}", stage::text(reason));
    std::process::ExitCode::from(1)
}

async fn run(arguments: Arguments) -> Result<std::process::ExitCode, Exit> {
    let paths = Paths::below(&arguments.root);
    let tools = Tools { systemctl: arguments.systemctl, sysupdate: arguments.sysupdate };
    let software = |error: Box<dyn std::error::Error + Send + Sync>| Exit::because(ExitReason::Software, error);
    match arguments.command {
        Command::Stage(args) => {
            let order = stage_order(args)?;
            match stage::stage(&paths, &order).await {
                Ok(release) => {
                    tracing::info!(version = %release.version, "version staged");
                    Ok(DONE)
                }
                Err(error) => Err(of_stage(error)).or_else(refused),
            }
        }
        Command::Install(args) => {
            let order = install_order(&paths, args)?;
            settle_floor(&paths);
            match install::install(&paths, &tools, &order).await {
                Ok(()) => Ok(DONE),
                Err(error) => Err(of_install(error)).or_else(refused),
            }
        }
        Command::Status(args) => status(&paths, args.json).map(|()| DONE),
        Command::Refuse { version, reason } => {
            State::of(&paths).refuse(&version, &reason).map_err(|error| software(error.into())).map(|()| DONE)
        }
        Command::Outcome(args) => {
            settle_floor(&paths);
            let stands = outcome::decide(&paths).map_err(|error| software(error.into()))?;
            settle_floor(&paths);
            let text = format!("{stands:?}\n");
            print(args.json, &stands, &text);
            Ok(DONE)
        }
        Command::Health(args) => Ok(health(&paths, args).await),
        Command::Provision { apply: true } => {
            provision::apply(&paths).map_err(|error| software(error.into())).map(|()| DONE)
        }
        Command::Provision { apply: false } => provision_box(&paths),
        Command::Reset { .. } => {
            reset::reset(&paths, &tools, &mut say).await.map_err(|error| software(error.into())).map(|()| DONE)
        }
        Command::Decommission { request } => match reset::decommission(&paths, &tools, &request, &mut say).await {
            Ok(()) => Ok(DONE),
            Err(error @ reset::ResetError::NoOrder) => Ok(no(&error)),
            Err(error) => Err(software(error.into())),
        },
        Command::Recovery => {
            let serial = millrace_hal::Identity::read(&arguments.root).serial.unwrap_or_default();
            let done = recovery::enrol(&paths, &arguments.cryptenroll, &serial).await;
            let done = done.map_err(|error| software(error.into()))?;
            tracing::info!(?done, "recovery of /var");
            Ok(DONE)
        }
        Command::Screen => match screen::screen(&paths, &tools).await {},
        Command::Light => {
            screen::lights(&paths, &tools).await;
            Ok(DONE)
        }
        Command::TrialFailed => {
            let done = trial::failed(&paths, &tools).await.map_err(|error| software(error.into()))?;
            tracing::warn!(?done, "trial failed");
            Ok(DONE)
        }
    }
}

/// For whoever stands before the box: the unit's output goes to the console as well.
fn say(line: &str) {
    tracing::warn!("{line}");
    let _ = writeln!(std::io::stdout(), "millrace: {line}");
}

/// The floor is the higher one of disk and TPM before anything is held against it. What is wrong with either is for the
/// journal here; whoever reads a damaged floor stops by itself.
fn settle_floor(paths: &Paths) {
    match floor::settle(paths) {
        Ok((floor, kept)) => tracing::debug!(?floor, %kept, "floor"),
        Err(error) => tracing::error!(reason = stage::text(&error), "floor"),
    }
}

fn provision_box(paths: &Paths) -> Result<std::process::ExitCode, Exit> {
    let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    match provision::provision(paths, credentials.as_deref()) {
        Ok(done) => {
            tracing::info!(?done, "provisioning");
            Ok(DONE)
        }
        Err(error @ (provision::ProvisionError::Refused { .. } | provision::ProvisionError::NoWifi)) => Ok(no(&error)),
        Err(error @ (provision::ProvisionError::Keys(_) | provision::ProvisionError::Template { .. })) => {
            Err(Exit::because(ExitReason::Config, error))
        }
        Err(error) => Err(Exit::because(ExitReason::Software, error)),
    }
}

/// What a failure means to the caller: a refusal, or something that may be better later.
enum Failure {
    No(Box<dyn std::error::Error>),
    Exit(Exit),
}

fn refused(failure: Failure) -> Result<std::process::ExitCode, Exit> {
    match failure {
        Failure::No(error) => Ok(no(error.as_ref())),
        Failure::Exit(exit) => Err(exit),
    }
}

fn of_stage(error: StageError) -> Failure {
    match error {
        StageError::Refused(admit::Refusal::NoKeys(_)) => Failure::Exit(Exit::because(ExitReason::Config, error)),
        StageError::Fetch(fetch::FetchError::GivenUp { .. } | fetch::FetchError::Status { .. })
        | StageError::Space { .. } => Failure::Exit(Exit::because(ExitReason::Unavailable, error)),
        StageError::File(_)
        | StageError::Machine(_)
        | StageError::Fetch(fetch::FetchError::File(_))
        | StageError::Unpack(unpack::UnpackError::File(_)) => Failure::Exit(Exit::because(ExitReason::Software, error)),
        StageError::Refused(_) | StageError::Fetch(_) | StageError::Unpack(_) => Failure::No(error.into()),
    }
}

fn of_install(error: InstallError) -> Failure {
    match error {
        InstallError::Refused(admit::Refusal::NoKeys(_)) => Failure::Exit(Exit::because(ExitReason::Config, error)),
        InstallError::Busy { .. } | InstallError::Command(_) => {
            Failure::Exit(Exit::because(ExitReason::Unavailable, error))
        }
        InstallError::File(_) | InstallError::Machine(_) | InstallError::State(_) => {
            Failure::Exit(Exit::because(ExitReason::Software, error))
        }
        InstallError::Refused(_)
        | InstallError::NotStaged
        | InstallError::OtherVersion { .. }
        | InstallError::Changed(_)
        | InstallError::Withdrawn
        | InstallError::Pending(_) => Failure::No(error.into()),
    }
}

fn stage_order(args: StageArgs) -> Result<stage::Order, Exit> {
    let (id, manifest, rate_mbit) = match args.request {
        Some(path) => {
            let asked: request::Stage =
                request::read(&path).map_err(|error| Exit::because(ExitReason::Config, error))?;
            (asked.id, asked.manifest, asked.rate_mbit)
        }
        None => (request::own_id(), args.manifest.unwrap_or_default(), args.rate_mbit),
    };
    Ok(stage::Order { id, manifest, rate_mbit, delta: args.delta, json: args.json })
}

fn install_order(paths: &Paths, args: InstallArgs) -> Result<install::Order, Exit> {
    let at_deadline = args.at_deadline;
    let (id, version, deadline_s, at_deadline) = match (&args.request, args.version) {
        (Some(path), _) => {
            let asked: request::Install =
                request::read(path).map_err(|error| Exit::because(ExitReason::Config, error))?;
            let deadline_s = asked.deadline_s.unwrap_or(args.deadline_s);
            let at_deadline = if asked.go_at_deadline { AtDeadline::Go } else { at_deadline };
            (asked.id, asked.version, deadline_s, at_deadline)
        }
        (None, Some(version)) => (request::own_id(), version, args.deadline_s, at_deadline),
        (None, None) => return Err(Exit::because(ExitReason::Usage, "see millrace-update install --help")),
    };
    Ok(install::Order {
        id,
        version,
        deadline: Duration::from_secs(deadline_s),
        at_deadline,
        reboot: !args.no_reboot,
        node_socket: args.node_socket.unwrap_or_else(|| paths.at("run/millrace/node.sock")),
        request: args.request,
        json: args.json,
    })
}

async fn health(paths: &Paths, args: HealthArgs) -> std::process::ExitCode {
    let gate = health::Gate {
        node_socket: args.node_socket.unwrap_or_else(|| paths.at("run/millrace/node.sock")),
        signer_socket: args.signer_socket.unwrap_or_else(|| paths.at("run/millrace-signer/signer.sock")),
        expected: args.expected,
        deadline: Duration::from_secs(args.deadline_s),
    };
    let report = health::watch(paths, &gate).await;
    let lines = report
        .checks
        .iter()
        .map(|check| format!("{:<8} {:<4} {}\n", check.name, if check.ok { "ok" } else { "FAIL" }, check.reason));
    print(args.json, &report, &lines.collect::<String>());
    if report.healthy {
        return DONE;
    }
    tracing::error!(reason = report.failures(), "not healthy");
    std::process::ExitCode::from(1)
}

/// Everything there is to say of updates on this box.
fn status(paths: &Paths, json: bool) -> Result<(), Exit> {
    let state = State::of(paths);
    let software = |error: state::StateError| Exit::because(ExitReason::Software, error);
    let image = machine::Image::read(paths).ok();
    let running = image.map(|image| image.version);
    let progress: Option<progress::Report> = files::get_json(&paths.staged().join(stage::PROGRESS)).unwrap_or_default();
    let (floor, refused) = (state.floor().map_err(software)?, state.refused().map_err(software)?);
    let (pending, results) = (state.pending().map_err(software)?, state.results().map_err(software)?);
    let trial = machine::trial(paths).is_ok_and(|trial| trial == machine::Trial::OnTrial);
    let safe = paths.safe_mode().exists();
    let told = |version: &Option<Version>| version.as_ref().map_or("-".to_owned(), ToString::to_string);
    let kept = floor::told(paths);
    let mut text = format!(
        "running   {}{}{}\nfloor     {} ({kept})\nstaged    {}\npending   {}\n",
        told(&running),
        if trial { ", on trial" } else { "" },
        if safe { ", in safe mode" } else { "" },
        told(&floor),
        progress.as_ref().map_or("-".to_owned(), |report| format!("{} {:?}", told(&report.version), report.phase)),
        pending.as_ref().map_or("-".to_owned(), |pending| pending.to.to_string()),
    );
    for (version, reason) in &refused {
        text.push_str(&format!("refused   {version}: {reason}\n"));
    }
    if let Some(last) = results.last() {
        let reason = last.reason.as_deref().unwrap_or_default();
        text.push_str(&format!("last      {} to {}: {:?} {reason}\n", last.from, last.to, last.became));
    }
    let document = json!({
        "running": running, "on_trial": trial, "safe_mode": safe, "floor": floor, "floor_kept": kept.to_string(), "progress": progress,
        "pending": pending, "refused": refused, "results": results, "now": LinuxClock.unix_seconds(),
    });
    print(json, &document, &text);
    Ok(())
}

/// Whoever listens may be gone; that changes nothing.
fn print(json: bool, document: &impl Serialize, text: &str) {
    let mut out = std::io::stdout();
    let _ = if json {
        writeln!(out, "{}", serde_json::to_string(document).expect("our documents are json"))
    } else {
        write!(out, "{text}")
    };
}
