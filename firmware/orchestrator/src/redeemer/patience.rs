//! How long a winner waits before it is tried again.
use std::time::Duration;

use rand::Rng;
use tokio::time::Instant;

/// A winner's tries so far, and when the next may be.
#[derive(Debug, Clone, Copy, Default)]
pub struct Patience {
    tries: u32,
    until: Option<Instant>,
}

impl Patience {
    /// A try came to nothing: wait twice as long as last time, within bounds, give or take a quarter.
    pub fn lose(&mut self, first: Duration, max: Duration, rng: &mut impl Rng) {
        let ceiling = first.saturating_mul(1 << self.tries.min(16)).min(max);
        self.tries = self.tries.saturating_add(1);
        self.until = Some(Instant::now() + ceiling.mul_f64(rng.gen_range(0.75..=1.0)));
    }

    /// May it be tried again?
    #[must_use]
    pub fn over(&self) -> bool {
        self.until.is_none_or(|until| until <= Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[tokio::test(start_paused = true)]
    async fn it_doubles_up_to_its_bound() {
        let (mut patience, mut rng) = (Patience::default(), rand::rngs::StdRng::seed_from_u64(7));
        assert!(patience.over());
        for ceiling in [1, 2, 4, 4, 4] {
            patience.lose(Duration::from_secs(1), Duration::from_secs(4), &mut rng);
            tokio::time::advance(Duration::from_millis(ceiling * 750 - 1)).await;
            assert!(!patience.over());
            tokio::time::advance(Duration::from_millis(ceiling * 250 + 1)).await;
            assert!(patience.over());
        }
    }
}
