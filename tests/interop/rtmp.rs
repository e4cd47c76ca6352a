//! RTMP into a stock gateway with ffmpeg, and the HLS ladder it serves, fetched while it is there.
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use millrace_tests::media;

use crate::push::Kept;
use crate::report::Row;
use crate::source::{LADDER, Source};
use crate::stock::Stock;
use crate::web;

/// How often the playlists are looked at; they show the last few segments only.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// How long the stream goes on after the last segment that counts: a stock gateway that sees the end of an RTMP stream
/// drops the segments it still works on.
const TAIL: Duration = Duration::from_secs(10);

/// Sends a stream and takes all renditions of the segments cut in its first `seconds`.
pub(crate) async fn stream(
    gateway: &Stock,
    manifest: &str,
    source: &Source,
    seconds: u64,
    out: &Path,
    row: &mut Row,
) -> Result<()> {
    std::fs::create_dir_all(out)?;
    let began = Instant::now();
    let mut ffmpeg = tokio::process::Command::new("ffmpeg");
    ffmpeg.args(["-v", "error", "-nostdin"]);
    let inputs = source.apart();
    for input in &inputs {
        ffmpeg.args(["-re", "-stream_loop", "-1", "-i"]).arg(input);
    }
    for input in 0..inputs.len() {
        ffmpeg.args(["-map", &input.to_string()]);
    }
    ffmpeg.args(["-c", "copy", "-f", "flv"]);
    ffmpeg.arg(format!("rtmp://{}/{manifest}", gateway.rtmp));
    let log = std::fs::File::create(out.join(format!("{manifest}-ffmpeg.log")))?;
    let mut child =
        ffmpeg.stdin(Stdio::null()).stderr(log).kill_on_drop(true).spawn().context("ffmpeg does not start")?;

    let mut ladder: BTreeMap<String, BTreeMap<u64, bytes::Bytes>> = BTreeMap::new();
    let mut counted: Option<u64> = None;
    let last = loop {
        let ended = child.try_wait()?;
        ensure!(ended.is_none(), "ffmpeg ended: {ended:?}");
        // No playlist yet, or a segment gone: what is missing in the end is counted.
        let _looked = look(gateway, manifest, &mut ladder).await;
        let newest = ladder.get("source").and_then(|segments| segments.keys().next_back().copied());
        match counted {
            None if began.elapsed() > Duration::from_secs(seconds) => {
                counted = Some(newest.context("the gateway's playlist never had a segment")?);
            }
            Some(last) => {
                let there = |name: &str| ladder.get(name).is_some_and(|segments| segments.contains_key(&last));
                if LADDER.iter().all(|(name, _)| there(name)) || began.elapsed() > Duration::from_secs(seconds) + TAIL {
                    break last;
                }
            }
            None => {}
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    };
    child.kill().await?;
    for segments in ladder.values_mut() {
        segments.retain(|seq, _| *seq <= last);
    }
    row.seconds += began.elapsed().as_secs_f64();

    let sources = ladder.remove("source").unwrap_or_default();
    row.segments += sources.len();
    let mut frames = BTreeMap::new();
    for (seq, bytes) in &sources {
        let path = out.join(format!("{manifest}-source-{seq}.ts"));
        std::fs::write(&path, bytes)?;
        frames.insert(*seq, media::frames(&path).len());
    }
    let mut kept = Kept::new(out, manifest);
    for (name, _) in LADDER {
        let rendition = ladder.remove(name).unwrap_or_default();
        row.renditions += rendition.len();
        let missing: Vec<u64> = sources.keys().filter(|seq| !rendition.contains_key(seq)).copied().collect();
        if !missing.is_empty() {
            row.failed = row.failed.max(missing.len());
            row.fault(format!("{name}: segments {missing:?} are missing"));
        }
        for (seq, bytes) in rendition {
            kept.keep(name, usize::try_from(seq)?, &bytes, frames.get(&seq).copied().unwrap_or(0))?;
        }
    }
    kept.inspect(source, row);
    row.transcoded = row.segments.saturating_sub(row.failed);
    Ok(())
}

/// Reads the master playlist and every segment not yet taken.
async fn look(
    gateway: &Stock,
    manifest: &str,
    ladder: &mut BTreeMap<String, BTreeMap<u64, bytes::Bytes>>,
) -> Result<()> {
    let base = format!("http://{}/stream", gateway.address);
    let master = text(&format!("{base}/{manifest}.m3u8")).await?;
    for playlist in master.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let name = playlist.rsplit('/').next().unwrap_or_default().trim_end_matches(".m3u8").to_owned();
        let list = text(&format!("{base}/{playlist}")).await?;
        let known = ladder.entry(name).or_default();
        for segment in list.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            let seq =
                segment.rsplit('/').next().and_then(|file| file.split('.').next()).and_then(|seq| seq.parse().ok());
            let Some(seq) = seq else { continue };
            if let std::collections::btree_map::Entry::Vacant(place) = known.entry(seq) {
                let url = if segment.starts_with("http") {
                    segment.to_owned()
                } else {
                    format!("http://{}{segment}", gateway.address)
                };
                place.insert(web::get(&url).await?);
            }
        }
    }
    Ok(())
}

async fn text(url: &str) -> Result<String> {
    Ok(String::from_utf8_lossy(&web::get(url).await?).into_owned())
}
