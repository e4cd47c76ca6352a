//! An update that was ordered: what `millrace-update` says of it, told once each.

use fleet_protocol::event::{Op, Severity, id};
use fleet_protocol::payload::{EventBody, Standing};
use fleet_protocol::version::Version;
use serde::Deserialize;
use serde_json::{Map, json};

use super::Orders;
use super::book::{Current, Told, read};
use crate::outbox::Outbox;

/// `staged/progress.json`, as far as it matters here.
#[derive(Debug, Deserialize)]
struct Progress {
    id: String,
    phase: String,
    #[serde(default)]
    version: Option<Version>,
    #[serde(default)]
    done: u64,
    #[serde(default)]
    total: u64,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    forged: bool,
}

/// One of `results.json`.
#[derive(Debug, Deserialize)]
struct Outcome {
    seq: u64,
    id: String,
    from: String,
    to: String,
    became: String,
    #[serde(default)]
    reason: Option<String>,
}

impl Orders {
    pub(super) fn tend_update(&mut self, outbox: &mut Outbox, boot: u64) {
        if let Some(current) = self.book.current.clone() {
            let progress: Option<Progress> = read(&self.config.orders.update_state.join("staged/progress.json"));
            if let Some(own) = progress.filter(|progress| progress.id == current.cid) {
                self.look_at(outbox, boot, &current, own);
            }
        }
        let results: Vec<Outcome> = read(&self.config.orders.update_state.join("results.json")).unwrap_or_default();
        let reported = self.book.reported;
        for outcome in results.into_iter().filter(|outcome| outcome.seq > reported) {
            let (id, severity) = match outcome.became.as_str() {
                "blessed" => (id::UPD_OK, Severity::Info),
                "rolled-back" => (id::UPD_ROLLBACK, Severity::Err),
                "safe-mode" => (id::SAFE_MODE, Severity::Crit),
                _ => (id::UPD_FAIL, Severity::Err),
            };
            let mut body = event(id, severity, &outcome.id, &outcome.to, outcome.reason.clone());
            if let Some(context) = &mut body.ctx {
                context.insert("from".to_owned(), json!(outcome.from));
                context.insert("became".to_owned(), json!(outcome.became));
            }
            let Outcome { seq, id, became, reason, .. } = outcome;
            if !self.tell(outbox, boot, body, Told::Result { seq, id, became, reason }) {
                return;
            }
        }
    }

    fn look_at(&mut self, outbox: &mut Outbox, boot: u64, current: &Current, progress: Progress) {
        let Progress { phase, version, done, total, reason, forged, .. } = progress;
        let wanted = current.args.version.to_string();
        let failed = |id, severity, reason: String| {
            let body = event(id, severity, &current.cid, &wanted, Some(reason.clone()));
            (body, Told::NotStaged { reason: Some(reason) })
        };
        let news = match (phase.as_str(), current.staged) {
            ("staged", false) => match version {
                Some(staged) if staged != current.args.version => {
                    let reason = format!("the manifest is of version {staged}, the order of {wanted}");
                    Some(failed(id::UPD_FAIL, Severity::Err, reason))
                }
                _ => Some((event(id::UPD_STAGED, Severity::Info, &current.cid, &wanted, None), Told::Staged)),
            },
            ("failed", false) => {
                let (id, severity) =
                    if forged { (id::UPD_SIG_BAD, Severity::Crit) } else { (id::UPD_FAIL, Severity::Err) };
                Some(failed(id, severity, reason.unwrap_or_else(|| "no reason was given".to_owned())))
            }
            (phase @ ("checking" | "fetching" | "unpacking"), false)
            | (phase @ ("draining" | "installing" | "rebooting"), true) => {
                // Tenths are fine enough to see that it goes on.
                let percent = done.saturating_mul(10).checked_div(total).map(|tenths| tenths.min(10) * 10);
                let percent = percent.and_then(|percent| u8::try_from(percent).ok());
                if self.book.note(&current.cid, Standing::Running, percent, phase, None) {
                    self.save();
                }
                None
            }
            _ => None,
        };
        if let Some((body, told)) = news {
            self.tell(outbox, boot, body, told);
        }
    }
}

/// An event about an update.
pub(super) fn event(id: &str, severity: Severity, cid: &str, version: &str, reason: Option<String>) -> EventBody {
    let mut context = Map::new();
    context.insert("cid".to_owned(), json!(cid));
    context.insert("to".to_owned(), json!(version));
    if let Some(reason) = reason {
        context.insert("reason".to_owned(), json!(reason.chars().take(300).collect::<String>()));
    }
    EventBody { ctx: Some(context), ..EventBody::new(id, Op::Occur, severity) }
}
