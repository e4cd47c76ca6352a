//! How long to wait before an orchestrator is tried again: longer each time, never exactly as long as others wait.
use std::time::Duration;

use rand::Rng;

/// The first wait …
const FIRST: Duration = Duration::from_secs(1);
/// … and the longest.
const LONGEST: Duration = Duration::from_secs(60);

/// Waits that double.
#[derive(Debug, Clone)]
pub struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Self(FIRST)
    }
}

impl Backoff {
    /// The next wait: between half of what it has grown to and all of it.
    pub fn wait(&mut self, rng: &mut impl Rng) -> Duration {
        let ceiling = self.0;
        self.0 = self.0.saturating_mul(2).min(LONGEST);
        ceiling.mul_f64(rng.gen_range(0.5..=1.0))
    }

    /// It worked: the next wait is short again.
    pub fn reset(&mut self) {
        self.0 = FIRST;
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    #[test]
    fn waits_grow_to_a_minute_and_differ() {
        let mut rng = StdRng::seed_from_u64(7);
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..12).map(|_| backoff.wait(&mut rng)).collect();
        for (step, wait) in (0..).zip(&waits) {
            let ceiling = Duration::from_secs(1 << step).min(LONGEST);
            assert!(*wait >= ceiling / 2 && *wait <= ceiling, "{step}: {wait:?}");
        }
        assert!(waits[8..].windows(2).any(|pair| pair[0] != pair[1]));
        backoff.reset();
        assert!(backoff.wait(&mut rng) <= FIRST);
    }
}
