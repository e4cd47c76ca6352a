//! Several streams at the same time: a worker for each, or a row of ffmpeg processes for each.
use std::path::PathBuf;
use std::thread;
use std::time::Instant;

use anyhow::{Result, anyhow};
use sandbox::launch::Worker;

use crate::contender::{Cost, quantile};
use crate::material::Material;
use crate::work::{self, Yard};
use crate::{LADDER, ffmpeg, ladder};

/// What both sides needed for so many streams.
#[derive(Debug)]
pub(crate) struct Streams {
    pub(crate) count: u32,
    pub(crate) material: &'static str,
    pub(crate) ours: Side,
    pub(crate) theirs: Side,
}

/// One side of it.
#[derive(Debug, Default)]
pub(crate) struct Side {
    /// For each round, for all segments of all streams together.
    rounds: Vec<Cost>,
    /// Wall time of each segment.
    latencies: Vec<f64>,
}

impl Side {
    pub(crate) fn ratio(&self, other: &Self, of: impl Fn(&Cost) -> f64) -> f64 {
        quantile(self.rounds.iter().zip(&other.rounds).map(|(a, b)| of(a) / of(b)).collect(), 0.5)
    }

    pub(crate) fn latency(&self, part: f64) -> f64 {
        quantile(self.latencies.clone(), part)
    }

    pub(crate) fn wall(&self) -> f64 {
        quantile(self.rounds.iter().map(|cost| cost.wall).collect(), 0.5)
    }

    fn add(&mut self, wall: f64, cpu: f64, latencies: Vec<f64>) {
        self.rounds.push(Cost { wall, cpu });
        self.latencies.extend(latencies);
    }
}

/// Lets both sides do it in turn.
pub(crate) fn run(material: &Material, count: u32, rounds: u32, yard: &Yard) -> Result<Streams> {
    let mut workers = (0..count).map(|_| yard.start(&[])).collect::<Result<Vec<Worker>>>()?;
    // What the node's pool gives to each when all are busy.
    let threads = (yard.cores / count).max(1);
    let (mut ours, mut theirs) = (Side::default(), Side::default());
    for round in 0..=rounds {
        let one = |worker: &mut Worker| -> Result<Vec<Cost>> {
            let jobs = material.segments.iter();
            jobs.map(|source| Ok(work::transcode(worker, source, &ladder(), threads, &[])?.0)).collect()
        };
        let started = Instant::now();
        let costs = at_once(workers.iter_mut().map(|worker| move || one(worker)).collect())?;
        let wall = started.elapsed().as_secs_f64();
        let cpu = costs.iter().map(|cost| cost.cpu).sum();
        if round > 0 {
            ours.add(wall, cpu, costs.iter().map(|cost| cost.wall).collect());
        }
        let before = ffmpeg::children_cpu()?;
        let started = Instant::now();
        let one = |stream: u32| -> Result<Vec<Cost>> {
            let outputs: Vec<PathBuf> =
                LADDER.iter().map(|p| material.dir.join(format!("stream-{stream}-{p}.ts"))).collect();
            let jobs = material.segments.iter().map(|source| {
                let began = Instant::now();
                ffmpeg::one(source, "veryfast", &outputs)?;
                Ok(Cost { wall: began.elapsed().as_secs_f64(), cpu: 0.0 })
            });
            jobs.collect()
        };
        let costs = at_once((0..count).map(|stream| move || one(stream)).collect())?;
        let wall = started.elapsed().as_secs_f64();
        if round > 0 {
            let cpu = ffmpeg::children_cpu()? - before;
            theirs.add(wall, cpu, costs.iter().map(|cost| cost.wall).collect());
        }
    }
    Ok(Streams { count, material: material.name, ours, theirs })
}

fn at_once<F: FnOnce() -> Result<Vec<Cost>> + Send>(jobs: Vec<F>) -> Result<Vec<Cost>> {
    thread::scope(|scope| {
        let running: Vec<_> = jobs.into_iter().map(|job| scope.spawn(job)).collect();
        let ended = running.into_iter().map(|thread| thread.join().map_err(|_| anyhow!("a stream panicked"))?);
        Ok(ended.collect::<Result<Vec<_>>>()?.concat())
    })
}
