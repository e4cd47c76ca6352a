//! Which box this is.
use std::path::Path;

use hmac::{Hmac, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use crate::read::Root;

/// What the box calls itself. All of it is for people and for telling boxes apart; none of it is a secret
/// or a proof.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Identity {
    /// The operating system's number for this installation. Meant to stay on the box: send the hash instead.
    /// Left out when this is written.
    #[serde(skip_serializing, default)]
    pub machine_id: Option<String>,
    /// A number derived from it, of 32 hexadecimal digits: it tells boxes apart and gives nothing away.
    pub machine_hash: Option<String>,
    /// The maker's serial number, where one can be read.
    pub serial: Option<String>,
    /// The board or product.
    pub model: Option<String>,
    /// Who made it.
    pub vendor: Option<String>,
    /// Name and version of the operating system.
    pub system: Option<String>,
    /// Version of the kernel.
    pub kernel: Option<String>,
    /// Whether the kernel drives a TPM 2.0: without one, what is on the box's disk is open to whoever takes it.
    #[serde(default)]
    pub tpm: bool,
}

/// What makers write where they wrote nothing.
const FILLERS: [&str; 7] =
    ["", "none", "default string", "not specified", "to be filled by o.e.m.", "system serial number", "0"];

impl Identity {
    /// Reads it from the system below `root` (`/` on a real one).
    #[must_use]
    pub fn read(root: &Path) -> Self {
        Self::read_in(&Root::new(root))
    }

    pub(crate) fn read_in(root: &Root) -> Self {
        let first = |paths: &[&str]| {
            let mut texts = paths.iter().filter_map(|path| root.text(path));
            texts.find(|text| !FILLERS.contains(&text.trim().to_ascii_lowercase().as_str()))
        };
        let machine_id = first(&["etc/machine-id"]).filter(|id| is_machine_id(id));
        Self {
            machine_hash: machine_id.as_deref().map(machine_hash),
            machine_id,
            serial: first(&[
                "proc/device-tree/serial-number",
                "sys/class/dmi/id/product_serial",
                "sys/class/dmi/id/board_serial",
            ]),
            model: first(&["proc/device-tree/model", "sys/class/dmi/id/product_name", "sys/class/dmi/id/board_name"]),
            vendor: first(&["sys/class/dmi/id/sys_vendor", "sys/class/dmi/id/board_vendor"]),
            system: root.text("etc/os-release").and_then(|text| pretty_name(&text)),
            kernel: first(&["proc/sys/kernel/osrelease"]),
            tpm: root.text("sys/class/tpm/tpm0/tpm_version_major").is_some_and(|major| major == "2"),
        }
    }
}

/// As the manual page of `machine-id` asks for: a hash for one application, with the number as the key.
fn machine_hash(id: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(id.as_bytes()).expect("HMAC takes a key of any length");
    mac.update(b"millrace");
    let mut hash = hex::encode(mac.finalize().into_bytes());
    hash.truncate(32);
    hash
}

fn is_machine_id(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn pretty_name(os_release: &str) -> Option<String> {
    let value = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    let value = value.trim_matches(['"', '\'']);
    (!value.is_empty()).then(|| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read::fixture;

    #[test]
    fn a_board_is_known_by_its_device_tree() {
        let root = fixture(&[
            ("proc/device-tree/model", "NVIDIA Jetson AGX Orin Developer Kit\0"),
            ("proc/device-tree/serial-number", "1423921012345\0"),
            ("etc/machine-id", "0123456789abcdef0123456789abcdef\n"),
            ("etc/os-release", "NAME=\"Debian\"\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n"),
        ]);
        let identity = Identity::read(root.path());
        assert_eq!(identity.model.as_deref(), Some("NVIDIA Jetson AGX Orin Developer Kit"));
        assert_eq!(identity.serial.as_deref(), Some("1423921012345"));
        assert_eq!(identity.machine_id.as_deref(), Some("0123456789abcdef0123456789abcdef"));
        let hash = identity.machine_hash.clone().unwrap();
        assert!(hash.len() == 32 && hash != "0123456789abcdef0123456789abcdef", "{hash}");
        assert_eq!(identity.system.as_deref(), Some("Debian GNU/Linux 12 (bookworm)"));
        assert!(!identity.tpm, "there is none");
    }

    #[test]
    fn only_a_tpm_of_the_second_version_counts() {
        for (major, counts) in [("2\n", true), ("1\n", false)] {
            let root = fixture(&[("sys/class/tpm/tpm0/tpm_version_major", major)]);
            assert_eq!(Identity::read(root.path()).tpm, counts, "version {major}");
        }
    }

    #[test]
    fn fillers_and_nonsense_count_as_nothing() {
        let root = fixture(&[
            ("sys/class/dmi/id/product_serial", "To be filled by O.E.M.\n"),
            ("sys/class/dmi/id/board_serial", "AB12\n"),
            ("sys/class/dmi/id/product_name", "Default string\n"),
            ("etc/machine-id", "uninitialized\n"),
        ]);
        let identity = Identity::read(root.path());
        assert_eq!(identity.serial.as_deref(), Some("AB12"));
        assert_eq!((identity.model, identity.machine_id), (None, None));
    }
}
