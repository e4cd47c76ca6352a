//! The ladder: every rendition has a thread that takes the next larger picture, scales it, passes it on and
//! encodes it. Queues between the threads are short, so that memory does not grow with the segment.
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Instant;

use gstreamer as gst;
use gstreamer_video as gst_video;
use livepeer::profile::{Profile, output_size};
use mpegts::Ticks;
use sandbox::message::{Job, JobError};

use crate::decode::Frame;
use crate::encode::{Coded, Encoder, Setup};
use crate::engine::Engine;
use crate::pipeline::Failure;
use crate::resample::{Resampler, Runaway};
use crate::scale::{Scaler, planar};
use crate::signature::{Desk, Pen};
use crate::source::Source;
use crate::usage::Clocks;

/// Frames that may wait between two threads: enough to ride out an encoder's hiccups, 11 MB at 720p.
const QUEUE: usize = 8;

/// What a rendition got out of one ladder.
#[derive(Debug)]
pub(crate) struct Climbed {
    pub(crate) size: (u32, u32),
    pub(crate) coded: Vec<Coded>,
}

/// What goes from a thread to the next.
#[derive(Debug, Clone)]
enum Step {
    Frame(Frame),
    /// The first moment after the last frame, and whether nothing follows in another size.
    End(Ticks, bool),
}

/// Running threads, fed with frames of one size.
#[derive(Debug)]
pub(crate) struct Ladder {
    feeds: Vec<SyncSender<Step>>,
    /// In the order of the job's profiles.
    threads: Vec<JoinHandle<Result<Climbed, Failure>>>,
}

/// What stays the same for all rungs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Conditions<'a> {
    pub(crate) job: &'a Job,
    pub(crate) source: &'a Source,
    pub(crate) engine: &'a Engine,
    pub(crate) clocks: &'a Arc<Clocks>,
    /// Moves every time stamp of the output.
    pub(crate) shift: Ticks,
    pub(crate) give_up: Instant,
    pub(crate) coded: u64,
    /// Where the renditions' pictures are signed, when that is asked for.
    pub(crate) desk: Option<&'a Desk>,
}

impl Ladder {
    /// Builds the threads for frames of this format. `begun` says of each profile whether it has frames already.
    pub(crate) fn start(
        info: &gst_video::VideoInfo,
        conditions: &Conditions<'_>,
        origin: Ticks,
        begun: &[bool],
    ) -> Result<Self, Failure> {
        let profiles = &conditions.job.profiles;
        let sizes: Vec<(u32, u32)> =
            profiles.iter().map(|p| output_size((info.width(), info.height()), (p.width, p.height), p.codec)).collect();
        if let Some((profile, size)) = profiles.iter().zip(&sizes).find(|(p, size)| !p.codec.takes(**size)) {
            let detail = format!("{}: {}x{} out of {}x{}", profile.name, size.0, size.1, info.width(), info.height());
            return Err(Failure::new(JobError::InvalidResolution, detail));
        }
        let mut order: Vec<usize> = (0..profiles.len()).collect();
        order.sort_by_key(|&i| std::cmp::Reverse(sizes.get(i).copied().map(pixels_of)));
        let parents = parents(&sizes, &order, (info.width(), info.height()));
        let all = sizes.iter().copied().map(pixels_of).sum();
        let mut feeds = Vec::new();
        let mut children: Vec<Vec<SyncSender<Step>>> = vec![Vec::new(); profiles.len()];
        let mut rungs: Vec<Option<Rung>> = (0..profiles.len()).map(|_| None).collect();
        let mut infos: Vec<Option<gst_video::VideoInfo>> = vec![None; profiles.len()];
        for &index in &order {
            let (Some(profile), Some(&size)) = (profiles.get(index), sizes.get(index)) else { continue };
            let threads = conditions.engine.tuning().threads_for(pixels_of(size), all, conditions.job.threads);
            let unconvertible = |e| Failure::new(JobError::UnsupportedPixelFormat, format!("{}: {e}", info.format()));
            let output = planar(conditions.engine, info, size).map_err(unconvertible)?;
            let parent = parents.get(index).copied().flatten();
            let above = parent.and_then(|p| infos.get(p).cloned().flatten()).unwrap_or_else(|| info.clone());
            let scaler = Scaler::between(conditions.engine, &above, &output).map_err(unconvertible)?;
            let (feed, frames) = sync_channel(QUEUE);
            match parent.and_then(|p| children.get_mut(p)) {
                Some(siblings) => siblings.push(feed),
                None => feeds.push(feed),
            }
            if let (Some(slot), Some(rung)) = (infos.get_mut(index), rungs.get_mut(index)) {
                *slot = Some(output.clone());
                let pen = conditions.desk.map(|desk| desk.pen(index, &output));
                let begun = begun.get(index).copied().unwrap_or(false);
                let resampler = Resampler::new(profile.fps, conditions.coded, begun);
                let plain = Rung::new(conditions, profile, threads, scaler, output, frames, origin);
                *rung = Some(Rung { pen, resampler, ..plain });
            }
        }
        let mut threads = Vec::new();
        for (rung, below) in rungs.into_iter().flatten().zip(children) {
            let named = std::thread::Builder::new().name(format!("rung-{}", rung.size.1));
            threads.push(
                named.spawn(move || rung.climb(&below)).map_err(|e| Failure::new(JobError::Internal, e.to_string()))?,
            );
        }
        Ok(Self { feeds, threads })
    }

    /// Hands a frame to the renditions that are made from it. False when one of them has given up.
    pub(crate) fn push(&self, frame: &Frame) -> bool {
        self.feeds.iter().all(|feed| feed.send(Step::Frame(frame.clone())).is_ok())
    }

    /// Ends the ladder at `end` and collects its renditions, in the order of the profiles; `last` says that the
    /// segment ends here too.
    pub(crate) fn finish(self, end: Ticks, last: bool) -> Result<Vec<Climbed>, Failure> {
        for feed in self.feeds {
            // Whoever has given up says why below.
            let _ = feed.send(Step::End(end, last));
        }
        let panicked = || Failure::new(JobError::Internal, "a rendition's thread panicked");
        let results: Vec<_> = self.threads.into_iter().map(|t| t.join().unwrap_or_else(|_| Err(panicked()))).collect();
        // A rung that stopped because another one did is not the cause.
        let cause = results.iter().position(|r| matches!(r, Err(f) if !f.is_echo()));
        let echo = results.iter().position(Result::is_err);
        match cause.or(echo) {
            Some(index) => Err(results.into_iter().nth(index).and_then(Result::err).unwrap_or_else(panicked)),
            None => Ok(results.into_iter().flatten().collect()),
        }
    }
}

fn pixels_of(size: (u32, u32)) -> u64 {
    u64::from(size.0) * u64::from(size.1)
}

/// From which rendition each one is scaled: the smallest that is clearly larger on both sides and not larger
/// than the source; otherwise from the source. A short step would blur and save next to nothing.
fn parents(sizes: &[(u32, u32)], order: &[usize], source: (u32, u32)) -> Vec<Option<usize>> {
    let mut parents = vec![None; sizes.len()];
    for (rank, &index) in order.iter().enumerate() {
        let Some(&size) = sizes.get(index) else { continue };
        let fits = |&&candidate: &&usize| sizes.get(candidate).is_some_and(|&above| is_good_step(above, size, source));
        let above = order.get(..rank).unwrap_or_default();
        if let Some(slot) = parents.get_mut(index) {
            *slot = above.iter().rev().find(fits).copied();
        }
    }
    parents
}

/// Is a picture of size `above` a good one to make `below` from? The same size is: it costs nothing.
fn is_good_step(above: (u32, u32), below: (u32, u32), source: (u32, u32)) -> bool {
    let enough = |a: u32, b: u32| u64::from(a) * 5 >= u64::from(b) * 8;
    let steep = enough(above.0, below.0) && enough(above.1, below.1);
    (above == below || steep) && above.0 <= source.0 && above.1 <= source.1
}

/// One rendition's part of the ladder.
struct Rung {
    profile: Profile,
    setup: Setup,
    engine: Engine,
    clocks: Arc<Clocks>,
    size: (u32, u32),
    scaler: Option<Scaler>,
    frames: Receiver<Step>,
    resampler: Resampler<gst::Buffer>,
    origin: Ticks,
    shift: Ticks,
    give_up: Instant,
    max_bytes: u64,
    pen: Option<Pen>,
}

/// Why a rung stopped in the middle.
enum Stop {
    Runaway,
    Encoder(crate::stage::Error),
    TooLarge,
}

impl From<Runaway> for Stop {
    fn from(_: Runaway) -> Self {
        Self::Runaway
    }
}

impl Rung {
    fn new(
        conditions: &Conditions<'_>,
        profile: &Profile,
        threads: u32,
        scaler: Option<Scaler>,
        output: gst_video::VideoInfo,
        frames: Receiver<Step>,
        origin: Ticks,
    ) -> Self {
        let source = conditions.source;
        let setup = Setup {
            tagged: source.tagged,
            rate: profile.fps.map_or_else(|| source.rate(), |fps| (fps.num, fps.den.max(1))),
            uneven: profile.fps.is_none() && source.uneven,
            threads,
            frames: output,
        };
        Self {
            size: (setup.frames.width(), setup.frames.height()),
            profile: profile.clone(),
            setup,
            engine: conditions.engine.clone(),
            clocks: Arc::clone(conditions.clocks),
            scaler,
            frames,
            resampler: Resampler::new(profile.fps, conditions.coded, false),
            origin,
            shift: conditions.shift,
            give_up: conditions.give_up,
            max_bytes: conditions.job.limits.max_output_bytes,
            pen: None,
        }
    }

    fn climb(mut self, below: &[SyncSender<Step>]) -> Result<Climbed, Failure> {
        let first = self.origin + self.shift;
        let clocks = Arc::clone(&self.clocks);
        let mut encoder = clocks
            .encode
            .of(|| Encoder::start(&self.profile, &self.setup, &self.engine, first))
            .map_err(|e| self.fault(&e))?;
        loop {
            let step = self.frames.recv().map_err(|_| Failure::echo())?;
            if Instant::now() >= self.give_up {
                return Err(Failure::new(JobError::Timeout, "encoding took too long"));
            }
            match step {
                Step::Frame(frame) => {
                    let picture = match &self.scaler {
                        Some(scaler) => clocks
                            .scale
                            .of(|| scaler.scale(&frame.picture))
                            .map_err(|e| Failure::new(JobError::Internal, e.to_string()))?,
                        None => frame.picture,
                    };
                    for feed in below {
                        let passed = Step::Frame(Frame { picture: picture.clone(), at: frame.at });
                        feed.send(passed).map_err(|_| Failure::echo())?;
                    }
                    let (max, shift, pen) = (self.max_bytes, self.shift, self.pen.as_ref());
                    let done = self.resampler.push(frame.at, picture, |at, p| {
                        sign(pen, &p, at + shift);
                        clocks.encode.of(|| encode(&mut encoder, &p, at + shift, max))
                    });
                    done.map_err(|stop| self.stopped(stop))?;
                }
                Step::End(end, last) => {
                    for feed in below {
                        feed.send(Step::End(end, last)).map_err(|_| Failure::echo())?;
                    }
                    let (max, shift, pen) = (self.max_bytes, self.shift, self.pen.as_ref());
                    let done = self.resampler.finish(end, last, |at, p| {
                        sign(pen, &p, at + shift);
                        clocks.encode.of(|| encode(&mut encoder, &p, at + shift, max))
                    });
                    done.map_err(|stop| self.stopped(stop))?;
                    let coded = clocks.encode.of(|| encoder.finish()).map_err(|e| self.fault(&e))?;
                    return Ok(Climbed { size: self.size, coded });
                }
            }
        }
    }

    fn fault(&self, e: &crate::stage::Error) -> Failure {
        let error = match e {
            crate::stage::Error::Missing(_) => JobError::EncoderNotFound,
            crate::stage::Error::Refused { .. } => JobError::Internal,
        };
        Failure::new(error, format!("{}: {e}", self.profile.name))
    }

    fn stopped(&self, stop: Stop) -> Failure {
        match stop {
            Stop::Runaway => Failure::new(JobError::Runaway, self.profile.name.clone()),
            Stop::Encoder(e) => self.fault(&e),
            Stop::TooLarge => Failure::new(JobError::OutputTooLarge, self.profile.name.clone()),
        }
    }
}

fn sign(pen: Option<&Pen>, picture: &gst::Buffer, at: Ticks) {
    if let Some(pen) = pen {
        pen.sign(picture, at);
    }
}

fn encode(encoder: &mut Encoder, picture: &gst::Buffer, at: Ticks, max_bytes: u64) -> Result<(), Stop> {
    encoder.push(picture, at).map_err(Stop::Encoder)?;
    if encoder.bytes() > max_bytes { Err(Stop::TooLarge) } else { Ok(()) }
}
