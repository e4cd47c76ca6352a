//! Odd segments, made by rewriting good ones: what no encoder writes on request but the network brings.
use mpegts::{AccessUnit, AudioTrack, VideoCodec, VideoUnit, demux, mux};

/// Length of a transport packet.
const PACKET: usize = 188;
/// Where ffmpeg puts the video.
pub const VIDEO_PID: u16 = 0x100;
/// Where ffmpeg puts the first audio track.
pub const AUDIO_PID: u16 = 0x101;

/// The first packet of one PES packet, for changing.
#[derive(Debug)]
pub struct Pes<'a> {
    /// From the start code on, as far as it goes in this packet.
    bytes: &'a mut [u8],
}

impl Pes<'_> {
    /// When it is shown or heard.
    pub fn pts(&self) -> Option<u64> {
        let flag = self.bytes.get(7)? & 0x80 != 0;
        let &[a, b, c, d, e] = self.bytes.get(9..14)?.first_chunk::<5>().filter(|_| flag)?;
        let [a, b, c, d, e] = [a, b, c, d, e].map(u64::from);
        Some((a >> 1 & 7) << 30 | b << 22 | (c >> 1) << 15 | d << 7 | e >> 1)
    }

    /// Takes the time stamps out.
    pub fn forget_times(&mut self) {
        let length = 9 + usize::from(self.bytes[8]);
        self.bytes[7] &= 0x3f;
        self.bytes[9..length].fill(0xff);
    }

    /// Changes the time of presentation, if it says one.
    pub fn set_pts(&mut self, pts: u64) {
        if self.bytes[7] & 0x80 != 0 {
            self.stamp(9, pts);
        }
    }

    /// Changes the time of decoding, if it says one.
    pub fn set_dts(&mut self, dts: u64) {
        if self.bytes[7] & 0xc0 == 0xc0 {
            self.stamp(14, dts);
        }
    }

    fn stamp(&mut self, at: usize, time: u64) {
        let high = self.bytes[at] & 0xf0;
        let byte = |shift: u32, mask: u64| u8::try_from(time >> shift & mask).expect("a masked byte");
        self.bytes[at] = high | byte(30, 7) << 1 | 1;
        self.bytes[at + 1] = byte(22, 0xff);
        self.bytes[at + 2] = byte(15, 0x7f) << 1 | 1;
        self.bytes[at + 3] = byte(7, 0xff);
        self.bytes[at + 4] = byte(0, 0x7f) << 1 | 1;
    }

    /// Takes out how long it is.
    pub fn forget_length(&mut self) {
        self.bytes[4..6].fill(0);
    }
}

/// Changes each PES packet of a track; the closure gets its number, from 0.
///
/// # Panics
/// When the bytes are not packets of 188 bytes.
pub fn edit(stream: &mut [u8], pid: u16, mut change: impl FnMut(usize, Pes<'_>)) {
    let mut number = 0;
    for packet in stream.chunks_exact_mut(PACKET) {
        assert_eq!(packet[0], 0x47, "a transport packet");
        let this = u16::from(packet[1] & 0x1f) << 8 | u16::from(packet[2]);
        if this == pid && packet[1] & 0x40 != 0 {
            let skip = if packet[3] & 0x20 != 0 { 5 + usize::from(packet[4]) } else { 4 };
            change(number, Pes { bytes: &mut packet[skip..] });
            number += 1;
        }
    }
}

/// The same stream with bytes around each packet, as recorders write them.
pub fn padded(stream: &[u8], before: usize, after: usize) -> Vec<u8> {
    stream.chunks(PACKET).flat_map(|packet| [&vec![0x11; before][..], packet, &vec![0x22; after]].concat()).collect()
}

/// Packets of these numbers first, the rest behind; each track keeps its order.
pub fn reordered(stream: &[u8], first: &[u16]) -> Vec<u8> {
    let pid = |packet: &&[u8]| u16::from(packet[1] & 0x1f) << 8 | u16::from(packet[2]);
    let (early, late): (Vec<&[u8]>, Vec<&[u8]>) = stream.chunks_exact(PACKET).partition(|p| first.contains(&pid(p)));
    early.into_iter().chain(late).flatten().copied().collect()
}

/// The pictures of a stream and its sound, taken apart.
///
/// # Panics
/// When it has no pictures.
pub fn apart(stream: &[u8]) -> (VideoCodec, Vec<AccessUnit>, Option<AudioTrack>) {
    let found = demux(stream).expect("a transport stream");
    let video = found.video.expect("video");
    (video.codec, video.units, found.audio)
}

/// A stream of these pictures, each with the time it had or was given.
///
/// # Panics
/// When a picture has no time.
pub fn together(codec: VideoCodec, units: &[AccessUnit], audio: Option<&AudioTrack>) -> Vec<u8> {
    fn unit(unit: &AccessUnit) -> VideoUnit<'_> {
        let pts = unit.pts.expect("a picture with a time");
        VideoUnit { pts, dts: unit.dts.unwrap_or(pts), keyframe: unit.keyframe, data: &unit.data }
    }
    mux(codec, &units.iter().map(unit).collect::<Vec<_>>(), audio, "")
}
