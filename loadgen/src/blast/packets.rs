//! MQTT packets as bytes: made once, patched for each message. Pure.
//!
//! Only what the benchmark client needs, of MQTT 3.1.1 and 5: CONNECT, CONNACK, PUBLISH with QoS 1, PUBACK, DISCONNECT.

use penstock_proto::DeviceId;

use crate::mqtt::Version;

const CONNECT: u8 = 0x10;
const CONNACK: u8 = 0x20;
const PUBLISH_QOS1: u8 = 0x32;
const PUBACK: u8 = 0x40;
const PINGRESP: u8 = 0xd0;
const DISCONNECT: u8 = 0xe0;
const CLEAN: u8 = 0x02;
const KEEP_ALIVE_S: u16 = 600;
/// Sequence numbers from 2^21 to 2^28 - 1 are varints of 4 bytes, so they can be patched in place.
pub(super) const FIRST_SEQUENCE: u64 = 1 << 21;
/// Messages of a connection at most, so that a sequence number stays 4 bytes long.
pub(super) const MESSAGES_MAX: u64 = (1 << 28) - FIRST_SEQUENCE;
/// Timestamps of the years 2004 to 2109 are varints of 6 bytes.
const TIMESTAMP_BYTES: usize = 6;
const SEQUENCE_BYTES: usize = 4;

/// The peer broke off, or sent what a client does not expect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PacketError {
    #[error("the server refused the connection with code {0:#04x}")]
    Refused(u8),
    #[error("the server disconnected with reason {0:#04x}")]
    Disconnected(u8),
    #[error("the server sent a packet of type {0:#04x}, which was not expected")]
    Unexpected(u8),
}

fn with_length(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![kind];
    prost::encoding::encode_varint(body.len() as u64, &mut packet);
    packet.extend_from_slice(body);
    packet
}

/// A string with its two-byte length (MQTT 5 section 1.5.4); client ids and topics are far below 65,536 bytes.
fn text(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
    [&length.to_be_bytes()[..], &text.as_bytes()[..usize::from(length)]].concat()
}

/// CONNECT with a clean session.
pub(super) fn connect(version: Version, client_id: &str) -> Vec<u8> {
    let (level, properties): (u8, &[u8]) = match version {
        Version::V311 => (4, &[]),
        Version::V5 => (5, &[0]),
    };
    let body =
        [&text("MQTT")[..], &[level, CLEAN], &KEEP_ALIVE_S.to_be_bytes(), properties, &text(client_id)];
    with_length(CONNECT, &body.concat())
}

/// DISCONNECT, normal; the same bytes in both versions.
pub(super) const DISCONNECT_PACKET: [u8; 2] = [DISCONNECT, 0];

/// A PUBLISH with QoS 1 of one reading, of which packet id, timestamp and sequence number are patched in place.
pub(super) struct Publish {
    packet: Vec<u8>,
    packet_id_at: usize,
    timestamp_at: usize,
    sequence_at: usize,
}

impl Publish {
    /// The reading is one of a usual device: device id, timestamp, four measurements, sequence: 53 bytes.
    pub(super) fn new(version: Version, topic: &str, device: DeviceId) -> Self {
        let mut payload = vec![0x0a, 16];
        payload.extend_from_slice(device.as_bytes());
        payload.push(0x10);
        let timestamp_at = payload.len();
        payload.extend_from_slice(&[0; TIMESTAMP_BYTES]);
        for (field, value) in [(0x1d, 21.5_f32), (0x25, 45.0), (0x2d, 1013.25)] {
            payload.push(field);
            payload.extend_from_slice(&value.to_le_bytes());
        }
        payload.extend_from_slice(&[0x30, 87, 0x38]);
        let sequence_at = payload.len();
        payload.extend_from_slice(&[0; SEQUENCE_BYTES]);
        let mut head = text(topic);
        let packet_id_at = head.len();
        head.extend_from_slice(&[0, 0]);
        if version == Version::V5 {
            head.push(0);
        }
        let body = [head.clone(), payload].concat();
        let packet = with_length(PUBLISH_QOS1, &body);
        let body_at = packet.len() - body.len();
        let payload_at = body_at + head.len();
        Self {
            packet,
            packet_id_at: body_at + packet_id_at,
            timestamp_at: payload_at + timestamp_at,
            sequence_at: payload_at + sequence_at,
        }
    }

    /// The packet with these values.
    pub(super) fn patched(&mut self, packet_id: u16, timestamp_ms: u64, sequence: u64) -> &[u8] {
        self.packet[self.packet_id_at..][..2].copy_from_slice(&packet_id.to_be_bytes());
        put_varint(&mut self.packet[self.timestamp_at..][..TIMESTAMP_BYTES], timestamp_ms);
        put_varint(&mut self.packet[self.sequence_at..][..SEQUENCE_BYTES], sequence);
        &self.packet
    }
}

/// Writes a varint over all of `place`: every byte but the last says that another follows.
fn put_varint(place: &mut [u8], mut value: u64) {
    let last = place.len() - 1;
    for (index, byte) in place.iter_mut().enumerate() {
        let [low, ..] = value.to_le_bytes();
        *byte = if index == last { low & 0x7f } else { low | 0x80 };
        value >>= 7;
    }
}

/// An acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PubAck {
    pub(super) packet_id: u16,
    /// Whether the reason code is below 0x80.
    pub(super) accepted: bool,
}

/// Takes whole packets from the front of `bytes` and hands out the acknowledgements; returns how many bytes were taken.
pub(super) fn acknowledgements(bytes: &[u8], mut each: impl FnMut(PubAck)) -> Result<usize, PacketError> {
    let mut taken = 0;
    while let Some((kind, body, length)) = split(&bytes[taken..]) {
        match (kind & 0xf0, body) {
            (PUBACK, [high, low, rest @ ..]) => {
                let accepted = rest.first().is_none_or(|reason| *reason < 0x80);
                each(PubAck { packet_id: u16::from_be_bytes([*high, *low]), accepted });
            }
            (PINGRESP, _) => {}
            (DISCONNECT, reason) => {
                return Err(PacketError::Disconnected(reason.first().copied().unwrap_or(0)));
            }
            _ => return Err(PacketError::Unexpected(kind)),
        }
        taken += length;
    }
    Ok(taken)
}

/// The Receive Maximum of a CONNACK (65,535 unless the server says otherwise), and its length; `None` while it is not
/// there as a whole.
pub(super) fn connack(bytes: &[u8]) -> Result<Option<(u16, usize)>, PacketError> {
    let Some((kind, body, length)) = split(bytes) else { return Ok(None) };
    match (kind, body) {
        (CONNACK, [_, 0, properties @ ..]) => Ok(Some((receive_max(properties).unwrap_or(u16::MAX), length))),
        (CONNACK, [_, code, ..]) => Err(PacketError::Refused(*code)),
        _ => Err(PacketError::Unexpected(kind)),
    }
}

/// Finds property 0x21 among those of a CONNACK (MQTT 5 section 3.2.2.3).
fn receive_max(properties: &[u8]) -> Option<u16> {
    let (length, at) = length(properties)?;
    let mut rest = properties.get(at..at + length)?;
    while let [kind, value @ ..] = rest {
        let size = match kind {
            0x21 => return value.first_chunk::<2>().map(|bytes| u16::from_be_bytes(*bytes)),
            // One byte; two; four; a string or bytes; a pair of strings.
            0x24 | 0x25 | 0x28 | 0x29 | 0x2a => 1,
            0x13 | 0x22 => 2,
            0x11 | 0x27 => 4,
            0x12 | 0x15 | 0x16 | 0x1a | 0x1c | 0x1f => string_size(value)?,
            0x26 => {
                let name = string_size(value)?;
                name + string_size(value.get(name..)?)?
            }
            _ => return None,
        };
        rest = value.get(size..)?;
    }
    None
}

fn string_size(bytes: &[u8]) -> Option<usize> {
    bytes.first_chunk::<2>().map(|length| 2 + usize::from(u16::from_be_bytes(*length)))
}

/// The first packet: its first byte, its body, and its length as a whole.
fn split(bytes: &[u8]) -> Option<(u8, &[u8], usize)> {
    let (kind, rest) = bytes.split_first()?;
    let (length, at) = length(rest)?;
    let body = rest.get(at..at.checked_add(length)?)?;
    Some((*kind, body, 1 + at + length))
}

/// A Remaining Length (MQTT 5 section 1.5.5), and the bytes it takes.
fn length(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut value = 0;
    for (index, byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((value, index + 1));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use penstock_proto::topics::{MqttTopic, readings_topic};
    use penstock_proto::{Limits, check_reading};
    use proptest::prelude::*;

    use super::*;

    const DEVICE: DeviceId = DeviceId::from_bytes([7; 16]);
    const NOW_MS: u64 = 1_790_000_000_000;

    #[test]
    fn a_patched_publish_is_a_valid_reading_to_the_codec_and_to_the_contract() {
        for version in [Version::V311, Version::V5] {
            let mut publish = Publish::new(version, &readings_topic(DEVICE), DEVICE);
            for (packet_id, sequence) in [(1, FIRST_SEQUENCE), (0x1234, FIRST_SEQUENCE + MESSAGES_MAX - 1)] {
                let bytes = publish.patched(packet_id, NOW_MS, sequence).to_vec();
                let mut bytes = bytes::BytesMut::from(&bytes[..]);
                let (topic, payload) = match version {
                    Version::V311 => match rumqttc::Packet::read(&mut bytes, 1_000).unwrap() {
                        rumqttc::Packet::Publish(p) => {
                            assert_eq!((p.pkid, p.qos), (packet_id, rumqttc::QoS::AtLeastOnce));
                            (p.topic.into_bytes(), p.payload)
                        }
                        other => panic!("{other:?}"),
                    },
                    Version::V5 => {
                        use rumqttc::v5::mqttbytes::v5::Packet;
                        match Packet::read(&mut bytes, Some(1_000)).unwrap() {
                            Packet::Publish(p) => {
                                assert_eq!(p.pkid, packet_id);
                                (p.topic.to_vec(), p.payload)
                            }
                            other => panic!("{other:?}"),
                        }
                    }
                };
                assert!(bytes.is_empty());
                assert_eq!(MqttTopic::parse(&topic), Some(MqttTopic::Reading(DEVICE)));
                let now_ms = i64::try_from(NOW_MS).unwrap();
                let reading = check_reading(&payload, DEVICE, now_ms, &Limits::default()).unwrap();
                assert_eq!((reading.sequence, reading.timestamp_ms), (sequence, now_ms));
                assert_eq!((reading.battery_level, reading.pressure), (Some(87), Some(1013.25)));
            }
        }
    }

    #[test]
    fn connect_is_read_by_the_codec_in_both_versions() {
        let mut bytes = bytes::BytesMut::from(&connect(Version::V311, "sensor")[..]);
        let packet = rumqttc::Packet::read(&mut bytes, 1_000).unwrap();
        assert!(matches!(packet, rumqttc::Packet::Connect(c) if c.client_id == "sensor" && c.clean_session));
        use rumqttc::v5::mqttbytes::v5::Packet;
        let mut bytes = bytes::BytesMut::from(&connect(Version::V5, "sensor")[..]);
        let packet = Packet::read(&mut bytes, Some(1_000)).unwrap();
        assert!(matches!(packet, Packet::Connect(c, ..) if c.client_id == "sensor" && c.clean_start));
    }

    #[test]
    fn acknowledgements_are_read_as_far_as_they_are_whole() {
        let bytes = [0x40, 2, 0, 1, 0x40, 3, 0, 2, 0x99, 0x40, 4, 0, 3, 0, 0, 0xd0, 0, 0x40, 2, 0];
        let mut acks = Vec::new();
        assert_eq!(acknowledgements(&bytes, |ack| acks.push(ack)), Ok(17));
        let acks: Vec<_> = acks.iter().map(|ack| (ack.packet_id, ack.accepted)).collect();
        assert_eq!(acks, [(1, true), (2, false), (3, true)]);
        assert_eq!(acknowledgements(&[0xe0, 1, 0x89], |_| ()), Err(PacketError::Disconnected(0x89)));
        assert_eq!(acknowledgements(&[0x30, 0], |_| ()), Err(PacketError::Unexpected(0x30)));
    }

    #[test]
    fn connack_names_the_receive_maximum() {
        assert_eq!(connack(&[0x20, 2, 0, 0]), Ok(Some((u16::MAX, 4))));
        assert_eq!(connack(&[0x20, 3, 0, 0, 0]), Ok(Some((u16::MAX, 5))));
        let with_others = [0x20, 13, 0, 0, 10, 0x25, 1, 0x12, 0, 2, b'i', b'd', 0x21, 1, 0];
        assert_eq!(connack(&with_others), Ok(Some((256, 15))));
        assert_eq!(connack(&with_others[..14]), Ok(None));
        assert_eq!(connack(&[0x20, 2, 0, 5]), Err(PacketError::Refused(5)));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = connack(&bytes);
            let _ = acknowledgements(&bytes, |_| ());
        }
    }
}
