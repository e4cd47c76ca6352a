//! A segment on its way in: from the request's body, or from the URL that stands there instead.
//!
//! Walk 1, step 4. Either way it streams into sealed memory while it is hashed, under the one bound of all uploads.
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use livepeer::address::H256;
use sandbox::memfd::{MemfdError, Sealed, Writer};
use tiny_keccak::{Hasher, Keccak};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::Instant;

use crate::node::Orchestrator;
use crate::outbound::{NamedBy, Version};
use crate::reject::Rejection;

/// Largest segment of the network, and largest rendition.
pub(crate) const MAX_SEGMENT: u64 = 300_000_000;
/// Longest silence in an upload.
const SILENCE: Duration = Duration::from_secs(10);
/// Bytes that are hashed at a time, beside the receiving.
const BATCH: usize = 256 << 10;
/// What is still read of an upload that was refused, so that an HTTP/1.1 peer gets to see why.
const LINGER: Duration = Duration::from_millis(300);
/// Type of a body that is a URL.
const URI: &[u8] = b"application/vnd+livepeer.uri";
/// Longest URL.
const MAX_URL: usize = 4096;
/// How long the download behind a URL may take, as in stock.
const DOWNLOAD: Duration = Duration::from_secs(4);

/// A segment that came in.
pub(crate) struct Received {
    pub(crate) segment: Sealed,
    pub(crate) hash: H256,
    /// Accounts for its memory.
    pub(crate) memory: Option<OwnedSemaphorePermit>,
}

/// Takes a segment in.
///
/// # Errors
/// [`Rejection`]: too large, too slow, no memory; or a URL that leads nowhere we go.
pub(crate) async fn receive<T, B, S>(
    node: &Orchestrator<T, B, S>,
    headers: &HeaderMap,
    body: &mut Body,
    within: Duration,
) -> Result<Received, Rejection> {
    let deadline = Instant::now() + within;
    let kind = headers.get(header::CONTENT_TYPE);
    if !kind.is_some_and(|kind| kind.as_bytes().starts_with(URI)) {
        return gather(node, body, deadline).await;
    }
    let url = tokio::time::timeout_at(deadline, Limited::new(body, MAX_URL).collect()).await;
    let url = url.map_err(|_| Rejection::Upload("too slow".to_owned()))?;
    let url = url.map_err(|error| Rejection::Url(error.to_string()))?.to_bytes();
    let began = Instant::now();
    let download = tokio::time::timeout_at(deadline.min(began + DOWNLOAD), download(node, &url, deadline)).await;
    download.unwrap_or_else(|_| Err(Rejection::Url("it took too long".to_owned())))
}

async fn download<T, B, S>(node: &Orchestrator<T, B, S>, url: &[u8], deadline: Instant) -> Result<Received, Rejection> {
    let unfit = |reason: &dyn std::error::Error| Rejection::Url(service::with_causes(reason));
    let url = Uri::try_from(url.trim_ascii()).map_err(|error| unfit(&error))?;
    let request = Request::get(url).body(Empty::<Bytes>::new()).map_err(|error| unfit(&error))?;
    let answer = node.outbound.send(request, NamedBy::Peer, Version::Http1).await.map_err(|error| unfit(&error))?;
    let status = answer.response.status();
    if status != StatusCode::OK {
        return Err(Rejection::Url(format!("status {status}")));
    }
    let mut body = Body::new(answer.response.into_body());
    match gather(node, &mut body, deadline).await {
        Err(Rejection::Upload(reason)) => Err(Rejection::Url(reason)),
        Err(Rejection::TooLarge { max }) => Err(Rejection::Url(format!("more than {max} bytes"))),
        received => received,
    }
}

/// Streams a body into sealed memory, and its hash along.
async fn gather<T, B, S>(
    node: &Orchestrator<T, B, S>,
    body: &mut Body,
    deadline: Instant,
) -> Result<Received, Rejection> {
    let internal = |error: MemfdError| Rejection::Internal(error.to_string());
    let lost = |error: JoinError| Rejection::Internal(error.to_string());
    let mut writer = Writer::new(MAX_SEGMENT).map_err(internal)?;
    let mut hashing = Hashing::default();
    let mut memory = None;
    loop {
        let silence = deadline.min(Instant::now() + SILENCE);
        let frame = match tokio::time::timeout_at(silence, body.frame()).await {
            Err(_) => return Err(Rejection::Upload("too slow".to_owned())),
            Ok(None) => break,
            Ok(Some(Err(error))) => return Err(Rejection::Upload(error.to_string())),
            Ok(Some(Ok(frame))) => frame,
        };
        // Trailers and empty frames are normal and mean nothing here.
        let Ok(data) = frame.into_data() else { continue };
        let length = writer.len().saturating_add(u64::try_from(data.len()).unwrap_or(u64::MAX));
        if length > MAX_SEGMENT {
            return Err(Rejection::TooLarge { max: MAX_SEGMENT });
        }
        node.upload_memory.cover(&mut memory, length)?;
        writer.append(&data).map_err(internal)?;
        hashing.update(data).await.map_err(lost)?;
    }
    let hash = hashing.finish().await.map_err(lost)?;
    Ok(Received { segment: writer.seal().map_err(internal)?, hash, memory })
}

/// keccak-256 beside the receiving, which it would otherwise hold up by as long again. A thread is borrowed for each
/// batch, so that none is held while a slow peer sends.
#[derive(Default)]
struct Hashing {
    /// The batches so far; none when nothing was hashed yet.
    running: Option<JoinHandle<Keccak>>,
    batch: Vec<Bytes>,
    bytes: usize,
}

impl Hashing {
    async fn update(&mut self, data: Bytes) -> Result<(), JoinError> {
        self.bytes += data.len();
        self.batch.push(data);
        if self.bytes < BATCH {
            return Ok(());
        }
        self.bytes = 0;
        let batch = std::mem::take(&mut self.batch);
        let mut keccak = self.hashed().await?;
        self.running = Some(tokio::task::spawn_blocking(move || {
            batch.iter().for_each(|piece| keccak.update(piece));
            keccak
        }));
        Ok(())
    }

    async fn finish(mut self) -> Result<H256, JoinError> {
        let mut keccak = self.hashed().await?;
        self.batch.iter().for_each(|piece| keccak.update(piece));
        let mut hash = H256::zero();
        keccak.finalize(hash.as_bytes_mut());
        Ok(hash)
    }

    /// The state behind all batches so far.
    async fn hashed(&mut self) -> Result<Keccak, JoinError> {
        match self.running.take() {
            Some(running) => running.await,
            None => Ok(Keccak::v256()),
        }
    }
}

/// Reads on for a moment: an HTTP/1.1 peer that is cut off while it sends may never see the answer.
pub(crate) async fn linger(body: &mut Body) {
    let rest = async { while let Some(Ok(_)) = body.frame().await {} };
    if tokio::time::timeout(LINGER, rest).await.is_err() {
        tracing::debug!("refused upload was cut off");
    }
}

#[cfg(test)]
mod tests {
    use livepeer::address::keccak256;

    use super::*;

    #[tokio::test]
    async fn the_hash_is_the_same_however_an_upload_is_cut() {
        let content: Vec<u8> = (0..300_007_u32).map(|at| u8::try_from(at % 251).unwrap()).collect();
        for (length, piece) in
            [(0, 1), (1, 1), (BATCH - 1, 1000), (BATCH, BATCH), (BATCH + 1, 16_384), (content.len(), 65_536)]
        {
            let upload = Bytes::from(content.clone()).slice(..length);
            let mut hashing = Hashing::default();
            for at in (0..length).step_by(piece) {
                hashing.update(upload.slice(at..length.min(at + piece))).await.unwrap();
            }
            assert_eq!(hashing.finish().await.unwrap(), keccak256(&upload), "{length} by {piece}");
        }
    }
}
