//! As much of MP4 as it takes to count the pictures of a rendition. Pure; every number in the file is a claim.
//!
//! *Source:* ISO/IEC 14496-12 §4.2, §8.
use livepeer::profile::VideoCodec;

use super::verify::Counted;

/// Boxes looked at on one level; a rendition has a handful.
const MAX_BOXES: usize = 64;

/// Counts the pictures of the first video track; `None` when this is no MP4, or one whose numbers cannot be true.
pub(crate) fn count(media: &[u8]) -> Option<Counted> {
    if media.get(4..8)? != b"ftyp" {
        return None;
    }
    let movie = inside(media, b"moov")?;
    let track = boxes(movie).filter(|(kind, _)| kind == b"trak").find_map(|(_, track)| {
        let media = inside(track, b"mdia")?;
        // Behind version, flags and a reserved word stands what kind of track it is.
        (inside(media, b"hdlr")?.get(8..12)? == b"vide").then_some(media)
    })?;
    let table = inside(inside(track, b"minf")?, b"stbl")?;
    // Behind version, flags and the number of entries stands the first entry, a box.
    let (kind, entry) = boxes(inside(table, b"stsd")?.get(8..)?).next()?;
    let codec = match &kind {
        b"avc1" | b"avc3" => VideoCodec::H264,
        b"hvc1" | b"hev1" => VideoCodec::H265,
        b"vp08" => VideoCodec::Vp8,
        b"vp09" => VideoCodec::Vp9,
        _ => return None,
    };
    let side = |at: usize| Some(u32::from(u16::from_be_bytes(entry.get(at..at + 2)?.try_into().ok()?)));
    let (width, height) = (side(24)?, side(26)?);
    let frames = samples(inside(table, b"stsz")?, media.len())?;
    let pixels = frames.saturating_mul(u64::from(width) * u64::from(height));
    Some(Counted { codec, width, height, frames, pixels })
}

/// The number of samples, none of them empty, all of them together no larger than the file.
fn samples(sizes: &[u8], file: usize) -> Option<u64> {
    let word = |at: usize| Some(u32::from_be_bytes(sizes.get(at..at + 4)?.try_into().ok()?));
    let (each, count) = (word(4)?, word(8)?);
    let total = if each > 0 {
        u64::from(each).checked_mul(u64::from(count))?
    } else {
        let table = sizes.get(12..)?.get(..usize::try_from(count).ok()?.checked_mul(4)?)?;
        let sizes = table.chunks_exact(4).map(|size| size.try_into().map(u32::from_be_bytes).unwrap_or(0));
        sizes.map(u64::from).try_fold(0_u64, |sum, size| if size == 0 { None } else { sum.checked_add(size) })?
    };
    (total <= u64::try_from(file).ok()?).then_some(u64::from(count))
}

/// The content of the first box of this kind.
fn inside<'a>(content: &'a [u8], wanted: &[u8; 4]) -> Option<&'a [u8]> {
    boxes(content).find(|(kind, _)| kind == wanted).map(|(_, content)| content)
}

/// The boxes that stand here one after the other: kind and content.
fn boxes(content: &[u8]) -> impl Iterator<Item = ([u8; 4], &[u8])> {
    let mut rest = content;
    std::iter::from_fn(move || {
        let short = u32::from_be_bytes(rest.get(..4)?.try_into().ok()?);
        let kind: [u8; 4] = rest.get(4..8)?.try_into().ok()?;
        let (head, length) = match short {
            0 => (8, rest.len()),
            1 => (16, usize::try_from(u64::from_be_bytes(rest.get(8..16)?.try_into().ok()?)).ok()?),
            length => (8, usize::try_from(length).ok()?),
        };
        let content = rest.get(head..length)?;
        rest = rest.get(length..)?;
        Some((kind, content))
    })
    .take(MAX_BOXES)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MP4: &[u8] = include_bytes!("testdata/320x240.mp4");

    #[test]
    fn pictures_are_counted() {
        let counted = count(MP4).unwrap();
        assert_eq!((counted.width, counted.height, counted.frames, counted.pixels), (320, 240, 10, 768_000));
        assert_eq!(counted.codec, VideoCodec::H264);
    }

    #[test]
    fn more_pictures_than_fit_the_file_are_no_pictures() {
        let at = MP4.windows(4).position(|kind| kind == b"stsz").unwrap();
        let mut forged = MP4.to_vec();
        // All samples of one byte, and four thousand million of them.
        forged[at + 8..at + 12].copy_from_slice(&1_u32.to_be_bytes());
        forged[at + 12..at + 16].copy_from_slice(&u32::MAX.to_be_bytes());
        assert_eq!(count(&forged), None);
        forged[at + 8..at + 12].copy_from_slice(&0_u32.to_be_bytes());
        assert_eq!(count(&forged), None);
    }

    proptest! {
        #[test]
        fn no_file_breaks_it(flips in prop::collection::vec((0..2000_usize, any::<u8>()), 0..40), cut in 0..MP4.len()) {
            let mut bent = MP4[..cut].to_vec();
            for (at, byte) in flips {
                if let Some(place) = bent.get_mut(at) {
                    *place = byte;
                }
            }
            if let Some(counted) = count(&bent) {
                prop_assert!(counted.frames <= bent.len() as u64);
            }
        }
    }
}
