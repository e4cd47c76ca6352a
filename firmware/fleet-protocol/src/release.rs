//! What a version of the system image consists of, and who may say so: the signed release manifest and the keys for it.
//!
//! The manifest is the body of a DSSE envelope of type [`RELEASE`]. It names for each artifact the file as it is
//! installed and the file as it is fetched, with sizes and hashes of both, so that nothing is ever taken on trust: not
//! the server, not the transport, not a length that somebody else states.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::VerifyingKey;
use serde::{Deserialize, Serialize};

use crate::dsse::{self, DsseError};
use crate::strict;
use crate::version::Version;

/// Payload type of a release manifest.
pub const RELEASE: &str = "application/vnd.millrace.release.v1+json";
/// The product whose releases these are; the image's `IMAGE_ID`.
pub const PRODUCT: &str = "millrace";
/// Largest installed artifact: what a slot holds.
pub const ARTIFACT_MAX: u64 = 6 << 30;
/// A packed file of more than a megabyte unpacks to at most so many times its size.
pub const RATIO_MAX: u64 = 64;
/// Most patches for one artifact.
const DELTAS_MAX: usize = 8;
/// Most keys of a role.
const KEYS_MAX: usize = 16;
/// Largest keys file read.
const KEYS_FILE_MAX: usize = 16 * 1024;

/// Why a manifest or a keys file is none.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// The envelope does not hold.
    #[error(transparent)]
    Envelope(#[from] DsseError),
    /// The keys file has the wrong shape.
    #[error("keys file has the wrong shape: {0}")]
    Keys(String),
    /// A field says what it must not.
    #[error("manifest: {field} {rule}")]
    Field {
        /// Which.
        field: &'static str,
        /// What it must be.
        rule: &'static str,
    },
}

/// A SHA-256, in JSON as 64 lower-case hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sha256(pub [u8; 32]);

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl FromStr for Sha256 {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 32];
        let lower = !text.bytes().any(|byte| byte.is_ascii_uppercase());
        hex::decode_to_slice(text, &mut bytes)
            .ok()
            .filter(|()| lower)
            .ok_or("hash must be 64 lower-case hex digits")?;
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for Sha256 {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Sha256> for String {
    fn from(hash: Sha256) -> Self {
        hash.to_string()
    }
}

/// One version of the system image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// Version of this document, 1.
    pub v: u8,
    /// [`PRODUCT`].
    pub product: String,
    /// What the image calls itself.
    pub version: Version,
    /// For whom it is meant, such as `stable`.
    pub channel: String,
    /// systemd's name of the processor: `x86-64` or `arm64`.
    pub arch: String,
    /// Which image of that processor, such as `x86` or `x86-nvidia`.
    pub profile: String,
    /// No version below this is taken any more once this one has proved itself.
    pub min_version: Version,
    /// When it was signed, Unix milliseconds.
    pub iat: i64,
    /// When it is no longer taken, Unix milliseconds.
    pub exp: i64,
    /// Hash of the bill of materials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sbom: Option<Sha256>,
    /// Its parts, in the order in which they are installed: one of each [`Kind`].
    pub artifacts: Vec<Artifact>,
}

/// What an artifact is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Hash tree of the root.
    Verity,
    /// The root's file system.
    Root,
    /// The signed kernel image; the last, since it makes the version bootable.
    Uki,
}

impl Kind {
    /// Every kind, in the order of installation.
    pub const ALL: [Kind; 3] = [Kind::Verity, Kind::Root, Kind::Uki];
}

/// One part of a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Artifact {
    /// What it is.
    pub kind: Kind,
    /// Its name where it waits for the installation; for partitions with their id inside.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// Its hash.
    pub sha256: Sha256,
    /// The whole of it, packed with zstd.
    pub packed: Packed,
    /// What changes an earlier version into it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deltas: Vec<Delta>,
}

/// A file to fetch from beside the manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Packed {
    /// Its name.
    pub path: String,
    /// Its size in bytes.
    pub size: u64,
    /// Its hash.
    pub sha256: Sha256,
}

/// A patch ([`crate::patch`]) against the same part of an earlier version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delta {
    /// That version.
    pub from: Version,
    /// The size of its part.
    pub from_size: u64,
    /// The hash of its part.
    pub from_sha256: Sha256,
    /// The patch.
    #[serde(flatten)]
    pub file: Packed,
}

impl Release {
    /// Read a signed manifest: signatures of enough release keys first, then shape, then meaning. What is left to check is
    /// what only the box knows: its own version, floor, channel, processor and clock.
    ///
    /// # Errors
    /// [`ReleaseError`].
    pub fn read(envelope: &[u8], keys: &Keys) -> Result<Self, ReleaseError> {
        let verified = dsse::verify(envelope, RELEASE, &keys.release, keys.threshold)?;
        let release: Self = dsse::read_body(&verified)?;
        release.check()?;
        Ok(release)
    }

    /// Holds a manifest against the rules; the signing tool asks this too.
    ///
    /// # Errors
    /// [`ReleaseError::Field`].
    pub fn check(&self) -> Result<(), ReleaseError> {
        let rule = |holds: bool, field, rule| if holds { Ok(()) } else { Err(ReleaseError::Field { field, rule }) };
        rule(self.v == 1, "v", "must be 1")?;
        rule(self.product == PRODUCT, "product", "must be millrace")?;
        for (field, name) in [("channel", &self.channel), ("arch", &self.arch), ("profile", &self.profile)] {
            rule(is_word(name), field, "must be 1 to 24 of a-z, 0-9 and -")?;
        }
        rule(self.min_version <= self.version, "min_version", "must not be above the version")?;
        rule(self.iat >= 0 && self.iat < self.exp, "exp", "must be after iat")?;
        let kinds: Vec<Kind> = self.artifacts.iter().map(|artifact| artifact.kind).collect();
        rule(kinds == Kind::ALL, "artifacts", "must be verity, root and uki, in this order")?;
        for artifact in &self.artifacts {
            rule(self.names(artifact), "name", "must be the one systemd-sysupdate looks for")?;
            rule((1..=ARTIFACT_MAX).contains(&artifact.size), "size", "must be 1 byte to 6 GiB")?;
            rule(artifact.deltas.len() <= DELTAS_MAX, "deltas", "must be at most 8")?;
            let files = std::iter::once(&artifact.packed).chain(artifact.deltas.iter().map(|delta| &delta.file));
            for file in files {
                rule(is_file_name(&file.path), "path", "must be a plain file name")?;
                rule((1..=ARTIFACT_MAX).contains(&file.size), "size", "must be 1 byte to 6 GiB")?;
            }
            let bounded = artifact.size <= (artifact.packed.size.max(1 << 20)).saturating_mul(RATIO_MAX);
            rule(bounded, "packed.size", "must be a 64th of the size or more")?;
            for delta in &artifact.deltas {
                rule(delta.from < self.version, "deltas.from", "must be below the version")?;
                rule((1..=ARTIFACT_MAX).contains(&delta.from_size), "deltas.from_size", "must be 1 byte to 6 GiB")?;
            }
        }
        Ok(())
    }

    /// The name an artifact must have: with it systemd-sysupdate finds it, and the partition gets its id.
    fn names(&self, artifact: &Artifact) -> bool {
        let Some(rest) = artifact.name.strip_prefix(&format!("{PRODUCT}_{}", self.version)) else { return false };
        let id = |suffix: &str| rest.strip_prefix('_').and_then(|rest| rest.strip_suffix(suffix)).is_some_and(is_uuid);
        match artifact.kind {
            Kind::Verity => id(".root-verity.raw"),
            Kind::Root => id(".root.raw"),
            Kind::Uki => rest == ".efi",
        }
    }
}

fn is_word(text: &str) -> bool {
    (1..=24).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

fn is_uuid(text: &str) -> bool {
    let groups: Vec<&str> = text.split('-').collect();
    let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12]) && groups.iter().all(|group| group.bytes().all(hex))
}

/// Whether a text is a file's name and nothing more: no directory, no way out, nothing a URL would read otherwise.
#[must_use]
pub fn is_file_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._~+-".contains(&byte);
    (1..=128).contains(&text.len()) && !text.starts_with(['.', '-']) && text.bytes().all(plain)
}

/// Who may sign releases: a role of the keys file that the verified image carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    /// The keys.
    pub release: Vec<VerifyingKey>,
    /// How many distinct ones must sign.
    pub threshold: usize,
    /// Keys that anybody can have: for tests only.
    pub test: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeysFile {
    v: u8,
    #[serde(default)]
    test: bool,
    threshold: usize,
    keys: Vec<String>,
}

impl Keys {
    /// Reads a keys file: `{"v":1,"threshold":2,"keys":["base64 of 32 bytes", …]}`, with `"test":true` for keys that anybody
    /// can have. Site files have a file of the same shape.
    ///
    /// # Errors
    /// [`ReleaseError::Keys`].
    pub fn parse(bytes: &[u8]) -> Result<Self, ReleaseError> {
        let shape = |error: &dyn fmt::Display| ReleaseError::Keys(error.to_string());
        let value = strict::parse(bytes, KEYS_FILE_MAX).map_err(|error| shape(&error))?;
        let file: KeysFile = serde_json::from_value(value).map_err(|error| shape(&error))?;
        if file.v != 1 {
            return Err(shape(&"v must be 1"));
        }
        let mut release = Vec::new();
        for text in &file.keys {
            let key = verifying_key(text).ok_or_else(|| shape(&"a key is not the base64 of an ed25519 public key"))?;
            if release.contains(&key) {
                return Err(shape(&"a key stands there twice"));
            }
            release.push(key);
        }
        if file.threshold == 0 || file.threshold > release.len() || release.len() > KEYS_MAX {
            return Err(shape(&"threshold must be 1 to the number of keys, and those at most 16"));
        }
        Ok(Self { release, threshold: file.threshold, test: file.test })
    }

    /// The keys file of these keys.
    #[must_use]
    pub fn to_json(&self) -> String {
        let keys = self.release.iter().map(|key| BASE64.encode(key.as_bytes())).collect();
        let file = KeysFile { v: 1, test: self.test, threshold: self.threshold, keys };
        serde_json::to_string_pretty(&file).expect("keys are always json")
    }
}

/// An Ed25519 public key from its base64.
#[must_use]
pub fn verifying_key(text: &str) -> Option<VerifyingKey> {
    let bytes: [u8; 32] = BASE64.decode(text).ok()?.try_into().ok()?;
    VerifyingKey::from_bytes(&bytes).ok().filter(|key| !key.is_weak())
}

#[cfg(test)]
mod tests;
