//! Wrapping a rendition: its coded pictures, and the source's sound as it was found.
use livepeer::profile::{Container, Profile, VideoCodec};
use livepeer::units::FrameRate;
use mpegts::{AudioTrack, Ticks, VideoUnit, mux};

use crate::encode::Coded;
use crate::ladder::Climbed;
use crate::mp4;
use crate::pipeline::Failure;
use crate::sound::{Samples, Sound};

/// Writes renditions of one segment.
#[derive(Debug)]
pub(crate) struct Writer<'a> {
    service_provider: &'a str,
    step: Ticks,
    /// The sound as transport streams carry it.
    packets: Option<AudioTrack>,
    /// The sound as an MP4 holds it.
    samples: Option<Samples>,
}

impl<'a> Writer<'a> {
    /// Gets the sound ready for the containers that are wanted.
    pub(crate) fn new(
        profiles: &[Profile],
        audio: Option<&Sound>,
        service_provider: &'a str,
        step: Ticks,
    ) -> Result<Self, Failure> {
        let wanted = |container| audio.filter(|_| profiles.iter().any(|p| p.container == container));
        let packets = wanted(Container::MpegTs).map(Sound::to_packets).transpose()?;
        let samples = wanted(Container::Mp4).map(Sound::to_samples).transpose()?.flatten();
        Ok(Self { service_provider, step, packets, samples })
    }

    /// Writes a rendition's file.
    pub(crate) fn write(&self, profile: &Profile, parts: &[Climbed]) -> Result<Vec<u8>, Failure> {
        let coded: Vec<&Coded> = parts.iter().flat_map(|p| &p.coded).collect();
        let shown: Vec<Ticks> = coded.iter().map(|c| c.pts).collect();
        // A rendition with a rate of its own has a step of its own.
        let own = |fps: FrameRate| i64::from(fps.den) * 90_000 / i64::from(fps.num.max(1));
        let step = profile.fps.map_or(self.step, |fps| Ticks(own(fps)));
        let decoded = decode_times(&shown, step);
        match profile.container {
            Container::MpegTs => {
                let units: Vec<VideoUnit<'_>> = coded
                    .iter()
                    .zip(&decoded)
                    .map(|(c, dts)| VideoUnit { pts: c.pts, dts: *dts, keyframe: c.keyframe, data: &c.data })
                    .collect();
                let codec = match profile.codec {
                    VideoCodec::H264 => mpegts::VideoCodec::H264,
                    VideoCodec::H265 => mpegts::VideoCodec::H265,
                    VideoCodec::Vp8 => mpegts::VideoCodec::Vp8,
                    VideoCodec::Vp9 => mpegts::VideoCodec::Vp9,
                };
                Ok(mux(codec, &units, self.packets.as_ref(), self.service_provider))
            }
            Container::Mp4 => {
                let sound = self.samples.as_ref();
                mp4::write(profile.codec, parts, &decoded, sound, self.service_provider, step)
            }
        }
    }
}

/// When each picture must be decoded, given when it is shown, in decoding order: never later than it is shown,
/// always later than the one before, and as late as that allows.
fn decode_times(shown: &[Ticks], step: Ticks) -> Vec<Ticks> {
    let mut sorted: Vec<(Ticks, usize)> = shown.iter().copied().enumerate().map(|(i, t)| (t, i)).collect();
    sorted.sort_unstable();
    let delay = sorted.iter().enumerate().map(|(place, (_, i))| i.saturating_sub(place)).max().unwrap_or(0);
    let first = sorted.first().map(|s| s.0).unwrap_or_default();
    (0..shown.len())
        .map(|i| match i.checked_sub(delay).and_then(|place| sorted.get(place)) {
            Some((time, _)) => *time,
            None => {
                let ahead = i64::try_from(delay - i).unwrap_or(0);
                first - Ticks(step.0.saturating_mul(ahead))
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_reordering_pictures_are_decoded_when_shown() {
        let shown = [Ticks(10), Ticks(20), Ticks(35)];
        assert_eq!(decode_times(&shown, Ticks(10)), shown);
    }

    #[test]
    fn with_reordering_decoding_goes_on_and_never_comes_late() {
        let shown = [0, 3, 1, 2, 6, 4, 5].map(|n| Ticks(n * 3000));
        let decoded = decode_times(&shown, Ticks(3000));
        assert!(decoded.windows(2).all(|w| w[0] < w[1]));
        assert!(decoded.iter().zip(&shown).all(|(dts, pts)| dts <= pts));
    }
}
