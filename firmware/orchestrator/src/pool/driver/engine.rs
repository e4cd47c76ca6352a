//! What the workers encode with, and what happens when that fails.
//!
//! A worker that is lost makes its engine suspect: workers of it that have no session go, the next best engine takes
//! over at once, and the suspect proves itself beside all this. What needs time runs on threads made for that.
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Driver, Member};
use crate::engines::{Engines, Selected};
use crate::pool::spawn::WorkerId;
use crate::pool::state::{Event, Phase};

/// How soon something better is tried at the earliest, so that a clock that jumps does not make us spin.
const SOONEST: Duration = Duration::from_secs(1);

/// How long the node waits at its start for engines to prove themselves.
const AT_START: Duration = Duration::from_secs(20);

/// What a choice that is under way comes to; waits for ever when none is. Cancel safe: the choice goes on.
pub(super) async fn proved(proving: &mut Option<JoinHandle<Selected>>) -> Option<Selected> {
    let Some(handle) = proving else { return std::future::pending().await };
    let outcome = handle.await;
    *proving = None;
    outcome.inspect_err(|error| tracing::error!(%error, "the choice of an engine broke")).ok()
}

impl Driver {
    /// Finds out what the box has. On another box the cache of plugins is made anew, as it lists hardware.
    pub(super) async fn look_at_hardware(&self) {
        let Some(engines) = self.config.engines.clone() else { return };
        let registry = self.config.registry.clone();
        let looked = tokio::task::spawn_blocking(move || {
            if engines.look()
                && let Some(registry) = registry
            {
                // Fails when there is none, which is what is wanted.
                let _ = std::fs::remove_file(registry);
            }
        });
        if let Err(error) = looked.await {
            tracing::error!(%error, "the hardware could not be looked at");
        }
    }

    /// Waits a while for the best engine that proves itself; then begins with the best that is known to be good.
    pub(super) async fn choose_engine(&mut self, stop: &CancellationToken) {
        let Some(engines) = self.config.engines.clone() else { return };
        self.prove();
        let selected = tokio::select! {
            selected = proved(&mut self.proving) => selected,
            () = tokio::time::sleep(AT_START) => Some(engines.stopgap()),
            () = stop.cancelled() => None,
        };
        self.change_engine(selected);
    }

    /// What a new worker encodes with: the engine chosen, while it has sessions for one more.
    pub(super) fn engine_for_one_more(&self) -> Selected {
        let same = |member: &&Member| member.engine == self.selected.engine && member.state.phase() != Phase::Dead;
        match &self.config.engines {
            Some(engines) if self.workers.values().filter(same).count() >= self.selected.most => engines.software(),
            _ => self.selected.clone(),
        }
    }

    /// No more proofs: the node ends.
    pub(super) fn stop_proving(&self) {
        if let Some(engines) = &self.config.engines {
            engines.stop();
        }
    }

    fn prove(&mut self) {
        let Some(engines) = self.config.engines.clone().filter(|_| self.proving.is_none()) else { return };
        self.proving = Some(tokio::task::spawn_blocking(move || engines.select()));
    }

    /// New workers encode with this from now on; idle ones of another engine go.
    pub(super) fn change_engine(&mut self, selected: Option<Selected>) {
        let Some(selected) = selected.filter(|_| !self.stopping) else { return };
        if selected.engine != self.selected.engine {
            tracing::info!(engine = &*selected.engine, before = &*self.selected.engine, "engine chosen");
        }
        self.selected = selected;
        let stale = |id: &WorkerId| {
            let member = self.workers.get(id)?;
            let idle = member.session.is_none() && matches!(member.state.phase(), Phase::Ready | Phase::Starting);
            (idle && member.engine != self.selected.engine).then_some(*id)
        };
        let stale: Vec<WorkerId> = self.workers.keys().filter_map(stale).collect();
        let now = self.now();
        for id in stale {
            if let Some(member) = self.workers.get_mut(&id) {
                // Without a job there is nothing to be done but to let it go.
                let _ = member.state.step(Event::Drain, now);
            }
            self.kill(id);
        }
    }

    /// A worker was lost or failed at work: its engine has to prove itself again.
    pub(super) fn doubt_engine(&mut self, id: WorkerId) {
        self.fall_back(id, Engines::trouble);
    }

    /// A worker did not start. Returns whether that is its engine's matter, and another one is used from now on.
    pub(super) fn give_up_engine(&mut self, id: WorkerId) -> bool {
        self.fall_back(id, Engines::failed)
    }

    fn fall_back(&mut self, id: WorkerId, note: impl FnOnce(&Engines, &str, &str) -> bool) -> bool {
        let Some(engines) = self.config.engines.clone() else { return false };
        let Some(engine) = self.workers.get(&id).map(|member| Arc::clone(&member.engine)) else { return false };
        let reason = self.status.last_loss.clone().unwrap_or_else(|| "its worker was not ready in time".to_owned());
        if !note(&engines, &engine, &reason) {
            return false;
        }
        tracing::warn!(engine = &*engine, reason, "engine is suspect");
        if engine == self.selected.engine {
            self.change_engine(Some(engines.stopgap()));
        }
        self.prove();
        true
    }

    /// A worker says what media framework there is; with another one proofs have to be made anew.
    pub(super) fn hear_framework(&mut self, version: &str) {
        if self.config.engines.as_ref().is_some_and(|engines| engines.framework(version)) {
            self.prove();
        }
    }

    /// When an engine that is left alone, and better than the one in use, may be tried again.
    pub(super) fn engine_due(&self) -> Option<Instant> {
        let engines = self.config.engines.as_ref().filter(|_| self.proving.is_none() && !self.stopping)?;
        Some(Instant::now() + engines.retry_in()?.max(SOONEST))
    }

    pub(super) fn try_better_engine(&mut self) {
        let due =
            self.config.engines.as_ref().and_then(|engines| engines.retry_in()).is_some_and(|left| left.is_zero());
        if due && !self.stopping {
            self.prove();
        }
    }
}
