//! The whole proof of an engine, for a worker that is thrown away afterwards: drivers that are broken hang and crash.
//!
//! *Source:* media.md §1.4.
use livepeer::profile::{Gop, Profile, preset};
use livepeer::units::FrameRate;
use sandbox::message::Proof;

use super::{Findings, clip, grey, job, reference, round};
use crate::encode::{Encoder, Setup};
use crate::engine::Engine;
use crate::pipeline::transcode;

/// Encoders that are opened at most to find out how many there may be.
const MOST_SESSIONS: u32 = 32;
/// The smallest picture that encoders take, and the largest that is announced, with two between.
const LADDER: [(u32, u32); 4] = [(1920, 1080), (640, 360), clip::SIZE, (146, 82)];
/// Lengths that decoders and encoders are known to lose pictures of.
const SHORT: [i64; 5] = [1, 2, 3, 5, 6];

/// Proves an engine on what its worker found out before.
///
/// # Errors
/// What it did wrong, in words.
pub fn prove(engine: &Engine, findings: Findings) -> Result<Proof, String> {
    // Twice, so that elements which outlive a segment have done so.
    for _ in 0..2 {
        round(engine, &LADDER, super::FRAMES).map_err(|e| format!("a ladder: {e}"))?;
    }
    for frames in SHORT {
        let sizes = [clip::SIZE, (160, 90)];
        round(engine, &sizes, frames).map_err(|e| format!("a segment of {frames}: {e}"))?;
    }
    key_frames(engine)?;
    let sessions = if engine.encodes_in_silicon() { Some(sessions(engine)?) } else { None };
    Ok(Proof {
        engine: engine.name(),
        framework: gstreamer::version_string().to_string(),
        proved: findings.proved,
        refused: findings.refused,
        sessions,
    })
}

/// A key frame comes where it is wanted and nowhere else.
fn key_frames(engine: &Engine) -> Result<(), String> {
    let file = clip::make(&reference(engine), &preset("240p").ok_or("no profile")?, super::FRAMES)?;
    let mut job = job(&[clip::SIZE]);
    for profile in &mut job.profiles {
        // Five frames.
        profile.gop = Gop::Millis(167);
        profile.fps = Some(FrameRate { num: 30, den: 1 });
    }
    let output = transcode(&file, &job, engine).map_err(|e| format!("key frames: {e}"))?;
    let file = output.files.first().ok_or("no rendition")?;
    let video = mpegts::demux(file).map_err(|e| e.to_string())?.video.ok_or("no video")?;
    let keys: Vec<usize> = video.units.iter().enumerate().filter(|(_, u)| u.keyframe).map(|(n, _)| n).collect();
    if keys == [0, 5] { Ok(()) } else { Err(format!("key frames wanted at 0 and 5 came at {keys:?}")) }
}

/// Encoders that can be open at a time; every one gets a picture, since some devices notice only then.
fn sessions(engine: &Engine) -> Result<u32, String> {
    let (format, picture) = grey(engine)?;
    engine.warm().clear();
    let mut open = Vec::new();
    for n in 0..MOST_SESSIONS {
        // No two alike, so that none is one that waits from before.
        let bitrate = livepeer::units::BitsPerSecond(1_000_000 + n * 1000);
        let profile = Profile { bitrate, ..preset("240p").ok_or("no profile")? };
        let setup = Setup { frames: format.clone(), tagged: false, rate: (30, 1), uneven: false, threads: 1 };
        let started = Encoder::start(&profile, &setup, engine, clip::START)
            .and_then(|mut encoder| encoder.push(&picture, clip::START).map(|()| encoder));
        match started {
            Ok(encoder) => open.push(encoder),
            Err(_) => break,
        }
    }
    // What a device does not take may also show when it is to give back.
    let kept = open.into_iter().map(Encoder::finish).take_while(Result::is_ok).count();
    match u32::try_from(kept) {
        Ok(kept) if kept > 0 => Ok(kept),
        _ => Err("not one encoder can be opened".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Tuning;

    #[test]
    fn the_main_processor_passes_the_whole_proof() {
        gstreamer::init().unwrap();
        let engine = Engine::software("preset=ultrafast".parse::<Tuning>().unwrap());
        let proof = prove(&engine, super::super::probe(&engine).unwrap()).unwrap();
        assert_eq!((proof.engine.as_str(), proof.sessions), ("software", None));
        assert!(proof.proved.contains(&"encode-h264".to_owned()));
    }

    #[test]
    fn an_engine_named_after_silicon_that_is_not_there_is_refused_and_not_stood_in_for() {
        gstreamer::init().unwrap();
        for name in ["nvidia", "nvidia+software", "va", "jetson", "qsv", "v4l2", "software+v4l2"] {
            if gstreamer::ElementFactory::find("nvh264dec").is_some() {
                continue;
            }
            let engine = Engine::named(name, Tuning::default()).unwrap();
            let refused = super::super::probe(&engine).unwrap_err().to_string();
            assert!(refused.contains("is missing: install the package"), "{name}: {refused}");
        }
    }
}
