//! Which silicon could decode and encode, and why the rest could not.
//!
//! Detection is light: files below a root directory, no driver is opened. What it accepts is a candidate;
//! `worker::probe` proves it by encoding.
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::board::{self, Board};
use crate::identity::Identity;
use crate::read::Root;
use crate::units::Bytes;

mod candidates;
mod cards;
mod choices;
mod pci;
mod processor;
mod versions;

pub use choices::Choice;
pub use pci::{Gpu, GpuKind, RenderNode};
pub use processor::Processor;

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
    /// Which kind of board it is.
    pub board: Board,
    /// What runs the system as a guest, if anything does.
    pub hypervisor: Option<String>,
    /// Its processor.
    pub processor: Processor,
    /// Its memory.
    pub memory: Option<Bytes>,
    /// Its graphics processors.
    pub gpus: Vec<Gpu>,
    /// Its render nodes, also of graphics that are not on the PCI bus.
    pub render_nodes: Vec<RenderNode>,
    /// Its video devices of the V4L2 kind.
    pub video_devices: Vec<VideoDevice>,
    /// Versions of the drivers in charge, by name; `l4t` is that of Jetson's system.
    pub drivers: BTreeMap<String, String>,
    /// Every engine we know as an encoder, best first, each accepted or refused with the reason. An engine that
    /// several devices offer stands there once for each.
    pub candidates: Vec<Candidate>,
    /// The same as decoders; a box may well decode in hardware and encode in software.
    pub decoders: Vec<Candidate>,
}

impl Hardware {
    /// Encoders worth probing, best first; software is always one.
    pub fn accepted(&self) -> impl Iterator<Item = &Candidate> {
        self.candidates.iter().filter(|candidate| candidate.verdict == Verdict::Accepted)
    }

    /// Decoders worth probing, best first; software is always one.
    pub fn accepted_decoders(&self) -> impl Iterator<Item = &Candidate> {
        self.decoders.iter().filter(|candidate| candidate.verdict == Verdict::Accepted)
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

/// A way to encode or decode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Engine {
    /// NVIDIA's video engines on a graphics card.
    Nvidia,
    /// NVIDIA's video engines on a Jetson board.
    Jetson,
    /// Intel's or AMD's video engines by way of VA-API.
    Va,
    /// Intel's video engines by way of oneVPL; the silicon is that of VA-API.
    Qsv,
    /// A board's stateful V4L2 device.
    V4l2,
    /// The main processor.
    Software,
}

impl Engine {
    /// All of them, best first.
    pub const ALL: [Self; 6] = [Self::Jetson, Self::Nvidia, Self::Va, Self::Qsv, Self::V4l2, Self::Software];

    /// Its name in logs, reports and configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Nvidia => "nvidia",
            Self::Jetson => "jetson",
            Self::Va => "va",
            Self::Qsv => "qsv",
            Self::V4l2 => "v4l2",
            Self::Software => "software",
        }
    }
}

/// What detection says of one engine on one device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// The engine.
    pub engine: Engine,
    /// The device that offers it: an address on the bus or a device node; `None` for software and for what is not there.
    pub device: Option<String>,
    /// Worth probing or not.
    pub verdict: Verdict,
    /// Why, in words a person can act on.
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

/// Vendor numbers on the PCI bus.
const NVIDIA: u16 = 0x10de;
const INTEL: u16 = 0x8086;
const AMD: u16 = 0x1002;

/// What the system below `root` has (`/` on a real one).
#[must_use]
pub fn detect(root: &Path) -> Hardware {
    detect_in(&Root::new(root))
}

pub(crate) fn detect_in(root: &Root) -> Hardware {
    let cpuinfo = root.text("proc/cpuinfo").unwrap_or_default();
    let processor = processor::read(root, &cpuinfo);
    let hypervisor = board::hypervisor(root, &cpuinfo);
    let board = Board::read(root, &processor.architecture, hypervisor.is_some());
    let gpus = pci::gpus(root);
    let render_nodes = pci::render_nodes(root);
    let drivers = versions::read(root, &gpus, &render_nodes);
    let mut hardware = Hardware {
        identity: Identity::read_in(root),
        board,
        hypervisor,
        processor,
        memory: root.text("proc/meminfo").and_then(|text| memory_total(&text)),
        gpus,
        render_nodes,
        video_devices: video_devices(root),
        drivers,
        candidates: Vec::new(),
        decoders: Vec::new(),
    };
    hardware.candidates = candidates::judge(root, &hardware, candidates::Task::Encode);
    hardware.decoders = candidates::judge(root, &hardware, candidates::Task::Decode);
    hardware
}

fn memory_total(meminfo: &str) -> Option<Bytes> {
    let rest = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    rest.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024).map(Bytes)
}

fn video_devices(root: &Root) -> Vec<VideoDevice> {
    let class = Path::new("sys/class/video4linux");
    let device = |node: String| {
        let name = root.text(class.join(&node).join("name"))?;
        Some(VideoDevice { node: Path::new("/dev").join(&node), name })
    };
    let nodes = root.names(class).into_iter().filter(|name| name.starts_with("video"));
    nodes.filter_map(device).collect()
}

#[cfg(test)]
mod tests;
