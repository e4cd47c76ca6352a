//! What systemd is told: ready, stopping, alive.
//!
//! Walk 3, step 5: `WATCHDOG=1` goes out only while every heartbeat is fresh, so a hung task is a hung
//! daemon and gets restarted.
use std::sync::Mutex;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::Instant;

/// Tells systemd that the daemon serves.
pub fn notify_ready() {
    send(&[NotifyState::Ready]);
}

/// Tells systemd, in words, what the daemon does now.
pub fn notify_status(text: &str) {
    send(&[NotifyState::Status(text)]);
}

/// Tells systemd that the daemon is on its way out.
pub fn notify_stopping() {
    send(&[NotifyState::Stopping]);
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(false, states) {
        tracing::debug!(%error, "systemd was not told");
    }
}

/// The pulses of a daemon's tasks.
#[derive(Debug, Default)]
pub struct Heartbeats {
    pulses: Mutex<Vec<Pulse>>,
}

#[derive(Debug)]
struct Pulse {
    name: &'static str,
    limit: Duration,
    last: Instant,
}

/// One task's pulse.
#[derive(Debug, Clone)]
pub struct Heartbeat {
    all: std::sync::Arc<Heartbeats>,
    index: usize,
}

impl Heartbeats {
    /// Registers a task that promises to beat at least this often.
    pub fn register(self: &std::sync::Arc<Self>, name: &'static str, limit: Duration) -> Heartbeat {
        let mut pulses = self.lock();
        pulses.push(Pulse { name, limit, last: Instant::now() });
        Heartbeat { all: std::sync::Arc::clone(self), index: pulses.len() - 1 }
    }

    /// The tasks that missed their promise.
    #[must_use]
    pub fn stale(&self) -> Vec<&'static str> {
        self.lock().iter().filter(|pulse| pulse.last.elapsed() > pulse.limit).map(|pulse| pulse.name).collect()
    }

    /// Feeds systemd's watchdog while all pulses are fresh; for ever. Does nothing when no watchdog is set.
    pub async fn feed_watchdog(&self) {
        let mut micros = 0;
        if !sd_notify::watchdog_enabled(false, &mut micros) {
            return std::future::pending().await;
        }
        let mut tick = tokio::time::interval(Duration::from_micros(micros) / 3);
        loop {
            tick.tick().await;
            let stale = self.stale();
            if stale.is_empty() {
                send(&[NotifyState::Watchdog]);
            } else {
                tracing::error!(?stale, "tasks hang: the watchdog is not fed and systemd will restart us");
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Pulse>> {
        self.pulses.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Heartbeat {
    /// The task is alive.
    pub fn beat(&self) {
        if let Some(pulse) = self.all.lock().get_mut(self.index) {
            pulse.last = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_task_that_stops_beating_is_named() {
        let all = std::sync::Arc::new(Heartbeats::default());
        let (head, pool) =
            (all.register("head", Duration::from_secs(10)), all.register("pool", Duration::from_secs(10)));
        tokio::time::advance(Duration::from_secs(9)).await;
        pool.beat();
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(all.stale(), ["head"]);
        head.beat();
        assert!(all.stale().is_empty());
    }
}
