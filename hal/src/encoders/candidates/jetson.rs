//! Jetson boards.
use std::path::{Path, PathBuf};

use super::{Hardware, Judgement, Task};
use crate::board::Board;
use crate::read::Root;

/// The first release whose media framework is one we support (GStreamer 1.16 and later).
const FIRST_RELEASE: u16 = 35;

pub(super) fn judge(root: &Root, hardware: &Hardware, task: Task) -> Judgement {
    let board = hardware.board;
    match board {
        board if !board.is_jetson() => return Err("not a Jetson".to_owned()),
        Board::JetsonOld => {
            return Err(format!("{board}: NVIDIA's last system for it (L4T 32) is too old for us"));
        }
        Board::JetsonOrinNano if task == Task::Encode => {
            return Err(format!("{board} has no encoder: it can decode and scale, and the processor encode"));
        }
        _ => {}
    }
    let release = hardware.drivers.get("l4t");
    let major = release.and_then(|release| release.split('.').next()?.parse::<u16>().ok());
    if major.is_some_and(|major| major < FIRST_RELEASE) {
        let release = release.map(String::as_str).unwrap_or_default();
        return Err(format!("L4T {release} is too old: update to JetPack 5 (L4T {FIRST_RELEASE}) or later"));
    }
    // The kernel of L4T 35 names the engines, later ones have the names of their V4L2 front.
    let (engine, needed) = match task {
        Task::Encode => ("an encoder", ["nvhost-msenc", "v4l2-nvenc"]),
        Task::Decode => ("a decoder", ["nvhost-nvdec", "v4l2-nvdec"]),
    };
    let prefixes = ["nvhost-", "nvmap", "v4l2-nv", "nvidia", "nvsciipc", "host1x-fence"];
    let names = root.nodes("dev", |name| prefixes.iter().any(|prefix| name.starts_with(prefix)));
    if !names.iter().any(|name| needed.contains(&name.as_str())) {
        let [older, newer] = needed;
        return Err(format!(
            "{board}: neither /dev/{newer} nor /dev/{older} is there: install L4T's multimedia packages, \
             or pass the nodes into the container"
        ));
    }
    if !names.iter().any(|name| name == "nvmap") {
        return Err(format!("{board}: /dev/nvmap is missing: load L4T's nvmap module"));
    }
    let mut nodes: Vec<PathBuf> =
        names.iter().map(|name| Path::new("/dev").join(name)).filter(|node| !root.below(node).is_dir()).collect();
    for gpu in root.names("dev/nvgpu") {
        let dir = Path::new("/dev/nvgpu").join(gpu);
        nodes.extend(root.nodes(&dir, |_| true).into_iter().map(|name| dir.join(name)));
    }
    let render = root.nodes("dev/dri", |name| name.starts_with("renderD"));
    nodes.extend(render.into_iter().map(|name| Path::new("/dev/dri").join(name)));
    let system = release.map(|release| format!(", L4T {release}")).unwrap_or_default();
    let codecs = match (task, board.encodes_av1()) {
        (Task::Encode, true) => ", writes AV1 too",
        _ => "",
    };
    Ok((format!("{board} with {engine}{system}{codecs}"), nodes))
}
