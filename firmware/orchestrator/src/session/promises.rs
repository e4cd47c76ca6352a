//! What was promised to gateways that are not here yet: a slot to one that was just given an offer, a way on for one
//! that refreshed its token.
//!
//! Both are memory that peers cause, so both are bounded in number and in time. A slot is held for seconds, only one
//! for each owner, never more than half of what is free, and an owner that let a hold lapse gets none for a minute:
//! asking around without coming keeps nobody out.
use std::collections::HashMap;
use std::time::Duration;

use livepeer::price::PricePerPixel;
use tokio::time::Instant;

use super::Owner;

/// How long a slot is held for a gateway that was given an offer.
const HELD: Duration = Duration::from_secs(5);
/// How long a gateway that did not come gets no other one held.
const REST: Duration = Duration::from_secs(60);
/// Owners whose holds are remembered.
const MAX_HOLDS: usize = 1024;
/// How long a refreshed token may be used for the first time: a gateway asks for one right before a segment.
const LINKED: Duration = Duration::from_secs(5 * 60);
/// Refreshed tokens of one session that may be out at the same time: a gateway asks more than once.
pub(super) const MAX_LINKS: usize = 4;
/// Refreshed tokens out in all.
const MAX_ALL_LINKS: usize = 4096;

/// Slots held at discovery.
#[derive(Debug, Default)]
pub(super) struct Holds(HashMap<Owner, Instant>);

impl Holds {
    /// Holds a slot for an owner, if that takes not more than half of the free ones.
    pub(super) fn hold(&mut self, owner: Owner, free: usize) {
        self.0.retain(|_, since| since.elapsed() < REST);
        let active = self.0.values().filter(|since| since.elapsed() < HELD).count();
        let rests = self.0.contains_key(&owner);
        if !rests && active < free.saturating_add(active).div_ceil(2) && self.0.len() < MAX_HOLDS {
            self.0.insert(owner, Instant::now());
        }
    }

    /// The owner came.
    pub(super) fn release(&mut self, owner: Owner) {
        self.0.remove(&owner);
    }

    /// Slots held now for others than this owner.
    pub(super) fn of_others(&self, owner: Owner) -> usize {
        self.0.iter().filter(|(other, since)| **other != owner && since.elapsed() < HELD).count()
    }
}

/// A refreshed token: the session it continues, and what it takes over.
#[derive(Debug, Clone)]
pub(super) struct Link {
    pub(super) predecessor: String,
    pub(super) price: Option<PricePerPixel>,
    since: Instant,
}

/// Refreshed tokens, by the session ids in them.
#[derive(Debug, Default)]
pub(super) struct Links(HashMap<String, Link>);

impl Links {
    /// Remembers that `id` continues `predecessor`. Says whether there was room for it.
    pub(super) fn add(&mut self, id: &str, predecessor: &str, price: Option<PricePerPixel>) -> bool {
        self.0.retain(|_, link| link.since.elapsed() < LINKED);
        if self.0.len() >= MAX_ALL_LINKS {
            return false;
        }
        let link = Link { predecessor: predecessor.to_owned(), price, since: Instant::now() };
        self.0.insert(id.to_owned(), link);
        true
    }

    /// What `id` continues.
    pub(super) fn of(&self, id: &str) -> Option<&Link> {
        self.0.get(id).filter(|link| link.since.elapsed() < LINKED)
    }

    /// How many tokens continue this session.
    pub(super) fn to(&self, predecessor: &str) -> usize {
        self.0.values().filter(|link| link.predecessor == predecessor && link.since.elapsed() < LINKED).count()
    }

    /// The session is over, and nothing continues it.
    pub(super) fn forget(&mut self, predecessor: &str) {
        self.0.retain(|_, link| link.predecessor != predecessor);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    fn owner(last: u8) -> Owner {
        Owner::Peer(IpAddr::from([192, 0, 2, last]))
    }

    #[tokio::test(start_paused = true)]
    async fn a_slot_is_held_for_seconds_and_never_more_than_half() {
        let mut holds = Holds::default();
        for last in 1..=9 {
            holds.hold(owner(last), 4_usize.saturating_sub(holds.of_others(owner(0))));
        }
        assert_eq!(holds.of_others(owner(0)), 2, "of four");
        assert_eq!(holds.of_others(owner(1)), 1, "one's own does not stand in one's way");
        tokio::time::advance(HELD).await;
        assert_eq!(holds.of_others(owner(0)), 0);
        holds.hold(owner(1), 4);
        assert_eq!(holds.of_others(owner(0)), 0, "it did not come");
        tokio::time::advance(REST).await;
        holds.hold(owner(1), 4);
        assert_eq!(holds.of_others(owner(0)), 1);
        holds.release(owner(1));
        holds.hold(owner(1), 1);
        assert_eq!(holds.of_others(owner(0)), 1, "one that comes may ask again, and the last slot can be held too");
    }

    #[tokio::test(start_paused = true)]
    async fn links_are_bounded_in_number_and_time() {
        let mut links = Links::default();
        for number in 0..MAX_ALL_LINKS {
            assert!(links.add(&number.to_string(), "old", None));
        }
        assert!(!links.add("more", "old", None));
        assert_eq!(links.of("7").map(|link| link.predecessor.as_str()), Some("old"));
        tokio::time::advance(LINKED).await;
        assert!(links.of("7").is_none() && links.to("old") == 0);
        assert!(links.add("more", "old", None));
        links.forget("old");
        assert!(links.of("more").is_none());
    }
}
