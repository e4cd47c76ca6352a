//! Every board of `tests/hal`: from what it shows of itself to the elements and properties that would be used, as one
//! readable text for each. What exists of elements is told by hand: none of these boards is here.
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use millrace_hal::{Choice, Engine, encoders, snapshot};

use super::route::Route;
use super::table::{EncoderRow, Memory, Setting};
use super::{Codec, Wishes};

/// What elements the system of a board has, besides the main processor's.
const ELEMENTS: [(&str, &str); 13] = [
    ("orin-nx", L4T_36),
    ("orin-nano", L4T_36),
    ("agx-orin", L4T_36),
    ("xavier-nx", L4T_35),
    ("thor", L4T_36),
    // 1.22, with both generations of NVIDIA's elements.
    (
        "rtx-4090",
        "nvh264sldec nvh264dec nvh265sldec nvh265dec nvvp8sldec nvvp9sldec nvcudah264enc nvh264enc nvcudah265enc \
         nvh265enc vah264dec vah264enc qsvh264dec qsvh264enc",
    ),
    // 1.26, where the new generation has the old names.
    ("a100", "nvh264dec nvh265dec nvvp9dec"),
    ("h100", "nvh264dec nvh265dec nvvp8dec nvvp9dec nvav1dec"),
    // Only the low-power encoders.
    ("intel-n100", "vah264dec vah265dec vavp9dec vaav1dec vah264lpenc vah265lpenc qsvh264dec qsvh264enc"),
    ("arc-a380", "vah264dec vah265dec vavp9dec vaav1dec vah264enc vah264lpenc vah265enc vaav1enc qsvh264enc"),
    ("radeon-rx6800", "vah264dec vah265dec vah264enc vah265enc"),
    ("raspberry-pi-4", "v4l2h264dec v4l2h264enc"),
    ("bare-vm", ""),
];
const L4T_35: &str = "nvv4l2decoder nvv4l2h264enc nvv4l2h265enc";
const L4T_36: &str = "nvv4l2decoder nvv4l2h264enc nvv4l2h265enc nvv4l2av1enc";
const PARSERS: &str = "h264parse h265parse vp9parse av1parse";
const PROCESSOR: &str = "avdec_h264 avdec_h265 vp8dec vp9dec dav1ddec x264enc x265enc vp8enc vp9enc svtav1enc";

/// A 720p rendition of 4 Mbit/s.
fn wishes() -> Wishes {
    Wishes {
        bits_per_second: 4_000_000,
        threads: 1,
        decoder_threads: 2,
        preset: "superfast".to_owned(),
        options: "mbtree=1:rc-lookahead=10".to_owned(),
        profile: Some("high"),
        ..Wishes::default()
    }
}

fn line(what: &str, elements: &[&str], element: &str, settings: &[Setting], more: &str) -> String {
    let told = elements.iter().map(|&name| {
        if name != element {
            return name.to_owned();
        }
        let recipe = wishes().recipe(settings).into_iter().map(|(setting, values)| {
            let optional = if setting.optional { "?" } else { "" };
            format!(" {}{optional}={}", setting.property, values.join("|"))
        });
        format!("{name}{}", recipe.collect::<String>())
    });
    format!("  {what}: {}{more}\n", told.collect::<Vec<_>>().join(" ! "))
}

fn describe(machine: &str, there: &[&str]) -> String {
    let there = |element: &str| there.contains(&element);
    let hardware = hardware(machine);
    let mut text = format!("{machine}\n");
    let choices = hardware.choices(&Engine::ALL);
    // The main processor alone is the same everywhere, and told once.
    for choice in choices.iter().filter(|choice| choices.len() == 1 || **choice != Choice::software()) {
        let nodes: Vec<String> = choice.nodes.iter().map(|node| node.display().to_string()).collect();
        let route = Route::named(&choice.name()).unwrap();
        let _ = writeln!(text, " {}  nodes: {}", route.name(), nodes.join(" "));
        for codec in Codec::ALL {
            let Some(row) = route.decoder(codec, &there) else { continue };
            if !is_told(row.codec, row.memory, route.memory()) {
                continue;
            }
            let elements = route.decoder_elements(row);
            let (what, more) =
                (format!("decode {}", codec.name()), format!(" -> {:?}, {:?}", route.memory(), row.life));
            text += &line(&what, &elements, row.element, row.settings, &more);
        }
        let scaler = &route.scale.scaler;
        let element = scaler.element.unwrap_or("ours");
        text += &line("scale", &[element], element, scaler.settings, &format!(" -> {}", route.format()));
        for codec in Codec::ALL {
            let Some(row) = route.encoder(codec, &there) else { continue };
            if !is_told(row.codec, row.memory, route.memory()) {
                continue;
            }
            let what = format!("encode {}", codec.name());
            text += &line(&what, &route.encoder_elements(row), row.element, row.settings, &ending(row));
        }
    }
    text
}

/// What silicon leaves to the main processor is told of H.264 only; the rest is as there.
fn is_told(codec: Codec, memory: Memory, between: Memory) -> bool {
    codec == Codec::H264 || memory == between
}

fn ending(row: &EncoderRow) -> String {
    let wanted = wishes().fill(row.wanted).unwrap_or_default();
    let wanted = if wanted.is_empty() { String::new() } else { format!(" ({wanted})") };
    format!("{wanted} -> {:?}, key frames by {:?}", row.life, row.key_frames)
}

fn tree(machine: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../tests/hal/{machine}.tree"))
}

fn hardware(machine: &str) -> encoders::Hardware {
    let dir = tempfile::tempdir().unwrap();
    snapshot::unpack(&fs::read_to_string(tree(machine)).unwrap(), dir.path()).unwrap();
    encoders::detect(dir.path())
}

#[test]
fn every_board_gets_the_elements_and_properties_that_are_written_down_for_it() {
    gstreamer::init().unwrap();
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/engine/golden");
    for (machine, silicon) in ELEMENTS {
        let there: Vec<&str> =
            [silicon, PARSERS, PROCESSOR].iter().flat_map(|names| names.split_whitespace()).collect();
        let told = describe(machine, &there);
        let file = dir.join(format!("{machine}.txt"));
        if std::env::var_os("MILLRACE_WRITE_GOLDEN").is_some() {
            fs::create_dir_all(&dir).unwrap();
            fs::write(&file, &told).unwrap();
        }
        let written = fs::read_to_string(&file).unwrap_or_default();
        assert_eq!(told, written, "{machine}: if the change is meant, run this test with MILLRACE_WRITE_GOLDEN=1");
    }
}
