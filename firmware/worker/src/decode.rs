//! Decoding a segment: coded pictures in, frames with repaired time stamps out.
use gstreamer as gst;
use gstreamer_video as gst_video;
use mpegts::{AccessUnit, Ticks};

use crate::encode;
use crate::engine::table::{Life, Memory};
use crate::engine::{self, Codec, Engine, Wishes};
use crate::stage::{Error, Output, Stage};
use crate::time::{clock_of, ticks_of};

/// Most threads of a decoder: each holds a picture, and decoding is a tenth of the work.
const MAX_THREADS: u32 = 4;

/// Decoded pictures that may be under way in the ladder at a time, where they are a device's: as many as a queue
/// holds, and some in hand.
const UNDER_WAY: u32 = 12;

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
    /// There until it is dropped.
    stage: Option<Stage>,
    /// Of a persistent decoder: where it waits afterwards.
    again: Option<(Engine, String)>,
    /// Has it given all that it had?
    drained: bool,
    origin: Ticks,
    step: Ticks,
    last: Option<Ticks>,
    format: Option<gst_video::VideoInfo>,
}

impl Drop for Decoder {
    /// A persistent decoder that ended its segment well waits for the next one.
    fn drop(&mut self) {
        let (Some(stage), Some((engine, key))) = (self.stage.take(), self.again.take()) else { return };
        if self.drained && stage.take().is_none() {
            engine.warm().park(key, stage, gst::ClockTime::ZERO);
        }
    }
}

impl Decoder {
    /// Starts a decoder for pictures shown from `origin` on, usually `step` apart.
    pub(crate) fn start(
        engine: &Engine,
        codec: Codec,
        origin: Ticks,
        step: Ticks,
        threads: u32,
    ) -> Result<Self, Error> {
        let row = engine.decoder(codec).ok_or_else(|| Error::Missing(engine.decoder_missing(codec)))?;
        let caps = |text: &str| {
            text.parse::<gst::Caps>().map_err(|_| Error::Refused {
                element: row.element,
                what: "its description",
                detail: text.to_owned(),
            })
        };
        let input = caps(codec.caps())?;
        let wanted = caps(&engine.route().memory().raw())?;
        let wishes = Wishes { decoder_threads: threads.clamp(1, MAX_THREADS), ..Wishes::default() };
        let key = (row.life == Life::Persistent).then(|| format!("{} {wishes:?}", row.element));
        let stage = match key.as_ref().and_then(|key| engine.warm().take(key)) {
            Some((stage, _)) => {
                stage.begin_again()?;
                stage
            }
            None => {
                let configure = |element: &gst::Element| engine::apply(element, row.element, row.settings, &wishes);
                let parts = encode::parts(&engine.route().decoder_elements(row), row.element, &configure);
                let room = if engine.route().memory() == Memory::System { 0 } else { UNDER_WAY };
                Stage::start(&parts, &input, &wanted, room, &engine.warm().contexts)?
            }
        };
        let again = key.map(|key| (engine.clone(), key));
        Ok(Self { stage: Some(stage), again, drained: false, origin, step, last: None, format: None })
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
        self.stage()?.push(buffer)
    }

    /// Tells the decoder that nothing follows: all that it holds comes out.
    pub(crate) fn finish(&mut self) -> Result<(), Error> {
        let stage = self.stage()?;
        if self.again.is_none() {
            return stage.finish();
        }
        stage.announce()?;
        self.drained = true;
        Ok(())
    }

    fn stage(&self) -> Result<&Stage, Error> {
        self.stage.as_ref().ok_or_else(|| Error::Missing("the decoder is gone".to_owned()))
    }

    /// The next thing the decoder gave, if any.
    pub(crate) fn take(&mut self) -> Option<Decoded> {
        loop {
            match self.stage.as_ref()?.take()? {
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
