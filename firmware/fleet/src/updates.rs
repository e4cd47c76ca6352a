//! Walk 3, step 6: updates that the fleet orders. What is signed is held against the releasers' keys of the image; the work
//! is done by `millrace-update`, which is asked by files and answers by files (`docs/updates.md`).
//!
//! ```text
//! order ──► stage.json ──► staged ──► install.json ──► reboot ──► results.json ──► told, once
//! ```
//! The book is durable before anything follows from it: an order's counter and id before the request is written, the place of
//! an event in the spool before the event is.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use fleet_protocol::command::{Command, Denied, Ordered, UpdateArgs};
use fleet_protocol::event::{Op, Severity};
use fleet_protocol::payload::EventBody;
use fleet_protocol::release::Keys;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::clock;
use crate::config::Config;
use crate::outbox::Outbox;

/// The one order that is known.
pub(crate) const UPDATE: &str = "update";
/// Ids of orders remembered.
const KNOWN_MAX: usize = 64;
/// Largest of the files read here.
const FILE_MAX: u64 = 256 * 1024;

/// Event ids of updates.
mod id {
    pub(super) const STAGED: &str = "UPD-STAGED";
    pub(super) const OK: &str = "UPD-OK";
    pub(super) const FAIL: &str = "UPD-FAIL";
    pub(super) const ROLLBACK: &str = "UPD-ROLLBACK";
    pub(super) const SIG_BAD: &str = "UPD-SIG-BAD";
    pub(super) const SAFE_MODE: &str = "SAFE-MODE";
}

/// Why an order was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OrderError {
    #[error(transparent)]
    Denied(#[from] Denied),
    #[error("no keys to hold orders against in {0}")]
    NoKeys(PathBuf),
    #[error("another update is under way: {0}")]
    Busy(String),
    #[error("{0} cannot be written")]
    Write(PathBuf, #[source] std::io::Error),
}

/// What is remembered over restarts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Book {
    /// Highest counter obeyed, by author.
    counters: BTreeMap<String, u64>,
    /// Orders obeyed, the oldest first.
    known: Vec<String>,
    /// The one under way.
    current: Option<Current>,
    /// The last result that was told of.
    reported: u64,
    /// An event that is being written: its place in the spool, and what it tells.
    telling: Option<(u64, Told)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Current {
    cid: String,
    args: UpdateArgs,
    /// It is staged, that was told, and its installation was asked for.
    staged: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Told {
    Staged,
    NotStaged,
    Result(u64),
}

/// `staged/progress.json`, as far as it matters here.
#[derive(Debug, Deserialize)]
struct Progress {
    id: String,
    phase: String,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    forged: bool,
}

/// One of `results.json`.
#[derive(Debug, Deserialize)]
struct Outcome {
    seq: u64,
    id: String,
    from: String,
    to: String,
    became: String,
    #[serde(default)]
    reason: Option<String>,
}

/// Takes orders, asks for their work, tells what came of it.
#[derive(Debug)]
pub(crate) struct Updates {
    book_path: PathBuf,
    book: Book,
    keys: PathBuf,
    state: PathBuf,
    requests: PathBuf,
}

impl Updates {
    /// Opens the book, and ends what a crash left half done.
    pub(crate) fn open(config: &Config, outbox: &mut Outbox) -> Self {
        let book_path = config.state_dir.join("updates.json");
        let book = read(&book_path).unwrap_or_default();
        let orders = &config.orders;
        let mut updates = Self {
            book_path,
            book,
            keys: orders.keys.clone(),
            state: orders.update_state.clone(),
            requests: orders.requests.clone(),
        };
        // Nothing else is appended between the note and the event, so what stands at that place is the event.
        if let Some((place, told)) = updates.book.telling.take() {
            if outbox.last_event() >= place {
                updates.was_told(&told);
            }
            updates.save();
        }
        updates.ask_again();
        updates
    }

    /// Obeys an order. Durable before anything follows from it; the same order again changes nothing.
    pub(crate) fn order(&mut self, config: &Config, envelope: &[u8]) -> Result<(), OrderError> {
        let keys: Option<Keys> = bytes(&self.keys).and_then(|bytes| Keys::parse(&bytes).ok());
        let keys = keys.ok_or_else(|| OrderError::NoKeys(self.keys.clone()))?;
        let (fleet, id, ring, now) = (&config.fleet, &config.box_id, &config.ring, clock::stamp().t);
        let ordered = Ordered { fleet, id, ring, now };
        let highest = |by: &fleet_protocol::dsse::KeyId| self.book.counters.get(by.as_str()).copied().unwrap_or(0);
        let read = Command::verified(envelope, UPDATE, &keys).and_then(|order| order.admit(ordered, highest).map(|()| order));
        let command = match read {
            // The controller sends what it was not answered again, byte for byte.
            Err(Denied::Replayed) if self.is_known(envelope, &keys, ordered) => return Ok(()),
            read => read?,
        };
        let args: UpdateArgs = serde_json::from_value(Value::Object(command.args)).map_err(Denied::Arguments)?;
        if let Some(current) = &self.book.current {
            return Err(OrderError::Busy(current.cid.clone()));
        }
        self.book.counters.insert(command.by.as_str().to_owned(), command.ctr);
        self.book.known.push(command.cid.clone());
        let from = self.book.known.len().saturating_sub(KNOWN_MAX);
        self.book.known.drain(..from);
        tracing::info!(cid = command.cid, version = %args.version, "update was ordered");
        self.book.current = Some(Current { cid: command.cid, args, staged: false });
        self.try_save()?;
        self.ask_again();
        Ok(())
    }

    fn is_known(&self, envelope: &[u8], keys: &Keys, ordered: Ordered<'_>) -> bool {
        let again = Command::verified(envelope, UPDATE, keys);
        again.is_ok_and(|command| command.admit(ordered, |_| 0).is_ok() && self.book.known.contains(&command.cid))
    }

    /// Looks at what `millrace-update` says, and tells what is new.
    pub(crate) fn tend(&mut self, outbox: &mut Outbox, boot: u64) {
        if let Some(current) = self.book.current.clone().filter(|current| !current.staged) {
            let progress: Option<Progress> = read(&self.state.join("staged/progress.json"));
            let own = progress.filter(|progress| progress.id == current.cid);
            let version = current.args.version.to_string();
            match own.as_ref().map(|progress| (progress.phase.as_str(), progress.forged)) {
                Some(("staged", _)) => {
                    let body = event(id::STAGED, Severity::Info, &current.cid, &version, None);
                    self.tell(outbox, boot, body, Told::Staged);
                }
                Some(("failed", forged)) => {
                    let (id, severity) = if forged { (id::SIG_BAD, Severity::Crit) } else { (id::FAIL, Severity::Err) };
                    let reason = own.and_then(|progress| progress.reason);
                    self.tell(outbox, boot, event(id, severity, &current.cid, &version, reason), Told::NotStaged);
                }
                _ => {}
            }
        }
        let results: Vec<Outcome> = read(&self.state.join("results.json")).unwrap_or_default();
        let reported = self.book.reported;
        for outcome in results.into_iter().filter(|outcome| outcome.seq > reported) {
            let (id, severity) = match outcome.became.as_str() {
                "blessed" => (id::OK, Severity::Info),
                "rolled-back" => (id::ROLLBACK, Severity::Err),
                "safe-mode" => (id::SAFE_MODE, Severity::Crit),
                _ => (id::FAIL, Severity::Err),
            };
            let mut body = event(id, severity, &outcome.id, &outcome.to, outcome.reason);
            if let Some(context) = &mut body.ctx {
                context.insert("from".to_owned(), json!(outcome.from));
                context.insert("became".to_owned(), json!(outcome.became));
            }
            if !self.tell(outbox, boot, body, Told::Result(outcome.seq)) {
                return;
            }
            if self.book.current.as_ref().is_some_and(|current| current.cid == outcome.id) {
                self.book.current = None;
                self.save();
            }
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
                tracing::error!(%error, "update's event could not be stored; it is tried again");
                false
            }
        };
        self.book.telling = None;
        if stored {
            self.was_told(&told);
        }
        self.save();
        self.ask_again();
        stored
    }

    fn was_told(&mut self, told: &Told) {
        match told {
            Told::Staged => {
                if let Some(current) = &mut self.book.current {
                    current.staged = true;
                }
            }
            Told::NotStaged => self.book.current = None,
            Told::Result(seq) => self.book.reported = *seq,
        }
    }

    /// Writes the request that is due, if it is not there: /run forgets at a reboot.
    fn ask_again(&self) {
        let Some(Current { cid, args, staged }) = &self.book.current else { return };
        let (name, request) = if *staged {
            let (deadline_s, go) = (args.deadline_s, args.go_at_deadline);
            (
                "install.json",
                json!({"id": cid, "version": args.version, "deadline_s": deadline_s, "go_at_deadline": go}),
            )
        } else {
            ("stage.json", json!({"id": cid, "manifest": args.manifest, "rate_mbit": args.rate_mbit}))
        };
        let path = self.requests.join(name);
        let there: Option<Value> = read(&path);
        let installed = *staged && self.state.join("pending.json").exists();
        if installed || there.as_ref() == Some(&request) {
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
            tracing::error!(%error, "book of updates could not be kept: free space on the state partition");
        }
    }
}

fn event(id: &str, severity: Severity, cid: &str, version: &str, reason: Option<String>) -> EventBody {
    let mut context = Map::new();
    context.insert("cid".to_owned(), json!(cid));
    context.insert("to".to_owned(), json!(version));
    if let Some(reason) = reason {
        context.insert("reason".to_owned(), json!(reason.chars().take(300).collect::<String>()));
    }
    EventBody { ctx: Some(context), ..EventBody::new(id, Op::Occur, severity) }
}

fn bytes(path: &Path) -> Option<Vec<u8>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    std::fs::File::open(path).ok()?.take(FILE_MAX).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&bytes(path)?).ok()
}

/// Whole or not there: beside it, synced, then in its place.
fn put(path: &Path, document: &impl Serialize, mode: u32) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(dir)?;
    let fresh = path.with_extension("new");
    let mut file = std::fs::File::create(&fresh)?;
    file.set_permissions(std::fs::Permissions::from_mode(mode))?;
    file.write_all(&serde_json::to_vec(document)?)?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)?;
    std::fs::File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests;
