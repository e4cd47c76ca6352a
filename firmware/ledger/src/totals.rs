//! Money since the ledger began, for status and the fleet.
use livepeer::units::Wei;
use serde::{Deserialize, Serialize};

use crate::redemption::Redemption;

/// Counters that only ever grow, kept across restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Totals {
    /// Tickets that earned credit.
    pub tickets_received: u64,
    /// Their expected value, as credited.
    pub received: Wei,
    /// Winning tickets.
    pub tickets_won: u64,
    /// Their face value.
    pub won: Wei,
    /// Winners redeemed and confirmed.
    pub tickets_redeemed: u64,
    /// What the chain paid for them.
    pub paid: Wei,
    /// Redemption transactions that came to nothing.
    pub redemption_failures: u64,
    /// Winners given up.
    pub tickets_abandoned: u64,
    /// Their face value.
    pub abandoned: Wei,
}

/// Winners not yet settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pending {
    /// How many.
    pub tickets: u64,
    /// Their face value.
    pub face_value: Wei,
}

impl Pending {
    pub(crate) fn add(&mut self, face_value: Wei) {
        self.tickets = self.tickets.saturating_add(1);
        self.face_value = self.face_value.saturating_add(face_value);
    }
}

impl Totals {
    /// Counts a winner that just came in.
    pub(crate) fn count_winner(&mut self, face_value: Wei) {
        self.tickets_won = self.tickets_won.saturating_add(1);
        self.won = self.won.saturating_add(face_value);
    }

    /// Counts credit for some tickets.
    pub(crate) fn count_received(&mut self, tickets: u64, credited: Wei) {
        self.tickets_received = self.tickets_received.saturating_add(tickets);
        self.received = self.received.saturating_add(credited);
    }

    /// Counts a step from one state to another.
    pub(crate) fn count_step(&mut self, from: &Redemption, to: &Redemption, face_value: Wei) {
        let came_to_nothing = matches!(to, Redemption::Held { .. } | Redemption::Abandoned { .. });
        if matches!(from, Redemption::Submitted { .. }) && came_to_nothing {
            self.redemption_failures = self.redemption_failures.saturating_add(1);
        }
        match to {
            Redemption::Confirmed { paid, .. } => {
                self.tickets_redeemed = self.tickets_redeemed.saturating_add(1);
                self.paid = self.paid.saturating_add(*paid);
            }
            Redemption::Abandoned { .. } => {
                self.tickets_abandoned = self.tickets_abandoned.saturating_add(1);
                self.abandoned = self.abandoned.saturating_add(face_value);
            }
            Redemption::Held { .. } | Redemption::Submitted { .. } => {}
        }
    }
}
