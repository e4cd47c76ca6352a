//! Codecs, profiles and key frames.
use std::path::PathBuf;

use livepeer::profile::{CodecProfile, Container, Gop, Profile, VideoCodec};
use livepeer::units::{BitsPerSecond, FrameRate};
use millrace_tests::media::{self, aac_frames, frames, stream_field, synthetic};
use millrace_tests::segments::{apart, together};
use mpegts::{AccessUnit, nal};
use sandbox::message::JobError;

use super::probe::{likeness, packets};
use super::{at, bytes, clip, coded, job, made, made_of, mp4, proved, refused, small, times};

/// A second of this codec in this container.
fn source(name: &str, codec: &[&str]) -> PathBuf {
    let picture = ["-f", "lavfi", "-i", "testsrc2=size=160x90:rate=30:duration=1"];
    let tone = ["-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000:duration=1", "-c:a", "aac"];
    media::clip(name, &[&picture[..], &tone, &["-pix_fmt", "yuv420p", "-threads", "1"], codec].concat())
}

const HEVC: [&str; 6] = ["-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "log-level=none:bframes=2"];
const VP9: [&str; 8] = ["-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-b:v", "1M"];
const AV1: [&str; 8] = ["-c:v", "libaom-av1", "-usage", "realtime", "-cpu-used", "8", "-b:v", "500k"];

/// No ffmpeg writes VP8 into an MP4, so our own VP8 is read back in the next test.
#[test]
fn hevc_vp9_and_av1_are_decoded() {
    let sources = [
        ("h264", source("in-264.mp4", &["-c:v", "libx264", "-bf", "2"])),
        ("h265", source("in-265.ts", &HEVC)),
        ("h265", source("in-265.mp4", &HEVC)),
        ("h265", source("in-hvc1.mp4", &[&HEVC[..], &["-tag:v", "hvc1"]].concat())),
        ("vp9", source("in-vp9.mp4", &VP9)),
        ("av1", source("in-av1.mp4", &AV1)),
    ];
    for (codec, input) in sources {
        if !proved(&format!("decode-{codec}")) {
            continue;
        }
        let half = Profile { codec_profile: CodecProfile::H264Main, fps: at(15, 1).fps, ..mp4() };
        let made = made_of(&input, vec![small(), at(15, 1), mp4(), half]);
        assert_eq!(made.done.decoded_frames, 30, "{input:?}");
        assert_eq!(made.done.renditions.iter().map(|r| r.frames).collect::<Vec<_>>(), [30, 15, 30, 15]);
        assert_eq!(made.frames(3).len(), 15, "{input:?}: shown to the last, though decoded in another order");
        assert_eq!(aac_frames(&made.files[0]), aac_frames(&input));
        let db = likeness(&made.files[0], &input);
        assert!(db > 25.0, "{input:?}: {db} dB");
    }
}

#[test]
fn hevc_vp8_and_vp9_are_encoded_where_the_container_carries_them() {
    let input = synthetic("to-codecs.ts", "160x90", "30", "1", true, &["-crf", "10", "-threads", "1"]);
    for (name, codec, container) in [
        ("hevc", VideoCodec::H265, Container::MpegTs),
        ("hevc", VideoCodec::H265, Container::Mp4),
        ("vp8", VideoCodec::Vp8, Container::Mp4),
        ("vp9", VideoCodec::Vp9, Container::Mp4),
    ] {
        if !proved(&format!("encode-{}", name.replace("hevc", "h265"))) {
            let error = refused(&bytes(&input), &job(vec![coded(codec, container)]));
            assert_eq!(error.to_string(), "Encoder not found");
            continue;
        }
        let half = Profile { fps: Some(FrameRate { num: 15, den: 1 }), ..coded(codec, container) };
        let intra = Profile { gop: Gop::Intra, ..coded(codec, container) };
        let often = Profile { gop: Gop::Millis(300), ..coded(codec, container) };
        let made = made_of(&input, vec![coded(codec, container), half, intra, often]);
        let counts: Vec<u64> = made.done.renditions.iter().map(|r| r.frames).collect();
        assert_eq!(counts, [30, 15, 30, 30], "{name}");
        assert_eq!(stream_field(&made.files[0], "v", "codec_name"), name);
        assert_eq!(made.times(0), times(&frames(&input)), "{name}");
        assert!(made.frames(2).iter().all(|f| f.key), "{name}: intra");
        assert_eq!(keys(&made.frames(3)), [0, 9, 18, 27], "{name}");
        let decoded = packets(&made.files[0], "v");
        assert!(decoded.windows(2).all(|w| w[0].1 < w[1].1), "{name}");
        let db = likeness(&made.files[0], &input);
        assert!(db > 25.0, "{name}: {db} dB");
        // Ours is a source again.
        let again = made_of(&made.files[0], vec![small()]);
        assert_eq!((again.done.decoded_frames, again.times(0)), (30, made.times(0)), "{name}");
    }
}

#[test]
fn a_codec_that_the_container_does_not_carry_is_refused_in_the_networks_words() {
    let input = bytes(&clip("tone", "30", "1", true));
    for codec in [VideoCodec::Vp8, VideoCodec::Vp9] {
        let error = refused(&input, &job(vec![coded(codec, Container::MpegTs)]));
        assert_eq!(error.to_string(), "Muxer not found");
    }
    let mpeg2 = source("mpeg2.ts", &["-c:v", "mpeg2video"]);
    assert_eq!(refused(&bytes(&mpeg2), &job(vec![small()])).to_string(), "Unsupported input codec");
    let mpeg4 = source("mpeg4.mp4", &["-c:v", "mpeg4"]);
    assert_eq!(refused(&bytes(&mpeg4), &job(vec![small()])).to_string(), "Unsupported input codec");
}

/// Stock: `TestTranscoder_EncodingProfiles`.
#[test]
fn profiles_are_what_was_asked_with_their_b_frames() {
    let input = clip("profiles", "30", "1", false);
    let with = |codec_profile, fps: Option<u32>| Profile {
        codec_profile,
        fps: fps.map(|num| FrameRate { num, den: 1 }),
        ..small()
    };
    let table = [
        (CodecProfile::H264Baseline, "Constrained Baseline", false),
        (CodecProfile::H264Main, "Main", true),
        (CodecProfile::H264High, "High", true),
        (CodecProfile::H264ConstrainedHigh, "High", false),
    ];
    for fps in [None, Some(30)] {
        let made = made_of(&input, table.iter().map(|row| with(row.0, fps)).collect());
        for (file, (profile, name, reorders)) in made.files.iter().zip(table) {
            assert_eq!(stream_field(file, "v", "profile"), name, "{profile:?}");
            let delayed = packets(file, "v").iter().any(|p| p.0 != p.1);
            assert_eq!(delayed, reorders, "{profile:?} at {fps:?}");
        }
    }
}

fn keys(frames: &[media::Shown]) -> Vec<usize> {
    frames.iter().enumerate().filter(|(_, f)| f.key).map(|(n, _)| n).collect()
}

/// Stock: `TestAPI_SetGOPs`.
#[test]
fn key_frames_come_as_often_as_asked() {
    let input = media::clip(
        "calm.ts",
        &[
            "-f",
            "lavfi",
            "-i",
            "color=gray:size=160x90:rate=30:duration=3",
            "-c:v",
            "libx264",
            "-g",
            "300",
            "-threads",
            "1",
        ],
    );
    let with = |gop, fps: Option<u32>| Profile { gop, fps: fps.map(|num| FrameRate { num, den: 1 }), ..small() };
    let profiles = vec![
        with(Gop::Millis(500), None),
        with(Gop::Millis(500), Some(20)),
        with(Gop::Intra, None),
        with(Gop::Intra, Some(10)),
        with(Gop::EncoderDefault, None),
        with(Gop::Millis(1001), Some(30)),
    ];
    let made = made_of(&input, profiles);
    assert_eq!(keys(&made.frames(0)), [0, 15, 30, 45, 60, 75]);
    assert_eq!(keys(&made.frames(1)), [0, 10, 20, 30, 40, 50]);
    assert_eq!(keys(&made.frames(2)), (0..90).collect::<Vec<_>>());
    assert_eq!(keys(&made.frames(3)), (0..30).collect::<Vec<_>>());
    assert_eq!(keys(&made.frames(4)), [0]);
    assert_eq!(keys(&made.frames(5)), [0, 30, 60]);
}

#[test]
fn key_frames_come_by_the_clock_when_frames_do_not() {
    let more = ["-vf", "setpts='PTS+floor(N/10)*0.4/TB'", "-fps_mode", "passthrough", "-enc_time_base", "1:90000"];
    let input = synthetic("gaps.ts", "160x90", "30", "2", false, &[&more[..], &["-bf", "0", "-threads", "1"]].concat());
    let made = made_of(&input, vec![Profile { gop: Gop::Millis(700), ..small() }]);
    let frames = made.frames(0);
    let times = times(&frames);
    assert_eq!(frames.len(), 60);
    let mut due = times[0];
    for (frame, at) in frames.iter().zip(times) {
        if at >= due {
            assert!(frame.key, "a key frame is due at {at}");
            due = at + 63_000;
        }
    }
}

#[test]
fn quality_instead_of_a_rate_spends_what_the_pictures_need() {
    let input = synthetic("busy.ts", "160x90", "30", "1", false, &["-crf", "8", "-threads", "1"]);
    let with = |quality, bits| Profile { quality, bitrate: BitsPerSecond(bits), ..small() };
    let made = made_of(&input, vec![with(20, 4_000_000), with(40, 4_000_000), with(63, 4_000_000), with(30, 0)]);
    let sizes: Vec<u64> = made.done.renditions.iter().map(|r| r.bytes).collect();
    assert!(sizes[0] > 2 * sizes[1] && sizes[1] > sizes[2], "{sizes:?}");
    let likeness: Vec<f64> = made.files.iter().map(|file| likeness(file, &input)).collect();
    assert!(likeness[0] > likeness[1] + 3.0 && likeness[1] > likeness[2], "{likeness:?}");
    assert!(likeness[3] > likeness[1], "a quality without a rate is not held to none: {likeness:?}");
}

/// Stock: `TestTranscoder_NoKeyframe`.
#[test]
fn a_segment_without_a_key_frame_is_refused() {
    for (name, codec) in [("h264", &["-c:v", "libx264"][..]), ("hevc", &HEVC)] {
        let (codec, mut units, audio) =
            apart(&bytes(&source(&format!("keys-{name}.ts"), &[codec, &["-g", "60"]].concat())));
        units.retain(|u| !u.keyframe);
        assert_eq!(units.len(), 29);
        let keyless = together(codec, &units, audio.as_ref());
        assert_eq!(refused(&keyless, &job(vec![small()])), JobError::NoKeyframes, "{name}");
    }
    assert_eq!(JobError::NoKeyframes.to_string(), "No keyframes in input");
}

#[test]
fn a_key_frame_that_comes_late_is_where_pictures_begin() {
    for (name, codec) in [("h264", &["-c:v", "libx264", "-bf", "0"][..]), ("hevc", &HEVC)] {
        let input = source(&format!("late-{name}.ts"), &[codec, &["-g", "10", "-keyint_min", "10"]].concat());
        let (codec, units, audio) = apart(&bytes(&input));
        let late = together(codec, &units[4..], audio.as_ref());
        let made = made(&late, &job(vec![small(), at(30, 1)]));
        assert!((20..=26).contains(&made.done.decoded_frames), "{name}: {}", made.done.decoded_frames);
        assert_eq!(made.done.renditions[0].frames, made.done.decoded_frames);
        let last = units.iter().filter_map(|u| u.pts).max().unwrap().0;
        assert_eq!(made.times(0).last(), Some(&last), "{name}");
    }
}

#[test]
fn open_groups_of_pictures_lose_no_time() {
    let input = source(
        "open.ts",
        &["-c:v", "libx264", "-bf", "3", "-g", "10", "-x264-params", "open-gop=1:keyint=10:min-keyint=10"],
    );
    let (codec, units, _) = apart(&bytes(&input));
    let starts: Vec<usize> = (1..units.len()).filter(|n| units[*n].keyframe).collect();
    let at = starts[starts.len() / 2];
    let made = made(&together(codec, &units[at..], None), &job(vec![small()]));
    let source: Vec<i64> = units.iter().filter_map(|u| u.pts).map(|t| t.0).collect();
    assert!(made.times(0).iter().all(|t| source.contains(t)), "no time is moved");
    assert!(made.done.decoded_frames + 4 >= (units.len() - at) as u64);
}

/// The NAL units of a picture, each with a start code.
fn units_of(unit: &AccessUnit) -> Vec<Vec<u8>> {
    nal::units(&unit.data).map(|n| [&[0, 0, 0, 1], n.bytes(&unit.data)].concat()).collect()
}

/// Stock: `TestNvidia_H264Parser` and its `TestFixMisplacedSEI` on broken files.
#[test]
fn messages_behind_the_slices_of_a_picture_are_no_trouble() {
    let input = source(
        "sei.ts",
        &[
            "-c:v",
            "libx264",
            "-bf",
            "2",
            "-x264-params",
            "nal-hrd=cbr:pic-struct=1",
            "-b:v",
            "500k",
            "-maxrate",
            "500k",
            "-bufsize",
            "500k",
        ],
    );
    let (codec, mut units, audio) = apart(&bytes(&input));
    let mut moved = 0;
    for unit in &mut units {
        let (messages, mut others): (Vec<_>, Vec<_>) = units_of(unit).into_iter().partition(|n| n[4] & 0x1f == 6);
        moved += messages.len();
        others.extend(messages);
        unit.data = others.concat();
    }
    assert!(moved >= 30, "the clip has messages: {moved}");
    let made = made(&together(codec, &units, audio.as_ref()), &job(vec![small(), at(30, 1)]));
    assert_eq!(made.done.decoded_frames, 30);
    assert_eq!(made.times(0), times(&frames(&input)));
}

#[test]
fn pictures_may_come_without_delimiters_in_many_slices_and_with_padding() {
    let input = source("slices.ts", &["-c:v", "libx264", "-bf", "2", "-x264-params", "slices=4:aud=0"]);
    let wanted = times(&frames(&input));
    let (_, units, _) = apart(&bytes(&input));
    // No delimiters, filler units behind each picture, zeros at the end.
    let mut bare: Vec<AccessUnit> = units;
    for unit in &mut bare {
        let mut nals: Vec<Vec<u8>> = units_of(unit).into_iter().filter(|n| n[4] & 0x1f != 9).collect();
        nals.push(vec![0, 0, 0, 1, 12, 0xff, 0xff, 0xff, 0x80, 0, 0, 0]);
        unit.data = nals.concat();
    }
    assert!(bare.iter().all(|u| units_of(u).len() >= 5));
    let stream = bytes(&input);
    let plain = made(&stream, &job(vec![small()]));
    assert_eq!(plain.times(0), wanted);
    let made = made(&together(mpegts::VideoCodec::H264, &bare, None), &job(vec![small()]));
    assert_eq!(made.times(0), wanted);
}

#[test]
fn a_worker_says_of_every_ability_whether_it_has_it() {
    let worker = super::Borrowed::get();
    let ready = worker.ready();
    let formats = ["444", "422", "444-10", "422-10", "420-10"].map(|f| format!("decode-h264-{f}"));
    let codecs = ["decode-h265", "decode-vp8", "decode-vp9", "encode-h265", "encode-vp8", "encode-vp9"];
    for ability in codecs.map(str::to_owned).into_iter().chain(formats) {
        let refused = ready.refused.iter().find(|r| r.0 == ability);
        assert_ne!(ready.proved.contains(&ability), refused.is_some(), "{ability}: {ready:?}");
        assert!(refused.is_none_or(|r| !r.1.is_empty()), "{ability} is refused without a word");
    }
    for certain in ["decode-h264", "encode-h264", "scale", "mpegts", "mux-mp4"] {
        assert!(ready.proved.iter().any(|a| a == certain), "{certain}: {ready:?}");
    }
    println!("proved {:?}, refused {:?}", ready.proved, ready.refused);
}
