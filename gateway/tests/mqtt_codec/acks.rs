//! PUBACK, PUBREC, PUBREL, PUBCOMP (MQTT 5 3.4 to 3.7), DISCONNECT (3.14), AUTH (3.15).

use penstock_gateway::mqtt::{Packet, PacketId, ReasonCode, Version};

use crate::support::{BOTH, accept, packet, properties, refuse, text};

const ACKS: [u8; 4] = [0x40, 0x50, 0x62, 0x70];

fn ack(bytes: &[u8], version: Version) -> (PacketId, ReasonCode) {
    match (bytes[0], accept(bytes, version)) {
        (0x40, Packet::PubAck { packet_id, reason })
        | (0x50, Packet::PubRec { packet_id, reason })
        | (0x62, Packet::PubRel { packet_id, reason })
        | (0x70, Packet::PubComp { packet_id, reason }) => (packet_id, reason),
        other => panic!("{other:?}"),
    }
}

#[test]
fn mqtt_3_4_acks_without_a_reason_mean_success() {
    for version in BOTH {
        for first_byte in ACKS {
            let bytes = packet(first_byte, &[&[0x01, 0x02]]);
            assert_eq!(ack(&bytes, version), (PacketId::new(0x102).unwrap(), ReasonCode::Success));
        }
    }
}

#[test]
fn mqtt_2_2_1_acks_have_a_packet_id_other_than_zero() {
    for version in BOTH {
        for first_byte in ACKS {
            let rule = "5: MQTT-2.2.1-3, 3.1.1: MQTT-2.3.1-1";
            refuse(&packet(first_byte, &[&[0, 0]]), version, ReasonCode::ProtocolError, rule);
            for body in [&[][..], &[1]] {
                refuse(&packet(first_byte, &[body]), version, ReasonCode::MalformedPacket, "past the end");
            }
        }
    }
}

/// Every reason code a packet takes is accepted, and no other number is.
fn takes_only(first_byte: u8, before: &[u8], after: &[u8], codes: &[u8]) {
    for code in 0..=255 {
        let bytes = packet(first_byte, &[before, &[code], after]);
        if codes.contains(&code) {
            accept(&bytes, Version::V5);
        } else {
            refuse(&bytes, Version::V5, ReasonCode::ProtocolError, "reason code");
        }
    }
}

#[test]
fn mqtt5_3_4_2_1_puback_reason_codes() {
    takes_only(0x40, &[0, 1], &[], &[0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99]);
}

#[test]
fn mqtt5_3_5_2_1_pubrec_reason_codes() {
    takes_only(0x50, &[0, 1], &[], &[0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99]);
}

#[test]
fn mqtt5_3_6_2_1_pubrel_reason_codes() {
    takes_only(0x62, &[0, 1], &[], &[0x00, 0x92]);
}

#[test]
fn mqtt5_3_7_2_1_pubcomp_reason_codes() {
    takes_only(0x70, &[0, 1], &[], &[0x00, 0x92]);
}

#[test]
fn mqtt5_3_14_2_1_disconnect_reason_codes_of_a_client() {
    let codes = [0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99];
    takes_only(0xe0, &[], &[], &codes);
}

#[test]
fn mqtt5_3_15_2_1_auth_reason_codes_of_a_client() {
    takes_only(0xf0, &[], &properties(&[&[0x15], &text("SCRAM-SHA-256")]), &[0x18, 0x19]);
    refuse(&packet(0xf0, &[]), Version::V5, ReasonCode::ProtocolError, "-3.15.2-1");
}

#[test]
fn mqtt5_3_4_2_2_ack_properties() {
    let user = [&[0x26][..], &text("k"), &text("v")].concat();
    let reason_string = [&[0x1f][..], &text("why")].concat();
    for first_byte in ACKS {
        let with = |parts: &[&[u8]]| packet(first_byte, &[&[0, 1, 0], &properties(parts)]);
        accept(&with(&[]), Version::V5);
        accept(&with(&[&reason_string, &user, &user]), Version::V5);
        let twice = with(&[&reason_string, &reason_string]);
        refuse(&twice, Version::V5, ReasonCode::ProtocolError, "twice");
        refuse(&with(&[&[0x11, 0, 0, 0, 1]]), Version::V5, ReasonCode::MalformedPacket, "2.2.2.2");
        let overrun = packet(first_byte, &[&[0, 1, 0, 9]]);
        refuse(&overrun, Version::V5, ReasonCode::MalformedPacket, "2.2.2.1");
    }
}

fn disconnect(bytes: &[u8], version: Version) -> (ReasonCode, Option<u32>) {
    match accept(bytes, version) {
        Packet::Disconnect { reason, session_expiry_s } => (reason, session_expiry_s),
        other => panic!("{other:?}"),
    }
}

#[test]
fn mqtt_3_14_disconnect_without_a_reason_is_normal() {
    for version in BOTH {
        assert_eq!(disconnect(&packet(0xe0, &[]), version), (ReasonCode::Success, None));
    }
    for body in [&[0x04][..], &[0x04, 0]] {
        let bytes = packet(0xe0, &[body]);
        assert_eq!(disconnect(&bytes, Version::V5), (ReasonCode::DisconnectWithWill, None));
    }
}

#[test]
fn mqtt5_3_14_2_2_disconnect_properties() {
    let expiry = [0x11, 0, 0, 0, 9];
    let bytes = packet(0xe0, &[&[0], &properties(&[&expiry, &[0x1f, 0, 0], &[0x26, 0, 0, 0, 0]])]);
    assert_eq!(disconnect(&bytes, Version::V5), (ReasonCode::Success, Some(9)));
    let twice = packet(0xe0, &[&[0], &properties(&[&expiry, &expiry])]);
    refuse(&twice, Version::V5, ReasonCode::ProtocolError, "twice");
    let foreign = packet(0xe0, &[&[0], &properties(&[&[0x02, 0, 0, 0, 9]])]);
    refuse(&foreign, Version::V5, ReasonCode::MalformedPacket, "2.2.2.2");
}

#[test]
fn mqtt5_3_14_2_2_5_server_reference_is_the_servers() {
    let bytes = packet(0xe0, &[&[0], &properties(&[&[0x1c], &text("elsewhere")])]);
    refuse(&bytes, Version::V5, ReasonCode::ProtocolError, "3.14.2.2.5");
}

#[test]
fn mqtt5_3_15_2_2_auth_properties() {
    let method = [&[0x15][..], &text("m")].concat();
    let all = properties(&[&method, &[0x16, 0, 1, 0xff], &[0x1f, 0, 0], &[0x26, 0, 0, 0, 0]]);
    match accept(&packet(0xf0, &[&[0x19], &all]), Version::V5) {
        Packet::Auth { reason } => assert_eq!(reason, ReasonCode::ReAuthenticate),
        other => panic!("{other:?}"),
    }
    let twice = packet(0xf0, &[&[0x18], &properties(&[&method, &method])]);
    refuse(&twice, Version::V5, ReasonCode::ProtocolError, "twice");
}

#[test]
fn mqtt5_3_15_2_2_2_auth_without_a_method_is_a_protocol_error() {
    refuse(&packet(0xf0, &[&[0x18, 0]]), Version::V5, ReasonCode::ProtocolError, "3.15.2.2.2");
    let only_data = packet(0xf0, &[&[0x18], &properties(&[&[0x16, 0, 0]])]);
    refuse(&only_data, Version::V5, ReasonCode::ProtocolError, "3.15.2.2.2");
    // The property length may be left out with success only (MQTT 5 3.15.2.1).
    refuse(&packet(0xf0, &[&[0x18]]), Version::V5, ReasonCode::MalformedPacket, "past the end");
}
