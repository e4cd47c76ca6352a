//! Each engine's conditions, in one place.
use std::path::{Path, PathBuf};

use super::{AMD, Candidate, Engine, Gpu, Hardware, INTEL, NVIDIA, Verdict};
use crate::read;

/// Judges every engine, best first.
pub(super) fn judge(root: &Path, hardware: &Hardware) -> Vec<Candidate> {
    let judged = [
        (Engine::Nvenc, nvenc(root, hardware)),
        (Engine::Jetson, jetson(root)),
        (Engine::Vaapi, vaapi(root, hardware)),
        (Engine::V4l2, v4l2(root, hardware)),
        (Engine::Software, software(hardware)),
    ];
    judged
        .into_iter()
        .map(|(engine, judgement)| match judgement {
            Ok((reason, nodes)) => Candidate { engine, verdict: Verdict::Accepted, reason, nodes },
            Err(reason) => Candidate { engine, verdict: Verdict::Refused, reason, nodes: Vec::new() },
        })
        .collect()
}

/// Why it is worth probing and the nodes it needs, or why it is not.
type Judgement = Result<(String, Vec<PathBuf>), String>;

fn nvenc(root: &Path, hardware: &Hardware) -> Judgement {
    let gpu = hardware.gpus.iter().find(|gpu| gpu.vendor == NVIDIA).ok_or("no NVIDIA card on the bus")?;
    match gpu.driver.as_deref() {
        Some("nvidia") => {}
        None => return Err(format!("the NVIDIA card at {} has no driver: install NVIDIA's", gpu.address)),
        Some(other) => {
            return Err(format!("the NVIDIA card at {} is driven by {other}, which cannot encode", gpu.address));
        }
    }
    let names = read::names(root, "dev");
    let wanted = |name: &String| {
        let card = name
            .strip_prefix("nvidia")
            .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()));
        card || ["nvidiactl", "nvidia-uvm", "nvidia-modeset"].contains(&name.as_str())
    };
    let nodes: Vec<PathBuf> = names.into_iter().filter(wanted).map(|name| Path::new("/dev").join(name)).collect();
    for needed in ["/dev/nvidia0", "/dev/nvidiactl", "/dev/nvidia-uvm"] {
        if !nodes.iter().any(|node| node == Path::new(needed)) {
            return Err(format!("{needed} is missing: is nvidia-persistenced or nvidia-modprobe installed?"));
        }
    }
    Ok((format!("NVIDIA card {:04x} at {}", gpu.device, gpu.address), nodes))
}

fn jetson(root: &Path) -> Judgement {
    let compatible = read::text(root, "proc/device-tree/compatible").ok_or("not a Jetson: no device tree")?;
    if !compatible.split('\0').any(|part| part.starts_with("nvidia,tegra")) {
        return Err("not a Jetson".to_owned());
    }
    let names = read::names(root, "dev");
    let has_encoder = |name: &String| name == "nvhost-msenc" || name == "v4l2-nvenc";
    if !names.iter().any(has_encoder) {
        return Err("this Jetson has no encoder (Orin Nano) or its driver is not loaded".to_owned());
    }
    let wanted = |name: &String| {
        let prefixes = ["nvhost-", "nvmap", "v4l2-nv", "nvidia"];
        prefixes.iter().any(|prefix| name.starts_with(prefix))
    };
    let nodes = names.into_iter().filter(wanted).map(|name| Path::new("/dev").join(name)).collect();
    Ok(("Jetson with an encoder".to_owned(), nodes))
}

fn vaapi(root: &Path, hardware: &Hardware) -> Judgement {
    let able = |gpu: &&Gpu| gpu.vendor == INTEL || gpu.vendor == AMD;
    let gpu = hardware.gpus.iter().find(able).ok_or("no Intel or AMD graphics on the bus")?;
    match gpu.driver.as_deref() {
        Some("i915" | "xe" | "amdgpu" | "radeon") => {}
        Some(other) => return Err(format!("the {} graphics are driven by {other}", gpu.vendor_name())),
        None => return Err(format!("the {} graphics at {} have no driver", gpu.vendor_name(), gpu.address)),
    }
    let node = gpu.render_node.clone().ok_or("the graphics driver offers no render node")?;
    if !read::below(root, &node).exists() {
        return Err(format!("{} is missing", node.display()));
    }
    Ok((format!("{} graphics {:04x} at {}", gpu.vendor_name(), gpu.device, gpu.address), vec![node]))
}

/// Names of stateful encoders begin or end in their own ways; cameras and decoders must not pass.
const V4L2_ENCODERS: [&str; 5] = ["bcm2835-codec-encode", "wave5-enc", "venus-encoder", "s5p-mfc-enc", "coda-encoder"];

fn v4l2(root: &Path, hardware: &Hardware) -> Judgement {
    if hardware.video_devices.is_empty() {
        return Err("no video devices".to_owned());
    }
    let named = |name: &str| V4L2_ENCODERS.iter().any(|known| name.to_ascii_lowercase().contains(known));
    let encoder = hardware.video_devices.iter().find(|device| named(&device.name));
    let encoder = encoder.ok_or("none of the video devices is an encoder we know")?;
    if !read::below(root, &encoder.node).exists() {
        return Err(format!("{} is missing", encoder.node.display()));
    }
    Ok((encoder.name.clone(), vec![encoder.node.clone()]))
}

fn software(hardware: &Hardware) -> Judgement {
    let threads = hardware.processor.threads;
    Ok((format!("{threads} processor threads; works everywhere"), Vec::new()))
}
