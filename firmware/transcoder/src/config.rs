//! What an operator may set about transcoding for others.
//!
//! Every key is read at start; a reload applies none of them.
use std::path::PathBuf;

use http::uri::Authority;
use serde::{Deserialize, Deserializer, de};

/// The port the network expects an orchestrator on.
const DEFAULT_PORT: u16 = 8935;

/// For whom we transcode.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Orchestrators in order of preference; one at a time has us.
    pub orchestrators: Vec<Target>,
    /// File with the secret they share with their transcoders. The systemd credential `orch-secret` wins over it.
    pub secret_file: Option<PathBuf>,
    /// Sessions at the same time. Range 1–1000. Default: as many as the workers carry.
    pub capacity: Option<usize>,
    /// Seconds that segments in hand get to finish when the node stops. Range 1–600, default 20.
    #[serde(default = "drain")]
    pub drain_s: u64,
}

fn drain() -> u64 {
    20
}

/// One orchestrator.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// `HOST:PORT`; the port may be left out when it is 8935. TLS is always spoken.
    pub address: Address,
    /// File with the secret of this one, when it has another. Default: that of all.
    pub secret_file: Option<PathBuf>,
    /// SHA-256 of its certificate (DER), 64 hexadecimal digits: it is then the only one believed. Default: any
    /// certificate will do, as everywhere on this network.
    pub certificate_sha256: Option<Fingerprint>,
    /// Authority that must have signed its certificate for this host, PEM. Default none.
    pub ca_file: Option<PathBuf>,
}

/// Why a configuration cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Nobody to transcode for.
    #[error("transcoder.orchestrators is empty: name at least one")]
    Nobody,
    /// The same orchestrator twice.
    #[error("transcoder.orchestrators names {0} twice")]
    Twice(String),
    /// A number outside its range.
    #[error("transcoder.{key} is {value}, must be {min} to {max}")]
    Range {
        /// The key.
        key: &'static str,
        /// What it was set to.
        value: u64,
        /// The least it may be.
        min: u64,
        /// The most it may be.
        max: u64,
    },
    /// Two ways to know a certificate.
    #[error("transcoder.orchestrators: {0} has both certificate_sha256 and ca_file: one is enough")]
    Trust(String),
}

impl Config {
    /// Checks what types cannot.
    ///
    /// # Errors
    /// [`ConfigError`] naming the key and what it must be.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.orchestrators.is_empty() {
            return Err(ConfigError::Nobody);
        }
        for (place, target) in self.orchestrators.iter().enumerate() {
            if self.orchestrators.iter().take(place).any(|other| other.address == target.address) {
                return Err(ConfigError::Twice(target.address.to_string()));
            }
            if target.certificate_sha256.is_some() && target.ca_file.is_some() {
                return Err(ConfigError::Trust(target.address.to_string()));
            }
        }
        let capacity = self.capacity.map_or(1, |capacity| u64::try_from(capacity).unwrap_or(u64::MAX));
        for (key, value, min, max) in [("capacity", capacity, 1, 1000), ("drain_s", self.drain_s, 1, 600)] {
            if !(min..=max).contains(&value) {
                return Err(ConfigError::Range { key, value, min, max });
            }
        }
        Ok(())
    }
}

/// Where an orchestrator listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address(Authority);

impl Address {
    /// Host and port.
    #[must_use]
    pub fn authority(&self) -> &Authority {
        &self.0
    }

    /// The host alone, without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        self.0.host().trim_matches(['[', ']'])
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// The text is not an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an orchestrator's address: expected HOST or HOST:PORT")]
pub struct ParseAddressError;

impl std::str::FromStr for Address {
    type Err = ParseAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bare = text.strip_prefix("https://").unwrap_or(text).trim_end_matches('/');
        let parse = |text: &str| text.parse::<Authority>().map_err(|_| ParseAddressError);
        let named = parse(bare)?;
        if named.host().is_empty() || bare.contains('@') {
            return Err(ParseAddressError);
        }
        // A port that is there but is none makes the whole no address.
        match named.port_u16() {
            Some(_) => Ok(Self(named)),
            None if named.as_str() == named.host() => Ok(Self(parse(&format!("{bare}:{DEFAULT_PORT}"))?)),
            None => Err(ParseAddressError),
        }
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// SHA-256 of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(pub [u8; 32]);

impl<'de> Deserialize<'de> for Fingerprint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // As `openssl x509 -fingerprint -sha256` prints it, or without the colons.
        let text = String::deserialize(deserializer)?.replace(':', "");
        let bytes = hex::decode(&text).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or_else(|| de::Error::custom("not a SHA-256: expected 64 hexadecimal digits"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_with_or_without_a_port() {
        let said = |text: &str| text.parse::<Address>().map(|address| address.to_string());
        assert_eq!(said("orch.example").unwrap(), "orch.example:8935");
        assert_eq!(said("https://orch.example:443/").unwrap(), "orch.example:443");
        assert_eq!(said("[::1]").unwrap(), "[::1]:8935");
        assert_eq!("[::1]:5".parse::<Address>().unwrap().host(), "::1");
        for wrong in ["", "http://orch.example", "a b", "user@orch", "orch:", "orch:99999", "orch/path"] {
            assert!(said(wrong).is_err(), "{wrong}");
        }
    }
}
