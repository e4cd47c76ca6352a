//! From a packed file, or a patch and the running slot, to the artifact: hashed while it is written, no byte longer than
//! signed, and in its place only when it is right.

use std::fs::File;
use std::io::{BufReader, Read, Write as _};
use std::path::{Path, PathBuf};

use fleet_protocol::release::{Artifact, Delta, Sha256};
use sha2::{Digest as _, Sha256 as Hasher};

use crate::fetch::hash_into;
use crate::files::{self, FileError, io_at};

/// The window a packed file may ask for: 128 MiB, as zstd takes without being told.
const WINDOW_LOG: u32 = 27;
/// The window a patch may ask for: its reference must fit.
const WINDOW_LOG_DELTA: u32 = 31;

/// Why a packed file does not give the artifact.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnpackError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{0} is not packed as the manifest says")]
    Packing(PathBuf, #[source] std::io::Error),
    #[error("{name} unpacks to more than the {signed} bytes the manifest says")]
    TooLong { name: String, signed: u64 },
    #[error("{name} unpacks to {size} bytes, the manifest says {signed}")]
    TooShort { name: String, size: u64, signed: u64 },
    #[error("{name}, unpacked, has not the hash in the manifest")]
    Hash { name: String },
    #[error("the running slot is not what the patch was made for")]
    Reference,
}

/// Unpacks into `staged/NAME`; durable on return.
pub(crate) fn whole(packed: &Path, artifact: &Artifact, staged: &Path) -> Result<(), UnpackError> {
    let broken = |source| UnpackError::Packing(packed.to_owned(), source);
    let file = File::open(packed).map_err(io_at(packed))?;
    let mut decoder = zstd::stream::read::Decoder::new(file).map_err(broken)?;
    decoder.window_log_max(WINDOW_LOG).map_err(broken)?;
    write(&mut decoder, packed, artifact, staged)
}

/// The part a patch is made against, from the running slot.
pub(crate) fn reference(slot: &Path, delta: &Delta) -> Result<Vec<u8>, UnpackError> {
    let file = File::open(slot).map_err(io_at(slot))?;
    let mut bytes = Vec::new();
    file.take(delta.from_size).read_to_end(&mut bytes).map_err(io_at(slot))?;
    let right = Sha256(Hasher::digest(&bytes).into()) == delta.from_sha256;
    if right { Ok(bytes) } else { Err(UnpackError::Reference) }
}

/// Patches into `staged/NAME`; durable on return.
pub(crate) fn patched(patch: &Path, reference: &[u8], artifact: &Artifact, staged: &Path) -> Result<(), UnpackError> {
    let broken = |source| UnpackError::Packing(patch.to_owned(), source);
    let file = BufReader::new(File::open(patch).map_err(io_at(patch))?);
    let mut decoder = zstd::stream::read::Decoder::with_ref_prefix(file, reference).map_err(broken)?;
    decoder.window_log_max(WINDOW_LOG_DELTA).map_err(broken)?;
    write(&mut decoder, patch, artifact, staged)
}

fn write(source: &mut impl Read, packed: &Path, artifact: &Artifact, staged: &Path) -> Result<(), UnpackError> {
    let (name, signed) = (artifact.name.clone(), artifact.size);
    let fresh = staged.join(format!("{name}.unpacking"));
    let mut file = File::create(&fresh).map_err(io_at(&fresh))?;
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    let mut size: u64 = 0;
    loop {
        let read = source.read(&mut buffer).map_err(|source| UnpackError::Packing(packed.to_owned(), source))?;
        let bytes = buffer.get(..read).unwrap_or_default();
        if bytes.is_empty() {
            break;
        }
        size += u64::try_from(read).unwrap_or(u64::MAX);
        if size > signed {
            files::remove(&fresh)?;
            return Err(UnpackError::TooLong { name, signed });
        }
        hasher.update(bytes);
        file.write_all(bytes).map_err(io_at(&fresh))?;
    }
    if size < signed {
        files::remove(&fresh)?;
        return Err(UnpackError::TooShort { name, size, signed });
    }
    if Sha256(hasher.finalize().into()) != artifact.sha256 {
        files::remove(&fresh)?;
        return Err(UnpackError::Hash { name });
    }
    file.sync_all().map_err(io_at(&fresh))?;
    let place = staged.join(&artifact.name);
    std::fs::rename(&fresh, &place).map_err(io_at(&place))?;
    Ok(files::sync_dir(staged)?)
}

/// Whether an artifact lies there, whole and right. Reads all of it.
pub(crate) fn is_there(artifact: &Artifact, staged: &Path) -> Result<bool, FileError> {
    let path = staged.join(&artifact.name);
    let mut file = match File::open(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        opened => opened.map_err(io_at(&path))?,
    };
    if file.metadata().map_err(io_at(&path))?.len() != artifact.size {
        return Ok(false);
    }
    let mut hasher = Hasher::new();
    hash_into(&mut file, &mut hasher, artifact.size + 1).map_err(io_at(&path))?;
    Ok(Sha256(hasher.finalize().into()) == artifact.sha256)
}
