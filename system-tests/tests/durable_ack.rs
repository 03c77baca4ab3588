//! G1, G2, G6: a PUBACK means Kafka has it, whatever happens to Kafka or to the gateway.
//!
//! These tests harm the servers, so each has servers of its own.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use penstock_devstack::{Stack, StackOptions};
use penstock_loadgen::verify::Verification;
use penstock_loadgen::{Fleet, Ledger, Qos, Report};
use penstock_proto::v1::SensorReading;
use penstock_proto::{DeviceId, topics};
use penstock_system_tests::{Chain, Device, Received, Version, until};
use prost::Message;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

fn own_chain() -> Chain {
    Chain::new(Stack::start(&StackOptions::default()).unwrap())
}

fn device(n: u8) -> DeviceId {
    DeviceId::from_bytes([n; 16])
}

fn reading(sequence: u64) -> Vec<u8> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let timestamp = i64::try_from(now.as_millis()).unwrap();
    SensorReading { timestamp, sequence, temperature: Some(20.0), ..Default::default() }.encode_to_vec()
}

/// Runs a fleet while `during` does its harm; both end before this returns.
fn with_fleet(
    runtime: &Runtime,
    fleet: Fleet,
    during: impl FnOnce(&dyn Fn() -> u64),
) -> (Arc<Ledger>, Report) {
    let stats = fleet.stats();
    let running = runtime.spawn(fleet.run(CancellationToken::new()));
    during(&|| stats.acked.get());
    let (ledger, report) = runtime.block_on(running).unwrap().unwrap();
    (Arc::new(ledger), report)
}

fn assert_nothing_missing(found: &Verification, report: &Report) {
    assert!(report.acked > 0, "{report:?}");
    assert_eq!(found.missing, 0, "{:?}", found.differences);
    assert_eq!(found.duplicate_offsets, 0, "{:?}", found.differences);
}

#[test]
fn g1_puback_is_withheld_while_kafka_is_paused_and_sent_after_it_resumes() {
    let chain = own_chain().with("bridge.delivery_timeout_ms", "60000");
    let _gateway = chain.gateway();
    let topic = topics::readings_topic(device(1));
    for version in [Version::V311, Version::V5] {
        let mut device = Device::connect(&chain, device(1), version);
        assert_eq!(device.publish_acked(&topic, 1, &reading(1)), 0, "Kafka runs");

        chain.stack.kafka.pause().unwrap();
        device.send(&penstock_system_tests::packet::publish(version, &topic, 1, 2, &reading(2)));
        device.send(&penstock_system_tests::packet::pingreq());
        assert_eq!(device.packet(), [0xd0, 0], "PINGREQ is answered while Kafka is slow");
        assert_eq!(device.receive(Duration::from_secs(3)), Received::Silence, "no PUBACK without Kafka");

        chain.stack.kafka.resume().unwrap();
        let puback = device.packet();
        assert_eq!((puback[0], &puback[2..4]), (0x40, &[0, 2][..]), "PUBACK once Kafka is back");
    }
    assert_eq!(chain.records(topics::READINGS).len(), 4);
}

#[test]
fn g1_a_publish_that_kafka_does_not_confirm_in_time_is_not_acked_and_the_connection_ends() {
    let chain = own_chain().with("bridge.delivery_timeout_ms", "2000");
    let gateway = chain.gateway();
    let topic = topics::readings_topic(device(1));
    for (version, reason) in [(Version::V5, Some(0x88)), (Version::V311, None)] {
        let mut device = Device::connect(&chain, device(1), version);
        device.publish_acked(&topic, 1, &reading(1));
        chain.stack.kafka.pause().unwrap();
        device.send(&penstock_system_tests::packet::publish(version, &topic, 1, 2, &reading(2)));
        assert_eq!(device.disconnect_reason(), reason);
        chain.stack.kafka.resume().unwrap();
    }
    until("both ends to be counted", Duration::from_secs(5), || gateway.ended("delivery-timed-out") == 2);
}

#[test]
fn g1_full_service_within_seconds_of_kafkas_return_without_a_restart() {
    let chain = own_chain();
    let gateway = chain.gateway();
    let topic = topics::readings_topic(device(1));
    let mut device = Device::connect(&chain, device(1), Version::V5);
    device.publish_acked(&topic, 1, &reading(1));
    chain.stack.kafka.kill_9().unwrap();
    device.send(&penstock_system_tests::packet::publish(Version::V5, &topic, 1, 2, &reading(2)));
    assert_eq!(device.receive(Duration::from_secs(3)), Received::Silence);
    chain.stack.kafka.restart().unwrap();
    let puback = device.packet();
    assert_eq!((puback[0], &puback[2..4]), (0x40, &[0, 2][..]));
    for packet_id in 3..100 {
        device.publish_acked(&topic, packet_id, &reading(u64::from(packet_id)));
    }
    assert!(gateway.is_ready());
}

#[test]
fn g6_while_kafka_is_away_sockets_are_read_more_slowly_and_memory_stays_bounded() {
    let chain = own_chain()
        .with("bridge.queue_records_max", "1000")
        .with("bridge.delivery_timeout_ms", "120000")
        .with("gateway.limits.inflight_max", "50");
    let gateway = chain.gateway();
    chain.stack.kafka.pause().unwrap();
    let before = gateway.resident_bytes();
    let mut devices: Vec<_> =
        (1..=40).map(|n| (n, Device::connect(&chain, device(n), Version::V311))).collect();
    // 40 devices with 50 publishes each could have 2,000 in flight: more than the producer's queue takes.
    for (n, device) in &mut devices {
        let topic = topics::readings_topic(self::device(*n));
        for packet_id in 1..=50 {
            let publish =
                penstock_system_tests::packet::publish(Version::V311, &topic, 1, packet_id, &reading(1));
            device.send(&publish);
        }
    }
    until("publishes to wait for room", Duration::from_secs(20), || {
        gateway.metric("penstock_bridge_queue_full_total", "") > 0.0
    });
    let grown = gateway.resident_bytes().saturating_sub(before);
    assert!(grown < 64 << 20, "memory grew by {grown} bytes");
    chain.stack.kafka.resume().unwrap();
    for (n, device) in &mut devices {
        for packet_id in 1..=50u16 {
            let puback = device.packet();
            assert_eq!(
                (puback[0], &puback[2..4]),
                (0x40, &packet_id.to_be_bytes()[..]),
                "device {n}, in order"
            );
        }
    }
    assert_eq!(chain.records(topics::READINGS).len(), 2_000);
}

#[test]
fn g1_a_gateway_killed_with_9_under_load_has_lost_no_acknowledged_reading() {
    let chain = own_chain();
    let mut gateway = chain.gateway();
    let runtime = Runtime::new().unwrap();
    let mut options = chain.fleet();
    (options.devices, options.rate, options.count) = (50, 1500.0, Some(15_000));
    let fleet = Fleet::new(options).unwrap();
    let (ledger, report) = with_fleet(&runtime, fleet, |acked| {
        for kill in 1..=3 {
            let enough = kill * 2_000;
            until("readings to be acknowledged", Duration::from_secs(60), || acked() >= enough);
            gateway.kill_9();
            gateway.restart();
        }
    });
    assert!(report.reconnects >= 50, "the gateway was not killed under load: {report:?}");
    let found = runtime.block_on(chain.verify(&ledger, false));
    assert_nothing_missing(&found, &report);
    assert_eq!(report.unacknowledged, 0, "{report:?}");
}

#[test]
fn g2_readings_of_a_device_keep_their_order_across_48_partitions() {
    let chain = own_chain();
    let _gateway = chain.gateway();
    let runtime = Runtime::new().unwrap();
    for qos in [Qos::AtLeastOnce, Qos::ExactlyOnce] {
        let mut options = chain.fleet();
        (options.devices, options.rate, options.count) = (200, 0.0, Some(20_000));
        (options.qos, options.seed) = (qos, qos as u64);
        let (ledger, report) = with_fleet(&runtime, Fleet::new(options).unwrap(), |_| ());
        let found = runtime.block_on(chain.verify(&ledger, false));
        assert_nothing_missing(&found, &report);
        assert_eq!(found.out_of_order, 0, "{:?}", found.differences);
    }
    let partitions: std::collections::HashSet<_> =
        chain.records(topics::READINGS).iter().map(|record| record.partition).collect();
    assert_eq!(partitions.len(), 48, "400 devices must reach every partition");
}
