//! Transcoders that attach to us: boxes elsewhere that dial in, take segments and post renditions.
//!
//! Walk 1, steps 6 to 8, for a segment that is transcoded on another box. [`register`] takes them in, [`workforce`] gives
//! each segment to one of them or to our own pool, [`dispatch`] sends it and waits, [`results`] takes what comes back,
//! [`verify`] counts its pixels. Who is there and who has what is decided in [`registry`], pure; who is well in
//! [`health`]. An error on one segment never costs a connection; a lost connection never costs a segment.
//!
//! *Source:* livepeer-wire §4.5, §4.6, §8, §12.
use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use livepeer::address::{H256, keccak256};
use livepeer::capability::{Capability, CapabilitySet};
use livepeer::wire::net;
use serde::Deserialize;
use service::Secret;
use service::status::AttachedTranscoder;
use tokio::sync::mpsc;
use tokio::time::Instant;

use self::registry::{Chosen, MemberId, Nobody, Registry, Wanted};
use self::results::Task;
use crate::config::{ConfigError, ServiceUri};

mod dispatch;
pub mod health;
mod mp4;
pub mod register;
pub mod registry;
pub mod results;
pub mod verify;
pub mod workforce;

pub use workforce::Workforce;

/// Notices on their way to one transcoder; more means that it does not read them.
const NOTICES: usize = 64;

/// Who may attach.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RemoteConfig {
    /// File with the secret that transcoders have to know. The systemd credential `orch-secret` wins over it. Without
    /// either nobody can attach. Default none.
    pub secret_file: Option<PathBuf>,
    /// Transcoders at the same time. Range 1–1000, default 100.
    pub max_transcoders: usize,
}

impl Default for RemoteConfig {
    fn default() -> Self {
        Self { secret_file: None, max_transcoders: 100 }
    }
}

impl RemoteConfig {
    /// Checks what types cannot.
    ///
    /// # Errors
    /// [`ConfigError`] naming the key and what it must be.
    pub fn check(&self) -> Result<(), ConfigError> {
        let value = u64::try_from(self.max_transcoders).unwrap_or(u64::MAX);
        if (1..=1000).contains(&value) {
            return Ok(());
        }
        Err(ConfigError::Range { key: "max_transcoders", value, min: 1, max: 1000 })
    }
}

/// All attached transcoders, and what is on its way to and from them.
#[derive(Debug)]
pub struct Remotes {
    /// Hash of the secret, so that comparing takes the same time whatever is sent.
    secret: Option<H256>,
    max_transcoders: usize,
    service_uri: String,
    began: Instant,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    registry: Registry,
    lines: HashMap<MemberId, Line>,
    tasks: HashMap<i64, Task>,
    /// Segments that transcoders may fetch now, by path.
    inputs: HashMap<String, Bytes>,
    closed: bool,
}

/// The connection to one attached transcoder.
#[derive(Debug)]
struct Line {
    notices: mpsc::Sender<net::NotifySegment>,
    peer: IpAddr,
    since: Instant,
}

impl Remotes {
    /// Nobody yet. Transcoders must know the secret; they fetch segments below `service_uri`.
    #[must_use]
    pub fn new(config: &RemoteConfig, secret: Option<&Secret>, service_uri: &ServiceUri) -> Arc<Self> {
        Arc::new(Self {
            secret: secret.map(|secret| keccak256(secret.expose())),
            max_transcoders: config.max_transcoders,
            service_uri: service_uri.to_string(),
            began: Instant::now(),
            inner: Mutex::default(),
        })
    }

    /// Nobody, ever.
    #[must_use]
    pub fn none() -> Arc<Self> {
        Arc::new(Self {
            secret: None,
            max_transcoders: 0,
            service_uri: String::new(),
            began: Instant::now(),
            inner: Mutex::default(),
        })
    }

    /// Ends all connections and takes no more: segments under way are transcoded here.
    pub fn close(&self) {
        let mut inner = self.lock();
        inner.closed = true;
        let ids: Vec<_> = inner.lines.keys().copied().collect();
        for id in ids {
            inner.remove(id);
        }
    }

    /// Sessions that the attached transcoders take together, and have now.
    #[must_use]
    pub fn capacity(&self) -> (usize, usize) {
        self.lock().registry.attached()
    }

    /// Would one of them take one more session?
    #[must_use]
    pub fn have_room(&self) -> bool {
        let (total, taken) = self.capacity();
        taken < total
    }

    /// What of transcoding at least one attached transcoder can do.
    #[must_use]
    pub fn abilities(&self) -> CapabilitySet {
        let all = dispatch::transcoding_needs(&self.lock().registry.abilities());
        all.iter().filter(|number| *number <= Capability::SegmentSlicing as u32).collect()
    }

    /// The segment that lies at this path for a transcoder to fetch.
    #[must_use]
    pub fn input(&self, path: &str) -> Option<Bytes> {
        self.lock().inputs.get(path).cloned()
    }

    /// The attached transcoders, for the status.
    #[must_use]
    pub fn status(&self) -> Vec<AttachedTranscoder> {
        let now = self.now();
        let inner = self.lock();
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let row = |(id, member): (MemberId, &registry::Member)| {
            let line = inner.lines.get(&id)?;
            let (sessions, load, standing) = inner.registry.state_of(id, now)?;
            Some(AttachedTranscoder {
                address: line.peer.to_string(),
                version: member.version.clone(),
                standing: standing.word().to_owned(),
                sessions: count(sessions),
                capacity: count(member.capacity),
                load,
                segments_ok: member.done,
                segments_failed: member.failed,
                attached_s: line.since.elapsed().as_secs(),
            })
        };
        inner.registry.others().filter_map(row).collect()
    }

    /// Is this the secret?
    fn knows(&self, offered: &[u8]) -> bool {
        self.secret.is_some_and(|secret| keccak256(offered) == secret)
    }

    fn choose(&self, wanted: &Wanted<'_>) -> Result<Chosen, Nobody> {
        let now = self.now();
        self.lock().registry.choose(wanted, now)
    }

    fn has_other(&self, wanted: &Wanted<'_>, than: MemberId) -> bool {
        let now = self.now();
        self.lock().registry.has_other(wanted, than, now)
    }

    /// Can anybody attach at all?
    fn takes_any(&self) -> bool {
        self.secret.is_some()
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// A transcoder is gone: what it had in hand is lost at once, not when its time is up.
    fn remove(&mut self, id: MemberId) {
        self.registry.remove(id);
        self.lines.remove(&id);
        self.tasks.retain(|_, task| task.member != id);
    }
}

#[cfg(test)]
mod tests;
