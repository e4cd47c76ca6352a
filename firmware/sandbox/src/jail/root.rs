//! A root directory with nothing in it but what was granted, read-only.
//!
//! Landlock forbids; this makes absent. The two overlap on purpose: older kernels of boards lack landlock.
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{chdir, pivot_root};

use super::JailPlan;

/// Where the new root is built: any directory will do, it is covered inside the jail only.
const BUILD_AT: &str = "/tmp";
/// Bounds of the new root, which holds mount points and links only.
const ROOT_OPTIONS: &str = "size=1m,nr_inodes=512,mode=0755";

/// Why the new root could not be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum RootError {
    /// A step the kernel refused.
    #[error("{step}: {source}")]
    Mount {
        step: &'static str,
        #[source]
        source: Errno,
    },
    /// A granted path that could not be carried over.
    #[error("{path}: {source}")]
    Carry {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

fn refused(step: &'static str) -> impl FnOnce(Errno) -> RootError {
    move |source| RootError::Mount { step, source }
}

/// A granted path, held open so that covering its parents does not lose it.
#[derive(Debug)]
enum Carried {
    Link(PathBuf),
    Held { fd: OwnedFd, is_dir: bool },
}

/// Builds the new root and moves into it.
pub(super) fn enter(plan: &JailPlan) -> Result<(), RootError> {
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).map_err(refused("make mounts private"))?;
    let mut held = Vec::new();
    for path in paths(plan) {
        if let Some(carried) = hold(&path).map_err(|source| RootError::Carry { path: path.clone(), source })? {
            held.push((path, carried));
        }
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("jail"), BUILD_AT, Some("tmpfs"), flags, Some(ROOT_OPTIONS)).map_err(refused("mount the new root"))?;
    for (path, carried) in &held {
        carry(path, carried).map_err(|source| RootError::Carry { path: path.clone(), source })?;
    }
    chdir(BUILD_AT).map_err(refused("enter the new root"))?;
    make_read_only().map_err(refused("make the new root read-only"))?;
    pivot_root(".", ".").map_err(refused("swap roots"))?;
    umount2(".", MntFlags::MNT_DETACH).map_err(refused("drop the old root"))?;
    chdir("/").map_err(refused("enter the new root"))
}

/// The granted paths, parents before children, without those that a parent covers.
fn paths(plan: &JailPlan) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = plan.read.iter().chain(&plan.devices).map(|grant| grant.path.clone()).collect();
    all.sort();
    let mut kept: Vec<PathBuf> = Vec::new();
    for path in all {
        if path.is_absolute() && !kept.iter().any(|parent| path.starts_with(parent)) {
            kept.push(path);
        }
    }
    kept
}

fn hold(path: &Path) -> io::Result<Option<Carried>> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    // `/lib` is a link to `usr/lib` and stays one; `/proc/self` is a link that must be followed now.
    if metadata.is_symlink() && !path.starts_with("/proc") {
        return fs::read_link(path).map(Carried::Link).map(Some);
    }
    let file = File::options().read(true).custom_flags(libc::O_PATH | libc::O_CLOEXEC).open(path)?;
    let is_dir = file.metadata()?.is_dir();
    Ok(Some(Carried::Held { fd: file.into(), is_dir }))
}

fn carry(path: &Path, carried: &Carried) -> io::Result<()> {
    let target = Path::new(BUILD_AT).join(path.strip_prefix("/").unwrap_or(path));
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
    }
    match carried {
        Carried::Link(to) => symlink(to, &target),
        Carried::Held { fd, is_dir } => {
            if *is_dir {
                fs::create_dir_all(&target)?;
            } else {
                File::create(&target)?;
            }
            let source = format!("/proc/self/fd/{}", fd.as_raw_fd());
            let none = None::<&str>;
            Ok(mount(Some(source.as_str()), &target, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)?)
        }
    }
}

/// Makes everything below the working directory read-only and free of set-user-id programs.
///
/// No safe call does: remounting one by one would have to repeat each mount's own locked flags.
#[expect(unsafe_code, reason = "mount_setattr has no safe interface")]
fn make_read_only() -> Result<(), Errno> {
    /// `struct mount_attr` of the first version.
    #[repr(C)]
    struct MountAttr {
        set: u64,
        clear: u64,
        propagation: u64,
        user_namespace: u64,
    }
    const MOUNT_ATTR_RDONLY: u64 = 1;
    const MOUNT_ATTR_NOSUID: u64 = 2;
    const AT_RECURSIVE: libc::c_int = 0x8000;
    let attr = MountAttr { set: MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID, clear: 0, propagation: 0, user_namespace: 0 };
    // SAFETY: the path is a C string, `attr` is live and as long as stated; the kernel only reads both.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            c".".as_ptr(),
            AT_RECURSIVE,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    Errno::result(result).map(drop)
}
