//! Each engine's conditions, in one place.
use std::path::PathBuf;

use super::{AMD, Candidate, Engine, Gpu, GpuKind, Hardware, INTEL, NVIDIA, Verdict};
use crate::read::Root;

mod jetson;
mod nvidia;
mod v4l2;

/// What an engine is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Task {
    Encode,
    Decode,
}

impl Task {
    fn able(self, gpu: &Gpu) -> bool {
        match self {
            Self::Encode => gpu.encodes,
            Self::Decode => gpu.decodes,
        }
    }
}

/// Why a device is worth probing and the nodes it needs, or why it is not.
type Judgement = Result<(String, Vec<PathBuf>), String>;

/// Judges every engine for a task, best first.
pub(super) fn judge(root: &Root, hardware: &Hardware, task: Task) -> Vec<Candidate> {
    Engine::ALL.into_iter().flat_map(|engine| judge_engine(root, hardware, engine, task)).collect()
}

fn judge_engine(root: &Root, hardware: &Hardware, engine: Engine, task: Task) -> Vec<Candidate> {
    let candidate = |device: Option<String>, judgement: Judgement| match judgement {
        Ok((reason, nodes)) => Candidate { engine, device, verdict: Verdict::Accepted, reason, nodes },
        Err(reason) => Candidate { engine, device, verdict: Verdict::Refused, reason, nodes: Vec::new() },
    };
    let each = |able: &dyn Fn(&Gpu) -> bool, judge: &dyn Fn(&Gpu) -> Judgement, none: &str| {
        let gpus = hardware.gpus.iter().filter(|gpu| able(gpu));
        let judged: Vec<_> = gpus.map(|gpu| candidate(Some(gpu.address.clone()), judge(gpu))).collect();
        if judged.is_empty() { vec![candidate(None, Err(none.to_owned()))] } else { judged }
    };
    match engine {
        Engine::Nvidia => each(
            // The graphics of a Jetson, where they show on the bus, are the Jetson engine's.
            &|gpu| gpu.vendor == NVIDIA && gpu.kind != GpuKind::Integrated,
            &|gpu| nvidia::judge(root, hardware, gpu, task),
            "no NVIDIA card on the bus",
        ),
        Engine::Jetson => vec![candidate(None, jetson::judge(root, hardware, task))],
        Engine::Va => each(
            &|gpu| gpu.vendor == INTEL || gpu.vendor == AMD,
            &|gpu| render(root, gpu, task),
            "no Intel or AMD graphics on the bus",
        ),
        Engine::Qsv => each(
            &|gpu| gpu.vendor == INTEL,
            &|gpu| render(root, gpu, task).map(|(reason, nodes)| (format!("{reason}, by way of oneVPL"), nodes)),
            "no Intel graphics on the bus",
        ),
        Engine::V4l2 => {
            let judged = v4l2::judge(root, hardware, task);
            judged.into_iter().map(|(device, judgement)| candidate(device, judgement)).collect()
        }
        Engine::Software => {
            let threads = hardware.processor.threads;
            vec![candidate(None, Ok((format!("{threads} processor threads; works everywhere"), Vec::new())))]
        }
    }
}

/// Intel's and AMD's engines, reached by a render node.
fn render(root: &Root, gpu: &Gpu, task: Task) -> Judgement {
    let described = gpu.described();
    if !task.able(gpu) {
        return Err(without_silicon(&described, gpu, task));
    }
    match (gpu.vendor, gpu.driver.as_deref()) {
        (INTEL, Some("i915" | "xe")) | (AMD, Some("amdgpu" | "radeon")) => {}
        (_, Some("vfio-pci")) => return Err(set_aside(&described)),
        (INTEL, Some(other)) => return Err(format!("{described} is driven by {other}: it takes i915 or xe")),
        (_, Some(other)) => return Err(format!("{described} is driven by {other}: it takes amdgpu")),
        (INTEL, None) => {
            return Err(format!("{described} has no driver: load i915 or xe, or a newer kernel for a newer card"));
        }
        (_, None) => return Err(format!("{described} has no driver: load amdgpu and install its firmware")),
    }
    let Some(node) = gpu.render_node.clone() else {
        return Err(format!("the driver of {described} offers no render node"));
    };
    if !root.exists(&node) {
        return Err(format!("{} is missing: pass it into the container, or see udev", node.display()));
    }
    let driver = gpu.driver.as_deref().unwrap_or_default();
    Ok((format!("{described}, driver {driver}"), vec![node]))
}

/// Silicon that lacks what a task takes.
fn without_silicon(described: &str, gpu: &Gpu, task: Task) -> String {
    match (task, gpu.decodes) {
        (Task::Encode, true) => format!("{described} has no encoder: it can decode, and the processor encode"),
        (Task::Encode, false) => format!("{described} has no encoder"),
        (Task::Decode, _) => format!("{described} has no decoder"),
    }
}

fn set_aside(described: &str) -> String {
    format!("{described} is set aside for a virtual machine (vfio-pci): give it back to its driver")
}
