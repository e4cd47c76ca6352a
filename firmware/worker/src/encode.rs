//! One rendition's encoder: what the job asks of it, and the coded pictures that come out.
//!
//! *Source:* media.md §1.2 and §2.5: constant bit rate with a buffer of one second, closed GOPs, an IDR with
//! its parameter sets first, no B-frames unless the profile is Main or High.
use std::collections::VecDeque;
use std::time::{Duration, Instant};

use gstreamer as gst;
use gstreamer_video as gst_video;
use livepeer::profile::{CodecProfile, Gop, Profile};
use mpegts::clock::PER_SECOND;
use mpegts::{Ticks, nal};

use crate::engine::table::{EncoderRow, KeyFrames, Life};
use crate::engine::{self, Codec, Engine, Tuning, Wishes};
use crate::stage::{Error, Output, Part, Stage};
use crate::time::{clock_of, ticks_of};

/// How long a persistent encoder may take for the pictures it still has when a segment ends.
const LAST_PICTURES: Duration = Duration::from_secs(5);
/// What a picture may cost when its quality is asked for and no rate.
const BITS_PER_PIXEL: u64 = 2;
/// When the time of a fresh element begins. Encoders that reorder want no earlier one, and move what comes earlier;
/// until their first picture is out, the framework's base class (1.22) then takes wishes for key frames for late.
const BEGINNING: gst::ClockTime = gst::ClockTime::from_seconds(1000 * 3600);
/// From when on there is room for B-frames that nobody asked for: what they refer to is decoded before it is shown, and
/// before nought the clock of a transport stream would be at its end.
const ROOM: Ticks = Ticks(PER_SECOND / 2);
/// B-frames between two others where the profile asks for them.
const PROFILE_BFRAMES: u32 = 3;

/// One coded picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Coded {
    /// When it is shown.
    pub(crate) pts: Ticks,
    /// Can a decoder start here?
    pub(crate) keyframe: bool,
    /// NAL units with start codes.
    pub(crate) data: Vec<u8>,
}

/// What an encoder must know before it starts.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    /// Format, size, pixel shape and colours of the frames.
    pub(crate) frames: gst_video::VideoInfo,
    /// Does the source name its colours? If not, neither does the rendition.
    pub(crate) tagged: bool,
    /// Frames per second that rate control counts with.
    pub(crate) rate: (u32, u32),
    /// Are the frames not evenly spaced?
    pub(crate) uneven: bool,
    /// Threads it may use.
    pub(crate) threads: u32,
}

/// A running encoder.
#[derive(Debug)]
pub(crate) struct Encoder {
    stage: Stage,
    row: &'static EncoderRow,
    key_frames: Due,
    /// Was it made for this segment?
    made: bool,
    /// What the stage's own time of zero is here.
    origin: Ticks,
    /// What the stage's time had come to before.
    clock: gst::ClockTime,
    coded: Vec<Coded>,
    bytes: u64,
    /// Of a persistent encoder: where it waits afterwards, and the pictures that it has not given back yet.
    again: Option<(Engine, String)>,
    under_way: VecDeque<Ticks>,
    last: Ticks,
}

/// When key frames are due that the encoder does not know of itself.
#[derive(Debug, Clone, Copy)]
struct Due {
    /// The next one by time, and how far they are apart.
    time: Option<(Ticks, Ticks)>,
    /// Frames until the next one, and how many they are apart; `None` apart is the first one only.
    frames: Option<(u32, Option<u32>)>,
}

impl Due {
    fn is_due(&mut self, at: Ticks) -> bool {
        let mut due = false;
        if let Some((next, every)) = &mut self.time
            && at >= *next
        {
            *next = at + *every;
            due = true;
        }
        if let Some((left, every)) = self.frames {
            due |= left == 0;
            let left = left.checked_sub(1).or(every.map(|n| n.saturating_sub(1)));
            self.frames = left.map(|left| (left, every));
        }
        due
    }
}

impl Encoder {
    /// Starts an encoder for frames from `first` on.
    pub(crate) fn start(profile: &Profile, setup: &Setup, engine: &Engine, first: Ticks) -> Result<Self, Error> {
        let codec = Codec::from(profile.codec);
        let row = engine.encoder(codec).ok_or_else(|| Error::Missing(engine.encoder_missing(codec)))?;
        let mut wishes = wishes(profile, setup, engine.tuning(), row, first);
        // Without a rate the encoder counts with the frames' own times, as it must when they are uneven: told
        // the usual rate of a stream with gaps, it would stay below the bit rate by as much as the gaps take.
        let (frames, seconds) = if setup.uneven { (0, 1) } else { setup.rate };
        let rate = gst::Fraction::new(to_i32(frames), to_i32(seconds));
        let refused = |what, detail: String| Error::Refused { element: row.element, what, detail };
        let info = gst_video::VideoInfo::builder_from_info(&setup.frames)
            .fps(rate)
            .build()
            .map_err(|e| refused("its frame rate", e.to_string()))?;
        let input = engine.picture_caps(&info).ok_or_else(|| refused("its format", format!("{info:?}")))?;
        let mut wanted = codec.caps().to_owned();
        if let Some(more) = wishes.fill(row.wanted).filter(|more| !more.is_empty()) {
            wanted = format!("{wanted},{more}");
        }
        let wanted = wanted.parse::<gst::Caps>().map_err(|e| refused("what is wanted of it", e.to_string()))?;
        let time = match (profile.gop, profile.fps) {
            (Gop::Millis(millis), None) => {
                let every = Ticks::from_millis(u64::from(millis.max(1)));
                Some((first + every, every))
            }
            _ => None,
        };
        let persistent = row.life == Life::Persistent;
        // A persistent encoder does not know where a segment begins, so its key frames are counted here.
        let frames = persistent.then(|| (0, wishes.gop.take()));
        let key = persistent.then(|| format!("{} {wishes:?} {input} {wanted}", row.element));
        let waiting = key.as_ref().and_then(|key| engine.warm().take(key));
        let made = waiting.is_none();
        let (stage, clock, origin) = match waiting {
            Some((stage, clock)) => {
                let step = PER_SECOND * i64::from(setup.rate.1) / i64::from(setup.rate.0.max(1));
                (stage, clock, first - Ticks(step.clamp(1, PER_SECOND)))
            }
            None => {
                let configure = |element: &gst::Element| engine::apply(element, row.element, row.settings, &wishes);
                let parts = parts(&engine.route().encoder_elements(row), row.element, &configure);
                let stage = Stage::start(&parts, &input, &wanted, 0, &engine.warm().contexts)?;
                // The grid of a fixed rate may put the first frame a little before its own time.
                (stage, BEGINNING, first - Ticks(PER_SECOND))
            }
        };
        let again = key.map(|key| (engine.clone(), key));
        let (coded, under_way) = (Vec::new(), VecDeque::new());
        let key_frames = Due { time, frames };
        Ok(Self { stage, row, key_frames, made, origin, clock, coded, bytes: 0, again, under_way, last: first })
    }

    /// Encodes one frame.
    pub(crate) fn push(&mut self, frame: &gst::Buffer, at: Ticks) -> Result<(), Error> {
        let pts = self.clock + clock_of(at - self.origin);
        let mut frame = frame.clone();
        {
            // The picture is shared with other renditions; only its description is copied.
            let frame = frame.make_mut();
            frame.set_pts(pts);
            frame.set_dts(None);
            frame.set_duration(None);
        }
        // A new encoder begins with one by itself. Asking it makes the framework's base class (1.22) note a time by
        // which every later wish seems too early.
        if self.key_frames.is_due(at) && !(self.made && self.coded.is_empty() && self.under_way.is_empty()) {
            self.ask_for_key_frame(pts);
        }
        self.under_way.push_back(at);
        self.last = at;
        self.stage.push(frame)?;
        while let Some(output) = self.stage.take() {
            self.collect(output)?;
        }
        Ok(())
    }

    fn ask_for_key_frame(&self, pts: gst::ClockTime) {
        let signalled = match self.row.key_frames {
            KeyFrames::Event => false,
            KeyFrames::Signal(name) => self.stage.signal(name),
        };
        if !signalled {
            let event = gst_video::UpstreamForceKeyUnitEvent::builder().running_time(pts).all_headers(true).build();
            self.stage.ask(event);
        }
    }

    /// Bytes encoded so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes the last pictures out. A persistent encoder then waits for the next segment.
    pub(crate) fn finish(self) -> Result<Vec<Coded>, Error> {
        self.finish_within(LAST_PICTURES)
    }

    pub(crate) fn finish_within(mut self, patience: Duration) -> Result<Vec<Coded>, Error> {
        let Some((engine, key)) = self.again.take() else {
            self.stage.finish()?;
            while let Some(output) = self.stage.take() {
                self.collect(output)?;
            }
            return Ok(self.coded);
        };
        let latest = Instant::now() + patience;
        while !self.under_way.is_empty() {
            let output = self.stage.wait(latest)?;
            self.place(output, true)?;
        }
        let clock = self.clock + clock_of(self.last - self.origin);
        engine.warm().park(key, self.stage, clock);
        Ok(self.coded)
    }

    fn collect(&mut self, output: Output) -> Result<(), Error> {
        self.place(output, self.row.life == Life::Persistent)
    }

    /// Notes a coded picture. A persistent encoder gives pictures in the order in which it was given them, so that
    /// they bear the times they came with, whatever became of those on the way; others may reorder.
    fn place(&mut self, output: Output, in_order: bool) -> Result<(), Error> {
        let Output::Buffer(buffer, at) = output else { return Ok(()) };
        let next = self.under_way.pop_front();
        let pts = match (in_order, at) {
            (true, _) => next,
            (false, Some(at)) => Some(self.origin + ticks_of(at.saturating_sub(self.clock))),
            // Not a picture.
            (false, None) => return Ok(()),
        };
        let refused = |detail: &str| Error::Refused {
            element: self.row.element,
            what: "to keep to its pictures",
            detail: detail.to_owned(),
        };
        let pts = pts.ok_or_else(|| refused("it gave one that it was not given"))?;
        let map = buffer.map_readable().map_err(|_| refused("one cannot be read"))?;
        let data = picture(self.row.codec, &map);
        self.bytes += data.len() as u64;
        let keyframe = !buffer.flags().contains(gst::BufferFlags::DELTA_UNIT);
        if in_order && self.coded.is_empty() && !keyframe {
            return Err(refused("a segment does not begin with a key frame"));
        }
        self.coded.push(Coded { pts, keyframe, data: data.to_vec() });
        Ok(())
    }
}

/// A coded picture from its delimiter on. The element of x265 (1.22) puts a copy of the headers before the first one
/// that runs past their end: what it finds there in memory now and then looks like a broken slice.
fn picture(codec: Codec, data: &[u8]) -> &[u8] {
    let is_delimiter = |n: &nal::Nal| n.bytes(data).first().is_some_and(|b| b >> 1 & 0x3f == 35);
    let delimiter = nal::units(data).filter(|n| codec == Codec::H265 && is_delimiter(n)).last();
    let start = delimiter.map_or(0, |n| n.start);
    // A start code may have a zero byte in front.
    let long = start > 0 && data.get(start - 1) == Some(&0);
    data.get(start - usize::from(long)..).unwrap_or(data)
}

/// Elements of which the one called `name` is set up.
pub(crate) fn parts<'a>(
    elements: &[&'static str],
    name: &str,
    configure: &'a dyn Fn(&gst::Element) -> Result<(), Error>,
) -> Vec<Part<'a>> {
    let part = |&element: &&'static str| {
        if element == name { Part { name: element, configure } } else { Part::plain(element) }
    };
    elements.iter().map(part).collect()
}

/// What this rendition asks of its encoder.
fn wishes(profile: &Profile, setup: &Setup, tuning: &Tuning, row: &EncoderRow, first: Ticks) -> Wishes {
    let recipe = tuning.recipe(setup.frames.width(), setup.frames.height());
    let codec = row.codec;
    let bframes = tuning.bframes.unwrap_or(match profile.codec_profile {
        CodecProfile::H264Main | CodecProfile::H264High => PROFILE_BFRAMES,
        CodecProfile::EncoderDefault if codec == Codec::H264 && first >= ROOM => recipe.bframes,
        CodecProfile::EncoderDefault => 0,
        CodecProfile::H264Baseline | CodecProfile::H264ConstrainedHigh => 0,
    });
    let gop = tuning.key_int.or(match (profile.gop, profile.fps) {
        (Gop::Intra, _) => Some(1),
        (Gop::Millis(millis), Some(fps)) => {
            let frames = u64::from(millis) * u64::from(fps.num) / (u64::from(fps.den.max(1)) * 1000);
            Some(u32::try_from(frames.max(1)).unwrap_or(u32::MAX).min(1 << 20))
        }
        _ => None,
    });
    // A quality without a rate is still held to one, as buffers are, but to a generous one.
    let bits = match profile.bitrate.0 {
        0 => {
            let pixels = u64::from(setup.frames.width()) * u64::from(setup.frames.height());
            (pixels * u64::from(setup.rate.0) / u64::from(setup.rate.1.max(1))).saturating_mul(BITS_PER_PIXEL)
        }
        bits => u64::from(bits),
    };
    Wishes {
        bits_per_second: bits,
        quality: (profile.quality > 0).then(|| profile.quality.min(50)),
        gop,
        bframes: bframes.min(row.bframes),
        threads: setup.threads,
        decoder_threads: 1,
        preset: recipe.speed.clone(),
        options: recipe.options.clone(),
        tagged: setup.tagged,
        profile: profile_name(profile.codec_profile),
    }
}

fn profile_name(profile: CodecProfile) -> Option<&'static str> {
    match profile {
        CodecProfile::EncoderDefault => None,
        CodecProfile::H264Baseline => Some("baseline"),
        CodecProfile::H264Main => Some("main"),
        CodecProfile::H264High | CodecProfile::H264ConstrainedHigh => Some("high"),
    }
}

fn to_i32(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_before_the_delimiter_of_an_hevc_picture_is_left_out() {
        let own = [0, 0, 0, 1, 0x46, 1, 0x10, 0, 0, 0, 1, 0x40, 1, 0x0c, 0, 0, 0, 1, 0x28, 1, 0xac];
        // Headers, then stale memory with a start code in it.
        let stale = [0, 0, 0, 1, 0x40, 1, 0x0c, 0, 0, 0, 1, 0x4e, 1, 5, 0, 0, 1, 0, 1, 9];
        let given = [&stale[..], &own].concat();
        assert_eq!(picture(Codec::H265, &given), own);
        assert_eq!(picture(Codec::H265, &own), own);
        assert_eq!(picture(Codec::H265, &stale), stale);
        assert_eq!(picture(Codec::H264, &given), given);
    }
}
