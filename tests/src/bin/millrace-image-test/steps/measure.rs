//! What is measured on a box that works: a boot, and how much it writes to its flash, at rest and while it serves.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use crate::machine::Machine;
use crate::report::Report;
use crate::site::Push;
use crate::steps::{BOOT, COMMAND, Lab, READY};

/// For first writes to be over: the worker's proof, the clock's, and the journal's, which syncs every five minutes and has
/// all of the boot to tell the first time.
const SETTLES: Duration = Duration::from_secs(360);
/// How long it is watched at rest: two of the journal's five minutes.
const AT_REST: Duration = Duration::from_secs(610);
/// Seconds of content pushed, as fast as they come in real life.
const SERVED: u32 = 60;
/// Most that a box at rest may write in a day.
const TARGET_PER_DAY: f64 = 40e6;
const DAY: f64 = 86_400.0;
/// Kernel's unit in its counters of a disk.
const SECTOR: f64 = 512.0;

/// What this boot took, to the health gate's word: time in emulation, and processor time, which means something elsewhere.
pub(crate) fn boot(machine: &mut Machine, report: &mut Report) -> Result<((), String)> {
    machine
        .until("systemctl is-active --quiet multi-user.target && systemctl is-active --quiet millrace-health", READY)?;
    let analysed = machine.until("systemd-analyze | head -n 1", READY)?;
    // All of it from the control groups: what /proc/stat counts by ticks is less than what they count exactly.
    let used = machine.run(
        "cd /sys/fs/cgroup; awk '/^usage_usec/ { print \"whole\", $2 / 1e6 }' cpu.stat; \
         for unit in system.slice/millrace*.service millrace.slice/millrace*.service; do [ ! -e $unit/cpu.stat ] || \
         awk -v part=${unit##*/} '/^usage_usec/ { print part, $2 / 1e6 }' $unit/cpu.stat; done",
        COMMAND,
    )?;
    let mut seconds = BTreeMap::new();
    for line in used.lines() {
        let (name, value) = line.split_once(' ').context("a name and its seconds")?;
        seconds.insert(name.to_owned(), value.parse::<f64>().with_context(|| line.to_owned())?);
    }
    let slower = slower(machine)?;
    let whole = seconds.get("whole").copied().context("no whole")?;
    let ours: f64 = seconds.iter().filter(|(name, _)| name.ends_with(".service")).map(|(_, value)| value).sum();
    report.figure("later_boot_systemd", analysed.clone());
    report.figure("later_boot_cpu_s", json!(seconds));
    report.figure("emulation_slower_by", slower);
    report.figure("later_boot_cpu_s_on_this_processor", whole / slower);
    Ok((
        (),
        format!(
            "{analysed}; {whole:.0} CPU seconds from kernel to health, {ours:.1} of them in our units; this emulation is {slower:.1} times slower than its processor"
        ),
    ))
}

/// How much longer than this processor the emulated one takes to count in a shell, as processor time: plain code, as a boot's
/// is, where wide registers would make the emulator look worse than it is.
fn slower(machine: &mut Machine) -> Result<f64> {
    const SUM: &str =
        "bash -c 'TIMEFORMAT=%U; time sh -c \"i=0; while [ \\$i -lt 300000 ]; do i=\\$((i+1)); done\"' 2>&1";
    let inside: f64 = machine.run(SUM, READY)?.trim().parse().context("seconds in the machine")?;
    let output = Command::new("sh").args(["-c", SUM]).output()?;
    let outside: f64 = String::from_utf8_lossy(&output.stdout).trim().parse().context("seconds on this host")?;
    Ok(inside / outside.max(0.001))
}

/// Bytes written to the disk since it was switched on, the machine's clock, and what each process had written.
struct Written {
    bytes: f64,
    at: f64,
    by: BTreeMap<String, f64>,
}

fn written(machine: &mut Machine) -> Result<Written> {
    let said = machine.run(
        "awk '$3 == \"vda\" { print \"disk\", $10 }' /proc/diskstats; awk '{ print \"uptime\", $1 }' /proc/uptime; \
         for process in /proc/[0-9]*; do n=$(awk '/^write_bytes/ { print $2 }' $process/io 2>/dev/null); \
         [ \"${n:-0}\" = 0 ] || echo \"$(tr ' ' _ <$process/comm) $n\"; done",
        COMMAND,
    )?;
    let mut by = BTreeMap::new();
    for line in said.lines() {
        if let Some((name, value)) = line.rsplit_once(' ') {
            *by.entry(name.to_owned()).or_default() += value.parse::<f64>().unwrap_or(0.0);
        }
    }
    let bytes = by.remove("disk").context("no disk")? * SECTOR;
    let at = by.remove("uptime").context("no clock")?;
    Ok(Written { bytes, at, by })
}

fn between(before: &Written, after: &Written) -> (f64, String) {
    let grown = |name: &str, now: f64| now - before.by.get(name).copied().unwrap_or(0.0);
    let mut who: Vec<(f64, &str)> = after.by.iter().map(|(name, now)| (grown(name, *now), name.as_str())).collect();
    who.sort_by(|one, other| other.0.total_cmp(&one.0));
    let who: Vec<String> = who
        .iter()
        .take(4)
        .filter(|(bytes, _)| *bytes > 0.0)
        .map(|(bytes, name)| format!("{name} {:.0} kB", bytes / 1e3))
        .collect();
    ((after.bytes - before.bytes) / (after.at - before.at).max(1.0) * DAY, who.join(", "))
}

/// Bytes that a box at rest writes.
pub(crate) fn at_rest(machine: &mut Machine, report: &mut Report) -> Result<((), String)> {
    std::thread::sleep(SETTLES);
    let before = written(machine)?;
    let begun = Instant::now();
    while begun.elapsed() < AT_REST {
        std::thread::sleep(Duration::from_secs(5));
    }
    let after = written(machine)?;
    let (per_day, who) = between(&before, &after);
    report.figure("written_at_rest_bytes_per_day", per_day.round());
    report.figure(
        "written_at_rest_seen",
        format!("{} bytes in {:.0} s", after.bytes - before.bytes, after.at - before.at),
    );
    report.figure("written_at_rest_by", who.clone());
    let said = format!("{:.1} MB a day, from {:.0} s; {who}", per_day / 1e6, after.at - before.at);
    ensure!(per_day <= TARGET_PER_DAY, "{said}");
    Ok(((), said))
}

/// Bytes that it writes while it serves one stream.
pub(crate) fn serving(lab: &Lab, machine: &mut Machine, report: &mut Report) -> Result<((), String)> {
    let before = written(machine)?;
    let pushed = Push::start(&lab.work.join("push-measured"), machine.port(), SERVED, "realtime")?.finish(BOOT)?;
    // What it has not written yet belongs to it, too.
    machine.run("journalctl --sync; sync", COMMAND)?;
    let after = written(machine)?;
    let (per_day, who) = between(&before, &after);
    let each = (after.bytes - before.bytes) / f64::from(SERVED);
    report.figure("written_serving_bytes_per_day", per_day.round());
    report.figure("written_serving_bytes_per_segment", each.round());
    report.figure("written_serving_by", who.clone());
    Ok((
        (),
        format!(
            "{:.0} MB a day with one stream ({} segments, {:.1} kB each); {who}",
            per_day / 1e6,
            pushed.done,
            each / 1e3
        ),
    ))
}
