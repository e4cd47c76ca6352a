use ed25519_dalek::SigningKey;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn keys(threshold: usize) -> Keys {
    Keys { release: (1..=3).map(|seed| key(seed).verifying_key()).collect(), threshold, test: true }
}

fn manifest() -> Value {
    let hash = "ab".repeat(32);
    let uuid = "01234567-89ab-cdef-0123-456789abcdef";
    let artifact = |kind: &str, name: String, size: u64| {
        json!({"kind": kind, "name": name, "size": size, "sha256": hash,
               "packed": {"path": format!("{name}.zst"), "size": size / 2, "sha256": hash}})
    };
    json!({"v": 1, "product": "millrace", "version": "1.2.0", "channel": "stable", "arch": "x86-64", "profile": "x86",
        "min_version": "1.0.0", "iat": 1_795_000_000_000_i64, "exp": 1_797_000_000_000_i64,
        "artifacts": [
            artifact("verity", format!("millrace_1.2.0_{uuid}.root-verity.raw"), 4096),
            artifact("root", format!("millrace_1.2.0_{uuid}.root.raw"), 300_000_000),
            artifact("uki", "millrace_1.2.0.efi".to_owned(), 47_000_000)]})
}

fn signed(manifest: &Value, signers: &[u8]) -> Vec<u8> {
    let body = serde_json::to_vec(manifest).unwrap();
    let mut envelope = dsse::sign(RELEASE, &body, &key(signers[0])).unwrap();
    for signer in &signers[1..] {
        envelope = dsse::add_signature(&envelope, RELEASE, &key(*signer)).unwrap();
    }
    envelope
}

fn read(manifest: &Value) -> Result<Release, ReleaseError> {
    Release::read(&signed(manifest, &[1, 2]), &keys(2))
}

fn refused(change: impl Fn(&mut Value)) -> String {
    let mut changed = manifest();
    change(&mut changed);
    read(&changed).unwrap_err().to_string()
}

#[test]
fn a_manifest_that_enough_keys_signed_is_read() {
    let release = read(&manifest()).unwrap();
    assert_eq!(release.version.to_string(), "1.2.0");
    assert_eq!(release.artifacts.len(), 3);
    assert_eq!(serde_json::to_value(&release).unwrap(), manifest());
}

#[test]
fn too_few_keys_other_keys_and_one_key_twice_are_refused() {
    for signers in [&[1][..], &[1, 9], &[8, 9], &[1, 1]] {
        let error = Release::read(&signed(&manifest(), signers), &keys(2)).unwrap_err();
        assert!(
            matches!(error, ReleaseError::Envelope(DsseError::Threshold { needed: 2, .. })),
            "{signers:?}: {error}"
        );
    }
}

#[test]
fn every_field_is_held_to_its_rule() {
    assert!(refused(|m| m["v"] = json!(2)).contains("v must be 1"));
    assert!(refused(|m| m["product"] = json!("other")).contains("product"));
    assert!(refused(|m| m["channel"] = json!("Stable")).contains("channel"));
    assert!(refused(|m| m["min_version"] = json!("1.2.1")).contains("min_version"));
    assert!(refused(|m| m["exp"] = m["iat"].clone()).contains("exp"));
    assert!(refused(|m| m["version"] = json!("1.2.00")).contains("version must be"));
    assert!(refused(|m| m["extra"] = json!(1)).contains("unknown field"));
    assert!(refused(|m| m["artifacts"][0]["kind"] = json!("root")).contains("in this order"));
    assert!(refused(|m| m["artifacts"].as_array_mut().unwrap().truncate(2)).contains("in this order"));
    assert!(refused(|m| m["artifacts"][2]["name"] = json!("millrace_1.2.0+3-0.efi")).contains("name"));
    assert!(refused(|m| m["artifacts"][1]["name"] = json!("millrace_1.2.0_.root.raw")).contains("name"));
    assert!(refused(|m| m["artifacts"][1]["sha256"] = json!("AB".repeat(32))).contains("lower-case"));
    for path in ["../x", "a/b", ".hidden", "", "a b", "a?b", "-x"] {
        assert!(refused(|m| m["artifacts"][0]["packed"]["path"] = json!(path)).contains("plain file name"), "{path}");
    }
    assert!(refused(|m| m["artifacts"][1]["size"] = json!(ARTIFACT_MAX + 1)).contains("6 GiB"));
    assert!(refused(|m| m["artifacts"][1]["packed"]["size"] = json!(2_000_000)).contains("64th"));
    let delta = |from: &str| json!([{"from": from, "from_size": 5, "from_sha256": "ab".repeat(32), "path": "d.zst", "size": 3, "sha256": "ab".repeat(32)}]);
    assert!(refused(|m| m["artifacts"][1]["deltas"] = delta("1.2.0")).contains("deltas.from"));
    let mut good = manifest();
    good["artifacts"][1]["deltas"] = delta("1.1.0");
    assert_eq!(read(&good).unwrap().artifacts[1].deltas[0].file.path, "d.zst");
}

#[test]
fn a_keys_file_says_who_and_how_many() {
    let parsed = Keys::parse(keys(2).to_json().as_bytes()).unwrap();
    assert_eq!(parsed, keys(2));
    let public = BASE64.encode(key(1).verifying_key().as_bytes());
    let text = |threshold: usize, keys: &[&str]| json!({"v": 1, "threshold": threshold, "keys": keys}).to_string();
    for bad in
        [text(0, &[&public]), text(2, &[&public]), text(1, &[&public, &public]), text(1, &["AAAA"]), "{}".to_owned()]
    {
        assert!(Keys::parse(bad.as_bytes()).is_err(), "{bad}");
    }
    assert!(!Keys::parse(text(1, &[&public]).as_bytes()).unwrap().test);
}

proptest! {
    #[test]
    fn one_changed_byte_of_the_envelope_never_gives_another_release(at in any::<prop::sample::Index>(), bit in 0..8u8) {
        let mut envelope = signed(&manifest(), &[1, 2]);
        let at = at.index(envelope.len());
        envelope[at] ^= 1 << bit;
        if let Ok(release) = Release::read(&envelope, &keys(2)) {
            prop_assert_eq!(serde_json::to_value(&release).unwrap(), manifest());
        }
    }

    #[test]
    fn no_signed_body_makes_it_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let envelope = dsse::sign(RELEASE, &body, &key(1)).unwrap();
        prop_assert!(Release::read(&envelope, &keys(1)).is_err());
    }
}
