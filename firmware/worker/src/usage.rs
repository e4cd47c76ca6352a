//! What this process has used.
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};

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
