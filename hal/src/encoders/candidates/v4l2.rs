//! Stateful V4L2 devices.
use super::{Hardware, Judgement, Task};
use crate::board::Board;
use crate::read::Root;

/// What drivers call their devices. *Source:* `drivers/media` of the kernel, and the Raspberry Pi's.
const ENCODERS: [&str; 11] = [
    "bcm2835-codec-encode",
    "venus-encoder",
    "iris_encoder",
    "wave5-enc",
    "wave5-vpu-enc",
    "s5p-mfc-enc",
    "coda-video-encoder",
    "mtk-vcodec-enc",
    "vpu encoder",
    "allegro",
    "st-hva",
];
const DECODERS: [&str; 9] = [
    "bcm2835-codec-decode",
    "venus-decoder",
    "iris_decoder",
    "wave5-dec",
    "wave5-vpu-dec",
    "s5p-mfc-dec",
    "coda-video-decoder",
    "mtk-vcodec-dec",
    "vpu decoder",
];
/// Still pictures, and the kernel's driver for tests.
const NOT_THESE: [&str; 4] = ["jpeg", "jpg", "image", "vicodec"];

/// One judgement for each device that fits, or one that says why none does.
pub(super) fn judge(root: &Root, hardware: &Hardware, task: Task) -> Vec<(Option<String>, Judgement)> {
    let (known, article, what): (&[&str], _, _) = match task {
        Task::Encode => (&ENCODERS, "an", "encoder"),
        Task::Decode => (&DECODERS, "a", "decoder"),
    };
    let fits = |name: &str| {
        let name = name.to_ascii_lowercase();
        known.iter().any(|known| name.contains(known)) && !NOT_THESE.iter().any(|not| name.contains(not))
    };
    let devices = hardware.video_devices.iter().filter(|device| fits(&device.name));
    let judged: Vec<_> = devices
        .map(|device| {
            let node = device.node.clone();
            let judgement = if root.exists(&node) {
                Ok((device.name.clone(), vec![node.clone()]))
            } else {
                Err(format!("{} is missing: pass it into the container, or see udev", node.display()))
            };
            (Some(node.display().to_string()), judgement)
        })
        .collect();
    if !judged.is_empty() {
        return judged;
    }
    let reason = match hardware.board {
        Board::RaspberryPi5 if task == Task::Encode => {
            "Raspberry Pi 5 has no encoder: the processor encodes".to_owned()
        }
        Board::RaspberryPi4 => format!("no V4L2 {what}: load the bcm2835-codec module"),
        board if board.is_jetson() => "a Jetson's video engines are not reached this way".to_owned(),
        _ if hardware.video_devices.is_empty() => "no video devices".to_owned(),
        _ => {
            let names: Vec<_> = hardware.video_devices.iter().map(|device| device.name.as_str()).take(4).collect();
            format!("none of the video devices is {article} {what} we know: {}", names.join(", "))
        }
    };
    vec![(None, Err(reason))]
}
