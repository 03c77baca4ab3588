//! The body of each fuzz target: a function of bytes that panics where something that must hold does not.
//!
//! This file is compiled twice: into the fuzz crate, and by path into the gateway's `mqtt_codec_fuzz` test, which runs
//! the same functions on the corpus and on mutations of it. So it must name the codec as `crate::mqtt`.

use std::collections::BTreeMap;

use penstock_proto::v1::SensorReading;
use penstock_proto::{DeviceId, Limits, ReadingView, Reason, Window, check_reading};
use prost::Message;

use crate::mqtt::encode::{self, ConnAckProperties};
use crate::mqtt::{
    Connect, ConnectError, Frame, Packet, Publish, QoS, ReasonCode, Version, Violation, decode,
    decode_connect, next_frame, shared_filter,
};

const PACKET_BYTES_MAX: usize = 1 << 20;

/// A stream of packets after CONNECT. The first byte chooses the version: even MQTT 3.1.1, odd MQTT 5.
pub fn mqtt_packet(data: &[u8]) {
    let Some((version, mut stream)) = data.split_first() else { return };
    let version = if version % 2 == 0 { Version::V311 } else { Version::V5 };
    while let Some(frame) = frame_of(stream) {
        match decode(&frame, version) {
            Ok(packet) => check_packet(&packet, &frame, version),
            Err(violation) => {
                check_violation(violation);
                return;
            }
        }
        stream = &stream[frame.bytes..];
    }
}

/// The first packet of a connection.
pub fn mqtt_connect(data: &[u8]) {
    let Some(frame) = frame_of(data) else { return };
    match decode_connect(&frame) {
        Ok(connect) => check_connect(&connect, &frame),
        Err(error) => {
            assert_eq!(error == ConnectError::NotConnect, frame.packet_type() != 1);
            if let ConnectError::Malformed { violation, .. } = error {
                check_violation(violation);
            }
            if let Some((version, reason)) = error.answer() {
                let mut out = Vec::new();
                encode::connack(&mut out, version, true, reason, &ConnAckProperties::default());
                assert_eq!((out[0], out[2]), (0x20, 0), "an answer to {error} without a session");
            }
        }
    }
}

/// The whole packet at the start, which is there with its last byte and not before.
fn frame_of(stream: &[u8]) -> Option<Frame<'_>> {
    let frame = match next_frame(stream, PACKET_BYTES_MAX) {
        Ok(frame) => frame?,
        Err(violation) => {
            check_violation(violation);
            return None;
        }
    };
    assert!(frame.bytes <= stream.len() && frame.body.len() < frame.bytes);
    assert_eq!(next_frame(&stream[..frame.bytes], frame.bytes), Ok(Some(frame)));
    for end in (0..frame.bytes).take(8).chain([frame.bytes - 1]) {
        assert_eq!(next_frame(&stream[..end], PACKET_BYTES_MAX), Ok(None));
    }
    Some(frame)
}

fn check_violation(violation: Violation) {
    assert!(violation.reason.is_error());
    assert!(!violation.what.is_empty() && violation.to_string().contains(violation.reason.name()));
}

fn check_packet(packet: &Packet<'_>, frame: &Frame<'_>, version: Version) {
    let mut out = Vec::new();
    match *packet {
        Packet::Publish(publish) => return check_publish(&publish, frame, version),
        Packet::PubAck { packet_id, reason } => encode::puback(&mut out, version, packet_id, reason),
        Packet::PubRec { packet_id, reason } => encode::pubrec(&mut out, version, packet_id, reason),
        Packet::PubRel { packet_id, reason } => encode::pubrel(&mut out, version, packet_id, reason),
        Packet::PubComp { packet_id, reason } => encode::pubcomp(&mut out, version, packet_id, reason),
        Packet::Subscribe(subscribe) => {
            assert_eq!(subscribe.filters().count(), subscribe.filters_len);
            assert!(subscribe.filters_len > 0 && subscribe.subscription_id != Some(0));
            for (filter, options) in subscribe.filters() {
                check_filter(filter, version);
                let is_shared = version == Version::V5 && shared_filter(filter).is_some();
                assert!(!(is_shared && options.no_local));
            }
            return;
        }
        Packet::Unsubscribe(unsubscribe) => {
            assert_eq!(unsubscribe.filters().count(), unsubscribe.filters_len);
            assert!(unsubscribe.filters_len > 0);
            unsubscribe.filters().for_each(|filter| check_filter(filter, version));
            return;
        }
        Packet::PingReq => {
            assert_eq!((frame.first_byte, frame.body), (0xc0, &[][..]));
            return;
        }
        Packet::Disconnect { reason, .. } => {
            assert!(version == Version::V5 || reason == ReasonCode::Success);
            return;
        }
        Packet::Auth { reason } => {
            assert!(matches!(reason, ReasonCode::ContinueAuthentication | ReasonCode::ReAuthenticate));
            assert_eq!(version, Version::V5);
            return;
        }
    }
    let again = next_frame(&out, out.len()).unwrap().unwrap();
    assert_eq!((again.first_byte, &again.body[..2]), (frame.first_byte, &frame.body[..2]));
    assert_eq!(format!("{:?}", decode(&again, version).unwrap()), format!("{packet:?}"));
}

fn check_publish(publish: &Publish<'_>, frame: &Frame<'_>, version: Version) {
    assert_eq!(publish.packet_id.is_some(), publish.qos != QoS::AtMostOnce);
    assert!(!publish.topic.contains(['+', '#', '\0']));
    assert!(!publish.topic.is_empty() || publish.topic_alias.is_some());
    assert!(frame.body.ends_with(publish.payload) && frame.body[2..].starts_with(publish.topic.as_bytes()));
    assert!(version == Version::V5 || (publish.topic_alias, publish.message_expiry_s) == (None, None));
    let mut out = Vec::new();
    encode::publish(&mut out, version, publish).unwrap();
    let again = next_frame(&out, out.len()).unwrap().unwrap();
    assert_eq!(again.first_byte, frame.first_byte);
    match decode(&again, version).unwrap() {
        Packet::Publish(again) => assert_eq!(again, *publish),
        other => panic!("{other:?}"),
    }
}

/// The rules of MQTT 5 4.7.1, by what stands beside each wildcard.
fn check_filter(filter: &str, version: Version) {
    let shared = if version == Version::V5 { shared_filter(filter) } else { None };
    assert!(version == Version::V311 || shared.is_some() || !filter.starts_with("$share/"));
    let filter = shared.unwrap_or(filter).as_bytes();
    assert!(!filter.is_empty() && !filter.contains(&0));
    for (index, byte) in filter.iter().enumerate() {
        let begins_level = index == 0 || filter[index - 1] == b'/';
        let after = filter.get(index + 1);
        match byte {
            b'#' => assert!(begins_level && after.is_none()),
            b'+' => assert!(begins_level && after.is_none_or(|after| *after == b'/')),
            _ => {}
        }
    }
}

fn check_connect(connect: &Connect<'_>, frame: &Frame<'_>) {
    assert_eq!(frame.first_byte, 0x10);
    assert!(connect.receive_maximum > 0 && connect.packet_bytes_max != Some(0));
    if let Some(will) = connect.will {
        assert!(!will.topic.is_empty() && !will.topic.contains(['+', '#', '\0']));
    }
    assert!(!connect.client_id.contains('\0'));
    let bytes = encode_connect(connect);
    let again = next_frame(&bytes, bytes.len()).unwrap().unwrap();
    assert_eq!(decode_connect(&again), Ok(*connect));
}

/// CONNECT as a client writes it, from all that was read of one.
fn encode_connect(connect: &Connect<'_>) -> Vec<u8> {
    let is_v5 = connect.version == Version::V5;
    let will_flags = connect.will.map_or(0, |will| 4 | will.qos.code() << 3 | u8::from(will.retain) << 5);
    let flags = u8::from(connect.clean_start) << 1
        | will_flags
        | u8::from(connect.password.is_some()) << 6
        | u8::from(connect.username.is_some()) << 7;
    let mut body = b"\0\x04MQTT".to_vec();
    body.extend_from_slice(&[if is_v5 { 5 } else { 4 }, flags]);
    body.extend_from_slice(&connect.keep_alive_s.to_be_bytes());
    if is_v5 {
        let mut properties = vec![0x17, u8::from(connect.request_problem_information), 0x11];
        properties.extend_from_slice(&connect.session_expiry_s.to_be_bytes());
        properties.push(0x21);
        properties.extend_from_slice(&connect.receive_maximum.to_be_bytes());
        properties.push(0x22);
        properties.extend_from_slice(&connect.topic_alias_maximum.to_be_bytes());
        if let Some(bytes) = connect.packet_bytes_max {
            properties.push(0x27);
            properties.extend_from_slice(&bytes.to_be_bytes());
        }
        if let Some(method) = connect.authentication_method {
            properties.push(0x15);
            binary(&mut properties, method.as_bytes());
        }
        varint(&mut body, properties.len());
        body.extend_from_slice(&properties);
    }
    binary(&mut body, connect.client_id.as_bytes());
    if let Some(will) = connect.will {
        if is_v5 {
            let mut properties = vec![0x01, u8::from(will.payload_is_utf8), 0x18];
            properties.extend_from_slice(&will.delay_s.to_be_bytes());
            if let Some(expiry_s) = will.message_expiry_s {
                properties.push(0x02);
                properties.extend_from_slice(&expiry_s.to_be_bytes());
            }
            varint(&mut body, properties.len());
            body.extend_from_slice(&properties);
        }
        binary(&mut body, will.topic.as_bytes());
        binary(&mut body, will.payload);
    }
    if let Some(username) = connect.username {
        binary(&mut body, username.as_bytes());
    }
    if let Some(password) = connect.password {
        binary(&mut body, password);
    }
    let mut packet = vec![0x10];
    varint(&mut packet, body.len());
    packet.extend_from_slice(&body);
    packet
}

fn binary(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&u16::try_from(bytes.len()).unwrap().to_be_bytes());
    out.extend_from_slice(bytes);
}

fn varint(out: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        out.push(u8::try_from(value & 0x7f).unwrap() | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).unwrap());
}

/// The device whose readings are read, and when.
pub const DEVICE: DeviceId = DeviceId::from_bytes([7; 16]);
/// The moment of receipt, Unix milliseconds.
pub const RECEIVED_AT_MS: i64 = 1_790_000_000_000;

/// One encoded reading: what is accepted means the same to prost, and what is valid keeps every rule.
pub fn reading(data: &[u8]) {
    let limits = Limits::default();
    let verdict = check_reading(data, DEVICE, RECEIVED_AT_MS, &limits);
    let Ok(view) = ReadingView::decode(data) else {
        let reason = verdict.unwrap_err().reason;
        assert!(matches!(reason, Reason::Undecodable | Reason::TooLarge));
        return;
    };
    let message = SensorReading::decode(data).unwrap();
    same_reading(&view, &message);
    match verdict {
        Ok(_) => valid_reading(&message, &limits),
        Err(invalid) => assert!(invalid.reason != Reason::Undecodable && !invalid.detail.is_empty()),
    }
}

fn same_reading(view: &ReadingView<'_>, message: &SensorReading) {
    let bits = |value: Option<f32>| value.map(f32::to_bits);
    assert_eq!(view.device_id, &message.device_id[..]);
    assert_eq!(view.timestamp_ms, message.timestamp);
    assert_eq!(bits(view.temperature), bits(message.temperature));
    assert_eq!(bits(view.humidity), bits(message.humidity));
    assert_eq!(bits(view.pressure), bits(message.pressure));
    assert_eq!(view.battery_level, message.battery_level);
    assert_eq!(view.sequence, message.sequence);
    assert_eq!(view.metrics().count(), view.metrics_len);
    // Of a repeated name the last counts.
    let ours: BTreeMap<_, _> = view.metrics().map(|(name, value)| (name, value.to_bits())).collect();
    let theirs: BTreeMap<_, _> =
        message.metrics.iter().map(|(name, value)| (&name[..], value.to_bits())).collect();
    assert_eq!(ours, theirs);
}

fn valid_reading(message: &SensorReading, limits: &Limits) {
    let window = Window::at(RECEIVED_AT_MS, limits);
    assert!((window.from_ms..=window.to_ms).contains(&message.timestamp));
    assert!(message.device_id.is_empty() || message.device_id == DEVICE.as_bytes());
    let measurements = [message.temperature, message.humidity, message.pressure];
    assert!(measurements.into_iter().flatten().all(f32::is_finite));
    assert!(message.humidity.is_none_or(|humidity| (0.0..=100.0).contains(&humidity)));
    assert!(message.battery_level.is_none_or(|battery| (0..=100).contains(&battery)));
    assert!(message.metrics.len() <= limits.metrics_max);
    for (name, value) in &message.metrics {
        assert!((1..=limits.metric_name_bytes_max).contains(&name.len()) && value.is_finite());
    }
}
