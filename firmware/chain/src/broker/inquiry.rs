//! What operators ask about stake, rounds and funds. The answers carry the names that the network's own tools read, so
//! that they can be handed on as JSON. Nothing here is needed to serve gateways.
//!
//! *Source:* livepeer-chain §2, livepeer-wire §11.3.
use ethers::types::{H160, U256};
use livepeer::address::Address;
use livepeer::units::{Round, Wei};
use serde::ser::Error as _;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use super::EthBroker;
use crate::contracts::{
    BalanceOfCall, BalanceOfReturn, DelegatorStatusCall, DelegatorStatusReturn, GetContractCall, GetContractReturn,
    GetDelegatorCall, GetDelegatorReturn, GetDelegatorUnbondingLockCall, GetDelegatorUnbondingLockReturn,
    GetGlobalTotalSupplyCall, GetGlobalTotalSupplyReturn, GetServiceURICall, GetServiceURIReturn, GetTotalBondedCall,
    GetTotalBondedReturn, GetTranscoderCall, GetTranscoderPoolMaxSizeCall, GetTranscoderPoolMaxSizeReturn,
    GetTranscoderReturn, InflationCall, InflationChangeCall, InflationChangeReturn, InflationReturn,
    IsActiveTranscoderCall, IsActiveTranscoderReturn, PausedCall, PausedReturn, PendingFeesCall, PendingFeesReturn,
    PendingStakeCall, PendingStakeReturn, RoundLengthCall, RoundLengthReturn, RoundLockAmountCall,
    RoundLockAmountReturn, TargetBondingRateCall, TargetBondingRateReturn, TranscoderStatusCall,
    TranscoderStatusReturn, TranscoderTotalStakeCall, TranscoderTotalStakeReturn, UnbondingPeriodCall,
    UnbondingPeriodReturn, UnlockPeriodCall, UnlockPeriodReturn,
};
use crate::deployment::{Deployment, lookup};
use crate::error::ChainError;
use crate::revert::Call;
use crate::{ask, errand};

/// Orchestrators asked about in one request.
const IN_ONE_REQUEST: usize = 20;
/// Unbonding locks looked at, the newest ones.
const MAX_LOCKS: u64 = 200;

/// A number of the contracts: in JSON a bare number, whatever its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Number(pub U256);

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        RawValue::from_string(self.0.to_string()).map_err(S::Error::custom)?.serialize(serializer)
    }
}

/// An account: in JSON lower-case, as the network's tools write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account(pub Address);

impl Serialize for Account {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.to_string().to_lowercase())
    }
}

/// An orchestrator as the contracts know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct OrchestratorInfo {
    /// Who.
    pub address: Account,
    /// Where gateways reach it.
    #[serde(rename = "ServiceURI")]
    pub service_uri: String,
    /// The last round whose reward it called.
    pub last_reward_round: Number,
    /// Its share of inflation, in parts per million.
    pub reward_cut: Number,
    /// Share of fees it gives to delegators, in parts per million.
    pub fee_share: Number,
    /// What is bonded to it.
    pub delegated_stake: Number,
    /// When it joined the active set.
    pub activation_round: Number,
    /// When it leaves it.
    pub deactivation_round: Number,
    /// When its stake last changed.
    pub last_active_stake_update_round: Number,
    /// Is it in the active set?
    pub active: bool,
    /// `Registered` or `Not Registered`.
    pub status: &'static str,
    /// What it asks for a pixel; nobody tells us.
    pub price_per_pixel: Option<String>,
}

/// A delegator as the contracts know it; an orchestrator is its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct DelegatorInfo {
    /// Who.
    pub address: Account,
    /// What it bonded, as of the last claim.
    pub bonded_amount: Number,
    /// Fees it may withdraw, as of the last claim.
    pub fees: Number,
    /// To whom it is bonded.
    pub delegate_address: Account,
    /// What is bonded to it.
    pub delegated_amount: Number,
    /// When its bond began.
    pub start_round: Number,
    /// When it last claimed.
    pub last_claim_round: Number,
    /// The id its next unbonding will have.
    pub next_unbonding_lock_id: Number,
    /// What it has bonded, rewards included.
    pub pending_stake: Number,
    /// Fees it may withdraw, all included.
    pub pending_fees: Number,
    /// `Pending`, `Bonded` or `Unbonded`.
    pub status: &'static str,
}

/// Stake that waits to be withdrawn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct UnbondingLock {
    /// Its number.
    #[serde(rename = "ID")]
    pub id: u64,
    /// Whose.
    pub delegator: Account,
    /// How much.
    pub amount: Number,
    /// The round from which it may be withdrawn.
    pub withdraw_round: Number,
}

/// The protocol's parameters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ProtocolParameters {
    /// Places in the active set.
    pub num_active_transcoders: Number,
    /// L1 blocks of a round.
    pub round_length: Number,
    /// Share of a round in which rates are fixed, in parts per million.
    pub round_lock_amount: Number,
    /// Rounds until unbonded stake is free.
    pub unbonding_period: u64,
    /// Inflation of a round, in parts per thousand million.
    pub inflation: Number,
    /// How much that moves in a round.
    pub inflation_change: Number,
    /// Bonded share at which it turns, in parts per thousand million.
    pub target_bonding_rate: Number,
    /// What all have bonded.
    pub total_bonded: Number,
    /// All tokens, on either layer.
    pub total_supply: Number,
    /// Are the contracts paused?
    pub paused: bool,
}

/// Where the contracts are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ContractAddresses {
    /// Root of trust.
    pub controller: Account,
    /// The token.
    pub livepeer_token: Account,
    /// Gives tokens away on test networks; null elsewhere.
    pub livepeer_token_faucet: Account,
    /// Deposits, reserves, redemption.
    pub ticket_broker: Account,
    /// Rounds.
    pub rounds_manager: Account,
    /// Stake and the active set.
    pub bonding_manager: Account,
    /// Holds stake and fees.
    pub minter: Account,
}

impl EthBroker {
    /// What the contracts say of an orchestrator.
    ///
    /// # Errors
    /// [`ChainError`] when it cannot be read.
    pub async fn orchestrator_info(&self, account: Address) -> Result<OrchestratorInfo, ChainError> {
        let contracts = self.deployment().await?;
        self.of_orchestrators(&contracts, &[account.0]).await?.pop().ok_or(ChainError::Range("number of answers"))
    }

    /// What the contracts say of all orchestrators of the pool, the largest stake first.
    ///
    /// # Errors
    /// [`ChainError`] when it cannot be read.
    pub async fn registered_orchestrators(&self) -> Result<Vec<OrchestratorInfo>, ChainError> {
        let contracts = self.deployment().await?;
        let pool = errand::pool(&self.0.rpc, &contracts).await?;
        let mut all = Vec::with_capacity(pool.len());
        for some in pool.chunks(IN_ONE_REQUEST) {
            all.extend(self.of_orchestrators(&contracts, some).await?);
        }
        Ok(all)
    }

    async fn of_orchestrators(
        &self,
        contracts: &Deployment,
        accounts: &[H160],
    ) -> Result<Vec<OrchestratorInfo>, ChainError> {
        let (bonding, registry, block) = (contracts.bonding_manager, contracts.service_registry, ask::latest);
        let questions: Vec<_> = accounts
            .iter()
            .flat_map(|account| {
                let (transcoder, addr) = (*account, *account);
                [
                    ask::view(bonding, GetTranscoderCall { transcoder }, block()),
                    ask::view(bonding, TranscoderStatusCall { transcoder }, block()),
                    ask::view(bonding, TranscoderTotalStakeCall { transcoder }, block()),
                    ask::view(bonding, IsActiveTranscoderCall { transcoder }, block()),
                    ask::view(registry, GetServiceURICall { addr }, block()),
                ]
            })
            .collect();
        let mut answers = self.0.rpc.batch(&questions).await?.into_iter();
        let mut next = || answers.next();
        let read = |account: &H160| {
            let known = ask::answer::<GetTranscoderCall, GetTranscoderReturn>(Call::Reward, next())?;
            let status = ask::answer::<TranscoderStatusCall, TranscoderStatusReturn>(Call::Reward, next())?.0;
            let stake = ask::answer::<TranscoderTotalStakeCall, TranscoderTotalStakeReturn>(Call::Reward, next())?.0;
            let active = ask::answer::<IsActiveTranscoderCall, IsActiveTranscoderReturn>(Call::Reward, next())?.0;
            let service_uri = ask::answer::<GetServiceURICall, GetServiceURIReturn>(Call::Round, next())?.0;
            Ok(OrchestratorInfo {
                address: Account(Address(*account)),
                service_uri,
                last_reward_round: Number(known.last_reward_round),
                reward_cut: Number(known.reward_cut),
                fee_share: Number(known.fee_share),
                delegated_stake: Number(stake),
                activation_round: Number(known.activation_round),
                deactivation_round: Number(known.deactivation_round),
                last_active_stake_update_round: Number(known.last_active_stake_update_round),
                active,
                status: if status == 1 { "Registered" } else { "Not Registered" },
                price_per_pixel: None,
            })
        };
        accounts.iter().map(read).collect()
    }

    /// What the contracts say of a delegator in this round.
    ///
    /// # Errors
    /// [`ChainError`] when it cannot be read.
    pub async fn delegator_info(&self, account: Address, round: Round) -> Result<DelegatorInfo, ChainError> {
        let bonding = self.deployment().await?.bonding_manager;
        let (delegator, end_round) = (account.0, U256::from(round.0));
        let mut answers = self
            .0
            .rpc
            .batch(&[
                ask::view(bonding, GetDelegatorCall { delegator }, ask::latest()),
                ask::view(bonding, DelegatorStatusCall { delegator }, ask::latest()),
                ask::view(bonding, PendingStakeCall { delegator, end_round }, ask::latest()),
                ask::view(bonding, PendingFeesCall { delegator, end_round }, ask::latest()),
            ])
            .await?
            .into_iter();
        let mut next = || answers.next();
        let known = ask::answer::<GetDelegatorCall, GetDelegatorReturn>(Call::Reward, next())?;
        let status = ask::answer::<DelegatorStatusCall, DelegatorStatusReturn>(Call::Reward, next())?.0;
        let stake = ask::answer::<PendingStakeCall, PendingStakeReturn>(Call::Reward, next())?.0;
        let fees = ask::answer::<PendingFeesCall, PendingFeesReturn>(Call::Reward, next())?.0;
        Ok(DelegatorInfo {
            address: Account(account),
            bonded_amount: Number(known.bonded_amount),
            fees: Number(known.fees),
            delegate_address: Account(Address(known.delegate_address)),
            delegated_amount: Number(known.delegated_amount),
            start_round: Number(known.start_round),
            last_claim_round: Number(known.last_claim_round),
            next_unbonding_lock_id: Number(known.next_unbonding_lock_id),
            pending_stake: Number(stake),
            pending_fees: Number(fees),
            status: match status {
                0 => "Pending",
                1 => "Bonded",
                _ => "Unbonded",
            },
        })
    }

    /// The stake of a delegator that waits to be withdrawn, oldest first.
    ///
    /// # Errors
    /// [`ChainError`] when it cannot be read.
    pub async fn unbonding_locks(&self, account: Address) -> Result<Vec<UnbondingLock>, ChainError> {
        let bonding = self.deployment().await?.bonding_manager;
        let question = ask::view(bonding, GetDelegatorCall { delegator: account.0 }, ask::latest());
        let answer = self.0.rpc.batch(&[question]).await?.pop();
        let known = ask::answer::<GetDelegatorCall, GetDelegatorReturn>(Call::Reward, answer)?;
        let next = ask::small("unbonding lock id", known.next_unbonding_lock_id)?;
        let ids = next.saturating_sub(MAX_LOCKS)..next;
        let lock = |id: u64| GetDelegatorUnbondingLockCall { delegator: account.0, unbonding_lock_id: id.into() };
        let questions: Vec<_> = ids.clone().map(|id| ask::view(bonding, lock(id), ask::latest())).collect();
        let answers = if questions.is_empty() { Vec::new() } else { self.0.rpc.batch(&questions).await? };
        let mut locks = Vec::new();
        for (id, answer) in ids.zip(answers) {
            let lock = ask::answer::<GetDelegatorUnbondingLockCall, GetDelegatorUnbondingLockReturn>(
                Call::Reward,
                Some(answer),
            )?;
            // A lock that was used is empty.
            if !lock.withdraw_round.is_zero() {
                let delegator = Account(account);
                let (amount, withdraw_round) = (Number(lock.amount), Number(lock.withdraw_round));
                locks.push(UnbondingLock { id, delegator, amount, withdraw_round });
            }
        }
        Ok(locks)
    }

    /// The protocol's parameters.
    ///
    /// # Errors
    /// [`ChainError`] when they cannot be read.
    pub async fn protocol_parameters(&self) -> Result<ProtocolParameters, ChainError> {
        let (contracts, named) = (self.deployment().await?, self.contract_addresses().await?);
        let (bonding, rounds, minter) = (contracts.bonding_manager, contracts.rounds_manager, named.minter.0);
        let mut answers = self
            .0
            .rpc
            .batch(&[
                ask::view(bonding, GetTranscoderPoolMaxSizeCall, ask::latest()),
                ask::view(rounds, RoundLengthCall, ask::latest()),
                ask::view(rounds, RoundLockAmountCall, ask::latest()),
                ask::view(bonding, UnbondingPeriodCall, ask::latest()),
                ask::view(minter, InflationCall, ask::latest()),
                ask::view(minter, InflationChangeCall, ask::latest()),
                ask::view(minter, TargetBondingRateCall, ask::latest()),
                ask::view(bonding, GetTotalBondedCall, ask::latest()),
                ask::view(minter, GetGlobalTotalSupplyCall, ask::latest()),
                ask::view(contracts.controller, PausedCall, ask::latest()),
            ])
            .await?
            .into_iter();
        let mut next = || answers.next();
        let places =
            ask::answer::<GetTranscoderPoolMaxSizeCall, GetTranscoderPoolMaxSizeReturn>(Call::Reward, next())?.0;
        let length = ask::answer::<RoundLengthCall, RoundLengthReturn>(Call::Round, next())?.0;
        let lock = ask::answer::<RoundLockAmountCall, RoundLockAmountReturn>(Call::Round, next())?.0;
        let unbonding = ask::answer::<UnbondingPeriodCall, UnbondingPeriodReturn>(Call::Reward, next())?.0;
        let inflation = ask::answer::<InflationCall, InflationReturn>(Call::Reward, next())?.0;
        let change = ask::answer::<InflationChangeCall, InflationChangeReturn>(Call::Reward, next())?.0;
        let target = ask::answer::<TargetBondingRateCall, TargetBondingRateReturn>(Call::Reward, next())?.0;
        let bonded = ask::answer::<GetTotalBondedCall, GetTotalBondedReturn>(Call::Reward, next())?.0;
        let supply = ask::answer::<GetGlobalTotalSupplyCall, GetGlobalTotalSupplyReturn>(Call::Reward, next())?.0;
        let paused = ask::answer::<PausedCall, PausedReturn>(Call::Round, next())?.0;
        Ok(ProtocolParameters {
            num_active_transcoders: Number(places),
            round_length: Number(length),
            round_lock_amount: Number(lock),
            unbonding_period: unbonding,
            inflation: Number(inflation),
            inflation_change: Number(change),
            target_bonding_rate: Number(target),
            total_bonded: Number(bonded),
            total_supply: Number(supply),
            paused,
        })
    }

    /// Where the contracts are, those included that only operators ask about.
    ///
    /// # Errors
    /// [`ChainError`] when the Controller does not tell.
    pub async fn contract_addresses(&self) -> Result<ContractAddresses, ChainError> {
        let contracts = self.deployment().await?;
        let names = ["LivepeerToken", "LivepeerTokenFaucet", "Minter"];
        let questions: Vec<_> = names.into_iter().map(|name| lookup(contracts.controller, name)).collect();
        let mut answers = self.0.rpc.batch(&questions).await?.into_iter();
        let mut next = || {
            let found = ask::answer::<GetContractCall, GetContractReturn>(Call::Round, answers.next())?;
            Ok::<_, ChainError>(Account(Address(found.0)))
        };
        Ok(ContractAddresses {
            controller: Account(contracts.controller),
            livepeer_token: next()?,
            livepeer_token_faucet: next()?,
            ticket_broker: Account(contracts.ticket_broker),
            rounds_manager: Account(contracts.rounds_manager),
            bonding_manager: Account(contracts.bonding_manager),
            minter: next()?,
        })
    }

    /// The tokens an account holds, in the token's smallest unit.
    ///
    /// # Errors
    /// [`ChainError`] when it cannot be read.
    pub async fn token_balance(&self, account: Address) -> Result<Wei, ChainError> {
        let token = self.contract_addresses().await?.livepeer_token.0;
        let question = ask::view(token, BalanceOfCall { account: account.0 }, ask::latest());
        let answer = self.0.rpc.batch(&[question]).await?.pop();
        ask::answer::<BalanceOfCall, BalanceOfReturn>(Call::Reward, answer).map(|balance| Wei(balance.0))
    }

    /// Rounds a gateway waits until it may withdraw its deposit.
    ///
    /// # Errors
    /// [`ChainError`] when it cannot be read.
    pub async fn unlock_period(&self) -> Result<Number, ChainError> {
        let broker = self.deployment().await?.ticket_broker;
        let answer = self.0.rpc.batch(&[ask::view(broker, UnlockPeriodCall, ask::latest())]).await?.pop();
        ask::answer::<UnlockPeriodCall, UnlockPeriodReturn>(Call::Redeem, answer).map(|period| Number(period.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_any_size_stay_numbers() {
        let lock = UnbondingLock {
            id: 3,
            delegator: Account("0x5CbDd86a2FA8Dc4bDdd8a8f69dBa48572EeC07FB".parse().unwrap()),
            amount: Number(U256::MAX),
            withdraw_round: Number(7.into()),
        };
        let text = serde_json::to_string(&lock).unwrap();
        let most = "115792089237316195423570985008687907853269984665640564039457584007913129639935";
        assert_eq!(
            text,
            format!(
                "{{\"ID\":3,\"Delegator\":\"0x5cbdd86a2fa8dc4bddd8a8f69dba48572eec07fb\",\"Amount\":{most},\"WithdrawRound\":7}}"
            )
        );
    }
}
