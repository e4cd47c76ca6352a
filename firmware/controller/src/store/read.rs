//! The reading side: what the HTTP API answers, from its own connection.

use std::collections::BTreeMap;
use std::path::Path;

use fleet_protocol::api::{BoxDetail, BoxSummary, CursorRow, Earnings, EventRow, LastValue, PresenceRow};
use fleet_protocol::presence::Presence;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, Row, params};
use serde_json::{Map, Value};

use super::{StoreError, unsigned};

/// Rows of a box's page.
const PRESENCE_ROWS: u32 = 50;
const EVENT_ROWS: u32 = 100;
/// Most rows of one events page.
const EVENTS_MAX: u32 = 1000;

/// A read-only connection.
#[derive(Debug)]
pub(crate) struct Reader {
    pub(super) connection: Connection,
}

const EVENT_COLUMNS: &str = "events.box, events.q, events.at_ms, events.t, events.id, events.sev, events.op,
    events.inst, events.val, events.lim,
    coalesce(alarms.open AND alarms.q = events.q AND alarms.e = events.e, 0)
    FROM events LEFT JOIN alarms
    ON alarms.box = events.box AND alarms.id = events.id AND alarms.inst = coalesce(events.inst, '')";

impl Reader {
    /// Open the database that a store has made.
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        connection.busy_timeout(std::time::Duration::from_secs(2))?;
        Ok(Self { connection })
    }

    /// One row per box, presence still as stored nowhere: the caller lays the live one over it.
    pub(crate) fn summaries(&self, only: Option<&str>) -> Result<Vec<BoxSummary>, StoreError> {
        let mut query = self.connection.prepare_cached(
            "SELECT box, fleet, last_ms, mode, fw, retired,
               (SELECT count(*) FROM alarms WHERE alarms.box = boxes.box AND open),
               (SELECT id FROM alarms WHERE alarms.box = boxes.box AND open
                ORDER BY CASE sev WHEN 'crit' THEN 0 WHEN 'err' THEN 1 WHEN 'warn' THEN 2 ELSE 3 END, id LIMIT 1)
               , ring FROM boxes WHERE ?1 IS NULL OR box = ?1 ORDER BY box",
        )?;
        let rows = query.query_map([only], |row| {
            let retired: bool = row.get(5)?;
            Ok(BoxSummary {
                id: row.get(0)?,
                fleet: row.get(1)?,
                presence: if retired { Presence::Retired } else { Presence::Unknown },
                age_s: None,
                last_seen_ms: row.get(2)?,
                mode: row.get(3)?,
                fw: row.get(4)?,
                ring: row.get(8)?,
                decommissioned: retired,
                ok: None,
                sessions_active: None,
                sessions_capacity: None,
                segments_ok: None,
                segments_failed: None,
                rtr_p50: None,
                rtr_p05: None,
                earnings: None,
                open_alarms: unsigned(row.get(6)?),
                top_alarm: row.get(7)?,
            })
        })?;
        let mut boxes = rows.collect::<Result<Vec<_>, _>>()?;
        for summary in &mut boxes {
            let last = self.last_values(&summary.id)?;
            fill(summary, &last);
        }
        Ok(boxes)
    }

    /// Everything about one box, `None` when it is not known.
    pub(crate) fn detail(&self, id: &str) -> Result<Option<BoxDetail>, StoreError> {
        let Some(summary) = self.summaries(Some(id))?.pop() else { return Ok(None) };
        let (epoch, boot, connection, info): (Option<String>, Option<i64>, Option<i64>, Option<String>) = self
            .connection
            .query_row("SELECT epoch, boot, connection, info FROM boxes WHERE box = ?", [id], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
            })?;
        let mut query = self.connection.prepare_cached(
            "SELECT at_ms, state, why FROM presence WHERE box = ? ORDER BY at_ms DESC, rowid DESC LIMIT ?",
        )?;
        let presence_log = query
            .query_map(params![id, PRESENCE_ROWS], |row| {
                let state: String = row.get(1)?;
                let presence = Presence::parse(&state).unwrap_or(Presence::Unknown);
                Ok(PresenceRow { at_ms: row.get(0)?, presence, why: row.get(2)? })
            })?
            .collect::<Result<Vec<_>, _>>()?;
        let mut query = self.connection.prepare_cached("SELECT class, stored FROM cursors WHERE box = ? AND e = ?")?;
        let cursors = query
            .query_map(params![id, epoch], |row| {
                let stored = unsigned(row.get(1)?);
                Ok((row.get(0)?, CursorRow { stored, acked: 0, ahead: 0 }))
            })?
            .collect::<Result<BTreeMap<String, CursorRow>, _>>()?;
        Ok(Some(BoxDetail {
            last: self.last_values(id)?,
            events: self.events(Some(id), false, EVENT_ROWS)?,
            summary,
            epoch,
            boot: boot.map(unsigned),
            connection: connection.map(unsigned),
            info: info.and_then(|text| serde_json::from_str(&text).ok()),
            presence_log,
            cursors,
            lost: BTreeMap::new(),
        }))
    }

    /// Events, newest first.
    pub(crate) fn events(&self, id: Option<&str>, open: bool, limit: u32) -> Result<Vec<EventRow>, StoreError> {
        let sql = format!(
            "SELECT {EVENT_COLUMNS}
             WHERE (?1 IS NULL OR events.box = ?1)
               AND (NOT ?2 OR (alarms.open AND alarms.q = events.q AND alarms.e = events.e))
             ORDER BY events.at_ms DESC, events.q DESC LIMIT ?3"
        );
        let mut query = self.connection.prepare_cached(&sql)?;
        let rows = query.query_map(params![id, open, limit.min(EVENTS_MAX)], event_row)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    fn last_values(&self, id: &str) -> Result<BTreeMap<String, LastValue>, StoreError> {
        let mut query = self.connection.prepare_cached("SELECT class, at_ms, m FROM last_values WHERE box = ?")?;
        let rows = query.query_map([id], |row| {
            let text: String = row.get(2)?;
            Ok((row.get(0)?, LastValue { at_ms: row.get(1)?, m: serde_json::from_str(&text).unwrap_or_default() }))
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Whether the database answers.
    pub(crate) fn answers(&self) -> bool {
        self.connection.query_row("SELECT 1", [], |row| row.get::<_, i64>(0)).optional().is_ok()
    }
}

fn event_row(row: &Row<'_>) -> rusqlite::Result<EventRow> {
    let json = |text: Option<String>| text.and_then(|text| serde_json::from_str(&text).ok());
    Ok(EventRow {
        box_id: row.get(0)?,
        q: unsigned(row.get(1)?),
        at_ms: row.get(2)?,
        t: row.get(3)?,
        id: row.get(4)?,
        sev: row.get(5)?,
        op: row.get(6)?,
        inst: row.get(7)?,
        val: json(row.get(8)?),
        lim: json(row.get(9)?),
        open: row.get(10)?,
    })
}

/// The metrics a summary shows.
fn fill(summary: &mut BoxSummary, last: &BTreeMap<String, LastValue>) {
    let metrics = |class: &str| last.get(class).map(|value| &value.m);
    let number = |class: &str, key: &str| metrics(class).and_then(|m| m.get(key)).and_then(first_number);
    let count = |class: &str, key: &str| {
        metrics(class)
            .and_then(|m| m.get(key))
            .and_then(|value| value.as_u64().or_else(|| value.as_array()?.iter().map(Value::as_u64).sum()))
    };
    summary.ok = number("hb", "ok");
    summary.sessions_active = count("hb", "ss").or_else(|| count("str", "ss"));
    summary.sessions_capacity = count("hb", "sc").or_else(|| count("str", "sc"));
    summary.segments_ok = count("str", "sg");
    summary.segments_failed = count("str", "sf");
    let ratios = metrics("str").and_then(|m| m.get("rtr")).and_then(Value::as_array);
    summary.rtr_p50 = ratios.and_then(|ratios| ratios.first()?.as_f64());
    summary.rtr_p05 = ratios.and_then(|ratios| ratios.get(1)?.as_f64());
    summary.earnings = last.get("earn").map(earnings);
}

fn first_number(value: &Value) -> Option<f64> {
    value.as_f64().or_else(|| value.as_array()?.first()?.as_f64())
}

fn earnings(last: &LastValue) -> Earnings {
    let count = |key: &str| last.m.get(key).and_then(Value::as_u64).unwrap_or(0);
    let wei = |key: &str| text(&last.m, key);
    Earnings {
        tickets_received: count("tr"),
        tickets_won: count("tw"),
        tickets_redeemed: count("rd"),
        redemptions_failed: count("rf"),
        tickets_pending: count("pd"),
        value_received_wei: wei("tv"),
        value_won_wei: wei("twv"),
        value_redeemed_wei: wei("rdv"),
        value_pending_wei: wei("pdv"),
        hot_wallet_wei: wei("eth"),
        round: count("rnd"),
        at_ms: last.at_ms,
    }
}

fn text(m: &Map<String, Value>, key: &str) -> String {
    m.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}
