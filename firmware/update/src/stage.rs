//! An update, step 1: from a signed manifest to the three checked files that systemd-sysupdate installs.
//!
//! Killed at any point it goes on where it was when it is called again: what is whole stays, what is half there is gone on
//! from, and nothing has its final name before its hash was right.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use fleet_protocol::release::{Artifact, Packed, Release};
use fleet_protocol::site::Proxy;
use fleet_protocol::strict::TO_BOX_MAX;
use millrace_hal::{Clock as _, LinuxClock};

use crate::admit::{Refusal, admit};
use crate::fetch::{FetchError, Fetcher, Place};
use crate::files::{self, FileError, Space, io_at};
use crate::machine::{Image, MachineError};
use crate::paths::Paths;
use crate::progress::{Phase, Progress};
use crate::unpack::{self, UnpackError};

pub(crate) use service::with_causes as text;

/// The file beside the artifacts that holds the signed manifest.
pub(crate) const MANIFEST: &str = "manifest.json";
/// The file with the progress.
pub(crate) const PROGRESS: &str = "progress.json";
/// A share of the disk that an update leaves alone: one part of so many.
const LEAVE: u64 = 20;
/// And at most so much: a large disk needs no larger rest.
const LEAVE_MAX: u64 = 2 << 30;

/// Why there is nothing staged.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StageError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Machine(#[from] MachineError),
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    #[error("{needed} bytes are needed on {path}, {free} are free")]
    Space { path: PathBuf, needed: u64, free: u64 },
}

/// What to stage, and how.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    pub(crate) id: String,
    pub(crate) manifest: String,
    pub(crate) rate_mbit: Option<u32>,
    pub(crate) delta: Delta,
    pub(crate) json: bool,
}

/// What of the site file is about releases; the channel is for whoever offers them.
#[derive(Debug, Default, serde::Deserialize)]
struct Origin {
    #[serde(default)]
    proxy: Option<Proxy>,
}

/// When patches are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Delta {
    /// When there is one against the running version.
    Always,
    /// Not at all.
    Never,
}

/// Fetches and checks a release; durable on return.
pub(crate) async fn stage(paths: &Paths, order: &Order) -> Result<Release, StageError> {
    let staged = paths.staged();
    fs::create_dir_all(&staged).map_err(io_at(&staged))?;
    let _lock = files::lock(&staged)?;
    let mut progress = Progress::new(staged.join(PROGRESS), order.id.clone(), order.json);
    progress.phase(Phase::Checking);
    let done = locked(paths, order, &staged, &mut progress).await;
    match &done {
        Ok(_) => progress.phase(Phase::Staged),
        Err(error) => {
            progress.failed(text(error), matches!(error, StageError::Refused(refusal) if refusal.is_forged()));
        }
    }
    done
}

async fn locked(paths: &Paths, order: &Order, staged: &Path, progress: &mut Progress) -> Result<Release, StageError> {
    let origin: Origin = files::get_json(&paths.site().join("update.json"))?.unwrap_or_default();
    let fetcher = Fetcher::new(&paths.authorities(), order.rate_mbit, origin.proxy);
    let place = Place::parse(&order.manifest)?;
    let envelope = fetcher.document(&place, TO_BOX_MAX).await?;
    let release = admit(paths, &envelope, LinuxClock.unix_seconds())?;
    tidy(staged, &release)?;
    files::put(&staged.join(MANIFEST), &envelope, 0o644)?;

    let mut missing = Vec::new();
    for artifact in &release.artifacts {
        if unpack::is_there(artifact, staged)? {
            // Killed right after it was put in place: what it was made of is still there.
            for file in std::iter::once(&artifact.packed).chain(artifact.deltas.iter().map(|delta| &delta.file)) {
                files::remove(&staged.join(format!("{}.part", file.path)))?;
                files::remove(&staged.join(format!("{}.tag", file.path)))?;
            }
        } else {
            files::remove(&staged.join(&artifact.name))?;
            missing.push(artifact);
        }
    }
    room(staged, &missing)?;
    progress.version(&release.version, missing.iter().map(|artifact| artifact.packed.size).sum());
    let image = Image::read(paths)?;
    let mut before = 0;
    for artifact in missing {
        let delta = artifact.deltas.iter().find(|delta| delta.from == image.version);
        let delta = delta.filter(|_| order.delta == Delta::Always);
        let patched = match delta {
            None => false,
            Some(delta) => match patch(paths, &fetcher, &place, artifact, delta, staged, (progress, before)).await {
                Ok(()) => true,
                // The whole file is always there to be had; what is wrong with the patch is worth a line.
                Err(error) => {
                    tracing::warn!(
                        reason = text(&error),
                        artifact = artifact.name,
                        "no patch: the whole file is fetched"
                    );
                    false
                }
            },
        };
        if !patched {
            let packed = get(&fetcher, &place, &artifact.packed, staged, (progress, before)).await?;
            progress.phase(Phase::Unpacking);
            unpack::whole(&packed, artifact, staged)?;
            files::remove(&packed)?;
        }
        before += artifact.packed.size;
        progress.done(before);
    }
    Ok(release)
}

/// Fetches one packed file.
async fn get(
    fetcher: &Fetcher,
    place: &Place,
    file: &Packed,
    staged: &Path,
    (progress, before): (&mut Progress, u64),
) -> Result<PathBuf, StageError> {
    progress.phase(Phase::Fetching);
    let path = staged.join(format!("{}.part", file.path));
    fetcher.file(place, file, &path, &mut |done| progress.done(before + done)).await?;
    Ok(path)
}

async fn patch(
    paths: &Paths,
    fetcher: &Fetcher,
    place: &Place,
    artifact: &Artifact,
    delta: &fleet_protocol::release::Delta,
    staged: &Path,
    (progress, before): (&mut Progress, u64),
) -> Result<(), StageError> {
    // First, because it costs nothing: is the slot what the patch was made for?
    let reference = unpack::reference(&paths.running_root(), delta)?;
    let file = get(fetcher, place, &delta.file, staged, (&mut *progress, before)).await?;
    progress.phase(Phase::Unpacking);
    let done = unpack::patched(&file, reference, artifact, staged);
    files::remove(&file)?;
    Ok(done?)
}

/// Removes what no part of this release needs.
fn tidy(staged: &Path, release: &Release) -> Result<(), FileError> {
    let mut kept: BTreeSet<String> = [".lock", MANIFEST, PROGRESS].map(str::to_owned).into();
    for artifact in &release.artifacts {
        kept.insert(artifact.name.clone());
        for file in std::iter::once(&artifact.packed).chain(artifact.deltas.iter().map(|delta| &delta.file)) {
            kept.extend([format!("{}.part", file.path), format!("{}.tag", file.path)]);
        }
    }
    for entry in fs::read_dir(staged).map_err(io_at(staged))? {
        let entry = entry.map_err(io_at(staged))?;
        if !kept.contains(entry.file_name().to_string_lossy().as_ref()) {
            let path = entry.path();
            fs::remove_file(&path).map_err(io_at(&path))?;
        }
    }
    Ok(())
}

/// Whether there is room for what is missing: all of it unpacked, the largest packed file beside it, and a rest for
/// the box's work.
fn room(staged: &Path, missing: &[&Artifact]) -> Result<(), StageError> {
    let there = |name: &str| fs::metadata(staged.join(name)).map_or(0, |file| file.len());
    let unpacked: u64 = missing.iter().map(|artifact| artifact.size).sum();
    let packed = missing
        .iter()
        .map(|artifact| artifact.packed.size.saturating_sub(there(&format!("{}.part", artifact.packed.path))));
    let Space { free, all } = files::space(staged)?;
    let leave = (all / LEAVE).min(LEAVE_MAX);
    let needed = unpacked.saturating_add(packed.max().unwrap_or(0));
    if needed > 0 && needed.saturating_add(leave) > free {
        return Err(StageError::Space { path: staged.to_owned(), needed: needed.saturating_add(leave), free });
    }
    Ok(())
}
