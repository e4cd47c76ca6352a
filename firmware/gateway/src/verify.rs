//! Is what came back what was asked for? Each rendition is decoded and held against the source.
//!
//! ```text
//! pixels      as decoded = as reported = as charged
//! pictures    those of the source, by their MPEG-7 signatures; and as the orchestrator's own hash has them
//! sound       the source's packets, as they were
//! ```
//! *Source:* livepeer-wire §1.6, §7.7; media §3.6 (thresholds, and how much may be missing at the edges).
use std::collections::BTreeMap;
use std::path::PathBuf;

use bytes::Bytes;
use livepeer::units::Pixels;
use mpegts::{AudioTrack, demux};
use video_signature::{Match, Signature};

use crate::decoder::{DecodeError, Decoded, Decoder};

/// Frames of sound that may be more or less than in the source, and as many that may have no partner there: what the
/// stock gateway lets pass.
const SOUND_SLACK: usize = 10;
/// Clips of fewer frames match nothing.
const FEWEST_FRAMES: usize = 3;
/// ADTS AAC in a program table.
const AAC: u8 = 0x0f;

/// A rendition and what was said of it.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) profile: String,
    pub(crate) path: PathBuf,
    pub(crate) pixels: Pixels,
    /// The orchestrator's own signature of its pictures.
    pub(crate) hash: Option<Bytes>,
}

/// What came back is not what was asked for, or we cannot tell.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The source cannot be decoded here, so nothing can be held against it.
    #[error("the source")]
    Source(#[source] DecodeError),
    /// A rendition cannot be decoded.
    #[error("rendition {profile}")]
    Rendition {
        /// Of this profile.
        profile: String,
        /// Why.
        #[source]
        source: DecodeError,
    },
    /// A rendition is gone from the disk.
    #[error("rendition {profile} cannot be read")]
    Disk {
        /// Of this profile.
        profile: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The pixels reported are not those decoded.
    #[error("rendition {profile} decodes to {decoded} pixels, {reported} were reported")]
    Pixels {
        /// Of this profile.
        profile: String,
        /// What we counted.
        decoded: Pixels,
        /// What we were charged for.
        reported: Pixels,
    },
    /// A rendition shows something else.
    #[error("rendition {profile} does not show the pictures of the source")]
    Pictures {
        /// Of this profile.
        profile: String,
    },
    /// The orchestrator's own hash is no signature, or one of other pictures.
    #[error("the perceptual hash of rendition {profile} is not of its pictures")]
    Hash {
        /// Of this profile.
        profile: String,
    },
    /// The sound was touched.
    #[error("rendition {profile} has other sound than the source: {unlike} of {frames} frames")]
    Sound {
        /// Of this profile.
        profile: String,
        /// Frames without a partner.
        unlike: usize,
        /// Frames in the rendition.
        frames: usize,
    },
}

impl VerifyError {
    /// Is it the orchestrator's doing?
    pub(crate) fn is_a_false_claim(&self) -> bool {
        match self {
            Self::Source(_) | Self::Disk { .. } => false,
            Self::Rendition { source, .. } => matches!(source, DecodeError::Media(_)),
            Self::Pixels { .. } | Self::Pictures { .. } | Self::Hash { .. } | Self::Sound { .. } => true,
        }
    }
}

/// Holds every rendition against the source and against what was claimed.
pub(crate) async fn verify(decoder: &dyn Decoder, source: &Bytes, claims: Vec<Claim>) -> Result<(), VerifyError> {
    let pictures = decoder.decode(source.clone()).await.map_err(VerifyError::Source)?;
    let pictures = signature(&pictures);
    let sound = sound_of(source);
    for Claim { profile, path, pixels, hash } in claims {
        let read = tokio::fs::read(&path).await;
        let media = Bytes::from(read.map_err(|source| VerifyError::Disk { profile: profile.clone(), source })?);
        let decoded = decoder.decode(media.clone()).await;
        let decoded = decoded.map_err(|source| VerifyError::Rendition { profile: profile.clone(), source })?;
        if decoded.pixels != pixels {
            return Err(VerifyError::Pixels { profile, decoded: decoded.pixels, reported: pixels });
        }
        let ours = signature(&decoded);
        if let (Some(source), Some(ours)) = (&pictures, &ours)
            && source.compare(ours) == Match::None
        {
            return Err(VerifyError::Pictures { profile });
        }
        if let Some(hash) = hash {
            let theirs = Signature::read(&hash);
            let agrees = match (&theirs, &ours) {
                (Ok(theirs), Some(ours)) => theirs.size() == ours.size() && theirs.compare(ours) != Match::None,
                (Ok(_), None) => true,
                (Err(_), _) => false,
            };
            if !agrees {
                return Err(VerifyError::Hash { profile });
            }
        }
        check_sound(&profile, &sound, &sound_of(&media))?;
    }
    Ok(())
}

/// The signature of what was decoded, when it is long enough to be compared.
fn signature(decoded: &Decoded) -> Option<Signature> {
    let read = Signature::read(decoded.signature.as_ref()?).ok()?;
    (read.frames() >= FEWEST_FRAMES).then_some(read)
}

/// The frames of sound in a transport stream. How they are put into packets is the muxer's business.
fn sound_of(stream: &[u8]) -> Vec<Vec<u8>> {
    let track = demux(stream).ok().and_then(|demuxed| demuxed.audio);
    track.map(|track| frames(&track)).unwrap_or_default()
}

fn frames(track: &AudioTrack) -> Vec<Vec<u8>> {
    if track.info.stream_type != AAC {
        return track.packets.iter().map(|packet| packet.data.clone()).collect();
    }
    let whole: Vec<u8> = track.packets.iter().flat_map(|packet| packet.data.iter().copied()).collect();
    let mut rest = whole.as_slice();
    let mut frames = Vec::new();
    while let Some(&[a, b, _, d, e, f, _]) = rest.first_chunk::<7>() {
        let length = usize::from(d & 3) << 11 | usize::from(e) << 3 | usize::from(f >> 5);
        let is_frame = a == 0xff && b & 0xf6 == 0xf0 && length >= 7;
        let Some((frame, tail)) = rest.split_at_checked(if is_frame { length } else { 1 }) else { break };
        if is_frame {
            frames.push(frame.to_vec());
        }
        rest = tail;
    }
    frames
}

fn check_sound(profile: &str, source: &[Vec<u8>], rendition: &[Vec<u8>]) -> Result<(), VerifyError> {
    let mut left: BTreeMap<&[u8], usize> = BTreeMap::new();
    for frame in source {
        *left.entry(frame).or_default() += 1;
    }
    let mut unlike = 0;
    for frame in rendition {
        match left.get_mut(frame.as_slice()).filter(|count| **count > 0) {
            Some(count) => *count -= 1,
            None => unlike += 1,
        }
    }
    if source.len().abs_diff(rendition.len()) > SOUND_SLACK || unlike >= SOUND_SLACK {
        return Err(VerifyError::Sound { profile: profile.to_owned(), unlike, frames: rendition.len() });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
