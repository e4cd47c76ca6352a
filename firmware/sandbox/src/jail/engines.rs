//! What each engine's drivers read besides what every worker may: the one place where an engine widens the jail.
//!
//! Device nodes are not here: they are those of the box, as `hal` found them, and come with the choice of the engine.
//! Written from the drivers' sources and documentation; an engine that misses a file fails its proof and says so.
use super::Grant;

/// Files by engine, each with the reason.
const READS: [(&str, &[(&str, &str)]); 5] = [
    (
        "nvidia",
        &[
            ("/proc/driver/nvidia", "the driver's library reads which cards there are"),
            ("/proc/devices", "the driver's library looks for its own major number"),
            ("/proc/modules", "the driver's library looks for the kernel's part"),
            ("/proc/cpuinfo", "the driver's library asks what processor this is"),
            ("/proc/sys/vm/mmap_min_addr", "the driver's library plans its address space"),
            ("/sys/bus/pci", "which card is which"),
            ("/sys/devices", "the same, behind the links"),
        ],
    ),
    (
        "jetson",
        &[
            ("/proc/device-tree", "which board this is"),
            ("/sys/firmware/devicetree", "the same, behind the link"),
            ("/proc/cpuinfo", "NVIDIA's libraries ask what processor this is"),
            ("/etc/nv_tegra_release", "which release of NVIDIA's system this is"),
            ("/sys/devices/soc0", "which chip this is"),
            ("/sys/module", "which of NVIDIA's modules are loaded"),
            ("/opt/nvidia", "NVIDIA's libraries, where some releases keep them"),
        ],
    ),
    ("va", &[DRM_DEVICES, DRM_CLASS, DRM_LINKS, DRIVER_FILES]),
    ("qsv", &[DRM_DEVICES, DRM_CLASS, DRM_LINKS, DRIVER_FILES]),
    (
        "v4l2",
        &[
            ("/sys/class/video4linux", "which device is which"),
            ("/sys/dev/char", "from a device's number to its directory"),
            ("/sys/devices", "the same, behind the links"),
        ],
    ),
];
const DRM_DEVICES: (&str, &str) = ("/sys/devices", "libdrm reads the card's vendor and device number");
const DRM_CLASS: (&str, &str) = ("/sys/class/drm", "libdrm looks for the card");
const DRM_LINKS: (&str, &str) = ("/sys/dev/char", "libdrm goes from a node's number to its card");
const DRIVER_FILES: (&str, &str) = ("/usr/share/libdrm", "libdrm's table of AMD's cards");

/// Grants for an engine by its name; for `nvidia+software` those of both.
pub(super) fn reads(engine: &str) -> impl Iterator<Item = Grant> {
    let names: Vec<&str> = engine.split('+').collect();
    let named = READS.into_iter().filter(move |(name, _)| names.contains(name));
    named.flat_map(|(_, reads)| reads.iter().map(|(path, reason)| Grant::new(*path, reason)))
}
