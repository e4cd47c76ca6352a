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
use livepeer::broker::{Broker, BrokerError, ChainHead, FaultClass};
use livepeer::redemption::{Verdict, worth_redeeming};
use livepeer::ticket::WinningTicket;
use livepeer::transaction::Transaction;
use livepeer::units::Round;
use millrace_hal::Clock;
use service::Heartbeat;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::sign::{SignError, Signer};

mod asked;
mod config;
mod errands;
mod patience;
mod report;
mod settle;

pub use asked::{AskError, Desk, Wanted};
pub use config::RedeemerConfig;
pub use errands::{RewardReport, RoundsConfig};
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
    /// The signer refused a batch, so there are none.
    alone: bool,
    errands: errands::Errands,
    desk: Desk,
    asked: tokio::sync::mpsc::Receiver<asked::Asked>,
    wish: asked::Wish,
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
        let (desk, asked) = Desk::new();
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
            alone: false,
            errands: errands::Errands::default(),
            desk,
            asked,
            wish: asked::Wish::default(),
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
        let broker = Arc::clone(&self.broker);
        while !stopping.is_cancelled() {
            self.work().await?;
            heartbeat.beat();
            tokio::select! {
                () = broker.head_changed() => {}
                () = tokio::time::sleep(TICK) => {}
                () = self.next_wish() => {}
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
        let errand_in_block = self.settle_errand(&head).await?;
        let all_in_blocks = self.settle(&head).await? && errand_in_block;
        self.give_up(&head).await?;
        if all_in_blocks && !self.begin_wish(&head).await? && !self.run_errands(&head).await? {
            self.redeem_next(&head).await?;
        }
        self.clear_away(&head).await?;
        self.read_balance().await;
        self.publish(&head).await
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
        let due = self.book(move |ledger| Ok(ledger.due(l1_block, round))).await?;
        match self.redeem_together(&due, head).await? {
            Tried::NotNow => {}
            Tried::Sent | Tried::NoChain => return Ok(()),
        }
        for winner in due {
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

    /// The account nonce of a new transaction, when the chain and the ledger agree on it.
    async fn free_nonce(&mut self, ticket: H256) -> Result<Option<u64>, RedeemerError> {
        let nonce = match self.broker.account_nonce(self.signer.account()).await {
            Ok(nonce) => nonce,
            Err(error) => {
                self.note_fault(ticket, &error);
                return Ok(None);
            }
        };
        // An endpoint that lags would give us a nonce that one of ours has already.
        let submitted = self.book(|ledger| Ok(ledger.submitted())).await?;
        Ok(Some(nonce).filter(|nonce| submitted.iter().all(|recorded| recorded.submission().account_nonce < *nonce)))
    }

    /// Several due winners in one transaction, when that can be. What is refused here, or was tried before, is tried alone.
    async fn redeem_together(&mut self, due: &[WinningTicket], head: &ChainHead) -> Result<Tried, RedeemerError> {
        let ready = |winner: &&WinningTicket| self.patience.get(&winner.hash()).is_none_or(Patience::over);
        let fresh = |winner: &&WinningTicket| {
            matches!(self.ledger.redemption(winner.hash()), Some(Redemption::Held { failures: 0 }))
        };
        let most = if self.alone { 1 } else { self.config.batch };
        // Who is due first goes first, be it alone.
        let winners: Vec<WinningTicket> = due.iter().filter(ready).take_while(fresh).take(most).copied().collect();
        let (Some(first), true) = (winners.first().map(WinningTicket::hash), winners.len() > 1) else {
            return Ok(Tried::NotNow);
        };
        let Some(nonce) = self.free_nonce(first).await? else { return Ok(Tried::NoChain) };
        let prepared = match self.broker.prepare_batch(&winners, self.signer.account(), nonce).await {
            Ok(Some(prepared)) => prepared,
            Ok(None) => return Ok(Tried::NotNow),
            Err(error) => {
                self.note_fault(first, &error);
                return Ok(if error.class == FaultClass::Transport { Tried::NoChain } else { Tried::NotNow });
            }
        };
        self.note_success();
        let tickets: Vec<H256> = prepared.winners.iter().map(WinningTicket::hash).collect();
        tracing::info!(tickets = tickets.len(), cost = %prepared.cost, nonce, "tickets are redeemed together");
        self.sign_record_send(&prepared.winners, prepared.transaction, head, 0).await?;
        Ok(if tickets.iter().any(|ticket| self.sent.contains_key(ticket)) { Tried::Sent } else { Tried::NotNow })
    }

    async fn redeem(&mut self, winner: &WinningTicket, head: &ChainHead) -> Result<Tried, RedeemerError> {
        let (ticket, from) = (winner.hash(), self.signer.account());
        let Some(nonce) = self.free_nonce(ticket).await? else { return Ok(Tried::NoChain) };
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
        self.sign_record_send(std::slice::from_ref(winner), prepared.transaction, head, 0).await?;
        Ok(if self.sent.contains_key(&ticket) { Tried::Sent } else { Tried::NotNow })
    }

    /// The order is the point: signed, recorded durably, and only then sent.
    async fn sign_record_send(
        &mut self,
        winners: &[WinningTicket],
        transaction: Transaction,
        head: &ChainHead,
        attempt: u32,
    ) -> Result<(), RedeemerError> {
        let tickets: Vec<H256> = winners.iter().map(WinningTicket::hash).collect();
        let Some(ticket) = tickets.first().copied() else { return Ok(()) };
        let signed = match self.signer.sign_transaction(&transaction).await {
            Ok(signed) => signed,
            Err(SignError::Refused(refusal)) if tickets.len() > 1 => {
                tracing::warn!(reason = %refusal, "a batch was not signed: from now on tickets are redeemed one by one");
                self.alone = true;
                return Ok(());
            }
            Err(error) => {
                self.note_signer(ticket, &error);
                return Ok(());
            }
        };
        self.report.send_modify(|report| report.signer_fault = None);
        let (account_nonce, at) = (transaction.nonce, head.l2_block);
        let together = tickets.len() > 1;
        let carried = if together { tickets } else { Vec::new() };
        let submission =
            Submission { hash: signed.hash, account_nonce, signed: signed.bytes, at, attempt, tickets: carried };
        let record = move |ledger: &Ledger| {
            if together { ledger.submit_batch(submission) } else { ledger.submit(ticket, submission) }
        };
        let recorded = match self.book(record).await {
            Ok(recorded) => recorded,
            Err(RedeemerError::Ledger(
                error @ (LedgerError::OutOfOrder(_)
                | LedgerError::ErrandUnderWay
                | LedgerError::AccountNonceTaken { .. }),
            )) => {
                tracing::warn!(?ticket, reason = %error, "redemption was not recorded, so not sent");
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let now = Instant::now();
        self.sent.insert(recorded.ticket(), Sent { first: now, last: now });
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
