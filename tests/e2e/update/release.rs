//! A release and a box that may take it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use ed25519_dalek::SigningKey;
use fleet_protocol::dsse;
use fleet_protocol::release::{Keys, RELEASE};
use millrace_tests::bins::bin;
use rand::rngs::StdRng;
use rand::{RngCore as _, SeedableRng as _};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

const UUID: &str = "01234567-89ab-cdef-0123-456789abcdef";

pub(crate) fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

pub(crate) fn hash(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// Bytes that zstd makes little of, the same for each seed.
pub(crate) fn noise(seed: u64, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    StdRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}

/// A release as its makers lay it on a server.
pub(crate) struct Made {
    pub(crate) dir: PathBuf,
    pub(crate) manifest: Value,
    /// The artifacts as they must be installed, by name.
    pub(crate) artifacts: Vec<(String, Vec<u8>)>,
}

impl Made {
    pub(crate) fn new(dir: &Path, version: &str, root_size: usize) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        let parts = [
            ("verity", format!("millrace_{version}_{UUID}.root-verity.raw"), noise(1, 64 << 10)),
            ("root", format!("millrace_{version}_{UUID}.root.raw"), noise(2, root_size)),
            ("uki", format!("millrace_{version}.efi"), noise(3, 300 << 10)),
        ];
        let mut listed = Vec::new();
        for (kind, name, bytes) in &parts {
            let packed = zstd::encode_all(bytes.as_slice(), 1).unwrap();
            let path = format!("{name}.zst");
            std::fs::write(dir.join(&path), &packed).unwrap();
            listed.push(json!({"kind": kind, "name": name, "size": bytes.len(), "sha256": hash(bytes),
                "packed": {"path": path, "size": packed.len(), "sha256": hash(&packed)}}));
        }
        let manifest = json!({"v": 1, "product": "millrace", "version": version, "channel": "stable",
            "arch": if cfg!(target_arch = "aarch64") { "arm64" } else { "x86-64" }, "profile": "x86",
            "min_version": "1.1.0", "iat": 1_700_000_000_000_i64, "exp": 4_000_000_000_000_i64, "artifacts": listed});
        let artifacts = parts.into_iter().map(|(_, name, bytes)| (name, bytes)).collect();
        let made = Self { dir: dir.to_owned(), manifest, artifacts };
        made.sign(&[1, 2]);
        made
    }

    /// Signs what the manifest says now.
    pub(crate) fn sign(&self, seeds: &[u8]) {
        let body = serde_json::to_vec(&self.manifest).unwrap();
        let mut envelope = dsse::sign(RELEASE, &body, &key(seeds[0])).unwrap();
        for seed in &seeds[1..] {
            envelope = dsse::add_signature(&envelope, RELEASE, &key(*seed)).unwrap();
        }
        std::fs::write(self.path(), envelope).unwrap();
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.join("manifest.json")
    }

    /// The packed root: its path and size.
    pub(crate) fn root(&self) -> (String, usize) {
        let packed = &self.manifest["artifacts"][1]["packed"];
        (packed["path"].as_str().unwrap().to_owned(), usize::try_from(packed["size"].as_u64().unwrap()).unwrap())
    }
}

/// A box in a directory.
pub(crate) struct BoxDir(pub(crate) PathBuf);

impl BoxDir {
    pub(crate) fn new(dir: &Path, running: &str) -> Self {
        let this = Self(dir.to_owned());
        let keys = Keys { release: (1..=3).map(|seed| key(seed).verifying_key()).collect(), threshold: 2, test: true };
        this.put("usr/share/millrace/release-keys.json", &keys.to_json());
        let os_release = format!("IMAGE_ID=millrace\nIMAGE_VERSION={running}\nVARIANT_ID=x86\n");
        this.put("etc/os-release", &os_release);
        this.put("etc/millrace/node.toml", "");
        this.put("proc/sys/kernel/random/boot_id", "first\n");
        std::fs::create_dir_all(this.staged()).unwrap();
        std::fs::create_dir_all(dir.join("boot/EFI/Linux")).unwrap();
        this
    }

    pub(crate) fn put(&self, path: &str, text: &str) {
        let path = self.0.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    pub(crate) fn staged(&self) -> PathBuf {
        self.0.join("var/lib/millrace-update/staged")
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(bin("millrace-update"));
        command.arg("--root").arg(&self.0).args(args).env_remove("JOURNAL_STREAM");
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Stages; the exit code and what was said.
    pub(crate) fn stage(&self, manifest: &str) -> (Option<i32>, String) {
        let output = self.run(&["stage", "--manifest", manifest, "--delta", "never"]);
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Everything that was staged is, byte for byte, what was released; nothing else lies there.
    pub(crate) fn holds(&self, made: &Made) {
        for (name, bytes) in &made.artifacts {
            assert!(std::fs::read(self.staged().join(name)).unwrap() == *bytes, "{name} differs");
        }
        let left: Vec<String> = std::fs::read_dir(self.staged())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.contains(".part") || name.contains(".tag") || name.contains(".unpacking"))
            .collect();
        assert!(left.is_empty(), "left behind: {left:?}");
    }

    /// A script in place of a program of systemd's: it writes down how it was called, then does this.
    pub(crate) fn stand_in(&self, name: &str, then: &str) -> String {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.0.join(name);
        let calls = self.0.join(format!("{name}.calls"));
        let text = format!("#!/bin/sh\necho \"$*\" >>'{}'\n{then}\n", calls.display());
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path.display().to_string()
    }

    pub(crate) fn calls(&self, name: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.0.join(format!("{name}.calls"))).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    pub(crate) fn json(&self, path: &str) -> Value {
        serde_json::from_slice(&std::fs::read(self.0.join(path)).unwrap()).unwrap()
    }
}
