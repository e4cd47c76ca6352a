//! What time it is and how sure we are: wall clock, time since boot, clock quality.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// No message was ever written before this: 2026-01-01. A clock below it was never set.
const FLOOR_MS: i64 = 1_767_225_600_000;
/// systemd-timesyncd touches this when the clock is synchronised.
const SYNCHRONISED: &str = "/run/systemd/timesync/synchronized";
/// chrony keeps this while it runs; its own waitsync gates the units that need time.
const CHRONY: &str = "/run/chrony/chronyd.pid";

/// When something was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Unix milliseconds; `None` when the clock was never valid.
    pub(crate) t: Option<i64>,
    /// Milliseconds since boot.
    pub(crate) u: u64,
    /// 0 none, 1 last-known floor, 2 NTP.
    pub(crate) tq: u8,
}

/// Now.
pub(crate) fn stamp() -> Stamp {
    let t = SystemTime::now().duration_since(UNIX_EPOCH).ok().and_then(|since| i64::try_from(since.as_millis()).ok());
    let t = t.filter(|t| *t >= FLOOR_MS);
    let tq = match t {
        None => 0,
        Some(_) if Path::new(SYNCHRONISED).exists() || Path::new(CHRONY).exists() => 2,
        Some(_) => 1,
    };
    Stamp { t, u: uptime_ms(), tq }
}

/// Milliseconds since the machine booted.
pub(crate) fn uptime_ms() -> u64 {
    std::fs::read_to_string("/proc/uptime").ok().and_then(|text| parse_uptime(&text)).unwrap_or(0)
}

fn parse_uptime(text: &str) -> Option<u64> {
    let (seconds, hundredths) = text.split_whitespace().next()?.split_once('.')?;
    let seconds: u64 = seconds.parse().ok()?;
    let hundredths: u64 = hundredths.get(..2)?.parse().ok()?;
    Some(seconds * 1000 + hundredths * 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uptime_is_read_to_the_hundredth() {
        assert_eq!(parse_uptime("864.21 1710.03\n"), Some(864_210));
        assert_eq!(parse_uptime("x"), None);
    }
}
