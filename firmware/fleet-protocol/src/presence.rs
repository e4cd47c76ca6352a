//! Whether a box is there, decided from live traffic alone (no false online).
//!
//! ```text
//!              retained                 live message of the current life
//!  (nothing) ───────────► UNKNOWN ─────────────────────────────► ONLINE ◄──┐
//!                            ▲                                   │    │    │ live
//!             controller     │      silent 2.5 × hb, or death    ▼    │    │
//!             blind (any) ───┘                                SUSPECT ┼────┤
//!                                 death + 60 s, or silent      │      │    │
//!                                 max(4 × hb, 1.5 × ka + 30 s) ▼      │    │
//!                                                          OFFLINE ───┴────┘
//! ```
//!
//! Device clocks never decide anything: `now` is the controller's monotonic clock since any fixed point.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::payload::Life;

/// What the controller says of a box.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Presence {
    /// A live message of the current connection came within 2.5 heartbeats.
    Online,
    /// Silent for too long, or its last will came and no birth followed yet.
    Suspect,
    /// Gone.
    Offline,
    /// Not confirmed: only history is known, or the controller itself is blind.
    Unknown,
    /// Taken out of the fleet by a person.
    Retired,
}

impl Presence {
    /// Every state, in the order a table shows them.
    pub const ALL: [Presence; 5] =
        [Presence::Online, Presence::Suspect, Presence::Offline, Presence::Unknown, Presence::Retired];

    /// As in JSON.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Presence::Online => "ONLINE",
            Presence::Suspect => "SUSPECT",
            Presence::Offline => "OFFLINE",
            Presence::Unknown => "UNKNOWN",
            Presence::Retired => "RETIRED",
        }
    }

    /// The state of a word.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.key() == text)
    }
}

/// After a death, how long a new birth may take before the box counts as offline.
pub const DEATH_GRACE: Duration = Duration::from_secs(60);
/// Heartbeat period assumed until the box says its own.
pub const HEARTBEAT_DEFAULT: Duration = Duration::from_secs(60);
/// Keepalive assumed until the box says its own.
pub const KEEPALIVE_DEFAULT: Duration = Duration::from_secs(120);
/// Take-overs inside [`CLONE_WINDOW`] that mean two machines share one identity.
pub const CLONE_TAKEOVERS: usize = 3;
/// Window of the clone rule.
pub const CLONE_WINDOW: Duration = Duration::from_secs(600);

/// What happened to a box, as the controller saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A retained message: history.
    Retained,
    /// A live `on: true`, with the periods it declares.
    Birth {
        /// Whose.
        life: Life,
        /// Heartbeat period.
        heartbeat: Option<Duration>,
        /// MQTT keepalive.
        keepalive: Option<Duration>,
    },
    /// Any other live message that was not backfilled.
    Alive(Life),
    /// A live `on: false`.
    Death(Life),
    /// Time passed.
    Tick,
    /// The controller lost its broker or lags.
    Blind,
    /// A person took the box out of the fleet.
    Retire,
}

/// A change of state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// Before.
    pub from: Presence,
    /// After.
    pub to: Presence,
    /// One constant word.
    pub why: &'static str,
}

/// The presence of one box.
#[derive(Debug, Clone)]
pub struct Tracker {
    state: Presence,
    current: Option<Life>,
    alive_at: Option<Duration>,
    died_at: Option<Duration>,
    heartbeat: Duration,
    keepalive: Duration,
    stale: VecDeque<Duration>,
}

impl Default for Tracker {
    fn default() -> Self {
        Self {
            state: Presence::Unknown,
            current: None,
            alive_at: None,
            died_at: None,
            heartbeat: HEARTBEAT_DEFAULT,
            keepalive: KEEPALIVE_DEFAULT,
            stale: VecDeque::new(),
        }
    }
}

impl Tracker {
    /// A box that is known from the store only: its last life, no proof.
    #[must_use]
    pub fn known(life: Option<Life>, retired: bool) -> Self {
        let state = if retired { Presence::Retired } else { Presence::Unknown };
        Self { current: life, state, ..Self::default() }
    }

    /// Periods the box declared at its last birth, when that birth is known from the store.
    pub fn expect(&mut self, heartbeat: Duration, keepalive: Duration) {
        self.heartbeat = heartbeat;
        self.keepalive = keepalive;
    }

    /// The state now.
    #[must_use]
    pub fn state(&self) -> Presence {
        self.state
    }

    /// The current life, the latest that was proved.
    #[must_use]
    pub fn life(&self) -> Option<&Life> {
        self.current.as_ref()
    }

    /// When the last proof of life came.
    #[must_use]
    pub fn alive_at(&self) -> Option<Duration> {
        self.alive_at
    }

    /// Whether live messages of older lives keep coming: two machines with one identity.
    #[must_use]
    pub fn looks_cloned(&self) -> bool {
        self.stale.len() > CLONE_TAKEOVERS
    }

    /// Take one event at monotonic time `now`; the change, if any.
    pub fn step(&mut self, event: Event, now: Duration) -> Option<Change> {
        if self.state == Presence::Retired {
            return None;
        }
        match event {
            Event::Retire => self.turn(Presence::Retired, "retired"),
            // The first retained message leaves UNKNOWN as it is; later ones say nothing new.
            Event::Retained => None,
            Event::Blind => {
                self.alive_at = None;
                self.died_at = None;
                self.turn(Presence::Unknown, "blind")
            }
            Event::Birth { life, heartbeat, keepalive } => {
                if self.is_stale(&life, now) {
                    return None;
                }
                self.heartbeat = heartbeat.unwrap_or(self.heartbeat);
                self.keepalive = keepalive.unwrap_or(self.keepalive);
                self.live(life, now, "birth")
            }
            Event::Alive(life) => {
                if self.is_stale(&life, now) || self.is_after_death(&life) {
                    return None;
                }
                self.live(life, now, "alive")
            }
            Event::Death(life) => {
                // A late Will of an older connection is normal after a take-over.
                if self.current.as_ref().is_some_and(|current| !life.follows(current)) {
                    return None;
                }
                self.current = Some(life);
                self.died_at = Some(now);
                match self.state {
                    Presence::Offline => None,
                    _ => self.turn(Presence::Suspect, "death"),
                }
            }
            Event::Tick => self.tick(now),
        }
    }

    fn tick(&mut self, now: Duration) -> Option<Change> {
        while self.stale.front().is_some_and(|at| now.saturating_sub(*at) > CLONE_WINDOW) {
            self.stale.pop_front();
        }
        if self.died_at.is_some_and(|at| now.saturating_sub(at) >= DEATH_GRACE) {
            return self.turn(Presence::Offline, "death");
        }
        let silent = now.saturating_sub(self.alive_at?);
        let gone = (self.heartbeat * 4).max(self.keepalive * 3 / 2 + Duration::from_secs(30));
        match self.state {
            Presence::Online | Presence::Suspect if silent >= gone => self.turn(Presence::Offline, "silence"),
            Presence::Online if silent >= self.heartbeat * 5 / 2 => self.turn(Presence::Suspect, "silence"),
            _ => None,
        }
    }

    fn live(&mut self, life: Life, now: Duration, why: &'static str) -> Option<Change> {
        self.current = Some(life);
        self.alive_at = Some(now);
        self.died_at = None;
        self.turn(Presence::Online, why)
    }

    /// A live message of an older life of the same epoch proves nothing; many of them prove a clone.
    fn is_stale(&mut self, life: &Life, now: Duration) -> bool {
        let stale = self.current.as_ref().is_some_and(|current| life.e == current.e && !life.follows(current));
        if stale {
            self.stale.push_back(now);
            if self.stale.len() > CLONE_TAKEOVERS + 1 {
                self.stale.pop_front();
            }
        }
        stale
    }

    /// After the death of a connection only a new birth or a later connection proves life.
    fn is_after_death(&self, life: &Life) -> bool {
        self.died_at.is_some() && self.current.as_ref() == Some(life)
    }

    fn turn(&mut self, to: Presence, why: &'static str) -> Option<Change> {
        let from = std::mem::replace(&mut self.state, to);
        (from != to).then_some(Change { from, to, why })
    }
}

#[cfg(test)]
mod tests;
