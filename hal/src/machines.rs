//! Every machine of `tests/hal`, as a whole: which board it is taken for, which engines are accepted, and why not.
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use tempfile::TempDir;

use crate::board::Board;
use crate::encoders::{Engine, Hardware, detect};
use crate::gpus::{Gpus as _, LinuxGpus};
use crate::power::PowerModes;
use crate::read::scratch;
use crate::sensors::{LinuxSensors, Readings, Sensors as _};
use crate::thermal::Thermal;
use crate::watchdog::{LastReset, LinuxWatchdog, Watchdog as _};
use crate::{Percent, Watts, snapshot};

fn machines() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/hal")
}

fn unpacked(name: &str) -> TempDir {
    let text = fs::read_to_string(machines().join(format!("{name}.tree"))).unwrap();
    let dir = scratch();
    snapshot::unpack(&text, dir.path()).unwrap_or_else(|error| panic!("{name}: {error}"));
    dir
}

fn hardware(name: &str) -> Hardware {
    detect(unpacked(name).path())
}

fn readings(name: &str) -> Readings {
    LinuxSensors::new(unpacked(name).path(), Vec::new()).read()
}

/// What is expected of a machine: its engines, best first, and for one that is refused a part of the reason.
struct Machine {
    name: &'static str,
    board: Board,
    encoders: &'static [Engine],
    decoders: &'static [Engine],
    refused: &'static [(Engine, &'static str)],
}

use Engine::{Jetson, Nvidia, Qsv, Software, V4l2, Va};

const MACHINES: [Machine; 16] = [
    Machine {
        name: "orin-nx",
        board: Board::JetsonOrinNx,
        encoders: &[Jetson, Software],
        decoders: &[Jetson, Software],
        refused: &[(Nvidia, "no NVIDIA card"), (V4l2, "not reached this way")],
    },
    Machine {
        name: "orin-nano",
        board: Board::JetsonOrinNano,
        encoders: &[Software],
        decoders: &[Jetson, Software],
        refused: &[(Jetson, "Jetson Orin Nano has no encoder: it can decode and scale, and the processor encode")],
    },
    Machine {
        name: "agx-orin",
        board: Board::JetsonAgxOrin,
        encoders: &[Jetson, Software],
        decoders: &[Jetson, Software],
        refused: &[],
    },
    Machine {
        name: "xavier-nx",
        board: Board::JetsonXavierNx,
        encoders: &[Jetson, Software],
        decoders: &[Jetson, Software],
        refused: &[],
    },
    Machine {
        name: "agx-xavier",
        board: Board::JetsonAgxXavier,
        encoders: &[Software],
        decoders: &[Software],
        refused: &[(Jetson, "L4T 32.7.4 is too old: update to JetPack 5 (L4T 35) or later")],
    },
    Machine {
        name: "thor",
        board: Board::JetsonThor,
        encoders: &[Jetson, Software],
        decoders: &[Jetson, Software],
        refused: &[(Nvidia, "no NVIDIA card")],
    },
    Machine {
        name: "rtx-4090",
        board: Board::X86,
        encoders: &[Nvidia, Va, Qsv, Software],
        decoders: &[Nvidia, Va, Qsv, Software],
        refused: &[(Jetson, "not a Jetson"), (V4l2, "no video devices")],
    },
    Machine {
        name: "a100",
        board: Board::X86,
        encoders: &[Software],
        decoders: &[Nvidia, Nvidia, Software],
        refused: &[(Nvidia, "NVIDIA A100-SXM4-40GB at 0000:07:00.0 has no encoder: it can decode")],
    },
    Machine {
        name: "h100",
        board: Board::X86,
        encoders: &[Software],
        decoders: &[Nvidia, Software],
        refused: &[(Nvidia, "NVIDIA H100 80GB HBM3 at 0000:1b:00.0 has no encoder: it can decode")],
    },
    Machine {
        name: "intel-n100",
        board: Board::X86,
        encoders: &[Va, Qsv, Software],
        decoders: &[Va, Qsv, Software],
        refused: &[(Nvidia, "no NVIDIA card")],
    },
    Machine {
        name: "arc-a380",
        board: Board::X86,
        encoders: &[Va, Qsv, Software],
        decoders: &[Va, Qsv, Software],
        refused: &[],
    },
    Machine {
        name: "radeon-rx6800",
        board: Board::X86,
        encoders: &[Va, Software],
        decoders: &[Va, Software],
        refused: &[(Qsv, "no Intel graphics")],
    },
    Machine {
        name: "raspberry-pi-4",
        board: Board::RaspberryPi4,
        encoders: &[V4l2, Software],
        decoders: &[V4l2, Software],
        refused: &[(Jetson, "not a Jetson"), (Va, "no Intel or AMD graphics")],
    },
    Machine {
        name: "raspberry-pi-5",
        board: Board::RaspberryPi5,
        encoders: &[Software],
        decoders: &[Software],
        refused: &[(V4l2, "Raspberry Pi 5 has no encoder")],
    },
    Machine {
        name: "bare-vm",
        board: Board::VirtualMachine,
        encoders: &[Software],
        decoders: &[Software],
        refused: &[(Va, "no Intel or AMD graphics"), (Nvidia, "no NVIDIA card")],
    },
    Machine {
        name: "build-vm",
        board: Board::VirtualMachine,
        encoders: &[Software],
        decoders: &[Software],
        refused: &[(Va, "no Intel or AMD graphics")],
    },
];

#[test]
fn every_machine_is_taken_for_what_it_is() {
    for machine in &MACHINES {
        let found = hardware(machine.name);
        let name = machine.name;
        assert_eq!(found.board, machine.board, "{name}");
        let encoders: Vec<_> = found.accepted().map(|candidate| candidate.engine).collect();
        assert_eq!(encoders, machine.encoders, "{name}: {:#?}", found.candidates);
        let decoders: Vec<_> = found.accepted_decoders().map(|candidate| candidate.engine).collect();
        assert_eq!(decoders, machine.decoders, "{name}: {:#?}", found.decoders);
        for (engine, part) in machine.refused {
            let mut refused = found.candidates.iter().filter(|candidate| candidate.engine == *engine);
            assert!(refused.any(|candidate| candidate.reason.contains(part)), "{name}: {:#?}", found.candidates);
        }
        for candidate in found.accepted().chain(found.accepted_decoders()) {
            let needs = candidate.engine != Software;
            assert_eq!(!candidate.nodes.is_empty(), needs, "{name}: {candidate:?}");
        }
    }
}

#[test]
fn no_machine_is_left_out() {
    let there: BTreeSet<String> = fs::read_dir(machines())
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.strip_suffix(".tree").map(str::to_owned))
        .collect();
    let tested: BTreeSet<String> = MACHINES.iter().map(|machine| machine.name.to_owned()).collect();
    assert_eq!(there, tested);
}

#[test]
fn each_machine_has_a_fingerprint_of_its_own_that_stays() {
    let mut seen = BTreeSet::new();
    for machine in &MACHINES {
        let print = hardware(machine.name).fingerprint();
        assert_eq!(print, hardware(machine.name).fingerprint(), "{}", machine.name);
        assert!(seen.insert(print.hash.clone()), "{} looks like another: {}", machine.name, print.text);
    }
}

#[test]
fn a_new_driver_changes_the_fingerprint_and_a_new_serial_number_does_not() {
    let dir = unpacked("rtx-4090");
    let before = detect(dir.path()).fingerprint();
    fs::write(dir.path().join("sys/class/dmi/id/product_serial"), "S1\n").unwrap();
    fs::write(dir.path().join("etc/machine-id"), "00112233445566778899aabbccddeeff\n").unwrap();
    assert_eq!(detect(dir.path()).fingerprint(), before);
    let version = dir.path().join("proc/driver/nvidia/version");
    let newer = fs::read_to_string(&version).unwrap().replace("550.163.01", "570.86.15");
    fs::write(&version, newer).unwrap();
    assert_ne!(detect(dir.path()).fingerprint().hash, before.hash);
}

#[test]
fn a_snapshot_of_a_machine_is_the_machine() {
    for machine in &MACHINES {
        let original = unpacked(machine.name);
        let copy = scratch();
        snapshot::unpack(&snapshot::take(original.path()), copy.path()).unwrap();
        assert_eq!(detect(copy.path()).fingerprint().text, detect(original.path()).fingerprint().text);
        let read = |dir: &Path| LinuxSensors::new(dir, Vec::new()).read();
        assert_eq!(read(copy.path()), read(original.path()), "{}", machine.name);
        assert_eq!(LinuxGpus::new(copy.path()).read(), LinuxGpus::new(original.path()).read(), "{}", machine.name);
        assert_eq!(PowerModes::read(copy.path()), PowerModes::read(original.path()), "{}", machine.name);
    }
}

#[test]
fn what_is_worth_proving_is_told_best_first_with_the_nodes_it_needs() {
    let told = |name: &str, order: &[Engine]| -> Vec<String> {
        hardware(name).choices(order).iter().map(|choice| choice.name()).collect()
    };
    assert_eq!(told("orin-nx", &Engine::ALL), ["jetson", "jetson+software", "software"]);
    assert_eq!(told("orin-nano", &Engine::ALL), ["jetson+software", "software"]);
    assert_eq!(told("a100", &Engine::ALL), ["nvidia+software", "software"]);
    let desktop = ["nvidia", "va", "qsv", "nvidia+software", "va+software", "qsv+software", "software"];
    assert_eq!(told("rtx-4090", &Engine::ALL), desktop);
    assert_eq!(told("rtx-4090", &[Qsv, Software, Nvidia])[..3], ["qsv", "nvidia", "qsv+software"]);
    assert_eq!(told("rtx-4090", &[]), ["software"]);
    assert_eq!(told("bare-vm", &Engine::ALL), ["software"]);
    let pi = hardware("raspberry-pi-4").choices(&Engine::ALL).remove(0);
    assert_eq!(pi.nodes, [PathBuf::from("/dev/video10"), PathBuf::from("/dev/video11")], "{pi:?}");
    let first = hardware("a100").choices(&Engine::ALL).remove(0);
    assert!(first.nodes.contains(&PathBuf::from("/dev/nvidia0")), "{first:?}");
    assert!(!first.nodes.contains(&PathBuf::from("/dev/nvidia1")), "one card's nodes only: {first:?}");
}

#[test]
fn versions_and_names_are_those_of_the_drivers() {
    let drivers = |name| hardware(name).drivers;
    assert_eq!(drivers("orin-nx").get("l4t").map(String::as_str), Some("36.4.3"));
    assert_eq!(drivers("h100").get("nvidia").map(String::as_str), Some("570.86.15"));
    assert_eq!(drivers("radeon-rx6800").get("amdgpu").map(String::as_str), Some("of kernel 6.12.48+deb13-amd64"));
    let nvenc = hardware("rtx-4090").accepted().next().unwrap().clone();
    assert_eq!(nvenc.reason, "NVIDIA GeForce RTX 4090 at 0000:01:00.0, driver 550.163.01");
    assert!(!nvenc.nodes.contains(&PathBuf::from("/dev/nvidia-uvm-tools")), "{:?}", nvenc.nodes);
    let second = hardware("a100").accepted_decoders().nth(1).unwrap().clone();
    assert!(second.nodes.contains(&PathBuf::from("/dev/nvidia1")), "{second:?}");
    assert!(!second.nodes.contains(&PathBuf::from("/dev/nvidia0")), "{second:?}");
}

#[test]
fn a_pis_encoder_of_still_pictures_is_not_taken_for_its_encoder() {
    let found = hardware("raspberry-pi-4");
    let nodes: Vec<_> = found.accepted().flat_map(|candidate| candidate.nodes.clone()).collect();
    assert_eq!(nodes, [PathBuf::from("/dev/video11")]);
    assert_eq!(found.render_nodes.first().unwrap().driver.as_deref(), Some("v3d"));
}

#[test]
fn rails_of_jetsons_are_measured_and_not_counted_twice() {
    let small = readings("orin-nx");
    let rounded = |readings: &Readings| readings.drawn().map(|watts| (watts.0 * 10.0).round() / 10.0);
    assert_eq!(rounded(&small), Some(12.7));
    assert!(small.power.contains_key("ina3221/VDD_SOC"));
    assert_eq!(rounded(&readings("agx-orin")), Some(11.0));
    assert_eq!(rounded(&readings("agx-xavier")), Some(3.2));
    assert_eq!(readings("bare-vm").drawn(), None);
    assert_eq!(readings("radeon-rx6800").drawn(), Some(Watts(9.0)));
}

#[test]
fn sleeping_and_broken_sensors_are_left_out_and_limits_kept() {
    let orin = readings("orin-nx");
    assert!(!orin.temperatures.contains_key("cv0-thermal"));
    assert!(!readings("agx-orin").temperatures.contains_key("CV0-therm"));
    assert_eq!(orin.critical.get("cpu-thermal").map(|celsius| celsius.0), Some(104.5));
    assert_eq!(orin.throttle.peak_current_events, Some(27_390));
    assert_eq!(orin.fans.get("pwm_tach").and_then(|fan| fan.rpm), Some(1843));
    let desktop = readings("rtx-4090");
    assert_eq!((desktop.throttle.core_events, desktop.throttle.package_events), (Some(8), Some(31)));
    let pi = readings("raspberry-pi-4").throttle;
    assert_eq!((pi.under_voltage, pi.slowed), (Some(false), Some(false)));
}

#[test]
fn power_modes_and_caps_are_told() {
    let modes = |name: &str| PowerModes::read(unpacked(name).path());
    assert_eq!(modes("orin-nx").jetson.unwrap().name(), Some("MAXN"));
    assert_eq!(modes("xavier-nx").jetson.unwrap().name(), Some("MODE_20W_6CORE"));
    let n100 = modes("intel-n100");
    assert_eq!((n100.caps.first().unwrap().limit, n100.profile.as_deref()), (Watts(15.0), Some("balanced")));
    assert!(readings("orin-nano").frequencies.values().all(crate::sensors::Frequency::is_capped));
}

#[test]
fn what_last_reset_a_board_is_told() {
    let state = |name: &str| LinuxWatchdog::new(unpacked(name).path()).state();
    assert_eq!(state("orin-nano").unwrap().last_reset, LastReset::Watchdog);
    assert_eq!(state("orin-nx").unwrap().last_reset, LastReset::Ordinary);
    assert_eq!(state("radeon-rx6800").unwrap().last_reset, LastReset::Watchdog);
    assert!(state("bare-vm").is_none());
}

#[test]
fn graphics_feel_what_their_drivers_say() {
    let gpus = |name: &str| LinuxGpus::new(unpacked(name).path()).read();
    let orin = gpus("orin-nx");
    assert_eq!(orin.first().unwrap().busy, Some(Percent(12.5)));
    let radeon = gpus("radeon-rx6800");
    assert_eq!(radeon.first().unwrap().power_limit, Some(Watts(255.0)));
}

#[test]
fn no_machine_at_rest_is_held_down() {
    for machine in &MACHINES {
        let dir = unpacked(machine.name);
        let sensors = LinuxSensors::new(dir.path(), Vec::new());
        let gpus = LinuxGpus::new(dir.path());
        let mut thermal = Thermal::default();
        for minute in 0..30 {
            let now = std::time::Duration::from_secs(minute * 60);
            let derate = thermal.step(&sensors.read(), &gpus.read(), now);
            assert_eq!(derate.percent, Percent(100.0), "{}: {:?}", machine.name, derate.reasons);
        }
    }
}

/// Every file below a directory.
fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    let mut all = Vec::new();
    for entry in entries {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            all.extend(files(&entry.path()));
        } else if kind.is_file() {
            all.push(entry.path());
        }
    }
    all.sort();
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_machine_gone_mad_is_read_without_harm(
        machine in 0..MACHINES.len(),
        texts in proptest::collection::vec(prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..200),
            any::<i64>().prop_map(|number| format!("{number}\n").into_bytes()),
            any::<u64>().prop_map(|number| format!("0x{number:x}\n").into_bytes()),
            any::<f64>().prop_map(|number| format!("{number} {number} {number}\n").into_bytes()),
        ], 1..40),
        spared in any::<u64>(),
    ) {
        let dir = unpacked(MACHINES[machine].name);
        for (number, file) in files(dir.path()).into_iter().enumerate() {
            // Some files stay as they are, so that what depends on them is reached.
            if spared >> (number % 64) & 1 == 0 {
                fs::write(file, &texts[number % texts.len()]).unwrap();
            }
        }
        let found = detect(dir.path());
        prop_assert!(found.accepted().any(|candidate| candidate.engine == Software));
        prop_assert!(found.fingerprint().text.len() < 64 * 1024);
        let sensors = LinuxSensors::new(dir.path(), Vec::new());
        let (first, second) = (sensors.read(), sensors.read());
        prop_assert!(first.temperatures.len() < 100 && first.power.values().all(|watts| watts.0.is_finite()));
        let gpus = LinuxGpus::new(dir.path()).read();
        let _ = (PowerModes::read(dir.path()), LinuxWatchdog::new(dir.path()).state());
        let percent = Thermal::default().step(&second, &gpus, std::time::Duration::from_secs(1)).percent.0;
        prop_assert!((0.0..=100.0).contains(&percent));
        let copy = scratch();
        snapshot::unpack(&snapshot::take(dir.path()), copy.path()).unwrap();
    }
}
