//! Profiles: the recipe of one rendition, as a gateway asks for it, and the rules that turn it into pixels.
//!
//! *Source:* `VideoProfile` of the wire protocol; size rule of the stock transcoder.
use serde::{Deserialize, Serialize};

use crate::units::{BitsPerSecond, FrameRate, Pixels};

/// The container a rendition is delivered in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Container {
    /// MPEG transport stream, `.ts`.
    #[default]
    MpegTs,
    /// MP4 with its index in front, `.mp4`.
    Mp4,
}

impl Container {
    /// The file name extension, without the dot.
    #[must_use]
    pub fn extension(self) -> &'static str {
        match self {
            Self::MpegTs => "ts",
            Self::Mp4 => "mp4",
        }
    }

    /// The media type under which a rendition is served.
    #[must_use]
    pub fn media_type(self) -> &'static str {
        match self {
            Self::MpegTs => "video/mp2t",
            Self::Mp4 => "video/mp4",
        }
    }
}

/// The video codec of a rendition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum VideoCodec {
    /// H.264 / AVC.
    #[default]
    H264,
    /// H.265 / HEVC.
    H265,
    /// VP8.
    Vp8,
    /// VP9.
    Vp9,
}

impl VideoCodec {
    /// Smallest and largest frame the codec's hardware encoders accept, which the network applies to
    /// software as well: `((min_width, min_height), (max_width, max_height))`.
    #[must_use]
    pub fn size_limits(self) -> ((u32, u32), (u32, u32)) {
        match self {
            Self::H264 => ((146, 50), (4096, 4096)),
            Self::H265 => ((132, 40), (8192, 8192)),
            Self::Vp8 | Self::Vp9 => ((16, 16), (8192, 8192)),
        }
    }

    /// Is a frame of this size within [`size_limits`](Self::size_limits)? A very long and narrow source leads out of them.
    #[must_use]
    pub fn takes(self, size: (u32, u32)) -> bool {
        let ((min_w, min_h), (max_w, max_h)) = self.size_limits();
        (min_w..=max_w).contains(&size.0) && (min_h..=max_h).contains(&size.1)
    }
}

/// The H.264 profile a rendition must conform to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum CodecProfile {
    /// Whatever the encoder prefers.
    #[default]
    EncoderDefault,
    /// Baseline: no B-frames, no CABAC.
    H264Baseline,
    /// Main.
    H264Main,
    /// High.
    H264High,
    /// Constrained high: no B-frames.
    H264ConstrainedHigh,
}

/// How far apart key frames are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Gop {
    /// The encoder decides; every segment still starts with an IDR.
    #[default]
    EncoderDefault,
    /// A key frame at least every so many milliseconds.
    Millis(u32),
    /// Key frames only.
    Intra,
}

/// The recipe of one rendition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// Names the output and is what the gateway's signature covers.
    pub name: String,
    /// Requested width in pixels; see [`output_size`] for what it means.
    pub width: u32,
    /// Requested height in pixels.
    pub height: u32,
    /// Constant bit rate of the video.
    pub bitrate: BitsPerSecond,
    /// Fixed frame rate, or `None` to keep the source's timestamps.
    pub fps: Option<FrameRate>,
    /// Container of the rendition.
    pub container: Container,
    /// Codec of the rendition.
    pub codec: VideoCodec,
    /// H.264 profile.
    pub codec_profile: CodecProfile,
    /// Key frame distance.
    pub gop: Gop,
    /// Constant quality (CRF-like, 1..=63), or 0 for constant bit rate.
    pub quality: u32,
}

/// The size in pixels of a rendition of a `source` of this size.
///
/// The request is not a box but a long side: the larger of the requested sides is applied to the larger
/// side of the source, and the other side follows the aspect, rounded to the nearest even number. So a
/// portrait source makes a portrait rendition. Both are clamped to what the codec can encode.
///
/// *Source:* livepeer-wire §7.2, vector `resize_rule`.
#[must_use]
pub fn output_size(source: (u32, u32), requested: (u32, u32), codec: VideoCodec) -> (u32, u32) {
    let ((min_w, min_h), (max_w, max_h)) = codec.size_limits();
    let long = requested.0.clamp(min_w, max_w).max(requested.1.clamp(min_h, max_h));
    let (iw, ih) = (u64::from(source.0.max(1)), u64::from(source.1.max(1)));
    let follow = |side: u64, num: u64, den: u64| nearest_even(side * num, den);
    let floor_even = |side: u64| side & !1;
    let (w, h) = if iw >= ih {
        let m = u64::from(long);
        if m * ih >= u64::from(min_h) * iw {
            (floor_even(m), follow(floor_even(m), ih, iw))
        } else {
            (follow(u64::from(min_h), iw, ih), u64::from(min_h))
        }
    } else {
        let m = u64::from(long);
        if m * iw >= u64::from(min_w) * ih {
            (follow(floor_even(m), iw, ih), floor_even(m))
        } else {
            (u64::from(min_w), follow(u64::from(min_w), ih, iw))
        }
    };
    let narrow = |side: u64| u32::try_from(side).unwrap_or(u32::MAX);
    (narrow(w), narrow(h))
}

/// `numerator / denominator`, halved, rounded to the nearest integer (half up), doubled.
fn nearest_even(numerator: u64, denominator: u64) -> u64 {
    let twice = denominator.saturating_mul(2);
    numerator.saturating_add(denominator).checked_div(twice).unwrap_or(0) * 2
}

/// Pixels of `frames` frames of this size.
#[must_use]
pub fn pixels(size: (u32, u32), frames: u64) -> Pixels {
    Pixels((u64::from(size.0) * u64::from(size.1)).saturating_mul(frames))
}

/// A ready-made profile by its network name (`P720p30fps16x9`) or short name (`720p`).
///
/// Short names keep the source's frame rate. Returns `None` for a name nobody knows.
///
/// *Source:* preset table of the reference gateway, livepeer-wire §7.5.
#[must_use]
pub fn preset(name: &str) -> Option<Profile> {
    let (width, height, kbps, fps) = match name {
        "144p" => (256, 144, 400, 0),
        "240p" => (426, 240, 600, 0),
        "360p" => (640, 360, 1200, 0),
        "480p" => (854, 480, 2000, 0),
        "576p" => (1024, 576, 1500, 0),
        "720p" => (1280, 720, 4000, 0),
        "1080p" => (1920, 1080, 6000, 0),
        "P144p30fps16x9" => (256, 144, 400, 30),
        "P240p25fps16x9" => (426, 240, 600, 25),
        "P240p30fps16x9" => (426, 240, 600, 30),
        "P240p30fps4x3" => (320, 240, 600, 30),
        "P360p25fps16x9" => (640, 360, 1200, 25),
        "P360p30fps16x9" => (640, 360, 1200, 30),
        "P360p30fps4x3" => (480, 360, 1000, 30),
        "P576p25fps16x9" => (1024, 576, 1500, 25),
        "P576p30fps16x9" => (1024, 576, 1500, 30),
        "P720p25fps16x9" => (1280, 720, 3500, 25),
        "P720p30fps16x9" => (1280, 720, 4000, 30),
        "P720p30fps4x3" => (960, 720, 3500, 30),
        "P720p60fps16x9" => (1280, 720, 6000, 60),
        _ => return None,
    };
    Some(Profile {
        name: name.to_owned(),
        width,
        height,
        bitrate: BitsPerSecond(kbps * 1000),
        fps: (fps > 0).then_some(FrameRate { num: fps, den: 1 }),
        container: Container::MpegTs,
        codec: VideoCodec::H264,
        codec_profile: CodecProfile::EncoderDefault,
        gop: Gop::EncoderDefault,
        quality: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_portrait_source_makes_a_portrait_rendition() {
        assert_eq!(output_size((1080, 1920), (1280, 720), VideoCodec::H264), (720, 1280));
    }

    #[test]
    fn a_hostile_size_cannot_overflow() {
        let size = output_size((u32::MAX, 1), (u32::MAX, u32::MAX), VideoCodec::H264);
        assert!(size.0 >= 146 && size.1 >= 50);
    }
}
