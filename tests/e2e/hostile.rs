//! Peers that mean harm, against the real node: each is refused or cut off as `docs/threat-model.md` has it, an honest
//! gateway is served meanwhile, and afterwards nothing of them is left in the node.
//!
//! No clock decides here: an attacker waits until it is cut off, however long that takes, and what is measured is what
//! the node holds.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod crowd;
mod floods;
mod frames;
mod money;
mod results;
mod slow;
mod urls;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use http::Request;
use http_body_util::{BodyExt, Full};
use livepeer::wire::net;
use tokio::net::{TcpSocket, TcpStream};

use crate::node::peer::{Speak, Upload, data, discover_from, open_from, result};
use crate::node::{Node, film, ladder};

/// How long a node may take to be rid of somebody; the longest limit is 40 seconds.
const PATIENCE: Duration = Duration::from_secs(120);
/// Where the honest gateway is: a peer shares its address's connections with whoever else is there.
const HONEST: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// What the node may hold more than before when all are gone: what the allocator keeps, far below what any of the
/// attacks asks for.
const KEPT: u64 = 48 << 20;

/// A node to be attacked.
struct Victim {
    node: Node,
    address: SocketAddr,
    before: u64,
    dir: tempfile::TempDir,
}

impl Victim {
    /// Starts it, warmed up by a segment.
    async fn start(config: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let node = Node::start(dir.path(), config).await;
        let address = node.uri.split("://").nth(1).unwrap().parse().unwrap();
        let mut victim = Self { node, address, before: 0, dir };
        victim.honest().await;
        victim.before = victim.memory();
        victim
    }

    /// A gateway that means well gets an offer, a segment transcoded, and its renditions.
    async fn honest(&self) -> net::TranscodeResult {
        let uri = &self.node.uri;
        let token = discover_from(HONEST, uri).await.unwrap().auth_token.unwrap();
        let upload = Upload::new(&token, 0, film(), &ladder());
        let request = upload.request(uri, Speak::Http2, "/segment");
        let done = result(open_from(HONEST, uri, Speak::Http2, request).await).await;
        for rendition in &data(&done).segments {
            let request = Request::get(&rendition.url).body(Full::default()).unwrap();
            let response = open_from(HONEST, uri, Speak::Http2, request).await;
            assert_eq!(response.status(), 200);
            assert!(response.into_body().collect().await.unwrap().to_bytes().len() > 1000);
        }
        let end = net::EndTranscodingSessionRequest { auth_token: Some(token) };
        let ended: Result<net::EndTranscodingSessionResponse, String> =
            crate::node::peer::call_from(HONEST, uri, "EndTranscodingSession", &end).await;
        ended.unwrap();
        done
    }

    /// A connection from an address of this machine.
    async fn connect_from(&self, source: Ipv4Addr) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((source, 0).into()).unwrap();
        socket.connect(self.address).await.unwrap()
    }

    async fn connect(&self) -> TcpStream {
        self.connect_from(Ipv4Addr::LOCALHOST).await
    }

    /// Resident memory in bytes.
    fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.node.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }

    /// Connections that it has accepted and not closed.
    fn connections(&self) -> usize {
        const LISTEN: &str = "0A";
        let table = std::fs::read_to_string(format!("/proc/{}/net/tcp", self.node.pid())).unwrap();
        let port = format!(":{:04X}", self.address.port());
        let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let ours = rows.filter(|row| row.get(1).is_some_and(|local| local.ends_with(&port)) && row[3] != LISTEN);
        let sockets: Vec<String> = ours.map(|row| format!("socket:[{}]", row[9])).collect();
        let open = std::fs::read_dir(format!("/proc/{}/fd", self.node.pid())).unwrap();
        let names = open.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
        names.into_iter().filter(|name| sockets.iter().any(|socket| name == Path::new(socket))).count()
    }

    /// Waits until it has as many connections as that, or fewer.
    async fn connections_fall_to(&self, most: usize) {
        let since = Instant::now();
        while self.connections() > most {
            assert!(since.elapsed() < PATIENCE, "{} connections are left", self.connections());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// All who attacked are gone: so is what the node held for them, it serves on, and nothing in it broke.
    async fn is_unharmed(&self) {
        self.honest().await;
        self.connections_fall_to(0).await;
        let status = self.node.until(|status| status.sessions.active == 0).await;
        assert_eq!((status.mode.as_str(), status.workers.lost), ("run", 0), "{status:?}");
        let memory = self.memory();
        assert!(memory < self.before + KEPT, "{} MiB, before it were {}", memory >> 20, self.before >> 20);
        let log = std::fs::read_to_string(self.dir.path().join("log")).unwrap();
        assert!(!log.contains("panicked"), "{log}");
    }
}
