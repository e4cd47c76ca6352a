//! Which segment runs next, pure: the one that must be done first, within a bound, each session in order.
//!
//! ```text
//!          push                    next: earliest deadline among the
//!   ──────────────► waiting ──── heads of lines with nothing running ────► running ── end ──►
//!      (≤ 4 a line)    │                (at most `slots` at a time)           │
//!                      ▼                                                      │ put_back: its worker was lost
//!                 hopeless: cannot be done in time any more ◄─── waiting ◄────┘
//! ```
//! A deadline does not move while its segment waits, and whoever comes later has a later one, so nobody waits for
//! ever: a segment runs, or it is dropped while its gateway can still go elsewhere. Of equal deadlines the
//! session that was served longest ago comes first. Times are durations since any fixed moment.
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::state::JobId;
use super::{Parallel, SESSION_QUEUE};

/// A segment in line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    /// Its number.
    pub job: JobId,
    /// When it must be done.
    pub deadline: Duration,
    /// The time it takes with the whole box to itself; zero when nobody knows.
    pub least: Duration,
}

impl Ticket {
    /// When it must begin at the latest.
    fn latest_start(&self) -> Duration {
        self.deadline.saturating_sub(self.least)
    }
}

/// The line of a session is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the session's line is full")]
pub struct Full;

/// A segment that may run now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// Whose it is.
    pub session: String,
    /// Its number.
    pub job: JobId,
    /// Threads that its encoders may use.
    pub threads: u32,
}

#[derive(Debug, Default)]
struct Line {
    waiting: VecDeque<Ticket>,
    running: Option<Ticket>,
    /// When it was last served, counted in starts.
    served: u64,
}

/// The lines of all sessions.
#[derive(Debug)]
pub struct Schedule {
    parallel: Parallel,
    lines: BTreeMap<String, Line>,
    starts: u64,
}

impl Schedule {
    /// Nothing in line yet.
    #[must_use]
    pub fn new(parallel: Parallel) -> Self {
        Self { parallel, lines: BTreeMap::new(), starts: 0 }
    }

    /// Changes how much may run from now on; what runs already goes on.
    pub fn set_parallel(&mut self, parallel: Parallel) {
        self.parallel = parallel;
    }

    /// Puts a segment at the end of its session's line.
    ///
    /// # Errors
    /// [`Full`] when as many wait as may.
    pub fn push(&mut self, session: &str, ticket: Ticket) -> Result<(), Full> {
        let line = self.lines.entry(session.to_owned()).or_default();
        if line.waiting.len() >= SESSION_QUEUE {
            return Err(Full);
        }
        line.waiting.push_back(ticket);
        Ok(())
    }

    /// The segment to start now, of those whose session `can` start one; it counts as running from here on.
    pub fn next(&mut self, can: impl Fn(&str) -> bool) -> Option<Start> {
        if self.running() >= self.parallel.slots.max(1) {
            return None;
        }
        let heads = self.lines.iter().filter_map(|(session, line)| {
            let head = line.waiting.front().filter(|_| line.running.is_none())?;
            can(session).then_some(((head.deadline, line.served, head.job), session))
        });
        let session = heads.min_by_key(|(key, _)| *key).map(|(_, session)| session.clone())?;
        self.starts += 1;
        let line = self.lines.get_mut(&session)?;
        let ticket = line.waiting.pop_front()?;
        line.running = Some(ticket);
        line.served = self.starts;
        Some(Start { session, job: ticket.job, threads: self.threads() })
    }

    /// Threads for a segment that starts now: all of the box for one alone, a share beside few others, and one for each
    /// encoder on a loaded box, where its renditions side by side keep its part of the box busy.
    fn threads(&self) -> u32 {
        let willing = self.lines.values().filter(|line| line.running.is_some() || !line.waiting.is_empty()).count();
        let Parallel { slots, threads } = self.parallel;
        let share = if slots > 1 && willing >= slots { 1 } else { threads / willing.clamp(1, slots.max(1)) };
        u32::try_from(share.max(1)).unwrap_or(u32::MAX)
    }

    /// Segments that cannot be done in time any more, even with the whole box to themselves; they stay in line until
    /// they are ended.
    #[must_use]
    pub fn hopeless(&self, now: Duration) -> Vec<JobId> {
        let late = |ticket: &&Ticket| ticket.latest_start() <= now;
        self.lines.values().flat_map(|line| line.waiting.iter()).filter(late).map(|ticket| ticket.job).collect()
    }

    /// When the next waiting segment becomes hopeless.
    #[must_use]
    pub fn due(&self) -> Option<Duration> {
        self.lines.values().flat_map(|line| line.waiting.iter()).map(Ticket::latest_start).min()
    }

    /// A running segment goes back to the front of its line, however long that is; `false` when it does not run.
    pub fn put_back(&mut self, job: JobId) -> bool {
        for line in self.lines.values_mut() {
            if let Some(ticket) = line.running.take_if(|ticket| ticket.job == job) {
                line.waiting.push_front(ticket);
                return true;
            }
        }
        false
    }

    /// A segment is over, whether it ran or waited.
    pub fn end(&mut self, job: JobId) {
        for line in self.lines.values_mut() {
            line.running.take_if(|ticket| ticket.job == job);
            line.waiting.retain(|ticket| ticket.job != job);
        }
    }

    /// Forgets a session that has nothing left to do; `false` when it has.
    pub fn close(&mut self, session: &str) -> bool {
        let idle = self.lines.get(session).is_none_or(|line| line.running.is_none() && line.waiting.is_empty());
        if idle {
            self.lines.remove(session);
        }
        idle
    }

    /// Does the session wait for a segment to start?
    #[must_use]
    pub fn waits(&self, session: &str) -> bool {
        self.lines.get(session).is_some_and(|line| line.running.is_none() && !line.waiting.is_empty())
    }

    /// Segments in line, of all sessions.
    pub fn waiting(&self) -> impl Iterator<Item = JobId> {
        self.lines.values().flat_map(|line| line.waiting.iter()).map(|ticket| ticket.job)
    }

    /// Segments that run.
    #[must_use]
    pub fn running(&self) -> usize {
        self.lines.values().filter(|line| line.running.is_some()).count()
    }
}

#[cfg(test)]
mod tests;
