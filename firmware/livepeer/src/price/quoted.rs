//! Prices as operators write them: a decimal number, in wei, in ether, or in another currency.
//!
//! A price in another currency becomes one in wei by the price of an ether, which an on-chain feed tells.
//!
//! *Source:* livepeer-wire §5.4.
use std::fmt;

use primitive_types::{U256, U512};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{PriceError, PricePerPixel};

/// Wei of one ether.
const ETHER: u64 = 1_000_000_000_000_000_000;
/// Most decimals a price may have.
const MAX_DECIMALS: usize = 18;
/// Most decimals a price keeps when it has no exact form on the wire.
const KEPT_DECIMALS: u32 = 15;
/// Longest name of a currency.
const MAX_CURRENCY: usize = 8;

/// What a price is counted in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Currency {
    /// Wei.
    Wei,
    /// Ether: 10^18 wei.
    Ether,
    /// Something whose value in ether a feed tells, in capitals: `USD`.
    Other(String),
}

/// A price of so many pixels as written: `1200`, `0.7`, `0.00000001ETH`, `0.41USD`.
#[derive(Clone, PartialEq, Eq)]
pub struct QuotedPrice {
    digits: u64,
    decimals: u32,
    currency: Currency,
}

/// What an ether costs in another currency, as a fraction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtherPrice {
    /// The currency, in capitals.
    pub currency: String,
    /// Units of the currency …
    pub units: U256,
    /// … for so many ether.
    pub ether: U256,
}

impl EtherPrice {
    /// The price as a decimal number with two digits behind the point, for people.
    #[must_use]
    pub fn display(&self) -> String {
        let cents = self.units.full_mul(U256::from(100)).checked_div(U512::from(self.ether)).unwrap_or_default();
        let text = format!("{cents:0>3}");
        let (whole, cents) = text.split_at(text.len().saturating_sub(2));
        format!("{whole}.{cents} {}", self.currency)
    }
}

/// Why a written price is not one in wei now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuoteError {
    /// No feed told the price of ether in this currency.
    #[error("the price is in {0}, and no price of ether in {0} is known now")]
    NoFeed(String),
    /// A price so small that it would be none.
    #[error("the price of one pixel is below what the wire can express; it would be nothing")]
    TooSmall,
    /// It does not fit the wire.
    #[error(transparent)]
    Price(#[from] PriceError),
}

impl QuotedPrice {
    /// What it is counted in.
    #[must_use]
    pub fn currency(&self) -> &Currency {
        &self.currency
    }

    /// Is it nothing, in any currency?
    #[must_use]
    pub fn is_free(&self) -> bool {
        self.digits == 0
    }

    /// The price of one pixel in wei, when this is the price of so many `pixels`. Truncated where the wire has no
    /// exact form for it, but never to nothing.
    ///
    /// # Errors
    /// [`QuoteError`] when it is in a currency whose feed is not at hand, or does not fit the wire.
    pub fn per_pixel(&self, pixels: u64, ether: Option<&EtherPrice>) -> Result<PricePerPixel, QuoteError> {
        if pixels == 0 {
            return Err(PriceError::NoPixels.into());
        }
        let scale = U256::from(10).checked_pow(self.decimals.into()).ok_or(PriceError::TooLarge)?;
        let (digits, under) = (U512::from(self.digits), scale.full_mul(U256::from(pixels)));
        let (numerator, denominator) = match &self.currency {
            Currency::Wei => (digits, under),
            Currency::Ether => (digits * U512::from(ETHER), under),
            Currency::Other(currency) => {
                let known = ether.filter(|price| price.currency == *currency && !price.units.is_zero());
                let price = known.ok_or_else(|| QuoteError::NoFeed(currency.clone()))?;
                let over = (digits * U512::from(ETHER)).checked_mul(price.ether.into());
                let under = under.checked_mul(price.units.into());
                (over.ok_or(PriceError::TooLarge)?, under.ok_or(PriceError::TooLarge)?)
            }
        };
        let exact = u64::try_from(numerator).ok().zip(u64::try_from(denominator).ok());
        if let Some(Ok(price)) = exact.map(|(wei, pixels)| PricePerPixel::new(wei, pixels)) {
            return Ok(price);
        }
        for places in (0..=KEPT_DECIMALS).rev() {
            let power = 10u64.pow(places);
            let wei = numerator.checked_mul(U512::from(power)).and_then(|scaled| scaled.checked_div(denominator));
            if let Some(Ok(price)) =
                wei.and_then(|wei| u64::try_from(wei).ok()).map(|wei| PricePerPixel::new(wei, power))
            {
                return if price.is_free() && !self.is_free() { Err(QuoteError::TooSmall) } else { Ok(price) };
            }
        }
        Err(PriceError::TooLarge.into())
    }
}

impl From<PricePerPixel> for QuotedPrice {
    /// A price in wei; one that is no decimal number is rounded down to 18 places.
    fn from(price: PricePerPixel) -> Self {
        let (wei, pixels) = price.parts();
        let mut decimals = 0;
        let (mut digits, mut rest) = (wei / pixels, wei % pixels);
        while rest != 0 && decimals < 18 {
            let scaled = u128::from(rest) * 10;
            let next = u64::try_from(scaled / u128::from(pixels)).unwrap_or(9);
            let Some(longer) = digits.checked_mul(10).and_then(|digits| digits.checked_add(next)) else { break };
            (digits, rest) = (longer, u64::try_from(scaled % u128::from(pixels)).unwrap_or(0));
            decimals += 1;
        }
        Self { digits, decimals, currency: Currency::Wei }
    }
}

impl std::str::FromStr for QuotedPrice {
    type Err = PriceError;

    /// Digits with optional decimals, directly followed by a currency word or none: `1200`, `0.7wei`, `0.41USD`.
    fn from_str(text: &str) -> Result<Self, PriceError> {
        let at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, word) = text.split_at(at);
        let word = word.trim();
        let (whole, decimals) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() || decimals.contains('.') || decimals.len() > MAX_DECIMALS {
            return Err(PriceError::Text);
        }
        let letters = word.len() <= MAX_CURRENCY && word.bytes().all(|byte| byte.is_ascii_alphabetic());
        // One letter is no currency: most likely an exponent, which is not a way to write a price.
        if !letters || word.len() == 1 {
            return Err(PriceError::Text);
        }
        let digits = format!("{whole}{decimals}").parse().map_err(|_| PriceError::TooLarge)?;
        let decimals = u32::try_from(decimals.len()).map_err(|_| PriceError::Text)?;
        let currency = match word.to_ascii_uppercase().as_str() {
            "" | "WEI" => Currency::Wei,
            "ETH" => Currency::Ether,
            other => Currency::Other(other.to_owned()),
        };
        Ok(Self { digits, decimals, currency })
    }
}

impl fmt::Display for QuotedPrice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let places = usize::try_from(self.decimals).unwrap_or(0);
        let text = format!("{:0>width$}", self.digits, width = places + 1);
        let (whole, decimals) = text.split_at(text.len() - places);
        f.write_str(whole)?;
        if !decimals.is_empty() {
            write!(f, ".{decimals}")?;
        }
        match &self.currency {
            Currency::Wei => Ok(()),
            Currency::Ether => f.write_str("ETH"),
            Currency::Other(currency) => f.write_str(currency),
        }
    }
}

impl Serialize for QuotedPrice {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for QuotedPrice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl fmt::Debug for QuotedPrice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quoted(text: &str) -> QuotedPrice {
        text.parse().unwrap()
    }

    /// 2500 USD for one ether, as a feed with eight decimals has it.
    fn usd() -> EtherPrice {
        EtherPrice { currency: "USD".into(), units: U256::from(250_000_000_000u64), ether: U256::from(100_000_000) }
    }

    #[test]
    fn prices_read_as_operators_write_them() {
        for (text, shown) in
            [("1200", "1200"), ("0.7", "0.7"), ("0.7wei", "0.7"), ("0.5eth", "0.5ETH"), ("0.41 usd", "0.41USD")]
        {
            assert_eq!(quoted(text).to_string(), shown);
        }
        for bad in ["", "USD", "-1", "1e3", "1e", ".5", "1.2.3", "0.1US$", "1 USD 2", "0.1234567890123456789"] {
            assert_eq!(bad.parse::<QuotedPrice>(), Err(PriceError::Text), "{bad}");
        }
        assert_eq!("99999999999999999999".parse::<QuotedPrice>(), Err(PriceError::TooLarge));
    }

    #[test]
    fn a_price_in_wei_is_exact() {
        assert_eq!(quoted("0.7").per_pixel(1, None).unwrap(), PricePerPixel::new(7, 10).unwrap());
        assert_eq!(quoted("1200").per_pixel(1_000_000, None).unwrap(), PricePerPixel::new(3, 2500).unwrap());
        assert_eq!(quoted("0").per_pixel(1, None).unwrap(), PricePerPixel::FREE);
        assert_eq!(quoted("1").per_pixel(0, None), Err(PriceError::NoPixels.into()));
    }

    #[test]
    fn a_price_in_another_currency_follows_the_feed() {
        // 0.41 USD are 0.000164 ether; for 10^12 pixels that is 164 wei each.
        assert_eq!(
            quoted("0.41USD").per_pixel(1_000_000_000_000, Some(&usd())).unwrap(),
            PricePerPixel::new(164, 1).unwrap()
        );
        let dearer = EtherPrice { units: U256::from(500_000_000_000u64), ..usd() };
        assert_eq!(
            quoted("0.41USD").per_pixel(1_000_000_000_000, Some(&dearer)).unwrap(),
            PricePerPixel::new(82, 1).unwrap()
        );
        assert_eq!(quoted("0.5ETH").per_pixel(1_000_000_000_000, None).unwrap().parts(), (500_000, 1));
        assert_eq!(usd().display(), "2500.00 USD");
    }

    #[test]
    fn a_price_without_its_feed_is_none_rather_than_nothing() {
        assert_eq!(quoted("0.41USD").per_pixel(1, None), Err(QuoteError::NoFeed("USD".into())));
        assert_eq!(quoted("0.41EUR").per_pixel(1, Some(&usd())), Err(QuoteError::NoFeed("EUR".into())));
        let worthless = EtherPrice { units: U256::zero(), ..usd() };
        assert_eq!(quoted("0.41USD").per_pixel(1, Some(&worthless)), Err(QuoteError::NoFeed("USD".into())));
    }

    #[test]
    fn a_price_never_becomes_nothing_by_rounding() {
        let tiny = EtherPrice { units: U256::MAX, ..usd() };
        assert_eq!(quoted("0.000000000000000001USD").per_pixel(u64::MAX, Some(&tiny)), Err(QuoteError::TooSmall));
        let odd = EtherPrice { units: U256::from(3), ether: U256::from(1), ..usd() };
        let price = quoted("0.000000000000000001USD").per_pixel(1, Some(&odd)).unwrap();
        assert_eq!(price.parts(), (1, 3), "exact where it fits");
        let (wei, pixels) = quoted("1.000000000000000001USD").per_pixel(1_000_000_007, Some(&odd)).unwrap().parts();
        assert_eq!((wei / pixels, wei.to_string().len()), (333_333_331, 19), "as exact as it fits");
        assert!(matches!(quoted("10ETH").per_pixel(1, None), Err(QuoteError::Price(PriceError::TooLarge))));
    }

    #[test]
    fn a_price_in_wei_survives_being_written() {
        for (wei, pixels) in [(1200, 1), (7, 10), (3, 2500), (0, 1)] {
            let price = PricePerPixel::new(wei, pixels).unwrap();
            assert_eq!(QuotedPrice::from(price).per_pixel(1, None).unwrap(), price);
        }
    }
}
