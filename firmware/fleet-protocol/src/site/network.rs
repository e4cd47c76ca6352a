//! The part of a site file that says how the box gets out.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{LIST_MAX, SiteError, is_host};

/// How the box gets out: by DHCP, unless it has addresses of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// Which port, by name; without it any wired one, or the radio when there is `wifi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// Its addresses, each with the length of its prefix, such as `192.168.7.20/24`; none: by DHCP.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub address: Vec<String>,
    /// The ways out, at most one for each family.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gateway: Vec<IpAddr>,
    /// Name servers; with them those that DHCP tells of are not asked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns: Vec<IpAddr>,
    /// The tagged network on that port; the port itself then has no address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// The radio network to join; only an image with Wi-Fi takes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wifi: Option<Wifi>,
}

/// A radio network, WPA2 or WPA3 with a passphrase.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wifi {
    /// Its name.
    pub ssid: String,
    /// Its passphrase. Secret; absent only where the file is shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub psk: Option<String>,
    /// The country whose radio rules hold, two letters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub country: Option<String>,
}

impl fmt::Debug for Wifi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wifi").field("ssid", &self.ssid).finish_non_exhaustive()
    }
}

impl Network {
    pub(super) fn check(&self) -> Result<(), SiteError> {
        let rule = |holds: bool, field, rule| if holds { Ok(()) } else { Err(SiteError::Field { field, rule }) };
        let port = self.interface.as_deref().is_none_or(|name| is_host(name) && name.len() <= 15);
        rule(port, "network.interface", "must be the name of a port")?;
        rule(self.address.len() <= LIST_MAX, "network.address", "must be at most 8 addresses")?;
        let prefixes: Option<Vec<_>> = self.address.iter().map(|text| prefix(text)).collect();
        let Some(prefixes) = prefixes else {
            let rule = "must each be a host's address with the length of its prefix";
            return Err(SiteError::Field { field: "network.address", rule });
        };
        for v4 in [true, false] {
            let ways = self.gateway.iter().filter(|gateway| gateway.is_ipv4() == v4).count();
            rule(ways <= 1, "network.gateway", "must be at most one for each family")?;
        }
        // One that no address reaches is a slip of the pen that would cost a journey to the box.
        let reached = |gateway: &IpAddr| {
            let of_link = matches!(gateway, IpAddr::V6(address) if address.is_unicast_link_local());
            let same = |(address, length): &(IpAddr, u8)| {
                (of_link && address.is_ipv6())
                    || (address != gateway && leading(*address, *length) == leading(*gateway, *length))
            };
            prefixes.iter().any(same)
        };
        rule(self.gateway.iter().all(reached), "network.gateway", "must lie in the network of one of the addresses")?;
        rule(self.dns.len() <= LIST_MAX, "network.dns", "must be at most 8 addresses")?;
        if let Some(vlan) = self.vlan {
            rule((1..=4094).contains(&vlan), "network.vlan", "must be 1 to 4094")?;
            rule(self.interface.is_some(), "network.vlan", "needs network.interface, the port it is on")?;
            rule(self.wifi.is_none(), "network.vlan", "is not to be had over wifi")?;
        }
        let Some(wifi) = &self.wifi else { return Ok(()) };
        let named = (1..=32).contains(&wifi.ssid.len()) && !wifi.ssid.chars().any(char::is_control);
        rule(named, "network.wifi.ssid", "must be 1 to 32 bytes in one line")?;
        let plain = |text: &str| (8..=63).contains(&text.len()) && text.bytes().all(|byte| (32..127).contains(&byte));
        rule(wifi.psk.as_deref().is_some_and(plain), "network.wifi.psk", "must be 8 to 63 ASCII characters")?;
        let country = |text: &str| text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_uppercase());
        rule(wifi.country.as_deref().is_none_or(country), "network.wifi.country", "must be two capital letters")
    }
}

/// An address of a host and the length of its prefix.
fn prefix(text: &str) -> Option<(IpAddr, u8)> {
    let (address, length) = text.split_once('/')?;
    let (address, length): (IpAddr, u8) = (address.parse().ok()?, length.parse().ok()?);
    let most = if address.is_ipv4() { 32 } else { 128 };
    let host = !address.is_unspecified() && !address.is_loopback() && !address.is_multicast();
    (host && (1..=most).contains(&length)).then_some((address, length))
}

/// The leading bits, with the family: equal for two addresses in one network.
fn leading(address: IpAddr, length: u8) -> (bool, u128) {
    match address {
        IpAddr::V4(address) => (true, u128::from(address.to_bits()) >> 32_u8.saturating_sub(length)),
        IpAddr::V6(address) => {
            (false, address.to_bits().checked_shr(u32::from(128_u8.saturating_sub(length))).unwrap_or(0))
        }
    }
}

/// An HTTP proxy, `http://ADDRESS:PORT`: an address, since the firewall lets exactly it through; connections through it
/// are tunnels (`CONNECT`), in which TLS is ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Proxy(pub SocketAddr);

impl FromStr for Proxy {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let rule = "a proxy must be http://ADDRESS:PORT, an address and not a name, without a password";
        let address = text.strip_prefix("http://").map(|rest| rest.strip_suffix('/').unwrap_or(rest)).ok_or(rule)?;
        let address: SocketAddr = address.parse().map_err(|_| rule)?;
        let usable = address.port() != 0 && !address.ip().is_unspecified() && !address.ip().is_multicast();
        if usable { Ok(Self(address)) } else { Err(rule) }
    }
}

impl Proxy {
    /// Its address as a host of a URL, with brackets where they are needed.
    #[must_use]
    pub fn host(self) -> String {
        match self.0.ip() {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => format!("[{address}]"),
        }
    }
}

impl TryFrom<String> for Proxy {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.0)
    }
}

impl From<Proxy> for String {
    fn from(proxy: Proxy) -> Self {
        proxy.to_string()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn told(network: Value) -> String {
        let network: Network = match serde_json::from_value(network) {
            Ok(network) => network,
            Err(error) => return error.to_string(),
        };
        network.check().map_or_else(|error| error.to_string(), |()| "taken".to_owned())
    }

    #[test]
    fn every_way_out_is_taken() {
        for network in [
            json!({}),
            json!({"interface": "enp1s0", "dns": ["9.9.9.9"]}),
            json!({"address": ["10.1.2.3/8"], "gateway": ["10.255.255.254"]}),
            json!({"address": ["2001:db8::5/64", "10.1.2.3/31"], "gateway": ["fe80::1", "10.1.2.2"]}),
            json!({"address": ["2001:db8::5/64"], "gateway": ["2001:db8::1"]}),
            json!({"interface": "eth0", "vlan": 42}),
            json!({"wifi": {"ssid": "Caf\u{e9} \"7\"", "psk": "a \"quoted\" one", "country": "DE"}}),
        ] {
            assert_eq!(told(network.clone()), "taken", "{network}");
        }
    }

    #[test]
    fn what_would_cost_a_journey_to_the_box_is_refused_by_name() {
        for (network, word) in [
            (json!({"interface": "e th"}), "network.interface"),
            (json!({"address": ["192.168.7.20"]}), "network.address"),
            (json!({"address": ["192.168.7.20/24\n[Route]"]}), "network.address"),
            (json!({"address": ["192.168.7.20/33"]}), "network.address"),
            (json!({"address": ["127.0.0.1/8"]}), "network.address"),
            (json!({"address": ["192.168.7.20/24"], "gateway": ["192.168.8.1"]}), "network.gateway"),
            (json!({"address": ["192.168.7.20/24"], "gateway": ["192.168.7.20"]}), "network.gateway"),
            (json!({"address": ["192.168.7.20/24"], "gateway": ["fe80::1"]}), "network.gateway"),
            (json!({"gateway": ["192.168.8.1"]}), "network.gateway"),
            (json!({"address": ["10.0.0.2/8"], "gateway": ["10.0.0.1", "10.0.0.3"]}), "one for each family"),
            (json!({"vlan": 42}), "needs network.interface"),
            (json!({"interface": "eth0", "vlan": 4095}), "1 to 4094"),
            (
                json!({"interface": "wlan0", "vlan": 4, "wifi": {"ssid": "a", "psk": "longenough"}}),
                "not to be had over wifi",
            ),
            (json!({"wifi": {"ssid": "a"}}), "network.wifi.psk"),
            (json!({"wifi": {"ssid": "a", "psk": "short"}}), "network.wifi.psk"),
            (json!({"wifi": {"ssid": "a", "psk": "line\nline"}}), "network.wifi.psk"),
            (json!({"wifi": {"ssid": "a\nb", "psk": "longenough"}}), "network.wifi.ssid"),
            (json!({"wifi": {"ssid": "a", "psk": "longenough", "country": "de"}}), "network.wifi.country"),
            (json!({"mode": "dhcp"}), "unknown field"),
        ] {
            let told = told(network.clone());
            assert!(told.contains(word), "{network}: {told}");
        }
    }

    #[test]
    fn a_proxy_is_an_address_and_a_port() {
        for text in ["http://10.0.0.5:3128", "http://[2001:db8::1]:8080"] {
            assert_eq!(text.parse::<Proxy>().unwrap().to_string(), text);
        }
        for text in [
            "10.0.0.5:3128",
            "https://10.0.0.5:3128",
            "http://proxy:3128",
            "http://10.0.0.5",
            "http://10.0.0.5:0",
            "http://u:p@10.0.0.5:1",
            "http://0.0.0.0:3128",
        ] {
            assert!(text.parse::<Proxy>().is_err(), "{text}");
        }
    }
}
