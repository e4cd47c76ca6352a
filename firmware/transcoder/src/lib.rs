//! Transcode for orchestrators elsewhere: a box behind NAT dials out, takes segments, posts renditions.
//!
//! Nothing listens here. [`link`] keeps the connection to one orchestrator, and the list of them is in order of
//! preference; [`job`] is one segment, from its notice to its renditions; [`config`] is what an operator may set.
//! Who transcodes is the same pool of jailed workers that serves gateways, behind the same trait.
//!
//! *Source:* livepeer-wire §4.5, §4.6, §8.

pub mod backoff;
mod board;
pub mod config;
mod http;
pub mod job;
pub mod link;
mod outbound;
mod sessions;
mod tls;

pub use config::{Config, ConfigError};
pub use outbound::Outbound;
pub use tls::TrustError;
