//! What segments are wrapped in, in and out, with everything that is odd about it.
use std::path::{Path, PathBuf};

use livepeer::profile::{CodecProfile, Profile};
use millrace_tests::media::{self, aac_frames, audio_packets, frames, stream_field, synthetic};
use millrace_tests::segments::{AUDIO_PID, VIDEO_PID, edit, padded, reordered};
use sandbox::message::JobError;

use super::probe::{packets, run, sums, text};
use super::{at, bytes, clip, job, made, made_of, mp4, refused, small, times};

/// The same pictures and sound in another container or form, nothing encoded again.
fn copied(name: &str, input: &Path, more: &[&str]) -> PathBuf {
    // ffmpeg moves what it writes into a transport stream, and wants to be told how AAC is wrapped.
    let form: &[&str] = if name.ends_with("mp4") { &["-bsf:a", "aac_adtstoasc"] } else { &["-muxdelay", "0"] };
    media::clip(name, &[&["-copyts", "-i", text(input), "-c", "copy"][..], form, more].concat())
}

/// Stock: `TestTranscoderAPI_InvalidFile`.
#[test]
fn what_is_no_segment_is_refused_and_the_next_one_is_taken() {
    let good = bytes(&clip("tone", "30", "1", true));
    let noise: Vec<u8> = (0..60_000u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    for bad in [&noise[..], &[], b"not a film", &good[..100], &[0; 100_000]] {
        assert_eq!(refused(bad, &job(vec![small()])), JobError::UnknownContainer);
        assert_eq!(made(&good, &job(vec![small()])).done.renditions[0].frames, 30);
    }
    assert_eq!(JobError::UnknownContainer.to_string(), "Demuxer not found");
}

/// Stock: `TestAPI_ConsecutiveMP4s`, `TestAPI_ConsecutiveMuxerOpts`.
#[test]
fn films_one_after_the_other_are_each_whole() {
    for segment in super::segments() {
        let made =
            made(&segment, &job(vec![mp4(), small(), Profile { codec_profile: CodecProfile::H264High, ..mp4() }]));
        for index in 0..3 {
            assert_eq!(made.frames(index).len(), 120);
        }
        let file = bytes(&made.files[0]);
        let place = |kind: &[u8]| file.windows(4).position(|w| w == kind).unwrap();
        assert!(place(b"moov") < place(b"mdat"), "the index comes first");
        assert_eq!(made.times(0), made.times(1));
        assert_eq!(made.times(2), made.times(1));
        assert_eq!(aac_frames(&made.files[0]), aac_frames(&made.files[1]));
        // What was made is a segment itself.
        let again = super::made(&file, &job(vec![small(), mp4()]));
        assert_eq!(again.times(0), made.times(1));
        assert_eq!(again.times(1), made.times(1));
        assert_eq!(aac_frames(&again.files[0]), aac_frames(&made.files[0]));
    }
}

/// Stock: `TestTranscoder_FormatOptions`, `TestTranscoder_Metadata`.
#[test]
fn every_container_says_what_it_is_and_who_made_it() {
    let made = made_of(&clip("tone", "30", "1", true), vec![small(), mp4()]);
    let said = |file, entry| run("ffprobe", &["-v", "error", "-show_entries", entry, "-of", "csv=p=0", text(file)]);
    assert!(said(&made.files[0], "format=format_name").starts_with("mpegts"));
    assert!(said(&made.files[1], "format=format_name").contains("mp4"));
    let maker = "Livepeer Transcoder 0.1.0 (offchain)";
    assert!(said(&made.files[0], "program_tags=service_provider").contains(maker));
    assert!(said(&made.files[1], "format_tags=comment").contains(&format!("Processed by {maker}")));
    let stream = bytes(&made.files[0]);
    let pids: std::collections::BTreeSet<u16> =
        stream.chunks(188).map(|p| u16::from(p[1] & 0x1f) << 8 | u16::from(p[2])).collect();
    assert!(pids.is_superset(&[0, VIDEO_PID, AUDIO_PID].into()), "{pids:?}");
}

#[test]
fn packets_may_have_bytes_around_them() {
    let stream = bytes(&clip("tone", "30", "1", true));
    let wanted = made(&stream, &job(vec![small()]));
    for odd in [padded(&stream, 4, 0), padded(&stream, 0, 16), [&[0x47, 0, 1][..], &stream].concat()] {
        let made = made(&odd, &job(vec![small()]));
        assert_eq!(bytes(&made.files[0]), bytes(&wanted.files[0]));
    }
}

#[test]
fn tables_and_tracks_may_come_in_any_order() {
    let input = clip("tone", "30", "1", true);
    let stream = bytes(&input);
    let wanted = (times(&frames(&input)), audio_packets(&input));
    for first in [&[AUDIO_PID][..], &[VIDEO_PID], &[VIDEO_PID, AUDIO_PID]] {
        let made = made(&reordered(&stream, first), &job(vec![small()]));
        assert_eq!((made.times(0), audio_packets(&made.files[0])), wanted);
    }
    // Without an association table, and with the tables only at the start.
    let pid = |p: &[u8]| u16::from(p[1] & 0x1f) << 8 | u16::from(p[2]);
    let orphan: Vec<u8> = stream.chunks(188).filter(|p| pid(p) != 0).flatten().copied().collect();
    let mut seen = 0;
    let once: Vec<u8> = stream
        .chunks(188)
        .filter(|p| {
            let table = matches!(pid(p), 0 | 0x1000 | 0x11);
            seen += usize::from(table);
            !table || seen <= 3
        })
        .flatten()
        .copied()
        .collect();
    for odd in [orphan, once] {
        assert_eq!(made(&odd, &job(vec![small()])).times(0), wanted.0);
    }
}

#[test]
fn packets_of_a_track_may_be_long_short_or_without_a_length() {
    let source = clip("tone", "30", "1", true);
    let wanted = times(&frames(&source));
    let forms: [&[&str]; 4] = [
        &["-omit_video_pes_length", "0"],
        &["-omit_video_pes_length", "1"],
        &["-pes_payload_size", "0"],
        &["-pes_payload_size", "16000", "-flush_packets", "0"],
    ];
    for form in forms {
        let input = copied("form.ts", &source, form);
        let made = made_of(&input, vec![small()]);
        assert_eq!(made.times(0), wanted, "{form:?}");
        assert_eq!(sums(&made.files[0], "a"), sums(&source, "a"), "{form:?}");
    }
    let mut stream = bytes(&source);
    edit(&mut stream, AUDIO_PID, |_, mut pes| pes.forget_length());
    assert_eq!(sums(&made(&stream, &job(vec![small()])).files[0], "a"), sums(&source, "a"));
}

#[test]
fn a_film_in_fragments_is_read_like_a_whole_one() {
    let forms = [
        "empty_moov+frag_keyframe",
        "frag_keyframe",
        "empty_moov+frag_every_frame",
        "empty_moov+frag_keyframe+default_base_moof",
        "empty_moov+frag_keyframe+separate_moof",
        "cmaf+frag_keyframe",
        "dash+frag_keyframe",
        "empty_moov+frag_keyframe+omit_tfhd_offset+negative_cts_offsets",
    ];
    for form in forms {
        let input = synthetic("pieces.mp4", "160x90", "30", "2", true, &["-movflags", form, "-threads", "1"]);
        // ffmpeg gives sound at the end of its smallest fragments no duration, and complains of it when it comes back.
        let made = super::attempt(&bytes(&input), &job(vec![small(), mp4()])).unwrap();
        let shown = made.times(0);
        assert_eq!((shown.len(), made.done.renditions[1].frames), (60, 60), "{form}");
        assert!(shown.windows(2).all(|w| w[1] - w[0] == 3000), "{form}: {shown:?}");
        assert_eq!(made.times(1), shown, "{form}");
        for file in &made.files {
            assert_eq!(aac_frames(file), aac_frames(&input), "{form}");
        }
    }
}

#[test]
fn what_an_edit_list_hides_is_not_shown() {
    let source = synthetic("cut.ts", "160x90", "30", "2", true, &["-g", "60", "-bf", "0", "-threads", "1"]);
    // A cut between key frames: players begin at the edit, decoders before it.
    let whole = copied("uncut.mp4", &source, &[]);
    let input = media::clip("edited.mp4", &["-ss", "0.5", "-i", text(&whole), "-c", "copy", "-t", "1"]);
    let made = made_of(&input, vec![small(), mp4()]);
    let theirs = frames(&input).len();
    let ours = made.frames(0).len();
    assert!(theirs < 46, "ffprobe sees the cut: {theirs}");
    assert!(ours.abs_diff(theirs) <= 1, "{ours} frames, ffprobe sees {theirs}");
    assert_eq!(made.frames(1).len(), ours);
    assert!(made.done.decoded_frames >= ours as u64);
}

#[test]
fn a_film_with_its_index_behind_and_wide_offsets_is_read() {
    let source = clip("tone", "30", "1", true);
    for more in [&["-movflags", "faststart"][..], &[], &["-brand", "mp42", "-video_track_timescale", "30000"]] {
        let input = copied("index.mp4", &source, more);
        let made = made_of(&input, vec![small(), at(30, 1)]);
        assert_eq!(made.done.renditions[0].frames, 30);
        assert_eq!(aac_frames(&made.files[0]), aac_frames(&input));
        assert_eq!(packets(&made.files[0], "a").len(), packets(&input, "a").len());
    }
}

#[test]
fn a_segment_cut_off_anywhere_gives_what_is_there_or_a_clear_word() {
    let stream = bytes(&clip("tone", "30", "2", true));
    let film = bytes(&copied("whole.mp4", &clip("tone", "30", "2", true), &["-movflags", "faststart"]));
    let mut given = 0;
    for part in 1..10 {
        for whole in [&stream, &film] {
            let cut = &whole[..whole.len() * part / 10 + 7];
            match super::attempt(cut, &job(vec![small()])) {
                Ok(made) => {
                    assert_eq!(made.done.renditions[0].frames, made.done.decoded_frames);
                    assert_eq!(media::frames(&made.files[0]).len() as u64, made.done.decoded_frames);
                    given += 1;
                }
                Err(error) => {
                    let clear = [JobError::InvalidVideo, JobError::UnknownContainer, JobError::NoKeyframes];
                    assert!(clear.contains(&error), "{error}");
                }
            }
        }
    }
    assert!(given >= 14, "{given} of 18");
}

#[test]
fn a_segment_with_holes_gives_what_is_there() {
    let mut stream = bytes(&clip("tone", "30", "2", true));
    // A packet lost here and there, and bytes damaged.
    let holed: Vec<u8> =
        stream.chunks(188).enumerate().filter(|(n, _)| n % 41 != 40).flat_map(|p| p.1).copied().collect();
    for at in (5000..stream.len()).step_by(4999) {
        stream[at] ^= 0x5a;
    }
    for odd in [holed, stream] {
        let made = super::attempt(&odd, &job(vec![small(), at(30, 1), mp4()])).unwrap();
        assert!(made.done.decoded_frames > 30, "{}", made.done.decoded_frames);
        assert_eq!(made.done.renditions[0].frames, made.done.decoded_frames);
        assert_eq!(made.frames(0).len() as u64, made.done.decoded_frames);
        assert_eq!(stream_field(&made.files[0], "a", "codec_name"), "aac");
    }
}
