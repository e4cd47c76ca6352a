//! The links of a transcoder to real orchestrators on loopback, both in this process, over the real wire.
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use livepeer::capability::CapabilitySet;
use livepeer::credentials::TokenKey;
use livepeer::profile::preset;
use livepeer::units::Pixels;
use millrace_hal::SimClock;
use orchestrator::config::ServiceUri;
use orchestrator::pool::{Capacity, Origin, Output, TranscodeError, TranscodeRequest, Transcoded, Transcoder};
use orchestrator::remote::{RemoteConfig, Remotes, Workforce};
use orchestrator::{Config, Orchestrator, Parts};
use sandbox::memfd::Sealed;
use sandbox::message::Rendition;
use service::Secret;
use sha2::Digest;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use transcoder::Outbound;

use super::{PATIENCE, SECRET};
use crate::sim_chain::{SimChain, SimSigner};

/// Ten frames of 320x240: what both sides take for a rendition.
const TS: &[u8] = include_bytes!("../../../firmware/orchestrator/src/remote/testdata/320x240.ts");
const PIXELS: u64 = 320 * 240 * 10;

/// Makes the same rendition of everything, and counts.
#[derive(Debug, Clone, Default)]
struct Scripted(Arc<AtomicUsize>);

impl Scripted {
    fn done(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Transcoder for Scripted {
    async fn transcode(&self, _session: &str, request: TranscodeRequest) -> Result<Transcoded, TranscodeError> {
        assert_eq!(request.segment.to_vec().unwrap(), b"a segment", "what was laid ready is what arrives");
        assert!(request.service_provider.ends_with("(0xabc)"), "{}", request.service_provider);
        self.0.fetch_add(1, Ordering::Relaxed);
        let bytes = u64::try_from(TS.len()).unwrap();
        let rendition = Rendition { width: 320, height: 240, frames: 10, pixels: Pixels(PIXELS), bytes };
        let signature = request.signatures.then(|| Bytes::from_static(b"a signature"));
        let output = Output { rendition, media: Bytes::from_static(TS), signature };
        Ok(Transcoded {
            renditions: vec![output; request.profiles.len()],
            decoded_frames: 10,
            decoded_pixels: Pixels(PIXELS),
            duration: Duration::from_secs(1),
            took: Duration::from_millis(1),
            cpu: Duration::from_millis(1),
        })
    }

    fn end_session(&self, _session: &str) {}

    fn capacity(&self) -> Capacity {
        Capacity { total: 4, busy: 0 }
    }
}

/// An orchestrator that is served on a port.
struct Served {
    address: SocketAddr,
    remotes: Arc<Remotes>,
    workforce: Arc<Workforce<Scripted>>,
    own: Scripted,
    fingerprint: String,
    stop: CancellationToken,
    server: JoinHandle<()>,
}

impl Served {
    async fn on(address: SocketAddr, secret: &str) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let service_uri = ServiceUri::of_listener(true, address);
        let remotes = Remotes::new(&RemoteConfig::default(), Some(&Secret::new(secret.into())), &service_uri);
        let own = Scripted::default();
        let workforce = Arc::new(Workforce::new(own.clone(), CapabilitySet::default, Arc::clone(&remotes)));
        let node: Arc<Orchestrator<_, SimChain, SimSigner>> = Orchestrator::new(Parts {
            config: Config::default(),
            service_uri,
            token_key: TokenKey::new([5; 32]),
            transcoder: Arc::clone(&workforce),
            proved: Box::new(Vec::new),
            till: None,
            remotes: Arc::clone(&remotes),
            hardware: Box::new(Vec::new),
            clock: Arc::new(SimClock::at(1_700_000_000)),
        });
        let dir = tempfile::tempdir().unwrap();
        let (certificate, key) = orchestrator::tls::self_signed(dir.path(), "127.0.0.1").unwrap();
        let tls = orchestrator::tls::server_config(&certificate, &key).unwrap();
        let pem = std::fs::read(&certificate).unwrap();
        let der = <rustls_pki_types::CertificateDer<'_> as rustls_pki_types::pem::PemObject>::from_pem_slice(&pem);
        let fingerprint = hex::encode(sha2::Sha256::digest(der.unwrap()));
        let stop = CancellationToken::new();
        let router = orchestrator::server::router(&node);
        let drain = Duration::from_secs(1);
        let server = tokio::spawn(orchestrator::server::serve(router, listener, Some(tls), 64, drain, stop.clone()));
        Self { address, remotes, workforce, own, fingerprint, stop, server }
    }

    async fn start(secret: &str) -> Self {
        Self::on(SocketAddr::from(([127, 0, 0, 1], 0)), secret).await
    }

    async fn end(self) -> SocketAddr {
        self.remotes.close();
        self.stop.cancel();
        self.server.await.unwrap();
        self.address
    }

    async fn segment(&self) -> Transcoded {
        self.workforce.transcode("5e55", request()).await.unwrap()
    }
}

fn request() -> TranscodeRequest {
    let mut profile = preset("240p").unwrap();
    (profile.width, profile.height) = (320, 240);
    let mut twin = profile.clone();
    twin.name.push_str("-twin");
    TranscodeRequest {
        segment: Sealed::from_bytes(b"a segment").unwrap(),
        profiles: vec![profile, twin],
        clip: None,
        deadline: Duration::from_secs(7),
        max_duration_ms: 300_000,
        max_output_bytes: 300_000_000,
        service_provider: "Livepeer Transcoder 0 (0xabc)".into(),
        origin: Origin { duration: Duration::from_secs(2), orchestrator: "0xabc".into(), ..Origin::default() },
        signatures: true,
    }
}

/// A transcoder with links to these orchestrators; stopped when dropped.
struct Attached {
    outbound: Outbound,
    scripted: Scripted,
    stop: CancellationToken,
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Attaches to these, each an address and further keys.
fn attach(targets: &[(SocketAddr, String)]) -> Attached {
    let tables = targets.iter().map(|(address, more)| format!("[[orchestrators]]\naddress = \"{address}\"\n{more}\n"));
    let config: transcoder::Config = toml::from_str(&tables.collect::<String>()).unwrap();
    config.check().unwrap();
    let (outbound, scripted, stop) = (Outbound::new(&config, 2), Scripted::default(), CancellationToken::new());
    let secrets = targets.iter().map(|_| Secret::new(SECRET.into())).collect();
    let (run, work, stopping) = (outbound.clone(), Arc::new(scripted.clone()), stop.clone());
    let can = Arc::new(|| [0_u32, 1].into_iter().collect());
    tokio::spawn(async move { run.run(&config, secrets, work, can, stopping).await.unwrap() });
    Attached { outbound, scripted, stop }
}

impl Attached {
    /// Waits until the links stand like this.
    async fn until(&self, wanted: &[&str]) {
        let stand = || self.outbound.status().into_iter().map(|link| link.state).collect::<Vec<_>>();
        let waiting = async {
            while stand() != wanted {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, waiting).await;
        waited.unwrap_or_else(|_| panic!("never {wanted:?}: {:?}", self.outbound.status()));
    }
}

#[tokio::test]
async fn a_segment_goes_out_and_comes_back_over_the_real_wire() {
    let one = Served::start(SECRET).await;
    let there = attach(&[(one.address, String::new())]);
    there.until(&["attached"]).await;
    for _ in 0..3 {
        let done = one.segment().await;
        assert_eq!(done.renditions.len(), 2);
        for output in &done.renditions {
            assert_eq!((&output.media[..], output.rendition.pixels), (TS, Pixels(PIXELS)));
            assert_eq!(output.signature.as_deref(), Some(&b"a signature"[..]));
        }
    }
    assert_eq!((there.scripted.done(), one.own.done()), (3, 0));
    assert_eq!(there.outbound.sessions(), (1, 2));
    one.workforce.end_session("5e55");
    let over = async {
        while there.outbound.sessions().0 > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, over).await.expect("the teardown arrives");
}

#[tokio::test]
async fn a_wrong_secret_is_told_and_the_next_orchestrator_has_the_box() {
    let (wrong, right) = (Served::start("another secret").await, Served::start(SECRET).await);
    let there = attach(&[(wrong.address, String::new()), (right.address, String::new())]);
    there.until(&["refused", "attached"]).await;
    assert_eq!(there.outbound.status()[0].error.as_deref(), Some("invalid secret"));
    assert_eq!((wrong.remotes.capacity().0, right.remotes.capacity().0), (0, 2));
    right.segment().await;
    assert_eq!((there.scripted.done(), right.own.done()), (1, 0));
}

#[tokio::test]
async fn the_preferred_orchestrator_is_returned_to() {
    let (first, second) = (Served::start(SECRET).await, Served::start(SECRET).await);
    let there = attach(&[(first.address, String::new()), (second.address, String::new())]);
    there.until(&["attached", "standby"]).await;
    let address = first.end().await;
    there.until(&["waiting", "attached"]).await;
    second.segment().await;
    assert_eq!(there.scripted.done(), 1);
    let first = Served::on(address, SECRET).await;
    there.until(&["attached", "standby"]).await;
    first.segment().await;
    assert_eq!((there.scripted.done(), first.own.done()), (2, 0));
    assert_eq!(second.remotes.capacity(), (0, 0), "one orchestrator at a time has the box");
}

#[tokio::test]
async fn a_pinned_certificate_is_the_only_one_believed() {
    let one = Served::start(SECRET).await;
    let pinned = format!("certificate_sha256 = \"{}\"", one.fingerprint);
    attach(&[(one.address, pinned)]).until(&["attached"]).await;
    let other = attach(&[(one.address, format!("certificate_sha256 = \"{}\"", "00".repeat(32)))]);
    other.until(&["waiting"]).await;
    let error = other.outbound.status()[0].error.clone().unwrap();
    assert!(error.contains("certificate"), "{error}");
}
