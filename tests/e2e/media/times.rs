//! How many frames come out, and when each is shown.
use livepeer::profile::{CodecProfile, Profile};
use millrace_tests::media::{self, frames, stream_field};
use millrace_tests::segments::{VIDEO_PID, apart, edit, together};
use mpegts::Ticks;

use super::probe::{grid_of_ffmpeg, packets};
use super::{at, bytes, clip, job, made, made_of, refused, segments, small, times};
use sandbox::message::JobError;

/// Frames of our rendition at the grid points of a rate.
fn grid(times: &[i64], num: i64, den: i64) -> Vec<i64> {
    let point = |t: &i64| {
        let k = (t * num + 45_000 * den).div_euclid(90_000 * den);
        assert!((k * 90_000 * den - t * num).abs() <= num, "{t} is not on the grid of {num}/{den}");
        k
    };
    times.iter().map(point).collect()
}

/// Stock: `TestTranscoderAPI_CountEncodedFrames`.
#[test]
fn every_rate_gives_its_frames_in_every_segment_and_segments_join() {
    let profiles = vec![at(30, 1), at(60, 1), at(120, 1), small()];
    let made: Vec<_> = segments().iter().map(|segment| made(segment, &job(profiles.clone()))).collect();
    for segment in &made {
        let counts: Vec<u64> = segment.done.renditions.iter().map(|r| r.frames).collect();
        assert_eq!(counts, [60, 120, 240, 120]);
    }
    for (index, step) in [3000, 1500, 750, 1500].into_iter().enumerate() {
        let all: Vec<i64> = made.iter().flat_map(|m| m.times(index)).collect();
        assert!(all.windows(2).all(|w| w[1] - w[0] == step), "rendition {index} has a gap or a frame twice");
    }
}

/// Stock: `TestTranscoder_API_AlternatingTimestamps`.
#[test]
fn segments_out_of_order_are_each_handled_by_their_own_times() {
    let segments = segments();
    let in_order: Vec<_> = segments.iter().map(|s| made(s, &job(vec![at(123, 1)])).times(0)).collect();
    for index in [1, 0, 3, 2] {
        let made = made(&segments[index], &job(vec![at(123, 1)]));
        assert_eq!(made.done.renditions[0].frames, 246);
        assert_eq!(made.times(0), in_order[index]);
    }
}

/// Stock: `TestAPI_SkippedSegment`, `TestTranscoder_NOPTS_SkipSegment`.
#[test]
fn a_skipped_segment_leaves_the_next_one_as_it_is() {
    let segments = segments();
    for segment in [&segments[0], &segments[3]] {
        let made = made(segment, &job(vec![at(60, 1), small()]));
        assert_eq!((made.done.decoded_frames, made.done.renditions[0].frames), (120, 120));
        assert_eq!(made.times(0), made.times(1));
    }
}

/// Stock: `TestTranscoder_API_DTSOverlap`.
#[test]
fn segments_whose_times_overlap_are_no_trouble() {
    let parts = segments();
    let (codec, mut units, _) = apart(&parts[1]);
    // Half a second of what the first segment has already.
    units.iter_mut().for_each(|u| u.pts = u.pts.map(|pts| pts - Ticks(45_000)));
    let first = made(&parts[0], &job(vec![small(), at(30, 1)]));
    let second = made(&together(codec, &units, None), &job(vec![small(), at(30, 1)]));
    assert_eq!(second.times(0)[0], first.times(0)[119] + 1500 - 45_000);
    assert_eq!(second.times(0).len(), 120);
    assert_eq!(second.times(1).len(), 60);
}

/// Stock: `TestTranscoder_ShortSegments`.
#[test]
fn segments_of_a_few_frames_lose_none() {
    for count in [1u64, 2, 3, 5, 6, 10] {
        let length = format!("{:.4}", (count as f64 - 0.5) / 30.0);
        let input = clip("short", "30", &length, true);
        let job = job(vec![small(), at(30, 1), Profile { codec_profile: CodecProfile::H264High, ..small() }, at(1, 1)]);
        let made = made(&bytes(&input), &job);
        let counts: Vec<u64> = made.done.renditions.iter().map(|r| r.frames).collect();
        assert_eq!(counts, [count, count, count, 1]);
        assert_eq!(made.times(0), times(&frames(&input)));
    }
}

/// Stock: `TestTranscoder_FractionalFPS`.
#[test]
fn rates_that_are_no_whole_numbers_are_kept() {
    for segment in &segments()[..2] {
        let made = made(segment, &job(vec![at(24_000, 1001), at(30_000, 1001), at(60_000, 1001)]));
        let counts: Vec<u64> = made.done.renditions.iter().map(|r| r.frames).collect();
        assert!((47..=49).contains(&counts[0]), "{counts:?}");
        assert!((59..=61).contains(&counts[1]), "{counts:?}");
        assert!((119..=121).contains(&counts[2]), "{counts:?}");
        for (index, num) in [24_000, 30_000, 60_000].into_iter().enumerate() {
            let points = grid(&made.times(index), num, 1001);
            assert!(points.windows(2).all(|w| w[1] == w[0] + 1), "{points:?}");
        }
    }
}

#[test]
fn ffmpeg_shows_frames_at_the_same_points_of_the_grid() {
    let even = clip("even", "60", "2", false);
    let odd = uneven();
    for input in [&even, &odd] {
        for (num, den) in [(30i64, 1i64), (45, 1), (24_000, 1001), (90, 1)] {
            let rate = at(u32::try_from(num).unwrap(), u32::try_from(den).unwrap());
            let ours = grid(&made_of(input, vec![rate]).times(0), num, den);
            let theirs = grid_of_ffmpeg(input, &format!("{num}/{den}"));
            // At the very end the two may differ: we go on until the last frame has been shown for as long as others.
            let common = ours.len().min(theirs.len());
            let more = usize::try_from(num / den / 25).unwrap() + 1;
            assert!(ours.len() + 1 >= theirs.len() && ours.len() <= theirs.len() + more, "{ours:?} {theirs:?}");
            assert_eq!(ours[..common], theirs[..common], "{num}/{den} of {input:?}");
        }
    }
}

/// Stock: `TestTranscoder_SkippedFrames`.
#[test]
fn a_segment_with_frames_missing_begins_where_it_did() {
    let whole = clip("thirty", "30", "6", false);
    let (codec, units, _) = apart(&bytes(&whole));
    for range in [0..50, 60..63, 120..180] {
        let part = together(codec, &units[range.clone()], None);
        let made = made(&part, &job(vec![at(45, 1), small()]));
        let first = made.times(1)[0];
        assert_eq!(made.times(0)[0], first, "frames {range:?}");
        assert_eq!(made.done.decoded_frames, range.len() as u64);
    }
}

/// Stock: `TestTranscoder_OutputFPS`.
#[test]
fn the_rate_asked_for_is_the_rate_seen() {
    let input = clip("sixty", "60", "2", true);
    for (num, den, said) in [(30, 1, "30/1"), (24, 1, "24/1"), (120, 1, "120/1")] {
        let made = made_of(&input, vec![at(num, den)]);
        assert_eq!(stream_field(&made.files[0], "v", "r_frame_rate"), said);
    }
}

/// Stock: `TestTranscoder_Timestamp`, `TestTranscoder_PassthroughFPS`, `TestTranscoder_PassthroughFPS_AdjustTimestamps`.
#[test]
fn without_a_rate_every_frame_is_shown_when_it_was() {
    let input = clip("pass", "60", "1", true);
    let bframes = Profile { codec_profile: CodecProfile::H264High, ..small() };
    let made = made_of(&input, vec![small(), bframes]);
    for index in [0, 1] {
        assert_eq!(made.times(index), times(&frames(&input)));
        let packets = packets(&made.files[index], "v");
        assert!(packets.windows(2).all(|w| w[0].1 < w[1].1), "decoding goes on");
        assert!(packets.iter().all(|p| p.1 <= p.0), "nothing is shown before it is decoded");
    }
    assert!(packets(&made.files[1], "v").iter().any(|p| p.0 != p.1), "the profile brings pictures out of order");
}

/// Thirty frames at odd times, as a camera with a tired clock sends them.
fn uneven() -> std::path::PathBuf {
    let filter = "settb=1/90000,setpts='33373260+N*3000+mod(N*N*90,1980)'";
    let more = ["-vf", filter, "-fps_mode", "passthrough", "-copyts", "-enc_time_base", "1:90000", "-muxdelay", "0"];
    let more = [&more[..], &["-bf", "0", "-threads", "1"]].concat();
    media::synthetic("uneven.ts", "160x90", "30", "1", false, &more)
}

/// Stock: `TestTranscoder_VFR`.
#[test]
fn uneven_times_are_kept_to_the_tick() {
    let input = uneven();
    let source = times(&frames(&input));
    let steps: std::collections::BTreeSet<i64> = source.windows(2).map(|w| w[1] - w[0]).collect();
    assert!(steps.len() > 5, "the clip is uneven: {steps:?}");
    let made = made_of(&input, vec![small(), Profile { codec_profile: CodecProfile::H264Main, ..small() }]);
    assert_eq!(made.times(0), source);
    assert_eq!(made.times(1), source);
}

/// Stock: `TestTranscoder_EncodedFrameRunaway`.
#[test]
fn frames_far_apart_do_not_make_a_flood_of_frames() {
    let more = ["-vf", "setpts=N*10/TB", "-fps_mode", "passthrough", "-frames:v", "5", "-enc_time_base", "1:90000"];
    let input = media::synthetic("sparse.ts", "160x90", "30", "1", false, &[&more[..], &["-bf", "0"]].concat());
    assert_eq!(refused(&bytes(&input), &job(vec![at(5, 1)])), JobError::Runaway);
    assert_eq!(JobError::Runaway.to_string(), "Encoded frames runaway");
    assert_eq!(made_of(&input, vec![at(2, 1)]).done.renditions[0].frames, 100);
    assert_eq!(made_of(&input, vec![small()]).done.renditions[0].frames, 5);
}

/// Stock: `TestTranscoder_NOPTS_MissingSEIAndPES`.
#[test]
fn frames_without_a_time_are_shown_between_their_neighbours() {
    let input = clip("timeless", "10", "1.2", false);
    let source = times(&frames(&input));
    let mut stream = bytes(&input);
    edit(&mut stream, VIDEO_PID, |n, mut pes| {
        if (4..8).contains(&n) {
            pes.forget_times();
        }
    });
    let made = made(&stream, &job(vec![small(), at(10, 1)]));
    assert_eq!(made.done.decoded_frames, 12);
    let shown = made.times(0);
    assert_eq!(shown.len(), 12);
    assert_eq!((shown[0], shown[11]), (source[0], source[11]));
    assert!(shown.windows(2).all(|w| w[0] < w[1]), "{shown:?}");
    assert!(made.done.renditions[1].frames <= 13);
}

/// Stock: `TestTranscoder_LargeOutputs`, a clip whose frames have strange times or none at all.
#[test]
fn strange_and_missing_times_make_no_endless_rendition() {
    let input = clip("strange", "60", "2", true);
    let mut stream = bytes(&input);
    edit(&mut stream, VIDEO_PID, |n, mut pes| match (n % 7, pes.pts()) {
        (5, _) => pes.forget_times(),
        // Decoded a little after it is shown.
        (_, Some(pts)) => pes.set_dts(pts + 90),
        _ => {}
    });
    let made = made(&stream, &job(vec![small(), at(30, 1)]));
    assert_eq!(made.done.decoded_frames, 120);
    assert_eq!(made.done.renditions[0].frames, 120);
    assert!((60..=61).contains(&made.done.renditions[1].frames), "{:?}", made.done.renditions);
    let times = made.times(0);
    assert!(times.windows(2).all(|w| w[0] < w[1]));
}

#[test]
fn a_stream_that_never_tells_the_time_is_played_at_an_even_pace() {
    let input = clip("silent", "30", "1", false);
    let mut stream = bytes(&input);
    edit(&mut stream, VIDEO_PID, |_, mut pes| pes.forget_times());
    let made = made(&stream, &job(vec![small()]));
    let times = made.times(0);
    assert_eq!(times.len(), 30);
    assert!(times.windows(2).all(|w| w[1] - w[0] == 3000), "{times:?}");
}

#[test]
fn a_time_that_goes_back_is_moved_past_the_one_before() {
    let input = media::synthetic("back.ts", "160x90", "30", "1", false, &["-bf", "0", "-threads", "1"]);
    let mut stream = bytes(&input);
    let source = times(&frames(&input));
    edit(&mut stream, VIDEO_PID, |n, mut pes| {
        if n == 10 {
            pes.set_pts(u64::try_from(source[5]).unwrap());
        }
    });
    let made = made(&stream, &job(vec![small()]));
    let mut wanted = source.clone();
    wanted[10] = source[9] + 1;
    assert_eq!(made.times(0), wanted);
}

/// Stock: `TestTranscoderStatistics_Decoded`, `TestTranscoder_Statistics_Encoded`, `TestTranscoder_StatisticsAspectRatio`.
#[test]
fn what_is_reported_is_what_is_there() {
    let input = media::synthetic("wide.ts", "240x100", "30", "1", true, &["-threads", "1"]);
    let made = made_of(&input, vec![small(), at(60, 1)]);
    assert_eq!((made.done.decoded_frames, made.done.decoded_pixels.0), (30, 30 * 240 * 100));
    let said: Vec<_> = made.done.renditions.iter().map(|r| (r.width, r.height, r.frames, r.pixels.0)).collect();
    assert_eq!(said, [(256, 106, 30, 30 * 256 * 106), (256, 106, 60, 60 * 256 * 106)]);
    assert_eq!(made.done.duration_ms, 1000);
}

#[test]
fn the_clock_may_wrap_inside_a_segment_and_inside_a_picture_sequence() {
    let across = ["-output_ts_offset", "95442.2", "-muxdelay", "0", "-threads", "1"];
    let input = media::synthetic("wrap.ts", "160x90", "30", "2", true, &across);
    let made = made_of(&input, vec![small(), at(30, 1), Profile { codec_profile: CodecProfile::H264High, ..small() }]);
    assert_eq!(made.done.duration_ms, 2000);
    assert_eq!(made.times(0), times(&frames(&input)));
    for rendition in &made.done.renditions {
        assert_eq!(rendition.frames, 60);
    }
    for file in &made.files {
        assert_eq!(media::audio_packets(file), media::audio_packets(&input));
    }
}
