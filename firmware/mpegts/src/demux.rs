//! Taking a transport stream apart: the first video and the first audio track, in any order of packets.
//!
//! Two passes: one finds the program tables wherever they are, one gathers the tracks. Whatever is damaged is
//! skipped; what the decoder makes of the rest is its business. Audio is never looked into.
use std::collections::BTreeMap;

use crate::clock::Ticks;
use crate::packet::{Packets, Repeats};
use crate::psi::{self, Assembler, Entry};
use crate::{nal, pes};

/// More pictures or audio packets than this in one segment are refused.
const MAX_UNITS: usize = 1 << 18;

/// What a video track is coded in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum VideoCodec {
    /// H.264.
    H264,
    /// HEVC.
    H265,
    /// VP8; no transport stream carries it, an MP4 may.
    Vp8,
    /// VP9; likewise.
    Vp9,
    /// AV1; likewise.
    Av1,
    /// Something we know to be video but cannot take apart; its `stream_type`.
    Other(u8),
}

/// One coded picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessUnit {
    /// When it is shown; not every picture says so.
    pub pts: Option<Ticks>,
    /// When it is decoded, where that differs.
    pub dts: Option<Ticks>,
    /// Can a decoder start here?
    pub keyframe: bool,
    /// NAL units with start codes.
    pub data: Vec<u8>,
}

/// The video of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VideoTrack {
    /// How it is coded.
    pub codec: VideoCodec,
    /// Its pictures in decoding order; empty for a codec we cannot take apart.
    pub units: Vec<AccessUnit>,
}

/// How an audio track announces itself; copied from input to output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AudioInfo {
    /// From the program table: 0x0f is AAC with ADTS headers.
    pub stream_type: u8,
    /// From the packets.
    pub stream_id: u8,
    /// From the program table, as they are.
    pub descriptors: Vec<u8>,
}

/// One audio packet, which may hold several frames of sound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AudioPacket {
    /// When its first frame is heard.
    pub pts: Option<Ticks>,
    /// As found.
    pub data: Vec<u8>,
}

/// The audio of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AudioTrack {
    /// How it announces itself.
    pub info: AudioInfo,
    /// In the order found.
    pub packets: Vec<AudioPacket>,
}

/// A segment taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Demuxed {
    /// The first video track, if there is one.
    pub video: Option<VideoTrack>,
    /// The first audio track, if there is one.
    pub audio: Option<AudioTrack>,
}

/// Why there is nothing to take apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No run of transport packets anywhere.
    #[error("not a transport stream")]
    NotTransportStream,
    /// Packets, but no table that says what they are.
    #[error("no program in the transport stream")]
    NoProgram,
    /// Far more pictures or audio packets than a segment can have.
    #[error("more than {MAX_UNITS} units in a segment")]
    TooManyUnits,
}

/// Takes a segment of transport stream apart.
///
/// # Errors
/// [`Error`] when the bytes are no transport stream, have no program, or hold absurdly many pieces. A damaged
/// stream is no error: what is readable is returned.
pub fn demux(input: &[u8]) -> Result<Demuxed, Error> {
    let packets = Packets::find(input).ok_or(Error::NotTransportStream)?;
    let (video, audio) = choose(&programs(&packets).ok_or(Error::NoProgram)?);
    let mut tracks = Tracks { video: video.as_ref().map(|(e, _)| Gather::new(e.pid)), audio: None, reference: None };
    tracks.audio = audio.as_ref().map(|e| Gather::new(e.pid));
    for packet in packets {
        tracks.push(&packet)?;
    }
    let Tracks { video: video_data, audio: audio_data, .. } = tracks;
    let video = match video.zip(video_data) {
        Some(((_, codec), gathered)) => Some(VideoTrack { codec, units: pictures(codec, &gathered)? }),
        None => None,
    };
    let audio = audio.zip(audio_data).map(|(entry, gathered)| AudioTrack {
        info: AudioInfo {
            stream_type: entry.stream_type,
            stream_id: gathered.stream_id.unwrap_or(0xc0),
            descriptors: entry.descriptors,
        },
        packets: gathered.into_packets(),
    });
    Ok(Demuxed { video, audio })
}

/// The tables of all programs, in the order of the association table.
fn programs(packets: &Packets<'_>) -> Option<Vec<Entry>> {
    let mut order: Vec<u16> = Vec::new();
    let mut assembler = Assembler::default();
    for packet in packets.clone().filter(|p| p.pid == psi::PAT_PID) {
        for section in assembler.push(&packet) {
            for pid in psi::read_pat(&section) {
                if !order.contains(&pid) && order.len() < psi::MAX_PROGRAMS {
                    order.push(pid);
                }
            }
        }
    }
    // Without an association table every packet number may be a program table.
    let guess = order.is_empty();
    let mut assemblers: BTreeMap<u16, Assembler> = BTreeMap::new();
    let mut tables: BTreeMap<u16, Vec<Entry>> = BTreeMap::new();
    for packet in packets.clone() {
        let known = order.contains(&packet.pid);
        if packet.pid == psi::PAT_PID
            || !(known || guess && (packet.unit_start || assemblers.contains_key(&packet.pid)))
        {
            continue;
        }
        if guess && !assemblers.contains_key(&packet.pid) && !looks_like_program_table(packet.payload) {
            continue;
        }
        for section in assemblers.entry(packet.pid).or_default().push(&packet) {
            let table = tables.entry(packet.pid).or_default();
            // A later version may add a track; it does not take one away.
            for entry in psi::read_pmt(&section) {
                if !table.iter().any(|e| e.pid == entry.pid) {
                    table.push(entry);
                }
            }
            if guess && !order.contains(&packet.pid) && !tables.get(&packet.pid).is_none_or(Vec::is_empty) {
                order.push(packet.pid);
            }
        }
    }
    let entries: Vec<Entry> = order.iter().filter_map(|pid| tables.remove(pid)).flatten().collect();
    (!entries.is_empty()).then_some(entries)
}

fn looks_like_program_table(payload: &[u8]) -> bool {
    payload.first().is_some_and(|p| payload.get(1 + usize::from(*p)) == Some(&2))
}

/// The first video and the first audio entry.
pub(crate) fn choose(entries: &[Entry]) -> (Option<(Entry, VideoCodec)>, Option<Entry>) {
    let video = entries.iter().find_map(|e| video_codec(e).map(|codec| (e.clone(), codec)));
    let audio = entries.iter().find(|e| is_audio(e)).cloned();
    (video, audio)
}

fn video_codec(entry: &Entry) -> Option<VideoCodec> {
    match entry.stream_type {
        0x1b => Some(VideoCodec::H264),
        0x24 => Some(VideoCodec::H265),
        0x06 if registration(entry, b"HEVC") => Some(VideoCodec::H265),
        other @ (0x01 | 0x02 | 0x10 | 0x1e | 0x1f | 0x20 | 0x21 | 0x32..=0x35 | 0x42 | 0xd1 | 0xea) => {
            Some(VideoCodec::Other(other))
        }
        _ => None,
    }
}

fn is_audio(entry: &Entry) -> bool {
    match entry.stream_type {
        0x03 | 0x04 | 0x0f | 0x11 | 0x1c | 0x2d | 0x2e | 0x81..=0x88 | 0xc1 | 0xc2 | 0xcf => true,
        0x06 => {
            let tagged = psi::descriptors(&entry.descriptors).any(|(tag, _)| matches!(tag, 0x6a | 0x7a | 0x7b | 0x7c));
            tagged
                || [b"AC-3", b"EAC3", b"DTS1", b"DTS2", b"DTS3", b"Opus"].iter().any(|name| registration(entry, name))
        }
        _ => false,
    }
}

fn registration(entry: &Entry, name: &[u8; 4]) -> bool {
    psi::descriptors(&entry.descriptors).any(|(tag, body)| tag == 0x05 && body.starts_with(name))
}

struct Tracks<'a> {
    video: Option<Gather<'a>>,
    audio: Option<Gather<'a>>,
    /// The first time stamp of all, around which the clock is unwrapped.
    reference: Option<Ticks>,
}

impl<'a> Tracks<'a> {
    fn push(&mut self, packet: &crate::packet::Packet<'a>) -> Result<(), Error> {
        let reference = &mut self.reference;
        for (gather, bounded) in [(&mut self.video, false), (&mut self.audio, true)] {
            if let Some(gather) = gather.as_mut().filter(|g| g.pid == packet.pid) {
                return gather.push(packet, bounded, reference);
            }
        }
        Ok(())
    }
}

/// A stretch of a track under one set of time stamps.
struct Stretch {
    start: usize,
    pts: Option<Ticks>,
    dts: Option<Ticks>,
}

/// One track as it comes in: its bytes in a row, and where each packet began.
struct Gather<'a> {
    pid: u16,
    repeats: Repeats<'a>,
    data: Vec<u8>,
    stretches: Vec<Stretch>,
    stream_id: Option<u8>,
    /// Payload bytes still wanted, when the packet said how many.
    wanted: Option<usize>,
    /// A packet header that has not arrived in full.
    header: Vec<u8>,
    open: bool,
}

impl<'a> Gather<'a> {
    fn new(pid: u16) -> Self {
        Self {
            pid,
            repeats: Repeats::default(),
            data: Vec::new(),
            stretches: Vec::new(),
            stream_id: None,
            wanted: None,
            header: Vec::new(),
            open: false,
        }
    }

    fn push(
        &mut self,
        packet: &crate::packet::Packet<'a>,
        bounded: bool,
        reference: &mut Option<Ticks>,
    ) -> Result<(), Error> {
        if self.repeats.is_repeat(packet) {
            return Ok(());
        }
        if packet.unit_start {
            self.open = false;
            self.header.clear();
            self.header.extend_from_slice(packet.payload);
        } else if !self.open && !self.header.is_empty() {
            self.header.extend_from_slice(packet.payload);
        } else {
            if self.open {
                self.append(packet.payload);
            }
            return Ok(());
        }
        self.begin(bounded, reference)
    }

    /// Starts a packet once its header is complete.
    fn begin(&mut self, bounded: bool, reference: &mut Option<Ticks>) -> Result<(), Error> {
        let bytes = std::mem::take(&mut self.header);
        let full = bytes.get(8).is_some_and(|extra| bytes.len() >= 9 + usize::from(*extra));
        if !full {
            // A header is at most 264 bytes long: two packets.
            if bytes.len() < 2 * crate::packet::LENGTH {
                self.header = bytes;
            }
            return Ok(());
        }
        let Some(header) = pes::read(&bytes) else { return Ok(()) };
        if self.stretches.len() >= MAX_UNITS {
            return Err(Error::TooManyUnits);
        }
        let mut place = |raw: Option<u64>| {
            raw.map(|raw| {
                let near = reference.unwrap_or(Ticks(i64::try_from(raw).unwrap_or(0)));
                *reference.get_or_insert(near) = near;
                Ticks::unwrap_near(raw, near)
            })
        };
        let (pts, dts) = (place(header.pts), place(header.dts));
        self.stretches.push(Stretch { start: self.data.len(), pts, dts });
        self.stream_id.get_or_insert(header.stream_id);
        self.wanted = header.payload.filter(|_| bounded);
        self.open = true;
        self.append(bytes.get(header.length..).unwrap_or_default());
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) {
        let take = self.wanted.unwrap_or(usize::MAX).min(bytes.len());
        self.data.extend_from_slice(bytes.get(..take).unwrap_or_default());
        if let Some(wanted) = &mut self.wanted {
            *wanted -= take;
        }
    }

    fn ends(&self) -> impl Iterator<Item = usize> {
        self.stretches.iter().skip(1).map(|s| s.start).chain(std::iter::once(self.data.len()))
    }

    fn into_packets(self) -> Vec<AudioPacket> {
        let cut = |(stretch, end): (&Stretch, usize)| AudioPacket {
            pts: stretch.pts,
            data: self.data.get(stretch.start..end).unwrap_or_default().to_vec(),
        };
        self.stretches.iter().zip(self.ends()).map(cut).filter(|p| !p.data.is_empty()).collect()
    }
}

/// Cuts a video track into pictures. A packet's time stamps belong to the first picture that begins in it.
fn pictures(codec: VideoCodec, gathered: &Gather<'_>) -> Result<Vec<AccessUnit>, Error> {
    let spans = nal::access_units(codec, &gathered.data);
    if spans.len() > MAX_UNITS {
        return Err(Error::TooManyUnits);
    }
    let mut stretches = gathered.stretches.iter().zip(gathered.ends()).peekable();
    let mut units = Vec::with_capacity(spans.len());
    for span in spans {
        while stretches.next_if(|(_, end)| *end <= span.anchor).is_some() {}
        let stamped = stretches.next_if(|(s, _)| s.start <= span.anchor);
        let (pts, dts) = stamped.map_or((None, None), |(s, _)| (s.pts, s.dts));
        let data = gathered.data.get(span.range).unwrap_or_default().to_vec();
        units.push(AccessUnit { pts, dts, keyframe: span.keyframe, data });
    }
    Ok(units)
}
