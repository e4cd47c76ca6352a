//! The gateway tool against a real node, fed by the real ffmpeg: live sources, verification, the bench.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use millrace_tests::bins::bin;
use millrace_tests::cluster::{Program, free_port};
use millrace_tests::media;
use nix::sys::signal::Signal;
use serde_json::Value;
use service::status::read_status;

use crate::offchain::ONE_AT_A_TIME;

mod pictures;

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running off-chain node.
struct Node {
    dir: tempfile::TempDir,
    uri: String,
    /// Killed when dropped.
    _program: Program,
}

impl Node {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (state, socket) = (dir.path().join("state"), dir.path().join("node.sock"));
        let listen = format!("127.0.0.1:{}", free_port().unwrap());
        let config = format!("state_dir = {state:?}\nstatus_socket = {socket:?}\n[serve]\nlisten = {listen:?}\n");
        let file = dir.path().join("node.toml");
        std::fs::write(&file, config).unwrap();
        let mut program = Program::start("millrace-node", &["--config", text(&file)], dir.path()).unwrap();
        let running = async || read_status(&socket).await.ok().filter(|status| status.mode == "run");
        program.wait_until(PATIENCE, running).await.unwrap();
        Self { dir, uri: format!("https://{listen}"), _program: program }
    }

    /// A push that listens; returns when it does.
    async fn push(&self, name: &str, listen: &str, more: &[&str]) -> Push {
        let out = self.dir.path().join(name);
        let mut args = vec!["gateway", "push", listen, "--out", text(&out), "--profiles", "144p"];
        args.extend(more);
        let logs = self.dir.path().join(format!("{name}.logs"));
        std::fs::create_dir_all(&logs).unwrap();
        let mut program = Program::start("millrace", &args, &logs).unwrap();
        let log = program.log().to_owned();
        let listening = async || std::fs::read_to_string(&log).ok().filter(|log| log.contains("waiting for a stream"));
        program.wait_until(PATIENCE, listening).await.unwrap();
        Push { program, out }
    }
}

/// A running push and what it writes.
struct Push {
    program: Program,
    out: PathBuf,
}

impl Push {
    /// Waits until it is over: its exit code and what it said.
    async fn over(&mut self) -> (Option<i32>, String) {
        let began = std::time::Instant::now();
        loop {
            if let Some(status) = self.program.ended().unwrap() {
                return (status.code(), std::fs::read_to_string(self.program.log()).unwrap());
            }
            assert!(began.elapsed() < PATIENCE, "still running: {}", self.program.log_tail());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn playlist(&self) -> String {
        std::fs::read_to_string(self.out.join("out/144p.m3u8")).unwrap_or_default()
    }

    /// The segments as sent, in order.
    fn sources(&self) -> Vec<PathBuf> {
        let mut files: Vec<_> = std::fs::read_dir(self.out.join("in")).unwrap().map(|e| e.unwrap().path()).collect();
        files.sort();
        files
    }
}

fn ffmpeg(args: &[&str]) -> Output {
    Command::new("ffmpeg").args(["-v", "error", "-nostdin"]).args(args).output().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn live_sources_become_ladders_verified_and_measured() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let node = Node::start().await;
    rtmp(&node).await;
    srt(&node).await;
    http(&node).await;
    bench(&node);
}

/// Four seconds by RTMP, faster than they play: every picture and every frame of sound arrives, and comes back.
async fn rtmp(node: &Node) {
    let clip = media::bunny();
    let url = format!("rtmp://127.0.0.1:{}/live/key", free_port().unwrap());
    let mut push = node.push("rtmp", &url, &["--orch", &node.uri, "--verify"]).await;
    let guess = ffmpeg(&["-i", text(&clip), "-c", "copy", "-f", "flv", &url.replace("/key", "/guess")]);
    assert!(!guess.status.success(), "a wrong key was let in");
    let pushed = ffmpeg(&["-i", text(&clip), "-c", "copy", "-f", "flv", &url]);
    assert!(pushed.status.success(), "{}", String::from_utf8_lossy(&pushed.stderr));
    let (code, said) = push.over().await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("2 segments, 0 false claims"), "{said}");
    let playlist = push.playlist();
    assert!(playlist.ends_with("#EXT-X-ENDLIST\n") && playlist.matches("#EXTINF:2.0").count() == 2, "{playlist}");
    let frames: usize = push.sources().iter().map(|source| media::frames(source).len()).sum();
    assert_eq!(frames, 120);
    let whole = media::aac_frames(&clip);
    let sound: Vec<String> = push.sources().iter().flat_map(|source| media::aac_frames(source)).collect();
    assert_eq!(sound, whole, "untouched, and in order");
    assert_eq!(media::frames(&push.out.join("out/144p.m3u8")).len(), 120);
}

/// Four seconds by SRT, as they play, with time enough to send again what a busy machine was too slow for.
async fn srt(node: &Node) {
    let port = free_port().unwrap();
    let more = ["--orch", &node.uri, "--idle", "20s", "--latency", "4s"];
    let mut push = node.push("srt", &format!("srt://127.0.0.1:{port}"), &more).await;
    let url = format!("srt://127.0.0.1:{port}?mode=caller&pkt_size=1316&latency=4000000&linger=10");
    let pushed = ffmpeg(&["-re", "-i", text(&media::bunny()), "-c", "copy", "-f", "mpegts", &url]);
    assert!(pushed.status.success(), "{}", String::from_utf8_lossy(&pushed.stderr));
    let (code, said) = push.over().await;
    assert_eq!(code, Some(0), "{said}");
    let frames: usize = push.sources().iter().map(|source| media::frames(source).len()).sum();
    // ffmpeg hangs up without waiting until its last packets have been sent.
    assert!((110..=120).contains(&frames), "{frames} {said}");
    assert!(push.playlist().ends_with("#EXT-X-ENDLIST\n"));
}

/// Segments by HTTP: from ffmpeg, and from a client that wants the renditions back. The orchestrator comes from a list,
/// where another one does not answer. Ctrl-C ends it.
async fn http(node: &Node) {
    let list = format!(r#"[{{"address":"https://127.0.0.1:1","score":1}},{{"address":"{}"}}]"#, node.uri);
    let webhook = serve_once_and_again(list);
    let address = format!("127.0.0.1:{}", free_port().unwrap());
    let mut push = node.push("http", &format!("http://{address}"), &["--webhook", &webhook, "--window", "2"]).await;
    let names = format!("http://{address}/live/stream/%d.ts");
    let index = format!("http://{address}/live/stream/index.m3u8");
    let clip = media::bunny();
    let hls = ["-f", "hls", "-hls_time", "2", "-hls_list_size", "0", "-method", "PUT", "-hls_segment_filename"];
    let pushed = ffmpeg(&[&["-i", text(&clip), "-c", "copy"], &hls[..], &[&names, &index]].concat());
    assert!(pushed.status.success(), "{}", String::from_utf8_lossy(&pushed.stderr));
    // It hangs up without waiting for the answer.
    let out = push.out.join("out/144p.m3u8");
    let came = async || std::fs::read_to_string(&out).ok().filter(|list| list.matches("#EXTINF").count() == 2);
    push.program.wait_until(PATIENCE, came).await.unwrap();
    let body = std::fs::read(push.sources().first().unwrap()).unwrap();
    let answer = put(&address, "/live/stream/7.ts", "Accept: multipart/mixed\r\nContent-Duration: 2000\r\n", &body);
    let split = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
    let head = String::from_utf8_lossy(&answer[..split]).to_lowercase();
    assert!(head.starts_with("http/1.1 200") && head.contains("content-type: multipart/mixed; boundary="), "{head}");
    let parts = String::from_utf8_lossy(&answer[split..]).into_owned();
    assert!(parts.contains("Rendition-Name: 144p") && parts.contains("filename=\"144p_7.ts\""), "{head}");
    let media = answer[split + 4..].windows(4).position(|w| w == b"\r\n\r\n").unwrap() + split + 8;
    let rendition = push.out.join("answer.ts");
    std::fs::write(&rendition, &answer[media..]).unwrap();
    assert_eq!(media::frames(&rendition).len(), 60);
    for (path, body, status) in [
        ("/live/other/8.ts", body.as_slice(), "409"),
        ("/elsewhere/8.ts", &body, "404"),
        ("/live/stream/8.ts", b"not a stream", "422"),
    ] {
        let answer = String::from_utf8_lossy(&put(&address, path, "", body)).into_owned();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {answer}");
    }
    assert!(!push.playlist().contains("ENDLIST") && push.playlist().contains("#EXT-X-MEDIA-SEQUENCE:1"));
    push.program.signal(Signal::SIGINT).unwrap();
    let (code, said) = push.over().await;
    assert_eq!(code, Some(0), "{said}");
    assert!(push.playlist().ends_with("#EXT-X-ENDLIST\n"), "{said}");
}

/// Two streams at this node, and at one that is not there.
fn bench(node: &Node) {
    let clip = media::bunny();
    let orchestrators = format!("{},https://127.0.0.1:1", node.uri);
    let args = ["gateway", "bench", text(&clip), "--orch", &orchestrators, "--streams", "2", "--duration", "4s"];
    let output = Command::new(bin("millrace")).args(args).args(["--profiles", "144p", "--json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "one of them returned nothing");
    let reports: Value = serde_json::from_slice(&output.stdout).unwrap();
    let real = &reports[0];
    assert_eq!(
        (&real["accepted"], &real["segments"], &real["returned"]),
        (&2.into(), &4.into(), &4.into()),
        "{real:#}"
    );
    assert!(
        real["score"].as_f64().unwrap() > 0.0 && real["latency_ms_p99"].as_u64() >= real["latency_ms_p50"].as_u64()
    );
    assert_eq!(real["pixels"], 4 * 60 * 256 * 144);
    let absent = &reports[1];
    assert_eq!(
        (&absent["accepted"], &absent["success_rate"], &absent["score"]),
        (&0.into(), &0.0.into(), &Value::Null)
    );
    assert!(absent["failures"][0]["error"].as_str().unwrap().contains("no connection"), "{absent:#}");
}

/// Serves this JSON at a URL for as long as the tests run.
fn serve_once_and_again(json: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/list", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 4096];
            let _ = stream.read(&mut request);
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", json.len());
            let _ = stream.write_all(format!("{head}{json}").as_bytes());
        }
    });
    url
}

/// One request on a connection of its own: the whole answer.
fn put(address: &str, path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let length = body.len();
    let head = format!(
        "PUT {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    // A refusal may come before all was sent.
    let _ = stream.write_all(body);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    answer
}

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of the tests are plain text")
}
