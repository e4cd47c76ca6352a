//! What is shipped is right: annotated configurations are accepted, wrong ones are refused with the key's name, every
//! command explains itself.
use std::process::{Command, Output};

use millrace_tests::anvil::repository;
use millrace_tests::bins::bin;
use millrace_tests::broker::{Broker, CONTROLLER};

const PROGRAMS: [&str; 5] = ["millrace", "millrace-node", "millrace-signer", "millrace-fleet", "millrace-controller"];

fn run(program: &str, args: &[&str]) -> Output {
    Command::new(bin(program)).args(args).output().expect("our programs run")
}

#[test]
fn every_annotated_configuration_is_accepted() {
    let dir = tempfile::tempdir().expect("a directory");
    let broker = Broker::start(&dir.path().join("broker")).expect("a broker");
    for (daemon, file, identity) in [
        ("millrace-node", "firmware/node/node.toml", None),
        ("millrace-signer", "firmware/signer/signer.toml", None),
        ("millrace-fleet", "firmware/fleet/fleet.toml", Some(("box-0000000000000000", "box"))),
        ("millrace-controller", "firmware/controller/controller.toml", Some((CONTROLLER, "ctl-main"))),
    ] {
        let mut text = std::fs::read_to_string(repository().join(file)).expect("a shipped file");
        // Certificates are checked too, so the ones it names must exist.
        if let Some((name, stem)) = identity {
            let files = broker.client_cert(name).expect("a certificate");
            for (shipped, made) in [
                ("/etc/millrace/fleet-ca.pem".to_owned(), files.ca),
                (format!("/etc/millrace/{stem}.pem"), files.cert),
                (format!("/etc/millrace/{stem}.key"), files.key),
            ] {
                assert!(text.contains(&shipped), "{file} names no {shipped}");
                text = text.replace(&shipped, &made.display().to_string());
            }
        }
        let path = dir.path().join(daemon);
        std::fs::write(&path, text).expect("a file");
        let output = run(daemon, &["--check", "--config", &path.display().to_string()]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{daemon} refuses {file}: {said}");
    }
}

#[test]
fn a_mistyped_key_is_refused_by_name_with_the_code_for_configurations() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("wrong.toml");
    std::fs::write(&path, "colour = \"blue\"\n").expect("a file");
    for daemon in ["millrace-node", "millrace-signer", "millrace-fleet", "millrace-controller"] {
        let output = run(daemon, &["--check", "--config", &path.display().to_string()]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{daemon}: {said}");
        assert!(said.contains("colour"), "{daemon}: {said}");
    }
}

#[test]
fn every_program_explains_itself() {
    for program in PROGRAMS {
        let output = run(program, &["--help"]);
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("Usage"), "{program} --help: {said}");
    }
    for command in ["transcode", "hw", "status", "gateway push", "fleet ls", "fleet show", "doctor", "keys new"] {
        let args: Vec<&str> = command.split(' ').chain(["--help"]).collect();
        let output = run("millrace", &args);
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("Usage"), "millrace {command} --help: {said}");
    }
}
