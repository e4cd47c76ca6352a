//! The orchestrator's gRPC service, one connection per call as the network expects.
use std::time::Duration;

use ::http::Uri;
use livepeer::wire::net;
use tonic::transport::{Channel, Endpoint};

use self::generated::orchestrator_client::OrchestratorClient;
use crate::tls;

#[expect(unreachable_pub, reason = "generated from livepeer.proto")]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/net.rs"));
}

/// How long a connection may take, TLS included.
const CONNECT: Duration = Duration::from_secs(3);

/// Why a call to an orchestrator brought no answer.
#[derive(Debug, thiserror::Error)]
pub enum RpcError {
    /// No connection, or none in time.
    #[error("no connection")]
    Connect(#[source] tonic::transport::Error),
    /// The call took too long.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The orchestrator refused, in its own words.
    #[error("refused: {0}")]
    Refused(String),
}

async fn connect(uri: &Uri) -> Result<OrchestratorClient<Channel>, RpcError> {
    let endpoint = Endpoint::from(uri.clone()).connect_timeout(CONNECT);
    let connecting = endpoint.connect_with_connector(tls::grpc_connector());
    let channel = tokio::time::timeout(CONNECT, connecting).await.map_err(|_| RpcError::Timeout(CONNECT))?;
    Ok(OrchestratorClient::new(channel.map_err(RpcError::Connect)?))
}

/// Asks for an offer.
pub(crate) async fn get_orchestrator(
    uri: &Uri,
    request: net::OrchestratorRequest,
    patience: Duration,
) -> Result<net::OrchestratorInfo, RpcError> {
    let call = async {
        let mut client = connect(uri).await?;
        let answer = client.get_orchestrator(request).await;
        answer.map(tonic::Response::into_inner).map_err(|status| RpcError::Refused(status.message().to_owned()))
    };
    tokio::time::timeout(patience, call).await.map_err(|_| RpcError::Timeout(patience))?
}

/// Tells an orchestrator that a session is over. The answer does not matter.
pub(crate) async fn end_session(uri: &Uri, token: net::AuthToken) -> Result<(), RpcError> {
    let call = async {
        let mut client = connect(uri).await?;
        let request = net::EndTranscodingSessionRequest { auth_token: Some(token) };
        let answer = client.end_transcoding_session(request).await;
        answer.map(drop).map_err(|status| RpcError::Refused(status.message().to_owned()))
    };
    tokio::time::timeout(CONNECT, call).await.map_err(|_| RpcError::Timeout(CONNECT))?
}
