//! What the server sends, byte by byte.

use std::num::NonZeroU16;

use penstock_gateway::mqtt::encode::{self, ConnAckProperties};
use penstock_gateway::mqtt::{Packet, PacketId, Publish, QoS, ReasonCode, Version};

use crate::support::{BOTH, accept, properties, text, varint};

const NONE: ConnAckProperties<'static> = ConnAckProperties {
    session_expiry_s: None,
    receive_maximum: 65_535,
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
};

/// What `write` appends, which must leave what is before it alone.
fn written(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = b"before".to_vec();
    write(&mut out);
    assert_eq!(&out[..6], b"before");
    out.split_off(6)
}

fn id(id: u16) -> PacketId {
    PacketId::new(id).unwrap()
}

#[test]
fn mqtt_3_2_connack() {
    assert_eq!(NONE, ConnAckProperties::default());
    let connack =
        |version, present, reason| written(|out| encode::connack(out, version, present, reason, &NONE));
    assert_eq!(connack(Version::V311, true, ReasonCode::Success), [0x20, 2, 1, 0]);
    assert_eq!(connack(Version::V311, false, ReasonCode::Success), [0x20, 2, 0, 0]);
    assert_eq!(connack(Version::V5, true, ReasonCode::Success), [0x20, 3, 1, 0, 0]);
}

#[test]
fn mqtt5_3_2_2_6_and_mqtt311_3_2_2_4_no_session_present_with_an_error() {
    let connack =
        |version| written(|out| encode::connack(out, version, true, ReasonCode::NotAuthorized, &NONE));
    assert_eq!(connack(Version::V311), [0x20, 2, 0, 5]);
    assert_eq!(connack(Version::V5), [0x20, 3, 0, 0x87, 0]);
}

#[test]
fn mqtt311_3_2_2_3_return_codes() {
    let codes = [
        (ReasonCode::UnsupportedProtocolVersion, 1),
        (ReasonCode::ClientIdentifierNotValid, 2),
        (ReasonCode::ServerUnavailable, 3),
        (ReasonCode::ServerBusy, 3),
        (ReasonCode::BadUserNameOrPassword, 4),
        (ReasonCode::NotAuthorized, 5),
        (ReasonCode::Banned, 5),
    ];
    for (reason, code) in codes {
        let bytes = written(|out| encode::connack(out, Version::V311, false, reason, &NONE));
        assert_eq!(bytes, [0x20, 2, 0, code]);
    }
}

#[test]
fn mqtt311_3_2_2_6_a_reason_without_a_return_code_has_no_connack() {
    for reason in [ReasonCode::MalformedPacket, ReasonCode::ProtocolError, ReasonCode::TopicNameInvalid] {
        assert_eq!(written(|out| encode::connack(out, Version::V311, false, reason, &NONE)), b"");
    }
}

#[test]
fn mqtt5_3_2_2_3_connack_properties() {
    let all = ConnAckProperties {
        session_expiry_s: Some(0),
        receive_maximum: 256,
        maximum_qos: QoS::AtLeastOnce,
        retain_available: false,
        packet_bytes_max: Some(1 << 20),
        assigned_client_id: Some("given"),
        topic_alias_maximum: 2,
        reason_string: Some("why"),
        wildcard_available: false,
        subscription_id_available: false,
        shared_available: false,
        server_keep_alive_s: Some(1200),
    };
    let bytes = written(|out| encode::connack(out, Version::V5, false, ReasonCode::Success, &all));
    let expected = properties(&[
        &[0x11, 0, 0, 0, 0],
        &[0x21, 1, 0],
        &[0x24, 1],
        &[0x27, 0, 0x10, 0, 0],
        &[0x12],
        &text("given"),
        &[0x22, 0, 2],
        &[0x1f],
        &text("why"),
        &[0x25, 0, 0x28, 0, 0x29, 0, 0x2a, 0],
        &[0x13, 4, 0xb0],
    ]);
    assert_eq!(bytes, [&[0x20][..], &varint(2 + expected.len()), &[0, 0], &expected].concat());
}

#[test]
fn mqtt5_3_2_2_3_zero_is_never_sent_where_it_does_not_exist() {
    let zero = ConnAckProperties { receive_maximum: 0, packet_bytes_max: Some(0), ..NONE };
    let bytes = written(|out| encode::connack(out, Version::V5, false, ReasonCode::Success, &zero));
    assert_eq!(&bytes[4..], properties(&[&[0x21, 0, 1], &[0x27, 0, 0, 0, 1]]));
}

#[test]
fn strings_are_cut_to_what_mqtt_takes() {
    let reason = "é".repeat(40_000);
    let bytes = written(|out| encode::disconnect(out, Version::V5, ReasonCode::ServerBusy, Some(&reason)));
    let expected = [&[0x89][..], &properties(&[&[0x1f], &text(&reason[..65_534])])].concat();
    assert_eq!(bytes, [&[0xe0][..], &varint(expected.len()), &expected].concat());
    let bytes = written(|out| encode::disconnect(out, Version::V5, ReasonCode::ServerBusy, Some("a\0b")));
    assert_eq!(bytes, [0xe0, 6, 0x89, 4, 0x1f, 0, 1, b'a']);
}

#[test]
fn mqtt_3_4_to_3_7_acks() {
    type Ack = fn(&mut Vec<u8>, Version, PacketId, ReasonCode);
    let acks: [(u8, Ack); 4] =
        [(0x40, encode::puback), (0x50, encode::pubrec), (0x62, encode::pubrel), (0x70, encode::pubcomp)];
    for (first_byte, ack) in acks {
        for version in BOTH {
            let bytes = written(|out| ack(out, version, id(0x1234), ReasonCode::Success));
            assert_eq!(bytes, [first_byte, 2, 0x12, 0x34]);
        }
        let reason = ReasonCode::PacketIdentifierNotFound;
        assert_eq!(written(|out| ack(out, Version::V311, id(1), reason)), [first_byte, 2, 0, 1]);
        assert_eq!(written(|out| ack(out, Version::V5, id(1), reason)), [first_byte, 3, 0, 1, 0x92]);
    }
}

#[test]
fn mqtt_3_9_suback() {
    let codes = [0, 1, 2, 0x80, 0x87, 0xa2];
    let bytes = written(|out| encode::suback(out, Version::V5, id(7), &codes));
    assert_eq!(bytes, [0x90, 9, 0, 7, 0, 0, 1, 2, 0x80, 0x87, 0xa2]);
    let bytes = written(|out| encode::suback(out, Version::V311, id(7), &codes));
    assert_eq!(bytes, [0x90, 8, 0, 7, 0, 1, 2, 0x80, 0x80, 0x80]);
    // A length of more than one byte moves the body up.
    let bytes = written(|out| encode::suback(out, Version::V311, id(7), &[1; 20_000]));
    assert_eq!(bytes, [&[0x90][..], &varint(20_002), &[0, 7], &[1; 20_000]].concat());
}

#[test]
fn mqtt_3_11_unsuback() {
    let bytes = written(|out| encode::unsuback(out, Version::V5, id(7), &[0, 0x11]));
    assert_eq!(bytes, [0xb0, 5, 0, 7, 0, 0, 0x11]);
    let bytes = written(|out| encode::unsuback(out, Version::V311, id(7), &[0, 0x11]));
    assert_eq!(bytes, [0xb0, 2, 0, 7]);
}

#[test]
fn mqtt_3_13_pingresp() {
    assert_eq!(written(encode::pingresp), [0xd0, 0]);
}

#[test]
fn mqtt5_3_14_disconnect() {
    let disconnect =
        |version, why| written(|out| encode::disconnect(out, version, ReasonCode::SessionTakenOver, why));
    assert_eq!(disconnect(Version::V5, None), [0xe0, 2, 0x8e, 0]);
    assert_eq!(disconnect(Version::V5, Some("x")), [0xe0, 6, 0x8e, 4, 0x1f, 0, 1, b'x']);
    assert_eq!(disconnect(Version::V311, Some("x")), b"", "only clients of MQTT 3.1.1 send DISCONNECT");
}

#[test]
fn mqtt_3_3_publish() {
    let message = Publish {
        dup: true,
        qos: QoS::AtLeastOnce,
        retain: true,
        packet_id: Some(id(9)),
        topic: "t",
        topic_alias: NonZeroU16::new(3),
        payload_is_utf8: true,
        message_expiry_s: Some(60),
        payload: b"p",
    };
    let publish =
        |version, message: &Publish<'_>| written(|out| encode::publish(out, version, message).unwrap());
    assert_eq!(publish(Version::V311, &message), [0x3b, 6, 0, 1, b't', 0, 9, b'p']);
    let bytes = publish(Version::V5, &message);
    let expected = [0x3b, 17, 0, 1, b't', 0, 9, 10, 1, 1, 2, 0, 0, 0, 60, 0x23, 0, 3, b'p'];
    assert_eq!(bytes, expected);
    assert!(matches!(accept(&bytes, Version::V5), Packet::Publish(decoded) if decoded == message));
    let at_most_once = Publish { qos: QoS::AtMostOnce, ..message };
    assert_eq!(publish(Version::V311, &at_most_once), [0x31, 4, 0, 1, b't', b'p'], "no DUP, no identifier");
}

#[test]
fn a_publish_that_does_not_fit_writes_nothing() {
    let topic = "x".repeat(65_536);
    let message = Publish {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: false,
        packet_id: None,
        topic: &topic,
        topic_alias: None,
        payload_is_utf8: false,
        message_expiry_s: None,
        payload: b"",
    };
    let mut out = Vec::new();
    let violation = encode::publish(&mut out, Version::V5, &message).unwrap_err();
    assert_eq!((violation.reason, out.len()), (ReasonCode::PacketTooLarge, 0));
    let message = Publish { topic: &topic[1..], ..message };
    encode::publish(&mut out, Version::V5, &message).unwrap();
    assert!(matches!(accept(&out, Version::V5), Packet::Publish(decoded) if decoded == message));
}

#[test]
fn every_reason_code_has_its_own_number_and_name() {
    let all = ReasonCode::ALL;
    for (index, reason) in all.iter().enumerate() {
        assert_eq!(ReasonCode::from_code(reason.code()), Some(*reason));
        assert_eq!(reason.is_error(), reason.code() >= 0x80);
        assert!(
            all[..index].iter().all(|other| other.code() < reason.code() && other.name() != reason.name())
        );
        assert!(
            reason
                .name()
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        );
    }
    assert_eq!((0..=255).filter(|code| ReasonCode::from_code(*code).is_some()).count(), all.len());
}
