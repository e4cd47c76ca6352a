//! A worker's own control group, where the system has delegated one to the node.
//!
//! systemd does so with `Delegate=yes`. The node itself moves into a child, because a group that has
//! members may not hand out controllers, and the workers get theirs below another, so that all of them together can
//! be slowed down.
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use crate::jail::ProcessLimits;

/// What a worker's group has to limit.
const CONTROLLERS: [&str; 3] = ["memory", "pids", "cpu"];
/// The child group the node itself lives in.
const SUPERVISOR: &str = "supervisor";

/// The child group that the workers' groups are in.
const WORKERS: &str = "workers";
/// Microseconds over which processor time is counted.
const PERIOD_US: u64 = 100_000;

/// Why there is no control group for workers.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The system has no unified control groups, or none we are in.
    #[error("no unified control group hierarchy")]
    NotUnified,
    /// Our own group was not handed to us.
    #[error("{0} is not delegated to this process (Delegate=yes)")]
    NotDelegated(PathBuf),
    /// The group cannot limit this.
    #[error("{dir} has no {controller} controller")]
    NoController {
        /// The group.
        dir: PathBuf,
        /// What it lacks.
        controller: &'static str,
    },
    /// Reading or writing a control file.
    #[error("{path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> CgroupError {
    move |source| CgroupError::Io { path: path.to_owned(), source }
}

/// The group below which workers get theirs.
#[derive(Debug, Clone)]
pub struct CgroupRoot {
    dir: PathBuf,
}

impl CgroupRoot {
    /// Finds the group delegated to this process and makes it ready: moves this process into a child
    /// group, and hands the controllers to the children. To be called once, early.
    ///
    /// # Errors
    /// [`CgroupError`] says why there is none; workers then run without.
    pub fn delegated() -> Result<Self, CgroupError> {
        let own =
            own_group(&read("/proc/self/cgroup")?, &read("/proc/self/mountinfo")?).ok_or(CgroupError::NotUnified)?;
        // One up: after a restart of the caller within the group, or with systemd's own `DelegateSubgroup=`.
        let delegated = own.ancestors().take(2).find(|dir| is_delegated(dir)).map(Path::to_owned);
        Self::at(&delegated.ok_or(CgroupError::NotDelegated(own))?)
    }

    /// Makes a given group ready, as [`CgroupRoot::delegated`] does with the one it finds.
    ///
    /// # Errors
    /// [`CgroupError`] when it cannot limit what workers need limited.
    pub fn at(dir: &Path) -> Result<Self, CgroupError> {
        let available = read(dir.join("cgroup.controllers"))?;
        for controller in CONTROLLERS {
            if !available.split_whitespace().any(|name| name == controller) {
                return Err(CgroupError::NoController { dir: dir.to_owned(), controller });
            }
        }
        let members = read(dir.join("cgroup.procs"))?;
        if !members.trim().is_empty() {
            make_group(&dir.join(SUPERVISOR))?;
        }
        for pid in members.split_whitespace() {
            write(&dir.join(SUPERVISOR).join("cgroup.procs"), pid)?;
        }
        let wanted: Vec<String> = CONTROLLERS.iter().map(|name| format!("+{name}")).collect();
        write(&dir.join("cgroup.subtree_control"), &wanted.join(" "))?;
        let workers = dir.join(WORKERS);
        make_group(&workers)?;
        write(&workers.join("cgroup.subtree_control"), &wanted.join(" "))?;
        Ok(Self { dir: workers })
    }

    /// Where the groups of all workers are.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Gives all workers together so many hundredths of a processor, or as much as there is.
    ///
    /// # Errors
    /// [`CgroupError::Io`] when the limit cannot be written.
    pub fn limit_cpu(&self, hundredths: Option<u32>) -> Result<(), CgroupError> {
        let quota = hundredths.map(|hundredths| u64::from(hundredths.max(1)) * PERIOD_US / 100);
        let quota = quota.map_or("max".to_owned(), |quota| quota.to_string());
        write(&self.dir.join("cpu.max"), &format!("{quota} {PERIOD_US}"))
    }

    /// A new group with these limits.
    ///
    /// # Errors
    /// [`CgroupError::Io`] names the file that could not be written.
    pub fn worker(&self, name: &str, limits: &ProcessLimits) -> Result<Cgroup, CgroupError> {
        let group = Cgroup { dir: self.dir.join(name) };
        make_group(&group.dir)?;
        write(&group.dir.join("memory.max"), &limits.memory.to_string())?;
        // Swapping a worker out would only make it miss its deadline. Not every kernel counts swap.
        match write(&group.dir.join("memory.swap.max"), "0") {
            Err(CgroupError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
        write(&group.dir.join("memory.oom.group"), "1")?;
        write(&group.dir.join("pids.max"), &limits.tasks.to_string())?;
        write(&group.dir.join("cpu.weight"), &limits.cpu_weight.clamp(1, 10_000).to_string())?;
        Ok(group)
    }
}

/// One worker's group; removed with everything in it when dropped.
#[derive(Debug)]
pub struct Cgroup {
    dir: PathBuf,
}

impl Cgroup {
    /// The file by writing `0` to which a process moves itself in.
    pub(super) fn entrance(&self) -> Result<File, CgroupError> {
        let path = self.dir.join("cgroup.procs");
        OpenOptions::new().write(true).open(&path).map_err(at(&path))
    }

    /// Has the kernel killed a member for want of memory?
    pub(super) fn ran_out_of_memory(&self) -> bool {
        let events = fs::read_to_string(self.dir.join("memory.events")).unwrap_or_default();
        events.lines().any(|line| line.strip_prefix("oom_kill ").is_some_and(|count| count.trim() != "0"))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Both fail only where the group is gone or half made already.
        let _ = fs::write(self.dir.join("cgroup.kill"), "1");
        if let Err(error) = fs::remove_dir(&self.dir) {
            tracing::debug!(dir = %self.dir.display(), %error, "control group stayed");
        }
    }
}

/// Our own group's directory, from the texts of `/proc/self/cgroup` and `/proc/self/mountinfo`.
fn own_group(cgroup: &str, mountinfo: &str) -> Option<PathBuf> {
    let group = cgroup.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let mount = mountinfo.lines().find_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        // Only a mount that shows the hierarchy from its root tells where our group is in it.
        let (root, point) = (fields.next()?, fields.next()?);
        (filesystem.starts_with("cgroup2 ") && root == "/").then_some(point)
    })?;
    Some(Path::new(mount).join(group))
}

/// Does the mark of systemd say that this group is ours to divide?
#[expect(unsafe_code, reason = "extended attributes have no safe interface here")]
fn is_delegated(dir: &Path) -> bool {
    use std::ffi::CString;
    use std::os::unix::ffi::OsStrExt;
    let Ok(path) = CString::new(dir.as_os_str().as_bytes()) else { return false };
    [c"trusted.delegate", c"user.delegate"].into_iter().any(|name| {
        let mut value = [0u8; 8];
        // SAFETY: both strings end in zero; `value` is live and as long as stated.
        let got = unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
        Errno::result(got) == Ok(1) && value.first() == Some(&b'1')
    })
}

fn make_group(dir: &Path) -> Result<(), CgroupError> {
    match fs::create_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other.map_err(at(dir)),
    }
}

fn read(path: impl AsRef<Path>) -> Result<String, CgroupError> {
    fs::read_to_string(path.as_ref()).map_err(at(path.as_ref()))
}

fn write(path: &Path, text: &str) -> Result<(), CgroupError> {
    // Control files exist; creating one would hide a missing controller.
    let mut file = OpenOptions::new().write(true).open(path).map_err(at(path))?;
    io::Write::write_all(&mut file, text.as_bytes()).map_err(at(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "34 24 0:31 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
        40 34 0:37 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n\
        45 34 0:42 / /sys/fs/cgroup/unified rw shared:14 - cgroup2 cgroup2 rw\n";

    #[test]
    fn our_group_is_found_below_the_unified_mount() {
        let cgroup = "4:memory:/other\n0::/system.slice/millrace-node.service\n";
        let dir = own_group(cgroup, HYBRID).unwrap();
        assert_eq!(dir, Path::new("/sys/fs/cgroup/unified/system.slice/millrace-node.service"));
        assert_eq!(own_group("4:memory:/other\n", HYBRID), None);
        assert_eq!(own_group(cgroup, "40 34 0:37 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"), None);
    }

    /// A directory that looks like a group to everything but the kernel.
    fn fixture(controllers: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cgroup.controllers"), controllers).unwrap();
        for file in ["cgroup.procs", "cgroup.subtree_control"] {
            fs::write(dir.path().join(file), "").unwrap();
        }
        fs::create_dir(dir.path().join(WORKERS)).unwrap();
        for file in ["cgroup.subtree_control", "cpu.max"] {
            fs::write(dir.path().join(WORKERS).join(file), "").unwrap();
        }
        dir
    }

    #[test]
    fn a_group_without_the_memory_controller_is_refused() {
        let dir = fixture("cpu pids hugetlb");
        let error = CgroupRoot::at(dir.path()).unwrap_err();
        assert!(matches!(error, CgroupError::NoController { controller: "memory", .. }), "{error}");
    }

    #[test]
    fn controllers_are_handed_to_the_children() {
        let dir = fixture("cpuset cpu io memory pids");
        CgroupRoot::at(dir.path()).unwrap();
        let enabled = fs::read_to_string(dir.path().join("cgroup.subtree_control")).unwrap();
        assert_eq!(enabled, "+memory +pids +cpu");
        let below = fs::read_to_string(dir.path().join(WORKERS).join("cgroup.subtree_control")).unwrap();
        assert_eq!(below, enabled);
        assert!(!dir.path().join(SUPERVISOR).exists(), "nobody has to move");
    }

    #[test]
    fn limits_are_written_where_the_kernel_looks() {
        let dir = fixture("cpu memory pids");
        let root = CgroupRoot::at(dir.path()).unwrap();
        let group = dir.path().join(WORKERS).join("worker-1");
        fs::create_dir(&group).unwrap();
        for file in ["memory.max", "memory.oom.group", "pids.max", "cpu.weight"] {
            fs::write(group.join(file), "").unwrap();
        }
        let limits = ProcessLimits { memory: 1 << 30, tasks: 99, ..ProcessLimits::default() };
        let _worker = root.worker("worker-1", &limits).unwrap();
        assert_eq!(fs::read_to_string(group.join("memory.max")).unwrap(), "1073741824");
        assert_eq!(fs::read_to_string(group.join("pids.max")).unwrap(), "99");
        let quota = || fs::read_to_string(dir.path().join(WORKERS).join("cpu.max")).unwrap();
        root.limit_cpu(Some(250)).unwrap();
        assert_eq!(quota(), "250000 100000");
        fs::write(dir.path().join(WORKERS).join("cpu.max"), "").unwrap();
        root.limit_cpu(None).unwrap();
        assert_eq!(quota(), "max 100000");
    }

    /// The kernel's half, where this machine lets us make a group at all: controllers do not matter for it.
    #[test]
    fn a_process_enters_its_group_and_the_group_goes_with_it() {
        let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let cgroup = fs::read_to_string("/proc/self/cgroup").unwrap();
        let Some(own) = own_group(&cgroup, &mountinfo) else {
            return println!("this machine has no unified control groups");
        };
        let group = Cgroup { dir: own.join(format!("millrace-test-{}", std::process::id())) };
        if let Err(error) = make_group(&group.dir) {
            return println!("this machine lets us make no control group: {error}");
        }
        let (_ours, theirs) = crate::channel::Channel::pair().unwrap();
        let mut command = std::process::Command::new("sleep");
        command.arg("60");
        super::super::confine(&mut command, theirs, Some(group.entrance().unwrap())).unwrap();
        let mut child = super::super::thread::spawn(command).unwrap();
        let inside = fs::read_to_string(format!("/proc/{}/cgroup", child.id())).unwrap();
        assert!(inside.contains("millrace-test-"), "{inside}");
        let dir = group.dir.clone();
        fs::write(dir.join("cgroup.kill"), "1").unwrap();
        assert!(!child.wait().unwrap().success());
        drop(group);
        assert!(!dir.exists());
    }
}
