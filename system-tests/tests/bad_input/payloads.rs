//! Payloads that are no valid readings: each is in the dead-letter topic, with its reason, before its ack.

use std::time::Duration;

use penstock_devstack::{Kafka, KafkaOptions, Stack};
use penstock_proto::topics::{READINGS, READINGS_DLQ, batch_topic, header, readings_topic};
use penstock_proto::v1::{ReadingBatch, SensorReading};
use penstock_proto::{DeviceId, Reason};
use penstock_system_tests::{
    Chain, Device, Received, Record, Version, now_ms, packet, reading, shared_stack,
};
use prost::Message;

use crate::support::{BAD, Scene, VERSIONS};

const GARBAGE: &[u8] = b"\xff\xffthis is no protobuf";
const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// What a valid payload that is refused is answered with: MQTT 5 is told, 3.1.1 has no word for it.
fn refusal(version: Version) -> u8 {
    if version == Version::V5 { 0x99 } else { 0 }
}

fn dead_letters_of(scene: &Scene, device: DeviceId) -> Vec<Record> {
    let mut records = scene.chain.records(READINGS_DLQ);
    records.retain(|record| record.key.as_deref() == Some(device.as_bytes()));
    records
}

fn readings_of(scene: &Scene, device: DeviceId) -> Vec<Record> {
    let mut records = scene.chain.records(READINGS);
    records.retain(|record| record.key.as_deref() == Some(device.as_bytes()));
    records
}

#[test]
fn a_payload_that_is_not_protobuf_is_a_dead_letter_with_every_header_before_its_ack() {
    let mut scene = Scene::new();
    for (stored, version) in (1..).zip(VERSIONS) {
        let mut device = scene.device(version);
        let before = now_ms();
        assert_eq!(device.publish_acked(&readings_topic(BAD), 1, GARBAGE), refusal(version));
        let after = now_ms();
        let letters = dead_letters_of(&scene, BAD);
        assert_eq!(letters.len(), stored, "it is there once the ack is");
        let letter = letters.iter().max_by_key(|letter| letter.offset).unwrap();
        assert_eq!(letter.payload, GARBAGE);
        assert_eq!(letter.header(header::REASON), Some("undecodable"));
        assert_eq!(letter.header(header::MQTT_TOPIC), Some(readings_topic(BAD).as_str()));
        assert_eq!(letter.header(header::CLIENT_ID), Some(BAD.to_string().as_str()));
        assert!(letter.header(header::DETAIL).is_some_and(|detail| !detail.is_empty()), "{letter:?}");
        let received_at: i64 = letter.header(header::RECEIVED_AT).unwrap().parse().unwrap();
        assert!((before..=after).contains(&received_at), "{before} <= {received_at} <= {after}");
        assert_eq!(letter.timestamp_ms, received_at);
        scene.bystanders.publish();
        assert_eq!(
            device.publish_acked(&readings_topic(BAD), 2, &reading(1).encode_to_vec()),
            0,
            "it goes on"
        );
    }
    let counted = scene.gateway.metric("penstock_bridge_dead_letters_total", "reason=\"undecodable\"");
    assert_eq!(counted, 2.0);
    let told = scene.gateway.metric("penstock_gateway_refusals_total", "reason=\"payload-format-invalid\"");
    assert_eq!(told, 2.0);
    assert_eq!(readings_of(&scene, BAD).len(), 2);
}

#[test]
fn the_ack_of_a_dead_letter_waits_for_kafka() {
    let stack = Stack {
        kafka: Kafka::start(&KafkaOptions::default()).unwrap(),
        clickhouse: shared_stack().clickhouse,
    };
    let chain = Chain::new(stack).with("bridge.delivery_timeout_ms", "60000");
    let _gateway = chain.gateway();
    for version in VERSIONS {
        let mut device = Device::connect(&chain, BAD, version);
        device.publish_acked(&readings_topic(BAD), 1, GARBAGE);
        chain.stack.kafka.pause().unwrap();
        device.publish(&readings_topic(BAD), 1, 2, GARBAGE);
        assert_eq!(device.receive(Duration::from_secs(2)), Received::Silence, "no ack without Kafka");
        chain.stack.kafka.resume().unwrap();
        let puback = device.packet();
        assert_eq!((puback[0], puback.get(4).copied().unwrap_or(0)), (0x40, refusal(version)));
    }
}

#[test]
fn mqtt5_4_3_3_with_qos_2_the_refusal_is_in_pubrec_and_ends_the_exchange() {
    let mut scene = Scene::new();
    let topic = readings_topic(BAD);
    let mut device = scene.device(Version::V5);
    device.publish(&topic, 2, 1, GARBAGE);
    assert_eq!(device.packet(), [0x50, 3, 0, 1, 0x99]);
    scene.bystanders.publish();
    device.publish(&topic, 2, 1, &reading(1).encode_to_vec());
    assert_eq!(device.packet(), [0x50, 2, 0, 1], "the packet identifier is free again");

    let mut device = scene.device(Version::V311);
    device.publish(&topic, 2, 1, GARBAGE);
    assert_eq!(device.packet(), [0x50, 2, 0, 1]);
    device.send(&packet::pubrel(1));
    assert_eq!(device.packet(), [0x70, 2, 0, 1], "PUBCOMP: 3.1.1 knows no error");
    assert_eq!(dead_letters_of(&scene, BAD).len(), 2);
    assert_eq!(readings_of(&scene, BAD).len(), 1);
}

#[test]
fn with_qos_0_an_invalid_payload_is_a_dead_letter_too() {
    let mut scene = Scene::new();
    for version in VERSIONS {
        let mut device = scene.device(version);
        device.publish(&readings_topic(BAD), 0, 0, GARBAGE);
        scene.bystanders.publish();
        assert_eq!(device.publish_acked(&readings_topic(BAD), 1, &reading(1).encode_to_vec()), 0);
    }
    assert_eq!(dead_letters_of(&scene, BAD).len(), 2);
}

/// A reading that is invalid for this reason; `None` where no single reading can be.
fn invalid(reason: Reason) -> Option<Vec<u8>> {
    let changed = |change: fn(&mut SensorReading)| {
        let mut reading = reading(1);
        change(&mut reading);
        Some(reading.encode_to_vec())
    };
    match reason {
        Reason::Undecodable => Some(GARBAGE.to_vec()),
        Reason::WrongDevice => changed(|reading| reading.device_id = vec![0xee; 16]),
        Reason::TooOld => changed(|reading| reading.timestamp = now_ms() - 6 * 365 * DAY_MS),
        Reason::InFuture => changed(|reading| reading.timestamp = now_ms() + 2 * DAY_MS),
        Reason::NotFinite => changed(|reading| reading.temperature = Some(f32::NAN)),
        Reason::BatteryOutOfRange => changed(|reading| reading.battery_level = Some(101)),
        Reason::HumidityOutOfRange => changed(|reading| reading.humidity = Some(-0.5)),
        Reason::TooManyMetrics => {
            changed(|reading| reading.metrics = (0..65).map(|n| (n.to_string(), 1.0)).collect())
        }
        Reason::MetricNameLength => changed(|reading| reading.metrics = [("x".repeat(65), 1.0)].into()),
        Reason::TooLarge => Some(vec![0; 65 * 1024]),
        Reason::Empty
        | Reason::TooManyReadings
        | Reason::BadKey
        | Reason::RefusedByStorage
        | Reason::RefusedByReceiver
        | Reason::Undelivered => None,
    }
}

#[test]
fn every_reason_that_a_reading_can_have_is_told_counted_and_in_its_dead_letter() {
    let mut scene = Scene::new();
    for (index, version) in VERSIONS.into_iter().enumerate() {
        let mut device = scene.device(version);
        for (packet_id, reason) in (1..).zip(Reason::ALL) {
            let Some(payload) = invalid(*reason) else { continue };
            let code = device.publish_acked(&readings_topic(BAD), packet_id, &payload);
            assert_eq!(code, refusal(version), "{reason}, {version:?}");
            let letters = dead_letters_of(&scene, BAD);
            let letter = letters.iter().max_by_key(|letter| letter.offset).unwrap();
            assert_eq!((letter.header(header::REASON), &letter.payload), (Some(reason.name()), &payload));
            scene.bystanders.publish();
            let label = format!("reason=\"{reason}\"");
            let counted = scene.gateway.metric("penstock_bridge_dead_letters_total", &label);
            assert_eq!(counted, f64::from(u32::try_from(index).unwrap() + 1), "{reason}");
        }
    }
    assert_eq!(readings_of(&scene, BAD), []);
}

#[test]
fn a_batch_with_some_invalid_readings_is_split() {
    let mut scene = Scene::new();
    let mut readings: Vec<_> = (1..=5).map(reading).collect();
    readings[1].humidity = Some(200.0);
    readings[3].device_id = vec![0xee; 16];
    let batch = ReadingBatch { readings: readings.clone() }.encode_to_vec();
    for (times, version) in (1..).zip(VERSIONS) {
        let mut device = scene.device(version);
        assert_eq!(device.publish_acked(&batch_topic(BAD), 1, &batch), 0, "{version:?}");
        scene.bystanders.publish();
        let valid = readings_of(&scene, BAD);
        assert_eq!(valid.len(), 3 * times);
        let expected: Vec<_> = [0, 2, 4].map(|index: usize| readings[index].encode_to_vec()).into();
        let found: Vec<_> = valid[3 * (times - 1)..].iter().map(|record| record.payload.clone()).collect();
        assert_eq!(found, expected, "each a record of its own, in the batch's order");
        let mut letters = dead_letters_of(&scene, BAD);
        letters.sort_by_key(|letter| letter.offset);
        let found: Vec<_> = letters[2 * (times - 1)..]
            .iter()
            .map(|letter| (letter.header(header::REASON), &letter.payload))
            .collect();
        let expected = [readings[1].encode_to_vec(), readings[3].encode_to_vec()];
        assert_eq!(
            found,
            [(Some("humidity-out-of-range"), &expected[0]), (Some("wrong-device"), &expected[1])],
            "the invalid readings alone"
        );
    }
}

#[test]
fn a_batch_that_is_none_is_one_dead_letter() {
    let mut scene = Scene::on(Chain::shared().with("bridge.batch_readings_max", "10"));
    let all_invalid = vec![SensorReading { timestamp: 1, ..Default::default() }];
    let batches = [
        ("empty", Vec::new()),
        ("undecodable", GARBAGE.to_vec()),
        ("too-many-readings", ReadingBatch { readings: vec![reading(1); 11] }.encode_to_vec()),
        ("too-old", ReadingBatch { readings: all_invalid }.encode_to_vec()),
    ];
    for (index, version) in VERSIONS.into_iter().enumerate() {
        let mut device = scene.device(version);
        for (packet_id, (reason, batch)) in (1..).zip(&batches) {
            let code = device.publish_acked(&batch_topic(BAD), packet_id, batch);
            assert_eq!(code, refusal(version), "{reason}, {version:?}");
            let letters = dead_letters_of(&scene, BAD);
            assert_eq!(letters.len(), index * batches.len() + usize::from(packet_id));
            let letter = letters.iter().max_by_key(|letter| letter.offset).unwrap();
            assert_eq!(letter.header(header::REASON), Some(*reason));
            assert_eq!(letter.header(header::MQTT_TOPIC), Some(batch_topic(BAD).as_str()));
            scene.bystanders.publish();
        }
    }
    assert_eq!(readings_of(&scene, BAD), []);
}
