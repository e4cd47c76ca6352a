//! Files whose names and contents survive a power cut.
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use crate::error::LedgerError;

/// Makes a directory only we can read, with its parents.
pub(crate) fn make_dir(dir: &Path) -> Result<(), LedgerError> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(LedgerError::io(dir))
}

/// Makes the names in a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), LedgerError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(LedgerError::io(dir))
}

/// Replaces a file as a whole: after a cut there is the old content or the new, never a mixture.
pub(crate) fn replace(dir: &Path, name: &str, content: &[u8]) -> Result<(), LedgerError> {
    let (fresh, path) = (dir.join(format!("{name}.new")), dir.join(name));
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&fresh)
        .and_then(|mut file| {
            file.write_all(content)?;
            file.sync_all()
        })
        .and_then(|()| std::fs::rename(&fresh, &path));
    written.map_err(LedgerError::io(&path))?;
    sync_dir(dir)
}

/// Removes a file if it is there, durably.
pub(crate) fn remove(dir: &Path, name: &str) -> Result<(), LedgerError> {
    let path = dir.join(name);
    match std::fs::remove_file(&path) {
        Ok(()) => sync_dir(dir),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(LedgerError::io(&path)(error)),
    }
}

/// A path beside `path` that does not exist yet: `path.word-1`, `path.word-2`, …
pub(crate) fn aside(path: &Path, word: &str) -> std::path::PathBuf {
    (1u32..)
        .map(|n| {
            let mut name = path.as_os_str().to_owned();
            name.push(format!(".{word}-{n}"));
            std::path::PathBuf::from(name)
        })
        .find(|path| !path.exists())
        .expect("some number is free")
}
