//! Where everything lies; `docs/updates.md` lists it for people. All of it is below one root, so that tests have a box of
//! their own.

use std::path::{Path, PathBuf};

/// The places this program reads and writes.
#[derive(Debug, Clone)]
pub(crate) struct Paths {
    root: PathBuf,
}

impl Paths {
    pub(crate) fn below(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Any absolute path of a box, on this one.
    pub(crate) fn at(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// Where the authorities of HTTPS servers stand.
    pub(crate) fn authorities(&self) -> PathBuf {
        self.at("etc/ssl/certs/ca-certificates.crt")
    }

    /// Who may sign releases.
    pub(crate) fn release_keys(&self) -> PathBuf {
        self.at("usr/share/millrace/release-keys.json")
    }

    /// Who may sign site files.
    pub(crate) fn site_keys(&self) -> PathBuf {
        self.at("usr/share/millrace/site-keys.json")
    }

    /// What the image says of itself.
    pub(crate) fn os_release(&self) -> PathBuf {
        let etc = self.at("etc/os-release");
        if etc.exists() { etc } else { self.at("usr/lib/os-release") }
    }

    /// What of an update outlives a boot.
    pub(crate) fn state(&self) -> PathBuf {
        self.at("var/lib/millrace-update")
    }

    /// Where what is fetched waits for its installation.
    pub(crate) fn staged(&self) -> PathBuf {
        self.state().join("staged")
    }

    /// Where the gate leaves its last report.
    pub(crate) fn health(&self) -> PathBuf {
        self.state().join("health")
    }

    /// What the site file said.
    pub(crate) fn site(&self) -> PathBuf {
        self.at("var/lib/millrace-site")
    }

    /// The file that keeps node and signer from starting.
    pub(crate) fn safe_mode(&self) -> PathBuf {
        self.at("run/millrace-update/safe-mode")
    }

    /// The program that joins radio networks, in images that have it.
    pub(crate) fn wpa_supplicant(&self) -> PathBuf {
        self.at("usr/sbin/wpa_supplicant")
    }

    /// The running root's file system, as dm-verity gives it.
    pub(crate) fn running_root(&self) -> PathBuf {
        self.at("dev/mapper/root")
    }

    /// The TPM, behind the kernel's resource manager.
    pub(crate) fn tpm(&self) -> PathBuf {
        self.at("dev/tpmrm0")
    }

    /// The encrypted partition that `/var` is on.
    pub(crate) fn var_partition(&self) -> PathBuf {
        self.at("dev/disk/by-partlabel/millrace-var")
    }

    /// Where the EFI system partition is mounted.
    pub(crate) fn boot(&self) -> PathBuf {
        self.at("boot")
    }

    /// Where EFI variables are files.
    pub(crate) fn efivars(&self) -> PathBuf {
        self.at("sys/firmware/efi/efivars")
    }
}
