//! What an operator can set: one TOML file, every key in `fleet.toml` beside this crate with unit, range and default.

use std::path::{Path, PathBuf};

use fleet_protocol::site::Proxy;
use fleet_protocol::{BoxId, FleetId};
use serde::Deserialize;
use service::MutualTls;

/// The documented example, also shown by `--help`.
pub(crate) const EXAMPLE: &str = include_str!("../fleet.toml");

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// The file cannot be read.
    #[error("config {path}: {source}")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// Not TOML, or an unknown or malformed key.
    #[error("config: {0}")]
    Parse(#[from] toml::de::Error),
    /// A value out of its range.
    #[error("config: `{key}` must be {rule}")]
    Range { key: &'static str, rule: &'static str },
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    #[serde(rename = "box")]
    pub(crate) box_id: BoxId,
    pub(crate) fleet: FleetId,
    #[serde(default = "all")]
    pub(crate) ring: FleetId,
    #[serde(default = "state_dir")]
    pub(crate) state_dir: PathBuf,
    #[serde(default = "node_status")]
    pub(crate) node_status: PathBuf,
    pub(crate) brokers: Vec<BrokerAddress>,
    #[serde(default)]
    pub(crate) proxy: Option<Proxy>,
    pub(crate) tls: MutualTls,
    #[serde(default)]
    pub(crate) periods: Periods,
    #[serde(default)]
    pub(crate) link: LinkConfig,
    #[serde(default)]
    pub(crate) spool: SpoolConfig,
    #[serde(default)]
    pub(crate) limits: Limits,
    #[serde(default)]
    pub(crate) orders: Orders,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Orders {
    pub(crate) keys: PathBuf,
    pub(crate) operators: PathBuf,
    pub(crate) update_state: PathBuf,
    pub(crate) requests: PathBuf,
    pub(crate) decommission: PathBuf,
    pub(crate) os_release: PathBuf,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BrokerAddress {
    pub(crate) host: String,
    #[serde(default = "port")]
    pub(crate) port: u16,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Periods {
    pub(crate) heartbeat_s: u32,
    pub(crate) vitals_s: u32,
    pub(crate) streams_s: u32,
    pub(crate) earnings_s: u32,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct LinkConfig {
    pub(crate) keepalive_s: u32,
    pub(crate) window_s: u32,
    pub(crate) base_s: u32,
    pub(crate) cap_s: u32,
    pub(crate) resend_s: u32,
    pub(crate) rebirth_s: u32,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct SpoolConfig {
    pub(crate) ledger_mib: u32,
    pub(crate) events_mib: u32,
    pub(crate) earnings_mib: u32,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Limits {
    pub(crate) node_silent_s: u32,
    pub(crate) chain_silent_s: u32,
    pub(crate) no_ticket_s: u32,
    pub(crate) cpu_celsius: u32,
    pub(crate) disk_percent: u32,
    pub(crate) gas_low_wei: String,
}

impl Default for Periods {
    fn default() -> Self {
        Self { heartbeat_s: 60, vitals_s: 300, streams_s: 300, earnings_s: 900 }
    }
}

impl Default for LinkConfig {
    fn default() -> Self {
        Self { keepalive_s: 120, window_s: 60, base_s: 0, cap_s: 0, resend_s: 600, rebirth_s: 600 }
    }
}

impl Default for SpoolConfig {
    fn default() -> Self {
        Self { ledger_mib: 64, events_mib: 32, earnings_mib: 8 }
    }
}

impl Default for Orders {
    fn default() -> Self {
        Self {
            keys: PathBuf::from("/usr/share/millrace/release-keys.json"),
            operators: PathBuf::from("/usr/share/millrace/site-keys.json"),
            update_state: PathBuf::from("/var/lib/millrace-update"),
            requests: PathBuf::from("/run/millrace-fleet/update"),
            decommission: PathBuf::from("/run/millrace-fleet/decommission.json"),
            os_release: PathBuf::from(service::OS_RELEASE),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            node_silent_s: 30,
            chain_silent_s: 120,
            no_ticket_s: 21_600,
            cpu_celsius: 85,
            disk_percent: 90,
            gas_low_wei: "10000000000000000".to_owned(),
        }
    }
}

impl Config {
    /// Read and check a file.
    pub(crate) fn read(path: &Path) -> Result<Self, ConfigError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(&text)
    }

    /// Check a text.
    pub(crate) fn parse(text: &str) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text)?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let rule = |holds: bool, key, rule| if holds { Ok(()) } else { Err(ConfigError::Range { key, rule }) };
        rule(!self.brokers.is_empty(), "brokers", "at least one")?;
        let named = |broker: &BrokerAddress| !broker.host.is_empty() && broker.port != 0;
        rule(self.brokers.iter().all(named), "brokers", "a host and a port from 1 to 65535 each")?;
        let period = |seconds: u32| (1..=86_400).contains(&seconds);
        let Periods { heartbeat_s, vitals_s, streams_s, earnings_s } = self.periods;
        rule((1..=3600).contains(&heartbeat_s), "periods.heartbeat_s", "1 to 3600 seconds")?;
        rule(period(vitals_s), "periods.vitals_s", "1 to 86400 seconds")?;
        rule(period(streams_s), "periods.streams_s", "1 to 86400 seconds")?;
        rule(period(earnings_s), "periods.earnings_s", "1 to 86400 seconds")?;
        let link = &self.link;
        rule((5..=270).contains(&link.keepalive_s), "link.keepalive_s", "5 to 270 seconds")?;
        rule((1..=3600).contains(&link.window_s), "link.window_s", "1 to 3600 seconds")?;
        rule(link.base_s <= 3600, "link.base_s", "0 to 3600 seconds")?;
        rule(link.cap_s <= 86_400, "link.cap_s", "0 to 86400 seconds")?;
        rule(period(link.resend_s), "link.resend_s", "1 to 86400 seconds")?;
        rule(link.rebirth_s <= 86_400, "link.rebirth_s", "0 to 86400 seconds")?;
        let SpoolConfig { ledger_mib, events_mib, earnings_mib } = self.spool;
        let cap = |mib: u32| (1..=4096).contains(&mib);
        rule(cap(ledger_mib), "spool.ledger_mib", "1 to 4096 MiB")?;
        rule(cap(events_mib), "spool.events_mib", "1 to 4096 MiB")?;
        rule(cap(earnings_mib), "spool.earnings_mib", "1 to 4096 MiB")?;
        let limits = &self.limits;
        rule((1..=100).contains(&limits.disk_percent), "limits.disk_percent", "1 to 100 percent")?;
        rule((1..=150).contains(&limits.cpu_celsius), "limits.cpu_celsius", "1 to 150 degrees")?;
        rule(limits.gas_low_wei.parse::<u128>().is_ok(), "limits.gas_low_wei", "wei as decimal text, less than 2^128")
    }
}

fn all() -> FleetId {
    FleetId::new("all").expect("`all` is a name")
}

fn state_dir() -> PathBuf {
    PathBuf::from("/var/lib/millrace-fleet")
}

fn node_status() -> PathBuf {
    PathBuf::from("/run/millrace/node.sock")
}

fn port() -> u16 {
    8883
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_example_is_valid_and_shows_the_defaults() {
        let example = Config::parse(EXAMPLE).unwrap();
        let least = r#"
            box = "box-0000000000000000"
            fleet = "home"
            brokers = [{ host = "localhost" }]
            tls = { ca = "/etc/millrace/fleet-ca.pem", cert = "/etc/millrace/box.pem", key = "/etc/millrace/box.key" }
        "#;
        assert_eq!(format!("{example:?}"), format!("{:?}", Config::parse(least).unwrap()));
    }

    #[test]
    fn a_wrong_key_or_value_is_named() {
        let with = |from: &str, to: &str| Config::parse(&EXAMPLE.replace(from, to)).unwrap_err().to_string();
        assert!(with("ring =", "rnig =").contains("rnig"));
        assert!(with("keepalive_s = 120", "keepalive_s = 4").contains("link.keepalive_s"));
        assert!(with("box-0000000000000000", "box-1").contains("box id"));
        assert!(with("port = 8883", "port = 0").contains("brokers"));
        assert!(with("\"10000000000000000\"", "\"1e16\"").contains("gas_low_wei"));
    }
}
