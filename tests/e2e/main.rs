//! Real programs against real peers.

mod chain;
mod engines;
mod enrol;
mod fleet;
mod gateway;
mod hostile;
mod import;
mod media;
mod node;
mod offchain;
mod onchain;
mod operator;
mod orchestrator;
mod orders;
mod remote;
mod shipped;
mod signature;
#[expect(dead_code, clippy::unwrap_used, reason = "the simulation of redemptions uses more of it; tests")]
#[path = "../sim/redemption/chain.rs"]
mod sim_chain;
mod thermal;
mod update;
