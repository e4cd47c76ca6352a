//! NVIDIA's cards.
use std::path::{Path, PathBuf};

use super::{Gpu, Hardware, Judgement, Task, set_aside, without_silicon};
use crate::read::Root;

/// Where distributions and containers put NVIDIA's libraries.
const LIBRARIES: [&str; 8] = [
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/aarch64-linux-gnu",
    "usr/lib/x86_64-linux-gnu/nvidia/current",
    "usr/lib64",
    "usr/lib",
    "usr/local/nvidia/lib64",
    "usr/local/lib",
    "lib64",
];

pub(super) fn judge(root: &Root, hardware: &Hardware, gpu: &Gpu, task: Task) -> Judgement {
    let described = gpu.described();
    if !task.able(gpu) {
        return Err(without_silicon(&described, gpu, task));
    }
    match gpu.driver.as_deref() {
        Some("nvidia") => {}
        None => return Err(format!("{described} has no driver: install NVIDIA's")),
        Some("vfio-pci") => return Err(set_aside(&described)),
        Some(other) => {
            return Err(format!(
                "{described} is driven by {other}, which cannot use its video engines: install NVIDIA's"
            ));
        }
    }
    let own = gpu.minor.map(|minor| format!("nvidia{minor}"));
    let is_card = |name: &str| {
        let number = name.strip_prefix("nvidia").filter(|rest| !rest.is_empty());
        number.is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let wanted = |name: &str| match &own {
        Some(own) if is_card(name) => name == own,
        _ => is_card(name) || ["nvidiactl", "nvidia-uvm", "nvidia-modeset"].contains(&name),
    };
    let names = root.nodes("dev", wanted);
    let card = own.unwrap_or_else(|| "nvidia0".to_owned());
    for needed in [card.as_str(), "nvidiactl", "nvidia-uvm"] {
        let there = names.iter().any(|name| name == needed || (needed == card && gpu.minor.is_none() && is_card(name)));
        if !there {
            return Err(format!("/dev/{needed} is missing: run nvidia-modprobe -u, or pass it into the container"));
        }
    }
    let nodes: Vec<PathBuf> = names.iter().map(|name| Path::new("/dev").join(name)).collect();
    let version = hardware.drivers.get("nvidia").map(|version| format!(", driver {version}")).unwrap_or_default();
    let library = match task {
        Task::Encode => "libnvidia-encode.so.1",
        Task::Decode => "libnvcuvid.so.1",
    };
    // Only a remark: the loader may know places that we do not.
    let found = LIBRARIES.iter().any(|dir| root.exists(Path::new(dir).join(library)));
    let remark = if found { String::new() } else { format!("; {library} is not in the usual places") };
    Ok((format!("{described}{version}{remark}"), nodes))
}
