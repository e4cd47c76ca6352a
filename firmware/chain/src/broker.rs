//! The contracts as a [`Broker`]: the one door through which the rest of the product reaches the chain.
//!
//! Nothing here holds a key, decides about money or remembers anything that must survive: transactions are signed and
//! recorded by others between [`Broker::prepare`] and [`Broker::broadcast`].
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use ethers::types::U256;
use livepeer::address::{Address, H256};
use livepeer::broker::{
    Broker, BrokerError, ChainHead, Duties, Errand, FeedAnswer, Prepared, PreparedBatch, SenderInfo, TransactionStatus,
};
use livepeer::ticket::WinningTicket;
use livepeer::transaction::transaction_hash;
use livepeer::units::{Round, Timestamp, Wei};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Duration, Instant, MissedTickBehavior};

use crate::ask;
use crate::batch;
use crate::config::ChainConfig;
use crate::confirm;
use crate::contracts::{GetSenderInfoCall, GetSenderInfoReturn, GetServiceURICall, GetServiceURIReturn};
use crate::deployment::Deployment;
use crate::errand;
use crate::error::ChainError;
use crate::head;
use crate::price_feed;
use crate::redemption;
use crate::revert::Call;
use crate::rpc::{EndpointHealth, Rpc, RpcError};

/// How long a gateway's standing may be repeated without asking: it changes only by transactions of others, and every
/// redemption reads it afresh.
const SENDER_INFO_LIFE: Duration = Duration::from_secs(3);
/// Gateways whose standing is remembered; one more empties the memory.
const MAX_SENDERS: usize = 1_024;
/// Looks in a row at which a chain that went backwards is believed: an endpoint may lag, a chain may be rewound.
const MAX_BEHIND: u32 = 12;
/// How often the Controller is asked again where the contracts are.
const RESOLVE_AGAIN: Duration = Duration::from_secs(3_600);

pub mod inquiry;

/// What may be paid for gas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GasBounds {
    /// Wei per gas the fee cap never goes below.
    pub min: Wei,
    /// Wei per gas above which nothing is sent; none for no bound.
    pub max: Option<Wei>,
}

/// The wall clock, as the caller has it.
pub type Clock = Box<dyn Fn() -> Timestamp + Send + Sync>;

/// The contracts, over JSON-RPC. Clones share everything.
#[derive(Clone)]
pub struct EthBroker(Arc<Inner>);

struct Inner {
    config: ChainConfig,
    gas: RwLock<GasBounds>,
    rpc: Rpc,
    clock: Clock,
    deployment: RwLock<Option<Deployment>>,
    head: watch::Sender<Option<ChainHead>>,
    fault: watch::Sender<Option<String>>,
    senders: Mutex<HashMap<Address, (Instant, SenderInfo)>>,
    last_sent: Mutex<Option<H256>>,
}

impl std::fmt::Debug for EthBroker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EthBroker").field("rpc", &self.0.rpc).field("chain_id", &self.0.config.chain_id).finish()
    }
}

impl EthBroker {
    /// Prepares the broker; nothing is asked yet.
    ///
    /// # Errors
    /// [`ChainError::Config`], or [`ChainError::Rpc`] when the authorities for `https` cannot be read.
    pub fn new(config: ChainConfig, clock: Clock) -> Result<Self, ChainError> {
        config.check()?;
        Ok(Self(Arc::new(Inner {
            rpc: Rpc::new(&config)?,
            gas: RwLock::new(GasBounds { min: config.min_fee_cap_wei, max: Some(config.max_gas_price_wei) }),
            config,
            clock,
            deployment: RwLock::new(None),
            head: watch::Sender::new(None),
            fault: watch::Sender::new(None),
            senders: Mutex::new(HashMap::new()),
            last_sent: Mutex::new(None),
        })))
    }

    /// Looks at the chain once and publishes what it sees. Called at start, so that a wrong chain or a wrong
    /// Controller is told before anything is served.
    ///
    /// # Errors
    /// [`ChainError`]; the last head stays published.
    pub async fn look(&self) -> Result<ChainHead, ChainError> {
        self.publish(self.read_head().await)
    }

    async fn read_head(&self) -> Result<ChainHead, ChainError> {
        let inner = &self.0;
        let deployment = self.deployment().await?;
        let last = *inner.head.borrow();
        head::look(&inner.rpc, &deployment, inner.config.recipient, last, (inner.clock)()).await
    }

    fn publish(&self, seen: Result<ChainHead, ChainError>) -> Result<ChainHead, ChainError> {
        match &seen {
            Ok(head) => {
                self.0.fault.send_replace(None);
                self.0.head.send_replace(Some(*head));
            }
            Err(error) => {
                self.0.fault.send_replace(Some(error.to_string()));
            }
        }
        seen
    }

    /// Keeps looking at the chain until dropped. An unreachable chain is told once, and again when it is back.
    ///
    /// # Errors
    /// Returns only when nothing can work before a person changes the configuration: another chain, no contracts.
    pub async fn run(&self) -> Result<std::convert::Infallible, ChainError> {
        let inner = &self.0;
        let mut ticks = tokio::time::interval(inner.config.poll_interval());
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut resolved = Instant::now();
        let mut away = false;
        let mut behind = 0_u32;
        loop {
            ticks.tick().await;
            if resolved.elapsed() >= RESOLVE_AGAIN {
                resolved = Instant::now();
                self.forget_deployment();
            }
            let before = *inner.head.borrow();
            match self.look_forward(before, &mut behind).await {
                Ok(head) => {
                    if std::mem::take(&mut away) {
                        tracing::info!(l1_block = %head.l1_block, round = %head.round, "chain is back");
                    }
                    if before.is_none_or(|b| b.last_initialized_round != head.last_initialized_round) {
                        tracing::info!(round = %head.last_initialized_round, l1_block = %head.l1_block, "round began");
                    }
                }
                Err(error) if error.needs_operator() => return Err(error),
                Err(error) => {
                    if !std::mem::replace(&mut away, true) {
                        tracing::warn!(reason = %BrokerError::from(error).detail, "chain cannot be read");
                    }
                }
            }
        }
    }

    /// A look that does not step back to an older block at once.
    async fn look_forward(&self, before: Option<ChainHead>, behind: &mut u32) -> Result<ChainHead, ChainError> {
        let mut seen = self.read_head().await;
        if let (Ok(head), Some(before)) = (&seen, before) {
            *behind = if head.l2_block < before.l2_block { behind.saturating_add(1) } else { 0 };
            if (1..MAX_BEHIND).contains(behind) {
                seen = Err(ChainError::Behind { seen: before.l2_block.0, found: head.l2_block.0 });
            }
        }
        self.publish(seen)
    }

    /// Why the last look failed; `None` when it did not.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        self.0.fault.borrow().clone()
    }

    /// Follows the chain as last seen.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Option<ChainHead>> {
        self.0.head.subscribe()
    }

    /// The configuration in use.
    #[must_use]
    pub fn config(&self) -> &ChainConfig {
        &self.0.config
    }

    /// What may be paid for gas now.
    #[must_use]
    pub fn gas_bounds(&self) -> GasBounds {
        *self.0.gas.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets what may be paid for gas until the process ends; what is on its way stays as it is.
    pub fn set_gas_bounds(&self, bounds: GasBounds) {
        *self.0.gas.write().unwrap_or_else(PoisonError::into_inner) = bounds;
        tracing::info!(?bounds, "bounds of the gas price were set");
    }

    /// How the endpoints fare, in the order of the configuration.
    #[must_use]
    pub fn endpoints(&self) -> Vec<EndpointHealth> {
        self.0.rpc.health()
    }

    /// The configuration with the bounds in force.
    fn config_now(&self) -> ChainConfig {
        let GasBounds { min, max } = self.gas_bounds();
        let max = max.unwrap_or(Wei(U256::MAX));
        ChainConfig { min_fee_cap_wei: min, max_gas_price_wei: max, ..self.0.config.clone() }
    }

    /// Where the contracts are, asked once and then remembered.
    ///
    /// # Errors
    /// As [`Deployment::resolve`].
    pub async fn deployment(&self) -> Result<Deployment, ChainError> {
        let inner = &self.0;
        let known = *inner.deployment.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(deployment) = known {
            return Ok(deployment);
        }
        let found = Deployment::resolve(&inner.rpc, inner.config.controller, inner.config.chain_id).await?;
        tracing::info!(?found, chain_id = inner.config.chain_id, "contracts found");
        *inner.deployment.write().unwrap_or_else(PoisonError::into_inner) = Some(found);
        Ok(found)
    }

    fn forget_deployment(&self) {
        *self.0.deployment.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The service URI an account has registered; empty when it has none.
    ///
    /// # Errors
    /// [`ChainError`] when it cannot be read.
    pub async fn service_uri(&self, account: Address) -> Result<String, ChainError> {
        let registry = self.deployment().await?.service_registry;
        let question = ask::view(registry, GetServiceURICall { addr: account.0 }, ask::latest());
        let answer = self.0.rpc.batch(&[question]).await?.pop();
        ask::answer::<GetServiceURICall, GetServiceURIReturn>(Call::Round, answer).map(|uri| uri.0)
    }

    async fn read_sender_info(&self, sender: Address) -> Result<SenderInfo, ChainError> {
        let inner = &self.0;
        let broker = self.deployment().await?.ticket_broker;
        let block = ask::at(head::newest(&inner.rpc).await?.number);
        let mut answers = inner
            .rpc
            .batch(&[
                ask::view(broker, GetSenderInfoCall { sender: sender.0 }, block.clone()),
                redemption::claimable(broker, sender, inner.config.recipient, block),
            ])
            .await?
            .into_iter();
        let info = ask::answer::<GetSenderInfoCall, GetSenderInfoReturn>(Call::Redeem, answers.next())?;
        let claimable_reserve = redemption::read_claimable(answers.next())?;
        let GetSenderInfoReturn { sender: (deposit, withdraw_round), reserve: (remaining, claimed) } = info;
        Ok(SenderInfo {
            deposit: Wei(deposit),
            withdraw_round: Round(ask::small("withdraw round", withdraw_round)?),
            reserve_remaining: Wei(remaining),
            reserve_claimed_in_round: Wei(claimed),
            claimable_reserve,
        })
    }

    /// A spent ticket is final, so with a second endpoint both must say so.
    async fn read_used(&self, ticket: H256) -> Result<bool, ChainError> {
        let inner = &self.0;
        let broker = self.deployment().await?.ticket_broker;
        let question = redemption::used(broker, ticket, ask::latest());
        let used = redemption::read_used(inner.rpc.batch(std::slice::from_ref(&question)).await?.pop())?;
        if used && inner.rpc.endpoints() > 1 {
            let (method, params) = question;
            for index in 0..inner.rpc.endpoints() {
                let other = inner.rpc.request_on(index, method, params.clone()).await;
                match redemption::read_used(Some(other)) {
                    Ok(false) => return Err(ChainError::Disagree("a spent ticket")),
                    Ok(true) | Err(ChainError::Rpc(_)) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(used)
    }

    async fn send(&self, signed: &[u8]) -> Result<(), ChainError> {
        let inner = &self.0;
        let hash = transaction_hash(signed);
        let method = "eth_sendRawTransaction";
        let params = json!([format!("0x{}", hex::encode(signed))]);
        let again = inner.last_sent.lock().unwrap_or_else(PoisonError::into_inner).replace(hash) == Some(hash);
        let mut result = accepted(inner.rpc.request(method, params.clone()).await);
        if again && inner.rpc.endpoints() > 1 {
            // Sent before and still not seen: the endpoint may not forward, so the others get the same bytes.
            for index in 0..inner.rpc.endpoints() {
                result = result.or(accepted(inner.rpc.request_on(index, method, params.clone()).await));
            }
        }
        match result {
            // A nonce that is gone is no fault when this very transaction took it.
            Err(RpcError::Response { message, .. }) if is_spent(&message) && self.is_mined(hash).await? => Ok(()),
            other => other.map_err(ChainError::from),
        }
    }

    async fn is_mined(&self, hash: H256) -> Result<bool, ChainError> {
        let receipt: Option<serde_json::Value> = self.0.rpc.request("eth_getTransactionReceipt", json!([hash])).await?;
        Ok(receipt.is_some())
    }
}

/// Taken, now or earlier.
fn accepted(result: Result<H256, RpcError>) -> Result<(), RpcError> {
    match result {
        Ok(_) => Ok(()),
        Err(RpcError::Response { message, .. }) if is_known(&message) => Ok(()),
        Err(error) => Err(error),
    }
}

fn is_known(message: &str) -> bool {
    let message = message.to_lowercase();
    ["already known", "already imported", "known transaction"].iter().any(|words| message.contains(words))
}

fn is_spent(message: &str) -> bool {
    message.to_lowercase().contains("nonce too low")
}

impl Broker for EthBroker {
    fn head(&self) -> Option<ChainHead> {
        *self.0.head.borrow()
    }

    async fn head_changed(&self) {
        // The sender lives as long as `self`, so waiting cannot fail.
        let _ = self.0.head.subscribe().changed().await;
    }

    async fn sender_info(&self, sender: Address) -> Result<SenderInfo, BrokerError> {
        let remembered = {
            let senders = self.0.senders.lock().unwrap_or_else(PoisonError::into_inner);
            senders.get(&sender).filter(|(at, _)| at.elapsed() < SENDER_INFO_LIFE).map(|(_, info)| *info)
        };
        if let Some(info) = remembered {
            return Ok(info);
        }
        let info = self.read_sender_info(sender).await?;
        let mut senders = self.0.senders.lock().unwrap_or_else(PoisonError::into_inner);
        if senders.len() >= MAX_SENDERS {
            senders.clear();
        }
        senders.insert(sender, (Instant::now(), info));
        Ok(info)
    }

    async fn used_ticket(&self, ticket: H256) -> Result<bool, BrokerError> {
        Ok(self.read_used(ticket).await?)
    }

    async fn prepare(&self, winner: &WinningTicket, from: Address, nonce: u64) -> Result<Prepared, BrokerError> {
        let deployment = self.deployment().await?;
        Ok(redemption::prepare(&self.0.rpc, &deployment, &self.config_now(), winner, from, nonce).await?)
    }

    async fn prepare_batch(
        &self,
        winners: &[WinningTicket],
        from: Address,
        nonce: u64,
    ) -> Result<Option<PreparedBatch>, BrokerError> {
        let deployment = self.deployment().await?;
        Ok(batch::prepare(&self.0.rpc, &deployment, &self.config_now(), winners, from, nonce).await?)
    }

    async fn redeemed_in(&self, transaction: H256, winner: &WinningTicket) -> Result<Option<Wei>, BrokerError> {
        let broker = self.deployment().await?.ticket_broker;
        Ok(batch::redeemed(&self.0.rpc, broker, transaction, winner).await?)
    }

    async fn account_nonce(&self, account: Address) -> Result<u64, BrokerError> {
        let method = "eth_getTransactionCount";
        let count: U256 = self.0.rpc.request(method, json!([account.0, "pending"])).await.map_err(ChainError::from)?;
        Ok(ask::small("account nonce", count)?)
    }

    async fn balance(&self, account: Address) -> Result<Wei, BrokerError> {
        let balance: U256 =
            self.0.rpc.request("eth_getBalance", json!([account.0, "latest"])).await.map_err(ChainError::from)?;
        Ok(Wei(balance))
    }

    async fn broadcast(&self, signed: &[u8]) -> Result<(), BrokerError> {
        Ok(self.send(signed).await?)
    }

    async fn duties(&self) -> Result<Duties, BrokerError> {
        let deployment = self.deployment().await?;
        Ok(errand::duties(&self.0.rpc, &deployment, self.0.config.recipient).await?)
    }

    async fn prepare_errand(&self, errand: Errand, from: Address, nonce: u64) -> Result<Prepared, BrokerError> {
        let deployment = self.deployment().await?;
        Ok(errand::prepare(&self.0.rpc, &deployment, &self.config_now(), errand, from, nonce).await?)
    }

    async fn registered_service_uri(&self, account: Address) -> Result<Option<String>, BrokerError> {
        Ok(Some(self.service_uri(account).await?))
    }

    async fn ether_price(&self, feed: Address) -> Result<FeedAnswer, BrokerError> {
        Ok(price_feed::read(&self.0.rpc, feed).await?)
    }

    async fn transaction_status(
        &self,
        hash: H256,
        from: Address,
        nonce: u64,
    ) -> Result<TransactionStatus, BrokerError> {
        let broker = self.deployment().await?.ticket_broker;
        Ok(confirm::status(&self.0.rpc, broker, hash, from, nonce, self.0.config.confirmations).await?)
    }
}
