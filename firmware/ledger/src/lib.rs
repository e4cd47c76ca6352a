//! What we are owed, durably: credit, seen nonces, winning tickets and what became of them.
//!
//! Walk 1, step 3 and walk 2, steps 2, 4, 6 and 8. The only crate that touches sled. All calls block (a
//! durable one for as long as the disk takes), so async callers use `spawn_blocking`.
//!
//! On disk, in one directory of its own:
//!
//! | File | What it is |
//! |---|---|
//! | `winners.journal` | append-only: every winner and every step of its redemption, synced first ([`journal`]) |
//! | `sled/` | accounts, nonces, redemptions, totals; rebuilt from the journal when it is damaged |
//! | `generation` | the generation of the recipientRand secret, bumped after an unclean stop |
//! | `clean` | there only after a clean stop, with a digest of what `sled/` held |
//! | `lock` | held by the one process that has the ledger open |
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects, clippy::float_arithmetic))]

mod balance;
mod errand;
mod error;
mod files;
#[cfg(test)]
mod fixture;
mod generation;
mod group;
pub mod journal;
mod nonce;
mod open;
mod receive;
mod redemption;
mod settle;
mod store;
mod totals;

pub use balance::{Account, Balance};
pub use errand::OnErrand;
pub use error::LedgerError;
pub use open::{Ledger, OpenOptions, Rebuilt, rebuild};
pub use receive::{MAX_HELD_PER_SENDER, Receipt, ReceiveError, ReceiveRequest};
pub use redemption::{AbandonReason, OutOfOrder, Redemption, RedemptionEvent, Submission};
pub use settle::Recorded;
pub use totals::{Pending, Totals};
