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
/// What engines in silicon take besides.
const SILICON_FILTER: &str = include_str!("filters/silicon.json");
/// The engine that takes nothing besides.
const SOFTWARE: &str = "software";

/// Why the lock could not be closed.
#[derive(Debug, thiserror::Error)]
pub enum LockdownError {
    /// We have no list for this kind of processor.
    #[error("no system call filter for this processor")]
    Processor,
    /// The filter's data makes no sense; a fault of this build.
    #[error("the system call filter is malformed")]
    Filter(#[from] serde_json::Error),
    /// An engine that no filter is known for.
    #[error("no system call filter for the engine {0:?}")]
    Engine(String),
    /// An engine in silicon may open files under the lock, which takes another layer to decide which.
    #[error("neither a private root nor landlock is in force: an engine in silicon is not let in without")]
    Unwalled,
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

/// What an engine changes of it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Widening {
    /// Calls whose rules are dropped first.
    replaces: Vec<String>,
    allow: Vec<Rule>,
    refuse: Vec<Rule>,
}

impl Filter {
    /// The filter of a worker that uses this engine: its name, or those of two joined by `+`.
    fn of(engine: &str) -> Result<Self, LockdownError> {
        let mut filter: Self = serde_json::from_str(WORKER_FILTER)?;
        let mut silicon: BTreeMap<String, Value> = serde_json::from_str(SILICON_FILTER)?;
        let parts: Vec<&str> = engine.split('+').filter(|part| *part != SOFTWARE).collect();
        let every = Some("every").filter(|_| !parts.is_empty());
        for part in every.into_iter().chain(parts) {
            let widening = silicon.remove(part).ok_or_else(|| LockdownError::Engine(part.to_owned()))?;
            let widening: Widening = serde_json::from_value(widening)?;
            filter.allow.retain(|rule| !widening.replaces.contains(&rule.call));
            filter.refuse.retain(|rule| !widening.replaces.contains(&rule.call));
            filter.allow.extend(widening.allow);
            filter.refuse.extend(widening.refuse);
        }
        Ok(filter)
    }
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
    seal_for(SOFTWARE, layers)
}

/// As [`seal`], with what an engine's drivers take besides: for its name, such as `va` or `nvidia+software`.
///
/// # Errors
/// As for [`seal`], and when nothing else decides which files may be opened.
pub fn seal_for(engine: &str, layers: &mut Layers) -> Result<(), LockdownError> {
    if engine != SOFTWARE && !layers.has("private-root") && !layers.has("landlock") {
        return Err(LockdownError::Unwalled);
    }
    for program in programs(Filter::of(engine)?, std::env::consts::ARCH, std::process::id())? {
        seccompiler::apply_filter_all_threads(&program)?;
    }
    layers.add("seccomp");
    Ok(())
}

/// The filters in the order of their installation: one per error, then the one that kills. The kernel asks
/// all of them and takes the strictest answer.
fn programs(mut filter: Filter, arch: &str, pid: u32) -> Result<Vec<BpfProgram>, LockdownError> {
    let target = match arch {
        "x86_64" => TargetArch::x86_64,
        "aarch64" => TargetArch::aarch64,
        _ => return Err(LockdownError::Processor),
    };
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

    const ENGINES: [&str; 8] = [SOFTWARE, "nvidia", "jetson", "va", "qsv", "v4l2", "nvidia+software", "software+v4l2"];

    #[test]
    fn the_filter_compiles_for_every_processor_we_ship_on() {
        for (arch, engine) in ["x86_64", "aarch64"].into_iter().flat_map(|arch| ENGINES.map(|engine| (arch, engine))) {
            let programs = programs(Filter::of(engine).unwrap(), arch, 42).unwrap();
            assert!(programs.len() >= 2, "one that refuses, one that kills");
            assert!(programs.iter().all(|program| program.len() < 4096), "the kernel's own bound");
        }
        assert!(matches!(programs(Filter::of(SOFTWARE).unwrap(), "riscv64", 42), Err(LockdownError::Processor)));
    }

    #[test]
    fn a_call_is_left_out_only_for_a_processor_that_has_none_of_its_name() {
        for engine in ENGINES {
            let filter = Filter::of(engine).unwrap();
            for rule in filter.allow.into_iter().chain(filter.refuse) {
                let Some(only) = rule.arch.clone() else { continue };
                let other = if only == "x86_64" { "aarch64" } else { "x86_64" };
                let call = rule.call.clone();
                let alone =
                    Filter { about: String::new(), allow: vec![Rule { arch: None, ..rule }], refuse: Vec::new() };
                assert!(programs(alone, other, 42).is_err(), "{call} exists on {other} too");
            }
        }
    }

    #[test]
    fn every_call_has_a_reason_and_one_verdict() {
        for engine in ENGINES {
            let filter = Filter::of(engine).unwrap();
            assert!(filter.allow.iter().chain(&filter.refuse).all(|rule| rule.reason.len() >= 4));
            assert!(filter.allow.iter().all(|rule| rule.errno.is_none()));
            let names = |rules: &[Rule]| rules.iter().map(|rule| rule.call.clone()).collect::<BTreeSet<_>>();
            let both: Vec<_> = names(&filter.allow).intersection(&names(&filter.refuse)).cloned().collect();
            let expected: &[&str] = if engine == SOFTWARE { &[] } else { &["ioctl"] };
            assert_eq!(both, expected, "{engine}: both allowed and refused");
        }
    }

    #[test]
    fn a_terminal_can_be_asked_of_no_engine_and_devices_only_of_their_own() {
        let asked = |engine: &str, request: u64| {
            let filter = Filter::of(engine).unwrap();
            filter
                .allow
                .iter()
                .filter(|rule| rule.call == "ioctl")
                .any(|rule| rule.when.iter().all(|c| c.equals == request & c.mask.unwrap_or(u64::from(u32::MAX))))
        };
        // TIOCSTI writes into a terminal, VIDIOC_QUERYCAP, DRM_IOCTL_VERSION, NV_ESC_RM_ALLOC.
        let (terminal, v4l2, drm, nvidia) = (0x5412, 0x8068_5600, 0xc040_6400, 0xc030_462b);
        for engine in ENGINES {
            assert!(!asked(engine, terminal), "{engine}");
        }
        for request in [v4l2, drm, nvidia] {
            assert!(!asked(SOFTWARE, request));
        }
        let of = |engine| [v4l2, drm, nvidia].map(|request| asked(engine, request));
        assert_eq!(of("nvidia"), [false, false, true]);
        assert_eq!(of("nvidia+software"), [false, false, true]);
        assert_eq!(of("va"), [false, true, false]);
        assert_eq!(of("qsv"), [false, true, false]);
        assert_eq!(of("v4l2"), [true, false, false]);
        assert_eq!(of("jetson"), [true, true, false]);
        assert!(matches!(Filter::of("riva"), Err(LockdownError::Engine(name)) if name == "riva"));
    }

    #[test]
    fn an_engine_in_silicon_is_not_let_in_without_a_wall() {
        assert!(matches!(seal_for("va", &mut Layers::default()), Err(LockdownError::Unwalled)));
    }

    #[test]
    fn nothing_that_reaches_outside_is_on_any_list() {
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
        let filters = ENGINES.map(|engine| Filter::of(engine).unwrap());
        for rule in filters.iter().flat_map(|filter| filter.allow.iter().chain(&filter.refuse)) {
            assert!(!deadly.contains(&rule.call.as_str()), "{} is on the list", rule.call);
        }
    }
}
