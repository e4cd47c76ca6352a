//! Jetson boards, by NVIDIA's own elements. Orin Nano has no encoder: there the processor encodes what decoder and
//! scaler made.
//!
//! Bit rates are in bits per second. Key frames are asked for by a signal: the framework's event is not heeded by all
//! versions. The decoder is made anew for each segment: whether it gives its last pictures when a new stream is
//! announced is not known of NVIDIA's branch of it, and lost pictures are worse than milliseconds.
//!
//! *Source:* media.md §1.1 and §1.2, public pipelines; confirm with `gst-inspect-1.0` on a board. Not run on a board.
use super::{Codec, DecoderRow, EncoderRow, KeyFrames, Life, Memory, Row, ScalerRow, Setting, set};

const PACKAGE: &str = "nvidia-l4t-gstreamer";

const fn decoder(codec: Codec, parser: Option<&'static str>) -> DecoderRow {
    const SETTINGS: &[Setting] =
        &[set("enable-max-performance", &["true"]).if_there(), set("num-extra-surfaces", &["16"]).if_there()];
    DecoderRow {
        codec,
        parser,
        element: "nvv4l2decoder",
        package: PACKAGE,
        memory: Memory::Nvmm,
        life: Life::Fresh,
        settings: SETTINGS,
    }
}

const fn encoder(codec: Codec, element: &'static str, settings: &'static [Setting]) -> EncoderRow {
    EncoderRow {
        codec,
        element,
        package: PACKAGE,
        memory: Memory::Nvmm,
        formats: &["NV12"],
        life: Life::Persistent,
        key_frames: KeyFrames::Signal("force-IDR"),
        bframes: 0,
        wanted: "",
        settings,
    }
}

const H264: &[Setting] = &[
    // Without it the encoder's clock is lowered between pictures.
    set("maxperf-enable", &["true"]),
    set("preset-level", &["UltraFastPreset", "1"]),
    set("control-rate", &["constant_bitrate", "1"]),
    set("bitrate", &["{bit}"]),
    set("vbv-size", &["{bit}"]).if_there(),
    set("EnableTwopassCBR", &["false"]).if_there(),
    set("ratecontrol-enable", &["true"]).if_there(),
    set("num-B-Frames", &["0"]).if_there(),
    set("poc-type", &["2"]).if_there(),
    // Key frames come when they are asked for.
    set("iframeinterval", &["3600"]),
    set("idrinterval", &["3600"]),
    set("profile", &["{profile-number}"]),
    set("insert-sps-pps", &["true"]),
    set("insert-aud", &["true"]).if_there(),
    set("insert-vui", &["{tagged}"]).if_there(),
];

const H265: &[Setting] = &[
    set("maxperf-enable", &["true"]),
    set("preset-level", &["UltraFastPreset", "1"]),
    set("control-rate", &["constant_bitrate", "1"]),
    set("bitrate", &["{bit}"]),
    set("vbv-size", &["{bit}"]).if_there(),
    set("EnableTwopassCBR", &["false"]).if_there(),
    set("ratecontrol-enable", &["true"]).if_there(),
    set("num-B-Frames", &["0"]).if_there(),
    set("iframeinterval", &["3600"]),
    set("idrinterval", &["3600"]),
    set("insert-sps-pps", &["true"]),
    set("insert-aud", &["true"]).if_there(),
    set("insert-vui", &["{tagged}"]).if_there(),
];

const AV1: &[Setting] = &[
    set("maxperf-enable", &["true"]).if_there(),
    set("preset-level", &["UltraFastPreset", "1"]),
    set("control-rate", &["constant_bitrate", "1"]),
    set("bitrate", &["{bit}"]),
    set("iframeinterval", &["3600"]).if_there(),
    set("idrinterval", &["3600"]).if_there(),
];

/// Jetson boards.
pub(super) const JETSON: Row = Row {
    name: "jetson",
    decoders: &[
        decoder(Codec::H264, Some("h264parse")),
        decoder(Codec::H265, Some("h265parse")),
        decoder(Codec::Vp8, None),
        decoder(Codec::Vp9, Some("vp9parse")),
        decoder(Codec::Av1, Some("av1parse")),
    ],
    scaler: ScalerRow {
        element: Some("nvvidconv"),
        memory: Memory::Nvmm,
        // The best kernel of the scaling engine, which does nothing else.
        settings: &[set("qos", &["false"]), set("interpolation-method", &["5"]).if_there()],
    },
    encoders: &[
        encoder(Codec::H264, "nvv4l2h264enc", H264),
        encoder(Codec::H265, "nvv4l2h265enc", H265),
        encoder(Codec::Av1, "nvv4l2av1enc", AV1),
    ],
};
