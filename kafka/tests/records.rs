//! Records through a real Kafka: what is sent is what comes out, in the partition Java would choose, and a scan ends.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use common::*;
use penstock_kafka::{
    DeliveryError, Outgoing, Polled, ScanFrom, Scanner, SendError, partition_for_key, provision, receipt,
    topic_specs,
};

/// Everything that a scan hands out: partition, offset, payload.
fn scan(topic: &str, from: &ScanFrom, read_committed: bool) -> Vec<(i32, i64, String)> {
    let mut scanner = Scanner::open(&client(), topic, from, read_committed).unwrap();
    rest_of(&mut scanner)
}

fn rest_of(scanner: &mut Scanner) -> Vec<(i32, i64, String)> {
    let begin = Instant::now();
    let mut found = Vec::new();
    while let Some(batch) = scanner.next_batch(100, Duration::from_millis(200)).unwrap() {
        found.extend(batch.iter().map(|record| {
            (record.partition, record.offset, String::from_utf8_lossy(record.payload).into_owned())
        }));
        drop(batch);
        assert!(begin.elapsed() < PATIENCE, "the scan does not end");
    }
    found
}

#[test]
fn a_record_comes_out_as_it_was_sent() {
    let name = topic("round-trip", 3);
    let producer = producer();
    let topic = producer.topic(&name).unwrap();
    let headers: &[(&str, &[u8])] = &[("reason", b"x"), ("empty", b""), ("reason", b"\xff\x00")];
    let sent = Outgoing {
        topic: &topic,
        key: Some(b"device"),
        payload: b"value\x00with zeros",
        timestamp_ms: Some(1_600_000_000_123),
        headers,
        partition: None,
    };
    let bare = Outgoing { key: None, payload: b"", headers: &[], partition: Some(2), ..sent };
    resolve(send(&producer, sent)).unwrap();
    resolve(send(&producer, bare)).unwrap();
    let mut member = Member::join(&unique("group"), &name);
    let begin = Instant::now();
    let mut checked = 0;
    while checked < 2 {
        assert!(begin.elapsed() < PATIENCE);
        let assigned = match member.consumer.poll(10, Duration::from_millis(100)).unwrap() {
            Polled::Assigned(partitions) => partitions,
            Polled::Records(batch) => {
                for record in &batch {
                    assert_eq!(record.topic, name);
                    assert_eq!(record.timestamp_ms, 1_600_000_000_123);
                    assert!(!record.is_tombstone);
                    if record.key.is_some() {
                        assert_eq!(record.key, Some(&b"device"[..]));
                        assert_eq!(record.payload, b"value\x00with zeros");
                        assert_eq!(record.headers(), headers);
                        assert_eq!(record.header("reason"), Some(&b"\xff\x00"[..]));
                        assert_eq!(record.header("other"), None);
                        assert_eq!(record.partition.cast_unsigned(), partition_for_key(b"device", 3));
                    } else {
                        assert_eq!((record.payload, record.partition), (&b""[..], 2));
                        assert_eq!(record.headers(), []);
                    }
                    checked += 1;
                }
                continue;
            }
            Polled::Idle | Polled::Revoked { .. } => continue,
        };
        member.consumer.assign_done(&assigned).unwrap();
    }
}

#[test]
fn librdkafka_puts_records_in_the_partition_that_the_key_belongs_to() {
    let name = topic("partitioner", 12);
    let producer = producer();
    let topic = producer.topic(&name).unwrap();
    let keys: Vec<Vec<u8>> = (0..300_u32).map(|n| n.to_be_bytes().repeat(n as usize % 6)).collect();
    let receipts: Vec<_> = keys
        .iter()
        .map(|key| {
            let record = Outgoing { key: Some(key), partition: None, ..record(&topic, 0, b"") };
            send(&producer, record)
        })
        .collect();
    receipts.into_iter().for_each(|receipt| resolve(receipt).unwrap());
    let mut scanner = Scanner::open(&client(), &name, &ScanFrom::Beginning, false).unwrap();
    let mut checked = 0;
    while let Some(batch) = scanner.next_batch(100, Duration::from_secs(1)).unwrap() {
        for record in &batch {
            let key = record.key.unwrap();
            assert_eq!(record.partition.cast_unsigned(), partition_for_key(key, 12), "{key:02x?}");
            checked += 1;
        }
    }
    assert_eq!(checked, keys.len());
}

#[test]
fn records_of_a_partition_keep_the_order_they_were_sent_in() {
    let name = topic("order", 2);
    fill(&producer(), &name, 2, 0, 5_000);
    let mut next = BTreeMap::new();
    for (partition, offset, payload) in scan(&name, &ScanFrom::Beginning, false) {
        let expected = next.entry(partition).or_insert(0_i64);
        assert_eq!((offset, payload), (*expected, expected.to_string()));
        *expected += 1;
    }
    assert_eq!(next, BTreeMap::from([(0, 5_000), (1, 5_000)]));
}

#[test]
fn a_record_that_is_too_large_says_so() {
    let name = unique("too-large");
    let mut small = spec(&name, 1);
    small.config.push(("max.message.bytes".into(), "2000".into()));
    block_on(provision(&client(), &[small], PATIENCE)).unwrap();
    let producer = producer();
    let topic = producer.topic(&name).unwrap();
    // Refused by the topic.
    let noise: Vec<u8> = (0..5_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    assert_eq!(resolve(send(&producer, record(&topic, 0, &noise))), Err(DeliveryError::TooLarge));
    // Refused by librdkafka; the completion comes back and still works.
    let (completion, pending) = receipt();
    let Err(SendError::Permanent { completion, error }) =
        producer.send(record(&topic, 0, &vec![0; 5_000_000]), completion)
    else {
        panic!("5 MB must not be taken");
    };
    assert_eq!(error, DeliveryError::TooLarge);
    producer.send(record(&topic, 0, b"small"), completion).unwrap();
    assert_eq!(resolve(pending), Ok(()));
}

#[test]
fn a_dead_letter_of_the_largest_size_and_a_full_batch_of_readings_are_taken() {
    let specs = topic_specs(&format!("{}.", unique("sizes")), -1);
    block_on(provision(&client(), &specs, PATIENCE)).unwrap();
    let producer = producer();
    let noise = |bytes: u32| -> Vec<u8> {
        (0..bytes).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[1] ^ n.to_le_bytes()[0]).collect()
    };
    let dead_letters = producer.topic(&specs[1].name).unwrap();
    let largest = noise(4 * 1024 * 1024 - 1_000);
    resolve(send(&producer, record(&dead_letters, 0, &largest))).unwrap();
    let readings = producer.topic(&specs[0].name).unwrap();
    let reading = noise(60_000);
    let receipts: Vec<_> = (0..200).map(|_| send(&producer, record(&readings, 0, &reading))).collect();
    receipts.into_iter().for_each(|receipt| resolve(receipt).unwrap());
}

#[test]
fn a_partition_that_is_not_there_is_refused() {
    let name = topic("no-partition", 1);
    let producer = producer();
    let topic = producer.topic(&name).unwrap();
    resolve(send(&producer, record(&topic, 0, b"now the topic is known"))).unwrap();
    let (completion, _pending) = receipt();
    let Err(SendError::Permanent { error, .. }) = producer.send(record(&topic, 7, b""), completion) else {
        panic!("there is no partition 7");
    };
    assert!(
        matches!(error, DeliveryError::Refused { ref code, .. } if code == "_UNKNOWN_PARTITION"),
        "{error}"
    );
}

#[test]
fn a_batch_receipt_resolves_when_all_its_records_are_stored() {
    let name = topic("batch", 4);
    let producer = producer();
    let topic = producer.topic(&name).unwrap();
    let (completion, pending) = receipt();
    for partition in 0..4 {
        producer.send(record(&topic, partition, b"part"), completion.clone()).unwrap();
    }
    completion.complete(Ok(()));
    resolve(pending).unwrap();
    assert_eq!(scan(&name, &ScanFrom::Beginning, false).len(), 4);
}

#[test]
fn flush_waits_for_what_is_outstanding() {
    let name = topic("flush", 1);
    let producer = producer();
    let topic = producer.topic(&name).unwrap();
    let mut receipts: Vec<_> = (0..1_000).map(|_| send(&producer, record(&topic, 0, b"x"))).collect();
    assert!(block_on(producer.flush(PATIENCE)));
    assert_eq!(producer.outstanding(), 0);
    assert!(receipts.iter_mut().all(|receipt| receipt.try_result() == Some(Ok(()))));
    assert!(block_on(producer.flush(Duration::ZERO)), "nothing is outstanding");
}

#[test]
fn a_scan_ends_where_the_topic_ended_when_it_was_opened() {
    let name = topic("scan", 3);
    let producer = producer();
    fill(&producer, &name, 2, 0, 500);
    let mut scanner = Scanner::open(&client(), &name, &ScanFrom::Beginning, false).unwrap();
    fill(&producer, &name, 3, 500, 500);
    let found = rest_of(&mut scanner);
    assert_eq!(found.len(), 1_000);
    assert!(found.iter().all(|(partition, offset, _)| *partition < 2 && *offset < 500));
    assert!(scanner.next_batch(1, Duration::ZERO).unwrap().is_none(), "the end stays the end");
}

#[test]
fn a_scan_of_an_empty_topic_ends_at_once() {
    assert_eq!(scan(&topic("empty", 4), &ScanFrom::Beginning, false), []);
}

#[test]
fn a_scan_begins_where_it_is_told_to() {
    let name = topic("scan-from", 2);
    let producer = producer();
    let topic = producer.topic(&name).unwrap();
    for number in 0..10_i64 {
        let payload = number.to_string();
        let timestamp_ms = Some(1_700_000_000_000 + number * 1_000);
        for partition in 0..2 {
            let record = Outgoing { timestamp_ms, ..record(&topic, partition, payload.as_bytes()) };
            resolve(send(&producer, record)).unwrap();
        }
    }
    let by_time = scan(&name, &ScanFrom::TimestampMs(1_700_000_007_500), false);
    assert_eq!(by_time.len(), 4);
    assert!(by_time.iter().all(|(_, offset, _)| *offset >= 8));
    assert_eq!(scan(&name, &ScanFrom::TimestampMs(1_800_000_000_000), false), []);
    let by_offset = scan(&name, &ScanFrom::Offsets(vec![(1, 9)]), false);
    assert_eq!(by_offset, [(1, 9, "9".to_owned())]);
}

#[test]
fn a_scan_of_a_topic_that_is_not_there_is_an_error() {
    let error = Scanner::open(&client(), &unique("missing"), &ScanFrom::Beginning, false).unwrap_err();
    assert!(error.to_string().contains("UNKNOWN_TOPIC"), "{error}");
}

#[test]
fn a_committed_scan_skips_aborted_transactions_and_still_ends() {
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

    let name = topic("transactions", 1);
    let mut config = rdkafka::ClientConfig::new();
    config.set("bootstrap.servers", KAFKA.brokers()).set("transactional.id", &name);
    let transactional: BaseProducer = config.create().unwrap();
    transactional.init_transactions(PATIENCE).unwrap();
    for (payload, is_committed) in [("kept", true), ("aborted", false)] {
        transactional.begin_transaction().unwrap();
        transactional.send(BaseRecord::<(), str>::to(&name).partition(0).payload(payload)).unwrap();
        transactional.flush(PATIENCE).unwrap();
        if is_committed {
            transactional.commit_transaction(PATIENCE).unwrap();
        } else {
            transactional.abort_transaction(PATIENCE).unwrap();
        }
    }
    // Offsets 1 and 3 are transaction markers, so the end is past the last record.
    assert_eq!(scan(&name, &ScanFrom::Beginning, true), [(0, 0, "kept".to_owned())]);
    let all = scan(&name, &ScanFrom::Beginning, false);
    assert_eq!(all, [(0, 0, "kept".to_owned()), (0, 2, "aborted".to_owned())]);
}
