//! Which power mode the board is in, and what caps its power.
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::read::Root;
use crate::units::Watts;

/// Power modes and caps; what a board does not have is missing.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PowerModes {
    /// A Jetson's modes.
    pub jetson: Option<JetsonModes>,
    /// Caps of x86 packages.
    pub caps: Vec<PowerCap>,
    /// What the firmware of a computer was asked for, e.g. `balanced`.
    pub profile: Option<String>,
}

/// A Jetson's power modes, as `nvpmodel` keeps them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JetsonModes {
    /// Number of the mode it is in.
    pub current: Option<u32>,
    /// Number of the mode it starts in.
    pub default: Option<u32>,
    /// All modes, by number.
    pub modes: Vec<JetsonMode>,
}

impl JetsonModes {
    /// Name of the mode it is in.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        let current = self.current.or(self.default)?;
        self.modes.iter().find(|mode| mode.number == current).map(|mode| mode.name.as_str())
    }
}

/// One power mode of a Jetson.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JetsonMode {
    /// Its number.
    pub number: u32,
    /// Its name, e.g. `MAXN` or `15W`.
    pub name: String,
}

/// A cap on the power of a package of processors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PowerCap {
    /// The package.
    pub zone: String,
    /// Which of its caps, e.g. `long_term`.
    pub constraint: String,
    /// The cap.
    pub limit: Watts,
    /// The most the cap may be, where the package says so.
    pub most: Option<Watts>,
}

impl PowerModes {
    /// Reads them from the system below `root` (`/` on a real one).
    #[must_use]
    pub fn read(root: &Path) -> Self {
        Self::read_in(&Root::new(root))
    }

    pub(crate) fn read_in(root: &Root) -> Self {
        let modes = root.text("etc/nvpmodel.conf").map(|text| jetson(&text));
        let current = root.text("var/lib/nvpmodel/status").and_then(|text| status(&text));
        Self {
            jetson: modes.filter(|modes| !modes.modes.is_empty()).map(|modes| JetsonModes { current, ..modes }),
            caps: caps(root),
            profile: root.text("sys/firmware/acpi/platform_profile").filter(|profile| !profile.is_empty()),
        }
    }
}

/// Modes a file may name; boards have a dozen at most.
const MAX_MODES: usize = 64;

/// `< POWER_MODEL ID=0 NAME=MAXN >` names a mode, `< PM_CONFIG DEFAULT=2 >` the one to start in.
fn jetson(text: &str) -> JetsonModes {
    let mut found = JetsonModes { current: None, default: None, modes: Vec::new() };
    for line in text.lines().map(str::trim) {
        let Some(inside) = line.strip_prefix('<').and_then(|line| line.strip_suffix('>')) else { continue };
        let mut words = inside.split_whitespace();
        let kind = words.next();
        let field = |name: &str| inside.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        match kind {
            Some("POWER_MODEL") if found.modes.len() < MAX_MODES => {
                let number = field("ID").and_then(|number| number.parse().ok());
                if let (Some(number), Some(name)) = (number, field("NAME")) {
                    found.modes.push(JetsonMode { number, name: name.chars().take(32).collect() });
                }
            }
            Some("PM_CONFIG") => found.default = field("DEFAULT").and_then(|number| number.parse().ok()),
            _ => {}
        }
    }
    found
}

/// `pmode:0002`, perhaps with more words behind it.
fn status(text: &str) -> Option<u32> {
    let rest = text.trim().strip_prefix("pmode:")?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Packages have two or three constraints.
const MAX_CONSTRAINTS: usize = 8;

fn caps(root: &Root) -> Vec<PowerCap> {
    let class = Path::new("sys/class/powercap");
    let zones = root.names(class).into_iter().filter(|name| name.starts_with("intel-rapl:"));
    let mut caps = Vec::new();
    for zone in zones.filter(|name| name.matches(':').count() == 1) {
        let dir = class.join(&zone);
        let name = root.text(dir.join("name")).unwrap_or(zone);
        for number in 0..MAX_CONSTRAINTS {
            let file = |suffix: &str| dir.join(format!("constraint_{number}_{suffix}"));
            let Some(constraint) = root.text(file("name")) else { break };
            let watts = |suffix: &str| crate::sensors::watts(root, &file(suffix));
            // A cap of nothing is switched off.
            if let Some(limit) = watts("power_limit_uw").filter(|limit| limit.0 > 0.0) {
                let most = watts("max_power_uw").filter(|most| most.0 > 0.0);
                caps.push(PowerCap { zone: name.clone(), constraint, limit, most });
            }
        }
    }
    caps
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::read::fixture;

    #[test]
    fn a_jetsons_modes_and_the_one_it_is_in_are_read() {
        let conf = "# Power\n< POWER_MODEL ID=0 NAME=MAXN >\nCPU_ONLINE CORE_0 1\n< POWER_MODEL ID=2 NAME=15W >\n\
                    < FAN_CONFIG DEFAULT=quiet >\n< PM_CONFIG DEFAULT=2 >\n";
        let root = fixture(&[("etc/nvpmodel.conf", conf), ("var/lib/nvpmodel/status", "pmode:0000 fmode:quiet\n")]);
        let modes = PowerModes::read(root.path()).jetson.unwrap();
        assert_eq!((modes.current, modes.default, modes.name()), (Some(0), Some(2), Some("MAXN")));
        assert_eq!(modes.modes.len(), 2);
    }

    #[test]
    fn caps_of_packages_are_read_and_those_switched_off_left_out() {
        let root = fixture(&[
            ("sys/class/powercap/intel-rapl:0/name", "package-0\n"),
            ("sys/class/powercap/intel-rapl:0/constraint_0_name", "long_term\n"),
            ("sys/class/powercap/intel-rapl:0/constraint_0_power_limit_uw", "6000000\n"),
            ("sys/class/powercap/intel-rapl:0/constraint_0_max_power_uw", "6000000\n"),
            ("sys/class/powercap/intel-rapl:0/constraint_1_name", "short_term\n"),
            ("sys/class/powercap/intel-rapl:0/constraint_1_power_limit_uw", "0\n"),
            ("sys/class/powercap/intel-rapl:0:0/name", "core\n"),
        ]);
        let caps = PowerModes::read(root.path()).caps;
        let cap = caps.first().unwrap();
        assert_eq!((caps.len(), cap.zone.as_str(), cap.limit), (1, "package-0", Watts(6.0)));
    }

    proptest! {
        #[test]
        fn no_text_is_too_strange(text in "(?s).{0,300}") {
            let _ = (jetson(&text), status(&text));
        }

        #[test]
        fn modes_come_back_as_written(modes in proptest::collection::btree_map(0u32..99, "[A-Z0-9_]{1,12}", 1..8)) {
            let text: String = modes.iter().map(|(id, name)| format!("< POWER_MODEL ID={id} NAME={name} >\n")).collect();
            let read: Vec<_> = jetson(&text).modes.into_iter().map(|mode| (mode.number, mode.name)).collect();
            prop_assert_eq!(read, modes.into_iter().collect::<Vec<_>>());
        }
    }
}
