use std::os::unix::fs::PermissionsExt as _;

use fleet_protocol::site::Escrow;

use super::*;
use crate::release::tests::make_key;

#[test]
fn a_site_file_is_signed_and_read_back_without_its_secrets() {
    let dir = tempfile::tempdir().unwrap();
    let (operator, key) = make_key(dir.path(), "operator.key");
    let keys = Keys { release: vec![key.verifying_key()], threshold: 1, test: true };
    let (file, out) = (dir.path().join("site.json"), dir.path().join("provision.json"));
    fs::write(&file, r#"{"v":1,"site":"here","iat":1,"exp":4000000000000}"#).unwrap();
    site(SiteCommand::Sign { file: file.clone(), key: vec![operator.clone()], out: out.clone() }).unwrap();
    assert_eq!(Site::read(&fs::read(&out).unwrap(), &keys, 5).unwrap().site, "here");
    fs::write(&file, r#"{"v":1,"site":"here","iat":1,"exp":4000000000000,"payout":"0x"}"#).unwrap();
    let error = site(SiteCommand::Sign { file, key: vec![operator], out }).unwrap_err();
    assert!(error.to_string().contains("unknown field"), "{error}");
}

#[test]
fn what_a_box_sealed_is_opened_with_the_operators_key_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("recovery.key");
    let public = new_recovery_key(&key).unwrap();
    assert!(new_recovery_key(&key).is_err(), "a key is never overwritten");
    let sealed = crypto_box::PublicKey::from(public.0).seal(&mut rand::rngs::OsRng, b"cbde-fghi").unwrap();
    let escrow = dir.path().join("recovery.json");
    fs::write(&escrow, serde_json::to_vec(&Escrow::new("S1", public, &sealed, 5)).unwrap()).unwrap();
    assert_eq!(*open(&escrow, &key).unwrap(), "cbde-fghi");

    let other = dir.path().join("other.key");
    new_recovery_key(&other).unwrap();
    assert!(open(&escrow, &other).unwrap_err().to_string().contains("another key"));
    let mut bent = sealed.clone();
    bent[40] ^= 1;
    fs::write(&escrow, serde_json::to_vec(&Escrow::new("S1", public, &bent, 5)).unwrap()).unwrap();
    assert!(open(&escrow, &key).unwrap_err().to_string().contains("damaged"));
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(open(&escrow, &key).unwrap_err().to_string().contains("can be read by others"));
}
