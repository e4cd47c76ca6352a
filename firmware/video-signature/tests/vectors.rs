//! Our files against FFmpeg's: the golden vectors, made anew from their commands, and clips beyond them that the
//! installed FFmpeg signs at the same time.
#![expect(clippy::unwrap_used, reason = "a test may stop where it is")]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use serde_json::Value;
use sha2::{Digest, Sha256};
use video_signature::{Signer, TimeBase, y4m};

/// Times that may be on their way from FFmpeg's log to the frames they belong to.
const TIMES_AHEAD: usize = 1024;

/// How long FFmpeg may take to log the time of a frame it has already delivered.
const PATIENCE: Duration = Duration::from_secs(60);

/// What of the vectors is not read here: read by a unit test, or nothing to compare with.
const NOT_READ_HERE: [(&str, &str); 9] = [
    ("about", "prose"),
    ("luma", "prose"),
    ("note_hires", "prose"),
    ("element_blocks_format", "prose"),
    ("bit_layout", "read by file::tests"),
    ("word_element_indexes", "read by frame::tests"),
    ("element_blocks", "read by geometry::tests"),
    ("match_rule", "how a gateway compares two files, which is not ours to do"),
    ("l1_observations", "distances measured on other clips"),
];

/// What of a clip is not compared: remarks on how the vectors were checked when they were made.
const REMARKS: [&str; 2] = ["independent_reimplementation_matches", "same_with_ffmpeg_7_1_5"];

/// What FFmpeg's log says of a clip.
#[derive(Debug)]
enum Logged {
    TimeBase(TimeBase),
    Pts(i64),
}

/// A clip seen through our eyes.
struct Signed {
    file: Vec<u8>,
    luma_sha256: String,
    size: (u32, u32),
}

/// Lets FFmpeg make a clip in `directory` and signs what comes out. `behind` are filters after the clip itself.
fn sign(lavfi: &str, filters: &str, behind: &str, directory: &Path) -> Signed {
    let mut ffmpeg = Command::new("ffmpeg")
        .args(["-nostdin", "-hide_banner", "-nostats", "-v", "info", "-f", "lavfi", "-i", lavfi])
        .args(["-vf", &format!("{filters},showinfo=checksum=0{behind}")])
        .args(["-fps_mode", "passthrough", "-f", "yuv4mpegpipe", "-"])
        .current_dir(directory)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("ffmpeg does not start ({error}); ./setup.sh installs it"));
    let log = BufReader::new(ffmpeg.stderr.take().unwrap());
    let stream = BufReader::with_capacity(1 << 20, ffmpeg.stdout.take().unwrap());
    let (sender, logged) = sync_channel(TIMES_AHEAD);
    let reader = std::thread::spawn(move || read_log(log, &sender));
    let signed = sign_stream(stream, &logged);
    drop(logged);
    let log = reader.join().unwrap();
    let status = ffmpeg.wait().unwrap();
    signed.filter(|_| status.success()).unwrap_or_else(|| panic!("ffmpeg made no clip of {lavfi}, {status}:\n{log}"))
}

/// Passes on what FFmpeg's `showinfo` says, and returns all that was logged.
fn read_log(mut log: impl BufRead, sender: &SyncSender<Logged>) -> String {
    let mut all = String::new();
    let mut line = Vec::new();
    while log.read_until(b'\n', &mut line).unwrap() > 0 {
        let text = String::from_utf8_lossy(&line).into_owned();
        let after = |mark: &str| text.split_once(mark).map(|(_, rest)| rest.trim_start());
        let logged = if let Some(rest) = after("config in time_base: ") {
            let (base, _) = rest.split_once(',').unwrap();
            let (numerator, denominator) = base.split_once('/').unwrap();
            Some(Logged::TimeBase(TimeBase::new(numerator.parse().unwrap(), denominator.parse().unwrap()).unwrap()))
        } else {
            let pts = after(" pts:").filter(|_| text.contains("showinfo"));
            pts.map(|rest| Logged::Pts(rest.split(' ').next().unwrap().parse().unwrap()))
        };
        if let Some(logged) = logged {
            // Nobody listens any more once the stream has ended.
            let _ = sender.send(logged);
        }
        all.push_str(&text);
        line.clear();
    }
    all
}

/// Signs a stream with the times logged; `None` if there is no picture in it.
fn sign_stream(stream: impl BufRead, logged: &Receiver<Logged>) -> Option<Signed> {
    let mut reader = y4m::Reader::new(stream).ok()?;
    let size = (reader.width(), reader.height());
    let Ok(Logged::TimeBase(time_base)) = logged.recv_timeout(PATIENCE) else { panic!("no time base was logged") };
    let mut signer = Signer::new(size.0, size.1, time_base).unwrap();
    let mut luma_sha256 = Sha256::new();
    while let Some(luma) = reader.next_frame().unwrap() {
        let Ok(Logged::Pts(pts)) = logged.recv_timeout(PATIENCE) else { panic!("no time was logged") };
        luma_sha256.update(luma);
        signer.push(pts, luma, size.0 as usize).unwrap();
    }
    Some(Signed { file: signer.finish(), luma_sha256: hex::encode(luma_sha256.finalize()), size })
}

/// Reads a bit string from its start.
struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    fn take(&mut self, count: usize) -> u64 {
        let value = (self.at..self.at + count)
            .fold(0, |value, bit| value << 1 | u64::from(self.bytes[bit / 8] >> (7 - bit % 8) & 1));
        self.at += count;
        value
    }
}

fn check_clip(clip: &Value, directory: &Path) {
    let name = clip["name"].as_str().unwrap();
    let text = |key: &str| clip[key].as_str().unwrap_or_else(|| panic!("{name} has no {key}"));
    let number = |key: &str| clip[key].as_u64().unwrap_or_else(|| panic!("{name} has no {key}"));
    let signed = sign(text("lavfi"), text("filters"), "", directory);
    assert_eq!(signed.luma_sha256, text("luma_sha256"), "{name}: this ffmpeg generates another clip");
    assert_eq!((u64::from(signed.size.0), u64::from(signed.size.1)), (number("width"), number("height")), "{name}");

    let mut bits = Bits { bytes: &signed.file, at: 32 + 1 + 32 };
    let (last_column, last_row, start) = (bits.take(16), bits.take(16), bits.take(32));
    assert_eq!((last_column + 1, last_row + 1, start), (number("width"), number("height"), 0), "{name}");
    assert_eq!(bits.take(32), number("frames"), "{name}");
    assert_eq!(bits.take(16), number("media_time_unit"), "{name}");
    bits.take(1 + 32);
    assert_eq!(bits.take(32), number("end_pts"), "{name}");
    assert_eq!(bits.take(32), number("segments"), "{name}");
    bits.at += usize::try_from(number("segments")).unwrap() * 1344 + 1;
    let first = &clip["first_frame"];
    assert_eq!(bits.take(1), 1, "{name}");
    assert_eq!(bits.take(32), first["pts"].as_u64().unwrap(), "{name}");
    assert_eq!(bits.take(8), first["confidence"].as_u64().unwrap(), "{name}");
    let words: Vec<u64> = (0..5).map(|_| bits.take(8)).collect();
    assert_eq!(serde_json::json!(words), first["words"], "{name}");
    let digits: Vec<u8> = (0..76).map(|_| u8::try_from(bits.take(8)).unwrap()).collect();
    assert_eq!(hex::encode(digits), first["framesig_hex"].as_str().unwrap(), "{name}");

    assert_eq!(signed.file.len() as u64, number("bytes"), "{name}");
    assert_eq!(hex::encode(Sha256::digest(&signed.file)), text("sha256"), "{name}");
}

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn our_files_are_the_bytes_of_every_vector() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/signature.json");
    let mut vectors = String::new();
    std::fs::File::open(path).unwrap().read_to_string(&mut vectors).unwrap();
    let vectors: Value = serde_json::from_str(&vectors).unwrap();
    let known: BTreeSet<&str> = NOT_READ_HERE.iter().map(|(key, _)| *key).chain(["clips"]).collect();
    assert_eq!(keys(&vectors), known, "every part of the vectors is read, or listed with the reason why not");

    let directory = tempfile::tempdir().unwrap();
    let clips = vectors["clips"].as_array().unwrap();
    let mut checked = BTreeSet::new();
    for clip in clips {
        let mut read: BTreeSet<&str> = keys(clip);
        for remark in REMARKS {
            read.remove(remark);
        }
        let compared = [
            "name",
            "lavfi",
            "filters",
            "width",
            "height",
            "frames",
            "segments",
            "media_time_unit",
            "end_pts",
            "bytes",
            "sha256",
            "luma_sha256",
            "first_frame",
        ];
        assert_eq!(read, BTreeSet::from(compared));
        assert_eq!(keys(&clip["first_frame"]), BTreeSet::from(["pts", "confidence", "words", "framesig_hex"]));
        check_clip(clip, directory.path());
        checked.insert(clip["name"].as_str().unwrap());
    }
    assert_eq!(checked.len(), 22, "{checked:?}");
}

/// Signs a clip with FFmpeg's filter and with our code in one go, and compares.
fn check_beside_ffmpeg(lavfi: &str, filters: &str) {
    let directory = tempfile::tempdir().unwrap();
    let signed = sign(lavfi, filters, ",signature=format=binary:filename=theirs.bin", directory.path());
    let theirs = std::fs::read(directory.path().join("theirs.bin")).unwrap();
    assert!(theirs.len() >= 289, "ffmpeg signed nothing of {lavfi},{filters}");
    let different = signed.file.iter().zip(&theirs).position(|(our, their)| our != their);
    assert_eq!(different, None, "the first byte that differs for {lavfi},{filters}");
    assert_eq!(signed.file.len(), theirs.len(), "{lavfi},{filters}");
}

#[test]
fn sizes_that_do_not_fit_the_grid_agree_with_the_installed_ffmpeg() {
    let sizes = [
        (32, 32),
        (33, 33),
        (32, 63),
        (63, 32),
        (47, 61),
        (65, 64),
        (64, 95),
        (97, 127),
        (101, 77),
        (253, 255),
        (427, 239),
        (639, 481),
        (1279, 721),
        (1921, 1079),
    ];
    for (width, height) in sizes {
        let source = format!("testsrc2=s={}x{}:r=25", width + 2, height + 2);
        let filters = format!("trim=end_frame=4,noise=alls=80:allf=t+u,format=gray,crop={width}:{height}:0:0:exact=1");
        check_beside_ffmpeg(&source, &filters);
    }
}

#[test]
fn pictures_around_and_beyond_exact_arithmetic_agree_with_the_installed_ffmpeg() {
    // The last sizes that are summed exactly, modulo 2⁶⁴, and the first that are rounded instead.
    let around = [(1187, 7439), (1187, 7440), (4095, 2175), (4096, 2175), (4096, 2176)];
    let beyond = [(4097, 2303), (7680, 4320), (16_000, 1002), (1002, 16_000), (20_000, 33)];
    for (width, height) in around.into_iter().chain(beyond) {
        let source = format!("testsrc2=s={}x{}:r=25", width + 2, height + 2);
        let filters = format!("trim=end_frame=2,noise=alls=80:allf=t+u,format=gray,crop={width}:{height}:0:0:exact=1");
        check_beside_ffmpeg(&source, &filters);
    }
}

#[test]
fn clocks_of_all_kinds_agree_with_the_installed_ffmpeg() {
    for filters in [
        "settb=1/90000,setpts=PTS-132000",
        "settb=1001/30000",
        "settb=1/1000000,setpts=PTS+5000000000",
        "setpts=N*N",
        "settb=3/2",
    ] {
        check_beside_ffmpeg("testsrc2=s=64x48:r=30000/1001", &format!("trim=end_frame=137,format=yuv420p,{filters}"));
    }
}

#[test]
fn deep_luma_is_narrowed_as_the_installed_ffmpeg_does_before_it_signs() {
    let directory = tempfile::tempdir().unwrap();
    let ffmpeg = |args: &[&str]| {
        let mut command = Command::new("ffmpeg");
        let run = command.args(["-nostdin", "-v", "error", "-y"]).args(args).current_dir(directory.path()).status();
        assert!(run.unwrap().success(), "{args:?}");
    };
    for format in ["yuv420p10le", "yuv422p10le", "yuv444p10le", "yuv420p12le", "yuv444p12le"] {
        let clip = format!("testsrc2=s=128x96:r=25,noise=alls=80:allf=t+u,format={format},crop=98:73:3:5:exact=1");
        ffmpeg(&["-f", "lavfi", "-i", &clip, "-frames:v", "20", "-strict", "-1", "-pix_fmt", format, "deep.y4m"]);
        ffmpeg(&["-i", "deep.y4m", "-vf", "signature=format=binary:filename=theirs.bin", "-f", "null", "-"]);
        let file = std::fs::File::open(directory.path().join("deep.y4m")).unwrap();
        let mut reader = y4m::Reader::new(BufReader::new(file)).unwrap();
        let mut signer = Signer::new(reader.width(), reader.height(), reader.time_base()).unwrap();
        let width = reader.width() as usize;
        for pts in 0.. {
            let Some(luma) = reader.next_frame().unwrap() else { break };
            signer.push(pts, luma, width).unwrap();
        }
        assert_eq!(signer.frames(), 20);
        assert!(signer.finish() == std::fs::read(directory.path().join("theirs.bin")).unwrap(), "{format}");
    }
}
