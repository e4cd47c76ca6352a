//! What an operator can set: one TOML file, every key in `controller.toml` beside this crate.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use fleet_protocol::{BoxId, FleetId};
use serde::Deserialize;
use service::MutualTls;

/// The documented example, also shown by `--help`.
pub(crate) const EXAMPLE: &str = include_str!("../controller.toml");

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
    pub(crate) fleet: FleetId,
    #[serde(default = "name")]
    pub(crate) name: FleetId,
    #[serde(default = "database")]
    pub(crate) database: PathBuf,
    #[serde(default = "listen")]
    pub(crate) listen: SocketAddr,
    #[serde(default)]
    pub(crate) auto_enrol: bool,
    #[serde(default = "max_boxes")]
    pub(crate) max_boxes: u32,
    #[serde(default = "minute")]
    pub(crate) window_s: u32,
    #[serde(default = "minute")]
    pub(crate) ack_s: u32,
    #[serde(default = "ack_records")]
    pub(crate) ack_records: u32,
    #[serde(default = "minute")]
    pub(crate) reorder_s: u32,
    #[serde(default = "rebirth_s")]
    pub(crate) rebirth_s: u32,
    #[serde(default = "offline_alarm_s")]
    pub(crate) offline_alarm_s: u32,
    #[serde(default = "keep_days")]
    pub(crate) keep_days: u32,
    pub(crate) broker: Broker,
    pub(crate) tls: MutualTls,
    #[serde(default)]
    pub(crate) campaigns: Campaigns,
    #[serde(default)]
    pub(crate) enrol: Option<Enrol>,
    #[serde(default)]
    pub(crate) boxes: Vec<Enrolled>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Broker {
    pub(crate) host: String,
    #[serde(default = "port")]
    pub(crate) port: u16,
    #[serde(default = "client_id")]
    pub(crate) client_id: String,
    #[serde(default = "keepalive_s")]
    pub(crate) keepalive_s: u32,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Campaigns {
    #[serde(default)]
    pub(crate) pacer_key: Option<PathBuf>,
}

/// How machines become boxes by claim.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Enrol {
    #[serde(default = "enrol_listen")]
    pub(crate) listen: SocketAddr,
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) issuer_cert: PathBuf,
    pub(crate) issuer_key: PathBuf,
    pub(crate) brokers: Vec<fleet_protocol::site::Broker>,
    #[serde(default = "leaf_days")]
    pub(crate) leaf_days: u32,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Enrolled {
    pub(crate) id: BoxId,
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
        let rule = |holds: bool, key, rule| if holds { Ok(()) } else { Err(ConfigError::Range { key, rule }) };
        rule((1..=20_000).contains(&config.max_boxes), "max_boxes", "1 to 20000")?;
        rule((5..=3600).contains(&config.window_s), "window_s", "5 to 3600 seconds")?;
        rule(config.ack_s <= 3600, "ack_s", "0 to 3600 seconds")?;
        rule((1..=1000).contains(&config.ack_records), "ack_records", "1 to 1000")?;
        rule((1..=3600).contains(&config.reorder_s), "reorder_s", "1 to 3600 seconds")?;
        rule((1..=86_400).contains(&config.rebirth_s), "rebirth_s", "1 to 86400 seconds")?;
        rule(config.offline_alarm_s <= 86_400, "offline_alarm_s", "0 to 86400 seconds")?;
        rule((1..=36_500).contains(&config.keep_days), "keep_days", "1 to 36500 days")?;
        rule(!config.broker.host.is_empty(), "broker.host", "a name or an address")?;
        rule(config.broker.port != 0, "broker.port", "1 to 65535")?;
        rule((5..=270).contains(&config.broker.keepalive_s), "broker.keepalive_s", "5 to 270 seconds")?;
        rule(!config.broker.client_id.is_empty(), "broker.client_id", "a client id")?;
        let listed = u32::try_from(config.boxes.len()).is_ok_and(|listed| listed <= config.max_boxes);
        rule(listed, "boxes", "at most max_boxes")?;
        if let Some(enrol) = &config.enrol {
            let named = enrol.brokers.iter().all(|broker| !broker.host.is_empty() && broker.port != 0);
            rule((1..=8).contains(&enrol.brokers.len()) && named, "enrol.brokers", "1 to 8, each a host and a port")?;
            rule((1..=825).contains(&enrol.leaf_days), "enrol.leaf_days", "1 to 825 days")?;
        }
        Ok(config)
    }
}

fn name() -> FleetId {
    FleetId::new("main").expect("`main` is a name")
}

fn database() -> PathBuf {
    PathBuf::from("/var/lib/millrace-controller/fleet.db")
}

fn listen() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 8095))
}

fn enrol_listen() -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], fleet_protocol::enrol::PORT))
}

fn leaf_days() -> u32 {
    90
}

fn max_boxes() -> u32 {
    2000
}

fn minute() -> u32 {
    60
}

fn ack_records() -> u32 {
    50
}

fn rebirth_s() -> u32 {
    600
}

fn offline_alarm_s() -> u32 {
    300
}

fn keep_days() -> u32 {
    400
}

fn port() -> u16 {
    8883
}

fn client_id() -> String {
    "ctl-main".to_owned()
}

fn keepalive_s() -> u32 {
    30
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_example_is_valid_and_shows_the_defaults() {
        let example = Config::parse(EXAMPLE).unwrap();
        let least = r#"
            fleet = "home"
            broker = { host = "localhost" }
            boxes = [{ id = "box-0000000000000000" }]
            [tls]
            ca = "/etc/millrace/fleet-ca.pem"
            cert = "/etc/millrace/ctl-main.pem"
            key = "/etc/millrace/ctl-main.key"
        "#;
        assert_eq!(format!("{example:?}"), format!("{:?}", Config::parse(least).unwrap()));
    }

    #[test]
    fn a_wrong_key_or_value_is_named() {
        let with = |from: &str, to: &str| Config::parse(&EXAMPLE.replace(from, to)).unwrap_err().to_string();
        assert!(with("ack_s =", "akc_s =").contains("akc_s"));
        assert!(with("window_s = 60", "window_s = 4").contains("window_s"));
        assert!(with("box-0000000000000000", "box-x").contains("box id"));
        assert!(with("127.0.0.1:8095", "localhost").contains("listen"));
    }
}
