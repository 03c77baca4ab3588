//! Transactions through a real Kafka: what is committed is seen, what is not never is, and whoever was replaced learns
//! it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::time::{Duration, Instant};

use common::*;
use penstock_kafka::{
    Consumer, ConsumerSettings, DeliveryError, GroupMetadata, KafkaError, ScanFrom, Scanner, TopicPartition,
    TransactionError, TransactionRecord, TransactionSettings, TransactionalProducer, partition_for_key,
    provision,
};

/// A member of a group that reads committed records.
fn member(group: &str, topic: &str) -> Member {
    let settings = ConsumerSettings { read_committed: true, ..group_settings(group, topic) };
    Member::with(Consumer::subscribe(&client(), &settings).unwrap())
}

fn joined(group: &str, topic: &str) -> (Member, GroupMetadata) {
    let mut member = member(group, topic);
    member.until("a partition is assigned", |member| !member.assigned.is_empty());
    let metadata = member.consumer.group_metadata().unwrap();
    (member, metadata)
}

fn first(topic: &str) -> TopicPartition {
    TopicPartition::new(topic, 0)
}

fn committed(member: &Member, topic: &str) -> Option<i64> {
    let begin = Instant::now();
    loop {
        match member.consumer.committed(&[first(topic)], PATIENCE) {
            Ok(found) => return found[0].1,
            // The marker of a transaction is still on its way.
            Err(error) => assert!(error.is_transient() && begin.elapsed() < PATIENCE, "{error}"),
        }
    }
}

#[test]
fn committed_records_are_seen_and_aborted_ones_are_not() {
    let name = topic("visible", 1);
    let mut producer = transactional(&unique("id"));
    for (payload, is_committed) in [("one", true), ("two", false), ("three", true), ("four", false)] {
        let mut transaction = producer.begin().unwrap();
        transaction.send(&plain(&name, payload)).unwrap();
        if is_committed {
            transaction.commit(PATIENCE).unwrap();
        } else {
            // What is given up before it was sent would not show that readers skip it.
            let begin = Instant::now();
            while !payloads(&name, false).iter().any(|found| found == payload) {
                assert!(begin.elapsed() < PATIENCE);
            }
            transaction.abort(PATIENCE).unwrap();
        }
    }
    assert_eq!(committed_payloads(&name), ["one", "three"]);
    assert_eq!(payloads(&name, false), ["one", "two", "three", "four"]);
}

#[test]
fn a_scan_ends_where_the_last_offsets_are_markers() {
    let name = topic("markers", 3);
    let mut producer = transactional(&unique("id"));
    let mut transaction = producer.begin().unwrap();
    for partition in 0..2 {
        let record = TransactionRecord { partition: Some(partition), ..plain(&name, "x") };
        transaction.send(&record).unwrap();
    }
    transaction.commit(PATIENCE).unwrap();
    assert_eq!(committed_payloads(&name).len(), 2);
    for read_committed in [true, false] {
        let mut scanner = Scanner::open(&client(), &name, &ScanFrom::Beginning, read_committed).unwrap();
        // One record and one marker.
        assert_eq!(scanner.remaining().collect::<Vec<_>>(), [(0, 2), (1, 2)]);
        let (mut seen, begin) = (0, Instant::now());
        while let Some(batch) = scanner.next_batch(10, Duration::from_millis(100)).unwrap() {
            assert!(begin.elapsed() < PATIENCE, "the scan does not end");
            seen += batch.len();
        }
        assert_eq!(seen, 2);
        assert!(scanner.next_batch(10, Duration::ZERO).unwrap().is_none(), "it stays at its end");
    }
    // From behind the record there is only the marker.
    let from = ScanFrom::Offsets(vec![(0, 1)]);
    let mut scanner = Scanner::open(&client(), &name, &from, true).unwrap();
    let begin = Instant::now();
    while let Some(batch) = scanner.next_batch(10, Duration::from_millis(100)).unwrap() {
        assert!(batch.is_empty() && begin.elapsed() < PATIENCE);
    }
}

#[test]
fn a_consumer_knows_that_it_has_passed_what_was_aborted_and_the_markers_behind_it() {
    let name = topic("passed", 1);
    let mut producer = transactional(&unique("id"));
    for is_committed in [true, false] {
        let mut transaction = producer.begin().unwrap();
        transaction.send(&plain(&name, "a record")).unwrap();
        if is_committed {
            transaction.commit(PATIENCE).unwrap();
        } else {
            let begin = Instant::now();
            while payloads(&name, false).len() < 2 {
                assert!(begin.elapsed() < PATIENCE);
            }
            transaction.abort(PATIENCE).unwrap();
        }
    }
    let mut member = member(&unique("group"), &name);
    assert_eq!(member.consumer.passed(&first(&name)), None);
    member.until("the end is passed", |member| member.consumer.passed(&first(&name)) == Some(4));
    assert_eq!(member.seen.len(), 1);
    member.leave();
}

#[test]
fn keys_headers_times_and_tombstones_come_out_as_they_were_sent() {
    let name = topic("content", 12);
    let mut producer = transactional(&unique("id"));
    let headers: &[(&str, &[u8])] = &[("rule", b"hot"), ("empty", b"")];
    let mut transaction = producer.begin().unwrap();
    for number in 0..100_u32 {
        let key = number.to_be_bytes();
        let record = TransactionRecord {
            key: Some(&key),
            timestamp_ms: Some(1_600_000_000_123),
            headers,
            ..TransactionRecord::new(&name, b"value")
        };
        transaction.send(&record).unwrap();
        transaction.send(&TransactionRecord { payload: None, ..record }).unwrap();
        transaction.send(&TransactionRecord { payload: Some(b""), ..record }).unwrap();
    }
    transaction.commit(PATIENCE).unwrap();
    assert_eq!(committed_payloads(&name).len(), 300);
    let mut scanner = Scanner::open(&client(), &name, &ScanFrom::Beginning, true).unwrap();
    let (mut tombstones, mut values) = (0, 0);
    while let Some(batch) = scanner.next_batch(100, Duration::from_secs(1)).unwrap() {
        for record in &batch {
            assert_eq!(record.partition.cast_unsigned(), partition_for_key(record.key.unwrap(), 12));
            assert_eq!((record.headers().as_slice(), record.timestamp_ms), (headers, 1_600_000_000_123));
            tombstones += usize::from(record.is_tombstone);
            values += usize::from(record.payload == b"value");
        }
    }
    assert_eq!((tombstones, values), (100, 100));
}

#[test]
fn offsets_are_committed_with_the_records_or_not_at_all() {
    let (input, output) = (topic("input", 1), topic("output", 1));
    let group = unique("group");
    fill(&producer(), &input, 1, 0, 10);
    let mut producer = transactional(&unique("id"));
    let (mut member, metadata) = joined(&group, &input);
    member.until("everything is read", |member| member.seen.len() == 10);

    let mut transaction = producer.begin().unwrap();
    transaction.send(&plain(&output, "kept")).unwrap();
    transaction.send_offsets(&[(first(&input), 4)], &metadata, PATIENCE).unwrap();
    let unstable = member.consumer.committed(&[first(&input)], Duration::from_secs(1)).unwrap_err();
    assert!(unstable.is_transient(), "{unstable}");
    let other = Consumer::subscribe(&client(), &group_settings(&group, "absent")).unwrap();
    assert_eq!(other.committed(&[first(&input)], PATIENCE).unwrap()[0].1, None, "as it was before");
    drop(other);
    transaction.commit(PATIENCE).unwrap();
    drop(transaction);
    assert_eq!(committed(&member, &input), Some(4));

    let mut transaction = producer.begin().unwrap();
    transaction.send(&plain(&output, "given up")).unwrap();
    transaction.send_offsets(&[(first(&input), 9)], &metadata, PATIENCE).unwrap();
    transaction.abort(PATIENCE).unwrap();
    assert_eq!(committed(&member, &input), Some(4));
    assert_eq!(committed_payloads(&output), ["kept"]);

    member.next.clear();
    member.leave();
    let (mut successor, later) = joined(&group, &input);
    assert!(later.generation() > metadata.generation());
    successor.until("the rest is read", |member| member.seen.len() == 6);
    assert_eq!(successor.seen.iter().map(|(_, offset, _)| *offset).collect::<Vec<_>>(), [4, 5, 6, 7, 8, 9]);
    successor.leave();
}

#[test]
fn a_later_producer_with_the_id_fences_the_earlier() {
    let name = topic("fenced", 1);
    let id = unique("id");
    let mut earlier = transactional(&id);
    let mut transaction = earlier.begin().unwrap();
    transaction.send(&plain(&name, "of the earlier")).unwrap();
    let begin = Instant::now();
    while payloads(&name, false).is_empty() {
        assert!(begin.elapsed() < PATIENCE);
    }
    let mut later = transactional(&id);
    let error = transaction.commit(PATIENCE).unwrap_err();
    assert!(matches!(&error, TransactionError::Fenced { .. }), "{error:?}");
    assert!(error.is_fatal() && error.is_fenced() && !error.is_retriable() && !error.requires_abort());
    drop(transaction);
    assert_eq!(earlier.begin().map(drop).unwrap_err(), error, "it stays fenced");
    assert_eq!(earlier.fatal_error(), Some(&error));
    let mut transaction = later.begin().unwrap();
    transaction.send(&plain(&name, "of the later")).unwrap();
    transaction.commit(PATIENCE).unwrap();
    assert_eq!(committed_payloads(&name), ["of the later"]);
}

#[test]
fn a_fenced_producer_learns_it_with_its_next_transaction_too() {
    let name = topic("fenced-idle", 1);
    let id = unique("id");
    let mut earlier = transactional(&id);
    let _later = transactional(&id);
    let mut transaction = earlier.begin().unwrap();
    transaction.send(&plain(&name, "x")).unwrap();
    let error = transaction.commit(PATIENCE).unwrap_err();
    assert!(matches!(&error, TransactionError::Fenced { .. }), "{error:?}");
    let error = transaction.send(&plain(&name, "y")).unwrap_err();
    assert!(matches!(&error, TransactionError::Fenced { .. }), "{error:?}");
    assert!(payloads(&name, false).is_empty());
}

/// Offsets are sent as a member that is over: they are refused, and the producer goes on afterwards.
fn refused(input: &str, over: &GroupMetadata, present: &Member, code: &str) {
    let output = topic("refused", 1);
    let before = committed(present, input);
    let mut producer = transactional(&unique("id"));
    let mut transaction = producer.begin().unwrap();
    transaction.send(&plain(&output, "of a member that is over")).unwrap();
    let error = transaction.send_offsets(&[(first(input), 9)], over, PATIENCE).unwrap_err();
    assert!(
        matches!(&error, TransactionError::GroupFenced { code: found, .. } if found == code),
        "{error:?}"
    );
    assert!(error.is_fenced() && error.requires_abort() && !error.is_fatal());
    assert_eq!(transaction.send(&plain(&output, "more")).unwrap_err(), error);
    assert_eq!(transaction.commit(PATIENCE).unwrap_err(), error);
    transaction.abort(PATIENCE).unwrap();
    drop(transaction);
    assert_eq!(committed(present, input), before, "the offsets stand as they were");
    let present_metadata = present.consumer.group_metadata().unwrap();
    let mut transaction = producer.begin().unwrap();
    transaction.send(&plain(&output, "of a member")).unwrap();
    transaction.send_offsets(&[(first(input), 7)], &present_metadata, PATIENCE).unwrap();
    transaction.commit(PATIENCE).unwrap();
    assert_eq!(committed(present, input), Some(7));
    assert_eq!(committed_payloads(&output), ["of a member"]);
}

#[test]
fn offsets_of_an_earlier_generation_are_refused() {
    let input = topic("generation", 2);
    let group = unique("group");
    let (mut one, over) = joined(&group, &input);
    one.consumer.commit_sync(&[(first(&input), 3)], PATIENCE).unwrap();
    let mut two = member(&group, &input);
    let begin = Instant::now();
    while two.assigned.is_empty() || one.consumer.group_metadata().as_ref() == Some(&over) {
        assert!(begin.elapsed() < PATIENCE);
        one.step();
        two.step();
    }
    refused(&input, &over, &two, "ILLEGAL_GENERATION");
}

#[test]
fn offsets_of_a_member_that_is_gone_are_refused() {
    let input = topic("gone", 1);
    let group = unique("group");
    let (mut one, over) = joined(&group, &input);
    one.consumer.commit_sync(&[(first(&input), 3)], PATIENCE).unwrap();
    one.leave();
    assert_eq!(one.consumer.group_metadata(), None, "a closed consumer is no member");
    let (two, _) = joined(&group, &input);
    refused(&input, &over, &two, "UNKNOWN_MEMBER_ID");
}

#[test]
fn offsets_of_a_member_whose_name_another_took_are_refused() {
    let input = topic("name", 1);
    let group = unique("group");
    let named = ConsumerSettings {
        instance_id: Some("alerter-1".into()),
        read_committed: true,
        ..group_settings(&group, &input)
    };
    let join = || {
        let mut member = Member::with(Consumer::subscribe(&client(), &named).unwrap());
        member.until("the partition is assigned", |member| !member.assigned.is_empty());
        member
    };
    let one = join();
    let over = one.consumer.group_metadata().unwrap();
    let two = join();
    refused(&input, &over, &two, "FENCED_INSTANCE_ID");
}

#[test]
fn a_consumer_that_is_no_member_yet_has_no_metadata() {
    let settings = group_settings(&unique("group"), "absent");
    let consumer = Consumer::subscribe(&client_at("127.0.0.1:1"), &settings).unwrap();
    assert_eq!(consumer.group_metadata(), None, "Kafka would take its offsets unchecked");
}

#[test]
fn a_dead_producers_transaction_is_aborted_by_its_successor() {
    let name = topic("dead", 1);
    let id = unique("id");
    let mut dead = transactional(&id);
    let mut transaction = dead.begin().unwrap();
    transaction.send(&plain(&name, "of the dead")).unwrap();
    let begin = Instant::now();
    while payloads(&name, false).is_empty() {
        assert!(begin.elapsed() < PATIENCE);
    }
    std::mem::forget(transaction);
    drop(dead);
    let mut successor = transactional(&id);
    let mut transaction = successor.begin().unwrap();
    transaction.send(&plain(&name, "of its successor")).unwrap();
    transaction.commit(PATIENCE).unwrap();
    assert_eq!(committed_payloads(&name), ["of its successor"]);
}

#[test]
fn a_stuck_producers_transaction_is_aborted_when_its_time_is_over() {
    let name = topic("stuck", 1);
    let settings = TransactionSettings {
        transactional_id: unique("id"),
        timeout: Duration::from_secs(1),
        ..Default::default()
    };
    let mut stuck = TransactionalProducer::open(&client(), &settings, PATIENCE).unwrap();
    let mut transaction = stuck.begin().unwrap();
    transaction.send(&plain(&name, "too late")).unwrap();
    let begin = Instant::now();
    while payloads(&name, false).is_empty() {
        assert!(begin.elapsed() < PATIENCE);
    }
    fill(&producer(), &name, 1, 0, 1);
    // Without a transaction, but behind one that is open. This ends when the coordinator has aborted it.
    assert_eq!(committed_payloads(&name), ["0"]);
    let error = transaction.commit(PATIENCE).unwrap_err();
    assert!(matches!(&error, TransactionError::Fenced { .. }), "{error:?}");
    assert_eq!(committed_payloads(&name), ["0"]);
}

#[test]
fn a_dropped_transaction_is_aborted_and_a_leaked_one_before_the_next() {
    let name = topic("dropped", 1);
    let mut producer = transactional(&unique("id"));
    let mut transaction = producer.begin().unwrap();
    transaction.send(&plain(&name, "dropped")).unwrap();
    drop(transaction);
    let mut transaction = producer.begin().unwrap();
    transaction.send(&plain(&name, "leaked")).unwrap();
    std::mem::forget(transaction);
    let mut transaction = producer.begin().unwrap();
    transaction.send(&plain(&name, "kept")).unwrap();
    transaction.commit(PATIENCE).unwrap();
    assert_eq!(committed_payloads(&name), ["kept"]);
}

#[test]
fn a_record_that_no_topic_takes_is_refused_at_once_and_the_transaction_goes_on() {
    let name = topic("huge", 1);
    let mut producer = transactional(&unique("id"));
    let huge = "x".repeat(20 << 20);
    let mut transaction = producer.begin().unwrap();
    let error = transaction.send(&plain(&name, &huge)).unwrap_err();
    assert_eq!(error, TransactionError::Record(DeliveryError::TooLarge));
    let error = transaction.send(&plain("", "x")).unwrap_err();
    assert!(matches!(&error, TransactionError::Invalid(_)), "{error:?}");
    transaction.send(&plain(&name, "small")).unwrap();
    transaction.commit(PATIENCE).unwrap();
    assert_eq!(committed_payloads(&name), ["small"]);
}

#[test]
fn a_record_that_its_topic_refuses_makes_the_commit_fail_and_says_why() {
    let name = unique("too-large");
    let mut small = spec(&name, 1);
    small.config.push(("max.message.bytes".into(), "2000".into()));
    block_on(provision(&client(), &[small], PATIENCE)).unwrap();
    let mut producer = transactional(&unique("id"));
    let noise: Vec<u8> = (0..5_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    let mut transaction = producer.begin().unwrap();
    transaction.send(&plain(&name, "before")).unwrap();
    transaction.send(&TransactionRecord::new(&name, &noise)).unwrap();
    let error = transaction.commit(PATIENCE).unwrap_err();
    let TransactionError::Abortable { delivery: Some(cause), .. } = &error else { panic!("{error:?}") };
    assert!(*cause == DeliveryError::TooLarge && cause.is_permanent());
    assert_eq!(transaction.send(&plain(&name, "after")).unwrap_err(), error);
    transaction.abort(PATIENCE).unwrap();
    drop(transaction);
    // librdkafka finds the gap in its sequence numbers only now, and asks for one more abort.
    let mut aborts = 0;
    loop {
        let mut transaction = producer.begin().unwrap();
        transaction.send(&plain(&name, "again")).unwrap();
        let Err(error) = transaction.commit(PATIENCE) else { break };
        assert!(matches!(&error, TransactionError::Abortable { delivery: None, .. }), "{error:?}");
        transaction.abort(PATIENCE).unwrap();
        aborts += 1;
        assert!(aborts < 2, "{error:?}");
    }
    assert_eq!(committed_payloads(&name), ["again"]);
}

#[test]
fn a_full_queue_makes_senders_wait() {
    let name = topic("full", 1);
    let settings = TransactionSettings {
        transactional_id: unique("id"),
        queue_bytes_max: 64 << 10,
        ..Default::default()
    };
    let mut producer = TransactionalProducer::open(&client(), &settings, PATIENCE).unwrap();
    let mut transaction = producer.begin().unwrap();
    let payload = "x".repeat(1 << 10);
    for _ in 0..1_000 {
        transaction.send(&plain(&name, &payload)).unwrap();
    }
    transaction.commit(PATIENCE).unwrap();
    assert_eq!(committed_payloads(&name).len(), 1_000);
}

#[test]
fn settings_that_cannot_be_are_refused() {
    let open = |properties: &[(&str, &str)], settings: TransactionSettings| {
        let mut client = client_at("127.0.0.1:1");
        let properties = properties.iter().map(|(name, value)| (name.to_string(), value.to_string()));
        client.properties.extend(properties);
        TransactionalProducer::open(&client, &settings, Duration::from_millis(100)).unwrap_err()
    };
    let config = |error: &TransactionError, property: &str| match error {
        TransactionError::Invalid(KafkaError::Config { property: found, .. }) => found == property,
        _ => false,
    };
    let error = open(&[], TransactionSettings::default());
    assert!(config(&error, "transactional.id"), "{error:?}");
    let named = TransactionSettings { transactional_id: "id".into(), ..Default::default() };
    for guarded in ["transactional.id", "acks", "enable.idempotence", "transaction.timeout.ms"] {
        let error = open(&[(guarded, "1")], named.clone());
        assert!(config(&error, guarded), "{error:?}");
    }
    let error = open(&[], TransactionSettings { timeout: Duration::from_millis(10), ..named.clone() });
    assert!(config(&error, "transaction.timeout.ms"), "{error:?}");
    let error = open(&[], named);
    assert!(error.is_retriable(), "nobody answers: {error:?}");
}

#[test]
fn calls_out_of_order_do_nothing() {
    let name = topic("order", 1);
    let (_member, metadata) = joined(&unique("group"), &name);
    let mut producer = transactional(&unique("id"));
    let mut transaction = producer.begin().unwrap();
    let error = transaction.send_offsets(&[(first(&name), -1)], &metadata, PATIENCE).unwrap_err();
    assert!(matches!(&error, TransactionError::Invalid(_)), "{error:?}");
    transaction.send_offsets(&[], &metadata, PATIENCE).unwrap();
    transaction.send(&plain(&name, "once")).unwrap();
    transaction.commit(PATIENCE).unwrap();
    for result in [
        transaction.commit(PATIENCE),
        transaction.abort(PATIENCE),
        transaction.send(&plain(&name, "late")),
        transaction.send_offsets(&[(first(&name), 1)], &metadata, PATIENCE),
    ] {
        assert!(matches!(&result, Err(TransactionError::OutOfOrder(_))), "{result:?}");
    }
    drop(transaction);
    producer.begin().unwrap().commit(PATIENCE).unwrap();
    assert_eq!(committed_payloads(&name), ["once"]);
}

#[test]
fn commits_without_an_answer_are_counted() {
    let name = topic("in-flight", 1);
    fill(&producer(), &name, 1, 0, 1);
    let (mut member, _) = joined(&unique("group"), &name);
    member.until("the record is read", |member| member.seen.len() == 1);
    assert_eq!(member.consumer.commits_in_flight(), 0);
    member.consumer.commit_async(&[(first(&name), 1)]).unwrap();
    member.consumer.commit_async(&[(first(&name), 1)]).unwrap();
    assert_eq!(member.consumer.commits_in_flight(), 2);
    member.consumer.commit_sync(&[(first(&name), 1)], PATIENCE).unwrap();
    member.until("the commits are answered", |member| member.consumer.commits_in_flight() == 0);
    assert_eq!(member.consumer.commit_counts().done, 3);
}
