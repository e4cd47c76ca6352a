//! The one port: gRPC and HTTP, over TLS with h2 and http/1.1, or over plain text.
//!
//! Walk 1, step 1. A connection needs a permit before it is accepted, may take only so long to shake hands, to send a
//! request's head and to take its answer ([`watch`], [`patient`]), and is told to finish when the node stops. A panic
//! costs its request.
use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use axum::routing::{get, post};
use futures_util::FutureExt;
use http::{HeaderValue, StatusCode, header};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use livepeer::broker::Broker;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::{Service as _, ServiceExt};

use crate::info::transcoder_server::TranscoderServer;
use crate::info::{Service, orchestrator_server::OrchestratorServer};
use crate::node::Orchestrator;
use crate::pool::Transcoder;
use crate::rendition_store::Stored;
use crate::sign::Signer;
use crate::{payment, remote, segment};

mod patient;
mod watch;

use self::patient::Patient;
use self::watch::{Enough, Watch};

/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long a request's head may take, and so how long an idle HTTP/1.1 connection lives: longer than the minute
/// after which a gateway drops its own.
const HEAD: Duration = Duration::from_secs(75);
/// How often an h2 connection is pinged; one that does not answer for as long again is dropped.
const PING: Duration = Duration::from_secs(20);
/// Bytes a peer may send ahead on one h2 stream; a whole segment fits, so uploads need no round trips.
const STREAM_WINDOW: u32 = 8 << 20;
/// The same for one connection.
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Requests at the same time on one h2 connection.
const STREAMS: u32 = 64;
/// Largest piece of an upload that a peer may send at once over h2; the least a peer must be allowed is a quarter of it.
const FRAME: u32 = 64 << 10;
/// Largest head of a request. A payment of 600 tickets takes some 65 KiB of it.
const HEADER_LIST: u32 = 192 << 10;
/// Largest gRPC message.
const GRPC_MESSAGE: usize = 256 << 10;
/// How long any answer may be on its way but those to a segment and to a transcoder's result, which have their own times.
const ANSWER: Duration = Duration::from_secs(20);
/// How long to wait after `accept` failed, when descriptors ran out say.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Who is at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer(pub SocketAddr);

impl Default for Peer {
    fn default() -> Self {
        Self(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0))
    }
}

/// Everything served on the port.
pub fn router<T: Transcoder, B: Broker, S: Signer>(node: &Arc<Orchestrator<T, B, S>>) -> axum::Router {
    let grpc = OrchestratorServer::new(Service(Arc::clone(node)))
        .max_decoding_message_size(GRPC_MESSAGE)
        .max_encoding_message_size(GRPC_MESSAGE);
    let attaching = TranscoderServer::new(remote::register::Service(Arc::clone(node)))
        .max_decoding_message_size(GRPC_MESSAGE)
        .max_encoding_message_size(GRPC_MESSAGE);
    let http = axum::Router::new()
        .route("/segment", post(segment::serve::<T, B, S>))
        .route("/payment", post(payment::serve::<T, B, S>))
        .route("/refresh-payment", post(payment::refresh::serve::<T, B, S>))
        .route("/transcodeResults", post(remote::results::serve::<T, B, S>))
        .route("/stream/{*path}", get(rendition::<T, B, S>))
        .layer(DefaultBodyLimit::disable())
        .with_state(Arc::clone(node));
    tonic::service::Routes::new(grpc)
        .add_service(attaching)
        .prepare()
        .into_axum_router()
        .merge(http)
        .fallback(unknown)
        .layer(axum::middleware::from_fn(catch_panic))
}

/// `GET /stream/…`: a rendition, or a segment for a box that transcodes for us, by exactly the path we gave out.
async fn rendition<T: Transcoder, B: Broker, S: Signer>(
    State(node): State<Arc<Orchestrator<T, B, S>>>,
    request: Request,
) -> Response {
    let path = request.uri().path();
    let input = || {
        node.remotes.input(path).map(|media| Stored { media, media_type: "application/octet-stream", signature: None })
    };
    let Some(stored) = node.renditions.get(path).or_else(input) else {
        return not_found();
    };
    let length = HeaderValue::from(stored.media.len());
    let mut response = Response::new(Body::from(stored.media));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(stored.media_type));
    response.headers_mut().insert(header::CONTENT_LENGTH, length);
    response
}

/// Everything else: a gRPC method nobody serves, or a path there is not.
async fn unknown(request: Request) -> Response {
    let kind = request.headers().get(header::CONTENT_TYPE);
    if kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc")) {
        return tonic::Status::unimplemented("unknown service").into_http();
    }
    not_found()
}

fn not_found() -> Response {
    let mut response = Response::new(Body::from("404 page not found\n"));
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}

/// A panic costs its request, and is told; so does a request that never ends.
async fn catch_panic(request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let within = if matches!(path.as_str(), "/segment" | "/transcodeResults") { Duration::MAX } else { ANSWER };
    match tokio::time::timeout(within, AssertUnwindSafe(next.run(request)).catch_unwind()).await {
        Err(_) => {
            let mut response = Response::new(Body::from("Request Timeout\n"));
            *response.status_mut() = StatusCode::REQUEST_TIMEOUT;
            response
        }
        Ok(Ok(response)) => response,
        Ok(Err(_)) => {
            tracing::error!(path, "a request panicked: report this, with the lines before it");
            let mut response = Response::new(Body::from("Internal Server Error\n"));
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            response
        }
    }
}

/// Serves until `stopping`, then lets connections finish what they have for at most `drain`.
///
/// Cancel safe in the sense that dropping it drops all connections.
pub async fn serve(
    router: axum::Router,
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    max_connections: usize,
    drain: Duration,
    stopping: CancellationToken,
) {
    let permits = Arc::new(Semaphore::new(max_connections));
    let crowd = Arc::new(Crowd { most: (max_connections / 4).max(1), peers: Mutex::default() });
    let acceptor = tls.map(TlsAcceptor::from);
    let mut connections = JoinSet::new();
    loop {
        let accepted = async {
            let permit = Arc::clone(&permits).acquire_owned().await;
            (permit.expect("the semaphore is never closed"), listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            accepted = accepted => accepted,
            Some(ended) = connections.join_next() => { told(&ended); continue }
            () = stopping.cancelled() => break,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "connection was not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(place) = crowd.enter(address.ip()) else {
            tracing::debug!(peer = %address, "connection dropped: its address has its share of all connections");
            continue;
        };
        let (router, acceptor, stopping) = (router.clone(), acceptor.clone(), stopping.clone());
        connections.spawn(async move {
            let _held = (permit, place);
            connection(router, stream, address, acceptor, stopping).await;
        });
    }
    drop(listener);
    let finish = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(drain, finish).await.is_err() {
        tracing::warn!(connections = connections.len(), "connections were cut off at the end of the drain");
    }
}

fn told(ended: &Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a connection panicked: report this, with the lines before it");
    }
}

async fn connection(
    router: axum::Router,
    stream: TcpStream,
    address: SocketAddr,
    acceptor: Option<TlsAcceptor>,
    stopping: CancellationToken,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(peer = %address, %error, "connection went away at once");
        return;
    }
    let stream = Patient::new(stream);
    let Some(acceptor) = acceptor else {
        return speak(router, stream, address, stopping).await;
    };
    match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => speak(router, stream, address, stopping).await,
        Ok(Err(error)) => tracing::debug!(peer = %address, %error, "TLS handshake was broken off"),
        Err(_) => tracing::debug!(peer = %address, "TLS handshake took too long"),
    }
}

/// Speaks HTTP, whichever version the peer chose.
async fn speak(
    router: axum::Router,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    address: SocketAddr,
    stopping: CancellationToken,
) {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(STREAMS)
        .max_frame_size(FRAME)
        .max_header_list_size(HEADER_LIST);
    let watch = Watch::new();
    let watched = watch.clone();
    let service = hyper::service::service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
        let under_way = watched.begin();
        request.extensions_mut().insert(Peer(address));
        let mut router = router.clone();
        async move {
            let ready: Result<_, Infallible> = ServiceExt::<Request>::ready(&mut router).await;
            let response = ready?.call(request.map(Body::new)).await?;
            Ok::<_, Infallible>(response.map(|body| under_way.answer(body)))
        }
    });
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut leaving = false;
    let ended = loop {
        tokio::select! {
            ended = connection.as_mut() => break ended,
            () = stopping.cancelled(), if !leaving => leaving = true,
            reason = watch.enough() => {
                tracing::debug!(peer = %address, %reason, "connection was ended");
                if reason != Enough::Idle {
                    return;
                }
            }
        }
        connection.as_mut().graceful_shutdown();
    };
    if let Err(error) = ended {
        tracing::debug!(peer = %address, error = %error, "connection broke");
    }
}

/// Whose connections count together: an address, or of IPv6 the network of 64 bits that one subscriber has.
fn household(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
        v4 => v4,
    }
}

/// How many connections each address has.
#[derive(Debug)]
struct Crowd {
    most: usize,
    peers: Mutex<HashMap<IpAddr, usize>>,
}

/// One connection's place in the crowd.
#[derive(Debug)]
struct Place {
    crowd: Arc<Crowd>,
    peer: IpAddr,
}

impl Crowd {
    fn enter(self: &Arc<Self>, peer: IpAddr) -> Option<Place> {
        let peer = household(peer);
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let count = peers.entry(peer).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Place { crowd: Arc::clone(self), peer })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut peers = self.crowd.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = peers.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                peers.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_cannot_take_all_connections() {
        let crowd = Arc::new(Crowd { most: 2, peers: Mutex::default() });
        let (one, other) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let places = (crowd.enter(one), crowd.enter(one));
        assert!(crowd.enter(one).is_none() && crowd.enter(other).is_some());
        drop(places);
        assert!(crowd.enter(one).is_some());
    }

    #[test]
    fn who_has_a_network_is_still_one_peer() {
        let crowd = Arc::new(Crowd { most: 1, peers: Mutex::default() });
        let peer = |text: &str| crowd.enter(text.parse().unwrap());
        let _held = peer("2001:db8:1:2::1").unwrap();
        assert!(peer("2001:db8:1:2:ffff::9").is_none() && peer("2001:db8:1:3::1").is_some());
        let _mapped = peer("::ffff:192.0.2.1").unwrap();
        assert!(peer("192.0.2.1").is_none() && peer("::ffff:192.0.2.2").is_some());
    }
}
