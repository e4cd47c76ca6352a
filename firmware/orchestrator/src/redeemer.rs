//! Turning winners into money: one task, and the only one that sends transactions.
//!
//! Walk 2, steps 3 to 9. Each round of work, woken by a new head or a clock:
//!
//! ```text
//!  settle what was submitted ──► give up what is over ──► due ──► prepare ──► worth it? ──► sign
//!       (first of all at start)                                                              │
//!  confirm ◄── broadcast ◄── record, durable ◄───────────────────────────────────────────────┘
//! ```
//! One transaction at a time is on its way: the next is made once the last is in a block. What failed is tried
//! again by itself, later and later, and never holds up other winners. Nothing final is believed at first sight:
//! an endpoint may lag or lie, so a ticket that is said to be spent, refused or over is looked at again first.
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ledger::{AbandonReason, Ledger, LedgerError, Recorded, Redemption, RedemptionEvent, Submission};
use livepeer::address::H256;
use livepeer::broker::{Broker, BrokerError, ChainHead, FaultClass, TransactionStatus};
use livepeer::redemption::{Verdict, still_valid, worth_redeeming};
use livepeer::ticket::WinningTicket;
use livepeer::transaction::Transaction;
use livepeer::units::{L2Block, Round, Wei};
use millrace_hal::Clock;
use serde::Deserialize;
use service::Heartbeat;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::ConfigError;
use crate::sign::{SignError, Signer};

mod patience;
mod report;

pub use patience::Patience;
pub use report::{RedeemerReport, alarms};

/// Longest time between two rounds of work.
const TICK: Duration = Duration::from_secs(5);
/// Accounts idle for so long are closed, as in stock.
const ACCOUNT_IDLE: Duration = Duration::from_secs(10 * 60);
/// How often old accounts and settled winners are cleared away.
const CLEARING: Duration = Duration::from_secs(60);
/// How often the hot account's balance is read.
const BALANCE: Duration = Duration::from_secs(60);
/// Offers are forgotten for good at a block; a block this far ahead of the last one seen is not believed.
const BELIEVABLE_JUMP: u64 = 100_000;
/// Percent by which a replacement's fee is higher than that of the transaction before it.
const REPLACEMENT_PERCENT: u64 = 13;

/// How winners are redeemed.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RedeemerConfig {
    /// Blocks on top of a redemption before it is believed for good: the chain's key of this name.
    #[serde(skip)]
    pub confirmations: u64,
    /// Seconds without a receipt after which a transaction is replaced by a dearer one. Range 1–3600, default 300.
    pub stuck_after_s: u64,
    /// Replacements of one transaction at most. Range 0–20, default 5.
    pub max_replacements: usize,
    /// Seconds for which something final must be seen again and again before it is believed: a ticket spent by
    /// somebody else, refused for ever, or over. Range 0–3600, default 120.
    pub doubt_s: u64,
    /// Seconds before the first new try of what failed. Range 1–600, default 5.
    pub retry_first_s: u64,
    /// Longest wait between tries. Range 1–3600, default 600.
    pub retry_max_s: u64,
}

impl Default for RedeemerConfig {
    fn default() -> Self {
        Self {
            confirmations: 4800,
            stuck_after_s: 300,
            max_replacements: 5,
            doubt_s: 120,
            retry_first_s: 5,
            retry_max_s: 600,
        }
    }
}

impl RedeemerConfig {
    /// Checks what types cannot.
    ///
    /// # Errors
    /// [`ConfigError`] naming the key and what it must be.
    pub fn check(&self) -> Result<(), ConfigError> {
        let replacements = u64::try_from(self.max_replacements).unwrap_or(u64::MAX);
        for (key, value, min, max) in [
            ("stuck_after_s", self.stuck_after_s, 1, 3600),
            ("max_replacements", replacements, 0, 20),
            ("doubt_s", self.doubt_s, 0, 3600),
            ("retry_first_s", self.retry_first_s, 1, 600),
            ("retry_max_s", self.retry_max_s, self.retry_first_s, 3600),
        ] {
            if !(min..=max).contains(&value) {
                return Err(ConfigError::Range { key, value, min, max });
            }
        }
        Ok(())
    }

    fn stuck_after(&self) -> Duration {
        Duration::from_secs(self.stuck_after_s)
    }

    fn doubt(&self) -> Duration {
        Duration::from_secs(self.doubt_s)
    }
}

/// What ends the redeemer.
#[derive(Debug, thiserror::Error)]
pub enum RedeemerError {
    /// The ledger broke; only a restart can help.
    #[error("redeemer cannot use the ledger")]
    Ledger(#[from] LedgerError),
    /// A blocking call was lost.
    #[error("redeemer lost a ledger call")]
    Lost(#[from] tokio::task::JoinError),
}

/// Redeems winners until it is stopped.
pub struct Redeemer<B, S> {
    broker: Arc<B>,
    signer: Arc<S>,
    ledger: Ledger,
    clock: Arc<dyn Clock>,
    config: RedeemerConfig,
    report: watch::Sender<RedeemerReport>,
    /// When each winner may be tried again.
    patience: HashMap<H256, Patience>,
    /// Since when something final was seen of a winner, again and again.
    doubts: HashMap<(H256, Doubt), Instant>,
    /// When each transaction on its way was last sent, and when it was first.
    sent: HashMap<H256, Sent>,
    cleared: Option<Instant>,
    balance_read: Option<Instant>,
    last_l1_block: Option<u64>,
}

impl<B, S> std::fmt::Debug for Redeemer<B, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redeemer").field("config", &self.config).finish_non_exhaustive()
    }
}

/// Something final that is not believed at first sight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Doubt {
    Spent,
    Refused,
    Over,
    NonceLost,
}

#[derive(Debug, Clone, Copy)]
struct Sent {
    first: Instant,
    last: Instant,
}

/// What became of all transactions of one redemption.
enum Fate {
    /// One of them is in a block and worked.
    Mined { transaction: H256, block: L2Block, confirmations: u64, paid: Wei },
    /// One of them is in a block and failed.
    Reverted { confirmations: u64 },
    /// The latest may still be mined.
    Open { known: bool },
    /// Another transaction took their nonce.
    Lost,
}

impl<B: Broker, S: Signer> Redeemer<B, S> {
    /// A redeemer, and what it reports.
    #[must_use]
    pub fn new(
        broker: Arc<B>,
        signer: Arc<S>,
        ledger: Ledger,
        clock: Arc<dyn Clock>,
        config: RedeemerConfig,
    ) -> (Self, watch::Receiver<RedeemerReport>) {
        let (report, reported) = watch::channel(RedeemerReport::default());
        let redeemer = Self {
            broker,
            signer,
            ledger,
            clock,
            config,
            report,
            patience: HashMap::new(),
            doubts: HashMap::new(),
            sent: HashMap::new(),
            cleared: None,
            balance_read: None,
            last_l1_block: None,
        };
        (redeemer, reported)
    }

    /// Redeems until `stopping`. A step under way is finished first; dropping it in between loses nothing, since
    /// every step is recorded before it is taken.
    ///
    /// # Errors
    /// [`RedeemerError`] when the ledger can no longer be written.
    pub async fn run(mut self, heartbeat: Heartbeat, stopping: CancellationToken) -> Result<(), RedeemerError> {
        while !stopping.is_cancelled() {
            self.work().await?;
            heartbeat.beat();
            tokio::select! {
                () = self.broker.head_changed() => {}
                () = tokio::time::sleep(TICK) => {}
                () = stopping.cancelled() => {}
            }
        }
        Ok(())
    }

    /// One round of work.
    ///
    /// # Errors
    /// [`RedeemerError`] when the ledger can no longer be written.
    pub async fn work(&mut self) -> Result<(), RedeemerError> {
        let Some(head) = self.broker.head() else {
            return Ok(());
        };
        let all_in_blocks = self.settle(&head).await?;
        self.give_up(&head).await?;
        if all_in_blocks {
            self.redeem_next(&head).await?;
        }
        self.clear_away(&head).await?;
        self.read_balance().await;
        self.publish(&head).await
    }

    /// Walk 2, steps 7 to 9: finds out what became of everything submitted. Is all of it in blocks?
    async fn settle(&mut self, head: &ChainHead) -> Result<bool, RedeemerError> {
        let mut all_in_blocks = true;
        for recorded in self.book(|ledger| Ok(ledger.submitted())).await? {
            let ticket = recorded.ticket();
            let fate = match self.fate(&recorded).await {
                Ok(fate) => fate,
                Err(error) => {
                    self.note_fault(ticket, &error);
                    all_in_blocks = false;
                    continue;
                }
            };
            self.note_success();
            match fate {
                Fate::Mined { confirmations, .. } if confirmations < self.config.confirmations => {}
                Fate::Mined { transaction, block, paid, .. } => {
                    let face_value = recorded.winner().ticket().face_value;
                    if paid < face_value {
                        tracing::error!(
                            ?ticket, tx = ?transaction, %face_value, paid_wei = %paid,
                            gateway = %recorded.winner().ticket().sender,
                            "ticket was paid short: its sender has less than it owes"
                        );
                        self.report.send_modify(|report| report.short_paid += 1);
                    }
                    self.advance(ticket, RedemptionEvent::Confirmed { transaction, block, paid }).await?;
                    self.forget(ticket);
                }
                Fate::Reverted { confirmations } if confirmations < self.config.confirmations => {}
                Fate::Reverted { .. } => self.undo(&recorded, "its transaction was reverted").await?,
                Fate::Lost => {
                    all_in_blocks = false;
                    if self.certain(ticket, Doubt::NonceLost) {
                        self.undo(&recorded, "another transaction took its nonce").await?;
                    }
                }
                Fate::Open { known } => {
                    self.doubts.remove(&(ticket, Doubt::NonceLost));
                    let over = !still_valid(recorded.winner().ticket().creation_round, head.round);
                    if over && !known && self.certain(ticket, Doubt::Over) {
                        // Its contract call can only revert from now on, so its nonce may be used by another.
                        self.undo(&recorded, "it was never mined, and its round is over").await?;
                        continue;
                    }
                    all_in_blocks = false;
                    self.send_again(&recorded, known, head).await?;
                }
            }
        }
        Ok(all_in_blocks)
    }

    /// Looks at the latest transaction of a redemption and at those it replaced: any of them may be the one.
    async fn fate(&self, recorded: &Recorded) -> Result<Fate, BrokerError> {
        let (from, nonce) = (self.signer.account(), recorded.submission().account_nonce);
        let latest = recorded.submission().hash;
        let mut reverted = None;
        let mut latest_status = TransactionStatus::Unknown;
        for hash in std::iter::once(latest).chain(recorded.replaced().iter().copied()) {
            let status = self.broker.transaction_status(hash, from, nonce).await?;
            if hash == latest {
                latest_status = status;
            }
            match status {
                TransactionStatus::Mined { block, confirmations, paid, .. } => {
                    return Ok(Fate::Mined { transaction: hash, block, confirmations, paid });
                }
                TransactionStatus::Reverted { confirmations, .. } => reverted = Some(confirmations),
                TransactionStatus::Unknown | TransactionStatus::Pending | TransactionStatus::Replaced => {}
            }
        }
        Ok(match (reverted, latest_status) {
            (Some(confirmations), _) => Fate::Reverted { confirmations },
            (None, TransactionStatus::Replaced) => Fate::Lost,
            (None, TransactionStatus::Pending) => Fate::Open { known: true },
            (None, _) => Fate::Open { known: false },
        })
    }

    /// A redemption came to nothing: back into the hand, or given up when the ticket is spent.
    async fn undo(&mut self, recorded: &Recorded, why: &'static str) -> Result<(), RedeemerError> {
        let ticket = recorded.ticket();
        match self.broker.used_ticket(ticket).await {
            Err(error) => self.note_fault(ticket, &error),
            Ok(true) if self.certain(ticket, Doubt::Spent) => {
                tracing::error!(?ticket, why, "ticket was redeemed by somebody else");
                self.advance(ticket, RedemptionEvent::Abandoned(AbandonReason::UsedElsewhere)).await?;
                self.forget(ticket);
            }
            Ok(true) => {}
            Ok(false) => {
                tracing::warn!(?ticket, tx = ?recorded.submission().hash, why, "redemption came to nothing");
                self.doubts.remove(&(ticket, Doubt::Spent));
                self.doubts.remove(&(ticket, Doubt::NonceLost));
                self.sent.remove(&ticket);
                self.wait(ticket);
                self.advance(ticket, RedemptionEvent::Failed).await?;
            }
        }
        Ok(())
    }

    /// The same bytes first; when they stay out of blocks for too long, dearer ones with the same nonce.
    async fn send_again(&mut self, recorded: &Recorded, known: bool, head: &ChainHead) -> Result<(), RedeemerError> {
        let ticket = recorded.ticket();
        let now = Instant::now();
        let never = !self.sent.contains_key(&ticket);
        let sent = *self.sent.entry(ticket).or_insert(Sent { first: now, last: now });
        let stuck = sent.first.elapsed() >= self.config.stuck_after();
        if stuck && recorded.replaced().len() < self.config.max_replacements {
            return self.replace(recorded, head).await;
        }
        let quiet = sent.last.elapsed() >= self.config.stuck_after() / 4;
        if !known && (never || quiet) {
            self.sent.insert(ticket, Sent { last: now, ..sent });
            self.broadcast(recorded).await;
        }
        Ok(())
    }

    /// Signs, records and sends a dearer transaction with the nonce of one that is stuck.
    async fn replace(&mut self, recorded: &Recorded, head: &ChainHead) -> Result<(), RedeemerError> {
        let (ticket, winner) = (recorded.ticket(), *recorded.winner());
        let nonce = recorded.submission().account_nonce;
        let prepared = match self.broker.prepare(&winner, self.signer.account(), nonce).await {
            Ok(prepared) => prepared,
            // Most likely mined after all; the next look will tell.
            Err(error) => {
                self.note_fault(ticket, &error);
                self.postpone_replacement(ticket);
                return Ok(());
            }
        };
        let steps = u64::try_from(recorded.replaced().len()).unwrap_or(u64::MAX).saturating_add(1);
        let transaction = dearer(prepared.transaction, steps);
        if prepared.payout <= transaction.max_cost().unwrap_or(prepared.cost) {
            tracing::debug!(?ticket, "stuck redemption was not replaced: it would cost more than it pays");
            self.postpone_replacement(ticket);
            return Ok(());
        }
        tracing::warn!(?ticket, nonce, steps, "redemption is stuck and is replaced by a dearer one");
        self.sign_record_send(&winner, transaction, head, recorded.submission().attempt.saturating_add(1)).await
    }

    fn postpone_replacement(&mut self, ticket: H256) {
        let now = Instant::now();
        self.sent.insert(ticket, Sent { first: now, last: now });
    }

    /// Winners whose rounds are over are money lost; they are given up once that is certain.
    async fn give_up(&mut self, head: &ChainHead) -> Result<(), RedeemerError> {
        let round = head.round;
        for winner in self.book(move |ledger| Ok(ledger.overdue(round))).await? {
            let ticket = winner.hash();
            if self.certain(ticket, Doubt::Over) {
                self.advance(ticket, RedemptionEvent::Abandoned(AbandonReason::RoundOver)).await?;
                self.forget(ticket);
            }
        }
        Ok(())
    }

    /// Walk 2, steps 4 to 6: the first due winner that may be tried and is worth it.
    async fn redeem_next(&mut self, head: &ChainHead) -> Result<(), RedeemerError> {
        if head.paused || !head.recipient_active || head.round != head.last_initialized_round {
            return Ok(());
        }
        let (l1_block, round) = (head.l1_block, head.round);
        for winner in self.book(move |ledger| Ok(ledger.due(l1_block, round))).await? {
            let ticket = winner.hash();
            if self.patience.get(&ticket).is_some_and(|patience| !patience.over()) {
                continue;
            }
            match self.redeem(&winner, head).await? {
                Tried::Sent => return Ok(()),
                Tried::NotNow => self.wait(ticket),
                Tried::NoChain => {
                    self.wait(ticket);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    async fn redeem(&mut self, winner: &WinningTicket, head: &ChainHead) -> Result<Tried, RedeemerError> {
        let (ticket, from) = (winner.hash(), self.signer.account());
        let nonce = match self.broker.account_nonce(from).await {
            Ok(nonce) => nonce,
            Err(error) => {
                self.note_fault(ticket, &error);
                return Ok(Tried::NoChain);
            }
        };
        // An endpoint that lags would give us a nonce that one of ours has already.
        let submitted = self.book(|ledger| Ok(ledger.submitted())).await?;
        if submitted.iter().any(|recorded| recorded.submission().account_nonce >= nonce) {
            return Ok(Tried::NoChain);
        }
        let prepared = match self.broker.prepare(winner, from, nonce).await {
            Ok(prepared) => prepared,
            Err(error) => return self.refused(winner, &error).await,
        };
        self.note_success();
        for doubt in [Doubt::Spent, Doubt::Refused, Doubt::Over] {
            self.doubts.remove(&(ticket, doubt));
        }
        let face_value = winner.ticket().face_value;
        let verdict =
            worth_redeeming(face_value, prepared.payout, prepared.cost, winner.ticket().creation_round, head.round);
        if verdict != Verdict::Redeem {
            let (payout, cost) = (prepared.payout, prepared.cost);
            tracing::debug!(?ticket, ?verdict, %face_value, %payout, %cost, "redemption waits");
            return Ok(Tried::NotNow);
        }
        self.sign_record_send(winner, prepared.transaction, head, 0).await?;
        Ok(if self.sent.contains_key(&ticket) { Tried::Sent } else { Tried::NotNow })
    }

    /// The order is the point: signed, recorded durably, and only then sent.
    async fn sign_record_send(
        &mut self,
        winner: &WinningTicket,
        transaction: Transaction,
        head: &ChainHead,
        attempt: u32,
    ) -> Result<(), RedeemerError> {
        let ticket = winner.hash();
        let signed = match self.signer.sign_transaction(&transaction).await {
            Ok(signed) => signed,
            Err(error) => {
                self.note_signer(ticket, &error);
                return Ok(());
            }
        };
        self.report.send_modify(|report| report.signer_fault = None);
        let (account_nonce, at) = (transaction.nonce, head.l2_block);
        let submission = Submission { hash: signed.hash, account_nonce, signed: signed.bytes, at, attempt };
        let recorded = match self.book(move |ledger| ledger.submit(ticket, submission)).await {
            Ok(recorded) => recorded,
            Err(RedeemerError::Ledger(
                error @ (LedgerError::OutOfOrder(_) | LedgerError::AccountNonceTaken { .. }),
            )) => {
                tracing::warn!(?ticket, reason = %error, "redemption was not recorded, so not sent");
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let now = Instant::now();
        self.sent.insert(ticket, Sent { first: now, last: now });
        self.broadcast(&recorded).await;
        Ok(())
    }

    /// Sends what is recorded. Whether it arrived shows at the next look.
    async fn broadcast(&mut self, recorded: &Recorded) {
        let (ticket, tx) = (recorded.ticket(), recorded.submission().hash);
        match self.broker.broadcast(recorded.signed()).await {
            Ok(()) => tracing::info!(?ticket, ?tx, nonce = recorded.submission().account_nonce, "redemption was sent"),
            Err(error) => self.note_fault(ticket, &error),
        }
    }

    /// The contracts or the endpoint refused to simulate a redemption.
    async fn refused(&mut self, winner: &WinningTicket, error: &BrokerError) -> Result<Tried, RedeemerError> {
        let ticket = winner.hash();
        self.note_fault(ticket, error);
        match error.class {
            FaultClass::Transport => return Ok(Tried::NoChain),
            FaultClass::Done => {
                if self.broker.used_ticket(ticket).await == Ok(true) && self.certain(ticket, Doubt::Spent) {
                    tracing::error!(?ticket, "ticket was redeemed by somebody else");
                    self.advance(ticket, RedemptionEvent::Abandoned(AbandonReason::UsedElsewhere)).await?;
                    self.forget(ticket);
                }
            }
            FaultClass::Permanent => {
                if self.certain(ticket, Doubt::Refused) {
                    let reason = AbandonReason::Refused(error.detail.chars().take(200).collect());
                    self.advance(ticket, RedemptionEvent::Abandoned(reason)).await?;
                    self.forget(ticket);
                }
            }
            FaultClass::WaitForRound
            | FaultClass::WaitForUnpause
            | FaultClass::WaitForFunds
            | FaultClass::WaitForActiveSet
            | FaultClass::Conditional
            | FaultClass::Operator
            | FaultClass::Bug => {}
        }
        Ok(Tried::NotNow)
    }

    /// Was this seen for long enough to be believed? Starts the clock when it is seen first.
    fn certain(&mut self, ticket: H256, doubt: Doubt) -> bool {
        let since = *self.doubts.entry((ticket, doubt)).or_insert_with(Instant::now);
        since.elapsed() >= self.config.doubt()
    }

    /// Not before some time has passed; longer each time.
    fn wait(&mut self, ticket: H256) {
        let (first, max) = (self.config.retry_first_s, self.config.retry_max_s);
        let patience = self.patience.entry(ticket).or_default();
        patience.lose(Duration::from_secs(first), Duration::from_secs(max), &mut rand::rngs::OsRng);
    }

    fn forget(&mut self, ticket: H256) {
        self.patience.remove(&ticket);
        self.sent.remove(&ticket);
        self.doubts.retain(|(other, _), _| *other != ticket);
    }

    /// Forgets what no longer matters: old accounts, offers that are over, settled winners of old rounds.
    async fn clear_away(&mut self, head: &ChainHead) -> Result<(), RedeemerError> {
        if self.cleared.is_some_and(|cleared| cleared.elapsed() < CLEARING) {
            return Ok(());
        }
        self.cleared = Some(Instant::now());
        let now = livepeer::units::Timestamp(self.clock.unix_seconds());
        let (l1_block, round) = (head.l1_block, head.round);
        // Forgetting offers is for good, so a block out of a blue sky is left alone.
        let believable = self.last_l1_block.is_none_or(|last| l1_block.0 <= last.saturating_add(BELIEVABLE_JUMP));
        self.last_l1_block = Some(l1_block.0);
        self.book(move |ledger| {
            ledger.expire_idle(now, ACCOUNT_IDLE)?;
            if believable {
                ledger.expire_offers(l1_block)?;
                ledger.prune_settled(round)?;
            }
            Ok(())
        })
        .await
    }

    async fn advance(&self, ticket: H256, event: RedemptionEvent) -> Result<(), RedeemerError> {
        self.book(move |ledger| ledger.advance(ticket, event)).await.map(|_| ())
    }

    async fn book<V: Send + 'static>(
        &self,
        work: impl FnOnce(&Ledger) -> Result<V, LedgerError> + Send + 'static,
    ) -> Result<V, RedeemerError> {
        let ledger = self.ledger.clone();
        Ok(tokio::task::spawn_blocking(move || work(&ledger)).await??)
    }

    async fn read_balance(&mut self) {
        if self.balance_read.is_some_and(|read| read.elapsed() < BALANCE) {
            return;
        }
        self.balance_read = Some(Instant::now());
        match self.broker.balance(self.signer.account()).await {
            Ok(balance) => self.report.send_modify(|report| report.hot_balance = Some(balance)),
            Err(error) => tracing::debug!(reason = %error, "hot account's balance was not read"),
        }
    }

    fn note_success(&self) {
        self.report.send_if_modified(|report| {
            let changed = report.faults_in_a_row > 0;
            report.faults_in_a_row = 0;
            changed
        });
    }

    fn note_fault(&self, ticket: H256, error: &BrokerError) {
        tracing::warn!(?ticket, class = ?error.class, reason = error.detail, "chain refused a step of a redemption");
        self.report.send_modify(|report| {
            match error.class {
                FaultClass::Transport => report.faults_in_a_row = report.faults_in_a_row.saturating_add(1),
                _ => report.faults_in_a_row = 0,
            }
            if matches!(error.class, FaultClass::Operator | FaultClass::Bug | FaultClass::Permanent) {
                report.refused = Some((format!("{ticket:?}"), error.detail.clone()));
            }
        });
    }

    fn note_signer(&mut self, ticket: H256, error: &SignError) {
        tracing::error!(?ticket, reason = %error, "redemption was not signed: see that millrace-signer runs and what it refuses");
        self.report.send_modify(|report| report.signer_fault = Some(error.to_string()));
    }

    /// Tells how the winners in hand fare.
    async fn publish(&self, head: &ChainHead) -> Result<(), RedeemerError> {
        let (l1_block, round) = (head.l1_block, head.round);
        let (last_round, failing) = self
            .book(move |ledger| {
                let next = Round(round.0.saturating_add(1));
                let failing = |winner: &WinningTicket| {
                    matches!(ledger.redemption(winner.hash()), Some(Redemption::Held { failures: 2.. }))
                };
                let failing = ledger.due(l1_block, round).iter().filter(|winner| failing(winner)).count();
                Ok((ledger.overdue(next).len(), failing))
            })
            .await?;
        self.report.send_if_modified(|report| {
            let changed = (report.last_round_tickets, report.failing_tickets) != (last_round, failing);
            (report.last_round_tickets, report.failing_tickets) = (last_round, failing);
            changed
        });
        Ok(())
    }
}

/// What came of trying to redeem a winner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tried {
    /// A transaction is recorded and on its way.
    Sent,
    /// Not this one, not now.
    NotNow,
    /// No use trying others either.
    NoChain,
}

/// A transaction with a fee cap that any node accepts in place of the one that was `steps` cheaper.
fn dearer(transaction: Transaction, steps: u64) -> Transaction {
    let raise = |fee: Wei| {
        (0..steps).fold(fee, |fee, _| {
            let more = fee.checked_mul(100 + REPLACEMENT_PERCENT).map(|fee| Wei(fee.0 / 100));
            more.unwrap_or(fee).saturating_add(Wei::from(1))
        })
    };
    let max_priority_fee_per_gas = raise(transaction.max_priority_fee_per_gas);
    let max_fee_per_gas = raise(transaction.max_fee_per_gas).max(max_priority_fee_per_gas);
    Transaction { max_priority_fee_per_gas, max_fee_per_gas, ..transaction }
}
