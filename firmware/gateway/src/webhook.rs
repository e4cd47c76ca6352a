//! A list of orchestrators kept by somebody else: `[{"address": "https://host:8935"}, …]` behind a URL.
//!
//! Asked at most once a minute; when it does not answer, what it said last stays good.
//!
//! *Source:* livepeer-wire §1.3.
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;
use tokio::time::Instant;

use crate::tls;

/// How long an answer is good.
const FRESH: Duration = Duration::from_secs(60);
/// How long it may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long it may be, and how many orchestrators it may name.
const MAX_ANSWER: usize = 1 << 20;
const MAX_ORCHESTRATORS: usize = 500;

/// The list could not be had.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// The authorities that `https` needs cannot be read.
    #[error("read the system's certificate authorities")]
    Authorities(#[source] std::io::Error),
    /// No connection, or none in time, or it broke off.
    #[error("ask for the list of orchestrators")]
    Http(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The answer says no.
    #[error("the list of orchestrators was answered with {0}")]
    Status(StatusCode),
    /// The answer is no list.
    #[error("the list of orchestrators makes no sense")]
    Json(#[from] serde_json::Error),
}

/// Somebody who names orchestrators.
pub struct Webhook {
    uri: Uri,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    last: Mutex<(Option<Instant>, Vec<Uri>)>,
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The path may be a secret.
        write!(f, "Webhook({})", self.uri.authority().map_or("", http::uri::Authority::as_str))
    }
}

#[derive(Debug, Deserialize)]
struct Named {
    address: String,
}

impl Webhook {
    /// A list behind this URL; the certificate of `https` is checked against the system's authorities.
    ///
    /// # Errors
    /// [`WebhookError::Authorities`] for `https` where there are none.
    pub fn new(uri: Uri) -> Result<Self, WebhookError> {
        let checked = uri.scheme_str() == Some("https");
        let connector = tls::checked_connector(checked).map_err(WebhookError::Authorities)?;
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Ok(Self { uri, client, last: Mutex::default() })
    }

    /// How many it named last.
    pub(crate) fn known(&self) -> usize {
        self.last().1.len()
    }

    /// The orchestrators it names now, or named last.
    pub(crate) async fn list(&self) -> Vec<Uri> {
        if let (Some(at), known) = &*self.last()
            && at.elapsed() < FRESH
        {
            return known.clone();
        }
        match self.ask().await {
            Ok(named) => {
                *self.last() = (Some(Instant::now()), named.clone());
                named
            }
            Err(error) => {
                tracing::warn!(webhook = ?self, error = &error as &dyn std::error::Error, "list of orchestrators is not renewed");
                self.last().1.clone()
            }
        }
    }

    /// Asks for the list.
    ///
    /// # Errors
    /// [`WebhookError`] when there is no answer, or none that is a list.
    pub async fn ask(&self) -> Result<Vec<Uri>, WebhookError> {
        let lost = |error: Box<dyn std::error::Error + Send + Sync>| WebhookError::Http(error);
        let exchange = async {
            let request = Request::get(self.uri.clone()).body(Full::default()).map_err(|e| lost(e.into()))?;
            let response = self.client.request(request).await.map_err(|e| lost(e.into()))?;
            if response.status() != StatusCode::OK {
                return Err(WebhookError::Status(response.status()));
            }
            Ok(Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(lost)?.to_bytes())
        };
        let answer = tokio::time::timeout(PATIENCE, exchange).await.map_err(|e| lost(e.into()))??;
        read(&answer)
    }

    fn last(&self) -> MutexGuard<'_, (Option<Instant>, Vec<Uri>)> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Entries that are no service URI are left out.
fn read(answer: &[u8]) -> Result<Vec<Uri>, WebhookError> {
    let named: Vec<Named> = serde_json::from_slice(answer)?;
    let usable = named.into_iter().filter_map(|named| {
        let uri: Uri = named.address.trim_end_matches('/').parse().ok()?;
        let usable = matches!(uri.scheme_str(), Some("https" | "http")) && uri.authority().is_some();
        if !usable {
            tracing::warn!(address = %named.address.chars().take(100).collect::<String>(), "not a service URI");
        }
        usable.then_some(uri)
    });
    Ok(usable.take(MAX_ORCHESTRATORS).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_as_stock_webhooks_write_it() {
        let answer =
            br#"[{"address":"https://a:8935","score":1},{"address":"nonsense"},{"address":"https://b:8935/"}]"#;
        let uris = read(answer).unwrap();
        assert_eq!(uris.iter().map(Uri::to_string).collect::<Vec<_>>(), ["https://a:8935/", "https://b:8935/"]);
        assert!(read(b"{}").is_err());
    }

    #[tokio::test]
    async fn what_was_said_last_stays_good_while_nobody_answers() {
        service_crypto();
        let webhook = Webhook::new(Uri::from_static("http://127.0.0.1:1/list")).unwrap();
        assert!(webhook.list().await.is_empty());
        *webhook.last() = (None, vec![Uri::from_static("https://a:8935")]);
        assert_eq!(webhook.list().await.len(), 1);
    }

    fn service_crypto() {
        // Another test may have done it already.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
}
