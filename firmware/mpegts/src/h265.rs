//! What must be known of HEVC before a decoder is asked: where pictures begin, key frames, size.
use crate::bits::{Bits, unescape};
use crate::nal::{self, Role};

/// What a sequence parameter set says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sps {
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
    /// Profile, compatibility, constraints and level, as they stand in the set.
    pub profile_tier_level: [u8; 12],
    /// Temporal layers.
    pub layers: u8,
}

/// Reads a sequence parameter set from its NAL unit; `None` when it makes no sense.
#[must_use]
pub fn parse_sps(unit: &[u8]) -> Option<Sps> {
    if unit.first()? >> 1 & 0x3f != 33 {
        return None;
    }
    let rbsp = unescape(unit.get(2..)?);
    let profile_tier_level = *rbsp.get(1..)?.first_chunk::<12>()?;
    let mut r = Bits::new(&rbsp);
    r.bits(4)?;
    let layers = r.bits(3).filter(|n| *n <= 6)?;
    r.bit()?;
    r.skip(88 + 8)?;
    let mut present = Vec::new();
    for _ in 0..layers {
        present.push((r.flag()?, r.flag()?));
    }
    if layers > 0 {
        r.skip(2 * usize::try_from(8 - layers).ok()?)?;
    }
    for (profile, level) in present {
        r.skip(if profile { 88 } else { 0 } + if level { 8 } else { 0 })?;
    }
    r.ue()?;
    let chroma = u8::try_from(r.ue()?).ok().filter(|c| *c <= 3)?;
    if chroma == 3 {
        r.bit()?;
    }
    let (width, height) = (r.ue()?, r.ue()?);
    let crop = if r.flag()? { [r.ue()?, r.ue()?, r.ue()?, r.ue()?] } else { [0; 4] };
    let depth = u8::try_from(r.ue()?).ok().filter(|d| *d <= 8)? + 8;
    let (unit_x, unit_y) = match chroma {
        1 => (2, 2),
        2 => (2, 1),
        _ => (1, 1),
    };
    let side = |full: u32, before: u32, after: u32, unit: u32| {
        full.checked_sub(before.checked_add(after)?.checked_mul(unit)?).filter(|s| *s > 0)
    };
    Some(Sps {
        chroma,
        depth,
        width: side(width, crop[0], crop[1], unit_x)?,
        height: side(height, crop[2], crop[3], unit_y)?,
        // What cannot be read further on must not hide the size.
        has_colour: names_colours(&mut r, layers).unwrap_or(false),
        profile_tier_level,
        layers: u8::try_from(layers + 1).ok()?,
    })
}

/// Goes through the rest of the set to its usability information: does that name the colours?
fn names_colours(r: &mut Bits<'_>, layers: u32) -> Option<bool> {
    // The depth of colours; that of light is known.
    r.ue()?;
    let poc_bits = r.ue().filter(|n| *n <= 12)? + 4;
    // Three numbers for each layer, or for the highest; then six about blocks.
    for _ in 0..if r.flag()? { layers + 1 } else { 1 } * 3 + 6 {
        r.ue()?;
    }
    if r.flag()? && r.flag()? {
        skip_scaling_lists(r)?;
    }
    r.skip(2)?;
    if r.flag()? {
        r.skip(8)?;
        r.ue()?;
        r.ue()?;
        r.bit()?;
    }
    let sets = r.ue().filter(|n| *n <= 64)?;
    let mut pictures = 0;
    for index in 0..sets {
        pictures = reference_set(r, index, pictures)?;
    }
    if r.flag()? {
        for _ in 0..r.ue().filter(|n| *n <= 32)? {
            r.skip(usize::try_from(poc_bits).ok()? + 1)?;
        }
    }
    r.skip(2)?;
    if !r.flag()? {
        return Some(false);
    }
    if r.flag()? && r.bits(8)? == 255 {
        r.skip(32)?;
    }
    if r.flag()? {
        r.bit()?;
    }
    Some(r.flag()? && r.skip(4).is_some() && r.flag()?)
}

fn skip_scaling_lists(r: &mut Bits<'_>) -> Option<()> {
    for size in 0..4u32 {
        for _ in 0..if size == 3 { 2 } else { 6 } {
            if !r.flag()? {
                r.ue()?;
                continue;
            }
            if size > 1 {
                r.se()?;
            }
            for _ in 0..64.min(16u32 << (2 * size)) {
                r.se()?;
            }
        }
    }
    Some(())
}

/// Reads one set of short-term references; `before` is how many pictures the set before it has.
fn reference_set(r: &mut Bits<'_>, index: u32, before: u32) -> Option<u32> {
    if index > 0 && r.flag()? {
        r.bit()?;
        r.ue()?;
        let mut kept = 0;
        for _ in 0..=before {
            let used = r.flag()?;
            if used || r.flag()? {
                kept += 1;
            }
        }
        return Some(kept);
    }
    let (earlier, later) = (r.ue().filter(|n| *n <= 16)?, r.ue().filter(|n| *n <= 16)?);
    for _ in 0..earlier + later {
        r.ue()?;
        r.bit()?;
    }
    Some(earlier + later)
}

/// The first sequence parameter set of a byte stream that makes sense.
#[must_use]
pub fn find_sps(stream: &[u8]) -> Option<Sps> {
    nal::units(stream).find_map(|n| parse_sps(n.bytes(stream)))
}

/// Tells where pictures begin.
#[derive(Debug)]
pub(crate) struct Slices;

impl Slices {
    pub(crate) fn role(&mut self, unit: &[u8]) -> Role {
        let Some(&header) = unit.first() else { return Role::Suffix };
        match header >> 1 & 0x3f {
            35 => Role::Delimiter,
            32..=34 | 39 | 41..=44 | 48..=55 => Role::Prefix { recovery: false },
            kind @ 0..=31 => {
                let first = unit.get(2).is_some_and(|b| b & 0x80 != 0);
                if first { Role::First { keyframe: (16..=23).contains(&kind) } } else { Role::Further }
            }
            _ => Role::Suffix,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by x265 for 160×90, in the colours of BT.2020.
    const SPS: [u8; 45] = [
        0x42, 0x01, 0x01, 0x01, 0x60, 0x00, 0x00, 0x03, 0x00, 0x90, 0x00, 0x00, 0x03, 0x00, 0x00, 0x03, 0x00, 0x1e,
        0xa0, 0x14, 0x20, 0x61, 0xf2, 0x65, 0x95, 0x95, 0x29, 0x30, 0xbc, 0x05, 0xa8, 0x48, 0x80, 0x48, 0x20, 0x00,
        0x00, 0x03, 0x00, 0x20, 0x00, 0x00, 0x03, 0x03, 0xc1,
    ];

    #[test]
    fn a_real_parameter_set_is_read() {
        let sps = parse_sps(&SPS).unwrap();
        assert_eq!((sps.width, sps.height, sps.chroma, sps.depth, sps.layers), (160, 90, 1, 8, 1));
        assert!(sps.has_colour);
        assert_eq!(sps.profile_tier_level, [0x01, 0x60, 0, 0, 0, 0x90, 0, 0, 0, 0, 0, 0x1e]);
    }

    #[test]
    fn a_cut_parameter_set_is_refused_or_names_no_colours() {
        for end in 0..SPS.len() / 2 {
            assert!(parse_sps(&SPS[..end]).is_none_or(|sps| !sps.has_colour));
        }
    }
}
