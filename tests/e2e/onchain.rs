//! onchain.
