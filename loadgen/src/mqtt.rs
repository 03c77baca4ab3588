//! One face for the two rumqttc clients (MQTT 3.1.1 and 5): open a connection, publish, and a stream of what happened.
//!
//! A connection here lives once: after an error it is thrown away together with everything rumqttc remembers, and what
//! is unacknowledged is published again on a new one by whoever owns the readings. rumqttc's own re-sending is never
//! used, because it hides which packet id carries which reading.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use rumqttc::{TlsConfiguration, Transport, v5};
use rustls::ClientConfig;

/// Seconds that a connection may take, from the TCP handshake to CONNACK.
const CONNECT_TIMEOUT_S: u64 = 15;
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Largest packet in either direction; the gateway's own limit is lower.
const PACKET_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The protocol version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    /// MQTT 3.1.1.
    V311,
    /// MQTT 5.
    #[default]
    V5,
}

/// The quality of service readings are published with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Qos {
    /// 0: no acknowledgement.
    AtMostOnce,
    /// 1: PUBACK.
    #[default]
    AtLeastOnce,
    /// 2: PUBREC, PUBREL, PUBCOMP.
    ExactlyOnce,
}

/// Where and as whom to connect.
#[derive(Clone)]
pub(crate) struct Endpoint {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) tls: Arc<ClientConfig>,
    pub(crate) client_id: String,
    pub(crate) version: Version,
    /// Publishes that the owner keeps in flight at most.
    pub(crate) window: u16,
}

/// What an acknowledgement says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ack {
    /// The publish is accepted.
    Accepted,
    /// 0x99, payload format invalid: the publish is stored as a dead letter.
    DeadLetter,
    /// Any other failure.
    Refused,
}

/// What happened on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// CONNACK arrived; with the Receive Maximum if the server named one.
    Connected { receive_max: Option<u16> },
    /// The next publish, in the order they were handed over, is on its way under this packet id (0 with QoS 0).
    Sent(u16),
    /// PUBACK (QoS 1) or PUBREC (QoS 2). `complete` unless a PUBCOMP follows.
    Acked { packet_id: u16, ack: Ack, complete: bool },
    /// PUBCOMP.
    Completed(u16),
    /// Anything else.
    Other,
}

/// The connection ended or was never made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lost(pub(crate) String);

impl Lost {
    fn of(error: impl fmt::Display) -> Self {
        Self(error.to_string())
    }
}

/// The half of a connection that publishes.
pub(crate) enum Publisher {
    V311(rumqttc::AsyncClient),
    V5(v5::AsyncClient),
}

impl Publisher {
    /// Hands a publish to the connection; it never waits.
    ///
    /// # Errors
    /// [`Lost`] if more than the window is outstanding or the connection is gone.
    pub(crate) fn publish(&self, topic: &str, qos: Qos, payload: Bytes) -> Result<(), Lost> {
        match self {
            Self::V311(client) => {
                let qos = match qos {
                    Qos::AtMostOnce => rumqttc::QoS::AtMostOnce,
                    Qos::AtLeastOnce => rumqttc::QoS::AtLeastOnce,
                    Qos::ExactlyOnce => rumqttc::QoS::ExactlyOnce,
                };
                client.try_publish(topic, qos, false, payload).map_err(Lost::of)
            }
            Self::V5(client) => {
                let qos = match qos {
                    Qos::AtMostOnce => v5::mqttbytes::QoS::AtMostOnce,
                    Qos::AtLeastOnce => v5::mqttbytes::QoS::AtLeastOnce,
                    Qos::ExactlyOnce => v5::mqttbytes::QoS::ExactlyOnce,
                };
                client.try_publish(topic, qos, false, payload).map_err(Lost::of)
            }
        }
    }

    /// Asks for DISCONNECT; the event stream then ends with an error.
    pub(crate) fn disconnect(&self) {
        // It fails only where the connection is gone already.
        let _ = match self {
            Self::V311(client) => client.try_disconnect().map_err(drop),
            Self::V5(client) => client.try_disconnect().map_err(drop),
        };
    }
}

enum EventLoop {
    V311(Box<rumqttc::EventLoop>),
    V5(Box<v5::EventLoop>),
}

impl EventLoop {
    async fn next(&mut self) -> Result<Event, Lost> {
        match self {
            Self::V311(events) => events.poll().await.map(|event| of_v311(&event)).map_err(Lost::of),
            Self::V5(events) => events.poll().await.map(|event| of_v5(&event)).map_err(Lost::of),
        }
    }
}

/// Opens a connection with a clean session. It connects when the stream is polled first; the stream is cancel-safe,
/// and after its first error it must not be polled again.
pub(crate) fn open(endpoint: &Endpoint) -> (Publisher, impl Stream<Item = Result<Event, Lost>> + use<>) {
    let (publisher, events) = match endpoint.version {
        Version::V311 => open_v311(endpoint),
        Version::V5 => open_v5(endpoint),
    };
    // rumqttc's poll is not cancel-safe: a publish can be lost between its state and the socket. A stream that is
    // dropped and polled again goes on with the same poll.
    let events = futures_util::stream::unfold(events, |mut events| async move {
        let event = events.next().await;
        Some((event, events))
    });
    (publisher, events)
}

/// rumqttc numbers packets from 1 to this limit, in a circle: with twice the window no id is met that is in use.
fn packet_ids(endpoint: &Endpoint) -> u16 {
    endpoint.window.max(1).saturating_mul(2)
}

/// Room in the queue to rumqttc for every publish in flight and a DISCONNECT.
fn requests_max(endpoint: &Endpoint) -> usize {
    usize::from(endpoint.window) + 1
}

fn transport(endpoint: &Endpoint) -> Transport {
    Transport::tls_with_config(TlsConfiguration::Rustls(Arc::clone(&endpoint.tls)))
}

fn network() -> rumqttc::NetworkOptions {
    let mut network = rumqttc::NetworkOptions::new();
    network.set_tcp_nodelay(true);
    network.set_connection_timeout(CONNECT_TIMEOUT_S);
    network
}

fn open_v311(endpoint: &Endpoint) -> (Publisher, EventLoop) {
    let mut options = rumqttc::MqttOptions::new(&endpoint.client_id, &endpoint.host, endpoint.port);
    options
        .set_transport(transport(endpoint))
        .set_keep_alive(KEEP_ALIVE)
        .set_clean_session(true)
        .set_inflight(packet_ids(endpoint))
        .set_max_packet_size(PACKET_BYTES_MAX, PACKET_BYTES_MAX);
    let (client, mut events) = rumqttc::AsyncClient::new(options, requests_max(endpoint));
    events.set_network_options(network());
    (Publisher::V311(client), EventLoop::V311(Box::new(events)))
}

fn open_v5(endpoint: &Endpoint) -> (Publisher, EventLoop) {
    let mut options = v5::MqttOptions::new(&endpoint.client_id, &endpoint.host, endpoint.port);
    options
        .set_transport(transport(endpoint))
        .set_keep_alive(KEEP_ALIVE)
        .set_clean_start(true)
        .set_connection_timeout(CONNECT_TIMEOUT_S)
        .set_outgoing_inflight_upper_limit(packet_ids(endpoint))
        .set_network_options(network());
    let (client, events) = v5::AsyncClient::new(options, requests_max(endpoint));
    (Publisher::V5(client), EventLoop::V5(Box::new(events)))
}

fn of_v311(event: &rumqttc::Event) -> Event {
    use rumqttc::{Event as E, Outgoing, Packet};
    match event {
        E::Incoming(Packet::ConnAck(_)) => Event::Connected { receive_max: None },
        E::Outgoing(Outgoing::Publish(packet_id)) => Event::Sent(*packet_id),
        E::Incoming(Packet::PubAck(packet)) => {
            Event::Acked { packet_id: packet.pkid, ack: Ack::Accepted, complete: true }
        }
        E::Incoming(Packet::PubRec(packet)) => {
            Event::Acked { packet_id: packet.pkid, ack: Ack::Accepted, complete: false }
        }
        E::Incoming(Packet::PubComp(packet)) => Event::Completed(packet.pkid),
        _ => Event::Other,
    }
}

fn of_v5(event: &v5::Event) -> Event {
    use rumqttc::Outgoing;
    use v5::Event as E;
    use v5::mqttbytes::v5::{Packet, PubAckReason, PubRecReason};
    match event {
        E::Incoming(Packet::ConnAck(packet)) => {
            let receive_max = packet.properties.as_ref().and_then(|properties| properties.receive_max);
            Event::Connected { receive_max }
        }
        E::Outgoing(Outgoing::Publish(packet_id)) => Event::Sent(*packet_id),
        E::Incoming(Packet::PubAck(packet)) => {
            let ack = match packet.reason {
                PubAckReason::Success | PubAckReason::NoMatchingSubscribers => Ack::Accepted,
                PubAckReason::PayloadFormatInvalid => Ack::DeadLetter,
                _ => Ack::Refused,
            };
            Event::Acked { packet_id: packet.pkid, ack, complete: true }
        }
        E::Incoming(Packet::PubRec(packet)) => {
            let ack = match packet.reason {
                PubRecReason::Success | PubRecReason::NoMatchingSubscribers => Ack::Accepted,
                PubRecReason::PayloadFormatInvalid => Ack::DeadLetter,
                _ => Ack::Refused,
            };
            // A PUBREC with a failure ends the exchange: MQTT 5 section 4.3.3.
            Event::Acked { packet_id: packet.pkid, ack, complete: ack != Ack::Accepted }
        }
        E::Incoming(Packet::PubComp(packet)) => Event::Completed(packet.pkid),
        _ => Event::Other,
    }
}
