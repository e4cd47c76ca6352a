//! The Livepeer protocol as pure functions: messages, tickets, prices, profiles.
//!
//! No clock, no chance, no I/O: time and randomness are arguments, results are values. Start at
//! [`ticket`] for money, at [`wire`] for messages, at [`profile`] for pixels.

pub mod address;
pub mod broker;
pub mod capability;
pub mod credentials;
pub mod multipart;
pub mod params;
pub mod price;
pub mod profile;
pub mod recipient_rand;
pub mod redemption;
pub mod signature;
pub mod ticket;
pub mod transaction;
pub mod units;
pub mod wire;
