//! From a packed file, or a patch and the running slot, to the artifact: hashed while it is written, no byte longer than
//! signed, and in its place only when it is right.

use std::fs::File;
use std::io::{BufReader, Read, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use fleet_protocol::patch::{self, Op};
use fleet_protocol::release::{Artifact, Delta, Sha256};
use sha2::{Digest as _, Sha256 as Hasher};

use crate::fetch::hash_into;
use crate::files::{self, FileError, io_at};

/// The window a packed file may ask for: 128 MiB, as zstd takes without being told.
const WINDOW_LOG: u32 = 27;

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

/// Opens what a patch is made against, in the running slot, when it is that. Reads all of it.
pub(crate) fn reference(slot: &Path, delta: &Delta) -> Result<File, UnpackError> {
    let mut file = File::open(slot).map_err(io_at(slot))?;
    let mut hasher = Hasher::new();
    hash_into(&mut file, &mut hasher, delta.from_size).map_err(io_at(slot))?;
    let right = Sha256(hasher.finalize().into()) == delta.from_sha256;
    if right { Ok(file) } else { Err(UnpackError::Reference) }
}

/// Patches into `staged/NAME`; durable on return. Neither of the two roots is ever in memory.
pub(crate) fn patched(patch: &Path, reference: File, artifact: &Artifact, staged: &Path) -> Result<(), UnpackError> {
    let broken = |source| UnpackError::Packing(patch.to_owned(), source);
    let mut decoder = zstd::stream::read::Decoder::new(File::open(patch).map_err(io_at(patch))?).map_err(broken)?;
    decoder.window_log_max(patch::WINDOW_LOG).map_err(broken)?;
    let mut patched = Patched::begin(BufReader::new(decoder), reference).map_err(broken)?;
    write(&mut patched, patch, artifact, staged)
}

/// The new root, as a patch and the old root give it.
struct Patched<R> {
    patch: R,
    old: File,
    /// What of the operation under way is still to come.
    now: Op,
}

impl<R: Read> Patched<R> {
    fn begin(mut patch: R, old: File) -> std::io::Result<Self> {
        let mut magic = [0; patch::MAGIC.len()];
        patch.read_exact(&mut magic)?;
        if magic != patch::MAGIC {
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "no patch of ours"));
        }
        Ok(Self { patch, old, now: Op::Data { length: 0 } })
    }
}

impl<R: Read> Read for Patched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while matches!(self.now, Op::Data { length: 0 } | Op::Copy { length: 0, .. }) {
            self.now = Op::read(&mut self.patch)?;
        }
        let (Op::Data { length } | Op::Copy { length, .. }) = self.now else { return Ok(0) };
        let most = usize::try_from(length).unwrap_or(usize::MAX).min(buffer.len());
        let buffer = buffer.get_mut(..most).unwrap_or_default();
        let read = match self.now {
            Op::Copy { from, .. } => self.old.read_at(buffer, from)?,
            Op::Data { .. } | Op::End => self.patch.read(buffer)?,
        };
        if read == 0 && most > 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let done = u64::try_from(read).unwrap_or(u64::MAX);
        self.now = match self.now {
            Op::Copy { from, length } => {
                Op::Copy { from: from.saturating_add(done), length: length.saturating_sub(done) }
            }
            Op::Data { length } => Op::Data { length: length.saturating_sub(done) },
            Op::End => Op::End,
        };
        Ok(read)
    }
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
