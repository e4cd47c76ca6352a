//! The MPEG-7 signatures a worker makes, against those of the installed FFmpeg's filter.
#![expect(clippy::unwrap_used, reason = "a test may stop where it is")]

#[path = "../../../tests/src/media.rs"]
#[expect(unreachable_pub, dead_code, reason = "a library's module, taken in by path")]
mod media;

use std::path::Path;
use std::process::Command;

use livepeer::profile::{Profile, preset};
use livepeer::units::FrameRate;
use media::{clip, synthetic};
use sandbox::message::{Job, JobError, Limits, Signatures};
use worker::{Engine, Failure, Output, transcode};

fn work(input: &Path, profiles: Vec<Profile>, signatures: Signatures) -> Result<Output, Failure> {
    gstreamer::init().unwrap();
    let limits = Limits { deadline_ms: 120_000, ..Limits::default() };
    let job = Job {
        id: 7,
        profiles,
        clip: None,
        limits,
        threads: 2,
        service_provider: String::new(),
        signatures,
        video_seen: false,
    };
    transcode(&std::fs::read(input).unwrap(), &job, &Engine::software("preset=ultrafast".parse().unwrap()))
}

/// What FFmpeg's filter writes for a file.
fn theirs(input: &Path) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let status = Command::new("ffmpeg")
        .args(["-nostdin", "-v", "error", "-noautorotate", "-i"])
        .arg(input)
        .args(["-vf", "signature=format=binary:filename=theirs.bin", "-f", "null", "-"])
        .current_dir(dir.path())
        .status()
        .unwrap();
    assert!(status.success(), "{}", input.display());
    std::fs::read(dir.path().join("theirs.bin")).unwrap()
}

/// The 380 digits of each frame of a file, and its time.
fn frames(file: &[u8]) -> Vec<(u32, Vec<u8>)> {
    let field = |first: usize, bits: usize| {
        (first..first + bits).fold(0u32, |value, bit| value << 1 | u32::from(file[bit / 8] >> (7 - bit % 8) & 1))
    };
    let (count, segments) = (field(129, 32) as usize, field(242, 32) as usize);
    let first = 275 + segments * 1344;
    let digits = |at: usize| -> Vec<u8> {
        let bytes = (0..76).map(|byte| field(at + 1 + 32 + 8 + 40 + byte * 8, 8));
        bytes.flat_map(|byte| [81, 27, 9, 3, 1].map(|weight| (byte / weight % 3) as u8)).collect()
    };
    (0..count).map(|frame| first + frame * 689).map(|at| (field(at + 1, 32), digits(at))).collect()
}

/// The largest distance of two frames that are shown at the same place; a gateway takes less than 116 for alike.
fn farthest(ours: &[u8], theirs: &[u8]) -> u32 {
    let (ours, theirs) = (frames(ours), frames(theirs));
    assert_eq!(ours.len(), theirs.len());
    let apart = |a: &[u8], b: &[u8]| a.iter().zip(b).map(|(x, y)| u32::from(x.abs_diff(*y))).sum::<u32>();
    ours.iter().zip(&theirs).map(|(a, b)| apart(&a.1, &b.1)).max().unwrap()
}

#[test]
fn a_source_has_the_signature_that_ffmpeg_writes() {
    let noise = |size: &str| format!("testsrc2=s={size}:r=30:d=3,noise=alls=40:allf=t+u");
    let h264 = ["-c:v", "libx264", "-preset", "ultrafast", "-bf", "2", "-g", "30"];
    let coded = |name: &str, size: &str, format: &str, more: &[&str]| {
        let source = noise(size);
        clip(name, &[&["-f", "lavfi", "-i", &source, "-pix_fmt", format], &h264[..], more].concat())
    };
    let clips = [
        media::bunny(),
        synthetic("sig.ts", "640x360", "30000/1001", "4", true, &[]),
        synthetic("sig.mp4", "640x360", "25", "4", true, &[]),
        synthetic("sig-late.ts", "320x180", "24", "2", true, &["-output_ts_offset", "95443.7"]),
        coded("sig-odd.mp4", "321x243", "yuv444p", &[]),
        coded("sig-odd.ts", "101x77", "yuv444p", &[]),
        coded("sig-422.ts", "320x180", "yuv422p", &[]),
        coded("sig-deep.ts", "320x180", "yuv420p10le", &[]),
        coded("sig-deep-444.mp4", "322x180", "yuv444p10le", &[]),
        coded("sig-full.ts", "320x180", "yuvj420p", &[]),
        coded("sig-edge.ts", "128x96", "yuv420p", &["-frames:v", "46"]),
        clip("sig-hevc.ts", &["-f", "lavfi", "-i", &noise("320x180"), "-c:v", "libx265", "-preset", "ultrafast"]),
        clip("sig-hevc.mp4", &["-f", "lavfi", "-i", &noise("320x180"), "-c:v", "libx265", "-preset", "ultrafast"]),
    ];
    let mut wrong = Vec::new();
    for clip in clips {
        let ours = work(&clip, Vec::new(), Signatures::Source).unwrap();
        assert_eq!((ours.signatures.len(), ours.files.len(), ours.done.renditions.len()), (1, 0, 0));
        let theirs = theirs(&clip);
        if ours.signatures[0] != theirs {
            let at = ours.signatures[0].iter().zip(&theirs).position(|(a, b)| a != b);
            let (a, b) = (frames(&ours.signatures[0]), frames(&theirs));
            let times = |f: &[(u32, Vec<u8>)]| f.iter().take(4).map(|f| f.0).collect::<Vec<_>>();
            wrong.push(format!(
                "{}: {} and {} bytes, first difference at {at:?}; {} and {} frames, at {:?} and {:?}",
                clip.display(),
                ours.signatures[0].len(),
                theirs.len(),
                a.len(),
                b.len(),
                times(&a),
                times(&b)
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_source_too_small_for_the_grid_has_none_and_says_why() {
    let small = synthetic("sig-small.ts", "48x30", "25", "1", false, &[]);
    let failure = work(&small, Vec::new(), Signatures::Source).unwrap_err();
    assert_eq!(failure.error, JobError::InvalidVideo);
    assert!(failure.detail.contains("48x30 is too small"), "{failure}");
    let both = work(&small, vec![preset("240p").unwrap()], Signatures::Source).unwrap_err();
    assert_eq!(both.error, JobError::InvalidArgument);
}

#[test]
fn each_rendition_has_the_signature_of_what_goes_into_its_encoder() {
    let source = media::bunny();
    let half = Profile { fps: Some(FrameRate { num: 15, den: 1 }), ..preset("360p").unwrap() };
    let profiles = vec![half, preset("720p").unwrap(), preset("240p").unwrap()];
    let plain = work(&source, profiles.clone(), Signatures::None).unwrap();
    assert!(plain.signatures.is_empty() && plain.done.signatures.is_empty());
    let output = work(&source, profiles, Signatures::Renditions).unwrap();
    let dir = tempfile::tempdir().unwrap();
    assert_eq!((output.signatures.len(), output.files.len()), (3, 3));
    for ((signature, file), rendition) in output.signatures.iter().zip(&output.files).zip(&output.done.renditions) {
        let path = dir.path().join("rendition.ts");
        std::fs::write(&path, file).unwrap();
        let frames = frames(signature);
        assert_eq!(frames.len() as u64, rendition.frames);
        assert!(frames.windows(2).all(|pair| pair[0].0 < pair[1].0), "times increase");
        // What comes out of the encoder differs by coding alone, far below what makes a gateway doubt.
        let apart = farthest(signature, &theirs(&path));
        assert!(apart < 60, "{}x{}: {apart}", rendition.width, rendition.height);
    }
    // The full size is not scaled: those are the source's own pictures, bit for bit.
    let bare = |file: &[u8]| frames(file).into_iter().map(|(_, digits)| digits).collect::<Vec<_>>();
    assert_eq!(bare(&output.signatures[1]), bare(&theirs(&source)));
    let lengths: Vec<u64> = output.signatures.iter().map(|file| file.len() as u64).collect();
    assert_eq!(output.done.signatures, lengths);
}

#[test]
fn a_rendition_whose_size_changes_on_the_way_is_not_signed() {
    let args = |size: &str| format!("testsrc2=s={size}:r=25:d=1");
    let part = |name: &str, size: &str| {
        let source = args(size);
        let picture = ["-f", "lavfi", "-i", &source, "-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p"];
        std::fs::read(clip(name, &picture)).unwrap()
    };
    // Another shape changes the renditions' size, another scale of the same shape does not.
    for (second, signed) in [("320x240", false), ("640x360", true)] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("changing.ts");
        let both = [part("sig-first.ts", "320x180"), part(&format!("sig-{second}.ts"), second)].concat();
        std::fs::write(&path, both).unwrap();
        let output = work(&path, vec![preset("240p").unwrap()], Signatures::Renditions).unwrap();
        assert_eq!(output.signatures.len(), 1);
        assert_eq!(!output.signatures[0].is_empty(), signed, "{second}");
        if signed {
            assert_eq!(frames(&output.signatures[0]).len(), 50);
        }
        let source = work(&path, Vec::new(), Signatures::Source).unwrap_err();
        assert!(source.detail.contains("follow pictures of 320x180"), "{source}");
    }
}
