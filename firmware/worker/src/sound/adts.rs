//! AAC frames in their ADTS headers, and what MP4 says instead of them.
use super::frames::Frame;

/// What a header says of its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Config {
    /// `audio_object_type`, 1 to 4.
    pub(crate) object: u8,
    /// Index of the sampling rate.
    pub(crate) rate_index: u8,
    /// Channel configuration.
    pub(crate) channels: u8,
}

const RATES: [u32; 13] =
    [96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350];
/// Samples of sound in a frame.
const FRAME_SAMPLES: u32 = 1024;
const HEADER: usize = 7;

impl Config {
    /// Samples per second.
    pub(crate) fn rate(self) -> Option<u32> {
        RATES.get(usize::from(self.rate_index)).copied()
    }

    /// The two bytes by which MP4 describes the stream.
    pub(crate) fn to_specific(self) -> [u8; 2] {
        [self.object << 3 | self.rate_index >> 1, self.rate_index << 7 | self.channels << 3]
    }

    /// Reads the bytes by which MP4 describes a stream; `None` for what ADTS cannot say.
    pub(crate) fn from_specific(bytes: &[u8]) -> Option<Self> {
        let &[a, b] = bytes.first_chunk::<2>()?;
        let mut config = Self { object: a >> 3, rate_index: (a & 7) << 1 | b >> 7, channels: b >> 3 & 0x0f };
        if matches!(config.object, 5 | 29) {
            // Spectral band replication, announced around the plain stream, which ADTS announces alone.
            let &[c, d] = bytes.get(1..)?.first_chunk::<2>()?;
            config.object = u8::try_from((u16::from(c) << 8 | u16::from(d)) >> 2 & 0x1f).ok().filter(|_| c & 7 != 7)?;
        }
        let sayable = (1..=4).contains(&config.object) && config.rate().is_some() && (1..=7).contains(&config.channels);
        sayable.then_some(config)
    }

    /// A frame with its header.
    pub(crate) fn wrap(self, frame: &[u8]) -> Option<Vec<u8>> {
        let length = u16::try_from(frame.len() + HEADER).ok().filter(|l| *l < 1 << 13)?;
        let [l1, l2] = length.to_be_bytes();
        let mut out = Vec::with_capacity(frame.len() + HEADER);
        out.extend_from_slice(&[
            0xff,
            0xf1,
            (self.object - 1) << 6 | self.rate_index << 2 | self.channels >> 2,
            self.channels << 6 | l1 >> 3,
            l1 << 5 | l2 >> 3,
            l2 << 5 | 0x1f,
            0xfc,
        ]);
        out.extend_from_slice(frame);
        Some(out)
    }
}

/// Reads the header of a frame; `None` when there is none.
pub(crate) fn frame(bytes: &[u8]) -> Option<Frame> {
    let &[0xff, b, _, d, e, f, g] = bytes.first_chunk::<HEADER>()? else { return None };
    let config = config(bytes)?;
    let length = usize::from(d & 3) << 11 | usize::from(e) << 3 | usize::from(f >> 5);
    let skip = if b & 1 == 0 { HEADER + 2 } else { HEADER };
    let samples = FRAME_SAMPLES * (u32::from(g & 3) + 1);
    (length > skip).then_some(Frame { skip, length, samples, rate: config.rate()?, channels: config.channels.into() })
}

/// What the header of a frame says of its stream.
pub(crate) fn config(bytes: &[u8]) -> Option<Config> {
    let &[0xff, b, c, d] = bytes.first_chunk::<4>()? else { return None };
    let config = Config { object: (c >> 6) + 1, rate_index: c >> 2 & 0x0f, channels: (c & 1) << 2 | d >> 6 };
    (b & 0xf6 == 0xf0).then_some(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn band_replication_is_announced_as_the_plain_stream_in_it() {
        // Object 5, core at 24 kHz (index 6), stereo, 48 kHz outside (index 3), then object 2.
        let bits = "00101".to_owned() + "0110" + "0010" + "0011" + "00010" + "00";
        let bytes: Vec<u8> = bits.as_bytes().chunks(8).map(|b| b.iter().fold(0, |n, c| n << 1 | (c - b'0'))).collect();
        assert_eq!(Config::from_specific(&bytes), Some(Config { object: 2, rate_index: 6, channels: 2 }));
    }

    #[test]
    fn a_wrapped_frame_unwraps() {
        let config = Config { object: 2, rate_index: 3, channels: 2 };
        for body in [&[1, 2, 3][..], &[4; 700]] {
            let wrapped = config.wrap(body).unwrap();
            let found = frame(&wrapped).unwrap();
            assert_eq!(&wrapped[found.skip..found.length], body);
            assert_eq!((found.samples, found.rate), (1024, 48_000));
            assert_eq!(super::config(&wrapped), Some(config));
        }
        assert_eq!(Config::from_specific(&config.to_specific()), Some(config));
    }
}
