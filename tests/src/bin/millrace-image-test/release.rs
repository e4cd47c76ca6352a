//! A release as a server would offer it: packed artifacts beside a manifest that enough test keys signed.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::SigningKey;
use fleet_protocol::dsse;
use fleet_protocol::release::{Artifact, Kind, Packed, RELEASE, Release, Sha256};
use sha2::Digest as _;

use crate::machine::Places;

/// How long a test's manifest is good for, milliseconds.
const GOOD_FOR: i64 = 86_400_000;
/// How many of the test keys sign.
const SIGNERS: u32 = 2;

/// Pack the images of a version into `dir` and sign what they are.
pub(crate) fn make(places: &Places, version: &str, dir: &Path) -> Result<u64> {
    fs::create_dir_all(dir)?;
    let images = places.out.join("test-images");
    let prefix = format!("millrace_{version}");
    let mut artifacts = Vec::new();
    for kind in Kind::ALL {
        let (source, name) = match kind {
            Kind::Uki => (images.join(format!("{prefix}.efi")), format!("{prefix}.efi")),
            Kind::Root | Kind::Verity => partition(&images, &prefix, kind)?,
        };
        let packed = dir.join(format!("{name}.zst"));
        places.script(&format!(
            "zstd -q -1 -T2 -f {} -o {}",
            places.inside(&source)?.display(),
            places.inside(&packed)?.display()
        ))?;
        let (size, sha256) = measure(&source)?;
        let path = format!("{name}.zst");
        let (packed_size, packed_sha256) = measure(&packed)?;
        let packed = Packed { path, size: packed_size, sha256: packed_sha256 };
        artifacts.push(Artifact { kind, name, size, sha256, packed, deltas: Vec::new() });
    }
    let download = artifacts.iter().map(|artifact| artifact.packed.size).sum();
    let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?;
    let release = Release {
        v: 1,
        product: "millrace".into(),
        version: version.parse().map_err(|_| anyhow::anyhow!("{version} is no version"))?,
        channel: "stable".into(),
        arch: "x86-64".into(),
        profile: "x86".into(),
        min_version: "0.1.0".parse().map_err(|_| anyhow::anyhow!("no version"))?,
        iat: now,
        exp: now + GOOD_FOR,
        sbom: None,
        artifacts,
    };
    release.check()?;
    let body = serde_json::to_vec(&release)?;
    let mut envelope = dsse::sign(RELEASE, &body, &key(places, "release-1")?)?;
    fs::write(dir.join("one-signature.json"), &envelope)?;
    for number in 2..=SIGNERS {
        envelope = dsse::add_signature(&envelope, RELEASE, &key(places, &format!("release-{number}"))?)?;
    }
    fs::write(dir.join("manifest.json"), envelope)?;
    Ok(download)
}

/// A partition's image, and the name under which it is installed: with its partition's id.
fn partition(images: &Path, prefix: &str, kind: Kind) -> Result<(PathBuf, String)> {
    let (infix, suffix) = match kind {
        Kind::Verity => (".root-x86-64-verity.", "root-verity.raw"),
        _ => (".root-x86-64.", "root.raw"),
    };
    for entry in fs::read_dir(images)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(id) = name.strip_prefix(prefix).and_then(|rest| rest.strip_prefix(infix)) else { continue };
        let id: String = id.trim_end_matches(".raw").chars().filter(|digit| *digit != '-').collect();
        ensure!(id.len() == 32 && id.is_ascii(), "{name} has no partition id");
        let mut groups = Vec::new();
        let mut rest = id.as_str();
        for length in [8, 4, 4, 4, 12] {
            let (group, after) = rest.split_at(length);
            groups.push(group);
            rest = after;
        }
        return Ok((path, format!("{prefix}_{}.{suffix}", groups.join("-"))));
    }
    bail!("{} has no {infix} of {prefix}: image/test.sh builds it", images.display())
}

fn measure(path: &Path) -> Result<(u64, Sha256)> {
    let mut file = File::open(path)?;
    let (mut hash, mut size, mut buffer) = (sha2::Sha256::new(), 0_u64, vec![0_u8; 1 << 20]);
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok((size, Sha256(hash.finalize().into())));
        }
        hash.update(buffer.get(..read).unwrap_or_default());
        size += u64::try_from(read)?;
    }
}

/// One of the test keys that image/keys.sh made.
pub(crate) fn key(places: &Places, name: &str) -> Result<SigningKey> {
    let path = places.out.join(format!("keys/{name}.key"));
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let body: String = text.lines().filter(|line| !line.starts_with('-')).collect();
    let der = STANDARD.decode(body).context("a key that is not PEM")?;
    let seed = der.len().checked_sub(32).and_then(|start| der.get(start..)).context("a key that is too short")?;
    Ok(SigningKey::from_bytes(seed.try_into().context("a key of another length")?))
}

/// A release server on loopback that serves the files of a directory, whole or from an offset on.
#[derive(Debug)]
pub(crate) struct Server {
    port: u16,
}

impl Server {
    /// Serve `dir` until the process ends.
    pub(crate) fn start(dir: PathBuf) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let dir = dir.clone();
                std::thread::spawn(move || {
                    if let Err(error) = answer(stream, &dir) {
                        eprintln!("image-test: release server: {error:#}");
                    }
                });
            }
        });
        Ok(Self { port })
    }

    /// The address of a file as the machine sees it.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://10.0.2.2:{}/{path}", self.port)
    }
}

fn answer(mut stream: TcpStream, dir: &Path) -> Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let (mut from, mut line) = (0_u64, String::new());
    while reader.read_line(&mut line)? > 2 {
        if let Some(range) = line.to_ascii_lowercase().strip_prefix("range: bytes=") {
            from = range.split('-').next().unwrap_or_default().parse().unwrap_or(0);
        }
        line.clear();
    }
    let path = first.split(' ').nth(1).unwrap_or_default().trim_start_matches('/').to_owned();
    let file = dir.join(&path);
    if path.contains("..") || !file.is_file() {
        return Ok(write!(stream, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?);
    }
    let mut file = File::open(file)?;
    let size = file.metadata()?.len();
    file.seek(SeekFrom::Start(from))?;
    let status = if from == 0 { "200 OK".to_owned() } else { "206 Partial Content".to_owned() };
    let range = if from == 0 {
        String::new()
    } else {
        format!("Content-Range: bytes {from}-{}/{size}\r\n", size.saturating_sub(1))
    };
    let length = size.saturating_sub(from);
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{range}Accept-Ranges: bytes\r\nConnection: close\r\n\r\n"
    )?;
    std::io::copy(&mut file, &mut stream)?;
    Ok(())
}
