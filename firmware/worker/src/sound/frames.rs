//! The frames of sound in a transport stream's packets: what an MP4 must know of each, and where it ends.
//!
//! Only headers are read; not a byte of a frame changes.

/// What the header of a frame says of itself and of its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame {
    /// Bytes of header that an MP4 leaves out.
    pub(crate) skip: usize,
    /// Length with its header.
    pub(crate) length: usize,
    /// Samples of sound in it.
    pub(crate) samples: u32,
    /// Samples per second.
    pub(crate) rate: u32,
    /// Channels.
    pub(crate) channels: u16,
}

/// Reads the header of a frame of MPEG-1 or MPEG-2 audio; `None` when there is none.
pub(crate) fn mpeg(bytes: &[u8]) -> Option<Frame> {
    const RATES: [u32; 3] = [44_100, 48_000, 32_000];
    const KILOBITS: [[u32; 15]; 5] = [
        [0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448],
        [0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384],
        [0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320],
        [0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256],
        [0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160],
    ];
    let &[0xff, b, c, d] = bytes.first_chunk::<4>()? else { return None };
    if b & 0xe0 != 0xe0 {
        return None;
    }
    // 0 is version 2.5, 2 is 2, 3 is 1; layers count down from 3 to 1.
    let (version, layer) = (b >> 3 & 3, 4 - u32::from(b >> 1 & 3));
    if version == 1 || layer == 4 {
        return None;
    }
    let halvings = match version {
        3 => 0,
        2 => 1,
        _ => 2,
    };
    let rate = RATES.get(usize::from(c >> 2 & 3))? >> halvings;
    let row = match (version, layer) {
        (3, 1) => 0,
        (3, 2) => 1,
        (3, _) => 2,
        (_, 1) => 3,
        _ => 4,
    };
    let bits = KILOBITS.get(row)?.get(usize::from(c >> 4)).filter(|k| **k > 0)? * 1000;
    let padding = u32::from(c >> 1 & 1);
    let (samples, length) = match layer {
        1 => (384, (12 * bits / rate + padding) * 4),
        3 if version != 3 => (576, 72 * bits / rate + padding),
        _ => (1152, 144 * bits / rate + padding),
    };
    let length = usize::try_from(length).ok()?;
    Some(Frame { skip: 0, length, samples, rate, channels: if d >> 6 == 3 { 1 } else { 2 } })
}

/// What an `ac-3` or `ec-3` entry says beyond a [`Frame`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dolby {
    pub(crate) rate_code: u8,
    pub(crate) id: u8,
    pub(crate) mode: u8,
    pub(crate) service: u8,
    pub(crate) lfe: u8,
    /// Code of the bit rate in AC-3, kilobits per second in E-AC-3.
    pub(crate) bit_rate: u16,
}

/// Reads the header of an AC-3 frame.
pub(crate) fn ac3(bytes: &[u8]) -> Option<(Frame, Dolby)> {
    const RATES: [u32; 3] = [48_000, 44_100, 32_000];
    const KILOBITS: [u32; 19] =
        [32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 576, 640];
    let &[0x0b, 0x77, _, _, sizes, id_service, modes, more] = bytes.first_chunk::<8>()? else { return None };
    let rate_code = sizes >> 6;
    let rate = *RATES.get(usize::from(rate_code))?;
    let code = sizes & 0x3f;
    let bits = KILOBITS.get(usize::from(code >> 1))? * 1000;
    // Words of 16 bits in 1536 samples; 44.1 kHz has a word more in every other code.
    let words = bits * 96 / rate + u32::from(rate == 44_100 && code & 1 == 1);
    let mode = modes >> 5;
    // Levels of the centre, of the surround and of the matrix come before the flag of the low channel.
    let mut at = 3;
    for present in [mode & 1 == 1 && mode != 1, mode & 4 != 0, mode == 2] {
        at += if present { 2 } else { 0 };
    }
    let lfe = u8::try_from((u16::from(modes) << 8 | u16::from(more)) >> (15 - at) & 1).ok()?;
    let id = id_service >> 3;
    if id > 10 {
        return None;
    }
    let frame = Frame {
        skip: 0,
        length: usize::try_from(words * 2).ok()?,
        samples: 1536,
        rate,
        channels: channels(mode) + u16::from(lfe),
    };
    Some((frame, Dolby { rate_code, id, mode, service: id_service & 7, lfe, bit_rate: u16::from(code >> 1) }))
}

/// Reads the header of an E-AC-3 frame of the first independent stream.
pub(crate) fn eac3(bytes: &[u8]) -> Option<(Frame, Dolby)> {
    const RATES: [u32; 3] = [48_000, 44_100, 32_000];
    const BLOCKS: [u32; 4] = [1, 2, 3, 6];
    let &[0x0b, 0x77, kind, size, modes, id, ..] = bytes.first_chunk::<8>()? else { return None };
    let id = id >> 3;
    // Dependent streams and further programs would need a longer description.
    if !(11..=16).contains(&id) || kind >> 6 != 0 || kind >> 3 & 7 != 0 {
        return None;
    }
    let length = (usize::from(kind & 7) << 8 | usize::from(size)) * 2 + 2;
    let (rate, blocks) = match modes >> 6 {
        3 => (RATES.get(usize::from(modes >> 4 & 3))? / 2, 6),
        code => (*RATES.get(usize::from(code))?, *BLOCKS.get(usize::from(modes >> 4 & 3))?),
    };
    let (mode, lfe) = (modes >> 1 & 7, modes & 1);
    let samples = blocks * 256;
    let bits = u64::try_from(length).ok()? * 8 * u64::from(rate) / u64::from(samples);
    let frame = Frame { skip: 0, length, samples, rate, channels: channels(mode) + u16::from(lfe) };
    let bit_rate = u16::try_from(bits / 1000).ok()?;
    Some((frame, Dolby { rate_code: modes >> 6, id, mode, service: 0, lfe, bit_rate }))
}

fn channels(mode: u8) -> u16 {
    match mode {
        1 => 1,
        3 | 4 => 3,
        5 | 6 => 4,
        7 => 5,
        _ => 2,
    }
}

/// Reads the control header that a transport stream puts before each packet of Opus.
pub(crate) fn opus(bytes: &[u8]) -> Option<Frame> {
    let &[0x7f, flags] = bytes.first_chunk::<2>()? else { return None };
    if flags & 0xe0 != 0xe0 {
        return None;
    }
    let mut at = 2;
    let mut size = 0usize;
    loop {
        let byte = *bytes.get(at)?;
        at += 1;
        size += usize::from(byte);
        if byte != 255 {
            break;
        }
    }
    at += if flags & 0x10 != 0 { 2 } else { 0 } + if flags & 0x08 != 0 { 2 } else { 0 };
    if flags & 0x04 != 0 {
        at += 1 + usize::from(*bytes.get(at)?);
    }
    let samples = opus_samples(bytes.get(at..)?)?;
    Some(Frame { skip: at, length: at + size, samples, rate: 48_000, channels: 0 })
}

/// The control header for a packet of Opus.
pub(crate) fn opus_header(length: usize) -> Vec<u8> {
    let mut out = vec![0x7f, 0xe0];
    out.resize(2 + length / 255, 255);
    out.push(u8::try_from(length % 255).unwrap_or(0));
    out
}

/// Samples at 48 kHz in a packet of Opus.
fn opus_samples(packet: &[u8]) -> Option<u32> {
    let &toc = packet.first()?;
    let config = toc >> 3;
    let each: u32 = match config {
        0..=11 => [480, 960, 1920, 2880].get(usize::from(config & 3)).copied()?,
        12..=15 => [480, 960].get(usize::from(config & 1)).copied()?,
        _ => [120, 240, 480, 960].get(usize::from(config & 3)).copied()?,
    };
    let count = match toc & 3 {
        0 => 1,
        1 | 2 => 2,
        _ => u32::from(packet.get(1)? & 0x3f),
    };
    Some(each * count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_real_frames_are_read() {
        // libmp3lame, 48 kHz stereo at 128 kb/s.
        let mp3 = mpeg(&[0xff, 0xfb, 0x94, 0x64]).unwrap();
        assert_eq!((mp3.length, mp3.samples, mp3.rate, mp3.channels), (384, 1152, 48_000, 2));
        // MPEG-1 layer 2, 48 kHz, 384 kb/s.
        let mp2 = mpeg(&[0xff, 0xfd, 0xe4, 0x04]).unwrap();
        assert_eq!((mp2.length, mp2.samples), (1152, 1152));
        assert_eq!(mpeg(&[0xff, 0xff, 0xff, 0xff]), None);
        // ffmpeg's encoder, 48 kHz stereo at 192 kb/s.
        let (frame, said) = ac3(&[0x0b, 0x77, 0x34, 0xd4, 0x14, 0x40, 0x43, 0xe1]).unwrap();
        assert_eq!((frame.length, frame.samples, frame.rate, frame.channels), (768, 1536, 48_000, 2));
        assert_eq!((said.id, said.mode, said.lfe, said.bit_rate), (8, 2, 0, 10));
    }

    #[test]
    fn a_packet_of_opus_finds_its_way_back() {
        for length in [1usize, 254, 255, 256, 700] {
            let packet: Vec<u8> = std::iter::once(0xfc).chain(std::iter::repeat_n(7, length - 1)).collect();
            let wrapped = [opus_header(length), packet].concat();
            let frame = opus(&wrapped).unwrap();
            assert_eq!((frame.length, frame.length - frame.skip), (wrapped.len(), length));
            assert_eq!(frame.samples, 960);
        }
        assert_eq!(opus(&[0x7f, 0xe0, 255, 255]), None);
    }
}
