//! A stream that is still being made: pieces in as they come, segments out at key frames.
//!
//! Walk 1, step 1, from the other side: our own gateway takes a live source. [`Cutter`] gathers pictures and sound
//! until a key frame ends the segment; [`TsCutter`] feeds it from a transport stream that arrives in pieces of any
//! length. Both hold one segment at a time, and never more than [`MAX_SEGMENT`] bytes of it.
use crate::clock::{PER_SECOND, Ticks};
use crate::demux::{AccessUnit, AudioInfo, AudioPacket, AudioTrack, VideoCodec, choose};
use crate::mux::{VideoUnit, mux};
use crate::packet::{LENGTH, Packet, SYNC, parse};
use crate::psi::{self, Assembler, Entry};
use crate::segment::Segment;
use crate::{nal, pes};

/// Largest segment that is gathered, in bytes of pictures and sound.
pub const MAX_SEGMENT: usize = 128 << 20;
/// A key frame must come at least this often.
const LONGEST: Ticks = Ticks(60 * PER_SECOND);
/// How far before its due time a key frame may end a segment.
const SLACK: Ticks = Ticks(4500);
/// A jump in time wider than this is a new beginning.
const JUMP: Ticks = Ticks(10 * PER_SECOND);
/// The step from picture to picture while nothing is known.
const USUAL_STEP: Ticks = Ticks(3000);
/// Largest piece of a track between two of its time stamps.
const MAX_UNIT: usize = 32 << 20;

/// Why a live stream cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LiveError {
    /// Nothing to cut at.
    #[error("no key frame for {} seconds: set the encoder to one every 2 seconds", LONGEST.0 / PER_SECOND)]
    NoKeyframe,
    /// More bytes than any segment has.
    #[error("more than {MAX_SEGMENT} bytes between two key frames")]
    TooLarge,
}

/// Gathers pictures and sound into segments.
#[derive(Debug)]
pub struct Cutter {
    target: Ticks,
    codec: VideoCodec,
    audio: Option<AudioInfo>,
    pictures: Vec<Picture>,
    sound: Vec<AudioPacket>,
    bytes: usize,
    /// Step between the last two pictures in decoding order.
    step: Ticks,
}

#[derive(Debug)]
struct Picture {
    pts: Ticks,
    dts: Ticks,
    keyframe: bool,
    data: Vec<u8>,
}

impl Cutter {
    /// A cutter for segments of at least about `target_ms`.
    #[must_use]
    pub fn new(target_ms: u64) -> Self {
        Self {
            target: Ticks::from_millis(target_ms) - SLACK,
            codec: VideoCodec::H264,
            audio: None,
            pictures: Vec::new(),
            sound: Vec::new(),
            bytes: 0,
            step: USUAL_STEP,
        }
    }

    /// What the pictures are coded in.
    #[must_use]
    pub fn codec(&self) -> VideoCodec {
        self.codec
    }

    /// Says how the sound announces itself; to be called before sound is added.
    pub fn set_audio(&mut self, info: AudioInfo) {
        self.audio = Some(info);
    }

    /// Takes a picture, in decoding order, and returns the segment that it ends. Pictures before the first key frame
    /// are left out.
    ///
    /// # Errors
    /// [`LiveError`] when no key frame comes; what was gathered is lost.
    pub fn video(&mut self, codec: VideoCodec, unit: AccessUnit) -> Result<Option<Segment>, LiveError> {
        let last = self.pictures.last().map(|last| (last.pts, last.dts));
        let pts = unit.pts.unwrap_or_else(|| last.map_or(Ticks(0), |(pts, _)| pts + self.step));
        let dts = unit.dts.or(unit.pts).unwrap_or_else(|| last.map_or(pts, |(_, dts)| dts + self.step));
        let jumped = last.is_some_and(|(_, before)| dts < before || dts - before > JUMP);
        let begun = self.pictures.first().map(|first| first.pts);
        let mut done = None;
        if let Some(begun) = begun.filter(|_| unit.keyframe) {
            if jumped {
                done = self.flush(None);
            } else if pts - begun >= self.target {
                done = self.flush(Some(pts));
            }
        } else if begun.is_none() && !unit.keyframe {
            return Ok(None);
        }
        if let Some((_, before)) = last.filter(|_| !jumped && dts > Ticks(0)) {
            self.step = if dts > before { dts - before } else { self.step };
        }
        self.codec = codec;
        self.grow(unit.data.len())?;
        self.pictures.push(Picture { pts, dts, keyframe: unit.keyframe, data: unit.data });
        if self.pictures.first().is_some_and(|first| !jumped && pts - first.pts > LONGEST) {
            return Err(LiveError::NoKeyframe);
        }
        Ok(done)
    }

    /// Takes a packet of sound.
    ///
    /// # Errors
    /// [`LiveError::TooLarge`] when sound comes without end and without a key frame.
    pub fn audio(&mut self, packet: AudioPacket) -> Result<(), LiveError> {
        if self.pictures.is_empty() && self.sound.len() > MAX_EARLY_SOUND {
            // Sound before the first picture has nothing to go with.
            self.sound.clear();
            self.bytes = 0;
        }
        self.grow(packet.data.len())?;
        self.sound.push(packet);
        Ok(())
    }

    /// No more comes: the rest, unless there is none.
    pub fn finish(&mut self) -> Option<Segment> {
        self.flush(None)
    }

    fn grow(&mut self, bytes: usize) -> Result<(), LiveError> {
        self.bytes = self.bytes.saturating_add(bytes).saturating_add(PER_UNIT);
        if self.bytes > MAX_SEGMENT { Err(LiveError::TooLarge) } else { Ok(()) }
    }

    /// Everything gathered as a segment that ends at `until`, or with its last picture. Sound that begins later stays.
    fn flush(&mut self, until: Option<Ticks>) -> Option<Segment> {
        let pictures = std::mem::take(&mut self.pictures);
        let first = pictures.first()?.pts;
        let last = pictures.iter().map(|picture| picture.pts).max()?;
        let end = until.unwrap_or(last + self.step);
        let belongs = |packet: &AudioPacket| until.is_none_or(|until| packet.pts.is_none_or(|pts| pts < until));
        let (now, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.sound).into_iter().partition(belongs);
        self.sound = later;
        self.bytes = self.sound.iter().map(|packet| packet.data.len() + PER_UNIT).sum();
        let units: Vec<VideoUnit<'_>> = pictures
            .iter()
            .map(|p| VideoUnit { pts: p.pts, dts: p.dts, keyframe: p.keyframe, data: &p.data })
            .collect();
        let audio = self.audio.clone().map(|info| AudioTrack { info, packets: now });
        Some(Segment {
            bytes: mux(self.codec, &units, audio.as_ref(), ""),
            first_pts: first,
            duration_ms: (end - first).as_millis(),
            frames: units.len(),
        })
    }
}

/// What a picture or packet costs beside its bytes.
const PER_UNIT: usize = 64;
/// Packets of sound kept while there is no picture.
const MAX_EARLY_SOUND: usize = 512;

/// Cuts a transport stream that arrives in pieces.
#[derive(Debug)]
pub struct TsCutter {
    cutter: Cutter,
    rest: Vec<u8>,
    association: Assembler,
    tables: Vec<(u16, Assembler)>,
    entries: Vec<Entry>,
    video: Option<(VideoCodec, Lane)>,
    audio: Option<(Entry, Lane)>,
    /// Pictures that have not ended yet, with the time stamps of where they begin.
    pictures: Vec<u8>,
    stamps: Vec<Stamp>,
    reference: Option<Ticks>,
}

#[derive(Debug, Clone, Copy)]
struct Stamp {
    start: usize,
    pts: Option<Ticks>,
    dts: Option<Ticks>,
}

/// One track's packet that has not ended yet.
#[derive(Debug)]
struct Lane {
    pid: u16,
    counter: Option<u8>,
    open: bool,
    unit: Vec<u8>,
}

impl Lane {
    fn new(pid: u16) -> Self {
        Self { pid, counter: None, open: false, unit: Vec::new() }
    }

    /// Takes a packet and returns the one that it ends.
    fn push(&mut self, packet: &Packet<'_>) -> Option<Vec<u8>> {
        if self.counter.replace(packet.counter) == Some(packet.counter) {
            return None;
        }
        let mut done = None;
        if packet.unit_start {
            done = self.take();
            self.open = true;
        }
        if self.open {
            self.unit.extend_from_slice(packet.payload);
            if self.unit.len() > MAX_UNIT {
                self.unit.clear();
                self.open = false;
            }
        }
        done
    }

    fn take(&mut self) -> Option<Vec<u8>> {
        self.open = false;
        Some(std::mem::take(&mut self.unit)).filter(|unit| !unit.is_empty())
    }
}

impl TsCutter {
    /// A cutter for segments of at least about `target_ms`.
    #[must_use]
    pub fn new(target_ms: u64) -> Self {
        Self {
            cutter: Cutter::new(target_ms),
            rest: Vec::new(),
            association: Assembler::default(),
            tables: Vec::new(),
            entries: Vec::new(),
            video: None,
            audio: None,
            pictures: Vec::new(),
            stamps: Vec::new(),
            reference: None,
        }
    }

    /// What the pictures are coded in.
    #[must_use]
    pub fn codec(&self) -> VideoCodec {
        self.cutter.codec()
    }

    /// Takes some bytes and returns the segments that they end.
    ///
    /// # Errors
    /// [`LiveError`] when no key frame comes. Garbage is no error: what is readable is used.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<Segment>, LiveError> {
        let mut rest = std::mem::take(&mut self.rest);
        rest.extend_from_slice(bytes);
        let (mut at, mut done) = (0, Vec::new());
        while let Some(raw) = rest.get(at..at + LENGTH) {
            let goes_on = rest.get(at + LENGTH).is_none_or(|next| *next == SYNC);
            if raw.first() != Some(&SYNC) || !goes_on {
                at += 1;
                continue;
            }
            at += LENGTH;
            if let Some(packet) = parse(raw) {
                self.packet(&packet, &mut done)?;
            }
        }
        rest.drain(..at);
        self.rest = rest;
        Ok(done)
    }

    /// No more comes: what was not returned yet.
    ///
    /// # Errors
    /// [`LiveError`] as [`TsCutter::push`].
    pub fn finish(&mut self) -> Result<Vec<Segment>, LiveError> {
        let mut done = Vec::new();
        if let Some(unit) = self.audio.as_mut().and_then(|(_, lane)| lane.take()) {
            self.sound(&unit)?;
        }
        if let Some((codec, unit)) = self.video.as_mut().and_then(|(codec, lane)| Some((*codec, lane.take()?))) {
            self.picture(codec, &unit, &mut done)?;
        }
        if let Some((codec, _)) = self.video {
            self.emit(codec, 0, &mut done)?;
        }
        done.extend(self.cutter.finish());
        Ok(done)
    }

    fn packet(&mut self, packet: &Packet<'_>, done: &mut Vec<Segment>) -> Result<(), LiveError> {
        if packet.pid == psi::PAT_PID {
            for section in self.association.push(packet) {
                for pid in psi::read_pat(&section) {
                    if self.tables.len() < psi::MAX_PROGRAMS && self.tables.iter().all(|(known, _)| *known != pid) {
                        self.tables.push((pid, Assembler::default()));
                    }
                }
            }
        } else if let Some((_, table)) = self.tables.iter_mut().find(|(pid, _)| *pid == packet.pid) {
            let sections = table.push(packet);
            sections.iter().for_each(|section| self.learn(section));
        } else if let Some((codec, lane)) = self.video.as_mut().filter(|(_, lane)| lane.pid == packet.pid) {
            let codec = *codec;
            if let Some(unit) = lane.push(packet) {
                self.picture(codec, &unit, done)?;
            }
        } else if let Some((_, lane)) = self.audio.as_mut().filter(|(_, lane)| lane.pid == packet.pid)
            && let Some(unit) = lane.push(packet)
        {
            self.sound(&unit)?;
        }
        Ok(())
    }

    /// Tracks are chosen once, and kept: a later table may add one that was not there.
    fn learn(&mut self, section: &[u8]) {
        for entry in psi::read_pmt(section) {
            if self.entries.len() < MAX_ENTRIES && self.entries.iter().all(|known| known.pid != entry.pid) {
                self.entries.push(entry);
            }
        }
        let (video, audio) = choose(&self.entries);
        if let (None, Some((entry, codec))) = (&self.video, video) {
            self.video = Some((codec, Lane::new(entry.pid)));
        }
        if let (None, Some(entry)) = (&self.audio, audio) {
            let lane = Lane::new(entry.pid);
            self.audio = Some((entry, lane));
        }
    }

    fn place(&mut self, raw: Option<u64>) -> Option<Ticks> {
        let near = self.reference.unwrap_or(Ticks(i64::try_from(raw?).unwrap_or(0)));
        let at = Ticks::unwrap_near(raw?, near);
        self.reference = Some(at);
        Some(at)
    }

    fn sound(&mut self, unit: &[u8]) -> Result<(), LiveError> {
        let Some(header) = pes::read(unit) else { return Ok(()) };
        let Some(payload) = unit.get(header.length..) else { return Ok(()) };
        let payload = header.payload.and_then(|length| payload.get(..length)).unwrap_or(payload);
        let pts = self.place(header.pts);
        if let Some((entry, _)) = &self.audio {
            self.cutter.set_audio(AudioInfo {
                stream_type: entry.stream_type,
                stream_id: header.stream_id,
                descriptors: entry.descriptors.clone(),
            });
        }
        self.cutter.audio(AudioPacket { pts, data: payload.to_vec() })
    }

    fn picture(&mut self, codec: VideoCodec, unit: &[u8], done: &mut Vec<Segment>) -> Result<(), LiveError> {
        let Some(header) = pes::read(unit) else { return Ok(()) };
        let Some(payload) = unit.get(header.length..) else { return Ok(()) };
        let (pts, dts) = (self.place(header.pts), self.place(header.dts));
        self.stamps.push(Stamp { start: self.pictures.len(), pts, dts });
        self.pictures.extend_from_slice(payload);
        if self.pictures.len() > MAX_UNIT {
            return Err(LiveError::TooLarge);
        }
        self.emit(codec, 1, done)
    }

    /// Hands the pictures on that have ended: all but the last `keep`.
    fn emit(&mut self, codec: VideoCodec, keep: usize, done: &mut Vec<Segment>) -> Result<(), LiveError> {
        let spans = nal::access_units(codec, &self.pictures);
        let ended = spans.len().saturating_sub(keep);
        for span in spans.iter().take(ended) {
            // A packet's time stamps belong to the first picture that begins in it.
            let before = self.stamps.iter().rposition(|stamp| stamp.start <= span.anchor);
            let stamp = before.map(|index| self.stamps.drain(..=index).next_back()).unwrap_or_default();
            let data = self.pictures.get(span.range.clone()).unwrap_or_default().to_vec();
            let (pts, dts) = stamp.map_or((None, None), |stamp| (stamp.pts, stamp.dts));
            done.extend(self.cutter.video(codec, AccessUnit { pts, dts, keyframe: span.keyframe, data })?);
        }
        let used = spans.get(ended).map_or_else(|| spans.last().map_or(0, |last| last.range.end), |s| s.range.start);
        self.pictures.drain(..used);
        for stamp in &mut self.stamps {
            stamp.start = stamp.start.saturating_sub(used);
        }
        if self.stamps.len() > MAX_STAMPS {
            self.stamps.clear();
        }
        Ok(())
    }
}

/// Elementary streams remembered.
const MAX_ENTRIES: usize = 64;
/// Time stamps waiting for the picture they belong to.
const MAX_STAMPS: usize = 1024;

#[cfg(test)]
mod tests;
