//! Sizes, shapes and formats of pictures.
use livepeer::profile::{CodecProfile, Profile, VideoCodec, output_size, preset};
use livepeer::units::BitsPerSecond;
use millrace_tests::media::{self, stream_field, synthetic};
use millrace_tests::segments::{apart, together};
use mpegts::Ticks;
use sandbox::message::JobError;

use super::probe::{likeness, run, text};
use super::{at, bytes, clip, job, made, made_of, refused, small};

fn asked(width: u32, height: u32) -> Profile {
    Profile { width, height, bitrate: BitsPerSecond(50_000), ..small() }
}

/// Stock: `TestTranscoder_Resolution`, with its table.
#[test]
fn the_longer_side_is_what_is_asked_and_the_other_follows_within_limits() {
    let table = [
        ("150x200", (0, 250), (188, 250)),
        ("200x300", (0, 427), (284, 426)),
        ("200x300", (426, 0), (284, 426)),
        ("123x456", (0, 426), (146, 542)),
        ("200x300", (0, 428), (286, 428)),
        ("400x456", (0, 40), (146, 166)),
        ("456x123", (426, 0), (426, 114)),
        ("456x123", (0, 301), (300, 80)),
        ("456x400", (100, 0), (146, 128)),
        ("500x100", (0, 200), (250, 50)),
        ("456x120", (0, 400), (400, 106)),
        ("123x123", (426, 0), (426, 426)),
    ];
    for (source, (width, height), wanted) in table {
        let (w, h) = source.split_once('x').unwrap();
        let cut = format!("format=yuv444p,crop={w}:{h}:0:0:exact=1");
        let more = ["-vf", &cut, "-pix_fmt", "yuv444p", "-threads", "1"];
        let input = synthetic("size.ts", "512x512", "10", "0.2", false, &more);
        assert_eq!(stream_field(&input, "v", "width"), w);
        let made = made_of(&input, vec![asked(width, height)]);
        let said = &made.done.renditions[0];
        assert_eq!((said.width, said.height), wanted, "{source} asked for {width}x{height}");
    }
}

/// Stock: `TestNvidia_Portrait`.
#[test]
fn a_portrait_source_makes_portrait_renditions() {
    let input = synthetic("portrait.ts", "90x160", "30", "0.5", true, &["-threads", "1"]);
    let made = made_of(&input, vec![small(), preset("240p").unwrap()]);
    let sizes: Vec<_> = made.done.renditions.iter().map(|r| (r.width, r.height)).collect();
    assert_eq!(sizes, [(146, 260), (240, 426)]);
}

#[test]
fn a_picture_too_long_for_any_encoder_is_the_streams_fault() {
    let input = synthetic("needle.ts", "16x3000", "10", "0.3", false, &["-threads", "1"]);
    assert_eq!(refused(&bytes(&input), &job(vec![small()])), JobError::InvalidResolution);
    // A limit of the codec, not of ours: HEVC takes longer ones.
    assert!(output_size((16, 500), (256, 144), VideoCodec::H265).1 <= 8192);
}

/// Stock: `TestTranscoder_Rotation`: what players turn is not turned here.
#[test]
fn a_film_that_asks_to_be_turned_is_not() {
    let input = bytes(&media::clip("plain.mp4", &["-i", text(&clip("turn", "30", "0.5", false)), "-c", "copy"]));
    // The matrix of the track header: unity becomes a quarter turn.
    let unity: Vec<u8> = [0x1_0000u32, 0, 0, 0, 0x1_0000].iter().flat_map(|n| n.to_be_bytes()).collect();
    let turned: Vec<u8> = [0u32, 0x1_0000, 0, 0xffff_0000, 0].iter().flat_map(|n| n.to_be_bytes()).collect();
    let track = input.windows(4).position(|w| w == b"tkhd").unwrap();
    let at = track + input[track..].windows(unity.len()).position(|w| w == unity).unwrap();
    let rotated = [&input[..at], &turned, &input[at + unity.len()..]].concat();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("turned.mp4");
    std::fs::write(&file, &rotated).unwrap();
    let side =
        run("ffprobe", &["-v", "error", "-show_entries", "stream_side_data=rotation", "-of", "csv=p=0", text(&file)]);
    assert!(side.contains("90"), "ffprobe sees the turn: {side:?}");
    let (plain, turned) = (made(&input, &job(vec![small()])), made(&rotated, &job(vec![small()])));
    let said = |made: &super::Made| (made.done.renditions[0].width, made.done.renditions[0].height);
    assert_eq!((said(&turned), said(&plain)), ((256, 144), (256, 144)));
    assert_eq!(bytes(&turned.files[0]), bytes(&plain.files[0]));
}

/// Stock: `TestNvidia_Pixfmts`, for software: whatever comes in, 8-bit 4:2:0 goes out.
#[test]
fn every_format_of_pictures_becomes_eight_bit_quarter_chroma_and_looks_the_same() {
    for format in ["yuv420p", "yuvj420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "yuv444p10le", "gray"] {
        let more = ["-pix_fmt", format, "-crf", "12", "-threads", "1"];
        let input = synthetic(&format!("{format}.ts"), "256x144", "15", "0.4", false, &more);
        let made = made_of(&input, vec![small()]);
        let out = stream_field(&made.files[0], "v", "pix_fmt");
        assert!(["yuv420p", "yuvj420p"].contains(&out.as_str()), "{format} became {out}");
        assert_eq!(made.done.decoded_frames, 6);
        let db = likeness(&made.files[0], &input);
        assert!(db > 28.0, "{format}: {db} dB");
    }
}

/// Stock: `TestTranscoder_DiscontinuityPixelFormat`: between segments and within one.
#[test]
fn the_format_of_pictures_may_change() {
    let plain = clip("plain", "30", "1", false);
    let full = synthetic("full.ts", "160x90", "30", "1", false, &["-pix_fmt", "yuvj420p", "-threads", "1"]);
    let deep = synthetic("deep.ts", "160x90", "30", "1", false, &["-pix_fmt", "yuv422p10le", "-threads", "1"]);
    for input in [&plain, &full, &deep, &plain] {
        assert_eq!(made_of(input, vec![small()]).done.renditions[0].frames, 30);
    }
    let whole = joined(&[&plain, &full, &deep]);
    let made = made(&whole, &job(vec![small(), at(10, 1)]));
    assert_eq!(made.done.decoded_frames, 90);
    assert_eq!((made.done.renditions[0].frames, made.done.renditions[1].frames), (90, 30));
}

/// Clips one after the other in one stream, a second each.
fn joined(clips: &[&std::path::PathBuf]) -> Vec<u8> {
    let mut all = Vec::new();
    let mut codec = mpegts::VideoCodec::H264;
    for (n, path) in (0i64..).zip(clips) {
        let (own, mut units, _) = apart(&bytes(path));
        codec = own;
        units.iter_mut().for_each(|u| {
            u.pts = u.pts.map(|pts| pts + Ticks(n * 90_000));
            u.dts = u.dts.map(|dts| dts + Ticks(n * 90_000));
        });
        all.extend(units);
    }
    together(codec, &all, None)
}

#[test]
fn a_size_that_changes_inside_a_segment_changes_the_renditions_and_costs_no_frame() {
    let wide = clip("wide", "30", "1", false);
    let square = synthetic("square.ts", "120x90", "30", "1", false, &["-threads", "1"]);
    let whole = joined(&[&wide, &square, &wide]);
    let main = Profile { codec_profile: CodecProfile::H264Main, ..small() };
    let mp4 = super::mp4();
    let made = made(&whole, &job(vec![small(), at(15, 1), main, mp4]));
    assert_eq!(made.done.decoded_frames, 90);
    for (index, count) in [90, 45, 90, 90].into_iter().enumerate() {
        let frames = made.frames(index);
        assert_eq!(frames.len(), count);
        let sizes: Vec<(u32, u32)> = frames.iter().map(|f| (f.width, f.height)).collect();
        let third = count / 3;
        assert!(sizes[..third].iter().all(|s| *s == (256, 144)), "{sizes:?}");
        assert!(sizes[third..2 * third].iter().all(|s| *s == (256, 192)), "{sizes:?}");
        assert!(sizes[2 * third..].iter().all(|s| *s == (256, 144)), "{sizes:?}");
        assert!(frames[third].key && frames[2 * third].key, "a new size begins with a key frame");
        let times = super::times(&frames);
        assert!(times.windows(2).all(|w| w[0] < w[1]), "rendition {index}");
    }
}

#[test]
fn interlaced_pictures_are_taken_as_they_are() {
    let more =
        ["-vf", "tinterlace=mode=interleave_top", "-flags", "+ildct+ilme", "-x264opts", "tff=1", "-threads", "1"];
    let input = synthetic("fields.ts", "160x96", "50", "1", false, &more);
    assert_ne!(stream_field(&input, "v", "field_order"), "progressive");
    let made = made_of(&input, vec![small(), at(25, 1)]);
    assert_eq!((made.done.decoded_frames, made.done.renditions[0].frames), (25, 25));
    assert_eq!(stream_field(&made.files[0], "v", "field_order"), "progressive");
    assert_eq!(made.times(0), super::times(&media::frames(&input)));
}

#[test]
fn the_shape_of_pixels_is_carried_along() {
    let input = synthetic("anamorphic.ts", "144x90", "30", "0.3", false, &["-vf", "setsar=64/45", "-threads", "1"]);
    let made = made_of(&input, vec![small()]);
    assert_eq!(stream_field(&made.files[0], "v", "sample_aspect_ratio"), "64:45");
    assert_eq!((made.done.renditions[0].width, made.done.renditions[0].height), (256, 160));
}

#[test]
fn colours_are_named_when_the_source_names_them_whatever_its_codec() {
    let tags = ["-color_primaries", "bt2020", "-color_trc", "smpte2084", "-colorspace", "bt2020nc", "-threads", "1"];
    let tagged = synthetic("hdr.ts", "160x90", "30", "0.2", false, &tags);
    let hevc = |name: &str, tags: &[&str]| {
        let picture = ["-f", "lavfi", "-i", "testsrc2=size=160x90:rate=30:duration=0.2", "-c:v", "libx265"];
        media::clip(
            name,
            &[&picture[..], &["-preset", "ultrafast", "-x265-params", "log-level=none", "-pix_fmt", "yuv420p"], tags]
                .concat(),
        )
    };
    for input in [tagged, hevc("hdr-hevc.ts", &tags)] {
        let made = made_of(&input, vec![small()]);
        let said = ["color_space", "color_transfer", "color_primaries"].map(|f| stream_field(&made.files[0], "v", f));
        assert_eq!(said, ["bt2020nc", "smpte2084", "bt2020"], "{input:?}");
    }
    let made = made_of(&hevc("bare-hevc.ts", &[]), vec![small()]);
    assert_eq!(stream_field(&made.files[0], "v", "color_space"), "unknown");
}
