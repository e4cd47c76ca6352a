//! What was tested and how it went: a table for people, JSON for machines.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;

/// How one check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Pass,
    Fail,
    /// What it builds on had failed, or it was not asked for.
    Skipped,
}

#[derive(Debug, Serialize)]
struct Row {
    check: &'static str,
    verdict: Verdict,
    /// What was seen, or what was wrong.
    seen: String,
    seconds: f64,
}

/// All checks of one run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    rows: Vec<Row>,
    /// Figures worth keeping, by name.
    figures: serde_json::Map<String, serde_json::Value>,
}

impl Report {
    /// An empty one.
    pub(crate) fn new() -> Self {
        Self { rows: Vec::new(), figures: serde_json::Map::new() }
    }

    /// Do a check and write down how it went; what it built is given back.
    pub(crate) fn check<T>(
        &mut self,
        name: &'static str,
        check: impl FnOnce(&mut Self) -> Result<(T, String)>,
    ) -> Option<T> {
        eprintln!("image-test: {name} …");
        let begun = Instant::now();
        let (value, verdict, seen) = match check(self) {
            Ok((value, seen)) => (Some(value), Verdict::Pass, seen),
            Err(error) => (None, Verdict::Fail, format!("{error:#}")),
        };
        self.row(name, verdict, seen, begun.elapsed());
        value
    }

    /// Write down that checks were not made.
    pub(crate) fn skip(&mut self, names: &[&'static str], why: &str) {
        for name in names {
            self.row(name, Verdict::Skipped, why.to_owned(), Duration::ZERO);
        }
    }

    /// Keep a figure.
    pub(crate) fn figure(&mut self, name: &str, value: impl Into<serde_json::Value>) {
        self.figures.insert(name.to_owned(), value.into());
    }

    fn row(&mut self, check: &'static str, verdict: Verdict, seen: String, took: Duration) {
        let seconds = (took.as_secs_f64() * 10.0).round() / 10.0;
        eprintln!("image-test: {name} {seconds:>6} s  {check}: {seen}", name = word(verdict));
        self.rows.push(Row { check, verdict, seen, seconds });
    }

    /// Whether nothing failed.
    pub(crate) fn good(&self) -> bool {
        self.rows.iter().all(|row| row.verdict != Verdict::Fail)
    }

    /// Show the table, write it as JSON, and put the figures with those of earlier runs.
    pub(crate) fn show(&self, work: &Path) -> Result<()> {
        let width = self.rows.iter().map(|row| row.check.chars().count()).max().unwrap_or(0);
        println!();
        for row in &self.rows {
            let seen: String = row.seen.chars().take(150).collect();
            println!("{}  {:<width$}  {:>6.1} s  {seen}", word(row.verdict), row.check, row.seconds);
        }
        let count = |verdict| self.rows.iter().filter(|row| row.verdict == verdict).count();
        let (passed, failed, skipped) = (count(Verdict::Pass), count(Verdict::Fail), count(Verdict::Skipped));
        let minutes = self.rows.iter().map(|row| row.seconds).sum::<f64>() / 60.0;
        println!("\n{passed} passed, {failed} failed, {skipped} not made, in {minutes:.1} minutes");
        fs::write(work.join("result.json"), serde_json::to_vec_pretty(self)?)?;
        let kept = work.join("figures.json");
        let mut figures: serde_json::Map<String, serde_json::Value> =
            fs::read(&kept).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        figures.extend(self.figures.clone());
        fs::write(&kept, serde_json::to_vec_pretty(&figures)?)?;
        println!(
            "{} (serial lines: serial*.log in the machines' directories there)",
            work.join("result.json").display()
        );
        Ok(())
    }
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Pass => "pass",
        Verdict::Fail => "FAIL",
        Verdict::Skipped => "----",
    }
}
