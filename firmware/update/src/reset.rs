//! Factory reset and decommissioning. Every step may be cut off and is taken again:
//!
//! ```text
//! order noted ──► keys destroyed ──► erase:  FactoryReset set ──► LUKS header destroyed ──► restart: a blank box
//!                        └─────────► keep:   configuration gone, "decommissioned" noted ──► off
//! ```
//!
//! The request to systemd-repart stands before the header goes: from then on the next start makes `/var` anew, whatever
//! else was done; before it, the note on `/var` goes on with it.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::command::{CommandError, Tools};
use crate::destroy;
use crate::files::{self, FileError, io_at};
use crate::paths::Paths;

/// The variable systemd-repart looks at; it removes it when it is done.
const VARIABLE: &str = "FactoryReset-8cf2644b-4b0b-428f-9387-6d876050dc67";
/// Kept over restarts, readable by the boot loader and by the system.
const ATTRIBUTES: [u8; 4] = [7, 0, 0, 0];
/// An order under way, on `/var`: a restart goes on with it.
const NOTE: &str = "decommission.json";
/// An order that was carried out and left `/var` as it is.
const DONE: &str = "decommissioned.json";

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResetError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("this machine keeps no variables over a restart: the keys are gone, and /var must be made anew by hand")]
    NoVariables(#[source] FileError),
    #[error(transparent)]
    Command(#[from] CommandError),
    #[error("there is no order to decommission this box")]
    NoOrder,
}

/// The fleet agent's order, after it was checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Decommission {
    pub(crate) id: String,
    /// All of `/var`, not only the keys.
    pub(crate) erase: bool,
}

/// Destroys the keys and all of `/var`, and starts anew as a blank box. What was destroyed is said line by line.
pub(crate) async fn reset(paths: &Paths, tools: &Tools, say: &mut impl FnMut(&str)) -> Result<(), ResetError> {
    keys(paths, tools, say).await?;
    erase(paths, tools, say).await
}

/// Carries out the order in `request`, or goes on with the one that was cut off.
pub(crate) async fn decommission(
    paths: &Paths,
    tools: &Tools,
    request: &Path,
    say: &mut impl FnMut(&str),
) -> Result<(), ResetError> {
    let note = paths.state().join(NOTE);
    let order: Decommission = match files::get_json(&note)? {
        Some(order) => order,
        None => {
            let order = files::get_json(request)?.ok_or(ResetError::NoOrder)?;
            files::put_json(&note, &order, 0o600)?;
            order
        }
    };
    say(&format!(
        "decommissioning, by order {}",
        order.id.chars().filter(char::is_ascii_graphic).take(64).collect::<String>()
    ));
    keys(paths, tools, say).await?;
    if order.erase {
        match erase(paths, tools, say).await {
            // Nobody makes /var anew here, and nothing opens what is left of it: the box is flashed anew, or stays dark.
            Err(ResetError::NoVariables(error)) => {
                tracing::warn!(reason = crate::stage::text(&error), "no variables");
                header(paths, say)?;
                say("this machine must be flashed anew before it starts again; it is switched off");
                return Ok(tools.systemctl(&["poweroff"]).await?);
            }
            done => return done,
        }
    }
    let config = paths.site().join("config");
    match fs::remove_dir_all(&config) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        done => {
            done.map_err(io_at(&config))?;
            say("configuration removed; what the box earned and did is still on /var");
        }
    }
    files::put_json(&paths.state().join(DONE), &order, 0o644)?;
    files::remove(&note)?;
    say("decommissioned: this box does nothing any more; it is switched off");
    Ok(tools.systemctl(&["poweroff"]).await?)
}

/// Whether a decommissioned box was started again.
pub(crate) fn is_decommissioned(paths: &Paths) -> bool {
    paths.state().join(DONE).exists()
}

/// Destroys the keys, and stops whoever holds one open.
async fn keys(paths: &Paths, tools: &Tools, say: &mut impl FnMut(&str)) -> Result<(), ResetError> {
    let holders = ["stop", "millrace-node.service", "millrace-signer.service", "millrace-fleet.service"];
    if let Err(error) = tools.systemctl(&holders).await {
        tracing::warn!(reason = crate::stage::text(&error), "services could not be stopped");
    }
    for place in destroy::keys(paths)? {
        say(&format!("destroyed: {place}"));
    }
    say("keys: none left");
    Ok(())
}

/// Asks for a new `/var`, then destroys what opens the old one.
async fn erase(paths: &Paths, tools: &Tools, say: &mut impl FnMut(&str)) -> Result<(), ResetError> {
    let variable = paths.efivars().join(VARIABLE);
    let value: Vec<u8> = ATTRIBUTES.into_iter().chain("yes\0".encode_utf16().flat_map(u16::to_le_bytes)).collect();
    // One write, into place: that is how a variable is set. One that is there was asked for before.
    if !variable.exists() {
        fs::write(&variable, value).map_err(io_at(&variable)).map_err(ResetError::NoVariables)?;
    }
    say("asked for: a new /var at the next start");
    header(paths, say)?;
    Ok(tools.systemctl(&["reboot"]).await?)
}

fn header(paths: &Paths, say: &mut impl FnMut(&str)) -> Result<(), FileError> {
    say(if destroy::luks(&paths.var_partition())? {
        "destroyed: the keys of /var (LUKS headers, key slots, the TPM's token); nothing opens it any more"
    } else {
        "/var has no LUKS header: it was destroyed before, or never encrypted"
    });
    Ok(())
}

#[cfg(test)]
mod tests;
