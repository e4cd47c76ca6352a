//! Frames in, file out.

use crate::cells::Cells;
use crate::file::{self, Head};
use crate::frame::FrameSignature;
use crate::means::Scale;

/// Pixels a picture must at least be wide and high: one per cell of the grid.
pub const SMALLEST_SIDE: u32 = 32;

/// Pixels a picture may be wide and high: the file has 16 bits for the last one.
pub const LARGEST_SIDE: u32 = 1 << 16;

/// Why a picture, a clock or a frame cannot be signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A side without pixels.
    #[error("a picture of {width}x{height} has no pixels")]
    NoPixels {
        /// Pixels per row.
        width: u32,
        /// Rows.
        height: u32,
    },
    /// Fewer pixels than cells; the signature of such a picture is not defined.
    #[error("a picture of {width}x{height} is too small: a signature needs {SMALLEST_SIDE} pixels a side")]
    TooSmall {
        /// Pixels per row.
        width: u32,
        /// Rows.
        height: u32,
    },
    /// More pixels than the file can name.
    #[error("a picture of {width}x{height} is too large: a signature has room for {LARGEST_SIDE} pixels a side")]
    TooLarge {
        /// Pixels per row.
        width: u32,
        /// Rows.
        height: u32,
    },
    /// A time base with a zero in it.
    #[error("a time base of {numerator}/{denominator} does not count time")]
    ZeroTimeBase {
        /// Seconds, …
        numerator: u32,
        /// … in this many ticks.
        denominator: u32,
    },
    /// Rows that overlap.
    #[error("a stride of {stride} bytes is less than the width of {width} pixels")]
    StrideTooNarrow {
        /// Bytes from one row to the next.
        stride: usize,
        /// Pixels per row.
        width: usize,
    },
    /// A plane that ends within the picture.
    #[error("a luma plane of {length} bytes is too short: {needed} are needed")]
    PlaneTooShort {
        /// Bytes given.
        length: usize,
        /// Bytes up to the last pixel.
        needed: usize,
    },
    /// Samples of a depth that is not narrowed here.
    #[error("luma of {depth} bits cannot be signed, only of 8, 10 and 12")]
    Depth {
        /// Bits per sample.
        depth: u32,
    },
    /// One frame more than the limit.
    #[error("a signature of more than {most} frames was asked for")]
    TooManyFrames {
        /// Frames that were taken.
        most: u32,
    },
}

/// The length of a tick: `numerator / denominator` seconds, as in FFmpeg.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeBase {
    numerator: u32,
    denominator: u32,
}

impl TimeBase {
    /// The clock of MPEG-TS: 90 000 ticks a second.
    pub const MPEG: Self = Self { numerator: 1, denominator: 90_000 };

    /// A tick of `numerator / denominator` seconds.
    ///
    /// # Errors
    /// [`Error::ZeroTimeBase`] if either is zero.
    pub fn new(numerator: u32, denominator: u32) -> Result<Self, Error> {
        if numerator == 0 || denominator == 0 {
            return Err(Error::ZeroTimeBase { numerator, denominator });
        }
        Ok(Self { numerator, denominator })
    }

    /// Whole ticks per second; the file has room for the low 16 bits (24 464 for [`TimeBase::MPEG`]).
    fn media_time_unit(self) -> u16 {
        let [.., high, low] = (self.denominator / self.numerator).to_be_bytes();
        u16::from_be_bytes([high, low])
    }
}

/// The signature of a sequence of frames of one size, under construction.
///
/// ```
/// use video_signature::{Signer, TimeBase};
///
/// let mut signer = Signer::new(64, 48, TimeBase::new(1, 30)?)?;
/// for pts in 0..60 {
///     signer.push(pts, &[128; 64 * 48], 64)?;
/// }
/// assert_eq!(signer.finish().len(), 5538);
/// # Ok::<(), video_signature::Error>(())
/// ```
#[derive(Debug)]
pub struct Signer {
    head: Head,
    width: usize,
    height: usize,
    cells: Cells,
    scale: Scale,
    most: u32,
    frames: Vec<FrameSignature>,
}

impl Signer {
    /// A signer for pictures of this many pixels, whose times count ticks of `time_base`.
    ///
    /// # Errors
    /// [`Error::NoPixels`], [`Error::TooSmall`] or [`Error::TooLarge`] for a size without a signature. (FFmpeg's
    /// filter crashes on a side below 32.)
    pub fn new(width: u32, height: u32, time_base: TimeBase) -> Result<Self, Error> {
        if width == 0 || height == 0 {
            return Err(Error::NoPixels { width, height });
        }
        if width < SMALLEST_SIDE || height < SMALLEST_SIDE {
            return Err(Error::TooSmall { width, height });
        }
        let (Ok(last_column), Ok(last_row)) = (u16::try_from(width - 1), u16::try_from(height - 1)) else {
            return Err(Error::TooLarge { width, height });
        };
        let head = Head { last_pixel: (last_column, last_row), media_time_unit: time_base.media_time_unit() };
        let scale = Scale::new(u64::from(width), u64::from(height));
        let (width, height) = (usize::from(last_column) + 1, usize::from(last_row) + 1);
        let cells = Cells::new(width, height);
        Ok(Self { head, width, height, cells, scale, most: u32::MAX, frames: Vec::new() })
    }

    /// The same signer, which takes at most this many frames; without a limit of its own, what 32 bits count.
    #[must_use]
    pub fn with_limit(self, most: u32) -> Self {
        Self { most, ..self }
    }

    /// Adds the next frame: its presentation time in ticks and its luma, row by row from the top, `stride` bytes
    /// from one row to the next. Bytes between and after the rows are not looked at.
    ///
    /// Times should increase, since readers of the file find frames by them; they are stored modulo 2³².
    ///
    /// # Errors
    /// [`Error::StrideTooNarrow`], [`Error::PlaneTooShort`] or [`Error::TooManyFrames`]; the signer is then as
    /// it was before.
    pub fn push(&mut self, pts: i64, luma: &[u8], stride: usize) -> Result<(), Error> {
        if stride < self.width {
            return Err(Error::StrideTooNarrow { stride, width: self.width });
        }
        let needed = stride.saturating_mul(self.height - 1).saturating_add(self.width);
        if luma.len() < needed {
            return Err(Error::PlaneTooShort { length: luma.len(), needed });
        }
        if u32::try_from(self.frames.len()).is_ok_and(|frames| frames >= self.most) {
            return Err(Error::TooManyFrames { most: self.most });
        }
        let [_, _, _, _, low @ ..] = pts.to_be_bytes();
        let sums = self.cells.sum(luma, stride);
        self.frames.push(FrameSignature::new(u32::from_be_bytes(low), &sums, &self.scale));
        Ok(())
    }

    /// Frames taken so far.
    #[must_use]
    pub fn frames(&self) -> usize {
        self.frames.len()
    }

    /// The file: ⌈(275 + 1344·⌈n/45⌉ + 689·n)/8⌉ bytes for n frames. Without a frame there is no
    /// signature, hence no byte. (FFmpeg's filter crashes then.)
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        if self.frames.is_empty() {
            return Vec::new();
        }
        file::write(self.head, &self.frames)
    }
}

#[cfg(test)]
mod tests;
