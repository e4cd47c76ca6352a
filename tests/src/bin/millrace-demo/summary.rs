//! What a run came to: a flat file for machines, a table for people.
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

/// The figures of one run.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    pub(crate) segments: u64,
    pub(crate) renditions: u64,
    /// Segment duration ÷ round trip, median.
    pub(crate) rtr_p50: f64,
    /// The same, reached by nineteen of twenty segments.
    pub(crate) rtr_p95: f64,
    pub(crate) pixels: u64,
    pub(crate) tickets_received: u64,
    pub(crate) tickets_won: u64,
    pub(crate) tickets_redeemed: u64,
    /// From `WinningTicketTransfer`, decimal text.
    pub(crate) wei_paid_on_chain: String,
    /// Presence and health score at the controller.
    pub(crate) health: String,
    /// The Controller contract.
    pub(crate) controller_address: String,
    pub(crate) rpc_url: String,
    pub(crate) recipient: String,
    pub(crate) redemption_txs: Vec<String>,
}

impl Summary {
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        Ok(std::fs::write(path, serde_json::to_string_pretty(self)? + "\n")?)
    }

    pub(crate) fn print(&self, dir: &Path, took: Duration) {
        let pixels = self.pixels / 1_000_000;
        let rows = [
            ("segments", format!("{} sent, each returned in {} renditions", self.segments, self.renditions)),
            (
                "real-time ratio",
                format!("p50 {:.2}   p95 {:.2}   (above 1 is faster than real time)", self.rtr_p50, self.rtr_p95),
            ),
            ("pixels", format!("{pixels} million, billed = in the files")),
            (
                "tickets",
                format!(
                    "{} received, {} won, {} redeemed",
                    self.tickets_received, self.tickets_won, self.tickets_redeemed
                ),
            ),
            (
                "earned on chain",
                format!("{} wei in {} transactions", self.wei_paid_on_chain, self.redemption_txs.len()),
            ),
            ("health", format!("{} (as the fleet controller saw it)", self.health)),
            ("ladder", dir.join("out/master.m3u8").display().to_string()),
            ("figures", dir.join("summary.json").display().to_string()),
            ("took", format!("{} s", took.as_secs())),
        ];
        let width = rows.iter().map(|(_, text)| text.chars().count()).max().unwrap_or(0);
        let line = format!("+-{:-<16}-+-{:-<width$}-+", "", "");
        println!("\n{line}");
        for (name, text) in rows {
            println!("| {name:<16} | {text:<width$} |");
        }
        println!("{line}");
    }
}
