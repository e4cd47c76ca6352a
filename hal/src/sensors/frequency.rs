//! Clocks of the processors.
use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::read::Root;
use crate::units::Megahertz;

/// The clock of processors that change together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frequency {
    /// Now.
    pub current: Option<Megahertz>,
    /// The most that is allowed now.
    pub allowed: Option<Megahertz>,
    /// The most the silicon can do.
    pub most: Option<Megahertz>,
    /// Who decides on it, e.g. `schedutil`.
    pub governor: Option<String>,
}

impl Frequency {
    /// Is less allowed than the silicon can do?
    #[must_use]
    pub fn is_capped(&self) -> bool {
        matches!((self.allowed, self.most), (Some(allowed), Some(most)) if allowed < most)
    }
}

pub(super) fn read(root: &Root) -> BTreeMap<String, Frequency> {
    let class = Path::new("sys/devices/system/cpu/cpufreq");
    let policy = |name: String| {
        let dir = class.join(&name);
        let clock = |file: &str| root.number::<u32>(dir.join(file)).map(|kilohertz| Megahertz(kilohertz / 1000));
        let frequency = Frequency {
            current: clock("scaling_cur_freq"),
            allowed: clock("scaling_max_freq"),
            most: clock("cpuinfo_max_freq"),
            governor: root.text(dir.join("scaling_governor")).filter(|name| !name.is_empty()),
        };
        (name, frequency)
    };
    root.names(class).into_iter().filter(|name| name.starts_with("policy")).map(policy).collect()
}
