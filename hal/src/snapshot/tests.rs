use std::path::PathBuf;

use proptest::prelude::*;

use super::*;
use crate::read::fixture;

#[test]
fn a_text_nobody_should_follow_is_refused() {
    for (text, line) in [
        ("/ok: 1\nrelative: 1\n", 2),
        ("/a/../../etc/passwd: x\n", 1),
        ("/\n", 1),
        ("/a: 1\n/a: 2\n", 2),
        ("/a: \\q\n", 1),
    ] {
        let dir = tempfile::tempdir().unwrap();
        match unpack(text, dir.path()) {
            Err(SnapshotError::Line { line: told, .. }) => assert_eq!(told, line, "{text}"),
            other => panic!("{text}: {other:?}"),
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "{text} left something behind");
    }
}

#[test]
fn nothing_is_written_behind_a_link_of_the_snapshot() {
    let outside = tempfile::tempdir().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let text = format!("/a -> {}\n/a/b: gotcha\n", outside.path().display());
    assert!(matches!(unpack(&text, dir.path()), Err(SnapshotError::Write { .. })));
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[test]
fn what_identifies_a_box_stays_on_it() {
    let root = fixture(&[
        ("etc/machine-id", "0123456789abcdef0123456789abcdef\n"),
        ("sys/class/dmi/id/product_serial", "SN12345\n"),
        ("proc/device-tree/serial-number", "1423921012345\0"),
        ("proc/net/dev", "h\nh\nenx001122334455: 1 0 0 0 0 0 0 0 1 0 0 0 0 0 0 0\n"),
        ("sys/bus/pci/devices/0000:01:00.0/class", "0x030000\n"),
        ("sys/bus/pci/devices/0000:01:00.0/vendor", "0x10de\n"),
        ("sys/bus/pci/devices/0000:01:00.0/device", "0x2684\n"),
        ("proc/driver/nvidia/gpus/0000:01:00.0/information", "Model: \t X\nGPU UUID: \t GPU-1234\n"),
    ]);
    let text = take(root.path());
    for secret in ["0123456789abcdef", "SN12345", "1423921012345", "001122334455", "GPU-1234"] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
    assert!(text.contains("0x2684"));
}

#[test]
fn this_very_machine_looks_the_same_from_its_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    unpack(&take(Path::new("/")), dir.path()).unwrap();
    let (real, copy) = (encoders::detect(Path::new("/")), encoders::detect(dir.path()));
    assert_eq!(copy.fingerprint().text, real.fingerprint().text);
}

proptest! {
    #[test]
    fn no_text_is_too_strange(text in "(?s).{0,300}") {
        let _ = parse(&text);
    }

    #[test]
    fn every_entry_comes_back_as_written(
        entries in proptest::collection::btree_map("[a-z]{1,6}(/[a-z0-9:.@_-]{0,5}[a-z0-9]){0,3}", (0..3u8, "(?s).{0,60}"), 0..12),
    ) {
        let entry = |(kind, text): (u8, String)| match kind {
            0 => Entry::File(text),
            1 => Entry::Link(PathBuf::from(text.replace('\n', " "))),
            _ => Entry::Present,
        };
        let plain = |path: &String| !path.split('/').any(|part| part == "." || part == "..");
        let seen: Seen = entries.into_iter().filter(|(path, _)| plain(path)).map(|(path, what)| (path.into(), entry(what))).collect();
        prop_assert_eq!(parse(&render(&seen)).unwrap(), seen);
    }
}
