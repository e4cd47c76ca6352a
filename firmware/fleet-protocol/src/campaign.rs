//! Campaigns: a version for a whole fleet, ring after ring. Two documents travel together, retained, on `…/_g/all/roll`: the
//! plan, signed by operators, and the pace, signed by the key that the plan names. The pace may open rings in their order
//! and halt; it cannot change the plan, and the release itself is held against its own signatures by every box.
//!
//! Who is in which ring, and when in the ring's window a box begins, depends on nothing but campaign and box: nobody keeps
//! lists, and everybody comes to the same answer.

pub mod pacer;

use ed25519_dalek::VerifyingKey;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::command::{SKEW_MS, bucket, spread};
use crate::dsse::{self, CAMPAIGN, DsseError, KeyId, PACE};
use crate::name::{BoxId, FleetId};
use crate::release::{Keys, verifying_key};
use crate::strict::TO_BOX_MAX;
use crate::topic::is_cid;
use crate::version::Version;

/// Most rings of a campaign.
const RINGS_MAX: usize = 16;
/// Most boxes a ring names.
const BOXES_MAX: usize = 256;
/// Longest time of any kind, hours: a month.
const HOURS_MAX: f64 = 720.0;
/// Milliseconds of an hour.
const HOUR_MS: f64 = 3_600_000.0;

/// Why a campaign is none, or not taken.
#[derive(Debug, thiserror::Error)]
pub enum CampaignError {
    /// Not signed by those who may, or malformed.
    #[error(transparent)]
    Envelope(#[from] DsseError),
    /// The two documents do not lie in one message.
    #[error("roll message has the wrong shape: {0}")]
    Shape(#[from] serde_json::Error),
    /// A field says what it must not.
    #[error("campaign: {field} {rule}")]
    Field {
        /// Which.
        field: &'static str,
        /// What it must be.
        rule: &'static str,
    },
    /// Its author is none of those who signed it.
    #[error("campaign was not signed by its author")]
    Author,
    /// The pace is that of another campaign, or does not fit its plan.
    #[error("the pace is not of this campaign")]
    OtherPace,
}

/// The plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Campaign {
    /// Version of this document, 1.
    pub v: u8,
    /// Its id; boxes answer under it.
    pub cid: String,
    /// Its name, for people.
    pub name: FleetId,
    /// The fleet.
    pub fleet: FleetId,
    /// The author's key; it owns `ctr`.
    pub by: KeyId,
    /// When it was signed, Unix milliseconds.
    pub iat: i64,
    /// When no box begins any more, Unix milliseconds.
    pub exp: i64,
    /// Rises with each order of the author's.
    pub ctr: u64,
    /// The version it brings.
    pub version: Version,
    /// Address of the signed manifest.
    pub manifest: String,
    /// The key that may set the pace, base64 of an Ed25519 public key.
    pub pacer: String,
    /// Who comes when.
    pub rings: Vec<Ring>,
    /// When it halts by itself.
    pub gate: Gate,
    /// How much of the line it may use.
    #[serde(default)]
    pub rate: Rate,
    /// Seconds to wait for a quiet moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain_s: Option<u64>,
    /// Whether to go on when there was none.
    #[serde(default)]
    pub go_at_deadline: bool,
}

/// One step of a campaign: boxes by name, or a share of all.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ring {
    /// Its name.
    pub name: FleetId,
    /// These boxes, and
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub boxes: Vec<BoxId>,
    /// this share of the fleet in percent, the shares of earlier rings included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pct: Option<f64>,
    /// Hours between the end of its last box and the opening of the next ring.
    #[serde(default)]
    pub soak_h: f64,
}

/// When a campaign halts by itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Gate {
    /// Nothing is concluded from fewer boxes that began.
    pub min_n: u32,
    /// Percent of a ring's boxes that must be well before the next one opens.
    pub ok_pct: f64,
    /// It halts when so many failed
    pub fail_max: u32,
    /// and this many percent of those that began.
    pub fail_pct: f64,
    /// A box that began and is silent for so many hours has failed.
    pub timeout_h: f64,
}

impl Default for Gate {
    fn default() -> Self {
        Self { min_n: 20, ok_pct: 98.0, fail_max: 3, fail_pct: 2.0, timeout_h: 6.0 }
    }
}

/// How much of the line it may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rate {
    /// A ring's boxes begin at moments spread over so many seconds.
    pub dl_window_s: u32,
    /// Megabits per second each may use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_dl_mbit: Option<u32>,
}

impl Default for Rate {
    fn default() -> Self {
        Self { dl_window_s: 21_600, max_dl_mbit: Some(20) }
    }
}

/// How far a campaign may go now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pace {
    /// Version of this document, 1.
    pub v: u8,
    /// The campaign.
    pub cid: String,
    /// Rises with each change; a lower one is an old one.
    pub n: u64,
    /// When each ring was opened, Unix milliseconds; the rings beyond wait.
    pub opened: Vec<i64>,
    /// Nobody begins, and nobody installs.
    pub halt: bool,
    /// Who failed before this moment no longer counts: a person saw it and went on, Unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forgiven: Option<i64>,
    /// Why it is halted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// What a campaign means for one box now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is in no ring.
    Never,
    /// Its ring is closed, or its moment has not come.
    Wait,
    /// Fetch and install.
    Go,
    /// Neither.
    Halted,
    /// The campaign is over.
    Over,
}

/// The two documents as they travel.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Roll {
    v: u8,
    plan: Value,
    pace: Value,
}

/// A campaign as a box has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rolling {
    /// What was planned.
    pub plan: Campaign,
    /// How far it may go.
    pub pace: Pace,
}

impl Rolling {
    /// Read a message of `…/roll`: the plan held against the operators' keys, the pace against the plan.
    ///
    /// # Errors
    /// [`CampaignError`].
    pub fn read(message: &[u8], operators: &Keys) -> Result<Self, CampaignError> {
        if message.len() > TO_BOX_MAX {
            return Err(
                DsseError::Strict(crate::strict::StrictError::Size { size: message.len(), limit: TO_BOX_MAX }).into()
            );
        }
        let roll: Roll = serde_json::from_slice(message)?;
        field(roll.v == 1, "v", "must be 1")?;
        let plan = Campaign::read(&serde_json::to_vec(&roll.plan)?, operators)?;
        let pace = Pace::read(&serde_json::to_vec(&roll.pace)?, &plan)?;
        Ok(Self { plan, pace })
    }

    /// The message of two envelopes.
    ///
    /// # Errors
    /// [`CampaignError::Shape`] when one of them is no JSON.
    pub fn message(plan: &[u8], pace: &[u8]) -> Result<Vec<u8>, CampaignError> {
        let roll = Roll { v: 1, plan: serde_json::from_slice(plan)?, pace: serde_json::from_slice(pace)? };
        Ok(serde_json::to_vec(&roll)?)
    }

    /// What a box shall do now.
    #[must_use]
    pub fn verdict(&self, id: &BoxId, now_ms: i64) -> Verdict {
        let Some(ring) = self.plan.ring_of(id) else { return Verdict::Never };
        if now_ms > self.plan.exp {
            return Verdict::Over;
        }
        if self.pace.halt {
            return Verdict::Halted;
        }
        match self.pace.opened.get(ring) {
            Some(opened) if now_ms >= opened.saturating_add(self.plan.moment_ms(id)) => Verdict::Go,
            _ => Verdict::Wait,
        }
    }
}

impl Campaign {
    /// Read a signed plan.
    ///
    /// # Errors
    /// [`CampaignError`].
    pub fn read(envelope: &[u8], operators: &Keys) -> Result<Self, CampaignError> {
        let verified = dsse::verify(envelope, CAMPAIGN, &operators.release, operators.threshold)?;
        let plan: Self = dsse::read_body(&verified)?;
        plan.check()?;
        if verified.keys.contains(&plan.by) { Ok(plan) } else { Err(CampaignError::Author) }
    }

    /// What an envelope claims to plan, for those who only carry it: no signature is looked at.
    ///
    /// # Errors
    /// [`CampaignError`] when it is no plan at all.
    pub fn unverified(envelope: &[u8]) -> Result<Self, CampaignError> {
        let plan: Self = dsse::read_body(&dsse::unverified(envelope, CAMPAIGN)?)?;
        plan.check()?;
        Ok(plan)
    }

    /// Hold it against the rules; the signing tool asks this too.
    ///
    /// # Errors
    /// [`CampaignError::Field`].
    pub fn check(&self) -> Result<(), CampaignError> {
        let share = |pct: f64| (0.0..=100.0).contains(&pct);
        let hours = |hours: f64| (0.0..=HOURS_MAX).contains(&hours);
        field(self.v == 1, "v", "must be 1")?;
        field(is_cid(&self.cid), "cid", "must be a uuid")?;
        field(self.iat >= 0 && self.iat < self.exp, "exp", "must be after iat")?;
        field(self.manifest.len() <= 2048 && self.manifest.starts_with("http"), "manifest", "must be an address")?;
        field(self.pacer_key().is_some(), "pacer", "must be the base64 of an ed25519 public key")?;
        field((1..=RINGS_MAX).contains(&self.rings.len()), "rings", "must be 1 to 16")?;
        for ring in &self.rings {
            field(ring.boxes.len() <= BOXES_MAX, "rings.boxes", "must be at most 256")?;
            field(ring.pct.is_none_or(share), "rings.pct", "must be 0 to 100")?;
            field(!ring.boxes.is_empty() || ring.pct.is_some(), "rings", "must each have boxes or a share")?;
            field(hours(ring.soak_h), "rings.soak_h", "must be 0 to 720")?;
        }
        let shares: Vec<f64> = self.rings.iter().filter_map(|ring| ring.pct).collect();
        field(shares.is_sorted(), "rings.pct", "must grow from ring to ring: each includes those before it")?;
        let gate = &self.gate;
        field(share(gate.ok_pct) && share(gate.fail_pct), "gate", "must have percents of 0 to 100")?;
        field(gate.fail_max > 0 && gate.min_n > 0, "gate.fail_max", "and min_n must be above 0")?;
        field(hours(gate.timeout_h) && gate.timeout_h > 0.0, "gate.timeout_h", "must be above 0 and at most 720")?;
        field(self.rate.dl_window_s <= 604_800, "rate.dl_window_s", "must be at most a week")?;
        field(self.rate.max_dl_mbit.is_none_or(|rate| rate > 0), "rate.max_dl_mbit", "must be above 0")
    }

    /// The key that may set the pace.
    #[must_use]
    pub fn pacer_key(&self) -> Option<VerifyingKey> {
        verifying_key(&self.pacer)
    }

    /// The first ring a box is in.
    #[must_use]
    pub fn ring_of(&self, id: &BoxId) -> Option<usize> {
        let share = f64::from(bucket(&self.cid, id));
        self.rings.iter().position(|ring| ring.boxes.contains(id) || ring.pct.is_some_and(|pct| share < pct * 100.0))
    }

    /// When a box begins, milliseconds after its ring was opened.
    #[must_use]
    pub fn moment_ms(&self, id: &BoxId) -> i64 {
        let window = i64::from(self.rate.dl_window_s) * 1000;
        if window == 0 { 0 } else { i64::from(spread(&self.cid, id, "moment")) % window }
    }

    /// Whether a document signed then may be believed now: it is not of a time that has not come.
    #[must_use]
    pub fn has_begun(&self, now_ms: i64) -> bool {
        now_ms >= self.iat.saturating_sub(SKEW_MS)
    }
}

impl Pace {
    /// The pace before the first ring is opened.
    #[must_use]
    pub fn new(cid: &str) -> Self {
        Self { v: 1, cid: cid.to_owned(), n: 1, opened: Vec::new(), halt: false, forgiven: None, why: None }
    }

    /// Read a signed pace of this plan.
    ///
    /// # Errors
    /// [`CampaignError`].
    pub fn read(envelope: &[u8], plan: &Campaign) -> Result<Self, CampaignError> {
        let key = plan.pacer_key().ok_or(CampaignError::OtherPace)?;
        let pace: Self = dsse::read_body(&dsse::verify(envelope, PACE, &[key], 1)?)?;
        let fits = pace.v == 1 && pace.cid == plan.cid && pace.opened.len() <= plan.rings.len();
        if fits { Ok(pace) } else { Err(CampaignError::OtherPace) }
    }

    /// Whether this may follow `before`: it is newer, and what was opened stays so.
    #[must_use]
    pub fn follows(&self, before: &Pace) -> bool {
        self.cid == before.cid && self.n > before.n && self.opened.starts_with(&before.opened)
    }
}

fn field(holds: bool, field: &'static str, rule: &'static str) -> Result<(), CampaignError> {
    if holds { Ok(()) } else { Err(CampaignError::Field { field, rule }) }
}

/// Hours as milliseconds; within the bounds of [`Campaign::check`] it is exact enough and never overflows.
#[expect(clippy::cast_possible_truncation, reason = "at most a month of milliseconds")]
fn hours_ms(hours: f64) -> i64 {
    (hours * HOUR_MS) as i64
}

#[cfg(test)]
mod tests;
