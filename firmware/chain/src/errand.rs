//! Errands turned into transactions: the reward of a round, and its initialisation.
//!
//! *Source:* livepeer-chain §7.4, §8.3, §8.8, §11.
use std::collections::HashSet;

use ethers::abi::AbiEncode;
use ethers::types::{Bytes, H160, U256};
use livepeer::address::Address;
use livepeer::broker::{Duties, Errand, Prepared};
use livepeer::transaction::Transaction;
use livepeer::units::{L1Block, Round, Wei};
use serde_json::json;

use crate::ask;
use crate::config::ChainConfig;
use crate::contracts::{
    CurrentRoundStartBlockCall, CurrentRoundStartBlockReturn, GetFirstTranscoderInPoolCall,
    GetFirstTranscoderInPoolReturn, GetNextTranscoderInPoolCall, GetNextTranscoderInPoolReturn, GetTranscoderCall,
    GetTranscoderPoolSizeCall, GetTranscoderPoolSizeReturn, GetTranscoderReturn, InitializeRoundCall,
    RewardForTranscoderWithHintCall, RoundLengthCall, RoundLengthReturn, TranscoderToRewardCallerCall,
    TranscoderToRewardCallerReturn, TranscoderTotalStakeCall, TranscoderTotalStakeReturn,
};
use crate::deployment::Deployment;
use crate::error::ChainError;
use crate::revert::Call;
use crate::rpc::Rpc;
use crate::{gas, head};

/// Gas of the dearest reward measured: at the tail of a full pool, with wrong hints.
const REWARD_GAS: u64 = 1_105_000;
/// Gas of the dearest initialisation measured.
const INITIALIZE_GAS: u64 = 286_000;
/// Members of the pool that are read for hints; it holds a hundred.
const MAX_POOL: usize = 200;

/// What the chain says of an orchestrator's duties.
pub(crate) async fn duties(rpc: &Rpc, contracts: &Deployment, recipient: Address) -> Result<Duties, ChainError> {
    let (bonding, rounds) = (contracts.bonding_manager, contracts.rounds_manager);
    let mut answers = rpc
        .batch(&[
            ask::view(bonding, GetTranscoderCall { transcoder: recipient.0 }, ask::latest()),
            ask::view(bonding, TranscoderToRewardCallerCall(recipient.0), ask::latest()),
            ask::view(rounds, CurrentRoundStartBlockCall, ask::latest()),
            ask::view(rounds, RoundLengthCall, ask::latest()),
        ])
        .await?
        .into_iter();
    let transcoder = ask::answer::<GetTranscoderCall, GetTranscoderReturn>(Call::Reward, answers.next())?;
    let caller =
        ask::answer::<TranscoderToRewardCallerCall, TranscoderToRewardCallerReturn>(Call::Reward, answers.next())?;
    let start = ask::answer::<CurrentRoundStartBlockCall, CurrentRoundStartBlockReturn>(Call::Round, answers.next())?;
    let length = ask::answer::<RoundLengthCall, RoundLengthReturn>(Call::Round, answers.next())?;
    Ok(Duties {
        last_reward_round: Round(ask::small("last reward round", transcoder.last_reward_round)?),
        reward_caller: Address(caller.0),
        round_start: L1Block(ask::small("start of the round", start.0)?),
        round_length: ask::small("length of the round", length.0)?,
    })
}

/// Simulates an errand and builds its transaction.
pub(crate) async fn prepare(
    rpc: &Rpc,
    contracts: &Deployment,
    config: &ChainConfig,
    errand: Errand,
    from: Address,
    nonce: u64,
) -> Result<Prepared, ChainError> {
    let (call, to, name, data, dearest) = match errand {
        Errand::Reward(_) => {
            let (prev, next) = hints(rpc, contracts, config.recipient).await?;
            let call = RewardForTranscoderWithHintCall {
                transcoder: config.recipient.0,
                new_pos_prev: prev,
                new_pos_next: next,
            };
            let name = "rewardForTranscoderWithHint";
            (Call::Reward, contracts.bonding_manager, name, call.encode(), REWARD_GAS)
        }
        Errand::InitializeRound(_) => {
            let data = InitializeRoundCall.encode();
            (Call::Round, contracts.rounds_manager, "initializeRound", data, INITIALIZE_GAS)
        }
    };
    let newest = head::newest(rpc).await?;
    let block = ask::at(newest.number);
    let question = json!({ "from": from.0, "to": to.0, "data": Bytes::from(data.clone()) });
    let mut answers = rpc
        .batch(&[
            ("eth_call", json!([question, block])),
            ("eth_estimateGas", json!([question, block])),
            ("eth_getBalance", json!([from.0, block])),
            crate::redemption::l1_component(to, &data, block.clone()),
        ])
        .await?
        .into_iter();
    ask::settled(name, call, answers.next())?;
    let estimate = ask::settled(name, call, answers.next())?;
    let estimate = ask::small("gas estimate", ask::number("eth_estimateGas", Some(Ok(estimate)))?)?;
    let balance = Wei(ask::number("eth_getBalance", answers.next())?);
    let l1_component = crate::redemption::read_l1_component(answers.next());
    let transaction = Transaction {
        chain_id: config.chain_id,
        nonce,
        max_priority_fee_per_gas: Wei::ZERO,
        max_fee_per_gas: gas::fee_cap(newest.base_fee, config.min_fee_cap_wei, config.max_gas_price_wei)?,
        gas_limit: gas::errand_limit(estimate, dearest, l1_component),
        to,
        value: Wei::ZERO,
        data,
    };
    let cost = transaction.max_cost().ok_or(ChainError::Range("transaction cost"))?;
    if balance < cost {
        return Err(ChainError::Balance { account: from, balance, needed: cost });
    }
    Ok(Prepared { transaction, payout: Wei::ZERO, cost })
}

/// The neighbours of an orchestrator in the pool once its stake has grown by a reward. A wrong hint costs gas and
/// nothing else, so what cannot be known is taken as it is: the stake now stands for the stake then, with all those
/// above that a reward could pass left above.
async fn hints(rpc: &Rpc, contracts: &Deployment, own: Address) -> Result<(H160, H160), ChainError> {
    let pool = pool(rpc, contracts).await?;
    let stakes: Vec<_> = pool
        .iter()
        .map(|member| {
            ask::view(contracts.bonding_manager, TranscoderTotalStakeCall { transcoder: *member }, ask::latest())
        })
        .collect();
    let mut members = Vec::with_capacity(pool.len());
    let answers = if stakes.is_empty() { Vec::new() } else { rpc.batch(&stakes).await? };
    for (member, answer) in pool.into_iter().zip(answers) {
        let stake = ask::answer::<TranscoderTotalStakeCall, TranscoderTotalStakeReturn>(Call::Reward, Some(answer))?.0;
        members.push((member, stake));
    }
    Ok(neighbours(&members, own.0))
}

/// Who stands before and after `own` among the others, by stake, equals before it; zero at the ends.
fn neighbours(members: &[(H160, U256)], own: H160) -> (H160, H160) {
    let Some((_, stake)) = members.iter().find(|(member, _)| *member == own) else {
        return (H160::zero(), H160::zero());
    };
    let others: Vec<&(H160, U256)> = members.iter().filter(|(member, _)| *member != own).collect();
    let after = others.iter().position(|(_, other)| other < stake).unwrap_or(others.len());
    let at =
        |index: Option<usize>| index.and_then(|index| others.get(index)).map_or(H160::zero(), |(member, _)| *member);
    (at(after.checked_sub(1)), at(Some(after)))
}

/// The members of the pool, the largest stake first.
pub(crate) async fn pool(rpc: &Rpc, contracts: &Deployment) -> Result<Vec<H160>, ChainError> {
    let bonding = contracts.bonding_manager;
    let mut answers = rpc
        .batch(&[
            ask::view(bonding, GetTranscoderPoolSizeCall, ask::latest()),
            ask::view(bonding, GetFirstTranscoderInPoolCall, ask::latest()),
        ])
        .await?
        .into_iter();
    let size = ask::answer::<GetTranscoderPoolSizeCall, GetTranscoderPoolSizeReturn>(Call::Reward, answers.next())?.0;
    let size = usize::try_from(ask::small("pool size", size)?).unwrap_or(usize::MAX).min(MAX_POOL);
    let first =
        ask::answer::<GetFirstTranscoderInPoolCall, GetFirstTranscoderInPoolReturn>(Call::Reward, answers.next())?.0;
    let (mut pool, mut seen, mut next) = (Vec::with_capacity(size), HashSet::new(), first);
    while pool.len() < size && !next.is_zero() && seen.insert(next) {
        pool.push(next);
        let question = ask::view(bonding, GetNextTranscoderInPoolCall { transcoder: next }, ask::latest());
        let answer = rpc.batch(&[question]).await?.pop();
        next = ask::answer::<GetNextTranscoderInPoolCall, GetNextTranscoderInPoolReturn>(Call::Reward, answer)?.0;
    }
    Ok(pool)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_neighbours_are_those_among_the_others() {
        let member = |byte: u8, stake: u64| (H160::repeat_byte(byte), U256::from(stake));
        let pool = [member(1, 50), member(2, 40), member(3, 40), member(4, 10)];
        let of = |byte: u8| neighbours(&pool, H160::repeat_byte(byte));
        let at = H160::repeat_byte;
        assert_eq!(of(1), (H160::zero(), at(2)));
        assert_eq!(of(2), (at(3), at(4)), "behind its equals");
        assert_eq!(of(4), (at(3), H160::zero()));
        assert_eq!(of(9), (H160::zero(), H160::zero()));
        assert_eq!(neighbours(&pool[..1], at(1)), (H160::zero(), H160::zero()));
    }
}
