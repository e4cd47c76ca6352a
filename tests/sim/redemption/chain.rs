//! A chain in memory, with the faults of real ones; and a signer that cannot be reached from anywhere else.
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard};

use livepeer::address::{Address, H256};
use livepeer::broker::{
    Broker, BrokerError, ChainHead, FaultClass, Prepared, PreparedBatch, SenderInfo, TransactionStatus,
};
use livepeer::signature::{Signature, SigningKey};
use livepeer::ticket::WinningTicket;
use livepeer::transaction::{Transaction, transaction_hash};
use livepeer::units::{L1Block, L2Block, Round, Timestamp, Wei};
use orchestrator::{SignError, Signer};
use signer_protocol::SignedTransaction;
use tokio::sync::{Notify, watch};

/// Blocks on top of a transaction after which it cannot be undone; the redeemer is told the same depth.
pub(crate) const FINAL: u64 = 3;

/// What one transaction costs here.
pub(crate) const COST: u64 = 1_000;

/// Where the world stands still, so that the node can be killed exactly there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Point {
    /// Before a redemption is simulated.
    Prepare,
    /// Before it is signed.
    Sign,
    /// Recorded by now, not sent yet.
    BeforeBroadcast,
    /// Sent, but the answer never arrives.
    AfterBroadcast,
}

/// What the chain does with the next transactions sent to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Loses it and says it was taken.
    Drop,
    /// Takes it and says it was lost.
    Lie,
    /// Mines it, and the contract undoes it.
    Revert,
    /// Takes it, and never mines it.
    Stick,
}

#[derive(Debug, Clone)]
struct Sent {
    nonce: u64,
    tickets: Vec<H256>,
    fee: Wei,
    mined: Option<(L2Block, bool)>,
    /// Those of its tickets that it redeemed.
    redeemed: Vec<H256>,
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) head: ChainHead,
    /// Payout of each ticket; tickets not named pay their face value.
    pub(crate) payouts: HashMap<H256, Wei>,
    /// What simulating each ticket says, when not all is well.
    pub(crate) refusals: HashMap<H256, BrokerError>,
    pub(crate) senders: HashMap<Address, SenderInfo>,
    pub(crate) faults: Vec<Fault>,
    /// No endpoint answers.
    pub(crate) away: bool,
    /// Mines what is sent at once.
    pub(crate) automine: bool,
    /// Knows how to redeem several tickets at once.
    pub(crate) batches: bool,
    /// Tickets that a batch goes on without, whatever the simulation said.
    pub(crate) skipped: BTreeSet<H256>,
    sent: BTreeMap<H256, Sent>,
    next_nonce: u64,
    used: BTreeSet<H256>,
    /// What was paid for each ticket, in order; a ticket must not be here twice.
    pub(crate) paid: Vec<(H256, Wei)>,
    /// Every transaction seen, by account nonce, with the tickets they redeem.
    pub(crate) seen: BTreeMap<u64, BTreeSet<Vec<H256>>>,
    pub(crate) broadcasts: usize,
    /// Transaction data names its ticket.
    stops: HashMap<Point, usize>,
}

/// The chain, shared.
#[derive(Debug, Clone)]
pub(crate) struct SimChain {
    world: Arc<Mutex<World>>,
    head: watch::Sender<u64>,
    /// Told when the world stands still somewhere.
    pub(crate) reached: Arc<Notify>,
}

impl SimChain {
    pub(crate) fn new() -> Self {
        let head = ChainHead {
            l1_block: L1Block(1_000),
            l2_block: L2Block(10_000),
            round: Round(7),
            last_initialized_round: Round(7),
            ticket_round: Round(7),
            ticket_round_block_hash: H256::repeat_byte(7),
            recipient_active: true,
            gas_price: Wei::from(1),
            paused: false,
            seen_at: Timestamp(1_700_000_000),
        };
        let world = World {
            head,
            payouts: HashMap::new(),
            refusals: HashMap::new(),
            senders: HashMap::new(),
            faults: Vec::new(),
            away: false,
            automine: true,
            batches: false,
            skipped: BTreeSet::new(),
            sent: BTreeMap::new(),
            next_nonce: 0,
            used: BTreeSet::new(),
            paid: Vec::new(),
            seen: BTreeMap::new(),
            broadcasts: 0,
            stops: HashMap::new(),
        };
        Self { world: Arc::new(Mutex::new(world)), head: watch::Sender::new(0), reached: Arc::default() }
    }

    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    /// The next time the node gets to this point, it stays there for ever.
    pub(crate) fn stop_at(&self, point: Point) {
        self.world().stops.insert(point, 1);
    }

    async fn pass(&self, point: Point) {
        let stop = self.world().stops.remove(&point).is_some();
        if stop {
            self.reached.notify_one();
            std::future::pending::<()>().await;
        }
    }

    /// More blocks.
    pub(crate) fn mine(&self, blocks: u64) {
        {
            let mut world = self.world();
            world.head.l2_block.0 += blocks;
            world.head.l1_block.0 += blocks;
        }
        self.head.send_modify(|number| *number += 1);
    }

    pub(crate) fn set_round(&self, round: u64) {
        let mut world = self.world();
        (world.head.round, world.head.last_initialized_round) = (Round(round), Round(round));
    }

    /// Forgets the newest blocks, and every transaction that was in them or waiting. What lies under
    /// [`FINAL`] blocks stays: that is what the depth is for.
    pub(crate) fn reorganise(&self) {
        let mut world = self.world();
        let head = world.head.l2_block.0;
        let is_final = |sent: &Sent| sent.mined.is_some_and(|(block, _)| head - block.0 >= FINAL);
        let undone: Vec<Sent> =
            world.sent.values().filter(|sent| sent.mined.is_some() && !is_final(sent)).cloned().collect();
        let tickets: BTreeSet<H256> = undone.iter().flat_map(|sent| sent.redeemed.clone()).collect();
        world.used.retain(|ticket| !tickets.contains(ticket));
        world.paid.retain(|(ticket, _)| !tickets.contains(ticket));
        world.next_nonce = undone.iter().map(|sent| sent.nonce).min().unwrap_or(world.next_nonce);
        world.sent.retain(|_, sent| is_final(sent));
    }

    /// Somebody else redeems a ticket.
    pub(crate) fn use_up(&self, ticket: H256) {
        self.world().used.insert(ticket);
    }

    /// Another program uses the hot key's next nonce.
    pub(crate) fn take_nonce(&self) {
        self.world().next_nonce += 1;
    }
}

impl World {
    fn answer(&self) -> Result<(), BrokerError> {
        if self.away { Err(transport()) } else { Ok(()) }
    }

    fn take(&mut self, signed: &[u8]) -> Result<(), BrokerError> {
        let hash = transaction_hash(signed);
        let (transaction, _) = decode(signed);
        let tickets: Vec<H256> = transaction.data.chunks(32).map(H256::from_slice).collect();
        self.broadcasts += 1;
        self.seen.entry(transaction.nonce).or_default().insert(tickets.clone());
        if self.sent.contains_key(&hash) {
            return Ok(());
        }
        let fault = if self.faults.is_empty() { None } else { Some(self.faults.remove(0)) };
        if fault == Some(Fault::Drop) {
            return Ok(());
        }
        if transaction.nonce < self.next_nonce {
            return Err(BrokerError { class: FaultClass::Transport, detail: "nonce too low".into() });
        }
        let fee = transaction.max_fee_per_gas;
        let rivals: Vec<H256> = self
            .sent
            .iter()
            .filter(|(_, s)| s.nonce == transaction.nonce && s.mined.is_none())
            .map(|(h, _)| *h)
            .collect();
        for rival in rivals {
            if self.sent[&rival].fee >= fee {
                return Err(BrokerError { class: FaultClass::Transport, detail: "replacement underpriced".into() });
            }
            self.sent.remove(&rival);
        }
        self.sent.insert(hash, Sent { nonce: transaction.nonce, tickets, fee, mined: None, redeemed: Vec::new() });
        if self.automine && fault != Some(Fault::Stick) {
            self.include(hash, fault == Some(Fault::Revert));
        }
        if fault == Some(Fault::Lie) { Err(transport()) } else { Ok(()) }
    }

    fn include(&mut self, hash: H256, revert: bool) {
        let sent = self.sent.get(&hash).cloned().unwrap();
        if sent.nonce != self.next_nonce {
            return;
        }
        self.next_nonce += 1;
        let together = sent.tickets.len() > 1;
        let mut redeemed = Vec::new();
        for ticket in sent.tickets.into_iter().filter(|_| !revert) {
            if (together && self.skipped.contains(&ticket)) || !self.used.insert(ticket) {
                continue;
            }
            self.paid.push((ticket, self.payouts.get(&ticket).copied().unwrap_or(Wei::from(FACE))));
            redeemed.push(ticket);
        }
        let works = !revert && (together || !redeemed.is_empty());
        let block = self.head.l2_block;
        let sent = self.sent.get_mut(&hash).unwrap();
        (sent.mined, sent.redeemed) = (Some((block, works)), redeemed);
    }
}

/// Face value of every ticket here.
pub(crate) const FACE: u64 = 1_000_000;

fn transport() -> BrokerError {
    BrokerError { class: FaultClass::Transport, detail: "no endpoint answers".into() }
}

impl Broker for SimChain {
    fn head(&self) -> Option<ChainHead> {
        Some(self.world().head)
    }

    fn head_changed(&self) -> impl Future<Output = ()> + Send {
        let mut seen = self.head.subscribe();
        async move {
            if seen.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    async fn sender_info(&self, sender: Address) -> Result<SenderInfo, BrokerError> {
        let world = self.world();
        world.answer()?;
        Ok(world.senders.get(&sender).copied().unwrap_or_default())
    }

    async fn used_ticket(&self, ticket: H256) -> Result<bool, BrokerError> {
        let world = self.world();
        world.answer()?;
        Ok(world.used.contains(&ticket))
    }

    async fn prepare(&self, winner: &WinningTicket, _from: Address, nonce: u64) -> Result<Prepared, BrokerError> {
        self.pass(Point::Prepare).await;
        let world = self.world();
        world.answer()?;
        let ticket = winner.hash();
        if world.used.contains(&ticket) {
            return Err(BrokerError { class: FaultClass::Done, detail: "ticket is used".into() });
        }
        if let Some(refusal) = world.refusals.get(&ticket) {
            return Err(refusal.clone());
        }
        let transaction = Transaction {
            chain_id: 1,
            nonce,
            max_priority_fee_per_gas: Wei::ZERO,
            max_fee_per_gas: Wei::from(10),
            gas_limit: 100,
            to: Address::NULL,
            value: Wei::ZERO,
            data: ticket.as_bytes().to_vec(),
        };
        let payout = world.payouts.get(&ticket).copied().unwrap_or(winner.ticket().face_value);
        Ok(Prepared { transaction, payout, cost: Wei::from(COST) })
    }

    async fn prepare_batch(
        &self,
        winners: &[WinningTicket],
        from: Address,
        nonce: u64,
    ) -> Result<Option<PreparedBatch>, BrokerError> {
        if !self.world().batches {
            return Ok(None);
        }
        let mut prepared: Option<PreparedBatch> = None;
        for winner in winners {
            let Ok(alone) = self.prepare(winner, from, nonce).await else { continue };
            if alone.payout < winner.ticket().face_value {
                continue;
            }
            match &mut prepared {
                Some(batch) => {
                    batch.transaction.data.extend_from_slice(&alone.transaction.data);
                    batch.winners.push(*winner);
                }
                None => {
                    let (transaction, cost) = (alone.transaction, alone.cost);
                    prepared = Some(PreparedBatch { transaction, winners: vec![*winner], cost });
                }
            }
        }
        Ok(prepared.filter(|batch| batch.winners.len() > 1))
    }

    async fn redeemed_in(&self, transaction: H256, winner: &WinningTicket) -> Result<Option<Wei>, BrokerError> {
        let world = self.world();
        world.answer()?;
        let sent = world.sent.get(&transaction).ok_or_else(transport)?;
        let ticket = winner.hash();
        let paid = world.paid.iter().find(|(paid, _)| *paid == ticket).map(|(_, wei)| *wei);
        Ok(paid.filter(|_| sent.redeemed.contains(&ticket)))
    }

    async fn account_nonce(&self, _account: Address) -> Result<u64, BrokerError> {
        let world = self.world();
        world.answer()?;
        let pending = world.sent.values().filter(|sent| sent.mined.is_none()).map(|sent| sent.nonce + 1).max();
        Ok(pending.unwrap_or(0).max(world.next_nonce))
    }

    async fn balance(&self, _account: Address) -> Result<Wei, BrokerError> {
        let world = self.world();
        world.answer()?;
        Ok(Wei::from(u64::MAX))
    }

    async fn broadcast(&self, signed: &[u8]) -> Result<(), BrokerError> {
        self.pass(Point::BeforeBroadcast).await;
        let taken = {
            let mut world = self.world();
            world.answer()?;
            world.take(signed)
        };
        self.pass(Point::AfterBroadcast).await;
        taken
    }

    async fn transaction_status(
        &self,
        hash: H256,
        _from: Address,
        nonce: u64,
    ) -> Result<TransactionStatus, BrokerError> {
        let world = self.world();
        world.answer()?;
        let fee = Wei::from(COST);
        Ok(match world.sent.get(&hash) {
            Some(Sent { mined: Some((block, works)), redeemed, .. }) => {
                let confirmations = world.head.l2_block.0 - block.0;
                if *works {
                    let ours = world.paid.iter().filter(|(paid, _)| redeemed.contains(paid)).map(|(_, wei)| *wei);
                    let paid = ours.fold(Wei::ZERO, Wei::saturating_add);
                    TransactionStatus::Mined { block: *block, confirmations, paid, fee }
                } else {
                    TransactionStatus::Reverted { block: *block, confirmations, fee }
                }
            }
            _ if world.next_nonce > nonce => TransactionStatus::Replaced,
            Some(_) => TransactionStatus::Pending,
            None => TransactionStatus::Unknown,
        })
    }
}

/// The transaction in signed bytes of our own making, by trying: the signer keeps what it signed.
fn decode(signed: &[u8]) -> (Transaction, Vec<u8>) {
    let known = SIGNED.lock().unwrap();
    let transaction = known.get(&transaction_hash(signed)).cloned().unwrap();
    (transaction, signed.to_vec())
}

/// What was signed in this process, by hash: stands in for reading RLP.
static SIGNED: Mutex<BTreeMap<H256, Transaction>> = Mutex::new(BTreeMap::new());

/// The hot key.
#[derive(Debug, Clone)]
pub(crate) struct SimSigner {
    pub(crate) key: SigningKey,
    pub(crate) chain: SimChain,
    /// Refuses transactions with more call data.
    pub(crate) most_data: Option<usize>,
    pub(crate) refuses: Arc<Mutex<Option<SignError>>>,
}

impl SimSigner {
    pub(crate) fn new(chain: &SimChain) -> Self {
        let key = SigningKey::from_bytes(&[0x51; 32]).unwrap();
        Self { key, chain: chain.clone(), most_data: None, refuses: Arc::default() }
    }
}

impl Signer for SimSigner {
    fn account(&self) -> Address {
        self.key.address()
    }

    async fn sign_result(&self, digest: H256) -> Result<Signature, SignError> {
        Ok(self.key.sign_personal(digest))
    }

    async fn sign_ping(&self, value: &[u8]) -> Result<Signature, SignError> {
        Ok(self.key.sign_node(value))
    }

    async fn sign_transaction(&self, transaction: &Transaction) -> Result<SignedTransaction, SignError> {
        self.chain.pass(Point::Sign).await;
        if let Some(refusal) = self.refuses.lock().unwrap().clone() {
            return Err(refusal);
        }
        if self.most_data.is_some_and(|most| transaction.data.len() > most) {
            return Err(SignError::Refused("gas limit is above the cap".into()));
        }
        let bytes = transaction.encode_signed(&self.key.sign_hash(transaction.sighash()));
        let hash = transaction_hash(&bytes);
        SIGNED.lock().unwrap().insert(hash, transaction.clone());
        Ok(SignedTransaction { hash, bytes })
    }
}
