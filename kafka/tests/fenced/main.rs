//! A fenced Kafka, as it is right after a pause, answers that there are no brokers: librdkafka then forgets the ones it
//! knows, and every kind of client must come back by itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "../common/mod.rs"]
mod common;
mod delay;
mod proxy;

use std::time::{Duration, Instant};

use common::*;
use penstock_kafka::{
    ClientSettings, Consumer, Producer, ProducerSettings, ScanFrom, Scanner, TransactionSettings,
    TransactionalProducer, provision,
};
use proxy::PROXY;

/// As many as a topic of Penstock has.
const PARTITIONS: i32 = 48;
/// Clients are back within this.
const SOON: Duration = Duration::from_secs(15);

/// Beside the proxy.
fn direct() -> ClientSettings {
    client_at(&PROXY.kafka.brokers())
}

fn new_topic(name: &str) -> String {
    let name = unique(name);
    block_on(provision(&direct(), &[spec(&name, PARTITIONS)], PATIENCE)).unwrap();
    name
}

fn producer_of(client: &ClientSettings) -> Producer {
    Producer::new(client, &ProducerSettings::default()).unwrap()
}

#[test]
fn a_producer_goes_on() {
    let id = unique("producer");
    let name = new_topic("records");
    let producer = producer_of(&PROXY.client(&id));
    fill(&producer, &name, PARTITIONS, 0, 1);
    // More than once: librdkafka's own way back stays blocked.
    for _ in 0..2 {
        PROXY.fence(&id);
        let begin = Instant::now();
        fill(&producer, &name, PARTITIONS, 1, 10);
        assert!(begin.elapsed() < SOON, "deliveries took {:?}", begin.elapsed());
    }
    assert_eq!(producer.generation(), 1, "the client itself must come back");
}

#[test]
fn a_member_of_a_group_goes_on() {
    let id = unique("member");
    let name = new_topic("records");
    let producer = producer_of(&direct());
    let settings = group_settings(&unique("group"), &name);
    let mut member = Member::with(Consumer::subscribe(&PROXY.client(&id), &settings).unwrap());
    fill(&producer, &name, PARTITIONS, 0, 1);
    let all = |count| move |member: &Member| member.seen.len() == PARTITIONS as usize * count;
    member.until("the first records are there", all(1));
    PROXY.fence(&id);
    let begin = Instant::now();
    fill(&producer, &name, PARTITIONS, 1, 10);
    member.until("the later records are there", all(11));
    assert!(begin.elapsed() < SOON, "records took {:?}", begin.elapsed());
    assert_eq!(member.revocations, 0, "it stays a member");
    let next: Vec<_> = member.next.clone().into_iter().collect();
    member.consumer.commit_sync(&next, PATIENCE).unwrap();
    member.leave();
}

/// Commits records; `between` comes after the first.
fn commit(producer: &mut TransactionalProducer, topic: &str, payloads: &[&str], between: impl FnOnce()) {
    let mut transaction = producer.begin().unwrap();
    let (first, others) = payloads.split_first().unwrap();
    transaction.send(&plain(topic, first)).unwrap();
    between();
    for payload in others {
        transaction.send(&plain(topic, payload)).unwrap();
    }
    transaction.commit(PATIENCE).unwrap();
}

#[test]
fn a_producer_of_transactions_goes_on() {
    let id = unique("transactions");
    let name = new_topic("records");
    let settings = TransactionSettings { transactional_id: id.clone(), ..TransactionSettings::default() };
    let mut producer = TransactionalProducer::open(&PROXY.client(&id), &settings, PATIENCE).unwrap();
    commit(&mut producer, &name, &["one"], || ());
    let begin = Instant::now();
    commit(&mut producer, &name, &["two", "three"], || PROXY.fence(&id));
    commit(&mut producer, &name, &["four"], || ());
    assert!(begin.elapsed() < SOON, "commits took {:?}", begin.elapsed());
    let mut scanner = Scanner::open(&direct(), &name, &ScanFrom::Beginning, true).unwrap();
    let mut found = Vec::new();
    while let Some(batch) = scanner.next_batch(100, Duration::from_millis(200)).unwrap() {
        found.extend(batch.iter().map(|record| String::from_utf8(record.payload.to_vec()).unwrap()));
    }
    assert_eq!(found, ["one", "two", "three", "four"]);
}

#[test]
fn a_scan_goes_on() {
    const BATCHES: u32 = 3;
    let id = unique("scanner");
    let name = new_topic("records");
    let producer = producer_of(&direct());
    for number in 0..BATCHES {
        fill(&producer, &name, PARTITIONS, number, 1);
    }
    // One batch of a partition at a time, so that most are fetched later.
    let mut client = PROXY.client(&id);
    for property in ["queued.min.messages", "max.partition.fetch.bytes"] {
        client.properties.insert(property.into(), "1".into());
    }
    let mut scanner = Scanner::open(&client, &name, &ScanFrom::Beginning, false).unwrap();
    PROXY.fence(&id);
    let begin = Instant::now();
    let mut found = 0;
    while let Some(batch) = scanner.next_batch(1_000, Duration::from_millis(200)).unwrap() {
        found += batch.iter().count();
        assert!(begin.elapsed() < SOON, "{found} records in {:?}", begin.elapsed());
    }
    assert_eq!(found, PARTITIONS as usize * BATCHES as usize);
}

#[test]
fn topics_are_provisioned() {
    let id = unique("admin");
    let names = [new_topic("old"), unique("new")];
    let specs = names.each_ref().map(|name| spec(name, PARTITIONS));
    PROXY.fence_next(&id);
    let begin = Instant::now();
    block_on(provision(&PROXY.client(&id), &specs, PATIENCE)).unwrap();
    PROXY.wait_fenced(&id);
    assert!(begin.elapsed() < SOON, "provisioning took {:?}", begin.elapsed());
}

#[test]
fn a_client_that_is_never_connected_ends_in_time() {
    let producer = producer_of(&client_at("127.0.0.1:1"));
    std::thread::sleep(Duration::from_secs(4));
    let begin = Instant::now();
    drop(producer);
    assert!(begin.elapsed() < Duration::from_secs(5));
}
