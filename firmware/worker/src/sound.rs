//! The sound of a segment on its way from one container to the other. Its bytes are never touched: what a
//! transport stream wraps into its own headers an MP4 describes in its index, and that is all that changes.
//!
//! Walk 1, step 8. From transport stream to transport stream packets stay whole, and from MP4 to MP4 samples
//! and their description do, whatever they hold.
use mpegts::clock::PER_SECOND;
use mpegts::{AudioInfo, AudioPacket, AudioTrack, Ticks};
use sandbox::message::JobError;

use crate::pipeline::Failure;

pub(crate) mod adts;
mod entry;
pub(crate) mod frames;

pub(crate) use entry::Kind;
use frames::Frame;

/// Sound as it was found.
#[derive(Debug, Clone)]
pub(crate) enum Sound {
    /// In a transport stream.
    Packets(AudioTrack),
    /// In an MP4.
    Samples(Samples),
}

/// Sound as an MP4 holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Samples {
    /// The box that describes them.
    pub(crate) entry: Vec<u8>,
    /// Ticks per second of the durations.
    pub(crate) timescale: u32,
    pub(crate) samples: Vec<Sample>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sample {
    pub(crate) pts: Ticks,
    /// In the track's own ticks.
    pub(crate) duration: u32,
    pub(crate) data: Vec<u8>,
}

/// Sound that the other container has no words for.
fn unsayable(what: impl std::fmt::Display) -> Failure {
    Failure::new(JobError::UnrecognizedFormat, format!("{what} cannot be carried over to the other container"))
}

impl Sound {
    /// All time stamps, in the order found.
    pub(crate) fn times(&self) -> Vec<Ticks> {
        match self {
            Self::Packets(track) => track.packets.iter().filter_map(|p| p.pts).collect(),
            Self::Samples(track) => track.samples.iter().map(|s| s.pts).collect(),
        }
    }

    /// The part for which `keep` says yes, moved by `shift`. A packet without a stamp goes with the one before.
    pub(crate) fn part(&self, keep: impl Fn(Ticks) -> bool, shift: Ticks) -> Self {
        match self {
            Self::Packets(track) => {
                let mut at = None;
                let mut packets = Vec::with_capacity(track.packets.len());
                for packet in &track.packets {
                    at = packet.pts.or(at);
                    if at.is_some_and(&keep) {
                        let pts = packet.pts.map(|pts| pts + shift);
                        packets.push(AudioPacket { pts, data: packet.data.clone() });
                    }
                }
                Self::Packets(AudioTrack { info: track.info.clone(), packets })
            }
            Self::Samples(track) => {
                let kept = track.samples.iter().filter(|s| keep(s.pts));
                let samples = kept.map(|s| Sample { pts: s.pts + shift, ..s.clone() }).collect();
                Self::Samples(Samples { entry: track.entry.clone(), timescale: track.timescale, samples })
            }
        }
    }

    /// As a transport stream carries it.
    pub(crate) fn to_packets(&self) -> Result<AudioTrack, Failure> {
        match self {
            Self::Packets(track) => Ok(track.clone()),
            Self::Samples(track) => track.to_packets(),
        }
    }

    /// As an MP4 holds it; `None` when there is not a single frame.
    pub(crate) fn to_samples(&self) -> Result<Option<Samples>, Failure> {
        match self {
            Self::Packets(track) => from_packets(track),
            Self::Samples(track) => Ok((!track.samples.is_empty()).then(|| track.clone())),
        }
    }
}

impl Samples {
    fn to_packets(&self) -> Result<AudioTrack, Failure> {
        let kind = entry::read(&self.entry).ok_or_else(|| unsayable("this MP4's sound"))?;
        let registered = |stream_type, name: &[u8; 4]| AudioInfo {
            stream_type,
            stream_id: 0xbd,
            descriptors: [&[5, 4], &name[..]].concat(),
        };
        let plain = |stream_type| AudioInfo { stream_type, stream_id: 0xc0, descriptors: Vec::new() };
        let info = match &kind {
            Kind::Aac(_) => plain(0x0f),
            Kind::Mpeg { half_rate } => plain(if *half_rate { 0x04 } else { 0x03 }),
            Kind::Ac3 => registered(0x81, b"AC-3"),
            Kind::Eac3 => registered(0x87, b"EAC3"),
            Kind::Opus { channels } => {
                let mut info = registered(0x06, b"Opus");
                info.descriptors.extend_from_slice(&[0x7f, 2, 0x80, *channels]);
                info
            }
        };
        let wrap = |data: &[u8]| match kind {
            Kind::Aac(config) => config.wrap(data),
            Kind::Opus { .. } => Some([frames::opus_header(data.len()), data.to_vec()].concat()),
            Kind::Mpeg { .. } | Kind::Ac3 | Kind::Eac3 => Some(data.to_vec()),
        };
        let mut last = Ticks(i64::MIN);
        let packet = |sample: &Sample| {
            // An MP4 may have samples that last no time at all; here time goes on.
            last = sample.pts.max(last + Ticks(1));
            Some(AudioPacket { pts: Some(last), data: wrap(&sample.data)? })
        };
        let packets = self.samples.iter().map(packet).collect::<Option<_>>();
        Ok(AudioTrack { info, packets: packets.ok_or_else(|| unsayable("a frame of more than 8 KiB"))? })
    }
}

/// Reads the header of a frame.
type Reader = fn(&[u8]) -> Option<Frame>;

/// What frames a stream type holds, as its table describes it.
fn reader(info: &AudioInfo) -> Option<Reader> {
    let names = |name: &[u8]| info.descriptors.windows(name.len()).any(|w| w == name);
    let tagged = |tag: u8| info.descriptors.first() == Some(&tag);
    Some(match info.stream_type {
        0x0f => adts::frame,
        0x03 | 0x04 => frames::mpeg,
        0x81 => |bytes| frames::ac3(bytes).map(|f| f.0),
        0x87 => |bytes| frames::eac3(bytes).map(|f| f.0),
        0x06 if names(b"Opus") => frames::opus,
        0x06 if names(b"AC-3") || tagged(0x6a) => |bytes| frames::ac3(bytes).map(|f| f.0),
        0x06 if names(b"EAC3") || tagged(0x7a) => |bytes| frames::eac3(bytes).map(|f| f.0),
        _ => return None,
    })
}

/// Takes packets apart into frames, each with its time.
fn from_packets(track: &AudioTrack) -> Result<Option<Samples>, Failure> {
    let what = || format!("sound of stream type {:#04x}", track.info.stream_type);
    let read = reader(&track.info).ok_or_else(|| unsayable(what()))?;
    let stream: Vec<u8> = track.packets.iter().flat_map(|p| p.data.iter().copied()).collect();
    // Where packets begin, and when.
    let mut stamps = Vec::with_capacity(track.packets.len());
    let mut begins = 0;
    for packet in &track.packets {
        stamps.push((begins, packet.pts));
        begins += packet.data.len();
    }
    let mut stamps = stamps.into_iter().peekable();
    let (mut at, mut first) = (0, None::<(usize, Frame)>);
    let mut clock = Clock::default();
    let mut samples: Vec<Sample> = Vec::new();
    while at < stream.len() {
        let rest = stream.get(at..).unwrap_or_default();
        let Some((frame, data)) =
            read(rest).and_then(|f| Some((f, rest.get(f.skip..f.length).filter(|d| !d.is_empty())?)))
        else {
            // Bytes between frames, or a frame cut off by the end.
            at += 1;
            continue;
        };
        let (_, known) = *first.get_or_insert((at, frame));
        // A packet's stamp is that of the first frame that begins in it.
        let mut stamp = None;
        while let Some((_, pts)) = stamps.next_if(|(begins, _)| *begins <= at) {
            stamp = pts;
        }
        let (pts, gap) = clock.place(stamp, known.rate);
        if let Some(before) = samples.last_mut() {
            before.duration = before.duration.saturating_add(gap);
        }
        samples.push(Sample { pts, duration: frame.samples, data: data.to_vec() });
        clock.on(frame.samples);
        at += frame.length;
    }
    let Some((begins, frame)) = first else { return Ok(None) };
    let header = stream.get(begins..).unwrap_or_default();
    let entry = entry::write(&track.info, header, &frame).ok_or_else(|| unsayable(what()))?;
    Ok(Some(Samples { entry, timescale: frame.rate, samples }))
}

/// The time of frames that follow each other, of which only some say when they are heard.
#[derive(Debug, Default)]
struct Clock {
    start: Option<Ticks>,
    /// Samples since the start.
    heard: i64,
    last: i64,
}

impl Clock {
    /// When the next frame is heard, and how many samples are missing before it.
    fn place(&mut self, stamp: Option<Ticks>, rate: u32) -> (Ticks, u32) {
        let start = *self.start.get_or_insert(stamp.unwrap_or_default());
        let due = stamp.map(|pts| (pts - start).0.saturating_mul(i64::from(rate)) / PER_SECOND);
        // Stamps are rounded, and senders count a little differently: only a real gap is one.
        let gap = due.map_or(0, |due| due - self.heard);
        let gap = if gap > self.last / 2 { gap } else { 0 };
        self.heard = self.heard.saturating_add(gap);
        let since = self.heard.saturating_mul(PER_SECOND) / i64::from(rate.max(1));
        (start + Ticks(since), u32::try_from(gap).unwrap_or(u32::MAX))
    }

    fn on(&mut self, samples: u32) {
        self.last = i64::from(samples);
        self.heard = self.heard.saturating_add(self.last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn aac(packets: &[(Option<i64>, usize)]) -> Sound {
        let config = adts::Config { object: 2, rate_index: 3, channels: 2 };
        let packet = |(pts, frames): &(Option<i64>, usize)| AudioPacket {
            pts: pts.map(Ticks),
            data: (0..*frames).flat_map(|n| config.wrap(&vec![7; 20 + n]).unwrap()).collect(),
        };
        let info = AudioInfo { stream_type: 0x0f, stream_id: 0xc0, descriptors: vec![] };
        Sound::Packets(AudioTrack { info, packets: packets.iter().map(packet).collect() })
    }

    #[test]
    fn frames_without_a_stamp_follow_the_one_before() {
        let samples = aac(&[(Some(9000), 3), (None, 2), (Some(9000 + 5 * 1920), 1)]).to_samples().unwrap().unwrap();
        assert_eq!(samples.samples.len(), 6);
        assert!(samples.samples.iter().all(|s| s.duration == 1024));
        assert_eq!(samples.samples[4].pts, Ticks(9000 + 4 * 1920));
    }

    #[test]
    fn a_gap_in_the_sound_stays_a_gap() {
        let samples = aac(&[(Some(0), 2), (Some(90_000), 1)]).to_samples().unwrap().unwrap();
        let durations: Vec<u32> = samples.samples.iter().map(|s| s.duration).collect();
        assert_eq!(durations, [1024, 48_000 - 1024, 1024]);
        assert_eq!(samples.samples[2].pts, Ticks(90_000));
    }

    #[test]
    fn sound_goes_to_the_other_container_and_back_with_every_byte() {
        let there = aac(&[(Some(9000), 1), (Some(10_920), 1)]);
        let back = Sound::Samples(there.to_samples().unwrap().unwrap()).to_packets().unwrap();
        let Sound::Packets(before) = there else { panic!("packets") };
        assert_eq!(back, before);
    }

    #[test]
    fn samples_that_last_no_time_are_still_heard_one_after_the_other() {
        let Some(mut samples) = aac(&[(Some(0), 3)]).to_samples().unwrap() else { panic!("samples") };
        samples.samples.iter_mut().for_each(|s| s.pts = Ticks(9000));
        let track = Sound::Samples(samples).to_packets().unwrap();
        let times: Vec<_> = track.packets.iter().filter_map(|p| p.pts).collect();
        assert_eq!(times, [Ticks(9000), Ticks(9001), Ticks(9002)]);
    }

    #[test]
    fn sound_that_cannot_be_carried_over_is_refused_in_words() {
        let info = AudioInfo { stream_type: 0x11, stream_id: 0xc0, descriptors: vec![] };
        let latm = Sound::Packets(AudioTrack { info, packets: vec![AudioPacket { pts: None, data: vec![1; 9] }] });
        assert_eq!(latm.to_samples().unwrap_err().error, JobError::UnrecognizedFormat);
        assert!(latm.to_packets().is_ok());
    }
}
