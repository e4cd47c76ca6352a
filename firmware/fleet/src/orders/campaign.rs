//! A campaign on one box: it decides for itself whether it is meant and when, and waits whenever the campaign is halted.

use fleet_protocol::campaign::{CampaignError, Rolling, Verdict};
use fleet_protocol::command::{Denied, UpdateArgs};
use fleet_protocol::payload::Standing;

use super::book::Current;
use super::{OrderError, Orders};
use crate::clock;

impl Orders {
    /// Takes a campaign, or the next pace of the one there is. An old pace and an old campaign change nothing.
    pub(crate) fn roll(&mut self, message: &[u8]) -> Result<(), OrderError> {
        let keys = self.keys(&self.config.orders.operators)?;
        let rolling = Rolling::read(message, &keys)?;
        let now = clock::stamp().t.ok_or(Denied::Time)?;
        if rolling.plan.fleet != self.config.fleet {
            return Err(Denied::Audience.into());
        }
        match &self.book.rolling {
            Some(before) if before.plan.cid == rolling.plan.cid => {
                // Retained, so it comes at every connection.
                if before.plan != rolling.plan {
                    return Err(CampaignError::OtherPace.into());
                }
                if before.pace == rolling.pace {
                    return Ok(());
                }
                if !rolling.pace.follows(&before.pace) {
                    return Err(Denied::Replayed.into());
                }
            }
            _ => {
                if rolling.plan.ctr <= self.highest(&rolling.plan.by) {
                    return Err(Denied::Replayed.into());
                }
                if !rolling.plan.has_begun(now) || now > rolling.plan.exp {
                    return Err(Denied::Time.into());
                }
                self.give_way();
                self.book.counters.insert(rolling.plan.by.as_str().to_owned(), rolling.plan.ctr);
                tracing::info!(campaign = %rolling.plan.name, version = %rolling.plan.version, "campaign was taken");
            }
        }
        if rolling.pace.halt {
            tracing::warn!(campaign = %rolling.plan.name, why = rolling.pace.why, "campaign is halted");
        }
        self.book.rolling = Some(rolling);
        self.try_save()?;
        self.follow_campaign();
        self.take_back_if_held();
        Ok(())
    }

    /// What the campaign means for this box now.
    fn verdict(&self) -> Option<(&Rolling, Verdict)> {
        let rolling = self.book.rolling.as_ref()?;
        let now = clock::stamp().t?;
        Some((rolling, rolling.verdict(&self.config.box_id, now)))
    }

    /// Whether the update under way may not go on: it came by a campaign that is halted, or nobody knows what time it is.
    pub(super) fn is_held(&self) -> bool {
        let Some(current) = self.book.current.as_ref().filter(|current| current.campaign) else { return false };
        let Some((rolling, verdict)) = self.verdict() else { return true };
        rolling.plan.cid == current.cid && verdict != Verdict::Go
    }

    /// Begins when its moment has come; says when it is held up, and when it is over.
    pub(super) fn follow_campaign(&mut self) {
        let Some((rolling, verdict)) = self.verdict() else { return };
        let plan = rolling.plan.clone();
        let why = rolling.pace.why.clone();
        if self.book.is_over(&plan.cid) {
            return;
        }
        let ours = self.book.current.as_ref().filter(|current| current.cid == plan.cid).cloned();
        let changed = match (verdict, ours) {
            (Verdict::Go, None) if self.book.current.is_none() && self.book.leaving.is_none() => {
                match self.may_come(&plan.version) {
                    Err(OrderError::NotNewer { .. }) => {
                        self.book.note(&plan.cid, Standing::Done, None, "already", None)
                    }
                    Err(error) => {
                        self.book.note(&plan.cid, Standing::Rejected, None, error.code(), Some(&error.to_string()))
                    }
                    Ok(()) => {
                        let args = UpdateArgs {
                            manifest: plan.manifest,
                            version: plan.version,
                            rate_mbit: plan.rate.max_dl_mbit,
                            deadline_s: plan.drain_s,
                            go_at_deadline: plan.go_at_deadline,
                        };
                        self.book.current =
                            Some(Current { cid: plan.cid.clone(), args, staged: false, campaign: true });
                        self.book.note(&plan.cid, Standing::Accepted, None, "accepted", None)
                    }
                }
            }
            (Verdict::Halted, Some(current)) if current.staged && !self.is_pending() => {
                self.book.note(&plan.cid, Standing::Running, Some(100), "halted", why.as_deref())
            }
            (Verdict::Go, Some(current)) if current.staged && self.is_noted(&plan.cid, "halted") => {
                self.book.note(&plan.cid, Standing::Running, Some(100), "staged", None)
            }
            (Verdict::Over, Some(_)) if !self.is_pending() => {
                self.book.current = None;
                self.book.note(&plan.cid, Standing::Expired, None, "over", None)
            }
            _ => false,
        };
        if changed {
            self.save();
        }
    }

    fn is_noted(&self, cid: &str, code: &str) -> bool {
        self.book.entry(cid).is_some_and(|entry| entry.code.as_deref() == Some(code))
    }

    /// A campaign's update that is not being installed yet makes room for what was ordered later.
    pub(super) fn give_way(&mut self) {
        let Some(current) = self.book.current.as_ref().filter(|current| current.campaign) else { return };
        if self.is_pending() {
            return;
        }
        let cid = current.cid.clone();
        for request in ["stage.json", "install.json"] {
            // Not there is as good as gone; what cannot be removed is replaced by the next request.
            let _ = std::fs::remove_file(self.config.orders.requests.join(request));
        }
        self.book.current = None;
        self.book.note(&cid, Standing::Superseded, None, "superseded", None);
    }
}
