//! The node's status: the only view others get of it.
//!
//! Walk 3, step 1. Counters live here; the snapshot is put together once a second and published on a `watch`.
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use livepeer::broker::Broker;
use livepeer::units::Pixels;
use service::Heartbeat;
use service::status::{NodeStatus, Segments, Workers};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::admission::load;
use crate::node::Orchestrator;
use crate::pool::Transcoder;
use crate::reject::Rejection;
use crate::sign::Signer;

pub mod measures;

use self::measures::Measures;

/// How often the status is put together.
const REFRESH: Duration = Duration::from_secs(1);
/// Segments that percentiles are taken over.
const RECENT: usize = 256;

/// What the node counts.
#[derive(Debug, Default)]
pub struct Meters {
    inner: Mutex<Inner>,
    /// How long work takes.
    pub measures: Measures,
}

#[derive(Debug, Default)]
struct Inner {
    segments: Segments,
    payment_errors: BTreeMap<String, u64>,
    /// Real-time ratio and latency of the newest segments.
    recent: VecDeque<(f64, Duration)>,
}

impl Meters {
    /// A segment was transcoded: by the transcoder in so long, from its last byte to its result in so long.
    pub fn transcoded(&self, content: Duration, took: Duration, latency: Duration, pixels: Pixels, bytes_out: u64) {
        self.measures.transcoded(content, took, latency);
        let mut inner = self.lock();
        inner.segments.ok += 1;
        inner.segments.pixels = inner.segments.pixels.saturating_add(pixels.0);
        inner.segments.bytes_out = inner.segments.bytes_out.saturating_add(bytes_out);
        if inner.recent.len() >= RECENT {
            inner.recent.pop_front();
        }
        let ratio = content.as_secs_f64() / latency.as_secs_f64().max(0.001);
        inner.recent.push_back((ratio, latency));
    }

    /// An accepted segment failed, for a reason of few words.
    pub fn failed(&self, reason: &'static str) {
        let mut inner = self.lock();
        inner.segments.failed += 1;
        *inner.segments.failures.entry(reason.to_owned()).or_default() += 1;
    }

    /// An upload came in whole.
    pub fn received(&self, bytes: u64, content: Duration) {
        self.measures.received(content);
        let mut inner = self.lock();
        inner.segments.bytes_in = inner.segments.bytes_in.saturating_add(bytes);
    }

    /// A request was refused.
    pub fn refused(&self, rejection: &Rejection) {
        if rejection.concerns_payment() {
            *self.lock().payment_errors.entry(rejection.kind().to_owned()).or_default() += 1;
        }
    }

    /// Segments so far, percentiles included.
    #[must_use]
    pub fn segments(&self) -> Segments {
        let inner = self.lock();
        let mut ratios: Vec<f64> = inner.recent.iter().map(|(ratio, _)| *ratio).collect();
        ratios.sort_by(f64::total_cmp);
        let mut latencies: Vec<u64> = inner.recent.iter().map(|(_, latency)| millis(*latency)).collect();
        latencies.sort_unstable();
        Segments {
            realtime_ratio_p50: rank(&ratios, 50),
            realtime_ratio_p05: rank(&ratios, 5),
            latency_ms_p50: rank(&latencies, 50),
            latency_ms_p95: rank(&latencies, 95),
            ..inner.segments.clone()
        }
    }

    /// Refused payments so far, by reason.
    #[must_use]
    pub fn payment_errors(&self) -> BTreeMap<String, u64> {
        self.lock().payment_errors.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The value at this percentile of sorted values, by nearest rank.
fn rank<V: Copy + Default>(sorted: &[V], percent: usize) -> V {
    let place = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(place - 1).copied().unwrap_or_default()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Publishes the status once a second, for ever.
pub async fn publish<T: Transcoder, B: Broker, S: Signer>(
    node: Arc<Orchestrator<T, B, S>>,
    local: impl Fn(&mut NodeStatus) + Send,
    mode: impl Fn() -> &'static str + Send,
    status: watch::Sender<NodeStatus>,
    heartbeat: Heartbeat,
) {
    let started = Instant::now();
    let mut tick = tokio::time::interval(REFRESH);
    loop {
        tick.tick().await;
        let mut known = NodeStatus::default();
        local(&mut known);
        let snapshot = node.snapshot(known, mode(), started.elapsed()).await;
        status.send_replace(snapshot);
        heartbeat.beat();
    }
}

impl<T: Transcoder, B: Broker, S: Signer> Orchestrator<T, B, S> {
    /// The status now; `known` has what the box knows of its workers, its hardware, and its alarms about them.
    pub async fn snapshot(&self, known: NodeStatus, mode: &str, uptime: Duration) -> NodeStatus {
        let counted = self.sessions.counted();
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let mut status = NodeStatus {
            version: service::system_version(env!("CARGO_PKG_VERSION")),
            mode: mode.to_owned(),
            uptime_s: uptime.as_secs(),
            service_uri: self.service_uri.to_string(),
            network: if self.till.is_some() { "onchain" } else { "offchain" }.to_owned(),
            ledger: if self.till.is_some() { "open" } else { "none" }.to_owned(),
            sessions: service::status::Sessions {
                active: count(self.sessions.len()),
                capacity: count(self.carries()),
                started: counted.started,
                ended: counted.ended,
                refused: counted.refused,
            },
            segments: Segments { retried: known.segments.retried, ..self.meters.segments() },
            transcoders: self.remotes.status(),
            capacity: self.transcoder.load().map(|load| load.figures().told()).unwrap_or_default(),
            ..known
        };
        status.alarms.extend(worker_alarms(&status.workers));
        if let Some(till) = &self.till {
            till.report(self.now(), &mut status).await;
        }
        let wrong = |(id, text): (&'static str, String)| service::status::Alarm {
            id: id.to_owned(),
            severity: "err".to_owned(),
            instance: String::new(),
            text,
        };
        status.alarms.extend(self.conditions().into_iter().map(wrong));
        status.money.payment_errors = self.meters.payment_errors();
        status.alarms.sort();
        status
    }
}

impl<T: Transcoder, B, S> Orchestrator<T, B, S> {
    /// Sessions that the box carries in all: those it has, and as many more like them as fit.
    fn carries(&self) -> usize {
        let most = self.max_sessions_allowed().at_most(self.transcoder.capacity().total);
        let fit = self.transcoder.load().map_or(most, |load| load.figures().sessions_that_fit(load::usual_ladder()));
        most.min(fit.saturating_add(self.remotes.capacity().0))
    }
}

/// Alarms about the workers.
pub fn worker_alarms(workers: &Workers) -> Vec<service::status::Alarm> {
    let unfit = workers.unfit.as_ref().map(|reason| service::status::Alarm {
        id: "ENC-PROBE-FAIL".to_owned(),
        severity: "crit".to_owned(),
        instance: String::new(),
        text: reason.clone(),
    });
    let held = workers.engines.iter().filter(|engine| engine.state == "quarantined");
    let held = held.map(|engine| service::status::Alarm {
        id: "ENC-PROBE-FAIL".to_owned(),
        severity: "warn".to_owned(),
        instance: engine.name.clone(),
        text: format!("left alone for a while: {}", engine.reason.as_deref().unwrap_or("it failed")),
    });
    unfit.into_iter().chain(held).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(meters: &Meters, ms: u64, pixels: u64, bytes: u64) {
        let took = Duration::from_millis(ms);
        meters.transcoded(Duration::from_secs(2), took, took, Pixels(pixels), bytes);
    }

    #[test]
    fn percentiles_are_of_the_newest_segments() {
        let meters = Meters::default();
        for _ in 0..RECENT {
            done(&meters, 20_000, 1, 1);
        }
        for ms in 1..=100 {
            done(&meters, ms * 10, 10, 1);
        }
        let segments = meters.segments();
        assert_eq!((segments.ok, segments.pixels), (356, 1256));
        assert_eq!(segments.latency_ms_p95, 20_000);
        for ms in 0..RECENT as u64 {
            done(&meters, 100 + ms % 2, 0, 0);
        }
        let segments = meters.segments();
        assert_eq!((segments.latency_ms_p50, segments.latency_ms_p95), (100, 101));
        assert!(segments.realtime_ratio_p05 > 19.0 && segments.realtime_ratio_p50 <= 20.0);
    }

    #[test]
    fn a_node_without_segments_has_no_percentiles() {
        assert_eq!(Meters::default().segments(), Segments::default());
    }
}
