//! The engines: which elements decode, scale and encode, and how each is set up.
//!
//! Walk 1, step 8. All of it is data: [`table`] holds a row for each way to decode and encode, `recipe` turns a
//! row and a job's wishes into properties and sets them, [`route`] says which rows go together. Decoder, scaler
//! and encoder are chosen apart: many cards and boards decode in silicon and have no encoder. What goes on from one
//! segment to the next waits in `warm`.
mod codec;
mod recipe;
pub(crate) mod route;
pub(crate) mod table;
mod tuning;
mod warm;

pub use codec::Codec;
pub(crate) use recipe::{Wishes, apply};
pub use route::{Engine, UnknownEngine};
pub use tuning::{Tuning, UnknownSetting};
pub(crate) use warm::Contexts;

#[cfg(test)]
mod golden;
#[cfg(test)]
mod plugins;
#[cfg(test)]
mod tests;
