//! One rendition's encoder: what the job asks of it, and the coded pictures that come out.
//!
//! *Source:* media.md §1.2 and §2.5: constant bit rate with a buffer of one second, closed GOPs, an IDR with
//! its parameter sets first, no B-frames unless the profile is Main or High.
use gstreamer as gst;
use gstreamer_video as gst_video;
use livepeer::profile::{CodecProfile, Gop, Profile};
use mpegts::Ticks;
use mpegts::clock::PER_SECOND;

use crate::engine::table::EncoderRow;
use crate::engine::{self, Codec, Engine, Tuning, Wishes};
use crate::stage::{Error, Output, Stage};
use crate::time::{clock_of, ticks_of};

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
    /// A key frame is due at this time, and then again after this long.
    gop: Option<(Ticks, Ticks)>,
    origin: Ticks,
    coded: Vec<Coded>,
    bytes: u64,
}

impl Encoder {
    /// Starts an encoder for frames from `first` on.
    pub(crate) fn start(profile: &Profile, setup: &Setup, engine: &Engine, first: Ticks) -> Result<Self, Error> {
        let codec = Codec::from(profile.codec);
        let row = engine.encoder(codec).ok_or_else(|| Error::Missing(engine.encoder_missing(codec)))?;
        let wishes = wishes(profile, setup, engine.tuning(), row);
        // The grid of a fixed rate may put the first frame a little before its own time.
        let origin = first - Ticks(PER_SECOND);
        // Without a rate the encoder counts with the frames' own times, as it must when they are uneven: told
        // the usual rate of a stream with gaps, it would stay below the bit rate by as much as the gaps take.
        let (frames, seconds) = if setup.uneven { (0, 1) } else { setup.rate };
        let rate = gst::Fraction::new(to_i32(frames), to_i32(seconds));
        let refused = |what, detail: String| Error::Refused { element: row.element, what, detail };
        let info = gst_video::VideoInfo::builder_from_info(&setup.frames)
            .fps(rate)
            .build()
            .map_err(|e| refused("its frame rate", e.to_string()))?;
        let input = info.to_caps().map_err(|e| refused("its format", e.to_string()))?;
        let mut wanted = codec.caps().to_owned();
        if let Some(more) = wishes.fill(row.wanted).filter(|more| !more.is_empty()) {
            wanted = format!("{wanted},{more}");
        }
        let wanted = wanted.parse::<gst::Caps>().map_err(|e| refused("what is wanted of it", e.to_string()))?;
        let configure = |element: &gst::Element| engine::apply(element, row.element, row.settings, &wishes);
        let stage = Stage::start(row.element, configure, &input, &wanted)?;
        let gop = match (profile.gop, profile.fps) {
            (Gop::Millis(millis), None) => {
                let every = Ticks::from_millis(u64::from(millis.max(1)));
                Some((first + every, every))
            }
            _ => None,
        };
        Ok(Self { stage, gop, origin, coded: Vec::new(), bytes: 0 })
    }

    /// Encodes one frame.
    pub(crate) fn push(&mut self, frame: &gst::Buffer, at: Ticks) -> Result<(), Error> {
        let pts = clock_of(at - self.origin);
        let mut frame = frame.clone();
        {
            // The picture is shared with other renditions; only its description is copied.
            let frame = frame.make_mut();
            frame.set_pts(pts);
            frame.set_dts(None);
            frame.set_duration(None);
        }
        if let Some((due, every)) = &mut self.gop
            && at >= *due
        {
            *due = at + *every;
            let event = gst_video::UpstreamForceKeyUnitEvent::builder().running_time(pts).all_headers(true).build();
            self.stage.ask(event);
        }
        self.stage.push(frame)?;
        self.collect();
        Ok(())
    }

    /// Bytes encoded so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes the last pictures out.
    pub(crate) fn finish(mut self) -> Result<Vec<Coded>, Error> {
        self.stage.finish()?;
        self.collect();
        Ok(self.coded)
    }

    fn collect(&mut self) {
        while let Some(output) = self.stage.take() {
            let Output::Buffer(buffer, Some(at)) = output else { continue };
            let Ok(map) = buffer.map_readable() else { continue };
            self.bytes += map.len() as u64;
            self.coded.push(Coded {
                pts: self.origin + ticks_of(at),
                keyframe: !buffer.flags().contains(gst::BufferFlags::DELTA_UNIT),
                data: map.to_vec(),
            });
        }
    }
}

/// What this rendition asks of its encoder.
fn wishes(profile: &Profile, setup: &Setup, tuning: &Tuning, row: &EncoderRow) -> Wishes {
    let bframes = tuning.bframes.unwrap_or(match profile.codec_profile {
        CodecProfile::H264Main | CodecProfile::H264High => PROFILE_BFRAMES,
        CodecProfile::EncoderDefault | CodecProfile::H264Baseline | CodecProfile::H264ConstrainedHigh => 0,
    });
    let gop = tuning.key_int.or(match (profile.gop, profile.fps) {
        (Gop::Intra, _) => Some(1),
        (Gop::Millis(millis), Some(fps)) => {
            let frames = u64::from(millis) * u64::from(fps.num) / (u64::from(fps.den.max(1)) * 1000);
            Some(u32::try_from(frames.max(1)).unwrap_or(u32::MAX).min(1 << 20))
        }
        _ => None,
    });
    Wishes {
        bits_per_second: u64::from(profile.bitrate.0),
        quality: (profile.quality > 0).then(|| profile.quality.min(50)),
        gop,
        bframes: bframes.min(row.bframes),
        threads: setup.threads,
        decoder_threads: 1,
        preset: tuning.preset_for(setup.frames.width(), setup.frames.height()).to_owned(),
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
