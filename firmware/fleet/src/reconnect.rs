//! When to try again: pure, so that a hundred thousand boxes can be reasoned about.
//!
//! The first delay is spread over the fleet's window, later ones grow with full jitter; never more than six attempts a
//! minute, whatever happens.

use std::collections::VecDeque;
use std::time::Duration;

use rand::Rng;

/// Never sooner than this.
const FLOOR: Duration = Duration::from_secs(1);
/// First delay when our own network changed.
const LOCAL: Duration = Duration::from_secs(5);
/// First delay when we are not welcome.
const AUTH: Duration = Duration::from_secs(15 * 60);
/// Attempts allowed inside [`MINUTE`].
const PER_MINUTE: usize = 6;
const MINUTE: Duration = Duration::from_secs(60);
/// A connection that held this long starts the count anew.
const STABLE: Duration = Duration::from_secs(5 * 60);
/// After this many failures in a row the next broker is tried.
pub(crate) const FAILURES_PER_BROKER: u32 = 3;

/// Whose fault a lost or refused connection was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// Our own link or route.
    Local,
    /// The broker or the network beyond.
    Remote,
    /// Certificate or access refused.
    Auth,
}

/// The fleet's spreading policy.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Policy {
    /// W.
    pub(crate) window: Duration,
    /// Base of later delays; zero derives it from W.
    pub(crate) base: Duration,
    /// Cap of later delays; zero derives it from W.
    pub(crate) cap: Duration,
}

/// Attempts so far; `now` is any monotonic clock.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
    attempts: VecDeque<Duration>,
    connected_at: Option<Duration>,
}

impl Backoff {
    /// A connection attempt begins.
    pub(crate) fn attempt(&mut self, now: Duration) {
        self.attempts.push_back(now);
        while self.attempts.len() > PER_MINUTE {
            self.attempts.pop_front();
        }
    }

    /// The broker accepted us.
    pub(crate) fn connected(&mut self, now: Duration) {
        self.connected_at = Some(now);
    }

    /// Failures since the last stable connection.
    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }

    /// The connection ended or was not made: how long to wait before the next attempt.
    pub(crate) fn delay(&mut self, cause: Cause, policy: Policy, now: Duration, chance: &mut impl Rng) -> Duration {
        let stable = self.connected_at.take().is_some_and(|at| now.saturating_sub(at) >= STABLE);
        if stable {
            self.failures = 0;
        }
        let spread = if self.failures == 0 || cause == Cause::Auth {
            match cause {
                Cause::Local => LOCAL,
                Cause::Remote => policy.window,
                Cause::Auth => AUTH,
            }
        } else {
            let or = |given: Duration, derived: Duration| if given.is_zero() { derived } else { given };
            let base = or(policy.base, (policy.window / 10).max(Duration::from_secs(5)));
            let cap = or(policy.cap, (policy.window * 2).max(Duration::from_secs(300)));
            base.saturating_mul(1u32.checked_shl(self.failures.min(20)).unwrap_or(u32::MAX)).min(cap)
        };
        self.failures = self.failures.saturating_add(1);
        let delay = spread.mul_f64(chance.gen_range(0.0..1.0)).max(FLOOR);
        delay.max(self.until_allowed(now))
    }

    /// How long until another attempt stays within six a minute.
    fn until_allowed(&self, now: Duration) -> Duration {
        match self.attempts.front() {
            Some(oldest) if self.attempts.len() >= PER_MINUTE => (*oldest + MINUTE).saturating_sub(now),
            _ => Duration::ZERO,
        }
    }
}

/// Delay before the first connection of a boot: none, or spread when a power loss may have hit a whole region.
pub(crate) fn boot_delay(after_power_loss: bool, policy: Policy, chance: &mut impl Rng) -> Duration {
    if after_power_loss { policy.window.mul_f64(chance.gen_range(0.0..1.0)) } else { Duration::ZERO }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::{StdRng, mock::StepRng};

    use super::*;

    const POLICY: Policy = Policy { window: Duration::from_secs(60), base: Duration::ZERO, cap: Duration::ZERO };

    fn secs(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    /// Draws very nearly the largest value every time.
    fn most() -> StepRng {
        StepRng::new(u64::MAX, 0)
    }

    #[test]
    fn the_first_delay_depends_on_whose_fault_it_was() {
        let longest = |cause| Backoff::default().delay(cause, POLICY, secs(0), &mut most()).as_secs_f64().round();
        assert_eq!((longest(Cause::Local), longest(Cause::Remote), longest(Cause::Auth)), (5.0, 60.0, 900.0));
        let shortest = Backoff::default().delay(Cause::Remote, POLICY, secs(0), &mut StepRng::new(0, 0));
        assert_eq!(shortest, FLOOR);
    }

    #[test]
    fn later_delays_double_up_to_the_cap() {
        let mut backoff = Backoff::default();
        let delays: Vec<f64> =
            (0..8).map(|_| backoff.delay(Cause::Remote, POLICY, secs(0), &mut most()).as_secs_f64().round()).collect();
        assert_eq!(delays, [60.0, 12.0, 24.0, 48.0, 96.0, 192.0, 300.0, 300.0]);
    }

    #[test]
    fn only_a_stable_connection_starts_the_count_anew() {
        let mut backoff = Backoff::default();
        backoff.delay(Cause::Remote, POLICY, secs(0), &mut most());
        backoff.connected(secs(10));
        backoff.delay(Cause::Remote, POLICY, secs(200), &mut most());
        assert_eq!(backoff.failures(), 2);
        backoff.connected(secs(300));
        backoff.delay(Cause::Remote, POLICY, secs(600), &mut most());
        assert_eq!(backoff.failures(), 1);
    }

    #[test]
    fn there_are_never_more_than_six_attempts_in_any_minute() {
        let policy = Policy { window: secs(1), base: Duration::from_millis(1), cap: Duration::from_millis(2) };
        let mut chance = StdRng::seed_from_u64(7);
        let (mut backoff, mut now, mut attempts) = (Backoff::default(), secs(0), Vec::new());
        for _ in 0..100 {
            backoff.attempt(now);
            attempts.push(now);
            now += backoff.delay(Cause::Remote, policy, now, &mut chance);
        }
        for at in &attempts {
            let inside = attempts.iter().filter(|other| **other >= *at && **other < *at + MINUTE).count();
            assert!(inside <= PER_MINUTE, "{inside} attempts in the minute after {at:?}");
        }
    }

    #[test]
    fn a_fleet_that_lost_its_broker_comes_back_spread_over_the_window() {
        let mut chance = StdRng::seed_from_u64(11);
        let mut per_second = [0u32; 60];
        for _ in 0..6000 {
            let delay = Backoff::default().delay(Cause::Remote, POLICY, secs(0), &mut chance);
            per_second[usize::try_from(delay.as_secs()).unwrap()] += 1;
        }
        assert!(per_second.iter().skip(2).all(|n| (50..160).contains(n)), "{per_second:?}");
    }

    #[test]
    fn only_a_power_loss_spreads_the_first_connection() {
        assert_eq!(boot_delay(false, POLICY, &mut most()), Duration::ZERO);
        assert!(boot_delay(true, POLICY, &mut most()) > secs(59));
    }
}
