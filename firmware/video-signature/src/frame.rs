//! One frame reduced to its signature: 380 ternary digits, five words, a confidence.

use crate::cells::Sums;
use crate::geometry::{AVERAGES, CATEGORIES, ELEMENTS, elements};
use crate::means::{Scale, Table};

/// Bytes a [`Signer`](crate::Signer) keeps of each frame: time, confidence, words, digits.
pub const FRAME_BYTES: usize = size_of::<FrameSignature>();
const _: () = assert!(FRAME_BYTES <= 90);

/// Ternary digits in a byte: 3⁵ = 243 values.
const DIGITS_PER_BYTE: usize = 5;

/// Words of a frame; each is a hash of it, made for finding candidates quickly.
pub(crate) const WORDS: usize = 5;

/// Values a word may take.
pub(crate) const WORD_VALUES: u32 = 243;

/// Bytes the digits of a frame fill.
pub(crate) const DIGIT_BYTES: usize = ELEMENTS / DIGITS_PER_BYTE;

/// The elements whose digits make up each word, most significant first.
const WORD_ELEMENTS: [[usize; DIGITS_PER_BYTE]; WORDS] = [
    [210, 217, 219, 274, 334],
    [44, 175, 233, 270, 273],
    [57, 70, 103, 237, 269],
    [100, 285, 295, 337, 354],
    [101, 102, 111, 275, 296],
];

/// What remains of a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FrameSignature {
    /// The low half of the presentation time, which is all the file has room for.
    pub(crate) pts: u32,
    /// How much the frame has to tell: 0 for an even picture.
    pub(crate) confidence: u8,
    pub(crate) words: [u8; WORDS],
    pub(crate) digits: [u8; DIGIT_BYTES],
}

impl FrameSignature {
    /// The signature of the frame with these cell sums.
    pub(crate) fn new(pts: u32, sums: &Sums, scale: &Scale) -> Self {
        let values = values(&scale.table(sums), scale);
        let digits = ternary(&values);
        let (packed, _) = digits.as_chunks();
        Self {
            pts,
            confidence: confidence(&values, scale),
            words: WORD_ELEMENTS.map(|elements| pack(elements.map(|element| digits[element]))),
            digits: std::array::from_fn(|byte| pack(packed[byte])),
        }
    }
}

/// The value of each element, in the scale's units; negative ones as two's complement.
fn values(table: &Table, scale: &Scale) -> [i64; ELEMENTS] {
    let grey = scale.unit.wrapping_mul(128);
    let mut values = [0; ELEMENTS];
    for (value, element) in values.iter_mut().zip(elements()) {
        let subtrahend = element.right.as_ref().map_or(grey, |right| table.mean(right));
        *value = table.mean(&element.left).wrapping_sub(subtrahend).cast_signed();
    }
    values
}

/// Below, within or above the category's dead zone: 0, 1 or 2 for each element.
fn ternary(values: &[i64; ELEMENTS]) -> [u8; ELEMENTS] {
    let mut sizes = values.map(i64::wrapping_abs);
    let mut digits = [1; ELEMENTS];
    let mut first = 0;
    for count in CATEGORIES {
        let category = first..first + count;
        // A third of the elements, as 0.333 of their number, must fall within.
        let (_, threshold, _) = sizes[category.clone()].select_nth_unstable(count * 333 / 1000);
        for (digit, value) in digits[category.clone()].iter_mut().zip(&values[category]) {
            *digit = if *value < threshold.wrapping_neg() {
                0
            } else if *value <= *threshold {
                1
            } else {
                2
            };
        }
        first += count;
    }
    digits
}

/// Five digits as one byte, the first the most significant.
fn pack(digits: [u8; DIGITS_PER_BYTE]) -> u8 {
    digits.into_iter().fold(0, |byte, digit| byte * 3 + digit)
}

/// The median size of the differences, in eighths of a luma step.
fn confidence(values: &[i64; ELEMENTS], scale: &Scale) -> u8 {
    let mut sizes: [u64; ELEMENTS - AVERAGES] =
        std::array::from_fn(|number| values[AVERAGES + number].wrapping_mul(8).unsigned_abs() / scale.unit);
    let (_, median, _) = sizes.select_nth_unstable((ELEMENTS - AVERAGES) / 2);
    u8::try_from(*median).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cells::Cells;
    use crate::noise::noise;

    fn signature(width: usize, height: usize, luma: &[u8]) -> FrameSignature {
        let sums = Cells::new(width, height).sum(luma, width);
        FrameSignature::new(0, &sums, &Scale::new(width as u64, height as u64))
    }

    #[test]
    fn five_digits_are_one_byte_and_the_first_weighs_most() {
        assert_eq!(pack([2, 2, 2, 2, 2]), 242);
        assert_eq!(pack([1, 0, 0, 0, 2]), 83);
    }

    #[test]
    fn an_even_picture_has_no_confidence_and_only_its_averages_can_differ_from_the_middle() {
        let signature = signature(64, 64, &vec![16; 64 * 64]);
        assert_eq!(signature.confidence, 0);
        assert_eq!(signature.digits, [pack([1; 5]); DIGIT_BYTES]);
        assert_eq!(signature.words, [121; WORDS]);
    }

    #[test]
    fn confidence_is_capped_at_a_byte() {
        // Squares of 2×2 cells, each black or white.
        let squares = noise(16 * 16, 1);
        let luma: Vec<u8> =
            (0..32 * 32).map(|at| if squares[at / 64 * 16 + at % 32 / 2] < 128 { 0 } else { 255 }).collect();
        assert_eq!(signature(32, 32, &luma).confidence, 255);
    }

    #[test]
    fn the_words_take_the_elements_of_the_vectors() {
        let vectors: serde_json::Value =
            serde_json::from_str(include_str!("../../../tests/vectors/signature.json")).expect("the vectors are JSON");
        assert_eq!(vectors["word_element_indexes"], serde_json::json!(WORD_ELEMENTS));
    }

    #[test]
    fn values_at_the_ends_of_their_range_do_not_panic() {
        let mut values = [i64::MIN; ELEMENTS];
        let scale = Scale::new(65_536, 65_536);
        ternary(&values);
        confidence(&values, &scale);
        values[..200].fill(i64::MAX);
        ternary(&values);
        confidence(&values, &scale);
    }
}
