//! Requests we make ourselves: segments named by a URL, stores that renditions go to, the operator's webhook, our own
//! front door.
//!
//! A name is resolved once, every address it stands for is judged by the [`guard`], and the connection goes to one of
//! exactly these; a redirect is an answer like any other and is not followed. One connection serves one request.
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderValue, Request, Response, Uri, header};
use hyper::body::{Body, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

pub mod guard;
mod tls;

pub use guard::Network;

/// How long a name may take to resolve.
const RESOLVE: Duration = Duration::from_secs(2);
/// How long a TCP connection may take.
const DIAL: Duration = Duration::from_secs(2);
/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(3);
/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 4;

/// What requests of our own may reach.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OutboundConfig {
    /// Networks that gateways may name in URLs although they are not public, such as that of your own object store:
    /// `["192.168.7.0/24"]`. Default none.
    pub allow_networks: Vec<Network>,
    /// Certificate authorities trusted for object stores and the webhook, a PEM file. Default: the system's bundle.
    pub ca_file: PathBuf,
}

impl Default for OutboundConfig {
    fn default() -> Self {
        Self { allow_networks: Vec::new(), ca_file: PathBuf::from("/etc/ssl/certs/ca-certificates.crt") }
    }
}

/// Who named the URL, and how its owner is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NamedBy {
    /// A gateway; what comes back is checked by its hash, so any certificate will do.
    Peer,
    /// A gateway; we hand something over, so the certificate must be good.
    PeerForKeeps,
    /// The operator; the certificate must be good, and any network will do.
    Operator,
    /// We: our own service URI; what comes back is checked by its signature.
    Us,
}

/// Why a request of ours failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OutboundError {
    #[error("not a URL with http or https and a host")]
    Url,
    #[error("{0} cannot be resolved")]
    Resolve(String),
    #[error("{0} is in a network that gateways may not send us to: see serve.outbound.allow_networks")]
    Forbidden(IpAddr),
    #[error("no connection to {host}: {reason}")]
    Connect { host: String, reason: String },
    #[error("{0}")]
    Authorities(String),
    #[error("request broke off")]
    Http(#[from] hyper::Error),
    #[error("request could not be put together")]
    Request(#[from] http::Error),
    #[error("no answer in time")]
    Timeout,
    #[error("answered with status {0}")]
    Status(http::StatusCode),
    #[error("answer is larger than {0} bytes")]
    TooLarge(usize),
}

/// Makes requests.
#[derive(Debug)]
pub(crate) struct Outbound {
    allowed: Vec<Network>,
    checked: Result<Arc<ClientConfig>, String>,
    unchecked: Arc<ClientConfig>,
}

/// An answer, and the connection it comes over: dropping it hangs up.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) response: Response<Incoming>,
    _connection: AbortOnDropHandle<()>,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Which HTTP is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    Http1,
    Http2,
}

impl Outbound {
    pub(crate) fn new(config: &OutboundConfig) -> Self {
        Self {
            allowed: config.allow_networks.clone(),
            checked: tls::checked(&config.ca_file),
            unchecked: tls::unchecked(),
        }
    }

    /// Can the certificates of others be checked at all?
    pub(crate) fn can_check_certificates(&self) -> bool {
        self.checked.is_ok()
    }

    /// Sends one request; returns with the head of the answer. The caller sets the time limit.
    pub(crate) async fn send<B>(
        &self,
        request: Request<B>,
        named: NamedBy,
        version: Version,
    ) -> Result<Answer, OutboundError>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (mut parts, body) = request.into_parts();
        let uri = parts.uri.clone();
        let io = TokioIo::new(self.connect(&uri, named, version).await?);
        if version == Version::Http2 {
            let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await?;
            let connection = drive(connection);
            let response = sender.send_request(Request::from_parts(parts, body)).await?;
            return Ok(Answer { response, _connection: connection });
        }
        let authority = uri.authority().ok_or(OutboundError::Url)?.as_str();
        let host = HeaderValue::from_str(authority).map_err(|_| OutboundError::Url)?;
        parts.headers.insert(header::HOST, host);
        let path = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        parts.uri = Uri::from(path);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
        let connection = drive(connection);
        let response = sender.send_request(Request::from_parts(parts, body)).await?;
        Ok(Answer { response, _connection: connection })
    }

    async fn connect(&self, uri: &Uri, named: NamedBy, version: Version) -> Result<Box<dyn Stream>, OutboundError> {
        let secure = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            Some(scheme) if *scheme == Scheme::HTTP => false,
            _ => return Err(OutboundError::Url),
        };
        let authority = uri.authority().filter(|authority| !authority.as_str().contains('@'));
        let host = authority.ok_or(OutboundError::Url)?.host().trim_matches(['[', ']']).to_owned();
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let stream = self.dial(&host, port, named).await?;
        if !secure {
            return Ok(Box::new(stream));
        }
        let config = match named {
            NamedBy::Peer | NamedBy::Us => &self.unchecked,
            NamedBy::PeerForKeeps | NamedBy::Operator => {
                self.checked.as_ref().map_err(|reason| OutboundError::Authorities(reason.clone()))?
            }
        };
        let mut config = ClientConfig::clone(config);
        config.alpn_protocols = vec![if version == Version::Http2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
        let name = ServerName::try_from(host.clone()).map_err(|_| OutboundError::Url)?;
        let fault = |reason: String| OutboundError::Connect { host: host.clone(), reason };
        let handshake = TlsConnector::from(Arc::new(config)).connect(name, stream);
        match tokio::time::timeout(HANDSHAKE, handshake).await {
            Ok(Ok(stream)) => Ok(Box::new(stream)),
            Ok(Err(error)) => Err(fault(error.to_string())),
            Err(_) => Err(fault("TLS handshake took too long".to_owned())),
        }
    }

    async fn dial(&self, host: &str, port: u16, named: NamedBy) -> Result<TcpStream, OutboundError> {
        let mut last = OutboundError::Resolve(host.to_owned());
        for address in self.addresses(host, port, named).await? {
            match tokio::time::timeout(DIAL, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    // An upload is written in large pieces; a refusal here costs latency only.
                    let _ = stream.set_nodelay(true);
                    return Ok(stream);
                }
                Ok(Err(error)) => {
                    last = OutboundError::Connect { host: host.to_owned(), reason: error.to_string() };
                }
                Err(_) => {
                    last = OutboundError::Connect { host: host.to_owned(), reason: "it took too long".to_owned() };
                }
            }
        }
        Err(last)
    }

    /// The addresses of a host. A name that stands for a forbidden one beside others is up to no good.
    async fn addresses(&self, host: &str, port: u16, named: NamedBy) -> Result<Vec<SocketAddr>, OutboundError> {
        let addresses: Vec<SocketAddr> = match host.parse::<IpAddr>() {
            Ok(ip) => vec![SocketAddr::new(ip, port)],
            Err(_) => {
                let resolving = tokio::time::timeout(RESOLVE, tokio::net::lookup_host((host, port)));
                let unresolved = || OutboundError::Resolve(host.to_owned());
                resolving.await.map_err(|_| unresolved())?.map_err(|_| unresolved())?.collect()
            }
        };
        if matches!(named, NamedBy::Peer | NamedBy::PeerForKeeps)
            && let Some(inside) = addresses.iter().find(|address| !guard::may_reach(address.ip(), &self.allowed))
        {
            return Err(OutboundError::Forbidden(inside.ip()));
        }
        Ok(addresses.into_iter().take(MAX_ADDRESSES).collect())
    }
}

/// Polls a connection for as long as its handle lives.
fn drive(connection: impl Future<Output = Result<(), hyper::Error>> + Send + 'static) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection of ours broke");
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{BodyExt, Empty};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    async fn ask(outbound: &Outbound, url: &str, named: NamedBy) -> Result<Answer, OutboundError> {
        let request = Request::get(url).body(Empty::<Bytes>::new()).unwrap();
        outbound.send(request, named, Version::Http1).await
    }

    /// Answers every connection with these bytes, and counts them.
    async fn server(answer: &'static str) -> (u16, Arc<std::sync::atomic::AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let count = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                let mut head = [0; 4096];
                let _ = stream.read(&mut head).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        (port, count)
    }

    #[tokio::test]
    async fn a_gateway_cannot_name_what_is_inside_and_no_connection_is_made() {
        let (port, connections) = server("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi").await;
        let outbound = Outbound::new(&OutboundConfig::default());
        for host in ["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "127.1"] {
            let asked = ask(&outbound, &format!("http://{host}:{port}/"), NamedBy::Peer).await;
            assert!(matches!(asked, Err(OutboundError::Forbidden(_) | OutboundError::Resolve(_))), "{host}: {asked:?}");
        }
        assert_eq!(connections.load(std::sync::atomic::Ordering::SeqCst), 0);
        let open = OutboundConfig { allow_networks: vec!["127.0.0.0/8".parse().unwrap()], ..Default::default() };
        let answer = ask(&Outbound::new(&open), &format!("http://127.0.0.1:{port}/"), NamedBy::Peer).await.unwrap();
        assert_eq!(answer.response.into_body().collect().await.unwrap().to_bytes(), "hi");
        assert!(ask(&outbound, &format!("http://127.0.0.1:{port}/"), NamedBy::Operator).await.is_ok());
    }

    #[tokio::test]
    async fn a_redirect_is_not_followed() {
        let (inside, connections) = server("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        let moved = format!("HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:{inside}/\r\ncontent-length: 0\r\n\r\n");
        let (port, _) = server(Box::leak(moved.into_boxed_str())).await;
        let open = OutboundConfig { allow_networks: vec!["127.0.0.1/32".parse().unwrap()], ..Default::default() };
        let answer = ask(&Outbound::new(&open), &format!("http://127.0.0.1:{port}/"), NamedBy::Peer).await.unwrap();
        assert_eq!(answer.response.status(), 302);
        assert_eq!(connections.load(std::sync::atomic::Ordering::SeqCst), 0);
    }

    #[tokio::test]
    async fn only_http_urls_are_urls() {
        let outbound = Outbound::new(&OutboundConfig::default());
        for url in ["ftp://1.1.1.1/", "file:///etc/passwd", "gopher://1.1.1.1:70/", "http://a@1.1.1.1/", "/relative"] {
            let asked = match Request::get(url).body(Empty::<Bytes>::new()) {
                Ok(request) => outbound.send(request, NamedBy::Peer, Version::Http1).await,
                Err(_) => continue,
            };
            assert!(matches!(asked, Err(OutboundError::Url)), "{url}: {asked:?}");
        }
    }
}
