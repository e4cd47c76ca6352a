//! The fleet contract `millrace/v1` as pure data: what boxes and the controller say to each other, and nothing of how.
//!
//! | Question | Module |
//! |---|---|
//! | Who speaks? | [`name`] |
//! | Where does a message go? | [`topic`] |
//! | What may it say? | [`payload`], with [`registry`] for metrics and [`event`] for events |
//! | How are bytes from a peer read? | [`strict`] |
//! | How is an order signed, and who obeys? | [`dsse`], [`command`] |
//! | How does a version reach a whole fleet? | [`campaign`], at the pace of [`campaign::pacer`] |
//! | What is a version of the system, and who says so? | [`version`], [`release`] |
//! | Where does a box stand? | [`site`] |
//! | How does a machine become a box? | [`enrol`] |
//! | Is the box there? | [`presence`] |
//! | What does the controller's HTTP API answer? | [`api`] |

pub mod api;
pub mod campaign;
pub mod command;
pub mod dsse;
pub mod enrol;
pub mod event;
pub mod name;
pub mod patch;
pub mod payload;
pub mod presence;
pub mod registry;
pub mod release;
pub mod site;
pub mod strict;
pub mod topic;
pub mod version;

pub use name::{BoxId, Epoch, FleetId};
pub use presence::Presence;
pub use topic::{Leaf, Topic};
