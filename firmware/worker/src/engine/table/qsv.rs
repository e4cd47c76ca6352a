//! Intel's engines by way of oneVPL; pictures are where VA-API has them, and VA-API scales.
//!
//! *Source:* media.md §1.2; names as in `sys/qsv` of gst-plugins-bad 1.22. Not run on a chip.
use super::va::{SCALER, decoder, encoder};
use super::{Codec, Row, Setting, set};

const H26X: &[Setting] = &[
    set("rate-control", &["cbr"]).for_rate(),
    set("bitrate", &["{kbit}"]),
    set("max-bitrate", &["{kbit}"]),
    set("rate-control", &["icq"]).for_quality(),
    set("icq-quality", &["{quality}"]).for_quality(),
    set("b-frames", &["0"]),
    set("ref-frames", &["1"]),
    set("target-usage", &["6"]),
    set("low-latency", &["true"]),
    // Key frames come when they are asked for.
    set("gop-size", &["65535"]),
];

const OTHERS: &[Setting] = &[
    set("rate-control", &["cbr"]),
    set("bitrate", &["{kbit}"]),
    set("max-bitrate", &["{kbit}"]),
    set("ref-frames", &["1"]),
    set("target-usage", &["6"]),
    set("low-latency", &["true"]),
    set("gop-size", &["65535"]),
];

/// Intel's engines by way of oneVPL.
pub(super) const QSV: Row = Row {
    name: "qsv",
    decoders: &[
        decoder(Codec::H264, Some("h264parse"), "qsvh264dec"),
        decoder(Codec::H265, Some("h265parse"), "qsvh265dec"),
        decoder(Codec::Vp9, Some("vp9parse"), "qsvvp9dec"),
        decoder(Codec::Av1, Some("av1parse"), "qsvav1dec"),
    ],
    scaler: SCALER,
    encoders: &[
        encoder(Codec::H264, "qsvh264enc", H26X),
        encoder(Codec::H265, "qsvh265enc", H26X),
        encoder(Codec::Vp9, "qsvvp9enc", OTHERS),
        encoder(Codec::Av1, "qsvav1enc", OTHERS),
    ],
};
