//! The table of engines. To add an encoder is to add a row.
//!
//! *Source:* media.md §1.1 and §1.2.
use super::codec::Codec;

mod jetson;
mod nvidia;
mod qsv;
mod software;
mod v4l2;
mod va;

/// All engines, in the order in which they are tried unless the operator says otherwise.
pub(crate) const ROWS: [&Row; 6] =
    [&jetson::JETSON, &nvidia::NVIDIA, &va::VA, &qsv::QSV, &v4l2::V4L2, &software::SOFTWARE];

/// The main processor: what everything falls back to.
pub(crate) const SOFTWARE: &Row = &software::SOFTWARE;

/// Everything that belongs to one kind of silicon.
#[derive(Debug)]
pub(crate) struct Row {
    /// Its name in configuration, logs and reports.
    pub(crate) name: &'static str,
    /// Best first; of a codec, the first whose element is there counts.
    pub(crate) decoders: &'static [DecoderRow],
    pub(crate) scaler: ScalerRow,
    /// Best first, as the decoders.
    pub(crate) encoders: &'static [EncoderRow],
}

/// Where pictures are while an engine works on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Memory {
    /// The main processor's.
    System,
    /// An NVIDIA card's.
    Cuda,
    /// That of Intel's and AMD's drivers.
    Va,
    /// A Jetson's, which processor and engines share.
    Nvmm,
}

impl Memory {
    /// The feature that caps carry for it.
    pub(crate) fn feature(self) -> Option<&'static str> {
        match self {
            Self::System => None,
            Self::Cuda => Some("memory:CUDAMemory"),
            Self::Va => Some("memory:VAMemory"),
            Self::Nvmm => Some("memory:NVMM"),
        }
    }

    /// Caps of raw pictures in it.
    pub(crate) fn raw(self) -> String {
        self.feature().map_or_else(|| "video/x-raw".to_owned(), |feature| format!("video/x-raw({feature})"))
    }

    /// The element that brings pictures from here to there, when it takes one.
    pub(crate) fn bridge(self, there: Self) -> Option<&'static str> {
        match (self, there) {
            (here, there) if here == there => None,
            (_, Self::Cuda) => Some("cudaupload"),
            (Self::Cuda, _) => Some("cudadownload"),
            (Self::Nvmm, _) | (_, Self::Nvmm) => Some("nvvidconv"),
            (Self::Va | Self::System, _) => Some("vapostproc"),
        }
    }
}

/// What becomes of an element at the end of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    /// It is told that nothing follows, gives all it has, and a new one is made for the next segment.
    Fresh,
    /// It goes on with the next segment: an encoder gives as many pictures as it was given, a decoder gives all it
    /// holds when a new stream is announced. It is never told that nothing follows: that would end its session.
    Persistent,
}

/// A way to decode.
#[derive(Debug)]
pub(crate) struct DecoderRow {
    pub(crate) codec: Codec,
    /// The element in front that tells it of the stream what it does not find out itself.
    pub(crate) parser: Option<&'static str>,
    pub(crate) element: &'static str,
    /// What to install when the element is missing, by Debian's name.
    pub(crate) package: &'static str,
    pub(crate) memory: Memory,
    pub(crate) life: Life,
    pub(crate) settings: &'static [Setting],
}

/// A way to scale and convert.
#[derive(Debug)]
pub(crate) struct ScalerRow {
    /// `None`: our own, on the main processor.
    pub(crate) element: Option<&'static str>,
    pub(crate) memory: Memory,
    pub(crate) settings: &'static [Setting],
}

/// A way to encode.
#[derive(Debug)]
pub(crate) struct EncoderRow {
    pub(crate) codec: Codec,
    pub(crate) element: &'static str,
    /// What to install when the element is missing, by Debian's name.
    pub(crate) package: &'static str,
    /// Where its pictures must be.
    pub(crate) memory: Memory,
    /// How its pictures may be laid out.
    pub(crate) formats: &'static [&'static str],
    pub(crate) life: Life,
    pub(crate) key_frames: KeyFrames,
    /// Most B-frames between two others.
    pub(crate) bframes: u32,
    /// Restrictions on what it puts out beyond the codec's own; `{profile}` is H.264's profile.
    pub(crate) wanted: &'static str,
    /// In the order in which they are set.
    pub(crate) settings: &'static [Setting],
}

/// How an encoder is asked for a key frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyFrames {
    /// By the framework's own event.
    Event,
    /// By this signal, as the event is not heeded.
    Signal(&'static str),
}

/// One property and what it is set to.
///
/// A value is a text in the notation of pipelines, in which `{…}` stands for a wish of the job (see
/// [`super::Wishes`]). A value with a wish that the job does not have is passed over. The first value that the
/// element's own property knows is taken: that is how presets with different names in different versions are met.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setting {
    pub(crate) property: &'static str,
    pub(crate) values: &'static [&'static str],
    pub(crate) when: When,
    /// Some versions of the element do not have it.
    pub(crate) optional: bool,
}

/// When a setting counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    Always,
    /// The job names a bit rate and no quality.
    Rate,
    /// The job names a quality.
    Quality,
}

/// What most encoders are held to: H.264's profile, nothing for other codecs.
const fn profile_wanted(codec: Codec) -> &'static str {
    match codec {
        Codec::H264 => "profile={profile}",
        _ => "",
    }
}

/// A setting that counts always and that every version of the element has.
pub(crate) const fn set(property: &'static str, values: &'static [&'static str]) -> Setting {
    Setting { property, values, when: When::Always, optional: false }
}

impl Setting {
    /// Only when the job asks for a bit rate.
    pub(crate) const fn for_rate(mut self) -> Self {
        self.when = When::Rate;
        self
    }

    /// Only when the job asks for a quality.
    pub(crate) const fn for_quality(mut self) -> Self {
        self.when = When::Quality;
        self
    }

    /// Passed over where the element does not have it.
    pub(crate) const fn if_there(mut self) -> Self {
        self.optional = true;
        self
    }
}

/// Of an element that is set up no further: it never drops a picture for being late.
const QUIET: &[Setting] = &[set("qos", &["false"])];
