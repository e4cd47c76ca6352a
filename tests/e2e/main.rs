//! Real programs against real peers.

mod chain;
mod engines;
mod fleet;
mod gateway;
mod media;
mod node;
mod offchain;
mod onchain;
mod orchestrator;
mod remote;
mod shipped;
mod signature;
mod thermal;
