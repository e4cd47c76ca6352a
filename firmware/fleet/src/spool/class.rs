//! One durable class: its segments in order, what has been acknowledged, and what happens when it is full.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::segment::{BODY_MAX, Record, Writer, rewrite, scan};
use super::slots::{Found, Slots};
use super::{SpoolError, make_dir, sync_parent, thin};

/// A new segment is begun when the current one passes this.
const SEGMENT_BYTES: u64 = 128 * 1024;
/// Damaged segments kept for a look; more are not, so that damage cannot fill the disk.
const QUARANTINE_FILES: usize = 8;
/// Thinning must free at least this share of the cap, so that it does not run for every record.
const THIN_TO_PERCENT: u64 = 90;

/// What a class does when it is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WhenFull {
    /// Nothing is ever dropped: the writer is refused.
    Refuse,
    /// Pairs of raise and clear of severity info, then warn, go; err and crit never.
    Coalesce,
    /// Cumulative counters: first, last and one per six hours stay.
    Thin,
}

/// The rules of a class.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Policy {
    /// Most bytes on disk.
    pub(crate) cap: u64,
    /// Sync at the latest this long after an append, and always before a record is handed out; `None`: every record.
    pub(crate) sync_after: Option<Duration>,
    /// What happens at the cap.
    pub(crate) when_full: WhenFull,
    /// Keep acknowledged records this long.
    pub(crate) keep_acked: Option<Duration>,
}

/// What opening found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Opened {
    /// Bytes of an interrupted write that were cut off.
    pub(crate) torn: u64,
    /// Records that existed and cannot be read any more, first and last.
    pub(crate) lost: Option<(u64, u64)>,
    /// The sequence cannot be continued safely: a new epoch is needed.
    pub(crate) sequence_lost: bool,
}

#[derive(Debug, Clone)]
struct Segment {
    first: u64,
    last: u64,
    bytes: u64,
}

#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
struct Cursor {
    acked: u64,
    last: u64,
}

/// One class of the spool.
#[derive(Debug)]
pub(crate) struct ClassSpool {
    dir: PathBuf,
    letter: &'static str,
    policy: Policy,
    segments: Vec<Segment>,
    writer: Option<Writer>,
    cursor: Cursor,
    cursor_file: Slots,
    unsynced_since: Option<Instant>,
    cache: Option<(u64, Vec<Record>)>,
}

impl ClassSpool {
    /// Open or create the class; damaged parts are set aside and named in the answer.
    pub(crate) fn open(dir: &Path, letter: &'static str, policy: Policy) -> Result<(Self, Opened), SpoolError> {
        make_dir(dir)?;
        let mut opened = Opened::default();
        let (cursor_file, found) = Slots::open(&dir.join("cursor"))?;
        let cursor: Option<Cursor> = match &found {
            Found::Document(bytes) => serde_json::from_slice(bytes).ok(),
            Found::Empty | Found::Damaged => None,
        };
        opened.sequence_lost = cursor.is_none() && found != Found::Empty;
        let mut spool = Self {
            dir: dir.to_owned(),
            letter,
            policy,
            segments: Vec::new(),
            writer: None,
            cursor: cursor.unwrap_or_default(),
            cursor_file,
            unsynced_since: None,
            cache: None,
        };
        let firsts = list(dir)?;
        for first in &firsts {
            spool.recover(*first, &mut opened)?;
        }
        if cursor.is_none()
            && let Some(segment) = spool.segments.first()
        {
            // Without a cursor nothing is known to be acknowledged, and the files themselves carry the sequence.
            spool.cursor.acked = spool.cursor.acked.max(segment.first.saturating_sub(1));
            opened.sequence_lost = false;
        }
        if let Some(segment) = spool.segments.last() {
            spool.cursor.last = spool.cursor.last.max(segment.last);
        }
        spool.cursor.last = spool.cursor.last.max(spool.cursor.acked);
        Ok((spool, opened))
    }

    /// Store a record; its sequence. Durable on return when the policy syncs every record.
    pub(crate) fn append(&mut self, tag: u8, body: Vec<u8>, now: Instant) -> Result<u64, SpoolError> {
        if body.len() > BODY_MAX {
            return Err(SpoolError::TooLarge(body.len()));
        }
        let record = Record { q: self.cursor.last + 1, tag, body };
        self.make_room(&record)?;
        if self.writer.as_ref().is_none_or(|writer| writer.len() >= SEGMENT_BYTES) {
            self.sync()?;
            let writer = Writer::create(&self.path(record.q))?;
            self.segments.push(Segment { first: record.q, last: record.q - 1, bytes: writer.len() });
            self.writer = Some(writer);
        }
        let writer = self.writer.as_mut().expect("a writer was made above");
        writer.append(&record)?;
        self.unsynced_since.get_or_insert(now);
        if self.policy.sync_after.is_none() {
            // A failed sync leaves the record in doubt; its number is used up, so that it cannot come twice.
            self.cursor.last = record.q;
            self.sync()?;
        }
        let writer = self.writer.as_ref().expect("a writer was made above");
        let (path_len, q) = (writer.len(), record.q);
        let segment = self.segments.last_mut().expect("the writer's segment is the last");
        segment.last = q;
        segment.bytes = path_len;
        self.cursor.last = q;
        if let Some((first, records)) = &mut self.cache
            && *first == segment.first
        {
            records.push(record);
        }
        Ok(q)
    }

    /// Sync if the policy's time has come.
    pub(crate) fn sync_if_due(&mut self, now: Instant) -> Result<(), SpoolError> {
        match (self.unsynced_since, self.policy.sync_after) {
            (Some(since), Some(after)) if now.duration_since(since) >= after => self.sync(),
            _ => Ok(()),
        }
    }

    /// Make every record durable.
    pub(crate) fn sync(&mut self) -> Result<(), SpoolError> {
        if self.unsynced_since.is_some()
            && let Some(writer) = &self.writer
        {
            writer.sync()?;
            self.unsynced_since = None;
        }
        Ok(())
    }

    /// The first unacknowledged record after `after` whose tag `wanted` accepts, with the sequence of the record that
    /// stands before it in the spool (0 when none does). Durable before it is handed out.
    pub(crate) fn next_after(
        &mut self,
        after: u64,
        wanted: impl Fn(u8) -> bool,
    ) -> Result<Option<(Record, u64)>, SpoolError> {
        let after = after.max(self.cursor.acked);
        if after >= self.cursor.last {
            return Ok(None);
        }
        self.sync()?;
        let mut previous = 0;
        for index in 0..self.segments.len() {
            let Some(segment) = self.segments.get(index).cloned() else { break };
            if segment.last <= after {
                previous = if segment.last >= segment.first { segment.last } else { previous };
                continue;
            }
            for record in self.load(segment.first)? {
                if record.q > after && wanted(record.tag) {
                    return Ok(Some((record.clone(), previous)));
                }
                previous = record.q;
            }
        }
        Ok(None)
    }

    /// The controller has everything up to `q`: whole segments below go, at once or when their time is up.
    pub(crate) fn ack(&mut self, q: u64) -> Result<(), SpoolError> {
        let q = q.min(self.cursor.last);
        if q <= self.cursor.acked {
            return Ok(());
        }
        self.cursor.acked = q;
        self.save_cursor()?;
        self.drop_acked()
    }

    /// The highest acknowledged sequence.
    pub(crate) fn acked(&self) -> u64 {
        self.cursor.acked
    }

    /// The highest sequence ever given.
    pub(crate) fn last(&self) -> u64 {
        self.cursor.last
    }

    /// The body of the newest record on disk, acknowledged or not.
    pub(crate) fn newest(&mut self) -> Result<Option<Vec<u8>>, SpoolError> {
        let Some(segment) = self.segments.last().cloned() else { return Ok(None) };
        Ok(self.load(segment.first)?.last().map(|record| record.body.clone()))
    }

    /// Bytes in use, percent of the cap.
    pub(crate) fn fill_percent(&self) -> u64 {
        (self.bytes() * 100).checked_div(self.policy.cap).unwrap_or(100)
    }

    fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    fn path(&self, first: u64) -> PathBuf {
        self.dir.join(format!("{first:016x}.seg"))
    }

    /// In place: an acknowledgement must be kept on a full disk too, for it is what frees space.
    fn save_cursor(&mut self) -> Result<(), SpoolError> {
        let text = serde_json::to_vec(&self.cursor).expect("two numbers are always json");
        self.cursor_file.write(&text)
    }

    fn load(&mut self, first: u64) -> Result<&[Record], SpoolError> {
        if self.cache.as_ref().is_none_or(|(cached, _)| *cached != first) {
            let path = self.path(first);
            let bytes = fs::read(&path).map_err(SpoolError::io(&path))?;
            self.cache = Some((first, scan(&bytes, first).records));
        }
        Ok(self.cache.as_ref().map(|(_, records)| records.as_slice()).unwrap_or_default())
    }

    /// Read one segment at start: cut an interrupted write, set a damaged file aside and keep its sound records.
    fn recover(&mut self, first: u64, opened: &mut Opened) -> Result<(), SpoolError> {
        let path = self.path(first);
        let bytes = fs::read(&path).map_err(SpoolError::io(&path))?;
        let found = scan(&bytes, first);
        if let Some((from, to)) = &mut opened.lost
            && self.segments.last().is_none_or(|segment| segment.last < *from)
        {
            // The damage ran to the end of the file before: all up to this one is gone.
            *to = (*to).max(first.saturating_sub(1));
        }
        self.writer = None;
        if found.torn == 0 && found.lost.is_none() {
            let last = found.last_possible;
            let bytes = found.valid;
            self.writer = Some(Writer::resume(&path, bytes)?);
            self.segments.push(Segment { first, last, bytes });
            return Ok(());
        }
        opened.torn += found.torn;
        // A number that may have been given out is never given again: what is missing in between costs nothing.
        self.cursor.last = self.cursor.last.max(found.last_possible);
        self.save_cursor()?;
        if let Some((from, to)) = found.lost {
            quarantine(&self.dir, &path)?;
            opened.lost = Some((opened.lost.map_or(from, |(from, _)| from), to));
        }
        match found.records.last() {
            None => {
                fs::remove_file(&path).map_err(SpoolError::io(&path))?;
                sync_parent(&path)
            }
            Some(last) => {
                let bytes = rewrite(&path, &found.records)?;
                self.segments.push(Segment { first, last: last.q, bytes });
                Ok(())
            }
        }
    }

    fn drop_acked(&mut self) -> Result<(), SpoolError> {
        let acked = self.cursor.acked;
        let mut dropped = Vec::new();
        for segment in &self.segments {
            if segment.last > acked || !self.may_go(segment) {
                break;
            }
            dropped.push(segment.first);
        }
        for first in dropped {
            self.remove(first)?;
        }
        Ok(())
    }

    /// Kept classes hold a segment until its last write is old enough, and the newest one always.
    fn may_go(&self, segment: &Segment) -> bool {
        let Some(keep) = self.policy.keep_acked else { return true };
        let newest = self.segments.last().is_some_and(|last| last.first == segment.first);
        let age = fs::metadata(self.path(segment.first))
            .and_then(|meta| meta.modified())
            .ok()
            .and_then(|at| SystemTime::now().duration_since(at).ok());
        !newest && age.is_some_and(|age| age >= keep)
    }

    fn remove(&mut self, first: u64) -> Result<(), SpoolError> {
        let path = self.path(first);
        if self.writer.as_ref().is_some_and(|writer| writer.path() == path) {
            self.writer = None;
            self.unsynced_since = None;
        }
        fs::remove_file(&path).map_err(SpoolError::io(&path))?;
        sync_parent(&path)?;
        self.segments.retain(|segment| segment.first != first);
        if self.cache.as_ref().is_some_and(|(cached, _)| *cached == first) {
            self.cache = None;
        }
        Ok(())
    }

    fn make_room(&mut self, record: &Record) -> Result<(), SpoolError> {
        let fits = |spool: &Self, percent: u64| spool.bytes() + record.size() <= spool.policy.cap / 100 * percent;
        if fits(self, 100) {
            return Ok(());
        }
        self.drop_acked()?;
        if fits(self, 100) {
            return Ok(());
        }
        match self.policy.when_full {
            WhenFull::Refuse => return Err(SpoolError::Full(self.letter)),
            WhenFull::Thin => self.thin(thin::cumulative)?,
            WhenFull::Coalesce => {
                self.thin(|records| thin::pairs(records, thin::INFO))?;
                if !fits(self, THIN_TO_PERCENT) {
                    self.thin(|records| thin::pairs(records, thin::WARN))?;
                }
                // What must never be dropped may pass the cap, by once its size.
                if !fits(self, 100) && record.tag > thin::WARN && fits(self, 200) {
                    return Ok(());
                }
            }
        }
        if fits(self, 100) { Ok(()) } else { Err(SpoolError::Full(self.letter)) }
    }

    /// Rewrite every segment without the records that `choose` names; each rewrite is atomic.
    fn thin(&mut self, choose: impl Fn(&[Record]) -> BTreeSet<u64>) -> Result<(), SpoolError> {
        self.sync()?;
        let mut all = Vec::new();
        for first in self.segments.iter().map(|segment| segment.first).collect::<Vec<_>>() {
            all.extend_from_slice(self.load(first)?);
        }
        let gone = choose(&all);
        if gone.is_empty() {
            return Ok(());
        }
        tracing::warn!(class = self.letter, records = gone.len(), "spool was full and was thinned");
        // Sequence numbers of dropped records at the end stay used.
        self.save_cursor()?;
        self.cache = None;
        for index in (0..self.segments.len()).rev() {
            let Some(segment) = self.segments.get(index).cloned() else { continue };
            let inside = |q: u64| (segment.first..=segment.last).contains(&q);
            if !gone.iter().any(|q| inside(*q)) {
                continue;
            }
            let kept: Vec<Record> =
                all.iter().filter(|record| inside(record.q) && !gone.contains(&record.q)).cloned().collect();
            let path = self.path(segment.first);
            if self.writer.as_ref().is_some_and(|writer| writer.path() == path) {
                self.writer = None;
            }
            match kept.last() {
                None => self.remove(segment.first)?,
                Some(last) => {
                    let bytes = rewrite(&path, &kept)?;
                    if let Some(slot) = self.segments.get_mut(index) {
                        *slot = Segment { first: segment.first, last: last.q, bytes };
                    }
                }
            }
        }
        Ok(())
    }
}

/// First sequences of the segments in a directory, in order.
fn list(dir: &Path) -> Result<Vec<u64>, SpoolError> {
    let mut firsts = Vec::new();
    for entry in fs::read_dir(dir).map_err(SpoolError::io(dir))? {
        let name = entry.map_err(SpoolError::io(dir))?.file_name();
        let first = name.to_str().and_then(|name| name.strip_suffix(".seg"));
        if let Some(first) = first.and_then(|hex| u64::from_str_radix(hex, 16).ok()) {
            firsts.push(first);
        }
    }
    firsts.sort_unstable();
    Ok(firsts)
}

fn quarantine(dir: &Path, path: &Path) -> Result<(), SpoolError> {
    let aside = dir.join("quarantine");
    make_dir(&aside)?;
    if fs::read_dir(&aside).map_err(SpoolError::io(&aside))?.count() < QUARANTINE_FILES
        && let Some(name) = path.file_name()
    {
        let copy = aside.join(name);
        fs::copy(path, &copy).map_err(SpoolError::io(&copy))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
