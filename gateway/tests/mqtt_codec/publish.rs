//! PUBLISH (MQTT 5 3.3, MQTT 3.1.1 3.3) and the data types it is made of (MQTT 5 1.5).

use penstock_gateway::mqtt::{Packet, Publish, QoS, ReasonCode, Version};

use crate::support::{BOTH, accept, binary, no_properties, packet, properties, refuse, text};

fn publish(bytes: &[u8], version: Version) -> Publish<'_> {
    match accept(bytes, version) {
        Packet::Publish(publish) => publish,
        other => panic!("{other:?}"),
    }
}

/// QoS 0 to `topic` in the version, payload `p`.
fn to_topic(topic: &[u8], version: Version) -> Vec<u8> {
    packet(0x30, &[&binary(topic), no_properties(version), b"p"])
}

/// QoS 0 in MQTT 5 to topic `a` with these properties and payload `p`.
fn with_properties(parts: &[&[u8]]) -> Vec<u8> {
    packet(0x30, &[&text("a"), &properties(parts), b"p"])
}

#[test]
fn mqtt_3_3_every_field_is_read_in_place() {
    for version in BOTH {
        let bytes =
            packet(0x3d, &[&text("devices/x/readings"), &[0x12, 0x34], no_properties(version), b"payload"]);
        let publish = publish(&bytes, version);
        assert!(publish.dup && publish.retain && publish.topic_alias.is_none());
        assert_eq!(publish.qos, QoS::ExactlyOnce);
        assert_eq!(publish.packet_id.unwrap().get(), 0x1234);
        assert_eq!(publish.topic, "devices/x/readings");
        assert_eq!(publish.payload, b"payload");
        assert!(bytes.as_ptr_range().contains(&publish.payload.as_ptr()));
        assert!(bytes.as_ptr_range().contains(&publish.topic.as_ptr()));
    }
}

#[test]
fn mqtt_3_3_3_payload_may_be_empty() {
    for version in BOTH {
        let bytes = packet(0x30, &[&text("a"), no_properties(version)]);
        assert_eq!(publish(&bytes, version).payload, b"");
    }
}

#[test]
fn mqtt_3_3_1_2_dup_is_zero_with_qos_0() {
    for version in BOTH {
        let bytes = packet(0x38, &[&text("a"), no_properties(version)]);
        refuse(&bytes, version, ReasonCode::MalformedPacket, "MQTT-3.3.1-2");
    }
}

#[test]
fn mqtt_3_3_1_4_qos_3_is_malformed() {
    for version in BOTH {
        for first_byte in [0x36, 0x37, 0x3e, 0x3f] {
            let bytes = packet(first_byte, &[&text("a"), &[0, 1], no_properties(version)]);
            refuse(&bytes, version, ReasonCode::MalformedPacket, "MQTT-3.3.1-4");
        }
    }
}

#[test]
fn mqtt5_2_2_1_3_and_mqtt311_2_3_1_1_packet_id_is_not_zero() {
    for version in BOTH {
        for first_byte in [0x32, 0x34] {
            let bytes = packet(first_byte, &[&text("a"), &[0, 0], no_properties(version)]);
            refuse(&bytes, version, ReasonCode::ProtocolError, "5: MQTT-2.2.1-3, 3.1.1: MQTT-2.3.1-1");
        }
    }
}

#[test]
fn mqtt5_2_2_1_2_and_mqtt311_2_3_1_5_qos_0_has_no_packet_id() {
    for version in BOTH {
        let bytes = packet(0x30, &[&text("a"), no_properties(version), &[0, 1]]);
        let publish = publish(&bytes, version);
        assert_eq!((publish.packet_id, publish.payload), (None, &[0, 1][..]));
    }
}

#[test]
fn mqtt5_1_5_4_1_and_mqtt311_1_5_3_1_utf8_is_well_formed() {
    let ill_formed: [&[u8]; 9] = [
        b"\xff",
        b"a\x80",
        b"\xc3",
        b"\xc0\x80",
        b"\xe0\x80\x80",
        b"\xed\xa0\x80",
        b"\xed\xbf\xbf",
        b"\xf4\x90\x80\x80",
        b"\xed\xa1\x8c\xed\xbe\xb4",
    ];
    for version in BOTH {
        for topic in ill_formed {
            let rule = "5: MQTT-1.5.4-1, 3.1.1: MQTT-1.5.3-1";
            refuse(&to_topic(topic, version), version, ReasonCode::MalformedPacket, rule);
        }
        // U+D7FF and U+E000 are the neighbours of the surrogates, U+10FFFF is the last.
        for topic in ["\u{d7ff}", "\u{e000}", "\u{10ffff}", "A\u{2a6d4}", "ä/ö"] {
            assert_eq!(publish(&to_topic(topic.as_bytes(), version), version).topic, topic);
        }
    }
}

#[test]
fn mqtt5_1_5_4_2_and_mqtt311_1_5_3_2_utf8_no_null() {
    for version in BOTH {
        for topic in [&b"\0"[..], b"a\0b", b"#\0"] {
            let rule = "5: MQTT-1.5.4-2, 3.1.1: MQTT-1.5.3-2";
            refuse(&to_topic(topic, version), version, ReasonCode::MalformedPacket, rule);
        }
    }
}

#[test]
fn mqtt5_1_5_4_3_and_mqtt311_1_5_3_3_byte_order_mark_stays() {
    for version in BOTH {
        assert_eq!(publish(&to_topic(b"\xef\xbb\xbfa", version), version).topic, "\u{feff}a");
    }
}

#[test]
fn mqtt_3_3_2_1_topic_name_comes_first_and_is_whole() {
    for version in BOTH {
        for body in [&b""[..], b"\0", b"\0\x05", b"\0\x05abcd", b"\xff\xffabcd"] {
            refuse(&packet(0x30, &[body]), version, ReasonCode::MalformedPacket, "past the end");
        }
        // A packet identifier that is cut off.
        for body in [&b"\0\x01a"[..], b"\0\x01a\x01"] {
            refuse(&packet(0x32, &[body]), version, ReasonCode::MalformedPacket, "past the end");
        }
    }
}

#[test]
fn mqtt_3_3_2_2_topic_name_no_wildcards() {
    for version in BOTH {
        for topic in ["#", "+", "a/#", "a/+/b", "a#", "+a", &format!("{}+", "x".repeat(100))] {
            let bytes = to_topic(topic.as_bytes(), version);
            refuse(&bytes, version, ReasonCode::TopicNameInvalid, "MQTT-3.3.2-2");
        }
    }
}

#[test]
fn mqtt311_4_7_3_1_topic_name_is_not_empty() {
    refuse(&to_topic(b"", Version::V311), Version::V311, ReasonCode::TopicNameInvalid, "3.1.1: MQTT-4.7.3-1");
}

#[test]
fn mqtt5_3_3_2_1_topic_name_is_empty_only_with_an_alias() {
    refuse(&to_topic(b"", Version::V5), Version::V5, ReasonCode::ProtocolError, "3.3.2.1");
    let bytes = packet(0x30, &[&text(""), &properties(&[&[0x23, 0, 7]]), b"p"]);
    let publish = publish(&bytes, Version::V5);
    assert_eq!((publish.topic, publish.topic_alias.unwrap().get()), ("", 7));
}

#[test]
fn mqtt_4_7_3_3_topic_name_of_65535_bytes() {
    let longest = "x".repeat(65_535);
    for version in BOTH {
        assert_eq!(publish(&to_topic(longest.as_bytes(), version), version).topic.len(), 65_535);
    }
}

#[test]
fn mqtt_4_7_3_topic_names_that_look_odd_are_valid() {
    for version in BOTH {
        for topic in ["/", "//", "/finance", "a b", "$SYS/x", "Accounts payable", "é"] {
            assert_eq!(publish(&to_topic(topic.as_bytes(), version), version).topic, topic);
        }
    }
}

#[test]
fn mqtt5_3_3_2_3_properties_are_read() {
    let bytes = with_properties(&[
        &[0x01, 1],
        &[0x02, 0, 0, 1, 0],
        &[0x23, 0xff, 0xff],
        &[0x08, 0, 1, b'r'],
        &[0x09, 0, 2, 0, 0xff],
        &[0x26, 0, 1, b'k', 0, 0],
        &[0x03, 0, 0],
    ]);
    let publish = publish(&bytes, Version::V5);
    assert!(publish.payload_is_utf8);
    assert_eq!(publish.message_expiry_s, Some(256));
    assert_eq!(publish.topic_alias.unwrap().get(), 0xffff);
    assert_eq!(publish.payload, b"p");
}

#[test]
fn mqtt5_3_3_2_3_2_payload_format_is_told_and_not_checked() {
    let bytes = packet(0x30, &[&text("a"), &properties(&[&[0x01, 1]]), b"\xff"]);
    assert!(publish(&bytes, Version::V5).payload_is_utf8);
    assert!(!publish(&with_properties(&[&[0x01, 0]]), Version::V5).payload_is_utf8);
    refuse(&with_properties(&[&[0x01, 2]]), Version::V5, ReasonCode::ProtocolError, "0 or 1");
}

#[test]
fn mqtt5_2_2_2_2_user_properties_may_be_many_and_the_same() {
    let user = [&[0x26][..], &text("name"), &text("value")].concat();
    let bytes = with_properties(&vec![&user[..]; 5_000]);
    assert_eq!(publish(&bytes, Version::V5).payload, b"p");
}

#[test]
fn mqtt5_1_5_7_1_user_properties_are_two_well_formed_strings() {
    for (key, value) in [(&b"\xff"[..], &b"v"[..]), (b"k", b"\xff"), (b"k\0", b"v"), (b"k", b"\0")] {
        let bytes = with_properties(&[&[0x26], &binary(key), &binary(value)]);
        refuse(&bytes, Version::V5, ReasonCode::MalformedPacket, "MQTT-1.5.4-");
    }
    refuse(
        &with_properties(&[&[0x26], &text("k")]),
        Version::V5,
        ReasonCode::MalformedPacket,
        "past the end",
    );
}

#[test]
fn mqtt5_2_2_2_2_property_twice_is_a_protocol_error() {
    let once: [&[u8]; 6] =
        [&[0x01, 0], &[0x02, 0, 0, 0, 1], &[0x23, 0, 1], &[0x08, 0, 1, b'r'], &[0x09, 0, 0], &[0x03, 0, 0]];
    for property in once {
        publish(&with_properties(&[property]), Version::V5);
        let twice = with_properties(&[property, property]);
        refuse(&twice, Version::V5, ReasonCode::ProtocolError, "twice");
    }
}

#[test]
fn mqtt5_2_2_2_2_property_of_another_packet_is_malformed() {
    let allowed = [0x01, 0x02, 0x03, 0x08, 0x09, 0x0b, 0x23, 0x26];
    for id in (0..=255).filter(|id| !allowed.contains(id)) {
        let bytes = with_properties(&[&[id, 0, 0, 0, 0]]);
        refuse(&bytes, Version::V5, ReasonCode::MalformedPacket, "2.2.2.2");
    }
}

#[test]
fn mqtt5_2_2_2_1_property_length_stays_within_the_packet() {
    for body in [&b"\0\x01a\x01"[..], b"\0\x01a\x03\x01\x00", b"\0\x01a\xff\xff\xff\x7f"] {
        refuse(&packet(0x30, &[body]), Version::V5, ReasonCode::MalformedPacket, "2.2.2.1");
    }
    // Missing, cut off, of 5 bytes, longer than needed.
    refuse(&packet(0x30, &[b"\0\x01a"]), Version::V5, ReasonCode::MalformedPacket, "past the end");
    refuse(&packet(0x30, &[b"\0\x01a\x80"]), Version::V5, ReasonCode::MalformedPacket, "past the end");
    refuse(
        &packet(0x30, &[b"\0\x01a\x80\x80\x80\x80\x01"]),
        Version::V5,
        ReasonCode::MalformedPacket,
        "1.5.5",
    );
    refuse(&packet(0x30, &[b"\0\x01a\x80\x00"]), Version::V5, ReasonCode::MalformedPacket, "MQTT-1.5.5-1");
}

#[test]
fn mqtt5_2_2_2_1_property_stays_within_the_property_length() {
    // The properties end inside the expiry; the payload would have enough bytes for it.
    let bytes = packet(0x30, &[&text("a"), &[3, 0x02, 0, 0], b"payload"]);
    refuse(&bytes, Version::V5, ReasonCode::MalformedPacket, "past the end");
    let bytes = packet(0x30, &[&text("a"), &[3, 0x03, 0, 5], b"payload"]);
    refuse(&bytes, Version::V5, ReasonCode::MalformedPacket, "past the end");
}

#[test]
fn mqtt5_3_3_2_8_topic_alias_is_not_zero() {
    refuse(&with_properties(&[&[0x23, 0, 0]]), Version::V5, ReasonCode::TopicAliasInvalid, "MQTT-3.3.2-8");
}

#[test]
fn mqtt5_3_3_4_6_no_subscription_identifier_from_a_client() {
    refuse(&with_properties(&[&[0x0b, 1]]), Version::V5, ReasonCode::ProtocolError, "MQTT-3.3.4-6");
}

#[test]
fn mqtt5_3_3_2_13_response_topic_is_utf8() {
    let bytes = with_properties(&[&[0x08, 0, 1, 0xff]]);
    refuse(&bytes, Version::V5, ReasonCode::MalformedPacket, "MQTT-1.5.4-1");
}

#[test]
fn mqtt5_3_3_2_14_response_topic_no_wildcards() {
    for topic in ["#", "a/+"] {
        let bytes = with_properties(&[&[0x08], &text(topic)]);
        refuse(&bytes, Version::V5, ReasonCode::TopicNameInvalid, "MQTT-3.3.2-14");
    }
    refuse(&with_properties(&[&[0x08, 0, 0]]), Version::V5, ReasonCode::TopicNameInvalid, "MQTT-4.7.3-1");
}

#[test]
fn mqtt5_3_3_2_19_content_type_is_utf8() {
    let bytes = with_properties(&[&[0x03, 0, 1, 0xff]]);
    refuse(&bytes, Version::V5, ReasonCode::MalformedPacket, "MQTT-1.5.4-1");
}
