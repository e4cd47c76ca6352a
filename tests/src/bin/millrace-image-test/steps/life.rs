//! A box's life beside its work: a stick plugged in while it runs, what it writes in a day, a machine that hangs, a factory
//! reset, and provisioning anew from the virtual firmware.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::machine::{Machine, Parts};
use crate::report::Report;
use crate::site::{self, Push};
use crate::steps::{BOOT, COMMAND, Lab, READY, measure};

/// Where the stick's one partition begins, and how large the stick is.
const STICK: (u64, u64) = (1 << 20, 64 << 20);
/// What tells one `/var` from another: salts and digests of its header. Its name is made of the disk's, and stays.
const VAR: &str = "cryptsetup luksDump /dev/disk/by-partlabel/millrace-var | sha256sum";

/// All of it, on a box of its own, which is measured on the way if that is wanted.
pub(crate) fn run(lab: &mut Lab, report: &mut Report, measured: bool) {
    lab.machine = None;
    let later = [
        "a hang is ended by the hardware watchdog",
        "a factory reset leaves nothing",
        "provisioned by the firmware's credential",
    ];
    let begun = report.check("a stick plugged into a waiting box provisions it", |_| by_stick(lab));
    let Some((mut machine, mut parts)) = begun else { return report.skip(&later, "the box was not provisioned") };
    if measured {
        report.check("measured: bytes written at rest", |report| measure::at_rest(&mut machine, report));
        report.check("measured: bytes written while it serves", |report| measure::serving(lab, &mut machine, report));
    }
    if report.check(later[0], |_| hang(&mut machine)).is_some() && measured {
        report.check("measured: a boot", |report| measure::boot(&mut machine, report));
    }
    let blank = report.check(later[1], |_| reset(&mut machine));
    drop(machine);
    if blank.is_none() {
        return report.skip(&later[2..], "the box is not blank");
    }
    report.check(later[2], |_| by_credential(lab, &mut parts));
}

/// A stick with the site file, as an operator formats it: one partition, FAT.
fn stick(lab: &Lab, parts: &Parts) -> Result<PathBuf> {
    let file = parts.dir.join("stick.raw");
    fs::write(parts.dir.join("provision.json"), site::signed(&lab.places, &lab.fleet, parts.port)?)?;
    let (begin, size) = STICK;
    lab.places.script(&format!(
        "cd {dir}; rm -f stick.raw; truncate -s {size} stick.raw; echo 'start={sector}, type=c' | sfdisk -q stick.raw; \
         mkfs.vfat --offset={sector} -n MILLRACE stick.raw {kib} >/dev/null; mmd -i stick.raw@@{begin} ::/MILLRACE; \
         mcopy -i stick.raw@@{begin} provision.json ::/MILLRACE/; rm provision.json",
        dir = lab.places.inside(&parts.dir)?.display(),
        sector = begin / 512,
        kib = (size - begin) / 1024,
    ))?;
    Ok(file)
}

fn by_stick(lab: &mut Lab) -> Result<((Machine, Parts), String)> {
    let parts = Parts::new(&lab.places, lab.work.join("life"), &lab.image)?;
    let enrolled = lab.work.join("enrolled.fd");
    if enrolled.is_file() {
        fs::copy(enrolled, parts.dir.join("vars.fd"))?;
    }
    let file = stick(lab, &parts)?;
    let mut machine = parts.start(&lab.places)?;
    machine.boot(None, BOOT)?;
    machine.until("systemctl is-active multi-user.target && ! test -e /var/lib/millrace-site/provisioned", READY)?;
    machine.plug_in(&lab.places, &file)?;
    machine.until("test -e /var/lib/millrace-site/provisioned && mountpoint -q /run/millrace-usb", READY)?;
    machine.until("systemctl is-active --quiet millrace-node && systemctl is-active --quiet millrace-fleet", READY)?;
    let options = machine.run("findmnt -no OPTIONS /run/millrace-usb", COMMAND)?;
    for option in ["ro", "nosuid", "nodev", "noexec"] {
        ensure!(options.trim().split(',').any(|one| one == option), "the stick is mounted {options}");
    }
    serves(lab, &machine)?;
    machine.pull_out()?;
    Ok(((machine, parts), format!("mounted {}; it serves", options.trim().split(",fmask").next().unwrap_or_default())))
}

fn serves(lab: &Lab, machine: &Machine) -> Result<()> {
    let pushed = Push::start(&lab.work.join("push-life"), machine.port(), 3, "max")?.finish(READY)?;
    ensure!(pushed.lost == 0 && pushed.done > 0, "{} segments were lost: {}", pushed.lost, pushed.report);
    Ok(())
}

/// The first process stands still, as after a fault in it or in the kernel: nobody feeds the watchdog any more.
fn hang(machine: &mut Machine) -> Result<((), String)> {
    let before = machine.hello().context("the box is not up")?;
    let armed = machine.run("cat /sys/class/watchdog/watchdog0/state /sys/class/watchdog/watchdog0/identity /sys/class/watchdog/watchdog0/timeout", COMMAND)?;
    ensure!(armed.starts_with("active"), "the watchdog is {armed}");
    // Its answer may never come: the file is written, and that is the last thing that happens.
    let _ = machine.try_run("sync; echo 1 >/sys/fs/cgroup/init.scope/cgroup.freeze; sleep 600", Duration::from_secs(5));
    let hello = machine.boot(Some(&before), BOOT)?;
    ensure!(
        !machine.serial().contains("reboot: Restarting system"),
        "it restarted in order: {}",
        crate::machine::tail(&machine.serial(), 6)
    );
    machine.until("systemctl is-active --quiet millrace-node && systemctl is-active --quiet millrace-health", READY)?;
    Ok(((), format!("{}; version {} came up again and works", armed.replace('\n', ", "), hello.version)))
}

fn reset(machine: &mut Machine) -> Result<((), String)> {
    let before = machine.hello().context("the box is not up")?;
    let var = machine.run(VAR, COMMAND)?;
    machine.run(
        "test -e /var/lib/millrace-site/credstore/device-key && echo kept >/var/lib/millrace-site/mark && sync",
        COMMAND,
    )?;
    // The answer may be lost to the restart.
    let said = machine.try_run("millrace-update reset --yes", READY);
    match machine.next_boot(&before, BOOT)? {
        Some(_) => {}
        None => bail!("it did not restart: {said:?}"),
    }
    machine.until("systemctl is-active multi-user.target", READY)?;
    let now = machine.run(VAR, COMMAND)?;
    ensure!(now != var, "/var is the old one: {now}");
    let left = machine.run("find /var/lib/millrace-site /var/lib/millrace-fleet /var/lib/millrace-signer /var/lib/millrace -type f 2>/dev/null || true", COMMAND)?;
    ensure!(left.trim().is_empty(), "there is still {left}");
    let node = machine.try_run("systemctl is-active millrace-node", COMMAND)?;
    ensure!(node.text.trim() == "inactive", "the node is {}", node.text);
    let request = machine.try_run("ls /sys/firmware/efi/efivars | grep FactoryReset", COMMAND)?;
    ensure!(request.status != 0, "the next start would reset it again: {}", request.text);
    let screen = machine.until("tr -d '\\0' </dev/vcs1 | fold -w 80 | grep WAITING", READY)?;
    machine.run("sync; systemctl --no-block poweroff", COMMAND)?;
    ensure!(machine.ended(READY)?, "the box does not switch off");
    Ok(((), format!("another /var, no file of ours, and: {}", screen.trim())))
}

fn by_credential(lab: &Lab, parts: &mut Parts) -> Result<((), String)> {
    let text = STANDARD.encode(site::signed(&lab.places, &lab.fleet, parts.port)?);
    let file = parts.dir.join("credential");
    fs::write(&file, format!("io.systemd.credential.binary:millrace.provision={text}"))?;
    parts.firmware_files = vec![file];
    let mut machine = parts.start(&lab.places)?;
    machine.boot(None, BOOT)?;
    machine.until("systemctl is-active --quiet millrace-node && systemctl is-active --quiet millrace-fleet", READY)?;
    serves(lab, &machine)?;
    Ok(((), "a blank box with no other medium; it serves".to_owned()))
}
