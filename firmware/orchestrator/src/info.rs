//! What gateways ask before they send anything: GetOrchestrator, Ping, EndTranscodingSession.
//!
//! *Source:* livepeer-wire §2, §3.2, §3.3, §8.
use std::sync::Arc;

use livepeer::address::Address;
use livepeer::broker::{Broker, BrokerError};
use livepeer::credentials::{AuthToken, orchestrator_request_message};
use livepeer::price::PricePerPixel;
use livepeer::signature::Signature;
use livepeer::wire::{
    auth_token_from_wire, auth_token_to_wire, capabilities_to_wire, net, params_to_wire, price_to_wire,
};
use tonic::{Request, Response, Status};

use crate::node::Orchestrator;
use crate::pool::Transcoder;
use crate::pricing::PricingError;
use crate::reject::Fault;
use crate::server::Peer;
use crate::session::{Capped, Owner};
use crate::sign::Signer;

mod generated {
    include!(concat!(env!("OUT_DIR"), "/net.rs"));
}

pub use generated::{orchestrator_server, transcoder_server};

/// The version whose behaviour we have, and ours.
pub const VERSION: &str = "0.9.1-millrace.1";
/// Why no offer can be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OfferError {
    /// The chain was not seen lately.
    #[error("the chain was not seen lately")]
    ChainUnknown,
    /// The sender's standing cannot be read.
    #[error("sender's standing cannot be read: {0}")]
    Standing(#[from] BrokerError),
    /// What is on its way for the sender cannot be read.
    #[error("ledger: {0}")]
    Ledger(String),
    /// No ticket would be worth redeeming.
    #[error(transparent)]
    Pricing(#[from] PricingError),
}

impl OfferError {
    /// Whose fault it is.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::ChainUnknown | Self::Standing(_) => Fault::Chain,
            Self::Pricing(PricingError::Reserve(_)) => Fault::Gateway,
            Self::Ledger(_) | Self::Pricing(PricingError::Price(_) | PricingError::Quote(_)) => Fault::Ours,
        }
    }
}

/// The gRPC side of the port.
pub(crate) struct Service<T, B, S>(pub(crate) Arc<Orchestrator<T, B, S>>);

#[tonic::async_trait]
impl<T: Transcoder, B: Broker, S: Signer> orchestrator_server::Orchestrator for Service<T, B, S> {
    async fn get_orchestrator(
        &self,
        request: Request<net::OrchestratorRequest>,
    ) -> Result<Response<net::OrchestratorInfo>, Status> {
        let node = &*self.0;
        let peer = peer_of(&request);
        let request = request.into_inner();
        let sender = Address::from_bytes(&request.address).unwrap_or_default();
        if node.till.is_some() && !signed_by(&request, sender) {
            return Err(refuse(node, peer, "Invalid orchestrator request: orchestrator req sig check failed"));
        }
        if let Some(webhook) = &node.webhook
            && let Err(denied) = webhook.admit(&node.outbound, sender).await
        {
            return Err(refuse(node, peer, &format!("authentication failed: {denied}")));
        }
        // Without capabilities it is a question about us, which a full box answers too.
        let about_us = request.capabilities.is_none();
        let token = node.new_token();
        let most = node.open_to_newcomers();
        let price = match node.sessions.discover(node.owner(sender, peer), &token.session_id, most, node.now()) {
            Ok(price) => price,
            Err(Capped) if about_us => None,
            Err(Capped) => return Err(refuse(node, peer, &format!("Invalid orchestrator request: {Capped}"))),
        };
        match node.offer(sender, price, &token).await {
            Ok(mut info) => {
                if about_us {
                    info.hardware = (node.hardware)();
                }
                Ok(Response::new(info))
            }
            Err(OfferError::Pricing(error @ PricingError::Reserve(_))) => Err(refuse(node, peer, &error.to_string())),
            Err(error) => {
                if let Some(suppressed) = node.log_limit.allow(peer.0.ip()) {
                    tracing::warn!(gateway = %sender, reason = %error, suppressed, "no offer can be made");
                }
                Err(Status::unknown("orchestrator cannot make an offer now"))
            }
        }
    }

    async fn end_transcoding_session(
        &self,
        request: Request<net::EndTranscodingSessionRequest>,
    ) -> Result<Response<net::EndTranscodingSessionResponse>, Status> {
        let node = &*self.0;
        let peer = peer_of(&request);
        let token = request.into_inner().auth_token.as_ref().map(auth_token_from_wire);
        if let Err(error) = node.token_key.check_authentic(token.as_ref()) {
            return Err(refuse(node, peer, &error.to_string()));
        }
        if let Some(session) = token.map(|token| token.session_id)
            && node.sessions.end(&session)
        {
            tracing::info!(session, reason = "gateway", "session ended");
            node.forget(&session);
        }
        Ok(Response::new(net::EndTranscodingSessionResponse {}))
    }

    async fn ping(&self, request: Request<net::PingPong>) -> Result<Response<net::PingPong>, Status> {
        let value = request.into_inner().value;
        let Some(till) = &self.0.till else {
            return Ok(Response::new(net::PingPong { value: Vec::new() }));
        };
        if value.len() > signer_protocol::MAX_PING {
            return Err(Status::invalid_argument("ping value is too long"));
        }
        let signed = till.signer.sign_ping(&value).await;
        let signature = signed.map_err(|error| {
            tracing::warn!(reason = %error, "ping was not signed");
            Status::unavailable("orchestrator cannot sign now")
        })?;
        Ok(Response::new(net::PingPong { value: signature.to_bytes().to_vec() }))
    }
}

impl<T: Transcoder, B: Broker, S: Signer> Orchestrator<T, B, S> {
    /// All a gateway needs to send segments: where to, at which price, with which tickets, under which token.
    pub(crate) async fn offer(
        &self,
        sender: Address,
        fixed: Option<PricePerPixel>,
        token: &AuthToken,
    ) -> Result<net::OrchestratorInfo, OfferError> {
        let mut info = net::OrchestratorInfo {
            transcoder: self.service_uri.to_string(),
            capabilities: Some(capabilities_to_wire(&self.capabilities(), VERSION)),
            auth_token: Some(auth_token_to_wire(token)),
            nodes: self.config.nodes.iter().map(ToString::to_string).collect(),
            // Off-chain too: a stock gateway with an empty block list takes an empty address for a blocked one.
            address: Address::default().as_bytes().to_vec(),
            ..net::OrchestratorInfo::default()
        };
        if let Some(till) = &self.till {
            let (price, params) = till.offer(sender, fixed.or(self.granted(sender)), self.now()).await?;
            info.ticket_params = Some(params_to_wire(&params));
            info.price_info = Some(price_to_wire(price));
            info.address = till.signer.account().as_bytes().to_vec();
        }
        Ok(info)
    }

    /// The price the operator granted this gateway by webhook.
    pub(crate) fn granted(&self, sender: Address) -> Option<PricePerPixel> {
        self.webhook.as_ref()?.price(sender)
    }

    /// Who owns what this peer does.
    pub(crate) fn owner(&self, sender: Address, peer: Peer) -> Owner {
        if self.till.is_some() { Owner::Account(sender) } else { Owner::Peer(peer.0.ip()) }
    }
}

/// Did this sender sign the request?
fn signed_by(request: &net::OrchestratorRequest, sender: Address) -> bool {
    let signature = Signature::from_bytes(&request.sig);
    let signer = signature.and_then(|signature| signature.recover_node(&orchestrator_request_message(sender)));
    !sender.is_null() && signer == Ok(sender)
}

pub(crate) fn peer_of<M>(request: &Request<M>) -> Peer {
    request.extensions().get::<Peer>().copied().unwrap_or_default()
}

/// An error as stock sends it: status UNKNOWN with the text.
pub(crate) fn refuse<T, B, S>(node: &Orchestrator<T, B, S>, peer: Peer, text: &str) -> Status {
    if let Some(suppressed) = node.log_limit.allow(peer.0.ip()) {
        tracing::info!(peer = %peer.0, reason = text, suppressed, "request refused");
    }
    Status::unknown(text)
}
