//! Receiving a payment: every ticket checked and drawn, winners kept, credit given.
//!
//! Walk 1, step 3 and walk 2, steps 1 and 2. The order of events is the point: draw, journal synced, one
//! atomic change of nonces, credit and winners, store synced, answer. Credit can be seen only after its winner
//! would survive a power cut.
use livepeer::address::H256;
use livepeer::ticket::{CheckedTicket, OpenBatch, TicketError, WinningTicket};
use livepeer::units::{L1Block, Timestamp, Wei};

use crate::balance::{Account, Balance};
use crate::error::LedgerError;
use crate::journal::{Entry, Winner};
use crate::nonce::{self, NonceSet};
use crate::open::{Inner, Ledger, Writer};
use crate::store::{Changes, Kind};

/// How many unsettled winners one sender may have here. Once an offer is over its recipientRand may be public
/// and its sender could make winners at will; beyond this they would only fill the disk.
pub const MAX_HELD_PER_SENDER: u64 = 10_000;

/// A payment whose offer was proved to be ours.
#[derive(Debug, Clone, Copy)]
pub struct ReceiveRequest<'a> {
    /// Who is credited.
    pub account: &'a Account,
    /// The offer.
    pub batch: &'a OpenBatch,
    /// Nonce and signature of each ticket, in order.
    pub tickets: &'a [(u32, Vec<u8>)],
    /// L1 block as last seen.
    pub head: L1Block,
    /// How many different nonces the offer is good for ([`livepeer::params::MAX_NONCES`]).
    pub max_nonces: usize,
    /// Wall time, for the account's idle clock.
    pub now: Timestamp,
}

/// What a payment brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// Credit given.
    pub credited: Wei,
    /// Tickets that earned it.
    pub accepted: usize,
    /// New winners, durable; whether or not their ticket earned credit.
    pub won: Vec<H256>,
    /// The first fault; no ticket after it earned credit. The payment is answered with it.
    pub error: Option<TicketError>,
    /// The account afterwards.
    pub balance: Balance,
}

/// Why a payment could not be received at all. Nothing was credited.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// The sender has too many unredeemed winners here.
    #[error("sender has too many unredeemed winning tickets")]
    TooManyHeld,
    /// The ledger refuses or broke: our fault.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// One ticket after the checks that need no memory.
struct Judged {
    nonce: u32,
    checked: Result<CheckedTicket, TicketError>,
}

impl Ledger {
    /// Takes a payment in. On return credit, nonces and winners are recorded; winners, and the credit of a
    /// payment that had one, are durable.
    ///
    /// Tickets are judged as the reference node does: the first fault is remembered and ends the credit, a
    /// fatal one ends the loop, and winners are kept even when nonce or expiry are at fault.
    ///
    /// # Errors
    /// [`ReceiveError`]; faults of single tickets are in the receipt.
    ///
    /// *Source:* livepeer-wire §5.5, steps 5 to 8.
    pub fn receive(&self, request: &ReceiveRequest<'_>) -> Result<Receipt, ReceiveError> {
        self.0.health.check()?;
        let judged = judge(request.batch, request.tickets);
        let drawn: Vec<WinningTicket> =
            judged.iter().filter_map(|j| j.checked.as_ref().ok()).filter_map(CheckedTicket::draw).collect();
        let fresh = self.0.unknown_winners(request.account, drawn)?;
        let recording = if fresh.is_empty() {
            None
        } else {
            let entries: Vec<Entry> = fresh.iter().copied().map(Entry::Winner).collect();
            Some(self.0.record(&entries)?)
        };
        let (receipt, commit) = self.0.commit(request, &judged, &fresh)?;
        drop(recording);
        if !receipt.won.is_empty() {
            self.0.health.note(self.0.store.sync_to(commit))?;
        }
        for ticket in &fresh {
            let (ticket, hash) = (ticket.ticket(), ticket.hash());
            tracing::info!(
                gateway = %ticket.sender,
                ticket = ?hash,
                face_value_wei = %ticket.face_value,
                round = ticket.creation_round.0,
                "ticket won"
            );
        }
        Ok(receipt)
    }
}

/// Checks signatures until a fatal fault; the costly part, and it holds no lock.
fn judge(batch: &OpenBatch, tickets: &[(u32, Vec<u8>)]) -> Vec<Judged> {
    let mut judged = Vec::with_capacity(tickets.len());
    for (nonce, signature) in tickets {
        let checked = batch.check(*nonce, signature);
        let fatal = checked.as_ref().is_err_and(|error| error.is_fatal());
        judged.push(Judged { nonce: *nonce, checked });
        if fatal {
            break;
        }
    }
    judged
}

impl Inner {
    /// Those of some winners that are not in the ledger yet, each once.
    fn unknown_winners(
        &self,
        account: &Account,
        drawn: Vec<WinningTicket>,
    ) -> Result<Vec<WinningTicket>, ReceiveError> {
        if drawn.is_empty() {
            return Ok(drawn);
        }
        let writer = self.write()?;
        let mut fresh: Vec<WinningTicket> = Vec::with_capacity(drawn.len());
        for winner in drawn {
            let hash = winner.hash();
            // The first signature seen for a ticket counts; another one of the same ticket is the same money.
            if !writer.winners.contains_key(&hash) && fresh.iter().all(|known| known.hash() != hash) {
                fresh.push(winner);
            }
        }
        let held = writer.held_of(account.sender()).tickets;
        let more = u64::try_from(fresh.len()).unwrap_or(u64::MAX);
        if more > 0 && held.saturating_add(more) > MAX_HELD_PER_SENDER {
            return Err(ReceiveError::TooManyHeld);
        }
        Ok(fresh)
    }

    /// Nonces, credit and winners in one change. The winners are in the journal by now.
    fn commit(
        &self,
        request: &ReceiveRequest<'_>,
        judged: &[Judged],
        fresh: &[WinningTicket],
    ) -> Result<(Receipt, u64), LedgerError> {
        let mut writer = self.write()?;
        let head = request.head.max(writer.head);
        let mut offer = OfferNonces::load(self, judged)?;
        let (mut credited, mut accepted, mut error) = (Wei::ZERO, 0usize, None);
        for ticket in judged {
            let verdict = ticket.checked.and_then(|checked| {
                offer.play(&checked, ticket.nonce, head, request.max_nonces)?;
                Ok(checked.ticket().expected_value().to_wei_ceil())
            });
            match verdict {
                Ok(value) if error.is_none() => {
                    credited = credited.checked_add(value).ok_or(LedgerError::Overflow)?;
                    accepted = accepted.saturating_add(1);
                }
                Ok(_) => {}
                Err(fault) => error = error.or(Some(fault)),
            }
        }
        let mut account = self.account(request.account)?;
        account.balance.credit = account.balance.credit.checked_add(credited).ok_or(LedgerError::Overflow)?;
        account.used_at = request.now;
        let mut changes = Changes::default();
        offer.put(&mut changes);
        changes.put(Kind::Account, &request.account.key(), &account.encode());
        let (won, totals) = admit(&mut writer, fresh, &mut changes);
        let before = std::mem::replace(&mut writer.totals, totals);
        writer.totals.count_received(u64::try_from(accepted).unwrap_or(u64::MAX), credited);
        writer.put_totals(&mut changes);
        match self.health.note(self.store.apply(changes)) {
            Ok(commit) => Ok((Receipt { credited, accepted, won, error, balance: account.balance }, commit)),
            Err(fault) => {
                writer.totals = before;
                won.iter().for_each(|ticket| {
                    writer.winners.remove(ticket);
                });
                Err(fault)
            }
        }
    }
}

/// Adds winners nobody added meanwhile to the book; their hashes, and the totals with them.
fn admit(writer: &mut Writer, fresh: &[WinningTicket], changes: &mut Changes) -> (Vec<H256>, crate::totals::Totals) {
    let (mut won, mut totals) = (Vec::with_capacity(fresh.len()), writer.totals);
    for winner in fresh {
        let hash = winner.hash();
        if writer.winners.contains_key(&hash) {
            continue;
        }
        writer.winners.insert(hash, Winner::new(*winner));
        writer.put_winner(changes, hash);
        totals.count_winner(winner.ticket().face_value);
        won.push(hash);
    }
    (won, totals)
}

/// The seen nonces of the payment's one offer.
#[derive(Default)]
struct OfferNonces {
    key: Option<Vec<u8>>,
    seen: NonceSet,
    changed: bool,
}

impl OfferNonces {
    fn load(inner: &Inner, judged: &[Judged]) -> Result<Self, LedgerError> {
        let Some(first) = judged.iter().find_map(|ticket| ticket.checked.as_ref().ok()) else {
            return Ok(Self::default());
        };
        let key = nonce::key(first.expiration_block(), first.ticket().recipient_rand_hash);
        let stored = inner.health.note(inner.store.get(Kind::Nonces, &key))?;
        let seen = stored.map_or_else(|| Some(NonceSet::default()), |stored| NonceSet::decode(&stored));
        let seen = inner.health.note(seen.ok_or_else(|| LedgerError::Corrupt { key: hex::encode(&key) }))?;
        Ok(Self { key: Some(key), seen, changed: false })
    }

    /// Nonce first, expiry second, as the reference does. The nonces of an offer that is over may be forgotten
    /// already, so none is added to it.
    fn play(&mut self, ticket: &CheckedTicket, nonce: u32, head: L1Block, max: usize) -> Result<(), TicketError> {
        let sender = ticket.ticket().sender;
        if self.seen.contains(nonce) {
            return Err(TicketError::NonceSeen { sender, nonce });
        }
        if self.seen.len() >= max {
            return Err(TicketError::TooManyNonces { sender, nonce });
        }
        if ticket.expiration_block() <= head {
            return Err(TicketError::Expired);
        }
        self.seen.insert(nonce);
        self.changed = true;
        Ok(())
    }

    fn put(&self, changes: &mut Changes) {
        if let (Some(key), true) = (&self.key, self.changed) {
            changes.put(Kind::Nonces, key, &self.seen.encode());
        }
    }
}

#[cfg(test)]
mod tests;
