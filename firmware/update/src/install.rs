//! An update, step 2: from the staged files to the other slot, in a moment that costs nobody a segment, and a restart.
//!
//! ```text
//! drain ──► quiet ──► check all again ──► pending.json ──► systemd-sysupdate ──► reboot
//!   │ deadline
//!   └──► resume: deferred, or go on anyway, as told
//! ```

use std::time::Duration;

use fleet_protocol::release::Release;
use fleet_protocol::strict::TO_BOX_MAX;
use fleet_protocol::version::Version;
use millrace_hal::{Clock as _, LinuxClock};
use service::status::{NodeStatus, StatusError, read_status};
use tokio::time::Instant;

use crate::admit::{Refusal, admit};
use crate::command::{CommandError, Tools, run};
use crate::files::{self, FileError};
use crate::machine::{self, Image, MachineError};
use crate::paths::Paths;
use crate::progress::{Phase, Progress};
use crate::stage::{MANIFEST, PROGRESS, text};
use crate::state::{Became, Outcome, Pending, State, StateError};
use crate::unpack;

/// The unit that is drained.
const NODE: &str = "millrace-node.service";
/// How often the node is looked at while it drains.
const LOOK: Duration = Duration::from_secs(1);
/// How long writing a slot may take.
const WRITE: Duration = Duration::from_secs(3600);

/// What to do about a box that is never quiet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum AtDeadline {
    /// Leave it to its streams; the update is deferred.
    Defer,
    /// Go on: the node ends its streams as at every stop.
    Go,
}

/// What to install, and how.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    pub(crate) id: String,
    pub(crate) version: Version,
    pub(crate) deadline: Duration,
    pub(crate) at_deadline: AtDeadline,
    pub(crate) reboot: bool,
    pub(crate) node_socket: std::path::PathBuf,
    /// The request it came by; whoever takes it away takes the order back, until the first byte is written.
    pub(crate) request: Option<std::path::PathBuf>,
    pub(crate) json: bool,
}

/// Why nothing was installed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InstallError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Machine(#[from] MachineError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("nothing is staged: millrace-update stage comes first")]
    NotStaged,
    #[error("version {staged} is staged, not {wanted}")]
    OtherVersion { staged: Version, wanted: Version },
    #[error("{0} is not what was signed: stage the update again")]
    Changed(String),
    #[error("version {0} waits for its outcome already: reboot, or see millrace-update status")]
    Pending(Version),
    #[error("the request was taken back")]
    Withdrawn,
    #[error("no quiet moment within {waited:?}: {busy}")]
    Busy { waited: Duration, busy: String },
    #[error(transparent)]
    Command(#[from] CommandError),
}

impl Order {
    fn is_withdrawn(&self) -> bool {
        self.request.as_ref().is_some_and(|request| !request.exists())
    }
}

/// Installs a staged version and asks for the reboot.
pub(crate) async fn install(paths: &Paths, tools: &Tools, order: &Order) -> Result<(), InstallError> {
    let staged = paths.staged();
    let _lock = files::lock(&staged)?;
    let state = State::of(paths);
    let image = Image::read(paths)?;
    if let Some(pending) = state.pending()? {
        return Err(InstallError::Pending(pending.to));
    }
    // First, before anything is disturbed: is there anything to install?
    let release = match staged_release(paths, &order.version) {
        Ok(release) => release,
        Err(error) => {
            // Whoever asked by a request waits for what became of it.
            if order.request.is_some() {
                ended(&state, &image, order, Became::Failed, text(&error))?;
            }
            return Err(error);
        }
    };
    let mut progress = Progress::new(staged.join(PROGRESS), order.id.clone(), order.json);
    progress.version(&release.version, release.artifacts.iter().map(|artifact| artifact.size).sum());
    let done = steps(paths, tools, order, &image, &state, &mut progress).await;
    if let Err(error) = &done {
        resume(tools).await;
        if matches!(error, InstallError::Withdrawn) {
            // It may be asked for again; nothing came of it, neither good nor bad.
            progress.phase(Phase::Staged);
            return done;
        }
        let became = if matches!(error, InstallError::Busy { .. }) { Became::Deferred } else { Became::Failed };
        progress.failed(text(error), matches!(error, InstallError::Refused(refusal) if refusal.is_forged()));
        ended(&state, &image, order, became, text(error))?;
    }
    done
}

/// Keeps what became of it for the fleet agent.
fn ended(state: &State, image: &Image, order: &Order, became: Became, reason: String) -> Result<(), StateError> {
    let (from, to) = (image.version.clone(), order.version.clone());
    let (id, at) = (order.id.clone(), LinuxClock.unix_seconds());
    state.add_result(Outcome { seq: 0, id, from, to, became, reason: Some(reason), at })?;
    Ok(())
}

async fn steps(
    paths: &Paths,
    tools: &Tools,
    order: &Order,
    image: &Image,
    state: &State,
    progress: &mut Progress,
) -> Result<(), InstallError> {
    progress.phase(Phase::Draining);
    quiet(tools, order).await?;
    progress.phase(Phase::Installing);
    // Again, whole: hours may have passed, and what lies there belongs to another user.
    let release = staged_release(paths, &order.version)?;
    for artifact in &release.artifacts {
        if !unpack::is_there(artifact, &paths.staged())? {
            return Err(InstallError::Changed(artifact.name.clone()));
        }
    }
    if order.is_withdrawn() {
        return Err(InstallError::Withdrawn);
    }
    machine::remove_empty(paths)?;
    let boot_id = machine::boot_id(paths)?;
    state.set_pending(&Pending {
        id: order.id.clone(),
        from: image.version.clone(),
        to: release.version.clone(),
        min_version: release.min_version,
        counted: boot_id.clone(),
        boot_id,
        at: LinuxClock.unix_seconds(),
        tries: 0,
    })?;
    let written = run(&tools.sysupdate, &["update".to_owned(), release.version.to_string()], WRITE).await;
    if let Err(error) = written {
        state.no_longer_pending()?;
        return Err(error.into());
    }
    nix::unistd::sync();
    tracing::info!(from = %image.version, to = %release.version, "version installed");
    progress.phase(Phase::Rebooting);
    if order.reboot {
        tools.systemctl(&["reboot"]).await?;
    }
    Ok(())
}

/// The staged release, if it may still come onto this box.
fn staged_release(paths: &Paths, wanted: &Version) -> Result<Release, InstallError> {
    let limit = u64::try_from(TO_BOX_MAX).unwrap_or(u64::MAX);
    let envelope = files::get(&paths.staged().join(MANIFEST), limit)?.ok_or(InstallError::NotStaged)?;
    let release = admit(paths, &envelope, LinuxClock.unix_seconds())?;
    if release.version != *wanted {
        return Err(InstallError::OtherVersion { staged: release.version, wanted: wanted.clone() });
    }
    Ok(release)
}

/// Drains the node and waits until it does nothing. A node that does not answer does nothing worth waiting for.
async fn quiet(tools: &Tools, order: &Order) -> Result<(), InstallError> {
    let begun = Instant::now();
    if let Err(error) = switch(tools, "SIGUSR1").await {
        tracing::warn!(reason = text(&error), "node could not be told to drain");
    }
    loop {
        if order.is_withdrawn() {
            return Err(InstallError::Withdrawn);
        }
        let busy = match read_status(&order.node_socket).await {
            Ok(status) => busy(&status),
            Err(StatusError::Unreachable { .. }) => None,
            Err(error) => Some(text(&error)),
        };
        let Some(busy) = busy else { return Ok(()) };
        let waited = begun.elapsed();
        if waited >= order.deadline {
            if order.at_deadline == AtDeadline::Go {
                tracing::warn!(busy, "no quiet moment until the deadline: going on");
                return Ok(());
            }
            return Err(InstallError::Busy { waited: order.deadline, busy });
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// What the node is at.
fn busy(status: &NodeStatus) -> Option<String> {
    let (sessions, workers) = (status.sessions.active, status.workers.busy);
    let redemptions = status.money.tickets_submitted;
    let still = sessions > 0 || workers > 0 || redemptions > 0;
    still.then(|| format!("{sessions} sessions, {workers} segments, {redemptions} redemptions under way"))
}

async fn switch(tools: &Tools, signal: &str) -> Result<(), CommandError> {
    tools.systemctl(&["kill", "--kill-whom=main", "--signal", signal, NODE]).await
}

/// Lets the node take streams again.
async fn resume(tools: &Tools) {
    if let Err(error) = switch(tools, "SIGUSR2").await {
        tracing::error!(reason = text(&error), "node could not be told to go on: systemctl restart millrace-node");
    }
}
