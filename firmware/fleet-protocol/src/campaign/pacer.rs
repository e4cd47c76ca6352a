//! How fast a campaign goes: from what is known of its boxes to the next pace. Pure; the controller only obeys.
//!
//! ```text
//! ring open ──► all its boxes have ended, enough of them well ──► soak ──► next ring … ──► done
//!     │ fail_max and fail_pct of those that began (silence counts), or too few well
//!     └──► halted, until a person resumes
//! ```

use super::{Campaign, Pace, hours_ms};
use crate::name::BoxId;
use crate::payload::Standing;

/// The code of a box that found no quiet moment: neither well nor ill.
pub const DEFERRED: &str = "deferred";

/// What is known of one box.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// Which.
    pub id: BoxId,
    /// What it last answered under the campaign's id, and when that came.
    pub answer: Option<(Standing, i64)>,
    /// It said that it found no quiet moment.
    pub deferred: bool,
    /// The last proof of life, Unix milliseconds.
    pub seen_ms: Option<i64>,
}

/// How a box counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counts {
    /// Its ring is closed, or its moment has not come, or it has not answered yet.
    Waiting,
    /// Under way.
    Running,
    /// Runs the new version.
    Done,
    /// Failed, or silent for too long.
    Failed,
    /// Not heard of since its ring was opened, or never quiet: says nothing about the version.
    Absent,
}

/// The boxes of one ring.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Not begun.
    pub waiting: u64,
    /// Under way.
    pub running: u64,
    /// Well.
    pub done: u64,
    /// Ill.
    pub failed: u64,
    /// Neither.
    pub absent: u64,
    /// When the last of them ended, Unix milliseconds.
    pub ended_ms: Option<i64>,
}

impl Tally {
    /// All of them.
    #[must_use]
    pub fn boxes(&self) -> u64 {
        self.waiting + self.running + self.done + self.failed + self.absent
    }
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing now.
    Stay,
    /// Set this pace.
    Set(Pace),
    /// Every ring has ended well.
    Done,
}

/// How a box counts.
#[must_use]
pub fn counts(plan: &Campaign, pace: &Pace, known: &Known, now_ms: i64) -> Counts {
    let Some(opened) = plan.ring_of(&known.id).and_then(|ring| pace.opened.get(ring)) else { return Counts::Waiting };
    let begins = opened.saturating_add(plan.moment_ms(&known.id));
    let patience = hours_ms(plan.gate.timeout_h);
    let failed = |at: i64| if pace.forgiven.is_some_and(|until| at <= until) { Counts::Absent } else { Counts::Failed };
    match known.answer {
        Some(_) if known.deferred => Counts::Absent,
        Some((Standing::Done, _)) => Counts::Done,
        Some((Standing::Superseded | Standing::Expired, _)) => Counts::Absent,
        Some((Standing::Failed | Standing::Rejected | Standing::Reverted, at)) => failed(at),
        // Progress is a sign of life; a box that says nothing more is not well.
        Some((Standing::Accepted | Standing::Running, at)) => {
            let late = at.saturating_add(patience);
            if now_ms > late { failed(late) } else { Counts::Running }
        }
        None if now_ms <= begins.saturating_add(patience) => Counts::Waiting,
        None if known.seen_ms.is_some_and(|seen| seen >= begins) => failed(begins.saturating_add(patience)),
        None => Counts::Absent,
    }
}

/// The boxes of each ring.
#[must_use]
pub fn tally(plan: &Campaign, pace: &Pace, boxes: &[Known], now_ms: i64) -> Vec<Tally> {
    let mut rings = vec![Tally::default(); plan.rings.len()];
    for known in boxes {
        let Some(ring) = plan.ring_of(&known.id) else { continue };
        let Some(tally) = rings.get_mut(ring) else { continue };
        let counted = counts(plan, pace, known, now_ms);
        let slot = match counted {
            Counts::Waiting => &mut tally.waiting,
            Counts::Running => &mut tally.running,
            Counts::Done => &mut tally.done,
            Counts::Failed => &mut tally.failed,
            Counts::Absent => &mut tally.absent,
        };
        *slot += 1;
        if let (Counts::Done | Counts::Failed, Some((_, at))) = (counted, known.answer) {
            tally.ended_ms = tally.ended_ms.max(Some(at));
        }
    }
    rings
}

/// What is to be done about a campaign now. A halted one stays so: only a person resumes it.
#[must_use]
pub fn step(plan: &Campaign, pace: &Pace, boxes: &[Known], now_ms: i64) -> Step {
    if pace.halt || now_ms > plan.exp {
        return Step::Stay;
    }
    let rings = tally(plan, pace, boxes, now_ms);
    if let Some(why) = ill(plan, &rings) {
        return Step::Set(Pace { n: pace.n + 1, halt: true, why: Some(why), ..pace.clone() });
    }
    let open = pace.opened.len();
    let Some(last) = open.checked_sub(1) else { return opened(pace, now_ms) };
    let (Some(tally), Some(ring)) = (rings.get(last), plan.rings.get(last)) else { return Step::Stay };
    if tally.waiting > 0 || tally.running > 0 {
        return Step::Stay;
    }
    let ended = tally.done + tally.failed;
    if share(tally.done, ended).is_some_and(|well| well < plan.gate.ok_pct) {
        let why = format!("ring {}: {} of {ended} are well, {} % are needed", ring.name, tally.done, plan.gate.ok_pct);
        return Step::Set(Pace { n: pace.n + 1, halt: true, why: Some(why), ..pace.clone() });
    }
    // A box that never ended holds nobody up; its window has passed.
    let since = tally.ended_ms.or_else(|| pace.opened.last().copied()).unwrap_or(now_ms);
    if now_ms < since.saturating_add(hours_ms(ring.soak_h)) {
        return Step::Stay;
    }
    if open == plan.rings.len() { Step::Done } else { opened(pace, now_ms) }
}

/// A person lets a halted campaign go on; what failed so far is forgiven, and the same again halts it again.
#[must_use]
pub fn resumed(pace: &Pace, now_ms: i64) -> Pace {
    Pace { n: pace.n + 1, halt: false, forgiven: Some(now_ms), why: None, ..pace.clone() }
}

/// A person halts it.
#[must_use]
pub fn halted(pace: &Pace, why: &str) -> Pace {
    Pace { n: pace.n + 1, halt: true, why: Some(why.chars().take(120).collect()), ..pace.clone() }
}

fn opened(pace: &Pace, now_ms: i64) -> Step {
    let mut next = Pace { n: pace.n + 1, ..pace.clone() };
    next.opened.push(now_ms);
    Step::Set(next)
}

/// Whether too many failed, over all rings.
fn ill(plan: &Campaign, rings: &[Tally]) -> Option<String> {
    let sum = |of: fn(&Tally) -> u64| rings.iter().map(of).sum::<u64>();
    let failed = sum(|tally| tally.failed);
    let began = failed + sum(|tally| tally.done) + sum(|tally| tally.running);
    let gate = &plan.gate;
    let enough = began >= u64::from(gate.min_n) && failed >= u64::from(gate.fail_max);
    let many = share(failed, began).is_some_and(|share| share >= gate.fail_pct);
    (enough && many).then(|| format!("{failed} of {began} boxes failed"))
}

#[expect(clippy::cast_precision_loss, reason = "numbers of boxes")]
fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 * 100.0 / whole as f64)
}
