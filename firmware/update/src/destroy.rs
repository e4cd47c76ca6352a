//! What is destroyed when a box is reset or decommissioned: keys first, then what opens the disk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use crate::files::{self, FileError, io_at};
use crate::paths::Paths;

/// Where keys lie, and what opens them.
const KEYS: [&str; 7] = [
    "var/lib/millrace-site/credstore",
    "var/lib/millrace-site/config/credentials",
    "var/lib/millrace-site/claim-token",
    "var/lib/millrace-site/recovery.json",
    "var/lib/millrace-signer",
    "var/lib/millrace-fleet",
    "var/lib/systemd/credential.secret",
];
/// How a LUKS header begins.
const LUKS: &[u8; 6] = b"LUKS\xba\xbe";
/// Both headers and all key slots: what LUKS2 leaves before the data.
const HEADER: u64 = 16 << 20;

/// Overwrites and removes every key; says what it found. Nothing that is gone already is an error.
pub(crate) fn keys(paths: &Paths) -> Result<Vec<String>, FileError> {
    let mut gone = Vec::new();
    for place in KEYS {
        if tree(&paths.at(place))? > 0 {
            gone.push(format!("/{place}"));
        }
    }
    Ok(gone)
}

/// How many files were destroyed.
fn tree(path: &Path) -> Result<u32, FileError> {
    let kind = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        found => found.map_err(io_at(path))?.file_type(),
    };
    if !kind.is_dir() {
        return if kind.is_file() { files::wipe(path) } else { files::remove(path) }.map(|()| 1);
    }
    let mut gone = 0;
    for entry in fs::read_dir(path).map_err(io_at(path))? {
        gone += tree(&entry.map_err(io_at(path))?.path())?;
    }
    Ok(gone)
}

/// Whether a partition has a LUKS header.
pub(crate) fn is_luks(partition: &Path) -> Result<bool, FileError> {
    let mut start = [0; LUKS.len()];
    match File::open(partition) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        opened => match opened.map_err(io_at(partition))?.read_exact(&mut start) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            read => read.map_err(io_at(partition)).map(|()| &start == LUKS),
        },
    }
}

/// Overwrites everything that could open a LUKS partition: headers, key slots, the TPM's token. The system that has it
/// open goes on until it stops. `false`: there was no header any more. Durable on return.
pub(crate) fn luks(partition: &Path) -> Result<bool, FileError> {
    if !is_luks(partition)? {
        return Ok(false);
    }
    let fault = || io_at(partition);
    let mut device = OpenOptions::new().read(true).write(true).open(partition).map_err(fault())?;
    let length = io::Seek::seek(&mut device, io::SeekFrom::End(0)).map_err(fault())?.min(HEADER);
    // From the end, so that a power cut on the way leaves the beginning, by which this goes on.
    let block = vec![0; 1 << 20];
    let mut end = length;
    while end > 0 {
        let size = end.min(1 << 20);
        end -= size;
        let part = block.get(..usize::try_from(size).unwrap_or(0)).unwrap_or_default();
        let written = io::Seek::seek(&mut device, io::SeekFrom::Start(end)).and_then(|_| device.write_all(part));
        written.and_then(|()| device.sync_data()).map_err(fault())?;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_that_could_open_the_disk_is_overwritten_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let partition = dir.path().join("var");
        let header = usize::try_from(HEADER).unwrap();
        let mut image = vec![0x5a; header + 4096];
        image[..6].copy_from_slice(LUKS);
        fs::write(&partition, &image).unwrap();
        assert!(luks(&partition).unwrap());
        let left = fs::read(&partition).unwrap();
        assert!(left[..header].iter().all(|byte| *byte == 0));
        assert_eq!(left.len(), image.len());
        assert!(left[header..].iter().all(|byte| *byte == 0x5a));
        assert!(!luks(&partition).unwrap(), "the second time there is nothing to do");
        assert!(!luks(&dir.path().join("none")).unwrap());
    }

    #[test]
    fn what_is_no_luks_partition_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let partition = dir.path().join("var");
        fs::write(&partition, [0x5a; 4096]).unwrap();
        assert!(!luks(&partition).unwrap());
        assert_eq!(fs::read(&partition).unwrap(), [0x5a; 4096]);
    }

    #[test]
    fn keys_are_overwritten_where_they_lie_and_named() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        let keystore = paths.at("var/lib/millrace-site/credstore/keystore");
        files::put(&keystore, b"sealed", 0o600).unwrap();
        files::put(&paths.at("var/lib/millrace-signer/deep/state"), b"state", 0o600).unwrap();
        let kept = dir.path().join("kept");
        fs::hard_link(&keystore, &kept).unwrap();
        assert_eq!(keys(&paths).unwrap(), ["/var/lib/millrace-site/credstore", "/var/lib/millrace-signer"]);
        assert_eq!(fs::read(kept).unwrap(), [0; 6]);
        assert!(keys(&paths).unwrap().is_empty());
    }
}
