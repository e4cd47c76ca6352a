//! Where a box stands: the signed site file it is provisioned from. It never says who is paid, and holds no hot key.

use serde::{Deserialize, Serialize};

mod network;
mod recovery;

pub use network::{Network, Proxy, Wifi};
pub use recovery::{ESCROW_MAX, Escrow, RecoveryKey};

use crate::dsse::{self, DsseError};
use crate::name::{BoxId, FleetId};
use crate::release::Keys;

/// Payload type of a site file.
pub const SITE: &str = "application/vnd.millrace.site.v1+json";
/// Most addresses in a list.
const LIST_MAX: usize = 8;

/// Why a site file is none.
#[derive(Debug, thiserror::Error)]
pub enum SiteError {
    /// Not signed by those who may, or malformed.
    #[error(transparent)]
    Envelope(#[from] DsseError),
    /// A field says what it must not.
    #[error("site file: {field} {rule}")]
    Field {
        /// Which.
        field: &'static str,
        /// What it must be.
        rule: &'static str,
    },
    /// Its time is over.
    #[error("site file expired: sign a new one")]
    Expired,
}

/// What a box is told of its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Site {
    /// Version of this document, 1.
    pub v: u8,
    /// A name of the place for people.
    pub site: String,
    /// When it was signed, Unix milliseconds.
    pub iat: i64,
    /// When it is no longer taken, Unix milliseconds.
    pub exp: i64,
    /// Where it stands, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// Its network; without it any wired port, by DHCP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
    /// The proxy through which releases, the chain and the fleet are reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<Proxy>,
    /// Time servers; without them the distribution's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ntp: Vec<String>,
    /// Only `UTC` is taken: journals and tickets of a fleet are read side by side.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timezone: Option<String>,
    /// To whom the key that opens `/var` without this board is sealed; without it a broken board takes `/var` with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery: Option<RecoveryKey>,
    /// Where its releases come from; without it `stable`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<FleetId>,
    /// Its fleet; without it the box reports to nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controller: Option<Controller>,
    /// How it serves gateways.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodePart>,
}

/// The fleet a box belongs to.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Controller {
    /// The fleet.
    pub fleet: FleetId,
    /// The rollout ring; without it `all`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ring: Option<FleetId>,
    /// Its brokers, the preferred one first.
    pub brokers: Vec<Broker>,
    /// The fleet's authority, PEM.
    pub ca_pem: String,
    /// What a box shows to be let into the fleet, once. Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim_token: Option<String>,
    /// For a box that was enrolled by hand: who it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
}

/// A broker's address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Broker {
    /// Name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// A box's identity in its fleet.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// Its id, the common name of the certificate.
    #[serde(rename = "box")]
    pub box_id: BoxId,
    /// Its certificate, PEM.
    pub cert_pem: String,
    /// The key to it, PEM. Secret.
    pub key_pem: String,
}

impl std::fmt::Debug for Controller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { fleet, ring, brokers, identity, .. } = self;
        let shown = (fleet, ring, brokers, identity.as_ref().map(|identity| &identity.box_id));
        f.debug_struct("Controller").field("shown", &shown).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("box", &self.box_id).finish_non_exhaustive()
    }
}

/// What of `node.toml` depends on the place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodePart {
    /// Where gateways reach the box.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_uri: Option<String>,
    /// Where it listens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen: Option<String>,
    /// Sessions at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_sessions: Option<u32>,
}

impl Site {
    /// Read a signed site file.
    ///
    /// # Errors
    /// [`SiteError`].
    pub fn read(envelope: &[u8], keys: &Keys, now_ms: i64) -> Result<Self, SiteError> {
        let verified = dsse::verify(envelope, SITE, &keys.release, keys.threshold)?;
        let site: Self = dsse::read_body(&verified)?;
        site.check()?;
        if now_ms >= site.exp { Err(SiteError::Expired) } else { Ok(site) }
    }

    /// Holds it against the rules; the signing tool asks this too. Everything that ends in a configuration file is
    /// checked, so that no value can become two.
    ///
    /// # Errors
    /// [`SiteError::Field`].
    pub fn check(&self) -> Result<(), SiteError> {
        let rule = |holds: bool, field, rule| if holds { Ok(()) } else { Err(SiteError::Field { field, rule }) };
        rule(self.v == 1, "v", "must be 1")?;
        rule(is_text(&self.site), "site", "must be 1 to 64 characters in one line")?;
        rule(self.location.as_deref().is_none_or(is_text), "location", "must be 1 to 64 characters in one line")?;
        rule(self.iat >= 0 && self.iat < self.exp, "exp", "must be after iat")?;
        rule(
            self.ntp.len() <= LIST_MAX && self.ntp.iter().all(|host| is_host(host)),
            "ntp",
            "must be at most 8 hosts",
        )?;
        rule(self.timezone.as_deref().is_none_or(|zone| zone == "UTC"), "timezone", "must be UTC, or absent")?;
        if let Some(network) = &self.network {
            network.check()?;
        }
        if let Some(controller) = &self.controller {
            let brokers = &controller.brokers;
            rule((1..=LIST_MAX).contains(&brokers.len()), "controller.brokers", "must be 1 to 8")?;
            let named = brokers.iter().all(|broker| is_host(&broker.host) && broker.port != 0);
            rule(named, "controller.brokers", "must each have a host and a port")?;
            rule(is_pem(&controller.ca_pem), "controller.ca_pem", "must be PEM")?;
            let token = controller.claim_token.as_deref().is_none_or(|token| is_word(token) && token.len() >= 16);
            rule(token, "controller.claim_token", "must be 16 to 128 letters, digits, - and _")?;
            if let Some(identity) = &controller.identity {
                rule(is_pem(&identity.cert_pem), "controller.identity.cert_pem", "must be PEM")?;
                rule(is_pem(&identity.key_pem), "controller.identity.key_pem", "must be PEM")?;
            }
        }
        if let Some(node) = &self.node {
            let plain =
                |text: &String| text.len() <= 128 && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"');
            rule(node.service_uri.as_ref().is_none_or(plain), "node.service_uri", "must be an address")?;
            rule(node.listen.as_ref().is_none_or(plain), "node.listen", "must be an address")?;
            let sessions = node.max_sessions.is_none_or(|sessions| (1..=1000).contains(&sessions));
            rule(sessions, "node.max_sessions", "must be 1 to 1000")?;
        }
        Ok(())
    }

    /// The same without its secrets: what may be kept and shown.
    #[must_use]
    pub fn public(mut self) -> Self {
        if let Some(controller) = &mut self.controller {
            controller.claim_token = None;
            controller.identity = None;
        }
        if let Some(wifi) = self.network.as_mut().and_then(|network| network.wifi.as_mut()) {
            wifi.psk = None;
        }
        self
    }
}

fn is_text(text: &str) -> bool {
    (1..=64).contains(&text.chars().count()) && !text.chars().any(char::is_control)
}

fn is_host(text: &str) -> bool {
    (1..=128).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-:_".contains(&byte))
}

fn is_word(text: &str) -> bool {
    (1..=128).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

fn is_pem(text: &str) -> bool {
    let line = |text: &str| text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
    text.starts_with("-----BEGIN ") && text.trim_end().ends_with("-----") && text.lines().all(line)
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;
    use serde_json::{Value, json};

    use super::*;

    fn site() -> Value {
        json!({"v": 1, "site": "Berlin 3", "iat": 1000, "exp": 2000, "location": "rack 4", "ntp": ["ntp.example.org"],
            "channel": "beta", "proxy": "http://10.0.0.5:3128", "timezone": "UTC",
            "network": {"address": ["192.168.7.20/24", "2001:db8::5/64"], "gateway": ["192.168.7.1", "fe80::1"], "dns": ["9.9.9.9"]},
            "controller": {"fleet": "acme", "brokers": [{"host": "mq.example.org", "port": 8883}],
                "ca_pem": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "claim_token": "fedcba9876543210"},
            "node": {"service_uri": "https://node.example.org:8935", "max_sessions": 12}})
    }

    fn read(site: &Value, now: i64) -> Result<Site, SiteError> {
        let key = SigningKey::from_bytes(&[5; 32]);
        let keys = Keys { release: vec![key.verifying_key()], threshold: 1, test: true };
        Site::read(&dsse::sign(SITE, &serde_json::to_vec(site).unwrap(), &key).unwrap(), &keys, now)
    }

    #[test]
    fn a_site_file_is_read_in_its_time_and_only_as_one() {
        assert_eq!(serde_json::to_value(read(&site(), 1500).unwrap()).unwrap(), site());
        assert!(matches!(read(&site(), 2000), Err(SiteError::Expired)));
        let key = SigningKey::from_bytes(&[5; 32]);
        let keys = Keys { release: vec![key.verifying_key()], threshold: 1, test: true };
        let command = dsse::sign(dsse::COMMAND, site().to_string().as_bytes(), &key).unwrap();
        assert!(matches!(Site::read(&command, &keys, 1500), Err(SiteError::Envelope(DsseError::Type))));
    }

    #[test]
    fn what_it_must_not_say_is_refused_by_name() {
        let refused = |change: &dyn Fn(&mut Value)| {
            let mut changed = site();
            change(&mut changed);
            read(&changed, 1500).unwrap_err().to_string()
        };
        assert!(refused(&|s| s["payout"] = json!("0x00")).contains("unknown field `payout`"));
        assert!(refused(&|s| s["node"]["recipient"] = json!("0x00")).contains("unknown field `recipient`"));
        assert!(refused(&|s| s["site"] = json!("a\nb")).contains("site must be"));
        assert!(refused(&|s| s["ntp"] = json!(["a\nFallbackNTP=evil"])).contains("ntp"));
        assert!(refused(&|s| s["timezone"] = json!("Europe/Berlin")).contains("timezone must be UTC"));
        assert!(refused(&|s| s["proxy"] = json!("http://me:secret@10.0.0.5:3128")).contains("http://ADDRESS:PORT"));
        assert!(refused(&|s| s["recovery"] = json!("AAAA")).contains("recovery key"));
        assert!(refused(&|s| s["controller"]["brokers"] = json!([])).contains("brokers"));
        assert!(refused(&|s| s["controller"]["ca_pem"] = json!("x")).contains("ca_pem"));
        assert!(refused(&|s| s["controller"]["claim_token"] = json!("short")).contains("claim_token"));
        assert!(refused(&|s| s["node"]["listen"] = json!("a\"b")).contains("node.listen"));
        assert!(refused(&|s| s["node"]["max_sessions"] = json!(0)).contains("max_sessions"));
    }

    #[test]
    fn secrets_are_neither_shown_nor_kept() {
        let mut whole = site();
        let pem = "-----BEGIN PRIVATE KEY-----\nSECRETSECRET\n-----END PRIVATE KEY-----\n";
        whole["network"] = json!({"wifi": {"ssid": "barn", "psk": "SECRETSECRET"}});
        whole["controller"]["identity"] = json!({"box": "box-0123456789abcdef", "cert_pem": pem, "key_pem": pem});
        let site = read(&whole, 1500).unwrap();
        let shown = format!("{site:?}{}", serde_json::to_string(&site.clone().public()).unwrap());
        assert!(!shown.contains("SECRET") && !shown.contains("fedcba9876543210"), "{shown}");
    }
}
