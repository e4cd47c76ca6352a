//! Between the stream's 90 kHz ticks and the media framework's nanoseconds, without losing a tick.
use gstreamer::ClockTime;
use mpegts::Ticks;

/// A time since the start; times before it become the start.
pub(crate) fn clock_of(since_start: Ticks) -> ClockTime {
    let ticks = u128::from(since_start.0.max(0).unsigned_abs());
    ClockTime::from_nseconds(u64::try_from(ticks * 100_000 / 9).unwrap_or(u64::MAX - 1))
}

/// The nearest tick.
pub(crate) fn ticks_of(clock: ClockTime) -> Ticks {
    let ticks = (u128::from(clock.nseconds()) * 9 + 50_000) / 100_000;
    Ticks(i64::try_from(ticks).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tick_survives() {
        for ticks in (0..10_000).chain((1 << 33)..(1 << 33) + 1000) {
            assert_eq!(ticks_of(clock_of(Ticks(ticks))), Ticks(ticks));
        }
    }
}
