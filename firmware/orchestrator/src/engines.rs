//! Which engine the workers use: the best that has proved itself here.
//!
//! Walk 4, before step 1. `hal` says what might work; a worker that is thrown away proves it, under a deadline; what
//! came of it is kept in the state directory for as long as hardware, media framework and our version are the same.
//! What is decided is in [`book`], pure. An engine that fails is left alone for a while and the reason told.
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use millrace_hal::encoders::{Encoders, Hardware, Verdict};
use millrace_hal::{Choice, Clock, Engine};
use sandbox::launch::{Interrupter, LaunchPlan, launch};
use sandbox::message::Proof;
use service::status::EngineStatus;

pub mod book;

use book::{Book, Step};

/// How long a proof may take: with a cold cache of plugins, on a slow board.
const PROOF: Duration = Duration::from_secs(60);
/// Sessions at which a proof stops counting.
const COUNTED: u32 = 32;
/// Sessions that are left to others.
const RESERVE: u32 = 2;
/// Renditions of a usual stream.
const RENDITIONS: u32 = 4;
/// Longest reason that is kept, in characters.
const LONGEST_REASON: usize = 300;
/// Name of the book in the state directory.
const BOOK: &str = "engines.json";

/// What the choice of engines needs.
pub struct Parts {
    /// Engines in the order in which they are tried.
    pub order: Vec<Engine>,
    /// Looks at the hardware.
    pub hardware: Box<dyn Encoders>,
    /// Says what time it is.
    pub clock: Arc<dyn Clock>,
    /// Where the book is kept; `None` keeps it for this run only.
    pub state_dir: Option<PathBuf>,
    /// How a worker is started that encodes in software; engines are added to it.
    pub launch: LaunchPlan,
}

/// The engines of this box. Its methods that look or prove block: seconds, at times a minute.
pub struct Engines {
    parts: Parts,
    known: Mutex<Known>,
    /// The worker that proves itself now, to be ended when we end.
    at_work: Mutex<AtWork>,
}

#[derive(Debug, Default)]
struct AtWork {
    interrupter: Option<Interrupter>,
    stopped: bool,
}

#[derive(Debug, Default)]
struct Known {
    book: Book,
    hardware: Option<Hardware>,
    choices: Vec<Choice>,
    in_use: String,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").field("order", &self.order).field("state_dir", &self.state_dir).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Engines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engines").field("parts", &self.parts).field("known", &self.known).finish()
    }
}

/// An engine and how its workers are started.
#[derive(Debug, Clone)]
pub struct Selected {
    /// Its name.
    pub engine: Arc<str>,
    /// How its workers are started.
    pub launch: LaunchPlan,
    /// Workers of it that can be at work at a time; software stands in for more.
    pub most: usize,
}

impl Selected {
    /// The main processor, with workers started in this way.
    pub(crate) fn as_launched(launch: &LaunchPlan) -> Self {
        Self { engine: Choice::software().name().into(), launch: launch.clone(), most: usize::MAX }
    }
}

impl Engines {
    /// Nothing is looked at yet; see [`Engines::look`].
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self { parts, known: Mutex::default(), at_work: Mutex::default() }
    }

    /// Looks at the hardware and opens the book. Returns whether the box is another one than when the book was
    /// written: a cache of plugins made before does not hold then, since plugins list what hardware they found.
    pub fn look(&self) -> bool {
        let hardware = self.parts.hardware.detect();
        let basis = format!("{} {}", hardware.fingerprint().hash, env!("CARGO_PKG_VERSION"));
        let choices = hardware.choices(&self.parts.order);
        let written = self.parts.state_dir.as_deref().map(read).unwrap_or_default();
        let changed = written.basis != basis;
        let mut known = self.known();
        known.book = written.on(&basis);
        known.choices = choices;
        known.hardware = Some(hardware);
        self.write(&known.book);
        changed
    }

    /// The best engine that proves itself. Proves those that have not, each in a worker that is thrown away.
    pub fn select(&self) -> Selected {
        loop {
            let now = self.now();
            let step = {
                let known = self.known();
                known.book.next(&known.choices, now)
            };
            match step {
                Step::Use(choice) => return self.selected(&choice),
                Step::Prove(_) if self.at_work().stopped => return self.stopgap(),
                Step::Prove(choice) => {
                    let name = choice.name();
                    let outcome = self.prove(&choice);
                    if self.at_work().stopped {
                        // It was we who ended it.
                        return self.stopgap();
                    }
                    let now = self.now();
                    let mut known = self.known();
                    match outcome {
                        Ok(proof) => {
                            tracing::info!(engine = name, sessions = proof.sessions, "engine proved");
                            known.book.proved(&name, proof, now);
                        }
                        Err(reason) => {
                            tracing::warn!(engine = name, reason, "engine does not work here, it is left alone");
                            known.book.failed(&name, &reason, now);
                        }
                    }
                    self.write(&known.book);
                }
            }
        }
    }

    /// The best engine that is known to be good, without proving any.
    pub fn stopgap(&self) -> Selected {
        let now = self.now();
        let choice = {
            let known = self.known();
            known.book.stopgap(&known.choices, now)
        };
        self.selected(&choice)
    }

    /// A worker was lost at work. Returns whether its engine is now suspect: then another is to be used, and
    /// [`Engines::select`] to be called.
    pub fn trouble(&self, engine: &str, reason: &str) -> bool {
        self.note(engine, |book, now| book.trouble(engine, &shortened(reason), now))
    }

    /// A worker did not even start. Returns as [`Engines::trouble`].
    pub fn failed(&self, engine: &str, reason: &str) -> bool {
        self.note(engine, |book, now| book.failed(engine, &shortened(reason), now))
    }

    fn note(&self, engine: &str, note: impl FnOnce(&mut Book, u64)) -> bool {
        // The main processor is what everything falls back to.
        if engine == Choice::software().name() {
            return false;
        }
        let now = self.now();
        let mut known = self.known();
        note(&mut known.book, now);
        self.write(&known.book);
        true
    }

    /// A worker says what media framework it found. Returns whether proofs were made with another one.
    pub fn framework(&self, version: &str) -> bool {
        let mut known = self.known();
        let before = known.book.clone();
        known.book.framework(version);
        let changed = known.book != before;
        if changed {
            self.write(&known.book);
        }
        changed
    }

    /// How long until a better engine than the one in use may prove itself again.
    pub fn retry_in(&self) -> Option<Duration> {
        let now = self.now();
        let known = self.known();
        let at = known.book.retry_at(&known.choices, &known.in_use)?;
        Some(Duration::from_secs(at.saturating_sub(now)))
    }

    /// What there is to say of each engine, best first.
    pub fn status(&self) -> Vec<EngineStatus> {
        let now = self.now();
        let known = self.known();
        let mut told: Vec<EngineStatus> = known.choices.iter().map(|choice| known.tell(choice, now)).collect();
        let refused = known.hardware.iter().flat_map(|hardware| hardware.candidates.iter());
        for candidate in refused.filter(|candidate| candidate.verdict == Verdict::Refused) {
            let name = candidate.engine.name();
            if !told.iter().any(|status| status.name == name) {
                told.push(EngineStatus {
                    name: name.to_owned(),
                    state: "refused".to_owned(),
                    reason: Some(candidate.reason.clone()),
                    ..EngineStatus::default()
                });
            }
        }
        told
    }

    fn prove(&self, choice: &Choice) -> Result<Proof, String> {
        let mut plan = self.parts.launch.clone().with_engine(&choice.name(), &choice.nodes);
        plan.args.push("--prove".into());
        let mut worker = launch(&plan).map_err(|error| shortened(&service::with_causes(&error)))?;
        {
            let mut at_work = self.at_work();
            at_work.interrupter = worker.interrupter().ok();
            if at_work.stopped {
                return Err("the node is stopping".to_owned());
            }
        }
        let outcome = worker.wait_proof(PROOF).map_err(|error| shortened(&service::with_causes(&error)));
        self.at_work().interrupter = None;
        outcome
    }

    /// Ends a proof that is under way; there will be no other.
    pub fn stop(&self) {
        let mut at_work = self.at_work();
        at_work.stopped = true;
        if let Some(interrupter) = at_work.interrupter.take() {
            interrupter.interrupt();
        }
    }

    fn at_work(&self) -> MutexGuard<'_, AtWork> {
        self.at_work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The main processor's workers, which stand in where an engine has no more sessions.
    pub(crate) fn software(&self) -> Selected {
        Selected::as_launched(&self.parts.launch)
    }

    fn selected(&self, choice: &Choice) -> Selected {
        let name = choice.name();
        let mut known = self.known();
        known.in_use.clone_from(&name);
        let proof = known.book.engines.get(&name).and_then(|standing| standing.proof.as_ref());
        let most = proof.and_then(|proof| proof.sessions).map_or(usize::MAX, workers_for);
        drop(known);
        let launch = self.parts.launch.clone().with_engine(&name, &choice.nodes);
        Selected { engine: name.into(), launch, most }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.parts.clock.unix_seconds()).unwrap_or(0)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, book: &Book) {
        let Some(dir) = &self.parts.state_dir else { return };
        if let Err(error) = write(dir, book) {
            tracing::warn!(%error, "what engines proved could not be kept: they prove it again at the next start");
        }
    }
}

impl Known {
    fn tell(&self, choice: &Choice, now: u64) -> EngineStatus {
        let name = choice.name();
        let standing = self.book.engines.get(&name);
        let quarantine =
            standing.filter(|standing| standing.is_held(now)).and_then(|standing| standing.quarantine.clone());
        let proof = standing.and_then(|standing| standing.proof.as_ref());
        let state = match (standing, &quarantine) {
            (_, Some(_)) => "quarantined",
            _ if name == self.in_use => "in use",
            (Some(standing), _) if standing.suspect => "suspect",
            (Some(standing), _) if standing.proof.is_some() => "proved",
            // Its workers prove it, each at its start.
            _ if *choice == Choice::software() => "ready",
            _ => "unproved",
        };
        EngineStatus {
            state: state.to_owned(),
            reason: quarantine.as_ref().map(|quarantine| quarantine.reason.clone()),
            since: quarantine.as_ref().map(|quarantine| quarantine.since),
            until: quarantine.as_ref().map(|quarantine| quarantine.until),
            proved: proof.map(|proof| proof.proved.clone()).unwrap_or_default(),
            sessions: proof.and_then(|proof| proof.sessions),
            name,
        }
    }
}

/// Workers that so many encoder sessions are enough for: each stream has about four renditions, and two are kept in
/// reserve. Counting stopped at [`COUNTED`], which is as good as no bound.
fn workers_for(sessions: u32) -> usize {
    if sessions >= COUNTED {
        return usize::MAX;
    }
    usize::try_from(sessions.saturating_sub(RESERVE) / RENDITIONS).unwrap_or(usize::MAX).max(1)
}

fn shortened(reason: &str) -> String {
    reason.chars().take(LONGEST_REASON).collect()
}

/// The book as written; an empty one when there is none or it makes no sense, which only costs proofs.
fn read(dir: &Path) -> Book {
    let text = fs::read_to_string(dir.join(BOOK)).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

fn write(dir: &Path, book: &Book) -> io::Result<()> {
    let text = serde_json::to_vec_pretty(book)?;
    let beside = dir.join(format!(".{BOOK}"));
    fs::write(&beside, text)?;
    fs::rename(beside, dir.join(BOOK))
}

#[cfg(test)]
mod tests;
