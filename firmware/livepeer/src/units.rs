//! Units: no bare integer crosses a function boundary with its unit in a comment.
//!
//! Money is whole wei and only ever checked arithmetic.
use std::fmt;

use primitive_types::{U256, U512};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Whole wei, the smallest unit of ETH. In JSON a decimal string, so that nothing loses precision.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct Wei(pub U256);

impl Wei {
    /// Nothing.
    pub const ZERO: Self = Self(U256::zero());

    /// The sum, or `None` when it does not fit.
    #[must_use]
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }

    /// The difference, or `None` when it would be negative.
    #[must_use]
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        self.0.checked_sub(other.0).map(Self)
    }

    /// The product with a plain count, or `None` when it does not fit.
    #[must_use]
    pub fn checked_mul(self, count: u64) -> Option<Self> {
        self.0.checked_mul(U256::from(count)).map(Self)
    }

    /// The difference, or zero when it would be negative.
    #[must_use]
    pub fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// The sum, or the largest amount when it does not fit.
    #[must_use]
    pub fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// Is this nothing?
    #[must_use]
    pub fn is_zero(self) -> bool {
        self.0.is_zero()
    }

    /// From big-endian bytes of at most 32; `None` when there are more.
    #[must_use]
    pub fn from_minimal_bytes(bytes: &[u8]) -> Option<Self> {
        u256_from_minimal_bytes(bytes).map(Self)
    }

    /// Big-endian bytes without leading zeros; zero has none.
    #[must_use]
    pub fn to_minimal_bytes(self) -> Vec<u8> {
        u256_to_minimal_bytes(self.0)
    }

    /// From a decimal string.
    ///
    /// # Errors
    /// [`ParseWeiError`] when the text is not a decimal number below 2²⁵⁶.
    pub fn from_dec_str(text: &str) -> Result<Self, ParseWeiError> {
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(ParseWeiError);
        }
        U256::from_dec_str(text).map(Self).map_err(|_| ParseWeiError)
    }
}

impl From<u64> for Wei {
    fn from(wei: u64) -> Self {
        Self(wei.into())
    }
}

impl fmt::Display for Wei {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Wei {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} wei", self.0)
    }
}

impl std::str::FromStr for Wei {
    type Err = ParseWeiError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::from_dec_str(text)
    }
}

/// The text is not a decimal number of wei.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a decimal number of wei")]
pub struct ParseWeiError;

impl Serialize for Wei {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Wei {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::from_dec_str(&text).map_err(de::Error::custom)
    }
}

/// A chance of winning: the numerator over 2²⁵⁶ − 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct WinProb(pub U256);

impl WinProb {
    /// Never wins.
    pub const NEVER: Self = Self(U256::zero());
    /// Wins but for one draw in 2²⁵⁶.
    pub const ALWAYS: Self = Self(U256::MAX);

    /// The chance as a float between 0 and 1, for display only.
    #[must_use]
    pub fn as_f64(self) -> f64 {
        self.0.0.iter().enumerate().fold(0.0, |sum, (i, limb)| {
            let exponent = i32::try_from(i).unwrap_or(0) * 64 - 256;
            sum + limb_as_f64(*limb) * 2f64.powi(exponent)
        })
    }
}

/// A limb as a float; the lost low bits do not matter for display.
fn limb_as_f64(limb: u64) -> f64 {
    let (high, low) = (limb >> 32, limb & 0xffff_ffff);
    f64::from(u32::try_from(high).unwrap_or(0)) * 4_294_967_296.0 + f64::from(u32::try_from(low).unwrap_or(0))
}

impl fmt::Debug for WinProb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.6e}", self.as_f64())
    }
}

impl Serialize for WinProb {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for WinProb {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Wei::deserialize(deserializer).map(|n| Self(n.0))
    }
}

/// What one ticket is worth on average: face value × win prob / (2²⁵⁶ − 1), kept exactly.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ExpectedValue(U512);

impl ExpectedValue {
    /// The expected value of a ticket.
    #[must_use]
    pub fn of(face_value: Wei, win_prob: WinProb) -> Self {
        Self(face_value.0.full_mul(win_prob.0))
    }

    /// Rounded up to whole wei: what a gateway is credited. The part of a wei we give away keeps our
    /// books from ever reading less than those of a gateway that counts in exact fractions.
    #[must_use]
    pub fn to_wei_ceil(self) -> Wei {
        let (quotient, rest) = self.0.div_mod(U512::from(U256::MAX));
        let quotient = if rest.is_zero() { quotient } else { quotient + U512::one() };
        Wei(U256::try_from(quotient).unwrap_or(U256::MAX))
    }

    /// Rounded down to whole wei, for display.
    #[must_use]
    pub fn to_wei_floor(self) -> Wei {
        Wei(U256::try_from(self.0 / U512::from(U256::MAX)).unwrap_or(U256::MAX))
    }

    /// The exact numerator over 2²⁵⁶ − 1.
    #[must_use]
    pub fn numerator(self) -> U512 {
        self.0
    }
}

impl fmt::Debug for ExpectedValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "≈{} wei", self.to_wei_floor().0)
    }
}

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

counter!(
    /// A number of encoded pixels: width × height × frames.
    Pixels
);
counter!(
    /// A protocol round, counted since the protocol began.
    Round
);
counter!(
    /// A block of Ethereum itself, which rounds and ticket expiry count in. Not the height of Arbitrum.
    L1Block
);
counter!(
    /// A block of the chain we transact on.
    L2Block
);
counter!(
    /// A number of bytes.
    Bytes
);

/// Bits per second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BitsPerSecond(pub u32);

/// Frames per second as a fraction; both parts are positive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FrameRate {
    /// Frames.
    pub num: u32,
    /// Seconds.
    pub den: u32,
}

/// Seconds since 1970, as the wall clock has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

/// Reads at most 32 big-endian bytes; `None` when there are more.
#[must_use]
pub fn u256_from_minimal_bytes(bytes: &[u8]) -> Option<U256> {
    (bytes.len() <= 32).then(|| U256::from_big_endian(bytes))
}

/// Big-endian bytes without leading zeros; zero has none.
#[must_use]
pub fn u256_to_minimal_bytes(value: U256) -> Vec<u8> {
    let bytes = u256_to_bytes32(value);
    bytes.iter().skip_while(|b| **b == 0).copied().collect()
}

/// All 32 big-endian bytes.
#[must_use]
pub fn u256_to_bytes32(value: U256) -> [u8; 32] {
    let mut bytes = [0; 32];
    value.to_big_endian(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wei_survives_json_as_a_string() {
        let wei = Wei(U256::MAX);
        let text = serde_json::to_string(&wei).unwrap();
        assert!(text.starts_with('"'));
        assert_eq!(serde_json::from_str::<Wei>(&text).unwrap(), wei);
        assert!(serde_json::from_str::<Wei>("\"0x10\"").is_err());
        assert!(serde_json::from_str::<Wei>("\"-1\"").is_err());
    }

    #[test]
    fn an_expected_value_rounds_up_for_credit_and_down_for_display() {
        let ev = ExpectedValue::of(Wei::from(3), WinProb(U256::MAX / 2));
        assert_eq!((ev.to_wei_floor(), ev.to_wei_ceil()), (Wei::from(1), Wei::from(2)));
        let sure = ExpectedValue::of(Wei::from(3), WinProb::ALWAYS);
        assert_eq!((sure.to_wei_floor(), sure.to_wei_ceil()), (Wei::from(3), Wei::from(3)));
    }

    #[test]
    fn win_prob_reads_as_a_fraction() {
        assert!((WinProb(U256::MAX / 4).as_f64() - 0.25).abs() < 1e-9);
    }
}
