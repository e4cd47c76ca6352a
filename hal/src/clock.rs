//! The wall clock, as an argument. The monotonic kind is tokio's, so that tests can pause it.
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Tells the time of day.
pub trait Clock: Send + Sync + 'static {
    /// Now.
    fn now(&self) -> SystemTime;

    /// Now, in whole seconds since 1970; negative before.
    fn unix_seconds(&self) -> i64 {
        match self.now().duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_secs()).map_or(i64::MIN, |seconds| -seconds),
        }
    }

    /// Now, in whole milliseconds since 1970; zero before.
    fn unix_millis(&self) -> u64 {
        let since = self.now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}

/// The system's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct LinuxClock;

impl Clock for LinuxClock {
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }
}

/// A clock that stands still until it is told otherwise. Clones show the same time.
#[derive(Debug, Clone)]
pub struct SimClock {
    now: Arc<Mutex<SystemTime>>,
}

impl SimClock {
    /// A clock that shows so many seconds since 1970.
    #[must_use]
    pub fn at(unix_seconds: u64) -> Self {
        Self { now: Arc::new(Mutex::new(UNIX_EPOCH + Duration::from_secs(unix_seconds))) }
    }

    /// Moves it forward.
    pub fn advance(&self, by: Duration) {
        *self.now.lock().unwrap_or_else(PoisonError::into_inner) += by;
    }

    /// Sets it, also back.
    pub fn set(&self, to: SystemTime) {
        *self.now.lock().unwrap_or_else(PoisonError::into_inner) = to;
    }
}

impl Clock for SimClock {
    fn now(&self) -> SystemTime {
        *self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_simulated_clock_moves_only_when_told() {
        let clock = SimClock::at(1_700_000_000);
        let same = clock.clone();
        clock.advance(Duration::from_millis(1500));
        assert_eq!(same.unix_millis(), 1_700_000_001_500);
        clock.set(UNIX_EPOCH - Duration::from_secs(5));
        assert_eq!((same.unix_seconds(), same.unix_millis()), (-5, 0));
    }

    #[test]
    fn the_system_clock_is_past_the_year_2020() {
        assert!(LinuxClock.unix_seconds() > 1_577_836_800);
    }
}
