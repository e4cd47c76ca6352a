//! `just bench node`: what the node adds to the work of a transcoder.
//!
//! A node is started as a process of its own: the real orchestrator behind the real server, TLS included, with a
//! transcoder that returns ready renditions at once. So the time from the first byte of an upload to the last byte of
//! the result is all ours. This process plays the gateways, on the same machine: its own work is in the figures too.
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on panics")]

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::{BufMut, Bytes, BytesMut};
use clap::{Parser, Subcommand};
use futures_util::future::join_all;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use livepeer::profile::{Profile, preset};
use livepeer::wire::net;
use prost::Message;
use rustls::pki_types::ServerName;
use serde::Serialize;
use tokio::net::TcpStream;

use self::peer::{Speak, Upload};

#[expect(dead_code, reason = "the end-to-end tests use more of it")]
#[path = "../../e2e/node/peer.rs"]
mod peer;
#[path = "bench-node/serve.rs"]
mod serve;

/// Measure what the node adds to transcoding.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    role: Option<Role>,
    /// Streams at once, one measurement each.
    #[arg(long, value_delimiter = ',', default_value = "1,10,100")]
    streams: Vec<usize>,
    /// How long each measurement runs, in seconds.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Length of a segment in bytes.
    #[arg(long, default_value_t = 1_000_000)]
    bytes: usize,
    /// Gateways that are connected and do nothing.
    #[arg(long, default_value_t = 1000)]
    idle: usize,
    /// Calls of GetOrchestrator.
    #[arg(long, default_value_t = 500)]
    calls: usize,
}

#[derive(Debug, Clone, Subcommand)]
enum Role {
    /// The node under test; started by the benchmark.
    #[command(hide = true)]
    Serve,
}

#[derive(Debug, Serialize)]
struct Figure {
    measure: String,
    value: f64,
    unit: &'static str,
    against: &'static str,
    command: String,
}

/// A stream sends one segment in this time, as a live source does. One alone goes faster, to have enough of them.
const SEGMENT: Duration = Duration::from_secs(2);
const ALONE: Duration = Duration::from_millis(100);
/// First segments, which open sessions and connections, are not counted.
const WARM_UP: usize = 2;

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (_, most) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)?;
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, most, most)?;
    let runtime = tokio::runtime::Runtime::new()?;
    match arguments.role {
        Some(Role::Serve) => runtime.block_on(serve::serve()),
        None => runtime.block_on(measure(&arguments)),
    }
}

async fn measure(arguments: &Arguments) -> anyhow::Result<()> {
    let mut figures = Vec::new();
    let mut figure = |measure: String, value: f64, unit| {
        let command = "just bench node".to_owned();
        figures.push(Figure { measure, value, unit, against: "", command });
    };
    for &streams in &arguments.streams {
        let node = Node::start()?;
        let (trips, cpu) = overhead(&node, streams, arguments).await;
        figure(format!("node_overhead_ms_p50_{streams}"), percentile(&trips, 50), "ms");
        figure(format!("node_overhead_ms_p99_{streams}"), percentile(&trips, 99), "ms");
        figure(format!("node_overhead_segments_{streams}"), trips.len() as f64, "");
        figure(format!("node_cpu_ms_per_segment_{streams}"), cpu, "ms");
    }
    let node = Node::start()?;
    let (fresh, warm) = offers(&node, arguments.calls).await;
    figure("get_orchestrator_ms_p50".into(), percentile(&fresh, 50), "ms");
    figure("get_orchestrator_ms_p99".into(), percentile(&fresh, 99), "ms");
    figure("get_orchestrator_connected_ms_p99".into(), percentile(&warm, 99), "ms");
    let node = Node::start()?;
    let before = node.memory();
    let mut held = Vec::new();
    for _ in 0..arguments.idle {
        let mut gateway = connect(&node.uri).await;
        offer(&mut gateway, &node.uri).await;
        held.push(gateway);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let alive = held.iter().filter(|gateway| gateway.is_ready()).count();
    let idle = arguments.idle;
    figure(format!("idle_{idle}_connections"), alive as f64, "");
    figure(format!("idle_{idle}_rss_mb"), node.memory() as f64 / 1e6, "MB");
    figure(format!("idle_{idle}_kb_per_connection"), (node.memory() - before) as f64 / 1e3 / idle.max(1) as f64, "kB");
    figure("idle_0_rss_mb".into(), before as f64 / 1e6, "MB");

    print(&arguments.streams, &figures)?;
    let out = PathBuf::from("target/bench");
    std::fs::create_dir_all(&out)?;
    std::fs::write(out.join("node.json"), serde_json::to_vec_pretty(&figures)?)?;
    Ok(())
}

/// Prints the figures as they go into `firmware/docs/performance.md`.
fn print(streams: &[usize], figures: &[Figure]) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    let value = |name: String| figures.iter().find(|figure| figure.measure == name).map_or(f64::NAN, |f| f.value);
    writeln!(out, "| Streams | p50 ms | p99 ms | Segments | CPU ms per segment |\n|---|---|---|---|---|")?;
    for number in streams {
        let [p50, p99, segments] =
            ["ms_p50", "ms_p99", "segments"].map(|of| value(format!("node_overhead_{of}_{number}")));
        let cpu = value(format!("node_cpu_ms_per_segment_{number}"));
        writeln!(out, "| {number} | {p50:.1} | {p99:.1} | {segments:.0} | {cpu:.2} |")?;
    }
    writeln!(out, "\n| Measure | Value |\n|---|---|")?;
    let others = figures.iter().filter(|figure| !figure.measure.starts_with("node_"));
    for Figure { measure, value, unit, .. } in others {
        writeln!(out, "| `{measure}` | {value:.1} {unit} |")?;
    }
    Ok(())
}

/// The node under test; killed when dropped.
struct Node {
    child: Child,
    uri: String,
}

impl Node {
    fn start() -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?).arg("serve").stdout(Stdio::piped()).spawn()?;
        let mut uri = String::new();
        BufReader::new(child.stdout.take().context("the node's output")?).read_line(&mut uri)?;
        Ok(Self { child, uri: uri.trim().to_owned() })
    }

    /// Resident memory in bytes.
    fn memory(&self) -> i64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<i64>().unwrap() * 1024
    }

    /// Processor time used so far.
    fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields = stat.rsplit_once(')').unwrap().1.split_whitespace().skip(11).take(2);
        let ticks: u64 = fields.map(|field| field.parse::<u64>().unwrap()).sum();
        Duration::from_millis(ticks * 10)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

type Gateway = SendRequest<Full<Bytes>>;

/// A connection as a gateway makes it: TLS, HTTP/2.
async fn connect(uri: &str) -> Gateway {
    let address = uri.trim_start_matches("https://");
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let stream = tokio_rustls::TlsConnector::from(peer::tls(Speak::Http2)).connect(name, stream).await.unwrap();
    let (send, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    send
}

async fn offer(gateway: &mut Gateway, uri: &str) -> net::OrchestratorInfo {
    let question = net::OrchestratorRequest {
        address: vec![0; 20],
        capabilities: Some(net::Capabilities::default()),
        ..net::OrchestratorRequest::default()
    };
    let message = question.encode_to_vec();
    let mut body = BytesMut::new();
    body.put_u8(0);
    body.put_u32(u32::try_from(message.len()).unwrap());
    body.extend_from_slice(&message);
    let request = Request::post(format!("{uri}/net.Orchestrator/GetOrchestrator"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(body.freeze()))
        .unwrap();
    let response = gateway.send_request(request).await.unwrap();
    let answer = response.into_body().collect().await.unwrap().to_bytes();
    net::OrchestratorInfo::decode(answer.slice(5..)).unwrap()
}

/// How long an offer takes over a new connection, as gateways ask for it, and over an old one.
async fn offers(node: &Node, calls: usize) -> (Vec<f64>, Vec<f64>) {
    let (mut fresh, mut warm) = (Vec::new(), Vec::new());
    let mut held = connect(&node.uri).await;
    for _ in 0..calls {
        let begun = Instant::now();
        let mut gateway = connect(&node.uri).await;
        offer(&mut gateway, &node.uri).await;
        fresh.push(begun.elapsed().as_secs_f64() * 1e3);
        let begun = Instant::now();
        offer(&mut held, &node.uri).await;
        warm.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    (fresh, warm)
}

/// Round trips of all streams, in milliseconds, and the node's processor time per segment.
async fn overhead(node: &Node, streams: usize, arguments: &Arguments) -> (Vec<f64>, f64) {
    let every = if streams == 1 { ALONE } else { SEGMENT };
    let content = Bytes::from((0..=250_u8).cycle().step_by(31).take(arguments.bytes).collect::<Vec<u8>>());
    let ladder: Vec<Profile> = ["240p", "360p", "480p", "720p"].iter().map(|name| preset(name).unwrap()).collect();
    let begun = tokio::time::Instant::now() + Duration::from_secs(1);
    let end = begun + Duration::from_secs(arguments.seconds);
    let before = node.cpu();
    let running = (0..streams).map(|number| {
        let (uri, content, ladder) = (node.uri.clone(), content.clone(), ladder.clone());
        let phase = every.mul_f64(number as f64 / streams as f64);
        tokio::spawn(async move {
            let mut gateway = connect(&uri).await;
            let token = offer(&mut gateway, &uri).await.auth_token.unwrap();
            // The digest is made once: gateways make it before the clock runs.
            let mut upload = Upload::new(&token, 0, content, &ladder);
            let mut trips = Vec::new();
            let mut due = begun + phase;
            while due < end {
                tokio::time::sleep_until(due).await;
                let request = upload.request(&uri, Speak::Http2, "/segment");
                let sent = Instant::now();
                let response = gateway.send_request(request).await.unwrap();
                assert_eq!(response.status(), 200);
                let body = response.into_body().collect().await.unwrap().to_bytes();
                trips.push(sent.elapsed().as_secs_f64() * 1e3);
                let result = net::TranscodeResult::decode(body).unwrap();
                assert_eq!(peer::data(&result).segments.len(), ladder.len());
                upload.data.seq += 1;
                due += every;
            }
            trips.split_off(WARM_UP.min(trips.len()))
        })
    });
    let trips: Vec<f64> = join_all(running).await.into_iter().flat_map(Result::unwrap).collect();
    let cpu = (node.cpu() - before).as_secs_f64() * 1e3;
    let segments = trips.len() + WARM_UP * streams;
    (trips, cpu / segments as f64)
}

/// Nearest rank.
fn percentile(values: &[f64], per_cent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * per_cent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(f64::NAN)
}
