//! Power cuts at random moments of an update: whatever was on its way, the box comes up with one version or the other, its
//! `/var` opens, and it serves.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::machine::{Machine, Parts};
use crate::release::Server;
use crate::report::Report;
use crate::steps::{BOOT, COMMAND, Lab, READY, update};

/// The longest a cut waits after the update was asked for: writing, the restart and the first boot on trial lie in it.
const MOMENTS: Duration = Duration::from_secs(300);

/// So many of them, each on its own copy of a box that has the next version staged.
pub(crate) fn run(lab: &mut Lab, report: &mut Report, next: &str, cuts: u32, seed: u64) {
    let Some(mut machine) = lab.machine.take() else { return report.skip(&["power cuts"], "the box does not serve") };
    let ready = report.check("a box with a staged version, switched off", |report| {
        let (server, _) = update::offer(lab, report, &[next])?;
        prepare(&mut machine, &server, next)?;
        Ok((server, "shut down in order".into()))
    });
    drop(machine);
    if ready.is_none() {
        return report.skip(&["power cuts"], "there is no box to cut off");
    }
    report.check("power cuts: always one version or the other, always serving", |report| {
        let (mut chance, mut ended) = (StdRng::seed_from_u64(seed), Vec::new());
        for number in 1..=cuts {
            let after = Duration::from_millis(chance.gen_range(0..MOMENTS.as_millis()).try_into()?);
            let version =
                cut(lab, next, after).with_context(|| format!("cut {number}, {after:?} after the request"))?;
            eprintln!("image-test: cut {number} of {cuts} after {after:?}: {version}");
            ended.push(serde_json::json!({"after_ms": u64::try_from(after.as_millis())?, "version": version}));
        }
        report.figure("power_cuts", ended);
        Ok(((), format!("{cuts} cuts, seed {seed}")))
    });
}

fn prepare(machine: &mut Machine, server: &Server, next: &str) -> Result<()> {
    update::stage(machine, server, next)?;
    machine.run("sync; systemctl --no-block poweroff", COMMAND)?;
    ensure!(machine.ended(READY)?, "the box does not switch off");
    Ok(())
}

/// One cut, and what runs afterwards.
fn cut(lab: &Lab, next: &str, after: Duration) -> Result<String> {
    let parts = lab.parts.as_ref().context("there is no box")?;
    let parts = Parts::like(&lab.places, parts, lab.work.join("cut"))?;
    let mut machine = parts.start(&lab.places)?;
    machine.boot(None, BOOT)?;
    machine.until("systemctl is-active --quiet millrace-node", READY)?;
    update::ask_to_install(&mut machine, next)?;
    std::thread::sleep(after);
    machine.pull_the_plug();

    let mut machine = parts.start(&lab.places)?;
    machine.boot(None, BOOT)?;
    machine.until("systemctl is-active --quiet millrace-node && mountpoint -q /var", READY)?;
    let hello = machine.hello().context("the box says nothing")?;
    ensure!(hello.version == lab.version || hello.version == next, "version {} came up", hello.version);
    let errors = machine.try_run("dmesg | grep -E 'EXT4-fs error|I/O error'", COMMAND)?;
    ensure!(errors.status != 0, "the disk suffered: {}", errors.text);
    Ok(hello.version)
}
