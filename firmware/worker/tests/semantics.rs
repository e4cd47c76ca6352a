//! What a rendition must be, seen from outside with ffprobe, for ordinary and odd input.
#![expect(clippy::unwrap_used, reason = "a test may stop where it is")]

#[path = "../../../tests/src/media.rs"]
#[expect(unreachable_pub, reason = "a library's module, taken in by path")]
mod media;

use std::path::{Path, PathBuf};

use livepeer::profile::{CodecProfile, Container, Gop, Profile, output_size, preset};
use livepeer::units::{BitsPerSecond, FrameRate};
use media::{aac_frames, audio_packets, complaints, frames, stream_field, synthetic};
use sandbox::message::{Clip, Job, JobError, Limits};
use worker::{Engine, Output, Tuning, transcode};

/// Fast settings: what is tested here does not depend on them.
fn engine() -> Engine {
    gstreamer::init().unwrap();
    Engine::software("preset=ultrafast".parse().unwrap())
}

fn job(profiles: Vec<Profile>) -> Job {
    let limits = Limits { deadline_ms: 120_000, ..Limits::default() };
    Job {
        id: 7,
        profiles,
        clip: None,
        limits,
        threads: 1,
        service_provider: "Livepeer Transcoder 0.1.0 (offchain)".into(),
        signatures: Default::default(),
        video_seen: false,
    }
}

fn ladder() -> Vec<Profile> {
    ["240p", "720p", "360p"].map(|name| preset(name).unwrap()).to_vec()
}

fn at(fps: (u32, u32), name: &str) -> Profile {
    Profile { fps: Some(FrameRate { num: fps.0, den: fps.1 }), ..preset(name).unwrap() }
}

/// A job done, its renditions on disk.
struct Run {
    output: Output,
    files: Vec<PathBuf>,
    _dir: tempfile::TempDir,
}

fn run(input: &Path, job: &Job) -> Run {
    let bytes = std::fs::read(input).unwrap();
    let output = transcode(&bytes, job, &engine()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let files: Vec<PathBuf> = (0..output.files.len()).map(|n| dir.path().join(format!("{n}.ts"))).collect();
    for (file, bytes) in files.iter().zip(&output.files) {
        std::fs::write(file, bytes).unwrap();
    }
    Run { output, files, _dir: dir }
}

fn refusal(bytes: &[u8], job: &Job) -> JobError {
    transcode(bytes, job, &engine()).unwrap_err().error
}

/// What holds for every rendition of every segment.
fn check_all(input: &Path, run: &Run, job: &Job) {
    let source = frames(input);
    let sound = audio_packets(input);
    assert_eq!(run.output.done.decoded_frames, source.len() as u64);
    let pixels: u64 = source.iter().map(|f| u64::from(f.width) * u64::from(f.height)).sum();
    assert_eq!(run.output.done.decoded_pixels.0, pixels);
    assert_eq!(run.output.done.renditions.len(), job.profiles.len());
    for ((file, rendition), profile) in run.files.iter().zip(&run.output.done.renditions).zip(&job.profiles) {
        let made = frames(file);
        assert_eq!(made.len() as u64, rendition.frames, "{}: frames", profile.name);
        let counted: u64 = made.iter().map(|f| u64::from(f.width) * u64::from(f.height)).sum();
        assert_eq!(counted, rendition.pixels.0, "{}: pixels", profile.name);
        assert_eq!(std::fs::metadata(file).unwrap().len(), rendition.bytes);
        let size = source.last().map(|f| (f.width, f.height)).unwrap();
        let wanted = output_size(size, (profile.width, profile.height), profile.codec);
        assert_eq!((rendition.width, rendition.height), wanted, "{}: size", profile.name);
        assert!(made[0].key, "{}: the first frame is a key frame", profile.name);
        assert_eq!(audio_packets(file), sound, "{}: sound", profile.name);
        assert_eq!(complaints(file), "", "{}: plays clean", profile.name);
        if profile.fps.is_none() {
            let times = |frames: &[media::Shown]| frames.iter().map(|f| f.pts).collect::<Vec<_>>();
            assert_eq!(times(&made), times(&source), "{}: time stamps", profile.name);
        }
    }
}

fn check_ladder(input: &Path) -> Run {
    let job = job(ladder());
    let run = run(input, &job);
    check_all(input, &run, &job);
    run
}

#[test]
fn a_real_clip_keeps_its_times_its_sound_and_its_pixels() {
    let run = check_ladder(&media::bunny());
    assert_eq!(run.output.done.decoded_frames, 120);
    assert_eq!(run.output.done.duration_ms, 4000);
    for file in &run.files {
        let text = std::process::Command::new("ffprobe")
            .args(["-v", "error", "-show_entries", "program_tags=service_provider"])
            .arg(file)
            .output();
        assert!(String::from_utf8_lossy(&text.unwrap().stdout).contains("Livepeer Transcoder 0.1.0 (offchain)"));
    }
}

#[test]
fn a_portrait_source_makes_portrait_renditions() {
    check_ladder(&synthetic("portrait.ts", "406x720", "30", "1", true, &[]));
}

#[test]
fn an_odd_size_makes_even_renditions() {
    check_ladder(&synthetic("odd.ts", "853x479", "30", "1", true, &["-pix_fmt", "yuv444p"]));
}

#[test]
fn a_source_without_sound_makes_renditions_without_sound() {
    let run = check_ladder(&synthetic("mute.ts", "640x360", "30", "1", false, &[]));
    assert_eq!(stream_field(&run.files[0], "a", "codec_name"), "");
}

#[test]
fn an_uneven_frame_rate_keeps_every_time_stamp() {
    let odd_times =
        ["-vf", "select='not(mod(n,3)*mod(n,7))',setpts='PTS+if(mod(N,5),0,900/TB/90000)'", "-vsync", "passthrough"];
    check_ladder(&synthetic("vfr.ts", "640x360", "30", "3", true, &odd_times));
}

#[test]
fn a_source_of_24000_over_1001_keeps_every_time_stamp() {
    check_ladder(&synthetic("film.ts", "640x360", "24000/1001", "2", true, &[]));
}

#[test]
fn time_stamps_around_the_wrap_of_the_clock_survive() {
    // The clock wraps at 95443.7 s; this clip begins a second before.
    let across = ["-output_ts_offset", "95441.3", "-muxdelay", "0"];
    let run = check_ladder(&synthetic("wrap.ts", "640x360", "30", "2", true, &across));
    assert_eq!(run.output.done.duration_ms, 2000);
}

#[test]
fn colours_are_named_only_when_the_source_names_them() {
    let untagged = check_ladder(&synthetic("plain.ts", "1280x720", "30", "0.5", false, &[]));
    let tags = ["-color_primaries", "bt709", "-color_trc", "bt709", "-colorspace", "bt709"];
    let tagged = check_ladder(&synthetic("tagged.ts", "1280x720", "30", "0.5", false, &tags));
    for file in &untagged.files {
        assert_eq!(stream_field(file, "v", "color_space"), "unknown");
    }
    for file in &tagged.files {
        assert_eq!(stream_field(file, "v", "color_space"), "bt709");
    }
}

#[test]
fn ten_bits_and_full_chroma_become_eight_bit_quarter_chroma() {
    for format in ["yuv420p10le", "yuv422p", "yuv444p"] {
        let run =
            check_ladder(&synthetic(&format!("{format}.ts"), "320x180", "30", "0.5", false, &["-pix_fmt", format]));
        assert_eq!(stream_field(&run.files[0], "v", "pix_fmt"), "yuv420p");
    }
}

#[test]
fn hevc_is_decoded() {
    let args = [
        "-f",
        "lavfi",
        "-i",
        "testsrc2=size=320x180:rate=30:duration=1",
        "-c:v",
        "libx265",
        "-x265-params",
        "log-level=none",
        "-pix_fmt",
        "yuv420p",
    ];
    check_ladder(&media::clip("hevc.ts", &args));
}

#[test]
fn a_fixed_rate_gives_the_counts_the_network_expects() {
    let input = synthetic("sixty.ts", "320x180", "60", "2", true, &[]);
    let job =
        job(vec![at((24000, 1001), "240p"), at((30000, 1001), "240p"), at((123, 1), "240p"), at((60, 1), "240p")]);
    let run = run(&input, &job);
    check_all(&input, &run, &job);
    let counts: Vec<u64> = run.output.done.renditions.iter().map(|r| r.frames).collect();
    assert!((48..=49).contains(&counts[0]), "{counts:?}");
    assert!((60..=61).contains(&counts[1]), "{counts:?}");
    assert_eq!(counts[2..], [246, 120]);
}

#[test]
fn very_short_segments_lose_no_frame() {
    for count in [1u32, 2, 3, 5, 6, 10] {
        let length = format!("{:.4}", (f64::from(count) - 0.5) / 30.0);
        let input = synthetic("short.ts", "320x180", "30", &length, true, &[]);
        let run = check_ladder(&input);
        assert_eq!(run.output.done.decoded_frames, u64::from(count));
    }
}

#[test]
fn key_frames_come_as_often_as_asked() {
    let input = synthetic("gop.ts", "320x180", "30", "3", false, &["-g", "300"]);
    let with = |gop, fps: Option<u32>| Profile {
        gop,
        fps: fps.map(|num| FrameRate { num, den: 1 }),
        ..preset("240p").unwrap()
    };
    let job = job(vec![with(Gop::Millis(500), None), with(Gop::Millis(500), Some(20)), with(Gop::Intra, None)]);
    let run = run(&input, &job);
    check_all(&input, &run, &job);
    let keys =
        |n: usize| frames(&run.files[n]).iter().enumerate().filter(|(_, f)| f.key).map(|(i, _)| i).collect::<Vec<_>>();
    assert_eq!(keys(0), [0, 15, 30, 45, 60, 75]);
    assert_eq!(keys(1), [0, 10, 20, 30, 40, 50]);
    assert_eq!(keys(2).len(), 90);
}

#[test]
fn profiles_are_what_was_asked() {
    let input = synthetic("profiles.ts", "320x180", "30", "1", false, &[]);
    let with = |codec_profile| Profile { codec_profile, ..preset("240p").unwrap() };
    let all =
        [CodecProfile::H264Baseline, CodecProfile::H264Main, CodecProfile::H264High, CodecProfile::H264ConstrainedHigh];
    let job = job(all.map(with).to_vec());
    let bytes = std::fs::read(&input).unwrap();
    gstreamer::init().unwrap();
    let output = transcode(&bytes, &job, &Engine::software(Tuning::default())).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let said: Vec<(String, String)> = output
        .files
        .iter()
        .map(|bytes| {
            let file = dir.path().join("p.ts");
            std::fs::write(&file, bytes).unwrap();
            assert_eq!(complaints(&file), "");
            assert_eq!(frames(&file).len(), 30);
            (stream_field(&file, "v", "profile"), stream_field(&file, "v", "has_b_frames"))
        })
        .collect();
    let profiles: Vec<&str> = said.iter().map(|s| s.0.as_str()).collect();
    assert_eq!(profiles, ["Constrained Baseline", "Main", "High", "High"]);
    assert_eq!(said[0].1, "0");
    assert_ne!(said[1].1, "0");
    assert_eq!(said[3].1, "0");
}

/// Bits per second of the video of a rendition at 300 kb/s, as a part of what was asked.
fn kept(input: &Path, seconds: f64) -> f64 {
    let wanted = 300_000;
    let profile = Profile { bitrate: BitsPerSecond(wanted), ..preset("360p").unwrap() };
    gstreamer::init().unwrap();
    let output =
        transcode(&std::fs::read(input).unwrap(), &job(vec![profile]), &Engine::software(Tuning::default())).unwrap();
    let video = mpegts::demux(&output.files[0]).unwrap().video.unwrap();
    let bytes: usize = video.units.iter().map(|u| u.data.len()).sum();
    bytes as f64 * 8.0 / seconds / f64::from(wanted)
}

#[test]
fn the_bit_rate_is_kept_with_even_and_with_uneven_frames() {
    let even = kept(&media::bunny(), 4.0);
    assert!((0.8..1.3).contains(&even), "{even}");
    // The same pictures, with a gap after every fifth: 120 frames in 4.8 s.
    let bunny = media::bunny();
    let gaps = ["-i", bunny.to_str().unwrap(), "-an", "-vf", "setpts=PTS+floor(N/5)/30/TB", "-fps_mode", "passthrough"];
    let clip = media::clip(
        "gaps.ts",
        &[&gaps[..], &["-enc_time_base", "-1", "-c:v", "libx264", "-crf", "12", "-preset", "veryfast"]].concat(),
    );
    assert_eq!(frames(&clip).len(), 120);
    let uneven = kept(&clip, 4.8);
    assert!((0.92..1.08).contains(&(uneven / even)), "{uneven} against {even}");
}

#[test]
fn a_clip_window_keeps_its_part_and_restarts_time() {
    let input = synthetic("window.ts", "320x180", "30", "3", true, &[]);
    let job = Job { clip: Some(Clip { from_ms: 1000, to_ms: 2000 }), ..job(vec![preset("240p").unwrap()]) };
    let run = run(&input, &job);
    let made = frames(&run.files[0]);
    assert!((29..=31).contains(&made.len()), "{}", made.len());
    assert!(made[0].pts.unwrap() < 9000, "{:?}", made[0].pts);
    let sound = audio_packets(&run.files[0]).len();
    assert!((40..=55).contains(&sound), "{sound} packets of 21 ms in a second");
}

#[test]
fn a_size_that_changes_inside_a_segment_changes_the_output() {
    let small = std::fs::read(synthetic("before.ts", "320x180", "30", "1", false, &[])).unwrap();
    let large =
        std::fs::read(synthetic("after.ts", "480x360", "30", "1", false, &["-output_ts_offset", "1.066667"])).unwrap();
    let whole = [small, large].concat();
    let job = job(vec![preset("240p").unwrap(), at((10, 1), "240p")]);
    let output = transcode(&whole, &job, &engine()).unwrap();
    assert_eq!(output.done.decoded_frames, 60);
    let through = &output.done.renditions[0];
    assert_eq!(through.frames, 60);
    let (a, b) =
        (output_size((320, 180), (426, 240), through_codec()), output_size((480, 360), (426, 240), through_codec()));
    assert_eq!((through.width, through.height), b);
    let area = |s: (u32, u32)| u64::from(s.0) * u64::from(s.1);
    assert_eq!(through.pixels.0, 30 * (area(a) + area(b)));
    assert_eq!(output.done.renditions[1].frames, 20);
}

fn through_codec() -> livepeer::profile::VideoCodec {
    livepeer::profile::VideoCodec::H264
}

#[test]
fn a_truncated_segment_gives_what_there_is() {
    let bytes = std::fs::read(media::bunny()).unwrap();
    let cut = &bytes[..bytes.len() / 3 + 77];
    let output = transcode(cut, &job(ladder()), &engine()).unwrap();
    assert!(output.done.decoded_frames > 10);
    for rendition in &output.done.renditions {
        assert_eq!(rendition.frames, output.done.decoded_frames);
    }
}

#[test]
fn a_damaged_segment_gives_what_there_is() {
    let mut bytes = std::fs::read(media::bunny()).unwrap();
    for at in (5000..bytes.len()).step_by(9973) {
        bytes[at] ^= 0x5a;
    }
    let output = transcode(&bytes, &job(ladder()), &engine()).unwrap();
    assert!(output.done.decoded_frames > 60, "{}", output.done.decoded_frames);
}

#[test]
fn input_that_is_no_segment_is_refused_in_the_networks_words() {
    let job = job(ladder());
    let noise: Vec<u8> = (0..100_000u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    assert_eq!(refusal(&noise, &job), JobError::UnknownContainer);
    assert_eq!(refusal(&[], &job), JobError::UnknownContainer);
    let sound = media::clip("sound.ts", &["-f", "lavfi", "-i", "sine=duration=1", "-c:a", "aac"]);
    assert_eq!(refusal(&std::fs::read(sound).unwrap(), &job), JobError::InvalidVideo);
    let old =
        media::clip("mpeg2.ts", &["-f", "lavfi", "-i", "testsrc2=size=320x180:duration=0.5", "-c:v", "mpeg2video"]);
    assert_eq!(refusal(&std::fs::read(old).unwrap(), &job), JobError::UnsupportedCodec);
}

#[test]
fn a_segment_without_a_key_frame_is_refused() {
    let input = synthetic("keyless.ts", "320x180", "30", "2", false, &["-g", "60", "-bsf:v", "noise=drop=key"]);
    assert_eq!(refusal(&std::fs::read(input).unwrap(), &job(ladder())), JobError::NoKeyframes);
}

#[test]
fn requests_that_make_no_sense_are_refused() {
    let bytes = std::fs::read(synthetic("mute.ts", "640x360", "30", "1", false, &[])).unwrap();
    let one = preset("240p").unwrap();
    assert_eq!(refusal(&bytes, &job(vec![])), JobError::InvalidArgument);
    assert_eq!(refusal(&bytes, &job(vec![one.clone(); 11])), JobError::TooManyOutputs);
    assert_eq!(refusal(&bytes, &job(vec![at((0, 1), "240p")])), JobError::InvalidArgument);
    assert_eq!(refusal(&bytes, &job(vec![at((1_000_000, 1), "240p")])), JobError::Runaway);
    let vp9 = Profile { codec: livepeer::profile::VideoCodec::Vp9, ..one.clone() };
    assert_eq!(refusal(&bytes, &job(vec![vp9])), JobError::MuxerNotFound);
    let empty = Job { clip: Some(Clip { from_ms: 5, to_ms: 5 }), ..job(vec![one.clone()]) };
    assert_eq!(refusal(&bytes, &empty), JobError::InvalidArgument);
    let mut short = job(vec![one.clone()]);
    short.limits.max_duration_ms = 500;
    assert_eq!(refusal(&bytes, &short), JobError::InvalidDuration);
    let mut tight = job(vec![one.clone()]);
    tight.limits.max_output_bytes = 1000;
    assert_eq!(refusal(&bytes, &tight), JobError::OutputTooLarge);
    let mut late = job(vec![one]);
    late.limits.deadline_ms = 1;
    assert_eq!(refusal(&bytes, &late), JobError::Timeout);
}

#[test]
fn a_giant_picture_is_refused_before_it_is_decoded() {
    // A parameter set that claims 16 384 pixels a side, followed by a key frame.
    let giant = media::clip(
        "giant.ts",
        &[
            "-f",
            "lavfi",
            "-i",
            "color=black:size=16x16:rate=1:duration=1",
            "-c:v",
            "libx264",
            "-frames:v",
            "1",
            "-bsf:v",
            "h264_metadata=crop_right=0",
            "-pix_fmt",
            "yuv420p",
        ],
    );
    let bytes = std::fs::read(giant).unwrap();
    let found = mpegts::demux(&bytes).unwrap().video.unwrap();
    // profile 66, level 51, id 0, frame_num 4 bits, poc type 2, 1 ref, 1024x1024 macroblocks, frames only.
    let mut bits = String::from("01000010" /* profile */) + "00000000" + "00110011" + "1" + "1" + "011" + "010" + "0";
    bits += &("0".repeat(10) + "10000000000");
    bits += &("0".repeat(10) + "10000000000");
    bits += "1";
    bits += "1";
    bits += "0";
    bits += "0";
    bits += "1";
    while !bits.len().is_multiple_of(8) {
        bits.push('0');
    }
    let mut data = vec![0, 0, 0, 1, 0x67];
    data.extend(
        bits.as_bytes().chunks(8).map(|byte| u8::from_str_radix(std::str::from_utf8(byte).unwrap(), 2).unwrap()),
    );
    let sps = mpegts::h264::find_sps(&data).unwrap();
    assert_eq!((sps.width, sps.height), (16_384, 16_384));
    data.extend(&found.units[0].data);
    let unit = mpegts::VideoUnit { pts: mpegts::Ticks(9000), dts: mpegts::Ticks(9000), keyframe: true, data: &data };
    let bytes = mpegts::mux(mpegts::VideoCodec::H264, &[unit], None, "");
    assert_eq!(refusal(&bytes, &job(ladder())), JobError::InvalidResolution);
}

#[test]
fn an_mp4_is_read_and_its_sound_kept() {
    let input =
        media::clip("in.mp4", &["-i", media::bunny().to_str().unwrap(), "-c", "copy", "-movflags", "faststart"]);
    let job = job(vec![preset("240p").unwrap()]);
    let run = run(&input, &job);
    assert_eq!(run.output.done.decoded_frames, 120);
    assert_eq!(run.output.done.renditions[0].frames, 120);
    assert_eq!(run.output.done.duration_ms, 4000);
    assert_eq!(complaints(&run.files[0]), "");
    assert_eq!(aac_frames(&run.files[0]), aac_frames(&input));
}

#[test]
fn an_mp4_is_written_with_its_index_in_front() {
    for codec_profile in [CodecProfile::EncoderDefault, CodecProfile::H264High] {
        let profile = Profile { container: Container::Mp4, codec_profile, ..preset("360p").unwrap() };
        let job = job(vec![profile]);
        let bytes = std::fs::read(media::bunny()).unwrap();
        gstreamer::init().unwrap();
        let output = transcode(&bytes, &job, &Engine::software(Tuning::default())).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("out.mp4");
        std::fs::write(&file, &output.files[0]).unwrap();
        let place = |kind: &[u8]| output.files[0].windows(4).position(|w| w == kind).unwrap();
        assert!(place(b"moov") < place(b"mdat"));
        let made = frames(&file);
        assert_eq!(made.len(), 120);
        let source = frames(&media::bunny());
        let times = |frames: &[media::Shown]| frames.iter().map(|f| f.pts).collect::<Vec<_>>();
        assert_eq!(times(&made), times(&source));
        assert_eq!(complaints(&file), "");
        assert_eq!(aac_frames(&file), aac_frames(&media::bunny()));
        let probe = std::process::Command::new("ffprobe")
            .args(["-v", "error", "-show_entries", "format_tags=comment"])
            .arg(&file)
            .output();
        let said = String::from_utf8_lossy(&probe.unwrap().stdout).into_owned();
        assert!(said.contains("Processed by Livepeer Transcoder"), "{said}");
    }
}

#[test]
fn a_damaged_mp4_never_panics() {
    let input =
        media::clip("in.mp4", &["-i", media::bunny().to_str().unwrap(), "-c", "copy", "-movflags", "faststart"]);
    let whole = std::fs::read(input).unwrap();
    let short = Job { limits: Limits { deadline_ms: 1, ..Limits::default() }, ..job(vec![preset("240p").unwrap()]) };
    for at in (0..6000).step_by(3) {
        let mut bytes = whole[..40_000].to_vec();
        bytes[at] ^= 0xff;
        // Nothing is decoded in a millisecond: this is about the index.
        let _ = transcode(&bytes, &short, &engine());
    }
}

#[test]
fn the_engine_proves_itself() {
    gstreamer::init().unwrap();
    let findings = worker::probe(&Engine::software(Tuning::default())).unwrap();
    assert!(findings.proved.contains(&"encode-h264".to_owned()));
    assert!(findings.proved.contains(&"decode-h265".to_owned()), "{findings:?}");
}
