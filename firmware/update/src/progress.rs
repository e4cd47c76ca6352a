//! How far an update is: lines on standard output, and a file for the fleet agent.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use fleet_protocol::version::Version;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::files;

/// The file is written at most once in this time, but for changes of phase: a slow download must not wear out the flash.
const EVERY: Duration = Duration::from_secs(5);
/// A line for people comes when this much more of the whole is there, in percent: lines end up in the journal.
const STEP: u64 = 10;

/// Where an update is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Phase {
    /// The manifest is fetched and held against the rules.
    Checking,
    /// Artifacts come.
    Fetching,
    /// They are unpacked and checked.
    Unpacking,
    /// All is there; it can be installed.
    Staged,
    /// The node is drained.
    Draining,
    /// The other slot is written.
    Installing,
    /// The machine starts again.
    Rebooting,
    /// No; the text says why.
    Failed,
}

/// One report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Report {
    /// The request it answers.
    pub(crate) id: String,
    pub(crate) phase: Phase,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) version: Option<Version>,
    /// Bytes that are there, of so many.
    pub(crate) done: u64,
    pub(crate) total: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    /// The offer was not signed by those who may: an incident, not a mishap.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) forged: bool,
}

/// Tells how far it is.
#[derive(Debug)]
pub(crate) struct Progress {
    file: PathBuf,
    json: bool,
    told: Option<Instant>,
    /// Phase and share of the last line.
    line: Option<(Phase, u64)>,
    report: Report,
}

impl Progress {
    pub(crate) fn new(file: PathBuf, id: String, json: bool) -> Self {
        let report =
            Report { id, phase: Phase::Checking, version: None, done: 0, total: 0, reason: None, forged: false };
        Self { file, json, told: None, line: None, report }
    }

    pub(crate) fn version(&mut self, version: &Version, total: u64) {
        self.report.version = Some(version.clone());
        self.report.total = total;
    }

    pub(crate) fn phase(&mut self, phase: Phase) {
        self.report.phase = phase;
        self.tell();
    }

    pub(crate) fn done(&mut self, done: u64) {
        self.report.done = done;
        if self.told.is_none_or(|told| told.elapsed() >= EVERY) {
            self.tell();
        }
    }

    pub(crate) fn failed(&mut self, reason: String, forged: bool) {
        (self.report.reason, self.report.forged) = (Some(reason), forged);
        self.phase(Phase::Failed);
    }

    /// Whoever reads it may be gone, and the disk may be full: neither is a reason to stop.
    fn tell(&mut self) {
        self.told = Some(Instant::now());
        let _ = files::put_json(&self.file, &self.report, 0o644);
        let Report { phase, done, total, .. } = &self.report;
        let share = done.saturating_mul(100).checked_div(*total).unwrap_or(0) / STEP;
        let line = Some((*phase, share));
        let mut out = std::io::stdout();
        let _ = match (self.json, &self.report.reason) {
            (true, _) => writeln!(out, "{}", serde_json::to_string(&self.report).expect("a report is json")),
            (false, None) if line != self.line => writeln!(out, "{phase:?}: {done} of {total} bytes"),
            (false, _) => Ok(()),
        };
        self.line = line;
    }
}
