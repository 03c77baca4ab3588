//! The packets that a server sends, each appended to a buffer. Only [`publish`] can fail: nothing else can be too long.

use super::primitives::{
    PacketId, VARIABLE_BYTE_INTEGER_MAX, variable_byte_integer_bytes, write_variable_byte_integer,
};
use super::properties::id;
use super::publish::Publish;
use super::reason::{ReasonCode, Violation};
use super::{
    CONNACK, DISCONNECT, PINGRESP, PUBACK, PUBCOMP, PUBLISH, PUBREC, PUBREL, QoS, SUBACK, UNSUBACK, Version,
};

/// What a server tells a client of MQTT 5 in CONNACK (MQTT 5 3.2.2.3). Values that the standard has as defaults are
/// not sent. `Default` is a server that allows everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnAckProperties<'a> {
    /// The session expiry interval in seconds, where it is not the one the client asked for.
    pub session_expiry_s: Option<u32>,
    /// How many publishes of QoS 1 and 2 the server takes at once. 0 does not exist and is sent as 1.
    pub receive_maximum: u16,
    /// The highest QoS that the server takes.
    pub maximum_qos: QoS,
    /// Retained messages are supported.
    pub retain_available: bool,
    /// The longest packet the server takes, in bytes. 0 does not exist and is sent as 1.
    pub packet_bytes_max: Option<u32>,
    /// The identifier that a client without one was given.
    pub assigned_client_id: Option<&'a str>,
    /// How many topic aliases the server takes.
    pub topic_alias_maximum: u16,
    /// Why, for people.
    pub reason_string: Option<&'a str>,
    /// Wildcards in subscriptions are supported.
    pub wildcard_available: bool,
    /// Subscription identifiers are supported.
    pub subscription_id_available: bool,
    /// Shared subscriptions are supported.
    pub shared_available: bool,
    /// The keep alive in seconds that holds in place of the client's.
    pub server_keep_alive_s: Option<u16>,
}

impl Default for ConnAckProperties<'_> {
    fn default() -> Self {
        Self {
            session_expiry_s: None,
            receive_maximum: u16::MAX,
            maximum_qos: QoS::ExactlyOnce,
            retain_available: true,
            packet_bytes_max: None,
            assigned_client_id: None,
            topic_alias_maximum: 0,
            reason_string: None,
            wildcard_available: true,
            subscription_id_available: true,
            shared_available: true,
            server_keep_alive_s: None,
        }
    }
}

/// CONNACK. With an error `session_present` is never told [MQTT-3.2.2-6].
///
/// MQTT 3.1.1 has six return codes: for a reason that none of them says nothing is written, and the connection is to be
/// closed (see [`ReasonCode::connect_return_code`]). A client's maximum packet size is not looked at: where one is
/// small, leave `reason_string` out [MQTT-3.2.2-19].
pub fn connack(
    out: &mut Vec<u8>,
    version: Version,
    session_present: bool,
    reason: ReasonCode,
    properties: &ConnAckProperties<'_>,
) {
    let flags = u8::from(session_present && reason == ReasonCode::Success);
    match version {
        Version::V311 => {
            if let Some(code) = reason.connect_return_code() {
                out.extend_from_slice(&[CONNACK << 4, 2, flags, code]);
            }
        }
        Version::V5 => packet(out, CONNACK << 4, |out| {
            out.extend_from_slice(&[flags, reason.code()]);
            with_length(out, |out| connack_properties(out, properties));
        }),
    }
}

fn connack_properties(out: &mut Vec<u8>, properties: &ConnAckProperties<'_>) {
    if let Some(expiry_s) = properties.session_expiry_s {
        four_bytes(out, id::SESSION_EXPIRY, expiry_s);
    }
    if properties.receive_maximum != u16::MAX {
        two_bytes(out, id::RECEIVE_MAXIMUM, properties.receive_maximum.max(1));
    }
    if properties.maximum_qos != QoS::ExactlyOnce {
        out.extend_from_slice(&[id::MAXIMUM_QOS, properties.maximum_qos.code()]);
    }
    if let Some(bytes) = properties.packet_bytes_max {
        four_bytes(out, id::MAXIMUM_PACKET_SIZE, bytes.max(1));
    }
    if let Some(client_id) = properties.assigned_client_id {
        text(out, id::ASSIGNED_CLIENT_ID, client_id);
    }
    if properties.topic_alias_maximum != 0 {
        two_bytes(out, id::TOPIC_ALIAS_MAXIMUM, properties.topic_alias_maximum);
    }
    if let Some(reason) = properties.reason_string {
        text(out, id::REASON_STRING, reason);
    }
    for (id, available) in [
        (id::RETAIN_AVAILABLE, properties.retain_available),
        (id::WILDCARD_AVAILABLE, properties.wildcard_available),
        (id::SUBSCRIPTION_ID_AVAILABLE, properties.subscription_id_available),
        (id::SHARED_AVAILABLE, properties.shared_available),
    ] {
        if !available {
            out.extend_from_slice(&[id, 0]);
        }
    }
    if let Some(keep_alive_s) = properties.server_keep_alive_s {
        two_bytes(out, id::SERVER_KEEP_ALIVE, keep_alive_s);
    }
}

/// PUBLISH from the server: `dup`, topic alias, payload format and expiry as the message has them.
///
/// # Errors
/// [`Violation`] with [`ReasonCode::PacketTooLarge`], and nothing written, where the topic has more than 65,535 bytes or
/// the packet more than MQTT can say.
pub fn publish(out: &mut Vec<u8>, version: Version, message: &Publish<'_>) -> Result<(), Violation> {
    const TOO_LARGE: Violation = Violation {
        reason: ReasonCode::PacketTooLarge,
        what: "a message does not fit in a packet (5: 2.1.4, 1.5.4)",
    };
    let topic_bytes = u16::try_from(message.topic.len()).map_err(|_| TOO_LARGE)?;
    let packet_id = message.packet_id.filter(|_| message.qos != QoS::AtMostOnce);
    let properties_bytes = 2 * u8::from(message.payload_is_utf8)
        + 5 * u8::from(message.message_expiry_s.is_some())
        + 3 * u8::from(message.topic_alias.is_some());
    let properties_bytes = Some(properties_bytes).filter(|_| version == Version::V5);
    let body_bytes = 2
        + message.topic.len()
        + if packet_id.is_some() { 2 } else { 0 }
        + properties_bytes.map_or(0, |bytes| 1 + usize::from(bytes))
        + message.payload.len();
    let length = u32::try_from(body_bytes).ok().filter(|&length| length <= VARIABLE_BYTE_INTEGER_MAX);
    let length = length.ok_or(TOO_LARGE)?;

    out.reserve(1 + variable_byte_integer_bytes(length) + body_bytes);
    let dup = u8::from(message.dup && packet_id.is_some());
    out.push(PUBLISH << 4 | dup << 3 | message.qos.code() << 1 | u8::from(message.retain));
    write_variable_byte_integer(out, length);
    out.extend_from_slice(&topic_bytes.to_be_bytes());
    out.extend_from_slice(message.topic.as_bytes());
    if let Some(packet_id) = packet_id {
        out.extend_from_slice(&packet_id.get().to_be_bytes());
    }
    if let Some(bytes) = properties_bytes {
        out.push(bytes);
        publish_properties(out, message);
    }
    out.extend_from_slice(message.payload);
    Ok(())
}

fn publish_properties(out: &mut Vec<u8>, message: &Publish<'_>) {
    if message.payload_is_utf8 {
        out.extend_from_slice(&[id::PAYLOAD_FORMAT, 1]);
    }
    if let Some(expiry_s) = message.message_expiry_s {
        four_bytes(out, id::MESSAGE_EXPIRY, expiry_s);
    }
    if let Some(alias) = message.topic_alias {
        two_bytes(out, id::TOPIC_ALIAS, alias.get());
    }
}

/// PUBACK. MQTT 3.1.1 has no reason: an error cannot be told there, so do not send one.
#[inline]
pub fn puback(out: &mut Vec<u8>, version: Version, packet_id: PacketId, reason: ReasonCode) {
    ack(out, PUBACK << 4, version, packet_id, reason);
}

/// PUBREC. MQTT 3.1.1 has no reason: an error cannot be told there, so do not send one.
#[inline]
pub fn pubrec(out: &mut Vec<u8>, version: Version, packet_id: PacketId, reason: ReasonCode) {
    ack(out, PUBREC << 4, version, packet_id, reason);
}

/// PUBREL, for a QoS 2 message of the server. MQTT 3.1.1 has no reason.
#[inline]
pub fn pubrel(out: &mut Vec<u8>, version: Version, packet_id: PacketId, reason: ReasonCode) {
    ack(out, PUBREL << 4 | 0b0010, version, packet_id, reason);
}

/// PUBCOMP. MQTT 3.1.1 has no reason.
#[inline]
pub fn pubcomp(out: &mut Vec<u8>, version: Version, packet_id: PacketId, reason: ReasonCode) {
    ack(out, PUBCOMP << 4, version, packet_id, reason);
}

#[inline]
fn ack(out: &mut Vec<u8>, first_byte: u8, version: Version, packet_id: PacketId, reason: ReasonCode) {
    let [high, low] = packet_id.get().to_be_bytes();
    if version == Version::V311 || reason == ReasonCode::Success {
        out.extend_from_slice(&[first_byte, 2, high, low]);
    } else {
        out.extend_from_slice(&[first_byte, 3, high, low, reason.code()]);
    }
}

/// SUBACK: one code for each filter of the SUBSCRIBE, in its order. MQTT 3.1.1 knows 0, 1, 2 and 0x80: codes above are
/// written as 0x80 there.
pub fn suback(out: &mut Vec<u8>, version: Version, packet_id: PacketId, codes: &[u8]) {
    packet(out, SUBACK << 4, |out| {
        out.extend_from_slice(&packet_id.get().to_be_bytes());
        match version {
            Version::V311 => out.extend(codes.iter().map(|&code| code.min(0x80))),
            Version::V5 => {
                out.push(0);
                out.extend_from_slice(codes);
            }
        }
    });
}

/// UNSUBACK: one code for each filter of the UNSUBSCRIBE, in its order. MQTT 3.1.1 has no codes.
pub fn unsuback(out: &mut Vec<u8>, version: Version, packet_id: PacketId, codes: &[u8]) {
    packet(out, UNSUBACK << 4, |out| {
        out.extend_from_slice(&packet_id.get().to_be_bytes());
        if version == Version::V5 {
            out.push(0);
            out.extend_from_slice(codes);
        }
    });
}

/// PINGRESP.
pub fn pingresp(out: &mut Vec<u8>) {
    out.extend_from_slice(&[PINGRESP << 4, 0]);
}

/// DISCONNECT. A server of MQTT 3.1.1 has none: nothing is written, closing the connection says all. A client's maximum
/// packet size is not looked at: where one is small, leave `reason_string` out [MQTT-3.14.2-3].
pub fn disconnect(out: &mut Vec<u8>, version: Version, reason: ReasonCode, reason_string: Option<&str>) {
    if version == Version::V311 {
        return;
    }
    packet(out, DISCONNECT << 4, |out| {
        out.push(reason.code());
        // The property length may be left out where it is 0, but there are clients that cannot read that.
        with_length(out, |out| {
            if let Some(reason_string) = reason_string {
                text(out, id::REASON_STRING, reason_string);
            }
        });
    });
}

fn packet(out: &mut Vec<u8>, first_byte: u8, body: impl FnOnce(&mut Vec<u8>)) {
    out.push(first_byte);
    with_length(out, body);
}

/// Appends what `body` appends, with its length before it.
fn with_length(out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    body(out);
    // Packets of this kind are small, so moving one up by a byte or two costs less than measuring it first.
    let length = u32::try_from(out.len() - start).unwrap_or(VARIABLE_BYTE_INTEGER_MAX);
    write_variable_byte_integer(out, length);
    out[start..].rotate_right(variable_byte_integer_bytes(length));
}

fn two_bytes(out: &mut Vec<u8>, id: u8, value: u16) {
    out.push(id);
    out.extend_from_slice(&value.to_be_bytes());
}

fn four_bytes(out: &mut Vec<u8>, id: u8, value: u32) {
    out.push(id);
    out.extend_from_slice(&value.to_be_bytes());
}

/// A string as MQTT takes it: what is after a U+0000 or 65,535 bytes is cut off.
fn text(out: &mut Vec<u8>, id: u8, value: &str) {
    let end = value.find('\0').unwrap_or(value.len());
    let end = value.floor_char_boundary(end.min(usize::from(u16::MAX)));
    let length = u16::try_from(end).unwrap_or(u16::MAX);
    two_bytes(out, id, length);
    out.extend_from_slice(&value.as_bytes()[..end]);
}
