//! Writing an MP4 with its index in front.
use mpegts::{AudioTrack, Ticks, nal};
use sandbox::message::JobError;

use super::adts::{self, FRAME_SAMPLES};
use super::{boxed, full};
use crate::encode::Coded;
use crate::ladder::Climbed;
use crate::pipeline::Failure;

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
    durations: Vec<u32>,
    /// Shown minus decoded; empty when always 0.
    offsets: Vec<i64>,
    sync: Option<Vec<usize>>,
    sizes: Vec<u32>,
    /// Samples per chunk; a chunk per description.
    chunks: Vec<usize>,
    data: Vec<u8>,
}

/// Writes the file.
pub(crate) fn write(
    parts: &[Climbed],
    decoded: &[Ticks],
    audio: Option<&AudioTrack>,
    comment: &str,
    step: Ticks,
) -> Result<Vec<u8>, Failure> {
    let mut tracks = vec![pictures(parts, decoded, step)?];
    if let Some(track) = audio.filter(|a| !a.packets.is_empty()) {
        tracks.push(sound(track)?);
    }
    let ftyp = boxed(b"ftyp", &[b"isom", &0x200u32.to_be_bytes(), b"isomiso2avc1mp41"]);
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

fn pictures(parts: &[Climbed], decoded: &[Ticks], step: Ticks) -> Result<Track, Failure> {
    let coded: Vec<&Coded> = parts.iter().flat_map(|p| &p.coded).collect();
    let mut track = Track {
        timescale: TIMESCALE,
        handler: *b"vide",
        size: parts.first().map_or((0, 0), |p| p.size),
        header: full(b"vmhd", 0, 1, &[&[0; 8]]),
        descriptions: Vec::new(),
        start: coded.iter().map(|c| c.pts).min().unwrap_or_default(),
        lead: 0,
        durations: Vec::new(),
        offsets: Vec::new(),
        sync: Some(Vec::new()),
        sizes: Vec::new(),
        chunks: Vec::new(),
        data: Vec::new(),
    };
    for part in parts {
        let first = part.coded.first().map(|c| c.data.as_slice()).unwrap_or_default();
        track.descriptions.push(
            describe_h264(first, part.size).ok_or_else(|| Failure::new(JobError::Internal, "no parameter sets"))?,
        );
        track.chunks.push(part.coded.len());
    }
    for (index, (unit, at)) in coded.iter().zip(decoded).enumerate() {
        let next = decoded.get(index + 1).copied().unwrap_or(*at + step);
        track.durations.push(u32::try_from((next - *at).0).unwrap_or(0));
        track.offsets.push((unit.pts - *at).0);
        let before = track.data.len();
        for nal in nal::units(&unit.data).map(|n| n.bytes(&unit.data)).filter(|n| !is_described(n)) {
            track.data.extend_from_slice(&u32::try_from(nal.len()).unwrap_or(0).to_be_bytes());
            track.data.extend_from_slice(nal);
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
    if track.offsets.iter().all(|o| *o == 0) {
        track.offsets.clear();
    }
    Ok(track)
}

/// Parameter sets and delimiters are not part of a sample.
fn is_described(unit: &[u8]) -> bool {
    unit.first().is_none_or(|b| matches!(b & 0x1f, 7..=9))
}

fn describe_h264(first: &[u8], size: (u32, u32)) -> Option<Vec<u8>> {
    let find =
        |kind: u8| nal::units(first).map(|n| n.bytes(first)).find(|n| n.first().is_some_and(|b| b & 0x1f == kind));
    let (sps, pps) = (find(7)?, find(8)?);
    let &[_, profile, constraints, level] = sps.first_chunk::<4>()?;
    let mut config = vec![1, profile, constraints, level, 0xff, 0xe1];
    for (index, set) in [sps, pps].into_iter().enumerate() {
        if index == 1 {
            config.push(1);
        }
        config.extend_from_slice(&u16::try_from(set.len()).ok()?.to_be_bytes());
        config.extend_from_slice(set);
    }
    if matches!(profile, 100 | 110 | 122 | 144) {
        // 4:2:0, eight bits: the only thing we encode.
        config.extend_from_slice(&[0xfd, 0xf8, 0xf8, 0]);
    }
    let side = |s: u32| u16::try_from(s).unwrap_or(u16::MAX).to_be_bytes();
    let mut name = [0; 32];
    name[..9].copy_from_slice(b"\x08Millrace");
    Some(boxed(
        b"avc1",
        &[
            &[0, 0, 0, 0, 0, 0, 0, 1],
            &[0; 16],
            &side(size.0),
            &side(size.1),
            &[0, 0x48, 0, 0, 0, 0x48, 0, 0, 0, 0, 0, 0, 0, 1],
            &name,
            &[0, 0x18, 0xff, 0xff],
            &boxed(b"avcC", &[&config]),
        ],
    ))
}

fn sound(track: &AudioTrack) -> Result<Track, Failure> {
    let unsupported = |what: &str| Failure::new(JobError::UnrecognizedFormat, format!("{what} in MP4"));
    if track.info.stream_type != 0x0f {
        return Err(unsupported(&format!("audio of stream type {:#04x}", track.info.stream_type)));
    }
    let stream: Vec<u8> = track.packets.iter().flat_map(|p| p.data.iter().copied()).collect();
    let (config, frames) = adts::frames(&stream);
    let config = config.ok_or_else(|| unsupported("sound that is not AAC"))?;
    let rate = config.rate().ok_or_else(|| unsupported("AAC of an unknown rate"))?;
    let specific = config.to_specific();
    let es =
        [&[3, 23 + 2, 0, 1, 0, 4, 15 + 2, 0x40, 0x15, 0, 0, 0][..], &[0; 8], &[5, 2], &specific, &[6, 1, 2]].concat();
    let description = boxed(
        b"mp4a",
        &[
            &[0, 0, 0, 0, 0, 0, 0, 1],
            &[0; 8],
            &u16::from(config.channels).to_be_bytes(),
            &[0, 16, 0, 0, 0, 0],
            &(rate.min(0xffff) << 16).to_be_bytes(),
            &full(b"esds", 0, 0, &[&es]),
        ],
    );
    Ok(Track {
        timescale: rate,
        handler: *b"soun",
        size: (0, 0),
        header: full(b"smhd", 0, 0, &[&[0; 4]]),
        descriptions: vec![description],
        start: track.packets.iter().find_map(|p| p.pts).unwrap_or_default(),
        lead: 0,
        durations: vec![FRAME_SAMPLES; frames.len()],
        offsets: Vec::new(),
        sync: None,
        sizes: frames.iter().map(|f| u32::try_from(f.len()).unwrap_or(0)).collect(),
        chunks: vec![frames.len()],
        data: frames.concat(),
    })
}

impl Track {
    /// Length on its own clock.
    fn length(&self) -> u64 {
        self.durations.iter().map(|d| u64::from(*d)).sum()
    }

    /// Length on the film's clock.
    fn film_length(&self) -> u64 {
        self.length().saturating_mul(u64::from(TIMESCALE)) / u64::from(self.timescale.max(1))
    }
}

/// Everything about the samples but their bytes, which begin at `place` in the file.
fn index(tracks: &[Track], place: u32, comment: &str) -> Vec<u8> {
    let start = |t: &Track| t.start.0.max(0).unsigned_abs();
    let length = tracks.iter().map(|t| start(t) + t.film_length()).max().unwrap_or(0);
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
    let film = track.film_length();
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
