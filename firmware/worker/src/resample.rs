//! From any frame rate to a fixed one: which frame is shown at each point k/fps of the source's time line.
//!
//! *Source:* livepeer-wire §7.3. The grid does not depend on where a segment starts, so the renditions of
//! adjoining segments join without a gap and without a frame twice.
use livepeer::units::FrameRate;
use mpegts::Ticks;
use mpegts::clock::PER_SECOND;

/// More encoded frames than this per coded one are a sign of an attack or of broken time stamps.
pub(crate) const RUNAWAY: u64 = 25;

/// The stream's time stamps ask for absurdly many frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Runaway;

/// Keeps or re-times frames on their way to an encoder.
#[derive(Debug)]
pub(crate) struct Resampler<T> {
    rate: Option<FrameRate>,
    /// The frame that is shown from this grid point on, until another one comes.
    pending: Option<(i64, T)>,
    emitted: u64,
    allowance: u64,
    /// Has the segment given a frame before?
    begun: bool,
}

impl<T: Clone> Resampler<T> {
    /// `coded` is the number of coded pictures in the source, which bounds what may come out; `begun` says that
    /// frames came out of another one before, when the pictures had another size.
    pub(crate) fn new(rate: Option<FrameRate>, coded: u64, begun: bool) -> Self {
        Self { rate, pending: None, emitted: 0, allowance: coded.saturating_mul(RUNAWAY), begun }
    }

    /// Takes a frame and hands on what is due, each with its time.
    pub(crate) fn push<E: From<Runaway>>(
        &mut self,
        at: Ticks,
        frame: T,
        mut emit: impl FnMut(Ticks, T) -> Result<(), E>,
    ) -> Result<(), E> {
        let Some(rate) = self.rate else {
            self.emitted += 1;
            return emit(at, frame);
        };
        let point = grid_point(at, rate);
        if let Some((from, before)) = self.pending.take() {
            // A frame whose point another one takes over is dropped.
            self.repeat(from, point, rate, &before, &mut emit)?;
        }
        self.pending = Some((point, frame));
        Ok(())
    }

    /// Ends at `end`, and with it the segment if this is the `last` of its sizes; then at least one frame has come
    /// out, if any went in.
    pub(crate) fn finish<E: From<Runaway>>(
        &mut self,
        end: Ticks,
        last: bool,
        mut emit: impl FnMut(Ticks, T) -> Result<(), E>,
    ) -> Result<(), E> {
        let (Some(rate), Some((from, frame))) = (self.rate, self.pending.take()) else { return Ok(()) };
        let owed = last && self.emitted == 0 && !self.begun;
        let least = if owed { from + 1 } else { from };
        self.repeat(from, grid_point(end, rate).max(least), rate, &frame, &mut emit)
    }

    fn repeat<E: From<Runaway>>(
        &mut self,
        from: i64,
        to: i64,
        rate: FrameRate,
        frame: &T,
        emit: &mut impl FnMut(Ticks, T) -> Result<(), E>,
    ) -> Result<(), E> {
        for point in from..to {
            self.emitted += 1;
            if self.emitted > self.allowance {
                return Err(Runaway.into());
            }
            emit(grid_time(point, rate), frame.clone())?;
        }
        Ok(())
    }
}

/// How many frames a stretch of time gives at this rate.
pub(crate) fn frames_in(length: Ticks, rate: FrameRate) -> u64 {
    u64::try_from(grid_point(length, rate)).unwrap_or(0)
}

/// The grid point nearest to a time.
fn grid_point(at: Ticks, rate: FrameRate) -> i64 {
    round_div(i128::from(at.0) * i128::from(rate.num), i128::from(rate.den.max(1)) * i128::from(PER_SECOND))
}

/// The time of a grid point, to the nearest tick.
fn grid_time(point: i64, rate: FrameRate) -> Ticks {
    let numerator = i128::from(point) * i128::from(PER_SECOND) * i128::from(rate.den.max(1));
    Ticks(round_div(numerator, i128::from(rate.num.max(1))))
}

fn round_div(numerator: i128, denominator: i128) -> i64 {
    let doubled = numerator * 2 + denominator;
    i64::try_from(doubled.div_euclid(denominator * 2)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(times: impl IntoIterator<Item = i64>, end: i64, num: u32, den: u32) -> Result<Vec<(i64, usize)>, Runaway> {
        let mut out = Vec::new();
        let times: Vec<i64> = times.into_iter().collect();
        let mut resampler = Resampler::new(Some(FrameRate { num, den }), times.len() as u64, false);
        for (index, at) in times.into_iter().enumerate() {
            resampler.push(Ticks(at), index, |at, frame| {
                out.push((at.0, frame));
                Ok::<_, Runaway>(())
            })?;
        }
        resampler.finish(Ticks(end), true, |at, frame| {
            out.push((at.0, frame));
            Ok::<_, Runaway>(())
        })?;
        Ok(out)
    }

    #[test]
    fn two_seconds_at_60_give_the_counts_the_network_expects() {
        let at_60 = |start: i64| (0..120).map(move |n| start + n * 1500);
        for start in [0, 700, 1499, 132_000, 8_589_934_592] {
            let end = start + 180_000;
            assert!((48..=49).contains(&run(at_60(start), end, 24000, 1001).unwrap().len()));
            assert!((60..=61).contains(&run(at_60(start), end, 30000, 1001).unwrap().len()));
            assert_eq!(run(at_60(start), end, 123, 1).unwrap().len(), 246);
        }
    }

    #[test]
    fn adjoining_segments_share_no_point_and_miss_none() {
        let first = run((0..60).map(|n| n * 3000), 180_000, 24000, 1001).unwrap();
        let second = run((60..120).map(|n| n * 3000), 360_000, 24000, 1001).unwrap();
        let whole = run((0..120).map(|n| n * 3000), 360_000, 24000, 1001).unwrap();
        let joined: Vec<i64> = first.iter().chain(&second).map(|f| f.0).collect();
        assert_eq!(joined, whole.iter().map(|f| f.0).collect::<Vec<_>>());
    }

    #[test]
    fn a_segment_too_short_for_a_frame_gives_one() {
        assert_eq!(run([10], 20, 1, 1).unwrap().len(), 1);
    }

    #[test]
    fn a_size_that_changes_every_frame_gives_no_frame_too_many() {
        let rate = Some(FrameRate { num: 1, den: 1 });
        let mut out: Vec<i64> = Vec::new();
        for n in 0..60 {
            let mut one = Resampler::new(rate, 60, !out.is_empty());
            let mut emit = |at: Ticks, ()| {
                out.push(at.0);
                Ok::<_, Runaway>(())
            };
            one.push(Ticks(n * 3000), (), &mut emit).unwrap();
            one.finish(Ticks((n + 1) * 3000), n == 59, &mut emit).unwrap();
        }
        assert_eq!(out, [0, 90_000]);
    }

    #[test]
    fn one_frame_far_in_the_future_is_a_runaway() {
        assert_eq!(run([0, 3000, 90_000 * 3600], 90_000 * 3601, 30, 1), Err(Runaway));
    }
}
