//! How much one box may say: a token bucket per class, and a mute for classes that keep sending nonsense.

use std::collections::VecDeque;
use std::time::Duration;

/// Messages a second, and as many seconds at once.
const RATE: f64 = 40.0;
const BURST: f64 = 200.0;
/// More malformed messages than this inside a minute mute the class.
const MALFORMED_MAX: usize = 5;
const MINUTE: Duration = Duration::from_secs(60);
/// How long a mute lasts.
const MUTE: Duration = Duration::from_secs(600);

/// The limits of one box and class.
#[derive(Debug, Clone)]
pub(crate) struct Limit {
    tokens: f64,
    at: Duration,
    malformed: VecDeque<Duration>,
    muted_until: Option<Duration>,
}

impl Limit {
    pub(crate) fn new(now: Duration) -> Self {
        Self { tokens: BURST, at: now, malformed: VecDeque::new(), muted_until: None }
    }

    /// Whether a message that came at `now` may be looked at.
    pub(crate) fn admit(&mut self, now: Duration) -> bool {
        if self.muted_until.is_some_and(|until| now < until) {
            return false;
        }
        self.tokens = (self.tokens + now.saturating_sub(self.at).as_secs_f64() * RATE).min(BURST);
        self.at = now;
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }

    /// A message was malformed; true when the class is muted from now on, which is worth an event.
    pub(crate) fn malformed(&mut self, now: Duration) -> bool {
        self.malformed.push_back(now);
        while self.malformed.front().is_some_and(|at| now.saturating_sub(*at) > MINUTE) {
            self.malformed.pop_front();
        }
        if self.malformed.len() <= MALFORMED_MAX {
            return false;
        }
        self.malformed.clear();
        self.muted_until = Some(now + MUTE);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    #[test]
    fn a_burst_passes_a_flood_does_not_and_time_heals() {
        let mut limit = Limit::new(secs(0));
        assert_eq!((0..1000).filter(|_| limit.admit(secs(0))).count(), 200);
        assert_eq!((0..1000).filter(|_| limit.admit(secs(1))).count(), 40);
    }

    #[test]
    fn the_sixth_malformed_message_in_a_minute_mutes_for_ten() {
        let mut limit = Limit::new(secs(0));
        assert!((0..5).all(|_| !limit.malformed(secs(1))));
        assert!(limit.malformed(secs(2)));
        assert!(!limit.admit(secs(601)));
        assert!(limit.admit(secs(602)));
        let mut slow = Limit::new(secs(0));
        assert!((0..100).all(|i| !slow.malformed(secs(i * 13))));
    }
}
