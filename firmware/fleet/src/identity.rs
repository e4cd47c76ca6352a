//! Who speaks and which life this is: epoch, boot and connection counters, kept beside the spool.
//!
//! The epoch lives and dies with the spool directory: whoever wipes the one draws the other anew, so sequence numbers
//! never mean two things. The connection counter is durable before the CONNECT that carries it.

use std::path::Path;

use fleet_protocol::Epoch;
use fleet_protocol::payload::Life;
use rand::RngCore;
use serde::{Deserialize, Serialize};

use crate::spool::slots::{Found, Slots};
use crate::spool::{SpoolError, make_dir};

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Counters {
    epoch: Epoch,
    boot: u64,
    connection: u64,
    /// The last stop was a graceful one.
    clean: bool,
    /// The controller's reconnect window, seconds.
    #[serde(default)]
    window_s: Option<u32>,
}

/// The counters of this box.
#[derive(Debug)]
pub(crate) struct Identity {
    file: Slots,
    counters: Counters,
    was_clean: bool,
}

impl Identity {
    /// Load and count this start; a missing or damaged file, or `fresh_epoch`, begins a new epoch.
    pub(crate) fn open(dir: &Path, fresh_epoch: bool, chance: &mut impl RngCore) -> Result<Self, SpoolError> {
        make_dir(dir)?;
        // Overwritten in place: a box with a full disk must still be able to say so.
        let (file, found) = Slots::open(&dir.join("identity"))?;
        let stored = match found {
            Found::Document(bytes) => serde_json::from_slice::<Counters>(&bytes).ok(),
            Found::Empty | Found::Damaged => None,
        };
        let was_clean = stored.as_ref().is_none_or(|stored| stored.clean);
        let mut counters = stored.unwrap_or_else(|| Counters {
            epoch: draw(chance),
            boot: 0,
            connection: 0,
            clean: false,
            window_s: None,
        });
        if fresh_epoch {
            counters.epoch = draw(chance);
        }
        counters.boot += 1;
        counters.clean = false;
        let mut identity = Self { file, counters, was_clean };
        identity.save()?;
        Ok(identity)
    }

    /// Epoch, boot and current connection.
    pub(crate) fn life(&self) -> Life {
        let Counters { epoch, boot, connection, .. } = &self.counters;
        Life { e: epoch.clone(), b: *boot, n: *connection }
    }

    /// Whether the stop before this start was graceful.
    pub(crate) fn was_clean(&self) -> bool {
        self.was_clean
    }

    /// The next connection; durable on return.
    pub(crate) fn next_connection(&mut self) -> Result<(), SpoolError> {
        self.counters.connection += 1;
        self.save()
    }

    /// The reconnect window the controller asked for.
    pub(crate) fn window_s(&self) -> Option<u32> {
        self.counters.window_s
    }

    /// Keep the controller's reconnect window.
    pub(crate) fn keep_window(&mut self, window_s: u32) -> Result<(), SpoolError> {
        if self.counters.window_s == Some(window_s) {
            return Ok(());
        }
        self.counters.window_s = Some(window_s);
        self.save()
    }

    /// Note a graceful stop.
    pub(crate) fn stopped_cleanly(&mut self) -> Result<(), SpoolError> {
        self.counters.clean = true;
        self.save()
    }

    fn save(&mut self) -> Result<(), SpoolError> {
        self.file.write(&serde_json::to_vec(&self.counters).expect("counters are always json"))
    }
}

fn draw(chance: &mut impl RngCore) -> Epoch {
    Epoch::new(format!("{:08x}", chance.next_u32())).expect("eight hex digits")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    #[test]
    fn counters_only_grow_and_the_epoch_stays_until_the_directory_is_wiped() {
        let dir = tempfile::tempdir().unwrap();
        let mut chance = StdRng::seed_from_u64(1);
        let mut first = Identity::open(dir.path(), false, &mut chance).unwrap();
        first.next_connection().unwrap();
        let before = first.life();
        let second = Identity::open(dir.path(), false, &mut chance).unwrap();
        assert_eq!((second.life().e, second.life().b, second.life().n), (before.e.clone(), 2, 1));
        assert!(!second.was_clean(), "a start without a graceful stop before it");
        fs::remove_file(dir.path().join("identity")).unwrap();
        assert_ne!(Identity::open(dir.path(), false, &mut chance).unwrap().life().e, before.e);
    }

    #[test]
    fn a_lost_sequence_begins_a_new_epoch_but_counts_on() {
        let dir = tempfile::tempdir().unwrap();
        let mut chance = StdRng::seed_from_u64(1);
        let mut first = Identity::open(dir.path(), false, &mut chance).unwrap();
        first.next_connection().unwrap();
        first.stopped_cleanly().unwrap();
        let second = Identity::open(dir.path(), true, &mut chance).unwrap();
        assert!(second.was_clean());
        assert_ne!(second.life().e, first.life().e);
        assert_eq!((second.life().b, second.life().n), (2, 1));
    }

    #[test]
    fn a_damaged_file_is_a_new_epoch_and_not_a_crash() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("identity"), b"{\"epoch\":").unwrap();
        assert!(Identity::open(dir.path(), false, &mut StdRng::seed_from_u64(2)).is_ok());
    }
}
