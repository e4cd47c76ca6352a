//! Boxes that transcode for others: two nodes on loopback, one attached to the other; and the links alone, in this
//! process, when orchestrators come and go.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

#[path = "remote/links.rs"]
mod links;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use millrace_tests::bins::bin;
use millrace_tests::cluster::{Program, free_port};
use millrace_tests::media;
use nix::sys::signal::Signal;
use serde_json::Value;
use service::status::{NodeStatus, read_status};

use crate::offchain::ONE_AT_A_TIME;

/// How long something may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// What both sides know.
const SECRET: &str = "the boxes know it";

/// A running node in a directory of its own; killed when dropped.
struct Node {
    dir: tempfile::TempDir,
    program: Program,
}

impl Node {
    async fn start(role: &str) -> Self {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let secret = dir.path().join("secret");
        std::fs::write(&secret, format!("{SECRET}\n")).unwrap();
        std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
        let (state, socket) = (dir.path().join("state"), dir.path().join("node.sock"));
        let role = role.replace("SECRET", &format!("secret_file = {secret:?}"));
        let file = dir.path().join("node.toml");
        std::fs::write(&file, format!("state_dir = {state:?}\nstatus_socket = {socket:?}\n{role}")).unwrap();
        let program = Program::start("millrace-node", &["--config", text(&file)], dir.path()).unwrap();
        Self { dir, program }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("node.sock")
    }

    async fn until(&mut self, what: impl Fn(&NodeStatus) -> bool) -> NodeStatus {
        let socket = self.socket();
        let told = async || read_status(&socket).await.ok().filter(|status| what(status));
        self.program.wait_until(PATIENCE, told).await.unwrap()
    }
}

/// An orchestrator and a transcoder that has attached to it.
async fn pair() -> (Node, String, Node) {
    let listen = format!("127.0.0.1:{}", free_port().unwrap());
    let mut orchestrator = Node::start(&format!("[serve]\nlisten = {listen:?}\n[remote]\nSECRET\n")).await;
    let role = format!("[transcoder]\nSECRET\n[[transcoder.orchestrators]]\naddress = {listen:?}\n");
    let mut transcoder = Node::start(&role).await;
    orchestrator.until(|status| status.mode == "run" && status.transcoders.len() == 1).await;
    transcoder.until(|status| status.orchestrators.first().is_some_and(|link| link.state == "attached")).await;
    (orchestrator, format!("https://{listen}"), transcoder)
}

fn start_push(uri: &str, out: &Path, more: &[&str]) -> Child {
    let mut command = Command::new(bin("millrace"));
    command.args(["gateway", "push", text(&media::bunny()), "--orch", uri, "--out", text(out)]);
    command.args(["--profiles", "240p,360p", "--json"]).args(more);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn report(push: Child) -> Value {
    let output = push.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", output.status);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"))
}

/// Does this process have a TCP socket that listens?
fn listens(pid: u32) -> bool {
    const LISTEN: &str = "0A";
    let tables = ["tcp", "tcp6"].map(|table| std::fs::read_to_string(format!("/proc/{pid}/net/{table}")));
    let tables = tables.into_iter().flatten().collect::<String>();
    let fields = tables.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let inodes: Vec<_> = fields
        .filter(|fields| fields.get(3) == Some(&LISTEN))
        .filter_map(|fields| fields.get(9).map(|inode| format!("socket:[{inode}]")))
        .collect();
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let names = open.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
    names.into_iter().any(|name| inodes.iter().any(|inode| name == Path::new(inode)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_box_without_a_port_does_the_work_and_its_death_costs_no_segment() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let (mut orchestrator, uri, mut transcoder) = pair().await;
    assert!(listens(orchestrator.program.pid()) && !listens(transcoder.program.pid()), "nothing dials the box");

    let out = orchestrator.dir.path().join("push");
    let first = report(start_push(&uri, &out, &["--pace", "max", "--loop-to", "6s"]));
    assert_eq!((first["segments"].as_u64(), first["failed"].as_u64()), (Some(3), Some(0)), "{first:#}");
    assert_eq!(first["pixels"], 3 * 60 * (426 * 240 + 640 * 360));
    for (profile, size) in [("240p", (426, 240)), ("360p", (640, 360))] {
        let rendition = out.join(format!("out/{profile}/00001.ts"));
        let frames = media::frames(&rendition);
        assert!(frames.len() == 60 && frames.iter().all(|frame| (frame.width, frame.height) == size));
        let sound = media::audio_packets(&out.join("in/00001.ts"));
        assert_eq!(media::audio_packets(&rendition), sound, "the sound is untouched by the detour");
        assert_eq!(media::complaints(&rendition), "");
    }
    let theirs = transcoder.until(|status| status.orchestrators[0].segments_ok == 3).await;
    assert_eq!((theirs.network.as_str(), theirs.segments.ok, theirs.segments.failed), ("transcoder", 3, 0));
    let ours = orchestrator.until(|status| status.segments.ok == 3).await;
    assert_eq!(ours.transcoders[0].segments_ok, 3, "{ours:?}");
    assert_eq!(ours.segments.pixels, theirs.segments.pixels, "both count the same pixels");
    for (node, words) in [(&orchestrator, "127.0.0.1"), (&transcoder, "attached")] {
        let shown = Command::new(bin("millrace")).args(["status", "--socket", text(&node.socket())]).output().unwrap();
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        assert!(shown.contains(words), "{shown}");
    }

    let out = orchestrator.dir.path().join("again");
    let push = start_push(&uri, &out, &["--pace", "realtime", "--loop-to", "10s"]);
    transcoder.until(|status| status.orchestrators[0].segments_ok >= 4).await;
    transcoder.program.kill().unwrap();
    let second = report(push);
    assert_eq!((second["segments"].as_u64(), second["failed"].as_u64()), (Some(5), Some(0)), "{second:#}");
    orchestrator.until(|status| status.transcoders.is_empty() && status.segments.ok == 8).await;
    assert!(orchestrator.program.stop().unwrap().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_box_that_hangs_is_benched_and_costs_no_segment() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let (mut orchestrator, uri, transcoder) = pair().await;
    transcoder.program.signal(Signal::SIGSTOP).unwrap();
    for round in 0..2 {
        let out = orchestrator.dir.path().join(format!("push-{round}"));
        let report = report(start_push(&uri, &out, &["--pace", "max", "--loop-to", "4s"]));
        assert_eq!((report["segments"].as_u64(), report["failed"].as_u64()), (Some(2), Some(0)), "{report:#}");
    }
    let status = orchestrator.until(|status| status.segments.ok == 4).await;
    let hung = &status.transcoders[0];
    assert_eq!((hung.standing.as_str(), hung.segments_failed, hung.segments_ok), ("benched", 2, 0), "{hung:?}");
    transcoder.program.signal(Signal::SIGCONT).unwrap();
}

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of the tests are plain text")
}
