//! What messages say. Every type reads itself from hostile bytes with all checks done: [`crate::strict`]
//! limits first, then shape, then meaning. Unknown fields are ignored, so that newer peers are understood.

mod result;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::event::{Op, Severity, is_event_id};
use crate::name::Epoch;
use crate::registry::{self, Class, METRICS_MAX};
use crate::strict::{self, FROM_BOX_MAX, StrictError, TO_BOX_MAX};

pub use result::{REASON_MAX, Res, Standing};

/// Largest counter that survives every JSON reader: 2⁵³ − 1.
pub const COUNTER_MAX: u64 = (1 << 53) - 1;

/// Why a payload was refused.
#[derive(Debug, thiserror::Error)]
pub enum PayloadError {
    /// Over a limit, or not JSON.
    #[error(transparent)]
    Strict(#[from] StrictError),
    /// JSON of another shape.
    #[error("payload has the wrong shape: {0}")]
    Shape(#[from] serde_json::Error),
    /// A field is out of its range.
    #[error("field `{0}` is out of range")]
    Range(&'static str),
    /// A metric stands in a class it does not belong to, or has the wrong shape.
    #[error("metric `{0}` does not fit its registry row")]
    Metric(String),
}

/// Which boot and connection of a box a message belongs to; larger is later inside one epoch.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Life {
    /// Epoch of the spool.
    pub e: Epoch,
    /// Boot counter.
    pub b: u64,
    /// Connection counter.
    pub n: u64,
}

impl Life {
    /// Whether this is at least as late as `other` and of the same epoch.
    #[must_use]
    pub fn follows(&self, other: &Life) -> bool {
        self.e == other.e && (self.b, self.n) >= (other.b, other.n)
    }
}

/// `…/state`: presence. The Will is the same document with `on: false, why: will`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Payload version, 1.
    pub v: u8,
    /// Here or gone.
    pub on: bool,
    /// Epoch, boot, connection.
    #[serde(flatten)]
    pub life: Life,
    /// Unix milliseconds; absent when the clock was never valid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub t: Option<i64>,
    /// Heartbeat period, seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hb: Option<u32>,
    /// MQTT keepalive, seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ka: Option<u32>,
    /// Why it came or went.
    pub why: Why,
    /// Firmware version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fw: Option<String>,
    /// Rollout ring.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ring: Option<String>,
    /// Mode of work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
}

/// Why a box came or went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Why {
    /// First connection after a boot.
    Boot,
    /// A later connection.
    Reconnect,
    /// Another broker.
    Failover,
    /// A new certificate.
    Cert,
    /// An update.
    Update,
    /// The broker published the Will.
    Will,
    /// Graceful stop.
    Shutdown,
    /// Graceful restart of the machine.
    Reboot,
    /// Sleep.
    Sleep,
}

/// What a box is willing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Work.
    Run,
    /// Finish, take nothing new.
    Drain,
    /// Maintenance.
    Maint,
    /// Safe mode.
    Safe,
    /// Not trusted.
    Quarantine,
}

impl Mode {
    /// As in JSON.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Mode::Run => "run",
            Mode::Drain => "drain",
            Mode::Maint => "maint",
            Mode::Safe => "safe",
            Mode::Quarantine => "quarantine",
        }
    }
}

/// The fields in front of every telemetry message and event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// Payload version, 1.
    pub v: u8,
    /// Epoch, boot, connection. A message from the spool keeps the boot it was written in.
    #[serde(flatten)]
    pub life: Life,
    /// Sequence inside the class.
    pub q: u64,
    /// Sequence of the durable record before this one, when it is not `q − 1`: what lies between does not exist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pq: Option<u64>,
    /// Unix milliseconds; absent when the clock was never valid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub t: Option<i64>,
    /// Milliseconds since boot.
    pub u: u64,
    /// Clock quality: 0 none, 1 last-known floor, 2 NTP, 3 authenticated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tq: Option<u8>,
    /// 1 when backfilled from the spool: must not move live gauges.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub h: Option<u8>,
}

impl Envelope {
    /// The sequence that must be stored before this record closes a row.
    #[must_use]
    pub fn previous(&self) -> u64 {
        self.pq.unwrap_or_else(|| self.q.saturating_sub(1))
    }

    fn check(&self) -> Result<(), PayloadError> {
        version(self.v)?;
        life(&self.life)?;
        range("q", self.q <= COUNTER_MAX)?;
        range("pq", self.pq.is_none_or(|pq| pq < self.q))?;
        range("u", self.u <= COUNTER_MAX)?;
        range("tq", self.tq.is_none_or(|tq| tq <= 3))?;
        range("h", self.h.is_none_or(|h| h == 1))
    }
}

/// `…/tele/<class>`: metrics.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tele {
    /// Common fields.
    #[serde(flatten)]
    pub envelope: Envelope,
    /// Metric key to value.
    pub m: Map<String, Value>,
}

/// `…/event/<severity>`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Common fields.
    #[serde(flatten)]
    pub envelope: Envelope,
    /// What happened.
    #[serde(flatten)]
    pub body: EventBody,
}

/// An event without its envelope: what the spool keeps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventBody {
    /// Id of the runbook.
    pub id: String,
    /// Raise, clear or occur.
    pub op: Op,
    /// How bad.
    pub sev: Severity,
    /// Which instance; one alarm is open per id and instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inst: Option<String>,
    /// Measured value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub val: Option<Value>,
    /// The limit it was held against.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lim: Option<Value>,
    /// How often since the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cnt: Option<u64>,
    /// What the box did by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub act: Option<String>,
    /// Context, at most 16 keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ctx: Option<Map<String, Value>>,
}

/// `…/info`: birth certificate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Info {
    /// Payload version, 1.
    pub v: u8,
    /// Epoch, boot, connection.
    #[serde(flatten)]
    pub life: Life,
    /// Unix milliseconds; absent when the clock was never valid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub t: Option<i64>,
    /// Firmware version.
    pub fw: String,
    /// Hash of the metric registry.
    pub reg: String,
    /// Hardware: free-form, at most 32 keys.
    pub hw: Map<String, Value>,
    /// What the node can do: free-form, at most 32 keys.
    pub caps: Map<String, Value>,
}

/// `…/ack`: what the controller has stored for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ack {
    /// Payload version, 1.
    pub v: u8,
    /// Epoch it speaks of; any other is ignored.
    pub e: Epoch,
    /// Ledger records up to this one.
    #[serde(rename = "L", default, skip_serializing_if = "Option::is_none")]
    pub ledger: Option<u64>,
    /// Events up to this one.
    #[serde(rename = "A", default, skip_serializing_if = "Option::is_none")]
    pub events: Option<u64>,
    /// Earnings up to this one.
    #[serde(rename = "E", default, skip_serializing_if = "Option::is_none")]
    pub earnings: Option<u64>,
    /// Which controller.
    pub srv: String,
}

/// `…/_ctl/<name>`: a controller's presence and policy hints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ctl {
    /// Payload version, 1.
    pub v: u8,
    /// Here or gone.
    pub on: bool,
    /// Which controller.
    pub srv: String,
    /// Counts its connections; a new number means it may have missed something.
    pub n: u64,
    /// Reconnect window W, seconds, 5 to 3600.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub w: Option<u32>,
}

/// A durable class of the spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Durable {
    /// Ledger steps.
    #[serde(rename = "L")]
    Ledger,
    /// Events.
    #[serde(rename = "A")]
    Events,
    /// Earnings snapshots.
    #[serde(rename = "E")]
    Earnings,
}

impl Durable {
    /// Every durable class, in drain order (events of severity `crit` go before all).
    pub const ALL: [Durable; 3] = [Durable::Ledger, Durable::Events, Durable::Earnings];

    /// The letter used in acknowledgements and on disk.
    #[must_use]
    pub fn letter(self) -> &'static str {
        match self {
            Durable::Ledger => "L",
            Durable::Events => "A",
            Durable::Earnings => "E",
        }
    }

    /// The class of a letter.
    #[must_use]
    pub fn parse(letter: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.letter() == letter)
    }
}

impl Ack {
    /// What it says of one class.
    #[must_use]
    pub fn of(&self, class: Durable) -> Option<u64> {
        match class {
            Durable::Ledger => self.ledger,
            Durable::Events => self.events,
            Durable::Earnings => self.earnings,
        }
    }

    /// Read from bytes the broker delivered to a box.
    ///
    /// # Errors
    /// [`PayloadError`] when malformed or out of range.
    pub fn parse(bytes: &[u8]) -> Result<Self, PayloadError> {
        let ack: Ack = read(bytes, TO_BOX_MAX)?;
        version(ack.v)?;
        range("srv", ack.srv.len() <= 64)?;
        range("q", Durable::ALL.iter().all(|class| ack.of(*class).is_none_or(|q| q <= COUNTER_MAX)))?;
        Ok(ack)
    }
}

impl Ctl {
    /// Read from bytes the broker delivered to a box; a window outside its range is clamped, it is only a hint.
    ///
    /// # Errors
    /// [`PayloadError`] when malformed or out of range.
    pub fn parse(bytes: &[u8]) -> Result<Self, PayloadError> {
        let mut ctl: Ctl = read(bytes, TO_BOX_MAX)?;
        version(ctl.v)?;
        range("srv", ctl.srv.len() <= 64)?;
        range("n", ctl.n <= COUNTER_MAX)?;
        ctl.w = ctl.w.map(|w| w.clamp(5, 3600));
        Ok(ctl)
    }
}

impl State {
    /// Read from bytes the broker delivered to a controller.
    ///
    /// # Errors
    /// [`PayloadError`] when malformed or out of range.
    pub fn parse(bytes: &[u8]) -> Result<Self, PayloadError> {
        let state: State = read(bytes, FROM_BOX_MAX)?;
        version(state.v)?;
        life(&state.life)?;
        range("hb", state.hb.is_none_or(|hb| (1..=3600).contains(&hb)))?;
        range("ka", state.ka.is_none_or(|ka| (5..=3600).contains(&ka)))?;
        range("fw", state.fw.as_ref().is_none_or(|fw| fw.len() <= 32))?;
        range("ring", state.ring.as_ref().is_none_or(|ring| ring.len() <= 24))?;
        Ok(state)
    }
}

impl Info {
    /// Read from bytes the broker delivered to a controller.
    ///
    /// # Errors
    /// [`PayloadError`] when malformed or out of range.
    pub fn parse(bytes: &[u8]) -> Result<Self, PayloadError> {
        let info: Info = read(bytes, FROM_BOX_MAX)?;
        version(info.v)?;
        life(&info.life)?;
        range("fw", info.fw.len() <= 32)?;
        range("reg", info.reg.len() <= 64)?;
        range("hw", info.hw.len() <= 32)?;
        range("caps", info.caps.len() <= 32)?;
        Ok(info)
    }
}

impl Tele {
    /// Read from bytes the broker delivered to a controller; also how many metrics were dropped because this version
    /// does not know their names.
    ///
    /// # Errors
    /// [`PayloadError`] when malformed, out of range, or when a known metric has the wrong shape or class.
    pub fn parse(class: Class, bytes: &[u8]) -> Result<(Self, usize), PayloadError> {
        let mut tele: Tele = read(bytes, FROM_BOX_MAX)?;
        let unknown = tele.check(class)?;
        Ok((tele, unknown))
    }

    /// Hold every metric against the registry and drop the unknown ones.
    ///
    /// # Errors
    /// As [`Tele::parse`].
    pub fn check(&mut self, class: Class) -> Result<usize, PayloadError> {
        self.envelope.check()?;
        range("m", (1..=METRICS_MAX).contains(&self.m.len()))?;
        let before = self.m.len();
        let mut bad = None;
        self.m.retain(|key, value| match registry::metric(key) {
            None => {
                if !is_metric_key(key) {
                    bad = Some(key.clone());
                }
                false
            }
            Some(metric) => {
                if !(registry::belongs(metric, class) && registry::fits(metric, value)) {
                    bad = Some(key.clone());
                }
                true
            }
        });
        match bad {
            Some(key) => Err(PayloadError::Metric(key.chars().take(16).collect())),
            None => Ok(before - self.m.len()),
        }
    }
}

impl Event {
    /// Read from bytes the broker delivered to a controller.
    ///
    /// # Errors
    /// [`PayloadError`] when malformed or out of range.
    pub fn parse(bytes: &[u8]) -> Result<Self, PayloadError> {
        let event: Event = read(bytes, FROM_BOX_MAX)?;
        event.envelope.check()?;
        event.body.check()?;
        Ok(event)
    }
}

impl EventBody {
    /// An event of this id with nothing else said.
    #[must_use]
    pub fn new(id: &str, op: Op, sev: Severity) -> Self {
        Self { id: id.to_owned(), op, sev, inst: None, val: None, lim: None, cnt: None, act: None, ctx: None }
    }

    fn check(&self) -> Result<(), PayloadError> {
        let scalar = |v: &Option<Value>| v.as_ref().is_none_or(|v| v.is_number() || v.is_string());
        range("id", is_event_id(&self.id))?;
        range("inst", self.inst.as_ref().is_none_or(|inst| inst.len() <= 32))?;
        range("val", scalar(&self.val))?;
        range("lim", scalar(&self.lim))?;
        range("cnt", self.cnt.is_none_or(|cnt| (1..=COUNTER_MAX).contains(&cnt)))?;
        range("act", self.act.as_ref().is_none_or(|act| act.len() <= 32))?;
        range("ctx", self.ctx.as_ref().is_none_or(|ctx| ctx.len() <= 16))
    }
}

/// `[a-z][a-z0-9]{0,5}`.
fn is_metric_key(text: &str) -> bool {
    (1..=6).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

fn read<T: DeserializeOwned>(bytes: &[u8], limit: usize) -> Result<T, PayloadError> {
    Ok(serde_json::from_value(strict::parse(bytes, limit)?)?)
}

fn version(v: u8) -> Result<(), PayloadError> {
    range("v", v == 1)
}

fn life(life: &Life) -> Result<(), PayloadError> {
    range("b", life.b <= COUNTER_MAX)?;
    range("n", life.n <= COUNTER_MAX)
}

fn range(field: &'static str, holds: bool) -> Result<(), PayloadError> {
    if holds { Ok(()) } else { Err(PayloadError::Range(field)) }
}

#[cfg(test)]
mod tests;
