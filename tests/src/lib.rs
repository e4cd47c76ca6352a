//! Shared pieces of the tests, the benches and the demo: real peers started, stopped and looked at.

pub mod anvil;
pub mod bins;
pub mod broker;
pub mod cluster;
pub mod devchain;
pub mod media;
pub mod powercut;
pub mod segments;
