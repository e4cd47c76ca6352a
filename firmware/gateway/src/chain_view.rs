//! What a gateway may know of the chain. Without it, offers are checked as far as they speak for themselves.
use livepeer::address::H256;
use livepeer::units::{L1Block, Round, Wei};

/// The chain and the gateway's own standing, as last seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainSnapshot {
    /// Latest L1 block.
    pub l1_block: L1Block,
    /// Last initialised round.
    pub round: Round,
    /// Hash the chain stores for that round.
    pub round_block_hash: H256,
    /// The gateway's deposit.
    pub deposit: Wei,
    /// The gateway's reserve.
    pub reserve: Wei,
    /// Is the gateway unlocking its funds?
    pub unlocking: bool,
}

/// Somebody who watches the chain for the gateway.
pub trait ChainView: Send + Sync + std::fmt::Debug {
    /// The chain as last seen; `None` before the first read.
    fn snapshot(&self) -> Option<ChainSnapshot>;
}
