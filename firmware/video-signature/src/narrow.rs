//! Luma of 10 or 12 bits as 8 bits, as FFmpeg narrows it in front of its filter.
//!
//! The filter takes 8-bit pictures only, so FFmpeg puts its scaler before it, which spreads the bits it drops over
//! the picture by an ordered pattern. A signature is only the same when that is the same. The patterns were measured:
//! every value of 10 and 12 bits was sent through FFmpeg 5.1 at every position (`tests/vectors.rs` compares them anew).
//! Only limited range is narrowed so; pictures of full range are rescaled, which is not done here.

use crate::Error;

/// What is added before the low bits are dropped, by row and column.
type Pattern = [[u16; 4]; 4];

const TEN: Pattern = [[1, 2, 1, 2], [3, 0, 3, 0], [1, 2, 1, 2], [3, 0, 3, 0]];
const TWELVE: Pattern = [[4, 8, 7, 11], [12, 0, 15, 3], [6, 10, 5, 9], [14, 2, 13, 1]];

/// Narrows a plane of little-endian samples of `depth` bits, whose rows start `stride` bytes apart; the result has no
/// gaps between its rows. Bits above the depth are ignored.
///
/// # Errors
/// [`Error::Depth`] for another depth than 10 or 12, [`Error::StrideTooNarrow`] or [`Error::PlaneTooShort`].
pub fn little_endian(plane: &[u8], stride: usize, size: (usize, usize), depth: u32) -> Result<Vec<u8>, Error> {
    let pattern = match depth {
        10 => &TEN,
        12 => &TWELVE,
        _ => return Err(Error::Depth { depth }),
    };
    let (width, height) = size;
    if width == 0 || height == 0 {
        return Ok(Vec::new());
    }
    if stride / 2 < width {
        return Err(Error::StrideTooNarrow { stride, width });
    }
    let needed = stride.saturating_mul(height - 1).saturating_add(width * 2);
    if plane.len() < needed {
        return Err(Error::PlaneTooShort { length: plane.len(), needed });
    }
    let mut narrowed = Vec::with_capacity(width * height);
    for (row, add) in plane.chunks(stride).take(height).zip(pattern.iter().cycle()) {
        let (samples, _) = row.as_chunks::<2>();
        let samples = samples.iter().take(width).zip(add.iter().cycle());
        narrowed.extend(samples.map(|(sample, add)| one(u16::from_le_bytes(*sample), *add, depth)));
    }
    Ok(narrowed)
}

fn one(sample: u16, add: u16, depth: u32) -> u8 {
    let sample = sample & ((1 << depth) - 1);
    let rounded = (sample + add) >> (depth - 8);
    // The brightest samples round to 256.
    u8::try_from(rounded).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ends_of_the_range_stay_and_the_middle_is_spread() {
        let plane: Vec<u8> = [0u16, 1023, 514, 514].iter().flat_map(|v| v.to_le_bytes()).collect();
        assert_eq!(little_endian(&plane, 4, (2, 2), 10), Ok(vec![0, 255, 129, 128]));
        assert_eq!(little_endian(&[0xff, 0x0f], 2, (1, 1), 12), Ok(vec![255]));
    }

    #[test]
    fn planes_that_are_too_small_are_refused() {
        assert_eq!(little_endian(&[0; 8], 3, (2, 2), 10), Err(Error::StrideTooNarrow { stride: 3, width: 2 }));
        assert_eq!(little_endian(&[0; 7], 4, (2, 2), 10), Err(Error::PlaneTooShort { length: 7, needed: 8 }));
        assert_eq!(little_endian(&[0; 8], 4, (2, 2), 16), Err(Error::Depth { depth: 16 }));
        assert_eq!(little_endian(&[], 0, (0, 10), 10), Ok(Vec::new()));
    }
}
