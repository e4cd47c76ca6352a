//! Cuts while an update is fetched, written, started for the first time, and on trial.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rand::seq::SliceRandom as _;
use serde_json::json;

use super::box_state::Subject;
use super::replay::Layout;
use super::{KEPT, Plan, chance, made, moments, note, seconds, summary};
use crate::machine::Machine;
use crate::release::Server;
use crate::report::Report;
use crate::steps::{COMMAND, Lab, update};

const KIND: &str = "update";
const NUMBER: u64 = 1;
/// How long an update takes is not known before the first was seen; no cut comes later than this.
const LONGEST: Duration = Duration::from_secs(1500);
/// A look at how far it is.
const LOOK: Duration = Duration::from_millis(500);

/// What a whole update wrote.
pub(super) fn record(lab: &Lab) -> PathBuf {
    lab.work.join("power/update.record")
}

/// All cuts that are not on record yet.
pub(super) fn run(lab: &Lab, subject: &mut Subject, report: &mut Report, next: &str, plan: Plan) -> Result<String> {
    let (server, _) = update::offer(lab, report, &[next])?;
    let (mut machine, mut whole): (Option<Machine>, Option<Duration>) = (None, None);
    let moments = moments(plan, NUMBER);
    for number in made(lab, KIND, plan)? + 1..=plan.each {
        let mut chance = chance(plan, NUMBER, number);
        let mut running = match machine.take() {
            Some(running) => running,
            None => {
                subject.reset()?;
                subject.recover(lab, &[&lab.version])?.0
            }
        };
        let share = moments.get(usize::try_from(number)? - 1).copied().context("a moment for each cut")?;
        // The first of a run shows how long it all takes, and comes when it is done.
        let limit = whole.map_or(LONGEST, |whole| whole.mul_f64(share * 1.05));
        // All that it writes is kept, for the moments that no machine is started for.
        let recorded = whole.is_none();
        if recorded {
            subject.disk().record(&record(lab), Layout::read(lab, &subject.first())?.var)?;
        }
        let begun = Instant::now();
        let phase = drive(&mut running, &server, next, begun + limit)?;
        let after = begun.elapsed();
        if phase == "blessed" {
            whole = Some(whole.map_or(after, |whole| whole.max(after)));
        }
        if recorded {
            subject.disk().end_record()?;
        }
        let keep = *KEPT.choose(&mut chance).context("a share")?;
        let lost = subject.cut(running, &mut chance, keep)?;
        let (running, found) = subject
            .recover(lab, &[&lab.version, next])
            .with_context(|| format!("cut {number}, {after:?} after the request, {phase}"))?;
        let served = subject.serves(lab, &running)?;
        let seen = json!({
            "phase": phase, "after_s": seconds(after), "version": found.version, "refused": found.refused.contains(next),
            "recovered_s": seconds(found.took), "segments_after": served,
            "unflushed_blocks": lost.unflushed, "kept_percent": keep, "kept_sectors": lost.kept_sectors, "flushes": lost.flushes,
        });
        note(lab, KIND, plan, number, seen)?;
        // Still on the first version, and willing to try again: the next cut goes on from here.
        let again = found.version == lab.version && !found.refused.contains(next);
        machine = again.then_some(running);
    }
    summary(lab, KIND, plan)
}

/// Bring the update on its way until it is done or the moment has come; in which phase it was then.
fn drive(machine: &mut Machine, server: &Server, next: &str, end: Instant) -> Result<&'static str> {
    let before = machine.hello().context("the box is not up")?;
    let script = format!("millrace-update status | grep -qx 'staged    {next} Staged'");
    if machine.try_run(&script, COMMAND)?.status != 0 {
        update::ask_to_stage(machine, server, next)?;
        loop {
            if Instant::now() >= end {
                return Ok("fetching");
            }
            if machine.try_run(&script, COMMAND)?.status == 0 {
                break;
            }
            std::thread::sleep(LOOK);
        }
    }
    update::ask_to_install(machine, next)?;
    loop {
        if Instant::now() >= end {
            let serial = machine.serial();
            return Ok(if serial.contains("reboot: Restarting system") {
                "starting the new version"
            } else {
                "installing"
            });
        }
        if machine.next_boot(&before, LOOK)?.is_some() {
            break;
        }
    }
    let blessed = format!(
        "ls /boot/EFI/Linux | grep -qx millrace_{next}.efi && millrace-update status | grep -qE '^last .* to {next}: Blessed'"
    );
    loop {
        if Instant::now() >= end {
            return Ok("on trial");
        }
        if machine.try_run(&blessed, COMMAND)?.status == 0 {
            return Ok("blessed");
        }
        std::thread::sleep(LOOK);
    }
}
