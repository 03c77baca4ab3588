//! The properties of MQTT 5 packets (MQTT 5 2.2.2), read one by one in place: no list is ever built.
//!
//! Which properties a packet may have is a bit mask; which came already is another. So every rule that is the same for
//! all packets (unknown, not allowed here, twice, wrong value) is checked here and nowhere else.

use std::num::NonZeroU16;

use super::primitives::{Reader, not_empty};
use super::reason::{ReasonCode, Violation};

/// The identifiers on the wire (MQTT 5 table 2-4).
pub(super) mod id {
    pub(in crate::mqtt) const PAYLOAD_FORMAT: u8 = 0x01;
    pub(in crate::mqtt) const MESSAGE_EXPIRY: u8 = 0x02;
    pub(in crate::mqtt) const CONTENT_TYPE: u8 = 0x03;
    pub(in crate::mqtt) const RESPONSE_TOPIC: u8 = 0x08;
    pub(in crate::mqtt) const CORRELATION_DATA: u8 = 0x09;
    pub(in crate::mqtt) const SUBSCRIPTION_ID: u8 = 0x0b;
    pub(in crate::mqtt) const SESSION_EXPIRY: u8 = 0x11;
    pub(in crate::mqtt) const ASSIGNED_CLIENT_ID: u8 = 0x12;
    pub(in crate::mqtt) const SERVER_KEEP_ALIVE: u8 = 0x13;
    pub(in crate::mqtt) const AUTHENTICATION_METHOD: u8 = 0x15;
    pub(in crate::mqtt) const AUTHENTICATION_DATA: u8 = 0x16;
    pub(in crate::mqtt) const REQUEST_PROBLEM_INFORMATION: u8 = 0x17;
    pub(in crate::mqtt) const WILL_DELAY: u8 = 0x18;
    pub(in crate::mqtt) const REQUEST_RESPONSE_INFORMATION: u8 = 0x19;
    pub(in crate::mqtt) const SERVER_REFERENCE: u8 = 0x1c;
    pub(in crate::mqtt) const REASON_STRING: u8 = 0x1f;
    pub(in crate::mqtt) const RECEIVE_MAXIMUM: u8 = 0x21;
    pub(in crate::mqtt) const TOPIC_ALIAS_MAXIMUM: u8 = 0x22;
    pub(in crate::mqtt) const TOPIC_ALIAS: u8 = 0x23;
    pub(in crate::mqtt) const MAXIMUM_QOS: u8 = 0x24;
    pub(in crate::mqtt) const RETAIN_AVAILABLE: u8 = 0x25;
    pub(in crate::mqtt) const USER_PROPERTY: u8 = 0x26;
    pub(in crate::mqtt) const MAXIMUM_PACKET_SIZE: u8 = 0x27;
    pub(in crate::mqtt) const WILDCARD_AVAILABLE: u8 = 0x28;
    pub(in crate::mqtt) const SUBSCRIPTION_ID_AVAILABLE: u8 = 0x29;
    pub(in crate::mqtt) const SHARED_AVAILABLE: u8 = 0x2a;
}

/// A set of identifiers, one bit each; the highest is 0x2a.
pub(super) const fn allow(ids: &[u8]) -> u64 {
    let mut mask = 0;
    let mut index = 0;
    while index < ids.len() {
        mask |= 1 << ids[index];
        index += 1;
    }
    mask
}

/// A property whose value is well-formed; the values that the server has no use for are left out.
#[derive(Clone, Copy, Debug)]
pub(super) enum Property<'a> {
    PayloadIsUtf8(bool),
    MessageExpiry(u32),
    SubscriptionId(u32),
    SessionExpiry(u32),
    AuthenticationMethod(&'a str),
    AuthenticationData,
    RequestProblemInformation(bool),
    WillDelay(u32),
    ServerReference,
    ReceiveMaximum(NonZeroU16),
    TopicAliasMaximum(u16),
    TopicAlias(NonZeroU16),
    PacketBytesMax(u32),
    /// Content type, response topic, correlation data, request response information, reason string, user property.
    Other,
}

/// The properties of one packet that are still to be read.
#[derive(Debug)]
pub(super) struct Properties<'a> {
    reader: Reader<'a>,
    allowed: u64,
    seen: u64,
}

impl<'a> Properties<'a> {
    /// Takes the property length and the properties from `reader`. `allowed` is a set made by [`allow`].
    #[inline]
    pub(super) fn take(reader: &mut Reader<'a>, allowed: u64) -> Result<Self, Violation> {
        let length = reader.variable_byte_integer()?;
        let bytes = usize::try_from(length).ok().and_then(|length| reader.take(length).ok()).ok_or(
            Violation::malformed("the property length runs past the end of the packet (5: 2.2.2.1)"),
        )?;
        Ok(Self { reader: Reader::new(bytes), allowed, seen: 0 })
    }

    /// The next property, `None` after the last.
    #[inline]
    pub(super) fn next(&mut self) -> Result<Option<Property<'a>>, Violation> {
        if self.reader.is_empty() {
            return Ok(None);
        }
        self.read().map(Some)
    }

    /// Reads them all, where only their being well-formed matters.
    pub(super) fn skip(mut self) -> Result<(), Violation> {
        while self.next()?.is_some() {}
        Ok(())
    }

    fn read(&mut self) -> Result<Property<'a>, Violation> {
        // Identifiers are variable byte integers, but every one that exists has one byte.
        let id = self.reader.u8()?;
        let bit = 1u64.checked_shl(u32::from(id)).unwrap_or(0);
        if self.allowed & bit == 0 {
            return Err(Violation::malformed("a property is not one of this packet's (5: 2.2.2.2)"));
        }
        if self.seen & bit != 0 && id != id::USER_PROPERTY {
            return Err(Violation::protocol_error("a property comes twice (5: 2.2.2.2)"));
        }
        self.seen |= bit;
        self.value(id)
    }

    fn value(&mut self, id: u8) -> Result<Property<'a>, Violation> {
        let reader = &mut self.reader;
        Ok(match id {
            id::PAYLOAD_FORMAT => Property::PayloadIsUtf8(flag(reader)?),
            id::MESSAGE_EXPIRY => Property::MessageExpiry(reader.u32()?),
            id::SUBSCRIPTION_ID => Property::SubscriptionId(subscription_id(reader)?),
            id::SESSION_EXPIRY => Property::SessionExpiry(reader.u32()?),
            id::AUTHENTICATION_METHOD => Property::AuthenticationMethod(reader.text()?),
            id::AUTHENTICATION_DATA => reader.binary().map(|_| Property::AuthenticationData)?,
            id::REQUEST_PROBLEM_INFORMATION => Property::RequestProblemInformation(flag(reader)?),
            id::WILL_DELAY => Property::WillDelay(reader.u32()?),
            id::REQUEST_RESPONSE_INFORMATION => flag(reader).map(|_| Property::Other)?,
            id::SERVER_REFERENCE => reader.text().map(|_| Property::ServerReference)?,
            id::RECEIVE_MAXIMUM => Property::ReceiveMaximum(
                NonZeroU16::new(reader.u16()?)
                    .ok_or(Violation::protocol_error("the receive maximum is zero (5: 3.1.2.11.3)"))?,
            ),
            id::TOPIC_ALIAS_MAXIMUM => Property::TopicAliasMaximum(reader.u16()?),
            id::TOPIC_ALIAS => Property::TopicAlias(NonZeroU16::new(reader.u16()?).ok_or(Violation {
                reason: ReasonCode::TopicAliasInvalid,
                what: "a topic alias is zero (5: MQTT-3.3.2-8)",
            })?),
            id::MAXIMUM_PACKET_SIZE => Property::PacketBytesMax(packet_bytes_max(reader)?),
            id::RESPONSE_TOPIC => response_topic(reader)?,
            id::CORRELATION_DATA => reader.binary().map(|_| Property::Other)?,
            id::USER_PROPERTY => {
                reader.text()?;
                reader.text().map(|_| Property::Other)?
            }
            // Content type and reason string.
            _ => reader.text().map(|_| Property::Other)?,
        })
    }
}

fn flag(reader: &mut Reader<'_>) -> Result<bool, Violation> {
    match reader.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Violation::protocol_error("a property that is 0 or 1 has another value (5: 3.1.2.11.6)")),
    }
}

fn subscription_id(reader: &mut Reader<'_>) -> Result<u32, Violation> {
    match reader.variable_byte_integer()? {
        0 => Err(Violation::protocol_error("a subscription identifier is zero (5: 3.8.2.1.2)")),
        id => Ok(id),
    }
}

fn packet_bytes_max(reader: &mut Reader<'_>) -> Result<u32, Violation> {
    match reader.u32()? {
        0 => Err(Violation::protocol_error("the maximum packet size is zero (5: 3.1.2.11.4)")),
        bytes => Ok(bytes),
    }
}

fn response_topic<'a>(reader: &mut Reader<'a>) -> Result<Property<'a>, Violation> {
    let topic = reader.text()?;
    if topic.contains(['+', '#']) {
        return Err(Violation::topic_name("a response topic holds a wildcard (5: MQTT-3.3.2-14)"));
    }
    not_empty(topic).map(|()| Property::Other)
}
