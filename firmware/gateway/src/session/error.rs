//! Why a segment did not come back, and whose fault that is.
//!
//! *Source:* livepeer-wire §1.5.
use http::StatusCode;
use livepeer::address::Address;
use livepeer::signature::SignatureError;
use livepeer::units::Pixels;

use crate::exact::Overflow;
use crate::gateway::Refusal;
use crate::http::HttpError;
use crate::offer::OfferError;
use crate::purse::PurseError;
use crate::signer::SignerError;
use crate::verify::VerifyError;

/// Texts that say the stream itself is at fault: no retry, nobody to blame.
const STREAMS_FAULT: [&str; 19] = [
    "Unsupported input pixel format",
    "Error initializing filtergraph",
    "Too many outputs",
    "Unsupported input codec",
    "No keyframes in input",
    "Unrecoverable state, restart process",
    "Encoded frames runaway",
    "Decoder not found",
    "Demuxer not found",
    "Encoder not found",
    "Muxer not found",
    "Option not found",
    "Invalid argument",
    "TranscoderInvalidResolution",
    "TranscoderInvalidVideo",
    "TranscoderUnrecognizedFormat",
    "TranscoderUnrecognizedProfile",
    "TranscoderInvalidGOP",
    "TranscoderIncompatibleDevices",
];

/// Why a segment did not come back.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The session could not be renewed.
    #[error("renew session")]
    Renew(#[from] Refusal),
    /// The orchestrator's new terms are not acceptable.
    #[error(transparent)]
    Offer(#[from] OfferError),
    /// The segment cannot be paid for.
    #[error(transparent)]
    Purse(#[from] PurseError),
    /// The sums do not fit.
    #[error(transparent)]
    Overflow(#[from] Overflow),
    /// We could not sign.
    #[error(transparent)]
    Signer(#[from] SignerError),
    /// The upload failed.
    #[error("upload")]
    NotSent(#[source] HttpError),
    /// The orchestrator refused the segment.
    #[error("{text} (status {status})")]
    Refused {
        /// Its status.
        status: StatusCode,
        /// Its words.
        text: String,
    },
    /// The orchestrator could not transcode it, in its words.
    #[error("{0}")]
    Failed(String),
    /// The result is not one.
    #[error("result cannot be read")]
    Malformed(#[from] prost::DecodeError),
    /// The result has not one rendition per profile, or one without a place or a count.
    #[error("result does not have one usable rendition per profile")]
    Renditions,
    /// A rendition could not be fetched.
    #[error("rendition {profile}")]
    Download {
        /// Of this profile.
        profile: String,
        /// Why.
        #[source]
        source: HttpError,
    },
    /// A rendition is empty.
    #[error("rendition {0} is empty")]
    Empty(String),
    /// The result's signature has no valid form.
    #[error("result's signature")]
    SignatureForm(#[from] SignatureError),
    /// The result was signed by somebody else, or for something else.
    #[error("result is not signed by {expected}")]
    SignedByOther {
        /// Who should have.
        expected: Address,
    },
    /// The pixels reported are not those delivered.
    #[error("rendition {profile} has {counted} pixels, {reported} were reported")]
    Pixels {
        /// Of this profile.
        profile: String,
        /// What we counted.
        counted: Pixels,
        /// What we would have been charged for.
        reported: Pixels,
    },
    /// A perceptual hash that was asked for could not be fetched.
    #[error("perceptual hash of rendition {profile}")]
    Hash {
        /// Of this profile.
        profile: String,
        /// Why.
        #[source]
        source: HttpError,
    },
    /// What came back is not what was asked for.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// A rendition cannot be read for counting.
    #[error("rendition {0} is no readable H.264 transport stream")]
    Unreadable(String),
}

impl SessionError {
    /// Was something claimed that is not so?
    #[must_use]
    pub fn is_a_false_claim(&self) -> bool {
        match self {
            Self::Verify(error) => error.is_a_false_claim(),
            Self::SignedByOther { .. } | Self::SignatureForm(_) | Self::Pixels { .. } | Self::Unreadable(_) => true,
            _ => false,
        }
    }

    /// Is it the stream's own fault? Then no other orchestrator will do better.
    #[must_use]
    pub fn is_the_streams_fault(&self) -> bool {
        match self {
            Self::Failed(text) | Self::Refused { text, .. } => STREAMS_FAULT.contains(&text.as_str()),
            _ => false,
        }
    }
}
