//! RTMP's chunk stream: messages cut into pieces that are woven together.
use std::collections::BTreeMap;

/// Largest message: a key frame of a very large picture.
const MAX_MESSAGE: usize = 16 << 20;
/// All messages under way together.
const MAX_HELD: usize = 32 << 20;
/// Chunk streams a peer may open.
const MAX_STREAMS: usize = 64;
/// The length of a chunk until a peer says otherwise.
const FIRST_CHUNK: usize = 128;
/// In a time stamp: the true one follows.
const EXTENDED: u32 = 0x00ff_ffff;

/// Why a chunk stream cannot be read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ChunkError {
    #[error("a message of {0} bytes is too large")]
    Message(usize),
    #[error("too many chunk streams, or too much in them")]
    Held,
    #[error("a chunk refers to a header that never came")]
    Header,
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) kind: u8,
    pub(crate) stream: u32,
    pub(crate) timestamp: u32,
    pub(crate) payload: Vec<u8>,
}

#[derive(Debug, Default)]
struct Weave {
    known: bool,
    /// Time stamp or step as last sent.
    field: u32,
    extended: bool,
    timestamp: u32,
    length: usize,
    kind: u8,
    stream: u32,
    payload: Vec<u8>,
}

/// Puts messages together.
#[derive(Debug)]
pub(crate) struct Reader {
    bytes: Vec<u8>,
    /// How much of them has been read.
    at: usize,
    chunk: usize,
    weaves: BTreeMap<u32, Weave>,
}

impl Default for Reader {
    fn default() -> Self {
        Self { bytes: Vec::new(), at: 0, chunk: FIRST_CHUNK, weaves: BTreeMap::new() }
    }
}

impl Reader {
    /// The peer says how long its chunks are from now on.
    pub(crate) fn set_chunk(&mut self, length: u32) {
        self.chunk = usize::try_from(length & 0x7fff_ffff).unwrap_or(MAX_MESSAGE).clamp(1, MAX_MESSAGE);
    }

    /// Forgets a message that was begun.
    pub(crate) fn abort(&mut self, weave: u32) {
        if let Some(weave) = self.weaves.get_mut(&weave) {
            weave.payload = Vec::new();
        }
    }

    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole message, if there is one.
    pub(crate) fn next(&mut self) -> Result<Option<Message>, ChunkError> {
        loop {
            let Some((at, done)) = self.chunk()? else {
                self.bytes.drain(..self.at);
                self.at = 0;
                return Ok(None);
            };
            self.at = at;
            if done.is_some() {
                return Ok(done);
            }
        }
    }

    /// Reads one chunk: where the next one begins, and the message that it ends. `None` when it has not all arrived.
    fn chunk(&mut self) -> Result<Option<(usize, Option<Message>)>, ChunkError> {
        let held: usize = self.weaves.values().map(|weave| weave.payload.len()).sum();
        let streams = self.weaves.len();
        let mut cursor = Cursor { bytes: &self.bytes, at: self.at };
        let Some([first]) = cursor.take() else { return Ok(None) };
        let number = match first & 0x3f {
            0 => cursor.take().map(|[b]| u32::from(b) + 64),
            1 => cursor.take().map(|[low, high]| u32::from(low) + u32::from(high) * 256 + 64),
            small => Some(small.into()),
        };
        let Some(number) = number else { return Ok(None) };
        if !self.weaves.contains_key(&number) && streams >= MAX_STREAMS {
            return Err(ChunkError::Held);
        }
        let format = first >> 6;
        let head: Option<Vec<u8>> = cursor.some([11, 7, 3, 0][usize::from(format)]).map(<[u8]>::to_vec);
        let Some(head) = head else { return Ok(None) };
        let weave = self.weaves.entry(number).or_default();
        if format != 0 && !weave.known {
            return Err(ChunkError::Header);
        }
        let number24 = |at: usize| {
            head.get(at..at + 3).map_or(0, |b| b.iter().fold(0u32, |sum, byte| sum << 8 | u32::from(*byte)))
        };
        let (field, extended) =
            if format == 3 { (weave.field, weave.extended) } else { (number24(0), number24(0) == EXTENDED) };
        let long = if extended {
            let Some(long) = cursor.take() else { return Ok(None) };
            Some(u32::from_be_bytes(long))
        } else {
            None
        };
        let (mut length, mut kind, mut stream) = (weave.length, weave.kind, weave.stream);
        if format <= 1 {
            length = usize::try_from(number24(3)).unwrap_or(MAX_MESSAGE + 1);
            kind = head.get(6).copied().unwrap_or_default();
        }
        if format == 0 {
            stream = head.get(7..11).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes);
        }
        if length > MAX_MESSAGE {
            return Err(ChunkError::Message(length));
        }
        if held.saturating_add(length) > MAX_HELD {
            return Err(ChunkError::Held);
        }
        // A header in the middle of a message begins it anew.
        let before = if format == 3 { weave.payload.len() } else { 0 };
        let take = length.saturating_sub(before).min(self.chunk);
        let Some(piece) = cursor.some(take) else { return Ok(None) };
        let piece = piece.to_vec();
        let used = cursor.at;
        if before == 0 {
            let step = long.unwrap_or(field);
            weave.payload.clear();
            weave.timestamp = if format == 0 { step } else { weave.timestamp.wrapping_add(step) };
        }
        weave.known = true;
        (weave.field, weave.extended, weave.length, weave.kind, weave.stream) = (field, extended, length, kind, stream);
        weave.payload.extend_from_slice(&piece);
        let done = (weave.payload.len() >= length).then(|| Message {
            kind,
            stream,
            timestamp: weave.timestamp,
            payload: std::mem::take(&mut weave.payload),
        });
        Ok(Some((used, done)))
    }
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.some(N)?.try_into().ok()
    }

    fn some(&mut self, count: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(count)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }
}

/// Writes a message that fits 24 bits of length, at time 0.
pub(crate) fn write(out: &mut Vec<u8>, weave: u8, kind: u8, stream: u32, payload: &[u8]) {
    let [_, l1, l2, l3] = u32::try_from(payload.len()).unwrap_or(EXTENDED).to_be_bytes();
    out.extend_from_slice(&[weave & 0x3f, 0, 0, 0, l1, l2, l3, kind]);
    out.extend_from_slice(&stream.to_le_bytes());
    for (index, piece) in payload.chunks(FIRST_CHUNK).enumerate() {
        if index > 0 {
            out.push(0xc0 | weave & 0x3f);
        }
        out.extend_from_slice(piece);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_written_reads_back_however_it_arrives() {
        let payload: Vec<u8> = (0..1000u32).map(|n| n.to_le_bytes()[0]).collect();
        let mut wire = Vec::new();
        write(&mut wire, 3, 20, 1, &payload);
        write(&mut wire, 4, 9, 1, &[7]);
        for piece in [1, 100, wire.len()] {
            let mut reader = Reader::default();
            let mut messages = Vec::new();
            for bytes in wire.chunks(piece) {
                reader.feed(bytes);
                while let Some(message) = reader.next().unwrap() {
                    messages.push(message);
                }
            }
            assert_eq!(messages.len(), 2);
            assert_eq!((messages[0].kind, &messages[0].payload), (20, &payload));
            assert_eq!((messages[1].kind, messages[1].payload.as_slice()), (9, &[7][..]));
        }
    }

    #[test]
    fn times_add_up_over_short_headers_and_long_ones_are_read() {
        let mut reader = Reader::default();
        reader.feed(&[4, 0, 0, 10, 0, 0, 1, 9, 1, 0, 0, 0, 0xaa]);
        reader.feed(&[0x44, 0, 0, 5, 0, 0, 1, 8, 0xbb, 0x84, 0, 0, 7, 0xcc, 0xc4, 0xdd]);
        reader.feed(&[4, 0xff, 0xff, 0xff, 0, 0, 1, 9, 1, 0, 0, 0, 2, 0, 0, 0, 0xee]);
        let mut seen = Vec::new();
        while let Some(message) = reader.next().unwrap() {
            seen.push((message.timestamp, message.kind, message.payload));
        }
        assert_eq!(
            seen,
            [
                (10, 9, vec![0xaa]),
                (15, 8, vec![0xbb]),
                (22, 8, vec![0xcc]),
                (29, 8, vec![0xdd]),
                (0x0200_0000, 9, vec![0xee])
            ]
        );
    }

    #[test]
    fn what_a_hostile_peer_opens_is_bounded() {
        let mut reader = Reader::default();
        reader.feed(&[0xc5]);
        assert_eq!(reader.next(), Err(ChunkError::Header));
        let mut reader = Reader::default();
        reader.feed(&[4, 0, 0, 0, 0xff, 0xff, 0xff, 9, 1, 0, 0, 0]);
        assert_eq!(reader.next(), Ok(None), "sixteen megabytes less one byte are allowed");
        let mut reader = Reader::default();
        for weave in 2..63u8 {
            reader.feed(&[weave, 0, 0, 0, 0, 0, 200, 9, 1, 0, 0, 0]);
            reader.feed(&[0; 128]);
        }
        assert_eq!(reader.next(), Ok(None));
        for more in 0..10 {
            reader.feed(&[0, more, 0, 0, 0, 0, 0, 200, 9, 1, 0, 0, 0]);
            reader.feed(&[0; 128]);
        }
        assert_eq!(reader.next(), Err(ChunkError::Held));
    }
}
