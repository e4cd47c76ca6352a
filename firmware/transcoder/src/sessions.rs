//! The sessions we have: no more than we said we take, and forgotten when they are silent.
//!
//! *Source:* livepeer-wire §8, §12 row 9.
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How long a session lives without a segment: longer than with any orchestrator, which tells us when one is over.
const IDLE: Duration = Duration::from_secs(80);

/// All sessions are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("TranscoderBusy")]
pub(crate) struct Full;

/// The sessions of all orchestrators, each under the name our workers know it by.
#[derive(Debug)]
pub(crate) struct Sessions {
    most: usize,
    open: Mutex<HashMap<String, Entry>>,
}

#[derive(Debug)]
struct Entry {
    /// Segments in hand.
    inside: usize,
    last_used: Instant,
    /// It is over as soon as nothing is in hand.
    closing: bool,
    /// Had a segment of it pictures?
    video_seen: bool,
}

/// A segment's stay in its session.
#[derive(Debug)]
pub(crate) struct Stay {
    sessions: Arc<Sessions>,
    pub(crate) name: String,
}

impl Sessions {
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, open: Mutex::default() })
    }

    /// A segment of this session arrives.
    pub(crate) fn enter(self: &Arc<Self>, name: &str) -> Result<Stay, Full> {
        let mut open = self.lock();
        if !open.contains_key(name) && open.len() >= self.most {
            return Err(Full);
        }
        let fresh = || Entry { inside: 0, last_used: Instant::now(), closing: false, video_seen: false };
        let entry = open.entry(name.to_owned()).or_insert_with(fresh);
        (entry.inside, entry.closing) = (entry.inside + 1, false);
        Ok(Stay { sessions: Arc::clone(self), name: name.to_owned() })
    }

    /// Sessions that match are over, those with segments in hand as soon as these are done.
    pub(crate) fn close(&self, matches: impl Fn(&str) -> bool) {
        for (_, entry) in self.lock().iter_mut().filter(|(name, _)| matches(name)) {
            entry.closing = true;
        }
    }

    /// Takes out the sessions that are over.
    pub(crate) fn sweep(&self) -> Vec<String> {
        let over =
            |_: &String, entry: &mut Entry| entry.inside == 0 && (entry.closing || entry.last_used.elapsed() >= IDLE);
        self.lock().extract_if(over).map(|(name, _)| name).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stay {
    pub(crate) fn video_seen(&self) -> bool {
        self.sessions.lock().get(&self.name).is_some_and(|entry| entry.video_seen)
    }

    pub(crate) fn saw_video(&self) {
        if let Some(entry) = self.sessions.lock().get_mut(&self.name) {
            entry.video_seen = true;
        }
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        if let Some(entry) = self.sessions.lock().get_mut(&self.name) {
            entry.inside = entry.inside.saturating_sub(1);
            entry.last_used = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn no_more_sessions_are_taken_than_were_offered() {
        let sessions = Sessions::new(2);
        let (one, again, two) =
            (sessions.enter("1").unwrap(), sessions.enter("1").unwrap(), sessions.enter("2").unwrap());
        assert_eq!(sessions.enter("3").unwrap_err(), Full);
        sessions.close(|name| name == "1");
        drop(one);
        assert!(sessions.sweep().is_empty(), "a segment of it is still in hand");
        drop(again);
        assert_eq!(sessions.sweep(), ["1"]);
        let three = sessions.enter("3").unwrap();
        drop((two, three));
        tokio::time::advance(IDLE / 2).await;
        drop(sessions.enter("3"));
        tokio::time::advance(IDLE / 2).await;
        assert_eq!(sessions.sweep(), ["2"], "only the silent one is over");
    }
}
