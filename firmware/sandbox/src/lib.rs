//! The wall around a worker and the one slot through it.
//!
//! Walk 4 from both sides: the node's ([`launch`](launch::launch), [`Worker`](launch::Worker)) and the
//! worker's ([`jail`], [`lockdown`]). Between them stand one [`channel`] and the [`message`]s on it; media
//! passes as [`memfd`]s.

pub mod channel;
pub mod jail;
pub mod launch;
pub mod lockdown;
pub mod memfd;
pub mod message;
pub mod preset;
pub mod report;
