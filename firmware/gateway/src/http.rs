//! The HTTP half of the protocol: uploads with the network's deadlines, downloads to disk.
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use livepeer::address::H256;
use tiny_keccak::{Hasher, Keccak};
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

use crate::tls;

/// Largest result message read.
const MAX_RESULT: usize = 4 * 1024 * 1024;
/// Largest rendition fetched.
const MAX_RENDITION: u64 = 300_000_000;
/// How long the download of one rendition may take.
const DOWNLOAD: Duration = Duration::from_secs(4);
/// Idle connections are dropped after this.
const IDLE: Duration = Duration::from_secs(60);
/// Flow control windows: segments and renditions travel in one body.
const STREAM_WINDOW: u32 = 8 * 1024 * 1024;
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;

/// Why an HTTP exchange failed.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// No connection; nothing was sent.
    #[error("no connection to {host}")]
    Connect {
        /// Whom.
        host: String,
        /// Why.
        #[source]
        source: hyper_util::client::legacy::Error,
    },
    /// The exchange broke off.
    #[error("exchange with {host} broke off")]
    Broken {
        /// Whom.
        host: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The first line of the answer did not come in time.
    #[error("no status within {0:?} of the upload's start")]
    StatusTimeout(Duration),
    /// The whole exchange took too long.
    #[error("not finished within {0:?}")]
    Timeout(Duration),
    /// A file was not there.
    #[error("status {0}")]
    Status(StatusCode),
    /// A rendition is larger than the network allows.
    #[error("larger than {MAX_RENDITION} bytes")]
    TooLarge,
    /// The request could not be put together.
    #[error("not a request")]
    Request(#[from] http::Error),
    /// The disk refused.
    #[error("write {path}")]
    Disk {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl HttpError {
    /// Did the peer possibly see the request?
    pub(crate) fn was_sent(&self) -> bool {
        !matches!(self, Self::Connect { .. } | Self::Request(_))
    }
}

/// What came back for an upload.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
    /// From the start of the upload until the whole answer was read.
    pub(crate) round_trip: Duration,
}

/// What a download brought.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Downloaded {
    pub(crate) bytes: u64,
    pub(crate) hash: H256,
}

/// A client with connections kept between segments.
#[derive(Debug, Clone)]
pub(crate) struct Http(Client<HttpsConnector<HttpConnector>, Full<Bytes>>);

impl Http {
    pub(crate) fn new() -> Self {
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .http2_initial_stream_window_size(STREAM_WINDOW)
            .http2_initial_connection_window_size(CONNECTION_WINDOW)
            .build(tls::http_connector());
        Self(client)
    }

    /// Uploads a segment of this duration, with the deadlines that go with it.
    pub(crate) async fn post_segment(
        &self,
        uri: Uri,
        headers: HeaderMap,
        body: Bytes,
        duration: Duration,
    ) -> Result<Answer, HttpError> {
        let status_due = (duration / 2).max(Duration::from_secs(2));
        let all_due = (duration * 4).max(Duration::from_secs(8));
        let host = host(&uri);
        let mut request = Request::builder().method(Method::POST).uri(uri).body(Full::new(body))?;
        *request.headers_mut() = headers;
        let begun = Instant::now();
        let exchange = async {
            let response = tokio::time::timeout(status_due, self.0.request(request))
                .await
                .map_err(|_| HttpError::StatusTimeout(status_due))?
                .map_err(|error| unanswered(&host, error))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_RESULT)
                .collect()
                .await
                .map_err(|source| HttpError::Broken { host: host.clone(), source })?
                .to_bytes();
            Ok(Answer { status, body, round_trip: begun.elapsed() })
        };
        tokio::time::timeout(all_due, exchange).await.map_err(|_| HttpError::Timeout(all_due))?
    }

    /// Fetches something small into memory.
    pub(crate) async fn fetch_small(&self, uri: Uri) -> Result<Bytes, HttpError> {
        let fetch = async {
            let host = host(&uri);
            let request = Request::builder().uri(uri).body(Full::default())?;
            let response = self.0.request(request).await.map_err(|error| unanswered(&host, error))?;
            if response.status() != StatusCode::OK {
                return Err(HttpError::Status(response.status()));
            }
            let body = Limited::new(response.into_body(), MAX_RESULT).collect().await;
            body.map(http_body_util::Collected::to_bytes).map_err(|source| HttpError::Broken { host, source })
        };
        tokio::time::timeout(DOWNLOAD, fetch).await.map_err(|_| HttpError::Timeout(DOWNLOAD))?
    }

    /// Fetches a rendition into a file, hashing what passes. A file that did not arrive whole is removed.
    pub(crate) async fn download(&self, uri: Uri, path: &Path) -> Result<Downloaded, HttpError> {
        let fetch = async {
            let host = host(&uri);
            let request = Request::builder().uri(uri).body(Full::default())?;
            let response = self.0.request(request).await.map_err(|error| unanswered(&host, error))?;
            if response.status() != StatusCode::OK {
                return Err(HttpError::Status(response.status()));
            }
            store(response.into_body(), &host, path).await
        };
        let outcome = match tokio::time::timeout(DOWNLOAD, fetch).await {
            Ok(outcome) => outcome,
            Err(_) => Err(HttpError::Timeout(DOWNLOAD)),
        };
        if outcome.is_err() {
            let _absent_or_gone = tokio::fs::remove_file(path).await;
        }
        outcome
    }
}

async fn store(mut body: Incoming, host: &str, path: &Path) -> Result<Downloaded, HttpError> {
    let disk = |source| HttpError::Disk { path: path.to_owned(), source };
    let mut file = tokio::fs::File::create(path).await.map_err(disk)?;
    let mut keccak = Keccak::v256();
    let mut bytes = 0u64;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|source| HttpError::Broken { host: host.to_owned(), source: source.into() })?;
        let Ok(data) = frame.into_data() else { continue };
        bytes = bytes.saturating_add(u64::try_from(data.len()).unwrap_or(u64::MAX));
        if bytes > MAX_RENDITION {
            return Err(HttpError::TooLarge);
        }
        keccak.update(&data);
        file.write_all(&data).await.map_err(disk)?;
    }
    file.flush().await.map_err(disk)?;
    let mut hash = H256::zero();
    keccak.finalize(hash.as_bytes_mut());
    Ok(Downloaded { bytes, hash })
}

fn unanswered(host: &str, source: hyper_util::client::legacy::Error) -> HttpError {
    if source.is_connect() {
        HttpError::Connect { host: host.to_owned(), source }
    } else {
        HttpError::Broken { host: host.to_owned(), source: source.into() }
    }
}

fn host(uri: &Uri) -> String {
    uri.authority().map(ToString::to_string).unwrap_or_default()
}
