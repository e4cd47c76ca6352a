//! When a winner is worth turning into a transaction.
//!
//! Walk 2, step 5.
use crate::units::{Round, Wei};

/// What to do with a winner now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Send it.
    Redeem,
    /// Keep it: the payout would not cover the cost now.
    TooDear,
    /// Keep it: it would pay less than its face value and be spent; a later round may pay all of it.
    ShortPaid,
}

/// How many rounds a ticket is good for: its own and the next.
pub const VALIDITY_ROUNDS: u64 = 2;

/// Weighs a simulated redemption.
///
/// A short payment burns the ticket, so it is taken only in the ticket's last round, and never for less
/// than it costs.
///
/// *Source:* livepeer-chain §6.4, §15.
#[must_use]
pub fn worth_redeeming(face_value: Wei, payout: Wei, cost: Wei, creation_round: Round, now: Round) -> Verdict {
    let last_round = now.0.saturating_add(1) >= creation_round.0.saturating_add(VALIDITY_ROUNDS);
    if payout <= cost {
        Verdict::TooDear
    } else if payout < face_value && !last_round {
        Verdict::ShortPaid
    } else {
        Verdict::Redeem
    }
}

/// Can this ticket still be redeemed in this round?
#[must_use]
pub fn still_valid(creation_round: Round, now: Round) -> bool {
    creation_round.0.saturating_add(VALIDITY_ROUNDS) > now.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_payment_waits_for_the_last_round() {
        let verdict = |payout: u64, now: u64| {
            worth_redeeming(Wei::from(100), Wei::from(payout), Wei::from(10), Round(7), Round(now))
        };
        assert_eq!(verdict(100, 7), Verdict::Redeem);
        assert_eq!(verdict(60, 7), Verdict::ShortPaid);
        assert_eq!(verdict(60, 8), Verdict::Redeem);
        assert_eq!(verdict(10, 8), Verdict::TooDear);
        assert_eq!(verdict(0, 8), Verdict::TooDear);
    }

    #[test]
    fn a_ticket_lives_through_the_next_round() {
        assert!(still_valid(Round(7), Round(8)));
        assert!(!still_valid(Round(7), Round(9)));
    }
}
