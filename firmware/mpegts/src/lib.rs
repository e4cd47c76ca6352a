//! MPEG-TS in and out, audio packets byte for byte.
//!
//! Walk 1, step 8: the worker takes a segment apart with [`demux()`] and puts each rendition together with
//! [`mux()`]; the gateway cuts a file into segments with [`segment`] and
//! a stream that is still being made with [`live`]. Everything here is a pure function of
//! its input bytes, which come from strangers: nothing panics on them, and memory stays within a small
//! multiple of the input.
#![forbid(unsafe_code)]

pub mod av1;
mod bits;
pub mod clock;
pub mod demux;
pub mod h264;
pub mod h265;
pub mod live;
pub mod mux;
pub mod nal;
mod packet;
mod pes;
mod psi;
pub mod segment;
pub mod vpx;

pub use clock::Ticks;
pub use demux::{AccessUnit, AudioInfo, AudioPacket, AudioTrack, Demuxed, Error, VideoCodec, VideoTrack, demux};
pub use mux::{Muxer, Plan, VideoUnit, mux};
