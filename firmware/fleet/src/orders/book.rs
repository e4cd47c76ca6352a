//! What is remembered of orders over restarts: one file, replaced whole, durable before anything follows from it.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::path::Path;

use fleet_protocol::campaign::Rolling;
use fleet_protocol::command::UpdateArgs;
use fleet_protocol::payload::{REASON_MAX, Standing};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Orders remembered.
const KNOWN_MAX: usize = 64;
/// Largest of the files read here.
const FILE_MAX: u64 = 256 * 1024;

/// The memory.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Book {
    /// Highest counter obeyed, by author.
    pub(super) counters: BTreeMap<String, u64>,
    /// Orders taken and where they stand, the oldest first.
    pub(super) journal: Vec<Entry>,
    /// Counts changes of the journal.
    pub(super) q: u64,
    /// The update under way.
    pub(super) current: Option<Current>,
    /// The last campaign that was taken.
    pub(super) rolling: Option<Rolling>,
    /// The box is leaving its fleet.
    pub(super) leaving: Option<Leaving>,
    /// The last result of `millrace-update` that was told of.
    pub(super) reported: u64,
    /// An event that is being written: its place in the spool, and what it tells.
    pub(super) telling: Option<(u64, Told)>,
}

/// An order that was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) cid: String,
    pub(super) st: Standing,
    pub(super) pct: Option<u8>,
    pub(super) code: Option<String>,
    pub(super) reason: Option<String>,
    /// Which change this is.
    pub(super) q: u64,
    /// Somebody who listens was told.
    pub(super) said: bool,
}

/// An update under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Current {
    pub(super) cid: String,
    pub(super) args: UpdateArgs,
    /// It is staged and that was told: its installation may be asked for.
    pub(super) staged: bool,
    /// It came by a campaign, which may halt it.
    #[serde(default)]
    pub(super) campaign: bool,
}

/// A box that leaves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Leaving {
    pub(super) cid: String,
    pub(super) erase: bool,
    /// When it was ordered, Unix milliseconds.
    pub(super) since: i64,
    /// Where the event that says so stands in the spool.
    pub(super) place: Option<u64>,
}

/// What an event tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Told {
    Staged,
    NotStaged { reason: Option<String> },
    Result { seq: u64, id: String, became: String, reason: Option<String> },
    Leaving { place: u64 },
}

impl Book {
    pub(super) fn entry(&self, cid: &str) -> Option<&Entry> {
        self.journal.iter().find(|entry| entry.cid == cid)
    }

    /// Whether nothing more will become of an order.
    pub(super) fn is_over(&self, cid: &str) -> bool {
        self.entry(cid).is_some_and(|entry| entry.st.is_final())
    }

    /// Writes down where an order stands; true when that is news.
    pub(super) fn note(&mut self, cid: &str, st: Standing, pct: Option<u8>, code: &str, reason: Option<&str>) -> bool {
        let reason = reason.map(shortened);
        let code = Some(code.to_owned());
        let news = (st, pct, &code, &reason);
        if self.entry(cid).is_some_and(|old| (old.st, old.pct, &old.code, &old.reason) == news || old.st.is_final()) {
            return false;
        }
        self.q += 1;
        let entry = Entry { cid: cid.to_owned(), st, pct, code, reason, q: self.q, said: false };
        match self.journal.iter_mut().find(|old| old.cid == cid) {
            Some(old) => *old = entry,
            None => self.journal.push(entry),
        }
        let from = self.journal.len().saturating_sub(KNOWN_MAX);
        self.journal.drain(..from);
        true
    }
}

/// As much of a reason as a result carries.
pub(super) fn shortened(text: &str) -> String {
    let mut end = text.len().min(REASON_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default().to_owned()
}

pub(super) fn bytes(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path).ok()?.take(FILE_MAX).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&bytes(path)?).ok()
}

/// Whole or not there: beside it, synced, then in its place.
pub(super) fn put(path: &Path, document: &impl Serialize, mode: u32) -> std::io::Result<()> {
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
