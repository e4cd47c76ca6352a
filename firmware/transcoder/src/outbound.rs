//! All orchestrators we transcode for, as one task.
use std::sync::Arc;
use std::time::Duration;

use livepeer::capability::CapabilitySet;
use orchestrator::pool::Transcoder;
use service::Secret;
use service::status::OrchestratorLink;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::board::Board;
use crate::config::Config;
use crate::http::Http;
use crate::job::Bench;
use crate::link::Link;
use crate::sessions::Sessions;
use crate::tls::{Trust, TrustError};

/// How often sessions that are over are looked for.
const TIDY: Duration = Duration::from_secs(1);

/// The outbound side of a node.
#[derive(Debug, Clone)]
pub struct Outbound {
    board: Board,
    sessions: Arc<Sessions>,
    capacity: usize,
    drain: Duration,
}

impl Outbound {
    /// As configured, with room for `capacity` sessions.
    #[must_use]
    pub fn new(config: &Config, capacity: usize) -> Self {
        Self {
            board: Board::new(config.orchestrators.iter().map(|target| target.address.to_string())),
            sessions: Sessions::new(capacity),
            capacity,
            drain: Duration::from_secs(config.drain_s),
        }
    }

    /// Transcodes for the orchestrators, each with its secret in `secrets`, until `stop`; then finishes what is in
    /// hand. `can` says what the workers can do.
    ///
    /// # Errors
    /// [`TrustError`] when a pinned certificate cannot be used.
    pub async fn run<T: Transcoder>(
        &self,
        config: &Config,
        secrets: Vec<Secret>,
        transcoder: Arc<T>,
        can: Arc<dyn Fn() -> CapabilitySet + Send + Sync>,
        stop: CancellationToken,
    ) -> Result<(), TrustError> {
        let work = TaskTracker::new();
        let mut links = JoinSet::new();
        for (rank, (target, secret)) in config.orchestrators.iter().zip(secrets).enumerate() {
            let trust = Trust::of(target)?;
            let bench = Arc::new(Bench {
                transcoder: Arc::clone(&transcoder),
                can: Arc::clone(&can),
                sessions: Arc::clone(&self.sessions),
                http: Http::new(target.address.authority().clone(), &trust),
                secret,
                rank,
            });
            let (address, board) = (target.address.clone(), self.board.clone());
            let link = Link { address, trust, capacity: self.capacity, bench, board, work: work.clone() };
            links.spawn(link.run(stop.clone()));
        }
        let mut tick = tokio::time::interval(TIDY);
        loop {
            tokio::select! {
                _ = tick.tick() => {
                    for session in self.sessions.sweep() {
                        transcoder.end_session(&session);
                    }
                }
                ended = links.join_next() => match ended {
                    None => break,
                    Some(Ok(())) => {}
                    Some(Err(error)) => tracing::error!(%error, "a link panicked: report this, with the lines before it"),
                },
            }
        }
        work.close();
        if tokio::time::timeout(self.drain, work.wait()).await.is_err() {
            tracing::warn!(segments = work.len(), "segments were cut off at the end of the drain");
        }
        Ok(())
    }

    /// Where we stand with each orchestrator.
    #[must_use]
    pub fn status(&self) -> Vec<OrchestratorLink> {
        self.board.status()
    }

    /// Sessions now, and at most.
    #[must_use]
    pub fn sessions(&self) -> (usize, usize) {
        (self.sessions.len(), self.capacity)
    }
}
