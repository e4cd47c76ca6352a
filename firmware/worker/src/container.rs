//! What a segment is wrapped in: a transport stream or an MP4.
use mpegts::{AudioTrack, Error, VideoTrack, demux};
use sandbox::message::JobError;

use crate::mp4;
use crate::pipeline::Failure;

/// The tracks of a segment.
pub(crate) type Tracks = (Option<VideoTrack>, Option<AudioTrack>);

/// Takes a segment apart.
pub(crate) fn read(input: &[u8]) -> Result<Tracks, Failure> {
    if mp4::is_mp4(input) {
        return mp4::read(input);
    }
    match demux(input) {
        Ok(found) => Ok((found.video, found.audio)),
        Err(e @ Error::TooManyUnits) => Err(Failure::new(JobError::InvalidVideo, e.to_string())),
        Err(e @ (Error::NotTransportStream | Error::NoProgram)) => {
            Err(Failure::new(JobError::UnknownContainer, e.to_string()))
        }
    }
}
