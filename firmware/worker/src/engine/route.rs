//! Which rows of the table work together in this process.
use std::sync::Arc;

use gstreamer as gst;
use gstreamer_video as gst_video;

use super::table::{DecoderRow, EncoderRow, Memory, ROWS, Row, SOFTWARE, ScalerRow};
use super::warm::Warm;
use super::{Codec, Tuning};

/// An engine nobody knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown engine {0:?}")]
pub struct UnknownEngine(String);

/// What a worker transcodes with. Clones share what outlives a segment.
#[derive(Debug, Clone)]
pub struct Engine {
    route: Route,
    tuning: Tuning,
    warm: Arc<Warm>,
}

/// Rows that work together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Route {
    pub(crate) decode: &'static Row,
    pub(crate) scale: &'static Row,
    pub(crate) encode: &'static Row,
}

impl Route {
    /// By its name: `nvidia`, or `nvidia+software` for what decodes and scales with one and encodes with another.
    pub(crate) fn named(name: &str) -> Result<Self, UnknownEngine> {
        let row = |name: &str| ROWS.into_iter().find(|row| row.name == name);
        let (decode, encode) = name.split_once('+').unwrap_or((name, name));
        match (row(decode), row(encode)) {
            (Some(decode), Some(encode)) => Ok(Self { decode, scale: decode, encode }),
            _ => Err(UnknownEngine(name.to_owned())),
        }
    }

    pub(crate) fn name(&self) -> String {
        if self.scale.name == self.encode.name {
            return self.encode.name.to_owned();
        }
        format!("{}+{}", self.scale.name, self.encode.name)
    }

    /// Where pictures are between decoder and encoders.
    pub(crate) fn memory(&self) -> Memory {
        self.scale.scaler.memory
    }

    /// How pictures are laid out there.
    pub(crate) fn format(&self) -> gst_video::VideoFormat {
        if self.memory() == Memory::System { gst_video::VideoFormat::I420 } else { gst_video::VideoFormat::Nv12 }
    }

    /// The best decoder of a codec whose element is there; the main processor's where the silicon has none.
    pub(crate) fn decoder(&self, codec: Codec, there: &dyn Fn(&str) -> bool) -> Option<&'static DecoderRow> {
        let fits = |row: &&'static DecoderRow| row.codec == codec && there(row.element) && row.parser.is_none_or(there);
        self.decode.decoders.iter().find(fits).or_else(|| SOFTWARE.decoders.iter().find(fits))
    }

    /// The best encoder of a codec whose element is there; the main processor's where the silicon has none.
    pub(crate) fn encoder(&self, codec: Codec, there: &dyn Fn(&str) -> bool) -> Option<&'static EncoderRow> {
        let fits = |row: &&'static EncoderRow| row.codec == codec && there(row.element);
        self.encode.encoders.iter().find(fits).or_else(|| SOFTWARE.encoders.iter().find(fits))
    }

    /// The elements of a decoder, in their order: its pictures come out where the scaler wants them.
    pub(crate) fn decoder_elements(&self, row: &DecoderRow) -> Vec<&'static str> {
        row.parser.into_iter().chain([row.element]).chain(row.memory.bridge(self.memory())).collect()
    }

    /// The elements of an encoder, in their order: pictures are brought to it from where the scaler has them, each as
    /// small as it will be.
    pub(crate) fn encoder_elements(&self, row: &EncoderRow) -> Vec<&'static str> {
        let fits = row.formats.contains(&self.format().to_str().as_str());
        let convert = (!fits).then_some("videoconvert");
        self.memory().bridge(row.memory).into_iter().chain(convert).chain([row.element]).collect()
    }
}

impl Engine {
    /// The main processor alone.
    #[must_use]
    pub fn software(tuning: Tuning) -> Self {
        Self::of(Route { decode: SOFTWARE, scale: SOFTWARE, encode: SOFTWARE }, tuning)
    }

    /// By its name: `nvidia`, or `nvidia+software` for what decodes and scales with one and encodes with another.
    ///
    /// # Errors
    /// [`UnknownEngine`] for a name that no row has.
    pub fn named(name: &str, tuning: Tuning) -> Result<Self, UnknownEngine> {
        Route::named(name).map(|route| Self::of(route, tuning))
    }

    pub(crate) fn of(route: Route, tuning: Tuning) -> Self {
        Self { route, tuning, warm: Arc::default() }
    }

    /// The same, but the main processor decodes: for what silicon cannot decode.
    pub(crate) fn decoding_in_software(&self) -> Self {
        Self { route: Route { decode: SOFTWARE, ..self.route }, ..self.clone() }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> String {
        self.route.name()
    }

    /// Is silicon to decode?
    pub(crate) fn decodes_in_silicon(&self) -> bool {
        self.route.decode.name != SOFTWARE.name
    }

    /// Is silicon to encode?
    pub(crate) fn encodes_in_silicon(&self) -> bool {
        self.route.encode.name != SOFTWARE.name
    }

    /// Does the engine's own silicon decode this, as far as elements tell?
    pub(crate) fn decodes_itself(&self, codec: Codec) -> bool {
        self.decoder(codec).is_some_and(|row| self.route.decode.decoders.iter().any(|own| std::ptr::eq(own, row)))
    }

    /// Does the engine's own silicon encode this, as far as elements tell?
    pub(crate) fn encodes_itself(&self, codec: Codec) -> bool {
        self.encoder(codec).is_some_and(|row| self.route.encode.encoders.iter().any(|own| std::ptr::eq(own, row)))
    }

    /// The settings that are a matter of taste.
    pub(crate) fn tuning(&self) -> &Tuning {
        &self.tuning
    }

    pub(crate) fn route(&self) -> &Route {
        &self.route
    }

    /// What outlives a segment.
    pub(crate) fn warm(&self) -> &Warm {
        &self.warm
    }

    pub(crate) fn scaler(&self) -> &'static ScalerRow {
        &self.route.scale.scaler
    }

    /// The best decoder of a codec whose element is there.
    pub(crate) fn decoder(&self, codec: Codec) -> Option<&'static DecoderRow> {
        self.route.decoder(codec, &is_there)
    }

    /// The best encoder of a codec whose element is there.
    pub(crate) fn encoder(&self, codec: Codec) -> Option<&'static EncoderRow> {
        self.route.encoder(codec, &is_there)
    }

    /// What to install for a codec's decoder.
    pub(crate) fn decoder_missing(&self, codec: Codec) -> String {
        let named = |row: &'static Row| -> Vec<_> {
            let of_codec = row.decoders.iter().filter(|decoder| decoder.codec == codec);
            of_codec.map(|decoder| (decoder.element, decoder.package)).collect()
        };
        missing(self.route.decode, named, codec)
    }

    /// What to install for a codec's encoder.
    pub(crate) fn encoder_missing(&self, codec: Codec) -> String {
        let named = |row: &'static Row| -> Vec<_> {
            let of_codec = row.encoders.iter().filter(|encoder| encoder.codec == codec);
            of_codec.map(|encoder| (encoder.element, encoder.package)).collect()
        };
        missing(self.route.encode, named, codec)
    }

    /// Caps of pictures of this kind between decoder and encoders.
    pub(crate) fn picture_caps(&self, info: &gst_video::VideoInfo) -> Option<gst::Caps> {
        let mut caps = info.to_caps().ok()?;
        if let Some(feature) = self.route.memory().feature() {
            caps.make_mut().set_features(0, Some(gst::CapsFeatures::new([feature])));
        }
        Some(caps)
    }
}

/// What to install for one of these elements, by the engine's own row or else the main processor's.
fn missing(
    own: &'static Row,
    named: impl Fn(&'static Row) -> Vec<(&'static str, &'static str)>,
    codec: Codec,
) -> String {
    let silicon = named(own);
    if own.name != SOFTWARE.name
        && let Some((_, package)) = silicon.first()
    {
        let elements: Vec<&str> = silicon.iter().map(|(element, _)| *element).collect();
        return format!(
            "GStreamer element {} is missing: install the package {package}; it shows only where its driver works",
            elements.join(" or ")
        );
    }
    match named(SOFTWARE).first() {
        Some((element, package)) => format!("GStreamer element {element} is missing: install the package {package}"),
        None => format!("nothing is known for {}", codec.name()),
    }
}

fn is_there(element: &str) -> bool {
    gst::ElementFactory::find(element).is_some()
}
