use ed25519_dalek::SigningKey;
use fleet_protocol::dsse;
use fleet_protocol::release::Keys;
use fleet_protocol::site::SITE;

use super::*;
use crate::machine::tests::machine;

const PEM: &str = "-----BEGIN X-----\nAAAA\n-----END X-----\n";

/// A box whose image trusts one key, and a site file that this key signed.
fn scene(dir: &Path, exp: i64, signer: u8) -> (Paths, Vec<u8>) {
    let paths = machine(dir, "1.0.0");
    let key = |seed| SigningKey::from_bytes(&[seed; 32]);
    let keys = Keys { release: vec![key(5).verifying_key()], threshold: 1, test: true };
    files::put(&paths.site_keys(), keys.to_json().as_bytes(), 0o644).unwrap();
    let site = json!({"v": 1, "site": "Berlin 3", "iat": 1000, "exp": exp, "ntp": ["ntp.example.org"], "channel": "beta",
        "proxy": "http://10.0.0.5:3128", "recovery": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        "network": {"interface": "eth0", "address": ["192.168.7.20/24"], "gateway": ["192.168.7.1"], "dns": ["9.9.9.9"]},
        "controller": {"fleet": "acme", "ring": "lab", "brokers": [{"host": "mq.example.org", "port": 8883}], "ca_pem": PEM,
            "claim_token": "0123456789abcdef-token",
            "identity": {"box": "box-0123456789abcdef", "cert_pem": PEM, "key_pem": PEM}},
        "node": {"service_uri": "https://node.example.org:8935", "max_sessions": 12}});
    (paths, dsse::sign(SITE, site.to_string().as_bytes(), &key(signer)).unwrap())
}

const LATER: i64 = 4_000_000_000_000;

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn a_site_file_on_the_boot_partition_becomes_the_boxs_configuration_once() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let (paths, envelope) = scene(dir.path(), LATER, 5);
    let template = "[chain]\nrpc = [\"https://rpc.example.org\"]\n[serve]\nlisten = \"0.0.0.0:8935\"\n";
    files::put(&paths.at("usr/share/millrace/node.toml"), template.as_bytes(), 0o644).unwrap();
    let medium = paths.boot().join("MILLRACE/provision.json");
    files::put(&medium, &envelope, 0o600).unwrap();
    assert_eq!(provision(&paths, None).unwrap(), Provisioned::From(medium.clone()));

    let site = paths.site();
    let node: Table = text(&site.join("config/node.toml")).parse().unwrap();
    assert_eq!(node["serve"]["service_uri"].as_str(), Some("https://node.example.org:8935"));
    assert_eq!(node["serve"]["listen"].as_str(), Some("0.0.0.0:8935"));
    assert!(node["chain"]["rpc"].is_array());
    let fleet: Table = text(&site.join("config/fleet.toml")).parse().unwrap();
    assert_eq!((fleet["box"].as_str(), fleet["ring"].as_str()), (Some("box-0123456789abcdef"), Some("lab")));
    for place in [&node["chain"]["proxy"], &fleet["proxy"]] {
        assert_eq!(place.as_str(), Some("http://10.0.0.5:3128"));
    }
    assert_eq!(
        files::get_json::<serde_json::Value>(&site.join("update.json")).unwrap().unwrap()["proxy"],
        "http://10.0.0.5:3128"
    );
    assert_eq!(text(&site.join("firewall/proxies_v4")), "10.0.0.5 . 3128\n");
    assert_eq!(text(&site.join("firewall/proxies_v6")), "");
    assert_eq!(fleet["brokers"][0]["port"].as_integer(), Some(8883));
    let network = text(&paths.at("run/systemd/network/10-site.network"));
    assert!(network.contains("Name=eth0") && network.contains("Address=192.168.7.20/24"), "{network}");
    assert!(text(&paths.at("run/systemd/timesyncd.conf.d/10-site.conf")).contains("NTP=ntp.example.org"));
    for secret in ["claim-token", "config/credentials/device-key", "site.json"] {
        assert_eq!(std::fs::metadata(site.join(secret)).unwrap().permissions().mode() & 0o777, 0o600, "{secret}");
    }
    assert!(!text(&site.join("site.json")).contains("0123456789abcdef-token"));
    assert!(!medium.exists(), "the token is still on the medium");
    assert_eq!(provision(&paths, None).unwrap(), Provisioned::Already);
}

#[test]
fn the_credential_comes_first_and_nothing_found_is_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let (paths, envelope) = scene(dir.path(), LATER, 5);
    assert_eq!(provision(&paths, None).unwrap(), Provisioned::Waiting);
    files::put(&paths.at("run/millrace-usb/provision.json"), b"nonsense", 0o600).unwrap();
    let credentials = dir.path().join("credentials");
    files::put(&credentials.join("millrace.provision"), &envelope, 0o400).unwrap();
    let from = provision(&paths, Some(&credentials)).unwrap();
    assert_eq!(from, Provisioned::From(credentials.join("millrace.provision")));
    assert!(credentials.join("millrace.provision").exists());
}

#[test]
fn a_site_file_that_is_forged_expired_or_too_large_changes_nothing() {
    for (exp, signer, grow, word) in
        [(LATER, 6, 0, "keys signed"), (2000, 5, 0, "expired"), (LATER, 5, 70_000, "larger than")]
    {
        let dir = tempfile::tempdir().unwrap();
        let (paths, mut envelope) = scene(dir.path(), exp, signer);
        envelope.extend(vec![b' '; grow]);
        files::put(&paths.boot().join("MILLRACE/provision.json"), &envelope, 0o600).unwrap();
        let error = provision(&paths, None).unwrap_err();
        assert!(crate::stage::text(&error).contains(word), "{word}: {error:?}");
        assert!(!paths.site().join("provisioned").exists() && !paths.site().join("config").exists());
        assert!(paths.boot().join("MILLRACE/provision.json").exists());
    }
}

#[test]
fn what_a_power_cut_left_half_written_is_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let (paths, envelope) = scene(dir.path(), LATER, 5);
    files::put(&paths.boot().join("MILLRACE/provision.json"), &envelope, 0o600).unwrap();
    files::put(&paths.site().join("config/.node.toml.new"), b"half", 0o600).unwrap();
    files::put(&paths.site().join("site.json"), b"{}", 0o600).unwrap();
    provision(&paths, None).unwrap();
    assert!(text(&paths.site().join("site.json")).contains("Berlin 3"));
}
