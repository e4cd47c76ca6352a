//! Walk 3, step 6: what is done about a message that was understood.

use std::time::Duration;

use fleet_protocol::payload::{Ctl, Why};
use rand::Rng as _;
use tokio::time::Instant;

use super::Link;
use super::inbound::Inbound;
use crate::clock;
use crate::orders::{self, OrderError};
use crate::outbox::{Content, Item};

/// Controllers of one fleet that are kept apart.
const CONTROLLERS_MAX: usize = 8;

impl Link {
    /// Obey one message; without a signature none of them can make the box do more than send again what it sends anyway.
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
            Inbound::Order(op, envelope) => {
                let purse = *self.purse.borrow();
                let taken = tokio::task::block_in_place(|| self.orders.order(&op, &envelope, purse));
                self.taken(taken);
            }
            Inbound::Roll(message) => {
                let taken = tokio::task::block_in_place(|| self.orders.roll(&message));
                self.taken(taken);
            }
            Inbound::Ignored => {}
            Inbound::Refused(reason) => {
                self.refuse(reason);
            }
        }
    }

    /// A refused order is an event, as rarely as it is said.
    fn taken(&mut self, taken: Result<(), OrderError>) {
        let Err(error) = taken else { return };
        let reason = service::with_causes(&error);
        if self.refuse(&reason) {
            let item = Item { stamp: clock::stamp(), content: Content::Event(orders::denied(&reason, self.refused)) };
            let boot = self.identity.life().b;
            tokio::task::block_in_place(|| self.outbox.take(boot, item, Instant::now()));
        }
    }

    /// Say it, but not as often as somebody else likes.
    fn refuse(&mut self, reason: &str) -> bool {
        self.refused += 1;
        let due = self.refused_at.is_none_or(|at| at.elapsed() > Duration::from_secs(600));
        if due {
            self.refused_at = Some(Instant::now());
            tracing::warn!(reason, refused = self.refused, "message from outside was refused");
        }
        due
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
