//! Walk 3, step 3: what waits to be sent. Telemetry keeps only the latest of each class; earnings, events and ledger
//! steps wait in the spool, in order, until the controller acknowledges them.
//!
//! Drain order: grave events, ledger, other events, earnings, live telemetry.

use std::collections::VecDeque;
use std::time::Duration;

use fleet_protocol::event::{Op, Severity, id};
use fleet_protocol::payload::{Ack, Durable, Envelope, EventBody, Life, Tele};
use fleet_protocol::registry::Class;
use fleet_protocol::{BoxId, FleetId, Leaf, Topic};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::time::Instant;

use crate::clock::Stamp;
use crate::spool::{Record, Spool, SpoolError};

/// Items the disk refused are held for another try; more than this are dropped and counted.
const HELD_MAX: usize = 64;

/// Something the collector made.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    pub(crate) stamp: Stamp,
    pub(crate) content: Content,
}

/// What it is.
#[derive(Debug, Clone)]
pub(crate) enum Content {
    /// Periodic telemetry: the latest wins.
    Live(Class, Map<String, Value>),
    /// An event: durable.
    Event(EventBody),
    /// Cumulative earnings: durable.
    Earnings(Map<String, Value>),
    /// Steps of the ledger: durable, never dropped.
    Ledger(Map<String, Value>),
}

/// A durable record as the spool keeps it: everything but what the connection adds.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Stored {
    b: u64,
    t: Option<i64>,
    u: u64,
    tq: u8,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    body: Option<EventBody>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) m: Option<Map<String, Value>>,
}

/// A message ready for the wire.
#[derive(Debug, Clone)]
pub(crate) struct Outgoing {
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    /// The durable record it carries; `None` is sent at most once.
    pub(crate) record: Option<(Durable, u64)>,
    /// Seconds after which the broker may forget it.
    pub(crate) expiry: Option<u32>,
}

/// When the broker may forget periodic telemetry, seconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Expiry {
    pub(crate) heartbeat_s: u32,
    pub(crate) vitals_s: u32,
    pub(crate) streams_s: u32,
}

impl Expiry {
    fn of(self, class: Class) -> Option<u32> {
        match class {
            Class::Heartbeat => Some(self.heartbeat_s),
            Class::Vitals => Some(self.vitals_s),
            Class::Streams => Some(self.streams_s),
            Class::Earnings | Class::Ledger => None,
        }
    }
}

/// Everything that waits.
#[derive(Debug)]
pub(crate) struct Outbox {
    fleet: FleetId,
    box_id: BoxId,
    spool: Spool,
    live: Vec<(Class, Stamp, Map<String, Value>)>,
    live_q: [u64; Class::ALL.len()],
    expiry: Expiry,
    held: VecDeque<Item>,
    dropped: u64,
    refused_logged: Option<Instant>,
    sent: Sent,
    birth: [u64; 3],
}

/// How far each drain pass has come on this connection.
#[derive(Debug, Default, Clone, Copy)]
struct Sent {
    grave: u64,
    ledger: u64,
    events: u64,
    earnings: u64,
}

impl Outbox {
    pub(crate) fn new(fleet: FleetId, box_id: BoxId, spool: Spool, expiry: Expiry) -> Self {
        Self {
            fleet,
            box_id,
            spool,
            live: Vec::new(),
            live_q: [0; Class::ALL.len()],
            expiry,
            held: VecDeque::new(),
            dropped: 0,
            refused_logged: None,
            sent: Sent::default(),
            birth: [0; 3],
        }
    }

    /// Take something from the collector. Durable on return unless the disk refused; then it is held and tried again.
    pub(crate) fn take(&mut self, boot: u64, item: Item, now: Instant) {
        if let Content::Live(class, m) = item.content {
            self.live.retain(|(other, ..)| *other != class);
            self.live.push((class, item.stamp, m));
            return;
        }
        // A step may not overtake one that the disk refused: it is folded into it.
        let waiting = matches!(item.content, Content::Ledger(_)) && self.held_ledger().is_some();
        if waiting {
            self.hold(item);
        } else if let Err(error) = self.store(boot, &item, now) {
            if self.refused_logged.is_none_or(|at| now.duration_since(at) > Duration::from_secs(60)) {
                tracing::error!(%error, held = self.held.len(), "spool refused a record: free space on the state partition");
                self.refused_logged = Some(now);
            }
            self.hold(item);
        }
    }

    /// The sequence of the newest event in the spool.
    pub(crate) fn last_event(&mut self) -> u64 {
        self.spool.class(Durable::Events).last()
    }

    /// Up to which event the controller has all.
    pub(crate) fn acked_event(&mut self) -> u64 {
        self.spool.class(Durable::Events).acked()
    }

    /// Put an event into the spool now: durable on return, or not there.
    pub(crate) fn record(&mut self, boot: u64, stamp: Stamp, body: EventBody) -> Result<(), SpoolError> {
        self.store(boot, &Item { stamp, content: Content::Event(body) }, Instant::now())?;
        self.spool.class(Durable::Events).sync()
    }

    /// Try again what the disk refused, and sync what is due.
    pub(crate) fn tend(&mut self, boot: u64, now: Instant) {
        while let Some(item) = self.held.pop_front() {
            if self.store(boot, &item, now).is_err() {
                self.held.push_front(item);
                break;
            }
        }
        if self.held.is_empty() && self.dropped > 0 {
            let lost = Item {
                stamp: crate::clock::stamp(),
                content: Content::Event(EventBody {
                    cnt: Some(self.dropped),
                    ..EventBody::new(id::SPOOL_LOST, Op::Occur, Severity::Crit)
                }),
            };
            if self.store(boot, &lost, now).is_ok() {
                self.dropped = 0;
            }
        }
        for class in Durable::ALL {
            if let Err(error) = self.spool.class(class).sync_if_due(now) {
                tracing::error!(%error, "spool could not be synced");
            }
        }
    }

    /// Send everything unacknowledged again, from the oldest.
    pub(crate) fn rewind(&mut self) {
        self.sent = Sent::default();
    }

    /// A connection begins: what is in the spool by now is history to it.
    pub(crate) fn born(&mut self) {
        self.rewind();
        self.birth = Durable::ALL.map(|class| self.spool.class(class).last());
    }

    /// The controller stored these.
    pub(crate) fn acknowledge(&mut self, ack: &Ack) {
        for class in Durable::ALL {
            if let Some(q) = ack.of(class)
                && let Err(error) = self.spool.class(class).ack(q)
            {
                // The records stay; they will be sent and acknowledged again.
                tracing::error!(%error, "acknowledgement could not be stored");
            }
        }
    }

    /// Whether records were sent that nobody has acknowledged, and up to which sequence all is acknowledged.
    pub(crate) fn unacknowledged(&mut self) -> (bool, u64) {
        let sent = self.sent;
        let mut open = false;
        let mut total = 0;
        for (class, sent) in
            [(Durable::Ledger, sent.ledger), (Durable::Events, sent.events), (Durable::Earnings, sent.earnings)]
        {
            let acked = self.spool.class(class).acked();
            open |= sent > acked;
            total += acked;
        }
        (open, total)
    }

    pub(crate) fn fill_percent(&self) -> u64 {
        self.spool.fill_percent()
    }

    pub(crate) fn ledger_fill_percent(&self) -> u64 {
        self.spool.ledger_fill_percent()
    }

    /// The next durable record, if any; `grave_only` while nobody listens.
    pub(crate) fn next_durable(&mut self, life: &Life, grave_only: bool) -> Result<Option<Outgoing>, SpoolError> {
        let grave = |tag: u8| tag >= severity_tag(Severity::Crit);
        let passes: [(Durable, Pass); 4] = [
            (Durable::Events, Pass::Grave),
            (Durable::Ledger, Pass::Ledger),
            (Durable::Events, Pass::Events),
            (Durable::Earnings, Pass::Earnings),
        ];
        for (class, pass) in passes {
            if grave_only && pass != Pass::Grave {
                break;
            }
            loop {
                let after = *self.cursor(pass);
                let wanted = |tag: u8| pass != Pass::Grave || grave(tag);
                let spool = self.spool.class(class);
                let Some((record, previous)) = spool.next_after(after, wanted)? else {
                    let last = spool.last();
                    *self.cursor(pass) = last;
                    break;
                };
                *self.cursor(pass) = record.q;
                if pass == Pass::Events && grave(record.tag) && record.q <= self.sent.grave {
                    continue;
                }
                match self.outgoing(class, &record, previous, life) {
                    Some(outgoing) => return Ok(Some(outgoing)),
                    // Sound by its checksum and yet unreadable: only another version could have written it.
                    None => tracing::error!(class = class.letter(), q = record.q, "spool record has no known shape"),
                }
            }
        }
        Ok(None)
    }

    /// The next live message, if any.
    pub(crate) fn next_live(&mut self, life: &Life, heartbeat_only: bool) -> Option<Outgoing> {
        let index = self.live.iter().position(|(class, ..)| !heartbeat_only || *class == Class::Heartbeat)?;
        let (class, stamp, m) = self.live.remove(index);
        let q = Class::ALL.iter().position(|other| *other == class).and_then(|slot| self.live_q.get_mut(slot))?;
        *q += 1;
        let tele = Tele { envelope: envelope(life.clone(), *q, None, stamp, false), m };
        Some(Outgoing {
            topic: Topic::of_box(&self.fleet, &self.box_id, Leaf::Tele(class)).to_string(),
            payload: serde_json::to_vec(&tele).ok()?,
            record: None,
            expiry: self.expiry.of(class),
        })
    }

    /// The newest ledger step on disk: what the next one is counted from.
    pub(crate) fn newest_ledger(&mut self) -> Option<Map<String, Value>> {
        let body = self.spool.class(Durable::Ledger).newest().ok()??;
        serde_json::from_slice::<Stored>(&body).ok()?.m
    }

    fn cursor(&mut self, pass: Pass) -> &mut u64 {
        match pass {
            Pass::Grave => &mut self.sent.grave,
            Pass::Ledger => &mut self.sent.ledger,
            Pass::Events => &mut self.sent.events,
            Pass::Earnings => &mut self.sent.earnings,
        }
    }

    fn store(&mut self, boot: u64, item: &Item, now: Instant) -> Result<(), SpoolError> {
        let Stamp { t, u, tq } = item.stamp;
        let stored = |body, m| Stored { b: boot, t, u, tq, body, m };
        let (class, tag, stored) = match &item.content {
            Content::Live(..) => return Ok(()),
            Content::Event(body) => (Durable::Events, severity_tag(body.sev), stored(Some(body.clone()), None)),
            Content::Earnings(m) => (Durable::Earnings, 0, stored(None, Some(m.clone()))),
            Content::Ledger(m) => (Durable::Ledger, 0, stored(None, Some(m.clone()))),
        };
        let body = serde_json::to_vec(&stored).expect("a record is always json");
        self.spool.class(class).append(tag, body, now)?;
        Ok(())
    }

    /// Keep an item for another try. Earnings are cumulative and need none; ledger steps fold into one that says the
    /// first old and the last new value; of events the oldest goes when there are too many, and is counted.
    fn hold(&mut self, item: Item) {
        match (&item.content, self.held_ledger()) {
            (Content::Event(_), _) => {
                if self.held.len() >= HELD_MAX
                    && let Some(oldest) = self.held.iter().position(|held| matches!(held.content, Content::Event(_)))
                {
                    self.held.remove(oldest);
                    self.dropped += 1;
                }
                self.held.push_back(item);
            }
            (Content::Ledger(step), Some(first)) => fold_step(first, step),
            (Content::Ledger(_), None) => self.held.push_back(item),
            (Content::Live(..) | Content::Earnings(_), _) => {}
        }
    }

    fn held_ledger(&mut self) -> Option<&mut Map<String, Value>> {
        self.held.iter_mut().find_map(|item| match &mut item.content {
            Content::Ledger(step) => Some(step),
            _ => None,
        })
    }

    fn outgoing(&self, class: Durable, record: &Record, previous: u64, life: &Life) -> Option<Outgoing> {
        let stored: Stored = serde_json::from_slice(&record.body).ok()?;
        let stamp = Stamp { t: stored.t, u: stored.u, tq: stored.tq };
        let slot = Durable::ALL.iter().position(|other| *other == class)?;
        let history = self.birth.get(slot).is_some_and(|birth| record.q <= *birth);
        let life = Life { b: stored.b, ..life.clone() };
        let previous = (previous + 1 != record.q).then_some(previous);
        let envelope = envelope(life, record.q, previous, stamp, history);
        let (leaf, payload) = match class {
            Durable::Events => {
                let body = stored.body?;
                let leaf = Leaf::Event(body.sev);
                (leaf, serde_json::to_vec(&fleet_protocol::payload::Event { envelope, body }).ok()?)
            }
            Durable::Ledger | Durable::Earnings => {
                let of = if class == Durable::Ledger { Class::Ledger } else { Class::Earnings };
                (Leaf::Tele(of), serde_json::to_vec(&Tele { envelope, m: stored.m? }).ok()?)
            }
        };
        Some(Outgoing {
            topic: Topic::of_box(&self.fleet, &self.box_id, leaf).to_string(),
            payload,
            record: Some((class, record.q)),
            expiry: None,
        })
    }
}

/// Two steps in a row as one: from where the first began to where the second ended.
fn fold_step(first: &mut Map<String, Value>, second: &Map<String, Value>) {
    let old = first.get("stp").and_then(Value::as_array).cloned().unwrap_or_default();
    for (key, value) in second {
        first.insert(key.clone(), value.clone());
    }
    for part in first.get_mut("stp").and_then(Value::as_array_mut).into_iter().flatten() {
        let was = old.iter().find(|was| was.get(0) == part.get(0)).and_then(|was| was.get(1));
        if let (Some(was), Some(slot)) = (was, part.get_mut(1)) {
            *slot = was.clone();
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pass {
    Grave,
    Ledger,
    Events,
    Earnings,
}

fn severity_tag(severity: Severity) -> u8 {
    match severity {
        Severity::Info => 0,
        Severity::Warn => 1,
        Severity::Err => 2,
        Severity::Crit => 3,
    }
}

fn envelope(life: Life, q: u64, pq: Option<u64>, stamp: Stamp, history: bool) -> Envelope {
    let Stamp { t, u, tq } = stamp;
    Envelope { v: 1, life, q, pq, t, u, tq: Some(tq), h: history.then_some(1) }
}

#[cfg(test)]
mod tests;
