//! `RegisterTranscoder`: a transcoder dials in and listens for segments until one of us goes away.
//!
//! The service is always there, so that a transcoder is told in words why it cannot attach.
//!
//! *Source:* livepeer-wire §4.5, §12 rows 2, 3, 12.
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use livepeer::broker::Broker;
use livepeer::capability::CapabilitySet;
use livepeer::wire::net;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::registry::MemberId;
use super::{Line, NOTICES, Remotes};
use crate::info::{peer_of, refuse, transcoder_server};
use crate::node::Orchestrator;
use crate::pool::Transcoder;
use crate::sign::Signer;

/// The most sessions one transcoder can claim to take.
const MAX_CAPACITY: usize = 10_000;
/// What a transcoder can do that does not say: 0 to 12, 14 and 26.
///
/// *Source:* livepeer-wire §6.2.
const DEFAULT: u64 = ((1 << 13) - 1) | (1 << 14) | (1 << 26);

/// Why a transcoder cannot attach, in the network's words where it has some.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The operator set no secret.
    #[error("this orchestrator takes no remote transcoders: its operator has set no secret")]
    Disabled,
    /// The secret is another.
    #[error("invalid secret")]
    Secret,
    /// It would take nothing.
    #[error("zero capacity")]
    ZeroCapacity,
    /// There are as many as we take.
    #[error("this orchestrator has all the transcoders it takes")]
    Full,
    /// We are stopping.
    #[error("this orchestrator is stopping")]
    Stopping,
}

/// The gRPC side of attaching.
pub(crate) struct Service<T, B, S>(pub(crate) Arc<Orchestrator<T, B, S>>);

/// The notices for one transcoder.
type Notices = Pin<Box<dyn Stream<Item = Result<net::NotifySegment, Status>> + Send>>;

#[tonic::async_trait]
impl<T: Transcoder, B: Broker, S: Signer> transcoder_server::Transcoder for Service<T, B, S> {
    type RegisterTranscoderStream = Notices;

    async fn register_transcoder(
        &self,
        request: Request<net::RegisterRequest>,
    ) -> Result<Response<Self::RegisterTranscoderStream>, Status> {
        let node = &*self.0;
        let peer = peer_of(&request);
        match node.remotes.attach(&request.into_inner(), peer.0.ip()) {
            Ok(attached) => {
                let notices = futures_util::stream::unfold(attached, |mut attached| async {
                    attached.notices.recv().await.map(|notice| (Ok(notice), attached))
                });
                Ok(Response::new(Box::pin(notices)))
            }
            Err(refusal) => Err(refuse(node, peer, &refusal.to_string())),
        }
    }
}

/// A transcoder's place among us, for as long as its connection lasts.
#[derive(Debug)]
pub struct Attached {
    id: MemberId,
    remotes: Arc<Remotes>,
    pub(crate) notices: mpsc::Receiver<net::NotifySegment>,
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.remotes.lock().remove(self.id);
        tracing::info!(transcoder = self.id, "transcoder detached");
    }
}

impl Remotes {
    /// Takes a transcoder in.
    ///
    /// # Errors
    /// [`Refusal`], to be told to it.
    pub fn attach(self: &Arc<Self>, request: &net::RegisterRequest, peer: IpAddr) -> Result<Attached, Refusal> {
        if self.secret.is_none() {
            return Err(Refusal::Disabled);
        }
        if !self.knows(request.secret.as_bytes()) {
            return Err(Refusal::Secret);
        }
        let capacity = usize::try_from(request.capacity).unwrap_or(0).min(MAX_CAPACITY);
        if capacity == 0 {
            return Err(Refusal::ZeroCapacity);
        }
        let offered = request.capabilities.clone().unwrap_or_default();
        let words = if offered.bitstring.is_empty() { &[DEFAULT] } else { &offered.bitstring[..] };
        let can = CapabilitySet::from_bitstring(words);
        let version: String = offered.version.chars().filter(|c| !c.is_control()).take(64).collect();

        let mut inner = self.lock();
        if inner.closed {
            return Err(Refusal::Stopping);
        }
        if inner.lines.len() >= self.max_transcoders {
            return Err(Refusal::Full);
        }
        let id = inner.registry.add(capacity, can, version.clone());
        let (sender, notices) = mpsc::channel(NOTICES);
        inner.lines.insert(id, Line { notices: sender, peer, since: Instant::now() });
        drop(inner);
        tracing::info!(transcoder = id, %peer, capacity, version, "transcoder attached");
        Ok(Attached { id, remotes: Arc::clone(self), notices })
    }
}
