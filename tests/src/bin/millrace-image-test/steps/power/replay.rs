//! Every moment of an update, without starting a machine: what one whole update wrote is on record, flush by flush, and
//! from it comes the disk as a cut at any moment would leave it. The firmware would find a kernel image that is whole, and
//! the root that it names in full, or the box would not start: that is looked at here.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use serde_json::Value;

use super::{KEPT, Plan, chance};
use crate::disk::{Entry, read_record};
use crate::steps::Lab;

const NUMBER: u64 = 3;
/// Moments looked at.
const MOMENTS: usize = 200;
const SECTOR: usize = 512;
/// What SHA-256 says of an empty file.
const NOTHING: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
const ESP: &str = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B";
const VAR: &str = "4D21B016-B534-45C2-A9FB-5C16E091FD2D";

/// Where things are on the disk.
#[derive(Debug)]
pub(crate) struct Layout {
    esp: (u64, u64),
    /// Everything from here on is `/var`, which is for cuts of a running machine.
    pub(crate) var: u64,
}

impl Layout {
    /// Read from the disk itself.
    pub(crate) fn read(lab: &Lab, disk: &Path) -> Result<Self> {
        let of = |kind: &str| -> Result<(u64, u64)> {
            let table = table(lab, disk)?;
            let found = table.iter().find(|one| text(one, "type") == kind).with_context(|| format!("no {kind}"))?;
            Ok((sectors(found, "start")?, sectors(found, "size")?))
        };
        Ok(Self { esp: of(ESP)?, var: of(VAR)?.0 })
    }
}

fn table(lab: &Lab, disk: &Path) -> Result<Vec<Value>> {
    let said = lab.places.script(&format!("sfdisk -J {}", lab.places.inside(disk)?.display()))?;
    let table: Value = serde_json::from_str(&said)?;
    Ok(table.pointer("/partitiontable/partitions").and_then(Value::as_array).context("no partitions")?.clone())
}

fn text<'a>(of: &'a Value, name: &str) -> &'a str {
    of.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn sectors(of: &Value, name: &str) -> Result<u64> {
    Ok(of.get(name).and_then(Value::as_u64).context("a partition without a place")? * 512)
}

/// What a version is made of: its kernel image's hash, and of each partition its id, size and hash.
#[derive(Debug)]
struct Version {
    kernel: String,
    parts: Vec<(String, u64, String)>,
}

fn version(lab: &Lab, version: &str) -> Result<Version> {
    let images = lab.places.out.join("test-images");
    let prefix = format!("millrace_{version}");
    let mut parts = Vec::new();
    for entry in std::fs::read_dir(&images)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(rest) = name.strip_prefix(&format!("{prefix}.root-")).and_then(|rest| rest.strip_suffix(".raw"))
        else {
            continue;
        };
        let id = rest.rsplit_once('.').map_or(rest, |(_, id)| id).replace('-', "").to_uppercase();
        parts.push((id, path.metadata()?.len(), sha256(&path)?));
    }
    ensure!(parts.len() == 2, "{} has {} partitions of {version}", images.display(), parts.len());
    Ok(Version { kernel: sha256(&images.join(format!("{prefix}.efi")))?, parts })
}

/// By the system's own tool: a debug build of ours would take minutes.
fn sha256(path: &Path) -> Result<String> {
    let output = Command::new("sha256sum").arg(path).output()?;
    ensure!(output.status.success(), "{} cannot be read", path.display());
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(said.split(' ').next().unwrap_or_default().trim_start_matches('\\').to_owned())
}

/// All moments; the record is of a whole update from `lab.version` to `next`, begun on the disk `first`.
pub(crate) fn run(lab: &Lab, first: &Path, record: &Path, next: &str, plan: Plan) -> Result<String> {
    let known =
        BTreeMap::from([(lab.version.clone(), version(lab, &lab.version)?), (next.to_owned(), version(lab, next)?)]);
    let layout = Layout::read(lab, first)?;
    let mut chance = chance(plan, NUMBER, 0);
    // Where the boot partition is written are few entries and all the danger: half of the moments are there.
    let (mut all, mut boot) = (0, Vec::new());
    for entry in read_record(record)? {
        if matches!(entry, Entry::Write(offset, _) if offset >= layout.esp.0 && offset < layout.esp.0 + layout.esp.1) {
            boot.push(all);
        }
        all += 1;
    }
    ensure!(all > 100 && boot.len() > 5, "the record has {all} entries, {} of them on the boot partition", boot.len());
    let mut moments: Vec<usize> = (0..MOMENTS / 2).map(|_| chance.gen_range(0..all)).collect();
    moments.extend((0..MOMENTS / 2).filter_map(|_| boot.choose(&mut chance).copied()));
    moments.sort_unstable();

    let disk = first.with_file_name("replay.raw");
    let copied = Command::new("cp").arg("--sparse=always").args([first, &disk]).status()?;
    ensure!(copied.success(), "no copy of {}", first.display());
    let replay =
        Replay { lab, file: File::options().read(true).write(true).open(&disk)?, disk: disk.clone(), layout, known };
    let done = replay.moments(record, &moments, &mut chance);
    let _ = std::fs::remove_file(&disk);
    let seen = done?;
    ensure!(seen.len() == 2, "only {seen:?} came up: the record is not of a whole update");
    let seen: Vec<String> = seen.iter().map(|(version, count)| format!("{version} at {count}")).collect();
    Ok(format!(
        "{} moments of {all} writes and flushes, seed {}: {} would start, whole",
        moments.len(),
        plan.seed,
        seen.join(", ")
    ))
}

struct Replay<'a> {
    lab: &'a Lab,
    disk: PathBuf,
    file: File,
    layout: Layout,
    known: BTreeMap<String, Version>,
}

impl Replay<'_> {
    fn moments(&self, record: &Path, moments: &[usize], chance: &mut StdRng) -> Result<BTreeMap<String, u32>> {
        let (mut seen, mut pending, mut next) = (BTreeMap::new(), Vec::new(), 0);
        for (number, entry) in read_record(record)?.enumerate() {
            match entry {
                Entry::Write(offset, bytes) => pending.push((offset, bytes)),
                Entry::Flush => {
                    for (offset, bytes) in pending.drain(..) {
                        self.file.write_all_at(&bytes, offset)?;
                    }
                }
            }
            while moments.get(next) == Some(&number) {
                next += 1;
                let keep = *KEPT.choose(chance).context("a share")?;
                let old = self.cut(&pending, keep, chance)?;
                let found = self.starts();
                for (offset, bytes) in old.iter().rev() {
                    self.file.write_all_at(bytes, *offset)?;
                }
                let version = found
                    .with_context(|| format!("entry {number}, {} writes unflushed, {keep} % kept", pending.len()))?;
                *seen.entry(version).or_default() += 1;
            }
        }
        Ok(seen)
    }

    /// Let a part of what was not flushed reach the disk; what was there before is given back.
    fn cut(&self, pending: &[(u64, Vec<u8>)], keep: u32, chance: &mut StdRng) -> Result<Vec<(u64, Vec<u8>)>> {
        let mut old = Vec::new();
        for (offset, bytes) in pending {
            for (sector, at) in bytes.chunks(SECTOR).zip((*offset..).step_by(SECTOR)) {
                if chance.gen_range(0..100) < keep {
                    let mut before = vec![0; sector.len()];
                    self.file.read_exact_at(&mut before, at)?;
                    old.push((at, before));
                    self.file.write_all_at(sector, at)?;
                }
            }
        }
        Ok(old)
    }

    /// Which version the boot loader would start from the disk as it is now; it must be there in full.
    fn starts(&self) -> Result<String> {
        let disk = self.lab.places.inside(&self.disk)?;
        let on = format!("-i {}@@{}", disk.display(), self.layout.esp.0);
        let said = self.lab.places.script(&format!(
            "export MTOOLS_SKIP_CHECK=1; mdir -b {on} ::/EFI/Linux | while read -r path; do case $path in */millrace_*.efi) \
             mcopy -n {on} \"$path\" /tmp/kernel; echo \"${{path##*/}} $(sha256sum </tmp/kernel | cut -d' ' -f1)\"; rm /tmp/kernel ;; esac; done"
        ))?;
        let mut choices = Vec::new();
        for line in said.lines() {
            let (name, hash) = line.split_once(' ').context("a name and a hash")?;
            let stem = name.trim_start_matches("millrace_").trim_end_matches(".efi");
            let (version, tries) = stem.split_once('+').map_or((stem, None), |(version, tries)| (version, Some(tries)));
            let known = self.known.get(version).with_context(|| format!("{name} is on the boot partition"))?;
            // The name of a renamed file reaches the disk before its size and place: such a file is no program to the
            // boot loader, and the updater removes it.
            if hash == NOTHING {
                continue;
            }
            ensure!(known.kernel == hash, "{name} is not whole");
            let bad = tries.is_some_and(|tries| tries.split('-').next() == Some("0"));
            choices.push((!bad, version.to_owned()));
        }
        choices.sort();
        let (_, version) = choices.pop().with_context(|| format!("no kernel image is left: {said}"))?;
        let table = table(self.lab, &self.disk)?;
        for (id, size, hash) in &self.known.get(&version).context("a version of ours")?.parts {
            let place = table.iter().find(|one| text(one, "uuid").replace('-', "").to_uppercase() == *id);
            let start =
                sectors(place.with_context(|| format!("{version} would start, and has no partition {id}"))?, "start")?;
            // The first version's slot is never written; it was compared when the box was made.
            if version != self.lab.version {
                let script = format!(
                    "dd if={} bs=1M iflag=skip_bytes,count_bytes,fullblock skip={start} count={size} status=none | sha256sum",
                    disk.display()
                );
                let said = self.lab.places.script(&script)?;
                ensure!(said.starts_with(hash.as_str()), "{version} would start, and its partition {id} is not whole");
            }
        }
        Ok(version)
    }
}
