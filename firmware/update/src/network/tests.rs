use serde_json::{Value, json};

use super::*;

fn site(parts: &Value) -> Site {
    let mut site = json!({"v": 1, "site": "here", "iat": 1, "exp": 2});
    site.as_object_mut().unwrap().extend(parts.as_object().unwrap().clone());
    let site: Site = serde_json::from_value(site).unwrap();
    site.check().unwrap();
    site
}

fn told(parts: &Value) -> String {
    networkd(&site(parts)).into_iter().map(|(name, text)| format!("# {name}\n{text}")).collect::<Vec<_>>().join("\n")
}

/// Each of them is also given to systemd-networkd itself, by `tests/networks.sh`.
#[test]
fn every_kind_of_network_becomes_the_files_that_networkd_was_shown() {
    for (name, parts) in [
        ("dhcp", json!({})),
        ("dhcp-own-dns", json!({"network": {"interface": "eth0", "dns": ["9.9.9.9", "2620:fe::fe"]}})),
        (
            "static",
            json!({"network": {"address": ["192.168.7.20/24", "2001:db8::5/64"], "gateway": ["192.168.7.1", "fe80::1"],
                "dns": ["192.168.7.1"]}}),
        ),
        ("static-v4", json!({"network": {"interface": "eth0", "address": ["10.1.2.3/8"], "gateway": ["10.0.0.1"]}})),
        ("vlan", json!({"network": {"interface": "eth0", "vlan": 42}})),
        (
            "vlan-static",
            json!({"network": {"interface": "eth0", "vlan": 7, "address": ["10.1.2.3/8"], "gateway": ["10.0.0.1"]}}),
        ),
        ("wifi", json!({"network": {"wifi": {"ssid": "barn", "psk": "longenough", "country": "DE"}}})),
    ] {
        let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("networks/{name}.txt"));
        let told = told(&parts);
        if std::env::var_os("MILLRACE_BLESS").is_some() {
            std::fs::write(&golden, &told).unwrap();
        }
        assert_eq!(told, std::fs::read_to_string(&golden).unwrap(), "{name}: see networks/, and run tests/networks.sh");
    }
}

#[test]
fn a_radio_network_is_written_so_that_no_name_and_no_passphrase_ends_it_early() {
    let wifi =
        Wifi { ssid: "Caf\u{e9} \"7\"".to_owned(), psk: Some("a \"b\" }".to_owned()), country: Some("DE".to_owned()) };
    assert_eq!(
        radio(&wifi),
        "country=DE\nupdate_config=0\npmf=1\nnetwork={\n\tssid=436166c3a920223722\n\tscan_ssid=1\n\tkey_mgmt=WPA-PSK WPA-PSK-SHA256 SAE\n\tproto=RSN\n\tpairwise=CCMP\n\tpsk=\"a \"b\" }\"\n}\n"
    );
}

#[test]
fn the_firewall_is_told_of_the_proxy_and_of_nothing_else() {
    let [v4, v6] = proxies(&site(&json!({"proxy": "http://[2001:db8::1]:3128"})));
    assert_eq!((v4.1.as_str(), v6.1.as_str()), ("", "2001:db8::1 . 3128\n"));
    assert!(proxies(&site(&json!({}))).iter().all(|(_, element)| element.is_empty()));
}
