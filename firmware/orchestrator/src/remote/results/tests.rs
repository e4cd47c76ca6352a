use std::sync::Arc;

use livepeer::multipart::write;
use service::Secret;

use super::*;
use crate::remote::RemoteConfig;

const SECRET: &str = "a secret nobody guesses";

struct Stage {
    remotes: Arc<Remotes>,
    memory: UploadMemory,
}

fn stage() -> Stage {
    let uri = "https://127.0.0.1:8935".parse().unwrap();
    let remotes = Remotes::new(&RemoteConfig::default(), Some(&Secret::new(SECRET.into())), &uri);
    Stage { remotes, memory: UploadMemory::new(32) }
}

impl Stage {
    /// A task of two renditions of at most a thousand bytes.
    fn task(&self, id: i64) -> oneshot::Receiver<Report> {
        let (reply, report) = oneshot::channel();
        let until = Instant::now() + Duration::from_secs(5);
        let task = Task { member: 1, reply, renditions: 2, files: 4, max_bytes: 1000, until };
        self.remotes.lock().tasks.insert(id, task);
        report
    }

    async fn post(&self, change: impl FnOnce(&mut HeaderMap), body: impl Into<Body>) -> (u16, String) {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("authorization", SCHEME),
            ("credentials", SECRET),
            ("taskid", "7"),
            ("pixels", "123"),
            ("content-type", "multipart/mixed; boundary=b"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        change(&mut headers);
        let (status, text) = receive(&self.remotes, &self.memory, &headers, &mut body.into()).await;
        (status.as_u16(), text.trim_end().to_owned())
    }
}

fn set(name: &'static str, value: &'static str) -> impl FnOnce(&mut HeaderMap) {
    move |headers| {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

fn unchanged(_: &mut HeaderMap) {}

fn rendition(media: &'static [u8], pixels: u64) -> (PartHead, Bytes) {
    let head = PartHead { content_type: "video/mp2t".into(), length: None, pixels: Some(pixels) };
    (head, Bytes::from_static(media))
}

fn signature(media: &'static [u8]) -> (PartHead, Bytes) {
    let head = PartHead { content_type: multipart::SIGNATURE.into(), ..PartHead::default() };
    (head, Bytes::from_static(media))
}

fn body(parts: &[(PartHead, Bytes)]) -> Body {
    Body::from(write("b", parts).concat())
}

#[tokio::test]
async fn renditions_arrive_in_order_each_with_its_signature() {
    let stage = stage();
    let report = stage.task(7);
    let parts = [rendition(b"one", 5), signature(b"hash"), rendition(b"two", 6)];
    assert_eq!(stage.post(unchanged, body(&parts)).await, (200, "OK".into()));
    let Report::Done { parts, decoded, memory } = report.await.unwrap() else { panic!("no renditions") };
    let seen: Vec<_> = parts.iter().map(|p| (&p.media[..], p.pixels, p.signature.as_deref())).collect();
    assert_eq!(seen, [(&b"one"[..], 5, Some(&b"hash"[..])), (b"two", 6, None)]);
    assert!(decoded == 123 && memory.is_some());
}

#[tokio::test]
async fn an_error_arrives_in_its_own_words() {
    let stage = stage();
    let report = stage.task(7);
    assert_eq!(stage.post(set("content-type", multipart::ERROR), "CUDA error\n").await.0, 200);
    assert!(matches!(report.await.unwrap(), Report::Said(text) if text == "CUDA error"));
}

#[tokio::test]
async fn whoever_does_not_know_the_secret_gets_nowhere() {
    let stage = stage();
    let mut report = stage.task(7);
    for (name, value) in [("credentials", "guess"), ("credentials", ""), ("authorization", "Basic x")] {
        assert_eq!(stage.post(set(name, value), body(&[rendition(b"one", 5)])).await, (401, "Unauthorized".into()));
    }
    assert!(report.try_recv().is_err(), "the task is still open");
    assert!(!Remotes::none().knows(b""));
}

#[tokio::test]
async fn a_result_for_no_task_or_a_second_one_is_ignored() {
    let stage = stage();
    let report = stage.task(7);
    let forged = body(&[rendition(b"forged", 5)]);
    assert_eq!(stage.post(set("taskid", "8"), forged).await, (200, "OK".into()));
    assert_eq!(stage.post(unchanged, body(&[rendition(b"true", 5)])).await.0, 200);
    assert_eq!(stage.post(unchanged, body(&[rendition(b"again", 5)])).await.0, 200);
    assert!(matches!(report.await.unwrap(), Report::Done { parts, .. } if &parts[0].media[..] == b"true"));
}

#[tokio::test]
async fn what_makes_no_sense_is_told_and_leaves_the_task_alone() {
    let stage = stage();
    let mut report = stage.task(7);
    for (name, value, status, text) in [
        ("taskid", "seven", 400, "Invalid Task ID"),
        ("pixels", "-1", 400, "Invalid Pixels"),
        ("pixels", "", 400, "Invalid Pixels"),
        ("content-type", "text/html", 415, "mime: unsupported media type"),
    ] {
        assert_eq!(stage.post(set(name, value), Body::empty()).await, (status, text.into()), "{name}");
    }
    assert!(report.try_recv().is_err());
}

#[tokio::test]
async fn a_hostile_body_costs_its_task_and_holds_nothing() {
    let large: &'static [u8] = &[0; 1001];
    let mut lying = write("b", &[rendition(b"one", 5)]).concat();
    let at = lying.windows(2).position(|pair| pair == b"3\r").unwrap();
    lying.splice(at..=at, *b"300000001");
    for (hostile, text) in [
        (body(&[signature(b"hash")]), "Unknown perceptual hash"),
        (body(&[rendition(large, 5)]), "input bigger than 1000 bytes"),
        (Body::from(lying), "input bigger than 1000 bytes"),
        (body(&[rendition(b"one", 5), rendition(b"two", 5), rendition(b"three", 5)]), "too many parts"),
        (
            body(&[rendition(b"1", 5), signature(b"h"), signature(b"h"), signature(b"h"), signature(b"h")]),
            "too many parts",
        ),
        (body(&[(PartHead { content_type: "text/html".into(), ..PartHead::default() }, Bytes::new())]), "unknown part"),
        (Body::from("--b\r\nPixels: 5\r\n\r\nhalf of i"), "multipart: unexpected end of body"),
        (Body::from("no boundary anywhere"), "multipart: boundary expected"),
    ] {
        let stage = stage();
        let report = stage.task(7);
        assert_eq!(stage.post(unchanged, hostile).await, (500, text.into()));
        assert!(matches!(report.await.unwrap(), Report::Broken(reason) if reason == text));
        let mut all = None;
        stage.memory.cover(&mut all, 32 << 20).expect("nothing is held any more");
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_is_waited_for_beyond_the_end_of_his_task() {
    let stage = stage();
    let report = stage.task(7);
    let silent = Body::from_stream(futures_util::stream::pending::<Result<Bytes, std::io::Error>>());
    assert_eq!(stage.post(unchanged, silent).await, (500, "too slow".into()));
    drop(report);
    let report = stage.task(7);
    let silent = Body::from_stream(futures_util::stream::pending::<Result<Bytes, std::io::Error>>());
    drop(report);
    assert_eq!(stage.post(unchanged, silent).await, (500, "nobody waits any more".into()));
}
