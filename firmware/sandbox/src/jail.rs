//! The jail: what a worker gives up before it looks at anything.
//!
//! Walk 4, step 2. A worker enters by itself, as the first thing it does and while it has one thread,
//! because most of these locks bind threads. The steps, in order:
//!
//! | Layer | What it takes away | Without it |
//! |---|---|---|
//! | `no-new-privileges` | set-user-id programs and the like | fatal |
//! | `rlimits` | core dumps, many files, huge files | fatal |
//! | `user-namespace` | every power over anything outside | recorded |
//! | `task-limit` | fork and thread bombs | recorded |
//! | `mount-`, `ipc-`, `network-`, `uts-namespace` | mounts, shared memory, all networks, host names | recorded |
//! | `private-root` | every file that is not granted, as if it did not exist | recorded |
//! | `landlock` | every file that is not granted, and writing, signals and networks besides | recorded |
//! | `no-capabilities` | what is left of root | fatal |
//! | `not-dumpable` | being traced or dumped by others | fatal |
//!
//! What the kernel refuses is recorded, not hidden: [`Layers`] travels to the node in the worker's first
//! report. The last layer, seccomp, comes in [`crate::lockdown`] once the plugins are loaded.
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, LandlockStatus, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope,
};
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

mod engines;
mod namespaces;
mod root;

/// Highest capability number there may be; dropping one that is unknown is refused and harmless.
const LAST_CAPABILITY: libc::c_ulong = 63;

/// What a worker may keep.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JailPlan {
    /// Files and directories it may read.
    pub read: Vec<Grant>,
    /// Device nodes it may open for reading and writing.
    pub devices: Vec<Grant>,
    /// Bounds on what it may use.
    pub limits: ProcessLimits,
}

/// One path that stays visible, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// The path; one that does not exist is nothing.
    pub path: PathBuf,
    /// What needs it.
    pub reason: String,
}

impl Grant {
    /// A path and its reason.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>, reason: &str) -> Self {
        Self { path: path.into(), reason: reason.to_owned() }
    }
}

/// What every worker may read: code, and what its libraries ask of the machine.
const WORKER_READS: &[(&str, &str)] = &[
    ("/usr/lib", "GStreamer, its plugins and the libraries they load"),
    ("/usr/lib64", "the same, on systems that split by word size"),
    ("/usr/local/lib", "the same, built by hand"),
    ("/lib", "the C library and the loader"),
    ("/lib64", "the loader, by the name inside every program"),
    ("/etc/ld.so.cache", "where the loader finds libraries"),
    ("/etc/alternatives", "the links by which Debian chooses among libraries, such as BLAS under libav"),
    ("/proc/self", "the C library reads the program's own maps and status"),
    ("/sys/devices/system/cpu", "how many processors encoders may use"),
    ("/dev/null", "libraries that silence themselves"),
    ("/dev/urandom", "libraries that do not know getrandom"),
];

impl JailPlan {
    /// The jail of a worker that encodes in software.
    #[must_use]
    pub fn software(limits: ProcessLimits) -> Self {
        let read = WORKER_READS.iter().map(|(path, reason)| Grant::new(*path, reason)).collect();
        Self { read, devices: Vec::new(), limits }
    }

    /// Widens the jail for an engine: by the engine's device nodes and no others, and what its drivers read.
    ///
    /// `engine` is its name, such as `va` or `nvidia+software`; `nodes` are those that the box has for it, none for
    /// software.
    #[must_use]
    pub fn with_engine(mut self, engine: &str, nodes: &[PathBuf]) -> Self {
        if !nodes.is_empty() {
            // Drivers reserve far more address space than they use; the control group's limit stays.
            self.limits.private_memory.get_or_insert(u64::MAX);
        }
        self.read.extend(engines::reads(engine));
        self.devices.extend(nodes.iter().map(|node| Grant::new(node, "a device of the engine")));
        self
    }

    /// Lets the worker read one more path.
    #[must_use]
    pub fn with_read(mut self, path: impl Into<PathBuf>, reason: &str) -> Self {
        self.read.push(Grant::new(path, reason));
        self
    }

    /// Lets the worker use a device node.
    #[must_use]
    pub fn with_device(mut self, path: impl Into<PathBuf>, reason: &str) -> Self {
        self.devices.push(Grant::new(path, reason));
        self
    }
}

/// Bounds on what a worker may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessLimits {
    /// Memory of the worker, in bytes: its cgroup's limit.
    pub memory: u64,
    /// Bytes of private memory it may ask for where no cgroup can be had; `None` leaves it to the cgroup.
    /// Counts address space, so it has to be more generous, and graphics drivers do not bear it at all.
    pub private_memory: Option<u64>,
    /// Processes and threads.
    pub tasks: u64,
    /// Share of the processor under contention, 1 to 10000; 100 is the system's own default.
    pub cpu_weight: u32,
    /// Open descriptors.
    pub open_files: u64,
    /// Longest file or memfd, in bytes.
    pub file_size: u64,
}

impl Default for ProcessLimits {
    fn default() -> Self {
        Self {
            memory: 1536 << 20,
            private_memory: None,
            tasks: 256,
            cpu_weight: 100,
            open_files: 256,
            file_size: 512 << 20,
        }
    }
}

/// Layers of the jail, as found out by entering it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layers {
    /// In force.
    pub active: Vec<String>,
    /// Not to be had here, each with the reason.
    pub missing: Vec<(String, String)>,
}

impl Layers {
    /// Is this layer in force?
    #[must_use]
    pub fn has(&self, layer: &str) -> bool {
        self.active.iter().any(|name| name == layer)
    }

    pub(crate) fn add(&mut self, layer: &str) {
        self.active.push(layer.to_owned());
    }

    pub(crate) fn lack(&mut self, layer: &str, reason: impl ToString) {
        self.missing.push((layer.to_owned(), reason.to_string()));
    }

    pub(crate) fn record(&mut self, layer: &str, outcome: Result<(), impl ToString>) {
        match outcome {
            Ok(()) => self.add(layer),
            Err(reason) => self.lack(layer, reason),
        }
    }
}

/// Why the jail could not be entered at all.
#[derive(Debug, thiserror::Error)]
pub enum JailError {
    /// The program has more than one thread already, so that locks would miss some.
    #[error("the jail was to be entered with {0} threads instead of one")]
    Threads(usize),
    /// A step without which nothing is safe.
    #[error("the jail's step {step}")]
    Step {
        /// The step.
        step: &'static str,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
}

fn step(step: &'static str) -> impl FnOnce(Errno) -> JailError {
    move |source| JailError::Step { step, source }
}

/// Enters the jail for good. To be called first thing in `main`, before any thread is started.
///
/// # Errors
/// [`JailError`] when a step fails that every kernel we run on offers; the program must then end.
pub fn enter(plan: &JailPlan) -> Result<Layers, JailError> {
    let threads = fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    if threads != 1 {
        return Err(JailError::Threads(threads));
    }
    let mut layers = Layers::default();
    prctl::set_no_new_privs().map_err(step("no-new-privileges"))?;
    layers.add("no-new-privileges");
    set_limits(&plan.limits)?;
    layers.add("rlimits");
    let root = nix::unistd::geteuid().is_root();
    namespaces::enter(&mut layers);
    if root {
        layers.lack("task-limit", "the kernel exempts root: run the node as an ordinary user");
    } else if layers.has("user-namespace") {
        // Inside its own user namespace the count starts anew; outside it would count all of the user's.
        let tasks = plan.limits.tasks;
        layers.record("task-limit", setrlimit(Resource::RLIMIT_NPROC, tasks, tasks));
    } else {
        layers.lack("task-limit", "needs the user namespace");
    }
    if layers.has("mount-namespace") {
        layers.record("private-root", root::enter(plan));
    } else {
        layers.lack("private-root", "needs the mount namespace");
    }
    landlock(plan, &mut layers);
    drop_capabilities()?;
    layers.add("no-capabilities");
    // A change of credentials clears this, so it is asked for once more.
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(step("parent-death signal"))?;
    prctl::set_dumpable(false).map_err(step("not-dumpable"))?;
    layers.add("not-dumpable");
    Ok(layers)
}

fn set_limits(limits: &ProcessLimits) -> Result<(), JailError> {
    let set = |resource, value| setrlimit(resource, value, value).map_err(step("rlimits"));
    set(Resource::RLIMIT_CORE, 0)?;
    set(Resource::RLIMIT_NOFILE, limits.open_files)?;
    set(Resource::RLIMIT_FSIZE, limits.file_size)?;
    set(Resource::RLIMIT_MSGQUEUE, 0)?;
    // Room for the key store that a crypto library makes when a plugin loads it; it complains aloud without.
    set(Resource::RLIMIT_MEMLOCK, 64 << 10)?;
    if let Some(bytes) = limits.private_memory {
        set(Resource::RLIMIT_DATA, bytes)?;
    }
    Ok(())
}

/// Files, networks and signals, by the kernel's own rules; as much of it as this kernel knows.
fn landlock(plan: &JailPlan, layers: &mut Layers) {
    match landlock_rules(plan) {
        Ok((RulesetStatus::FullyEnforced, _)) => layers.add("landlock"),
        Ok((RulesetStatus::PartiallyEnforced, status)) => {
            layers.add("landlock");
            layers.lack("landlock-in-full", describe(status));
        }
        Ok((RulesetStatus::NotEnforced, status)) => layers.lack("landlock", describe(status)),
        Err(error) => layers.lack("landlock", error),
    }
}

fn describe(status: LandlockStatus) -> String {
    match status {
        LandlockStatus::NotEnabled => "built into the kernel but switched off at boot".to_owned(),
        LandlockStatus::NotImplemented => "not built into the kernel".to_owned(),
        LandlockStatus::Available { effective_abi, .. } => format!("the kernel knows version {effective_abi:?} only"),
    }
}

fn landlock_rules(plan: &JailPlan) -> Result<(RulesetStatus, LandlockStatus), landlock::RulesetError> {
    let abi = ABI::V6;
    // Reading only: a library is mapped, not executed, so nothing in the jail can be executed.
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let device = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev;
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(abi))?
        .handle_access(AccessNet::from_all(abi))?
        .scope(Scope::from_all(abi))?
        .create()?;
    let grants = plan.read.iter().map(|grant| (grant, read)).chain(plan.devices.iter().map(|grant| (grant, device)));
    for (grant, access) in grants {
        let Ok(fd) = PathFd::new(&grant.path) else { continue };
        let access = if grant.path.is_dir() { access } else { access & AccessFs::from_file(abi) };
        rules = rules.add_rule(PathBeneath::new(fd, access))?;
    }
    let status = rules.restrict_self()?;
    Ok((status.ruleset, status.landlock))
}

/// Gives up every capability in every set, also those of the new user namespace.
#[expect(unsafe_code, reason = "capset and the bounding set have no safe interface")]
fn drop_capabilities() -> Result<(), JailError> {
    for capability in 0..=LAST_CAPABILITY {
        // SAFETY: this prctl takes plain numbers. It is refused without CAP_SETPCAP, when there is nothing to drop.
        unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
    }
    /// `struct __user_cap_header_struct` of version 3.
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    const VERSION_3: u32 = 0x2008_0522;
    let header = Header { version: VERSION_3, pid: 0 };
    let nothing = [0u32; 6];
    // SAFETY: `header` is live and of version 3, for which the kernel reads six words, which `nothing` has.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, nothing.as_ptr()) };
    match Errno::result(result) {
        // A unit's own filter may forbid the call; without capabilities nothing is lost by that.
        Err(_) if has_no_capabilities() => Ok(()),
        other => other.map(drop).map_err(step("no-capabilities")),
    }
}

fn has_no_capabilities() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let zero = |name| {
        status.lines().any(|line| line.strip_prefix(name).is_some_and(|set| set.trim().bytes().all(|b| b == b'0')))
    };
    ["CapEff:", "CapPrm:", "CapInh:"].into_iter().all(zero)
}

/// Writes a file of `/proc/self`, which is how a user namespace gets its maps.
fn write_own(name: &str, text: &str) -> io::Result<()> {
    fs::write(Path::new("/proc/self").join(name), text)
}
