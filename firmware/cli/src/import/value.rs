//! Values as go-livepeer reads them: Go's literals, so that what was valid there means the same here.
use std::time::Duration;

/// Most digits of an amount.
const MAX_DIGITS: u32 = 36;

/// Go's `strconv.ParseBool`.
pub(super) fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Go's integer literals: decimal, `0x`, `0o`, `0b`, a leading zero for octal, underscores between digits; not negative.
pub(super) fn integer(text: &str) -> Option<u64> {
    let text = text.strip_prefix('+').unwrap_or(text);
    let lower = text.to_ascii_lowercase();
    let based = [("0x", 16), ("0o", 8), ("0b", 2)]
        .into_iter()
        .find_map(|(prefix, base)| Some((lower.strip_prefix(prefix)?.to_owned(), base)));
    let (digits, base) = match based {
        Some((digits, base)) => (digits, base),
        None if lower.len() > 1 && lower.starts_with('0') => (lower.clone(), 8),
        None => (lower.clone(), 10),
    };
    // An underscore stands between digits, or after the prefix of the base.
    let misplaced = digits.ends_with('_') || digits.contains("__") || (base == 10 && digits.starts_with('_'));
    if misplaced || digits.starts_with(['+', '-']) {
        return None;
    }
    u64::from_str_radix(&digits.replace('_', ""), base).ok()
}

/// Go's durations: `5m`, `1h2m3s`, `1.5s`, `500ms`, `0`; not negative.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    let mut nanos = 0u128;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, more) = rest.split_at(end);
        let (unit, after) = [("ns", 1u128), ("us", 1_000), ("µs", 1_000), ("ms", 1_000_000), ("h", 3_600_000_000_000)]
            .into_iter()
            .chain([("s", 1_000_000_000), ("m", 60_000_000_000)])
            .find_map(|(name, nanos)| Some((nanos, more.strip_prefix(name)?)))?;
        let number = Decimal::parse(number)?;
        let scale = 10u128.checked_pow(number.decimals)?;
        nanos = nanos.checked_add(number.digits.checked_mul(unit)?.checked_div(scale)?)?;
        rest = after;
    }
    Some(Duration::from_nanos(u64::try_from(nanos).ok()?))
}

/// An exact decimal number that is not negative: `digits / 10^decimals`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Decimal {
    digits: u128,
    decimals: u32,
}

impl Decimal {
    /// Digits with an optional point and exponent: `0.5`, `1e12`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (number, exponent) = match text.split_once(['e', 'E']) {
            Some((number, exponent)) => (number, exponent.parse::<i32>().ok()?),
            None => (text, 0),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let plain = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if (whole.is_empty() && fraction.is_empty()) || !plain(whole) || !plain(fraction) {
            return None;
        }
        let digits: u128 = format!("0{whole}{fraction}").parse().ok()?;
        let decimals = i32::try_from(fraction.len()).ok()?.checked_sub(exponent)?;
        if decimals.unsigned_abs() > MAX_DIGITS {
            return None;
        }
        let shift = decimals.unsigned_abs();
        if decimals < 0 {
            return Some(Self { digits: digits.checked_mul(10u128.checked_pow(shift)?)?, decimals: 0 });
        }
        Some(Self { digits, decimals: shift }.shortest())
    }

    /// This many times as much.
    pub(super) fn times(self, count: u128) -> Option<Self> {
        Some(Self { digits: self.digits.checked_mul(count)?, ..self }.shortest())
    }

    /// The number, when it is whole.
    pub(super) fn whole(self) -> Option<u128> {
        (self.decimals == 0).then_some(self.digits)
    }

    fn shortest(mut self) -> Self {
        while self.decimals > 0 && self.digits.is_multiple_of(10) {
            self.digits /= 10;
            self.decimals -= 1;
        }
        self
    }
}

impl std::fmt::Display for Decimal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let places = usize::try_from(self.decimals).unwrap_or(0);
        let text = format!("{:0>width$}", self.digits, width = places + 1);
        let (whole, fraction) = text.split_at(text.len() - places);
        f.write_str(whole)?;
        if fraction.is_empty() { Ok(()) } else { write!(f, ".{fraction}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_those_of_go() {
        for (text, value) in [("10", 10), ("0x1F", 31), ("017", 15), ("0b101", 5), ("1_000_000", 1_000_000), ("0", 0)] {
            assert_eq!(integer(text), Some(value), "{text}");
        }
        for wrong in ["", "-1", "1.5", "1__0", "10_", "_1", "abc", "0x", "18446744073709551616", "1e9", "0x+1"] {
            assert_eq!(integer(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn durations_are_those_of_go() {
        for (text, millis) in [("5m", 300_000), ("1h2m3s", 3_723_000), ("1.5s", 1500), ("500ms", 500), ("0", 0)] {
            assert_eq!(duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for wrong in ["", "5", "5 m", "m", "-5s", "1d", "5m3"] {
            assert_eq!(duration(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn decimals_are_exact() {
        let shown = |text: &str| Decimal::parse(text).map(|number| number.to_string());
        assert_eq!(shown("0.10").as_deref(), Some("0.1"));
        assert_eq!(shown("1e12").as_deref(), Some("1000000000000"));
        assert_eq!(shown("12.5E-3").as_deref(), Some("0.0125"));
        assert_eq!(shown(".5").as_deref(), Some("0.5"));
        assert_eq!(Decimal::parse("0.3").and_then(|n| n.times(10)).and_then(Decimal::whole), Some(3));
        for wrong in ["", ".", "1e", "-1", "1.2.3", "1e400", "0x10", "1/3"] {
            assert_eq!(shown(wrong), None, "{wrong}");
        }
    }
}
