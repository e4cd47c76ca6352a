//! Which rows of the table work together in this process.
use super::table::{DecoderRow, EncoderRow, Row, SOFTWARE};
use super::{Codec, Tuning};

/// An engine nobody knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown engine {0:?}")]
pub struct UnknownEngine(String);

/// What a worker transcodes with.
#[derive(Debug, Clone)]
pub struct Engine {
    decode: &'static Row,
    encode: &'static Row,
    tuning: Tuning,
}

/// All rows.
const ROWS: [&Row; 1] = [&SOFTWARE];

impl Engine {
    /// The main processor alone.
    #[must_use]
    pub fn software(tuning: Tuning) -> Self {
        Self { decode: &SOFTWARE, encode: &SOFTWARE, tuning }
    }

    /// By its name: `nvidia`, or `nvidia+software` for what decodes and scales with one and encodes with another.
    ///
    /// # Errors
    /// [`UnknownEngine`] for a name that no row has.
    pub fn named(name: &str, tuning: Tuning) -> Result<Self, UnknownEngine> {
        let row = |name: &str| ROWS.into_iter().find(|row| row.name == name);
        let (decode, encode) = name.split_once('+').unwrap_or((name, name));
        match (row(decode), row(encode)) {
            (Some(decode), Some(encode)) => Ok(Self { decode, encode, tuning }),
            _ => Err(UnknownEngine(name.to_owned())),
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> String {
        if std::ptr::eq(self.decode, self.encode) {
            return self.encode.name.to_owned();
        }
        format!("{}+{}", self.decode.name, self.encode.name)
    }

    /// What the bench may change.
    pub(crate) fn tuning(&self) -> &Tuning {
        &self.tuning
    }

    /// The best decoder of a codec whose element is there.
    pub(crate) fn decoder(&self, codec: Codec) -> Option<&'static DecoderRow> {
        self.decode.decoders.iter().find(|row| row.codec == codec && is_there(row.element))
    }

    /// The best encoder of a codec whose element is there.
    pub(crate) fn encoder(&self, codec: Codec) -> Option<&'static EncoderRow> {
        self.encode.encoders.iter().find(|row| row.codec == codec && is_there(row.element))
    }

    /// What to install for a codec's decoder.
    pub(crate) fn decoder_missing(&self, codec: Codec) -> String {
        let row = self.decode.decoders.iter().find(|row| row.codec == codec);
        missing(row.map(|row| (row.element, row.package)), codec)
    }

    /// What to install for a codec's encoder.
    pub(crate) fn encoder_missing(&self, codec: Codec) -> String {
        let row = self.encode.encoders.iter().find(|row| row.codec == codec);
        missing(row.map(|row| (row.element, row.package)), codec)
    }
}

fn missing(known: Option<(&str, &str)>, codec: Codec) -> String {
    match known {
        Some((element, package)) => format!("GStreamer element {element} is missing: install the package {package}"),
        None => format!("it has nothing for {}", codec.name()),
    }
}

fn is_there(element: &str) -> bool {
    gstreamer::ElementFactory::find(element).is_some()
}
