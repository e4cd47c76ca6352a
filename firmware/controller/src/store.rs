//! The fleet's memory: one SQLite file in WAL mode. One thread writes, readers have their own connection.
//!
//! Every durable record is unique by (box, epoch, q), so a record that comes twice is stored once. Nothing is
//! acknowledged before the transaction that stores it has been committed.

mod fleet;
mod read;

use std::path::Path;

use fleet_protocol::payload::{Durable, EventBody, Life};
use fleet_protocol::presence::Change;
use fleet_protocol::{BoxId, Epoch, FleetId};
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};
use serde_json::{Map, Value};

pub(crate) use fleet::{OrderAt, StoredCampaign, StoredOrder};
pub(crate) use read::Reader;

use crate::cursor::Cursor;

/// Version of the schema below; a database of a later one is refused.
const SCHEMA_VERSION: i64 = 2;

const SCHEMA: &str = "
CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE boxes (
  box TEXT PRIMARY KEY, fleet TEXT NOT NULL, first_ms INTEGER NOT NULL, last_ms INTEGER NOT NULL,
  retired INTEGER NOT NULL DEFAULT 0, epoch TEXT, boot INTEGER, connection INTEGER,
  heartbeat_s INTEGER, keepalive_s INTEGER, mode TEXT, fw TEXT, info TEXT
) WITHOUT ROWID;
CREATE TABLE presence (box TEXT NOT NULL, at_ms INTEGER NOT NULL, state TEXT NOT NULL, why TEXT NOT NULL);
CREATE INDEX presence_by_box ON presence (box, at_ms);
CREATE TABLE last_values (
  box TEXT NOT NULL, class TEXT NOT NULL, at_ms INTEGER NOT NULL, m TEXT NOT NULL, PRIMARY KEY (box, class)
) WITHOUT ROWID;
CREATE TABLE events (
  box TEXT NOT NULL, e TEXT NOT NULL, q INTEGER NOT NULL, pq INTEGER NOT NULL, at_ms INTEGER NOT NULL, t INTEGER,
  id TEXT NOT NULL, sev TEXT NOT NULL, op TEXT NOT NULL, inst TEXT, val TEXT, lim TEXT, cnt INTEGER, act TEXT, ctx TEXT,
  PRIMARY KEY (box, e, q)
) WITHOUT ROWID;
CREATE INDEX events_by_time ON events (at_ms);
CREATE TABLE alarms (
  box TEXT NOT NULL, id TEXT NOT NULL, inst TEXT NOT NULL, e TEXT NOT NULL, q INTEGER NOT NULL, sev TEXT NOT NULL,
  open INTEGER NOT NULL, PRIMARY KEY (box, id, inst)
) WITHOUT ROWID;
CREATE TABLE earnings (
  box TEXT NOT NULL, e TEXT NOT NULL, q INTEGER NOT NULL, pq INTEGER NOT NULL, at_ms INTEGER NOT NULL, t INTEGER,
  m TEXT NOT NULL, PRIMARY KEY (box, e, q)
) WITHOUT ROWID;
CREATE INDEX earnings_by_time ON earnings (at_ms);
CREATE TABLE ledger (
  box TEXT NOT NULL, e TEXT NOT NULL, q INTEGER NOT NULL, pq INTEGER NOT NULL, at_ms INTEGER NOT NULL, t INTEGER,
  m TEXT NOT NULL, PRIMARY KEY (box, e, q)
) WITHOUT ROWID;
CREATE TABLE cursors (
  box TEXT NOT NULL, e TEXT NOT NULL, class TEXT NOT NULL, stored INTEGER NOT NULL, PRIMARY KEY (box, e, class)
) WITHOUT ROWID;
";

/// What came with version 2: orders, campaigns, claims.
const SECOND: &str = "
ALTER TABLE boxes ADD COLUMN ring TEXT;
CREATE TABLE orders (
  cid TEXT PRIMARY KEY, op TEXT NOT NULL, at_ms INTEGER NOT NULL, exp_ms INTEGER NOT NULL, envelope BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX orders_by_time ON orders (at_ms);
CREATE TABLE order_boxes (
  cid TEXT NOT NULL, box TEXT NOT NULL, st TEXT, pct INTEGER, code TEXT, reason TEXT, at_ms INTEGER NOT NULL,
  e TEXT, q INTEGER NOT NULL, PRIMARY KEY (cid, box)
) WITHOUT ROWID;
CREATE TABLE campaigns (
  name TEXT PRIMARY KEY, cid TEXT NOT NULL UNIQUE, at_ms INTEGER NOT NULL, plan BLOB NOT NULL, pace TEXT NOT NULL,
  state TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE claims (
  serial TEXT NOT NULL, token TEXT PRIMARY KEY, box TEXT NOT NULL UNIQUE, ring TEXT NOT NULL, at_ms INTEGER NOT NULL,
  exp_ms INTEGER NOT NULL, used_ms INTEGER, spki TEXT, chain TEXT
) WITHOUT ROWID;
CREATE INDEX claims_by_serial ON claims (serial);
";

/// Why the store refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// SQLite or the disk.
    #[error("database: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// Written by a newer controller.
    #[error("database has schema {0}, this program knows {SCHEMA_VERSION}")]
    Newer(i64),
}

/// A box as the store knows it.
#[derive(Debug, Clone)]
pub(crate) struct KnownBox {
    pub(crate) id: BoxId,
    pub(crate) fleet: FleetId,
    pub(crate) retired: bool,
    pub(crate) life: Option<Life>,
    pub(crate) heartbeat_s: Option<u32>,
    pub(crate) keepalive_s: Option<u32>,
    pub(crate) ring: Option<String>,
}

/// The writing side.
#[derive(Debug)]
pub(crate) struct Store {
    connection: Connection,
}

impl Store {
    /// Open or create the database.
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let connection = Connection::open(path)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        // An acknowledged record must survive a power cut: the log is synced at every commit.
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.busy_timeout(std::time::Duration::from_secs(5))?;
        let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        let missing = match version {
            0 => format!("{SCHEMA}{SECOND}"),
            1 => SECOND.to_owned(),
            SCHEMA_VERSION => String::new(),
            newer => return Err(StoreError::Newer(newer)),
        };
        connection.execute_batch(&format!("BEGIN; {missing} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"))?;
        Ok(Self { connection })
    }

    /// Count a connection of the controller; durable on return.
    pub(crate) fn next_connection(&self) -> Result<u64, StoreError> {
        let n: i64 = self.connection.query_row(
            "INSERT INTO meta VALUES ('connection', 1)
             ON CONFLICT (key) DO UPDATE SET value = value + 1 RETURNING value",
            [],
            |row| row.get(0),
        )?;
        Ok(unsigned(n))
    }

    /// Every box.
    pub(crate) fn boxes(&self) -> Result<Vec<KnownBox>, StoreError> {
        let mut query = self.connection.prepare(
            "SELECT box, fleet, retired, epoch, boot, connection, heartbeat_s, keepalive_s, ring FROM boxes ORDER BY box",
        )?;
        let rows = query.query_map([], |row| {
            let life = (|| {
                let e = Epoch::new(row.get::<_, Option<String>>(3).ok()??).ok()?;
                Some(Life { e, b: unsigned(row.get(4).ok()?), n: unsigned(row.get(5).ok()?) })
            })();
            let periods = (row.get(6)?, row.get(7)?);
            Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get(2)?, life, periods, row.get(8)?))
        })?;
        let mut boxes = Vec::new();
        for row in rows {
            let (id, fleet, retired, life, (heartbeat_s, keepalive_s), ring) = row?;
            if let (Ok(id), Ok(fleet)) = (BoxId::new(id), FleetId::new(fleet)) {
                boxes.push(KnownBox { id, fleet, retired, life, heartbeat_s, keepalive_s, ring });
            }
        }
        Ok(boxes)
    }

    /// How far a class of a box is stored.
    pub(crate) fn cursor(&self, id: &BoxId, epoch: &Epoch, class: Durable) -> Result<Cursor, StoreError> {
        let stored: Option<i64> = self
            .connection
            .query_row(
                "SELECT stored FROM cursors WHERE box = ? AND e = ? AND class = ?",
                params![id.as_str(), epoch.as_str(), class.letter()],
                |row| row.get(0),
            )
            .optional()?;
        let stored = unsigned(stored.unwrap_or(0));
        let sql = format!("SELECT q, pq FROM {} WHERE box = ? AND e = ? AND q > ? ORDER BY q", table(class));
        let mut query = self.connection.prepare(&sql)?;
        let ahead = query
            .query_map(params![id.as_str(), epoch.as_str(), signed(stored)], |row| {
                Ok((unsigned(row.get(0)?), unsigned(row.get(1)?)))
            })?
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Cursor::load(stored, ahead))
    }

    /// Begin a batch.
    pub(crate) fn batch(&mut self) -> Result<Batch<'_>, StoreError> {
        Ok(Batch { transaction: self.connection.transaction()? })
    }

    /// Make every write fail, as a full disk does.
    #[cfg(test)]
    pub(crate) fn refuse_writes(&self, refuse: bool) {
        self.connection.pragma_update(None, "query_only", refuse).expect("a pragma of this connection");
    }

    /// Forget what is older than `before_ms`; the ledger is never forgotten.
    pub(crate) fn prune(&self, before_ms: i64) -> Result<(), StoreError> {
        for table in ["presence", "events", "earnings"] {
            self.connection.execute(&format!("DELETE FROM {table} WHERE at_ms < ?"), [before_ms])?;
        }
        Ok(())
    }
}

/// One transaction: nothing of it exists before [`Batch::commit`].
#[derive(Debug)]
pub(crate) struct Batch<'a> {
    transaction: Transaction<'a>,
}

/// Where a durable record stands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Key<'a> {
    pub(crate) id: &'a BoxId,
    pub(crate) e: &'a str,
    pub(crate) q: u64,
    pub(crate) previous: u64,
    pub(crate) at_ms: i64,
    pub(crate) t: Option<i64>,
}

impl Batch<'_> {
    /// Durable on return.
    pub(crate) fn commit(self) -> Result<(), StoreError> {
        Ok(self.transaction.commit()?)
    }

    pub(crate) fn enrol(&self, id: &BoxId, fleet: &FleetId, at_ms: i64) -> Result<(), StoreError> {
        self.run(
            "INSERT INTO boxes (box, fleet, first_ms, last_ms) VALUES (?, ?, ?, ?) ON CONFLICT (box) DO NOTHING",
            params![id.as_str(), fleet.as_str(), at_ms, at_ms],
        )
    }

    pub(crate) fn seen(&self, id: &BoxId, life: Option<&Life>, at_ms: i64) -> Result<(), StoreError> {
        match life {
            Some(life) => self.run(
                "UPDATE boxes SET last_ms = ?, epoch = ?, boot = ?, connection = ? WHERE box = ?",
                params![at_ms, life.e.as_str(), signed(life.b), signed(life.n), id.as_str()],
            ),
            None => self.run("UPDATE boxes SET last_ms = ? WHERE box = ?", params![at_ms, id.as_str()]),
        }
    }

    pub(crate) fn birth(
        &self,
        id: &BoxId,
        heartbeat_s: Option<u32>,
        keepalive_s: Option<u32>,
        mode: Option<&str>,
        fw: Option<&str>,
        ring: Option<&str>,
    ) -> Result<(), StoreError> {
        self.run(
            "UPDATE boxes SET heartbeat_s = ?, keepalive_s = ?, mode = coalesce(?, mode), fw = coalesce(?, fw),
               ring = coalesce(?, ring) WHERE box = ?",
            params![heartbeat_s, keepalive_s, mode, fw, ring, id.as_str()],
        )
    }

    pub(crate) fn mode(&self, id: &BoxId, mode: &str) -> Result<(), StoreError> {
        self.run("UPDATE boxes SET mode = ? WHERE box = ?", params![mode, id.as_str()])
    }

    pub(crate) fn info(&self, id: &BoxId, fw: &str, info: &str) -> Result<(), StoreError> {
        self.run("UPDATE boxes SET info = ?, fw = ? WHERE box = ?", params![info, fw, id.as_str()])
    }

    pub(crate) fn presence(&self, id: &BoxId, change: Change, at_ms: i64) -> Result<(), StoreError> {
        self.run("INSERT INTO presence VALUES (?, ?, ?, ?)", params![id.as_str(), at_ms, change.to.key(), change.why])
    }

    /// Lay new metrics over the last ones: what a message leaves out has not moved.
    pub(crate) fn last_values(
        &self,
        id: &BoxId,
        class: &str,
        m: &Map<String, Value>,
        at_ms: i64,
    ) -> Result<(), StoreError> {
        let before: Option<String> = self
            .transaction
            .query_row("SELECT m FROM last_values WHERE box = ? AND class = ?", params![id.as_str(), class], |row| {
                row.get(0)
            })
            .optional()?;
        let mut merged: Map<String, Value> =
            before.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        merged.extend(m.clone());
        self.run(
            "INSERT INTO last_values VALUES (?, ?, ?, ?)
             ON CONFLICT (box, class) DO UPDATE SET at_ms = excluded.at_ms, m = excluded.m",
            params![id.as_str(), class, at_ms, Value::Object(merged).to_string()],
        )
    }

    pub(crate) fn event(&self, key: Key<'_>, body: &EventBody) -> Result<(), StoreError> {
        let json = |value: &Option<Value>| value.as_ref().map(Value::to_string);
        let context = body.ctx.clone().map(|ctx| Value::Object(ctx).to_string());
        self.run(
            "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            params![
                key.id.as_str(),
                key.e,
                signed(key.q),
                signed(key.previous),
                key.at_ms,
                key.t,
                body.id,
                body.sev.key(),
                body.op.key(),
                body.inst,
                json(&body.val),
                json(&body.lim),
                body.cnt.map(signed),
                body.act,
                context,
            ],
        )?;
        let open = match body.op {
            fleet_protocol::event::Op::Raise => true,
            fleet_protocol::event::Op::Clear => false,
            fleet_protocol::event::Op::Occur => return Ok(()),
        };
        // Grave events overtake others, so an older one may come later: inside one epoch the larger number wins.
        self.run(
            "INSERT INTO alarms VALUES (?, ?, ?, ?, ?, ?, ?)
             ON CONFLICT (box, id, inst) DO UPDATE SET e = excluded.e, q = excluded.q, sev = excluded.sev, open = excluded.open
             WHERE alarms.e <> excluded.e OR alarms.q < excluded.q",
            params![
                key.id.as_str(),
                body.id,
                body.inst.as_deref().unwrap_or(""),
                key.e,
                signed(key.q),
                body.sev.key(),
                open
            ],
        )
    }

    pub(crate) fn metrics(&self, class: Durable, key: Key<'_>, m: &Map<String, Value>) -> Result<(), StoreError> {
        self.run(
            &format!("INSERT INTO {} VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING", table(class)),
            params![
                key.id.as_str(),
                key.e,
                signed(key.q),
                signed(key.previous),
                key.at_ms,
                key.t,
                Value::Object(m.clone()).to_string()
            ],
        )
    }

    pub(crate) fn cursor(&self, id: &BoxId, epoch: &Epoch, class: Durable, stored: u64) -> Result<(), StoreError> {
        self.run(
            "INSERT INTO cursors VALUES (?, ?, ?, ?) ON CONFLICT (box, e, class) DO UPDATE SET stored = excluded.stored",
            params![id.as_str(), epoch.as_str(), class.letter(), signed(stored)],
        )
    }

    pub(super) fn run(&self, sql: &str, values: impl rusqlite::Params) -> Result<(), StoreError> {
        self.transaction.prepare_cached(sql)?.execute(values)?;
        Ok(())
    }
}

fn table(class: Durable) -> &'static str {
    match class {
        Durable::Ledger => "ledger",
        Durable::Events => "events",
        Durable::Earnings => "earnings",
    }
}

/// Counters on the wire stay under 2⁵³, so both conversions are exact.
fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn unsigned(n: i64) -> u64 {
    u64::try_from(n).unwrap_or(0)
}

#[cfg(test)]
mod tests;
