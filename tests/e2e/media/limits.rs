//! Bounds, windows and refusals.
use livepeer::profile::{Profile, VideoCodec};
use livepeer::units::FrameRate;
use millrace_tests::media::{frames, synthetic};
use sandbox::message::{Clip, Job, JobError, Limits};

use super::{at, bytes, clip, coded, job, made, mp4, refused, small, times};

/// Stock: `TestTranscode_DurationLimit`.
#[test]
fn more_than_300_seconds_are_refused() {
    let length = |seconds: &str| {
        let more = ["-g", "600", "-bf", "0", "-threads", "1"];
        bytes(&synthetic("long.ts", "32x32", "1", seconds, false, &more))
    };
    assert_eq!(refused(&length("301"), &job(vec![small()])), JobError::InvalidDuration);
    assert_eq!(JobError::InvalidDuration.to_string(), "TranscoderInvalidDuration");
    let made = made(&length("300"), &job(vec![small()]));
    assert_eq!((made.done.duration_ms, made.done.renditions[0].frames), (300_000, 300));
}

/// Stock: `TestTranscoderAPI_TooManyOutputs`.
#[test]
fn ten_renditions_are_made_and_eleven_refused() {
    let input = bytes(&clip("tone", "30", "0.2", true));
    assert_eq!(made(&input, &job(vec![small(); 10])).files.len(), 10);
    assert_eq!(refused(&input, &job(vec![small(); 11])), JobError::TooManyOutputs);
    assert_eq!(JobError::TooManyOutputs.to_string(), "Too many outputs");
    assert_eq!(refused(&input, &job(vec![])), JobError::InvalidArgument);
    assert_eq!(JobError::InvalidArgument.to_string(), "Invalid argument");
}

#[test]
fn a_rendition_stops_at_its_limit_and_a_job_at_its_deadline() {
    let input = bytes(&clip("tone", "30", "1", true));
    let limits = Limits { deadline_ms: 120_000, ..Limits::default() };
    let tight = Job { limits: Limits { max_output_bytes: 2000, ..limits }, ..job(vec![small()]) };
    assert_eq!(refused(&input, &tight), JobError::OutputTooLarge);
    let late = Job { limits: Limits { deadline_ms: 1, ..limits }, ..job(vec![small()]) };
    assert_eq!(refused(&input, &late), JobError::Timeout);
    // Many frames out of few are stopped by their number.
    assert_eq!(refused(&input, &job(vec![at(1_000_000, 1)])), JobError::Runaway);
}

/// Stock: `TestTranscoder_Clip`, `TestTranscoder_Clip2`, `TestTranscoderAPI_ClipInvalidConfig`.
#[test]
fn a_window_keeps_its_frames_and_its_sound_and_time_begins_anew() {
    let path = clip("window", "30", "3", true);
    let input = bytes(&path);
    let window = |from_ms, to_ms| Job { clip: Some(Clip { from_ms, to_ms }), ..job(vec![small(), at(30, 1), mp4()]) };
    let made = made(&input, &window(1000, 2000));
    for index in 0..3 {
        let times = made.times(index);
        assert!((29..=31).contains(&times.len()), "rendition {index}: {}", times.len());
        assert!((0..6000).contains(&times[0]), "rendition {index} begins at {}", times[0]);
    }
    let sound = super::probe::packets(&made.files[0], "a");
    // ffmpeg puts several frames of sound into a packet, and a packet is in the window or not.
    assert!((40..=50).contains(&sound.len()), "{} frames of 21 ms in a second", sound.len());
    assert!((0..12_000).contains(&sound[0].0.unwrap()), "{:?}", sound[0]);
    let all = super::made(&input, &window(0, 60_000));
    assert_eq!(all.done.renditions[0].frames, 90);
    let source = times(&frames(&path));
    let kept = all.times(0);
    assert!(kept.iter().zip(&source).all(|(a, b)| a - kept[0] == b - source[0]));
    for empty in [window(5, 5), window(2000, 1000)] {
        assert_eq!(refused(&input, &empty), JobError::InvalidArgument);
    }
    assert_eq!(refused(&input, &window(50_000, 60_000)), JobError::InvalidVideo);
}

#[test]
fn requests_that_make_no_sense_are_refused() {
    let input = bytes(&clip("tone", "30", "0.2", true));
    for fps in [FrameRate { num: 0, den: 1 }, FrameRate { num: 30, den: 0 }] {
        assert_eq!(refused(&input, &job(vec![Profile { fps: Some(fps), ..small() }])), JobError::InvalidArgument);
    }
    let free = Profile { bitrate: livepeer::units::BitsPerSecond(0), ..small() };
    assert_eq!(refused(&input, &job(vec![free])), JobError::InvalidArgument);
    // One bad profile among good ones takes the job with it: a partial set is worth nothing to a gateway.
    let mixed = vec![small(), coded(VideoCodec::Vp9, livepeer::profile::Container::MpegTs)];
    assert_eq!(refused(&input, &job(mixed)), JobError::MuxerNotFound);
}

#[test]
fn a_giant_picture_is_refused_before_a_decoder_sees_it() {
    for (size, wanted) in [("8256x64", true), ("7104x5680", true), ("8192x512", false)] {
        let input = bytes(&synthetic("giant.ts", size, "1", "1", false, &["-threads", "1", "-level", "6.2"]));
        let outcome = super::attempt(&input, &job(vec![small()]));
        let refused = matches!(outcome, Err(JobError::InvalidResolution));
        assert_eq!(refused, wanted, "{size}: {:?}", outcome.map(|made| made.done));
    }
    assert_eq!(JobError::InvalidResolution.to_string(), "TranscoderInvalidResolution");
}

#[test]
fn a_worker_keeps_nothing_of_the_jobs_it_did() {
    let mut worker = super::Borrowed::get();
    let open = |worker: &sandbox::launch::Worker| {
        std::fs::read_dir(format!("/proc/{}/fd", worker.pid())).map(|fds| fds.count()).ok()
    };
    let input = sandbox::memfd::Sealed::from_bytes(&bytes(&clip("tone", "30", "0.2", true))).unwrap();
    let noise = sandbox::memfd::Sealed::from_bytes(b"noise").unwrap();
    let mut run = |segment: &sandbox::memfd::Sealed| {
        let job = job(vec![small(), at(15, 1), mp4()]);
        let _ = worker.run(&job, std::os::fd::AsFd::as_fd(segment), super::PATIENCE);
        open(&worker)
    };
    let Some(first) = run(&input) else {
        println!("not run: descriptors of a worker are hidden from this user");
        return;
    };
    for round in 0..20 {
        run(&noise);
        let now = run(&input).unwrap();
        println!("round {round}: {now} descriptors");
        assert!(now <= first + 4, "{now} descriptors after {round} rounds, {first} after the first");
    }
}
