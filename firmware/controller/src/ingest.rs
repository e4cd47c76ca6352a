//! From bytes off the broker to committed rows: the one thread that decides and writes.
//!
//! A message is bound to an enrolled box, held against its limits, parsed strictly, laid into a transaction; after the
//! commit, and only then, the box is told (`ack`). What the store refuses is not acknowledged, so the box keeps it.

mod ask;
mod boxes;
mod claims;
mod orders;

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fleet_protocol::event::{Op, Severity, id};
use fleet_protocol::payload::{Ack, Ctl, Durable, Event, EventBody, Info, PayloadError, Res, State, Tele};
use fleet_protocol::presence::{self, Presence};
use fleet_protocol::registry::Class;
use fleet_protocol::{BoxId, FleetId, Leaf, Topic};
use tokio::sync::mpsc;

use crate::config::Config;
use crate::cursor::Verdict;
use crate::store::{Batch, Key, Store, StoreError};
pub(crate) use ask::{Ask, AskError, Told};
use boxes::Tracked;
pub(crate) use boxes::View;
pub(crate) use claims::{Issuer, IssuerError};
use orders::Carried;
pub(crate) use orders::{Pacer, PacerError};

/// Messages between the broker link and this thread; a full queue drops, and what is durable comes again.
pub(crate) const QUEUE: usize = 4096;
/// Messages in one transaction.
const BATCH: usize = 256;
/// How often time passes for presence, gaps and acknowledgements.
const TICK: Duration = Duration::from_millis(250);
/// How often old rows are forgotten.
const PRUNE_EVERY: Duration = Duration::from_secs(3600);

/// What reaches this thread.
#[derive(Debug)]
pub(crate) enum Input {
    /// A message.
    Message { topic: Vec<u8>, payload: Vec<u8>, retain: bool },
    /// The broker granted our subscriptions.
    Connected,
    /// The broker is gone: we are blind.
    Lost,
    /// Somebody wants something done.
    Ask(Box<Ask>, tokio::sync::oneshot::Sender<Result<Told, AskError>>),
}

/// A message to send.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) retain: bool,
    /// Seconds after which the broker may forget it.
    pub(crate) expiry: Option<u32>,
}

/// What the API sees of this thread.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    pub(crate) connected: bool,
    pub(crate) store_ok: bool,
    pub(crate) boxes: BTreeMap<BoxId, View>,
    pub(crate) counters: Counters,
    /// The public half of the key that sets the pace.
    pub(crate) pacer: Option<String>,
}

/// What the controller signs with: never an order.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    /// Sets the pace of campaigns.
    pub(crate) pacer: Option<Pacer>,
    /// Certifies boxes.
    pub(crate) issuer: Option<Issuer>,
}

/// Totals since start.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Counters {
    pub(crate) messages: u64,
    pub(crate) malformed: u64,
    pub(crate) foreign: u64,
    pub(crate) limited: u64,
    pub(crate) duplicates: u64,
}

/// The ingesting thread.
#[derive(Debug)]
pub(crate) struct Ingest {
    config: Config,
    store: Store,
    out: mpsc::Sender<Output>,
    shared: Arc<Mutex<Shared>>,
    boxes: BTreeMap<BoxId, Tracked>,
    counters: Counters,
    connected: bool,
    store_ok: bool,
    start: Instant,
    pruned: Option<Instant>,
    carried: Carried,
    claims: claims::Claims,
}

/// Why a message was not taken.
#[derive(Debug)]
enum Refusal {
    Payload(PayloadError),
    Store(StoreError),
}

impl From<PayloadError> for Refusal {
    fn from(error: PayloadError) -> Self {
        Self::Payload(error)
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Ingest {
    /// Load what is known and enrol the listed boxes.
    pub(crate) fn new(
        config: Config,
        mut store: Store,
        keys: Keys,
        out: mpsc::Sender<Output>,
        shared: Arc<Mutex<Shared>>,
    ) -> Result<Self, StoreError> {
        let now_ms = wall_ms();
        let batch = store.batch()?;
        for enrolled in &config.boxes {
            batch.enrol(&enrolled.id, &config.fleet, now_ms)?;
        }
        batch.commit()?;
        let boxes = store.boxes()?.into_iter().map(|known| (known.id.clone(), Tracked::known(known))).collect();
        let carried = Carried::load(&store, keys.pacer, now_ms)?;
        let claims = claims::Claims::new(keys.issuer);
        let ingest = Self {
            carried,
            claims,
            config,
            store,
            out,
            shared,
            boxes,
            counters: Counters::default(),
            connected: false,
            store_ok: true,
            start: Instant::now(),
            pruned: None,
        };
        ingest.publish_view();
        Ok(ingest)
    }

    /// Run until the queue is closed; everything taken is committed on return.
    pub(crate) fn run(mut self, inputs: &Receiver<Input>) {
        loop {
            let mut batch = Vec::new();
            match inputs.recv_timeout(TICK) {
                Ok(input) => batch.push(input),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            while batch.len() < BATCH
                && let Ok(input) = inputs.try_recv()
            {
                batch.push(input);
            }
            self.step(batch, self.start.elapsed(), wall_ms());
        }
    }

    /// One batch and one tick of time: everything in one transaction, then the acknowledgements.
    pub(crate) fn step(&mut self, inputs: Vec<Input>, now: Duration, now_ms: i64) {
        let (asks, inputs) = inputs.into_iter().partition::<Vec<_>, _>(|input| matches!(input, Input::Ask(..)));
        match self.transact(inputs, now, now_ms) {
            Ok(()) => {
                if !std::mem::replace(&mut self.store_ok, true) {
                    tracing::info!("database takes records again");
                }
                for tracked in self.boxes.values_mut() {
                    tracked.fresh = false;
                }
                self.acknowledge(now);
                self.carried.settle(&self.store);
            }
            Err(error) => {
                if std::mem::replace(&mut self.store_ok, false) {
                    tracing::error!(%error, "database refused a batch: nothing of it was acknowledged; free its disk");
                }
                // What was counted as stored is not: believe only the database.
                for tracked in self.boxes.values_mut() {
                    tracked.forget_cursors();
                }
                self.carried.settle(&self.store);
            }
        }
        for ask in asks {
            if let Input::Ask(ask, reply) = ask {
                // Who asked may have gone.
                let _ = reply.send(self.answer(*ask, now, now_ms));
            }
        }
        self.carry(now, now_ms);
        self.ask(now);
        self.prune(now_ms);
        self.publish_view();
    }

    fn transact(&mut self, inputs: Vec<Input>, now: Duration, now_ms: i64) -> Result<(), StoreError> {
        let Self { config, store, out, boxes, counters, connected, carried, .. } = self;
        // Cursors are read before the transaction borrows the store.
        for input in &inputs {
            if let Input::Message { topic, .. } = input
                && let Some((id, _)) = own_topic(config, topic)
                && let Some(tracked) = boxes.get_mut(&id)
            {
                tracked.load_cursors(store, &id)?;
            }
        }
        let number = if inputs.iter().any(|input| matches!(input, Input::Connected)) {
            Some(store.next_connection()?)
        } else {
            None
        };
        let batch = store.batch()?;
        let mut work = Work { config, batch: &batch, boxes, counters, carried, now, now_ms };
        for input in inputs {
            match input {
                Input::Connected => {
                    *connected = true;
                    work.carried.unsent();
                    let n = number.unwrap_or(0);
                    let ctl =
                        Ctl { v: 1, on: true, srv: work.config.name.to_string(), n, w: Some(work.config.window_s) };
                    send(out, presence_message(work.config, &ctl));
                    tracing::info!(n, "controller hears its fleet");
                }
                Input::Lost => {
                    *connected = false;
                    work.every_box(|| presence::Event::Blind)?;
                }
                Input::Message { topic, payload, retain } => work.message(&topic, &payload, retain)?,
                Input::Ask(..) => {}
            }
        }
        if *connected {
            work.every_box(|| presence::Event::Tick)?;
        }
        work.watch()?;
        batch.commit()
    }

    /// Tell every box what has been committed, when it is time.
    fn acknowledge(&mut self, now: Duration) {
        let every = Duration::from_secs(self.config.ack_s.into());
        for (id, tracked) in &mut self.boxes {
            let Some((epoch, cursors)) = tracked.due_acknowledgement(now, every, self.config.ack_records.into()) else {
                continue;
            };
            let of = |class| cursors.get(&class).copied().filter(|stored| *stored > 0);
            let ack = Ack {
                v: 1,
                e: epoch,
                ledger: of(Durable::Ledger),
                events: of(Durable::Events),
                earnings: of(Durable::Earnings),
                srv: self.config.name.to_string(),
            };
            let sent = send(&self.out, to_box(&self.config, id, Leaf::Ack, &ack, Some(3600)));
            if sent {
                tracked.acknowledged(cursors, now);
            }
        }
    }

    /// Ask for what is missing: a hole that did not close, or a birth we never saw.
    fn ask(&mut self, now: Duration) {
        if !self.connected {
            return;
        }
        let reorder = Duration::from_secs(self.config.reorder_s.into());
        let every = Duration::from_secs(self.config.rebirth_s.into());
        for (id, tracked) in &mut self.boxes {
            if tracked.wants_rebirth(now, reorder, every) {
                let leaf = Leaf::Command("rebirth".to_owned());
                let empty = serde_json::Map::new();
                send(&self.out, to_box(&self.config, id, leaf, &empty, Some(self.config.rebirth_s)));
            }
        }
    }

    fn prune(&mut self, now_ms: i64) {
        if self.pruned.is_some_and(|at| at.elapsed() < PRUNE_EVERY) {
            return;
        }
        self.pruned = Some(Instant::now());
        let before = now_ms - i64::from(self.config.keep_days) * 24 * 3600 * 1000;
        if let Err(error) = self.store.prune(before) {
            tracing::warn!(%error, "old rows could not be removed");
        }
    }

    fn publish_view(&self) {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared.connected = self.connected;
        shared.store_ok = self.store_ok;
        shared.counters = self.counters;
        shared.pacer = self.carried.pacer();
        for (id, tracked) in &self.boxes {
            shared.boxes.insert(id.clone(), tracked.view(self.start));
        }
    }
}

/// One transaction's worth of work.
struct Work<'a> {
    config: &'a Config,
    batch: &'a Batch<'a>,
    boxes: &'a mut BTreeMap<BoxId, Tracked>,
    counters: &'a mut Counters,
    carried: &'a mut Carried,
    now: Duration,
    now_ms: i64,
}

impl Work<'_> {
    fn message(&mut self, topic: &[u8], payload: &[u8], retain: bool) -> Result<(), StoreError> {
        self.counters.messages += 1;
        let Some((id, leaf)) = own_topic(self.config, topic) else {
            self.counters.foreign += 1;
            return Ok(());
        };
        if !self.boxes.contains_key(&id) && !self.enrol(&id) {
            self.counters.foreign += 1;
            return Ok(());
        }
        let now = self.now;
        let Some(tracked) = self.boxes.get_mut(&id) else { return Ok(()) };
        if tracked.fleet != self.config.fleet {
            self.counters.foreign += 1;
            return Ok(());
        }
        if tracked.fresh {
            // Its first message, or one of those whose transaction failed.
            self.batch.enrol(&id, &self.config.fleet, self.now_ms)?;
        }
        if !tracked.limit(limit_class(&leaf), now).admit(now) {
            self.counters.limited += 1;
            return Ok(());
        }
        match self.read(&id, &leaf, payload, retain) {
            Ok(()) => Ok(()),
            Err(Refusal::Store(error)) => Err(error),
            Err(Refusal::Payload(error)) => {
                self.counters.malformed += 1;
                tracing::debug!(box_id = %id, %error, "malformed message was dropped");
                let class = limit_class(&leaf);
                let muted = self.boxes.get_mut(&id).is_some_and(|tracked| tracked.limit(class, now).malformed(now));
                if muted {
                    tracing::warn!(box_id = %id, class, "box sends nonsense and is muted");
                    let body = EventBody {
                        inst: Some(class.to_owned()),
                        ..EventBody::new(id::MSG_MALFORMED, Op::Occur, Severity::Warn)
                    };
                    self.own_event(&id, &body)?;
                }
                Ok(())
            }
        }
    }

    fn read(&mut self, id: &BoxId, leaf: &Leaf, payload: &[u8], retain: bool) -> Result<(), Refusal> {
        match leaf {
            Leaf::State => {
                let state = State::parse(payload)?;
                let event = if retain {
                    presence::Event::Retained
                } else if state.on {
                    let seconds = |s: u32| Duration::from_secs(s.into());
                    presence::Event::Birth {
                        life: state.life.clone(),
                        heartbeat: state.hb.map(seconds),
                        keepalive: state.ka.map(seconds),
                    }
                } else {
                    presence::Event::Death(state.life.clone())
                };
                let birth = state.on && !retain;
                self.presence(id, event)?;
                if birth && self.boxes.get_mut(id).is_some_and(|tracked| tracked.born(&state.life)) {
                    let mode = state.mode.map(fleet_protocol::payload::Mode::key);
                    let ring = state.ring.as_deref().and_then(|ring| FleetId::new(ring).ok());
                    let said = ring.as_ref().map(FleetId::as_str);
                    self.batch.birth(id, state.hb, state.ka, mode, state.fw.as_deref(), said)?;
                    if let (Some(ring), Some(tracked)) = (ring, self.boxes.get_mut(id)) {
                        tracked.ring = ring;
                    }
                    let ring = self.boxes.get(id).map(|tracked| tracked.ring.clone());
                    self.carried.born(self.batch, id, ring.as_ref(), self.now_ms)?;
                }
                Ok(self.batch.seen(id, None, self.now_ms)?)
            }
            Leaf::Info => {
                let info = Info::parse(payload)?;
                let text = serde_json::to_string(&info).map_err(PayloadError::Shape)?;
                Ok(self.batch.info(id, &info.fw, &text)?)
            }
            Leaf::Tele(class) => {
                let (tele, _) = Tele::parse(*class, payload)?;
                match class {
                    Class::Earnings => self.durable(id, Durable::Earnings, &Record::Metrics(&tele)),
                    Class::Ledger => self.durable(id, Durable::Ledger, &Record::Metrics(&tele)),
                    Class::Heartbeat | Class::Vitals | Class::Streams => self.periodic(id, *class, &tele, retain),
                }
            }
            Leaf::Event(severity) => {
                let event = Event::parse(payload)?;
                if event.body.sev != *severity {
                    return Err(PayloadError::Range("sev").into());
                }
                self.durable(id, Durable::Events, &Record::Event(&event))?;
                if event.body.id == id::DECOMMISSIONED {
                    tracing::warn!(box_id = %id, "box has left the fleet: revoke its certificate at the broker");
                    self.batch.retire(id)?;
                    self.presence(id, presence::Event::Retire)?;
                }
                Ok(())
            }
            Leaf::Result(cid) => {
                let res = Res::parse(payload)?;
                if res.cid != *cid {
                    return Err(PayloadError::Range("cid").into());
                }
                Ok(self.carried.result(self.batch, id, &res, self.now_ms)?)
            }
            // Shadow and logs belong to later work.
            Leaf::Reported | Leaf::Log(_) => Ok(()),
            Leaf::Command(_) | Leaf::Want | Leaf::Ack => Ok(()),
        }
    }

    fn periodic(&mut self, id: &BoxId, class: Class, tele: &Tele, retain: bool) -> Result<(), Refusal> {
        let live = !retain && tele.envelope.h.is_none();
        if live {
            self.presence(id, presence::Event::Alive(tele.envelope.life.clone()))?;
            if let Some(tracked) = self.boxes.get_mut(id) {
                tracked.count_loss(class, &tele.envelope);
            }
        }
        self.batch.last_values(id, class.key(), &tele.m, self.now_ms)?;
        if let Some(mode) = tele.m.get("md").and_then(serde_json::Value::as_str) {
            self.batch.mode(id, mode)?;
        }
        self.batch.seen(id, None, self.now_ms)?;
        Ok(())
    }

    fn durable(&mut self, id: &BoxId, class: Durable, record: &Record<'_>) -> Result<(), Refusal> {
        let envelope = record.envelope();
        let epoch = envelope.life.e.clone();
        let Some(tracked) = self.boxes.get_mut(id) else { return Ok(()) };
        let cursor = tracked.cursor(&epoch, class);
        let verdict = cursor.take(envelope.q, envelope.previous());
        let (stored, newest) = (cursor.stored(), cursor.newest() == envelope.q);
        tracked.counted();
        match verdict {
            Verdict::Duplicate => {
                // The box did not hear our acknowledgement: say it again.
                self.counters.duplicates += 1;
                return Ok(());
            }
            Verdict::TooFar => return Ok(()),
            Verdict::Store => {}
        }
        let key = Key {
            id,
            e: epoch.as_str(),
            q: envelope.q,
            previous: envelope.previous(),
            at_ms: self.now_ms,
            t: envelope.t,
        };
        match record {
            Record::Event(event) => self.batch.event(key, &event.body)?,
            Record::Metrics(tele) => {
                self.batch.metrics(class, key, &tele.m)?;
                // History may not overwrite what is newer.
                if class == Durable::Earnings && newest {
                    self.batch.last_values(id, Class::Earnings.key(), &tele.m, self.now_ms)?;
                }
            }
        }
        self.batch.cursor(id, &epoch, class, stored)?;
        self.batch.seen(id, None, self.now_ms)?;
        Ok(())
    }

    fn presence(&mut self, id: &BoxId, event: presence::Event) -> Result<(), StoreError> {
        let Some(tracked) = self.boxes.get_mut(id) else { return Ok(()) };
        let before = tracked.presence.life().cloned();
        let change = tracked.presence.step(event, self.now);
        if let Some(life) = tracked.presence.life().filter(|life| before.as_ref() != Some(*life)) {
            self.batch.seen(id, Some(life), self.now_ms)?;
        }
        if let Some(change) = change {
            tracing::info!(box_id = %id, from = change.from.key(), to = change.to.key(), why = change.why, "presence changed");
            tracked.changed(change.to, self.now);
            self.batch.presence(id, change, self.now_ms)?;
        }
        Ok(())
    }

    fn every_box(&mut self, event: impl Fn() -> presence::Event) -> Result<(), StoreError> {
        for id in self.boxes.keys().cloned().collect::<Vec<_>>() {
            self.presence(&id, event())?;
        }
        Ok(())
    }

    /// Alarms the controller raises about a box: gone for long, or two machines with one identity.
    fn watch(&mut self) -> Result<(), StoreError> {
        let grace = Duration::from_secs(self.config.offline_alarm_s.into());
        for id in self.boxes.keys().cloned().collect::<Vec<_>>() {
            let Some(tracked) = self.boxes.get_mut(&id) else { continue };
            let state = tracked.presence.state();
            let long = state == Presence::Offline
                && tracked.since.is_some_and(|since| self.now.saturating_sub(since) >= grace);
            let offline = match (long, state, tracked.offline_raised) {
                (true, _, false) => Some(Op::Raise),
                (_, Presence::Online, true) => Some(Op::Clear),
                _ => None,
            };
            let cloned = tracked.presence.looks_cloned() && !std::mem::replace(&mut tracked.clone_raised, true);
            if let Some(op) = offline {
                tracked.offline_raised = op == Op::Raise;
                self.own_event(&id, &EventBody::new(id::BOX_OFFLINE, op, Severity::Err))?;
            }
            if cloned {
                tracing::error!(box_id = %id, "two machines use one identity: revoke its certificate and enrol it anew");
                self.own_event(&id, &EventBody::new(id::ID_CLONE, Op::Occur, Severity::Crit))?;
            }
        }
        Ok(())
    }

    /// An event of the controller about a box; its epoch is no epoch of the box's own.
    fn own_event(&mut self, id: &BoxId, body: &EventBody) -> Result<(), StoreError> {
        let Some(tracked) = self.boxes.get_mut(id) else { return Ok(()) };
        let q = tracked.own_sequence(self.now_ms);
        let key = Key { id, e: "ctl", q, previous: 0, at_ms: self.now_ms, t: Some(self.now_ms) };
        self.batch.event(key, body)
    }

    fn enrol(&mut self, id: &BoxId) -> bool {
        let room = self.boxes.len() < usize::try_from(self.config.max_boxes).unwrap_or(usize::MAX);
        if !self.config.auto_enrol || !room {
            return false;
        }
        tracing::info!(box_id = %id, fleet = %self.config.fleet, "box enrolled at its first message");
        self.boxes.insert(id.clone(), Tracked::new(self.config.fleet.clone()));
        true
    }
}

enum Record<'a> {
    Event(&'a Event),
    Metrics(&'a Tele),
}

impl Record<'_> {
    fn envelope(&self) -> &fleet_protocol::payload::Envelope {
        match self {
            Record::Event(event) => &event.envelope,
            Record::Metrics(tele) => &tele.envelope,
        }
    }
}

/// The box and leaf of a topic of our fleet.
fn own_topic(config: &Config, topic: &[u8]) -> Option<(BoxId, Leaf)> {
    match Topic::parse(std::str::from_utf8(topic).ok()?).ok()? {
        Topic::Box { fleet, id, leaf } if fleet == config.fleet => Some((id, leaf)),
        Topic::Box { .. } | Topic::Controller { .. } | Topic::Group { .. } => None,
    }
}

/// Messages are limited per box and per one of these.
fn limit_class(leaf: &Leaf) -> &'static str {
    match leaf {
        Leaf::State | Leaf::Info => "state",
        Leaf::Tele(class) => class.key(),
        Leaf::Event(_) => "event",
        Leaf::Reported | Leaf::Result(_) | Leaf::Log(_) => "other",
        Leaf::Command(_) | Leaf::Want | Leaf::Ack => "other",
    }
}

/// The controller's retained presence.
pub(crate) fn presence_message(config: &Config, ctl: &Ctl) -> Output {
    let topic = Topic::Controller { fleet: config.fleet.clone(), name: config.name.clone() }.to_string();
    Output { topic, payload: serde_json::to_vec(ctl).unwrap_or_default(), retain: true, expiry: None }
}

fn to_box(config: &Config, id: &BoxId, leaf: Leaf, body: &impl serde::Serialize, expiry: Option<u32>) -> Output {
    let topic = Topic::of_box(&config.fleet, id, leaf).to_string();
    Output { topic, payload: serde_json::to_vec(body).unwrap_or_default(), retain: false, expiry }
}

/// Hand a message to the link; a full queue drops it, which every message here survives.
fn send(out: &mpsc::Sender<Output>, output: Output) -> bool {
    let sent = out.try_send(output).is_ok();
    if !sent {
        tracing::debug!("message to the broker was dropped: the link is slow or gone");
    }
    sent
}

fn wall_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
