//! The price of ether in another currency, as an on-chain feed tells it.
//!
//! A feed is a contract that others write to; what it says is checked for sense here and for age by the caller.
//!
//! *Source:* livepeer-wire §5.4.
use ethers::types::{I256, U256};
use livepeer::address::Address;
use livepeer::broker::FeedAnswer;
use livepeer::price::quoted::EtherPrice;
use livepeer::units::Timestamp;

use crate::ask;
use crate::contracts::{
    DecimalsCall, DecimalsReturn, DescriptionCall, DescriptionReturn, LatestRoundDataCall, LatestRoundDataReturn,
};
use crate::error::ChainError;
use crate::revert::Call;
use crate::rpc::Rpc;

/// Most decimals any feed has.
const MAX_DECIMALS: u8 = 36;
/// Longest name of a currency that is believed.
const MAX_CURRENCY: usize = 8;

/// Asks a feed.
pub(crate) async fn read(rpc: &Rpc, feed: Address) -> Result<FeedAnswer, ChainError> {
    let mut answers = rpc
        .batch(&[
            ask::view(feed, LatestRoundDataCall, ask::latest()),
            ask::view(feed, DecimalsCall, ask::latest()),
            ask::view(feed, DescriptionCall, ask::latest()),
        ])
        .await?
        .into_iter();
    let round = ask::answer::<LatestRoundDataCall, LatestRoundDataReturn>(Call::Round, answers.next())?;
    let decimals = ask::answer::<DecimalsCall, DecimalsReturn>(Call::Round, answers.next())?.0;
    let description = ask::answer::<DescriptionCall, DescriptionReturn>(Call::Round, answers.next())?.0;
    let nonsense = |reason| ChainError::Feed { feed, reason };
    let price = ether_price(&description, decimals, round.answer).map_err(nonsense)?;
    let updated_at = u64::try_from(round.updated_at).ok().and_then(|seconds| i64::try_from(seconds).ok());
    match updated_at {
        Some(seconds) if seconds > 0 => Ok(FeedAnswer { price, updated_at: Timestamp(seconds) }),
        _ => Err(nonsense("it never had an answer")),
    }
}

/// The answer as a price: a feed is of ether in a currency, or of a currency in ether.
fn ether_price(description: &str, decimals: u8, answer: I256) -> Result<EtherPrice, &'static str> {
    if !answer.is_positive() {
        return Err("its answer is not positive");
    }
    if decimals > MAX_DECIMALS {
        return Err("it has more decimals than any price");
    }
    let (base, quote) = description.split_once('/').ok_or("its description names no pair of currencies")?;
    let (base, quote) = (base.trim().to_ascii_uppercase(), quote.trim().to_ascii_uppercase());
    let (answer, one) = (answer.into_raw(), U256::from(10).pow(U256::from(decimals)));
    let (currency, units, ether) = match (base.as_str(), quote.as_str()) {
        ("ETH", _) => (quote, answer, one),
        (_, "ETH") => (base, one, answer),
        _ => return Err("it is not about ether"),
    };
    let named = (1..=MAX_CURRENCY).contains(&currency.len()) && currency.bytes().all(|byte| byte.is_ascii_uppercase());
    if named { Ok(EtherPrice { currency, units, ether }) } else { Err("its description names no pair of currencies") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(description: &str, decimals: u8, answer: i64) -> Result<EtherPrice, &'static str> {
        ether_price(description, decimals, I256::from(answer))
    }

    #[test]
    fn a_feed_is_read_in_either_direction() {
        let dollars = read("ETH / USD", 8, 250_000_000_000).unwrap();
        assert_eq!((dollars.currency.as_str(), dollars.display()), ("USD", "2500.00 USD".to_owned()));
        // 0.0004 ether for a dollar is the same.
        let inverse = read("usd/eth", 18, 400_000_000_000_000).unwrap();
        assert_eq!(inverse.display(), "2500.00 USD");
    }

    #[test]
    fn nonsense_is_no_price() {
        for (description, decimals, answer) in [
            ("ETH / USD", 8, 0),
            ("ETH / USD", 8, -1),
            ("ETH / USD", 37, 1),
            ("BTC / USD", 8, 1),
            ("ETH", 8, 1),
            ("ETH / ", 8, 1),
            ("ETH / US$", 8, 1),
            ("ETH / VERYLONGNAME", 8, 1),
        ] {
            assert!(read(description, decimals, answer).is_err(), "{description} {decimals} {answer}");
        }
    }
}
