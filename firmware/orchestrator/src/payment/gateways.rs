//! What single gateways paid since start, for people and dashboards: so many gateways, whoever else comes is counted
//! with the others.
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use livepeer::address::Address;
use livepeer::units::Wei;
use service::status::GatewayMoney;

/// Gateways that are told of singly.
const MAX_GATEWAYS: usize = 100;
/// The name of all others together.
const OTHERS: &str = "other";

#[derive(Debug, Default)]
pub(crate) struct Gateways {
    book: Mutex<Book>,
}

#[derive(Debug, Default)]
struct Book {
    known: BTreeMap<Address, Figures>,
    others: Figures,
}

#[derive(Debug, Default, Clone, Copy)]
struct Figures {
    tickets: u64,
    value: Wei,
    winners: u64,
    /// Face value and the most we could redeem, when last offered.
    offered: Option<(Wei, Wei)>,
}

impl Gateways {
    /// Tickets came in. Only who pays gets a place of its own: asking is free.
    pub(crate) fn paid(&self, sender: Address, tickets: usize, value: Wei, winners: usize) {
        if tickets == 0 && winners == 0 {
            return;
        }
        let mut book = self.book();
        let room = book.known.len() < MAX_GATEWAYS;
        let figures = match book.known.contains_key(&sender) || room {
            true => book.known.entry(sender).or_default(),
            false => &mut book.others,
        };
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        figures.tickets = figures.tickets.saturating_add(count(tickets));
        figures.value = figures.value.saturating_add(value);
        figures.winners = figures.winners.saturating_add(count(winners));
    }

    /// An offer was made.
    pub(crate) fn offered(&self, sender: Address, face_value: Wei, max_float: Wei) {
        if let Some(figures) = self.book().known.get_mut(&sender) {
            figures.offered = Some((face_value, max_float));
        }
    }

    /// All of them, for the status.
    pub(crate) fn told(&self) -> Vec<GatewayMoney> {
        let book = self.book();
        let others = (book.others.tickets > 0).then(|| (OTHERS.to_owned(), &book.others));
        let known = book.known.iter().map(|(address, figures)| (address.to_string(), figures));
        known.chain(others).map(|(address, figures)| figures.told(address)).collect()
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Figures {
    fn told(&self, address: String) -> GatewayMoney {
        let offered = |pick: fn((Wei, Wei)) -> Wei| self.offered.map(|o| pick(o).to_string()).unwrap_or_default();
        GatewayMoney {
            address,
            tickets: self.tickets,
            value_wei: self.value.to_string(),
            winners: self.winners,
            face_value_wei: offered(|(face_value, _)| face_value),
            max_float_wei: offered(|(_, max_float)| max_float),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u16) -> Address {
        let mut bytes = [0; 20];
        bytes[18..].copy_from_slice(&number.to_be_bytes());
        Address::from_bytes(&bytes).unwrap()
    }

    #[test]
    fn a_crowd_of_gateways_costs_a_bounded_number_of_names_and_no_ticket() {
        let gateways = Gateways::default();
        let most = u16::try_from(MAX_GATEWAYS).unwrap();
        gateways.offered(address(7), Wei::from(1), Wei::from(1));
        assert!(gateways.told().is_empty(), "asking is free");
        for number in 0..most + 50 {
            gateways.paid(address(number), 2, Wei::from(10), 1);
        }
        gateways.paid(address(3), 1, Wei::from(5), 0);
        gateways.offered(address(3), Wei::from(40), Wei::from(400));
        let told = gateways.told();
        assert_eq!(told.len(), MAX_GATEWAYS + 1);
        let sum: u64 = told.iter().map(|gateway| gateway.tickets).sum();
        assert_eq!(sum, (u64::from(most) + 50) * 2 + 1);
        let other = told.iter().find(|gateway| gateway.address == OTHERS).unwrap();
        assert_eq!((other.tickets, other.value_wei.as_str(), other.winners), (100, "500", 50));
        let third = told.iter().find(|gateway| gateway.address == address(3).to_string()).unwrap();
        assert_eq!((third.tickets, third.value_wei.as_str()), (3, "15"));
        assert_eq!((third.face_value_wei.as_str(), third.max_float_wei.as_str()), ("40", "400"));
    }
}
