//! CONNECT (MQTT 5 3.1, MQTT 3.1.1 3.1): the packet that tells which version all others are read by.
//!
//! Whether the client may connect, and what an empty client identifier means, is decided elsewhere.

use super::frame::Frame;
use super::primitives::{Reader, not_empty};
use super::properties::{Properties, Property, allow, id};
use super::reason::{ReasonCode, Violation};
use super::{CONNECT, QoS, Version};

const PROPERTIES: u64 = allow(&[
    id::SESSION_EXPIRY,
    id::AUTHENTICATION_METHOD,
    id::AUTHENTICATION_DATA,
    id::REQUEST_PROBLEM_INFORMATION,
    id::REQUEST_RESPONSE_INFORMATION,
    id::RECEIVE_MAXIMUM,
    id::TOPIC_ALIAS_MAXIMUM,
    id::USER_PROPERTY,
    id::MAXIMUM_PACKET_SIZE,
]);
const WILL_PROPERTIES: u64 = allow(&[
    id::WILL_DELAY,
    id::PAYLOAD_FORMAT,
    id::MESSAGE_EXPIRY,
    id::CONTENT_TYPE,
    id::RESPONSE_TOPIC,
    id::CORRELATION_DATA,
    id::USER_PROPERTY,
]);

const CLEAN_START: u8 = 0b0000_0010;
const WILL: u8 = 0b0000_0100;
const WILL_RETAIN: u8 = 0b0010_0000;
const PASSWORD: u8 = 0b0100_0000;
const USERNAME: u8 = 0b1000_0000;

/// The first packet of a connection cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// It is not CONNECT: the client speaks something else, or out of turn.
    #[error("the first packet is not CONNECT (5: MQTT-3.1.0-1, 3.1.1: MQTT-3.1.0-1)")]
    NotConnect,
    /// It is CONNECT of a version other than 3.1.1 and 5.
    #[error("protocol level {level} is not supported: use 4 (MQTT 3.1.1) or 5 (MQTT 5)")]
    UnsupportedVersion {
        /// The level found; 3 is MQTT 3.1.
        level: u8,
    },
    /// It breaks the standard.
    #[error("malformed CONNECT: {violation}")]
    Malformed {
        /// The version, where the packet got as far as telling it.
        version: Option<Version>,
        /// The rule that is broken.
        violation: Violation,
    },
}

impl ConnectError {
    /// The CONNACK to send before closing the connection; `None` where the standard has it closed without one.
    ///
    /// MQTT 3.1.1 answers an unsupported level only [MQTT-3.1.2-2] and nothing malformed [MQTT-3.1.4-1]. A level with
    /// the highest bit set is a Mosquitto bridge's; it understands MQTT 3.1.1's answer and tries again without it.
    pub const fn answer(&self) -> Option<(Version, ReasonCode)> {
        match *self {
            Self::UnsupportedVersion { level: 5..=0x7f } => {
                Some((Version::V5, ReasonCode::UnsupportedProtocolVersion))
            }
            Self::UnsupportedVersion { .. } => Some((Version::V311, ReasonCode::UnsupportedProtocolVersion)),
            Self::Malformed { version: Some(Version::V5), violation } => {
                Some((Version::V5, violation.reason))
            }
            Self::NotConnect | Self::Malformed { .. } => None,
        }
    }
}

/// What the client asks the server to publish when it is gone. The remaining properties are checked and left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Will<'a> {
    /// Where to: 1 to 65,535 bytes, no wildcards.
    pub topic: &'a str,
    /// The message; may be empty.
    pub payload: &'a [u8],
    /// The QoS to publish it with.
    pub qos: QoS,
    /// Whether to keep it.
    pub retain: bool,
    /// MQTT 5: how many seconds to wait before publishing it; 0 where the client does not say.
    pub delay_s: u32,
    /// MQTT 5: the client says that the payload is UTF-8; not checked.
    pub payload_is_utf8: bool,
    /// MQTT 5: how long the message is of use, in seconds.
    pub message_expiry_s: Option<u32>,
}

/// A client's wish to connect. Defaults of the standard stand in for what the client does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connect<'a> {
    /// The protocol version of this connection.
    pub version: Version,
    /// Clean Start of MQTT 5, Clean Session of MQTT 3.1.1: an existing session is to be forgotten.
    pub clean_start: bool,
    /// Seconds between packets at most; 0 means no limit.
    pub keep_alive_s: u16,
    /// 0 to 65,535 bytes. What an empty one means is the connection's to decide.
    pub client_id: &'a str,
    /// The will, where there is one.
    pub will: Option<Will<'a>>,
    /// The user name, where there is one.
    pub username: Option<&'a str>,
    /// The password, where there is one; MQTT 5 allows it without a user name.
    pub password: Option<&'a [u8]>,
    /// How long the session outlives the connection, in seconds; `u32::MAX` is for ever. For MQTT 3.1.1: 0 with Clean
    /// Session, else for ever, which is the same in MQTT 5's words (MQTT 5 3.1.2.4).
    pub session_expiry_s: u32,
    /// How many publishes of QoS 1 and 2 the client takes at once, at least 1.
    pub receive_maximum: u16,
    /// The longest packet the client takes, in bytes, at least 1.
    pub packet_bytes_max: Option<u32>,
    /// How many topic aliases the client takes.
    pub topic_alias_maximum: u16,
    /// False: reason strings go in CONNACK, PUBLISH and DISCONNECT only (MQTT 5 3.1.2.11.7).
    pub request_problem_information: bool,
    /// MQTT 5: the client wants enhanced authentication by this method.
    pub authentication_method: Option<&'a str>,
}

/// Decodes the first packet of a connection.
///
/// # Errors
/// [`ConnectError`]; see [`ConnectError::answer`] for what to send.
pub fn decode_connect<'a>(frame: &Frame<'a>) -> Result<Connect<'a>, ConnectError> {
    if frame.packet_type() != CONNECT {
        return Err(ConnectError::NotConnect);
    }
    let mut reader = Reader::new(frame.body);
    let version = read_version(&mut reader)?;
    read_connect(frame, reader, version)
        .map_err(|violation| ConnectError::Malformed { version: Some(version), violation })
}

fn read_version(reader: &mut Reader<'_>) -> Result<Version, ConnectError> {
    let malformed = |violation| ConnectError::Malformed { version: None, violation };
    let name = reader.text().map_err(malformed)?;
    if name != "MQTT" && name != "MQIsdp" {
        return Err(malformed(Violation {
            reason: ReasonCode::UnsupportedProtocolVersion,
            what: "the protocol name is not MQTT (5: MQTT-3.1.2-1, 3.1.1: MQTT-3.1.2-1)",
        }));
    }
    match reader.u8().map_err(malformed)? {
        4 if name == "MQTT" => Ok(Version::V311),
        5 if name == "MQTT" => Ok(Version::V5),
        level => Err(ConnectError::UnsupportedVersion { level }),
    }
}

fn read_connect<'a>(
    frame: &Frame<'a>,
    mut reader: Reader<'a>,
    version: Version,
) -> Result<Connect<'a>, Violation> {
    frame.check_flags(0)?;
    if version == Version::V5 {
        frame.check_length_is_minimal()?;
    }
    let flags = reader.u8()?;
    check_connect_flags(flags, version)?;
    let clean_start = flags & CLEAN_START != 0;
    let mut connect = Connect {
        version,
        clean_start,
        keep_alive_s: reader.u16()?,
        client_id: "",
        will: None,
        username: None,
        password: None,
        session_expiry_s: if version == Version::V5 || clean_start { 0 } else { u32::MAX },
        receive_maximum: u16::MAX,
        packet_bytes_max: None,
        topic_alias_maximum: 0,
        request_problem_information: true,
        authentication_method: None,
    };
    if version == Version::V5 {
        read_properties(&mut connect, &mut reader)?;
    }
    connect.client_id = reader.text()?;
    if flags & WILL != 0 {
        connect.will = Some(read_will(&mut reader, flags, version)?);
    }
    if flags & USERNAME != 0 {
        connect.username = Some(reader.text()?);
    }
    if flags & PASSWORD != 0 {
        connect.password = Some(reader.binary()?);
    }
    reader.finish()?;
    Ok(connect)
}

fn check_connect_flags(flags: u8, version: Version) -> Result<(), Violation> {
    if flags & 1 != 0 {
        return Err(Violation::malformed(
            "the reserved connect flag is set (5: MQTT-3.1.2-3, 3.1.1: MQTT-3.1.2-3)",
        ));
    }
    let Some(will_qos) = QoS::from_bits(flags >> 3) else {
        return Err(Violation::malformed("the will has QoS 3 (5: MQTT-3.1.2-12, 3.1.1: MQTT-3.1.2-14)"));
    };
    if flags & WILL == 0 && will_qos != QoS::AtMostOnce {
        return Err(Violation::malformed("a QoS without a will (5: MQTT-3.1.2-11, 3.1.1: MQTT-3.1.2-13)"));
    }
    if flags & WILL == 0 && flags & WILL_RETAIN != 0 {
        return Err(Violation::malformed("retain without a will (5: MQTT-3.1.2-13, 3.1.1: MQTT-3.1.2-15)"));
    }
    if version == Version::V311 && flags & (USERNAME | PASSWORD) == PASSWORD {
        return Err(Violation::malformed("a password without a user name (3.1.1: MQTT-3.1.2-22)"));
    }
    Ok(())
}

fn read_properties<'a>(connect: &mut Connect<'a>, reader: &mut Reader<'a>) -> Result<(), Violation> {
    let mut has_authentication_data = false;
    let mut properties = Properties::take(reader, PROPERTIES)?;
    while let Some(property) = properties.next()? {
        match property {
            Property::SessionExpiry(expiry_s) => connect.session_expiry_s = expiry_s,
            Property::ReceiveMaximum(maximum) => connect.receive_maximum = maximum.get(),
            Property::PacketBytesMax(bytes) => connect.packet_bytes_max = Some(bytes),
            Property::TopicAliasMaximum(maximum) => connect.topic_alias_maximum = maximum,
            Property::RequestProblemInformation(wanted) => connect.request_problem_information = wanted,
            Property::AuthenticationMethod(method) => connect.authentication_method = Some(method),
            Property::AuthenticationData => has_authentication_data = true,
            _ => {}
        }
    }
    if has_authentication_data && connect.authentication_method.is_none() {
        return Err(Violation::protocol_error("authentication data without a method (5: 3.1.2.11.10)"));
    }
    Ok(())
}

fn read_will<'a>(reader: &mut Reader<'a>, flags: u8, version: Version) -> Result<Will<'a>, Violation> {
    let mut will = Will {
        topic: "",
        payload: &[],
        qos: QoS::from_bits(flags >> 3).unwrap_or_default(),
        retain: flags & WILL_RETAIN != 0,
        delay_s: 0,
        payload_is_utf8: false,
        message_expiry_s: None,
    };
    if version == Version::V5 {
        let mut properties = Properties::take(reader, WILL_PROPERTIES)?;
        while let Some(property) = properties.next()? {
            match property {
                Property::WillDelay(delay_s) => will.delay_s = delay_s,
                Property::PayloadIsUtf8(is_utf8) => will.payload_is_utf8 = is_utf8,
                Property::MessageExpiry(expiry_s) => will.message_expiry_s = Some(expiry_s),
                _ => {}
            }
        }
    }
    will.topic = reader.topic_name()?;
    not_empty(will.topic)?;
    will.payload = reader.binary()?;
    Ok(will)
}
