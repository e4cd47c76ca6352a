//! What a push came to.
use std::time::Duration;

use livepeer::units::Pixels;
use serde::{Deserialize, Serialize};

/// What became of one segment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SegmentReport {
    /// Its number, from 0.
    pub seq: u64,
    /// How long it plays.
    pub duration_ms: u64,
    /// Its length as sent.
    pub bytes: u64,
    /// How often it was sent.
    pub attempts: u32,
    /// Service URI of the orchestrator that had it last.
    pub orchestrator: Option<String>,
    /// From the start of the upload until the whole result was read.
    pub round_trip_ms: Option<u64>,
    /// Duration ÷ round trip; above 1 is faster than real time.
    pub realtime_ratio: Option<f64>,
    /// Pixels of all its renditions.
    pub pixels: Pixels,
    /// Lengths of the renditions, in the order of the profiles.
    pub rendition_bytes: Vec<u64>,
    /// Tickets sent with it.
    pub tickets: u32,
    /// Its renditions were decoded and held against the source.
    pub verified: bool,
    /// Claims about it that turned out false, on the way to what became of it.
    pub false_claims: Vec<FalseClaim>,
    /// Why it failed, if it did.
    pub error: Option<String>,
}

/// An orchestrator said what is not so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FalseClaim {
    /// Which one; it is avoided from then on.
    pub service_uri: String,
    /// What was found.
    pub claim: String,
}

/// An orchestrator that was used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrchestratorReport {
    /// Where it is.
    pub service_uri: String,
    /// Who signs its results.
    pub signer: String,
    /// Who is paid; empty off-chain.
    pub recipient: String,
    /// Price in wei, and for how many pixels; absent off-chain.
    pub price: Option<(u64, u64)>,
    /// Segments it returned.
    pub segments: u64,
}

/// What a push came to.
///
/// A real-time ratio is segment duration ÷ round trip, where the round trip runs from the start of the upload until
/// the whole result was read. Of the percentiles p95 is the bad end: nineteen of twenty segments were at least as
/// fast as that.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PushReport {
    /// Segments sent, failed ones included.
    pub segments: u64,
    /// Segments that did not come back.
    pub failed: u64,
    /// Attempts beyond the first.
    pub retries: u64,
    /// Segments whose renditions were decoded and held against the source.
    pub verified: u64,
    /// Claims that turned out false; who made one is avoided from then on.
    pub false_claims: u64,
    /// Rendition files written.
    pub renditions: u64,
    /// Length of what was sent.
    pub duration_ms: u64,
    /// How long the push took.
    pub took_ms: u64,
    /// Pixels of all renditions.
    pub pixels: Pixels,
    /// Real-time ratio, median.
    pub rtr_p50: Option<f64>,
    /// Real-time ratio that nineteen of twenty segments reach.
    pub rtr_p95: Option<f64>,
    /// Round trip, median.
    pub round_trip_ms_p50: Option<u64>,
    /// Round trip, 95th percentile.
    pub round_trip_ms_p95: Option<u64>,
    /// Tickets sent. Which of them won, only the orchestrator knows.
    pub tickets_sent: u64,
    /// Their expected value in wei, rounded down.
    pub ev_sent_wei: String,
    /// Whom we used.
    pub orchestrators: Vec<OrchestratorReport>,
    /// Each segment, in order.
    pub each: Vec<SegmentReport>,
}

impl PushReport {
    pub(crate) fn add(&mut self, segment: SegmentReport) {
        self.segments += 1;
        self.failed += u64::from(segment.error.is_some());
        self.retries += u64::from(segment.attempts.saturating_sub(1));
        self.verified += u64::from(segment.verified);
        self.false_claims += u64::try_from(segment.false_claims.len()).unwrap_or(u64::MAX);
        self.renditions += u64::try_from(segment.rendition_bytes.len()).unwrap_or(u64::MAX);
        self.duration_ms = self.duration_ms.saturating_add(segment.duration_ms);
        self.pixels = Pixels(self.pixels.0.saturating_add(segment.pixels.0));
        self.each.push(segment);
    }

    pub(crate) fn finish(&mut self, took: Duration) {
        self.took_ms = millis(took);
        let mut trips: Vec<u64> = self.each.iter().filter_map(|segment| segment.round_trip_ms).collect();
        trips.sort_unstable();
        self.round_trip_ms_p50 = percentile(&trips, 50);
        self.round_trip_ms_p95 = percentile(&trips, 95);
        let mut slowness: Vec<f64> = self.each.iter().filter_map(|s| s.realtime_ratio).collect();
        slowness.sort_by(|a, b| b.total_cmp(a));
        self.rtr_p50 = percentile(&slowness, 50);
        self.rtr_p95 = percentile(&slowness, 95);
    }
}

/// The smallest member that so many per cent do not exceed (nearest rank), in sorting order.
pub(crate) fn percentile<T: Copy>(sorted: &[T], per_cent: usize) -> Option<T> {
    let rank = (sorted.len() * per_cent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(round_trip_ms: u64) -> SegmentReport {
        SegmentReport {
            seq: 0,
            duration_ms: 2000,
            bytes: 1,
            attempts: 2,
            orchestrator: None,
            round_trip_ms: Some(round_trip_ms),
            realtime_ratio: Some(2000.0 / f64::from(u32::try_from(round_trip_ms).unwrap())),
            pixels: Pixels(5),
            rendition_bytes: vec![1, 2],
            tickets: 0,
            verified: false,
            false_claims: Vec::new(),
            error: None,
        }
    }

    #[test]
    fn the_95th_percentile_is_the_slow_end() {
        let mut report = PushReport::default();
        (1..=20).for_each(|n| report.add(segment(n * 100)));
        report.add(SegmentReport {
            error: Some("lost".into()),
            round_trip_ms: None,
            realtime_ratio: None,
            ..segment(1)
        });
        report.finish(Duration::from_secs(1));
        assert_eq!((report.segments, report.failed, report.retries, report.renditions), (21, 1, 21, 42));
        assert_eq!((report.round_trip_ms_p50, report.round_trip_ms_p95), (Some(1000), Some(1900)));
        assert_eq!((report.rtr_p50, report.rtr_p95), (Some(2.0), Some(2000.0 / 1900.0)));
        assert_eq!(percentile::<u64>(&[], 50), None);
    }
}
