//! Where a box stands changes what the updater does: behind a proxy, and beside a TPM that remembers.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::release::BoxDir;
use super::server::{Fault, Server};
use super::{Scene, scene};

/// A proxy that knows one name, and counts who asked for it.
async fn proxy(name: &'static str) -> (u16, Arc<AtomicU32>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, count) = (listener.local_addr().unwrap().port(), Arc::new(AtomicU32::new(0)));
    let counted = Arc::clone(&count);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let counted = Arc::clone(&counted);
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(client.read_u8().await.unwrap());
                }
                let head = String::from_utf8(head).unwrap();
                let Some(port) = head.strip_prefix(&format!("CONNECT {name}:")).and_then(|rest| rest.split(' ').next())
                else {
                    client.write_all(b"HTTP/1.1 403 Forbidden\r\n\r\n").await.unwrap();
                    return;
                };
                counted.fetch_add(1, Ordering::Relaxed);
                let mut server = TcpStream::connect(("127.0.0.1", port.parse::<u16>().unwrap())).await.unwrap();
                client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    (port, count)
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_proxy_a_release_is_fetched_through_it_and_through_nothing_else() {
    let Scene { _dir, made, here } = scene();
    let server = Server::start(&made.dir, Fault::default()).await;
    // A name that only the proxy knows.
    let url = server.url().replace("127.0.0.1", "releases.invalid");
    let (port, asked) = proxy("releases.invalid").await;
    let proxy = format!("http://127.0.0.1:{port}");
    here.put("var/lib/millrace-site/update.json", &format!(r#"{{"channel":"stable","proxy":"{proxy}"}}"#));
    let (code, said) = {
        let here = BoxDir(here.0.clone());
        tokio::task::spawn_blocking(move || here.stage(&url)).await.unwrap()
    };
    assert_eq!(code, Some(0), "{said}");
    here.holds(&made);
    assert!(asked.load(Ordering::Relaxed) >= 2, "manifest and artifacts came through it");
}

/// A software TPM with its memory in a directory.
struct Tpm(Child, PathBuf);

impl Tpm {
    /// In the tool root, whose `/out` is `out`.
    fn start(out: &Path, name: &str) -> Self {
        let dir = out.join(name);
        std::fs::create_dir_all(&dir).unwrap();
        let socket = dir.join("socket");
        let _ = std::fs::remove_file(&socket);
        let inside = format!("/out/{}/{name}", out.file_name().unwrap().to_string_lossy());
        let child = Command::new(millrace_tests::media::repository().join("image/in-tools.sh"))
            .args(["swtpm", "socket", "--tpm2", "--flags", "not-need-init,startup-clear", "--tpmstate"])
            .args([format!("dir={inside}"), "--server".to_owned(), format!("type=unixio,path={inside}/socket")])
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut this = Self(child, socket);
        let until = Instant::now() + Duration::from_secs(60);
        while !this.1.exists() {
            if let Some(status) = this.0.try_wait().unwrap() {
                let mut said = String::new();
                this.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
                panic!("swtpm ended with {status}: {said}");
            }
            assert!(Instant::now() < until, "swtpm does not listen");
            std::thread::yield_now();
        }
        this
    }
}

impl Drop for Tpm {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_disk_image_put_back_does_not_lower_the_floor_that_the_tpm_keeps() {
    let repo = millrace_tests::media::repository();
    if !repo.join(".tools/image-root/usr/bin/swtpm").exists() {
        println!("skipped: swtpm is not there (./setup.sh --image)");
        return;
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| repo.join("target"), PathBuf::from).join("image");
    std::fs::create_dir_all(&target).unwrap();
    let out = tempfile::Builder::new().prefix("floor-").tempdir_in(&target).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let here = BoxDir::new(&dir.path().join("box"), "1.1.0");
    let device = here.0.join("dev/tpmrm0");
    std::fs::create_dir_all(device.parent().unwrap()).unwrap();
    let use_tpm = |tpm: &Tpm| {
        let _ = std::fs::remove_file(&device);
        std::os::unix::fs::symlink(&tpm.1, &device).unwrap();
    };
    let file = "var/lib/millrace-update/floor";
    // What a boot makes of it: the floor, and where it says that it is kept.
    let booted = || {
        let output = here.run(&["outcome"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let status: Value = serde_json::from_slice(&here.run(&["status", "--json"]).stdout).unwrap();
        (status["floor"].as_str().unwrap_or("none").to_owned(), status["floor_kept"].as_str().unwrap().to_owned())
    };
    let both = |floor: &str| (floor.to_owned(), "on the disk and in the TPM".to_owned());

    let tpm = Tpm::start(out.path(), "first");
    use_tpm(&tpm);
    assert_eq!(booted(), both("none"));
    here.put(file, "1.2.0\n");
    assert_eq!(booted(), both("1.2.0"));
    here.put(file, "1.0.0\n");
    assert_eq!(booted(), both("1.2.0"), "an old file");
    std::fs::remove_file(here.0.join(file)).unwrap();
    assert_eq!(booted(), both("1.2.0"), "no file");
    here.put(file, "nonsense");
    assert_eq!(booted(), both("1.2.0"), "a damaged file");
    here.put(file, "1.10.0~rc2\n");
    assert_eq!(booted(), both("1.10.0~rc2"), "higher");

    // A new board: an empty TPM, which is told what the disk knows.
    drop(tpm);
    let tpm = Tpm::start(out.path(), "second");
    use_tpm(&tpm);
    assert_eq!(booted(), both("1.10.0~rc2"), "a lost index");
    std::fs::remove_file(here.0.join(file)).unwrap();
    assert_eq!(booted(), both("1.10.0~rc2"), "the index that was written anew");

    // A TPM that fails stops nobody.
    drop(tpm);
    let (floor, kept) = booted();
    assert_eq!(floor, "1.10.0~rc2");
    assert!(kept.starts_with("on the disk alone: the TPM cannot be spoken to"), "{kept}");
    std::fs::remove_file(&device).unwrap();
    assert_eq!(booted().1, "on the disk alone: there is no TPM");
}
