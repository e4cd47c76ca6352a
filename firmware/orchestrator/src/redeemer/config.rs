//! What an operator may set about redeeming.
use std::time::Duration;

use serde::Deserialize;

use super::RoundsConfig;
use crate::config::ConfigError;

/// How winners are redeemed.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RedeemerConfig {
    /// Blocks on top of a redemption before it is believed for good: the chain's key of this name.
    #[serde(skip)]
    pub confirmations: u64,
    /// The round's errands: the section `rounds`.
    #[serde(skip)]
    pub rounds: RoundsConfig,
    /// Seconds without a receipt after which a transaction is replaced by a dearer one. Range 1–3600, default 300.
    pub stuck_after_s: u64,
    /// Replacements of one transaction at most. Range 0–20, default 5.
    pub max_replacements: usize,
    /// Seconds for which something final must be seen again and again before it is believed: a ticket spent by
    /// somebody else, refused for ever, or over. Range 0–3600, default 120.
    pub doubt_s: u64,
    /// Tickets redeemed by one transaction at most; 1 redeems each by itself. Range 1–8, default 8.
    pub batch: usize,
    /// Seconds before the first new try of what failed. Range 1–600, default 5.
    pub retry_first_s: u64,
    /// Longest wait between tries. Range 1–3600, default 600.
    pub retry_max_s: u64,
}

impl Default for RedeemerConfig {
    fn default() -> Self {
        Self {
            confirmations: 4800,
            rounds: RoundsConfig::default(),
            stuck_after_s: 300,
            max_replacements: 5,
            doubt_s: 120,
            batch: 8,
            retry_first_s: 5,
            retry_max_s: 600,
        }
    }
}

impl RedeemerConfig {
    /// Checks what types cannot.
    ///
    /// # Errors
    /// [`ConfigError`] naming the key and what it must be.
    pub fn check(&self) -> Result<(), ConfigError> {
        let replacements = u64::try_from(self.max_replacements).unwrap_or(u64::MAX);
        for (key, value, min, max) in [
            ("stuck_after_s", self.stuck_after_s, 1, 3600),
            ("max_replacements", replacements, 0, 20),
            ("doubt_s", self.doubt_s, 0, 3600),
            ("batch", u64::try_from(self.batch).unwrap_or(u64::MAX), 1, 8),
            ("retry_first_s", self.retry_first_s, 1, 600),
            ("retry_max_s", self.retry_max_s, self.retry_first_s, 3600),
        ] {
            if !(min..=max).contains(&value) {
                return Err(ConfigError::Range { key, value, min, max });
            }
        }
        Ok(())
    }

    pub(super) fn stuck_after(&self) -> Duration {
        Duration::from_secs(self.stuck_after_s)
    }

    pub(super) fn doubt(&self) -> Duration {
        Duration::from_secs(self.doubt_s)
    }
}
