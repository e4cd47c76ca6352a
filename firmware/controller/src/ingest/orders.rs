//! Orders and campaigns on their way: the controller carries what others signed, byte for byte, until every box has an end
//! of it. It signs one thing only, the pace of a campaign, with a key that can do nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::SigningKey;
use fleet_protocol::campaign::pacer::{self, Step};
use fleet_protocol::campaign::{Campaign, Pace, Rolling};
use fleet_protocol::command::{Command, DECOMMISSION, UPDATE};
use fleet_protocol::dsse::{self, COMMAND, PACE};
use fleet_protocol::payload::{Life, Res, Standing};
use fleet_protocol::presence::Presence;
use fleet_protocol::topic::GroupDocument;
use fleet_protocol::{BoxId, FleetId, Leaf, Topic};
use zeroize::Zeroizing;

use super::ask::AskError;
use super::{Ingest, Output, send};
use crate::store::{Batch, OrderAt, Store, StoreError};

/// Orders that are carried at once.
const LIVE_MAX: usize = 256;
/// An order that a box has begun is asked after for so long, milliseconds: a week.
const ASKED_AFTER_MS: i64 = 7 * 86_400_000;
/// How often a campaign's pace is looked at.
const PACE_EVERY: Duration = Duration::from_secs(1);
/// Messages of orders in one step; the others come with the next.
const SENDS_MAX: usize = 64;

/// The key that sets the pace.
pub(crate) struct Pacer {
    key: SigningKey,
}

impl std::fmt::Debug for Pacer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pacer([redacted])")
    }
}

/// The key file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PacerError {
    #[error("pacer key {0} cannot be read")]
    Read(std::path::PathBuf, #[source] std::io::Error),
    #[error("pacer key {0} can be read by others: chmod 600")]
    Open(std::path::PathBuf),
    #[error("pacer key {0} is no key of `millrace release key`")]
    Shape(std::path::PathBuf),
}

impl Pacer {
    pub(crate) fn read(path: &Path) -> Result<Self, PacerError> {
        use std::os::unix::fs::PermissionsExt as _;
        let unread = |error| PacerError::Read(path.to_owned(), error);
        if std::fs::metadata(path).map_err(unread)?.permissions().mode() & 0o077 != 0 {
            return Err(PacerError::Open(path.to_owned()));
        }
        let text = Zeroizing::new(std::fs::read(path).map_err(unread)?);
        let shape = || PacerError::Shape(path.to_owned());
        let seed = Zeroizing::new(BASE64.decode(text.trim_ascii()).map_err(|_| shape())?);
        Ok(Self { key: SigningKey::from_bytes(seed.as_slice().try_into().map_err(|_| shape())?) })
    }

    fn public(&self) -> String {
        BASE64.encode(self.key.verifying_key().as_bytes())
    }

    fn sign(&self, pace: &Pace) -> Vec<u8> {
        let body = serde_json::to_vec(pace).expect("a pace is always json");
        dsse::sign(PACE, &body, &self.key).expect("an envelope is always json")
    }
}

/// An order that some box has no end of.
#[derive(Debug)]
struct Live {
    envelope: Vec<u8>,
    command: Command,
    boxes: BTreeMap<BoxId, OrderAt>,
    /// For which life of a box it was sent on this connection.
    sent: BTreeMap<BoxId, Life>,
}

/// The campaign that is under way.
#[derive(Debug)]
struct Rolled {
    envelope: Vec<u8>,
    plan: Campaign,
    pace: Pace,
    state: &'static str,
    sent: bool,
}

/// Everything that is carried.
#[derive(Debug)]
pub(super) struct Carried {
    orders: BTreeMap<String, Live>,
    campaign: Option<Rolled>,
    pacer: Option<Pacer>,
    /// Orders whose rows changed in the transaction under way.
    touched: BTreeSet<String>,
    looked: Option<Duration>,
}

const STATES: [&str; 5] = ["running", "halted", "done", "over", "superseded"];

impl Carried {
    pub(super) fn load(store: &Store, pacer: Option<Pacer>, now_ms: i64) -> Result<Self, StoreError> {
        let mut carried =
            Self { orders: BTreeMap::new(), campaign: None, pacer, touched: BTreeSet::new(), looked: None };
        let most = u32::try_from(LIVE_MAX).unwrap_or(u32::MAX);
        for (cid, _, envelope) in store.orders(now_ms - 2 * ASKED_AFTER_MS, most)? {
            if let Ok(command) = Command::unverified(&envelope) {
                let boxes = store.order_boxes(&cid)?.into_iter().collect();
                carried.orders.insert(cid, Live { envelope, command, boxes, sent: BTreeMap::new() });
            }
        }
        if let Some((_, envelope, pace, state)) = store.campaign()?
            && let (Ok(plan), Ok(pace)) = (Campaign::unverified(&envelope), serde_json::from_str(&pace))
        {
            let state = STATES.into_iter().find(|known| **known == state).unwrap_or("over");
            carried.campaign = Some(Rolled { envelope, plan, pace, state, sent: false });
        }
        Ok(carried)
    }

    pub(super) fn pacer(&self) -> Option<String> {
        self.pacer.as_ref().map(Pacer::public)
    }

    /// A new connection to the broker: everything is said again.
    pub(super) fn unsent(&mut self) {
        self.orders.values_mut().for_each(|live| live.sent.clear());
        if let Some(rolled) = &mut self.campaign {
            rolled.sent = false;
        }
    }

    /// Takes an order for its boxes; durable on return.
    pub(super) fn take(
        &mut self,
        store: &mut Store,
        fleet: &FleetId,
        envelope: &[u8],
        known: &[(BoxId, FleetId)],
        now_ms: i64,
    ) -> Result<String, AskError> {
        let command = Command::unverified(envelope).map_err(|error| AskError::Bad(service::with_causes(&error)))?;
        let bad = |text: String| Err(AskError::Bad(text));
        if command.aud.fleet != *fleet {
            return bad(format!("the order is for fleet {}, this is {fleet}", command.aud.fleet));
        }
        if ![UPDATE, DECOMMISSION].contains(&command.op.as_str()) {
            return bad(format!("no box knows the order {:?}", command.op));
        }
        if command.exp <= now_ms {
            return bad("the order's time is over".to_owned());
        }
        let named = command.aud.boxes.iter().flatten();
        if let Some(stranger) = named.clone().find(|id| !known.iter().any(|(known, _)| known == *id)) {
            return bad(format!("no box {stranger} is known, or it has left the fleet"));
        }
        let cid = command.cid.clone();
        if let Some(live) = self.orders.get(&cid) {
            let body = dsse::unverified(envelope, COMMAND).map_err(|error| AskError::Bad(error.to_string()))?.body;
            if !dsse::carries(&live.envelope, COMMAND, &body) {
                return Err(AskError::Conflict("there is another order of this id".to_owned()));
            }
            if live.envelope != envelope {
                let batch = store.batch()?;
                batch.order_again(&cid, envelope, now_ms)?;
                batch.commit()?;
                self.reload(store, &cid)?;
                if let Some(live) = self.orders.get_mut(&cid) {
                    live.envelope = envelope.to_vec();
                    live.sent.clear();
                }
            }
            return Ok(cid);
        }
        if self.orders.len() >= LIVE_MAX {
            return Err(AskError::Busy(format!("{LIVE_MAX} orders are under way: wait for an end of one")));
        }
        let meant: Vec<&BoxId> =
            known.iter().filter(|(id, ring)| command.reaches(id, ring)).map(|(id, _)| id).collect();
        if meant.is_empty() {
            return bad("no box of this fleet is meant by the order".to_owned());
        }
        let batch = store.batch()?;
        batch.order(&cid, &command.op, now_ms, command.exp, envelope)?;
        for id in &meant {
            batch.order_for(&cid, id, now_ms)?;
        }
        batch.commit()?;
        tracing::info!(cid, op = command.op, boxes = meant.len(), "order is carried");
        let boxes = store.order_boxes(&cid)?.into_iter().collect();
        self.orders.insert(cid.clone(), Live { envelope: envelope.to_vec(), command, boxes, sent: BTreeMap::new() });
        Ok(cid)
    }

    /// Begins a campaign; the one before it is superseded. Durable on return.
    pub(super) fn begin(
        &mut self,
        store: &mut Store,
        fleet: &FleetId,
        envelope: &[u8],
        now_ms: i64,
    ) -> Result<String, AskError> {
        let plan = Campaign::unverified(envelope).map_err(|error| AskError::Bad(service::with_causes(&error)))?;
        let bad = |text: String| Err(AskError::Bad(text));
        let Some(own) = self.pacer() else {
            return bad("this controller has no [campaigns] pacer_key".to_owned());
        };
        if plan.pacer != own {
            return bad(format!("the campaign names another pacer than this controller's, {own}"));
        }
        if plan.fleet != *fleet {
            return bad(format!("the campaign is for fleet {}, this is {fleet}", plan.fleet));
        }
        if plan.exp <= now_ms {
            return bad("the campaign's time is over".to_owned());
        }
        if let Some(rolled) = self.campaign.as_ref().filter(|rolled| rolled.plan.cid == plan.cid) {
            let name = rolled.plan.name.to_string();
            return if rolled.plan == plan { Ok(name) } else { Err(AskError::Conflict("its id is taken".to_owned())) };
        }
        let pace = Pace::new(&plan.cid);
        let text = serde_json::to_string(&pace).expect("a pace is always json");
        let batch = store.batch()?;
        if let Some(before) = &self.campaign {
            let text = serde_json::to_string(&before.pace).expect("a pace is always json");
            batch.campaign_now(before.plan.name.as_str(), &text, "superseded")?;
        }
        let name = plan.name.to_string();
        match batch.campaign(&name, &plan.cid, now_ms, envelope, &text).and_then(|()| batch.commit()) {
            Err(StoreError::Sqlite(error))
                if error.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation) =>
            {
                return Err(AskError::Conflict(format!("there was a campaign {name} already")));
            }
            done => done?,
        }
        tracing::info!(campaign = name, version = %plan.version, "campaign begins");
        self.campaign = Some(Rolled { envelope: envelope.to_vec(), plan, pace, state: "running", sent: false });
        self.looked = None;
        Ok(name)
    }

    /// A person halts the campaign or lets it go on. Durable on return.
    pub(super) fn pace(
        &mut self,
        store: &mut Store,
        name: &str,
        halt: Option<&str>,
        now_ms: i64,
    ) -> Result<(), AskError> {
        let rolled = self.campaign.as_ref().filter(|rolled| rolled.plan.name.as_str() == name);
        let Some(rolled) = rolled else {
            return Err(AskError::Unknown(format!("no campaign {name} is under way")));
        };
        let next = match (halt, rolled.pace.halt) {
            (Some(_), true) | (None, false) => return Ok(()),
            (Some(why), false) => pacer::halted(&rolled.pace, why),
            (None, true) => pacer::resumed(&rolled.pace, now_ms),
        };
        Ok(self.set(store, next)?)
    }

    fn set(&mut self, store: &mut Store, next: Pace) -> Result<(), StoreError> {
        let Some(rolled) = &mut self.campaign else { return Ok(()) };
        let state = if next.halt { "halted" } else { "running" };
        let text = serde_json::to_string(&next).expect("a pace is always json");
        let batch = store.batch()?;
        batch.campaign_now(rolled.plan.name.as_str(), &text, state)?;
        batch.commit()?;
        let Pace { n, halt, why, opened, .. } = &next;
        tracing::info!(campaign = %rolled.plan.name, n, halt, why, rings = opened.len(), "pace is set");
        (rolled.pace, rolled.state, rolled.sent) = (next, state, false);
        Ok(())
    }

    /// A box is there: orders that came while nobody knew it, and those it has no end of.
    pub(super) fn born(
        &mut self,
        batch: &Batch<'_>,
        id: &BoxId,
        ring: Option<&FleetId>,
        now_ms: i64,
    ) -> Result<(), StoreError> {
        let Some(ring) = ring else { return Ok(()) };
        for (cid, live) in &self.orders {
            let fresh = !live.boxes.contains_key(id) && live.command.exp > now_ms;
            if fresh && live.command.reaches(id, ring) {
                batch.order_for(cid, id, now_ms)?;
                self.touched.insert(cid.clone());
            }
        }
        Ok(())
    }

    /// A box answers: to an order it was given, or within the campaign.
    pub(super) fn result(&mut self, batch: &Batch<'_>, id: &BoxId, res: &Res, now_ms: i64) -> Result<(), StoreError> {
        let ordered = self.orders.get(&res.cid).is_some_and(|live| live.boxes.contains_key(id));
        let rolled = self.campaign.as_ref().is_some_and(|rolled| rolled.plan.cid == res.cid);
        if !ordered && !rolled {
            return Ok(());
        }
        if ordered {
            self.touched.insert(res.cid.clone());
        }
        batch.order_result(id, res, now_ms)
    }

    /// The transaction is over, well or not: only what is stored counts.
    pub(super) fn settle(&mut self, store: &Store) {
        for cid in std::mem::take(&mut self.touched) {
            if let Err(error) = self.reload(store, &cid) {
                tracing::error!(%error, cid, "order's boxes could not be read");
            }
        }
    }

    fn reload(&mut self, store: &Store, cid: &str) -> Result<(), StoreError> {
        if let Some(live) = self.orders.get_mut(cid) {
            live.boxes = store.order_boxes(cid)?.into_iter().collect();
        }
        Ok(())
    }

    /// Ends what nobody began in its time, and forgets what has its end everywhere.
    fn expire(&mut self, store: &mut Store, now_ms: i64) -> Result<(), StoreError> {
        let late: Vec<(String, BoxId)> = self
            .orders
            .iter()
            .filter(|(_, live)| live.command.exp < now_ms)
            .flat_map(|(cid, live)| {
                let unanswered = live.boxes.iter().filter(|(_, at)| at.st.is_none());
                unanswered.map(|(id, _)| (cid.clone(), id.clone()))
            })
            .collect();
        if !late.is_empty() {
            let batch = store.batch()?;
            for (cid, id) in &late {
                batch.order_expired(cid, id, now_ms)?;
                self.touched.insert(cid.clone());
            }
            batch.commit()?;
            self.settle(store);
        }
        self.orders.retain(|_, live| {
            let open = live.boxes.values().any(|at| at.st.is_none_or(|st| !st.is_final()));
            let asked = now_ms < live.command.exp.saturating_add(ASKED_AFTER_MS);
            // A box that is enrolled while it holds may still be meant.
            now_ms < live.command.exp || (open && asked)
        });
        Ok(())
    }

    /// What the campaign's boxes say decides how it goes on.
    fn keep_pace(&mut self, store: &mut Store, now_ms: i64) -> Result<(), StoreError> {
        let Some(rolled) = self.campaign.as_mut().filter(|rolled| rolled.state == "running") else { return Ok(()) };
        let ended = if now_ms > rolled.plan.exp {
            Some("over")
        } else {
            let known = store.known(&rolled.plan.cid)?;
            match pacer::step(&rolled.plan, &rolled.pace, &known, now_ms) {
                Step::Stay => None,
                Step::Set(next) => return self.set(store, next),
                Step::Done => Some("done"),
            }
        };
        if let Some(state) = ended {
            let text = serde_json::to_string(&rolled.pace).expect("a pace is always json");
            let batch = store.batch()?;
            batch.campaign_now(rolled.plan.name.as_str(), &text, state)?;
            batch.commit()?;
            tracing::info!(campaign = %rolled.plan.name, state, "campaign ended");
            rolled.state = state;
        }
        Ok(())
    }
}

impl Ingest {
    /// Brings orders and the campaign forward: ends, pace, and what has to be said.
    pub(super) fn carry(&mut self, now: Duration, now_ms: i64) {
        if self.carried.looked.is_none_or(|looked| now.saturating_sub(looked) >= PACE_EVERY) {
            self.carried.looked = Some(now);
            let kept = self.carried.expire(&mut self.store, now_ms);
            if let Err(error) = kept.and_then(|()| self.carried.keep_pace(&mut self.store, now_ms)) {
                tracing::error!(%error, "orders could not be brought forward");
            }
        }
        if !self.connected {
            return;
        }
        let mut sends = SENDS_MAX;
        for live in self.carried.orders.values_mut() {
            for (id, at) in &live.boxes {
                let Some(tracked) = self.boxes.get(id) else { continue };
                let over = at.st.is_some_and(Standing::is_final);
                let Some(life) = tracked.presence.life().filter(|_| tracked.presence.state() == Presence::Online)
                else {
                    continue;
                };
                if over || live.sent.get(id) == Some(life) || sends == 0 {
                    continue;
                }
                let topic = Topic::of_box(&self.config.fleet, id, Leaf::Command(live.command.op.clone())).to_string();
                let left = u32::try_from(live.command.exp.saturating_sub(now_ms) / 1000).unwrap_or(60).max(60);
                let output = Output { topic, payload: live.envelope.clone(), retain: false, expiry: Some(left) };
                if !send(&self.out, output) {
                    return;
                }
                live.sent.insert(id.clone(), life.clone());
                sends -= 1;
            }
        }
        let (Some(rolled), Some(pacer)) = (&mut self.carried.campaign, &self.carried.pacer) else { return };
        if rolled.sent || rolled.state == "superseded" || rolled.pace.opened.is_empty() {
            return;
        }
        let group = FleetId::new("all").expect("`all` is a name");
        let topic = Topic::Group { fleet: self.config.fleet.clone(), group, document: GroupDocument::Roll };
        match Rolling::message(&rolled.envelope, &pacer.sign(&rolled.pace)) {
            Ok(payload) => {
                let output = Output { topic: topic.to_string(), payload, retain: true, expiry: None };
                rolled.sent = send(&self.out, output);
            }
            Err(error) => tracing::error!(%error, "campaign cannot be published"),
        }
    }
}
