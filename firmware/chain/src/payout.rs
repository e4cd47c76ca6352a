//! What the contract would pay for a winner.
//!
//! *Source:* livepeer-chain §6.4.
use livepeer::units::Wei;

/// The payout of a face value from a deposit and a claimable share of the reserve. Less than the face value means the
/// ticket would be spent for it all the same.
#[must_use]
pub fn payout(face_value: Wei, deposit: Wei, claimable: Wei) -> Wei {
    let beyond = face_value.saturating_sub(deposit);
    if beyond.is_zero() { face_value } else { deposit.saturating_add(beyond.min(claimable)) }
}

/// An orchestrator's share of a reserve this round; nothing when it took more than its share before the pool grew,
/// where the contract itself fails until the next round.
#[must_use]
pub fn claimable_reserve(remaining: Wei, claimed_in_round: Wei, pool_size: u64, claimed_by_me: Wei) -> Wei {
    if pool_size == 0 {
        return Wei::ZERO;
    }
    Wei(remaining.saturating_add(claimed_in_round).0 / pool_size).saturating_sub(claimed_by_me)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payout_is_never_more_than_the_face_value() {
        let pay =
            |face: u64, deposit: u64, claimable: u64| payout(Wei::from(face), Wei::from(deposit), Wei::from(claimable));
        assert_eq!(pay(10, 20, 5), Wei::from(10));
        assert_eq!(pay(20, 20, 5), Wei::from(20));
        assert_eq!(pay(23, 20, 5), Wei::from(23));
        assert_eq!(pay(30, 20, 5), Wei::from(25));
        assert_eq!(pay(30, 0, 0), Wei::ZERO);
        assert_eq!(pay(0, 0, 0), Wei::ZERO);
    }
}
