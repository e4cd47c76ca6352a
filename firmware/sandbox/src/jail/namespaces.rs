//! Own views of users, mounts, shared memory, networks and host names.
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};

use super::{Layers, write_own};

/// What the worker is called inside, whatever it is outside.
const NOBODY: u32 = 65534;

/// The views that are taken besides the users'.
const OTHERS: [(CloneFlags, &str); 4] = [
    (CloneFlags::CLONE_NEWNS, "mount-namespace"),
    (CloneFlags::CLONE_NEWIPC, "ipc-namespace"),
    (CloneFlags::CLONE_NEWNET, "network-namespace"),
    (CloneFlags::CLONE_NEWUTS, "uts-namespace"),
];

/// Enters as many namespaces as the kernel allows.
///
/// The user namespace comes first and is taken as root too: it is what makes the others possible for an
/// ordinary user, and what makes root's powers end at the jail's wall. Some systems forbid it; root then
/// still gets the others.
pub(super) fn enter(layers: &mut Layers) {
    let (uid, gid) = (geteuid(), getegid());
    match unshare(CloneFlags::CLONE_NEWUSER) {
        Ok(()) => {
            layers.add("user-namespace");
            // Unmapped works too, as nobody; the maps only make it so by name.
            let maps = write_own("setgroups", "deny")
                .and_then(|()| write_own("uid_map", &format!("{NOBODY} {uid} 1")))
                .and_then(|()| write_own("gid_map", &format!("{NOBODY} {gid} 1")));
            if let Err(error) = maps {
                layers.lack("user-map", error);
            }
        }
        Err(errno) => layers.lack("user-namespace", why(errno)),
    }
    for (flag, layer) in OTHERS {
        layers.record(layer, unshare(flag).map_err(why));
    }
}

/// The refusal in words that say what to change.
fn why(errno: Errno) -> &'static str {
    match errno {
        Errno::ENOSPC => "none are left to be made (sysctl user.max_user_namespaces and its kin)",
        Errno::EPERM => {
            "not permitted (no privilege; for the user namespace: AppArmor, a container, a chroot or a sysctl forbids it)"
        }
        Errno::EINVAL | Errno::ENOSYS => "not built into the kernel",
        other => other.desc(),
    }
}
