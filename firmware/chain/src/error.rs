//! Why a question to the contracts brought no usable answer.
use ethers::abi::AbiError;
use livepeer::address::Address;
use livepeer::broker::{BrokerError, FaultClass};
use livepeer::units::Wei;

use crate::config::ConfigError;
use crate::revert::{Call, Revert, classify};
use crate::rpc::RpcError;

/// The longest explanation handed on, in characters; an endpoint's own words are part of it.
const MAX_DETAIL: usize = 400;

/// A question to the chain failed.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// No endpoint answered, or one refused.
    #[error(transparent)]
    Rpc(#[from] RpcError),
    /// The contracts refused.
    #[error("{function} reverted: {revert}")]
    Reverted {
        /// Which function.
        function: &'static str,
        /// How to read the answer.
        call: Call,
        /// The answer.
        revert: Revert,
    },
    /// The answer is not what the function returns.
    #[error("{function} answered with something else than its interface says")]
    Decode {
        /// Which function.
        function: &'static str,
        /// Where it differs.
        #[source]
        source: AbiError,
    },
    /// The Controller does not know a contract we need.
    #[error("the controller at {controller} knows no {name}")]
    NotRegistered {
        /// The Controller asked.
        controller: Address,
        /// The contract's name.
        name: &'static str,
    },
    /// There is no code at an address that must be a contract.
    #[error("there is no contract at {address}, expected the {name}")]
    NoContract {
        /// The address.
        address: Address,
        /// What should be there.
        name: &'static str,
    },
    /// The endpoint reports a block without base fee, so no type-2 transaction can be priced.
    #[error("the latest block has no base fee")]
    NoBaseFee,
    /// Gas costs more than the operator allows.
    #[error("gas costs {base_fee} wei, above the limit of {limit} wei")]
    GasTooDear {
        /// What it costs.
        base_fee: Wei,
        /// What is allowed.
        limit: Wei,
    },
    /// The paying account cannot cover the transaction.
    #[error("account {account} holds {balance} wei, the transaction may need {needed} wei")]
    Balance {
        /// Who pays gas.
        account: Address,
        /// What it has.
        balance: Wei,
        /// What it may need.
        needed: Wei,
    },
    /// The recipient would not be paid.
    #[error("recipient {0} is not in the active set")]
    Inactive(Address),
    /// The ticket is spent.
    #[error("ticket is used")]
    Used,
    /// Two endpoints tell different stories about something final.
    #[error("endpoints disagree about {0}")]
    Disagree(&'static str),
    /// A number of the chain is larger than any real one.
    #[error("{0} is out of range")]
    Range(&'static str),
    /// A price feed tells nothing that could be a price.
    #[error("price feed at {feed}: {reason}")]
    Feed {
        /// The feed's contract.
        feed: Address,
        /// What is wrong.
        reason: &'static str,
    },
    /// The endpoint has fallen behind what it told before.
    #[error("endpoint answered for block {found}, block {seen} was seen before")]
    Behind {
        /// Seen before.
        seen: u64,
        /// Answered now.
        found: u64,
    },
}

impl ChainError {
    /// What to do about it.
    #[must_use]
    pub fn class(&self) -> FaultClass {
        match self {
            Self::Reverted { call, revert, .. } => classify(*call, revert).fault(),
            Self::Rpc(error) if error.needs_operator() => FaultClass::Operator,
            Self::Rpc(RpcError::Response { message, .. }) if message.to_lowercase().contains("insufficient funds") => {
                FaultClass::Operator
            }
            Self::Rpc(_) | Self::Disagree(_) | Self::Behind { .. } | Self::NoBaseFee | Self::GasTooDear { .. } => {
                FaultClass::Transport
            }
            Self::Config(_)
            | Self::NotRegistered { .. }
            | Self::NoContract { .. }
            | Self::Balance { .. }
            | Self::Feed { .. } => FaultClass::Operator,
            Self::Inactive(_) => FaultClass::WaitForActiveSet,
            Self::Used => FaultClass::Done,
            Self::Decode { .. } | Self::Range(_) => FaultClass::Bug,
        }
    }

    /// Must a person change the configuration before anything can work?
    #[must_use]
    pub fn needs_operator(&self) -> bool {
        match self {
            Self::Rpc(error) => error.needs_operator(),
            Self::Config(_) | Self::NotRegistered { .. } | Self::NoContract { .. } => true,
            _ => false,
        }
    }
}

impl From<ChainError> for BrokerError {
    fn from(error: ChainError) -> Self {
        let mut detail = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(inner) = cause {
            detail.push_str(": ");
            detail.push_str(&inner.to_string());
            cause = inner.source();
        }
        Self { class: error.class(), detail: detail.chars().take(MAX_DETAIL).collect() }
    }
}
