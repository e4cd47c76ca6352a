//! A jailed worker of our own, for commands that need no node.
use std::path::{Path, PathBuf};
use std::time::Duration;

use millrace_hal::Choice;
use sandbox::jail::{JailPlan, ProcessLimits};
use sandbox::launch::{self, LaunchPlan, LogTo, RunError, Worker};
use sandbox::message::{Proof, Ready};
use sandbox::preset::Preset;

use crate::failure::{Code, Failure, Result};

/// How long a worker may take to prove itself; plugins may have to be scanned.
const READY: Duration = Duration::from_secs(60);
/// How long a scan of the plugins may take.
const SCAN: Duration = Duration::from_secs(60);

/// Finds the worker program: as told, beside this program, or in the path.
pub(crate) fn find(told: Option<&Path>) -> Result<PathBuf> {
    if let Some(path) = told {
        return Ok(path.to_owned());
    }
    let beside = std::env::current_exe().ok().and_then(|me| me.parent().map(Path::to_owned));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = beside.into_iter().chain(std::env::split_paths(&path));
    let found = places.map(|dir| dir.join("millrace-worker")).find(|program| program.is_file());
    found.ok_or_else(|| {
        Failure::new(Code::Unavailable, "millrace-worker is neither beside this program nor in PATH")
            .advise("install it, or say where it is: --worker PATH")
    })
}

/// How long the proof of an engine may take.
const PROOF: Duration = Duration::from_secs(60);

/// Has a worker that is thrown away prove an engine, in the jail that the node would put it in.
pub(crate) fn prove(program: &Path, choice: &Choice, verbose: bool) -> std::result::Result<Proof, String> {
    let jail = JailPlan::software(ProcessLimits::default());
    let plan = LaunchPlan::software(program, jail, registry(program)).with_delegated_cgroup();
    let mut plan = plan.with_engine(&choice.name(), &choice.nodes);
    plan.args.push("--prove".into());
    plan.log = if verbose { LogTo::Inherit } else { LogTo::Nowhere };
    let mut worker = launch::launch(&plan).map_err(|error| service::with_causes(&error))?;
    worker.wait_proof(PROOF).map_err(|error| service::with_causes(&error))
}

/// Starts a worker and waits until it is sealed in and has proved what it can do.
pub(crate) fn start(program: &Path, verbose: bool) -> Result<(Worker, Ready)> {
    start_with(program, verbose, Preset::default())
}

/// The same for a worker whose encoders aim at something else than usual.
pub(crate) fn start_with(program: &Path, verbose: bool, preset: Preset) -> Result<(Worker, Ready)> {
    let registry = registry(program);
    let jail = JailPlan::software(ProcessLimits::default());
    let mut plan = LaunchPlan::software(program, jail, registry).with_preset(preset).with_delegated_cgroup();
    plan.log = if verbose { LogTo::Inherit } else { LogTo::Nowhere };
    let mut worker = launch::launch(&plan).map_err(|error| {
        Failure::from_error(Code::Unavailable, &error).advise("is it the right program? --worker PATH names another")
    })?;
    let ready = worker.wait_ready(READY).map_err(|error| match error {
        RunError::Unfit(reason) => Failure::new(Code::Unavailable, format!("the worker cannot work here: {reason}")),
        error => Failure::new(Code::Unavailable, format!("the worker did not start: {}", service::with_causes(&error)))
            .advise("run the command again with --verbose to see what it says"),
    })?;
    Ok((worker, ready))
}

/// GStreamer's cache of plugins, made once per account. Without one a worker looks through all plugins itself.
fn registry(program: &Path) -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))?;
    let dir = cache.join("millrace");
    std::fs::create_dir_all(&dir).ok()?;
    let registry = dir.join("gstreamer-registry.bin");
    launch::make_registry(program, &registry, SCAN).ok()?;
    registry.is_file().then_some(registry)
}
