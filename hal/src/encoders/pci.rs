//! Graphics processors on the PCI bus, and all render nodes.
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{AMD, INTEL, NVIDIA, cards};
use crate::read::Root;

/// One graphics processor on the PCI bus.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gpu {
    /// Where on the bus, e.g. `0000:01:00.0`.
    pub address: String,
    /// Vendor number.
    pub vendor: u16,
    /// Device number.
    pub device: u16,
    /// Its name, as its driver says or our list knows.
    pub name: Option<String>,
    /// What it is made for.
    pub kind: GpuKind,
    /// May it have an encoder? `false` only where its silicon is known to have none.
    pub encodes: bool,
    /// May it have a decoder? `false` only where its silicon is known to have none.
    pub decodes: bool,
    /// Kernel driver in charge of it, if any.
    pub driver: Option<String>,
    /// Its render node, if any.
    pub render_node: Option<PathBuf>,
    /// Number of its own node of NVIDIA's driver: 0 stands for `/dev/nvidia0`.
    pub minor: Option<u32>,
}

impl Gpu {
    /// The vendor's name.
    #[must_use]
    pub fn vendor_name(&self) -> &'static str {
        match self.vendor {
            NVIDIA => "NVIDIA",
            INTEL => "Intel",
            AMD => "AMD",
            0x1af4 => "virtio",
            0x1013 | 0x1234 | 0x15ad | 0x1b36 => "emulated",
            _ => "unknown vendor",
        }
    }

    /// Vendor, name or device number, and place on the bus, for a sentence.
    #[must_use]
    pub fn described(&self) -> String {
        let vendor = self.vendor_name();
        match &self.name {
            Some(name) if name.starts_with(vendor) => format!("{name} at {}", self.address),
            Some(name) => format!("{vendor} {name} at {}", self.address),
            None => format!("{vendor} card {:04x} at {}", self.device, self.address),
        }
    }
}

/// What a graphics processor is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GpuKind {
    /// Part of the main processor.
    Integrated,
    /// A card for desktops and workstations.
    Desktop,
    /// A card for data centres.
    DataCentre,
    /// Made up by a hypervisor.
    Virtual,
    /// Anything else.
    Other,
}

/// One render node of the kernel's graphics drivers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenderNode {
    /// The node, e.g. `/dev/dri/renderD128`.
    pub node: PathBuf,
    /// The driver behind it, e.g. `i915`, `amdgpu`, `nvidia`, `v3d`.
    pub driver: Option<String>,
}

/// Display controllers and processing accelerators.
pub(super) fn gpus(root: &Root) -> Vec<Gpu> {
    root.names(BUS).into_iter().filter_map(|address| gpu(root, address)).collect()
}

const BUS: &str = "sys/bus/pci/devices";

fn gpu(root: &Root, address: String) -> Option<Gpu> {
    let dir = Path::new(BUS).join(&address);
    let class = hex(&root.text(dir.join("class"))?)?;
    let (display, accelerator) = (0x03, 0x12);
    if ![display, accelerator].contains(&(class >> 16)) {
        return None;
    }
    let id = |file: &str| u16::try_from(hex(&root.text(dir.join(file))?)?).ok();
    let (vendor, device) = (id("vendor")?, id("device")?);
    let driver = root.link_name(dir.join("driver"));
    let information = root
        .text(Path::new("proc/driver/nvidia/gpus").join(&address).join("information"))
        .filter(|_| vendor == NVIDIA)
        .unwrap_or_default();
    let known = cards::look_up(vendor, device);
    let told = information_field(&information, "Model").filter(|name| !name.is_empty() && *name != "Unknown");
    let without = told.is_some_and(cards::named_without_encoder);
    let kind = match (known, vendor) {
        (Some(known), _) => known.kind,
        (None, NVIDIA) if without => GpuKind::DataCentre,
        (None, NVIDIA) => GpuKind::Desktop,
        (None, INTEL) => GpuKind::Integrated,
        // AMD's integrated graphics sit on a bus of their own too; nothing tells them from cards but the list.
        (None, AMD) => GpuKind::Other,
        (None, 0x1af4 | 0x1013 | 0x1234 | 0x15ad | 0x1b36) => GpuKind::Virtual,
        (None, _) => GpuKind::Other,
    };
    let render = root.nodes(dir.join("drm"), |name| name.starts_with("renderD")).into_iter().next();
    Some(Gpu {
        vendor,
        device,
        name: told.map(str::to_owned).or_else(|| known.map(|known| known.name.to_owned())),
        kind,
        encodes: known.is_none_or(|known| known.encodes) && !without,
        decodes: known.is_none_or(|known| known.decodes),
        driver,
        render_node: render.map(|name| Path::new("/dev/dri").join(name)),
        minor: information_field(&information, "Device Minor").and_then(|minor| minor.parse().ok()),
        address,
    })
}

/// A field of the texts NVIDIA's driver shows for each card.
fn information_field<'a>(information: &'a str, name: &str) -> Option<&'a str> {
    information.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim())
    })
}

/// A number written as `0x…`.
fn hex(text: &str) -> Option<u32> {
    u32::from_str_radix(text.trim().strip_prefix("0x")?, 16).ok()
}

/// All render nodes with their drivers.
pub(super) fn render_nodes(root: &Root) -> Vec<RenderNode> {
    let class = Path::new("sys/class/drm");
    let node = |name: String| RenderNode {
        driver: root.link_name(class.join(&name).join("device/driver")),
        node: Path::new("/dev/dri").join(name),
    };
    root.names(class).into_iter().filter(|name| name.starts_with("renderD")).map(node).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_the_driver_says_of_a_card_is_understood() {
        let text = "Model: \t\t NVIDIA GeForce RTX 4090\nIRQ:   \t\t 161\nDevice Minor: \t 3\n";
        assert_eq!(information_field(text, "Model"), Some("NVIDIA GeForce RTX 4090"));
        assert_eq!(information_field(text, "Device Minor"), Some("3"));
        assert_eq!(information_field(text, "Blacklisted"), None);
    }

    proptest! {
        #[test]
        fn numbers_come_back_as_written(number in any::<u32>()) {
            prop_assert_eq!(hex(&format!("0x{number:06x}\n")), Some(number));
        }

        #[test]
        fn no_text_is_too_strange(text in "(?s).{0,200}") {
            let _ = (hex(&text), information_field(&text, "Model"));
        }
    }
}
