//! The table against the plugins that are installed: each name in it must be one that the plugin knows.
//!
//! NVIDIA's, Intel's and V4L2's elements are only registered where there is the hardware. Their plugins hold the names
//! of properties and values all the same, as strings that end in a zero.
use std::path::Path;

use gstreamer as gst;
use gstreamer::prelude::*;

use super::Wishes;
use super::table::{ROWS, Row, Setting};

const PLUGINS: [(&str, &[&str]); 4] = [
    ("nvidia", &["libgstnvcodec.so"]),
    ("va", &["libgstva.so"]),
    ("qsv", &["libgstqsv.so", "libgstva.so"]),
    ("v4l2", &["libgstvideo4linux2.so"]),
];
/// Base classes have these.
const INHERITED: [&str; 1] = ["qos"];

fn settings(row: &'static Row) -> impl Iterator<Item = (&'static str, &'static Setting)> {
    let decoders = row.decoders.iter().flat_map(|row| row.settings.iter().map(move |s| (row.element, s)));
    let encoders = row.encoders.iter().flat_map(|row| row.settings.iter().map(move |s| (row.element, s)));
    let scaler = row.scaler.settings.iter().map(|s| ("scaler", s));
    decoders.chain(encoders).chain(scaler)
}

#[test]
fn every_property_that_an_element_must_have_is_known_to_its_plugin() {
    let dirs = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"];
    for (name, files) in PLUGINS {
        let row = ROWS.into_iter().find(|row| row.name == name).unwrap();
        let mut strings = Vec::new();
        for file in files {
            let path = dirs.iter().map(|dir| Path::new(dir).join("gstreamer-1.0").join(file)).find(|p| p.is_file());
            let Some(path) = path else {
                println!("{file} is not installed: {name} is not looked at");
                continue;
            };
            strings.extend(std::fs::read(path).unwrap());
        }
        if strings.is_empty() {
            continue;
        }
        let finder = |name: &str| {
            let wanted: Vec<u8> = name.bytes().chain([0]).collect();
            strings.windows(wanted.len()).any(|window| window == wanted)
        };
        let mut looked = 0;
        for (element, setting) in settings(row) {
            if setting.optional || INHERITED.contains(&setting.property) {
                continue;
            }
            looked += 1;
            assert!(finder(setting.property), "{name}: {element} has no property {}", setting.property);
            let words = |value: &&&str| value.len() > 2 && value.bytes().all(|b| b.is_ascii_lowercase() || b == b'-');
            let nicks: Vec<_> =
                setting.values.iter().filter(words).filter(|v| !["true", "false"].contains(v)).collect();
            assert!(
                nicks.is_empty() || nicks.iter().any(|nick| finder(nick)),
                "{name}: {element} knows none of {nicks:?}"
            );
        }
        println!("{name}: {looked} settings are known to the plugin");
    }
}

#[test]
fn every_recipe_can_be_applied_to_every_element_that_is_here() {
    gst::init().unwrap();
    let mut applied = Vec::new();
    for row in ROWS {
        let decoders = row.decoders.iter().map(|row| (row.element, row.settings));
        let encoders = row.encoders.iter().map(|row| (row.element, row.settings));
        let scaler = row.scaler.element.map(|element| (element, row.scaler.settings));
        for (element, settings) in decoders.chain(encoders).chain(scaler) {
            let Ok(made) = gst::ElementFactory::make(element).build() else { continue };
            for quality in [None, Some(30)] {
                let wishes = Wishes {
                    bits_per_second: 1_500_000,
                    quality,
                    gop: Some(60),
                    threads: 1,
                    decoder_threads: 1,
                    preset: "veryfast".to_owned(),
                    profile: Some("main"),
                    ..Wishes::default()
                };
                super::apply(&made, element, settings, &wishes).unwrap();
            }
            applied.push(made.factory().unwrap().name());
        }
    }
    println!("{}", applied.join(" "));
    assert!(applied.len() >= 3, "{applied:?}");
}
