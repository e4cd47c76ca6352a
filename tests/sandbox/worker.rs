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
    let known = [
        "",
        "GLIBC_TUNABLES",
        "GST_REGISTRY",
        "GST_REGISTRY_FORK",
        "HOME",
        "LANG",
        "MALLOC_ARENA_MAX",
        "RUST_BACKTRACE",
    ];
    // glibc cuts GLIBC_TUNABLES apart where it lies.
    let ours = |name: &str| known.contains(&name) || name.starts_with("glibc.malloc.");
    assert!(names.iter().all(|name| ours(name)), "{names:?}");
}

/// The first segment of a new stream beside later ones on the same worker, with and without the pool's warm-up;
/// medians of wall and processor time.
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
    let median = |mut times: Vec<u128>| {
        times.sort_unstable();
        times[times.len() / 2]
    };
    for warmed in [false, true] {
        let (mut firsts, mut later) = ((Vec::new(), Vec::new()), (Vec::new(), Vec::new()));
        for _ in 0..5 {
            let mut worker = launch(&plan).unwrap();
            worker.wait_ready(PATIENCE).unwrap();
            if warmed {
                orchestrator::pool::WarmUp::new(2).unwrap().run(&mut worker).unwrap();
            }
            for number in 0..3 {
                let (begin, before) = (Instant::now(), worker.cpu_time());
                worker.run(&job, film.as_fd(), PATIENCE).unwrap();
                let times = if number == 0 { &mut firsts } else { &mut later };
                times.0.push(begin.elapsed().as_millis());
                times.1.push(worker.cpu_time().saturating_sub(before).as_millis());
            }
        }
        let (first, warm) = ((median(firsts.0), median(firsts.1)), (median(later.0), median(later.1)));
        println!("warmed up: {warmed}; ms of wall and processor: first {first:?}, warm {warm:?}");
    }
}
