//! Annex B byte streams: NAL units between start codes, and access units made of them.
use std::ops::Range;

use crate::demux::VideoCodec;
use crate::{h264, h265};

/// A NAL unit in a byte stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nal {
    /// Where its three-byte start code begins.
    pub start: usize,
    /// Where its first byte is.
    pub body: usize,
    /// Where it ends: at the next start code or the end of the stream.
    pub end: usize,
}

impl Nal {
    /// The unit's bytes in the stream it was found in.
    #[must_use]
    pub fn bytes<'a>(&self, stream: &'a [u8]) -> &'a [u8] {
        stream.get(self.body..self.end).unwrap_or_default()
    }
}

/// Finds the NAL units of a byte stream, in order.
pub fn units(stream: &[u8]) -> impl Iterator<Item = Nal> {
    let mut next = start_code(stream, 0);
    std::iter::from_fn(move || {
        let start = next?;
        let body = start + 3;
        next = start_code(stream, body);
        // A start code may have a zero byte in front that belongs to neither side.
        let mut end = next.unwrap_or(stream.len());
        if next.is_some() && end > body && stream.get(end - 1) == Some(&0) {
            end -= 1;
        }
        Some(Nal { start, body, end })
    })
}

/// The next `00 00 01` at or after `from`.
fn start_code(stream: &[u8], from: usize) -> Option<usize> {
    let mut at = from + 2;
    while let Some(&byte) = stream.get(at) {
        match byte {
            0 => at += 1,
            1 if stream.get(at - 2..at) == Some(&[0, 0]) => return Some(at - 2),
            _ => at += 3,
        }
    }
    None
}

/// One coded picture with everything that goes before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Its bytes in the stream.
    pub range: Range<usize>,
    /// Where its first start code begins; equal to the range's start or one more.
    pub anchor: usize,
    /// Can a decoder start here?
    pub keyframe: bool,
}

/// What a NAL unit means for where access units begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Always the first of an access unit.
    Delimiter,
    /// Goes before the picture's first slice: parameter sets, messages. True when a decoder can start after it.
    Prefix { recovery: bool },
    /// A slice that begins a picture.
    First { keyframe: bool },
    /// A slice that goes on with the picture, or its second field.
    Further,
    /// Whatever belongs to the picture before it.
    Suffix,
}

/// Splits a byte stream into access units. Bytes before the first start code are dropped.
#[must_use]
pub fn access_units(codec: VideoCodec, stream: &[u8]) -> Vec<Span> {
    let mut h264 = h264::Slices::default();
    let mut h265 = h265::Slices;
    let mut spans: Vec<Span> = Vec::new();
    // Start of the unit being gathered, and of a prefix that may belong to the next one.
    let mut open: Option<Span> = None;
    let mut has_slice = false;
    let mut prefix: Option<(Span, bool)> = None;
    for nal in units(stream) {
        let lead = usize::from(nal.start > 0 && stream.get(nal.start - 1) == Some(&0));
        let fresh = || Span { range: nal.start - lead..nal.start, anchor: nal.start, keyframe: false };
        let role = match codec {
            VideoCodec::H264 => h264.role(nal.bytes(stream)),
            VideoCodec::H265 => h265.role(nal.bytes(stream)),
            VideoCodec::Vp8 | VideoCodec::Vp9 | VideoCodec::Av1 | VideoCodec::Other(_) => Role::Suffix,
        };
        match role {
            Role::Delimiter => {
                prefix = None;
                close(&mut spans, open.take(), nal.start - lead);
                has_slice = false;
                open = Some(fresh());
            }
            Role::Prefix { recovery } => {
                if has_slice {
                    let (_, seen) = prefix.get_or_insert_with(|| (fresh(), false));
                    *seen |= recovery;
                } else {
                    let unit = open.get_or_insert_with(fresh);
                    unit.keyframe |= recovery;
                }
            }
            Role::First { keyframe } => {
                if has_slice {
                    let mut next = match prefix.take() {
                        Some((mut span, recovery)) => {
                            span.keyframe |= recovery;
                            span
                        }
                        None => fresh(),
                    };
                    next.keyframe |= keyframe;
                    close(&mut spans, open.take(), next.range.start);
                    open = Some(next);
                } else {
                    open.get_or_insert_with(fresh).keyframe |= keyframe;
                }
                has_slice = true;
            }
            Role::Further => {
                // A prefix in the middle of a picture belongs to that picture.
                prefix = None;
                open.get_or_insert_with(fresh);
                has_slice = true;
            }
            Role::Suffix => {}
        }
    }
    if has_slice {
        close(&mut spans, open, stream.len());
    }
    spans
}

fn close(spans: &mut Vec<Span>, unit: Option<Span>, end: usize) {
    if let Some(mut unit) = unit
        && end > unit.range.start
    {
        unit.range.end = end;
        spans.push(unit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_found_with_both_start_codes() {
        let stream = [9, 0, 0, 0, 1, 0x67, 5, 0, 0, 1, 0x68, 0, 0, 0, 1, 0x65, 1];
        let found: Vec<_> = units(&stream).map(|n| n.bytes(&stream).to_vec()).collect();
        assert_eq!(found, vec![vec![0x67, 5], vec![0x68], vec![0x65, 1]]);
    }

    #[test]
    fn a_picture_of_two_slices_stays_one_unit() {
        // first_mb = 0 is the bit 1; first_mb = 1 is 010.
        let idr = [0, 0, 1, 0x65, 0x88, 0x80];
        let more = [0, 0, 1, 0x65, 0x48, 0x80];
        let stream: Vec<u8> = [&idr[..], &more, &idr, &more].concat();
        let spans = access_units(VideoCodec::H264, &stream);
        assert_eq!(spans.iter().map(|s| s.range.clone()).collect::<Vec<_>>(), vec![0..12, 12..24]);
        assert!(spans.iter().all(|s| s.keyframe));
    }

    #[test]
    fn a_message_between_the_slices_of_a_picture_does_not_split_it() {
        let idr = [0, 0, 1, 0x65, 0x88, 0x80];
        let sei = [0, 0, 1, 6, 5, 1, 0, 0x80];
        let more = [0, 0, 1, 0x65, 0x48, 0x80];
        let stream: Vec<u8> = [&idr[..], &sei, &more].concat();
        assert_eq!(access_units(VideoCodec::H264, &stream).len(), 1);
    }
}
