//! Side by side: go-livepeer's orchestrator with its transcoder, and ours, behind the same stock gateway with the same
//! segments, one after the other in turns; medians of the rounds.
use std::fmt;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use millrace_tests::bins::bin;
use serde::Serialize;
use tokio_util::task::AbortOnDropHandle;

use crate::Bench;
use crate::cases::fresh;
use crate::ours::{Ours, Place};
use crate::procfs;
use crate::push;
use crate::report::Row;
use crate::source::Source;
use crate::stock::Stock;

/// How often memory is looked at.
const SAMPLE: Duration = Duration::from_millis(500);
/// What go-livepeer tells x264 in software.
const STOCK_X264: &str = "preset=medium,bframes=3";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
enum Peer {
    Stock,
    Ours,
    OursWithStockEncoder,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Stock => "go-livepeer",
            Self::Ours => "Millrace",
            Self::OursWithStockEncoder => "Millrace, x264 as theirs",
        })
    }
}

#[derive(Debug, Clone, Copy, Default, Serialize)]
struct Figures {
    /// The segment's duration over the time to upload and transcode it, the mean that the gateway counts; below 1 is losing.
    score: f64,
    cpu_s_per_minute: f64,
    pss_mib_median: f64,
    pss_mib_peak: f64,
    bytes: f64,
    failed: f64,
}

pub(crate) async fn run(bench: &Bench) -> Result<()> {
    let mut all: Vec<(Peer, Figures)> = Vec::new();
    for round in 0..bench.rounds {
        for peer in [Peer::Stock, Peer::Ours, Peer::OursWithStockEncoder] {
            let figures = one(bench, peer, round).await.with_context(|| format!("{peer}, round {round}"))?;
            crate::say(&format!("round {round}: {peer:<26} {figures:.2?}"));
            all.push((peer, figures));
        }
    }
    crate::say(&format!(
        "\nmedians of {} rounds, {} stream(s) of {} segments in real time",
        bench.rounds, bench.streams, bench.segments
    ));
    crate::say(&format!(
        "{:<26} {:>8} {:>14} {:>10} {:>10} {:>10} {:>7}",
        "", "score", "CPU s/min", "MiB", "MiB peak", "kB out", "failed"
    ));
    let mut medians = Vec::new();
    for peer in [Peer::Stock, Peer::Ours, Peer::OursWithStockEncoder] {
        let of = |field: fn(&Figures) -> f64| {
            median(all.iter().filter(|(p, _)| *p == peer).map(|(_, f)| field(f)).collect())
        };
        let m = Figures {
            score: of(|f| f.score),
            cpu_s_per_minute: of(|f| f.cpu_s_per_minute),
            pss_mib_median: of(|f| f.pss_mib_median),
            pss_mib_peak: of(|f| f.pss_mib_peak),
            bytes: of(|f| f.bytes),
            failed: of(|f| f.failed),
        };
        crate::say(&format!(
            "{peer:<26} {:>8.3} {:>14.1} {:>10.0} {:>10.0} {:>10.0} {:>7.0}",
            m.score,
            m.cpu_s_per_minute,
            m.pss_mib_median,
            m.pss_mib_peak,
            m.bytes / 1000.0,
            m.failed
        ));
        medians.push((peer, m));
    }
    let out =
        serde_json::json!({ "rounds": all, "medians": medians, "streams": bench.streams, "segments": bench.segments });
    Ok(std::fs::write(bench.dir.join("compare.json"), serde_json::to_vec_pretty(&out)?)?)
}

/// Either side, running.
enum Side {
    Stock(Stock),
    Ours(Ours),
}

async fn one(bench: &Bench, peer: Peer, round: usize) -> Result<Figures> {
    let dir = fresh(bench, &format!("compare-{round}-{peer:?}"))?;
    let side = match peer {
        Peer::Stock => Side::Stock(bench.livepeer.orchestrator(&dir, true, &[], None).await?),
        Peer::Ours => Side::Ours(Ours::offchain(&dir, "node", &Place::free()?, "").await?),
        Peer::OursWithStockEncoder => {
            let workers = format!("[workers]\nprogram = {:?}\n", encoder_as_theirs(&dir)?);
            Side::Ours(Ours::offchain(&dir, "node", &Place::free()?, &workers).await?)
        }
    };
    let (uri, pid) = match &side {
        Side::Stock(stock) => (format!("https://{}", stock.address), stock.program.pid()),
        Side::Ours(ours) => (ours.uri.clone(), ours.program.pid()),
    };
    let gateway = bench.livepeer.gateway(&dir, &["-orchAddr", &uri], None).await?;

    let before = procfs::usage(&[pid])?;
    let (samples, mut memory) = tokio::sync::mpsc::channel(4096);
    let watch = AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            let Ok(usage) = procfs::usage(&[pid]) else { return };
            if samples.send(usage.pss_mib).await.is_err() {
                return;
            }
            tokio::time::sleep(SAMPLE).await;
        }
    }));
    let began = Instant::now();
    let source = Source::plain();
    let streams = (0..bench.streams).map(|number| {
        let (gateway, source, out) = (gateway.address.clone(), source.clone(), dir.join("out"));
        let count = bench.segments;
        tokio::spawn(async move { push_one(&gateway, &format!("stream{number}"), &source, count, &out).await })
    });
    let (mut failed, mut bytes) = (0, 0);
    for stream in streams.collect::<Vec<_>>() {
        let (lost, got) = stream.await??;
        failed += lost;
        bytes += got;
    }
    let wall = began.elapsed().as_secs_f64();
    let after = procfs::usage(&[pid])?;
    drop(watch);
    let mut pss = Vec::new();
    while let Ok(sample) = memory.try_recv() {
        pss.push(sample);
    }
    let (sum, count) = (gateway.metric("transcode_score_sum").await?, gateway.metric("transcode_score_count").await?);
    ensure!(count > 0.0, "the gateway measured nothing");
    #[expect(clippy::cast_precision_loss, reason = "counts of a bench")]
    let figures = Figures {
        score: sum / count,
        cpu_s_per_minute: (after.cpu_s - before.cpu_s) * 60.0 / wall,
        pss_mib_peak: pss.iter().copied().fold(0.0, f64::max),
        pss_mib_median: median(pss),
        bytes: bytes as f64,
        failed: failed as f64,
    };
    Ok(figures)
}

/// How many segments failed, and the bytes of all renditions.
async fn push_one(gateway: &str, manifest: &str, source: &Source, count: usize, out: &Path) -> Result<(usize, usize)> {
    let mut row = Row::new("compare", manifest);
    let bytes = push::send(gateway, manifest, source, count, out, &mut row).await?.bytes();
    Ok((row.failed, bytes))
}

/// Our worker, told what go-livepeer tells x264.
fn encoder_as_theirs(dir: &Path) -> Result<std::path::PathBuf> {
    let path = dir.join("worker-as-theirs");
    let worker = bin("millrace-worker");
    std::fs::write(&path, format!("#!/bin/sh\nexec {} \"$@\" --x264 {STOCK_X264}\n", worker.display()))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
