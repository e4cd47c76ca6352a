//! What the work costs now, and the offer made from it.
//!
//! *Source:* livepeer-wire §5.3, §5.4.
use livepeer::address::Address;
use livepeer::broker::{ChainHead, SenderInfo};
use livepeer::params::{InsufficientReserve, LIFETIME_BLOCKS, TicketEconomics, TicketParams, max_float};
use livepeer::price::{PriceError, PricePerPixel};
use livepeer::recipient_rand::{OfferTerms, RecipientSecret};
use livepeer::units::{L1Block, Wei, u256_from_minimal_bytes};
use rand::RngCore;

use crate::config::PaymentConfig;

/// Why there is no price or no offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PricingError {
    /// The sender's reserve share is too small for a ticket worth redeeming.
    #[error(transparent)]
    Reserve(#[from] InsufficientReserve),
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

/// The terms of a new offer to a sender, at the session's price when it has one, else at today's.
///
/// # Errors
/// [`PricingError`] when no ticket of this sender would be worth redeeming.
pub fn terms(
    config: &PaymentConfig,
    head: &ChainHead,
    sender: Address,
    standing: &SenderInfo,
    pending: Wei,
    fixed: Option<PricePerPixel>,
    rng: &mut impl RngCore,
) -> Result<OfferTerms, PricingError> {
    let economics = economics(config, head);
    let free = fixed.unwrap_or(config.price_per_pixel).is_free();
    let face_value = if free {
        Wei::ZERO
    } else {
        economics.face_value(max_float(standing.claimable_reserve, standing.deposit, pending))?
    };
    let price = match fixed {
        Some(price) => price,
        None if free => PricePerPixel::FREE,
        None if config.auto_adjust_price => {
            let price = config.price_per_pixel.with_overhead(economics.tx_cost(), face_value)?;
            config.max_price_per_pixel.filter(|ceiling| at_least(price, *ceiling)).unwrap_or(price)
        }
        None => config.price_per_pixel,
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

    fn terms_for(
        config: &PaymentConfig,
        reserve: u64,
        fixed: Option<PricePerPixel>,
    ) -> Result<OfferTerms, PricingError> {
        let standing = SenderInfo { claimable_reserve: Wei::from(reserve), ..SenderInfo::default() };
        let mut rng = rand::rngs::StdRng::seed_from_u64(1);
        terms(config, &head(), Address::NULL, &standing, Wei::ZERO, fixed, &mut rng)
    }

    #[test]
    fn the_price_carries_the_cost_of_redeeming() {
        let config = PaymentConfig::default();
        let terms = terms_for(&config, u64::MAX, None).unwrap();
        assert_eq!(terms.face_value, Wei::from(100_000_000 * 1_200_000 * 100));
        assert_eq!(terms.price, PricePerPixel::new(1212, 1).unwrap());
        assert_eq!((terms.expiration_block, terms.creation_round), (L1Block(1040), Round(7)));
        let capped = PaymentConfig { max_price_per_pixel: PricePerPixel::new(1205, 1).ok(), ..config.clone() };
        assert_eq!(terms_for(&capped, u64::MAX, None).unwrap().price, PricePerPixel::new(1205, 1).unwrap());
        let fixed = PricePerPixel::new(1201, 1).unwrap();
        assert_eq!(terms_for(&config, u64::MAX, Some(fixed)).unwrap().price, fixed);
    }

    #[test]
    fn a_sender_without_reserve_gets_no_offer() {
        let error = terms_for(&PaymentConfig::default(), 1000, None).unwrap_err();
        assert_eq!(error.to_string(), "insufficient sender reserve");
    }

    #[test]
    fn free_work_is_offered_to_everybody() {
        let config = PaymentConfig { price_per_pixel: PricePerPixel::FREE, ..PaymentConfig::default() };
        let terms = terms_for(&config, 0, None).unwrap();
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
