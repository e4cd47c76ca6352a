//! Where machines ask to become boxes: HTTPS, one request on each connection, every step bounded. Nothing here decides;
//! the ingesting thread does.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{Method, StatusCode};
use fleet_protocol::api::Problem;
use fleet_protocol::enrol::{MESSAGE_MAX, PATH, Request};
use fleet_protocol::strict;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::asks::{Asks, status};
use crate::config::Enrol;
use crate::ingest::{Ask, AskError, Told};

/// Machines answered at once; more wait to be accepted.
const MACHINES: usize = 32;
/// How long a machine may hold its connection.
const PATIENCE: Duration = Duration::from_secs(20);

/// The endpoint cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EnrolError {
    #[error("enrolment: {0} cannot be used: {1}")]
    Pem(std::path::PathBuf, String),
    #[error("enrolment: certificate and key")]
    Tls(#[from] rustls::Error),
    #[error("enrolment: cannot listen on {0}")]
    Listen(SocketAddr, #[source] std::io::Error),
}

/// The open endpoint.
pub(crate) struct Endpoint {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint").field("listener", &self.listener).finish_non_exhaustive()
    }
}

impl Endpoint {
    pub(crate) async fn open(config: &Enrol) -> Result<Self, EnrolError> {
        let wrong = |path: &std::path::Path, why: String| EnrolError::Pem(path.to_owned(), why);
        let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(&config.cert).and_then(Iterator::collect);
        let chain = chain.map_err(|error| wrong(&config.cert, error.to_string()))?;
        let key = PrivateKeyDer::from_pem_file(&config.key).map_err(|error| wrong(&config.key, error.to_string()))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        let listener =
            TcpListener::bind(config.listen).await.map_err(|error| EnrolError::Listen(config.listen, error))?;
        Ok(Self { listener, acceptor: TlsAcceptor::from(Arc::new(tls)) })
    }

    /// Answers machines until it is cancelled.
    pub(crate) async fn run(self, asks: Arc<Asks>) -> Infallible {
        let permits = Arc::new(Semaphore::new(MACHINES));
        let mut machines = JoinSet::new();
        loop {
            let permit = Arc::clone(&permits).acquire_owned().await.expect("nobody closes it");
            while machines.try_join_next().is_some() {}
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "enrolment: connection was not accepted");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    continue;
                }
            };
            let (acceptor, asks) = (self.acceptor.clone(), Arc::clone(&asks));
            machines.spawn(async move {
                if tokio::time::timeout(PATIENCE, machine(stream, acceptor, asks)).await.is_err() {
                    tracing::debug!("enrolment: machine was too slow");
                }
                drop(permit);
            });
        }
    }
}

async fn machine(stream: TcpStream, acceptor: TlsAcceptor, asks: Arc<Asks>) {
    let stream = match acceptor.accept(stream).await {
        Ok(stream) => stream,
        Err(error) => {
            tracing::debug!(%error, "enrolment: no tls");
            return;
        }
    };
    let service = service_fn(move |request| {
        let asks = Arc::clone(&asks);
        async move { Ok::<_, Infallible>(answer(request, &asks).await) }
    });
    let mut server = hyper::server::conn::http1::Builder::new();
    let served = server.keep_alive(false).serve_connection(TokioIo::new(stream), service).await;
    if let Err(error) = served {
        tracing::debug!(%error, "enrolment: connection broke");
    }
}

async fn answer(request: hyper::Request<Incoming>, asks: &Asks) -> hyper::Response<Full<Bytes>> {
    if request.uri().path() != PATH || request.method() != Method::POST {
        return problem(StatusCode::NOT_FOUND, "nothing here");
    }
    let Ok(body) = Limited::new(request.into_body(), MESSAGE_MAX).collect().await else {
        return problem(StatusCode::BAD_REQUEST, "the request is too long or broke off");
    };
    let asked = strict::parse(&body.to_bytes(), MESSAGE_MAX).ok().and_then(|value| serde_json::from_value(value).ok());
    let asked: Request = match asked {
        Some(asked) => asked,
        None => return problem(StatusCode::BAD_REQUEST, "the request has the wrong shape"),
    };
    match asks.ask(Ask::Enrol(asked)).await {
        Ok(Told::Enrolled(answer)) => reply(StatusCode::OK, &answer),
        Ok(_) => problem(StatusCode::INTERNAL_SERVER_ERROR, "a fault of ours"),
        Err(AskError::Store(error)) => {
            tracing::error!(%error, "enrolment could not be stored");
            problem(StatusCode::INTERNAL_SERVER_ERROR, "a fault of ours")
        }
        Err(error) => problem(status(&error), &error.to_string()),
    }
}

fn problem(status: StatusCode, error: &str) -> hyper::Response<Full<Bytes>> {
    reply(status, &Problem { error: error.to_owned() })
}

fn reply(status: StatusCode, body: &impl serde::Serialize) -> hyper::Response<Full<Bytes>> {
    let mut response = hyper::Response::new(Full::from(serde_json::to_vec(body).unwrap_or_default()));
    *response.status_mut() = status;
    let json = hyper::header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(hyper::header::CONTENT_TYPE, json);
    response
}
