//! Factory reset: first the keys, so that nothing that happens later can leave them behind, then the request to
//! systemd-repart to make `/var` anew at the next boot, then the restart.

use std::fs;
use std::io;
use std::path::Path;

use crate::command::{CommandError, Tools};
use crate::files::{self, FileError, io_at};
use crate::paths::Paths;

/// The variable systemd-repart looks at; it removes it when it is done.
const VARIABLE: &str = "FactoryReset-8cf2644b-4b0b-428f-9387-6d876050dc67";
/// Kept over restarts, readable by the boot loader and by the system.
const ATTRIBUTES: [u8; 4] = [7, 0, 0, 0];
/// Where keys lie, and what opens them.
const KEYS: [&str; 6] = [
    "var/lib/millrace-site/credstore",
    "var/lib/millrace-site/config/credentials",
    "var/lib/millrace-site/claim-token",
    "var/lib/millrace-signer",
    "var/lib/millrace-fleet",
    "var/lib/systemd/credential.secret",
];

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResetError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("this machine keeps no variables over a restart: the keys are gone, and /var must be made anew by hand")]
    NoVariables(#[source] FileError),
    #[error(transparent)]
    Command(#[from] CommandError),
}

/// Destroys the keys and asks for everything else.
pub(crate) async fn reset(paths: &Paths, tools: &Tools) -> Result<(), ResetError> {
    // Whoever holds a key open must be gone first.
    let stopped = tools.systemctl(&["stop", "millrace-node.service", "millrace-signer.service"]).await;
    if let Err(error) = stopped {
        tracing::warn!(reason = crate::stage::text(&error), "services could not be stopped");
    }
    for place in KEYS {
        destroy(&paths.at(place))?;
    }
    tracing::warn!("keys were destroyed");
    let variable = paths.efivars().join(VARIABLE);
    let value: Vec<u8> = ATTRIBUTES.into_iter().chain("yes\0".encode_utf16().flat_map(u16::to_le_bytes)).collect();
    // One write, into place: that is how a variable is set. One that is there was asked for before.
    if !variable.exists() {
        fs::write(&variable, value).map_err(io_at(&variable)).map_err(ResetError::NoVariables)?;
    }
    Ok(tools.systemctl(&["reboot"]).await?)
}

fn destroy(path: &Path) -> Result<(), FileError> {
    let kind = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found.map_err(io_at(path))?.file_type(),
    };
    if !kind.is_dir() {
        return if kind.is_file() { files::wipe(path) } else { files::remove(path) };
    }
    for entry in fs::read_dir(path).map_err(io_at(path))? {
        destroy(&entry.map_err(io_at(path))?.path())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn keys_are_destroyed_before_anything_else_is_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        let keystore = paths.at("var/lib/millrace-site/credstore/keystore");
        files::put(&keystore, b"sealed", 0o600).unwrap();
        files::put(&paths.at("var/lib/millrace-signer/deep/state"), b"state", 0o600).unwrap();
        let kept = dir.path().join("kept");
        fs::hard_link(&keystore, &kept).unwrap();
        let tools = Tools { systemctl: "true".into(), sysupdate: "true".into() };
        // Without a place for variables: the keys are gone all the same, and it says what is left to do.
        assert!(matches!(reset(&paths, &tools).await, Err(ResetError::NoVariables(_))));
        assert!(!keystore.exists() && !paths.at("var/lib/millrace-signer/deep/state").exists());
        assert_eq!(fs::read(kept).unwrap(), [0; 6]);
        fs::create_dir_all(paths.efivars()).unwrap();
        reset(&paths, &tools).await.unwrap();
        let value = fs::read(paths.efivars().join(VARIABLE)).unwrap();
        assert_eq!(value, [7, 0, 0, 0, b'y', 0, b'e', 0, b's', 0, 0, 0]);
    }
}
