//! The wire: generated messages, and conversions into the types the rest of the product uses.
//!
//! Parsed before trusted: nothing past this module sees a number that does not fit its type.
//!
//! *Source:* livepeer-wire §2.

#[expect(missing_docs, clippy::all, reason = "generated from livepeer.proto")]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/net.rs"));
}

/// The messages, under the protocol's own names.
pub mod net {
    pub use super::generated::*;
}

mod convert;

pub use convert::{
    SegmentMeta, WireError, auth_token_from_wire, auth_token_to_wire, capabilities_to_wire, params_from_wire,
    params_to_wire, payment_from_wire, payment_to_wire, price_to_wire, profile_from_wire, profile_to_wire,
    profiles_into_seg_data, segment_from_wire,
};
