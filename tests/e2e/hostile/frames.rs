//! HTTP/2 by hand: what no library sends.
use std::collections::BTreeMap;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RESET: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const ACK: u8 = 1;
pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

/// What a settings frame calls a stream's first window.
pub(super) const INITIAL_WINDOW: u16 = 4;

/// Error codes.
pub(super) const FLOW_CONTROL: u32 = 3;
pub(super) const FRAME_SIZE: u32 = 6;
pub(super) const REFUSED_STREAM: u32 = 7;
pub(super) const ENHANCE_YOUR_CALM: u32 = 11;

/// What the last ping of a flood says.
const STILL_THERE: &[u8; 8] = b"and now?";

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&[a, b, c, kind, flags][..], &stream.to_be_bytes(), payload].concat()
}

/// A header as HPACK writes it without any table.
pub(super) fn header(name: &str, value: &str) -> Vec<u8> {
    literal(0x00, name, value)
}

/// The same, to be remembered by the peer.
pub(super) fn remembered(name: &str, value: &str) -> Vec<u8> {
    literal(0x40, name, value)
}

fn literal(kind: u8, name: &str, value: &str) -> Vec<u8> {
    let mut out = vec![kind];
    for text in [name, value] {
        match text.len() {
            short @ 0..127 => out.push(u8::try_from(short).unwrap()),
            long => {
                out.push(127);
                let mut rest = long - 127;
                while rest >= 128 {
                    out.push(u8::try_from(rest % 128).unwrap() | 128);
                    rest /= 128;
                }
                out.push(u8::try_from(rest).unwrap());
            }
        }
        out.extend_from_slice(text.as_bytes());
    }
    out
}

/// The head of a request, without its frame.
pub(super) fn head(method: &str, path: &str) -> Vec<u8> {
    let pseudo = [(":method", method), (":scheme", "http"), (":authority", "node"), (":path", path)];
    pseudo.iter().flat_map(|(name, value)| header(name, value)).collect()
}

/// The beginning of a connection with these settings.
pub(super) fn preface(settings: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> =
        settings.iter().flat_map(|(key, value)| [&key.to_be_bytes()[..], &value.to_be_bytes()].concat()).collect();
    [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(SETTINGS, 0, 0, &payload)].concat()
}

/// One frame that came; `None` when the connection has ended.
pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Option<(u8, u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.ok()?;
    let [a, b, c, kind, flags, s1, s2, s3, s4] = head;
    let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]).try_into().unwrap()];
    stream.read_exact(&mut payload).await.ok()?;
    Some((kind, flags, u32::from_be_bytes([s1 & 0x7f, s2, s3, s4]), payload))
}

/// What a flood was answered with.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// The code with which the node ended the connection.
    pub(super) goaway: Option<u32>,
    /// Does the connection still answer?
    pub(super) alive: bool,
    /// Streams that were refused or broken off, with their codes.
    pub(super) resets: BTreeMap<u32, u32>,
    /// Heads of answers by their first byte: 0x88 is `:status 200`.
    pub(super) answers: BTreeMap<u32, u8>,
    pub(super) acks: usize,
    pub(super) pongs: usize,
}

/// Sends all of it, however it is answered, and asks at the end whether anybody is still there.
pub(super) async fn flood(stream: impl AsyncRead + AsyncWrite + Send + 'static, what: Vec<u8>) -> Outcome {
    let (mut from, mut to) = tokio::io::split(stream);
    let sending = tokio::spawn(async move {
        let all = [preface(&[]), what, frame(PING, 0, 0, STILL_THERE)].concat();
        let _ = to.write_all(&all).await;
        let _ = to.flush().await;
        to
    });
    let mut outcome = Outcome::default();
    while let Some((kind, flags, stream, payload)) = read(&mut from).await {
        let code = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
        match kind {
            GOAWAY => outcome.goaway = Some(code(4)),
            RESET => drop(outcome.resets.insert(stream, code(0))),
            HEADERS => drop(outcome.answers.insert(stream, payload[0])),
            SETTINGS if flags & ACK != 0 => outcome.acks += 1,
            PING if flags & ACK != 0 && payload == STILL_THERE => {
                outcome.alive = true;
                break;
            }
            PING if flags & ACK != 0 => outcome.pongs += 1,
            _ => {}
        }
    }
    drop(sending.await.unwrap());
    outcome
}
