//! The whole interface between the node and a worker: jobs go in, reports come out.
//!
//! Walk 4, steps 3 and 4; walk 1, steps 7 to 9. Messages are small and travel as one framed record each;
//! media bytes never do: they are passed as sealed memfds beside the message, in the order the message
//! says. A worker is not trusted: whoever reads a [`Report`] checks it against the job.
use livepeer::profile::Profile;
use livepeer::units::Pixels;
use serde::{Deserialize, Serialize};

/// What the node may ask of a worker. Descriptors: one, the segment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Job {
    /// Chosen by the node, echoed in the report.
    pub id: u64,
    /// Renditions wanted, in the order in which they are to be reported; 1 to 10.
    pub profiles: Vec<Profile>,
    /// Part of the segment to keep, or all of it.
    pub clip: Option<Clip>,
    /// What the job may use at most.
    pub limits: Limits,
    /// Threads the larger encoders may use; 1 on a loaded box.
    pub threads: u32,
    /// Written into the container's metadata, e.g. `Livepeer Transcoder 0.1.0 (offchain)`.
    pub service_provider: String,
    /// Whose pictures get an MPEG-7 video signature.
    #[serde(default)]
    pub signatures: Signatures,
    /// Did an earlier segment of the stream have pictures? Then this one may come without: its renditions are
    /// its sound. A stream that begins without is refused.
    #[serde(default)]
    pub video_seen: bool,
}

/// Whose pictures get an MPEG-7 video signature, the network's "perceptual hash".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Signatures {
    /// Nobody's.
    #[default]
    None,
    /// Those of each rendition, as they go into its encoder: one signature per profile, in order.
    Renditions,
    /// Those of the source, as decoded: one signature, and no profile may be asked for.
    Source,
}

impl Signatures {
    /// Signatures that come back from a job with so many profiles.
    #[must_use]
    pub fn count(self, profiles: usize) -> usize {
        match self {
            Self::None => 0,
            Self::Renditions => profiles,
            Self::Source => 1,
        }
    }
}

/// A window of a segment, in milliseconds from its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clip {
    /// First millisecond kept.
    pub from_ms: u64,
    /// First millisecond not kept.
    pub to_ms: u64,
}

/// Bounds of one job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Largest rendition, in bytes.
    pub max_output_bytes: u64,
    /// Longest content, in milliseconds.
    pub max_duration_ms: u64,
    /// Wall time after which the node kills the worker, in milliseconds; the worker gives up by itself a little earlier.
    pub deadline_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_output_bytes: 300_000_000, max_duration_ms: 300_000, deadline_ms: 30_000 }
    }
}

/// What a worker may say.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Report {
    /// First message: the worker is sealed in and has proved what works here. No descriptors.
    Ready(Ready),
    /// The job is done. Descriptors: one sealed memfd per rendition, in order, then one per signature.
    Done(Done),
    /// The job failed; the worker is fit for another one. No descriptors.
    Failed {
        /// The job's id.
        id: u64,
        /// What the gateway is told.
        error: JobError,
        /// Detail for our log, bounded, never shown to a peer.
        detail: String,
    },
    /// Only message of a worker that is started to be thrown away: the engine works. No descriptors; it exits next.
    Proof(Proof),
    /// The worker cannot start, for a reason a person can act on (a missing plugin, say); it exits next.
    Unfit {
        /// What is missing and what to do.
        reason: String,
    },
}

/// What a worker found out about itself before it takes a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ready {
    /// Name of the engine it will use, e.g. `software`.
    pub engine: String,
    /// Decode and encode abilities that were proved by doing them, e.g. `decode-h264`, `encode-h264`.
    pub proved: Vec<String>,
    /// Engines and abilities refused, each with the reason.
    pub refused: Vec<(String, String)>,
    /// Layers of the jail in force, e.g. `user-namespace`, `landlock`, `seccomp`.
    pub layers: Vec<String>,
    /// Layers that could not be had, each with the reason.
    pub missing_layers: Vec<(String, String)>,
    /// Version of the media framework.
    pub framework: String,
}

/// What an engine did in a worker that was thrown away afterwards.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// Name of the engine, e.g. `nvidia+software`.
    pub engine: String,
    /// Version of the media framework.
    pub framework: String,
    /// Abilities that were proved by doing them, as in [`Ready`].
    pub proved: Vec<String>,
    /// Abilities refused, each with the reason.
    pub refused: Vec<(String, String)>,
    /// Encoders that could be open at a time, of an engine that encodes in silicon; 32 is where counting stops.
    pub sessions: Option<u32>,
}

/// A finished job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// The job's id.
    pub id: u64,
    /// One entry per profile asked for, in order.
    pub renditions: Vec<Rendition>,
    /// Frames the decoder gave.
    pub decoded_frames: u64,
    /// Σ width × height of the decoded frames.
    pub decoded_pixels: Pixels,
    /// Length of the content, in milliseconds.
    pub duration_ms: u64,
    /// Wall time the job took inside the worker, in milliseconds.
    pub took_ms: u64,
    /// Processor time the job took, in milliseconds.
    pub cpu_ms: u64,
    /// Peak resident memory of the worker so far, in bytes.
    pub peak_rss: u64,
    /// Length of each signature asked for, in order; 0 where the pictures have none.
    #[serde(default)]
    pub signatures: Vec<u64>,
    /// What the processor time went into.
    #[serde(default)]
    pub spent: Spent,
}

/// Processor time of a job by what it was for, in microseconds. Only that of the worker's own threads: with one thread to
/// a job codecs have no others, and what is missing to [`Done::cpu_ms`] is neither of the three.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Spent {
    /// Decoding.
    pub decode_us: u64,
    /// Scaling and converting.
    pub scale_us: u64,
    /// Encoding.
    pub encode_us: u64,
}

/// One encoded output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rendition {
    /// Size of its (last) frames.
    pub width: u32,
    /// Height of its (last) frames.
    pub height: u32,
    /// Frames in it.
    pub frames: u64,
    /// Σ width × height of its frames: what is billed and what a gateway verifies.
    pub pixels: Pixels,
    /// Length of the file.
    pub bytes: u64,
}

/// Why a job failed, in the words a gateway reacts to.
///
/// *Source:* livepeer-wire §1.5: these exact texts are the stream's fault and are not retried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
pub enum JobError {
    /// Chroma or depth we cannot decode.
    #[error("Unsupported input pixel format")]
    UnsupportedPixelFormat,
    /// More renditions than allowed.
    #[error("Too many outputs")]
    TooManyOutputs,
    /// A codec we have no decoder for.
    #[error("Unsupported input codec")]
    UnsupportedCodec,
    /// Video without a single key frame.
    #[error("No keyframes in input")]
    NoKeyframes,
    /// More than 25 encoded frames per decoded one.
    #[error("Encoded frames runaway")]
    Runaway,
    /// Neither MPEG-TS nor MP4, or nothing readable in it.
    #[error("Demuxer not found")]
    UnknownContainer,
    /// The container asked for does not carry the codec asked for.
    #[error("Muxer not found")]
    MuxerNotFound,
    /// No encoder for the codec asked for.
    #[error("Encoder not found")]
    EncoderNotFound,
    /// A request that makes no sense.
    #[error("Invalid argument")]
    InvalidArgument,
    /// A size nobody can encode.
    #[error("TranscoderInvalidResolution")]
    InvalidResolution,
    /// No video, or nothing of it decodes.
    #[error("TranscoderInvalidVideo")]
    InvalidVideo,
    /// A container nobody knows.
    #[error("TranscoderUnrecognizedFormat")]
    UnrecognizedFormat,
    /// A profile nobody knows.
    #[error("TranscoderUnrecognizedProfile")]
    UnrecognizedProfile,
    /// A GOP below −1.
    #[error("TranscoderInvalidGOP")]
    InvalidGop,
    /// Content longer than the limit.
    #[error("TranscoderInvalidDuration")]
    InvalidDuration,
    /// A rendition grew over its limit.
    #[error("TranscoderOutputTooLarge")]
    OutputTooLarge,
    /// The deadline passed.
    #[error("TranscoderTimeout")]
    Timeout,
    /// Our own fault; another try may work.
    #[error("TranscoderFailed")]
    Internal,
}
