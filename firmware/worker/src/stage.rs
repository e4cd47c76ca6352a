//! One element of the media framework, driven by hand: a buffer in, whatever comes of it out.
//!
//! Walk 1, step 8. There is no pipeline, no clock and no main loop: the thread that pushes does the work, so
//! that frames are counted where they pass and an error comes back where it arose.
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_video as gst_video;

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

#[derive(Debug, Default)]
struct Outbox {
    queue: VecDeque<Output>,
    segment: Option<gst::FormattedSegment<gst::ClockTime>>,
}

/// An element with a pad of ours on either side.
#[derive(Debug)]
pub(crate) struct Stage {
    name: &'static str,
    element: gst::Element,
    source: gst::Pad,
    /// Kept alive: the element pushes into it.
    _sink: gst::Pad,
    bus: gst::Bus,
    outbox: Arc<Mutex<Outbox>>,
}

impl Stage {
    /// Starts an element. `wanted` restricts what it may put out.
    pub(crate) fn start(
        name: &'static str,
        configure: impl FnOnce(&gst::Element) -> Result<(), Error>,
        input: &gst::Caps,
        wanted: &gst::Caps,
    ) -> Result<Self, Error> {
        let element = gst::ElementFactory::make(name).build().map_err(|_| missing(name))?;
        configure(&element)?;
        let outbox = Arc::new(Mutex::new(Outbox::default()));
        let source = gst::Pad::builder(gst::PadDirection::Src).name("feed").build();
        let sink = collecting_pad(wanted, &outbox)?;
        let bus = gst::Bus::new();
        element.set_bus(Some(&bus));
        let stage = Self { name, element, source, _sink: sink.clone(), bus, outbox };
        let pad = |which| stage.element.static_pad(which).ok_or_else(|| missing(name));
        let linked = stage
            .source
            .link(&pad("sink")?)
            .and_then(|_| pad("src").map(|src| src.link(&sink)).unwrap_or(Err(gst::PadLinkError::Refused)));
        linked.map_err(|e| stage.refused("its links", e.to_string()))?;
        for pad in [&sink, &stage.source] {
            pad.set_active(true).map_err(|e| stage.refused("activation", e.to_string()))?;
        }
        stage.element.set_state(gst::State::Playing).map_err(|e| stage.refused("to start", e.to_string()))?;
        let segment = gst::FormattedSegment::<gst::ClockTime>::new();
        let greeting =
            [gst::event::StreamStart::new("segment"), gst::event::Caps::new(input), gst::event::Segment::new(&segment)];
        for event in greeting {
            if !stage.source.push_event(event) {
                return Err(stage.refused("its input format", input.to_string()));
            }
        }
        Ok(stage)
    }

    /// Gives the element a buffer and waits until it has taken it.
    pub(crate) fn push(&self, buffer: gst::Buffer) -> Result<(), Error> {
        match self.source.push(buffer) {
            Ok(_) => Ok(()),
            Err(flow) => Err(self.refused("a buffer", flow.to_string())),
        }
    }

    /// Tells the element that nothing follows; everything it held comes out.
    pub(crate) fn finish(&self) -> Result<(), Error> {
        if self.source.push_event(gst::event::Eos::new()) {
            Ok(())
        } else {
            Err(self.refused("the end", String::new()))
        }
    }

    /// Sends an event against the stream, as a receiver would.
    pub(crate) fn ask(&self, event: gst::Event) -> bool {
        self.element.static_pad("src").is_some_and(|pad| pad.send_event(event))
    }

    /// The next thing put out, if any.
    pub(crate) fn take(&self) -> Option<Output> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner).queue.pop_front()
    }

    fn refused(&self, what: &'static str, detail: String) -> Error {
        let said =
            std::iter::from_fn(|| self.bus.pop_filtered(&[gst::MessageType::Error])).find_map(|m| match m.view() {
                gst::MessageView::Error(e) => Some(format!("{} ({})", e.error(), e.debug().unwrap_or_default())),
                _ => None,
            });
        Error::Refused { element: self.name, what, detail: said.unwrap_or(detail) }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // Deactivating our pads first frees whoever may be blocked in them.
        let _ = self._sink.set_active(false);
        let _ = self.source.set_active(false);
        let _ = self.element.set_state(gst::State::Null);
    }
}

fn missing(name: &str) -> Error {
    Error::Missing(format!("element {name} is missing"))
}

/// A pad that takes everything and keeps it for us.
fn collecting_pad(wanted: &gst::Caps, outbox: &Arc<Mutex<Outbox>>) -> Result<gst::Pad, Error> {
    let template = gst::PadTemplate::new("sink", gst::PadDirection::Sink, gst::PadPresence::Always, wanted)
        .map_err(|_| Error::Missing("no pad can be made".to_owned()))?;
    let (for_buffers, for_events) = (outbox.clone(), outbox.clone());
    Ok(gst::Pad::builder_from_template(&template)
        .name("collect")
        .chain_function(move |_, _, buffer| {
            let mut outbox = for_buffers.lock().unwrap_or_else(PoisonError::into_inner);
            let at = buffer.pts().and_then(|pts| match &outbox.segment {
                Some(segment) => segment.to_running_time(pts),
                None => Some(pts),
            });
            outbox.queue.push_back(Output::Buffer(buffer, at));
            Ok(gst::FlowSuccess::Ok)
        })
        .event_function(move |_, _, event| {
            let mut outbox = for_events.lock().unwrap_or_else(PoisonError::into_inner);
            match event.view() {
                gst::EventView::Caps(caps) => outbox.queue.push_back(Output::Caps(caps.caps_owned())),
                gst::EventView::Segment(segment) => {
                    outbox.segment = segment.segment().downcast_ref::<gst::ClockTime>().cloned();
                }
                _ => {}
            }
            true
        })
        .query_function(|pad, parent, query| {
            if let gst::QueryViewMut::Allocation(allocation) = query.view_mut() {
                // Frames may have any stride: whoever reads them looks at their description.
                allocation.add_allocation_meta::<gst_video::VideoMeta>(None);
                return true;
            }
            gst::Pad::query_default(pad, parent, query)
        })
        .build())
}
