//! Serve gateways: sessions, admission, worker pool, redemption driver.
//!
//! Walk 1 starts at [`server`] and runs through [`segment`]; walk 2 continues in [`redeemer`]; walk 4 starts at
//! [`pool`]. What is refused, and in which words, stands in [`reject`].

pub mod admission;
pub mod availability;
pub mod config;
mod delivery;
pub mod engines;
pub mod info;
pub mod node;
mod object_store;
pub mod outbound;
pub mod payment;
pub mod pool;
pub mod prices;
pub mod pricing;
pub mod redeemer;
pub mod reject;
pub mod remote;
pub mod rendition_store;
pub mod segment;
pub mod server;
pub mod session;
pub mod sign;
pub mod status;
pub mod tls;
mod upload;
mod webhook;

pub use config::{Config, PaymentConfig, ServiceUri};
pub use node::{Orchestrator, Parts};
pub use payment::Till;
pub use redeemer::{Redeemer, RedeemerConfig};
pub use reject::Rejection;
pub use sign::{SignError, Signer};
