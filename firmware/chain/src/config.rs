//! What an operator may set about the chain.
use std::path::PathBuf;
use std::time::Duration;

use http::Uri;
use livepeer::address::Address;
use livepeer::units::Wei;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Chain id of Arbitrum One, where the product works unless told otherwise.
pub const ARBITRUM_ONE: u64 = 42_161;
/// The Controller of Arbitrum One: every other address is looked up there.
pub const ARBITRUM_CONTROLLER: &str = "0xD8E8328501E9645d16Cf49539efC04f734606ee4";

/// How this node sees the chain. Every key is read at start; none is applied by a reload.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ChainConfig {
    /// JSON-RPC endpoints, `http://` or `https://`, in order of preference. At least one; the next is used when one
    /// does not answer. No default: off-chain mode is having no `chain` section at all.
    pub rpc: Vec<Endpoint>,
    /// The Controller contract. Default: Arbitrum One's.
    #[serde(default = "default_controller")]
    pub controller: Address,
    /// The only chain this node signs for; an endpoint of another chain is refused. Default: 42161 (Arbitrum One).
    #[serde(default = "default_chain_id")]
    pub chain_id: u64,
    /// The orchestrator's on-chain account, the recipient of tickets and owner of the stake. Never a key on this box.
    pub recipient: Address,
    /// Milliseconds between looks at the head. Range 100–60000, default 5000.
    #[serde(default = "default_poll_interval_ms")]
    pub poll_interval_ms: u64,
    /// Milliseconds a single request may take. Range 100–120000, default 20000.
    #[serde(default = "default_request_timeout_ms")]
    pub request_timeout_ms: u64,
    /// Blocks of this chain on top of a receipt before it is believed for good. Default 4800, about 20 minutes of
    /// Arbitrum blocks, by when the batch is usually final on L1.
    #[serde(default = "default_confirmations")]
    pub confirmations: u64,
    /// Wei per gas above which nothing is sent. Default 10 gwei.
    #[serde(default = "default_max_gas_price")]
    pub max_gas_price_wei: Wei,
    /// Wei per gas the fee cap never goes below. Default 0.02 gwei, twice Arbitrum's usual minimum.
    #[serde(default = "default_min_fee")]
    pub min_fee_cap_wei: Wei,
    /// Certificate authorities trusted for `https://` endpoints, a PEM file. Default: the system's bundle.
    #[serde(default = "default_ca_file")]
    pub ca_file: PathBuf,
    /// An HTTP proxy, `http://HOST:PORT`, through which every endpoint is reached by `CONNECT`. Default: none; the
    /// environment is never asked.
    #[serde(default)]
    pub proxy: Option<Endpoint>,
}

impl ChainConfig {
    /// A configuration with everything else at its default.
    #[must_use]
    pub fn new(rpc: Vec<Endpoint>, controller: Address, chain_id: u64, recipient: Address) -> Self {
        Self {
            rpc,
            controller,
            chain_id,
            recipient,
            poll_interval_ms: default_poll_interval_ms(),
            request_timeout_ms: default_request_timeout_ms(),
            confirmations: default_confirmations(),
            max_gas_price_wei: default_max_gas_price(),
            min_fee_cap_wei: default_min_fee(),
            ca_file: default_ca_file(),
            proxy: None,
        }
    }

    /// Time between looks at the head.
    #[must_use]
    pub fn poll_interval(&self) -> Duration {
        Duration::from_millis(self.poll_interval_ms)
    }

    /// Time a single request may take.
    #[must_use]
    pub fn request_timeout(&self) -> Duration {
        Duration::from_millis(self.request_timeout_ms)
    }

    /// Checks what types cannot: ranges and that something is there.
    ///
    /// # Errors
    /// [`ConfigError`] naming the key and what it must be.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.rpc.is_empty() {
            return Err(ConfigError::NoEndpoint);
        }
        if self.controller.is_null() {
            return Err(ConfigError::NullAddress { key: "controller" });
        }
        if self.recipient.is_null() {
            return Err(ConfigError::NullAddress { key: "recipient" });
        }
        if self.proxy.as_ref().is_some_and(|proxy| proxy.uri().scheme_str() != Some("http")) {
            return Err(ConfigError::Proxy);
        }
        for (key, value, min, max) in [
            ("poll_interval_ms", self.poll_interval_ms, 100, 60_000),
            ("request_timeout_ms", self.request_timeout_ms, 100, 120_000),
        ] {
            if !(min..=max).contains(&value) {
                return Err(ConfigError::Range { key, value, min, max });
            }
        }
        Ok(())
    }
}

/// Why a chain configuration cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The list of endpoints is empty.
    #[error("chain.rpc must name at least one endpoint")]
    NoEndpoint,
    /// An address that must be someone's is the null address.
    #[error("chain.{key} must not be the null address")]
    NullAddress {
        /// The key.
        key: &'static str,
    },
    /// TLS to the proxy itself is not spoken.
    #[error("chain.proxy must begin with http://; TLS is spoken to the endpoints behind it")]
    Proxy,
    /// A number outside its range.
    #[error("chain.{key} is {value}, must be {min} to {max}")]
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
}

/// The address of a JSON-RPC endpoint. Shown without path and query, which often hold an access token.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint(Uri);

impl Endpoint {
    pub(crate) fn uri(&self) -> &Uri {
        &self.0
    }
}

/// Why a text is not an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an endpoint: expected http://HOST[:PORT][/PATH] or https://…")]
pub struct ParseEndpointError;

impl std::str::FromStr for Endpoint {
    type Err = ParseEndpointError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let uri: Uri = text.parse().map_err(|_| ParseEndpointError)?;
        let known = matches!(uri.scheme_str(), Some("http" | "https"));
        let plain = uri.authority().is_some_and(|a| !a.as_str().contains('@'));
        if known && plain { Ok(Self(uri)) } else { Err(ParseEndpointError) }
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let authority = self.0.authority().map_or("", http::uri::Authority::as_str);
        write!(f, "{}://{authority}", self.0.scheme_str().unwrap_or("http"))
    }
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

impl Serialize for Endpoint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Endpoint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

fn default_controller() -> Address {
    ARBITRUM_CONTROLLER.parse().expect("the pinned address is well formed")
}

fn default_chain_id() -> u64 {
    ARBITRUM_ONE
}

fn default_poll_interval_ms() -> u64 {
    5_000
}

fn default_request_timeout_ms() -> u64 {
    20_000
}

fn default_confirmations() -> u64 {
    4_800
}

fn default_max_gas_price() -> Wei {
    Wei(10_000_000_000_u64.into())
}

fn default_min_fee() -> Wei {
    Wei(20_000_000_u64.into())
}

fn default_ca_file() -> PathBuf {
    PathBuf::from("/etc/ssl/certs/ca-certificates.crt")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_shown_without_its_token() {
        let endpoint: Endpoint = "https://rpc.example.org/v2/s3cr3t?key=s3cr3t".parse().unwrap();
        assert_eq!(format!("{endpoint} {endpoint:?}"), "https://rpc.example.org https://rpc.example.org");
        assert_eq!("ftp://rpc.example.org".parse::<Endpoint>(), Err(ParseEndpointError));
        assert_eq!("http://me:secret@rpc.example.org".parse::<Endpoint>(), Err(ParseEndpointError));
        assert_eq!("rpc.example.org:8545".parse::<Endpoint>(), Err(ParseEndpointError));
    }

    #[test]
    fn a_configuration_out_of_range_names_the_key() {
        let me = "0x5CbDd86a2FA8Dc4bDdd8a8f69dBa48572EeC07FB".parse().unwrap();
        let mut config = ChainConfig::new(vec!["http://127.0.0.1:1".parse().unwrap()], default_controller(), 1, me);
        assert_eq!(config.check(), Ok(()));
        config.poll_interval_ms = 5;
        let text = config.check().unwrap_err().to_string();
        assert_eq!(text, "chain.poll_interval_ms is 5, must be 100 to 60000");
        config.poll_interval_ms = 100;
        config.proxy = Some("https://10.0.0.5:3128".parse().unwrap());
        assert_eq!(config.check(), Err(ConfigError::Proxy));
        config.rpc.clear();
        assert_eq!(config.check(), Err(ConfigError::NoEndpoint));
    }
}
