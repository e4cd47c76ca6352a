//! A transcoder that knows the secret and lies, and one that does not.
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use livepeer::multipart::{self, PartHead};
use livepeer::wire::net;
use prost::Message;
use tokio::io::AsyncWriteExt;

use super::{PATIENCE, Victim};
use crate::node::peer::{Speak, data, open, question, told};

const SECRET: &str = "the boxes know it";
/// Ten frames of 320x240.
const TS: &[u8] = include_bytes!("../../../firmware/orchestrator/src/remote/testdata/320x240.ts");
const PIXELS: u64 = 320 * 240 * 10;

/// A transcoder of ours that is attached.
struct Attached {
    notices: Incoming,
    read: Vec<u8>,
}

impl Attached {
    async fn to(victim: &Victim) -> Self {
        let asked = net::RegisterRequest { secret: SECRET.to_owned(), capacity: 5, capabilities: None };
        let request = question(&victim.node.uri, "Transcoder/RegisterTranscoder", &asked);
        let response = open(&victim.node.uri, Speak::Http2, request).await;
        assert_eq!(response.status(), 200);
        victim.node.until(|status| status.transcoders.len() == 1).await;
        Self { notices: response.into_body(), read: Vec::new() }
    }

    /// The next segment it is to transcode.
    async fn segment(&mut self) -> net::NotifySegment {
        loop {
            if let Some(length) = self.read.get(1..5) {
                let end = 5 + usize::try_from(u32::from_be_bytes(length.try_into().unwrap())).unwrap();
                if let Some(message) = self.read.get(5..end) {
                    let notice = net::NotifySegment::decode(message).unwrap();
                    self.read.drain(..end);
                    if !notice.url.is_empty() {
                        return notice;
                    }
                    continue;
                }
            }
            let frame = self.notices.frame().await.expect("a notice").unwrap();
            self.read.extend_from_slice(&frame.into_data().unwrap_or_default());
        }
    }
}

/// An answer that is right in all but what the test spoils.
struct Answer {
    secret: &'static str,
    scheme: &'static str,
    task: String,
    pixels: &'static str,
    kind: &'static str,
    body: Bytes,
}

impl Answer {
    /// So many parts of these media, each claiming so many pixels.
    fn parts(task: i64, parts: usize, media: &Bytes, claimed: u64) -> Self {
        let head = PartHead { content_type: "video/mp2t".to_owned(), pixels: Some(claimed), ..PartHead::default() };
        let body = multipart::write("b0undary", &vec![(head, media.clone()); parts]).concat();
        let kind = "multipart/mixed; boundary=b0undary";
        Self {
            secret: SECRET,
            scheme: "Livepeer-Transcoder-1.0",
            task: task.to_string(),
            pixels: "1",
            kind,
            body: body.into(),
        }
    }

    fn request(&self, uri: &str) -> Request<Full<Bytes>> {
        Request::post(format!("{uri}/transcodeResults"))
            .header("Authorization", self.scheme)
            .header("Credentials", self.secret)
            .header("TaskId", &self.task)
            .header("Pixels", self.pixels)
            .header("Content-Type", self.kind)
            .body(Full::new(self.body.clone()))
            .unwrap()
    }

    async fn post(&self, victim: &Victim) -> (u16, String) {
        told(open(&victim.node.uri, Speak::Http2, self.request(&victim.node.uri)).await).await
    }
}

/// A gateway's segment is done, by whom ever, and counted right.
async fn served(victim: &Victim) {
    let done = victim.honest().await;
    let pixels: Vec<i64> = data(&done).segments.iter().map(|rendition| rendition.pixels).collect();
    assert_eq!(pixels, [256 * 144 * 30, 160 * 90 * 30]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forged_result_is_found_out_and_the_segment_done_by_somebody_else() {
    use std::os::unix::fs::PermissionsExt;
    let kept = tempfile::tempdir().unwrap();
    let secret = kept.path().join("secret");
    std::fs::write(&secret, format!("{SECRET}\n")).unwrap();
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    let serve = "[serve]\nlisten = \"http://127.0.0.1:0\"\nmax_sessions = 3\nupload_memory_mib = 32\n";
    let victim = Victim::start(&format!("{serve}[remote]\nsecret_file = {secret:?}\n")).await;
    let ts = Bytes::from_static(TS);
    let ok = (200, "OK\n".to_owned());

    // Who does not know the secret gets nowhere, whatever the task.
    for (secret, scheme) in [("", "Livepeer-Transcoder-1.0"), ("guess", "Livepeer-Transcoder-1.0"), (SECRET, "Basic")] {
        let answer = Answer { secret, scheme, ..Answer::parts(1, 2, &ts, PIXELS) };
        assert_eq!(answer.post(&victim).await, (401, "Unauthorized\n".to_owned()));
    }
    let asked = net::RegisterRequest { secret: "guess".to_owned(), capacity: 5, capabilities: None };
    let refused =
        open(&victim.node.uri, Speak::Http2, question(&victim.node.uri, "Transcoder/RegisterTranscoder", &asked));
    assert_eq!(refused.await.headers()["grpc-message"], "invalid%20secret");

    // Around the task, and made-up pixels.
    let mut forger = Attached::to(&victim).await;
    let forging = async {
        let task = forger.segment().await.task_id;
        let good = || Answer::parts(task, 2, &ts, PIXELS);
        assert_eq!(Answer { secret: "guess", ..good() }.post(&victim).await.0, 401);
        for other in [task + 1, 0, -task] {
            assert_eq!(Answer { task: other.to_string(), ..good() }.post(&victim).await, ok, "nobody's task");
        }
        for nonsense in ["", "task", "99999999999999999999"] {
            let told = Answer { task: nonsense.to_owned(), ..good() }.post(&victim).await;
            assert_eq!(told, (400, "Invalid Task ID\n".to_owned()));
        }
        for nonsense in ["", "-1", "99999999999999999999"] {
            let told = Answer { pixels: nonsense, ..good() }.post(&victim).await;
            assert_eq!(told, (400, "Invalid Pixels\n".to_owned()));
        }
        assert_eq!(Answer { kind: "text/html", ..good() }.post(&victim).await.0, 415);
        // What was asked for is smaller than this, and it claims more than it has.
        assert_eq!(Answer::parts(task, 2, &ts, 100 * PIXELS).post(&victim).await, ok);
        // Again, and late.
        assert_eq!(good().post(&victim).await, ok);
        task
    };
    let ((), task) = tokio::join!(served(&victim), forging);
    assert_eq!(Answer::parts(task, 2, &ts, PIXELS).post(&victim).await, ok, "finished long ago");

    // Parts without end.
    let forging = async {
        let task = forger.segment().await.task_id;
        let told = Answer::parts(task, 5, &ts, PIXELS).post(&victim).await;
        assert_eq!(told, (500, "too many parts\n".to_owned()));
    };
    tokio::join!(served(&victim), forging);
    let status = victim.node.until(|status| status.transcoders[0].segments_failed == 2).await;
    assert_eq!((status.transcoders[0].standing.as_str(), status.transcoders[0].segments_ok), ("benched", 0));
    drop(forger);
    victim.node.until(|status| status.transcoders.is_empty()).await;

    // More than uploads may hold together, and an answer that never ends.
    let mut forger = Attached::to(&victim).await;
    let forging = async {
        let task = forger.segment().await.task_id;
        let told = Answer::parts(task, 1, &Bytes::from(vec![0x47; 40 << 20]), PIXELS).post(&victim).await;
        assert_eq!(told, (500, "uploads hold all the memory they may\n".to_owned()));
    };
    tokio::join!(served(&victim), forging);
    let forging = async {
        let task = forger.segment().await.task_id;
        let mut stream = victim.connect().await;
        let head = format!(
            "POST /transcodeResults HTTP/1.1\r\nhost: node\r\nAuthorization: Livepeer-Transcoder-1.0\r\n\
             Credentials: {SECRET}\r\nTaskId: {task}\r\nPixels: 1\r\ncontent-length: 1000000\r\n\
             Content-Type: multipart/mixed; boundary=b0undary\r\n\r\n--b0undary\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut said = String::new();
        tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut said).await.unwrap();
        assert!(said.starts_with("HTTP/1.1 500 "), "{said}");
    };
    let both = async { tokio::join!(served(&victim), forging) };
    tokio::time::timeout(PATIENCE, both).await.expect("it is not waited for");
    drop(forger);
    victim.node.until(|status| status.transcoders.is_empty()).await;
    victim.is_unharmed().await;
}
