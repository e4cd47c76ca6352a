//! Intel's and AMD's engines by way of VA-API. Where the chip has only the low-power encoder, only its element is there.
//!
//! *Source:* media.md §1.2; names as in `sys/va` of gst-plugins-bad 1.22. Not run on a chip.
use super::{
    Codec, DecoderRow, EncoderRow, KeyFrames, Life, Memory, QUIET, Row, ScalerRow, Setting, profile_wanted, set,
};

const PACKAGE: &str = "gstreamer1.0-plugins-bad";

pub(super) const fn decoder(codec: Codec, parser: Option<&'static str>, element: &'static str) -> DecoderRow {
    let (memory, life) = (Memory::Va, Life::Persistent);
    DecoderRow { codec, parser, element, package: PACKAGE, memory, life, settings: QUIET }
}

pub(super) const fn encoder(codec: Codec, element: &'static str, settings: &'static [Setting]) -> EncoderRow {
    EncoderRow {
        codec,
        element,
        package: PACKAGE,
        memory: Memory::Va,
        formats: &["NV12"],
        life: Life::Persistent,
        key_frames: KeyFrames::Event,
        bframes: 0,
        wanted: profile_wanted(codec),
        settings,
    }
}

const H26X: &[Setting] = &[
    set("rate-control", &["cbr"]).for_rate(),
    set("bitrate", &["{kbit}"]),
    // One second.
    set("cpb-size", &["{kbit}"]),
    // Chips differ in which of these they can.
    set("rate-control", &["icq", "cqp"]).for_quality(),
    set("qpi", &["{quality}"]).for_quality(),
    set("qpp", &["{quality}"]).for_quality(),
    set("b-frames", &["0"]),
    set("ref-frames", &["1"]),
    set("target-usage", &["6"]).if_there(),
    // Key frames come when they are asked for; this is the most the element takes.
    set("key-int-max", &["1024"]),
    set("aud", &["true"]),
];

const OTHERS: &[Setting] = &[
    set("rate-control", &["cbr"]).for_rate(),
    set("bitrate", &["{kbit}"]),
    set("cpb-size", &["{kbit}"]).if_there(),
    set("rate-control", &["icq", "cqp"]).for_quality(),
    set("target-usage", &["6"]).if_there(),
    set("key-int-max", &["1024"]).if_there(),
    // Pictures that show nothing and refer forwards.
    set("gf-group-size", &["1"]).if_there(),
    set("hierarchical-level", &["1"]).if_there(),
];

/// What scales for VA-API and oneVPL.
pub(super) const SCALER: ScalerRow = ScalerRow {
    element: Some("vapostproc"),
    memory: Memory::Va,
    settings: &[
        set("qos", &["false"]),
        set("scale-method", &["hq"]).if_there(),
        set("add-borders", &["false"]).if_there(),
    ],
};

/// Intel's and AMD's engines.
pub(super) const VA: Row = Row {
    name: "va",
    decoders: &[
        decoder(Codec::H264, Some("h264parse"), "vah264dec"),
        decoder(Codec::H265, Some("h265parse"), "vah265dec"),
        decoder(Codec::Vp8, None, "vavp8dec"),
        decoder(Codec::Vp9, Some("vp9parse"), "vavp9dec"),
        decoder(Codec::Av1, Some("av1parse"), "vaav1dec"),
    ],
    scaler: SCALER,
    encoders: &[
        encoder(Codec::H264, "vah264enc", H26X),
        encoder(Codec::H264, "vah264lpenc", H26X),
        encoder(Codec::H265, "vah265enc", H26X),
        encoder(Codec::H265, "vah265lpenc", H26X),
        encoder(Codec::Vp9, "vavp9enc", OTHERS),
        encoder(Codec::Vp9, "vavp9lpenc", OTHERS),
        encoder(Codec::Av1, "vaav1enc", OTHERS),
        encoder(Codec::Av1, "vaav1lpenc", OTHERS),
    ],
};
