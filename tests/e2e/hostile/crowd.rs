//! More connections than there is room for.
use std::net::Ipv4Addr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{PATIENCE, Victim};

/// As few as can be set, and a quarter of them for one address.
const CONFIG: &str = "[serve]\nlisten = \"http://127.0.0.1:0\"\nmax_sessions = 3\nmax_connections = 16\n";
const MOST: usize = 16;
const SHARE: usize = MOST / 4;

impl Victim {
    /// So many connections from an address.
    async fn crowd(&self, source: Ipv4Addr, count: usize) -> Vec<TcpStream> {
        let mut crowd = Vec::new();
        for _ in 0..count {
            crowd.push(self.connect_from(source).await);
        }
        crowd
    }
}

/// Is this connection still open?
async fn is_served(stream: &mut TcpStream) -> bool {
    let asked = stream.write_all(b"GET / HTTP/1.1\r\nhost: node\r\n\r\n").await;
    let mut answer = [0; 12];
    asked.is_ok() && stream.read_exact(&mut answer).await.is_ok() && answer.starts_with(b"HTTP/1.1 404")
}

#[tokio::test]
async fn one_address_gets_its_share_of_all_connections_and_the_rest_are_let_go() {
    let victim = Victim::start(CONFIG).await;
    let mut crowd = victim.crowd(Ipv4Addr::LOCALHOST, 10 * MOST).await;
    let mut served = 0;
    for stream in &mut crowd {
        served += usize::from(tokio::time::timeout(PATIENCE, is_served(stream)).await.expect("it is told"));
    }
    assert_eq!(served, SHARE);
    victim.connections_fall_to(SHARE).await;
    victim.honest().await;
    drop(crowd);
    victim.is_unharmed().await;
}

#[tokio::test]
async fn when_all_places_are_taken_they_become_free_again_without_the_peers_help() {
    let victim = Victim::start(CONFIG).await;
    let mut crowd = Vec::new();
    for last in 3..7 {
        crowd.extend(victim.crowd(Ipv4Addr::new(127, 0, 0, last), SHARE).await);
    }
    let full = async {
        while victim.connections() < MOST {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, full).await.expect("all places are taken");
    // Whoever comes now waits in line, until those who ask for nothing are sent away.
    tokio::time::timeout(PATIENCE, victim.honest()).await.expect("it is served");
    drop(crowd);
    victim.is_unharmed().await;
}
