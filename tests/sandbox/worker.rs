//! The real worker, from outside.
use std::collections::BTreeSet;
use std::path::PathBuf;

use millrace_tests::bins::bin;
use sandbox::jail::{JailPlan, ProcessLimits};
use sandbox::launch::{LaunchPlan, LogTo, launch, make_registry};

use crate::probe::PATIENCE;

fn plan(dir: &tempfile::TempDir) -> LaunchPlan {
    let registry: PathBuf = dir.path().join("registry.bin");
    make_registry(&bin("millrace-worker"), &registry, PATIENCE).unwrap();
    assert!(registry.is_file(), "the cache of plugins was written");
    let plan =
        LaunchPlan::software(bin("millrace-worker"), JailPlan::software(ProcessLimits::default()), Some(registry));
    LaunchPlan { log: LogTo::Inherit, ..plan }
}

/// Has this process the capability to look into others (`CAP_SYS_PTRACE`)?
fn may_trace() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    u64::from_str_radix(effective.trim(), 16).unwrap() & (1 << 19) != 0
}

#[test]
fn a_worker_holds_no_key_no_socket_and_no_file_it_was_not_given() {
    let dir = tempfile::tempdir().unwrap();
    let secret = tempfile::tempfile().unwrap();
    nix::fcntl::fcntl(&secret, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
    let mut worker = launch(&plan(&dir)).unwrap();
    let ready = worker.wait_ready(PATIENCE).unwrap();
    println!("engine {}, layers {}", ready.engine, ready.layers.join(" "));
    for (layer, reason) in &ready.missing_layers {
        println!("this machine lacks {layer}: {reason}");
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", worker.pid())).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.trim_start_matches(':').trim().to_owned()
    };
    assert_eq!(field("CapEff"), "0000000000000000");
    assert_eq!(field("CapPrm"), "0000000000000000");
    assert_eq!(field("NoNewPrivs"), "1");
    assert_eq!(field("Seccomp"), "2", "a filter is installed");
    let threads = std::fs::read_dir(format!("/proc/{}/task", worker.pid())).unwrap().flatten();
    for thread in threads {
        let status = std::fs::read_to_string(thread.path().join("status")).unwrap();
        assert!(status.contains("Seccomp:\t2"), "a thread was missed");
    }
    // Only a tracer may look at these; an ordinary user may not, as the worker is not dumpable.
    let (Ok(descriptors), Ok(environment)) = (
        std::fs::read_dir(format!("/proc/{}/fd", worker.pid())),
        std::fs::read(format!("/proc/{}/environ", worker.pid())),
    ) else {
        println!("descriptors and environment of a worker are hidden from this user; the probe tells its own");
        assert!(!may_trace(), "a tracer is refused");
        return;
    };
    let mut sockets = 0;
    for link in descriptors.flatten() {
        let number = link.file_name().into_string().unwrap();
        let to = std::fs::read_link(link.path()).unwrap().display().to_string();
        // Wake-ups of GLib and GStreamer are pairs whose both ends are the worker's own.
        let expected = match number.as_str() {
            "0" | "1" => to == "/dev/null",
            "2" => true,
            _ => to.starts_with("socket:") || to.starts_with("anon_inode:[event") || to.starts_with("/memfd:"),
        };
        sockets += usize::from(to.starts_with("socket:"));
        assert!(expected, "descriptor {number} is {to}");
    }
    println!("sockets, its channel and wake-ups of its own: {sockets}");
    let environment = String::from_utf8(environment).unwrap();
    let names: BTreeSet<&str> = environment.split('\0').filter_map(|pair| pair.split('=').next()).collect();
    let known = ["", "GST_REGISTRY", "GST_REGISTRY_FORK", "HOME", "LANG", "MALLOC_ARENA_MAX", "RUST_BACKTRACE"];
    assert!(names.iter().all(|name| known.contains(name)), "{names:?}");
}

/// First and fifth segment of a new stream on a fresh worker, with and without the pool's warm-up; medians.
#[test]
#[ignore = "measures: run it alone, in release"]
fn a_first_segment_beside_a_warm_one() {
    use std::os::fd::AsFd;
    use std::time::Instant;
    let dir = tempfile::tempdir().unwrap();
    let plan = plan(&dir);
    let film = sandbox::memfd::Sealed::from_bytes(include_bytes!("../media/bbb-720p.ts")).unwrap();
    let profiles = ["720p", "480p", "360p", "240p"].map(|name| livepeer::profile::preset(name).unwrap()).to_vec();
    let job = sandbox::message::Job { profiles, threads: 2, service_provider: String::new(), ..crate::probe::job("") };
    for warmed in [false, true] {
        let (mut firsts, mut later) = (Vec::new(), Vec::new());
        for _ in 0..7 {
            let mut worker = launch(&plan).unwrap();
            worker.wait_ready(PATIENCE).unwrap();
            if warmed {
                orchestrator::pool::WarmUp::new(2).unwrap().run(&mut worker).unwrap();
            }
            let mut times: Vec<u128> = (0..5)
                .map(|_| {
                    let begin = Instant::now();
                    worker.run(&job, film.as_fd(), PATIENCE).unwrap();
                    begin.elapsed().as_millis()
                })
                .collect();
            firsts.push(times.remove(0));
            later.extend(times);
        }
        firsts.sort_unstable();
        later.sort_unstable();
        let (first, warm) = (firsts[firsts.len() / 2], later[later.len() / 2]);
        println!("warmed up: {warmed}; first segment {first} ms, warm {warm} ms");
    }
}

#[test]
fn an_engine_is_proved_under_the_lock_in_a_worker_that_is_thrown_away() {
    let dir = tempfile::tempdir().unwrap();
    let mut plan = plan(&dir);
    plan.args.push("--prove".into());
    let mut worker = launch(&plan).unwrap();
    let proof = worker.wait_proof(PATIENCE).unwrap();
    println!("{} proved {}", proof.engine, proof.proved.join(" "));
    assert_eq!(proof.engine, "software");
    assert!(proof.proved.contains(&"encode-h264".to_owned()), "{proof:?}");
    let ended = std::iter::repeat_with(|| worker.ended()).take(100_000).find_map(|ending| {
        std::thread::yield_now();
        ending
    });
    assert_eq!(ended.unwrap_or_else(|| worker.kill()).to_string(), "exited with status 0");
}

#[test]
fn an_engine_whose_silicon_is_not_here_is_refused_in_words() {
    let dir = tempfile::tempdir().unwrap();
    for (engine, node) in [("nvidia+software", "/dev/nvidia0"), ("va", "/dev/dri/renderD128")] {
        if std::path::Path::new(node).exists() {
            println!("{node} is here: {engine} is not looked at");
            continue;
        }
        let mut plan = plan(&dir).with_engine(engine, &[node.into()]);
        plan.args.push("--prove".into());
        let refused = launch(&plan).unwrap().wait_proof(PATIENCE).unwrap_err().to_string();
        assert!(refused.contains("is missing: install the package"), "{engine}: {refused}");
    }
}
