//! Money coming in: offers made, tickets taken, work charged; and `POST /payment`.
//!
//! Walk 1, steps 3, 4 and 10. The till knows the chain, the signer and the ledger; the ledger blocks, so it is
//! only ever called on blocking threads.
//!
//! *Source:* livepeer-wire §4.2, §5.3 to §5.5.
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Extension, State};
use axum::response::Response;
use http::{HeaderMap, HeaderValue, header};
use ledger::{Account, Ledger, LedgerError, ReceiveError, ReceiveRequest};
use livepeer::address::Address;
use livepeer::broker::{Broker, BrokerError, ChainHead, FaultClass, SenderInfo};
use livepeer::credentials::AuthTokenError;
use livepeer::params::{MAX_NONCES, TicketParams, max_float};
use livepeer::price::PricePerPixel;
use livepeer::recipient_rand::RecipientSecret;
use livepeer::ticket::{OpenBatch, TicketBatch, TicketError};
use livepeer::units::{Round, Timestamp, Wei};
use livepeer::wire::{WireError, net, payment_from_wire, segment_from_wire};
use prost::Message;
use service::status::{Alarm, Chain, Money, NodeStatus};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::config::PaymentConfig;
use crate::info::OfferError;
use crate::node::Orchestrator;
use crate::pool::Transcoder;
use crate::prices::{FeedReport, Prices};
use crate::pricing::{self, Asked, PricingError};
use crate::redeemer::{RedeemerReport, alarms};
use crate::reject::{Fault, Rejection};
use crate::segment::{check_signature, payment_header, segment_header};
use crate::server::Peer;
use crate::session::Session;
use crate::sign::Signer;

mod gateways;
mod pinned;
pub(crate) mod refresh;

use self::gateways::Gateways;
use self::pinned::Pinned;

/// The oldest view of the chain on which offers are made and tickets taken: our credit clock when no endpoint
/// answers.
pub const CREDIT_CLOCK: Duration = Duration::from_secs(15 * 60);
/// How long the chain may take to tell a sender's standing: gateways wait six seconds in all.
const STANDING: Duration = Duration::from_secs(3);
/// Senders whose last known standing is kept for that case.
const MAX_STANDINGS: usize = 1024;

/// Why a payment is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PaymentError {
    /// It makes no sense.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The price it names is not this session's.
    #[error(
        "invalid expected price sent with payment err=\"expected price {expected:?} is not the session's {price:?}\""
    )]
    Price {
        /// What it names.
        expected: PricePerPixel,
        /// What holds, or the least we would take.
        price: PricePerPixel,
    },
    /// We are not in the active set.
    #[error("orchestrator {recipient} is inactive in round {round}, cannot process payments")]
    Inactive {
        /// We.
        recipient: Address,
        /// Now.
        round: Round,
    },
    /// The sender may soon take its money away.
    #[error("deposit and reserve for sender {sender} is set to unlock soon")]
    Unlocking {
        /// Who.
        sender: Address,
    },
    /// A ticket is at fault.
    #[error(transparent)]
    Ticket(#[from] TicketError),
    /// The sender has too many winners here.
    #[error("sender has too many unredeemed winning tickets")]
    TooManyHeld,
    /// There is no price today, so none can be compared.
    #[error("no price is known now")]
    NoPrice,
    /// The chain was not seen lately.
    #[error("the chain was not seen lately")]
    ChainUnknown,
    /// The sender's standing cannot be read.
    #[error("sender's standing cannot be read: {0}")]
    Standing(#[from] BrokerError),
    /// The ledger does not take it.
    #[error("ledger: {0}")]
    Ledger(String),
}

impl PaymentError {
    /// Is it nobody's business but ours?
    #[must_use]
    pub fn is_internal(&self) -> bool {
        matches!(self, Self::ChainUnknown | Self::Standing(_) | Self::NoPrice | Self::Ledger(_))
    }

    /// What the gateway is told.
    #[must_use]
    pub fn text(&self) -> String {
        if self.is_internal() { "Internal Server Error".to_owned() } else { self.to_string() }
    }

    /// Whose fault it is.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::ChainUnknown | Self::Standing(_) => Fault::Chain,
            Self::Ledger(_) | Self::NoPrice | Self::Inactive { .. } => Fault::Ours,
            _ => Fault::Gateway,
        }
    }

    /// A word for counting.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Wire(_) => "encoding",
            Self::Price { .. } | Self::NoPrice => "price",
            Self::Inactive { .. } => "inactive",
            Self::Unlocking { .. } => "unlocking",
            Self::Ticket(TicketError::Expired) => "expired",
            Self::Ticket(TicketError::NonceSeen { .. } | TicketError::TooManyNonces { .. }) => "nonce",
            Self::Ticket(TicketError::Signature) => "signature",
            Self::Ticket(_) => "params",
            Self::TooManyHeld => "too-many-held",
            Self::ChainUnknown | Self::Standing(_) => "chain",
            Self::Ledger(_) => "ledger",
        }
    }
}

/// What a till is made of.
pub struct TillParts<B, S> {
    /// The chain.
    pub broker: Arc<B>,
    /// Who signs for us.
    pub signer: Arc<S>,
    /// What we are owed.
    pub ledger: Ledger,
    /// The secret behind our offers, in the ledger's generation.
    pub secret: RecipientSecret,
    /// Who is paid.
    pub recipient: Address,
    /// What the work costs.
    pub config: PaymentConfig,
    /// What the price feed last told.
    pub feed: watch::Receiver<FeedReport>,
    /// What the redeemer last said.
    pub redeemer: watch::Receiver<RedeemerReport>,
}

/// Where gateways pay.
pub struct Till<B, S> {
    pub(crate) broker: Arc<B>,
    pub(crate) signer: Arc<S>,
    pub(crate) ledger: Ledger,
    secret: RecipientSecret,
    recipient: Address,
    config: RwLock<Arc<PaymentConfig>>,
    pub(crate) prices: Prices,
    gateways: Gateways,
    pub(crate) redeemer: watch::Receiver<RedeemerReport>,
    /// Prices of streams that pay by manifest.
    pub(crate) pinned: Pinned,
    standings: Mutex<HashMap<Address, (Instant, SenderInfo)>>,
}

impl<B, S> std::fmt::Debug for TillParts<B, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TillParts").field("recipient", &self.recipient).finish_non_exhaustive()
    }
}

impl<B, S> std::fmt::Debug for Till<B, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Till").field("recipient", &self.recipient).finish_non_exhaustive()
    }
}

impl<B, S> Till<B, S> {
    /// Opens the till.
    #[must_use]
    pub fn new(parts: TillParts<B, S>) -> Self {
        let TillParts { broker, signer, ledger, secret, recipient, config, feed, redeemer } = parts;
        let prices = Prices::new(&config, feed);
        let (pinned, standings, gateways) = (Pinned::default(), Mutex::default(), Gateways::default());
        let config = RwLock::new(Arc::new(config));
        Self { broker, signer, ledger, secret, recipient, config, prices, gateways, redeemer, pinned, standings }
    }

    /// Who is paid.
    #[must_use]
    pub fn recipient(&self) -> Address {
        self.recipient
    }

    /// The prices asked.
    #[must_use]
    pub fn prices(&self) -> &Prices {
        &self.prices
    }

    /// Bounds the face value of tickets asked for from now on, until the node ends; zero for no bound.
    pub fn set_max_face_value(&self, most: Wei) {
        let mut config = self.config.write().unwrap_or_else(PoisonError::into_inner);
        *config = Arc::new(PaymentConfig { max_face_value_wei: most, ..(**config).clone() });
        drop(config);
        tracing::info!(max_face_value_wei = %most, "the bound of the face value was set");
    }

    fn config(&self) -> Arc<PaymentConfig> {
        Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<B: Broker, S: Signer> Till<B, S> {
    /// Makes an offer to a sender: at the settled price when there is one, else at today's.
    ///
    /// # Errors
    /// [`OfferError`].
    pub async fn offer(
        &self,
        sender: Address,
        settled: Option<PricePerPixel>,
        now: Timestamp,
    ) -> Result<(PricePerPixel, TicketParams), OfferError> {
        let head = self.head(now).ok_or(OfferError::ChainUnknown)?;
        let standing = self.standing(sender).await?;
        let exposed = self.exposed(sender).await.map_err(OfferError::Ledger)?;
        let mut rng = rand::rngs::OsRng;
        let asked = match settled {
            Some(price) => Asked::Settled(price),
            None => Asked::Today(self.prices.of(sender).map_err(PricingError::from)?),
        };
        let terms = pricing::terms(&self.config(), &head, sender, &standing, exposed, asked, &mut rng)?;
        let float = max_float(standing.claimable_reserve, standing.deposit, exposed);
        self.gateways.offered(sender, terms.face_value, float);
        Ok((terms.price, pricing::offer(&self.secret, self.recipient, &terms)))
    }

    /// The price a payment's sender believes in, if it may be right: the session's, or before there is one, a
    /// price that tickets will have to prove or that is not below today's.
    pub(crate) fn believed_price(
        &self,
        session: &Session,
        payment: &net::Payment,
        granted: Option<PricePerPixel>,
    ) -> Option<PricePerPixel> {
        session.price().or_else(|| {
            let told = payment.expected_price.as_ref()?;
            let expected = PricePerPixel::from_wire(told.price_per_unit, told.pixels_per_unit).ok()?;
            let sender = Address::from_bytes(&payment.sender).unwrap_or_default();
            let proved_by_tickets = payment.ticket_params.is_some();
            let enough = || self.floor_price(sender, granted).is_some_and(|floor| pricing::at_least(expected, floor));
            (proved_by_tickets || enough()).then_some(expected)
        })
    }

    /// Takes a payment in. On return its credit is in the ledger and its winners are durable; the price, which is to
    /// be fixed now, is given back.
    ///
    /// Unlike stock we charge at the session's price whatever a later payment says, so a payment that names
    /// another price is refused; and nobody fixes a price below ours by sending no tickets.
    ///
    /// # Errors
    /// [`PaymentError`]. Credit of the tickets before a faulty one stays.
    pub(crate) async fn take(
        &self,
        payment: &net::Payment,
        account: &Account,
        fixed: Option<PricePerPixel>,
        granted: Option<PricePerPixel>,
        now: Timestamp,
    ) -> Result<PricePerPixel, PaymentError> {
        let payment = payment_from_wire(payment)?;
        let expected = payment.expected_price;
        let head = self.head(now).ok_or(PaymentError::ChainUnknown)?;
        if payment.tickets.is_some() && !head.recipient_active {
            return Err(PaymentError::Inactive { recipient: self.recipient, round: head.round });
        }
        match fixed {
            Some(price) if price != expected => return Err(PaymentError::Price { expected, price }),
            None if payment.tickets.is_none() => match self.floor_price(payment.sender, granted) {
                Some(price) if pricing::at_least(expected, price) => {}
                Some(price) => return Err(PaymentError::Price { expected, price }),
                None => return Err(PaymentError::NoPrice),
            },
            _ => {}
        }
        if let Some(batch) = payment.tickets {
            let standing = self.standing(payment.sender).await?;
            let unlocks = standing.withdraw_round;
            if unlocks.0 != 0 && unlocks.0 <= head.last_initialized_round.0.saturating_add(1) {
                return Err(PaymentError::Unlocking { sender: payment.sender });
            }
            self.receive(payment.sender, expected, batch, account.clone(), &head, now).await?;
        }
        Ok(expected)
    }

    /// Checks, draws and books tickets, on a blocking thread.
    async fn receive(
        &self,
        sender: Address,
        price: PricePerPixel,
        batch: TicketBatch,
        account: Account,
        head: &ChainHead,
        now: Timestamp,
    ) -> Result<(), PaymentError> {
        let (ledger, secret, us, head) = (self.ledger.clone(), self.secret.clone(), self.recipient, head.l1_block);
        let receipt = tokio::task::spawn_blocking(move || {
            let open = OpenBatch::open(&batch.params, sender, price, us, &secret)?;
            let request = ReceiveRequest {
                account: &account,
                batch: &open,
                tickets: &batch.tickets,
                head,
                max_nonces: MAX_NONCES,
                now,
            };
            ledger.receive(&request).map_err(|error| match error {
                ReceiveError::TooManyHeld => PaymentError::TooManyHeld,
                ReceiveError::Ledger(error) => PaymentError::Ledger(error.to_string()),
            })
        });
        let receipt = receipt.await.map_err(|error| PaymentError::Ledger(error.to_string()))??;
        self.gateways.paid(sender, receipt.accepted, receipt.credited, receipt.won.len());
        receipt.error.map_or(Ok(()), |error| Err(error.into()))
    }

    /// Is there credit for one ticket's worth of work?
    pub(crate) async fn covers_ticket(&self, account: &Account) -> Result<bool, PaymentError> {
        let (account, worth) = (account.clone(), self.config().ticket_ev_wei);
        self.book(move |ledger| ledger.balance(&account)).await.map(|balance| balance.covers(worth))
    }

    /// Charges work that was done.
    pub(crate) async fn charge(&self, account: &Account, fee: Wei, now: Timestamp) -> Result<(), PaymentError> {
        let account = account.clone();
        self.book(move |ledger| ledger.debit(&account, fee, now)).await.map(|_| ())
    }

    /// Winners of a sender that are not redeemed yet: what we would lose if its money were gone.
    async fn exposed(&self, sender: Address) -> Result<Wei, String> {
        let pending = self.book(|ledger| Ok(ledger.pending_by_sender())).await.map_err(|error| error.to_string())?;
        Ok(pending.get(&sender).map_or(Wei::ZERO, |pending| pending.face_value))
    }

    async fn book<V: Send + 'static>(
        &self,
        work: impl FnOnce(&Ledger) -> Result<V, LedgerError> + Send + 'static,
    ) -> Result<V, PaymentError> {
        let ledger = self.ledger.clone();
        let done = tokio::task::spawn_blocking(move || work(&ledger)).await;
        let done = done.map_err(|error| PaymentError::Ledger(error.to_string()))?;
        done.map_err(|error| PaymentError::Ledger(error.to_string()))
    }

    /// The chain, if it was seen within our credit clock.
    pub(crate) fn head(&self, now: Timestamp) -> Option<ChainHead> {
        let limit = i64::try_from(CREDIT_CLOCK.as_secs()).unwrap_or(i64::MAX);
        self.broker.head().filter(|head| now.0.saturating_sub(head.seen_at.0) <= limit)
    }

    /// A sender's standing; the last known one, within our credit clock, when the chain does not answer.
    async fn standing(&self, sender: Address) -> Result<SenderInfo, BrokerError> {
        let asked = tokio::time::timeout(STANDING, self.broker.sender_info(sender)).await;
        let late = || BrokerError { class: FaultClass::Transport, detail: "no answer in time".to_owned() };
        let answer = asked.unwrap_or_else(|_| Err(late()));
        let mut known = self.standings.lock().unwrap_or_else(PoisonError::into_inner);
        match answer {
            Ok(standing) => {
                if known.len() >= MAX_STANDINGS {
                    known.retain(|_, (since, _)| since.elapsed() <= CREDIT_CLOCK);
                }
                if known.len() < MAX_STANDINGS || known.contains_key(&sender) {
                    known.insert(sender, (Instant::now(), standing));
                }
                Ok(standing)
            }
            Err(error) => match known.get(&sender) {
                Some((since, standing)) if since.elapsed() <= CREDIT_CLOCK => Ok(*standing),
                _ => Err(error),
            },
        }
    }

    /// Adds money, chain and their alarms to a status.
    pub(crate) async fn report(&self, now: Timestamp, status: &mut NodeStatus) {
        let submitted = |ledger: &Ledger| u64::try_from(ledger.submitted().len()).unwrap_or(u64::MAX);
        let books =
            self.book(move |ledger| Ok((ledger.totals(), ledger.pending(), submitted(ledger), ledger.failure())));
        if let Ok((totals, pending, submitted, failure)) = books.await {
            status.money = Money {
                tickets_received: totals.tickets_received,
                received_ev_wei: totals.received.to_string(),
                tickets_won: totals.tickets_won,
                won_wei: totals.won.to_string(),
                tickets_redeemed: totals.tickets_redeemed,
                paid_wei: totals.paid.to_string(),
                redemption_failures: totals.redemption_failures,
                tickets_pending: pending.tickets,
                tickets_submitted: submitted,
                pending_wei: pending.face_value.to_string(),
                tickets_abandoned: totals.tickets_abandoned,
                payment_errors: Default::default(),
                gateways: self.gateways.told(),
            };
            if let Some(text) = failure {
                let id = if text.contains("disk full") { "DISK-FULL" } else { "FS-RO" }.to_owned();
                status.alarms.push(Alarm { id, severity: "crit".to_owned(), instance: "ledger".to_owned(), text });
            }
        }
        let (head, redeemer) = (self.broker.head(), self.redeemer.borrow().clone());
        status.prices = Some(self.prices_now(head.as_ref()));
        if let Some(fault) = self.prices.feed().fault {
            let text = format!("the price feed tells nothing that can be believed: {fault}");
            let (id, severity) =
                ("PRICE-FEED".to_owned(), if self.prices.feed().answer.is_some() { "warn" } else { "crit" });
            status.alarms.push(Alarm { id, severity: severity.to_owned(), instance: String::new(), text });
        }
        status.alarms.extend(alarms(&redeemer, head.as_ref(), self.config().redeem_gas, now));
        let seen = head.as_ref();
        status.chain = Some(Chain {
            l1_block: seen.map_or(0, |head| head.l1_block.0),
            l2_block: seen.map_or(0, |head| head.l2_block.0),
            round: seen.map_or(0, |head| head.round.0),
            round_initialized: seen.is_some_and(|head| head.round == head.last_initialized_round),
            active: seen.is_some_and(|head| head.recipient_active),
            poll_age_s: seen.map_or(u64::MAX, |head| u64::try_from(now.0.saturating_sub(head.seen_at.0)).unwrap_or(0)),
            recipient: self.recipient.to_string(),
            hot_account: self.signer.account().to_string(),
            hot_balance_wei: redeemer.hot_balance.map(|balance| balance.to_string()).unwrap_or_default(),
            gas_price_wei: seen.map(|head| head.gas_price.to_string()).unwrap_or_default(),
            reward_call_errors: redeemer.reward_call_errors,
        });
    }

    /// What is asked now, for people.
    fn prices_now(&self, head: Option<&ChainHead>) -> service::status::Prices {
        let config = self.config();
        let asked = |gateway: Address| {
            let today = self.prices.of(gateway).ok()?;
            let overhead = head.filter(|_| config.auto_adjust_price && !today.base.is_free()).and_then(|head| {
                let economics = pricing::economics(&config, head);
                let face_value = economics.face_value(Wei(primitive_types::U256::MAX)).ok()?;
                pricing::adjusted(today, economics.tx_cost(), face_value).ok()
            });
            Some((today, overhead.unwrap_or(today.base)))
        };
        let usual = asked(Address::NULL);
        let gateways = self.prices.gateways().into_iter();
        let own = gateways.filter_map(|gateway| Some((gateway.to_string(), asked(gateway)?.1.to_string())));
        service::status::Prices {
            asked: usual.map(|(_, asked)| asked.to_string()).unwrap_or_default(),
            base: usual.map(|(today, _)| today.base.to_string()).unwrap_or_default(),
            ceiling: usual.and_then(|(today, _)| today.ceiling).map(|ceiling| ceiling.to_string()).unwrap_or_default(),
            per_gateway: own.collect(),
            ether: self.prices.feed().answer.map(|answer| answer.price.display()).unwrap_or_default(),
        }
    }

    /// The least price we offer this sender today: overhead only adds to it.
    fn floor_price(&self, sender: Address, granted: Option<PricePerPixel>) -> Option<PricePerPixel> {
        if granted.is_some() {
            return granted;
        }
        let today = self.prices.of(sender).ok()?;
        let adjusted = || pricing::adjusted(today, Wei::ZERO, Wei::ZERO).unwrap_or(today.base);
        Some(if self.config().auto_adjust_price { adjusted() } else { today.base })
    }
}

/// `POST /payment`: credit by manifest id.
pub(crate) async fn serve<T: Transcoder, B: Broker, S: Signer>(
    State(node): State<Arc<Orchestrator<T, B, S>>>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
) -> Response {
    match pay(&node, &headers).await {
        Ok(info) => {
            let result = net::PaymentResult { info: Some(info) };
            let mut response = Response::new(Body::from(result.encode_to_vec()));
            let kind = HeaderValue::from_static("application/octet-stream");
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
            response
        }
        Err(rejection) => {
            node.refuse(peer, "/payment", &rejection);
            rejection.respond()
        }
    }
}

async fn pay<T: Transcoder, B: Broker, S: Signer>(
    node: &Orchestrator<T, B, S>,
    headers: &HeaderMap,
) -> Result<net::OrchestratorInfo, Rejection> {
    let payment = payment_header(headers)?;
    let sender = Address::from_bytes(&payment.sender).unwrap_or_default();
    let meta = segment_from_wire(&segment_header(headers)?)?;
    if node.till.is_some() {
        check_signature(&meta, sender)?;
    }
    node.token_key.check(meta.auth_token.as_ref(), node.now())?;
    let token = meta.auth_token.ok_or(AuthTokenError::Missing)?;
    let session = node.sessions.get(&token.session_id);
    let mut price = session.as_deref().and_then(Session::price);
    if let Some(till) = &node.till {
        let manifest = String::from_utf8(meta.manifest_id).unwrap_or_else(|error| hex::encode(error.into_bytes()));
        let account = Account::manifest(sender, manifest.as_str());
        let fixed = till.pinned.of(sender, &manifest).or(price);
        let paid = till.take(&payment, &account, fixed, node.granted(sender), node.now()).await?;
        till.pinned.pin(sender, &manifest, paid);
        price = Some(session.map_or(paid, |session| session.fix_price(paid)));
    }
    Ok(node.offer(sender, price, &token).await?)
}
