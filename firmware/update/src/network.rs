//! From the network of a site file to what systemd-networkd, systemd-timesyncd and wpa_supplicant read. Every value was held
//! against the rules of the site file before; here it only gets its place.

use std::fmt::Write as _;

use fleet_protocol::site::{Network, Site, Wifi};

/// The files of systemd-networkd, by name; they sort before the image's own.
pub(crate) fn networkd(site: &Site) -> Vec<(String, String)> {
    let network = site.network.clone().unwrap_or_default();
    let Some(id) = network.vlan else { return vec![("10-site.network".to_owned(), own(&network, &port(&network)))] };
    let name = format!("vlan{id}");
    let device = format!("[NetDev]\nName={name}\nKind=vlan\n\n[VLAN]\nId={id}\n");
    let under = format!(
        "[Match]\n{}\n\n[Link]\nRequiredForOnline=carrier\n\n[Network]\nVLAN={name}\nDHCP=no\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n{QUIET}",
        port(&network)
    );
    vec![
        ("10-site.netdev".to_owned(), device),
        ("10-site.network".to_owned(), own(&network, &format!("Name={name}"))),
        ("10-site-port.network".to_owned(), under),
    ]
}

/// Nothing is announced and nothing is asked of neighbours.
const QUIET: &str = "LLMNR=no\nMulticastDNS=no\nLLDP=no\nEmitLLDP=no\n";

/// What the port is known by.
fn port(network: &Network) -> String {
    match (&network.interface, &network.wifi) {
        (Some(name), _) => format!("Name={name}"),
        (None, Some(_)) => "Type=wlan".to_owned(),
        (None, None) => "Type=ether\nKind=!*".to_owned(),
    }
}

/// The network with the box's addresses.
fn own(network: &Network, port: &str) -> String {
    let mut text = format!("[Match]\n{port}\n\n[Link]\nRequiredForOnline=routable\n\n[Network]\n");
    let by_dhcp = network.address.is_empty();
    let _ = writeln!(text, "DHCP={}", if by_dhcp { "yes" } else { "no" });
    for address in &network.address {
        let _ = writeln!(text, "Address={address}");
    }
    for gateway in &network.gateway {
        let _ = writeln!(text, "Gateway={gateway}");
    }
    for server in &network.dns {
        let _ = writeln!(text, "DNS={server}");
    }
    if network.gateway.iter().any(std::net::IpAddr::is_ipv6) {
        // The way out is given: no neighbour that calls itself a router gives another.
        text.push_str("IPv6AcceptRA=no\n");
    }
    text.push_str(QUIET);
    let no_dns = if network.dns.is_empty() { "" } else { "UseDNS=no\n" };
    if by_dhcp {
        let _ = write!(text, "\n[DHCPv4]\nUseHostname=no\nSendHostname=no\n{no_dns}");
    }
    if !no_dns.is_empty() {
        let _ = write!(text, "\n[DHCPv6]\n{no_dns}\n[IPv6AcceptRA]\n{no_dns}");
    }
    text
}

/// What systemd-timesyncd reads; empty where the distribution's servers are asked.
pub(crate) fn time(site: &Site) -> String {
    if site.ntp.is_empty() { String::new() } else { format!("[Time]\nNTP={}\n", site.ntp.join(" ")) }
}

/// What wpa_supplicant reads. It holds the passphrase: it is kept only as a sealed credential.
pub(crate) fn radio(wifi: &Wifi) -> String {
    // In hexadecimal a name needs no quotes, and a passphrase has none to end it: the last one of the line counts.
    let name: String = wifi.ssid.bytes().map(|byte| format!("{byte:02x}")).collect();
    let country = wifi.country.as_ref().map_or(String::new(), |country| format!("country={country}\n"));
    format!(
        "{country}update_config=0\npmf=1\nnetwork={{\n\tssid={name}\n\tscan_ssid=1\n\tkey_mgmt=WPA-PSK WPA-PSK-SHA256 SAE\n\tproto=RSN\n\tpairwise=CCMP\n\tpsk=\"{}\"\n}}\n",
        wifi.psk.as_deref().unwrap_or_default()
    )
}

/// The sets of the firewall that name the proxy, each with its element.
pub(crate) fn proxies(site: &Site) -> [(&'static str, String); 2] {
    let element = |v4: bool| {
        let proxy = site.proxy.filter(|proxy| proxy.0.is_ipv4() == v4);
        proxy.map_or(String::new(), |proxy| format!("{} . {}\n", proxy.0.ip(), proxy.0.port()))
    };
    [("proxies_v4", element(true)), ("proxies_v6", element(false))]
}

#[cfg(test)]
mod tests;
