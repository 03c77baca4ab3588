//! Faults of a real Kafka: receipts are withheld while it is stopped, and come when it is back. These tests need a
//! Kafka that they may stop, so they start their own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::ops::Deref;
use std::time::{Duration, Instant};

use common::*;
use parking_lot::{Mutex, MutexGuard};
use penstock_devstack::Kafka;
use penstock_kafka::{Consumer, DeliveryError, Polled, Producer, ProducerSettings, ScanFrom, Scanner};

/// One fault at a time.
static FAULT: Mutex<()> = Mutex::new(());

/// Ends the fault, also when the test fails.
struct Faulty {
    kafka: &'static Kafka,
    _one_at_a_time: MutexGuard<'static, ()>,
}

impl Deref for Faulty {
    type Target = Kafka;

    fn deref(&self) -> &Kafka {
        self.kafka
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        if self.kafka.is_running() {
            self.kafka.resume().unwrap();
        } else {
            self.kafka.restart().unwrap();
        }
    }
}

fn kafka() -> Faulty {
    Faulty { _one_at_a_time: FAULT.lock(), kafka: &KAFKA }
}

/// Offsets and payloads of partition 0.
fn stored(topic: &str) -> Vec<(i64, String)> {
    let mut scanner = Scanner::open(&client(), topic, &ScanFrom::Beginning, false).unwrap();
    let mut found = Vec::new();
    while let Some(batch) = scanner.next_batch(1_000, Duration::from_secs(1)).unwrap() {
        let records = batch.iter();
        found.extend(
            records.map(|record| (record.offset, String::from_utf8_lossy(record.payload).into_owned())),
        );
    }
    found
}

#[test]
fn receipts_are_withheld_while_kafka_is_paused_and_come_when_it_goes_on() {
    let kafka = kafka();
    let name = topic("paused", 1);
    let producer = producer();
    fill(&producer, &name, 1, 0, 1);
    let topic = producer.topic(&name).unwrap();
    kafka.pause().unwrap();
    let payloads: Vec<_> = (1..200).map(|number| number.to_string()).collect();
    let mut receipts: Vec<_> =
        payloads.iter().map(|payload| send(&producer, record(&topic, 0, payload.as_bytes()))).collect();
    assert!(!block_on(producer.flush(Duration::from_secs(2))));
    assert_eq!(producer.outstanding(), 199);
    assert!(
        receipts.iter_mut().all(|receipt| receipt.try_result().is_none()),
        "acknowledged by a stopped Kafka"
    );
    kafka.resume().unwrap();
    for receipt in receipts {
        assert_eq!(resolve(receipt), Ok(()));
    }
    let expected: Vec<_> = (0..200).map(|number| (i64::from(number), number.to_string())).collect();
    assert_eq!(stored(&name), expected);
}

#[test]
fn records_are_stored_once_and_in_order_across_kill_9_of_kafka() {
    let kafka = kafka();
    let name = topic("killed", 1);
    let producer = Producer::new(
        &client(),
        &ProducerSettings { delivery_timeout_ms: 60_000, ..ProducerSettings::default() },
    )
    .unwrap();
    let topic = producer.topic(&name).unwrap();
    let mut receipts = Vec::new();
    for number in 0..3_000_u32 {
        receipts.push(send(&producer, record(&topic, 0, number.to_string().as_bytes())));
        if number == 1_500 {
            kafka.kill_9().unwrap();
        }
    }
    kafka.restart().unwrap();
    for receipt in receipts {
        assert_eq!(resolve(receipt), Ok(()));
    }
    let payloads: Vec<_> = stored(&name).into_iter().map(|(_, payload)| payload).collect();
    let expected: Vec<_> = (0..3_000_u32).map(|number| number.to_string()).collect();
    assert_eq!(payloads, expected);
}

#[test]
fn a_delivery_that_takes_too_long_times_out_and_the_producer_goes_on() {
    let kafka = kafka();
    let name = topic("timeout", 1);
    let settings = ProducerSettings { delivery_timeout_ms: 2_000, ..ProducerSettings::default() };
    let producer = Producer::new(&client(), &settings).unwrap();
    fill(&producer, &name, 1, 0, 1);
    let topic = producer.topic(&name).unwrap();
    kafka.pause().unwrap();
    let pending = send(&producer, record(&topic, 0, b"late"));
    assert_eq!(resolve(pending), Err(DeliveryError::TimedOut));
    kafka.resume().unwrap();
    // Kafka may have stored the record that timed out; what comes after it is stored in any case.
    let begin = Instant::now();
    while let Err(error) = resolve(send(&producer, record(&topic, 0, b"after"))) {
        assert_eq!(error, DeliveryError::TimedOut);
        assert!(begin.elapsed() < PATIENCE, "the producer does not recover");
    }
    assert_eq!(stored(&name).last().unwrap().1, "after");
}

#[test]
fn a_fatal_error_does_not_need_a_new_process() {
    let _kafka = kafka();
    let name = topic("fatal", 1);
    let producer = producer();
    let topic = producer.topic(&name).unwrap();
    for round in 1..=3 {
        resolve(send(&producer, record(&topic, 0, b"before"))).unwrap();
        producer.inject_fatal_error();
        resolve(send(&producer, record(&topic, 0, b"after"))).unwrap();
        assert_eq!(producer.generation(), 1 + round);
    }
    assert_eq!(stored(&name).len(), 6);
}

#[test]
fn a_consumer_goes_on_after_kafka_was_restarted() {
    let kafka = kafka();
    let name = topic("consume", 1);
    let producer = producer();
    fill(&producer, &name, 1, 0, 100);
    let mut settings = group_settings(&unique("group"), &name);
    // Longer than Kafka takes to start, or the partition is lost, which is another test.
    settings.session_timeout_ms = 45_000;
    let mut member = Member::with(Consumer::subscribe(&client(), &settings).unwrap());
    member.until("the records are read", |member| member.seen.len() == 100);
    kafka.kill_9().unwrap();
    member.until("the loss of Kafka is noticed", |member| member.consumer.last_error().is_some());
    assert!(member.consumer.last_error().unwrap().is_transient());
    let partition = member.assigned.first().unwrap().clone();
    assert!(member.consumer.commit_sync(&[(partition, 100)], Duration::from_secs(1)).is_err());
    kafka.restart().unwrap();
    fill(&producer, &name, 1, 100, 100);
    member.until("the new records are read", |member| member.seen.len() >= 200);
    let offsets: Vec<_> = member.seen.iter().map(|(_, offset, _)| *offset).collect();
    assert_eq!(offsets, (0..200).collect::<Vec<_>>());
    member.leave();
}

#[test]
fn closing_and_dropping_a_consumer_end_while_kafka_is_paused() {
    let kafka = kafka();
    let name = topic("close-paused", 1);
    let mut closing = Member::join(&unique("group"), &name);
    closing.until("the partition is assigned", |member| member.assigned.len() == 1);
    let mut dropped = Consumer::subscribe(&client(), &group_settings(&unique("group"), &name)).unwrap();
    loop {
        if let Polled::Assigned(_) = dropped.poll(1, Duration::from_millis(100)).unwrap() {
            break;
        }
    }
    kafka.pause().unwrap();
    let ended = std::thread::spawn(move || {
        let begin = Instant::now();
        drop(dropped);
        let dropped_in = begin.elapsed();
        closing.leave();
        (dropped_in, begin.elapsed())
    });
    let (dropped_in, closed_in) = ended.join().unwrap();
    kafka.resume().unwrap();
    assert!(
        dropped_in < PATIENCE && closed_in < 2 * PATIENCE,
        "dropped {dropped_in:?}, closed {closed_in:?}"
    );
}
