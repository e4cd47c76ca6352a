//! Whether a box is there, decided from live traffic alone (no false online).
//!
//! ```text
//!              retained                 live message of the current (e,b,n)
//!  (nothing) ───────────► UNKNOWN ─────────────────────────────► ONLINE ◄──┐
//!                            ▲                                   │    │    │ live
//!             controller     │      silent 2.5 × hb, or death    ▼    │    │
//!             blind (any) ───┘                                SUSPECT ┼────┤
//!                                 death + 60 s, or silent      │      │    │
//!                                 max(4 × hb, 1.5 × ka + 30 s) ▼      │    │
//!                                                          OFFLINE ───┴────┘
//! ```
//!
//! Device clocks never decide anything: `now` is the controller's monotonic clock.

use std::time::Duration;

use serde::{Deserialize, Serialize};

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

/// After a death, how long a new birth may take before the box counts as offline.
pub const DEATH_GRACE: Duration = Duration::from_secs(60);
