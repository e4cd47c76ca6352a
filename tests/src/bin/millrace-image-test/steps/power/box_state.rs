//! The box whose power is cut: its first state, the way back to it, and what must hold after every cut.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rand::Rng;

use crate::disk::{Disk, Lost};
use crate::machine::{Machine, Parts};
use crate::report::Report;
use crate::site::Push;
use crate::steps::{BOOT, COMMAND, Lab, READY, serve};

/// A box, and its disk.
#[derive(Debug)]
pub(crate) struct Subject {
    dir: PathBuf,
    parts: Parts,
    disk: Disk,
}

/// What was seen after a cut.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) version: String,
    /// Versions it will not take again.
    pub(crate) refused: String,
    /// From power-on to serving.
    pub(crate) took: Duration,
}

impl Subject {
    /// Bring a box as far as serving, switch it off in order, and put its disk where it forgets.
    pub(crate) fn prepare(lab: &mut Lab) -> Result<Self> {
        let dir = lab.work.join("power");
        let first = dir.join("first");
        let kept = fs::read_to_string(first.join("image")).unwrap_or_default();
        let image = super::image(lab)?;
        if kept != image {
            let mut inner = Report::new();
            serve::run(lab, &mut inner);
            ensure!(inner.good(), "the box does not serve");
            let mut machine = lab.machine.take().context("the box is off")?;
            machine.run("sync; systemctl --no-block poweroff", COMMAND)?;
            ensure!(machine.ended(READY)?, "the box does not switch off");
            let ended = machine.parts().clone();
            drop(machine);
            let _ = fs::remove_dir_all(&dir);
            fs::create_dir_all(&first)?;
            lab.places.script(&format!(
                "cd {}; qemu-img convert -O raw disk.qcow2 {to}/disk.raw; cp -r vars.fd tpm {to}/",
                lab.places.inside(&ended.dir)?.display(),
                to = lab.places.inside(&first)?.display(),
            ))?;
            fs::write(first.join("port"), ended.port.to_string())?;
            fs::write(first.join("image"), image)?;
        }
        let mut parts = Parts::left(&dir)?;
        parts.disk = "disk.sock".into();
        parts.port = fs::read_to_string(first.join("port"))?.parse().context("the port")?;
        let disk = Disk::serve(&first.join("disk.raw"), &dir)?;
        let subject = Self { dir, parts, disk };
        subject.reset()?;
        Ok(subject)
    }

    /// The disk in its first state.
    pub(crate) fn first(&self) -> PathBuf {
        self.dir.join("first/disk.raw")
    }

    /// Its disk.
    pub(crate) fn disk(&self) -> &Disk {
        &self.disk
    }

    /// Back to the first state; the machine must be off.
    pub(crate) fn reset(&self) -> Result<()> {
        self.disk.reset()?;
        let first = self.dir.join("first");
        fs::copy(first.join("vars.fd"), self.dir.join("vars.fd"))?;
        let _ = fs::remove_dir_all(self.dir.join("tpm"));
        fs::create_dir(self.dir.join("tpm"))?;
        for entry in fs::read_dir(first.join("tpm"))? {
            let entry = entry?;
            fs::copy(entry.path(), self.dir.join("tpm").join(entry.file_name()))?;
        }
        Ok(())
    }

    /// Switch it on and wait for its hands.
    pub(crate) fn start(&self, lab: &Lab) -> Result<Machine> {
        let mut machine = self.parts.start(&lab.places)?;
        machine.boot(None, BOOT)?;
        Ok(machine)
    }

    /// Cut the power: what was not flushed is gone, but for so many percent of its sectors.
    pub(crate) fn cut(&self, machine: Machine, chance: &mut impl Rng, keep: u32) -> Result<Lost> {
        machine.pull_the_plug();
        self.disk.cut(chance, keep)
    }

    /// Switch it on again and see that it is all there: a version of ours, verified, `/var` open and sound, and it serves.
    pub(crate) fn recover(&self, lab: &Lab, versions: &[&str]) -> Result<(Machine, Found)> {
        let begun = Instant::now();
        let mut machine = self.start(lab)?;
        healthy(&mut machine)?;
        // On trial it may have gone back by itself meanwhile.
        let version = machine.hello().context("the box says nothing")?.version;
        ensure!(versions.contains(&version.as_str()), "version {version} came up");
        let root = machine.run("veritysetup status root; findmnt -no SOURCE /var", COMMAND)?;
        ensure!(root.contains("verified") && root.contains("/dev/mapper/var"), "{root}");
        let errors =
            machine.try_run("dmesg | grep -E 'EXT4-fs error|EXT4-fs warning|I/O error|is corrupted'", COMMAND)?;
        ensure!(errors.status != 0, "the disk suffered: {}", errors.text);
        let took = begun.elapsed();
        let refused = machine.run("millrace-update status | grep '^refused' || true", COMMAND)?;
        Ok((machine, Found { version, refused, took }))
    }

    /// A gateway without money gets its segments back.
    pub(crate) fn serves(&self, lab: &Lab, machine: &Machine) -> Result<u64> {
        let pushed = Push::start(&lab.work.join("push-cut"), machine.port(), 3, "max")?.finish(READY)?;
        ensure!(pushed.lost == 0 && pushed.done > 0, "{} segments were lost: {}", pushed.lost, pushed.report);
        Ok(pushed.done)
    }
}

/// Wait until the box works and its health gate has said so. A restart on the way, back from a trial, is not an error.
fn healthy(machine: &mut Machine) -> Result<()> {
    let deadline = Instant::now() + BOOT;
    loop {
        let boot = machine.hello();
        let asked = machine.try_run(
            "systemctl is-active --quiet millrace-node && systemctl is-active --quiet millrace-health && mountpoint -q /var",
            COMMAND,
        );
        match asked {
            Ok(said) if said.status == 0 => return Ok(()),
            Ok(_) => std::thread::sleep(Duration::from_secs(1)),
            Err(_) if machine.hello() != boot => {}
            Err(_) if machine.boot(boot.as_ref(), BOOT).is_ok() => {}
            Err(error) => return Err(error),
        }
        ensure!(Instant::now() < deadline, "not healthy within {BOOT:?}: {}", status(machine));
    }
}

fn status(machine: &mut Machine) -> String {
    let script =
        "systemctl --failed --plain --no-legend; systemctl list-jobs; journalctl -b -p warning -n 8 -o cat --no-pager";
    machine.try_run(script, COMMAND).map_or_else(|error| error.to_string(), |said| crate::machine::tail(&said.text, 20))
}
