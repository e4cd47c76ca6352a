//! What a redemption may use and what it may cost.
//!
//! *Source:* livepeer-chain §11.3, §12.
use livepeer::units::Wei;

use crate::error::ChainError;

/// Gas of the dearest redemption measured: first fee of the round, first claim on this sender's reserve.
const REDEEM_GAS: u64 = 396_695;
/// No single call gets more.
const MAX_GAS: u64 = 3_000_000;

/// The gas limit for one redemption: the estimate and a quarter, at least the measured worst case with a third of
/// head-room on top of what the transaction's bytes cost on L1.
pub(crate) fn redeem_limit(estimate: u64, l1_component: u64) -> u64 {
    let estimated = estimate.saturating_add(estimate / 4);
    let floor = (REDEEM_GAS / 10).saturating_mul(13).saturating_add(l1_component);
    estimated.max(floor).min(MAX_GAS)
}

/// Gas of a batch before its first ticket, and of each ticket at its dearest.
const BATCH_GAS: (u64, u64) = (150_000, 320_000);

/// The gas limit for a batch of so many, by formula: the contract goes on when a ticket runs out of gas, so an estimate is
/// always one ticket short. None when it would be more than a transaction may have.
pub(crate) fn batch_limit(tickets: usize, l1_component: u64) -> Option<u64> {
    let (base, each) = BATCH_GAS;
    let tickets = u64::try_from(tickets).ok()?;
    let limit = each.checked_mul(tickets)?.checked_add(base)?.checked_add(l1_component)?;
    (limit <= MAX_GAS).then_some(limit)
}

/// The same for an errand whose dearest case is known.
pub(crate) fn errand_limit(estimate: u64, dearest: u64, l1_component: u64) -> u64 {
    let estimated = estimate.saturating_add(estimate / 4);
    let floor = (dearest / 10).saturating_mul(13).saturating_add(l1_component);
    estimated.max(floor).min(MAX_GAS)
}

/// The most to pay per gas: twice the base fee so that a spike does not strand the transaction, within the
/// operator's bounds. The chain charges the base fee whatever the cap.
pub(crate) fn fee_cap(base_fee: Wei, min: Wei, max: Wei) -> Result<Wei, ChainError> {
    if base_fee > max {
        return Err(ChainError::GasTooDear { base_fee, limit: max });
    }
    let doubled = base_fee.checked_mul(2).ok_or(ChainError::Range("base fee"))?;
    Ok(doubled.max(min).min(max))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_has_a_floor_and_a_cap() {
        assert_eq!(redeem_limit(100_000, 0), 515_697);
        assert_eq!(redeem_limit(100_000, 50_000), 565_697);
        assert_eq!(redeem_limit(800_000, 0), 1_000_000);
        assert_eq!(redeem_limit(u64::MAX, u64::MAX), 3_000_000);
    }

    #[test]
    fn a_batch_gets_what_its_dearest_tickets_need_or_is_none() {
        assert_eq!(batch_limit(2, 7), Some(790_007));
        assert_eq!(batch_limit(8, 0), Some(2_710_000));
        assert_eq!((batch_limit(8, 290_001), batch_limit(9, 0), batch_limit(usize::MAX, 0)), (None, None, None));
    }

    #[test]
    fn gas_above_the_limit_sends_nothing() {
        let cap = |base: u64| fee_cap(Wei::from(base), Wei::from(20), Wei::from(100)).ok();
        assert_eq!(cap(1), Some(Wei::from(20)));
        assert_eq!(cap(30), Some(Wei::from(60)));
        assert_eq!(cap(80), Some(Wei::from(100)));
        assert_eq!(cap(100), Some(Wei::from(100)));
        assert_eq!(cap(101), None);
    }
}
