use gstreamer as gst;
use gstreamer_video as gst_video;
use livepeer::profile::{Profile, VideoCodec, preset};
use mpegts::{AccessUnit, Ticks};

use super::{Codec, Engine, Tuning};
use crate::decode::{Decoded, Decoder};
use crate::encode::{Coded, Encoder, Setup};

const STEP: Ticks = Ticks(3000);
const START: Ticks = Ticks(90_000);

/// Grey pictures that get lighter.
fn picture(n: u8, info: &gst_video::VideoInfo) -> gst::Buffer {
    let (luma, chroma) = (info.stride()[0] as usize * 90, info.size());
    let mut bytes = vec![60 + n * 8; luma];
    bytes.resize(chroma, 128);
    gst::Buffer::from_mut_slice(bytes)
}

fn encode(engine: &Engine, profile: &Profile, frames: u8) -> Vec<Coded> {
    let info = gst_video::VideoInfo::builder(gst_video::VideoFormat::I420, 160, 90).build().unwrap();
    let setup = Setup { frames: info.clone(), tagged: false, rate: (30, 1), uneven: false, threads: 1 };
    let mut encoder = Encoder::start(profile, &setup, engine, START).unwrap();
    for n in 0..frames {
        encoder.push(&picture(n, &info), START + Ticks(i64::from(n) * STEP.0)).unwrap();
    }
    encoder.finish().unwrap()
}

fn decode(engine: &Engine, codec: Codec, coded: &[Coded]) -> Vec<Ticks> {
    let mut decoder = Decoder::start(engine, codec, START, STEP, 1).unwrap();
    for c in coded {
        let unit = AccessUnit { pts: Some(c.pts), dts: None, keyframe: c.keyframe, data: c.data.clone() };
        decoder.push(unit).unwrap();
    }
    decoder.finish().unwrap();
    std::iter::from_fn(|| decoder.take())
        .filter_map(|d| if let Decoded::Frame(f) = d { Some(f.at) } else { None })
        .collect()
}

#[test]
fn whatever_the_main_processor_encodes_it_decodes_again_picture_for_picture() {
    gst::init().unwrap();
    let engine = Engine::software(Tuning::default());
    for codec in [VideoCodec::H264, VideoCodec::H265, VideoCodec::Vp8, VideoCodec::Vp9] {
        if engine.encoder(codec.into()).is_none() {
            println!("{}", engine.encoder_missing(codec.into()));
            continue;
        }
        let sizes = [1u8, 2, 10];
        for (frames, quality) in sizes.into_iter().zip([0, 0, 30]) {
            let profile = Profile { codec, quality, ..preset("240p").unwrap() };
            let coded = encode(&engine, &profile, frames);
            assert_eq!(coded.len(), usize::from(frames), "{codec:?}");
            assert!(coded[0].keyframe, "{codec:?}");
            let shown = decode(&engine, codec.into(), &coded);
            let wanted: Vec<Ticks> = (0..frames).map(|n| START + Ticks(i64::from(n) * STEP.0)).collect();
            assert_eq!(shown, wanted, "{codec:?}");
        }
    }
}
