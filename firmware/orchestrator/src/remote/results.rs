//! `POST /transcodeResults`: what an attached transcoder made of its segment, or why it made nothing.
//!
//! Walk 1, step 8, from outside. The secret is checked before anything else, the task before any of the body is
//! read; memory is accounted for like that of uploads. What cannot be read costs its task, nothing more.
//!
//! *Source:* livepeer-wire §4.6.
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Extension, State};
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::BodyExt;
use livepeer::broker::Broker;
use livepeer::multipart::{self, MultipartError, PartHead, Piece, Reader};
use sandbox::memfd::{MemfdError, Writer};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

use super::Remotes;
use super::registry::MemberId;
use super::verify::Part;
use crate::admission::{UploadMemory, UploadMemoryFull};
use crate::node::Orchestrator;
use crate::pool::Transcoder;
use crate::server::Peer;
use crate::sign::Signer;

/// What `Authorization` must say.
const SCHEME: &str = "Livepeer-Transcoder-1.0";
/// Largest text of an error.
const MAX_TEXT: usize = 4096;
/// Largest signature: five minutes at 240 frames a second.
const MAX_SIGNATURE: u64 = 8 << 20;
/// Longest silence.
const SILENCE: Duration = Duration::from_secs(10);

/// A segment that an attached transcoder has in hand.
#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) member: MemberId,
    pub(crate) reply: oneshot::Sender<Report>,
    /// Renditions wanted.
    pub(crate) renditions: usize,
    /// Most parts of the answer.
    pub(crate) files: usize,
    /// Largest rendition.
    pub(crate) max_bytes: u64,
    /// When nobody waits any more.
    pub(crate) until: Instant,
}

/// What became of a task.
#[derive(Debug)]
pub(crate) enum Report {
    /// Renditions; still to be counted.
    Done {
        parts: Vec<Part>,
        /// Decoded pixels claimed; not billed.
        decoded: u64,
        /// Accounts for the memory of `parts` until they are somewhere else.
        memory: Option<OwnedSemaphorePermit>,
    },
    /// It failed, in the transcoder's words.
    Said(String),
    /// The answer cannot be read.
    Broken(String),
}

/// Why a body cannot be read.
#[derive(Debug, thiserror::Error)]
enum Unreadable {
    #[error(transparent)]
    Multipart(#[from] MultipartError),
    #[error(transparent)]
    Memory(#[from] UploadMemoryFull),
    #[error("memory: {0}")]
    Memfd(#[from] MemfdError),
    #[error("Unknown perceptual hash")]
    Orphan,
    #[error("unknown part")]
    Unknown,
    #[error("too many parts")]
    Parts,
    #[error("input bigger than {0} bytes")]
    TooLarge(u64),
    #[error("body broke off: {0}")]
    Body(axum::Error),
    #[error("too slow")]
    Slow,
    #[error("nobody waits any more")]
    Unwanted,
}

/// Serves one result.
pub(crate) async fn serve<T: Transcoder, B: Broker, S: Signer>(
    State(node): State<Arc<Orchestrator<T, B, S>>>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    mut body: Body,
) -> Response {
    let (status, text) = receive(&node.remotes, &node.upload_memory, &headers, &mut body).await;
    if !status.is_success()
        && let Some(suppressed) = node.log_limit.allow(peer.0.ip())
    {
        tracing::warn!(peer = %peer.0, path = "/transcodeResults", reason = text, suppressed, "request refused");
    }
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

async fn receive(
    remotes: &Remotes,
    budget: &UploadMemory,
    headers: &HeaderMap,
    body: &mut Body,
) -> (StatusCode, String) {
    let field = |name: &str| headers.get(name).map(HeaderValue::as_bytes).unwrap_or_default();
    let line = |status: StatusCode, text: &str| (status, format!("{text}\n"));
    if field("Authorization") != SCHEME.as_bytes() || !remotes.knows(field("Credentials")) {
        return line(StatusCode::UNAUTHORIZED, "Unauthorized");
    }
    let number = |name: &str| std::str::from_utf8(field(name)).ok().and_then(|text| text.parse::<i64>().ok());
    let kind = String::from_utf8_lossy(field("Content-Type")).into_owned();
    let boundary = multipart::boundary_of(&kind);
    let failed = kind.split(';').next().is_some_and(|kind| kind.trim() == multipart::ERROR);
    if boundary.is_none() && !failed {
        return line(StatusCode::UNSUPPORTED_MEDIA_TYPE, "mime: unsupported media type");
    }
    let Some(id) = number("TaskId") else { return line(StatusCode::BAD_REQUEST, "Invalid Task ID") };
    let decoded = number("Pixels").and_then(|pixels| u64::try_from(pixels).ok());
    let Some(decoded) = decoded else { return line(StatusCode::BAD_REQUEST, "Invalid Pixels") };
    // Late, or never ours: ignored, as the network does.
    let Some(mut task) = remotes.lock().tasks.remove(&id) else { return line(StatusCode::OK, "OK") };

    let read = match boundary {
        Some(Ok(boundary)) => {
            let parts = read_parts(&mut task, body, &boundary, budget).await;
            parts.map(|(parts, memory)| Report::Done { parts, decoded, memory })
        }
        Some(Err(error)) => Err(error.into()),
        None => read_text(&task, body).await.map(Report::Said),
    };
    let (report, answer) = match read {
        Ok(report) => (report, line(StatusCode::OK, "OK")),
        Err(error) => (Report::Broken(error.to_string()), line(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string())),
    };
    if task.reply.send(report).is_err() {
        tracing::debug!(task = id, "result came too late");
    }
    answer
}

/// The next bytes of the body, while somebody still waits for them.
async fn next(task: &mut Task, body: &mut Body) -> Result<Option<Bytes>, Unreadable> {
    loop {
        let silence = task.until.min(Instant::now() + SILENCE);
        let frame = tokio::select! {
            frame = tokio::time::timeout_at(silence, body.frame()) => frame.map_err(|_| Unreadable::Slow)?,
            () = task.reply.closed() => return Err(Unreadable::Unwanted),
        };
        match frame {
            None => return Ok(None),
            Some(Err(error)) => return Err(Unreadable::Body(error)),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

async fn read_text(task: &Task, body: &mut Body) -> Result<String, Unreadable> {
    let mut text = Vec::new();
    while let Ok(Some(Ok(frame))) = tokio::time::timeout_at(task.until, body.frame()).await {
        text.extend_from_slice(frame.data_ref().map(Bytes::as_ref).unwrap_or_default());
        if text.len() > MAX_TEXT {
            break;
        }
    }
    text.truncate(MAX_TEXT);
    Ok(String::from_utf8_lossy(&text).trim().to_owned())
}

/// Reads the renditions into sealed memory, each with the signature behind it.
async fn read_parts(
    task: &mut Task,
    body: &mut Body,
    boundary: &str,
    budget: &UploadMemory,
) -> Result<(Vec<Part>, Option<OwnedSemaphorePermit>), Unreadable> {
    let mut reader = Reader::new(boundary)?;
    let mut parts = Vec::new();
    let mut open: Option<Open> = None;
    let (mut memory, mut total, mut files) = (None, 0_u64, 0_usize);
    while let Some(data) = next(task, body).await? {
        reader.feed(&data);
        while let Some(piece) = reader.piece()? {
            match piece {
                Piece::Head(head) => {
                    files += 1;
                    if files > task.files {
                        return Err(Unreadable::Parts);
                    }
                    open = Some(Open::new(&head, parts.len(), task)?);
                }
                Piece::Data(data) => {
                    total = total.saturating_add(u64::try_from(data.len()).unwrap_or(u64::MAX));
                    budget.cover(&mut memory, total)?;
                    if let Some(open) = &mut open {
                        open.append(&data)?;
                    }
                }
                Piece::PartEnd => {
                    if let Some(open) = open.take() {
                        open.close(&mut parts)?;
                    }
                }
                Piece::End => {}
            }
        }
    }
    reader.finish()?;
    Ok((parts, memory))
}

/// A part that is being read.
struct Open {
    writer: Writer,
    max: u64,
    /// Pixels of a rendition; `None` is a signature.
    pixels: Option<u64>,
}

impl Open {
    fn new(head: &PartHead, renditions: usize, task: &Task) -> Result<Self, Unreadable> {
        let max = match head.pixels {
            Some(_) if renditions >= task.renditions => return Err(Unreadable::Parts),
            Some(_) => task.max_bytes,
            None if head.content_type != multipart::SIGNATURE => return Err(Unreadable::Unknown),
            None if renditions == 0 => return Err(Unreadable::Orphan),
            None => MAX_SIGNATURE,
        };
        if head.length.is_some_and(|length| length > max) {
            return Err(Unreadable::TooLarge(max));
        }
        Ok(Self { writer: Writer::new(max)?, max, pixels: head.pixels })
    }

    fn append(&mut self, data: &[u8]) -> Result<(), Unreadable> {
        self.writer.append(data).map_err(|error| match error {
            MemfdError::TooLarge { .. } => Unreadable::TooLarge(self.max),
            error => error.into(),
        })
    }

    fn close(self, parts: &mut Vec<Part>) -> Result<(), Unreadable> {
        let media = Bytes::from_owner(self.writer.seal()?.map()?);
        match (self.pixels, parts.last_mut()) {
            (Some(pixels), _) => parts.push(Part { media, pixels, signature: None }),
            (None, Some(rendition)) => rendition.signature = Some(media).filter(|media| !media.is_empty()),
            (None, None) => return Err(Unreadable::Orphan),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
