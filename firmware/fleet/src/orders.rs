//! Walk 3, step 6: what the fleet orders. Every order is held against the keys of the image; the work is done by
//! `millrace-update`, which is asked by files and answers by files (`docs/updates.md`).
//!
//! ```text
//! order ────► journal ──► stage.json ──► staged ──► install.json ──► reboot ──► results.json ──► told, once
//! campaign ──► its moment ──┘               └── halted: waits
//! decommission ──► told, and heard ──► decommission.json
//! ```
//! The book is durable before anything follows from it: an order's counter and id before the request is written, the place of
//! an event in the spool before the event is. Where an order stands is said on `…/res/<cid>` until somebody who listens has it.

mod book;
mod campaign;
mod leave;
mod update;

use std::collections::{BTreeSet, VecDeque};
use std::path::{Path, PathBuf};

use fleet_protocol::campaign::CampaignError;
use fleet_protocol::command::{Command, DECOMMISSION, Denied, Ordered, UPDATE, UpdateArgs};
use fleet_protocol::dsse::KeyId;
use fleet_protocol::event::{Op, Severity, id};
use fleet_protocol::payload::{EventBody, Life, Res, Standing};
use fleet_protocol::release::Keys;
use fleet_protocol::version::Version;
use fleet_protocol::{Leaf, Topic};
use serde_json::{Map, Value, json};

use crate::clock;
use crate::config::Config;
use crate::outbox::Outbox;
use crate::report::Purse;
use book::{Book, Current, Entry, Told, bytes, put, read, shortened};

/// Orders that are obeyed.
pub(crate) const KNOWN: [&str; 2] = [UPDATE, DECOMMISSION];
/// Answers to orders that were refused and not written down; more are not given.
const STRAYS_MAX: usize = 8;

/// Why an order was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OrderError {
    #[error(transparent)]
    Denied(#[from] Denied),
    #[error(transparent)]
    Campaign(#[from] CampaignError),
    #[error("no keys to hold orders against in {0}")]
    NoKeys(PathBuf),
    #[error("another order is under way: {0}")]
    Busy(String),
    #[error("version {wanted} is below the floor {floor} of this box")]
    Floor { wanted: Version, floor: String },
    #[error("version {wanted} is not above the running {running}")]
    NotNewer { wanted: Version, running: Version },
    #[error("{0}: its key would be gone; empty it first, or say that it may be lost")]
    Funds(String),
    #[error("{0} cannot be written")]
    Write(PathBuf, #[source] std::io::Error),
}

impl OrderError {
    /// One word for it, as results carry it.
    fn code(&self) -> &'static str {
        match self {
            OrderError::Denied(denied) => denied.code(),
            OrderError::Campaign(_) => "campaign",
            OrderError::NoKeys(_) => "no-keys",
            OrderError::Busy(_) => "busy",
            OrderError::Floor { .. } => "floor",
            OrderError::NotNewer { .. } => "not-newer",
            OrderError::Funds(_) => "funds",
            OrderError::Write(..) => "disk",
        }
    }
}

/// Takes orders, asks for their work, tells what came of it.
#[derive(Debug)]
pub(crate) struct Orders {
    config: Config,
    book_path: PathBuf,
    book: Book,
    strays: VecDeque<Entry>,
    /// Changes of the journal that were sent on this connection.
    sent: BTreeSet<u64>,
}

/// An answer for the wire.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    /// Which change of the journal it tells; 0 is none of the journal's.
    pub(crate) q: u64,
}

impl Orders {
    /// Opens the book, and ends what a crash left half done.
    pub(crate) fn open(config: &Config, outbox: &mut Outbox) -> Self {
        let book_path = config.state_dir.join("updates.json");
        let book = read(&book_path).unwrap_or_default();
        let (strays, sent) = (VecDeque::new(), BTreeSet::new());
        let mut orders = Self { config: config.clone(), book_path, book, strays, sent };
        // Nothing else is appended between the note and the event, so what stands at that place is the event.
        if let Some((place, told)) = orders.book.telling.take() {
            if outbox.last_event() >= place {
                orders.was_told(&told);
            }
            orders.save();
        }
        orders
    }

    /// Obeys an order. Durable before anything follows from it; the same order again changes nothing, and where it stands
    /// is said again. Why an order is refused is said as well, once for each time it comes.
    pub(crate) fn order(&mut self, op: &str, envelope: &[u8], purse: Purse) -> Result<(), OrderError> {
        let taken = self.take(op, envelope, purse);
        if let Err(error) = &taken
            && let Ok(claimed) = Command::unverified(envelope)
            && self.strays.len() < STRAYS_MAX
        {
            let late = matches!(error, OrderError::Denied(Denied::Time)) && claimed.exp < clock::stamp().t.unwrap_or(0);
            let st = if late { Standing::Expired } else { Standing::Rejected };
            let (code, reason) = (Some(error.code().to_owned()), Some(shortened(&service::with_causes(error))));
            self.strays.push_back(Entry { cid: claimed.cid, st, pct: None, code, reason, q: 0, said: false });
        }
        taken
    }

    fn take(&mut self, op: &str, envelope: &[u8], purse: Purse) -> Result<(), OrderError> {
        let command = Command::verified(envelope, op, &self.keys(&self.config.orders.keys)?)?;
        if let Some(known) = self.book.journal.iter_mut().find(|entry| entry.cid == command.cid) {
            // The controller sends what it has no end of again, byte for byte.
            known.said = false;
            self.sent.remove(&known.q);
            return Ok(());
        }
        let Config { fleet, box_id, ring, .. } = &self.config;
        let ordered = Ordered { fleet, id: box_id, ring, now: clock::stamp().t };
        command.admit(ordered, |by| self.highest(by))?;
        if let Some(leaving) = &self.book.leaving {
            return Err(OrderError::Busy(leaving.cid.clone()));
        }
        let args = Value::Object(command.args.clone());
        match op {
            DECOMMISSION => {
                let args = serde_json::from_value(args).map_err(Denied::Arguments)?;
                self.leave(&command, &args, purse)?;
            }
            _ => {
                let args: UpdateArgs = serde_json::from_value(args).map_err(Denied::Arguments)?;
                self.may_come(&args.version)?;
                // An order of the releasers goes before a campaign that only waits.
                self.give_way();
                if let Some(current) = &self.book.current {
                    return Err(OrderError::Busy(current.cid.clone()));
                }
                tracing::info!(cid = command.cid, version = %args.version, "update was ordered");
                self.book.current = Some(Current { cid: command.cid.clone(), args, staged: false, campaign: false });
            }
        }
        self.book.counters.insert(command.by.as_str().to_owned(), command.ctr);
        self.book.note(&command.cid, Standing::Accepted, None, "accepted", None);
        if let Err(error) = self.try_save() {
            // What is not on disk was not taken.
            self.book = read(&self.book_path).unwrap_or_default();
            return Err(error);
        }
        self.ask_again(self.is_pending());
        Ok(())
    }

    fn highest(&self, by: &KeyId) -> u64 {
        self.book.counters.get(by.as_str()).copied().unwrap_or(0)
    }

    fn keys(&self, path: &Path) -> Result<Keys, OrderError> {
        let keys = bytes(path).and_then(|bytes| Keys::parse(&bytes).ok());
        keys.ok_or_else(|| OrderError::NoKeys(path.to_owned()))
    }

    /// Refuses at once what `millrace-update` would refuse later, in the same words.
    fn may_come(&self, wanted: &Version) -> Result<(), OrderError> {
        let wanted = wanted.clone();
        let floor = bytes(&self.config.orders.update_state.join("floor"));
        if let Some(floor) = floor.map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned())
            && floor.parse::<Version>().map_or(true, |floor| wanted < floor)
        {
            return Err(OrderError::Floor { wanted, floor });
        }
        match self.running() {
            Some(running) if wanted <= running => Err(OrderError::NotNewer { wanted, running }),
            _ => Ok(()),
        }
    }

    fn running(&self) -> Option<Version> {
        service::image_version(&self.config.orders.os_release)?.parse().ok()
    }

    /// Looks at what was asked for and at what time it is, and tells what is new.
    pub(crate) fn tend(&mut self, outbox: &mut Outbox, boot: u64) {
        // Before its results are read: who writes a result takes the mark away after it. So what waits no longer has its
        // result read here, and nothing that has ended is asked for again.
        let pending = self.is_pending();
        self.tend_update(outbox, boot);
        self.follow_campaign();
        self.tend_leaving(outbox, boot);
        self.ask_again(pending);
    }

    /// A connection begins: what nobody has heard is said again.
    pub(crate) fn connected(&mut self) {
        self.sent.clear();
    }

    /// The next answer that nobody has heard on this connection.
    pub(crate) fn next_answer(&mut self, life: &Life) -> Option<Answer> {
        let unsaid = self.book.journal.iter().find(|entry| !entry.said && !self.sent.contains(&entry.q));
        let entry = unsaid.cloned().or_else(|| self.strays.pop_front())?;
        self.sent.insert(entry.q);
        let clock::Stamp { t, u, .. } = clock::stamp();
        let Entry { cid, st, pct, code, reason, q, .. } = entry;
        let topic = Topic::of_box(&self.config.fleet, &self.config.box_id, Leaf::Result(cid.clone())).to_string();
        let res = Res { v: 1, life: life.clone(), q, t, u, cid, st, pct, code, reason };
        Some(Answer { topic, payload: serde_json::to_vec(&res).ok()?, q })
    }

    /// The broker had somebody for an answer.
    pub(crate) fn was_heard(&mut self, q: u64) {
        if let Some(entry) = self.book.journal.iter_mut().find(|entry| entry.q == q && !entry.said) {
            entry.said = true;
            self.save();
        }
    }

    /// Puts an event into the spool, once whatever happens: its place is noted before it is taken.
    fn tell(&mut self, outbox: &mut Outbox, boot: u64, body: EventBody, told: Told) -> bool {
        self.book.telling = Some((outbox.last_event() + 1, told.clone()));
        if self.try_save().is_err() {
            self.book.telling = None;
            return false;
        }
        let stored = match outbox.record(boot, clock::stamp(), body) {
            Ok(()) => true,
            Err(error) => {
                tracing::error!(%error, "an order's event could not be stored; it is tried again");
                false
            }
        };
        self.book.telling = None;
        if stored {
            self.was_told(&told);
        }
        self.save();
        stored
    }

    fn was_told(&mut self, told: &Told) {
        match told {
            Told::Staged => {
                if let Some(current) = &mut self.book.current {
                    current.staged = true;
                    let cid = current.cid.clone();
                    self.book.note(&cid, Standing::Running, Some(100), "staged", None);
                }
            }
            Told::NotStaged { reason } => {
                if let Some(current) = self.book.current.take() {
                    self.book.note(&current.cid, Standing::Failed, None, "not-staged", reason.as_deref());
                }
            }
            Told::Result { seq, id, became, reason } => {
                self.book.reported = *seq;
                if self.book.current.as_ref().is_some_and(|current| current.cid == *id) {
                    self.book.current = None;
                    let st = match became.as_str() {
                        "blessed" => Standing::Done,
                        "rolled-back" => Standing::Reverted,
                        _ => Standing::Failed,
                    };
                    self.book.note(id, st, None, became, reason.as_deref());
                }
            }
            Told::Leaving { place } => {
                if let Some(leaving) = &mut self.book.leaving {
                    leaving.place = Some(*place);
                }
            }
        }
    }

    /// Whether an installed version waits for its outcome.
    fn is_pending(&self) -> bool {
        self.config.orders.update_state.join("pending.json").exists()
    }

    /// A box that waits for its quiet moment takes the missing request for a no.
    fn take_back_if_held(&self) {
        let path = self.config.orders.requests.join("install.json");
        if self.is_held() && !self.is_pending() && path.exists() && std::fs::remove_file(&path).is_ok() {
            tracing::warn!("campaign is halted: the request to install was taken back");
        }
    }

    /// Writes the request that is due, if it is not there: /run forgets at a reboot.
    fn ask_again(&self, pending: bool) {
        self.take_back_if_held();
        let Some(Current { cid, args, staged, .. }) = &self.book.current else { return };
        if self.is_held() || (*staged && pending) {
            return;
        }
        let path = self.config.orders.requests.join(if *staged { "install.json" } else { "stage.json" });
        let request = if *staged {
            let (deadline_s, go) = (args.deadline_s, args.go_at_deadline);
            json!({"id": cid, "version": args.version, "deadline_s": deadline_s, "go_at_deadline": go})
        } else {
            json!({"id": cid, "manifest": args.manifest, "rate_mbit": args.rate_mbit})
        };
        let there: Option<Value> = read(&path);
        if there.as_ref() == Some(&request) {
            return;
        }
        if let Err(error) = put(&path, &request, 0o644) {
            tracing::error!(%error, path = %path.display(), "millrace-update could not be asked");
        }
    }

    fn try_save(&self) -> Result<(), OrderError> {
        put(&self.book_path, &self.book, 0o600).map_err(|error| OrderError::Write(self.book_path.clone(), error))
    }

    fn save(&self) {
        if let Err(error) = self.try_save() {
            tracing::error!(%error, "book of orders could not be kept: free space on the state partition");
        }
    }
}

/// The event that an order was refused.
pub(crate) fn denied(reason: &str, refused: u64) -> EventBody {
    let mut context = Map::new();
    context.insert("reason".to_owned(), json!(reason.chars().take(300).collect::<String>()));
    EventBody {
        ctx: Some(context),
        cnt: Some(refused.max(1)),
        ..EventBody::new(id::CMD_DENIED, Op::Occur, Severity::Warn)
    }
}

#[cfg(test)]
mod tests;
