//! A node on a board with silicon that does not work: it says so, leaves it alone, and serves with the processor.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::path::Path;

use millrace_hal::snapshot;
use service::status::{EngineStatus, NodeStatus};

use crate::node::peer::{Speak, Upload, data, discover};
use crate::node::{Node, film, ladder};

/// What a machine of `tests/hal` shows of itself, laid out.
fn machine(name: &str) -> tempfile::TempDir {
    let trees = Path::new(env!("CARGO_MANIFEST_DIR")).join("hal");
    let dir = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(trees.join(format!("{name}.tree"))).unwrap();
    snapshot::unpack(&text, dir.path()).unwrap();
    dir
}

fn config(root: &Path) -> String {
    format!(
        "[serve]\nlisten = \"127.0.0.1:0\"\n[workers]\nengines = [\"nvidia\", \"software\"]\n\
         [thermal]\nhardware_root = \"{}\"\nsample_s = 60\n",
        root.display()
    )
}

fn engine<'a>(status: &'a NodeStatus, name: &str) -> &'a EngineStatus {
    status.workers.engines.iter().find(|engine| engine.name == name).unwrap_or_else(|| panic!("{status:?}"))
}

#[tokio::test]
async fn an_engine_that_does_not_prove_itself_is_left_alone_and_told_of_and_the_processor_serves() {
    if Path::new("/dev/nvidia0").exists() {
        println!("there is an NVIDIA card here: this test needs a machine without one");
        return;
    }
    let (dir, board) = (tempfile::tempdir().unwrap(), machine("rtx-4090"));
    let node = Node::start(dir.path(), &config(board.path())).await;
    let token = discover(&node.uri).await.unwrap().auth_token.unwrap();
    let result = Upload::new(&token, 0, film(), &ladder()).send(&node.uri, Speak::Http2).await;
    assert_eq!(data(&result).segments.len(), 2);
    let status = node.status().await;
    assert_eq!(status.workers.engine, "software");
    for name in ["nvidia", "nvidia+software"] {
        let held = engine(&status, name);
        assert_eq!(held.state, "quarantined", "{held:?}");
        let reason = held.reason.as_deref().unwrap();
        assert!(reason.contains("nvh264") && reason.contains("gstreamer1.0-plugins-bad"), "{reason}");
        assert!(held.until > held.since, "{held:?}");
        let told = |alarm: &&service::status::Alarm| alarm.id == "ENC-PROBE-FAIL" && alarm.instance == name;
        assert_eq!(status.alarms.iter().find(told).unwrap().severity, "warn");
    }
    assert_eq!(engine(&status, "software").state, "in use");
    let untried = status.workers.engines.iter().all(|engine| engine.name != "va" || engine.state == "refused");
    assert!(untried, "what the operator left out is not tried: {status:?}");
    let book = std::fs::read_to_string(dir.path().join("state/engines.json")).unwrap();
    assert!(book.contains("quarantine") && book.contains("nvidia+software"), "{book}");
}
