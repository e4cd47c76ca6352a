//! How much the box can carry, how much it carries, and whether one more session fits. Measured, not configured.
//!
//! Walk 1, step 2. Everything is counted in *work*: encoded pixels, and a share of the decoded ones.
//!
//! ```text
//!   Σ demand of sessions + newcomer  ≤  speed × (1 − headroom) × derate
//! ```
//! *Speed* is learned from finished segments: the work they did over the share of the box they took, which is the
//! larger of their share of the processor's time and of the slots' time; so it holds for engines that hardly use
//! the processor too, and falls when something else uses the box. It is forgotten over [`MEMORY`]. A *demand* is
//! what a session's segments took per second of their content; before the first one, what its profiles ask for.
//! *Derate* comes from heat and power. A session that was let in is never measured against any of this again.
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use livepeer::profile::Profile;
use livepeer::units::Pixels;
use serde::{Deserialize, Serialize};

/// Decoding so many pixels takes as long as encoding one.
///
/// *Source:* media §2.1: decoding and scaling a 720p source takes a sixth of encoding it, per pixel.
const DECODED_PER_ENCODED: u64 = 6;
/// Seconds of the whole box's work after which a measurement counts half.
const MEMORY: f64 = 120.0;
/// How much a segment moves what is known of its session.
const WEIGHT: f64 = 0.25;
/// Frames per second taken for a profile that keeps the source's.
const USUAL_FPS: f64 = 30.0;

/// Work in pixels: those encoded, and a share of those decoded.
#[must_use]
pub fn work(encoded: Pixels, decoded: Pixels) -> u64 {
    encoded.0.saturating_add(decoded.0 / DECODED_PER_ENCODED)
}

/// Work per second of content that a ladder asks for, before anything of the stream is known: as if its source had
/// the size of the largest rendition.
#[must_use]
pub fn estimate(profiles: &[Profile]) -> f64 {
    let rate = |profile: &Profile| {
        let fps = profile.fps.map_or(USUAL_FPS, |fps| f64::from(fps.num) / f64::from(fps.den.max(1)));
        f64::from(profile.width) * f64::from(profile.height) * fps
    };
    let source = profiles.iter().map(rate).fold(0.0, f64::max);
    profiles.iter().map(rate).sum::<f64>() + source / as_float(DECODED_PER_ENCODED)
}

/// Work per second of the ladder that is met most: 720p and below, 30 frames per second.
#[must_use]
pub fn usual_ladder() -> f64 {
    let names = ["720p", "480p", "360p", "240p"];
    estimate(&names.iter().filter_map(|name| livepeer::profile::preset(name)).collect::<Vec<_>>())
}

/// What a finished segment took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spent {
    /// Its work; see [`work`].
    pub work: u64,
    /// Processor time, as the node counted it.
    pub cpu: Duration,
    /// Wall time, as the node counted it.
    pub wall: Duration,
    /// Length of its content.
    pub content: Duration,
}

/// How fast the box is: work over the box's time, forgotten slowly.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Speed {
    /// Work done, decayed.
    work: f64,
    /// Seconds of the whole box it took, decayed.
    time: f64,
}

impl Speed {
    /// Work per second; `None` before the first segment.
    #[must_use]
    pub fn rate(&self) -> Option<f64> {
        (self.time > 0.0 && self.work > 0.0).then(|| self.work / self.time)
    }

    fn note(&mut self, spent: &Spent, threads: usize, slots: usize) {
        let share = |time: Duration, of: usize| time.as_secs_f64() / count(of.max(1));
        let time = share(spent.cpu, threads).max(share(spent.wall, slots));
        if spent.work == 0 || time <= 0.0 {
            return;
        }
        let kept = 0.5f64.powf(time / MEMORY);
        self.work = self.work * kept + as_float(spent.work);
        self.time = self.time * kept + time;
    }

    /// The same speed, believed less: so little of it counts against what is measured from now on.
    fn weakened(self, seconds: f64) -> Self {
        let by = (seconds / self.time.max(f64::MIN_POSITIVE)).min(1.0);
        Self { work: self.work * by, time: self.time * by }
    }

    fn is_sound(&self) -> bool {
        [self.work, self.time].iter().all(|part| part.is_finite() && *part >= 0.0)
    }
}

/// Seconds of the box that a speed kept from an earlier run counts for.
const REMEMBERED: f64 = 30.0;
/// Seconds of the box that the warm-up's speed counts for: less than any real segment.
const WARM_UP: f64 = 0.05;

#[derive(Debug, Clone, Copy)]
struct Demand {
    rate: f64,
    measured: bool,
    /// Claims at hand; see [`Claim`].
    claims: usize,
    /// Its first segment was accepted.
    kept: bool,
}

#[derive(Debug)]
struct Inner {
    speed: Speed,
    /// Share that sessions may take, by the operator.
    sold: f64,
    /// Share that heat and power leave.
    derate: f64,
    demands: HashMap<String, Demand>,
    refused: u64,
}

/// The box's load, shared by everybody who lets in, measures, or holds down.
#[derive(Debug, Clone)]
pub struct Load(Arc<Mutex<Inner>>);

/// The load in figures.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Figures {
    /// Work per second the box can do; `None` while nobody knows.
    pub speed: Option<f64>,
    /// Work per second that may be sold of it.
    pub sold: Option<f64>,
    /// Work per second its sessions ask for.
    pub demand: f64,
    /// Percent that heat and power leave.
    pub derate_percent: f64,
    /// Sessions it has.
    pub sessions: usize,
    /// Newcomers for whom there was no room.
    pub refused: u64,
}

impl Figures {
    /// As the status tells them.
    #[must_use]
    pub fn told(&self) -> service::status::Capacity {
        service::status::Capacity {
            pixels_per_second: self.speed.map(rounded),
            sold_pixels_per_second: self.sold.map(rounded),
            demand_pixels_per_second: rounded(self.demand),
            derate_percent: u8::try_from(whole(self.derate_percent)).unwrap_or(100),
            refused: self.refused,
        }
    }

    /// Sessions like those at hand that fit in all; at least those at hand.
    #[must_use]
    pub fn sessions_that_fit(&self, usual: f64) -> usize {
        let one = if self.sessions > 0 && self.demand > 0.0 { self.demand / count(self.sessions) } else { usual };
        let fit = self.sold.map_or(usize::MAX, |sold| whole(sold / one.max(1.0)));
        let floor = if self.derate_percent > 0.0 { self.sessions.max(1) } else { self.sessions };
        fit.max(floor)
    }
}

impl Load {
    /// An empty box of unknown speed; `headroom_percent` of it are never sold.
    #[must_use]
    pub fn new(headroom_percent: u8) -> Self {
        let sold = f64::from(100 - headroom_percent.min(100)) / 100.0;
        let inner = Inner { speed: Speed::default(), sold, derate: 1.0, demands: HashMap::new(), refused: 0 };
        Self(Arc::new(Mutex::new(inner)))
    }

    /// Claims room for a session: always for one that is known, for a newcomer when what it is estimated to ask for
    /// fits. On an idle box anybody fits that heat does not forbid: only doing the work tells what it takes.
    #[must_use]
    pub fn claim(&self, session: &str, estimate: f64) -> Claim {
        let mut inner = self.lock();
        let fits = inner.demands.contains_key(session) || inner.fits(estimate);
        if fits {
            let fresh = Demand { rate: estimate, measured: false, claims: 0, kept: false };
            inner.demands.entry(session.to_owned()).or_insert(fresh).claims += 1;
        } else {
            inner.refused += 1;
        }
        drop(inner);
        Claim { load: self.clone(), session: session.to_owned(), estimate, fits }
    }

    /// Would one more session like those at hand fit? Asked at discovery, where nothing is known of it.
    #[must_use]
    pub fn has_room(&self) -> bool {
        let inner = self.lock();
        inner.fits(inner.usual().unwrap_or(0.0))
    }

    /// A session is over.
    pub fn release(&self, session: &str) {
        self.lock().demands.remove(session);
    }

    /// A segment of a session took so much, on a box of so many threads and slots.
    pub fn finished(&self, session: &str, spent: &Spent, threads: usize, slots: usize) {
        let mut inner = self.lock();
        inner.speed.note(spent, threads, slots);
        let content = spent.content.as_secs_f64();
        let Some(demand) = inner.demands.get_mut(session).filter(|_| content > 0.0) else { return };
        let rate = as_float(spent.work) / content;
        let weight = if demand.measured { WEIGHT } else { 1.0 };
        demand.rate += weight * (rate - demand.rate);
        demand.measured = true;
    }

    /// A worker's warm-up took so much; only what is known of a fresh box.
    pub fn warmed_up(&self, spent: &Spent, threads: usize, slots: usize) {
        let mut inner = self.lock();
        if inner.speed.rate().is_none() {
            inner.speed.note(spent, threads, slots);
            inner.speed = inner.speed.weakened(WARM_UP);
        }
    }

    /// Starts from the speed of an earlier run on the same hardware.
    pub fn remember(&self, speed: Speed) {
        if speed.is_sound() && speed.rate().is_some() {
            self.lock().speed = speed.weakened(REMEMBERED);
        }
    }

    /// The speed as it is known now, to be remembered.
    #[must_use]
    pub fn speed(&self) -> Speed {
        self.lock().speed
    }

    /// Time that this much work takes with the whole box to itself; zero while its speed is unknown.
    #[must_use]
    pub fn least(&self, session: &str, content: Duration) -> Duration {
        let inner = self.lock();
        let (Some(speed), Some(demand)) = (inner.speed.rate(), inner.demands.get(session)) else {
            return Duration::ZERO;
        };
        // What was only estimated drops nobody's segment.
        let work = if demand.measured { demand.rate * content.as_secs_f64() } else { 0.0 };
        Duration::try_from_secs_f64(work / speed).unwrap_or(Duration::ZERO)
    }

    /// Heat and power leave so many percent from now on.
    pub fn set_derate(&self, percent: f32) {
        let percent = if percent.is_finite() { percent.clamp(0.0, 100.0) } else { 0.0 };
        self.lock().derate = f64::from(percent) / 100.0;
    }

    /// The load now.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let inner = self.lock();
        Figures {
            speed: inner.speed.rate(),
            sold: inner.sold(),
            demand: inner.demand(),
            derate_percent: inner.derate * 100.0,
            sessions: inner.demands.len(),
            refused: inner.refused,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn demand(&self) -> f64 {
        self.demands.values().map(|demand| demand.rate).sum()
    }

    fn usual(&self) -> Option<f64> {
        (!self.demands.is_empty()).then(|| self.demand() / count(self.demands.len()))
    }

    fn sold(&self) -> Option<f64> {
        self.speed.rate().map(|speed| speed * self.sold * self.derate)
    }

    fn fits(&self, newcomer: f64) -> bool {
        if self.derate <= 0.0 {
            return false;
        }
        self.demands.is_empty() || self.sold().is_none_or(|sold| self.demand() + newcomer <= sold)
    }
}

/// Room claimed for a segment's session. When a newcomer's first segment is refused after all, its room is free again
/// with the last claim.
#[derive(Debug)]
pub struct Claim {
    load: Load,
    session: String,
    estimate: f64,
    fits: bool,
}

impl Claim {
    /// Is there room?
    #[must_use]
    pub fn fits(&self) -> bool {
        self.fits
    }

    /// The session's segment was accepted: it keeps its room, even when it took over another's and found none.
    pub fn keep(&self) {
        let fresh = Demand { rate: self.estimate, measured: false, claims: 0, kept: false };
        self.load.lock().demands.entry(self.session.clone()).or_insert(fresh).kept = true;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.fits {
            return;
        }
        let mut inner = self.load.lock();
        let Some(demand) = inner.demands.get_mut(&self.session) else { return };
        demand.claims = demand.claims.saturating_sub(1);
        if demand.claims == 0 && !demand.kept {
            inner.demands.remove(&self.session);
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "rates need no more than six digits")]
fn as_float(number: u64) -> f64 {
    number as f64
}

fn count(number: usize) -> f64 {
    as_float(u64::try_from(number).unwrap_or(u64::MAX))
}

/// A rate as whole work per second, for people and the wire.
#[must_use]
pub fn rounded(rate: f64) -> u64 {
    Duration::try_from_secs_f64(rate.max(0.0)).map_or(u64::MAX, |whole| whole.as_secs())
}

fn whole(number: f64) -> usize {
    usize::try_from(rounded(number)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests;
