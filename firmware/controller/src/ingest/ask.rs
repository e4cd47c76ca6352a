//! What people and machines ask of the controller: done by the one thread that writes, durable before it is answered.

use std::time::Duration;

use fleet_protocol::BoxId;
use fleet_protocol::api::{Claim, NewClaim};
use fleet_protocol::enrol::{Answer, Request};

use super::Ingest;
use crate::store::StoreError;

/// A wish.
#[derive(Debug)]
pub(crate) enum Ask {
    /// Carry this signed order to its boxes.
    Order(Vec<u8>),
    /// Begin this signed campaign.
    Campaign(Vec<u8>),
    /// Halt a campaign, with a reason, or let it go on.
    Pace { name: String, halt: Option<String> },
    /// Let a machine become a box.
    Claim(NewClaim),
    /// A machine says that it is one of those.
    Enrol(Request),
}

/// What was done.
#[derive(Debug)]
pub(crate) enum Told {
    /// The order of this id is carried.
    Order(String),
    /// The campaign of this name has this pace.
    Campaign(String),
    /// The claim stands.
    Claim(Claim),
    /// The machine is a box.
    Enrolled(Answer),
}

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// It makes no sense, or not here.
    #[error("{0}")]
    Bad(String),
    /// There is no such thing.
    #[error("{0}")]
    Unknown(String),
    /// What there is already stands against it.
    #[error("{0}")]
    Conflict(String),
    /// Who asks may not have it; why is said in the log only.
    #[error("no claim fits: a wrong token, another serial, used already, or too old")]
    Refused,
    /// Too much of it.
    #[error("{0}")]
    Busy(String),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Ingest {
    /// Durable on return.
    pub(super) fn answer(&mut self, ask: Ask, now: Duration, now_ms: i64) -> Result<Told, AskError> {
        match ask {
            Ask::Order(envelope) => {
                let known = self.boxes.iter().filter(|(_, tracked)| !tracked.is_retired());
                let known = known.map(|(id, tracked)| (id.clone(), tracked.ring.clone())).collect::<Vec<_>>();
                let cid = self.carried.take(&mut self.store, &self.config.fleet, &envelope, &known, now_ms)?;
                Ok(Told::Order(cid))
            }
            Ask::Campaign(envelope) => {
                let name = self.carried.begin(&mut self.store, &self.config.fleet, &envelope, now_ms)?;
                Ok(Told::Campaign(name))
            }
            Ask::Pace { name, halt } => {
                self.carried.pace(&mut self.store, &name, halt.as_deref(), now_ms)?;
                Ok(Told::Campaign(name))
            }
            Ask::Claim(wanted) => {
                let room = self.boxes.len() < usize::try_from(self.config.max_boxes).unwrap_or(usize::MAX);
                if !room {
                    return Err(AskError::Busy("the fleet has as many boxes as max_boxes allows".to_owned()));
                }
                let claim = self.claims.make(&mut self.store, &wanted, now_ms)?;
                Ok(Told::Claim(claim))
            }
            Ask::Enrol(request) => {
                let answer = self.claims.enrol(&mut self.store, &self.config, &request, now, now_ms)?;
                let id: BoxId = answer.box_id.clone();
                self.enrolled(&id, answer.ring.clone());
                Ok(Told::Enrolled(answer))
            }
        }
    }
}
