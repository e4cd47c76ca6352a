//! Decoding a segment: coded pictures in, frames with repaired time stamps out.
use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_video as gst_video;
use mpegts::{AccessUnit, Ticks, VideoCodec};

use crate::stage::{Error, Output, Stage};
use crate::time::{clock_of, ticks_of};

/// Most threads of a decoder: each holds a picture, and decoding is a tenth of the work.
const MAX_THREADS: u32 = 4;

/// A decoded frame.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    pub(crate) picture: gst::Buffer,
    pub(crate) at: Ticks,
}

/// What a decoder gave.
#[derive(Debug)]
pub(crate) enum Decoded {
    /// The frames that follow look like this.
    Format(gst_video::VideoInfo),
    /// A frame.
    Frame(Frame),
    /// A format that nothing here can take.
    Unusable(String),
}

/// A running decoder.
#[derive(Debug)]
pub(crate) struct Decoder {
    stage: Stage,
    origin: Ticks,
    step: Ticks,
    last: Option<Ticks>,
    format: Option<gst_video::VideoInfo>,
}

/// The element that decodes a codec.
pub(crate) fn element_for(codec: VideoCodec) -> Option<&'static str> {
    match codec {
        VideoCodec::H264 => Some("avdec_h264"),
        VideoCodec::H265 => Some("avdec_h265"),
        VideoCodec::Vp8 | VideoCodec::Vp9 | VideoCodec::Av1 | VideoCodec::Other(_) => None,
    }
}

impl Decoder {
    /// Starts a decoder for pictures shown from `origin` on, usually `step` apart.
    pub(crate) fn start(codec: VideoCodec, origin: Ticks, step: Ticks, threads: u32) -> Result<Self, Error> {
        let name = element_for(codec).ok_or(Error::Missing("decoder"))?;
        let media = if codec == VideoCodec::H265 { "video/x-h265" } else { "video/x-h264" };
        let input = gst::Caps::builder(media).field("stream-format", "byte-stream").field("alignment", "au").build();
        let wanted = gst::Caps::builder("video/x-raw").build();
        let configure = |element: &gst::Element| {
            element.set_property("qos", false);
            element.set_property("max-threads", i32::try_from(threads.clamp(1, MAX_THREADS)).unwrap_or(1));
        };
        Ok(Self { stage: Stage::start(name, configure, &input, &wanted)?, origin, step, last: None, format: None })
    }

    /// Gives the decoder a picture.
    pub(crate) fn push(&self, unit: AccessUnit) -> Result<(), Error> {
        let mut buffer = gst::Buffer::from_mut_slice(unit.data);
        {
            let buffer = buffer.make_mut();
            buffer.set_pts(unit.pts.map(|pts| clock_of(pts - self.origin)));
            if !unit.keyframe {
                buffer.set_flags(gst::BufferFlags::DELTA_UNIT);
            }
        }
        self.stage.push(buffer)
    }

    /// Tells the decoder that nothing follows.
    pub(crate) fn finish(&self) -> Result<(), Error> {
        self.stage.finish()
    }

    /// The next thing the decoder gave, if any.
    pub(crate) fn take(&mut self) -> Option<Decoded> {
        loop {
            match self.stage.take()? {
                Output::Caps(caps) => {
                    let Ok(info) = gst_video::VideoInfo::from_caps(&caps) else {
                        return Some(Decoded::Unusable(caps.to_string()));
                    };
                    let looks =
                        |i: &gst_video::VideoInfo| (i.format(), i.width(), i.height(), i.colorimetry(), i.par());
                    if self.format.as_ref().map(looks) == Some(looks(&info)) {
                        continue;
                    }
                    self.format = Some(info.clone());
                    return Some(Decoded::Format(info));
                }
                Output::Buffer(picture, at) => {
                    let at = self.repair(at.map(|at| self.origin + ticks_of(at)));
                    return Some(Decoded::Frame(Frame { picture, at }));
                }
            }
        }
    }

    /// Time goes on: a frame without a stamp follows the one before, a stamp that goes back is moved.
    fn repair(&mut self, at: Option<Ticks>) -> Ticks {
        let at = match (at, self.last) {
            (Some(at), Some(last)) if at <= last => last + Ticks(1),
            (Some(at), _) => at,
            (None, Some(last)) => last + self.step,
            (None, None) => self.origin,
        };
        self.last = Some(at);
        at
    }
}
