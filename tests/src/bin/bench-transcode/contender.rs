//! One way to transcode, and what it cost.
use std::path::PathBuf;

use anyhow::Result;
use livepeer::profile::CodecProfile;
use sandbox::launch::Worker;

use crate::material::Material;
use crate::work::{self, Yard};
use crate::{LADDER, ffmpeg, ladder};

/// What something cost, in seconds.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cost {
    pub(crate) wall: f64,
    pub(crate) cpu: f64,
}

/// How it is done.
#[derive(Debug)]
pub(crate) enum Kind {
    /// A process of ours that goes on.
    Worker(Worker),
    /// A process of ffmpeg's for each segment, with this preset.
    Each(&'static str),
    /// One process of ffmpeg's for many segments.
    Many(&'static str),
}

/// One way to transcode.
#[derive(Debug)]
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    kind: Kind,
    /// For each round what a segment cost on average.
    pub(crate) rounds: Vec<Cost>,
    /// Wall time of each segment, where segments are done one by one.
    pub(crate) latencies: Vec<f64>,
    pub(crate) peak_rss: u64,
    /// Renditions of the last round, for each segment.
    pub(crate) files: Vec<Vec<PathBuf>>,
}

impl Contender {
    pub(crate) fn new(name: &'static str, kind: Kind) -> Self {
        Self { name, kind, rounds: Vec::new(), latencies: Vec::new(), peak_rss: 0, files: Vec::new() }
    }

    /// Does all segments once.
    pub(crate) fn run(&mut self, material: &Material, yard: &Yard, counted: bool) -> Result<()> {
        let mut costs = Vec::new();
        let place = |n: usize, p: &&str| material.dir.join(format!("{}-{n}-{p}.ts", self.name.replace(' ', "-")));
        self.files = (0..material.segments.len()).map(|n| LADDER.iter().map(|p| place(n, p)).collect()).collect();
        let mut profiles = ladder();
        if self.name == "same settings" {
            profiles.iter_mut().for_each(|p| p.codec_profile = CodecProfile::H264High);
        }
        for (source, outputs) in material.segments.iter().zip(&self.files) {
            let (cost, peak) = match &mut self.kind {
                Kind::Worker(worker) => {
                    let (cost, done) = work::transcode(worker, source, &profiles, yard.cores, outputs)?;
                    (cost, done.peak_rss)
                }
                Kind::Each(preset) => ffmpeg::measured(source, preset, outputs)?,
                Kind::Many(preset) => {
                    let (cost, peak) = ffmpeg::many(&material.segments, preset, &material.dir)?;
                    self.files.clear();
                    self.peak_rss = self.peak_rss.max(peak);
                    if counted {
                        self.rounds.push(cost);
                    }
                    return Ok(());
                }
            };
            self.peak_rss = self.peak_rss.max(peak);
            costs.push(cost);
        }
        if counted {
            let mean = |of: fn(&Cost) -> f64| mean(&costs.iter().map(of).collect::<Vec<_>>());
            self.rounds.push(Cost { wall: mean(|c| c.wall), cpu: mean(|c| c.cpu) });
            self.latencies.extend(costs.iter().map(|c| c.wall));
        }
        Ok(())
    }

    /// The median of the rounds.
    pub(crate) fn median(&self, of: impl Fn(&Cost) -> f64) -> f64 {
        quantile(self.rounds.iter().map(of).collect(), 0.5)
    }

    /// The median of the ratios of paired rounds.
    pub(crate) fn against(&self, other: &Self, of: impl Fn(&Cost) -> f64) -> f64 {
        quantile(self.rounds.iter().zip(&other.rounds).map(|(a, b)| of(a) / of(b)).collect(), 0.5)
    }
}

/// The value below which this part of the values lies; between two it is interpolated.
pub(crate) fn quantile(mut values: Vec<f64>, part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let Some(last) = values.len().checked_sub(1) else { return f64::NAN };
    let place = part * count(last);
    let below = (0..last).filter(|n| count(n + 1) <= place).count();
    let at = |n: usize| values.get(n.min(last)).copied().unwrap_or(f64::NAN);
    at(below) + (at(below + 1) - at(below)) * (place - count(below))
}

pub(crate) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / count(values.len())
}

fn count(n: usize) -> f64 {
    u32::try_from(n).map_or(f64::INFINITY, f64::from)
}
