//! The ledger's process is killed at any line, again and again.

use std::process::Command;

use ledger::{Ledger, OpenOptions};
use millrace_tests::bins::bin;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::powercut::{Said, check, run};

#[test]
fn a_killed_process_loses_nothing_it_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let (mut rng, mut said) = (StdRng::seed_from_u64(0x5eed_0004), Said::default());
    for round in 1..=12 {
        let mut command = Command::new(bin("ledger-writer"));
        command.arg("ledger").arg(dir.path()).arg(round.to_string());
        let lines = rng.gen_range(1..300);
        run(command, lines, &mut said);
        assert_eq!(said.error, None, "round {round}");
        check(dir.path(), &said, &format!("round {round}, killed after {lines} lines"));
    }
    assert!(said.won.values().map(std::collections::BTreeSet::len).sum::<usize>() > 100);
}

#[test]
fn a_long_journal_is_rewritten_without_losing_anything() {
    let dir = tempfile::tempdir().unwrap();
    let mut said = Said::default();
    let mut command = Command::new(bin("ledger-writer"));
    command.arg("ledger").arg(dir.path()).arg("1");
    run(command, 300, &mut said);
    // Grow the file past the limit by what a long life would have put there: the same entries again.
    let path = dir.path().join("ledger").join(ledger::journal::FILE);
    let entries = std::fs::read(&path).unwrap();
    let times = 5 * 1024 * 1024 / entries.len() + 1;
    std::fs::write(&path, entries.repeat(times)).unwrap();
    let totals = Ledger::open(&dir.path().join("ledger"), OpenOptions::default()).unwrap().totals();
    assert!(std::fs::metadata(&path).unwrap().len() < 1024 * 1024, "it was not rewritten");
    check(dir.path(), &said, "after the rewrite");
    let again = Ledger::open(&dir.path().join("ledger"), OpenOptions::default()).unwrap().totals();
    assert_eq!(again, totals);
}
