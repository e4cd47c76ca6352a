//! Live sources: somebody pushes a stream to us, and we make segments of it.
//!
//! Walk 1 begins here for a live stream. [`Listen`] is where and how we listen; [`Ingest`] takes one stream, from one
//! pusher, and hands its segments on through a short queue. When the orchestrators do not keep up the queue fills
//! and the pusher is read no further: nothing is dropped here.
use std::net::SocketAddr;
use std::time::Duration;

use ::http::Uri;
use futures_util::stream::{self, Stream, StreamExt};
use mpegts::VideoCodec;
use mpegts::live::LiveError;
use mpegts::segment::Segment;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::session::RenditionFile;

mod flv;
mod http;
mod rtmp;
mod srt;

/// Reads what an RTMP pusher sends behind the handshake, in pieces of so many bytes, and counts the segments it makes.
/// No socket is used; the fuzzer reaches the readers through this.
#[must_use]
pub fn read_rtmp(wire: &[u8], piece: usize) -> usize {
    rtmp::read(wire, piece)
}

/// Segments that wait for an orchestrator.
const QUEUE: usize = 4;

/// A live source failed.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// Not an address to listen on.
    #[error("{0:?} is no address to listen on: write rtmp://HOST:PORT/APP/KEY, srt://HOST:PORT or http://HOST:PORT")]
    Address(String),
    /// The port cannot be had.
    #[error("listen on {address}")]
    Bind {
        /// Where.
        address: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The stream cannot be cut.
    #[error(transparent)]
    Live(#[from] LiveError),
    /// Nothing that can be transcoded came.
    #[error("the stream ended before its first segment")]
    Empty,
}

/// How a source reaches us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// FLV over RTMP.
    Rtmp,
    /// A transport stream over SRT.
    Srt,
    /// Segments by PUT or POST.
    Http,
}

/// Where and how we listen for a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    protocol: Protocol,
    address: String,
    /// Application and key, or name, that the pusher must give; empty for any.
    path: String,
}

impl Listen {
    /// Reads `rtmp://HOST[:PORT][/APP/KEY]`, `srt://HOST[:PORT]` or `http://HOST[:PORT]`; `None` when the text is no
    /// such URL at all.
    ///
    /// # Errors
    /// [`IngestError::Address`] for one of these schemes with an address that makes no sense.
    pub fn parse(text: &str) -> Option<Result<Self, IngestError>> {
        let (protocol, port) = match text.split_once("://")?.0 {
            "rtmp" => (Protocol::Rtmp, 1935),
            "srt" => (Protocol::Srt, 9710),
            "http" => (Protocol::Http, 9935),
            _ => return None,
        };
        let wrong = || IngestError::Address(text.to_owned());
        let parse = || {
            let uri: Uri = text.parse().map_err(|_| wrong())?;
            let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(wrong)?;
            let address = format!("{host}:{}", uri.port_u16().unwrap_or(port));
            Ok(Self { protocol, address, path: uri.path().trim_matches('/').to_owned() })
        };
        Some(parse())
    }

    /// How a source reaches us.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Begins to listen.
    ///
    /// # Errors
    /// [`IngestError::Bind`] when the port cannot be had.
    pub async fn open(self, options: &IngestOptions) -> Result<Ingest, IngestError> {
        let bind = |source| IngestError::Bind { address: self.address.clone(), source };
        let (feed, segments) = mpsc::channel(QUEUE);
        let (local, task) = match self.protocol {
            Protocol::Srt => {
                let (local, serving) = srt::listen(&self.address, options, feed).await.map_err(bind)?;
                (local, tokio::spawn(serving))
            }
            Protocol::Rtmp | Protocol::Http => {
                let listener = TcpListener::bind(&self.address).await.map_err(bind)?;
                let local = listener.local_addr().map_err(bind)?;
                let task = match self.protocol {
                    Protocol::Http => tokio::spawn(http::serve(listener, options.idle, feed)),
                    _ => tokio::spawn(rtmp::serve(listener, self.path, options.clone(), feed)),
                };
                (local, task)
            }
        };
        Ok(Ingest { local, segments, _task: Abort(task) })
    }
}

/// How a live source is taken.
#[derive(Debug, Clone)]
pub struct IngestOptions {
    /// Length of a segment; each is cut at the first key frame after it. HTTP brings segments that are cut already.
    pub segment: Duration,
    /// A source that is silent for so long has ended.
    pub idle: Duration,
    /// How long SRT waits for a packet to be sent again.
    pub latency: Duration,
}

impl Default for IngestOptions {
    fn default() -> Self {
        Self { segment: Duration::from_secs(2), idle: Duration::from_secs(30), latency: Duration::from_millis(200) }
    }
}

/// Tells a pusher what became of its segment.
pub type Reply = oneshot::Sender<Result<Vec<(String, RenditionFile)>, String>>;

/// A segment on its way in.
#[derive(Debug)]
pub struct Fed {
    /// The segment.
    pub segment: Segment,
    /// Who waits for its renditions, by profile name.
    pub reply: Option<Reply>,
}

impl From<Segment> for Fed {
    fn from(segment: Segment) -> Self {
        Self { segment, reply: None }
    }
}

/// What goes through the queue.
type Item = Result<(VideoCodec, Fed), IngestError>;

/// One live stream.
#[derive(Debug)]
pub struct Ingest {
    local: SocketAddr,
    segments: mpsc::Receiver<Item>,
    _task: Abort,
}

/// Nobody listens when nobody takes the segments.
#[derive(Debug)]
struct Abort(JoinHandle<()>);

impl Drop for Abort {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Ingest {
    /// Where we listen.
    #[must_use]
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// Waits for the first segment: what the stream is coded in, and its segments.
    ///
    /// # Errors
    /// [`IngestError`] when the stream ends before, or cannot be cut.
    pub async fn start(
        mut self,
    ) -> Result<(VideoCodec, impl Stream<Item = Result<Fed, IngestError>> + Send + Unpin), IngestError> {
        let (codec, first) = self.segments.recv().await.ok_or(IngestError::Empty)??;
        let rest = stream::unfold(self, |mut ingest| async {
            let next = ingest.segments.recv().await?;
            Some((next.map(|(_, fed)| fed), ingest))
        });
        Ok((codec, stream::iter([Ok(first)]).chain(rest).boxed()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_to_listen_on_is_told_from_a_file_and_has_usual_ports() {
        let read = |text: &str| Listen::parse(text).map(|read| read.map(|l| (l.protocol, l.address, l.path)));
        assert!(read("clip.ts").is_none());
        assert!(read("ftp://host/clip.ts").is_none());
        let rtmp = read("rtmp://127.0.0.1/live/key").unwrap().unwrap();
        assert_eq!(rtmp, (Protocol::Rtmp, "127.0.0.1:1935".to_owned(), "live/key".to_owned()));
        let srt = read("srt://[::1]:7000").unwrap().unwrap();
        assert_eq!(srt, (Protocol::Srt, "[::1]:7000".to_owned(), String::new()));
        assert!(read("rtmp://").unwrap().is_err());
    }
}
