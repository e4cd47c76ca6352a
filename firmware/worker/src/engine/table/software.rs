//! The main processor: works everywhere, and is what every other engine falls back to.
use super::{Codec, DecoderRow, EncoderRow, KeyFrames, Life, Memory, Row, ScalerRow, Setting, profile_wanted, set};

const LIBAV: &str = "gstreamer1.0-libav";
const GOOD: &str = "gstreamer1.0-plugins-good";
const BAD: &str = "gstreamer1.0-plugins-bad";
const UGLY: &str = "gstreamer1.0-plugins-ugly";

const fn decoder(
    codec: Codec,
    element: &'static str,
    package: &'static str,
    settings: &'static [Setting],
) -> DecoderRow {
    DecoderRow { codec, parser: None, element, package, memory: Memory::System, life: Life::Fresh, settings }
}

const fn encoder(
    codec: Codec,
    element: &'static str,
    package: &'static str,
    bframes: u32,
    settings: &'static [Setting],
) -> EncoderRow {
    // x264 lays pictures out as the second itself.
    let formats: &[&str] = match codec {
        Codec::H264 => &["I420", "NV12"],
        _ => &["I420"],
    };
    let (memory, life, key_frames) = (Memory::System, Life::Fresh, KeyFrames::Event);
    let wanted = profile_wanted(codec);
    EncoderRow { codec, element, package, memory, formats, life, key_frames, bframes, wanted, settings }
}

const QOS: Setting = set("qos", &["false"]);
const LIBAV_DECODER: &[Setting] = &[QOS, set("max-threads", &["{decoder-threads}"])];

/// libvpx as for live video: what goes in comes out at once, and every picture comes out.
const VPX: &[Setting] = &[
    set("end-usage", &["cbr"]).for_rate(),
    set("end-usage", &["cq"]).for_quality(),
    set("target-bitrate", &["{bit}"]),
    set("cq-level", &["{quality}"]).for_quality(),
    set("buffer-size", &["1000"]),
    set("deadline", &["1"]),
    set("cpu-used", &["4"]),
    set("lag-in-frames", &["0"]),
    set("dropframe-threshold", &["0"]),
    set("resize-allowed", &["false"]),
    set("threads", &["{threads}"]),
    set("row-mt", &["true"]).if_there(),
    set("keyframe-max-dist", &["{gop}"]),
];

/// The main processor.
pub(crate) const SOFTWARE: Row = Row {
    name: "software",
    decoders: &[
        decoder(Codec::H264, "avdec_h264", LIBAV, LIBAV_DECODER),
        decoder(Codec::H265, "avdec_h265", LIBAV, LIBAV_DECODER),
        decoder(Codec::Vp8, "vp8dec", GOOD, &[QOS, set("threads", &["{decoder-threads}"])]),
        decoder(Codec::Vp9, "vp9dec", GOOD, &[QOS, set("threads", &["{decoder-threads}"])]),
        decoder(Codec::Av1, "dav1ddec", "gstreamer1.0-dav1d", &[QOS, set("n-threads", &["{decoder-threads}"])]),
        decoder(Codec::Av1, "avdec_av1", LIBAV, LIBAV_DECODER),
        decoder(Codec::Av1, "av1dec", BAD, &[QOS]),
    ],
    scaler: ScalerRow { element: None, memory: Memory::System, settings: &[] },
    encoders: &[
        encoder(
            Codec::H264,
            "x264enc",
            UGLY,
            16,
            &[
                set("speed-preset", &["{preset}"]),
                set("option-string", &["{options}"]),
                set("bitrate", &["{kbit}"]),
                set("vbv-buf-capacity", &["1000"]),
                set("pass", &["cbr"]).for_rate(),
                set("pass", &["qual"]).for_quality(),
                set("quantizer", &["{quality}"]).for_quality(),
                // The element has limits of its own for the quantiser; the encoder's are wider.
                set("qp-min", &["0"]),
                set("insert-vui", &["{tagged}"]),
                set("aud", &["true"]),
                set("threads", &["{threads}"]),
                set("bframes", &["{bframes}"]),
                set("key-int-max", &["{gop}"]),
            ],
        ),
        encoder(
            Codec::H264,
            "openh264enc",
            BAD,
            0,
            &[
                set("rate-control", &["bitrate"]).for_rate(),
                set("rate-control", &["quality"]).for_quality(),
                // The most is checked against the target when either is set.
                set("max-bitrate", &["{bit}"]),
                set("bitrate", &["{bit}"]),
                set("enable-frame-skip", &["false"]),
                set("complexity", &["low"]),
                set("multi-thread", &["{threads}"]),
                set("gop-size", &["{gop}"]),
            ],
        ),
        encoder(
            Codec::H265,
            "x265enc",
            BAD,
            16,
            &[
                set("speed-preset", &["superfast"]),
                set("bitrate", &["{kbit}"]),
                set("option-string", &[
                    "vbv-maxrate={kbit}:vbv-bufsize={kbit}:bframes={bframes}:open-gop=0:repeat-headers=1:aud=1:pools={threads}:frame-threads=1",
                ])
                .for_rate(),
                set("option-string", &[
                    "crf={quality}:bframes={bframes}:open-gop=0:repeat-headers=1:aud=1:pools={threads}:frame-threads=1",
                ])
                .for_quality(),
                set("key-int-max", &["{gop}"]),
            ],
        ),
        encoder(Codec::Vp8, "vp8enc", GOOD, 0, VPX),
        encoder(Codec::Vp9, "vp9enc", GOOD, 0, VPX),
        encoder(
            Codec::Av1,
            "svtav1enc",
            BAD,
            0,
            &[
                set("preset", &["10"]),
                set("target-bitrate", &["{kbit}"]).for_rate(),
                set("maximum-buffer-size", &["1000"]),
                set("crf", &["{quality}"]).for_quality().if_there(),
                set("intra-period-length", &["{gop}"]),
                set("logical-processors", &["{threads}"]).if_there(),
            ],
        ),
    ],
};
