//! Segments by HTTP push, as a stock gateway takes them: `PUT /live/NAME/NUMBER.ts`.
//!
//! Each request is one segment. A pusher that accepts `multipart/mixed` gets the renditions back in the answer, one
//! part each; any other gets `200` when the segment came back. One stream at a time: the first name is it.
//!
//! *Source:* livepeer-wire §4.1 (where multipart is used); headers and part names as seen from a stock gateway.
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ::http::{HeaderMap, Method, Request, Response, StatusCode, header};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use mpegts::segment::{self, Segment};
use rand::RngCore;
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};

use super::{Fed, Item};
use crate::session::RenditionFile;

/// Largest segment taken.
const MAX_BODY: usize = 128 << 20;
/// Connections served at once; segments are held in memory.
const CONNECTIONS: usize = 8;
/// How long a request may take to say what it is, and to arrive.
const HEADERS: Duration = Duration::from_secs(10);
const BODY: Duration = Duration::from_secs(60);
/// One segment, whatever its length: it is cut already.
const WHOLE: u64 = u64::MAX / 2;
/// Longest segment, in milliseconds.
const LONGEST: u64 = 300_000;

/// What the connections share.
struct Shared {
    feed: mpsc::Sender<Item>,
    /// The stream's name, once known.
    name: Mutex<Option<String>>,
    busy: AtomicUsize,
    moved: Notify,
}

/// Serves pushes until nothing has come for `idle` since the last one.
pub(super) async fn serve(listener: TcpListener, idle: Duration, feed: mpsc::Sender<Item>) {
    let shared = Arc::new(Shared { feed, name: Mutex::default(), busy: AtomicUsize::new(0), moved: Notify::new() });
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let accepting = accept(listener, Arc::clone(&shared), room);
    let quiet = async {
        loop {
            let moved = tokio::time::timeout(idle, shared.moved.notified()).await.is_ok();
            let begun = shared.name.lock().unwrap_or_else(PoisonError::into_inner).is_some();
            if !moved && begun && shared.busy.load(Ordering::SeqCst) == 0 {
                return;
            }
        }
    };
    tokio::select! {
        // Both end with the source.
        () = accepting => {}
        () = quiet => {}
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, room: Arc<Semaphore>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        while connections.try_join_next().is_some() {}
        let (socket, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "connection was not accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            let _permit = permit;
            let service = service_fn(|request| answer(Arc::clone(&shared), request));
            let serving = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADERS)
                .half_close(true)
                .serve_connection(TokioIo::new(socket), service);
            if let Err(error) = serving.await {
                tracing::debug!(%peer, %error, "push connection ended");
            }
        });
    }
}

/// Why a push was not taken: the answer.
type Refused = (StatusCode, String);

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let _busy = Busy::new(&shared);
    let wants_parts = accepts_parts(request.headers());
    let answered = take(&shared, request).await;
    let response = match answered {
        Ok(None) => Response::new(Full::default()),
        Ok(Some((number, renditions))) if wants_parts => match parts(&number, &renditions).await {
            Ok(response) => response,
            Err(error) => refusal((StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
        },
        Ok(Some(_)) => Response::new(Full::default()),
        Err(refused) => refusal(refused),
    };
    Ok(response)
}

fn refusal((status, text): Refused) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(format!("{text}\n")));
    *response.status_mut() = status;
    response
}

fn accepts_parts(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    accept.split(',').any(|kind| kind.trim().starts_with("multipart/mixed"))
}

type Renditions = Vec<(String, RenditionFile)>;

/// Takes one push and waits for its renditions; `None` for what is accepted and not used.
async fn take(shared: &Arc<Shared>, request: Request<Incoming>) -> Result<Option<(String, Renditions)>, Refused> {
    if !matches!(*request.method(), Method::PUT | Method::POST) {
        return Err((StatusCode::METHOD_NOT_ALLOWED, "push segments by PUT or POST".into()));
    }
    let path = request.uri().path().to_owned();
    let no_place = || (StatusCode::NOT_FOUND, "segments go to /live/NAME/NUMBER.ts".to_owned());
    let rest = path.strip_prefix("/live/").ok_or_else(no_place)?;
    let duration = duration(request.headers())?;
    let body = Limited::new(request.into_body(), MAX_BODY).collect();
    let body = tokio::time::timeout(BODY, body).await;
    let body = body.map_err(|_| (StatusCode::REQUEST_TIMEOUT, "the segment did not arrive in time".to_owned()))?;
    let body = body.map_err(|error| (StatusCode::PAYLOAD_TOO_LARGE, error.to_string()))?.to_bytes();
    if rest.ends_with(".m3u8") {
        return Ok(None);
    }
    let (name, number) = rest.strip_suffix(".ts").and_then(|rest| rest.rsplit_once('/')).ok_or_else(no_place)?;
    {
        let mut known = shared.name.lock().unwrap_or_else(PoisonError::into_inner);
        if known.get_or_insert_with(|| name.to_owned()) != name {
            return Err((StatusCode::CONFLICT, "another stream is being pushed".into()));
        }
    }
    // A pusher that hangs up without waiting for the answer has pushed all the same.
    let transcoding = tokio::spawn(transcode(Arc::clone(shared), body, duration));
    let transcoded = transcoding.await.map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    Ok(Some((number.to_owned(), transcoded?)))
}

async fn transcode(shared: Arc<Shared>, body: Bytes, duration: Option<u64>) -> Result<Renditions, Refused> {
    let (codec, segment) = read(&body, duration)?;
    let (reply, outcome) = oneshot::channel();
    let fed = Fed { segment, reply: Some(reply) };
    let gone = (StatusCode::SERVICE_UNAVAILABLE, "the stream has ended".to_owned());
    let _busy = Busy::new(&shared);
    shared.feed.send(Ok((codec, fed))).await.map_err(|_| gone.clone())?;
    match outcome.await {
        Ok(Ok(renditions)) => Ok(renditions),
        Ok(Err(text)) => Err((StatusCode::SERVICE_UNAVAILABLE, text)),
        Err(_) => Err(gone),
    }
}

/// The stream is not idle while one of these lives.
struct Busy<'a>(&'a Shared);

impl<'a> Busy<'a> {
    fn new(shared: &'a Shared) -> Self {
        shared.busy.fetch_add(1, Ordering::SeqCst);
        Self(shared)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::SeqCst);
        self.0.moved.notify_one();
    }
}

/// `Content-Duration`, in milliseconds.
fn duration(headers: &HeaderMap) -> Result<Option<u64>, Refused> {
    let Some(text) = headers.get("content-duration") else { return Ok(None) };
    let millis = text.to_str().ok().and_then(|text| text.trim().parse().ok());
    let millis = millis.filter(|millis| (1..=LONGEST).contains(millis));
    let wrong = || (StatusCode::BAD_REQUEST, format!("Content-Duration is not 1 to {LONGEST} milliseconds"));
    millis.map(Some).ok_or_else(wrong)
}

/// A pushed segment goes on as it is; what it holds is looked at.
fn read(body: &Bytes, duration: Option<u64>) -> Result<(mpegts::VideoCodec, Segment), Refused> {
    let unusable = |text: String| (StatusCode::UNPROCESSABLE_ENTITY, text);
    let video = mpegts::demux(body).map_err(|error| unusable(error.to_string()))?.video;
    let codec = video.map(|video| video.codec).ok_or_else(|| unusable("no video in the segment".into()))?;
    let cut = segment::cut(body, WHOLE).map_err(|error| unusable(error.to_string()))?;
    let whole = cut.into_iter().next().ok_or_else(|| unusable("no key frame in the segment".into()))?;
    let duration_ms = duration.unwrap_or(whole.duration_ms).min(LONGEST);
    Ok((codec, Segment { bytes: body.to_vec(), duration_ms, ..whole }))
}

/// The renditions as the parts of one answer.
async fn parts(number: &str, renditions: &Renditions) -> std::io::Result<Response<Full<Bytes>>> {
    let boundary = format!("{:016x}{:016x}", rand::rngs::OsRng.next_u64(), rand::rngs::OsRng.next_u64());
    let mut body = Vec::new();
    for (name, rendition) in renditions {
        let media = tokio::fs::read(&rendition.path).await?;
        let head = format!(
            "--{boundary}\r\nContent-Disposition: attachment; filename=\"{name}_{number}.ts\"\r\nContent-Length: {}\r\n\
             Content-Type: video/mp2t\r\nRendition-Name: {name}\r\n\r\n",
            media.len()
        );
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(&media);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    let mut response = Response::new(Full::from(body));
    let kind = format!("multipart/mixed; boundary={boundary}");
    let kind = header::HeaderValue::try_from(kind).expect("hexadecimal digits are a header value");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}
