use std::fs;

use super::*;
use crate::files;
use crate::health::{Check, Report};
use crate::machine::tests::{booted, machine};

fn version(text: &str) -> Version {
    text.parse().unwrap()
}

/// A box on 1.1.0 that has just installed 1.2.0.
fn installed_box() -> (tempfile::TempDir, Paths) {
    let dir = tempfile::tempdir().unwrap();
    let paths = machine(dir.path(), "1.1.0");
    let pending = Pending {
        id: "order-7".to_owned(),
        from: version("1.1.0"),
        to: version("1.2.0"),
        min_version: version("1.1.0"),
        boot_id: "first".to_owned(),
        at: 1_795_000_000,
        tries: 0,
        counted: "first".to_owned(),
    };
    State::of(&paths).set_pending(&pending).unwrap();
    files::put(&paths.boot().join("EFI/Linux/millrace_1.2.0+3-0.efi"), b"kernel", 0o644).unwrap();
    (dir, paths)
}

/// The loader starts the new version: its counter moves, the system says who it is.
fn start_new(dir: &tempfile::TempDir, paths: &Paths, left: u32, boot: &str) {
    let entries = paths.boot().join("EFI/Linux");
    for entry in fs::read_dir(&entries).unwrap() {
        let path = entry.unwrap().path();
        if path.to_string_lossy().contains("1.2.0+") {
            fs::remove_file(path).unwrap();
        }
    }
    machine(dir.path(), "1.2.0");
    booted(paths, &format!("millrace_1.2.0+{left}-{}.efi", 3 - left), boot);
}

/// The loader has given the new version up.
fn start_old(dir: &tempfile::TempDir, paths: &Paths, boot: &str) {
    machine(dir.path(), "1.1.0");
    fs::remove_dir_all(paths.efivars()).unwrap_or_default();
    files::put(&paths.at("proc/sys/kernel/random/boot_id"), boot.as_bytes(), 0o644).unwrap();
}

fn became(paths: &Paths) -> Outcome {
    match decide(paths).unwrap() {
        Stands::Became(outcome) => outcome,
        other => panic!("{other:?}"),
    }
}

#[test]
fn nothing_pending_is_nothing_to_say() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(decide(&machine(dir.path(), "1.1.0")).unwrap(), Stands::Quiet);
}

#[test]
fn in_the_boot_that_installed_it_an_update_waits() {
    let (_dir, paths) = installed_box();
    assert_eq!(decide(&paths).unwrap(), Stands::Installed { to: version("1.2.0") });
}

#[test]
fn the_floor_rises_with_the_blessing_and_not_before() {
    let (dir, paths) = installed_box();
    start_new(&dir, &paths, 2, "second");
    for _ in 0..2 {
        assert_eq!(decide(&paths).unwrap(), Stands::OnTrial { to: version("1.2.0"), tries: 1 });
    }
    assert_eq!(State::of(&paths).floor().unwrap(), None);
    let entries = paths.boot().join("EFI/Linux");
    fs::rename(entries.join("millrace_1.2.0+2-1.efi"), entries.join("millrace_1.2.0.efi")).unwrap();
    let outcome = became(&paths);
    assert_eq!((outcome.became, outcome.seq, outcome.id.as_str()), (Became::Blessed, 1, "order-7"));
    assert_eq!(State::of(&paths).floor().unwrap(), Some(version("1.1.0")));
    assert_eq!(decide(&paths).unwrap(), Stands::Quiet);
}

#[test]
fn a_version_that_used_up_its_tries_is_refused_with_what_its_gate_said() {
    let (dir, paths) = installed_box();
    start_new(&dir, &paths, 0, "second");
    decide(&paths).unwrap();
    let check = Check { name: "worker".to_owned(), ok: false, reason: "no encoder".to_owned() };
    let report = Report { version: "1.2.0".to_owned(), healthy: false, took_ms: 1, checks: vec![check] };
    files::put_json(&paths.health().join("last.json"), &report, 0o644).unwrap();
    start_old(&dir, &paths, "third");
    let outcome = became(&paths);
    assert_eq!(outcome.became, Became::RolledBack);
    assert!(outcome.reason.unwrap().contains("worker: no encoder"));
    let state = State::of(&paths);
    assert!(state.refused().unwrap().contains_key("1.2.0"));
    assert_eq!(state.floor().unwrap(), None);
    assert_eq!(state.results().unwrap().len(), 1);
}

#[test]
fn a_version_that_died_before_it_could_write_anything_is_refused_too() {
    let (dir, paths) = installed_box();
    start_new(&dir, &paths, 0, "second");
    start_old(&dir, &paths, "third");
    assert_eq!(became(&paths).became, Became::RolledBack);
}

#[test]
fn a_power_cut_while_the_slot_is_written_refuses_nothing() {
    let (dir, paths) = installed_box();
    fs::remove_file(paths.boot().join("EFI/Linux/millrace_1.2.0+3-0.efi")).unwrap();
    start_old(&dir, &paths, "second");
    assert_eq!(became(&paths).became, Became::Interrupted);
    assert!(State::of(&paths).refused().unwrap().is_empty());
}

#[test]
fn a_power_cut_at_any_step_of_the_decision_gives_one_result() {
    let (dir, paths) = installed_box();
    let state = State::of(&paths);
    let pending = state.pending().unwrap().unwrap();
    start_new(&dir, &paths, 0, "second");
    start_old(&dir, &paths, "third");
    let first = became(&paths);
    // The record was written, the end of the wait was not.
    state.set_pending(&pending).unwrap();
    assert_eq!(became(&paths), first);
    assert_eq!(state.results().unwrap(), [first]);
}
