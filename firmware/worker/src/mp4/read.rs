//! Reading an MP4 from a stranger: every number in it may be a lie.
use mpegts::{AccessUnit, VideoCodec, VideoTrack, vpx};
use sandbox::message::JobError;

use super::boxes::{child, path, pieces};
use super::samples::{self, Sample};
use crate::container::Tracks;
use crate::pipeline::Failure;
use crate::sound::{self, Samples, Sound};

/// More descriptions than this in a track are not read.
const MAX_DESCRIPTIONS: usize = 64;

/// Does this look like an MP4?
pub(crate) fn is_mp4(input: &[u8]) -> bool {
    matches!(input.get(4..8), Some(b"ftyp" | b"styp" | b"moov" | b"moof" | b"free" | b"skip" | b"wide" | b"mdat"))
}

/// Takes an MP4 apart: the first video and the first audio track.
pub(crate) fn read(input: &[u8]) -> Result<Tracks, Failure> {
    let unreadable = |what: &str| Failure::new(JobError::UnknownContainer, format!("an MP4 {what}"));
    let moov = child(input, b"moov").ok_or_else(|| unreadable("without an index"))?;
    let mut tracks = Tracks::default();
    for track in pieces(moov).filter(|p| p.kind == *b"trak").map(|p| p.body) {
        match path(track, &[b"mdia", b"hdlr"]).and_then(|hdlr| hdlr.get(8..12)) {
            Some(b"vide") if tracks.video.is_none() => {
                let damaged = || unreadable("with a damaged video index");
                let found = samples::find(track, moov, input).ok_or_else(damaged)?;
                tracks.shown_from = found.from;
                tracks.video = Some(pictures(track, &found.samples).ok_or_else(damaged)?);
            }
            Some(b"soun") if tracks.audio.is_none() => tracks.audio = sound(track, moov, input),
            _ => {}
        }
    }
    Ok(tracks)
}

/// Ticks per second of the pictures' own clock.
pub(crate) fn picture_clock(input: &[u8]) -> Option<u32> {
    let tracks = pieces(child(input, b"moov")?).filter(|p| p.kind == *b"trak").map(|p| p.body);
    let video = |track: &&[u8]| path(track, &[b"mdia", b"hdlr"]).and_then(|h| h.get(8..12)) == Some(b"vide");
    samples::timescale(path(tracks.into_iter().find(video)?, &[b"mdia", b"mdhd"])?)
}

fn sound(track: &[u8], moov: &[u8], input: &[u8]) -> Option<Sound> {
    let stsd = path(track, &[b"mdia", b"minf", b"stbl", b"stsd"])?;
    let entry = pieces(stsd.get(8..)?).next()?.whole.to_vec();
    let found = samples::find(track, moov, input)?;
    let own = |s: &Sample<'_>| sound::Sample { pts: s.pts, duration: s.duration, data: s.data.to_vec() };
    let samples = found.samples.iter().map(own).collect();
    Some(Sound::Samples(Samples { entry, timescale: found.timescale, samples }))
}

/// How pictures of a description become what a decoder takes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Description {
    codec: VideoCodec,
    /// Goes before key frames: parameter sets, a sequence header.
    head: Vec<u8>,
    /// Bytes of the length before each NAL unit, where there are any.
    length_size: Option<usize>,
}

fn pictures(track: &[u8], samples: &[Sample<'_>]) -> Option<VideoTrack> {
    let stsd = path(track, &[b"mdia", b"minf", b"stbl", b"stsd"])?;
    let entries = pieces(stsd.get(8..)?).take(MAX_DESCRIPTIONS);
    let descriptions: Vec<Description> = entries.map(|p| describe(p.kind, p.body)).collect::<Option<_>>()?;
    let codec = descriptions.first()?.codec;
    if matches!(codec, VideoCodec::Other(_)) || descriptions.iter().any(|d| d.codec != codec) {
        return Some(VideoTrack { codec: VideoCodec::Other(0), units: Vec::new() });
    }
    let mut before = None;
    let mut units = Vec::with_capacity(samples.len());
    for sample in samples {
        let description = descriptions.get(sample.description)?;
        let keyframe = match codec {
            VideoCodec::Vp8 => vpx::parse_vp8(sample.data).is_some_and(|h| h.keyframe),
            VideoCodec::Vp9 => vpx::parse_vp9(sample.data).is_some_and(|h| h.keyframe),
            _ => sample.sync,
        };
        let changed = before.replace(sample.description) != Some(sample.description);
        let mut data = Vec::with_capacity(sample.data.len() + description.head.len() + 16);
        if keyframe || changed {
            data.extend_from_slice(&description.head);
        }
        match description.length_size {
            Some(length_size) => start_codes(sample.data, length_size, &mut data),
            None => data.extend_from_slice(sample.data),
        }
        units.push(AccessUnit { pts: Some(sample.pts), dts: Some(sample.dts), keyframe, data });
    }
    Some(VideoTrack { codec, units })
}

fn start_codes(mut rest: &[u8], length_size: usize, data: &mut Vec<u8>) {
    while let Some((head, tail)) = rest.split_at_checked(length_size) {
        let length = head.iter().fold(0usize, |n, b| n << 8 | usize::from(*b));
        // A unit cut off by the end is still worth something to the decoder.
        let (nal, tail) = tail.split_at(length.min(tail.len()));
        data.extend_from_slice(&[0, 0, 0, 1]);
        data.extend_from_slice(nal);
        rest = tail;
    }
}

fn describe(kind: [u8; 4], entry: &[u8]) -> Option<Description> {
    let inside = entry.get(78..).unwrap_or_default();
    let plain = |codec| Description { codec, head: Vec::new(), length_size: None };
    Some(match &kind {
        b"avc1" | b"avc3" => avc(child(inside, b"avcC")?)?,
        b"hvc1" | b"hev1" => hevc(child(inside, b"hvcC")?)?,
        b"vp08" => plain(VideoCodec::Vp8),
        b"vp09" => plain(VideoCodec::Vp9),
        b"av01" => {
            let head = child(inside, b"av1C").and_then(|c| c.get(4..)).unwrap_or_default().to_vec();
            Description { head, ..plain(VideoCodec::Av1) }
        }
        _ => plain(VideoCodec::Other(0)),
    })
}

fn avc(config: &[u8]) -> Option<Description> {
    let length_size = usize::from(config.get(4)? & 3) + 1;
    let mut head = Vec::new();
    let mut rest = config.get(5..)?;
    for mask in [0x1f, 0xff] {
        let (&number, tail) = rest.split_first()?;
        rest = tail;
        for _ in 0..number & mask {
            rest = take_set(rest, &mut head)?;
        }
    }
    Some(Description { codec: VideoCodec::H264, head, length_size: Some(length_size) })
}

fn hevc(config: &[u8]) -> Option<Description> {
    let length_size = usize::from(config.get(21)? & 3) + 1;
    let mut head = Vec::new();
    let (&arrays, mut rest) = config.get(22..)?.split_first()?;
    for _ in 0..arrays {
        let number = u16::from_be_bytes(*rest.get(1..)?.first_chunk::<2>()?);
        rest = rest.get(3..)?;
        for _ in 0..number {
            rest = take_set(rest, &mut head)?;
        }
    }
    Some(Description { codec: VideoCodec::H265, head, length_size: Some(length_size) })
}

fn take_set<'a>(bytes: &'a [u8], sets: &mut Vec<u8>) -> Option<&'a [u8]> {
    let (length, tail) = bytes.split_first_chunk::<2>()?;
    let (set, tail) = tail.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
    sets.extend_from_slice(&[0, 0, 0, 1]);
    sets.extend_from_slice(set);
    Some(tail)
}
