//! G7: a device publishes as itself, and nowhere else; nobody subscribes.

use penstock_proto::topics::{READINGS, READINGS_DLQ, readings_topic};
use penstock_proto::{DeviceId, topics};
use penstock_system_tests::{Version, packet, reading};
use prost::Message;

use crate::support::{BAD, Scene, VERSIONS};

const OTHER: DeviceId = DeviceId::from_bytes([0xee; 16]);

fn foreign_topics() -> Vec<String> {
    vec![
        readings_topic(OTHER),
        topics::batch_topic(OTHER),
        format!("devices/{BAD}/status"),
        format!("devices/{BAD}/readings/x"),
        readings_topic(BAD).to_uppercase(),
        "$SYS/broker".to_owned(),
        "é/readings".to_owned(),
    ]
}

#[test]
fn g7_mqtt5_another_devices_topic_is_refused_by_puback_and_the_connection_goes_on() {
    let mut scene = Scene::new();
    let mut device = scene.device(Version::V5);
    let payload = reading(1).encode_to_vec();
    for (packet_id, topic) in (1..).zip(foreign_topics()) {
        assert_eq!(device.publish_acked(&topic, packet_id, &payload), 0x87, "{topic}");
        scene.bystanders.publish();
        device.publish(&topic, 2, packet_id, &payload);
        assert_eq!(device.packet(), [0x50, 3, 0, u8::try_from(packet_id).unwrap(), 0x87], "PUBREC, {topic}");
    }
    assert_eq!(device.publish_acked(&readings_topic(BAD), 100, &payload), 0, "its own topic");
    let refusals = scene.gateway.metric("penstock_gateway_refusals_total", "reason=\"not-authorized\"");
    assert_eq!(refusals, 14.0, "each is counted");
    let records = scene.chain.records(READINGS);
    assert_eq!(records.iter().filter(|record| record.key.as_deref() == Some(OTHER.as_bytes())).count(), 0);
    assert_eq!(records.len(), scene.bystanders.published() + 1);
    assert_eq!(scene.chain.records(READINGS_DLQ), []);
}

#[test]
fn g7_where_no_ack_can_say_it_the_connection_is_closed() {
    let mut scene = Scene::new();
    let payload = reading(1).encode_to_vec();
    for qos in [1, 2] {
        let publish = packet::publish(Version::V311, &readings_topic(OTHER), qos, 1, &payload);
        scene.breaks(Version::V311, "foreign topic", &publish, "not-authorized", 0x87);
    }
    for version in VERSIONS {
        let publish = packet::publish(version, &readings_topic(OTHER), 0, 0, &payload);
        scene.breaks(version, "foreign topic with QoS 0", &publish, "not-authorized", 0x87);
    }
    assert_eq!(scene.chain.records(READINGS).len(), scene.bystanders.published());
}

#[test]
fn subscriptions_are_refused_one_by_one_and_the_device_publishes_on() {
    let mut scene = Scene::new();
    for (version, refused) in [(Version::V311, 0x80), (Version::V5, 0x87)] {
        let mut device = scene.device(version);
        for (packet_id, filter) in
            (1..).zip(["#", &readings_topic(OTHER), &format!("devices/{BAD}/commands/#")])
        {
            device.send(&packet::subscribe(version, packet_id, filter));
            let suback = device.packet();
            assert_eq!((suback[0], &suback[2..4]), (0x90, &packet_id.to_be_bytes()[..]), "SUBACK");
            assert_eq!(suback.last(), Some(&refused), "{filter}, {version:?}");
            scene.bystanders.publish();
        }
        assert_eq!(device.publish_acked(&readings_topic(BAD), 9, &reading(1).encode_to_vec()), 0);
    }
}

#[test]
fn mqtt5_3_8_2_a_malformed_subscription_ends_the_connection() {
    let mut scene = Scene::new();
    for version in VERSIONS {
        let without_filter = match version {
            Version::V311 => packet::packet(0x82, &[0, 1]),
            Version::V5 => packet::packet(0x82, &[0, 1, 0]),
        };
        scene.breaks(version, "no filter", &without_filter, "protocol-error", 0x82);
    }
}
