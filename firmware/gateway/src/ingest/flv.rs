//! What RTMP carries: FLV tags. Pictures become Annex B access units, AAC gets its ADTS headers back.
//!
//! H.264 in the old form, H.264 and HEVC in the enhanced form (`avc1`, `hvc1`), AAC and MP3 sound.
use mpegts::{AccessUnit, AudioInfo, AudioPacket, Ticks, VideoCodec};

/// Ticks of the transport stream's clock in a millisecond.
const PER_MILLI: i64 = 90;
/// ADTS AAC and MPEG audio in a program table.
const AAC: u8 = 0x0f;
const MP3: u8 = 0x03;
/// Parameter sets of one stream together. They go before every key frame that brings none, however small it is.
const MAX_SETS: usize = 64 << 10;

/// Why a tag is of no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FlvError {
    /// Shorter than it says.
    #[error("a tag is cut short")]
    Short,
    /// Not a codec we know.
    #[error("video codec {0:#x} is not supported: send H.264 or HEVC")]
    Video(u32),
    /// Not a codec we know.
    #[error("audio format {0} is not supported: send AAC")]
    Audio(u8),
    /// The description of the pictures makes no sense.
    #[error("the codec configuration makes no sense")]
    Configuration,
}

/// A reader of the tags of one stream.
#[derive(Debug, Default)]
pub(crate) struct Flv {
    video: Option<Pictures>,
    aac: Option<[u8; 2]>,
    clock: Clock,
}

/// How pictures are coded.
#[derive(Debug)]
struct Pictures {
    codec: VideoCodec,
    length_bytes: usize,
    /// Parameter sets with start codes.
    sets: Vec<u8>,
}

impl Flv {
    /// Takes a video tag sent at this time; `None` when it holds no picture.
    pub(crate) fn video(&mut self, timestamp: u32, tag: &[u8]) -> Result<Option<(VideoCodec, AccessUnit)>, FlvError> {
        let (&head, rest) = tag.split_first().ok_or(FlvError::Short)?;
        let (codec, kind, offset, body) = if head & 0x80 == 0 {
            let codec = match head & 0x0f {
                7 => VideoCodec::H264,
                12 => VideoCodec::H265,
                other => return Err(FlvError::Video(other.into())),
            };
            let (&[kind, o1, o2, o3], body) = rest.split_first_chunk::<4>().ok_or(FlvError::Short)?;
            (codec, kind, offset([o1, o2, o3]), body)
        } else {
            let (name, body) = rest.split_first_chunk::<4>().ok_or(FlvError::Short)?;
            let codec = match name {
                b"avc1" => VideoCodec::H264,
                b"hvc1" => VideoCodec::H265,
                other => return Err(FlvError::Video(u32::from_be_bytes(*other))),
            };
            match head & 0x0f {
                // Pictures with their offset, and without.
                1 => {
                    let (shift, body) = body.split_first_chunk::<3>().ok_or(FlvError::Short)?;
                    (codec, 1, offset(*shift), body)
                }
                3 => (codec, 1, 0, body),
                other => (codec, if other == 0 { 0 } else { 2 }, 0, body),
            }
        };
        match kind {
            0 => {
                self.video = Some(match codec {
                    VideoCodec::H265 => hevc_configuration(body)?,
                    _ => avc_configuration(body)?,
                });
                Ok(None)
            }
            1 => {
                let Some(pictures) = &self.video else { return Ok(None) };
                let dts = self.clock.at(timestamp);
                let (data, keyframe) = pictures.annex_b(body, head >> 4 & 7 == 1)?;
                let unit =
                    AccessUnit { pts: Some(Ticks(dts.0 + offset_ticks(offset))), dts: Some(dts), keyframe, data };
                Ok(Some((pictures.codec, unit)))
            }
            _ => Ok(None),
        }
    }

    /// Takes an audio tag sent at this time; `None` when it holds no sound.
    pub(crate) fn audio(&mut self, timestamp: u32, tag: &[u8]) -> Result<Option<(AudioInfo, AudioPacket)>, FlvError> {
        let (&head, rest) = tag.split_first().ok_or(FlvError::Short)?;
        let info = |stream_type| AudioInfo { stream_type, stream_id: 0xc0, descriptors: Vec::new() };
        match head >> 4 {
            10 => {
                let (&kind, body) = rest.split_first().ok_or(FlvError::Short)?;
                if kind == 0 {
                    // Some encoders announce sound before they know it, and again when they do.
                    self.aac = body.first_chunk::<2>().copied().or(self.aac);
                    return Ok(None);
                }
                let Some(configuration) = self.aac.filter(|_| !body.is_empty()) else { return Ok(None) };
                let data = [&adts(configuration, body.len())?[..], body].concat();
                Ok(Some((info(AAC), AudioPacket { pts: Some(self.clock.at(timestamp)), data })))
            }
            2 => Ok(Some((info(MP3), AudioPacket { pts: Some(self.clock.at(timestamp)), data: rest.to_vec() }))),
            other => Err(FlvError::Audio(other)),
        }
    }
}

/// Milliseconds of 32 bits, unwrapped.
#[derive(Debug, Default)]
struct Clock {
    last: Option<(u32, i64)>,
}

impl Clock {
    fn at(&mut self, timestamp: u32) -> Ticks {
        let millis = match self.last {
            None => timestamp.into(),
            Some((last, at)) => at + i64::from(i32::from_ne_bytes(timestamp.wrapping_sub(last).to_ne_bytes())),
        };
        self.last = Some((timestamp, millis));
        Ticks(millis.saturating_mul(PER_MILLI))
    }
}

/// 24 bits with a sign, in milliseconds.
fn offset([a, b, c]: [u8; 3]) -> i32 {
    i32::from_be_bytes([a, b, c, 0]) >> 8
}

fn offset_ticks(millis: i32) -> i64 {
    i64::from(millis) * PER_MILLI
}

impl Pictures {
    /// Swaps lengths for start codes, with the parameter sets in front of a key frame that has none; and says whether it
    /// is one: not every pusher marks them all.
    fn annex_b(&self, mut body: &[u8], mut keyframe: bool) -> Result<(Vec<u8>, bool), FlvError> {
        let mut units = Vec::with_capacity(body.len() + self.sets.len() + 16);
        let mut has_sets = false;
        while !body.is_empty() {
            let (length, rest) = body.split_at_checked(self.length_bytes).ok_or(FlvError::Short)?;
            let length = length.iter().fold(0usize, |sum, byte| sum << 8 | usize::from(*byte));
            let (unit, rest) = rest.split_at_checked(length).ok_or(FlvError::Short)?;
            has_sets |= unit.first().is_some_and(|first| self.is_set(*first));
            keyframe |= unit.first().is_some_and(|first| self.is_entry(*first));
            units.extend_from_slice(&[0, 0, 0, 1]);
            units.extend_from_slice(unit);
            body = rest;
        }
        if keyframe && !has_sets {
            // A delimiter, where there is one, must stay in front.
            let at = match units.get(4) {
                Some(first) if self.is_delimiter(*first) => {
                    mpegts::nal::units(&units).nth(1).map_or(0, |second| second.start.saturating_sub(1))
                }
                _ => 0,
            };
            units.splice(at..at, self.sets.iter().copied());
        }
        Ok((units, keyframe))
    }

    /// Is it a slice that a decoder can start with?
    fn is_entry(&self, first: u8) -> bool {
        match self.codec {
            VideoCodec::H265 => (16..=23).contains(&(first >> 1 & 0x3f)),
            _ => first & 0x1f == 5,
        }
    }

    fn is_set(&self, first: u8) -> bool {
        match self.codec {
            VideoCodec::H265 => first >> 1 & 0x3f == 33,
            _ => first & 0x1f == 7,
        }
    }

    fn is_delimiter(&self, first: u8) -> bool {
        match self.codec {
            VideoCodec::H265 => first >> 1 & 0x3f == 35,
            _ => first & 0x1f == 9,
        }
    }
}

/// Takes `count` length-prefixed units over as parameter sets.
fn take_sets<'a>(mut bytes: &'a [u8], count: usize, sets: &mut Vec<u8>) -> Result<&'a [u8], FlvError> {
    for _ in 0..count {
        let (length, rest) = bytes.split_first_chunk::<2>().ok_or(FlvError::Configuration)?;
        let length = usize::from(u16::from_be_bytes(*length));
        let (unit, rest) = rest.split_at_checked(length).ok_or(FlvError::Configuration)?;
        sets.extend_from_slice(&[0, 0, 0, 1]);
        sets.extend_from_slice(unit);
        if sets.len() > MAX_SETS {
            return Err(FlvError::Configuration);
        }
        bytes = rest;
    }
    Ok(bytes)
}

fn avc_configuration(body: &[u8]) -> Result<Pictures, FlvError> {
    let (&[_, _, _, _, lengths, sps], rest) = body.split_first_chunk::<6>().ok_or(FlvError::Configuration)?;
    let mut sets = Vec::new();
    let rest = take_sets(rest, usize::from(sps & 0x1f), &mut sets)?;
    let (&pps, rest) = rest.split_first().ok_or(FlvError::Configuration)?;
    take_sets(rest, pps.into(), &mut sets)?;
    Ok(Pictures { codec: VideoCodec::H264, length_bytes: usize::from(lengths & 3) + 1, sets })
}

fn hevc_configuration(body: &[u8]) -> Result<Pictures, FlvError> {
    let (&lengths, rest) = body.get(21..).and_then(<[u8]>::split_first).ok_or(FlvError::Configuration)?;
    let (&arrays, mut rest) = rest.split_first().ok_or(FlvError::Configuration)?;
    let mut sets = Vec::new();
    for _ in 0..arrays {
        let (&[kind, c1, c2], units) = rest.split_first_chunk::<3>().ok_or(FlvError::Configuration)?;
        let mut ignored = Vec::new();
        let is_set = matches!(kind & 0x3f, 32..=34);
        let into = if is_set { &mut sets } else { &mut ignored };
        rest = take_sets(units, usize::from(u16::from_be_bytes([c1, c2])), into)?;
    }
    Ok(Pictures { codec: VideoCodec::H265, length_bytes: usize::from(lengths & 3) + 1, sets })
}

/// The header of an ADTS frame of this many bytes of AAC.
fn adts(configuration: [u8; 2], length: usize) -> Result<[u8; 7], FlvError> {
    let bits = u16::from_be_bytes(configuration);
    let low = |value: u16| u8::try_from(value).unwrap_or_default();
    let (object, frequency, channels) = (low(bits >> 11), low(bits >> 7 & 0x0f), low(bits >> 3 & 0x0f));
    // ADTS knows four kinds; the others are LC with something beside it.
    let profile = if (1..=4).contains(&object) { object - 1 } else { 1 };
    let total = u16::try_from(length + 7).ok().filter(|total| *total < 1 << 13).ok_or(FlvError::Short)?;
    if frequency > 12 || channels > 7 {
        return Err(FlvError::Configuration);
    }
    Ok([
        0xff,
        0xf1,
        profile << 6 | frequency << 2 | channels >> 2,
        (channels & 3) << 6 | low(total >> 11),
        low(total >> 3 & 0xff),
        low(total & 7) << 5 | 0x1f,
        0xfc,
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    const AVC: [u8; 19] = [0x17, 0, 0, 0, 0, 1, 100, 0, 30, 0xff, 0xe1, 0, 2, 0x67, 1, 1, 0, 1, 0x68];

    #[test]
    fn pictures_get_start_codes_and_a_key_frame_its_parameter_sets() {
        let mut flv = Flv::default();
        assert_eq!(flv.video(0, &AVC), Ok(None));
        let key = [0x17, 1, 0, 0, 40, 0, 0, 0, 2, 0x65, 9];
        let (codec, unit) = flv.video(1000, &key).unwrap().unwrap();
        assert_eq!((codec, unit.keyframe), (VideoCodec::H264, true));
        assert_eq!((unit.dts, unit.pts), (Some(Ticks(90_000)), Some(Ticks(93_600))));
        assert_eq!(unit.data, [0, 0, 0, 1, 0x67, 1, 0, 0, 0, 1, 0x68, 0, 0, 0, 1, 0x65, 9]);
        let with_delimiter = [0x17, 1, 0, 0, 0, 0, 0, 0, 2, 9, 0x10, 0, 0, 0, 2, 0x65, 9];
        let unit = flv.video(1040, &with_delimiter).unwrap().unwrap().1;
        assert_eq!(unit.data, [0, 0, 0, 1, 9, 0x10, 0, 0, 0, 1, 0x67, 1, 0, 0, 0, 1, 0x68, 0, 0, 0, 1, 0x65, 9]);
        let unmarked = [0x27, 1, 0, 0, 0, 0, 0, 0, 2, 0x65, 9];
        assert!(flv.video(1060, &unmarked).unwrap().unwrap().1.keyframe);
        let early = [0x27, 1, 0xff, 0xff, 0xd8, 0, 0, 0, 1, 0x41];
        let unit = flv.video(1080, &early).unwrap().unwrap().1;
        assert_eq!((unit.keyframe, unit.pts), (false, Some(Ticks(1040 * 90))));
    }

    #[test]
    fn enhanced_tags_bring_hevc() {
        let mut flv = Flv::default();
        let mut configuration = b"\x90hvc1".to_vec();
        configuration.extend([0; 21]);
        configuration.extend([3, 2, 0xa0, 0, 1, 0, 2, 0x40, 1, 0xa1, 0, 1, 0, 2, 0x42, 1]);
        assert_eq!(flv.video(0, &configuration), Ok(None));
        let (codec, unit) = flv.video(0, b"\x93hvc1\0\0\0\x02\x26\x01").unwrap().unwrap();
        assert_eq!((codec, unit.keyframe), (VideoCodec::H265, true));
        assert_eq!(unit.data, [0, 0, 0, 1, 0x40, 1, 0, 0, 0, 1, 0x42, 1, 0, 0, 0, 1, 0x26, 1]);
        assert_eq!(flv.video(0, b"\x90av01\0\0"), Err(FlvError::Video(u32::from_be_bytes(*b"av01"))));
    }

    #[test]
    fn aac_gets_the_header_that_decoders_expect() {
        let mut flv = Flv::default();
        assert_eq!(flv.audio(0, &[0xaf, 1, 1, 2]), Ok(None), "no configuration yet");
        assert_eq!(flv.audio(0, &[0xaf, 0]), Ok(None), "announced, not known");
        assert_eq!(flv.audio(0, &[0xaf, 0, 0x11, 0x90]), Ok(None));
        let (info, packet) = flv.audio(20, &[0xaf, 1, 1, 2, 3]).unwrap().unwrap();
        assert_eq!(info.stream_type, AAC);
        // AAC-LC, 48 kHz, two channels, ten bytes.
        assert_eq!(packet.data, [0xff, 0xf1, 0x4c, 0x80, 0x01, 0x5f, 0xfc, 1, 2, 3]);
    }

    #[test]
    fn a_small_key_frame_does_not_become_a_large_one() {
        let mut flv = Flv::default();
        let mut configuration = AVC[..10].to_vec();
        configuration.push(0xe2);
        for _ in 0..2 {
            configuration.extend([0x80, 0]);
            configuration.extend([0x67; 0x8000]);
        }
        configuration.push(0);
        assert_eq!(flv.video(0, &configuration), Err(FlvError::Configuration));
    }

    #[test]
    fn tags_cut_short_are_refused_and_never_read_beyond_their_end() {
        let tags: [&[u8]; 3] = [&AVC, b"\x90hvc1", &[0x17, 1, 0, 0, 0, 0, 0, 0, 2, 0x65, 9]];
        for tag in tags {
            for length in 0..tag.len() {
                let mut flv = Flv::default();
                let _any = flv.video(0, &AVC);
                let _any = flv.video(0, &tag[..length]);
                let _any = flv.audio(0, &tag[..length]);
            }
        }
        let mut flv = Flv::default();
        assert_eq!(flv.video(0, &AVC), Ok(None));
        assert_eq!(flv.video(0, &[0x17, 1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 1]), Err(FlvError::Short));
    }
}
