//! Conversions between generated messages and our types.
use super::net;
use crate::address::{Address, H256};
use crate::capability::CapabilitySet;
use crate::credentials::AuthToken;
use crate::params::TicketParams;
use crate::price::{PriceError, PricePerPixel};
use crate::profile::{CodecProfile, Container, Gop, Profile, VideoCodec};
use crate::ticket::{Payment, TicketBatch};
use crate::units::{
    BitsPerSecond, FrameRate, L1Block, Round, Timestamp, Wei, WinProb, u256_from_minimal_bytes, u256_to_minimal_bytes,
};

/// Longest segment the network knows, in milliseconds.
const MAX_DURATION_MS: i32 = 300_000;

/// Why a message does not make sense, in the network's words where it has some.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A field is absent that must be there.
    #[error("missing {0}")]
    Missing(&'static str),
    /// A field has the wrong length or range.
    #[error("invalid {0}")]
    Invalid(&'static str),
    /// The price is absent or makes no sense.
    #[error("invalid expected price sent with payment err=\"{0}\"")]
    Price(PriceText),
    /// Container nobody knows.
    #[error("unrecognized profile output format")]
    Format,
    /// H.264 profile nobody knows.
    #[error("unrecognized encoder profile")]
    EncoderProfile,
    /// Codec nobody knows.
    #[error("unrecognized video codec")]
    Codec,
    /// Below −1.
    #[error("TranscoderInvalidGOP")]
    Gop,
}

/// What is wrong with an expected price.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PriceText {
    /// There is none.
    #[error("expected price is nil")]
    Missing,
    /// It makes no sense.
    #[error(transparent)]
    Invalid(#[from] PriceError),
}

/// A segment's credentials, parsed; signatures and token are still to be checked.
#[derive(Debug, Clone, PartialEq)]
pub struct SegmentMeta {
    /// The stream, as the gateway names it.
    pub manifest_id: Vec<u8>,
    /// Number of the segment in its stream.
    pub seq: i64,
    /// keccak-256 the content must have; absent for zero bytes of hash.
    pub hash: Vec<u8>,
    /// The gateway's signature, raw.
    pub signature: Vec<u8>,
    /// Length of the content as the gateway states it, in milliseconds; 0 is taken as 2000.
    pub duration_ms: u32,
    /// What the job needs.
    pub needs: CapabilitySet,
    /// Version the gateway insists on, or empty.
    pub min_version: String,
    /// The token we gave.
    pub auth_token: Option<AuthToken>,
    /// The renditions.
    pub profiles: Vec<Profile>,
    /// Part of the segment to keep, in milliseconds from its start: from, to.
    pub clip: Option<(u64, u64)>,
    /// Wants a perceptual hash.
    pub wants_perceptual_hash: bool,
    /// Object store the renditions are to go to, when it is not us.
    pub storage: Option<net::OsInfo>,
}

/// Reads a segment's credentials.
///
/// # Errors
/// [`WireError`] naming the first field that makes no sense.
pub fn segment_from_wire(data: &net::SegData) -> Result<SegmentMeta, WireError> {
    let duration = if data.duration == 0 { 2000 } else { data.duration };
    if !(0..=MAX_DURATION_MS).contains(&duration) {
        return Err(WireError::Invalid("duration"));
    }
    let lists = [&data.full_profiles3, &data.full_profiles2, &data.full_profiles];
    let profiles = lists.into_iter().find(|list| !list.is_empty());
    let profiles = profiles.map(|list| list.iter().map(profile_from_wire).collect()).transpose()?.unwrap_or_default();
    let capabilities = data.capabilities.clone().unwrap_or_default();
    Ok(SegmentMeta {
        manifest_id: data.manifest_id.clone(),
        seq: data.seq,
        hash: data.hash.clone(),
        signature: data.sig.clone(),
        duration_ms: u32::try_from(duration).map_err(|_| WireError::Invalid("duration"))?,
        needs: CapabilitySet::from_bitstring(&capabilities.bitstring),
        min_version: capabilities.constraints.map(|constraints| constraints.min_version).unwrap_or_default(),
        auth_token: data.auth_token.as_ref().map(auth_token_from_wire),
        profiles,
        clip: data.segment_parameters.map(|clip| (clip.from, clip.to)).filter(|clip| *clip != (0, 0)),
        wants_perceptual_hash: data.calc_perceptual_hash,
        storage: data.storage.first().cloned(),
    })
}

/// Reads a profile.
///
/// # Errors
/// [`WireError`] naming what makes no sense.
pub fn profile_from_wire(profile: &net::VideoProfile) -> Result<Profile, WireError> {
    let side = |value: i32| u32::try_from(value).map_err(|_| WireError::Invalid("resolution"));
    let (width, height) = (side(profile.width)?, side(profile.height)?);
    let bitrate = BitsPerSecond(u32::try_from(profile.bitrate).map_err(|_| WireError::Invalid("bitrate"))?);
    let container = match net::video_profile::Format::try_from(profile.format) {
        Ok(net::video_profile::Format::Mpegts) => Container::MpegTs,
        Ok(net::video_profile::Format::Mp4) => Container::Mp4,
        Err(_) => return Err(WireError::Format),
    };
    let codec_profile = match net::video_profile::Profile::try_from(profile.profile) {
        Ok(net::video_profile::Profile::EncoderDefault) => CodecProfile::EncoderDefault,
        Ok(net::video_profile::Profile::H264Baseline) => CodecProfile::H264Baseline,
        Ok(net::video_profile::Profile::H264Main) => CodecProfile::H264Main,
        Ok(net::video_profile::Profile::H264High) => CodecProfile::H264High,
        Ok(net::video_profile::Profile::H264ConstrainedHigh) => CodecProfile::H264ConstrainedHigh,
        Err(_) => return Err(WireError::EncoderProfile),
    };
    let codec = match net::video_profile::VideoCodec::try_from(profile.encoder) {
        Ok(net::video_profile::VideoCodec::H264) => VideoCodec::H264,
        Ok(net::video_profile::VideoCodec::H265) => VideoCodec::H265,
        Ok(net::video_profile::VideoCodec::Vp8) => VideoCodec::Vp8,
        Ok(net::video_profile::VideoCodec::Vp9) => VideoCodec::Vp9,
        Err(_) => return Err(WireError::Codec),
    };
    let gop = match profile.gop {
        0 => Gop::EncoderDefault,
        -1 => Gop::Intra,
        millis => Gop::Millis(u32::try_from(millis).map_err(|_| WireError::Gop)?),
    };
    let name = if profile.name.is_empty() {
        format!("net_{width}x{height}_{}", profile.bitrate)
    } else {
        profile.name.clone()
    };
    let fps = (profile.fps > 0).then_some(FrameRate { num: profile.fps, den: profile.fps_den.max(1) });
    Ok(Profile { name, width, height, bitrate, fps, container, codec, codec_profile, gop, quality: profile.quality })
}

/// Writes a profile.
#[must_use]
pub fn profile_to_wire(profile: &Profile) -> net::VideoProfile {
    let narrow = |value: u32| i32::try_from(value).unwrap_or(i32::MAX);
    let name = if profile.name.is_empty() {
        format!("ffmpeg_{}x{}_{}", profile.width, profile.height, profile.bitrate.0)
    } else {
        profile.name.clone()
    };
    net::VideoProfile {
        name,
        width: narrow(profile.width),
        height: narrow(profile.height),
        bitrate: narrow(profile.bitrate.0),
        fps: profile.fps.map_or(0, |fps| fps.num),
        fps_den: profile.fps.map_or(0, |fps| if fps.den == 1 { 0 } else { fps.den }),
        format: match profile.container {
            Container::MpegTs => net::video_profile::Format::Mpegts,
            Container::Mp4 => net::video_profile::Format::Mp4,
        }
        .into(),
        profile: match profile.codec_profile {
            CodecProfile::EncoderDefault => net::video_profile::Profile::EncoderDefault,
            CodecProfile::H264Baseline => net::video_profile::Profile::H264Baseline,
            CodecProfile::H264Main => net::video_profile::Profile::H264Main,
            CodecProfile::H264High => net::video_profile::Profile::H264High,
            CodecProfile::H264ConstrainedHigh => net::video_profile::Profile::H264ConstrainedHigh,
        }
        .into(),
        gop: match profile.gop {
            Gop::EncoderDefault => 0,
            Gop::Intra => -1,
            Gop::Millis(millis) => narrow(millis),
        },
        encoder: match profile.codec {
            VideoCodec::H264 => net::video_profile::VideoCodec::H264,
            VideoCodec::H265 => net::video_profile::VideoCodec::H265,
            VideoCodec::Vp8 => net::video_profile::VideoCodec::Vp8,
            VideoCodec::Vp9 => net::video_profile::VideoCodec::Vp9,
        }
        .into(),
        quality: profile.quality,
        color_depth: 0,
        chroma_format: 0,
    }
}

/// Puts profiles into the list of the message that stock peers read for their kind.
pub fn profiles_into_seg_data(profiles: &[Profile], data: &mut net::SegData) {
    let plain =
        |p: &net::VideoProfile| p.fps_den == 0 && p.profile == 0 && p.gop == 0 && p.encoder == 0 && p.quality == 0;
    let wire: Vec<_> = profiles.iter().map(profile_to_wire).collect();
    data.profiles = b"invalid".to_vec();
    if !wire.iter().all(plain) {
        data.full_profiles3 = wire;
    } else if wire.iter().any(|p| p.format != 0) {
        data.full_profiles2 = wire;
    } else {
        data.full_profiles = wire;
    }
}

/// Reads a payment.
///
/// # Errors
/// [`WireError`] naming the first field that makes no sense.
pub fn payment_from_wire(payment: &net::Payment) -> Result<Payment, WireError> {
    let price = payment.expected_price.as_ref().ok_or(WireError::Price(PriceText::Missing))?;
    let expected_price = PricePerPixel::from_wire(price.price_per_unit, price.pixels_per_unit)
        .map_err(|error| WireError::Price(error.into()))?;
    let sender = match payment.sender.len() {
        0 => Address::NULL,
        _ => Address::from_bytes(&payment.sender).ok_or(WireError::Invalid("sender"))?,
    };
    let tickets = payment.ticket_params.as_ref().map(|params| {
        let params = params_from_wire(params, payment.expiration_params.as_ref())?;
        let tickets = payment.ticket_sender_params.iter().map(|ticket| (ticket.sender_nonce, ticket.sig.clone()));
        Ok(TicketBatch { params, tickets: tickets.collect() })
    });
    Ok(Payment { sender, expected_price, tickets: tickets.transpose()? })
}

/// Writes a payment.
#[must_use]
pub fn payment_to_wire(payment: &Payment) -> net::Payment {
    let batch = payment.tickets.as_ref();
    let expiration = batch.map(|batch| net::TicketExpirationParams {
        creation_round: i64::try_from(batch.params.creation_round.0).unwrap_or(i64::MAX),
        creation_round_block_hash: batch.params.creation_round_block_hash.as_bytes().to_vec(),
    });
    net::Payment {
        ticket_params: batch
            .map(|batch| net::TicketParams { expiration_params: None, ..params_to_wire(&batch.params) }),
        sender: payment.sender.as_bytes().to_vec(),
        expiration_params: expiration,
        ticket_sender_params: batch
            .map(|batch| {
                let ticket =
                    |(nonce, sig): &(u32, Vec<u8>)| net::TicketSenderParams { sender_nonce: *nonce, sig: sig.clone() };
                batch.tickets.iter().map(ticket).collect()
            })
            .unwrap_or_default(),
        expected_price: Some(price_to_wire(payment.expected_price)),
    }
}

/// Reads an offer; the expiration parameters stand inside it in offers, beside it in payments.
///
/// # Errors
/// [`WireError`] naming the first field that makes no sense.
pub fn params_from_wire(
    params: &net::TicketParams,
    expiration: Option<&net::TicketExpirationParams>,
) -> Result<TicketParams, WireError> {
    let expiration =
        expiration.or(params.expiration_params.as_ref()).ok_or(WireError::Missing("ticket expiration params"))?;
    let number = |bytes: &[u8], name| u256_from_minimal_bytes(bytes).ok_or(WireError::Invalid(name));
    let hash = |bytes: &[u8], name| {
        if bytes.len() == 32 { Ok(H256::from_slice(bytes)) } else { Err(WireError::Invalid(name)) }
    };
    let block = number(&params.expiration_block, "ticket expiration block")?;
    Ok(TicketParams {
        recipient: Address::from_bytes(&params.recipient).ok_or(WireError::Invalid("ticket recipient"))?,
        face_value: Wei(number(&params.face_value, "ticket face value")?),
        win_prob: WinProb(number(&params.win_prob, "ticket win prob")?),
        recipient_rand_hash: hash(&params.recipient_rand_hash, "ticket recipientRandHash")?,
        seed: number(&params.seed, "ticket seed")?,
        expiration_block: L1Block(u64::try_from(block).map_err(|_| WireError::Invalid("ticket expiration block"))?),
        creation_round: Round(
            u64::try_from(expiration.creation_round).map_err(|_| WireError::Invalid("ticket creation round"))?,
        ),
        creation_round_block_hash: hash(&expiration.creation_round_block_hash, "ticket creation round block hash")?,
    })
}

/// Writes an offer, expiration parameters inside.
#[must_use]
pub fn params_to_wire(params: &TicketParams) -> net::TicketParams {
    net::TicketParams {
        recipient: params.recipient.as_bytes().to_vec(),
        face_value: params.face_value.to_minimal_bytes(),
        win_prob: u256_to_minimal_bytes(params.win_prob.0),
        recipient_rand_hash: params.recipient_rand_hash.as_bytes().to_vec(),
        seed: u256_to_minimal_bytes(params.seed),
        expiration_block: u256_to_minimal_bytes(params.expiration_block.0.into()),
        expiration_params: Some(net::TicketExpirationParams {
            creation_round: i64::try_from(params.creation_round.0).unwrap_or(i64::MAX),
            creation_round_block_hash: params.creation_round_block_hash.as_bytes().to_vec(),
        }),
    }
}

/// Writes a price.
#[must_use]
pub fn price_to_wire(price: PricePerPixel) -> net::PriceInfo {
    let (price_per_unit, pixels_per_unit) = price.to_wire();
    net::PriceInfo { price_per_unit, pixels_per_unit, capability: 0, constraint: String::new() }
}

/// Reads a token.
#[must_use]
pub fn auth_token_from_wire(token: &net::AuthToken) -> AuthToken {
    AuthToken {
        token: token.token.clone(),
        session_id: token.session_id.clone(),
        expiration: Timestamp(token.expiration),
    }
}

/// Writes a token.
#[must_use]
pub fn auth_token_to_wire(token: &AuthToken) -> net::AuthToken {
    net::AuthToken { token: token.token.clone(), session_id: token.session_id.clone(), expiration: token.expiration.0 }
}

/// Writes what a node offers: every capability once, and the version whose behaviour it has.
#[must_use]
pub fn capabilities_to_wire(offered: &CapabilitySet, version: &str) -> net::Capabilities {
    net::Capabilities {
        bitstring: offered.to_bitstring(),
        mandatories: Vec::new(),
        capacities: offered.iter().map(|number| (number, 1)).collect(),
        version: version.to_owned(),
        constraints: Some(net::capabilities::Constraints::default()),
    }
}
