//! What operators see and set while the node runs: HTTP on loopback, in the words of the network's own tools.
//!
//! [`guard`] lets in who may come in; [`seen`] answers questions about the node, [`on_chain`] questions about stake,
//! rounds and funds, [`set`] changes settings until the node ends, [`elsewhere`] says of what this node has no key for
//! where it is done. The paths, parameters and JSON names are those of the stock node.
//!
//! *Source:* livepeer-wire §11.3.
use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use chain::EthBroker;
use http::{HeaderValue, StatusCode, header};
use livepeer::address::Address;
use orchestrator::redeemer::Desk;
use orchestrator::status::measures::Measures;
use serde::{Deserialize, Serialize};
use service::status::NodeStatus;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::build::{Node, NodeError};
use crate::metrics::Origin;

mod elsewhere;
mod guard;
mod on_chain;
mod seen;
mod set;
#[cfg(test)]
mod tests;

/// Connections at the same time; a quarter of them for one address.
const CONNECTIONS: usize = 64;
/// How long requests get to finish when the node ends.
const DRAIN: Duration = Duration::from_secs(1);

/// What operators see and set over HTTP.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct AdminConfig {
    /// Address to listen on, `IP:PORT`; stock nodes have `127.0.0.1:7935`. Default none: nobody is answered.
    pub(crate) listen: Option<SocketAddr>,
    /// May it be an address that others reach? Who reaches it sees and sets everything. Default false.
    pub(crate) allow_remote: bool,
}

/// An address that others reach, without the word that allows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "configuration: admin.listen is {0}, which others can reach, and who reaches it sees and sets everything: use a \
     loopback address such as 127.0.0.1:7935, or set admin.allow_remote"
)]
pub(crate) struct Exposed(SocketAddr);

impl AdminConfig {
    /// Is the address one that only this machine reaches?
    pub(crate) fn check(&self) -> Result<(), Exposed> {
        match self.listen {
            Some(address) if !self.allow_remote && !address.ip().is_loopback() => Err(Exposed(address)),
            _ => Ok(()),
        }
    }
}

/// All that is asked and set.
pub(crate) struct Admin {
    pub(crate) status: watch::Receiver<NodeStatus>,
    pub(crate) origin: Origin,
    pub(crate) measures: Measures,
    /// The orchestrator; none while the node transcodes for others.
    pub(crate) node: Option<Arc<Node>>,
    /// The chain; none off-chain.
    pub(crate) chain: Option<OnChain>,
}

/// The chain's side.
pub(crate) struct OnChain {
    pub(crate) broker: Arc<EthBroker>,
    pub(crate) recipient: Address,
    pub(crate) hot: Address,
    pub(crate) desk: Desk,
}

/// Binds the port.
pub(crate) async fn bind(config: &AdminConfig) -> Result<Option<TcpListener>, NodeError> {
    let Some(address) = config.listen else { return Ok(None) };
    let fault = |source| NodeError::Listen { address: address.to_string(), source };
    Ok(Some(TcpListener::bind(address).await.map_err(fault)?))
}

/// Answers until `stopping`.
pub(crate) async fn serve(admin: Admin, listener: TcpListener, stopping: CancellationToken) {
    let bound = listener.local_addr().unwrap_or_else(|_| SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0));
    tracing::info!(listen = %bound, "answering operators");
    let router = router(Arc::new(admin), bound);
    orchestrator::server::serve(router, listener, None, CONNECTIONS, DRAIN, stopping).await;
}

fn router(admin: Arc<Admin>, bound: SocketAddr) -> Router {
    let router = Router::new()
        .route("/status", get(seen::status))
        .route("/metrics", get(seen::metrics))
        .route("/healthz", get(seen::healthz))
        .route("/localStreams", get(seen::local_streams))
        .route("/IsOrchestrator", get(seen::is_orchestrator))
        .route("/IsRedeemer", get(seen::is_redeemer))
        .route("/getLogLevel", get(seen::log_level))
        .route("/EthChainID", get(seen::chain_id))
        .route("/currentBlock", get(on_chain::current_block))
        .route("/currentRound", get(on_chain::current_round))
        .route("/roundInitialized", get(on_chain::round_initialized))
        .route("/orchestratorInfo", get(on_chain::orchestrator_info))
        .route("/registeredOrchestrators", get(on_chain::registered_orchestrators))
        .route("/protocolParameters", get(on_chain::protocol_parameters))
        .route("/contractAddresses", get(on_chain::contract_addresses))
        .route("/ethAddr", get(on_chain::eth_address))
        .route("/ethBalance", get(on_chain::eth_balance))
        .route("/tokenBalance", get(on_chain::token_balance))
        .route("/delegatorInfo", get(on_chain::delegator_info))
        .route("/unbondingLocks", get(on_chain::unbonding_locks))
        .route("/senderInfo", get(on_chain::sender_info))
        .route("/ticketBrokerParams", get(on_chain::ticket_broker_params))
        .route("/maxGasPrice", get(on_chain::max_gas_price))
        .route("/minGasPrice", get(on_chain::min_gas_price))
        .route("/setPriceForBroadcaster", post(set::price))
        .route("/setMaxSessions", post(set::max_sessions))
        .route("/setMaxFaceValue", post(set::max_face_value))
        .route("/setMaxGasPrice", post(set::max_gas_price))
        .route("/setMinGasPrice", post(set::min_gas_price))
        .route("/setLogLevel", post(set::log_level))
        // The stock command line calls the reward by GET; the guard keeps web pages from it either way.
        .route("/reward", get(set::reward).post(set::reward))
        .route("/initializeRound", post(set::initialize_round));
    elsewhere::routes(router)
        .with_state(admin)
        .fallback(nowhere)
        .layer(axum::middleware::from_fn_with_state(guard::Guard::of(bound), guard::guard))
}

async fn nowhere() -> Refusal {
    Refusal(StatusCode::NOT_FOUND, "404 page not found".to_owned())
}

/// Why there is no answer: plain text with a newline, as stock sends it.
#[derive(Debug)]
struct Refusal(StatusCode, String);

impl Refusal {
    /// The request is at fault.
    fn bad(why: impl std::fmt::Display) -> Self {
        Self(StatusCode::BAD_REQUEST, why.to_string())
    }

    /// The chain or the node is.
    fn fault(why: &(dyn std::error::Error + 'static)) -> Self {
        Self(StatusCode::INTERNAL_SERVER_ERROR, service::with_causes(why))
    }

    /// What the stock node says off-chain.
    fn off_chain() -> Self {
        Self(StatusCode::INTERNAL_SERVER_ERROR, "missing ETH client".to_owned())
    }

    fn not_serving(what: &str) -> Self {
        Self::bad(format!("node must be orchestrator node to {what}"))
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let plain = HeaderValue::from_static("text/plain; charset=utf-8");
        (self.0, [(header::CONTENT_TYPE, plain)], format!("{}\n", self.1)).into_response()
    }
}

/// What comes of a request.
type Answer = Result<Response, Refusal>;

impl Admin {
    fn chain(&self) -> Result<&OnChain, Refusal> {
        self.chain.as_ref().ok_or_else(Refusal::off_chain)
    }
}

/// Plain text, without a newline, as stock sends it.
fn plain(text: impl ToString) -> Answer {
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    Ok(([(header::CONTENT_TYPE, plain)], text.to_string()).into_response())
}

fn json(value: &impl Serialize) -> Answer {
    let text = serde_json::to_string(value).map_err(|error| Refusal::fault(&error))?;
    Ok(([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], text).into_response())
}

/// The parameters of a request: those in its body first, then those in its URL.
#[derive(Debug)]
struct Form(HashMap<String, String>);

/// Largest body of parameters.
const MAX_FORM: usize = 16 << 10;
/// How long a body may take.
const FORM: Duration = Duration::from_secs(5);

impl<S: Sync> axum::extract::FromRequest<S> for Form {
    type Rejection = Refusal;

    async fn from_request(request: axum::extract::Request, _: &S) -> Result<Self, Refusal> {
        let (head, body) = request.into_parts();
        let body = tokio::time::timeout(FORM, axum::body::to_bytes(body, MAX_FORM)).await;
        let body = body.map_err(|_| Refusal(StatusCode::REQUEST_TIMEOUT, "the body took too long".to_owned()))?;
        let too_long = |_| Refusal(StatusCode::PAYLOAD_TOO_LARGE, format!("the body is longer than {MAX_FORM} bytes"));
        let body = body.map_err(too_long)?;
        let url = head.uri.query().unwrap_or_default().as_bytes();
        let pairs = form_urlencoded::parse(url).chain(form_urlencoded::parse(&body));
        Ok(Self(pairs.map(|(name, value)| (name.into_owned(), value.into_owned())).collect()))
    }
}

impl Form {
    /// A parameter that must be there.
    fn must(&self, name: &'static str) -> Result<&str, Refusal> {
        self.maybe(name).ok_or_else(|| Refusal::bad(format!("missing form param: {name}")))
    }

    fn maybe(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }
}
