//! One file of the spool: a magic, then records `len u32 · crc32 u32 · q u64 · tag u8 · body`, little-endian; the
//! checksum covers `q`, tag and body.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::{SpoolError, sync_parent};

/// First bytes of every segment; the digit is the format's version.
pub(crate) const MAGIC: &[u8; 8] = b"MRSPOOL1";
/// Bytes in front of a record's body.
pub(crate) const HEAD: usize = 17;
/// Largest body: a message to the broker, less its envelope.
pub(crate) const BODY_MAX: usize = 30 * 1024;

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    /// Sequence, unique and increasing inside class and epoch.
    pub(crate) q: u64,
    /// What the class's full-rule and drain order look at: the severity of an event, 0 otherwise.
    pub(crate) tag: u8,
    /// JSON.
    pub(crate) body: Vec<u8>,
}

impl Record {
    /// Bytes on disk.
    pub(crate) fn size(&self) -> u64 {
        u64::try_from(HEAD + self.body.len()).unwrap_or(u64::MAX)
    }

    fn encode(&self) -> Vec<u8> {
        let mut checked = Vec::with_capacity(9 + self.body.len());
        checked.extend_from_slice(&self.q.to_le_bytes());
        checked.push(self.tag);
        checked.extend_from_slice(&self.body);
        let mut bytes = Vec::with_capacity(HEAD + self.body.len());
        bytes.extend_from_slice(&u32::try_from(self.body.len()).unwrap_or(u32::MAX).to_le_bytes());
        bytes.extend_from_slice(&crc32fast::hash(&checked).to_le_bytes());
        bytes.extend_from_slice(&checked);
        bytes
    }
}

/// What a segment's file holds.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// Every readable record, also those behind a damaged one.
    pub(crate) records: Vec<Record>,
    /// Length of the part before the first fault, bytes; 0 when not even the magic is whole.
    pub(crate) valid: u64,
    /// Bytes of a last write that never completed; never handed out, so nothing is lost.
    pub(crate) torn: u64,
    /// First and last sequence that was here and cannot be read: bits have changed.
    pub(crate) lost: Option<(u64, u64)>,
    /// No record of this file, readable or not, had a larger sequence.
    pub(crate) last_possible: u64,
}

/// Read all records of a segment's bytes; sequences increase and start at `first` or later.
pub(crate) fn scan(bytes: &[u8], first: u64) -> Scan {
    let mut found = Scan { last_possible: first.saturating_sub(1), ..Scan::default() };
    let mut at = MAGIC.len();
    let mut whole = bytes.starts_with(MAGIC);
    if whole {
        found.valid = length(at);
    }
    loop {
        let least = found.records.last().map_or(first, |last| last.q + 1);
        let rest = bytes.get(at..).unwrap_or_default();
        if whole && rest.is_empty() {
            return found;
        }
        if whole && let Some(record) = read_at(rest, least) {
            at += HEAD + record.body.len();
            if found.lost.is_none() {
                found.valid = length(at);
            }
            found.last_possible = record.q;
            found.records.push(record);
            continue;
        }
        // A fault: is there anything behind it? If not, it may be a write that the power cut interrupted.
        let from = if whole { at + 1 } else { 0 };
        match (from..bytes.len()).find(|at| read_at(bytes.get(*at..).unwrap_or_default(), least).is_some()) {
            Some(next) => {
                let q = read_at(bytes.get(next..).unwrap_or_default(), least).map_or(least, |record| record.q);
                found.lost = Some((found.lost.map_or(least, |(from, _)| from), q.saturating_sub(1).max(least)));
                at = next;
                whole = true;
            }
            None => {
                found.last_possible = least + length(rest.len() / HEAD);
                if is_interrupted(bytes, at) {
                    found.torn = length(bytes.len()).saturating_sub(found.valid);
                } else {
                    found.lost = Some((found.lost.map_or(least, |(from, _)| from), least));
                }
                return found;
            }
        }
    }
}

/// The record at the start of `bytes`, if a whole and sound one with a plausible sequence stands there.
fn read_at(bytes: &[u8], least: u64) -> Option<Record> {
    let (head, after) = bytes.split_first_chunk::<HEAD>()?;
    let [l0, l1, l2, l3, c0, c1, c2, c3, checked @ ..] = head;
    let [q @ .., tag] = checked;
    let q = u64::from_le_bytes(*q);
    let len = usize::try_from(u32::from_le_bytes([*l0, *l1, *l2, *l3])).ok()?;
    // Sequences inside one file lie close together; this also keeps the search behind a fault cheap.
    if len > BODY_MAX || !(least..least.saturating_add(1 << 20)).contains(&q) {
        return None;
    }
    let body = after.get(..len)?;
    let mut hash = crc32fast::Hasher::new();
    hash.update(checked);
    hash.update(body);
    (hash.finalize() == u32::from_le_bytes([*c0, *c1, *c2, *c3])).then(|| Record { q, tag: *tag, body: body.to_vec() })
}

/// Whether the bytes from `at` on look like a write that never completed: too short, or zeros.
fn is_interrupted(bytes: &[u8], at: usize) -> bool {
    let rest = bytes.get(at..).unwrap_or_default();
    if bytes.len() < MAGIC.len() || bytes.iter().all(|b| *b == 0) {
        return true;
    }
    if !bytes.starts_with(MAGIC) {
        return false;
    }
    let Some((len, _)) = rest.split_first_chunk::<4>() else { return true };
    let len = usize::try_from(u32::from_le_bytes(*len)).unwrap_or(usize::MAX);
    rest.iter().all(|b| *b == 0) || (len <= BODY_MAX && rest.len() < HEAD + len)
}

fn length(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

/// Write a whole segment beside its place and move it there; durable on return.
pub(crate) fn rewrite(path: &Path, records: &[Record]) -> Result<u64, SpoolError> {
    let mut bytes = MAGIC.to_vec();
    for record in records {
        bytes.extend_from_slice(&record.encode());
    }
    super::replace_file(path, &bytes)?;
    Ok(u64::try_from(bytes.len()).unwrap_or(u64::MAX))
}

/// The segment that is being written.
#[derive(Debug)]
pub(crate) struct Writer {
    path: PathBuf,
    file: File,
    len: u64,
}

impl Writer {
    /// Create a segment; its name is durable on return.
    pub(crate) fn create(path: &Path) -> Result<Self, SpoolError> {
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(SpoolError::io(path))?;
        if let Err(source) = file.write_all(MAGIC).and_then(|()| file.sync_all()) {
            // An empty name must not stay behind: it would stand in the way of the next attempt.
            let _ = fs::remove_file(path);
            return Err(SpoolError::Io { path: path.to_owned(), source });
        }
        sync_parent(path)?;
        Ok(Self { path: path.to_owned(), file, len: u64::try_from(MAGIC.len()).unwrap_or(8) })
    }

    /// Continue a segment whose valid part is `len` bytes; what follows is cut off.
    pub(crate) fn resume(path: &Path, len: u64) -> Result<Self, SpoolError> {
        let mut file = OpenOptions::new().write(true).open(path).map_err(SpoolError::io(path))?;
        let fix = |file: &mut File| -> io::Result<()> {
            use io::Seek as _;
            file.set_len(len)?;
            file.seek(io::SeekFrom::Start(len))?;
            file.sync_all()
        };
        fix(&mut file).map_err(SpoolError::io(path))?;
        Ok(Self { path: path.to_owned(), file, len })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Append one record. On failure the file is as before, or the writer is unusable and says so by failing again.
    pub(crate) fn append(&mut self, record: &Record) -> Result<(), SpoolError> {
        use io::Seek as _;
        match self.file.write_all(&record.encode()) {
            Ok(()) => {
                self.len += record.size();
                Ok(())
            }
            Err(source) => {
                let undo = self.file.set_len(self.len).and_then(|()| self.file.seek(io::SeekFrom::Start(self.len)));
                if let Err(error) = undo {
                    tracing::error!(%error, "spool segment could not be cut back after a short write");
                }
                Err(SpoolError::Io { path: self.path.clone(), source })
            }
        }
    }

    /// Make everything appended durable.
    pub(crate) fn sync(&self) -> Result<(), SpoolError> {
        self.file.sync_data().map_err(SpoolError::io(&self.path))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn records(n: u64) -> Vec<Record> {
        (1..=n).map(|q| Record { q, tag: 0, body: format!("{{\"n\":{q}}}").into_bytes() }).collect()
    }

    fn bytes(records: &[Record]) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for record in records {
            bytes.extend_from_slice(&record.encode());
        }
        bytes
    }

    #[test]
    fn a_segment_reads_back_what_was_written() {
        let all = records(5);
        let found = scan(&bytes(&all), 1);
        assert_eq!((found.records, found.torn, found.lost, found.last_possible), (all, 0, None, 5));
    }

    #[test]
    fn every_cut_leaves_the_whole_records_and_a_torn_tail() {
        let all = records(3);
        let full = bytes(&all);
        for cut in 0..full.len() {
            let found = scan(&full[..cut], 1);
            assert!(found.records.len() < 3);
            assert_eq!(found.records, all[..found.records.len()]);
            assert_eq!(found.lost, None, "cut at {cut}");
            assert_eq!(found.valid + found.torn, cut as u64);
        }
    }

    #[test]
    fn zeros_after_the_last_record_are_a_write_that_never_completed() {
        let mut full = bytes(&records(2));
        full.extend_from_slice(&[0; 64]);
        let found = scan(&full, 1);
        assert_eq!((found.records.len(), found.torn, found.lost), (2, 64, None));
        assert!(found.last_possible >= 3);
    }

    #[test]
    fn records_behind_a_damaged_one_are_saved() {
        let all = records(6);
        let mut damaged = bytes(&all);
        damaged[MAGIC.len() + 2 * (HEAD + 7) + 1] ^= 0xff;
        let found = scan(&damaged, 1);
        assert_eq!(found.records.iter().map(|record| record.q).collect::<Vec<_>>(), [1, 2, 4, 5, 6]);
        assert_eq!((found.lost, found.torn, found.last_possible), (Some((3, 3)), 0, 6));
    }

    #[test]
    fn a_sequence_that_goes_back_is_not_taken() {
        let mut all = records(2);
        all[1].q = 1;
        let found = scan(&bytes(&all), 1);
        assert_eq!((found.records.len(), found.lost), (1, Some((2, 2))));
    }

    proptest! {
        #[test]
        fn a_flipped_bit_never_yields_a_wrong_record_and_never_hides_a_sequence(at in 0usize..200, bit in 0u8..8) {
            let all = records(6);
            let mut damaged = bytes(&all);
            let at = at % damaged.len();
            damaged[at] ^= 1 << bit;
            let found = scan(&damaged, 1);
            prop_assert!(found.records.iter().all(|record| all.contains(record)));
            prop_assert!(found.records.len() >= 5);
            prop_assert!(found.last_possible >= 6);
        }

        #[test]
        fn no_bytes_make_scan_panic(mut junk in proptest::collection::vec(any::<u8>(), 0..400), magic in any::<bool>()) {
            if magic { junk.splice(0..0, MAGIC.iter().copied()); }
            let _ = scan(&junk, 1);
        }
    }
}
