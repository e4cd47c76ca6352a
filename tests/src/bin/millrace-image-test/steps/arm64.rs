//! The image of any ARM machine, in one that is emulated whole: from a blank disk to segments served, without a TPM. And the
//! image of a Jetson as far as that goes without one: made of packages that were made up around Debian's kernel.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::machine::{Board, Machine, Parts, tail};
use crate::report::Report;
use crate::site::Fleet;
use crate::steps::{BOOT, COMMAND, Lab, READY, serve};

/// For the fleet to hear of the box.
const HEARD: Duration = Duration::from_secs(300);

/// All of it; a box and a site of its own, both gone at the end.
pub(crate) fn run(lab: &mut Lab, report: &mut Report) {
    lab.machine = None;
    let Some(mut machine) = report.check("arm64: first boot", |report| first_boot(lab, report, "arm64")) else {
        return report.skip(&["arm64: the box serves"], "the first boot failed");
    };
    report.check("arm64: verified root, Secure Boot, second slot", |_| verified(&mut machine, "arm64-notpm"));
    report.check("arm64: no TPM: /var in the clear, and said so", |_| without_tpm(&mut machine));
    report.check("arm64: unprovisioned: nothing listens", |_| serve::listeners(&mut machine, &[]));
    if report.check("arm64: provisioned: the node serves", |_| serve::provision(lab, &mut machine)).is_some() {
        report.check("arm64: a gateway's segments come back", |_| {
            // Its figures are those of the x86 box.
            serve::push(lab, &mut machine, &mut Report::new())
        });
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

/// What packages of a board's maker become: a root and a kernel that start, and a unit that tells the board's firmware.
pub(crate) fn jetson(lab: &mut Lab, report: &mut Report) {
    lab.machine = None;
    let Some(mut machine) = report.check("jetson: first boot", |report| first_boot(lab, report, "jetson")) else {
        return report.skip(&["jetson: verified root, Secure Boot, second slot"], "the first boot failed");
    };
    report.check("jetson: verified root, Secure Boot, second slot", |_| verified(&mut machine, "jetson-notpm"));
    report.check("jetson: the vendor's kernel and libraries are there", |_| vendors(&mut machine));
    report.check("jetson: the board's firmware is told of a good start", |_| blessed(&mut machine));
}

fn vendors(machine: &mut Machine) -> Result<((), String)> {
    let there = machine.run(
        "ls /usr/lib/modules/$(uname -r)/vmlinuz /usr/lib/modules/$(uname -r)/updates/*.ko* \
         /usr/lib/aarch64-linux-gnu/libv4l/plugins/nv/*.so /usr/lib/aarch64-linux-gnu/gstreamer-1.0/libgstnvvideo4linux2.so; \
         modinfo -n dummy; ls /usr/share/millrace/licences",
        COMMAND,
    )?;
    ensure!(there.contains("/updates/dummy.ko"), "the maker's modules are not the ones that would be loaded: {there}");
    Ok(((), tail(&there, 8)))
}

fn blessed(machine: &mut Machine) -> Result<((), String)> {
    let said = machine.until(
        "systemctl is-active --quiet millrace-bless-jetson && journalctl -b -o cat -u millrace-bless-jetson | grep made-up",
        READY,
    )?;
    ensure!(said.contains("made-up nvbootctrl: verify"), "it was told {said}");
    Ok(((), said))
}

fn first_boot(lab: &mut Lab, report: &mut Report, board: &str) -> Result<(Machine, String)> {
    let image = lab.places.out.join(format!("test-images-{board}/millrace_{}.raw", lab.version));
    ensure!(
        image.is_file(),
        "{} is not there: {}",
        image.display(),
        match board {
            "jetson" => "tests/image/jetson.sh --build builds it",
            _ => "image/test.sh builds it",
        }
    );
    lab.fleet = Fleet::start(&lab.work.join(format!("site-{board}")))?;
    let mut parts = Parts::new(&lab.places, lab.work.join(board), &image)?;
    parts.board = Board::Arm64;
    let inside = lab.places.inside(&parts.dir)?;
    lab.places.script(&format!("cp /usr/share/AAVMF/AAVMF_VARS.fd {}/vars.fd", inside.display()))?;
    let mut machine = parts.start(&lab.places)?;
    let hello = machine.boot(None, 2 * BOOT)?;
    ensure!(hello.version == lab.version, "version {} came up", hello.version);
    machine.until("systemctl is-active multi-user.target", 2 * READY)?;
    let seconds = machine.on_for().as_secs();
    report.figure(&format!("{board}_first_boot_s"), seconds);
    let analysed = machine.until("systemd-analyze | head -n 1", READY)?;
    report.figure(&format!("{board}_first_boot_systemd"), analysed.clone());
    Ok((machine, format!("{seconds} s from power-on; {analysed}")))
}

fn verified(machine: &mut Machine, variant: &str) -> Result<((), String)> {
    let is = machine.run("uname -m; . /usr/lib/os-release; echo $VARIANT_ID", COMMAND)?;
    ensure!(is == format!("aarch64\n{variant}"), "it is {is}");
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
