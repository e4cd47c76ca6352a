//! Stateful V4L2 devices. What a driver is told goes into a list of controls; bit rates are in bits per second.
//! Pictures stay in the main processor's memory and are scaled there.
//!
//! The decoder is made anew for each segment: drivers differ in what they do when they are drained and go on. The
//! Raspberry Pi's encoder does not bear a constant bit rate with all its versions; the proof finds out.
//!
//! *Source:* media.md §1.2 and §1.3; names as in `sys/v4l2` of gst-plugins-good 1.22. Not run on a device.
use super::{Codec, DecoderRow, EncoderRow, KeyFrames, Life, Memory, QUIET, Row, ScalerRow, set};

const PACKAGE: &str = "gstreamer1.0-plugins-good";

const fn decoder(codec: Codec, parser: Option<&'static str>, element: &'static str) -> DecoderRow {
    let (memory, life) = (Memory::System, Life::Fresh);
    DecoderRow { codec, parser, element, package: PACKAGE, memory, life, settings: QUIET }
}

/// V4L2 devices.
pub(super) const V4L2: Row = Row {
    name: "v4l2",
    decoders: &[
        decoder(Codec::H264, Some("h264parse"), "v4l2h264dec"),
        decoder(Codec::H265, Some("h265parse"), "v4l2h265dec"),
        decoder(Codec::Vp8, None, "v4l2vp8dec"),
        decoder(Codec::Vp9, Some("vp9parse"), "v4l2vp9dec"),
    ],
    scaler: ScalerRow { element: None, memory: Memory::System, settings: &[] },
    encoders: &[
        EncoderRow {
            codec: Codec::H264,
            element: "v4l2h264enc",
            package: PACKAGE,
            memory: Memory::System,
            formats: &["NV12"],
            life: Life::Persistent,
            key_frames: KeyFrames::Event,
            bframes: 0,
            // The kernel's drivers want a level that fits; this one holds 1080p at 60 frames per second.
            wanted: "level=(string)4.2,profile={profile}",
            settings: &[set(
                "extra-controls",
                &[
                    "controls,video_bitrate_mode=1,video_bitrate={bit},repeat_sequence_header=1,h264_i_frame_period=3600",
                ],
            )],
        },
        EncoderRow {
            codec: Codec::H265,
            element: "v4l2h265enc",
            package: PACKAGE,
            memory: Memory::System,
            formats: &["NV12"],
            life: Life::Persistent,
            key_frames: KeyFrames::Event,
            bframes: 0,
            wanted: "",
            settings: &[set(
                "extra-controls",
                &["controls,video_bitrate_mode=1,video_bitrate={bit},repeat_sequence_header=1,video_gop_size=3600"],
            )],
        },
    ],
};
