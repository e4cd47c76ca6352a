//! What must be known of AV1 before a decoder is asked: the largest size.
use crate::bits::Bits;

/// The largest frame size that the first sequence header in `units` allows; `None` when there is no such header.
#[must_use]
pub fn max_size(units: &[u8]) -> Option<(u32, u32)> {
    let mut rest = units;
    loop {
        let (&header, tail) = rest.split_first()?;
        let tail = if header & 4 != 0 { tail.get(1..)? } else { tail };
        let (length, tail) = if header & 2 != 0 { leb128(tail)? } else { (tail.len(), tail) };
        let (body, tail) = tail.split_at_checked(length)?;
        if header >> 3 & 0x0f == 1 {
            return sequence(body);
        }
        rest = tail;
    }
}

fn leb128(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut value = 0usize;
    for (index, byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((value, bytes.get(index + 1..)?));
        }
    }
    None
}

fn sequence(body: &[u8]) -> Option<(u32, u32)> {
    let mut r = Bits::new(body);
    r.skip(4)?;
    if r.flag()? {
        r.skip(5)?;
    } else {
        let mut delay_bits = None;
        if r.flag()? {
            r.skip(64)?;
            if r.flag()? {
                r.ue()?;
            }
            if r.flag()? {
                delay_bits = Some(r.bits(5)? + 1);
                r.skip(42)?;
            }
        }
        let initial_delay = r.flag()?;
        for _ in 0..=r.bits(5)? {
            r.skip(12)?;
            if r.bits(5)? > 7 {
                r.bit()?;
            }
            if let Some(bits) = delay_bits
                && r.flag()?
            {
                r.skip(2 * usize::try_from(bits).ok()? + 1)?;
            }
            if initial_delay && r.flag()? {
                r.skip(4)?;
            }
        }
    }
    let (width_bits, height_bits) = (r.bits(4)? + 1, r.bits(4)? + 1);
    Some((r.bits(width_bits)? + 1, r.bits(height_bits)? + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_real_sequence_header_tells_its_size() {
        // libaom, 320x180, a temporal delimiter first.
        let units = [0x12, 0x00, 0x0a, 0x0b, 0, 0, 0, 4, 0x3c, 0xfe, 0xcc, 0xda, 0xf9, 0x00, 0x40];
        assert_eq!(max_size(&units), Some((320, 180)));
        assert_eq!(max_size(&units[..9]), None);
    }
}
