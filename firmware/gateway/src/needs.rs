//! What a job needs of an orchestrator, and whether an orchestrator has it.
//!
//! *Source:* livepeer-wire §6.3, §6.4.
use livepeer::capability::{Capability, CapabilitySet};
use livepeer::profile::{CodecProfile, Container, Gop, Profile, VideoCodec};
use livepeer::wire::net;

/// Abilities every transcoder has always had; a node that says nothing has these.
const LEGACY: std::ops::RangeInclusive<u32> = 0..=11;

/// The capabilities a stream of this input codec with these profiles needs.
#[must_use]
pub fn needs(input: mpegts::VideoCodec, profiles: &[Profile]) -> CapabilitySet {
    let mut needs = vec![Capability::AuthToken as u32, Capability::StorageDirect as u32];
    needs.push(match input {
        mpegts::VideoCodec::H265 => Capability::HevcDecode as u32,
        mpegts::VideoCodec::Vp8 => Capability::Vp8Decode as u32,
        mpegts::VideoCodec::Vp9 => Capability::Vp9Decode as u32,
        // The network has no number for others.
        mpegts::VideoCodec::H264 | mpegts::VideoCodec::Av1 | mpegts::VideoCodec::Other(_) => Capability::H264 as u32,
    });
    for profile in profiles {
        needs.push(match profile.container {
            Container::MpegTs => Capability::MpegTs as u32,
            Container::Mp4 => Capability::Mp4 as u32,
        });
        needs.push(match profile.codec {
            VideoCodec::H264 => Capability::H264 as u32,
            VideoCodec::H265 => Capability::HevcEncode as u32,
            VideoCodec::Vp8 => Capability::Vp8Encode as u32,
            VideoCodec::Vp9 => Capability::Vp9Encode as u32,
        });
        needs.extend(match profile.codec_profile {
            CodecProfile::EncoderDefault => None,
            CodecProfile::H264Baseline => Some(Capability::ProfileH264Baseline as u32),
            CodecProfile::H264Main => Some(Capability::ProfileH264Main as u32),
            CodecProfile::H264High => Some(Capability::ProfileH264High as u32),
            CodecProfile::H264ConstrainedHigh => Some(Capability::ProfileH264ConstrainedHigh as u32),
        });
        if profile.fps.is_some_and(|fps| fps.den > 1) {
            needs.push(Capability::FractionalFramerates as u32);
        }
        if profile.gop != Gop::EncoderDefault {
            needs.push(Capability::Gop as u32);
        }
    }
    needs.into_iter().collect()
}

/// Writes a job's needs for the wire.
pub(crate) fn to_wire(needs: &CapabilitySet) -> net::Capabilities {
    net::Capabilities {
        bitstring: needs.to_bitstring(),
        constraints: Some(net::capabilities::Constraints::default()),
        ..net::Capabilities::default()
    }
}

/// The capabilities a job needs and a node lacks, or those the node insists on and the job does not know; empty
/// when they match.
pub(crate) fn mismatch(needs: &CapabilitySet, node: Option<&net::Capabilities>) -> Vec<u32> {
    let Some(node) = node else {
        return needs.iter().filter(|number| !LEGACY.contains(number)).collect();
    };
    let offered = CapabilitySet::from_bitstring(&node.bitstring);
    let mandatory = CapabilitySet::from_bitstring(&node.mandatories);
    let mut mismatch = needs.missing_from(&offered);
    mismatch.extend(mandatory.missing_from(needs));
    mismatch
}

#[cfg(test)]
mod tests {
    use super::*;
    use livepeer::profile::preset;

    fn plain() -> CapabilitySet {
        needs(mpegts::VideoCodec::H264, &[preset("240p").unwrap(), preset("720p").unwrap()])
    }

    #[test]
    fn a_plain_job_needs_what_the_stock_gateway_asks_for() {
        // The word of the vector `segment_signature`.
        assert_eq!(plain().to_bitstring(), [0x1013]);
    }

    #[test]
    fn a_profile_adds_what_it_uses() {
        let mut profile = preset("720p").unwrap();
        profile.gop = Gop::Intra;
        profile.codec = VideoCodec::H265;
        profile.fps = Some(livepeer::units::FrameRate { num: 30000, den: 1001 });
        let needs = needs(mpegts::VideoCodec::H265, &[profile]);
        assert_eq!(needs.iter().collect::<Vec<_>>(), [1, 3, 4, 11, 12, 15, 16]);
    }

    #[test]
    fn a_node_that_says_nothing_has_no_auth_token() {
        assert_eq!(mismatch(&plain(), None), [12]);
        let all = net::Capabilities { bitstring: vec![u64::MAX], ..Default::default() };
        assert!(mismatch(&plain(), Some(&all)).is_empty());
        let insists = net::Capabilities { mandatories: vec![1 << 26], ..all };
        assert_eq!(mismatch(&plain(), Some(&insists)), [26]);
    }
}
