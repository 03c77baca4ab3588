//! What a device that does everything right gets, in both protocol versions, and what is in Kafka when it has its ack.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use penstock_kafka::partition_for_key;
use penstock_loadgen::{Identities, trust};
use penstock_proto::topics::{READINGS, READINGS_DLQ, batch_topic, readings_topic};
use penstock_proto::v1::{ReadingBatch, SensorReading};
use penstock_proto::{DeviceId, topics};
use penstock_system_tests::{Chain, Device, Received, Record, Version, now_ms, packet, reading, until};
use prost::Message;

const ID: DeviceId = DeviceId::from_bytes([0x0d; 16]);
const VERSIONS: [Version; 2] = [Version::V311, Version::V5];
const PINGRESP: [u8; 2] = [0xd0, 0];

fn payload(sequence: u64) -> Vec<u8> {
    reading(sequence).encode_to_vec()
}

/// The records of a device in the order of its partition.
fn records(chain: &Chain, device: DeviceId) -> Vec<Record> {
    let mut records = chain.records(READINGS);
    records.retain(|record| record.key.as_deref() == Some(device.as_bytes()));
    records.sort_by_key(|record| record.offset);
    records
}

fn sequences(chain: &Chain, device: DeviceId) -> Vec<u64> {
    records(chain, device)
        .iter()
        .map(|record| SensorReading::decode(&record.payload[..]).unwrap().sequence)
        .collect()
}

#[test]
fn g1_when_the_ack_is_there_the_record_is_in_kafka_byte_for_byte_keyed_placed_and_dated() {
    let chain = Chain::shared();
    let gateway = chain.gateway();
    let devices = [(1, Version::V311), (2, Version::V5)].map(|(id, version)| {
        let id = DeviceId::from_bytes([id; 16]);
        let mut device = Device::connect(&chain, id, version);
        // A field that the contract does not know: kept, because the payload is never written anew.
        let sent = [payload(1), vec![0x98, 0x06, 0x2a]].concat();
        let before = now_ms();
        assert_eq!(device.publish_acked(&readings_topic(id), 1, &sent), 0);
        let after = now_ms();
        let records = records(&chain, id);
        assert_eq!(records.len(), 1, "{version:?}");
        assert_eq!(records[0].payload, sent);
        assert_eq!(records[0].partition.unsigned_abs(), partition_for_key(id.as_bytes(), 48));
        let timestamp_ms = records[0].timestamp_ms;
        assert!((before..=after).contains(&timestamp_ms), "{before} <= {timestamp_ms} <= {after}");
        assert_eq!(records[0].headers, []);
        device
    });
    assert_eq!(gateway.metric("penstock_gateway_publishes_qos1_total", ""), 2.0);
    assert_eq!(gateway.metric("penstock_gateway_acks_total", ""), 2.0);
    assert_eq!(gateway.metric("penstock_bridge_readings_total", ""), 2.0);
    assert_eq!(gateway.metric("penstock_gateway_sessions", ""), 2.0);
    drop(devices);
}

#[test]
fn mqtt5_4_3_1_qos_0_goes_the_same_way_without_an_ack() {
    let chain = Chain::shared();
    let gateway = chain.gateway();
    for version in VERSIONS {
        let mut device = Device::connect(&chain, ID, version);
        device.publish(&readings_topic(ID), 0, 0, &payload(1));
        device.send(&packet::pingreq());
        assert_eq!(device.packet(), PINGRESP, "and nothing before it");
    }
    until("both records", Duration::from_secs(20), || records(&chain, ID).len() == 2);
    assert_eq!(gateway.metric("penstock_gateway_publishes_qos0_total", ""), 2.0);
    assert_eq!(gateway.metric("penstock_gateway_delivered_unheard_total", ""), 0.0, "no ack was owed");
}

#[test]
fn mqtt5_4_3_3_qos_2_a_publish_sent_again_is_one_record() {
    let chain = Chain::shared();
    let _gateway = chain.gateway();
    for (times, version) in (1..).zip(VERSIONS) {
        let mut device = Device::connect(&chain, ID, version);
        device.publish(&readings_topic(ID), 2, 7, &payload(1));
        assert_eq!(device.packet(), [0x50, 2, 0, 7], "PUBREC");
        assert_eq!(records(&chain, ID).len(), 2 * times - 1, "in Kafka once PUBREC is there");
        let again =
            packet::publish_raw(version, 0b1100, readings_topic(ID).as_bytes(), Some(7), &[], &payload(1));
        for _ in 0..2 {
            device.send(&again);
            assert_eq!(device.packet(), [0x50, 2, 0, 7], "PUBREC again");
        }
        device.send(&packet::pubrel(7));
        assert_eq!(device.packet(), [0x70, 2, 0, 7], "PUBCOMP");
        device.send(&packet::pubrel(7));
        let pubcomp = device.packet();
        assert_eq!(pubcomp[..4], [0x70, if version == Version::V5 { 3 } else { 2 }, 0, 7]);
        assert_eq!(pubcomp.get(4).copied(), (version == Version::V5).then_some(0x92), "nothing to release");
        device.publish(&readings_topic(ID), 2, 7, &payload(2));
        assert_eq!(device.packet(), [0x50, 2, 0, 7], "a new exchange");
        assert_eq!(records(&chain, ID).len(), 2 * times, "{version:?}");
    }
}

#[test]
fn a_batch_is_one_record_for_each_reading_and_one_ack() {
    let chain = Chain::shared();
    let _gateway = chain.gateway();
    let batch = ReadingBatch { readings: (1..=100).map(reading).collect() }.encode_to_vec();
    for (times, version) in (1..).zip(VERSIONS) {
        let mut device = Device::connect(&chain, ID, version);
        assert_eq!(device.publish_acked(&batch_topic(ID), 1, &batch), 0);
        assert_eq!(sequences(&chain, ID), (1..=100).collect::<Vec<_>>().repeat(times), "{version:?}");
    }
}

#[test]
fn mqtt5_3_3_2_3_4_a_topic_alias_stands_for_its_topic() {
    let chain = Chain::shared();
    let _gateway = chain.gateway();
    let mut device = Device::connect(&chain, ID, Version::V5);
    let mut publish = |alias: u8, topic: &str, packet_id: u16, payload: &[u8]| {
        let alias = [0x23, 0, alias];
        device.send(&packet::publish_raw(
            Version::V5,
            0b10,
            topic.as_bytes(),
            Some(packet_id),
            &alias,
            payload,
        ));
        device.packet()
    };
    let batch = ReadingBatch { readings: vec![reading(3), reading(4)] }.encode_to_vec();
    assert_eq!(publish(1, &readings_topic(ID), 1, &payload(1)), [0x40, 2, 0, 1]);
    assert_eq!(publish(1, "", 2, &payload(2)), [0x40, 2, 0, 2]);
    assert_eq!(publish(2, &batch_topic(ID), 3, &batch), [0x40, 2, 0, 3]);
    assert_eq!(publish(2, "", 4, &batch), [0x40, 2, 0, 4]);
    assert_eq!(publish(1, "", 5, &payload(5)), [0x40, 2, 0, 5]);
    assert_eq!(publish(2, &readings_topic(ID), 6, &payload(6)), [0x40, 2, 0, 6], "an alias may be set anew");
    assert_eq!(publish(2, "", 7, &payload(7)), [0x40, 2, 0, 7]);
    assert_eq!(sequences(&chain, ID), [1, 2, 3, 4, 3, 4, 5, 6, 7]);
    let foreign = readings_topic(DeviceId::from_bytes([9; 16]));
    assert_eq!(publish(1, &foreign, 8, &payload(8)), [0x40, 3, 0, 8, 0x87]);
    assert_eq!(publish(1, "", 9, &payload(9)), [0x40, 3, 0, 9, 0x87], "an alias lends no rights");
}

#[test]
fn mqtt5_3_2_2_3_connack_says_what_the_gateway_takes_and_assigns_a_client_identifier() {
    let chain = Chain::shared();
    let _gateway = chain.gateway();
    let mut device = Device::tls(&chain, ID);
    device.send(&packet::connect(Version::V5, "", 0));
    let connack = device.packet();
    assert_eq!(connack[2..4], [0, 0], "no session present, accepted");
    let has = |property: &[u8]| connack.windows(property.len()).any(|window| window == property);
    assert!(has(&[0x21, 1, 0]), "Receive Maximum 256: {connack:?}");
    assert!(has(&[0x27, 0, 0x10, 0, 0]), "Maximum Packet Size 1 MiB: {connack:?}");
    assert!(has(&[0x22, 0, 2]), "Topic Alias Maximum 2: {connack:?}");
    assert!(has(&[0x25, 0]), "no retained messages: {connack:?}");
    assert!(has(&[0x13, 0x04, 0xb0]), "Server Keep Alive 1200 s in place of none: {connack:?}");
    assert!(has(&[0x12, 0, 36]), "Assigned Client Identifier: {connack:?}");
    let at = connack.windows(3).position(|window| window == [0x12, 0, 36]).unwrap() + 3;
    let assigned = std::str::from_utf8(&connack[at..at + 36]).unwrap().to_owned();
    assert_eq!(device.publish_acked(&readings_topic(ID), 1, b"\xffnot a reading"), 0x99);
    assert_eq!(chain.records(READINGS_DLQ)[0].header(topics::header::CLIENT_ID), Some(assigned.as_str()));

    let mut device = Device::tls(&chain, ID).speaking(Version::V311);
    device.send(&packet::connect(Version::V311, "", 0));
    assert_eq!(device.packet(), [0x20, 2, 0, 0], "3.1.1 needs none with a clean session");
    assert_eq!(device.publish_acked(&readings_topic(ID), 1, &payload(1)), 0);
}

#[test]
fn mqtt5_3_1_4_3_the_same_client_takes_its_connection_over() {
    let chain = Chain::shared();
    let gateway = chain.gateway();
    for (version, reason) in [(Version::V5, Some(0x8e)), (Version::V311, None)] {
        let mut first = Device::connect(&chain, ID, version);
        first.publish_acked(&readings_topic(ID), 1, &payload(1));
        let mut second = Device::connect(&chain, ID, version);
        assert_eq!(first.disconnect_reason(), reason);
        assert_eq!(second.publish_acked(&readings_topic(ID), 1, &payload(2)), 0);
        // Another device with the same client identifier takes nothing over.
        let mut other = Device::tls(&chain, DeviceId::from_bytes([0x0e; 16])).speaking(version);
        other.send(&packet::connect(version, &ID.to_string(), 0));
        assert_eq!(other.packet()[3], 0, "accepted");
        assert_eq!(second.publish_acked(&readings_topic(ID), 2, &payload(3)), 0);
    }
    until("both to be counted", Duration::from_secs(5), || gateway.ended("taken-over") == 2);
}

#[test]
fn mqtt5_3_1_2_22_a_device_silent_for_one_and_a_half_keep_alives_is_let_go() {
    let chain = Chain::shared();
    let gateway = chain.gateway();
    for (version, reason) in [(Version::V5, Some(0x8d)), (Version::V311, None)] {
        let mut silent = Device::tls(&chain, ID);
        silent.send(&packet::connect(version, "silent", 1));
        let mut pinging = Device::tls(&chain, ID);
        pinging.send(&packet::connect(version, "pinging", 1));
        assert_eq!((silent.packet()[3], pinging.packet()[3]), (0, 0));
        // Three seconds: twice what silence would be forgiven.
        for _ in 0..6 {
            thread::sleep(Duration::from_millis(500));
            pinging.send(&packet::pingreq());
            assert_eq!(pinging.packet(), PINGRESP);
        }
        assert_eq!(silent.disconnect_reason(), reason, "{version:?}");
    }
    until("both to be counted", Duration::from_secs(5), || gateway.ended("keep-alive-timeout") == 2);
}

#[test]
fn mqtt5_3_1_2_10_a_device_without_keep_alive_may_be_silent() {
    let chain = Chain::shared();
    let _gateway = chain.gateway();
    for version in VERSIONS {
        let mut device = Device::connect(&chain, ID, version);
        assert_eq!(device.receive(Duration::from_secs(2)), Received::Silence);
        assert_eq!(device.publish_acked(&readings_topic(ID), 1, &payload(1)), 0);
    }
}

#[test]
fn mqtt5_3_1_4_5_publishes_may_follow_connect_in_the_same_tls_record() {
    let chain = Chain::shared();
    let _gateway = chain.gateway();
    for (version, times) in VERSIONS.into_iter().zip(1..) {
        let mut device = Device::tls(&chain, ID);
        let mut bytes = packet::connect(version, "eager", 60);
        for packet_id in 1..=3 {
            let payload = payload(u64::from(packet_id));
            bytes.extend(packet::publish(version, &readings_topic(ID), 1, packet_id, &payload));
        }
        bytes.extend(packet::pingreq());
        device.send(&bytes);
        assert_eq!(device.packet()[0], 0x20, "CONNACK first");
        let mut rest: Vec<_> = (0..4).map(|_| device.packet()).collect();
        // PINGRESP need not wait for Kafka.
        rest.retain(|packet| *packet != PINGRESP);
        assert_eq!(rest, [1, 2, 3].map(|packet_id| vec![0x40, 2, 0, packet_id]), "{version:?}");
        assert_eq!(sequences(&chain, ID), [1, 2, 3].repeat(times));
    }
}

#[test]
fn half_a_packet_behind_connect_holds_up_no_ack_of_a_whole_one() {
    let chain = Chain::shared();
    let _gateway = chain.gateway();
    for version in VERSIONS {
        let mut device = Device::tls(&chain, ID);
        let [first, second] =
            [1, 2].map(|id| packet::publish(version, &readings_topic(ID), 1, id, &payload(1)));
        let (head, tail) = second.split_at(20);
        device.send(&[&packet::connect(version, "eager", 60), &first[..], head].concat());
        assert_eq!(device.packet()[0], 0x20, "CONNACK");
        assert_eq!(device.packet(), [0x40, 2, 0, 1], "{version:?}");
        device.send(tail);
        assert_eq!(device.packet(), [0x40, 2, 0, 2], "{version:?}");
    }
}

#[test]
fn packets_may_come_byte_by_byte() {
    let chain = Chain::shared();
    let _gateway = chain.gateway();
    for version in VERSIONS {
        let mut device = Device::tls(&chain, ID);
        let publish = |packet_id| packet::publish(version, &readings_topic(ID), 1, packet_id, &payload(1));
        for byte in [packet::connect(version, "slow", 60), publish(1), packet::pingreq(), publish(2)].concat()
        {
            device.send(&[byte]);
        }
        let mut packets: Vec<_> = (0..4).map(|_| device.packet()).collect();
        packets.retain(|packet| *packet != PINGRESP);
        assert_eq!(packets[0][0], 0x20, "CONNACK");
        assert_eq!(packets[1..], [1, 2].map(|packet_id| vec![0x40, 2, 0, packet_id]), "{version:?}");
    }
    assert_eq!(records(&chain, ID).len(), 4);
}

#[test]
fn g2_mqtt5_4_6_0_2_acks_come_in_the_order_of_many_publishes_in_one_tls_record() {
    let chain = Chain::shared();
    let _gateway = chain.gateway();
    for (version, times) in VERSIONS.into_iter().zip(1..) {
        let mut device = Device::connect(&chain, ID, version);
        // 1 and 2 by turns, an invalid one now and then: all acks keep their places.
        let kinds: Vec<(u16, u8, bool)> =
            (1..=200).map(|id| (id, 1 + u8::from(id % 3 == 0), id % 50 == 0)).collect();
        let mut bytes = Vec::new();
        for &(packet_id, qos, is_invalid) in &kinds {
            let payload = if is_invalid { b"\xff".to_vec() } else { payload(u64::from(packet_id)) };
            bytes.extend(packet::publish(version, &readings_topic(ID), qos, packet_id, &payload));
        }
        device.send(&bytes);
        for &(packet_id, qos, _) in &kinds {
            let ack = device.packet();
            let kind = if qos == 1 { 0x40 } else { 0x50 };
            assert_eq!((ack[0], &ack[2..4]), (kind, &packet_id.to_be_bytes()[..]), "{version:?}");
        }
        let valid = (1..=200).filter(|id| id % 50 != 0).collect::<Vec<u64>>();
        assert_eq!(sequences(&chain, ID), valid.repeat(times), "and so do the records");
    }
}

#[test]
fn mqtt5_3_14_disconnect_ends_a_connection_in_good_order() {
    let chain = Chain::shared();
    let gateway = chain.gateway();
    for version in VERSIONS {
        let mut device = Device::connect(&chain, ID, version);
        device.publish_acked(&readings_topic(ID), 1, &payload(1));
        device.send(&[0xe0, 0]);
        assert_eq!(device.until_closed(), Vec::<Vec<u8>>::new());
    }
    until("both to be counted", Duration::from_secs(5), || gateway.ended("disconnected") == 2);
}

/// What rumqttc connects with.
fn rumqttc_tls(chain: &Chain) -> rumqttc::TlsConfiguration {
    let identities = Identities::Mint(Arc::clone(&chain.authority));
    let config = identities.client_config(ID, trust(chain.authority.cert_pem()).unwrap()).unwrap();
    rumqttc::TlsConfiguration::Rustls(config)
}

#[test]
fn rumqttc_publishes_with_every_qos_over_3_1_1() {
    use rumqttc::{Client, Event, MqttOptions, Packet, QoS, Transport};
    let chain = Chain::shared();
    let _gateway = chain.gateway();
    let mut options = MqttOptions::new("rumqttc", "localhost", chain.mqtt.port());
    options.set_transport(Transport::tls_with_config(rumqttc_tls(&chain)));
    let (client, mut connection) = Client::new(options, 10);
    for (sequence, qos) in (1..).zip([QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce]) {
        client.publish(readings_topic(ID), qos, false, payload(sequence)).unwrap();
    }
    let (mut pubacks, mut pubcomps) = (0, 0);
    for event in connection.iter() {
        match event.unwrap() {
            Event::Incoming(Packet::PubAck(_)) => pubacks += 1,
            Event::Incoming(Packet::PubComp(_)) => pubcomps += 1,
            _ => {}
        }
        if (pubacks, pubcomps) == (1, 1) {
            break;
        }
    }
    assert_eq!(sequences(&chain, ID), [1, 2, 3]);
}

#[test]
fn rumqttc_publishes_with_every_qos_over_5() {
    use rumqttc::Transport;
    use rumqttc::v5::mqttbytes::QoS;
    use rumqttc::v5::mqttbytes::v5::Packet;
    use rumqttc::v5::{Client, Event, MqttOptions};
    let chain = Chain::shared();
    let _gateway = chain.gateway();
    let mut options = MqttOptions::new("rumqttc", "localhost", chain.mqtt.port());
    options.set_transport(Transport::tls_with_config(rumqttc_tls(&chain)));
    let (client, mut connection) = Client::new(options, 10);
    for (sequence, qos) in (1..).zip([QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce]) {
        client.publish(readings_topic(ID), qos, false, payload(sequence)).unwrap();
    }
    let (mut pubacks, mut pubcomps) = (0, 0);
    for event in connection.iter() {
        match event.unwrap() {
            Event::Incoming(Packet::PubAck(_)) => pubacks += 1,
            Event::Incoming(Packet::PubComp(_)) => pubcomps += 1,
            _ => {}
        }
        if (pubacks, pubcomps) == (1, 1) {
            break;
        }
    }
    assert_eq!(sequences(&chain, ID), [1, 2, 3]);
}
