//! Opening, closing and looking: the handle everybody shares.
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use livepeer::address::{Address, H256};
use livepeer::units::{L1Block, Timestamp, Wei};

use crate::balance::{Account, AccountRecord, Balance};
use crate::errand::{self, OnErrand};
use crate::error::{Health, LedgerError};
use crate::journal::{self, Entry, Journal, Replay, Winner};
use crate::redemption::Redemption;
use crate::store::{Changes, Contents, Kind, Opened, SCHEMA, Store};
use crate::totals::{Pending, Totals};
use crate::{files, generation, store};

/// How to open a ledger.
#[derive(Debug, Clone, Copy)]
pub struct OpenOptions {
    /// Size of sled's page cache, a hint.
    pub cache_bytes: u64,
    /// How long sled may take to open.
    pub deadline: Duration,
    /// A journal longer than this is rewritten when winners are pruned, and at the start.
    pub rewrite_above_bytes: u64,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self { cache_bytes: 8 * 1024 * 1024, deadline: Duration::from_secs(120), rewrite_above_bytes: 4 * 1024 * 1024 }
    }
}

/// The ledger. Clones share it; it is safe to use from many threads. All calls block.
#[derive(Debug, Clone)]
pub struct Ledger(pub(crate) Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    dir: PathBuf,
    pub(crate) store: Store,
    pub(crate) journal: Journal,
    pub(crate) health: Health,
    generation: u64,
    writer: Mutex<Writer>,
    /// One redemption moves at a time, from the check to the sync.
    pub(crate) moving: Mutex<()>,
    /// Shared by those who have written to the journal and not yet to the store; a rewrite waits for them.
    pub(crate) recording: RwLock<()>,
    rewrite_above_bytes: u64,
    _lock: File,
}

/// Winners and totals, as the store has them. Whoever holds it is the only writer.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    pub(crate) winners: BTreeMap<H256, Winner>,
    pub(crate) totals: Totals,
    /// Offers up to this block are over, whatever a lagging endpoint says: their nonces are forgotten.
    pub(crate) head: L1Block,
    /// The errand under way.
    pub(crate) errand: Option<OnErrand>,
    closed: bool,
}

impl Writer {
    pub(crate) fn put_totals(&self, changes: &mut Changes) {
        let totals = serde_json::to_vec(&self.totals).expect("totals are plain data");
        changes.put(Kind::Meta, b"totals", &totals);
    }

    pub(crate) fn put_winner(&self, changes: &mut Changes, ticket: H256) {
        if let Some(winner) = self.winners.get(&ticket) {
            let record = serde_json::to_vec(winner).expect("winners are plain data");
            changes.put(Kind::Redemption, ticket.as_bytes(), &record);
        }
    }

    /// A ticket whose unconfirmed redemption has this account nonce, other than these.
    pub(crate) fn holder_of(&self, account_nonce: u64, but: &[H256]) -> Option<H256> {
        let holds = |winner: &Winner| matches!(&winner.state, Redemption::Submitted { submission, .. } if submission.account_nonce == account_nonce);
        let mut others = self.winners.iter().filter(|(ticket, _)| !but.contains(*ticket));
        others.find(|(_, winner)| holds(winner)).map(|(ticket, _)| *ticket)
    }

    /// Tickets that a recorded transaction redeems together with others, and that are not known to be on their way: the
    /// power went while they were recorded. Each is brought where the others are, since that transaction may be mined.
    fn complete_batches(&mut self) -> Vec<H256> {
        let is_batch =
            |state: &&Redemption| matches!(state, Redemption::Submitted { submission, .. } if submission.is_batch());
        let batches: Vec<Redemption> =
            self.winners.values().map(|winner| &winner.state).filter(is_batch).cloned().collect();
        let mut added = Vec::new();
        for state in batches {
            let Redemption::Submitted { submission, .. } = &state else { continue };
            for ticket in &submission.tickets {
                let Some(winner) = self.winners.get_mut(ticket) else { continue };
                if !matches!(winner.state, Redemption::Held { .. }) {
                    continue;
                }
                self.totals.count_step(&winner.state, &state, winner.winner.ticket().face_value);
                *winner = Winner { winner: winner.winner, step: winner.step.saturating_add(1), state: state.clone() };
                added.push(*ticket);
            }
        }
        added
    }

    pub(crate) fn held_of(&self, sender: Address) -> Pending {
        let mut pending = Pending::default();
        for winner in self.winners.values() {
            if !winner.state.is_settled() && winner.winner.ticket().sender == sender {
                pending.add(winner.winner.ticket().face_value);
            }
        }
        pending
    }
}

/// What a rebuild found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rebuilt {
    /// Winners in the journal.
    pub winners: usize,
    /// Those not settled, which are redeemed as usual.
    pub pending: Pending,
    /// Where the old store lies now.
    pub set_aside: Option<PathBuf>,
}

impl Ledger {
    /// Opens the ledger in a directory of its own, making it when there is none.
    ///
    /// A damaged store is set aside and rebuilt from the winners journal: winners survive, credit does not.
    ///
    /// # Errors
    /// [`LedgerError::AlreadyRunning`] when another process has it; [`LedgerError::NewerSchema`]; otherwise what
    /// the disk said.
    pub fn open(dir: &Path, options: OpenOptions) -> Result<Self, LedgerError> {
        open(dir, options, false).map(|(ledger, _)| ledger)
    }

    /// The generation for [`livepeer::recipient_rand::RecipientSecret::new`].
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.0.generation
    }

    /// What an account has; nothing when it is not known.
    ///
    /// # Errors
    /// What the store said.
    pub fn balance(&self, account: &Account) -> Result<Balance, LedgerError> {
        self.0.account(account).map(|record| record.balance)
    }

    /// Takes a fee from an account, below zero if need be. Not durable on return: an unclean stop may forget
    /// the last half second of fees.
    ///
    /// # Errors
    /// [`LedgerError::Overflow`], or what the store said.
    pub fn debit(&self, account: &Account, fee: Wei, now: Timestamp) -> Result<Balance, LedgerError> {
        let _writer = self.0.write()?;
        let mut record = self.0.account(account)?;
        record.balance.debit = record.balance.debit.checked_add(fee).ok_or(LedgerError::Overflow)?;
        record.used_at = now;
        let mut changes = Changes::default();
        changes.put(Kind::Account, &account.key(), &record.encode());
        self.0.health.note(self.0.store.apply(changes))?;
        Ok(record.balance)
    }

    /// Closes accounts that were not used for some time; how many.
    ///
    /// # Errors
    /// What the store said.
    pub fn expire_idle(&self, now: Timestamp, idle: Duration) -> Result<usize, LedgerError> {
        let _writer = self.0.write()?;
        let idle = i64::try_from(idle.as_secs()).unwrap_or(i64::MAX);
        let (mut changes, mut count) = (Changes::default(), 0usize);
        for record in self.0.store.scan(Kind::Account, None) {
            let (key, payload) = self.0.health.note(record)?;
            let used_at = AccountRecord::decode(&payload).map_or(Timestamp(i64::MIN), |record| record.used_at);
            if now.0.saturating_sub(used_at.0) >= idle {
                changes.remove(Kind::Account, &key);
                count = count.saturating_add(1);
            }
        }
        if count > 0 {
            self.0.health.note(self.0.store.apply(changes))?;
        }
        Ok(count)
    }

    /// Forgets the seen nonces of offers that are over at this block; how many offers. From then on no
    /// ticket of theirs earns credit, even if an endpoint that lags reports an earlier block.
    ///
    /// # Errors
    /// What the store said.
    pub fn expire_offers(&self, head: L1Block) -> Result<usize, LedgerError> {
        let mut writer = self.0.write()?;
        if head <= writer.head {
            return Ok(0);
        }
        let (mut changes, mut count) = (Changes::default(), 0usize);
        let end = head.0.saturating_add(1).to_be_bytes();
        for record in self.0.store.scan(Kind::Nonces, Some(&end)) {
            let (key, _) = self.0.health.note(record)?;
            changes.remove(Kind::Nonces, &key);
            count = count.saturating_add(1);
        }
        changes.put(Kind::Meta, b"head", &head.0.to_be_bytes());
        self.0.health.note(self.0.store.apply(changes))?;
        writer.head = head;
        Ok(count)
    }

    /// Totals since the ledger began.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.0.lock().totals
    }

    /// Winners not yet settled.
    #[must_use]
    pub fn pending(&self) -> Pending {
        let mut pending = Pending::default();
        for winner in self.0.lock().winners.values().filter(|winner| !winner.state.is_settled()) {
            pending.add(winner.winner.ticket().face_value);
        }
        pending
    }

    /// Winners not yet settled, by who pays them.
    #[must_use]
    pub fn pending_by_sender(&self) -> BTreeMap<Address, Pending> {
        let mut by_sender = BTreeMap::<Address, Pending>::new();
        for winner in self.0.lock().winners.values().filter(|winner| !winner.state.is_settled()) {
            let ticket = winner.winner.ticket();
            by_sender.entry(ticket.sender).or_default().add(ticket.face_value);
        }
        by_sender
    }

    /// Where a winner stands.
    #[must_use]
    pub fn redemption(&self, ticket: H256) -> Option<Redemption> {
        self.0.lock().winners.get(&ticket).map(|winner| winner.state.clone())
    }

    /// The error that made the ledger read-only, if one did. Only a restart helps.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.0.health.failure().map(str::to_owned)
    }

    /// Writes all winners and totals to a file that can take the journal's place; how many winners.
    /// The file holds recipientRand of unredeemed winners: keep it as safe as the ledger.
    ///
    /// # Errors
    /// What the disk said.
    pub fn export(&self, path: &Path) -> Result<u64, LedgerError> {
        let (totals, winners) = {
            let writer = self.0.lock();
            (writer.totals, writer.winners.values().cloned().collect::<Vec<_>>())
        };
        journal::export(path, totals, winners.into_iter())
    }

    /// Closes the ledger for all its clones. Durable on return; the next start keeps its offers.
    ///
    /// # Errors
    /// What the disk said; the next start then takes the stop for an unclean one.
    pub fn close(&self) -> Result<(), LedgerError> {
        let _moving = self.0.moving.lock().unwrap_or_else(PoisonError::into_inner);
        let mut writer = self.0.write()?;
        writer.closed = true;
        self.0.health.note(self.0.journal.sync_to(self.0.journal.end()))?;
        self.0.health.note(self.0.store.sync_to(self.0.store.last_commit()))?;
        let digest = self.0.health.note(self.0.store.digest())?;
        self.0.health.note(generation::end(&self.0.dir, self.0.generation, digest))
    }
}

impl Inner {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The writer, if writing is possible at all.
    pub(crate) fn write(&self) -> Result<MutexGuard<'_, Writer>, LedgerError> {
        self.health.check()?;
        let writer = self.lock();
        if writer.closed { Err(LedgerError::Closed) } else { Ok(writer) }
    }

    pub(crate) fn account(&self, account: &Account) -> Result<AccountRecord, LedgerError> {
        let key = account.key();
        let Some(payload) = self.health.note(self.store.get(Kind::Account, &key))? else {
            return Ok(AccountRecord::default());
        };
        let record = AccountRecord::decode(&payload);
        self.health.note(record.ok_or_else(|| LedgerError::Corrupt { key: hex::encode(key) }))
    }
}

/// Sets the store aside and rebuilds it from the winners journal. Credit and totals of tickets received since
/// the journal was last rewritten are lost; winners and their redemptions are not.
///
/// # Errors
/// [`LedgerError::AlreadyRunning`] while a node runs; otherwise what the disk said.
pub fn rebuild(dir: &Path) -> Result<Rebuilt, LedgerError> {
    let (ledger, set_aside) = open(dir, OpenOptions::default(), true)?;
    let winners = ledger.0.lock().winners.len();
    let rebuilt = Rebuilt { winners, pending: ledger.pending(), set_aside };
    ledger.close()?;
    Ok(rebuilt)
}

fn open(dir: &Path, options: OpenOptions, set_store_aside: bool) -> Result<(Ledger, Option<PathBuf>), LedgerError> {
    files::make_dir(dir)?;
    let lock = take_lock(dir)?;
    if let Some(parent) = dir.canonicalize().map_err(LedgerError::io(dir))?.parent() {
        files::sync_dir(parent)?;
    }
    let (journal, replay) = Journal::open(dir)?;
    let (store, contents, set_aside) = open_store(dir, options, set_store_aside)?;
    check_schema(&contents)?;
    let (writer, repaired) = reconcile(&store, &contents, &replay)?;
    let intact = !repaired && set_aside.is_none() && replay.damaged == 0 && replay.torn_bytes == 0;
    let generation = generation::begin(dir, contents.digest, intact)?;
    let journal_lacks_winners = writer.winners.keys().any(|ticket| !replay.winners.contains_key(ticket));
    if journal_lacks_winners || replay.damaged > 0 || journal.is_longer_than(options.rewrite_above_bytes) {
        journal.rewrite(writer.totals, writer.winners.values().cloned())?;
    }
    let inner = Inner {
        dir: dir.to_owned(),
        store,
        journal,
        health: Health::default(),
        generation,
        writer: Mutex::new(writer),
        moving: Mutex::new(()),
        recording: RwLock::new(()),
        rewrite_above_bytes: options.rewrite_above_bytes,
        _lock: lock,
    };
    Ok((Ledger(Arc::new(inner)), set_aside))
}

fn take_lock(dir: &Path) -> Result<File, LedgerError> {
    use std::os::unix::fs::OpenOptionsExt;
    let path = dir.join("lock");
    let lock = File::options().write(true).create(true).truncate(false).mode(0o600).open(&path);
    let lock = lock.map_err(LedgerError::io(&path))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(std::fs::TryLockError::WouldBlock) => Err(LedgerError::AlreadyRunning { dir: dir.to_owned() }),
        Err(std::fs::TryLockError::Error(source)) => Err(LedgerError::io(&path)(source)),
    }
}

fn open_store(
    dir: &Path,
    options: OpenOptions,
    set_aside: bool,
) -> Result<(Store, Contents, Option<PathBuf>), LedgerError> {
    let path = dir.join(store::DIR);
    let reason = if set_aside && path.exists() {
        "a rebuild was asked for".to_owned()
    } else {
        match Store::open(dir, options.cache_bytes, options.deadline)? {
            Opened::Good(store, contents) => return Ok((store, contents, None)),
            Opened::Damaged(reason) => reason,
        }
    };
    let aside = files::aside(&path, "damaged");
    std::fs::rename(&path, &aside).map_err(LedgerError::io(&path))?;
    files::sync_dir(dir)?;
    tracing::error!(
        reason,
        aside = %aside.display(),
        "ledger store was set aside and is rebuilt from the winners journal: gateways lose their credit, check the disk"
    );
    match Store::open(dir, options.cache_bytes, options.deadline)? {
        Opened::Good(store, contents) => Ok((store, contents, Some(aside))),
        Opened::Damaged(reason) => Err(LedgerError::Store(reason.into())),
    }
}

fn check_schema(contents: &Contents) -> Result<(), LedgerError> {
    let found = contents.of(Kind::Meta).find(|(key, _)| *key == b"schema");
    let number = |bytes: &[u8]| bytes.try_into().ok().map(u32::from_be_bytes);
    match found.map(|(_, payload)| number(payload)) {
        Some(Some(found)) if found > SCHEMA => Err(LedgerError::NewerSchema { found, known: SCHEMA }),
        Some(None) => Err(LedgerError::Corrupt { key: "schema".into() }),
        _ => Ok(()),
    }
}

/// Reads winners and totals from the store and adds what only the journal knows: a winner or a step that was
/// synced there when the power went, or everything when the store is new. Was anything added to an old store?
fn reconcile(store: &Store, contents: &Contents, replay: &Replay) -> Result<(Writer, bool), LedgerError> {
    let corrupt = |key: &[u8]| LedgerError::Corrupt { key: hex::encode(key) };
    let mut writer = Writer::default();
    let mut fresh = true;
    for (key, payload) in contents.of(Kind::Meta) {
        match key {
            b"totals" => {
                writer.totals = serde_json::from_slice(payload).map_err(|_| corrupt(key))?;
                fresh = false;
            }
            errand::KEY => writer.errand = Some(serde_json::from_slice(payload).map_err(|_| corrupt(key))?),
            b"head" => writer.head = L1Block(u64::from_be_bytes(payload.try_into().map_err(|_| corrupt(key))?)),
            _ => {}
        }
    }
    for (key, payload) in contents.of(Kind::Redemption) {
        let winner: Winner = serde_json::from_slice(payload).map_err(|_| corrupt(key))?;
        writer.winners.insert(winner.winner.hash(), winner);
    }
    let mut added = Vec::new();
    for (ticket, told) in &replay.winners {
        let face_value = told.winner.ticket().face_value;
        match writer.winners.get_mut(ticket) {
            Some(known) if known.step < told.step => {
                writer.totals.count_step(&known.state, &told.state, face_value);
                *known = told.clone();
            }
            // What is settled and not in the store was dropped from it on purpose.
            Some(_) => continue,
            None if fresh || !told.state.is_settled() => {
                writer.totals.count_winner(face_value);
                writer.winners.insert(*ticket, told.clone());
            }
            None => continue,
        }
        added.push(*ticket);
    }
    if fresh {
        writer.totals = replay.totals;
    }
    added.extend(writer.complete_batches());
    if !fresh && !added.is_empty() {
        tracing::warn!(winners = added.len(), "winners were restored from the journal");
    }
    if fresh || !added.is_empty() {
        let mut changes = Changes::default();
        changes.put(Kind::Meta, b"schema", &SCHEMA.to_be_bytes());
        writer.put_totals(&mut changes);
        added.iter().for_each(|ticket| writer.put_winner(&mut changes, *ticket));
        let commit = store.apply(changes)?;
        store.sync_to(commit)?;
    }
    Ok((writer, !added.is_empty()))
}

impl Inner {
    /// Makes entries durable in the journal. They must be in the store before the guard is let go, or a
    /// rewrite of the journal could drop them.
    pub(crate) fn record(&self, entries: &[Entry]) -> Result<RwLockReadGuard<'_, ()>, LedgerError> {
        let recording = self.recording.read().unwrap_or_else(PoisonError::into_inner);
        let position = self.health.note(self.journal.append(entries))?;
        self.health.note(self.journal.sync_to(position))?;
        Ok(recording)
    }

    /// Rewrites the journal if it has grown long.
    pub(crate) fn shorten_journal(&self) -> Result<(), LedgerError> {
        if !self.journal.is_longer_than(self.rewrite_above_bytes) {
            return Ok(());
        }
        let _all = self.recording.write().unwrap_or_else(PoisonError::into_inner);
        let writer = self.write()?;
        self.health.note(self.journal.rewrite(writer.totals, writer.winners.values().cloned()))
    }
}

#[cfg(test)]
mod tests;
