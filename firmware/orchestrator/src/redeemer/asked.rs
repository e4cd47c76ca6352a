//! Errands that a person asks for: the reward of this round, or its initialisation, now and whatever the configuration
//! says. They are run by the redeemer like its own, one transaction at a time; who asked is answered when it is in a
//! block.
use std::time::Duration;

use livepeer::address::H256;
use livepeer::broker::{Broker, ChainHead, Errand};
use tokio::sync::{mpsc, oneshot};

use super::{Redeemer, RedeemerError};
use crate::sign::Signer;

/// People who may wait at a time.
const WAITING: usize = 1;
/// How long one of them waits.
const PATIENCE: Duration = Duration::from_secs(60);

/// What can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// The reward of this round.
    Reward,
    /// The initialisation of this round.
    InitializeRound,
}

/// Why an errand that was asked for was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// Somebody else waits for one.
    #[error("another errand is being asked for: try again")]
    Busy,
    /// It is on its way, or waits for its turn.
    #[error("not done within {PATIENCE:?}; it may still be: see the log")]
    Late,
    /// It cannot be done.
    #[error("{0}")]
    Refused(String),
    /// The redeemer has ended.
    #[error("the node is stopping")]
    Stopped,
}

/// Where errands are asked for. Clones share it.
#[derive(Debug, Clone)]
pub struct Desk(mpsc::Sender<Asked>);

impl Desk {
    pub(super) fn new() -> (Self, mpsc::Receiver<Asked>) {
        let (asking, asked) = mpsc::channel(WAITING);
        (Self(asking), asked)
    }

    /// Asks for an errand and waits until it is in a block; the transaction's hash.
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn ask(&self, wanted: Wanted) -> Result<H256, AskError> {
        let (answer, answered) = oneshot::channel();
        self.0.try_send(Asked { wanted, answer }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => AskError::Busy,
            mpsc::error::TrySendError::Closed(_) => AskError::Stopped,
        })?;
        match tokio::time::timeout(PATIENCE, answered).await {
            Ok(Ok(done)) => done,
            Ok(Err(_)) => Err(AskError::Stopped),
            Err(_) => Err(AskError::Late),
        }
    }
}

/// An errand asked for.
#[derive(Debug)]
pub(super) struct Asked {
    wanted: Wanted,
    answer: oneshot::Sender<Result<H256, AskError>>,
}

/// What became of an errand, as far as whoever asked for it is concerned.
#[derive(Debug, Default)]
pub(super) enum Wish {
    #[default]
    None,
    /// It waits for its turn.
    Waits(Asked),
    /// It was sent.
    Sent(Errand, oneshot::Sender<Result<H256, AskError>>),
}

impl<B: Broker, S: Signer> Redeemer<B, S> {
    /// Where errands are asked for.
    #[must_use]
    pub fn desk(&self) -> Desk {
        self.desk.clone()
    }

    /// The next errand asked for, when none is in hand. Cancel safe.
    pub(super) async fn next_wish(&mut self) {
        if !matches!(self.wish, Wish::None) {
            return std::future::pending().await;
        }
        // We hold a sender ourselves, so it cannot end.
        if let Some(asked) = self.asked.recv().await {
            self.wish = Wish::Waits(asked);
        }
    }

    /// Begins the errand asked for, if one is. Was something sent?
    pub(super) async fn begin_wish(&mut self, head: &ChainHead) -> Result<bool, RedeemerError> {
        let asked = match std::mem::take(&mut self.wish) {
            Wish::Waits(asked) => asked,
            other => {
                self.wish = other;
                return Ok(false);
            }
        };
        let initialised = head.round == head.last_initialized_round;
        let errand = match (asked.wanted, initialised) {
            (Wanted::Reward, true) => Errand::Reward(head.round),
            (Wanted::InitializeRound, false) => Errand::InitializeRound(head.round),
            (Wanted::Reward, false) => return Ok(refuse(asked, "the round is not initialised")),
            (Wanted::InitializeRound, true) => return Ok(refuse(asked, "the round is initialised already")),
        };
        if head.paused {
            return Ok(refuse(asked, "the contracts are paused"));
        }
        tracing::info!(?errand, "errand was asked for");
        self.errands.wrong = None;
        if self.begin_errand(errand, head).await? {
            self.wish = Wish::Sent(errand, asked.answer);
            return Ok(true);
        }
        let why = self.errands.wrong.take().unwrap_or_else(|| "done already, or another is on its way".to_owned());
        Ok(refuse(asked, &why))
    }

    /// Answers whoever asked for this errand.
    pub(super) fn answer_wish(&mut self, errand: Errand, done: Result<H256, &str>) {
        match std::mem::take(&mut self.wish) {
            Wish::Sent(sent, answer) if sent == errand => {
                // Who gave up waiting wants no answer.
                let _ = answer.send(done.map_err(|why| AskError::Refused(why.to_owned())));
            }
            other => self.wish = other,
        }
    }
}

fn refuse(asked: Asked, why: &str) -> bool {
    let _ = asked.answer.send(Err(AskError::Refused(why.to_owned())));
    false
}
