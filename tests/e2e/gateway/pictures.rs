//! Our answer to "are these the same pictures?" beside ffmpeg's own.
use std::path::Path;
use std::process::Command;

use millrace_tests::media::{bunny, clip};
use video_signature::{Match, Signature};

use super::text;

/// The signature of a file as ffmpeg writes it.
fn signature(of: &Path) -> Signature {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("signature.bin");
    let filter = format!("signature=format=binary:filename={}", text(&out));
    let run = Command::new("ffmpeg")
        .args(["-v", "error", "-nostdin", "-i", text(of), "-an", "-vf", &filter, "-f", "null", "-"])
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    Signature::read(&std::fs::read(&out).unwrap()).unwrap()
}

/// What ffmpeg finds in two files.
fn found(a: &Path, b: &Path) -> Match {
    let filter = "[0:v][1:v]signature=nb_inputs=2:detectmode=full";
    let run = Command::new("ffmpeg")
        .args(["-nostdin", "-i", text(a), "-i", text(b), "-filter_complex", filter, "-f", "null", "-"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&run.stderr).into_owned();
    match (said.contains("whole video matching"), said.contains("matching of video 0 at")) {
        (true, _) => Match::Whole,
        (false, true) => Match::Part,
        (false, false) => {
            assert!(said.contains("no matching of video 0 and 1"), "{said}");
            Match::None
        }
    }
}

#[test]
fn what_matches_for_ffmpeg_matches_for_us() {
    let film = bunny();
    let cut = |name: &str, args: &[&str]| {
        let encode = ["-an", "-c:v", "libx264", "-preset", "ultrafast", "-qp", "24"];
        clip(name, &[args, &encode].concat())
    };
    let source = ["-i", text(&film)];
    let same = cut("same-240.ts", &[&source[..], &["-vf", "scale=426:240"]].concat());
    let dark = cut("darker.ts", &[&source[..], &["-vf", "scale=426:240,eq=brightness=-0.1"]].concat());
    let later = cut("later.ts", &["-ss", "1", "-i", text(&film), "-vf", "scale=426:240"]);
    let upside = cut("upside.ts", &[&source[..], &["-vf", "scale=426:240,vflip"]].concat());
    let two = cut("two.ts", &[&source[..], &["-vf", "scale=426:240", "-frames:v", "2"]].concat());
    let test = cut("test.ts", &["-f", "lavfi", "-i", "testsrc2=size=426x240:rate=30:duration=4"]);
    let mut matched = 0;
    for (a, b) in [(&film, &same), (&film, &dark), (&film, &later), (&film, &upside), (&same, &test), (&two, &two)] {
        let (theirs, ours) = (found(a, b), signature(a).compare(&signature(b)));
        // Whether a match is whole depends on how its last frames are walked; a gateway asks only whether there is one.
        assert_eq!(ours != Match::None, theirs != Match::None, "{} {}: {ours:?} {theirs:?}", text(a), text(b));
        matched += usize::from(ours != Match::None);
    }
    assert_eq!(matched, 3, "the same clip, a darker one, and a later part of it");
}
