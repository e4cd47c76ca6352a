//! What to do when the gate stays shut: a version on trial gives up a try; a blessed one stays up and does nothing, so that
//! it never boots in a loop and can still be repaired.

use millrace_hal::{Clock as _, LinuxClock};

use crate::command::{CommandError, Tools};
use crate::files::{self, FileError};
use crate::health;
use crate::machine::{self, Image, MachineError, Trial};
use crate::outcome::{self, OutcomeError};
use crate::paths::Paths;
use crate::stage::text;
use crate::state::{Became, Outcome, State, StateError};

/// The units that safe mode keeps down: who takes jobs, and who holds the key.
const DOWN: [&str; 2] = ["millrace-node.service", "millrace-signer.service"];

/// Why it could not be done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TrialError {
    #[error(transparent)]
    Machine(#[from] MachineError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Outcome(#[from] OutcomeError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Command(#[from] CommandError),
}

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Done {
    /// The machine starts again: the next try, or the old version.
    Reboot,
    /// It stays up and does nothing.
    SafeMode,
}

pub(crate) async fn failed(paths: &Paths, tools: &Tools) -> Result<Done, TrialError> {
    // The try is counted before it is given up. What cannot be read must not keep a box in a trial that fails.
    if let Err(error) = outcome::decide(paths) {
        tracing::error!(reason = text(&error), "update has no outcome");
    }
    let reason = health::last(paths).ok().flatten().map(|report| report.failures()).unwrap_or_default();
    if machine::trial(paths)? == Trial::OnTrial {
        tracing::error!(reason, "this version fails its health checks: starting again");
        tools.systemctl(&["reboot"]).await?;
        return Ok(Done::Reboot);
    }
    tracing::error!(
        reason,
        "this version fails its health checks and was good before: safe mode, no streams are taken"
    );
    files::put(&paths.safe_mode(), format!("{reason}\n").as_bytes(), 0o644)?;
    if let Ok(image) = Image::read(paths) {
        let boot = machine::boot_id(paths).unwrap_or_default();
        let (id, to) = (format!("safe-{boot}"), image.version);
        let (became, reason, at) = (Became::SafeMode, Some(reason), LinuxClock.unix_seconds());
        State::of(paths).add_result(Outcome { seq: 0, id, from: to.clone(), to, became, reason, at })?;
    }
    let stop = ["stop"].into_iter().chain(DOWN).collect::<Vec<_>>();
    tools.systemctl(&stop).await?;
    Ok(Done::SafeMode)
}
