//! An RTMP server for one publisher: handshake, chunks, commands; what is published is cut into segments.
//!
//! Pushers are strangers until they have named the application and key that we were told to expect. One connection
//! is served at a time, and it has ten seconds to begin publishing.
use std::time::Duration;

use mpegts::live::{Cutter, LiveError};
use mpegts::segment::Segment;
use rand::RngCore;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use self::amf::Value;
use self::chunk::{ChunkError, Message};
use super::flv::{Flv, FlvError};
use super::{Fed, IngestOptions, Item};

mod amf;
mod chunk;

/// How long a connection may take until it publishes.
const BEGIN: Duration = Duration::from_secs(10);
/// Read at once.
const READ: usize = 64 * 1024;
/// Length of the handshake's second and third message.
const HELLO: usize = 1536;
/// Bytes after which the peer expects to hear that they arrived.
const WINDOW: u32 = 2_500_000;
/// Our weaves: control, commands.
const CONTROL: u8 = 2;
const COMMAND: u8 = 3;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum RtmpError {
    #[error("connection broke off")]
    Io(#[from] std::io::Error),
    #[error("nothing came in time")]
    Silent,
    #[error("not RTMP")]
    Handshake,
    #[error(transparent)]
    Chunk(#[from] ChunkError),
    #[error("a command makes no sense")]
    Command,
    #[error("{0:?} was published, which is not expected here")]
    Refused(String),
    #[error(transparent)]
    Flv(#[from] FlvError),
    #[error(transparent)]
    Live(#[from] LiveError),
    #[error("nobody takes the segments any more")]
    Unwanted,
}

/// Serves connections until one of them has published a stream.
pub(super) async fn serve(listener: TcpListener, path: String, options: IngestOptions, feed: mpsc::Sender<Item>) {
    loop {
        let (socket, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "connection was not accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let mut publisher = Publisher::new(path.clone(), &options);
        let ended = publisher.run(socket, &options, &feed).await;
        if let Err(error) = &ended {
            tracing::info!(%peer, error = error as &dyn std::error::Error, "publisher is gone");
        }
        if !publisher.session.published {
            continue;
        }
        if let Err(RtmpError::Live(error)) = ended {
            // Nobody listens any more when this fails, which is as good.
            let _ = feed.send(Err(error.into())).await;
        } else if let Some(rest) = publisher.cutter.finish() {
            let _ = publisher.send(rest, &feed).await;
        }
        return;
    }
}

/// Reads a connection without a socket: what comes behind the handshake, in pieces of so many bytes. The number of
/// segments that came of it.
pub(super) fn read(wire: &[u8], piece: usize) -> usize {
    let mut publisher = Publisher::new(String::new(), &IngestOptions::default());
    let mut segments = 0;
    for bytes in wire.chunks(piece.max(1)) {
        publisher.session.feed(bytes);
        loop {
            let read = match publisher.session.next() {
                Ok(Some(Event::Video(timestamp, tag))) => publisher.picture(timestamp, &tag),
                Ok(Some(Event::Audio(timestamp, tag))) => publisher.audio(timestamp, &tag).map(|()| None),
                Ok(None) => break,
                Ok(Some(Event::End)) | Err(_) => return segments,
            };
            match read {
                Ok(segment) => segments += usize::from(segment.is_some()),
                Err(_) => return segments,
            }
        }
        publisher.session.out.clear();
    }
    segments + usize::from(publisher.cutter.finish().is_some())
}

/// One connection and what it publishes.
struct Publisher {
    session: Session,
    flv: Flv,
    cutter: Cutter,
    odd: bool,
}

impl Publisher {
    fn new(path: String, options: &IngestOptions) -> Self {
        let target = u64::try_from(options.segment.as_millis()).unwrap_or(u64::MAX);
        Self { session: Session::new(path), flv: Flv::default(), cutter: Cutter::new(target), odd: false }
    }

    async fn run(
        &mut self,
        mut socket: TcpStream,
        options: &IngestOptions,
        feed: &mpsc::Sender<Item>,
    ) -> Result<(), RtmpError> {
        socket.set_nodelay(true)?;
        let begin = Instant::now() + BEGIN;
        timeout_at(begin, greet(&mut socket)).await.map_err(|_| RtmpError::Silent)??;
        let mut buffer = vec![0; READ];
        loop {
            let due = if self.session.published { Instant::now() + options.idle } else { begin };
            let read = timeout_at(due, socket.read(&mut buffer)).await.map_err(|_| RtmpError::Silent)??;
            if read == 0 {
                return Ok(());
            }
            self.session.feed(buffer.get(..read).unwrap_or_default());
            while let Some(event) = self.session.next()? {
                match event {
                    Event::Video(timestamp, tag) => self.video(timestamp, &tag, feed).await?,
                    Event::Audio(timestamp, tag) => self.audio(timestamp, &tag)?,
                    Event::End => return Ok(()),
                }
            }
            let answer = std::mem::take(&mut self.session.out);
            timeout_at(due, socket.write_all(&answer)).await.map_err(|_| RtmpError::Silent)??;
            if let Some(refused) = self.session.refused.take() {
                return Err(RtmpError::Refused(refused));
            }
        }
    }

    async fn video(&mut self, timestamp: u32, tag: &[u8], feed: &mpsc::Sender<Item>) -> Result<(), RtmpError> {
        if let Some(segment) = self.picture(timestamp, tag)? {
            self.send(segment, feed).await?;
        }
        Ok(())
    }

    fn picture(&mut self, timestamp: u32, tag: &[u8]) -> Result<Option<Segment>, RtmpError> {
        let Some((codec, unit)) = self.flv.video(timestamp, tag)? else { return Ok(None) };
        Ok(self.cutter.video(codec, unit)?)
    }

    /// Sound we cannot carry does not end the stream: it goes on without.
    fn audio(&mut self, timestamp: u32, tag: &[u8]) -> Result<(), RtmpError> {
        match self.flv.audio(timestamp, tag) {
            Ok(Some((info, packet))) => {
                self.cutter.set_audio(info);
                self.cutter.audio(packet)?;
            }
            Ok(None) => {}
            Err(error) if !self.odd => {
                self.odd = true;
                tracing::warn!(%error, "sound is left out");
            }
            Err(_) => {}
        }
        Ok(())
    }

    async fn send(&self, segment: Segment, feed: &mpsc::Sender<Item>) -> Result<(), RtmpError> {
        let item = Ok((self.cutter.codec(), Fed::from(segment)));
        feed.send(item).await.map_err(|_| RtmpError::Unwanted)
    }
}

/// The plain handshake.
async fn greet(socket: &mut TcpStream) -> Result<(), RtmpError> {
    let mut theirs = vec![0; 1 + HELLO];
    socket.read_exact(&mut theirs).await?;
    if theirs.first() != Some(&3) {
        return Err(RtmpError::Handshake);
    }
    let mut ours = vec![0; 1 + HELLO];
    rand::rngs::OsRng.fill_bytes(ours.get_mut(9..).unwrap_or_default());
    if let Some(head) = ours.get_mut(..9) {
        head.copy_from_slice(&[3, 0, 0, 0, 0, 0, 0, 0, 0]);
    }
    ours.extend_from_slice(theirs.get(1..).unwrap_or_default());
    socket.write_all(&ours).await?;
    socket.read_exact(theirs.get_mut(1..).unwrap_or_default()).await?;
    Ok(())
}

/// What a publisher sent.
#[derive(Debug, PartialEq, Eq)]
enum Event {
    Video(u32, Vec<u8>),
    Audio(u32, Vec<u8>),
    End,
}

/// The protocol above the handshake, without a socket.
#[derive(Debug, Default)]
struct Session {
    /// Application and key to expect; empty for any.
    path: String,
    chunks: chunk::Reader,
    application: String,
    published: bool,
    refused: Option<String>,
    received: u32,
    acknowledged: u32,
    /// To be sent.
    out: Vec<u8>,
}

impl Session {
    fn new(path: String) -> Self {
        Self { path, ..Self::default() }
    }

    fn feed(&mut self, bytes: &[u8]) {
        self.received = self.received.wrapping_add(u32::try_from(bytes.len()).unwrap_or(0));
        if self.received.wrapping_sub(self.acknowledged) >= WINDOW / 2 {
            self.acknowledged = self.received;
            chunk::write(&mut self.out, CONTROL, 3, 0, &self.received.to_be_bytes());
        }
        self.chunks.feed(bytes);
    }

    fn next(&mut self) -> Result<Option<Event>, RtmpError> {
        while let Some(message) = self.chunks.next()? {
            if let Some(event) = self.message(message)? {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    fn message(&mut self, message: Message) -> Result<Option<Event>, RtmpError> {
        let number = || message.payload.first_chunk::<4>().map(|bytes| u32::from_be_bytes(*bytes));
        match message.kind {
            1 => self.chunks.set_chunk(number().ok_or(RtmpError::Command)?),
            2 => self.chunks.abort(number().ok_or(RtmpError::Command)?),
            // A ping goes back as it came.
            4 => {
                if let (Some([0, 6]), Some(rest)) = (message.payload.first_chunk::<2>(), message.payload.get(2..6)) {
                    let pong = [&[0, 7], rest].concat();
                    chunk::write(&mut self.out, CONTROL, 4, 0, &pong);
                }
            }
            8 if self.published && !message.payload.is_empty() => {
                return Ok(Some(Event::Audio(message.timestamp, message.payload)));
            }
            9 if self.published && !message.payload.is_empty() => {
                return Ok(Some(Event::Video(message.timestamp, message.payload)));
            }
            20 => return self.command(message.stream, &message.payload),
            17 => return self.command(message.stream, message.payload.get(1..).unwrap_or_default()),
            _ => {}
        }
        Ok(None)
    }

    fn command(&mut self, stream: u32, payload: &[u8]) -> Result<Option<Event>, RtmpError> {
        let values = amf::read(payload).ok_or(RtmpError::Command)?;
        let name = values.first().and_then(Value::text).ok_or(RtmpError::Command)?;
        let transaction = values.get(1).and_then(Value::number).unwrap_or(0.0);
        match name {
            "connect" => {
                let application = values.get(2).and_then(|object| object.field("app")).and_then(Value::text);
                self.application = application.unwrap_or_default().trim_matches('/').to_owned();
                chunk::write(&mut self.out, CONTROL, 5, 0, &WINDOW.to_be_bytes());
                chunk::write(&mut self.out, CONTROL, 6, 0, &[&WINDOW.to_be_bytes()[..], &[2]].concat());
                let server = Value::Object(vec![
                    ("fmsVer".into(), Value::Text("FMS/3,0,1,123".into())),
                    ("capabilities".into(), Value::Number(31.0)),
                ]);
                let told = status("NetConnection.Connect.Success", "Connection succeeded.");
                self.answer(0, "_result", transaction, &[server, told]);
            }
            "createStream" => self.answer(0, "_result", transaction, &[Value::Null, Value::Number(1.0)]),
            "releaseStream" | "FCPublish" => self.answer(0, "_result", transaction, &[Value::Null]),
            "publish" => {
                let key = values.get(3).and_then(Value::text).unwrap_or_default();
                // A key may bring parameters that are none of ours.
                let key = key.split('?').next().unwrap_or_default();
                let path = format!("{}/{key}", self.application);
                let path = path.trim_matches('/');
                if self.path.is_empty() || self.path == path {
                    self.published = true;
                    chunk::write(&mut self.out, CONTROL, 4, 0, &[0, 0, 0, 0, 0, 1]);
                    let told = status("NetStream.Publish.Start", "Go ahead.");
                    self.answer(stream, "onStatus", 0.0, &[Value::Null, told]);
                } else {
                    let mut told = status("NetStream.Publish.BadName", "Not expected here.");
                    if let Value::Object(fields) = &mut told {
                        fields.retain(|(name, _)| name != "level");
                        fields.push(("level".into(), Value::Text("error".into())));
                    }
                    self.answer(stream, "onStatus", 0.0, &[Value::Null, told]);
                    self.refused = Some(path.chars().take(100).collect());
                }
            }
            "FCUnpublish" | "deleteStream" | "closeStream" if self.published => return Ok(Some(Event::End)),
            _ => {}
        }
        Ok(None)
    }

    fn answer(&mut self, stream: u32, name: &str, transaction: f64, rest: &[Value]) {
        let head = [Value::Text(name.into()), Value::Number(transaction)];
        chunk::write(&mut self.out, COMMAND, 20, stream, &amf::write(&[&head[..], rest].concat()));
    }
}

fn status(code: &str, description: &str) -> Value {
    Value::Object(vec![
        ("level".into(), Value::Text("status".into())),
        ("code".into(), Value::Text(code.into())),
        ("description".into(), Value::Text(description.into())),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn say(session: &mut Session, values: &[Value]) {
        let mut wire = Vec::new();
        chunk::write(&mut wire, 3, 20, 1, &amf::write(values));
        session.feed(&wire);
    }

    fn connect(session: &mut Session, application: &str) {
        let object = Value::Object(vec![("app".into(), Value::Text(application.into()))]);
        say(session, &[Value::Text("connect".into()), Value::Number(1.0), object]);
    }

    fn publish(session: &mut Session, key: &str) {
        let [name, kind] = ["publish", "live"].map(|text| Value::Text(text.into()));
        say(session, &[name, Value::Number(5.0), Value::Null, Value::Text(key.into()), kind]);
    }

    #[test]
    fn only_the_key_that_is_expected_may_publish() {
        let mut session = Session::new("live/secret".into());
        connect(&mut session, "live");
        publish(&mut session, "guess");
        assert_eq!(session.next().unwrap(), None);
        assert_eq!((session.published, session.refused.as_deref()), (false, Some("live/guess")));
        let mut session = Session::new("live/secret".into());
        connect(&mut session, "live");
        publish(&mut session, "secret?user=1");
        assert_eq!(session.next().unwrap(), None);
        assert!(session.published);
    }

    #[test]
    fn media_before_publishing_is_not_looked_at() {
        let mut session = Session::new(String::new());
        let mut wire = Vec::new();
        chunk::write(&mut wire, 4, 9, 1, &[0x17, 1]);
        session.feed(&wire);
        assert_eq!(session.next().unwrap(), None);
        connect(&mut session, "live");
        publish(&mut session, "any");
        session.feed(&wire);
        assert_eq!(session.next().unwrap(), Some(Event::Video(0, vec![0x17, 1])));
    }

    #[test]
    fn nonsense_ends_the_connection_and_nothing_else() {
        for garbage in [&[3u8, 0, 0, 0, 0, 0, 1, 20, 0, 0, 0, 0, 0xff][..], &[0xff; 64], &[0xc3; 64]] {
            let mut session = Session::new(String::new());
            session.feed(garbage);
            assert!(session.next().is_err());
        }
    }
}
