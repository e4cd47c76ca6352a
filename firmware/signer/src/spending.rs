//! What was signed today, on disk before the signature leaves.
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use livepeer::address::H256;
use livepeer::units::Wei;
use serde::{Deserialize, Serialize};
use signer_protocol::Refusal;

const FILE: &str = "spending.json";
/// How many of the day's transactions are remembered, so that signing one again costs nothing. Beyond it the
/// oldest are forgotten, which errs on the side of counting twice.
const MAX_REMEMBERED: usize = 512;

/// The record of one UTC day.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Day {
    /// Days since 1970.
    day: i64,
    /// What the transactions signed that day can cost.
    spent: Wei,
    /// Hashes that were signed.
    signed: Vec<H256>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    day: Day,
    crc: u32,
}

/// The spending record, and where it is kept.
#[derive(Debug)]
pub(crate) struct Spending {
    dir: PathBuf,
    today: Day,
}

impl Spending {
    /// Reads the record. One that is damaged counts as a day that is fully spent: the box signs no transaction
    /// until tomorrow, and then recovers by itself.
    pub(crate) fn open(dir: &Path, limit: Wei, now: i64) -> std::io::Result<Self> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let today = match std::fs::read(dir.join(FILE)) {
            Ok(bytes) => match serde_json::from_slice::<Stored>(&bytes) {
                Ok(stored) if stored.crc == checksum(&stored.day) => stored.day,
                _ => {
                    tracing::error!("spending record is damaged: no transaction is signed until tomorrow (UTC)");
                    Day { day: day_of(now), spent: limit, signed: Vec::new() }
                }
            },
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Day::default(),
            Err(error) => return Err(error),
        };
        Ok(Self { dir: dir.to_owned(), today })
    }

    /// What was signed on the day of `now`.
    pub(crate) fn spent(&self, now: i64) -> Wei {
        if day_of(now) > self.today.day { Wei::ZERO } else { self.today.spent }
    }

    /// Counts a transaction against the day's limit. Durable on return; only then may it be signed.
    ///
    /// A clock that goes backwards stays in the latest day it showed.
    pub(crate) fn charge(&mut self, hash: H256, cost: Wei, limit: Wei, now: i64) -> Result<(), Refusal> {
        let mut next = self.today.clone();
        if day_of(now) > next.day {
            next = Day { day: day_of(now), ..Day::default() };
        }
        if next.signed.contains(&hash) {
            return Ok(());
        }
        let spent = next.spent;
        let total = spent.checked_add(cost).filter(|total| *total <= limit);
        next.spent = total.ok_or(Refusal::DailyLimit { cost, spent, limit })?;
        next.signed.push(hash);
        if next.signed.len() > MAX_REMEMBERED {
            next.signed.remove(0);
        }
        self.store(&next).map_err(|error| {
            tracing::error!(%error, "spending record cannot be written: check the disk");
            Refusal::Unrecorded
        })?;
        self.today = next;
        Ok(())
    }

    fn store(&self, day: &Day) -> std::io::Result<()> {
        let (fresh, path) = (self.dir.join("spending.new"), self.dir.join(FILE));
        let stored = Stored { day: day.clone(), crc: checksum(day) };
        let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        file.write_all(&serde_json::to_vec(&stored)?)?;
        file.sync_all()?;
        std::fs::rename(&fresh, &path)?;
        std::fs::File::open(&self.dir)?.sync_all()
    }
}

fn day_of(unix_seconds: i64) -> i64 {
    unix_seconds.div_euclid(86_400)
}

fn checksum(day: &Day) -> u32 {
    crc32fast::hash(&serde_json::to_vec(day).expect("plain data"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: i64 = 20_000 * 86_400 + 43_200;
    const DAY: i64 = 86_400;

    fn open(dir: &Path) -> Spending {
        Spending::open(dir, Wei::from(100), NOON).unwrap()
    }

    fn charge(spending: &mut Spending, id: u8, cost: u64, now: i64) -> Result<(), Refusal> {
        spending.charge(H256::repeat_byte(id), Wei::from(cost), Wei::from(100), now)
    }

    #[test]
    fn a_restart_keeps_what_was_spent_today() {
        let dir = tempfile::tempdir().unwrap();
        charge(&mut open(dir.path()), 1, 60, NOON).unwrap();
        let mut again = open(dir.path());
        assert_eq!(again.spent(NOON), Wei::from(60));
        let refused = charge(&mut again, 2, 41, NOON).unwrap_err();
        assert!(matches!(refused, Refusal::DailyLimit { spent, .. } if spent == Wei::from(60)));
        charge(&mut again, 2, 40, NOON).unwrap();
    }

    #[test]
    fn a_new_day_starts_from_nothing_and_an_old_one_never_returns() {
        let dir = tempfile::tempdir().unwrap();
        let mut spending = open(dir.path());
        charge(&mut spending, 1, 100, NOON).unwrap();
        charge(&mut spending, 2, 100, NOON + DAY).unwrap();
        assert!(charge(&mut spending, 3, 1, NOON).is_err(), "the clock went back");
        assert!(charge(&mut spending, 3, 1, NOON + DAY).is_err());
        assert_eq!(spending.spent(NOON + 2 * DAY), Wei::ZERO);
    }

    #[test]
    fn the_same_transaction_counts_once() {
        let dir = tempfile::tempdir().unwrap();
        let mut spending = open(dir.path());
        charge(&mut spending, 1, 100, NOON).unwrap();
        charge(&mut spending, 1, 100, NOON).unwrap();
        charge(&mut open(dir.path()), 1, 100, NOON).unwrap();
    }

    #[test]
    fn a_damaged_record_is_a_day_fully_spent() {
        let dir = tempfile::tempdir().unwrap();
        charge(&mut open(dir.path()), 1, 10, NOON).unwrap();
        let path = dir.path().join(FILE);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace("\"10\"", "\"00\"")).unwrap();
        let mut spending = open(dir.path());
        assert!(charge(&mut spending, 2, 1, NOON).is_err());
        charge(&mut spending, 2, 1, NOON + DAY).unwrap();
    }

    #[test]
    fn what_cannot_be_recorded_is_not_signed() {
        let dir = tempfile::tempdir().unwrap();
        let mut spending = open(dir.path());
        std::fs::remove_dir_all(dir.path()).unwrap();
        assert_eq!(charge(&mut spending, 1, 1, NOON), Err(Refusal::Unrecorded));
        assert_eq!(spending.spent(NOON), Wei::ZERO);
    }
}
