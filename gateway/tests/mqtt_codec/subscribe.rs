//! SUBSCRIBE (MQTT 5 3.8), UNSUBSCRIBE (3.10), topic filters (4.7), shared subscriptions (4.8.2).

use penstock_gateway::mqtt::{
    Packet, QoS, ReasonCode, RetainHandling, Subscribe, SubscriptionOptions, Unsubscribe, Version,
    shared_filter,
};

use crate::support::{BOTH, accept, binary, no_properties, packet, properties, refuse, text};

fn subscribe_to(filter: &[u8], options: u8, version: Version) -> Vec<u8> {
    packet(0x82, &[&[0, 1], no_properties(version), &binary(filter), &[options]])
}

fn unsubscribe_from(filter: &[u8], version: Version) -> Vec<u8> {
    packet(0xa2, &[&[0, 1], no_properties(version), &binary(filter)])
}

fn subscribe(bytes: &[u8], version: Version) -> Subscribe<'_> {
    match accept(bytes, version) {
        Packet::Subscribe(subscribe) => subscribe,
        other => panic!("{other:?}"),
    }
}

fn unsubscribe(bytes: &[u8], version: Version) -> Unsubscribe<'_> {
    match accept(bytes, version) {
        Packet::Unsubscribe(unsubscribe) => unsubscribe,
        other => panic!("{other:?}"),
    }
}

fn filter_is_valid(filter: &str, version: Version) {
    let bytes = subscribe_to(filter.as_bytes(), 1, version);
    let filters: Vec<_> = subscribe(&bytes, version).filters().map(|(filter, _)| filter).collect();
    assert_eq!(filters, [filter]);
    let bytes = unsubscribe_from(filter.as_bytes(), version);
    assert_eq!(unsubscribe(&bytes, version).filters().collect::<Vec<_>>(), [filter]);
}

fn filter_is_refused(filter: &[u8], version: Version, reason: ReasonCode, rule: &str) {
    refuse(&subscribe_to(filter, 1, version), version, reason, rule);
    refuse(&unsubscribe_from(filter, version), version, reason, rule);
}

#[test]
fn mqtt_3_8_3_filters_come_in_order_with_their_options() {
    for version in BOTH {
        let body = [&text("a/#")[..], &[0], &text("+/b"), &[1], &text("c"), &[2]].concat();
        let bytes = packet(0x82, &[&[0x12, 0x34], no_properties(version), &body]);
        let subscribe = subscribe(&bytes, version);
        assert_eq!((subscribe.packet_id.get(), subscribe.filters_len), (0x1234, 3));
        let filters: Vec<_> = subscribe.filters().map(|(filter, options)| (filter, options.qos)).collect();
        let expected = [("a/#", QoS::AtMostOnce), ("+/b", QoS::AtLeastOnce), ("c", QoS::ExactlyOnce)];
        assert_eq!(filters, expected);
        // Each call starts anew.
        assert_eq!(subscribe.filters().count(), 3);
    }
}

#[test]
fn mqtt_3_10_3_filters_come_in_order() {
    for version in BOTH {
        let body = [text("a/#"), text("b")].concat();
        let bytes = packet(0xa2, &[&[0, 7], no_properties(version), &body]);
        let unsubscribe = unsubscribe(&bytes, version);
        assert_eq!((unsubscribe.packet_id.get(), unsubscribe.filters_len), (7, 2));
        assert_eq!(unsubscribe.filters().collect::<Vec<_>>(), ["a/#", "b"]);
    }
}

#[test]
fn mqtt5_3_8_3_1_subscription_options() {
    let bytes = subscribe_to(b"a", 0b10_1101, Version::V5);
    let options = subscribe(&bytes, Version::V5).filters().next().unwrap().1;
    let expected = SubscriptionOptions {
        qos: QoS::AtLeastOnce,
        no_local: true,
        retain_as_published: true,
        retain_handling: RetainHandling::Never,
    };
    assert_eq!(options, expected);
    let bytes = subscribe_to(b"a", 0b1_0000, Version::V5);
    let options = subscribe(&bytes, Version::V5).filters().next().unwrap().1;
    assert_eq!(options.retain_handling, RetainHandling::AtNewSubscription);
    refuse(&subscribe_to(b"a", 0b11_0000, Version::V5), Version::V5, ReasonCode::ProtocolError, "3.8.3.1");
    refuse(&subscribe_to(b"a", 0b11, Version::V5), Version::V5, ReasonCode::ProtocolError, "3.8.3.1");
}

#[test]
fn mqtt5_3_8_3_5_reserved_bits_are_zero() {
    for options in [0b0100_0000, 0b1000_0000, 0b1100_0001] {
        let bytes = subscribe_to(b"a", options, Version::V5);
        refuse(&bytes, Version::V5, ReasonCode::MalformedPacket, "MQTT-3.8.3-5");
    }
}

#[test]
fn mqtt311_3_8_3_4_reserved_bits_are_zero_and_qos_is_not_3() {
    for options in 3..=255 {
        let bytes = subscribe_to(b"a", options, Version::V311);
        refuse(&bytes, Version::V311, ReasonCode::MalformedPacket, "MQTT-3-8.3-4");
    }
}

#[test]
fn mqtt5_3_8_3_2_and_mqtt311_3_8_3_3_at_least_one_filter() {
    for version in BOTH {
        let rule = "5: MQTT-3.8.3-2, -3.10.3-2, 3.1.1: MQTT-3.8.3-3, -3.10.3-2";
        for first_byte in [0x82, 0xa2] {
            let bytes = packet(first_byte, &[&[0, 1], no_properties(version)]);
            refuse(&bytes, version, ReasonCode::ProtocolError, rule);
        }
    }
}

#[test]
fn mqtt_2_2_1_3_packet_id_is_not_zero() {
    for version in BOTH {
        for (first_byte, end) in [(0x82, &[0, 1, b'a', 0][..]), (0xa2, &[0, 1, b'a'])] {
            let bytes = packet(first_byte, &[&[0, 0], no_properties(version), end]);
            refuse(&bytes, version, ReasonCode::ProtocolError, "MQTT-2.2.1-3");
        }
    }
}

#[test]
fn mqtt_3_8_3_a_filter_without_options_is_malformed() {
    for version in BOTH {
        let cut = packet(0x82, &[&[0, 1], no_properties(version), &text("a")]);
        refuse(&cut, version, ReasonCode::MalformedPacket, "past the end");
        let rest = packet(0x82, &[&[0, 1], no_properties(version), &text("a"), &[1, 0]]);
        refuse(&rest, version, ReasonCode::MalformedPacket, "past the end");
        let rest = packet(0xa2, &[&[0, 1], no_properties(version), &text("a"), &[0]]);
        refuse(&rest, version, ReasonCode::MalformedPacket, "past the end");
    }
}

#[test]
fn mqtt_3_8_3_1_filters_are_utf8_without_null() {
    for version in BOTH {
        filter_is_refused(b"\xff", version, ReasonCode::MalformedPacket, "MQTT-1.5.4-1");
        filter_is_refused(b"a/\xed\xa0\x80", version, ReasonCode::MalformedPacket, "MQTT-1.5.4-1");
        filter_is_refused(b"a\0", version, ReasonCode::MalformedPacket, "MQTT-1.5.4-2");
    }
}

#[test]
fn mqtt_4_7_3_1_filter_is_not_empty() {
    for version in BOTH {
        filter_is_refused(b"", version, ReasonCode::TopicFilterInvalid, "MQTT-4.7.3-1");
    }
}

#[test]
fn mqtt5_4_7_1_1_and_mqtt311_4_7_1_2_hash_is_the_last_level_by_itself() {
    for version in BOTH {
        for filter in ["#", "sport/#", "/#", "+/#", "sport/tennis/player1/#"] {
            filter_is_valid(filter, version);
        }
        for filter in ["sport/tennis#", "sport/tennis/#/ranking", "#/", "##", "#a", "a/#b", "#/#", "+#"] {
            let rule = "5: MQTT-4.7.1-1, 3.1.1: MQTT-4.7.1-2";
            filter_is_refused(filter.as_bytes(), version, ReasonCode::TopicFilterInvalid, rule);
        }
    }
}

#[test]
fn mqtt5_4_7_1_2_and_mqtt311_4_7_1_3_plus_is_a_whole_level() {
    for version in BOTH {
        for filter in ["+", "+/tennis/#", "sport/+/player1", "/+", "+/+", "+/"] {
            filter_is_valid(filter, version);
        }
        for filter in ["sport+", "+a/b", "a/b+", "++", "a/+b/c"] {
            let rule = "5: MQTT-4.7.1-2, 3.1.1: MQTT-4.7.1-3";
            filter_is_refused(filter.as_bytes(), version, ReasonCode::TopicFilterInvalid, rule);
        }
    }
}

#[test]
fn mqtt_4_7_3_filters_that_look_odd_are_valid() {
    let longest = "x".repeat(65_535);
    for version in BOTH {
        for filter in ["/", "//", "$SYS/#", "$share", "$shared/a", "a b", "ä/+", &longest] {
            filter_is_valid(filter, version);
        }
    }
}

#[test]
fn mqtt5_4_8_2_1_share_name_is_at_least_one_character() {
    for filter in ["$share//a", "$share//"] {
        let reason = ReasonCode::TopicFilterInvalid;
        filter_is_refused(filter.as_bytes(), Version::V5, reason, "MQTT-4.8.2-1");
    }
}

#[test]
fn mqtt5_4_8_2_2_share_name_has_no_wildcards_and_a_filter_follows() {
    filter_is_valid("$share/group/a/+/#", Version::V5);
    filter_is_valid("$share/group/#", Version::V5);
    filter_is_valid("$share/group//", Version::V5);
    let reason = ReasonCode::TopicFilterInvalid;
    for filter in ["$share/", "$share/group", "$share/gr+up/a", "$share/#/a", "$share/+/a"] {
        filter_is_refused(filter.as_bytes(), Version::V5, reason, "MQTT-4.8.2-2");
    }
    filter_is_refused(b"$share/group/", Version::V5, reason, "MQTT-4.7.3-1");
    filter_is_refused(b"$share/group/a#", Version::V5, reason, "MQTT-4.7.1-1");
}

#[test]
fn mqtt311_4_7_2_share_is_a_name_like_any_other() {
    for filter in ["$share/", "$share//a", "$share/group", "$share/+/a"] {
        filter_is_valid(filter, Version::V311);
    }
}

#[test]
fn mqtt5_3_8_3_4_no_local_on_a_shared_subscription_is_a_protocol_error() {
    let bytes = subscribe_to(b"$share/group/a", 0b101, Version::V5);
    refuse(&bytes, Version::V5, ReasonCode::ProtocolError, "MQTT-3.8.3-4");
}

#[test]
fn the_filter_inside_a_shared_subscription() {
    assert_eq!(shared_filter("$share/group/a/#"), Some("a/#"));
    for filter in ["a", "$share", "$share/group", "$shares/group/a", "x/$share/group/a"] {
        assert_eq!(shared_filter(filter), None);
    }
}

#[test]
fn mqtt5_3_8_2_1_2_subscription_identifier() {
    let with = |parts: &[&[u8]]| packet(0x82, &[&[0, 1], &properties(parts), &text("a"), &[0]]);
    let bytes = with(&[&[0x0b, 0xff, 0xff, 0xff, 0x7f]]);
    assert_eq!(subscribe(&bytes, Version::V5).subscription_id, Some(268_435_455));
    refuse(&with(&[&[0x0b, 0]]), Version::V5, ReasonCode::ProtocolError, "3.8.2.1.2");
    refuse(&with(&[&[0x0b, 1, 0x0b, 2]]), Version::V5, ReasonCode::ProtocolError, "twice");
    refuse(&with(&[&[0x0b, 0x81, 0]]), Version::V5, ReasonCode::MalformedPacket, "MQTT-1.5.5-1");
    let bytes = with(&[]);
    assert_eq!(subscribe(&bytes, Version::V5).subscription_id, None);
}

#[test]
fn mqtt5_3_8_2_1_and_3_10_2_1_properties() {
    let user = [&[0x26][..], &text("k"), &text("v")].concat();
    for (first_byte, end) in [(0x82, &[0, 1, b'a', 0][..]), (0xa2, &[0, 1, b'a'])] {
        let with = |parts: &[&[u8]]| packet(first_byte, &[&[0, 1], &properties(parts), end]);
        accept(&with(&[&user, &user]), Version::V5);
        refuse(&with(&[&[0x1f, 0, 0]]), Version::V5, ReasonCode::MalformedPacket, "2.2.2.2");
        let overrun = packet(first_byte, &[&[0, 1, 0x7f], end]);
        refuse(&overrun, Version::V5, ReasonCode::MalformedPacket, "2.2.2.1");
    }
    let unsubscribe = packet(0xa2, &[&[0, 1], &properties(&[&[0x0b, 1]]), &text("a")]);
    refuse(&unsubscribe, Version::V5, ReasonCode::MalformedPacket, "2.2.2.2");
}
