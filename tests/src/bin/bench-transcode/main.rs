//! `just bench transcode`: the worker against the ffmpeg command line, paired and interleaved.
//!
//! Same segments, same ladder (720p 480p 360p 240p), decode once on every side. The worker runs as the product runs it:
//! warm, jailed, media in memfds; with each of its presets, and with x264 settings identical to ffmpeg's. ffmpeg runs as
//! one process per segment (veryfast, and medium as lpms has it) and as one process for many segments. Prints tables and
//! writes `target/bench/transcode.json`.
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use livepeer::profile::{Profile, preset};

use crate::contender::{Contender, Kind};
use crate::material::Material;
use crate::report::Report;

mod contender;
mod ffmpeg;
mod material;
mod quality;
mod report;
mod streams;
mod work;

/// The worker against ffmpeg on the same segments.
#[derive(Debug, Parser)]
#[command(after_help = "Each round every contender does every segment, in turning order; ratios are of rounds, and \
their median counts. The first round of each section is not counted. Wall times mean something on a quiet machine only: \
the load average stands beside them.")]
struct Args {
    /// How often each segment is done by each side in the main comparison; the others take fewer.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// The main comparison with one round, two streams, and nothing else: a minute and a half.
    #[arg(long)]
    quick: bool,
    /// The 720p source, an MPEG-TS file with H.264; our own clip unless given.
    #[arg(long)]
    clip: Option<PathBuf>,
    /// The 1080p source; unless given, our clip continued to that size by reflection.
    #[arg(long)]
    clip_1080: Option<PathBuf>,
    /// Streams at a time, separated by commas.
    #[arg(long, value_delimiter = ',', default_values_t = [2, 4])]
    streams: Vec<u32>,
    /// Leave the quality figures out.
    #[arg(long)]
    no_quality: bool,
}

/// What every source is made into.
pub(crate) const LADDER: [&str; 4] = ["720p", "480p", "360p", "240p"];
/// Frames between key frames, for ffmpeg and for the worker when it does as ffmpeg does.
pub(crate) const KEY_INT: u32 = 60;

/// The renditions as a gateway orders them.
pub(crate) fn ladder() -> Vec<Profile> {
    LADDER.iter().filter_map(|name| preset(name)).collect()
}

fn main() -> Result<()> {
    let args = Args::parse();
    let began = Instant::now();
    let dir = tempfile::tempdir()?;
    let cores = u32::try_from(std::thread::available_parallelism()?.get())?;
    let rounds = if args.quick { 1 } else { args.rounds };
    let few = rounds.min(2);
    let mut report = Report::new(&std::env::args().skip(1).collect::<Vec<_>>(), cores)?;
    let yard = work::Yard::new(dir.path(), cores)?;
    let hd = Material::small(args.clip.as_deref(), dir.path())?;

    let mut main = vec![
        Contender::new("ffmpeg", Kind::Each("veryfast")),
        Contender::new("balanced", Kind::Worker(yard.start(&[])?)),
        Contender::new("same settings", Kind::Worker(yard.start(&["--x264", &same_settings()])?)),
        Contender::new("ffmpeg persistent", Kind::Many("veryfast")),
    ];
    if args.quick {
        main.truncate(2);
    }
    compete(&mut main, &hd, rounds, &yard)?;
    report.main(&hd, &main);
    let mut all = main;
    if !args.quick {
        // Fewer rounds: medium takes several times as long as the rest.
        let mut others = vec![
            Contender::new("ffmpeg", Kind::Each("veryfast")),
            Contender::new("latency", Kind::Worker(yard.start(&["--preset", "latency"])?)),
            Contender::new("quality", Kind::Worker(yard.start(&["--preset", "quality"])?)),
            Contender::new("balanced", Kind::Worker(yard.start(&[])?)),
            Contender::new("ffmpeg medium", Kind::Each("medium")),
        ];
        compete(&mut others, &hd, few, &yard)?;
        report.presets(&hd, &others)?;
        all.extend(others.into_iter().filter(|c| !["ffmpeg", "balanced"].contains(&c.name)));
    }
    report.memory(&hd, &all);
    report.share(&hd, &yard, rounds.min(3))?;
    report.first(&hd, &yard, if args.quick { 3 } else { 5 })?;
    if !args.no_quality {
        report.quality(&hd, &all)?;
    }
    let streams = if args.quick { vec![2] } else { args.streams.clone() };
    for count in streams {
        report.streams(&streams::run(&hd, count, few, &yard)?);
    }
    if !args.quick {
        let full = Material::large(args.clip_1080.as_deref(), dir.path())?;
        let mut contenders = vec![
            Contender::new("ffmpeg", Kind::Each("veryfast")),
            Contender::new("balanced", Kind::Worker(yard.start(&[])?)),
        ];
        compete(&mut contenders, &full, rounds.min(3), &yard)?;
        report.main(&full, &contenders);
        report.share(&full, &yard, 1)?;
        if !args.no_quality {
            report.quality(&full, &contenders)?;
        }
    }
    report.write(began.elapsed())
}

/// Rounds of all contenders, of which the first one warms caches.
fn compete(contenders: &mut [Contender], material: &Material, rounds: u32, yard: &work::Yard) -> Result<()> {
    let count = contenders.len();
    ensure!(count > 0, "nobody competes");
    for round in 0..=usize::try_from(rounds)? {
        for turn in 0..count {
            // The order turns, so that no side always follows the same other one.
            let contender = contenders.get_mut((turn + round) % count).context("a contender")?;
            contender.run(material, yard, round > 0)?;
        }
    }
    Ok(())
}

fn same_settings() -> String {
    format!("preset=veryfast,bframes=3,keyint={KEY_INT},threads=0")
}
