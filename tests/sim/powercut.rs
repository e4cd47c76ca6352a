//! The power goes: whatever was not synced is lost, and no acknowledged winner with it.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use ledger::{Ledger, OpenOptions};
use livepeer::address::H256;
use livepeer::units::Wei;
use millrace_tests::bins::bin;
use millrace_tests::powercut::tickets::{FACE_VALUE, account, gateway};
use millrace_tests::powercut::{Disk, Faults};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// What a writer said before it was killed, or died.
#[derive(Debug, Default)]
pub(crate) struct Said {
    pub(crate) won: BTreeMap<u8, BTreeSet<H256>>,
    pub(crate) seen: BTreeMap<u8, u64>,
    pub(crate) steps: BTreeMap<H256, String>,
    pub(crate) generations: Vec<u64>,
    pub(crate) acks: u64,
    pub(crate) error: Option<String>,
}

impl Said {
    fn hear(&mut self, line: &str) {
        let mut words = line.split(' ');
        let word = words.next().unwrap_or_default();
        let mut next = || words.next().unwrap_or_default();
        match word {
            "open" => self.generations.push(next().parse().unwrap()),
            "seen" => {
                let (payer, credit): (u8, u64) = (next().parse().unwrap(), next().parse().unwrap());
                let most = self.seen.entry(payer).or_default();
                *most = credit.max(*most);
            }
            "won" => {
                let payer = next().parse().unwrap();
                let won = words.filter(|word| !word.is_empty()).map(|word| word.parse::<H256>().unwrap());
                self.won.entry(payer).or_default().extend(won);
            }
            "step" => {
                self.steps.insert(next().parse().unwrap(), next().to_owned());
            }
            "ack" => self.acks = next().parse::<u64>().unwrap() + 1,
            "error" => self.error = Some(line.to_owned()),
            _ => panic!("the writer said {line:?}"),
        }
    }

    fn winners(&self) -> usize {
        self.won.values().map(BTreeSet::len).sum()
    }
}

/// Runs a writer until it has said so many lines, kills it, and hears what else it had said. A writer that ends
/// by itself is heard to its end.
pub(crate) fn run(mut command: Command, lines: usize, said: &mut Said) {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    for (count, line) in out.lines().enumerate() {
        // A line cut short by the kill was not said.
        let Ok(line) = line else { break };
        if count == lines {
            child.kill().unwrap();
        }
        if !(count >= lines && is_cut_short(&line)) {
            said.hear(&line);
        }
    }
    child.wait().unwrap();
}

/// The last line may have been cut by the kill: hashes are whole or not there.
fn is_cut_short(line: &str) -> bool {
    line.split(' ').any(|word| word.starts_with("0x") && word.len() != 66) || line.split(' ').count() < 2
}

/// Opens what survived and holds it against what was said.
pub(crate) fn check(survived: &Path, said: &Said, context: &str) {
    let ledger = Ledger::open(&survived.join("ledger"), OpenOptions::default())
        .unwrap_or_else(|error| panic!("{context}: the ledger does not open: {error:?}"));
    for (payer, won) in &said.won {
        for ticket in won {
            assert!(ledger.redemption(*ticket).is_some(), "{context}: gateway {payer} lost {ticket:?}");
        }
    }
    for (ticket, state) in &said.steps {
        let now = ledger.redemption(*ticket).unwrap_or_else(|| panic!("{context}: {ticket:?} is lost"));
        let settled = now.is_settled();
        assert!(
            now.name() == state || settled || (state == "held" || now.name() == "held") && state != "confirmed",
            "{context}: {ticket:?} was {state} and is {}",
            now.name()
        );
    }
    // Every ticket of these two wins and none is redeemed, so credit is covered by winners that are there.
    let pending = ledger.pending_by_sender();
    for payer in [1, 2] {
        let covered = pending.get(&gateway(payer)).map_or(0, |pending| pending.tickets) * FACE_VALUE;
        let credit = ledger.balance(&account(payer)).unwrap().credit;
        assert!(credit <= Wei::from(covered), "{context}: gateway {payer} has {credit} wei for winners of {covered}");
        let seen = said.seen.get(&payer).copied().unwrap_or_default();
        assert!(seen <= covered, "{context}: gateway {payer} saw {seen} wei, winners of {covered} are left");
    }
    let last = said.generations.last();
    assert!(Some(&ledger.generation()) != last, "{context}: nonces may be lost and the offers are not void");
}

fn writer(disk: &Disk, faults: Faults, arguments: &[&str]) -> Command {
    let mut command = disk.command(&bin("ledger-writer"), faults);
    let [engine, rest @ ..] = arguments else { panic!("no engine") };
    command.arg(engine).arg(disk.root()).args(rest);
    command
}

#[test]
fn the_harness_loses_what_is_only_flushed() {
    let mut lost = 0;
    for seed in 0..5 {
        let (disk, mut said) = (Disk::new().unwrap(), Said::default());
        run(writer(&disk, Faults { seed, ..Faults::NONE }, &["sled-flush"]), 50, &mut said);
        let survived = disk.survived().unwrap();
        let db = sled::open(survived.join("sled")).unwrap();
        lost += (0..said.acks).filter(|n| db.get(n.to_be_bytes()).unwrap().is_none()).count();
    }
    assert!(lost > 0, "nothing is lost without a sync, so this harness proves nothing");
}

#[test]
fn the_harness_keeps_what_is_synced() {
    for (seed, leak) in [(1, 0), (2, 50)] {
        let (disk, mut said) = (Disk::new().unwrap(), Said::default());
        run(writer(&disk, Faults { seed, leak, ..Faults::NONE }, &["file"]), 200, &mut said);
        let log = std::fs::read(disk.survived().unwrap().join("log")).unwrap();
        let kept = u64::try_from(log.len() / 8).unwrap();
        assert!(said.acks >= 200 && kept >= said.acks, "{kept} of {} are left", said.acks);
    }
}

/// The disk lies about `fdatasync` only. A cut right after one of the store's own `fsync`s finds everything there, so
/// one cut proves nothing and five are made.
#[test]
fn the_harness_notices_a_ledger_that_does_not_sync() {
    let (mut lost, mut won) = (0, 0);
    for seed in 0..5 {
        let (disk, mut said) = (Disk::new().unwrap(), Said::default());
        run(writer(&disk, Faults { seed, lie: true, ..Faults::NONE }, &["ledger", "1"]), 200, &mut said);
        let survived = disk.survived().unwrap();
        let ledger = Ledger::open(&survived.join("ledger"), OpenOptions::default()).unwrap();
        lost += said.won.values().flatten().filter(|ticket| ledger.redemption(**ticket).is_none()).count();
        won += said.winners();
    }
    assert!(lost > 10, "only {lost} of {won} winners are lost on a disk that lies");
}

/// Cuts the power many times: young ledgers and grown ones, with nothing unsynced surviving and with some of it.
fn cut_again_and_again(seed: u64, leak: u32, chains: u64, cuts: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let (mut winners, mut steps) = (0, 0);
    for chain in 0..chains {
        let (mut disk, mut said) = (Disk::new().unwrap(), Said::default());
        for cut in 0..cuts {
            let faults = Faults { leak, seed: rng.gen_range(0..u64::MAX), ..Faults::NONE };
            let lines = rng.gen_range(1..250);
            let context = format!("seed {seed}, leak {leak}, chain {chain}, cut {cut} after {lines} lines");
            let before = said.generations.len();
            run(writer(&disk, faults, &["ledger", &(cut + 1).to_string()]), lines, &mut said);
            assert_eq!(said.error, None, "{context}");
            assert!(said.generations.len() > before, "{context}: the ledger did not open");
            let survived = disk.survived().unwrap();
            check(&survived, &said, &context);
            disk = Disk::holding(&disk.survived().unwrap()).unwrap();
        }
        winners += said.winners();
        steps += said.steps.len();
    }
    eprintln!("seed {seed}, leak {leak}: {} cuts, {winners} winners and {steps} redemptions kept", chains * cuts);
    assert!(winners > 100 && steps > 10, "too little happened: {winners} winners, {steps} redemptions");
}

#[test]
fn no_acknowledged_winner_is_lost_when_all_unsynced_writes_are() {
    cut_again_and_again(0x5eed_0001, 0, 6, 4);
}

#[test]
fn no_acknowledged_winner_is_lost_when_some_unsynced_writes_survive() {
    cut_again_and_again(0x5eed_0002, 40, 4, 4);
}

#[test]
fn credit_is_never_visible_before_its_winner_is_durable() {
    let mut rng = StdRng::seed_from_u64(0x5eed_0003);
    let mut seen = 0;
    for cut in 0..6 {
        let (disk, mut said) = (Disk::new().unwrap(), Said::default());
        run(writer(&disk, Faults::NONE, &["ledger", "1"]), rng.gen_range(5..60), &mut said);
        check(&disk.survived().unwrap(), &said, &format!("cut {cut}"));
        seen += said.seen.values().sum::<u64>();
    }
    assert!(seen > 0, "no credit was ever seen");
}

#[test]
fn a_full_disk_acknowledges_nothing_it_did_not_keep() {
    let mut filled_late = 0;
    for (full_after, leak) in [(600_000, 0), (1_200_000, 0), (1_500_000, 30), (2_000_000, 0)] {
        let (disk, mut said) = (Disk::new().unwrap(), Said::default());
        let faults = Faults { full_after: Some(full_after), leak, ..Faults::NONE };
        run(writer(&disk, faults, &["ledger", "1"]), usize::MAX, &mut said);
        let context = format!("full after {full_after} bytes");
        let error = said.error.clone().unwrap_or_else(|| panic!("{context}: the writer ended without a word"));
        assert!(error.contains("disk full"), "{context}: {error}");
        if said.generations.is_empty() {
            continue;
        }
        filled_late += said.winners();
        check(&disk.survived().unwrap(), &said, &context);
        // The same without a power cut: room is made and the node started again.
        check(&disk.root(), &said, &context);
    }
    assert!(filled_late > 0, "the disk was always full before the first winner");
}

#[test]
fn a_sync_that_fails_ends_all_acknowledgements() {
    let mut failed_late = 0;
    for syncs in [3, 20, 60, 150] {
        let (disk, mut said) = (Disk::new().unwrap(), Said::default());
        run(writer(&disk, Faults { syncs: Some(syncs), ..Faults::NONE }, &["ledger", "1"]), usize::MAX, &mut said);
        let context = format!("syncs fail after {syncs}");
        assert!(said.error.is_some(), "{context}: the writer noticed nothing");
        if said.generations.is_empty() {
            continue;
        }
        failed_late += 1;
        check(&disk.survived().unwrap(), &said, &context);
    }
    assert!(failed_late > 0, "every sync failed before the ledger was open");
}
