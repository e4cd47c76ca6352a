//! Stand-in for `rustls-webpki` 0.102: everything is the maintained 0.103.
pub use real::*;
