//! What became of an order: `…/res/<cid>`.

use serde::{Deserialize, Serialize};

use super::{COUNTER_MAX, Life, PayloadError, life, range, read, version};
use crate::strict::FROM_BOX_MAX;
use crate::topic::is_cid;

/// Longest reason in bytes.
pub const REASON_MAX: usize = 512;

/// Where an order stands on a box. Any number of the first two, then one of the others, for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// Written down; nothing was done yet.
    Accepted,
    /// Under way.
    Running,
    /// Done.
    Done,
    /// Tried in vain.
    Failed,
    /// Not obeyed.
    Rejected,
    /// Its time was over before it began.
    Expired,
    /// A later order took its place before it was done.
    Superseded,
    /// Done, and taken back by the box.
    Reverted,
}

impl Standing {
    /// As in JSON.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Standing::Accepted => "accepted",
            Standing::Running => "running",
            Standing::Done => "done",
            Standing::Failed => "failed",
            Standing::Rejected => "rejected",
            Standing::Expired => "expired",
            Standing::Superseded => "superseded",
            Standing::Reverted => "reverted",
        }
    }

    /// The standing of a word.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        serde_json::from_value(serde_json::Value::String(text.to_owned())).ok()
    }

    /// Whether nothing comes after it.
    #[must_use]
    pub fn is_final(self) -> bool {
        !matches!(self, Standing::Accepted | Standing::Running)
    }
}

/// `…/res/<cid>`: progress and result of one order on one box.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Res {
    /// Payload version, 1.
    pub v: u8,
    /// Epoch, boot, connection.
    #[serde(flatten)]
    pub life: Life,
    /// Rises with each change; 0 for an order that was refused and not written down.
    pub q: u64,
    /// Unix milliseconds; absent when the clock was never valid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub t: Option<i64>,
    /// Milliseconds since boot.
    pub u: u64,
    /// The order.
    pub cid: String,
    /// Where it stands.
    pub st: Standing,
    /// How much of it is done, percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pct: Option<u8>,
    /// One word for the step or the reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The reason in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Res {
    /// Read from bytes the broker delivered to a controller.
    ///
    /// # Errors
    /// [`PayloadError`] when malformed or out of range.
    pub fn parse(bytes: &[u8]) -> Result<Self, PayloadError> {
        let res: Res = read(bytes, FROM_BOX_MAX)?;
        version(res.v)?;
        life(&res.life)?;
        range("q", res.q <= COUNTER_MAX)?;
        range("u", res.u <= COUNTER_MAX)?;
        range("cid", is_cid(&res.cid))?;
        range("pct", res.pct.is_none_or(|pct| pct <= 100))?;
        range("code", res.code.as_ref().is_none_or(|code| code.len() <= 32))?;
        range("reason", res.reason.as_ref().is_none_or(|reason| reason.len() <= REASON_MAX))?;
        Ok(res)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RES: &str = r#"{"v":1,"e":"9c1f02aa","b":3,"n":9,"q":4,"u":17,"cid":"019ab000-0000-7000-8000-000000000001",
        "st":"running","pct":40,"code":"fetching","from_the_future":1}"#;

    #[test]
    fn a_result_is_read_and_its_ranges_hold() {
        let res = Res::parse(RES.as_bytes()).unwrap();
        assert_eq!((res.st, res.pct, res.code.as_deref()), (Standing::Running, Some(40), Some("fetching")));
        assert_eq!(Res::parse(&serde_json::to_vec(&res).unwrap()).unwrap(), res);
        for (from, to) in [("40", "101"), ("running", "walking"), ("019ab000-", "../../.."), ("\"v\":1", "\"v\":2")] {
            assert!(Res::parse(RES.replace(from, to).as_bytes()).is_err(), "{to}");
        }
    }

    #[test]
    fn only_what_begins_is_not_final() {
        let all = ["accepted", "running", "done", "failed", "rejected", "expired", "superseded", "reverted"];
        let open: Vec<&str> = all.into_iter().filter(|word| !Standing::parse(word).unwrap().is_final()).collect();
        assert_eq!(open, ["accepted", "running"]);
        assert!(all.into_iter().all(|word| Standing::parse(word).unwrap().key() == word));
    }
}
