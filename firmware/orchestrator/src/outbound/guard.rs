//! Where a URL that a peer named may lead: the public internet, and networks the operator names.
//!
//! Otherwise a peer could make us talk to what only we can reach: ourselves, our neighbours, a cloud's metadata. An
//! address that merely wraps another (mapped, translated, tunnelled) is judged by the one inside.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Deserializer, de};

/// A network: an address and how many of its leading bits count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

/// The text is not a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a network: expected an address with the number of its leading bits, such as 192.168.7.0/24")]
pub struct ParseNetworkError;

impl std::str::FromStr for Network {
    type Err = ParseNetworkError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (address, bits) = text.split_once('/').ok_or(ParseNetworkError)?;
        let address: IpAddr = address.parse().map_err(|_| ParseNetworkError)?;
        let bits: u8 = bits.parse().map_err(|_| ParseNetworkError)?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        if bits <= most { Ok(Self { address, bits }) } else { Err(ParseNetworkError) }
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl Network {
    /// Is this address in the network?
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let bits = u32::from(self.bits);
        match (self.address, address) {
            (IpAddr::V4(net), IpAddr::V4(ip)) => {
                let shift = 32 - bits;
                u32::from(net).checked_shr(shift) == u32::from(ip).checked_shr(shift)
            }
            (IpAddr::V6(net), IpAddr::V6(ip)) => {
                let shift = 128 - bits;
                u128::from(net).checked_shr(shift) == u128::from(ip).checked_shr(shift)
            }
            _ => false,
        }
    }
}

/// May a peer send us there?
#[must_use]
pub fn may_reach(address: IpAddr, allowed: &[Network]) -> bool {
    let address = unwrap(address);
    allowed.iter().any(|network| network.contains(address)) || is_public(address)
}

/// The address behind a mapping, translation or tunnel.
fn unwrap(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    let octets = v6.octets();
    let inner = |at: usize| {
        let bytes: [u8; 4] = octets.get(at..at + 4)?.try_into().ok()?;
        Some(IpAddr::V4(Ipv4Addr::from(bytes)))
    };
    let found = match v6.segments() {
        [0, 0, 0, 0, 0, 0xffff, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] | [0, 0, 0, 0, 0xffff, 0, ..] => inner(12),
        // Not the unspecified address nor the loopback, which look the same.
        [0, 0, 0, 0, 0, 0, ..] if u128::from(v6) > 0xffff => inner(12),
        [0x2002, ..] => inner(2),
        _ => None,
    };
    found.unwrap_or(address)
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => is_public_v6(ip),
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let special = match (a, b, c) {
        (0 | 10 | 127 | 224..=255, _, _) => true,
        // Shared with the carrier, where some clouds keep their metadata.
        (100, 64..=127, _) => true,
        (169, 254, _) | (192, 168, _) => true,
        (172, 16..=31, _) => true,
        // Protocol assignments, documentation, relays, benchmarks.
        (192, 0, 0 | 2) | (192, 88, 99) | (198, 18..=19, _) | (198, 51, 100) | (203, 0, 113) => true,
        _ => false,
    };
    !special
}

/// Only global unicast, and of that not what is for documentation, protocols and tunnels.
fn is_public_v6(ip: Ipv6Addr) -> bool {
    match ip.segments() {
        [0x2001, second, ..] => second >= 0x0200 && second != 0x0db8,
        [first, ..] => (0x2000..0x4000).contains(&first) && first != 0x2002 && first != 0x3fff,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_peer_cannot_send_us_where_only_we_can_go() {
        for inside in [
            "127.0.0.1",
            "127.255.255.254",
            "0.0.0.0",
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "169.254.169.254",
            "100.100.100.200",
            "192.0.0.192",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1",
            "fc00::1",
            "fd00:ec2::254",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "::ffff:0:10.0.0.1",
            "64:ff9b::10.0.0.1",
            "2002:7f00:1::",
            "2001::1",
            "2001:db8::1",
            "fec0::1",
        ] {
            assert!(!may_reach(ip(inside), &[]), "{inside}");
        }
        for outside in ["1.1.1.1", "172.32.0.1", "100.128.0.1", "192.0.1.1", "2606:4700::1111", "64:ff9b::1.1.1.1"] {
            assert!(may_reach(ip(outside), &[]), "{outside}");
        }
    }

    #[test]
    fn an_operator_may_open_a_network_of_his_own() {
        let own: Network = "192.168.7.0/24".parse().unwrap();
        assert!(may_reach(ip("192.168.7.200"), &[own]) && may_reach(ip("::ffff:192.168.7.1"), &[own]));
        assert!(!may_reach(ip("192.168.8.1"), &[own]) && !may_reach(ip("127.0.0.1"), &[own]));
        let six: Network = "fd12:3456::/32".parse().unwrap();
        assert!(may_reach(ip("fd12:3456:1::1"), &[six]) && !may_reach(ip("fd12:3457::1"), &[six]));
        let all: Network = "0.0.0.0/0".parse().unwrap();
        assert!(may_reach(ip("127.0.0.1"), &[all]) && !may_reach(ip("::1"), &[all]));
        for bad in ["192.168.7.0", "192.168.7.0/33", "fd00::/129", "x/8", "10.0.0.0/-1"] {
            assert_eq!(bad.parse::<Network>(), Err(ParseNetworkError), "{bad}");
        }
    }
}
