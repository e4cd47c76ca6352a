//! Capabilities: what a job needs, what a node offers, and whether they match.
//!
//! *Source:* livepeer-wire §6.
use std::collections::BTreeSet;

/// Abilities by their network number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub enum Capability {
    H264 = 0,
    MpegTs = 1,
    Mp4 = 2,
    FractionalFramerates = 3,
    StorageDirect = 4,
    StorageS3 = 5,
    StorageGcs = 6,
    ProfileH264Baseline = 7,
    ProfileH264Main = 8,
    ProfileH264High = 9,
    ProfileH264ConstrainedHigh = 10,
    Gop = 11,
    AuthToken = 12,
    MpegSevenSignature = 14,
    HevcDecode = 15,
    HevcEncode = 16,
    Vp8Decode = 17,
    Vp9Decode = 18,
    Vp8Encode = 19,
    Vp9Encode = 20,
    H264Decode444 = 21,
    H264Decode422 = 22,
    H264Decode444Ten = 23,
    H264Decode422Ten = 24,
    H264Decode420Ten = 25,
    SegmentSlicing = 26,
}

/// A set of capability numbers; unknown numbers are kept, so that they can be refused.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CapabilitySet(BTreeSet<u32>);

/// Words a peer may send at most: far more than there are capabilities.
const MAX_WORDS: usize = 64;

impl CapabilitySet {
    /// The bits set in the wire's words; bit `i` is bit `i % 64` of word `i / 64`.
    #[must_use]
    pub fn from_bitstring(words: &[u64]) -> Self {
        let bits = (0u32..).step_by(64).zip(words.iter().take(MAX_WORDS));
        Self(
            bits.flat_map(|(base, word)| (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| base + bit))
                .collect(),
        )
    }

    /// The wire's words, without trailing empty ones.
    #[must_use]
    pub fn to_bitstring(&self) -> Vec<u64> {
        let Some(last) = self.0.last() else { return Vec::new() };
        (0..=last / 64)
            .map(|word| (0..64).filter(|bit| self.0.contains(&(word * 64 + bit))).fold(0, |bits, bit| bits | 1 << bit))
            .collect()
    }

    /// The numbers in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().copied()
    }

    /// Is every member of `self` in `other`?
    #[must_use]
    pub fn is_subset(&self, other: &Self) -> bool {
        self.0.is_subset(&other.0)
    }

    /// The members of `self` that `other` lacks.
    #[must_use]
    pub fn missing_from(&self, other: &Self) -> Vec<u32> {
        self.0.difference(&other.0).copied().collect()
    }

    /// Is this number in the set?
    #[must_use]
    pub fn contains(&self, capability: Capability) -> bool {
        self.0.contains(&(capability as u32))
    }

    /// Adds a capability.
    pub fn insert(&mut self, capability: Capability) {
        self.0.insert(capability as u32);
    }
}

impl FromIterator<Capability> for CapabilitySet {
    fn from_iter<I: IntoIterator<Item = Capability>>(capabilities: I) -> Self {
        Self(capabilities.into_iter().map(|c| c as u32).collect())
    }
}

impl FromIterator<u32> for CapabilitySet {
    fn from_iter<I: IntoIterator<Item = u32>>(numbers: I) -> Self {
        Self(numbers.into_iter().collect())
    }
}

/// Is `version` at least `minimum`? Pre-release suffixes do not count; an unreadable version is too old.
///
/// *Source:* livepeer-wire §6.2.
#[must_use]
pub fn version_satisfies(version: &str, minimum: &str) -> bool {
    fn numbers(text: &str) -> Option<[u64; 3]> {
        let core = text.trim_start_matches('v').split(['-', '+']).next()?;
        let mut parts = core.split('.').map(|part| part.parse::<u64>().ok());
        let numbers = [parts.next()??, parts.next()??, parts.next()??];
        parts.next().is_none().then_some(numbers)
    }
    if minimum.is_empty() {
        return true;
    }
    matches!((numbers(version), numbers(minimum)), (Some(have), Some(need)) if have >= need)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_without_their_suffix() {
        assert!(version_satisfies("0.9.1-millrace.1", "0.9.1"));
        assert!(version_satisfies("anything", ""));
        assert!(!version_satisfies("undefined", "0.0.1"));
        assert!(!version_satisfies("0.8.9", "0.9.0"));
    }

    #[test]
    fn bits_survive_the_wire() {
        let set: CapabilitySet = [0u32, 63, 64, 130].into_iter().collect();
        assert_eq!(CapabilitySet::from_bitstring(&set.to_bitstring()), set);
        assert!(CapabilitySet::default().to_bitstring().is_empty());
    }
}
