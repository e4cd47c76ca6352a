//! Questions to contracts: encoded, pinned to a block, decoded.
use ethers::abi::{AbiDecode, AbiEncode};
use ethers::contract::EthCall;
use ethers::types::{Bytes, U256};
use livepeer::address::Address;
use serde_json::{Value, json};

use crate::error::ChainError;
use crate::revert::{Call, Revert};
use crate::rpc::RpcError;

/// A block to ask at, as JSON-RPC names it.
pub(crate) fn at(block: u64) -> Value {
    Value::from(format!("0x{block:x}"))
}

/// The newest block the endpoint has.
pub(crate) fn latest() -> Value {
    Value::from("latest")
}

/// An `eth_call` of a contract's function.
pub(crate) fn view<C: EthCall + AbiEncode>(to: Address, call: C, block: Value) -> (&'static str, Value) {
    ("eth_call", json!([{ "to": to.0, "data": Bytes::from(call.encode()) }, block]))
}

/// Reads the answer to [`view`].
pub(crate) fn answer<C: EthCall, R: AbiDecode>(
    call: Call,
    answer: Option<Result<Value, RpcError>>,
) -> Result<R, ChainError> {
    let bytes = bytes::<C>(call, answer)?;
    R::decode(&bytes).map_err(|source| ChainError::Decode { function: function::<C>(), source })
}

/// Reads an answer as bytes, turning a revert into what the contract said.
pub(crate) fn bytes<C: EthCall>(call: Call, answer: Option<Result<Value, RpcError>>) -> Result<Bytes, ChainError> {
    let value = settled(function::<C>(), call, answer)?;
    serde_json::from_value(value).map_err(|source| RpcError::Unexpected { method: "eth_call", source }.into())
}

/// Reads a number.
pub(crate) fn number(method: &'static str, answer: Option<Result<Value, RpcError>>) -> Result<U256, ChainError> {
    let value = answer.unwrap_or(Err(RpcError::NoAnswer { method }))?;
    serde_json::from_value(value).map_err(|source| RpcError::Unexpected { method, source }.into())
}

/// A result, or the contract's refusal told from the endpoint's.
pub(crate) fn settled(
    function: &'static str,
    call: Call,
    answer: Option<Result<Value, RpcError>>,
) -> Result<Value, ChainError> {
    match answer.unwrap_or(Err(RpcError::NoAnswer { method: "eth_call" })) {
        Ok(value) => Ok(value),
        Err(RpcError::Response { data: Some(data), .. }) => {
            Err(ChainError::Reverted { function, call, revert: Revert::decode(&data) })
        }
        Err(RpcError::Response { message, .. }) if message.contains("reverted") => {
            Err(ChainError::Reverted { function, call, revert: Revert::from_message(&message) })
        }
        Err(other) => Err(other.into()),
    }
}

fn function<C: EthCall>() -> &'static str {
    match C::function_name() {
        std::borrow::Cow::Borrowed(name) => name,
        std::borrow::Cow::Owned(_) => "a contract call",
    }
}

/// A number of the chain as 64 bits.
pub(crate) fn small(what: &'static str, value: U256) -> Result<u64, ChainError> {
    u64::try_from(value).map_err(|_| ChainError::Range(what))
}
