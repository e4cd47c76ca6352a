//! The samples of a track: where they lie, how long they last, when they are shown. Every number may be a lie.
use mpegts::Ticks;

use super::boxes::{child, path, pieces, u32_at, u64_at, wide_at};

/// More samples than this in a track are refused.
const MAX_SAMPLES: usize = 1 << 18;

/// One sample of a track: its bytes, and its times on the film's 90 kHz line.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample<'a> {
    pub(crate) data: &'a [u8],
    pub(crate) pts: Ticks,
    pub(crate) dts: Ticks,
    /// In the track's ticks.
    pub(crate) duration: u32,
    pub(crate) sync: bool,
    /// Which of the track's descriptions is its own, from 0.
    pub(crate) description: usize,
}

/// A track taken apart.
#[derive(Debug)]
pub(crate) struct Found<'a> {
    pub(crate) timescale: u32,
    pub(crate) samples: Vec<Sample<'a>>,
    /// What comes before is not shown, says the edit list.
    pub(crate) from: Ticks,
}

/// Ticks per second in a film's or a track's header.
pub(crate) fn timescale(header: &[u8]) -> Option<u32> {
    let at = if header.first() == Some(&1) { 20 } else { 12 };
    u32_at(header, at).filter(|t| *t > 0)
}

/// All samples of a track that are there, those of the index first, then those of the fragments; `None` when
/// an index makes no sense.
pub(crate) fn find<'a>(track: &[u8], moov: &[u8], input: &'a [u8]) -> Option<Found<'a>> {
    let film = child(moov, b"mvhd").and_then(timescale).unwrap_or(1000);
    let scale = timescale(path(track, &[b"mdia", b"mdhd"])?)?;
    let tkhd = child(track, b"tkhd")?;
    let id = u32_at(tkhd, if tkhd.first() == Some(&1) { 20 } else { 12 })?;
    let (shift, from) = edit(track, film, scale);
    let mut gather = Gather { input, scale, shift, samples: Vec::new(), total: 0, time: 0 };
    gather.index(path(track, &[b"mdia", b"minf", b"stbl"])?)?;
    let defaults = path(moov, &[b"mvex"]).and_then(|mvex| {
        pieces(mvex).filter(|p| p.kind == *b"trex").map(|p| p.body).find(|trex| u32_at(trex, 4) == Some(id))
    });
    let defaults = Defaults {
        description: defaults.and_then(|d| u32_at(d, 8)).unwrap_or(1),
        duration: defaults.and_then(|d| u32_at(d, 12)).unwrap_or(0),
        size: defaults.and_then(|d| u32_at(d, 16)).unwrap_or(0),
        flags: defaults.and_then(|d| u32_at(d, 20)).unwrap_or(0),
    };
    for moof in pieces(input).filter(|p| p.kind == *b"moof") {
        gather.fragment(moof.start, moof.body, id, defaults)?;
    }
    Some(Found { timescale: scale, samples: gather.samples, from })
}

/// How the edit list moves a track on the film's line, and where what is shown begins.
fn edit(track: &[u8], film: u32, scale: u32) -> (Ticks, Ticks) {
    let nothing = (Ticks(0), Ticks(i64::MIN));
    let Some(list) = path(track, &[b"edts", b"elst"]) else { return nothing };
    let long = list.first() == Some(&1);
    let narrow = |ticks: i128| Ticks(i64::try_from(ticks).unwrap_or(0));
    let mut delay = 0i128;
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
            delay += i128::from(length) * 90_000 / i128::from(film);
        } else {
            let skipped = i128::from(media) * 90_000 / i128::from(scale);
            return (narrow(delay - skipped), narrow(delay));
        }
    }
    (narrow(delay), Ticks(i64::MIN))
}

/// What samples of a fragment are like unless something else is said.
#[derive(Debug, Clone, Copy)]
struct Defaults {
    description: u32,
    duration: u32,
    size: u32,
    flags: u32,
}

struct Gather<'a> {
    input: &'a [u8],
    scale: u32,
    shift: Ticks,
    samples: Vec<Sample<'a>>,
    total: usize,
    /// When the next sample is decoded, in the track's ticks.
    time: i64,
}

/// What a table says of a sample.
struct Said {
    place: usize,
    size: usize,
    duration: u32,
    offset: u32,
    sync: bool,
    description: u32,
}

impl Gather<'_> {
    fn index(&mut self, table: &[u8]) -> Option<()> {
        let stsz = child(table, b"stsz")?;
        let (fixed, number) = (u32_at(stsz, 4)?, usize::try_from(u32_at(stsz, 8)?).ok()?);
        if number == 0 {
            return Some(());
        }
        let mut durations = Runs::new(child(table, b"stts")?);
        let mut offsets = child(table, b"ctts").map(Runs::new);
        let sync: Option<Vec<u32>> =
            child(table, b"stss").map(|s| (0..).map_while(|n| u32_at(s, 8 + 4 * n)).take(MAX_SAMPLES).collect());
        let mut places = Places::new(table)?;
        for index in 0..number {
            let size = if fixed > 0 { fixed } else { u32_at(stsz, 12 + 4 * index)? };
            let size = usize::try_from(size).ok()?;
            let (place, description) = places.next(size)?;
            let number = u32::try_from(index + 1).ok()?;
            self.add(&Said {
                place,
                size,
                duration: durations.next().unwrap_or(0),
                offset: offsets.as_mut().and_then(Runs::next).unwrap_or(0),
                sync: sync.as_ref().is_none_or(|s| s.binary_search(&number).is_ok()),
                description,
            })?;
        }
        Some(())
    }

    fn fragment(&mut self, start: usize, moof: &[u8], id: u32, usual: Defaults) -> Option<()> {
        let mut end = start;
        for traf in pieces(moof).filter(|p| p.kind == *b"traf").map(|p| p.body) {
            let head = child(traf, b"tfhd")?;
            let flags = u32_at(head, 0)? & 0xff_ffff;
            let mut at = 8;
            let mut field = |flag: u32, length: usize| {
                let here = at;
                let present = flags & flag != 0;
                at += if present { length } else { 0 };
                present.then_some(here)
            };
            let base = field(0x1, 8).and_then(|at| u64_at(head, at)).and_then(|b| usize::try_from(b).ok());
            let mut number = |flag, usual| field(flag, 4).map_or(Some(usual), |at| u32_at(head, at));
            let usual = Defaults {
                description: number(0x2, usual.description)?,
                duration: number(0x8, usual.duration)?,
                size: number(0x10, usual.size)?,
                flags: number(0x20, usual.flags)?,
            };
            // Without a base of its own a piece follows the one before, unless it counts from the fragment.
            let base = base.unwrap_or(if flags & 0x2_0000 != 0 { start } else { end });
            let ours = u32_at(head, 4) == Some(id);
            if ours && let Some(tfdt) = child(traf, b"tfdt") {
                self.time = i64::try_from(wide_at(tfdt, 4, *tfdt.first()?)?).ok()?;
            }
            end = base;
            for run in pieces(traf).filter(|p| p.kind == *b"trun").map(|p| p.body) {
                end = self.run(run, base, end, usual, ours)?;
            }
        }
        Some(())
    }

    /// Goes through a run of samples; returns where its last one ends.
    fn run(&mut self, run: &[u8], base: usize, before: usize, usual: Defaults, ours: bool) -> Option<usize> {
        let flags = u32_at(run, 0)? & 0xff_ffff;
        let number = usize::try_from(u32_at(run, 4)?).ok()?;
        let mut at = 8;
        let mut place = before;
        if flags & 0x1 != 0 {
            place = base.checked_add_signed(isize::try_from(u32_at(run, at)?.cast_signed()).ok()?)?;
            at += 4;
        }
        let mut first_flags = None;
        if flags & 0x4 != 0 {
            first_flags = Some(u32_at(run, at)?);
            at += 4;
        }
        for index in 0..number.min(MAX_SAMPLES) {
            let mut field = |flag: u32, usual: u32| {
                if flags & flag == 0 {
                    return Some(usual);
                }
                at += 4;
                u32_at(run, at - 4)
            };
            let (duration, size) = (field(0x100, usual.duration)?, usize::try_from(field(0x200, usual.size)?).ok()?);
            let said = field(0x400, usual.flags)?;
            let said = if index == 0 { first_flags.unwrap_or(said) } else { said };
            let offset = field(0x800, 0)?;
            if ours {
                let sync = said & 0x1_0000 == 0;
                self.add(&Said { place, size, duration, offset, sync, description: usual.description })?;
            }
            place = place.checked_add(size)?;
        }
        Some(place)
    }

    fn add(&mut self, said: &Said) -> Option<()> {
        if self.samples.len() >= MAX_SAMPLES {
            return None;
        }
        let end = said.place.checked_add(said.size)?;
        if let Some(data) = self.input.get(said.place..end) {
            self.total = self.total.checked_add(said.size)?;
            // Samples that share bytes could unpack a small file into a huge one.
            if self.total > self.input.len() {
                return None;
            }
            // Offsets are signed in version 1, and in practice in version 0 too.
            let shown = self.time.checked_add(i64::from(said.offset.cast_signed()))?;
            self.samples.push(Sample {
                data,
                pts: self.ticks(shown),
                dts: self.ticks(self.time),
                duration: said.duration,
                sync: said.sync,
                description: usize::try_from(said.description).unwrap_or(usize::MAX).saturating_sub(1),
            });
        }
        self.time = self.time.checked_add(i64::from(said.duration))?;
        Some(())
    }

    fn ticks(&self, time: i64) -> Ticks {
        let scale = i128::from(self.scale);
        Ticks(i64::try_from((i128::from(time) * 180_000 + scale).div_euclid(scale * 2)).unwrap_or(0)) + self.shift
    }
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

    /// Where the next sample begins, and which description is its; and past it.
    fn next(&mut self, size: usize) -> Option<(usize, u32)> {
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
        Some((place, u32_at(self.to_chunk, 16 + 12 * self.entry).unwrap_or(1)))
    }
}
