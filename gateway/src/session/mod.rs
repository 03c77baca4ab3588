//! The protocol state of one connection: what a packet means and what the device is owed for it.
//!
//! Pure: a packet goes in, a [`Step`] comes out, replies that need no receipt are appended to a buffer. It never reads,
//! writes, waits or looks at a clock.

use penstock_proto::DeviceId;
use penstock_proto::topics::MqttTopic;

use crate::authorize::authorize_publish;
use crate::mqtt::{Packet, PacketId, Publish, QoS, ReasonCode, Subscribe, Unsubscribe, Version, encode};
use crate::outcome::Outcome;
use crate::window::Ack;

/// Topic aliases a device may set (MQTT5 3.3.2.3.4): it has two topics to publish to.
pub const TOPIC_ALIAS_MAX: u16 = 2;

/// What has to be done about a packet.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step<'a> {
    /// Nothing more: the packet asked for nothing, or its reply is in the buffer.
    Done,
    /// An authorized publish: submit it, and owe the device this ack.
    Submit {
        /// Where it was published.
        topic: MqttTopic,
        /// Its payload.
        payload: &'a [u8],
        /// What the device is owed when Kafka has it.
        ack: Ack,
    },
    /// A publish that is answered without being submitted; the answer keeps its place among the acks.
    Answer(Ack),
    /// The device said DISCONNECT.
    Disconnect,
}

/// What a topic alias stands for.
#[derive(Clone, Copy, Debug, Default)]
enum Alias {
    #[default]
    Unset,
    Denied,
    Granted(MqttTopic),
}

/// The protocol state of one connection.
#[derive(Debug)]
pub struct Session {
    version: Version,
    device: DeviceId,
    topic_bytes_max: usize,
    receive_maximum: u16,
    /// QoS 1 and 2 publishes that the device has not seen the end of (MQTT5 4.9).
    in_flight: u16,
    /// QoS 2 publishes whose PUBREC is sent or owed, until their PUBREL (MQTT5 4.3.3).
    unreleased: Vec<PacketId>,
    aliases: [Alias; TOPIC_ALIAS_MAX as usize],
}

impl Session {
    /// The state after CONNECT was accepted.
    pub const fn new(
        version: Version,
        device: DeviceId,
        receive_maximum: u16,
        topic_bytes_max: usize,
    ) -> Self {
        Self {
            version,
            device,
            topic_bytes_max,
            receive_maximum,
            in_flight: 0,
            unreleased: Vec::new(),
            aliases: [Alias::Unset; TOPIC_ALIAS_MAX as usize],
        }
    }

    /// The protocol version of the connection.
    pub const fn version(&self) -> Version {
        self.version
    }

    /// Decides what a packet asks for.
    ///
    /// # Errors
    /// The [`Outcome`] with which the connection has to end.
    pub fn on_packet<'a>(&mut self, packet: Packet<'a>, out: &mut Vec<u8>) -> Result<Step<'a>, Outcome> {
        match packet {
            Packet::Publish(publish) => self.on_publish(&publish),
            Packet::PubRel { packet_id, .. } => {
                self.on_pubrel(packet_id, out);
                Ok(Step::Done)
            }
            Packet::PingReq => {
                encode::pingresp(out);
                Ok(Step::Done)
            }
            Packet::Subscribe(subscribe) => {
                self.refuse_subscribe(&subscribe, out);
                Ok(Step::Done)
            }
            Packet::Unsubscribe(unsubscribe) => {
                self.answer_unsubscribe(&unsubscribe, out);
                Ok(Step::Done)
            }
            Packet::Disconnect { .. } => Ok(Step::Disconnect),
            // The gateway publishes nothing yet, so there is nothing these could acknowledge; and it negotiates no
            // enhanced authentication, so AUTH is a protocol error (MQTT5 4.12.0-6).
            Packet::PubAck { .. } | Packet::PubRec { .. } | Packet::PubComp { .. } | Packet::Auth { .. } => {
                Err(Outcome::Violation(ReasonCode::ProtocolError))
            }
        }
    }

    /// Notes that an ack has been written, which may let the device send one more publish.
    pub fn on_ack_written(&mut self, ack: Ack) {
        match ack {
            Ack::None => {}
            Ack::PubAck(..) => self.in_flight = self.in_flight.saturating_sub(1),
            // A PUBREC with an error ends the exchange (MQTT5 4.3.3, figure 4.3); 3.1.1 knows no such PUBREC.
            Ack::PubRec(packet_id, reason) if reason.is_error() && self.version == Version::V5 => {
                self.release(packet_id);
            }
            Ack::PubRec(..) => {}
        }
    }

    /// Takes a [`Step::Submit`] back: the packet could not be submitted and will be seen again.
    pub fn withdraw(&mut self, ack: Ack) {
        match ack {
            Ack::None => {}
            Ack::PubAck(..) => self.in_flight = self.in_flight.saturating_sub(1),
            Ack::PubRec(packet_id, _) => {
                self.release(packet_id);
            }
        }
    }

    fn on_publish<'a>(&mut self, publish: &Publish<'a>) -> Result<Step<'a>, Outcome> {
        let granted = self.resolve_topic(publish)?;
        let ack = match (publish.qos, publish.packet_id) {
            (QoS::AtLeastOnce, Some(id)) => Ack::PubAck(id, ReasonCode::Success),
            (QoS::ExactlyOnce, Some(id)) => {
                if self.unreleased.contains(&id) {
                    return on_repeated_qos2(publish, id);
                }
                Ack::PubRec(id, ReasonCode::Success)
            }
            _ => Ack::None,
        };
        match granted {
            Some(topic) => {
                self.take_flight(ack)?;
                Ok(Step::Submit { topic, payload: publish.payload, ack })
            }
            None => self.deny(ack),
        }
    }

    /// The topic of a publish if the device may publish there. Sets or follows the topic alias (MQTT5 3.3.2.3.4).
    fn resolve_topic(&mut self, publish: &Publish<'_>) -> Result<Option<MqttTopic>, Outcome> {
        if publish.topic.len() > self.topic_bytes_max {
            return Err(Outcome::TopicTooLong);
        }
        let slot = match publish.topic_alias {
            None => None,
            Some(alias) => {
                let index = usize::from(alias.get() - 1);
                Some(self.aliases.get_mut(index).ok_or(Outcome::Violation(ReasonCode::TopicAliasInvalid))?)
            }
        };
        if publish.topic.is_empty() {
            return match slot.map(|slot| *slot) {
                Some(Alias::Granted(topic)) => Ok(Some(topic)),
                Some(Alias::Denied) => Ok(None),
                Some(Alias::Unset) | None => Err(Outcome::Violation(ReasonCode::ProtocolError)),
            };
        }
        let granted = authorize_publish(self.device, publish.topic).ok();
        if let Some(slot) = slot {
            *slot = granted.map_or(Alias::Denied, Alias::Granted);
        }
        Ok(granted)
    }

    /// Counts a publish against the Receive Maximum (MQTT5 3.3.4-9). 3.1.1 has none, but QoS 2 identifiers that are
    /// never released must not pile up either.
    fn take_flight(&mut self, ack: Ack) -> Result<(), Outcome> {
        let limited = match ack {
            Ack::None => return Ok(()),
            Ack::PubAck(..) => self.version == Version::V5,
            Ack::PubRec(..) => true,
        };
        if limited && self.in_flight >= self.receive_maximum {
            return Err(Outcome::ReceiveMaximumExceeded);
        }
        self.in_flight = self.in_flight.saturating_add(1);
        if let Ack::PubRec(id, _) = ack {
            self.unreleased.push(id);
        }
        Ok(())
    }

    /// Refuses a publish the device may not make: by its own ack where there is one that can say so, else by closing.
    fn deny<'a>(&mut self, ack: Ack) -> Result<Step<'a>, Outcome> {
        if self.version == Version::V311 {
            return Err(Outcome::NotAuthorized);
        }
        let refusal = match ack {
            Ack::None => return Err(Outcome::NotAuthorized),
            Ack::PubAck(id, _) => Ack::PubAck(id, ReasonCode::NotAuthorized),
            Ack::PubRec(id, _) => Ack::PubRec(id, ReasonCode::NotAuthorized),
        };
        self.take_flight(refusal)?;
        Ok(Step::Answer(refusal))
    }

    fn on_pubrel(&mut self, packet_id: PacketId, out: &mut Vec<u8>) {
        let reason =
            if self.release(packet_id) { ReasonCode::Success } else { ReasonCode::PacketIdentifierNotFound };
        encode::pubcomp(out, self.version, packet_id, reason);
    }

    fn release(&mut self, packet_id: PacketId) -> bool {
        let Some(index) = self.unreleased.iter().position(|id| *id == packet_id) else { return false };
        self.unreleased.swap_remove(index);
        self.in_flight = self.in_flight.saturating_sub(1);
        if self.unreleased.is_empty() {
            self.unreleased = Vec::new();
        }
        true
    }

    /// Subscriptions are refused one by one, so that a device that asks for more than readings still publishes.
    fn refuse_subscribe(&self, subscribe: &Subscribe<'_>, out: &mut Vec<u8>) {
        let refused = match self.version {
            Version::V311 => 0x80,
            Version::V5 => ReasonCode::NotAuthorized.code(),
        };
        let codes = vec![refused; subscribe.filters().count()];
        encode::suback(out, self.version, subscribe.packet_id, &codes);
    }

    fn answer_unsubscribe(&self, unsubscribe: &Unsubscribe<'_>, out: &mut Vec<u8>) {
        let codes = vec![ReasonCode::NoSubscriptionExisted.code(); unsubscribe.filters().count()];
        encode::unsuback(out, self.version, unsubscribe.packet_id, &codes);
    }
}

/// A QoS 2 publish whose packet identifier is not released yet. A re-send of it (DUP) is not a new publish and must
/// not become a second record (MQTT5 4.3.3-10): the PUBREC is repeated, behind the one that may still be owed.
fn on_repeated_qos2<'a>(publish: &Publish<'_>, id: PacketId) -> Result<Step<'a>, Outcome> {
    if publish.dup {
        Ok(Step::Answer(Ack::PubRec(id, ReasonCode::Success)))
    } else {
        Err(Outcome::Violation(ReasonCode::PacketIdentifierInUse))
    }
}

#[cfg(test)]
mod tests;
