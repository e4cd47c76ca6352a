//! Where the contracts are: looked up in the Controller, never taken from a peer.
//!
//! *Source:* livepeer-chain §1, §2.
use ethers::types::{Bytes, H160};
use livepeer::address::{Address, keccak256};
use serde_json::json;

use crate::ask;
use crate::config::ARBITRUM_ONE;
use crate::contracts::{GetContractCall, GetContractReturn};
use crate::error::ChainError;
use crate::revert::Call;
use crate::rpc::Rpc;

/// Implementations behind the proxies of Arbitrum One that this build was written against.
const KNOWN_TARGETS: &[(&str, &str)] = &[
    ("BondingManagerTarget", "0xbe197fcbfe74de8f10460ea61644b006cc0f0bd2"),
    ("TicketBrokerTarget", "0x3b68fbf89d121278b216a55a4252cac820d552b7"),
];

/// The contracts of one deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deployment {
    /// Root of trust.
    pub controller: Address,
    /// Deposits, reserves, redemption.
    pub ticket_broker: Address,
    /// Rounds.
    pub rounds_manager: Address,
    /// Stake and the active set.
    pub bonding_manager: Address,
    /// Service URIs.
    pub service_registry: Address,
}

impl Deployment {
    /// Asks the Controller for every contract and checks that each has code.
    ///
    /// # Errors
    /// [`ChainError::NoContract`] and [`ChainError::NotRegistered`] when this is no deployment; [`ChainError::Rpc`]
    /// when no endpoint answers.
    pub async fn resolve(rpc: &Rpc, controller: Address, chain_id: u64) -> Result<Self, ChainError> {
        require_code(rpc, &[("Controller", controller)]).await?;
        let names = ["TicketBroker", "RoundsManager", "BondingManager", "ServiceRegistry"];
        let targets = KNOWN_TARGETS.iter().map(|(name, _)| *name);
        let questions: Vec<_> = names.into_iter().chain(targets).map(|name| lookup(controller, name)).collect();
        let mut answers = rpc.batch(&questions).await?.into_iter();
        let mut next = || ask::answer::<GetContractCall, GetContractReturn>(Call::Round, answers.next()).map(|r| r.0);
        let mut found = Vec::with_capacity(names.len());
        for name in names {
            let address: H160 = next()?;
            if address.is_zero() {
                return Err(ChainError::NotRegistered { controller, name });
            }
            found.push((name, Address(address)));
        }
        for (name, known) in KNOWN_TARGETS {
            let target = Address(next()?);
            if chain_id == ARBITRUM_ONE && !target.to_string().eq_ignore_ascii_case(known) {
                tracing::warn!(name, %target, known, "contract was replaced since this build, simulating every call");
            }
        }
        require_code(rpc, &found).await?;
        let address = |at: usize| found.get(at).map_or(Address::NULL, |(_, address)| *address);
        Ok(Self {
            controller,
            ticket_broker: address(0),
            rounds_manager: address(1),
            bonding_manager: address(2),
            service_registry: address(3),
        })
    }
}

/// The id under which the Controller keeps a name.
#[must_use]
pub fn contract_id(name: &str) -> [u8; 32] {
    keccak256(name.as_bytes()).0
}

pub(crate) fn lookup(controller: Address, name: &str) -> (&'static str, serde_json::Value) {
    ask::view(controller, GetContractCall { id: contract_id(name) }, ask::latest())
}

async fn require_code(rpc: &Rpc, contracts: &[(&'static str, Address)]) -> Result<(), ChainError> {
    let method = "eth_getCode";
    let questions: Vec<_> = contracts.iter().map(|(_, address)| (method, json!([address.0, "latest"]))).collect();
    for (answer, (name, address)) in rpc.batch(&questions).await?.into_iter().zip(contracts) {
        let code: Bytes =
            serde_json::from_value(answer?).map_err(|source| crate::rpc::RpcError::Unexpected { method, source })?;
        if code.is_empty() {
            return Err(ChainError::NoContract { address: *address, name });
        }
    }
    Ok(())
}
