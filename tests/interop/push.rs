//! HTTP push into a stock gateway: PUT a segment, get the renditions back as multipart, look at every one of them.
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use millrace_tests::media;

use crate::report::Row;
use crate::source::{Cut, LADDER, Source};
use crate::web;

/// All clips have 30 pictures a second, on a clock of 90 kHz. Half a picture's time is let pass: RTMP counts in
/// milliseconds, and a clip that ffmpeg repeats begins anew when its sound is over.
const FRAME_TICKS: i64 = 3000;
const SLACK_TICKS: i64 = 1500;

/// One rendition of one segment.
#[derive(Debug)]
pub(crate) struct Rendition {
    pub name: String,
    pub bytes: Bytes,
}

/// Sends one segment to a stock gateway.
pub(crate) async fn put(
    gateway: &str,
    manifest: &str,
    seq: usize,
    source: &Source,
    cut: &Cut,
) -> Result<Vec<Rendition>> {
    let request = Request::put(format!("http://{gateway}/live/{manifest}/{seq}.ts"))
        .header("content-duration", cut.duration_ms.to_string())
        .header("content-resolution", format!("{}x{}", source.width, source.height))
        .header("accept", "multipart/mixed")
        .body(Full::new(cut.bytes.clone()))?;
    let answer = web::send(request).await?;
    ensure!(answer.status == 200, "status {}: {}", answer.status, String::from_utf8_lossy(&answer.body).trim());
    parts(&answer.content_type, &answer.body)
}

/// Takes a multipart body apart.
fn parts(content_type: &str, body: &Bytes) -> Result<Vec<Rendition>> {
    let (_, boundary) =
        content_type.split_once("boundary=").with_context(|| format!("no multipart: {content_type}"))?;
    let mark = format!("--{}", boundary.trim_matches('"'));
    let mut renditions = Vec::new();
    let mut rest = 0;
    loop {
        let start = rest + find(&body[rest..], mark.as_bytes()).context("multipart without an end")? + mark.len();
        if body[start..].starts_with(b"--") {
            return Ok(renditions);
        }
        let head_end = start + find(&body[start..], b"\r\n\r\n").context("part without a body")?;
        let head = String::from_utf8_lossy(&body[start..head_end]).into_owned();
        let field = |name: &str| {
            head.lines()
                .filter_map(|line| line.split_once(": "))
                .find(|(key, _)| key.eq_ignore_ascii_case(name))
                .map(|(_, value)| value.trim().to_owned())
        };
        let length: usize = field("content-length").context("part without a length")?.parse()?;
        let data = head_end + 4;
        let name = field("rendition-name").context("part without a name")?;
        if field("content-type").is_some_and(|kind| kind.starts_with("application/vnd+livepeer.uri")) {
            bail!("rendition {name} came as an address, not as bytes");
        }
        ensure!(body.len() >= data + length, "rendition {name} is cut short");
        renditions.push(Rendition { name, bytes: body.slice(data..data + length) });
        rest = data + length;
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// Sends a whole stream in real time and checks what comes back.
pub(crate) async fn stream(
    gateway: &str,
    manifest: &str,
    source: &Source,
    count: usize,
    out: &Path,
    row: &mut Row,
) -> Result<()> {
    send(gateway, manifest, source, count, out, row).await?.inspect(source, row);
    Ok(())
}

/// Sends a whole stream in real time. Renditions go to `out/MANIFEST/NAME/SEQ.ts`.
pub(crate) async fn send(
    gateway: &str,
    manifest: &str,
    source: &Source,
    count: usize,
    out: &Path,
    row: &mut Row,
) -> Result<Kept> {
    let cuts = source.segments(count)?;
    row.segments += cuts.len();
    let began = Instant::now();
    let mut due = Duration::ZERO;
    let mut kept = Kept::new(out, manifest);
    for (seq, cut) in cuts.iter().enumerate() {
        // A segment exists when it has been filmed to its end.
        due += Duration::from_millis(cut.duration_ms);
        tokio::time::sleep(due.saturating_sub(began.elapsed())).await;
        match put(gateway, manifest, seq, source, cut).await {
            Ok(renditions) if renditions.iter().map(|r| r.name.as_str()).eq(LADDER.iter().map(|(name, _)| *name)) => {
                row.transcoded += 1;
                row.renditions += renditions.len();
                for rendition in renditions {
                    kept.keep(&rendition.name, seq, &rendition.bytes, cut.frames)?;
                }
            }
            Ok(renditions) => {
                row.failed += 1;
                row.fault(format!("segment {seq}: {} renditions, not the ones asked for", renditions.len()));
            }
            Err(error) => {
                row.failed += 1;
                row.fault(format!("segment {seq}: {error:#}"));
            }
        }
    }
    row.seconds += began.elapsed().as_secs_f64();
    Ok(kept)
}

/// The renditions of a stream, one file for each segment.
#[derive(Debug)]
pub(crate) struct Kept {
    dir: PathBuf,
    /// Name, number, pictures sent.
    segments: Vec<(String, usize, usize)>,
    bytes: usize,
}

impl Kept {
    pub(crate) fn new(out: &Path, manifest: &str) -> Self {
        Self { dir: out.join(manifest), segments: Vec::new(), bytes: 0 }
    }

    /// Of all of them.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    fn path(&self, name: &str, seq: usize) -> PathBuf {
        self.dir.join(name).join(format!("{seq}.ts"))
    }

    pub(crate) fn keep(&mut self, name: &str, seq: usize, bytes: &[u8], frames: usize) -> Result<()> {
        let path = self.path(name, seq);
        std::fs::create_dir_all(path.parent().context("a directory")?)?;
        std::fs::write(path, bytes)?;
        self.bytes += bytes.len();
        self.segments.push((name.to_owned(), seq, frames));
        Ok(())
    }

    /// All pictures there, one after another without a gap, of the right size, decoding without a complaint, and the sound
    /// with them.
    pub(crate) fn inspect(&self, source: &Source, row: &mut Row) {
        let mut ends: BTreeMap<&str, (usize, i64)> = BTreeMap::new();
        for (name, seq, frames) in &self.segments {
            let path = self.path(name, *seq);
            let shown = media::frames(&path);
            row.pixels += shown.iter().map(|frame| u64::from(frame.width) * u64::from(frame.height)).sum::<u64>();
            if shown.len() != *frames {
                row.fault(format!("{name} {seq}: {} pictures, {frames} were sent", shown.len()));
            }
            let long = LADDER.iter().find(|(known, _)| known == name).map_or(0, |(_, long)| *long);
            let upright = source.height > source.width;
            if let Some(frame) = shown.iter().find(|frame| long != if upright { frame.height } else { frame.width }) {
                row.fault(format!("{name} {seq}: {}x{}", frame.width, frame.height));
            }
            let times: Vec<i64> = shown.iter().filter_map(|frame| frame.pts).collect();
            let before = ends.get(name.as_str()).filter(|(last, _)| last + 1 == *seq).map(|(_, end)| *end);
            let all: Vec<i64> = before.into_iter().chain(times.iter().copied()).collect();
            if let Some(gap) =
                all.windows(2).map(|pair| pair[1] - pair[0]).find(|step| (step - FRAME_TICKS).abs() > SLACK_TICKS)
            {
                row.fault(format!("{name} {seq}: a step of {gap} ticks between pictures"));
            }
            if let Some(end) = times.last() {
                ends.insert(name, (*seq, *end));
            }
            let sound = media::audio_packets(&path);
            if sound.is_empty() == source.audio {
                row.fault(format!("{name} {seq}: {} packets of sound", sound.len()));
            }
            let complaints = media::complaints(&path);
            if !complaints.is_empty() {
                row.fault(format!("{name} {seq}: {}", complaints.lines().next().unwrap_or_default()));
            }
        }
    }
}
