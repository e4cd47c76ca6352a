//! A disk that forgets what was not flushed, as real ones do when the power goes.
//!
//! Killing an emulator alone shows nothing about durability: what its guest wrote lies in the host's page cache and
//! survives. So the machine's disk is served from here (NBD over a Unix socket): a write goes into a volatile cache, a
//! flush makes the cache durable, and [`Disk::cut`] throws the cache away but for a part that chance picks sector by
//! sector, so that writes are lost, torn and reordered as no order of system calls would do it. What is durable lies in a
//! file of its own beside the disk's first state, which is never written: [`Disk::reset`] is back there at once.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufReader, BufWriter, ErrorKind, Read, Write as _};
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rand::Rng;

/// What is kept as one piece in the cache.
const BLOCK: usize = 4096;
/// What a disk writes as a whole or not at all.
const SECTOR: usize = 512;
/// How much the volatile cache holds; beyond it the disk writes some of it on its own account.
const CACHE_BLOCKS: usize = 16_384;
/// The largest request the emulator sends.
const LARGEST: u32 = 32 << 20;
/// For the emulator's connection to end after it was killed.
const GONE: Duration = Duration::from_secs(20);

const GREETING: u64 = 0x4e42_444d_4147_4943;
const OLD_STYLE: u64 = 0x0000_4202_8186_1253;
/// This server says its flags, and takes flushes.
const FLAGS: u32 = 1 | 4;
const REQUEST: u32 = 0x2560_9513;
const REPLY: u32 = 0x6744_6698;
const INVALID: u32 = 22;

type Block = Box<[u8; BLOCK]>;

/// The disk.
#[derive(Debug)]
pub(crate) struct Disk {
    socket: PathBuf,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Told when the connection ends.
    gone: Condvar,
}

#[derive(Debug)]
struct State {
    size: u64,
    first: File,
    since: File,
    /// Which blocks `since` holds.
    written: Vec<bool>,
    /// Written by the machine, not flushed.
    cache: BTreeMap<u64, Block>,
    connected: bool,
    flushes: u64,
    record: Option<Record>,
}

/// Everything that was written below an offset, and every flush, in order.
#[derive(Debug)]
struct Record {
    file: BufWriter<File>,
    below: u64,
}

/// One entry of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Entry {
    /// Bytes, and where they went.
    Write(u64, Vec<u8>),
    /// All before it is durable.
    Flush,
}

/// Read a record, entry by entry, up to its end or where it breaks off.
pub(crate) fn read_record(file: &Path) -> Result<impl Iterator<Item = Entry>> {
    let mut file = BufReader::with_capacity(1 << 20, File::open(file)?);
    Ok(std::iter::from_fn(move || {
        let mut head = [0; 12];
        file.read_exact(&mut head).ok()?;
        let (offset, length) = head.split_at(8);
        let length = usize::try_from(u32::from_be_bytes(length.try_into().ok()?)).ok()?;
        if length == 0 {
            return Some(Entry::Flush);
        }
        let mut bytes = vec![0; length];
        file.read_exact(&mut bytes).ok()?;
        Some(Entry::Write(u64::from_be_bytes(offset.try_into().ok()?), bytes))
    }))
}

/// What a cut cost.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lost {
    /// Blocks that had been written and not flushed.
    pub(crate) unflushed: usize,
    /// Sectors of them that reached the disk all the same.
    pub(crate) kept_sectors: usize,
    /// Flushes since the machine was switched on.
    pub(crate) flushes: u64,
}

impl Disk {
    /// Serve a disk that begins as the file `first`, on a socket in `dir`.
    pub(crate) fn serve(first: &Path, dir: &Path) -> Result<Self> {
        let socket = dir.join("disk.sock");
        let _ = fs::remove_file(&socket);
        let size = fs::metadata(first).with_context(|| first.display().to_string())?.len();
        ensure!(size % u64::try_from(BLOCK)? == 0, "{} is no whole number of blocks", first.display());
        let since = dir.join("since.raw");
        let since = File::options().read(true).write(true).create(true).truncate(true).open(since)?;
        let state = State {
            size,
            first: File::open(first)?,
            since,
            written: Vec::new(),
            cache: BTreeMap::new(),
            connected: false,
            flushes: 0,
            record: None,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), gone: Condvar::new() });
        shared.state().forget()?;
        let listener = UnixListener::bind(&socket).context("the disk's socket")?;
        let serving = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                {
                    let mut state = serving.state();
                    (state.connected, state.flushes) = (true, 0);
                }
                if let Err(error) = converse(&stream, &serving) {
                    eprintln!("image-test: disk: {error:#}");
                }
                serving.state().connected = false;
                serving.gone.notify_all();
            }
        });
        Ok(Self { socket, shared })
    }

    /// The power went: of what was not flushed, `keep` percent of the sectors survive. The emulator must be gone.
    pub(crate) fn cut(&self, chance: &mut impl Rng, keep: u32) -> Result<Lost> {
        let mut state = self.idle()?;
        let cache = std::mem::take(&mut state.cache);
        let mut lost = Lost { unflushed: cache.len(), kept_sectors: 0, flushes: state.flushes };
        for (number, new) in cache {
            let mut block = state.durable(number)?;
            let before = lost.kept_sectors;
            for (old, new) in block.chunks_mut(SECTOR).zip(new.chunks(SECTOR)) {
                if chance.gen_range(0..100) < keep {
                    old.copy_from_slice(new);
                    lost.kept_sectors += 1;
                }
            }
            if lost.kept_sectors > before {
                state.keep(number, &block)?;
            }
        }
        Ok(lost)
    }

    /// From here on, put on record what is written below an offset.
    pub(crate) fn record(&self, file: &Path, below: u64) -> Result<()> {
        self.shared.state().record =
            Some(Record { file: BufWriter::with_capacity(1 << 20, File::create(file)?), below });
        Ok(())
    }

    /// The record ends here.
    pub(crate) fn end_record(&self) -> Result<()> {
        let record = self.shared.state().record.take();
        record.map_or(Ok(()), |mut record| Ok(record.file.flush()?))
    }

    /// Back to the first state. The emulator must be gone.
    pub(crate) fn reset(&self) -> Result<()> {
        self.idle()?.forget()
    }

    fn idle(&self) -> Result<MutexGuard<'_, State>> {
        let state = self.shared.state();
        let (state, late) = self
            .shared
            .gone
            .wait_timeout_while(state, GONE, |state| state.connected)
            .unwrap_or_else(PoisonError::into_inner);
        ensure!(!late.timed_out(), "the emulator still holds its disk");
        Ok(state)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.socket);
        let _ = fs::remove_file(self.socket.with_file_name("since.raw"));
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn forget(&mut self) -> Result<()> {
        self.since.set_len(0)?;
        self.since.set_len(self.size)?;
        self.written = vec![false; usize::try_from(self.size)? / BLOCK];
        self.cache.clear();
        Ok(())
    }

    fn durable(&self, number: u64) -> Result<Block> {
        let mut block = Box::new([0; BLOCK]);
        let here = self.written.get(usize::try_from(number)?).copied().context("beyond the disk")?;
        let file = if here { &self.since } else { &self.first };
        file.read_exact_at(block.as_mut_slice(), number * BLOCK as u64)?;
        Ok(block)
    }

    fn keep(&mut self, number: u64, block: &[u8; BLOCK]) -> Result<()> {
        self.since.write_all_at(block, number * BLOCK as u64)?;
        *self.written.get_mut(usize::try_from(number)?).context("beyond the disk")? = true;
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.flushes += 1;
        if let Some(record) = &mut self.record {
            record.file.write_all(&[0; 12])?;
        }
        for (number, block) in std::mem::take(&mut self.cache) {
            self.keep(number, &block)?;
        }
        Ok(())
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        for_blocks(offset, buffer.len(), |number, inside, outside| {
            let to = buffer.get_mut(outside).context("a part of the request")?;
            match self.cache.get(&number) {
                Some(block) => to.copy_from_slice(block.get(inside).context("a part of the block")?),
                None => to.copy_from_slice(self.durable(number)?.get(inside).context("a part of the block")?),
            }
            Ok(())
        })
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        if let Some(record) = self.record.as_mut().filter(|record| offset < record.below && !bytes.is_empty()) {
            record.file.write_all(&offset.to_be_bytes())?;
            record.file.write_all(&u32::try_from(bytes.len())?.to_be_bytes())?;
            record.file.write_all(bytes)?;
        }
        for_blocks(offset, bytes.len(), |number, inside, outside| {
            let from = bytes.get(outside).context("a part of the request")?;
            if !self.cache.contains_key(&number) {
                let block = if from.len() == BLOCK { Box::new([0; BLOCK]) } else { self.durable(number)? };
                self.cache.insert(number, block);
            }
            let block = self.cache.get_mut(&number).context("a block that was just put there")?;
            block.get_mut(inside).context("a part of the block")?.copy_from_slice(from);
            Ok(())
        })?;
        while self.cache.len() > CACHE_BLOCKS {
            let Some((number, block)) = self.cache.pop_first() else { break };
            self.keep(number, &block)?;
        }
        Ok(())
    }
}

/// Each block that a stretch touches: its number, the part of it, the part of the stretch.
fn for_blocks(
    offset: u64,
    length: usize,
    mut each: impl FnMut(u64, std::ops::Range<usize>, std::ops::Range<usize>) -> Result<()>,
) -> Result<()> {
    let mut done = 0;
    while done < length {
        let at = offset + u64::try_from(done)?;
        let inside = usize::try_from(at % BLOCK as u64)?;
        let part = (BLOCK - inside).min(length - done);
        each(at / BLOCK as u64, inside..inside + part, done..done + part)?;
        done += part;
    }
    Ok(())
}

/// One connection, from the greeting to its end.
fn converse(stream: &UnixStream, shared: &Shared) -> Result<()> {
    let (mut from, mut to) = (BufReader::with_capacity(1 << 20, stream), stream);
    let size = shared.state().size;
    let mut greeting = Vec::with_capacity(152);
    greeting.extend(GREETING.to_be_bytes());
    greeting.extend(OLD_STYLE.to_be_bytes());
    greeting.extend(size.to_be_bytes());
    greeting.extend(FLAGS.to_be_bytes());
    greeting.resize(152, 0);
    to.write_all(&greeting)?;
    let mut buffer = Vec::new();
    loop {
        let mut head = [0; 28];
        match from.read_exact(&mut head) {
            // Switched off, or killed.
            Err(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => {
                return Ok(());
            }
            read => read?,
        }
        let request = Request::read(&head)?;
        ensure!(request.length <= LARGEST, "a request of {} bytes", request.length);
        let length = usize::try_from(request.length)?;
        buffer.resize(length, 0);
        let (mut answer, mut error) = (Vec::with_capacity(16), 0);
        let inside = request.offset.checked_add(request.length.into()).is_some_and(|end| end <= size);
        match request.kind {
            0 if inside => shared.state().read(request.offset, &mut buffer)?,
            1 => {
                match from.read_exact(&mut buffer) {
                    Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
                    read => read?,
                }
                if inside {
                    shared.state().write(request.offset, &buffer)?;
                } else {
                    error = INVALID;
                }
            }
            2 => return Ok(()),
            3 => shared.state().flush()?,
            _ => error = INVALID,
        }
        answer.extend(REPLY.to_be_bytes());
        answer.extend(error.to_be_bytes());
        answer.extend(request.cookie);
        if to.write_all(&answer).is_err() || (request.kind == 0 && error == 0 && to.write_all(&buffer).is_err()) {
            return Ok(());
        }
    }
}

struct Request {
    kind: u16,
    cookie: [u8; 8],
    offset: u64,
    length: u32,
}

impl Request {
    fn read(head: &[u8; 28]) -> Result<Self> {
        let (magic, rest) = head.split_first_chunk::<4>().context("a magic number")?;
        ensure!(u32::from_be_bytes(*magic) == REQUEST, "what the emulator says is no request");
        let (_flags, rest) = rest.split_first_chunk::<2>().context("flags")?;
        let (kind, rest) = rest.split_first_chunk::<2>().context("a kind")?;
        let (cookie, rest) = rest.split_first_chunk::<8>().context("a cookie")?;
        let (offset, rest) = rest.split_first_chunk::<8>().context("an offset")?;
        let (length, _) = rest.split_first_chunk::<4>().context("a length")?;
        Ok(Self {
            kind: u16::from_be_bytes(*kind),
            cookie: *cookie,
            offset: u64::from_be_bytes(*offset),
            length: u32::from_be_bytes(*length),
        })
    }
}

#[cfg(test)]
mod tests {

    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;

    fn request(stream: &mut UnixStream, kind: u16, offset: u64, bytes: &[u8], length: usize) -> Vec<u8> {
        let mut head = Vec::new();
        head.extend(REQUEST.to_be_bytes());
        head.extend([0, 0]);
        head.extend(kind.to_be_bytes());
        head.extend([7; 8]);
        head.extend(offset.to_be_bytes());
        head.extend(u32::try_from(length).unwrap().to_be_bytes());
        stream.write_all(&head).unwrap();
        stream.write_all(bytes).unwrap();
        let mut answer = [0; 16];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer[..8], [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0]);
        let mut data = vec![0; if kind == 0 { length } else { 0 }];
        stream.read_exact(&mut data).unwrap();
        data
    }

    fn connect(disk: &Disk) -> UnixStream {
        let mut stream = UnixStream::connect(&disk.socket).unwrap();
        stream.read_exact(&mut [0; 152]).unwrap();
        stream
    }

    #[test]
    fn a_cut_takes_what_was_not_flushed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let first = dir.path().join("first.raw");
        fs::write(&first, vec![1; 16 * BLOCK]).unwrap();
        let disk = Disk::serve(&first, dir.path()).unwrap();
        let record = dir.path().join("record");
        disk.record(&record, 4096).unwrap();
        let mut stream = connect(&disk);
        request(&mut stream, 1, 0, &[2; 5000], 5000);
        request(&mut stream, 3, 0, &[], 0);
        request(&mut stream, 1, 512, &[3; 512], 512);
        request(&mut stream, 1, 40_960, &[4; 8192], 8192);
        let seen = request(&mut stream, 0, 0, &[], 8192);
        assert!(seen[..512] == [2; 512] && seen[512..1024] == [3; 512] && seen[1024..5000] == [2; 3976]);
        assert!(seen[5000..] == [1; 3192]);
        drop(stream);
        let lost = disk.cut(&mut StdRng::seed_from_u64(1), 0).unwrap();
        assert_eq!((lost.unflushed, lost.kept_sectors, lost.flushes), (3, 0, 1));
        disk.end_record().unwrap();
        let record: Vec<Entry> = read_record(&record).unwrap().collect();
        assert_eq!(record, [Entry::Write(0, vec![2; 5000]), Entry::Flush, Entry::Write(512, vec![3; 512])]);
        let mut stream = connect(&disk);
        let seen = request(&mut stream, 0, 0, &[], 16 * BLOCK);
        assert!(seen[..5000] == [2; 5000] && seen[5000..].iter().all(|byte| *byte == 1));

        // Of many sectors, some survive and some do not.
        request(&mut stream, 1, 0, &[5; 16 * BLOCK], 16 * BLOCK);
        drop(stream);
        let lost = disk.cut(&mut StdRng::seed_from_u64(1), 50).unwrap();
        assert!(lost.kept_sectors > 30 && lost.kept_sectors < 98, "{lost:?}");
        let mut stream = connect(&disk);
        let seen = request(&mut stream, 0, 0, &[], 16 * BLOCK);
        let kept = seen.chunks(SECTOR).filter(|sector| sector.iter().all(|byte| *byte == 5)).count();
        assert_eq!(kept, lost.kept_sectors);
        drop(stream);
        disk.reset().unwrap();
        let seen = request(&mut connect(&disk), 0, 0, &[], 16 * BLOCK);
        assert!(seen.iter().all(|byte| *byte == 1));
    }
}
