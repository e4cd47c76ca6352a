//! The redeemer against a chain that drops, lies, reverts and forgets, and a node that is killed at the worst
//! moments: no winner is lost, none is redeemed twice, and nothing is sent that was not recorded.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

#[path = "redemption/chain.rs"]
mod chain;
#[path = "redemption/together.rs"]
mod together;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ledger::{AbandonReason, Account, Ledger, LedgerError, OpenOptions, ReceiveRequest, Redemption};
use livepeer::address::{Address, H256};
use livepeer::broker::{BrokerError, FaultClass};
use livepeer::params::{MAX_NONCES, TicketParams};
use livepeer::price::PricePerPixel;
use livepeer::recipient_rand::{OfferTerms, RecipientSecret};
use livepeer::signature::SigningKey;
use livepeer::ticket::{OpenBatch, Ticket};
use livepeer::units::{L1Block, Round, Timestamp, Wei, WinProb};
use millrace_hal::SimClock;
use orchestrator::redeemer::RedeemerReport;
use orchestrator::{Redeemer, RedeemerConfig, SignError};
use proptest::prelude::*;
use tokio::sync::watch;

use self::chain::{FACE, FINAL, Fault, Point, SimChain, SimSigner};

/// Who is paid here.
const US: Address = Address(primitive_types::H160([0x0b; 20]));
/// When the offers of these tests are over.
const OVER: u64 = 900;

/// Opens a ledger. What a killed node had given to another thread may hold it a moment longer; a process would be gone.
fn open(dir: &Path) -> Ledger {
    for _ in 0..3000 {
        match Ledger::open(dir, OpenOptions::default()) {
            Err(LedgerError::AlreadyRunning { .. }) => std::thread::sleep(Duration::from_millis(10)),
            opened => return opened.unwrap(),
        }
    }
    panic!("somebody keeps the ledger open")
}

/// Puts so many winners into a ledger, all of round 7 and all over.
fn win(ledger: &Ledger, count: u32) -> Vec<H256> {
    let gateway = SigningKey::from_bytes(&[0x61; 32]).unwrap();
    let secret = RecipientSecret::new([9; 32], ledger.generation());
    let terms = OfferTerms {
        seed: 1.into(),
        sender: gateway.address(),
        face_value: Wei::from(FACE),
        win_prob: WinProb::ALWAYS,
        expiration_block: L1Block(OVER),
        price: PricePerPixel::new(1, 1).unwrap(),
        creation_round: Round(7),
        creation_round_block_hash: H256::repeat_byte(7),
    };
    let params = TicketParams::offer(&secret, US, &terms);
    let ticket = |sender_nonce| Ticket {
        recipient: US,
        sender: gateway.address(),
        face_value: terms.face_value,
        win_prob: terms.win_prob,
        sender_nonce,
        recipient_rand_hash: params.recipient_rand_hash,
        creation_round: terms.creation_round,
        creation_round_block_hash: terms.creation_round_block_hash,
    };
    let tickets: Vec<(u32, Vec<u8>)> =
        (1..=count).map(|n| (n, gateway.sign_personal(ticket(n).hash()).to_bytes().to_vec())).collect();
    let batch = OpenBatch::open(&params, gateway.address(), terms.price, US, &secret).unwrap();
    let account = Account::session(gateway.address(), "s");
    let receipt = ledger
        .receive(&ReceiveRequest {
            account: &account,
            batch: &batch,
            tickets: &tickets,
            head: L1Block(OVER - 1),
            max_nonces: MAX_NONCES,
            now: Timestamp(0),
        })
        .unwrap();
    assert_eq!((receipt.won.len(), receipt.error), (tickets.len(), None));
    receipt.won
}

fn quick() -> RedeemerConfig {
    RedeemerConfig { confirmations: FINAL, doubt_s: 60, stuck_after_s: 40, ..RedeemerConfig::default() }
}

fn redeemer(chain: &SimChain, ledger: &Ledger) -> (Redeemer<SimChain, SimSigner>, watch::Receiver<RedeemerReport>) {
    let signer = Arc::new(SimSigner::new(chain));
    let clock = Arc::new(SimClock::at(1_700_000_000));
    Redeemer::new(Arc::new(chain.clone()), signer, ledger.clone(), clock, quick())
}

/// Lets time pass until all winners are settled, or so many rounds of work were done.
async fn work(chain: &SimChain, redeemer: &mut Redeemer<SimChain, SimSigner>, rounds: usize) {
    for _ in 0..rounds {
        redeemer.work().await.unwrap();
        tokio::time::advance(Duration::from_secs(15)).await;
        chain.mine(1);
    }
}

/// What must hold whatever happened.
fn check_sound(chain: &SimChain) {
    let world = chain.world();
    let mut tickets: Vec<H256> = world.paid.iter().map(|(ticket, _)| *ticket).collect();
    tickets.sort_unstable();
    tickets.dedup();
    assert_eq!(tickets.len(), world.paid.len(), "a ticket was paid twice");
}

fn confirmed(ledger: &Ledger, winners: &[H256]) -> usize {
    let confirmed = |ticket: &&H256| matches!(ledger.redemption(**ticket), Some(Redemption::Confirmed { .. }));
    winners.iter().filter(confirmed).count()
}

#[tokio::test(start_paused = true)]
async fn winners_are_redeemed_one_after_the_other() {
    let dir = tempfile::tempdir().unwrap();
    let (chain, ledger) = (SimChain::new(), open(dir.path()));
    let winners = win(&ledger, 5);
    let (mut redeemer, _report) = redeemer(&chain, &ledger);
    redeemer.work().await.unwrap();
    assert_eq!(chain.world().broadcasts, 1, "one at a time");
    work(&chain, &mut redeemer, 12).await;
    assert_eq!(confirmed(&ledger, &winners), 5);
    let totals = ledger.totals();
    assert_eq!((totals.tickets_redeemed, totals.paid), (5, Wei::from(5 * FACE)));
    assert_eq!(chain.world().broadcasts, 5, "nothing is sent twice when all is well");
    check_sound(&chain);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_redeemed_before_its_offer_is_over() {
    let dir = tempfile::tempdir().unwrap();
    let (chain, ledger) = (SimChain::new(), open(dir.path()));
    win(&ledger, 1);
    chain.world().head.l1_block = L1Block(OVER - 20);
    let (mut redeemer, _report) = redeemer(&chain, &ledger);
    work(&chain, &mut redeemer, 20).await;
    assert_eq!(chain.world().broadcasts, 0, "recipientRand would be public while tickets are still taken");
    work(&chain, &mut redeemer, 1).await;
    assert_eq!(chain.world().broadcasts, 1);
}

/// Kills the node at a point, starts it again, and lets it finish.
async fn killed_at(point: Point) -> SimChain {
    let dir = tempfile::tempdir().unwrap();
    let chain = SimChain::new();
    let winners = {
        let ledger = open(dir.path());
        let winners = win(&ledger, 3);
        let (mut first, _report) = redeemer(&chain, &ledger);
        chain.stop_at(point);
        let reached = Arc::clone(&chain.reached);
        tokio::select! {
            worked = async { loop { first.work().await.unwrap() } } => worked,
            () = reached.notified() => {}
        }
        if point == Point::BeforeBroadcast {
            assert_eq!(ledger.submitted().len(), 1, "recorded before it is sent");
        }
        winners
    };
    let ledger = open(dir.path());
    let (mut second, _report) = redeemer(&chain, &ledger);
    work(&chain, &mut second, 20).await;
    assert_eq!(confirmed(&ledger, &winners), 3, "killed at {point:?}");
    check_sound(&chain);
    chain
}

#[tokio::test(start_paused = true)]
async fn a_transaction_is_recorded_before_it_is_sent() {
    for point in [Point::Prepare, Point::Sign, Point::BeforeBroadcast, Point::AfterBroadcast] {
        let chain = killed_at(point).await;
        assert!(chain.world().seen.values().all(|tickets| tickets.len() == 1), "killed at {point:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_unconfirmed_account_nonce_has_one_redemption() {
    let dir = tempfile::tempdir().unwrap();
    let (chain, ledger) = (SimChain::new(), open(dir.path()));
    let winners = win(&ledger, 4);
    chain.world().automine = false;
    let (mut redeemer, _report) = redeemer(&chain, &ledger);
    work(&chain, &mut redeemer, 10).await;
    let submitted = ledger.submitted();
    assert_eq!(submitted.len(), 1, "the next one waits until this one is in a block");
    assert!(!submitted[0].replaced().is_empty(), "what is stuck was replaced");
    {
        let world = chain.world();
        assert_eq!(world.seen.keys().copied().collect::<Vec<_>>(), [0], "with the same account nonce");
        assert!(world.seen.values().all(|tickets| tickets.len() == 1), "and for the same ticket");
    }
    chain.world().automine = true;
    work(&chain, &mut redeemer, 60).await;
    assert_eq!(confirmed(&ledger, &winners), 4);
    assert!(chain.world().seen.values().all(|tickets| tickets.len() == 1));
    check_sound(&chain);
}

#[tokio::test(start_paused = true)]
async fn a_transaction_that_was_dropped_is_sent_again() {
    let dir = tempfile::tempdir().unwrap();
    let (chain, ledger) = (SimChain::new(), open(dir.path()));
    let winners = win(&ledger, 2);
    chain.world().faults = vec![Fault::Drop, Fault::Drop, Fault::Lie];
    let (mut redeemer, _report) = redeemer(&chain, &ledger);
    work(&chain, &mut redeemer, 30).await;
    assert_eq!(confirmed(&ledger, &winners), 2);
    check_sound(&chain);
}

#[tokio::test(start_paused = true)]
async fn a_reverted_redemption_is_tried_again_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let (chain, ledger) = (SimChain::new(), open(dir.path()));
    let winners = win(&ledger, 2);
    chain.world().faults = vec![Fault::Revert, Fault::Revert];
    let (mut redeemer, _report) = redeemer(&chain, &ledger);
    work(&chain, &mut redeemer, 60).await;
    assert_eq!(confirmed(&ledger, &winners), 2);
    assert_eq!(ledger.totals().redemption_failures, 2);
    check_sound(&chain);
}

#[tokio::test(start_paused = true)]
async fn a_reorganisation_makes_it_wait_or_send_again_but_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (chain, ledger) = (SimChain::new(), open(dir.path()));
    let winners = win(&ledger, 2);
    let (mut redeemer, _report) = redeemer(&chain, &ledger);
    work(&chain, &mut redeemer, 2).await;
    assert_eq!(confirmed(&ledger, &winners), 0, "not deep enough");
    chain.reorganise();
    work(&chain, &mut redeemer, 30).await;
    assert_eq!(confirmed(&ledger, &winners), 2);
    assert_eq!(chain.world().paid.len(), 2);
    check_sound(&chain);
}

#[tokio::test(start_paused = true)]
async fn a_nonce_taken_by_another_program_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let (chain, ledger) = (SimChain::new(), open(dir.path()));
    let winners = win(&ledger, 1);
    chain.world().faults = vec![Fault::Drop];
    let (mut redeemer, _report) = redeemer(&chain, &ledger);
    redeemer.work().await.unwrap();
    chain.take_nonce();
    redeemer.work().await.unwrap();
    assert_eq!(ledger.submitted().len(), 1, "not believed at first sight");
    work(&chain, &mut redeemer, 30).await;
    assert_eq!(confirmed(&ledger, &winners), 1);
    assert_eq!(chain.world().seen.len(), 2, "sent again under a nonce of its own");
    check_sound(&chain);
}

#[tokio::test(start_paused = true)]
async fn a_ticket_spent_by_somebody_else_is_given_up_only_after_a_second_look() {
    let dir = tempfile::tempdir().unwrap();
    let (chain, ledger) = (SimChain::new(), open(dir.path()));
    let winners = win(&ledger, 2);
    chain.use_up(winners[0]);
    let (mut redeemer, _report) = redeemer(&chain, &ledger);
    redeemer.work().await.unwrap();
    assert!(matches!(ledger.redemption(winners[0]), Some(Redemption::Held { .. })));
    work(&chain, &mut redeemer, 40).await;
    let spent = Some(Redemption::Abandoned { reason: AbandonReason::UsedElsewhere });
    assert_eq!(ledger.redemption(winners[0]), spent);
    assert_eq!(confirmed(&ledger, &winners[1..]), 1, "the others are not held up");
}

#[tokio::test(start_paused = true)]
async fn each_refusal_waits_for_what_it_waits_for_and_holds_up_nobody() {
    use FaultClass as Class;
    let waits = [
        Class::WaitForRound,
        Class::WaitForUnpause,
        Class::WaitForFunds,
        Class::WaitForActiveSet,
        Class::Conditional,
        Class::Operator,
        Class::Bug,
    ];
    for class in waits {
        let dir = tempfile::tempdir().unwrap();
        let (chain, ledger) = (SimChain::new(), open(dir.path()));
        let winners = win(&ledger, 2);
        chain.world().refusals.insert(winners[0], BrokerError { class, detail: "no".into() });
        let (mut redeemer, _report) = redeemer(&chain, &ledger);
        work(&chain, &mut redeemer, 40).await;
        assert_eq!(confirmed(&ledger, &winners[1..]), 1, "{class:?}");
        assert!(matches!(ledger.redemption(winners[0]), Some(Redemption::Held { .. })), "{class:?}");
        chain.world().refusals.clear();
        work(&chain, &mut redeemer, 80).await;
        assert_eq!(confirmed(&ledger, &winners), 2, "{class:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_permanent_refusal_is_believed_when_it_lasts() {
    let dir = tempfile::tempdir().unwrap();
    let (chain, ledger) = (SimChain::new(), open(dir.path()));
    let winners = win(&ledger, 1);
    let refusal = BrokerError { class: FaultClass::Permanent, detail: "ticket did not win".into() };
    chain.world().refusals.insert(winners[0], refusal);
    let (mut redeemer, _report) = redeemer(&chain, &ledger);
    redeemer.work().await.unwrap();
    assert!(matches!(ledger.redemption(winners[0]), Some(Redemption::Held { .. })));
    work(&chain, &mut redeemer, 40).await;
    let refused = AbandonReason::Refused("ticket did not win".into());
    assert_eq!(ledger.redemption(winners[0]), Some(Redemption::Abandoned { reason: refused }));
}

#[tokio::test(start_paused = true)]
async fn what_does_not_pay_its_cost_or_its_face_value_waits() {
    let dir = tempfile::tempdir().unwrap();
    let (chain, ledger) = (SimChain::new(), open(dir.path()));
    let winners = win(&ledger, 2);
    chain.world().payouts.insert(winners[0], Wei::from(chain::COST));
    chain.world().payouts.insert(winners[1], Wei::from(FACE / 2));
    let (mut redeemer, report) = redeemer(&chain, &ledger);
    work(&chain, &mut redeemer, 20).await;
    assert_eq!(chain.world().broadcasts, 0);
    // In its last round half is better than nothing, but less than the cost is not.
    chain.set_round(8);
    work(&chain, &mut redeemer, 60).await;
    assert_eq!(confirmed(&ledger, &winners[1..]), 1);
    assert_eq!((report.borrow().short_paid, report.borrow().last_round_tickets), (1, 1));
    chain.set_round(9);
    work(&chain, &mut redeemer, 10).await;
    let totals = ledger.totals();
    assert_eq!((totals.tickets_abandoned, totals.abandoned), (1, Wei::from(FACE)));
    assert_eq!(ledger.redemption(winners[0]), None, "what is settled and over is forgotten, but counted");
}

#[tokio::test(start_paused = true)]
async fn an_unreachable_chain_loses_nothing_and_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let (chain, ledger) = (SimChain::new(), open(dir.path()));
    let winners = win(&ledger, 2);
    chain.world().away = true;
    let (mut redeemer, report) = redeemer(&chain, &ledger);
    work(&chain, &mut redeemer, 40).await;
    assert!(report.borrow().faults_in_a_row >= 3);
    chain.world().away = false;
    work(&chain, &mut redeemer, 60).await;
    assert_eq!(confirmed(&ledger, &winners), 2);
    assert_eq!(report.borrow().faults_in_a_row, 0);
}

#[tokio::test(start_paused = true)]
async fn a_signer_that_refuses_is_told_and_nothing_is_sent() {
    let dir = tempfile::tempdir().unwrap();
    let (chain, ledger) = (SimChain::new(), open(dir.path()));
    win(&ledger, 1);
    let signer = SimSigner::new(&chain);
    *signer.refuses.lock().unwrap() = Some(SignError::Refused("over the day's limit".into()));
    let refuses = Arc::clone(&signer.refuses);
    let clock = Arc::new(SimClock::at(0));
    let (mut redeemer, report) =
        Redeemer::new(Arc::new(chain.clone()), Arc::new(signer), ledger.clone(), clock, quick());
    work(&chain, &mut redeemer, 10).await;
    assert_eq!((chain.world().broadcasts, ledger.submitted().len()), (0, 0));
    assert!(report.borrow().signer_fault.as_ref().unwrap().contains("limit"));
    *refuses.lock().unwrap() = None;
    work(&chain, &mut redeemer, 60).await;
    assert_eq!(ledger.totals().tickets_redeemed, 1);
    assert!(report.borrow().signer_fault.is_none());
}

/// Something that happens to the node or its chain.
#[derive(Debug, Clone, Copy)]
enum Happening {
    Fault(Fault),
    Kill(Point),
    Away,
    Reorganise,
    TakeNonce,
    Quiet,
}

fn happening() -> impl Strategy<Value = Happening> {
    let fault = prop_oneof![Just(Fault::Drop), Just(Fault::Lie), Just(Fault::Revert), Just(Fault::Stick)];
    let point =
        prop_oneof![Just(Point::Prepare), Just(Point::Sign), Just(Point::BeforeBroadcast), Just(Point::AfterBroadcast)];
    prop_oneof![
        fault.prop_map(Happening::Fault),
        point.prop_map(Happening::Kill),
        Just(Happening::Away),
        Just(Happening::Reorganise),
        Just(Happening::TakeNonce),
        Just(Happening::Quiet),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn whatever_happens_each_winner_is_paid_once(story in proptest::collection::vec(happening(), 1..12), together: bool) {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async move {
            let dir = tempfile::tempdir().unwrap();
            let chain = SimChain::new();
            chain.world().batches = together;
            let winners = win(&open(dir.path()), 3);
            for happening in story {
                let ledger = open(dir.path());
                let (mut redeemer, _report) = redeemer(&chain, &ledger);
                match happening {
                    Happening::Fault(fault) => chain.world().faults.push(fault),
                    Happening::Kill(point) => chain.stop_at(point),
                    Happening::Away => chain.world().away = true,
                    Happening::Reorganise => chain.reorganise(),
                    Happening::TakeNonce => chain.take_nonce(),
                    Happening::Quiet => {}
                }
                let reached = Arc::clone(&chain.reached);
                tokio::select! {
                    () = work(&chain, &mut redeemer, 6) => {}
                    () = reached.notified() => {}
                }
                chain.world().away = false;
                check_sound(&chain);
            }
            let ledger = open(dir.path());
            let (mut redeemer, _report) = redeemer(&chain, &ledger);
            work(&chain, &mut redeemer, 150).await;
            assert_eq!(confirmed(&ledger, &winners), 3, "{:?}", chain.world());
            assert_eq!(chain.world().paid.len(), 3, "what the ledger believes, the chain has paid");
            check_sound(&chain);
        });
    }
}
