//! The jail and the last lock, from inside.
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use sandbox::jail::ProcessLimits;
use sandbox::launch::{Ending, RunError, launch};

use crate::probe::{PATIENCE, Probe, jail_only, plan, program, sealed, start};

#[test]
fn a_harmless_worker_lives_and_answers() {
    let mut probe = sealed();
    for _ in 0..3 {
        let (done, media) = probe.run("echo").unwrap();
        assert_eq!(done.renditions.len(), 1);
        assert_eq!(&*media[0].map().unwrap(), b"some media, eight bytes and more");
    }
    assert_eq!(probe.told("threads"), "SUCCEEDED with 8");
}

#[test]
fn the_layers_that_every_machine_has_are_active_and_the_rest_is_told() {
    let probe = sealed();
    probe.print_missing();
    println!("layers here: {}", probe.ready.layers.join(" "));
    for layer in ["no-new-privileges", "rlimits", "no-capabilities", "not-dumpable", "seccomp"] {
        assert!(probe.has(layer), "{layer} is missing: {:?}", probe.ready.layers);
    }
    // Files have a wall on every kernel we support: by the kernel's rules, by a root of its own, or both.
    assert!(probe.has("landlock") || probe.has("private-root"), "{:?}", probe.ready.missing_layers);
    for layer in ["landlock", "user-namespace", "network-namespace", "private-root", "task-limit", "cgroup"] {
        let reason = probe.ready.missing_layers.iter().find(|(missing, _)| missing == layer);
        assert!(probe.has(layer) || reason.is_some(), "{layer} is neither active nor missing");
    }
}

#[test]
fn a_jailed_worker_can_read_no_file_it_was_not_granted() {
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), "the hot key").unwrap();
    std::fs::set_permissions(secret.path(), std::fs::Permissions::from_mode(0o644)).unwrap();
    let mut probe = jail_only();
    let secret = secret.path().display();
    let own = std::process::id();
    for path in ["/etc/passwd", "/etc/hostname", "/proc/version", "/proc/1/status", "/root/.bashrc"] {
        probe.is_refused(&format!("read {path}"));
    }
    probe.is_refused(&format!("read {secret}"));
    probe.is_refused(&format!("read /proc/{own}/environ"));
    probe.is_refused(&format!("read {}", program().display()));
    for directory in ["/etc", "/tmp", "/home", "/proc"] {
        let told = probe.told(&format!("list {directory}"));
        // In a root of its own the mount points are there to see, and nothing but them.
        assert!(told.starts_with("refused: "), "{directory}: {told}");
    }
}

#[test]
fn a_jailed_worker_can_read_what_it_was_granted() {
    let mut probe = jail_only();
    assert!(probe.told("read /proc/self/status").starts_with("SUCCEEDED"));
    assert!(probe.told("list /usr/lib").starts_with("SUCCEEDED"));
}

#[test]
fn a_jailed_worker_can_write_nowhere() {
    let scratch = tempfile::tempdir().unwrap();
    std::fs::set_permissions(scratch.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let existing = scratch.path().join("existing");
    std::fs::write(&existing, "x").unwrap();
    std::fs::set_permissions(&existing, std::fs::Permissions::from_mode(0o666)).unwrap();
    let mut probe = jail_only();
    for directory in ["/tmp", "/dev/shm", "/usr/lib", "/proc/self", "/", &scratch.path().display().to_string()] {
        probe.is_refused(&format!("create {directory}/millrace-was-here"));
    }
    for attempt in ["write", "remove"] {
        probe.is_refused(&format!("{attempt} {}", existing.display()));
    }
    assert_eq!(std::fs::read_to_string(existing).unwrap(), "x");
}

#[test]
fn a_jailed_worker_reaches_no_network() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let mut probe = jail_only();
    if !(probe.has("network-namespace") || probe.has("landlock")) {
        probe.print_missing();
    } else {
        probe.is_refused(&format!("connect {}", listener.local_addr().unwrap()));
    }
    // Whatever the machine lacks, nothing arrived; and the last lock does not even give out a socket.
    assert!(listener.accept().is_err());
    assert_eq!(sealed().dies_of("socket"), Ending::ForbiddenCall);
}

#[test]
fn a_jailed_worker_can_execute_nothing() {
    let mut probe = jail_only();
    for program in ["/bin/true", "/usr/bin/true", "/proc/self/exe", "/bin/sh"] {
        probe.is_refused(&format!("execve {program}"));
    }
}

#[test]
fn a_jailed_worker_can_neither_trace_nor_signal_the_node() {
    let mut probe = jail_only();
    probe.is_refused("ptrace");
    if probe.has("landlock") && !probe.ready.missing_layers.iter().any(|(layer, _)| layer == "landlock-in-full") {
        probe.is_refused("signal");
        probe.is_refused("tgsignal");
    } else {
        probe.print_missing();
    }
    for attempt in ["signal", "tgsignal", "own-signal", "ptrace"] {
        assert_eq!(sealed().dies_of(attempt), Ending::ForbiddenCall, "{attempt}");
    }
}

#[test]
fn a_jailed_worker_is_nobody_and_has_no_powers() {
    let mut probe = jail_only();
    let identity = probe.told("identity");
    assert!(identity.contains("CapEff: 0000000000000000"), "{identity}");
    assert!(identity.contains("NoNewPrivs: 1"), "{identity}");
    if probe.has("user-namespace") {
        assert!(identity.contains("Uid: 65534"), "{identity}");
        assert!(identity.contains("CapBnd: 0000000000000000"), "{identity}");
    }
    probe.is_refused("mount");
}

#[test]
fn a_jailed_worker_holds_its_channel_and_its_segment_and_nothing_else() {
    // A descriptor of ours that a careless start would pass on.
    let file = tempfile::tempfile().unwrap();
    // SAFETY is not at stake: F_SETFD only lets children inherit it.
    nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
    let mut probe = jail_only();
    let held = probe.told("descriptors-held");
    for descriptor in held.split(';') {
        let (number, to) = descriptor.split_once('=').unwrap();
        let expected = match number {
            "0" | "1" => to.ends_with("/dev/null"),
            "2" => true,
            "3" => to.starts_with("socket:"),
            // The segment, a copy of it made by the probe, and the directory it reads this from.
            _ => to.starts_with("/memfd:millrace") || to.contains("/fd"),
        };
        assert!(expected, "{descriptor} of {held}");
    }
    let environment = probe.told("environment");
    let known = ["GLIBC_TUNABLES", "GST_REGISTRY_FORK", "HOME", "LANG", "MALLOC_ARENA_MAX", "RUST_BACKTRACE"];
    assert!(environment.split(' ').all(|name| known.contains(&name)), "{environment}");
}

#[test]
fn a_fork_bomb_is_refused_at_the_task_limit_and_deadly_when_sealed() {
    let mut probe = start(&plan(ProcessLimits { tasks: 40, ..ProcessLimits::default() }, &["--jail-only"]));
    if probe.has("task-limit") || probe.has("cgroup") {
        let told = probe.told("fork-bomb");
        let count: u32 = told.rsplit(' ').next().unwrap().parse().unwrap();
        assert!(told.starts_with("refused: EAGAIN") && count < 40, "{told}");
    } else {
        probe.print_missing();
    }
    assert_eq!(sealed().dies_of("fork-bomb"), Ending::ForbiddenCall);
}

#[test]
fn a_memory_hog_dies_at_its_limit() {
    let limits = ProcessLimits { memory: 256 << 20, ..ProcessLimits::default() };
    let ending = start(&plan(limits, &[])).dies_of("memory-hog");
    let died_for_memory = matches!(ending, Ending::OutOfMemory | Ending::Signal("SIGABRT"));
    assert!(died_for_memory, "{ending:?}");
}

#[test]
fn descriptors_and_file_sizes_are_bounded() {
    let limits = ProcessLimits { open_files: 32, file_size: 8 << 20, ..ProcessLimits::default() };
    let mut probe = start(&plan(limits, &[]));
    let told = probe.told("descriptors");
    let count: u64 = told.rsplit(' ').next().unwrap().parse().unwrap();
    assert!(told.starts_with("refused: ") && count < 32, "{told}");
    assert_eq!(probe.dies_of("huge-file"), Ending::Signal("SIGXFSZ"));
}

#[test]
fn a_sealed_worker_dies_of_every_way_out() {
    let fatal = [
        "write /dev/null",
        "socket",
        "connect 127.0.0.1:9",
        "execve /bin/true",
        "exec /bin/true",
        "unshare",
        "mount",
        "thread socket",
        "thread execve /bin/true",
    ];
    for attempt in fatal {
        assert_eq!(sealed().dies_of(attempt), Ending::ForbiddenCall, "{attempt}");
    }
}

/// The list of what a worker must die of, each alone, from the first call on; and the one that lives beside them.
#[test]
fn open_connect_exec_fork_trace_and_greed_are_each_deadly_and_the_harmless_one_lives() {
    let mut harmless = sealed();
    for attempt in ["write /dev/null", "create /tmp/millrace-was-here", "connect 127.0.0.1:9", "exec /bin/true"] {
        assert_eq!(sealed().dies_of(attempt), Ending::ForbiddenCall, "{attempt}");
    }
    for attempt in ["fork-bomb", "ptrace"] {
        assert_eq!(sealed().dies_of(attempt), Ending::ForbiddenCall, "{attempt}");
    }
    let small = ProcessLimits { memory: 256 << 20, ..ProcessLimits::default() };
    assert!(matches!(start(&plan(small, &[])).dies_of("memory-hog"), Ending::OutOfMemory | Ending::Signal("SIGABRT")));
    assert!(harmless.run("echo").is_ok());
}

#[test]
fn a_sealed_worker_cannot_even_read_what_its_libraries_could() {
    let mut probe = sealed();
    for path in ["/usr/lib/os-release", "/proc/self/maps", "/etc/passwd"] {
        assert_eq!(probe.told(&format!("read {path}")), "refused: EACCES", "{path}");
        assert_eq!(probe.told(&format!("thread read {path}")), "refused: EACCES", "{path}");
    }
}

#[test]
fn a_lying_worker_is_killed_and_not_believed() {
    for lie in ["lie-pixels", "lie-id", "lie-count"] {
        let mut probe = sealed();
        assert!(matches!(probe.run(lie), Err(RunError::Lied(_))), "{lie}");
        assert!(probe.worker.ended().is_some());
    }
    assert!(matches!(sealed().run("lie-length"), Err(RunError::Length { index: 0, .. })));
    assert!(matches!(sealed().run("unsealed"), Err(RunError::Rendition { index: 0, .. })));
    assert!(matches!(sealed().run("garbage"), Err(RunError::Channel(_))));
}

#[test]
fn a_worker_that_cannot_start_says_why_and_one_that_hangs_is_ended() {
    let mut worker = launch(&plan(ProcessLimits::default(), &["--unfit"])).unwrap();
    let unfit = worker.wait_ready(PATIENCE).unwrap_err();
    assert!(matches!(&unfit, RunError::Unfit(reason) if reason.contains("install")), "{unfit}");
    let mut worker = launch(&plan(ProcessLimits::default(), &["--hang"])).unwrap();
    let hung = worker.wait_ready(std::time::Duration::from_millis(100));
    assert!(matches!(hung, Err(RunError::Timeout(_))));
    assert_eq!(worker.ended(), Some(Ending::Signal("SIGKILL")));
}

#[test]
fn a_missing_program_is_named() {
    let missing = sandbox::launch::LaunchPlan {
        program: "/nowhere/millrace-worker".into(),
        ..plan(ProcessLimits::default(), &[])
    };
    let error = launch(&missing).unwrap_err();
    assert!(error.to_string().contains("/nowhere/millrace-worker"), "{error}");
}

#[test]
fn a_program_started_by_hand_says_so() {
    let output = Command::new(program()).output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&output.stderr).contains("not by hand"));
}

#[test]
fn a_worker_does_not_outlive_the_thread_pool_that_asked_for_it() {
    // The kernel's death signal follows threads; a worker started from one that ends must live on.
    let mut probe: Probe = std::thread::spawn(sealed).join().unwrap();
    assert!(probe.run("echo").is_ok());
}

#[test]
fn a_worker_dies_with_its_node_however_the_node_dies() {
    let mut node = Command::new(program()).arg("--node").stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(node.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let worker = format!("/proc/{}/stat", line.trim());
    assert!(Path::new(&worker).exists());
    node.kill().unwrap();
    node.wait().unwrap();
    let begin = Instant::now();
    // Gone, or dead and not yet collected by whoever inherits orphans here.
    while std::fs::read_to_string(&worker).is_ok_and(|stat| !stat.contains(") Z ")) {
        assert!(begin.elapsed() < PATIENCE, "the worker lives on");
        std::thread::yield_now();
    }
}

#[test]
fn a_launch_takes_milliseconds() {
    let mut times: Vec<u128> = (0..20)
        .map(|_| {
            let begin = Instant::now();
            drop(sealed());
            begin.elapsed().as_micros()
        })
        .collect();
    times.sort_unstable();
    println!("launch to ready and ended again: median {} µs, slowest {} µs", times[10], times[19]);
    // Two orders of magnitude of room: this is no benchmark, it catches a wait that should not be there.
    assert!(times[10] < 1_000_000, "{times:?}");
}

#[test]
fn the_walls_hold_for_an_ordinary_user_too() {
    if !nix::unistd::geteuid().is_root() {
        println!("this run is an ordinary user's already");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let (tests, probe) = (dir.path().join("tests"), dir.path().join("probe"));
    std::fs::copy(std::env::current_exe().unwrap(), &tests).unwrap();
    std::fs::copy(program(), &probe).unwrap();
    let started = Command::new(tests)
        .args(["jail::", "--skip", "ordinary_user", "--test-threads", "1"])
        .env("MILLRACE_PROBE", &probe)
        .env("TMPDIR", "/tmp")
        .current_dir("/")
        .uid(65534)
        .gid(65534)
        .output();
    let output = match started {
        // In a container's own user namespace there may be no other user to become.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EPERM)) => {
            println!("this root cannot become an ordinary user: {error}");
            return;
        }
        other => other.unwrap(),
    };
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    // A filter that matches nothing would pass as well.
    assert!(text.contains("a_sealed_worker_dies_of_every_way_out ... ok"), "{text}");
}
