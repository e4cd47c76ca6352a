//! How dear a picture may be: the node is told by its configuration, and tells its workers.
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What software encoders aim at. What each means, and costs, stands in `performance.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// The least processor time: short answers, and most streams on a box.
    Latency,
    /// As good as `ffmpeg -preset veryfast` for less.
    #[default]
    Balanced,
    /// As good as `ffmpeg -preset medium`, nearly, for less.
    Quality,
}

impl Preset {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Latency, Self::Balanced, Self::Quality];

    /// Its name, in configurations and on command lines.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Latency => "latency",
            Self::Balanced => "balanced",
            Self::Quality => "quality",
        }
    }
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that no preset has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown preset {0:?}: there are latency, balanced and quality")]
pub struct UnknownPreset(String);

impl FromStr for Preset {
    type Err = UnknownPreset;

    fn from_str(name: &str) -> Result<Self, UnknownPreset> {
        Self::ALL.into_iter().find(|preset| preset.name() == name).ok_or_else(|| UnknownPreset(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preset_is_read_by_the_name_it_is_written_with() {
        for preset in Preset::ALL {
            assert_eq!(preset.to_string().parse(), Ok(preset));
            assert_eq!(serde_json::to_string(&preset).unwrap(), format!("\"{preset}\""));
        }
        assert!("Balanced".parse::<Preset>().unwrap_err().to_string().contains("quality"));
    }
}
