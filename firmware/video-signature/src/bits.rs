//! A big-endian bit string without any alignment inside.

/// A bit string under construction, most significant bit first.
#[derive(Debug, Default)]
pub(crate) struct BitString {
    bytes: Vec<u8>,
    /// Bits not yet in `bytes`, right-aligned; always fewer than eight.
    rest: u64,
    rest_bits: u32,
}

impl BitString {
    /// An empty string with room for this many bits.
    pub(crate) fn with_capacity(bits: usize) -> Self {
        Self { bytes: Vec::with_capacity(bits.div_ceil(8)), ..Self::default() }
    }

    /// Appends the low `count` bits of `value`; at most 32.
    pub(crate) fn push(&mut self, value: u32, count: u32) {
        debug_assert!(count <= 32);
        let mask = (1u64 << count) - 1;
        self.rest = (self.rest << count) | (u64::from(value) & mask);
        self.rest_bits += count;
        while self.rest_bits >= 8 {
            self.rest_bits -= 8;
            self.bytes.push(((self.rest >> self.rest_bits) & 0xff) as u8);
        }
        self.rest &= (1 << self.rest_bits) - 1;
    }

    /// The string as bytes, padded with zero bits.
    pub(crate) fn into_bytes(mut self) -> Vec<u8> {
        if self.rest_bits > 0 {
            self.push(0, 8 - self.rest_bits);
        }
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bit_is_the_most_significant_and_the_end_is_padded_with_zeros() {
        let mut bits = BitString::default();
        bits.push(1, 1);
        bits.push(0x8000_0001, 32);
        bits.push(0xff, 3);
        assert_eq!(bits.into_bytes(), [0xc0, 0, 0, 0, 0b1111_0000]);
    }

    #[test]
    fn bits_beyond_the_count_are_ignored() {
        let mut bits = BitString::default();
        bits.push(0xfff0, 4);
        bits.push(0xffff_fff5, 4);
        assert_eq!(bits.into_bytes(), [0x05]);
    }

    #[test]
    fn nothing_pushed_is_no_byte() {
        assert!(BitString::with_capacity(0).into_bytes().is_empty());
    }
}
