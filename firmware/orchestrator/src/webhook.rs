//! The operator's webhook: who may ask for an offer, and at which price.
//!
//! Asked once for each gateway and then for half an hour not again. Its price holds wherever a price is named to that
//! gateway, unlike in stock, where it does not reach the offers that current gateways ask for.
//!
//! *Source:* livepeer-wire §4.7.
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use livepeer::address::Address;
use livepeer::price::PricePerPixel;
use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::outbound::{NamedBy, Outbound, OutboundError, Version};

/// How long an answer holds.
const HOLDS: Duration = Duration::from_secs(30 * 60);
/// How long the webhook may take: a gateway gives discovery six seconds in all.
const ANSWER: Duration = Duration::from_secs(3);
/// Questions at the same time.
const AT_ONCE: usize = 16;
/// Answers remembered; with one more, those that hold shortest are forgotten.
const MAX_REMEMBERED: usize = 4096;
/// Largest answer read.
const MAX_ANSWER: usize = 16 * 1024;
/// How much of a refusal is repeated to the gateway.
const MAX_REASON: usize = 200;

/// Why a gateway gets no offer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Denied {
    #[error("{0}")]
    Refused(String),
    #[error("webhook cannot be asked")]
    Unreachable(#[source] OutboundError),
    #[error("webhook made no sense")]
    Nonsense,
}

/// Asks the webhook, and remembers.
#[derive(Debug)]
pub(crate) struct Webhook {
    url: Uri,
    asking: Semaphore,
    granted: Mutex<HashMap<Address, (Instant, Option<PricePerPixel>)>>,
}

#[derive(Debug, Deserialize)]
struct Granted {
    #[serde(rename = "priceInfo")]
    price_info: Option<PriceInfo>,
}

#[derive(Debug, Deserialize)]
struct PriceInfo {
    #[serde(rename = "pricePerUnit")]
    price_per_unit: i64,
    #[serde(rename = "pixelsPerUnit")]
    pixels_per_unit: i64,
}

impl Webhook {
    pub(crate) fn new(url: Uri) -> Self {
        Self { url, asking: Semaphore::new(AT_ONCE), granted: Mutex::default() }
    }

    /// May this gateway have an offer? Remembered when it may.
    pub(crate) async fn admit(&self, outbound: &Outbound, gateway: Address) -> Result<(), Denied> {
        if self.remembered(gateway).is_some() {
            return Ok(());
        }
        let asked = tokio::time::timeout(ANSWER, self.ask(outbound, gateway)).await;
        let price = asked.unwrap_or(Err(Denied::Unreachable(OutboundError::Timeout)))?;
        let mut granted = self.lock();
        if granted.len() >= MAX_REMEMBERED {
            granted.retain(|_, (since, _)| since.elapsed() < HOLDS);
        }
        if granted.len() >= MAX_REMEMBERED
            && let Some(oldest) = granted.iter().min_by_key(|(_, (since, _))| *since).map(|(gateway, _)| *gateway)
        {
            granted.remove(&oldest);
        }
        granted.insert(gateway, (Instant::now(), price));
        Ok(())
    }

    /// The price granted to this gateway, if it was granted one lately.
    pub(crate) fn price(&self, gateway: Address) -> Option<PricePerPixel> {
        self.remembered(gateway).flatten()
    }

    fn remembered(&self, gateway: Address) -> Option<Option<PricePerPixel>> {
        let granted = self.lock();
        granted.get(&gateway).filter(|(since, _)| since.elapsed() < HOLDS).map(|(_, price)| *price)
    }

    async fn ask(&self, outbound: &Outbound, gateway: Address) -> Result<Option<PricePerPixel>, Denied> {
        let _turn = self.asking.acquire().await.map_err(|_| Denied::Nonsense)?;
        let unreachable = |error: OutboundError| Denied::Unreachable(error);
        let question = serde_json::json!({ "id": gateway.to_checksum() }).to_string();
        let request = Request::post(self.url.clone())
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(question)))
            .map_err(|error| unreachable(error.into()))?;
        let answer = outbound.send(request, NamedBy::Operator, Version::Http1).await.map_err(unreachable)?;
        let status = answer.response.status();
        let body = Limited::new(answer.response.into_body(), MAX_ANSWER).collect().await;
        let body = body.map_err(|_| unreachable(OutboundError::TooLarge(MAX_ANSWER)))?.to_bytes();
        if status != StatusCode::OK {
            let reason = String::from_utf8_lossy(&body);
            let printable = reason.trim().chars().filter(|c| !c.is_control()).take(MAX_REASON);
            return Err(Denied::Refused(printable.collect()));
        }
        read(&body)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Address, (Instant, Option<PricePerPixel>)>> {
        self.granted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a yes. Nothing at all is one without a price.
fn read(body: &[u8]) -> Result<Option<PricePerPixel>, Denied> {
    if body.trim_ascii().is_empty() {
        return Ok(None);
    }
    let granted: Granted = serde_json::from_slice(body).map_err(|_| Denied::Nonsense)?;
    let price = granted.price_info.map(|price| PricePerPixel::from_wire(price.price_per_unit, price.pixels_per_unit));
    price.transpose().map_err(|_| Denied::Nonsense)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_yes_may_name_a_price_and_nonsense_is_a_no() {
        let price = |wei, pixels| PricePerPixel::new(wei, pixels).ok();
        assert_eq!(read(br#"{"priceInfo":{"pricePerUnit":7,"pixelsPerUnit":10}}"#).unwrap(), price(7, 10));
        assert_eq!(read(b"{}").unwrap(), None);
        assert_eq!(read(br#"{"priceInfo":null,"more":1}"#).unwrap(), None);
        assert_eq!(read(b" \n").unwrap(), None);
        for nonsense in [
            "yes",
            "[]",
            r#"{"priceInfo":{"pricePerUnit":-1,"pixelsPerUnit":1}}"#,
            r#"{"priceInfo":{"pricePerUnit":1,"pixelsPerUnit":0}}"#,
            r#"{"priceInfo":{"pricePerUnit":1}}"#,
        ] {
            assert!(matches!(read(nonsense.as_bytes()), Err(Denied::Nonsense)), "{nonsense}");
        }
    }
}
