//! What must be refused: a changed kernel image, a changed command line, a changed root, another firmware.

use std::fs::{self, OpenOptions};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::machine::{Firmware, Parts, Seen, tail};
use crate::report::Report;
use crate::steps::{BOOT, COMMAND, Lab, READY};

/// For the firmware to look at a kernel image, in emulation.
const LOOKED_AT: Duration = Duration::from_secs(300);
/// What firmware or boot loader say of an image that is not signed for this machine.
const REFUSED: [&str; 4] = ["Access denied", "Access Denied", "Security violation", "Security Violation"];

/// Each of them, on copies of the image; firmware state and TPM are those of a box that has had its first boot.
pub(crate) fn run(lab: &mut Lab, report: &mut Report) {
    lab.machine = None;
    if !lab.work.join("enrolled.fd").is_file() {
        return report.skip(&["tampering is refused"], "no box has had its first boot");
    }
    report.check("a changed kernel image is refused", |_| {
        kernel(lab, "kernel", |image| {
            // In the middle: the kernel itself or the initial system.
            let middle = image.len() / 2;
            flip(image, middle)
        })
    });
    report.check("a changed command line is refused", |_| {
        kernel(lab, "cmdline", |image| {
            let at = find(image, b"panic=10 oops=panic").context("the command line is not where it was")?;
            image.get_mut(at..at + 8).context("the command line's end")?.copy_from_slice(b"init=/sh");
            Ok(())
        })
    });
    report.check("a changed root is refused", |_| root(lab));
    report.check("/var stays closed when the firmware adds to the command line", |_| {
        closed(lab, |parts, _| {
            parts.firmware_texts.push("io.systemd.stub.kernel-cmdline-extra=millrace.tampered=1".into());
            Ok(())
        })
    });
    report.check("/var stays closed without Secure Boot", |_| {
        closed(lab, |parts, inside| {
            lab.places.script(&format!("cp /usr/share/OVMF/OVMF_VARS_4M.fd {inside}/open.fd"))?;
            parts.firmware = Firmware::Open;
            parts.variables = "open.fd".into();
            Ok(())
        })
    });
}

fn flip(image: &mut [u8], at: usize) -> Result<()> {
    *image.get_mut(at).context("the image ends before its middle")? ^= 0xff;
    Ok(())
}

fn find(all: &[u8], part: &[u8]) -> Option<usize> {
    all.windows(part.len()).position(|window| window == part)
}

/// A machine like the box after its first boot, with a copy of the shipped image as its disk.
fn copy(lab: &Lab, name: &str) -> Result<Parts> {
    let dir = lab.work.join(name);
    let mut parts = Parts::new(&lab.places, dir.clone(), &lab.image)?;
    fs::copy(lab.work.join("enrolled.fd"), dir.join("vars.fd"))?;
    let (image, dir) = (lab.places.inside(&lab.image)?, lab.places.inside(&dir)?);
    lab.places.script(&format!("cp --sparse=always {} {}/disk.raw", image.display(), dir.display()))?;
    parts.disk = "disk.raw".into();
    parts.no_reboot = true;
    Ok(parts)
}

/// Where a partition of this type begins on the shipped disk, in bytes.
fn partition(lab: &Lab, disk: &Path, kind: &str) -> Result<u64> {
    let table = lab.places.script(&format!("sfdisk -J {}", lab.places.inside(disk)?.display()))?;
    let table: serde_json::Value = serde_json::from_str(&table)?;
    let partitions = table.pointer("/partitiontable/partitions").and_then(|all| all.as_array());
    let found = partitions.into_iter().flatten().find(|one| one.get("type").and_then(|id| id.as_str()) == Some(kind));
    let sectors = found.and_then(|one| one.get("start")?.as_u64());
    Ok(sectors.with_context(|| format!("no partition of type {kind}"))? * 512)
}

/// Change the kernel image on the boot partition and see that the machine does not start it.
fn kernel(lab: &Lab, name: &str, change: impl FnOnce(&mut Vec<u8>) -> Result<()>) -> Result<((), String)> {
    let parts = copy(lab, name)?;
    let disk = parts.dir.join("disk.raw");
    let esp = partition(lab, &disk, "C12A7328-F81F-11D2-BA4B-00A0C93EC93B")?;
    let inside = lab.places.inside(&parts.dir)?;
    let file = format!("::/EFI/Linux/millrace_{}.efi", lab.version);
    let on = format!("-i {}/disk.raw@@{esp}", inside.display());
    lab.places.script(&format!("mcopy {on} {file} {}/kernel.efi", inside.display()))?;
    let path = parts.dir.join("kernel.efi");
    let mut image = fs::read(&path)?;
    change(&mut image)?;
    fs::write(&path, image)?;
    lab.places.script(&format!("mcopy -o {on} {}/kernel.efi {file}", inside.display()))?;
    let mut machine = parts.start(&lab.places)?;
    match machine.watch(&REFUSED, LOOKED_AT)? {
        Seen::Text(text) => {
            ensure!(!machine.serial().contains("Linux version"), "the kernel ran nevertheless");
            Ok(((), format!("the firmware says: {text}")))
        }
        Seen::Boot(_) => bail!("it booted"),
        Seen::Off | Seen::Nothing => bail!("neither refused nor booted: {}", tail(&machine.serial(), 8)),
    }
}

/// Change the root where its file system begins, and see that no system comes up.
fn root(lab: &Lab) -> Result<((), String)> {
    let parts = copy(lab, "root")?;
    let path = parts.dir.join("disk.raw");
    let start = partition(lab, &path, "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709")?;
    let mut disk = OpenOptions::new().write(true).open(&path)?;
    disk.seek(SeekFrom::Start(start))?;
    disk.write_all(&[0x5a; 65536])?;
    drop(disk);
    let mut machine = parts.start(&lab.places)?;
    match machine.watch(&["is corrupted"], BOOT)? {
        Seen::Text(_) => {}
        Seen::Boot(_) => bail!("it booted"),
        Seen::Off | Seen::Nothing => bail!("neither refused nor booted: {}", tail(&machine.serial(), 8)),
    }
    ensure!(machine.ended(READY)?, "it neither came up nor started again: {}", tail(&machine.serial(), 8));
    let serial = machine.serial();
    let panic = serial.lines().find(|line| line.contains("Kernel panic")).unwrap_or("no panic").trim().to_owned();
    ensure!(!serial.contains("Switching root"), "the root was entered");
    Ok(((), format!("dm-verity stopped the machine: {panic}")))
}

/// The box itself, its TPM and disk, after somebody changed something about its start.
fn closed(lab: &Lab, change: impl FnOnce(&mut Parts, &str) -> Result<()>) -> Result<((), String)> {
    let mut parts = match lab.parts.clone() {
        Some(parts) => parts,
        None => Parts::left(&lab.work.join("box"))?,
    };
    let inside = lab.places.inside(&parts.dir)?;
    parts.no_reboot = true;
    change(&mut parts, &inside.display().to_string())?;
    let mut machine = parts.start(&lab.places)?;
    machine.boot(None, BOOT)?;
    let said = machine.until(
        "systemctl is-failed systemd-cryptsetup@var && journalctl -b -o cat -u systemd-cryptsetup@var | tail -n 3",
        READY,
    )?;
    let open = machine.try_run("test -e /dev/mapper/var || mountpoint /var", COMMAND)?;
    ensure!(open.status != 0, "/var is open: {}", open.text);
    Ok(((), tail(&said, 2)))
}
