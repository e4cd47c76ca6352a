//! The orchestrator: the parts every request shares, and the tidying that goes on beside them.
use std::sync::Arc;
use std::time::Duration;

use livepeer::broker::Broker;
use livepeer::capability::{Capability, CapabilitySet};
use livepeer::credentials::{AuthToken, TOKEN_LIFETIME_SECONDS, TokenKey};
use livepeer::units::Timestamp;
use millrace_hal::Clock;
use rand::RngCore;
use service::Heartbeat;
use tokio_util::task::TaskTracker;

use crate::admission::{LogLimit, UploadMemory};
use crate::config::{Config, ServiceUri};
use crate::payment::Till;
use crate::pool::Transcoder;
use crate::rendition_store::RenditionStore;
use crate::session::Sessions;
use crate::sign::Signer;
use crate::status::Meters;

/// How often idle sessions and old renditions are looked for.
const TIDY: Duration = Duration::from_secs(1);

/// What an orchestrator is made of.
pub struct Parts<T, B, S> {
    /// How gateways are served.
    pub config: Config,
    /// Where gateways reach us.
    pub service_uri: ServiceUri,
    /// The key of our tokens.
    pub token_key: TokenKey,
    /// Turns segments into renditions.
    pub transcoder: Arc<T>,
    /// What the workers proved they can do, such as `decode-h264`; asked whenever somebody wants to know.
    pub proved: Box<dyn Fn() -> Vec<String> + Send + Sync>,
    /// Takes and gives account of money; none off-chain.
    pub till: Option<Till<B, S>>,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
}

impl<T, B, S> std::fmt::Debug for Parts<T, B, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").field("service_uri", &self.service_uri).finish_non_exhaustive()
    }
}

/// An orchestrator, shared by all requests.
pub struct Orchestrator<T, B, S> {
    pub(crate) config: Config,
    pub(crate) service_uri: ServiceUri,
    pub(crate) token_key: TokenKey,
    pub(crate) transcoder: Arc<T>,
    proved: Box<dyn Fn() -> Vec<String> + Send + Sync>,
    pub(crate) till: Option<Till<B, S>>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) renditions: RenditionStore,
    pub(crate) upload_memory: UploadMemory,
    pub(crate) log_limit: LogLimit,
    pub(crate) meters: Meters,
    /// Accepted segments at work: they finish even when the gateway went away, since they are paid for.
    pub(crate) work: TaskTracker,
}

impl<T, B, S> std::fmt::Debug for Orchestrator<T, B, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Orchestrator").field("service_uri", &self.service_uri).finish_non_exhaustive()
    }
}

impl<T: Transcoder, B: Broker, S: Signer> Orchestrator<T, B, S> {
    /// Puts the parts together.
    #[must_use]
    pub fn new(parts: Parts<T, B, S>) -> Arc<Self> {
        let Parts { config, service_uri, token_key, transcoder, proved, till, clock } = parts;
        Arc::new(Self {
            renditions: RenditionStore::new(config.rendition_memory_mib.saturating_mul(1024 * 1024)),
            upload_memory: UploadMemory::new(config.upload_memory_mib),
            sessions: Arc::default(),
            log_limit: LogLimit::default(),
            meters: Meters::default(),
            work: TaskTracker::new(),
            config,
            service_uri,
            token_key,
            transcoder,
            proved,
            till,
            clock,
        })
    }

    /// Ends what was idle for too long, for ever.
    pub async fn tidy(self: Arc<Self>, heartbeat: Heartbeat) {
        let mut tick = tokio::time::interval(TIDY);
        loop {
            tick.tick().await;
            for session in self.sessions.expire() {
                tracing::info!(session, reason = "idle", "session ended");
                self.forget(&session);
            }
            self.renditions.sweep();
            heartbeat.beat();
        }
    }

    /// Waits until all accepted segments are done. No new ones may come in.
    pub async fn finish(&self) {
        self.work.close();
        self.work.wait().await;
    }

    /// Frees what a session that is over holds.
    pub(crate) fn forget(&self, session: &str) {
        self.transcoder.end_session(session);
        self.renditions.orphan(session);
    }

    /// Sessions at the same time: what the operator allows, and what the workers can carry.
    pub(crate) fn max_sessions(&self) -> usize {
        self.config.max_sessions.min(self.transcoder.capacity().total)
    }

    pub(crate) fn now(&self) -> Timestamp {
        Timestamp(self.clock.unix_seconds())
    }

    /// A token for a new session, whose id nobody can guess: it is all that guards the renditions.
    pub(crate) fn new_token(&self) -> AuthToken {
        let mut id = [0; 16];
        rand::rngs::OsRng.fill_bytes(&mut id);
        let expiration = Timestamp(self.now().0.saturating_add(TOKEN_LIFETIME_SECONDS));
        self.token_key.issue(&hex::encode(id), expiration)
    }

    /// What we offer: what works whatever the engine, and of the rest what the workers proved by doing it.
    ///
    /// Left out on purpose: 5 and 6 (external stores; jobs for them are refused), 13 (retired).
    pub(crate) fn capabilities(&self) -> CapabilitySet {
        let always = [
            Capability::H264,
            Capability::MpegTs,
            Capability::FractionalFramerates,
            Capability::StorageDirect,
            Capability::ProfileH264Baseline,
            Capability::ProfileH264Main,
            Capability::ProfileH264High,
            Capability::ProfileH264ConstrainedHigh,
            Capability::Gop,
            Capability::AuthToken,
            Capability::SegmentSlicing,
        ];
        let mut offered: CapabilitySet = always.into_iter().collect();
        for ability in (self.proved)() {
            if let Some(capability) = proved_capability(&ability) {
                offered.insert(capability);
            }
        }
        offered
    }
}

/// The capability behind an ability that a worker proved.
fn proved_capability(ability: &str) -> Option<Capability> {
    Some(match ability {
        "mux-mp4" => Capability::Mp4,
        "signature-mpeg7" => Capability::MpegSevenSignature,
        "decode-h265" => Capability::HevcDecode,
        "encode-h265" => Capability::HevcEncode,
        "decode-vp8" => Capability::Vp8Decode,
        "decode-vp9" => Capability::Vp9Decode,
        "encode-vp8" => Capability::Vp8Encode,
        "encode-vp9" => Capability::Vp9Encode,
        "decode-h264-444" => Capability::H264Decode444,
        "decode-h264-422" => Capability::H264Decode422,
        "decode-h264-444-10" => Capability::H264Decode444Ten,
        "decode-h264-422-10" => Capability::H264Decode422Ten,
        "decode-h264-420-10" => Capability::H264Decode420Ten,
        _ => return None,
    })
}
