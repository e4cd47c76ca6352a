//! Tables for people, in Markdown, and measures for machines.
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use millrace_tests::media;
use serde_json::{Value, json};

use crate::contender::{Contender, Cost, quantile};
use crate::material::Material;
use crate::quality::Meter;
use crate::streams::Streams;
use crate::work::{self, Yard};
use crate::{LADDER, ffmpeg, ladder};

/// What was measured so far.
#[derive(Debug)]
pub(crate) struct Report {
    rows: Vec<Value>,
    command: String,
    against: String,
}

const WALL: fn(&Cost) -> f64 = |cost| cost.wall;
const CPU: fn(&Cost) -> f64 = |cost| cost.cpu;

/// The load average of the last minute.
fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().unwrap_or("unknown").to_owned()
}

/// The contender of this name.
fn named<'a>(contenders: &'a [Contender], name: &str) -> Option<&'a Contender> {
    contenders.iter().find(|contender| contender.name == name)
}

impl Report {
    pub(crate) fn new(args: &[String], cores: u32) -> Result<Self> {
        let version = ffmpeg::version()?;
        println!("{cores} cores, ffmpeg {version}, load {}", load());
        let command = format!("just bench transcode {}", args.join(" ")).trim_end().to_owned();
        Ok(Self { rows: Vec::new(), command, against: format!("ffmpeg {version} veryfast, one process per segment") })
    }

    fn row(&mut self, measure: &str, value: f64, unit: &str) {
        let value = (value * 10_000.0).round() / 10_000.0;
        let (against, command) = (&self.against, &self.command);
        self.rows
            .push(json!({"measure": measure, "value": value, "unit": unit, "against": against, "command": command}));
    }

    /// The main comparison: everybody against ffmpeg's first form.
    pub(crate) fn main(&mut self, material: &Material, contenders: &[Contender]) {
        let Some(ffmpeg) = named(contenders, "ffmpeg") else { return };
        let size = material.name;
        println!("\n### {size}: {}, rounds: {}, load {}\n", material.told, ffmpeg.rounds.len(), load());
        println!(
            "| | wall s | CPU s | wall × | CPU × | p50 s | p95 s | Mpx per CPU s |\n|---|---|---|---|---|---|---|---|"
        );
        let pixels = pixels(material);
        for contender in contenders {
            let (wall, cpu) = (contender.against(ffmpeg, WALL), contender.against(ffmpeg, CPU));
            let latency = |part| {
                if contender.latencies.is_empty() {
                    return "-".to_owned();
                }
                format!("{:.3}", quantile(contender.latencies.clone(), part))
            };
            println!(
                "| {} | {:.3} | {:.3} | {wall:.2} | {cpu:.2} | {} | {} | {:.1} |",
                contender.name,
                contender.median(WALL),
                contender.median(CPU),
                latency(0.5),
                latency(0.95),
                pixels / contender.median(CPU)
            );
        }
        for (name, suffix) in [("balanced", ""), ("same settings", "_same_settings")] {
            let Some(contender) = named(contenders, name) else { continue };
            self.row(&format!("wall_ratio_ffmpeg_{size}{suffix}"), contender.against(ffmpeg, WALL), "ratio");
            self.row(&format!("cpu_ratio_ffmpeg_{size}{suffix}"), contender.against(ffmpeg, CPU), "ratio");
        }
        let Some(ours) = named(contenders, "balanced") else { return };
        self.row(&format!("wall_per_segment_{size}"), ours.median(WALL), "s");
        self.row(&format!("cpu_per_segment_{size}"), ours.median(CPU), "s");
        self.row(&format!("latency_p50_{size}"), quantile(ours.latencies.clone(), 0.5), "s");
        self.row(&format!("latency_p95_{size}"), quantile(ours.latencies.clone(), 0.95), "s");
        self.row(&format!("mpixels_per_cpu_second_{size}"), pixels / ours.median(CPU), "Mpx/s");
        if let Some(persistent) = named(contenders, "ffmpeg persistent") {
            self.row(&format!("wall_ratio_ffmpeg_persistent_{size}"), ours.against(persistent, WALL), "ratio");
            self.row(&format!("cpu_ratio_ffmpeg_persistent_{size}"), ours.against(persistent, CPU), "ratio");
        }
    }

    /// The presets, against ffmpeg's veryfast and medium.
    pub(crate) fn presets(&mut self, material: &Material, contenders: &[Contender]) -> Result<()> {
        let find = |name: &'static str| named(contenders, name).with_context(|| format!("no {name}"));
        let (veryfast, medium) = (find("ffmpeg")?, find("ffmpeg medium")?);
        let size = material.name;
        println!("\n### Presets at {size}, rounds: {}, load {}\n", veryfast.rounds.len(), load());
        println!("| | CPU s | CPU × veryfast | wall × veryfast | CPU × medium |\n|---|---|---|---|---|");
        for contender in contenders {
            let ratios =
                [contender.against(veryfast, CPU), contender.against(veryfast, WALL), contender.against(medium, CPU)];
            let [cpu, wall, of_medium] = ratios;
            println!("| {} | {:.3} | {cpu:.2} | {wall:.2} | {of_medium:.2} |", contender.name, contender.median(CPU));
        }
        for name in ["latency", "quality"] {
            let contender = find(name)?;
            self.row(&format!("cpu_ratio_ffmpeg_{size}_{name}"), contender.against(veryfast, CPU), "ratio");
            self.row(&format!("wall_ratio_ffmpeg_{size}_{name}"), contender.against(veryfast, WALL), "ratio");
        }
        for name in ["latency", "balanced", "quality"] {
            self.row(&format!("cpu_ratio_medium_{size}_{name}"), find(name)?.against(medium, CPU), "ratio");
        }
        Ok(())
    }

    /// The most memory each had.
    pub(crate) fn memory(&mut self, material: &Material, contenders: &[Contender]) {
        let told: Vec<String> = contenders.iter().map(|c| format!("{} {}", c.name, c.peak_rss >> 20)).collect();
        println!("\nPeak MiB at {}: {}", material.name, told.join(", "));
        let mib =
            |name| named(contenders, name).map(|c| f64::from(u32::try_from(c.peak_rss >> 10).unwrap_or(u32::MAX)));
        let Some(ffmpeg) = mib("ffmpeg") else { return };
        for (name, suffix) in [("balanced", ""), ("same settings", "_same_settings")] {
            if let Some(ours) = mib(name) {
                self.row(&format!("peak_rss_ratio_ffmpeg_{}{suffix}", material.name), ours / ffmpeg, "ratio");
            }
        }
    }

    /// Where the processor time goes. With one thread to the job codecs have no threads of their own.
    pub(crate) fn share(&mut self, material: &Material, yard: &Yard, rounds: u32) -> Result<()> {
        let mut worker = yard.start(&[])?;
        let mut shares = [const { Vec::new() }; 4];
        for round in 0..=rounds {
            let (mut cpu, mut parts) = (0.0, [0.0; 3]);
            for source in &material.segments {
                let (cost, done) = work::transcode(&mut worker, source, &ladder(), 1, &[])?;
                cpu += cost.cpu * 1e6;
                let spent = done.spent;
                for (sum, part) in parts.iter_mut().zip([spent.encode_us, spent.decode_us, spent.scale_us]) {
                    *sum += f64::from(u32::try_from(part)?);
                }
            }
            ensure!(cpu > 0.0, "no time was taken");
            let rest = cpu - parts.iter().sum::<f64>();
            let all = parts.into_iter().chain([rest]);
            if round > 0 {
                shares.iter_mut().zip(all).for_each(|(share, part)| share.push(100.0 * part / cpu));
            }
        }
        let [encode, decode, scale, rest] = shares.map(|share| quantile(share, 0.5));
        let size = material.name;
        println!(
            "\nProcessor time at {size}: x264 {encode:.1} %, decoding {decode:.1} %, scaling {scale:.1} %, all else {rest:.1} %"
        );
        for (name, value) in [("encode", encode), ("decode", decode), ("scale", scale), ("overhead", rest)] {
            self.row(&format!("{name}_share_{size}"), value, "%");
        }
        Ok(())
    }

    /// The first segment of a stream against the later ones: a new worker, waiting as in the product's pool.
    pub(crate) fn first(&mut self, material: &Material, yard: &Yard, times: u32) -> Result<()> {
        let source = material.segments.first().context("a segment")?;
        let mut ratios = Vec::new();
        for _ in 0..times {
            let mut worker = yard.start(&[])?;
            let mut wall =
                || Ok::<_, anyhow::Error>(work::transcode(&mut worker, source, &ladder(), yard.cores, &[])?.0.wall);
            let first = wall()?;
            let later = [wall()?, wall()?, wall()?];
            ratios.push(first / quantile(later.to_vec(), 0.5));
        }
        let ratio = quantile(ratios, 0.5);
        println!("\nFirst segment of a new stream against a later one: {ratio:.2} (load {})", load());
        self.row(&format!("first_segment_ratio_{}", material.name), ratio, "ratio");
        Ok(())
    }

    /// Likeness to the source, and bytes.
    pub(crate) fn quality(&mut self, material: &Material, contenders: &[Contender]) -> Result<()> {
        let meter = Meter::find();
        let size = material.name;
        println!("\n### {} at {size}, and bytes against ffmpeg's\n", meter.name());
        println!("| | {} |\n|---|---|---|---|---|", LADDER.join(" | "));
        let mut all = Vec::new();
        for contender in contenders {
            if let Some(judged) = meter.judge(contender, material)? {
                all.push((contender.name, judged));
            }
        }
        let find = |name: &str| all.iter().find(|(of, _)| *of == name).map(|(_, judged)| judged);
        let ffmpeg = find("ffmpeg").context("ffmpeg's renditions")?;
        for (name, judged) in &all {
            let cells = judged.values.iter().zip(&judged.bytes).zip(&ffmpeg.bytes);
            let cells: Vec<String> =
                cells.map(|((value, ours), theirs)| format!("{value:.2} ({:.2})", ours / theirs)).collect();
            println!("| {name} | {} |", cells.join(" | "));
        }
        let (unit, meter) = (meter.unit(), meter.name());
        let mut rows = Vec::new();
        for (name, suffix) in
            [("balanced", ""), ("same settings", "_same_settings"), ("latency", "_latency"), ("quality", "_quality")]
        {
            let Some(judged) = find(name) else { continue };
            let deltas = |other: &[f64]| judged.values.iter().zip(other).map(|(a, b)| a - b).collect::<Vec<_>>();
            let least = deltas(&ffmpeg.values).into_iter().fold(f64::INFINITY, f64::min);
            rows.push((format!("{meter}_delta_min_{size}{suffix}"), least));
            if let Some(medium) = find("ffmpeg medium") {
                let largest = deltas(&medium.values).first().copied().unwrap_or(f64::NAN);
                rows.push((format!("{meter}_delta_medium_largest_{size}{suffix}"), largest));
            }
        }
        rows.into_iter().for_each(|(measure, value)| self.row(&measure, value, unit));
        Ok(())
    }

    /// Several streams at a time.
    pub(crate) fn streams(&mut self, streams: &Streams) {
        let Streams { count, material, ours, theirs } = streams;
        println!("\n### {count} streams at {material}, load {}\n", load());
        println!("| | wall s | p50 s | p95 s |\n|---|---|---|---|");
        for (name, side) in [("ffmpeg", theirs), ("balanced", ours)] {
            println!("| {name} | {:.3} | {:.3} | {:.3} |", side.wall(), side.latency(0.5), side.latency(0.95));
        }
        let (wall, cpu) = (ours.ratio(theirs, WALL), ours.ratio(theirs, CPU));
        println!("\nwall × {wall:.2}, CPU × {cpu:.2}");
        let suffix = format!("{material}_{count}_streams");
        self.row(&format!("wall_ratio_ffmpeg_{suffix}"), wall, "ratio");
        self.row(&format!("cpu_ratio_ffmpeg_{suffix}"), cpu, "ratio");
        self.row(&format!("latency_p50_{suffix}"), ours.latency(0.5), "s");
        self.row(&format!("latency_p95_{suffix}"), ours.latency(0.95), "s");
        self.row(&format!("latency_p95_ratio_ffmpeg_{suffix}"), ours.latency(0.95) / theirs.latency(0.95), "ratio");
    }

    pub(crate) fn write(self, took: Duration) -> Result<()> {
        let path: &Path = &media::repository().join("target/bench/transcode.json");
        std::fs::create_dir_all(path.parent().context("a file has a folder")?)?;
        std::fs::write(path, serde_json::to_string_pretty(&self.rows)?)?;
        println!("\nwritten to {} after {:.0} s, load {}", path.display(), took.as_secs_f64(), load());
        Ok(())
    }
}

/// Million pixels of renditions that a segment has on average.
fn pixels(material: &Material) -> f64 {
    let sizes: u32 = ladder().iter().map(|p| p.width * p.height).sum();
    f64::from(sizes) * material.frames / 1e6
}
