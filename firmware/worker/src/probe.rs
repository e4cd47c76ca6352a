//! What truly works here, found out by doing it: a known clip is encoded, transcoded and compared.
//!
//! Walk 4, step 3. That an element is registered proves nothing. Every worker does what is here before its first job;
//! what takes longer is in [`proof`], for a worker that is thrown away afterwards.
use livepeer::profile::{Container, Profile, VideoCodec, preset};
use mpegts::AccessUnit;
use sandbox::message::{Clip, Job, Limits, Signatures};

use crate::decode::{Decoded, Decoder};
use crate::encode::{Encoder, Setup};
use crate::engine::{Codec, Engine};
use crate::pipeline::transcode;
use crate::scale::{Scaler, planar};
use crate::signature;

mod clip;
mod proof;

pub use proof::prove;

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

/// Pictures of the clip.
const FRAMES: i64 = 10;

/// Proves an engine, as the product uses it.
///
/// # Errors
/// [`Unfit`] when H.264 cannot be decoded and encoded here, or not by the silicon that the engine is named after.
pub fn probe(engine: &Engine) -> Result<Findings, Unfit> {
    if engine.decoder(Codec::H264).is_none() || (engine.decodes_in_silicon() && !engine.decodes_itself(Codec::H264)) {
        return Err(Unfit::Missing(engine.decoder_missing(Codec::H264)));
    }
    if engine.encoder(Codec::H264).is_none() || (engine.encodes_in_silicon() && !engine.encodes_itself(Codec::H264)) {
        return Err(Unfit::Missing(engine.encoder_missing(Codec::H264)));
    }
    let sizes = [clip::SIZE, (146, 82)];
    round(engine, &sizes, FRAMES).map_err(Unfit::Broken)?;
    let mut findings = Findings::default();
    findings.proved.extend(["decode-h264", "encode-h264", "scale", "mpegts", "mux-mp4"].map(str::to_owned));
    let mut note = |ability: String, outcome: Result<(), String>| match outcome {
        Ok(()) => findings.proved.push(ability),
        Err(reason) => findings.refused.push((ability, reason)),
    };
    for (codec, picture) in GREY {
        note(format!("decode-{}", codec.name()), decode_grey(engine, codec, picture));
    }
    for (format, picture) in FORMATS {
        note(format!("decode-h264-{format}"), decode_grey(engine, Codec::H264, picture));
    }
    for codec in [VideoCodec::H265, VideoCodec::Vp8, VideoCodec::Vp9] {
        note(format!("encode-{}", Codec::from(codec).name()), encode_grey(engine, codec));
    }
    note("signature-mpeg7".to_owned(), signature::prove());
    // No stream has these sizes, and devices have few sessions.
    engine.warm().clear();
    Ok(findings)
}

/// The main processor, which makes the clip and looks at what comes back.
fn reference(engine: &Engine) -> Engine {
    Engine::software(engine.tuning().clone())
}

/// Transcodes the clip once to these sizes, and looks at every rendition.
fn round(engine: &Engine, sizes: &[(u32, u32)], frames: i64) -> Result<(), String> {
    let reference = reference(engine);
    let job = job(sizes);
    let profile = preset("240p").ok_or("no profile")?;
    let clip = clip::make(&reference, &profile, frames)?;
    let output = transcode(&clip, &job, engine).map_err(|e| e.to_string())?;
    for (rendition, file) in output.done.renditions.iter().zip(&output.files) {
        if i64::try_from(rendition.frames).ok() != Some(frames) {
            return Err(format!("{} frames reported of {frames}", rendition.frames));
        }
        let size = (rendition.width, rendition.height);
        clip::check(&reference, frames, size, file).map_err(|e| format!("{}x{}: {e}", size.0, size.1))?;
    }
    Ok(())
}

fn job(sizes: &[(u32, u32)]) -> Job {
    // Both containers, in turn.
    let profile = |(index, &(width, height)): (usize, &(u32, u32))| Profile {
        name: format!("{width}x{height}"),
        width,
        height,
        container: if index % 2 == 0 { Container::MpegTs } else { Container::Mp4 },
        ..preset("240p").expect("a preset that is in the table")
    };
    Job {
        id: 0,
        profiles: sizes.iter().enumerate().map(profile).collect(),
        clip: None::<Clip>,
        limits: Limits::default(),
        threads: 1,
        service_provider: String::new(),
        signatures: Signatures::None,
        video_seen: false,
    }
}

/// One picture of 64×64, grey, of each codec; made by x265, libvpx and libaom.
const GREY: [(Codec, &[u8]); 4] = [
    (Codec::H265, include_bytes!("probe/grey.h265")),
    (Codec::Vp8, include_bytes!("probe/grey.vp8")),
    (Codec::Vp9, include_bytes!("probe/grey.vp9")),
    (Codec::Av1, include_bytes!("probe/grey.av1")),
];

/// The same in H.264 of other chroma and depth; made by x264.
const FORMATS: [(&str, &[u8]); 5] = [
    ("444", include_bytes!("probe/grey-444.h264")),
    ("422", include_bytes!("probe/grey-422.h264")),
    ("444-10", include_bytes!("probe/grey-444-10.h264")),
    ("422-10", include_bytes!("probe/grey-422-10.h264")),
    ("420-10", include_bytes!("probe/grey-420-10.h264")),
];

/// Decodes a picture and makes of it what an encoder takes.
fn decode_grey(engine: &Engine, codec: Codec, picture: &[u8]) -> Result<(), String> {
    let unit = AccessUnit { pts: Some(clip::START), dts: None, keyframe: true, data: picture.to_vec() };
    let mut decoder = Decoder::start(engine, codec, clip::START, clip::STEP, 1).map_err(|e| e.to_string())?;
    decoder.push(unit).and_then(|()| decoder.finish()).map_err(|e| e.to_string())?;
    let (mut format, mut frames) = (None, 0);
    while let Some(decoded) = decoder.take() {
        match decoded {
            Decoded::Format(found) => format = Some(found),
            Decoded::Unusable(what) => return Err(what),
            Decoded::Frame(frame) => {
                let found = format.as_ref().ok_or("a frame before its format")?;
                let wanted = planar(engine, found, clip::SIZE).map_err(|e| e.to_string())?;
                if let Some(scaler) = Scaler::between(engine, found, &wanted).map_err(|e| e.to_string())? {
                    scaler.scale(&frame.picture).map_err(|e| e.to_string())?;
                }
                frames += 1;
            }
        }
    }
    if frames == 1 { Ok(()) } else { Err(format!("{frames} frames out of one")) }
}

/// Encodes what a decoded grey picture is, scaled to the clip's size, and decodes it again.
fn encode_grey(engine: &Engine, codec: VideoCodec) -> Result<(), String> {
    let text = |e: crate::stage::Error| e.to_string();
    let (format, picture) = grey(engine)?;
    let setup = Setup { frames: format, tagged: false, rate: (30, 1), uneven: false, threads: 1 };
    let profile = Profile { codec, ..preset("240p").ok_or("no profile")? };
    let mut encoder = Encoder::start(&profile, &setup, engine, clip::START).map_err(text)?;
    encoder.push(&picture, clip::START).map_err(text)?;
    let coded = encoder.finish().map_err(text)?;
    match coded.as_slice() {
        [one] if one.keyframe => decode_grey(&reference(engine), codec.into(), &one.data),
        other => Err(format!("{} pictures out of one", other.len())),
    }
}

/// A grey picture where the engine's scaler has its pictures.
fn grey(engine: &Engine) -> Result<(gstreamer_video::VideoInfo, gstreamer::Buffer), String> {
    let reference = reference(engine);
    let file = clip::make(&reference, &preset("240p").ok_or("no profile")?, 1)?;
    let video = mpegts::demux(&file).map_err(|e| e.to_string())?.video.ok_or("no video")?;
    let mut decoder = Decoder::start(engine, Codec::H264, clip::START, clip::STEP, 1).map_err(|e| e.to_string())?;
    for unit in video.units {
        decoder.push(unit).map_err(|e| e.to_string())?;
    }
    decoder.finish().map_err(|e| e.to_string())?;
    let mut format = None;
    while let Some(decoded) = decoder.take() {
        match decoded {
            Decoded::Format(found) => format = Some(found),
            Decoded::Unusable(what) => return Err(what),
            Decoded::Frame(frame) => return Ok((format.ok_or("a frame before its format")?, frame.picture)),
        }
    }
    Err("no picture".to_owned())
}
