//! Questions about stake, rounds and funds. What is asked of "the account" is answered for the orchestrator's; only its
//! address and its ether are those of the hot account, which pays for gas.
use std::sync::Arc;

use axum::extract::State;
use axum::response::IntoResponse;
use chain::inquiry::{Number, OrchestratorInfo};
use http::{HeaderValue, StatusCode, header};
use livepeer::address::Address;
use livepeer::broker::{Broker, ChainHead};
use serde::Serialize;

use super::{Admin, Answer, Form, OnChain, Refusal, json, plain};

impl OnChain {
    /// The chain as last seen, which is at most some seconds ago while the endpoints answer.
    fn head(&self) -> Result<ChainHead, Refusal> {
        let never = || Refusal(StatusCode::INTERNAL_SERVER_ERROR, "the chain was not seen yet".to_owned());
        self.broker.head().ok_or_else(never)
    }
}

/// The last block seen, as big-endian bytes: that is how the stock node sends it and its command line reads it.
pub(super) async fn current_block(State(admin): State<Arc<Admin>>) -> Answer {
    let bytes = admin.chain()?.head()?.l2_block.0.to_be_bytes();
    let bytes: Vec<u8> = bytes.into_iter().skip_while(|byte| *byte == 0).collect();
    let kind = HeaderValue::from_static("application/octet-stream");
    Ok(([(header::CONTENT_TYPE, kind)], bytes).into_response())
}

pub(super) async fn current_round(State(admin): State<Arc<Admin>>) -> Answer {
    plain(admin.chain()?.head()?.round)
}

pub(super) async fn round_initialized(State(admin): State<Arc<Admin>>) -> Answer {
    let head = admin.chain()?.head()?;
    plain(head.round == head.last_initialized_round)
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Orchestrator {
    transcoder: OrchestratorInfo,
    price_info: Option<String>,
}

pub(super) async fn orchestrator_info(State(admin): State<Arc<Admin>>) -> Answer {
    let chain = admin.chain()?;
    let known = chain.broker.orchestrator_info(chain.recipient).await;
    let transcoder = known.map_err(|error| Refusal::fault(&error))?;
    json(&Orchestrator { transcoder, price_info: admin.base_price() })
}

pub(super) async fn registered_orchestrators(State(admin): State<Arc<Admin>>) -> Answer {
    let known = admin.chain()?.broker.registered_orchestrators().await;
    json(&known.map_err(|error| Refusal::fault(&error))?)
}

pub(super) async fn protocol_parameters(State(admin): State<Arc<Admin>>) -> Answer {
    json(&admin.chain()?.broker.protocol_parameters().await.map_err(|error| Refusal::fault(&error))?)
}

pub(super) async fn contract_addresses(State(admin): State<Arc<Admin>>) -> Answer {
    json(&admin.chain()?.broker.contract_addresses().await.map_err(|error| Refusal::fault(&error))?)
}

/// The account this node signs with.
pub(super) async fn eth_address(State(admin): State<Arc<Admin>>) -> Answer {
    plain(admin.chain()?.hot)
}

pub(super) async fn eth_balance(State(admin): State<Arc<Admin>>) -> Answer {
    let chain = admin.chain()?;
    plain(chain.broker.balance(chain.hot).await.map_err(|error| Refusal::fault(&error))?)
}

pub(super) async fn token_balance(State(admin): State<Arc<Admin>>) -> Answer {
    let chain = admin.chain()?;
    plain(chain.broker.token_balance(chain.recipient).await.map_err(|error| Refusal::fault(&error))?)
}

pub(super) async fn delegator_info(State(admin): State<Arc<Admin>>) -> Answer {
    let chain = admin.chain()?;
    let known = chain.broker.delegator_info(chain.recipient, chain.head()?.round).await;
    json(&known.map_err(|error| Refusal::fault(&error))?)
}

/// All of them, or with `withdrawable=true` those whose time has come.
pub(super) async fn unbonding_locks(State(admin): State<Arc<Admin>>, form: Form) -> Answer {
    let chain = admin.chain()?;
    let mut locks = chain.broker.unbonding_locks(chain.recipient).await.map_err(|error| Refusal::fault(&error))?;
    if form.maybe("withdrawable") == Some("true") {
        let round = chain.head()?.round;
        locks.retain(|lock| lock.withdraw_round.0 <= round.0.into());
    }
    json(&locks)
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Sender {
    deposit: Number,
    withdraw_round: u64,
    reserve: Reserve,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Reserve {
    funds_remaining: Number,
    claimed_in_current_round: Number,
}

/// What our own account has deposited as a gateway, or with `sender=0x…` what another has.
pub(super) async fn sender_info(State(admin): State<Arc<Admin>>, form: Form) -> Answer {
    let chain = admin.chain()?;
    let asked = form.maybe("sender").map(str::parse::<Address>).transpose().map_err(Refusal::bad)?;
    let known = chain.broker.sender_info(asked.unwrap_or(chain.hot)).await.map_err(|error| Refusal::fault(&error))?;
    json(&Sender {
        deposit: Number(known.deposit.0),
        withdraw_round: known.withdraw_round.0,
        reserve: Reserve {
            funds_remaining: Number(known.reserve_remaining.0),
            claimed_in_current_round: Number(known.reserve_claimed_in_round.0),
        },
    })
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct TicketBroker {
    unlock_period: Number,
}

pub(super) async fn ticket_broker_params(State(admin): State<Arc<Admin>>) -> Answer {
    let unlock_period = admin.chain()?.broker.unlock_period().await.map_err(|error| Refusal::fault(&error))?;
    json(&TicketBroker { unlock_period })
}

/// In wei; empty when there is no bound.
pub(super) async fn max_gas_price(State(admin): State<Arc<Admin>>) -> Answer {
    plain(admin.chain()?.broker.gas_bounds().max.map(|max| max.to_string()).unwrap_or_default())
}

pub(super) async fn min_gas_price(State(admin): State<Arc<Admin>>) -> Answer {
    plain(admin.chain()?.broker.gas_bounds().min)
}
