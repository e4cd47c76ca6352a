//! Workers hired and let go, and what happens when none can be had.
use std::time::Duration;

use sandbox::launch::make_registry;
use tokio::time::Instant;

use super::{Driver, Member, PoolError, Session};
use crate::pool::TranscodeError;
use crate::pool::spawn::{self, Birth, News, WorkerId};
use crate::pool::state::{Phase, WorkerState};

/// How long the cache of plugins may take to be written.
const REGISTRY_TIMEOUT: Duration = Duration::from_secs(120);
/// How long the workers' threads may take to end.
const END_TIMEOUT: Duration = Duration::from_secs(5);

impl Driver {
    pub(super) async fn write_registry(&self) {
        let Some(registry) = self.config.registry.clone() else { return };
        let program = self.config.launch.program.clone();
        let made = tokio::task::spawn_blocking(move || make_registry(&program, &registry, REGISTRY_TIMEOUT));
        // Without it workers look for plugins themselves: slower, not worse.
        match made.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(reason = service::with_causes(&error), "plugin cache not written"),
            Err(error) => tracing::warn!(%error, "plugin cache not written"),
        }
    }

    pub(super) fn start_failed(&mut self) -> Result<(), PoolError> {
        let last = self.status.last_loss.clone().unwrap_or_else(|| "it was not ready in time".to_owned());
        match self.restart.died(self.epoch.elapsed(), &mut self.rng) {
            Some(pause) => {
                tracing::warn!(reason = last, pause_ms = pause.as_millis(), "worker did not start");
                self.start_after = Instant::now() + pause;
                Ok(())
            }
            None => {
                tracing::error!(reason = last, "workers do not start: see the reason, then restart the node");
                for (_, pending) in std::mem::take(&mut self.pending) {
                    self.answers.push((pending.reply, Err(TranscodeError::Unfit { reason: last.clone() })));
                }
                self.publish();
                Err(PoolError::GaveUp { last })
            }
        }
    }

    /// Keeps a worker for every session that waits for one, and a few ready besides, within the bound.
    pub(super) fn start_workers(&mut self) {
        if self.stopping || Instant::now() < self.start_after {
            return;
        }
        let living = |member: &&Member| member.state.phase() != Phase::Dead;
        let total = self.workers.values().filter(living).count();
        let free = self.workers.values().filter(living).filter(|member| member.session.is_none()).count();
        let waiting = |(name, session): &(&String, &Session)| session.worker.is_none() && self.schedule.waits(name);
        let waiting = self.sessions.iter().filter(waiting).count();
        let more = (waiting + self.config.idle).saturating_sub(free).min(self.config.sessions.saturating_sub(total));
        for number in 0..more {
            // Somebody waits for the first ones: they warm up at work.
            self.start_worker(free + number >= waiting);
        }
    }

    pub(super) fn start_worker(&mut self, warm_up: bool) {
        let id = self.number();
        let state = WorkerState::new(self.now(), self.config.start_timeout, self.config.recycle);
        let selected = self.engine_for_one_more();
        let birth = Birth {
            plan: selected.launch,
            timeout: self.config.start_timeout,
            warm_up: self.config.warm_up.clone().filter(|_| warm_up),
        };
        let hand = spawn::start(id, birth, self.newsroom.clone());
        match hand {
            Ok(hand) => {
                let (engine, hand) = (selected.engine, Some(hand));
                let member = Member { state, hand, interrupter: None, session: None, job: None, threads: 1, engine };
                self.workers.insert(id, member);
            }
            Err(error) => {
                tracing::error!(%error, "no thread for a worker: the box is out of resources");
                self.start_after = Instant::now() + self.config.restart.max;
            }
        }
    }

    /// A ready worker without a session; the oldest, which has been warm for longest.
    pub(super) fn idle_worker(&self) -> Option<WorkerId> {
        let idle = |member: &Member| member.session.is_none() && member.state.phase() == Phase::Ready;
        self.workers.iter().find(|(_, member)| idle(member)).map(|(id, _)| *id)
    }

    /// Ends a worker's thread and process, now.
    pub(super) fn kill(&mut self, id: WorkerId) {
        self.part(id);
        if let Some(member) = self.workers.get_mut(&id) {
            member.hand = None;
            if let Some(interrupter) = &member.interrupter {
                interrupter.interrupt();
            }
        }
    }

    /// Ends all workers and waits for their threads; a thread that hangs is left to the process's end.
    pub(super) async fn end_workers(&mut self) {
        for id in self.workers.keys().copied().collect::<Vec<_>>() {
            self.kill(id);
        }
        let all_gone = async {
            while !self.workers.is_empty() {
                match self.news.recv().await {
                    Some((id, News::Gone { .. })) => drop(self.workers.remove(&id)),
                    Some((_, News::Started { interrupter, .. })) => interrupter.interrupt(),
                    Some(_) => {}
                    None => break,
                }
            }
        };
        if tokio::time::timeout(END_TIMEOUT, all_gone).await.is_err() {
            tracing::warn!(workers = self.workers.len(), "workers did not end in time");
        }
    }
}
