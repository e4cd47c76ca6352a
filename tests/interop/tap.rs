//! A tap between two peers: ends TLS before one of them, passes everything on as it comes, keeps a copy.
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, Uri};
use http_body_util::BodyExt as _;
use http_body_util::combinators::BoxBody;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;

type Body = BoxBody<Bytes, hyper::Error>;

/// The most that is kept of one body.
const KEPT: usize = 16 * 1024 * 1024;

/// One request with its answer.
#[derive(Debug, Clone)]
pub(crate) struct Exchange {
    pub path: String,
    pub headers: HeaderMap,
    pub request: Arc<Mutex<Vec<u8>>>,
    pub response: Arc<Mutex<Vec<u8>>>,
}

impl Exchange {
    /// A header as text; empty when there is none.
    pub(crate) fn header(&self, name: &str) -> String {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
    }

    /// The messages of a gRPC body, without the five bytes before each.
    pub(crate) fn messages(body: &Mutex<Vec<u8>>) -> Vec<Vec<u8>> {
        let body = body.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rest = body.as_slice();
        let mut messages = Vec::new();
        while let [_, a, b, c, d, tail @ ..] = rest {
            let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
            let Some(message) = tail.get(..length) else { break };
            messages.push(message.to_vec());
            rest = &tail[length..];
        }
        messages
    }
}

/// A running tap.
#[derive(Debug)]
pub(crate) struct Tap {
    exchanges: Arc<Mutex<Vec<Exchange>>>,
    _server: AbortOnDropHandle<()>,
}

impl Tap {
    /// A place to listen for TLS, taken now, so that it can be told to peers before the one behind it runs.
    pub(crate) async fn before(backend: &str) -> Result<(String, Self)> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?.to_string();
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).context("a certificate")?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let mut config = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let exchanges = Arc::new(Mutex::new(Vec::new()));
        let wire = Arc::new(Wire {
            backend: backend.to_owned(),
            old: Client::builder(TokioExecutor::new()).build_http(),
            new: Client::builder(TokioExecutor::new()).http2_only(true).build_http(),
            exchanges: Arc::clone(&exchanges),
        });
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, wire) = (acceptor.clone(), Arc::clone(&wire));
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let pass = service_fn(move |request| Arc::clone(&wire).pass(request));
                    let _closed =
                        auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), pass).await;
                });
            }
        });
        Ok((address, Self { exchanges, _server: AbortOnDropHandle::new(server) }))
    }

    /// What went through so far to this path.
    pub(crate) fn exchanges(&self, path: &str) -> Vec<Exchange> {
        let all = self.exchanges.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter(|exchange| exchange.path == path).cloned().collect()
    }
}

struct Wire {
    backend: String,
    old: Client<HttpConnector, Body>,
    new: Client<HttpConnector, Body>,
    exchanges: Arc<Mutex<Vec<Exchange>>>,
}

impl Wire {
    async fn pass(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Body>, anyhow::Error> {
        let exchange = Exchange {
            path: request.uri().path().to_owned(),
            headers: request.headers().clone(),
            request: Arc::default(),
            response: Arc::default(),
        };
        self.exchanges.lock().unwrap_or_else(PoisonError::into_inner).push(exchange.clone());
        let grpc = exchange.header("content-type").starts_with("application/grpc");
        let (mut head, body) = request.into_parts();
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
        head.uri = Uri::builder().scheme("http").authority(self.backend.as_str()).path_and_query(path).build()?;
        head.version = if grpc { http::Version::HTTP_2 } else { http::Version::HTTP_11 };
        if !grpc {
            head.headers.remove("host");
        }
        let client = if grpc { &self.new } else { &self.old };
        let answer = client.request(Request::from_parts(head, copied(body, exchange.request))).await?;
        let (head, body) = answer.into_parts();
        let mut answer = Response::new(copied(body, exchange.response));
        *answer.status_mut() = head.status;
        *answer.headers_mut() = head.headers;
        // Of one hop only, and not allowed in HTTP/2.
        for name in ["connection", "transfer-encoding", "keep-alive"] {
            answer.headers_mut().remove(name);
        }
        Ok(answer)
    }
}

/// The same body, with a copy of what passes.
fn copied(body: Incoming, copy: Arc<Mutex<Vec<u8>>>) -> Body {
    body.map_frame(move |frame| {
        if let Some(data) = frame.data_ref() {
            let mut kept = copy.lock().unwrap_or_else(PoisonError::into_inner);
            let room = KEPT.saturating_sub(kept.len());
            kept.extend_from_slice(&data[..data.len().min(room)]);
        }
        frame
    })
    .boxed()
}
