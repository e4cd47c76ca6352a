//! NVIDIA's cards, by the framework's own plugin. Its encoder was written anew: versions 1.22 and 1.24 have both, the
//! new one as `nvcudah264enc`; from 1.26 the new one has the old name. Presets of the old one are refused by current
//! drivers, so the new one comes first, and its presets come before the old one's.
//!
//! A session of the card ends when the encoder is told that nothing follows, and opening one is dear and leaks: both
//! sides are persistent.
//!
//! *Source:* media.md §1.2; names and ranges as in `sys/nvcodec` of gst-plugins-bad 1.22 and 1.26. Not run on a card.
use super::{Codec, DecoderRow, EncoderRow, KeyFrames, Life, Memory, Row, ScalerRow, Setting, profile_wanted, set};

const PACKAGE: &str = "gstreamer1.0-plugins-bad";

const fn decoder(codec: Codec, parser: Option<&'static str>, element: &'static str) -> DecoderRow {
    // As many pictures may be on their way through the ladder at a time; the default is one.
    const SETTINGS: &[Setting] = &[
        set("qos", &["false"]),
        set("num-output-surfaces", &["16"]).if_there(),
        set("max-display-delay", &["0"]).if_there(),
    ];
    let (memory, life) = (Memory::Cuda, Life::Persistent);
    DecoderRow { codec, parser, element, package: PACKAGE, memory, life, settings: SETTINGS }
}

const fn encoder(codec: Codec, element: &'static str, settings: &'static [Setting]) -> EncoderRow {
    EncoderRow {
        codec,
        element,
        package: PACKAGE,
        memory: Memory::Cuda,
        formats: &["NV12"],
        life: Life::Persistent,
        key_frames: KeyFrames::Event,
        bframes: 0,
        wanted: profile_wanted(codec),
        settings,
    }
}

const H26X: &[Setting] = &[
    set("preset", &["p4", "low-latency-hq"]),
    set("tune", &["low-latency"]).if_there(),
    set("multi-pass", &["disabled"]).if_there(),
    set("rc-mode", &["cbr"]).for_rate(),
    set("bitrate", &["{kbit}"]),
    set("max-bitrate", &["{kbit}"]),
    // One second. Only cards that can have it.
    set("vbv-buffer-size", &["{kbit}"]).if_there(),
    set("rc-mode", &["vbr"]).for_quality(),
    set("const-quality", &["{quality}"]).for_quality(),
    set("bframes", &["0"]).if_there(),
    set("b-adapt", &["false"]).if_there(),
    set("rc-lookahead", &["0"]).if_there(),
    set("zerolatency", &["true"]),
    // Key frames come when they are asked for.
    set("gop-size", &["-1"]),
    set("strict-gop", &["true"]),
    set("aud", &["true"]),
    // The old one repeats them with every key frame that is asked for, or the proof says that it does not.
    set("repeat-sequence-header", &["true"]).if_there(),
];

/// Not all there is to H.264's: AV1 has neither delimiters nor parameter sets of that kind.
const AV1: &[Setting] = &[
    set("preset", &["p4"]),
    set("tune", &["low-latency"]).if_there(),
    set("multi-pass", &["disabled"]).if_there(),
    set("rc-mode", &["cbr"]).for_rate(),
    set("bitrate", &["{kbit}"]),
    set("max-bitrate", &["{kbit}"]),
    set("vbv-buffer-size", &["{kbit}"]).if_there(),
    set("rc-mode", &["vbr"]).for_quality(),
    set("const-quality", &["{quality}"]).for_quality(),
    set("bframes", &["0"]).if_there(),
    set("rc-lookahead", &["0"]).if_there(),
    set("zerolatency", &["true"]),
    set("gop-size", &["-1"]),
    set("strict-gop", &["true"]),
];

/// NVIDIA's cards.
pub(super) const NVIDIA: Row = Row {
    name: "nvidia",
    decoders: &[
        // Up to 1.22 this is the one whose pictures do not come out in groups.
        decoder(Codec::H264, Some("h264parse"), "nvh264sldec"),
        decoder(Codec::H264, Some("h264parse"), "nvh264dec"),
        decoder(Codec::H265, Some("h265parse"), "nvh265sldec"),
        decoder(Codec::H265, Some("h265parse"), "nvh265dec"),
        decoder(Codec::Vp8, None, "nvvp8sldec"),
        decoder(Codec::Vp8, None, "nvvp8dec"),
        decoder(Codec::Vp9, Some("vp9parse"), "nvvp9sldec"),
        decoder(Codec::Vp9, Some("vp9parse"), "nvvp9dec"),
        decoder(Codec::Av1, Some("av1parse"), "nvav1dec"),
    ],
    scaler: ScalerRow { element: Some("cudaconvertscale"), memory: Memory::Cuda, settings: &[set("qos", &["false"])] },
    encoders: &[
        encoder(Codec::H264, "nvcudah264enc", H26X),
        encoder(Codec::H264, "nvh264enc", H26X),
        encoder(Codec::H265, "nvcudah265enc", H26X),
        encoder(Codec::H265, "nvh265enc", H26X),
        encoder(Codec::Av1, "nvav1enc", AV1),
    ],
};
