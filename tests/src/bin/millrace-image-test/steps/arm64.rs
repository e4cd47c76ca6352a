//! The image of any ARM machine, in one that is emulated whole: from a blank disk to segments served, without a TPM.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::machine::{Board, Machine, Parts};
use crate::report::Report;
use crate::site::Fleet;
use crate::steps::{BOOT, COMMAND, Lab, READY, serve};

/// For the fleet to hear of the box.
const HEARD: Duration = Duration::from_secs(300);

/// All of it; a box and a site of its own, both gone at the end.
pub(crate) fn run(lab: &mut Lab, report: &mut Report) {
    lab.machine = None;
    let Some(mut machine) = report.check("arm64: first boot", |report| first_boot(lab, report)) else {
        return report.skip(&["arm64: the box serves"], "the first boot failed");
    };
    report.check("arm64: verified root, Secure Boot, second slot", |_| verified(&mut machine));
    report.check("arm64: no TPM: /var in the clear, and said so", |_| without_tpm(&mut machine));
    report.check("arm64: unprovisioned: nothing listens", |_| serve::listeners(&mut machine, &[]));
    if report.check("arm64: provisioned: the node serves", |_| serve::provision(lab, &mut machine)).is_some() {
        report.check("arm64: a gateway's segments come back", |report| serve::push(lab, &mut machine, report));
        report.check("arm64: the fleet hears of it, and that it has no TPM", |_| heard(lab));
        report.check("arm64: nothing listens but the service port", |_| {
            let port = machine.port().to_string();
            serve::listeners(&mut machine, &[&port])
        });
        report.check("arm64: no unit failed; memory", |_| idle(&mut machine));
    } else {
        report.skip(&["arm64: the box serves"], "the node does not");
    }
}

fn first_boot(lab: &mut Lab, report: &mut Report) -> Result<(Machine, String)> {
    let image = lab.places.out.join(format!("test-images-arm64/millrace_{}.raw", lab.version));
    ensure!(image.is_file(), "{} is not there: image/test.sh builds it", image.display());
    lab.fleet = Fleet::start(&lab.work.join("site-arm64"))?;
    let mut parts = Parts::new(&lab.places, lab.work.join("arm64"), &image)?;
    parts.board = Board::Arm64;
    let inside = lab.places.inside(&parts.dir)?;
    lab.places.script(&format!("cp /usr/share/AAVMF/AAVMF_VARS.fd {}/vars.fd", inside.display()))?;
    let mut machine = parts.start(&lab.places)?;
    let hello = machine.boot(None, 2 * BOOT)?;
    ensure!(hello.version == lab.version, "version {} came up", hello.version);
    machine.until("systemctl is-active multi-user.target", 2 * READY)?;
    let seconds = machine.on_for().as_secs();
    report.figure("arm64_first_boot_s", seconds);
    let analysed = machine.until("systemd-analyze | head -n 1", READY)?;
    report.figure("arm64_first_boot_systemd", analysed.clone());
    Ok((machine, format!("{seconds} s from power-on; {analysed}")))
}

fn verified(machine: &mut Machine) -> Result<((), String)> {
    let is = machine.run("uname -m; . /usr/lib/os-release; echo $VARIANT_ID", COMMAND)?;
    ensure!(is == "aarch64\narm64-notpm", "it is {is}");
    let root = machine.run("findmnt -no SOURCE,FSTYPE,OPTIONS / && veritysetup status root", COMMAND)?;
    ensure!(root.contains("erofs ro") && root.contains("verified"), "the root is {root}");
    let secure = machine.run("bootctl status 2>/dev/null | grep -i 'secure boot:'", COMMAND)?;
    ensure!(secure.contains("enabled"), "{secure}");
    let writable = machine.try_run("touch /usr/x || touch /etc/x || mount -o remount,rw /", COMMAND)?;
    ensure!(writable.status != 0, "the root can be written");
    let slots = machine.run("lsblk -rno PARTLABEL /dev/vda", COMMAND)?;
    let empty = slots.lines().filter(|label| label.trim() == "_empty").count();
    ensure!(empty == 2, "the second slot is not there: {slots}");
    Ok(((), format!("erofs by dm-verity; {}; an empty slot beside it", secure.trim())))
}

fn without_tpm(machine: &mut Machine) -> Result<((), String)> {
    let var = machine.run("findmnt -no SOURCE,FSTYPE,OPTIONS /var; ! ls /dev/tpm* 2>&1", COMMAND)?;
    ensure!(var.contains("ext4 rw,nosuid,nodev") && !var.contains("/dev/mapper"), "/var is {var}");
    let screen = machine.until("tr -d '\\0' </dev/vcs1 | fold -w 80 | grep -A1 -E 'serial|no TPM|WAITING'", READY)?;
    ensure!(screen.contains("WAITING to be provisioned"), "the screen shows: {screen}");
    ensure!(screen.contains("no TPM"), "the screen does not say that there is no TPM: {screen}");
    Ok(((), "ext4 on its partition; the screen says what that means".into()))
}

fn heard(lab: &Lab) -> Result<((), String)> {
    let hardware = lab.fleet.until("the box is online and says what it is", HEARD, |detail| {
        detail.get("last")?.get("hb")?;
        let online = detail.get("presence")?.as_str()? == "ONLINE";
        online.then(|| detail.get("info")?.get("hw").cloned())?
    })?;
    ensure!(hardware.get("tpm").and_then(serde_json::Value::as_bool) == Some(false), "it says {hardware}");
    Ok(((), hardware.to_string()))
}

fn idle(machine: &mut Machine) -> Result<((), String)> {
    let failed = machine.run("systemctl --failed --no-legend --plain", COMMAND)?;
    ensure!(failed.trim().is_empty(), "{failed}");
    let memory = machine.run(
        "for unit in node fleet screen; do pid=$(systemctl show -P MainPID millrace-$unit); \
         awk -v unit=$unit '/^VmRSS/ { print unit, $2 }' /proc/$pid/status; done",
        COMMAND,
    )?;
    let kilobytes: u64 = memory.lines().filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum();
    Ok(((), format!("none failed; ours together {} MiB: {}", kilobytes / 1024, memory.replace('\n', ", "))))
}
