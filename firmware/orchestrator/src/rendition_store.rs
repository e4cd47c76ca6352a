//! Renditions waiting to be fetched, in memory, under `/stream/<session>/<profile>/<seq>.<ext>`.
//!
//! Walk 1, step 10. Each is kept for a minute at least; after that the last dozen of each profile stay while
//! their session lives, as stock gateways expect. All of it lies under one bound in bytes: when that is
//! reached the oldest goes first, whatever its age, and is counted. A rendition's MPEG-7 signature lies beside it,
//! under its path and `.phash`, and shares its life.
use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

/// How long a rendition can be fetched at least.
const KEEP: Duration = Duration::from_secs(60);
/// How many renditions of a profile are kept beyond that time, while the session lives.
const KEEP_LAST: usize = 12;

/// What the path of a signature ends in, as stock gateways expect.
const SIGNATURE: &str = ".phash";

/// A rendition as it is served.
#[derive(Debug, Clone)]
pub struct Stored {
    /// The file.
    pub media: Bytes,
    /// Its media type.
    pub media_type: &'static str,
    /// The MPEG-7 signature of its pictures, if it has one.
    pub signature: Option<Bytes>,
}

impl Stored {
    fn bytes(&self) -> usize {
        self.media.len() + self.signature.as_ref().map_or(0, Bytes::len)
    }
}

/// The store.
#[derive(Debug)]
pub struct RenditionStore {
    max_bytes: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    objects: HashMap<String, Stored>,
    /// Oldest first.
    order: VecDeque<Entry>,
    bytes: usize,
    evicted_early: u64,
}

#[derive(Debug)]
struct Entry {
    path: String,
    session: String,
    profile: String,
    since: Instant,
    orphaned: bool,
}

/// Where a rendition is served: the path of its URL. Names are escaped whole, so no name can leave its place.
#[must_use]
pub fn path(session: &str, profile: &str, seq: i64, extension: &str) -> String {
    format!("/stream/{}/{}/{seq}.{extension}", escape(session), escape(profile))
}

/// Where the signature of the rendition at `path`, or at a whole URL, is served.
#[must_use]
pub fn signature_path(path: &str) -> String {
    format!("{path}{SIGNATURE}")
}

/// Percent-encodes all but letters, digits, `-` and `_`.
fn escape(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut escaped, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => escaped.push(char::from(byte)),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
        escaped
    })
}

impl RenditionStore {
    /// An empty store that holds at most so many bytes.
    #[must_use]
    pub fn new(max_bytes: usize) -> Self {
        Self { max_bytes, inner: Mutex::default() }
    }

    /// Keeps the rendition of a session and profile; an older one at the same path is replaced.
    pub fn put(&self, path: String, session: &str, profile: &str, stored: Stored) {
        let mut inner = self.lock();
        inner.forget(&path);
        inner.order.retain(|entry| entry.path != path);
        inner.bytes += stored.bytes();
        inner.order.push_back(Entry {
            path: path.clone(),
            session: session.to_owned(),
            profile: profile.to_owned(),
            since: Instant::now(),
            orphaned: false,
        });
        inner.objects.insert(path, stored);
        while inner.bytes > self.max_bytes {
            let Some(oldest) = inner.order.pop_front() else { break };
            inner.forget(&oldest.path);
            if oldest.since.elapsed() < KEEP {
                inner.evicted_early += 1;
                tracing::warn!(path = oldest.path, "rendition dropped early: rendition_memory_mib is too small");
            }
        }
    }

    /// The rendition at exactly this path, or the signature of one.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<Stored> {
        let inner = self.lock();
        // A rendition's path ends in its container's extension, so none is taken for another's signature.
        let Some(rendition) = path.strip_suffix(SIGNATURE) else { return inner.objects.get(path).cloned() };
        let media = inner.objects.get(rendition)?.signature.clone()?;
        Some(Stored { media, media_type: "application/octet-stream", signature: None })
    }

    /// The session is over: its renditions go as soon as their minute is.
    pub fn orphan(&self, session: &str) {
        for entry in &mut self.lock().order {
            entry.orphaned |= entry.session == session;
        }
    }

    /// Drops what is older than it must be kept.
    pub fn sweep(&self) {
        let mut inner = self.lock();
        let mut newer: HashMap<(String, String), usize> = HashMap::new();
        let mut gone = Vec::new();
        for entry in inner.order.iter().rev() {
            let place = newer.entry((entry.session.clone(), entry.profile.clone())).or_default();
            *place += 1;
            if entry.since.elapsed() >= KEEP && (entry.orphaned || *place > KEEP_LAST) {
                gone.push(entry.path.clone());
            }
        }
        for path in gone {
            inner.forget(&path);
        }
        let Inner { objects, order, .. } = &mut *inner;
        order.retain(|entry| objects.contains_key(&entry.path));
    }

    /// Bytes held now, and renditions dropped before their time so far.
    #[must_use]
    pub fn usage(&self) -> (usize, u64) {
        let inner = self.lock();
        (inner.bytes, inner.evicted_early)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn forget(&mut self, path: &str) {
        if let Some(old) = self.objects.remove(path) {
            self.bytes = self.bytes.saturating_sub(old.bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(store: &RenditionStore, seq: i64, bytes: usize) -> String {
        let path = path("5e55", "720p", seq, "ts");
        let stored = Stored { media: Bytes::from(vec![0; bytes]), media_type: "video/mp2t", signature: None };
        store.put(path.clone(), "5e55", "720p", stored);
        path
    }

    #[tokio::test(start_paused = true)]
    async fn a_rendition_can_be_fetched_for_a_minute() {
        let store = RenditionStore::new(1000);
        let paths: Vec<_> = (0..20).map(|seq| put(&store, seq, 10)).collect();
        store.orphan("5e55");
        tokio::time::advance(Duration::from_secs(59)).await;
        store.sweep();
        assert!(paths.iter().all(|path| store.get(path).is_some()));
        tokio::time::advance(Duration::from_secs(1)).await;
        store.sweep();
        assert!(paths.iter().all(|path| store.get(path).is_none()));
        assert_eq!(store.usage(), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_dozen_of_a_live_session_stay() {
        let store = RenditionStore::new(1000);
        let paths: Vec<_> = (0..20).map(|seq| put(&store, seq, 10)).collect();
        tokio::time::advance(KEEP).await;
        store.sweep();
        let kept = paths.iter().filter(|path| store.get(path).is_some()).count();
        assert_eq!(kept, KEEP_LAST);
        assert!(store.get(&paths[19]).is_some());
    }

    #[tokio::test]
    async fn every_queue_is_bounded_and_says_what_it_drops() {
        let store = RenditionStore::new(25);
        let paths: Vec<_> = (0..3).map(|seq| put(&store, seq, 10)).collect();
        assert!(store.get(&paths[0]).is_none());
        assert!(store.get(&paths[2]).is_some());
        assert_eq!(store.usage(), (20, 1));
        put(&store, 2, 15);
        assert_eq!(store.usage(), (25, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_signature_lies_beside_its_rendition_and_shares_its_life() {
        let store = RenditionStore::new(25);
        let path = path("5e55", "720p", 0, "ts");
        let (media, signature) = (Bytes::from_static(b"twenty bytes of film"), Bytes::from_static(b"four"));
        let stored = Stored { media: media.clone(), media_type: "video/mp2t", signature: Some(signature.clone()) };
        store.put(path.clone(), "5e55", "720p", stored);
        assert_eq!(store.usage(), (24, 0));
        assert_eq!(store.get(&path).unwrap().media, media);
        let beside = store.get(&signature_path(&path)).unwrap();
        assert_eq!((beside.media, beside.media_type), (signature, "application/octet-stream"));
        assert!(store.get(&signature_path(&signature_path(&path))).is_none());
        let unsigned = put(&store, 1, 10);
        assert!(store.get(&signature_path(&unsigned)).is_none());
        assert_eq!((store.get(&path).is_none(), store.get(&signature_path(&path)).is_none()), (true, true));
        assert_eq!(store.usage(), (10, 1));
    }

    #[test]
    fn a_profile_name_cannot_leave_its_place() {
        assert_eq!(path("ab", "../../etc", 7, "ts"), "/stream/ab/%2E%2E%2F%2E%2E%2Fetc/7.ts");
        assert_eq!(path("ab", "P720p30fps16x9", -1, "ts"), "/stream/ab/P720p30fps16x9/-1.ts");
    }
}
