//! Do two signatures show the same pictures? The question a gateway asks of two orchestrators' files.
//!
//! ```text
//! read ── frames of both ── pairs of similar frames, 90 against 90 ── votes for a speed and an offset
//!      ── walk along the best votes in both directions ── whole, part or nothing
//! ```
//! The thresholds are those of the stock gateway. A clip of one or two frames matches nothing there, not even
//! itself, and so it is here.
use crate::frame::DIGIT_BYTES;

/// Frames from the start of one coarse segment to the start of the next.
const SEGMENT_STEP: usize = 45;

/// Frames closer than this are similar: the sum of the differences of 380 digits.
const SIMILAR: u32 = 116;
/// Frames of one side that are held against each other at once.
const STRETCH: usize = 2 * SEGMENT_STEP;
/// Speeds are counted in thirtieths of a frame per frame, up to two.
const SPEEDS: usize = 60;
/// Votes that come so close to the most are looked into.
const CLOSE: f64 = 0.7;
/// Unlike frames in a row that end a match.
const UNLIKE: u32 = 2;
/// Frames a signature may have here: five minutes at sixty a second.
const MOST_FRAMES: usize = 18_000;

/// What two signatures have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Match {
    /// Nothing.
    None,
    /// Some of it.
    Part,
    /// One of them from its first frame to its last.
    Whole,
}

/// A file that is no signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// Shorter than its numbers say.
    #[error("the signature is cut short")]
    Short,
    /// Not of the kind that the filter writes: one region, the whole picture, not compressed.
    #[error("not a video signature of a whole picture")]
    Kind,
    /// More frames than a segment has.
    #[error("the signature has more than {MOST_FRAMES} frames")]
    TooLong,
}

/// A signature as read from its file.
#[derive(Debug, Clone)]
pub struct Signature {
    width: u32,
    height: u32,
    frames: Vec<Frame>,
}

#[derive(Debug, Clone)]
struct Frame {
    confidence: u8,
    digits: [u8; DIGIT_BYTES],
}

impl Signature {
    /// Reads a file.
    ///
    /// # Errors
    /// [`ReadError`] when it is none.
    pub fn read(file: &[u8]) -> Result<Self, ReadError> {
        let mut bits = Bits { bytes: file, at: 0 };
        let mut next = |count| bits.take(count).ok_or(ReadError::Short);
        let (regions, whole) = (next(32)?, next(1)?);
        if (regions, whole) != (1, 1) {
            return Err(ReadError::Kind);
        }
        next(32)?;
        let (width, height) = (next(16)? + 1, next(16)? + 1);
        next(32)?;
        let count = usize::try_from(next(32)?).map_err(|_| ReadError::TooLong)?;
        if count > MOST_FRAMES {
            return Err(ReadError::TooLong);
        }
        next(16)?;
        let timed = next(1)?;
        next(32)?;
        next(32)?;
        let segments = next(32)?;
        if timed != 1 || usize::try_from(segments).ok() != Some(count.div_ceil(SEGMENT_STEP)) {
            return Err(ReadError::Kind);
        }
        for _ in 0..segments {
            // Frame numbers, flag, times, five bags of 243 words.
            for field in [32, 32, 1, 32, 32] {
                next(field)?;
            }
            bits_of_bags(&mut next)?;
        }
        if next(1)? != 0 {
            return Err(ReadError::Kind);
        }
        let mut frames = Vec::with_capacity(count);
        for _ in 0..count {
            next(1)?;
            next(32)?;
            let confidence = byte(next(8)?);
            for _ in 0..5 {
                next(8)?;
            }
            let mut digits = [0; DIGIT_BYTES];
            for digit in &mut digits {
                *digit = byte(next(8)?);
            }
            frames.push(Frame { confidence, digits });
        }
        Ok(Self { width, height, frames })
    }

    /// Width and height of the pictures.
    #[must_use]
    pub fn size(&self) -> (u32, u32) {
        (self.width, self.height)
    }

    /// How many pictures there are.
    #[must_use]
    pub fn frames(&self) -> usize {
        self.frames.len()
    }

    /// What it has in common with another one.
    #[must_use]
    pub fn compare(&self, other: &Self) -> Match {
        let (ours, theirs) = (&self.frames, &other.frames);
        let stretches = |count: usize| (0..count.div_ceil(SEGMENT_STEP)).map(|n| n * SEGMENT_STEP);
        let mut best = Match::None;
        for a in stretches(ours.len()) {
            for b in stretches(theirs.len()) {
                for line in lines(stretch(ours, a), stretch(theirs, b)) {
                    best = best.max(walk(ours, theirs, (a + line.a, b + line.b), line.speed));
                    if best == Match::Whole {
                        return best;
                    }
                }
            }
        }
        best
    }
}

/// A big-endian bit string, read from its start.
struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    /// The next bits as a number; at most 32.
    fn take(&mut self, count: u32) -> Option<u32> {
        let mut value = 0u64;
        for _ in 0..count {
            let byte = self.bytes.get(self.at / 8)?;
            value = value << 1 | u64::from(byte >> (7 - self.at % 8) & 1);
            self.at += 1;
        }
        u32::try_from(value).ok()
    }
}

fn bits_of_bags(next: &mut impl FnMut(u32) -> Result<u32, ReadError>) -> Result<(), ReadError> {
    for _ in 0..5 {
        for field in [32, 32, 32, 32, 32, 32, 32, 19] {
            next(field)?;
        }
    }
    Ok(())
}

fn byte(value: u32) -> u8 {
    u8::try_from(value).unwrap_or(u8::MAX)
}

/// The frames from `from` on that are held against others: the last one of a list is not among them.
fn stretch(frames: &[Frame], from: usize) -> &[Frame] {
    let rest = frames.get(from..).unwrap_or_default();
    let taken = rest.get(..rest.len().min(STRETCH)).unwrap_or_default();
    taken.split_last().map_or(&[], |(_, most)| most)
}

/// Sum of the differences of the digits, five to a byte.
fn distance(a: &Frame, b: &Frame) -> u32 {
    a.digits.iter().zip(&b.digits).map(|(a, b)| difference(*a, *b)).sum()
}

fn difference(mut a: u8, mut b: u8) -> u32 {
    let mut sum = 0;
    for _ in 0..5 {
        sum += u32::from((a % 3).abs_diff(b % 3));
        (a, b) = (a / 3, b / 3);
    }
    sum
}

/// A guess how two stretches lie along each other: through these two frames, at this many thirtieths of a frame of
/// the second per frame of the first.
#[derive(Debug, Clone, Copy)]
struct Line {
    a: usize,
    b: usize,
    speed: usize,
}

/// The nearest frames on the other side of one frame.
struct Near {
    distance: u32,
    others: Vec<usize>,
}

/// One cell of the vote: how many, and the closest pair that voted.
#[derive(Clone, Copy)]
struct Votes {
    count: u32,
    distance: u32,
    at: (usize, usize),
}

/// The lines that most pairs of pairs of similar frames vote for.
fn lines(ours: &[Frame], theirs: &[Frame]) -> Vec<Line> {
    let near: Vec<Near> = ours.iter().map(|frame| nearest(frame, theirs)).collect();
    let offsets = 2 * STRETCH + 1;
    let mut votes = vec![Votes { count: 0, distance: u32::MAX, at: (0, 0) }; SPEEDS * offsets];
    for (i, first) in near.iter().enumerate() {
        for (k, second) in near.iter().enumerate().skip(i + 1) {
            for &j in &first.others {
                // Time runs forward on both sides.
                for &l in second.others.iter().filter(|l| **l > j) {
                    let Some((speed, offset)) = cell((i, j), (k, l)) else { continue };
                    let Some(cell) = votes.get_mut((speed - 1) * offsets + offset) else { continue };
                    let (distance, at) = if first.distance <= second.distance {
                        (first.distance, (i, j))
                    } else {
                        (second.distance, (k, l))
                    };
                    cell.count += 1;
                    if distance < cell.distance {
                        (cell.distance, cell.at) = (distance, at);
                    }
                }
            }
        }
    }
    let most = votes.iter().map(|cell| cell.count).max().unwrap_or(0);
    let enough = |cell: &Votes| cell.count > 0 && f64::from(cell.count) >= CLOSE * f64::from(most);
    let line = |(index, cell): (usize, &Votes)| Line { a: cell.at.0, b: cell.at.1, speed: index / offsets + 1 };
    votes.iter().enumerate().filter(|(_, cell)| enough(cell)).map(line).collect()
}

fn nearest(frame: &Frame, others: &[Frame]) -> Near {
    let mut near = Near { distance: SIMILAR, others: Vec::new() };
    for (index, other) in others.iter().enumerate() {
        let distance = distance(frame, other);
        if distance < near.distance {
            near = Near { distance, others: Vec::new() };
        }
        if distance == near.distance && distance < SIMILAR {
            near.others.push(index);
        }
    }
    near
}

/// Speed in thirtieths, rounded, and offset, moved to be positive, of the line through two pairs.
fn cell((i, j): (usize, usize), (k, l): (usize, usize)) -> Option<(usize, usize)> {
    let (run, rise) = (k - i, l - j);
    let speed = (60 * rise + run) / (2 * run);
    if !(1..=SPEEDS).contains(&speed) {
        return None;
    }
    let back = (2 * rise * i + run) / (2 * run);
    let offset = (j + STRETCH).checked_sub(back)?;
    (offset <= 2 * STRETCH).then_some((speed, offset))
}

/// Follows a line from a pair of frames in both directions for as long as they are similar.
fn walk(ours: &[Frame], theirs: &[Frame], at: (usize, usize), speed: usize) -> Match {
    let (mut good, mut all) = (0usize, 0usize);
    let mut ends = [false; 2];
    for (end, forward) in ends.iter_mut().zip([true, false]) {
        let mut unlike = 0;
        // The pair itself counts once.
        for step in usize::from(!forward).. {
            let Some((a, b)) = along(at, step, speed, forward) else {
                *end = true;
                break;
            };
            let (Some(a), Some(b)) = (ours.get(a), theirs.get(b)) else {
                *end = true;
                break;
            };
            all += 1;
            if distance(a, b) < SIMILAR {
                good += 1;
                unlike = 0;
            } else if a.confidence >= 1 || b.confidence >= 1 {
                unlike += 1;
                if unlike > UNLIKE {
                    break;
                }
            }
        }
    }
    match (2 * good >= all, ends) {
        (false, _) => Match::None,
        (true, [true, true]) => Match::Whole,
        (true, _) => Match::Part,
    }
}

/// The pair so many frames of the first side away.
fn along((a, b): (usize, usize), step: usize, speed: usize, forward: bool) -> Option<(usize, usize)> {
    let other = (2 * step * speed + 30) / 60;
    if forward {
        Some((a.checked_add(step)?, b.checked_add(other)?))
    } else {
        Some((a.checked_sub(step)?, b.checked_sub(other)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Signer, TimeBase};

    /// Frames that each look different: noise in large blocks, the same for the same number.
    fn picture(seed: u64, width: usize, height: usize) -> Vec<u8> {
        let block = |x: usize, y: usize| {
            let mut state =
                seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ ((x * 32 / width) as u64) << 8 ^ (y * 32 / height) as u64;
            for _ in 0..3 {
                state = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            }
            (state >> 56) as u8
        };
        (0..height).flat_map(|y| (0..width).map(move |x| (x, y))).map(|(x, y)| block(x, y)).collect()
    }

    fn sign(numbers: impl Iterator<Item = u64>, (width, height): (u32, u32)) -> Signature {
        let mut signer = Signer::new(width, height, TimeBase::MPEG).unwrap();
        for (at, number) in numbers.enumerate() {
            let luma = picture(number, width as usize, height as usize);
            signer.push(i64::try_from(at).unwrap(), &luma, width as usize).unwrap();
        }
        Signature::read(&signer.finish()).unwrap()
    }

    #[test]
    fn a_clip_matches_itself_at_another_size_and_nothing_else() {
        let (large, small) = (sign(0..60, (128, 96)), sign(0..60, (64, 64)));
        assert_eq!(large.compare(&small), Match::Whole);
        assert_eq!((small.size(), small.frames()), ((64, 64), 60));
        assert_eq!(large.compare(&sign(1000..1060, (64, 64))), Match::None);
    }

    #[test]
    fn a_part_is_told_from_the_whole() {
        let clip = sign(0..100, (64, 64));
        let half_other = sign((30..60).chain(5000..5070), (64, 64));
        assert_eq!(clip.compare(&half_other), Match::Part);
        assert_eq!(clip.compare(&sign(20..80, (64, 64))), Match::Whole, "all of the second one");
    }

    #[test]
    fn half_the_frame_rate_is_the_same_clip() {
        let clip = sign(0..60, (64, 64));
        assert_eq!(clip.compare(&sign((0..60).step_by(2), (64, 64))), Match::Whole);
        assert_eq!(sign((0..60).step_by(2), (64, 64)).compare(&clip), Match::Whole);
    }

    #[test]
    fn two_frames_match_nothing_as_in_the_stock_gateway() {
        let clip = sign(0..2, (64, 64));
        assert_eq!(clip.compare(&clip), Match::None);
        let clip = sign(0..3, (64, 64));
        assert_eq!(clip.compare(&clip), Match::Whole);
    }

    #[test]
    fn whatever_is_cut_or_changed_is_an_error_or_a_signature() {
        let mut signer = Signer::new(64, 64, TimeBase::MPEG).unwrap();
        for at in 0..5 {
            signer.push(at, &picture(1, 64, 64), 64).unwrap();
        }
        let file = signer.finish();
        for length in 0..file.len() {
            assert!(Signature::read(&file[..length]).is_err(), "{length}");
        }
        let mut huge = file.clone();
        huge[17..21].fill(0xff);
        assert_eq!(Signature::read(&huge).err(), Some(ReadError::TooLong));
    }
}
