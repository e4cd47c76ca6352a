//! Is an attached transcoder worth the next segment? Pure: outcomes and the time go in.
//!
//! ```text
//!           strikes reach the limit              the bench is over
//!   Fit ─────────────────────────► Benched ──────────────────────► Probation
//!    ▲                                ▲     twice as long            │  │
//!    │                                └──────────────────────────────┘  │
//!    └──────────────────────────────────────────────────────────────────┘
//!                              a good segment
//! ```
//! A benched transcoder stays connected: only a lost connection removes one. On probation it gets one session.
use std::time::Duration;

/// Strikes that put a transcoder on the bench.
const LIMIT: u32 = 4;
/// Strikes for a segment that came back wrong, or not at all.
const FAILED: u32 = 2;
/// Strikes for a segment that came back late.
const SLOW: u32 = 1;
/// How long the first time on the bench is …
const FIRST_BENCH: Duration = Duration::from_secs(30);
/// … and the longest.
const LONGEST_BENCH: Duration = Duration::from_secs(600);
/// Below this a gateway never finds a segment late, however short.
const NEVER_LATE: Duration = Duration::from_millis(1500);

/// How a segment went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Right and in time.
    Good,
    /// Right, but the content was over before it: a gateway begins to look elsewhere.
    Slow,
    /// Wrong, or not at all.
    Failed,
}

impl Outcome {
    /// A right result of content of this length, after this time.
    #[must_use]
    pub fn of_result(took: Duration, content: Duration) -> Self {
        if took <= content.max(NEVER_LATE) { Self::Good } else { Self::Slow }
    }
}

/// Where a transcoder stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It takes as many sessions as it has room for.
    Fit,
    /// It takes none.
    Benched,
    /// It takes one.
    Probation,
}

impl Standing {
    /// One word for people.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Fit => "fit",
            Self::Benched => "benched",
            Self::Probation => "probation",
        }
    }
}

/// One transcoder's health. Times are durations since any fixed moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    strikes: u32,
    /// When the time on the bench is over, while there is or was one to make good for.
    benched_until: Option<Duration>,
    next_bench: Duration,
}

impl Default for Health {
    fn default() -> Self {
        Self { strikes: 0, benched_until: None, next_bench: FIRST_BENCH }
    }
}

impl Health {
    /// Where it stands now.
    #[must_use]
    pub fn standing(&self, now: Duration) -> Standing {
        match self.benched_until {
            None => Standing::Fit,
            Some(until) if now < until => Standing::Benched,
            Some(_) => Standing::Probation,
        }
    }

    /// Takes note of a segment. Outcomes of segments that were sent before the bench change nothing while it lasts.
    pub fn note(&mut self, outcome: Outcome, now: Duration) {
        match (self.standing(now), outcome) {
            (Standing::Benched, _) => {}
            (Standing::Probation, Outcome::Good) => {
                self.benched_until = None;
                self.strikes = 0;
            }
            (Standing::Probation, _) => self.bench(now),
            (Standing::Fit, Outcome::Good) => {
                self.strikes = self.strikes.saturating_sub(1);
                if self.strikes == 0 {
                    // Forgotten slowly: a transcoder that is good every other minute is not good.
                    self.next_bench = self.next_bench.saturating_sub(Duration::from_secs(1)).max(FIRST_BENCH);
                }
            }
            (Standing::Fit, outcome) => {
                self.strikes = self.strikes.saturating_add(if outcome == Outcome::Slow { SLOW } else { FAILED });
                if self.strikes >= LIMIT {
                    self.bench(now);
                }
            }
        }
    }

    fn bench(&mut self, now: Duration) {
        self.benched_until = Some(now.saturating_add(self.next_bench));
        self.next_bench = self.next_bench.saturating_mul(2).min(LONGEST_BENCH);
        self.strikes = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn two_failures_in_a_row_bench_and_one_among_good_ones_does_not() {
        let mut health = Health::default();
        for _ in 0..50 {
            health.note(Outcome::Failed, s(0));
            health.note(Outcome::Good, s(0));
            health.note(Outcome::Good, s(0));
        }
        assert_eq!(health.standing(s(0)), Standing::Fit);
        health.note(Outcome::Failed, s(1));
        health.note(Outcome::Failed, s(1));
        assert_eq!(health.standing(s(30)), Standing::Benched);
        assert_eq!(health.standing(s(31)), Standing::Probation);
    }

    #[test]
    fn always_late_is_benched_too() {
        let mut health = Health::default();
        for _ in 0..4 {
            assert_eq!(health.standing(s(0)), Standing::Fit);
            health.note(Outcome::of_result(s(3), s(2)), s(0));
        }
        assert_eq!(health.standing(s(0)), Standing::Benched);
        assert_eq!(Outcome::of_result(Duration::from_millis(1400), Duration::from_millis(500)), Outcome::Good);
    }

    #[test]
    fn probation_ends_with_one_segment_for_better_or_worse() {
        let mut health = Health::default();
        let fail = |health: &mut Health, now| {
            health.note(Outcome::Failed, now);
            health.note(Outcome::Failed, now);
        };
        fail(&mut health, s(0));
        health.note(Outcome::Slow, s(40));
        assert_eq!(health.standing(s(99)), Standing::Benched, "the second time is twice as long");
        assert_eq!(health.standing(s(100)), Standing::Probation);
        health.note(Outcome::Good, s(100));
        assert_eq!(health.standing(s(100)), Standing::Fit);
    }

    proptest! {
        #[test]
        fn nobody_is_benched_for_ever(outcomes in prop::collection::vec((0..3_u8, 0..1000_u64), 0..100)) {
            let mut health = Health::default();
            let mut now = 0;
            for (outcome, later) in outcomes {
                now += later;
                let outcome = [Outcome::Good, Outcome::Slow, Outcome::Failed][usize::from(outcome)];
                health.note(outcome, s(now));
                prop_assert!(health.standing(s(now) + LONGEST_BENCH) != Standing::Benched);
            }
        }
    }
}
