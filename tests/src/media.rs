//! Clips made by command, and what ffmpeg says of a file.
//!
//! The clips are cached in `target/test-media`, made once per command. Needs `ffmpeg` and `ffprobe`.
use std::path::{Path, PathBuf};
use std::process::Command;

/// The demo's clip: 4 s of 720p30, H.264 High and AAC, a key frame every 2 s. See `tests/media/README.md`.
pub fn bunny() -> PathBuf {
    repository().join("tests/media/bbb-720p.ts")
}

/// The repository's root.
///
/// # Panics
/// When the tests were built outside it.
pub fn repository() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = here.ancestors().find(|dir| dir.join("Cargo.lock").is_file());
    root.expect("the tests are built inside the repository").to_owned()
}

/// A clip made by `ffmpeg` with these arguments (all but the output), cached under `name`.
///
/// # Panics
/// When ffmpeg is missing or fails.
pub fn clip(name: &str, args: &[&str]) -> PathBuf {
    let dir = repository().join("target/test-media");
    std::fs::create_dir_all(&dir).expect("the build directory can be written");
    let key = args
        .join(" ")
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let (stem, extension) = name.rsplit_once('.').unwrap_or((name, "ts"));
    let path = dir.join(format!("{stem}-{key:016x}.{extension}"));
    if !path.is_file() {
        let unique = format!(".{}-{:?}.{extension}", std::process::id(), std::thread::current().id());
        let partial = dir.join(unique.replace(['(', ')'], ""));
        run("ffmpeg", &[&["-v", "error", "-nostdin", "-y"], args, &[text(&partial)]].concat());
        std::fs::rename(&partial, &path).expect("a finished clip can be moved into place");
    }
    path
}

/// A moving test picture of this size and rate, with a tone unless `audio` is false.
pub fn synthetic(name: &str, size: &str, rate: &str, seconds: &str, audio: bool, more: &[&str]) -> PathBuf {
    let picture = format!("testsrc2=size={size}:rate={rate}:duration={seconds}");
    let tone = format!("sine=frequency=440:sample_rate=48000:duration={seconds}");
    let mut args: Vec<&str> = vec!["-f", "lavfi", "-i", &picture];
    if audio {
        args.extend(["-f", "lavfi", "-i", &tone, "-c:a", "aac", "-b:a", "96k"]);
    }
    args.extend(["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-bf", "2", "-g", "60"]);
    args.extend(more);
    clip(name, &args)
}

/// One video frame as ffprobe shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// In the stream's ticks.
    pub pts: Option<i64>,
    /// In pixels.
    pub width: u32,
    /// In pixels.
    pub height: u32,
    /// Can a decoder start here?
    pub key: bool,
}

/// All frames of the first video stream, decoded, in the order shown.
///
/// # Panics
/// When ffprobe is missing or its output makes no sense.
pub fn frames(path: &Path) -> Vec<Shown> {
    let fields = "frame=key_frame,pts,width,height";
    let out =
        run("ffprobe", &["-v", "error", "-select_streams", "v:0", "-show_entries", fields, "-of", "json", text(path)]);
    let parsed: serde_json::Value = serde_json::from_slice(&out).expect("ffprobe writes JSON");
    let frames = parsed["frames"].as_array().cloned().unwrap_or_default();
    let side = |frame: &serde_json::Value, name: &str| {
        frame[name].as_u64().and_then(|side| u32::try_from(side).ok()).expect("a frame has a size")
    };
    frames
        .iter()
        .map(|frame| Shown {
            pts: frame["pts"].as_i64(),
            width: side(frame, "width"),
            height: side(frame, "height"),
            key: frame["key_frame"].as_i64() == Some(1),
        })
        .collect()
}

/// One field of the first stream of this kind (`v` or `a`), as text; empty when there is none.
///
/// # Panics
/// When ffprobe is missing.
pub fn stream_field(path: &Path, kind: &str, field: &str) -> String {
    let entry = format!("stream={field}");
    let select = format!("{kind}:0");
    let args = ["-v", "error", "-select_streams", &select, "-show_entries", &entry, "-of", "csv=p=0", text(path)];
    let out = String::from_utf8_lossy(&run("ffprobe", &args)).into_owned();
    out.lines().next().unwrap_or_default().trim_end_matches(',').to_owned()
}

/// Time stamp, length and MD5 of every audio packet, as ffmpeg copies them; empty without audio.
///
/// # Panics
/// When ffmpeg is missing.
pub fn audio_packets(path: &Path) -> Vec<String> {
    if stream_field(path, "a", "codec_name").is_empty() {
        return Vec::new();
    }
    let args =
        ["-v", "error", "-nostdin", "-copyts", "-i", text(path), "-map", "0:a:0", "-c", "copy", "-f", "framemd5", "-"];
    let out = String::from_utf8_lossy(&run("ffmpeg", &args)).into_owned();
    out.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
}

/// MD5 of every AAC frame without whatever a container puts around it.
///
/// # Panics
/// When ffmpeg is missing.
pub fn aac_frames(path: &Path) -> Vec<String> {
    let bare: &[&str] = if path.extension().is_some_and(|e| e == "mp4") { &[] } else { &["-bsf:a", "aac_adtstoasc"] };
    let head = ["-v", "error", "-nostdin", "-i", text(path), "-map", "0:a:0", "-c", "copy"];
    let out = run("ffmpeg", &[&head[..], bare, &["-f", "framemd5", "-"]].concat());
    let out = String::from_utf8_lossy(&out).into_owned();
    let sum = |line: &str| line.split(',').nth(5).unwrap_or_default().trim().to_owned();
    out.lines().filter(|line| !line.starts_with('#')).map(sum).collect()
}

/// Decodes everything and returns what ffmpeg complains about; empty for a clean file.
///
/// # Panics
/// When ffmpeg is missing.
pub fn complaints(path: &Path) -> String {
    let output = Command::new("ffmpeg")
        .args([
            "-v",
            "warning",
            "-nostdin",
            "-i",
            text(path),
            "-fps_mode",
            "passthrough",
            "-enc_time_base",
            "-1",
            "-f",
            "null",
            "-",
        ])
        .output()
        .expect("ffmpeg is installed: setup.sh installs it");
    // Newer ones want another word for what older ones only know as -1; that is no complaint about the file.
    let said = String::from_utf8_lossy(&output.stderr);
    said.lines().filter(|line| !line.contains("-enc_time_base -1 is deprecated")).collect::<Vec<_>>().join("\n")
}

fn run(program: &str, args: &[&str]) -> Vec<u8> {
    let output = Command::new(program).args(args).output();
    let output = output.unwrap_or_else(|e| panic!("{program} does not run ({e}): setup.sh installs it"));
    assert!(output.status.success(), "{program} {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of the tests are plain text")
}
