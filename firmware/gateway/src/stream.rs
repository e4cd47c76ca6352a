//! The sessions of one stream: which orchestrator gets the next segment.
//!
//! A session is kept while its round trips stay within real time. One that failed is dropped and its
//! orchestrator suspended for a discovery round; suspended ones are used again when nobody else answers.
//!
//! *Source:* livepeer-wire §1.4. Without a view of stakes the unknown draw is by latency, fastest first.
use std::collections::BTreeMap;
use std::sync::Arc;

use http::Uri;
use livepeer::capability::CapabilitySet;
use livepeer::profile::Profile;

use crate::gateway::{DiscoveryError, Gateway};
use crate::offer::Offer;
use crate::session::Session;

/// A session with a higher score is slower than real time.
const GOOD_SCORE: f64 = 1.0;

#[derive(Debug)]
pub(crate) struct Stream {
    gateway: Arc<Gateway>,
    id: String,
    profiles: Arc<[Profile]>,
    needed: CapabilitySet,
    sessions: tokio::sync::Mutex<Sessions>,
}

#[derive(Debug, Default)]
struct Sessions {
    open: Vec<Arc<Session>>,
    /// Offers nobody has tried yet, the next one last.
    unknown: Vec<(Uri, Offer)>,
    /// Rounds of discovery for which an orchestrator is avoided.
    suspended: BTreeMap<String, u32>,
}

impl Stream {
    pub(crate) fn new(gateway: Arc<Gateway>, id: String, profiles: Arc<[Profile]>, needed: CapabilitySet) -> Self {
        Self { gateway, id, profiles, needed, sessions: tokio::sync::Mutex::default() }
    }

    /// The session for the next segment.
    pub(crate) async fn pick(&self) -> Result<Arc<Session>, DiscoveryError> {
        let mut sessions = self.sessions.lock().await;
        if let Some(session) = sessions.best(GOOD_SCORE) {
            return Ok(session);
        }
        if sessions.unknown.is_empty() && sessions.open.is_empty() {
            let found = self.gateway.discover(&self.needed).await?;
            sessions.learn(found);
        }
        if let Some((asked, offer)) = sessions.unknown.pop() {
            tracing::debug!(orchestrator = %asked, session = %offer.auth_token.session_id, "session opened");
            let (gateway, profiles) = (Arc::clone(&self.gateway), Arc::clone(&self.profiles));
            let session = Session::new(gateway, asked, offer, self.id.clone(), profiles, self.needed.clone());
            sessions.open.push(Arc::new(session));
        }
        let slow_is_better_than_none = f64::INFINITY;
        Ok(sessions.best(slow_is_better_than_none).expect("discovery brings at least one offer or an error"))
    }

    /// Drops a session that failed, and avoids its orchestrator for a while.
    pub(crate) async fn suspend(&self, session: &Arc<Session>) {
        let mut sessions = self.sessions.lock().await;
        let before = sessions.open.len();
        sessions.open.retain(|open| !Arc::ptr_eq(open, session));
        if sessions.open.len() < before {
            let penalty = sessions.suspended.entry(session.asked().to_string()).or_default();
            *penalty = penalty.saturating_add(1);
        }
    }

    /// Says goodbye to every orchestrator.
    pub(crate) async fn end(&self) {
        for session in std::mem::take(&mut self.sessions.lock().await.open) {
            session.end().await;
        }
    }
}

impl Sessions {
    fn best(&self, worst_score: f64) -> Option<Arc<Session>> {
        let score = |session: &Arc<Session>| session.score().unwrap_or(0.0);
        let good = self.open.iter().filter(|session| score(session) <= worst_score);
        good.min_by(|a, b| score(a).total_cmp(&score(b))).cloned()
    }

    /// Takes in the offers of a discovery: the least suspended first, then the fastest.
    fn learn(&mut self, mut found: Vec<(Uri, Offer)>) {
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
            (uri.clone(), Offer { service_uri: uri, signer: Address::NULL, auth_token, terms: None })
        };
        names.iter().map(offer).collect()
    }

    #[test]
    fn the_fastest_comes_first_and_a_suspended_one_last() {
        let mut sessions = Sessions::default();
        sessions.suspended.insert("https://a/".into(), 1);
        sessions.learn(found(&["https://a", "https://b", "https://c"]));
        let order: Vec<_> = std::iter::from_fn(|| sessions.unknown.pop()).map(|(uri, _)| uri.to_string()).collect();
        assert_eq!(order, ["https://b/", "https://c/", "https://a/"]);
        sessions.learn(found(&["https://a", "https://b"]));
        assert_eq!(sessions.unknown.pop().unwrap().0.to_string(), "https://a/", "its suspension is over");
    }
}
