//! The MPEG-7 video signature (ISO/IEC 15938-3) of a sequence of luma frames.
//!
//! Walk 1, step 8: when a job asks for a perceptual hash, every frame that enters an encoder also goes through
//! a [`Signer`], and the bytes it ends in travel beside the rendition. They are, bit for bit, those of FFmpeg's
//! `signature=format=binary` filter: a gateway compares the files of two orchestrators to tell whether both
//! show the same pictures.
//!
//! ```text
//! luma plane ── cells: 32×32 sums ── means: weights, summed-area table ── frame: 380 elements (geometry),
//!               ternary digits, words, confidence ── file: header, bags of words per segment, frames
//! ```
//!
//! A frame is reduced to [`FRAME_BYTES`] bytes at once, so memory grows with the number of frames and not with
//! their size. Everything is a pure function of the frames; [`y4m`] reads them from a YUV4MPEG2 stream.
#![forbid(unsafe_code)]

mod bits;
mod cells;
mod compare;
mod file;
mod frame;
mod geometry;
mod means;
pub mod narrow;
#[cfg(test)]
mod noise;
mod signer;
pub mod y4m;

pub use compare::{Match, ReadError, Signature};
pub use file::Overview;
pub use frame::FRAME_BYTES;
pub use signer::{Error, LARGEST_SIDE, SMALLEST_SIDE, Signer, TimeBase};
