//! PUBLISH (MQTT 5 3.3): what nearly every packet is, so it is decoded in place, in one pass, without an allocation.

use std::num::NonZeroU16;

use super::frame::Frame;
use super::primitives::{PacketId, Reader, not_empty};
use super::properties::{Properties, Property, allow, id};
use super::reason::Violation;
use super::{QoS, Version};

const PROPERTIES: u64 = allow(&[
    id::PAYLOAD_FORMAT,
    id::MESSAGE_EXPIRY,
    id::CONTENT_TYPE,
    id::RESPONSE_TOPIC,
    id::CORRELATION_DATA,
    id::SUBSCRIPTION_ID,
    id::TOPIC_ALIAS,
    id::USER_PROPERTY,
]);

/// A message on its way. Content type, response topic, correlation data and user properties are checked and left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Publish<'a> {
    /// The sender says that it may have sent this packet before. Never set with QoS 0.
    pub dup: bool,
    /// How delivery is assured.
    pub qos: QoS,
    /// The server should keep the message.
    pub retain: bool,
    /// Present exactly when the QoS is 1 or 2.
    pub packet_id: Option<PacketId>,
    /// Where to: at most 65,535 bytes, without wildcards and U+0000. Empty only together with `topic_alias`.
    pub topic: &'a str,
    /// MQTT 5: stands for `topic` from now on, or for an earlier one where `topic` is empty. Whether it is within the
    /// topic alias maximum and known is not checked here.
    pub topic_alias: Option<NonZeroU16>,
    /// MQTT 5: the sender says that the payload is UTF-8; not checked.
    pub payload_is_utf8: bool,
    /// MQTT 5: how long the message is of use, in seconds.
    pub message_expiry_s: Option<u32>,
    /// The message itself; may be empty.
    pub payload: &'a [u8],
}

/// Decodes the body and the flags of a PUBLISH.
#[inline]
pub(super) fn decode<'a>(frame: &Frame<'a>, version: Version) -> Result<Publish<'a>, Violation> {
    let flags = frame.flags();
    let qos = QoS::from_bits(flags >> 1)
        .ok_or(Violation::malformed("QoS 3 (5: MQTT-3.3.1-4, 3.1.1: MQTT-3.3.1-4)"))?;
    let dup = flags & 0b1000 != 0;
    if dup && qos == QoS::AtMostOnce {
        return Err(Violation::malformed("DUP with QoS 0 (5: MQTT-3.3.1-2, 3.1.1: MQTT-3.3.1-2)"));
    }
    let mut reader = Reader::new(frame.body);
    let topic = reader.topic_name()?;
    let packet_id = if qos == QoS::AtMostOnce { None } else { Some(reader.packet_id()?) };
    let mut publish = Publish {
        dup,
        qos,
        retain: flags & 1 != 0,
        packet_id,
        topic,
        topic_alias: None,
        payload_is_utf8: false,
        message_expiry_s: None,
        payload: &[],
    };
    if version == Version::V5 {
        read_properties(&mut publish, &mut reader)?;
    } else {
        not_empty(topic)?;
    }
    publish.payload = reader.remaining();
    Ok(publish)
}

#[inline]
fn read_properties<'a>(publish: &mut Publish<'a>, reader: &mut Reader<'a>) -> Result<(), Violation> {
    let mut properties = Properties::take(reader, PROPERTIES)?;
    while let Some(property) = properties.next()? {
        match property {
            Property::PayloadIsUtf8(is_utf8) => publish.payload_is_utf8 = is_utf8,
            Property::MessageExpiry(expiry_s) => publish.message_expiry_s = Some(expiry_s),
            Property::TopicAlias(alias) => publish.topic_alias = Some(alias),
            Property::SubscriptionId(_) => {
                return Err(Violation::protocol_error(
                    "a client publishes with a subscription identifier (5: MQTT-3.3.4-6)",
                ));
            }
            _ => {}
        }
    }
    if publish.topic.is_empty() && publish.topic_alias.is_none() {
        return Err(Violation::protocol_error("neither a topic name nor a topic alias (5: 3.3.2.1)"));
    }
    Ok(())
}
