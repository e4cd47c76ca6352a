use proptest::prelude::*;

use super::*;
use crate::fixture::{Offer, submission};
use livepeer::units::{L2Block, Wei, WinProb};

fn winner(nonce: u32) -> WinningTicket {
    let offer = Offer::new(1, WinProb::ALWAYS);
    let (nonce, signature) = offer.ticket(nonce);
    offer.batch.check(nonce, &signature).unwrap().draw().unwrap()
}

fn entries() -> Vec<Entry> {
    let state = Redemption::Submitted { submission: submission(1, 1), replaced: vec![], failures: 0 };
    let done = Redemption::Confirmed { transaction: submission(1, 1).hash, block: L2Block(4), paid: Wei::from(9) };
    vec![
        Entry::Winner(winner(1)),
        Entry::Winner(winner(2)),
        Entry::Step { ticket: winner(1).hash(), step: 1, state },
        Entry::Step { ticket: winner(1).hash(), step: 2, state: done },
    ]
}

#[test]
fn what_was_written_is_read() {
    let replay = replay(&encode(&entries()));
    assert_eq!((replay.winners.len(), replay.damaged, replay.torn_bytes), (2, 0, 0));
    assert_eq!(replay.winners[&winner(1).hash()].state.name(), "confirmed");
    assert_eq!(replay.winners[&winner(2).hash()].state, Redemption::NEW);
    assert_eq!((replay.totals.tickets_won, replay.totals.tickets_redeemed), (2, 1));
    assert_eq!((replay.totals.won, replay.totals.paid), (Wei::from(2000), Wei::from(9)));
}

#[test]
fn a_torn_end_is_cut_off_at_every_length() {
    let whole = encode(&entries()[..1]);
    let both = encode(&entries()[..2]);
    for length in whole.len()..both.len() {
        let replay = replay(&both[..length]);
        assert_eq!((replay.winners.len(), replay.damaged), (1, 0), "cut at {length}");
        assert_eq!(replay.good_bytes, u64::try_from(whole.len()).unwrap());
    }
}

#[test]
fn damage_in_the_middle_costs_one_record() {
    let lengths: Vec<usize> = (0..=4).map(|n| encode(&entries()[..n]).len()).collect();
    for at in lengths[1]..lengths[2] {
        let mut bytes = encode(&entries());
        bytes[at] ^= 0x10;
        let replay = replay(&bytes);
        assert!(replay.winners.contains_key(&winner(1).hash()), "flipped at {at}");
        assert!(!replay.winners.contains_key(&winner(2).hash()), "flipped at {at}");
        assert_eq!((replay.damaged, replay.torn_bytes), (1, 0), "flipped at {at}");
        assert_eq!(replay.totals.tickets_redeemed, 1);
    }
}

#[test]
fn a_rewrite_says_the_same_in_fewer_words() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = Journal::open(dir.path()).unwrap();
    journal.append(&entries()).unwrap();
    let before = replay(&std::fs::read(dir.path().join(FILE)).unwrap());
    let end = journal.end();
    journal.rewrite(before.totals, before.winners.values().cloned()).unwrap();
    assert!(std::fs::metadata(dir.path().join(FILE)).unwrap().len() < end);
    let position = journal.append(&[Entry::Winner(winner(3))]).unwrap();
    assert!(position > end, "positions only grow");
    journal.sync_to(position).unwrap();
    let (_, after) = Journal::open(dir.path()).unwrap();
    assert_eq!((after.damaged, after.torn_bytes, after.totals.tickets_won), (0, 0, 3));
    assert_eq!(after.totals.paid, before.totals.paid);
    assert_eq!(after.winners.len(), 3);
    assert_eq!(after.winners[&winner(1).hash()], before.winners[&winner(1).hash()]);
}

#[test]
fn a_damaged_file_is_kept_aside() {
    let dir = tempfile::tempdir().unwrap();
    let mut bytes = encode(&entries());
    bytes[20] ^= 1;
    std::fs::write(dir.path().join(FILE), &bytes).unwrap();
    let (_, replay) = Journal::open(dir.path()).unwrap();
    assert!(replay.damaged > 0);
    assert_eq!(std::fs::read(dir.path().join("winners.journal.damaged-1")).unwrap(), bytes);
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), at in 0usize..2000) {
        let _read = replay(&bytes);
        let mut journal = encode(&entries());
        let at = at % journal.len();
        journal.splice(at..at, bytes);
        let replay = replay(&journal);
        prop_assert_eq!(replay.good_bytes + replay.torn_bytes, u64::try_from(journal.len()).unwrap());
    }
}
