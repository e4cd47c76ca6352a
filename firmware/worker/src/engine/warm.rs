//! What outlives a segment: elements that go on with the next one, and what they share of a device.
use std::sync::{Mutex, PoisonError};

use gstreamer as gst;
use gstreamer::prelude::*;

use crate::stage::Stage;

/// Most elements kept; a stream has a decoder and, for each of at most ten renditions, a scaler and an encoder. A
/// stream that keeps changing its sizes replaces the oldest.
const MOST: usize = 24;

/// A device opened by one element, for all others; opening it is the dear part.
#[derive(Debug, Default)]
pub(crate) struct Contexts(Mutex<Vec<gst::Context>>);

impl Contexts {
    /// Gives an element all there is.
    pub(crate) fn give(&self, element: &gst::Element) {
        for context in self.0.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            element.set_context(context);
        }
    }

    /// Takes what elements have made and told of.
    pub(crate) fn take(&self, bus: &gst::Bus) {
        while let Some(message) = bus.pop_filtered(&[gst::MessageType::HaveContext]) {
            let gst::MessageView::HaveContext(have) = message.view() else { continue };
            let context = have.context();
            let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            known.retain(|other| other.context_type() != context.context_type());
            known.push(context);
        }
    }
}

/// Elements between two segments.
#[derive(Debug, Default)]
pub(crate) struct Warm {
    pub(crate) contexts: Contexts,
    parked: Mutex<Vec<Parked>>,
}

/// An element that waits for the next segment.
#[derive(Debug)]
struct Parked {
    /// All that makes it fit: the elements, how they are set up, formats.
    key: String,
    stage: Stage,
    /// Where its time has come to.
    clock: gst::ClockTime,
    /// Was it passed over by the last segment?
    passed_over: bool,
}

impl Warm {
    /// A fitting element, if one waits, and where its time has come to.
    pub(crate) fn take(&self, key: &str) -> Option<(Stage, gst::ClockTime)> {
        let mut parked = self.parked.lock().unwrap_or_else(PoisonError::into_inner);
        let place = parked.iter().position(|waiting| waiting.key == key)?;
        let found = parked.swap_remove(place);
        Some((found.stage, found.clock))
    }

    /// Keeps an element that ended its segment well.
    pub(crate) fn park(&self, key: String, stage: Stage, clock: gst::ClockTime) {
        let mut parked = self.parked.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = (parked.len() >= MOST).then(|| parked.remove(0));
        parked.push(Parked { key, stage, clock, passed_over: false });
        drop(parked);
        // Closing may take a while; nobody need wait for it with the lock.
        drop(oldest);
    }

    /// A new segment begins: what the last one did not use is closed, as devices have few sessions.
    pub(crate) fn sweep(&self) {
        let mut parked = self.parked.lock().unwrap_or_else(PoisonError::into_inner);
        let (closing, mut kept): (Vec<_>, Vec<_>) = parked.drain(..).partition(|waiting| waiting.passed_over);
        kept.iter_mut().for_each(|waiting| waiting.passed_over = true);
        *parked = kept;
        drop(parked);
        drop(closing);
    }

    /// Closes all that wait.
    pub(crate) fn clear(&self) {
        let closing = std::mem::take(&mut *self.parked.lock().unwrap_or_else(PoisonError::into_inner));
        drop(closing);
    }

    /// How many wait.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.parked.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}
