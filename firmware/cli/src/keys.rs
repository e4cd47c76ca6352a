//! Throw-away keys for gateways, and reading them.
//!
//! The box's own key is not here: `millrace-signer` makes and holds it.
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Subcommand;
use gateway::{SignerError, TicketSigner};
use livepeer::address::{Address, H256};
use livepeer::signature::{Signature, SigningKey};
use zeroize::Zeroizing;

use crate::failure::{self, Code, Failure, Outcome, unreadable, unwritable};
use crate::keystore;

/// Longest key or password file read.
const MAX_FILE: u64 = 64 * 1024;

/// Make and look at gateway keys.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a new key and write it to a file that only you can read
    #[command(after_help = "Example:\n  millrace keys new --out gateway.key")]
    New {
        /// The file to write; it must not exist yet
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Show the address of a key file
    #[command(after_help = "Examples:
  millrace keys show gateway.key
  millrace keys show UTC--2026-11-22--… --password-file password.txt")]
    Show {
        /// A key file made by `millrace keys new`, or a geth keystore file
        file: PathBuf,
        /// File with the password of a keystore file
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
    },
}

pub(crate) fn run(command: Command) -> failure::Result {
    match command {
        Command::New { out } => {
            let key = SigningKey::generate(&mut rand::rngs::OsRng);
            let digits = Zeroizing::new(format!("{}\n", hex::encode(&key.to_secret_bytes()[..])));
            let mut options = std::fs::OpenOptions::new();
            let file = options.write(true).create_new(true).mode(0o600).open(&out);
            let written = file.and_then(|mut file| {
                file.write_all(digits.as_bytes())?;
                file.sync_all()
            });
            written.map_err(|error| unwritable(&out, &error))?;
            println!("{}", key.address());
        }
        Command::Show { file, password_file } => {
            let is_keystore = read_secret(&file)?.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'{');
            let key = if is_keystore { from_keystore(&file, password_file.as_deref())? } else { from_file(&file)? };
            println!("{}", key.address());
        }
    }
    Ok(Outcome::Done)
}

/// A key in this process: for gateways of people and tests, not for a box.
#[derive(Debug)]
pub(crate) struct LocalKey(SigningKey);

impl TicketSigner for LocalKey {
    fn address(&self) -> Address {
        self.0.address()
    }

    fn sign_node(&self, message: &[u8]) -> Result<Signature, SignerError> {
        Ok(self.0.sign_node(message))
    }

    fn sign_personal(&self, digest: H256) -> Result<Signature, SignerError> {
        Ok(self.0.sign_personal(digest))
    }
}

/// The signer behind the options of a command; none of them means off-chain.
pub(crate) fn signer(
    key_file: Option<&Path>,
    keystore: Option<&Path>,
    password_file: Option<&Path>,
) -> failure::Result<Option<Arc<dyn TicketSigner>>> {
    let key = match (key_file, keystore) {
        (Some(path), _) => from_file(path)?,
        (None, Some(path)) => from_keystore(path, password_file)?,
        (None, None) => return Ok(None),
    };
    Ok(Some(Arc::new(LocalKey(key))))
}

fn from_file(path: &Path) -> failure::Result<SigningKey> {
    let text = read_secret(path)?;
    let wrong = || {
        Failure::new(Code::Data, format!("{} is no key: expected 64 hex digits", path.display()))
            .advise("make one with: millrace keys new --out FILE")
    };
    let text = std::str::from_utf8(&text).map_err(|_| wrong())?.trim();
    let mut bytes = Zeroizing::new([0u8; 32]);
    hex::decode_to_slice(text.trim_start_matches("0x"), &mut *bytes).map_err(|_| wrong())?;
    SigningKey::from_bytes(&bytes).map_err(|_| wrong())
}

fn from_keystore(path: &Path, password_file: Option<&Path>) -> failure::Result<SigningKey> {
    let json = read_secret(path)?;
    let password = match password_file {
        Some(path) => read_secret(path)?,
        None => {
            let text = format!("{} is locked: its password is needed", path.display());
            return Err(Failure::new(Code::Usage, text).advise("give the file that holds it: --password-file FILE"));
        }
    };
    let password = password.strip_suffix(b"\n").unwrap_or(&password);
    let secret = keystore::open(&json, password)
        .map_err(|error| Failure::new(Code::Data, format!("cannot open {}: {error}", path.display())))?;
    SigningKey::from_bytes(&secret)
        .map_err(|_| Failure::new(Code::Data, format!("{} holds no usable key", path.display())))
}

/// Reads a file that nobody else may read.
fn read_secret(path: &Path) -> failure::Result<Zeroizing<Vec<u8>>> {
    let fault = |error| unreadable(path, &error);
    let file = std::fs::File::open(path).map_err(fault)?;
    let mode = file.metadata().map_err(fault)?.permissions().mode();
    if mode & 0o077 != 0 {
        let text = format!("{} can be read by others (mode {:03o})", path.display(), mode & 0o777);
        let advice = format!("chmod 600 {}, and replace the key if it may have leaked", path.display());
        return Err(Failure::new(Code::Permission, text).advise(advice));
    }
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(MAX_FILE).read_to_end(&mut bytes).map_err(fault)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_key_is_ours_alone_and_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        run(Command::New { out: path.clone() }).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let first = from_file(&path).unwrap().address();
        assert_eq!(run(Command::New { out: path.clone() }).unwrap_err().code, Code::CannotCreate);
        assert_eq!(from_file(&path).unwrap().address(), first);
    }

    #[test]
    fn a_key_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        run(Command::New { out: path.clone() }).unwrap();
        for mode in [0o640, 0o604, 0o620] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let failure = from_file(&path).unwrap_err();
            assert_eq!(failure.code, Code::Permission);
            assert!(failure.to_string().contains("chmod 600"));
        }
    }

    #[test]
    fn a_file_that_is_no_key_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        for content in ["", "0x12", &"0".repeat(64), &"g".repeat(64)] {
            let _ = std::fs::remove_file(&path);
            std::fs::write(&path, content).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            assert_eq!(from_file(&path).unwrap_err().code, Code::Data, "{content:?}");
        }
        assert_eq!(from_file(&dir.path().join("none")).unwrap_err().code, Code::NoInput);
    }
}
