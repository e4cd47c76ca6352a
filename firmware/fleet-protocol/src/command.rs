//! Orders: what people sign for boxes to do. The broker and the controller only carry them.
//!
//! [`Command::verified`], then [`Command::admit`] ask in the contract's order, cheap questions first; whoever obeys keeps
//! the counters and the ids of what was obeyed, durably, before acting. Between the two stands the question whether the
//! order is known already: then its state is told again, whatever the time.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use crate::dsse::{self, COMMAND, DsseError, KeyId};
use crate::name::{BoxId, FleetId};
use crate::release::Keys;
use crate::version::Version;

/// How far clocks may differ, milliseconds.
pub const SKEW_MS: i64 = 120_000;
/// The order to install a version of the system.
pub const UPDATE: &str = "update";
/// The order to destroy the keys and leave the fleet.
pub const DECOMMISSION: &str = "decommission";
/// Most boxes an order names.
const BOXES_MAX: usize = 256;

/// Why an order is not obeyed.
#[derive(Debug, thiserror::Error)]
pub enum Denied {
    /// Not signed by enough of those who may, or malformed.
    #[error(transparent)]
    Envelope(#[from] DsseError),
    /// It came under another name.
    #[error("order is another than its topic says")]
    Topic,
    /// Its author is none of those who signed it.
    #[error("order was not signed by its author")]
    Author,
    /// For other boxes.
    #[error("order is not for this box")]
    Audience,
    /// Too early, too late, or nobody knows.
    #[error("order's time has not come, is over, or the clock of this box was never set")]
    Time,
    /// Its author has ordered something later already.
    #[error("order is not newer than the last one of its author")]
    Replayed,
    /// It asks for something this version does not know how to hold.
    #[error("order has preconditions, which this version does not know")]
    Preconditions,
    /// Its arguments make no sense.
    #[error("order's arguments make no sense: {0}")]
    Arguments(#[from] serde_json::Error),
}

/// A signed order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Command {
    /// Version of this document, 1.
    pub v: u8,
    /// Its id; the same id never acts twice.
    pub cid: String,
    /// What to do.
    pub op: String,
    /// Who shall.
    pub aud: Audience,
    /// The author's key; it owns `ctr`.
    pub by: KeyId,
    /// When it was signed, Unix milliseconds.
    pub iat: i64,
    /// Not before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbf: Option<i64>,
    /// Not after.
    pub exp: i64,
    /// Rises with each order of the author's.
    pub ctr: u64,
    /// Preconditions.
    #[serde(rename = "if", default, skip_serializing_if = "Option::is_none")]
    pub preconditions: Option<Map<String, Value>>,
    /// Arguments.
    pub args: Map<String, Value>,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// Whom an order is for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Audience {
    /// The fleet.
    pub fleet: FleetId,
    /// These boxes, or
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boxes: Option<Vec<BoxId>>,
    /// this group: `all` or a ring; of it
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<FleetId>,
    /// this share in percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pct: Option<f64>,
}

/// Arguments of `update`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdateArgs {
    /// Address of the signed manifest.
    pub manifest: String,
    /// The version it must be.
    pub version: Version,
    /// Megabits per second it may use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_mbit: Option<u32>,
    /// Seconds to wait for a quiet moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_s: Option<u64>,
    /// Whether to go on when there was none.
    #[serde(default)]
    pub go_at_deadline: bool,
}

/// Arguments of `decommission`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecommissionArgs {
    /// Destroy everything the box keeps, not only its keys.
    pub erase: bool,
    /// Do it even while the hot account holds more than dust, winners are not redeemed, or nobody can say: the key to
    /// them is gone afterwards.
    #[serde(default)]
    pub even_with_funds: bool,
}

impl Denied {
    /// One word for it, as results carry it.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Denied::Envelope(_) => "signature",
            Denied::Topic => "topic",
            Denied::Author => "author",
            Denied::Audience => "audience",
            Denied::Time => "time",
            Denied::Replayed => "replayed",
            Denied::Preconditions => "preconditions",
            Denied::Arguments(_) => "arguments",
        }
    }
}

/// The box that is ordered.
#[derive(Debug, Clone, Copy)]
pub struct Ordered<'a> {
    /// Its fleet.
    pub fleet: &'a FleetId,
    /// Itself.
    pub id: &'a BoxId,
    /// Its ring.
    pub ring: &'a FleetId,
    /// Its clock, Unix milliseconds; `None` when it was never set.
    pub now: Option<i64>,
}

impl Command {
    /// Read an order that came as `op` and is signed by those who may, its author among them.
    ///
    /// # Errors
    /// [`Denied::Envelope`], [`Denied::Topic`] or [`Denied::Author`].
    pub fn verified(envelope: &[u8], op: &str, keys: &Keys) -> Result<Self, Denied> {
        let verified = dsse::verify(envelope, COMMAND, &keys.release, keys.threshold)?;
        let command: Self = dsse::read_body(&verified)?;
        hold(command.v == 1 && command.op == op && crate::topic::is_cid(&command.cid), Denied::Topic)?;
        hold(verified.keys.contains(&command.by), Denied::Author)?;
        Ok(command)
    }

    /// Hold a verified order against the box, its clock and what its author ordered before; `counter` tells the highest
    /// counter of an author that was obeyed.
    ///
    /// # Errors
    /// [`Denied`]: the first question whose answer was no.
    pub fn admit(&self, ordered: Ordered<'_>, counter: impl Fn(&KeyId) -> u64) -> Result<(), Denied> {
        hold(self.aud.fleet == *ordered.fleet && self.reaches(ordered.id, ordered.ring), Denied::Audience)?;
        let early = self.nbf.unwrap_or(self.iat).saturating_sub(SKEW_MS);
        hold(ordered.now.is_some_and(|now| (early..=self.exp).contains(&now)), Denied::Time)?;
        hold(self.ctr > counter(&self.by), Denied::Replayed)?;
        hold(self.preconditions.as_ref().is_none_or(Map::is_empty), Denied::Preconditions)
    }

    /// What an envelope claims to order, for those who only carry it: no signature is looked at.
    ///
    /// # Errors
    /// [`Denied::Envelope`] when it is no order at all.
    pub fn unverified(envelope: &[u8]) -> Result<Self, Denied> {
        let command: Self = dsse::read_body(&dsse::unverified(envelope, COMMAND)?)?;
        hold(command.v == 1 && crate::topic::is_cid(&command.cid) && crate::topic::is_op(&command.op), Denied::Topic)?;
        Ok(command)
    }

    /// Whether a box is meant. Which share of a group is meant depends on nothing but order and box.
    #[must_use]
    pub fn reaches(&self, id: &BoxId, ring: &FleetId) -> bool {
        let Audience { boxes, group, pct, .. } = &self.aud;
        let named = boxes.as_ref().is_some_and(|boxes| boxes.len() <= BOXES_MAX && boxes.contains(id));
        let grouped = group.as_ref().is_some_and(|group| {
            let ours = group.as_str() == "all" || group == ring;
            ours && pct.is_none_or(|pct| f64::from(bucket(&self.cid, id)) < pct * 100.0)
        });
        named || grouped
    }
}

/// Where a box falls in what is identified by `cid`: 0 to 9999, evenly, always the same.
#[must_use]
pub fn bucket(cid: &str, id: &BoxId) -> u32 {
    spread(cid, id, "") % 10_000
}

/// A number that depends on nothing but these.
pub(crate) fn spread(cid: &str, id: &BoxId, what: &str) -> u32 {
    let hash = Sha256::new().chain_update(cid).chain_update(id.as_str()).chain_update(what).finalize();
    hash.iter().take(4).fold(0u32, |sum, byte| sum << 8 | u32::from(*byte))
}

fn hold(holds: bool, denied: Denied) -> Result<(), Denied> {
    if holds { Ok(()) } else { Err(denied) }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;
    use serde_json::json;

    use super::*;

    const NOW: i64 = 1_795_327_100_000;

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_bytes(&[seed; 32])
    }

    fn order() -> Value {
        json!({"v": 1, "cid": "019ab000-0000-7000-8000-000000000001", "op": "update",
            "aud": {"fleet": "acme", "boxes": ["box-7f3a9c2e41d05b68"]}, "by": KeyId::of(&key(1).verifying_key()),
            "iat": 1_795_327_000_000_i64, "exp": 1_795_327_600_000_i64, "ctr": 7,
            "args": {"manifest": "https://r.example/manifest.json", "version": "1.2.0"}})
    }

    fn read(order: &Value, now: Option<i64>, highest: u64) -> Result<Command, Denied> {
        let mut envelope = dsse::sign(COMMAND, order.to_string().as_bytes(), &key(1)).unwrap();
        envelope = dsse::add_signature(&envelope, COMMAND, &key(2)).unwrap();
        let keys = Keys { release: (1..=3).map(|seed| key(seed).verifying_key()).collect(), threshold: 2, test: true };
        let (fleet, ring) = (FleetId::new("acme").unwrap(), FleetId::new("lab").unwrap());
        let id = BoxId::new("box-7f3a9c2e41d05b68").unwrap();
        let command = Command::verified(&envelope, UPDATE, &keys)?;
        command.admit(Ordered { fleet: &fleet, id: &id, ring: &ring, now }, |_| highest)?;
        assert_eq!(Command::unverified(&envelope).unwrap(), command);
        Ok(command)
    }

    fn denied(change: impl Fn(&mut Value)) -> Denied {
        let mut changed = order();
        change(&mut changed);
        read(&changed, Some(NOW), 0).unwrap_err()
    }

    #[test]
    fn an_order_is_obeyed_by_whom_it_is_for_in_its_time_and_once() {
        let command = read(&order(), Some(NOW), 6).unwrap();
        let args: UpdateArgs = serde_json::from_value(Value::Object(command.args)).unwrap();
        assert_eq!(args.version.to_string(), "1.2.0");
        assert!(matches!(read(&order(), Some(NOW), 7), Err(Denied::Replayed)));
        assert!(matches!(read(&order(), Some(NOW + 600_000), 0), Err(Denied::Time)));
        assert!(matches!(read(&order(), Some(NOW - 600_000), 0), Err(Denied::Time)));
        assert!(matches!(read(&order(), None, 0), Err(Denied::Time)));
    }

    #[test]
    fn every_question_has_its_own_no() {
        assert!(matches!(denied(|o| o["op"] = json!("reboot")), Denied::Topic));
        assert!(matches!(denied(|o| o["by"] = json!(KeyId::of(&key(3).verifying_key()))), Denied::Author));
        assert!(matches!(denied(|o| o["aud"]["fleet"] = json!("other")), Denied::Audience));
        assert!(matches!(denied(|o| o["aud"] = json!({"fleet": "acme"})), Denied::Audience));
        assert!(matches!(denied(|o| o["aud"]["boxes"] = json!(["box-0000000000000000"])), Denied::Audience));
        assert!(matches!(denied(|o| o["if"] = json!({"fw": "1"})), Denied::Preconditions));
        assert!(matches!(denied(|o| o["extra"] = json!(1)), Denied::Envelope(_)));
        assert!(matches!(denied(|o| o["cid"] = json!("../../state")), Denied::Topic));
    }

    #[test]
    fn a_group_is_reached_by_its_name_and_in_part_always_by_the_same_boxes() {
        let of = |aud: Value| {
            let mut order = order();
            order["aud"] = aud;
            read(&order, Some(NOW), 0).is_ok()
        };
        assert!(of(json!({"fleet": "acme", "group": "all"})) && of(json!({"fleet": "acme", "group": "lab"})));
        assert!(!of(json!({"fleet": "acme", "group": "canary"})));
        assert!(of(json!({"fleet": "acme", "group": "all", "pct": 100})));
        assert!(!of(json!({"fleet": "acme", "group": "all", "pct": 0})));
        let command = read(&order(), Some(NOW), 0).unwrap();
        let boxes = (0..2000).map(|n| BoxId::new(format!("box-{n:016x}")).unwrap());
        let early = boxes.filter(|id| bucket(&command.cid, id) < 2500).count();
        assert!((400..600).contains(&early), "{early}");
    }
}
