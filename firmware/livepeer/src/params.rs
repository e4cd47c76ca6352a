//! Offers: what a ticket must look like to count as payment from one gateway.
//!
//! Face value is how much of the redemption's cost a winner covers; win prob makes the ticket worth its
//! expected value on average. A larger face value means fewer, dearer redemptions and more variance.
//!
//! *Source:* livepeer-wire §5.2, §5.3.
use primitive_types::U256;
use serde::{Deserialize, Serialize};

use crate::address::{Address, H256};
use crate::price::PricePerPixel;
use crate::recipient_rand::{OfferTerms, RecipientSecret};
use crate::units::{L1Block, Round, Wei, WinProb};

/// How many L1 blocks an offer lives (about eight minutes).
pub const LIFETIME_BLOCKS: u64 = 40;
/// How many tickets one offer may be paid with.
pub const MAX_NONCES: usize = 600;
/// Below this gas price the face value floor is not lowered further, in wei.
const FLOOR_GAS_PRICE_WEI: u64 = 3_000_000_000;

/// What the operator and the chain say about tickets at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TicketEconomics {
    /// Expected value of one ticket.
    pub expected_value: Wei,
    /// Gas one redemption is taken to use.
    pub redeem_gas: u64,
    /// Gas price now.
    pub gas_price: Wei,
    /// The face value is this many times the redemption's cost, or the expected value.
    pub multiplier: u64,
    /// Upper bound of the face value, or zero for none.
    pub max_face_value: Wei,
}

/// An offer cannot be made: the sender's reserve share does not cover a face value worth redeeming.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("insufficient sender reserve")]
pub struct InsufficientReserve;

impl TicketEconomics {
    /// What one redemption costs now.
    #[must_use]
    pub fn tx_cost(&self) -> Wei {
        self.gas_price.checked_mul(self.redeem_gas).unwrap_or(Wei(U256::MAX))
    }

    /// The face value offered to a sender whose tickets are good for `max_float`.
    ///
    /// # Errors
    /// [`InsufficientReserve`] when a winner would not cover its expected value or its own redemption.
    pub fn face_value(&self, max_float: Wei) -> Result<Wei, InsufficientReserve> {
        let huge = Wei(U256::MAX);
        let mut face_value = self.tx_cost().checked_mul(self.multiplier).unwrap_or(huge);
        if face_value < self.expected_value {
            face_value = self.expected_value.checked_mul(self.multiplier).unwrap_or(huge);
        }
        face_value = face_value.min(max_float);
        if !self.max_face_value.is_zero() {
            face_value = face_value.min(self.max_face_value);
        }
        let floor = Wei::from(FLOOR_GAS_PRICE_WEI).checked_mul(self.redeem_gas).unwrap_or(huge);
        if face_value < self.expected_value || (face_value < self.tx_cost() && face_value < floor) {
            return Err(InsufficientReserve);
        }
        Ok(face_value)
    }

    /// The win prob that makes a ticket of this face value worth the expected value.
    #[must_use]
    pub fn win_prob(&self, face_value: Wei) -> WinProb {
        if face_value.is_zero() {
            return WinProb::NEVER;
        }
        if face_value <= self.expected_value {
            return WinProb::ALWAYS;
        }
        let (quotient, rest) = U256::MAX.div_mod(face_value.0);
        // The reference looks at the low 64 bits of the remainder alone; so do we, to offer the same numbers.
        let unit = if rest.low_u64() == 0 { quotient } else { quotient.saturating_add(U256::one()) };
        WinProb(unit.saturating_mul(self.expected_value.0))
    }
}

/// An offer as it stands on the wire and comes back with a payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TicketParams {
    /// Who is paid.
    pub recipient: Address,
    /// What a winner pays.
    pub face_value: Wei,
    /// How likely a ticket wins.
    pub win_prob: WinProb,
    /// Commitment to recipientRand.
    pub recipient_rand_hash: H256,
    /// The number that makes the offer unique.
    pub seed: U256,
    /// First L1 block at which tickets are refused.
    pub expiration_block: L1Block,
    /// Round the tickets belong to.
    pub creation_round: Round,
    /// Hash the chain stores for that round.
    pub creation_round_block_hash: H256,
}

impl TicketParams {
    /// Makes an offer with the commitment that our secret gives it.
    #[must_use]
    pub fn offer(secret: &RecipientSecret, recipient: Address, terms: &OfferTerms) -> Self {
        Self {
            recipient,
            face_value: terms.face_value,
            win_prob: terms.win_prob,
            recipient_rand_hash: secret.recipient_rand(terms).commitment(),
            seed: terms.seed,
            expiration_block: terms.expiration_block,
            creation_round: terms.creation_round,
            creation_round_block_hash: terms.creation_round_block_hash,
        }
    }

    /// The terms this offer states, for a sender and a price.
    #[must_use]
    pub fn terms(&self, sender: Address, price: PricePerPixel) -> OfferTerms {
        OfferTerms {
            seed: self.seed,
            sender,
            face_value: self.face_value,
            win_prob: self.win_prob,
            expiration_block: self.expiration_block,
            price,
            creation_round: self.creation_round,
            creation_round_block_hash: self.creation_round_block_hash,
        }
    }

    /// May no ticket be accepted any more at this block?
    #[must_use]
    pub fn expired(&self, now: L1Block) -> bool {
        self.expiration_block <= now
    }
}

/// The largest face value we may be owed by a sender at once: our share of its reserve, less what is on
/// its way unless the deposit covers that three times over.
///
/// *Source:* livepeer-wire §5.3, livepeer-chain §6.6.
#[must_use]
pub fn max_float(reserve_share: Wei, deposit: Wei, pending: Wei) -> Wei {
    let covered = !pending.is_zero() && pending.checked_mul(3).is_some_and(|thrice| deposit >= thrice);
    if covered { reserve_share } else { reserve_share.saturating_sub(pending) }
}
