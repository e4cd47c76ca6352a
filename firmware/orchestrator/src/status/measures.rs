//! How long work takes, as distributions, with the names and the buckets that the network's dashboards have.
//!
//! *Source:* livepeer-wire §11.4.
use std::time::Duration;

use prometheus::{Histogram, HistogramOpts};

/// Seconds of content, and scores.
const CONTENT: &[f64] = &[0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 10.0, 15.0, 20.0];
/// Seconds of work.
const WORK: &[f64] = &[0.1, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 10.0];
/// Times real time.
const SCORE: &[f64] = &[0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 10.0, 15.0, 20.0, 40.0];

/// The distributions; clones share them.
#[derive(Debug, Clone)]
pub struct Measures {
    /// Content of the segments that came in whole; so its count is theirs.
    pub content: Histogram,
    /// From the call of the transcoder to its result.
    pub transcode: Histogram,
    /// From the upload's last byte to the result's way out.
    pub overall: Histogram,
    /// Content over the time of transcoding.
    pub score: Histogram,
}

impl Default for Measures {
    fn default() -> Self {
        let histogram = |name: &str, help: &str, buckets: &[f64]| {
            let opts = HistogramOpts::new(format!("livepeer_{name}"), help).buckets(buckets.to_vec());
            Histogram::with_opts(opts).expect("constant names and rising buckets make a histogram")
        };
        Self {
            content: histogram("source_segment_duration_seconds", "Content of the segments that came in", CONTENT),
            transcode: histogram("transcode_time_seconds", "Time of transcoding a segment, waiting included", WORK),
            overall: histogram(
                "transcode_overall_latency_seconds",
                "Time from the last byte of a segment to its result",
                WORK,
            ),
            score: histogram("transcode_score", "Duration of a segment over the time of transcoding it", SCORE),
        }
    }
}

impl Measures {
    pub(super) fn received(&self, content: Duration) {
        self.content.observe(content.as_secs_f64());
    }

    pub(super) fn transcoded(&self, content: Duration, took: Duration, overall: Duration) {
        self.transcode.observe(took.as_secs_f64());
        self.overall.observe(overall.as_secs_f64());
        self.score.observe(content.as_secs_f64() / took.as_secs_f64().max(0.001));
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> [Histogram; 4] {
        [self.content.clone(), self.transcode.clone(), self.overall.clone(), self.score.clone()]
    }
}
