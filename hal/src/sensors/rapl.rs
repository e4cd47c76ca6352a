//! Power of x86 packages from the energy they count (RAPL).
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use crate::read::Root;
use crate::units::Watts;

/// Energy counted at a time, by package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Energy {
    at: Duration,
    /// Millionths of a joule, and where the counter starts again.
    counters: BTreeMap<String, (u64, u64)>,
}

impl Energy {
    /// Reads what may be read; for others than root it may be nothing.
    pub(super) fn read(root: &Root, at: Duration) -> Self {
        let class = Path::new("sys/class/powercap");
        let counter = |zone: String| {
            let dir = class.join(&zone);
            let name = root.text(dir.join("name"))?;
            if !name.starts_with("package") {
                return None;
            }
            let range = root.number(dir.join("max_energy_range_uj"))?;
            Some((format!("rapl/{name}"), (root.number(dir.join("energy_uj"))?, range)))
        };
        // Zones of zones have a second colon; the packages contain them.
        let zones = root.names(class).into_iter().filter(|name| name.starts_with("intel-rapl:"));
        let zones = zones.filter(|name| name.matches(':').count() == 1);
        Self { at, counters: zones.filter_map(counter).collect() }
    }

    /// Average power since an earlier reading.
    pub(super) fn power_since(&self, before: &Self) -> BTreeMap<String, Watts> {
        let Some(passed) = self.at.checked_sub(before.at).filter(|passed| !passed.is_zero()) else {
            return BTreeMap::new();
        };
        let power = |(name, (now, range)): (&String, &(u64, u64))| {
            let (then, _) = before.counters.get(name)?;
            let used = now.checked_sub(*then).or_else(|| range.checked_sub(*then)?.checked_add(*now))?;
            let milliwatts = u128::from(used).checked_mul(1000)? / passed.as_micros().max(1);
            // More than a package can draw means that the counter was reset in between.
            let milliwatts = u32::try_from(milliwatts).ok().filter(|milliwatts| *milliwatts < 4_000_000)?;
            #[expect(clippy::cast_precision_loss, reason = "at most 4000000, which an f32 holds exactly")]
            let watts = milliwatts as f32 / 1000.0;
            Some((name.clone(), Watts(watts)))
        };
        self.counters.iter().filter_map(power).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn energy(seconds: u64, counter: u64) -> Energy {
        let counters = BTreeMap::from([("rapl/package-0".to_owned(), (counter, 262_143_328_850))]);
        Energy { at: Duration::from_secs(seconds), counters }
    }

    #[test]
    fn power_is_energy_by_time_also_when_the_counter_starts_again() {
        let watts = |before: &Energy, now: &Energy| now.power_since(before).get("rapl/package-0").copied();
        assert_eq!(watts(&energy(10, 1_000_000), &energy(12, 131_000_000)), Some(Watts(65.0)));
        assert_eq!(watts(&energy(10, 262_143_328_850), &energy(12, 130_000_000)), Some(Watts(65.0)));
        assert_eq!(watts(&energy(10, 5), &energy(10, 9)), None);
        assert_eq!(watts(&energy(10, 5), &energy(11, u64::MAX)), None);
    }

    proptest! {
        #[test]
        fn no_counters_are_too_strange(before in any::<(u16, u64, u64)>(), now in any::<(u16, u64, u64)>()) {
            let energy = |(at, counter, range): (u16, u64, u64)| Energy {
                at: Duration::from_secs(at.into()),
                counters: BTreeMap::from([("x".to_owned(), (counter, range))]),
            };
            for watts in energy(now).power_since(&energy(before)).values() {
                prop_assert!(watts.0.is_finite() && watts.0 >= 0.0);
            }
        }
    }
}
