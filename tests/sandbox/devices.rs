//! Device nodes: an engine's own, and no others. Where there is no graphics card, a node that every system has plays it.
use std::path::{Path, PathBuf};

use millrace_tests::bins::bin;
use sandbox::jail::{JailPlan, ProcessLimits};
use sandbox::launch::{LaunchPlan, launch, make_registry};

use crate::probe::{PATIENCE, plan, start};

/// A device that no worker needs and every system has.
const STAND_IN: &str = "/dev/full";
const CARDS: [&str; 4] = ["/dev/nvidia0", "/dev/nvidiactl", "/dev/dri/renderD128", "/dev/video0"];

#[test]
fn a_software_worker_reaches_no_device_of_any_engine() {
    let mut probe = start(&plan(ProcessLimits::default(), &["--jail-only"]));
    for node in CARDS.into_iter().chain([STAND_IN]) {
        probe.is_refused(&format!("write {node}"));
        probe.is_refused(&format!("read {node}"));
    }
    probe.is_refused("list /dev/dri");
}

#[test]
fn a_worker_of_an_engine_reaches_the_engines_nodes_and_no_others() {
    let with_engine = plan(ProcessLimits::default(), &["--jail-only"]).with_engine("va", &[STAND_IN.into()]);
    let mut probe = start(&with_engine);
    let told = probe.told(&format!("write {STAND_IN}"));
    assert!(told.starts_with("SUCCEEDED"), "{told}");
    for node in CARDS.into_iter().chain(["/dev/zero", "/dev/tty", "/dev/kmsg"]) {
        probe.is_refused(&format!("write {node}"));
    }
}

#[test]
fn the_plan_of_an_engine_lists_exactly_its_nodes_and_what_its_drivers_read() {
    let software = JailPlan::software(ProcessLimits::default());
    assert!(software.devices.is_empty());
    let nodes: Vec<PathBuf> = ["/dev/nvidia0", "/dev/nvidiactl", "/dev/nvidia-uvm"].map(PathBuf::from).to_vec();
    let nvidia = software.clone().with_engine("nvidia+software", &nodes);
    let opened: Vec<&Path> = nvidia.devices.iter().map(|grant| grant.path.as_path()).collect();
    assert_eq!(opened, ["/dev/nvidia0", "/dev/nvidiactl", "/dev/nvidia-uvm"].map(Path::new));
    let more: Vec<&Path> = nvidia.read[software.read.len()..].iter().map(|grant| grant.path.as_path()).collect();
    assert!(more.contains(&Path::new("/proc/driver/nvidia")), "{more:?}");
    assert!(
        !more.iter().any(|path| path.starts_with("/dev") || *path == Path::new("/sys") || *path == Path::new("/proc"))
    );
    assert!(nvidia.devices.iter().chain(&nvidia.read).all(|grant| !grant.reason.is_empty()));
    assert_eq!(software.clone().with_engine("software", &[]), software);
}

/// The real worker, to be thrown away after the proof of an engine.
fn to_prove(engine: &str, nodes: &[PathBuf], dir: &tempfile::TempDir) -> LaunchPlan {
    let registry = dir.path().join("registry.bin");
    make_registry(&bin("millrace-worker"), &registry, PATIENCE).unwrap();
    let jail = JailPlan::software(ProcessLimits::default());
    let mut plan = LaunchPlan::software(bin("millrace-worker"), jail, Some(registry)).with_engine(engine, nodes);
    plan.args.push("--prove".into());
    plan
}

#[test]
fn an_engine_is_proved_under_the_lock_in_a_worker_that_is_thrown_away() {
    let dir = tempfile::tempdir().unwrap();
    let mut worker = launch(&to_prove("software", &[], &dir)).unwrap();
    let proof = worker.wait_proof(PATIENCE).unwrap();
    println!("{} proved {}", proof.engine, proof.proved.join(" "));
    assert_eq!((proof.engine.as_str(), proof.sessions), ("software", None));
    assert!(proof.proved.contains(&"encode-h264".to_owned()), "{proof:?}");
}

#[test]
fn an_engine_whose_silicon_is_not_here_is_refused_in_words() {
    let dir = tempfile::tempdir().unwrap();
    for (engine, node) in [("nvidia+software", "/dev/nvidia0"), ("va", "/dev/dri/renderD128")] {
        if Path::new(node).exists() {
            println!("{node} is here: {engine} is not looked at");
            continue;
        }
        let mut worker = launch(&to_prove(engine, &[node.into()], &dir)).unwrap();
        let refused = worker.wait_proof(PATIENCE).unwrap_err().to_string();
        assert!(refused.contains("is missing: install the package gstreamer1.0-plugins-bad"), "{engine}: {refused}");
    }
}
