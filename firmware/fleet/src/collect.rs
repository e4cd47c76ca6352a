//! Walk 3, step 1: how the machine feels, from the board's sensors and the kernel. What cannot be read is absent, never
//! guessed.

use std::fs;
use std::path::{Path, PathBuf};

use millrace_hal::{LinuxSensors, Sensors as _};
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
}

impl Probe {
    /// Samples the board and the partition of `state_dir`.
    pub(crate) fn new(state_dir: &Path) -> Self {
        Self { sensors: LinuxSensors::new("/", vec![state_dir.to_owned()]), state_dir: state_dir.to_owned() }
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
            watts: readings.drawn().map(|watts| tenth(watts.0)),
            uptime_s: readings.uptime.map(|uptime| uptime.as_secs()),
            disk_percent: readings.disks.get(&self.state_dir).map(|disk| tenth(disk.used().0)),
            read_only: statvfs(&self.state_dir).ok().map(|disk| disk.flags().contains(FsFlags::ST_RDONLY)),
        }
    }
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
    fn this_machine_has_an_uptime_memory_and_a_disk() {
        let sample = Probe::new(Path::new("/tmp")).sample();
        assert!(sample.uptime_s.is_some() && sample.memory_percent.is_some() && sample.disk_percent.is_some());
    }
}
