//! The HTTP half: segments come in, results go out, both tried again while there is time.
use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::Iter;
use http::uri::Authority;
use http::{HeaderValue, Request, StatusCode, Uri, header};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, Limited, StreamBody};
use hyper::body::Incoming;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use sandbox::memfd::{MemfdError, Sealed, Writer};
use service::Secret;
use tokio::time::Instant;

use crate::tls::{self, Trust};

/// Largest segment of the network.
pub(crate) const MAX_SEGMENT: u64 = 300_000_000;
/// Longest silence in a download.
const SILENCE: Duration = Duration::from_secs(3);
/// Tries of one exchange.
const TRIES: u32 = 4;
/// Before the second; twice as long before each further one.
const PAUSE: Duration = Duration::from_millis(100);
/// Idle connections are dropped after this.
const IDLE: Duration = Duration::from_secs(60);
/// Bytes of an answer that are read.
const MAX_ANSWER: usize = 4096;
/// Flow control windows: segments travel in one body.
const STREAM_WINDOW: u32 = 8 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

/// Why an exchange failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    #[error("not a URL over http or https")]
    Url,
    #[error("connection: {0}")]
    Connection(#[from] hyper_util::client::legacy::Error),
    #[error("body: {0}")]
    Body(#[from] hyper::Error),
    #[error("status {0}")]
    Status(StatusCode),
    #[error("refused with status {status}: {text}")]
    Refused { status: StatusCode, text: String },
    #[error("too slow")]
    Slow,
    #[error("input bigger than {MAX_SEGMENT} bytes")]
    TooLarge,
    #[error("memory: {0}")]
    Memory(#[from] MemfdError),
}

impl HttpError {
    /// Could another try go better?
    fn is_retryable(&self) -> bool {
        match self {
            Self::Url | Self::TooLarge | Self::Memory(_) => false,
            Self::Status(status) | Self::Refused { status, .. } => status.is_server_error(),
            Self::Connection(_) | Self::Body(_) | Self::Slow => true,
        }
    }
}

type Pieces = StreamBody<Iter<std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>>>;
type Connector = HttpsConnector<HttpConnector>;

/// What goes with every result.
pub(crate) struct Outcome<'a> {
    pub(crate) secret: &'a Secret,
    pub(crate) task: i64,
    /// Decoded pixels.
    pub(crate) pixels: u64,
    pub(crate) content_type: &'a str,
    pub(crate) body: Vec<Bytes>,
}

/// The exchanges with one orchestrator.
#[derive(Debug, Clone)]
pub(crate) struct Http {
    authority: Authority,
    /// Downloads from itself, with the trust it has; from elsewhere, with none.
    itself: Client<Connector, Empty<Bytes>>,
    elsewhere: Client<Connector, Empty<Bytes>>,
    results: Client<Connector, Pieces>,
}

impl Http {
    pub(crate) fn new(authority: Authority, trust: &Trust) -> Self {
        let mut builder = Client::builder(TokioExecutor::new());
        builder.pool_timer(TokioTimer::new()).pool_idle_timeout(IDLE);
        builder.http2_initial_stream_window_size(STREAM_WINDOW);
        builder.http2_initial_connection_window_size(CONNECTION_WINDOW);
        Self {
            authority,
            itself: builder.build(tls::any_http(trust.clone())),
            elsewhere: builder.build(tls::any_http(Trust::Anybody)),
            results: builder.build(tls::http2(trust.clone())),
        }
    }

    /// Fetches a segment into sealed memory.
    pub(crate) async fn fetch(&self, url: &str, until: Instant) -> Result<Sealed, HttpError> {
        let uri: Uri = url.parse().map_err(|_| HttpError::Url)?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none() {
            return Err(HttpError::Url);
        }
        let own = uri.authority() == Some(&self.authority);
        let client = if own { &self.itself } else { &self.elsewhere };
        again(until, || fetch_once(client, &uri)).await
    }

    /// Posts a result.
    pub(crate) async fn post(&self, result: &Outcome<'_>, until: Instant) -> Result<(), HttpError> {
        again(until, || self.post_once(result)).await
    }

    async fn post_once(&self, result: &Outcome<'_>) -> Result<(), HttpError> {
        let length: usize = result.body.iter().map(Bytes::len).sum();
        let mut credentials = HeaderValue::from_bytes(result.secret.expose()).map_err(|_| HttpError::Url)?;
        credentials.set_sensitive(true);
        let pieces: Vec<_> = result.body.iter().map(|piece| Ok(Frame::data(piece.clone()))).collect();
        let request = Request::post(format!("https://{}/transcodeResults", self.authority))
            .header(header::AUTHORIZATION, "Livepeer-Transcoder-1.0")
            .header("Credentials", credentials)
            .header("TaskId", result.task)
            .header("Pixels", result.pixels)
            .header(header::CONTENT_TYPE, result.content_type)
            .header(header::CONTENT_LENGTH, length)
            .body(StreamBody::new(futures_util::stream::iter(pieces)))
            .map_err(|_| HttpError::Url)?;
        let response = self.results.request(request).await?;
        let status = response.status();
        if status.is_success() {
            return Ok(());
        }
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        let text = body.map(|body| String::from_utf8_lossy(&body.to_bytes()).trim().to_owned()).unwrap_or_default();
        Err(HttpError::Refused { status, text })
    }
}

/// Tries until it works, cannot work, was tried often enough, or time is up.
async fn again<V, F: Future<Output = Result<V, HttpError>>>(
    until: Instant,
    mut once: impl FnMut() -> F,
) -> Result<V, HttpError> {
    let mut pause = PAUSE;
    let mut last = HttpError::Slow;
    for _ in 0..TRIES {
        match tokio::time::timeout_at(until, once()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) if error.is_retryable() => last = error,
            Ok(Err(error)) => return Err(error),
            Err(_) => return Err(HttpError::Slow),
        }
        if tokio::time::timeout_at(until, tokio::time::sleep(pause)).await.is_err() {
            break;
        }
        pause *= 2;
    }
    Err(last)
}

async fn fetch_once(client: &Client<Connector, Empty<Bytes>>, uri: &Uri) -> Result<Sealed, HttpError> {
    let request = Request::get(uri.clone()).body(Empty::new()).map_err(|_| HttpError::Url)?;
    let asked = tokio::time::timeout(SILENCE, client.request(request)).await;
    let response = asked.map_err(|_| HttpError::Slow)??;
    if response.status() != StatusCode::OK {
        return Err(HttpError::Status(response.status()));
    }
    read(response.into_body()).await
}

async fn read(mut body: Incoming) -> Result<Sealed, HttpError> {
    let mut writer = Writer::new(MAX_SEGMENT)?;
    loop {
        match tokio::time::timeout(SILENCE, body.frame()).await.map_err(|_| HttpError::Slow)? {
            None => return Ok(writer.seal()?),
            Some(frame) => {
                let Ok(data) = frame?.into_data() else { continue };
                writer.append(&data).map_err(|error| match error {
                    MemfdError::TooLarge { .. } => HttpError::TooLarge,
                    error => error.into(),
                })?;
            }
        }
    }
}
