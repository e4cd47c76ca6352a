//! From a row of the table and the wishes of a job to the properties of an element.
use std::borrow::Cow;

use gstreamer as gst;
use gstreamer::glib;
use gstreamer::prelude::*;

use super::table::{Setting, When};
use crate::stage::Error;

/// What settings may ask for by name; what is `None` leaves a setting out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Wishes {
    /// `{bit}` and, in thousands, `{kbit}`: the bit rate, which is also what a second's buffer holds.
    pub(crate) bits_per_second: u64,
    /// `{quality}`: what the encoder may keep instead of a bit rate.
    pub(crate) quality: Option<u32>,
    /// `{gop}`: frames from one key frame to the next.
    pub(crate) gop: Option<u32>,
    /// `{bframes}`: B-frames between two others.
    pub(crate) bframes: u32,
    /// `{threads}`: threads of an encoder.
    pub(crate) threads: u32,
    /// `{decoder-threads}`: threads of a decoder.
    pub(crate) decoder_threads: u32,
    /// `{preset}`: what a software encoder calls its speed.
    pub(crate) preset: String,
    /// `{options}`: what x264 is told besides, as it writes it; may be empty.
    pub(crate) options: String,
    /// `{tagged}`: does the source name its colours?
    pub(crate) tagged: bool,
    /// `{profile}`: H.264's profile as caps name it; `{profile-number}`: as the kernel numbers it.
    pub(crate) profile: Option<&'static str>,
}

impl Wishes {
    fn wish(&self, name: &str) -> Option<String> {
        match name {
            "bit" => Some(self.bits_per_second.to_string()),
            "kbit" => Some((self.bits_per_second / 1000).max(1).to_string()),
            "quality" => self.quality.map(|q| q.to_string()),
            "gop" => self.gop.map(|frames| frames.to_string()),
            "bframes" => Some(self.bframes.to_string()),
            "threads" => Some(self.threads.to_string()),
            "decoder-threads" => Some(self.decoder_threads.to_string()),
            "preset" => Some(self.preset.clone()),
            "options" => Some(self.options.clone()).filter(|options| !options.is_empty()),
            "tagged" => Some(self.tagged.to_string()),
            "profile" => self.profile.map(str::to_owned),
            "profile-number" => self.profile.map(|name| number_of(name).to_string()),
            _ => None,
        }
    }

    /// A value with its wishes filled in; `None` when one of them is not there.
    pub(crate) fn fill(&self, value: &'static str) -> Option<Cow<'static, str>> {
        if !value.contains('{') {
            return Some(Cow::Borrowed(value));
        }
        let mut filled = String::new();
        let mut rest = value;
        while let Some((before, after)) = rest.split_once('{') {
            let (name, behind) = after.split_once('}')?;
            filled.push_str(before);
            filled.push_str(&self.wish(name)?);
            rest = behind;
        }
        filled.push_str(rest);
        Some(Cow::Owned(filled))
    }

    fn applies(&self, when: When) -> bool {
        match when {
            When::Always => true,
            When::Rate => self.quality.is_none(),
            When::Quality => self.quality.is_some(),
        }
    }

    /// What is to be set, in order: each property with the values that would do, best first.
    pub(crate) fn recipe(&self, settings: &[Setting]) -> Vec<(Setting, Vec<Cow<'static, str>>)> {
        let applying = settings.iter().filter(|setting| self.applies(setting.when));
        let filled = applying.map(|s| (*s, s.values.iter().filter_map(|value| self.fill(value)).collect::<Vec<_>>()));
        filled.filter(|(_, values)| !values.is_empty()).collect()
    }
}

/// Sets an element up.
///
/// # Errors
/// [`Error::Refused`] when it has not a property that it must have, or knows none of the values.
pub(crate) fn apply(
    element: &gst::Element,
    name: &'static str,
    settings: &[Setting],
    wishes: &Wishes,
) -> Result<(), Error> {
    for (setting, values) in wishes.recipe(settings) {
        let refused = |detail| Error::Refused { element: name, what: setting.property, detail };
        let Some(property) = element.find_property(setting.property) else {
            if setting.optional {
                continue;
            }
            return Err(refused("it has no such property".to_owned()));
        };
        match values.iter().find_map(|value| read(&property, value)) {
            Some(value) => element.set_property_from_value(setting.property, &value),
            None if setting.optional => {}
            None => return Err(refused(format!("it knows none of {}", values.join(", ")))),
        }
    }
    Ok(())
}

/// *Source:* `V4L2_MPEG_VIDEO_H264_PROFILE_*`, which Jetson's elements share.
fn number_of(profile: &str) -> u32 {
    match profile {
        "baseline" => 0,
        "main" => 2,
        _ => 4,
    }
}

/// A text as a value of a property; a number is brought into the property's range.
fn read(property: &glib::ParamSpec, text: &str) -> Option<glib::Value> {
    macro_rules! number {
        ($($spec:ty => $number:ty),*) => {
            $(if let Some(spec) = property.downcast_ref::<$spec>() {
                let number: i128 = text.parse().ok()?;
                let (least, most) = (i128::from(spec.minimum()), i128::from(spec.maximum()));
                return <$number>::try_from(number.clamp(least, most)).ok().map(|number| number.to_value());
            })*
        };
    }
    number!(
        glib::ParamSpecInt => i32, glib::ParamSpecUInt => u32,
        glib::ParamSpecInt64 => i64, glib::ParamSpecUInt64 => u64
    );
    glib::Value::deserialize_with_pspec(text, property).ok()
}

#[cfg(test)]
mod tests {
    use super::super::table::set;
    use super::*;

    fn wishes() -> Wishes {
        Wishes { bits_per_second: 4_000_000, threads: 2, preset: "veryfast".to_owned(), ..Wishes::default() }
    }

    #[test]
    fn a_value_without_its_wish_is_passed_over() {
        let settings = [set("gop-size", &["{gop}"]), set("bitrate", &["{kbit}"]), set("a", &["x={bit}:y={gop}", "z"])];
        let recipe = wishes().recipe(&settings);
        let told: Vec<_> = recipe.iter().map(|(s, values)| (s.property, values.join("|"))).collect();
        assert_eq!(told, [("bitrate", "4000".to_owned()), ("a", "z".to_owned())]);
    }

    #[test]
    fn a_property_or_a_value_that_is_not_there_is_an_error_unless_it_may_be_missing() {
        gst::init().unwrap();
        let queue = gst::ElementFactory::make("queue").build().unwrap();
        let apply = |setting| apply(&queue, "queue", &[setting], &wishes());
        assert!(apply(set("no-such", &["1"])).unwrap_err().to_string().contains("no such property"));
        assert!(apply(set("no-such", &["1"]).if_there()).is_ok());
        assert!(apply(set("leaky", &["sideways"])).unwrap_err().to_string().contains("sideways"));
        assert!(apply(set("leaky", &["sideways", "downstream"])).is_ok());
        assert!(apply(set("max-size-buffers", &["99999999999999"])).is_ok());
        assert_eq!(queue.property::<u32>("max-size-buffers"), u32::MAX, "brought into range");
    }
}
