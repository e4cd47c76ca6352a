//! The MPEG-7 signature as people and gateways get it: from the command line, and beside a rendition.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use millrace_tests::bins::bin;
use millrace_tests::media;
use serde_json::Value;
use video_signature::Overview;

use crate::node::peer::{Speak, Upload, data, discover, get};
use crate::node::{Node, film, ladder};

/// What FFmpeg's filter writes for a file.
fn theirs(input: &Path, dir: &Path) -> Vec<u8> {
    let filter = "signature=format=binary:filename=theirs.bin";
    let status = Command::new("ffmpeg")
        .args(["-nostdin", "-v", "error", "-y", "-i"])
        .arg(input)
        .args(["-vf", filter, "-f", "null", "-"])
        .current_dir(dir)
        .status();
    assert!(status.unwrap().success(), "{}", input.display());
    std::fs::read(dir.join("theirs.bin")).unwrap()
}

fn millrace(args: &[&str], input: &[u8]) -> Output {
    let mut command = Command::new(bin("millrace"));
    command.arg("signature").args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // It may end without having read all.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_file_and_its_pictures_have_the_signature_that_ffmpeg_writes() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let film = media::synthetic("signature.mp4", "426x240", "30000/1001", "3", true, &[]);
    for clip in [&film, &media::bunny()] {
        let theirs = theirs(clip, dir.path());
        let done = millrace(&[clip.to_str().unwrap(), "-o", &path("ours.bin"), "--json"], b"");
        assert!(done.status.success(), "{}", said(&done));
        assert!(std::fs::read(path("ours.bin")).unwrap() == theirs, "{}", clip.display());
        let summary: Value = serde_json::from_slice(&done.stdout).unwrap();
        let overview = Overview::read(&theirs).unwrap();
        assert_eq!(summary["frames"], overview.frames);
        assert_eq!((&summary["width"], &summary["height"]), (&overview.width.into(), &overview.height.into()));
        assert_eq!(summary["bytes"], theirs.len());
        // The same through a pipe, in and out.
        let piped = millrace(&["-", "-o", "-"], &std::fs::read(clip).unwrap());
        assert!(piped.stdout == theirs, "{}", said(&piped));
    }

    let pictures = path("film.y4m");
    let status = Command::new("ffmpeg").args(["-nostdin", "-v", "error", "-i"]).arg(&film).arg(&pictures).status();
    assert!(status.unwrap().success());
    let theirs = theirs(Path::new(&pictures), dir.path());
    let piped = millrace(&["-", "-o", "-"], &std::fs::read(&pictures).unwrap());
    assert!(piped.stdout == theirs, "{}", said(&piped));
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "{left:?}");
}

#[test]
fn what_cannot_be_signed_is_refused_with_the_reason_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.bin");
    let out = out.to_str().unwrap();
    let small = media::synthetic("signature-small.ts", "48x30", "25", "1", false, &[]);
    let refused = |args: &[&str], input: &[u8], code: i32, text: &str| {
        let output = millrace(args, input);
        assert_eq!(output.status.code(), Some(code), "{}", said(&output));
        assert!(said(&output).contains(text), "{}", said(&output));
        assert!(!Path::new(out).exists());
    };
    refused(&[small.to_str().unwrap(), "-o", out], b"", 65, "48x30 is too small");
    refused(&["-", "-o", out], b"GIF89a", 65, "cannot sign -");
    refused(&["-", "-o", out], b"", 65, "cannot sign -");
    refused(&["-", "-o", out], b"YUV4MPEG2 W64 H64 F25:1 Cmono\n", 65, "has no picture");
    refused(&["-", "-o", out], b"YUV4MPEG2 W64 H64 F25:1 Cmono\nFRAME\n12", 65, "ends within frame 0");
    refused(&["/nonexistent", "-o", out], b"", 66, "/nonexistent");
    refused(&["-", "-o", "-", "--json"], b"", 64, "standard output");
    refused(&["-", "-o", "/nonexistent/x"], b"YUV4MPEG2 W32 H32 F25:1 Cmono\nFRAME\n", 65, "ends within frame 0");
    let whole = [&b"YUV4MPEG2 W32 H32 F25:1 Cmono\nFRAME\n"[..], &[7; 32 * 32]].concat();
    refused(&["-", "-o", "/nonexistent/x"], &whole, 73, "/nonexistent/x");
}

#[tokio::test]
async fn a_gateway_that_asks_gets_a_signature_beside_each_rendition() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path(), "[serve]\nlisten = \"127.0.0.1:0\"\nmax_sessions = 1\n").await;
    let info = discover(&node.uri).await.unwrap();
    assert_eq!(info.capabilities.unwrap().bitstring[0] >> 14 & 1, 1, "it works here, so it is offered");
    let token = info.auth_token.unwrap();
    let ladder = ladder();
    let plain = Upload::new(&token, 0, film(), &ladder).send(&node.uri, Speak::Http1).await;
    assert!(data(&plain).segments.iter().all(|rendition| rendition.perceptual_hash_url.is_empty()));
    let mut upload = Upload::new(&token, 1, film(), &ladder);
    upload.data.calc_perceptual_hash = true;
    let result = upload.send(&node.uri, Speak::Http1).await;
    assert_eq!(data(&result).segments.len(), ladder.len());
    for (rendition, size) in data(&result).segments.iter().zip([(256, 144), (160, 90)]) {
        assert_eq!(rendition.perceptual_hash_url, format!("{}.phash", rendition.url));
        let path = rendition.perceptual_hash_url.strip_prefix(&node.uri).unwrap();
        let response = get(&node.uri, Speak::Http1, path).await;
        assert_eq!(
            (response.status().as_u16(), &response.headers()["content-type"]),
            (200, &"application/octet-stream".parse().unwrap())
        );
        let signature = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
        let overview = Overview::read(&signature).unwrap();
        assert_eq!((overview.width, overview.height, overview.frames), (size.0, size.1, 30));
        assert_eq!(signature.len(), (275 + 1344 + 689 * 30_usize).div_ceil(8));
    }
    assert_eq!(node.stop(), Some(0));
}
