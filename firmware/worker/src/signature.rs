//! The MPEG-7 signatures of a job, made beside it: one thread takes the pictures that go into the encoders.
//!
//! Walk 1, step 8. Pictures are handed over by reference and read where they lie, so a rendition's thread loses no
//! more than the time to queue one. What is signed is what stock signs: the picture after scaling and re-timing,
//! before it is encoded, so that how it is encoded plays no part.
//!
//! *Source:* media.md §3.1, livepeer-wire §7.7.
mod proof;

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use gstreamer as gst;
use gstreamer_video as gst_video;
use gstreamer_video::prelude::*;
use mpegts::Ticks;
use mpegts::clock::PER_SECOND;
use sandbox::message::{Job, JobError, Signatures};
use video_signature::{Signer, TimeBase, narrow};

use crate::mp4;
use crate::pipeline::Failure;
use crate::source::Source;

pub(crate) use proof::prove;

/// Ticks per second of a transport stream.
const MPEG: u32 = 90_000;
/// Pictures that may wait to be signed: as many as wait for an encoder.
const QUEUE: usize = 8;
/// Frames that are signed at most, at 85 bytes of memory each: hours of any film.
const MOST_FRAMES: u32 = 1 << 20;

/// Where pictures are signed.
#[derive(Debug)]
pub(crate) struct Desk {
    clock: Clock,
    entries: SyncSender<Entry>,
    thread: JoinHandle<Vec<Signed>>,
}

/// A signature, or why there is none: another size halfway, for instance, or a side below 32 pixels, since the grid
/// has 32 cells a side and a cell without a pixel has no mean (FFmpeg's filter, and so stock, dies of it). A gateway
/// does not mind: where the URL is missing it compares nothing.
type Signed = Result<Vec<u8>, String>;

/// One rendition's way to the desk.
#[derive(Debug, Clone)]
pub(crate) struct Pen {
    place: usize,
    clock: Clock,
    info: gst_video::VideoInfo,
    entries: SyncSender<Entry>,
}

/// How a signature counts time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    /// Counted as 0.
    pub(crate) origin: Ticks,
    /// Counted in a second.
    pub(crate) per_second: u32,
}

impl Clock {
    /// As FFmpeg counts the pictures of a file: in the container's own ticks, from where its first track begins.
    fn of_source(input: &[u8], source: &Source) -> Self {
        let Some(per_second) = mp4::is_mp4(input).then(|| mp4::picture_clock(input)).flatten() else {
            return Self { origin: source.start, per_second: MPEG };
        };
        // Sound before the film's zero is there to run decoders in, and not played.
        Self { origin: source.start.max(Ticks(0)).min(source.first), per_second }
    }

    fn count(self, at: Ticks) -> i64 {
        let (scaled, whole) = (i128::from((at - self.origin).0) * i128::from(self.per_second), i128::from(PER_SECOND));
        i64::try_from((scaled * 2 + whole).div_euclid(whole * 2)).unwrap_or(i64::MAX)
    }
}

#[derive(Debug)]
struct Entry {
    place: usize,
    info: gst_video::VideoInfo,
    picture: gst::Buffer,
    at: i64,
}

impl Desk {
    /// The desk a job needs, if it asks for signatures: times of renditions are moved by `shift`.
    pub(crate) fn for_job(job: &Job, input: &[u8], source: &Source, shift: Ticks) -> Result<Option<Self>, String> {
        let (places, clock) = match job.signatures {
            Signatures::None => return Ok(None),
            Signatures::Renditions => {
                // Readers find pictures by their times, so these must increase and not wrap: they count from a
                // second before the first picture, which the grid of a fixed rate may put a little earlier.
                let origin = source.first + shift - Ticks(PER_SECOND);
                (job.profiles.len(), Clock { origin, per_second: MPEG })
            }
            Signatures::Source => (1, Clock::of_source(input, source)),
        };
        Self::open(places, clock).map(Some)
    }

    /// A desk with so many places.
    fn open(places: usize, clock: Clock) -> Result<Self, String> {
        let time_base = TimeBase::new(1, clock.per_second).map_err(|e| e.to_string())?;
        let (entries, inbox) = sync_channel(QUEUE);
        let thread = std::thread::Builder::new().name("signatures".to_owned());
        let thread = thread.spawn(move || work(&inbox, places, time_base)).map_err(|e| e.to_string())?;
        Ok(Self { clock, entries, thread })
    }

    /// The way to a place for pictures that look like this.
    pub(crate) fn pen(&self, place: usize, info: &gst_video::VideoInfo) -> Pen {
        Pen { place, clock: self.clock, info: info.clone(), entries: self.entries.clone() }
    }

    /// The signatures, once all pens are dropped. A rendition may be without; a source that was to be signed may not.
    pub(crate) fn close(self, asked: Signatures) -> Result<Vec<Vec<u8>>, Failure> {
        drop(self.entries);
        let signed = self.thread.join().map_err(|_| Failure::new(JobError::Internal, "signing panicked"))?;
        let each = signed.into_iter().enumerate().map(|(place, signed)| match signed {
            Err(reason) if asked == Signatures::Source => Err(Failure::new(JobError::InvalidVideo, reason)),
            Err(reason) => {
                eprintln!("millrace-worker: rendition {place} is not signed: {reason}");
                Ok(Vec::new())
            }
            Ok(file) => Ok(file),
        });
        each.collect()
    }
}

impl Pen {
    /// Signs a picture that is shown at this time. Times increase.
    pub(crate) fn sign(&self, picture: &gst::Buffer, at: Ticks) {
        let at = self.clock.count(at);
        let entry = Entry { place: self.place, info: self.info.clone(), picture: picture.clone(), at };
        // The desk outlives its pens; without it the signature is missing, and the job is none the worse for it.
        let _ = self.entries.send(entry);
    }
}

/// What stands at one place.
enum Page {
    Blank,
    Open(Box<Signer>, (u32, u32)),
    Torn(String),
}

fn work(inbox: &Receiver<Entry>, places: usize, time_base: TimeBase) -> Vec<Signed> {
    let mut pages: Vec<Page> = (0..places).map(|_| Page::Blank).collect();
    while let Ok(entry) = inbox.recv() {
        let Some(page) = pages.get_mut(entry.place) else { continue };
        if let Err(reason) = page.write(entry, time_base) {
            *page = Page::Torn(reason);
        }
    }
    pages.into_iter().map(Page::finish).collect()
}

impl Page {
    fn write(&mut self, entry: Entry, time_base: TimeBase) -> Result<(), String> {
        let size = (entry.info.width(), entry.info.height());
        if let Self::Blank = self {
            let signer = Signer::new(size.0, size.1, time_base).map_err(|e| e.to_string())?;
            *self = Self::Open(Box::new(signer.with_limit(MOST_FRAMES)), size);
        }
        match self {
            Self::Open(_, begun) if *begun != size => {
                Err(format!("pictures of {}x{} follow pictures of {}x{}", size.0, size.1, begun.0, begun.1))
            }
            Self::Open(signer, _) => sign(signer, entry),
            Self::Blank | Self::Torn(_) => Ok(()),
        }
    }

    fn finish(self) -> Signed {
        match self {
            Self::Blank => Err("no picture".to_owned()),
            Self::Open(signer, _) => Ok(signer.finish()),
            Self::Torn(reason) => Err(reason),
        }
    }
}

fn sign(signer: &mut Signer, entry: Entry) -> Result<(), String> {
    let Entry { info, picture, at, .. } = entry;
    let depth = luma_depth(&info)?;
    let (width, height) = (info.width() as usize, info.height() as usize);
    let frame = gst_video::VideoFrame::from_buffer_readable(picture, &info)
        .map_err(|_| "a picture that is not in memory".to_owned())?;
    let stride = frame.plane_stride().first().and_then(|s| usize::try_from(*s).ok()).unwrap_or(0);
    let luma = frame.plane_data(0).map_err(|e| e.to_string())?;
    if depth == 8 {
        return signer.push(at, luma, stride).map_err(|e| e.to_string());
    }
    let narrowed = narrow::little_endian(luma, stride, (width, height), depth).map_err(|e| e.to_string())?;
    signer.push(at, &narrowed, width).map_err(|e| e.to_string())
}

/// Bits of a luma sample that lie in a plane of their own, the first.
fn luma_depth(info: &gst_video::VideoInfo) -> Result<u32, String> {
    let (format, of) = (info.format_info(), info.format());
    let luma = || format!("{of} pictures have no luma to sign");
    if !(format.is_yuv() || format.is_gray()) {
        return Err(luma());
    }
    let (depth, step) = (format.depth().first().copied(), format.pixel_stride().first().copied());
    match (depth, step) {
        (Some(8), Some(1)) => Ok(8),
        (Some(depth @ 9..=14), Some(2)) if format.is_le() && format.shift().first() == Some(&0) => Ok(depth),
        _ => Err(luma()),
    }
}
