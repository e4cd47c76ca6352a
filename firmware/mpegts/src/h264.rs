//! What must be known of H.264 before a decoder is asked: where pictures begin, key frames, size.
use crate::bits::{Bits, unescape};
use crate::nal::{self, Role};

/// What a sequence parameter set says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sps {
    /// `profile_idc`: 66 baseline, 77 main, 100 high.
    pub profile: u8,
    /// The byte of constraint flags after it.
    pub constraints: u8,
    /// `level_idc`.
    pub level: u8,
    /// `chroma_format_idc`: 1 is 4:2:0.
    pub chroma: u8,
    /// Bits per luma sample.
    pub depth: u8,
    /// Width of the picture after cropping.
    pub width: u32,
    /// Height of the picture after cropping.
    pub height: u32,
    /// Does the stream say which colours it means?
    pub has_colour: bool,
    /// Frames per second as a fraction, when the stream says so.
    pub frame_rate: Option<(u32, u32)>,
    /// May pictures be fields?
    interlaced: bool,
    frame_num_bits: u32,
    separate_planes: bool,
}

/// Reads a sequence parameter set from its NAL unit; `None` when it makes no sense.
#[must_use]
pub fn parse_sps(unit: &[u8]) -> Option<Sps> {
    if unit.first()? & 0x1f != 7 {
        return None;
    }
    let rbsp = unescape(unit.get(1..)?);
    let mut r = Bits::new(&rbsp);
    let profile = byte(&mut r)?;
    let constraints = byte(&mut r)?;
    let level = byte(&mut r)?;
    r.ue()?;
    let (mut chroma, mut depth, mut separate_planes) = (1, 8, false);
    if matches!(profile, 100 | 110 | 122 | 244 | 44 | 83 | 86 | 118 | 128 | 138 | 139 | 134 | 135) {
        chroma = u8::try_from(r.ue()?).ok().filter(|c| *c <= 3)?;
        if chroma == 3 {
            separate_planes = r.flag()?;
        }
        depth = u8::try_from(r.ue()?).ok().filter(|d| *d <= 6)? + 8;
        r.ue()?;
        r.bit()?;
        if r.flag()? {
            skip_scaling_lists(&mut r, if chroma == 3 { 12 } else { 8 })?;
        }
    }
    let frame_num_bits = r.ue().filter(|n| *n <= 12)? + 4;
    match r.ue()? {
        0 => {
            r.ue()?;
        }
        1 => {
            r.bit()?;
            r.se()?;
            r.se()?;
            for _ in 0..r.ue().filter(|n| *n <= 255)? {
                r.se()?;
            }
        }
        _ => {}
    }
    r.ue()?;
    r.bit()?;
    let width_mbs = r.ue()?.checked_add(1)?;
    let height_units = r.ue()?.checked_add(1)?;
    let frames_only = r.flag()?;
    if !frames_only {
        r.bit()?;
    }
    r.bit()?;
    let crop = if r.flag()? { [r.ue()?, r.ue()?, r.ue()?, r.ue()?] } else { [0; 4] };
    let field = if frames_only { 1 } else { 2 };
    let (unit_x, unit_y) = match chroma {
        1 => (2, 2 * field),
        2 => (2, field),
        _ => (1, field),
    };
    let side = |blocks: u32, scale: u32, before: u32, after: u32, unit: u32| {
        let cropped = before.checked_add(after)?.checked_mul(unit)?;
        blocks.checked_mul(16)?.checked_mul(scale)?.checked_sub(cropped).filter(|s| *s > 0)
    };
    let width = side(width_mbs, 1, crop[0], crop[1], unit_x)?;
    let height = side(height_units, field, crop[2], crop[3], unit_y)?;
    // A broken VUI must not hide the size.
    let (has_colour, frame_rate) = if r.flag() == Some(true) { vui(&mut r).unwrap_or_default() } else { (false, None) };
    Some(Sps {
        profile,
        constraints,
        level,
        chroma,
        depth,
        width,
        height,
        has_colour,
        frame_rate,
        interlaced: !frames_only,
        frame_num_bits,
        separate_planes,
    })
}

fn byte(r: &mut Bits<'_>) -> Option<u8> {
    u8::try_from(r.bits(8)?).ok()
}

fn skip_scaling_lists(r: &mut Bits<'_>, count: usize) -> Option<()> {
    for list in 0..count {
        if !r.flag()? {
            continue;
        }
        let (mut last, mut next) = (8i64, 8i64);
        for _ in 0..if list < 6 { 16 } else { 64 } {
            if next != 0 {
                next = (last + r.se()?).rem_euclid(256);
            }
            last = if next == 0 { last } else { next };
        }
    }
    Some(())
}

fn vui(r: &mut Bits<'_>) -> Option<(bool, Option<(u32, u32)>)> {
    if r.flag()? && r.bits(8)? == 255 {
        r.skip(32)?;
    }
    if r.flag()? {
        r.bit()?;
    }
    let mut has_colour = false;
    if r.flag()? {
        r.skip(4)?;
        has_colour = r.flag()?;
        if has_colour {
            r.skip(24)?;
        }
    }
    if r.flag()? {
        r.ue()?;
        r.ue()?;
    }
    let mut rate = None;
    if r.flag()? {
        let (per_tick, scale) = (r.bits(32)?, r.bits(32)?);
        rate = per_tick.checked_mul(2).filter(|p| *p > 0 && scale > 0).map(|p| (scale, p));
    }
    Some((has_colour, rate))
}

/// The first sequence parameter set of a byte stream that makes sense.
#[must_use]
pub fn find_sps(stream: &[u8]) -> Option<Sps> {
    nal::units(stream).find_map(|n| parse_sps(n.bytes(stream)))
}

/// Follows the slices of a stream to tell where pictures begin.
#[derive(Debug, Default)]
pub(crate) struct Slices {
    sps: Option<Sps>,
    last_mb: Option<u32>,
    /// Frame number and parity of a first field that waits for its second.
    field: Option<(u32, bool)>,
}

impl Slices {
    pub(crate) fn role(&mut self, unit: &[u8]) -> Role {
        let Some(&header) = unit.first() else { return Role::Suffix };
        match header & 0x1f {
            9 => {
                self.last_mb = None;
                Role::Delimiter
            }
            7 => {
                self.sps = parse_sps(unit).or(self.sps.take());
                Role::Prefix { recovery: false }
            }
            6 => Role::Prefix { recovery: has_recovery_point(unit) },
            8 | 14..=18 => Role::Prefix { recovery: false },
            kind @ (1 | 2 | 5) => self.slice(unit, kind == 5),
            _ => Role::Suffix,
        }
    }

    fn slice(&mut self, unit: &[u8], idr: bool) -> Role {
        let rbsp = unescape(unit.get(1..25.min(unit.len())).unwrap_or_default());
        let mut r = Bits::new(&rbsp);
        let mb = r.ue().unwrap_or(0);
        let begins = self.last_mb.is_none_or(|last| mb <= last);
        self.last_mb = Some(mb);
        if !begins {
            return Role::Further;
        }
        let field = self.field_of(&mut r);
        if let (Some((number, bottom)), Some((first_number, first_bottom))) = (field, self.field)
            && number == first_number
            && bottom != first_bottom
        {
            self.field = None;
            return Role::Further;
        }
        self.field = field;
        Role::First { keyframe: idr }
    }

    /// Frame number and parity when the slice is of a field.
    fn field_of(&self, r: &mut Bits<'_>) -> Option<(u32, bool)> {
        let sps = self.sps.as_ref().filter(|s| s.interlaced)?;
        r.ue()?;
        r.ue()?;
        if sps.separate_planes {
            r.skip(2)?;
        }
        let number = r.bits(sps.frame_num_bits)?;
        let is_field = r.flag()?;
        let bottom = is_field && r.flag()?;
        is_field.then_some((number, bottom))
    }
}

/// Does this message unit say that decoding can start here?
fn has_recovery_point(unit: &[u8]) -> bool {
    let rbsp = unescape(unit.get(1..).unwrap_or_default());
    let mut rest = rbsp.as_slice();
    // The last byte holds only the stop bit.
    while rest.len() > 2 {
        let Some((kind, tail)) = message_number(rest) else { return false };
        let Some((size, tail)) = message_number(tail) else { return false };
        if kind == 6 {
            return true;
        }
        let Some(tail) = tail.get(size..) else { return false };
        rest = tail;
    }
    false
}

fn message_number(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let full = bytes.iter().take_while(|b| **b == 0xff).count();
    let last = usize::from(*bytes.get(full)?);
    Some((full * 255 + last, bytes.get(full + 1..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by x264 for 640×360 High 4:2:0 at 25 fps.
    const SPS: [u8; 24] = [
        0x67, 0x64, 0x00, 0x1e, 0xac, 0xd9, 0x40, 0xa0, 0x2f, 0xf9, 0x70, 0x11, 0x00, 0x00, 0x03, 0x00, 0x01, 0x00,
        0x00, 0x03, 0x00, 0x32, 0x0f, 0x16,
    ];

    #[test]
    fn a_real_parameter_set_is_read() {
        let sps = parse_sps(&SPS).unwrap();
        assert_eq!((sps.width, sps.height, sps.profile, sps.chroma, sps.depth), (640, 360, 100, 1, 8));
        assert_eq!(sps.frame_rate.map(|(n, d)| n / d), Some(25));
        assert!(!sps.has_colour);
    }

    /// Bits of a unit, its first byte in front.
    fn unit(first: u8, bits: &str) -> Vec<u8> {
        let mut bits = bits.replace(' ', "") + "1";
        bits += &"0".repeat((8 - bits.len() % 8) % 8);
        let bytes = bits.as_bytes().chunks(8).map(|b| b.iter().fold(0, |n, c| n << 1 | (c - b'0')));
        [0, 0, 1, first].into_iter().chain(bytes).collect()
    }

    #[test]
    fn the_two_fields_of_a_picture_stay_together() {
        // Main, level 30; set 0, 4 bits of frame_num, counting type 2, one reference, 10x6 blocks, fields allowed.
        let sps = unit(0x67, "01001101 00000000 00011110 1 1 011 010 0 0001010 00110 0 0 1 0 0");
        assert!(parse_sps(&sps[3..]).unwrap().interlaced);
        // First block, slice type, parameter set, frame_num, is it a field, is it the bottom one.
        let field = |nal: u8, number: &str, bottom: &str| unit(nal, &format!("1 1 1 {number} 1 {bottom} 0000"));
        let frame = unit(0x41, "1 1 1 0011 0 0000");
        let stream = [
            sps,
            field(0x65, "0000", "0"),
            field(0x41, "0000", "1"),
            field(0x41, "0001", "1"),
            field(0x41, "0001", "0"),
            field(0x41, "0010", "0"),
            frame,
        ];
        let spans = nal::access_units(crate::VideoCodec::H264, &stream.concat());
        let keys: Vec<bool> = spans.iter().map(|s| s.keyframe).collect();
        // Two whole pictures, a field whose second is missing, and a frame.
        assert_eq!(keys, [true, false, false, false]);
    }

    #[test]
    fn a_cut_parameter_set_is_refused() {
        for end in 0..10 {
            assert_eq!(parse_sps(&SPS[..end]), None);
        }
    }
}
