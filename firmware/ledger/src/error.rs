//! Why the ledger cannot do what it is asked, and the memory of it.
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use livepeer::address::H256;

use crate::redemption::OutOfOrder;

/// Why the ledger refuses or breaks.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// Another process has it open.
    #[error("already running: another process has the ledger in {dir} open")]
    AlreadyRunning {
        /// The ledger's directory.
        dir: PathBuf,
    },
    /// A file cannot be used.
    #[error("ledger file {path} cannot be used")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The disk is full.
    #[error("disk full: the ledger cannot write {path}; nothing was acknowledged, make room and restart")]
    DiskFull {
        /// The file.
        path: PathBuf,
    },
    /// The store broke.
    #[error("ledger store cannot be used")]
    Store(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The store took too long to open.
    #[error("ledger store in {path} did not open in time: restart, and if that does not help, rebuild it")]
    OpenTimeout {
        /// The store's directory.
        path: PathBuf,
    },
    /// A record does not check.
    #[error("ledger record {key} is damaged")]
    Corrupt {
        /// The record's key, in hex.
        key: String,
    },
    /// Written by a newer version of the program.
    #[error("ledger has schema {found}, this program knows up to {known}: install the newer version again")]
    NewerSchema {
        /// What it has.
        found: u32,
        /// What we know.
        known: u32,
    },
    /// An earlier error made it read-only.
    #[error("ledger is read-only since an earlier error ({reason}): nothing is accepted until a restart")]
    ReadOnly {
        /// The earlier error.
        reason: String,
    },
    /// It was closed.
    #[error("ledger is closed")]
    Closed,
    /// No such winner.
    #[error("no winner {0:?} in the ledger")]
    UnknownTicket(H256),
    /// The redemption is not in a state for this.
    #[error(transparent)]
    OutOfOrder(#[from] OutOfOrder),
    /// Another unconfirmed redemption has this account nonce.
    #[error("account nonce {account_nonce} belongs to the unconfirmed redemption of {holder:?}")]
    AccountNonceTaken {
        /// The account nonce.
        account_nonce: u64,
        /// The ticket whose redemption has it.
        holder: H256,
    },
    /// Another errand is under way.
    #[error("another errand is under way")]
    ErrandUnderWay,
    /// The hash is not that of the signed bytes.
    #[error("transaction hash does not belong to the signed bytes")]
    WrongTransactionHash,
    /// An amount does not fit.
    #[error("amount does not fit")]
    Overflow,
}

impl LedgerError {
    /// Is this the disk, so that only a restart can help? Then the ledger is read-only from now on.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        matches!(
            self,
            Self::Io { .. } | Self::DiskFull { .. } | Self::Store(_) | Self::Corrupt { .. } | Self::ReadOnly { .. }
        )
    }

    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                Self::DiskFull { path }
            }
            _ => Self::Io { path, source },
        }
    }
}

/// The first error that broke the ledger; sticky, because a sync that failed once proves nothing later.
#[derive(Debug, Default)]
pub(crate) struct Health(OnceLock<String>);

impl Health {
    pub(crate) fn check(&self) -> Result<(), LedgerError> {
        match self.0.get() {
            Some(reason) => Err(LedgerError::ReadOnly { reason: reason.clone() }),
            None => Ok(()),
        }
    }

    pub(crate) fn failure(&self) -> Option<&str> {
        self.0.get().map(String::as_str)
    }

    /// Passes a result on; a broken disk is remembered.
    pub(crate) fn note<T>(&self, result: Result<T, LedgerError>) -> Result<T, LedgerError> {
        if let Err(error) = &result
            && error.is_broken()
        {
            let text = describe(error);
            if self.0.set(text.clone()).is_ok() {
                tracing::error!(reason = text, "ledger became read-only: check the disk, then restart the node");
            }
        }
        result
    }
}

fn describe(error: &LedgerError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
