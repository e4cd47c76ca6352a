//! One worker's life, pure: events and the time go in, actions come out, the driver only obeys.
//!
//! ```text
//!            ready              assign
//! Starting ─────────► Ready ◄═══════════► Busy
//!    │                  │      answer      │
//!    │ drain            │ drain            │ drain, or an answer that makes it due for replacement
//!    ▼                  ▼                  ▼
//!   Dead ◄──────────── Dead ◄────────── Draining ──► Dead
//!         (from anywhere: died, or a deadline passed)
//! ```
//! Times are durations since any fixed moment. Every event is legal in every state; what makes no sense
//! there changes nothing, or is refused.
use std::time::Duration;

/// A job's number.
pub type JobId = u64;

/// When a worker is replaced although nothing is wrong with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recycle {
    /// After so many segments.
    pub segments: u64,
    /// After so long, at the end of a segment.
    pub age: Duration,
    /// When its memory has grown to so many times what it was after its first segment …
    pub growth: u64,
    /// … and by at least so many bytes.
    pub grown_by: u64,
}

impl Recycle {
    /// *Source:* media §7, with room for a change of resolution within a session.
    pub const DEFAULT: Self =
        Self { segments: 2000, age: Duration::from_secs(2 * 3600), growth: 2, grown_by: 128 << 20 };
}

/// Where a worker is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Its process is on its way.
    Starting,
    /// It waits for a job.
    Ready,
    /// It has a job in hand.
    Busy {
        /// The job.
        job: JobId,
        /// When the job must be done.
        deadline: Duration,
    },
    /// It finishes the job in hand and gets no other.
    Draining {
        /// The job.
        job: JobId,
        /// When the job must be done.
        deadline: Duration,
    },
    /// It is gone, or being killed.
    Dead,
}

/// What happens to a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// It reported ready.
    Ready,
    /// It is to take a job.
    Assign {
        /// The job.
        job: JobId,
        /// When the job must be done.
        deadline: Duration,
    },
    /// It answered a job and lives on.
    Answered {
        /// The job.
        job: JobId,
        /// Its resident memory now, in bytes.
        memory: u64,
        /// It failed by a fault of its own or of its device: the job is lost, and it is replaced.
        sick: bool,
    },
    /// It is to take no more jobs.
    Drain,
    /// Its process is gone.
    Died,
    /// Time passed.
    Tick,
}

/// What the driver has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Give it the job.
    Run(JobId),
    /// Do not give it the job; it cannot take one now.
    Refuse(JobId),
    /// Hand its answer to this job on.
    Accept(JobId),
    /// Its job is lost with it.
    Lose(JobId),
    /// Its job's time is up.
    Expire(JobId),
    /// It did not become ready in time.
    GiveUpStart,
    /// Kill it.
    Kill,
    /// Count it as replaced by precaution.
    Recycled,
}

/// One worker, as the pool sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerState {
    phase: Phase,
    born: Duration,
    start_by: Duration,
    recycle: Recycle,
    served: u64,
    first_memory: Option<u64>,
}

impl WorkerState {
    /// A worker that starts now and must be ready within `start_timeout`.
    #[must_use]
    pub fn new(now: Duration, start_timeout: Duration, recycle: Recycle) -> Self {
        let start_by = now.saturating_add(start_timeout);
        Self { phase: Phase::Starting, born: now, start_by, recycle, served: 0, first_memory: None }
    }

    /// Where it is.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// When it has to be looked at next although nothing happens; `None` when never.
    #[must_use]
    pub fn due(&self) -> Option<Duration> {
        match self.phase {
            Phase::Starting => Some(self.start_by),
            Phase::Busy { deadline, .. } | Phase::Draining { deadline, .. } => Some(deadline),
            Phase::Ready | Phase::Dead => None,
        }
    }

    /// Moves on; the actions are to be done in order.
    pub fn step(&mut self, event: Event, now: Duration) -> Vec<Action> {
        match (self.phase, event) {
            (Phase::Dead, Event::Assign { job, .. }) => vec![Action::Refuse(job)],
            (Phase::Dead, _) => vec![],
            (_, Event::Died) => self.died(),
            (Phase::Starting, Event::Ready) => {
                self.phase = Phase::Ready;
                vec![]
            }
            (Phase::Ready, Event::Assign { job, deadline }) => {
                self.phase = Phase::Busy { job, deadline };
                vec![Action::Run(job)]
            }
            (_, Event::Assign { job, .. }) => vec![Action::Refuse(job)],
            (Phase::Starting | Phase::Ready, Event::Drain) => self.end(vec![Action::Kill]),
            (Phase::Busy { job, deadline }, Event::Drain) => {
                self.phase = Phase::Draining { job, deadline };
                vec![]
            }
            (
                Phase::Busy { job, .. } | Phase::Draining { job, .. },
                Event::Answered { job: answered, sick: true, .. },
            ) if job == answered => self.end(vec![Action::Lose(job), Action::Recycled, Action::Kill]),
            (Phase::Busy { job, .. }, Event::Answered { job: answered, memory, .. }) if job == answered => {
                self.served = self.served.saturating_add(1);
                if self.is_due_for_replacement(memory, now) {
                    return self.end(vec![Action::Accept(job), Action::Recycled, Action::Kill]);
                }
                self.phase = Phase::Ready;
                vec![Action::Accept(job)]
            }
            (Phase::Draining { job, .. }, Event::Answered { job: answered, .. }) if job == answered => {
                self.end(vec![Action::Accept(job), Action::Kill])
            }
            (Phase::Starting, Event::Tick) if now >= self.start_by => self.end(vec![Action::GiveUpStart, Action::Kill]),
            (Phase::Busy { job, deadline } | Phase::Draining { job, deadline }, Event::Tick) if now >= deadline => {
                self.end(vec![Action::Expire(job), Action::Kill])
            }
            (_, Event::Ready | Event::Answered { .. } | Event::Drain | Event::Tick) => vec![],
        }
    }

    fn died(&mut self) -> Vec<Action> {
        let lost = match self.phase {
            Phase::Busy { job, .. } | Phase::Draining { job, .. } => vec![Action::Lose(job)],
            Phase::Starting => vec![Action::GiveUpStart],
            Phase::Ready | Phase::Dead => vec![],
        };
        self.end(lost)
    }

    fn end(&mut self, actions: Vec<Action>) -> Vec<Action> {
        self.phase = Phase::Dead;
        actions
    }

    fn is_due_for_replacement(&mut self, memory: u64, now: Duration) -> bool {
        let first = *self.first_memory.get_or_insert(memory);
        let grown =
            memory > first.saturating_mul(self.recycle.growth) && memory.saturating_sub(first) >= self.recycle.grown_by;
        grown || self.served >= self.recycle.segments || now.saturating_sub(self.born) >= self.recycle.age
    }
}

#[cfg(test)]
mod tests;
