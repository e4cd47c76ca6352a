//! AAC frames in their ADTS headers, and what MP4 says instead of them.

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
pub(crate) const FRAME_SAMPLES: u32 = 1024;
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
        let config = Self { object: a >> 3, rate_index: (a & 7) << 1 | b >> 7, channels: b >> 3 & 0x0f };
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

/// The frames in a stretch of ADTS, without their headers, and what the first header says. Bytes between
/// frames are skipped.
pub(crate) fn frames(stream: &[u8]) -> (Option<Config>, Vec<&[u8]>) {
    let (mut config, mut found) = (None, Vec::new());
    let mut at = 0;
    while let Some(&[a, b, c, d, e, f, _]) = stream.get(at..).and_then(|s| s.first_chunk::<HEADER>()) {
        let length = usize::from(d & 3) << 11 | usize::from(e) << 3 | usize::from(f >> 5);
        let header = if b & 1 == 0 { HEADER + 2 } else { HEADER };
        let body = stream.get(at + header..at + length).filter(|_| a == 0xff && b & 0xf6 == 0xf0 && length > header);
        let Some(body) = body else {
            at += 1;
            continue;
        };
        config.get_or_insert(Config {
            object: (c >> 6) + 1,
            rate_index: c >> 2 & 0x0f,
            channels: (c & 1) << 2 | d >> 6,
        });
        found.push(body);
        at += length;
    }
    (config, found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrapped_frame_unwraps() {
        let config = Config { object: 2, rate_index: 3, channels: 2 };
        let stream = [config.wrap(&[1, 2, 3]).unwrap(), config.wrap(&[4; 700]).unwrap()].concat();
        let (found, bodies) = frames(&stream);
        assert_eq!(found, Some(config));
        assert_eq!(bodies, [&[1, 2, 3][..], &[4; 700]]);
        assert_eq!(Config::from_specific(&config.to_specific()), Some(config));
    }
}
