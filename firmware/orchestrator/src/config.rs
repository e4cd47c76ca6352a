//! What an operator may set about serving gateways.
//!
//! Every key is read at start; a reload applies none of them.
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use livepeer::price::PricePerPixel;
use livepeer::units::Wei;
use serde::{Deserialize, Deserializer, Serialize, de};

/// The port the network expects an orchestrator on.
pub const DEFAULT_PORT: u16 = 8935;

/// How gateways are served.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where gateways reach us, `https://HOST:PORT`; also the address in rendition URLs. Default: made of the bound
    /// address, which only a gateway on this machine or network can use.
    pub service_uri: Option<ServiceUri>,
    /// Address to listen on: `IP:PORT` for TLS, `http://IP:PORT` for plain text. Default `0.0.0.0:8935`.
    pub listen: Listen,
    /// Certificate chain to serve, PEM. Default: a self-signed one made in the state directory.
    pub tls_certificate: Option<PathBuf>,
    /// Key of that certificate, PEM. Default: one made in the state directory.
    pub tls_key: Option<PathBuf>,
    /// Sessions at the same time. Range 1–1000, default 10.
    pub max_sessions: usize,
    /// Connections at the same time; a quarter of them for one address. Range 16–65536, default 1024.
    pub max_connections: usize,
    /// Mebibytes that uploads may hold at the same time. Range 32–65536, default 1024.
    pub upload_memory_mib: usize,
    /// Mebibytes that renditions waiting to be fetched may hold. Range 32–65536, default 512.
    pub rendition_memory_mib: usize,
    /// Seconds that running segments get to finish when the node stops. Range 1–600, default 20.
    pub drain_s: u64,
    /// Further service URIs of the same operator, told to gateways. Default none.
    pub nodes: Vec<ServiceUri>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            service_uri: None,
            listen: Listen::default(),
            tls_certificate: None,
            tls_key: None,
            max_sessions: 10,
            max_connections: 1024,
            upload_memory_mib: 1024,
            rendition_memory_mib: 512,
            drain_s: 20,
            nodes: Vec::new(),
        }
    }
}

impl Config {
    /// Checks what types cannot: ranges, and keys that need each other.
    ///
    /// # Errors
    /// [`ConfigError`] naming the key and what it must be.
    pub fn check(&self) -> Result<(), ConfigError> {
        let size = |value: usize| u64::try_from(value).unwrap_or(u64::MAX);
        for (key, value, min, max) in [
            ("max_sessions", size(self.max_sessions), 1, 1000),
            ("max_connections", size(self.max_connections), 16, 65_536),
            ("upload_memory_mib", size(self.upload_memory_mib), 32, 65_536),
            ("rendition_memory_mib", size(self.rendition_memory_mib), 32, 65_536),
            ("drain_s", self.drain_s, 1, 600),
        ] {
            if !(min..=max).contains(&value) {
                return Err(ConfigError::Range { key, value, min, max });
            }
        }
        if self.tls_certificate.is_some() != self.tls_key.is_some() {
            return Err(ConfigError::Together { keys: "tls_certificate and tls_key" });
        }
        Ok(())
    }

    /// Time that running segments get to finish when the node stops.
    #[must_use]
    pub fn drain(&self) -> Duration {
        Duration::from_secs(self.drain_s)
    }
}

/// What the work costs and what tickets must look like. Used on chain only.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PaymentConfig {
    /// Wei per encoded pixel as decimal text, `1200` or `0.7`. Zero works for nothing. Default 1200.
    #[serde(deserialize_with = "price")]
    pub price_per_pixel: PricePerPixel,
    /// The most asked per pixel when the cost of redeeming is on top, so that a spike of gas does not drive
    /// gateways away. Not below `price_per_pixel`. Default none.
    #[serde(deserialize_with = "ceiling")]
    pub max_price_per_pixel: Option<PricePerPixel>,
    /// Does the price carry the cost of redeeming on top? Default true.
    pub auto_adjust_price: bool,
    /// Wei a ticket is worth on average. A gateway refuses more than 3000000000000. Default 8000000000.
    pub ticket_ev_wei: Wei,
    /// The face value is this many times the cost of redeeming. Range 1–10000, default 100.
    pub face_value_multiplier: u64,
    /// Upper bound of the face value in wei; zero for none. Default 0.
    pub max_face_value_wei: Wei,
    /// Gas one redemption is taken to use. Range 100000–3000000, default 1200000.
    pub redeem_gas: u64,
}

impl Default for PaymentConfig {
    fn default() -> Self {
        Self {
            price_per_pixel: PricePerPixel::new(1200, 1).expect("a constant price is a price"),
            max_price_per_pixel: None,
            auto_adjust_price: true,
            ticket_ev_wei: Wei::from(8_000_000_000),
            face_value_multiplier: 100,
            max_face_value_wei: Wei::ZERO,
            redeem_gas: 1_200_000,
        }
    }
}

impl PaymentConfig {
    /// Checks what types cannot.
    ///
    /// # Errors
    /// [`ConfigError`] naming the key and what it must be.
    pub fn check(&self) -> Result<(), ConfigError> {
        for (key, value, min, max) in [
            ("face_value_multiplier", self.face_value_multiplier, 1, 10_000),
            ("redeem_gas", self.redeem_gas, 100_000, 3_000_000),
        ] {
            if !(min..=max).contains(&value) {
                return Err(ConfigError::Range { key, value, min, max });
            }
        }
        if self.max_price_per_pixel.is_some_and(|ceiling| !crate::pricing::at_least(ceiling, self.price_per_pixel)) {
            return Err(ConfigError::Ceiling);
        }
        if self.ticket_ev_wei.is_zero() {
            return Err(ConfigError::Zero { key: "ticket_ev_wei" });
        }
        Ok(())
    }
}

fn price<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PricePerPixel, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
}

fn ceiling<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PricePerPixel>, D::Error> {
    price(deserializer).map(Some)
}

/// Why a configuration cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A number outside its range.
    #[error("{key} is {value}, must be {min} to {max}")]
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
    /// The ceiling of the price is below the price.
    #[error("max_price_per_pixel must not be below price_per_pixel")]
    Ceiling,
    /// An amount that must not be nothing.
    #[error("{key} must not be zero")]
    Zero {
        /// The key.
        key: &'static str,
    },
    /// One of two keys is there without the other.
    #[error("{keys} must be set together or not at all")]
    Together {
        /// Both.
        keys: &'static str,
    },
}

/// Where gateways reach an orchestrator: `https://HOST:PORT` or `http://HOST:PORT`, nothing behind it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct ServiceUri(String);

/// The text is not a service URI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a service URI: expected https://HOST:PORT or http://HOST:PORT")]
pub struct ParseServiceUriError;

impl ServiceUri {
    /// The URI as text, without a slash at its end.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The host alone.
    #[must_use]
    pub fn host(&self) -> String {
        let host = self.0.parse::<http::Uri>().ok().and_then(|uri| uri.host().map(str::to_owned));
        host.unwrap_or_default().trim_matches(['[', ']']).to_owned()
    }

    /// The URI of a listener at this address: the loopback address stands in for "all interfaces".
    #[must_use]
    pub fn of_listener(tls: bool, mut address: SocketAddr) -> Self {
        if address.ip().is_unspecified() {
            address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
        }
        Self(format!("{}://{address}", if tls { "https" } else { "http" }))
    }
}

impl std::str::FromStr for ServiceUri {
    type Err = ParseServiceUriError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let trimmed = text.trim_end_matches('/');
        let uri: http::Uri = trimmed.parse().map_err(|_| ParseServiceUriError)?;
        let known = matches!(uri.scheme_str(), Some("https" | "http"));
        let bare = matches!(uri.path_and_query().map(http::uri::PathAndQuery::as_str), None | Some("/"));
        let plain = uri.authority().is_some_and(|authority| !authority.as_str().contains('@'));
        if known && bare && plain { Ok(Self(trimmed.to_owned())) } else { Err(ParseServiceUriError) }
    }
}

impl<'de> Deserialize<'de> for ServiceUri {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl std::fmt::Display for ServiceUri {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// An address to listen on, and whether TLS is spoken there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listen {
    /// Is TLS spoken?
    pub tls: bool,
    /// Where.
    pub address: SocketAddr,
}

impl Default for Listen {
    fn default() -> Self {
        Self { tls: true, address: SocketAddr::new(std::net::Ipv4Addr::UNSPECIFIED.into(), DEFAULT_PORT) }
    }
}

impl std::fmt::Display for Listen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", if self.tls { "" } else { "http://" }, self.address)
    }
}

/// The text is not an address to listen on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an address to listen on: expected IP:PORT, or http://IP:PORT for plain text")]
pub struct ParseListenError;

impl std::str::FromStr for Listen {
    type Err = ParseListenError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (tls, address) = match text.split_once("://") {
            None => (true, text),
            Some(("https", address)) => (true, address),
            Some(("http", address)) => (false, address),
            Some(_) => return Err(ParseListenError),
        };
        let address = address.trim_end_matches('/').parse().map_err(|_| ParseListenError)?;
        Ok(Self { tls, address })
    }
}

impl<'de> Deserialize<'de> for Listen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_uri_has_a_scheme_and_nothing_behind_the_port() {
        let uri: ServiceUri = "https://node.example:8935/".parse().unwrap();
        assert_eq!((uri.as_str(), uri.host().as_str()), ("https://node.example:8935", "node.example"));
        for bad in ["node.example:8935", "ftp://x:1", "https://x:1/path", "https://u@x:1", "https://x:1?q"] {
            assert_eq!(bad.parse::<ServiceUri>(), Err(ParseServiceUriError), "{bad}");
        }
        let all: SocketAddr = "0.0.0.0:8935".parse().unwrap();
        assert_eq!(ServiceUri::of_listener(true, all).as_str(), "https://127.0.0.1:8935");
        assert_eq!("https://[::1]:8935".parse::<ServiceUri>().unwrap().host(), "::1");
    }

    #[test]
    fn a_listener_speaks_tls_unless_told_otherwise() {
        assert!("127.0.0.1:0".parse::<Listen>().unwrap().tls);
        assert!(!"http://127.0.0.1:0".parse::<Listen>().unwrap().tls);
        assert_eq!("localhost".parse::<Listen>(), Err(ParseListenError));
    }

    #[test]
    fn numbers_outside_their_range_are_named() {
        let config = Config { max_sessions: 0, ..Config::default() };
        assert_eq!(config.check().unwrap_err().to_string(), "max_sessions is 0, must be 1 to 1000");
        let config = Config { tls_key: Some("key.pem".into()), ..Config::default() };
        assert!(config.check().is_err());
        assert_eq!(Config::default().check(), Ok(()));
        assert_eq!(PaymentConfig::default().check(), Ok(()));
        let low = PaymentConfig { max_price_per_pixel: Some(PricePerPixel::FREE), ..PaymentConfig::default() };
        assert_eq!(low.check(), Err(ConfigError::Ceiling));
    }
}
