//! Sound comes out as it went in, byte for byte, whatever happens to the pictures.
use livepeer::profile::Container;
use millrace_tests::media::{self, aac_frames, audio_packets, stream_field, synthetic};
use millrace_tests::segments::{AUDIO_PID, apart, edit, together};
use mpegts::Ticks;
use sandbox::message::{Job, JobError};

use super::probe::{packets, sums, text};
use super::{at, bytes, clip, job, made, made_of, mp4, refused, segments, small};

/// A segment without pictures in the middle of a stream that has some.
fn sound_alone() -> std::path::PathBuf {
    media::clip("sound.ts", &["-f", "lavfi", "-i", "sine=sample_rate=48000:duration=2", "-c:a", "aac"])
}

/// A segment that announces pictures and brings none.
fn announced() -> Vec<u8> {
    let (codec, units, audio) = apart(&segments()[1]);
    let mut muxer = mpegts::Muxer::new(mpegts::Plan {
        video: Some(codec),
        audio: audio.as_ref().map(|a| a.info.clone()),
        service_provider: String::new(),
    });
    assert!(!units.is_empty());
    audio.unwrap().packets.iter().for_each(|packet| muxer.audio(packet));
    muxer.finish()
}

/// Stock: `TestTranscoder_AudioOnly`.
#[test]
fn a_segment_of_sound_alone_is_refused_first_and_taken_later() {
    let alone = bytes(&sound_alone());
    for segment in [&alone, &announced()] {
        assert_eq!(refused(segment, &job(vec![small()])), JobError::InvalidVideo);
    }
    assert_eq!(JobError::InvalidVideo.to_string(), "TranscoderInvalidVideo");
    let later = Job { video_seen: true, ..job(vec![small(), at(30, 1), mp4()]) };
    for segment in [&alone, &announced()] {
        let made = made(segment, &later);
        assert_eq!((made.done.decoded_frames, made.done.decoded_pixels.0), (0, 0));
        for (file, said) in made.files.iter().zip(&made.done.renditions) {
            assert_eq!((said.width, said.height, said.frames, said.pixels.0), (0, 0, 0, 0));
            assert!(said.bytes > 25);
            assert_eq!(stream_field(file, "a", "codec_name"), "aac");
            assert_eq!(stream_field(file, "v", "codec_name"), "");
        }
    }
    let made = made(&alone, &later);
    assert!((2000..2300).contains(&made.done.duration_ms), "{}", made.done.duration_ms);
    assert_eq!(audio_packets(&made.files[0]), audio_packets(&sound_alone()));
    assert_eq!(aac_frames(&made.files[2]), aac_frames(&sound_alone()));
    // The stream goes on as if nothing had been.
    assert_eq!(super::made(&segments()[2], &later).done.renditions[0].frames, 120);
}

#[test]
fn a_segment_of_nothing_at_all_gives_a_container_of_nothing() {
    let (codec, ..) = apart(&segments()[0]);
    let plan = mpegts::Plan { video: Some(codec), audio: None, service_provider: String::new() };
    let empty = mpegts::Muxer::new(plan).finish();
    let made = super::attempt(&empty, &Job { video_seen: true, ..job(vec![small(), mp4()]) }).unwrap();
    assert!(made.done.renditions.iter().all(|r| r.bytes > 25 && r.frames == 0));
    assert_eq!(refused(&empty, &job(vec![small()])), JobError::InvalidVideo);
}

/// Stock: `TestTranscoder_NonMonotonicAudioSegment`.
#[test]
fn sound_whose_times_repeat_or_go_back_is_passed_on_as_it_is() {
    let mut stream = bytes(&clip("tone", "30", "1", true));
    let mut before = 0;
    edit(&mut stream, AUDIO_PID, |n, mut pes| {
        let own = pes.pts().unwrap();
        match n {
            1 => pes.set_pts(before),
            3 => pes.set_pts(before - 900),
            _ => {}
        }
        before = own;
    });
    let made = made(&stream, &job(vec![small(), mp4()]));
    let (_, _, audio) = apart(&stream);
    assert_eq!(apart(&bytes(&made.files[0])).2, audio);
    assert_eq!(made.done.renditions[1].frames, 30);
}

/// Stock: `TestTranscoder_discontinuityAudioSegment`.
#[test]
fn sound_may_come_and_go_between_segments() {
    let (with, without) = (clip("tone", "30", "1", true), clip("mute", "30", "1", false));
    for input in [&without, &with, &without, &with] {
        let made = made_of(input, vec![small(), mp4()]);
        for file in &made.files {
            let codec = stream_field(file, "a", "codec_name");
            assert_eq!(codec, stream_field(input, "a", "codec_name"));
        }
        assert_eq!(audio_packets(&made.files[0]), audio_packets(input));
    }
}

#[test]
fn sound_that_begins_in_the_middle_of_a_segment_is_there() {
    let (_, units, audio) = apart(&bytes(&clip("tone", "30", "2", true)));
    let mut audio = audio.unwrap();
    let begins = units[0].pts.unwrap() + Ticks(90_000);
    audio.packets.retain(|p| p.pts.unwrap() >= begins);
    let heard_from = audio.packets[0].pts.unwrap();
    // Two streams, one after the other: the table of the second announces the sound.
    let (mute, heard) = units.split_at(30);
    let first = together(mpegts::VideoCodec::H264, mute, None);
    let second = together(mpegts::VideoCodec::H264, heard, Some(&audio));
    let made = made(&[first, second].concat(), &job(vec![small(), mp4()]));
    assert_eq!(made.done.renditions[0].frames, 60);
    assert_eq!(apart(&bytes(&made.files[0])).2, Some(audio));
    let (sound, picture) = (packets(&made.files[1], "a")[0].0.unwrap(), packets(&made.files[1], "v")[0].0.unwrap());
    let behind = sound as f64 / 48_000.0 - picture as f64 / 90_000.0;
    let wanted = (heard_from - begins + Ticks(90_000)).0 as f64 / 90_000.0;
    assert!((behind - wanted).abs() < 0.001, "the sound begins {behind} s after the pictures, not {wanted} s");
}

/// A clip whose sound is coded like this.
fn with_sound(name: &str, codec: &[&str]) -> std::path::PathBuf {
    synthetic(name, "160x90", "30", "1", true, &[&["-threads", "1", "-ac", "2"], codec].concat())
}

#[test]
fn other_sound_than_aac_is_passed_on_untouched_too() {
    let codecs: [(&str, &[&str], &str); 5] = [
        ("mp3", &["-c:a", "libmp3lame"], "mp3"),
        ("mp2", &["-c:a", "mp2"], "mp2"),
        ("ac3", &["-c:a", "ac3"], "ac3"),
        ("eac3", &["-c:a", "eac3"], "eac3"),
        ("opus", &["-c:a", "libopus"], "opus"),
    ];
    for (name, args, codec) in codecs {
        let input = with_sound(&format!("{name}.ts"), args);
        assert_eq!(stream_field(&input, "a", "codec_name"), codec);
        let made = made_of(&input, vec![small(), mp4()]);
        assert_eq!(audio_packets(&made.files[0]), audio_packets(&input), "{name} in a transport stream");
        let kept = stream_field(&made.files[1], "a", "codec_name");
        // ffprobe cannot tell layers 2 and 3 apart by an MP4's description.
        assert!(kept == codec || (codec, kept.as_str()) == ("mp2", "mp3"), "{name} became {kept} in an MP4");
        assert_eq!(sums(&made.files[1], "a"), sums(&input, "a"), "{name} in an MP4");
    }
}

#[test]
fn sound_of_an_mp4_goes_into_either_container_untouched() {
    let codecs: [(&str, &[&str]); 5] = [
        ("aac", &["-c:a", "aac"]),
        ("mp3", &["-c:a", "libmp3lame"]),
        ("ac3", &["-c:a", "ac3"]),
        ("eac3", &["-c:a", "eac3"]),
        ("opus", &["-c:a", "libopus", "-strict", "-2"]),
    ];
    for (name, args) in codecs {
        let input = with_sound(&format!("{name}.mp4"), args);
        let made = made_of(&input, vec![small(), mp4()]);
        for file in &made.files {
            assert_eq!(stream_field(file, "a", "codec_name"), stream_field(&input, "a", "codec_name"), "{name}");
        }
        assert_eq!(sums(&made.files[1], "a"), sums(&input, "a"), "{name} from MP4 to MP4");
        if name == "aac" {
            assert_eq!(aac_frames(&made.files[0]), aac_frames(&input));
        } else {
            assert_eq!(sums(&made.files[0], "a"), sums(&input, "a"), "{name} from MP4 to transport stream");
        }
        let start = |file, kind: &str, per_second: f64| packets(file, kind)[0].0.unwrap() as f64 / per_second;
        let lead = |file, sound, picture| start(file, "a", sound) - start(file, "v", picture);
        let rate: f64 = stream_field(&input, "v", "time_base").trim_start_matches("1/").parse().unwrap();
        let wanted = lead(&input, 48_000.0, rate);
        for (file, sound) in [(&made.files[0], 90_000.0), (&made.files[1], 48_000.0)] {
            let got = lead(file, sound, 90_000.0);
            assert!((got - wanted).abs() < 0.002, "{name}: sound leads by {got} s instead of {wanted} s");
        }
    }
}

#[test]
fn sound_that_only_an_mp4_can_say_is_kept_there_and_refused_elsewhere() {
    let input = with_sound("flac.mp4", &["-c:a", "flac", "-strict", "-2"]);
    let made = made_of(&input, vec![mp4()]);
    assert_eq!(sums(&made.files[0], "a"), sums(&input, "a"));
    let error = refused(&bytes(&input), &job(vec![small()]));
    assert_eq!(error, JobError::UnrecognizedFormat);
    assert_eq!(error.to_string(), "TranscoderUnrecognizedFormat");
}

#[test]
fn only_the_first_audio_track_is_kept() {
    let tone = clip("tone", "30", "1", true);
    let more = ["-f", "lavfi", "-i", "sine=frequency=900:sample_rate=48000:duration=1", "-map", "0", "-map", "1"];
    let copy = ["-c:v", "copy", "-c:a:0", "copy", "-c:a:1", "aac", "-copyts"];
    let input = media::clip("two-tones.ts", &[&["-i", text(&tone)][..], &more, &copy].concat());
    let made = made_of(
        &input,
        vec![Container::MpegTs, Container::Mp4]
            .into_iter()
            .map(|c| livepeer::profile::Profile { container: c, ..small() })
            .collect(),
    );
    assert_eq!(aac_frames(&made.files[0]), aac_frames(&tone));
    assert_eq!(aac_frames(&made.files[1]), aac_frames(&tone));
}
