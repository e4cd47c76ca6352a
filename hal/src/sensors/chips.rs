//! Monitoring chips (`hwmon`): heat, rails, fans.
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Readings, parse, unused};
use crate::read::Root;
use crate::units::{Celsius, Percent, Watts};

/// One fan.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Fan {
    /// Turns per minute.
    pub rpm: Option<u32>,
    /// Turns per minute it was told to make.
    pub target: Option<u32>,
    /// Turns per minute it makes at most.
    pub most: Option<u32>,
    /// How hard it is driven.
    pub duty: Option<Percent>,
}

pub(super) fn read(root: &Root, readings: &mut Readings) {
    let class = Path::new("sys/class/hwmon");
    for entry in root.names(class) {
        let dir = class.join(&entry);
        let name = root.text(dir.join("name")).filter(|name| !name.is_empty()).unwrap_or(entry);
        let chip = Chip { root, files: root.names(&dir), dir, name };
        chip.temperatures(readings);
        chip.rails(readings);
        chip.fans(readings);
    }
    older_jetson_rails(root, readings);
}

struct Chip<'a> {
    root: &'a Root,
    dir: PathBuf,
    files: Vec<String>,
    name: String,
}

impl Chip<'_> {
    /// Inputs of a kind, as `temp1`.
    fn inputs(&self, kind: &str, suffix: &str) -> Vec<String> {
        let number = |file: &String| {
            let input = file.strip_suffix(suffix)?;
            let digits = input.strip_prefix(kind)?;
            (!digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| input.to_owned())
        };
        self.files.iter().filter_map(number).collect()
    }

    fn has(&self, file: &str) -> bool {
        self.files.iter().any(|name| name == file)
    }

    fn number<T: std::str::FromStr>(&self, file: &str) -> Option<T> {
        if self.has(file) { self.root.number(self.dir.join(file)) } else { None }
    }

    /// Chip and label, for a key.
    fn label(&self, input: &str) -> String {
        let file = format!("{input}_label");
        let label = if self.has(&file) { self.root.text(self.dir.join(file)) } else { None };
        format!("{}/{}", self.name, label.filter(|label| !label.is_empty()).unwrap_or_else(|| input.to_owned()))
    }

    fn temperatures(&self, readings: &mut Readings) {
        for input in self.inputs("temp", "_input") {
            let celsius = |suffix: &str| self.number(&format!("{input}{suffix}")).and_then(parse::millidegrees);
            let Some(now) = celsius("_input") else { continue };
            let name = unused(&readings.temperatures, self.label(&input));
            // Chips without an idea say 0 or something absurdly high.
            if let Some(critical) = celsius("_crit").filter(|critical| (30.0..150.0).contains(&critical.0)) {
                readings.critical.insert(name.clone(), critical);
            }
            readings.temperatures.insert(name, now);
        }
    }

    /// Power as the chip tells it, or as voltage and current of a rail give it.
    fn rails(&self, readings: &mut Readings) {
        let mut told = Vec::new();
        for suffix in ["_average", "_input"] {
            for input in self.inputs("power", suffix) {
                let number = input.trim_start_matches("power").to_owned();
                if told.contains(&number) {
                    continue;
                }
                if let Some(watts) = self.number(&format!("{input}{suffix}")).and_then(parse::microwatts) {
                    readings.power.insert(unused(&readings.power, self.label(&input)), watts);
                    told.push(number);
                }
            }
        }
        for input in self.inputs("in", "_input") {
            let Some(volts) = self.number(&format!("{input}_input")).and_then(parse::millivolts) else { continue };
            let number = input.trim_start_matches("in");
            let name = self.label(&input);
            // Channels that lead nowhere are called NC.
            if name.ends_with("/NC") {
                continue;
            }
            let current = format!("curr{number}");
            if let Some(amperes) = self.number(&format!("{current}_input")).and_then(parse::milliamperes) {
                readings.currents.insert(unused(&readings.currents, name.clone()), amperes);
                if self.name.starts_with("ina") && !told.iter().any(|told| told == number) {
                    readings.power.insert(unused(&readings.power, name.clone()), Watts(volts.0 * amperes.0));
                }
            }
            readings.voltages.insert(unused(&readings.voltages, name), volts);
        }
    }

    fn fans(&self, readings: &mut Readings) {
        let mut numbers: Vec<String> =
            self.inputs("fan", "_input").iter().map(|input| input.trim_start_matches("fan").to_owned()).collect();
        for driven in self.inputs("pwm", "") {
            let number = driven.trim_start_matches("pwm").to_owned();
            if !numbers.contains(&number) {
                numbers.push(number);
            }
        }
        // A Jetson's fan meter has a name of its own.
        if numbers.is_empty() && self.has("rpm") {
            let fan = Fan { rpm: self.number("rpm"), ..Fan::default() };
            readings.fans.insert(unused(&readings.fans, self.name.clone()), fan);
        }
        for number in numbers {
            let duty = self.number::<u8>(&format!("pwm{number}"));
            let fan = Fan {
                rpm: self.number(&format!("fan{number}_input")),
                target: self.number(&format!("fan{number}_target")),
                most: self.number(&format!("fan{number}_max")),
                duty: duty.map(|duty| Percent(f32::from(duty) / 2.55)),
            };
            if fan != Fan::default() {
                let name = self.label(&format!("fan{number}"));
                readings.fans.insert(unused(&readings.fans, name), fan);
            }
        }
    }
}

/// Rails as L4T 32 shows them: thousandths of a watt, with a name beside.
fn older_jetson_rails(root: &Root, readings: &mut Readings) {
    let driver = Path::new("sys/bus/i2c/drivers/ina3221x");
    for chip in root.names(driver) {
        for device in root.names(driver.join(&chip)).into_iter().filter(|name| name.starts_with("iio:device")) {
            let dir = driver.join(&chip).join(device);
            for channel in 0..3 {
                let Some(rail) = root.text(dir.join(format!("rail_name_{channel}"))) else { continue };
                let milliwatts: Option<i64> = root.number(dir.join(format!("in_power{channel}_input")));
                let watts = milliwatts.and_then(|value| parse::microwatts(value.checked_mul(1000)?));
                if let Some(watts) = watts {
                    readings.power.insert(unused(&readings.power, format!("ina3221/{rail}")), watts);
                }
            }
        }
    }
}

/// The hottest of a chip's inputs by label, for readers that look at one chip only.
pub(crate) fn temperature(root: &Root, dir: &Path, label: &str) -> Option<Celsius> {
    let files = root.names(dir);
    let chip = Chip { root, dir: dir.to_owned(), files, name: String::new() };
    let inputs = chip.inputs("temp", "_input");
    let input = inputs.iter().find(|input| chip.label(input) == format!("/{label}"))?;
    chip.number(&format!("{input}_input")).and_then(parse::millidegrees)
}

/// Power in a file of millionths of a watt.
pub(crate) fn watts(root: &Root, path: &Path) -> Option<Watts> {
    root.number(path).and_then(parse::microwatts)
}
