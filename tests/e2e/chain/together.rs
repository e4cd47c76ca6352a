//! Several winners in one transaction on a real EVM.
use super::*;

/// Winners of both senders, turn and turn about: one pays from its deposit, the other from its reserve alone.
async fn winners(chain: &DevChain<'_>, nonces: std::ops::Range<u32>) -> Vec<WinningTicket> {
    let round = chain.round().await.unwrap();
    let mut winners = Vec::new();
    for nonce in nonces {
        let from = if nonce.is_multiple_of(2) { sender() } else { sender_reserve_only() };
        winners.push(winner(chain, &from, ether(10), nonce, round).await);
    }
    winners
}

async fn state(anvil: &Anvil) -> (DevChain<'_>, EthBroker) {
    let chain = small_state(anvil).await;
    chain.fund_sender(sender_reserve_only().address(), Wei::ZERO, ether(4_000)).await.unwrap();
    let broker = broker(&chain);
    broker.look().await.unwrap();
    (chain, broker)
}

/// Sends a transaction and waits for its block; its hash, what became of it, and the gas it used.
async fn sent(anvil: &Anvil, broker: &EthBroker, transaction: &Transaction) -> (H256, TransactionStatus, u64) {
    let (bytes, hash) = signed(transaction);
    broker.broadcast(&bytes).await.unwrap();
    let status = settled(broker, hash, transaction.nonce).await;
    let receipt: TransactionReceipt = anvil.rpc().request("eth_getTransactionReceipt", json!([hash])).await.unwrap();
    (hash, status, receipt.gas_used.unwrap().as_u64())
}

async fn nonce(broker: &EthBroker) -> u64 {
    broker.account_nonce(hot().address()).await.unwrap()
}

#[tokio::test]
async fn a_batch_pays_each_of_its_tickets_and_uses_less_gas_than_they_would_alone() {
    let anvil = Anvil::start().await.unwrap();
    let (chain, broker) = state(&anvil).await;
    let alone = winners(&chain, 0..4).await;
    let mut singly = Vec::new();
    for winner in &alone {
        let prepared = broker.prepare(winner, hot().address(), nonce(&broker).await).await.unwrap();
        singly.push(sent(&anvil, &broker, &prepared.transaction).await.2);
    }
    // The first of each sender also opens the round's books.
    let single = singly.iter().skip(2).sum::<u64>() / 2;
    for (size, first) in [(2u32, 10), (4, 20), (8, 30)] {
        let winners = winners(&chain, first..first + size).await;
        let prepared = broker.prepare_batch(&winners, hot().address(), nonce(&broker).await).await.unwrap();
        let prepared = prepared.expect("all of them pay in full");
        assert_eq!(prepared.winners, winners);
        assert_eq!(prepared.transaction.gas_limit, 150_000 + 320_000 * u64::from(size), "by formula, never estimated");
        let (hash, status, gas) = sent(&anvil, &broker, &prepared.transaction).await;
        let TransactionStatus::Mined { paid, .. } = status else { panic!("{status:?}") };
        assert_eq!(paid, ether(10).checked_mul(size.into()).unwrap());
        for winner in &winners {
            assert_eq!(broker.redeemed_in(hash, winner).await, Ok(Some(ether(10))));
        }
        let each = gas / u64::from(size);
        println!("gas per ticket: {each} in a batch of {size}, {single} alone ({} %)", each * 100 / single);
        assert!(each < single, "a batch of {size} uses {each} for each, alone it is {single}");
        assert!(size < 8 || each * 10 < single * 7, "eight together save a third at least: {each} against {single}");
    }
    let other = winners(&chain, 90..91).await;
    let (hash, ..) = {
        let all = winners(&chain, 91..93).await;
        let prepared = broker.prepare_batch(&all, hot().address(), nonce(&broker).await).await.unwrap().unwrap();
        sent(&anvil, &broker, &prepared.transaction).await
    };
    assert_eq!(broker.redeemed_in(hash, &other[0]).await, Ok(None), "a ticket of no batch is not in it");
}

#[tokio::test]
async fn one_bad_ticket_of_a_batch_costs_the_others_nothing() {
    let anvil = Anvil::start().await.unwrap();
    let (chain, broker) = state(&anvil).await;
    let winners = winners(&chain, 0..3).await;
    let prepared = broker.prepare_batch(&winners, hot().address(), nonce(&broker).await).await.unwrap().unwrap();
    redeem_from(&chain, ANYBODY, redeem_calldata(&winners[1]).into()).await.unwrap();
    let (hash, status, _) = sent(&anvil, &broker, &prepared.transaction).await;
    assert!(matches!(status, TransactionStatus::Mined { .. }), "it goes on without it: {status:?}");
    let mut paid = Vec::new();
    for winner in &winners {
        paid.push(broker.redeemed_in(hash, winner).await.unwrap());
    }
    assert_eq!(paid, [Some(ether(10)), None, Some(ether(10))]);
    assert_eq!(chain.pending_fees(recipient()).await.unwrap(), ether(30));
}

#[tokio::test]
async fn a_ticket_for_which_the_gas_did_not_suffice_is_redeemed_alone_afterwards() {
    let anvil = Anvil::start().await.unwrap();
    let (chain, broker) = state(&anvil).await;
    let winners = winners(&chain, 0..3).await;
    let prepared = broker.prepare_batch(&winners, hot().address(), nonce(&broker).await).await.unwrap().unwrap();
    // What an estimate leads to: the whole succeeds, its last ticket does not.
    let (to, data) = (prepared.transaction.to, Bytes::from(prepared.transaction.data.clone()));
    let call = json!([{ "from": hot().address().0, "to": to.0, "data": data }]);
    let estimate: U256 = anvil.rpc().request("eth_estimateGas", call).await.unwrap();
    let starved = Transaction { gas_limit: estimate.as_u64(), ..prepared.transaction };
    let (hash, status, _) = sent(&anvil, &broker, &starved).await;
    assert!(matches!(status, TransactionStatus::Mined { .. }), "{status:?}");
    assert_eq!(broker.redeemed_in(hash, &winners[0]).await, Ok(Some(ether(10))));
    assert_eq!(broker.redeemed_in(hash, &winners[2]).await, Ok(None));
    assert_eq!(broker.used_ticket(winners[2].hash()).await, Ok(false), "its number is public, and it is still good");
    let again = broker.prepare(&winners[2], hot().address(), nonce(&broker).await).await.unwrap();
    let (_, status, _) = sent(&anvil, &broker, &again.transaction).await;
    assert!(matches!(status, TransactionStatus::Mined { paid, .. } if paid == ether(10)), "{status:?}");
}

#[tokio::test]
async fn only_tickets_that_pay_in_full_and_more_than_their_share_go_into_a_batch() {
    let anvil = Anvil::start().await.unwrap();
    let (chain, broker) = state(&anvil).await;
    let poor = key(0x77);
    chain.fund_sender(poor.address(), ether(15), Wei::ZERO).await.unwrap();
    let round = chain.round().await.unwrap();
    let good = winners(&chain, 0..2).await;
    let first = winner(&chain, &poor, ether(10), 1, round).await;
    let short = winner(&chain, &poor, ether(10), 2, round).await;
    let dust = winner(&chain, &sender(), Wei::from(1_000), 3, round).await;
    let spent = winner(&chain, &sender(), ether(10), 4, round).await;
    redeem_from(&chain, ANYBODY, redeem_calldata(&spent).into()).await.unwrap();
    let all = [good[0], spent, first, dust, short, good[1]];
    let prepared = broker.prepare_batch(&all, hot().address(), nonce(&broker).await).await.unwrap().unwrap();
    assert_eq!(prepared.winners, [good[0], first, good[1]]);
    let alone = broker.prepare_batch(&[spent, dust, good[0]], hot().address(), nonce(&broker).await).await.unwrap();
    assert_eq!(alone, None, "one is no batch");
}
