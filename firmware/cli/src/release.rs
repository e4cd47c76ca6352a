//! Releases from the side of those who sign them: what `millrace-update` takes on a box is made here.
mod patch;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use clap::{Args, Subcommand};
use ed25519_dalek::SigningKey;
use fleet_protocol::dsse::{self, KeyId};
use fleet_protocol::release::{Artifact, Delta, Keys, Kind, PRODUCT, Packed, RELEASE, Release, Sha256, verifying_key};
use fleet_protocol::strict::TO_BOX_MAX;
use fleet_protocol::version::Version;
use millrace_hal::{Clock as _, LinuxClock};
use sha2::{Digest as _, Sha256 as Hasher};
use zeroize::Zeroizing;

use crate::failure::{self, Code, Failure, Outcome, unreadable, unwritable};

/// The signed manifest beside the artifacts.
const MANIFEST: &str = "manifest.json";
/// The unsigned one: what everybody who signs looks at.
const UNSIGNED: &str = "release.json";
/// Milliseconds of a day.
pub(crate) const DAY: i64 = 86_400_000;

/// Make and check releases of the system image.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a signing key for releases or site files; prints its public half
    #[command(after_help = "Example:\n  millrace release key --out alice.key")]
    Key {
        /// The file to write; it must not exist yet
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Print the keys file for an image: who may sign, and how many must
    #[command(
        after_help = "Example:\n  millrace release keys --threshold 2 PUBLIC1 PUBLIC2 PUBLIC3 >release-keys.json"
    )]
    Keys {
        /// How many of them must sign
        #[arg(long, value_name = "N")]
        threshold: usize,
        /// Say that anybody can have these keys
        #[arg(long)]
        test: bool,
        /// The public keys, as `millrace release key` prints them
        #[arg(required = true, value_name = "PUBLIC")]
        public: Vec<String>,
    },
    /// Pack the parts of a built image and write down what they are
    #[command(after_help = "Example:
  millrace release manifest --image target/image/mkosi --version 1.2.0 --profile x86 --out release/")]
    Manifest(Box<ManifestArgs>),
    /// Sign a packed release; once by each who signs
    #[command(after_help = "Example:\n  millrace release sign release/ --key alice.key")]
    Sign {
        /// The directory that `release manifest` wrote
        dir: PathBuf,
        /// Key files
        #[arg(long, required = true, value_name = "FILE")]
        key: Vec<PathBuf>,
    },
    /// Check a signed release as a box would, and every file of it
    #[command(after_help = "Example:\n  millrace release verify release/ --keys release-keys.json")]
    Verify {
        /// The directory with the manifest and its files
        dir: PathBuf,
        /// The keys file of the image
        #[arg(long, value_name = "FILE")]
        keys: PathBuf,
    },
}

/// What a release says.
#[derive(Debug, Args)]
pub(crate) struct ManifestArgs {
    /// Where the image's parts lie
    #[arg(long, value_name = "DIR")]
    image: PathBuf,
    /// The image's version
    #[arg(long)]
    version: Version,
    /// The image's profile
    #[arg(long)]
    profile: String,
    /// The processor, as systemd names it
    #[arg(long, default_value = "x86-64")]
    arch: String,
    /// For whom it is meant
    #[arg(long, default_value = "stable")]
    channel: String,
    /// No version below this is taken any more once this one has proved itself
    #[arg(long, default_value = "0")]
    min_version: Version,
    /// Days until it is no longer taken
    #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(i64).range(1..=3650))]
    days: i64,
    /// The bill of materials, whose hash goes in
    #[arg(long, value_name = "FILE")]
    sbom: Option<PathBuf>,
    /// The root of an earlier version (its packed release's directory): a patch from there is made too
    #[arg(long, value_name = "DIR")]
    delta_from: Vec<PathBuf>,
    /// How hard to pack, 1 to 19
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(i32).range(1..=19))]
    level: i32,
    /// Where the release is written
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

pub(crate) fn run(command: Command) -> failure::Result {
    match command {
        Command::Key { out } => new_key(&out),
        Command::Keys { threshold, test, public } => keys_file(threshold, test, &public),
        Command::Manifest(args) => manifest(&args),
        Command::Sign { dir, key } => {
            let body = read(&dir.join(UNSIGNED), TO_BOX_MAX)?;
            let release: Release = serde_json::from_slice(&body).map_err(|error| no_good(&error))?;
            release.check().map_err(|error| no_good(&error))?;
            sign(&dir.join(MANIFEST), RELEASE, &body, &key)?;
            println!("{} {} signed by {} keys", release.product, release.version, key.len());
            Ok(Outcome::Done)
        }
        Command::Verify { dir, keys } => verify(&dir, &keys),
    }
}

pub(crate) fn no_good(error: &dyn std::error::Error) -> Failure {
    Failure::from_error(Code::Data, error)
}

pub(crate) fn read(path: &Path, limit: usize) -> failure::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| unreadable(path, &error))?;
    let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    file.take(most).read_to_end(&mut bytes).map_err(|error| unreadable(path, &error))?;
    if bytes.len() > limit {
        return Err(Failure::new(Code::Data, format!("{} is larger than {limit} bytes", path.display())));
    }
    Ok(bytes)
}

pub(crate) fn write(path: &Path, bytes: &[u8], mode: u32) -> failure::Result<()> {
    let file = File::options().write(true).create(true).truncate(true).mode(mode).open(path);
    let written = file.and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()));
    written.map_err(|error| unwritable(path, &error))
}

fn new_key(out: &Path) -> failure::Result {
    let mut seed = Zeroizing::new([0u8; 32]);
    rand::RngCore::fill_bytes(&mut rand::rngs::OsRng, &mut *seed);
    let key = SigningKey::from_bytes(&seed);
    let text = Zeroizing::new(format!("{}\n", BASE64.encode(*seed)));
    let file = File::options().write(true).create_new(true).mode(0o600).open(out);
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()));
    written.map_err(|error| unwritable(out, &error))?;
    println!("{}", BASE64.encode(key.verifying_key().as_bytes()));
    Ok(Outcome::Done)
}

pub(crate) fn read_key(path: &Path) -> failure::Result<SigningKey> {
    let text = private(path)?;
    let wrong = || Failure::new(Code::Data, format!("{} is no key of `millrace release key`", path.display()));
    let seed = Zeroizing::new(BASE64.decode(text.trim_ascii()).map_err(|_| wrong())?);
    Ok(SigningKey::from_bytes(seed.as_slice().try_into().map_err(|_| wrong())?))
}

/// A key file's text; one that others can read is no key any more.
pub(crate) fn private(path: &Path) -> failure::Result<Zeroizing<Vec<u8>>> {
    let mode = fs::metadata(path).map_err(|error| unreadable(path, &error))?.permissions().mode();
    if mode & 0o077 != 0 {
        let text = format!("key {} can be read by others", path.display());
        return Err(Failure::new(Code::Permission, text).advise("chmod 600 it, and replace it if it may have leaked"));
    }
    Ok(Zeroizing::new(read(path, 256)?))
}

fn keys_file(threshold: usize, test: bool, public: &[String]) -> failure::Result {
    let key = |text: &String| {
        verifying_key(text).ok_or_else(|| Failure::new(Code::Data, format!("{text} is no ed25519 public key")))
    };
    let keys = Keys { release: public.iter().map(key).collect::<failure::Result<_>>()?, threshold, test };
    let json = keys.to_json();
    Keys::parse(json.as_bytes()).map_err(|error| no_good(&error))?;
    println!("{json}");
    Ok(Outcome::Done)
}

/// Adds signatures to the envelope over `body`; an envelope over anything else is replaced.
pub(crate) fn sign(path: &Path, payload_type: &str, body: &[u8], keys: &[PathBuf]) -> failure::Result<()> {
    let fault = |error: dsse::DsseError| no_good(&error);
    let mut envelope = fs::read(path).ok().filter(|envelope| dsse::carries(envelope, payload_type, body));
    for path in keys {
        let key = read_key(path)?;
        envelope = Some(match envelope {
            None => dsse::sign(payload_type, body, &key).map_err(fault)?,
            Some(envelope) => dsse::add_signature(&envelope, payload_type, &key).map_err(fault)?,
        });
        eprintln!("signed by {}", KeyId::of(&key.verifying_key()));
    }
    write(path, &envelope.unwrap_or_default(), 0o644)
}

fn manifest(args: &ManifestArgs) -> failure::Result {
    fs::create_dir_all(&args.out).map_err(|error| unwritable(&args.out, &error))?;
    let mut artifacts = Vec::new();
    for kind in Kind::ALL {
        let (path, name) = part(&args.image, kind, &args.version)?;
        eprintln!("packing {}", path.display());
        let (size, sha256) = hashed(&path)?;
        let packed = pack(&path, &args.out, &format!("{name}.zst"), args.level)?;
        let mut deltas = Vec::new();
        for from in args.delta_from.iter().filter(|_| kind == Kind::Root) {
            deltas.push(delta(from, &path, &args.out, args)?);
        }
        artifacts.push(Artifact { kind, name, size, sha256, packed, deltas });
    }
    let now = LinuxClock.unix_seconds().saturating_mul(1000);
    let release = Release {
        v: 1,
        product: PRODUCT.to_owned(),
        version: args.version.clone(),
        channel: args.channel.clone(),
        arch: args.arch.clone(),
        profile: args.profile.clone(),
        min_version: args.min_version.clone(),
        iat: now,
        exp: now + args.days * DAY,
        sbom: args.sbom.as_deref().map(hashed).transpose()?.map(|(_, sha256)| sha256),
        artifacts,
    };
    release.check().map_err(|error| no_good(&error))?;
    let body = serde_json::to_vec_pretty(&release).expect("a release is json");
    write(&args.out.join(UNSIGNED), &body, 0o644)?;
    println!("{}", args.out.join(UNSIGNED).display());
    Ok(Outcome::Done)
}

/// A part of the image, and the name it is installed by. The builder writes `millrace_VERSION_ARCH.root-ARCH.UUID.raw`.
fn part(image: &Path, kind: Kind, version: &Version) -> failure::Result<(PathBuf, String)> {
    let prefix = format!("{PRODUCT}_{version}");
    let mut found = Vec::new();
    for entry in fs::read_dir(image).map_err(|error| unreadable(image, &error))? {
        let path = entry.map_err(|error| unreadable(image, &error))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let rest = name.strip_prefix(&prefix).filter(|rest| rest.starts_with(['_', '.']));
        let Some(rest) = rest else { continue };
        let uuid = rest.strip_suffix(".raw").and_then(|rest| rest.rsplit_once(['.', '_'])).map(|(_, uuid)| uuid);
        let verity = rest.contains("-verity.");
        match (kind, uuid.and_then(dashed)) {
            (Kind::Verity, Some(uuid)) if verity => found.push((path, format!("{prefix}_{uuid}.root-verity.raw"))),
            (Kind::Root, Some(uuid)) if !verity && rest.contains("root") => {
                found.push((path, format!("{prefix}_{uuid}.root.raw")));
            }
            (Kind::Uki, None) if rest.ends_with(".efi") => found.push((path, format!("{prefix}.efi"))),
            _ => {}
        }
    }
    match <[_; 1]>::try_from(found) {
        Ok([part]) => Ok(part),
        Err(found) => {
            let text = format!("{} has {} parts of kind {kind:?} for {version}", image.display(), found.len());
            Err(Failure::new(Code::NoInput, text).advise("build the image with split artifacts: just image PROFILE"))
        }
    }
}

/// A partition's id as systemd-sysupdate looks for it; the builder writes it without dashes.
fn dashed(text: &str) -> Option<String> {
    let digits: String = text.chars().filter(|character| *character != '-').collect();
    let id = digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let group = |from: usize, to: usize| digits.get(from..to).unwrap_or_default();
    id.then(|| format!("{}-{}-{}-{}-{}", group(0, 8), group(8, 12), group(12, 16), group(16, 20), group(20, 32)))
}

fn hashed(path: &Path) -> failure::Result<(u64, Sha256)> {
    let mut file = File::open(path).map_err(|error| unreadable(path, &error))?;
    let mut hasher = Hasher::new();
    let size = std::io::copy(&mut file, &mut hasher).map_err(|error| unreadable(path, &error))?;
    Ok((size, Sha256(hasher.finalize().into())))
}

/// Packs a file.
fn pack(path: &Path, out: &Path, name: &str, level: i32) -> failure::Result<Packed> {
    let place = out.join(name);
    let mut source = File::open(path).map_err(|error| unreadable(path, &error))?;
    let size = source.metadata().map_err(|error| unreadable(path, &error))?.len();
    let mut packing = || -> std::io::Result<()> {
        let mut encoder = zstd::stream::write::Encoder::new(File::create(&place)?, level)?;
        encoder.set_pledged_src_size(Some(size))?;
        std::io::copy(&mut source, &mut encoder)?;
        encoder.finish()?.sync_all()
    };
    packing().map_err(|error| unwritable(&place, &error))?;
    packed(&place, name)
}

fn packed(place: &Path, name: &str) -> failure::Result<Packed> {
    let (size, sha256) = hashed(place)?;
    Ok(Packed { path: name.to_owned(), size, sha256 })
}

/// A patch from an earlier release's root.
fn delta(from: &Path, new: &Path, out: &Path, args: &ManifestArgs) -> failure::Result<Delta> {
    let earlier: Release =
        serde_json::from_slice(&read(&from.join(UNSIGNED), TO_BOX_MAX)?).map_err(|error| no_good(&error))?;
    let root = earlier.artifacts.iter().find(|artifact| artifact.kind == Kind::Root);
    let root = root.ok_or_else(|| Failure::new(Code::Data, format!("{} has no root", from.display())))?;
    let packed_root = from.join(&root.packed.path);
    let file = File::open(&packed_root).map_err(|error| unreadable(&packed_root, &error))?;
    let reference = zstd::stream::decode_all(file).map_err(|error| unreadable(&packed_root, &error))?;
    if Sha256(Hasher::digest(&reference).into()) != root.sha256 {
        return Err(Failure::new(Code::Data, format!("{} is not what its release says", packed_root.display())));
    }
    let name = format!("{PRODUCT}_{}_from_{}.root.patch.zst", args.version, earlier.version);
    eprintln!("patch from {}", earlier.version);
    let bytes = fs::read(new).map_err(|error| unreadable(new, &error))?;
    let place = out.join(&name);
    let written = File::create(&place).and_then(|sink| patch::write(&reference, &bytes, args.level, sink));
    written.map_err(|error| unwritable(&place, &error))?;
    let file = packed(&place, &name)?;
    Ok(Delta { from: earlier.version, from_size: root.size, from_sha256: root.sha256, file })
}

fn verify(dir: &Path, keys: &Path) -> failure::Result {
    let keys = Keys::parse(&read(keys, TO_BOX_MAX)?).map_err(|error| no_good(&error))?;
    let release = Release::read(&read(&dir.join(MANIFEST), TO_BOX_MAX)?, &keys).map_err(|error| no_good(&error))?;
    for artifact in &release.artifacts {
        for file in std::iter::once(&artifact.packed).chain(artifact.deltas.iter().map(|delta| &delta.file)) {
            let path = dir.join(&file.path);
            if hashed(&path)? != (file.size, file.sha256) {
                return Err(Failure::new(Code::Data, format!("{} is not what was signed", path.display())));
            }
        }
    }
    let Release { product, version, channel, arch, profile, exp, .. } = &release;
    println!("{product} {version} for {arch} {profile}, channel {channel}: every file is what was signed");
    if *exp <= LinuxClock.unix_seconds().saturating_mul(1000) {
        println!("but its time is over: no box takes it");
        return Ok(Outcome::Partly);
    }
    if keys.test {
        println!("the keys are for tests: anybody can sign so");
    }
    Ok(Outcome::Done)
}

#[cfg(test)]
pub(crate) mod tests;
