//! What holds the processors back: heat, power, an operator.
use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::read::Root;

/// What holds the processors back. Counters count from the system's start; what cannot be read is missing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Throttle {
    /// Times an x86 core was slowed down for heat, all cores together.
    pub core_events: Option<u64>,
    /// Times an x86 package was slowed down for heat, the worst package.
    pub package_events: Option<u64>,
    /// Time the worst package was slowed down, in milliseconds.
    pub package_ms: Option<u64>,
    /// Times a Jetson was slowed down because its input voltage sagged.
    pub under_voltage_events: Option<u64>,
    /// Times a Jetson was slowed down because it drew too much on average.
    pub over_current_events: Option<u64>,
    /// Times a Jetson was slowed down because it drew too much for a moment; ordinary under full load.
    pub peak_current_events: Option<u64>,
    /// A Raspberry Pi's input voltage is too low now.
    pub under_voltage: Option<bool>,
    /// A Raspberry Pi is slowed down now.
    pub slowed: Option<bool>,
    /// Devices that give up speed to stay cool, by name, with how far they went.
    pub cooling: BTreeMap<String, Cooling>,
}

/// How far a cooling device went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Cooling {
    /// Steps it went; 0 is full speed.
    pub step: u32,
    /// Steps it has.
    pub steps: u32,
}

impl Throttle {
    /// Is speed given up for heat right now, as far as what tells of the moment says?
    #[must_use]
    pub fn for_heat(&self) -> bool {
        self.slowed == Some(true) || self.cooling.values().any(|cooling| cooling.step > 0)
    }

    /// Times speed was given up for heat since the system started.
    #[must_use]
    pub fn heat_events(&self) -> u64 {
        self.core_events.unwrap_or(0).saturating_add(self.package_events.unwrap_or(0))
    }

    /// Times power was short since the system started.
    #[must_use]
    pub fn power_events(&self) -> u64 {
        self.under_voltage_events.unwrap_or(0).saturating_add(self.over_current_events.unwrap_or(0))
    }
}

pub(super) fn read(root: &Root) -> Throttle {
    let mut throttle = Throttle { cooling: cooling(root), ..Throttle::default() };
    x86(root, &mut throttle);
    jetson(root, &mut throttle);
    if let Some(flags) = root.text("sys/devices/platform/soc/soc:firmware/get_throttled").and_then(|text| flags(&text))
    {
        throttle.under_voltage = Some(flags & 1 != 0);
        throttle.slowed = Some(flags & 0b1110 != 0);
    }
    throttle
}

fn x86(root: &Root, throttle: &mut Throttle) {
    let cpus = Path::new("sys/devices/system/cpu");
    let is_cpu = |name: &String| {
        let number = name.strip_prefix("cpu").filter(|rest| !rest.is_empty());
        number.is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let greater = |a: Option<u64>, b: Option<u64>| a.max(b);
    for cpu in root.names(cpus).into_iter().filter(is_cpu) {
        let dir = cpus.join(cpu).join("thermal_throttle");
        let count = |file: &str| root.number::<u64>(dir.join(file));
        if let Some(events) = count("core_throttle_count") {
            throttle.core_events = Some(throttle.core_events.unwrap_or(0).saturating_add(events));
        }
        // Each core of a package tells the package's number.
        throttle.package_events = greater(throttle.package_events, count("package_throttle_count"));
        throttle.package_ms = greater(throttle.package_ms, count("package_throttle_total_time_ms"));
    }
}

/// *Source:* L4T's `soctherm_oc`: 1 is under-voltage, 2 the average current, 3 the current of the moment.
fn jetson(root: &Root, throttle: &mut Throttle) {
    let class = Path::new("sys/class/hwmon");
    let is_meter = |name: &String| root.text(class.join(name).join("name")).as_deref() == Some("soctherm_oc");
    let Some(chip) = root.names(class).into_iter().find(is_meter) else { return };
    let count = |number: u8| root.number(class.join(&chip).join(format!("oc{number}_event_cnt")));
    throttle.under_voltage_events = count(1);
    throttle.over_current_events = count(2);
    throttle.peak_current_events = count(3);
}

/// The Raspberry Pi's firmware writes hexadecimal digits, with or without `0x`.
fn flags(text: &str) -> Option<u32> {
    let text = text.trim();
    u32::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16).ok()
}

/// Those that slow processors down; fans and the like cool without cost.
fn cooling(root: &Root) -> BTreeMap<String, Cooling> {
    let class = Path::new("sys/class/thermal");
    let slows = |kind: &str| {
        let kind = kind.to_ascii_lowercase();
        // NVIDIA's alerts of other kinds (`hot-surface-alert`) only warn.
        kind.starts_with("cpufreq")
            || kind.starts_with("devfreq")
            || kind == "processor"
            || kind.ends_with("throttle-alert")
    };
    let mut all = BTreeMap::new();
    for name in root.names(class).into_iter().filter(|name| name.starts_with("cooling_device")) {
        let dir = class.join(&name);
        let Some(kind) = root.text(dir.join("type")).filter(|kind| slows(kind)) else { continue };
        let (Some(step), Some(steps)) = (root.number(dir.join("cur_state")), root.number(dir.join("max_state"))) else {
            continue;
        };
        let key = super::unused(&all, kind);
        all.insert(key, Cooling { step, steps });
    }
    all
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::read::fixture;

    #[test]
    fn packages_are_not_counted_once_for_each_core() {
        let root = fixture(&[
            ("sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count", "3\n"),
            ("sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count", "10\n"),
            ("sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count", "4\n"),
            ("sys/devices/system/cpu/cpu1/thermal_throttle/package_throttle_count", "10\n"),
            ("sys/devices/system/cpu/cpufreq/thermal_throttle/core_throttle_count", "99\n"),
        ]);
        let throttle = read(&Root::new(root.path()));
        assert_eq!((throttle.core_events, throttle.package_events, throttle.heat_events()), (Some(7), Some(10), 17));
        assert!(!throttle.for_heat());
    }

    #[test]
    fn a_pi_says_what_holds_it_back_now_and_not_what_once_did() {
        let root = |flags| fixture(&[("sys/devices/platform/soc/soc:firmware/get_throttled", flags)]);
        let throttle = |flags| read(&Root::new(root(flags).path()));
        assert_eq!((throttle("50005\n").under_voltage, throttle("50005\n").slowed), (Some(true), Some(true)));
        assert_eq!((throttle("50000\n").under_voltage, throttle("50000\n").slowed), (Some(false), Some(false)));
    }

    #[test]
    fn a_fan_that_turns_is_no_throttling_but_a_slowed_processor_is() {
        let files = [
            ("sys/class/thermal/cooling_device0/type", "pwm-fan\n"),
            ("sys/class/thermal/cooling_device0/cur_state", "3\n"),
            ("sys/class/thermal/cooling_device0/max_state", "3\n"),
            ("sys/class/thermal/cooling_device1/type", "cpufreq-cpu0\n"),
            ("sys/class/thermal/cooling_device1/cur_state", "0\n"),
            ("sys/class/thermal/cooling_device1/max_state", "5\n"),
        ];
        assert!(!read(&Root::new(fixture(&files).path())).for_heat());
        let mut slowed = files;
        slowed[4].1 = "2\n";
        assert!(read(&Root::new(fixture(&slowed).path())).for_heat());
    }

    proptest! {
        #[test]
        fn no_flags_are_too_strange(text in "(?s).{0,40}") {
            let _ = flags(&text);
        }
    }
}
