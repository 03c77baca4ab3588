//! CONNECT (MQTT 5 3.1, MQTT 3.1.1 3.1).

use penstock_gateway::mqtt::{Connect, ConnectError, QoS, ReasonCode, Version, decode_connect};

use crate::support::{BOTH, binary, check, frame, no_properties, packet, properties, text};

const fn level(version: Version) -> u8 {
    match version {
        Version::V311 => 4,
        Version::V5 => 5,
    }
}

/// CONNECT with these flags, no properties, and the payload after the client identifier `id`.
fn with_flags(flags: u8, payload: &[&[u8]], version: Version) -> Vec<u8> {
    let header = [&text("MQTT")[..], &[level(version), flags, 0, 60], no_properties(version)].concat();
    packet(0x10, &[&header, &text("id"), &payload.concat()])
}

/// CONNECT of MQTT 5 with these properties.
fn with_properties(parts: &[&[u8]]) -> Vec<u8> {
    packet(0x10, &[&text("MQTT"), &[5, 2, 0, 60], &properties(parts), &text("id")])
}

/// CONNECT of MQTT 5 with a will that has these properties.
fn with_will_properties(parts: &[&[u8]]) -> Vec<u8> {
    with_flags(0b110, &[&properties(parts), &text("w"), &text("gone")], Version::V5)
}

fn accept(bytes: &[u8]) -> Connect<'_> {
    decode_connect(&frame(bytes)).unwrap_or_else(|error| panic!("{error}: {bytes:02x?}"))
}

fn refuse(bytes: &[u8], version: Version, reason: ReasonCode, rule: &str) {
    match decode_connect(&frame(bytes)) {
        Err(ConnectError::Malformed { version: found, violation }) => {
            assert_eq!(found, Some(version), "{violation}");
            check(violation, reason, rule);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn mqtt_3_1_every_field_is_read() {
    let will_properties = |version| match version {
        Version::V311 => vec![],
        Version::V5 => properties(&[&[0x18, 0, 0, 0, 5], &[0x01, 1], &[0x02, 0, 0, 0, 6]]),
    };
    for version in BOTH {
        let payload =
            [will_properties(version), text("w/t"), binary(b"\xff\0"), text("user"), binary(b"\0pw")];
        let parts: Vec<_> = payload.iter().map(|part| &part[..]).collect();
        let bytes = with_flags(0b1111_0110, &parts, version);
        let connect = accept(&bytes);
        assert_eq!((connect.version, connect.clean_start, connect.keep_alive_s), (version, true, 60));
        assert_eq!((connect.client_id, connect.username), ("id", Some("user")));
        assert_eq!(connect.password, Some(&b"\0pw"[..]));
        let will = connect.will.unwrap();
        assert_eq!((will.topic, will.payload), ("w/t", &b"\xff\0"[..]));
        assert_eq!((will.qos, will.retain), (QoS::ExactlyOnce, true));
        let is_v5 = version == Version::V5;
        assert_eq!((will.delay_s, will.payload_is_utf8), (if is_v5 { 5 } else { 0 }, is_v5));
        assert_eq!(will.message_expiry_s, is_v5.then_some(6));
    }
}

#[test]
fn mqtt5_3_1_2_11_defaults() {
    for version in BOTH {
        let bytes = with_flags(0b10, &[], version);
        let connect = accept(&bytes);
        assert_eq!(connect.receive_maximum, 65_535);
        assert_eq!((connect.packet_bytes_max, connect.topic_alias_maximum), (None, 0));
        assert_eq!(connect.session_expiry_s, 0);
        assert!(connect.request_problem_information);
        assert_eq!(connect.authentication_method, None);
        assert!(connect.will.is_none() && connect.username.is_none() && connect.password.is_none());
    }
}

#[test]
fn mqtt5_3_1_2_4_session_expiry_says_what_clean_session_did() {
    assert_eq!(accept(&with_flags(0b10, &[], Version::V311)).session_expiry_s, 0);
    assert_eq!(accept(&with_flags(0b00, &[], Version::V311)).session_expiry_s, u32::MAX);
    let bytes = with_flags(0b00, &[], Version::V5);
    assert_eq!((accept(&bytes).session_expiry_s, accept(&bytes).clean_start), (0, false));
}

#[test]
fn mqtt5_3_1_2_11_properties_are_read() {
    let bytes = with_properties(&[
        &[0x11, 0xff, 0xff, 0xff, 0xff],
        &[0x21, 0, 20],
        &[0x27, 0, 1, 0, 0],
        &[0x22, 0, 10],
        &[0x17, 0],
        &[0x19, 1],
        &[0x15, 0, 1, b'm'],
        &[0x16, 0, 1, 0xff],
        &[0x26, 0, 1, b'k', 0, 1, b'v'],
        &[0x26, 0, 1, b'k', 0, 1, b'v'],
    ]);
    let connect = accept(&bytes);
    assert_eq!((connect.session_expiry_s, connect.receive_maximum), (u32::MAX, 20));
    assert_eq!((connect.packet_bytes_max, connect.topic_alias_maximum), (Some(65_536), 10));
    assert!(!connect.request_problem_information);
    assert_eq!(connect.authentication_method, Some("m"));
}

#[test]
fn mqtt_3_1_0_1_first_packet_is_connect() {
    for first_byte in (0..=255).filter(|byte| byte >> 4 != 1) {
        let error = decode_connect(&frame(&packet(first_byte, &[&[0; 20]]))).unwrap_err();
        assert_eq!(error, ConnectError::NotConnect);
        assert_eq!(error.answer(), None);
    }
}

#[test]
fn mqtt_3_1_1_connect_flags_of_the_fixed_header_are_zero() {
    for version in BOTH {
        let mut bytes = with_flags(0b10, &[], version);
        bytes[0] = 0x11;
        refuse(&bytes, version, ReasonCode::MalformedPacket, "5: MQTT-2.1.3-1, 3.1.1: MQTT-2.2.2-2");
    }
}

#[test]
fn mqtt_3_1_2_1_protocol_name_is_mqtt() {
    for name in ["", "mqtt", "MQTT ", "MQTTX", "HTTP"] {
        for version in BOTH {
            let bytes = packet(0x10, &[&text(name), &[level(version), 2, 0, 60, 0, 0, 0]]);
            let error = decode_connect(&frame(&bytes)).unwrap_err();
            assert_eq!(error.answer(), None);
            match error {
                ConnectError::Malformed { version: None, violation } => {
                    check(violation, ReasonCode::UnsupportedProtocolVersion, "MQTT-3.1.2-1");
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn mqtt_3_1_2_2_protocol_level_is_supported() {
    for level in (0..=255).filter(|level| !matches!(level, 4 | 5)) {
        let error = decode_connect(&frame(&packet(0x10, &[&text("MQTT"), &[level]]))).unwrap_err();
        assert_eq!(error, ConnectError::UnsupportedVersion { level });
        let version = if (6..0x80).contains(&level) { Version::V5 } else { Version::V311 };
        assert_eq!(error.answer(), Some((version, ReasonCode::UnsupportedProtocolVersion)));
        assert!(error.to_string().contains(&level.to_string()));
    }
}

#[test]
fn mqtt_3_1_is_told_that_it_is_too_old() {
    let bytes = packet(0x10, &[&text("MQIsdp"), &[3, 2, 0, 60], &text("id")]);
    assert_eq!(decode_connect(&frame(&bytes)).unwrap_err(), ConnectError::UnsupportedVersion { level: 3 });
}

#[test]
fn mqtt_3_1_2_3_reserved_connect_flag_is_zero() {
    for version in BOTH {
        refuse(&with_flags(0b11, &[], version), version, ReasonCode::MalformedPacket, "MQTT-3.1.2-3");
    }
}

#[test]
fn mqtt5_3_1_2_11_and_mqtt311_3_1_2_13_no_will_qos_without_a_will() {
    for version in BOTH {
        for qos in [1, 2] {
            let bytes = with_flags(qos << 3 | 2, &[], version);
            let rule = "5: MQTT-3.1.2-11, 3.1.1: MQTT-3.1.2-13";
            refuse(&bytes, version, ReasonCode::MalformedPacket, rule);
        }
    }
}

#[test]
fn mqtt5_3_1_2_12_and_mqtt311_3_1_2_14_will_qos_is_not_3() {
    for version in BOTH {
        for flags in [0b1_1110, 0b1_1010] {
            let rule = "5: MQTT-3.1.2-12, 3.1.1: MQTT-3.1.2-14";
            refuse(&with_flags(flags, &[], version), version, ReasonCode::MalformedPacket, rule);
        }
    }
}

#[test]
fn mqtt5_3_1_2_13_and_mqtt311_3_1_2_15_no_will_retain_without_a_will() {
    for version in BOTH {
        let rule = "5: MQTT-3.1.2-13, 3.1.1: MQTT-3.1.2-15";
        refuse(&with_flags(0b10_0010, &[], version), version, ReasonCode::MalformedPacket, rule);
    }
}

#[test]
fn mqtt_3_1_2_9_will_flag_wants_topic_and_payload() {
    for version in BOTH {
        let properties = no_properties(version);
        for payload in [&[properties][..], &[properties, &text("w")], &[properties, &text("w"), &[0, 5, 1]]] {
            let bytes = with_flags(0b110, payload, version);
            refuse(&bytes, version, ReasonCode::MalformedPacket, "past the end");
        }
        let bytes = with_flags(0b110, &[properties, &text("w"), &text("")], version);
        assert_eq!(accept(&bytes).will.unwrap().payload, b"");
    }
}

#[test]
fn mqtt_3_1_3_will_topic_is_a_topic_name() {
    for version in BOTH {
        let with = |topic: &[u8]| {
            with_flags(0b110, &[no_properties(version), &binary(topic), &text("gone")], version)
        };
        refuse(&with(b"\xff"), version, ReasonCode::MalformedPacket, "MQTT-1.5.4-1");
        refuse(&with(b"a\0"), version, ReasonCode::MalformedPacket, "MQTT-1.5.4-2");
        refuse(&with(b"a/#"), version, ReasonCode::TopicNameInvalid, "MQTT-3.3.2-2");
        refuse(&with(b""), version, ReasonCode::TopicNameInvalid, "MQTT-4.7.3-1");
    }
}

#[test]
fn mqtt311_3_1_2_22_no_password_without_a_user_name() {
    let bytes = with_flags(0b0100_0010, &[&binary(b"pw")], Version::V311);
    refuse(&bytes, Version::V311, ReasonCode::MalformedPacket, "MQTT-3.1.2-22");
}

#[test]
fn mqtt5_3_1_2_9_password_without_a_user_name_is_allowed() {
    let bytes = with_flags(0b0100_0010, &[&binary(b"pw")], Version::V5);
    let connect = accept(&bytes);
    assert_eq!((connect.username, connect.password), (None, Some(&b"pw"[..])));
}

#[test]
fn mqtt_3_1_2_user_name_and_password_are_there_when_flagged() {
    for version in BOTH {
        let cut = with_flags(0b1000_0010, &[], version);
        refuse(&cut, version, ReasonCode::MalformedPacket, "past the end");
        let cut = with_flags(0b1100_0010, &[&text("user")], version);
        refuse(&cut, version, ReasonCode::MalformedPacket, "past the end");
        let bytes = with_flags(0b1100_0010, &[&text(""), &text("")], version);
        assert_eq!((accept(&bytes).username, accept(&bytes).password), (Some(""), Some(&b""[..])));
    }
}

#[test]
fn mqtt_3_1_2_user_name_and_password_are_not_there_when_not_flagged() {
    for version in BOTH {
        let bytes = with_flags(0b10, &[&text("user")], version);
        refuse(&bytes, version, ReasonCode::MalformedPacket, "last field");
        let bytes = with_flags(0b1000_0010, &[&text("user"), &text("pw")], version);
        refuse(&bytes, version, ReasonCode::MalformedPacket, "last field");
    }
}

#[test]
fn mqtt5_3_1_3_12_and_mqtt311_3_1_3_11_user_name_is_utf8() {
    for version in BOTH {
        let bytes = with_flags(0b1000_0010, &[&binary(b"\xff")], version);
        refuse(&bytes, version, ReasonCode::MalformedPacket, "MQTT-1.5.4-1");
        let bytes = with_flags(0b1000_0010, &[&binary(b"a\0")], version);
        refuse(&bytes, version, ReasonCode::MalformedPacket, "MQTT-1.5.4-2");
    }
}

#[test]
fn mqtt_3_1_3_3_client_id_is_present() {
    for version in BOTH {
        let bytes = packet(0x10, &[&text("MQTT"), &[level(version), 2, 0, 60], no_properties(version)]);
        refuse(&bytes, version, ReasonCode::MalformedPacket, "past the end");
    }
}

#[test]
fn mqtt_3_1_3_4_client_id_is_utf8_and_may_be_empty() {
    for version in BOTH {
        let header = [&text("MQTT")[..], &[level(version), 0, 0, 60], no_properties(version)].concat();
        let with = |client_id: &[u8]| packet(0x10, &[&header, &binary(client_id)]);
        refuse(&with(b"\xed\xa0\x80"), version, ReasonCode::MalformedPacket, "MQTT-1.5.4-1");
        refuse(&with(b"\0"), version, ReasonCode::MalformedPacket, "MQTT-1.5.4-2");
        // Empty together with an old session is the connection's to refuse (3.1.1: MQTT-3.1.3-8).
        assert_eq!(accept(&with(b"")).client_id, "");
        assert_eq!(accept(&with(&[b'x'; 65_535])).client_id.len(), 65_535);
    }
}

#[test]
fn mqtt_3_1_cut_anywhere_is_malformed() {
    for version in BOTH {
        let whole = with_flags(
            0b1100_0110,
            &[no_properties(version), &text("w"), &text("p"), &text("u"), &text("pw")],
            version,
        );
        let body = frame(&whole).body;
        for end in 0..body.len() {
            let error = decode_connect(&frame(&packet(0x10, &[&body[..end]]))).unwrap_err();
            assert!(matches!(error, ConnectError::Malformed { .. }), "{end}: {error:?}");
        }
    }
}

#[test]
fn mqtt5_1_5_5_1_connect_remaining_length_is_minimal() {
    let bytes = with_flags(0b10, &[], Version::V5);
    let padded = [&[0x10, bytes[1] | 0x80, 0][..], &bytes[2..]].concat();
    refuse(&padded, Version::V5, ReasonCode::MalformedPacket, "MQTT-1.5.5-1");
    let bytes = with_flags(0b10, &[], Version::V311);
    let padded = [&[0x10, bytes[1] | 0x80, 0][..], &bytes[2..]].concat();
    assert_eq!(accept(&padded).client_id, "id");
}

#[test]
fn mqtt5_3_1_2_11_3_receive_maximum_is_not_zero() {
    refuse(&with_properties(&[&[0x21, 0, 0]]), Version::V5, ReasonCode::ProtocolError, "3.1.2.11.3");
}

#[test]
fn mqtt5_3_1_2_11_4_maximum_packet_size_is_not_zero() {
    refuse(&with_properties(&[&[0x27, 0, 0, 0, 0]]), Version::V5, ReasonCode::ProtocolError, "3.1.2.11.4");
}

#[test]
fn mqtt5_3_1_2_11_6_and_7_requests_for_information_are_0_or_1() {
    for id in [0x17, 0x19] {
        accept(&with_properties(&[&[id, 0]]));
        accept(&with_properties(&[&[id, 1]]));
        refuse(&with_properties(&[&[id, 2]]), Version::V5, ReasonCode::ProtocolError, "3.1.2.11.6");
    }
}

#[test]
fn mqtt5_3_1_2_11_10_authentication_data_wants_a_method() {
    let bytes = with_properties(&[&[0x16, 0, 1, 9]]);
    refuse(&bytes, Version::V5, ReasonCode::ProtocolError, "3.1.2.11.10");
}

#[test]
fn mqtt5_2_2_2_2_connect_properties_come_once_and_are_its_own() {
    let once: [&[u8]; 8] = [
        &[0x11, 0, 0, 0, 1],
        &[0x21, 0, 1],
        &[0x27, 0, 0, 1, 0],
        &[0x22, 0, 1],
        &[0x19, 0],
        &[0x17, 0],
        &[0x15, 0, 1, b'm'],
        &[0x16, 0, 0],
    ];
    for property in once {
        let twice = with_properties(&[property, property]);
        refuse(&twice, Version::V5, ReasonCode::ProtocolError, "twice");
    }
    let allowed = [0x11, 0x21, 0x27, 0x22, 0x19, 0x17, 0x26, 0x15, 0x16];
    for id in (0..=255).filter(|id| !allowed.contains(id)) {
        let bytes = with_properties(&[&[id, 0, 0, 0, 0]]);
        refuse(&bytes, Version::V5, ReasonCode::MalformedPacket, "2.2.2.2");
    }
}

#[test]
fn mqtt5_3_1_3_2_will_properties_come_once_and_are_its_own() {
    let once: [&[u8]; 6] = [
        &[0x18, 0, 0, 0, 1],
        &[0x01, 1],
        &[0x02, 0, 0, 0, 1],
        &[0x03, 0, 0],
        &[0x08, 0, 1, b'r'],
        &[0x09, 0, 0],
    ];
    for property in once {
        accept(&with_will_properties(&[property, &[0x26, 0, 0, 0, 0], &[0x26, 0, 0, 0, 0]]));
        let twice = with_will_properties(&[property, property]);
        refuse(&twice, Version::V5, ReasonCode::ProtocolError, "twice");
    }
    let allowed = [0x18, 0x01, 0x02, 0x03, 0x08, 0x09, 0x26];
    for id in (0..=255).filter(|id| !allowed.contains(id)) {
        let bytes = with_will_properties(&[&[id, 0, 0, 0, 0]]);
        refuse(&bytes, Version::V5, ReasonCode::MalformedPacket, "2.2.2.2");
    }
}

#[test]
fn mqtt5_2_2_2_1_connect_property_length_stays_within_the_packet() {
    let bytes = packet(0x10, &[&text("MQTT"), &[5, 2, 0, 60, 0x7f], &text("id")]);
    refuse(&bytes, Version::V5, ReasonCode::MalformedPacket, "2.2.2.1");
}

#[test]
fn mqtt_3_1_4_1_what_is_malformed_is_answered_in_mqtt5_only() {
    let error = decode_connect(&frame(&with_flags(0b11, &[], Version::V5))).unwrap_err();
    assert_eq!(error.answer(), Some((Version::V5, ReasonCode::MalformedPacket)));
    let error = decode_connect(&frame(&with_flags(0b11, &[], Version::V311))).unwrap_err();
    assert_eq!(error.answer(), None);
}
