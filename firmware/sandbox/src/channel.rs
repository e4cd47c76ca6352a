//! The slot through the wall: one socket, one JSON record per message, media as descriptors beside it.
//!
//! Walk 1, step 7; walk 4, step 1. The socket is a Unix `SEQPACKET` pair, so a record arrives whole or not
//! at all; descriptors travel with their record. Nothing a worker sends can make the reader allocate more
//! than one record, keep a stray descriptor or wait past its deadline.
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, getsockopt, sendmsg, socketpair, sockopt,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::jail::JailPlan;
use crate::memfd::{MemfdError, Sealed};
use crate::message::{Job, Report};

/// Longest record, in bytes; a job of ten profiles is about 3 KiB.
pub const MAX_RECORD: usize = 64 * 1024;
/// Most descriptors beside one record: ten renditions, each with its signature, and room to grow.
pub const MAX_DESCRIPTORS: usize = 24;
/// Largest segment a worker will read.
pub const MAX_SEGMENT: u64 = 1 << 30;
/// Number of the descriptor a worker inherits its end of the channel as.
pub const WORKER_FD: RawFd = 3;

/// Room for as many descriptors as the kernel lets a peer send at once (`SCM_MAX_FD`), so that none is cut
/// off and every one can be counted and closed.
const CONTROL_WORDS: usize = (253 * 4 + 64) / 8;

/// Why a message did not get through.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The other side is gone.
    #[error("the peer closed the channel")]
    Closed,
    /// Nothing came in time.
    #[error("no message within {0:?}")]
    Timeout(Duration),
    /// The record is longer than [`MAX_RECORD`], or was cut off.
    #[error("a record of more than {MAX_RECORD} bytes")]
    RecordTooLong,
    /// The descriptors are more than [`MAX_DESCRIPTORS`], or were cut off.
    #[error("{0} descriptors beside a record")]
    TooManyDescriptors(usize),
    /// A job without exactly one descriptor, or a plan with any.
    #[error("{got} descriptors where {wanted} belong")]
    WrongDescriptors {
        /// Descriptors that came.
        got: usize,
        /// Descriptors that belong to the message.
        wanted: usize,
    },
    /// The record is not what it should be.
    #[error("a record that is no message")]
    Malformed(#[source] serde_json::Error),
    /// The segment is not sealed, or too large.
    #[error("the segment beside a job")]
    Segment(#[source] MemfdError),
    /// Descriptor 3 is not the socket a worker is started with.
    #[error("descriptor 3 is no worker channel: this program is started by the node, not by hand")]
    NotAWorker,
    /// The kernel refused.
    #[error("the worker channel")]
    Kernel(#[from] Errno),
}

impl From<io::Error> for ChannelError {
    fn from(error: io::Error) -> Self {
        Self::Kernel(Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))
    }
}

/// One end of the slot.
#[derive(Debug)]
pub struct Channel {
    socket: OwnedFd,
}

/// Has this process taken its inherited end?
static TAKEN: AtomicBool = AtomicBool::new(false);

impl Channel {
    /// A new channel: the node's end and the worker's.
    ///
    /// # Errors
    /// [`ChannelError::Kernel`] when no descriptor is left.
    pub fn pair() -> Result<(Self, Self), ChannelError> {
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        Ok((Self { socket: ours }, Self { socket: theirs }))
    }

    /// The end a worker was started with, descriptor 3. Once per process.
    ///
    /// # Errors
    /// [`ChannelError::NotAWorker`] when descriptor 3 is missing, no such socket, or taken already.
    #[expect(unsafe_code, reason = "an inherited descriptor is only known by its number")]
    pub fn from_inherited() -> Result<Self, ChannelError> {
        if TAKEN.swap(true, Ordering::SeqCst) {
            return Err(ChannelError::NotAWorker);
        }
        // SAFETY: fcntl on a number is harmless even when no descriptor has it.
        if unsafe { libc::fcntl(WORKER_FD, libc::F_SETFD, libc::FD_CLOEXEC) } == -1 {
            return Err(ChannelError::NotAWorker);
        }
        // SAFETY: descriptor 3 is open (checked above) and, by the contract of `launch`, was put there for us;
        // `TAKEN` makes sure that only one owner is ever made of it.
        let socket = unsafe { OwnedFd::from_raw_fd(WORKER_FD) };
        match getsockopt(&socket, sockopt::SockType) {
            Ok(SockType::SeqPacket) => Ok(Self { socket }),
            Ok(_) | Err(_) => {
                // Not ours after all: leave it as it was found.
                std::mem::forget(socket);
                Err(ChannelError::NotAWorker)
            }
        }
    }

    /// The jail this worker is to enter; the first message, before all jobs.
    ///
    /// # Errors
    /// [`ChannelError`] when the node went away or sent something else.
    pub fn receive_plan(&self) -> Result<JailPlan, ChannelError> {
        let (plan, descriptors) = self.receive(None)?;
        expect_descriptors(&descriptors, 0)?;
        Ok(plan)
    }

    /// Waits for a job and its segment; `None` when the node has closed the channel and the worker is to end.
    ///
    /// # Errors
    /// [`ChannelError`] when the message is not a job.
    pub fn receive_job(&self) -> Result<Option<(Job, Sealed)>, ChannelError> {
        let (job, mut descriptors) = match self.receive::<Job>(None) {
            Err(ChannelError::Closed) => return Ok(None),
            other => other?,
        };
        expect_descriptors(&descriptors, 1)?;
        let fd = descriptors.pop().ok_or(ChannelError::WrongDescriptors { got: 0, wanted: 1 })?;
        Ok(Some((job, Sealed::adopt(fd, MAX_SEGMENT).map_err(ChannelError::Segment)?)))
    }

    /// Tells the node something, with the renditions as sealed memfds beside it.
    ///
    /// # Errors
    /// [`ChannelError::Closed`] when the node is gone, [`ChannelError::RecordTooLong`] when the text is.
    pub fn report(&self, report: &Report, renditions: &[BorrowedFd<'_>]) -> Result<(), ChannelError> {
        self.send(report, renditions)
    }

    /// Gives the worker its jail; the first message, before all jobs.
    ///
    /// # Errors
    /// [`ChannelError`] when the plan does not fit a record.
    pub fn send_plan(&self, plan: &JailPlan) -> Result<(), ChannelError> {
        self.send(plan, &[])
    }

    /// Gives the worker a job and its segment.
    ///
    /// # Errors
    /// [`ChannelError::Closed`] when the worker is gone.
    pub fn send_job(&self, job: &Job, segment: BorrowedFd<'_>) -> Result<(), ChannelError> {
        self.send(job, &[segment])
    }

    /// Waits at most `timeout` for a report and its descriptors. Neither has been checked against the job.
    ///
    /// # Errors
    /// [`ChannelError::Timeout`] after `timeout`, [`ChannelError::Closed`] when the worker is gone.
    pub fn receive_report(&self, timeout: Duration) -> Result<(Report, Vec<OwnedFd>), ChannelError> {
        self.receive(Some(timeout))
    }

    fn send(&self, message: &impl Serialize, descriptors: &[BorrowedFd<'_>]) -> Result<(), ChannelError> {
        let record = serde_json::to_vec(message).map_err(ChannelError::Malformed)?;
        if record.len() > MAX_RECORD {
            return Err(ChannelError::RecordTooLong);
        }
        if descriptors.len() > MAX_DESCRIPTORS {
            return Err(ChannelError::TooManyDescriptors(descriptors.len()));
        }
        let numbers: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&numbers)];
        let control: &[ControlMessage<'_>] = if numbers.is_empty() { &[] } else { &rights };
        loop {
            let sent = sendmsg::<UnixAddr>(
                self.socket.as_raw_fd(),
                &[IoSlice::new(&record)],
                control,
                MsgFlags::MSG_NOSIGNAL,
                None,
            );
            match sent {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(Errno::EPIPE | Errno::ECONNRESET) => return Err(ChannelError::Closed),
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    fn receive<T: DeserializeOwned>(&self, timeout: Option<Duration>) -> Result<(T, Vec<OwnedFd>), ChannelError> {
        if let Some(timeout) = timeout {
            wait_readable(self.socket.as_fd(), timeout)?;
        }
        let mut record = vec![0; MAX_RECORD];
        let (len, descriptors) = receive_record(self.socket.as_fd(), &mut record)?;
        if len == 0 && descriptors.is_empty() {
            return Err(ChannelError::Closed);
        }
        let record = record.get(..len).ok_or(ChannelError::RecordTooLong)?;
        let message = serde_json::from_slice(record).map_err(ChannelError::Malformed)?;
        Ok((message, descriptors))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn expect_descriptors(descriptors: &[OwnedFd], wanted: usize) -> Result<(), ChannelError> {
    if descriptors.len() == wanted {
        Ok(())
    } else {
        Err(ChannelError::WrongDescriptors { got: descriptors.len(), wanted })
    }
}

/// Waits until something can be read, or the peer has gone.
fn wait_readable(fd: BorrowedFd<'_>, timeout: Duration) -> Result<(), ChannelError> {
    let start = Instant::now();
    loop {
        let left = timeout.saturating_sub(start.elapsed());
        // Rounded up, so that the last millisecond is slept through and not spun through.
        let millis = left.as_micros().div_ceil(1000);
        let wait = PollTimeout::from(u16::try_from(millis).unwrap_or(u16::MAX));
        match poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], wait) {
            Ok(0) if left.is_zero() => return Err(ChannelError::Timeout(timeout)),
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Reads one record with its descriptors; all descriptors that came are owned before anything is judged.
///
/// `nix::sys::socket::recvmsg` returns bare numbers, and none at all when the control data was cut off, so
/// that a hostile peer could leave descriptors open in this process; hence the call itself.
#[expect(unsafe_code, reason = "recvmsg with descriptors has no safe interface that closes what it refuses")]
fn receive_record(socket: BorrowedFd<'_>, record: &mut [u8]) -> Result<(usize, Vec<OwnedFd>), ChannelError> {
    let mut control = [0u64; CONTROL_WORDS];
    let mut iov = libc::iovec { iov_base: record.as_mut_ptr().cast(), iov_len: record.len() };
    // SAFETY: `msghdr` is plain data for which all-zero bytes are a valid value.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut iov;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of_val(&control) as _;
    let len = loop {
        // SAFETY: `header` points at `record` and `control`, both live, writable and as long as stated.
        let got = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, libc::MSG_CMSG_CLOEXEC) };
        match usize::try_from(got) {
            Ok(len) => break len,
            Err(_) if Errno::last() == Errno::EINTR => {}
            Err(_) if Errno::last() == Errno::ECONNRESET => return Err(ChannelError::Closed),
            Err(_) => return Err(Errno::last().into()),
        }
    };
    let mut descriptors = Vec::new();
    // SAFETY: `header` was filled in by the kernel; its control data is in `control`.
    let mut entry = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
    while !entry.is_null() {
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR return null or a whole header inside `control`, aligned as
        // `u64` words are.
        let head = unsafe { ptr::read(entry) };
        if head.cmsg_level == libc::SOL_SOCKET && head.cmsg_type == libc::SCM_RIGHTS {
            // SAFETY: CMSG_LEN only computes.
            let empty = unsafe { libc::CMSG_LEN(0) } as usize;
            let count = (head.cmsg_len as usize).saturating_sub(empty) / size_of::<RawFd>();
            // SAFETY: the data of this entry follows its header.
            let data = unsafe { libc::CMSG_DATA(entry) }.cast::<RawFd>();
            for index in 0..count {
                // SAFETY: `index` is below the number of descriptors that the entry's length says it holds.
                let number = unsafe { ptr::read_unaligned(data.add(index)) };
                // SAFETY: the kernel has just installed this descriptor for us; nobody else owns it.
                descriptors.push(unsafe { OwnedFd::from_raw_fd(number) });
            }
        }
        // SAFETY: as for CMSG_FIRSTHDR; `entry` came from it.
        entry = unsafe { libc::CMSG_NXTHDR(&raw const header, entry) };
    }
    if header.msg_flags & libc::MSG_TRUNC != 0 {
        return Err(ChannelError::RecordTooLong);
    }
    if header.msg_flags & libc::MSG_CTRUNC != 0 || descriptors.len() > MAX_DESCRIPTORS {
        return Err(ChannelError::TooManyDescriptors(descriptors.len()));
    }
    Ok((len, descriptors))
}

#[cfg(test)]
mod tests;
