//! What must be known of VP8 and VP9 before a decoder is asked: key frames, size.
use crate::bits::Bits;

/// What the header of a frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Can a decoder start here?
    pub keyframe: bool,
    /// Width and height; only key frames say them.
    pub size: Option<(u32, u32)>,
    /// Does the frame say which colours it means?
    pub has_colour: bool,
}

const INTER: Header = Header { keyframe: false, size: None, has_colour: false };

/// Reads the header of a VP8 frame; `None` when it makes no sense.
#[must_use]
pub fn parse_vp8(frame: &[u8]) -> Option<Header> {
    if frame.first()? & 1 == 1 {
        return Some(INTER);
    }
    let &[0x9d, 0x01, 0x2a, w1, w2, h1, h2] = frame.get(3..)?.first_chunk::<7>()? else { return None };
    let side = |low, high| u32::from(u16::from_le_bytes([low, high]) & 0x3fff);
    let (width, height) = (side(w1, w2), side(h1, h2));
    (width > 0 && height > 0).then_some(Header { keyframe: true, size: Some((width, height)), has_colour: false })
}

/// Reads the header of a VP9 frame, of the first one in a superframe; `None` when it makes no sense.
#[must_use]
pub fn parse_vp9(frame: &[u8]) -> Option<Header> {
    let mut r = Bits::new(frame);
    if r.bits(2)? != 2 {
        return None;
    }
    let profile = r.bit()? | r.bit()? << 1;
    if profile == 3 {
        r.bit()?;
    }
    let shows_existing = r.flag()?;
    if shows_existing || r.flag()? {
        return Some(INTER);
    }
    r.skip(2)?;
    if r.bits(24)? != 0x49_8342 {
        return None;
    }
    if profile >= 2 {
        r.bit()?;
    }
    let colours = r.bits(3)?;
    // 7 is RGB, which has no range and, in these profiles, one more reserved bit.
    match (colours, profile & 1 == 1) {
        (7, true) => r.skip(1)?,
        (7, false) => return None,
        (_, true) => r.skip(4)?,
        (_, false) => r.skip(1)?,
    }
    let size = (r.bits(16)? + 1, r.bits(16)? + 1);
    Some(Header { keyframe: true, size: Some(size), has_colour: colours != 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_of_a_real_vp8_key_frame_tell_its_size() {
        // libvpx, 320x180.
        let frame = [0x10, 0x62, 0x00, 0x9d, 0x01, 0x2a, 0x40, 0x01, 0xb4, 0x00, 0x00, 0x07];
        assert_eq!(parse_vp8(&frame), Some(Header { keyframe: true, size: Some((320, 180)), has_colour: false }));
        assert_eq!(parse_vp8(&[0x31, 0, 0]), Some(INTER));
        assert_eq!(parse_vp8(&frame[..6]), None);
    }

    #[test]
    fn the_first_bytes_of_a_real_vp9_key_frame_tell_its_size() {
        // libvpx, 320x180, colours not named.
        let frame = [0x82, 0x49, 0x83, 0x42, 0x00, 0x13, 0xf0, 0x0b, 0x36, 0x04, 0x38, 0x24];
        assert_eq!(parse_vp9(&frame), Some(Header { keyframe: true, size: Some((320, 180)), has_colour: false }));
        assert_eq!(parse_vp9(&frame[..6]), None);
        assert_eq!(parse_vp9(&[0x00; 12]), None);
    }
}
