use livepeer::recipient_rand::OfferTerms;
use livepeer::units::{L2Block, Wei, WinProb};

use super::*;
use crate::fixture::{EXPIRATION, Offer, open, submission};
use crate::journal;

fn confirmed(id: u8, paid: u64) -> RedemptionEvent {
    RedemptionEvent::Confirmed { transaction: submission(0, id).hash, block: L2Block(8), paid: Wei::from(paid) }
}

#[test]
fn a_winner_is_due_only_when_its_offer_is_over_and_its_round_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    Offer::new(1, WinProb::ALWAYS).pay(&ledger, &[1]);
    let before = L1Block(EXPIRATION.0 - 1);
    assert_eq!(ledger.due(before, Round(5)).len(), 0, "recipientRand would be revealed too early");
    assert_eq!(ledger.due(EXPIRATION, Round(5)).len(), 1);
    assert_eq!(ledger.due(EXPIRATION, Round(6)).len(), 1);
    assert_eq!(ledger.due(EXPIRATION, Round(7)).len(), 0);
    assert_eq!((ledger.overdue(Round(6)).len(), ledger.overdue(Round(7)).len()), (0, 1));
}

#[test]
fn the_oldest_round_comes_first_and_then_the_largest_face_value() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    for (seed, round, face_value) in [(1, 6, 900), (2, 5, 10), (3, 6, 1000), (4, 5, 20)] {
        Offer::with(1, 0, seed, |terms| OfferTerms {
            creation_round: Round(round),
            face_value: Wei::from(face_value),
            ..terms
        })
        .pay(&ledger, &[1]);
    }
    let due: Vec<_> = ledger
        .due(EXPIRATION, Round(6))
        .iter()
        .map(|winner| (winner.ticket().creation_round.0, winner.ticket().face_value.0.low_u64()))
        .collect();
    assert_eq!(due, [(5, 20), (5, 10), (6, 1000), (6, 900)]);
}

#[test]
fn a_transaction_is_recorded_before_it_is_sent() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    let ticket = Offer::new(1, WinProb::ALWAYS).pay(&ledger, &[1]).won[0];
    let recorded = ledger.submit(ticket, submission(0, 1)).unwrap();
    // The bytes to send exist only in the record, and the record is in the journal on disk by now.
    let bytes = std::fs::read(dir.path().join("ledger").join(journal::FILE)).unwrap();
    assert_eq!(journal::replay(&bytes).winners[&ticket].state.name(), "submitted");
    drop(ledger);
    let ledger = open(dir.path());
    assert_eq!(ledger.submitted(), std::slice::from_ref(&recorded));
    assert_eq!(ledger.submitted()[0].signed(), recorded.signed());
    assert!(ledger.due(EXPIRATION, Round(5)).is_empty(), "it is not sent a second time as something new");
}

#[test]
fn a_transaction_with_the_wrong_hash_is_not_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    let ticket = Offer::new(1, WinProb::ALWAYS).pay(&ledger, &[1]).won[0];
    let wrong = Submission { hash: H256::zero(), ..submission(0, 1) };
    assert!(matches!(ledger.submit(ticket, wrong), Err(LedgerError::WrongTransactionHash)));
    assert!(matches!(ledger.submit(H256::zero(), submission(0, 1)), Err(LedgerError::UnknownTicket(_))));
    assert!(ledger.submitted().is_empty());
}

#[test]
fn one_unconfirmed_account_nonce_has_one_redemption() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    let won = Offer::new(1, WinProb::ALWAYS).pay(&ledger, &[1, 2]).won;
    ledger.submit(won[0], submission(0, 1)).unwrap();
    let taken = ledger.submit(won[1], submission(0, 2));
    assert!(matches!(taken, Err(LedgerError::AccountNonceTaken { account_nonce: 0, holder }) if holder == won[0]));
    // A replacement of the first is the same redemption, and another nonce for it is a second one.
    ledger.submit(won[0], submission(0, 3)).unwrap();
    assert!(matches!(ledger.submit(won[0], submission(1, 4)), Err(LedgerError::OutOfOrder(_))));
    // A restart does not forget it.
    drop(ledger);
    let ledger = open(dir.path());
    assert!(matches!(ledger.submit(won[1], submission(0, 2)), Err(LedgerError::AccountNonceTaken { .. })));
    ledger.advance(won[0], confirmed(1, 1000)).unwrap();
    ledger.submit(won[1], submission(0, 2)).unwrap();
}

#[test]
fn totals_tell_the_whole_story_and_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    let won = Offer::new(1, WinProb::ALWAYS).pay(&ledger, &[1, 2, 3]).won;
    ledger.submit(won[0], submission(0, 1)).unwrap();
    ledger.advance(won[0], RedemptionEvent::Failed).unwrap();
    ledger.submit(won[0], submission(1, 2)).unwrap();
    ledger.advance(won[0], confirmed(2, 700)).unwrap();
    ledger.advance(won[1], RedemptionEvent::Abandoned(AbandonReason::RoundOver)).unwrap();
    let totals = ledger.totals();
    assert_eq!((totals.tickets_received, totals.tickets_won), (3, 3));
    assert_eq!((totals.tickets_redeemed, totals.paid), (1, Wei::from(700)));
    assert_eq!((totals.redemption_failures, totals.tickets_abandoned), (1, 1));
    assert_eq!((ledger.pending().tickets, ledger.pending_by_sender().len()), (1, 1));
    assert!(ledger.advance(won[0], RedemptionEvent::Failed).is_err());
    drop(ledger);
    assert_eq!(open(dir.path()).totals(), totals);
}

#[test]
fn settled_winners_are_dropped_when_no_ticket_can_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    let offer = Offer::new(1, WinProb::ALWAYS);
    let won = offer.pay(&ledger, &[1, 2]).won;
    ledger.submit(won[0], submission(0, 1)).unwrap();
    ledger.advance(won[0], confirmed(1, 1000)).unwrap();
    assert_eq!(ledger.prune_settled(Round(6)).unwrap(), 0);
    assert_eq!(offer.try_pay(&ledger, &[1], EXPIRATION).unwrap().won.len(), 0, "it is known to be redeemed");
    assert_eq!(ledger.prune_settled(Round(7)).unwrap(), 1);
    let totals = ledger.totals();
    drop(ledger);
    let ledger = open(dir.path());
    assert_eq!((ledger.redemption(won[0]), ledger.totals()), (None, totals), "the journal does not bring it back");
    assert_eq!(ledger.pending().tickets, 1);
}

#[test]
fn a_long_journal_is_rewritten_while_payments_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let options = crate::OpenOptions { rewrite_above_bytes: 8 * 1024, ..crate::OpenOptions::default() };
    let ledger = Ledger::open(&dir.path().join("ledger"), options).unwrap();
    std::thread::scope(|scope| {
        let payers: Vec<_> = (1..=3u8)
            .map(|payer| {
                let ledger = &ledger;
                scope.spawn(move || {
                    let offer = Offer::with(payer, 0, u64::from(payer), |terms| terms);
                    (0..40).for_each(|nonce| assert_eq!(offer.pay(ledger, &[nonce]).won.len(), 1));
                })
            })
            .collect();
        while payers.iter().any(|payer| !payer.is_finished()) {
            ledger.prune_settled(Round(5)).unwrap();
        }
    });
    let path = dir.path().join("ledger").join(journal::FILE);
    let replay = journal::replay(&std::fs::read(&path).unwrap());
    assert_eq!((replay.winners.len(), replay.damaged, replay.torn_bytes), (120, 0, 0));
    assert_eq!(replay.totals.tickets_won, 120);
    assert!(std::fs::read(&path).unwrap().windows(10).any(|w| w == b"checkpoint"), "it was never rewritten");
}

fn batch(account_nonce: u64, id: u8, tickets: &[H256]) -> Submission {
    Submission { tickets: tickets.to_vec(), ..submission(account_nonce, id) }
}

#[test]
fn a_batch_is_recorded_for_all_its_tickets_or_for_none() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    let won = Offer::new(1, WinProb::ALWAYS).pay(&ledger, &[1, 2, 3, 4]).won;
    let unknown = H256::repeat_byte(9);
    for tickets in [&[won[0], unknown][..], &[won[0], won[0]], &[]] {
        assert!(ledger.submit_batch(batch(0, 1, tickets)).is_err());
        assert_eq!(ledger.submitted(), []);
    }
    let recorded = ledger.submit_batch(batch(0, 1, &won[..3])).unwrap();
    assert_eq!(recorded.winners().count(), 3);
    assert_eq!(ledger.submitted(), std::slice::from_ref(&recorded), "one transaction");
    let taken = ledger.submit(won[3], submission(0, 2));
    assert!(matches!(taken, Err(LedgerError::AccountNonceTaken { account_nonce: 0, .. })), "{taken:?}");
    let dearer = ledger.submit_batch(batch(0, 3, &won[..3])).unwrap();
    assert_eq!(dearer.replaced(), [recorded.submission().hash]);
    drop(ledger);

    let ledger = open(dir.path());
    assert_eq!(ledger.submitted(), std::slice::from_ref(&dearer));
    ledger.advance(won[0], confirmed(3, 10)).unwrap();
    ledger.advance(won[1], RedemptionEvent::Failed).unwrap();
    let left: Vec<H256> = ledger.submitted()[0].winners().map(WinningTicket::hash).collect();
    assert_eq!(left, [won[2]], "each goes its own way");
    assert!(matches!(ledger.redemption(won[1]), Some(Redemption::Held { failures: 1 })));
}

#[test]
fn a_batch_of_which_the_power_cut_left_one_record_is_whole_again() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    let won = Offer::new(1, WinProb::ALWAYS).pay(&ledger, &[1, 2, 3]).won;
    // As if the journal ended after the first of its entries.
    let torn = batch(0, 1, &won);
    ledger.submit(won[1], torn.clone()).unwrap();
    assert_eq!(ledger.due(EXPIRATION, Round(5)).len(), 2);
    drop(ledger);
    for _ in 0..2 {
        let ledger = open(dir.path());
        assert!(ledger.due(EXPIRATION, Round(5)).is_empty(), "nothing is sent twice");
        let submitted = ledger.submitted();
        assert_eq!((submitted.len(), submitted[0].winners().count()), (1, 3));
        assert_eq!(submitted[0].submission(), &torn);
    }
}
