//! Faults of a real Kafka: receipts are withheld while it is stopped, and come when it is back. These tests need a
//! Kafka that they may stop, so they start their own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::ops::Deref;
use std::slice;
use std::time::{Duration, Instant};

use common::*;
use parking_lot::{Mutex, MutexGuard};
use penstock_devstack::Kafka;
use penstock_kafka::{
    Consumer, ConsumerSettings, DeliveryError, Polled, Producer, ProducerSettings, ScanFrom, Scanner,
    TopicPartition, TransactionError, TransactionSettings, TransactionalProducer,
};

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

#[test]
fn a_consumer_whose_commit_is_not_answered_can_be_dropped() {
    let kafka = kafka();
    let name = topic("drop-committing", 1);
    let mut member = Member::join(&unique("group"), &name);
    member.until("the partition is assigned", |member| member.assigned.len() == 1);
    kafka.pause().unwrap();
    let ended = std::thread::spawn(move || {
        let Member { mut consumer, .. } = member;
        consumer.commit_async(&[(TopicPartition::new(name.as_str(), 0), 1)]).unwrap();
        consumer.begin_close().unwrap();
        drop(consumer.poll(1, Duration::from_secs(1)).unwrap());
        let begin = Instant::now();
        drop(consumer);
        begin.elapsed()
    });
    let took = ended.join().unwrap();
    kafka.resume().unwrap();
    assert!(took < PATIENCE, "{took:?}");
}

#[test]
fn commits_from_before_a_membership_was_lost_are_not_waited_for() {
    let kafka = kafka();
    let name = topic("commit-lost", 1);
    let partition = TopicPartition::new(name.as_str(), 0);
    let settings = ConsumerSettings { session_timeout_ms: 6_000, ..group_settings(&unique("group"), &name) };
    let mut consumer = Consumer::subscribe(&client(), &settings).unwrap();
    let (mut memberships, mut losses) = (0, 0);
    let mut step = |consumer: &mut Consumer| {
        let (partitions, lost) = match consumer.poll(1, Duration::from_millis(50)).unwrap() {
            Polled::Assigned(partitions) => (partitions, None),
            Polled::Revoked { partitions, lost } => (partitions, Some(lost)),
            Polled::Idle | Polled::Records(_) => return (memberships, losses),
        };
        match lost {
            None => {
                consumer.assign_done(&partitions).unwrap();
                memberships += 1;
            }
            Some(lost) => {
                let _ = consumer.revoke_done(&partitions);
                losses += usize::from(lost);
            }
        }
        (memberships, losses)
    };
    let begin = Instant::now();
    while step(&mut consumer).0 == 0 {
        assert!(begin.elapsed() < PATIENCE, "it becomes a member");
    }
    kafka.pause().unwrap();
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(9) {
        let _ = consumer.commit_async(&[(partition.clone(), 1)]);
        step(&mut consumer);
    }
    kafka.resume().unwrap();
    let begin = Instant::now();
    loop {
        let (memberships, losses) = step(&mut consumer);
        if memberships == 2 && losses == 1 && consumer.commits_in_flight() == 0 {
            break;
        }
        let open = consumer.commits_in_flight();
        assert!(begin.elapsed() < PATIENCE, "{memberships} memberships, {losses} lost, {open} commits open");
    }
}

#[test]
fn a_commit_that_timed_out_is_resumed_and_comes_back_with_its_outcome() {
    let kafka = kafka();
    let name = topic("commit-paused", 1);
    let id = unique("id");
    let mut producer = transactional(&id);
    let mut transaction = producer.begin().unwrap();
    transaction.send(&plain(&name, "resumed")).unwrap();
    kafka.pause().unwrap();
    for _ in 0..2 {
        let error = transaction.commit(Duration::from_millis(500)).unwrap_err();
        assert!(error.is_retriable(), "{error:?}");
    }
    // librdkafka lets nothing else through, and Kafka may have it.
    let error = transaction.abort(Duration::from_millis(500)).unwrap_err();
    assert!(matches!(&error, TransactionError::OutOfOrder(_)), "{error:?}");
    kafka.resume().unwrap();
    transaction.commit(PATIENCE).unwrap();
    drop(transaction);
    assert_eq!(committed_payloads(&name), ["resumed"]);

    // Who does not wait for the outcome has to replace the producer.
    let mut transaction = producer.begin().unwrap();
    transaction.send(&plain(&name, "in doubt")).unwrap();
    kafka.pause().unwrap();
    assert!(transaction.commit(Duration::from_millis(500)).unwrap_err().is_retriable());
    drop(transaction);
    let error = producer.begin().map(drop).unwrap_err();
    assert!(matches!(&error, TransactionError::Fatal { .. }), "{error:?}");
    kafka.resume().unwrap();
    drop(producer);
    let mut successor = transactional(&id);
    let settled = committed_payloads(&name);
    assert!(settled == ["resumed"] || settled == ["resumed", "in doubt"], "{settled:?}");
    let mut transaction = successor.begin().unwrap();
    transaction.send(&plain(&name, "after")).unwrap();
    transaction.commit(PATIENCE).unwrap();
    assert_eq!(committed_payloads(&name), [settled, vec!["after".to_owned()]].concat());
}

#[test]
fn an_abort_that_timed_out_is_resumed() {
    let kafka = kafka();
    let name = topic("abort-paused", 1);
    let mut producer = transactional(&unique("id"));
    let mut transaction = producer.begin().unwrap();
    transaction.send(&plain(&name, "given up")).unwrap();
    let begin = Instant::now();
    while payloads(&name, false).is_empty() {
        assert!(begin.elapsed() < PATIENCE);
    }
    kafka.pause().unwrap();
    let error = transaction.abort(Duration::from_millis(500)).unwrap_err();
    assert!(error.is_retriable(), "{error:?}");
    let error = transaction.commit(Duration::from_millis(500)).unwrap_err();
    assert!(matches!(&error, TransactionError::OutOfOrder(_)), "{error:?}");
    // Tries again for a second, and leaves the rest to the next transaction.
    drop(transaction);
    kafka.resume().unwrap();
    let mut transaction = producer.begin().unwrap();
    transaction.send(&plain(&name, "kept")).unwrap();
    transaction.commit(PATIENCE).unwrap();
    assert_eq!(committed_payloads(&name), ["kept"]);
}

#[test]
fn offsets_that_were_not_taken_keep_their_records_from_being_committed() {
    let kafka = kafka();
    let name = topic("offsets-paused", 1);
    let mut member = Member::join(&unique("group"), &name);
    member.until("the partition is assigned", |member| !member.assigned.is_empty());
    let metadata = member.consumer.group_metadata().unwrap();
    let partition = TopicPartition::new(name.as_str(), 0);
    let offsets = [(partition.clone(), 7)];
    let settings = TransactionSettings {
        transactional_id: unique("id"),
        timeout: Duration::from_secs(3),
        ..TransactionSettings::default()
    };
    let mut producer = TransactionalProducer::open(&client(), &settings, PATIENCE).unwrap();
    let mut transaction = producer.begin().unwrap();
    kafka.pause().unwrap();
    let error = transaction.send_offsets(&offsets, &metadata, Duration::from_millis(500)).unwrap_err();
    assert!(error.is_retriable() || error.requires_abort(), "{error:?}");
    let refused = transaction.commit(PATIENCE).unwrap_err();
    assert!(matches!(&refused, TransactionError::OutOfOrder(_)) || refused == error, "{refused:?}");
    kafka.resume().unwrap();
    let aborted = transaction.abort(PATIENCE);
    drop(transaction);
    if let Err(error) = aborted {
        // What was sent before the pause waits in a connection that librdkafka has given up. Kafka may read the abort on the
        // new one first, and then knows of no transaction: fatal for the client, and a new one goes on.
        assert!(
            matches!(&error, TransactionError::Fatal { code, .. } if *code == "INVALID_TXN_STATE"),
            "{error:?}"
        );
        drop(producer);
        producer = TransactionalProducer::open(&client(), &settings, PATIENCE).unwrap();
    }
    let mut transaction = producer.begin().unwrap();
    transaction.send_offsets(&offsets, &metadata, PATIENCE).unwrap();
    transaction.commit(PATIENCE).unwrap();
    let begin = Instant::now();
    while member.consumer.committed(slice::from_ref(&partition), PATIENCE).unwrap()[0].1 != Some(7) {
        assert!(begin.elapsed() < PATIENCE);
    }
}

/// Reads input, writes output and commits both in transactions, as a role would: what an error says is done.
struct Worker {
    kafka: &'static Kafka,
    id: String,
    input: TopicPartition,
    output: String,
    member: Member,
    producer: Option<TransactionalProducer>,
    /// Names of the errors met, for the test's message.
    met: Vec<String>,
}

impl Worker {
    const RECORDS: i64 = 5;
    /// Partitions of `__consumer_offsets` in the devstack's Kafka.
    const OFFSETS_PARTITIONS: i32 = 4;
    /// What is not decided for so long is never decided.
    const UNDECIDED: Duration = Duration::from_secs(20);

    /// Rounds that are committed, asked from Kafka.
    ///
    /// Kafka that ends at the wrong moment can leave the offsets of a transaction that has ended undecided for ever. With
    /// its records visible these say it; with its records undecided as well both are aborted, as an operator would.
    fn rounds(&self) -> i64 {
        const ANSWER: Duration = Duration::from_secs(5);
        let begin = Instant::now();
        loop {
            match self.member.consumer.committed(slice::from_ref(&self.input), ANSWER) {
                Ok(found) => return found[0].1.unwrap_or(0),
                Err(error) if begin.elapsed() < Self::UNDECIDED => assert!(error.is_transient(), "{error}"),
                Err(_) => break,
            }
        }
        if let Ok(visible) = self.committed() {
            let visible = i64::try_from(visible.len()).unwrap();
            assert_eq!(visible % Self::RECORDS, 0, "a transaction is visible in part");
            return visible / Self::RECORDS;
        }
        let aborted = self.kafka.abort_hanging(&self.output, [0]).unwrap();
        let undecided = self.kafka.abort_hanging("__consumer_offsets", 0..Self::OFFSETS_PARTITIONS).unwrap();
        assert_eq!((aborted, undecided), (1, 1), "{:#?}", self.met);
        self.rounds()
    }

    /// What readers of committed records see.
    fn committed(&self) -> Result<Vec<String>, Hanging> {
        if settles(&self.output, Duration::from_secs(10)) {
            return Ok(payloads(&self.output, true));
        }
        let state = self.kafka.transaction_state(&self.id).unwrap();
        // One that is not complete would be open by our own doing.
        assert!(state.starts_with("Complete"), "a transaction stays open: {state}, {:#?}", self.met);
        Err(Hanging)
    }

    fn producer(&mut self) -> TransactionalProducer {
        let begin = Instant::now();
        let settings =
            TransactionSettings { transactional_id: self.id.clone(), ..TransactionSettings::default() };
        loop {
            if let Some(producer) = self.producer.take() {
                return producer;
            }
            match TransactionalProducer::open(&client(), &settings, Duration::from_secs(5)) {
                Ok(producer) => self.producer = Some(producer),
                Err(error) => assert!(error.is_retriable() && begin.elapsed() < PATIENCE, "{error:?}"),
            }
        }
    }

    /// One round; `fault` comes between the sending and the commit.
    fn round(&mut self, round: i64, fault: &mut Option<impl FnOnce()>) {
        let mut fault = fault.take();
        let begin = Instant::now();
        while self.rounds() == round {
            assert!(begin.elapsed() < PATIENCE, "round {round} does not end: {:?}", self.met);
            let mut producer = self.producer();
            match self.attempt(&mut producer, round, &mut fault) {
                Ok(()) => self.producer = Some(producer),
                Err(error) if error.is_fatal() => self.met.push(error.to_string()),
                Err(error) => {
                    self.met.push(error.to_string());
                    self.producer = Some(producer);
                }
            }
        }
        assert_eq!(self.rounds(), round + 1);
    }

    fn attempt(
        &mut self,
        producer: &mut TransactionalProducer,
        round: i64,
        fault: &mut Option<impl FnOnce()>,
    ) -> Result<(), TransactionError> {
        const STEP: Duration = Duration::from_secs(2);
        let metadata = self.member.consumer.group_metadata().unwrap();
        let mut transaction = producer.begin()?;
        for number in 0..Self::RECORDS {
            transaction.send(&plain(&self.output, &format!("{round}-{number}")))?;
        }
        transaction.send_offsets(&[(self.input.clone(), round + 1)], &metadata, STEP)?;
        if let Some(fault) = fault.take() {
            fault();
        }
        loop {
            match transaction.commit(STEP) {
                Err(error) if error.is_retriable() => self.met.push(error.to_string()),
                result => return result,
            }
        }
    }
}

/// Kafka takes a transaction for complete and holds its records back all the same: a coordinator that completes it while
/// the partition has no leader writes no marker (4.3.1). If its offsets are decided there is no way to go on.
#[derive(Debug)]
struct Hanging;

#[test]
fn transactions_are_stored_once_across_kill_9_of_kafka() {
    let attempts = (1..=3).map(|_| transactions_across_kill_9());
    let outcomes: Vec<_> = attempts.take_while(Result::is_err).collect();
    assert!(outcomes.len() < 3, "Kafka has left a transaction hanging each time");
}

fn transactions_across_kill_9() -> Result<(), Hanging> {
    let kafka = kafka();
    let (input, output) = (topic("kill-input", 1), topic("kill-output", 1));
    let mut settings = group_settings(&unique("group"), &input);
    // Longer than Kafka takes to start: this test is about the transactions, not about the membership.
    settings.session_timeout_ms = 45_000;
    settings.read_committed = true;
    let mut member = Member::with(Consumer::subscribe(&client(), &settings).unwrap());
    member.until("the partition is assigned", |member| !member.assigned.is_empty());
    let mut worker = Worker {
        kafka: kafka.kafka,
        id: unique("id"),
        input: TopicPartition::new(input.as_str(), 0),
        output,
        member,
        producer: None,
        met: Vec::new(),
    };
    let (mut restarts, rounds) = (Vec::new(), 6_i64);
    for round in 0..rounds {
        let (output, server) = (worker.output.clone(), kafka.kafka);
        let delivered = move || {
            let (begin, record) = (Instant::now(), format!("{round}-{}", Worker::RECORDS - 1));
            while !payloads(&output, false).contains(&record) {
                assert!(begin.elapsed() < PATIENCE, "the records of round {round} are not delivered");
            }
        };
        // Killed before the records are delivered, before the commit is sent, and at about the time that it is.
        let fault = || match round {
            1 | 2 => {
                if round == 2 {
                    delivered();
                }
                server.kill_9().unwrap();
                restarts.push(std::thread::spawn(|| server.restart().unwrap()));
            }
            3..5 => {
                delivered();
                let pause = Duration::from_millis(2 * (round.cast_unsigned() - 3));
                restarts.push(std::thread::spawn(move || {
                    std::thread::sleep(pause);
                    server.kill_9().unwrap();
                    server.restart().unwrap();
                }));
            }
            _ => {}
        };
        worker.round(round, &mut Some(fault));
        for restart in restarts.drain(..) {
            restart.join().unwrap();
        }
    }
    assert!(!worker.met.is_empty(), "no fault was met");
    let expected: Vec<_> = (0..rounds)
        .flat_map(|round| (0..Worker::RECORDS).map(move |number| format!("{round}-{number}")))
        .collect();
    assert_eq!(worker.committed()?, expected, "{:#?}", worker.met);
    let state = kafka.kafka.transaction_state(&worker.id).unwrap();
    assert!(state.ends_with("Commit"), "{state}");
    Ok(())
}

/// After a pause this long Kafka's controller has fenced the broker, which then may name no brokers at all; see
/// `tests/fenced` for that case by itself.
#[test]
fn every_client_goes_on_after_pauses_that_fence_the_broker() {
    const ROUNDS: u32 = 2;
    const PARTITIONS: i32 = 48;
    let kafka = kafka();
    let name = topic("fenced", PARTITIONS);
    let producer = Producer::new(
        &client(),
        &ProducerSettings { delivery_timeout_ms: 60_000, ..ProducerSettings::default() },
    )
    .unwrap();
    let mut transactions = transactional(&unique("id"));
    let settings = ConsumerSettings { session_timeout_ms: 45_000, ..group_settings(&unique("group"), &name) };
    let mut member = Member::with(Consumer::subscribe(&client(), &settings).unwrap());
    let mut expected = 0;
    for round in 0..=ROUNDS {
        if round > 0 {
            let topic = producer.topic(&name).unwrap();
            let under_way: Vec<_> =
                (0..PARTITIONS).map(|partition| send(&producer, record(&topic, partition, b"x"))).collect();
            kafka.pause().unwrap();
            std::thread::sleep(Duration::from_secs(5));
            kafka.resume().unwrap();
            under_way.into_iter().for_each(|receipt| resolve(receipt).unwrap());
            expected += PARTITIONS as usize;
        }
        let begin = Instant::now();
        fill(&producer, &name, PARTITIONS, round, 1);
        let mut transaction = transactions.begin().unwrap();
        transaction.send(&plain(&name, "transaction")).unwrap();
        transaction.commit(PATIENCE).unwrap();
        expected += PARTITIONS as usize + 1;
        member.until("all records are there", |member| member.seen.len() >= expected);
        assert!(begin.elapsed() < Duration::from_secs(20), "round {round} took {:?}", begin.elapsed());
    }
    assert_eq!(member.seen.len(), expected);
    assert_eq!(producer.generation(), 1);
}
