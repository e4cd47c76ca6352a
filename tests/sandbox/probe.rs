//! Starts the probe in the jail of a worker and asks it to try things.
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use livepeer::profile::preset;
use sandbox::jail::{JailPlan, ProcessLimits};
use sandbox::launch::{Ending, LaunchPlan, LogTo, RunError, Worker, launch};
use sandbox::memfd::Sealed;
use sandbox::message::{Done, Job, Limits, Ready};

/// Long enough for a machine that builds something else meanwhile.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The probe's program. A run as another user has a copy that this user can read.
pub(crate) fn program() -> PathBuf {
    std::env::var_os("MILLRACE_PROBE").map_or_else(|| env!("CARGO_BIN_EXE_sandbox-probe").into(), PathBuf::from)
}

/// How the probe is started.
pub(crate) fn plan(limits: ProcessLimits, args: &[&str]) -> LaunchPlan {
    let plan = LaunchPlan::software(program(), JailPlan::software(limits), None);
    LaunchPlan { args: args.iter().map(Into::into).collect(), log: LogTo::Inherit, ..plan }.with_delegated_cgroup()
}

/// A probe that is ready.
pub(crate) struct Probe {
    pub(crate) worker: Worker,
    pub(crate) ready: Ready,
}

/// With every lock closed, as a worker at work.
pub(crate) fn sealed() -> Probe {
    start(&plan(ProcessLimits::default(), &[]))
}

/// Without the last lock, so that the jail itself is tested.
pub(crate) fn jail_only() -> Probe {
    start(&plan(ProcessLimits::default(), &["--jail-only"]))
}

pub(crate) fn start(plan: &LaunchPlan) -> Probe {
    let mut worker = launch(plan).unwrap();
    let ready = worker.wait_ready(PATIENCE).unwrap();
    Probe { worker, ready }
}

pub(crate) fn job(behaviour: &str) -> Job {
    Job {
        id: 1,
        profiles: vec![preset("360p").unwrap()],
        clip: None,
        limits: Limits::default(),
        threads: 1,
        service_provider: behaviour.to_owned(),
        signatures: Default::default(),
        video_seen: false,
    }
}

impl Probe {
    pub(crate) fn run(&mut self, behaviour: &str) -> Result<(Done, Vec<Sealed>), RunError> {
        let media = Sealed::from_bytes(b"some media, eight bytes and more").unwrap();
        self.worker.run(&job(behaviour), media.as_fd(), PATIENCE)
    }

    /// What the probe tells of an attempt.
    pub(crate) fn told(&mut self, attempt: &str) -> String {
        match self.run(attempt) {
            Err(RunError::Job { detail, .. }) => detail,
            other => panic!("the probe did not live to tell about {attempt:?}: {other:?}"),
        }
    }

    /// The attempt is refused and the probe lives on.
    pub(crate) fn is_refused(&mut self, attempt: &str) {
        let told = self.told(attempt);
        assert!(told.starts_with("refused: "), "{attempt}: {told}; layers {:?}", self.ready.layers);
    }

    /// How the probe died of an attempt.
    pub(crate) fn dies_of(mut self, attempt: &str) -> Ending {
        match self.run(attempt) {
            Err(RunError::Died(ending)) => ending,
            other => panic!("the probe survived {attempt:?}: {other:?}"),
        }
    }

    pub(crate) fn has(&self, layer: &str) -> bool {
        self.ready.layers.iter().any(|active| active == layer)
    }

    /// Says which layers this machine does not have, so that a pass is never silent about it.
    pub(crate) fn print_missing(&self) {
        for (layer, reason) in &self.ready.missing_layers {
            println!("this machine lacks {layer}: {reason}");
        }
    }
}
