//! What is shipped is right: annotated configurations are accepted, wrong ones are refused with the key's name, every
//! command explains itself.
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use millrace_tests::anvil::repository;
use millrace_tests::bins::bin;
use millrace_tests::broker::{Broker, CONTROLLER};
use millrace_tests::cluster::Program;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use service::status::{NodeStatus, read_status};

/// How long a daemon may take to say something, on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(90);

const PROGRAMS: [&str; 6] =
    ["millrace", "millrace-node", "millrace-signer", "millrace-fleet", "millrace-controller", "millrace-update"];

fn run(program: &str, args: &[&str]) -> Output {
    Command::new(bin(program)).args(args).output().expect("our programs run")
}

#[test]
fn every_annotated_configuration_is_accepted() {
    let dir = tempfile::tempdir().expect("a directory");
    let broker = Broker::start(&dir.path().join("broker")).expect("a broker");
    for (daemon, file, identity) in [
        ("millrace-node", "firmware/node/node.toml", None),
        ("millrace-node", "firmware/node/transcoder.toml", None),
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

/// A configuration for a node off-chain whose state lies in this directory; its path as an argument.
fn node_config(dir: &Path, more: &str) -> String {
    let path = dir.join("node.toml");
    let text = format!(
        "state_dir = {:?}\nstatus_socket = {:?}\n[serve]\nlisten = \"127.0.0.1:0\"\n{more}",
        dir.join("state"),
        dir.join("node.sock")
    );
    std::fs::write(&path, text).expect("a file");
    path.display().to_string()
}

/// The real worker on a machine that has none of GStreamer's plugins.
fn worker_without_plugins(dir: &Path) -> PathBuf {
    let path = dir.join("worker");
    let script = format!(
        "#!/bin/sh\nexport GST_PLUGIN_SYSTEM_PATH_1_0=/nonexistent\nexec '{}' \"$@\"\n",
        bin("millrace-worker").display()
    );
    std::fs::write(&path, script).expect("a file");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("a program");
    path
}

#[tokio::test]
async fn a_missing_plugin_is_named_with_the_package_that_has_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let worker = worker_without_plugins(dir.path());
    let words = "GStreamer element avdec_h264 is missing: install the package gstreamer1.0-libav";

    let output = Command::new(bin("millrace"))
        .args(["hw", "--worker", &worker.display().to_string()])
        .env("XDG_CACHE_HOME", dir.path())
        .output()
        .expect("our programs run");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(69) && said.contains(words), "{:?}: {said}", output.status);

    let config = node_config(dir.path(), &format!("[workers]\nprogram = {worker:?}\n"));
    let mut node = Program::start("millrace-node", &["--config", &config], dir.path()).expect("a node");
    let socket = dir.path().join("node.sock");
    let told = node.wait_until(PATIENCE, async || {
        let status: NodeStatus = read_status(&socket).await.ok()?;
        status.workers.unfit.is_some().then_some(status)
    });
    let status = told.await.expect("a status");
    assert!(status.workers.unfit.as_ref().is_some_and(|reason| reason.contains(words)), "{status:?}");
    assert!(status.alarms.iter().any(|alarm| alarm.id == "ENC-PROBE-FAIL" && alarm.severity == "crit"), "{status:?}");
    assert_eq!(status.mode, "starting", "nothing is offered that was not proved");
    assert!(node.stop().expect("it ends").success());
}

#[test]
fn systemd_is_told_that_the_node_is_ready_alive_and_on_its_way_out() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("notify.sock");
    let systemd = UnixDatagram::bind(&path).expect("a socket");
    systemd.set_read_timeout(Some(PATIENCE)).expect("a time limit");
    let hear = |wanted: &str| {
        let mut buffer = [0; 4096];
        let mut heard = Vec::new();
        while !heard.iter().any(|line: &String| line == wanted) {
            let length = systemd.recv(&mut buffer).unwrap_or_else(|_| panic!("{wanted} was never said: {heard:?}"));
            let text = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned();
            heard.extend(text.lines().map(str::to_owned));
        }
        heard
    };
    let config = node_config(dir.path(), "");
    // The watchdog is meant for one process: systemd says which.
    let mut command = Command::new("sh");
    command.args(["-c", "export WATCHDOG_PID=$$; exec \"$0\" --config \"$1\""]).arg(bin("millrace-node")).arg(config);
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "900000").stderr(Stdio::null());
    let mut node = Killed(command.spawn().expect("a node"));
    assert!(!hear("READY=1").contains(&"STOPPING=1".to_owned()));
    hear("WATCHDOG=1");
    hear("WATCHDOG=1");
    kill(Pid::from_raw(i32::try_from(node.0.id()).expect("a process id")), Signal::SIGTERM).expect("it runs");
    hear("STOPPING=1");
    assert!(node.0.wait().expect("it ends").success());
}

/// A process that does not outlive its test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}
