//! What a producer does while there is no Kafka at all: it refuses what exceeds its bounds, gives records up in time,
//! and resolves every receipt. No server is needed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::time::{Duration, Instant};

use common::*;
use penstock_kafka::{
    DeliveryError, KafkaError, Outgoing, Producer, ProducerSettings, SendError, provision, receipt,
};

/// Nobody listens there.
const NOWHERE: &str = "127.0.0.1:1";

fn producer_with(settings: &ProducerSettings) -> Producer {
    Producer::new(&client_at(NOWHERE), settings).unwrap()
}

#[test]
fn a_full_queue_gives_the_completion_back() {
    let settings = ProducerSettings { queue_records_max: 10, ..ProducerSettings::default() };
    let producer = producer_with(&settings);
    let topic = producer.topic("t").unwrap();
    let mut receipts: Vec<_> = (0..10).map(|_| send(&producer, record(&topic, 0, b"x"))).collect();
    let (completion, pending) = receipt();
    let Err(SendError::QueueFull(completion)) = producer.send(record(&topic, 0, b"x"), completion) else {
        panic!("the eleventh record must not be taken");
    };
    assert_eq!(producer.outstanding(), 10);
    assert!(receipts.iter_mut().all(|receipt| receipt.try_result().is_none()));
    completion.complete(Ok(()));
    assert_eq!(resolve(pending), Ok(()));
}

#[test]
fn a_full_queue_is_counted_in_bytes_as_well() {
    let settings = ProducerSettings { queue_bytes_max: 100 * 1024, ..ProducerSettings::default() };
    let producer = producer_with(&settings);
    let topic = producer.topic("t").unwrap();
    let payload = vec![0; 10 * 1024];
    let mut taken = 0;
    loop {
        let (completion, _receipt) = receipt();
        match producer.send(record(&topic, 0, &payload), completion) {
            Ok(()) => taken += 1,
            Err(SendError::QueueFull(_)) => break,
            Err(error) => panic!("{error}"),
        }
    }
    assert!((9..=11).contains(&taken), "{taken} records of 10 KiB fit into 100 KiB");
}

#[test]
fn records_that_nobody_takes_are_given_up_in_time() {
    let settings = ProducerSettings { delivery_timeout_ms: 1_500, ..ProducerSettings::default() };
    let producer = producer_with(&settings);
    let topic = producer.topic("t").unwrap();
    let receipts: Vec<_> = (0..100).map(|_| send(&producer, record(&topic, 0, b"x"))).collect();
    for receipt in receipts {
        assert_eq!(resolve(receipt), Err(DeliveryError::TimedOut));
    }
    assert!(block_on(producer.flush(PATIENCE)));
    assert_eq!(producer.generation(), 1, "a timeout is no reason to replace the client");
    assert!(producer.client_errors() > 0);
}

#[test]
fn a_dropped_producer_resolves_every_receipt() {
    let producer = producer_with(&ProducerSettings::default());
    let topic = producer.topic("t").unwrap();
    let clone = producer.clone();
    let mut receipts: Vec<_> = (0..1_000).map(|_| send(&producer, record(&topic, 0, b"x"))).collect();
    assert!(!block_on(producer.flush(Duration::from_millis(50))));
    drop(producer);
    assert!(receipts.iter_mut().all(|receipt| receipt.try_result().is_none()), "a clone is still there");
    let begin = Instant::now();
    drop(clone);
    for receipt in receipts {
        assert_eq!(resolve(receipt), Err(DeliveryError::Lost));
    }
    assert!(begin.elapsed() < Duration::from_secs(20), "receipts must not wait for their timeout");
    // A topic that outlives its producer refuses politely.
    let other = producer_with(&ProducerSettings::default());
    let (completion, _pending) = receipt();
    let refused = other.send(record(&topic, 0, b"x"), completion);
    assert!(matches!(refused, Err(SendError::Permanent { error: DeliveryError::Lost, .. })));
}

#[test]
fn a_fatal_error_replaces_the_client_and_fails_what_was_outstanding() {
    let producer = producer_with(&ProducerSettings::default());
    let topic = producer.topic("t").unwrap();
    let receipts: Vec<_> = (0..100).map(|_| send(&producer, record(&topic, 0, b"x"))).collect();
    producer.inject_fatal_error();
    // Senders do not have to wait until anybody noticed.
    let (completion, mut later) = receipt();
    producer.send(record(&topic, 0, b"after"), completion).unwrap();
    for receipt in receipts {
        let error = resolve(receipt).unwrap_err();
        assert!(matches!(&error, DeliveryError::Fatal(why) if why.contains("injected")), "{error}");
        assert!(!error.is_permanent());
    }
    assert_eq!(producer.generation(), 2);
    assert_eq!(producer.fatal_error(), None);
    assert_eq!(later.try_result(), None, "it belongs to the new client");
}

#[test]
fn a_fatal_error_is_noticed_without_a_sender() {
    let producer = producer_with(&ProducerSettings::default());
    producer.inject_fatal_error();
    let begin = Instant::now();
    while producer.generation() == 1 {
        assert!(begin.elapsed() < PATIENCE, "the client is not replaced");
        std::thread::yield_now();
    }
    assert_eq!(producer.fatal_error(), None);
    // A topic that was never used with the client before.
    let _pending = send(&producer, record(&producer.topic("t").unwrap(), 0, b"x"));
    assert_eq!(producer.outstanding(), 1);
}

#[test]
fn receipts_survive_senders_on_many_threads_while_clients_are_replaced() {
    let settings = ProducerSettings { delivery_timeout_ms: 3_000, ..ProducerSettings::default() };
    let producer = producer_with(&settings);
    let topic = producer.topic("t").unwrap();
    let senders: Vec<_> = (0..4)
        .map(|_| {
            let (producer, topic) = (producer.clone(), topic.clone());
            std::thread::spawn(move || {
                let mut receipts = Vec::new();
                for _ in 0..5_000 {
                    receipts.push(send(&producer, record(&topic, 0, b"x")));
                }
                receipts
            })
        })
        .collect();
    for _ in 0..5 {
        producer.inject_fatal_error();
        let before = producer.generation();
        let begin = Instant::now();
        while producer.generation() == before && producer.fatal_error().is_some() {
            assert!(begin.elapsed() < PATIENCE, "the client is not replaced");
            std::thread::yield_now();
        }
    }
    let receipts: Vec<_> = senders.into_iter().flat_map(|sender| sender.join().unwrap()).collect();
    for receipt in receipts {
        let error = resolve(receipt).unwrap_err();
        assert!(matches!(error, DeliveryError::Fatal(_) | DeliveryError::TimedOut), "{error}");
    }
    assert_eq!(producer.generation(), 6);
    assert!(block_on(producer.flush(PATIENCE)));
}

#[test]
fn a_setting_that_librdkafka_does_not_take_is_named() {
    let settings = ProducerSettings { compression: "rar".into(), ..ProducerSettings::default() };
    let error = Producer::new(&client_at(NOWHERE), &settings).unwrap_err();
    assert!(
        matches!(&error, KafkaError::Config { property, value, .. } if property == "compression.codec" && value == "rar"),
        "{error}"
    );
    let mut client = client_at(NOWHERE);
    client.properties.insert("no.such.property".into(), "1".into());
    let error = Producer::new(&client, &ProducerSettings::default()).unwrap_err();
    assert!(
        matches!(&error, KafkaError::Config { property, .. } if property == "no.such.property"),
        "{error}"
    );
}

#[test]
fn a_header_name_or_topic_name_that_cannot_be_is_refused() {
    let producer = producer_with(&ProducerSettings::default());
    assert!(producer.topic("nul\0").is_err());
    assert!(producer.topic("").is_err());
    let topic = producer.topic("t").unwrap();
    assert_eq!(topic.name(), "t");
    let record = Outgoing { headers: &[("a", b"b")], ..record(&topic, 0, b"x") };
    let (completion, _pending) = receipt();
    producer.send(record, completion).unwrap();
}

#[test]
fn provisioning_without_a_kafka_is_a_passing_error_in_time() {
    let begin = Instant::now();
    let error =
        block_on(provision(&client_at(NOWHERE), &[spec("t", 1)], Duration::from_secs(2))).unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert!(error.to_string().contains(NOWHERE) && error.to_string().contains("refused"), "{error}");
    assert!(begin.elapsed() < Duration::from_secs(10));
}
