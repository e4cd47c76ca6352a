//! What ffmpeg makes of a segment, and what ffprobe says of packets.
use std::path::Path;
use std::process::Command;

/// Runs a program and returns what it wrote.
pub(crate) fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The grid points at which ffmpeg shows a frame when it makes this rate of a segment.
pub(crate) fn grid_of_ffmpeg(path: &Path, rate: &str) -> Vec<i64> {
    let filter = format!("fps={rate}");
    let head = ["-v", "error", "-nostdin", "-copyts", "-i", text(path), "-an", "-vf", &filter];
    let out = run("ffmpeg", &[&head[..], &["-fps_mode", "passthrough", "-f", "framecrc", "-"]].concat());
    let points = out.lines().filter(|line| !line.starts_with('#'));
    points.map(|line| line.split(',').nth(2).unwrap().trim().parse().unwrap()).collect()
}

/// Presentation and decoding times of the packets of the first stream of a kind.
pub(crate) fn packets(path: &Path, kind: &str) -> Vec<(Option<i64>, Option<i64>)> {
    let stream = format!("{kind}:0");
    let args = ["-v", "error", "-select_streams", &stream, "-show_entries", "packet=pts,dts", "-of", "csv=p=0"];
    let out = run("ffprobe", &[&args[..], &[text(path)]].concat());
    let number = |field: Option<&str>| field.and_then(|f| f.parse().ok());
    let lines = out.lines().filter(|line| !line.is_empty());
    lines
        .map(|line| {
            let mut fields = line.split(',');
            (number(fields.next()), number(fields.next()))
        })
        .collect()
}

/// MD5 of the data of every packet of the first stream of a kind.
pub(crate) fn sums(path: &Path, kind: &str) -> Vec<String> {
    let map = format!("0:{kind}:0");
    let args = ["-v", "error", "-nostdin", "-i", text(path), "-map", &map, "-c", "copy", "-f", "framemd5", "-"];
    let out = run("ffmpeg", &args);
    let lines = out.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.split(',').nth(5).unwrap().trim().to_owned()).collect()
}

/// How alike two clips look, in dB of luma, the second scaled to the first; 100 and more is the same.
pub(crate) fn likeness(made: &Path, source: &Path) -> f64 {
    let graph = "[0:v]setpts=N/TB,format=yuv420p[a];[1:v]setpts=N/TB,format=yuv420p[b];\
                 [b][a]scale2ref=flags=bicubic[c][d];[d][c]psnr=stats_file=-";
    let args = ["-v", "error", "-nostdin", "-i", text(made), "-i", text(source), "-lavfi", graph, "-f", "null", "-"];
    let out = run("ffmpeg", &args);
    let frames = out.lines().filter_map(|line| line.split_whitespace().find_map(|f| f.strip_prefix("psnr_y:")));
    let each: Vec<f64> = frames.map(|db| if db == "inf" { 100.0 } else { db.parse().unwrap() }).collect();
    assert!(!each.is_empty(), "nothing to compare");
    each.iter().copied().fold(f64::INFINITY, f64::min)
}
