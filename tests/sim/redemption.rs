//! redemption.
