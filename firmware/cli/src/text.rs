//! Numbers as people write and read them.
use std::time::Duration;

use livepeer::profile::{Profile, preset};
use livepeer::units::Wei;

/// Reads `2s`, `500ms`, `1m` or a plain number of seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no duration: write 2s, 500ms or 1m");
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let seconds = match unit {
        "ms" => number / 1000.0,
        "s" | "" => number,
        "m" | "min" => number * 60.0,
        "h" => number * 3600.0,
        _ => return Err(wrong()),
    };
    if seconds <= 0.0 || seconds > 86_400.0 {
        return Err(format!("{text:?} must be more than nothing and at most a day"));
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// Reads one profile: a short name (`720p`) or a network name (`P720p30fps16x9`).
pub(crate) fn profile(text: &str) -> Result<Profile, String> {
    preset(text).ok_or_else(|| {
        format!(
            "no profile is called {text:?}: use 144p 240p 360p 480p 576p 720p 1080p, or a network name such as P720p30fps16x9"
        )
    })
}

/// Reads wei as decimal text.
pub(crate) fn wei(text: &str) -> Result<Wei, String> {
    Wei::from_dec_str(text).map_err(|_| format!("{text:?} is no amount: write a whole number of wei"))
}

/// A number of bytes for people.
pub(crate) fn bytes(bytes: u64) -> String {
    let (whole, unit) = match bytes {
        0..10_000 => return format!("{bytes} B"),
        10_000..10_000_000 => (1000, "kB"),
        10_000_000..10_000_000_000 => (1_000_000, "MB"),
        _ => (1_000_000_000, "GB"),
    };
    format!("{}.{} {unit}", bytes / whole, bytes % whole / (whole / 10))
}

/// Milliseconds as seconds with two decimals.
pub(crate) fn seconds(millis: u64) -> String {
    format!("{}.{:02} s", millis / 1000, millis % 1000 / 10)
}

/// A number with spaces between thousands.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// Wei with ETH beside it once it is worth reading: `1500000000000000 (0.0015 ETH)`.
pub(crate) fn money(wei: &str) -> String {
    let digits = wei.trim_start_matches('0');
    if digits.len() < 13 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return if wei.is_empty() { "0 wei".to_owned() } else { format!("{wei} wei") };
    }
    let padded = format!("{digits:0>19}");
    let (whole, fraction) = padded.split_at(padded.len() - 18);
    let fraction = fraction.get(..6).unwrap_or(fraction).trim_end_matches('0');
    let dot = if fraction.is_empty() { "" } else { "." };
    format!("{wei} wei ({whole}{dot}{fraction} ETH)")
}

/// Seconds as days, hours and minutes.
pub(crate) fn uptime(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_people_write_them() {
        assert_eq!(duration("2s"), Ok(Duration::from_secs(2)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1m"), Ok(Duration::from_secs(60)));
        assert_eq!(duration("1.5"), Ok(Duration::from_millis(1500)));
        for wrong in ["", "s", "2 parsecs", "-1s", "0s", "1e9h", "."] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn amounts_show_eth_once_it_is_worth_reading() {
        assert_eq!(money(""), "0 wei");
        assert_eq!(money("42"), "42 wei");
        assert_eq!(money("1500000000000000"), "1500000000000000 wei (0.0015 ETH)");
        assert_eq!(money("2000000000000000000"), "2000000000000000000 wei (2 ETH)");
    }

    #[test]
    fn large_numbers_are_grouped() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_234_567), "1 234 567");
        assert_eq!(bytes(1234), "1234 B");
        assert_eq!(bytes(1_234_567), "1234.5 kB");
    }
}
