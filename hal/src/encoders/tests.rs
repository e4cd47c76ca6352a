use proptest::prelude::*;

use super::*;
use crate::read::fixture;

fn verdict(hardware: &Hardware, engine: Engine) -> (Verdict, &str) {
    let candidate = hardware.candidates.iter().find(|candidate| candidate.engine == engine).unwrap();
    (candidate.verdict, &candidate.reason)
}

const NVIDIA_CARD: [(&str, &str); 4] = [
    ("sys/bus/pci/devices/0000:01:00.0/class", "0x030000\n"),
    ("sys/bus/pci/devices/0000:01:00.0/vendor", "0x10de\n"),
    ("sys/bus/pci/devices/0000:01:00.0/device", "0x2484\n"),
    ("sys/bus/pci/devices/0000:01:00.0/driver", "-> ../../../bus/pci/drivers/nvidia"),
];

#[test]
fn a_bare_machine_has_software_and_reasons_for_the_rest() {
    let root = fixture(&[("proc/cpuinfo", "processor\t: 0\nmodel name\t: Test CPU\nflags\t\t: fpu sse4_2 avx2\n")]);
    let hardware = detect(root.path());
    let accepted: Vec<Engine> = hardware.accepted().map(|candidate| candidate.engine).collect();
    assert_eq!(accepted, [Engine::Software]);
    assert_eq!(hardware.processor.threads, 1);
    assert_eq!(hardware.processor.vectors, ["sse4_2", "avx2"]);
    assert!(hardware.candidates.iter().all(|candidate| !candidate.reason.is_empty()));
}

#[test]
fn an_nvidia_card_with_driver_and_nodes_is_accepted_with_the_nodes_it_needs() {
    let mut files = NVIDIA_CARD.to_vec();
    let nodes = ["dev/nvidia0", "dev/nvidiactl", "dev/nvidia-uvm", "dev/nvidia-caps"];
    files.extend(nodes.map(|node| (node, "")));
    let hardware = detect(fixture(&files).path());
    let (accepted, reason) = verdict(&hardware, Engine::Nvidia);
    assert_eq!(accepted, Verdict::Accepted);
    assert!(reason.starts_with("NVIDIA card 2484 at 0000:01:00.0"), "{reason}");
    let candidate = hardware.accepted().next().unwrap();
    let wanted = ["/dev/nvidia-uvm", "/dev/nvidia0", "/dev/nvidiactl"].map(PathBuf::from);
    assert_eq!(candidate.nodes, wanted);
}

#[test]
fn an_nvidia_card_without_nodes_or_with_another_driver_is_refused_with_the_reason() {
    let hardware = detect(fixture(&NVIDIA_CARD).path());
    let (refused, reason) = verdict(&hardware, Engine::Nvidia);
    assert_eq!(refused, Verdict::Refused);
    assert!(reason.contains("/dev/nvidia0"), "{reason}");
    let mut files = NVIDIA_CARD;
    files[3].1 = "-> ../../../bus/pci/drivers/nouveau";
    let hardware = detect(fixture(&files).path());
    assert!(verdict(&hardware, Engine::Nvidia).1.contains("nouveau"));
}

#[test]
fn intel_graphics_are_accepted_by_their_render_node() {
    let files = [
        ("sys/bus/pci/devices/0000:00:02.0/class", "0x030000\n"),
        ("sys/bus/pci/devices/0000:00:02.0/vendor", "0x8086\n"),
        ("sys/bus/pci/devices/0000:00:02.0/device", "0x46a6\n"),
        ("sys/bus/pci/devices/0000:00:02.0/driver", "-> ../../bus/pci/drivers/i915"),
        ("sys/bus/pci/devices/0000:00:02.0/drm/renderD128/dev", "226:128\n"),
        ("dev/dri/renderD128", ""),
    ];
    let hardware = detect(fixture(&files).path());
    assert_eq!(verdict(&hardware, Engine::Va).0, Verdict::Accepted);
    let hardware = detect(fixture(&files[..5]).path());
    assert_eq!(
        verdict(&hardware, Engine::Va),
        (Verdict::Refused, "/dev/dri/renderD128 is missing: pass it into the container, or see udev")
    );
}

#[test]
fn a_jetson_without_an_encoder_is_told_apart_from_one_with() {
    let tree = ("proc/device-tree/compatible", "nvidia,p3768-0000+p3767-0005\0nvidia,tegra234\0");
    let orin_nano = detect(fixture(&[tree, ("dev/nvmap", "")]).path());
    assert!(verdict(&orin_nano, Engine::Jetson).1.contains("no encoder"));
    // Some systems make the node on boards without an encoder too.
    let orin_nano = detect(fixture(&[tree, ("dev/nvmap", ""), ("dev/v4l2-nvenc", "")]).path());
    assert_eq!(verdict(&orin_nano, Engine::Jetson).0, Verdict::Refused);
    let tree = ("proc/device-tree/compatible", "nvidia,p3737-0000+p3701-0005\0nvidia,tegra234\0");
    let agx = detect(fixture(&[tree, ("dev/nvmap", ""), ("dev/v4l2-nvenc", "")]).path());
    assert_eq!(verdict(&agx, Engine::Jetson).0, Verdict::Accepted);
}

#[test]
fn a_camera_is_no_encoder_but_a_pis_codec_is() {
    let camera = ("sys/class/video4linux/video0/name", "UVC Camera\n");
    let hardware = detect(fixture(&[camera]).path());
    assert_eq!(verdict(&hardware, Engine::V4l2).0, Verdict::Refused);
    let codec = ("sys/class/video4linux/video11/name", "bcm2835-codec-encode\n");
    let hardware = detect(fixture(&[camera, codec, ("dev/video11", "")]).path());
    assert_eq!(verdict(&hardware, Engine::V4l2).0, Verdict::Accepted);
}

#[test]
fn this_very_machine_can_at_least_encode_in_software() {
    let hardware = detect(Path::new("/"));
    assert!(hardware.processor.threads > 0);
    assert!(hardware.accepted().any(|candidate| candidate.engine == Engine::Software));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn hostile_files_do_not_upset_detection(text in "(?s).{0,200}") {
        let files = [
            ("proc/cpuinfo", text.as_str()), ("proc/meminfo", &text), ("proc/device-tree/compatible", &text),
            ("sys/bus/pci/devices/x/class", &text), ("sys/bus/pci/devices/x/vendor", &text),
            ("sys/class/video4linux/video0/name", &text), ("etc/nv_tegra_release", &text),
            ("proc/driver/nvidia/version", &text), ("sys/class/dmi/id/sys_vendor", &text),
            ("etc/os-release", &text), ("proc/sys/kernel/osrelease", &text),
        ];
        // A text that begins like the fixture's own mark for links is not what is meant here.
        prop_assume!(!text.starts_with("-> "));
        let hardware = detect(fixture(&files).path());
        prop_assert_eq!(hardware.candidates.len(), 6);
        prop_assert_eq!(hardware.decoders.len(), 6);
        prop_assert!(hardware.fingerprint().text.lines().count() < 100);
    }
}
