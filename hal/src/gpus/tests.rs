#[cfg(feature = "nvml")]
use std::{
    path::{Path, PathBuf},
    process::Command,
};

use super::*;
use crate::read::fixture;

/// Builds a library with NVML's functions that tells of two cards, one of them lost.
#[cfg(feature = "nvml")]
fn library(dir: &Path) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/hal/nvml.c");
    let library = dir.join("libnvidia-ml.so.1");
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status();
    assert!(built.expect("cc, which links this test too, runs").success());
    library
}

#[cfg(feature = "nvml")]
#[test]
fn cards_are_read_through_the_library_and_what_it_lacks_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let gpus = LinuxGpus::with_library(dir.path(), library(dir.path()));
    let all = gpus.read();
    let [card, lost] = all.as_slice() else { panic!("{all:?}") };
    assert_eq!((card.address.as_str(), card.name.as_deref()), ("0000:01:00.0", Some("NVIDIA Test 4090")));
    assert_eq!(
        (card.busy, card.encoder, card.decoder),
        (Some(Percent(37.0)), Some(Percent(81.0)), Some(Percent(12.0)))
    );
    assert_eq!((card.memory_used, card.memory_total), (Some(Bytes(3 << 30)), Some(Bytes(24 << 30))));
    assert_eq!((card.temperature, card.slowdown_at), (Some(Celsius(71.0)), Some(Celsius(95.0))));
    assert_eq!((card.power, card.power_limit), (Some(Watts(312.5)), Some(Watts(400.0))));
    assert_eq!(card.power_limit_default, Some(Watts(450.0)));
    assert_eq!(card.throttle, [ThrottleReason::PowerCap, ThrottleReason::HardwareHeat]);
    assert_eq!((card.ecc_corrected, card.ecc_uncorrected), (Some(7), Some(0)));
    assert_eq!((card.clock, card.memory_clock), (Some(Megahertz(2520)), Some(Megahertz(10501))));
    assert_eq!(card.encoder_sessions, Some(4));
    // This one has no fan, and its driver is too old for the temperature of the memory.
    assert_eq!((card.fan, card.memory_temperature), (None, None));
    assert_eq!(lost.address, "0000:c1:00.0");
    assert!(lost.fault.as_ref().unwrap().contains("fell off the bus"), "{lost:?}");
    assert_eq!(gpus.read(), all);
}

#[test]
fn no_library_is_no_card_and_no_error() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(LinuxGpus::with_library(dir.path(), "/nonexistent/libnvidia-ml.so.1").read(), []);
    let broken = dir.path().join("libnvidia-ml.so.1");
    std::fs::write(&broken, "no library").unwrap();
    assert_eq!(LinuxGpus::with_library(dir.path(), broken).read(), []);
}

#[test]
fn this_very_machine_can_be_asked() {
    for readings in LinuxGpus::new("/").read() {
        assert!(!readings.address.is_empty());
    }
}

#[test]
fn amds_cards_are_read_by_their_files() {
    let card = "sys/bus/pci/devices/0000:03:00.0";
    let files: Vec<(String, &str)> = [
        ("class", "0x030000\n"),
        ("driver", "-> ../../../bus/pci/drivers/amdgpu"),
        ("gpu_busy_percent", "42\n"),
        ("mem_info_vram_used", "1073741824\n"),
        ("mem_info_vram_total", "17163091968\n"),
        ("hwmon/hwmon4/temp1_input", "61000\n"),
        ("hwmon/hwmon4/temp1_label", "edge\n"),
        ("hwmon/hwmon4/temp2_input", "74000\n"),
        ("hwmon/hwmon4/temp2_label", "junction\n"),
        ("hwmon/hwmon4/power1_average", "187000000\n"),
        ("hwmon/hwmon4/power1_cap", "255000000\n"),
        ("hwmon/hwmon4/freq1_input", "2105000000\n"),
    ]
    .into_iter()
    .map(|(file, text)| (format!("{card}/{file}"), text))
    .collect();
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), *text)).collect();
    let all = LinuxGpus::new(fixture(&files).path()).read();
    let card = all.first().unwrap();
    assert_eq!(
        (card.busy, card.temperature, card.hotspot),
        (Some(Percent(42.0)), Some(Celsius(61.0)), Some(Celsius(74.0)))
    );
    assert_eq!(
        (card.power, card.power_limit, card.clock),
        (Some(Watts(187.0)), Some(Watts(255.0)), Some(Megahertz(2105)))
    );
}

#[test]
fn intels_graphics_say_what_holds_them_back() {
    let files = [
        ("sys/bus/pci/devices/0000:00:02.0/class", "0x030000\n"),
        ("sys/bus/pci/devices/0000:00:02.0/driver", "-> ../../bus/pci/drivers/i915"),
        ("sys/bus/pci/devices/0000:00:02.0/drm/card0/gt/gt0/rps_act_freq_mhz", "450\n"),
        ("sys/bus/pci/devices/0000:00:02.0/drm/card0/gt/gt0/throttle_reason_pl1", "1\n"),
        ("sys/bus/pci/devices/0000:00:02.0/drm/card0/gt/gt0/throttle_reason_thermal", "0\n"),
    ];
    let all = LinuxGpus::new(fixture(&files).path()).read();
    let graphics = all.first().unwrap();
    assert_eq!(
        (graphics.clock, graphics.throttle.as_slice()),
        (Some(Megahertz(450)), [ThrottleReason::PowerCap].as_slice())
    );
}

#[test]
fn simulated_cards_read_what_they_are_told() {
    let gpus = SimGpus::new(vec![GpuReadings { address: "a".to_owned(), ..GpuReadings::default() }]);
    assert_eq!(gpus.read().len(), 1);
    gpus.set(Vec::new());
    assert_eq!(gpus.read(), []);
}
