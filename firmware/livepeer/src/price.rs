//! Prices: wei per pixel as a fraction, and what a segment costs.
use std::fmt;

use primitive_types::{U256, U512};
use serde::{Deserialize, Serialize};

use crate::units::{Pixels, Wei};

pub mod quoted;

/// A price: so many wei for so many pixels.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "(u64, u64)", into = "(u64, u64)")]
pub struct PricePerPixel {
    wei: u64,
    pixels: u64,
}

/// Why numbers are not a price.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PriceError {
    /// A negative number of wei.
    #[error("price is negative")]
    Negative,
    /// A price for no pixels.
    #[error("pixels per unit must be positive")]
    NoPixels,
    /// Too large for the wire's 63 bits.
    #[error("price does not fit the wire format")]
    TooLarge,
    /// Text that is not a decimal number.
    #[error(
        "not a price: expected a decimal number such as 1200 or 0.7, in wei unless a currency follows as in 0.41USD"
    )]
    Text,
}

impl PricePerPixel {
    /// Nothing at all.
    pub const FREE: Self = Self { wei: 0, pixels: 1 };

    /// `wei` for `pixels`, reduced.
    ///
    /// # Errors
    /// [`PriceError`] when `pixels` is zero or a part does not fit the wire's signed 64 bits.
    pub fn new(wei: u64, pixels: u64) -> Result<Self, PriceError> {
        if pixels == 0 {
            return Err(PriceError::NoPixels);
        }
        let divisor = gcd(wei, pixels);
        let (wei, pixels) = (wei / divisor, pixels / divisor);
        if i64::try_from(wei).is_err() || i64::try_from(pixels).is_err() {
            return Err(PriceError::TooLarge);
        }
        Ok(Self { wei, pixels })
    }

    /// From the wire's signed numbers.
    ///
    /// # Errors
    /// [`PriceError`] when negative or for no pixels.
    pub fn from_wire(price_per_unit: i64, pixels_per_unit: i64) -> Result<Self, PriceError> {
        let wei = u64::try_from(price_per_unit).map_err(|_| PriceError::Negative)?;
        let pixels = u64::try_from(pixels_per_unit).map_err(|_| PriceError::NoPixels)?;
        Self::new(wei, pixels)
    }

    /// The wire's numbers: wei, pixels.
    #[must_use]
    pub fn to_wire(self) -> (i64, i64) {
        (i64::try_from(self.wei).unwrap_or(i64::MAX), i64::try_from(self.pixels).unwrap_or(i64::MAX))
    }

    /// Numerator and denominator.
    #[must_use]
    pub fn parts(self) -> (u64, u64) {
        (self.wei, self.pixels)
    }

    /// Is it nothing?
    #[must_use]
    pub fn is_free(self) -> bool {
        self.wei == 0
    }

    /// What so many pixels cost, rounded down to whole wei. (Credit is rounded up, so our books never read
    /// less than those of a gateway that counts in exact fractions.)
    #[must_use]
    pub fn fee(self, pixels: Pixels) -> Wei {
        let product = U256::from(self.wei) * U256::from(pixels.0);
        Wei(product.checked_div(U256::from(self.pixels)).unwrap_or_default())
    }

    /// The price with the cost of redeeming tickets on top: `base × (1 + tx_cost / face_value)`, truncated
    /// to thousandths of a wei as the reference does.
    ///
    /// # Errors
    /// [`PriceError::TooLarge`] when the result does not fit the wire.
    ///
    /// *Source:* livepeer-wire §5.4, vector `auto_adjust_price`.
    pub fn with_overhead(self, tx_cost: Wei, face_value: Wei) -> Result<Self, PriceError> {
        if face_value.is_zero() || tx_cost.is_zero() {
            return self.thousandths(U512::from(self.wei) * 1000, U512::from(self.pixels));
        }
        let sum = face_value.checked_add(tx_cost).ok_or(PriceError::TooLarge)?;
        let numerator =
            sum.0.full_mul(U256::from(self.wei)).checked_mul(U512::from(1000)).ok_or(PriceError::TooLarge)?;
        self.thousandths(numerator, face_value.0.full_mul(U256::from(self.pixels)))
    }

    fn thousandths(self, numerator: U512, denominator: U512) -> Result<Self, PriceError> {
        let floor = numerator.checked_div(denominator).ok_or(PriceError::NoPixels)?;
        let floor = u64::try_from(floor).map_err(|_| PriceError::TooLarge)?;
        Self::new(floor, 1000)
    }
}

impl std::str::FromStr for PricePerPixel {
    type Err = PriceError;

    /// Digits with optional decimals, in wei per pixel: `1200`, `0.7`.
    fn from_str(text: &str) -> Result<Self, PriceError> {
        let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
        let all_digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || !all_digits(whole) || !all_digits(decimals) || decimals.len() > 18 {
            return Err(PriceError::Text);
        }
        let places = u32::try_from(decimals.len()).map_err(|_| PriceError::Text)?;
        let numerator: u64 = format!("{whole}{decimals}").parse().map_err(|_| PriceError::TooLarge)?;
        Self::new(numerator, 10u64.checked_pow(places).ok_or(PriceError::TooLarge)?)
    }
}

impl TryFrom<(u64, u64)> for PricePerPixel {
    type Error = PriceError;
    fn try_from((wei, pixels): (u64, u64)) -> Result<Self, PriceError> {
        Self::new(wei, pixels)
    }
}

impl From<PricePerPixel> for (u64, u64) {
    fn from(price: PricePerPixel) -> Self {
        price.parts()
    }
}

impl fmt::Display for PricePerPixel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.pixels == 1 {
            write!(f, "{} wei per pixel", self.wei)
        } else {
            write!(f, "{} wei per {} pixels", self.wei, self.pixels)
        }
    }
}

impl fmt::Debug for PricePerPixel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.wei, self.pixels)
    }
}

fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_price_for_no_pixels_is_refused() {
        assert_eq!(PricePerPixel::from_wire(1, 0), Err(PriceError::NoPixels));
        assert_eq!(PricePerPixel::from_wire(-1, 1), Err(PriceError::Negative));
        assert_eq!(PricePerPixel::from_wire(1, -1), Err(PriceError::NoPixels));
    }

    #[test]
    fn prices_read_as_operators_write_them() {
        assert_eq!("0.7".parse(), PricePerPixel::new(7, 10));
        assert_eq!("1200".parse(), PricePerPixel::new(1200, 1));
        assert_eq!("1e3".parse::<PricePerPixel>(), Err(PriceError::Text));
        assert_eq!("-1".parse::<PricePerPixel>(), Err(PriceError::Text));
    }

    #[test]
    fn a_fee_is_rounded_down() {
        let price = PricePerPixel::new(1, 3).unwrap();
        assert_eq!(price.fee(Pixels(10)), Wei::from(3));
        assert_eq!(
            PricePerPixel::new(u64::MAX / 2, 1).unwrap().fee(Pixels(u64::MAX)).0,
            U256::from(u64::MAX / 2) * U256::from(u64::MAX)
        );
    }
}
