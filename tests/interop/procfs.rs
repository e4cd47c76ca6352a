//! What a tree of processes used: processor time and memory, from /proc.
use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};

/// Processor seconds and memory of a tree of processes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    /// User and system time, ended children included.
    pub cpu_s: f64,
    /// Proportional set size.
    pub pss_mib: f64,
}

/// Of these processes and all their descendants.
pub(crate) fn usage(roots: &[u32]) -> Result<Usage> {
    let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.context("clock ticks")?;
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    let mut times: BTreeMap<u32, u64> = BTreeMap::new();
    for entry in std::fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        // The name may hold anything; what follows it is counted from its closing bracket.
        let Some((_, rest)) = stat.rsplit_once(") ") else { continue };
        let fields: Vec<u64> = rest.split(' ').skip(1).map(|field| field.parse().unwrap_or(0)).collect();
        let field = |number: usize| fields.get(number).copied().unwrap_or(0);
        children.entry(u32::try_from(field(0))?).or_default().push(pid);
        times.insert(pid, (10..14).map(field).sum());
    }
    let mut tree: BTreeSet<u32> = BTreeSet::new();
    let mut next = roots.to_vec();
    while let Some(pid) = next.pop() {
        if tree.insert(pid) {
            next.extend(children.get(&pid).into_iter().flatten());
        }
    }
    let spent: u64 = tree.iter().filter_map(|pid| times.get(pid)).sum();
    let pss: u64 = tree.iter().filter_map(|pid| pss_kib(*pid)).sum();
    #[expect(clippy::cast_precision_loss, reason = "seconds and megabytes of a test run")]
    Ok(Usage { cpu_s: spent as f64 / ticks as f64, pss_mib: pss as f64 / 1024.0 })
}

fn pss_kib(pid: u32) -> Option<u64> {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?.trim().trim_end_matches(" kB").parse().ok()
}
