//! One job from bytes to renditions: decode once, scale and encode each profile, put the sound back untouched.
//!
//! Walk 1, step 8.
use std::sync::Arc;
use std::time::{Duration, Instant};

use livepeer::profile::{Container, Profile, VideoCodec};
use livepeer::units::Pixels;
use mpegts::Ticks;
use sandbox::message::{Done, Job, JobError, Rendition, Signatures};

use crate::decode::{Decoded, Decoder, Frame};
use crate::engine::{Codec, Engine};
use crate::ladder::{Climbed, Conditions, Ladder};
use crate::output::Writer;
use crate::signature::{Desk, Pen};
use crate::sound::Sound;
use crate::source::{MAX_OUTPUTS, Source};
use crate::stage;
use crate::usage::{self, Clocks};

/// A finished job with its files.
#[derive(Debug)]
pub struct Output {
    /// What is reported.
    pub done: Done,
    /// One file per profile, in order.
    pub files: Vec<Vec<u8>>,
    /// The signatures asked for, in order; empty ones where there is none.
    pub signatures: Vec<Vec<u8>>,
}

/// Why a job failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{error}: {detail}")]
pub struct Failure {
    /// What the gateway is told.
    pub error: JobError,
    /// What our log is told.
    pub detail: String,
    echo: bool,
}

impl Failure {
    pub(crate) fn new(error: JobError, detail: impl Into<String>) -> Self {
        Self { error, detail: detail.into(), echo: false }
    }

    /// Something else failed and took this with it.
    pub(crate) fn echo() -> Self {
        Self { error: JobError::Internal, detail: "stopped with the others".to_owned(), echo: true }
    }

    pub(crate) fn is_echo(&self) -> bool {
        self.echo
    }
}

/// Transcodes a segment.
///
/// # Errors
/// [`Failure`] with the words for the gateway; nothing is left behind.
pub fn transcode(input: &[u8], job: &Job, engine: &Engine) -> Result<Output, Failure> {
    let started = Instant::now();
    let cpu_before = usage::cpu_time();
    check(job)?;
    let mut source = Source::read(input, job)?;
    let window = Window::of(job, &source)?;
    let desk = Desk::for_job(job, input, &source, window.shift).map_err(|e| Failure::new(JobError::Internal, e))?;
    let units = std::mem::take(&mut source.units);
    let clocks = Arc::new(Clocks::default());
    let run = Run {
        conditions: Conditions {
            job,
            clocks: &clocks,
            source: &source,
            engine,
            shift: window.shift,
            give_up: started + allowance(job),
            coded: u64::try_from(units.len()).unwrap_or(u64::MAX),
            desk: desk.as_ref(),
        },
        pen: None,
        window,
        ladder: None,
        climbed: (0..job.profiles.len()).map(|_| Vec::new()).collect(),
        frames: 0,
        pixels: 0,
        pixels_per_frame: 0,
    };
    let (climbed, frames, pixels) = if units.is_empty() { run.nothing() } else { run.all(units)? };
    let signatures = desk.map(|desk| desk.close(job.signatures)).transpose()?.unwrap_or_default();
    let audio = source.audio.as_ref().map(|track| window.sound(track));
    let writer = Writer::new(&job.profiles, audio.as_ref(), &job.service_provider, source.step)?;
    let mut files = Vec::with_capacity(climbed.len());
    let mut renditions = Vec::with_capacity(climbed.len());
    for (profile, parts) in job.profiles.iter().zip(&climbed) {
        let file = writer.write(profile, parts)?;
        let bytes = u64::try_from(file.len()).unwrap_or(u64::MAX);
        if bytes > job.limits.max_output_bytes {
            return Err(Failure::new(JobError::OutputTooLarge, profile.name.clone()));
        }
        renditions.push(summary(parts, bytes));
        files.push(file);
    }
    let done = Done {
        id: job.id,
        renditions,
        decoded_frames: frames,
        decoded_pixels: Pixels(pixels),
        duration_ms: source.duration().as_millis(),
        took_ms: millis(started.elapsed()),
        cpu_ms: millis(usage::cpu_time().saturating_sub(cpu_before)),
        peak_rss: usage::peak_rss(),
        spent: clocks.spent(),
        signatures: signatures.iter().map(|s| u64::try_from(s.len()).unwrap_or(u64::MAX)).collect(),
    };
    Ok(Output { done, files, signatures })
}

fn summary(parts: &[Climbed], bytes: u64) -> Rendition {
    let (width, height) = parts.last().map_or((0, 0), |p| p.size);
    let count = |p: &Climbed| u64::try_from(p.coded.len()).unwrap_or(u64::MAX);
    let pixels = parts.iter().map(|p| livepeer::profile::pixels(p.size, count(p)).0).fold(0, u64::saturating_add);
    Rendition { width, height, frames: parts.iter().map(count).sum(), pixels: Pixels(pixels), bytes }
}

/// Refuses a request that makes no sense.
fn check(job: &Job) -> Result<(), Failure> {
    let refuse = |error, detail: &str| Err(Failure::new(error, detail));
    let alone = job.signatures == Signatures::Source;
    if job.profiles.is_empty() != alone {
        return refuse(
            JobError::InvalidArgument,
            if alone { "profiles beside the source's signature" } else { "no profiles" },
        );
    }
    if job.profiles.len() > MAX_OUTPUTS {
        return refuse(JobError::TooManyOutputs, "too many profiles");
    }
    let silent = |p: &&Profile| p.bitrate.0 == 0 && p.quality == 0;
    let still = |p: &&Profile| p.fps.is_some_and(|fps| fps.num == 0 || fps.den == 0);
    if let Some(profile) = job.profiles.iter().find(|p| silent(p) || still(p)) {
        return refuse(JobError::InvalidArgument, &profile.name);
    }
    let homeless =
        |p: &&Profile| p.container == Container::MpegTs && matches!(p.codec, VideoCodec::Vp8 | VideoCodec::Vp9);
    if let Some(profile) = job.profiles.iter().find(homeless) {
        return refuse(JobError::MuxerNotFound, &format!("{:?} in a transport stream", profile.codec));
    }
    Ok(())
}

/// The wall time the job may take in here: a little less than until the node kills us.
fn allowance(job: &Job) -> Duration {
    let deadline = Duration::from_millis(job.limits.deadline_ms);
    deadline.saturating_sub((deadline / 20).min(Duration::from_millis(500)))
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The part of the segment that is kept.
#[derive(Debug, Clone, Copy)]
struct Window {
    from: Ticks,
    to: Ticks,
    shift: Ticks,
}

impl Window {
    fn of(job: &Job, source: &Source) -> Result<Self, Failure> {
        let Some(clip) = job.clip else {
            return Ok(Self { from: Ticks(i64::MIN), to: Ticks(i64::MAX), shift: Ticks(0) });
        };
        if clip.from_ms >= clip.to_ms {
            return Err(Failure::new(JobError::InvalidArgument, "an empty clip window"));
        }
        let from = source.start + Ticks::from_millis(clip.from_ms);
        Ok(Self { from, to: source.start + Ticks::from_millis(clip.to_ms), shift: Ticks(0) - from })
    }

    fn holds(&self, at: Ticks) -> bool {
        self.from <= at && at < self.to
    }

    /// The sound in the window; all of it, as it is, when there is no window.
    fn sound(&self, track: &Sound) -> Sound {
        if self.shift == Ticks(0) { track.clone() } else { track.part(|at| self.holds(at), self.shift) }
    }
}

/// A job under way.
struct Run<'a> {
    conditions: Conditions<'a>,
    window: Window,
    /// Signs the source, when that is all there is to do.
    pen: Option<Pen>,
    /// The ladder for the present size of pictures.
    ladder: Option<Ladder>,
    /// What each profile got out of ladders that are done.
    climbed: Vec<Vec<Climbed>>,
    frames: u64,
    pixels: u64,
    pixels_per_frame: u64,
}

/// The parts of each rendition, the frames decoded and their pixels.
type Everything = (Vec<Vec<Climbed>>, u64, u64);

impl Run<'_> {
    /// A segment of sound alone, in a stream that has pictures elsewhere.
    fn nothing(self) -> Everything {
        (self.climbed, 0, 0)
    }

    fn all(mut self, units: Vec<mpegts::AccessUnit>) -> Result<Everything, Failure> {
        let source = self.conditions.source;
        let codec = Codec::of_track(source.codec)
            .ok_or_else(|| Failure::new(JobError::UnsupportedCodec, format!("{:?}", source.codec)))?;
        let threads = self.conditions.job.threads;
        let clock = &self.conditions.clocks.decode;
        let mut decoder = clock
            .of(|| Decoder::start(self.conditions.engine, codec, source.origin, source.step, threads))
            .map_err(|e| match e {
                stage::Error::Missing(_) => Failure::new(JobError::UnsupportedCodec, e.to_string()),
                stage::Error::Refused { .. } => Failure::new(JobError::Internal, e.to_string()),
            })?;
        let mut format = None;
        let mut last = source.first;
        let mut trouble = None;
        let mut rest = units.into_iter();
        loop {
            let more = rest.next();
            let ended = more.is_none();
            let pushed = self.conditions.clocks.decode.of(|| match more {
                Some(unit) => decoder.push(unit),
                None => decoder.finish(),
            });
            while let Some(decoded) = decoder.take() {
                match decoded {
                    Decoded::Format(info) => format = Some(info),
                    Decoded::Unusable(caps) => return Err(Failure::new(JobError::UnsupportedPixelFormat, caps)),
                    Decoded::Frame(frame) => {
                        if let Some(info) = format.take() {
                            self.change(&info, frame.at)?;
                        }
                        if self.frame(&frame)? {
                            last = frame.at;
                        }
                    }
                }
                self.in_time()?;
            }
            if let Err(e) = pushed {
                // What came before the decoder gave up still counts.
                trouble = Some(e);
                break;
            }
            if ended {
                break;
            }
            self.in_time()?;
        }
        let end = (last + source.step).max(source.end.min(self.window.to));
        self.end(end, true)?;
        let alone = self.conditions.job.signatures == Signatures::Source;
        if if alone { self.frames == 0 } else { self.climbed.iter().all(Vec::is_empty) } {
            let detail = trouble.map_or_else(|| "no frame decodes".to_owned(), |e| e.to_string());
            let format = detail.contains("negotiat");
            return Err(Failure::new(
                if format { JobError::UnsupportedPixelFormat } else { JobError::InvalidVideo },
                detail,
            ));
        }
        Ok((self.climbed, self.frames, self.pixels))
    }

    fn in_time(&self) -> Result<(), Failure> {
        if Instant::now() < self.conditions.give_up {
            return Ok(());
        }
        Err(Failure::new(JobError::Timeout, format!("{} frames decoded", self.frames)))
    }
}

impl Run<'_> {
    /// The pictures have a new format: finish what was made from the old one, and start again.
    fn change(&mut self, info: &gstreamer_video::VideoInfo, at: Ticks) -> Result<(), Failure> {
        self.end(at, false)?;
        let begun: Vec<bool> = self.climbed.iter().map(|parts| !parts.is_empty()).collect();
        match self.conditions.desk {
            Some(desk) if self.conditions.job.profiles.is_empty() => self.pen = Some(desk.pen(0, info)),
            _ => self.ladder = Some(Ladder::start(info, &self.conditions, at, &begun)?),
        }
        self.pixels_per_frame = u64::from(info.width()) * u64::from(info.height());
        Ok(())
    }

    /// Counts a frame and hands it on; false when it is not in the window.
    fn frame(&mut self, frame: &Frame) -> Result<bool, Failure> {
        self.frames += 1;
        self.pixels = self.pixels.saturating_add(self.pixels_per_frame);
        if !self.window.holds(frame.at) || frame.at < self.conditions.source.shown_from {
            return Ok(false);
        }
        if let Some(pen) = &self.pen {
            pen.sign(&frame.picture, frame.at);
            return Ok(true);
        }
        let going = self.ladder.as_ref().is_some_and(|ladder| ladder.push(frame));
        if going {
            return Ok(true);
        }
        // One rendition has given up: ask it why.
        self.end(frame.at, true)?;
        Err(Failure::new(JobError::Internal, "frames before their format"))
    }

    fn end(&mut self, at: Ticks, last: bool) -> Result<(), Failure> {
        let Some(ladder) = self.ladder.take() else { return Ok(()) };
        for (all, part) in self.climbed.iter_mut().zip(ladder.finish(at, last)?) {
            if !part.coded.is_empty() {
                all.push(part);
            }
        }
        Ok(())
    }
}
