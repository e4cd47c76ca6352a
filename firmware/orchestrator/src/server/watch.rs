//! What one connection has under way, and when enough is enough.
//!
//! Walk 1, step 1. HTTP leaves three ways to hold a connection for nothing: to ask for nothing, to ask once and stay
//! for ever behind answered pings, and to ask for much and never take it (over HTTP/2 without a stalled socket, by
//! giving no window). Each has its time here. Whoever takes what it asked for, and asks now and then, never notices.
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::time::Instant;

/// A connection that has asked for nothing by then was not made to ask.
const FIRST: Duration = Duration::from_secs(20);
/// How long a connection may stay without a request, as in stock.
const IDLE: Duration = Duration::from_secs(10 * 60);
/// How long a piece of an answer may wait to be taken, whatever its size …
pub(super) const TAKE: Duration = Duration::from_secs(20);
/// … and by how many bytes in a second it must be taken besides. A stock gateway gives up after four seconds.
const RATE: u64 = 64 << 10;
/// How often a connection is looked at.
const LOOK: Duration = Duration::from_secs(5);

/// Why a connection has had enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Enough {
    #[error("it asked for nothing")]
    Silent,
    #[error("it has been idle")]
    Idle,
    #[error("it does not take what it asked for")]
    Untaken,
}

/// What one connection has under way.
#[derive(Debug, Clone)]
pub(super) struct Watch(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    /// Since the last request ended, or the connection began.
    since: Instant,
    asked: bool,
    under_way: usize,
    /// When each piece of an answer that was not taken yet must be, and the next one's number.
    due: BTreeMap<u64, Instant>,
    next: u64,
}

impl Watch {
    pub(super) fn new() -> Self {
        let state = State { since: Instant::now(), asked: false, under_way: 0, due: BTreeMap::new(), next: 0 };
        Self(Arc::new(Mutex::new(state)))
    }

    /// A request begins; it ends when this, or the answer it is given to, is dropped.
    pub(super) fn begin(&self) -> UnderWay {
        let mut state = self.lock();
        state.asked = true;
        state.under_way += 1;
        UnderWay(self.clone())
    }

    /// Ends when the connection has had enough. Cancel safe.
    pub(super) async fn enough(&self) -> Enough {
        loop {
            tokio::time::sleep(LOOK).await;
            if let Some(enough) = self.judge() {
                return enough;
            }
        }
    }

    fn judge(&self) -> Option<Enough> {
        let mut state = self.lock();
        let now = Instant::now();
        let waited = now.saturating_duration_since(state.since);
        if state.due.values().any(|due| *due <= now) {
            Some(Enough::Untaken)
        } else if !state.asked && waited >= FIRST {
            Some(Enough::Silent)
        } else if state.under_way == 0 && waited >= IDLE {
            // It is told to go, and has as long again to do so.
            state.since = now;
            Some(Enough::Idle)
        } else {
            None
        }
    }

    fn lend(&self, bytes: u64) -> Due {
        let mut state = self.lock();
        let number = state.next;
        state.next += 1;
        state.due.insert(number, Instant::now() + TAKE + Duration::from_secs(bytes / RATE));
        Due { watch: self.clone(), number }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that is not done.
#[derive(Debug)]
pub(super) struct UnderWay(Watch);

impl UnderWay {
    /// The answer, watched until it is taken.
    pub(super) fn answer(self, body: Body) -> Answer {
        let waiting = Some(self.0.lend(0));
        Answer { body, under_way: self, waiting }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.under_way = state.under_way.saturating_sub(1);
        state.since = Instant::now();
    }
}

/// Something that is to be taken in time; it was when this is dropped.
#[derive(Debug)]
struct Due {
    watch: Watch,
    number: u64,
}

impl Drop for Due {
    fn drop(&mut self) {
        self.watch.lock().due.remove(&self.number);
    }
}

/// Bytes that the connection holds until the peer has taken them.
#[derive(Debug)]
struct Lent {
    bytes: Bytes,
    _due: Due,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The body of an answer. While nobody asks for its next piece, or has taken the last one, its time runs; while we are
/// the ones who are not ready, it does not.
#[derive(Debug)]
pub(super) struct Answer {
    body: Body,
    under_way: UnderWay,
    waiting: Option<Due>,
}

impl hyper::body::Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.waiting = None;
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        let watch = &self.under_way.0;
        let lend = |bytes: Bytes| {
            let _due = watch.lend(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
            Bytes::from_owner(Lent { bytes, _due })
        };
        let frame = frame.map(|read| read.map(|frame| frame.map_data(lend)));
        let waiting = frame.is_some().then(|| watch.lend(0));
        self.waiting = waiting;
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::poll_fn;
    use hyper::body::Body as _;
    use tokio::time::advance;

    use super::*;

    async fn next(answer: &mut Answer) -> Bytes {
        let frame = poll_fn(|context| Pin::new(&mut *answer).poll_frame(context)).await;
        frame.unwrap().unwrap().into_data().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_for_nothing_goes() {
        let watch = Watch::new();
        advance(FIRST - LOOK).await;
        assert_eq!(watch.judge(), None);
        advance(LOOK).await;
        assert_eq!(watch.judge(), Some(Enough::Silent));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_takes_as_long_as_it_takes_and_then_idling_begins() {
        let watch = Watch::new();
        let request = watch.begin();
        advance(2 * IDLE).await;
        assert_eq!(watch.judge(), None);
        drop(request);
        advance(IDLE - LOOK).await;
        assert_eq!(watch.judge(), None);
        advance(LOOK).await;
        assert_eq!(watch.judge(), Some(Enough::Idle));
        assert_eq!(watch.judge(), None, "it has time to go");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_never_asked_for_is_not_kept_for_ever() {
        let watch = Watch::new();
        let answer = watch.begin().answer(Body::from("not even begun"));
        advance(TAKE).await;
        assert_eq!(watch.judge(), Some(Enough::Untaken));
        drop(answer);
        assert_eq!(watch.judge(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_held_for_the_peer_must_be_taken_at_some_speed() {
        let watch = Watch::new();
        let mut answer = watch.begin().answer(Body::from(vec![7; 640 << 10]));
        let held = next(&mut answer).await;
        assert_eq!(held.len(), 640 << 10);
        drop(answer);
        advance(TAKE + Duration::from_secs(9)).await;
        assert_eq!(watch.judge(), None, "ten seconds more for so much");
        advance(Duration::from_secs(1)).await;
        assert_eq!(watch.judge(), Some(Enough::Untaken), "the body is gone, its bytes are not");
        drop(held);
        assert_eq!(watch.judge(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_we_do_not_have_yet_is_not_the_peers_fault() {
        let (send, receive) = tokio::sync::oneshot::channel::<Bytes>();
        let stream = futures_util::stream::once(async { receive.await.map_err(|error| error.to_string()) });
        let watch = Watch::new();
        let mut answer = watch.begin().answer(Body::from_stream(stream));
        let polled = poll_fn(|context| Poll::Ready(Pin::new(&mut answer).poll_frame(context).is_pending())).await;
        assert!(polled);
        advance(2 * TAKE).await;
        assert_eq!(watch.judge(), None);
        send.send(Bytes::from_static(b"at last")).unwrap();
        assert_eq!(next(&mut answer).await, "at last");
        advance(TAKE).await;
        assert_eq!(watch.judge(), Some(Enough::Untaken), "and nobody asks whether there is more");
    }
}
