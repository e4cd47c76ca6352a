//! Restarting what died: a policy as data, with jitter, that gives up loudly.
use std::collections::VecDeque;
use std::time::Duration;

use rand::Rng;

/// How something that died is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restart {
    /// Delay before the first restart.
    pub first: Duration,
    /// Longest delay.
    pub max: Duration,
    /// Restarts allowed …
    pub cap: usize,
    /// … within this time; one more and we give up.
    pub window: Duration,
}

impl Restart {
    /// Quick at first, patient later, never more than twenty in ten minutes.
    pub const DEFAULT: Self = Self {
        first: Duration::from_millis(100),
        max: Duration::from_secs(30),
        cap: 20,
        window: Duration::from_secs(600),
    };
}

/// What a policy remembers.
#[derive(Debug, Clone)]
pub struct RestartState {
    policy: Restart,
    deaths: VecDeque<Duration>,
}

impl RestartState {
    /// Nothing died yet.
    #[must_use]
    pub fn new(policy: Restart) -> Self {
        Self { policy, deaths: VecDeque::new() }
    }

    /// Something died at this time (any monotonic clock's); how long to wait before the restart, or
    /// `None` to give up.
    pub fn died(&mut self, now: Duration, rng: &mut impl Rng) -> Option<Duration> {
        while self.deaths.front().is_some_and(|death| now.saturating_sub(*death) > self.policy.window) {
            self.deaths.pop_front();
        }
        if self.deaths.len() >= self.policy.cap {
            return None;
        }
        let doublings = u32::try_from(self.deaths.len()).unwrap_or(u32::MAX).min(16);
        self.deaths.push_back(now);
        let ceiling = self.policy.first.saturating_mul(1 << doublings).min(self.policy.max);
        Some(ceiling.mul_f64(rng.gen_range(0.5..=1.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn it_waits_longer_each_time_and_then_gives_up() {
        let policy = Restart {
            first: Duration::from_secs(1),
            max: Duration::from_secs(4),
            cap: 4,
            window: Duration::from_secs(60),
        };
        let (mut state, mut rng) = (RestartState::new(policy), rand::rngs::StdRng::seed_from_u64(1));
        let mut died = |second| state.died(Duration::from_secs(second), &mut rng);
        for (at, most) in [(0, 1), (1, 2), (2, 4), (3, 4)] {
            let wait = died(at).unwrap();
            assert!(wait <= Duration::from_secs(most) && wait >= Duration::from_secs(most) / 2);
        }
        assert_eq!(died(4), None);
        assert!(died(100).is_some());
    }
}
