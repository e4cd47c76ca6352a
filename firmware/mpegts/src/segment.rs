//! Cutting a file into segments as a gateway sends them, and looping a short clip without a break in time.
//!
//! Walk 1, step 1, from the other side: our own gateway cuts at key frames, carries pictures and sound over as
//! they are, and gives every segment the parameter sets a decoder needs.
use crate::clock::Ticks;
use crate::demux::{AccessUnit, AudioPacket, AudioTrack, Demuxed, Error, VideoCodec, demux};
use crate::mux::{VideoUnit, mux};
use crate::nal;

/// How far before its due time a key frame may end a segment.
const SLACK: Ticks = Ticks(4500);

/// One piece of a stream, playable by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Transport stream.
    pub bytes: Vec<u8>,
    /// When its first picture is shown.
    pub first_pts: Ticks,
    /// How long it plays.
    pub duration_ms: u64,
    /// Pictures in it.
    pub frames: usize,
}

/// Cuts a transport stream into segments of at least about `target_ms`, each starting with a key frame.
/// Pictures before the first key frame are left out. A stream without video gives no segment.
///
/// # Errors
/// [`Error`] when the input is no transport stream.
pub fn cut(input: &[u8], target_ms: u64) -> Result<Vec<Segment>, Error> {
    Ok(Clip::read(input)?.map(|clip| clip.segments(target_ms, Ticks(0), true).collect()).unwrap_or_default())
}

/// A clip repeated for ever as segments, with time going on from one round to the next.
#[derive(Debug)]
pub struct Looper {
    clip: Clip,
    target_ms: u64,
    offset: Ticks,
    first_round: bool,
    ready: std::vec::IntoIter<Segment>,
}

impl Looper {
    /// Reads a clip; `None` when it has no picture to start with.
    ///
    /// # Errors
    /// [`Error`] when the input is no transport stream.
    pub fn new(input: &[u8], target_ms: u64) -> Result<Option<Self>, Error> {
        let looper =
            |clip| Self { clip, target_ms, offset: Ticks(0), first_round: true, ready: Vec::new().into_iter() };
        Ok(Clip::read(input)?.map(looper))
    }
}

impl Iterator for Looper {
    type Item = Segment;

    fn next(&mut self) -> Option<Segment> {
        if let Some(segment) = self.ready.next() {
            return Some(segment);
        }
        let round: Vec<_> = self.clip.segments(self.target_ms, self.offset, self.first_round).collect();
        self.first_round = false;
        self.offset = self.offset + (self.clip.end - self.clip.start);
        self.ready = round.into_iter();
        self.ready.next()
    }
}

/// A picture with its times made up where the stream was silent.
#[derive(Debug)]
struct Picture {
    pts: Ticks,
    dts: Ticks,
    unit: AccessUnit,
}

#[derive(Debug)]
struct Clip {
    codec: VideoCodec,
    pictures: Vec<Picture>,
    audio: Option<AudioTrack>,
    /// First moment shown, and the first not shown any more.
    start: Ticks,
    end: Ticks,
}

impl Clip {
    fn read(input: &[u8]) -> Result<Option<Self>, Error> {
        let Demuxed { video, audio } = demux(input)?;
        let Some(video) = video else { return Ok(None) };
        let mut units = video.units;
        let first_key = units.iter().position(|u| u.keyframe).unwrap_or(units.len());
        units.drain(..first_key);
        carry_parameter_sets(video.codec, &mut units);
        let pictures = with_times(units);
        let mut shown: Vec<Ticks> = pictures.iter().map(|p| p.pts).collect();
        shown.sort_unstable();
        let (Some(&start), Some(&last)) = (shown.first(), shown.last()) else { return Ok(None) };
        let end = last + usual_step(&shown);
        Ok(Some(Self { codec: video.codec, pictures, audio, start, end }))
    }

    fn segments(&self, target_ms: u64, offset: Ticks, first_round: bool) -> impl Iterator<Item = Segment> {
        let target = Ticks::from_millis(target_ms) - SLACK;
        let mut starts: Vec<usize> = Vec::new();
        for (index, picture) in self.pictures.iter().enumerate() {
            let begun = starts.last().and_then(|s| self.pictures.get(*s)).map(|p| p.pts);
            if picture.unit.keyframe && begun.is_none_or(|begun| picture.pts - begun >= target) {
                starts.push(index);
            }
        }
        let ends: Vec<usize> = starts.iter().skip(1).copied().chain([self.pictures.len()]).collect();
        let count = starts.len();
        starts.into_iter().zip(ends).enumerate().map(move |(index, (from, to))| {
            let until = self.pictures.get(to).map_or(self.end, |p| p.pts);
            let audio_from = if index == 0 && first_round { None } else { self.pictures.get(from).map(|p| p.pts) };
            let audio_to = if index + 1 == count { self.end } else { until };
            self.segment(from..to, until, (audio_from, audio_to), offset)
        })
    }

    fn segment(
        &self,
        range: std::ops::Range<usize>,
        until: Ticks,
        sound: (Option<Ticks>, Ticks),
        offset: Ticks,
    ) -> Segment {
        let pictures = self.pictures.get(range).unwrap_or_default();
        let unit = |p: &'_ Picture| (p.pts + offset, p.dts + offset, p.unit.keyframe);
        let units: Vec<VideoUnit<'_>> = pictures
            .iter()
            .map(|p| {
                let (pts, dts, keyframe) = unit(p);
                VideoUnit { pts, dts, keyframe, data: &p.unit.data }
            })
            .collect();
        let audio = self
            .audio
            .as_ref()
            .map(|a| AudioTrack { info: a.info.clone(), packets: between(&a.packets, sound, offset) });
        let first = pictures.first().map_or(self.start, |p| p.pts);
        Segment {
            bytes: mux(self.codec, &units, audio.as_ref(), ""),
            first_pts: first + offset,
            duration_ms: (until - first).as_millis(),
            frames: units.len(),
        }
    }
}

/// The audio packets that begin in a stretch of time, moved by `offset`. The last one of a round must not reach into the next round.
fn between(packets: &[AudioPacket], (from, to): (Option<Ticks>, Ticks), offset: Ticks) -> Vec<AudioPacket> {
    let mut kept = Vec::new();
    let mut at = None;
    for packet in packets {
        at = packet.pts.or(at);
        let Some(at) = at else { continue };
        if from.is_none_or(|from| at >= from) && at < to {
            kept.push(AudioPacket { pts: packet.pts.map(|pts| pts + offset), data: packet.data.clone() });
        }
    }
    kept
}

/// Gives every picture its times: a silent one follows the one before by the usual step.
fn with_times(units: Vec<AccessUnit>) -> Vec<Picture> {
    let mut known: Vec<Ticks> = units.iter().filter_map(|u| u.pts).collect();
    known.sort_unstable();
    let step = usual_step(&known);
    let mut before: Option<(Ticks, Ticks)> = None;
    let mut pictures = Vec::with_capacity(units.len());
    for unit in units {
        let pts = unit.pts.unwrap_or_else(|| before.map_or(Ticks(0), |(pts, _)| pts + step));
        let dts = unit.dts.or(unit.pts).unwrap_or_else(|| before.map_or(pts, |(_, dts)| dts + step));
        before = Some((pts, dts));
        pictures.push(Picture { pts, dts, unit });
    }
    pictures
}

/// The median distance of sorted times; 1/30 s when there is none.
fn usual_step(sorted: &[Ticks]) -> Ticks {
    let mut steps: Vec<Ticks> = sorted.windows(2).map(|w| w[1] - w[0]).filter(|s| s.0 > 0).collect();
    steps.sort_unstable();
    steps.get(steps.len() / 2).copied().unwrap_or(Ticks(3000))
}

/// Puts the stream's parameter sets in front of key frames that come without, as long as that no more than doubles
/// the stream: a stranger's could be huge, and its key frames many and tiny.
fn carry_parameter_sets(codec: VideoCodec, units: &mut [AccessUnit]) {
    let is_set = |unit: &[u8]| match (codec, unit.first()) {
        (VideoCodec::H264, Some(b)) => matches!(b & 0x1f, 7 | 8),
        (VideoCodec::H265, Some(b)) => matches!(b >> 1 & 0x3f, 32..=34),
        _ => false,
    };
    let mut sets: Vec<u8> = Vec::new();
    let mut room: usize = units.iter().map(|unit| unit.data.len()).sum();
    for unit in units {
        let mut own = Vec::new();
        for found in nal::units(&unit.data).map(|n| n.bytes(&unit.data)).filter(|n| is_set(n)) {
            own.extend_from_slice(&[0, 0, 0, 1]);
            own.extend_from_slice(found);
        }
        if !own.is_empty() {
            sets = own;
        } else if unit.keyframe && !sets.is_empty() && sets.len() <= room {
            room -= sets.len();
            unit.data.splice(0..0, sets.iter().copied());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demux::AudioInfo;

    /// Four seconds at 25 fps, a key frame each second, sound packets of 20 ms.
    fn clip() -> Vec<u8> {
        let key = [0, 0, 0, 1, 0x67, 1, 2, 0, 0, 0, 1, 0x68, 3, 0, 0, 0, 1, 0x65, 0x88, 0x80];
        let other = [0, 0, 0, 1, 0x41, 0x9a, 0x80];
        let start = (1i64 << 33) - 90_000;
        let units: Vec<_> = (0..100i64)
            .map(|n| {
                let at = Ticks(start + n * 3600);
                VideoUnit { pts: at, dts: at, keyframe: n % 25 == 0, data: if n % 25 == 0 { &key } else { &other } }
            })
            .collect();
        let packets =
            (0..200u8).map(|n| AudioPacket { pts: Some(Ticks(start + i64::from(n) * 1800)), data: vec![n; 30] });
        let info = AudioInfo { stream_type: 0x0f, stream_id: 0xc0, descriptors: vec![] };
        mux(VideoCodec::H264, &units, Some(&AudioTrack { info, packets: packets.collect() }), "")
    }

    #[test]
    fn a_clip_is_cut_at_key_frames_with_all_its_sound() {
        let segments = cut(&clip(), 2000).unwrap();
        assert_eq!(
            segments.iter().map(|s| (s.frames, s.duration_ms)).collect::<Vec<_>>(),
            vec![(50, 2000), (50, 2000)]
        );
        let sound: usize = segments.iter().map(|s| demux(&s.bytes).unwrap().audio.unwrap().packets.len()).sum();
        assert_eq!(sound, 200);
        for segment in &segments {
            assert!(demux(&segment.bytes).unwrap().video.unwrap().units[0].keyframe);
        }
    }

    #[test]
    fn a_huge_parameter_set_is_not_copied_to_every_key_frame() {
        let set = [&[0, 0, 0, 1, 0x67][..], &[1; 50_000]].concat();
        let key = [0, 0, 0, 1, 0x65, 0x88, 0x80];
        let data = |n: usize| if n == 0 { set.clone() } else { key.to_vec() };
        let unit = |n: usize| AccessUnit { pts: None, dts: None, keyframe: true, data: data(n) };
        let mut units: Vec<AccessUnit> = (0..200).map(unit).collect();
        let before: usize = units.iter().map(|unit| unit.data.len()).sum();
        carry_parameter_sets(VideoCodec::H264, &mut units);
        let after: usize = units.iter().map(|unit| unit.data.len()).sum();
        assert!(after > before && after <= 2 * before, "{before} bytes became {after}");
    }

    #[test]
    fn a_looped_clip_goes_on_without_a_break_even_across_the_wrap() {
        let segments: Vec<_> = Looper::new(&clip(), 2000).unwrap().unwrap().take(6).collect();
        for pair in segments.windows(2) {
            assert_eq!(pair[1].first_pts - pair[0].first_pts, Ticks(180_000));
        }
    }
}
