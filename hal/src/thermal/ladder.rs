//! One ladder: steps down while something is bad, steps up after it was good for long.
use std::time::Duration;

use super::Limits;
use crate::units::Percent;

/// The last step: nothing is admitted.
const LAST: u8 = 4;

/// How bad something is now; the order is from best to worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    /// Well: rises in time.
    Good,
    /// In between: nothing moves.
    Between,
    /// Bad: falls by so many steps at a time, to so deep a step.
    Bad { deepest: u8, stride: u8 },
    /// Bad by so many steps: falls to it, and rises to it in time.
    At(u8),
    /// Past the last limit: falls to the end at once.
    Stop,
}

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Ladder {
    step: u8,
    bad_since: Option<Duration>,
    good_since: Option<Duration>,
}

impl Ladder {
    pub(super) fn advance(&mut self, level: Level, limits: &Limits, now: Duration) {
        match level {
            Level::Stop => *self = Self { step: LAST, ..Self::default() },
            Level::Bad { deepest, stride } => {
                self.good_since = None;
                let since = *self.bad_since.get_or_insert(now);
                if self.step < deepest && now.saturating_sub(since) >= limits.raise {
                    self.step = self.step.saturating_add(stride).min(deepest);
                    self.bad_since = Some(now);
                }
            }
            Level::At(step) if self.step < step => {
                self.advance(Level::Bad { deepest: step, stride: LAST }, limits, now);
            }
            Level::At(step) if self.step > step => self.rise(limits, now),
            Level::At(_) | Level::Between => self.restart(),
            Level::Good => self.rise(limits, now),
        }
    }

    fn rise(&mut self, limits: &Limits, now: Duration) {
        self.bad_since = None;
        let since = *self.good_since.get_or_insert(now);
        if now.saturating_sub(since) >= limits.clear {
            self.step = self.step.saturating_sub(1);
            self.good_since = Some(now);
        }
    }

    /// Forgets how long anything lasted, not where it stands.
    pub(super) fn restart(&mut self) {
        self.bad_since = None;
        self.good_since = None;
    }

    pub(super) fn step(&self) -> u8 {
        self.step
    }

    pub(super) fn percent(&self) -> Percent {
        Percent(100.0 - 25.0 * f32::from(self.step.min(LAST)))
    }
}
