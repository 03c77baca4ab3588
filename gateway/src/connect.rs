//! The CONNECT exchange: the first packet, and the answer that opens the session or refuses it (MQTT5 3.1, 3.2).

use std::sync::Arc;

use penstock_proto::DeviceId;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncWrite, AsyncWriteExt};
use uuid::Uuid;

use crate::connection::{Accepted, Shared};
use crate::mqtt::encode::{self, ConnAckProperties};
use crate::mqtt::{Connect, ConnectError, ReasonCode, Version, decode_connect, next_frame};
use crate::outcome::Outcome;
use crate::session::{Session, TOPIC_ALIAS_MAX};

/// A CONNACK with a reason in words is never longer than this.
const REASON_PACKET_BYTES: u32 = 128;

/// Reads CONNECT, decides, and answers.
///
/// # Errors
/// The [`Outcome`] with which the connection has ended; a refusal has been told to the device.
pub async fn exchange<S>(
    stream: &mut S,
    identity: Result<DeviceId, Outcome>,
    shared: &Arc<Shared>,
) -> Result<Accepted, Outcome>
where
    S: AsyncBufRead + AsyncWrite + Unpin,
{
    let mut bytes = Vec::new();
    let packet_bytes = read_packet(stream, &mut bytes, shared.limits.packet_bytes_max).await?;
    let mut answer = Vec::with_capacity(64);
    let decided = decide(&bytes[..packet_bytes], identity, shared, &mut answer);
    // The answer to a refused CONNECT is a courtesy; the outcome is the refusal either way.
    let written = write(stream, &answer).await;
    let (session, entered, keep_alive_s) = decided?;
    written?;
    bytes.drain(..packet_bytes);
    Ok(Accepted { session, entered, keep_alive_s, early: bytes })
}

/// Reads until the first packet is whole; returns its length. What came behind it stays in `bytes` too.
async fn read_packet<S>(
    stream: &mut S,
    bytes: &mut Vec<u8>,
    packet_bytes_max: usize,
) -> Result<usize, Outcome>
where
    S: AsyncBufRead + Unpin,
{
    loop {
        let chunk = stream.fill_buf().await.map_err(|_| Outcome::ConnectionLost)?;
        if chunk.is_empty() {
            return Err(Outcome::ConnectionLost);
        }
        bytes.extend_from_slice(chunk);
        let read = chunk.len();
        stream.consume(read);
        // The first byte tells already whether this is CONNECT: garbage need not come whole to be known.
        if bytes.first().is_some_and(|first| *first != 0x10) {
            return Err(Outcome::Violation(ReasonCode::MalformedPacket));
        }
        if let Some(frame) = next_frame(bytes, packet_bytes_max)? {
            return Ok(frame.bytes);
        }
    }
}

async fn write<S: AsyncWrite + Unpin>(stream: &mut S, answer: &[u8]) -> Result<(), Outcome> {
    let lost = |_| Outcome::ConnectionLost;
    stream.write_all(answer).await.map_err(lost)?;
    stream.flush().await.map_err(lost)
}

/// Decides on a whole CONNECT packet and encodes the answer.
fn decide(
    packet: &[u8],
    identity: Result<DeviceId, Outcome>,
    shared: &Arc<Shared>,
    answer: &mut Vec<u8>,
) -> Result<(Session, crate::clients::Entered, u16), Outcome> {
    let limits = &shared.limits;
    let Some(frame) = next_frame(packet, limits.packet_bytes_max)? else {
        return Err(Outcome::Violation(ReasonCode::MalformedPacket));
    };
    let connect = decode_connect(&frame).map_err(|error| refuse_undecodable(&error, answer))?;
    let refusal = refusal(&connect, identity, limits.topic_bytes_max);
    let device = match (refusal, identity) {
        (None, Ok(device)) => device,
        (Some((reason, why, outcome)), _) => {
            // A reason in words must not make the packet larger than the device takes (MQTT5 3.2.2-19).
            let takes_words = connect.packet_bytes_max.is_none_or(|max| max >= REASON_PACKET_BYTES);
            let properties =
                ConnAckProperties { reason_string: takes_words.then_some(why), ..Default::default() };
            encode::connack(answer, connect.version, false, reason, &properties);
            return Err(outcome);
        }
        (None, Err(outcome)) => return Err(outcome),
    };
    let assigned = connect.client_id.is_empty().then(|| Uuid::new_v4().to_string());
    let client_id = assigned.as_deref().unwrap_or(connect.client_id);
    let keep_alive_s = keep_alive(&connect, limits.keep_alive_s_max);
    let properties = ConnAckProperties {
        receive_maximum: limits.inflight_max,
        packet_bytes_max: u32::try_from(limits.packet_bytes_max).ok(),
        topic_alias_maximum: TOPIC_ALIAS_MAX,
        retain_available: false,
        server_keep_alive_s: (keep_alive_s != connect.keep_alive_s).then_some(keep_alive_s),
        // Sessions end with their connection: there is nothing in one that a device could come back for.
        session_expiry_s: (connect.session_expiry_s > 0).then_some(0),
        assigned_client_id: assigned.as_deref(),
        wildcard_available: false,
        subscription_id_available: false,
        shared_available: false,
        ..Default::default()
    };
    encode::connack(answer, connect.version, false, ReasonCode::Success, &properties);
    let session = Session::new(connect.version, device, limits.inflight_max, limits.topic_bytes_max);
    Ok((session, shared.clients.enter(device, client_id), keep_alive_s))
}

type Refusal = (ReasonCode, &'static str, Outcome);

/// Why a CONNECT that the standard allows is refused, if it is.
fn refusal(
    connect: &Connect<'_>,
    identity: Result<DeviceId, Outcome>,
    client_id_bytes_max: usize,
) -> Option<Refusal> {
    if let Err(outcome) = identity {
        return Some((ReasonCode::NotAuthorized, "the certificate names no device", outcome));
    }
    if connect.authentication_method.is_some() {
        let why = "enhanced authentication is not offered";
        return Some((ReasonCode::BadAuthenticationMethod, why, Outcome::ConnectRefused));
    }
    if connect.will.is_some() {
        // 3.1.1 has six return codes; a device that is told "not authorized" knows more than one that is just cut off.
        let reason = match connect.version {
            Version::V311 => ReasonCode::NotAuthorized,
            Version::V5 => ReasonCode::ImplementationSpecificError,
        };
        return Some((reason, "wills are not offered", Outcome::ConnectRefused));
    }
    if connect.client_id.is_empty() && connect.version == Version::V311 && !connect.clean_start {
        let why = "an empty client identifier needs a clean session";
        return Some((ReasonCode::ClientIdentifierNotValid, why, Outcome::ClientIdRefused));
    }
    if connect.client_id.len() > client_id_bytes_max {
        let why = "the client identifier is too long";
        return Some((ReasonCode::ClientIdentifierNotValid, why, Outcome::ClientIdRefused));
    }
    None
}

fn refuse_undecodable(error: &ConnectError, answer: &mut Vec<u8>) -> Outcome {
    if let Some((version, reason)) = error.answer() {
        encode::connack(answer, version, false, reason, &ConnAckProperties::default());
    }
    match error {
        ConnectError::NotConnect => Outcome::Violation(ReasonCode::ProtocolError),
        ConnectError::UnsupportedVersion { .. } => Outcome::UnsupportedVersion,
        ConnectError::Malformed { violation, .. } => Outcome::Violation(violation.reason),
    }
}

/// The keep-alive in force: MQTT 5 lets the server shorten it, and set one where the device asks for none (3.2.2.3.14).
fn keep_alive(connect: &Connect<'_>, keep_alive_s_max: u16) -> u16 {
    match (connect.version, connect.keep_alive_s) {
        (Version::V5, 0) => keep_alive_s_max,
        (Version::V5, asked) => asked.min(keep_alive_s_max),
        (Version::V311, asked) => asked,
    }
}
