//! The last order of a box: its keys are destroyed. It says so first, and goes when it was heard.

use fleet_protocol::command::{Command, DecommissionArgs};
use fleet_protocol::event::{Op, Severity, id};
use fleet_protocol::payload::{EventBody, Standing};
use serde_json::{Map, json};

use super::book::{Leaving, Told, put, read};
use super::{OrderError, Orders};
use crate::clock;
use crate::outbox::Outbox;
use crate::report::Purse;

/// What may be lost without a word: 10¹⁴ wei, less than it costs to send it away.
const DUST_WEI: u128 = 100_000_000_000_000;
/// It goes unheard after this long, milliseconds.
const UNHEARD_MS: i64 = 24 * 3_600_000;

impl Orders {
    /// Refuses while there is money that only this box's key moves; nothing is written here.
    pub(super) fn leave(&mut self, command: &Command, args: &DecommissionArgs, purse: Purse) -> Result<(), OrderError> {
        if !args.even_with_funds {
            match purse {
                Purse { hot_wei: None, .. } => {
                    return Err(OrderError::Funds("nobody can say what the hot account holds".to_owned()));
                }
                Purse { hot_wei: Some(wei), .. } if wei > DUST_WEI => {
                    return Err(OrderError::Funds(format!("the hot account holds {wei} wei")));
                }
                Purse { winners, .. } if winners > 0 => {
                    return Err(OrderError::Funds(format!("{winners} winning tickets are not redeemed")));
                }
                Purse { .. } => {}
            }
        }
        self.give_way();
        if let Some(current) = &self.book.current {
            return Err(OrderError::Busy(current.cid.clone()));
        }
        tracing::warn!(cid = command.cid, "this box was ordered to leave its fleet");
        let since = clock::stamp().t.unwrap_or(0);
        self.book.leaving = Some(Leaving { cid: command.cid.clone(), erase: args.erase, since, place: None });
        Ok(())
    }

    pub(super) fn tend_leaving(&mut self, outbox: &mut Outbox, boot: u64) {
        let Some(Leaving { cid, erase, since, place }) = self.book.leaving.clone() else { return };
        let Some(place) = place else {
            let mut context = Map::new();
            context.insert("cid".to_owned(), json!(cid));
            let body =
                EventBody { ctx: Some(context), ..EventBody::new(id::DECOMMISSIONED, Op::Occur, Severity::Crit) };
            let place = outbox.last_event() + 1;
            self.tell(outbox, boot, body, Told::Leaving { place });
            return;
        };
        let unheard = clock::stamp().t.is_some_and(|now| now.saturating_sub(since) > UNHEARD_MS);
        if outbox.acked_event() < place && !unheard {
            return;
        }
        if self.book.note(&cid, Standing::Done, None, "leaving", None) {
            self.save();
        }
        let request = json!({"id": cid, "erase": erase});
        let path = &self.config.orders.decommission;
        if read(path).as_ref() != Some(&request)
            && let Err(error) = put(path, &request, 0o644)
        {
            tracing::error!(%error, path = %path.display(), "the helper that destroys the keys could not be asked");
        }
    }
}
