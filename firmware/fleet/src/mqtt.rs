//! Walk 3, step 4: the one task that owns the MQTT client. The client is a dumb wire: on any error its state is thrown
//! away, and everything unacknowledged is fed again from the spool.
//!
//! ```text
//!  Waiting ──delay over──► Connecting ──CONNACK──► Up (SUBSCRIBE, birth, drain) ──stop──► Leaving ──► end
//!     ▲                        │                    │                                       (on:false, PUBACK,
//!     └────────── error, refusal, silence ──────────┘                                        DISCONNECT)
//! ```
//!
//! Only this task submits publishes, so the order of `Outgoing::Publish` events is the order of submission; that is how
//! a PUBACK finds its record. A PUBACK deletes nothing: it only opens the window.

mod cause;
mod documents;
mod inbound;
mod obey;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use fleet_protocol::event::{Op, Severity, id};
use fleet_protocol::payload::{Durable, EventBody, Mode, State, Why};
use fleet_protocol::topic::box_filters;
use fleet_protocol::{Leaf, Topic};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rumqttc::Outgoing;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    ConnAck, Filter, Packet, PubAckReason, PublishProperties, RetainForwardRule, SubscribeReasonCode,
};
use rumqttc::v5::{AsyncClient, Event};
use rustls::ClientConfig;
use serde_json::{Map, Value};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::config::Config;
use crate::identity::Identity;
use crate::orders::Orders;
use crate::outbox::{self, Content, Item, Outbox};
use crate::reconnect::{Backoff, Cause, FAILURES_PER_BROKER, Policy, boot_delay};
use crate::report::Purse;
use crate::spool::SpoolError;

/// Our own window of unacknowledged publishes.
const WINDOW: usize = 16;
/// Packet-id space, far above the window so that ids never collide.
const INFLIGHT_LIMIT: u16 = 256;
/// Requests the client queues: the window, the SUBSCRIBE, the birth and the DISCONNECT.
const CHANNEL: usize = WINDOW + 8;
/// DNS, TCP, TLS and CONNACK together.
const CONNECT_TIMEOUT_S: u64 = 30;
/// Messages a second at most, and as many at once.
const RATE: u32 = 16;
/// The broker forgets where an order stood after this long.
const ANSWER_EXPIRY_S: u32 = 86_400;
/// A graceful stop waits this long for its PUBACK and DISCONNECT.
const FAREWELL: Duration = Duration::from_secs(5);
/// Without a controller for this long only grave events and heartbeats are sent.
const ABSENT_AFTER: Duration = Duration::from_secs(600);
/// How often the spool is tended.
const TEND: Duration = Duration::from_secs(1);

/// What the collector wants to know of the link.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct LinkView {
    /// Connections so far; a new one wants full reports again.
    pub(crate) connections: u64,
    pub(crate) spool_percent: u64,
    pub(crate) ledger_percent: u64,
}

/// Why the link task ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    /// The counters or the spool cannot be written: without them nothing may be sent.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// The collector is gone.
    #[error("the collector ended")]
    CollectorGone,
}

/// The wire, everything that waits for it, and who we are.
#[derive(Debug)]
pub(crate) struct Link {
    config: Config,
    tls: Arc<ClientConfig>,
    identity: Identity,
    outbox: Outbox,
    orders: Orders,
    /// What is reported as the box's version.
    version: String,
    info: (Map<String, Value>, Map<String, Value>),
    mode: watch::Receiver<Mode>,
    purse: watch::Receiver<Purse>,
    view: watch::Sender<LinkView>,
    chance: StdRng,
    start: Instant,
    backoff: Backoff,
    broker: usize,
    connections: u64,
    up: Option<Up>,
    tokens: u32,
    refilled: Instant,
    tend_at: Instant,
    controllers: BTreeMap<String, (bool, u64)>,
    absent_since: Option<Instant>,
    rewind_at: Option<Instant>,
    reborn_at: Option<Instant>,
    progress: (Instant, u64),
    refused_at: Option<Instant>,
    refused: u64,
    acl_said: bool,
    unreadable_at: Option<Instant>,
}

/// A connection that the broker accepted.
#[derive(Debug)]
struct Up {
    client: AsyncClient,
    window: usize,
    /// Submitted to the client, not yet on the wire; in order.
    submitted: VecDeque<Sent>,
    /// On the wire, not yet acknowledged by the broker.
    inflight: BTreeMap<u16, Sent>,
    farewell: Farewell,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    /// Sent at most once: no PUBACK will come.
    Once,
    Birth,
    Record(Durable, u64),
    /// Where an order stands, by the change it tells.
    Answer(u64),
    Farewell,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Farewell {
    No,
    Said,
    Disconnecting,
}

impl Link {
    pub(crate) fn new(
        config: Config,
        tls: Arc<ClientConfig>,
        identity: Identity,
        mut outbox: Outbox,
        info: (Map<String, Value>, Map<String, Value>),
        (mode, purse): (watch::Receiver<Mode>, watch::Receiver<Purse>),
        view: watch::Sender<LinkView>,
    ) -> Self {
        let start = Instant::now();
        let orders = Orders::open(&config, &mut outbox);
        let version = service::image_version(&config.orders.os_release);
        Self {
            orders,
            version: version.unwrap_or_else(|| env!("CARGO_PKG_VERSION").to_owned()),
            config,
            tls,
            identity,
            outbox,
            info,
            mode,
            purse,
            view,
            chance: StdRng::from_entropy(),
            start,
            backoff: Backoff::default(),
            broker: 0,
            connections: 0,
            up: None,
            tokens: RATE,
            refilled: start,
            tend_at: start + TEND,
            controllers: BTreeMap::new(),
            absent_since: None,
            rewind_at: None,
            reborn_at: None,
            progress: (start, 0),
            refused_at: None,
            refused: 0,
            acl_said: false,
            unreadable_at: None,
        }
    }

    /// Connect, send, reconnect, until `stop`. Cancelling it loses nothing that was durable.
    pub(crate) async fn run(
        mut self,
        mut items: mpsc::Receiver<Item>,
        heartbeat: service::Heartbeat,
        stop: CancellationToken,
    ) -> Result<(), LinkError> {
        let power_loss = !self.identity.was_clean() && clock::uptime_ms() < 5 * 60 * 1000;
        let mut retry_at = Instant::now() + boot_delay(power_loss, self.policy(), &mut self.chance);
        loop {
            // Waiting.
            while Instant::now() < retry_at {
                tokio::select! {
                    () = stop.cancelled() => return self.ended(&mut items),
                    item = items.recv() => self.take(item)?,
                    () = sleep_until(retry_at.min(self.tend_at)) => self.tend_if_due(),
                }
                heartbeat.beat();
            }
            self.identity.next_connection()?;
            let now = self.since_start();
            self.backoff.attempt(now);
            let cause = self.connection(&mut items, &heartbeat, &stop).await?;
            self.up = None;
            let Some(cause) = cause else { return self.ended(&mut items) };
            let now = self.since_start();
            let delay = self.backoff.delay(cause, self.policy(), now, &mut self.chance);
            if self.backoff.failures().is_multiple_of(FAILURES_PER_BROKER) || cause == Cause::Auth {
                self.broker = (self.broker + 1) % self.config.brokers.len().max(1);
            }
            tracing::info!(?cause, delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX), "will reconnect");
            retry_at = Instant::now() + delay;
        }
    }

    /// One connection from CONNECT to its end; `None` when the stop was said.
    async fn connection(
        &mut self,
        items: &mut mpsc::Receiver<Item>,
        heartbeat: &service::Heartbeat,
        stop: &CancellationToken,
    ) -> Result<Option<Cause>, LinkError> {
        // A fresh client for every connection: no packet id, alias, keepalive or collision survives.
        let (client, mut wire) = AsyncClient::new(self.options(), CHANNEL);
        let watchdog = Duration::from_secs(u64::from(self.config.link.keepalive_s)) * 5 / 2;
        let mut client = Some(client);
        let mut stopping: Option<Instant> = None;
        loop {
            let silent_at = Instant::now() + watchdog.max(Duration::from_secs(CONNECT_TIMEOUT_S + 5));
            let poll = wire.poll();
            tokio::pin!(poll);
            // The poll is never dropped half-way except by the watchdog, after which the client is thrown away.
            let polled = loop {
                if stop.is_cancelled() && stopping.is_none() {
                    if self.up.is_none() {
                        return Ok(None);
                    }
                    stopping = Some(Instant::now() + FAREWELL);
                    self.say_farewell();
                }
                self.pump();
                let deadline = stopping.unwrap_or(silent_at).min(silent_at);
                tokio::select! {
                    polled = &mut poll => break Some(polled),
                    item = items.recv() => self.take(item)?,
                    () = sleep_until(self.wake_at()) => self.tend_if_due(),
                    () = sleep_until(deadline) => break None,
                    () = stop.cancelled(), if stopping.is_none() => {}
                }
                heartbeat.beat();
            };
            heartbeat.beat();
            match polled {
                None if stopping.is_some() => {
                    tracing::warn!("broker did not take our leave in time");
                    return Ok(None);
                }
                None => {
                    tracing::warn!("broker was silent for too long");
                    return Ok(Some(Cause::Remote));
                }
                Some(Err(error)) => {
                    if stopping.is_some() {
                        return Ok(None);
                    }
                    let cause = cause::classify(&error);
                    tracing::warn!(reason = %error, ?cause, "broker connection ended");
                    return Ok(Some(cause));
                }
                Some(Ok(Event::Incoming(Packet::ConnAck(ack)))) => {
                    let Some(client) = client.take() else { return Ok(Some(Cause::Remote)) };
                    if !self.accepted(client, &ack) {
                        return Ok(Some(Cause::Remote));
                    }
                }
                Some(Ok(Event::Outgoing(Outgoing::Disconnect))) => return Ok(None),
                Some(Ok(Event::Outgoing(Outgoing::AwaitAck(_)))) => {
                    tracing::error!("packet ids collided; the connection is thrown away");
                    return Ok(Some(Cause::Local));
                }
                Some(Ok(event)) => {
                    if let Some(cause) = self.event(event) {
                        return Ok(Some(cause));
                    }
                }
            }
        }
    }

    fn event(&mut self, event: Event) -> Option<Cause> {
        match event {
            Event::Outgoing(Outgoing::Publish(packet)) => {
                let up = self.up.as_mut()?;
                match up.submitted.pop_front() {
                    Some(Sent::Once) => {}
                    Some(sent) => {
                        up.inflight.insert(packet, sent);
                    }
                    None => tracing::error!(packet, "a publish went out that nobody submitted"),
                }
                None
            }
            Event::Incoming(Packet::PubAck(ack)) => {
                let sent = self.up.as_mut()?.inflight.remove(&ack.pkid);
                self.broker_acknowledged(sent, ack.reason);
                None
            }
            Event::Incoming(Packet::SubAck(ack)) => {
                let refused = ack.return_codes.iter().any(|code| !matches!(code, SubscribeReasonCode::Success(_)));
                if refused {
                    tracing::error!(codes = ?ack.return_codes, "broker refused a subscription: check its access rules");
                    self.say_acl("subscribe");
                }
                None
            }
            Event::Incoming(Packet::Publish(publish)) => {
                let read = inbound::read(&self.config.fleet, &self.config.box_id, &publish.topic, &publish.payload);
                self.obey(read);
                None
            }
            Event::Incoming(Packet::Disconnect(disconnect)) => {
                tracing::warn!(reason = ?disconnect.reason_code, "broker said goodbye");
                Some(Cause::Remote)
            }
            Event::Incoming(_) | Event::Outgoing(_) => None,
        }
    }

    /// CONNACK: subscribe once, then tell who we are. False when the broker asks for the impossible.
    fn accepted(&mut self, client: AsyncClient, ack: &ConnAck) -> bool {
        let properties = ack.properties.as_ref();
        if properties.and_then(|properties| properties.server_keep_alive) == Some(0) {
            tracing::error!("broker asks for a keepalive of zero");
            return false;
        }
        let receive_max = properties.and_then(|properties| properties.receive_max).unwrap_or(u16::MAX);
        let window = (usize::from(receive_max) * 3 / 4).clamp(1, WINDOW);
        let filters = box_filters(&self.config.fleet, &self.config.box_id, &self.config.ring).into_iter().map(|path| {
            Filter { retain_forward_rule: RetainForwardRule::OnEverySubscribe, ..Filter::new(path, QoS::AtLeastOnce) }
        });
        if let Err(error) = client.try_subscribe_many(filters) {
            tracing::error!(%error, "subscription could not be queued");
            return false;
        }
        let now = self.since_start();
        self.backoff.connected(now);
        self.connections += 1;
        self.acl_said = false;
        self.outbox.born();
        self.orders.connected();
        self.progress = (Instant::now(), self.outbox.unacknowledged().1);
        self.up =
            Some(Up { client, window, submitted: VecDeque::new(), inflight: BTreeMap::new(), farewell: Farewell::No });
        let why = if self.connections == 1 { Why::Boot } else { Why::Reconnect };
        tracing::info!(connection = self.identity.life().n, "connected to the broker");
        self.birth(why);
        self.publish_view();
        true
    }

    fn submit_retained(&mut self, state: &State, sent: Sent) {
        let topic = Topic::of_box(&self.config.fleet, &self.config.box_id, Leaf::State).to_string();
        let payload = serde_json::to_vec(state).unwrap_or_default();
        self.submit(topic, payload, QoS::AtLeastOnce, true, None, sent);
    }

    /// Queue one publish; false when the client's queue is full, in which case nothing was taken.
    fn submit(
        &mut self,
        topic: String,
        payload: Vec<u8>,
        qos: QoS,
        retain: bool,
        expiry: Option<u32>,
        sent: Sent,
    ) -> bool {
        let Some(up) = &mut self.up else { return false };
        let properties = PublishProperties {
            payload_format_indicator: Some(1),
            message_expiry_interval: expiry,
            content_type: Some("application/json".to_owned()),
            ..PublishProperties::default()
        };
        match up.client.try_publish_with_properties(topic, qos, retain, payload, properties) {
            Ok(()) => {
                up.submitted.push_back(sent);
                true
            }
            Err(error) => {
                tracing::warn!(%error, "publish could not be queued");
                false
            }
        }
    }

    /// Fill the window: durable records in drain order, then live telemetry.
    fn pump(&mut self) {
        self.refill();
        let grave_only = self.absent_since.is_some_and(|since| since.elapsed() >= ABSENT_AFTER);
        loop {
            let Some(up) = &self.up else { return };
            let busy = up.submitted.len() + up.inflight.len();
            if busy >= up.window || up.submitted.len() >= WINDOW || self.tokens == 0 || up.farewell != Farewell::No {
                return;
            }
            let life = self.identity.life();
            if let Some(answer) = self.orders.next_answer(&life) {
                self.tokens -= 1;
                let sent = Sent::Answer(answer.q);
                if !self.submit(answer.topic, answer.payload, QoS::AtLeastOnce, false, Some(ANSWER_EXPIRY_S), sent) {
                    return;
                }
                continue;
            }
            let outgoing = match self.outbox.next_durable(&life, grave_only) {
                Ok(Some(outgoing)) => Some(outgoing),
                Ok(None) => self.outbox.next_live(&life, grave_only),
                Err(error) => {
                    // A box whose disk fails must still be able to say that it lives.
                    if self.unreadable_at.is_none_or(|at| at.elapsed() > Duration::from_secs(60)) {
                        self.unreadable_at = Some(Instant::now());
                        tracing::error!(%error, "spool cannot be read: check the disk");
                    }
                    self.outbox.next_live(&life, grave_only)
                }
            };
            let Some(outbox::Outgoing { topic, payload, record, expiry }) = outgoing else { return };
            let (qos, sent) = match record {
                Some((class, q)) => (QoS::AtLeastOnce, Sent::Record(class, q)),
                None => (QoS::AtMostOnce, Sent::Once),
            };
            self.tokens -= 1;
            if !self.submit(topic, payload, qos, false, expiry, sent) {
                // It stays in the spool; the resend timer brings it back.
                return;
            }
        }
    }

    fn broker_acknowledged(&mut self, sent: Option<Sent>, reason: PubAckReason) {
        match reason {
            PubAckReason::Success => {
                if let Some(Sent::Answer(q)) = sent {
                    tokio::task::block_in_place(|| self.orders.was_heard(q));
                }
            }
            PubAckReason::NoMatchingSubscribers => {}
            PubAckReason::NotAuthorized => {
                tracing::error!(?sent, "broker refused a publish: check its access rules");
                self.say_acl("publish");
            }
            other => tracing::warn!(?sent, reason = ?other, "broker refused a publish"),
        }
        if sent == Some(Sent::Farewell)
            && let Some(up) = &mut self.up
            && up.client.try_disconnect().is_ok()
        {
            up.farewell = Farewell::Disconnecting;
        }
    }

    fn say_farewell(&mut self) {
        if let Some(up) = &mut self.up {
            up.farewell = Farewell::Said;
        }
        let state = self.state(false, Why::Shutdown);
        self.submit_retained(&state, Sent::Farewell);
    }

    fn say_acl(&mut self, what: &str) {
        if std::mem::replace(&mut self.acl_said, true) {
            return;
        }
        let body = EventBody { inst: Some(what.to_owned()), ..EventBody::new(id::MQTT_ACL, Op::Occur, Severity::Err) };
        let item = Item { stamp: clock::stamp(), content: Content::Event(body) };
        self.outbox.take(self.identity.life().b, item, Instant::now());
    }

    fn take(&mut self, item: Option<Item>) -> Result<(), LinkError> {
        let item = item.ok_or(LinkError::CollectorGone)?;
        let boot = self.identity.life().b;
        // Syncs to disk take milliseconds; other tasks of this thread may run elsewhere meanwhile.
        tokio::task::block_in_place(|| self.outbox.take(boot, item, Instant::now()));
        self.publish_view();
        Ok(())
    }

    fn tend(&mut self) {
        let now = Instant::now();
        let boot = self.identity.life().b;
        tokio::task::block_in_place(|| {
            self.outbox.tend(boot, now);
            self.orders.tend(&mut self.outbox, boot);
        });
        if self.rewind_at.is_some_and(|at| now >= at) {
            self.rewind_at = None;
            self.outbox.rewind();
            self.orders.connected();
        }
        let (open, acked) = self.outbox.unacknowledged();
        let resend = Duration::from_secs(self.config.link.resend_s.into());
        if !open || acked > self.progress.1 {
            self.progress = (now, acked);
        } else if now.duration_since(self.progress.0) >= resend {
            tracing::info!("nothing was acknowledged for long; sending again");
            self.progress = (now, acked);
            self.outbox.rewind();
        }
        self.publish_view();
    }

    fn refill(&mut self) {
        let now = Instant::now();
        let earned =
            u32::try_from(now.duration_since(self.refilled).as_millis()).unwrap_or(u32::MAX).saturating_mul(RATE)
                / 1000;
        if earned > 0 {
            self.tokens = self.tokens.saturating_add(earned).min(RATE);
            self.refilled = now;
        }
    }

    /// When the loop must wake by itself: at the next token when the rate holds us, else when the spool wants tending.
    fn wake_at(&self) -> Instant {
        if self.tokens > 0 {
            return self.tend_at;
        }
        self.tend_at.min(self.refilled + Duration::from_millis(u64::from(1000 / RATE) + 1))
    }

    fn tend_if_due(&mut self) {
        if Instant::now() >= self.tend_at {
            self.tend_at = Instant::now() + TEND;
            self.tend();
        }
    }

    fn publish_view(&self) {
        let view = LinkView {
            connections: self.connections,
            spool_percent: self.outbox.fill_percent(),
            ledger_percent: self.outbox.ledger_fill_percent(),
        };
        self.view.send_if_modified(|old| std::mem::replace(old, view) != view);
    }

    fn policy(&self) -> Policy {
        let seconds = |s: u32| Duration::from_secs(s.into());
        let link = &self.config.link;
        Policy {
            window: seconds(self.identity.window_s().unwrap_or(link.window_s)),
            base: seconds(link.base_s),
            cap: seconds(link.cap_s),
        }
    }

    fn since_start(&self) -> Duration {
        self.start.elapsed()
    }

    /// The stop was said, or nobody is there to hear it: keep what the collector still had, note the clean end.
    fn ended(mut self, items: &mut mpsc::Receiver<Item>) -> Result<(), LinkError> {
        while let Ok(item) = items.try_recv() {
            self.take(Some(item))?;
        }
        self.tend();
        self.identity.stopped_cleanly()?;
        Ok(())
    }
}
