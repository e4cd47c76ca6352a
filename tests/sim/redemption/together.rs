//! Several winners in one transaction: what holds for each of them when the chain drops it, skips one, or the node is killed.
use ledger::Redemption;

use super::*;

fn batching() -> SimChain {
    let chain = SimChain::new();
    chain.world().batches = true;
    chain
}

/// Every transaction that was sent, by account nonce, with how many tickets it redeems.
fn sizes(chain: &SimChain) -> Vec<(u64, Vec<usize>)> {
    chain.world().seen.iter().map(|(nonce, all)| (*nonce, all.iter().map(Vec::len).collect())).collect()
}

#[tokio::test(start_paused = true)]
async fn winners_that_are_due_together_are_redeemed_together() {
    let dir = tempfile::tempdir().unwrap();
    let (chain, ledger) = (batching(), open(dir.path()));
    let winners = win(&ledger, 11);
    let (mut redeemer, _report) = redeemer(&chain, &ledger);
    redeemer.work().await.unwrap();
    let submitted = ledger.submitted();
    assert_eq!(submitted.iter().map(|one| one.winners().count()).collect::<Vec<_>>(), [8], "the ledger knows which");
    work(&chain, &mut redeemer, 12).await;
    assert_eq!((confirmed(&ledger, &winners), sizes(&chain)), (11, vec![(0, vec![8]), (1, vec![3])]));
    assert_eq!((ledger.totals().tickets_redeemed, ledger.totals().paid), (11, Wei::from(11 * FACE)));
    check_sound(&chain);
}

#[tokio::test(start_paused = true)]
async fn what_a_batch_goes_on_without_is_redeemed_alone_and_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let (chain, ledger) = (batching(), open(dir.path()));
    let winners = win(&ledger, 4);
    chain.world().skipped.insert(winners[2]);
    let (mut redeemer, _report) = redeemer(&chain, &ledger);
    redeemer.work().await.unwrap();
    assert_eq!(chain.world().paid.len(), 3);
    work(&chain, &mut redeemer, FINAL.try_into().unwrap()).await;
    assert_eq!(confirmed(&ledger, &winners), 0, "not believed before it is deep enough");
    work(&chain, &mut redeemer, 40).await;
    assert_eq!((confirmed(&ledger, &winners), sizes(&chain)), (4, vec![(0, vec![4]), (1, vec![1])]));
    assert_eq!(ledger.totals().redemption_failures, 1);
    check_sound(&chain);
}

#[tokio::test(start_paused = true)]
async fn a_ticket_of_a_batch_that_somebody_else_redeemed_is_told_from_those_that_were_paid() {
    let dir = tempfile::tempdir().unwrap();
    let (chain, ledger) = (batching(), open(dir.path()));
    let winners = win(&ledger, 3);
    chain.world().faults = vec![Fault::Drop];
    let (mut redeemer, _report) = redeemer(&chain, &ledger);
    redeemer.work().await.unwrap();
    chain.use_up(winners[1]);
    work(&chain, &mut redeemer, 60).await;
    assert_eq!(confirmed(&ledger, &winners), 2);
    let spent = Some(Redemption::Abandoned { reason: AbandonReason::UsedElsewhere });
    assert_eq!(ledger.redemption(winners[1]), spent);
    check_sound(&chain);
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_is_reverted_falls_back_to_single_redemptions() {
    let dir = tempfile::tempdir().unwrap();
    let (chain, ledger) = (batching(), open(dir.path()));
    let winners = win(&ledger, 3);
    chain.world().faults = vec![Fault::Revert];
    let (mut redeemer, _report) = redeemer(&chain, &ledger);
    work(&chain, &mut redeemer, 60).await;
    assert_eq!(confirmed(&ledger, &winners), 3);
    assert_eq!(sizes(&chain), [(0, vec![3]), (1, vec![1]), (2, vec![1]), (3, vec![1])]);
    assert_eq!(ledger.totals().redemption_failures, 3);
    check_sound(&chain);
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_is_stuck_is_replaced_with_the_same_tickets() {
    let dir = tempfile::tempdir().unwrap();
    let (chain, ledger) = (batching(), open(dir.path()));
    let winners = win(&ledger, 3);
    chain.world().automine = false;
    let (mut redeemer, _report) = redeemer(&chain, &ledger);
    work(&chain, &mut redeemer, 10).await;
    let submitted = ledger.submitted();
    assert_eq!((submitted.len(), submitted[0].winners().count()), (1, 3));
    assert!(!submitted[0].replaced().is_empty(), "what is stuck was replaced");
    assert_eq!(sizes(&chain), [(0, vec![3])], "under the same account nonce, for the same tickets");
    chain.world().automine = true;
    work(&chain, &mut redeemer, 60).await;
    assert_eq!(confirmed(&ledger, &winners), 3);
    check_sound(&chain);
}

#[tokio::test(start_paused = true)]
async fn a_node_killed_between_record_and_broadcast_sends_the_same_batch() {
    for point in [Point::Prepare, Point::Sign, Point::BeforeBroadcast, Point::AfterBroadcast] {
        let dir = tempfile::tempdir().unwrap();
        let chain = batching();
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
                let submitted = ledger.submitted();
                assert_eq!(submitted[0].winners().count(), 3, "recorded for all of them before it is sent");
                assert_eq!(chain.world().broadcasts, 0);
            }
            winners
        };
        let ledger = open(dir.path());
        let (mut second, _report) = redeemer(&chain, &ledger);
        work(&chain, &mut second, 20).await;
        assert_eq!(confirmed(&ledger, &winners), 3, "killed at {point:?}");
        assert_eq!(sizes(&chain), [(0, vec![3])], "killed at {point:?}: one transaction, whatever happens");
        check_sound(&chain);
    }
}

#[tokio::test(start_paused = true)]
async fn a_signer_that_refuses_batches_signs_single_redemptions() {
    let dir = tempfile::tempdir().unwrap();
    let (chain, ledger) = (batching(), open(dir.path()));
    let winners = win(&ledger, 3);
    let signer = SimSigner { most_data: Some(32), ..SimSigner::new(&chain) };
    let clock = Arc::new(SimClock::at(0));
    let (mut redeemer, report) =
        Redeemer::new(Arc::new(chain.clone()), Arc::new(signer), ledger.clone(), clock, quick());
    work(&chain, &mut redeemer, 20).await;
    assert_eq!((confirmed(&ledger, &winners), report.borrow().signer_fault.clone()), (3, None));
    assert_eq!(sizes(&chain), [(0, vec![1]), (1, vec![1]), (2, vec![1])]);
}
