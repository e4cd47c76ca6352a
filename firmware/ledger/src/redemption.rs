//! What becomes of a winning ticket.
//!
//! Walk 2, steps 6 to 8.
//!
//! ```text
//!            Submitted                    Confirmed
//!   Held ───────────────► Submitted ───────────────────► Confirmed
//!    │  ▲                  │  │  └──┐ Submitted (same account nonce, other fee)
//!    │  └──── Failed ──────┘  │  ◄──┘
//!    └─────── Abandoned ──────┴────────────────────────► Abandoned
//! ```
use std::fmt;

use livepeer::address::H256;
use livepeer::transaction::transaction_hash;
use livepeer::units::{L2Block, Wei};
use serde::{Deserialize, Serialize};

/// A signed transaction that redeems a ticket, or several at once, recorded before it is sent.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Submission {
    /// Hash by which the chain knows it.
    pub hash: H256,
    /// Its number among the hot account's transactions.
    pub account_nonce: u64,
    /// The bytes to send, and to send again. They hold recipientRand.
    #[serde(with = "hex_bytes")]
    pub signed: Vec<u8>,
    /// Block of our chain at which it was made.
    pub at: L2Block,
    /// How many transactions were made for this ticket before this one.
    pub attempt: u32,
    /// Every ticket it redeems, in its own order, when there are several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tickets: Vec<H256>,
}

impl Submission {
    /// Is the hash that of the signed bytes?
    #[must_use]
    pub fn hash_matches(&self) -> bool {
        transaction_hash(&self.signed) == self.hash
    }

    /// Does it redeem several tickets, so that it can work for some and not for others?
    #[must_use]
    pub fn is_batch(&self) -> bool {
        self.tickets.len() > 1
    }
}

impl fmt::Debug for Submission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Submission")
            .field("hash", &self.hash)
            .field("account_nonce", &self.account_nonce)
            .field("signed", &format_args!("[redacted, {} bytes]", self.signed.len()))
            .field("at", &self.at)
            .field("attempt", &self.attempt)
            .field("tickets", &self.tickets.len())
            .finish()
    }
}

/// Why a winner was given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AbandonReason {
    /// Its last round ended.
    RoundOver,
    /// The chain says it is spent, and not by a transaction of ours.
    UsedElsewhere,
    /// The contract will never accept it; its own words, bounded.
    Refused(String),
}

/// Where a winner stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Redemption {
    /// In hand; to be redeemed once its offer is over and it is worth it.
    Held {
        /// Transactions that came to nothing.
        failures: u32,
    },
    /// A transaction is recorded and may have been sent.
    Submitted {
        /// The latest transaction.
        submission: Submission,
        /// Earlier transactions with the same account nonce; one of them may be mined instead.
        replaced: Vec<H256>,
        /// Transactions that came to nothing before.
        failures: u32,
    },
    /// Paid, deep enough in the chain.
    Confirmed {
        /// The transaction that was mined.
        transaction: H256,
        /// Its block.
        block: L2Block,
        /// What the chain says was paid.
        paid: Wei,
    },
    /// Given up.
    Abandoned {
        /// Why.
        reason: AbandonReason,
    },
}

/// What can happen to a winner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedemptionEvent {
    /// A transaction was signed.
    Submitted(Submission),
    /// A transaction of ours is deep enough in the chain.
    Confirmed {
        /// The transaction that was mined.
        transaction: H256,
        /// Its block.
        block: L2Block,
        /// What the chain says was paid.
        paid: Wei,
    },
    /// The transactions came to nothing and never can come to anything: reverted, or their nonce is used.
    Failed,
    /// It is given up.
    Abandoned(AbandonReason),
}

impl RedemptionEvent {
    fn name(&self) -> &'static str {
        match self {
            Self::Submitted(_) => "submitted",
            Self::Confirmed { .. } => "confirmed",
            Self::Failed => "failed",
            Self::Abandoned(_) => "abandoned",
        }
    }
}

/// An event that makes no sense in the present state; the state stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a redemption that is {state} cannot become {event}")]
pub struct OutOfOrder {
    /// The state.
    pub state: &'static str,
    /// The event.
    pub event: &'static str,
}

impl Redemption {
    /// A winner just drawn.
    pub const NEW: Self = Self::Held { failures: 0 };

    /// Will it never change again?
    #[must_use]
    pub fn is_settled(&self) -> bool {
        matches!(self, Self::Confirmed { .. } | Self::Abandoned { .. })
    }

    /// One word for logs and lists.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Held { .. } => "held",
            Self::Submitted { .. } => "submitted",
            Self::Confirmed { .. } => "confirmed",
            Self::Abandoned { .. } => "abandoned",
        }
    }

    /// The state after an event. Pure and total.
    ///
    /// # Errors
    /// [`OutOfOrder`] when the event does not fit: a settled redemption, a second account nonce while the first
    /// may still be mined, a confirmation of a transaction that is not ours.
    pub fn advance(&self, event: &RedemptionEvent) -> Result<Self, OutOfOrder> {
        use RedemptionEvent as Event;
        match (self, event) {
            (Self::Held { failures }, Event::Submitted(submission)) => {
                Ok(Self::Submitted { submission: submission.clone(), replaced: Vec::new(), failures: *failures })
            }
            (Self::Submitted { submission: old, replaced, failures }, Event::Submitted(new))
                if old.account_nonce == new.account_nonce && old.hash != new.hash && !replaced.contains(&new.hash) =>
            {
                let replaced = replaced.iter().copied().chain([old.hash]).collect();
                Ok(Self::Submitted { submission: new.clone(), replaced, failures: *failures })
            }
            (Self::Submitted { submission, replaced, .. }, Event::Confirmed { transaction, block, paid })
                if submission.hash == *transaction || replaced.contains(transaction) =>
            {
                Ok(Self::Confirmed { transaction: *transaction, block: *block, paid: *paid })
            }
            (Self::Submitted { failures, .. }, Event::Failed) => {
                Ok(Self::Held { failures: failures.saturating_add(1) })
            }
            (Self::Held { .. } | Self::Submitted { .. }, Event::Abandoned(reason)) => {
                Ok(Self::Abandoned { reason: reason.clone() })
            }
            _ => Err(OutOfOrder { state: self.name(), event: event.name() }),
        }
    }
}

/// Bytes as hex text in records.
mod hex_bytes {
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        hex::decode(String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests;
