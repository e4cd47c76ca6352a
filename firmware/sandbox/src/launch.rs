//! The parent's half: a worker is started with nothing but its socket, and watched until it is gone.
//!
//! Walk 4, step 1. A worker gets descriptors 0 and 1 on `/dev/null`, 2 on the journal or a bounded pipe, 3
//! on its end of the channel, and no other; an environment of fixed names; its own control group where one
//! was delegated; and a death signal, so that it cannot outlive the node. Everything here blocks: the pool
//! calls it from threads made for that.
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::Signal;

use crate::channel::{Channel, ChannelError, WORKER_FD};
use crate::jail::{JailPlan, Layers};
use crate::memfd::{MemfdError, Sealed};
use crate::message::{Done, Job, JobError, Proof, Ready, Report};
use crate::preset::Preset;
use crate::report::{Lie, check_report};

mod cgroup;
mod log;
mod thread;

pub use cgroup::{Cgroup, CgroupError, CgroupRoot};

/// How long a worker that closed its channel may take to be gone before it is killed.
const LAST_BREATH: Duration = Duration::from_millis(500);
/// A worker that did nothing for so long hangs in a lock or a driver; early enough for a second try within the eight
/// seconds that a gateway waits at least.
const STALL: Duration = Duration::from_secs(3);
/// How often a worker at work is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// How much more private memory than resident memory a worker may ask for where there is no control group:
/// stacks and buffers that are never touched count too.
const ADDRESS_SPACE_FACTOR: u64 = 2;

/// How a worker is to be started.
#[derive(Debug, Clone)]
pub struct LaunchPlan {
    /// The program.
    pub program: PathBuf,
    /// Its arguments; a worker has none.
    pub args: Vec<OsString>,
    /// Its whole environment.
    pub env: Vec<(OsString, OsString)>,
    /// What it may keep.
    pub jail: JailPlan,
    /// Where its control group goes; `None` when the system has none for us, with [`LaunchPlan::cgroup_missing`].
    pub cgroups: Option<CgroupRoot>,
    /// Why there is no control group; goes into the layers that are missing.
    pub cgroup_missing: String,
    /// Where its log goes.
    pub log: LogTo,
    /// How long it may have a job in hand without using the processor at all, before it counts as hung.
    pub stall: Duration,
}

/// Where the log of a worker goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogTo {
    /// Nowhere.
    Nowhere,
    /// Our own standard error, unbounded: for people at a terminal.
    Inherit,
    /// Our log, line by line, bounded: for daemons.
    Bounded,
}

impl LaunchPlan {
    /// A worker that encodes in software, in the strictest jail; no control group yet.
    ///
    /// `registry` is GStreamer's cache of plugins. It is read, never written, by a jailed worker; without
    /// it each worker looks through all plugins, which costs it half a second.
    #[must_use]
    pub fn software(program: impl Into<PathBuf>, jail: JailPlan, registry: Option<PathBuf>) -> Self {
        let mut env: Vec<(OsString, OsString)> =
            WORKER_ENV.iter().map(|(key, value)| (key.into(), value.into())).collect();
        let mut jail = jail;
        if let Some(registry) = registry {
            env.push(("GST_REGISTRY".into(), registry.clone().into()));
            jail = jail.with_read(registry, "GStreamer's cache of plugins");
        }
        Self {
            program: program.into(),
            args: Vec::new(),
            env,
            jail,
            cgroups: None,
            cgroup_missing: "none was given".to_owned(),
            log: LogTo::Bounded,
            stall: STALL,
        }
    }

    /// The same for a worker that uses an engine: its name, such as `va` or `nvidia+software`, and its device nodes.
    #[must_use]
    pub fn with_engine(mut self, engine: &str, nodes: &[PathBuf]) -> Self {
        if nodes.is_empty() {
            return self;
        }
        self.args.extend(["--engine", engine].map(OsString::from));
        self.jail = self.jail.with_engine(engine, nodes);
        // Nothing can be kept, so nothing need be looked for.
        self.env.push(("CUDA_CACHE_DISABLE".into(), "1".into()));
        self
    }

    /// The same for a worker whose software encoders aim at something else than usual.
    #[must_use]
    pub fn with_preset(mut self, preset: Preset) -> Self {
        if preset != Preset::default() {
            self.args.extend(["--preset", preset.name()].map(OsString::from));
        }
        self
    }

    /// Uses the control group delegated to this process, or notes why there is none.
    #[must_use]
    pub fn with_delegated_cgroup(mut self) -> Self {
        match CgroupRoot::delegated() {
            Ok(root) => self.cgroups = Some(root),
            Err(error) => self.cgroup_missing = error.to_string(),
        }
        self
    }
}

/// The environment of every worker.
const WORKER_ENV: [(&str, &str); 6] = [
    // Memory of one segment serves the next, up to half a gibibyte, and comes in large pages: having the kernel clear
    // it anew took a twelfth of the processor time of a job.
    (
        "GLIBC_TUNABLES",
        "glibc.malloc.mmap_threshold=1073741824:glibc.malloc.trim_threshold=536870912:glibc.malloc.hugetlb=1",
    ),
    // No helper process for scanning plugins: the jail forbids processes.
    ("GST_REGISTRY_FORK", "no"),
    // Scripts of GLib modules and caches would be looked for in a home directory there is not.
    ("HOME", "/"),
    ("LANG", "C.UTF-8"),
    // One heap, so that what one thread gave back is there for the others.
    ("MALLOC_ARENA_MAX", "1"),
    ("RUST_BACKTRACE", "0"),
];

/// Why a worker could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The program is missing, or not one.
    #[error("start {program}")]
    Start {
        /// The program.
        program: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// No channel to it could be made.
    #[error("the channel of a new worker")]
    Channel(#[from] ChannelError),
    /// Its control group could not be made.
    #[error("the control group of a new worker")]
    Cgroup(#[from] CgroupError),
}

/// Has the worker program write GStreamer's cache of plugins, which jailed workers then only read.
///
/// Runs the program as `PROGRAM --scan`, outside the jail (it sees no media) and with the environment of
/// a worker, and waits for it at most `timeout`. Quick when the cache is up to date.
///
/// # Errors
/// [`LaunchError::Start`] when the program cannot be started, fails, or takes too long.
pub fn make_registry(program: &Path, registry: &Path, timeout: Duration) -> Result<(), LaunchError> {
    let fail = |source| LaunchError::Start { program: program.to_owned(), source };
    let mut command = Command::new(program);
    command.arg("--scan").env_clear().envs(WORKER_ENV).env("GST_REGISTRY", registry);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let mut child = thread::spawn(command).map_err(fail)?;
    let start = Instant::now();
    loop {
        match child.try_wait().map_err(fail)? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => return Err(fail(io::Error::other(format!("--scan: {status}")))),
            None if start.elapsed() < timeout => std::thread::sleep(Duration::from_millis(5)),
            None => {
                // Both fail only when it is gone, which is what is wanted.
                let _ = child.kill();
                let _ = child.wait();
                return Err(fail(io::Error::other(format!("--scan took longer than {timeout:?}"))));
            }
        }
    }
}

/// How a worker ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Ending {
    /// By itself, with this status.
    #[error("exited with status {0}")]
    Exited(i32),
    /// Killed by the filter for a system call it may not make; the kernel's log names the call.
    #[error("killed for a forbidden system call (the kernel's log names it: journalctl -k -g type=1326)")]
    ForbiddenCall,
    /// Killed by the kernel at its memory limit.
    #[error("killed at its memory limit")]
    OutOfMemory,
    /// Killed by another signal.
    #[error("killed by {0}")]
    Signal(&'static str),
    /// Nobody knows.
    #[error("vanished")]
    Unknown,
}

/// Why a job brought no renditions.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The stream's fault; the worker is fit for another job.
    #[error("{error}: {detail}")]
    Job {
        /// What the gateway is told.
        error: JobError,
        /// Detail for our log.
        detail: String,
    },
    /// The worker is gone.
    #[error("the worker {0}")]
    Died(Ending),
    /// The deadline passed; the worker has been killed.
    #[error("the worker did not answer within {0:?}")]
    Timeout(Duration),
    /// The worker used no processor for so long with a job in hand; it has been killed.
    #[error("the worker made no progress for {0:?}")]
    Stalled(Duration),
    /// The worker reported something impossible; it has been killed.
    #[error("the worker lied")]
    Lied(#[from] Lie),
    /// The worker sent renditions that are not what it says; it has been killed.
    #[error("rendition {index} of the worker")]
    Rendition {
        /// Which rendition.
        index: usize,
        /// What is wrong with it.
        #[source]
        source: MemfdError,
    },
    /// A rendition is not as long as reported; the worker has been killed.
    #[error("rendition {index} has {got} bytes, reported as {said}")]
    Length {
        /// Which rendition.
        index: usize,
        /// Bytes it has.
        got: u64,
        /// Bytes reported.
        said: u64,
    },
    /// The worker cannot start here.
    #[error("the worker is unfit: {0}")]
    Unfit(String),
    /// The channel broke; the worker has been killed.
    #[error("the worker's channel")]
    Channel(#[source] ChannelError),
}

/// A running worker. Dropping it kills it.
#[derive(Debug)]
pub struct Worker {
    pid: u32,
    channel: Channel,
    child: Child,
    ending: Option<Ending>,
    cgroup: Option<Cgroup>,
    layers: Layers,
    stall: Duration,
}

/// Numbers control groups, so that no two workers of one node share one.
static NEXT_GROUP: AtomicU64 = AtomicU64::new(1);

/// Starts a worker. It is not ready yet: see [`Worker::wait_ready`].
///
/// May be called from any thread; the worker dies with the process, not with the thread.
///
/// # Errors
/// [`LaunchError`] when the program cannot be started.
pub fn launch(plan: &LaunchPlan) -> Result<Worker, LaunchError> {
    let mut layers = Layers::default();
    let mut jail = plan.jail.clone();
    let cgroup = match &plan.cgroups {
        Some(root) => {
            let number = NEXT_GROUP.fetch_add(1, Ordering::Relaxed);
            let group = root.worker(&format!("worker-{}-{number}", std::process::id()), &jail.limits)?;
            layers.add("cgroup");
            Some(group)
        }
        None => {
            layers.lack("cgroup", &plan.cgroup_missing);
            let memory = jail.limits.memory.saturating_mul(ADDRESS_SPACE_FACTOR);
            jail.limits.private_memory.get_or_insert(memory);
            None
        }
    };
    let entrance = cgroup.as_ref().map(Cgroup::entrance).transpose()?;
    let (channel, theirs) = Channel::pair()?;
    // Waits in the socket until the worker reads it.
    channel.send_plan(&jail)?;
    let mut command = Command::new(&plan.program);
    command.args(&plan.args).env_clear().envs(plan.env.iter().map(|(key, value)| (key, value)));
    command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(match plan.log {
        LogTo::Nowhere => Stdio::null(),
        LogTo::Inherit => Stdio::inherit(),
        LogTo::Bounded => Stdio::piped(),
    });
    confine(&mut command, theirs, entrance)?;
    let mut child =
        thread::spawn(command).map_err(|source| LaunchError::Start { program: plan.program.clone(), source })?;
    let pid = child.id();
    if let Some(stderr) = child.stderr.take() {
        log::follow(stderr, pid);
    }
    Ok(Worker { pid, channel, child, ending: None, cgroup, layers, stall: plan.stall })
}

/// Adds what happens in the child between fork and exec: only system calls, as another thread of ours may
/// hold any lock at that moment.
#[expect(unsafe_code, reason = "descriptors, control group and death signal can only be set between fork and exec")]
fn confine(command: &mut Command, socket: Channel, entrance: Option<File>) -> Result<(), ChannelError> {
    // Above 3, so that the target of the copy is free of it.
    let socket = raise(socket.as_fd())?;
    let entrance = entrance.map(|file| raise(file.as_fd())).transpose()?;
    let parent = nix::unistd::getpid();
    let steps = move || {
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
        if nix::unistd::getppid() != parent {
            // The node died before the signal was asked for.
            return Err(Errno::ESRCH.into());
        }
        if let Some(entrance) = &entrance {
            nix::unistd::write(entrance, b"0")?;
        }
        // SAFETY: plain numbers; the socket is open, being owned by this closure.
        let copied = unsafe { libc::dup2(socket.as_raw_fd(), WORKER_FD) };
        Errno::result(copied)?;
        // SAFETY: plain numbers; marks descriptors of this single-threaded child only, closing them at exec.
        let marked = unsafe {
            libc::syscall(libc::SYS_close_range, WORKER_FD + 1, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC)
        };
        Errno::result(marked)?;
        Ok(())
    };
    // SAFETY: the closure makes system calls only (prctl, getppid, write, dup2, close_range): it neither
    // allocates nor takes a lock. Making an `io::Error` from a number does not allocate either.
    unsafe { command.pre_exec(steps) };
    Ok(())
}

/// A copy of a descriptor with a number above the standard ones and the worker's.
fn raise(fd: BorrowedFd<'_>) -> Result<OwnedFd, ChannelError> {
    Ok(owned(fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(WORKER_FD + 1))?))
}

/// Owns a descriptor just made by `F_DUPFD_CLOEXEC`, which nix returns as a number.
#[expect(unsafe_code, reason = "nix returns the new descriptor as a bare number")]
fn owned(number: RawFd) -> OwnedFd {
    use std::os::fd::FromRawFd;
    // SAFETY: the kernel has just made this descriptor for the only caller; nobody else owns it.
    unsafe { OwnedFd::from_raw_fd(number) }
}

impl Worker {
    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The channel to it, for a caller that speaks with it directly; [`Worker::run`] does not need it.
    #[must_use]
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// A handle that ends the worker from another thread, even one that waits in [`Worker::run`] now.
    ///
    /// # Errors
    /// [`ChannelError::Kernel`] when no descriptor is left.
    pub fn interrupter(&self) -> Result<Interrupter, ChannelError> {
        Ok(Interrupter { socket: self.channel.as_fd().try_clone_to_owned()? })
    }

    /// Layers that the parent adds to those the worker reports: the control group.
    #[must_use]
    pub fn outer_layers(&self) -> &Layers {
        &self.layers
    }

    /// Waits until it is sealed in and has proved what it can do. To be called once, before any job.
    ///
    /// # Errors
    /// [`RunError::Unfit`] with its own words, or what became of it.
    pub fn wait_ready(&mut self, timeout: Duration) -> Result<Ready, RunError> {
        match self.receive(timeout)? {
            (Report::Ready(mut ready), descriptors) if descriptors.is_empty() => {
                ready.layers.splice(0..0, self.layers.active.iter().cloned());
                ready.missing_layers.splice(0..0, self.layers.missing.iter().cloned());
                Ok(ready)
            }
            (Report::Unfit { reason }, _) => Err(RunError::Unfit(reason)),
            (Report::Ready(_) | Report::Proof(_) | Report::Done(_) | Report::Failed { .. }, _) => {
                Err(self.refuse(Lie::OutOfTurn))
            }
        }
    }

    /// Waits until it has proved its engine; for a worker started with `--prove`, which then ends.
    ///
    /// # Errors
    /// [`RunError::Unfit`] with its own words, or what became of it.
    pub fn wait_proof(&mut self, timeout: Duration) -> Result<Proof, RunError> {
        match self.receive(timeout)? {
            (Report::Proof(proof), descriptors) if descriptors.is_empty() => Ok(proof),
            (Report::Unfit { reason }, _) => Err(RunError::Unfit(reason)),
            (Report::Ready(_) | Report::Proof(_) | Report::Done(_) | Report::Failed { .. }, _) => {
                Err(self.refuse(Lie::OutOfTurn))
            }
        }
    }

    /// Runs one job, at most for `deadline`. The renditions have been checked against the job.
    ///
    /// After every error but [`RunError::Job`] the worker is dead.
    ///
    /// # Errors
    /// [`RunError`].
    pub fn run(
        &mut self,
        job: &Job,
        segment: BorrowedFd<'_>,
        deadline: Duration,
    ) -> Result<(Done, Vec<Sealed>), RunError> {
        if let Err(error) = self.channel.send_job(job, segment) {
            return Err(self.lost(error, deadline));
        }
        let (report, descriptors) = self.receive_working(deadline)?;
        if let Err(lie) = check_report(job, &report, descriptors.len()) {
            return Err(self.refuse(lie));
        }
        match report {
            Report::Done(done) => match adopt(&done, descriptors, job.limits.max_output_bytes) {
                Ok(renditions) => Ok((done, renditions)),
                Err(error) => {
                    self.kill();
                    Err(error)
                }
            },
            Report::Failed { error, detail, .. } => Err(RunError::Job { error, detail }),
            Report::Ready(_) | Report::Proof(_) | Report::Unfit { .. } => Err(self.refuse(Lie::OutOfTurn)),
        }
    }

    /// Has it ended? Does not wait.
    pub fn ended(&mut self) -> Option<Ending> {
        if self.ending.is_none()
            && let Ok(Some(status)) = self.child.try_wait()
        {
            self.ending = Some(self.ending_of(status));
        }
        self.ending
    }

    /// Kills it and waits until it is gone.
    pub fn kill(&mut self) -> Ending {
        if let Some(ending) = self.ended() {
            return ending;
        }
        // Fails only for a process that is gone, which is what is wanted.
        let _ = self.child.kill();
        let ending = match self.child.wait() {
            Ok(status) => self.ending_of(status),
            Err(_) => Ending::Unknown,
        };
        *self.ending.insert(ending)
    }

    /// Resident memory right now, in bytes; `None` when it is gone.
    #[must_use]
    pub fn resident_memory(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
    }

    /// Processor time it has used so far, all its threads together; zero when it is gone.
    #[must_use]
    pub fn cpu_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten();
        let ticks = ticks.and_then(|ticks| u64::try_from(ticks).ok()).filter(|ticks| *ticks > 0).unwrap_or(100);
        cpu_ticks(&stat).map_or(Duration::ZERO, |used| Duration::from_millis(used.saturating_mul(1000) / ticks))
    }

    /// Waits for the answer to a job: until the deadline, or until the worker has done nothing at all for too long.
    fn receive_working(&mut self, deadline: Duration) -> Result<(Report, Vec<OwnedFd>), RunError> {
        let began = Instant::now();
        // Looks are counted, not time: a machine that slept has not watched.
        let patience = self.stall.as_millis().div_ceil(LOOK.as_millis());
        let (mut cpu, mut still) = (self.cpu_time(), 0);
        loop {
            let left = deadline.saturating_sub(began.elapsed());
            match self.channel.receive_report(left.min(LOOK)) {
                Err(ChannelError::Timeout(_)) if left > LOOK => {
                    let used = self.cpu_time();
                    still = if used > cpu { 0 } else { still + 1 };
                    cpu = used;
                    if still >= patience {
                        self.kill();
                        return Err(RunError::Stalled(self.stall));
                    }
                }
                other => return other.map_err(|error| self.lost(error, deadline)),
            }
        }
    }

    fn receive(&mut self, timeout: Duration) -> Result<(Report, Vec<OwnedFd>), RunError> {
        self.channel.receive_report(timeout).map_err(|error| self.lost(error, timeout))
    }

    /// Ends the worker after its channel failed, and says what happened.
    fn lost(&mut self, error: ChannelError, timeout: Duration) -> RunError {
        match error {
            ChannelError::Closed => RunError::Died(self.last_breath()),
            ChannelError::Timeout(_) => {
                self.kill();
                RunError::Timeout(timeout)
            }
            other => {
                self.kill();
                RunError::Channel(other)
            }
        }
    }

    fn refuse(&mut self, lie: Lie) -> RunError {
        self.kill();
        RunError::Lied(lie)
    }

    /// Waits a moment for a worker that closed its channel, so as to learn its own ending and not ours.
    fn last_breath(&mut self) -> Ending {
        let start = Instant::now();
        while start.elapsed() < LAST_BREATH {
            if let Some(ending) = self.ended() {
                return ending;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        self.kill()
    }

    fn ending_of(&self, status: ExitStatus) -> Ending {
        if let Some(code) = status.code() {
            return Ending::Exited(code);
        }
        match status.signal().and_then(|number| Signal::try_from(number).ok()) {
            Some(Signal::SIGSYS) => Ending::ForbiddenCall,
            Some(Signal::SIGKILL) if self.cgroup.as_ref().is_some_and(Cgroup::ran_out_of_memory) => Ending::OutOfMemory,
            Some(signal) => Ending::Signal(signal.as_str()),
            None => Ending::Unknown,
        }
    }
}

/// User and system time from the text of `/proc/PID/stat`, in clock ticks. The name in it may contain anything.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<u64>().ok();
    next()?.checked_add(next()?)
}

/// Ends a worker by cutting its channel; whoever runs it notices at once and reaps it.
#[derive(Debug)]
pub struct Interrupter {
    socket: OwnedFd,
}

impl Interrupter {
    /// Cuts the channel.
    pub fn interrupt(&self) {
        // Fails only when it is cut already.
        let _ = nix::sys::socket::shutdown(self.socket.as_raw_fd(), nix::sys::socket::Shutdown::Both);
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Takes the renditions over, and the signatures behind them, each sealed and exactly as long as reported.
fn adopt(done: &Done, descriptors: Vec<OwnedFd>, max: u64) -> Result<Vec<Sealed>, RunError> {
    let lengths = done.renditions.iter().map(|rendition| rendition.bytes).chain(done.signatures.iter().copied());
    let pairs = descriptors.into_iter().zip(lengths).enumerate();
    pairs
        .map(|(index, (fd, said))| {
            let sealed = Sealed::adopt(fd, max).map_err(|source| RunError::Rendition { index, source })?;
            if sealed.len() != said {
                return Err(RunError::Length { index, got: sealed.len(), said });
            }
            Ok(sealed)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_read_whatever_the_program_is_called() {
        let stat =
            "42 (a) R 1 2 (b)) S 1 42 42 0 -1 4194560 100 0 0 0 70 5 0 0 20 0 3 0 123 456 78 18446744073709551615";
        assert_eq!(cpu_ticks(stat), Some(75));
        assert_eq!((cpu_ticks(""), cpu_ticks("42 (x) S 1")), (None, None));
    }
}
