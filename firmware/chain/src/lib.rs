//! The contracts as a [`livepeer::broker::Broker`]: heads, senders' funds, redemptions, receipts.
//!
//! Walk 2, steps 3, 6 and 7. The only crate that knows `ethers`; it holds no key and decides nothing about money.
//! Start at [`EthBroker`]; [`rpc`] is the way to the endpoints, [`revert`] says what a refusal means.

mod ask;
mod batch;
mod broker;
mod config;
mod confirm;
pub mod contracts;
mod deployment;
mod errand;
mod error;
mod gas;
mod head;
mod payout;
mod price_feed;
mod redemption;
pub mod revert;
pub mod rpc;

pub use batch::batch_calldata;
pub use broker::{Clock, EthBroker, GasBounds, inquiry};
pub use config::{ARBITRUM_CONTROLLER, ARBITRUM_ONE, ChainConfig, ConfigError, Endpoint, ParseEndpointError};
pub use deployment::{Deployment, contract_id};
pub use error::ChainError;
pub use payout::{claimable_reserve, payout};
pub use redemption::redeem_calldata;
pub use rpc::EndpointHealth;
