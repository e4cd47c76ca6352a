//! A few elements of the media framework in a row, driven by hand: a buffer in, whatever comes of it out.
//!
//! Walk 1, step 8. There is no pipeline, no clock and no main loop: the thread that pushes does the work, or hands it
//! to the elements' own threads, so that frames are counted where they pass and an error comes back where it arose.
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_video as gst_video;

use crate::engine::Contexts;

/// How often an element that works by itself is asked for an error while its output is waited for.
const LOOK: Duration = Duration::from_millis(50);

/// What an element put out.
#[derive(Debug)]
pub(crate) enum Output {
    /// The format of the buffers that follow.
    Caps(gst::Caps),
    /// A buffer, with its time since the start of the stream.
    Buffer(gst::Buffer, Option<gst::ClockTime>),
}

/// Why an element could not be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    /// The plugin that has it is not there.
    #[error("{0}")]
    Missing(String),
    /// It refused what it was given.
    #[error("element {element} refused {what}: {detail}")]
    Refused {
        /// Which element.
        element: &'static str,
        /// What it was given.
        what: &'static str,
        /// What it said.
        detail: String,
    },
}

/// One element of a stage, and how it is set up.
pub(crate) struct Part<'a> {
    pub(crate) name: &'static str,
    pub(crate) configure: &'a dyn Fn(&gst::Element) -> Result<(), Error>,
}

impl Part<'_> {
    /// An element as it comes.
    pub(crate) fn plain(name: &'static str) -> Self {
        Self { name, configure: &|_| Ok(()) }
    }
}

#[derive(Debug, Default)]
struct Outbox {
    queue: VecDeque<Output>,
    /// The last format, which elements do not repeat.
    caps: Option<gst::Caps>,
    segment: Option<gst::FormattedSegment<gst::ClockTime>>,
}

#[derive(Debug, Default)]
struct Shared {
    outbox: Mutex<Outbox>,
    news: Condvar,
}

impl Shared {
    fn put(&self, outbox: &mut Outbox, output: Output) {
        outbox.queue.push_back(output);
        self.news.notify_one();
    }
}

/// Elements in a row with a pad of ours on either side.
#[derive(Debug)]
pub(crate) struct Stage {
    /// The element that the stage is about: the last one.
    name: &'static str,
    elements: Vec<gst::Element>,
    source: gst::Pad,
    sink: gst::Pad,
    bus: gst::Bus,
    input: gst::Caps,
    shared: Arc<Shared>,
}

impl Stage {
    /// Starts elements. `wanted` restricts what the last may put out; `room` is how many of its buffers may be under
    /// way elsewhere at a time.
    pub(crate) fn start(
        parts: &[Part<'_>],
        input: &gst::Caps,
        wanted: &gst::Caps,
        room: u32,
        contexts: &Contexts,
    ) -> Result<Self, Error> {
        let shared = Arc::new(Shared::default());
        let bus = gst::Bus::new();
        let mut elements = Vec::with_capacity(parts.len());
        for part in parts {
            let element = gst::ElementFactory::make(part.name).build().map_err(|_| missing(part.name))?;
            element.set_bus(Some(&bus));
            contexts.give(&element);
            (part.configure)(&element)?;
            elements.push(element);
        }
        let name = parts.last().map_or("nothing", |part| part.name);
        let source = gst::Pad::builder(gst::PadDirection::Src).name("feed").build();
        let sink = collecting_pad(wanted, room, &shared)?;
        let stage = Self { name, elements, source, sink, bus, input: input.clone(), shared };
        stage.link()?;
        for pad in [&stage.sink, &stage.source] {
            pad.set_active(true).map_err(|e| stage.refused("activation", e.to_string()))?;
        }
        for element in stage.elements.iter().rev() {
            element.set_state(gst::State::Playing).map_err(|e| stage.refused("to start", e.to_string()))?;
            contexts.take(&stage.bus);
        }
        stage.announce()?;
        stage.greet()?;
        contexts.take(&stage.bus);
        Ok(stage)
    }

    fn link(&self) -> Result<(), Error> {
        let pad = |element: &gst::Element, which| element.static_pad(which).ok_or_else(|| missing(self.name));
        let mut before = self.source.clone();
        for element in &self.elements {
            before.link(&pad(element, "sink")?).map_err(|e| self.refused("its links", e.to_string()))?;
            before = pad(element, "src")?;
        }
        before.link(&self.sink).map_err(|e| self.refused("its links", e.to_string()))?;
        Ok(())
    }

    /// Says that a new stream begins. A decoder first gives all that it still holds of the old one.
    pub(crate) fn announce(&self) -> Result<(), Error> {
        self.tell("a new stream", gst::event::StreamStart::new("segment"))
    }

    /// Says what the new stream looks like and that its time begins at zero.
    fn greet(&self) -> Result<(), Error> {
        self.tell("its input format", gst::event::Caps::new(&self.input))?;
        let segment = gst::FormattedSegment::<gst::ClockTime>::new();
        self.tell("its input's times", gst::event::Segment::new(&segment))
    }

    /// Begins another stream after [`Stage::announce`] ended the last one.
    pub(crate) fn begin_again(&self) -> Result<(), Error> {
        self.greet()?;
        let mut outbox = self.outbox();
        if let Some(caps) = outbox.caps.clone() {
            outbox.queue.push_front(Output::Caps(caps));
        }
        Ok(())
    }

    fn tell(&self, what: &'static str, event: gst::Event) -> Result<(), Error> {
        if self.source.push_event(event) { Ok(()) } else { Err(self.refused(what, self.input.to_string())) }
    }

    /// Gives the first element a buffer and waits until it has taken it.
    pub(crate) fn push(&self, buffer: gst::Buffer) -> Result<(), Error> {
        match self.source.push(buffer) {
            Ok(_) => Ok(()),
            Err(flow) => Err(self.refused("a buffer", flow.to_string())),
        }
    }

    /// Tells the elements that nothing follows; everything they held comes out, and they are of no more use.
    pub(crate) fn finish(&self) -> Result<(), Error> {
        self.tell("the end", gst::event::Eos::new())
    }

    /// Asks the last element for a key frame.
    pub(crate) fn ask(&self, event: gst::Event) -> bool {
        self.last().and_then(|element| element.static_pad("src")).is_some_and(|pad| pad.send_event(event))
    }

    /// Sends the last element a signal without arguments, if it knows it.
    pub(crate) fn signal(&self, name: &str) -> bool {
        let Some(element) = self.last() else { return false };
        let known = gst::glib::subclass::SignalId::lookup(name, element.type_()).is_some();
        if known {
            element.emit_by_name_with_values(name, &[]);
        }
        known
    }

    fn last(&self) -> Option<&gst::Element> {
        self.elements.last()
    }

    /// The next thing put out, if any.
    pub(crate) fn take(&self) -> Option<Output> {
        self.outbox().queue.pop_front()
    }

    /// The next thing put out, for which elements with threads of their own are given time until `latest`.
    pub(crate) fn wait(&self, latest: Instant) -> Result<Output, Error> {
        let mut outbox = self.outbox();
        loop {
            if let Some(output) = outbox.queue.pop_front() {
                return Ok(output);
            }
            if let Some(said) = self.said() {
                return Err(Error::Refused { element: self.name, what: "its work", detail: said });
            }
            let left = latest.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let detail = "it did not come in time".to_owned();
                return Err(Error::Refused { element: self.name, what: "to give back a picture", detail });
            }
            outbox = self.shared.news.wait_timeout(outbox, left.min(LOOK)).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn outbox(&self) -> std::sync::MutexGuard<'_, Outbox> {
        self.shared.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refused(&self, what: &'static str, detail: String) -> Error {
        Error::Refused { element: self.name, what, detail: self.said().unwrap_or(detail) }
    }

    /// An error that an element has put on the bus.
    fn said(&self) -> Option<String> {
        std::iter::from_fn(|| self.bus.pop_filtered(&[gst::MessageType::Error])).find_map(|m| match m.view() {
            gst::MessageView::Error(e) => Some(format!("{} ({})", e.error(), e.debug().unwrap_or_default())),
            _ => None,
        })
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // Deactivating our pads first frees whoever may be blocked in them.
        let _ = self.sink.set_active(false);
        let _ = self.source.set_active(false);
        for element in self.elements.iter().rev() {
            let _ = element.set_state(gst::State::Null);
        }
        // What nobody read holds the element that said it, which holds the bus: a circle of memory and descriptors.
        self.bus.set_flushing(true);
    }
}

fn missing(name: &str) -> Error {
    Error::Missing(format!("element {name} is missing"))
}

/// A pad that takes everything and keeps it for us.
fn collecting_pad(wanted: &gst::Caps, room: u32, shared: &Arc<Shared>) -> Result<gst::Pad, Error> {
    let template = gst::PadTemplate::new("sink", gst::PadDirection::Sink, gst::PadPresence::Always, wanted)
        .map_err(|_| Error::Missing("no pad can be made".to_owned()))?;
    let (for_buffers, for_events) = (Arc::clone(shared), Arc::clone(shared));
    Ok(gst::Pad::builder_from_template(&template)
        .name("collect")
        .chain_function(move |_, _, buffer| {
            let mut outbox = for_buffers.outbox.lock().unwrap_or_else(PoisonError::into_inner);
            let at = buffer.pts().and_then(|pts| match &outbox.segment {
                Some(segment) => segment.to_running_time(pts),
                None => Some(pts),
            });
            for_buffers.put(&mut outbox, Output::Buffer(buffer, at));
            Ok(gst::FlowSuccess::Ok)
        })
        .event_function(move |_, _, event| {
            let mut outbox = for_events.outbox.lock().unwrap_or_else(PoisonError::into_inner);
            match event.view() {
                gst::EventView::Caps(caps) => {
                    outbox.caps = Some(caps.caps_owned());
                    for_events.put(&mut outbox, Output::Caps(caps.caps_owned()));
                }
                gst::EventView::Segment(segment) => {
                    outbox.segment = segment.segment().downcast_ref::<gst::ClockTime>().cloned();
                }
                _ => {}
            }
            true
        })
        .query_function(move |pad, parent, query| {
            if let gst::QueryViewMut::Allocation(allocation) = query.view_mut() {
                // Frames may have any stride: whoever reads them looks at their description.
                allocation.add_allocation_meta::<gst_video::VideoMeta>(None);
                let size = allocation.get_owned().0.and_then(|caps| gst_video::VideoInfo::from_caps(&caps).ok());
                if let Some(size) = size.and_then(|info| u32::try_from(info.size()).ok()).filter(|_| room > 0) {
                    allocation.add_allocation_pool(None::<&gst::BufferPool>, size, room, 0);
                }
                return true;
            }
            gst::Pad::query_default(pad, parent, query)
        })
        .build())
}
