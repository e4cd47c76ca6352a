//! A worker's life: jailed, proved, sealed, then one job after the other until the node closes the channel.
//!
//! Walk 4, steps 2 to 4; walk 1, steps 7 to 9.
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use sandbox::channel::{Channel, ChannelError};
use sandbox::jail::{self, JailError, Layers};
use sandbox::lockdown::{self, LockdownError};
use sandbox::memfd::{MemfdError, Sealed};
use sandbox::message::{Job, JobError, Ready, Report};
use sandbox::preset::UnknownPreset;

use crate::engine::{Engine, UnknownEngine, UnknownSetting};
use crate::pipeline::{Failure, Output, transcode};
use crate::probe::{self, Findings};

/// Bits per second that sound and container may take of a rendition.
const SOUND: u64 = 400_000;
/// Longest detail in a report, in bytes.
const MAX_DETAIL: usize = 1000;

/// Why a worker stopped before the node told it to.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// Something is missing that a person can put right; the node has been told.
    #[error("unfit: {0}")]
    Unfit(String),
    /// The channel to the node broke.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// The jail could not be entered.
    #[error(transparent)]
    Jail(#[from] JailError),
    /// The threads could not be sealed.
    #[error(transparent)]
    Lockdown(#[from] LockdownError),
    /// The command line has an unknown encoder setting.
    #[error(transparent)]
    Setting(#[from] UnknownSetting),
    /// The command line names an unknown preset.
    #[error(transparent)]
    Preset(#[from] UnknownPreset),
    /// The command line names an unknown engine.
    #[error(transparent)]
    Engine(#[from] UnknownEngine),
    /// The command line has an unknown argument.
    #[error("unknown argument {0:?}: this program is started by the node, not by hand")]
    Argument(String),
}

/// Lives a worker's life. Called first thing in `main`, while the process has one thread.
///
/// # Errors
/// [`Ended`] when it ends otherwise than by the node closing the channel.
pub fn run(engine: &Engine) -> Result<(), Ended> {
    let (channel, findings, layers) = enter(engine)?;
    channel.report(&Report::Ready(ready(engine, findings, layers)), &[])?;
    while let Some((job, segment)) = channel.receive_job()? {
        let (report, files) = answer(&job, &segment, engine);
        let descriptors: Vec<BorrowedFd<'_>> = files.iter().map(AsFd::as_fd).collect();
        channel.report(&report, &descriptors)?;
    }
    Ok(())
}

/// Lives the life of a worker that is thrown away: proves its engine under the lock that jobs will be done under.
///
/// # Errors
/// [`Ended::Unfit`] when the engine does not work.
pub fn run_proof(engine: &Engine) -> Result<(), Ended> {
    let (channel, findings, _) = enter(engine)?;
    match probe::prove(engine, findings) {
        Ok(proof) => Ok(channel.report(&Report::Proof(proof), &[])?),
        Err(reason) => Err(unfit(&channel, reason)?),
    }
}

/// Enters the jail, proves what takes no time, and closes the lock.
fn enter(engine: &Engine) -> Result<(Channel, Findings, Layers), Ended> {
    let channel = Channel::from_inherited()?;
    let plan = channel.receive_plan()?;
    let mut layers = jail::enter(&plan)?;
    let findings = match prove(engine) {
        Ok(findings) => findings,
        Err(reason) => return Err(unfit(&channel, reason)?),
    };
    match lockdown::seal_for(&engine.name(), &mut layers) {
        Err(error @ LockdownError::Unwalled) => Err(unfit(&channel, error.to_string())?),
        other => Ok(other.map(|()| (channel, findings, layers))?),
    }
}

/// Tells the node why this worker is of no use.
fn unfit(channel: &Channel, reason: String) -> Result<Ended, ChannelError> {
    let reason = shortened(reason);
    channel.report(&Report::Unfit { reason: reason.clone() }, &[])?;
    Ok(Ended::Unfit(reason))
}

/// Looks through the installed plugins and writes the registry that `GST_REGISTRY` names.
///
/// # Errors
/// [`Ended::Unfit`] when the media framework does not start.
pub fn scan() -> Result<(), Ended> {
    gstreamer::init().map_err(|e| Ended::Unfit(e.to_string()))
}

fn prove(engine: &Engine) -> Result<Findings, String> {
    gstreamer::init().map_err(|e| format!("GStreamer does not start: {e}"))?;
    probe::probe(engine).map_err(|e| e.to_string())
}

fn ready(engine: &Engine, findings: Findings, layers: Layers) -> Ready {
    Ready {
        engine: engine.name(),
        proved: findings.proved,
        refused: findings.refused,
        layers: layers.active,
        missing_layers: layers.missing,
        framework: gstreamer::version_string().to_string(),
    }
}

/// Does a job; whatever goes wrong with it, the worker is fit for another one.
fn answer(job: &Job, segment: &Sealed, engine: &Engine) -> (Report, Vec<Sealed>) {
    match attempt(job, segment, engine) {
        Ok((output, files)) => (Report::Done(output.done), files),
        Err(Failure { error, detail, .. }) => {
            (Report::Failed { id: job.id, error, detail: shortened(detail) }, Vec::new())
        }
    }
}

/// Transcodes, and again on the main processor what silicon cannot or did badly, while there is time for it.
fn with_the_best_engine(input: &[u8], job: &Job, engine: &Engine) -> Result<Output, Failure> {
    engine.warm().sweep();
    let began = Instant::now();
    let time_left = || began.elapsed().as_millis() * 3 < u128::from(job.limits.deadline_ms);
    let output = match transcode(input, job, engine) {
        // Depths and chroma that silicon does not decode are no fault of the stream's.
        Err(failure) if engine.decodes_in_silicon() && failure.error == JobError::UnsupportedPixelFormat => {
            transcode(input, job, &engine.decoding_in_software())
        }
        other => other,
    }?;
    if engine.encodes_in_silicon() && is_swollen(job, &output) && time_left() {
        // A constant bit rate that is none. The last word is the main processor's.
        return transcode(input, job, &Engine::software(engine.tuning().clone()));
    }
    Ok(output)
}

/// Is a rendition more than twice as long as its bit rate, and sound besides, account for?
///
/// *Source:* media.md §1.3: drivers are known that do not keep to a constant bit rate.
fn is_swollen(job: &Job, output: &Output) -> bool {
    job.profiles.iter().zip(&output.done.renditions).any(|(profile, rendition)| {
        let fair = (u64::from(profile.bitrate.0) + SOUND) / 8 * output.done.duration_ms / 1000;
        profile.quality == 0 && output.done.duration_ms >= 1000 && rendition.bytes > 2 * fair
    })
}

fn shortened(detail: String) -> String {
    let end = detail.char_indices().map(|(at, _)| at).take_while(|at| *at <= MAX_DETAIL).last().unwrap_or(0);
    if detail.len() > MAX_DETAIL { detail.get(..end).unwrap_or_default().to_owned() } else { detail }
}

fn attempt(job: &Job, segment: &Sealed, engine: &Engine) -> Result<(Output, Vec<Sealed>), Failure> {
    let memory = |e: MemfdError| Failure::new(JobError::Internal, e.to_string());
    let input = segment.map().map_err(memory)?;
    let output = with_the_best_engine(&input, job, engine)?;
    let files = output
        .files
        .iter()
        .chain(&output.signatures)
        .map(|f| Sealed::from_bytes(f).map_err(memory))
        .collect::<Result<_, _>>()?;
    Ok((output, files))
}
