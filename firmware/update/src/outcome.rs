//! An update, the last step: what became of it. Runs at every boot, as often as it is called, and says the same each time.
//!
//! | Runs now | Counter of the new version | It became |
//! |---|---|---|
//! | the new one | still counts | on trial: nothing is said yet |
//! | the new one | gone | blessed |
//! | the old one, the same boot | | installed, waits for its restart |
//! | the old one | gone bad, or some tries used | rolled back: the version is refused |
//! | the old one | no try used, or no file | interrupted: it may be installed again |

use fleet_protocol::version::Version;
use millrace_hal::{Clock as _, LinuxClock};
use serde::Serialize;

use crate::health;
use crate::machine::{self, Image, Installed, MachineError, Trial};
use crate::paths::Paths;
use crate::state::{Became, Outcome, Pending, State, StateError};

/// Why nothing can be said.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OutcomeError {
    #[error(transparent)]
    Machine(#[from] MachineError),
    #[error(transparent)]
    State(#[from] StateError),
}

/// Where the last update stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub(crate) enum Stands {
    /// There is none under way.
    Quiet,
    /// It waits for its restart.
    Installed { to: Version },
    /// It has still to prove itself.
    OnTrial { to: Version, tries: u32 },
    /// It has become something.
    Became(Outcome),
}

/// Decides, and makes it durable: first what follows from it, then the record, then the end of the wait. A power cut
/// between them only makes it say the same again.
pub(crate) fn decide(paths: &Paths) -> Result<Stands, OutcomeError> {
    let state = State::of(paths);
    let Some(pending) = state.pending()? else { return Ok(Stands::Quiet) };
    let image = Image::read(paths)?;
    let boot = machine::boot_id(paths)?;
    let installed = machine::installed(paths, &pending.to)?;
    let (became, reason) = if image.version == pending.to {
        if machine::trial(paths)? == Trial::OnTrial {
            return on_trial(&state, pending, &boot);
        }
        (Became::Blessed, None)
    } else if boot == pending.boot_id {
        return Ok(Stands::Installed { to: pending.to });
    } else {
        match installed {
            Installed::Counting { left, done } if left == 0 || done > 0 => {
                (Became::RolledBack, Some(why(paths, &pending, done)))
            }
            // Its own word is enough where the counter cannot be read any more.
            Installed::Absent | Installed::Blessed if pending.tries > 0 => {
                (Became::RolledBack, Some(why(paths, &pending, pending.tries)))
            }
            Installed::Counting { .. } | Installed::Blessed => {
                (Became::Interrupted, Some("it was installed and never started".to_owned()))
            }
            Installed::Absent => (Became::Interrupted, Some("its installation was cut short".to_owned())),
        }
    };
    match became {
        Became::Blessed => state.raise_floor(&pending.min_version)?,
        Became::RolledBack => state.refuse(&pending.to, reason.as_deref().unwrap_or_default())?,
        Became::Interrupted | Became::Failed | Became::Deferred | Became::SafeMode => {}
    }
    let Pending { id, from, to, .. } = pending;
    let at = LinuxClock.unix_seconds();
    let outcome = state.add_result(Outcome { seq: 0, id, from, to, became, reason, at })?;
    state.no_longer_pending()?;
    tracing::info!(to = %outcome.to, became = ?outcome.became, reason = outcome.reason, "update has its outcome");
    Ok(Stands::Became(outcome))
}

/// Counts this boot, once.
fn on_trial(state: &State, mut pending: Pending, boot: &str) -> Result<Stands, OutcomeError> {
    if pending.counted != boot {
        pending.tries += 1;
        pending.counted = boot.to_owned();
        state.set_pending(&pending)?;
    }
    Ok(Stands::OnTrial { to: pending.to, tries: pending.tries })
}

/// Why it was rolled back: what its own gate said last, if it came that far.
fn why(paths: &Paths, pending: &Pending, tries: u32) -> String {
    let last = health::last(paths).ok().flatten().filter(|report| report.version == pending.to.to_string());
    let failed = last.map(|report| report.failures()).filter(|failures| !failures.is_empty());
    match failed {
        Some(failures) => format!("{tries} tries: {failures}"),
        None => format!("{tries} tries, none came as far as the health checks or they were never answered"),
    }
}

#[cfg(test)]
mod tests;
