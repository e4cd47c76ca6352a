//! Walk 3, step 1: how the machine feels, from the board's sensors and the kernel. What cannot be read is absent, never
//! guessed.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use fleet_protocol::registry::ARRAY_MAX;
use millrace_hal::sensors::Throttle;
use millrace_hal::{LinuxSensors, Readings, Sensors as _};
use nix::sys::statvfs::{FsFlags, statvfs};

/// One look at the machine.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Sample {
    /// Processor time busy since the sample before, percent.
    pub(crate) cpu_percent: Option<f64>,
    /// Load average of one minute.
    pub(crate) load1: Option<f64>,
    /// Memory in use, percent.
    pub(crate) memory_percent: Option<f64>,
    /// Share of time some task waited for memory, ten-second average, percent.
    pub(crate) memory_pressure: Option<f64>,
    /// The same for disk.
    pub(crate) io_pressure: Option<f64>,
    /// Processes the kernel killed for memory since boot.
    pub(crate) oom_kills: Option<u64>,
    /// Hottest sensor, degrees Celsius.
    pub(crate) celsius: Option<f64>,
    /// Hottest sensor of the board and its supplies, degrees Celsius.
    pub(crate) board_celsius: Option<f64>,
    /// Hottest sensor of the air around, degrees Celsius.
    pub(crate) inlet_celsius: Option<f64>,
    /// Fans, turns per minute, by name.
    pub(crate) fans: Vec<u32>,
    /// Input voltage, volts.
    pub(crate) input_volts: Option<f64>,
    /// What holds the processors back: 1 heat, 2 power, 4 low voltage.
    pub(crate) throttle: u8,
    /// Swap in use, percent of memory.
    pub(crate) swap_percent: Option<f64>,
    /// Power drawn by all that is measured, no rail counted twice, watts.
    pub(crate) watts: Option<f64>,
    /// Seconds since boot.
    pub(crate) uptime_s: Option<u64>,
    /// State partition in use, percent.
    pub(crate) disk_percent: Option<f64>,
    /// State partition mounted read-only.
    pub(crate) read_only: Option<bool>,
}

/// Takes samples of the machine and of the partition that holds the state.
#[derive(Debug)]
pub(crate) struct Probe {
    sensors: LinuxSensors,
    state_dir: PathBuf,
    /// Counters of the sample before: heat, power, low voltage.
    before: Mutex<Option<[u64; 3]>>,
}

impl Probe {
    /// Samples the board and the partition of `state_dir`.
    pub(crate) fn new(state_dir: &Path) -> Self {
        Self {
            sensors: LinuxSensors::new("/", vec![state_dir.to_owned()]),
            state_dir: state_dir.to_owned(),
            before: Mutex::default(),
        }
    }

    /// Look once. Reads files: not from an async task's own thread.
    pub(crate) fn sample(&self) -> Sample {
        let readings = self.sensors.read();
        Sample {
            cpu_percent: readings.cpu.map(|percent| tenth(percent.0)),
            load1: readings.load.map(|[one, ..]| tenth(one)),
            memory_percent: readings.memory.and_then(|memory| {
                let used = memory.total.0.saturating_sub(memory.available.0);
                (memory.total.0 > 0).then(|| share(used, memory.total.0))
            }),
            memory_pressure: pressure(&read("/proc/pressure/memory")),
            io_pressure: pressure(&read("/proc/pressure/io")),
            oom_kills: field(&read("/proc/vmstat"), "oom_kill"),
            celsius: readings.hottest().map(|(_, celsius)| tenth(celsius.0)),
            board_celsius: hottest_of(&readings, &["board", "vrm", "pch", "vddq"]),
            inlet_celsius: hottest_of(&readings, &["inlet", "ambient", "intake"]),
            fans: readings.fans.values().filter_map(|fan| fan.rpm).take(ARRAY_MAX).collect(),
            input_volts: input_volts(&readings),
            throttle: throttle_bits(&readings.throttle, &self.before),
            swap_percent: readings.memory.and_then(|memory| {
                (memory.total.0 > 0).then(|| share(memory.swap_used.0.min(memory.total.0), memory.total.0))
            }),
            watts: readings.drawn().map(|watts| tenth(watts.0)),
            uptime_s: readings.uptime.map(|uptime| uptime.as_secs()),
            disk_percent: readings.disks.get(&self.state_dir).map(|disk| tenth(disk.used().0)),
            read_only: statvfs(&self.state_dir).ok().map(|disk| disk.flags().contains(FsFlags::ST_RDONLY)),
        }
    }
}

/// The hottest sensor whose name has one of these words.
fn hottest_of(readings: &Readings, words: &[&str]) -> Option<f64> {
    let named = |name: &str| words.iter().any(|word| name.to_ascii_lowercase().contains(word));
    let celsius = readings.temperatures.iter().filter(|(name, _)| named(name)).map(|(_, celsius)| celsius.0);
    celsius.reduce(f32::max).map(tenth)
}

/// The board's own supply, where something measures it.
fn input_volts(readings: &Readings) -> Option<f64> {
    let input = |name: &str| ["VDD_IN", "VIN", "5V_IN", "in_12v", "+12V"].iter().any(|rail| name.ends_with(rail));
    readings.voltages.iter().find(|(name, _)| input(name)).map(|(_, volts)| tenth(volts.0))
}

/// What holds the processors back now, or has since the sample before.
fn throttle_bits(throttle: &Throttle, before: &Mutex<Option<[u64; 3]>>) -> u8 {
    let counters =
        [throttle.heat_events(), throttle.over_current_events.unwrap_or(0), throttle.under_voltage_events.unwrap_or(0)];
    let before = before.lock().unwrap_or_else(PoisonError::into_inner).replace(counters);
    let rose = |index: usize| {
        let of = |counters: [u64; 3]| counters.get(index).copied().unwrap_or(0);
        before.is_some_and(|before| of(counters) > of(before))
    };
    let heat = throttle.for_heat() || rose(0);
    let low_voltage = throttle.under_voltage == Some(true) || rose(2);
    u8::from(heat) | u8::from(rose(1)) << 1 | u8::from(low_voltage) << 2
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next()? == name).then(|| words.next()?.parse().ok()).flatten()
    })
}

fn pressure(text: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.starts_with("some "))?;
    line.split_whitespace().find_map(|word| word.strip_prefix("avg10="))?.parse().ok()
}

/// To one decimal: more is noise on the wire.
fn tenth(value: f32) -> f64 {
    (f64::from(value) * 10.0).round() / 10.0
}

/// `part` of `whole` in percent, one decimal.
fn share(part: u64, whole: u64) -> f64 {
    let permille = u128::from(part) * 1000 / u128::from(whole.max(1));
    f64::from(u32::try_from(permille).unwrap_or(u32::MAX)) / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_files_are_read_by_name() {
        assert_eq!(pressure("some avg10=1.25 avg60=0.00 avg300=0.00 total=1\nfull avg10=9"), Some(1.25));
        assert_eq!(field("pgfault 1\noom_kill 3\n", "oom_kill"), Some(3));
        assert_eq!((field("", "oom_kill"), pressure("")), (None, None));
    }

    #[test]
    fn what_holds_the_processors_back_is_told_while_it_does_and_once_after() {
        let before = Mutex::default();
        let bits = |change: &dyn Fn(&mut Throttle)| {
            let mut throttle = Throttle { core_events: Some(7), over_current_events: Some(1), ..Throttle::default() };
            change(&mut throttle);
            throttle_bits(&throttle, &before)
        };
        assert_eq!(bits(&|_| {}), 0, "what was before is not now");
        assert_eq!(bits(&|throttle| throttle.core_events = Some(8)), 1);
        assert_eq!(bits(&|throttle| (throttle.core_events, throttle.over_current_events) = (Some(8), Some(2))), 2);
        assert_eq!(bits(&|throttle| throttle.under_voltage = Some(true)), 4);
    }

    #[test]
    fn sensors_are_told_by_their_names() {
        use millrace_hal::{Celsius, Volts};
        let temperatures = [("ambient", 30.0), ("VRM MOS", 61.0), ("Tboard_tegra", 44.5), ("cpu-thermal", 70.0)];
        let readings = Readings {
            temperatures: temperatures.map(|(name, celsius)| (name.to_owned(), Celsius(celsius))).into(),
            voltages: [("ina3221/VDD_IN".to_owned(), Volts(19.0)), ("core".to_owned(), Volts(0.9))].into(),
            ..Readings::default()
        };
        assert_eq!(hottest_of(&readings, &["board", "vrm"]), Some(61.0));
        assert_eq!(hottest_of(&readings, &["inlet", "ambient"]), Some(30.0));
        assert_eq!(input_volts(&readings), Some(19.0));
    }

    #[test]
    fn this_machine_has_an_uptime_memory_and_a_disk() {
        let sample = Probe::new(Path::new("/tmp")).sample();
        assert!(sample.uptime_s.is_some() && sample.memory_percent.is_some() && sample.disk_percent.is_some());
    }
}
