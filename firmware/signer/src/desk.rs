//! The desk: one request in, one answer out. The only place where the key is used.
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use livepeer::address::keccak256;
use livepeer::signature::{SigningKey, personal_hash};
use livepeer::units::Wei;
use millrace_hal::Clock;
use signer_protocol::{Identity, MAX_PING, Refusal, Request, Response, Transaction, Usage};

use crate::config::{ChainConfig, Config};
use crate::policy;
use crate::spending::Spending;

/// The spending record cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("spending record in {dir} cannot be used")]
pub(crate) struct DeskError {
    dir: PathBuf,
    #[source]
    source: std::io::Error,
}

/// The key, the rules, and the count of what was signed.
pub(crate) struct Desk {
    key: SigningKey,
    rules: Option<ChainConfig>,
    clock: Box<dyn Clock>,
    books: Mutex<Books>,
}

struct Books {
    usage: Usage,
    spending: Spending,
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Desk").field("identity", &self.identity()).finish_non_exhaustive()
    }
}

impl Desk {
    pub(crate) fn open(config: &Config, key: SigningKey, clock: Box<dyn Clock>) -> Result<Self, DeskError> {
        let daily_limit = config.chain.as_ref().map_or(Wei::ZERO, |chain| chain.daily_limit_wei);
        let spending = Spending::open(&config.state_dir, daily_limit, clock.unix_seconds())
            .map_err(|source| DeskError { dir: config.state_dir.clone(), source })?;
        let usage = Usage { daily_limit, ..Usage::default() };
        Ok(Self { key, rules: config.chain.clone(), clock, books: Mutex::new(Books { usage, spending }) })
    }

    pub(crate) fn identity(&self) -> Identity {
        Identity { address: self.key.address(), chain_id: self.rules.as_ref().map(|rules| rules.chain_id) }
    }

    /// Answers one request. Blocks while a transaction's cost is recorded.
    pub(crate) fn answer(&self, request: Request) -> Response {
        let mut books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = match request {
            Request::Hello => return Response::Hello(self.identity()),
            Request::Usage => {
                books.usage.spent_today = books.spending.spent(self.clock.unix_seconds());
                return Response::Usage(books.usage);
            }
            Request::SignResult { digest } => {
                books.usage.results += 1;
                Ok(self.key.sign_hash(personal_hash(digest)))
            }
            Request::SignPing { value } if value.len() > MAX_PING => Err(Refusal::PingTooLong { found: value.len() }),
            Request::SignPing { value } => {
                books.usage.pings += 1;
                Ok(self.key.sign_hash(personal_hash(keccak256(&value))))
            }
            Request::SignTransaction { transaction } => {
                self.charge(&mut books, &transaction).map(|()| self.key.sign_hash(transaction.sighash()))
            }
        };
        match answer {
            Ok(signature) => Response::Signature(signature),
            Err(refusal) => self.refuse(&mut books, refusal),
        }
    }

    /// The answer to what is not a request at all.
    pub(crate) fn malformed(&self) -> Response {
        self.refuse(&mut self.books.lock().unwrap_or_else(PoisonError::into_inner), Refusal::Malformed)
    }

    fn refuse(&self, books: &mut Books, refusal: Refusal) -> Response {
        books.usage.refused += 1;
        tracing::warn!(reason = %refusal, "request was refused");
        Response::Refused(refusal)
    }

    fn charge(&self, books: &mut Books, transaction: &Transaction) -> Result<(), Refusal> {
        let cost = policy::examine(self.rules.as_ref(), transaction)?;
        let (limit, now) = (books.usage.daily_limit, self.clock.unix_seconds());
        books.spending.charge(transaction.sighash(), cost, limit, now)?;
        books.usage.transactions += 1;
        tracing::info!(nonce = transaction.nonce, to = %transaction.to, cost_wei = %cost, "transaction was signed");
        Ok(())
    }
}

#[cfg(test)]
mod tests;
