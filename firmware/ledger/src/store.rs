//! What is in sled: keys, records, checksums. The only `use sled`.
//!
//! One tree, so that one batch is one atomic change. A key is a letter and the rest:
//!
//! | Key | Record |
//! |---|---|
//! | `a` sender, keccak of the id | an account: credit, debit, last use |
//! | `n` expiration block, recipientRandHash | the nonces seen of one offer |
//! | `r` ticket hash | a winner and where it stands (JSON) |
//! | `m` name | `schema`, `totals`, `head`, `errand` |
//!
//! A record is a format byte, the payload and the CRC-32 of key, format byte and payload; it is checked at
//! every read. sled's own flush survives a killed process, not a power cut: [`Store::sync_to`] also syncs
//! its file (see the decision record on durability).
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use crate::error::LedgerError;
use crate::files;
use crate::group::GroupSync;

/// Name of sled's directory in the ledger's.
pub(crate) const DIR: &str = "sled";
/// Schema of keys and records.
pub(crate) const SCHEMA: u32 = 1;
const FORMAT: u8 = 1;
/// How often, and how far apart, a store is tried whose last handle was only just dropped: two seconds in all.
const LOCK_TRIES: u32 = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(20);
const CRC_BYTES: usize = 4;

/// A kind of record: the first byte of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Account = b'a',
    Nonces = b'n',
    Redemption = b'r',
    Meta = b'm',
}

impl Kind {
    pub(crate) fn key(self, rest: &[u8]) -> Vec<u8> {
        [&[self as u8], rest].concat()
    }
}

/// Changes that happen together or not at all.
#[derive(Debug, Default)]
pub(crate) struct Changes(sled::Batch);

impl Changes {
    pub(crate) fn put(&mut self, kind: Kind, rest: &[u8], payload: &[u8]) {
        let key = kind.key(rest);
        let mut value = Vec::with_capacity(payload.len().saturating_add(5));
        value.push(FORMAT);
        value.extend_from_slice(payload);
        value.extend_from_slice(&checksum(&key, &value).to_be_bytes());
        self.0.insert(key, value);
    }

    pub(crate) fn remove(&mut self, kind: Kind, rest: &[u8]) {
        self.0.remove(kind.key(rest));
    }
}

fn checksum(key: &[u8], value: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(key);
    crc.update(value);
    crc.finalize()
}

/// The payload of a stored value.
fn payload<'a>(key: &[u8], value: &'a [u8]) -> Result<&'a [u8], LedgerError> {
    let read = || {
        let (body, crc) = value.split_at_checked(value.len().checked_sub(CRC_BYTES)?)?;
        let right = checksum(key, body) == u32::from_be_bytes(crc.try_into().ok()?);
        body.split_first().filter(|(format, _)| right && **format == FORMAT).map(|(_, payload)| payload)
    };
    read().ok_or_else(|| LedgerError::Corrupt { key: hex::encode(key) })
}

/// Every record of a store as it was found at opening, without the kind's letter.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    pub(crate) records: Vec<(u8, Vec<u8>, Vec<u8>)>,
    pub(crate) digest: u32,
}

impl Contents {
    pub(crate) fn of(&self, kind: Kind) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.records.iter().filter(move |r| r.0 == kind as u8).map(|(_, key, payload)| (&key[..], &payload[..]))
    }
}

/// How an attempt to open ended.
pub(crate) enum Opened {
    Good(Store, Contents),
    /// Damaged beyond sled's own repair, with its words.
    Damaged(String),
}

/// sled's handle. Dropping one flushes, and sled panics when that fails; by then the ledger has failed with a
/// clear error already, which the panic must not replace.
#[derive(Debug)]
struct Handle(Option<sled::Db>);

impl std::ops::Deref for Handle {
    type Target = sled::Db;

    fn deref(&self) -> &sled::Db {
        self.0.as_ref().expect("the handle is taken out only when it is dropped")
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let db = std::panic::AssertUnwindSafe(self.0.take());
        if std::panic::catch_unwind(|| drop(db)).is_err() {
            tracing::error!("the store could not be flushed at its end: the last unsynced changes may be lost");
        }
    }
}

/// sled, open.
#[derive(Debug)]
pub(crate) struct Store {
    db: Handle,
    path: PathBuf,
    file: File,
    commits: AtomicU64,
    group: GroupSync,
}

/// Opens the store as soon as sled lets it: its own lock outlives the handle by a moment. Another process cannot hold
/// it, since the ledger's lock is ours by now.
fn open_free(config: &sled::Config) -> sled::Result<sled::Db> {
    for _ in 0..LOCK_TRIES {
        match config.open() {
            Err(sled::Error::Io(error)) if error.to_string().contains("acquire lock") => {
                std::thread::sleep(LOCK_PAUSE);
            }
            other => return other,
        }
    }
    config.open()
}

impl Store {
    /// Opens or makes the store, checks every record in it, and makes its file names durable.
    ///
    /// sled may panic or hang on damaged files, so that happens on a thread of its own, under a deadline.
    pub(crate) fn open(dir: &Path, cache_bytes: u64, deadline: Duration) -> Result<Opened, LedgerError> {
        let path = dir.join(DIR);
        files::make_dir(&path)?;
        remove_half_written_snapshots(&path)?;
        let (answer, result) = mpsc::sync_channel(1);
        let at = path.clone();
        let opener = std::thread::Builder::new().name("ledger-open".into()).spawn(move || {
            let config = sled::Config::new().path(&at).cache_capacity(cache_bytes).flush_every_ms(Some(500));
            let opened = open_free(&config)
                .map_err(Fault::from)
                .map(|db| Handle(Some(db)))
                .and_then(|db| read_all(&db).map(|contents| (db, contents)));
            // The receiver is gone only after its deadline, and then nobody wants the answer.
            let _late = answer.send(opened);
        });
        let opener = opener.map_err(LedgerError::io(&path))?;
        let opened = match result.recv_timeout(deadline) {
            Ok(opened) => opened,
            Err(mpsc::RecvTimeoutError::Timeout) => return Err(LedgerError::OpenTimeout { path }),
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                let panic = opener.join().err();
                let words = panic.and_then(|p| p.downcast::<String>().ok()).map_or_else(String::new, |p| *p);
                // A panic over an error of the disk says nothing about what is on it.
                if words.contains("Os { code") {
                    return Err(LedgerError::Store(words.into()));
                }
                Err(Fault::Damaged(format!("sled panicked: {words}")))
            }
        };
        let (db, contents) = match opened {
            Ok(opened) => opened,
            Err(Fault::Damaged(words)) => return Ok(Opened::Damaged(words)),
            Err(Fault::Io(source)) => return Err(LedgerError::io(&path)(source)),
        };
        let data = path.join("db");
        let file = File::open(&data).map_err(LedgerError::io(&data))?;
        let store = Self { db, path, file, commits: AtomicU64::new(1), group: GroupSync::default() };
        store.sync_names(dir)?;
        Ok(Opened::Good(store, contents))
    }

    /// Makes a fresh store's files durable: contents, names, and the names of the directories.
    fn sync_names(&self, dir: &Path) -> Result<(), LedgerError> {
        self.sync()?;
        for entry in std::fs::read_dir(&self.path).map_err(LedgerError::io(&self.path))? {
            let path = entry.map_err(LedgerError::io(&self.path))?.path();
            match File::open(&path).and_then(|file| file.sync_all()) {
                // sled removes old snapshots in the background.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                result => result.map_err(LedgerError::io(&path))?,
            }
        }
        files::sync_dir(&self.path)?;
        files::sync_dir(dir)
    }

    pub(crate) fn get(&self, kind: Kind, rest: &[u8]) -> Result<Option<Vec<u8>>, LedgerError> {
        let key = kind.key(rest);
        let value = self.db.get(&key).map_err(|error| self.fault(error))?;
        value.map(|value| payload(&key, &value).map(<[u8]>::to_vec)).transpose()
    }

    /// All records of a kind whose key, without the letter, is in a range.
    pub(crate) fn scan(
        &self,
        kind: Kind,
        below: Option<&[u8]>,
    ) -> impl Iterator<Item = Result<(Vec<u8>, Vec<u8>), LedgerError>> {
        let end = below.map_or_else(|| vec![(kind as u8).saturating_add(1)], |below| kind.key(below));
        self.db.range(vec![kind as u8]..end).map(|record| {
            let (key, value) = record.map_err(|error| self.fault(error))?;
            let payload = payload(&key, &value)?.to_vec();
            Ok((key.get(1..).unwrap_or_default().to_vec(), payload))
        })
    }

    /// Applies changes atomically; the number to sync to when they must be durable.
    pub(crate) fn apply(&self, changes: Changes) -> Result<u64, LedgerError> {
        self.db.apply_batch(changes.0).map_err(|error| self.fault(error))?;
        Ok(self.commits.fetch_add(1, Ordering::AcqRel).saturating_add(1))
    }

    /// Returns once everything up to a commit survives a power cut.
    pub(crate) fn sync_to(&self, commit: u64) -> Result<(), LedgerError> {
        self.group.sync_to(commit, || self.commits.load(Ordering::Acquire), || self.sync())
    }

    pub(crate) fn last_commit(&self) -> u64 {
        self.commits.load(Ordering::Acquire)
    }

    fn sync(&self) -> Result<(), LedgerError> {
        self.db.flush().map_err(|error| self.fault(error))?;
        self.file.sync_data().map_err(LedgerError::io(&self.path))
    }

    /// A digest of all records.
    pub(crate) fn digest(&self) -> Result<u32, LedgerError> {
        match read_all(&self.db) {
            Ok(contents) => Ok(contents.digest),
            Err(Fault::Io(source)) => Err(LedgerError::io(&self.path)(source)),
            Err(Fault::Damaged(words)) => Err(LedgerError::Store(words.into())),
        }
    }

    fn fault(&self, error: sled::Error) -> LedgerError {
        match error {
            sled::Error::Io(source) => LedgerError::io(&self.path)(source),
            other => LedgerError::Store(Box::new(other)),
        }
    }
}

enum Fault {
    Damaged(String),
    Io(std::io::Error),
}

impl From<sled::Error> for Fault {
    fn from(error: sled::Error) -> Self {
        use std::io::ErrorKind;
        match error {
            sled::Error::Io(source) if !matches!(source.kind(), ErrorKind::UnexpectedEof | ErrorKind::InvalidData) => {
                Self::Io(source)
            }
            other => Self::Damaged(other.to_string()),
        }
    }
}

fn read_all(db: &sled::Db) -> Result<Contents, Fault> {
    let (mut records, mut digest) = (Vec::new(), crc32fast::Hasher::new());
    for record in db.iter() {
        let (key, value) = record?;
        let payload = payload(&key, &value).map_err(|error| Fault::Damaged(error.to_string()))?;
        // The checksum at the end of the value covers key and payload.
        digest.update(&value);
        let (kind, rest) = key.split_first().ok_or_else(|| Fault::Damaged("a record without a key".into()))?;
        records.push((*kind, rest.to_vec(), payload.to_vec()));
    }
    Ok(Contents { records, digest: digest.finalize() })
}

/// A snapshot that was being written when the power went keeps sled from opening, and is of no use.
fn remove_half_written_snapshots(path: &Path) -> Result<(), LedgerError> {
    for entry in std::fs::read_dir(path).map_err(LedgerError::io(path))? {
        let entry = entry.map_err(LedgerError::io(path))?;
        if entry.file_name().to_string_lossy().ends_with(".generating") {
            std::fs::remove_file(entry.path()).map_err(LedgerError::io(&entry.path()))?;
        }
    }
    Ok(())
}
