//! Sealed memory: how media bytes cross the wall, in both directions.
//!
//! Walk 1, steps 5, 7 and 8. A memfd that is sealed against writing, growing and shrinking can be mapped
//! and read at leisure: its bytes can no longer change under the reader, whoever holds other descriptors
//! of it. A descriptor from a peer is believed to be such a memfd only after the kernel has said so.
use std::fs::File;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;
use std::slice;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::sys::stat::fstat;

/// The seals without which a memfd of a peer is refused.
const REQUIRED_SEALS: SealFlag = SealFlag::F_SEAL_SHRINK.union(SealFlag::F_SEAL_GROW).union(SealFlag::F_SEAL_WRITE);

/// Why memory could not be made, sealed, checked or mapped.
#[derive(Debug, thiserror::Error)]
pub enum MemfdError {
    /// The bytes do not fit the bound.
    #[error("{len} bytes are more than the {max} allowed")]
    TooLarge {
        /// Bytes there are, or would be.
        len: u64,
        /// Bytes allowed.
        max: u64,
    },
    /// The descriptor is not a memfd sealed against writing, growing and shrinking.
    #[error("the descriptor is not a sealed memfd")]
    NotSealed,
    /// The kernel refused a step.
    #[error("{step} of a memfd")]
    Kernel {
        /// The step.
        step: &'static str,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// Reading or writing ended early.
    #[error("access to a memfd")]
    Io(#[from] io::Error),
}

/// Names the step in an error of the kernel.
fn kernel(step: &'static str) -> impl FnOnce(Errno) -> MemfdError {
    move |source| MemfdError::Kernel { step, source }
}

/// Bytes that nobody can change any more, and the descriptor to hand them on.
#[derive(Debug)]
pub struct Sealed {
    fd: OwnedFd,
    len: u64,
}

impl Sealed {
    /// Copies `bytes` into sealed memory.
    ///
    /// # Errors
    /// [`MemfdError`] when the kernel has no memory or no descriptor left.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, MemfdError> {
        let mut writer = Writer::new(u64::try_from(bytes.len()).unwrap_or(u64::MAX))?;
        writer.write_all(bytes)?;
        writer.seal()
    }

    /// Accepts a descriptor from a peer, after checking that it is sealed and not longer than `max` bytes.
    ///
    /// # Errors
    /// [`MemfdError::NotSealed`] for any other kind of descriptor, [`MemfdError::TooLarge`] above the bound.
    pub fn adopt(fd: OwnedFd, max: u64) -> Result<Self, MemfdError> {
        let seals = fcntl(&fd, FcntlArg::F_GET_SEALS).map_err(|_| MemfdError::NotSealed)?;
        if !SealFlag::from_bits_retain(seals).contains(REQUIRED_SEALS) {
            return Err(MemfdError::NotSealed);
        }
        let size = fstat(&fd).map_err(kernel("size"))?.st_size;
        let len = u64::try_from(size).map_err(|_| MemfdError::NotSealed)?;
        if len > max {
            return Err(MemfdError::TooLarge { len, max });
        }
        Ok(Self { fd, len })
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Is there nothing in it?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Copies the bytes out.
    ///
    /// # Errors
    /// [`MemfdError::Io`] when reading fails.
    pub fn to_vec(&self) -> Result<Vec<u8>, MemfdError> {
        let len = usize::try_from(self.len).map_err(|_| MemfdError::TooLarge { len: self.len, max: u64::MAX >> 1 })?;
        let mut bytes = vec![0; len];
        File::from(self.try_clone_fd()?).read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    /// Maps the bytes for reading, without a copy.
    ///
    /// # Errors
    /// [`MemfdError::Kernel`] when there is no address space left.
    pub fn map(&self) -> Result<Mapping, MemfdError> {
        Mapping::of(self)
    }

    /// A second handle on the same bytes.
    ///
    /// # Errors
    /// [`MemfdError::Io`] when no descriptor is left.
    pub fn try_clone(&self) -> Result<Self, MemfdError> {
        Ok(Self { fd: self.try_clone_fd()?, len: self.len })
    }

    fn try_clone_fd(&self) -> Result<OwnedFd, MemfdError> {
        Ok(self.fd.try_clone()?)
    }
}

impl AsFd for Sealed {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<Sealed> for OwnedFd {
    fn from(sealed: Sealed) -> Self {
        sealed.fd
    }
}

/// Memory that grows by appending up to a bound, and is then sealed.
#[derive(Debug)]
pub struct Writer {
    file: File,
    len: u64,
    max: u64,
}

impl Writer {
    /// Empty memory that may grow to `max` bytes.
    ///
    /// # Errors
    /// [`MemfdError::Kernel`] when no descriptor is left.
    pub fn new(max: u64) -> Result<Self, MemfdError> {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let fd = memfd_create(c"millrace", flags).map_err(kernel("creation"))?;
        Ok(Self { file: File::from(fd), len: 0, max })
    }

    /// Appends `bytes`, all of them or none.
    ///
    /// # Errors
    /// [`MemfdError::TooLarge`] when the bound would be passed, [`MemfdError::Io`] when memory runs out.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), MemfdError> {
        let more = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let len = self.len.saturating_add(more);
        if len > self.max {
            return Err(MemfdError::TooLarge { len, max: self.max });
        }
        self.file.write_all_at(bytes, self.len)?;
        self.len = len;
        Ok(())
    }

    /// Bytes appended so far.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Has nothing been appended yet?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Seals the memory for good.
    ///
    /// # Errors
    /// [`MemfdError::Kernel`] when the kernel refuses the seals.
    pub fn seal(self) -> Result<Sealed, MemfdError> {
        let fd = OwnedFd::from(self.file);
        fcntl(&fd, FcntlArg::F_ADD_SEALS(REQUIRED_SEALS | SealFlag::F_SEAL_SEAL)).map_err(kernel("sealing"))?;
        Ok(Sealed { fd, len: self.len })
    }
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.append(bytes) {
            Ok(()) => Ok(bytes.len()),
            Err(MemfdError::Io(error)) => Err(error),
            Err(other) => Err(io::Error::new(io::ErrorKind::FileTooLarge, other)),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Sealed bytes, mapped for reading; unmapped when dropped.
#[derive(Debug)]
pub struct Mapping {
    /// Start of the mapping; `None` when there is nothing to map.
    start: Option<NonNull<u8>>,
    len: usize,
}

impl Mapping {
    /// Maps the whole of `sealed`.
    ///
    /// No safe call maps memory; this one may, because the seals keep the mapped bytes from ever changing
    /// or going away.
    #[expect(unsafe_code, reason = "mapping memory has no safe interface")]
    fn of(sealed: &Sealed) -> Result<Self, MemfdError> {
        let len =
            usize::try_from(sealed.len).map_err(|_| MemfdError::TooLarge { len: sealed.len, max: u64::MAX >> 1 })?;
        let Some(length) = NonZeroUsize::new(len) else {
            return Ok(Self { start: None, len: 0 });
        };
        // SAFETY: a fresh read-only mapping at an address of the kernel's choice overlaps nothing of ours.
        let start = unsafe { mmap(None, length, ProtFlags::PROT_READ, MapFlags::MAP_SHARED, &sealed.fd, 0) }
            .map_err(kernel("mapping"))?;
        Ok(Self { start: Some(start.cast()), len })
    }
}

impl Deref for Mapping {
    type Target = [u8];

    /// The bytes. No safe call turns a mapping into a slice.
    #[expect(unsafe_code, reason = "a mapping is a raw pointer")]
    fn deref(&self) -> &[u8] {
        match self.start {
            None => &[],
            // SAFETY: `start` is a live mapping of `len` readable bytes until `self` is dropped; the seals of
            // the memfd (no write, no shrink) keep the bytes from changing and from going away.
            Some(start) => unsafe { slice::from_raw_parts(start.as_ptr(), self.len) },
        }
    }
}

impl AsRef<[u8]> for Mapping {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for Mapping {
    /// Unmaps. No safe call does.
    #[expect(unsafe_code, reason = "unmapping memory has no safe interface")]
    fn drop(&mut self) {
        if let Some(start) = self.start.take() {
            // SAFETY: exactly the range that `of` mapped, once; no slice of it can outlive `self`.
            let unmapped = unsafe { munmap(start.cast(), self.len) };
            debug_assert!(unmapped.is_ok(), "a mapping of ours can be unmapped");
        }
    }
}

// SAFETY: the mapping is read-only memory owned by this value alone; any thread may read or unmap it.
#[expect(unsafe_code, reason = "the raw pointer hides that the memory is immutable and owned")]
unsafe impl Send for Mapping {}
// SAFETY: as above; shared readers see bytes that cannot change.
#[expect(unsafe_code, reason = "the raw pointer hides that the memory is immutable and owned")]
unsafe impl Sync for Mapping {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_bytes_come_back_as_they_went_in() {
        let sealed = Sealed::from_bytes(b"two seconds of film").unwrap();
        assert_eq!(sealed.to_vec().unwrap(), b"two seconds of film");
        assert_eq!(&*sealed.map().unwrap(), b"two seconds of film");
        let adopted = Sealed::adopt(sealed.try_clone().unwrap().into(), 100).unwrap();
        assert_eq!(adopted.len(), 19);
    }

    #[test]
    fn nothing_is_a_length_too() {
        let sealed = Sealed::from_bytes(b"").unwrap();
        assert!(sealed.is_empty());
        assert_eq!(&*sealed.map().unwrap(), b"");
    }

    #[test]
    fn sealed_bytes_cannot_be_written_grown_or_shrunk() {
        let file = File::from(OwnedFd::from(Sealed::from_bytes(b"abc").unwrap()));
        assert!(file.write_all_at(b"x", 0).is_err());
        assert!(file.set_len(2).is_err());
        assert!(file.set_len(4).is_err());
    }

    #[test]
    fn an_unsealed_or_half_sealed_descriptor_is_refused() {
        let open = Writer::new(10).unwrap();
        let fd = OwnedFd::from(open.file.try_clone().unwrap());
        assert!(matches!(Sealed::adopt(fd, 10), Err(MemfdError::NotSealed)));
        fcntl(&open.file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW)).unwrap();
        assert!(matches!(Sealed::adopt(OwnedFd::from(open.file), 10), Err(MemfdError::NotSealed)));
        let file = OwnedFd::from(tempfile::tempfile().unwrap());
        assert!(matches!(Sealed::adopt(file, 10), Err(MemfdError::NotSealed)));
    }

    #[test]
    fn a_bound_is_kept_on_both_sides() {
        let mut writer = Writer::new(4).unwrap();
        writer.append(b"abcd").unwrap();
        assert!(matches!(writer.append(b"e"), Err(MemfdError::TooLarge { len: 5, max: 4 })));
        assert_eq!(writer.len(), 4);
        let sealed = writer.seal().unwrap();
        assert!(matches!(Sealed::adopt(sealed.into(), 3), Err(MemfdError::TooLarge { len: 4, max: 3 })));
    }
}
