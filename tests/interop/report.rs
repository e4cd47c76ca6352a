//! What was counted, as a table and as JSON.
use std::path::Path;

use anyhow::Result;
use serde::Serialize;

/// One stream through one pair of peers.
#[derive(Debug, Default, Clone, Serialize)]
pub(crate) struct Row {
    pub case: String,
    pub stream: String,
    pub segments: usize,
    pub transcoded: usize,
    pub renditions: usize,
    pub failed: usize,
    /// Pixels of all pictures in the renditions.
    pub pixels: u64,
    /// What decoding the renditions complained about, and whatever else was not as it should be.
    pub faults: Vec<String>,
    /// Lines the stock node logged as errors.
    pub stock_errors: Vec<String>,
    /// Further counts, such as tickets.
    pub more: Vec<(String, String)>,
    pub seconds: f64,
}

impl Row {
    pub(crate) fn new(case: &str, stream: &str) -> Self {
        Self { case: case.to_owned(), stream: stream.to_owned(), ..Self::default() }
    }

    pub(crate) fn fault(&mut self, text: impl Into<String>) {
        self.faults.push(text.into());
    }

    pub(crate) fn count(&mut self, name: &str, value: impl ToString) {
        self.more.push((name.to_owned(), value.to_string()));
    }

    fn good(&self) -> bool {
        self.segments > 0 && self.transcoded == self.segments && self.failed == 0 && self.faults.is_empty()
    }
}

/// All rows of one run.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    rows: Vec<Row>,
}

impl Report {
    pub(crate) fn add(&mut self, row: Row) {
        print_row(&row);
        self.rows.push(row);
    }

    pub(crate) fn good(&self) -> bool {
        self.rows.iter().all(Row::good)
    }

    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        Ok(std::fs::write(path, serde_json::to_vec_pretty(self)?)?)
    }

    pub(crate) fn print(&self) {
        if self.rows.is_empty() {
            return;
        }
        println!(
            "\n{:<34} {:<18} {:>8} {:>10} {:>10} {:>6}  verdict",
            "case", "stream", "segments", "transcoded", "renditions", "failed"
        );
        for row in &self.rows {
            print_line(row);
        }
    }
}

fn print_line(row: &Row) {
    let verdict = if row.good() { "good" } else { "NOT GOOD" };
    let (case, stream) = (&row.case, &row.stream);
    println!(
        "{case:<34} {stream:<18} {:>8} {:>10} {:>10} {:>6}  {verdict}",
        row.segments, row.transcoded, row.renditions, row.failed
    );
}

fn print_row(row: &Row) {
    print_line(row);
    for (name, value) in &row.more {
        println!("    {name}: {value}");
    }
    for fault in &row.faults {
        println!("    FAULT {fault}");
    }
    for line in &row.stock_errors {
        println!("    stock: {line}");
    }
}
