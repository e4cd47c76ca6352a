//! What became of transactions that were sent, and what is done about those that are not in a block.
//!
//! Walk 2, steps 7 to 9.
use ledger::{AbandonReason, Recorded, RedemptionEvent};
use livepeer::address::H256;
use livepeer::broker::{Broker, BrokerError, ChainHead, Prepared, TransactionStatus};
use livepeer::redemption::still_valid;
use livepeer::ticket::WinningTicket;
use livepeer::transaction::Transaction;
use livepeer::units::{L2Block, Wei};
use tokio::time::Instant;

use super::{Doubt, Redeemer, RedeemerError, Sent};
use crate::sign::Signer;

/// Percent by which a replacement's fee is higher than that of the transaction before it.
const REPLACEMENT_PERCENT: u64 = 13;

/// What became of all transactions of one redemption.
enum Fate {
    /// One of them is in a block and worked.
    Mined { transaction: H256, block: L2Block, confirmations: u64, paid: Wei },
    /// One of them is in a block and failed.
    Reverted { confirmations: u64 },
    /// The latest may still be mined.
    Open { known: bool },
    /// Another transaction took their nonce.
    Lost,
}

impl<B: Broker, S: Signer> Redeemer<B, S> {
    /// Walk 2, steps 7 to 9: finds out what became of everything submitted. Is all of it in blocks?
    pub(super) async fn settle(&mut self, head: &ChainHead) -> Result<bool, RedeemerError> {
        let mut all_in_blocks = true;
        for recorded in self.book(|ledger| Ok(ledger.submitted())).await? {
            let ticket = recorded.ticket();
            let fate = match self.fate(&recorded).await {
                Ok(fate) => fate,
                Err(error) => {
                    self.note_fault(ticket, &error);
                    all_in_blocks = false;
                    continue;
                }
            };
            self.note_success();
            match fate {
                Fate::Mined { confirmations, .. } if confirmations < self.config.confirmations => {}
                Fate::Mined { transaction, block, .. } if recorded.submission().is_batch() => {
                    self.confirm_batch(&recorded, transaction, block).await?;
                }
                Fate::Mined { transaction, block, paid, .. } => {
                    self.confirm(recorded.winner(), transaction, block, paid).await?;
                }
                Fate::Reverted { confirmations } if confirmations < self.config.confirmations => {}
                Fate::Reverted { .. } => self.undo(&recorded, "its transaction was reverted").await?,
                Fate::Lost => {
                    all_in_blocks = false;
                    if self.certain(ticket, Doubt::NonceLost) {
                        self.undo(&recorded, "another transaction took its nonce").await?;
                    }
                }
                Fate::Open { known } => {
                    self.doubts.remove(&(ticket, Doubt::NonceLost));
                    let valid = |winner: &WinningTicket| still_valid(winner.ticket().creation_round, head.round);
                    let over = !recorded.winners().any(valid);
                    if over && !known && self.certain(ticket, Doubt::Over) {
                        // Its contract call can only revert from now on, so its nonce may be used by another.
                        self.undo(&recorded, "it was never mined, and its round is over").await?;
                        continue;
                    }
                    all_in_blocks = false;
                    self.send_again(&recorded, known, head).await?;
                }
            }
        }
        Ok(all_in_blocks)
    }

    /// Looks at the latest transaction of a redemption and at those it replaced: any of them may be the one.
    async fn fate(&self, recorded: &Recorded) -> Result<Fate, BrokerError> {
        let (from, nonce) = (self.signer.account(), recorded.submission().account_nonce);
        let latest = recorded.submission().hash;
        let mut reverted = None;
        let mut latest_status = TransactionStatus::Unknown;
        for hash in std::iter::once(latest).chain(recorded.replaced().iter().copied()) {
            let status = self.broker.transaction_status(hash, from, nonce).await?;
            if hash == latest {
                latest_status = status;
            }
            match status {
                TransactionStatus::Mined { block, confirmations, paid, .. } => {
                    return Ok(Fate::Mined { transaction: hash, block, confirmations, paid });
                }
                TransactionStatus::Reverted { confirmations, .. } => reverted = Some(confirmations),
                TransactionStatus::Unknown | TransactionStatus::Pending | TransactionStatus::Replaced => {}
            }
        }
        Ok(match (reverted, latest_status) {
            (Some(confirmations), _) => Fate::Reverted { confirmations },
            (None, TransactionStatus::Replaced) => Fate::Lost,
            (None, TransactionStatus::Pending) => Fate::Open { known: true },
            (None, _) => Fate::Open { known: false },
        })
    }

    /// A winner is paid for good.
    async fn confirm(
        &mut self,
        winner: &WinningTicket,
        transaction: H256,
        block: L2Block,
        paid: Wei,
    ) -> Result<(), RedeemerError> {
        let (ticket, face_value) = (winner.hash(), winner.ticket().face_value);
        if paid < face_value {
            tracing::error!(
                ?ticket, tx = ?transaction, %face_value, paid_wei = %paid, gateway = %winner.ticket().sender,
                "ticket was paid short: its sender has less than it owes"
            );
            self.report.send_modify(|report| report.short_paid += 1);
        }
        self.advance(ticket, RedemptionEvent::Confirmed { transaction, block, paid }).await?;
        self.forget(ticket);
        Ok(())
    }

    /// A batch is in a block for good, and worked; each of its tickets, if its event says so.
    async fn confirm_batch(
        &mut self,
        recorded: &Recorded,
        transaction: H256,
        block: L2Block,
    ) -> Result<(), RedeemerError> {
        for winner in recorded.winners() {
            match self.broker.redeemed_in(transaction, winner).await {
                Ok(Some(paid)) => self.confirm(winner, transaction, block, paid).await?,
                Ok(None) => self.undo_one(winner.hash(), transaction, "its batch was mined without it").await?,
                Err(error) => self.note_fault(winner.hash(), &error),
            }
        }
        Ok(())
    }

    /// A transaction came to nothing, for all of its tickets.
    async fn undo(&mut self, recorded: &Recorded, why: &'static str) -> Result<(), RedeemerError> {
        for winner in recorded.winners() {
            self.undo_one(winner.hash(), recorded.submission().hash, why).await?;
        }
        Ok(())
    }

    /// A redemption came to nothing: back into the hand, or given up when the ticket is spent.
    async fn undo_one(&mut self, ticket: H256, tx: H256, why: &'static str) -> Result<(), RedeemerError> {
        match self.broker.used_ticket(ticket).await {
            Err(error) => self.note_fault(ticket, &error),
            Ok(true) if self.certain(ticket, Doubt::Spent) => {
                tracing::error!(?ticket, why, "ticket was redeemed by somebody else");
                self.advance(ticket, RedemptionEvent::Abandoned(AbandonReason::UsedElsewhere)).await?;
                self.forget(ticket);
            }
            Ok(true) => {}
            Ok(false) => {
                tracing::warn!(?ticket, ?tx, why, "redemption came to nothing");
                self.doubts.remove(&(ticket, Doubt::Spent));
                self.doubts.remove(&(ticket, Doubt::NonceLost));
                self.sent.remove(&ticket);
                self.wait(ticket);
                self.advance(ticket, RedemptionEvent::Failed).await?;
            }
        }
        Ok(())
    }

    /// The same bytes first; when they stay out of blocks for too long, dearer ones with the same nonce.
    async fn send_again(&mut self, recorded: &Recorded, known: bool, head: &ChainHead) -> Result<(), RedeemerError> {
        let ticket = recorded.ticket();
        let now = Instant::now();
        let never = !self.sent.contains_key(&ticket);
        let sent = *self.sent.entry(ticket).or_insert(Sent { first: now, last: now });
        let stuck = sent.first.elapsed() >= self.config.stuck_after();
        if stuck && recorded.replaced().len() < self.config.max_replacements {
            return self.replace(recorded, head).await;
        }
        let quiet = sent.last.elapsed() >= self.config.stuck_after() / 4;
        if !known && (never || quiet) {
            self.sent.insert(ticket, Sent { last: now, ..sent });
            self.broadcast(recorded).await;
        }
        Ok(())
    }

    /// Signs, records and sends a dearer transaction with the nonce of one that is stuck.
    async fn replace(&mut self, recorded: &Recorded, head: &ChainHead) -> Result<(), RedeemerError> {
        let ticket = recorded.ticket();
        let nonce = recorded.submission().account_nonce;
        let winners: Vec<WinningTicket> = recorded.winners().copied().collect();
        let prepared = match self.prepare_again(recorded, &winners).await {
            Ok(Some(prepared)) => prepared,
            Ok(None) => {
                self.postpone_replacement(ticket);
                return Ok(());
            }
            // Most likely mined after all; the next look will tell.
            Err(error) => {
                self.note_fault(ticket, &error);
                self.postpone_replacement(ticket);
                return Ok(());
            }
        };
        let steps = u64::try_from(recorded.replaced().len()).unwrap_or(u64::MAX).saturating_add(1);
        let transaction = dearer(prepared.transaction, steps);
        if prepared.payout <= transaction.max_cost().unwrap_or(prepared.cost) {
            tracing::debug!(?ticket, "stuck redemption was not replaced: it would cost more than it pays");
            self.postpone_replacement(ticket);
            return Ok(());
        }
        tracing::warn!(?ticket, nonce, steps, "redemption is stuck and is replaced by a dearer one");
        self.sign_record_send(&winners, transaction, head, recorded.submission().attempt.saturating_add(1)).await
    }

    /// The same redemption once more. One of these transactions is going to be mined, and it must not matter which: a batch
    /// is made again with the same tickets or not at all.
    async fn prepare_again(
        &self,
        recorded: &Recorded,
        winners: &[WinningTicket],
    ) -> Result<Option<Prepared>, BrokerError> {
        let (from, nonce) = (self.signer.account(), recorded.submission().account_nonce);
        if !recorded.submission().is_batch() {
            return self.broker.prepare(recorded.winner(), from, nonce).await.map(Some);
        }
        if winners.len() != recorded.submission().tickets.len() {
            return Ok(None);
        }
        let prepared = self.broker.prepare_batch(winners, from, nonce).await?;
        Ok(prepared.filter(|prepared| prepared.winners.len() == winners.len()).map(|prepared| {
            let face_values = winners.iter().map(|winner| winner.ticket().face_value);
            let payout = face_values.fold(Wei::ZERO, Wei::saturating_add);
            Prepared { transaction: prepared.transaction, payout, cost: prepared.cost }
        }))
    }

    fn postpone_replacement(&mut self, ticket: H256) {
        let now = Instant::now();
        self.sent.insert(ticket, Sent { first: now, last: now });
    }
}

/// A transaction with a fee cap that any node accepts in place of the one that was `steps` cheaper.
pub(super) fn dearer(transaction: Transaction, steps: u64) -> Transaction {
    let raise = |fee: Wei| {
        (0..steps).fold(fee, |fee, _| {
            let more = fee.checked_mul(100 + REPLACEMENT_PERCENT).map(|fee| Wei(fee.0 / 100));
            more.unwrap_or(fee).saturating_add(Wei::from(1))
        })
    };
    let max_priority_fee_per_gas = raise(transaction.max_priority_fee_per_gas);
    let max_fee_per_gas = raise(transaction.max_fee_per_gas).max(max_priority_fee_per_gas);
    Transaction { max_priority_fee_per_gas, max_fee_per_gas, ..transaction }
}
