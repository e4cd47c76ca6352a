//! The binary form: one bit string without alignment, of a size known beforehand.
//!
//! ```text
//! header 274 bits │ per segment 1344: first, last frame, their times, five bags of words │ compression 1 │ per frame 689
//! ```

use crate::bits::BitString;
use crate::frame::{DIGIT_BYTES, FrameSignature, WORD_VALUES, WORDS};

/// Frames from the start of one segment to the start of the next; each segment covers twice as many.
const SEGMENT_STEP: usize = 45;

const HEADER_BITS: usize = 274;
const SEGMENT_BITS: usize = 3 * 32 + 1 + 32 + WORDS * WORD_VALUES as usize;
const FRAME_BITS: usize = 1 + 32 + 8 + 8 * WORDS + 8 * DIGIT_BYTES;

/// The part of the header that does not follow from the frames.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Head {
    /// The last pixel's column and row, which 16 bits hold for every size a signer takes.
    pub(crate) last_pixel: (u16, u16),
    /// Ticks per second; the file has room for the low 16 bits.
    pub(crate) media_time_unit: u16,
}

/// The file of at least one frame and at most 2³² − 1 of them.
pub(crate) fn write(head: Head, frames: &[FrameSignature]) -> Vec<u8> {
    let segments = frames.len().div_ceil(SEGMENT_STEP);
    let mut bits = BitString::with_capacity(HEADER_BITS + segments * SEGMENT_BITS + 1 + frames.len() * FRAME_BITS);
    write_head(&mut bits, head, frames, number(segments));
    for segment in 0..segments {
        write_segment(&mut bits, frames, segment * SEGMENT_STEP);
    }
    let compressed = 0;
    bits.push(compressed, 1);
    for frame in frames {
        write_frame(&mut bits, frame);
    }
    bits.into_bytes()
}

fn write_head(bits: &mut BitString, head: Head, frames: &[FrameSignature], segments: u32) {
    let (regions, whole_picture, first_pixel, start_frame, timed, start_time) = (1, 1, 0, 0, 1, 0);
    bits.push(regions, 32);
    bits.push(whole_picture, 1);
    bits.push(first_pixel, 32);
    bits.push(u32::from(head.last_pixel.0), 16);
    bits.push(u32::from(head.last_pixel.1), 16);
    bits.push(start_frame, 32);
    bits.push(number(frames.len()), 32);
    bits.push(u32::from(head.media_time_unit), 16);
    bits.push(timed, 1);
    bits.push(start_time, 32);
    bits.push(frames.last().map_or(0, |frame| frame.pts), 32);
    bits.push(segments, 32);
}

/// The coarse signature of the frames from `first` on: which values each word takes among them.
fn write_segment(bits: &mut BitString, frames: &[FrameSignature], first: usize) {
    let last = (first + 2 * SEGMENT_STEP).min(frames.len()) - 1;
    let covered = &frames[first..=last];
    let timed = 1;
    bits.push(number(first), 32);
    bits.push(number(last), 32);
    bits.push(timed, 1);
    bits.push(frames[first].pts, 32);
    bits.push(frames[last].pts, 32);
    for word in 0..WORDS {
        let mut bag = [0u32; WORD_VALUES as usize];
        for frame in covered {
            bag[usize::from(frame.words[word])] = 1;
        }
        for bit in bag {
            bits.push(bit, 1);
        }
    }
}

fn write_frame(bits: &mut BitString, frame: &FrameSignature) {
    let timed = 1;
    bits.push(timed, 1);
    bits.push(frame.pts, 32);
    bits.push(u32::from(frame.confidence), 8);
    for byte in frame.words.iter().chain(&frame.digits) {
        bits.push(u32::from(*byte), 8);
    }
}

/// What a file says of itself before its frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overview {
    /// Pixels per row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Frames signed.
    pub frames: u32,
}

impl Overview {
    /// Reads the header of a file; `None` when it is shorter than one.
    #[must_use]
    pub fn read(file: &[u8]) -> Option<Self> {
        let field = |first: usize, bits: usize| {
            (first..first + bits)
                .try_fold(0u32, |value, bit| Some(value << 1 | u32::from(file.get(bit / 8)? >> (7 - bit % 8) & 1)))
        };
        let (last_column, last_row) = (field(65, 16)?, field(81, 16)?);
        Some(Self { width: last_column + 1, height: last_row + 1, frames: field(129, 32)? })
    }
}

fn number(frames: usize) -> u32 {
    u32::try_from(frames).expect("a signer takes no more frames than 32 bits count")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_read_as_it_was_written() {
        let mut signer = crate::Signer::new(1280, 50, crate::TimeBase::MPEG).expect("a size");
        (0..3).for_each(|pts| signer.push(pts, &[7; 1280 * 50], 1280).expect("a frame"));
        let file = signer.finish();
        assert_eq!(Overview::read(&file), Some(Overview { width: 1280, height: 50, frames: 3 }));
        assert_eq!(Overview::read(&file[..20]), None);
    }

    #[test]
    fn the_parts_have_the_sizes_of_the_vectors() {
        let vectors: serde_json::Value =
            serde_json::from_str(include_str!("../../../tests/vectors/signature.json")).expect("the vectors are JSON");
        let layout = serde_json::json!({
            "header_bits": HEADER_BITS,
            "per_segment_bits": SEGMENT_BITS,
            "compression_flag_bits": 1,
            "per_frame_bits": FRAME_BITS,
            "padding": "zero bits up to a whole byte",
        });
        assert_eq!(vectors["bit_layout"], layout);
    }
}
