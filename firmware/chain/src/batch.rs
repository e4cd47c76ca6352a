//! Several winners in one transaction: simulated one by one, priced together, and what became of each.
//!
//! Walk 2, steps 6 and 7. The contract makes one internal call per ticket and ignores those that fail: no event, no
//! reason, and the whole still succeeds. So nothing here trusts the transaction's status: the gas limit is a formula, and a
//! ticket is redeemed when its event says so. *Source:* livepeer-chain §6.7, §11.3.
use std::collections::HashMap;

use ethers::abi::AbiEncode;
use ethers::contract::EthEvent;
use ethers::types::{Bytes, TransactionReceipt};
use livepeer::address::{Address, H256};
use livepeer::broker::PreparedBatch;
use livepeer::ticket::WinningTicket;
use livepeer::transaction::Transaction;
use livepeer::units::Wei;
use serde_json::json;

use crate::ask;
use crate::config::ChainConfig;
use crate::contracts::{
    BatchRedeemWinningTicketsCall, GetSenderInfoCall, GetSenderInfoReturn, IsActiveTranscoderCall,
    IsActiveTranscoderReturn, RedeemWinningTicketCall, WinningTicketRedeemedFilter, WinningTicketTransferFilter,
};
use crate::deployment::Deployment;
use crate::error::ChainError;
use crate::gas;
use crate::head;
use crate::payout::payout;
use crate::redemption::{
    claimable, contract_ticket, l1_component, read_claimable, read_l1_component, read_used, redeem_calldata, used,
};
use crate::revert::Call;
use crate::rpc::{Rpc, RpcError};

/// The call data that redeems several winners. Publishing it reveals their recipientRand.
#[must_use]
pub fn batch_calldata(winners: &[WinningTicket]) -> Vec<u8> {
    BatchRedeemWinningTicketsCall {
        tickets: winners.iter().map(contract_ticket).collect(),
        sigs: winners.iter().map(|winner| Bytes::from(winner.signature().to_bytes().to_vec())).collect(),
        recipient_rands: winners.iter().map(|winner| winner.recipient_rand().reveal()).collect(),
    }
    .encode()
}

/// What is left of a sender's money while a batch is counted through.
struct Funds {
    deposit: Wei,
    claimable: Wei,
}

impl Funds {
    /// Takes a face value as the contract would; false, and nothing taken, when it would pay less.
    fn pay(&mut self, face_value: Wei) -> bool {
        if payout(face_value, self.deposit, self.claimable) < face_value {
            return false;
        }
        let beyond = face_value.saturating_sub(self.deposit);
        self.deposit = self.deposit.saturating_sub(face_value);
        self.claimable = self.claimable.saturating_sub(beyond);
        true
    }
}

/// Simulates each at the newest block and builds one transaction for those that work and pay in full.
pub(crate) async fn prepare(
    rpc: &Rpc,
    contracts: &Deployment,
    config: &ChainConfig,
    winners: &[WinningTicket],
    from: Address,
    nonce: u64,
) -> Result<Option<PreparedBatch>, ChainError> {
    let newest = head::newest(rpc).await?;
    let block = ask::at(newest.number);
    let (broker, recipient) = (contracts.ticket_broker, config.recipient);
    let mut questions = vec![
        ask::view(contracts.bonding_manager, IsActiveTranscoderCall { transcoder: recipient.0 }, block.clone()),
        ("eth_getBalance", json!([from.0, block])),
    ];
    for winner in winners {
        let sender = winner.ticket().sender;
        let call = json!({ "from": from.0, "to": broker.0, "data": Bytes::from(redeem_calldata(winner)) });
        questions.push(used(broker, winner.hash(), block.clone()));
        questions.push(("eth_call", json!([call, block])));
        questions.push(ask::view(broker, GetSenderInfoCall { sender: sender.0 }, block.clone()));
        questions.push(claimable(broker, sender, recipient, block.clone()));
    }
    let mut answers = rpc.batch(&questions).await?.into_iter();
    let mut next = || answers.next();
    if !ask::answer::<IsActiveTranscoderCall, IsActiveTranscoderReturn>(Call::Redeem, next())?.0 {
        return Err(ChainError::Inactive(recipient));
    }
    let balance = Wei(ask::number("eth_getBalance", next())?);
    let mut funds: HashMap<Address, Funds> = HashMap::new();
    let mut fit = Vec::new();
    for winner in winners {
        let ticket = winner.ticket();
        let spent = read_used(next())?;
        // What a refusal says is learned when the ticket is tried alone.
        let works = ask::bytes::<RedeemWinningTicketCall>(Call::Redeem, next()).is_ok();
        let (deposit, _) = ask::answer::<GetSenderInfoCall, GetSenderInfoReturn>(Call::Redeem, next())?.sender;
        let claimable = read_claimable(next())?;
        let funds = funds.entry(ticket.sender).or_insert(Funds { deposit: Wei(deposit), claimable });
        if !spent && works && ticket.recipient == recipient && funds.pay(ticket.face_value) {
            fit.push(*winner);
        }
    }
    let max_fee_per_gas = gas::fee_cap(newest.base_fee, config.min_fee_cap_wei, config.max_gas_price_wei)?;
    while fit.len() > 1 {
        let data = batch_calldata(&fit);
        let l1 = rpc.batch(&[l1_component(broker, &data, block.clone())]).await?.pop();
        let Some(gas_limit) = gas::batch_limit(fit.len(), read_l1_component(l1)) else {
            fit.pop();
            continue;
        };
        let transaction = Transaction {
            chain_id: config.chain_id,
            nonce,
            max_priority_fee_per_gas: Wei::ZERO,
            max_fee_per_gas,
            gas_limit,
            to: broker,
            value: Wei::ZERO,
            data,
        };
        let cost = transaction.max_cost().ok_or(ChainError::Range("transaction cost"))?;
        let share = Wei(cost.0 / fit.len());
        let before = fit.len();
        fit.retain(|winner| winner.ticket().face_value > share);
        if fit.len() < before {
            continue;
        }
        if balance < cost {
            return Err(ChainError::Balance { account: from, balance, needed: cost });
        }
        tracing::debug!(tickets = fit.len(), %cost, block = newest.number, "batch simulated");
        return Ok(Some(PreparedBatch { transaction, winners: fit, cost }));
    }
    Ok(None)
}

/// What a mined transaction paid for a winner, by its events; none when it did not redeem it. All endpoints that have the
/// receipt must agree.
pub(crate) async fn redeemed(
    rpc: &Rpc,
    ticket_broker: Address,
    hash: H256,
    winner: &WinningTicket,
) -> Result<Option<Wei>, ChainError> {
    let mut told = None;
    for index in 0..rpc.endpoints() {
        let receipt: Result<Option<TransactionReceipt>, RpcError> =
            rpc.request_on(index, "eth_getTransactionReceipt", json!([hash])).await;
        let Ok(Some(receipt)) = receipt else { continue };
        let paid = paid_for(&receipt, ticket_broker, winner);
        if told.is_some_and(|before| before != paid) {
            return Err(ChainError::Disagree("what a batch paid"));
        }
        told = Some(paid);
    }
    told.ok_or(ChainError::Rpc(RpcError::NoAnswer { method: "eth_getTransactionReceipt" }))
}

/// Reads the broker's events in their order: `WinningTicketTransfer`, unless nothing was paid, then
/// `WinningTicketRedeemed`, which names the ticket.
fn paid_for(receipt: &TransactionReceipt, ticket_broker: Address, winner: &WinningTicket) -> Option<Wei> {
    let wanted = contract_ticket(winner);
    let mut transferred = Wei::ZERO;
    for log in receipt.logs.iter().filter(|log| log.address == ticket_broker.0) {
        let raw = ethers::abi::RawLog { topics: log.topics.clone(), data: log.data.to_vec() };
        if let Ok(transfer) = WinningTicketTransferFilter::decode_log(&raw) {
            transferred = transferred.saturating_add(Wei(transfer.amount));
        } else if let Ok(redeemed) = WinningTicketRedeemedFilter::decode_log(&raw) {
            let paid = std::mem::take(&mut transferred);
            let is_it = redeemed.sender == wanted.sender
                && redeemed.recipient == wanted.recipient
                && redeemed.face_value == wanted.face_value
                && redeemed.win_prob == wanted.win_prob
                && redeemed.sender_nonce == wanted.sender_nonce
                && redeemed.recipient_rand == winner.recipient_rand().reveal()
                && redeemed.aux_data == wanted.aux_data;
            if is_it {
                return Some(paid);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tickets_of_one_sender_share_its_money() {
        let wei = |wei: u64| Wei::from(wei);
        let mut funds = Funds { deposit: wei(25), claimable: wei(10) };
        assert!(funds.pay(wei(20)), "all from the deposit");
        assert!(!funds.pay(wei(20)), "it would be paid short, and be spent for it");
        assert!(funds.pay(wei(12)), "five from the deposit, seven of the reserve");
        assert_eq!((funds.deposit, funds.claimable), (Wei::ZERO, wei(3)));
        assert!(!funds.pay(wei(4)) && funds.pay(wei(3)));
    }
}
