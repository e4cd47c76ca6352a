//! Orders, campaigns and claims in the store.

use fleet_protocol::api::{Claim, OrderBox};
use fleet_protocol::campaign::pacer::{DEFERRED, Known};
use fleet_protocol::payload::{Res, Standing};
use fleet_protocol::{BoxId, FleetId};
use rusqlite::{Connection, Row, params};

use super::{Batch, Reader, Store, StoreError, signed, unsigned};

/// Where an order stands on one box.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OrderAt {
    /// `None` until the box has answered.
    pub(crate) st: Option<Standing>,
    pub(crate) code: Option<String>,
    pub(crate) at_ms: i64,
    /// The epoch and change of its last answer.
    pub(crate) e: Option<String>,
    pub(crate) q: u64,
}

/// A claim as it is stored.
#[derive(Debug, Clone)]
pub(crate) struct ClaimRow {
    pub(crate) token: String,
    pub(crate) box_id: String,
    pub(crate) ring: String,
    pub(crate) exp_ms: i64,
    pub(crate) spki: Option<String>,
    pub(crate) chain: Option<String>,
}

/// A stored order: its id, when it came, and its envelope.
pub(crate) type StoredOrder = (String, i64, Vec<u8>);
/// A stored campaign: when it came, its plan's envelope, its pace as JSON, its state.
pub(crate) type StoredCampaign = (i64, Vec<u8>, String, String);

impl Batch<'_> {
    pub(crate) fn order(
        &self,
        cid: &str,
        op: &str,
        at_ms: i64,
        exp_ms: i64,
        envelope: &[u8],
    ) -> Result<(), StoreError> {
        self.run(
            "INSERT INTO orders VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            params![cid, op, at_ms, exp_ms, envelope],
        )
    }

    /// A box that an order is for, before it has answered.
    pub(crate) fn order_for(&self, cid: &str, id: &BoxId, at_ms: i64) -> Result<(), StoreError> {
        self.run(
            "INSERT INTO order_boxes (cid, box, at_ms, q) VALUES (?, ?, ?, 0) ON CONFLICT DO NOTHING",
            params![cid, id.as_str(), at_ms],
        )
    }

    pub(crate) fn order_result(&self, id: &BoxId, res: &Res, at_ms: i64) -> Result<(), StoreError> {
        self.run(
            // Answers may come twice and in any order; what is final stays. An order that was refused is none of the
            // journal's, and counts only while nothing else was answered.
            "INSERT INTO order_boxes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
             ON CONFLICT (cid, box) DO UPDATE SET st = excluded.st, pct = excluded.pct, code = excluded.code,
               reason = excluded.reason, at_ms = excluded.at_ms, e = excluded.e, q = excluded.q
             WHERE order_boxes.st IS NULL OR (order_boxes.st IN ('accepted', 'running') AND excluded.q > 0
               AND (order_boxes.e <> excluded.e OR order_boxes.q < excluded.q))",
            params![
                res.cid,
                id.as_str(),
                res.st.key(),
                res.pct,
                res.code,
                res.reason,
                at_ms,
                res.life.e.as_str(),
                signed(res.q)
            ],
        )
    }

    /// The same order with more signatures: those who refused it are asked again.
    pub(crate) fn order_again(&self, cid: &str, envelope: &[u8], at_ms: i64) -> Result<(), StoreError> {
        self.run("UPDATE orders SET envelope = ? WHERE cid = ?", params![envelope, cid])?;
        self.run(
            "UPDATE order_boxes SET st = NULL, code = NULL, reason = NULL, at_ms = ?
             WHERE cid = ? AND st = 'rejected' AND q = 0",
            params![at_ms, cid],
        )
    }

    /// Nobody began it in its time.
    pub(crate) fn order_expired(&self, cid: &str, id: &BoxId, at_ms: i64) -> Result<(), StoreError> {
        self.run(
            "UPDATE order_boxes SET st = 'expired', code = 'unanswered', at_ms = ? WHERE cid = ? AND box = ?",
            params![at_ms, cid, id.as_str()],
        )
    }

    pub(crate) fn campaign(
        &self,
        name: &str,
        cid: &str,
        at_ms: i64,
        plan: &[u8],
        pace: &str,
    ) -> Result<(), StoreError> {
        self.run("INSERT INTO campaigns VALUES (?, ?, ?, ?, ?, 'running')", params![name, cid, at_ms, plan, pace])
    }

    pub(crate) fn campaign_now(&self, name: &str, pace: &str, state: &str) -> Result<(), StoreError> {
        self.run("UPDATE campaigns SET pace = ?, state = ? WHERE name = ?", params![pace, state, name])
    }

    /// A new claim; unused ones of the same serial are gone with it.
    pub(crate) fn claim(&self, claim: &Claim, token: &str) -> Result<(), StoreError> {
        self.run("DELETE FROM claims WHERE serial = ? AND used_ms IS NULL", params![claim.serial])?;
        self.run(
            "INSERT INTO claims (serial, token, box, ring, at_ms, exp_ms) VALUES (?, ?, ?, ?, ?, ?)",
            params![claim.serial, token, claim.id, claim.ring, claim.at_ms, claim.exp_ms],
        )
    }

    pub(crate) fn claim_used(&self, token: &str, at_ms: i64, spki: &str, chain: &str) -> Result<(), StoreError> {
        self.run(
            "UPDATE claims SET used_ms = ?, spki = ?, chain = ? WHERE token = ?",
            params![at_ms, spki, chain, token],
        )
    }

    pub(crate) fn retire(&self, id: &BoxId) -> Result<(), StoreError> {
        self.run("UPDATE boxes SET retired = 1 WHERE box = ?", params![id.as_str()])
    }

    pub(crate) fn ring(&self, id: &BoxId, ring: &FleetId) -> Result<(), StoreError> {
        self.run("UPDATE boxes SET ring = ? WHERE box = ?", params![ring.as_str(), id.as_str()])
    }
}

impl Store {
    /// Orders that came after `since_ms`, the newest first.
    pub(crate) fn orders(&self, since_ms: i64, most: u32) -> Result<Vec<StoredOrder>, StoreError> {
        let mut query = self
            .connection
            .prepare("SELECT cid, at_ms, envelope FROM orders WHERE at_ms >= ? ORDER BY at_ms DESC LIMIT ?")?;
        let rows = query.query_map(params![since_ms, most], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The boxes of an order or a campaign, and where it stands on them.
    pub(crate) fn order_boxes(&self, cid: &str) -> Result<Vec<(BoxId, OrderAt)>, StoreError> {
        let mut query =
            self.connection.prepare("SELECT box, st, code, at_ms, e, q FROM order_boxes WHERE cid = ? ORDER BY box")?;
        let rows = query.query_map([cid], |row| {
            let st: Option<String> = row.get(1)?;
            let at = OrderAt {
                st: st.and_then(|text| Standing::parse(&text)),
                code: row.get(2)?,
                at_ms: row.get(3)?,
                e: row.get(4)?,
                q: unsigned(row.get(5)?),
            };
            Ok((row.get::<_, String>(0)?, at))
        })?;
        let rows = rows.collect::<Result<Vec<_>, _>>()?;
        Ok(rows.into_iter().filter_map(|(id, at)| Some((BoxId::new(id).ok()?, at))).collect())
    }

    /// The newest campaign.
    pub(crate) fn campaign(&self) -> Result<Option<StoredCampaign>, StoreError> {
        Ok(campaigns(&self.connection, 1)?.pop())
    }

    /// Every box of the fleet as a campaign sees it.
    pub(crate) fn known(&self, cid: &str) -> Result<Vec<Known>, StoreError> {
        known(&self.connection, cid)
    }

    /// Claims of a serial.
    pub(crate) fn claims_of(&self, serial: &str) -> Result<Vec<ClaimRow>, StoreError> {
        let mut query = self
            .connection
            .prepare("SELECT token, box, ring, exp_ms, spki, chain FROM claims WHERE serial = ? ORDER BY at_ms DESC")?;
        let rows = query.query_map([serial], |row| {
            Ok(ClaimRow {
                token: row.get(0)?,
                box_id: row.get(1)?,
                ring: row.get(2)?,
                exp_ms: row.get(3)?,
                spki: row.get(4)?,
                chain: row.get(5)?,
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}

impl Reader {
    /// When an order came and its envelope; with `None` the last hundred.
    pub(crate) fn orders(&self, only: Option<&str>) -> Result<Vec<StoredOrder>, StoreError> {
        let mut query = self.connection.prepare_cached(
            "SELECT cid, at_ms, envelope FROM orders WHERE ?1 IS NULL OR cid = ?1 ORDER BY at_ms DESC LIMIT 100",
        )?;
        let rows = query.query_map([only], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Where an order or a campaign stands on each box.
    pub(crate) fn standings(&self, cid: &str) -> Result<Vec<OrderBox>, StoreError> {
        let mut query = self.connection.prepare_cached(
            "SELECT box, coalesce(st, 'queued'), pct, code, reason, at_ms FROM order_boxes WHERE cid = ? ORDER BY box",
        )?;
        let rows = query.query_map([cid], |row| {
            Ok(OrderBox {
                id: row.get(0)?,
                st: row.get(1)?,
                pct: row.get(2)?,
                code: row.get(3)?,
                reason: row.get(4)?,
                at_ms: row.get(5)?,
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Campaigns, the newest first.
    pub(crate) fn campaigns(&self) -> Result<Vec<StoredCampaign>, StoreError> {
        campaigns(&self.connection, 20)
    }

    /// Every box of the fleet as a campaign sees it.
    pub(crate) fn known(&self, cid: &str) -> Result<Vec<Known>, StoreError> {
        known(&self.connection, cid)
    }

    /// Every claim, the newest first.
    pub(crate) fn claims(&self) -> Result<Vec<Claim>, StoreError> {
        let mut query = self.connection.prepare_cached(
            "SELECT serial, box, ring, at_ms, exp_ms, used_ms FROM claims ORDER BY at_ms DESC LIMIT 1000",
        )?;
        Ok(query.query_map([], claim)?.collect::<Result<_, _>>()?)
    }
}

fn campaigns(connection: &Connection, most: u32) -> Result<Vec<StoredCampaign>, StoreError> {
    let mut query =
        connection.prepare_cached("SELECT at_ms, plan, pace, state FROM campaigns ORDER BY at_ms DESC LIMIT ?")?;
    let rows = query.query_map([most], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn known(connection: &Connection, cid: &str) -> Result<Vec<Known>, StoreError> {
    let mut query = connection.prepare_cached(
        "SELECT boxes.box, boxes.last_ms, order_boxes.st, order_boxes.at_ms, order_boxes.code
         FROM boxes LEFT JOIN order_boxes ON order_boxes.box = boxes.box AND order_boxes.cid = ?
         WHERE NOT boxes.retired ORDER BY boxes.box",
    )?;
    let rows = query.query_map([cid], |row| {
        let (st, at): (Option<String>, Option<i64>) = (row.get(2)?, row.get(3)?);
        let code: Option<String> = row.get(4)?;
        let answer = st.and_then(|st| Some((Standing::parse(&st)?, at?)));
        let deferred = code.as_deref() == Some(DEFERRED);
        Ok((row.get::<_, String>(0)?, answer, deferred, row.get(1)?))
    })?;
    let rows = rows.collect::<Result<Vec<_>, _>>()?;
    let known = |(id, answer, deferred, seen_ms)| Some(Known { id: BoxId::new(id).ok()?, answer, deferred, seen_ms });
    Ok(rows.into_iter().filter_map(known).collect())
}

fn claim(row: &Row<'_>) -> rusqlite::Result<Claim> {
    Ok(Claim {
        serial: row.get(0)?,
        id: row.get(1)?,
        ring: row.get(2)?,
        at_ms: row.get(3)?,
        exp_ms: row.get(4)?,
        used_ms: row.get(5)?,
    })
}
