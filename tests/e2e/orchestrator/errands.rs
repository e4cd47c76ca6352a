//! The round's errands on a real chain: initialising it, calling the reward, once each, whatever happens between.
use std::sync::Arc;
use std::time::Duration;

use chain::EthBroker;
use ledger::{Ledger, OpenOptions, Submission};
use livepeer::address::{Address, H256};
use livepeer::broker::{Broker, Errand};
use livepeer::signature::{Signature, SigningKey};
use livepeer::transaction::{Transaction, transaction_hash};
use livepeer::units::{L2Block, Round, Timestamp, Wei};
use millrace_hal::LinuxClock;
use millrace_tests::anvil::Anvil;
use millrace_tests::devchain::{DevChain, Params};
use orchestrator::redeemer::{RedeemerReport, RoundsConfig, alarms};
use orchestrator::{Redeemer, RedeemerConfig, SignError, Signer};
use signer_protocol::SignedTransaction;
use tokio::sync::watch;

const PATIENCE: Duration = Duration::from_secs(60);
const NOW: Timestamp = Timestamp(1_700_000_000);

#[derive(Debug, Clone)]
struct Hot(SigningKey);

impl Signer for Hot {
    fn account(&self) -> Address {
        self.0.address()
    }
    async fn sign_result(&self, digest: H256) -> Result<Signature, SignError> {
        Ok(self.0.sign_personal(digest))
    }
    async fn sign_ping(&self, value: &[u8]) -> Result<Signature, SignError> {
        Ok(self.0.sign_node(value))
    }
    async fn sign_transaction(&self, transaction: &Transaction) -> Result<SignedTransaction, SignError> {
        let bytes = transaction.encode_signed(&self.0.sign_hash(transaction.sighash()));
        Ok(SignedTransaction { hash: transaction_hash(&bytes), bytes })
    }
}

struct Box<'a> {
    chain: DevChain<'a>,
    broker: Arc<EthBroker>,
    hot: Hot,
    us: Address,
}

type Worker = (Redeemer<EthBroker, Hot>, watch::Receiver<RedeemerReport>);

impl<'a> Box<'a> {
    async fn new(anvil: &'a Anvil) -> Self {
        let chain = DevChain::deploy(anvil, &Params { round_length: 60, ..Params::default() }).await.unwrap();
        let (us, hot) = (Address::from_bytes(&[0x0b; 20]).unwrap(), Hot(SigningKey::from_bytes(&[0x99; 32]).unwrap()));
        let ether = Wei(10u128.pow(18).into());
        for (other, stake) in [(0xc1, 5), (0xc2, 1)] {
            let other = Address::from_bytes(&[other; 20]).unwrap();
            chain.register_orchestrator(other, ether.checked_mul(stake).unwrap()).await.unwrap();
        }
        chain.activate_orchestrator(us, ether.checked_mul(2).unwrap()).await.unwrap();
        anvil.set_balance(hot.account(), ether).await.unwrap();
        let broker = EthBroker::new(chain.config(us), std::boxed::Box::new(|| NOW)).unwrap();
        Self { chain, broker: Arc::new(broker), hot, us }
    }

    fn worker(&self, ledger: &Ledger) -> Worker {
        let rounds = RoundsConfig { reward: true, initialize: true, initialize_max_delay_s: 0, look_s: 1 };
        let config = RedeemerConfig { confirmations: 1, retry_first_s: 1, rounds, ..RedeemerConfig::default() };
        let (broker, signer) = (Arc::clone(&self.broker), Arc::new(self.hot.clone()));
        Redeemer::new(broker, signer, ledger.clone(), Arc::new(LinuxClock), config)
    }

    async fn rewarded(&self) -> Round {
        self.broker.duties().await.unwrap().last_reward_round
    }

    async fn sent(&self) -> u64 {
        self.broker.account_nonce(self.hot.account()).await.unwrap()
    }

    /// Works until something is so.
    async fn until(&self, worker: &mut Worker, so: impl AsyncFn() -> bool) {
        let working = async {
            while !so().await {
                self.turn(worker).await;
            }
        };
        tokio::time::timeout(PATIENCE, working).await.expect("it never happened");
    }

    /// Works on for a while.
    async fn go_on(&self, worker: &mut Worker) {
        for _ in 0..30 {
            self.turn(worker).await;
        }
    }

    async fn turn(&self, worker: &mut Worker) {
        self.broker.look().await.unwrap();
        worker.0.work().await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn ledger(dir: &tempfile::TempDir) -> Ledger {
    Ledger::open(dir.path(), OpenOptions::default()).unwrap()
}

#[tokio::test]
async fn each_round_is_initialised_and_its_reward_called_once() {
    let anvil = Anvil::start().await.unwrap();
    let node = Box::new(&anvil).await;
    node.chain.set_reward_caller(node.us, node.hot.account()).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let book = ledger(&dir);
    let mut worker = node.worker(&book);
    let round = node.chain.round().await.unwrap();
    assert!(node.rewarded().await < round);
    node.until(&mut worker, async || node.rewarded().await == round).await;
    node.go_on(&mut worker).await;
    assert_eq!((node.sent().await, book.errand()), (1, None), "once and not again");
    assert_eq!(worker.1.borrow().reward.missing, None);

    let next = node.chain.skip_to_next_round().await.unwrap();
    assert_eq!(next, Round(round.0 + 1));
    node.until(&mut worker, async || node.rewarded().await == next).await;
    node.go_on(&mut worker).await;
    assert_eq!(node.sent().await, 3, "one to initialise the round, one for its reward");
}

#[tokio::test]
async fn an_errand_that_was_recorded_and_not_sent_is_sent_after_a_restart_and_no_other() {
    let anvil = Anvil::start().await.unwrap();
    let node = Box::new(&anvil).await;
    node.chain.set_reward_caller(node.us, node.hot.account()).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let round = node.chain.round().await.unwrap();
    let errand = Errand::Reward(round);
    let recorded = {
        let book = ledger(&dir);
        let prepared = node.broker.prepare_errand(errand, node.hot.account(), 0).await.unwrap();
        let signed = node.hot.sign_transaction(&prepared.transaction).await.unwrap();
        let submission = Submission {
            hash: signed.hash,
            account_nonce: 0,
            signed: signed.bytes,
            at: L2Block(1),
            attempt: 0,
            tickets: Vec::new(),
        };
        book.send_on_errand(errand, submission).unwrap();
        signed.hash
    };
    let book = ledger(&dir);
    let mut worker = node.worker(&book);
    node.until(&mut worker, async || node.rewarded().await == round).await;
    node.until(&mut worker, async || book.errand().is_none()).await;
    assert_eq!(node.sent().await, 1);
    let receipt: serde_json::Value =
        anvil.request("eth_getTransactionReceipt", serde_json::json!([recorded])).await.unwrap();
    assert_eq!(receipt["status"], "0x1", "the very bytes that were recorded");
}

#[tokio::test]
async fn without_being_the_reward_caller_nothing_is_sent_and_an_alarm_says_why() {
    let anvil = Anvil::start().await.unwrap();
    let node = Box::new(&anvil).await;
    let dir = tempfile::tempdir().unwrap();
    let mut worker = node.worker(&ledger(&dir));
    node.go_on(&mut worker).await;
    assert_eq!(node.sent().await, 0);
    let head = node.broker.head().unwrap();
    let raised = alarms(&worker.1.borrow(), Some(&head), 1, NOW);
    let alarm = raised.iter().find(|alarm| alarm.id == "REWARD-MISSING").expect("an alarm");
    assert!(
        alarm.text.contains("setRewardCaller") && alarm.text.contains(&node.hot.account().to_string()),
        "{}",
        alarm.text
    );
}
