use std::collections::{BTreeMap, BTreeSet};

use livepeer::recipient_rand::OfferTerms;
use livepeer::units::{Round, WinProb};
use primitive_types::U256;
use proptest::prelude::*;

use super::*;
use crate::fixture::{EXPIRATION, FACE_VALUE, HEAD, NOW, Offer, gateway, open};
use crate::redemption::Redemption;

fn face(tickets: u64) -> Wei {
    Wei::from(FACE_VALUE * tickets)
}

#[test]
fn a_ticket_earns_its_expected_value_and_a_winner_is_held() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    let offer = Offer::new(1, WinProb::ALWAYS);
    let receipt = offer.pay(&ledger, &[1, 2]);
    assert_eq!((receipt.credited, receipt.accepted, receipt.error), (face(2), 2, None));
    assert_eq!(receipt.balance.available(), face(2));
    assert_eq!(receipt.won.len(), 2);
    assert_eq!(ledger.redemption(receipt.won[0]), Some(Redemption::NEW));
    assert_eq!(ledger.pending().face_value, face(2));
}

#[test]
fn credit_is_rounded_up() {
    let dir = tempfile::tempdir().unwrap();
    let offer = Offer::new(1, WinProb(U256::MAX / 3_000_000));
    assert_eq!(offer.pay(&open(dir.path()), &[1]).credited, Wei::from(1));
}

#[test]
fn after_a_fault_no_ticket_earns_credit_but_winners_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    let offer = Offer::new(1, WinProb::ALWAYS);
    let mut tickets = vec![offer.ticket(1), offer.ticket(2), offer.ticket(3)];
    tickets[1].1[40] ^= 1;
    let receipt = offer.try_pay_with(&ledger, &tickets, HEAD).unwrap();
    assert_eq!((receipt.credited, receipt.accepted), (face(1), 1));
    assert_eq!(receipt.error, Some(TicketError::Signature));
    assert_eq!(receipt.won.len(), 2, "the third ticket won all the same");
    // Its nonce counted too.
    assert!(matches!(offer.pay(&ledger, &[3]).error, Some(TicketError::NonceSeen { nonce: 3, .. })));
}

#[test]
fn an_expired_ticket_earns_nothing_and_its_winner_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    let receipt = Offer::new(1, WinProb::ALWAYS).try_pay(&ledger, &[1], EXPIRATION).unwrap();
    assert_eq!((receipt.credited, receipt.error), (Wei::ZERO, Some(TicketError::Expired)));
    assert_eq!(receipt.won.len(), 1);
    assert_eq!(ledger.totals().tickets_received, 0);
    assert_eq!(ledger.totals().tickets_won, 1);
}

#[test]
fn a_replayed_winner_is_held_once() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    let offer = Offer::new(1, WinProb::ALWAYS);
    let first = offer.pay(&ledger, &[1, 1]);
    assert_eq!((first.accepted, first.won.len()), (1, 1));
    let length = ledger.0.journal.end();
    let again = offer.pay(&ledger, &[1]);
    assert_eq!((again.won.len(), again.credited), (0, Wei::ZERO));
    assert_eq!(ledger.0.journal.end(), length, "a replay does not fill the disk");
    assert_eq!(ledger.totals().tickets_won, 1);
}

#[test]
fn an_offer_takes_so_many_nonces_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    let offer = Offer::new(1, WinProb::NEVER);
    let nonces: Vec<u32> = (0..600).collect();
    assert_eq!(offer.pay(&ledger, &nonces).accepted, 600);
    let over = offer.pay(&ledger, &[600]).error;
    assert!(matches!(over, Some(TicketError::TooManyNonces { nonce: 600, .. })));
    assert!(matches!(offer.pay(&ledger, &[5]).error, Some(TicketError::NonceSeen { nonce: 5, .. })));
    assert_eq!(Offer::new(2, WinProb::NEVER).pay(&ledger, &[5]).error, None, "another offer has its own");
}

#[test]
fn concurrent_payments_of_one_ticket_count_it_once() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    let offer = Offer::new(1, WinProb::ALWAYS);
    let receipts: Vec<Receipt> = std::thread::scope(|scope| {
        let pay = || offer.pay(&ledger, &[1, 2, 3]);
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(pay)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(receipts.iter().map(|r| r.accepted).sum::<usize>(), 3);
    assert_eq!(receipts.iter().map(|r| r.won.len()).sum::<usize>(), 3);
    assert_eq!(ledger.balance(&offer.account()).unwrap().credit, face(3));
    assert_eq!(ledger.totals().tickets_won, 3);
}

#[test]
fn a_nonce_counts_once_across_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let (generation, offer) = {
        let ledger = open(dir.path());
        let offer = Offer::with(1, ledger.generation(), 1, |terms| terms);
        offer.pay(&ledger, &[1, 2, 3]);
        ledger.close().unwrap();
        (ledger.generation(), offer)
    };
    let ledger = open(dir.path());
    assert_eq!(ledger.generation(), generation, "a clean stop keeps the offers");
    let replayed = offer.pay(&ledger, &[1, 2, 3]);
    assert_eq!((replayed.credited, replayed.won.len()), (Wei::ZERO, 0));
    assert!(matches!(replayed.error, Some(TicketError::NonceSeen { nonce: 1, .. })));
    assert_eq!(offer.pay(&ledger, &[4]).accepted, 1);
}

#[test]
fn recipient_secret_and_seen_nonces_share_a_lifetime() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    let (first, offer) = (ledger.generation(), Offer::with(1, ledger.generation(), 1, |terms| terms));
    offer.pay(&ledger, &[1]);
    drop(ledger);
    // Not closed: nonces may be lost, so the offer must be.
    let ledger = open(dir.path());
    assert_ne!(ledger.generation(), first);
    let secret = livepeer::recipient_rand::RecipientSecret::new([3; 32], ledger.generation());
    let price = livepeer::price::PricePerPixel::FREE;
    let reopened = OpenBatch::open(&offer.params, gateway(1).address(), price, crate::fixture::us(), &secret);
    assert_eq!(reopened.unwrap_err(), TicketError::RecipientRand);
    // Nonces gone for good, the secret kept: a new ledger does not begin where the old one did.
    drop(ledger);
    std::fs::remove_dir_all(dir.path().join("ledger")).unwrap();
    let third = open(dir.path()).generation();
    assert!(third != first && third != first.wrapping_add(1));
}

#[test]
fn forgotten_nonces_never_earn_again_even_if_the_head_goes_back() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    let offer = Offer::new(1, WinProb::NEVER);
    let other = Offer::with(1, 0, 2, |terms| OfferTerms { expiration_block: L1Block(150), ..terms });
    offer.pay(&ledger, &[1]);
    other.pay(&ledger, &[1]);
    assert_eq!(ledger.expire_offers(L1Block(139)).unwrap(), 0);
    assert_eq!(ledger.expire_offers(EXPIRATION).unwrap(), 1);
    assert_eq!(offer.try_pay(&ledger, &[1], HEAD).unwrap().error, Some(TicketError::Expired));
    assert!(matches!(other.pay(&ledger, &[1]).error, Some(TicketError::NonceSeen { .. })));
    ledger.close().unwrap();
    let ledger = {
        drop(ledger);
        open(dir.path())
    };
    assert_eq!(offer.try_pay(&ledger, &[1], HEAD).unwrap().error, Some(TicketError::Expired));
}

#[test]
fn a_balance_may_go_below_zero_and_idle_accounts_are_closed() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    let offer = Offer::new(1, WinProb::ALWAYS);
    offer.pay(&ledger, &[1]);
    let balance = ledger.debit(&offer.account(), face(3), NOW).unwrap();
    assert_eq!((balance.available(), balance.overdrawn()), (Wei::ZERO, face(2)));
    let idle = std::time::Duration::from_secs(600);
    assert_eq!(ledger.expire_idle(Timestamp(NOW.0 + 599), idle).unwrap(), 0);
    assert_eq!(ledger.expire_idle(Timestamp(NOW.0 + 600), idle).unwrap(), 1);
    assert_eq!(ledger.balance(&offer.account()).unwrap(), Balance::default());
    let too_much =
        ledger.debit(&offer.account(), Wei(U256::MAX), NOW).and_then(|_| ledger.debit(&offer.account(), face(1), NOW));
    assert!(matches!(too_much, Err(LedgerError::Overflow)));
}

#[test]
fn a_closed_ledger_takes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    let clone = ledger.clone();
    ledger.close().unwrap();
    let refused = Offer::new(1, WinProb::ALWAYS).try_pay(&clone, &[1], HEAD);
    assert!(matches!(refused, Err(ReceiveError::Ledger(LedgerError::Closed))));
    assert!(matches!(clone.close(), Err(LedgerError::Closed)));
}

#[derive(Debug, Clone)]
enum Op {
    Pay { offer: usize, nonces: Vec<u32>, head: u64 },
    Debit(u64),
    ExpireOffers(u64),
    Restart,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0usize..4, proptest::collection::vec(0u32..8, 0..5), 100u64..145)
            .prop_map(|(offer, nonces, head)| Op::Pay { offer, nonces, head }),
        2 => (0u64..3000).prop_map(Op::Debit),
        1 => (100u64..145).prop_map(Op::ExpireOffers),
        1 => Just(Op::Restart),
    ]
}

#[derive(Default)]
struct Model {
    seen: BTreeMap<usize, BTreeSet<u32>>,
    credit: U256,
    debit: U256,
    winners: BTreeSet<H256>,
    head: u64,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn it_equals_its_model_in_memory(ops in proptest::collection::vec(op(), 1..20)) {
        let dir = tempfile::tempdir().unwrap();
        let mut ledger = open(dir.path());
        let offers: Vec<Offer> = (0u64..4).map(|seed| Offer::with(1, 0, seed, |terms| OfferTerms {
            win_prob: if seed.is_multiple_of(2) { WinProb(U256::MAX / 3) } else { WinProb::NEVER },
            expiration_block: L1Block(120 + 10 * seed),
            creation_round: Round(5 + seed),
            ..terms
        })).collect();
        let mut model = Model::default();
        for op in ops {
            match op {
                Op::Pay { offer: index, nonces, head } => {
                    let offer = &offers[index];
                    let receipt = offer.try_pay(&ledger, &nonces, L1Block(head)).unwrap();
                    let (mut faulty, mut accepted) = (false, 0);
                    for nonce in nonces {
                        let (nonce, signature) = offer.ticket(nonce);
                        let checked = offer.batch.check(nonce, &signature).unwrap();
                        model.winners.extend(checked.draw().map(|winner| winner.hash()));
                        let over = 120 + 10 * u64::try_from(index).unwrap() <= head.max(model.head);
                        let seen = model.seen.entry(index).or_default();
                        faulty |= seen.contains(&nonce) || over;
                        if !over {
                            seen.insert(nonce);
                        }
                        if !faulty {
                            model.credit += checked.ticket().expected_value().to_wei_ceil().0;
                            accepted += 1;
                        }
                    }
                    prop_assert_eq!(receipt.accepted, accepted);
                    prop_assert_eq!(receipt.error.is_some(), faulty);
                }
                Op::Debit(fee) => {
                    ledger.debit(&offers[0].account(), Wei::from(fee), NOW).unwrap();
                    model.debit += fee.into();
                }
                Op::ExpireOffers(head) => {
                    ledger.expire_offers(L1Block(head)).unwrap();
                    model.head = model.head.max(head);
                }
                Op::Restart => {
                    ledger.close().unwrap();
                    drop(ledger);
                    ledger = open(dir.path());
                }
            }
            let balance = ledger.balance(&offers[0].account()).unwrap();
            prop_assert_eq!(balance, Balance { credit: Wei(model.credit), debit: Wei(model.debit) });
            let held: BTreeSet<H256> = ledger.due(L1Block(1000), Round(5)).iter().map(WinningTicket::hash).collect();
            prop_assert_eq!(&held, &model.winners);
        }
    }
}
