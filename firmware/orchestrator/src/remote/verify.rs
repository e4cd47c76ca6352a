//! What an attached transcoder sends back, held against the order. Pixels are billed, so they are counted here, not
//! believed.
//!
//! Walk 1, step 8, for a segment that left this box. The pictures are counted in the container, without decoding:
//! what cannot be known that way (that they show the right thing) is the gateway's to sample. Pure.
use bytes::Bytes;
use livepeer::profile::{Container, Profile, VideoCodec};
use livepeer::units::Pixels;
use mpegts::{h264, h265};
use sandbox::message::Rendition;

use super::mp4;

/// A rendition below this size counts as missing with gateways.
const MIN_BYTES: usize = 25;
/// No segment has more pixels in one rendition.
///
/// *Source:* livepeer-wire §7.6, "extremely large output".
const MAX_PIXELS: u64 = 7_378_560_000;

/// One rendition as it came.
#[derive(Debug, Clone)]
pub struct Part {
    /// The file.
    pub media: Bytes,
    /// Pixels claimed.
    pub pixels: u64,
    /// Its MPEG-7 signature, if one came along.
    pub signature: Option<Bytes>,
}

/// What is wrong with a result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Lie {
    /// Too many or too few renditions.
    #[error("{got} renditions for {wanted} profiles")]
    Count {
        /// Renditions that came.
        got: usize,
        /// Profiles asked for.
        wanted: usize,
    },
    /// Not a file of the kind asked for, or none at all.
    #[error("rendition {index} is no {wanted}")]
    Media {
        /// Which.
        index: usize,
        /// What was asked for.
        wanted: String,
    },
    /// A size nobody asked for.
    #[error("rendition {index} is {width}x{height}")]
    Size {
        /// Which.
        index: usize,
        /// Its width.
        width: u32,
        /// Its height.
        height: u32,
    },
    /// Other pixels than there are.
    #[error("rendition {index} claims {claimed} pixels and has {counted}")]
    Pixels {
        /// Which.
        index: usize,
        /// Pixels claimed.
        claimed: u64,
        /// Pixels there are.
        counted: u64,
    },
}

/// Pictures counted in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) codec: VideoCodec,
    /// Size of the last of them.
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) frames: u64,
    pub(crate) pixels: u64,
}

/// Checks the parts of a result against the profiles asked for, and where they claim to show nothing, against the
/// segment they were made of.
///
/// # Errors
/// The first [`Lie`] found.
pub fn verify(profiles: &[Profile], parts: &[Part], segment: &[u8]) -> Result<Vec<Rendition>, Lie> {
    if profiles.len() != parts.len() {
        return Err(Lie::Count { got: parts.len(), wanted: profiles.len() });
    }
    let mute = parts.iter().any(|part| part.pixels == 0) && shows_nothing(segment);
    let pairs = profiles.iter().zip(parts).enumerate();
    let checked = pairs.map(|(index, (profile, part))| {
        if mute && part.pixels == 0 && part.media.len() >= MIN_BYTES {
            let bytes = u64::try_from(part.media.len()).unwrap_or(u64::MAX);
            return Ok(Rendition { width: 0, height: 0, frames: 0, pixels: Pixels(0), bytes });
        }
        rendition(index, profile, part)
    });
    checked.collect()
}

/// Is this a transport stream without pictures? Such a segment has renditions of sound alone.
fn shows_nothing(segment: &[u8]) -> bool {
    mpegts::demux(segment).is_ok_and(|demuxed| demuxed.video.is_none_or(|video| video.units.is_empty()))
}

fn rendition(index: usize, profile: &Profile, part: &Part) -> Result<Rendition, Lie> {
    let counted = if part.media.len() < MIN_BYTES {
        None
    } else {
        match profile.container {
            Container::MpegTs => count_ts(&part.media),
            Container::Mp4 => mp4::count(&part.media),
        }
    };
    let counted = counted.filter(|counted| counted.codec == profile.codec && counted.frames > 0);
    let Some(Counted { width, height, frames, pixels, .. }) = counted else {
        let wanted = format!("{:?} with {:?}", profile.container, profile.codec);
        return Err(Lie::Media { index, wanted });
    };
    // The long side is the larger of the two asked for, except where the short one would get too short.
    let ((min_w, min_h), (max_w, max_h)) = profile.codec.size_limits();
    let long = profile.width.clamp(min_w, max_w).max(profile.height.clamp(min_h, max_h));
    let bounded = (min_w..=max_w).contains(&width) && (min_h..=max_h).contains(&height);
    if !bounded || (width.max(height) > long && width != min_w && height != min_h) {
        return Err(Lie::Size { index, width, height });
    }
    if pixels != part.pixels || pixels > MAX_PIXELS {
        return Err(Lie::Pixels { index, claimed: part.pixels, counted: pixels });
    }
    let bytes = u64::try_from(part.media.len()).unwrap_or(u64::MAX);
    Ok(Rendition { width, height, frames, pixels: Pixels(pixels), bytes })
}

/// Counts the pictures of a transport stream: each coded picture is one access unit.
fn count_ts(media: &[u8]) -> Option<Counted> {
    let video = mpegts::demux(media).ok()?.video?;
    let codec = match video.codec {
        mpegts::VideoCodec::H264 => VideoCodec::H264,
        mpegts::VideoCodec::H265 => VideoCodec::H265,
        _ => return None,
    };
    let size_in = |unit: &[u8]| match codec {
        VideoCodec::H265 => h265::find_sps(unit).map(|sps| (sps.width, sps.height)),
        _ => h264::find_sps(unit).map(|sps| (sps.width, sps.height)),
    };
    let (mut size, mut frames, mut pixels) = (None, 0_u64, 0_u64);
    for unit in &video.units {
        // The size may change on the way, and only with a key frame.
        if unit.keyframe || size.is_none() {
            size = size_in(&unit.data).or(size);
        }
        let (width, height) = size?;
        frames += 1;
        pixels = pixels.saturating_add(u64::from(width) * u64::from(height));
    }
    let (width, height) = size?;
    Some(Counted { codec, width, height, frames, pixels })
}

#[cfg(test)]
mod tests {
    use livepeer::profile::preset;

    use super::*;

    /// A second of 320x240 at 10 frames in H.264 without sound, as x264 makes it.
    const TS: &[u8] = include_bytes!("testdata/320x240.ts");
    const MP4: &[u8] = include_bytes!("testdata/320x240.mp4");
    const PIXELS: u64 = 320 * 240 * 10;

    fn profile(container: Container) -> Profile {
        Profile { width: 320, height: 240, container, ..preset("240p").unwrap() }
    }

    fn part(media: &'static [u8], pixels: u64) -> Part {
        Part { media: Bytes::from_static(media), pixels, signature: None }
    }

    #[test]
    fn an_honest_result_is_counted_the_same() {
        for (media, container) in [(TS, Container::MpegTs), (MP4, Container::Mp4)] {
            let rendition = verify(&[profile(container)], &[part(media, PIXELS)], TS).unwrap().remove(0);
            assert_eq!((rendition.width, rendition.height, rendition.frames), (320, 240, 10));
            assert_eq!(rendition.pixels, Pixels(PIXELS));
        }
    }

    #[test]
    fn a_pixel_too_many_is_a_lie() {
        for (media, container) in [(TS, Container::MpegTs), (MP4, Container::Mp4)] {
            for claimed in [PIXELS + 1, PIXELS - 1, 0, u64::MAX] {
                let lie = verify(&[profile(container)], &[part(media, claimed)], TS).unwrap_err();
                assert_eq!(lie, Lie::Pixels { index: 0, claimed, counted: PIXELS });
            }
        }
    }

    #[test]
    fn renditions_are_neither_missing_nor_more() {
        let one = profile(Container::MpegTs);
        assert!(matches!(verify(&[one.clone(), one.clone()], &[part(TS, PIXELS)], TS), Err(Lie::Count { .. })));
        assert!(matches!(verify(&[one], &[part(TS, PIXELS), part(TS, PIXELS)], TS), Err(Lie::Count { .. })));
    }

    #[test]
    fn what_is_no_such_file_is_refused() {
        let (ts, mp4) = (profile(Container::MpegTs), profile(Container::Mp4));
        let hevc = Profile { codec: VideoCodec::H265, ..ts.clone() };
        for (profile, media) in
            [(&ts, MP4), (&mp4, TS), (&hevc, TS), (&ts, &TS[..20]), (&ts, &[0x47; 1880]), (&mp4, &[0; 99])]
        {
            assert!(matches!(
                verify(std::slice::from_ref(profile), &[part(media, PIXELS)], TS),
                Err(Lie::Media { index: 0, .. })
            ));
        }
    }

    #[test]
    fn larger_than_asked_for_is_not_paid() {
        let small = Profile { width: 240, height: 160, ..profile(Container::MpegTs) };
        assert_eq!(verify(&[small], &[part(TS, PIXELS)], TS), Err(Lie::Size { index: 0, width: 320, height: 240 }));
    }
}
