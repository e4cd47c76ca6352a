//! The winners journal: append-only, synced before anything is credited; what the store is rebuilt from.
//!
//! Walk 2, step 2. A record is the four bytes `MWJ1`, the payload's length and the CRC-32 of length and
//! payload (four bytes each, big-endian), and the payload: one JSON object ([`Entry`]). A torn last record
//! was never acknowledged and is cut off; damage further up is skipped to the next record that checks.
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use livepeer::address::H256;
use livepeer::ticket::WinningTicket;
use serde::{Deserialize, Serialize};

use crate::error::LedgerError;
use crate::files;
use crate::group::GroupSync;
use crate::redemption::Redemption;
use crate::totals::Totals;

/// Name of the file in the ledger's directory.
pub const FILE: &str = "winners.journal";
const MAGIC: &[u8; 4] = b"MWJ1";
const HEADER: usize = 12;
/// Largest payload; a winner with its signed transaction takes about four kilobytes.
const MAX_PAYLOAD: usize = 256 * 1024;
/// Space kept allocated ahead, so that a full disk still takes the next hundreds of winners.
const RESERVE: u64 = 512 * 1024;

/// One line of the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Entry {
    /// A ticket won.
    Winner(WinningTicket),
    /// A redemption moved.
    Step {
        /// The ticket.
        ticket: H256,
        /// How many steps it has taken, this one included.
        step: u32,
        /// Where it stands now.
        state: Redemption,
    },
    /// The journal was rewritten: everything before is summed up in these totals and the `Kept` that follow.
    Checkpoint(Totals),
    /// A winner carried over by a rewrite.
    Kept(Winner),
}

/// A winner, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Winner {
    /// The ticket and the number that made it win.
    pub winner: WinningTicket,
    /// How many steps it has taken.
    pub step: u32,
    /// Where it stands.
    pub state: Redemption,
}

impl Winner {
    pub(crate) fn new(winner: WinningTicket) -> Self {
        Self { winner, step: 0, state: Redemption::NEW }
    }
}

/// What a journal says when read from start to end.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Replay {
    /// Totals, but for the tickets received since the last rewrite.
    pub totals: Totals,
    /// All winners since the last rewrite and those it carried over.
    pub winners: BTreeMap<H256, Winner>,
    /// Records or stretches of bytes that do not check, the torn end not counted.
    pub damaged: u32,
    /// Bytes up to the end of the last good record.
    pub good_bytes: u64,
    /// Bytes after it.
    pub torn_bytes: u64,
}

impl Replay {
    fn apply(&mut self, entry: Entry) {
        match entry {
            Entry::Winner(winner) => {
                let face_value = winner.ticket().face_value;
                if let std::collections::btree_map::Entry::Vacant(place) = self.winners.entry(winner.hash()) {
                    place.insert(Winner::new(winner));
                    self.totals.count_winner(face_value);
                }
            }
            Entry::Step { ticket, step, state } => match self.winners.get_mut(&ticket) {
                Some(known) if known.step < step => {
                    self.totals.count_step(&known.state, &state, known.winner.ticket().face_value);
                    known.step = step;
                    known.state = state;
                }
                Some(_) => {}
                None => self.damaged = self.damaged.saturating_add(1),
            },
            Entry::Checkpoint(totals) => {
                self.totals = totals;
                self.winners.clear();
            }
            Entry::Kept(kept) => {
                self.winners.insert(kept.winner.hash(), kept);
            }
        }
    }
}

/// Reads a journal's bytes.
#[must_use]
pub fn replay(bytes: &[u8]) -> Replay {
    let mut replay = Replay::default();
    let (mut at, mut gap) = (0usize, false);
    while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
        match read_record(rest) {
            Some((entry, length)) => {
                if std::mem::take(&mut gap) {
                    replay.damaged = replay.damaged.saturating_add(1);
                }
                match entry {
                    Some(entry) => replay.apply(entry),
                    None => replay.damaged = replay.damaged.saturating_add(1),
                }
                at = at.saturating_add(length);
                replay.good_bytes = u64::try_from(at).unwrap_or(u64::MAX);
            }
            None => {
                gap = true;
                let next = rest.get(1..).and_then(|rest| rest.windows(MAGIC.len()).position(|window| window == MAGIC));
                at = next.map_or(bytes.len(), |skip| at.saturating_add(skip).saturating_add(1));
            }
        }
    }
    replay.torn_bytes = u64::try_from(bytes.len()).unwrap_or(u64::MAX).saturating_sub(replay.good_bytes);
    replay
}

/// The record at the start of some bytes and its length; the entry is `None` when the record is whole but
/// makes no sense (a newer version, or a winner that does not win).
fn read_record(bytes: &[u8]) -> Option<(Option<Entry>, usize)> {
    let (header, rest) = bytes.split_at_checked(HEADER)?;
    let number = |at: std::ops::Range<usize>| Some(u32::from_be_bytes(header.get(at)?.try_into().ok()?));
    let length = usize::try_from(number(4..8)?).ok()?;
    if header.get(..4)? != MAGIC || length > MAX_PAYLOAD {
        return None;
    }
    let payload = rest.get(..length)?;
    if checksum(header.get(4..8)?, payload) != number(8..12)? {
        return None;
    }
    Some((serde_json::from_slice(payload).ok(), HEADER.saturating_add(length)))
}

fn checksum(length: &[u8], payload: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(length);
    crc.update(payload);
    crc.finalize()
}

fn encode(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in entries {
        let payload = serde_json::to_vec(entry).expect("entries are plain data");
        let length = u32::try_from(payload.len()).expect("entries are small").to_be_bytes();
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&length);
        bytes.extend_from_slice(&checksum(&length, &payload).to_be_bytes());
        bytes.extend_from_slice(&payload);
    }
    bytes
}

/// The journal, open for appending. Positions keep growing when a rewrite makes the file shorter.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: RwLock<File>,
    tail: Mutex<Tail>,
    appended: AtomicU64,
    group: GroupSync,
}

#[derive(Debug)]
struct Tail {
    /// Length of the file.
    length: u64,
    /// How far space is allocated.
    reserved: u64,
    /// Position of the file's first byte.
    base: u64,
    /// Length after the last rewrite.
    rewritten: u64,
}

impl Journal {
    /// Opens or makes the journal and reads it; a torn end is cut off, a damaged file is kept aside.
    pub(crate) fn open(dir: &Path) -> Result<(Self, Replay), LedgerError> {
        let path = dir.join(FILE);
        let fault = || LedgerError::io(&path);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(fault())?;
        let bytes = std::fs::read(&path).map_err(fault())?;
        let replay = replay(&bytes);
        if replay.damaged > 0 {
            let kept = files::aside(&path, "damaged");
            std::fs::copy(&path, &kept).map_err(LedgerError::io(&kept))?;
            tracing::error!(
                damaged = replay.damaged,
                kept = %kept.display(),
                "winners journal is damaged: the rest is used, keep the copy and check the disk"
            );
        }
        if replay.torn_bytes > 0 {
            tracing::warn!(bytes = replay.torn_bytes, "torn end of the winners journal was cut off");
            file.set_len(replay.good_bytes).map_err(fault())?;
        }
        file.sync_all().map_err(fault())?;
        files::sync_dir(dir)?;
        let length = replay.good_bytes;
        let journal = Self {
            path,
            file: RwLock::new(file),
            tail: Mutex::new(Tail { length, reserved: length, base: 0, rewritten: 0 }),
            appended: AtomicU64::new(length),
            group: GroupSync::default(),
        };
        Ok((journal, replay))
    }

    /// Replaces the file by a summary of itself, durably. Nothing that is not in the summary may be on its way
    /// from here to the store meanwhile.
    pub(crate) fn rewrite(&self, totals: Totals, winners: impl Iterator<Item = Winner>) -> Result<(), LedgerError> {
        let bytes = encode(&summary(totals, winners));
        let mut tail = self.lock_tail();
        let mut file = self.file.write().unwrap_or_else(PoisonError::into_inner);
        files::replace(parent(&self.path), FILE, &bytes)?;
        *file = OpenOptions::new().read(true).write(true).open(&self.path).map_err(LedgerError::io(&self.path))?;
        let (end, length) = (tail.base.saturating_add(tail.length), u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        let end = end.max(length);
        *tail = Tail { length, reserved: length, base: end.saturating_sub(length), rewritten: length };
        self.appended.store(end, Ordering::Release);
        Ok(())
    }

    /// Is it longer than this, and has it at least doubled since it was last rewritten?
    pub(crate) fn is_longer_than(&self, bytes: u64) -> bool {
        let tail = self.lock_tail();
        tail.length > bytes && tail.length > tail.rewritten.saturating_mul(2)
    }

    fn lock_tail(&self) -> MutexGuard<'_, Tail> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_file(&self) -> RwLockReadGuard<'_, File> {
        self.file.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes entries at the end and returns the position to sync to. After an error nothing was added.
    pub(crate) fn append(&self, entries: &[Entry]) -> Result<u64, LedgerError> {
        let bytes = encode(entries);
        let mut tail = self.lock_tail();
        let file = self.read_file();
        let end = tail.length.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        if let Err(error) = file.write_all_at(&bytes, tail.length) {
            // Half a record would be cut off at the next open anyway; leaving none keeps the end clean.
            let cut = file.set_len(tail.length);
            return Err(LedgerError::io(&self.path)(cut.err().unwrap_or(error)));
        }
        tail.length = end;
        if end.saturating_add(RESERVE / 2) > tail.reserved {
            tail.reserved = reserve(&file, end);
        }
        let position = tail.base.saturating_add(end);
        self.appended.store(position, Ordering::Release);
        Ok(position)
    }

    /// Returns once everything up to `position` survives a power cut.
    pub(crate) fn sync_to(&self, position: u64) -> Result<(), LedgerError> {
        let sync = || self.read_file().sync_data().map_err(LedgerError::io(&self.path));
        self.group.sync_to(position, || self.appended.load(Ordering::Acquire), sync)
    }

    /// The position after the last entry.
    pub(crate) fn end(&self) -> u64 {
        self.appended.load(Ordering::Acquire)
    }
}

/// Allocates space after `end`; how far it reaches. Not every file system can, and none must.
fn reserve(file: &File, end: u64) -> u64 {
    use nix::fcntl::{FallocateFlags, fallocate};
    let (Ok(from), Ok(length)) = (i64::try_from(end), i64::try_from(RESERVE)) else { return end };
    if let Err(error) = fallocate(file, FallocateFlags::FALLOC_FL_KEEP_SIZE, from, length) {
        tracing::debug!(%error, "no space reserved for the winners journal");
    }
    end.saturating_add(RESERVE)
}

fn summary(totals: Totals, winners: impl Iterator<Item = Winner>) -> Vec<Entry> {
    let mut entries = vec![Entry::Checkpoint(totals)];
    entries.extend(winners.map(Entry::Kept));
    entries
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Copies what a ledger holds into a journal elsewhere: put in place of [`FILE`], it restores the winners.
pub(crate) fn export(path: &Path, totals: Totals, winners: impl Iterator<Item = Winner>) -> Result<u64, LedgerError> {
    let entries = summary(totals, winners);
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or(FILE);
    files::replace(parent(path), name, &encode(&entries))?;
    Ok(u64::try_from(entries.len()).unwrap_or(u64::MAX).saturating_sub(1))
}

#[cfg(test)]
mod tests;
