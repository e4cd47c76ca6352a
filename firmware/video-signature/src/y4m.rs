//! The luma of a YUV4MPEG2 stream, frame by frame.
//!
//! Such a stream is what people pipe out of `ffmpeg -f yuv4mpegpipe`: a line about the pictures, then a line and
//! the planes of each. Only one frame is held at a time, lines and pictures are bounded, and whatever else a
//! stream holds is an error and never a panic.

use std::io::{self, BufRead, Read};

use crate::TimeBase;

/// Bytes a line may have; real ones have about eighty.
const LONGEST_LINE: u64 = 1024;

/// Pixels a picture may have: 8192×8192.
const MOST_PIXELS: u64 = 1 << 26;

/// Why a stream cannot be read on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The stream could not be read.
    #[error("the stream could not be read")]
    Read(#[from] io::Error),
    /// The first line is not that of a YUV4MPEG2 stream.
    #[error("not a YUV4MPEG2 stream")]
    Magic,
    /// A line without an end.
    #[error("a line of the stream is longer than {LONGEST_LINE} bytes or ends with the stream")]
    Line,
    /// A parameter of the first line that is missing or makes no sense.
    #[error("the stream's parameter {name} is missing or wrong")]
    Parameter {
        /// The letter that introduces it.
        name: char,
    },
    /// More pixels than are read.
    #[error("pictures of {width}x{height} are too large")]
    TooLarge {
        /// Pixels per row.
        width: u32,
        /// Rows.
        height: u32,
    },
    /// A colour format other than 8-bit planes with the luma first.
    #[error("colour format {0:?} is not one of 8-bit planes")]
    Colour(String),
    /// Something other than a frame where a frame was due.
    #[error("frame {number} does not begin as a frame does")]
    Frame {
        /// The frame's number, from 0.
        number: u64,
    },
    /// The stream ended within a frame.
    #[error("the stream ends within frame {number}")]
    Truncated {
        /// The frame's number, from 0.
        number: u64,
    },
}

/// A stream after its first line.
#[derive(Debug)]
pub struct Reader<R> {
    stream: R,
    width: u32,
    height: u32,
    time_base: TimeBase,
    /// The luma of the latest frame.
    luma: Vec<u8>,
    /// Bytes of chroma, and of transparency, behind the luma of each frame.
    others: u64,
    frames: u64,
}

impl<R: BufRead> Reader<R> {
    /// Reads the first line.
    ///
    /// # Errors
    /// Any [`Error`] but those of a frame.
    pub fn new(mut stream: R) -> Result<Self, Error> {
        let line = line(&mut stream)?.ok_or(Error::Magic)?;
        let line = str::from_utf8(&line).map_err(|_| Error::Magic)?;
        let mut words = line.split(' ');
        if words.next() != Some("YUV4MPEG2") {
            return Err(Error::Magic);
        }
        let (mut width, mut height, mut rate, mut colour) = (None, None, None, "420");
        for word in words {
            if let Some(value) = word.strip_prefix('W') {
                width = value.parse::<u32>().ok();
            } else if let Some(value) = word.strip_prefix('H') {
                height = value.parse::<u32>().ok();
            } else if let Some(value) = word.strip_prefix('F') {
                rate = value
                    .split_once(':')
                    .and_then(|(frames, seconds)| TimeBase::new(seconds.parse().ok()?, frames.parse().ok()?).ok());
            } else if let Some(value) = word.strip_prefix('C') {
                colour = value;
            }
        }
        let width = width.filter(|width| *width > 0).ok_or(Error::Parameter { name: 'W' })?;
        let height = height.filter(|height| *height > 0).ok_or(Error::Parameter { name: 'H' })?;
        let time_base = rate.ok_or(Error::Parameter { name: 'F' })?;
        let pixels = u64::from(width) * u64::from(height);
        if pixels > MOST_PIXELS {
            return Err(Error::TooLarge { width, height });
        }
        let others = others(colour, u64::from(width), u64::from(height))?;
        let luma = vec![0; usize::try_from(pixels).map_err(|_| Error::TooLarge { width, height })?];
        Ok(Self { stream, width, height, time_base, luma, others, frames: 0 })
    }

    /// Pixels per row.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// The time base in which frames count 0, 1, 2…: the inverse of the frame rate.
    pub fn time_base(&self) -> TimeBase {
        self.time_base
    }

    /// The luma of the next frame, its rows without anything between them; `None` after the last.
    ///
    /// # Errors
    /// [`Error::Frame`], [`Error::Truncated`], [`Error::Line`] or [`Error::Read`]. Nothing more can be read then.
    pub fn next_frame(&mut self) -> Result<Option<&[u8]>, Error> {
        let number = self.frames;
        let Some(line) = line(&mut self.stream)? else { return Ok(None) };
        if line != b"FRAME" && !line.starts_with(b"FRAME ") {
            return Err(Error::Frame { number });
        }
        self.stream.read_exact(&mut self.luma).map_err(|error| truncated(error, number))?;
        let skipped = io::copy(&mut self.stream.by_ref().take(self.others), &mut io::sink())?;
        if skipped < self.others {
            return Err(Error::Truncated { number });
        }
        self.frames += 1;
        Ok(Some(&self.luma))
    }
}

fn truncated(error: io::Error, number: u64) -> Error {
    if error.kind() == io::ErrorKind::UnexpectedEof { Error::Truncated { number } } else { Error::Read(error) }
}

/// The next line without its end; `None` at the end of the stream.
fn line(stream: &mut impl BufRead) -> Result<Option<Vec<u8>>, Error> {
    let mut line = Vec::new();
    stream.take(LONGEST_LINE).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Ok(None);
    }
    line.pop_if(|last| *last == b'\n').map(|_| Some(line)).ok_or(Error::Line)
}

/// Bytes behind the luma of a frame of this colour format.
fn others(colour: &str, width: u64, height: u64) -> Result<u64, Error> {
    let (half_width, half_height) = (width.div_ceil(2), height.div_ceil(2));
    match colour {
        "mono" => Ok(0),
        "420" | "420jpeg" | "420mpeg2" | "420paldv" => Ok(2 * half_width * half_height),
        "411" => Ok(2 * width.div_ceil(4) * height),
        "422" => Ok(2 * half_width * height),
        "444" => Ok(2 * width * height),
        "444alpha" => Ok(3 * width * height),
        other => Err(Error::Colour(other.to_owned())),
    }
}

#[cfg(test)]
mod tests;
