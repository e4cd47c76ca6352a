//! What we need of the chain, named as the contracts name things.
//!
//! Walk 2, steps 3 to 7. The real body is `chain::EthBroker`; tests have a simulated one. Answers are the
//! contracts' own; no method decides anything about money.
use std::future::Future;

use serde::{Deserialize, Serialize};

use crate::address::{Address, H256};
use crate::price::quoted::EtherPrice;
use crate::ticket::WinningTicket;
use crate::transaction::Transaction;
use crate::units::{L1Block, L2Block, Round, Timestamp, Wei};

/// The chain as last seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainHead {
    /// L1 block as the contracts see it.
    pub l1_block: L1Block,
    /// Block of the chain we transact on.
    pub l2_block: L2Block,
    /// Current round by block number, initialised or not.
    pub round: Round,
    /// Last round somebody initialised.
    pub last_initialized_round: Round,
    /// Round new tickets are made for: the last initialised one, or the one before when its hash is zero.
    pub ticket_round: Round,
    /// Hash the chain stores for `ticket_round`; tickets without one can never be redeemed.
    pub ticket_round_block_hash: H256,
    /// Is the recipient in the active set this round?
    pub recipient_active: bool,
    /// Base price of gas.
    pub gas_price: Wei,
    /// Are the contracts paused?
    pub paused: bool,
    /// When this was read, by our clock.
    pub seen_at: Timestamp,
}

/// A gateway's standing with the ticket broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SenderInfo {
    /// Shared by all orchestrators, first come first served.
    pub deposit: Wei,
    /// Round from which it may withdraw everything; 0 when it is locked.
    pub withdraw_round: Round,
    /// What is left of its reserve.
    pub reserve_remaining: Wei,
    /// What was claimed of its reserve this round, by anyone.
    pub reserve_claimed_in_round: Wei,
    /// Our share of its reserve that is still ours to claim this round.
    pub claimable_reserve: Wei,
}

/// A redemption that was simulated and is ready to sign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// To be signed, recorded, then sent.
    pub transaction: Transaction,
    /// What the contract would pay now; may be less than the face value.
    pub payout: Wei,
    /// What the transaction will cost at most.
    pub cost: Wei,
}

/// Several redemptions that were simulated and are ready to sign as one transaction.
///
/// The contract goes on when one of them fails and says nothing about it, so each pays its face value by the simulation,
/// and what became of it is told by [`Broker::redeemed_in`] alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreparedBatch {
    /// To be signed, recorded for all of them, then sent.
    pub transaction: Transaction,
    /// Those that it redeems, in its order: at least two, not necessarily all that were asked for.
    pub winners: Vec<WinningTicket>,
    /// What the transaction will cost at most.
    pub cost: Wei,
}

/// What became of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransactionStatus {
    /// No endpoint knows it, and its nonce is free.
    Unknown,
    /// Known, not in a block.
    Pending,
    /// In a block, and it worked.
    Mined {
        /// The block.
        block: L2Block,
        /// Blocks on top of it.
        confirmations: u64,
        /// What `WinningTicketTransfer` says was paid.
        paid: Wei,
        /// Gas cost actually paid.
        fee: Wei,
    },
    /// In a block, and it failed.
    Reverted {
        /// The block.
        block: L2Block,
        /// Blocks on top of it.
        confirmations: u64,
        /// Gas cost actually paid.
        fee: Wei,
    },
    /// Another transaction took its nonce: it can never be mined.
    Replaced,
}

/// What to do about a failed call to the contracts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FaultClass {
    /// Already done, by us or somebody else.
    Done,
    /// Works in a later round, or once the round is initialised.
    WaitForRound,
    /// Works once the contracts are unpaused.
    WaitForUnpause,
    /// Works once the sender has funds.
    WaitForFunds,
    /// Works once the recipient is in the active set.
    WaitForActiveSet,
    /// Works only when the sender cancels its unlocking.
    Conditional,
    /// Never works.
    Permanent,
    /// The endpoint or the network is at fault; try again.
    Transport,
    /// A person must act.
    Operator,
    /// Makes no sense: stop sending this call and tell somebody.
    Bug,
}

/// A call to the chain failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("chain: {detail}")]
pub struct BrokerError {
    /// What to do about it.
    pub class: FaultClass,
    /// The contract's or the transport's words, bounded.
    pub detail: String,
}

/// A transaction that redeems nothing but that an orchestrator owes, or may owe, each round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Errand {
    /// Calling the reward of this round.
    Reward(Round),
    /// Initialising this round.
    InitializeRound(Round),
}

/// What the chain says of an orchestrator's errands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Duties {
    /// The last round whose reward was called.
    pub last_reward_round: Round,
    /// Who may call it, beside the orchestrator itself; nobody when null.
    pub reward_caller: Address,
    /// First L1 block of the current round.
    pub round_start: L1Block,
    /// Blocks in a round.
    pub round_length: u64,
}

/// What a price feed told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedAnswer {
    /// What an ether costs.
    pub price: EtherPrice,
    /// When the feed was last written to.
    pub updated_at: Timestamp,
}

/// The contracts, as far as an orchestrator needs them.
pub trait Broker: Send + Sync + 'static {
    /// The chain as last seen; `None` before the first successful read.
    fn head(&self) -> Option<ChainHead>;

    /// Waits until [`Broker::head`] changes. Cancel safe.
    fn head_changed(&self) -> impl Future<Output = ()> + Send;

    /// A gateway's standing, at most some seconds old.
    fn sender_info(&self, sender: Address) -> impl Future<Output = Result<SenderInfo, BrokerError>> + Send;

    /// Is this ticket spent?
    fn used_ticket(&self, ticket: H256) -> impl Future<Output = Result<bool, BrokerError>> + Send;

    /// Simulates a redemption at the latest block and builds its transaction with the given account nonce.
    fn prepare(
        &self,
        winner: &WinningTicket,
        from: Address,
        nonce: u64,
    ) -> impl Future<Output = Result<Prepared, BrokerError>> + Send;

    /// Simulates redemptions at the latest block and builds one transaction for those that pay their face value and more
    /// than their share of its cost; none when fewer than two do. A chain that knows no batches has none.
    fn prepare_batch(
        &self,
        _winners: &[WinningTicket],
        _from: Address,
        _nonce: u64,
    ) -> impl Future<Output = Result<Option<PreparedBatch>, BrokerError>> + Send {
        async { Ok(None) }
    }

    /// What a mined batch paid for this winner, by its events alone; none when it did not redeem it.
    fn redeemed_in(
        &self,
        transaction: H256,
        _winner: &WinningTicket,
    ) -> impl Future<Output = Result<Option<Wei>, BrokerError>> + Send {
        let detail = format!("this chain knows no batches, so nothing of {transaction:?}");
        async move { Err(BrokerError { class: FaultClass::Operator, detail }) }
    }

    /// The next account nonce the chain expects of this account, pending transactions included.
    fn account_nonce(&self, account: Address) -> impl Future<Output = Result<u64, BrokerError>> + Send;

    /// Balance of an account.
    fn balance(&self, account: Address) -> impl Future<Output = Result<Wei, BrokerError>> + Send;

    /// Sends signed bytes. Sending the same bytes again is harmless.
    fn broadcast(&self, signed: &[u8]) -> impl Future<Output = Result<(), BrokerError>> + Send;

    /// What the chain says of our recipient's errands.
    fn duties(&self) -> impl Future<Output = Result<Duties, BrokerError>> + Send {
        async { Err(BrokerError { class: FaultClass::Operator, detail: "this chain knows no errands".to_owned() }) }
    }

    /// Simulates an errand at the latest block and builds its transaction with the given account nonce.
    fn prepare_errand(
        &self,
        errand: Errand,
        _from: Address,
        _nonce: u64,
    ) -> impl Future<Output = Result<Prepared, BrokerError>> + Send {
        let detail = format!("this chain does not know how to {errand:?}");
        async move { Err(BrokerError { class: FaultClass::Operator, detail }) }
    }

    /// What a price feed tells. A chain that knows no feeds has none.
    fn ether_price(&self, feed: Address) -> impl Future<Output = Result<FeedAnswer, BrokerError>> + Send {
        let detail = format!("there is no price feed at {feed}");
        async move { Err(BrokerError { class: FaultClass::Operator, detail }) }
    }

    /// The service URI an account has registered, where the chain keeps such things; empty when it has none.
    fn registered_service_uri(
        &self,
        _account: Address,
    ) -> impl Future<Output = Result<Option<String>, BrokerError>> + Send {
        async { Ok(None) }
    }

    /// What became of a transaction with this hash, sender and account nonce.
    fn transaction_status(
        &self,
        hash: H256,
        from: Address,
        nonce: u64,
    ) -> impl Future<Output = Result<TransactionStatus, BrokerError>> + Send;
}
