//! Fixed header, remaining length, packet types (MQTT 5 2.1, MQTT 3.1.1 2.2).

use penstock_gateway::mqtt::{Packet, ReasonCode, Version, decode, next_frame};

use crate::support::{BOTH, accept, check, frame, packet, refuse, varint};

#[test]
fn mqtt_2_1_4_remaining_length_of_one_to_four_bytes() {
    for length in [0, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152] {
        let mut bytes = packet(0x30, &[&vec![7; length]]);
        bytes.push(0xc0);
        let frame = next_frame(&bytes, usize::MAX).unwrap().unwrap();
        assert_eq!((frame.first_byte, frame.body.len()), (0x30, length));
        assert_eq!(frame.bytes, bytes.len() - 1, "the byte of the next packet is not taken");
    }
    // The longest there is, known before it has arrived.
    let longest = [&[0x30][..], &varint(268_435_455)].concat();
    assert_eq!(next_frame(&longest, usize::MAX).unwrap(), None);
}

#[test]
fn mqtt_2_1_4_remaining_length_of_five_bytes_is_malformed() {
    for bytes in [&[0x30, 0x80, 0x80, 0x80, 0x80][..], &[0x30, 0xff, 0xff, 0xff, 0xff, 0x01]] {
        let violation = next_frame(bytes, usize::MAX).unwrap_err();
        check(violation, ReasonCode::MalformedPacket, "1.5.5");
        check(violation, ReasonCode::MalformedPacket, "3.1.1: 2.2.3");
    }
    assert_eq!(next_frame(&[0x30, 0x80, 0x80, 0x80], usize::MAX).unwrap(), None);
}

#[test]
fn mqtt5_1_5_5_1_remaining_length_is_minimal() {
    // PINGREQ with its remaining length 0 in two bytes: MQTT 3.1.1 does not say that this is wrong.
    let bytes = [0xc0, 0x80, 0x00];
    assert!(matches!(accept(&bytes, Version::V311), Packet::PingReq));
    refuse(&bytes, Version::V5, ReasonCode::MalformedPacket, "MQTT-1.5.5-1");
    let publish = [0x30, 0x84, 0x80, 0x00, 0, 1, b'a', 0];
    assert!(matches!(accept(&publish, Version::V311), Packet::Publish(_)));
    refuse(&publish, Version::V5, ReasonCode::MalformedPacket, "MQTT-1.5.5-1");
}

#[test]
fn mqtt5_3_2_2_3_6_packet_too_large_is_known_before_it_has_arrived() {
    let whole = packet(0x30, &[&[0; 298]]);
    assert_eq!(whole.len(), 301);
    assert!(next_frame(&whole, 301).unwrap().is_some());
    for arrived in [3, 10, 301] {
        let violation = next_frame(&whole[..arrived], 300).unwrap_err();
        check(violation, ReasonCode::PacketTooLarge, "3.2.2.3.6");
    }
    assert_eq!(next_frame(&whole[..2], 300).unwrap(), None, "the length is not all there");
}

#[test]
fn an_empty_or_cut_packet_needs_more_bytes() {
    assert_eq!(next_frame(&[], 10).unwrap(), None);
    let whole = packet(0x30, &[&[1; 300]]);
    for end in 0..whole.len() {
        assert_eq!(next_frame(&whole[..end], usize::MAX).unwrap(), None, "{end}");
    }
}

#[test]
fn mqtt5_2_1_3_1_and_mqtt311_2_2_2_reserved_flags() {
    let well_formed: [(u8, &[u8]); 9] = [
        (0x40, &[0, 1]),
        (0x50, &[0, 1]),
        (0x62, &[0, 1]),
        (0x70, &[0, 1]),
        (0x82, &[0, 1, 0, 1, b'a', 0]),
        (0xa2, &[0, 1, 0, 1, b'a']),
        (0xc0, &[]),
        (0xe0, &[]),
        (0xf0, &[0x18]),
    ];
    for (first_byte, body) in well_formed {
        for flags in 0..16 {
            let bytes = packet(first_byte & 0xf0 | flags, &[body]);
            if flags == first_byte & 0x0f {
                if first_byte < 0x80 {
                    accept(&bytes, Version::V311);
                }
                continue;
            }
            refuse(&bytes, Version::V5, ReasonCode::MalformedPacket, "5: MQTT-2.1.3-1");
            if first_byte != 0xf0 {
                refuse(&bytes, Version::V311, ReasonCode::MalformedPacket, "3.1.1: MQTT-2.2.2-2");
            }
        }
    }
}

#[test]
fn mqtt_3_6_1_1_pubrel_has_flags_0010() {
    for version in BOTH {
        assert!(matches!(accept(&packet(0x62, &[&[0, 9]]), version), Packet::PubRel { .. }));
        refuse(&packet(0x60, &[&[0, 9]]), version, ReasonCode::MalformedPacket, "MQTT-2.1.3-1");
    }
}

#[test]
fn mqtt_2_1_2_packet_type_zero_is_reserved() {
    for version in BOTH {
        refuse(&packet(0x00, &[]), version, ReasonCode::MalformedPacket, "2.1.2");
    }
}

#[test]
fn mqtt311_2_2_1_auth_does_not_exist() {
    refuse(&packet(0xf0, &[]), Version::V311, ReasonCode::MalformedPacket, "3.1.1: 2.2.1");
}

#[test]
fn mqtt_2_1_2_packets_of_servers_are_a_protocol_error() {
    for first_byte in [0x20, 0x90, 0xb0, 0xd0] {
        for version in BOTH {
            refuse(&packet(first_byte, &[&[0, 1, 0]]), version, ReasonCode::ProtocolError, "only servers");
        }
    }
}

#[test]
fn mqtt_3_1_0_2_second_connect_is_a_protocol_error() {
    for version in BOTH {
        refuse(&packet(0x10, &[]), version, ReasonCode::ProtocolError, "MQTT-3.1.0-2");
    }
}

#[test]
fn bytes_after_the_last_field_are_malformed() {
    let packets: [(u8, &[u8]); 8] = [
        (0x40, &[0, 1, 0, 0, 9]),
        (0x50, &[0, 1, 0, 0, 9]),
        (0x62, &[0, 1, 0, 0, 9]),
        (0x70, &[0, 1, 0, 0, 9]),
        (0xc0, &[9]),
        (0xe0, &[0, 0, 9]),
        (0xf0, &[0x18, 4, 0x15, 0, 1, b'm', 9]),
        (0xc0, &[0]),
    ];
    for (first_byte, body) in packets {
        refuse(&packet(first_byte, &[body]), Version::V5, ReasonCode::MalformedPacket, "last field");
    }
    for first_byte in [0x40, 0x50, 0x62, 0x70] {
        refuse(&packet(first_byte, &[&[0, 1, 0]]), Version::V311, ReasonCode::MalformedPacket, "last field");
    }
    refuse(&packet(0xe0, &[&[0]]), Version::V311, ReasonCode::MalformedPacket, "last field");
}

#[test]
fn mqtt_3_12_pingreq_is_two_bytes() {
    for version in BOTH {
        assert!(matches!(decode(&frame(&[0xc0, 0]), version), Ok(Packet::PingReq)));
    }
}
