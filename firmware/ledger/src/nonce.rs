//! Seen nonces: which tickets of one offer have counted.
use livepeer::units::L1Block;

/// The nonces seen for one recipientRand, as disjoint inclusive ranges in order.
///
/// Gateways count upwards, so a set of hundreds is mostly one range; the worst case is one range per nonce,
/// which the limit of the offer bounds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct NonceSet(Vec<(u32, u32)>);

impl NonceSet {
    pub(crate) fn contains(&self, nonce: u32) -> bool {
        let after = self.0.partition_point(|(first, _)| *first <= nonce);
        after.checked_sub(1).and_then(|i| self.0.get(i)).is_some_and(|(_, last)| nonce <= *last)
    }

    pub(crate) fn len(&self) -> usize {
        let width = |(first, last): &(u32, u32)| usize::try_from(last.saturating_sub(*first)).unwrap_or(usize::MAX);
        self.0.iter().fold(0, |sum: usize, range| sum.saturating_add(width(range)).saturating_add(1))
    }

    /// Adds a nonce; adding one twice changes nothing.
    pub(crate) fn insert(&mut self, nonce: u32) {
        if self.contains(nonce) {
            return;
        }
        let at = self.0.partition_point(|(first, _)| *first <= nonce);
        let joins_before =
            at.checked_sub(1).filter(|i| self.0.get(*i).is_some_and(|r| r.1.checked_add(1) == Some(nonce)));
        let joins_after = self.0.get(at).is_some_and(|r| nonce.checked_add(1) == Some(r.0));
        match (joins_before, joins_after) {
            (Some(before), true) => {
                let (_, last) = self.0.remove(at);
                if let Some(range) = self.0.get_mut(before) {
                    range.1 = last;
                }
            }
            (Some(before), false) => {
                if let Some(range) = self.0.get_mut(before) {
                    range.1 = nonce;
                }
            }
            (None, true) => {
                if let Some(range) = self.0.get_mut(at) {
                    range.0 = nonce;
                }
            }
            (None, false) => self.0.insert(at, (nonce, nonce)),
        }
    }

    /// Eight bytes per range.
    pub(crate) fn encode(&self) -> Vec<u8> {
        self.0.iter().flat_map(|(first, last)| [first.to_be_bytes(), last.to_be_bytes()].concat()).collect()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        if !bytes.len().is_multiple_of(8) {
            return None;
        }
        let number = |bytes: &[u8]| bytes.try_into().ok().map(u32::from_be_bytes);
        let ranges: Option<Vec<_>> =
            bytes.chunks_exact(8).map(|chunk| Some((number(chunk.get(..4)?)?, number(chunk.get(4..)?)?))).collect();
        ranges.map(Self)
    }
}

/// Key of a set, so that sets sort by the block at which their offer is over.
pub(crate) fn key(expiration: L1Block, recipient_rand_hash: livepeer::address::H256) -> Vec<u8> {
    [&expiration.0.to_be_bytes()[..], recipient_rand_hash.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn it_equals_a_plain_set(nonces in proptest::collection::vec(
            prop_oneof![0u32..40, (u32::MAX - 5)..=u32::MAX, any::<u32>()], 0..120)) {
            let (mut set, mut model) = (NonceSet::default(), BTreeSet::new());
            for nonce in nonces {
                prop_assert_eq!(set.contains(nonce), model.contains(&nonce));
                set.insert(nonce);
                model.insert(nonce);
                prop_assert!(set.contains(nonce));
                prop_assert_eq!(set.len(), model.len());
            }
            prop_assert_eq!(NonceSet::decode(&set.encode()), Some(set.clone()));
            prop_assert!(set.0.windows(2).all(|w| u64::from(w[0].1) + 1 < u64::from(w[1].0)));
        }
    }

    #[test]
    fn counting_up_stays_one_range() {
        let mut set = NonceSet::default();
        (1..=600).for_each(|nonce| set.insert(nonce));
        assert_eq!((set.encode().len(), set.len()), (8, 600));
    }
}
