//! Files that are whole or not there, whenever the power goes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Largest document of ours.
const DOCUMENT_MAX: u64 = 1 << 20;

/// A file that could not be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    /// The disk, or a right that is missing.
    #[error("{path} cannot be used")]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// It holds something else.
    #[error("{path} makes no sense")]
    Shape {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    /// It is larger than it can rightly be.
    #[error("{path} is larger than {limit} bytes")]
    TooLarge { path: PathBuf, limit: u64 },
    /// Another of us is at work.
    #[error("another millrace-update is at work here")]
    Busy,
}

/// Names the file in an error.
pub(crate) fn io_at(path: &Path) -> impl FnOnce(io::Error) -> FileError {
    let path = path.to_owned();
    move |source| FileError::Io { path, source }
}

/// Puts a file in place: durable on return, and at no time half there.
pub(crate) fn put(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    let fault = || io_at(path);
    let dir = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(dir).map_err(fault())?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let fresh = dir.join(format!(".{name}.new"));
    let _ = fs::remove_file(&fresh);
    let opened = OpenOptions::new().write(true).create_new(true).mode(mode).open(&fresh);
    let mut file = opened.map_err(fault())?;
    // The mode is what others of us need to read it, whatever mask this unit has.
    let mode = fs::Permissions::from_mode(mode);
    file.write_all(bytes).and_then(|()| file.set_permissions(mode)).and_then(|()| file.sync_all()).map_err(fault())?;
    fs::rename(&fresh, path).map_err(fault())?;
    sync_dir(dir)
}

/// [`put`] of a document.
pub(crate) fn put_json(path: &Path, document: &impl Serialize, mode: u32) -> Result<(), FileError> {
    let mut bytes = serde_json::to_vec_pretty(document).expect("our documents are json");
    bytes.push(b'\n');
    put(path, &bytes, mode)
}

/// Makes the names in a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), FileError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(io_at(dir))
}

/// A file's bytes, at most `limit` of them; `None` when there is none.
pub(crate) fn get(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, FileError> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(io_at(path))?,
    };
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(io_at(path))?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > limit {
        return Err(FileError::TooLarge { path: path.to_owned(), limit });
    }
    Ok(Some(bytes))
}

/// A document; `None` when there is none.
pub(crate) fn get_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, FileError> {
    let Some(bytes) = get(path, DOCUMENT_MAX)? else { return Ok(None) };
    let shape = |source| FileError::Shape { path: path.to_owned(), source };
    serde_json::from_slice(&bytes).map(Some).map_err(shape)
}

/// Removes a file, durably; that there is none is no error.
pub(crate) fn remove(path: &Path) -> Result<(), FileError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        removed => removed.map_err(io_at(path))?,
    }
    sync_dir(path.parent().unwrap_or(Path::new("/")))
}

/// Overwrites a secret with zeros before it is removed. What flash keeps of it elsewhere is the disk's encryption's affair.
pub(crate) fn wipe(path: &Path) -> Result<(), FileError> {
    let opened = OpenOptions::new().write(true).open(path);
    let mut file = match opened {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened.map_err(io_at(path))?,
    };
    let length = file.metadata().map_err(io_at(path))?.size();
    io::copy(&mut io::repeat(0).take(length), &mut file).and_then(|_| file.sync_all()).map_err(io_at(path))?;
    remove(path)
}

/// Keeps all others of us out of a directory until it is dropped.
#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "held for its drop")] Flock<File>);

/// Takes the directory's lock.
pub(crate) fn lock(dir: &Path) -> Result<Lock, FileError> {
    let path = dir.join(".lock");
    // Readable is enough for a lock, and the one who takes it may be another user than the one who made it.
    let opened = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o644).open(&path)
        }
        opened => opened,
    };
    let file = opened.map_err(io_at(&path))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Lock(lock)),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Err(FileError::Busy),
        Err((_, error)) => Err(io_at(&path)(error.into())),
    }
}

/// Bytes of the file system that a directory is on.
pub(crate) struct Space {
    /// What may still be written.
    pub(crate) free: u64,
    /// All of it.
    pub(crate) all: u64,
}

/// How much room there is where a directory is.
pub(crate) fn space(dir: &Path) -> Result<Space, FileError> {
    let disk = nix::sys::statvfs::statvfs(dir).map_err(|error| io_at(dir)(error.into()))?;
    #[expect(clippy::useless_conversion, reason = "the fields' width differs between processors")]
    let (unit, free, all) =
        (u64::from(disk.fragment_size()), u64::from(disk.blocks_available()), u64::from(disk.blocks()));
    Ok(Space { free: free.saturating_mul(unit), all: all.saturating_mul(unit) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_put_whole_and_read_within_its_bound() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b.json");
        put_json(&path, &["x"], 0o600).unwrap();
        assert_eq!(get_json::<Vec<String>>(&path).unwrap().unwrap(), ["x"]);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert!(matches!(get(&path, 3), Err(FileError::TooLarge { .. })));
        assert!(get(&dir.path().join("none"), 3).unwrap().is_none());
        fs::write(&path, "{").unwrap();
        assert!(matches!(get_json::<Vec<String>>(&path), Err(FileError::Shape { .. })));
    }

    #[test]
    fn only_one_holds_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let held = lock(dir.path()).unwrap();
        assert!(matches!(lock(dir.path()), Err(FileError::Busy)));
        drop(held);
        lock(dir.path()).unwrap();
    }

    #[test]
    fn a_wiped_secret_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        put(&path, b"secret", 0o600).unwrap();
        let other = dir.path().join("same");
        fs::hard_link(&path, &other).unwrap();
        wipe(&path).unwrap();
        assert!(!path.exists());
        assert_eq!(fs::read(&other).unwrap(), [0; 6]);
        wipe(&path).unwrap();
    }
}
