use ed25519_dalek::SigningKey;
use fleet_protocol::dsse::{self, COMMAND, KeyId};
use fleet_protocol::payload::Event;
use fleet_protocol::{Epoch, payload::Life};

use super::*;
use crate::config::EXAMPLE;
use crate::spool::{Caps, Spool};

/// An agent whose every file lies in one directory.
struct Agent {
    dir: tempfile::TempDir,
    config: Config,
    outbox: Outbox,
    updates: Updates,
}

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn outbox(dir: &Path, config: &Config) -> Outbox {
    let caps = Caps { ledger: 1 << 20, events: 1 << 20, earnings: 1 << 20 };
    let (spool, _) = Spool::open(&dir.join("spool"), caps).unwrap();
    let expiry = crate::outbox::Expiry { heartbeat_s: 120, vitals_s: 600, streams_s: 600 };
    Outbox::new(config.fleet.clone(), config.box_id.clone(), spool, expiry)
}

impl Agent {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::parse(EXAMPLE).unwrap();
        config.state_dir = dir.path().join("fleet");
        config.orders.keys = dir.path().join("keys.json");
        config.orders.update_state = dir.path().join("update");
        config.orders.requests = dir.path().join("requests");
        let keys = Keys { release: (1..=3).map(|seed| key(seed).verifying_key()).collect(), threshold: 2, test: true };
        std::fs::write(&config.orders.keys, keys.to_json()).unwrap();
        let mut outbox = outbox(dir.path(), &config);
        let updates = Updates::open(&config, &mut outbox);
        Self { dir, config, outbox, updates }
    }

    /// The agent is started anew; /run is empty after a reboot.
    fn restart(&mut self, reboot: bool) {
        if reboot {
            let _ = std::fs::remove_dir_all(&self.config.orders.requests);
        }
        let spare = tempfile::tempdir().unwrap();
        // The spool is held by one at a time.
        self.outbox = outbox(spare.path(), &self.config);
        self.outbox = outbox(self.dir.path(), &self.config);
        self.updates = Updates::open(&self.config, &mut self.outbox);
    }

    fn order(&mut self, counter: u64, version: &str, signers: &[u8]) -> Result<(), OrderError> {
        let now = clock::stamp().t.unwrap();
        let order = json!({"v": 1, "cid": format!("019ab000-0000-7000-8000-{counter:012}"), "op": "update",
            "aud": {"fleet": "home", "boxes": ["box-0000000000000000"]}, "by": KeyId::of(&key(signers[0]).verifying_key()),
            "iat": now / 1000 * 1000, "exp": now / 1000 * 1000 + 600_000, "ctr": counter,
            "args": {"manifest": "https://r.example/manifest.json", "version": version}});
        let mut envelope = dsse::sign(COMMAND, order.to_string().as_bytes(), &key(signers[0])).unwrap();
        for signer in &signers[1..] {
            envelope = dsse::add_signature(&envelope, COMMAND, &key(*signer)).unwrap();
        }
        self.updates.order(&self.config, &envelope)
    }

    fn says(&self, path: &str, document: &Value) {
        put(&self.dir.path().join("update").join(path), document, 0o644).unwrap();
    }

    fn asked(&self, name: &str) -> Option<Value> {
        read(&self.config.orders.requests.join(name))
    }

    fn tend(&mut self) {
        self.updates.tend(&mut self.outbox, 1);
    }

    /// Ids of all events in the spool.
    fn told(&mut self) -> Vec<String> {
        let life = Life { e: Epoch::new("9c1f02aa").unwrap(), b: 1, n: 1 };
        self.outbox.rewind();
        let mut told = Vec::new();
        while let Some(outgoing) = self.outbox.next_durable(&life, false).unwrap() {
            let event: Event = serde_json::from_slice(&outgoing.payload).unwrap();
            told.push(event.body.id);
        }
        told
    }
}

fn cid(counter: u64) -> String {
    format!("019ab000-0000-7000-8000-{counter:012}")
}

#[test]
fn an_order_goes_its_way_from_request_to_one_report() {
    let mut agent = Agent::new();
    agent.order(1, "1.2.0", &[1, 2]).unwrap();
    assert_eq!(agent.asked("stage.json").unwrap()["manifest"], "https://r.example/manifest.json");
    agent.says("staged/progress.json", &json!({"id": cid(1), "phase": "fetching", "done": 1, "total": 2}));
    agent.tend();
    assert_eq!(agent.told(), Vec::<String>::new());
    agent.says("staged/progress.json", &json!({"id": cid(1), "phase": "staged", "done": 2, "total": 2}));
    agent.tend();
    agent.tend();
    assert_eq!(agent.told(), ["UPD-STAGED"]);
    assert_eq!(agent.asked("install.json").unwrap()["version"], "1.2.0");
    let result = json!([{"seq": 1, "id": cid(1), "from": "1.1.0", "to": "1.2.0", "became": "blessed", "at": 5}]);
    agent.says("results.json", &result);
    for _ in 0..2 {
        agent.restart(true);
        agent.tend();
        agent.tend();
        assert_eq!(agent.told(), ["UPD-STAGED", "UPD-OK"]);
    }
    assert_eq!(agent.asked("install.json"), None, "a finished update is asked for again");
    agent.order(2, "1.3.0", &[2, 3]).unwrap();
}

#[test]
fn orders_that_too_few_signed_or_that_come_again_start_nothing() {
    let mut agent = Agent::new();
    assert!(matches!(agent.order(1, "1.2.0", &[1]), Err(OrderError::Denied(Denied::Envelope(_)))));
    assert!(matches!(agent.order(1, "1.2.0", &[1, 9]), Err(OrderError::Denied(Denied::Envelope(_)))));
    assert_eq!(agent.asked("stage.json"), None);
    agent.order(5, "1.2.0", &[1, 2]).unwrap();
    assert!(matches!(agent.order(4, "1.1.0", &[1, 2]), Err(OrderError::Denied(Denied::Replayed))));
    assert!(matches!(agent.order(6, "1.3.0", &[1, 2]), Err(OrderError::Busy(_))));
    agent.restart(false);
    // Sent again, as the controller does until it is answered: taken for known, not for an attack.
    agent.order(5, "1.2.0", &[1, 2]).unwrap();
    assert!(matches!(agent.order(4, "1.1.0", &[1, 2]), Err(OrderError::Denied(Denied::Replayed))));
}

#[test]
fn what_was_under_way_at_a_reboot_is_asked_for_again() {
    let mut agent = Agent::new();
    agent.order(1, "1.2.0", &[1, 2]).unwrap();
    agent.restart(true);
    assert!(agent.asked("stage.json").is_some());
    agent.says("staged/progress.json", &json!({"id": cid(1), "phase": "staged"}));
    agent.tend();
    agent.restart(true);
    assert!(agent.asked("install.json").is_some());
    // Once it is installed the machine starts again by itself: no second installation.
    agent.says("pending.json", &json!({}));
    agent.restart(true);
    assert_eq!(agent.asked("install.json"), None);
}

#[test]
fn an_offer_that_nobody_signed_is_an_incident_and_ends_the_order() {
    let mut agent = Agent::new();
    agent.order(1, "1.2.0", &[1, 2]).unwrap();
    agent.says("staged/progress.json", &json!({"id": cid(1), "phase": "failed", "reason": "1 of 2", "forged": true}));
    agent.tend();
    agent.tend();
    assert_eq!(agent.told(), ["UPD-SIG-BAD"]);
    agent.order(2, "1.2.0", &[1, 2]).unwrap();
}

#[test]
fn a_crash_between_the_event_and_its_note_tells_it_once_and_before_it_tells_it_still() {
    for stored in [true, false] {
        let mut agent = Agent::new();
        let result =
            json!([{"seq": 1, "id": "by-hand-1", "from": "1.1.0", "to": "1.2.0", "became": "rolled-back", "at": 5}]);
        agent.says("results.json", &result);
        agent.updates.book.telling = Some((agent.outbox.last_event() + 1, Told::Result(1)));
        agent.updates.save();
        if stored {
            let body = event(id::ROLLBACK, Severity::Err, "by-hand-1", "1.2.0", None);
            agent.outbox.record(1, clock::stamp(), body).unwrap();
        }
        agent.restart(false);
        agent.tend();
        assert_eq!(agent.told(), ["UPD-ROLLBACK"], "stored: {stored}");
    }
}
