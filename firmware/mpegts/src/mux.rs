//! Putting a transport stream together: one program, video on 0x100, audio on 0x101, clock on the video.
//!
//! Time stamps go out as they are, modulo 2³³; audio packets keep their bytes, their order and their stamps.
//! The tables come again at every key frame, so that any key frame is a place to start.
use crate::clock::{PER_SECOND, Ticks};
use crate::demux::{AudioInfo, AudioPacket, AudioTrack, VideoCodec};
use crate::packet::LENGTH;
use crate::psi::{self, Entry};
use crate::{nal, pes};

const PMT_PID: u16 = 0x1000;
const VIDEO_PID: u16 = 0x100;
const AUDIO_PID: u16 = 0x101;
/// How far the clock runs ahead of decoding, so that a receiver has time to fill its buffer.
const CLOCK_LEAD: Ticks = Ticks(PER_SECOND * 7 / 10);
/// The clock is sent at least this often.
const CLOCK_EVERY: Ticks = Ticks(PER_SECOND / 20);

/// What a stream will hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Codec of the video, if there is any.
    pub video: Option<VideoCodec>,
    /// How the audio announces itself, if there is any.
    pub audio: Option<AudioInfo>,
    /// Who made the stream; written into its service description unless empty.
    pub service_provider: String,
}

/// One coded picture on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VideoUnit<'a> {
    /// When it is shown.
    pub pts: Ticks,
    /// When it is decoded.
    pub dts: Ticks,
    /// Can a decoder start here?
    pub keyframe: bool,
    /// NAL units with start codes; a delimiter is put in front where there is none.
    pub data: &'a [u8],
}

/// Writes a stream, packet by packet. Pictures and audio packets must come in the order of their time stamps.
#[derive(Debug)]
pub struct Muxer {
    plan: Plan,
    out: Vec<u8>,
    /// Continuity counters of table, video and audio packets.
    counters: [u8; 5],
    tables: [Vec<u8>; 2],
    last_clock: Option<Ticks>,
    scratch: Vec<u8>,
}

/// Index of each packet number in the continuity counters.
#[derive(Debug, Clone, Copy)]
enum Lane {
    Pat = 0,
    Pmt = 1,
    Sdt = 2,
    Video = 3,
    Audio = 4,
}

impl Lane {
    fn pid(self) -> u16 {
        match self {
            Self::Pat => psi::PAT_PID,
            Self::Pmt => PMT_PID,
            Self::Sdt => psi::SDT_PID,
            Self::Video => VIDEO_PID,
            Self::Audio => AUDIO_PID,
        }
    }
}

impl Muxer {
    /// Starts a stream with its tables.
    #[must_use]
    pub fn new(plan: Plan) -> Self {
        let mut entries = Vec::new();
        if let Some(codec) = plan.video {
            let stream_type = match codec {
                VideoCodec::H264 => 0x1b,
                VideoCodec::H265 => 0x24,
                VideoCodec::Other(stream_type) => stream_type,
                // Private data: nobody has said how these are to be carried.
                VideoCodec::Vp8 | VideoCodec::Vp9 | VideoCodec::Av1 => 0x06,
            };
            entries.push(Entry { stream_type, pid: VIDEO_PID, descriptors: Vec::new() });
        }
        if let Some(audio) = &plan.audio {
            let descriptors = audio.descriptors.clone();
            entries.push(Entry { stream_type: audio.stream_type, pid: AUDIO_PID, descriptors });
        }
        let clock = if plan.video.is_some() { VIDEO_PID } else { AUDIO_PID };
        let tables = [psi::write_pat(PMT_PID), psi::write_pmt(clock, &entries)];
        let mut muxer = Self { plan, out: Vec::new(), counters: [0; 5], tables, last_clock: None, scratch: Vec::new() };
        if !muxer.plan.service_provider.is_empty() {
            let sdt = psi::write_sdt(&muxer.plan.service_provider);
            muxer.section(Lane::Sdt, &sdt);
        }
        muxer.write_tables();
        muxer
    }

    /// Bytes written so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.out.len()
    }

    /// Never true: a stream starts with its tables.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    /// Writes a picture.
    pub fn video(&mut self, unit: &VideoUnit<'_>) {
        if unit.keyframe && self.last_clock.is_some() {
            self.write_tables();
        }
        let delimiter: &[u8] = match self.plan.video {
            Some(VideoCodec::H264) if first_byte(unit.data).is_some_and(|b| b & 0x1f != 9) => &[0, 0, 0, 1, 9, 0xf0],
            Some(VideoCodec::H265) if first_byte(unit.data).is_some_and(|b| b >> 1 & 0x3f != 35) => {
                &[0, 0, 0, 1, 0x46, 1, 0x50]
            }
            _ => &[],
        };
        let mut pes = std::mem::take(&mut self.scratch);
        pes.clear();
        pes::write(&mut pes, 0xe0, Some(unit.pts), Some(unit.dts), 0, false);
        pes.extend_from_slice(delimiter);
        pes.extend_from_slice(unit.data);
        self.last_clock = Some(unit.dts);
        self.packets(Lane::Video, &pes, Some(unit.dts - CLOCK_LEAD), unit.keyframe);
        self.scratch = pes;
    }

    /// Writes an audio packet.
    pub fn audio(&mut self, packet: &AudioPacket) {
        let Some(stream_id) = self.plan.audio.as_ref().map(|a| a.stream_id) else { return };
        let carries_clock = self.plan.video.is_none();
        let due = packet.pts.filter(|pts| self.last_clock.is_none_or(|last| *pts - last >= CLOCK_EVERY));
        if let Some(pts) = due {
            self.last_clock = Some(pts);
            if !carries_clock {
                self.clock_only(pts - CLOCK_LEAD);
            }
        }
        let clock = due.filter(|_| carries_clock).map(|pts| pts - CLOCK_LEAD);
        let mut pes = std::mem::take(&mut self.scratch);
        pes.clear();
        pes::write(&mut pes, stream_id, packet.pts, None, packet.data.len(), true);
        pes.extend_from_slice(&packet.data);
        self.packets(Lane::Audio, &pes, clock, clock.is_some());
        self.scratch = pes;
    }

    /// The finished stream.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.out
    }

    fn write_tables(&mut self) {
        let tables = std::mem::take(&mut self.tables);
        self.section(Lane::Pat, &tables[0]);
        self.section(Lane::Pmt, &tables[1]);
        self.tables = tables;
    }

    fn section(&mut self, lane: Lane, section: &[u8]) {
        for (index, payload) in psi::payloads(section).iter().enumerate() {
            self.header(lane, index == 0, 0x10);
            self.out.extend_from_slice(payload);
        }
    }

    fn header(&mut self, lane: Lane, start: bool, control: u8) {
        let [p1, p2] = lane.pid().to_be_bytes();
        let counter = self.counters.get_mut(lane as usize).expect("every lane has a counter");
        self.out.extend_from_slice(&[0x47, p1 | u8::from(start) << 6, p2, control | *counter]);
        *counter = (*counter + 1) & 0x0f;
    }

    /// A packet with nothing but the clock; it does not count.
    fn clock_only(&mut self, clock: Ticks) {
        let [p1, p2] = VIDEO_PID.to_be_bytes();
        let counter = self.counters[Lane::Video as usize].wrapping_sub(1) & 0x0f;
        self.out.extend_from_slice(&[0x47, p1, p2, 0x20 | counter, 183, 0x10]);
        self.out.extend_from_slice(&clock_field(clock));
        self.out.resize(self.out.len() + LENGTH - 12, 0xff);
    }

    /// Cuts one PES packet into transport packets.
    fn packets(&mut self, lane: Lane, pes: &[u8], clock: Option<Ticks>, random_access: bool) {
        self.out.reserve(pes.len() + pes.len() / 40 + 2 * LENGTH);
        let mut rest = pes;
        let mut start = true;
        while !rest.is_empty() {
            let mut field: Vec<u8> = Vec::new();
            if start && (clock.is_some() || random_access) {
                field.push(u8::from(random_access) << 6 | u8::from(clock.is_some()) << 4);
                field.extend(clock.map(clock_field).into_iter().flatten());
            }
            let taken = if field.is_empty() { 0 } else { field.len() + 1 };
            let room = LENGTH - 4 - taken;
            let (now, later) = rest.split_at(room.min(rest.len()));
            let stuffing = room - now.len();
            let has_field = taken > 0 || stuffing > 0;
            self.header(lane, start, if has_field { 0x30 } else { 0x10 });
            if has_field {
                let length = taken.saturating_sub(1) + if taken > 0 { stuffing } else { stuffing - 1 };
                self.out.push(u8::try_from(length).expect("a field is shorter than a packet"));
                if taken > 0 {
                    self.out.extend_from_slice(&field);
                    self.out.resize(self.out.len() + stuffing, 0xff);
                } else if stuffing > 1 {
                    self.out.push(0);
                    self.out.resize(self.out.len() + stuffing - 2, 0xff);
                }
            }
            self.out.extend_from_slice(now);
            rest = later;
            start = false;
        }
    }
}

/// The first byte of the first NAL unit.
fn first_byte(data: &[u8]) -> Option<u8> {
    nal::units(data).next().and_then(|n| n.bytes(data).first().copied())
}

/// The clock as it stands in a packet: 33 bits of 90 kHz, nothing finer.
fn clock_field(clock: Ticks) -> [u8; 6] {
    let [.., a, b, c, d, e] = (clock.wrapped() << 7).to_be_bytes();
    [a, b, c, d, e | 0x7e, 0]
}

/// Writes a whole segment, its tracks interleaved by time.
#[must_use]
pub fn mux(codec: VideoCodec, video: &[VideoUnit<'_>], audio: Option<&AudioTrack>, service_provider: &str) -> Vec<u8> {
    let plan = Plan {
        video: (!video.is_empty()).then_some(codec),
        audio: audio.map(|a| a.info.clone()),
        service_provider: service_provider.to_owned(),
    };
    let mut muxer = Muxer::new(plan);
    let mut sound = audio.map(|a| a.packets.as_slice()).unwrap_or_default().iter().peekable();
    for unit in video {
        // A packet without a stamp stays behind the one it followed.
        while let Some(packet) = sound.next_if(|p| p.pts.is_none_or(|pts| pts <= unit.dts)) {
            muxer.audio(packet);
        }
        muxer.video(unit);
    }
    sound.for_each(|packet| muxer.audio(packet));
    muxer.finish()
}
