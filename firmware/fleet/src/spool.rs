//! The only truth about what has not reached the controller: append-only files, one directory per durable class.
//!
//! ```text
//!   append ──► segment (fsync per class) ──► published, any number of times ──► acknowledged ──► deleted
//!                                                     ▲        │
//!                                                     └────────┘ a PUBACK never deletes anything
//! ```
//!
//! A record's sequence `q` is never used twice inside one epoch. A torn tail (the write that a power cut interrupted,
//! never handed out) is cut off silently; a record whose checksum fails is moved to quarantine and reported as lost.

pub(crate) mod class;
pub(crate) mod segment;
pub(crate) mod slots;
mod thin;

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use fleet_protocol::payload::Durable;

pub(crate) use class::{ClassSpool, Opened, Policy, WhenFull};
pub(crate) use segment::Record;

/// Why the spool refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpoolError {
    /// The operating system refused.
    #[error("spool file {path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What it said.
        #[source]
        source: io::Error,
    },
    /// The class is full and its rule forbids dropping anything for this record.
    #[error("spool class {0} is full")]
    Full(&'static str),
    /// A record larger than a message may be.
    #[error("record of {0} bytes is too large for the spool")]
    TooLarge(usize),
}

impl SpoolError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::Io { path: path.to_owned(), source }
    }
}

/// The three durable classes, opened together.
#[derive(Debug)]
pub(crate) struct Spool {
    classes: [ClassSpool; 3],
}

/// Bytes each class may hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caps {
    pub(crate) ledger: u64,
    pub(crate) events: u64,
    pub(crate) earnings: u64,
}

/// Acknowledged ledger records stay on disk this long: a forged acknowledgement may not erase the only copy.
const LEDGER_KEPT: Duration = Duration::from_secs(90 * 24 * 3600);
/// Earnings are cumulative: unsynced records cost nothing, so flash is spared while nobody listens.
const EARNINGS_SYNC: Duration = Duration::from_secs(60);

impl Spool {
    /// Open or create the spool under `dir`; one finding per class, in the order of [`Durable::ALL`].
    pub(crate) fn open(dir: &Path, caps: Caps) -> Result<(Self, Vec<(Durable, Opened)>), SpoolError> {
        let policy = |class| match class {
            Durable::Ledger => Policy {
                cap: caps.ledger,
                sync_after: None,
                when_full: WhenFull::Refuse,
                keep_acked: Some(LEDGER_KEPT),
            },
            Durable::Events => {
                Policy { cap: caps.events, sync_after: None, when_full: WhenFull::Coalesce, keep_acked: None }
            }
            Durable::Earnings => Policy {
                cap: caps.earnings,
                sync_after: Some(EARNINGS_SYNC),
                when_full: WhenFull::Thin,
                keep_acked: None,
            },
        };
        let mut findings = Vec::new();
        let mut open = |class: Durable| -> Result<ClassSpool, SpoolError> {
            let (spool, opened) = ClassSpool::open(&dir.join(class.letter()), class.letter(), policy(class))?;
            findings.push((class, opened));
            Ok(spool)
        };
        let classes = [open(Durable::Ledger)?, open(Durable::Events)?, open(Durable::Earnings)?];
        Ok((Self { classes }, findings))
    }

    pub(crate) fn class(&mut self, class: Durable) -> &mut ClassSpool {
        let [ledger, events, earnings] = &mut self.classes;
        match class {
            Durable::Ledger => ledger,
            Durable::Events => events,
            Durable::Earnings => earnings,
        }
    }

    /// Fill of the fullest class, percent.
    pub(crate) fn fill_percent(&self) -> u64 {
        self.classes.iter().map(ClassSpool::fill_percent).max().unwrap_or(0)
    }

    /// Fill of the ledger class, percent.
    pub(crate) fn ledger_fill_percent(&self) -> u64 {
        let [ledger, ..] = &self.classes;
        ledger.fill_percent()
    }
}

/// Create a private directory and its parents.
pub(crate) fn make_dir(dir: &Path) -> Result<(), SpoolError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(SpoolError::io(dir))
}

/// Replace a small file so that after a crash either the old or the new content is there; durable on return.
pub(crate) fn replace_file(path: &Path, content: &[u8]) -> Result<(), SpoolError> {
    let fresh = path.with_extension("new");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&fresh)
        .map_err(SpoolError::io(&fresh))?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(SpoolError::io(&fresh))?;
    fs::rename(&fresh, path).map_err(SpoolError::io(path))?;
    sync_parent(path)
}

/// Make a created, renamed or deleted name durable.
pub(crate) fn sync_parent(path: &Path) -> Result<(), SpoolError> {
    let Some(dir) = path.parent() else { return Ok(()) };
    fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(SpoolError::io(dir))
}
