//! The luma of a YUV4MPEG2 stream, frame by frame.
//!
//! Such a stream is what people pipe out of `ffmpeg -f yuv4mpegpipe`: a line about the pictures, then a line and
//! the planes of each. Only one frame is held at a time, lines and pictures are bounded, and whatever else a
//! stream holds is an error and never a panic.

use std::io::{self, BufRead, Read};

use crate::{TimeBase, narrow};

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
    /// A colour format other than planes of 8, 10 or 12 bits with the luma first.
    #[error("colour format {0:?} is not one of planes of 8, 10 or 12 bits")]
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
    /// Bits per sample.
    depth: u32,
    /// The luma of the latest frame, as it came and as 8 bits.
    plane: Vec<u8>,
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
        let (mut width, mut height, mut rate, mut colour, mut full) = (None, None, None, "420", false);
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
            } else if word == "XCOLORRANGE=FULL" {
                full = true;
            }
        }
        let width = width.filter(|width| *width > 0).ok_or(Error::Parameter { name: 'W' })?;
        let height = height.filter(|height| *height > 0).ok_or(Error::Parameter { name: 'H' })?;
        let time_base = rate.ok_or(Error::Parameter { name: 'F' })?;
        let pixels = u64::from(width) * u64::from(height);
        if pixels > MOST_PIXELS {
            return Err(Error::TooLarge { width, height });
        }
        let (layout, depth) = depth(colour, full)?;
        let bytes = if depth > 8 { 2 } else { 1 };
        let others = others(layout, u64::from(width), u64::from(height)).ok_or(Error::Colour(colour.to_owned()))?;
        let others = others * bytes;
        let plane = vec![0; usize::try_from(pixels * bytes).map_err(|_| Error::TooLarge { width, height })?];
        Ok(Self { stream, width, height, time_base, depth, plane, luma: Vec::new(), others, frames: 0 })
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

    /// The luma of the next frame as 8 bits, its rows without anything between them; `None` after the last.
    ///
    /// # Errors
    /// [`Error::Frame`], [`Error::Truncated`], [`Error::Line`] or [`Error::Read`]. Nothing more can be read then.
    pub fn next_frame(&mut self) -> Result<Option<&[u8]>, Error> {
        let number = self.frames;
        let Some(line) = line(&mut self.stream)? else { return Ok(None) };
        if line != b"FRAME" && !line.starts_with(b"FRAME ") {
            return Err(Error::Frame { number });
        }
        self.stream.read_exact(&mut self.plane).map_err(|error| truncated(error, number))?;
        let skipped = io::copy(&mut self.stream.by_ref().take(self.others), &mut io::sink())?;
        if skipped < self.others {
            return Err(Error::Truncated { number });
        }
        self.frames += 1;
        if self.depth == 8 {
            return Ok(Some(&self.plane));
        }
        let size = (self.width as usize, self.height as usize);
        self.luma = narrow::little_endian(&self.plane, size.0 * 2, size, self.depth)
            .expect("a plane of this size and depth was made by us");
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

/// The arrangement of the planes of a colour format, and the bits of its samples.
fn depth(colour: &str, full: bool) -> Result<(&str, u32), Error> {
    let deep = [("p10", 10), ("p12", 12)];
    match deep.iter().find_map(|(mark, depth)| Some((colour.strip_suffix(mark)?, *depth))) {
        // FFmpeg narrows full range another way.
        Some(_) if full => Err(Error::Colour(format!("{colour} of full range"))),
        Some(found) => Ok(found),
        None => Ok((colour, 8)),
    }
}

/// Samples behind the luma of a frame of this arrangement.
fn others(layout: &str, width: u64, height: u64) -> Option<u64> {
    let (half_width, half_height) = (width.div_ceil(2), height.div_ceil(2));
    Some(match layout {
        "mono" => 0,
        "420" | "420jpeg" | "420mpeg2" | "420paldv" => 2 * half_width * half_height,
        "411" => 2 * width.div_ceil(4) * height,
        "422" => 2 * half_width * height,
        "444" => 2 * width * height,
        "444alpha" => 3 * width * height,
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
