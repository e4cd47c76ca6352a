//! Updates from outside: the real program against servers that cut, lie and change their minds; killed at any point; and
//! every reason for which a release is refused. systemd's own part is played by scripts here and by itself in the image's tests.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

#[path = "update/install.rs"]
mod install;
#[path = "update/places.rs"]
mod places;
#[path = "update/release.rs"]
pub(crate) mod release;
#[path = "update/server.rs"]
pub(crate) mod server;

use std::process::Stdio;
use std::time::{Duration, Instant};

use fleet_protocol::patch::{MAGIC, Op};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::json;

use release::{BoxDir, Made, hash, noise};
use server::{Fault, Server};

const ROOT: usize = 3 << 20;

struct Scene {
    _dir: tempfile::TempDir,
    made: Made,
    here: BoxDir,
}

fn scene() -> Scene {
    let dir = tempfile::tempdir().unwrap();
    let made = Made::new(&dir.path().join("release"), "1.2.0", ROOT);
    let here = BoxDir::new(&dir.path().join("box"), "1.1.0");
    Scene { _dir: dir, made, here }
}

impl Scene {
    /// Stages from a server with this fault, on a thread of its own: the server runs on this one.
    async fn stage(&self, fault: Fault) -> (Option<i32>, String, Server) {
        let server = Server::start(&self.made.dir, fault).await;
        let (here, url) = (BoxDir(self.here.0.clone()), server.url());
        let (code, said) = tokio::task::spawn_blocking(move || here.stage(&url)).await.unwrap();
        (code, said, server)
    }
}

#[test]
fn a_release_is_staged_from_a_stick() {
    let scene = scene();
    let (code, said) = scene.here.stage(&scene.made.path().display().to_string());
    assert_eq!(code, Some(0), "{said}");
    scene.here.holds(&scene.made);
    let told = scene.here.json("var/lib/millrace-update/staged/progress.json");
    assert_eq!((&told["phase"], &told["version"]), (&json!("staged"), &json!("1.2.0")));
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_break_are_gone_on_from() {
    let scene = scene();
    let fault = Fault { cut_after: Some(900_000), unavailable: 1, ..Fault::default() };
    let (code, said, server) = scene.stage(fault).await;
    assert_eq!(code, Some(0), "{said}");
    scene.here.holds(&scene.made);
    let log = server.log.lock().unwrap();
    assert!(log.ranges >= 3, "{log:?}");
    // What came is not fetched again; a break loses what was on the wire at most.
    assert!(log.body_bytes < (ROOT + (400 << 10)) * 3 / 2, "{log:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_ranges_and_one_that_redirects_will_do() {
    for fault in [Fault { redirect: true, ..Fault::default() }, Fault { no_ranges: true, ..Fault::default() }] {
        let scene = scene();
        let (path, size) = scene.made.root();
        // Half of it is there from an earlier time.
        let half = &std::fs::read(scene.made.dir.join(&path)).unwrap()[..size / 2];
        std::fs::write(scene.here.staged().join(format!("{path}.part")), half).unwrap();
        let (code, said, _server) = scene.stage(fault).await;
        assert_eq!(code, Some(0), "{said}");
        scene.here.holds(&scene.made);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_power_cut_spoiled_is_fetched_anew() {
    let scene = scene();
    let (path, size) = scene.made.root();
    std::fs::write(scene.here.staged().join(format!("{path}.part")), vec![0; size / 3]).unwrap();
    let (code, said, _server) = scene.stage(Fault::default()).await;
    assert_eq!(code, Some(0), "{said}");
    scene.here.holds(&scene.made);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_lies_is_caught_each_time_with_its_own_word() {
    let other = noise(9, scene().made.root().1);
    let cut = Some(1_000_000);
    for (fault, word) in [
        (Fault { length: Some(17), ..Fault::default() }, "the server has 17 bytes, the manifest says"),
        (Fault { longer: 100_000, ..Fault::default() }, "sent more than the"),
        (
            Fault { cut_after: cut, other: Some(other.clone()), ..Fault::default() },
            "its hash is not the one in the manifest",
        ),
        (
            Fault { cut_after: cut, other: Some(other), secretly: true, ..Fault::default() },
            "its hash is not the one in the manifest",
        ),
        (Fault { cut_after: cut, wrong_start: true, ..Fault::default() }, "its hash is not the one in the manifest"),
    ] {
        let scene = scene();
        let (code, said, _server) = scene.stage(fault.clone()).await;
        assert_eq!(code, Some(1), "{fault:?}: {said}");
        assert!(said.contains(word), "{word}: {said}");
        let told = scene.here.json("var/lib/millrace-update/staged/progress.json");
        assert!(told["phase"] == "failed" && told["reason"].as_str().unwrap().contains(word), "{told}");
        assert!(!scene.here.staged().join(&scene.made.artifacts[1].0).exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_it_goes_on_and_ends_with_the_same_bytes() {
    let scene = scene();
    let server = Server::start(&scene.made.dir, Fault::default()).await;
    let seed = 20_261_122;
    let mut chance = StdRng::seed_from_u64(seed);
    let mut killed = 0;
    for round in 0.. {
        let args = ["stage", "--manifest", &server.url(), "--rate-mbit", "24", "--delta", "never"];
        let mut child = scene.here.command(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let until = Instant::now() + Duration::from_millis(chance.gen_range(20..450));
        let ended = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break Some(status);
            }
            if Instant::now() >= until && round < 12 {
                child.kill().unwrap();
                child.wait().unwrap();
                break None;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        match ended {
            Some(status) => {
                assert!(status.success(), "round {round}, seed {seed}");
                break;
            }
            None => killed += 1,
        }
        // At no time is there a file with its final name that is not right.
        for (name, bytes) in &scene.made.artifacts {
            if let Ok(found) = std::fs::read(scene.here.staged().join(name)) {
                assert!(found == *bytes, "{name} after {killed} kills, seed {seed}");
            }
        }
    }
    assert!(killed >= 3, "it was too quick to be killed: {killed}");
    scene.here.holds(&scene.made);
    let log = server.log.lock().unwrap();
    assert!(log.starts.is_sorted() && log.starts.last() > Some(&0), "not gone on from: {log:?}");
}

#[test]
fn each_release_that_may_not_come_is_refused_with_its_own_reason() {
    type Change = fn(&mut Scene);
    let cases: [(&str, Change); 14] = [
        ("1 of 2 needed keys signed", |scene| scene.made.sign(&[1])),
        ("1 of 2 needed keys signed", |scene| scene.made.sign(&[1, 9])),
        ("signature by key", |scene| {
            let text = std::fs::read_to_string(scene.made.path()).unwrap();
            let signature = text.find("\"sig\":\"").unwrap() + 8;
            let mut bytes = text.into_bytes();
            bytes[signature] = if bytes[signature] == b'A' { b'B' } else { b'A' };
            std::fs::write(scene.made.path(), bytes).unwrap();
        }),
        ("envelope has the wrong shape", |scene| std::fs::write(scene.made.path(), "{}").unwrap()),
        ("is larger than 65536 bytes", |scene| std::fs::write(scene.made.path(), vec![b' '; 70_000]).unwrap()),
        ("expired", |scene| scene.made.manifest["exp"] = json!(1_700_000_000_001_i64)),
        ("is below the floor 1.3.0", |scene| scene.here.put("var/lib/millrace-update/floor", "1.3.0\n")),
        ("the floor in", |scene| scene.here.put("var/lib/millrace-update/floor", "x")),
        ("is refused on this box: it did not boot", |scene| {
            scene.here.put("var/lib/millrace-update/refused.json", "{\"1.2.0\": \"it did not boot\"}");
        }),
        ("is not above the running 1.2.0", |scene| {
            BoxDir::new(&scene.here.0, "1.2.0");
        }),
        ("release is for processor riscv64", |scene| scene.made.manifest["arch"] = json!("riscv64")),
        ("release is for profile jetson", |scene| scene.made.manifest["profile"] = json!("jetson")),
        ("release is for channel beta, this box is stable", |scene| scene.made.manifest["channel"] = json!("beta")),
        ("the clock shows a time before this image was made", |scene| {
            let later = std::time::UNIX_EPOCH + Duration::from_secs(4_100_000_000);
            std::fs::File::open(scene.here.0.join("etc/os-release")).unwrap().set_modified(later).unwrap();
        }),
    ];
    for (word, change) in cases {
        let mut scene = scene();
        let before = scene.made.manifest.clone();
        change(&mut scene);
        if scene.made.manifest != before {
            scene.made.sign(&[2, 3]);
        }
        let (code, said) = scene.here.stage(&scene.made.path().display().to_string());
        let expected = if word.contains("larger than") { 70 } else { 1 };
        assert_eq!(code, Some(expected), "{word}: {said}");
        assert!(said.contains(word), "{word}: {said}");
        for (name, _) in &scene.made.artifacts {
            assert!(!scene.here.staged().join(name).exists(), "{word}: {name} was fetched");
        }
    }
}

#[test]
fn an_artifact_that_is_not_what_was_signed_is_refused() {
    // A packed file that was changed, one that unpacks to more, to less, and to something else.
    let repack = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
    let right = noise(2, ROOT);
    let cases: [(&str, Vec<u8>); 4] = [
        ("unpacks to more than", repack(&[right.clone(), vec![0; 1 << 20]].concat())),
        ("unpacks to", repack(&right[..ROOT - 1])),
        ("unpacked, has not the hash", repack(&noise(5, ROOT))),
        ("is not packed as the manifest says", noise(6, ROOT)),
    ];
    for (word, packed) in cases {
        let mut scene = scene();
        let (path, _) = scene.made.root();
        std::fs::write(scene.made.dir.join(&path), &packed).unwrap();
        // Signed by mistake: the manifest fits the file, not the artifact.
        scene.made.manifest["artifacts"][1]["packed"] =
            json!({"path": path, "size": packed.len(), "sha256": hash(&packed)});
        scene.made.sign(&[1, 2]);
        let (code, said) = scene.here.stage(&scene.made.path().display().to_string());
        assert_eq!(code, Some(1), "{word}: {said}");
        assert!(said.contains(word), "{word}: {said}");
        assert!(!scene.here.staged().join(&scene.made.artifacts[1].0).exists());
    }
    let scene = scene();
    let (path, size) = scene.made.root();
    std::fs::write(scene.made.dir.join(path), vec![1; size]).unwrap();
    let (code, said) = scene.here.stage(&scene.made.path().display().to_string());
    assert!(code == Some(1) && said.contains("its hash is not the one in the manifest"), "{said}");
}

#[test]
fn a_patch_against_the_running_slot_gives_the_same_bytes_and_the_whole_file_is_there_if_not() {
    use std::io::Write as _;
    let mut scene = scene();
    // The running root is the new one but for a few pages, in a slot that is larger than it.
    let mut old = noise(2, ROOT);
    old[100_000..140_000].fill(7);
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
    encoder.write_all(&MAGIC).unwrap();
    let new = noise(2, ROOT);
    Op::Copy { from: 0, length: 100_000 }.write(&mut encoder).unwrap();
    Op::Data { length: 40_000 }.write(&mut encoder).unwrap();
    encoder.write_all(&new[100_000..140_000]).unwrap();
    Op::Copy { from: 140_000, length: (ROOT - 140_000) as u64 }.write(&mut encoder).unwrap();
    Op::End.write(&mut encoder).unwrap();
    let patch = encoder.finish().unwrap();
    assert!(patch.len() < ROOT / 10, "{}", patch.len());
    std::fs::write(scene.made.dir.join("root.delta.zst"), &patch).unwrap();
    scene.made.manifest["artifacts"][1]["deltas"] = json!([{"from": "1.1.0", "from_size": old.len(), "from_sha256": hash(&old),
        "path": "root.delta.zst", "size": patch.len(), "sha256": hash(&patch)}]);
    scene.made.sign(&[1, 2]);
    // Without the whole file only the patch can have done it.
    let (path, _) = scene.made.root();
    let whole = std::fs::read(scene.made.dir.join(&path)).unwrap();
    std::fs::remove_file(scene.made.dir.join(&path)).unwrap();
    scene.here.put("dev/mapper/x", "");
    std::fs::write(scene.here.0.join("dev/mapper/root"), [old.clone(), vec![0; 4096]].concat()).unwrap();
    let manifest = scene.made.path().display().to_string();
    let output = scene.here.run(&["stage", "--manifest", &manifest, "--delta", "always"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    scene.here.holds(&scene.made);

    // Another slot: the patch does not fit, and the whole file is fetched.
    std::fs::write(scene.made.dir.join(&path), whole).unwrap();
    std::fs::remove_file(scene.here.staged().join(&scene.made.artifacts[1].0)).unwrap();
    old[0] ^= 1;
    std::fs::write(scene.here.0.join("dev/mapper/root"), &old).unwrap();
    let output = scene.here.run(&["stage", "--manifest", &manifest, "--delta", "always"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("the running slot is not what the patch was made for"), "{said}");
    scene.here.holds(&scene.made);
}
