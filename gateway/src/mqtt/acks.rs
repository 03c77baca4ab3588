//! The packets of the acknowledgement flows (MQTT 5 3.4 to 3.7), DISCONNECT (3.14) and AUTH (3.15).

use super::Version;
use super::frame::Frame;
use super::primitives::{PacketId, Reader};
use super::properties::{Properties, Property, allow, id};
use super::reason::{ReasonCode, Violation};

const ACK_PROPERTIES: u64 = allow(&[id::REASON_STRING, id::USER_PROPERTY]);
const DISCONNECT_PROPERTIES: u64 =
    allow(&[id::SESSION_EXPIRY, id::REASON_STRING, id::USER_PROPERTY, id::SERVER_REFERENCE]);
const AUTH_PROPERTIES: u64 =
    allow(&[id::AUTHENTICATION_METHOD, id::AUTHENTICATION_DATA, id::REASON_STRING, id::USER_PROPERTY]);

const REASON_NOT_THIS_PACKETS: Violation = Violation::protocol_error(
    "a reason code is not one a client sends in this packet (5: MQTT-3.4.2-1, -3.5.2-1, -3.6.2-1, -3.7.2-1, -3.14.2-1, -3.15.2-1)",
);

/// PUBACK or PUBREC. MQTT 3.1.1 has no reason: success.
pub(super) fn decode_received(
    frame: &Frame<'_>,
    version: Version,
) -> Result<(PacketId, ReasonCode), Violation> {
    decode_ack(frame, version, |code| {
        use ReasonCode as R;
        matches!(
            code,
            R::Success
                | R::NoMatchingSubscribers
                | R::UnspecifiedError
                | R::ImplementationSpecificError
                | R::NotAuthorized
                | R::TopicNameInvalid
                | R::PacketIdentifierInUse
                | R::QuotaExceeded
                | R::PayloadFormatInvalid
        )
    })
}

/// PUBREL or PUBCOMP. MQTT 3.1.1 has no reason: success.
pub(super) fn decode_released(
    frame: &Frame<'_>,
    version: Version,
) -> Result<(PacketId, ReasonCode), Violation> {
    decode_ack(frame, version, |code| {
        matches!(code, ReasonCode::Success | ReasonCode::PacketIdentifierNotFound)
    })
}

fn decode_ack(
    frame: &Frame<'_>,
    version: Version,
    allowed: impl Fn(ReasonCode) -> bool,
) -> Result<(PacketId, ReasonCode), Violation> {
    let mut reader = Reader::new(frame.body);
    let packet_id = reader.packet_id()?;
    // MQTT 5 may leave the properties out, and the reason with them (MQTT 5 3.4.2.1, 3.4.2.2.1).
    let mut reason = ReasonCode::Success;
    if version == Version::V5 && !reader.is_empty() {
        reason = read_reason(&mut reader, allowed)?;
        if !reader.is_empty() {
            Properties::take(&mut reader, ACK_PROPERTIES)?.skip()?;
        }
    }
    reader.finish()?;
    Ok((packet_id, reason))
}

fn read_reason(
    reader: &mut Reader<'_>,
    allowed: impl Fn(ReasonCode) -> bool,
) -> Result<ReasonCode, Violation> {
    ReasonCode::from_code(reader.u8()?).filter(|code| allowed(*code)).ok_or(REASON_NOT_THIS_PACKETS)
}

/// DISCONNECT: the reason and the session expiry interval in seconds.
pub(super) fn decode_disconnect(
    frame: &Frame<'_>,
    version: Version,
) -> Result<(ReasonCode, Option<u32>), Violation> {
    let mut reader = Reader::new(frame.body);
    let (mut reason, mut session_expiry_s) = (ReasonCode::Success, None);
    if version == Version::V5 && !reader.is_empty() {
        reason = read_reason(&mut reader, client_disconnects_with)?;
        if !reader.is_empty() {
            session_expiry_s = read_disconnect_properties(&mut reader)?;
        }
    }
    reader.finish()?;
    Ok((reason, session_expiry_s))
}

/// The codes of MQTT 5 table 3-10 that a client sends.
const fn client_disconnects_with(code: ReasonCode) -> bool {
    use ReasonCode as R;
    matches!(
        code,
        R::Success
            | R::DisconnectWithWill
            | R::UnspecifiedError
            | R::MalformedPacket
            | R::ProtocolError
            | R::ImplementationSpecificError
            | R::TopicNameInvalid
            | R::ReceiveMaximumExceeded
            | R::TopicAliasInvalid
            | R::PacketTooLarge
            | R::MessageRateTooHigh
            | R::QuotaExceeded
            | R::AdministrativeAction
            | R::PayloadFormatInvalid
    )
}

fn read_disconnect_properties(reader: &mut Reader<'_>) -> Result<Option<u32>, Violation> {
    let mut session_expiry_s = None;
    let mut properties = Properties::take(reader, DISCONNECT_PROPERTIES)?;
    while let Some(property) = properties.next()? {
        match property {
            Property::SessionExpiry(expiry_s) => session_expiry_s = Some(expiry_s),
            Property::ServerReference => {
                return Err(Violation::protocol_error("a client sends a server reference (5: 3.14.2.2.5)"));
            }
            _ => {}
        }
    }
    Ok(session_expiry_s)
}

/// AUTH: the reason. Its method and data are checked and left out: no enhanced authentication is offered.
pub(super) fn decode_auth(frame: &Frame<'_>) -> Result<ReasonCode, Violation> {
    let mut reader = Reader::new(frame.body);
    // An empty body means success (MQTT 5 3.15.2.1), which only a server may say.
    if reader.is_empty() {
        return Err(REASON_NOT_THIS_PACKETS);
    }
    let reason = read_reason(&mut reader, |code| {
        matches!(code, ReasonCode::ContinueAuthentication | ReasonCode::ReAuthenticate)
    })?;
    let mut has_method = false;
    let mut properties = Properties::take(&mut reader, AUTH_PROPERTIES)?;
    while let Some(property) = properties.next()? {
        has_method |= matches!(property, Property::AuthenticationMethod(_));
    }
    if !has_method {
        return Err(Violation::protocol_error("AUTH without an authentication method (5: 3.15.2.2.2)"));
    }
    reader.finish()?;
    Ok(reason)
}
