//! The board's own watchdog: what it is set to, and why the board last started.
//!
//! Only read here. systemd feeds the device; two feeders would hide each other's death.
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::read;

/// Tells about the watchdog device.
pub trait Watchdog: Send + Sync + 'static {
    /// Its state; `None` when the board has none.
    fn state(&self) -> Option<WatchdogState>;
}

/// What a watchdog device says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchdogState {
    /// Name of the device.
    pub name: String,
    /// Is it running, so that a hang would restart the board?
    pub armed: bool,
    /// How long it waits.
    pub timeout: Option<Duration>,
    /// Why the board last started, as far as the device knows.
    pub last_reset: LastReset,
}

/// Why the board last started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LastReset {
    /// Nothing the device would know of.
    Ordinary,
    /// The watchdog itself restarted it.
    Watchdog,
    /// It became too hot.
    Overheat,
    /// A fan failed.
    Fan,
    /// The supply was too low or too high.
    Power,
}

/// The system's first watchdog, below a root directory.
#[derive(Debug, Clone)]
pub struct LinuxWatchdog {
    root: PathBuf,
}

impl LinuxWatchdog {
    /// Reads below `root` (`/` on a real system).
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }
}

impl Watchdog for LinuxWatchdog {
    fn state(&self) -> Option<WatchdogState> {
        let dir = Path::new("sys/class/watchdog").join(read::names(&self.root, "sys/class/watchdog").first()?);
        let timeout = read::number(&self.root, dir.join("timeout")).map(Duration::from_secs);
        Some(WatchdogState {
            name: read::text(&self.root, dir.join("identity")).unwrap_or_default(),
            armed: read::text(&self.root, dir.join("state")).as_deref() == Some("active"),
            timeout,
            last_reset: last_reset(read::number(&self.root, dir.join("bootstatus")).unwrap_or(0)),
        })
    }
}

/// *Source:* the `WDIOF_` flags of the kernel's `linux/watchdog.h`.
fn last_reset(bootstatus: u32) -> LastReset {
    match bootstatus {
        status if status & 0x20 != 0 => LastReset::Watchdog,
        status if status & 0x01 != 0 => LastReset::Overheat,
        status if status & 0x02 != 0 => LastReset::Fan,
        status if status & 0x50 != 0 => LastReset::Power,
        _ => LastReset::Ordinary,
    }
}

/// A watchdog with a given state.
#[derive(Debug, Clone, Default)]
pub struct SimWatchdog(pub Option<WatchdogState>);

impl Watchdog for SimWatchdog {
    fn state(&self) -> Option<WatchdogState> {
        self.0.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read::fixture;

    #[test]
    fn a_reset_by_the_watchdog_is_told() {
        let root = fixture(&[
            ("sys/class/watchdog/watchdog0/identity", "iTCO_wdt\n"),
            ("sys/class/watchdog/watchdog0/state", "active\n"),
            ("sys/class/watchdog/watchdog0/timeout", "30\n"),
            ("sys/class/watchdog/watchdog0/bootstatus", "32\n"),
        ]);
        let state = LinuxWatchdog::new(root.path()).state().unwrap();
        assert_eq!(state.timeout, Some(Duration::from_secs(30)));
        assert_eq!((state.armed, state.last_reset), (true, LastReset::Watchdog));
    }

    #[test]
    fn a_board_without_a_watchdog_has_none() {
        assert_eq!(LinuxWatchdog::new(fixture(&[]).path()).state(), None);
    }
}
