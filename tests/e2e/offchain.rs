//! Off-chain, everything real: node, jailed workers, our own gateway, and what people type.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use millrace_tests::bins::bin;
use millrace_tests::cluster::{Program, free_port};
use millrace_tests::media;
use serde_json::Value;
use service::status::read_status;
use tokio::sync::{Mutex, MutexGuard};

/// How long a node may take until its first worker is ready, on a busy machine.
const START: Duration = Duration::from_secs(60);

/// Encoders take the whole machine and gateways have deadlines: one stream at a time.
pub(crate) static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// A running off-chain node in a directory of its own.
struct Node {
    _alone: MutexGuard<'static, ()>,
    dir: tempfile::TempDir,
    uri: String,
    /// Killed when dropped.
    program: Program,
}

impl Node {
    async fn start() -> Self {
        let alone = ONE_AT_A_TIME.lock().await;
        let dir = tempfile::tempdir().unwrap();
        let (state, socket) = (dir.path().join("state"), dir.path().join("node.sock"));
        let listen = format!("127.0.0.1:{}", free_port().unwrap());
        let config = format!("state_dir = {state:?}\nstatus_socket = {socket:?}\n[serve]\nlisten = {listen:?}\n");
        let file = dir.path().join("node.toml");
        std::fs::write(&file, config).unwrap();
        let mut program = Program::start("millrace-node", &["--config", text(&file)], dir.path()).unwrap();
        let running = async || read_status(&socket).await.ok().filter(|status| status.mode == "run");
        program.wait_until(START, running).await.unwrap();
        Self { _alone: alone, dir, uri: format!("https://{listen}"), program }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("node.sock")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_gets_a_ladder_that_plays_with_the_sound_untouched() {
    let mut node = Node::start().await;
    let out = node.dir.path().join("push");
    let report = push(&node, &media::bunny(), &out, &["--loop-to", "6s"]);
    assert_eq!((report["segments"].as_u64(), report["failed"].as_u64()), (Some(3), Some(0)), "{report:#}");
    assert_eq!(report["renditions"], 12);
    // 60 frames of each of the four sizes, three times.
    let frame = 426 * 240 + 640 * 360 + 854 * 480 + 1280 * 720;
    assert_eq!(report["pixels"], 3 * 60 * frame);
    for seq in 0..3 {
        let sound = media::audio_packets(&out.join(format!("in/{seq:05}.ts")));
        assert!(sound.len() > 80, "two seconds of AAC are more than eighty packets");
        for (profile, size) in [("240p", (426, 240)), ("360p", (640, 360)), ("480p", (854, 480)), ("720p", (1280, 720))]
        {
            let rendition = out.join(format!("out/{profile}/{seq:05}.ts"));
            let frames = media::frames(&rendition);
            assert_eq!(frames.len(), 60, "{}", rendition.display());
            assert!(frames.iter().all(|frame| (frame.width, frame.height) == size));
            assert_eq!(media::audio_packets(&rendition), sound, "{}", rendition.display());
            assert_eq!(media::complaints(&rendition), "");
        }
    }
    let master = std::fs::read_to_string(out.join("out/master.m3u8")).unwrap();
    assert_eq!(master.matches("#EXT-X-STREAM-INF:").count(), 4);
    assert!(master.contains("RESOLUTION=1280x720"));
    for profile in ["240p", "720p"] {
        let playlist = out.join(format!("out/{profile}.m3u8"));
        assert_eq!(media::frames(&playlist).len(), 180, "the whole rung plays");
    }
    // The node puts its status together once a second.
    let socket = node.socket();
    let counted = async || read_status(&socket).await.ok().filter(|status| status.segments.ok == 3);
    let status = node.program.wait_until(START, counted).await.unwrap();
    assert_eq!(status.segments.failed, 0);
    assert_eq!(Some(status.segments.pixels), report["pixels"].as_u64(), "node and gateway count the same");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_portrait_source_makes_portrait_renditions() {
    let node = Node::start().await;
    let out = node.dir.path().join("push");
    let clip = media::synthetic("portrait.ts", "360x640", "25", "2", true, &[]);
    let report = push(&node, &clip, &out, &["--profiles", "240p,360p"]);
    assert_eq!(report["failed"], 0, "{report:#}");
    let size = |profile: &str| {
        media::frames(&out.join(format!("out/{profile}/00000.ts"))).first().map(|f| (f.width, f.height))
    };
    assert_eq!(size("240p"), Some((240, 426)));
    assert_eq!(size("360p"), Some((360, 640)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_without_a_picture_costs_its_segments_and_blames_nobody() {
    let node = Node::start().await;
    // Whole packets of a real clip with the video's payload overwritten: framing is fine, nothing decodes.
    let mut bytes = std::fs::read(media::bunny()).unwrap();
    let demuxed = mpegts::demux(&bytes).unwrap();
    assert!(demuxed.video.is_some());
    for packet in bytes.chunks_exact_mut(188).skip(20) {
        let is_video = u16::from_be_bytes([packet[1] & 0x1f, packet[2]]) == 0x100;
        if is_video && packet[1] & 0x40 == 0 {
            packet[12..].fill(0xff);
        }
    }
    let clip = node.dir.path().join("noise.ts");
    std::fs::write(&clip, &bytes).unwrap();
    let out = node.dir.path().join("push");
    let output = millrace(&[
        "gateway",
        "push",
        text(&clip),
        "--orch",
        &node.uri,
        "--out",
        text(&out),
        "--pace",
        "max",
        "--profiles",
        "240p",
        "--json",
    ]);
    // Whatever the decoder made of it, the node is up and serves the next stream.
    assert!(matches!(output.status.code(), Some(0 | 1)), "{output:?}");
    let after = push(&node, &media::bunny(), &node.dir.path().join("after"), &["--profiles", "240p"]);
    assert_eq!((after["segments"].as_u64(), after["failed"].as_u64()), (Some(2), Some(0)), "{after:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_node_is_shown_to_people_and_to_programs() {
    let mut node = Node::start().await;
    let socket = node.socket();
    let table = millrace(&["status", "--socket", text(&socket)]);
    let shown = String::from_utf8_lossy(&table.stdout).into_owned();
    assert!(shown.contains("offchain") && shown.contains(&node.uri), "{shown}");
    let status = json(&millrace(&["status", "--socket", text(&socket), "--json"]));
    assert_eq!(status["mode"], "run");
    let offers = json(&millrace(&["gateway", "ask", "--orch", &node.uri, "--json"]));
    assert_eq!(offers[0]["price"], Value::Null, "off-chain work is free");
    node.program.stop().unwrap();
    let gone = millrace(&["status", "--socket", text(&socket)]);
    assert_eq!(gone.status.code(), Some(69));
    assert!(String::from_utf8_lossy(&gone.stderr).contains("systemctl start millrace-node"));
}

#[test]
fn a_file_is_transcoded_with_no_network_at_all() {
    let _alone = ONE_AT_A_TIME.blocking_lock();
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let clip = media::bunny();
    let program = bin("millrace");
    let args = ["transcode", text(&clip), "--profiles", "360p,720p", "-o", text(&out), "--json"];
    let output = if nix::unistd::geteuid().is_root() {
        Command::new("unshare").arg("-n").arg(&program).args(args).output().unwrap()
    } else {
        Command::new(&program).args(args).output().unwrap()
    };
    let summary = json(&output);
    assert_eq!(summary["source_frames"], 120);
    assert_eq!(summary["renditions"][1]["pixels"], 1280 * 720 * 120);
    let sound = media::audio_packets(&clip);
    for (profile, size) in [("360p", (640, 360)), ("720p", (1280, 720))] {
        let file = out.join(format!("{profile}.ts"));
        let frames = media::frames(&file);
        assert_eq!(frames.len(), 120);
        assert!(frames.iter().all(|frame| (frame.width, frame.height) == size));
        assert_eq!(media::audio_packets(&file), sound);
        assert_eq!(media::complaints(&file), "");
    }
    let names: Vec<_> = std::fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "nothing half-finished stays: {names:?}");
}

#[test]
fn what_encodes_here_is_proved_and_not_claimed() {
    let report = json(&millrace(&["hw", "--json"]));
    let has = |list: &Value, what: &str| list.as_array().unwrap().iter().any(|entry| entry == what);
    assert!(has(&report["worker"]["proved"], "encode-h264"), "{report:#}");
    assert!(has(&report["worker"]["layers"], "seccomp"), "{report:#}");
    assert_eq!(report["worker"]["engine"], "software");
    let engines = report["hardware"]["candidates"].as_array().unwrap();
    assert!(engines.iter().all(|engine| !engine["reason"].as_str().unwrap().is_empty()));
}

#[test]
fn bad_input_is_told_apart_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let mp4 = media::synthetic("short.mp4", "320x240", "25", "1", false, &[]);
    std::fs::write(path("noise.ts"), vec![0x5a; 40_000]).unwrap();
    let whole = std::fs::read(media::bunny()).unwrap();
    std::fs::write(path("headless.ts"), &whole[..188 * 4]).unwrap();
    let out = path("out");
    let transcode = |input: &Path| millrace(&["transcode", text(input), "--profiles", "240p", "-o", text(&out)]);
    let push = |input: &Path| {
        millrace(&["gateway", "push", text(input), "--orch", "https://127.0.0.1:1", "--out", text(&out)])
    };
    for (output, code, says) in [
        (transcode(&path("none.ts")), 66, "cannot read"),
        (transcode(&path("noise.ts")), 65, "neither MPEG-TS nor MP4"),
        (transcode(&path("headless.ts")), 65, "cannot transcode"),
        (millrace(&["transcode", "x.ts", "--profiles", "4711p", "-o", "y"]), 64, "no profile is called"),
        (millrace(&["transcode", text(&media::bunny()), "--profiles", "240p", "-o", "/proc/none"]), 73, "cannot write"),
        (push(&mp4), 65, "ffmpeg -i"),
        (push(&path("headless.ts")), 65, "no video"),
        (push(&media::bunny()), 69, "no orchestrator takes the stream"),
        (millrace(&["gateway", "push", "x.ts", "--orch", "nowhere"]), 64, "no service URI"),
        (millrace(&["frobnicate"]), 64, "unrecognized subcommand"),
    ] {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(says), "{said}");
    }
    let left: Vec<_> = std::fs::read_dir(&out).into_iter().flatten().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Pushes a clip as fast as it goes and returns the report.
fn push(node: &Node, clip: &Path, out: &Path, more: &[&str]) -> Value {
    let mut args =
        vec!["gateway", "push", text(clip), "--orch", &node.uri, "--out", text(out), "--pace", "max", "--json"];
    args.extend(more);
    json(&millrace(&args))
}

fn millrace(args: &[&str]) -> Output {
    Command::new(bin("millrace")).args(args).output().unwrap()
}

/// The JSON a command printed; fails with what it said when it failed.
fn json(output: &Output) -> Value {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", output.status);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of the tests are plain text")
}
