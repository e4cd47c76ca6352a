//! The round's errands: initialising it, and calling the reward. Sent by the same task as redemptions, one transaction
//! at a time, recorded before it is sent.
//!
//! Nothing is remembered of what was done: the chain is asked again and again until it says that all is done, so a
//! missed block, a restart or a lost transaction costs a minute and no reward. The reward is called with the hot key
//! as the reward caller that the orchestrator's stake key named; without that nothing is sent, and an alarm says so.
use std::time::Duration;

use ledger::{LedgerError, OnErrand, Submission};
use livepeer::broker::{Broker, BrokerError, ChainHead, Duties, Errand, FaultClass, TransactionStatus};
use livepeer::units::Round;
use rand::Rng;
use serde::Deserialize;
use tokio::time::Instant;

use super::settle::dearer;
use super::{Patience, Redeemer, RedeemerError, Sent};
use crate::config::ConfigError;
use crate::sign::Signer;

/// What an operator may set about the round's errands.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RoundsConfig {
    /// Does this node call the reward of each round? The orchestrator must have named the hot account its reward
    /// caller (`setRewardCaller`), and `signer.toml` the bonding manager. Default false.
    pub reward: bool,
    /// Does this node initialise a round that nobody initialised? `signer.toml` must name the rounds manager. Default
    /// false.
    pub initialize: bool,
    /// Longest random wait before it does, in seconds, so that not everybody pays for it. Range 0–3600, default 30.
    pub initialize_max_delay_s: u64,
    /// Seconds between looks at what is left to do. Range 1–3600, default 60.
    pub look_s: u64,
}

impl Default for RoundsConfig {
    fn default() -> Self {
        Self { reward: false, initialize: false, initialize_max_delay_s: 30, look_s: 60 }
    }
}

impl RoundsConfig {
    /// Checks what types cannot.
    ///
    /// # Errors
    /// [`ConfigError`] naming the key and what it must be.
    pub fn check(&self) -> Result<(), ConfigError> {
        for (key, value, min, max) in
            [("initialize_max_delay_s", self.initialize_max_delay_s, 0, 3600), ("look_s", self.look_s, 1, 3600)]
        {
            if !(min..=max).contains(&value) {
                return Err(ConfigError::Range { key, value, min, max });
            }
        }
        Ok(())
    }
}

/// What is known of the errands between looks.
#[derive(Debug, Default)]
pub(super) struct Errands {
    looked: Option<Instant>,
    patience: Patience,
    /// A round seen uninitialised, and when we may initialise it.
    uninitialised: Option<(Round, Instant)>,
    sent: Option<Sent>,
    /// What last went wrong.
    pub(super) wrong: Option<String>,
}

impl Errands {
    fn look_at_once(&mut self) {
        self.looked = None;
    }
}

/// How the round's reward stands, for the alarms.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RewardReport {
    /// Why the reward is not called yet; none when it is, or need not be.
    pub missing: Option<String>,
    /// Percent of the round that is over.
    pub round_over_percent: u64,
}

impl<B: Broker, S: Signer> Redeemer<B, S> {
    /// Finds out what became of the errand under way. Is it in a block, or is there none?
    pub(super) async fn settle_errand(&mut self, head: &ChainHead) -> Result<bool, RedeemerError> {
        let Some(sent) = self.book(|ledger| Ok(ledger.errand())).await? else { return Ok(true) };
        let (from, nonce) = (self.signer.account(), sent.submission.account_nonce);
        let mut latest = TransactionStatus::Unknown;
        for hash in std::iter::once(sent.submission.hash).chain(sent.replaced.iter().copied()) {
            let status = match self.broker.transaction_status(hash, from, nonce).await {
                Ok(status) => status,
                Err(error) => {
                    self.errand_fault(sent.errand, &error);
                    return Ok(false);
                }
            };
            match status {
                TransactionStatus::Mined { .. } => {
                    tracing::info!(errand = ?sent.errand, tx = ?hash, "errand was done");
                    self.errands.patience = Patience::default();
                    self.answer_wish(sent.errand, Ok(hash));
                    return self.end_errand().await;
                }
                TransactionStatus::Reverted { .. } => {
                    tracing::warn!(errand = ?sent.errand, tx = ?hash, "errand's transaction was reverted");
                    self.errand_waits();
                    self.answer_wish(sent.errand, Err("its transaction was reverted"));
                    return self.end_errand().await;
                }
                TransactionStatus::Replaced => {
                    tracing::warn!(errand = ?sent.errand, tx = ?hash, "another transaction took the errand's nonce");
                    self.answer_wish(sent.errand, Err("another transaction took its nonce"));
                    return self.end_errand().await;
                }
                status if hash == sent.submission.hash => latest = status,
                TransactionStatus::Unknown | TransactionStatus::Pending => {}
            }
        }
        self.send_errand_again(&sent, latest == TransactionStatus::Pending, head).await?;
        Ok(false)
    }

    async fn end_errand(&mut self) -> Result<bool, RedeemerError> {
        self.book(|ledger| ledger.end_errand()).await?;
        self.errands.sent = None;
        self.errands.look_at_once();
        Ok(true)
    }

    /// The same bytes first; when they stay out of blocks, dearer ones with the same nonce.
    async fn send_errand_again(&mut self, sent: &OnErrand, known: bool, head: &ChainHead) -> Result<(), RedeemerError> {
        let now = Instant::now();
        let never = self.errands.sent.is_none();
        let times = *self.errands.sent.get_or_insert(Sent { first: now, last: now });
        if times.first.elapsed() >= self.config.stuck_after() && sent.replaced.len() < self.config.max_replacements {
            self.errands.sent = Some(Sent { first: now, last: now });
            let (from, nonce) = (self.signer.account(), sent.submission.account_nonce);
            match self.broker.prepare_errand(sent.errand, from, nonce).await {
                Ok(prepared) => {
                    let steps = u64::try_from(sent.replaced.len()).unwrap_or(u64::MAX).saturating_add(1);
                    let transaction = dearer(prepared.transaction, steps);
                    let attempt = sent.submission.attempt.saturating_add(1);
                    return self.send_on_errand(sent.errand, transaction, head, attempt).await.map(|_| ());
                }
                // Most likely done after all; the next look will tell.
                Err(error) => self.errand_fault(sent.errand, &error),
            }
        } else if !known && (never || times.last.elapsed() >= self.config.stuck_after() / 4) {
            self.errands.sent = Some(Sent { last: now, ..times });
            self.broadcast_errand(sent).await;
        }
        Ok(())
    }

    /// Asks the chain what is left to do this round, and does one thing of it. Was something sent?
    pub(super) async fn run_errands(&mut self, head: &ChainHead) -> Result<bool, RedeemerError> {
        let rounds = self.config.rounds;
        let looked = self.errands.looked.is_some_and(|at| at.elapsed() < Duration::from_secs(rounds.look_s));
        if (!rounds.reward && !rounds.initialize) || head.paused || looked || !self.errands.patience.over() {
            return Ok(false);
        }
        if head.round != head.last_initialized_round {
            return self.initialise_round(head).await;
        }
        self.errands.uninitialised = None;
        self.errands.looked = Some(Instant::now());
        if !rounds.reward {
            return Ok(false);
        }
        let duties = match self.broker.duties().await {
            Ok(duties) => duties,
            Err(error) => {
                self.errand_fault(Errand::Reward(head.round), &error);
                return Ok(false);
            }
        };
        let missing = reward_missing(&duties, head, self.signer.account());
        let due = missing == Some(Missing::Due);
        let over = head.l1_block.0.saturating_sub(duties.round_start.0).saturating_mul(100);
        self.report.send_modify(|report| {
            report.reward = RewardReport {
                missing: missing.map(|missing| missing.to_string()),
                round_over_percent: over.checked_div(duties.round_length).unwrap_or(0).min(100),
            };
        });
        if due { self.begin_errand(Errand::Reward(head.round), head).await } else { Ok(false) }
    }

    /// Initialises a round that nobody initialised, some random time after we first saw it.
    async fn initialise_round(&mut self, head: &ChainHead) -> Result<bool, RedeemerError> {
        if !self.config.rounds.initialize {
            return Ok(false);
        }
        let until = match self.errands.uninitialised {
            Some((round, until)) if round == head.round => until,
            _ => {
                let most = Duration::from_secs(self.config.rounds.initialize_max_delay_s);
                let until = Instant::now() + most.mul_f64(rand::rngs::OsRng.gen_range(0.0..=1.0));
                self.errands.uninitialised = Some((head.round, until));
                until
            }
        };
        if until > Instant::now() {
            return Ok(false);
        }
        self.begin_errand(Errand::InitializeRound(head.round), head).await
    }

    pub(super) async fn begin_errand(&mut self, errand: Errand, head: &ChainHead) -> Result<bool, RedeemerError> {
        let from = self.signer.account();
        let nonce = match self.broker.account_nonce(from).await {
            Ok(nonce) => nonce,
            Err(error) => {
                self.errand_fault(errand, &error);
                return Ok(false);
            }
        };
        // An endpoint that lags would give us a nonce that one of ours has already.
        let submitted = self.book(|ledger| Ok(ledger.submitted())).await?;
        if submitted.iter().any(|recorded| recorded.submission().account_nonce >= nonce) {
            return Ok(false);
        }
        match self.broker.prepare_errand(errand, from, nonce).await {
            Ok(prepared) => self.send_on_errand(errand, prepared.transaction, head, 0).await,
            // Somebody was faster, which is as good.
            Err(error) if error.class == FaultClass::Done => {
                self.errands.looked = Some(Instant::now());
                Ok(false)
            }
            Err(error) => {
                self.errand_fault(errand, &error);
                Ok(false)
            }
        }
    }

    /// The order is the point: signed, recorded durably, and only then sent.
    async fn send_on_errand(
        &mut self,
        errand: Errand,
        transaction: livepeer::transaction::Transaction,
        head: &ChainHead,
        attempt: u32,
    ) -> Result<bool, RedeemerError> {
        let signed = match self.signer.sign_transaction(&transaction).await {
            Ok(signed) => signed,
            Err(error) => {
                tracing::error!(?errand, reason = %error, "errand was not signed: see what millrace-signer refuses");
                self.errand_wrong(errand, format!("the signer does not sign it: {error}"));
                self.errand_waits();
                return Ok(false);
            }
        };
        let (account_nonce, at) = (transaction.nonce, head.l2_block);
        let submission =
            Submission { hash: signed.hash, account_nonce, signed: signed.bytes, at, attempt, tickets: Vec::new() };
        let recorded = match self.book(move |ledger| ledger.send_on_errand(errand, submission)).await {
            Ok(recorded) => recorded,
            Err(RedeemerError::Ledger(
                error @ (LedgerError::ErrandUnderWay | LedgerError::AccountNonceTaken { .. }),
            )) => {
                tracing::warn!(?errand, reason = %error, "errand was not recorded, so not sent");
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        let now = Instant::now();
        self.errands.sent = Some(Sent { first: now, last: now });
        self.broadcast_errand(&recorded).await;
        Ok(true)
    }

    async fn broadcast_errand(&mut self, sent: &OnErrand) {
        match self.broker.broadcast(&sent.submission.signed).await {
            Ok(()) => tracing::info!(
                errand = ?sent.errand, tx = ?sent.submission.hash, nonce = sent.submission.account_nonce, "errand was sent"
            ),
            Err(error) => self.errand_fault(sent.errand, &error),
        }
    }

    fn errand_fault(&mut self, errand: Errand, error: &BrokerError) {
        tracing::warn!(?errand, class = ?error.class, reason = error.detail, "chain refused a step of an errand");
        self.errand_wrong(errand, error.detail.clone());
        self.errand_waits();
    }

    fn errand_wrong(&mut self, errand: Errand, reason: String) {
        self.errands.wrong = Some(reason.clone());
        if matches!(errand, Errand::Reward(_)) {
            self.report.send_modify(|report| {
                report.reward.missing = Some(reason);
                report.reward_call_errors = report.reward_call_errors.saturating_add(1);
            });
        }
    }

    fn errand_waits(&mut self) {
        let (first, max) = (self.config.retry_first_s, self.config.retry_max_s);
        self.errands.patience.lose(Duration::from_secs(first), Duration::from_secs(max), &mut rand::rngs::OsRng);
        self.errands.look_at_once();
    }
}

/// Why the reward of this round is not called yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum Missing {
    #[error("it is due")]
    Due,
    #[error(
        "the hot account {hot} may not call it, {named} may: name it with setRewardCaller and the stake key, or set \
         rounds.reward to false"
    )]
    NotTheCaller { hot: livepeer::address::Address, named: livepeer::address::Address },
}

fn reward_missing(duties: &Duties, head: &ChainHead, hot: livepeer::address::Address) -> Option<Missing> {
    if !head.recipient_active || duties.last_reward_round >= head.round {
        return None;
    }
    let named = duties.reward_caller;
    Some(if named == hot { Missing::Due } else { Missing::NotTheCaller { hot, named } })
}
