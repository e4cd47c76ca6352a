//! Can gateways find us? Asked from where they stand: through the service URI that the chain tells them.
//!
//! A first look comes two seconds after start, as in stock; then now and again, sooner while something is wrong. What
//! is wrong becomes an alarm, with what to do about it. A box behind a router that does not turn its own traffic
//! around cannot see itself this way, so nothing else depends on it.
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{Request, header};
use http_body_util::{BodyExt, Full, Limited};
use livepeer::broker::Broker;
use livepeer::signature::Signature;
use livepeer::wire::net;
use prost::Message;
use rand::RngCore;
use service::Heartbeat;

use crate::node::Orchestrator;
use crate::outbound::{NamedBy, OutboundError, Version};
use crate::pool::Transcoder;
use crate::sign::Signer;
use service::with_causes;

/// When the first look comes.
const FIRST: Duration = Duration::from_secs(2);
/// Between looks when all is well …
const WELL: Duration = Duration::from_secs(10 * 60);
/// … and when it is not.
const ILL: Duration = Duration::from_secs(60);
/// Between beats of the heart, which are more frequent than looks.
const BEAT: Duration = Duration::from_secs(5);
/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(3);
/// Largest answer.
const MAX_ANSWER: usize = 4096;

/// The alarm when we do not answer at our own service URI.
pub(crate) const UNREACHABLE: &str = "URI-UNREACHABLE";
/// The alarm when the chain sends gateways elsewhere.
pub(crate) const MISMATCH: &str = "URI-MISMATCH";

/// Looks, for ever.
pub async fn watch<T: Transcoder, B: Broker, S: Signer>(node: Arc<Orchestrator<T, B, S>>, heartbeat: Heartbeat) {
    let mut wait = FIRST;
    loop {
        let mut left = wait;
        while !left.is_zero() {
            heartbeat.beat();
            tokio::time::sleep(left.min(BEAT)).await;
            left = left.saturating_sub(BEAT);
        }
        wait = if look(&node).await { WELL } else { ILL };
    }
}

/// Looks once, and raises or clears the alarms. Says whether all is well.
pub async fn look<T: Transcoder, B: Broker, S: Signer>(node: &Orchestrator<T, B, S>) -> bool {
    let reached = tokio::time::timeout(ANSWER, ping(node)).await.unwrap_or(Err(Unreachable::Late));
    let reached = reached.map_err(|error| {
        format!(
            "gateways cannot reach {}: {}; check address, port forwarding and firewall",
            node.service_uri,
            with_causes(&error)
        )
    });
    let registered = registered(node).await;
    let well = reached.is_ok() && registered.is_ok();
    node.condition(UNREACHABLE, reached.err());
    node.condition(MISMATCH, registered.err());
    well
}

/// Why we did not reach ourselves.
#[derive(Debug, thiserror::Error)]
enum Unreachable {
    #[error(transparent)]
    Outbound(#[from] OutboundError),
    #[error("no answer in time")]
    Late,
    #[error("somebody else answers there")]
    SomebodyElse,
}

/// Asks for a signature of something new, and checks that it is ours.
async fn ping<T: Transcoder, B: Broker, S: Signer>(node: &Orchestrator<T, B, S>) -> Result<(), Unreachable> {
    let mut value = vec![0; 32];
    rand::rngs::OsRng.fill_bytes(&mut value);
    let question = net::PingPong { value: value.clone() }.encode_to_vec();
    let mut frame = BytesMut::with_capacity(question.len() + 5);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(question.len()).unwrap_or(u32::MAX));
    frame.put_slice(&question);
    let request = Request::post(format!("{}/net.Orchestrator/Ping", node.service_uri))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .body(Full::new(frame.freeze()))
        .map_err(OutboundError::from)?;
    let answer = node.outbound.send(request, NamedBy::Us, Version::Http2).await?;
    if !answer.response.status().is_success() {
        return Err(OutboundError::Status(answer.response.status()).into());
    }
    let body = Limited::new(answer.response.into_body(), MAX_ANSWER).collect().await;
    let mut body: Bytes = body.map_err(|_| OutboundError::TooLarge(MAX_ANSWER))?.to_bytes();
    if body.len() < 5 {
        return Err(Unreachable::SomebodyElse);
    }
    body.advance(5);
    let pong = net::PingPong::decode(body).map_err(|_| Unreachable::SomebodyElse)?;
    let Some(till) = &node.till else { return Ok(()) };
    let signer = Signature::from_bytes(&pong.value).and_then(|signature| signature.recover_node(&value));
    if signer == Ok(till.signer.account()) { Ok(()) } else { Err(Unreachable::SomebodyElse) }
}

/// Does the chain send gateways here? What cannot be read is not an alarm of its own: the chain has one already.
async fn registered<T, B: Broker, S: Signer>(node: &Orchestrator<T, B, S>) -> Result<(), String> {
    let Some(till) = &node.till else { return Ok(()) };
    let own = node.service_uri.as_str();
    match till.broker.registered_service_uri(till.recipient()).await {
        Ok(Some(registered)) if registered.trim_end_matches('/') != own => Err(format!(
            "the chain sends gateways to {registered:?}, this node serves {own}: set the service URI with the stake key"
        )),
        Ok(_) => Ok(()),
        Err(error) => {
            tracing::debug!(reason = %error, "service uri on chain was not read");
            Ok(())
        }
    }
}
