//! Sessions: what one is, and who may have one.
//!
//! Walk 1, steps 2 and 4.
//!
//! ```text
//!             enter (slot free)                     idle 70 s, ended by the gateway, or
//!   (token) ──────────────────► Open{price, queue} ──────────────────────────────────► Ended
//!                                    ▲    │           succeeded by a refreshed token
//!                                    └────┘ enter again: never refused
//! ```
//! A slot is taken by the first segment, not by the token. When all are taken, a new session is refused,
//! unless its owner has a silent session here whose token is about to end: that is a gateway that refreshed its
//! token, and the new session succeeds the old one in its slot.
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use livepeer::address::Address;
use livepeer::price::PricePerPixel;
use livepeer::units::Timestamp;
use tokio::time::Instant;

/// How long a session lives without a segment; a stock gateway gives up after 60 seconds.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(70);
/// Segments of one session that may wait behind the running one, as in stock.
pub const QUEUE: usize = 4;
/// A session that was silent for so long may be succeeded …
const SUCCEEDED_AFTER: Duration = Duration::from_millis(1000);
/// … when its token ends within so many seconds: gateways ask for a new one when a tenth of 30 minutes is left.
const REFRESHED_WITHIN_S: i64 = 4 * 60;

/// Whose session it is: the paying account, or off-chain, where nobody proves one, the peer's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Owner {
    /// On chain.
    Account(Address),
    /// Off-chain.
    Peer(IpAddr),
}

/// All slots are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("OrchestratorCapped")]
pub struct Capped;

/// The session's queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("OrchestratorBusy")]
pub struct Busy;

/// One session.
#[derive(Debug)]
pub struct Session {
    id: String,
    owner: Owner,
    /// When its token ends.
    token_ends: Timestamp,
    state: Mutex<State>,
    /// Fair: segments run in the order in which they came.
    turn: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Debug)]
struct State {
    price: Option<PricePerPixel>,
    inside: usize,
    queued: usize,
    last_used: Instant,
    established: bool,
    video_seen: bool,
}

impl Session {
    /// The session's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The price fixed by the first payment.
    #[must_use]
    pub fn price(&self) -> Option<PricePerPixel> {
        self.lock().price
    }

    /// Fixes the price when it is not yet; returns the one that holds.
    pub fn fix_price(&self, price: PricePerPixel) -> PricePerPixel {
        *self.lock().price.get_or_insert(price)
    }

    /// Did a segment of it have pictures?
    #[must_use]
    pub fn video_seen(&self) -> bool {
        self.lock().video_seen
    }

    /// A segment of it had pictures: from now on one may come with sound alone.
    pub fn saw_video(&self) {
        self.lock().video_seen = true;
    }

    /// Waits in line: one segment of a session runs at a time, [`QUEUE`] may wait.
    ///
    /// # Errors
    /// [`Busy`] when the line is full.
    pub async fn turn(self: &Arc<Self>) -> Result<Turn, Busy> {
        {
            let mut state = self.lock();
            if state.queued > QUEUE {
                return Err(Busy);
            }
            state.queued += 1;
        }
        let mut turn = Turn { session: Arc::clone(self), guard: None };
        turn.guard = Some(Arc::clone(&self.turn).lock_owned().await);
        Ok(turn)
    }

    /// Is its token so near its end that the gateway has asked, or will ask, for another?
    fn is_refreshing(&self, now: Timestamp) -> bool {
        self.token_ends.0.saturating_sub(now.0) <= REFRESHED_WITHIN_S
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to run a segment of a session; the next in line follows when it is dropped.
#[derive(Debug)]
pub struct Turn {
    session: Arc<Session>,
    guard: Option<tokio::sync::OwnedMutexGuard<()>>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.guard.take();
        let mut state = self.session.lock();
        state.queued = state.queued.saturating_sub(1);
        state.last_used = Instant::now();
    }
}

/// All sessions.
#[derive(Debug, Default)]
pub struct Sessions {
    open: Mutex<HashMap<String, Arc<Session>>>,
    counters: Mutex<Counters>,
}

/// Sessions since start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Opened.
    pub started: u64,
    /// Ended.
    pub ended: u64,
    /// Turned away.
    pub refused: u64,
}

/// Who wants to enter a session.
#[derive(Debug, Clone, Copy)]
pub struct Visitor<'a> {
    /// The session's id.
    pub id: &'a str,
    /// Whose it is.
    pub owner: Owner,
    /// When its token ends.
    pub token_ends: Timestamp,
    /// Now.
    pub now: Timestamp,
}

/// A segment inside a session. A session whose first segment is refused does not keep its slot.
#[derive(Debug)]
pub struct Entered {
    sessions: Arc<Sessions>,
    session: Arc<Session>,
    /// The session whose slot this one took over, to be ended.
    pub succeeded: Option<String>,
}

impl Entered {
    /// The session.
    #[must_use]
    pub fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// The segment was accepted: from now on the session keeps its slot.
    pub fn establish(&self) {
        self.session.lock().established = true;
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut open = self.sessions.open();
        let mut state = self.session.lock();
        state.inside = state.inside.saturating_sub(1);
        state.last_used = Instant::now();
        let vain = state.inside == 0 && !state.established;
        drop(state);
        if vain && open.remove(&self.session.id).is_some() {
            self.sessions.counters().ended += 1;
        }
    }
}

impl Sessions {
    /// Enters a session with a segment; opens it when it is new and one of `max` slots is free or its owner
    /// hands one on.
    ///
    /// # Errors
    /// [`Capped`]; never for a session that is open.
    pub fn enter(self: &Arc<Self>, visitor: &Visitor<'_>, max: usize) -> Result<Entered, Capped> {
        let mut open = self.open();
        let Visitor { id, owner, token_ends, now } = *visitor;
        let mut succeeded = None;
        let mut video_seen = false;
        if !open.contains_key(id) {
            if open.len() >= max {
                let old = predecessor(&open, owner, now).ok_or_else(|| {
                    self.counters().refused += 1;
                    Capped
                })?;
                video_seen = open.remove(&old).is_some_and(|session| session.video_seen());
                self.counters().ended += 1;
                succeeded = Some(old);
            }
            let last_used = Instant::now();
            let state = State { price: None, inside: 0, queued: 0, last_used, established: false, video_seen };
            let session =
                Session { id: id.to_owned(), owner, token_ends, state: Mutex::new(state), turn: Arc::default() };
            open.insert(id.to_owned(), Arc::new(session));
            self.counters().started += 1;
        }
        let session = Arc::clone(open.get(id).ok_or(Capped)?);
        let mut state = session.lock();
        state.inside += 1;
        state.last_used = Instant::now();
        drop(state);
        Ok(Entered { sessions: Arc::clone(self), session, succeeded })
    }

    /// Would a new session of this owner find a slot now? Asked at discovery, where nothing is taken yet.
    #[must_use]
    pub fn has_room(&self, owner: Owner, max: usize, now: Timestamp) -> bool {
        let open = self.open();
        open.len() < max || open.values().any(|session| session.owner == owner && session.is_refreshing(now))
    }

    /// The open session of this id.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<Arc<Session>> {
        self.open().get(id).cloned()
    }

    /// Ends a session; its running segments finish. Says whether there was one.
    pub fn end(&self, id: &str) -> bool {
        let ended = self.open().remove(id).is_some();
        self.counters().ended += u64::from(ended);
        ended
    }

    /// Ends the sessions that were idle for too long, and names them.
    pub fn expire(&self) -> Vec<String> {
        let mut open = self.open();
        let idle = |session: &Arc<Session>| {
            let state = session.lock();
            state.inside == 0 && state.queued == 0 && state.last_used.elapsed() >= IDLE_TIMEOUT
        };
        let ended: Vec<String> = open.values().filter(|s| idle(s)).map(|session| session.id.clone()).collect();
        for id in &ended {
            open.remove(id);
            self.counters().ended += 1;
        }
        ended
    }

    /// Sessions open now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.open().len()
    }

    /// Is no session open?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sessions since start.
    #[must_use]
    pub fn counted(&self) -> Counters {
        *self.counters()
    }

    fn open(&self) -> MutexGuard<'_, HashMap<String, Arc<Session>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn counters(&self) -> MutexGuard<'_, Counters> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Of the owner's sessions whose token is about to end, the one that was silent longest, if long enough.
fn predecessor(open: &HashMap<String, Arc<Session>>, owner: Owner, now: Timestamp) -> Option<String> {
    let refreshing = |session: &&Arc<Session>| session.owner == owner && session.is_refreshing(now);
    let silent = open.values().filter(refreshing).filter_map(|session| {
        let state = session.lock();
        let silent = state.inside == 0 && state.queued == 0 && state.last_used.elapsed() >= SUCCEEDED_AFTER;
        silent.then(|| (state.last_used, session.id.clone()))
    });
    silent.min().map(|(_, id)| id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(last: u8) -> Owner {
        let mut bytes = [0; 20];
        bytes[19] = last;
        Owner::Account(Address::from_bytes(&bytes).unwrap())
    }

    /// Somebody whose token has this many seconds left.
    fn visitor(id: &str, owner: Owner, left: i64) -> Visitor<'_> {
        Visitor { id, owner, token_ends: Timestamp(1000 + left), now: Timestamp(1000) }
    }

    fn fresh(id: &str, owner: Owner) -> Visitor<'_> {
        visitor(id, owner, 1800)
    }

    fn establish(sessions: &Arc<Sessions>, id: &str, who: Owner, max: usize) -> Result<(), Capped> {
        sessions.enter(&fresh(id, who), max).map(|entered| entered.establish())
    }

    #[tokio::test(start_paused = true)]
    async fn a_running_session_is_never_refused() {
        let sessions = Arc::new(Sessions::default());
        establish(&sessions, "a", owner(1), 1).unwrap();
        assert_eq!(establish(&sessions, "b", owner(2), 1), Err(Capped));
        assert_eq!(establish(&sessions, "a", owner(1), 0), Ok(()));
        assert_eq!(sessions.counted(), Counters { started: 1, ended: 0, refused: 1 });
    }

    #[tokio::test(start_paused = true)]
    async fn a_refreshed_session_succeeds_the_old_one_of_its_owner() {
        let sessions = Arc::new(Sessions::default());
        sessions.enter(&visitor("old", owner(1), 180), 1).unwrap().establish();
        let now = Timestamp(1000);
        assert!(sessions.has_room(owner(1), 1, now) && !sessions.has_room(owner(2), 1, now));
        assert_eq!(establish(&sessions, "new", owner(1), 1), Err(Capped), "the old one was just here");
        tokio::time::advance(SUCCEEDED_AFTER).await;
        assert_eq!(establish(&sessions, "new", owner(2), 1), Err(Capped));
        let entered = sessions.enter(&fresh("new", owner(1)), 1).unwrap();
        assert_eq!(entered.succeeded.as_deref(), Some("old"));
        assert!(sessions.get("old").is_none());
        assert_eq!(sessions.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_stream_of_an_owner_does_not_push_out_the_first() {
        let sessions = Arc::new(Sessions::default());
        establish(&sessions, "first", owner(1), 1).unwrap();
        tokio::time::advance(IDLE_TIMEOUT / 2).await;
        assert!(!sessions.has_room(owner(1), 1, Timestamp(1000)));
        assert_eq!(establish(&sessions, "second", owner(1), 1), Err(Capped));
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_with_a_segment_in_hand_is_not_succeeded_and_does_not_expire() {
        let sessions = Arc::new(Sessions::default());
        let entered = sessions.enter(&visitor("old", owner(1), 0), 1).unwrap();
        entered.establish();
        tokio::time::advance(IDLE_TIMEOUT * 2).await;
        assert_eq!(establish(&sessions, "new", owner(1), 1), Err(Capped));
        assert!(sessions.expire().is_empty());
        drop(entered);
        tokio::time::advance(IDLE_TIMEOUT).await;
        assert_eq!(sessions.expire(), ["old"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_whose_first_segment_is_refused_keeps_no_slot() {
        let sessions = Arc::new(Sessions::default());
        drop(sessions.enter(&fresh("a", owner(1)), 1).unwrap());
        assert!(sessions.is_empty());
        establish(&sessions, "b", owner(2), 1).unwrap();
        assert_eq!(sessions.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_price_of_a_session_does_not_move() {
        let sessions = Arc::new(Sessions::default());
        let entered = sessions.enter(&fresh("a", owner(1)), 1).unwrap();
        let (first, second) = (PricePerPixel::new(5, 1).unwrap(), PricePerPixel::FREE);
        assert_eq!(entered.session().fix_price(first), first);
        assert_eq!(entered.session().fix_price(second), first);
    }

    #[tokio::test(start_paused = true)]
    async fn segments_run_one_after_another_and_four_may_wait() {
        let sessions = Arc::new(Sessions::default());
        let entered = sessions.enter(&fresh("a", owner(1)), 1).unwrap();
        let session = Arc::clone(entered.session());
        let first = session.turn().await.unwrap();
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut waiting = tokio::task::JoinSet::new();
        for number in 0..QUEUE {
            let (session, order) = (Arc::clone(&session), Arc::clone(&order));
            waiting.spawn(async move {
                let turn = session.turn().await.unwrap();
                order.lock().unwrap().push(number);
                drop(turn);
            });
            tokio::task::yield_now().await;
        }
        assert_eq!(session.turn().await.err(), Some(Busy));
        assert!(order.lock().unwrap().is_empty());
        drop(first);
        while waiting.join_next().await.is_some() {}
        assert_eq!(*order.lock().unwrap(), [0, 1, 2, 3]);
        assert!(session.turn().await.is_ok());
    }
}
