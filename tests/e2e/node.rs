//! The node as its peers see it: the real program with real workers, off-chain; and every refusal.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

#[path = "node/peer.rs"]
pub(crate) mod peer;
#[path = "node/scripted.rs"]
pub(crate) mod scripted;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use livepeer::profile::{Profile, preset};
use livepeer::wire::net;
use millrace_tests::{bins, media};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use prost::Message;
use service::status::{NodeStatus, read_status};

use self::peer::{Speak, Upload, call, data, discover, error, get, open, told};

/// How long the node may take to be ready or to end, on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// A node that is killed when dropped.
pub(crate) struct Node {
    child: Child,
    status: PathBuf,
    pub(crate) uri: String,
}

impl Node {
    /// Starts a node whose state is in this directory, and waits until it serves.
    pub(crate) async fn start(dir: &Path, config: &str) -> Self {
        let status = dir.join("node.sock");
        let child = spawn(dir, &format!("status_socket = \"{}\"\n{config}", status.display()), &[]);
        let mut node = Self { child, status, uri: String::new() };
        let since = Instant::now();
        loop {
            assert!(node.child.try_wait().unwrap().is_none(), "the node ended: {}", log(dir));
            assert!(since.elapsed() < PATIENCE, "the node is not ready: {}", log(dir));
            match read_status(&node.status).await {
                Ok(status) if status.mode == "run" => {
                    node.uri = status.service_uri;
                    return node;
                }
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    pub(crate) async fn status(&self) -> NodeStatus {
        read_status(&self.status).await.unwrap()
    }

    /// Waits until the status, which is put together once a second, says so.
    pub(crate) async fn until(&self, what: impl Fn(&NodeStatus) -> bool) -> NodeStatus {
        let since = Instant::now();
        loop {
            let status = self.status().await;
            if what(&status) {
                return status;
            }
            assert!(since.elapsed() < PATIENCE, "it never happened: {status:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to stop; its exit status.
    pub(crate) fn stop(mut self) -> Option<i32> {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), Signal::SIGTERM).unwrap();
        wait(&mut self.child)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(dir: &Path, config: &str, args: &[&str]) -> Child {
    let file = dir.join("node.toml");
    std::fs::write(&file, config).unwrap();
    let log = std::fs::File::options().create(true).append(true).open(dir.join("log")).unwrap();
    Command::new(bins::bin("millrace-node"))
        .args(["--config", file.to_str().unwrap(), "--state-dir", dir.join("state").to_str().unwrap()])
        .args(args)
        .env_remove("JOURNAL_STREAM")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}

fn wait(child: &mut Child) -> Option<i32> {
    let since = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        if since.elapsed() >= PATIENCE {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("the node does not end");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn log(dir: &Path) -> String {
    std::fs::read_to_string(dir.join("log")).unwrap_or_default()
}

const LOCAL: &str = "[serve]\nlisten = \"127.0.0.1:0\"\nmax_sessions = 3\ndrain_sessions_s = 0\n";

/// A second of small film.
pub(crate) fn film() -> Bytes {
    let path = media::synthetic("node-film.ts", "320x180", "30", "1", true, &[]);
    Bytes::from(std::fs::read(path).unwrap())
}

pub(crate) fn ladder() -> Vec<Profile> {
    let small = Profile { name: "tiny one".to_owned(), width: 160, height: 90, ..preset("144p").unwrap() };
    vec![preset("144p").unwrap(), small]
}

#[tokio::test]
async fn a_gateway_is_served_off_chain_over_either_http() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path(), LOCAL).await;
    let info = discover(&node.uri).await.unwrap();
    assert_eq!(info.transcoder, node.uri);
    assert!(info.ticket_params.is_none() && info.price_info.is_none());
    assert_eq!(info.address, [0; 20], "a stock gateway takes an empty address for a blocked one");
    let token = info.auth_token.clone().unwrap();
    assert_eq!(token.session_id.len(), 32, "128 bits in hex");
    let offered = info.capabilities.unwrap();
    assert_eq!(offered.version, "0.9.1-millrace.1");
    let word = offered.bitstring[0];
    assert!([0, 1, 12, 14, 26].iter().all(|bit| word >> bit & 1 == 1), "{word:b}");

    let ladder = ladder();
    for (seq, speak) in [(0, Speak::Http1), (1, Speak::Http2)] {
        let result = Upload::new(&token, seq, film(), &ladder).send(&node.uri, speak).await;
        assert_eq!(result.seq, seq);
        assert_eq!(result.info.as_ref().unwrap().auth_token.as_ref(), Some(&token));
        let renditions = &data(&result).segments;
        assert_eq!(renditions.iter().map(|r| r.pixels).collect::<Vec<_>>(), [256 * 144 * 30, 160 * 90 * 30]);
        assert!(data(&result).sig.is_empty(), "nobody signs off-chain");
        for rendition in renditions {
            let path = rendition.url.strip_prefix(&node.uri).unwrap();
            let response = get(&node.uri, speak, path).await;
            assert_eq!(response.status(), 200);
            assert_eq!(response.headers()["content-type"], "video/mp2t");
            let length: usize = response.headers()["content-length"].to_str().unwrap().parse().unwrap();
            let media = response.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(media.len(), length);
            assert_eq!(media[0], 0x47, "a transport stream");
        }
    }
    let status = node.until(|status| status.segments.ok == 2).await;
    assert_eq!((status.network.as_str(), status.sessions.active), ("offchain", 1));
    assert_eq!(status.segments.pixels, 2 * (256 * 144 + 160 * 90) * 30);
    assert!(status.segments.latency_ms_p95 > 0 && status.workers.alive > 0 && status.alarms.is_empty());

    let end = net::EndTranscodingSessionRequest { auth_token: Some(token.clone()) };
    let forged = net::AuthToken { token: vec![1; 32], ..token };
    let told: Result<net::EndTranscodingSessionResponse, _> =
        call(&node.uri, "EndTranscodingSession", &net::EndTranscodingSessionRequest { auth_token: Some(forged) }).await;
    assert_eq!(told.unwrap_err(), "invalid auth token");
    call::<_, net::EndTranscodingSessionResponse>(&node.uri, "EndTranscodingSession", &end).await.unwrap();
    node.until(|status| status.sessions.active == 0 && status.sessions.ended == 1).await;
    let pong: net::PingPong = call(&node.uri, "Ping", &net::PingPong { value: b"x".to_vec() }).await.unwrap();
    assert!(pong.value.is_empty(), "nobody signs off-chain");
    assert_eq!(node.stop(), Some(0));
}

#[tokio::test]
async fn bad_requests_get_clear_errors_and_the_node_serves_on() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path(), LOCAL).await;
    let token = discover(&node.uri).await.unwrap().auth_token.unwrap();
    let ladder = ladder();
    let good = Upload::new(&token, 0, film(), &ladder);
    let refused = async |spoil: &dyn Fn(&mut Upload), status: u16, text: &str| {
        let mut upload = good.clone();
        spoil(&mut upload);
        upload.refused(&node.uri, status, text).await;
    };
    refused(&|u| u.data.auth_token = None, 403, "missing auth token").await;
    refused(&|u| u.data.auth_token.as_mut().unwrap().session_id.push('0'), 403, "invalid auth token").await;
    refused(&|u| u.data.auth_token.as_mut().unwrap().expiration += 1, 403, "invalid auth token").await;
    refused(&|u| u.data.duration = -1, 403, "invalid duration").await;
    refused(&|u| u.data.duration = 300_001, 403, "invalid duration").await;
    refused(&|u| u.data.full_profiles[0].format = 9, 403, "unrecognized profile output format").await;
    refused(&|u| u.data.full_profiles[0].encoder = 9, 403, "unrecognized video codec").await;
    refused(&|u| u.data.full_profiles[0].profile = 9, 403, "unrecognized encoder profile").await;
    let incompatible =
        |bit: u32| move |u: &mut Upload| u.data.capabilities.as_mut().unwrap().bitstring = vec![1 << 12 | 1 << bit];
    refused(&incompatible(28), 403, "incompatible capabilities").await;
    refused(&incompatible(27), 403, "incompatible capabilities").await;
    refused(&|u| u.data.hash[0] ^= 1, 403, "Forbidden").await;
    refused(&|u| u.data.hash.clear(), 403, "Forbidden").await;
    refused(&|u| u.content = Bytes::from_static(b"other bytes"), 403, "Forbidden").await;
    refused(&|u| u.content_type = "application/vnd+livepeer.uri", 400, "BadRequest").await;

    for (header, value, status, begins) in [
        ("Livepeer-Payment", "%%%", 402, "base64 decode error: "),
        ("Livepeer-Payment", "AAAA", 402, "protobuf unmarshal error: "),
        ("Livepeer-Segment", "%%%", 403, "ErrorSegEncoding"),
        ("Livepeer-Segment", "AAAA", 403, "ErrorSegEncoding"),
    ] {
        let mut request = good.request(&node.uri, Speak::Http1, "/segment");
        request.headers_mut().insert(header, value.parse().unwrap());
        let told = told(open(&node.uri, Speak::Http1, request).await).await;
        assert!(told.0 == status && told.1.starts_with(begins), "{header}: {told:?}");
    }
    let mut bare = good.request(&node.uri, Speak::Http1, "/segment");
    bare.headers_mut().remove("Livepeer-Segment");
    assert_eq!(told(open(&node.uri, Speak::Http1, bare).await).await, (403, "ErrorSegEncoding\n".to_owned()));

    let mut huge = good.clone();
    huge.content = Bytes::from(vec![0; 300_000_001]);
    huge.refused(&node.uri, 500, "Internal Server Error").await;

    // None of that took a slot; the good one still passes.
    node.until(|status| status.sessions.active == 0 && status.sessions.started > 0).await;
    assert_eq!(data(&good.send(&node.uri, Speak::Http2).await).segments.len(), 2);
}

#[tokio::test]
async fn hostile_media_costs_its_segment_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path(), LOCAL).await;
    let token = discover(&node.uri).await.unwrap().auth_token.unwrap();
    let ladder = ladder();
    // The words on which a gateway does not blame us: livepeer-wire §1.5.
    let streams_fault = [
        "Unsupported input pixel format",
        "Unsupported input codec",
        "No keyframes in input",
        "Demuxer not found",
        "Invalid argument",
        "TranscoderInvalidVideo",
        "TranscoderUnrecognizedFormat",
    ];
    let film = film();
    let noise: Vec<u8> = (0..60_000_u32).map(|i| u8::try_from(i.wrapping_mul(2_654_435_761) >> 24).unwrap()).collect();
    let mut bent = film.to_vec();
    for (at, byte) in bent.iter_mut().enumerate().skip(188 * 3) {
        if at % 188 > 4 && at % 7 == 0 {
            *byte ^= 0x5a;
        }
    }
    let hostile = [Bytes::new(), Bytes::from(noise), film.slice(..188 * 2), Bytes::from(bent.clone())];
    for (seq, content) in (0..).zip(hostile) {
        let bent = content.len() == bent.len();
        let result = Upload::new(&token, seq, content, &ladder).send(&node.uri, Speak::Http1).await;
        // A bent stream may still decode to something; everything else must be refused in those words.
        if !bent || matches!(result.result, Some(net::transcode_result::Result::Error(_))) {
            let known =
                streams_fault.contains(&error(&result)) || bent && error(&result) == "TranscoderInvalidDuration";
            assert!(known, "segment {seq}: {}", error(&result));
        }
        assert!(result.info.is_some(), "a failed result still brings fresh terms");
    }
    let many: Vec<Profile> = (0..11).map(|i| Profile { name: format!("p{i}"), ..ladder[0].clone() }).collect();
    let result = Upload::new(&token, 7, film.clone(), &many).send(&node.uri, Speak::Http1).await;
    assert_eq!(error(&result), "Too many outputs");
    let result = Upload::new(&token, 8, film.clone(), &[]).send(&node.uri, Speak::Http1).await;
    assert_eq!(error(&result), "Invalid argument");

    let result = Upload::new(&token, 9, film, &ladder).send(&node.uri, Speak::Http1).await;
    assert_eq!(data(&result).segments.len(), 2, "the node serves on");
    let status = node.until(|status| status.segments.ok > 0).await;
    assert!(status.segments.failed >= 5);
}

#[tokio::test]
async fn only_the_paths_we_gave_out_are_served() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path(), LOCAL).await;
    let token = discover(&node.uri).await.unwrap().auth_token.unwrap();
    let evil = vec![Profile { name: "../../../etc/passwd".to_owned(), ..ladder()[0].clone() }];
    let result = Upload::new(&token, 0, film(), &evil).send(&node.uri, Speak::Http1).await;
    let url = &data(&result).segments[0].url;
    let path = url.strip_prefix(&node.uri).unwrap();
    assert!(!path.contains("..") && path.matches('/').count() == 4, "{path}");
    assert_eq!(get(&node.uri, Speak::Http1, path).await.status(), 200);
    let session = &token.session_id;
    for path in [
        "/stream/".to_owned(),
        format!("/stream/{session}/"),
        format!("/stream/{session}/../{session}/144p/0.ts"),
        "/stream/../../../../etc/passwd".to_owned(),
        "/stream/%2e%2e/%2e%2e/etc/passwd".to_owned(),
        format!("{path}/"),
        format!("{path}.phash"),
        format!("//{path}"),
        "/etc/passwd".to_owned(),
        "/".to_owned(),
    ] {
        assert_eq!(get(&node.uri, Speak::Http1, &path).await.status(), 404, "{path}");
    }
}

#[tokio::test]
async fn a_restart_ends_no_session_and_keeps_the_key() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path(), LOCAL).await;
    let token = discover(&node.uri).await.unwrap().auth_token.unwrap();
    let certificate = std::fs::read(dir.path().join("state/tls-cert.pem")).unwrap();
    Upload::new(&token, 0, film(), &ladder()).send(&node.uri, Speak::Http1).await;
    assert_eq!(node.stop(), Some(0));

    let node = Node::start(dir.path(), LOCAL).await;
    let result = Upload::new(&token, 1, film(), &ladder()).send(&node.uri, Speak::Http1).await;
    assert_eq!(data(&result).segments.len(), 2);
    assert_eq!(std::fs::read(dir.path().join("state/tls-cert.pem")).unwrap(), certificate);
}

#[tokio::test]
async fn plain_text_is_served_where_it_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path(), "[serve]\nlisten = \"http://127.0.0.1:0\"\n").await;
    assert!(node.uri.starts_with("http://"));
    let token = discover(&node.uri).await.unwrap().auth_token.unwrap();
    for (seq, speak) in [(0, Speak::Http1), (1, Speak::Http2)] {
        let result = Upload::new(&token, seq, film(), &ladder()).send(&node.uri, speak).await;
        assert_eq!(data(&result).segments.len(), 2);
    }
}

#[tokio::test]
async fn a_segment_in_hand_is_finished_before_the_node_ends() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path(), LOCAL).await;
    let token = discover(&node.uri).await.unwrap().auth_token.unwrap();
    let upload = Upload::new(&token, 0, film(), &ladder());
    let response = open(&node.uri, Speak::Http1, upload.request(&node.uri, Speak::Http1, "/segment")).await;
    assert_eq!(response.status(), 200);
    let stopping = tokio::task::spawn_blocking(move || node.stop());
    let result = net::TranscodeResult::decode(response.into_body().collect().await.unwrap().to_bytes()).unwrap();
    assert_eq!(data(&result).segments.len(), 2);
    assert_eq!(stopping.await.unwrap(), Some(0));
}

#[tokio::test]
async fn a_node_that_cannot_work_says_why_and_with_which_code() {
    let code = |config: &str, args: &[&str]| {
        let dir = tempfile::tempdir().unwrap();
        let code = wait(&mut spawn(dir.path(), config, args));
        (code, log(dir.path()))
    };
    let said = |(code, log): (Option<i32>, String), wanted: i32, words: &str| {
        assert!(code == Some(wanted) && log.contains(words), "{code:?}: {log}");
    };
    said(code("", &["--check"]), 0, "configuration is good");
    said(code("[serve]\nmax_sesions = 3\n", &[]), 78, "max_sesions");
    said(code("[serve]\nmax_sessions = 0\n", &["--check"]), 78, "max_sessions is 0");
    said(code("", &["--frobnicate"]), 64, "--frobnicate");
    said(code(&format!("{LOCAL}[workers]\nprogram = \"/nonexistent/worker\"\n"), &[]), 69, "/nonexistent/worker");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = format!("[serve]\nlisten = \"{}\"\n", taken.local_addr().unwrap());
    said(code(&listen, &[]), 69, "cannot listen on 127.0.0.1");

    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("state")).unwrap();
    std::fs::write(dir.path().join("state/token-key"), [7; 32]).unwrap();
    std::process::Command::new("chmod").arg("644").arg(dir.path().join("state/token-key")).status().unwrap();
    let exit = wait(&mut spawn(dir.path(), LOCAL, &[]));
    said((exit, log(dir.path())), 77, "can be read by others");
}

#[tokio::test]
async fn systemd_is_told_that_the_node_is_ready_alive_and_stopping() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("notify");
    let systemd = std::os::unix::net::UnixDatagram::bind(&socket).unwrap();
    systemd.set_read_timeout(Some(PATIENCE)).unwrap();
    let heard = |wanted: &str| {
        let mut message = [0; 4096];
        loop {
            let length = systemd.recv(&mut message).unwrap();
            if String::from_utf8_lossy(&message[..length]).lines().any(|line| line == wanted) {
                return;
            }
        }
    };
    let status = dir.path().join("node.sock");
    let file = dir.path().join("node.toml");
    std::fs::write(&file, format!("status_socket = \"{}\"\n{LOCAL}", status.display())).unwrap();
    // As systemd does it: the watchdog is for this very process.
    let child = Command::new("sh")
        .args(["-c", "export WATCHDOG_PID=$$; exec \"$0\" \"$@\""])
        .arg(bins::bin("millrace-node"))
        .args(["--config", file.to_str().unwrap(), "--state-dir", dir.path().join("state").to_str().unwrap()])
        .env("NOTIFY_SOCKET", &socket)
        .env("WATCHDOG_USEC", "300000")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let node = Node { child, status, uri: String::new() };
    heard("WATCHDOG=1");
    heard("READY=1");
    heard("WATCHDOG=1");
    let stopped = std::thread::spawn(move || node.stop());
    heard("STOPPING=1");
    assert_eq!(stopped.join().unwrap(), Some(0));
}

#[tokio::test]
async fn a_malformed_stream_of_bytes_is_no_request() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path(), "[serve]\nlisten = \"http://127.0.0.1:0\"\n").await;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let authority = node.uri.strip_prefix("http://").unwrap();
    for noise in [
        &b"\x16\x03\x01\x02\x00\x01\x00"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nxxxxxxxxxxxxxxxx",
        b"GET / HTTP/9\r\n\r\n",
    ] {
        let mut stream = tokio::net::TcpStream::connect(authority).await.unwrap();
        stream.write_all(noise).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        // Whatever is said, the connection ends and nobody panics.
        let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap();
    }
    let request = Request::post(format!("{}/net.Orchestrator/GetOrchestrator", node.uri))
        .header("content-type", "application/grpc")
        .body(Full::new(Bytes::from_static(b"\x00\xff\xff\xff\xff")))
        .unwrap();
    let _ = told(open(&node.uri, Speak::Http2, request).await).await;
    assert!(discover(&node.uri).await.is_ok());
    assert!(!log(dir.path()).contains("panicked"), "{}", log(dir.path()));
}
