//! Who we are, as the broker and the controller are told: CONNECT options, the Will, the birth documents.

use std::sync::Arc;
use std::time::Duration;

use fleet_protocol::payload::{Info, State, Why};
use fleet_protocol::{Leaf, Topic, registry};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{ConnectProperties, LastWill};
use rumqttc::v5::{MqttOptions, Proxy, ProxyAuth, ProxyType};
use rumqttc::{NetworkOptions, TlsConfiguration, Transport};

use super::{CONNECT_TIMEOUT_S, INFLIGHT_LIMIT, Link, Sent};
use crate::clock;

impl Link {
    /// Presence and hardware, on every CONNACK and when asked.
    pub(super) fn birth(&mut self, why: Why) {
        let state = self.state(true, why);
        self.submit_retained(&state, Sent::Birth);
        let (hw, caps) = self.info.clone();
        let info = Info {
            v: 1,
            life: self.identity.life(),
            t: clock::stamp().t,
            fw: self.version.clone(),
            reg: registry::registry_hash(),
            hw,
            caps,
        };
        let topic = Topic::of_box(&self.config.fleet, &self.config.box_id, Leaf::Info).to_string();
        let payload = serde_json::to_vec(&info).unwrap_or_default();
        self.submit(topic, payload, QoS::AtLeastOnce, false, Some(3600), Sent::Birth);
    }

    pub(super) fn state(&self, on: bool, why: Why) -> State {
        let living = |value| if on { Some(value) } else { None };
        State {
            v: 1,
            on,
            life: self.identity.life(),
            t: clock::stamp().t,
            hb: living(self.config.periods.heartbeat_s),
            ka: living(self.config.link.keepalive_s),
            why,
            fw: on.then(|| self.version.clone()),
            ring: on.then(|| self.config.ring.to_string()),
            mode: on.then(|| *self.mode.borrow()),
        }
    }

    /// Made anew for every connection, so that nothing a broker imposed on the last one stays.
    pub(super) fn options(&self) -> MqttOptions {
        let broker = self.config.brokers.get(self.broker).or(self.config.brokers.first());
        let (host, port) = broker.map_or(("localhost", 8883), |broker| (broker.host.as_str(), broker.port));
        let mut options = MqttOptions::new(self.config.box_id.as_str(), host, port);
        let mut network = NetworkOptions::new();
        network.set_tcp_nodelay(true);
        let will = self.state(false, Why::Will);
        let will = State { t: None, ..will };
        let topic = Topic::of_box(&self.config.fleet, &self.config.box_id, Leaf::State).to_string();
        let will = LastWill::new(topic, serde_json::to_vec(&will).unwrap_or_default(), QoS::AtLeastOnce, true, None);
        options
            .set_clean_start(true)
            .set_keep_alive(Duration::from_secs(self.config.link.keepalive_s.into()))
            .set_connection_timeout(CONNECT_TIMEOUT_S)
            .set_outgoing_inflight_upper_limit(INFLIGHT_LIMIT)
            .set_connect_properties(connect_properties())
            .set_network_options(network)
            .set_last_will(will)
            .set_transport(Transport::Tls(TlsConfiguration::Rustls(Arc::clone(&self.tls))));
        if let Some(proxy) = self.config.proxy {
            // A tunnel by CONNECT; TLS is ours, inside it.
            let (addr, port) = (proxy.host(), proxy.0.port());
            options.set_proxy(Proxy { ty: ProxyType::Http, auth: ProxyAuth::None, addr, port });
        }
        options
    }
}

fn connect_properties() -> ConnectProperties {
    let mut properties = ConnectProperties::new();
    properties.session_expiry_interval = Some(0);
    properties.receive_maximum = Some(16);
    // Also lifts the client's own cap of 10 KiB on what it receives.
    properties.max_packet_size = Some(65_536);
    properties.topic_alias_max = Some(0);
    properties.request_problem_info = Some(1);
    properties.user_properties =
        vec![("agent".to_owned(), env!("CARGO_PKG_VERSION").to_owned()), ("reg".to_owned(), registry::registry_hash())];
    properties
}
