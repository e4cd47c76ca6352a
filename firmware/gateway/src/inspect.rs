//! A look at a rendition without decoding it: size, frames, codecs.
//!
//! Every coded picture has one access unit, so frames × size is the pixel count an honest orchestrator reports.
use livepeer::units::Pixels;
use mpegts::{VideoCodec, demux, h264};

/// ADTS AAC in a program table.
const AAC: u8 = 0x0f;

/// What a transport stream holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspected {
    /// Width of the pictures.
    pub width: u32,
    /// Height of the pictures.
    pub height: u32,
    /// How many there are.
    pub frames: u64,
    /// RFC 6381 names, for a playlist.
    pub codecs: String,
}

impl Inspected {
    /// All pixels of all pictures.
    #[must_use]
    pub fn pixels(&self) -> Pixels {
        livepeer::profile::pixels((self.width, self.height), self.frames)
    }
}

/// Looks at a transport stream with H.264 video; `None` for anything else.
#[must_use]
pub fn inspect(stream: &[u8]) -> Option<Inspected> {
    let demuxed = demux(stream).ok()?;
    let video = demuxed.video.filter(|video| video.codec == VideoCodec::H264)?;
    let sps = video.units.iter().find_map(|unit| h264::find_sps(&unit.data))?;
    let mut codecs = format!("avc1.{:02x}{:02x}{:02x}", sps.profile, sps.constraints, sps.level);
    if demuxed.audio.is_some_and(|audio| audio.info.stream_type == AAC) {
        codecs.push_str(",mp4a.40.2");
    }
    Some(Inspected {
        width: sps.width,
        height: sps.height,
        frames: u64::try_from(video.units.len()).unwrap_or(u64::MAX),
        codecs,
    })
}
