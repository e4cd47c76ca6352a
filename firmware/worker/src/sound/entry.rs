//! How an MP4 describes sound: the entries this program can read and write.
use mpegts::AudioInfo;

use super::adts::{self, Config};
use super::frames::{self, Dolby, Frame};
use crate::mp4::{boxed, child, full};

/// What an entry describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// AAC.
    Aac(Config),
    /// MPEG-1 audio, or MPEG-2 at half the sampling rates.
    Mpeg {
        /// MPEG-2.
        half_rate: bool,
    },
    /// AC-3.
    Ac3,
    /// E-AC-3.
    Eac3,
    /// Opus in one of its standard arrangements of channels.
    Opus {
        /// How many.
        channels: u8,
    },
}

/// Reads an entry; `None` for sound that no transport stream carries.
pub(crate) fn read(entry: &[u8]) -> Option<Kind> {
    let inside = entry.get(8..)?;
    // The longer forms of QuickTime have more fields before their boxes.
    let more = match inside.get(8..10)? {
        [0, 1] => 16,
        [0, 2] => 36,
        _ => 0,
    };
    let boxes = inside.get(28 + more..)?;
    match entry.get(4..8)? {
        b"mp4a" => {
            let esds = child(boxes, b"esds").or_else(|| child(child(boxes, b"wave")?, b"esds"))?;
            stream(esds.get(4..)?)
        }
        b"ac-3" => Some(Kind::Ac3),
        b"ec-3" => Some(Kind::Eac3),
        b"Opus" => {
            let head = child(boxes, b"dOps")?;
            let (&channels, family) = (head.get(1)?, head.get(10)?);
            let standard = matches!((family, channels), (0, 1 | 2) | (1, 1..=8));
            standard.then_some(Kind::Opus { channels })
        }
        _ => None,
    }
}

/// Goes through the nested descriptors of an `esds`.
fn stream(bytes: &[u8]) -> Option<Kind> {
    let (body, _) = descriptor(bytes, 3)?;
    let &flags = body.get(2)?;
    let mut at = 3;
    if flags & 0x80 != 0 {
        at += 2;
    }
    if flags & 0x40 != 0 {
        at += 1 + usize::from(*body.get(at)?);
    }
    if flags & 0x20 != 0 {
        at += 2;
    }
    let (decoder, _) = descriptor(body.get(at..)?, 4)?;
    match decoder.first()? {
        0x40 | 0x66..=0x68 => {
            let (specific, _) = descriptor(decoder.get(13..)?, 5)?;
            Config::from_specific(specific).map(Kind::Aac)
        }
        0x69 => Some(Kind::Mpeg { half_rate: true }),
        0x6b => Some(Kind::Mpeg { half_rate: false }),
        0xa5 => Some(Kind::Ac3),
        0xa6 => Some(Kind::Eac3),
        _ => None,
    }
}

/// A descriptor's body, and what follows it.
fn descriptor(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&found, mut rest) = bytes.split_first()?;
    if found != tag {
        return None;
    }
    let mut length = 0usize;
    for _ in 0..4 {
        let (&byte, tail) = rest.split_first()?;
        rest = tail;
        length = length << 7 | usize::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            break;
        }
    }
    Some(rest.split_at(length.min(rest.len())))
}

/// The entry for sound of a transport stream, whose first frame is `frame` and begins with `bytes`.
pub(crate) fn write(info: &AudioInfo, bytes: &[u8], frame: &Frame) -> Option<Vec<u8>> {
    Some(match info.stream_type {
        0x0f => {
            let specific = adts::config(bytes)?.to_specific();
            entry(*b"mp4a", frame, &esds(0x40, Some(specific)))
        }
        kind @ (0x03 | 0x04) => entry(*b"mp4a", frame, &esds(if kind == 0x04 { 0x69 } else { 0x6b }, None)),
        _ if frames::opus(bytes).is_some() => opus(info, frame)?,
        _ => match (frames::ac3(bytes), frames::eac3(bytes)) {
            (Some((_, said)), _) => entry(*b"ac-3", frame, &dac3(said)),
            (_, Some((_, said))) => entry(*b"ec-3", frame, &dec3(said)),
            _ => return None,
        },
    })
}

fn entry(kind: [u8; 4], frame: &Frame, described: &[u8]) -> Vec<u8> {
    boxed(
        &kind,
        &[
            &[0, 0, 0, 0, 0, 0, 0, 1],
            &[0; 8],
            &frame.channels.to_be_bytes(),
            &[0, 16, 0, 0, 0, 0],
            &(frame.rate.min(0xffff) << 16).to_be_bytes(),
            described,
        ],
    )
}

fn esds(object: u8, specific: Option<[u8; 2]>) -> Vec<u8> {
    let specific = specific.map(|s| [5, 2, s[0], s[1]]);
    let inner = specific.as_ref().map(<[u8; 4]>::as_slice).unwrap_or_default();
    let length = u8::try_from(inner.len()).unwrap_or(0);
    let decoder = [&[4, 13 + length, object, 0x15, 0, 0, 0][..], &[0; 8], inner].concat();
    let body = [&[3, 3 + 2 + 13 + length + 3, 0, 1, 0][..], &decoder, &[6, 1, 2]].concat();
    full(b"esds", 0, 0, &[&body])
}

fn dac3(said: Dolby) -> Vec<u8> {
    // 2 + 5 + 3 + 3 + 1 + 5 bits and 5 of nothing.
    let bits = [(said.rate_code, 2), (said.id, 5), (said.service, 3), (said.mode, 3), (said.lfe, 1)];
    let high = bits.iter().fold(0u32, |n, (value, width)| n << width | u32::from(*value));
    let [_, a, b, c] = (high << 10 | u32::from(said.bit_rate & 0x1f) << 5).to_be_bytes();
    boxed(b"dac3", &[&[a, b, c]])
}

fn dec3(said: Dolby) -> Vec<u8> {
    // 13 bits of bit rate, 3 of further streams; then the stream: 2, 5, 2 spare and service, 3, 3, 1, 3 + 4 + 1 of nothing.
    let bits = [
        (u32::from(said.bit_rate), 13),
        (0, 3),
        (u32::from(said.rate_code), 2),
        (u32::from(said.id), 5),
        (0, 2),
        (u32::from(said.service), 3),
        (u32::from(said.mode), 3),
        (u32::from(said.lfe), 1),
        (0, 8),
    ];
    let all = bits.iter().fold(0u64, |n, (value, width)| n << width | u64::from(*value));
    let bytes = all.to_be_bytes();
    boxed(b"dec3", &[bytes.get(3..).unwrap_or_default()])
}

fn opus(info: &AudioInfo, frame: &Frame) -> Option<Vec<u8>> {
    // The extension descriptor tells the channels: 1 or 2 in the simple arrangement.
    let at = info.descriptors.windows(3).position(|w| w == [0x7f, 2, 0x80])?;
    let channels = info.descriptors.get(at + 3).copied().filter(|c| (1..=2).contains(c))?;
    let head = boxed(b"dOps", &[&[0, channels, 0, 0, 0, 0, 0xbb, 0x80, 0, 0, 0]]);
    Some(entry(*b"Opus", &Frame { channels: u16::from(channels), ..*frame }, &head))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: Frame = Frame { skip: 0, length: 0, samples: 0, rate: 48_000, channels: 2 };

    #[test]
    fn what_is_written_reads_back() {
        let info = |stream_type| AudioInfo { stream_type, stream_id: 0xc0, descriptors: vec![] };
        let config = Config { object: 2, rate_index: 3, channels: 2 };
        let aac = write(&info(0x0f), &config.wrap(&[1; 9]).unwrap(), &FRAME).unwrap();
        assert_eq!(read(&aac), Some(Kind::Aac(config)));
        let mp3 = write(&info(0x03), &[], &FRAME).unwrap();
        assert_eq!(read(&mp3), Some(Kind::Mpeg { half_rate: false }));
        let opus_info = AudioInfo { descriptors: vec![5, 4, b'O', b'p', b'u', b's', 0x7f, 2, 0x80, 2], ..info(0x06) };
        let packet = [frames::opus_header(3), vec![0xfc, 1, 2]].concat();
        assert_eq!(read(&write(&opus_info, &packet, &FRAME).unwrap()), Some(Kind::Opus { channels: 2 }));
        let ac3 = [0x0b, 0x77, 0xfe, 0x95, 0x14, 0x40, 0x43, 0xe1];
        assert_eq!(read(&write(&info(0x81), &ac3, &FRAME).unwrap()), Some(Kind::Ac3));
    }

    #[test]
    fn a_cut_entry_is_not_read() {
        let config = Config { object: 2, rate_index: 3, channels: 2 };
        let info = AudioInfo { stream_type: 0x0f, stream_id: 0xc0, descriptors: vec![] };
        let aac = write(&info, &config.wrap(&[1; 9]).unwrap(), &FRAME).unwrap();
        assert!((0..60).all(|end| read(&aac[..end]).is_none()));
    }
}
