//! One program for all targets: `MILLRACE_FUZZ` names the one to run, the arguments are libFuzzer's.
#![no_main]

#[path = "targets.rs"]
mod targets;

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

static TARGET: OnceLock<fn(&[u8])> = OnceLock::new();

fuzz_target!(|data: &[u8]| {
    let target = TARGET.get_or_init(|| {
        let name = std::env::var("MILLRACE_FUZZ").unwrap_or_default();
        let found = targets::TARGETS.iter().find(|(known, _)| *known == name);
        found.unwrap_or_else(|| panic!("MILLRACE_FUZZ={name:?} names no target")).1
    });
    target(data);
});
