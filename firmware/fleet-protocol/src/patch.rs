//! What a patch between two versions of a root consists of: "take so many bytes of the old one from there", "take so many
//! bytes from here". Whoever applies it holds neither of the two in memory. The whole of it is packed with zstd.
//!
//! ```text
//! magic, then one operation after the other:   1 from:u64 length:u64 | 2 length:u64 bytes… | 0      (little endian)
//! ```

use std::io::{self, Read, Write};

/// How a patch begins, unpacked.
pub const MAGIC: [u8; 16] = *b"millrace patch 1";
/// The window a patch may ask zstd for, as its logarithm: 16 MiB.
pub const WINDOW_LOG: u32 = 24;

/// One operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Take `length` bytes of the old one, beginning at `from`.
    Copy {
        /// Offset in the old one, bytes.
        from: u64,
        /// Bytes.
        length: u64,
    },
    /// Take the `length` bytes that follow.
    Data {
        /// Bytes.
        length: u64,
    },
    /// That was all.
    End,
}

impl Op {
    /// Reads one.
    ///
    /// # Errors
    /// Those of `source`; `InvalidData` when it is no operation.
    pub fn read(source: &mut impl Read) -> io::Result<Self> {
        let mut tag = [0];
        source.read_exact(&mut tag)?;
        let mut number = || {
            let mut bytes = [0; 8];
            source.read_exact(&mut bytes).map(|()| u64::from_le_bytes(bytes))
        };
        match tag {
            [0] => Ok(Self::End),
            [1] => Ok(Self::Copy { from: number()?, length: number()? }),
            [2] => Ok(Self::Data { length: number()? }),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "no operation of a patch")),
        }
    }

    /// Writes it; the bytes of [`Op::Data`] are for the caller to write after it.
    ///
    /// # Errors
    /// Those of `sink`.
    pub fn write(self, sink: &mut impl Write) -> io::Result<()> {
        let (tag, numbers) = match self {
            Self::End => (0, [None, None]),
            Self::Copy { from, length } => (1, [Some(from), Some(length)]),
            Self::Data { length } => (2, [Some(length), None]),
        };
        sink.write_all(&[tag])?;
        numbers.into_iter().flatten().try_for_each(|number| sink.write_all(&number.to_le_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_read_as_they_were_written() {
        let ops =
            [Op::Copy { from: 1 << 40, length: 4096 }, Op::Data { length: 0 }, Op::Data { length: u64::MAX }, Op::End];
        let mut bytes = Vec::new();
        ops.iter().for_each(|op| op.write(&mut bytes).unwrap());
        assert_eq!(bytes.len(), 17 + 9 + 9 + 1);
        let mut source = bytes.as_slice();
        for op in ops {
            assert_eq!(Op::read(&mut source).unwrap(), op);
        }
        assert_eq!(Op::read(&mut source).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(Op::read(&mut [3_u8].as_slice()).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
