//! The texts of `/proc`, parsed: total, without side effects.
use std::collections::BTreeMap;
use std::time::Duration;

use super::{Memory, Traffic};
use crate::units::{Amperes, Bytes, Celsius, Percent, Volts, Watts};

/// Processor time since the start, in ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CpuTime {
    busy: u64,
    total: u64,
}

impl CpuTime {
    /// Share in use between an earlier reading and this one; `None` when no time has passed.
    pub(super) fn busy_since(self, before: Self) -> Option<Percent> {
        let total = self.total.checked_sub(before.total).filter(|ticks| *ticks > 0)?;
        let busy = self.busy.checked_sub(before.busy)?.min(total);
        let per_mille = u16::try_from(u128::from(busy) * 1000 / u128::from(total)).ok()?;
        Some(Percent(f32::from(per_mille) / 10.0))
    }
}

/// The first line of `/proc/stat`.
pub(super) fn cpu_time(stat: &str) -> Option<CpuTime> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    // user nice system idle iowait irq softirq steal; guest time is in user already.
    let ticks: Vec<u64> = line.split_whitespace().take(8).map_while(|field| field.parse().ok()).collect();
    let idle = ticks.get(3)?.saturating_add(ticks.get(4).copied().unwrap_or(0));
    let total = ticks.iter().fold(0u64, |sum, ticks| sum.saturating_add(*ticks));
    Some(CpuTime { busy: total.saturating_sub(idle), total })
}

/// `/proc/loadavg`.
pub(super) fn load(text: &str) -> Option<[f32; 3]> {
    let mut fields = text.split_whitespace().map(|field| field.parse().ok().filter(|load: &f32| load.is_finite()));
    Some([fields.next()??, fields.next()??, fields.next()??])
}

/// `/proc/meminfo`.
pub(super) fn memory(text: &str) -> Option<Memory> {
    let field = |name: &str| {
        let rest = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        rest.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
    };
    let swap_used = field("SwapTotal").unwrap_or(0).saturating_sub(field("SwapFree").unwrap_or(0));
    Some(Memory {
        total: Bytes(field("MemTotal")?),
        available: Bytes(field("MemAvailable")?),
        swap_used: Bytes(swap_used),
    })
}

/// `/proc/uptime`.
pub(super) fn uptime(text: &str) -> Option<Duration> {
    Duration::try_from_secs_f64(text.split_whitespace().next()?.parse().ok()?).ok()
}

/// `/proc/net/dev`, without the loopback.
pub(super) fn networks(text: &str) -> BTreeMap<String, Traffic> {
    let interface = |line: &str| {
        let (name, counters) = line.split_once(':')?;
        let mut fields = counters.split_whitespace().map(|field| field.parse::<u64>().ok());
        let (received, sent) = (fields.next()??, fields.nth(7)??);
        Some((name.trim().to_owned(), Traffic { received: Bytes(received), sent: Bytes(sent) }))
    };
    text.lines().filter_map(interface).filter(|(name, _)| name != "lo").collect()
}

/// Thousandths of a degree; `None` where no working sensor can be.
pub(super) fn millidegrees(value: i64) -> Option<Celsius> {
    let value = i32::try_from(value).ok().filter(|value| (-60_000..=200_000).contains(value))?;
    // Exact: below 2²⁴.
    #[expect(clippy::cast_precision_loss, reason = "at most 200000, which an f32 holds exactly")]
    let degrees = value as f32 / 1000.0;
    Some(Celsius(degrees))
}

/// Millionths of a watt; `None` where no board can be.
pub(super) fn microwatts(value: i64) -> Option<Watts> {
    let milliwatts = u32::try_from(value / 1000).ok().filter(|value| *value <= 10_000_000)?;
    #[expect(clippy::cast_precision_loss, reason = "at most 10000000, which an f32 holds exactly")]
    let watts = milliwatts as f32 / 1000.0;
    Some(Watts(watts))
}

/// Thousandths of a volt; `None` where no board can be.
pub(super) fn millivolts(value: i64) -> Option<Volts> {
    thousandths(value, -100_000..=1_000_000).map(Volts)
}

/// Thousandths of an ampere; `None` where no board can be.
pub(super) fn milliamperes(value: i64) -> Option<Amperes> {
    thousandths(value, -1_000_000..=1_000_000).map(Amperes)
}

fn thousandths(value: i64, sane: std::ops::RangeInclusive<i32>) -> Option<f32> {
    let value = i32::try_from(value).ok().filter(|value| sane.contains(value))?;
    #[expect(clippy::cast_precision_loss, reason = "at most a million, which an f32 holds exactly")]
    let value = value as f32;
    Some(value / 1000.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn real_texts_are_understood() {
        let meminfo = "MemTotal:        8009456 kB\nMemFree:          217936 kB\nMemAvailable:    5873816 kB\n\
                       SwapTotal:       1000 kB\nSwapFree:        400 kB\n";
        let memory = memory(meminfo).unwrap();
        assert_eq!((memory.total, memory.swap_used), (Bytes(8_009_456 * 1024), Bytes(600 * 1024)));
        assert_eq!(load("0.20 1.18 0.12 1/80 11206"), Some([0.20, 1.18, 0.12]));
        assert_eq!(uptime("350735.47 234388.90"), Some(Duration::from_millis(350_735_470)));
    }

    proptest! {
        #[test]
        fn no_text_is_too_strange(text in "(?s).{0,300}") {
            let _ = (cpu_time(&text), load(&text), memory(&text), uptime(&text), networks(&text));
        }

        #[test]
        fn traffic_comes_back_as_written(rows in proptest::collection::btree_map("[a-z]{3,8}[0-9]", any::<(u64, u64)>(), 0..5)) {
            let mut text = "Inter-|   Receive                |  Transmit\n face |bytes packets|bytes packets\n".to_owned();
            for (name, (received, sent)) in &rows {
                text += &format!("{name:>8}: {received} 1 2 3 4 5 6 7 {sent} 1 2 3 4 5 6 7\n");
            }
            text += "    lo: 9 1 2 3 4 5 6 7 9 1 2 3 4 5 6 7\n";
            let wanted = rows.into_iter().map(|(name, (received, sent))| {
                (name, Traffic { received: Bytes(received), sent: Bytes(sent) })
            }).collect();
            prop_assert_eq!(networks(&text), wanted);
        }

        #[test]
        fn processor_use_stays_within_its_bounds(before in any::<[u32; 8]>(), more in any::<[u32; 8]>()) {
            let line = |ticks: &[u64]| {
                let fields: Vec<String> = ticks.iter().map(u64::to_string).collect();
                format!("cpu  {}", fields.join(" "))
            };
            let first: Vec<u64> = before.iter().map(|ticks| u64::from(*ticks)).collect();
            let second: Vec<u64> = first.iter().zip(more).map(|(ticks, more)| ticks + u64::from(more)).collect();
            let (first, second) = (cpu_time(&line(&first)).unwrap(), cpu_time(&line(&second)).unwrap());
            if let Some(Percent(used)) = second.busy_since(first) {
                prop_assert!((0.0..=100.0).contains(&used));
            }
        }

        #[test]
        fn temperatures_are_kept_to_the_thousandth_or_refused(value in any::<i64>()) {
            match millidegrees(value) {
                Some(Celsius(degrees)) => prop_assert!((f64::from(degrees) * 1000.0 - value as f64).abs() < 0.1),
                None => prop_assert!(!(-60_000..=200_000).contains(&value)),
            }
        }
    }
}
