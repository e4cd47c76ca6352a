//! The key that opens `/var` without this board: a passphrase that systemd-cryptenroll makes and enrols, sealed at once to
//! the operator's recovery key. The box keeps only what it cannot open; the passphrase is never on a disk and never in a
//! journal.
//!
//! ```text
//! nothing ── enrolled ──► a key slot nobody knows ── escrow written ──► done
//!                └── the power goes: enrolled anew, the slot before is wiped
//! ```

use std::path::Path;
use std::time::Duration;

use crypto_box::PublicKey;
use fleet_protocol::site::{ESCROW_MAX, Escrow, RecoveryKey};
use millrace_hal::{Clock as _, LinuxClock};
use zeroize::Zeroizing;

use crate::command::{self, CommandError};
use crate::files::{self, FileError};
use crate::paths::Paths;

/// The escrow's name wherever it lies.
const FILE: &str = "recovery.json";
/// A key slot is derived and written.
const ENROL: Duration = Duration::from_secs(120);

/// Why there is no way to open `/var` elsewhere.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecoveryError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Command(#[from] CommandError),
    #[error("the site's recovery key makes no sense: {0}")]
    Key(&'static str),
    #[error("systemd-cryptenroll printed no recovery key")]
    Unsaid,
    #[error("the passphrase cannot be sealed")]
    Seal,
}

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Recovery {
    /// The site file names nobody.
    NotAsked,
    /// `/var` is not encrypted here: whoever has the disk has it all.
    NotEncrypted,
    /// It was there already.
    Kept,
    /// Enrolled now.
    Enrolled,
}

/// Sees to it that the operator can open `/var`; as often as it is called.
pub(crate) async fn enrol(paths: &Paths, cryptenroll: &Path, serial: &str) -> Result<Recovery, RecoveryError> {
    let asked = files::get(&paths.site().join("recovery-to"), 256)?.unwrap_or_default();
    let asked = String::from_utf8_lossy(&asked);
    if asked.trim().is_empty() {
        return Ok(Recovery::NotAsked);
    }
    let to: RecoveryKey = asked.trim().parse().map_err(RecoveryError::Key)?;
    let place = paths.site().join(FILE);
    let limit = u64::try_from(ESCROW_MAX).unwrap_or(u64::MAX);
    let kept = files::get(&place, limit)?.and_then(|bytes| serde_json::from_slice::<Escrow>(&bytes).ok());
    if let Some(escrow) = kept.filter(|escrow| escrow.to == to) {
        beside_the_kernel(paths, &escrow);
        return Ok(Recovery::Kept);
    }
    let partition = paths.var_partition();
    if !crate::destroy::is_luks(&partition)? {
        return Ok(Recovery::NotEncrypted);
    }
    // The TPM opens it for the new slot; an earlier recovery slot, of a run that was cut short, is wiped.
    let device = partition.as_os_str();
    let arguments = ["--unlock-tpm2-device=auto", "--wipe-slot=recovery", "--recovery-key"].map(std::ffi::OsStr::new);
    let said = Zeroizing::new(command::said(cryptenroll, &[&arguments[..], &[device]].concat(), ENROL).await?);
    let passphrase = passphrase(&said).ok_or(RecoveryError::Unsaid)?;
    let sealed = PublicKey::from(to.0).seal(&mut rand::rngs::OsRng, passphrase).map_err(|_| RecoveryError::Seal)?;
    let escrow = Escrow::new(serial, to, &sealed, LinuxClock.unix_seconds());
    files::put_json(&place, &escrow, 0o644)?;
    beside_the_kernel(paths, &escrow);
    Ok(Recovery::Enrolled)
}

/// The line with eight groups of eight letters.
fn passphrase(said: &[u8]) -> Option<&[u8]> {
    let group = |group: &[u8]| group.len() == 8 && group.iter().all(u8::is_ascii_lowercase);
    let is = |line: &&[u8]| {
        let groups: Vec<&[u8]> = line.split(|byte| *byte == b'-').collect();
        groups.len() == 8 && groups.iter().all(|part| group(part))
    };
    said.split(|byte| byte.is_ascii_whitespace()).find(is)
}

/// Where it can be read when `/var` cannot.
fn beside_the_kernel(paths: &Paths, escrow: &Escrow) {
    let place = paths.boot().join("MILLRACE").join(FILE);
    let there = files::get_json::<Escrow>(&place).ok().flatten();
    if there.as_ref() != Some(escrow)
        && let Err(error) = files::put_json(&place, escrow, 0o644)
    {
        tracing::warn!(reason = crate::stage::text(&error), "the escrow is not on the boot partition");
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use crypto_box::SecretKey;

    use super::*;

    const PHRASE: &str = "cbdefghi-cbdefghi-cbdefghi-cbdefghi-cbdefghi-cbdefghi-cbdefghi-nrtuvklj";

    /// A box with a LUKS header and a cryptenroll that says what the real one says, and counts its calls.
    fn scene(dir: &Path, asked: &str) -> (Paths, std::path::PathBuf) {
        let paths = Paths::below(dir);
        files::put(&paths.var_partition(), b"LUKS\xba\xbe and the rest", 0o600).unwrap();
        files::put(&paths.site().join("recovery-to"), asked.as_bytes(), 0o644).unwrap();
        let script = dir.join("cryptenroll");
        let text =
            format!("#!/bin/sh\necho x >>{}/calls\necho 'keep {PHRASE} safe' >&2\necho '{PHRASE}'\n", dir.display());
        std::fs::write(&script, text).unwrap();
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
        (paths, script)
    }

    #[tokio::test]
    async fn the_passphrase_is_sealed_once_to_the_operator_and_kept_twice() {
        let dir = tempfile::tempdir().unwrap();
        let key = SecretKey::generate(&mut rand::rngs::OsRng);
        let asked = String::from(RecoveryKey(*key.public_key().as_bytes()));
        let (paths, tool) = scene(dir.path(), &asked);
        assert_eq!(enrol(&paths, &tool, "S1").await.unwrap(), Recovery::Enrolled);
        assert_eq!(enrol(&paths, &tool, "S1").await.unwrap(), Recovery::Kept);
        assert_eq!(std::fs::read_to_string(dir.path().join("calls")).unwrap().lines().count(), 1);
        let beside = paths.boot().join("MILLRACE/recovery.json");
        for place in [paths.site().join(FILE), beside.clone()] {
            let escrow: Escrow = files::get_json(&place).unwrap().unwrap();
            assert_eq!(key.unseal(&escrow.sealed_bytes().unwrap()).unwrap(), PHRASE.as_bytes());
            assert!(!std::fs::read_to_string(&place).unwrap().contains("cbdefghi"));
        }
        // The copy beside the kernel comes back; another operator's key is enrolled anew.
        std::fs::remove_file(&beside).unwrap();
        assert_eq!(enrol(&paths, &tool, "S1").await.unwrap(), Recovery::Kept);
        assert!(beside.exists());
        let other = String::from(RecoveryKey([7; 32]));
        files::put(&paths.site().join("recovery-to"), other.as_bytes(), 0o644).unwrap();
        assert_eq!(enrol(&paths, &tool, "S1").await.unwrap(), Recovery::Enrolled);
    }

    #[tokio::test]
    async fn nobody_asked_no_encryption_and_no_answer_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let (paths, _) = scene(dir.path(), "");
        assert_eq!(enrol(&paths, Path::new("false"), "S1").await.unwrap(), Recovery::NotAsked);
        let (paths, _) = scene(dir.path(), &String::from(RecoveryKey([7; 32])));
        assert!(matches!(enrol(&paths, Path::new("false"), "S1").await, Err(RecoveryError::Command(_))));
        assert!(matches!(enrol(&paths, Path::new("true"), "S1").await, Err(RecoveryError::Unsaid)));
        assert!(!paths.site().join(FILE).exists());
        files::put(&paths.var_partition(), b"\0\0\0\0 ext4", 0o600).unwrap();
        assert_eq!(enrol(&paths, Path::new("true"), "S1").await.unwrap(), Recovery::NotEncrypted);
    }
}
