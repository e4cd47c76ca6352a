use millrace_hal::encoders::{SimEncoders, detect};
use millrace_hal::{SimClock, snapshot};
use sandbox::jail::{JailPlan, ProcessLimits};

use super::*;

fn hardware(machine: &str) -> Hardware {
    let trees = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/hal");
    let dir = tempfile::tempdir().unwrap();
    snapshot::unpack(&fs::read_to_string(trees.join(format!("{machine}.tree"))).unwrap(), dir.path()).unwrap();
    detect(dir.path())
}

/// A worker that is not there: every proof fails.
fn engines(machine: &str, dir: &Path, clock: &SimClock) -> Engines {
    let jail = JailPlan::software(ProcessLimits::default());
    Engines::new(Parts {
        order: Engine::ALL.to_vec(),
        hardware: Box::new(SimEncoders(hardware(machine))),
        clock: Arc::new(clock.clone()),
        state_dir: Some(dir.to_owned()),
        launch: LaunchPlan::software("/nowhere/millrace-worker", jail, None),
    })
}

fn states(engines: &Engines) -> Vec<(String, String)> {
    engines.status().into_iter().map(|status| (status.name, status.state)).collect()
}

fn pairs(told: &[(&str, &str)]) -> Vec<(String, String)> {
    told.iter().map(|(name, state)| ((*name).to_owned(), (*state).to_owned())).collect()
}

#[test]
fn an_engine_that_does_not_prove_itself_is_left_alone_across_restarts_and_software_used() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), SimClock::at(0));
    let engines_now = engines("orin-nx", dir.path(), &clock);
    assert!(engines_now.look(), "a box never seen before");
    assert_eq!(&*engines_now.select().engine, "software");
    let told = pairs(&[
        ("jetson", "quarantined"),
        ("jetson+software", "quarantined"),
        ("software", "in use"),
        ("nvidia", "refused"),
        ("va", "refused"),
        ("qsv", "refused"),
        ("v4l2", "refused"),
    ]);
    assert_eq!(states(&engines_now), told);
    let status = engines_now.status();
    assert!(status[0].reason.as_ref().unwrap().contains("millrace-worker"), "{status:?}");
    assert_eq!((status[0].since, status[0].until), (Some(0), Some(600)));
    // After a restart nothing is tried again before its time.
    clock.advance(Duration::from_secs(599));
    let again = engines("orin-nx", dir.path(), &clock);
    assert!(!again.look());
    assert_eq!(&*again.select().engine, "software");
    assert_eq!(states(&again), told);
    assert_eq!(again.retry_in(), Some(Duration::from_secs(1)));
    clock.advance(Duration::from_secs(1));
    assert_eq!(&*again.select().engine, "software");
    assert_eq!(again.status()[0].until, Some(600 + 2400), "it was tried, and failed again");
    // Another box knows nothing of it.
    let other = engines("agx-orin", dir.path(), &clock);
    assert!(other.look());
    assert_eq!(states(&other)[0].1, "unproved");
}

#[test]
fn a_proved_engine_is_started_with_its_nodes_alone_and_given_up_when_its_workers_do_not_start() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), SimClock::at(0));
    let engines = engines("rtx-4090", dir.path(), &clock);
    engines.look();
    let proof = |engine: &str| Proof {
        engine: engine.to_owned(),
        framework: "GStreamer 1.22.0".to_owned(),
        proved: vec!["encode-h264".to_owned()],
        refused: Vec::new(),
        sessions: Some(5),
    };
    for name in ["nvidia", "va"] {
        engines.known().book.proved(name, proof(name), 0);
    }
    let nvidia = engines.select();
    assert_eq!(nvidia.launch.args, ["--engine", "nvidia"]);
    let nodes: Vec<&Path> = nvidia.launch.jail.devices.iter().map(|grant| grant.path.as_path()).collect();
    let wanted = ["/dev/nvidia-modeset", "/dev/nvidia-uvm", "/dev/nvidia0", "/dev/nvidiactl"].map(Path::new);
    assert_eq!(nodes, wanted);
    assert_eq!((engines.status()[0].sessions, nvidia.most), (Some(5), 1), "three free sessions, one ladder");
    assert!(!engines.framework("GStreamer 1.22.0"));
    assert!(engines.trouble("nvidia", "it vanished"));
    let va = engines.stopgap();
    assert_eq!(&*va.engine, "va");
    let nodes: Vec<&Path> = va.launch.jail.devices.iter().map(|grant| grant.path.as_path()).collect();
    assert_eq!(nodes, [Path::new("/dev/dri/renderD128")]);
    assert!(engines.failed("va", "no"));
    let software = engines.stopgap();
    assert_eq!(&*software.engine, "software");
    assert!(software.launch.jail.devices.is_empty() && software.launch.args.is_empty());
    assert!(!engines.failed("software", "no"), "the last resort is never given up");
}

#[test]
fn a_book_that_makes_no_sense_costs_proofs_and_nothing_else() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), SimClock::at(0));
    fs::write(dir.path().join(BOOK), "{\"basis\": 3").unwrap();
    let engines = engines("h100", dir.path(), &clock);
    assert!(engines.look());
    assert_eq!(states(&engines)[..2], pairs(&[("nvidia+software", "unproved"), ("software", "ready")]));
}

#[test]
fn sessions_are_counted_in_ladders_with_two_to_spare() {
    let workers = [1, 2, 6, 8, 10, 18, 31].map(workers_for);
    assert_eq!(workers, [1, 1, 1, 1, 2, 4, 7]);
    assert_eq!(workers_for(32), usize::MAX);
}

#[test]
fn a_node_that_stops_proves_nothing_more() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), SimClock::at(0));
    let engines = engines("orin-nx", dir.path(), &clock);
    engines.look();
    engines.stop();
    assert_eq!(&*engines.select().engine, "software");
    assert_eq!(states(&engines)[0], ("jetson".to_owned(), "unproved".to_owned()));
}
