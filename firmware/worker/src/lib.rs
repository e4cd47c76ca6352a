//! The media engine of `millrace-worker`: a segment is decoded once, every rendition scaled and encoded, the
//! sound put back untouched.
//!
//! Walk 1, steps 7 to 9; walk 4, steps 2 to 4. The library is what the program and its tests share.
#![forbid(unsafe_code)]

mod container;
mod decode;
mod encode;
mod engine;
mod ladder;
mod mp4;
mod output;
mod pipeline;
mod probe;
mod resample;
mod scale;
mod serve;
mod signature;
mod sound;
mod source;
mod stage;
mod time;
mod usage;

/// Can this segment be taken apart? Nothing is decoded; the fuzzer reaches the readers through this.
pub fn read_container(input: &[u8]) -> bool {
    container::read(input).is_ok()
}

pub use engine::{Codec, Engine, Tuning, UnknownEngine, UnknownSetting};
pub use pipeline::{Failure, Output, transcode};
pub use probe::{Findings, Unfit, probe, prove};
pub use serve::{Ended, run, run_proof, scan};
