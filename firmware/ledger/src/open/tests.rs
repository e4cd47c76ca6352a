use livepeer::units::{L2Block, Round, WinProb};

use super::*;
use crate::fixture::{EXPIRATION, FACE_VALUE, Offer, open, submission};
use crate::redemption::RedemptionEvent;

fn paid(dir: &Path, nonces: &[u32]) -> (Ledger, Vec<H256>) {
    let ledger = open(dir);
    let won = Offer::new(1, WinProb::ALWAYS).pay(&ledger, nonces).won;
    (ledger, won)
}

#[test]
fn a_second_process_is_told_that_one_is_running() {
    let dir = tempfile::tempdir().unwrap();
    let _first = open(dir.path());
    let second = Ledger::open(&dir.path().join("ledger"), OpenOptions::default()).unwrap_err();
    assert!(matches!(second, LedgerError::AlreadyRunning { .. }));
    assert!(second.to_string().starts_with("already running"));
    assert!(matches!(rebuild(&dir.path().join("ledger")), Err(LedgerError::AlreadyRunning { .. })));
}

#[test]
fn a_damaged_store_is_rebuilt_from_the_journal() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, won) = paid(dir.path(), &[1, 2]);
    ledger.submit(won[0], submission(0, 1)).unwrap();
    let (generation, totals) = (ledger.generation(), ledger.totals());
    ledger.close().unwrap();
    drop(ledger);
    let db = dir.path().join("ledger/sled/db");
    let length = std::fs::metadata(&db).unwrap().len();
    std::fs::write(&db, vec![0xff; usize::try_from(length).unwrap()]).unwrap();
    let ledger = open(dir.path());
    assert_eq!(ledger.redemption(won[0]).unwrap().name(), "submitted");
    assert_eq!(ledger.submitted()[0].submission(), &submission(0, 1));
    assert_eq!(ledger.redemption(won[1]), Some(Redemption::NEW));
    assert_eq!(ledger.totals().won, totals.won);
    assert_ne!(ledger.generation(), generation, "nonces were lost, so offers are");
    assert_eq!(ledger.balance(&Offer::new(1, WinProb::ALWAYS).account()).unwrap(), Balance::default());
}

#[test]
fn a_flipped_bit_anywhere_in_the_store_loses_no_winner_and_replays_no_nonce() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, won) = paid(dir.path(), &[1, 2, 3]);
    let before = ledger.generation();
    ledger.close().unwrap();
    drop(ledger);
    let db = dir.path().join("ledger/sled/db");
    let good = std::fs::read(&db).unwrap();
    let clean = std::fs::read(dir.path().join("ledger/clean")).unwrap();
    let generation = std::fs::read(dir.path().join("ledger/generation")).unwrap();
    let used = good.iter().rposition(|byte| *byte != 0).unwrap();
    let mut noticed = 0;
    for step in 0..12 {
        let mut bad = good.clone();
        bad[step * used / 12] ^= 0x04;
        std::fs::write(&db, &bad).unwrap();
        std::fs::write(dir.path().join("ledger/clean"), &clean).unwrap();
        std::fs::write(dir.path().join("ledger/generation"), &generation).unwrap();
        let ledger = open(dir.path());
        for ticket in &won {
            assert_eq!(ledger.redemption(*ticket), Some(Redemption::NEW), "bit flipped at step {step}");
        }
        let replayed = Offer::new(1, WinProb::ALWAYS).pay(&ledger, &[1]);
        let offer_is_void = ledger.generation() != before;
        assert!(replayed.error.is_some() || offer_is_void, "bit flipped at step {step}");
        noticed += usize::from(offer_is_void);
        drop(ledger);
        for entry in std::fs::read_dir(dir.path().join("ledger")).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name().unwrap().to_string_lossy().starts_with("sled.damaged") {
                std::fs::remove_dir_all(path).unwrap();
            }
        }
        std::fs::remove_dir_all(dir.path().join("ledger/sled/blobs")).ok();
        for entry in std::fs::read_dir(dir.path().join("ledger/sled")).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name().unwrap().to_string_lossy().starts_with("snap") {
                std::fs::remove_file(path).unwrap();
            }
        }
    }
    assert!(noticed > 0, "no flip was noticed at all: the test flips nothing that matters");
}

#[test]
fn a_rebuild_keeps_winners_and_counts_them() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, won) = paid(dir.path(), &[1, 2]);
    ledger.submit(won[0], submission(0, 1)).unwrap();
    let paid = Wei::from(900);
    let event = RedemptionEvent::Confirmed { transaction: submission(0, 1).hash, block: L2Block(3), paid };
    ledger.advance(won[0], event).unwrap();
    drop(ledger);
    let rebuilt = rebuild(&dir.path().join("ledger")).unwrap();
    assert_eq!((rebuilt.winners, rebuilt.pending.tickets), (2, 1));
    assert!(rebuilt.set_aside.unwrap().exists());
    let ledger = open(dir.path());
    assert_eq!((ledger.totals().tickets_redeemed, ledger.totals().paid), (1, paid));
    assert_eq!(ledger.due(EXPIRATION, Round(5)).len(), 1);
}

#[test]
fn an_export_restores_the_winners_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, won) = paid(dir.path(), &[1, 2]);
    std::fs::create_dir_all(dir.path().join("other/ledger")).unwrap();
    assert_eq!(ledger.export(&dir.path().join("other/ledger").join(journal::FILE)).unwrap(), 2);
    let other = open(&dir.path().join("other"));
    assert_eq!(other.totals(), ledger.totals());
    assert_eq!(other.redemption(won[1]), Some(Redemption::NEW));
    assert_eq!(other.pending().face_value, Wei::from(2 * FACE_VALUE));
}

#[test]
fn a_lost_journal_is_written_again_from_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, won) = paid(dir.path(), &[1, 2]);
    drop(ledger);
    std::fs::remove_file(dir.path().join("ledger").join(journal::FILE)).unwrap();
    let ledger = open(dir.path());
    assert_eq!(ledger.redemption(won[0]), Some(Redemption::NEW));
    let bytes = std::fs::read(dir.path().join("ledger").join(journal::FILE)).unwrap();
    assert_eq!(journal::replay(&bytes).winners.len(), 2);
}

#[test]
fn a_newer_schema_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, _) = paid(dir.path(), &[1]);
    let mut changes = Changes::default();
    changes.put(Kind::Meta, b"schema", &(SCHEMA + 1).to_be_bytes());
    ledger.0.store.apply(changes).unwrap();
    ledger.close().unwrap();
    drop(ledger);
    let refused = Ledger::open(&dir.path().join("ledger"), OpenOptions::default()).unwrap_err();
    assert!(matches!(refused, LedgerError::NewerSchema { found: 2, known: 1 }));
}

#[test]
fn nobody_else_may_read_the_files() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    let (_ledger, _) = paid(dir.path(), &[1]);
    let mode = |name: &str| std::fs::metadata(dir.path().join("ledger").join(name)).unwrap().mode() & 0o077;
    assert_eq!((mode("."), mode(journal::FILE), mode("sled")), (0, 0, 0));
}
