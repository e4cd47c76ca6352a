//! A gateway on this host that pays the machine with tickets that all win, and remembers which were acknowledged.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use gateway::{Gateway, GatewayConfig, OfferLimits, Session, SignerError, TicketSigner, Upload, needs};
use http::Uri;
use livepeer::address::{Address, H256, keccak256};
use livepeer::profile::{Profile, preset};
use livepeer::signature::{Signature, SigningKey};
use livepeer::units::Wei;
use tokio::task::JoinHandle;

use crate::site;

/// Between attempts while the box does not serve.
const AGAIN: Duration = Duration::from_millis(300);
/// Most that it pays for a segment: tickets that all win must each be worth their redemption.
const MOST_WEI: u64 = 1_000_000_000_000_000;
/// The one rendition asked for.
const PROFILE: &str = "P144p30fps16x9";

/// Who pays.
#[derive(Debug)]
pub(crate) struct Payer {
    key: SigningKey,
    tickets: Mutex<Tickets>,
}

#[derive(Debug, Default)]
struct Tickets {
    /// Signed for the segment that is on its way.
    sent: Vec<H256>,
    /// Of segments that came back: the box took them.
    acknowledged: Vec<H256>,
    segments: u64,
    /// Why the last stream ended.
    ended: String,
}

impl Payer {
    /// One with a new key.
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { key: SigningKey::generate(&mut rand::rngs::OsRng), tickets: Mutex::default() })
    }

    /// All tickets that the box has acknowledged, and with how many segments.
    pub(crate) fn acknowledged(&self) -> (Vec<H256>, u64) {
        let tickets = self.tickets();
        (tickets.acknowledged.clone(), tickets.segments)
    }

    fn ended_with(&self, ended: String) {
        let mut tickets = self.tickets();
        if tickets.ended != ended {
            eprintln!("image-test: the paying gateway: {ended}");
            tickets.ended = ended;
        }
    }

    /// Why the last stream ended.
    pub(crate) fn ended(&self) -> String {
        self.tickets().ended.clone()
    }

    fn tickets(&self) -> MutexGuard<'_, Tickets> {
        self.tickets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Pay and push, over and over, until the task is aborted.
    pub(crate) fn push(
        self: &Arc<Self>,
        runtime: &tokio::runtime::Runtime,
        port: u16,
        dir: PathBuf,
    ) -> Result<Pushing> {
        std::fs::create_dir_all(&dir)?;
        let clip = std::fs::read(site::clip())?;
        let mut uploads = Vec::new();
        for (segment, seq) in mpegts::segment::cut(&clip, 1000)?.into_iter().zip(0..) {
            uploads.push(Upload {
                seq,
                hash: keccak256(&segment.bytes),
                duration: Duration::from_millis(segment.duration_ms),
                bytes: segment.bytes.into(),
                targets: vec![dir.join("rendition.ts")],
            });
        }
        let uri: Uri = format!("https://127.0.0.1:{port}").parse()?;
        let profile = preset(PROFILE).context("a profile of the network")?;
        let this = Arc::clone(self);
        Ok(Pushing(runtime.spawn(async move {
            loop {
                let ended = this.stream(&uri, &profile, &uploads).await;
                this.ended_with(ended);
                tokio::time::sleep(AGAIN).await;
            }
        })))
    }

    /// One stream, for as long as segments come back; why it ended.
    async fn stream(self: &Arc<Self>, uri: &Uri, profile: &Profile, uploads: &[Upload]) -> String {
        let signer: Arc<dyn TicketSigner> = Arc::<Self>::clone(self);
        let gateway = Arc::new(Gateway::new(GatewayConfig {
            orchestrators: vec![uri.clone()],
            signer: Some(signer),
            chain: None,
            limits: OfferLimits {
                max_price: None,
                max_ticket_value: Wei(MOST_WEI.into()),
                max_segment_value: Wei(MOST_WEI.into()),
            },
            verify: true,
            webhook: None,
            decoder: None,
        }));
        let profiles = vec![profile.clone()];
        let needed = needs(mpegts::VideoCodec::H264, &profiles);
        let mut offers = match gateway.discover(&needed).await {
            Ok(offers) => offers,
            Err(error) => return error.to_string(),
        };
        let (asked, offer) = offers.swap_remove(0);
        let session = Session::new(gateway, asked, offer, "power-cuts".to_owned(), profiles.into(), needed);
        for upload in uploads.iter().cycle() {
            self.tickets().sent.clear();
            if let Err(error) = session.transcode(upload).await {
                return service::with_causes(&error);
            }
            let mut tickets = self.tickets();
            let sent = std::mem::take(&mut tickets.sent);
            tickets.acknowledged.extend(sent);
            tickets.segments += 1;
        }
        "no segment to send".to_owned()
    }
}

impl TicketSigner for Payer {
    fn address(&self) -> Address {
        self.key.address()
    }
    fn sign_node(&self, message: &[u8]) -> Result<Signature, SignerError> {
        Ok(self.key.sign_node(message))
    }
    fn sign_personal(&self, digest: H256) -> Result<Signature, SignerError> {
        self.tickets().sent.push(digest);
        Ok(self.key.sign_personal(digest))
    }
}

/// A stream that ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Pushing(JoinHandle<()>);

impl Drop for Pushing {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Where the renditions of a payer's streams go.
pub(crate) fn directory(work: &Path) -> PathBuf {
    work.join("paid")
}
