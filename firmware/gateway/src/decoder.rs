//! Decoding, as the gateway asks for it; the decoder lives elsewhere, behind a wall.
//!
//! What comes back from an orchestrator is hostile media. A gateway that wants to know what is in it has it decoded
//! by somebody who can afford to be taken over: the command line uses a jailed worker.
use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use livepeer::units::Pixels;

/// What a piece of media holds, found out by decoding it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded {
    /// Pictures.
    pub frames: u64,
    /// Their pixels.
    pub pixels: Pixels,
    /// MPEG-7 signature of the pictures; absent when they are too few or too small to have one.
    pub signature: Option<Bytes>,
}

/// Media could not be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// It is no good.
    #[error("does not decode: {0}")]
    Media(String),
    /// We cannot decode now; nothing is known about the media.
    #[error("cannot be decoded here: {0}")]
    Unavailable(String),
}

/// A decoder's answer, when it comes.
pub type Decoding<'a> = Pin<Box<dyn Future<Output = Result<Decoded, DecodeError>> + Send + 'a>>;

/// Whoever decodes media for the gateway.
pub trait Decoder: Send + Sync + std::fmt::Debug {
    /// Decodes a transport stream or an MP4 file to its end.
    fn decode(&self, media: Bytes) -> Decoding<'_>;
}
