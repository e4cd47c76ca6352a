//! Prices of streams that pay by manifest: fixed by the first payment, forgotten when nobody has paid for a while.
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use livepeer::address::Address;
use livepeer::price::PricePerPixel;
use tokio::time::Instant;

/// How long a price holds without a payment, as in stock.
const IDLE: Duration = Duration::from_secs(10 * 60);
/// Prices remembered; with one more, the one that was used longest ago is forgotten.
const MAX: usize = 4096;

/// The prices.
#[derive(Debug, Default)]
pub(crate) struct Pinned(Mutex<HashMap<(Address, String), (PricePerPixel, Instant)>>);

impl Pinned {
    /// The price of a stream, if it has one.
    pub(crate) fn of(&self, sender: Address, manifest: &str) -> Option<PricePerPixel> {
        let prices = self.lock();
        let found = prices.get(&(sender, manifest.to_owned()));
        found.filter(|(_, used)| used.elapsed() < IDLE).map(|(price, _)| *price)
    }

    /// A payment came in at this price.
    pub(crate) fn pin(&self, sender: Address, manifest: &str, price: PricePerPixel) {
        let mut prices = self.lock();
        let key = (sender, manifest.to_owned());
        prices.retain(|_, (_, used)| used.elapsed() < IDLE);
        if prices.len() >= MAX
            && !prices.contains_key(&key)
            && let Some(oldest) = prices.iter().min_by_key(|(_, (_, used))| *used).map(|(key, _)| key.clone())
        {
            prices.remove(&oldest);
        }
        prices.entry(key).or_insert((price, Instant::now())).1 = Instant::now();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(Address, String), (PricePerPixel, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn price(wei: u64) -> PricePerPixel {
        PricePerPixel::new(wei, 1).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_price_stays_while_somebody_pays() {
        let prices = Pinned::default();
        let one = Address::from_bytes(&[1; 20]).unwrap();
        prices.pin(one, "stream", price(5));
        tokio::time::advance(IDLE / 2).await;
        prices.pin(one, "stream", price(7));
        tokio::time::advance(IDLE / 2).await;
        assert_eq!(prices.of(one, "stream"), Some(price(5)), "the first one holds");
        assert_eq!((prices.of(one, "other"), prices.of(Address::NULL, "stream")), (None, None));
        tokio::time::advance(IDLE / 2).await;
        assert_eq!(prices.of(one, "stream"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_prices_are_remembered_than_that() {
        let prices = Pinned::default();
        for number in 0..=MAX {
            prices.pin(Address::NULL, &number.to_string(), price(1));
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert_eq!(prices.of(Address::NULL, "0"), None);
        assert!(prices.of(Address::NULL, "1").is_some());
        assert_eq!(prices.lock().len(), MAX);
    }
}
