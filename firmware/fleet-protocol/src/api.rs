//! The controller's HTTP JSON, shared by the controller that writes it and the tools that read it.
//!
//! | Request | Answer |
//! |---|---|
//! | `GET /api/boxes` | [`BoxList`] |
//! | `GET /api/boxes/{box}` | [`BoxDetail`], or 404 with [`Problem`] |
//! | `GET /api/events?box=&open=&limit=` | [`EventList`] |
//! | `GET /api/orders` | [`OrderList`], the newest first |
//! | `GET /api/orders/{cid}` | [`Order`], or 404 |
//! | `POST /api/orders`, a signed order | [`Order`] with status 202, or [`Problem`] |
//! | `GET /api/campaigns` | [`CampaignList`], the newest first |
//! | `POST /api/campaigns`, a signed campaign | [`Campaign`] with status 202, or [`Problem`] |
//! | `POST /api/campaigns/{name}/halt`, `…/resume` | [`Campaign`] |
//! | `POST /api/claims` with [`NewClaim`] | [`Claim`] |
//! | `GET /api/claims` | [`ClaimList`] |
//! | `GET /healthz` | [`Health`], status 200 or 503 |
//! | `GET /metrics` | Prometheus text |
//!
//! Money is a decimal string of wei; times are unix milliseconds of the controller's clock; ages are seconds.
//! A reader ignores fields it does not know.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::presence::Presence;

/// `GET /api/boxes`: every box the controller knows, ordered by id.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BoxList {
    /// Whether the controller itself hears the broker; when not, every box is `UNKNOWN`.
    pub broker_connected: bool,
    /// One row per box.
    pub boxes: Vec<BoxSummary>,
}

/// One box at a glance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BoxSummary {
    /// `box-` and sixteen hex digits.
    #[serde(rename = "box")]
    pub id: String,
    /// The fleet it is enrolled in.
    pub fleet: String,
    /// Derived from live traffic, never from a retained message.
    pub presence: Presence,
    /// Seconds since the last proof of life; absent when there was none since the controller started.
    pub age_s: Option<f64>,
    /// Unix milliseconds at which the last message of any kind was stored.
    pub last_seen_ms: Option<i64>,
    /// `run`, `drain`, `maint`, `safe` or `quarantine`, as the box said at birth or in its last heartbeat.
    pub mode: Option<String>,
    /// Firmware version the box reported.
    pub fw: Option<String>,
    /// Its rollout ring.
    #[serde(default)]
    pub ring: Option<String>,
    /// It was taken out of the fleet by an order: its keys are gone.
    #[serde(default)]
    pub decommissioned: bool,
    /// Health score 0 to 100 of the last heartbeat.
    pub ok: Option<f64>,
    /// Sessions in work.
    pub sessions_active: Option<u64>,
    /// Sessions it would take at most.
    pub sessions_capacity: Option<u64>,
    /// Segments transcoded since the counters began.
    pub segments_ok: Option<u64>,
    /// Segments that were not.
    pub segments_failed: Option<u64>,
    /// Real-time ratio, median (segment duration divided by transcode time).
    pub rtr_p50: Option<f64>,
    /// Real-time ratio, 5th percentile; under 1 is losing.
    pub rtr_p05: Option<f64>,
    /// The latest earnings counters, if any were stored.
    pub earnings: Option<Earnings>,
    /// Alarms raised and not cleared.
    pub open_alarms: u64,
    /// The worst of them.
    pub top_alarm: Option<String>,
}

/// Cumulative earnings of one box; counters restart only with a new epoch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Earnings {
    /// Tickets received.
    pub tickets_received: u64,
    /// Tickets that won.
    pub tickets_won: u64,
    /// Winners redeemed on chain.
    pub tickets_redeemed: u64,
    /// Redemptions given up.
    pub redemptions_failed: u64,
    /// Winners not redeemed yet.
    pub tickets_pending: u64,
    /// Expected value received, wei.
    pub value_received_wei: String,
    /// Face value of all winners, wei.
    pub value_won_wei: String,
    /// Paid on chain, wei.
    pub value_redeemed_wei: String,
    /// Face value of the pending winners, wei.
    pub value_pending_wei: String,
    /// Hot wallet balance, wei; empty when the node has no chain.
    pub hot_wallet_wei: String,
    /// Current round, 0 when off chain.
    pub round: u64,
    /// When the controller stored this, unix milliseconds.
    pub at_ms: i64,
}

/// `GET /api/boxes/{box}`: the summary's fields at top level, and the rest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BoxDetail {
    /// The row of the list.
    #[serde(flatten)]
    pub summary: BoxSummary,
    /// Spool epoch (`e`), eight hex digits.
    pub epoch: Option<String>,
    /// Boot counter (`b`).
    pub boot: Option<u64>,
    /// Connection counter (`n`).
    pub connection: Option<u64>,
    /// The last birth certificate, as sent.
    pub info: Option<serde_json::Value>,
    /// Last values per class: `hb`, `vit`, `str`, `earn`.
    pub last: BTreeMap<String, LastValue>,
    /// Presence changes, newest first, at most 50.
    pub presence_log: Vec<PresenceRow>,
    /// Events, newest first, at most 100.
    pub events: Vec<EventRow>,
    /// Per durable class (`A`, `E`, `L`): what has been stored without a gap, and what was acknowledged.
    pub cursors: BTreeMap<String, CursorRow>,
    /// Periodic messages that never arrived, per class.
    pub lost: BTreeMap<String, u64>,
}

/// The last message of one class.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LastValue {
    /// When the controller stored it, unix milliseconds.
    pub at_ms: i64,
    /// Metric key to value, as in the registry.
    pub m: serde_json::Map<String, serde_json::Value>,
}

/// One change of presence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PresenceRow {
    /// When, unix milliseconds.
    pub at_ms: i64,
    /// The new state.
    pub presence: Presence,
    /// Why: `birth`, `alive`, `death`, `silence`, `blind`, `retained`.
    pub why: String,
}

/// What the controller holds of one durable class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CursorRow {
    /// Every `q` up to this one is stored.
    pub stored: u64,
    /// The highest `q` that was told to the box.
    pub acked: u64,
    /// Records beyond `stored` that wait for a gap to close.
    pub ahead: u64,
}

/// `GET /api/events`: newest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventList {
    /// At most the asked number.
    pub events: Vec<EventRow>,
}

/// One stored event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventRow {
    /// The box it came from.
    #[serde(rename = "box")]
    pub box_id: String,
    /// Sequence inside the class and epoch.
    pub q: u64,
    /// When the controller stored it, unix milliseconds.
    pub at_ms: i64,
    /// The box's own time, unix milliseconds; absent when its clock was never valid.
    pub t: Option<i64>,
    /// Event id, as in the runbook.
    pub id: String,
    /// `crit`, `err`, `warn` or `info`.
    pub sev: String,
    /// `raise`, `clear` or `occur`.
    pub op: String,
    /// Which instance.
    pub inst: Option<String>,
    /// Measured value.
    pub val: Option<serde_json::Value>,
    /// Limit it was held against.
    pub lim: Option<serde_json::Value>,
    /// True for a raise that no clear has followed.
    pub open: bool,
}

/// `GET /healthz`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// True when the broker is connected and the store writable.
    pub ok: bool,
    /// True when the broker is connected.
    pub broker_connected: bool,
    /// Boxes known.
    pub boxes: u64,
    /// Program version.
    pub version: String,
    /// The fleet it serves.
    #[serde(default)]
    pub fleet: String,
}

/// `GET /api/orders`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OrderList {
    /// At most a hundred.
    pub orders: Vec<Order>,
}

/// An order that the controller carries, and where it stands on each box it is for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Order {
    /// Its id.
    pub cid: String,
    /// What it orders.
    pub op: String,
    /// The author's key.
    pub by: String,
    /// When the controller took it, unix milliseconds.
    pub at_ms: i64,
    /// When no box begins it any more, unix milliseconds.
    pub exp_ms: i64,
    /// Its arguments, as signed.
    pub args: serde_json::Map<String, serde_json::Value>,
    /// Why, for people.
    pub why: Option<String>,
    /// The boxes it is for, ordered by id.
    pub boxes: Vec<OrderBox>,
}

/// An order on one box.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderBox {
    /// The box.
    #[serde(rename = "box")]
    pub id: String,
    /// `queued` until the box has answered, then as in [`crate::payload::Standing`].
    pub st: String,
    /// Percent done.
    pub pct: Option<u8>,
    /// One word for the step or the reason.
    pub code: Option<String>,
    /// The reason in words.
    pub reason: Option<String>,
    /// When it last changed, unix milliseconds.
    pub at_ms: i64,
}

/// `GET /api/campaigns`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CampaignList {
    /// The public half of the key that sets the pace; without it the controller takes no campaign.
    #[serde(default)]
    pub pacer: Option<String>,
    /// At most twenty.
    pub campaigns: Vec<Campaign>,
}

/// A campaign and how far it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Campaign {
    /// Its name.
    pub name: String,
    /// Its id, under which boxes answer.
    pub cid: String,
    /// The version it brings.
    pub version: String,
    /// `running`, `halted`, `done`, `over` or `superseded`.
    pub state: String,
    /// Why it is halted.
    pub why: Option<String>,
    /// When the controller took it, unix milliseconds.
    pub at_ms: i64,
    /// When it ends, unix milliseconds.
    pub exp_ms: i64,
    /// Its rings, in order.
    pub rings: Vec<CampaignRing>,
    /// Boxes that failed, each with its reason; at most a hundred.
    pub failed: Vec<OrderBox>,
    /// What boxes answered, ordered by id; at most a thousand.
    #[serde(default)]
    pub answers: Vec<OrderBox>,
}

/// One ring of a campaign.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CampaignRing {
    /// Its name.
    pub name: String,
    /// When it was opened, unix milliseconds; absent while it waits.
    pub opened_ms: Option<i64>,
    /// Boxes in it that the controller knows.
    pub boxes: u64,
    /// Not begun.
    pub waiting: u64,
    /// Under way.
    pub running: u64,
    /// Run the new version.
    pub done: u64,
    /// Failed, or silent for too long.
    pub failed: u64,
    /// Have not been heard of since the ring was opened, or found no quiet moment.
    pub absent: u64,
}

/// Body of `POST /api/claims`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewClaim {
    /// The serial the token is for.
    pub serial: String,
    /// SHA-256 of the token, hex: the controller never learns the token.
    pub token_sha256: String,
    /// The ring the box will be in.
    #[serde(default)]
    pub ring: Option<String>,
    /// Days until it is no longer taken, 1 to 365.
    pub days: u32,
}

/// `GET /api/claims`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimList {
    /// The newest first, at most a thousand.
    pub claims: Vec<Claim>,
}

/// A claim: the right of one machine to become one box.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The machine's serial.
    pub serial: String,
    /// The box it becomes.
    #[serde(rename = "box")]
    pub id: String,
    /// Its ring.
    pub ring: String,
    /// When it was made, unix milliseconds.
    pub at_ms: i64,
    /// When it is no longer taken, unix milliseconds.
    pub exp_ms: i64,
    /// When it was used, unix milliseconds.
    pub used_ms: Option<i64>,
}

/// Body of every answer outside 2xx.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// What was wrong, one sentence.
    pub error: String,
}
