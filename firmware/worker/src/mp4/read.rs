//! Reading an MP4 from a stranger: every number in it may be a lie.
use mpegts::{AccessUnit, AudioInfo, AudioPacket, AudioTrack, Ticks, VideoCodec, VideoTrack};
use sandbox::message::JobError;

use super::adts::Config;
use crate::container::Tracks;
use crate::pipeline::Failure;

/// More samples than this in a track are refused.
const MAX_SAMPLES: usize = 1 << 18;
/// `stream_type` of AAC in ADTS.
const AAC: u8 = 0x0f;

/// Does this look like an MP4?
pub(crate) fn is_mp4(input: &[u8]) -> bool {
    matches!(input.get(4..8), Some(b"ftyp" | b"styp" | b"moov" | b"free" | b"mdat"))
}

/// Takes an MP4 apart: the first video and the first audio track.
pub(crate) fn read(input: &[u8]) -> Result<Tracks, Failure> {
    let unreadable = |what: &str| Failure::new(JobError::UnknownContainer, format!("an MP4 {what}"));
    let moov = child(input, b"moov").ok_or_else(|| unreadable("without an index"))?;
    let film = child(moov, b"mvhd").and_then(timescale).unwrap_or(1000);
    let (mut video, mut audio) = (None, None);
    for track in children(moov).filter(|(kind, _)| kind == b"trak").map(|(_, body)| body) {
        match path(track, &[b"mdia", b"hdlr"]).and_then(|hdlr| hdlr.get(8..12)) {
            Some(b"vide") if video.is_none() => {
                video = Some(pictures(track, input, film).ok_or_else(|| unreadable("with a damaged video index"))?);
            }
            Some(b"soun") if audio.is_none() => audio = sound(track, input, film),
            _ => {}
        }
    }
    Ok((video, audio))
}

/// The boxes in a piece of file.
fn children(mut bytes: &[u8]) -> impl Iterator<Item = ([u8; 4], &[u8])> {
    std::iter::from_fn(move || {
        let short = usize::try_from(u32_at(bytes, 0)?).ok()?;
        let kind = *bytes.get(4..)?.first_chunk::<4>()?;
        let (header, length) = match short {
            0 => (8, bytes.len()),
            1 => (16, usize::try_from(u64_at(bytes, 8)?).ok()?),
            length => (8, length),
        };
        // A box cut off by the end of the file still has a beginning.
        let body = bytes.get(header..length.min(bytes.len()))?;
        bytes = bytes.get(length.min(bytes.len())..)?;
        Some((kind, body))
    })
}

fn child<'a>(bytes: &'a [u8], kind: &[u8; 4]) -> Option<&'a [u8]> {
    children(bytes).find(|(k, _)| k == kind).map(|(_, body)| body)
}

fn path<'a>(bytes: &'a [u8], kinds: &[&[u8; 4]]) -> Option<&'a [u8]> {
    kinds.iter().try_fold(bytes, |inside, kind| child(inside, kind))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk::<4>().map(|b| u32::from_be_bytes(*b))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk::<8>().map(|b| u64::from_be_bytes(*b))
}

/// Ticks per second in a film's or a track's header.
fn timescale(header: &[u8]) -> Option<u32> {
    let at = if header.first() == Some(&1) { 20 } else { 12 };
    u32_at(header, at).filter(|t| *t > 0)
}

/// One sample of a track: its bytes, and its times on the film's 90 kHz line.
struct Sample<'a> {
    data: &'a [u8],
    pts: Ticks,
    dts: Ticks,
    sync: bool,
}

/// All samples of a track that are there; `None` when the index makes no sense.
fn samples<'a>(track: &[u8], input: &'a [u8], film: u32) -> Option<Vec<Sample<'a>>> {
    let scale = timescale(path(track, &[b"mdia", b"mdhd"])?)?;
    let table = path(track, &[b"mdia", b"minf", b"stbl"])?;
    let stsz = child(table, b"stsz")?;
    let (fixed, number) = (u32_at(stsz, 4)?, usize::try_from(u32_at(stsz, 8)?).ok()?);
    if number > MAX_SAMPLES {
        return None;
    }
    let mut durations = Runs::new(child(table, b"stts")?);
    let mut offsets = child(table, b"ctts").map(Runs::new);
    let sync: Option<Vec<u32>> =
        child(table, b"stss").map(|s| (0..).map_while(|n| u32_at(s, 8 + 4 * n)).take(MAX_SAMPLES).collect());
    let mut places = Places::new(table)?;
    let shift = shift(track, film, scale);
    let to_ticks = |time: i64| {
        Ticks(
            i64::try_from((i128::from(time) * 180_000 + i128::from(scale)).div_euclid(i128::from(scale) * 2))
                .unwrap_or(0),
        )
    };
    let (mut found, mut time, mut total) = (Vec::new(), 0i64, 0usize);
    for index in 0..number {
        let size = if fixed > 0 { fixed } else { u32_at(stsz, 12 + 4 * index)? };
        let size = usize::try_from(size).ok()?;
        let place = places.next(size)?;
        let offset = offsets.as_mut().and_then(Runs::next).unwrap_or(0);
        // Offsets are signed in version 1, and in practice in version 0 too.
        let offset = i64::from(offset.cast_signed());
        let end = place.checked_add(size)?;
        if let Some(data) = input.get(place..end) {
            total = total.checked_add(size)?;
            // Samples that share bytes could unpack a small file into a huge one.
            if total > input.len() {
                return None;
            }
            let number = u32::try_from(index + 1).ok()?;
            let is_sync = sync.as_ref().is_none_or(|s| s.binary_search(&number).is_ok());
            found.push(Sample {
                data,
                pts: to_ticks(time + offset) + shift,
                dts: to_ticks(time) + shift,
                sync: is_sync,
            });
        }
        time = time.checked_add(i64::from(durations.next().unwrap_or(0)))?;
    }
    Some(found)
}

/// How the edit list moves a track on the film's line.
fn shift(track: &[u8], film: u32, scale: u32) -> Ticks {
    let Some(list) = path(track, &[b"edts", b"elst"]) else { return Ticks(0) };
    let long = list.first() == Some(&1);
    let mut ticks = 0i128;
    for index in 0..2 {
        let entry = |at: usize| if long { 8 + index * 20 + at * 8 } else { 8 + index * 12 + at * 4 };
        let number = |at: usize| {
            if long {
                u64_at(list, entry(at)).map(u64::cast_signed)
            } else {
                u32_at(list, entry(at)).map(|n| i64::from(n.cast_signed()))
            }
        };
        let (Some(length), Some(media)) = (number(0), number(1)) else { break };
        if media < 0 {
            ticks += i128::from(length) * 90_000 / i128::from(film);
        } else {
            ticks -= i128::from(media) * 90_000 / i128::from(scale);
            break;
        }
    }
    Ticks(i64::try_from(ticks).unwrap_or(0))
}

/// A table of runs: so many samples with this value.
struct Runs<'a> {
    table: &'a [u8],
    entry: usize,
    left: u32,
}

impl<'a> Runs<'a> {
    fn new(table: &'a [u8]) -> Self {
        Self { table, entry: 0, left: 0 }
    }

    fn next(&mut self) -> Option<u32> {
        while self.left == 0 {
            self.left = u32_at(self.table, 8 + 8 * self.entry)?;
            self.entry += 1;
        }
        self.left -= 1;
        u32_at(self.table, 4 + 8 * self.entry)
    }
}

/// Where samples lie: chunk by chunk.
struct Places<'a> {
    to_chunk: &'a [u8],
    offsets: &'a [u8],
    wide: bool,
    chunk: usize,
    entry: usize,
    left: u32,
    at: usize,
}

impl<'a> Places<'a> {
    fn new(table: &'a [u8]) -> Option<Self> {
        let (offsets, wide) = match child(table, b"co64") {
            Some(offsets) => (offsets, true),
            None => (child(table, b"stco")?, false),
        };
        Some(Self { to_chunk: child(table, b"stsc")?, offsets, wide, chunk: 0, entry: 0, left: 0, at: 0 })
    }

    /// Where the next sample begins, and past it.
    fn next(&mut self, size: usize) -> Option<usize> {
        while self.left == 0 {
            self.chunk += 1;
            while u32_at(self.to_chunk, 8 + 12 * (self.entry + 1))
                .is_some_and(|first| usize::try_from(first).is_ok_and(|f| f <= self.chunk))
            {
                self.entry += 1;
            }
            self.left = u32_at(self.to_chunk, 12 + 12 * self.entry)?;
            let index = self.chunk - 1;
            self.at = if self.wide {
                usize::try_from(u64_at(self.offsets, 8 + 8 * index)?).ok()?
            } else {
                usize::try_from(u32_at(self.offsets, 8 + 4 * index)?).ok()?
            };
        }
        self.left -= 1;
        let place = self.at;
        self.at = self.at.checked_add(size)?;
        Some(place)
    }
}

fn pictures(track: &[u8], input: &[u8], film: u32) -> Option<VideoTrack> {
    let stsd = path(track, &[b"mdia", b"minf", b"stbl", b"stsd"])?;
    let (kind, entry) = children(stsd.get(8..)?).next()?;
    let inside = entry.get(78..).unwrap_or_default();
    let (codec, sets, length_size) = match &kind {
        b"avc1" | b"avc3" => avc(child(inside, b"avcC")?)?,
        b"hvc1" | b"hev1" => hevc(child(inside, b"hvcC")?)?,
        _ => return Some(VideoTrack { codec: VideoCodec::Other(0), units: Vec::new() }),
    };
    let unit = |sample: Sample<'_>| {
        let mut data = Vec::with_capacity(sample.data.len() + 64);
        if sample.sync {
            data.extend_from_slice(&sets);
        }
        let mut rest = sample.data;
        while let Some((head, tail)) = rest.split_at_checked(length_size) {
            let length = head.iter().fold(0usize, |n, b| n << 8 | usize::from(*b));
            let Some((nal, tail)) = tail.split_at_checked(length) else { break };
            data.extend_from_slice(&[0, 0, 0, 1]);
            data.extend_from_slice(nal);
            rest = tail;
        }
        AccessUnit { pts: Some(sample.pts), dts: Some(sample.dts), keyframe: sample.sync, data }
    };
    Some(VideoTrack { codec, units: samples(track, input, film)?.into_iter().map(unit).collect() })
}

type Description = (VideoCodec, Vec<u8>, usize);

fn avc(config: &[u8]) -> Option<Description> {
    let length_size = usize::from(config.get(4)? & 3) + 1;
    let mut sets = Vec::new();
    let mut rest = config.get(5..)?;
    for mask in [0x1f, 0xff] {
        let (&number, tail) = rest.split_first()?;
        rest = tail;
        for _ in 0..number & mask {
            rest = take_set(rest, &mut sets)?;
        }
    }
    Some((VideoCodec::H264, sets, length_size))
}

fn hevc(config: &[u8]) -> Option<Description> {
    let length_size = usize::from(config.get(21)? & 3) + 1;
    let mut sets = Vec::new();
    let (&arrays, mut rest) = config.get(22..)?.split_first()?;
    for _ in 0..arrays {
        let number = u16::from_be_bytes(*rest.get(1..)?.first_chunk::<2>()?);
        rest = rest.get(3..)?;
        for _ in 0..number {
            rest = take_set(rest, &mut sets)?;
        }
    }
    Some((VideoCodec::H265, sets, length_size))
}

fn take_set<'a>(bytes: &'a [u8], sets: &mut Vec<u8>) -> Option<&'a [u8]> {
    let (length, tail) = bytes.split_first_chunk::<2>()?;
    let (set, tail) = tail.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
    sets.extend_from_slice(&[0, 0, 0, 1]);
    sets.extend_from_slice(set);
    Some(tail)
}

/// AAC, each frame a packet with an ADTS header; other sound is left out, as ADTS cannot say it.
fn sound(track: &[u8], input: &[u8], film: u32) -> Option<AudioTrack> {
    let stsd = path(track, &[b"mdia", b"minf", b"stbl", b"stsd"])?;
    let (kind, entry) = children(stsd.get(8..)?).next()?;
    let esds = child(entry.get(28..)?, b"esds").filter(|_| &kind == b"mp4a")?;
    let config = Config::from_specific(specific(esds.get(4..)?)?)?;
    let info = AudioInfo { stream_type: AAC, stream_id: 0xc0, descriptors: Vec::new() };
    let packet = |s: Sample<'_>| Some(AudioPacket { pts: Some(s.pts), data: config.wrap(s.data)? });
    Some(AudioTrack { info, packets: samples(track, input, film)?.into_iter().filter_map(packet).collect() })
}

/// The decoder's bytes inside the nested descriptors of an `esds`.
fn specific(mut bytes: &[u8]) -> Option<&[u8]> {
    // ES descriptor, decoder configuration, decoder specific.
    for (tag, skip) in [(3u8, 3usize), (4, 13), (5, 0)] {
        let (&found, mut rest) = bytes.split_first()?;
        if found != tag {
            return None;
        }
        while rest.first()? & 0x80 != 0 {
            rest = rest.get(1..)?;
        }
        bytes = rest.get(1 + skip..)?;
    }
    Some(bytes)
}
