//! Walk 3, step 6: what is done about a message that was understood.

use std::time::Duration;

use fleet_protocol::payload::{Ctl, Why};
use rand::Rng as _;
use tokio::time::Instant;

use super::Link;
use super::inbound::Inbound;

/// Controllers of one fleet that are kept apart.
const CONTROLLERS_MAX: usize = 8;

impl Link {
    /// Obey one message; none of them can make the box do more than send again what it sends anyway.
    pub(super) fn obey(&mut self, inbound: Inbound) {
        match inbound {
            Inbound::Ack(ack) if ack.e == self.identity.life().e => {
                self.outbox.acknowledge(&ack);
                let (_, acked) = self.outbox.unacknowledged();
                if acked > self.progress.1 {
                    self.progress = (Instant::now(), acked);
                }
                self.absent_since = None;
                self.publish_view();
            }
            Inbound::Ack(_) => tracing::debug!("acknowledgement of another epoch was ignored"),
            Inbound::Rebirth => {
                let every = Duration::from_secs(self.config.link.rebirth_s.into());
                if self.reborn_at.is_some_and(|at| at.elapsed() < every) {
                    return;
                }
                self.reborn_at = Some(Instant::now());
                tracing::info!("controller asked for a rebirth");
                self.birth(Why::Reconnect);
                self.outbox.rewind();
            }
            Inbound::Controller(ctl) => self.controller(&ctl),
            Inbound::Update(envelope) => {
                let taken = tokio::task::block_in_place(|| self.updates.order(&self.config, &envelope));
                if let Err(error) = taken {
                    self.refuse(&service::with_causes(&error));
                }
            }
            Inbound::Ignored => {}
            Inbound::Refused(reason) => self.refuse(reason),
        }
    }

    /// Say it, but not as often as somebody else likes.
    fn refuse(&mut self, reason: &str) {
        self.refused += 1;
        if self.refused_at.is_none_or(|at| at.elapsed() > Duration::from_secs(600)) {
            self.refused_at = Some(Instant::now());
            tracing::warn!(reason, refused = self.refused, "message from outside was refused");
        }
    }

    /// A controller that connected anew may have missed what we sent meanwhile: send again, spread over the window.
    fn controller(&mut self, ctl: &Ctl) {
        if let Some(window) = ctl.w
            && let Err(error) = self.identity.keep_window(window)
        {
            tracing::warn!(%error, "reconnect window could not be kept");
        }
        let before = self.controllers.insert(ctl.srv.clone(), (ctl.on, ctl.n));
        while self.controllers.len() > CONTROLLERS_MAX {
            self.controllers.pop_first();
        }
        if self.controllers.values().any(|(on, _)| *on) {
            self.absent_since = None;
        } else if self.absent_since.is_none() {
            self.absent_since = Some(Instant::now());
        }
        if ctl.on && before.is_some_and(|(_, n)| n != ctl.n) {
            let spread = self.policy().window.mul_f64(self.chance.gen_range(0.0..1.0));
            self.rewind_at = Some(Instant::now() + spread);
        }
    }
}
