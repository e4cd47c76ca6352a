//! From staged to installed, and what is made of a version afterwards.

use std::path::Path;
use std::time::Duration;

use millrace_tests::bins::bin;
use millrace_tests::cluster::Program;
use serde_json::json;
use service::status::{NodeStatus, serve_status};
use tokio::sync::watch;

use super::release::BoxDir;
use super::{Scene, scene};
use crate::node::Node;

/// A scene with the release staged, and scripts in place of systemd.
fn staged() -> (Scene, String, String) {
    let scene = scene();
    let (code, said) = scene.here.stage(&scene.made.path().display().to_string());
    assert_eq!(code, Some(0), "{said}");
    let (systemctl, sysupdate) = (scene.here.stand_in("systemctl", ""), scene.here.stand_in("sysupdate", ""));
    (scene, systemctl, sysupdate)
}

fn install(here: &BoxDir, more: &[&str]) -> (Option<i32>, String) {
    let (systemctl, sysupdate) = (here.0.join("systemctl"), here.0.join("sysupdate"));
    let mut command = here.command(&["install", "1.2.0"]);
    command.arg("--systemctl").arg(systemctl).arg("--sysupdate").arg(sysupdate).args(more);
    let output = command.output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

const DRAIN: &str = "kill --kill-whom=main --signal SIGUSR1 millrace-node.service";
const RESUME: &str = "kill --kill-whom=main --signal SIGUSR2 millrace-node.service";

#[test]
fn a_staged_version_is_installed_written_down_and_started() {
    let (scene, ..) = staged();
    let (code, said) = install(&scene.here, &[]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(scene.here.calls("sysupdate"), ["update 1.2.0"]);
    assert_eq!(scene.here.calls("systemctl"), [DRAIN, "reboot"]);
    let pending = scene.here.json("var/lib/millrace-update/pending.json");
    assert_eq!(
        (&pending["from"], &pending["to"], &pending["boot_id"]),
        (&json!("1.1.0"), &json!("1.2.0"), &json!("first"))
    );
    // Twice is once.
    let (code, said) = install(&scene.here, &[]);
    assert!(code == Some(1) && said.contains("waits for its outcome already"), "{said}");
    assert_eq!(scene.here.calls("sysupdate").len(), 1);
}

#[test]
fn what_changed_since_it_was_staged_is_not_installed() {
    let (scene, ..) = staged();
    let root = scene.here.staged().join(&scene.made.artifacts[1].0);
    let mut bytes = std::fs::read(&root).unwrap();
    bytes[1_000_000] ^= 1;
    std::fs::write(&root, bytes).unwrap();
    let (code, said) = install(&scene.here, &[]);
    assert!(code == Some(1) && said.contains("is not what was signed"), "{said}");
    assert!(scene.here.calls("sysupdate").is_empty());
    assert_eq!(scene.here.calls("systemctl"), [DRAIN, RESUME]);
    assert_eq!(scene.here.json("var/lib/millrace-update/results.json")[0]["became"], "failed");
    assert!(!scene.here.0.join("var/lib/millrace-update/pending.json").exists());
}

#[test]
fn what_was_refused_meanwhile_or_never_staged_disturbs_nobody() {
    let (scene, ..) = staged();
    assert!(scene.here.run(&["refuse", "1.2.0", "--reason", "recalled"]).status.success());
    let (code, said) = install(&scene.here, &[]);
    assert!(code == Some(1) && said.contains("recalled"), "{said}");
    let bare = super::scene();
    let (code, said) = install(&bare.here, &[]);
    assert!(code == Some(1) && said.contains("nothing is staged"), "{said}");
    assert!(scene.here.calls("systemctl").is_empty() && bare.here.calls("systemctl").is_empty());
}

#[test]
fn an_updater_that_fails_leaves_the_box_as_it_was() {
    let (scene, ..) = staged();
    scene.here.stand_in("sysupdate", "echo 'no empty partition' >&2; exit 1");
    let (code, said) = install(&scene.here, &[]);
    assert!(code == Some(69) && said.contains("no empty partition"), "{said}");
    assert_eq!(scene.here.calls("systemctl"), [DRAIN, RESUME]);
    assert!(!scene.here.0.join("var/lib/millrace-update/pending.json").exists());
}

/// A node of whom only the status is there.
fn speak(socket: &Path, status: NodeStatus) -> (watch::Sender<NodeStatus>, tokio::task::JoinHandle<()>) {
    let (publish, told) = watch::channel(status);
    let path = socket.to_owned();
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let serving = tokio::spawn(async move {
        let _ = serve_status(&path, told).await;
    });
    (publish, serving)
}

fn busy(sessions: u32, submitted: u64) -> NodeStatus {
    let mut status = NodeStatus { mode: "run".to_owned(), ..NodeStatus::default() };
    status.sessions.active = sessions;
    status.money.tickets_submitted = submitted;
    status
}

async fn until(what: impl Fn() -> bool) {
    let since = std::time::Instant::now();
    while !what() {
        assert!(since.elapsed() < Duration::from_secs(60), "it never happened");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_while_a_stream_runs_or_a_redemption_is_under_way() {
    let (scene, ..) = staged();
    let socket = scene.here.0.join("run/millrace/node.sock");
    let (publish, serving) = speak(&socket, busy(2, 0));
    until(|| socket.exists()).await;
    let here = BoxDir(scene.here.0.clone());
    let installing = tokio::task::spawn_blocking(move || install(&here, &[]));
    until(|| scene.here.calls("systemctl") == [DRAIN]).await;
    // The stream ends, and a redemption is still on its way: several looks long.
    publish.send(busy(0, 1)).unwrap();
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert!(scene.here.calls("sysupdate").is_empty());
    publish.send(busy(0, 0)).unwrap();
    let (code, said) = installing.await.unwrap();
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(scene.here.calls("sysupdate"), ["update 1.2.0"]);
    serving.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_taken_back_while_it_waits_installs_nothing_and_may_come_again() {
    let (scene, systemctl, sysupdate) = staged();
    let socket = scene.here.0.join("run/millrace/node.sock");
    let (publish, serving) = speak(&socket, busy(2, 0));
    until(|| socket.exists()).await;
    let request = scene.here.0.join("install.json");
    let ask = |version: &str| {
        let text = json!({"id": "019ab000-0000-7000-8000-000000000001", "version": version}).to_string();
        std::fs::write(&request, text).unwrap();
        let mut command = scene.here.command(&["install", "--systemctl", &systemctl, "--sysupdate", &sysupdate]);
        command.arg("--request").arg(&request);
        tokio::task::spawn_blocking(move || {
            let output = command.output().unwrap();
            (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
        })
    };
    let installing = ask("1.2.0");
    until(|| scene.here.calls("systemctl") == [DRAIN]).await;
    std::fs::remove_file(&request).unwrap();
    let (code, said) = installing.await.unwrap();
    assert!(code == Some(1) && said.contains("the request was taken back"), "{said}");
    assert_eq!(scene.here.calls("systemctl"), [DRAIN, RESUME]);
    assert!(scene.here.calls("sysupdate").is_empty());
    assert!(!scene.here.0.join("var/lib/millrace-update/results.json").exists());
    // Of a request that can come to nothing, whoever asked hears.
    let (code, said) = ask("1.3.0").await.unwrap();
    assert!(code == Some(1) && said.contains("version 1.2.0 is staged, not 1.3.0"), "{said}");
    assert_eq!(scene.here.json("var/lib/millrace-update/results.json")[0]["became"], "failed");
    publish.send(busy(0, 0)).unwrap();
    let (code, said) = ask("1.2.0").await.unwrap();
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(scene.here.calls("sysupdate"), ["update 1.2.0"]);
    serving.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_box_that_is_never_quiet_is_left_to_its_streams_unless_told_otherwise() {
    let (scene, ..) = staged();
    let socket = scene.here.0.join("run/millrace/node.sock");
    let (_publish, serving) = speak(&socket, busy(1, 0));
    until(|| socket.exists()).await;
    let here = BoxDir(scene.here.0.clone());
    let (code, said) = tokio::task::spawn_blocking(move || install(&here, &["--deadline-s", "1"])).await.unwrap();
    assert!(code == Some(69) && said.contains("1 sessions, 0 segments, 0 redemptions under way"), "{said}");
    assert_eq!(scene.here.calls("systemctl"), [DRAIN, RESUME]);
    assert_eq!(scene.here.json("var/lib/millrace-update/results.json")[0]["became"], "deferred");
    let here = BoxDir(scene.here.0.clone());
    let go = ["--deadline-s", "0", "--at-deadline", "go"];
    let (code, said) = tokio::task::spawn_blocking(move || install(&here, &go)).await.unwrap();
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(scene.here.calls("sysupdate"), ["update 1.2.0"]);
    serving.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gate_opens_for_a_node_that_really_works_and_for_nothing_less() {
    let dir = tempfile::tempdir().unwrap();
    let here = BoxDir::new(&dir.path().join("box"), "1.2.0");
    let ask = |socket: &Path, more: &[&str]| {
        let mut args = vec!["health", "--json", "--deadline-s", "0", "--node-socket", socket.to_str().unwrap()];
        args.extend(more);
        let output = here.run(&args);
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let failed: Vec<String> = report["checks"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|check| check["ok"] == false)
            .map(|check| check["name"].as_str().unwrap().to_owned())
            .collect();
        (output.status.code(), failed)
    };
    let nobody = dir.path().join("nobody.sock");
    let down = ["node", "worker", "ledger", "signer"].map(str::to_owned).to_vec();
    assert_eq!(ask(&nobody, &[]), (Some(1), down));

    let config = "[serve]\nlisten = \"127.0.0.1:0\"\nservice_uri = \"https://127.0.0.1:8935\"\n";
    let node = Node::start(dir.path(), config).await;
    let socket = dir.path().join("node.sock");
    assert_eq!(ask(&socket, &[]), (Some(0), vec![]));
    assert_eq!(ask(&socket, &["--expected", "9.9.9"]), (Some(1), vec!["node".to_owned()]));
    let last = here.json("var/lib/millrace-update/health/last.json");
    assert_eq!((&last["version"], &last["healthy"]), (&json!("1.2.0"), &json!(false)));
    drop(node);
    assert_eq!(ask(&socket, &[]).0, Some(1));
}

/// An outage at the site must not roll back a fleet: nothing answers where the chain should be, and the gate opens.
#[test]
fn the_gate_opens_without_a_chain_and_stays_shut_without_a_signer() {
    let dir = tempfile::tempdir().unwrap();
    let here = BoxDir::new(&dir.path().join("box"), "1.2.0");
    let path = |name: &str| dir.path().join(name);
    let (keystore, password) = (path("hot.json"), path("hot.password"));
    let mut init = std::process::Command::new(bin("millrace-signer"));
    init.arg("init").arg("--light").arg("--keystore").arg(&keystore).arg("--password-file").arg(&password);
    assert!(init.output().unwrap().status.success());
    let nobody = "0x1a642f0E3c3aF545E7AcBD38b07251B3990914F1";
    let signer = format!(
        "socket = {:?}\nallowed_users = [{}]\nkeystore = {keystore:?}\npassword_file = {password:?}\nstate_dir = {:?}\n\
         [chain]\nchain_id = 31337\nrecipient = \"{nobody}\"\nticket_broker = \"{nobody}\"\n",
        path("signer.sock"),
        nix::unistd::geteuid(),
        path("signer"),
    );
    let node = format!(
        "state_dir = {:?}\nstatus_socket = {:?}\nsigner_socket = {:?}\n[serve]\nlisten = \"127.0.0.1:0\"\n\
         service_uri = \"https://127.0.0.1:8935\"\n[payment]\nprice_per_pixel = \"1\"\n[chain]\nrpc = [\"http://127.0.0.1:1\"]\n\
         controller = \"{nobody}\"\nchain_id = 31337\nrecipient = \"{nobody}\"\n",
        path("node"),
        path("node.sock"),
        path("signer.sock"),
    );
    std::fs::create_dir_all(path("signer")).unwrap();
    std::fs::write(path("signer.toml"), signer).unwrap();
    std::fs::write(path("node.toml"), node).unwrap();
    let start = |program: &str| {
        let config = path(&format!("{}.toml", program.trim_start_matches("millrace-")));
        Program::start(program, &["--config", config.to_str().unwrap()], dir.path()).unwrap()
    };
    let signer = start("millrace-signer");
    let _node = start("millrace-node");
    let (socket, signer_socket) = (path("node.sock"), path("signer.sock"));
    let ask = |deadline: &str| {
        let (node, signer) = (socket.to_str().unwrap(), signer_socket.to_str().unwrap());
        here.run(&["health", "--deadline-s", deadline, "--node-socket", node, "--signer-socket", signer])
    };
    let output = ask("90");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("starting") && said.contains("answers for 0x"), "{said}");
    drop(signer);
    let said = String::from_utf8_lossy(&ask("0").stdout).into_owned();
    assert!(said.lines().any(|line| line.starts_with("signer") && line.contains("FAIL")), "{said}");
}

#[test]
fn a_failed_trial_gives_up_a_try_and_a_blessed_version_stays_up_and_does_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let here = BoxDir::new(&dir.path().join("box"), "1.2.0");
    let systemctl = here.stand_in("systemctl", "");
    let variable = "sys/firmware/efi/efivars/LoaderBootCountPath-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";
    let path: Vec<u8> = "\\EFI\\Linux\\millrace_1.2.0+2-1.efi\0".encode_utf16().flat_map(u16::to_le_bytes).collect();
    here.put(variable, "");
    std::fs::write(here.0.join(variable), [&[6, 0, 0, 0][..], &path].concat()).unwrap();
    here.put("boot/EFI/Linux/millrace_1.2.0+2-1.efi", "kernel");
    assert!(here.run(&["trial-failed", "--systemctl", &systemctl]).status.success());
    assert_eq!(here.calls("systemctl"), ["reboot"]);
    assert!(!here.0.join("run/millrace-update/safe-mode").exists());

    std::fs::remove_file(here.0.join("boot/EFI/Linux/millrace_1.2.0+2-1.efi")).unwrap();
    assert!(here.run(&["trial-failed", "--systemctl", &systemctl]).status.success());
    assert_eq!(here.calls("systemctl")[1], "stop millrace-node.service millrace-signer.service");
    assert!(here.0.join("run/millrace-update/safe-mode").exists());
    assert_eq!(here.json("var/lib/millrace-update/results.json")[0]["became"], "safe-mode");
}

#[test]
fn the_program_explains_itself() {
    let help = std::process::Command::new(bin("millrace-update")).arg("--help").output().unwrap();
    let text = String::from_utf8_lossy(&help.stdout);
    for command in ["stage", "install", "status", "refuse", "outcome", "health", "trial-failed"] {
        assert!(text.contains(command), "{command} is missing: {text}");
    }
}
