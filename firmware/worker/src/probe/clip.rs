//! A clip whose every sample is known, and how like it pictures come back.
use gstreamer as gst;
use gstreamer_video as gst_video;
use gstreamer_video::prelude::*;
use livepeer::profile::Profile;
use mpegts::{Ticks, VideoCodec, VideoUnit, h264, mux};

use crate::container;
use crate::decode::{Decoded, Decoder};
use crate::encode::{Coded, Encoder, Setup};
use crate::engine::{Codec, Engine};

/// Size of its pictures.
pub(super) const SIZE: (u32, u32) = (320, 180);
pub(super) const STEP: Ticks = Ticks(3000);
pub(super) const START: Ticks = Ticks(126_000);
/// Least likeness of a decoded picture to the one encoded, in dB.
const LEAST_PSNR: f64 = 30.0;
/// What all chroma samples are: without colour.
const COLOURLESS: u8 = 128;
/// How far chroma may be off on average; pictures that were never written are green.
const MOST_TINGE: u64 = 8;
/// How far the brightness of a scaled picture may be off on average.
const MOST_DIMMING: u64 = 8;

/// A moving ramp; luma of frame `n`.
fn luma(n: i64, x: u32, y: u32) -> u8 {
    let value = (i64::from(x) / 2 + i64::from(y) / 3 + n * 4) % 200 + 20;
    u8::try_from(value).unwrap_or(128)
}

fn frame_info() -> Result<gst_video::VideoInfo, String> {
    gst_video::VideoInfo::builder(gst_video::VideoFormat::I420, SIZE.0, SIZE.1).build().map_err(|e| e.to_string())
}

/// Picture `n` in the main processor's memory.
fn picture(n: i64, info: &gst_video::VideoInfo) -> Result<gst::Buffer, String> {
    let buffer = gst::Buffer::with_size(info.size()).map_err(|e| e.to_string())?;
    let mut frame =
        gst_video::VideoFrame::from_buffer_writable(buffer, info).map_err(|_| "a frame cannot be mapped".to_owned())?;
    for plane in 0..3 {
        let stride = usize::try_from(info.stride().get(plane).copied().unwrap_or(1)).unwrap_or(1).max(1);
        let data = frame.plane_data_mut(u32::try_from(plane).unwrap_or(0)).map_err(|e| e.to_string())?;
        for (y, row) in (0u32..).zip(data.chunks_mut(stride)) {
            for (x, sample) in (0u32..).zip(row.iter_mut()) {
                *sample = if plane == 0 { luma(n, x, y) } else { COLOURLESS };
            }
        }
    }
    Ok(frame.into_buffer())
}

/// The clip as a transport stream, so many pictures long. `engine` must encode on the main processor.
pub(super) fn make(engine: &Engine, profile: &Profile, frames: i64) -> Result<Vec<u8>, String> {
    let info = frame_info()?;
    let setup = Setup { frames: info.clone(), tagged: false, rate: (30, 1), uneven: false, threads: 1 };
    let mut encoder = Encoder::start(profile, &setup, engine, START).map_err(|e| e.to_string())?;
    for n in 0..frames {
        encoder.push(&picture(n, &info)?, START + Ticks(n * STEP.0)).map_err(|e| e.to_string())?;
    }
    let coded: Vec<Coded> = encoder.finish().map_err(|e| e.to_string())?;
    let units: Vec<VideoUnit<'_>> =
        coded.iter().map(|c| VideoUnit { pts: c.pts, dts: c.pts, keyframe: c.keyframe, data: &c.data }).collect();
    Ok(mux(VideoCodec::H264, &units, None, ""))
}

/// Is a rendition what was asked for: so many frames, the first a place to start with its parameter sets, decodable by
/// the main processor, of this size, neither green nor dark, and, when its size is the clip's own, like it?
pub(super) fn check(reference: &Engine, frames: i64, size: (u32, u32), file: &[u8]) -> Result<(), String> {
    let video = container::read(file).map_err(|e| e.to_string())?.video.ok_or("no video in a rendition")?;
    let first = video.units.first().ok_or("an empty rendition")?;
    if i64::try_from(video.units.len()).ok() != Some(frames) {
        return Err(format!("{} frames came back of {frames}", video.units.len()));
    }
    if !first.keyframe || h264::find_sps(&first.data).is_none() {
        return Err("a rendition does not start with a key frame and its parameter sets".to_owned());
    }
    let mut decoder = Decoder::start(reference, Codec::H264, START, STEP, 1).map_err(|e| e.to_string())?;
    for unit in video.units {
        decoder.push(unit).map_err(|e| e.to_string())?;
    }
    decoder.finish().map_err(|e| e.to_string())?;
    let (mut seen, mut info) = (Seen::default(), None);
    while let Some(decoded) = decoder.take() {
        match decoded {
            Decoded::Format(found) => info = Some(found),
            Decoded::Unusable(what) => return Err(what),
            Decoded::Frame(frame) => {
                let info = info.as_ref().ok_or("a frame before its format")?;
                if (info.width(), info.height()) != size {
                    return Err(format!("pictures of {}x{}, not {}x{}", info.width(), info.height(), size.0, size.1));
                }
                let n = (frame.at - START).0 / STEP.0;
                let mapped = gst_video::VideoFrame::from_buffer_readable(frame.picture, info)
                    .map_err(|_| "a frame cannot be mapped".to_owned())?;
                seen.look(n, &mapped)?;
            }
        }
    }
    if seen.frames != frames {
        return Err(format!("{} frames of {frames} decode", seen.frames));
    }
    seen.judge()
}

/// What was seen of a rendition's pictures.
#[derive(Debug, Default)]
struct Seen {
    frames: i64,
    /// Squared errors of luma, where the size is the clip's own.
    squares: u64,
    compared: u64,
    /// Distance of chroma from none.
    tinge: u64,
    coloured: u64,
    /// Brightness, and what it should be.
    bright: u64,
    lit: u64,
    samples: u64,
}

impl Seen {
    fn look(&mut self, n: i64, frame: &gst_video::VideoFrame<gst_video::video_frame::Readable>) -> Result<(), String> {
        self.frames += 1;
        let (width, height) = (frame.width(), frame.height());
        let same = (width, height) == SIZE;
        for plane in 0..3u32 {
            let index = usize::try_from(plane).unwrap_or(0);
            let stride = usize::try_from(frame.plane_stride().get(index).copied().unwrap_or(1)).unwrap_or(1).max(1);
            let data = frame.plane_data(plane).map_err(|e| e.to_string())?;
            let (width, height) = if plane == 0 { (width, height) } else { (width / 2, height / 2) };
            for (y, row) in (0..height).zip(data.chunks(stride)) {
                for (x, sample) in (0..width).zip(row) {
                    if plane > 0 {
                        self.tinge += u64::from(sample.abs_diff(COLOURLESS));
                        self.coloured += 1;
                        continue;
                    }
                    let wanted = luma(n, x * SIZE.0 / width.max(1), y * SIZE.1 / height.max(1));
                    self.bright += u64::from(*sample);
                    self.lit += u64::from(wanted);
                    self.samples += 1;
                    if same {
                        self.squares += u64::from(sample.abs_diff(wanted)).pow(2);
                        self.compared += 1;
                    }
                }
            }
        }
        Ok(())
    }

    fn judge(&self) -> Result<(), String> {
        let mean = |sum: u64, count: u64| sum / count.max(1);
        if mean(self.tinge, self.coloured) > MOST_TINGE {
            return Err("pictures come back in a wrong colour".to_owned());
        }
        if mean(self.bright, self.samples).abs_diff(mean(self.lit, self.samples)) > MOST_DIMMING {
            return Err("pictures come back too dark or too bright".to_owned());
        }
        let likeness = psnr(self.squares, self.compared);
        if self.compared > 0 && likeness < LEAST_PSNR {
            return Err(format!("pictures come back at {likeness:.1} dB"));
        }
        Ok(())
    }
}

fn psnr(squares: u64, samples: u64) -> f64 {
    if squares == 0 {
        return f64::INFINITY;
    }
    // A few frames of this size stay far below 2^53.
    #[expect(clippy::cast_precision_loss, reason = "only compared with a bound")]
    let mean = squares as f64 / samples as f64;
    10.0 * (255.0 * 255.0 / mean).log10()
}

#[cfg(test)]
mod tests {
    use livepeer::profile::preset;

    use super::*;
    use crate::engine::Tuning;

    fn clip(frames: i64) -> (Engine, Vec<u8>) {
        gst::init().unwrap();
        let engine = Engine::software(Tuning::default());
        let file = make(&engine, &preset("240p").unwrap(), frames).unwrap();
        (engine, file)
    }

    #[test]
    fn a_clip_is_like_itself_and_not_longer_or_larger_than_it_is() {
        let (engine, file) = clip(3);
        check(&engine, 3, SIZE, &file).unwrap();
        assert_eq!(check(&engine, 4, SIZE, &file).unwrap_err(), "3 frames came back of 4");
        assert_eq!(check(&engine, 3, (640, 360), &file).unwrap_err(), "pictures of 320x180, not 640x360");
    }

    #[test]
    fn green_dark_and_noisy_pictures_are_not_taken_for_the_clip() {
        let look = |change: &dyn Fn(u8, usize) -> u8| {
            gst::init().unwrap();
            let info = frame_info().unwrap();
            let mut seen = Seen::default();
            let mut buffer = picture(0, &info).unwrap();
            let chroma = info.offset()[1];
            let writable = buffer.make_mut();
            let mut map = writable.map_writable().unwrap();
            map.iter_mut().enumerate().for_each(|(i, sample)| *sample = change(*sample, usize::from(i >= chroma)));
            drop(map);
            seen.look(0, &gst_video::VideoFrame::from_buffer_readable(buffer, &info).unwrap()).unwrap();
            seen.judge()
        };
        assert_eq!(look(&|sample, _| sample), Ok(()));
        assert!(look(&|_, _| 0).unwrap_err().contains("colour"), "never written");
        assert!(look(&|sample, plane| if plane == 0 { 16 } else { sample }).unwrap_err().contains("too dark"));
        let inverted = |sample: u8, plane| if plane == 0 { 239 - sample } else { sample };
        assert!(look(&inverted).unwrap_err().contains("dB") || look(&inverted).unwrap_err().contains("bright"));
    }
}
