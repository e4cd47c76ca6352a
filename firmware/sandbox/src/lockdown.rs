//! The last lock: which system calls a worker has left once its plugins are loaded.
//!
//! Walk 4, step 4. The list is data, with a reason beside each call: `filters/worker.json`. A call is
//! allowed, refused with an error that libraries can live with, or deadly. The lock holds for every thread
//! the process has and will have; only under it may a job be read.
use std::collections::BTreeMap;

use nix::errno::Errno;
use seccompiler::{BpfProgram, TargetArch};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::jail::Layers;

/// The filter of a worker that encodes in software.
const WORKER_FILTER: &str = include_str!("filters/worker.json");

/// Why the lock could not be closed.
#[derive(Debug, thiserror::Error)]
pub enum LockdownError {
    /// We have no list for this kind of processor.
    #[error("no system call filter for this processor")]
    Processor,
    /// The filter's data makes no sense; a fault of this build.
    #[error("the system call filter is malformed")]
    Filter(#[from] serde_json::Error),
    /// An error name in the filter's data that is not known.
    #[error("the system call filter refuses with {0:?}, which is no error we know")]
    ErrorName(String),
    /// The filter could not be compiled or installed.
    #[error("the system call filter")]
    Seccomp(#[from] seccompiler::Error),
}

/// The filter as written down.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Filter {
    #[expect(dead_code, reason = "read by people")]
    about: String,
    allow: Vec<Rule>,
    refuse: Vec<Rule>,
}

/// One call, and when the rule holds for it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    call: String,
    /// The only kind of processor that has this call.
    arch: Option<String>,
    #[serde(default)]
    when: Vec<Condition>,
    errno: Option<String>,
    #[cfg_attr(not(test), expect(dead_code, reason = "read by people"))]
    reason: String,
}

/// What an argument must be, in its low 32 bits unless it is compared with zero.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Condition {
    arg: u8,
    mask: Option<u64>,
    /// A number, or `"self"` for our process id.
    equals: Value,
}

/// Closes the lock on all threads of this process, for good, and records it.
///
/// # Errors
/// [`LockdownError`]; the worker must then end without reading a job.
pub fn seal(layers: &mut Layers) -> Result<(), LockdownError> {
    for program in programs(WORKER_FILTER, std::env::consts::ARCH, std::process::id())? {
        seccompiler::apply_filter_all_threads(&program)?;
    }
    layers.add("seccomp");
    Ok(())
}

/// The filters in the order of their installation: one per error, then the one that kills. The kernel asks
/// all of them and takes the strictest answer.
fn programs(filter: &str, arch: &str, pid: u32) -> Result<Vec<BpfProgram>, LockdownError> {
    let target = match arch {
        "x86_64" => TargetArch::x86_64,
        "aarch64" => TargetArch::aarch64,
        _ => return Err(LockdownError::Processor),
    };
    let mut filter: Filter = serde_json::from_str(filter)?;
    let here = |rule: &Rule| rule.arch.as_deref().is_none_or(|only| only == arch);
    filter.allow.retain(here);
    filter.refuse.retain(here);
    let mut refusals: BTreeMap<i32, Vec<Value>> = BTreeMap::new();
    for rule in &filter.refuse {
        let name = rule.errno.clone().unwrap_or_default();
        let errno = error_number(&name).ok_or(LockdownError::ErrorName(name))?;
        refusals.entry(errno as i32).or_default().push(compile(rule, pid));
    }
    let known: Vec<Value> = filter.allow.iter().chain(&filter.refuse).map(|rule| compile(rule, pid)).collect();
    let refusing = refusals.into_iter().map(|(errno, rules)| {
        json!({ "worker": { "mismatch_action": "allow", "match_action": { "errno": errno }, "filter": rules } })
    });
    let killing = json!({ "worker": { "mismatch_action": "kill_process", "match_action": "allow", "filter": known } });
    let sources: Vec<Value> = refusing.chain([killing]).collect();
    let mut programs = Vec::new();
    for source in sources {
        let compiled = seccompiler::compile_from_json(source.to_string().as_bytes(), target)?;
        programs.extend(compiled.into_values());
    }
    Ok(programs)
}

/// A rule in the form of the compiler.
fn compile(rule: &Rule, pid: u32) -> Value {
    if rule.when.is_empty() {
        return json!({ "syscall": rule.call });
    }
    let args: Vec<Value> = rule
        .when
        .iter()
        .map(|condition| {
            let value = if condition.equals == "self" { json!(pid) } else { condition.equals.clone() };
            // Zero is a null pointer as often as a number, so all of it has to be zero.
            let width = if condition.mask.is_none() && value == 0 { "qword" } else { "dword" };
            let op = condition.mask.map_or(json!("eq"), |mask| json!({ "masked_eq": mask }));
            json!({ "index": condition.arg, "type": width, "op": op, "val": value })
        })
        .collect();
    json!({ "syscall": rule.call, "args": args })
}

fn error_number(name: &str) -> Option<Errno> {
    [Errno::EACCES, Errno::EPERM, Errno::ENOSYS, Errno::ENOTTY, Errno::ENOENT]
        .into_iter()
        .find(|errno| format!("{errno:?}") == name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_filter_compiles_for_every_processor_we_ship_on() {
        for arch in ["x86_64", "aarch64"] {
            let programs = programs(WORKER_FILTER, arch, 42).unwrap();
            assert!(programs.len() >= 2, "one that refuses, one that kills");
            assert!(programs.iter().all(|program| program.len() < 4096), "the kernel's own bound");
        }
        assert!(matches!(programs(WORKER_FILTER, "riscv64", 42), Err(LockdownError::Processor)));
    }

    #[test]
    fn every_call_has_a_reason_and_one_verdict() {
        let filter: Filter = serde_json::from_str(WORKER_FILTER).unwrap();
        assert!(filter.allow.iter().chain(&filter.refuse).all(|rule| rule.reason.len() >= 4));
        assert!(filter.allow.iter().all(|rule| rule.errno.is_none()));
        let names = |rules: &[Rule]| rules.iter().map(|rule| rule.call.clone()).collect::<BTreeSet<_>>();
        let both: Vec<_> = names(&filter.allow).intersection(&names(&filter.refuse)).cloned().collect();
        assert!(both.is_empty(), "{both:?} is both allowed and refused");
    }

    #[test]
    fn nothing_that_reaches_outside_is_on_any_list() {
        let filter: Filter = serde_json::from_str(WORKER_FILTER).unwrap();
        let deadly = [
            "socket",
            "connect",
            "bind",
            "execve",
            "execveat",
            "fork",
            "vfork",
            "ptrace",
            "process_vm_readv",
            "process_vm_writev",
            "kill",
            "tkill",
            "pidfd_open",
            "pidfd_getfd",
            "mount",
            "unshare",
            "setns",
            "bpf",
            "io_uring_setup",
            "perf_event_open",
            "keyctl",
            "userfaultfd",
            "sendto",
            "accept4",
        ];
        for rule in filter.allow.iter().chain(&filter.refuse) {
            assert!(!deadly.contains(&rule.call.as_str()), "{} is on the list", rule.call);
        }
    }
}
