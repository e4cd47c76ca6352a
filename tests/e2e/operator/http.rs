//! HTTP as a script speaks it, and an exposition as Prometheus reads it.
use std::collections::BTreeMap;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// One request with exactly these headers; the answer's status and body.
pub(super) async fn ask(port: u16, method: &str, path: &str, headers: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let length = body.len();
    let kind = "Content-Type: application/x-www-form-urlencoded";
    let length = format!("Content-Length: {length}\r\nConnection: close");
    // In one piece: who is refused early is not listened to any more.
    let request = format!("{method} {path} HTTP/1.1\r\n{headers}{kind}\r\n{length}\r\n\r\n{body}");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer to {path}: {answer}"));
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

pub(super) async fn get(port: u16, path: &str) -> (u16, String) {
    ask(port, "GET", path, &format!("Host: localhost:{port}\r\n"), "").await
}

pub(super) async fn post(port: u16, path: &str, form: &str) -> (u16, String) {
    ask(port, "POST", path, &format!("Host: localhost:{port}\r\n"), form).await
}

pub(super) async fn json(port: u16, path: &str) -> Value {
    let (code, body) = get(port, path).await;
    assert_eq!(code, 200, "{path}: {body}");
    serde_json::from_str(&body).unwrap_or_else(|error| panic!("{path}: {error}: {body}"))
}

/// One sample: its labels and its value.
type Sample = (BTreeMap<String, String>, f64);

/// What a node exports.
#[derive(Debug)]
pub(super) struct Scrape {
    /// Names that are declared, with or without samples.
    pub(super) declared: BTreeMap<String, String>,
    /// Samples by name.
    pub(super) samples: BTreeMap<String, Vec<Sample>>,
}

impl Scrape {
    pub(super) async fn of(port: u16) -> Self {
        let (code, text) = get(port, "/metrics").await;
        assert_eq!(code, 200, "{text}");
        Self::read(&text)
    }

    fn read(text: &str) -> Self {
        let (mut declared, mut samples) = (BTreeMap::new(), BTreeMap::<String, Vec<Sample>>::new());
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert!(declared.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} is declared twice");
            } else if !line.starts_with('#') {
                let (head, value) = line.rsplit_once(' ').unwrap();
                let (name, labels) = head.split_once('{').unwrap_or((head, "}"));
                let labels = labels.strip_suffix('}').unwrap();
                let pairs = labels.split("\",").filter(|pair| !pair.is_empty());
                let labels = pairs.map(|pair| {
                    let (name, value) = pair.split_once("=\"").unwrap();
                    (name.to_owned(), value.trim_end_matches('"').to_owned())
                });
                let value = if value == "+Inf" { f64::INFINITY } else { value.parse().unwrap() };
                samples.entry(name.to_owned()).or_default().push((labels.collect(), value));
            }
        }
        Self { declared, samples }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.samples.contains_key(name)
    }

    /// The value of a name with one sample.
    pub(super) fn value(&self, name: &str) -> f64 {
        self.one(name, &[])
    }

    /// The value of the one sample with such labels.
    pub(super) fn one(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let all = self.samples.get(name).unwrap_or_else(|| panic!("{name} is not exported"));
        let has = |sample: &&Sample| labels.iter().all(|(key, value)| sample.0.get(*key).is_some_and(|is| is == value));
        let found: Vec<_> = all.iter().filter(has).collect();
        match found.as_slice() {
            [(_, value)] => *value,
            _ => panic!("{name} {labels:?}: {all:?}"),
        }
    }

    /// The labels of the first sample.
    pub(super) fn labels(&self, name: &str) -> &BTreeMap<String, String> {
        &self.samples.get(name).unwrap_or_else(|| panic!("{name} is not exported")).first().unwrap().0
    }
}
