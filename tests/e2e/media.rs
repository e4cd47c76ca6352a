//! What the network's transcoder guarantees, proved on ours from outside: segments go into a jailed
//! `millrace-worker`, and ffprobe and ffmpeg say what came out.
//!
//! *Source:* media.md §2.5 to §2.7, livepeer-wire §7. Each test that has a namesake in the stock transcoder's own
//! suite says so. All clips are made by ffmpeg when first needed.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::ops::{Deref, DerefMut};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use livepeer::profile::{Container, Profile, VideoCodec, preset};
use livepeer::units::FrameRate;
use millrace_tests::bins::bin;
use millrace_tests::media::{self, Shown};
use sandbox::jail::{JailPlan, ProcessLimits};
use sandbox::launch::{LaunchPlan, LogTo, RunError, Worker, launch, make_registry};
use sandbox::memfd::Sealed;
use sandbox::message::{Done, Job, JobError, Limits, Ready, Signatures};

mod codecs;
mod containers;
mod limits;
mod pictures;
mod probe;
mod sound;
mod times;

/// Long enough for a machine that does something else meanwhile.
const PATIENCE: Duration = Duration::from_secs(120);

/// Where GStreamer's cache of plugins is, beside the clips; made anew by each run, and never left half written.
static REGISTRY: LazyLock<PathBuf> = LazyLock::new(|| {
    let dir = media::repository().join("target/test-media");
    std::fs::create_dir_all(&dir).expect("the build directory can be written");
    let (path, partial) = (dir.join("registry"), dir.join(format!(".registry-{}", std::process::id())));
    make_registry(&bin("millrace-worker"), &partial, PATIENCE).expect("a registry of plugins");
    std::fs::rename(&partial, &path).expect("a finished registry can be moved into place");
    path
});

/// Workers without a job. One goes from test to test: what a job leaves behind would show in the next.
static IDLE: Mutex<Vec<(Worker, Ready)>> = Mutex::new(Vec::new());

/// A worker on loan.
struct Borrowed(Option<(Worker, Ready)>);

impl Borrowed {
    fn get() -> Self {
        let idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Self(Some(idle.unwrap_or_else(|| {
            let jail = JailPlan::software(ProcessLimits::default());
            let plan = LaunchPlan::software(bin("millrace-worker"), jail, Some(REGISTRY.clone()));
            let mut worker = launch(&LaunchPlan { log: LogTo::Inherit, ..plan }).unwrap();
            let ready = worker.wait_ready(PATIENCE).unwrap();
            (worker, ready)
        })))
    }

    fn ready(&self) -> &Ready {
        &self.0.as_ref().unwrap().1
    }
}

impl Deref for Borrowed {
    type Target = Worker;
    fn deref(&self) -> &Worker {
        &self.0.as_ref().unwrap().0
    }
}

impl DerefMut for Borrowed {
    fn deref_mut(&mut self) -> &mut Worker {
        &mut self.0.as_mut().unwrap().0
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            IDLE.lock().unwrap_or_else(PoisonError::into_inner).extend(self.0.take());
        }
    }
}

/// Does the worker say that it proved this here? Tests of codecs that come with optional plugins ask first.
fn proved(ability: &str) -> bool {
    let worker = Borrowed::get();
    let ready = worker.ready();
    let proved = ready.proved.iter().any(|a| a == ability);
    if !proved {
        let reason = ready.refused.iter().find(|r| r.0 == ability).map(|r| r.1.as_str());
        let reason = reason.unwrap_or_else(|| panic!("{ability} is neither proved nor refused: {ready:?}"));
        println!("not run, {ability} was refused: {reason}");
    }
    proved
}

fn job(profiles: Vec<Profile>) -> Job {
    Job {
        id: 7,
        profiles,
        clip: None,
        limits: Limits { deadline_ms: 120_000, ..Limits::default() },
        threads: 1,
        service_provider: "Livepeer Transcoder 0.1.0 (offchain)".into(),
        signatures: Signatures::None,
        video_seen: false,
    }
}

/// The smallest of the network's profiles, with the source's frame rate.
fn small() -> Profile {
    preset("144p").unwrap()
}

fn at(num: u32, den: u32) -> Profile {
    Profile { fps: Some(FrameRate { num, den }), ..small() }
}

fn mp4() -> Profile {
    Profile { container: Container::Mp4, ..small() }
}

fn coded(codec: VideoCodec, container: Container) -> Profile {
    Profile { codec, container, ..small() }
}

/// A job done, its renditions on disk.
struct Made {
    done: Done,
    files: Vec<PathBuf>,
    _dir: tempfile::TempDir,
}

impl Made {
    fn frames(&self, index: usize) -> Vec<Shown> {
        media::frames(&self.files[index])
    }

    fn times(&self, index: usize) -> Vec<i64> {
        times(&self.frames(index))
    }

    /// What holds for every rendition: it has what was reported of it, begins with a key frame, and plays clean.
    fn check(&self) -> &Self {
        for (file, said) in self.files.iter().zip(&self.done.renditions) {
            let frames = media::frames(file);
            assert_eq!(frames.len() as u64, said.frames, "{file:?}");
            let pixels: u64 = frames.iter().map(|f| u64::from(f.width) * u64::from(f.height)).sum();
            assert_eq!(pixels, said.pixels.0, "{file:?}");
            assert_eq!(std::fs::metadata(file).unwrap().len(), said.bytes);
            assert!(frames.first().is_none_or(|f| f.key), "{file:?} begins with a key frame");
            let last = frames.last().map_or((0, 0), |f| (f.width, f.height));
            assert_eq!((said.width, said.height), last, "{file:?}");
            assert_eq!(media::complaints(file), "", "{file:?} plays clean");
        }
        self
    }
}

/// What is shown when, in the stream's ticks.
fn times(frames: &[Shown]) -> Vec<i64> {
    frames.iter().map(|f| f.pts.expect("a frame with a time")).collect()
}

fn attempt(segment: &[u8], job: &Job) -> Result<Made, JobError> {
    let mut worker = Borrowed::get();
    let sealed = Sealed::from_bytes(segment).unwrap();
    let (done, files) = match worker.run(job, sealed.as_fd(), PATIENCE) {
        Ok(made) => made,
        Err(RunError::Job { error, detail }) => {
            println!("refused: {error}: {detail}");
            return Err(error);
        }
        Err(other) => panic!("{other}"),
    };
    let dir = tempfile::tempdir().unwrap();
    let mut paths = Vec::new();
    for (index, (file, profile)) in files.iter().zip(&job.profiles).enumerate() {
        let path = dir.path().join(format!("{index}.{}", profile.container.extension()));
        std::fs::write(&path, &*file.map().unwrap()).unwrap();
        paths.push(path);
    }
    Ok(Made { done, files: paths, _dir: dir })
}

/// Transcodes a segment and checks what holds for every result.
fn made(segment: &[u8], job: &Job) -> Made {
    let made = attempt(segment, job).unwrap();
    made.check();
    made
}

fn made_of(path: &Path, profiles: Vec<Profile>) -> Made {
    made(&bytes(path), &job(profiles))
}

fn refused(segment: &[u8], job: &Job) -> JobError {
    match attempt(segment, job) {
        Ok(made) => panic!("not refused: {:?}", made.done),
        Err(error) => error,
    }
}

fn bytes(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

/// A tiny moving picture of this rate and length as H.264 in a transport stream; a key frame every two seconds.
fn clip(name: &str, rate: &str, seconds: &str, sound: bool) -> PathBuf {
    media::synthetic(&format!("{name}.ts"), "160x90", rate, seconds, sound, &["-threads", "1"])
}

/// Four segments of two seconds at 60 frames a second, as a segmenter cuts them.
fn segments() -> Vec<Vec<u8>> {
    let whole = bytes(&media::synthetic("eight.ts", "160x90", "60", "8", true, &["-g", "120", "-threads", "1"]));
    let cut = mpegts::segment::cut(&whole, 2000).unwrap();
    assert_eq!(cut.iter().map(|s| s.frames).collect::<Vec<_>>(), [120; 4]);
    cut.into_iter().map(|s| s.bytes).collect()
}
