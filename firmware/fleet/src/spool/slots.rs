//! A small document that is overwritten in place, so that it can be kept even when the disk is full: two slots of one
//! file, written in turn, each with a counter and a checksum. After a crash the newer sound one counts.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::{SpoolError, sync_parent};

/// Bytes of one slot: a sector, which a disk writes whole or not at all.
const SLOT: usize = 512;
/// `counter u64 · length u32 · crc32 u32`, little-endian, in front of the document.
const HEAD: usize = 16;
/// Largest document.
const BODY_MAX: usize = SLOT - HEAD;

/// The file.
#[derive(Debug)]
pub(crate) struct Slots {
    path: PathBuf,
    file: File,
    counter: u64,
}

/// What opening found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// The newest document.
    Document(Vec<u8>),
    /// Nothing was ever written.
    Empty,
    /// Something was written and cannot be read.
    Damaged,
}

impl Slots {
    /// Open or create. Creation takes the space that every later write will use.
    pub(crate) fn open(path: &Path) -> Result<(Self, Found), SpoolError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(SpoolError::io(path))?;
        let mut bytes = [0; 2 * SLOT];
        let mut filled = 0;
        while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match file.read_at(rest, u64::try_from(filled).unwrap_or(0)).map_err(SpoolError::io(path))? {
                0 => break,
                n => filled += n,
            }
        }
        let (first, second) = bytes.split_at(SLOT);
        let newest = [first, second].into_iter().filter_map(read).max_by_key(|(counter, _)| *counter);
        let (counter, found) = match newest {
            Some((counter, body)) => (counter, Found::Document(body)),
            None if bytes.iter().all(|b| *b == 0) => (0, Found::Empty),
            None => (0, Found::Damaged),
        };
        if filled < bytes.len() {
            file.write_all_at(&bytes, 0).and_then(|()| file.sync_all()).map_err(SpoolError::io(path))?;
            sync_parent(path)?;
        }
        Ok((Self { path: path.to_owned(), file, counter }, found))
    }

    /// Replace the document; durable on return, and on failure the one before still stands.
    pub(crate) fn write(&mut self, body: &[u8]) -> Result<(), SpoolError> {
        if body.len() > BODY_MAX {
            return Err(SpoolError::TooLarge(body.len()));
        }
        let counter = self.counter + 1;
        let mut slot = counter.to_le_bytes().to_vec();
        slot.extend_from_slice(&u32::try_from(body.len()).unwrap_or(0).to_le_bytes());
        slot.extend_from_slice(&checksum(counter, body).to_le_bytes());
        slot.extend_from_slice(body);
        slot.resize(SLOT, 0);
        let offset = (counter % 2) * u64::try_from(SLOT).unwrap_or(512);
        self.file
            .write_all_at(&slot, offset)
            .and_then(|()| self.file.sync_data())
            .map_err(SpoolError::io(&self.path))?;
        self.counter = counter;
        Ok(())
    }
}

fn read(slot: &[u8]) -> Option<(u64, Vec<u8>)> {
    let (counter, rest) = slot.split_first_chunk::<8>()?;
    let (len, rest) = rest.split_first_chunk::<4>()?;
    let (crc, rest) = rest.split_first_chunk::<4>()?;
    let counter = u64::from_le_bytes(*counter);
    let body = rest.get(..usize::try_from(u32::from_le_bytes(*len)).ok()?)?;
    (counter > 0 && checksum(counter, body) == u32::from_le_bytes(*crc)).then(|| (counter, body.to_vec()))
}

fn checksum(counter: u64, body: &[u8]) -> u32 {
    let mut hash = crc32fast::Hasher::new();
    hash.update(&counter.to_le_bytes());
    hash.update(body);
    hash.finalize()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    fn document(path: &Path) -> Found {
        Slots::open(path).unwrap().1
    }

    #[test]
    fn the_newest_document_is_read_back_and_nothing_on_disk_grows_or_moves() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("slots");
        let (mut slots, found) = Slots::open(&path).unwrap();
        assert_eq!(found, Found::Empty);
        let before = fs::metadata(&path).unwrap();
        for i in 0..5u8 {
            slots.write(&[i; 100]).unwrap();
        }
        let after = fs::metadata(&path).unwrap();
        assert_eq!((before.ino(), before.len(), before.blocks()), (after.ino(), after.len(), after.blocks()));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert_eq!(document(&path), Found::Document(vec![4; 100]));
    }

    #[test]
    fn a_damaged_newest_slot_leaves_the_one_before_and_two_damaged_ones_say_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("slots");
        let (mut slots, _) = Slots::open(&path).unwrap();
        slots.write(b"first").unwrap();
        slots.write(b"second").unwrap();
        let mut bytes = fs::read(&path).unwrap();
        bytes[HEAD] ^= 1;
        fs::write(&path, &bytes).unwrap();
        assert_eq!(document(&path), Found::Document(b"first".to_vec()));
        bytes[SLOT + HEAD] ^= 1;
        fs::write(&path, &bytes).unwrap();
        assert_eq!(document(&path), Found::Damaged);
    }

    #[test]
    fn a_file_cut_short_is_read_as_far_as_it_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("slots");
        fs::write(&path, b"").unwrap();
        assert_eq!(document(&path), Found::Empty);
        fs::write(&path, b"{\"epoch\":1}").unwrap();
        assert_eq!(document(&path), Found::Damaged);
    }

    #[test]
    fn a_document_that_does_not_fit_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (mut slots, _) = Slots::open(&dir.path().join("slots")).unwrap();
        assert!(matches!(slots.write(&[0; BODY_MAX + 1]), Err(SpoolError::TooLarge(_))));
        slots.write(&[1; BODY_MAX]).unwrap();
    }
}
