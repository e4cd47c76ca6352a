//! Turning winners into money: which are due, and every step recorded before it is taken.
//!
//! Walk 2, steps 4, 6 and 8. [`Ledger::submit`] is the only source of a [`Recorded`], and only a [`Recorded`]
//! has bytes to send: a transaction cannot be sent before it is recorded.
use std::cmp::Reverse;

use livepeer::address::H256;
use livepeer::redemption::still_valid;
use livepeer::ticket::WinningTicket;
use livepeer::units::{L1Block, Round};

use crate::error::LedgerError;
use crate::journal::{Entry, Winner};
use crate::open::{Inner, Ledger};
use crate::redemption::{AbandonReason, Redemption, RedemptionEvent, Submission};
use crate::store::{Changes, Kind};

/// A transaction that is on disk and may be sent, now or again after a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    winner: WinningTicket,
    more: Vec<WinningTicket>,
    submission: Submission,
    replaced: Vec<H256>,
}

impl Recorded {
    /// The ticket it redeems; one of them when there are several.
    #[must_use]
    pub fn winner(&self) -> &WinningTicket {
        &self.winner
    }

    /// Every ticket it redeems whose end is not known.
    pub fn winners(&self) -> impl Iterator<Item = &WinningTicket> {
        std::iter::once(&self.winner).chain(&self.more)
    }

    /// Names the ticket, here and on chain.
    #[must_use]
    pub fn ticket(&self) -> H256 {
        self.winner.hash()
    }

    /// The transaction.
    #[must_use]
    pub fn submission(&self) -> &Submission {
        &self.submission
    }

    /// The bytes to send.
    #[must_use]
    pub fn signed(&self) -> &[u8] {
        &self.submission.signed
    }

    /// Earlier transactions with the same account nonce; one of them may be mined instead.
    #[must_use]
    pub fn replaced(&self) -> &[H256] {
        &self.replaced
    }

    fn of(winner: &Winner) -> Option<Self> {
        match &winner.state {
            Redemption::Submitted { submission, replaced, .. } => {
                let (submission, replaced) = (submission.clone(), replaced.clone());
                Some(Self { winner: winner.winner, more: Vec::new(), submission, replaced })
            }
            Redemption::Held { .. } | Redemption::Confirmed { .. } | Redemption::Abandoned { .. } => None,
        }
    }
}

impl Ledger {
    /// Held winners whose offer is over and whose rounds are not: oldest round first, then largest face value.
    ///
    /// Redeeming publishes recipientRand, so a winner of an offer that still takes tickets is never due.
    #[must_use]
    pub fn due(&self, l1_block: L1Block, round: Round) -> Vec<WinningTicket> {
        let mut due = self
            .held(|winner| winner.expiration_block() <= l1_block && still_valid(winner.ticket().creation_round, round));
        due.sort_by_key(|winner| (winner.ticket().creation_round, Reverse(winner.ticket().face_value), winner.hash()));
        due
    }

    /// Held winners whose last round is over: nothing but [`AbandonReason::RoundOver`] is left for them.
    #[must_use]
    pub fn overdue(&self, round: Round) -> Vec<WinningTicket> {
        self.held(|winner| !still_valid(winner.ticket().creation_round, round))
    }

    fn held(&self, wanted: impl Fn(&WinningTicket) -> bool) -> Vec<WinningTicket> {
        let writer = self.0.lock();
        let held = writer.winners.values().filter(|winner| matches!(winner.state, Redemption::Held { .. }));
        held.map(|winner| winner.winner).filter(wanted).collect()
    }

    /// Transactions whose end is not known, by account nonce. At start they are settled before anything else.
    #[must_use]
    pub fn submitted(&self) -> Vec<Recorded> {
        let writer = self.0.lock();
        let mut submitted: Vec<Recorded> = Vec::new();
        for recorded in writer.winners.values().filter_map(Recorded::of) {
            let together = submitted.iter_mut().find(|other| other.submission.hash == recorded.submission.hash);
            match together {
                Some(other) => other.more.push(recorded.winner),
                None => submitted.push(recorded),
            }
        }
        submitted.sort_by_key(|recorded| recorded.submission.account_nonce);
        submitted
    }

    /// Records a signed transaction for a winner. Durable on return: now it may be sent.
    ///
    /// # Errors
    /// [`LedgerError::AccountNonceTaken`] or [`LedgerError::ErrandUnderWay`] when another unconfirmed transaction has its
    /// account nonce;
    /// [`LedgerError::WrongTransactionHash`]; [`LedgerError::UnknownTicket`]; [`LedgerError::OutOfOrder`]; what the
    /// disk said.
    pub fn submit(&self, ticket: H256, submission: Submission) -> Result<Recorded, LedgerError> {
        if !submission.hash_matches() {
            return Err(LedgerError::WrongTransactionHash);
        }
        let moved = self.0.step(&[ticket], &RedemptionEvent::Submitted(submission))?;
        moved.first().and_then(Recorded::of).ok_or(LedgerError::UnknownTicket(ticket))
    }

    /// Records one signed transaction for all the tickets it names. Durable on return, for all of them: now it may be
    /// sent. When one cannot be recorded, none is.
    ///
    /// # Errors
    /// As [`Ledger::submit`]; [`LedgerError::WrongTransactionHash`] too when it names no tickets or one twice.
    pub fn submit_batch(&self, submission: Submission) -> Result<Recorded, LedgerError> {
        let tickets = submission.tickets.clone();
        let first = *tickets.first().ok_or(LedgerError::WrongTransactionHash)?;
        let twice = tickets.iter().enumerate().any(|(place, one)| tickets.iter().take(place).any(|other| other == one));
        if twice || !submission.hash_matches() {
            return Err(LedgerError::WrongTransactionHash);
        }
        let mut moved = self.0.step(&tickets, &RedemptionEvent::Submitted(submission))?;
        // As [`Ledger::submitted`] has them.
        moved.sort_by_key(|winner| winner.winner.hash());
        let mut all = moved.iter().filter_map(Recorded::of);
        let mut recorded = all.next().ok_or(LedgerError::UnknownTicket(first))?;
        recorded.more = all.map(|other| other.winner).collect();
        Ok(recorded)
    }

    /// Moves a winner on. Durable on return.
    ///
    /// # Errors
    /// [`LedgerError::UnknownTicket`], [`LedgerError::OutOfOrder`] (nothing changed), or what the disk said. A
    /// submission goes through [`Ledger::submit`] and its checks, whichever call it comes by.
    pub fn advance(&self, ticket: H256, event: RedemptionEvent) -> Result<Redemption, LedgerError> {
        match event {
            RedemptionEvent::Submitted(submission) => {
                self.submit(ticket, submission)?;
                self.redemption(ticket).ok_or(LedgerError::UnknownTicket(ticket))
            }
            event => {
                let moved = self.0.step(&[ticket], &event)?.pop();
                moved.map(|winner| winner.state).ok_or(LedgerError::UnknownTicket(ticket))
            }
        }
    }

    /// Drops settled winners whose rounds are over, for which no ticket can come back; how many. The totals keep
    /// counting them. A journal that has grown long is rewritten.
    ///
    /// # Errors
    /// What the store said.
    pub fn prune_settled(&self, round: Round) -> Result<usize, LedgerError> {
        let pruned = self.0.prune(round)?;
        self.0.shorten_journal()?;
        Ok(pruned)
    }
}

impl Inner {
    fn prune(&self, round: Round) -> Result<usize, LedgerError> {
        let mut writer = self.write()?;
        let old: Vec<H256> = writer
            .winners
            .iter()
            .filter(|(_, w)| w.state.is_settled() && !still_valid(w.winner.ticket().creation_round, round))
            .map(|(ticket, _)| *ticket)
            .collect();
        if old.is_empty() {
            return Ok(0);
        }
        let mut changes = Changes::default();
        old.iter().for_each(|ticket| changes.remove(Kind::Redemption, ticket.as_bytes()));
        self.health.note(self.store.apply(changes))?;
        old.iter().for_each(|ticket| {
            writer.winners.remove(ticket);
        });
        Ok(old.len())
    }

    /// One step of one winner, or of several by one transaction: check, journal synced, store synced, and only then
    /// visible to the caller. All of them move or none.
    fn step(&self, tickets: &[H256], event: &RedemptionEvent) -> Result<Vec<Winner>, LedgerError> {
        let _moving = self.moving.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (before, after) = {
            let writer = self.write()?;
            if let RedemptionEvent::Submitted(submission) = event {
                let nonce = submission.account_nonce;
                if let Some(holder) = writer.holder_of(nonce, tickets) {
                    return Err(LedgerError::AccountNonceTaken { account_nonce: nonce, holder });
                }
                if writer.errand.as_ref().is_some_and(|errand| errand.submission.account_nonce == nonce) {
                    return Err(LedgerError::ErrandUnderWay);
                }
            }
            let (mut before, mut after) = (Vec::new(), Vec::new());
            for ticket in tickets {
                let known = writer.winners.get(ticket).ok_or(LedgerError::UnknownTicket(*ticket))?.clone();
                let state = known.state.advance(event)?;
                after.push(Winner { winner: known.winner, step: known.step.saturating_add(1), state });
                before.push(known);
            }
            (before, after)
        };
        let steps = |winner: &Winner| Entry::Step {
            ticket: winner.winner.hash(),
            step: winner.step,
            state: winner.state.clone(),
        };
        let recording = self.record(&after.iter().map(steps).collect::<Vec<_>>())?;
        let commit = {
            let mut writer = self.write()?;
            let (mut changes, totals) = (Changes::default(), writer.totals);
            for (old, new) in before.iter().zip(&after) {
                let ticket = new.winner.hash();
                writer.totals.count_step(&old.state, &new.state, new.winner.ticket().face_value);
                writer.winners.insert(ticket, new.clone());
                writer.put_winner(&mut changes, ticket);
            }
            writer.put_totals(&mut changes);
            match self.health.note(self.store.apply(changes)) {
                Ok(commit) => commit,
                Err(fault) => {
                    writer.totals = totals;
                    for old in before {
                        writer.winners.insert(old.winner.hash(), old);
                    }
                    return Err(fault);
                }
            }
        };
        drop(recording);
        self.health.note(self.store.sync_to(commit))?;
        for winner in &after {
            log_step(winner.winner.hash(), winner);
        }
        Ok(after)
    }
}

fn log_step(ticket: H256, winner: &Winner) {
    let face_value_wei = winner.winner.ticket().face_value;
    match &winner.state {
        Redemption::Held { failures } => {
            tracing::warn!(?ticket, %face_value_wei, failures, "redemption came to nothing and will be tried again");
        }
        Redemption::Submitted { submission, .. } => {
            let (tx, nonce) = (submission.hash, submission.account_nonce);
            tracing::debug!(?ticket, ?tx, nonce, "redemption was recorded");
        }
        Redemption::Confirmed { transaction: tx, paid, .. } => {
            tracing::info!(?ticket, ?tx, %face_value_wei, paid_wei = %paid, "ticket was redeemed");
        }
        Redemption::Abandoned { reason: AbandonReason::Refused(words) } => {
            tracing::error!(?ticket, %face_value_wei, reason = words, "winner was given up: report this refusal");
        }
        Redemption::Abandoned { reason } => {
            tracing::error!(?ticket, %face_value_wei, ?reason, "winner was given up: see why it was not redeemed in time");
        }
    }
}

#[cfg(test)]
mod tests;
