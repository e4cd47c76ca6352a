//! What a segment is wrapped in, and what a rendition is wrapped in.
use mpegts::{AudioTrack, Error, VideoTrack, demux};
use sandbox::message::JobError;

use crate::pipeline::Failure;

/// The tracks of a segment.
pub(crate) type Tracks = (Option<VideoTrack>, Option<AudioTrack>);

/// Takes a segment apart.
pub(crate) fn read(input: &[u8]) -> Result<Tracks, Failure> {
    match demux(input) {
        Ok(found) => Ok((found.video, found.audio)),
        Err(e @ Error::TooManyUnits) => Err(Failure::new(JobError::InvalidVideo, e.to_string())),
        Err(e @ (Error::NotTransportStream | Error::NoProgram)) => {
            Err(Failure::new(JobError::UnknownContainer, e.to_string()))
        }
    }
}
