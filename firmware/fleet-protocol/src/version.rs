//! What a system image calls itself, ordered as systemd-boot and systemd-sysupdate order it.
//!
//! Only a part of what they take is a version here: one to four numbers with dots between, and `~rcN` behind them for
//! what comes before the release. Inside it their order and this one are the same.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Most numbers of a version.
const PARTS_MAX: usize = 4;
/// Most digits of one number.
const DIGITS_MAX: usize = 14;

/// Not a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("version must be one to four numbers with dots between, without leading zeros, and perhaps ~rc and a number")]
pub struct VersionError;

/// A version of the system image.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Version {
    parts: Vec<u64>,
    candidate: Option<u64>,
}

impl FromStr for Version {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        let (numbers, candidate) = match text.split_once("~rc") {
            Some((numbers, candidate)) => (numbers, Some(number(candidate)?)),
            None => (text, None),
        };
        let parts: Vec<u64> = numbers.split('.').map(number).collect::<Result<_, _>>()?;
        if parts.len() > PARTS_MAX {
            return Err(VersionError);
        }
        Ok(Self { parts, candidate })
    }
}

fn number(text: &str) -> Result<u64, VersionError> {
    let plain = !text.is_empty() && text.len() <= DIGITS_MAX && text.bytes().all(|byte| byte.is_ascii_digit());
    if !plain || (text.len() > 1 && text.starts_with('0')) {
        return Err(VersionError);
    }
    text.parse().map_err(|_| VersionError)
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, part) in self.parts.iter().enumerate() {
            write!(f, "{}{part}", if index == 0 { "" } else { "." })?;
        }
        self.candidate.map_or(Ok(()), |candidate| write!(f, "~rc{candidate}"))
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        let release = |version: &Self| version.candidate.unwrap_or(u64::MAX);
        self.parts.cmp(&other.parts).then_with(|| release(self).cmp(&release(other)))
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl TryFrom<String> for Version {
    type Error = VersionError;

    fn try_from(text: String) -> Result<Self, VersionError> {
        text.parse()
    }
}

impl From<Version> for String {
    fn from(version: Version) -> Self {
        version.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn version(text: &str) -> Version {
        text.parse().unwrap()
    }

    #[test]
    fn numbers_are_numbers_and_candidates_come_before_their_release() {
        let rising = [
            "0.9",
            "0.10",
            "0.10.0",
            "1",
            "1.0~rc1",
            "1.0~rc2",
            "1.0~rc10",
            "1.0",
            "1.0.0~rc1",
            "1.0.0",
            "1.0.1",
            "1.9.0",
            "1.10.0",
            "2",
            "20261122.1",
        ];
        for (index, lower) in rising.iter().enumerate() {
            for higher in rising.iter().skip(index + 1) {
                assert!(version(lower) < version(higher), "{lower} < {higher}");
            }
        }
    }

    #[test]
    fn what_another_program_could_read_differently_is_no_version() {
        for bad in [
            "",
            "1.",
            ".1",
            "01",
            "1.00",
            "1..2",
            "1.2.3.4.5",
            "v1",
            "1.0-rc1",
            "1.0~rc",
            "1.0~rc01",
            "1.0~",
            "1 ",
            "1/2",
            "+1",
        ] {
            assert!(bad.parse::<Version>().is_err(), "{bad:?}");
        }
    }

    /// The comparison that systemd documents, on texts.
    fn as_systemd(left: &str, right: &str) -> Ordering {
        let (mut left, mut right) = (left.as_bytes(), right.as_bytes());
        loop {
            match (left.first() == Some(&b'~'), right.first() == Some(&b'~')) {
                (true, true) => (left, right) = (&left[1..], &right[1..]),
                (true, false) => return Ordering::Less,
                (false, true) => return Ordering::Greater,
                (false, false) => {}
            }
            match (left.is_empty(), right.is_empty()) {
                (true, true) => return Ordering::Equal,
                (true, false) => return Ordering::Less,
                (false, true) => return Ordering::Greater,
                (false, false) => {}
            }
            match (left[0] == b'.', right[0] == b'.') {
                (true, true) => {
                    (left, right) = (&left[1..], &right[1..]);
                    continue;
                }
                (true, false) => return Ordering::Less,
                (false, true) => return Ordering::Greater,
                (false, false) => {}
            }
            let digits = |text: &[u8]| text.iter().take_while(|byte| byte.is_ascii_digit()).count();
            let letters = |text: &[u8]| text.iter().take_while(|byte| byte.is_ascii_alphabetic()).count();
            let (l, r) = (digits(left), digits(right));
            let order = if l > 0 || r > 0 {
                let value = |text: &[u8]| std::str::from_utf8(text).unwrap().parse::<u64>().unwrap_or(0);
                let order = value(&left[..l]).cmp(&value(&right[..r]));
                (left, right) = (&left[l..], &right[r..]);
                order
            } else {
                let (l, r) = (letters(left), letters(right));
                let order = left[..l].cmp(&right[..r]);
                (left, right) = (&left[l..], &right[r..]);
                order
            };
            if order != Ordering::Equal {
                return order;
            }
        }
    }

    fn any_version() -> impl Strategy<Value = Version> {
        let part = prop_oneof![0..12u64, Just(20_261_122)];
        (proptest::collection::vec(part, 1..=PARTS_MAX), proptest::option::of(0..12u64))
            .prop_map(|(parts, candidate)| Version { parts, candidate })
    }

    proptest! {
        #[test]
        fn the_order_is_systemds(left in any_version(), right in any_version()) {
            prop_assert_eq!(left.cmp(&right), as_systemd(&left.to_string(), &right.to_string()));
        }

        #[test]
        fn text_and_version_are_one(version in any_version()) {
            prop_assert_eq!(version.to_string().parse::<Version>().unwrap(), version);
        }

        #[test]
        fn whatever_is_read_is_written_the_same(text in "[0-9.~rc]{0,12}") {
            if let Ok(version) = text.parse::<Version>() {
                prop_assert_eq!(version.to_string(), text);
            }
        }
    }
}
