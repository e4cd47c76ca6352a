//! Intel's, AMD's and Jetson's graphics, by the files of their drivers.
use std::path::{Path, PathBuf};

use super::{GpuReadings, ThrottleReason};
use crate::read::Root;
use crate::sensors;
use crate::units::{Bytes, Megahertz, Percent};

const BUS: &str = "sys/bus/pci/devices";

pub(super) fn read(root: &Root) -> Vec<GpuReadings> {
    let mut all: Vec<_> = root.names(BUS).into_iter().filter_map(|address| on_bus(root, address)).collect();
    all.extend(jetson(root));
    all
}

fn on_bus(root: &Root, address: String) -> Option<GpuReadings> {
    let dir = Path::new(BUS).join(&address);
    // Display controllers and processing accelerators.
    let class = root.text(dir.join("class"))?;
    if !class.starts_with("0x03") && !class.starts_with("0x12") {
        return None;
    }
    let readings = GpuReadings { address, ..GpuReadings::default() };
    match root.link_name(dir.join("driver"))?.as_str() {
        "amdgpu" => Some(amd(root, &dir, readings)),
        "i915" | "xe" => Some(intel(root, &dir, readings)),
        _ => None,
    }
}

/// *Source:* the kernel's documentation of `amdgpu`.
fn amd(root: &Root, dir: &Path, mut readings: GpuReadings) -> GpuReadings {
    readings.name = root.text(dir.join("product_name")).filter(|name| !name.is_empty());
    readings.busy = share(root, &dir.join("gpu_busy_percent"));
    // One engine does both, and counts as one.
    readings.encoder = share(root, &dir.join("vcn_busy_percent"));
    readings.decoder = readings.encoder;
    readings.memory_used = root.number(dir.join("mem_info_vram_used")).map(Bytes);
    readings.memory_total = root.number(dir.join("mem_info_vram_total")).map(Bytes);
    if let Some(chip) = chip(root, dir) {
        readings.temperature = sensors::temperature(root, &chip, "edge");
        readings.hotspot = sensors::temperature(root, &chip, "junction");
        readings.memory_temperature = sensors::temperature(root, &chip, "mem");
        let watts = |file: &str| sensors::watts(root, &chip.join(file));
        readings.power = watts("power1_average").or_else(|| watts("power1_input"));
        readings.power_limit = watts("power1_cap");
        readings.power_limit_default = watts("power1_cap_default");
        let clock =
            |file: &str| root.number::<u64>(chip.join(file)).and_then(|hertz| u32::try_from(hertz / 1_000_000).ok());
        readings.clock = clock("freq1_input").map(Megahertz);
        readings.memory_clock = clock("freq2_input").map(Megahertz);
    }
    readings
}

fn chip(root: &Root, dir: &Path) -> Option<PathBuf> {
    let hwmon = dir.join("hwmon");
    Some(hwmon.join(root.names(&hwmon).into_iter().next()?))
}

/// *Source:* the kernel's documentation of `i915` and `xe`.
fn intel(root: &Root, dir: &Path, mut readings: GpuReadings) -> GpuReadings {
    let card = root.names(dir.join("drm")).into_iter().find(|name| name.starts_with("card") && !name.contains('-'));
    let i915 = card.map(|card| dir.join("drm").join(card).join("gt/gt0"));
    let xe = dir.join("tile0/gt0/freq0");
    let clock = i915.as_ref().and_then(|gt| root.number(gt.join("rps_act_freq_mhz")));
    readings.clock = clock.or_else(|| root.number(xe.join("act_freq"))).map(Megahertz);
    let flagged = |reason: &str| {
        let older = i915.as_ref().map(|gt| gt.join(format!("throttle_reason_{reason}")));
        let newer = xe.join("throttle").join(format!("reason_{reason}"));
        older.into_iter().chain([newer]).any(|path| root.number::<u8>(path) == Some(1))
    };
    let reasons: [(ThrottleReason, &[&str]); 3] = [
        (ThrottleReason::PowerCap, &["pl1", "pl2", "pl4"]),
        (ThrottleReason::HardwareHeat, &["thermal", "prochot"]),
        (ThrottleReason::Hardware, &["ratl", "vr_thermalert", "vr_tdc"]),
    ];
    readings.throttle = reasons
        .into_iter()
        .filter(|(_, names)| names.iter().any(|name| flagged(name)))
        .map(|(reason, _)| reason)
        .collect();
    if let Some(chip) = chip(root, dir) {
        readings.temperature =
            sensors::temperature(root, &chip, "pkg").or_else(|| sensors::temperature(root, &chip, "temp1"));
        readings.memory_temperature = sensors::temperature(root, &chip, "vram");
        readings.power_limit = sensors::watts(root, &chip.join("power1_max"));
        readings.power_limit_default = sensors::watts(root, &chip.join("power1_rated_max"));
    }
    readings
}

/// A Jetson's graphics: a device of the kernel's frequency scaling, whose driver tells its load in thousandths.
fn jetson(root: &Root) -> Option<GpuReadings> {
    let class = Path::new("sys/class/devfreq");
    let ours = |name: &String| [".gpu", ".gv11b", ".ga10b", ".gp10b"].iter().any(|end| name.ends_with(end));
    let device = root.names(class).into_iter().find(ours)?;
    let dir = class.join(&device);
    let load = root.number::<u16>(dir.join("device/load")).filter(|load| *load <= 1000);
    let hertz = root.number::<u64>(dir.join("cur_freq"));
    Some(GpuReadings {
        address: device,
        busy: load.map(|load| Percent(f32::from(load) / 10.0)),
        clock: hertz.and_then(|hertz| u32::try_from(hertz / 1_000_000).ok()).map(Megahertz),
        ..GpuReadings::default()
    })
}

fn share(root: &Root, path: &Path) -> Option<Percent> {
    root.number::<u8>(path).filter(|value| *value <= 100).map(|value| Percent(f32::from(value)))
}
