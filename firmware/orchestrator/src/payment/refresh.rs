//! `POST /refresh-payment`: fresh ticket parameters for a stream that pays by manifest.
//!
//! *Source:* livepeer-wire §4.3.
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Extension, State};
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderValue, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use livepeer::address::Address;
use livepeer::broker::Broker;
use livepeer::credentials::TOKEN_LIFETIME_SECONDS;
use livepeer::units::Timestamp;
use livepeer::wire::net;
use prost::Message;
use serde::Deserialize;

use crate::info::OfferError;
use crate::node::Orchestrator;
use crate::pool::Transcoder;
use crate::server::Peer;
use crate::sign::Signer;

/// Largest request.
const MAX_REQUEST: usize = 4096;
/// How long the request may take to come in.
const BODY: std::time::Duration = std::time::Duration::from_secs(5);

#[derive(Debug, Deserialize)]
struct Asked {
    #[serde(default)]
    sender: String,
    #[serde(default)]
    manifest_id: String,
}

/// Why there are none.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("request makes no sense")]
    Malformed,
    #[error("invalid sender")]
    Sender,
    #[error("missing manifest_id")]
    Manifest,
    #[error("fixed price not found for session")]
    NoPrice,
    #[error("Internal Server Error")]
    Offer(#[from] OfferError),
}

impl Refused {
    fn status(&self) -> StatusCode {
        match self {
            Self::Malformed | Self::Sender | Self::Manifest => StatusCode::BAD_REQUEST,
            Self::NoPrice => StatusCode::CONFLICT,
            Self::Offer(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// Answers a request for fresh parameters.
pub(crate) async fn serve<T: Transcoder, B: Broker, S: Signer>(
    State(node): State<Arc<Orchestrator<T, B, S>>>,
    Extension(peer): Extension<Peer>,
    body: Body,
) -> Response {
    let (status, answer) = match refresh(&node, body).await {
        Ok(answer) => (StatusCode::OK, answer),
        Err(refused) => {
            if let Some(suppressed) = node.log_limit.allow(peer.0.ip()) {
                let reason = service::with_causes(&refused);
                tracing::info!(peer = %peer.0, path = "/refresh-payment", reason, suppressed, "request refused");
            }
            (refused.status(), serde_json::json!({ "error": { "message": refused.to_string() } }))
        }
    };
    let mut response = Response::new(Body::from(answer.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

async fn refresh<T: Transcoder, B: Broker, S: Signer>(
    node: &Orchestrator<T, B, S>,
    body: Body,
) -> Result<serde_json::Value, Refused> {
    let body = tokio::time::timeout(BODY, Limited::new(body, MAX_REQUEST).collect()).await;
    let body = body.ok().and_then(Result::ok).ok_or(Refused::Malformed)?.to_bytes();
    let asked: Asked = serde_json::from_slice(&body).map_err(|_| Refused::Malformed)?;
    let sender: Address = asked.sender.parse().map_err(|_| Refused::Sender)?;
    let manifest = asked.manifest_id.trim();
    if manifest.is_empty() {
        return Err(Refused::Manifest);
    }
    let price = node.till.as_ref().and_then(|till| till.pinned.of(sender, manifest)).ok_or(Refused::NoPrice)?;
    let expiration = Timestamp(node.now().0.saturating_add(TOKEN_LIFETIME_SECONDS));
    let info = node.offer(sender, Some(price), &node.token_key.issue(manifest, expiration)).await?;
    let terms = net::OrchestratorInfo { capabilities: None, nodes: Vec::new(), ..info };
    Ok(serde_json::json!({
        "payment_params": STANDARD.encode(terms.encode_to_vec()),
        "orchestrator": node.service_uri.to_string(),
        "manifest_id": manifest,
        "payment_url": format!("{}/payment", node.service_uri),
    }))
}
