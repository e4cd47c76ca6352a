//! Peers that take their time: with the handshake, with a head, with a body, and with the answer.
use std::pin::Pin;

use livepeer::wire::net;
use prost::Message;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::client::TlsStream;

use super::frames::{
    ACK, DATA, END_HEADERS, END_STREAM, HEADERS, INITIAL_WINDOW, PING, frame, head, header, preface, read,
};
use super::{PATIENCE, Victim};
use crate::node::peer::{Speak, Upload, data, discover, tls};
use crate::node::{film, ladder};

const TLS: &str = "[serve]\nlisten = \"127.0.0.1:0\"\nmax_sessions = 5\nmax_connections = 256\n";

/// `:status 408` in HPACK: under the name of entry 8, to be remembered, in Huffman code.
const STATUS_408: [u8; 5] = [0x48, 0x83, 0x68, 0x0f, 0x7f];

/// How often a dribbling peer sends a byte.
const DRIBBLE: std::time::Duration = std::time::Duration::from_millis(700);

impl Victim {
    async fn shake_hands(&self, speak: Speak) -> TlsStream<tokio::net::TcpStream> {
        let name = ServerName::try_from("127.0.0.1").unwrap();
        tokio_rustls::TlsConnector::from(tls(speak)).connect(name, self.connect().await).await.unwrap()
    }
}

/// What is said until the connection ends.
async fn rest(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut all = Vec::new();
    // It may be cut off in the middle: what came until then counts.
    let _ = stream.read_to_end(&mut all).await;
    all
}

/// Sends byte after byte, again and again, until the connection ends; what was said until then.
async fn dribble(stream: impl AsyncRead + AsyncWrite, bytes: &[u8]) -> Vec<u8> {
    let (mut from, mut to) = tokio::io::split(stream);
    let sending = async {
        for byte in bytes.iter().cycle() {
            if to.write_all(&[*byte]).await.is_err() || to.flush().await.is_err() {
                break;
            }
            tokio::time::sleep(DRIBBLE).await;
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        said = rest(&mut from) => said,
        () = sending => unreachable!("it waits for ever"),
    }
}

/// Speaks HTTP/2 as far as the other side must be answered, and takes nothing; the heads of answers that came.
async fn keep_alive(stream: impl AsyncRead + AsyncWrite, settings: &[(u16, u32)], requests: &[u8]) -> Vec<Vec<u8>> {
    let (mut from, mut to) = tokio::io::split(stream);
    to.write_all(&[&preface(settings)[..], requests].concat()).await.unwrap();
    to.flush().await.unwrap();
    let mut heads = Vec::new();
    while let Some((kind, flags, _, payload)) = read(&mut from).await {
        if kind == HEADERS {
            heads.push(payload);
        } else if kind == PING && flags & ACK == 0 {
            let _ = to.write_all(&frame(PING, ACK, 0, &payload)).await;
            let _ = to.flush().await;
        }
    }
    heads
}

fn gets(path: &str, count: u32) -> Vec<u8> {
    let get = |number| frame(HEADERS, END_HEADERS | END_STREAM, 2 * number + 1, &head("GET", path));
    (0..count).flat_map(get).collect()
}

/// The head of an upload by HTTP/1.1 that will never come whole.
fn upload_head(token: &net::AuthToken, duration: i32) -> String {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    let mut data = Upload::new(token, 0, film(), &ladder()).data;
    data.duration = duration;
    let segment = STANDARD.encode(data.encode_to_vec());
    format!("POST /segment HTTP/1.1\r\nhost: node\r\nlivepeer-segment: {segment}\r\ncontent-length: 1000000\r\n\r\n")
}

type Attack<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_takes_too_long_is_cut_off_and_a_gateway_is_served_meanwhile() {
    let victim = Victim::start(TLS).await;
    let done = victim.honest().await;
    let path = data(&done).segments[0].url.strip_prefix(&victim.node.uri).unwrap().to_owned();
    let tokens = (discover(&victim.node.uri).await.unwrap(), discover(&victim.node.uri).await.unwrap());
    let heads = (upload_head(tokens.0.auth_token.as_ref().unwrap(), 1000), {
        upload_head(tokens.1.auth_token.as_ref().unwrap(), 300_000)
    });

    let attacks: Vec<(&str, Attack<'_>)> = vec![
        ("no TLS", Box::pin(async { assert!(rest(&mut victim.connect().await).await.is_empty()) })),
        ("TLS byte by byte", Box::pin(async { drop(dribble(victim.connect().await, &[22, 3, 1, 2, 0, 1]).await) })),
        (
            "TLS garbage",
            Box::pin(async {
                let mut stream = victim.connect().await;
                stream.write_all(&[0x80; 4096]).await.unwrap();
                let said = rest(&mut stream).await;
                assert!(said.is_empty() || said[0] == 21, "an alert: {said:?}");
            }),
        ),
        ("no request", Box::pin(async { assert!(rest(&mut victim.shake_hands(Speak::Http1).await).await.is_empty()) })),
        (
            "a head byte by byte",
            Box::pin(async {
                let stream = victim.shake_hands(Speak::Http1).await;
                let said = dribble(stream, b"GET / HTTP/1.1 and so on and so on and on").await;
                assert!(!said.starts_with(b"HTTP/1.1 2"), "{said:?}");
            }),
        ),
        (
            "no request over HTTP/2",
            Box::pin(async {
                let stream = victim.shake_hands(Speak::Http2).await;
                assert!(keep_alive(stream, &[], &[]).await.is_empty());
            }),
        ),
        (
            "a body byte by byte",
            Box::pin(async {
                let mut stream = victim.shake_hands(Speak::Http1).await;
                stream.write_all(heads.0.as_bytes()).await.unwrap();
                let said = String::from_utf8(dribble(stream, b"G").await).unwrap();
                assert!(said.starts_with("HTTP/1.1 500 ") && said.ends_with("\r\nInternal Server Error\n"), "{said}");
            }),
        ),
        (
            "a body that stops",
            Box::pin(async {
                let mut stream = victim.shake_hands(Speak::Http1).await;
                stream.write_all(heads.1.as_bytes()).await.unwrap();
                stream.write_all(&[0x47; 500_000]).await.unwrap();
                let said = String::from_utf8(rest(&mut stream).await).unwrap();
                assert!(said.starts_with("HTTP/1.1 500 ") && said.ends_with("\r\nInternal Server Error\n"), "{said}");
            }),
        ),
        (
            "half a message of gRPC",
            Box::pin(async {
                let grpc = [
                    head("POST", "/net.Orchestrator/GetOrchestrator"),
                    header("content-type", "application/grpc"),
                    header("te", "trailers"),
                ];
                let call =
                    [frame(HEADERS, END_HEADERS, 1, &grpc.concat()), frame(DATA, 0, 1, &[0, 0, 0, 0, 100, 1, 2, 3])];
                let said = victim.head_on_stream_one(&call.concat()).await;
                assert!(said.starts_with(&STATUS_408), "{said:x?}");
            }),
        ),
        (
            "renditions nobody reads",
            Box::pin(async {
                let stream = victim.shake_hands(Speak::Http1).await;
                let (from, mut to) = tokio::io::split(stream);
                let get = format!("GET {path} HTTP/1.1\r\nhost: node\r\n\r\n").repeat(1000);
                // More and more is asked for and nothing read, until the connection is gone.
                while to.write_all(get.as_bytes()).await.is_ok() {}
                drop(from);
            }),
        ),
        (
            "renditions without a window",
            Box::pin(async {
                let stream = victim.shake_hands(Speak::Http2).await;
                let heads = keep_alive(stream, &[(INITIAL_WINDOW, 0)], &gets(&path, 64)).await;
                assert_eq!(heads.len(), 64, "they were answered as far as the peer allowed");
            }),
        ),
        (
            "renditions with a window of one byte",
            Box::pin(async {
                let stream = victim.shake_hands(Speak::Http2).await;
                assert_eq!(keep_alive(stream, &[(INITIAL_WINDOW, 1)], &gets(&path, 64)).await.len(), 64);
            }),
        ),
        (
            "nothing read over HTTP/2",
            Box::pin(async {
                let mut stream = victim.shake_hands(Speak::Http2).await;
                stream.write_all(&[preface(&[]), gets(&path, 64)].concat()).await.unwrap();
                // The socket's own state tells, so that nothing is taken from it.
                let (tcp, _) = stream.get_ref();
                tcp.ready(tokio::io::Interest::WRITABLE).await.unwrap();
                while stream.write_all(&frame(PING, 0, 0, &[7; 8])).await.is_ok() && stream.flush().await.is_ok() {
                    tokio::time::sleep(DRIBBLE).await;
                }
            }),
        ),
    ];
    let count = attacks.len();
    let running = futures_util::future::join_all(attacks.into_iter().map(async |(name, attack)| {
        let ended = tokio::time::timeout(PATIENCE, attack).await;
        ended.unwrap_or_else(|_| panic!("{name}: never cut off"));
    }));
    let meanwhile = async {
        // Most of them are there at a time; some are sent away soon.
        let held = async {
            while victim.connections() < count / 2 {
                tokio::time::sleep(DRIBBLE / 10).await;
            }
        };
        tokio::time::timeout(PATIENCE, held).await.expect("the attack begins");
        victim.honest().await;
    };
    tokio::join!(running, meanwhile);
    victim.is_unharmed().await;
}

impl Victim {
    /// Sends this over HTTP/2, answers pings, and reads the head of the answer on the first stream.
    async fn head_on_stream_one(&self, call: &[u8]) -> Vec<u8> {
        let stream = self.shake_hands(Speak::Http2).await;
        let (mut from, mut to) = tokio::io::split(stream);
        to.write_all(&[&preface(&[])[..], call].concat()).await.unwrap();
        to.flush().await.unwrap();
        while let Some((kind, flags, stream, payload)) = read(&mut from).await {
            if (kind, stream) == (HEADERS, 1) {
                return payload;
            } else if kind == PING && flags & ACK == 0 {
                to.write_all(&frame(PING, ACK, 0, &payload)).await.unwrap();
                to.flush().await.unwrap();
            }
        }
        Vec::new()
    }
}
