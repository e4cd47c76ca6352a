//! The codecs that rows of the table are about.
use livepeer::profile::VideoCodec;

/// A way to code pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Codec {
    /// H.264.
    H264,
    /// HEVC.
    H265,
    /// VP8.
    Vp8,
    /// VP9.
    Vp9,
    /// AV1.
    Av1,
}

impl Codec {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::H264, Self::H265, Self::Vp8, Self::Vp9, Self::Av1];

    /// Its name in what a worker proves, as in `decode-h264`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::H264 => "h264",
            Self::H265 => "h265",
            Self::Vp8 => "vp8",
            Self::Vp9 => "vp9",
            Self::Av1 => "av1",
        }
    }

    /// How its coded pictures are described to elements, one picture to a buffer.
    pub(crate) fn caps(self) -> &'static str {
        match self {
            Self::H264 => "video/x-h264,stream-format=byte-stream,alignment=au",
            Self::H265 => "video/x-h265,stream-format=byte-stream,alignment=au",
            Self::Vp8 => "video/x-vp8",
            Self::Vp9 => "video/x-vp9",
            Self::Av1 => "video/x-av1,stream-format=obu-stream,alignment=tu",
        }
    }

    /// Of a source's track; `None` for one that nobody knows.
    #[must_use]
    pub fn of_track(codec: mpegts::VideoCodec) -> Option<Self> {
        match codec {
            mpegts::VideoCodec::H264 => Some(Self::H264),
            mpegts::VideoCodec::H265 => Some(Self::H265),
            mpegts::VideoCodec::Vp8 => Some(Self::Vp8),
            mpegts::VideoCodec::Vp9 => Some(Self::Vp9),
            mpegts::VideoCodec::Av1 => Some(Self::Av1),
            mpegts::VideoCodec::Other(_) => None,
        }
    }
}

impl From<VideoCodec> for Codec {
    fn from(codec: VideoCodec) -> Self {
        match codec {
            VideoCodec::H264 => Self::H264,
            VideoCodec::H265 => Self::H265,
            VideoCodec::Vp8 => Self::Vp8,
            VideoCodec::Vp9 => Self::Vp9,
        }
    }
}
