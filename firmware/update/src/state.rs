//! What of an update outlives a boot.
//!
//! ```text
//! installed ── reboot ──► on trial ──► blessed      floor := max(floor, the release's min_version)
//!     │                      └──────► rolled back   the version is refused from now on
//!     └── never started, or the power went meanwhile: interrupted
//! ```

use std::collections::BTreeMap;
use std::path::PathBuf;

use fleet_protocol::version::Version;
use serde::{Deserialize, Serialize};

use crate::files::{self, FileError};
use crate::paths::Paths;

/// Refused versions remembered; the lowest are forgotten first, the floor will be above them.
const REFUSED_MAX: usize = 64;
/// Results kept for the fleet agent.
const RESULTS_MAX: usize = 16;
/// Largest floor file.
const FLOOR_MAX: u64 = 256;

/// The floor file holds no version, so nothing is taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("the floor in {0} is damaged: no update is taken until the box is provisioned anew")]
    Floor(PathBuf),
}

/// An update between its installation and its outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pending {
    /// The request it came by; the result carries it.
    pub(crate) id: String,
    pub(crate) from: Version,
    pub(crate) to: Version,
    /// The floor once it is blessed.
    pub(crate) min_version: Version,
    /// The boot in which it was installed.
    pub(crate) boot_id: String,
    /// Unix seconds of its installation.
    pub(crate) at: i64,
    /// Boots of it that were seen so far.
    pub(crate) tries: u32,
    /// The boot that was counted last.
    pub(crate) counted: String,
}

/// What became of an update.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Became {
    /// It proved itself.
    Blessed,
    /// The old version runs again, by itself.
    RolledBack,
    /// It was never started: the power went, or somebody chose the old one.
    Interrupted,
    /// It could not be installed.
    Failed,
    /// There was no quiet moment until the deadline.
    Deferred,
    /// A version that was good before fails its health checks: it stays up, and does nothing.
    SafeMode,
}

/// The record the fleet agent reports, once for each id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// Counts the results of this box; the fleet agent reports those after the last one it has told of.
    #[serde(default)]
    pub(crate) seq: u64,
    /// The request it answers; unique for each attempt.
    pub(crate) id: String,
    pub(crate) from: Version,
    pub(crate) to: Version,
    pub(crate) became: Became,
    /// Why, when it is not good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    /// Unix seconds.
    pub(crate) at: i64,
}

/// The versions that are not taken, each with the reason.
pub(crate) type Refused = BTreeMap<String, String>;

/// Reads and writes it.
#[derive(Debug, Clone)]
pub(crate) struct State {
    dir: PathBuf,
}

impl State {
    pub(crate) fn of(paths: &Paths) -> Self {
        Self { dir: paths.state() }
    }

    /// No version below it is taken. A file that makes no sense lets nothing through.
    pub(crate) fn floor(&self) -> Result<Option<Version>, StateError> {
        let path = self.dir.join("floor");
        let Some(bytes) = files::get(&path, FLOOR_MAX)? else { return Ok(None) };
        let text = String::from_utf8_lossy(&bytes);
        text.trim().parse().map(Some).map_err(|_| StateError::Floor(path))
    }

    /// Raises the floor; what is lower than it changes nothing. Durable on return.
    pub(crate) fn raise_floor(&self, to: &Version) -> Result<(), StateError> {
        if self.floor()?.is_none_or(|floor| floor < *to) {
            self.put_floor(to)?;
        }
        Ok(())
    }

    /// Writes the floor whatever was there: for whoever knows better.
    pub(crate) fn put_floor(&self, to: &Version) -> Result<(), StateError> {
        Ok(files::put(&self.dir.join("floor"), format!("{to}\n").as_bytes(), 0o644)?)
    }

    pub(crate) fn refused(&self) -> Result<Refused, StateError> {
        Ok(files::get_json(&self.dir.join("refused.json"))?.unwrap_or_default())
    }

    /// Puts a version on the list. Durable on return.
    pub(crate) fn refuse(&self, version: &Version, reason: &str) -> Result<(), StateError> {
        let mut refused = self.refused()?;
        refused.insert(version.to_string(), reason.chars().take(200).collect());
        while refused.len() > REFUSED_MAX {
            let lowest = refused.keys().min_by_key(|text| text.parse::<Version>().ok()).cloned();
            lowest.and_then(|lowest| refused.remove(&lowest));
        }
        Ok(files::put_json(&self.dir.join("refused.json"), &refused, 0o644)?)
    }

    pub(crate) fn pending(&self) -> Result<Option<Pending>, StateError> {
        Ok(files::get_json(&self.dir.join("pending.json"))?)
    }

    pub(crate) fn set_pending(&self, pending: &Pending) -> Result<(), StateError> {
        Ok(files::put_json(&self.dir.join("pending.json"), pending, 0o644)?)
    }

    pub(crate) fn no_longer_pending(&self) -> Result<(), StateError> {
        Ok(files::remove(&self.dir.join("pending.json"))?)
    }

    /// The last results, the oldest first.
    pub(crate) fn results(&self) -> Result<Vec<Outcome>, StateError> {
        Ok(files::get_json(&self.dir.join("results.json"))?.unwrap_or_default())
    }

    /// Adds a result and gives it its number; the same one twice is one. Durable on return.
    pub(crate) fn add_result(&self, mut outcome: Outcome) -> Result<Outcome, StateError> {
        let mut results = self.results()?;
        if let Some(same) = results.iter().find(|known| known.id == outcome.id && known.became == outcome.became) {
            return Ok(same.clone());
        }
        outcome.seq = results.last().map_or(0, |last| last.seq) + 1;
        results.push(outcome.clone());
        let from = results.len().saturating_sub(RESULTS_MAX);
        files::put_json(&self.dir.join("results.json"), &results.split_off(from), 0o644)?;
        Ok(outcome)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn state() -> (tempfile::TempDir, State) {
        let dir = tempfile::tempdir().unwrap();
        let state = State { dir: dir.path().to_owned() };
        (dir, state)
    }

    #[test]
    fn a_damaged_floor_lets_nothing_through() {
        let (dir, state) = state();
        assert!(state.floor().unwrap().is_none());
        std::fs::write(dir.path().join("floor"), "").unwrap();
        assert!(matches!(state.floor(), Err(StateError::Floor(_))));
        assert!(state.raise_floor(&"1.0".parse().unwrap()).is_err());
    }

    #[test]
    fn refused_versions_are_remembered_and_bounded() {
        let (_dir, state) = state();
        for minor in 0..80 {
            state.refuse(&format!("1.{minor}").parse().unwrap(), "because").unwrap();
        }
        let refused = state.refused().unwrap();
        assert_eq!(refused.len(), REFUSED_MAX);
        assert!(refused.contains_key("1.79") && !refused.contains_key("1.2"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn the_floor_never_goes_down(steps in proptest::collection::vec((0..4u64, 0..4u64), 1..10)) {
            let (_dir, state) = state();
            let mut highest = None;
            for (major, minor) in steps {
                let version: Version = format!("{major}.{minor}").parse().unwrap();
                state.raise_floor(&version).unwrap();
                highest = highest.max(Some(version));
                prop_assert_eq!(state.floor().unwrap(), highest.clone());
            }
        }
    }
}
