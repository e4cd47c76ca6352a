//! What is known of each engine, and what follows from it. Pure: times and facts come from outside.
//!
//! ```text
//!              proof passed                 trouble: a worker lost
//!   unknown ───────────────▶ proved ◀────────────────┐
//!      ▲ │                     │ ───────────────▶ suspect ── proof passed, fewer than three
//!      │ └─ proof failed ──┐   │ three in a while    │
//!      │                   ▼   ▼                     ▼ proof failed
//!      └── time is up ─── quarantined ◀──────────────┘
//! ```
use std::collections::BTreeMap;

use millrace_hal::Choice;
use sandbox::message::Proof;
use serde::{Deserialize, Serialize};

/// How long an engine is left alone the first time, in seconds; each further time it is four times as long.
const FIRST_QUARANTINE: u64 = 600;
/// How long at most.
const LONGEST_QUARANTINE: u64 = 24 * 3600;
/// Troubles of an engine within [`A_WHILE`] that are too many, whatever its proofs say.
const TROUBLES: usize = 3;
/// Seconds that troubles count for.
const A_WHILE: u64 = 3600;

/// All that is known of the engines of one box, kept on disk.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Book {
    /// What all of it depends on: the hardware's fingerprint and our own version. Of another basis nothing holds.
    pub basis: String,
    /// By the engines' names.
    pub engines: BTreeMap<String, Standing>,
}

/// What is known of one engine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Standing {
    /// What it proved last.
    pub proof: Option<Proof>,
    /// When, in Unix seconds.
    pub proved_at: u64,
    /// Has a worker been lost since?
    pub suspect: bool,
    /// When workers of it were lost lately, in Unix seconds.
    pub troubles: Vec<u64>,
    /// Why and how long it is left alone.
    pub quarantine: Option<Quarantine>,
}

/// An engine that is left alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantine {
    /// What it did.
    pub reason: String,
    /// Since when, in Unix seconds.
    pub since: u64,
    /// When it may prove itself again, in Unix seconds.
    pub until: u64,
    /// How often it has been left alone in a row.
    pub times: u32,
}

impl Standing {
    /// Is it left alone now? A clock that went back says nothing about when it may be tried again.
    #[must_use]
    pub fn is_held(&self, now: u64) -> bool {
        self.quarantine.as_ref().is_some_and(|held| (held.since..held.until).contains(&now))
    }

    /// Did it prove itself, and has nothing happened since?
    #[must_use]
    pub fn is_good(&self, now: u64) -> bool {
        self.proof.is_some() && !self.suspect && !self.is_held(now)
    }
}

/// What to do about the engines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Use this one.
    Use(Choice),
    /// This one is better than all that are known to be good: let it prove itself.
    Prove(Choice),
}

impl Book {
    /// The book as far as it holds on this basis.
    #[must_use]
    pub fn on(self, basis: &str) -> Self {
        if self.basis == basis { self } else { Self { basis: basis.to_owned(), engines: BTreeMap::new() } }
    }

    /// What to do next; `choices` are best first and end with the main processor, which needs no proof: its workers
    /// prove it, each at its start.
    #[must_use]
    pub fn next(&self, choices: &[Choice], now: u64) -> Step {
        for choice in choices.iter().filter(|choice| **choice != Choice::software()) {
            match self.engines.get(&choice.name()) {
                Some(standing) if standing.is_held(now) => {}
                Some(standing) if standing.is_good(now) => return Step::Use(choice.clone()),
                _ => return Step::Prove(choice.clone()),
            }
        }
        Step::Use(Choice::software())
    }

    /// The best that is known to be good now.
    #[must_use]
    pub fn stopgap(&self, choices: &[Choice], now: u64) -> Choice {
        let good = |choice: &&Choice| self.engines.get(&choice.name()).is_some_and(|standing| standing.is_good(now));
        choices.iter().find(good).cloned().unwrap_or_else(Choice::software)
    }

    /// An engine proved itself.
    pub fn proved(&mut self, engine: &str, proof: Proof, now: u64) {
        let standing = self.engines.entry(engine.to_owned()).or_default();
        standing.proof = Some(proof);
        standing.proved_at = now;
        standing.suspect = false;
        // How often stays known while it is recent, so that an engine that proves itself and fails at work does not
        // start anew each time.
        if standing.quarantine.as_ref().is_some_and(|q| now.saturating_sub(q.since) > LONGEST_QUARANTINE) {
            standing.quarantine = None;
        }
    }

    /// An engine did not prove itself, or its workers did not start.
    pub fn failed(&mut self, engine: &str, reason: &str, now: u64) {
        let standing = self.engines.entry(engine.to_owned()).or_default();
        let times = standing.quarantine.as_ref().map_or(0, |quarantine| quarantine.times);
        let held = FIRST_QUARANTINE.saturating_mul(4u64.saturating_pow(times)).min(LONGEST_QUARANTINE);
        let until = now.saturating_add(held);
        let quarantine = Quarantine { reason: reason.to_owned(), since: now, until, times: times.saturating_add(1) };
        *standing = Standing { quarantine: Some(quarantine), ..Standing::default() };
    }

    /// A worker of this engine was lost at work. The engine is not to be used until it has proved itself again, and
    /// left alone when that happens too often.
    pub fn trouble(&mut self, engine: &str, reason: &str, now: u64) {
        let standing = self.engines.entry(engine.to_owned()).or_default();
        if standing.is_held(now) {
            return;
        }
        standing.suspect = true;
        standing.troubles.retain(|at| now.saturating_sub(*at) < A_WHILE);
        standing.troubles.push(now);
        if standing.troubles.len() >= TROUBLES {
            self.failed(engine, reason, now);
        }
    }

    /// The media framework is of this version: what was proved with another has to be proved again.
    pub fn framework(&mut self, version: &str) {
        for standing in self.engines.values_mut() {
            if standing.proof.as_ref().is_some_and(|proof| proof.framework != version) {
                *standing = Standing::default();
            }
        }
    }

    /// When the next engine that is better than this one may prove itself.
    #[must_use]
    pub fn retry_at(&self, choices: &[Choice], in_use: &str) -> Option<u64> {
        let better = choices.iter().take_while(|choice| choice.name() != in_use);
        better.filter_map(|choice| Some(self.engines.get(&choice.name())?.quarantine.as_ref()?.until)).min()
    }
}

#[cfg(test)]
mod tests;
