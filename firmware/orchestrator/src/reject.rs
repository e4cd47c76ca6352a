//! Every refusal, with the status and the exact words a gateway gets. Nowhere else is that decided.
//!
//! Until the upload is accepted a refusal is an HTTP status; after it, a text inside the result.
//!
//! *Source:* livepeer-wire §1.5, §4.1, §5.5.
use axum::body::Body;
use axum::response::Response;
use http::{StatusCode, header};
use livepeer::credentials::AuthTokenError;
use livepeer::wire::WireError;

use crate::admission::UploadMemoryFull;
use crate::info::OfferError;
use crate::object_store::StoreError;
use crate::payment::PaymentError;
use crate::pool::TranscodeError;
use crate::session::{Busy, Capped};

/// Whose fault a refusal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The gateway's.
    Gateway,
    /// Ours.
    Ours,
    /// The chain's.
    Chain,
}

/// Why a request is refused before its upload is accepted.
#[derive(Debug, thiserror::Error)]
pub enum Rejection {
    /// The payment header is not base64.
    #[error("base64 decode error: {0}")]
    PaymentBase64(#[source] base64::DecodeError),
    /// The payment header is not a payment.
    #[error("protobuf unmarshal error: {0}")]
    PaymentProtobuf(#[source] prost::DecodeError),
    /// The segment header is absent, or neither base64 nor a segment.
    #[error("ErrorSegEncoding")]
    SegmentEncoding,
    /// The segment header says something that makes no sense.
    #[error(transparent)]
    Segment(#[from] WireError),
    /// The gateway did not sign this segment.
    #[error("ErrSegSig")]
    SegmentSignature,
    /// The job needs what we do not offer.
    #[error("incompatible capabilities")]
    Capabilities,
    /// The token is absent, not ours, or over.
    #[error(transparent)]
    Token(#[from] AuthTokenError),
    /// No slot is free.
    #[error(transparent)]
    Capped(#[from] Capped),
    /// No offer can be made to this gateway now.
    #[error("no offer can be made: {0}")]
    Offer(#[from] OfferError),
    /// The payment is refused.
    #[error(transparent)]
    Payment(#[from] PaymentError),
    /// The credit does not cover one ticket's worth.
    #[error("Insufficient balance")]
    InsufficientBalance,
    /// The upload is larger than any segment.
    #[error("upload is larger than {max} bytes")]
    TooLarge {
        /// The most it may be.
        max: u64,
    },
    /// The upload ended early or took too long.
    #[error("upload could not be read: {0}")]
    Upload(String),
    /// All memory for uploads is in use.
    #[error(transparent)]
    Memory(#[from] UploadMemoryFull),
    /// The segment is named by a URL, and could not be had from there.
    #[error("segment behind a URL: {0}")]
    Url(String),
    /// The upload is not what the gateway signed.
    #[error("upload does not have the hash that was signed")]
    Hash,
    /// We failed.
    #[error("internal: {0}")]
    Internal(String),
}

impl Rejection {
    /// The HTTP status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::PaymentBase64(_) | Self::PaymentProtobuf(_) => StatusCode::PAYMENT_REQUIRED,
            Self::SegmentEncoding
            | Self::Segment(_)
            | Self::SegmentSignature
            | Self::Capabilities
            | Self::Token(_)
            | Self::Capped(_)
            | Self::Hash => StatusCode::FORBIDDEN,
            Self::Payment(error) if error.is_internal() => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Payment(_) | Self::InsufficientBalance | Self::Url(_) => StatusCode::BAD_REQUEST,
            Self::Offer(_) | Self::TooLarge { .. } | Self::Upload(_) | Self::Memory(_) | Self::Internal(_) => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
        }
    }

    /// What the gateway is told.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Offer(_) | Self::TooLarge { .. } | Self::Upload(_) | Self::Memory(_) | Self::Internal(_) => {
                "Internal Server Error".to_owned()
            }
            Self::Hash => "Forbidden".to_owned(),
            Self::Url(_) => "BadRequest".to_owned(),
            Self::Payment(error) => error.text(),
            told => told.to_string(),
        }
    }

    /// Whose fault it is.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Offer(error) => error.fault(),
            Self::Payment(error) => error.fault(),
            Self::Capped(_) | Self::Memory(_) | Self::Internal(_) => Fault::Ours,
            _ => Fault::Gateway,
        }
    }

    /// A word for counting.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::PaymentBase64(_) | Self::PaymentProtobuf(_) => "encoding",
            Self::Payment(error) => error.kind(),
            Self::InsufficientBalance => "insufficient-balance",
            Self::Offer(_) => "no-offer",
            _ => "other",
        }
    }

    /// Does it concern money?
    #[must_use]
    pub fn concerns_payment(&self) -> bool {
        matches!(
            self,
            Self::PaymentBase64(_)
                | Self::PaymentProtobuf(_)
                | Self::Payment(_)
                | Self::InsufficientBalance
                | Self::Offer(_)
        )
    }

    /// The answer: plain text with a newline, as stock sends it.
    #[must_use]
    pub fn respond(&self) -> Response {
        let mut response = Response::new(Body::from(format!("{}\n", self.text())));
        *response.status_mut() = self.status();
        let plain = http::HeaderValue::from_static("text/plain; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, plain);
        response
    }
}

/// Why an accepted segment has no renditions; goes into the result as text.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The session's queue is full.
    #[error(transparent)]
    Busy(#[from] Busy),
    /// The renditions are to go to a store that did not take them.
    #[error("renditions could not be stored")]
    Store(#[source] StoreError),
    /// The transcoder's own words, or ours for what is nobody's business.
    #[error("{}", transcode_text(.0))]
    Transcode(#[from] TranscodeError),
    /// The result could not be signed.
    #[error("result could not be signed")]
    Sign(#[source] crate::sign::SignError),
    /// We failed.
    #[error("internal error")]
    Internal(String),
}

impl Failure {
    /// A word for counting.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Busy(_) => "busy",
            Self::Store(_) => "store",
            Self::Transcode(error) => error.kind(),
            Self::Sign(_) => "sign",
            Self::Internal(_) => "internal",
        }
    }

    /// Detail for our log, when the text does not say it all.
    #[must_use]
    pub fn detail(&self) -> String {
        match self {
            Self::Transcode(error) => error.to_string(),
            Self::Sign(error) => error.to_string(),
            Self::Internal(detail) => detail.clone(),
            Self::Store(error) => service::with_causes(error),
            Self::Busy(_) => self.to_string(),
        }
    }
}

/// What a gateway is told of a transcoder's failure. The stream's own faults keep the words on which a gateway does
/// not try elsewhere; ours are such that it does.
fn transcode_text(error: &TranscodeError) -> String {
    match error {
        TranscodeError::Job(fault) => fault.to_string(),
        TranscodeError::WorkerLost { .. } => "TranscoderFailed".to_owned(),
        TranscodeError::Busy => "OrchestratorBusy".to_owned(),
        TranscodeError::Nobody(nobody) => nobody.to_string(),
        TranscodeError::Timeout => "TranscoderTimeout".to_owned(),
        TranscodeError::Unfit { .. } | TranscodeError::Stopped => "OrchestratorCapped".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sandbox::message::JobError;

    #[test]
    fn a_refusal_says_what_the_network_expects_and_nothing_of_us() {
        let of = |rejection: Rejection| (rejection.status().as_u16(), rejection.text());
        assert_eq!(of(Rejection::SegmentSignature), (403, "ErrSegSig".into()));
        assert_eq!(of(Capped.into()), (403, "OrchestratorCapped".into()));
        assert_eq!(of(Rejection::Hash), (403, "Forbidden".into()));
        assert_eq!(of(AuthTokenError::Expired.into()), (403, "expired auth token".into()));
        assert_eq!(of(Rejection::InsufficientBalance), (400, "Insufficient balance".into()));
        assert_eq!(of(WireError::Invalid("duration").into()), (403, "invalid duration".into()));
        assert_eq!(of(Rejection::Internal("disk /var/x".into())), (500, "Internal Server Error".into()));
        assert_eq!(of(Rejection::Url("10.0.0.1 is ours".into())), (400, "BadRequest".into()));
    }

    #[test]
    fn the_streams_own_fault_keeps_its_words() {
        assert_eq!(Failure::from(TranscodeError::from(JobError::NoKeyframes)).to_string(), "No keyframes in input");
        let lost = TranscodeError::WorkerLost { cause: "killed by signal 31 in /usr".into() };
        assert_eq!(Failure::from(lost).to_string(), "TranscoderFailed");
    }
}
