//! Writing an MP4 with its index in front.
use livepeer::profile::VideoCodec;
use mpegts::{Ticks, nal};
use sandbox::message::JobError;

use super::{boxed, describe, full};
use crate::encode::Coded;
use crate::ladder::Climbed;
use crate::pipeline::Failure;
use crate::sound::Samples;

/// Clock of the film and of its pictures.
const TIMESCALE: u32 = 90_000;
const UNITY: [u32; 9] = [0x1_0000, 0, 0, 0, 0x1_0000, 0, 0, 0, 0x4000_0000];

/// A track on its way into the index.
struct Track {
    timescale: u32,
    handler: [u8; 4],
    size: (u32, u32),
    header: Vec<u8>,
    descriptions: Vec<Vec<u8>>,
    /// When the first sample is shown, on the film's clock.
    start: Ticks,
    /// How far into the track's own time its first sample is shown.
    lead: i64,
    /// How long it is shown, on the film's clock.
    shown: u64,
    durations: Vec<u32>,
    /// Shown minus decoded; empty when always 0.
    offsets: Vec<i64>,
    sync: Option<Vec<usize>>,
    sizes: Vec<u32>,
    /// Samples per chunk; a chunk per description.
    chunks: Vec<usize>,
    data: Vec<u8>,
}

/// Writes the file: pictures decoded at these times, if there are any, and sound, if there is any.
pub(crate) fn write(
    codec: VideoCodec,
    parts: &[Climbed],
    decoded: &[Ticks],
    audio: Option<&Samples>,
    comment: &str,
    step: Ticks,
) -> Result<Vec<u8>, Failure> {
    let mut tracks = Vec::new();
    if !parts.is_empty() {
        tracks.push(pictures(codec, parts, decoded, step)?);
    }
    tracks.extend(audio.map(sound));
    let brands: &[u8] = if codec == VideoCodec::H264 { b"isomiso2avc1mp41" } else { b"isomiso2mp41" };
    let ftyp = boxed(b"ftyp", &[b"isom", &0x200u32.to_be_bytes(), brands]);
    // The index is as long whatever the places in it are.
    let length = ftyp.len() + index(&tracks, 0, comment).len() + 8;
    let total = length + tracks.iter().map(|t| t.data.len()).sum::<usize>();
    if u32::try_from(total).is_err() {
        return Err(Failure::new(JobError::OutputTooLarge, "an MP4 of more than 4 GB"));
    }
    let mut out = Vec::with_capacity(total);
    out.extend_from_slice(&ftyp);
    out.extend_from_slice(&index(&tracks, u32::try_from(length).unwrap_or(u32::MAX), comment));
    let data: Vec<&[u8]> = tracks.iter().map(|t| t.data.as_slice()).collect();
    out.extend_from_slice(&boxed(b"mdat", &data));
    Ok(out)
}

fn pictures(codec: VideoCodec, parts: &[Climbed], decoded: &[Ticks], step: Ticks) -> Result<Track, Failure> {
    let coded: Vec<&Coded> = parts.iter().flat_map(|p| &p.coded).collect();
    let mut track = Track {
        timescale: TIMESCALE,
        handler: *b"vide",
        size: parts.first().map_or((0, 0), |p| p.size),
        header: full(b"vmhd", 0, 1, &[&[0; 8]]),
        descriptions: Vec::new(),
        start: coded.iter().map(|c| c.pts).min().unwrap_or_default(),
        lead: 0,
        shown: 0,
        durations: Vec::new(),
        offsets: Vec::new(),
        sync: Some(Vec::new()),
        sizes: Vec::new(),
        chunks: Vec::new(),
        data: Vec::new(),
    };
    for part in parts {
        let first = part.coded.first().map(|c| c.data.as_slice()).unwrap_or_default();
        let entry = describe::entry(codec, first, part.size);
        track.descriptions.push(entry.ok_or_else(|| Failure::new(JobError::Internal, "no parameter sets"))?);
        track.chunks.push(part.coded.len());
    }
    for (index, (unit, at)) in coded.iter().zip(decoded).enumerate() {
        let next = decoded.get(index + 1).copied().unwrap_or(*at + step);
        track.durations.push(u32::try_from((next - *at).0).unwrap_or(0));
        track.offsets.push((unit.pts - *at).0);
        let before = track.data.len();
        if matches!(codec, VideoCodec::Vp8 | VideoCodec::Vp9) {
            track.data.extend_from_slice(&unit.data);
        } else {
            let units = nal::units(&unit.data).map(|n| n.bytes(&unit.data));
            for nal in units.filter(|n| !describe::is_left_out(codec, n)) {
                track.data.extend_from_slice(&u32::try_from(nal.len()).unwrap_or(0).to_be_bytes());
                track.data.extend_from_slice(nal);
            }
        }
        track.sizes.push(u32::try_from(track.data.len() - before).unwrap_or(u32::MAX));
        if unit.keyframe
            && let Some(sync) = &mut track.sync
        {
            sync.push(index + 1);
        }
    }
    let first_decoded = decoded.first().copied().unwrap_or_default();
    track.lead = (track.start - first_decoded).0;
    // To the end of the last one shown, which pictures in another order than shown are decoded long before.
    let last = coded.iter().map(|c| c.pts).max().unwrap_or_default();
    track.shown = (last + step - track.start).0.max(0).unsigned_abs();
    if track.offsets.iter().all(|o| *o == 0) {
        track.offsets.clear();
    }
    Ok(track)
}

fn sound(track: &Samples) -> Track {
    let start = track.samples.iter().map(|s| s.pts).next().unwrap_or_default();
    // Sound that begins before the film does is there, but not heard.
    let before = i128::from(start.0.min(0).unsigned_abs()) * i128::from(track.timescale) / i128::from(TIMESCALE);
    let durations: Vec<u32> = track.samples.iter().map(|s| s.duration).collect();
    let length: u64 = durations.iter().map(|d| u64::from(*d)).sum();
    Track {
        timescale: track.timescale,
        handler: *b"soun",
        size: (0, 0),
        header: full(b"smhd", 0, 0, &[&[0; 4]]),
        descriptions: vec![track.entry.clone()],
        start,
        lead: i64::try_from(before).unwrap_or(0),
        shown: length.saturating_mul(u64::from(TIMESCALE)) / u64::from(track.timescale.max(1)),
        durations,
        offsets: Vec::new(),
        sync: None,
        sizes: track.samples.iter().map(|s| u32::try_from(s.data.len()).unwrap_or(u32::MAX)).collect(),
        chunks: vec![track.samples.len()],
        data: track.samples.iter().flat_map(|s| s.data.iter().copied()).collect(),
    }
}

impl Track {
    /// Length on its own clock.
    fn length(&self) -> u64 {
        self.durations.iter().map(|d| u64::from(*d)).sum()
    }
}

/// Everything about the samples but their bytes, which begin at `place` in the file.
fn index(tracks: &[Track], place: u32, comment: &str) -> Vec<u8> {
    let start = |t: &Track| t.start.0.max(0).unsigned_abs();
    let length = tracks.iter().map(|t| start(t) + t.shown).max().unwrap_or(0);
    let next = u32::try_from(tracks.len() + 1).unwrap_or(2);
    let mvhd = full(
        b"mvhd",
        1,
        0,
        &[
            &[0; 16],
            &TIMESCALE.to_be_bytes(),
            &length.to_be_bytes(),
            &[0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            &matrix(),
            &[0; 24],
            &next.to_be_bytes(),
        ],
    );
    let mut body = vec![mvhd];
    let mut at = place;
    for (number, track) in (1u32..).zip(tracks) {
        body.push(track_box(track, number, at));
        at = at.saturating_add(u32::try_from(track.data.len()).unwrap_or(u32::MAX));
    }
    if !comment.is_empty() {
        let text = boxed(b"data", &[&1u32.to_be_bytes(), &[0; 4], format!("Processed by {comment}").as_bytes()]);
        let list = boxed(b"ilst", &[&boxed(b"\xa9cmt", &[&text])]);
        let handler = full(b"hdlr", 0, 0, &[&[0; 4], b"mdirappl", &[0; 9]]);
        body.push(boxed(b"udta", &[&full(b"meta", 0, 0, &[&handler, &list])]));
    }
    let body: Vec<&[u8]> = body.iter().map(Vec::as_slice).collect();
    boxed(b"moov", &body)
}

fn matrix() -> Vec<u8> {
    UNITY.iter().flat_map(|n| n.to_be_bytes()).collect()
}

fn track_box(track: &Track, number: u32, place: u32) -> Vec<u8> {
    let start = track.start.0.max(0).unsigned_abs();
    let film = track.shown;
    let volume: u16 = if &track.handler == b"soun" { 0x100 } else { 0 };
    let tkhd = full(
        b"tkhd",
        1,
        3,
        &[
            &[0; 16],
            &number.to_be_bytes(),
            &[0; 4],
            &(start + film).to_be_bytes(),
            &[0; 12],
            &volume.to_be_bytes(),
            &[0; 2],
            &matrix(),
            &(track.size.0 << 16).to_be_bytes(),
            &(track.size.1 << 16).to_be_bytes(),
        ],
    );
    let mut edits: Vec<u8> = Vec::new();
    let mut count = 1u32;
    if start > 0 {
        count = 2;
        edits.extend_from_slice(&start.to_be_bytes());
        edits.extend_from_slice(&(-1i64).to_be_bytes());
        edits.extend_from_slice(&[0, 1, 0, 0]);
    }
    edits.extend_from_slice(&film.to_be_bytes());
    edits.extend_from_slice(&track.lead.to_be_bytes());
    edits.extend_from_slice(&[0, 1, 0, 0]);
    let edts = boxed(b"edts", &[&full(b"elst", 1, 0, &[&count.to_be_bytes(), &edits])]);
    let mdhd = full(
        b"mdhd",
        1,
        0,
        &[&[0; 16], &track.timescale.to_be_bytes(), &track.length().to_be_bytes(), &[0x55, 0xc4, 0, 0]],
    );
    let hdlr = full(b"hdlr", 0, 0, &[&[0; 4], &track.handler, &[0; 13]]);
    let dref = full(b"dref", 0, 0, &[&1u32.to_be_bytes(), &full(b"url ", 0, 1, &[])]);
    let minf = boxed(b"minf", &[&track.header, &boxed(b"dinf", &[&dref]), &sample_table(track, place)]);
    boxed(b"trak", &[&tkhd, &edts, &boxed(b"mdia", &[&mdhd, &hdlr, &minf])])
}

fn sample_table(track: &Track, place: u32) -> Vec<u8> {
    let descriptions: Vec<u8> = track.descriptions.concat();
    let mut tables = vec![full(b"stsd", 0, 0, &[&count(track.descriptions.len()), &descriptions])];
    let runs = |values: &mut dyn Iterator<Item = i64>| {
        let mut runs: Vec<(u32, i64)> = Vec::new();
        for value in values {
            match runs.last_mut() {
                Some((number, same)) if *same == value => *number += 1,
                _ => runs.push((1, value)),
            }
        }
        let low = |v: i64| i32::try_from(v).unwrap_or(i32::MAX).to_be_bytes();
        let body: Vec<u8> = runs.iter().flat_map(|(n, v)| [n.to_be_bytes(), low(*v)].concat()).collect();
        (count(runs.len()), body)
    };
    let (number, body) = runs(&mut track.durations.iter().map(|d| i64::from(*d)));
    tables.push(full(b"stts", 0, 0, &[&number, &body]));
    if !track.offsets.is_empty() {
        let (number, body) = runs(&mut track.offsets.iter().copied());
        tables.push(full(b"ctts", 1, 0, &[&number, &body]));
    }
    if let Some(sync) = &track.sync {
        let body: Vec<u8> = sync.iter().flat_map(|s| count(*s)).collect();
        tables.push(full(b"stss", 0, 0, &[&count(sync.len()), &body]));
    }
    let (mut to_chunk, mut places) = (Vec::new(), Vec::new());
    let (mut sizes, mut at) = (track.sizes.iter(), place);
    for (index, samples) in track.chunks.iter().enumerate() {
        to_chunk.extend([count(index + 1), count(*samples), count(index + 1)].concat());
        places.extend(at.to_be_bytes());
        at = sizes.by_ref().take(*samples).fold(at, |at, size| at.saturating_add(*size));
    }
    let chunks = count(track.chunks.len());
    tables.push(full(b"stsc", 0, 0, &[&chunks, &to_chunk]));
    let sizes: Vec<u8> = track.sizes.iter().flat_map(|s| s.to_be_bytes()).collect();
    tables.push(full(b"stsz", 0, 0, &[&[0; 4], &count(track.sizes.len()), &sizes]));
    tables.push(full(b"stco", 0, 0, &[&chunks, &places]));
    let tables: Vec<&[u8]> = tables.iter().map(Vec::as_slice).collect();
    boxed(b"stbl", &tables)
}

fn count(number: usize) -> [u8; 4] {
    u32::try_from(number).unwrap_or(u32::MAX).to_be_bytes()
}
