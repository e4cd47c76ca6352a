//! Workers as the product starts them.
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Result;
use livepeer::profile::Profile;
use millrace_tests::bins;
use nix::sys::time::TimeValLike;
use nix::time::clock_gettime;
use nix::unistd::Pid;
use sandbox::jail::{JailPlan, ProcessLimits};
use sandbox::launch::{LaunchPlan, Worker, launch, make_registry};
use sandbox::memfd::Sealed;
use sandbox::message::{Done, Job, Limits, Signatures};

use crate::contender::Cost;

const PATIENCE: Duration = Duration::from_secs(300);

/// Where workers come from.
#[derive(Debug)]
pub(crate) struct Yard {
    program: PathBuf,
    registry: PathBuf,
    pub(crate) cores: u32,
}

impl Yard {
    pub(crate) fn new(dir: &Path, cores: u32) -> Result<Self> {
        let (program, registry) = (bins::bin("millrace-worker"), dir.join("registry"));
        make_registry(&program, &registry, PATIENCE)?;
        Ok(Self { program, registry, cores })
    }

    /// A worker that is ready.
    pub(crate) fn start(&self, args: &[&str]) -> Result<Worker> {
        let jail = JailPlan::software(ProcessLimits::default());
        let mut plan = LaunchPlan::software(&self.program, jail, Some(self.registry.clone()));
        plan.args = args.iter().map(Into::into).collect();
        let mut worker = launch(&plan)?;
        worker.wait_ready(PATIENCE)?;
        Ok(worker)
    }
}

/// Has a worker do a segment, and writes its renditions down outside the measured time.
pub(crate) fn transcode(
    worker: &mut Worker,
    source: &Path,
    profiles: &[Profile],
    threads: u32,
    outputs: &[PathBuf],
) -> Result<(Cost, Done)> {
    let limits = Limits { deadline_ms: 250_000, ..Limits::default() };
    let job = Job {
        id: 1,
        profiles: profiles.to_vec(),
        clip: None,
        limits,
        threads,
        service_provider: String::new(),
        signatures: Signatures::None,
        video_seen: false,
    };
    let bytes = std::fs::read(source)?;
    let clock = nix::time::clock_getcpuclockid(Pid::from_raw(i32::try_from(worker.pid())?))?;
    let before = clock_gettime(clock)?;
    let started = Instant::now();
    let segment = Sealed::from_bytes(&bytes)?;
    let (done, files) = worker.run(&job, segment.as_fd(), PATIENCE)?;
    let wall = started.elapsed().as_secs_f64();
    let cpu = seconds(clock_gettime(clock)?.num_nanoseconds() - before.num_nanoseconds());
    for (file, path) in files.iter().zip(outputs) {
        std::fs::write(path, &*file.map()?)?;
    }
    Ok((Cost { wall, cpu }, done))
}

#[expect(clippy::cast_precision_loss, reason = "a bench's durations are far below 2^53 ns")]
pub(crate) fn seconds(nanos: i64) -> f64 {
    nanos as f64 / 1e9
}
