//! Power cuts at random moments: the emulator is killed, and its disk forgets what was not flushed ([`crate::disk`]).
//!
//! Two kinds. While an update is fetched, written, started and on trial: the box comes up with one version or the other,
//! whole. While tickets are won: not one that the box had acknowledged is lost, and in the end each is paid on chain. After
//! every cut: it boots, its root is verified, `/var` opens, it serves.

mod box_state;
mod replay;
mod tickets;
mod updates;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rand::Rng as _;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use serde_json::{Value, json};

use crate::report::Report;
use crate::steps::Lab;

use box_state::Subject;

/// Shares of the unflushed sectors that survive a cut; chance picks one.
const KEPT: [u32; 4] = [0, 0, 30, 70];

/// Which cuts, how many, and where their moments come from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// During an update.
    pub(crate) updates: bool,
    /// At any moment of an update that is on record.
    pub(crate) replay: bool,
    /// While tickets are won.
    pub(crate) tickets: bool,
    /// Of each kind that is asked for.
    pub(crate) each: u32,
    /// Where chance begins.
    pub(crate) seed: u64,
}

/// Make them, or those of them that an earlier run with the same plan had not come to.
pub(crate) fn run(lab: &mut Lab, report: &mut Report, next: &str, plan: Plan) {
    lab.machine = None;
    let subject = report.check("a provisioned box on a disk that forgets what is not flushed", |_| {
        let subject = Subject::prepare(lab)?;
        let said = format!("version {}, switched off in order", lab.version);
        Ok((subject, said))
    });
    let Some(mut subject) = subject else { return report.skip(&["power cuts"], "there is no box to cut off") };
    if plan.updates {
        report.check("power cuts during an update: one version or the other, and it serves", |report| {
            let done = updates::run(lab, &mut subject, report, next, plan)?;
            Ok(((), done))
        });
    }
    if plan.replay {
        report.check("power cuts at any moment of an update, from what it wrote: a whole version starts", |report| {
            let done = replay::run(lab, &subject.first(), &updates::record(lab), next, plan)?;
            report.figure("power_cuts_replayed", done.clone());
            Ok(((), done))
        });
    }
    if plan.tickets {
        report.check("power cuts while tickets are won: none that was acknowledged is lost", |report| {
            let done = tickets::run(lab, &mut subject, plan)?;
            report.figure("power_cuts_tickets", done.clone());
            Ok(((), done))
        });
    }
    report.figure("power_cuts", read(lab));
}

/// The record of all cuts, which outlives a run.
fn record(lab: &Lab) -> PathBuf {
    lab.work.join("power-cuts.json")
}

fn read(lab: &Lab) -> Vec<Value> {
    fs::read(record(lab)).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
}

/// Cuts of this kind and seed that are on record for these very images.
fn made(lab: &Lab, kind: &str, plan: Plan) -> Result<u32> {
    let image = image(lab)?;
    let same = |cut: &&Value| {
        cut.get("kind").and_then(Value::as_str) == Some(kind)
            && cut.get("seed").and_then(Value::as_u64) == Some(plan.seed)
            && cut.get("of").and_then(Value::as_u64) == Some(plan.each.into())
            && cut.get("image").and_then(Value::as_str) == Some(&image)
    };
    Ok(u32::try_from(read(lab).iter().filter(same).count())?)
}

/// Put one more on record, whatever it showed.
fn note(lab: &Lab, kind: &str, plan: Plan, number: u32, mut seen: Value) -> Result<()> {
    let fields = seen.as_object_mut().context("a record of named fields")?;
    fields.extend([
        ("kind".to_owned(), json!(kind)),
        ("number".to_owned(), json!(number)),
        ("of".to_owned(), json!(plan.each)),
        ("seed".to_owned(), json!(plan.seed)),
        ("image".to_owned(), json!(image(lab)?)),
    ]);
    eprintln!("image-test: cut {number} of {} ({kind}, seed {}): {seen}", plan.each, plan.seed);
    let mut all = read(lab);
    all.push(seen);
    let new = record(lab).with_extension("new");
    fs::write(&new, serde_json::to_vec_pretty(&all)?)?;
    Ok(fs::rename(new, record(lab))?)
}

/// Which images were tested: the root's own hash is in its partition's name.
fn image(lab: &Lab) -> Result<String> {
    let images = lab.image.parent().context("the images' directory")?;
    let prefix = format!("millrace_{}.root-", lab.version);
    for entry in fs::read_dir(images)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with(&prefix) && !name.contains("verity") {
            return Ok(name.trim_end_matches(".raw").to_owned());
        }
    }
    anyhow::bail!("{} has no root of {}", images.display(), lab.version)
}

/// Chance for one cut: the same whether or not the cuts before it were made in this run.
fn chance(plan: Plan, kind: u64, number: u32) -> StdRng {
    StdRng::seed_from_u64(plan.seed.wrapping_mul(1_000_003).wrapping_add(kind * 100_000 + u64::from(number)))
}

/// A moment for each cut, as a share of the time in which it may fall: by chance, but spread over all of it.
fn moments(plan: Plan, kind: u64) -> Vec<f64> {
    let mut chance = chance(plan, kind, 0);
    let mut order: Vec<u32> = (0..plan.each).collect();
    order.shuffle(&mut chance);
    order.into_iter().map(|slot| (f64::from(slot) + chance.gen_range(0.0..1.0)) / f64::from(plan.each.max(1))).collect()
}

fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 10.0).round() / 10.0
}

/// What a cut of one kind came to, in one line.
fn summary(lab: &Lab, kind: &str, plan: Plan) -> Result<String> {
    let count = made(lab, kind, plan)?;
    ensure!(count == plan.each, "{count} of {} cuts are on record", plan.each);
    Ok(format!("{count} cuts, seed {}; each in {}", plan.seed, record(lab).display()))
}
