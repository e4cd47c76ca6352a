//! What an operator may set about serving gateways.
//!
//! Every key is read at start; a reload applies none of them.
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use livepeer::address::Address;
use livepeer::price::quoted::{Currency, EtherPrice, QuotedPrice};
use livepeer::units::Wei;
use serde::{Deserialize, Deserializer, Serialize, de};

use crate::outbound::OutboundConfig;
use crate::pricing::at_least;

/// The feed of ether in US dollars on Arbitrum One.
const ARBITRUM_ETH_USD: &str = "0x639Fe6ab55C921f74e7fac1ee960C0B6293ba612";
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
    /// Sessions at the same time, at most: 1–1000, or `auto`, which lets in what the measured speed of the box and its
    /// memory carry. Default `auto`.
    pub max_sessions: MaxSessions,
    /// Percent of the measured speed that sessions never get. Range 0–90, default 20.
    pub headroom_percent: u8,
    /// Connections at the same time; a quarter of them for one address. Range 16–65536, default 1024.
    pub max_connections: usize,
    /// Mebibytes that uploads may hold at the same time. Range 32–65536, default 1024.
    pub upload_memory_mib: usize,
    /// Mebibytes that renditions waiting to be fetched may hold. Range 32–65536, default 512.
    pub rendition_memory_mib: usize,
    /// Seconds that running sessions get to end by themselves when the node is asked to stop: meanwhile nothing is
    /// offered to newcomers. Range 0–86400, default 30; systemd must be given as much (`TimeoutStopSec`).
    pub drain_sessions_s: u64,
    /// Seconds that running segments get to finish after that. Range 1–600, default 20.
    pub drain_s: u64,
    /// Sessions kept for single gateways, by address; nobody else gets them. Default none.
    pub reserved_sessions: BTreeMap<Address, usize>,
    /// URL that is asked, by POST of `{"id":"0x…"}`, whether a gateway may have an offer; any status but 200 refuses,
    /// and the answer may name its price, as stock nodes expect it. Default none.
    pub auth_webhook: Option<WebUrl>,
    /// Does the node check at start, and then now and again, that it can be reached at its service URI? Default true.
    pub availability_check: bool,
    /// What requests of our own may reach.
    pub outbound: OutboundConfig,
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
            max_sessions: MaxSessions::Auto,
            headroom_percent: 20,
            max_connections: 1024,
            upload_memory_mib: 1024,
            rendition_memory_mib: 512,
            drain_sessions_s: 30,
            drain_s: 20,
            reserved_sessions: BTreeMap::new(),
            auth_webhook: None,
            availability_check: true,
            outbound: OutboundConfig::default(),
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
            ("max_sessions", self.max_sessions.checked(), 1, 1000),
            ("headroom_percent", self.headroom_percent.into(), 0, 90),
            ("max_connections", size(self.max_connections), 16, 65_536),
            ("upload_memory_mib", size(self.upload_memory_mib), 32, 65_536),
            ("rendition_memory_mib", size(self.rendition_memory_mib), 32, 65_536),
            ("drain_sessions_s", self.drain_sessions_s, 0, 86_400),
            ("drain_s", self.drain_s, 1, 600),
            ("reserved_sessions", size(self.reserved_sessions.values().sum()), 0, self.max_sessions.checked()),
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

    /// Time that running sessions get to end by themselves when the node stops.
    #[must_use]
    pub fn drain_sessions(&self) -> Duration {
        Duration::from_secs(self.drain_sessions_s)
    }

    /// Time that running segments get to finish when the node stops.
    #[must_use]
    pub fn drain(&self) -> Duration {
        Duration::from_secs(self.drain_s)
    }
}

/// A bound on sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaxSessions {
    /// None but what is measured.
    Auto,
    /// This many.
    Fixed(usize),
}

impl MaxSessions {
    /// The bound, where something else bounds them too.
    #[must_use]
    pub fn at_most(self, other: usize) -> usize {
        match self {
            Self::Auto => other,
            Self::Fixed(most) => most.min(other),
        }
    }
}

impl MaxSessions {
    /// Checks the range.
    ///
    /// # Errors
    /// [`ConfigError`] saying what it must be.
    pub fn check(self) -> Result<(), ConfigError> {
        let (key, value, min, max) = ("max_sessions", self.checked(), 1, 1000);
        if (min..=max).contains(&value) { Ok(()) } else { Err(ConfigError::Range { key, value, min, max }) }
    }

    /// A number for the check of ranges; `auto` is always in it.
    fn checked(self) -> u64 {
        match self {
            Self::Auto => 1,
            Self::Fixed(most) => u64::try_from(most).unwrap_or(u64::MAX),
        }
    }
}

impl<'de> Deserialize<'de> for MaxSessions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Text {
            Number(usize),
            Word(String),
        }
        match Text::deserialize(deserializer) {
            Ok(Text::Number(most)) => Ok(Self::Fixed(most)),
            Ok(Text::Word(word)) if word == "auto" => Ok(Self::Auto),
            _ => Err(de::Error::custom("max_sessions must be \"auto\" or a number from 1 to 1000")),
        }
    }
}

/// What the work costs and what tickets must look like. Used on chain only.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PaymentConfig {
    /// Price of an encoded pixel as decimal text in wei, `1200` or `0.7`, or with a currency, `0.00000002ETH` or
    /// `0.41USD`. Zero works for nothing. Default 1200.
    pub price_per_pixel: QuotedPrice,
    /// How many pixels the prices here are for; a price in dollars is readable for 1000000000000. Default 1.
    pub pixels_per_unit: u64,
    /// Prices of single gateways, by address. Default none.
    pub price_per_gateway: BTreeMap<Address, QuotedPrice>,
    /// The most asked, whatever gas costs and whatever the feed tells. Not below the prices. Default none.
    pub max_price_per_pixel: Option<QuotedPrice>,
    /// Contract that tells the price of ether in the currency of prices that are not in wei or ether. Default: the
    /// feed of US dollars on Arbitrum One.
    pub price_feed: Address,
    /// Seconds after which an answer of the feed is too old to offer at. Range 60–604800, default 90000.
    pub price_feed_max_age_s: u64,
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
            price_per_pixel: "1200".parse().expect("a constant price is a price"),
            pixels_per_unit: 1,
            price_per_gateway: BTreeMap::new(),
            max_price_per_pixel: None,
            price_feed: ARBITRUM_ETH_USD.parse().expect("a constant address is an address"),
            price_feed_max_age_s: 90_000,
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
            ("pixels_per_unit", self.pixels_per_unit, 1, 1_000_000_000_000_000),
            ("price_feed_max_age_s", self.price_feed_max_age_s, 60, 604_800),
        ] {
            if !(min..=max).contains(&value) {
                return Err(ConfigError::Range { key, value, min, max });
            }
        }
        for price in self.per_gateway_and_default().chain(&self.max_price_per_pixel) {
            // Told now rather than at the first offer; in other currencies that depends on the day.
            if !matches!(price.currency(), Currency::Other(_)) {
                price.per_pixel(self.pixels_per_unit, None).map_err(|source| ConfigError::Price(source.to_string()))?;
            }
        }
        if self.per_gateway_and_default().any(|price| self.is_above_ceiling(price)) {
            return Err(ConfigError::Ceiling);
        }
        if self.ticket_ev_wei.is_zero() {
            return Err(ConfigError::Zero { key: "ticket_ev_wei" });
        }
        Ok(())
    }
}

impl PaymentConfig {
    /// Every price asked.
    pub(crate) fn per_gateway_and_default(&self) -> impl Iterator<Item = &QuotedPrice> {
        std::iter::once(&self.price_per_pixel).chain(self.price_per_gateway.values())
    }

    /// Is this price above the ceiling on any day? Prices in different currencies are compared only when asked.
    fn is_above_ceiling(&self, price: &QuotedPrice) -> bool {
        let Some(ceiling) = &self.max_price_per_pixel else { return false };
        let same = match (price.currency(), ceiling.currency()) {
            (Currency::Other(one), Currency::Other(other)) => one == other,
            (Currency::Other(_), _) | (_, Currency::Other(_)) => false,
            _ => true,
        };
        let ether = match price.currency() {
            Currency::Other(currency) => {
                Some(EtherPrice { currency: currency.clone(), units: 1.into(), ether: 1.into() })
            }
            _ => None,
        };
        let in_wei = |price: &QuotedPrice| price.per_pixel(self.pixels_per_unit, ether.as_ref());
        same && matches!((in_wei(ceiling), in_wei(price)), (Ok(ceiling), Ok(price)) if !at_least(ceiling, price))
    }

    /// Time after which an answer of the price feed is too old.
    #[must_use]
    pub fn price_feed_max_age(&self) -> Duration {
        Duration::from_secs(self.price_feed_max_age_s)
    }
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
    #[error("max_price_per_pixel must not be below price_per_pixel and the prices of single gateways")]
    Ceiling,
    /// A price that is none on the wire.
    #[error("price: {0}")]
    Price(String),
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

    /// Could a gateway elsewhere reach this host at all? Not the machine itself, nor "every address".
    #[must_use]
    pub fn is_routable(&self) -> bool {
        let host = self.host();
        match host.parse::<std::net::IpAddr>() {
            Ok(address) => !address.is_loopback() && !address.is_unspecified(),
            Err(_) => !host.is_empty() && host != "localhost" && !host.ends_with(".localhost"),
        }
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

/// A URL of the operator's, with `http` or `https`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebUrl(pub http::Uri);

impl<'de> Deserialize<'de> for WebUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let uri: http::Uri = String::deserialize(deserializer)?.parse().map_err(de::Error::custom)?;
        let known = matches!(uri.scheme_str(), Some("https" | "http")) && uri.host().is_some();
        if known { Ok(Self(uri)) } else { Err(de::Error::custom("expected a URL with http or https and a host")) }
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
        let routable = |uri: &str| uri.parse::<ServiceUri>().unwrap().is_routable();
        assert!(routable("https://node.example:8935") && routable("https://203.0.113.7:8935"));
        for nowhere in ["https://localhost:1", "https://0.0.0.0:1", "https://127.0.0.2:1", "https://[::1]:1"] {
            assert!(!routable(nowhere), "{nowhere}");
        }
    }

    #[test]
    fn a_listener_speaks_tls_unless_told_otherwise() {
        assert!("127.0.0.1:0".parse::<Listen>().unwrap().tls);
        assert!(!"http://127.0.0.1:0".parse::<Listen>().unwrap().tls);
        assert_eq!("localhost".parse::<Listen>(), Err(ParseListenError));
    }

    #[test]
    fn numbers_outside_their_range_are_named() {
        let config = Config { max_sessions: MaxSessions::Fixed(0), ..Config::default() };
        assert_eq!(config.check().unwrap_err().to_string(), "max_sessions is 0, must be 1 to 1000");
        let config = Config { tls_key: Some("key.pem".into()), ..Config::default() };
        assert!(config.check().is_err());
        assert_eq!(Config::default().check(), Ok(()));
        assert_eq!(PaymentConfig::default().check(), Ok(()));
        let with = |price: &str, ceiling: &str, pixels_per_unit: u64| {
            let (price_per_pixel, ceiling) = (price.parse().unwrap(), ceiling.parse().unwrap());
            let max_price_per_pixel = Some(ceiling);
            PaymentConfig { price_per_pixel, max_price_per_pixel, pixels_per_unit, ..PaymentConfig::default() }.check()
        };
        assert_eq!(with("1200", "0", 1), Err(ConfigError::Ceiling));
        assert_eq!(with("0.41USD", "0.40USD", 1_000_000_000_000), Err(ConfigError::Ceiling));
        assert_eq!(with("0.41USD", "0.41USD", 1_000_000_000_000), Ok(()));
        assert_eq!(with("0.41USD", "1", 1), Ok(()), "that depends on the day");
        assert_eq!(with("1", "0.000000000000000002ETH", 1), Ok(()));
        assert!(matches!(with("100ETH", "100ETH", 1), Err(ConfigError::Price(_))));
        let friend = [(Address::NULL, "1201".parse().unwrap())].into();
        let ceiling = Some("1200".parse().unwrap());
        let dear =
            PaymentConfig { price_per_gateway: friend, max_price_per_pixel: ceiling, ..PaymentConfig::default() };
        assert_eq!(dear.check(), Err(ConfigError::Ceiling));
    }
}
