//! Which release may come onto this box: everything a signature alone does not say. Asked before anything is fetched, and
//! again before it is installed.

use fleet_protocol::release::{Keys, Release, ReleaseError};
use fleet_protocol::version::Version;
use serde::Deserialize;

use crate::files::{self, FileError};
use crate::machine::{Image, MachineError};
use crate::paths::Paths;
use crate::state::{State, StateError};

/// Largest keys file.
const KEYS_MAX: u64 = 16 * 1024;

/// Why a release is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Machine(#[from] MachineError),
    #[error(transparent)]
    State(#[from] StateError),
    /// There are no keys to hold it against.
    #[error("there is no keys file {0}: this image takes no updates")]
    NoKeys(std::path::PathBuf),
    /// Not signed by enough of the right keys, or malformed.
    #[error("release is refused: {0}")]
    Release(#[from] ReleaseError),
    /// For another box.
    #[error("release is for {field} {theirs}, this box is {ours}")]
    Elsewhere { field: &'static str, theirs: String, ours: String },
    /// The clock cannot be right, so no time can be judged.
    #[error("the clock shows a time before this image was made: nothing is taken until it is set")]
    Clock,
    /// Too old to be taken.
    #[error("release {version} expired, its signature is too old: sign it again")]
    Expired { version: Version },
    /// Below the floor.
    #[error("version {version} is below the floor {floor}: going back there is not allowed")]
    BelowFloor { version: Version, floor: Version },
    /// It failed here before.
    #[error("version {version} is refused on this box: {reason}")]
    Refused { version: Version, reason: String },
    /// It would not be started.
    #[error("version {version} is not above the running {running}")]
    NotNewer { version: Version, running: Version },
}

impl Refusal {
    /// Did somebody offer what no releaser signed?
    pub(crate) fn is_forged(&self) -> bool {
        matches!(self, Self::Release(_))
    }
}

/// Reads the keys of a file in the image.
pub(crate) fn keys(path: &std::path::Path) -> Result<Keys, Refusal> {
    let bytes = files::get(path, KEYS_MAX)?.ok_or_else(|| Refusal::NoKeys(path.to_owned()))?;
    let keys = Keys::parse(&bytes)?;
    if keys.test {
        tracing::warn!(path = %path.display(), "these keys are for tests: anybody can sign for this box");
    }
    Ok(keys)
}

/// `update.json` of the site.
#[derive(Deserialize)]
struct Update {
    channel: Option<String>,
}

/// The channel this box takes its releases from.
fn channel(paths: &Paths) -> Result<String, FileError> {
    let update: Option<Update> = files::get_json(&paths.site().join("update.json"))?;
    Ok(update.and_then(|update| update.channel).unwrap_or_else(|| "stable".to_owned()))
}

/// A release that may come onto this box.
pub(crate) fn admit(paths: &Paths, envelope: &[u8], now: i64) -> Result<Release, Refusal> {
    let release = Release::read(envelope, &keys(&paths.release_keys())?)?;
    let image = Image::read(paths)?;
    let channel = channel(paths)?;
    for (field, theirs, ours) in [
        ("processor", &release.arch, image.arch),
        ("profile", &release.profile, &image.profile),
        ("channel", &release.channel, &channel),
    ] {
        if theirs != ours {
            return Err(Refusal::Elsewhere { field, theirs: theirs.clone(), ours: ours.to_owned() });
        }
    }
    if now < image.built {
        return Err(Refusal::Clock);
    }
    let version = release.version.clone();
    if now >= release.exp / 1000 {
        return Err(Refusal::Expired { version });
    }
    let state = State::of(paths);
    if let Some(floor) = state.floor()?.filter(|floor| version < *floor) {
        return Err(Refusal::BelowFloor { version, floor });
    }
    if let Some(reason) = state.refused()?.remove(&version.to_string()) {
        return Err(Refusal::Refused { version, reason });
    }
    if version <= image.version {
        return Err(Refusal::NotNewer { version, running: image.version });
    }
    Ok(release)
}
