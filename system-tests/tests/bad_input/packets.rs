//! Packets after CONNECT that break the standard or a limit.

use std::time::Duration;

use penstock_proto::DeviceId;
use penstock_proto::topics::{READINGS_DLQ, readings_topic};
use penstock_system_tests::{Chain, Device, Received, Version, packet, reading};
use prost::Message;

use crate::support::{BAD, Scene, VERSIONS};

const MIB: u64 = 1 << 20;

fn qos1(version: Version, topic: &[u8]) -> Vec<u8> {
    packet::publish_raw(version, 0b10, topic, Some(1), &[], b"x")
}

#[test]
fn mqtt5_1_5_4_and_4_7_topics_that_are_none() {
    let mut scene = Scene::new();
    for version in VERSIONS {
        let with_nul = qos1(version, b"devices/\0/readings");
        scene.breaks(version, "NUL", &with_nul, "malformed-packet", 0x81);
        let ill_formed = qos1(version, b"devices/\xc3\x28/readings");
        scene.breaks(version, "ill-formed UTF-8", &ill_formed, "malformed-packet", 0x81);
        for wildcard in [&b"devices/+/readings"[..], b"devices/#", b"#"] {
            scene.breaks(version, "wildcard", &qos1(version, wildcard), "topic-name-invalid", 0x90);
        }
        let long = [b"devices/", &[b'x'; 300][..]].concat();
        scene.breaks(version, "long topic", &qos1(version, &long), "topic-too-long", 0x90);
    }
    scene.breaks(Version::V5, "no topic, no alias", &qos1(Version::V5, b""), "protocol-error", 0x82);
    scene.breaks(Version::V311, "empty topic", &qos1(Version::V311, b""), "topic-name-invalid", 0x90);
}

#[test]
fn mqtt5_3_3_publishes_that_break_a_rule() {
    let mut scene = Scene::new();
    let topic = readings_topic(BAD);
    for version in VERSIONS {
        let qos3 = packet::publish_raw(version, 0b110, topic.as_bytes(), Some(1), &[], b"x");
        scene.breaks(version, "QoS 3", &qos3, "malformed-packet", 0x81);
        let id0 = packet::publish_raw(version, 0b010, topic.as_bytes(), Some(0), &[], b"x");
        scene.breaks(version, "packet identifier 0", &id0, "protocol-error", 0x82);
        let dup0 = packet::publish_raw(version, 0b1000, topic.as_bytes(), None, &[], b"x");
        scene.breaks(version, "DUP with QoS 0", &dup0, "malformed-packet", 0x81);
        scene.breaks(version, "nothing in it", &[0x32, 0], "malformed-packet", 0x81);
        scene.breaks(
            version,
            "the topic runs past its end",
            &[0x32, 4, 0, 9, b'a', b'b'],
            "malformed-packet",
            0x81,
        );
    }
    assert_eq!(scene.chain.records(READINGS_DLQ).len(), 0, "none of it is a dead letter");
}

#[test]
fn mqtt5_3_3_2_3_4_topic_aliases_that_stand_for_nothing() {
    let mut scene = Scene::new();
    let aliased = |alias: u8| packet::publish_raw(Version::V5, 0b10, b"", Some(1), &[0x23, 0, alias], b"x");
    scene.breaks(Version::V5, "above the maximum", &aliased(3), "topic-alias-invalid", 0x94);
    scene.breaks(Version::V5, "not set", &aliased(1), "protocol-error", 0x82);
    scene.breaks(Version::V5, "zero", &aliased(0), "topic-alias-invalid", 0x94);
}

#[test]
fn mqtt5_3_1_0_2_a_second_connect() {
    let mut scene = Scene::new();
    for version in VERSIONS {
        let connect = packet::connect(version, "again", 60);
        scene.breaks(version, "a second CONNECT", &connect, "protocol-error", 0x82);
    }
}

#[test]
fn packets_that_devices_do_not_send() {
    let mut scene = Scene::new();
    for version in VERSIONS {
        scene.breaks(version, "type 0", &[0x00, 0], "malformed-packet", 0x81);
        scene.breaks(version, "CONNACK", &[0x20, 2, 0, 0], "protocol-error", 0x82);
        scene.breaks(version, "PUBACK of nothing", &[0x40, 2, 0, 1], "protocol-error", 0x82);
        scene.breaks(version, "flags of PINGREQ", &[0xc1, 0], "malformed-packet", 0x81);
        scene.breaks(
            version,
            "length of 5 bytes",
            &[0x30, 0xff, 0xff, 0xff, 0xff, 0x01],
            "malformed-packet",
            0x81,
        );
    }
    scene.breaks(Version::V311, "AUTH", &[0xf0, 0], "malformed-packet", 0x81);
    scene.breaks(Version::V5, "AUTH", &[0xf0, 0], "protocol-error", 0x82);
}

#[test]
fn a_packet_of_20_mb_is_refused_as_soon_as_its_header_is_there() {
    let mut scene = Scene::new();
    for version in VERSIONS {
        scene.breaks(version, "20 MB", &[0x32, 0x80, 0x80, 0x80, 0x0a], "packet-too-large", 0x95);
    }
    let before = scene.gateway.resident_bytes();
    scene.ends("packet-too-large", 20, |scene| {
        let bytes = packet::publish(Version::V5, &readings_topic(BAD), 1, 1, &vec![0; 20 << 20]);
        for _ in 0..20 {
            let mut device = scene.device(Version::V5);
            device.send(&bytes);
            device.until_closed();
        }
    });
    let grown = scene.gateway.resident_bytes().saturating_sub(before);
    assert!(grown < 16 * MIB, "memory grew by {grown} bytes");
}

#[test]
fn many_unfinished_packets_together_have_a_limit() {
    let mut scene = Scene::on(Chain::shared().with("gateway.limits.unfinished_bytes_max", "1048576"));
    scene.ends("unfinished-bytes-exceeded", 1, |scene| {
        let mut half = packet::publish(Version::V5, &readings_topic(BAD), 1, 1, &vec![0; 800 << 10]);
        half.truncate(600 << 10);
        let mut first = scene.device(Version::V5);
        first.send(&half);
        let mut second = Device::connect(&scene.chain, DeviceId::from_bytes([0xbb; 16]), Version::V5);
        second.send(&half);
        // Which of the two is heard last is the kernel's to decide.
        let reasons = [first, second].map(|mut device| match device.receive(Duration::from_secs(2)) {
            Received::Packet(packet) => Some((packet[0], packet[2])),
            _ => None,
        });
        assert!(reasons.contains(&Some((0xe0, 0x97))), "{reasons:?}");
        assert!(reasons.contains(&None), "one of them has room: {reasons:?}");
    });
}

#[test]
fn mqtt5_3_3_4_9_more_publishes_than_the_receive_maximum() {
    let mut scene = Scene::on(Chain::shared().with("gateway.limits.inflight_max", "2"));
    for version in VERSIONS {
        scene.ends("receive-maximum-exceeded", 1, |scene| {
            let mut device = scene.device(version);
            for packet_id in 1..=3 {
                device.publish(
                    &readings_topic(BAD),
                    2,
                    packet_id,
                    &reading(u64::from(packet_id)).encode_to_vec(),
                );
                scene.bystanders.publish();
            }
            let packets = device.until_closed();
            let types: Vec<_> = packets.iter().map(|packet| packet[0]).collect();
            match version {
                Version::V311 => assert_eq!(types, [0x50, 0x50]),
                Version::V5 => {
                    assert_eq!(types, [0x50, 0x50, 0xe0]);
                    assert_eq!(packets[2][2], 0x93);
                }
            }
        });
    }
}

#[test]
fn mqtt5_4_3_3_a_packet_identifier_that_is_still_in_use() {
    let mut scene = Scene::new();
    let topic = readings_topic(BAD);
    for version in VERSIONS {
        let payload = reading(1).encode_to_vec();
        let publish = packet::publish(version, &topic, 2, 7, &payload);
        let twice = [publish.clone(), publish].concat();
        scene.ends("packet-identifier-in-use", 1, |scene| {
            let mut device = scene.device(version);
            device.send(&twice);
            let expected = (version == Version::V5).then_some(0x91);
            assert_eq!(device.disconnect_reason(), expected);
        });
    }
}
