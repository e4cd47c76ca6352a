//! Secrets: from systemd credentials where given, from the state directory otherwise.
use std::fmt;
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rand::RngCore;
use zeroize::Zeroizing;

/// Most bytes read of a secret made elsewhere.
const MAX_GIVEN: u64 = 4096;

/// Secret bytes, wiped when dropped, never shown.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Wraps bytes.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret([redacted])")
    }
}

/// Why a secret cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// The file cannot be read or written.
    #[error("secret {path} cannot be used")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Others can read the file.
    #[error("secret {path} can be read by others: chmod 600 it, and replace the secret if it may have leaked")]
    Exposed {
        /// The file.
        path: PathBuf,
    },
    /// The wrong number of bytes.
    #[error(
        "secret {path} holds {found} bytes instead of {expected}: restore it from a backup, or delete it to make a new one"
    )]
    Length {
        /// The file.
        path: PathBuf,
        /// How many it holds.
        found: usize,
        /// How many it must hold.
        expected: usize,
    },
}

/// The secret of this name: the systemd credential when there is one, else the file `name` in `dir`, which
/// is made with fresh random bytes (mode 0600, synced) when it does not exist.
///
/// # Errors
/// [`CredentialError`] when the file cannot be used, is open to others, or has the wrong length.
pub fn secret_file(dir: &Path, name: &str, length: usize) -> Result<Secret, CredentialError> {
    let given =
        std::env::var_os("CREDENTIALS_DIRECTORY").map(|dir| Path::new(&dir).join(name)).filter(|path| path.exists());
    let own = dir.join(name);
    let path = given.as_deref().unwrap_or(&own);
    let fault = |source| CredentialError::Io { path: path.to_owned(), source };
    if !path.exists() {
        create(dir, path, length).map_err(fault)?;
    }
    let mut file = std::fs::File::open(path).map_err(fault)?;
    if given.is_none() && file.metadata().map_err(fault)?.permissions().mode() & 0o077 != 0 {
        return Err(CredentialError::Exposed { path: path.to_owned() });
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(fault)?;
    if bytes.len() != length {
        return Err(CredentialError::Length { path: path.to_owned(), found: bytes.len(), expected: length });
    }
    Ok(Secret::new(bytes))
}

/// A secret made elsewhere: the systemd credential of this name when there is one, else this file, if any. A line break
/// at its end is not part of it.
///
/// # Errors
/// [`CredentialError`] when the file cannot be read, is open to others, or is empty.
pub fn given_secret(name: &str, file: Option<&Path>) -> Result<Option<Secret>, CredentialError> {
    let given =
        std::env::var_os("CREDENTIALS_DIRECTORY").map(|dir| Path::new(&dir).join(name)).filter(|path| path.exists());
    let Some(path) = given.as_deref().or(file) else { return Ok(None) };
    let fault = |source| CredentialError::Io { path: path.to_owned(), source };
    let mut opened = std::fs::File::open(path).map_err(fault)?;
    if given.is_none() && opened.metadata().map_err(fault)?.permissions().mode() & 0o077 != 0 {
        return Err(CredentialError::Exposed { path: path.to_owned() });
    }
    let mut bytes = Vec::new();
    std::io::Read::by_ref(&mut opened).take(MAX_GIVEN).read_to_end(&mut bytes).map_err(fault)?;
    while bytes.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
        bytes.pop();
    }
    if bytes.is_empty() {
        return Err(CredentialError::Length { path: path.to_owned(), found: 0, expected: 32 });
    }
    Ok(Some(Secret::new(bytes)))
}

fn create(dir: &Path, path: &Path, length: usize) -> std::io::Result<()> {
    let mut bytes = Zeroizing::new(vec![0; length]);
    rand::rngs::OsRng.fill_bytes(&mut bytes);
    let fresh = path.with_extension("new");
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)?;
    std::fs::File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_made_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let first = secret_file(dir.path(), "token-key", 32).unwrap();
        let second = secret_file(dir.path(), "token-key", 32).unwrap();
        assert_eq!(first.expose(), second.expose());
        assert!(first.expose().iter().any(|b| *b != 0));
    }

    #[test]
    fn a_secret_open_to_others_or_cut_short_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        secret_file(dir.path(), "key", 32).unwrap();
        let path = dir.path().join("key");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(secret_file(dir.path(), "key", 32), Err(CredentialError::Exposed { .. })));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(secret_file(dir.path(), "key", 16), Err(CredentialError::Length { .. })));
    }
}
