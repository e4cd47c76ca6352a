use fleet_protocol::enrol::{proof, token_key};
use rcgen::BasicConstraints;

use super::*;

const DAY: i64 = DAY_MS;
const TOKEN: &str = "abcdefghijklmnopqrstuv";

struct Desk {
    _dir: tempfile::TempDir,
    store: Store,
    config: Config,
    claims: Claims,
}

fn desk() -> Desk {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("fleet.db")).unwrap();
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let key = KeyPair::generate().unwrap();
    let pem = authority.self_signed(&key).unwrap().pem();
    let issuer = rcgen::Issuer::from_ca_cert_pem(&pem, key).unwrap();
    let claims = Claims::new(Some(Issuer { issuer, pem, days: 90 }));
    let mut config = Config::parse(crate::config::EXAMPLE).unwrap();
    let brokers = vec![fleet_protocol::site::Broker { host: "mq".into(), port: 8883 }];
    let none = PathBuf::new;
    config.enrol = Some(Enrol {
        listen: ([127, 0, 0, 1], 0).into(),
        cert: none(),
        key: none(),
        issuer_cert: none(),
        issuer_key: none(),
        brokers,
        leaf_days: 90,
    });
    Desk { _dir: dir, store, config, claims }
}

fn request(key: &KeyPair, serial: &str, token: &str) -> Request {
    let csr = CertificateParams::default().serialize_request(key).unwrap().pem().unwrap();
    let proof = proof(&token_key(token), serial, &csr);
    Request { v: 1, serial: serial.to_owned(), csr, proof }
}

impl Desk {
    fn claim(&mut self, serial: &str, now_ms: i64) -> Claim {
        let token_sha256 = hex::encode(token_key(TOKEN));
        let wanted = NewClaim { serial: serial.into(), token_sha256, ring: Some("lab".into()), days: 30 };
        self.claims.make(&mut self.store, &wanted, now_ms).unwrap()
    }

    fn enrol(&mut self, request: &Request, now_ms: i64) -> Result<Answer, AskError> {
        let now = Duration::from_millis(u64::try_from(now_ms).unwrap());
        self.claims.enrol(&mut self.store, &self.config, request, now, now_ms)
    }
}

#[test]
fn a_token_is_taken_in_its_time_from_one_key_and_then_only_from_that_one() {
    let mut desk = desk();
    let claim = desk.claim("SN-1", 0);
    let (key, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let good = request(&key, "SN-1", TOKEN);
    assert!(matches!(desk.enrol(&good, 30 * DAY), Err(AskError::Refused)), "an old token was taken");
    let answer = desk.enrol(&good, 30 * DAY - 1).unwrap();
    assert_eq!(
        (answer.box_id.as_str(), answer.ring.as_str(), answer.fleet.as_str()),
        (claim.id.as_str(), "lab", "home")
    );
    assert!(answer.chain.matches("BEGIN CERTIFICATE").count() == 2);
    // Asked again, also late: the answer may have been lost. With a new request of the same key as well.
    assert_eq!(desk.enrol(&request(&key, "SN-1", TOKEN), 40 * DAY).unwrap(), answer);
    assert!(matches!(desk.enrol(&request(&other, "SN-1", TOKEN), 1), Err(AskError::Refused)), "used twice");
    let stored = desk.store.boxes().unwrap();
    assert!(stored.iter().any(|known| known.id == answer.box_id && known.ring.as_deref() == Some("lab")));
}

#[test]
fn only_who_holds_token_serial_and_key_is_certified() {
    let mut desk = desk();
    desk.claim("SN-1", 0);
    let key = KeyPair::generate().unwrap();
    let good = request(&key, "SN-1", TOKEN);
    let mut changed = good.clone();
    changed.csr = request(&KeyPair::generate().unwrap(), "SN-1", TOKEN).csr;
    let mut rubbish = good.clone();
    rubbish.csr = "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n".into();
    rubbish.proof = proof(&token_key(TOKEN), "SN-1", &rubbish.csr);
    for bad in [request(&key, "SN-1", "another-token-of-22-ch"), request(&key, "SN-2", TOKEN), changed, rubbish] {
        assert!(matches!(desk.enrol(&bad, 1), Err(AskError::Refused)), "{bad:?}");
    }
    let weak = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    assert!(matches!(desk.enrol(&request(&weak, "SN-1", TOKEN), 1), Err(AskError::Refused)));
    desk.enrol(&good, 1).unwrap();
}

#[test]
fn whoever_guesses_is_not_listened_to_for_a_while_and_neither_is_anybody_else() {
    let mut desk = desk();
    desk.claim("SN-1", 0);
    let key = KeyPair::generate().unwrap();
    let guess = request(&key, "SN-1", "another-token-of-22-ch");
    for _ in 0..REFUSED_MAX {
        assert!(matches!(desk.enrol(&guess, 1000), Err(AskError::Refused)));
    }
    let good = request(&key, "SN-1", TOKEN);
    assert!(matches!(desk.enrol(&good, 2000), Err(AskError::Busy(_))));
    desk.enrol(&good, 62_000).unwrap();
}

#[test]
fn a_new_claim_of_a_serial_replaces_the_one_that_was_not_used() {
    let mut desk = desk();
    desk.claim("SN-1", 0);
    let token_sha256 = hex::encode(token_key("the-second-token-of-22"));
    let wanted = NewClaim { serial: "SN-1".into(), token_sha256, ring: None, days: 30 };
    let second = desk.claims.make(&mut desk.store, &wanted, 1).unwrap();
    let key = KeyPair::generate().unwrap();
    assert!(matches!(desk.enrol(&request(&key, "SN-1", TOKEN), 2), Err(AskError::Refused)));
    let answer = desk.enrol(&request(&key, "SN-1", "the-second-token-of-22"), 3).unwrap();
    assert_eq!(answer.box_id.as_str(), second.id);
    for serial in ["", "a b"] {
        let wanted = NewClaim { serial: serial.into(), ..wanted.clone() };
        assert!(matches!(desk.claims.make(&mut desk.store, &wanted, 1), Err(AskError::Bad(_))), "{serial:?}");
    }
}
