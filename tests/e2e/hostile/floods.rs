//! Too much of what is allowed, and what is not allowed at all, over HTTP/2 and HTTP/1.1.
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::frames::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, FLOW_CONTROL, FRAME_SIZE, HEADERS, Outcome,
    PING, PRIORITY, REFUSED_STREAM, RESET, SETTINGS, WINDOW, flood, frame, head, header, remembered,
};
use super::{PATIENCE, Victim};

const PLAIN: &str = "[serve]\nlisten = \"http://127.0.0.1:0\"\nmax_sessions = 3\nmax_connections = 64\n";

/// Streams of a client have odd numbers.
fn streams(count: u32) -> impl Iterator<Item = u32> {
    (0..count).map(|number| 2 * number + 1)
}

impl Victim {
    async fn flooded(&self, what: impl IntoIterator<Item = Vec<u8>>) -> Outcome {
        let what = what.into_iter().flatten().collect();
        let stream = self.connect().await;
        tokio::time::timeout(PATIENCE, flood(stream, what)).await.expect("the flood ends")
    }
}

#[tokio::test]
async fn a_flood_over_http2_costs_its_connection_at_most() {
    let victim = Victim::start(PLAIN).await;
    let get = |stream| frame(HEADERS, END_HEADERS | END_STREAM, stream, &head("GET", "/stream/a/b/0.ts"));

    // Requests taken back as soon as they are made.
    let reset = |stream| frame(RESET, 0, stream, &8_u32.to_be_bytes());
    let told = victim.flooded(streams(20_000).map(|stream| [get(stream), reset(stream)].concat())).await;
    assert_eq!((told.goaway, told.alive), (Some(ENHANCE_YOUR_CALM), false), "{told:?}");

    // A head without end: one that is small when packed, one that is not.
    let begin = frame(HEADERS, 0, 1, &head("GET", "/"));
    let more = frame(CONTINUATION, 0, 1, &header("x", &"y".repeat(16_000)));
    let told = victim.flooded([begin.clone()].into_iter().chain(std::iter::repeat_n(more, 4000))).await;
    assert!(told.goaway.is_some() && !told.alive, "{told:?}");
    let bomb = [head("GET", "/"), remembered("x", &"y".repeat(4000)), vec![0xbe; 12_000]].concat();
    let told = victim.flooded([frame(HEADERS, END_HEADERS | END_STREAM, 1, &bomb)]).await;
    // `:status 431` is no entry of the static table: a literal under the name of entry 8.
    assert!(told.answers.get(&1).is_none_or(|first| *first != 0x88), "{told:?}");
    let empty = frame(CONTINUATION, 0, 1, &[]);
    let told = victim.flooded([begin].into_iter().chain(std::iter::repeat_n(empty, 100_000))).await;
    assert!(told.goaway.is_some() && !told.alive, "{told:?}");

    // More requests at a time than we said.
    let post = |stream| frame(HEADERS, END_HEADERS, stream, &head("POST", "/net.Orchestrator/Ping"));
    let told = victim.flooded(streams(200).map(post)).await;
    let refused = told.resets.values().filter(|code| **code == REFUSED_STREAM).count();
    assert!(refused >= 200 - 64 || !told.alive, "{told:?}");

    // What has to be answered is, one by one.
    let told = victim.flooded(std::iter::repeat_n(frame(PING, 0, 0, &[0; 8]), 20_000)).await;
    assert_eq!((told.pongs, told.alive), (20_000, true), "{told:?}");
    let told = victim.flooded(std::iter::repeat_n(frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]), 20_000)).await;
    assert_eq!((told.acks, told.alive), (20_001, true), "{told:?}");
    let told = victim.flooded(streams(50_000).map(|stream| frame(PRIORITY, 0, stream, &[0, 0, 0, 0, 9]))).await;
    assert!(told.alive, "{told:?}");
    let told = victim.flooded(std::iter::repeat_n(frame(SETTINGS, ACK, 0, &[]), 1000)).await;
    assert!(told.goaway.is_some_and(|code| code != 0) || told.alive, "{told:?}");

    // What is against the rules ends the connection.
    let most = 0x7fff_ffff_u32.to_be_bytes();
    let told = victim.flooded([frame(WINDOW, 0, 0, &most), frame(WINDOW, 0, 0, &most)]).await;
    assert_eq!((told.goaway, told.alive), (Some(FLOW_CONTROL), false), "{told:?}");
    let told = victim.flooded([get(1), frame(DATA, 0, 1, &vec![0; (64 << 10) + 1])]).await;
    assert_eq!((told.goaway, told.alive), (Some(FRAME_SIZE), false), "{told:?}");
    let told = victim.flooded([frame(DATA, 0, 7, b"of no stream")]).await;
    assert!(told.goaway.is_some_and(|code| code != 0) && !told.alive, "{told:?}");
    victim.is_unharmed().await;
}

#[tokio::test]
async fn a_head_that_is_too_much_is_refused_with_the_right_status() {
    let victim = Victim::start(PLAIN).await;
    let many: String = (0..150).map(|number| format!("x-{number}: y\r\n")).collect();
    let cases = [
        (format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(600_000)), "431 "),
        (format!("GET / HTTP/1.1\r\n{many}\r\n"), "431 "),
        (format!("GET /stream/{} HTTP/1.1\r\n\r\n", "a".repeat(70_000)), "414 "),
        ("POST /segment HTTP/1.1\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello".to_owned(), "400 "),
        ("POST /segment HTTP/1.1\r\ncontent-length: -1\r\n\r\n".to_owned(), "400 "),
        ("POST /segment HTTP/1.1\r\ncontent-length: 18446744073709551616\r\n\r\n".to_owned(), "400 "),
        ("POST /segment HTTP/1.1\r\ntransfer-encoding: gzip\r\n\r\n".to_owned(), "400 "),
        ("GET /\0 HTTP/1.1\r\n\r\n".to_owned(), "400 "),
        ("GET / HTTP/1.1\r\nx\r\n\r\n".to_owned(), "400 "),
    ];
    for (request, status) in cases {
        let (mut from, mut to) = victim.connect().await.into_split();
        let sending = tokio::spawn(async move {
            // The node may have had enough before the end.
            let _ = to.write_all(request.as_bytes()).await;
            (to, request)
        });
        let mut answer = Vec::new();
        let reading = from.read_to_end(&mut answer);
        // It may also be cut off with bytes of ours unread.
        let _ = tokio::time::timeout(PATIENCE, reading).await.expect("the connection ends");
        let (_to, request) = sending.await.unwrap();
        let answer = String::from_utf8_lossy(&answer);
        let begin: String = request.chars().take(60).collect();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{begin:?}: {answer:?}");
    }
    victim.is_unharmed().await;
}
