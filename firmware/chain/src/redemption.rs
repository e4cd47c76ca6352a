//! A winner turned into a transaction: simulated, priced, ready to sign.
//!
//! Walk 2, step 6. *Source:* livepeer-chain §6, §11.3, §12.
use ethers::abi::AbiEncode;
use ethers::types::{Bytes, U256};
use livepeer::address::{Address, H256};
use livepeer::broker::Prepared;
use livepeer::ticket::WinningTicket;
use livepeer::transaction::Transaction;
use livepeer::units::Wei;
use serde_json::{Value, json};

use crate::ask;
use crate::config::ChainConfig;
use crate::contracts::{
    ClaimableReserveCall, ClaimableReserveReturn, GasEstimateL1ComponentCall, GasEstimateL1ComponentReturn,
    GetSenderInfoCall, GetSenderInfoReturn, IsActiveTranscoderCall, IsActiveTranscoderReturn, RedeemWinningTicketCall,
    Ticket as ContractTicket, UsedTicketsCall, UsedTicketsReturn,
};
use crate::deployment::Deployment;
use crate::error::ChainError;
use crate::gas;
use crate::head;
use crate::payout::payout;
use crate::revert::{Call, Revert};
use crate::rpc::{Rpc, RpcError};

/// NodeInterface of Arbitrum: answers on its endpoints, is nowhere on a plain EVM.
const NODE_INTERFACE: Address =
    Address(ethers::types::H160([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xc8]));

/// The call data that redeems a winner. Publishing it reveals recipientRand.
#[must_use]
pub fn redeem_calldata(winner: &WinningTicket) -> Vec<u8> {
    RedeemWinningTicketCall {
        ticket: contract_ticket(winner),
        sig: Bytes::from(winner.signature().to_bytes().to_vec()),
        recipient_rand: winner.recipient_rand().reveal(),
    }
    .encode()
}

/// A ticket as the contract has it.
pub(crate) fn contract_ticket(winner: &WinningTicket) -> ContractTicket {
    let ticket = winner.ticket();
    ContractTicket {
        recipient: ticket.recipient.0,
        sender: ticket.sender.0,
        face_value: ticket.face_value.0,
        win_prob: ticket.win_prob.0,
        sender_nonce: U256::from(ticket.sender_nonce),
        recipient_rand_hash: ticket.recipient_rand_hash.0,
        aux_data: Bytes::from(ticket.aux_data()),
    }
}

/// Simulates the redemption at the newest block and builds its transaction.
pub(crate) async fn prepare(
    rpc: &Rpc,
    contracts: &Deployment,
    config: &ChainConfig,
    winner: &WinningTicket,
    from: Address,
    nonce: u64,
) -> Result<Prepared, ChainError> {
    let newest = head::newest(rpc).await?;
    let block = ask::at(newest.number);
    let ticket = winner.ticket();
    let broker = contracts.ticket_broker;
    let data = redeem_calldata(winner);
    let call = json!({ "from": from.0, "to": broker.0, "data": Bytes::from(data.clone()) });
    let mut answers = rpc
        .batch(&[
            used(broker, winner.hash(), block.clone()),
            ask::view(
                contracts.bonding_manager,
                IsActiveTranscoderCall { transcoder: ticket.recipient.0 },
                block.clone(),
            ),
            ("eth_call", json!([call, block])),
            ask::view(broker, GetSenderInfoCall { sender: ticket.sender.0 }, block.clone()),
            claimable(broker, ticket.sender, ticket.recipient, block.clone()),
            ("eth_estimateGas", json!([call, block])),
            ("eth_getBalance", json!([from.0, block])),
            l1_component(broker, &data, block.clone()),
        ])
        .await?
        .into_iter();
    let mut next = || answers.next();
    if read_used(next())? {
        return Err(ChainError::Used);
    }
    if !ask::answer::<IsActiveTranscoderCall, IsActiveTranscoderReturn>(Call::Redeem, next())?.0 {
        return Err(ChainError::Inactive(ticket.recipient));
    }
    ask::bytes::<RedeemWinningTicketCall>(Call::Redeem, next())?;
    let (deposit, _) = ask::answer::<GetSenderInfoCall, GetSenderInfoReturn>(Call::Redeem, next())?.sender;
    let claimable = read_claimable(next())?;
    let estimate = ask::settled("redeemWinningTicket", Call::Redeem, next())?;
    let estimate = ask::small("gas estimate", ask::number("eth_estimateGas", Some(Ok(estimate)))?)?;
    let balance = Wei(ask::number("eth_getBalance", next())?);
    let l1_component = read_l1_component(next());

    let transaction = Transaction {
        chain_id: config.chain_id,
        nonce,
        max_priority_fee_per_gas: Wei::ZERO,
        max_fee_per_gas: gas::fee_cap(newest.base_fee, config.min_fee_cap_wei, config.max_gas_price_wei)?,
        gas_limit: gas::redeem_limit(estimate, l1_component),
        to: broker,
        value: Wei::ZERO,
        data,
    };
    let cost = transaction.max_cost().ok_or(ChainError::Range("transaction cost"))?;
    if balance < cost {
        return Err(ChainError::Balance { account: from, balance, needed: cost });
    }
    let payout = payout(ticket.face_value, Wei(deposit), claimable);
    tracing::debug!(ticket = ?winner.hash(), %payout, %cost, block = newest.number, "redemption simulated");
    Ok(Prepared { transaction, payout, cost })
}

pub(crate) fn used(broker: Address, ticket: H256, block: Value) -> (&'static str, Value) {
    ask::view(broker, UsedTicketsCall(ticket.0), block)
}

pub(crate) fn read_used(answer: Option<Result<Value, RpcError>>) -> Result<bool, ChainError> {
    ask::answer::<UsedTicketsCall, UsedTicketsReturn>(Call::Redeem, answer).map(|r| r.0)
}

pub(crate) fn claimable(broker: Address, sender: Address, us: Address, block: Value) -> (&'static str, Value) {
    ask::view(broker, ClaimableReserveCall { reserve_holder: sender.0, claimant: us.0 }, block)
}

/// The claimable share; the contract's own underflow counts as none until the next round.
pub(crate) fn read_claimable(answer: Option<Result<Value, RpcError>>) -> Result<Wei, ChainError> {
    match ask::answer::<ClaimableReserveCall, ClaimableReserveReturn>(Call::Redeem, answer) {
        Ok(share) => Ok(Wei(share.0)),
        Err(ChainError::Reverted { revert: Revert::Panic(code), .. }) if code == U256::from(0x11) => Ok(Wei::ZERO),
        Err(error) => Err(error),
    }
}

pub(crate) fn l1_component(to: Address, data: &[u8], block: Value) -> (&'static str, Value) {
    let call = GasEstimateL1ComponentCall { to: to.0, contract_creation: false, data: Bytes::from(data.to_vec()) };
    ask::view(NODE_INTERFACE, call, block)
}

/// What the bytes cost on L1, in gas of this chain; nothing where there is no such thing.
pub(crate) fn read_l1_component(answer: Option<Result<Value, RpcError>>) -> u64 {
    ask::answer::<GasEstimateL1ComponentCall, GasEstimateL1ComponentReturn>(Call::Redeem, answer)
        .map_or(0, |estimate| estimate.gas_estimate_for_l1)
}
