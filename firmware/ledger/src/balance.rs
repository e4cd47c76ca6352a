//! Balances: what a gateway has paid and used, per session.
use livepeer::address::{Address, keccak256};
use livepeer::units::{Timestamp, Wei};

/// One gateway's account for one session.
///
/// `/segment` names it by the auth token's session id, `/payment` by the manifest id. Both ids live in one
/// namespace, as they do with the reference node, and ids of different gateways never meet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Account {
    sender: Address,
    id: String,
}

impl Account {
    /// The account of a session, as `/segment` pays into it.
    #[must_use]
    pub fn session(sender: Address, session_id: impl Into<String>) -> Self {
        Self { sender, id: session_id.into() }
    }

    /// The account of a manifest, as `/payment` pays into it.
    #[must_use]
    pub fn manifest(sender: Address, manifest_id: impl Into<String>) -> Self {
        Self { sender, id: manifest_id.into() }
    }

    /// Who pays.
    #[must_use]
    pub fn sender(&self) -> Address {
        self.sender
    }

    /// A key of fixed length, whatever length a peer gave the id.
    pub(crate) fn key(&self) -> [u8; 52] {
        let mut key = [0; 52];
        let (sender, id) = key.split_at_mut(20);
        sender.copy_from_slice(self.sender.as_bytes());
        id.copy_from_slice(keccak256(self.id.as_bytes()).as_bytes());
        key
    }
}

/// What was paid into an account and what was used, both only ever growing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Balance {
    /// Expected value of the tickets received.
    pub credit: Wei,
    /// Fees of the work done.
    pub debit: Wei,
}

impl Balance {
    /// What is left; nothing when more was used than paid.
    #[must_use]
    pub fn available(&self) -> Wei {
        self.credit.saturating_sub(self.debit)
    }

    /// What was used beyond what was paid.
    #[must_use]
    pub fn overdrawn(&self) -> Wei {
        self.debit.saturating_sub(self.credit)
    }

    /// Is at least this much left?
    #[must_use]
    pub fn covers(&self, amount: Wei) -> bool {
        self.debit.checked_add(amount).is_some_and(|needed| self.credit >= needed)
    }
}

/// An account as stored: 32 bytes of credit, 32 of debit, 8 of the time it was last used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct AccountRecord {
    pub(crate) balance: Balance,
    pub(crate) used_at: Timestamp,
}

impl AccountRecord {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(72);
        for amount in [self.balance.credit, self.balance.debit] {
            bytes.extend_from_slice(&livepeer::units::u256_to_bytes32(amount.0));
        }
        bytes.extend_from_slice(&self.used_at.0.to_be_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (credit, rest) = bytes.split_at_checked(32)?;
        let (debit, time) = rest.split_at_checked(32)?;
        Some(Self {
            balance: Balance { credit: Wei::from_minimal_bytes(credit)?, debit: Wei::from_minimal_bytes(debit)? },
            used_at: Timestamp(i64::from_be_bytes(time.try_into().ok()?)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overdrawn_balance_covers_nothing() {
        let balance = Balance { credit: Wei::from(5), debit: Wei::from(7) };
        assert_eq!((balance.available(), balance.overdrawn()), (Wei::ZERO, Wei::from(2)));
        assert!(!balance.covers(Wei::ZERO));
        assert!(Balance { credit: Wei::from(9), ..balance }.covers(Wei::from(2)));
        assert!(!Balance { credit: Wei::from(9), ..balance }.covers(Wei::from(3)));
    }

    #[test]
    fn accounts_of_different_gateways_never_meet() {
        let other = Address::from_bytes(&[1; 20]).unwrap();
        assert_ne!(Account::session(Address::NULL, "a").key(), Account::session(other, "a").key());
        assert_eq!(Account::session(other, "a"), Account::manifest(other, "a"));
    }

    #[test]
    fn a_record_comes_back_as_it_was_stored() {
        let record = AccountRecord {
            balance: Balance { credit: Wei(primitive_types::U256::MAX), debit: Wei::from(3) },
            used_at: Timestamp(-5),
        };
        assert_eq!(AccountRecord::decode(&record.encode()), Some(record));
        assert_eq!(AccountRecord::decode(&[0; 71]), None);
    }
}
