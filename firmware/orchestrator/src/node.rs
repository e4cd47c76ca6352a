//! The orchestrator: the parts every request shares, and the tidying that goes on beside them.
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use livepeer::broker::Broker;
use livepeer::capability::{Capability, CapabilitySet};
use livepeer::credentials::{AuthToken, TOKEN_LIFETIME_SECONDS, TokenKey};
use livepeer::profile::Profile;
use livepeer::units::Timestamp;
use livepeer::wire::net;
use millrace_hal::Clock;
use rand::RngCore;
use service::Heartbeat;
use tokio_util::task::TaskTracker;

use crate::admission::load::{self, Claim, Load};
use crate::admission::{LogLimit, UploadMemory};
use crate::config::{Config, ConfigError, MaxSessions, ServiceUri};
use crate::outbound::Outbound;
use crate::payment::Till;
use crate::pool::Transcoder;
use crate::remote::Remotes;
use crate::rendition_store::RenditionStore;
use crate::session::{IDLE_TIMEOUT, Sessions};
use crate::sign::Signer;
use crate::status::Meters;
use crate::webhook::Webhook;

/// How long a session is silent before a drain takes it for over.
const DRAINED_AFTER: Duration = Duration::from_secs(15);
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
    /// The boxes that transcode for us; `transcoder` gives them their work.
    pub remotes: Arc<Remotes>,
    /// What we tell those who ask about our hardware.
    pub hardware: Box<dyn Fn() -> Vec<net::HardwareInformation> + Send + Sync>,
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
    pub(crate) remotes: Arc<Remotes>,
    pub(crate) hardware: Box<dyn Fn() -> Vec<net::HardwareInformation> + Send + Sync>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) outbound: Outbound,
    pub(crate) webhook: Option<Webhook>,
    draining: AtomicBool,
    max_sessions: RwLock<MaxSessions>,
    conditions: Mutex<BTreeMap<&'static str, String>>,
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
        let Parts { config, service_uri, token_key, transcoder, proved, till, remotes, hardware, clock } = parts;
        Arc::new(Self {
            renditions: RenditionStore::new(config.rendition_memory_mib.saturating_mul(1024 * 1024)),
            upload_memory: UploadMemory::new(config.upload_memory_mib),
            sessions: Arc::new(Sessions::new(config.reserved_sessions.clone())),
            outbound: Outbound::new(&config.outbound),
            webhook: config.auth_webhook.clone().map(|url| Webhook::new(url.0)),
            draining: AtomicBool::new(false),
            max_sessions: RwLock::new(config.max_sessions),
            conditions: Mutex::default(),
            log_limit: LogLimit::default(),
            meters: Meters::default(),
            work: TaskTracker::new(),
            config,
            service_uri,
            token_key,
            transcoder,
            proved,
            till,
            remotes,
            hardware,
            clock,
        })
    }

    /// Ends what was idle for too long, for ever.
    pub async fn tidy(self: Arc<Self>, heartbeat: Heartbeat) {
        let mut tick = tokio::time::interval(TIDY);
        loop {
            tick.tick().await;
            let idle = if self.is_draining() { DRAINED_AFTER } else { IDLE_TIMEOUT };
            for session in self.sessions.expire(idle) {
                tracing::info!(session, reason = "idle", "session ended");
                self.forget(&session);
            }
            self.renditions.sweep();
            heartbeat.beat();
        }
    }

    /// Begins or ends a drain: newcomers are turned away, running sessions and their refreshed tokens are not.
    pub fn drain(&self, draining: bool) {
        if self.draining.swap(draining, Ordering::Relaxed) != draining {
            tracing::info!(sessions = self.sessions.len(), draining, "capacity is offered or withheld");
        }
    }

    /// Notes that something is wrong, or that it no longer is, under the id of its alarm.
    pub(crate) fn condition(&self, id: &'static str, wrong: Option<String>) {
        let mut conditions = self.conditions.lock().unwrap_or_else(PoisonError::into_inner);
        let before = match &wrong {
            Some(text) => conditions.insert(id, text.clone()),
            None => conditions.remove(id),
        };
        match wrong {
            Some(text) if before.as_ref() != Some(&text) => tracing::error!(id, "{text}"),
            None if before.is_some() => tracing::info!(id, "all is well again"),
            _ => {}
        }
    }

    /// What is wrong now, by the ids of the alarms.
    pub(crate) fn conditions(&self) -> BTreeMap<&'static str, String> {
        self.conditions.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Are newcomers turned away?
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Waits until the last session has ended.
    pub async fn drained(&self) {
        let mut tick = tokio::time::interval(TIDY);
        while !self.sessions.is_empty() {
            tick.tick().await;
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
        self.max_sessions_allowed().at_most(self.transcoder.capacity().total)
    }

    /// The same for a newcomer of whom nothing is known yet: none while the box carries what it can.
    pub(crate) fn open_to_newcomers(&self) -> usize {
        let open = self.remotes.have_room() || self.transcoder.load().is_none_or(Load::has_room);
        if open && !self.is_draining() { self.max_sessions() } else { 0 }
    }

    /// Claims room for a session with such a ladder, where load is measured; what an attached transcoder takes is no
    /// load here.
    pub(crate) fn claim(&self, session: &str, profiles: &[Profile]) -> Option<Claim> {
        let load = self.transcoder.load().filter(|_| !self.remotes.have_room());
        load.map(|load| load.claim(session, load::estimate(profiles)))
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

    /// What we offer: what our own workers can do, and what the boxes attached to us can.
    pub(crate) fn capabilities(&self) -> CapabilitySet {
        let own = offered_by(&(self.proved)());
        let mut offered: CapabilitySet = own.iter().chain(self.remotes.abilities().iter()).collect();
        if self.outbound.can_check_certificates() {
            offered.insert(Capability::StorageS3);
            offered.insert(Capability::StorageGcs);
        }
        offered
    }
}

impl<T, B, S> Orchestrator<T, B, S> {
    /// Sessions at the same time that the operator allows.
    #[must_use]
    pub fn max_sessions_allowed(&self) -> MaxSessions {
        *self.max_sessions.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Allows so many sessions until the node ends; sessions that run go on.
    ///
    /// # Errors
    /// [`ConfigError`] when it is out of range.
    pub fn allow_sessions(&self, most: MaxSessions) -> Result<(), ConfigError> {
        most.check()?;
        *self.max_sessions.write().unwrap_or_else(PoisonError::into_inner) = most;
        tracing::info!(?most, "sessions allowed were set");
        Ok(())
    }

    /// What is counted of the work.
    #[must_use]
    pub fn meters(&self) -> &Meters {
        &self.meters
    }

    /// Where gateways pay; none off-chain.
    #[must_use]
    pub fn till(&self) -> Option<&Till<B, S>> {
        self.till.as_ref()
    }
}

/// What a box offers whose workers proved so much: what works whatever the engine, and of the rest what they proved
/// by doing it.
///
/// Left out on purpose: 5 and 6 (external stores, which are the orchestrator's), 13 (retired).
#[must_use]
pub fn offered_by(proved: &[String]) -> CapabilitySet {
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
    for ability in proved {
        if let Some(capability) = proved_capability(ability) {
            offered.insert(capability);
        }
    }
    offered
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
