//! How the board feels: heat, power, load, memory, disks, networks.
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nix::sys::statvfs::statvfs;
use serde::{Deserialize, Serialize};

use crate::read::Root;
use crate::units::{Amperes, Bytes, Celsius, Percent, Volts, Watts};

mod chips;
mod frequency;
mod parse;
mod pressure;
mod rapl;
mod throttle;
mod zones;

pub use chips::Fan;
pub(crate) use chips::{temperature, watts};
pub use frequency::Frequency;
pub use pressure::{Pressure, Stall};
pub use throttle::{Cooling, Throttle};

/// Takes the board's readings. Reads files; not to be called from an async task's own thread.
pub trait Sensors: Send + Sync + 'static {
    /// All readings now. What cannot be read is missing, not zero.
    fn read(&self) -> Readings;
}

/// One round of readings.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Readings {
    /// Temperatures by sensor name.
    pub temperatures: BTreeMap<String, Celsius>,
    /// Temperatures at which the system or the device shuts down, by the same names.
    pub critical: BTreeMap<String, Celsius>,
    /// Power drawn, by rail name. Rails may contain each other: see [`Readings::drawn`].
    pub power: BTreeMap<String, Watts>,
    /// Voltages, by input name.
    pub voltages: BTreeMap<String, Volts>,
    /// Currents, by rail name.
    pub currents: BTreeMap<String, Amperes>,
    /// Fans, by name.
    pub fans: BTreeMap<String, Fan>,
    /// What holds the processors back.
    pub throttle: Throttle,
    /// Clocks of the processors, by policy: those that change together.
    pub frequencies: BTreeMap<String, Frequency>,
    /// Time that tasks lost waiting for what was scarce.
    pub pressure: Pressure,
    /// Processes that wanted to run, on average over 1, 5 and 15 minutes.
    pub load: Option<[f32; 3]>,
    /// Share of all processors in use since the reading before; `None` the first time.
    pub cpu: Option<Percent>,
    /// Memory.
    pub memory: Option<Memory>,
    /// Time since the system started.
    pub uptime: Option<Duration>,
    /// Disks, by the path asked for.
    pub disks: BTreeMap<PathBuf, Disk>,
    /// Traffic since the system started, by interface; without the loopback.
    pub networks: BTreeMap<String, Traffic>,
}

impl Readings {
    /// The hottest sensor and its temperature.
    #[must_use]
    pub fn hottest(&self) -> Option<(&str, Celsius)> {
        let hottest = self.temperatures.iter().max_by(|a, b| a.1.0.total_cmp(&b.1.0));
        hottest.map(|(name, celsius)| (name.as_str(), *celsius))
    }

    /// Power drawn by all that is measured, nothing counted twice: a chip that measures the board's input counts
    /// with that alone, any other with the sum of its rails. `None` when nothing is measured.
    #[must_use]
    pub fn drawn(&self) -> Option<Watts> {
        // One rail feeds all others on Jetson modules of the small kind and on their forebears.
        const INPUTS: [&str; 4] = ["VDD_IN", "POM_5V_IN", "5V_IN", "VIN"];
        let chip = |name: &str| name.split('/').next().unwrap_or_default().to_owned();
        let is_input = |name: &str| name.split('/').nth(1).is_some_and(|rail| INPUTS.contains(&rail));
        let fed: Vec<String> = self.power.keys().filter(|name| is_input(name)).map(|name| chip(name)).collect();
        let counted = self.power.iter().filter(|(name, _)| is_input(name) || !fed.contains(&chip(name)));
        let sum: f32 = counted.map(|(_, watts)| watts.0).sum();
        (!self.power.is_empty()).then_some(Watts(sum))
    }
}

/// Memory of the system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Memory {
    /// All of it.
    pub total: Bytes,
    /// What programs could still get without swapping.
    pub available: Bytes,
    /// Swap in use.
    pub swap_used: Bytes,
}

/// One file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Disk {
    /// All of it but what is kept back for root.
    pub total: Bytes,
    /// What an ordinary user can still write.
    pub free: Bytes,
    /// Files that can still be made.
    pub free_files: u64,
}

impl Disk {
    /// Share in use of what an ordinary user may use, as `df` counts it.
    #[must_use]
    pub fn used(&self) -> Percent {
        let per_mille = self.free.0.saturating_mul(1000).checked_div(self.total.0).unwrap_or(0).min(1000);
        Percent(f32::from(1000 - u16::try_from(per_mille).unwrap_or(1000)) / 10.0)
    }
}

/// Bytes through one interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Traffic {
    /// Received.
    pub received: Bytes,
    /// Sent.
    pub sent: Bytes,
}

/// The system's sensors, below a root directory.
#[derive(Debug)]
pub struct LinuxSensors {
    root: Root,
    disks: Vec<PathBuf>,
    /// Counters at the reading before.
    before: Mutex<Before>,
}

#[derive(Debug, Default)]
struct Before {
    cpu: Option<parse::CpuTime>,
    energy: Option<rapl::Energy>,
}

impl LinuxSensors {
    /// Reads below `root` (`/` on a real system), and the file systems that hold `disks`.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>, disks: Vec<PathBuf>) -> Self {
        Self::within(Root::new(root), disks)
    }

    pub(crate) fn within(root: Root, disks: Vec<PathBuf>) -> Self {
        Self { root, disks, before: Mutex::default() }
    }

    fn cpu(&self, stat: Option<&str>) -> Option<Percent> {
        let now = parse::cpu_time(stat?)?;
        let before = self.before.lock().unwrap_or_else(PoisonError::into_inner).cpu.replace(now)?;
        now.busy_since(before)
    }

    /// Power of the processors' packages from their energy counters; nothing the first time.
    fn packages(&self, uptime: Option<Duration>) -> BTreeMap<String, Watts> {
        let Some(now) = uptime.map(|uptime| rapl::Energy::read(&self.root, uptime)) else { return BTreeMap::new() };
        let before = self.before.lock().unwrap_or_else(PoisonError::into_inner).energy.replace(now.clone());
        before.map(|before| now.power_since(&before)).unwrap_or_default()
    }

    fn disks(&self) -> BTreeMap<PathBuf, Disk> {
        let disk = |path: &PathBuf| Some((path.clone(), disk(&self.root.below(path))?));
        self.disks.iter().filter_map(disk).collect()
    }
}

impl Sensors for LinuxSensors {
    fn read(&self) -> Readings {
        let root = &self.root;
        let proc = |name: &str| root.text(Path::new("proc").join(name));
        let uptime = proc("uptime").and_then(|text| parse::uptime(&text));
        let mut readings = Readings {
            load: proc("loadavg").and_then(|text| parse::load(&text)),
            cpu: self.cpu(proc("stat").as_deref()),
            memory: proc("meminfo").and_then(|text| parse::memory(&text)),
            uptime,
            disks: self.disks(),
            networks: proc("net/dev").map(|text| parse::networks(&text)).unwrap_or_default(),
            throttle: throttle::read(root),
            frequencies: frequency::read(root),
            pressure: pressure::read(root),
            ..Readings::default()
        };
        zones::read(root, &mut readings);
        chips::read(root, &mut readings);
        readings.power.extend(self.packages(uptime));
        readings
    }
}

fn disk(path: &Path) -> Option<Disk> {
    let stat = statvfs(path).ok()?;
    let bytes = |blocks: u64| Bytes(blocks.saturating_mul(stat.fragment_size()));
    let (used, free) = (stat.blocks().saturating_sub(stat.blocks_free()), stat.blocks_available());
    Some(Disk { total: bytes(used.saturating_add(free)), free: bytes(free), free_files: stat.files_available() })
}

/// A name that is not yet taken; a second sensor of the same name gets a number.
fn unused<T>(all: &BTreeMap<String, T>, name: String) -> String {
    let mut key = name.clone();
    let mut number = 2;
    while all.contains_key(&key) {
        key = format!("{name}#{number}");
        number += 1;
    }
    key
}

/// Sensors that read what they are told.
#[derive(Debug, Default)]
pub struct SimSensors(Mutex<Readings>);

impl SimSensors {
    /// Sensors with these readings.
    #[must_use]
    pub fn new(readings: Readings) -> Self {
        Self(Mutex::new(readings))
    }

    /// Changes the readings from now on.
    pub fn set(&self, readings: Readings) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = readings;
    }
}

impl Sensors for SimSensors {
    fn read(&self) -> Readings {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read::fixture;

    #[test]
    fn zones_and_chips_are_read_and_broken_ones_left_out() {
        let root = fixture(&[
            ("sys/class/thermal/thermal_zone0/type", "cpu-thermal\n"),
            ("sys/class/thermal/thermal_zone0/temp", "48500\n"),
            ("sys/class/thermal/thermal_zone1/type", "cpu-thermal\n"),
            ("sys/class/thermal/thermal_zone1/temp", "51000\n"),
            ("sys/class/thermal/thermal_zone2/type", "broken\n"),
            ("sys/class/thermal/thermal_zone2/temp", "-256000\n"),
            ("sys/class/thermal/cooling_device0/type", "fan\n"),
            ("sys/class/hwmon/hwmon0/name", "coretemp\n"),
            ("sys/class/hwmon/hwmon0/temp1_label", "Package id 0\n"),
            ("sys/class/hwmon/hwmon0/temp1_input", "60250\n"),
            ("sys/class/hwmon/hwmon1/name", "ina3221\n"),
            ("sys/class/hwmon/hwmon1/power1_label", "VDD_IN\n"),
            ("sys/class/hwmon/hwmon1/power1_input", "7250000\n"),
        ]);
        let readings = LinuxSensors::new(root.path(), Vec::new()).read();
        let names: Vec<&str> = readings.temperatures.keys().map(String::as_str).collect();
        assert_eq!(names, ["coretemp/Package id 0", "cpu-thermal", "cpu-thermal#2"]);
        assert_eq!(readings.hottest(), Some(("coretemp/Package id 0", Celsius(60.25))));
        assert_eq!(readings.power.get("ina3221/VDD_IN"), Some(&Watts(7.25)));
    }

    #[test]
    fn a_critical_temperature_that_firmware_made_up_is_left_out() {
        let root = fixture(&[
            ("sys/class/thermal/thermal_zone0/type", "a\n"),
            ("sys/class/thermal/thermal_zone0/temp", "40000\n"),
            ("sys/class/thermal/thermal_zone0/trip_point_0_type", "critical\n"),
            ("sys/class/thermal/thermal_zone0/trip_point_0_temp", "0\n"),
            ("sys/class/thermal/thermal_zone1/type", "b\n"),
            ("sys/class/thermal/thermal_zone1/temp", "40000\n"),
            ("sys/class/thermal/thermal_zone1/trip_point_0_type", "passive\n"),
            ("sys/class/thermal/thermal_zone1/trip_point_0_temp", "80000\n"),
            ("sys/class/thermal/thermal_zone1/trip_point_1_type", "critical\n"),
            ("sys/class/thermal/thermal_zone1/trip_point_1_temp", "105000\n"),
        ]);
        let critical = LinuxSensors::new(root.path(), Vec::new()).read().critical;
        assert_eq!(critical, BTreeMap::from([("b".to_owned(), Celsius(105.0))]));
    }

    #[test]
    fn processor_use_is_told_from_the_second_reading_on() {
        let root = fixture(&[("proc/stat", "cpu  100 0 100 800 0 0 0 0 0 0\n")]);
        let sensors = LinuxSensors::new(root.path(), Vec::new());
        assert_eq!(sensors.read().cpu, None);
        std::fs::write(root.path().join("proc/stat"), "cpu  150 0 125 825 0 0 0 0 0 0\n").unwrap();
        assert_eq!(sensors.read().cpu, Some(Percent(75.0)));
    }

    #[test]
    fn a_system_without_anything_reads_as_nothing() {
        assert_eq!(LinuxSensors::new(fixture(&[]).path(), Vec::new()).read(), Readings::default());
    }

    #[test]
    fn this_very_system_can_be_read() {
        let readings = LinuxSensors::new("/", vec![PathBuf::from("/")]).read();
        assert!(readings.memory.unwrap().total > Bytes(0));
        assert!(readings.uptime.unwrap() > Duration::ZERO);
        assert!(readings.disks.get(Path::new("/")).unwrap().total > Bytes(0));
    }

    #[test]
    fn a_disk_is_as_full_as_what_may_be_used_of_it() {
        let disk = Disk { total: Bytes(1000), free: Bytes(250), free_files: 1 };
        assert_eq!(disk.used(), Percent(75.0));
        assert_eq!(Disk::default().used(), Percent(100.0));
    }
}
