//! Which silicon could encode, and why the rest could not.
//!
//! Detection is light: files below a root directory, no driver is opened. What it accepts is a candidate;
//! `worker::probe` proves it by encoding.
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::identity::Identity;
use crate::read;
use crate::units::Bytes;

mod candidates;

/// Finds out what the box has.
pub trait Encoders: Send + Sync + 'static {
    /// Looks now. Reads files; not to be called from an async task's own thread.
    fn detect(&self) -> Hardware;
}

/// The system's hardware, below a root directory.
#[derive(Debug, Clone)]
pub struct LinuxEncoders {
    root: PathBuf,
}

impl LinuxEncoders {
    /// Reads below `root` (`/` on a real system).
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }
}

impl Encoders for LinuxEncoders {
    fn detect(&self) -> Hardware {
        detect(&self.root)
    }
}

/// Hardware as told.
#[derive(Debug, Clone)]
pub struct SimEncoders(pub Hardware);

impl Encoders for SimEncoders {
    fn detect(&self) -> Hardware {
        self.0.clone()
    }
}

/// What a box has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hardware {
    /// Which box it is.
    pub identity: Identity,
    /// Its processor.
    pub processor: Processor,
    /// Its memory.
    pub memory: Option<Bytes>,
    /// Its graphics processors.
    pub gpus: Vec<Gpu>,
    /// Its video devices of the V4L2 kind.
    pub video_devices: Vec<VideoDevice>,
    /// Every engine we know, best first, each accepted or refused with the reason.
    pub candidates: Vec<Candidate>,
}

impl Hardware {
    /// Engines worth probing, best first; software is always one.
    pub fn accepted(&self) -> impl Iterator<Item = &Candidate> {
        self.candidates.iter().filter(|candidate| candidate.verdict == Verdict::Accepted)
    }
}

/// The main processor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Processor {
    /// Its name, where it has one.
    pub model: Option<String>,
    /// Kind of instruction set, e.g. `x86_64`.
    pub architecture: String,
    /// Processors the system runs on.
    pub threads: usize,
    /// Vector extensions encoders profit from.
    pub vectors: Vec<String>,
}

/// One graphics processor on the PCI bus.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gpu {
    /// Where on the bus, e.g. `0000:01:00.0`.
    pub address: String,
    /// Vendor number.
    pub vendor: u16,
    /// Device number.
    pub device: u16,
    /// Kernel driver in charge of it, if any.
    pub driver: Option<String>,
    /// Its render node, if any.
    pub render_node: Option<PathBuf>,
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
}

/// One V4L2 device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VideoDevice {
    /// Its node, e.g. `/dev/video11`.
    pub node: PathBuf,
    /// What its driver calls it.
    pub name: String,
}

/// A way to encode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Engine {
    /// NVIDIA's encoder on a graphics card.
    Nvenc,
    /// NVIDIA's encoder on a Jetson board.
    Jetson,
    /// Intel's or AMD's encoder by way of VA-API.
    Vaapi,
    /// A board's stateful V4L2 encoder.
    V4l2,
    /// The main processor.
    Software,
}

impl Engine {
    /// Its name in logs, reports and configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Nvenc => "nvenc",
            Self::Jetson => "jetson",
            Self::Vaapi => "vaapi",
            Self::V4l2 => "v4l2",
            Self::Software => "software",
        }
    }
}

/// What detection says of one engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// The engine.
    pub engine: Engine,
    /// Worth probing or not.
    pub verdict: Verdict,
    /// Why.
    pub reason: String,
    /// Device nodes a worker needs for it.
    pub nodes: Vec<PathBuf>,
}

/// Worth probing or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// All it takes seems to be there.
    Accepted,
    /// Something it takes is missing.
    Refused,
}

const NVIDIA: u16 = 0x10de;
const INTEL: u16 = 0x8086;
const AMD: u16 = 0x1002;

/// What the system below `root` has (`/` on a real one).
#[must_use]
pub fn detect(root: &Path) -> Hardware {
    let mut hardware = Hardware {
        identity: Identity::read(root),
        processor: processor(root),
        memory: read::text(root, "proc/meminfo").and_then(|text| memory_total(&text)),
        gpus: gpus(root),
        video_devices: video_devices(root),
        candidates: Vec::new(),
    };
    hardware.candidates = candidates::judge(root, &hardware);
    hardware
}

fn processor(root: &Path) -> Processor {
    let cpuinfo = read::text(root, "proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        cpuinfo.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            (key.trim() == name).then(|| value.trim().to_owned())
        })
    };
    let flags = field("flags").or_else(|| field("Features")).unwrap_or_default();
    let known = ["sse4_2", "avx", "avx2", "avx512f", "asimd", "sve"];
    let vectors = known.into_iter().filter(|known| flags.split(' ').any(|flag| flag == *known));
    let listed = cpuinfo.lines().filter(|line| line.split(':').next().is_some_and(|key| key.trim() == "processor"));
    Processor {
        model: field("model name").or_else(|| field("Model")),
        architecture: std::env::consts::ARCH.to_owned(),
        threads: listed.count(),
        vectors: vectors.map(str::to_owned).collect(),
    }
}

fn memory_total(meminfo: &str) -> Option<Bytes> {
    let rest = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    rest.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024).map(Bytes)
}

/// Display controllers and processing accelerators.
fn gpus(root: &Path) -> Vec<Gpu> {
    let bus = Path::new("sys/bus/pci/devices");
    let gpu = |address: String| {
        let dir = bus.join(&address);
        let class = hex(&read::text(root, dir.join("class"))?)?;
        let (display, accelerator) = (0x03, 0x12);
        if ![display, accelerator].contains(&(class >> 16)) {
            return None;
        }
        let id = |file: &str| u16::try_from(hex(&read::text(root, dir.join(file))?)?).ok();
        let render = read::names(root, dir.join("drm")).into_iter().find(|name| name.starts_with("renderD"));
        Some(Gpu {
            vendor: id("vendor")?,
            device: id("device")?,
            driver: read::link_name(root, dir.join("driver")),
            render_node: render.map(|name| Path::new("/dev/dri").join(name)),
            address,
        })
    };
    read::names(root, bus).into_iter().filter_map(gpu).collect()
}

/// A number written as `0x…`.
fn hex(text: &str) -> Option<u32> {
    u32::from_str_radix(text.trim().strip_prefix("0x")?, 16).ok()
}

fn video_devices(root: &Path) -> Vec<VideoDevice> {
    let class = Path::new("sys/class/video4linux");
    let device = |node: String| {
        let name = read::text(root, class.join(&node).join("name"))?;
        Some(VideoDevice { node: Path::new("/dev").join(&node), name })
    };
    let nodes = read::names(root, class).into_iter().filter(|name| name.starts_with("video"));
    nodes.filter_map(device).collect()
}

#[cfg(test)]
mod tests;
