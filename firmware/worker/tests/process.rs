//! The program itself, started in its jail as the node starts it.
#![expect(clippy::unwrap_used, reason = "a test may stop where it is")]

#[path = "../../../tests/src/media.rs"]
#[expect(dead_code, reason = "shared with tests that use other parts of it")]
#[expect(unreachable_pub, reason = "a library's module, taken in by path")]
mod media;

use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use livepeer::profile::preset;
use sandbox::jail::{JailPlan, ProcessLimits};
use sandbox::launch::{LaunchPlan, LogTo, RunError, Worker, launch};
use sandbox::memfd::Sealed;
use sandbox::message::{Job, JobError, Limits};

const PATIENCE: Duration = Duration::from_secs(60);

fn start(registry: &Path) -> Worker {
    let program = env!("CARGO_BIN_EXE_millrace-worker");
    let scanned = Command::new(program).arg("--scan").env("GST_REGISTRY", registry).status().unwrap();
    assert!(scanned.success() && registry.is_file());
    let mut plan =
        LaunchPlan::software(program, JailPlan::software(ProcessLimits::default()), Some(registry.to_owned()));
    plan.log = LogTo::Inherit;
    launch(&plan).unwrap()
}

fn job() -> Job {
    let limits = Limits { deadline_ms: 60_000, ..Limits::default() };
    let profiles = ["240p", "360p"].map(|name| preset(name).unwrap()).to_vec();
    Job {
        id: 3,
        profiles,
        clip: None,
        limits,
        threads: 2,
        service_provider: String::new(),
        signatures: Default::default(),
        video_seen: false,
    }
}

#[test]
fn a_jailed_worker_proves_itself_and_does_jobs_one_after_the_other() {
    let dir = tempfile::tempdir().unwrap();
    let mut worker = start(&dir.path().join("registry"));
    let ready = worker.wait_ready(PATIENCE).unwrap();
    assert_eq!(ready.engine, "software");
    assert!(ready.proved.contains(&"encode-h264".to_owned()), "{ready:?}");
    let clip = Sealed::from_bytes(&std::fs::read(media::bunny()).unwrap()).unwrap();
    let noise = Sealed::from_bytes(&[7; 5000]).unwrap();
    for _ in 0..2 {
        let (done, files) = worker.run(&job(), clip.as_fd(), PATIENCE).unwrap();
        assert_eq!(done.decoded_frames, 120);
        assert_eq!(files.len(), 2);
        for (file, rendition) in files.iter().zip(&done.renditions) {
            assert_eq!((file.len(), rendition.frames), (rendition.bytes, 120));
        }
        // A bad segment costs itself and nothing else.
        let refused = worker.run(&job(), noise.as_fd(), PATIENCE);
        assert!(matches!(refused, Err(RunError::Job { error: JobError::UnknownContainer, .. })));
    }
}

#[test]
fn a_worker_started_by_hand_says_what_is_wrong() {
    let output = Command::new(env!("CARGO_BIN_EXE_millrace-worker")).output().unwrap();
    assert_eq!(output.status.code(), Some(69));
    assert!(String::from_utf8_lossy(&output.stderr).contains("not by hand"));
}
