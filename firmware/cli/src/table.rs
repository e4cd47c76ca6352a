//! Plain tables: no colours, no lines, columns two spaces apart.
use std::io::Write as _;

use serde::Serialize;

use crate::failure::{Code, Failure, Result};

/// Prints rows below a header, each column as wide as its widest cell; numbers to the right but in the first.
pub(crate) fn print(header: &[&str], rows: &[Vec<String>]) {
    say(&render(header, rows));
}

/// Prints a line.
pub(crate) fn line(text: &str) {
    say(&format!("{text}\n"));
}

/// Prints a text as it is.
pub(crate) fn raw(text: &str) {
    say(text);
}

/// Writes to standard output. A reader that has gone away is no reason to stop what we do.
fn say(text: &str) {
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}

/// Prints names and values, one per line; empty values are left out.
pub(crate) fn facts(facts: &[(&str, String)]) {
    let width = facts.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    for (name, value) in facts.iter().filter(|(_, value)| !value.is_empty()) {
        line(&format!("{name:width$}  {value}"));
    }
}

/// Prints a value as JSON on standard output.
pub(crate) fn json(value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::new(Code::Software, format!("cannot write JSON: {error}")))?;
    line(&text);
    Ok(())
}

/// Rows below a header, as [`print`] prints them.
pub(crate) fn render(header: &[&str], rows: &[Vec<String>]) -> String {
    let cell = |row: &[String], column: usize| row.get(column).map_or("", String::as_str).to_owned();
    let widths: Vec<usize> = header
        .iter()
        .enumerate()
        .map(|(column, title)| {
            let cells = rows.iter().map(|row| cell(row, column).chars().count());
            cells.chain([title.chars().count()]).max().unwrap_or(0)
        })
        .collect();
    let is_number = |column: usize| {
        column > 0 && rows.iter().all(|row| cell(row, column).starts_with(|c: char| c.is_ascii_digit()))
    };
    let line = |cells: Vec<String>| {
        let padded = cells.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
            if is_number(column) { format!("{cell:>width$}") } else { format!("{cell:width$}") }
        });
        format!("{}\n", padded.collect::<Vec<_>>().join("  ").trim_end())
    };
    let mut text = line(header.iter().map(|title| (*title).to_owned()).collect());
    for row in rows {
        text.push_str(&line((0..header.len()).map(|column| cell(row, column)).collect()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_with_numbers_to_the_right() {
        let rows = [vec!["240p".to_owned(), "9".to_owned()], vec!["1080p".to_owned(), "120".to_owned()]];
        assert_eq!(
            render(&["profile", "frames"], &[vec!["a".to_owned(), "9".to_owned()]]),
            "profile  frames\na             9\n"
        );
        assert_eq!(render(&["name", "frames"], &rows).lines().count(), 3);
    }
}
