//! Fleet aggregates as Prometheus text: never one series per box.

use std::fmt::Write as _;

use fleet_protocol::api::{BoxSummary, Earnings};
use fleet_protocol::presence::Presence;

use crate::ingest::Counters;

/// Name, help and value of a figure that is summed over boxes.
type Row<T> = (&'static str, &'static str, fn(&Earnings) -> T);

/// The whole page.
pub(super) fn render(boxes: &[BoxSummary], connected: bool, counters: Counters) -> String {
    let mut page = Page::default();
    page.head("millrace_controller_broker_connected", "gauge", "Whether the controller hears its broker.");
    page.value("millrace_controller_broker_connected", "", u8::from(connected));
    page.head("millrace_boxes", "gauge", "Boxes by presence.");
    for state in Presence::ALL {
        let count = boxes.iter().filter(|summary| summary.presence == state).count();
        page.value("millrace_boxes", &format!("{{state=\"{}\"}}", state.key().to_ascii_lowercase()), count);
    }
    // A silent box's last words are not the present.
    let live = |value: fn(&BoxSummary) -> Option<u64>| -> u64 {
        boxes.iter().filter(|summary| summary.presence == Presence::Online).filter_map(value).sum()
    };
    page.head("millrace_sessions_active", "gauge", "Sessions in work on boxes that are online.");
    page.value("millrace_sessions_active", "", live(|summary| summary.sessions_active));
    page.head("millrace_sessions_capacity", "gauge", "Sessions that boxes online would take.");
    page.value("millrace_sessions_capacity", "", live(|summary| summary.sessions_capacity));
    page.head("millrace_open_alarms", "gauge", "Alarms raised and not cleared.");
    page.value("millrace_open_alarms", "", boxes.iter().map(|summary| summary.open_alarms).sum::<u64>());

    let earned = || boxes.iter().filter_map(|summary| summary.earnings.as_ref());
    let counts: [Row<u64>; 5] = [
        ("received", "Tickets received.", |earned| earned.tickets_received),
        ("won", "Tickets that won.", |earned| earned.tickets_won),
        ("redeemed", "Winners redeemed.", |earned| earned.tickets_redeemed),
        ("redemptions_failed", "Redemptions that failed.", |earned| earned.redemptions_failed),
        ("pending", "Winners not redeemed yet.", |earned| earned.tickets_pending),
    ];
    for (name, help, count) in counts {
        let name = format!("millrace_tickets_{name}");
        page.head(&name, "gauge", help);
        page.value(&name, "", earned().map(count).sum::<u64>());
    }
    let amounts: [Row<u128>; 4] = [
        ("received", "Expected value received, wei.", |earned| wei(&earned.value_received_wei)),
        ("won", "Face value won, wei.", |earned| wei(&earned.value_won_wei)),
        ("redeemed", "Paid on chain, wei.", |earned| wei(&earned.value_redeemed_wei)),
        ("pending", "Face value pending, wei.", |earned| wei(&earned.value_pending_wei)),
    ];
    for (name, help, amount) in amounts {
        let name = format!("millrace_value_{name}_wei");
        page.head(&name, "gauge", help);
        let total = earned().map(amount).fold(0, u128::saturating_add);
        page.value(&name, "", total);
    }
    let Counters { messages, malformed, foreign, limited, duplicates } = counters;
    page.head("millrace_controller_messages_total", "counter", "Messages from the broker by what became of them.");
    for (what, count) in [
        ("all", messages),
        ("malformed", malformed),
        ("foreign", foreign),
        ("limited", limited),
        ("duplicate", duplicates),
    ] {
        page.value("millrace_controller_messages_total", &format!("{{what=\"{what}\"}}"), count);
    }
    page.text
}

/// What is not known counts nothing.
fn wei(text: &str) -> u128 {
    text.parse().unwrap_or(0)
}

#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn value(&mut self, name: &str, labels: &str, value: impl std::fmt::Display) {
        let _ = writeln!(self.text, "{name}{labels} {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_sums_over_boxes_and_counts_each_state() {
        let earnings = |won: &str| Earnings { tickets_won: 1, value_won_wei: won.to_owned(), ..Earnings::default() };
        let summary = |presence, won| BoxSummary {
            id: "box-0000000000000000".to_owned(),
            fleet: "home".to_owned(),
            presence,
            age_s: None,
            last_seen_ms: None,
            mode: None,
            fw: None,
            ring: None,
            decommissioned: false,
            ok: None,
            sessions_active: Some(3),
            sessions_capacity: None,
            segments_ok: None,
            segments_failed: None,
            rtr_p50: None,
            rtr_p05: None,
            earnings: Some(earnings(won)),
            open_alarms: 1,
            top_alarm: None,
        };
        let boxes = [summary(Presence::Online, "20000000000000000000"), summary(Presence::Offline, "")];
        let page = render(&boxes, true, Counters::default());
        for line in [
            "millrace_boxes{state=\"online\"} 1",
            "millrace_boxes{state=\"offline\"} 1",
            "millrace_sessions_active 3",
            "millrace_tickets_won 2",
            "millrace_value_won_wei 20000000000000000000",
            "millrace_open_alarms 2",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} in {page}");
        }
    }
}
