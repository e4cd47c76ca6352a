//! Events: something happened, or an alarm was raised or cleared. Ids, severities and what each means.

use serde::{Deserialize, Serialize};

/// How bad it is; also the last level of the topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// For the record.
    Info,
    /// Will become an error.
    Warn,
    /// The box cannot do its work.
    Err,
    /// Money or safety, page now.
    Crit,
}

impl Severity {
    /// Every severity, mildest first.
    pub const ALL: [Severity; 4] = [Severity::Info, Severity::Warn, Severity::Err, Severity::Crit];

    /// The topic level.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Severity::Info => "info",
            Severity::Warn => "warn",
            Severity::Err => "err",
            Severity::Crit => "crit",
        }
    }

    /// The severity of a topic level.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|severity| severity.key() == text)
    }
}

/// What an event does to its alarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Op {
    /// The alarm is open from now.
    Raise,
    /// The alarm is closed.
    Clear,
    /// No alarm, it just happened.
    Occur,
}

impl Op {
    /// As in JSON.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Op::Raise => "raise",
            Op::Clear => "clear",
            Op::Occur => "occur",
        }
    }
}

/// Event ids that this version's box and controller raise themselves. The runbook holds the operator's text.
pub mod id {
    /// The node's status socket gives no answer: the node is down or hung.
    pub const NODE_DOWN: &str = "NODE-DOWN";
    /// The node answers but has not polled the chain for long.
    pub const RPC_DOWN: &str = "RPC-DOWN";
    /// Sessions run and no ticket arrives.
    pub const EARN_NONE: &str = "EARN-NONE";
    /// A redemption failed.
    pub const TICKET_REDEEM_FAIL: &str = "TKT-REDEEM-FAIL";
    /// A pending winner is at most one round from expiry.
    pub const TICKET_PENDING_OLD: &str = "TKT-PENDING-OLD";
    /// The hot wallet is nearly empty.
    pub const GAS_LOW: &str = "GAS-LOW";
    /// The real-time ratio fell under one.
    pub const STREAM_SLOW: &str = "STR-SLOW";
    /// Too many segments fail.
    pub const STREAM_FAIL: &str = "STR-FAIL";
    /// The processor is too hot.
    pub const CPU_TEMP_HIGH: &str = "CPU-TEMP-HIGH";
    /// The state partition fills up.
    pub const DISK_FULL: &str = "DISK-FULL";
    /// The state partition was mounted read-only.
    pub const FS_RO: &str = "FS-RO";
    /// The kernel killed a process for memory.
    pub const MEM_OOM: &str = "MEM-OOM";
    /// The clock is not synchronised.
    pub const CLOCK_UNSYNC: &str = "CLOCK-UNSYNC";
    /// The spool passed its high-water mark.
    pub const SPOOL_HIGH: &str = "SPOOL-HIGH";
    /// Durable records were lost; the context names class and range.
    pub const SPOOL_LOST: &str = "SPOOL-LOST";
    /// The broker refused a publish or a subscription.
    pub const MQTT_ACL: &str = "MQTT-ACL";
    /// Two machines use one identity.
    pub const ID_CLONE: &str = "ID-CLONE";
    /// The box has been gone for long; raised by the controller.
    pub const BOX_OFFLINE: &str = "BOX-OFFLINE";
    /// A class of messages was muted because it kept being malformed; raised by the controller.
    pub const MSG_MALFORMED: &str = "MSG-MALFORMED";
    /// An update is there and waits for a quiet moment.
    pub const UPD_STAGED: &str = "UPD-STAGED";
    /// An update proved itself.
    pub const UPD_OK: &str = "UPD-OK";
    /// An update came to nothing; the old version runs.
    pub const UPD_FAIL: &str = "UPD-FAIL";
    /// An update was taken back by the box.
    pub const UPD_ROLLBACK: &str = "UPD-ROLLBACK";
    /// An offered release was not signed by those who may.
    pub const UPD_SIG_BAD: &str = "UPD-SIG-BAD";
    /// A version that was good fails its health checks: the box does no work.
    pub const SAFE_MODE: &str = "SAFE-MODE";
    /// An order was refused.
    pub const CMD_DENIED: &str = "CMD-DENIED";
    /// The box destroys its keys and leaves: the last thing it says.
    pub const DECOMMISSIONED: &str = "DECOMMISSIONED";
    /// Events over the hourly budget were folded into this one.
    pub const LOG_DIGEST: &str = "LOG-DIGEST";
}

/// Whether a text is an event id: `[A-Z][A-Z0-9-]{2,23}`.
#[must_use]
pub fn is_event_id(text: &str) -> bool {
    (3..=24).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_uppercase())
        && text.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn severity_orders_from_mild_to_grave_and_round_trips() {
        assert!(Severity::Crit > Severity::Err && Severity::Err > Severity::Warn && Severity::Warn > Severity::Info);
        for severity in Severity::ALL {
            assert_eq!(Severity::parse(severity.key()), Some(severity));
        }
        assert_eq!(Severity::parse("CRIT"), None);
    }

    #[test]
    fn event_ids_are_shouting_words() {
        assert!(is_event_id(id::NODE_DOWN) && is_event_id("GPU-TEMP-HIGH"));
        for bad in ["no", "-AB", "Ab1", "A", "THIS-EVENT-ID-IS-FAR-TOO-LONG"] {
            assert!(!is_event_id(bad), "{bad}");
        }
    }
}
