//! The 90 kHz clock of a transport stream, which wraps every 26.5 hours.
use std::ops::{Add, Sub};

/// A point in time or a length of time, in ticks of 1/90 000 s; a point does not wrap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Ticks(pub i64);

/// Ticks in a second.
pub const PER_SECOND: i64 = 90_000;

/// The clock has 33 bits in the stream.
const WRAP: i64 = 1 << 33;

impl Ticks {
    /// Places a time stamp read from a stream on the line that does not wrap, as near to `reference` as it can be.
    #[must_use]
    pub fn unwrap_near(raw: u64, reference: Self) -> Self {
        let raw = i64::try_from(raw & 0x1_ffff_ffff).unwrap_or(0);
        let ahead = (raw - reference.0.rem_euclid(WRAP)).rem_euclid(WRAP);
        let nearest = if ahead >= WRAP / 2 { ahead - WRAP } else { ahead };
        Self(reference.0.saturating_add(nearest))
    }

    /// The 33 bits that go into a stream.
    #[must_use]
    pub fn wrapped(self) -> u64 {
        self.0.rem_euclid(WRAP).unsigned_abs()
    }

    /// A length of time from milliseconds.
    #[must_use]
    pub fn from_millis(millis: u64) -> Self {
        Self(i64::try_from(millis).unwrap_or(i64::MAX).saturating_mul(PER_SECOND / 1000))
    }

    /// A length of time in whole milliseconds, rounded to the nearest; negative lengths are 0.
    #[must_use]
    pub fn as_millis(self) -> u64 {
        let per_milli = PER_SECOND / 1000;
        u64::try_from(self.0.saturating_add(per_milli / 2) / per_milli).unwrap_or(0)
    }
}

impl Add for Ticks {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl Sub for Ticks {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_goes_on_across_the_wrap() {
        let before = Ticks(WRAP - 10);
        assert_eq!(Ticks::unwrap_near(5, before), Ticks(WRAP + 5));
        assert_eq!(Ticks::unwrap_near(WRAP.unsigned_abs() - 20, before), Ticks(WRAP - 20));
        assert_eq!(Ticks(WRAP + 5).wrapped(), 5);
        assert_eq!(Ticks(-1).wrapped(), WRAP.unsigned_abs() - 1);
    }

    #[test]
    fn a_reference_past_the_wrap_still_unwraps_to_its_neighbourhood() {
        let reference = Ticks(3 * WRAP + 100);
        assert_eq!(Ticks::unwrap_near(90, reference), Ticks(3 * WRAP + 90));
    }
}
