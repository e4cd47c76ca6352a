//! The page as text.

use std::fmt::Write as _;

use qrcodegen::{QrCode, QrCodeEcc};

use super::Facts;
use crate::progress::Phase;
use crate::state::Became;

/// The page for these facts.
pub(super) fn page(facts: &Facts) -> String {
    let mut text = format!("{}Millrace {}\n", facts.banner, facts.version);
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<11}{value}");
    };
    line("serial", facts.serial.as_deref().unwrap_or("none"));
    if let Some(site) = &facts.site {
        line("site", site);
    }
    line("box", facts.box_id.as_deref().unwrap_or("not in a fleet"));
    if facts.addresses.is_empty() {
        line("network", "no address yet");
    }
    // With the code to scan below it, a page must still fit twenty-five lines.
    let shown = if facts.provisioned { 6 } else { 2 };
    for address in facts.addresses.iter().take(shown) {
        line("network", address);
    }
    if !facts.tpm {
        line("no TPM", "what this box keeps lies open to whoever takes its disk");
    }
    text.push('\n');
    if facts.decommissioned {
        text.push_str("DECOMMISSIONED: the keys of this box are destroyed, and it does nothing.\nFlash it anew to use it again.\n");
    } else if !facts.provisioned {
        waiting(&mut text, facts);
    } else {
        works(&mut text, facts);
    }
    let (days, hours, minutes) = (facts.uptime_s / 86_400, facts.uptime_s % 86_400 / 3600, facts.uptime_s % 3600 / 60);
    let _ = writeln!(text, "\n{} UTC, up {days}d {hours}h {minutes}m", date(facts.now));
    text
}

fn waiting(text: &mut String, facts: &Facts) {
    text.push_str("WAITING to be provisioned: plug in a stick labelled MILLRACE with the site file,\n");
    text.push_str("or copy the file to the folder MILLRACE of the boot partition, and start again.\n");
    if let Some(serial) = &facts.serial {
        text.push_str(&qr(&format!("MILLRACE1:{serial}")));
    }
}

fn works(text: &mut String, facts: &Facts) {
    if facts.safe_mode {
        text.push_str("SAFE MODE: the health check failed; no work is taken and no key is loaded.\n\n");
    }
    if facts.claim_waits {
        text.push_str("NOT LET IN YET: the fleet must allow this serial.\n\n");
        if let Some(serial) = &facts.serial {
            text.push_str(&format!("{}\n", qr(&format!("MILLRACE1:{serial}"))));
        }
    }
    for unit in &facts.units {
        let _ = writeln!(text, "  {:<10} {:<12} {}", unit.name, unit.active, unit.says);
    }
    if facts.on_trial {
        text.push_str("\nupdate     this version is on trial\n");
    } else if let Some(report) = facts.progress.as_ref().filter(|report| report.phase != Phase::Failed) {
        let version = report.version.as_ref().map_or("a version".to_owned(), ToString::to_string);
        let share = report.done.saturating_mul(100).checked_div(report.total).unwrap_or(0);
        let _ = match report.phase {
            Phase::Fetching => writeln!(text, "\nupdate     {version}: {share} % fetched"),
            phase => writeln!(text, "\nupdate     {version}: {}", format!("{phase:?}").to_lowercase()),
        };
    }
    if let Some(last) = facts.last.as_ref().filter(|last| last.became != Became::Blessed) {
        let reason = last.reason.as_deref().unwrap_or_default();
        let _ = writeln!(text, "\nupdate     {} came to nothing ({:?}): {reason:.80}", last.to, last.became);
    }
    if facts.recovery_asked && !facts.escrow {
        text.push_str("\nrecovery   no key is escrowed yet: when this board breaks, /var is lost\n");
    }
    if let Some(account) = &facts.hot_account {
        let _ = writeln!(text, "\nhot account {account}");
    }
}

/// A QR code of half blocks, light on dark as screens are, with the margin readers want.
pub(super) fn qr(text: &str) -> String {
    let Ok(code) = QrCode::encode_text(text, QrCodeEcc::Low) else { return String::new() };
    let (from, to) = (-2, code.size() + 2);
    let mut drawn = String::new();
    for y in (from..to).step_by(2) {
        for x in from..to {
            // Outside the code, modules are light; the last line may have no lower half.
            let light = |y: i32| y < to && !code.get_module(x, y);
            drawn.push(match (light(y), light(y + 1)) {
                (true, true) => '\u{2588}',
                (true, false) => '\u{2580}',
                (false, true) => '\u{2584}',
                (false, false) => ' ',
            });
        }
        drawn.push('\n');
    }
    drawn
}

/// `2026-11-22 18:00`. Days to a civil date: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".
fn date(unix: i64) -> String {
    let (days, seconds) = (unix.div_euclid(86_400), unix.rem_euclid(86_400));
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (month, leap) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = era * 400 + year_of_era + leap;
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}", seconds / 3600, seconds % 3600 / 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_what_date_says() {
        for (unix, text) in [
            (0, "1970-01-01 00:00"),
            (951_782_399, "2000-02-28 23:59"),
            (951_782_400, "2000-02-29 00:00"),
            (1_795_356_000, "2026-11-22 14:00"),
        ] {
            assert_eq!(date(unix), text);
        }
    }

    #[test]
    fn a_code_drawn_in_half_blocks_has_every_module_of_the_code() {
        let drawn = qr("MILLRACE1:PF3XYZ12");
        let code = QrCode::encode_text("MILLRACE1:PF3XYZ12", QrCodeEcc::Low).unwrap();
        let rows: Vec<Vec<char>> = drawn.lines().map(|line| line.chars().collect()).collect();
        assert!(
            rows.iter().all(|row| row.len() == usize::try_from(code.size()).unwrap() + 4) && rows.len() < 20,
            "fits a screen of 25 lines"
        );
        for y in 0..code.size() {
            for x in 0..code.size() {
                let place = |number: i32| usize::try_from(number + 2).unwrap();
                let half = rows[place(y) / 2][place(x)];
                let light = if y % 2 == 0 {
                    matches!(half, '\u{2588}' | '\u{2580}')
                } else {
                    matches!(half, '\u{2588}' | '\u{2584}')
                };
                assert_eq!(light, !code.get_module(x, y), "{x} {y}");
            }
        }
    }
}
