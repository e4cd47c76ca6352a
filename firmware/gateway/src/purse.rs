//! The purse of one session: what we have bought there, what we owe, which nonces are used.
//!
//! ```text
//! reserve ──► not sent: give_back          the balance is as before
//!         ──► sent, no result: drop it     balance and tickets count as spent
//!         ──► result: settle(pixels)       the change goes back
//! ```
//! While a segment is in flight its reservation holds the whole balance, so two segments never count on the
//! same credit.
//!
//! *Source:* livepeer-wire §5.6.
use std::collections::VecDeque;

use livepeer::address::{Address, H256};
use livepeer::params::MAX_NONCES;
use livepeer::price::PricePerPixel;
use livepeer::profile::Profile;
use livepeer::ticket::{Payment, Ticket, TicketBatch};
use livepeer::units::{ExpectedValue, Pixels, Wei, WinProb};

use crate::exact::{Balance, Overflow};
use crate::offer::Terms;
use crate::signer::{SignerError, TicketSigner};

/// Frames per second taken for a profile that keeps the source's.
const PASSTHROUGH_FPS: u64 = 60;
/// Offers whose nonces are remembered; each segment's answer brings a new one.
const OFFERS_REMEMBERED: usize = 64;

/// Pixels a segment may come to: what is paid in advance.
#[must_use]
pub fn estimate_pixels(profiles: &[Profile], duration_ms: u64) -> Pixels {
    let seconds = duration_ms.div_ceil(1000);
    let each = profiles.iter().map(|profile| {
        let fps = profile.fps.map_or(PASSTHROUGH_FPS, |fps| u64::from(fps.num.div_ceil(fps.den.max(1))));
        let frame = u64::from(profile.width).saturating_mul(profile.height.into());
        frame.saturating_mul(fps).saturating_mul(seconds)
    });
    Pixels(each.fold(0, u64::saturating_add))
}

/// Why a segment cannot be paid for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PurseError {
    /// The offer's numbers cannot be counted with.
    #[error(transparent)]
    Overflow(#[from] Overflow),
    /// The tickets for one segment would be worth too much.
    #[error("{tickets} tickets for one segment are worth more than our maximum of {max} wei")]
    TooMuch {
        /// Tickets needed.
        tickets: u32,
        /// Our maximum.
        max: Wei,
    },
    /// The offer cannot take so many more tickets; a new one is needed.
    #[error("{tickets} tickets are more than the offer takes, {used} are used")]
    OfferUsedUp {
        /// Tickets needed.
        tickets: u32,
        /// Tickets it has had.
        used: u32,
    },
}

/// The purse of one session.
#[derive(Debug, Default)]
pub struct Purse {
    balance: Balance,
    /// Last nonce used per recipientRand, oldest first.
    nonces: VecDeque<(H256, u32)>,
}

/// Credit and nonces set aside for one segment.
#[derive(Debug)]
pub struct Reserved {
    held: Balance,
    terms: Terms,
    first_nonce: u32,
    tickets: u32,
}

impl Purse {
    /// Sets aside all credit, and as many new tickets as a segment of about `pixels` needs on top.
    ///
    /// # Errors
    /// [`PurseError`]; nothing is set aside then.
    pub fn reserve(&mut self, terms: &Terms, pixels: Pixels, max_value: Wei) -> Result<Reserved, PurseError> {
        let each = terms.ticket_value();
        let tickets = self.balance.tickets_due(pixels, terms.price, each)?;
        let max = ExpectedValue::of(max_value, WinProb::ALWAYS).numerator();
        if each.numerator().checked_mul(tickets.into()).is_none_or(|value| value > max) {
            return Err(PurseError::TooMuch { tickets, max: max_value });
        }
        let first_nonce = self.take_nonces(terms.params.recipient_rand_hash, tickets)?;
        Ok(Reserved { held: std::mem::take(&mut self.balance), terms: *terms, first_nonce, tickets })
    }

    /// The first of `count` new nonces for an offer. Nonces begin at 1 and are never used twice.
    fn take_nonces(&mut self, offer: H256, count: u32) -> Result<u32, PurseError> {
        let known = self.nonces.iter().position(|(hash, _)| *hash == offer);
        let used = known.and_then(|index| self.nonces.get(index)).map_or(0, |(_, used)| *used);
        let last = used.saturating_add(count);
        if usize::try_from(last).is_ok_and(|last| last > MAX_NONCES) {
            return Err(PurseError::OfferUsedUp { tickets: count, used });
        }
        match known.and_then(|index| self.nonces.get_mut(index)) {
            Some(entry) => entry.1 = last,
            None => {
                if self.nonces.len() >= OFFERS_REMEMBERED {
                    self.nonces.pop_front();
                }
                self.nonces.push_back((offer, last));
            }
        }
        Ok(used.saturating_add(1))
    }

    /// The segment was never sent: the credit is ours again, the nonces stay unused.
    ///
    /// # Errors
    /// [`Overflow`] when the sums do not fit.
    pub fn give_back(&mut self, reserved: Reserved) -> Result<(), Overflow> {
        self.balance.merge(reserved.held)
    }

    /// The segment came back: pays for its pixels, keeps the change.
    ///
    /// # Errors
    /// [`Overflow`] when the sums do not fit.
    pub fn settle(&mut self, reserved: Reserved, pixels: Pixels) -> Result<(), Overflow> {
        let mut held = reserved.held;
        held.credit(reserved.terms.ticket_value(), reserved.tickets)?;
        held.debit(pixels, reserved.terms.price)?;
        self.balance.merge(held)
    }

    /// Credit left, in whole wei.
    #[must_use]
    pub fn credit(&self) -> Wei {
        self.balance.to_wei_floor()
    }
}

impl Reserved {
    /// How many tickets go with the segment.
    #[must_use]
    pub fn tickets(&self) -> u32 {
        self.tickets
    }

    /// What each is worth.
    #[must_use]
    pub fn ticket_value(&self) -> ExpectedValue {
        self.terms.ticket_value()
    }

    /// The price this segment is paid at.
    #[must_use]
    pub fn price(&self) -> PricePerPixel {
        self.terms.price
    }

    /// Makes and signs the tickets.
    ///
    /// # Errors
    /// [`SignerError`] when the signer does not sign.
    pub fn payment(&self, signer: &dyn TicketSigner) -> Result<Payment, SignerError> {
        let sender = signer.address();
        let batch = match self.tickets {
            0 => None,
            count => {
                let nonces = (self.first_nonce..).take(usize::try_from(count).unwrap_or(usize::MAX));
                let tickets = nonces.map(|nonce| {
                    let signature = signer.sign_personal(self.ticket(sender, nonce).hash())?;
                    Ok((nonce, signature.to_bytes().to_vec()))
                });
                Some(TicketBatch { params: self.terms.params, tickets: tickets.collect::<Result<_, SignerError>>()? })
            }
        };
        Ok(Payment { sender, expected_price: self.terms.price, tickets: batch })
    }

    fn ticket(&self, sender: Address, sender_nonce: u32) -> Ticket {
        let params = &self.terms.params;
        Ticket {
            recipient: params.recipient,
            sender,
            face_value: params.face_value,
            win_prob: params.win_prob,
            sender_nonce,
            recipient_rand_hash: params.recipient_rand_hash,
            creation_round: params.creation_round,
            creation_round_block_hash: params.creation_round_block_hash,
        }
    }
}

#[cfg(test)]
mod tests;
