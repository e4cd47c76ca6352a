//! Reading a segment, and every check that can be made before a decoder sees it.
//!
//! *Source:* media.md §2.5 and §2.6.
use livepeer::units::FrameRate;
use mpegts::{AccessUnit, Ticks, VideoCodec, av1, h264, h265, nal, vpx};
use sandbox::message::{Job, JobError};

use crate::container::Tracks;
use crate::pipeline::Failure;
use crate::resample::{RUNAWAY, frames_in};
use crate::sound::Sound;

/// Longest side of a picture we decode.
const MAX_SIDE: u32 = 8192;
/// Most pixels of a picture we decode.
const MAX_PICTURE: u64 = 40_000_000;
/// A job has at most this many renditions.
pub(crate) const MAX_OUTPUTS: usize = 10;

/// A segment ready for the decoder.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) codec: VideoCodec,
    /// In decoding order; no time stamp goes back over the clock's wrap. Empty when there is only sound.
    pub(crate) units: Vec<AccessUnit>,
    pub(crate) audio: Option<Sound>,
    /// First time stamp of any track: where the file begins.
    pub(crate) start: Ticks,
    /// First picture shown.
    pub(crate) first: Ticks,
    /// First picture, shown or not.
    pub(crate) origin: Ticks,
    /// First moment after the last picture.
    pub(crate) end: Ticks,
    /// Usual distance of pictures.
    pub(crate) step: Ticks,
    /// Are pictures not evenly spaced?
    pub(crate) uneven: bool,
    /// Does the stream name its colours?
    pub(crate) tagged: bool,
    /// Pictures before this are decoded but not shown.
    pub(crate) shown_from: Ticks,
}

impl Source {
    /// Takes a segment apart and refuses what must be refused.
    pub(crate) fn read(input: &[u8], job: &Job) -> Result<Self, Failure> {
        let Tracks { video, audio, shown_from } = crate::container::read(input)?;
        let codec = video.as_ref().map_or(VideoCodec::H264, |v| v.codec);
        if let VideoCodec::Other(stream_type) = codec {
            return Err(Failure::new(JobError::UnsupportedCodec, format!("stream type {stream_type:#04x}")));
        }
        let units = video.map(|v| v.units).unwrap_or_default();
        if units.is_empty() && !job.video_seen {
            return Err(Failure::new(JobError::InvalidVideo, "no pictures"));
        }
        let tagged = check_sizes(codec, &units)?;
        if !units.is_empty() && !units.iter().any(|u| u.keyframe) {
            return Err(Failure::new(JobError::NoKeyframes, format!("{} pictures", units.len())));
        }
        let mut shown: Vec<Ticks> = units.iter().filter_map(|u| u.pts).filter(|pts| *pts >= shown_from).collect();
        let heard = audio.as_ref().map(Sound::times).unwrap_or_default();
        if shown.is_empty() {
            // Without a picture the sound tells the time.
            shown.clone_from(&heard);
        }
        shown.sort_unstable();
        shown.dedup();
        let first = shown.first().copied().unwrap_or_default();
        let last = shown.last().copied().unwrap_or_default();
        let (step, uneven) = spacing(&shown);
        let start = heard.into_iter().fold(first, Ticks::min);
        let end = if shown.is_empty() { last } else { last + step };
        let origin = units.iter().filter_map(|u| u.pts).fold(first, Ticks::min);
        let source = Self { codec, units, audio, start, first, origin, end, step, uneven, tagged, shown_from };
        source.check_length(job)?;
        Ok(source)
    }

    /// How long the pictures play.
    pub(crate) fn duration(&self) -> Ticks {
        self.end - self.first
    }

    /// Frames per second for rate control, from the usual distance of pictures.
    pub(crate) fn rate(&self) -> (u32, u32) {
        let step = u32::try_from(self.step.0.clamp(90, 900_000)).unwrap_or(3000);
        // The well-known rates have steps of a whole or half tick; 24000/1001 is 3753.75.
        for (num, den) in [(24_000, 1001), (30_000, 1001), (60_000, 1001)] {
            if (i64::from(step) * i64::from(num) - 90_000 * i64::from(den)).abs() <= i64::from(num) {
                return (num, den);
            }
        }
        (90_000, step)
    }

    fn check_length(&self, job: &Job) -> Result<(), Failure> {
        let coded = u64::try_from(self.units.len()).unwrap_or(u64::MAX);
        let rates = job.profiles.iter().filter_map(|p| p.fps);
        let most = rates.map(|fps: FrameRate| frames_in(self.duration(), fps)).max().unwrap_or(0);
        if coded > 0 && most > coded.saturating_mul(RUNAWAY) {
            return Err(Failure::new(JobError::Runaway, format!("{most} frames out of {coded}")));
        }
        if self.duration() > Ticks::from_millis(job.limits.max_duration_ms) {
            return Err(Failure::new(JobError::InvalidDuration, format!("{} ms", self.duration().as_millis())));
        }
        Ok(())
    }
}

/// The usual distance of sorted times, and whether others occur.
fn spacing(shown: &[Ticks]) -> (Ticks, bool) {
    let mut steps: Vec<i64> = shown.windows(2).map(|w| (w[1] - w[0]).0).collect();
    steps.sort_unstable();
    let usual = steps.get(steps.len() / 2).copied().unwrap_or(3000).max(1);
    // Millisecond time stamps and 1001-denominators jitter by up to a millisecond.
    let uneven = steps.iter().any(|s| (s - usual).abs() > 91);
    (Ticks(usual), uneven)
}

/// Refuses giant pictures by what every parameter set says, whether it will be used or not.
/// Returns whether the stream names its colours.
fn check_sizes(codec: VideoCodec, units: &[AccessUnit]) -> Result<bool, Failure> {
    let mut tagged = false;
    for (size, has_colour) in units.iter().flat_map(|unit| sizes(codec, &unit.data)) {
        tagged |= has_colour;
        let (width, height) = size;
        if width.max(height) > MAX_SIDE || u64::from(width) * u64::from(height) > MAX_PICTURE {
            return Err(Failure::new(JobError::InvalidResolution, format!("source of {width}x{height}")));
        }
    }
    Ok(tagged)
}

/// Every picture size that a coded picture tells, and whether it names colours beside.
fn sizes(codec: VideoCodec, data: &[u8]) -> Vec<((u32, u32), bool)> {
    let units = || nal::units(data).map(|n| n.bytes(data));
    let frame = |header: Option<vpx::Header>| header.and_then(|h| Some((h.size?, h.has_colour))).into_iter().collect();
    match codec {
        VideoCodec::H264 => {
            units().filter_map(h264::parse_sps).map(|sps| ((sps.width, sps.height), sps.has_colour)).collect()
        }
        VideoCodec::H265 => {
            units().filter_map(h265::parse_sps).map(|sps| ((sps.width, sps.height), sps.has_colour)).collect()
        }
        VideoCodec::Vp8 => frame(vpx::parse_vp8(data)),
        VideoCodec::Vp9 => frame(vpx::parse_vp9(data)),
        VideoCodec::Av1 => av1::max_size(data).map(|size| (size, false)).into_iter().collect(),
        VideoCodec::Other(_) => Vec::new(),
    }
}
