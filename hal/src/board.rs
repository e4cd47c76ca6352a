//! Which board it is, told by its device tree, its processor and its firmware.
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::read::Root;

/// Kinds of boards that differ in what they can encode or how they are measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Board {
    /// NVIDIA Jetson Orin NX.
    JetsonOrinNx,
    /// NVIDIA Jetson AGX Orin.
    JetsonAgxOrin,
    /// NVIDIA Jetson Orin Nano: decodes, has no encoder.
    JetsonOrinNano,
    /// NVIDIA Jetson Xavier NX.
    JetsonXavierNx,
    /// NVIDIA Jetson AGX Xavier.
    JetsonAgxXavier,
    /// NVIDIA Jetson Thor.
    JetsonThor,
    /// A Jetson before Xavier (TX1, TX2, Nano), which NVIDIA no longer maintains.
    JetsonOld,
    /// A board with an NVIDIA Tegra we do not know.
    JetsonOther,
    /// Raspberry Pi 4 and its kin, with a V4L2 encoder.
    RaspberryPi4,
    /// Raspberry Pi 5 and its kin, without any encoder.
    RaspberryPi5,
    /// Another Raspberry Pi.
    RaspberryPi,
    /// A computer with an x86 processor.
    X86,
    /// A computer or board with an Arm processor.
    Arm,
    /// A virtual machine of any processor.
    VirtualMachine,
    /// Anything else.
    Other,
}

impl Board {
    /// Its name for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::JetsonOrinNx => "Jetson Orin NX",
            Self::JetsonAgxOrin => "Jetson AGX Orin",
            Self::JetsonOrinNano => "Jetson Orin Nano",
            Self::JetsonXavierNx => "Jetson Xavier NX",
            Self::JetsonAgxXavier => "Jetson AGX Xavier",
            Self::JetsonThor => "Jetson Thor",
            Self::JetsonOld => "Jetson before Xavier",
            Self::JetsonOther => "board with an unknown NVIDIA Tegra",
            Self::RaspberryPi4 => "Raspberry Pi 4",
            Self::RaspberryPi5 => "Raspberry Pi 5",
            Self::RaspberryPi => "Raspberry Pi",
            Self::X86 => "x86 computer",
            Self::Arm => "Arm computer",
            Self::VirtualMachine => "virtual machine",
            Self::Other => "computer of an unknown kind",
        }
    }

    /// Is it one of NVIDIA's Tegra boards?
    #[must_use]
    pub fn is_jetson(self) -> bool {
        matches!(
            self,
            Self::JetsonOrinNx
                | Self::JetsonAgxOrin
                | Self::JetsonOrinNano
                | Self::JetsonXavierNx
                | Self::JetsonAgxXavier
                | Self::JetsonThor
                | Self::JetsonOld
                | Self::JetsonOther
        )
    }

    /// Can its encoder, if it has one, write AV1? Only Orin's can.
    #[must_use]
    pub fn encodes_av1(self) -> bool {
        matches!(self, Self::JetsonOrinNx | Self::JetsonAgxOrin)
    }

    pub(crate) fn read(root: &Root, architecture: &str, virtual_machine: bool) -> Self {
        let compatible = root.text("proc/device-tree/compatible").unwrap_or_default();
        let model = root.text("proc/device-tree/model").unwrap_or_default();
        if let Some(board) = from_tree(&compatible, &model) {
            return board;
        }
        match architecture {
            _ if virtual_machine => Self::VirtualMachine,
            "x86_64" | "x86" => Self::X86,
            "aarch64" | "arm" => Self::Arm,
            _ => Self::Other,
        }
    }
}

impl fmt::Display for Board {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// *Source:* the `compatible` strings of L4T's and the kernel's device trees: `nvidia,<carrier>+<module>`, where
/// a module is `p<number>-<sku>`, perhaps with a suffix.
fn from_tree(compatible: &str, model: &str) -> Option<Board> {
    let parts = || compatible.split('\0');
    let has = |prefix: &str| parts().any(|part| part.starts_with(prefix));
    if has("raspberrypi,") || has("brcm,bcm27") {
        return Some(match () {
            () if has("raspberrypi,4") || has("raspberrypi,400") || has("brcm,bcm2711") => Board::RaspberryPi4,
            () if has("raspberrypi,5") || has("brcm,bcm2712") => Board::RaspberryPi5,
            () => Board::RaspberryPi,
        });
    }
    let modules = parts().filter_map(|part| part.strip_prefix("nvidia,")).flat_map(|part| part.split('+'));
    if let Some(board) = modules.filter_map(module).next() {
        return Some(board);
    }
    if !has("nvidia,tegra") {
        return None;
    }
    // A carrier of another maker may hide the module; its model says it as a rule.
    let named = [
        ("Orin Nano", Board::JetsonOrinNano),
        ("Orin NX", Board::JetsonOrinNx),
        ("AGX Orin", Board::JetsonAgxOrin),
        ("Xavier NX", Board::JetsonXavierNx),
        ("AGX Xavier", Board::JetsonAgxXavier),
        ("Thor", Board::JetsonThor),
    ];
    let by_name = named.into_iter().find(|(name, _)| model.contains(name)).map(|(_, board)| board);
    Some(by_name.unwrap_or(match () {
        () if has("nvidia,tegra264") => Board::JetsonThor,
        () if has("nvidia,tegra210") || has("nvidia,tegra186") => Board::JetsonOld,
        () => Board::JetsonOther,
    }))
}

fn module(part: &str) -> Option<Board> {
    let mut fields = part.split('-');
    let (number, sku) = (fields.next()?, fields.next().unwrap_or_default());
    Some(match (number, sku) {
        ("p3767", "0003" | "0004" | "0005") => Board::JetsonOrinNano,
        ("p3767", _) => Board::JetsonOrinNx,
        ("p3701", _) => Board::JetsonAgxOrin,
        ("p3668", _) => Board::JetsonXavierNx,
        ("p2888" | "p2972", _) => Board::JetsonAgxXavier,
        ("p3834", _) => Board::JetsonThor,
        ("p3448" | "p3450" | "p2180" | "p2371" | "p3310" | "p2771" | "p3489" | "p3636", _) => Board::JetsonOld,
        _ => return None,
    })
}

/// What runs the system as a guest, if anything does.
pub(crate) fn hypervisor(root: &Root, cpuinfo: &str) -> Option<String> {
    let vendors = [
        ("QEMU", "QEMU"),
        ("KVM", "KVM"),
        ("VMware", "VMware"),
        ("innotek", "VirtualBox"),
        ("Xen", "Xen"),
        ("Amazon EC2", "Amazon EC2"),
        ("Google", "Google Compute Engine"),
        ("Parallels", "Parallels"),
        ("Bochs", "Bochs"),
        ("OpenStack", "OpenStack"),
        ("DigitalOcean", "DigitalOcean"),
        ("Hetzner", "Hetzner"),
    ];
    let flagged = cpuinfo.lines().any(|line| {
        let Some((key, flags)) = line.split_once(':') else { return false };
        key.trim() == "flags" && flags.split(' ').any(|flag| flag == "hypervisor")
    });
    let dmi = ["sys/class/dmi/id/sys_vendor", "sys/class/dmi/id/product_name", "sys/class/dmi/id/bios_vendor"];
    let dmi = dmi.iter().filter_map(|path| root.text(path)).collect::<Vec<_>>().join("\n");
    let kind = root.text("sys/hypervisor/type").filter(|kind| !kind.is_empty());
    let virtual_tree = root.text("proc/device-tree/compatible").is_some_and(|text| text.contains("linux,dummy-virt"));
    // Bare machines of these makers exist too, so that on x86 the flag decides.
    let x86 = cpuinfo.contains("vendor_id");
    let named = vendors.iter().find(|(mark, _)| dmi.contains(mark)).map(|(_, name)| (*name).to_owned());
    match (flagged, x86) {
        (true, _) => Some(named.or(kind).unwrap_or_else(|| "a hypervisor without a name".to_owned())),
        (false, true) => None,
        (false, false) => kind
            .or(named.filter(|name| name == "QEMU" || name == "KVM"))
            .or_else(|| virtual_tree.then(|| "QEMU".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::read::fixture;

    #[test]
    fn modules_are_told_apart_by_number_and_sku() {
        let cases = [
            ("nvidia,p3509-0000+p3767-0000\0nvidia,p3767-0000\0nvidia,tegra234", Board::JetsonOrinNx),
            ("nvidia,p3768-0000+p3767-0001-super\0nvidia,p3767-0001\0nvidia,tegra234", Board::JetsonOrinNx),
            ("nvidia,p3768-0000+p3767-0005-super\0nvidia,p3767-0005\0nvidia,tegra234", Board::JetsonOrinNano),
            ("nvidia,p3768-0000+p3767-0004\0nvidia,tegra234", Board::JetsonOrinNano),
            ("nvidia,p3737-0000+p3701-0005\0nvidia,p3701-0005\0nvidia,tegra234", Board::JetsonAgxOrin),
            ("nvidia,p3509-0000+p3668-0001\0nvidia,tegra194", Board::JetsonXavierNx),
            ("nvidia,p2822-0000+p2888-0004\0nvidia,tegra194", Board::JetsonAgxXavier),
            ("nvidia,p2972-0000\0nvidia,tegra194", Board::JetsonAgxXavier),
            ("nvidia,p4071-0000+p3834-0008\0nvidia,p3834-0008\0nvidia,tegra264", Board::JetsonThor),
            ("nvidia,p3450-0000\0nvidia,tegra210", Board::JetsonOld),
            ("someone,carrier\0nvidia,tegra999", Board::JetsonOther),
            ("raspberrypi,4-model-b\0brcm,bcm2711", Board::RaspberryPi4),
            ("raspberrypi,5-model-b\0brcm,bcm2712", Board::RaspberryPi5),
            ("raspberrypi,3-model-b\0brcm,bcm2837", Board::RaspberryPi),
        ];
        for (compatible, board) in cases {
            assert_eq!(from_tree(compatible, ""), Some(board), "{compatible:?}");
        }
        assert_eq!(from_tree("fsl,imx8mp-evk\0fsl,imx8mp", ""), None);
    }

    #[test]
    fn another_makers_carrier_is_known_by_its_model() {
        let board = from_tree("maker,box-1\0nvidia,tegra234", "Maker Box with Jetson Orin Nano");
        assert_eq!(board, Some(Board::JetsonOrinNano));
    }

    #[test]
    fn a_guest_is_told_from_a_server_of_the_same_maker() {
        let guest = "vendor_id\t: GenuineIntel\nflags\t\t: fpu hypervisor sse4_2\n";
        let bare = "vendor_id\t: GenuineIntel\nflags\t\t: fpu sse4_2\n";
        let root = fixture(&[("sys/class/dmi/id/sys_vendor", "Amazon EC2\n")]);
        let root = Root::new(root.path());
        assert_eq!(hypervisor(&root, guest).as_deref(), Some("Amazon EC2"));
        assert_eq!(hypervisor(&root, bare), None);
    }

    proptest! {
        #[test]
        fn no_tree_is_too_strange(compatible in "(?s).{0,100}", model in "(?s).{0,60}") {
            let _ = from_tree(&compatible, &model);
        }
    }
}
