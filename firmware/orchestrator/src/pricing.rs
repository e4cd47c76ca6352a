//! What the work costs now, and the offer made from it.
//!
//! *Source:* livepeer-wire §5.3, §5.4.
use livepeer::address::Address;
use livepeer::broker::{ChainHead, SenderInfo};
use livepeer::params::{InsufficientReserve, LIFETIME_BLOCKS, TicketEconomics, TicketParams, max_float};
use livepeer::price::quoted::QuoteError;
use livepeer::price::{PriceError, PricePerPixel};
use livepeer::recipient_rand::{OfferTerms, RecipientSecret};
use livepeer::units::{L1Block, Wei, u256_from_minimal_bytes};
use rand::RngCore;

use crate::config::PaymentConfig;
use crate::prices::Today;

/// What an offer is made at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// A price that is settled: the session's, or one that the operator granted this gateway.
    Settled(PricePerPixel),
    /// Today's.
    Today(Today),
}

/// Why there is no price or no offer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PricingError {
    /// The sender's reserve share is too small for a ticket worth redeeming.
    #[error(transparent)]
    Reserve(#[from] InsufficientReserve),
    /// A price is in a currency whose value is not known now.
    #[error(transparent)]
    Quote(#[from] QuoteError),
    /// The price with its overhead does not fit the wire.
    #[error("price with overhead: {0}")]
    Price(#[from] PriceError),
}

/// What the operator and the chain say about tickets at the moment.
#[must_use]
pub fn economics(config: &PaymentConfig, head: &ChainHead) -> TicketEconomics {
    TicketEconomics {
        expected_value: config.ticket_ev_wei,
        redeem_gas: config.redeem_gas,
        gas_price: head.gas_price,
        multiplier: config.face_value_multiplier,
        max_face_value: config.max_face_value_wei,
    }
}

/// The terms of a new offer to a sender.
///
/// # Errors
/// [`PricingError`] when no ticket of this sender would be worth redeeming.
pub fn terms(
    config: &PaymentConfig,
    head: &ChainHead,
    sender: Address,
    standing: &SenderInfo,
    pending: Wei,
    asked: Asked,
    rng: &mut impl RngCore,
) -> Result<OfferTerms, PricingError> {
    let economics = economics(config, head);
    let free = match asked {
        Asked::Settled(price) => price.is_free(),
        Asked::Today(today) => today.base.is_free(),
    };
    let face_value = if free {
        Wei::ZERO
    } else {
        economics.face_value(max_float(standing.claimable_reserve, standing.deposit, pending))?
    };
    let price = match asked {
        Asked::Settled(price) => price,
        Asked::Today(_) if free => PricePerPixel::FREE,
        Asked::Today(today) if config.auto_adjust_price => adjusted(today, economics.tx_cost(), face_value)?,
        Asked::Today(today) => today.base,
    };
    let mut seed = [0; 32];
    rng.fill_bytes(&mut seed);
    Ok(OfferTerms {
        seed: u256_from_minimal_bytes(&seed).unwrap_or_default(),
        sender,
        face_value,
        win_prob: economics.win_prob(face_value),
        expiration_block: L1Block(head.l1_block.0.saturating_add(LIFETIME_BLOCKS)),
        price,
        creation_round: head.ticket_round,
        creation_round_block_hash: head.ticket_round_block_hash,
    })
}

/// Today's price with the cost of redeeming on top, never above its ceiling. Truncated to thousandths of a wei as
/// the reference does, except where that would leave nothing.
///
/// # Errors
/// [`PriceError::TooLarge`] when it does not fit the wire.
pub fn adjusted(today: Today, tx_cost: Wei, face_value: Wei) -> Result<PricePerPixel, PriceError> {
    let price = today.base.with_overhead(tx_cost, face_value)?;
    Ok(today.capped(if price.is_free() { today.base } else { price }))
}

/// The offer that states these terms.
#[must_use]
pub fn offer(secret: &RecipientSecret, recipient: Address, terms: &OfferTerms) -> TicketParams {
    TicketParams::offer(secret, recipient, terms)
}

/// Is `price` at least `floor`?
#[must_use]
pub fn at_least(price: PricePerPixel, floor: PricePerPixel) -> bool {
    let ((wei, pixels), (floor_wei, floor_pixels)) = (price.parts(), floor.parts());
    u128::from(wei) * u128::from(floor_pixels) >= u128::from(floor_wei) * u128::from(pixels)
}

#[cfg(test)]
mod tests {
    use super::*;
    use livepeer::address::H256;
    use livepeer::units::{L2Block, Round, Timestamp};
    use rand::SeedableRng;

    fn head() -> ChainHead {
        ChainHead {
            l1_block: L1Block(1000),
            l2_block: L2Block(5000),
            round: Round(7),
            last_initialized_round: Round(7),
            ticket_round: Round(7),
            ticket_round_block_hash: H256::repeat_byte(7),
            recipient_active: true,
            gas_price: Wei::from(100_000_000),
            paused: false,
            seen_at: Timestamp(0),
        }
    }

    fn today(wei: u64, ceiling: Option<u64>) -> Asked {
        let price = |wei| PricePerPixel::new(wei, 1).unwrap();
        Asked::Today(Today { base: price(wei), ceiling: ceiling.map(price) })
    }

    fn terms_for(reserve: u64, asked: Asked) -> Result<OfferTerms, PricingError> {
        let standing = SenderInfo { claimable_reserve: Wei::from(reserve), ..SenderInfo::default() };
        let mut rng = rand::rngs::StdRng::seed_from_u64(1);
        terms(&PaymentConfig::default(), &head(), Address::NULL, &standing, Wei::ZERO, asked, &mut rng)
    }

    #[test]
    fn the_price_carries_the_cost_of_redeeming() {
        let terms = terms_for(u64::MAX, today(1200, None)).unwrap();
        assert_eq!(terms.face_value, Wei::from(100_000_000 * 1_200_000 * 100));
        assert_eq!(terms.price, PricePerPixel::new(1212, 1).unwrap());
        assert_eq!((terms.expiration_block, terms.creation_round), (L1Block(1040), Round(7)));
        let capped = terms_for(u64::MAX, today(1200, Some(1205))).unwrap();
        assert_eq!(capped.price, PricePerPixel::new(1205, 1).unwrap());
        let settled = PricePerPixel::new(1201, 1).unwrap();
        assert_eq!(terms_for(u64::MAX, Asked::Settled(settled)).unwrap().price, settled);
    }

    #[test]
    fn a_price_below_a_thousandth_of_a_wei_does_not_become_nothing() {
        let base = PricePerPixel::new(1, 2000).unwrap();
        let price = adjusted(Today { base, ceiling: None }, Wei::from(1), Wei::from(100)).unwrap();
        assert_eq!(price, base);
    }

    #[test]
    fn a_sender_without_reserve_gets_no_offer() {
        let error = terms_for(1000, today(1200, None)).unwrap_err();
        assert_eq!(error.to_string(), "insufficient sender reserve");
    }

    #[test]
    fn free_work_is_offered_to_everybody() {
        let terms = terms_for(0, today(0, None)).unwrap();
        assert!(terms.price.is_free() && terms.face_value.is_zero());
    }

    #[test]
    fn prices_compare_as_fractions() {
        let price = |wei, pixels| PricePerPixel::new(wei, pixels).unwrap();
        assert!(at_least(price(1, 3), price(333, 1000)));
        assert!(!at_least(price(333, 1000), price(1, 3)));
        assert!(at_least(PricePerPixel::FREE, PricePerPixel::FREE));
    }
}
