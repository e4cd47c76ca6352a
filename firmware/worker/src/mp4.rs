//! MP4 in and out: the boxes a segment needs; fragments are read but not written.
//!
//! Walk 1, step 8, for gateways that send or want MP4. Inside the worker everything is as in a transport
//! stream: pictures of H.264 and HEVC have start codes and carry their parameter sets.
mod boxes;
mod describe;
mod read;
mod samples;
mod write;

pub(crate) use boxes::child;
pub(crate) use read::{is_mp4, picture_clock, read};
pub(crate) use write::write;

/// A box of this type around `body`.
pub(crate) fn boxed(kind: &[u8; 4], body: &[&[u8]]) -> Vec<u8> {
    let length = 8 + body.iter().map(|b| b.len()).sum::<usize>();
    let mut out = Vec::with_capacity(length);
    out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(kind);
    body.iter().for_each(|b| out.extend_from_slice(b));
    out
}

/// A box that says its version and flags first.
pub(crate) fn full(kind: &[u8; 4], version: u8, flags: u32, body: &[&[u8]]) -> Vec<u8> {
    let head = (u32::from(version) << 24 | flags & 0xff_ffff).to_be_bytes();
    let mut all: Vec<&[u8]> = vec![&head];
    all.extend_from_slice(body);
    boxed(kind, &all)
}
