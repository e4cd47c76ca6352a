//! Time that tasks lost waiting for what was scarce, as the kernel measures it (PSI).
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::read::Root;
use crate::units::Percent;

/// Pressure by what was scarce; missing where the kernel does not measure it.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Pressure {
    /// Processors.
    pub cpu: Option<Stall>,
    /// Memory.
    pub memory: Option<Stall>,
    /// Disks.
    pub io: Option<Stall>,
}

/// How long tasks waited.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Stall {
    /// Share of the last ten seconds in which some task waited.
    pub some10: Percent,
    /// The same of the last minute.
    pub some60: Percent,
    /// Share of the last ten seconds in which all tasks waited; 0 where it has no meaning.
    pub full10: Percent,
    /// Time in which some task waited since the system started.
    pub total: Duration,
}

pub(super) fn read(root: &Root) -> Pressure {
    let stall = |name: &str| root.text(format!("proc/pressure/{name}")).and_then(|text| parse(&text));
    Pressure { cpu: stall("cpu"), memory: stall("memory"), io: stall("io") }
}

fn parse(text: &str) -> Option<Stall> {
    let line = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let field = |line: &str, name: &str| -> Option<String> {
        line.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('=')).map(str::to_owned)
    };
    let share = |line: &str, name: &str| {
        let share: f32 = field(line, name)?.parse().ok()?;
        (0.0..=100.0).contains(&share).then_some(Percent(share))
    };
    let some = line("some")?;
    Some(Stall {
        some10: share(some, "avg10")?,
        some60: share(some, "avg60")?,
        full10: line("full").and_then(|full| share(full, "avg10")).unwrap_or(Percent(0.0)),
        total: Duration::from_micros(field(some, "total")?.parse().ok()?),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_kernels_lines_are_understood() {
        let text =
            "some avg10=1.25 avg60=0.50 avg300=0.00 total=1500000\nfull avg10=0.75 avg60=0.00 avg300=0.00 total=9\n";
        let stall = parse(text).unwrap();
        assert_eq!((stall.some10, stall.some60, stall.full10), (Percent(1.25), Percent(0.5), Percent(0.75)));
        assert_eq!(stall.total, Duration::from_millis(1500));
        assert_eq!(parse("some avg10=nan avg60=0 total=1"), None);
    }

    proptest! {
        #[test]
        fn no_text_is_too_strange(text in "(?s).{0,200}") {
            let _ = parse(&text);
        }
    }
}
