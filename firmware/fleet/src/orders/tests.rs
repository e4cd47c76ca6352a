use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::SigningKey;
use fleet_protocol::campaign::{Pace, Rolling};
use fleet_protocol::dsse::{self, CAMPAIGN, COMMAND, KeyId, PACE};
use fleet_protocol::payload::{Ack, Event};
use fleet_protocol::{Epoch, payload::Life};

use super::*;
use crate::config::EXAMPLE;
use crate::spool::{Caps, Spool};

/// An agent whose every file lies in one directory.
struct Agent {
    dir: tempfile::TempDir,
    config: Config,
    outbox: Outbox,
    orders: Orders,
    purse: Purse,
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
        config.orders.operators = dir.path().join("operators.json");
        config.orders.decommission = dir.path().join("decommission.json");
        config.orders.os_release = dir.path().join("os-release");
        let operators = Keys { release: vec![key(5).verifying_key()], threshold: 1, test: true };
        std::fs::write(&config.orders.operators, operators.to_json()).unwrap();
        std::fs::write(&config.orders.os_release, "IMAGE_ID=millrace\nIMAGE_VERSION=1.0.0\n").unwrap();
        let keys = Keys { release: (1..=3).map(|seed| key(seed).verifying_key()).collect(), threshold: 2, test: true };
        std::fs::write(&config.orders.keys, keys.to_json()).unwrap();
        let mut outbox = outbox(dir.path(), &config);
        let orders = Orders::open(&config, &mut outbox);
        Self { dir, config, outbox, orders, purse: Purse::default() }
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
        self.orders = Orders::open(&self.config, &mut self.outbox);
    }

    fn order(&mut self, counter: u64, version: &str, signers: &[u8]) -> Result<(), OrderError> {
        let args = json!({"manifest": "https://r.example/manifest.json", "version": version});
        self.send(counter, UPDATE, &args, signers)
    }

    fn send(&mut self, counter: u64, op: &str, args: &Value, signers: &[u8]) -> Result<(), OrderError> {
        let now = clock::stamp().t.unwrap();
        let order = json!({"v": 1, "cid": cid(counter), "op": op,
            "aud": {"fleet": "home", "boxes": ["box-0000000000000000"]}, "by": KeyId::of(&key(signers[0]).verifying_key()),
            "iat": now / 1000 * 1000, "exp": now / 1000 * 1000 + 600_000, "ctr": counter,
            "args": args});
        let mut envelope = dsse::sign(COMMAND, order.to_string().as_bytes(), &key(signers[0])).unwrap();
        for signer in &signers[1..] {
            envelope = dsse::add_signature(&envelope, COMMAND, &key(*signer)).unwrap();
        }
        self.orders.order(op, &envelope, self.purse)
    }

    fn says(&self, path: &str, document: &Value) {
        put(&self.dir.path().join("update").join(path), document, 0o644).unwrap();
    }

    fn asked(&self, name: &str) -> Option<Value> {
        read(&self.config.orders.requests.join(name))
    }

    fn tend(&mut self) {
        self.orders.tend(&mut self.outbox, 1);
    }

    /// Where orders stand, as said since the last look: word and code.
    fn answers(&mut self) -> Vec<(Standing, String)> {
        let life = Life { e: Epoch::new("9c1f02aa").unwrap(), b: 1, n: 1 };
        let mut said = Vec::new();
        while let Some(answer) = self.orders.next_answer(&life) {
            let res = Res::parse(&answer.payload).unwrap();
            assert!(answer.topic.ends_with(&format!("/res/{}", res.cid)));
            said.push((res.st, res.code.unwrap()));
        }
        said
    }

    fn heard(&mut self) {
        let all: Vec<u64> = self.orders.book.journal.iter().map(|entry| entry.q).collect();
        all.into_iter().for_each(|q| self.orders.was_heard(q));
    }

    /// A campaign for everybody at once, as its plan and pace are published.
    fn roll(&mut self, counter: u64, pace: &Pace, version: &str) -> Result<(), OrderError> {
        let plan = json!({"v": 1, "cid": pace.cid, "name": "test", "fleet": "home", "by": KeyId::of(&key(5).verifying_key()),
            "iat": 1_700_000_000_000_i64, "exp": 4_000_000_000_000_i64, "ctr": counter, "version": version,
            "manifest": "https://r.example/manifest.json", "pacer": BASE64.encode(key(7).verifying_key().as_bytes()),
            "rings": [{"name": "all", "pct": 100}], "gate": {}, "rate": {"dl_window_s": 0}});
        let plan = dsse::sign(CAMPAIGN, plan.to_string().as_bytes(), &key(5)).unwrap();
        let pace = dsse::sign(PACE, &serde_json::to_vec(pace).unwrap(), &key(7)).unwrap();
        self.orders.roll(&Rolling::message(&plan, &pace).unwrap())?;
        self.tend();
        Ok(())
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
fn where_an_order_stands_is_said_until_somebody_hears_it_and_again_when_asked() {
    let mut agent = Agent::new();
    agent.order(1, "1.2.0", &[1, 2]).unwrap();
    assert_eq!(agent.answers(), [(Standing::Accepted, "accepted".to_owned())]);
    assert_eq!(agent.answers(), []);
    // Nobody heard it: the next connection says it again, and so does a box that was started anew.
    agent.orders.connected();
    assert_eq!(agent.answers().len(), 1);
    agent.restart(false);
    assert_eq!(agent.answers().len(), 1);
    agent.heard();
    agent.restart(false);
    assert_eq!(agent.answers(), []);
    agent.says("staged/progress.json", &json!({"id": cid(1), "phase": "fetching", "done": 49, "total": 100}));
    agent.tend();
    assert_eq!(agent.answers(), [(Standing::Running, "fetching".to_owned())]);
    assert_eq!(agent.orders.book.entry(&cid(1)).unwrap().pct, Some(40));
    agent.heard();
    // The controller lost it and asks with the order itself.
    agent.order(1, "1.2.0", &[1, 2]).unwrap();
    assert_eq!(agent.answers(), [(Standing::Running, "fetching".to_owned())]);
    let result = json!([{"seq": 1, "id": cid(1), "from": "1.0.0", "to": "1.2.0", "became": "rolled-back", "at": 5}]);
    agent.says("results.json", &result);
    agent.tend();
    assert_eq!(agent.answers(), [(Standing::Reverted, "rolled-back".to_owned())]);
}

#[test]
fn a_manifest_of_another_version_ends_the_order() {
    let mut agent = Agent::new();
    agent.order(1, "1.2.0", &[1, 2]).unwrap();
    agent.says("staged/progress.json", &json!({"id": cid(1), "phase": "staged", "version": "1.1.0"}));
    agent.tend();
    assert_eq!(agent.told(), ["UPD-FAIL"]);
    assert_eq!(agent.asked("install.json"), None);
    assert_eq!(agent.answers(), [(Standing::Failed, "not-staged".to_owned())]);
}

#[test]
fn what_would_be_refused_later_is_refused_at_once_and_said() {
    let mut agent = Agent::new();
    agent.says("floor", &json!(null));
    std::fs::write(agent.config.orders.update_state.join("floor"), "1.2.0\n").unwrap();
    assert!(matches!(agent.order(1, "1.1.9", &[1, 2]), Err(OrderError::Floor { .. })));
    assert!(matches!(agent.order(1, "1.0.0", &[1, 2]), Err(OrderError::Floor { .. })));
    std::fs::remove_file(agent.config.orders.update_state.join("floor")).unwrap();
    assert!(matches!(agent.order(1, "1.0.0", &[1, 2]), Err(OrderError::NotNewer { .. })));
    assert!(agent.order(1, "1.2.0", &[1]).is_err());
    let codes: Vec<String> = agent.answers().into_iter().map(|(st, code)| format!("{st:?} {code}")).collect();
    assert_eq!(codes, ["Rejected floor", "Rejected floor", "Rejected not-newer", "Rejected signature"]);
    assert_eq!(agent.asked("stage.json"), None);
    // None of them cost the author its counter.
    agent.order(1, "1.2.0", &[1, 2]).unwrap();
}

#[test]
fn a_campaign_is_followed_from_its_opening_and_stops_before_the_installation_when_it_is_halted() {
    let mut agent = Agent::new();
    let closed = Pace::new(&cid(9));
    agent.roll(3, &closed, "1.2.0").unwrap();
    agent.tend();
    assert_eq!(agent.asked("stage.json"), None, "its ring is closed");
    let open = Pace { n: 2, opened: vec![1_700_000_000_000], ..closed.clone() };
    agent.roll(3, &open, "1.2.0").unwrap();
    assert!(agent.asked("stage.json").is_some());
    // Over a restart it is the same; what is retained comes again and changes nothing.
    agent.restart(true);
    agent.roll(3, &open, "1.2.0").unwrap();
    assert!(agent.asked("stage.json").is_some());
    let halted = Pace { n: 3, halt: true, why: Some("3 of 20 failed".into()), ..open.clone() };
    agent.roll(3, &halted, "1.2.0").unwrap();
    agent.says("staged/progress.json", &json!({"id": cid(9), "phase": "staged", "version": "1.2.0"}));
    agent.tend();
    agent.tend();
    assert_eq!(agent.asked("install.json"), None, "installed although halted");
    assert_eq!(agent.orders.book.entry(&cid(9)).unwrap().code.as_deref(), Some("halted"));
    // The broker has an older pace that was not halted: it is no way round.
    assert!(matches!(agent.roll(3, &open, "1.2.0"), Err(OrderError::Denied(Denied::Replayed))));
    agent.restart(true);
    agent.tend();
    assert_eq!(agent.asked("install.json"), None);
    let resumed = Pace { n: 4, halt: false, why: None, ..halted };
    agent.roll(3, &resumed, "1.2.0").unwrap();
    assert_eq!(agent.asked("install.json").unwrap()["version"], "1.2.0");
    // Halted again while it waits for a quiet moment: the request is taken back.
    agent.roll(3, &Pace { n: 5, halt: true, ..resumed }, "1.2.0").unwrap();
    assert_eq!(agent.asked("install.json"), None);
    // A later order of the releasers does not wait for it.
    agent.order(20, "1.3.0", &[1, 2]).unwrap();
    assert_eq!(agent.orders.book.entry(&cid(9)).unwrap().st, Standing::Superseded);
    assert_eq!(agent.asked("stage.json").unwrap()["id"], cid(20));
}

#[test]
fn a_campaign_that_is_old_forged_or_brings_what_runs_already_starts_nothing() {
    let mut agent = Agent::new();
    let open = Pace { n: 2, opened: vec![1_700_000_000_000], ..Pace::new(&cid(9)) };
    agent.roll(3, &open, "1.0.0").unwrap();
    agent.tend();
    assert_eq!(agent.asked("stage.json"), None);
    assert_eq!(agent.orders.book.entry(&cid(9)).unwrap().code.as_deref(), Some("already"));
    let other = Pace { cid: cid(10), ..open.clone() };
    assert!(matches!(agent.roll(3, &other, "1.2.0"), Err(OrderError::Denied(Denied::Replayed))));
    std::fs::remove_file(&agent.config.orders.operators).unwrap();
    assert!(matches!(agent.roll(4, &other, "1.2.0"), Err(OrderError::NoKeys(_))));
    assert_eq!(agent.asked("stage.json"), None);
}

#[test]
fn a_box_leaves_only_with_empty_hands_or_when_told_so_and_only_after_it_was_heard() {
    let mut agent = Agent::new();
    let erase = json!({"erase": true});
    let refused = |agent: &mut Agent, word: &str| match agent.send(1, DECOMMISSION, &erase, &[1, 2]) {
        Err(OrderError::Funds(reason)) => assert!(reason.contains(word), "{reason}"),
        other => panic!("{word}: {other:?}"),
    };
    refused(&mut agent, "nobody can say");
    agent.purse = Purse { hot_wei: Some(200_000_000_000_000), winners: 0 };
    refused(&mut agent, "200000000000000 wei");
    agent.purse = Purse { hot_wei: Some(5), winners: 2 };
    refused(&mut agent, "2 winning tickets");
    assert!(matches!(agent.send(1, DECOMMISSION, &erase, &[1]), Err(OrderError::Denied(Denied::Envelope(_)))));
    agent.send(1, DECOMMISSION, &json!({"erase": true, "even_with_funds": true}), &[1, 2]).unwrap();
    agent.tend();
    assert_eq!(agent.told(), ["DECOMMISSIONED"]);
    for _ in 0..2 {
        agent.restart(true);
        agent.tend();
        assert_eq!(agent.told(), ["DECOMMISSIONED"]);
        assert!(!agent.config.orders.decommission.exists(), "went before it was heard");
    }
    assert!(matches!(agent.order(2, "1.2.0", &[1, 2]), Err(OrderError::Busy(_))));
    let place = agent.outbox.last_event();
    let e = Epoch::new("9c1f02aa").unwrap();
    agent.outbox.acknowledge(&Ack { v: 1, e, ledger: None, events: Some(place), earnings: None, srv: "main".into() });
    agent.tend();
    let request: Value = read(&agent.config.orders.decommission).unwrap();
    assert_eq!(request, json!({"id": cid(1), "erase": true}));
    assert!(agent.orders.book.is_over(&cid(1)));
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
    agent.tend();
    assert!(agent.asked("stage.json").is_some());
    agent.says("staged/progress.json", &json!({"id": cid(1), "phase": "staged"}));
    agent.tend();
    agent.restart(true);
    agent.tend();
    assert!(agent.asked("install.json").is_some());
    // Once it is installed the machine starts again by itself: no second installation, neither while it waits for its
    // outcome nor when that is there and the agent has not read it yet.
    agent.says("pending.json", &json!({}));
    agent.restart(true);
    agent.tend();
    assert_eq!(agent.asked("install.json"), None);
    let result = json!([{"seq": 1, "id": cid(1), "from": "1.1.0", "to": "1.2.0", "became": "blessed", "at": 5}]);
    agent.says("results.json", &result);
    std::fs::remove_file(agent.config.orders.update_state.join("pending.json")).unwrap();
    agent.restart(true);
    assert_eq!(agent.asked("install.json"), None);
    agent.tend();
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
        agent.orders.book.telling = Some((
            agent.outbox.last_event() + 1,
            Told::Result { seq: 1, id: "by-hand-1".into(), became: "rolled-back".into(), reason: None },
        ));
        agent.orders.save();
        if stored {
            let body = update::event(id::UPD_ROLLBACK, Severity::Err, "by-hand-1", "1.2.0", None);
            agent.outbox.record(1, clock::stamp(), body).unwrap();
        }
        agent.restart(false);
        agent.tend();
        assert_eq!(agent.told(), ["UPD-ROLLBACK"], "stored: {stored}");
    }
}
