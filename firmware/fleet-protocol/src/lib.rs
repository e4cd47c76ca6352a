//! The fleet contract `millrace/v1` as pure data: what boxes and the controller say to each other, and nothing of how.

pub mod api;
pub mod presence;
