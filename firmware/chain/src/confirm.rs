//! What became of a transaction: receipts, depth, payout, and how to tell a lost transaction from a slow one.
//!
//! Walk 2, step 7. *Source:* livepeer-chain §12.
use ethers::contract::EthEvent;
use ethers::types::{Transaction, TransactionReceipt, U256};
use livepeer::address::{Address, H256};
use livepeer::broker::TransactionStatus;
use livepeer::units::{L2Block, Wei};
use serde_json::{Value, json};

use crate::ask;
use crate::contracts::WinningTicketTransferFilter;
use crate::error::ChainError;
use crate::rpc::{Rpc, RpcError};

/// How deep a foreign transaction with our account nonce must lie before ours counts as replaced; endpoints that
/// hold no archive still know this far back.
const MAX_REPLACED_DEPTH: u64 = 64;

/// Looks for a transaction.
pub(crate) async fn status(
    rpc: &Rpc,
    ticket_broker: Address,
    hash: H256,
    from: Address,
    nonce: u64,
    confirmations: u64,
) -> Result<TransactionStatus, ChainError> {
    let mut answers = rpc
        .batch(&[
            ("eth_blockNumber", json!([])),
            ("eth_getTransactionReceipt", json!([hash])),
            ("eth_getTransactionByHash", json!([hash])),
            ("eth_getTransactionCount", json!([from.0, "latest"])),
        ])
        .await?
        .into_iter();
    let mut next = || answers.next();
    let head = ask::small("block number", ask::number("eth_blockNumber", next())?)?;
    let receipt: Option<TransactionReceipt> = optional("eth_getTransactionReceipt", next())?;
    let known: Option<Transaction> = optional("eth_getTransactionByHash", next())?;
    let used = ask::number("eth_getTransactionCount", next())?;
    if let Some(receipt) = receipt {
        let depth = if agreed(rpc, hash, &receipt).await? { head } else { 0 };
        return outcome(&receipt, depth, ticket_broker);
    }
    if used > U256::from(nonce) {
        return consumed(rpc, ticket_broker, hash, from, nonce, head, confirmations).await;
    }
    if known.is_some() || known_elsewhere(rpc, hash).await {
        return Ok(TransactionStatus::Pending);
    }
    Ok(TransactionStatus::Unknown)
}

/// Our nonce is taken and there is no receipt: either ours was just mined, or somebody else's was. Until a foreign
/// one lies deep enough the answer is "pending", because believing too early would send the same intent twice.
async fn consumed(
    rpc: &Rpc,
    ticket_broker: Address,
    hash: H256,
    from: Address,
    nonce: u64,
    head: u64,
    confirmations: u64,
) -> Result<TransactionStatus, ChainError> {
    for index in 0..rpc.endpoints() {
        let receipt: Result<Option<TransactionReceipt>, RpcError> =
            rpc.request_on(index, "eth_getTransactionReceipt", json!([hash])).await;
        if let Ok(Some(receipt)) = receipt {
            return outcome(&receipt, head, ticket_broker);
        }
    }
    let deep = head.saturating_sub(confirmations.min(MAX_REPLACED_DEPTH));
    let used: U256 = rpc.request("eth_getTransactionCount", json!([from.0, ask::at(deep)])).await?;
    Ok(if used > U256::from(nonce) { TransactionStatus::Replaced } else { TransactionStatus::Pending })
}

/// Does every endpoint that answers have this receipt? One that does not have it yet keeps the depth at nothing; one
/// that has another is lying or on another fork.
async fn agreed(rpc: &Rpc, hash: H256, receipt: &TransactionReceipt) -> Result<bool, ChainError> {
    if rpc.endpoints() < 2 {
        return Ok(true);
    }
    for index in 0..rpc.endpoints() {
        let other: Result<Option<TransactionReceipt>, RpcError> =
            rpc.request_on(index, "eth_getTransactionReceipt", json!([hash])).await;
        match other {
            Ok(None) => return Ok(false),
            Ok(Some(other)) if other.block_hash != receipt.block_hash || other.status != receipt.status => {
                return Err(ChainError::Disagree("a receipt"));
            }
            Ok(Some(_)) | Err(_) => {}
        }
    }
    Ok(true)
}

async fn known_elsewhere(rpc: &Rpc, hash: H256) -> bool {
    if rpc.endpoints() < 2 {
        return false;
    }
    for index in 0..rpc.endpoints() {
        let known: Result<Option<Transaction>, RpcError> =
            rpc.request_on(index, "eth_getTransactionByHash", json!([hash])).await;
        if matches!(known, Ok(Some(_))) {
            return true;
        }
    }
    false
}

fn outcome(receipt: &TransactionReceipt, head: u64, ticket_broker: Address) -> Result<TransactionStatus, ChainError> {
    let number = receipt.block_number.ok_or(ChainError::Range("receipt block"))?.as_u64();
    let block = L2Block(number);
    // The block itself is the first confirmation.
    let confirmations = if head < number { 0 } else { (head - number).saturating_add(1) };
    let price = receipt.effective_gas_price.unwrap_or_default();
    let fee = receipt.gas_used.and_then(|gas| gas.checked_mul(price)).map_or(Wei::ZERO, Wei);
    if receipt.status.is_some_and(|status| status.is_zero()) {
        return Ok(TransactionStatus::Reverted { block, confirmations, fee });
    }
    Ok(TransactionStatus::Mined { block, confirmations, paid: paid(receipt, ticket_broker), fee })
}

/// What the broker says was paid: the sum of its `WinningTicketTransfer` logs, zero without one.
pub(crate) fn paid(receipt: &TransactionReceipt, ticket_broker: Address) -> Wei {
    receipt
        .logs
        .iter()
        .filter(|log| log.address == ticket_broker.0)
        .filter_map(|log| {
            let raw = ethers::abi::RawLog { topics: log.topics.clone(), data: log.data.to_vec() };
            WinningTicketTransferFilter::decode_log(&raw).ok()
        })
        .fold(Wei::ZERO, |sum, transfer| sum.saturating_add(Wei(transfer.amount)))
}

fn optional<T: serde::de::DeserializeOwned>(
    method: &'static str,
    answer: Option<Result<Value, RpcError>>,
) -> Result<Option<T>, ChainError> {
    let value = answer.unwrap_or(Err(RpcError::NoAnswer { method }))?;
    serde_json::from_value(value).map_err(|source| RpcError::Unexpected { method, source }.into())
}
