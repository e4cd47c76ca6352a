//! How an MP4 describes pictures: one entry per codec and size.
use livepeer::profile::VideoCodec;
use mpegts::{h265, nal};

use super::{boxed, full};

/// The entry for pictures of this size, of which the first is `first`; `None` when that lacks what must be said.
pub(crate) fn entry(codec: VideoCodec, first: &[u8], size: (u32, u32)) -> Option<Vec<u8>> {
    let (kind, described) = match codec {
        VideoCodec::H264 => (*b"avc1", boxed(b"avcC", &[&avc(first)?])),
        VideoCodec::H265 => (*b"hvc1", boxed(b"hvcC", &[&hevc(first)?])),
        VideoCodec::Vp8 => (*b"vp08", full(b"vpcC", 1, 0, &[&vpx(size)])),
        VideoCodec::Vp9 => (*b"vp09", full(b"vpcC", 1, 0, &[&vpx(size)])),
    };
    let side = |s: u32| u16::try_from(s).unwrap_or(u16::MAX).to_be_bytes();
    let mut name = [0; 32];
    name[..9].copy_from_slice(b"\x08Millrace");
    Some(boxed(
        &kind,
        &[
            &[0, 0, 0, 0, 0, 0, 0, 1],
            &[0; 16],
            &side(size.0),
            &side(size.1),
            &[0, 0x48, 0, 0, 0, 0x48, 0, 0, 0, 0, 0, 0, 0, 1],
            &name,
            &[0, 0x18, 0xff, 0xff],
            &described,
        ],
    ))
}

/// Is this NAL unit left out of samples? Parameter sets stand in the description, delimiters are not wanted.
pub(crate) fn is_left_out(codec: VideoCodec, unit: &[u8]) -> bool {
    unit.first().is_none_or(|b| match codec {
        VideoCodec::H265 => matches!(b >> 1 & 0x3f, 32..=35),
        _ => matches!(b & 0x1f, 7..=9),
    })
}

fn find(stream: &[u8], wanted: impl Fn(u8) -> bool) -> Option<&[u8]> {
    nal::units(stream).map(|n| n.bytes(stream)).find(|n| n.first().is_some_and(|b| wanted(*b)))
}

fn avc(first: &[u8]) -> Option<Vec<u8>> {
    let (sps, pps) = (find(first, |b| b & 0x1f == 7)?, find(first, |b| b & 0x1f == 8)?);
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
    Some(config)
}

fn hevc(first: &[u8]) -> Option<Vec<u8>> {
    let sps = h265::find_sps(first)?;
    let mut config = vec![1];
    config.extend_from_slice(&sps.profile_tier_level);
    config.extend_from_slice(&[0xf0, 0, 0xfc, 0xfc | sps.chroma]);
    config.extend_from_slice(&[0xf8 | sps.depth.saturating_sub(8), 0xf8 | sps.depth.saturating_sub(8), 0, 0]);
    // Lengths of four bytes, temporal layers, three arrays of parameter sets.
    config.extend_from_slice(&[(sps.layers & 7) << 3 | 3, 3]);
    for kind in 32u8..=34 {
        let set = find(first, |b| b >> 1 & 0x3f == kind)?;
        config.extend_from_slice(&[0x80 | kind, 0, 1]);
        config.extend_from_slice(&u16::try_from(set.len()).ok()?.to_be_bytes());
        config.extend_from_slice(set);
    }
    Some(config)
}

/// Profile 0, the level that the size asks for, eight bits 4:2:0, colours not named.
fn vpx(size: (u32, u32)) -> [u8; 8] {
    const LEVELS: [(u64, u8); 8] = [
        (36_864, 10),
        (73_728, 11),
        (122_880, 20),
        (245_760, 21),
        (552_960, 30),
        (983_040, 31),
        (2_228_224, 40),
        (8_912_896, 50),
    ];
    let area = u64::from(size.0) * u64::from(size.1);
    let level = LEVELS.iter().find(|l| area <= l.0).map_or(60, |l| l.1);
    [0, level, 8 << 4 | 1 << 1, 2, 2, 2, 0, 0]
}
