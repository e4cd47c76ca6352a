//! The generation of the recipientRand secret: what makes the secret and the seen nonces share a lifetime.
//!
//! Seen nonces are not synced one by one, so an unclean stop may lose the newest. The generation goes into
//! every recipientRand; bumping it voids all older offers, and with them every nonce that might be played
//! twice. A ledger that starts from nothing starts at a number drawn at random, because the secret may be
//! older than the ledger.
use std::path::Path;

use rand::RngCore;
use serde::{Deserialize, Serialize};

use crate::error::LedgerError;
use crate::files;

const FILE: &str = "generation";
const CLEAN: &str = "clean";

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Generation {
    generation: u64,
    crc: u32,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Clean {
    generation: u64,
    store_digest: u32,
}

/// Decides the generation for this run, durably, and forgets the last clean stop.
///
/// `store_digest` is that of the store as it was found; `intact` is false when anything had to be repaired.
pub(crate) fn begin(dir: &Path, store_digest: u32, intact: bool) -> Result<u64, LedgerError> {
    let known = read::<Generation>(dir, FILE).filter(|g| g.crc == checksum(g.generation)).map(|g| g.generation);
    let clean = read::<Clean>(dir, CLEAN);
    let stopped_cleanly =
        clean.is_some_and(|clean| Some(clean.generation) == known && clean.store_digest == store_digest);
    let generation = match known {
        Some(generation) if intact && stopped_cleanly => generation,
        Some(generation) => generation.wrapping_add(1),
        None => rand::rngs::OsRng.next_u64() >> 1,
    };
    if known != Some(generation) {
        let record = Generation { generation, crc: checksum(generation) };
        files::replace(dir, FILE, &serde_json::to_vec(&record).expect("plain data"))?;
        tracing::info!(generation, "offers made before this start are void");
    }
    files::remove(dir, CLEAN)?;
    Ok(generation)
}

/// Records a clean stop; everything else must be durable before.
pub(crate) fn end(dir: &Path, generation: u64, store_digest: u32) -> Result<(), LedgerError> {
    let record = Clean { generation, store_digest };
    files::replace(dir, CLEAN, &serde_json::to_vec(&record).expect("plain data"))
}

fn read<T: serde::de::DeserializeOwned>(dir: &Path, name: &str) -> Option<T> {
    serde_json::from_slice(&std::fs::read(dir.join(name)).ok()?).ok()
}

fn checksum(generation: u64) -> u32 {
    crc32fast::hash(&generation.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clean_stop_keeps_the_generation() {
        let dir = tempfile::tempdir().unwrap();
        let first = begin(dir.path(), 0, true).unwrap();
        end(dir.path(), first, 7).unwrap();
        assert_eq!(begin(dir.path(), 7, true).unwrap(), first);
        assert_eq!(begin(dir.path(), 7, true).unwrap(), first + 1);
        end(dir.path(), first + 1, 7).unwrap();
        assert_eq!(begin(dir.path(), 8, true).unwrap(), first + 2, "the store lost something");
        end(dir.path(), first + 2, 8).unwrap();
        assert_eq!(begin(dir.path(), 8, false).unwrap(), first + 3, "something was repaired");
    }

    #[test]
    fn a_lost_generation_is_never_guessed_low() {
        let dir = tempfile::tempdir().unwrap();
        let first = begin(dir.path(), 0, true).unwrap();
        std::fs::write(dir.path().join(FILE), b"{").unwrap();
        assert_ne!(begin(dir.path(), 0, true).unwrap(), first);
        assert_ne!(first, 0);
    }
}
