//! What truly works here, found out by doing it: a known clip is encoded, transcoded and compared.
//!
//! Walk 4, step 3. That an element is registered proves nothing.
use gstreamer as gst;
use gstreamer_video as gst_video;
use gstreamer_video::prelude::*;
use livepeer::profile::{Container, Profile, preset};
use mpegts::{Ticks, VideoCodec, VideoUnit, demux, h264, mux};
use sandbox::message::{Clip, Job, Limits, Signatures};

use crate::decode::{Decoded, Decoder};
use crate::encode::{Coded, Encoder, Setup};
use crate::engine::{Codec, Engine};
use crate::pipeline::transcode;
use crate::signature;

/// What was proved and what was refused, with the reason.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// Abilities, e.g. `encode-h264`.
    pub proved: Vec<String>,
    /// Abilities that are not there, and why.
    pub refused: Vec<(String, String)>,
}

/// What the worker cannot do without.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// A plugin is not installed.
    #[error("{0}")]
    Missing(String),
    /// It is there but does not work.
    #[error("the engine does not work: {0}")]
    Broken(String),
}

const FRAMES: i64 = 10;
const SIZE: (u32, u32) = (320, 180);
const STEP: Ticks = Ticks(3000);
const START: Ticks = Ticks(126_000);
/// Least likeness of a decoded picture to the one encoded, in dB.
const LEAST_PSNR: f64 = 30.0;

/// Proves an engine, as the product uses it.
///
/// # Errors
/// [`Unfit`] when H.264 cannot be decoded and encoded here.
pub fn probe(engine: &Engine) -> Result<Findings, Unfit> {
    if engine.decoder(Codec::H264).is_none() {
        return Err(Unfit::Missing(engine.decoder_missing(Codec::H264)));
    }
    if engine.encoder(Codec::H264).is_none() {
        return Err(Unfit::Missing(engine.encoder_missing(Codec::H264)));
    }
    let broken = |e: &dyn std::fmt::Display| Unfit::Broken(e.to_string());
    let clip = known_clip(engine).map_err(|e| broken(&e))?;
    let job = job();
    let output = transcode(&clip, &job, engine).map_err(|e| broken(&e))?;
    for (rendition, file) in output.done.renditions.iter().zip(&output.files) {
        check(rendition.frames, file).map_err(|e| broken(&e))?;
    }
    let file = output.files.first().map(Vec::as_slice).unwrap_or_default();
    let likeness = likeness(engine, file).map_err(|e| broken(&e))?;
    if likeness < LEAST_PSNR {
        return Err(Unfit::Broken(format!("pictures come back at {likeness:.1} dB")));
    }
    let mut findings = Findings::default();
    let certain = ["decode-h264", "encode-h264", "scale", "mpegts"];
    findings.proved.extend(certain.map(str::to_owned));
    match decode_hevc(engine) {
        Ok(()) => findings.proved.push("decode-h265".to_owned()),
        Err(reason) => findings.refused.push(("decode-h265".to_owned(), reason)),
    }
    match signature::prove() {
        Ok(()) => findings.proved.push("signature-mpeg7".to_owned()),
        Err(reason) => findings.refused.push(("signature-mpeg7".to_owned(), reason)),
    }
    let later = "not built into this worker";
    findings.refused.extend(["encode-h265", "decode-vp8", "decode-vp9"].map(|a| (a.to_owned(), later.to_owned())));
    Ok(findings)
}

/// The largest and the smallest size, so that scaling is part of the proof.
fn job() -> Job {
    let profile = |width, height| Profile {
        name: format!("{width}x{height}"),
        width,
        height,
        container: Container::MpegTs,
        ..preset("240p").expect("a preset that is in the table")
    };
    Job {
        id: 0,
        profiles: vec![profile(SIZE.0, SIZE.1), profile(146, 82)],
        clip: None::<Clip>,
        limits: Limits::default(),
        threads: 1,
        service_provider: String::new(),
        signatures: Signatures::None,
        video_seen: false,
    }
}

/// A moving ramp; luma of frame `n`.
fn luma(n: i64, x: u32, y: u32) -> u8 {
    let value = (i64::from(x) / 2 + i64::from(y) / 3 + n * 4) % 200 + 20;
    u8::try_from(value).unwrap_or(128)
}

fn frame_info() -> Result<gst_video::VideoInfo, String> {
    gst_video::VideoInfo::builder(gst_video::VideoFormat::I420, SIZE.0, SIZE.1).build().map_err(|e| e.to_string())
}

fn known_clip(engine: &Engine) -> Result<Vec<u8>, String> {
    let info = frame_info()?;
    let setup = Setup { frames: info.clone(), tagged: false, rate: (30, 1), uneven: false, threads: 1 };
    let job = job();
    let profile = job.profiles.first().ok_or("no profile")?;
    let mut encoder = Encoder::start(profile, &setup, engine, START).map_err(|e| e.to_string())?;
    for n in 0..FRAMES {
        let mut frame = gst_video::VideoFrame::from_buffer_writable(
            gst::Buffer::with_size(info.size()).map_err(|e| e.to_string())?,
            &info,
        )
        .map_err(|_| "a frame cannot be mapped".to_owned())?;
        for plane in 0..3 {
            let stride = usize::try_from(info.stride().get(plane).copied().unwrap_or(1)).unwrap_or(1).max(1);
            let data = frame.plane_data_mut(u32::try_from(plane).unwrap_or(0)).map_err(|e| e.to_string())?;
            for (y, row) in (0u32..).zip(data.chunks_mut(stride)) {
                for (x, sample) in (0u32..).zip(row.iter_mut()) {
                    *sample = if plane == 0 { luma(n, x, y) } else { 128 };
                }
            }
        }
        encoder.push(&frame.into_buffer(), START + Ticks(n * STEP.0)).map_err(|e| e.to_string())?;
    }
    let coded: Vec<Coded> = encoder.finish().map_err(|e| e.to_string())?;
    let units: Vec<VideoUnit<'_>> =
        coded.iter().map(|c| VideoUnit { pts: c.pts, dts: c.pts, keyframe: c.keyframe, data: &c.data }).collect();
    Ok(mux(VideoCodec::H264, &units, None, ""))
}

/// Ten frames, the first one a place to start, with its parameter sets.
fn check(frames: u64, file: &[u8]) -> Result<(), String> {
    let video = demux(file).map_err(|e| e.to_string())?.video.ok_or("no video in a rendition")?;
    let first = video.units.first().ok_or("an empty rendition")?;
    let wanted = u64::try_from(FRAMES).unwrap_or(0);
    if frames != wanted || u64::try_from(video.units.len()).ok() != Some(wanted) {
        return Err(format!("{frames} frames reported, {} found, {wanted} sent", video.units.len()));
    }
    if !first.keyframe || h264::find_sps(&first.data).is_none() {
        return Err("a rendition does not start with a key frame and its parameter sets".to_owned());
    }
    Ok(())
}

/// How alike the first rendition's pictures are to what was sent in, in dB of luma.
fn likeness(engine: &Engine, file: &[u8]) -> Result<f64, String> {
    let video = demux(file).map_err(|e| e.to_string())?.video.ok_or("no video")?;
    let mut decoder = Decoder::start(engine, Codec::H264, START, STEP, 1).map_err(|e| e.to_string())?;
    for unit in video.units {
        decoder.push(unit).map_err(|e| e.to_string())?;
    }
    decoder.finish().map_err(|e| e.to_string())?;
    let (mut squares, mut samples, mut info) = (0u64, 0u64, None);
    while let Some(decoded) = decoder.take() {
        match decoded {
            Decoded::Format(found) => info = Some(found),
            Decoded::Unusable(what) => return Err(what),
            Decoded::Frame(frame) => {
                let info = info.as_ref().ok_or("a frame before its format")?;
                let n = (frame.at - START).0 / STEP.0;
                let mapped = gst_video::VideoFrame::from_buffer_readable(frame.picture, info)
                    .map_err(|_| "a frame cannot be mapped".to_owned())?;
                let stride = usize::try_from(mapped.plane_stride().first().copied().unwrap_or(1)).unwrap_or(1).max(1);
                let data = mapped.plane_data(0).map_err(|e| e.to_string())?;
                for (y, row) in (0..SIZE.1).zip(data.chunks(stride)) {
                    for (x, sample) in (0..SIZE.0).zip(row) {
                        squares += u64::from(sample.abs_diff(luma(n, x, y))).pow(2);
                        samples += 1;
                    }
                }
            }
        }
    }
    let frames = u64::try_from(FRAMES).unwrap_or(0) * u64::from(SIZE.0) * u64::from(SIZE.1);
    if samples != frames {
        return Err(format!("{samples} samples came back of {frames}"));
    }
    Ok(psnr(squares, samples))
}

fn psnr(squares: u64, samples: u64) -> f64 {
    if squares == 0 {
        return f64::INFINITY;
    }
    // Ten frames of this size stay far below 2^53.
    #[expect(clippy::cast_precision_loss, reason = "only compared with a bound")]
    let mean = squares as f64 / samples as f64;
    10.0 * (255.0 * 255.0 / mean).log10()
}

/// One HEVC picture of 64×64, grey, made by x265.
const HEVC: &[u8] = include_bytes!("probe/grey.h265");

fn decode_hevc(engine: &Engine) -> Result<(), String> {
    let unit = mpegts::AccessUnit { pts: Some(START), dts: None, keyframe: true, data: HEVC.to_vec() };
    let mut decoder = Decoder::start(engine, Codec::H265, START, STEP, 1).map_err(|e| e.to_string())?;
    decoder.push(unit).and_then(|()| decoder.finish()).map_err(|e| e.to_string())?;
    let frames = std::iter::from_fn(|| decoder.take()).filter(|d| matches!(d, Decoded::Frame(_))).count();
    if frames == 1 { Ok(()) } else { Err(format!("{frames} frames out of one")) }
}
