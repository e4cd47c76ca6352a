use gstreamer as gst;
use gstreamer_video as gst_video;
use livepeer::profile::{CodecProfile, Gop, Profile, VideoCodec, preset};
use livepeer::units::{BitsPerSecond, FrameRate};
use mpegts::{AccessUnit, Ticks};
use sandbox::preset::Preset;

use super::route::Route;
use super::table::{DecoderRow, EncoderRow, KeyFrames, Life, Memory, Row, ScalerRow, Setting, set};
use super::{Codec, Engine, Tuning};
use crate::decode::{Decoded, Decoder};
use crate::encode::{Coded, Encoder, Setup};

const STEP: Ticks = Ticks(3000);
const START: Ticks = Ticks(90_000);

/// Grey pictures that get lighter.
fn picture(n: u8, info: &gst_video::VideoInfo) -> gst::Buffer {
    let mut bytes = vec![60 + n * 8; info.offset()[1]];
    bytes.resize(info.size(), 128);
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

/// Software that behaves as silicon must: made once for a stream, a segment ends when every picture is back.
const PERSISTENT_DECODER: &[DecoderRow] = &[DecoderRow {
    codec: Codec::H264,
    parser: Some("h264parse"),
    element: "avdec_h264",
    package: "",
    memory: Memory::System,
    life: Life::Persistent,
    settings: &[set("qos", &["false"]), set("max-threads", &["2"])],
}];

const fn persistent(element: &'static str, settings: &'static [Setting]) -> EncoderRow {
    EncoderRow {
        codec: Codec::H264,
        element,
        package: "",
        memory: Memory::System,
        formats: &["I420"],
        life: Life::Persistent,
        key_frames: KeyFrames::Event,
        bframes: 0,
        wanted: "profile={profile}",
        settings,
    }
}

const X264: &[EncoderRow] = &[persistent(
    "x264enc",
    &[
        set("tune", &["zerolatency"]),
        set("speed-preset", &["ultrafast"]),
        set("bitrate", &["{kbit}"]),
        set("pass", &["cbr"]),
        set("bframes", &["0"]),
        set("key-int-max", &["3600"]),
        set("aud", &["true"]),
    ],
)];

const OPENH264: &[EncoderRow] = &[persistent(
    "openh264enc",
    &[
        set("rate-control", &["bitrate"]),
        set("max-bitrate", &["{bit}"]),
        set("bitrate", &["{bit}"]),
        set("gop-size", &["3600"]),
    ],
)];

/// An encoder with a lookahead keeps pictures back: no good for silicon's part.
const HOARDER: &[EncoderRow] = &[persistent(
    "x264enc",
    &[set("speed-preset", &["ultrafast"]), set("rc-lookahead", &["10"]), set("bframes", &["0"])],
)];

/// The same engine, but with the decoder and the encoder that a test names.
fn rehearsal(encoders: &'static [EncoderRow]) -> Engine {
    let scaler = ScalerRow { element: Some("videoscale"), memory: Memory::System, settings: &[] };
    let row = Box::leak(Box::new(Row { name: "rehearsal", decoders: PERSISTENT_DECODER, scaler, encoders }));
    Engine::of(Route { decode: row, scale: row, encode: row }, Tuning::default())
}

fn segment(frames: u8, bframes: u32) -> Vec<Coded> {
    let tuning = Tuning { bframes: Some(bframes), ..Tuning::default() };
    encode(&Engine::software(tuning), &preset("360p").unwrap(), frames)
}

#[test]
fn persistent_elements_give_every_picture_of_short_segments_and_go_on_with_the_next() {
    gst::init().unwrap();
    for encoders in [X264, OPENH264] {
        let engine = rehearsal(encoders);
        if engine.encoder(Codec::H264).is_none_or(|row| row.life != Life::Persistent) {
            println!("element {} is missing", encoders[0].element);
            continue;
        }
        let profile = preset("240p").unwrap();
        for round in 0..2 {
            for frames in [1u8, 2, 3, 5, 6, 10] {
                // A source with B-frames: its decoder holds pictures back until it is told of a new stream.
                let source = segment(frames, 2);
                let wanted: Vec<Ticks> = (0..frames).map(|n| START + Ticks(i64::from(n) * STEP.0)).collect();
                assert_eq!(decode(&engine, Codec::H264, &source), wanted, "decoded, {frames} frames");
                let coded = encode(&engine, &profile, frames);
                let times: Vec<Ticks> = coded.iter().map(|c| c.pts).collect();
                assert_eq!(times, wanted, "encoded, {frames} frames");
                let keys: Vec<bool> = coded.iter().map(|c| c.keyframe).collect();
                assert!(keys[0] && keys[1..].iter().all(|key| !key), "round {round}: {keys:?}");
                // Each segment stands alone: a decoder that saw nothing before decodes all of it.
                assert_eq!(decode(&Engine::software(Tuning::default()), Codec::H264, &coded), wanted);
                assert_eq!(engine.warm().waiting(), 2, "one decoder and one encoder wait");
            }
        }
    }
}

#[test]
fn a_persistent_encoder_makes_key_frames_where_the_segment_wants_them() {
    gst::init().unwrap();
    let engine = rehearsal(X264);
    let fps = Some(FrameRate { num: 30, den: 1 });
    let keys = |gop, fps| -> Vec<usize> {
        let profile = Profile { gop, fps, ..preset("240p").unwrap() };
        let coded = encode(&engine, &profile, 10);
        coded.iter().enumerate().filter(|(_, c)| c.keyframe).map(|(n, _)| n).collect()
    };
    for _ in 0..2 {
        assert_eq!(keys(Gop::Millis(100), fps), [0, 3, 6, 9], "counted in frames");
        assert_eq!(keys(Gop::Millis(200), None), [0, 6], "by the clock");
        assert_eq!(keys(Gop::Intra, fps), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(keys(Gop::EncoderDefault, None), [0]);
    }
    assert_eq!(engine.warm().waiting(), 1, "all of these are one encoder, asked differently");
}

#[test]
fn an_encoder_that_keeps_pictures_back_is_found_out_and_not_used_again() {
    gst::init().unwrap();
    let engine = rehearsal(HOARDER);
    let info = gst_video::VideoInfo::builder(gst_video::VideoFormat::I420, 160, 90).build().unwrap();
    let setup = Setup { frames: info.clone(), tagged: false, rate: (30, 1), uneven: false, threads: 1 };
    let mut encoder = Encoder::start(&preset("240p").unwrap(), &setup, &engine, START).unwrap();
    encoder.push(&picture(0, &info), START).unwrap();
    let error = encoder.finish_within(std::time::Duration::from_millis(100)).unwrap_err().to_string();
    assert!(error.contains("x264enc") && error.contains("did not come in time"), "{error}");
    assert_eq!(engine.warm().waiting(), 0);
}

#[test]
fn no_more_elements_wait_than_a_stream_can_use() {
    gst::init().unwrap();
    let engine = rehearsal(X264);
    for kilobits in 1..=30 {
        let profile = Profile { bitrate: BitsPerSecond(kilobits * 100_000), ..preset("240p").unwrap() };
        assert_eq!(encode(&engine, &profile, 1).len(), 1);
    }
    assert_eq!(engine.warm().waiting(), 24);
}

#[test]
fn what_a_segment_does_not_use_is_closed_when_the_next_one_begins() {
    gst::init().unwrap();
    let engine = rehearsal(X264);
    let encode_at = |kilobits: u32| {
        engine.warm().sweep();
        let profile = Profile { bitrate: BitsPerSecond(kilobits * 1000), ..preset("240p").unwrap() };
        assert_eq!(encode(&engine, &profile, 2).len(), 2);
    };
    encode_at(500);
    encode_at(500);
    assert_eq!(engine.warm().waiting(), 1, "the same one, used again");
    encode_at(900);
    assert_eq!(engine.warm().waiting(), 2);
    encode_at(900);
    assert_eq!(engine.warm().waiting(), 1, "the first was passed over");
    engine.warm().clear();
    assert_eq!(engine.warm().waiting(), 0);
}

/// What x264 says of its own settings in the first picture.
fn told(aim: Preset, codec_profile: CodecProfile, size: (u32, u32)) -> String {
    let engine = Engine::software(aim.into());
    let info = gst_video::VideoInfo::builder(gst_video::VideoFormat::I420, size.0, size.1).build().unwrap();
    let setup = Setup { frames: info.clone(), tagged: false, rate: (30, 1), uneven: false, threads: 1 };
    let profile = Profile { codec_profile, ..preset("240p").unwrap() };
    let mut encoder = Encoder::start(&profile, &setup, &engine, START).unwrap();
    encoder.push(&picture(0, &info), START).unwrap();
    let coded = encoder.finish().unwrap();
    let text = String::from_utf8_lossy(&coded[0].data).into_owned();
    let (_, options) = text.split_once(" options: ").expect("x264 tells its settings");
    options.chars().take_while(|c| c.is_ascii_graphic() || *c == ' ').collect()
}

#[test]
fn x264_does_as_the_preset_says_for_pictures_of_each_size() {
    gst::init().unwrap();
    let open = CodecProfile::EncoderDefault;
    for (aim, size, wanted) in [
        (Preset::Latency, (426, 240), "subme=1 mbtree=1 rc_lookahead=10 trellis=0 bframes=1"),
        (Preset::Balanced, (426, 240), "subme=2 mbtree=1 rc_lookahead=10 trellis=1 bframes=1"),
        (Preset::Balanced, (854, 480), "subme=2 mbtree=1 rc_lookahead=10 trellis=1 bframes=1"),
        (Preset::Balanced, (1280, 720), "subme=1 mbtree=1 rc_lookahead=10 trellis=0 bframes=0"),
        (Preset::Quality, (640, 360), "subme=4 mbtree=1 rc_lookahead=20 trellis=1 ref=2 bframes=1"),
        (Preset::Quality, (1920, 1080), "subme=4 mbtree=1 rc_lookahead=20 trellis=1 ref=1 bframes=0"),
    ] {
        let options = told(aim, open, size);
        let all: Vec<&str> = options.split(' ').collect();
        for option in wanted.split(' ') {
            assert!(all.contains(&option), "{aim} {size:?}: no {option} in {options}");
        }
    }
    let strict = told(Preset::Balanced, CodecProfile::H264ConstrainedHigh, (426, 240));
    assert!(strict.contains("bframes=0"), "the profile allows none: {strict}");
    let begun = Engine::software(Preset::Balanced.into());
    let from_nought = |first| {
        let info = gst_video::VideoInfo::builder(gst_video::VideoFormat::I420, 426, 240).build().unwrap();
        let setup = Setup { frames: info.clone(), tagged: false, rate: (30, 1), uneven: false, threads: 1 };
        let mut encoder = Encoder::start(&preset("240p").unwrap(), &setup, &begun, first).unwrap();
        encoder.push(&picture(0, &info), first).unwrap();
        String::from_utf8_lossy(&encoder.finish().unwrap()[0].data).contains(" bframes=0 ")
    };
    assert!(from_nought(Ticks(0)) && !from_nought(START), "where time begins there is nothing to decode earlier");
    let high = told(Preset::Balanced, CodecProfile::H264High, (1280, 720));
    assert!(high.contains("bframes=3"), "the profile stands for three: {high}");
}
