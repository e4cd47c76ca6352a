//! What this process has used.
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::time::{ClockId, clock_gettime};
use sandbox::message::Spent;

/// Processor time of all threads since the start.
pub(crate) fn cpu_time() -> Duration {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else { return Duration::ZERO };
    let time = |t: nix::sys::time::TimeVal| {
        let seconds = u64::try_from(t.tv_sec()).unwrap_or(0);
        Duration::from_secs(seconds) + Duration::from_micros(u64::try_from(t.tv_usec()).unwrap_or(0))
    };
    time(usage.user_time()) + time(usage.system_time())
}

/// Most memory ever resident, in bytes.
pub(crate) fn peak_rss() -> u64 {
    let kibibytes = getrusage(UsageWho::RUSAGE_SELF).map_or(0, |u| u.max_rss());
    u64::try_from(kibibytes).unwrap_or(0).saturating_mul(1024)
}

/// What the threads of a job have spent on one kind of work.
#[derive(Debug, Default)]
pub(crate) struct Clock(AtomicU64);

impl Clock {
    /// Does something and adds the processor time that this thread took for it.
    pub(crate) fn of<T>(&self, work: impl FnOnce() -> T) -> T {
        let before = thread_time();
        let done = work();
        let spent = u64::try_from(thread_time().saturating_sub(before).as_nanos()).unwrap_or(0);
        self.0.fetch_add(spent, Ordering::Relaxed);
        done
    }

    fn micros(&self) -> u64 {
        self.0.load(Ordering::Relaxed) / 1000
    }
}

/// What a job's processor time goes into.
#[derive(Debug, Default)]
pub(crate) struct Clocks {
    pub(crate) decode: Clock,
    pub(crate) scale: Clock,
    pub(crate) encode: Clock,
}

impl Clocks {
    /// What came together.
    pub(crate) fn spent(&self) -> Spent {
        Spent { decode_us: self.decode.micros(), scale_us: self.scale.micros(), encode_us: self.encode.micros() }
    }
}

fn thread_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_counts_work_and_not_waiting() {
        let clocks = Clocks::default();
        let hash =
            clocks.encode.of(|| (0..20_000_000u64).fold(0, |sum: u64, n| sum.rotate_left(5) ^ n.wrapping_mul(31)));
        clocks.scale.of(|| std::thread::sleep(Duration::from_millis(20)));
        assert!(std::hint::black_box(hash) != 1);
        let spent = clocks.spent();
        assert!(spent.encode_us > spent.scale_us, "{spent:?}");
        assert_eq!(spent.decode_us, 0);
    }
}
