//! What a segment is wrapped in: a transport stream or an MP4.
use mpegts::{Error, Ticks, VideoTrack, demux};
use sandbox::message::JobError;

use crate::mp4;
use crate::pipeline::Failure;
use crate::sound::Sound;

/// The tracks of a segment: the first of each kind.
#[derive(Debug)]
pub(crate) struct Tracks {
    pub(crate) video: Option<VideoTrack>,
    pub(crate) audio: Option<Sound>,
    /// Pictures before this moment are decoded, since others need them, but not shown.
    pub(crate) shown_from: Ticks,
}

impl Default for Tracks {
    fn default() -> Self {
        Self { video: None, audio: None, shown_from: Ticks(i64::MIN) }
    }
}

/// Takes a segment apart.
pub(crate) fn read(input: &[u8]) -> Result<Tracks, Failure> {
    if mp4::is_mp4(input) {
        return mp4::read(input);
    }
    match demux(input) {
        Ok(found) => Ok(Tracks { video: found.video, audio: found.audio.map(Sound::Packets), ..Tracks::default() }),
        Err(e @ Error::TooManyUnits) => Err(Failure::new(JobError::InvalidVideo, e.to_string())),
        Err(e @ (Error::NotTransportStream | Error::NoProgram)) => {
            Err(Failure::new(JobError::UnknownContainer, e.to_string()))
        }
    }
}
