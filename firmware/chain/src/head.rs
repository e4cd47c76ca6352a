//! The chain as last seen: two requests per look, everything in one block's context.
//!
//! Walk 2, step 3.
use ethers::types::{Block, H256, U256};
use livepeer::address::Address;
use livepeer::broker::ChainHead;
use livepeer::units::{L1Block, L2Block, Round, Timestamp, Wei};
use serde_json::json;

use crate::ask;
use crate::contracts::{
    BlockHashForRoundCall, BlockHashForRoundReturn, BlockNumCall, BlockNumReturn, CurrentRoundCall, CurrentRoundReturn,
    IsActiveTranscoderCall, IsActiveTranscoderReturn, LastInitializedRoundCall, LastInitializedRoundReturn, PausedCall,
    PausedReturn,
};
use crate::deployment::Deployment;
use crate::error::ChainError;
use crate::revert::Call;
use crate::rpc::Rpc;

/// The newest block: its number and the base price of gas in it.
pub(crate) struct Newest {
    pub(crate) number: u64,
    pub(crate) base_fee: Wei,
}

/// Reads the newest block.
pub(crate) async fn newest(rpc: &Rpc) -> Result<Newest, ChainError> {
    let block: Block<H256> = rpc.request("eth_getBlockByNumber", json!(["latest", false])).await?;
    Ok(Newest {
        number: block.number.ok_or(ChainError::Range("block number"))?.as_u64(),
        base_fee: Wei(block.base_fee_per_gas.ok_or(ChainError::NoBaseFee)?),
    })
}

/// Looks at the chain once. The round of the last look spares a request while the round lasts.
pub(crate) async fn look(
    rpc: &Rpc,
    contracts: &Deployment,
    recipient: Address,
    last: Option<ChainHead>,
    now: Timestamp,
) -> Result<ChainHead, ChainError> {
    let newest = newest(rpc).await?;
    let block = ask::at(newest.number);
    let guess = last.map_or(Round(0), |head| head.last_initialized_round);
    let rounds = contracts.rounds_manager;
    let mut answers = rpc
        .batch(&[
            ask::view(rounds, BlockNumCall, block.clone()),
            ask::view(rounds, CurrentRoundCall, block.clone()),
            ask::view(rounds, LastInitializedRoundCall, block.clone()),
            ask::view(contracts.controller, PausedCall, block.clone()),
            ask::view(contracts.bonding_manager, IsActiveTranscoderCall { transcoder: recipient.0 }, block.clone()),
            hash_of(contracts, guess, block.clone()),
            hash_of(contracts, before(guess), block.clone()),
        ])
        .await?
        .into_iter();
    let mut next = || answers.next();
    let l1_block = ask::answer::<BlockNumCall, BlockNumReturn>(Call::Round, next())?.0;
    let round = ask::answer::<CurrentRoundCall, CurrentRoundReturn>(Call::Round, next())?.0;
    let last_initialized = ask::answer::<LastInitializedRoundCall, LastInitializedRoundReturn>(Call::Round, next())?.0;
    let paused = ask::answer::<PausedCall, PausedReturn>(Call::Round, next())?.0;
    let active = ask::answer::<IsActiveTranscoderCall, IsActiveTranscoderReturn>(Call::Reward, next())?.0;
    let last_initialized_round = Round(ask::small("round", last_initialized)?);
    let mut hashes = [read_hash(next())?, read_hash(next())?];
    if last_initialized_round != guess {
        let answers = rpc
            .batch(&[
                hash_of(contracts, last_initialized_round, block.clone()),
                hash_of(contracts, before(last_initialized_round), block),
            ])
            .await?;
        for (hash, answer) in hashes.iter_mut().zip(answers) {
            *hash = read_hash(Some(answer))?;
        }
    }
    // The hash of a round may be zero; tickets of that round could never be redeemed, so make them for the one before.
    let [own, previous] = hashes;
    let (ticket_round, ticket_round_block_hash) =
        if own.is_zero() { (before(last_initialized_round), previous) } else { (last_initialized_round, own) };
    Ok(ChainHead {
        l1_block: L1Block(ask::small("l1 block", l1_block)?),
        l2_block: L2Block(newest.number),
        round: Round(ask::small("round", round)?),
        last_initialized_round,
        ticket_round,
        ticket_round_block_hash,
        recipient_active: active,
        gas_price: newest.base_fee,
        paused,
        seen_at: now,
    })
}

fn before(round: Round) -> Round {
    Round(round.0.saturating_sub(1))
}

fn hash_of(contracts: &Deployment, round: Round, block: serde_json::Value) -> (&'static str, serde_json::Value) {
    ask::view(contracts.rounds_manager, BlockHashForRoundCall { round: U256::from(round.0) }, block)
}

fn read_hash(answer: Option<Result<serde_json::Value, crate::rpc::RpcError>>) -> Result<H256, ChainError> {
    ask::answer::<BlockHashForRoundCall, BlockHashForRoundReturn>(Call::Round, answer).map(|r| H256(r.0))
}
