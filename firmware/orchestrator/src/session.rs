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
//! A slot is taken by the first segment, not by the token; for some seconds after an offer one is held. When all are
//! taken, a new session is refused, unless its token continues a session whose own token was about to end when the
//! gateway asked: the new session succeeds that one in its slot, at its price. Gateways may have slots of their own,
//! which nobody else gets.
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use livepeer::address::Address;
use livepeer::price::PricePerPixel;
use livepeer::units::Timestamp;
use tokio::time::Instant;

use self::promises::{Holds, Links, MAX_LINKS};

mod promises;

/// How long a session lives without a segment; a stock gateway gives up after 60 seconds.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(70);
/// Segments of one session that may wait behind the running one, as in stock.
pub const QUEUE: usize = 4;
/// A session whose token ends within so many seconds may be continued under another: gateways ask for one when a tenth
/// of 30 minutes is left.
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
    /// Another session has taken over its slot; it ends with the segment in hand.
    succeeded: bool,
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

    fn is_succeeded(&self) -> bool {
        self.lock().succeeded
    }

    fn is_at_work(&self) -> bool {
        let state = self.lock();
        state.inside > 0 || state.queued > 0
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
    book: Mutex<Book>,
    counters: Mutex<Counters>,
    /// Slots that only this gateway gets.
    reserved: BTreeMap<Address, usize>,
}

#[derive(Debug, Default)]
struct Book {
    open: HashMap<String, Arc<Session>>,
    holds: Holds,
    links: Links,
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
        let mut book = self.sessions.book();
        let mut state = self.session.lock();
        state.inside = state.inside.saturating_sub(1);
        state.last_used = Instant::now();
        let vain = state.inside == 0 && !state.established;
        drop(state);
        if vain && book.open.remove(&self.session.id).is_some() {
            self.sessions.counters().ended += 1;
        }
    }
}

impl Sessions {
    /// No sessions yet; these gateways have slots that nobody else gets.
    #[must_use]
    pub fn new(reserved: BTreeMap<Address, usize>) -> Self {
        Self { reserved, ..Self::default() }
    }

    /// Enters a session with a segment; opens it when it is new and one of `max` slots is free for its owner, or
    /// its token continues a session here.
    ///
    /// # Errors
    /// [`Capped`]; never for a session that is open.
    pub fn enter(self: &Arc<Self>, visitor: &Visitor<'_>, max: usize) -> Result<Entered, Capped> {
        let mut book = self.book();
        let Visitor { id, owner, token_ends, now: _ } = *visitor;
        let mut succeeded = None;
        if !book.open.contains_key(id) {
            let refused = || {
                self.counters().refused += 1;
                Capped
            };
            let mut state = State {
                price: None,
                inside: 0,
                queued: 0,
                last_used: Instant::now(),
                established: false,
                video_seen: false,
                succeeded: false,
            };
            if let Some(link) = book.links.of(id).cloned() {
                state.price = link.price;
                let old = book.open.get(&link.predecessor).filter(|old| !old.is_succeeded()).cloned();
                match old {
                    Some(old) => {
                        state.video_seen = old.video_seen();
                        old.lock().succeeded = true;
                        if !old.is_at_work() {
                            book.open.remove(&old.id);
                            self.counters().ended += 1;
                            succeeded = Some(old.id.clone());
                        }
                    }
                    // Several tokens continue one session when its gateway asked more than once; which of them
                    // belongs to the stream nobody can tell, so a few get in beyond the slots.
                    None if book.used() >= max.saturating_add(max.div_ceil(4)) => return Err(refused()),
                    None => {}
                }
            } else if book.room(&self.reserved, owner, max) == 0 {
                return Err(refused());
            }
            book.holds.release(owner);
            let session =
                Session { id: id.to_owned(), owner, token_ends, state: Mutex::new(state), turn: Arc::default() };
            book.open.insert(id.to_owned(), Arc::new(session));
            self.counters().started += 1;
        }
        let session = Arc::clone(book.open.get(id).ok_or(Capped)?);
        let mut state = session.lock();
        state.inside += 1;
        state.last_used = Instant::now();
        drop(state);
        Ok(Entered { sessions: Arc::clone(self), session, succeeded })
    }

    /// Prepares for a gateway that asks for an offer under the token `id`. When it has a session here whose token is
    /// about to end, the new token continues that one, whose price is given back; otherwise a slot must be free,
    /// and is held for some seconds.
    ///
    /// # Errors
    /// [`Capped`] when there is neither.
    pub fn discover(
        &self,
        owner: Owner,
        id: &str,
        max: usize,
        now: Timestamp,
    ) -> Result<Option<PricePerPixel>, Capped> {
        let mut book = self.book();
        let Book { open, links, .. } = &mut *book;
        let refreshing = open
            .values()
            .filter(|session| session.owner == owner && session.is_refreshing(now) && !session.is_succeeded());
        // Those that nothing continues yet come first, and of them the one that ends first: so that each of many
        // streams gets a way on.
        let next = refreshing
            .map(|session| (links.to(&session.id), session.token_ends, session))
            .filter(|(linked, ..)| *linked < MAX_LINKS)
            .min_by(|one, other| (one.0, one.1, &one.2.id).cmp(&(other.0, other.1, &other.2.id)));
        if let Some((.., session)) = next {
            let price = session.price();
            if links.add(id, &session.id, price) {
                return Ok(price);
            }
        }
        let free = book.room(&self.reserved, owner, max);
        if free == 0 {
            return Err(Capped);
        }
        book.holds.hold(owner, free);
        Ok(None)
    }

    /// The open session of this id.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<Arc<Session>> {
        self.book().open.get(id).cloned()
    }

    /// Ends a session; its running segments finish. Says whether there was one.
    pub fn end(&self, id: &str) -> bool {
        let mut book = self.book();
        let ended = book.open.remove(id).is_some();
        book.links.forget(id);
        self.counters().ended += u64::from(ended);
        ended
    }

    /// Ends the sessions that were idle for so long, and those that others continue, and names them.
    pub fn expire(&self, idle: Duration) -> Vec<String> {
        let mut book = self.book();
        let over = |session: &&Arc<Session>| {
            let state = session.lock();
            let waits = state.inside == 0 && state.queued == 0;
            waits && (state.succeeded || state.last_used.elapsed() >= idle)
        };
        let ended: Vec<String> = book.open.values().filter(over).map(|session| session.id.clone()).collect();
        for id in &ended {
            if book.open.remove(id).is_some_and(|session| !session.is_succeeded()) {
                book.links.forget(id);
            }
            self.counters().ended += 1;
        }
        ended
    }

    /// Sessions open now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.book().used()
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

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn counters(&self) -> MutexGuard<'_, Counters> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    /// Slots in use: a session that another continues has none of its own.
    fn used(&self) -> usize {
        self.open.values().filter(|session| !session.is_succeeded()).count()
    }

    /// Slots that this owner could still take.
    fn room(&self, reserved: &BTreeMap<Address, usize>, owner: Owner, max: usize) -> usize {
        let used_by = |gateway: Address| {
            let theirs = |session: &&Arc<Session>| session.owner == Owner::Account(gateway) && !session.is_succeeded();
            self.open.values().filter(theirs).count()
        };
        let others = reserved.iter().filter(|(gateway, _)| Owner::Account(**gateway) != owner);
        let kept: usize = others.map(|(gateway, slots)| slots.saturating_sub(used_by(*gateway))).sum();
        max.saturating_sub(self.used().saturating_add(kept).saturating_add(self.holds.of_others(owner)))
    }
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

    const NOW: Timestamp = Timestamp(1000);

    #[tokio::test(start_paused = true)]
    async fn a_refreshed_token_continues_its_session_in_a_full_box() {
        let sessions = Arc::new(Sessions::default());
        let old = sessions.enter(&visitor("old", owner(1), 180), 1).unwrap();
        old.establish();
        old.session().saw_video();
        let price = old.session().fix_price(PricePerPixel::new(5, 1).unwrap());
        drop(old);
        assert_eq!(sessions.discover(owner(2), "other", 1, NOW), Err(Capped), "it is somebody else's");
        assert_eq!(sessions.discover(owner(1), "new", 1, NOW), Ok(Some(price)));
        assert_eq!(establish(&sessions, "other", owner(2), 1), Err(Capped));
        let entered = sessions.enter(&fresh("new", owner(1)), 1).unwrap();
        assert_eq!(entered.succeeded.as_deref(), Some("old"));
        assert_eq!((entered.session().price(), entered.session().video_seen()), (Some(price), true));
        assert!(sessions.get("old").is_none());
        assert_eq!(sessions.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refreshed_token_works_while_the_last_segment_is_still_in_hand() {
        let sessions = Arc::new(Sessions::default());
        let old = sessions.enter(&visitor("old", owner(1), 180), 1).unwrap();
        old.establish();
        sessions.discover(owner(1), "new", 1, NOW).unwrap();
        let new = sessions.enter(&fresh("new", owner(1)), 1).unwrap();
        new.establish();
        assert_eq!((new.succeeded.as_deref(), sessions.len()), (None, 1), "they share one slot");
        assert!(sessions.expire(IDLE_TIMEOUT).is_empty());
        drop(old);
        assert_eq!(sessions.expire(IDLE_TIMEOUT), ["old"]);
        assert!(sessions.get("new").is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn each_of_many_streams_gets_a_way_on_and_the_first_to_end_is_first() {
        let sessions = Arc::new(Sessions::default());
        for (id, left) in [("b", 200), ("a", 180), ("c", 1800)] {
            sessions.enter(&visitor(id, owner(1), left), 3).unwrap().establish();
        }
        for (new, old) in [("a2", "a"), ("b2", "b")] {
            sessions.discover(owner(1), new, 3, NOW).unwrap();
            let entered = sessions.enter(&fresh(new, owner(1)), 3).unwrap();
            entered.establish();
            assert_eq!(entered.succeeded.as_deref(), Some(old));
        }
        assert_eq!(sessions.discover(owner(1), "c2", 3, NOW), Err(Capped), "its token has long to go");
    }

    #[tokio::test(start_paused = true)]
    async fn tokens_that_were_asked_for_twice_do_not_cost_a_running_stream_its_place() {
        let sessions = Arc::new(Sessions::default());
        for id in ["a", "b", "c", "d"] {
            sessions.enter(&visitor(id, owner(1), if id == "a" { 180 } else { 1800 }), 4).unwrap().establish();
        }
        for id in ["1", "2", "3", "4"] {
            sessions.discover(owner(1), id, 4, NOW).unwrap();
        }
        assert_eq!(sessions.discover(owner(1), "5", 4, NOW), Err(Capped), "that is enough of one session");
        assert!(establish(&sessions, "2", owner(1), 4).is_ok() && establish(&sessions, "1", owner(1), 4).is_ok());
        assert_eq!(sessions.len(), 5, "a quarter beyond the slots …");
        assert_eq!(establish(&sessions, "3", owner(1), 4), Err(Capped), "… and not more");
        assert_eq!(establish(&sessions, "new", owner(1), 4), Err(Capped));
    }

    #[tokio::test(start_paused = true)]
    async fn a_gateway_that_was_given_an_offer_finds_its_slot_for_some_seconds() {
        let sessions = Arc::new(Sessions::default());
        assert_eq!(sessions.discover(owner(1), "a", 1, NOW), Ok(None));
        assert_eq!(sessions.discover(owner(2), "b", 1, NOW), Err(Capped));
        assert_eq!(establish(&sessions, "b", owner(2), 1), Err(Capped));
        assert_eq!(establish(&sessions, "a", owner(1), 1), Ok(()));
        assert!(sessions.end("a"));
        assert_eq!(sessions.discover(owner(1), "a", 1, NOW), Ok(None));
        tokio::time::advance(Duration::from_secs(6)).await;
        assert_eq!(establish(&sessions, "b", owner(2), 1), Ok(()), "it did not come");
    }

    #[tokio::test(start_paused = true)]
    async fn a_reserved_slot_is_for_its_gateway_alone() {
        let Owner::Account(friend) = owner(1) else { unreachable!() };
        let sessions = Arc::new(Sessions::new([(friend, 2)].into()));
        assert_eq!(establish(&sessions, "x", owner(2), 3), Ok(()));
        assert_eq!(establish(&sessions, "y", owner(3), 3), Err(Capped));
        assert_eq!(sessions.discover(owner(3), "y", 3, NOW), Err(Capped));
        assert_eq!(establish(&sessions, "a", owner(1), 3), Ok(()));
        assert_eq!(establish(&sessions, "b", owner(1), 3), Ok(()));
        assert_eq!(establish(&sessions, "c", owner(1), 3), Err(Capped));
        assert!(sessions.end("x"));
        assert_eq!(establish(&sessions, "c", owner(1), 3), Ok(()), "and may use the others' too");
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_stream_of_an_owner_does_not_push_out_the_first() {
        let sessions = Arc::new(Sessions::default());
        establish(&sessions, "first", owner(1), 1).unwrap();
        tokio::time::advance(IDLE_TIMEOUT / 2).await;
        assert_eq!(sessions.discover(owner(1), "second", 1, NOW), Err(Capped));
        assert_eq!(establish(&sessions, "second", owner(1), 1), Err(Capped));
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_with_a_segment_in_hand_does_not_expire() {
        let sessions = Arc::new(Sessions::default());
        let entered = sessions.enter(&visitor("old", owner(1), 0), 1).unwrap();
        entered.establish();
        tokio::time::advance(IDLE_TIMEOUT * 2).await;
        assert_eq!(establish(&sessions, "new", owner(1), 1), Err(Capped));
        assert!(sessions.expire(IDLE_TIMEOUT).is_empty());
        drop(entered);
        tokio::time::advance(IDLE_TIMEOUT).await;
        assert_eq!(sessions.expire(IDLE_TIMEOUT), ["old"]);
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
