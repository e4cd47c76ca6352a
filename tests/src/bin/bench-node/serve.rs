//! The node under test: everything real but the transcoder.
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use livepeer::credentials::TokenKey;
use livepeer::units::Pixels;
use millrace_hal::LinuxClock;
use orchestrator::config::{MaxSessions, ServiceUri};
use orchestrator::pool::{Capacity, Output, TranscodeError, TranscodeRequest, Transcoded, Transcoder};
use orchestrator::{Config, Orchestrator, Parts};
use sandbox::message::Rendition;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::chain::{SimChain, SimSigner};

#[expect(dead_code, reason = "only its types are needed here: nobody pays")]
#[path = "../../../sim/redemption/chain.rs"]
mod chain;

/// Sessions and connections that the benchmark may have.
const SESSIONS: usize = 10_000;
const CONNECTIONS: usize = 20_000;
/// Frames said to be in every rendition, and its length.
const FRAMES: u64 = 60;
const LENGTH: usize = 250_000;

/// Has every rendition ready before it is asked.
#[derive(Debug)]
struct Ready(Bytes);

impl Transcoder for Ready {
    async fn transcode(&self, _session: &str, request: TranscodeRequest) -> Result<Transcoded, TranscodeError> {
        let renditions = request.profiles.iter().map(|profile| {
            let (width, height) = (profile.width, profile.height);
            let pixels = Pixels(u64::from(width) * u64::from(height) * FRAMES);
            let bytes = u64::try_from(self.0.len()).unwrap_or(u64::MAX);
            Output {
                rendition: Rendition { width, height, frames: FRAMES, pixels, bytes },
                media: self.0.clone(),
                signature: None,
            }
        });
        Ok(Transcoded {
            renditions: renditions.collect(),
            decoded_frames: FRAMES,
            decoded_pixels: Pixels(1280 * 720 * FRAMES),
            duration: Duration::from_secs(2),
            took: Duration::ZERO,
            cpu: Duration::ZERO,
        })
    }

    fn end_session(&self, _session: &str) {}

    fn capacity(&self) -> Capacity {
        Capacity { total: SESSIONS, busy: 0 }
    }
}

/// Serves until killed; the address goes to standard output.
pub(crate) async fn serve() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let service_uri = ServiceUri::of_listener(true, listener.local_addr()?);
    let config = Config { max_sessions: MaxSessions::Fixed(SESSIONS), ..Config::default() };
    let node = Orchestrator::<_, SimChain, SimSigner>::new(Parts {
        config,
        service_uri: service_uri.clone(),
        token_key: TokenKey::new([5; 32]),
        transcoder: Arc::new(Ready(Bytes::from(vec![0x47; LENGTH]))),
        proved: Box::new(|| vec!["mux-mp4".to_owned()]),
        till: None,
        remotes: orchestrator::remote::Remotes::none(),
        hardware: Box::new(Vec::new),
        clock: Arc::new(LinuxClock),
    });
    let (certificate, key) = orchestrator::tls::self_signed(dir.path(), "127.0.0.1")?;
    let tls = orchestrator::tls::server_config(&certificate, &key)?;
    println!("{service_uri}");
    let router = orchestrator::server::router(&node);
    let drain = Duration::from_secs(1);
    orchestrator::server::serve(router, listener, Some(tls), CONNECTIONS, drain, CancellationToken::new()).await;
    Ok(())
}
