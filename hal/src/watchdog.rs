//! The board's own watchdog: what it is set to, and why the board last started.
//!
//! Only read here. systemd feeds the device; two feeders would hide each other's death.
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::read::Root;

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
    /// How long it could be told to wait.
    pub max_timeout: Option<Duration>,
    /// Does it go on when its feeder closes it?
    pub unstoppable: Option<bool>,
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

/// The system's watchdog, below a root directory.
#[derive(Debug, Clone)]
pub struct LinuxWatchdog {
    root: Root,
}

impl LinuxWatchdog {
    /// Reads below `root` (`/` on a real system).
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: Root::new(root) }
    }

    pub(crate) fn within(root: Root) -> Self {
        Self { root }
    }
}

impl Watchdog for LinuxWatchdog {
    /// The one that runs, if one does, and a board's own rather than the kernel's imitation.
    fn state(&self) -> Option<WatchdogState> {
        let class = Path::new("sys/class/watchdog");
        let all = self.root.names(class).into_iter().map(|name| device(&self.root, &class.join(name)));
        let mut state = all.min_by_key(|state| (!state.armed, state.name.contains("Software Watchdog")))?;
        if state.last_reset == LastReset::Ordinary
            && let Some(reset) = tegra_reset(&self.root)
        {
            state.last_reset = reset;
        }
        Some(state)
    }
}

fn device(root: &Root, dir: &Path) -> WatchdogState {
    let seconds = |file: &str| root.number(dir.join(file)).map(Duration::from_secs);
    WatchdogState {
        name: root.text(dir.join("identity")).unwrap_or_default(),
        armed: root.text(dir.join("state")).as_deref() == Some("active"),
        timeout: seconds("timeout"),
        max_timeout: seconds("max_timeout"),
        unstoppable: root.number::<u8>(dir.join("nowayout")).map(|flag| flag == 1),
        last_reset: last_reset(root.number(dir.join("bootstatus")).unwrap_or(0)),
    }
}

/// What the power controller of a Jetson says of the last start; its watchdog's driver says nothing.
fn tegra_reset(root: &Root) -> Option<LastReset> {
    let devices = Path::new("sys/bus/platform/devices");
    let controller = root.names(devices).into_iter().find(|name| name.ends_with(".pmc"))?;
    tegra_source(&root.text(devices.join(controller).join("reset_reason"))?)
}

/// *Source:* the reset sources of the kernel's `drivers/soc/tegra/pmc.c`.
fn tegra_source(text: &str) -> Option<LastReset> {
    match text.trim() {
        text if text.contains("WDT") || text.contains("WATCHDOG") => Some(LastReset::Watchdog),
        "SENSOR" | "AOTAG" => Some(LastReset::Overheat),
        "VFSENSOR" => Some(LastReset::Power),
        _ => None,
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
    fn the_one_that_runs_is_told_of_and_hardware_before_software() {
        let idle = [
            ("sys/class/watchdog/watchdog0/identity", "Software Watchdog\n"),
            ("sys/class/watchdog/watchdog0/state", "inactive\n"),
            ("sys/class/watchdog/watchdog1/identity", "sp5100 TCO\n"),
            ("sys/class/watchdog/watchdog1/state", "inactive\n"),
        ];
        assert_eq!(LinuxWatchdog::new(fixture(&idle).path()).state().unwrap().name, "sp5100 TCO");
        let mut files = idle;
        files[1].1 = "active\n";
        assert_eq!(LinuxWatchdog::new(fixture(&files).path()).state().unwrap().name, "Software Watchdog");
    }

    #[test]
    fn a_jetson_says_by_its_power_controller_why_it_started() {
        let root = fixture(&[
            ("sys/class/watchdog/watchdog0/identity", "Tegra WDT\n"),
            ("sys/bus/platform/devices/c360000.pmc/reset_reason", "LCCPLEXWDT\n"),
        ]);
        assert_eq!(LinuxWatchdog::new(root.path()).state().unwrap().last_reset, LastReset::Watchdog);
        assert_eq!((tegra_source("SENSOR\n"), tegra_source("MAINSWRST")), (Some(LastReset::Overheat), None));
    }

    #[test]
    fn a_board_without_a_watchdog_has_none() {
        assert_eq!(LinuxWatchdog::new(fixture(&[]).path()).state(), None);
    }
}
