//! A few words in the TPM that no disk image put back can take away: one NV index with the floor in it.
//!
//! Five commands of TPM 2.0 and one index; the library for all of it would be larger than this program. The device is the
//! kernel's resource manager, or, where a simulator listens in its place, a socket. A TPM that fails or hangs costs ten
//! seconds and the second copy, never the box.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

mod wire;

use wire::{Command, Reply};

/// Our index, in the range that is the owner's. The letters are `ML`.
const INDEX: u32 = 0x0180_4d4c;
/// Bytes of the index.
const SIZE: u16 = 64;
/// Read and written by its own, empty authorisation; failed tries of others never lock it.
const ATTRIBUTES: u32 = AUTH_WRITE | AUTH_READ | NO_LOCKOUT;
const AUTH_WRITE: u32 = 1 << 2;
const AUTH_READ: u32 = 1 << 18;
const NO_LOCKOUT: u32 = 1 << 25;
/// How long the TPM may take, all commands together.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why the TPM does not help.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TpmError {
    #[error("there is no TPM")]
    None,
    #[error("the TPM cannot be spoken to")]
    Io(#[from] io::Error),
    #[error("the TPM answers {code:#x} to {to}")]
    Refused { to: &'static str, code: u32 },
    #[error("the TPM's answer to {0} makes no sense")]
    Answer(&'static str),
    #[error("the TPM's index {INDEX:#x} is somebody else's")]
    Foreign,
    #[error("the TPM did not answer within {PATIENCE:?}")]
    Silent,
}

/// The TPM of a box.
#[derive(Debug, Clone)]
pub(crate) struct Tpm(PathBuf);

impl Tpm {
    pub(crate) fn at(device: PathBuf) -> Self {
        Self(device)
    }

    /// What was written last; `None` when nothing ever was, or what is there is damaged.
    pub(crate) fn read(&self) -> Result<Option<String>, TpmError> {
        self.patiently(|device| match device.public()? {
            None => Ok(None),
            Some(written) if !written => Ok(None),
            Some(_) => Ok(unwrap(&device.read()?)),
        })
    }

    /// Writes; durable on return.
    pub(crate) fn write(&self, text: &str) -> Result<(), TpmError> {
        let record = wrap(text).ok_or(TpmError::Answer("a text that is too long"))?;
        self.patiently(move |device| {
            if device.public()?.is_none() {
                device.define()?;
            }
            device.write(&record)
        })
    }

    /// On a thread of its own, which a device that hangs may keep.
    fn patiently<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Device) -> Result<T, TpmError> + Send + 'static,
    ) -> Result<T, TpmError> {
        let (send, receive) = mpsc::sync_channel(1);
        let path = self.0.clone();
        std::thread::spawn(move || {
            let _ = send.send(Device::open(&path).and_then(|mut device| work(&mut device)));
        });
        receive.recv_timeout(PATIENCE).unwrap_or(Err(TpmError::Silent))
    }
}

/// A record that a power cut in the middle of its writing makes invalid, not wrong.
fn wrap(text: &str) -> Option<[u8; SIZE as usize]> {
    let mut record = [0; SIZE as usize];
    let length = u8::try_from(text.len()).ok()?;
    let (sum, rest) = record.split_at_mut(8);
    *rest.first_mut()? = length;
    rest.get_mut(1..=text.len())?.copy_from_slice(text.as_bytes());
    sum.copy_from_slice(&checksum(rest));
    Some(record)
}

fn unwrap(record: &[u8]) -> Option<String> {
    let (sum, rest) = record.split_at_checked(8)?;
    if sum != checksum(rest) {
        return None;
    }
    let length = usize::from(*rest.first()?);
    String::from_utf8(rest.get(1..=length)?.to_vec()).ok()
}

fn checksum(bytes: &[u8]) -> [u8; 8] {
    use sha2::{Digest as _, Sha256};
    let mut sum = [0; 8];
    let hash = Sha256::new().chain_update("millrace-floor-v1").chain_update(bytes).finalize();
    sum.iter_mut().zip(hash).for_each(|(to, from)| *to = from);
    sum
}

/// An open TPM.
enum Device {
    Kernel(File),
    Simulator(UnixStream),
}

impl Device {
    fn open(path: &Path) -> Result<Self, TpmError> {
        let kind = match std::fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(TpmError::None),
            found => found?.file_type(),
        };
        if kind.is_socket() {
            let stream = UnixStream::connect(path)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            return Ok(Self::Simulator(stream));
        }
        Ok(Self::Kernel(OpenOptions::new().read(true).write(true).open(path)?))
    }

    fn call(&mut self, command: &Command) -> Result<Reply, TpmError> {
        let mut answer = vec![0; wire::ANSWER_MAX];
        let (write, read): (&mut dyn Write, &mut dyn Read) = match self {
            Self::Kernel(file) => (&mut &*file, &mut &*file),
            Self::Simulator(stream) => (&mut &*stream, &mut &*stream),
        };
        // The kernel takes a command in one write and gives the answer in one read.
        write.write_all(&command.bytes())?;
        let length = read.read(&mut answer)?;
        answer.truncate(length);
        Reply::read(answer, command).ok_or(TpmError::Answer(command.name))
    }

    fn done(&mut self, command: &Command) -> Result<Reply, TpmError> {
        let reply = self.call(command)?;
        if reply.code == 0 { Ok(reply) } else { Err(TpmError::Refused { to: command.name, code: reply.code }) }
    }

    /// Whether the index was written; `None` when there is no such index.
    fn public(&mut self) -> Result<Option<bool>, TpmError> {
        let command = wire::read_public(INDEX);
        let reply = self.call(&command)?;
        if wire::is_no_such_handle(reply.code) {
            return Ok(None);
        }
        if reply.code != 0 {
            return Err(TpmError::Refused { to: command.name, code: reply.code });
        }
        let (attributes, size) = wire::public(&reply.parameters).ok_or(TpmError::Answer(command.name))?;
        let ours = attributes & !wire::WRITTEN == ATTRIBUTES && size == SIZE;
        if ours { Ok(Some(attributes & wire::WRITTEN != 0)) } else { Err(TpmError::Foreign) }
    }

    fn define(&mut self) -> Result<(), TpmError> {
        self.done(&wire::define(INDEX, ATTRIBUTES, SIZE)).map(|_| ())
    }

    fn read(&mut self) -> Result<Vec<u8>, TpmError> {
        let command = wire::read(INDEX, SIZE);
        let reply = self.done(&command)?;
        wire::sized(&reply.parameters).map(<[u8]>::to_vec).ok_or(TpmError::Answer(command.name))
    }

    fn write(&mut self, record: &[u8]) -> Result<(), TpmError> {
        self.done(&wire::write(INDEX, record)).map(|_| ())
    }
}

#[cfg(test)]
mod tests;
