//! One light, six things to say; a look from across the room is enough.
//!
//! | Light | Says |
//! |---|---|
//! | heartbeat | serves |
//! | slow, even blinking | waits for its site file, or to be let into its fleet |
//! | quick blinking | starts, updates, or tries a new version |
//! | a flash every two seconds | safe mode |
//! | very quick blinking | something is broken |
//! | dark | decommissioned, or switched off |

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::Facts;
use crate::files::{FileError, io_at};
use crate::progress::Phase;

/// What the light says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Light {
    Serving,
    Waiting,
    Busy,
    SafeMode,
    Fault,
    Dark,
}

/// What a board calls the light that is for the system: the last part of a name such as `green:status`.
const NAMES: [&str; 7] = ["status", "system", "sys", "heartbeat", "health", "ACT", "led0"];

/// The lights for the system, by their directories. Keyboards, network ports and disks have lights too: not those.
pub(super) fn of_board(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let ours = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        NAMES.contains(&name.rsplit(':').next().unwrap_or_default())
    };
    let mut found: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(ours).collect();
    found.sort();
    found
}

impl Light {
    pub(super) fn of(facts: &Facts) -> Self {
        let active = |name: &str| facts.units.iter().find(|unit| unit.name == name).map_or("", |unit| &unit.active);
        let installs = facts
            .progress
            .as_ref()
            .is_some_and(|report| matches!(report.phase, Phase::Draining | Phase::Installing | Phase::Rebooting));
        if facts.decommissioned {
            Self::Dark
        } else if facts.safe_mode {
            Self::SafeMode
        } else if !facts.provisioned || facts.claim_waits {
            Self::Waiting
        } else if UNITS_OF_WORK.iter().any(|name| active(name) == "failed") {
            Self::Fault
        } else if facts.on_trial || installs || active("node") != "active" {
            Self::Busy
        } else {
            Self::Serving
        }
    }

    /// Trigger, and for `timer` the milliseconds on and off.
    fn pattern(self) -> (&'static str, Option<(u32, u32)>) {
        match self {
            Self::Serving => ("heartbeat", None),
            Self::Waiting => ("timer", Some((1000, 1000))),
            Self::Busy => ("timer", Some((250, 250))),
            Self::SafeMode => ("timer", Some((100, 1900))),
            Self::Fault => ("timer", Some((80, 80))),
            Self::Dark => ("none", None),
        }
    }

    /// Shows it; a kernel without the trigger shows steady light for a box that serves, and none for all else.
    pub(super) fn show(self, led: &Path) -> Result<(), FileError> {
        let put = |name: &str, text: &str| fs::write(led.join(name), text).map_err(io_at(&led.join(name)));
        let (trigger, times) = self.pattern();
        let known = fs::read_to_string(led.join("trigger")).map_err(io_at(&led.join("trigger")))?;
        let known = known.split_whitespace().any(|word| word.trim_matches(['[', ']']) == trigger);
        if !known || trigger == "none" {
            put("trigger", "none")?;
            let full = fs::read_to_string(led.join("max_brightness")).unwrap_or_else(|_: io::Error| "1".to_owned());
            return put("brightness", if self == Self::Serving { full.trim() } else { "0" });
        }
        put("trigger", trigger)?;
        if let Some((on, off)) = times {
            put("delay_on", &on.to_string())?;
            put("delay_off", &off.to_string())?;
        }
        Ok(())
    }
}

/// Without these the box does not earn.
const UNITS_OF_WORK: [&str; 3] = ["node", "signer", "health"];
