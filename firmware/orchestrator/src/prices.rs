//! What work costs today: the operator's prices, some gateways' own, and what a feed makes of other currencies.
//!
//! A feed is asked by [`follow`] and believed within bounds: an answer that is too old is none, and one that is many
//! times the last is not believed at once. Without a believable answer a price in another currency is no price, and
//! nothing is offered at it; running sessions keep theirs.
//!
//! *Source:* livepeer-wire §5.4.
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use livepeer::address::Address;
use livepeer::broker::{Broker, FeedAnswer};
use livepeer::price::PricePerPixel;
use livepeer::price::quoted::{Currency, EtherPrice, QuoteError, QuotedPrice};
use livepeer::units::Timestamp;
use millrace_hal::Clock;
use primitive_types::{U256, U512};
use service::Heartbeat;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::config::PaymentConfig;
use crate::pricing::at_least;

/// How often the feed is asked.
const LOOK: Duration = Duration::from_secs(60);
/// How many times the last price, or what part of it, the next may be …
const MAX_FACTOR: u64 = 4;
/// … unless the feed insists for so long.
const INSISTED: Duration = Duration::from_secs(30 * 60);

/// What the feed last told that was believed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FeedReport {
    /// The answer; none before the first, and none once it is too old.
    pub answer: Option<FeedAnswer>,
    /// Why the last look brought nothing new.
    pub fault: Option<String>,
}

/// Gateways with a price of their own, at most.
const MAX_GATEWAYS: usize = 10_000;

/// The operator's prices.
#[derive(Debug)]
pub struct Prices {
    book: RwLock<Book>,
    ceiling: Option<Quoted>,
    feed: watch::Receiver<FeedReport>,
}

/// A price of so many pixels.
type Quoted = (QuotedPrice, u64);

#[derive(Debug)]
struct Book {
    default: Quoted,
    per_gateway: BTreeMap<Address, Quoted>,
}

/// Why a price was not set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SetPriceError {
    /// It is none in wei today.
    #[error(transparent)]
    Quote(#[from] QuoteError),
    /// It is above the most that may be asked.
    #[error("the price is above max_price_per_pixel, which is {0} today")]
    Ceiling(PricePerPixel),
    /// There are too many prices of single gateways.
    #[error("{MAX_GATEWAYS} gateways have a price of their own already")]
    TooMany,
}

impl Prices {
    /// The configured prices, with what the feed tells.
    #[must_use]
    pub fn new(config: &PaymentConfig, feed: watch::Receiver<FeedReport>) -> Self {
        let quoted = |price: &QuotedPrice| (price.clone(), config.pixels_per_unit);
        let per_gateway = config.price_per_gateway.iter().map(|(gateway, price)| (*gateway, quoted(price))).collect();
        let book = Book { default: quoted(&config.price_per_pixel), per_gateway };
        Self { book: RwLock::new(book), ceiling: config.max_price_per_pixel.as_ref().map(quoted), feed }
    }

    /// The price of a pixel for a gateway before any overhead, and the most that may be asked.
    ///
    /// # Errors
    /// [`QuoteError`] when a price is in a currency whose value is not known now.
    pub fn of(&self, gateway: Address) -> Result<Today, QuoteError> {
        let book = self.book.read().unwrap_or_else(PoisonError::into_inner);
        let base = self.in_wei(book.per_gateway.get(&gateway).unwrap_or(&book.default))?;
        let ceiling = self.ceiling()?;
        Ok(Today { base: Today { base, ceiling }.capped(base), ceiling })
    }

    /// Sets the price of a gateway, or of all that have none of their own, until the node ends. Sessions that run keep
    /// theirs.
    ///
    /// # Errors
    /// [`SetPriceError`]; then nothing changed.
    pub fn set(&self, gateway: Option<Address>, price: QuotedPrice, pixels: u64) -> Result<(), SetPriceError> {
        let quoted = (price, pixels);
        let today = self.in_wei(&quoted)?;
        if let Some(ceiling) = self.ceiling()?.filter(|ceiling| !at_least(*ceiling, today)) {
            return Err(SetPriceError::Ceiling(ceiling));
        }
        let mut book = self.book.write().unwrap_or_else(PoisonError::into_inner);
        match gateway {
            None => book.default = quoted,
            Some(gateway) if book.per_gateway.len() < MAX_GATEWAYS || book.per_gateway.contains_key(&gateway) => {
                book.per_gateway.insert(gateway, quoted);
            }
            Some(_) => return Err(SetPriceError::TooMany),
        }
        drop(book);
        let whom = gateway.map_or_else(|| "all others".to_owned(), |gateway| gateway.to_string());
        tracing::info!(gateway = whom, price = %today, "price was set");
        Ok(())
    }

    /// Gateways with a price of their own.
    #[must_use]
    pub fn gateways(&self) -> Vec<Address> {
        self.book.read().unwrap_or_else(PoisonError::into_inner).per_gateway.keys().copied().collect()
    }

    fn ceiling(&self) -> Result<Option<PricePerPixel>, QuoteError> {
        self.ceiling.as_ref().map(|ceiling| self.in_wei(ceiling)).transpose()
    }

    /// What the feed last told.
    #[must_use]
    pub fn feed(&self) -> FeedReport {
        self.feed.borrow().clone()
    }

    fn in_wei(&self, (price, pixels): &Quoted) -> Result<PricePerPixel, QuoteError> {
        let feed = self.feed.borrow();
        price.per_pixel(*pixels, feed.answer.as_ref().map(|answer| &answer.price))
    }
}

/// Today's price in wei.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Today {
    /// Before overhead.
    pub base: PricePerPixel,
    /// The most asked, with overhead.
    pub ceiling: Option<PricePerPixel>,
}

impl Today {
    /// A price, or the ceiling if that is lower.
    #[must_use]
    pub fn capped(&self, price: PricePerPixel) -> PricePerPixel {
        self.ceiling.filter(|ceiling| at_least(price, *ceiling)).unwrap_or(price)
    }
}

/// Does any of these prices need a feed?
#[must_use]
pub fn need_feed(config: &PaymentConfig) -> bool {
    let all = config.per_gateway_and_default().chain(&config.max_price_per_pixel);
    all.into_iter().any(|price| matches!(price.currency(), Currency::Other(_)))
}

/// Asks a feed again and again, for ever, and publishes what can be believed.
pub async fn follow<B: Broker>(
    broker: Arc<B>,
    feed: Address,
    max_age: Duration,
    clock: Arc<dyn Clock>,
    report: watch::Sender<FeedReport>,
    heartbeat: Heartbeat,
) {
    let mut tick = tokio::time::interval(LOOK);
    let mut belief = Belief::default();
    loop {
        tick.tick().await;
        let told = broker.ether_price(feed).await.map_err(|error| error.detail);
        let next = belief.weigh(told, Timestamp(clock.unix_seconds()), max_age, Instant::now());
        report.send_if_modified(|last| {
            if next.fault != last.fault {
                match &next.fault {
                    Some(reason) => tracing::warn!(%feed, reason, "price feed told nothing new"),
                    None => tracing::info!(%feed, "price feed is back"),
                }
            }
            std::mem::replace(last, next.clone()) != next
        });
        heartbeat.beat();
    }
}

/// What of a feed is believed.
#[derive(Debug, Default)]
struct Belief {
    last: Option<FeedAnswer>,
    /// Since when it tells something incredible.
    leaping: Option<Instant>,
}

impl Belief {
    fn weigh(
        &mut self,
        told: Result<FeedAnswer, String>,
        now: Timestamp,
        max_age: Duration,
        at: Instant,
    ) -> FeedReport {
        let age = |answer: &FeedAnswer| u64::try_from(now.0.saturating_sub(answer.updated_at.0)).unwrap_or(0);
        let fresh = |answer: &FeedAnswer| age(answer) <= max_age.as_secs();
        let fault = match told {
            Err(reason) => Some(reason),
            Ok(answer) if !fresh(&answer) => Some(format!("its answer is {} s old", age(&answer))),
            Ok(answer) => {
                let leaps = self.last.as_ref().is_some_and(|last| leap(&last.price, &answer.price));
                let since = *self.leaping.get_or_insert(at);
                if leaps && at.duration_since(since) < INSISTED {
                    Some(format!("its answer of {} is not believed yet", answer.price.display()))
                } else {
                    self.last = Some(answer);
                    self.leaping = None;
                    None
                }
            }
        };
        FeedReport { answer: self.last.clone().filter(fresh), fault }
    }
}

/// Is one price of ether so many times the other that it is more likely wrong than true?
fn leap(last: &EtherPrice, next: &EtherPrice) -> bool {
    let product = |a: U256, b: U256| a.full_mul(b);
    let (old, new) = (product(last.units, next.ether), product(next.units, last.ether));
    let times = |value: U512| value.saturating_mul(U512::from(MAX_FACTOR));
    last.currency != next.currency || new > times(old) || old > times(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn told(cents: u64, updated_at: i64) -> Result<FeedAnswer, String> {
        let price = EtherPrice { currency: "USD".into(), units: U256::from(cents), ether: U256::from(100) };
        Ok(FeedAnswer { price, updated_at: Timestamp(updated_at) })
    }

    fn prices(config: &PaymentConfig, report: FeedReport) -> Prices {
        let (_, feed) = watch::channel(report);
        Prices::new(config, feed)
    }

    fn dollars(cents: u64) -> FeedReport {
        FeedReport { answer: told(cents, 0).ok(), fault: None }
    }

    #[test]
    fn a_gateway_may_have_a_price_of_its_own() {
        let friend = Address::from_bytes(&[7; 20]).unwrap();
        let config = PaymentConfig {
            price_per_pixel: "1200".parse().unwrap(),
            price_per_gateway: [(friend, "0.5".parse().unwrap())].into(),
            ..PaymentConfig::default()
        };
        let prices = prices(&config, FeedReport::default());
        assert_eq!(prices.of(Address::NULL).unwrap().base, PricePerPixel::new(1200, 1).unwrap());
        assert_eq!(prices.of(friend).unwrap().base, PricePerPixel::new(1, 2).unwrap());
        assert!(!need_feed(&config));
    }

    #[test]
    fn a_price_that_is_set_holds_below_the_ceiling_only() {
        let config = PaymentConfig { max_price_per_pixel: Some("2000".parse().unwrap()), ..PaymentConfig::default() };
        let prices = prices(&config, FeedReport::default());
        let friend = Address::from_bytes(&[7; 20]).unwrap();
        let base = |who: Address| prices.of(who).unwrap().base.parts();
        prices.set(Some(friend), "7".parse().unwrap(), 2).unwrap();
        assert_eq!((base(friend), base(Address::NULL)), ((7, 2), (1200, 1)));
        prices.set(None, "1300".parse().unwrap(), 1).unwrap();
        assert_eq!((base(friend), base(Address::NULL)), ((7, 2), (1300, 1)));
        let told = |text: &str| prices.set(None, text.parse().unwrap(), 1).unwrap_err().to_string();
        assert_eq!(told("2001"), "the price is above max_price_per_pixel, which is 2000 wei per pixel today");
        assert!(told("1USD").contains("no price of ether in USD is known now"));
        assert_eq!(base(Address::NULL), (1300, 1));
    }

    #[test]
    fn a_price_in_dollars_follows_the_feed_up_to_the_ceiling() {
        let config = PaymentConfig {
            price_per_pixel: "0.41USD".parse().unwrap(),
            max_price_per_pixel: Some("0.0002ETH".parse().unwrap()),
            pixels_per_unit: 1_000_000_000_000,
            ..PaymentConfig::default()
        };
        assert!(need_feed(&config));
        let base = |report| prices(&config, report).of(Address::NULL).map(|today| today.base.parts());
        assert_eq!(base(dollars(250_000)), Ok((164, 1)));
        assert_eq!(base(dollars(500_000)), Ok((82, 1)));
        assert_eq!(base(dollars(100_000)), Ok((200, 1)), "410 wei are above the ceiling");
        assert_eq!(base(FeedReport::default()), Err(QuoteError::NoFeed("USD".into())));
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_good_answer_is_kept_until_it_is_too_old() {
        let (mut belief, at) = (Belief::default(), Instant::now());
        let good = belief.weigh(told(250_000, 1000), Timestamp(1000), HOUR, at);
        assert_eq!((good.answer.clone(), good.fault), (told(250_000, 1000).ok(), None));
        let away = belief.weigh(Err("away".into()), Timestamp(4600), HOUR, at);
        assert_eq!((away.answer, away.fault.as_deref()), (good.answer, Some("away")));
        let stale = belief.weigh(told(250_000, 1000), Timestamp(4601), HOUR, at);
        assert_eq!((stale.answer, stale.fault.as_deref()), (None, Some("its answer is 3601 s old")));
        assert!(belief.weigh(told(240_000, 4602), Timestamp(4602), HOUR, at).answer.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_leap_is_not_believed_at_once() {
        let (mut belief, at) = (Belief::default(), Instant::now());
        belief.weigh(told(250_000, 0), Timestamp(0), HOUR, at);
        for (cents, believed) in [(1_000_001, false), (62_499, false), (1_000_000, true), (250_001, true)] {
            let report = belief.weigh(told(cents, 0), Timestamp(0), HOUR, at);
            assert_eq!(report.fault.is_none(), believed, "{cents}");
        }
        let leap = |belief: &mut Belief, at| belief.weigh(told(10, 0), Timestamp(0), HOUR, at);
        assert_eq!(leap(&mut belief, at).answer, told(250_001, 0).ok());
        assert_eq!(leap(&mut belief, at + INSISTED - LOOK).answer, told(250_001, 0).ok());
        assert_eq!(leap(&mut belief, at + INSISTED).answer, told(10, 0).ok());
    }
}
