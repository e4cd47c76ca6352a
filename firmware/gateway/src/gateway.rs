//! Discovery: ask all known orchestrators at once, keep the offers that are of use.
//!
//! *Source:* livepeer-wire §1.2, §1.3, §3.2.
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use http::Uri;
use livepeer::address::Address;
use livepeer::capability::CapabilitySet;
use livepeer::credentials::orchestrator_request_message;
use livepeer::units::{ExpectedValue, Wei};
use livepeer::wire::net;
use primitive_types::{U256, U512};
use rand::seq::SliceRandom;
use tokio::time::Instant;

use crate::chain_view::{ChainSnapshot, ChainView};
use crate::decoder::Decoder;
use crate::http::Http;
use crate::needs;
use crate::offer::{self, Offer, OfferError, OfferLimits};
use crate::rpc::{self, RpcError};
use crate::signer::{SignerError, TicketSigner};
use crate::webhook::Webhook;

/// Offers are collected for at least this long; the window doubles while nothing was found.
const FIRST_WINDOW: Duration = Duration::from_millis(500);
/// And at most for this long.
const LAST_WINDOW: Duration = Duration::from_secs(6);
/// How long an orchestrator may take to renew a session.
const REFRESH: Duration = Duration::from_millis(2500);

/// Whom a gateway may use, and how it pays.
#[derive(Debug, Clone)]
pub struct GatewayConfig {
    /// Service URIs to ask, `https://host:port`.
    pub orchestrators: Vec<Uri>,
    /// Who names further ones.
    pub webhook: Option<Arc<Webhook>>,
    /// Who signs; without one the gateway is off-chain and pays nothing.
    pub signer: Option<Arc<dyn TicketSigner>>,
    /// Who watches the chain for us, if anybody.
    pub chain: Option<Arc<dyn ChainView>>,
    /// Bounds on offers.
    pub limits: OfferLimits,
    /// Count the pixels of what comes back and compare.
    pub verify: bool,
    /// Who decodes what comes back, so that it can be held against the source; nobody does when absent.
    pub decoder: Option<Arc<dyn Decoder>>,
}

/// A gateway.
#[derive(Debug)]
pub struct Gateway {
    pub(crate) config: GatewayConfig,
    pub(crate) http: Http,
    totals: Mutex<Spent>,
}

#[derive(Debug, Default)]
struct Spent {
    tickets: u64,
    value: U512,
}

/// What a gateway has sent so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Tickets.
    pub tickets: u64,
    /// Their expected value, rounded down.
    pub value: Wei,
}

/// Why one orchestrator is of no use.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It did not answer, or refused.
    #[error(transparent)]
    Rpc(#[from] RpcError),
    /// Its offer is no good.
    #[error(transparent)]
    Offer(#[from] OfferError),
    /// We could not sign.
    #[error(transparent)]
    Signer(#[from] SignerError),
    /// It did not answer while others did.
    #[error("no answer in time")]
    Late,
}

/// Nobody takes our stream.
#[derive(Debug, thiserror::Error)]
#[error("no orchestrator takes the stream: {}", describe(.refusals))]
pub struct DiscoveryError {
    /// Whom we asked, and what came of it.
    pub refusals: Vec<(Uri, Refusal)>,
}

fn describe(refusals: &[(Uri, Refusal)]) -> String {
    if refusals.is_empty() {
        return "none is known".to_owned();
    }
    let each = refusals.iter().map(|(uri, refusal)| format!("{uri} {}", service::with_causes(refusal)));
    each.collect::<Vec<_>>().join("; ")
}

impl Gateway {
    /// A gateway that has not asked anybody yet.
    #[must_use]
    pub fn new(config: GatewayConfig) -> Self {
        Self { config, http: Http::new(), totals: Mutex::default() }
    }

    /// What was sent so far, failed segments included.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let spent = self.totals.lock().unwrap_or_else(PoisonError::into_inner);
        let whole = spent.value / U512::from(U256::MAX);
        Totals { tickets: spent.tickets, value: Wei(U256::try_from(whole).unwrap_or(U256::MAX)) }
    }

    pub(crate) fn spend(&self, tickets: u32, each: ExpectedValue) {
        let mut spent = self.totals.lock().unwrap_or_else(PoisonError::into_inner);
        spent.tickets = spent.tickets.saturating_add(tickets.into());
        spent.value = spent.value.saturating_add(each.numerator().saturating_mul(tickets.into()));
    }

    pub(crate) fn chain(&self) -> Option<ChainSnapshot> {
        self.config.chain.as_ref().and_then(|chain| chain.snapshot())
    }

    /// How many orchestrators are known, by name or as last told by the webhook.
    pub(crate) fn known(&self) -> usize {
        self.config.orchestrators.len() + self.config.webhook.as_ref().map_or(0, |webhook| webhook.known())
    }

    pub(crate) async fn candidates(&self) -> Vec<Uri> {
        let mut uris = self.config.orchestrators.clone();
        if let Some(webhook) = &self.config.webhook {
            uris.extend(webhook.list().await);
            uris.sort_by_cached_key(Uri::to_string);
            uris.dedup();
        }
        uris
    }

    /// Asks every known orchestrator and returns the useful offers, fastest first, with the URI that was asked.
    ///
    /// # Errors
    /// [`DiscoveryError`] with a reason for each when there is no useful offer within six seconds.
    pub async fn discover(&self, needed: &CapabilitySet) -> Result<Vec<(Uri, Offer)>, DiscoveryError> {
        let mut uris = self.candidates().await;
        uris.shuffle(&mut rand::rngs::OsRng);
        let ask = |uri: Uri| async move {
            let answer = self.ask(&uri, needed, LAST_WINDOW).await;
            (uri, answer)
        };
        let mut asking: FuturesUnordered<_> = uris.iter().cloned().map(ask).collect();
        let (mut offers, mut refusals) = (Vec::new(), Vec::new());
        let begun = Instant::now();
        let mut window = FIRST_WINDOW;
        loop {
            match tokio::time::timeout_at(begun + window, asking.next()).await {
                Ok(Some((uri, Ok(offer)))) => offers.push((uri, offer)),
                Ok(Some((uri, Err(refusal)))) => {
                    tracing::debug!(%uri, %refusal, "orchestrator was of no use");
                    refusals.push((uri, refusal));
                }
                Ok(None) => break,
                Err(_) if offers.is_empty() && window < LAST_WINDOW => window = (window * 2).min(LAST_WINDOW),
                Err(_) => break,
            }
        }
        if !offers.is_empty() {
            return Ok(offers);
        }
        let answered = |uri: &Uri| refusals.iter().any(|(other, _)| other == uri);
        let late: Vec<_> = uris.into_iter().filter(|uri| !answered(uri)).collect();
        refusals.extend(late.into_iter().map(|uri| (uri, Refusal::Late)));
        Err(DiscoveryError { refusals })
    }

    /// Asks one orchestrator to go on with a stream.
    pub(crate) async fn renew(&self, uri: &Uri, needed: &CapabilitySet) -> Result<Offer, Refusal> {
        self.ask(uri, needed, REFRESH).await
    }

    async fn ask(&self, uri: &Uri, needed: &CapabilitySet, patience: Duration) -> Result<Offer, Refusal> {
        let (address, sig) = match &self.config.signer {
            Some(signer) => {
                let address = signer.address();
                let sig = signer.sign_node(&orchestrator_request_message(address))?;
                (address, sig.to_bytes().to_vec())
            }
            None => (Address::NULL, Vec::new()),
        };
        let request = net::OrchestratorRequest {
            address: address.as_bytes().to_vec(),
            sig,
            capabilities: Some(needs::to_wire(needed)),
            ignore_capacity_check: false,
        };
        let info = rpc::get_orchestrator(uri, request, patience).await?;
        let pays = self.config.signer.is_some();
        Ok(offer::judge(&info, needed, pays, &self.config.limits, self.chain().as_ref())?)
    }
}
