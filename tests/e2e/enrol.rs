//! A machine becomes a box: the operator's claim, the three steps of the real agent, the controller's endpoint over TLS,
//! and then the broker, with the certificate that came. What is not as it must be is refused, and what is cut off goes on.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where it stopped")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use fleet_protocol::presence::Presence;
use millrace_tests::bins::bin;
use millrace_tests::broker::Broker;
use serde_json::{Value, json};

use crate::orders::yard::{AGENT, Yard, end, launch};

/// A machine in a directory, as provisioning leaves it.
struct Machine(PathBuf);

impl Machine {
    fn new(yard: &Yard, name: &str, serial: &str, token: &str) -> Self {
        let machine = Self(yard.path(name));
        let ca = fs::read_to_string(yard.path("broker/fleet-ca.pem")).unwrap();
        let site = json!({"v": 1, "site": "here", "iat": 1, "exp": 2, "controller": {"fleet": "acme", "ca_pem": ca,
            "brokers": [{"host": "127.0.0.1", "port": yard.broker.port()}]}});
        machine.put("var/lib/millrace-site/site.json", &site.to_string());
        machine.put("var/lib/millrace-site/claim-token", &format!("{token}\n"));
        machine.put("sys/class/dmi/id/product_serial", &format!("{serial}\n"));
        fs::create_dir_all(machine.0.join("run/millrace-enrol")).unwrap();
        machine
    }

    fn put(&self, path: &str, text: &str) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.join(path)
    }

    fn command(&self, yard: &Yard, step: &str) -> Command {
        let mut command = Command::new(bin("millrace-fleet"));
        command.args(["enrol", step, "--root", self.0.to_str().unwrap()]);
        command.arg("--controller").arg(format!("https://127.0.0.1:{}", yard.enrol)).env_remove("JOURNAL_STREAM");
        command
    }

    fn step(&self, yard: &Yard, step: &str) -> (Option<i32>, String) {
        let Output { status, stderr, stdout } = self.command(yard, step).output().unwrap();
        (status.code(), String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned())
    }

    fn asks(&self, yard: &Yard) -> (Option<i32>, String) {
        assert_eq!(self.step(yard, "prepare").0, Some(0));
        self.step(yard, "ask")
    }
}

fn claim(yard: &Yard, serial: &str) -> Value {
    yard.json(0, &["claim", "new", "--serial", serial, "--ring", "canary"])
}

#[test]
fn a_machine_with_its_token_becomes_a_box_and_is_online_with_its_own_certificate() {
    if !Broker::available() {
        eprintln!("skipped: mosquitto is not installed");
        return;
    }
    let yard = Yard::new();
    let made = claim(&yard, "MR-2026-0001");
    let token = made["token"].as_str().unwrap();
    assert_eq!(made["label"], format!("MILLRACE1:MR-2026-0001:{token}"));
    assert!(!fs::read(yard.path("fleet.db")).unwrap().windows(token.len()).any(|part| part == token.as_bytes()));
    let machine = Machine::new(&yard, "machine", "MR-2026-0001", token);
    assert_eq!(machine.step(&yard, "prepare").0, Some(0));
    // Cut off again and again: each time it goes on, and it is the same box in the end.
    for wait_ms in [0, 5, 15, 40, 80] {
        let mut child = machine.command(&yard, "ask").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(wait_ms));
        let _ = child.kill();
        child.wait().unwrap();
    }
    let (code, said) = machine.step(&yard, "ask");
    assert_eq!(code, Some(0), "{said}");
    // The answer was lost with the power: the same key gets the same certificate.
    let answer = fs::read_to_string(machine.at("var/lib/millrace-fleet/enrolled/answer.json")).unwrap();
    fs::remove_file(machine.at("var/lib/millrace-fleet/enrolled/answer.json")).unwrap();
    assert_eq!(machine.step(&yard, "ask").0, Some(0));
    let again = fs::read_to_string(machine.at("var/lib/millrace-fleet/enrolled/answer.json")).unwrap();
    assert_eq!(answer, again);
    assert!(machine.at("var/lib/millrace-site/claim-token").exists(), "removed before all is installed");
    for _ in 0..2 {
        let (code, said) = machine.step(&yard, "install");
        assert_eq!(code, Some(0), "{said}");
    }
    assert!(!machine.at("var/lib/millrace-site/claim-token").exists());
    let mode =
        |path: PathBuf| std::os::unix::fs::PermissionsExt::mode(&fs::metadata(path).unwrap().permissions()) & 0o777;
    assert_eq!(mode(machine.at("var/lib/millrace-site/config/credentials/device-key")), 0o600);
    let listed = yard.json(0, &["claim", "ls"]);
    assert!(listed["claims"][0]["used_ms"].is_i64(), "{listed}");

    // What was written is what the agent runs with; only the places are the test's.
    let config = fs::read_to_string(machine.at("var/lib/millrace-site/config/fleet.toml")).unwrap();
    let here = |path: &str| machine.at(path).display().to_string();
    let config = config
        .replace("/run/credentials/millrace-fleet.service/", &here("var/lib/millrace-site/config/credentials/"))
        .replace("/etc/millrace/", &here("var/lib/millrace-site/config/"));
    let config = format!("state_dir = {:?}\n{config}\n{AGENT}", here("agent"));
    fs::write(machine.at("fleet.toml"), config).unwrap();
    let mut command = Command::new(bin("millrace-fleet"));
    command.arg("--config").arg(machine.at("fleet.toml"));
    let mut agent = Some(launch(command, yard.log("machine.log")));
    let id = made["box"].as_str().unwrap();
    yard.until("the new box is online", |yard| (yard.detail(id)?.summary.presence == Presence::Online).then_some(()));
    assert_eq!(yard.detail(id).unwrap().summary.ring.as_deref(), Some("canary"));
    end(&mut agent);

    // Another machine with the same label, and this one with a new key: the token was taken.
    let copy = Machine::new(&yard, "copy", "MR-2026-0001", token);
    refused(&yard, &copy);
}

fn refused(yard: &Yard, machine: &Machine) {
    let (code, said) = machine.asks(yard);
    assert_eq!(code, Some(77), "{said}");
    assert!(said.contains("no claim fits"), "{said}");
    assert!(!machine.at("var/lib/millrace-fleet/enrolled/answer.json").exists());
}

#[test]
fn a_wrong_token_a_wrong_serial_and_a_replaced_token_are_refused_and_a_stranger_is_not_asked() {
    if !Broker::available() {
        eprintln!("skipped: mosquitto is not installed");
        return;
    }
    let yard = Yard::new();
    let made = claim(&yard, "MR-7");
    let token = made["token"].as_str().unwrap();
    refused(&yard, &Machine::new(&yard, "wrong-token", "MR-7", "abcdefghijklmnopqrstuv"));
    refused(&yard, &Machine::new(&yard, "wrong-serial", "MR-8", token));
    // A new token for the serial: the old one, unused, is worth nothing.
    let newer = claim(&yard, "MR-7");
    refused(&yard, &Machine::new(&yard, "old-token", "MR-7", token));
    let good = Machine::new(&yard, "good", "MR-7", newer["token"].as_str().unwrap());
    // Somebody else's controller, however it answers, is not believed: the authority is pinned.
    let stranger =
        fs::read_to_string(Broker::start(&yard.path("stranger")).unwrap().client_cert("x").unwrap().ca).unwrap();
    let mut site: Value = serde_json::from_str(&text(&good.at("var/lib/millrace-site/site.json"))).unwrap();
    let own = site["controller"]["ca_pem"].clone();
    site["controller"]["ca_pem"] = json!(stranger);
    good.put("var/lib/millrace-site/site.json", &site.to_string());
    let (code, said) = good.asks(&yard);
    assert_eq!(code, Some(69), "{said}");
    site["controller"]["ca_pem"] = own;
    good.put("var/lib/millrace-site/site.json", &site.to_string());
    let (code, said) = good.asks(&yard);
    assert_eq!(code, Some(0), "{said}");
    // Rubbish is answered and costs nothing but its connection.
    let (status, _) = yard.post("/api/claims", "{\"serial\":\"a b\",\"token_sha256\":\"\",\"days\":1}");
    assert!(status.contains("400"), "{status}");
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}
