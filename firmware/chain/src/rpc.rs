//! The way to the chain: JSON-RPC over HTTP, several endpoints, one chain.
//!
//! Every request goes to the endpoint that answered last. One that cannot be reached, answers with an HTTP error, too
//! much or nonsense is left for the next; an answer from the EVM (a revert, a refused transaction) is an answer and
//! is not asked for again. An endpoint is asked for its chain id before its first use and again after each failure.
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::config::{ChainConfig, Endpoint};

mod error;
mod http_client;

pub use error::{RpcError, TransportFault};
use http_client::HttpClient;

/// The largest answer taken, in bytes. A block header with its transactions' hashes stays far below.
const MAX_ANSWER: usize = 8 * 1024 * 1024;

/// A connection to one chain through any of several endpoints. Clones share it.
#[derive(Clone)]
pub struct Rpc(Arc<Inner>);

struct Inner {
    endpoints: Vec<Known>,
    current: AtomicUsize,
    next_id: AtomicU64,
    chain_id: Option<u64>,
    timeout: Duration,
    http: HttpClient,
}

struct Known {
    endpoint: Endpoint,
    /// Has it shown the right chain id since it last failed?
    verified: AtomicBool,
    requests: AtomicU64,
    failures: AtomicU64,
}

/// How an endpoint fares, since start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointHealth {
    /// Where it is, without its token.
    pub endpoint: String,
    /// HTTP requests sent to it.
    pub requests: u64,
    /// Those that brought no usable answer.
    pub failures: u64,
    /// Is it the one asked first?
    pub preferred: bool,
}

impl std::fmt::Debug for Rpc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.endpoints.iter().map(|known| &known.endpoint)).finish()
    }
}

impl Rpc {
    /// Prepares the connection a configuration describes; nothing is sent yet.
    ///
    /// # Errors
    /// [`RpcError::NoEndpoint`], or [`RpcError::Tls`] when an `https` endpoint is named and the trusted authorities
    /// cannot be read.
    pub fn new(config: &ChainConfig) -> Result<Self, RpcError> {
        let tls = config.rpc.iter().any(|e| e.uri().scheme_str() == Some("https"));
        let proxy = config.proxy.as_ref().map(Endpoint::uri);
        let http = if tls { HttpClient::with_tls(&config.ca_file, proxy)? } else { HttpClient::plain(proxy) };
        Self::build(config.rpc.clone(), Some(config.chain_id), config.request_timeout(), http)
    }

    /// A connection to one plain-HTTP endpoint of any chain, for development tools.
    ///
    /// # Errors
    /// None today; the signature leaves room for a refused endpoint.
    pub fn any_chain(endpoint: Endpoint, timeout: Duration) -> Result<Self, RpcError> {
        Self::build(vec![endpoint], None, timeout, HttpClient::plain(None))
    }

    fn build(
        endpoints: Vec<Endpoint>,
        chain_id: Option<u64>,
        timeout: Duration,
        http: HttpClient,
    ) -> Result<Self, RpcError> {
        if endpoints.is_empty() {
            return Err(RpcError::NoEndpoint);
        }
        let endpoints = endpoints
            .into_iter()
            .map(|endpoint| Known {
                endpoint,
                verified: AtomicBool::new(chain_id.is_none()),
                requests: AtomicU64::new(0),
                failures: AtomicU64::new(0),
            })
            .collect();
        Ok(Self(Arc::new(Inner {
            endpoints,
            current: AtomicUsize::new(0),
            next_id: AtomicU64::new(1),
            chain_id,
            timeout,
            http,
        })))
    }

    /// How many endpoints there are to ask.
    #[must_use]
    pub fn endpoints(&self) -> usize {
        self.0.endpoints.len()
    }

    /// How the endpoints fare, in the order of the configuration.
    #[must_use]
    pub fn health(&self) -> Vec<EndpointHealth> {
        let current = self.0.current.load(Ordering::Relaxed);
        let of = |(index, known): (usize, &Known)| EndpointHealth {
            endpoint: known.endpoint.to_string(),
            requests: known.requests.load(Ordering::Relaxed),
            failures: known.failures.load(Ordering::Relaxed),
            preferred: index == current,
        };
        self.0.endpoints.iter().enumerate().map(of).collect()
    }

    /// One call, answered.
    ///
    /// # Errors
    /// [`RpcError`]; `Response` is the chain's own answer, anything else means no endpoint gave one.
    pub async fn request<R: DeserializeOwned>(&self, method: &'static str, params: Value) -> Result<R, RpcError> {
        let value = self.batch(&[(method, params)]).await?.pop().ok_or(RpcError::NoAnswer { method })??;
        serde_json::from_value(value).map_err(|source| RpcError::Unexpected { method, source })
    }

    /// Several calls in one HTTP request, answered in the order asked; each may fail by itself.
    ///
    /// # Errors
    /// [`RpcError`] when no endpoint answered at all.
    pub async fn batch(&self, calls: &[(&'static str, Value)]) -> Result<Vec<Result<Value, RpcError>>, RpcError> {
        let inner = &self.0;
        let first = inner.current.load(Ordering::Relaxed);
        let mut worst = RpcError::NoEndpoint;
        for step in 0..inner.endpoints.len() {
            let index = (first + step) % inner.endpoints.len();
            match self.batch_on(index, calls).await {
                Ok(answers) => {
                    inner.current.store(index, Ordering::Relaxed);
                    return Ok(answers);
                }
                Err(error) => {
                    tracing::debug!(%error, "rpc endpoint left for the next");
                    worst = error;
                }
            }
        }
        Err(worst)
    }

    /// The same call on one endpoint, for a second opinion.
    ///
    /// # Errors
    /// As [`Rpc::request`].
    pub async fn request_on<R: DeserializeOwned>(
        &self,
        index: usize,
        method: &'static str,
        params: Value,
    ) -> Result<R, RpcError> {
        let value = self.batch_on(index, &[(method, params)]).await?.pop().ok_or(RpcError::NoAnswer { method })??;
        serde_json::from_value(value).map_err(|source| RpcError::Unexpected { method, source })
    }

    async fn batch_on(
        &self,
        index: usize,
        calls: &[(&'static str, Value)],
    ) -> Result<Vec<Result<Value, RpcError>>, RpcError> {
        let known = self.0.endpoints.get(index).ok_or(RpcError::NoEndpoint)?;
        self.verify(known).await?;
        match self.exchange(known, calls).await {
            Ok(answers) => Ok(answers),
            Err(error) => {
                known.verified.store(self.0.chain_id.is_none(), Ordering::Relaxed);
                Err(error)
            }
        }
    }

    /// Asks an endpoint for its chain id unless it has shown the right one since its last failure.
    async fn verify(&self, known: &Known) -> Result<(), RpcError> {
        let Some(expected) = self.0.chain_id else { return Ok(()) };
        if known.verified.load(Ordering::Relaxed) {
            return Ok(());
        }
        let method = "eth_chainId";
        let answer =
            self.exchange(known, &[(method, json!([]))]).await?.pop().ok_or(RpcError::NoAnswer { method })??;
        let found = answer
            .as_str()
            .and_then(|text| u64::from_str_radix(text.trim_start_matches("0x"), 16).ok())
            .ok_or_else(|| RpcError::transport(&known.endpoint, TransportFault::Shape))?;
        if found != expected {
            return Err(RpcError::WrongChain { endpoint: known.endpoint.clone(), expected, found });
        }
        known.verified.store(true, Ordering::Relaxed);
        Ok(())
    }

    async fn exchange(
        &self,
        known: &Known,
        calls: &[(&'static str, Value)],
    ) -> Result<Vec<Result<Value, RpcError>>, RpcError> {
        let count = u64::try_from(calls.len()).unwrap_or(u64::MAX);
        let base = self.0.next_id.fetch_add(count, Ordering::Relaxed);
        let requests: Vec<Value> = calls
            .iter()
            .zip(base..)
            .map(|((method, params), id)| json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }))
            .collect();
        // A lone call goes out bare: not every provider bills or routes a batch of one the same way.
        let body = match requests.as_slice() {
            [one] => one.to_string(),
            many => Value::from(many.to_vec()).to_string(),
        };
        let fault = |fault| RpcError::transport(&known.endpoint, fault);
        let exchange = async {
            let exchange = self.0.http.post(known.endpoint.uri(), Bytes::from(body), MAX_ANSWER);
            let answer = tokio::time::timeout(self.0.timeout, exchange)
                .await
                .map_err(|_| fault(TransportFault::Timeout(self.0.timeout)))?
                .map_err(fault)?;
            let answer: Value = serde_json::from_slice(&answer).map_err(|_| fault(TransportFault::Shape))?;
            sort_answers(answer, calls, base).ok_or_else(|| fault(TransportFault::Shape))
        };
        known.requests.fetch_add(1, Ordering::Relaxed);
        let answers = exchange.await;
        if answers.is_err() {
            known.failures.fetch_add(1, Ordering::Relaxed);
        }
        answers
    }
}

/// Puts answers into the order of the questions; `None` when one is missing or nothing is recognisable.
fn sort_answers(answer: Value, calls: &[(&'static str, Value)], base: u64) -> Option<Vec<Result<Value, RpcError>>> {
    let mut answers = match answer {
        Value::Array(answers) => answers,
        // A refusal of the whole request comes as one object, also to a batch.
        one @ Value::Object(_) if calls.len() == 1 || one.get("error").is_some() => {
            if calls.len() > 1 {
                let refusal = one.get("error").cloned()?;
                return Some(calls.iter().map(|(m, _)| Err(RpcError::response(m, &refusal))).collect());
            }
            vec![one]
        }
        _ => return None,
    };
    calls
        .iter()
        .zip(base..)
        .map(|((method, _), id)| {
            let at = answers.iter().position(|a| a.get("id").and_then(Value::as_u64) == Some(id))?;
            let mut answer = answers.swap_remove(at);
            if let Some(error) = answer.get("error").filter(|e| !e.is_null()) {
                return Some(Err(RpcError::response(method, error)));
            }
            Some(Ok(answer.get_mut("result")?.take()))
        })
        .collect()
}

#[cfg(test)]
mod tests;
