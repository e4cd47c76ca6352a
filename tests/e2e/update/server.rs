//! A server of files that does what servers and lines do when they go wrong.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// What goes wrong.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fault {
    /// Each connection breaks after so many bytes of a body.
    pub(crate) cut_after: Option<usize>,
    /// The first so many answers are 503.
    pub(crate) unavailable: usize,
    /// Ranges are not understood.
    pub(crate) no_ranges: bool,
    /// It states a length that is not the file's.
    pub(crate) length: Option<usize>,
    /// It sends so many bytes more than the file has, without stating a length.
    pub(crate) longer: usize,
    /// From the second request of a file on, it has these bytes instead.
    pub(crate) other: Option<Vec<u8>>,
    /// It does not say that it has other bytes: the same tag.
    pub(crate) secretly: bool,
    /// A part begins elsewhere than asked.
    pub(crate) wrong_start: bool,
    /// Send the client elsewhere first.
    pub(crate) redirect: bool,
}

/// What it was asked.
#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) requests: HashMap<String, usize>,
    pub(crate) body_bytes: usize,
    pub(crate) ranges: usize,
    /// Where the answers about the largest file began.
    pub(crate) starts: Vec<usize>,
}

pub(crate) struct Server {
    address: SocketAddr,
    pub(crate) log: Arc<Mutex<Log>>,
    serving: tokio::task::JoinHandle<()>,
}

impl Server {
    pub(crate) async fn start(dir: &Path, fault: Fault) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let log = Arc::new(Mutex::new(Log::default()));
        let (dir, noted) = (dir.to_owned(), Arc::clone(&log));
        let serving = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                let (dir, fault, noted) = (dir.clone(), fault.clone(), Arc::clone(&noted));
                // A client that goes away in the middle is the point of these tests.
                tokio::spawn(async move { answer(stream, dir, fault, noted).await.unwrap_or_default() });
            }
        });
        Self { address, log, serving }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/manifest.json", self.address)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn answer(stream: TcpStream, dir: PathBuf, fault: Fault, log: Arc<Mutex<Log>>) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        if line.trim().is_empty() {
            break;
        }
        head.push(line.trim().to_ascii_lowercase());
    }
    let path = head[0].split(' ').nth(1).unwrap_or_default().to_owned();
    let header = |name: &str| head.iter().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned());
    let seen = {
        let mut log = log.lock().unwrap();
        let seen = log.requests.entry(path.clone()).or_default();
        *seen += 1;
        *seen
    };
    let stream = stream.get_mut();
    if fault.redirect && !path.starts_with("/there/") {
        let head = format!("HTTP/1.1 302 Found\r\nlocation: /there{path}\r\ncontent-length: 0\r\n\r\n");
        return stream.write_all(head.as_bytes()).await;
    }
    if seen <= fault.unavailable {
        return stream.write_all(b"HTTP/1.1 503 Not Now\r\ncontent-length: 0\r\n\r\n").await;
    }
    // Names on the wire were made lower case; ours have no upper case.
    let Ok(mut bytes) = std::fs::read(dir.join(path.trim_start_matches("/there").trim_start_matches('/'))) else {
        return stream.write_all(b"HTTP/1.1 404 Not There\r\ncontent-length: 0\r\n\r\n").await;
    };
    let small = bytes.len() < 100_000;
    let mut tag = "\"one\"";
    if let Some(other) = fault.other.filter(|_| !small && seen > 1) {
        bytes = other;
        tag = if fault.secretly { tag } else { "\"two\"" };
    }
    let whole = bytes.len();
    let asked = header("range: bytes=").and_then(|range| range.trim_end_matches('-').parse::<usize>().ok());
    let same = header("if-range:").is_none_or(|expected| expected == tag);
    let start = asked.filter(|start| same && !fault.no_ranges && *start < whole);
    let (status, range) = match start {
        Some(start) => {
            log.lock().unwrap().ranges += 1;
            let told = if fault.wrong_start { start + 1 } else { start };
            ("206 Partial Content", format!("content-range: bytes {told}-{}/{whole}\r\n", whole - 1))
        }
        None => ("200 OK", String::new()),
    };
    if !small && path.contains(".root.raw") {
        log.lock().unwrap().starts.push(start.unwrap_or(0));
    }
    let mut body = bytes.split_off(start.unwrap_or(0));
    let faulty = !small;
    let length = match (fault.length, fault.longer) {
        (Some(length), _) if faulty => format!("content-length: {length}\r\n"),
        (_, longer) if faulty && longer > 0 => {
            body.extend(vec![7; longer]);
            String::new()
        }
        _ => format!("content-length: {}\r\n", body.len()),
    };
    let head = format!("HTTP/1.1 {status}\r\netag: {tag}\r\n{range}{length}connection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let cut = fault.cut_after.filter(|_| faulty).unwrap_or(body.len()).min(body.len());
    for piece in body[..cut].chunks(16 << 10) {
        stream.write_all(piece).await?;
        log.lock().unwrap().body_bytes += piece.len();
    }
    stream.shutdown().await
}
