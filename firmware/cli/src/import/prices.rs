//! Prices of go-livepeer, exact: one `pixels_per_unit` for all of them here, one for each there.
use livepeer::address::Address;
use livepeer::price::quoted::QuotedPrice;
use serde::Deserialize;

use super::value::Decimal;

/// Most pixels prices may be for.
const MAX_PIXELS: u128 = 1_000_000_000_000_000;

/// A price as go-livepeer has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StockPrice {
    amount: Decimal,
    currency: String,
    pixels: u128,
}

/// Why a price cannot be taken over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum PriceError {
    #[error("not a price: expected a number with a currency or none, such as 1200 or 0.41USD")]
    Price,
    #[error("not a number of pixels: expected a whole number from 1 to 10^15")]
    Pixels,
    #[error("the prices are for numbers of pixels that have no common multiple up to 10^15: use one pixelsPerUnit")]
    Units,
    #[error("the price {0} does not fit: at most 19 digits, 18 behind the point, and a currency of 2 to 8 letters")]
    Fit(String),
    #[error("not the list of prices that go-livepeer reads: {0}")]
    List(String),
    #[error("{0} is no account, or its checksum is wrong (in lower case it has none)")]
    Account(String),
}

impl StockPrice {
    /// `pricePerUnit` and `pixelsPerUnit`.
    pub(super) fn parse(price: &str, pixels: &str) -> Result<Self, PriceError> {
        let at = price.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(price.len());
        let (amount, currency) = price.split_at(at);
        // go-livepeer takes no price that begins or ends with its point.
        let dotted = amount.starts_with('.') || amount.ends_with('.');
        let amount = Decimal::parse(amount).filter(|_| !dotted).ok_or(PriceError::Price)?;
        Ok(Self { amount, currency: currency.to_owned(), pixels: self::pixels(pixels)? })
    }

    /// As text, when it is to be for so many pixels: a multiple of what it is for.
    fn scaled(&self, pixels: u128) -> Result<String, PriceError> {
        let factor = pixels.checked_div(self.pixels).ok_or(PriceError::Pixels)?;
        let amount = self.amount.times(factor).ok_or(PriceError::Units)?;
        let text = format!("{amount}{}", self.currency);
        text.parse::<QuotedPrice>().map_err(|_| PriceError::Fit(text.clone()))?;
        Ok(text)
    }
}

fn pixels(text: &str) -> Result<u128, PriceError> {
    let pixels = Decimal::parse(text).and_then(Decimal::whole);
    pixels.filter(|pixels| (1..=MAX_PIXELS).contains(pixels)).ok_or(PriceError::Pixels)
}

/// Prices for one number of pixels.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Prices {
    /// The number of pixels.
    pub(super) pixels: u64,
    /// The price of everybody, if there is one.
    pub(super) all: Option<String>,
    /// The prices of single gateways.
    pub(super) gateways: Vec<(Address, String)>,
}

/// Brings prices to one number of pixels, the least that is a multiple of all.
pub(super) fn common(all: Option<StockPrice>, gateways: &[(Address, StockPrice)]) -> Result<Prices, PriceError> {
    let mut unit = 1u128;
    for price in all.iter().chain(gateways.iter().map(|(_, price)| price)) {
        unit = (unit / divisor(unit, price.pixels)).checked_mul(price.pixels).ok_or(PriceError::Units)?;
        if unit > MAX_PIXELS {
            return Err(PriceError::Units);
        }
    }
    let scaled = |(address, price): &(Address, StockPrice)| Ok((*address, price.scaled(unit)?));
    Ok(Prices {
        pixels: u64::try_from(unit).map_err(|_| PriceError::Units)?,
        all: all.map(|price| price.scaled(unit)).transpose()?,
        gateways: gateways.iter().map(scaled).collect::<Result<_, PriceError>>()?,
    })
}

/// Greatest common divisor.
fn divisor(one: u128, other: u128) -> u128 {
    if other == 0 { one.max(1) } else { divisor(other, one % other) }
}

/// Reads `{"gateways": [{"ethaddress", "priceperunit", "currency", "pixelsperunit"}]}`; for one account the last counts.
pub(super) fn per_gateway(json: &str) -> Result<Vec<(Address, StockPrice)>, PriceError> {
    #[derive(Deserialize)]
    struct List {
        #[serde(default)]
        broadcasters: Vec<Entry>,
        #[serde(default)]
        gateways: Vec<Entry>,
    }
    #[derive(Deserialize)]
    struct Entry {
        ethaddress: String,
        priceperunit: String,
        #[serde(default)]
        currency: String,
        pixelsperunit: String,
    }
    let list: List =
        serde_json::from_str(&numbers_as_text(json)).map_err(|error| PriceError::List(error.to_string()))?;
    let mut prices: Vec<(Address, StockPrice)> = Vec::new();
    for entry in list.broadcasters.into_iter().chain(list.gateways) {
        let address = account(&entry.ethaddress).ok_or_else(|| PriceError::Account(entry.ethaddress.clone()))?;
        let amount = Decimal::parse(&entry.priceperunit).ok_or(PriceError::Price)?;
        let price = StockPrice { amount, currency: entry.currency, pixels: pixels(&entry.pixelsperunit)? };
        prices.retain(|(other, _)| *other != address);
        prices.push((address, price));
    }
    Ok(prices)
}

/// An account as go-livepeer reads it, with or without `0x`; but where its letters are a checksum, that must be right.
pub(super) fn account(text: &str) -> Option<Address> {
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(text);
    format!("0x{digits}").parse().ok().filter(|address: &Address| !address.is_null())
}

/// Numbers of a JSON text as strings of the same digits, so that none is rounded on its way.
fn numbers_as_text(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    let (mut inside, mut escaped, mut number) = (false, false, false);
    for c in json.chars() {
        let digit = !inside && (c.is_ascii_digit() || c == '-' || (number && matches!(c, '.' | 'e' | 'E' | '+')));
        if digit != number {
            text.push('"');
            number = digit;
        }
        text.push(c);
        let quote = c == '"' && !escaped;
        escaped = inside && c == '\\' && !escaped;
        inside ^= quote;
    }
    if number {
        text.push('"');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "0x9c53bf8e9d7fb6e86d7bdc6a8d6a3cb6af3f9b0a";

    #[test]
    fn a_price_alone_stays_as_it_is() {
        let price = StockPrice::parse("0.41USD", "1e12").unwrap();
        let prices = common(Some(price), &[]).unwrap();
        assert_eq!((prices.pixels, prices.all.as_deref()), (1_000_000_000_000, Some("0.41USD")));
        for (price, pixels) in [("1.", "1"), (".5", "1"), ("-1", "1"), ("", "1"), ("1", "0"), ("1", "1.5"), ("1", "x")]
        {
            assert!(StockPrice::parse(price, pixels).is_err(), "{price} {pixels}");
        }
        assert!(common(Some(StockPrice::parse("1X", "1").unwrap()), &[]).is_err(), "no such currency");
    }

    #[test]
    fn prices_for_different_pixels_come_to_one_unit_exactly() {
        let json = format!(
            r#"{{"gateways":[{{"ethaddress":"{ONE}","priceperunit":0.123456789012345678,"currency":"USD","pixelsperunit":4}},
                {{"ethaddress":"{}","priceperunit":7,"pixelsperunit":6}}]}}"#,
            "22".repeat(20)
        );
        let gateways = per_gateway(&json).unwrap();
        let prices = common(Some(StockPrice::parse("1200", "1").unwrap()), &gateways).unwrap();
        assert_eq!(prices.pixels, 12);
        assert_eq!(prices.all.as_deref(), Some("14400"));
        let amounts: Vec<_> = prices.gateways.iter().map(|(_, price)| price.as_str()).collect();
        assert_eq!(amounts, ["0.370370367037037034USD", "14"]);
    }

    #[test]
    fn lists_that_are_none_are_refused() {
        assert!(matches!(per_gateway("nonsense"), Err(PriceError::List(_))));
        let named = r#"{"gateways":[{"ethaddress":"bob","priceperunit":1,"pixelsperunit":1}]}"#;
        assert_eq!(per_gateway(named), Err(PriceError::Account("bob".into())));
        assert_eq!(numbers_as_text(r#"{"a1":[-1.5e+3,"2\"3"]}"#), r#"{"a1":["-1.5e+3","2\"3"]}"#);
    }
}
