//! Real programs against real peers.

mod chain;
mod fleet;
mod node;
mod offchain;
mod onchain;
mod shipped;
