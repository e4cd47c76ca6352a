//! What the ingesting thread remembers of one box between messages.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use fleet_protocol::payload::{Durable, Envelope, Life};
use fleet_protocol::presence::{Presence, Tracker};
use fleet_protocol::registry::Class;
use fleet_protocol::{BoxId, Epoch, FleetId};

use crate::cursor::Cursor;
use crate::limit::Limit;
use crate::store::{KnownBox, Store, StoreError};

/// One box as the API sees it live.
#[derive(Debug, Clone)]
pub(crate) struct View {
    pub(crate) presence: Presence,
    /// When the last proof of life came.
    pub(crate) alive_at: Option<Instant>,
    pub(crate) acked: BTreeMap<Durable, u64>,
    pub(crate) ahead: BTreeMap<Durable, usize>,
    pub(crate) lost: BTreeMap<&'static str, u64>,
}

/// The memory.
#[derive(Debug)]
pub(crate) struct Tracked {
    pub(crate) fleet: FleetId,
    /// Its rollout ring, as it says or was enrolled.
    pub(crate) ring: FleetId,
    /// Its row is not committed yet.
    pub(crate) fresh: bool,
    pub(crate) presence: Tracker,
    /// Since when the presence is what it is.
    pub(crate) since: Option<Duration>,
    pub(crate) offline_raised: bool,
    pub(crate) clone_raised: bool,
    limits: BTreeMap<&'static str, Limit>,
    epoch: Option<Epoch>,
    /// `None` until loaded from the store.
    cursors: Option<BTreeMap<Durable, Cursor>>,
    acked: BTreeMap<Durable, u64>,
    acked_at: Option<Duration>,
    unsaid: u64,
    greet: bool,
    hole_since: Option<Duration>,
    asked_at: Option<Duration>,
    birth_seen: bool,
    periodic: BTreeMap<&'static str, (Life, u64)>,
    lost: BTreeMap<&'static str, u64>,
    own_sequence: u64,
}

impl Tracked {
    pub(crate) fn new(fleet: FleetId) -> Self {
        Self {
            fleet,
            ring: FleetId::new("all").expect("`all` is a name"),
            fresh: true,
            presence: Tracker::default(),
            since: None,
            offline_raised: false,
            clone_raised: false,
            limits: BTreeMap::new(),
            epoch: None,
            cursors: Some(BTreeMap::new()),
            acked: BTreeMap::new(),
            acked_at: None,
            unsaid: 0,
            greet: false,
            hole_since: None,
            asked_at: None,
            birth_seen: false,
            periodic: BTreeMap::new(),
            lost: BTreeMap::new(),
            own_sequence: 0,
        }
    }

    pub(crate) fn known(known: KnownBox) -> Self {
        let epoch = known.life.as_ref().map(|life| life.e.clone());
        let mut presence = Tracker::known(known.life, known.retired);
        if let (Some(heartbeat), Some(keepalive)) = (known.heartbeat_s, known.keepalive_s) {
            presence.expect(Duration::from_secs(heartbeat.into()), Duration::from_secs(keepalive.into()));
        }
        // A birth of the same life was seen before this start; its periods are known.
        let birth_seen = known.heartbeat_s.is_some();
        let mut this = Self::new(known.fleet);
        if let Some(ring) = known.ring.and_then(|ring| FleetId::new(ring).ok()) {
            this.ring = ring;
        }
        Self { fresh: false, presence, epoch, cursors: None, birth_seen, ..this }
    }

    /// Whether it has left the fleet.
    pub(crate) fn is_retired(&self) -> bool {
        self.presence.state() == Presence::Retired
    }

    pub(crate) fn limit(&mut self, class: &'static str, now: Duration) -> &mut Limit {
        self.limits.entry(class).or_insert_with(|| Limit::new(now))
    }

    /// A live birth; false when it is of an older life than the current one.
    pub(crate) fn born(&mut self, life: &Life) -> bool {
        if self.presence.life() != Some(life) {
            return false;
        }
        self.birth_seen = true;
        self.greet = true;
        true
    }

    pub(crate) fn changed(&mut self, to: Presence, now: Duration) {
        self.since = Some(now);
        if to == Presence::Online {
            self.clone_raised = self.clone_raised && self.presence.looks_cloned();
        }
    }

    /// Believe only the store from now on.
    pub(crate) fn forget_cursors(&mut self) {
        self.cursors = None;
    }

    pub(crate) fn load_cursors(&mut self, store: &Store, id: &BoxId) -> Result<(), StoreError> {
        if self.cursors.is_some() {
            return Ok(());
        }
        let mut cursors = BTreeMap::new();
        if let Some(epoch) = &self.epoch {
            for class in Durable::ALL {
                cursors.insert(class, store.cursor(id, epoch, class)?);
            }
        }
        self.cursors = Some(cursors);
        Ok(())
    }

    /// The cursor of a class in this epoch; a new epoch begins anew.
    pub(crate) fn cursor(&mut self, epoch: &Epoch, class: Durable) -> &mut Cursor {
        if self.epoch.as_ref() != Some(epoch) {
            self.epoch = Some(epoch.clone());
            self.cursors = Some(BTreeMap::new());
            self.acked.clear();
        }
        self.cursors.get_or_insert_default().entry(class).or_default()
    }

    /// A durable record came, new or not: it wants an acknowledgement.
    pub(crate) fn counted(&mut self) {
        self.unsaid += 1;
    }

    /// What to acknowledge now: after a birth at once, else when enough records or enough time came together.
    pub(crate) fn due_acknowledgement(
        &mut self,
        now: Duration,
        every: Duration,
        records: u64,
    ) -> Option<(Epoch, BTreeMap<Durable, u64>)> {
        let waited = self.acked_at.is_none_or(|at| now.saturating_sub(at) >= every);
        let due = self.greet || self.unsaid >= records || (self.unsaid > 0 && waited);
        if !due {
            return None;
        }
        let epoch = self.presence.life().map(|life| life.e.clone()).or_else(|| self.epoch.clone())?;
        let cursors = if self.epoch.as_ref() == Some(&epoch) {
            self.cursors.as_ref()?.iter().map(|(class, cursor)| (*class, cursor.stored())).collect()
        } else {
            BTreeMap::new()
        };
        Some((epoch, cursors))
    }

    pub(crate) fn acknowledged(&mut self, cursors: BTreeMap<Durable, u64>, now: Duration) {
        self.acked = cursors;
        self.acked_at = Some(now);
        self.unsaid = 0;
        self.greet = false;
    }

    /// Whether to ask the box to send its birth and everything unacknowledged again.
    pub(crate) fn wants_rebirth(&mut self, now: Duration, reorder: Duration, every: Duration) -> bool {
        let hole = self.cursors.iter().flatten().any(|(_, cursor)| cursor.ahead() > 0);
        self.hole_since = if hole { Some(self.hole_since.unwrap_or(now)) } else { None };
        let old_hole = self.hole_since.is_some_and(|since| now.saturating_sub(since) >= reorder);
        let unborn = self.presence.state() == Presence::Online && !self.birth_seen;
        let allowed = self.asked_at.is_none_or(|at| now.saturating_sub(at) >= every);
        let ask = (old_hole || unborn) && allowed;
        if ask {
            self.asked_at = Some(now);
        }
        ask
    }

    /// Periodic messages count up inside a boot: what is missing was lost on the way.
    pub(crate) fn count_loss(&mut self, class: Class, envelope: &Envelope) {
        let key = class.key();
        let before = self.periodic.insert(key, (envelope.life.clone(), envelope.q));
        if let Some((life, q)) = before
            && life.e == envelope.life.e
            && life.b == envelope.life.b
            && envelope.q > q
        {
            *self.lost.entry(key).or_default() += envelope.q - q - 1;
        }
    }

    /// Strictly increasing even when two events share a millisecond.
    pub(crate) fn own_sequence(&mut self, now_ms: i64) -> u64 {
        self.own_sequence = (self.own_sequence + 1).max(u64::try_from(now_ms).unwrap_or(0));
        self.own_sequence
    }

    pub(crate) fn view(&self, start: Instant) -> View {
        let cursors = self.cursors.iter().flatten();
        View {
            presence: self.presence.state(),
            alive_at: self.presence.alive_at().map(|at| start + at),
            acked: self.acked.clone(),
            ahead: cursors.map(|(class, cursor)| (*class, cursor.ahead())).collect(),
            lost: self.lost.clone(),
        }
    }
}
