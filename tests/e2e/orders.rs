//! What the fleet orders, from the operator's command to the box and back, over a real broker, a real web server and the
//! real updater; systemd's part is played by the test. Every refusal, and every step over a crash.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where it stopped")]

#[path = "orders/yard.rs"]
pub(crate) mod yard;

use std::time::{SystemTime, UNIX_EPOCH};

use fleet_protocol::dsse::{self, COMMAND, KeyId};
use fleet_protocol::presence::Presence;
use millrace_tests::broker::{Broker, OWNER};
use serde_json::{Value, json};

use crate::update::release::{Made, key};
use crate::update::server::{Fault, Server};
use yard::{Yard, status};

/// Size of the root of a release here.
const ROOT: usize = 1 << 20;

fn skipped() -> bool {
    let missing = !Broker::available();
    if missing {
        eprintln!("skipped: mosquitto is not installed");
    }
    missing
}

fn now_ms() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// An order as its JSON, signed by two releasers; where its manifest lies matters to nobody.
fn signed(number: u64, aud: &Value, ctr: u64, exp: i64, version: &str) -> (String, String) {
    signed_for("http://127.0.0.1:9/manifest.json", number, aud, ctr, exp, version)
}

fn signed_for(url: &str, number: u64, aud: &Value, ctr: u64, exp: i64, version: &str) -> (String, String) {
    let cid = format!("019ab000-0000-7000-8000-{number:012}");
    let order = json!({"v": 1, "cid": cid, "op": "update", "aud": aud, "by": KeyId::of(&key(1).verifying_key()),
        "iat": now_ms() - 1000, "exp": exp, "ctr": ctr, "args": {"manifest": url, "version": version}});
    let envelope = dsse::sign(COMMAND, order.to_string().as_bytes(), &key(1)).unwrap();
    let envelope = dsse::add_signature(&envelope, COMMAND, &key(2)).unwrap();
    (cid, String::from_utf8(envelope).unwrap())
}

#[test]
fn an_update_goes_from_the_operators_command_to_the_box_and_back_over_crashes() {
    if skipped() {
        return;
    }
    let yard = Yard::new();
    let made = Made::new(&yard.path("release"), "1.2.0", ROOT);
    let server = yard.runtime.block_on(Server::start(&made.dir, Fault::default()));
    let mut site = yard.site(0xd0);
    let url = server.url();
    let update = ["fleet", "update", "--version", "1.2.0", "--manifest", &url, "--box", &site.id];
    // Alice begins it on her machine, Bob signs on his, anybody sends it.
    let output = yard.millrace(&[&update[..], &["--key", "1.key", "--fleet", "acme", "--out", "order.json"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let cid = String::from_utf8(output.stdout).unwrap().trim().to_owned();
    let sent = yard.json(0, &["fleet", "send", "order.json"]);
    assert_eq!(sent["boxes"][0]["st"], "queued");
    let refused = yard.until_stands(&cid, "rejected", "signature");
    assert!(refused.reason.unwrap().contains("1 of 2 needed keys signed"));
    assert!(!site.request("stage.json").exists());
    yard.until("the refusal is an event", |yard| (yard.events(&site.id, &["CMD-DENIED"]) == [1]).then_some(()));
    assert!(yard.millrace(&["fleet", "sign", "order.json", "--key", "2.key"]).status.success());
    yard.json(0, &["fleet", "send", "order.json"]);
    yard.until_stands(&cid, "accepted", "accepted");

    site.crash(&yard);
    site.does(&yard, "stage");
    site.here.holds(&made);
    yard.until_stands(&cid, "running", "staged");
    site.crash(&yard);
    site.does(&yard, "install");
    assert_eq!(site.here.calls("sysupdate"), ["update 1.2.0"]);
    // The controller is away while the box starts again with the new version.
    let mut yard = yard;
    yard.kill_controller();
    site.kill();
    yard.start_controller();
    site.reboot(&yard, "1.2.0", "1.2.0");
    yard.until_stands(&cid, "done", "blessed");
    let told = ["UPD-STAGED", "UPD-OK", "UPD-FAIL", "UPD-ROLLBACK", "UPD-SIG-BAD"];
    yard.until("it is told", |yard| (yard.events(&site.id, &told) == [1, 1, 0, 0, 0]).then_some(()));
    let shown = yard.json(0, &["fleet", "orders", &cid, "--wait"]);
    assert_eq!(shown["boxes"][0]["st"], "done");
    yard.until("the new version is reported", |yard| {
        (yard.detail(&site.id)?.summary.fw.as_deref() == Some("1.2.0")).then_some(())
    });
    site.crash(&yard);
    yard.until_online(&site);
    assert_eq!(yard.events(&site.id, &told), [1, 1, 0, 0, 0]);

    // The next version does not come up: it is taken back, and said so.
    let made = Made::new(&yard.path("bad"), "1.3.0", ROOT);
    let server = yard.runtime.block_on(Server::start(&made.dir, Fault::default()));
    let url = server.url();
    let keys = ["--key", "1.key", "--key", "2.key"];
    let update = ["fleet", "update", "--version", "1.3.0", "--manifest", &url, "--group", "all", "--percent", "100"];
    let sent = yard.json(0, &[&update[..], &keys].concat());
    let cid = sent["cid"].as_str().unwrap().to_owned();
    site.does(&yard, "stage");
    site.does(&yard, "install");
    site.reboot(&yard, "1.2.0", "1.3.0");
    yard.until_stands(&cid, "reverted", "rolled-back");
    yard.until("it is told", |yard| (yard.events(&site.id, &told) == [2, 1, 0, 1, 0]).then_some(()));
    // Whoever waits for it hears that it is not well.
    yard.json(1, &["fleet", "orders", &cid, "--wait"]);
    assert_eq!(yard.orders().orders.len(), 2);
}

#[test]
fn what_is_old_late_forged_or_for_somebody_else_starts_nothing_before_or_after_a_restart() {
    if skipped() {
        return;
    }
    let yard = Yard::new();
    let mut site = yard.site(0xd1);
    let hour = 3_600_000;
    let own = json!({"fleet": "acme", "boxes": [site.id]});
    // One good order raises the counter; what it names is not there, so it comes to nothing.
    let server = yard.runtime.block_on(Server::start(&yard.path("empty"), Fault::default()));
    let (first, envelope) = signed_for(&server.url(), 1, &own, 100, now_ms() + hour, "1.2.0");
    let (status_line, body) = yard.post("/api/orders", &envelope);
    assert!(status_line.contains("202"), "{status_line} {body}");
    yard.until_stands(&first, "accepted", "accepted");
    assert!(!site.serve(&yard, "stage").status.success());
    yard.until_stands(&first, "failed", "not-staged");
    std::fs::remove_file(site.request("stage.json")).unwrap();

    for (round, restart) in [(10, false), (20, true)] {
        if restart {
            site.crash(&yard);
            yard.until_online(&site);
        }
        let cases = [
            ("replayed", signed(round, &own, 100, now_ms() + hour, "1.2.0")),
            ("not-newer", signed(round + 1, &own, 200 + round, now_ms() + hour, "1.1.0")),
            ("not-newer", signed(round + 2, &own, 300 + round, now_ms() + hour, "0.9")),
        ];
        for (code, (cid, envelope)) in cases {
            let (status_line, body) = yard.post("/api/orders", &envelope);
            assert!(status_line.contains("202"), "{status_line} {body}");
            yard.until_stands(&cid, "rejected", code);
        }
        // Whoever owns the broker sends what the controller would not: an order of another box, one whose time is over,
        // the good one once more, and rubbish.
        let other = json!({"fleet": "acme", "boxes": ["box-00000000000000ff"]});
        let (_, foreign) = signed(round + 3, &other, 900, now_ms() + hour, "1.2.0");
        let (_, late) = signed(round + 4, &own, 901, now_ms() - 1, "1.2.0");
        let topic = format!("millrace/v1/acme/{}/cmd/update", site.id);
        let messages = [foreign, late, envelope.clone(), "{}".to_owned()].map(|payload| (topic.clone(), payload));
        publish(&yard, &messages);
        // What comes after them has come to something: so have they.
        let (cid, envelope) = signed(round + 5, &own, 200 + round, now_ms() + hour, "1.1.0");
        yard.post("/api/orders", &envelope);
        yard.until_stands(&cid, "rejected", "not-newer");
        assert!(!site.request("stage.json").exists(), "an update was asked for");
    }
    assert_eq!(yard.order(&first).boxes[0].st, "failed", "what is final stays");

    // The controller says no to what can come to nothing, and ends what nobody began in its time.
    let (_, late) = signed(50, &own, 950, now_ms() - 1, "1.2.0");
    assert!(yard.post("/api/orders", &late).1.contains("time is over"));
    let stranger = json!({"fleet": "acme", "boxes": ["box-00000000000000ff"]});
    assert!(
        yard.post("/api/orders", &signed(51, &stranger, 951, now_ms() + hour, "1.2.0").1).1.contains("no box box-")
    );
    let elsewhere = json!({"fleet": "other", "group": "all"});
    assert!(
        yard.post("/api/orders", &signed(52, &elsewhere, 952, now_ms() + hour, "1.2.0").1).1.contains("fleet other")
    );
    let output = yard.millrace(&["fleet", "send", "controller.toml"]);
    assert_eq!(output.status.code(), Some(65), "{}", String::from_utf8_lossy(&output.stderr));
    site.kill();
    yard.until("the box is gone", |yard| (yard.detail(&site.id)?.summary.presence != Presence::Online).then_some(()));
    let (cid, short) = signed(53, &own, 953, now_ms() + 1500, "1.2.0");
    yard.post("/api/orders", &short);
    yard.until_stands(&cid, "expired", "unanswered");
}

/// Says these on the broker, in this order, and waits until it has them.
fn publish(yard: &Yard, messages: &[(String, String)]) {
    use rumqttc::v5::mqttbytes::QoS;
    use rumqttc::v5::mqttbytes::v5::Packet;
    use rumqttc::v5::{Client, Event, MqttOptions};
    let files = yard.broker.client_cert(OWNER).unwrap();
    let tls = service::MutualTls { ca: files.ca, cert: files.cert, key: files.key }.client_config().unwrap();
    let mut options = MqttOptions::new(OWNER, "127.0.0.1", yard.broker.port());
    options.set_transport(rumqttc::Transport::Tls(rumqttc::TlsConfiguration::Rustls(tls)));
    let (client, mut connection) = Client::new(options, 16);
    for (topic, payload) in messages {
        client.publish(topic, QoS::AtLeastOnce, false, payload.clone()).unwrap();
    }
    let mut left = messages.len();
    for event in connection.iter() {
        if let Event::Incoming(Packet::PubAck(_)) = event.unwrap() {
            left -= 1;
            if left == 0 {
                return;
            }
        }
    }
}

#[test]
fn a_campaign_halts_when_a_box_fails_before_the_next_installs_and_a_person_lets_it_go_on() {
    if skipped() {
        return;
    }
    let yard = Yard::new();
    let made = Made::new(&yard.path("release"), "1.2.0", ROOT);
    let server = yard.runtime.block_on(Server::start(&made.dir, Fault::default()));
    let [mut lab, mut second, mut third] = [0xa0, 0xa1, 0xa2].map(|number| yard.site(number));
    let (url, ring) = (server.url(), format!("lab:{}", lab.id));
    let new = |name: &'static str, key: &'static str| {
        let plan =
            ["fleet", "campaign", "new", "--name", name, "--version", "1.2.0", "--manifest", &url, "--ring", &ring];
        let gate = ["--ring", "all:100%", "--window-s", "0", "--min-n", "1", "--fail-max", "1", "--key", key];
        yard.json(0, &[&plan[..], &gate].concat())
    };
    // A releaser is no operator: the controller carries it, and no box follows.
    new("forged", "1.key");
    yard.until("it is refused", |yard| (yard.events(&lab.id, &["CMD-DENIED"]) == [1]).then_some(()));
    assert!(!lab.request("stage.json").exists());
    new("fw-120", "5.key");
    // Ring by ring: the second waits for the first.
    lab.does(&yard, "stage");
    lab.does(&yard, "install");
    assert!(!second.request("stage.json").exists() && !third.request("stage.json").exists());
    lab.reboot(&yard, "1.2.0", "1.2.0");
    second.does(&yard, "stage");
    third.does(&yard, "stage");
    let shown = yard.campaign();
    assert_eq!((shown.state.as_str(), shown.rings[0].done, shown.rings[1].boxes), ("running", 1, 2));
    // One of them is taken back; the other has not begun to install, and does not. It was started anew meanwhile.
    yard.until("the third may install", |_| third.request("install.json").exists().then_some(()));
    second.does(&yard, "install");
    second.reboot(&yard, "1.1.0", "1.2.0");
    let halted = yard
        .until("the campaign is halted", |yard| Some(yard.campaign()).filter(|campaign| campaign.state == "halted"));
    assert!(halted.why.unwrap().contains("1 of 3 boxes failed"));
    assert_eq!(halted.failed[0].id, second.id);
    yard.until("the request is taken back", |_| (!third.request("install.json").exists()).then_some(()));
    third.crash(&yard);
    yard.until("the box says that it waits", |yard| (yard.standing(&halted.cid, &third.id)? == "halted").then_some(()));
    assert!(!third.request("install.json").exists() && third.here.calls("sysupdate").is_empty());
    let resumed = yard.json(0, &["fleet", "campaign", "resume", "fw-120"]);
    assert_eq!(resumed["state"], "running");
    third.does(&yard, "install");
    third.reboot(&yard, "1.2.0", "1.2.0");
    yard.until("the campaign is over", |yard| (yard.campaign().state == "done").then_some(()));
    let rings = yard.campaign().rings;
    assert_eq!((rings[0].done, rings[1].done, rings[1].absent, rings[1].failed), (1, 1, 1, 0));
}

#[test]
fn a_box_with_money_does_not_leave_and_one_that_may_says_so_before_it_goes() {
    if skipped() {
        return;
    }
    let yard = Yard::new();
    let mut site = yard.site(0xe0);
    site.node.send_replace(status("5000000000000000000"));
    let leave =
        ["fleet", "decommission", "--box", &site.id.clone(), "--key", "1.key", "--key", "2.key"].map(str::to_owned);
    let leave: Vec<&str> = leave.iter().map(String::as_str).collect();
    yard.until("the box knows what it holds", |yard| {
        (yard.detail(&site.id)?.last.get("earn")?.m.get("eth")?.as_str()? == "5000000000000000000").then_some(())
    });
    let refused = yard.json(1, &[&leave[..], &["--wait"]].concat());
    assert_eq!(refused["boxes"][0]["code"], "funds");
    assert!(refused["boxes"][0]["reason"].as_str().unwrap().contains("5000000000000000000 wei"), "{refused}");
    // One signature is not enough, whatever it says.
    let one =
        yard.json(1, &["fleet", "decommission", "--box", &site.id, "--key", "1.key", "--even-with-funds", "--wait"]);
    assert_eq!(one["boxes"][0]["code"], "signature");
    let request = site.here.0.join("run/millrace-fleet/decommission.json");
    assert!(!request.exists());
    let done = yard.json(0, &[&leave[..], &["--even-with-funds", "--wait"]].concat());
    assert_eq!((&done["boxes"][0]["st"], &done["boxes"][0]["code"]), (&json!("done"), &json!("leaving")));
    yard.until("the helper is asked", |_| request.exists().then_some(()));
    let asked: Value = serde_json::from_str(&yard::text(&request)).unwrap();
    assert_eq!(asked, json!({"id": done["cid"], "erase": true}));
    let detail = yard.detail(&site.id).unwrap();
    assert!(detail.summary.decommissioned && detail.summary.presence == Presence::Retired);
    // It stays so, and orders no longer reach it.
    site.crash(&yard);
    let output = yard.millrace(&leave);
    assert_eq!(output.status.code(), Some(65), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(yard.events(&site.id, &["DECOMMISSIONED"]), [1]);
}
