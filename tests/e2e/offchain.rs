//! offchain.
