//! What the node may ask of the signer: one closed enum over a Unix socket, and nothing else.
//!
//! Walk 1, step 10 and walk 2, step 6. [`request`] holds the questions and answers, [`frame`] how they travel,
//! [`client`] how the node asks. The other end is `millrace-signer`, which alone holds the hot key.

pub mod client;
pub mod frame;
pub mod request;

pub use client::{SignedTransaction, SignerClient, SignerError};
pub use livepeer::transaction::Transaction;
pub use request::{Identity, MAX_PING, Refusal, Request, Response, Usage};
