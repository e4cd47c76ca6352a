//! Limits that the kernel keeps for a worker's control group. Where no group is delegated to these tests
//! (`systemd-run -p Delegate=yes …` does) they say so and stop: the limits of the process itself stand in there.
use sandbox::jail::ProcessLimits;
use sandbox::launch::{CgroupRoot, Ending};

use crate::probe::{Probe, plan, start};

/// A probe in a group of its own with these limits, and the group of all workers.
fn grouped(limits: ProcessLimits, args: &[&str]) -> Option<(Probe, CgroupRoot)> {
    let plan = plan(limits, args);
    let Some(root) = plan.cgroups.clone() else {
        println!("this machine lacks cgroup: {}", plan.cgroup_missing);
        return None;
    };
    let probe = start(&plan);
    assert!(probe.has("cgroup"), "{:?}", probe.ready.missing_layers);
    Some((probe, root))
}

#[test]
fn a_memory_hog_is_killed_by_its_groups_limit_and_known_for_it() {
    let limits = ProcessLimits { memory: 256 << 20, ..ProcessLimits::default() };
    let Some((probe, _)) = grouped(limits, &[]) else { return };
    assert_eq!(probe.dies_of("memory-hog"), Ending::OutOfMemory);
}

#[test]
fn a_fork_bomb_meets_the_groups_limit_even_as_root() {
    let Some((mut probe, _)) = grouped(ProcessLimits { tasks: 40, ..ProcessLimits::default() }, &["--jail-only"])
    else {
        return;
    };
    let told = probe.told("fork-bomb");
    let count: u32 = told.rsplit(' ').next().unwrap().parse().unwrap();
    assert!(told.starts_with("refused: EAGAIN") && count < 40, "{told}");
}

#[test]
fn all_workers_together_get_no_more_of_the_processor_than_they_may() {
    let Some((mut probe, root)) = grouped(ProcessLimits::default(), &[]) else { return };
    let throttled = || {
        let stat = std::fs::read_to_string(root.dir().join("cpu.stat")).unwrap();
        let count = stat.lines().find_map(|line| line.strip_prefix("nr_throttled ")).unwrap();
        count.trim().parse::<u64>().unwrap()
    };
    root.limit_cpu(Some(25)).unwrap();
    let before = throttled();
    probe.run("busy").unwrap();
    assert!(throttled() > before, "a second of work at a quarter of a processor is held back");
    root.limit_cpu(None).unwrap();
    let before = throttled();
    probe.run("busy").unwrap();
    assert_eq!(throttled(), before);
}

#[test]
fn a_group_goes_with_its_worker() {
    let Some((mut probe, root)) = grouped(ProcessLimits::default(), &[]) else { return };
    let pid = probe.worker.pid();
    let group = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let name = group.lines().find_map(|line| line.strip_prefix("0::")).unwrap().rsplit('/').next().unwrap().to_owned();
    assert!(name.starts_with("worker-") && root.dir().join(&name).is_dir(), "{group}");
    probe.worker.kill();
    drop(probe);
    assert!(!root.dir().join(name).exists());
}
