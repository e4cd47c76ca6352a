//! The controller's wire: hears its fleet, says what the ingesting thread wants said. Holds no truth of its own.
//!
//! A clean session on purpose: a broker's queue would deliver old births as if they were live. What was missed while
//! away comes again because the boxes see our connection number change and send everything unacknowledged.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::Duration;

use fleet_protocol::payload::Ctl;
use fleet_protocol::topic::controller_filters;
use rand::Rng as _;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    ConnectProperties, Filter, LastWill, Packet, PublishProperties, RetainForwardRule, SubscribeReasonCode,
};
use rumqttc::v5::{AsyncClient, Event, MqttOptions};
use rumqttc::{NetworkOptions, Outgoing, TlsConfiguration, Transport};
use rustls::ClientConfig;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::ingest::{Input, Output, presence_message};

/// Our own window of unacknowledged publishes.
const WINDOW: usize = 16;
/// Packet-id space, far above the window so that ids never collide.
const INFLIGHT_LIMIT: u16 = 256;
/// Requests the client queues.
const CHANNEL: usize = WINDOW + 8;
/// DNS, TCP, TLS and CONNACK together.
const CONNECT_TIMEOUT_S: u64 = 15;
/// Delay between attempts grows from the first to the second.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MOST: Duration = Duration::from_secs(30);
/// A graceful stop waits this long.
const FAREWELL: Duration = Duration::from_secs(5);

/// The wire.
#[derive(Debug)]
pub(crate) struct Wire {
    config: Config,
    tls: Arc<ClientConfig>,
    inputs: SyncSender<Input>,
    dropped: u64,
}

/// How a connection ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Stopped,
    Lost,
    /// The ingesting thread is gone.
    Deaf,
}

/// The ingesting thread ended while the wire was up.
#[derive(Debug, thiserror::Error)]
#[error("the ingesting thread ended")]
pub(crate) struct IngestGone;

impl Wire {
    pub(crate) fn new(config: Config, tls: Arc<ClientConfig>, inputs: SyncSender<Input>) -> Self {
        Self { config, tls, inputs, dropped: 0 }
    }

    /// Connect, listen, reconnect, until `stop`.
    pub(crate) async fn run(
        mut self,
        mut outputs: mpsc::Receiver<Output>,
        heartbeat: service::Heartbeat,
        stop: CancellationToken,
    ) -> Result<(), IngestGone> {
        let mut delay = RETRY_FIRST;
        loop {
            let began = Instant::now();
            match self.connection(&mut outputs, &heartbeat, &stop).await {
                End::Stopped => return Ok(()),
                End::Deaf => return Err(IngestGone),
                End::Lost => {}
            }
            if self.tell(Input::Lost).is_err() {
                return Err(IngestGone);
            }
            if began.elapsed() > Duration::from_secs(60) {
                delay = RETRY_FIRST;
            }
            let wait = delay.mul_f64(rand::rngs::OsRng.gen_range(0.5..1.0));
            delay = (delay * 2).min(RETRY_MOST);
            let until = Instant::now() + wait;
            while Instant::now() < until {
                tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    // Nothing waits for a broker that is away: acknowledgements are said again after the next birth.
                    _ = outputs.recv() => {}
                    () = sleep_until(until) => {}
                }
                heartbeat.beat();
            }
        }
    }

    async fn connection(
        &mut self,
        outputs: &mut mpsc::Receiver<Output>,
        heartbeat: &service::Heartbeat,
        stop: &CancellationToken,
    ) -> End {
        let (client, mut wire) = AsyncClient::new(self.options(), CHANNEL);
        let silence = Duration::from_secs(u64::from(self.config.broker.keepalive_s)) * 5 / 2
            + Duration::from_secs(CONNECT_TIMEOUT_S);
        let mut inflight = BTreeSet::new();
        let (mut queued, mut connected) = (0usize, false);
        let mut farewell: Option<(Instant, Option<u16>)> = None;
        loop {
            let silent_at = Instant::now() + silence;
            let poll = wire.poll();
            tokio::pin!(poll);
            let polled = loop {
                let open = connected && farewell.is_none() && queued + inflight.len() < WINDOW;
                let deadline = farewell.map_or(silent_at, |(at, _)| at.min(silent_at));
                tokio::select! {
                    polled = &mut poll => break Some(polled),
                    output = outputs.recv(), if open => match output {
                        Some(output) => queued += usize::from(publish(&client, output)),
                        None => return End::Deaf,
                    },
                    () = stop.cancelled(), if farewell.is_none() => {
                        if !connected {
                            return End::Stopped;
                        }
                        farewell = Some((Instant::now() + FAREWELL, None));
                        queued += usize::from(publish(&client, presence_message(&self.config, &self.presence(false))));
                    }
                    () = sleep_until(deadline) => break None,
                    () = sleep(Duration::from_secs(10)) => {}
                }
                heartbeat.beat();
            };
            heartbeat.beat();
            let event = match polled {
                Some(Ok(event)) => event,
                Some(Err(error)) => {
                    tracing::warn!(reason = %error, "broker connection ended");
                    return if farewell.is_some() { End::Stopped } else { End::Lost };
                }
                None => {
                    tracing::warn!("broker was silent for too long");
                    return if farewell.is_some() { End::Stopped } else { End::Lost };
                }
            };
            match event {
                Event::Incoming(Packet::ConnAck(_)) => {
                    let filters = controller_filters(&self.config.fleet).into_iter().map(|path| Filter {
                        // History is in the database; a flood of retained messages would only delay live ones.
                        retain_forward_rule: RetainForwardRule::Never,
                        ..Filter::new(path, QoS::AtLeastOnce)
                    });
                    if let Err(error) = client.try_subscribe_many(filters) {
                        tracing::error!(%error, "subscription could not be queued");
                        return End::Lost;
                    }
                }
                Event::Incoming(Packet::SubAck(ack)) => {
                    let granted = |code: &SubscribeReasonCode| matches!(code, SubscribeReasonCode::Success(_));
                    if !ack.return_codes.iter().all(granted) {
                        tracing::error!(codes = ?ack.return_codes, "broker refused a subscription: check its access rules");
                        return End::Lost;
                    }
                    connected = true;
                    if self.tell(Input::Connected).is_err() {
                        return End::Deaf;
                    }
                }
                Event::Incoming(Packet::Publish(publish)) => {
                    let (topic, payload) = (publish.topic.to_vec(), publish.payload.to_vec());
                    if self.tell(Input::Message { topic, payload, retain: publish.retain }).is_err() {
                        return End::Deaf;
                    }
                }
                Event::Outgoing(Outgoing::Publish(packet)) => {
                    queued = queued.saturating_sub(1);
                    inflight.insert(packet);
                    // The goodbye is the last thing published, so the last packet is its own.
                    if let Some((_, last)) = &mut farewell {
                        *last = Some(packet);
                    }
                }
                Event::Incoming(Packet::PubAck(ack)) => {
                    inflight.remove(&ack.pkid);
                    let said = queued == 0 && farewell.is_some_and(|(_, last)| last == Some(ack.pkid));
                    if said && client.try_disconnect().is_err() {
                        return End::Stopped;
                    }
                }
                Event::Outgoing(Outgoing::Disconnect) => return End::Stopped,
                Event::Incoming(Packet::Disconnect(disconnect)) => {
                    tracing::warn!(reason = ?disconnect.reason_code, "broker said goodbye");
                    return End::Lost;
                }
                Event::Incoming(_) | Event::Outgoing(_) => {}
            }
        }
    }

    /// Hand something to the ingesting thread. Messages are dropped when it lags, link changes never are.
    fn tell(&mut self, input: Input) -> Result<(), IngestGone> {
        let must = !matches!(input, Input::Message { .. });
        match self.inputs.try_send(input) {
            Ok(()) => Ok(()),
            Err(TrySendError::Disconnected(_)) => Err(IngestGone),
            Err(TrySendError::Full(input)) if must => {
                let inputs = self.inputs.clone();
                tokio::task::block_in_place(|| inputs.send(input)).map_err(|_| IngestGone)
            }
            Err(TrySendError::Full(_)) => {
                self.dropped += 1;
                if self.dropped.is_power_of_two() {
                    tracing::warn!(
                        dropped = self.dropped,
                        "controller lags: messages were dropped, durable ones come again"
                    );
                }
                Ok(())
            }
        }
    }

    fn presence(&self, on: bool) -> Ctl {
        Ctl { v: 1, on, srv: self.config.name.to_string(), n: 0, w: None }
    }

    fn options(&self) -> MqttOptions {
        let broker = &self.config.broker;
        let mut options = MqttOptions::new(&broker.client_id, &broker.host, broker.port);
        let mut network = NetworkOptions::new();
        network.set_tcp_nodelay(true);
        let mut properties = ConnectProperties::new();
        properties.session_expiry_interval = Some(0);
        properties.receive_maximum = Some(256);
        properties.max_packet_size = Some(65_536);
        properties.topic_alias_max = Some(0);
        let will = presence_message(&self.config, &self.presence(false));
        options
            .set_clean_start(true)
            .set_keep_alive(Duration::from_secs(broker.keepalive_s.into()))
            .set_connection_timeout(CONNECT_TIMEOUT_S)
            .set_outgoing_inflight_upper_limit(INFLIGHT_LIMIT)
            .set_connect_properties(properties)
            .set_network_options(network)
            .set_last_will(LastWill::new(will.topic, will.payload, QoS::AtLeastOnce, true, None))
            .set_transport(Transport::Tls(TlsConfiguration::Rustls(Arc::clone(&self.tls))));
        options
    }
}

fn publish(client: &AsyncClient, output: Output) -> bool {
    let properties = PublishProperties {
        payload_format_indicator: Some(1),
        message_expiry_interval: output.expiry,
        content_type: Some("application/json".to_owned()),
        ..PublishProperties::default()
    };
    let sent =
        client.try_publish_with_properties(output.topic, QoS::AtLeastOnce, output.retain, output.payload, properties);
    if let Err(error) = &sent {
        tracing::warn!(%error, "publish could not be queued");
    }
    sent.is_ok()
}
