//! The sessions of one stream: which orchestrator gets the next segment.
//!
//! A session is kept while its round trips stay within real time and nothing hangs in it. One that failed is dropped
//! and its orchestrator suspended for a discovery round, or for many after a false claim; suspended ones are used
//! again when nobody else answers.
//! When fewer than half of the orchestrators (eight at most) are at hand, the others are asked again.
//!
//! *Source:* livepeer-wire §1.4. Without a view of stakes the unknown draw is by latency, fastest first.
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use livepeer::capability::CapabilitySet;
use livepeer::profile::Profile;
use tokio::time::Instant;

use crate::gateway::{DiscoveryError, Gateway};
use crate::offer::Offer;
use crate::session::{SCORE_FLOOR, Session};

/// A session with a higher score is slower than real time.
const GOOD_SCORE: f64 = 1.0;
/// More sessions than this are never looked for beforehand.
const ENOUGH: usize = 8;
/// While somebody serves us the others are asked again at most so often.
const ASK_AGAIN: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(crate) struct Sessions {
    gateway: Arc<Gateway>,
    id: String,
    profiles: Arc<[Profile]>,
    needed: CapabilitySet,
    pool: tokio::sync::Mutex<Pool>,
}

#[derive(Debug, Default)]
struct Pool {
    open: Vec<Arc<Session>>,
    /// Offers nobody has tried yet, the next one last.
    unknown: Vec<(Uri, Offer)>,
    /// Rounds of discovery for which an orchestrator is avoided.
    suspended: BTreeMap<String, u32>,
    asked: Option<Instant>,
}

impl Sessions {
    pub(crate) fn new(gateway: Arc<Gateway>, id: String, profiles: Arc<[Profile]>, needed: CapabilitySet) -> Self {
        Self { gateway, id, profiles, needed, pool: tokio::sync::Mutex::default() }
    }

    /// The session for the next segment, which plays for `duration`.
    pub(crate) async fn pick(&self, duration: Duration) -> Result<Arc<Session>, DiscoveryError> {
        let mut pool = self.pool.lock().await;
        self.fill(&mut pool).await?;
        if let Some(session) = pool.best(duration) {
            return Ok(session);
        }
        if let Some((asked, offer)) = pool.unknown.pop() {
            tracing::debug!(orchestrator = %asked, session = %offer.auth_token.session_id, "session opened");
            let (gateway, profiles) = (Arc::clone(&self.gateway), Arc::clone(&self.profiles));
            let session = Session::new(gateway, asked, offer, self.id.clone(), profiles, self.needed.clone());
            let session = Arc::new(session);
            pool.open.push(Arc::clone(&session));
            return Ok(session);
        }
        let least_bad = pool.open.iter().min_by(|a, b| score(a).total_cmp(&score(b)));
        least_bad.cloned().ok_or_else(|| DiscoveryError { refusals: Vec::new() })
    }

    /// Asks for offers when there are too few.
    async fn fill(&self, pool: &mut Pool) -> Result<(), DiscoveryError> {
        let at_hand = pool.open.len() + pool.unknown.len();
        if at_hand >= self.gateway.known().div_ceil(2).clamp(1, ENOUGH)
            || at_hand > 0 && pool.asked.is_some_and(|asked| asked.elapsed() < ASK_AGAIN)
        {
            return Ok(());
        }
        pool.asked = Some(Instant::now());
        match self.gateway.discover(&self.needed).await {
            Ok(found) => pool.learn(found),
            Err(error) if at_hand == 0 => return Err(error),
            Err(error) => tracing::debug!(%error, "no more orchestrators were found"),
        }
        Ok(())
    }

    /// Drops a session that failed, and avoids its orchestrator for so many rounds of discovery.
    pub(crate) async fn suspend(&self, session: &Arc<Session>, rounds: u32) {
        let mut pool = self.pool.lock().await;
        let before = pool.open.len();
        pool.open.retain(|open| !Arc::ptr_eq(open, session));
        if pool.open.len() < before {
            let penalty = pool.suspended.entry(session.asked().to_string()).or_default();
            *penalty = penalty.saturating_add(rounds);
        }
    }

    /// Says goodbye to every orchestrator.
    pub(crate) async fn end(&self) {
        for session in std::mem::take(&mut self.pool.lock().await.open) {
            session.end().await;
        }
    }
}

fn score(session: &Arc<Session>) -> f64 {
    session.score().unwrap_or(0.0)
}

impl Pool {
    /// The best session that keeps up. One whose oldest segment is out for longer than it plays comes after the
    /// others, and is not used at all after twice that time.
    fn best(&self, duration: Duration) -> Option<Arc<Session>> {
        let patience = duration.max(SCORE_FLOOR);
        let waits = |session: &Arc<Session>| session.oldest_in_flight().unwrap_or_default();
        let good = self.open.iter().filter(|s| score(s) <= GOOD_SCORE && waits(s) < patience * 2);
        let key = |session: &Arc<Session>| (waits(session) >= patience, score(session));
        let best = good.min_by(|a, b| {
            let ((late_a, score_a), (late_b, score_b)) = (key(a), key(b));
            late_a.cmp(&late_b).then(score_a.total_cmp(&score_b))
        });
        best.cloned()
    }

    /// Takes in the offers of a discovery: the least suspended first, then the fastest.
    fn learn(&mut self, mut found: Vec<(Uri, Offer)>) {
        found.retain(|(uri, _)| self.open.iter().all(|session| session.asked() != uri));
        let penalty = |uri: &Uri| self.suspended.get(&uri.to_string()).copied().unwrap_or(0);
        found.sort_by_key(|(uri, _)| penalty(uri));
        found.reverse();
        self.unknown = found;
        self.suspended.retain(|_, rounds| {
            *rounds = rounds.saturating_sub(1);
            *rounds > 0
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use livepeer::address::Address;
    use livepeer::credentials::AuthToken;
    use livepeer::units::Timestamp;

    fn found(names: &[&'static str]) -> Vec<(Uri, Offer)> {
        let offer = |name: &&'static str| {
            let uri = Uri::from_static(name);
            let auth_token = AuthToken { token: vec![], session_id: "0".into(), expiration: Timestamp(0) };
            (uri.clone(), Offer { service_uri: uri, signer: Address::NULL, auth_token, terms: None, hashes: false })
        };
        names.iter().map(offer).collect()
    }

    #[test]
    fn the_fastest_comes_first_and_a_suspended_one_last() {
        let mut sessions = Pool::default();
        sessions.suspended.insert("https://a/".into(), 1);
        sessions.learn(found(&["https://a", "https://b", "https://c"]));
        let order: Vec<_> = std::iter::from_fn(|| sessions.unknown.pop()).map(|(uri, _)| uri.to_string()).collect();
        assert_eq!(order, ["https://b/", "https://c/", "https://a/"]);
        sessions.learn(found(&["https://a", "https://b"]));
        assert_eq!(sessions.unknown.pop().unwrap().0.to_string(), "https://a/", "its suspension is over");
    }
}
