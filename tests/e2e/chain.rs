//! Our contracts and our broker on a real EVM.
//!
//! Our own deployment must answer as the real contracts did when the vectors were made, down to the revert data; and
//! the broker must bring a real winner through it.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

#[path = "chain/together.rs"]
mod together;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use chain::contracts::{
    RedeemWinningTicketCall, ReserveClaimedFilter, WinningTicketRedeemedFilter, WinningTicketTransferFilter,
};
use chain::rpc::RpcError;
use chain::{ChainConfig, ChainError, EthBroker, redeem_calldata};
use ethers::abi::{AbiDecode, AbiEncode, RawLog, Token};
use ethers::contract::EthEvent;
use ethers::types::{Bytes, TransactionReceipt, U256};
use livepeer::address::{Address, H256};
use livepeer::broker::{Broker, ChainHead, FaultClass, Prepared, TransactionStatus};
use livepeer::recipient_rand::RecipientRand;
use livepeer::signature::SigningKey;
use livepeer::ticket::{Ticket, WinningTicket};
use livepeer::transaction::{Transaction, transaction_hash};
use livepeer::units::{Round, Timestamp, Wei, WinProb};
use millrace_tests::anvil::{Anvil, AnvilOptions, Mining};
use millrace_tests::devchain::{DevChain, Params};
use rustls::ServerConfig;
use rustls_pki_types::PrivatePkcs8KeyDer;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// Anybody: calls that name no particular sender come from here.
const ANYBODY: Address = Address(ethers::types::H160([0xa1; 20]));
const ETHER: u64 = 1_000_000_000_000_000_000;

fn ether(thousandths: u64) -> Wei {
    Wei::from(ETHER / 1_000).checked_mul(thousandths).unwrap()
}

fn key(byte: u8) -> SigningKey {
    SigningKey::from_bytes(&[byte; 32]).unwrap()
}

/// The keys of the vectors.
fn sender() -> SigningKey {
    key(0x11)
}
fn recipient() -> Address {
    key(0x33).address()
}
fn sender_reserve_only() -> SigningKey {
    key(0x55)
}
fn hot() -> SigningKey {
    key(0x99)
}

fn vectors() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/vectors/chain.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn bytes(value: &Value) -> Bytes {
    serde_json::from_value(value.clone()).unwrap()
}

fn hash(value: &Value) -> H256 {
    serde_json::from_value(value.clone()).unwrap()
}

fn wei(value: &Value) -> Wei {
    Wei::from_dec_str(value.as_str().unwrap()).unwrap()
}

/// The state the vectors were made in: round 7, round 5 never initialised, five orchestrators of which one joined just
/// now, senders with, without and with only half their funds.
async fn vector_state(anvil: &Anvil) -> DevChain<'_> {
    let vectors = vectors();
    let chain = DevChain::deploy(anvil, &Params { first_round: 3, ..Params::default() }).await.unwrap();
    let pool = ["0xBcd4042DE499D14e55001CcbB24a551F3b954096", "0x71bE63f3384f5fb98995898A86B02Fb2426c5788"];
    chain.register_orchestrator(pool[0].parse().unwrap(), ether(4_000_000)).await.unwrap();
    chain.register_orchestrator(pool[1].parse().unwrap(), ether(2_000_000)).await.unwrap();
    chain.register_orchestrator(recipient(), ether(1_000_000)).await.unwrap();
    let last = "0xFABB0ac9d68B0B445fB7357272Ff202C5651694a".parse().unwrap();
    chain.register_orchestrator(last, ether(500_000)).await.unwrap();
    assert_eq!(chain.next_round().await.unwrap(), Round(4));
    let unlocked = key(0x66).address();
    chain.fund_sender(unlocked, ether(1_000), ether(1_000)).await.unwrap();
    chain.send(unlocked, "TicketBroker", "unlock", &[], Wei::ZERO).await.unwrap();
    chain.fund_sender(sender().address(), ether(2_000), ether(4_000)).await.unwrap();
    chain.fund_sender(sender_reserve_only().address(), Wei::ZERO, ether(4_000)).await.unwrap();
    assert_eq!(chain.skip_to_next_round().await.unwrap(), Round(5));
    assert_eq!(chain.next_round().await.unwrap(), Round(6));
    assert_eq!(chain.next_round().await.unwrap(), Round(7));
    let joining = "0x1CBd3b2770909D4e10f157cABC84C7264073C9Ec".parse().unwrap();
    chain.register_orchestrator(joining, ether(700_000)).await.unwrap();
    for (round, name) in [(7, "currentBlockHash"), (6, "previousBlockHash"), (4, "expiredBlockHash")] {
        chain.set_round_hash(Round(round), hash(&vectors["round"][name])).await.unwrap();
    }
    anvil.set_balance(ANYBODY, ether(1_000_000)).await.unwrap();
    chain
}

/// A winner of the sender for the recipient in the given round; always wins.
async fn winner(chain: &DevChain<'_>, sender: &SigningKey, face_value: Wei, nonce: u32, round: Round) -> WinningTicket {
    let token = chain.view("RoundsManager", "blockHashForRound", &[Token::Uint(round.0.into())]).await.unwrap();
    let creation_round_block_hash = H256::from_slice(&token[0].clone().into_fixed_bytes().unwrap());
    let rand = RecipientRand::new(U256::from(4711));
    let ticket = Ticket {
        recipient: recipient(),
        sender: sender.address(),
        face_value,
        win_prob: WinProb::ALWAYS,
        sender_nonce: nonce,
        recipient_rand_hash: rand.commitment(),
        creation_round: round,
        creation_round_block_hash,
    };
    let signature = hex::encode(sender.sign_personal(ticket.hash()).to_bytes());
    let record = json!({ "ticket": ticket, "signature": signature, "recipient_rand": rand, "expiration_block": 0 });
    serde_json::from_value(record).unwrap()
}

async fn redeem_from(chain: &DevChain<'_>, from: Address, data: Bytes) -> anyhow::Result<TransactionReceipt> {
    chain.transact(from, Some(chain.address("TicketBroker")), data, Wei::ZERO).await
}

/// Calls without a trace; the revert data when it fails.
async fn call(anvil: &Anvil, to: Address, from: Address, data: &Bytes) -> Result<Bytes, Bytes> {
    let params = json!([{ "from": from.0, "to": to.0, "data": data }, "latest"]);
    match anvil.rpc().request::<Bytes>("eth_call", params).await {
        Ok(answer) => Ok(answer),
        Err(RpcError::Response { data, .. }) => Err(data.unwrap_or_default()),
        Err(other) => panic!("{other}"),
    }
}

fn events(receipt: &TransactionReceipt, broker: Address) -> (Vec<&'static str>, Wei, Wei) {
    let (mut names, mut paid, mut claimed) = (Vec::new(), Wei::ZERO, Wei::ZERO);
    for log in receipt.logs.iter().filter(|log| log.address == broker.0) {
        let raw = RawLog { topics: log.topics.clone(), data: log.data.to_vec() };
        if let Ok(event) = WinningTicketTransferFilter::decode_log(&raw) {
            names.push("WinningTicketTransfer");
            paid = Wei(event.amount);
        } else if let Ok(event) = ReserveClaimedFilter::decode_log(&raw) {
            names.push("ReserveClaimed");
            claimed = Wei(event.amount);
        } else if WinningTicketRedeemedFilter::decode_log(&raw).is_ok() {
            names.push("WinningTicketRedeemed");
        } else {
            panic!("an event nobody expects: {log:?}");
        }
    }
    (names, paid, claimed)
}

/// Brings about what a vector calls its state.
async fn enter(chain: &DevChain<'_>, vector: &Value) {
    let mut redeem = RedeemWinningTicketCall::decode(bytes(&vector["calldata"])).unwrap();
    match vector["state"].as_str().unwrap() {
        "default" => {}
        "same ticket redeemed before" => {
            redeem.recipient_rand = U256::from_big_endian(
                &hex::decode("0d76ab965f304d145e41a6ac44355873861cd9a2b3d0a5b259765d4b205c329e").unwrap(),
            );
            redeem_from(chain, ANYBODY, redeem.encode().into()).await.unwrap();
        }
        "sender called unlock() in this round" => {
            chain.send(sender().address(), "TicketBroker", "unlock", &[], Wei::ZERO).await.unwrap();
        }
        "paused" => chain.set_paused(true).await.unwrap(),
        "current round not initialised" => assert_eq!(chain.skip_to_next_round().await.unwrap(), Round(8)),
        "share exhausted, then pool size grew by one in the same round" => {
            let all = winner(chain, &sender_reserve_only(), ether(800), 1, Round(7)).await;
            redeem_from(chain, ANYBODY, redeem_calldata(&all).into()).await.unwrap();
            chain.register_orchestrator(key(0x42).address(), ether(100_000)).await.unwrap();
        }
        other => panic!("a state nobody knows: {other}"),
    }
}

#[tokio::test]
async fn our_contracts_answer_every_redemption_as_the_real_ones_did() {
    let anvil = Anvil::start().await.unwrap();
    let chain = vector_state(&anvil).await;
    let broker = chain.address("TicketBroker");
    let mut gas = Vec::new();
    for vector in vectors()["redemptions"].as_array().unwrap() {
        let id = vector["id"].as_str().unwrap();
        let before = anvil.snapshot().await.unwrap();
        enter(&chain, vector).await;
        let data = bytes(&vector["calldata"]);
        if vector["expect"] == "revert" {
            let answer = call(&anvil, broker, ANYBODY, &data).await;
            assert_eq!(answer, Err(bytes(&vector["revert_data"])), "{id}");
        } else {
            let receipt = redeem_from(&chain, ANYBODY, data).await.unwrap_or_else(|e| panic!("{id}: {e:#}"));
            let (names, paid, claimed) = events(&receipt, broker);
            assert_eq!(json!(names), vector["events"], "{id}");
            assert_eq!(paid, wei(&vector["payout_wei"]), "{id}");
            assert_eq!(claimed, wei(&vector["reserve_claimed_wei"]), "{id}");
            let ticket = Token::FixedBytes(hash(&vector["ticketHash"]).as_bytes().to_vec());
            let used = chain.view("TicketBroker", "usedTickets", &[ticket]).await.unwrap();
            assert_eq!(used, [Token::Bool(vector["ticket_used_after"].as_bool().unwrap())], "{id}");
            assert_eq!(chain.pending_fees(recipient()).await.unwrap(), paid, "fees are the recipient's: {id}");
            gas.push((id.to_owned(), receipt.gas_used.unwrap().as_u64()));
        }
        anvil.rewind(before).await.unwrap();
    }
    assert_eq!(gas.len(), 10);
    // Within sight of the real contracts, so that gas limits tried here mean something there.
    for (id, used) in gas {
        assert!((60_000..500_000).contains(&used), "{id} used {used} gas");
    }
}

#[tokio::test]
async fn our_contracts_share_the_reserve_as_the_real_ones_did() {
    let anvil = Anvil::start().await.unwrap();
    let chain = vector_state(&anvil).await;
    let vectors = vectors();
    let mut states = vectors["claimable_reserve"].as_array().unwrap().iter();
    let holder = sender_reserve_only();
    let other: Address = "0xBcd4042DE499D14e55001CcbB24a551F3b954096".parse().unwrap();
    let claim = |nonce: u32, face: Wei, to: Address| {
        let (chain, holder) = (&chain, &holder);
        async move {
            let mut ticket = *winner(chain, holder, face, nonce, Round(7)).await.ticket();
            ticket.recipient = to;
            let signature = hex::encode(holder.sign_personal(ticket.hash()).to_bytes());
            let rand = RecipientRand::new(U256::from(4711));
            let record =
                json!({ "ticket": ticket, "signature": signature, "recipient_rand": rand, "expiration_block": 0 });
            let winner: WinningTicket = serde_json::from_value(record).unwrap();
            redeem_from(chain, ANYBODY, redeem_calldata(&winner).into()).await.unwrap();
        }
    };
    let mut compare = async |what: &str| {
        let state = states.next().unwrap();
        assert!(state["description"].as_str().unwrap().contains(what), "{state}");
        let question = [Token::Address(holder.address().0), Token::Address(recipient().0)];
        let data = chain.encode("TicketBroker", "claimableReserve", &question).unwrap();
        let answer = call(&anvil, chain.address("TicketBroker"), ANYBODY, &data).await;
        match state["claimable_by_me"].as_str() {
            Some(share) => {
                assert_eq!(U256::from_big_endian(&answer.unwrap()), U256::from_dec_str(share).unwrap(), "{what}");
            }
            None => assert_eq!(answer.unwrap_err()[..5], [0x4e, 0x48, 0x7b, 0x71, 0], "a panic: {what}"),
        }
        let size = chain.view_number("BondingManager", "getTranscoderPoolSize", &[]).await.unwrap();
        assert_eq!(size.to_string(), state["pool_size"].as_str().unwrap(), "{what}");
    };
    compare("untouched").await;
    claim(1, ether(300), recipient()).await;
    compare("I claimed").await;
    claim(2, ether(500), other).await;
    compare("another orchestrator claimed").await;
    claim(3, ether(1_000), recipient()).await;
    compare("only the rest").await;
    let before = anvil.snapshot().await.unwrap();
    chain.register_orchestrator(key(0x42).address(), ether(100_000)).await.unwrap();
    compare("joined").await;
    anvil.rewind(before).await.unwrap();
    let leaving: Address = "0xFABB0ac9d68B0B445fB7357272Ff202C5651694a".parse().unwrap();
    let all = [Token::Uint(ether(500_000).0)];
    chain.send(leaving, "BondingManager", "unbond", &all, Wei::ZERO).await.unwrap();
    compare("left the pool").await;
    chain.next_round().await.unwrap();
    compare("next round").await;
}

#[tokio::test]
async fn our_contracts_hash_tickets_as_the_real_ones_did() {
    let anvil = Anvil::start().await.unwrap();
    let chain = DevChain::deploy(&anvil, &Params::default()).await.unwrap();
    for vector in vectors()["ticket_hashes"].as_array().unwrap() {
        let fields = &vector["ticket"];
        let number = |name: &str| {
            let text = fields[name].as_str().unwrap();
            Token::Uint(
                text.strip_prefix("0x")
                    .map_or_else(|| U256::from_dec_str(text).unwrap(), |t| U256::from_str_radix(t, 16).unwrap()),
            )
        };
        let address = |name: &str| Token::Address(fields[name].as_str().unwrap().parse::<Address>().unwrap().0);
        let ticket = Token::Tuple(vec![
            address("recipient"),
            address("sender"),
            number("faceValue"),
            number("winProb"),
            number("senderNonce"),
            Token::FixedBytes(bytes(&fields["recipientRandHash"]).to_vec()),
            Token::Bytes(bytes(&fields["auxData"]).to_vec()),
        ]);
        let answer = chain.view("TicketBroker", "getTicketHash", &[ticket]).await.unwrap();
        assert_eq!(answer, [Token::FixedBytes(hash(&vector["hash"]).as_bytes().to_vec())], "{}", vector["description"]);
    }
}

#[tokio::test]
async fn a_batch_redeems_what_it_can_and_says_nothing_of_the_rest() {
    let anvil = Anvil::start().await.unwrap();
    let chain = vector_state(&anvil).await;
    let vector = vectors()["batch"][0].clone();
    let receipt = redeem_from(&chain, ANYBODY, bytes(&vector["calldata"])).await.unwrap();
    let redeemed = events(&receipt, chain.address("TicketBroker")).0;
    assert_eq!(redeemed.iter().filter(|name| **name == "WinningTicketRedeemed").count(), 2);
}

// The broker.

fn broker(chain: &DevChain<'_>) -> EthBroker {
    EthBroker::new(chain.config(recipient()), Box::new(|| Timestamp(1_700_000_000))).unwrap()
}

/// A chain with one active orchestrator, a funded gateway and a hot key that can pay gas.
async fn small_state(anvil: &Anvil) -> DevChain<'_> {
    let chain = DevChain::deploy(anvil, &Params::default()).await.unwrap();
    chain.activate_orchestrator(recipient(), ether(1_000_000)).await.unwrap();
    chain.fund_sender(sender().address(), ether(2_000), ether(4_000)).await.unwrap();
    anvil.set_balance(hot().address(), ether(1_000)).await.unwrap();
    anvil.set_balance(ANYBODY, ether(1_000)).await.unwrap();
    chain
}

fn signed(transaction: &Transaction) -> (Vec<u8>, H256) {
    let bytes = transaction.encode_signed(&hot().sign_hash(transaction.sighash()));
    let hash = transaction_hash(&bytes);
    (bytes, hash)
}

/// What becomes of a transaction that was sent, once it is in a block.
async fn settled(broker: &EthBroker, hash: H256, nonce: u64) -> TransactionStatus {
    let mined = async {
        loop {
            let status = broker.transaction_status(hash, hot().address(), nonce).await.unwrap();
            // The head is read before the receipt: a block mined between the two counts as no confirmation yet.
            let early = matches!(
                status,
                TransactionStatus::Pending
                    | TransactionStatus::Unknown
                    | TransactionStatus::Mined { confirmations: 0, .. }
                    | TransactionStatus::Reverted { confirmations: 0, .. }
            );
            if !early {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), mined).await.expect("it is mined")
}

#[tokio::test]
async fn a_winner_is_redeemed_and_the_payout_is_read_from_the_chain() {
    let anvil = Anvil::start().await.unwrap();
    let chain = small_state(&anvil).await;
    let broker = broker(&chain);
    assert_eq!(broker.head(), None);
    let head = broker.look().await.unwrap();
    assert_eq!(broker.head(), Some(head));
    assert_eq!((head.round, head.last_initialized_round, head.ticket_round), (Round(2), Round(2), Round(2)));
    assert_eq!(head.l1_block.0, anvil.block_number().await.unwrap());
    assert!(head.recipient_active && !head.paused && !head.gas_price.is_zero());
    let info = broker.sender_info(sender().address()).await.unwrap();
    assert_eq!(
        (info.deposit, info.reserve_remaining, info.claimable_reserve),
        (ether(2_000), ether(4_000), ether(4_000))
    );

    let winner = winner(&chain, &sender(), ether(10), 1, head.ticket_round).await;
    assert_eq!(winner.ticket().creation_round_block_hash, head.ticket_round_block_hash);
    let nonce = broker.account_nonce(hot().address()).await.unwrap();
    let Prepared { transaction, payout, cost } = broker.prepare(&winner, hot().address(), nonce).await.unwrap();
    assert_eq!(payout, ether(10));
    assert!(transaction.max_priority_fee_per_gas.is_zero());
    let (bytes, hash) = signed(&transaction);
    let status = async || broker.transaction_status(hash, hot().address(), nonce).await.unwrap();
    assert_eq!(status().await, TransactionStatus::Unknown);
    broker.broadcast(&bytes).await.unwrap();
    let mined = settled(&broker, hash, nonce).await;
    let TransactionStatus::Mined { confirmations: 1, paid, fee, .. } = mined else { panic!("{mined:?}") };
    assert_eq!(paid, ether(10));
    assert!(!fee.is_zero() && fee <= cost);
    anvil.mine(3).await.unwrap();
    assert!(matches!(status().await, TransactionStatus::Mined { confirmations: 4, .. }));

    broker.broadcast(&bytes).await.expect("the same bytes again are harmless, mined or not");
    assert!(broker.used_ticket(winner.hash()).await.unwrap());
    assert_eq!(chain.pending_fees(recipient()).await.unwrap(), ether(10));
    assert_eq!(broker.account_nonce(hot().address()).await.unwrap(), nonce + 1);
    assert_eq!(broker.balance(hot().address()).await.unwrap(), ether(1_000).checked_sub(fee).unwrap());
    let again = broker.prepare(&winner, hot().address(), nonce + 1).await.unwrap_err();
    assert_eq!((again.class, again.detail.as_str()), (FaultClass::Done, "ticket is used"));
    let fees = [Token::Address(ANYBODY.0), Token::Uint(ether(10).0)];
    chain.send(recipient(), "BondingManager", "withdrawFees", &fees, Wei::ZERO).await.unwrap();
    assert_eq!(chain.pending_fees(recipient()).await.unwrap(), Wei::ZERO);
}

#[tokio::test]
async fn what_cannot_be_redeemed_now_is_told_apart_before_anything_is_sent() {
    let anvil = Anvil::start().await.unwrap();
    let chain = small_state(&anvil).await;
    let broker = broker(&chain);
    let round = chain.round().await.unwrap();
    let class = async |winner: &WinningTicket| {
        let error = broker.prepare(winner, hot().address(), 0).await.unwrap_err();
        (error.class, error.detail)
    };
    // Pays short: two and four ether are there, one of two orchestrators may claim half of the reserve.
    chain.register_orchestrator(key(0x42).address(), ether(1_000)).await.unwrap();
    let short = winner(&chain, &sender(), ether(5_000), 1, round).await;
    assert_eq!(broker.prepare(&short, hot().address(), 0).await.unwrap().payout, ether(4_000));
    let beyond = winner(&chain, &sender(), ether(6_001), 1, round).await;
    let (fault, words) = class(&beyond).await;
    assert_eq!(fault, FaultClass::WaitForFunds, "{words}");
    assert!(words.contains("sender deposit and reserve insufficient to cover ticket face value"), "{words}");

    let good = winner(&chain, &sender(), ether(10), 2, round).await;
    chain.set_paused(true).await.unwrap();
    assert_eq!(class(&good).await.0, FaultClass::WaitForUnpause);
    chain.set_paused(false).await.unwrap();
    anvil.set_balance(hot().address(), Wei::from(1)).await.unwrap();
    let (fault, words) = class(&good).await;
    assert_eq!(fault, FaultClass::Operator);
    assert!(words.contains("holds 1 wei"), "{words}");
    anvil.set_balance(hot().address(), ether(1_000)).await.unwrap();
    let dear = json!(["0x4a817c80000"]);
    anvil.request::<Value>("anvil_setNextBlockBaseFeePerGas", dear).await.unwrap();
    anvil.mine(1).await.unwrap();
    let (fault, words) = class(&good).await;
    assert_eq!(fault, FaultClass::Transport);
    assert!(words.contains("above the limit of 10000000000 wei"), "{words}");
    anvil.request::<Value>("anvil_setNextBlockBaseFeePerGas", json!(["0x3b9aca00"])).await.unwrap();
    anvil.mine(1).await.unwrap();
    assert_eq!(broker.prepare(&good, hot().address(), 0).await.unwrap().payout, ether(10));

    chain.skip_to_next_round().await.unwrap();
    assert_eq!(class(&good).await.0, FaultClass::WaitForRound);
    chain.initialize_round().await.unwrap();
    assert_eq!(broker.prepare(&good, hot().address(), 0).await.unwrap().payout, ether(10));
    let all = [Token::Uint(ether(1_000_000).0)];
    chain.send(recipient(), "BondingManager", "unbond", &all, Wei::ZERO).await.unwrap();
    chain.next_round().await.unwrap();
    // Both true now: not in the active set, and expired. The set is the one that may still change.
    assert_eq!(class(&good).await.0, FaultClass::WaitForActiveSet);
    let rebond = [Token::Address(recipient().0), Token::Uint(0.into())];
    chain.send(recipient(), "BondingManager", "rebondFromUnbonded", &rebond, Wei::ZERO).await.unwrap();
    chain.next_round().await.unwrap();
    let (fault, words) = class(&good).await;
    assert_eq!(fault, FaultClass::Permanent);
    assert!(words.contains("ticket is expired"), "{words}");

    let late = winner(&chain, &sender(), ether(10), 3, chain.round().await.unwrap()).await;
    chain.send(sender().address(), "TicketBroker", "unlock", &[], Wei::ZERO).await.unwrap();
    let unlocking = broker.sender_info(sender().address()).await.unwrap().withdraw_round;
    assert_eq!(unlocking, Round(chain.round().await.unwrap().0 + 2));
    assert_eq!(broker.prepare(&late, hot().address(), 0).await.unwrap().payout, ether(10));
}

#[tokio::test]
async fn a_ticket_and_an_unlocking_sender_last_through_the_next_round_and_no_longer() {
    let anvil = Anvil::start().await.unwrap();
    let chain = small_state(&anvil).await;
    let broker = broker(&chain);
    let (leaver, me) = (key(0x44), hot().address());
    chain.fund_sender(leaver.address(), ether(1_000), ether(1_000)).await.unwrap();
    chain.send(leaver.address(), "TicketBroker", "unlock", &[], Wei::ZERO).await.unwrap();
    let old = winner(&chain, &sender(), ether(10), 1, chain.round().await.unwrap()).await;

    let next = chain.next_round().await.unwrap();
    let of_leaver = winner(&chain, &leaver, ether(10), 1, next).await;
    assert_eq!(broker.prepare(&old, me, 0).await.unwrap().payout, ether(10));
    assert_eq!(broker.prepare(&of_leaver, me, 0).await.unwrap().payout, ether(10));

    chain.next_round().await.unwrap();
    let error = broker.prepare(&old, me, 0).await.unwrap_err();
    assert_eq!(
        (error.class, error.detail.as_str()),
        (FaultClass::Permanent, "redeemWinningTicket reverted: ticket is expired")
    );
    let error = broker.prepare(&of_leaver, me, 0).await.unwrap_err();
    assert_eq!(
        (error.class, error.detail.as_str()),
        (FaultClass::Conditional, "redeemWinningTicket reverted: sender is unlocked")
    );
    // It may take everything now; or stay after all, and then it pays.
    let before = anvil.snapshot().await.unwrap();
    chain.send(leaver.address(), "TicketBroker", "withdraw", &[], Wei::ZERO).await.unwrap();
    assert_eq!(broker.prepare(&of_leaver, me, 0).await.unwrap_err().class, FaultClass::WaitForFunds);
    anvil.rewind(before).await.unwrap();
    chain.send(leaver.address(), "TicketBroker", "cancelUnlock", &[], Wei::ZERO).await.unwrap();
    assert_eq!(broker.prepare(&of_leaver, me, 0).await.unwrap().payout, ether(10));
}

#[tokio::test]
async fn pending_reverted_and_replaced_transactions_are_told_apart() {
    let options = AnvilOptions { mining: Mining::OnDemand, ..AnvilOptions::default() };
    let anvil = Anvil::with(options).await.unwrap();
    let chain = small_state(&anvil).await;
    let broker = broker(&chain);
    let round = chain.round().await.unwrap();
    let me = hot().address();

    let first = winner(&chain, &sender(), ether(10), 1, round).await;
    let (bytes, hash) = signed(&broker.prepare(&first, me, 0).await.unwrap().transaction);
    broker.broadcast(&bytes).await.unwrap();
    assert_eq!(broker.transaction_status(hash, me, 0).await.unwrap(), TransactionStatus::Pending);
    assert_eq!(broker.account_nonce(me).await.unwrap(), 1);
    broker.broadcast(&bytes).await.expect("the same bytes again are harmless");
    anvil.mine(1).await.unwrap();
    assert!(
        matches!(broker.transaction_status(hash, me, 0).await.unwrap(), TransactionStatus::Mined { paid, .. } if paid == ether(10))
    );

    // Prepared, then somebody else redeems the ticket first: ours is mined and fails.
    let second = winner(&chain, &sender(), ether(10), 2, round).await;
    let (bytes, hash) = signed(&broker.prepare(&second, me, 1).await.unwrap().transaction);
    redeem_from(&chain, ANYBODY, redeem_calldata(&second).into()).await.unwrap();
    broker.broadcast(&bytes).await.unwrap();
    anvil.mine(1).await.unwrap();
    let status = broker.transaction_status(hash, me, 1).await.unwrap();
    assert!(matches!(status, TransactionStatus::Reverted { fee, .. } if !fee.is_zero()), "{status:?}");
    assert!(broker.used_ticket(second.hash()).await.unwrap());

    // Another transaction takes the account nonce of one that was never forwarded.
    let third = winner(&chain, &sender(), ether(10), 3, round).await;
    let (_, lost) = signed(&broker.prepare(&third, me, 2).await.unwrap().transaction);
    let other = winner(&chain, &sender(), ether(10), 4, round).await;
    let (bytes, _) = signed(&broker.prepare(&other, me, 2).await.unwrap().transaction);
    broker.broadcast(&bytes).await.unwrap();
    assert_eq!(broker.transaction_status(lost, me, 2).await.unwrap(), TransactionStatus::Unknown);
    anvil.mine(1).await.unwrap();
    assert_eq!(
        broker.transaction_status(lost, me, 2).await.unwrap(),
        TransactionStatus::Pending,
        "not deep enough yet"
    );
    anvil.mine(1).await.unwrap();
    assert_eq!(broker.transaction_status(lost, me, 2).await.unwrap(), TransactionStatus::Replaced);
}

#[tokio::test]
async fn what_is_final_needs_every_endpoint_to_say_so() {
    let anvil = Anvil::start().await.unwrap();
    let chain = small_state(&anvil).await;
    let state: Value = anvil.request("anvil_dumpState", json!([])).await.unwrap();
    // The second endpoint has the same contracts and never hears of what comes now.
    let other = Anvil::start().await.unwrap();
    assert!(other.request::<bool>("anvil_loadState", json!([state])).await.unwrap());
    let alone = broker(&chain);
    let mut config = chain.config(recipient());
    config.rpc.push(other.endpoint());
    let both = EthBroker::new(config, Box::new(|| Timestamp(0))).unwrap();

    let winner = winner(&chain, &sender(), ether(10), 1, chain.round().await.unwrap()).await;
    assert!(!both.used_ticket(winner.hash()).await.unwrap());
    let me = hot().address();
    let (bytes, hash) = signed(&alone.prepare(&winner, me, 0).await.unwrap().transaction);
    alone.broadcast(&bytes).await.unwrap();
    settled(&alone, hash, 0).await;
    assert!(alone.used_ticket(winner.hash()).await.unwrap());
    let error = both.used_ticket(winner.hash()).await.unwrap_err();
    assert_eq!(error.class, FaultClass::Transport);
    assert!(error.detail.contains("endpoints disagree about a spent ticket"), "{error}");
    let depth = async |broker: &EthBroker| match broker.transaction_status(hash, me, 0).await.unwrap() {
        TransactionStatus::Mined { confirmations, .. } => confirmations,
        status => panic!("{status:?}"),
    };
    assert_eq!((depth(&alone).await, depth(&both).await), (1, 0));
    // The same bytes again go to the other endpoint too.
    both.broadcast(&bytes).await.unwrap();
    both.broadcast(&bytes).await.unwrap();
    let second = EthBroker::new(
        ChainConfig::new(vec![other.endpoint()], chain.address("Controller"), other.chain_id(), recipient()),
        Box::new(|| Timestamp(0)),
    )
    .unwrap();
    assert!(matches!(settled(&second, hash, 0).await, TransactionStatus::Mined { .. }));
    assert!(both.used_ticket(winner.hash()).await.unwrap());
}

#[tokio::test]
async fn a_round_without_a_hash_makes_tickets_of_the_round_before() {
    let anvil = Anvil::start().await.unwrap();
    let chain = small_state(&anvil).await;
    chain.next_round().await.unwrap();
    let broker = broker(&chain);
    assert_eq!(broker.look().await.unwrap().ticket_round, Round(3));
    chain.set_round_hash(Round(3), H256::zero()).await.unwrap();
    anvil.mine(1).await.unwrap();
    let head = broker.look().await.unwrap();
    assert_eq!((head.last_initialized_round, head.ticket_round), (Round(3), Round(2)));
    assert!(!head.ticket_round_block_hash.is_zero());
}

#[tokio::test]
async fn a_wrong_chain_and_a_wrong_controller_are_refused() {
    let anvil = Anvil::start().await.unwrap();
    let chain = DevChain::deploy(&anvil, &Params::default()).await.unwrap();
    let mut config = chain.config(recipient());
    config.chain_id = 42_161;
    let broker = EthBroker::new(config, Box::new(|| Timestamp(0))).unwrap();
    let error = broker.look().await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("rpc endpoint {} serves chain 31337, this node is set to chain 42161", anvil.url())
    );
    assert!(matches!(broker.run().await, Err(e) if e.needs_operator()), "a watch on the wrong chain ends");
    let error = broker.balance(recipient()).await.unwrap_err();
    assert_eq!(error.class, FaultClass::Operator, "{error}");
    let error = broker.broadcast(&[2, 0xc0]).await.unwrap_err();
    assert_eq!(error.class, FaultClass::Operator, "nothing is sent to another chain: {error}");

    let mut config = chain.config(recipient());
    config.controller = ANYBODY;
    let error = EthBroker::new(config, Box::new(|| Timestamp(0))).unwrap().look().await.unwrap_err();
    assert!(matches!(error, ChainError::NoContract { name: "Controller", .. }), "{error}");
    let mut config = chain.config(recipient());
    config.controller = chain.address("ServiceRegistry");
    let error = EthBroker::new(config, Box::new(|| Timestamp(0))).unwrap().look().await.unwrap_err();
    assert!(matches!(error, ChainError::Reverted { .. } | ChainError::Decode { .. }), "{error}");
}

#[tokio::test]
async fn a_service_uri_that_differs_is_noticed() {
    let anvil = Anvil::start().await.unwrap();
    let chain = DevChain::deploy(&anvil, &Params::default()).await.unwrap();
    let broker = broker(&chain);
    assert_eq!(broker.service_uri(recipient()).await.unwrap(), "");
    chain.set_service_uri(recipient(), "https://node.example.org:8935").await.unwrap();
    assert_eq!(broker.service_uri(recipient()).await.unwrap(), "https://node.example.org:8935");
    let registered = broker.registered_service_uri(broker.config().recipient).await.unwrap();
    assert_eq!(registered.as_deref(), Some("https://node.example.org:8935"));
}

/// A door in front of an endpoint that can be shut.
async fn door(target: String) -> (String, watch::Sender<bool>, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (open, is_open) = watch::channel(true);
    let target = target.strip_prefix("http://").unwrap().to_owned();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut passing = JoinSet::new();
        loop {
            let (mut inside, _) = listener.accept().await.unwrap();
            let (mut is_open, target) = (is_open.clone(), target.clone());
            passing.spawn(async move {
                if !*is_open.borrow_and_update() {
                    return;
                }
                let mut outside = TcpStream::connect(target).await.unwrap();
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut inside, &mut outside) => {}
                    _ = is_open.changed() => {}
                }
            });
        }
    });
    (url, open, tasks)
}

#[tokio::test]
async fn an_unreachable_chain_is_said_so_and_comes_back() {
    let anvil = Anvil::start().await.unwrap();
    let chain = small_state(&anvil).await;
    let (url, open, _tasks) = door(anvil.url().to_owned()).await;
    let mut config = chain.config(recipient());
    config.rpc = vec![url.parse().unwrap()];
    config.poll_interval_ms = 100;
    let broker = EthBroker::new(config, Box::new(|| Timestamp(7))).unwrap();
    let watcher = broker.clone();
    let watching = tokio::spawn(async move { watcher.run().await });
    let wait = Duration::from_secs(20);
    let mut heads = broker.subscribe();
    tokio::time::timeout(wait, heads.wait_for(Option::is_some)).await.expect("a first head").unwrap();

    open.send_replace(false);
    let error = broker.balance(recipient()).await.unwrap_err();
    assert_eq!(error.class, FaultClass::Transport);
    assert!(error.detail.starts_with(&format!("rpc endpoint {url} could not be reached")), "{error}");
    let told = tokio::time::timeout(wait, async {
        loop {
            if let Some(fault) = broker.fault() {
                return fault;
            }
            tokio::task::yield_now().await;
        }
    });
    assert!(told.await.expect("the watch notices").contains("could not be reached"));
    assert!(broker.head().is_some(), "what was seen last stays known, with its age");

    anvil.mine(5).await.unwrap();
    let height = anvil.block_number().await.unwrap();
    open.send_replace(true);
    let seen = heads.wait_for(|head| head.is_some_and(|head| head.l2_block.0 >= height));
    tokio::time::timeout(wait, seen).await.expect("the chain is back").unwrap();
    assert!(!watching.is_finished(), "the watch outlives an outage");
    watching.abort();
}

/// A door that speaks TLS with the given certificate.
async fn tls_door(target: String, identity: &rcgen::CertifiedKey<rcgen::KeyPair>) -> (String, JoinSet<()>) {
    let key = PrivatePkcs8KeyDer::from(identity.signing_key.serialize_der());
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![identity.cert.der().clone()], key.into())
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let target = target.strip_prefix("http://").unwrap().to_owned();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut passing = JoinSet::new();
        loop {
            let (inside, _) = listener.accept().await.unwrap();
            let (acceptor, target) = (acceptor.clone(), target.clone());
            passing.spawn(async move {
                let Ok(mut inside) = acceptor.accept(inside).await else { return };
                let mut outside = TcpStream::connect(target).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut inside, &mut outside).await;
            });
        }
    });
    (url, tasks)
}

#[tokio::test]
async fn an_https_endpoint_must_prove_who_it_is() {
    let anvil = Anvil::start().await.unwrap();
    let chain = DevChain::deploy(&anvil, &Params::default()).await.unwrap();
    let identity = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let stranger = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (url, _tasks) = tls_door(anvil.url().to_owned(), &identity).await;
    let trusting = |name: &str, pem: String| {
        let ca_file = dir.path().join(name);
        std::fs::write(&ca_file, pem).unwrap();
        let rpc = vec![url.parse().unwrap()];
        EthBroker::new(ChainConfig { ca_file, rpc, ..chain.config(recipient()) }, Box::new(|| Timestamp(0)))
    };
    let head = trusting("right.pem", identity.cert.pem()).unwrap().look().await.unwrap();
    assert_eq!(head.round, Round(1));
    let error = trusting("wrong.pem", stranger.cert.pem()).unwrap().look().await.unwrap_err();
    assert_eq!(error.class(), FaultClass::Transport);
    let detail = livepeer::broker::BrokerError::from(error).detail;
    assert!(detail.contains("could not be reached") && detail.contains("certificate"), "{detail}");
    let error = trusting("none.pem", String::new()).unwrap_err();
    assert_eq!(error.class(), FaultClass::Operator);
    let missing = dir.path().join("missing.pem");
    let config = ChainConfig { ca_file: missing, rpc: vec![url.parse().unwrap()], ..chain.config(recipient()) };
    assert!(EthBroker::new(config, Box::new(|| Timestamp(0))).unwrap_err().needs_operator());
}

#[tokio::test]
async fn a_chain_that_steps_back_is_believed_only_when_it_stays_back() {
    let anvil = Anvil::start().await.unwrap();
    let chain = small_state(&anvil).await;
    let mut config = chain.config(recipient());
    config.poll_interval_ms = 100;
    let broker = EthBroker::new(config, Box::new(|| Timestamp(7))).unwrap();
    let watcher = broker.clone();
    let watching = tokio::spawn(async move { watcher.run().await });
    let wait = Duration::from_secs(20);
    let mut heads = broker.subscribe();
    let before = anvil.snapshot().await.unwrap();
    anvil.mine(10).await.unwrap();
    let high = anvil.block_number().await.unwrap();
    let at = |height: u64| move |head: &Option<ChainHead>| head.is_some_and(|head| head.l2_block.0 == height);
    tokio::time::timeout(wait, heads.wait_for(at(high))).await.expect("the height").unwrap();
    anvil.rewind(before).await.unwrap();
    let mut doubted = false;
    let back = tokio::time::timeout(wait, async {
        while !heads.wait_for(|_| true).await.is_ok_and(|head| at(high - 10)(&head)) {
            doubted |= broker.fault().is_some_and(|fault| fault.contains("was seen before"));
            tokio::task::yield_now().await;
        }
    });
    back.await.expect("a chain that stays back is believed");
    assert!(doubted, "at first it was not");
    watching.abort();
}

#[tokio::test]
async fn the_vectors_of_other_calls_get_the_same_refusals() {
    let anvil = Anvil::start().await.unwrap();
    let chain = vector_state(&anvil).await;
    let vectors = vectors();
    let mut checked = BTreeSet::new();
    // What happens before the call, who calls, which vectors; each group starts from the same state.
    let nobody = key(0x22).address();
    let funded = sender().address();
    let fresh: Address = "0x1CBd3b2770909D4e10f157cABC84C7264073C9Ec".parse().unwrap();
    let me = recipient();
    let groups: &[(&str, Address, &[&str])] = &[
        (
            "",
            nobody,
            &["round already initialised", "future block", "caller is not an active orchestrator", "not self-bonded"],
        ),
        ("", nobody, &["caller is not the configured reward caller", "zero amount, nothing bonded", "not bonded"]),
        ("", nobody, &["caller is Unbonded", "unknown lock", "zero recipient", "caller is not the TicketBroker"]),
        ("", nobody, &["nothing deposited", "more than accrued fees"]),
        ("", me, &["the orchestrator itself is not implicitly its own reward caller", "caller is Bonded"]),
        ("", me, &["active but reward not yet called this round", "rewardCut > 1000000", "feeShare > 1000000"]),
        ("", me, &["registered orchestrator tries to delegate to someone else", "zero", "more than bonded"]),
        ("", me, &["unknown unbonding lock", "no unlock requested"]),
        ("", fresh, &["still Pending (bonded this round)"]),
        ("", funded, &["no unlock requested"]),
        ("paused", me, &["paused"]),
        ("skipped", me, &["round not initialised"]),
        ("rewarded", me, &["second reward in a round"]),
        ("locked", me, &["inside the lock period (last 10% of the round)"]),
        ("tokens", nobody, &["no allowance (caller holds LPT)"]),
        ("allowance", nobody, &["allowance but no LPT"]),
        ("unbonded", me, &["unbonding period not over"]),
        ("unlocking", funded, &["still inside the unlock period"]),
        ("fees", me, &["recipient contract rejects plain ETH"]),
    ];
    for (state, from, conditions) in groups {
        let before = anvil.snapshot().await.unwrap();
        match *state {
            "" => {}
            "paused" => chain.set_paused(true).await.unwrap(),
            "skipped" => drop(chain.skip_to_next_round().await.unwrap()),
            "rewarded" => drop(chain.send(me, "BondingManager", "reward", &[], Wei::ZERO).await.unwrap()),
            "locked" => {
                let start = chain.view_number("RoundsManager", "currentRoundStartBlock", &[]).await.unwrap().as_u64();
                anvil.mine(start + 95 - anvil.block_number().await.unwrap()).await.unwrap();
            }
            "tokens" => {
                chain.give_stake(nobody, ether(1_000)).await.unwrap();
                let none = [Token::Address(chain.address("BondingManager").0), Token::Uint(0.into())];
                chain.send(nobody, "LivepeerToken", "approve", &none, Wei::ZERO).await.unwrap();
            }
            "allowance" => {
                chain.give_stake(nobody, Wei::from(1)).await.map(drop).and(allow(&chain, nobody).await).unwrap()
            }
            "unbonded" => {
                let part = [Token::Uint(ether(1_000).0)];
                chain.send(me, "BondingManager", "unbond", &part, Wei::ZERO).await.unwrap();
            }
            "unlocking" => drop(chain.send(funded, "TicketBroker", "unlock", &[], Wei::ZERO).await.unwrap()),
            "fees" => {
                let paying = winner(&chain, &sender(), ether(10), 1, Round(7)).await;
                redeem_from(&chain, ANYBODY, redeem_calldata(&paying).into()).await.unwrap();
            }
            other => panic!("{other}"),
        }
        for vector in vectors["reverts"].as_array().unwrap() {
            let (contract, condition) = (vector["contract"].as_str().unwrap(), vector["condition"].as_str().unwrap());
            let ours = ["RoundsManager", "BondingManager", "TicketBroker"].contains(&contract);
            if !ours || vector["expect"] != "revert" || !conditions.contains(&condition) {
                continue;
            }
            // "no unlock requested" and the like stand for several functions; each is asked.
            let mut data = bytes(&vector["calldata"]).to_vec();
            if condition == "recipient contract rejects plain ETH" {
                // The vector names a contract of its own deployment; ours that takes no ether is the registry.
                data[16..36].copy_from_slice(chain.address("ServiceRegistry").as_bytes());
            }
            let function = vector["function"].as_str().unwrap();
            if function == "withdraw" && *from == me {
                continue; // Has no deposit either, which is told first.
            }
            let answer = call(&anvil, chain.address(contract), *from, &data.into()).await;
            let expected = vector.get("revert_data").map_or_else(Bytes::default, bytes);
            assert_eq!(answer, Err(expected), "{function}: {condition}");
            checked.insert((function.to_owned(), condition.to_owned()));
        }
        anvil.rewind(before).await.unwrap();
    }
    let excused = |function: &str, condition: &str| {
        // Our contracts neither slash nor move bonds between accounts; the full pool has a test of its own.
        ["transferBond", "slashTranscoder"].contains(&function) || condition.contains("pushed out of the pool")
    };
    for vector in vectors["reverts"].as_array().unwrap().iter().filter(|vector| vector["expect"] == "revert") {
        let [contract, function, condition] =
            ["contract", "function", "condition"].map(|name| vector[name].as_str().unwrap());
        if ["RoundsManager", "BondingManager", "TicketBroker"].contains(&contract) {
            let seen = checked.contains(&(function.to_owned(), condition.to_owned()));
            assert!(seen != excused(function, condition), "{function}: {condition}");
        }
    }
}

#[tokio::test]
async fn an_orchestrator_pushed_out_of_a_full_pool_is_active_until_the_round_ends() {
    let anvil = Anvil::start().await.unwrap();
    let chain = DevChain::deploy(&anvil, &Params { pool_size: 2, ..Params::default() }).await.unwrap();
    let (me, rich, richer) = (recipient(), key(0x41).address(), key(0x42).address());
    chain.register_orchestrator(me, ether(1_000)).await.unwrap();
    chain.register_orchestrator(rich, ether(2_000)).await.unwrap();
    chain.next_round().await.unwrap();
    let broker = broker(&chain);
    assert!(broker.look().await.unwrap().recipient_active);
    // As much as the last is not enough; more pushes it out.
    chain.register_orchestrator(key(0x43).address(), ether(1_000)).await.unwrap();
    let size = chain.view_number("BondingManager", "getTranscoderPoolSize", &[]).await.unwrap();
    assert_eq!(size, U256::from(2));
    chain.register_orchestrator(richer, ether(3_000)).await.unwrap();
    let first = chain.view("BondingManager", "getFirstTranscoderInPool", &[]).await.unwrap();
    assert_eq!(first, [Token::Address(richer.0)]);
    assert!(broker.look().await.unwrap().recipient_active, "still this round");
    let vectors = vectors();
    let mut all = vectors["reverts"].as_array().unwrap().iter();
    let vector = all.find(|v| v["condition"].as_str().unwrap().contains("pushed out of the pool")).unwrap();
    let bond = bytes(&vector["calldata"]);
    let answer = call(&anvil, chain.address("BondingManager"), me, &bond).await;
    assert_eq!(answer, Err(bytes(&vector["revert_data"])));
    chain.send(me, "BondingManager", "reward", &[], Wei::ZERO).await.expect("reward is still due");
    chain.next_round().await.unwrap();
    assert!(!broker.look().await.unwrap().recipient_active);
}

async fn allow(chain: &DevChain<'_>, account: Address) -> anyhow::Result<()> {
    let much = [Token::Address(chain.address("BondingManager").0), Token::Uint(ether(1_000_000).0)];
    chain.send(account, "LivepeerToken", "approve", &much, Wei::ZERO).await.map(drop)
}
