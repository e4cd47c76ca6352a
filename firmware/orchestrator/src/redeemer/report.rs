//! What the redeemer says of itself, and the alarms that follow from it.
use super::RewardReport;
use livepeer::broker::ChainHead;
use livepeer::units::{Timestamp, Wei};
use service::status::Alarm;

/// Transport faults in a row that are an alarm.
const FAULTS: u32 = 3;
/// Redemptions the hot account must be able to pay for: fewer is an error …
const RUNWAY_LOW: u64 = 20;
/// … and fewer than this is critical.
const RUNWAY_CRITICAL: u64 = 5;
/// What is said of a reward that is on its way.
const DUE: &str = "it is due";
/// Seconds after which a chain out of sight is an alarm.
const CHAIN_LATE_SECONDS: i64 = 60;

/// What the redeemer last knew.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RedeemerReport {
    /// The hot account's balance.
    pub hot_balance: Option<Wei>,
    /// Faults of endpoints in a row.
    pub faults_in_a_row: u32,
    /// The last ticket refused for a reason that needs a person, and the reason.
    pub refused: Option<(String, String)>,
    /// Why the signer did not sign, when it last did not.
    pub signer_fault: Option<String>,
    /// Winners in hand that are in their last round.
    pub last_round_tickets: usize,
    /// Winners in hand whose transactions came to nothing twice or more.
    pub failing_tickets: usize,
    /// Tickets paid below their face value.
    pub short_paid: u64,
    /// How the round's reward stands.
    pub reward: RewardReport,
    /// Calls of the reward that failed, since start.
    pub reward_call_errors: u64,
}

/// The alarms that follow, by the ids of the fleet's event table.
#[must_use]
pub fn alarms(report: &RedeemerReport, head: Option<&ChainHead>, redeem_gas: u64, now: Timestamp) -> Vec<Alarm> {
    let mut alarms = Vec::new();
    let mut raise = |id: &str, severity: &str, text: String| {
        alarms.push(Alarm { id: id.into(), severity: severity.into(), instance: String::new(), text });
    };
    let age = head.map(|head| now.0.saturating_sub(head.seen_at.0));
    if report.faults_in_a_row >= FAULTS || age.is_none_or(|age| age > CHAIN_LATE_SECONDS) {
        let seen = age.map_or_else(|| "never".to_owned(), |age| format!("{age} s ago"));
        raise("RPC-DOWN", "err", format!("the chain was last seen {seen}: add or repair RPC endpoints"));
    }
    if head.is_some_and(|head| !head.recipient_active) {
        let text = "the recipient is not in the active set: payments are refused and winners wait; check its stake";
        raise("ACTIVE-LOST", "crit", text.into());
    }
    if report.last_round_tickets > 0 {
        let text = format!("{} winners expire when this round ends: see why they wait", report.last_round_tickets);
        raise("TKT-PENDING-OLD", "crit", text);
    }
    if let Some(fault) = &report.signer_fault {
        raise("TKT-REDEEM-FAIL", "crit", format!("redemptions are not signed: {fault}"));
    } else if report.failing_tickets > 0 {
        let why = report.refused.as_ref().map(|(ticket, why)| format!("; last refusal: {ticket}: {why}"));
        let text = format!("{} winners failed to redeem twice{}", report.failing_tickets, why.unwrap_or_default());
        raise("TKT-REDEEM-FAIL", "crit", text);
    }
    if let Some(why) = &report.reward.missing {
        // The reward of a round that is over is gone.
        let severity = match report.reward.round_over_percent {
            0..25 => None,
            25..50 => Some("warn"),
            50..80 => Some("err"),
            _ => Some("crit"),
        };
        if let Some(severity) = severity.or((why != DUE).then_some("warn")) {
            let over = report.reward.round_over_percent;
            raise(
                "REWARD-MISSING",
                severity,
                format!("the reward is not called, {over} % of the round are over: {why}"),
            );
        }
    }
    if report.short_paid > 0 {
        let text = format!("{} tickets were paid below their face value", report.short_paid);
        raise("TKT-SHORTPAID", "warn", text);
    }
    if let (Some(balance), Some(head)) = (report.hot_balance, head) {
        let covers = |count: u64| {
            let gas = redeem_gas.saturating_mul(count);
            head.gas_price.checked_mul(gas).is_some_and(|cost| balance >= cost)
        };
        if !covers(RUNWAY_LOW) {
            let severity = if covers(RUNWAY_CRITICAL) { "err" } else { "crit" };
            raise("GAS-LOW", severity, format!("the hot account holds {balance} wei: send it ETH for gas"));
        }
    }
    alarms
}

#[cfg(test)]
mod tests {
    use super::*;
    use livepeer::address::H256;
    use livepeer::units::{L1Block, L2Block, Round};

    fn head() -> ChainHead {
        ChainHead {
            l1_block: L1Block(1),
            l2_block: L2Block(1),
            round: Round(1),
            last_initialized_round: Round(1),
            ticket_round: Round(1),
            ticket_round_block_hash: H256::zero(),
            recipient_active: true,
            gas_price: Wei::from(100),
            paused: false,
            seen_at: Timestamp(1000),
        }
    }

    fn ids(report: &RedeemerReport, head: Option<&ChainHead>, now: i64) -> Vec<(String, String)> {
        alarms(report, head, 10, Timestamp(now)).into_iter().map(|alarm| (alarm.id, alarm.severity)).collect()
    }

    fn pair(id: &str, severity: &str) -> Vec<(String, String)> {
        vec![(id.into(), severity.into())]
    }

    #[test]
    fn a_healthy_node_raises_nothing() {
        let report = RedeemerReport { hot_balance: Some(Wei::from(20_000)), ..RedeemerReport::default() };
        assert!(ids(&report, Some(&head()), 1060).is_empty());
    }

    #[test]
    fn each_trouble_has_its_alarm() {
        assert_eq!(ids(&RedeemerReport::default(), None, 0), pair("RPC-DOWN", "err"));
        assert_eq!(ids(&RedeemerReport::default(), Some(&head()), 1061), pair("RPC-DOWN", "err"));
        let low = |balance: u64| RedeemerReport { hot_balance: Some(Wei::from(balance)), ..RedeemerReport::default() };
        assert_eq!(ids(&low(19_999), Some(&head()), 1000), pair("GAS-LOW", "err"));
        assert_eq!(ids(&low(4_999), Some(&head()), 1000), pair("GAS-LOW", "crit"));
        let late = RedeemerReport { last_round_tickets: 1, ..RedeemerReport::default() };
        assert_eq!(ids(&late, Some(&head()), 1000), pair("TKT-PENDING-OLD", "crit"));
        let failing = RedeemerReport { failing_tickets: 1, ..RedeemerReport::default() };
        assert_eq!(ids(&failing, Some(&head()), 1000), pair("TKT-REDEEM-FAIL", "crit"));
        let unrewarded = |over: u64, why: &str| {
            let reward = RewardReport { missing: Some(why.to_owned()), round_over_percent: over };
            ids(&RedeemerReport { reward, ..RedeemerReport::default() }, Some(&head()), 1000)
        };
        assert!(unrewarded(24, DUE).is_empty(), "there is time");
        assert_eq!(unrewarded(1, "not the caller"), pair("REWARD-MISSING", "warn"));
        assert_eq!(unrewarded(60, DUE), pair("REWARD-MISSING", "err"));
        assert_eq!(unrewarded(90, DUE), pair("REWARD-MISSING", "crit"));
        let gone = ChainHead { recipient_active: false, ..head() };
        assert_eq!(ids(&RedeemerReport::default(), Some(&gone), 1000), pair("ACTIVE-LOST", "crit"));
    }
}
