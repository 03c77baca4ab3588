//! MQTT 3.1.1 and 5 on the wire, the server's side: strict, in place, without allocating.
//!
//! [`next_frame`] cuts the stream into packets, [`decode_connect`] reads the first of them and [`decode`] all others,
//! [`encode`] writes what a server answers. Everything that can be judged from one packet alone is judged here, by the
//! letter of the standard; each rule's number is in its [`Violation`]. What depends on a session, a limit of the
//! configuration or a permission is never judged here, and nothing here does I/O.

mod acks;
mod connect;
pub mod encode;
mod frame;
mod primitives;
mod properties;
mod publish;
mod reason;
mod subscribe;

pub use connect::{Connect, ConnectError, Will, decode_connect};
pub use frame::{Frame, next_frame};
pub use primitives::PacketId;
pub use publish::Publish;
pub use reason::{ReasonCode, Violation};
pub use subscribe::{RetainHandling, Subscribe, SubscriptionOptions, Unsubscribe, shared_filter};

const CONNECT: u8 = 1;
const CONNACK: u8 = 2;
const PUBLISH: u8 = 3;
const PUBACK: u8 = 4;
const PUBREC: u8 = 5;
const PUBREL: u8 = 6;
const PUBCOMP: u8 = 7;
const SUBSCRIBE: u8 = 8;
const SUBACK: u8 = 9;
const UNSUBSCRIBE: u8 = 10;
const UNSUBACK: u8 = 11;
const PINGREQ: u8 = 12;
const PINGRESP: u8 = 13;
const DISCONNECT: u8 = 14;
const AUTH: u8 = 15;

/// The protocol version of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// MQTT 3.1.1, protocol level 4.
    V311,
    /// MQTT 5, protocol level 5.
    V5,
}

/// How delivery is assured (MQTT 5 4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[repr(u8)]
pub enum QoS {
    /// QoS 0: not at all.
    #[default]
    AtMostOnce = 0,
    /// QoS 1: acknowledged, may arrive twice.
    AtLeastOnce = 1,
    /// QoS 2: acknowledged in two steps.
    ExactlyOnce = 2,
}

impl QoS {
    /// The number on the wire.
    #[inline]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The low two bits; 3 is no QoS.
    #[inline]
    const fn from_bits(bits: u8) -> Option<Self> {
        match bits & 0b11 {
            0 => Some(Self::AtMostOnce),
            1 => Some(Self::AtLeastOnce),
            2 => Some(Self::ExactlyOnce),
            _ => None,
        }
    }
}

/// A packet of a client, after CONNECT. MQTT 3.1.1 has no reasons: they are [`ReasonCode::Success`] there.
#[derive(Clone, Copy, Debug)]
pub enum Packet<'a> {
    /// A message.
    Publish(Publish<'a>),
    /// A QoS 1 message of the server has arrived.
    PubAck {
        /// The message's.
        packet_id: PacketId,
        /// Whether the client took it.
        reason: ReasonCode,
    },
    /// A QoS 2 message of the server has arrived.
    PubRec {
        /// The message's.
        packet_id: PacketId,
        /// Whether the client took it.
        reason: ReasonCode,
    },
    /// The client forgets a QoS 2 message of its own.
    PubRel {
        /// The message's.
        packet_id: PacketId,
        /// Whether the client knows the message.
        reason: ReasonCode,
    },
    /// A QoS 2 message of the server is done with.
    PubComp {
        /// The message's.
        packet_id: PacketId,
        /// Whether the client knows the message.
        reason: ReasonCode,
    },
    /// The client wants messages.
    Subscribe(Subscribe<'a>),
    /// The client wants messages no longer.
    Unsubscribe(Unsubscribe<'a>),
    /// The client is there.
    PingReq,
    /// The client goes.
    Disconnect {
        /// Why: [`ReasonCode::Success`] drops the will, every other reason publishes it.
        reason: ReasonCode,
        /// Replaces that of CONNECT, in seconds; a protocol error where CONNECT's was zero and this is not
        /// (MQTT 5 3.14.2.2.2), which is the connection's to check.
        session_expiry_s: Option<u32>,
    },
    /// A step of an enhanced authentication (MQTT 5).
    Auth {
        /// [`ReasonCode::ContinueAuthentication`] or [`ReasonCode::ReAuthenticate`].
        reason: ReasonCode,
    },
}

/// Decodes a packet that follows CONNECT.
///
/// # Errors
/// [`Violation`] where the packet breaks a rule that it alone is judged by.
#[inline]
pub fn decode<'a>(frame: &Frame<'a>, version: Version) -> Result<Packet<'a>, Violation> {
    if version == Version::V5 {
        frame.check_length_is_minimal()?;
    }
    if frame.packet_type() == PUBLISH {
        return publish::decode(frame, version).map(Packet::Publish);
    }
    decode_other(frame, version)
}

fn decode_other<'a>(frame: &Frame<'a>, version: Version) -> Result<Packet<'a>, Violation> {
    match frame.packet_type() {
        PUBACK | PUBREC | PUBCOMP | PINGREQ | DISCONNECT => frame.check_flags(0)?,
        PUBREL | SUBSCRIBE | UNSUBSCRIBE => frame.check_flags(0b0010)?,
        AUTH if version == Version::V5 => frame.check_flags(0)?,
        CONNECT => {
            return Err(Violation::protocol_error("a second CONNECT (5: MQTT-3.1.0-2, 3.1.1: MQTT-3.1.0-2)"));
        }
        CONNACK | SUBACK | UNSUBACK | PINGRESP => {
            return Err(Violation::protocol_error(
                "a packet that only servers send (5: 2.1.2, 3.1.1: 2.2.1)",
            ));
        }
        _ => return Err(Violation::malformed("a packet type that is reserved (5: 2.1.2, 3.1.1: 2.2.1)")),
    }
    Ok(match frame.packet_type() {
        PUBACK => {
            let (packet_id, reason) = acks::decode_received(frame, version)?;
            Packet::PubAck { packet_id, reason }
        }
        PUBREC => {
            let (packet_id, reason) = acks::decode_received(frame, version)?;
            Packet::PubRec { packet_id, reason }
        }
        PUBREL => {
            let (packet_id, reason) = acks::decode_released(frame, version)?;
            Packet::PubRel { packet_id, reason }
        }
        PUBCOMP => {
            let (packet_id, reason) = acks::decode_released(frame, version)?;
            Packet::PubComp { packet_id, reason }
        }
        SUBSCRIBE => Packet::Subscribe(Subscribe::decode(frame, version)?),
        UNSUBSCRIBE => Packet::Unsubscribe(Unsubscribe::decode(frame, version)?),
        PINGREQ => {
            primitives::Reader::new(frame.body).finish()?;
            Packet::PingReq
        }
        DISCONNECT => {
            let (reason, session_expiry_s) = acks::decode_disconnect(frame, version)?;
            Packet::Disconnect { reason, session_expiry_s }
        }
        _ => Packet::Auth { reason: acks::decode_auth(frame)? },
    })
}
