//! The role against a real Kafka and a real ClickHouse. Faults have an oracle: every reading that Kafka has must be a
//! row, whatever happened on the way.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends")]

mod support;

use std::sync::OnceLock;

use penstock_devstack::{ClickHouse, ClickHouseOptions, Stack, StackOptions};
use penstock_kafka::ProvisionError;
use penstock_proto::topics::{READINGS, header};
use penstock_storage_writer::WriterError;
use penstock_storage_writer::clickhouse::Client;
use prost::Message;

use support::fleet::{self, Rows, Source, Writer, config, failures, key, reading, until};

/// The stack of this test binary. It ends with the process.
fn stack() -> &'static Stack {
    static STACK: OnceLock<Stack> = OnceLock::new();
    STACK.get_or_init(|| Stack::start(&StackOptions::default()).expect("the stack starts"))
}

#[tokio::test(flavor = "multi_thread")]
async fn readings_become_rows() {
    let config = config(&stack().kafka, &stack().clickhouse);
    let writer = Writer::ready(&config).await;
    let (mut source, rows) = (Source::new(&config), Rows::of(&config));
    source.readings(100, 0, 50);
    source.delivered().await;
    rows.wait_for(5_000).await;
    assert_eq!(rows.number("count()", "latest").await, 100);
    assert_eq!(rows.number("min(sequence)", "latest").await, 49);
    assert_eq!(rows.number("countIf(metrics['rssi'] = -70 AND battery_level = 90)", "readings").await, 5_000);
    assert_eq!(
        rows.number("countIf(abs(dateDiff('second', received_at, now64(3))) < 600)", "readings").await,
        5_000
    );
    assert_eq!(rows.number("uniqExact(kafka_partition, kafka_offset)", "readings").await, 5_000);
    assert_eq!(writer.metrics.rows(), 5_000);
    writer.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_goes_on_where_the_last_one_stopped() {
    let config = config(&stack().kafka, &stack().clickhouse);
    let rows = Rows::of(&config);
    for round in 0..3 {
        let writer = Writer::ready(&config).await;
        let mut source = Source::new(&config);
        source.readings(50, round * 20, 20);
        source.delivered().await;
        rows.wait_for(1_000 * (round + 1)).await;
        writer.stop().await.unwrap();
        // Nothing is read twice after a stop in good order.
        assert_eq!(rows.number("count()", "readings").await, 1_000 * (round + 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_crashed_loses_nothing() {
    let config = config(&stack().kafka, &stack().clickhouse);
    let rows = Rows::of(&config);
    let mut source = Source::new(&config);
    let mut crashes = 0;
    for round in 0..5 {
        let writer = Writer::ready(&config).await;
        source.readings(50, round * 100, 100);
        until("some rows are stored", || async { writer.metrics.rows() > 0 }).await;
        writer.crash().await;
        crashes += 1;
    }
    source.delivered().await;
    let writer = Writer::ready(&config).await;
    rows.wait_for(50 * 500).await;
    writer.stop().await.unwrap();
    assert_eq!(crashes, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_cannot_become_rows_are_stored_with_their_reason() {
    let config = config(&stack().kafka, &stack().clickhouse);
    let writer = Writer::ready(&config).await;
    let (mut source, rows) = (Source::new(&config), Rows::of(&config));
    let good = reading(1).encode_to_vec();
    let mut battery = reading(2);
    battery.battery_level = Some(-5);
    source.readings(10, 0, 10);
    source.record(Some(&key(1)), b"\xff\xff\xff");
    source.record(None, &good);
    source.record(Some(b"sensor-17"), &good);
    source.record(Some(&key(3)), &battery.encode_to_vec());
    source.readings(10, 10, 10);
    source.delivered().await;
    rows.wait_for(200).await;
    assert!(writer.metric("penstock_writer_insert_bytes_total") > 200.0 * 75.0);
    let stored = || {
        let config = config.clone();
        tokio::task::spawn_blocking(move || failures(&config))
    };
    until("four failures are stored", || async { stored().await.unwrap().len() >= 4 }).await;
    let failures = stored().await.unwrap();
    let mut reasons: Vec<&str> =
        failures.iter().map(|(headers, ..)| headers[header::REASON].as_str()).collect();
    reasons.sort_unstable();
    assert_eq!(reasons, ["bad-key", "bad-key", "battery-out-of-range", "undecodable"]);
    for (headers, record_key, payload) in &failures {
        assert_eq!(headers[header::SOURCE_TOPIC], format!("{}{READINGS}", config.kafka.topic_prefix));
        assert!(headers[header::SOURCE_PARTITION].parse::<u16>().unwrap() < 48);
        assert!(headers[header::SOURCE_OFFSET].parse::<u64>().is_ok());
        assert!(!headers[header::DETAIL].is_empty());
        if headers[header::REASON] == "undecodable" {
            assert_eq!((record_key.as_deref(), &payload[..]), (Some(&key(1)[..]), &b"\xff\xff\xff"[..]));
        }
    }
    // Their offsets are committed: another writer does not meet them again.
    writer.stop().await.unwrap();
    let writer = Writer::ready(&config).await;
    source.readings(10, 20, 1);
    source.delivered().await;
    rows.wait_for(210).await;
    writer.stop().await.unwrap();
    assert_eq!(stored().await.unwrap().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_clickhouse_is_away_reading_pauses_and_memory_stays_bounded() {
    let clickhouse = ClickHouse::start(&ClickHouseOptions::default()).expect("ClickHouse starts");
    let mut config = config(&stack().kafka, &clickhouse);
    config.writer.batch_bytes_max = 64 * 1024;
    config.writer.fetch_bytes_max = 256 * 1024;
    let writer = Writer::ready(&config).await;
    let (mut source, rows) = (Source::new(&config), Rows::of(&config));
    source.readings(100, 0, 10);
    source.delivered().await;
    rows.wait_for(1_000).await;

    clickhouse.kill_9().unwrap();
    let mut peak = 0;
    for round in 1..=20 {
        source.readings(100, round * 10, 10);
        source.delivered().await;
        peak = peak.max(writer.metrics.buffered_bytes_now());
    }
    until("reading pauses", || async { writer.metrics.is_paused() }).await;
    assert!(writer.readiness.waiting_for().contains(&"clickhouse"), "{:?}", writer.readiness.waiting_for());
    source.readings(100, 210, 10);
    source.delivered().await;
    peak = peak.max(writer.metrics.buffered_bytes_now());
    let budget = config.writer.batch_bytes_max * (config.writer.inserts_inflight_max + 1)
        + config.writer.fetch_bytes_max;
    assert!(peak > 0 && usize::try_from(peak).unwrap() <= budget, "{peak} bytes buffered, {budget} allowed");
    assert_eq!(writer.metrics.rows(), 1_000);

    clickhouse.restart().unwrap();
    rows.wait_for(22_000).await;
    until("the writer is ready again", || async { writer.readiness.waiting_for().is_empty() }).await;
    until("reading goes on", || async { !writer.metrics.is_paused() }).await;
    writer.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn clickhouse_that_is_killed_again_and_again_has_every_row_in_the_end() {
    let clickhouse = ClickHouse::start(&ClickHouseOptions::default()).expect("ClickHouse starts");
    let config = config(&stack().kafka, &clickhouse);
    let writer = Writer::ready(&config).await;
    let (mut source, rows) = (Source::new(&config), Rows::of(&config));
    for round in 0..3 {
        source.readings(100, round * 100, 50);
        until("rows are being stored", || async { writer.metrics.rows() > round * 1_000 }).await;
        clickhouse.kill_9().unwrap();
        source.readings(100, round * 100 + 50, 50);
        source.delivered().await;
        clickhouse.restart().unwrap();
    }
    rows.wait_for(30_000).await;
    writer.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_insert_that_is_refused_is_tried_until_somebody_has_repaired_the_table() {
    let config = config(&stack().kafka, &stack().clickhouse);
    let writer = Writer::ready(&config).await;
    let (mut source, rows) = (Source::new(&config), Rows::of(&config));
    let client = Client::new(&config.clickhouse).unwrap();
    let rename =
        |from: &str, to: &str| format!("RENAME TABLE {0}.{from} TO {0}.{to}", config.clickhouse.database);
    client.query(&rename("readings", "hidden")).await.unwrap();
    source.readings(10, 0, 10);
    source.delivered().await;
    until("the insert is refused", || async { writer.readiness.waiting_for() == ["clickhouse"] }).await;
    assert_eq!(writer.metrics.rows(), 0);
    let refused = "penstock_writer_insert_failures_total{class=\"permanent\",kind=\"UNKNOWN_TABLE\"}";
    assert!(writer.metric(refused) >= 1.0);
    client.query(&rename("hidden", "readings")).await.unwrap();
    rows.wait_for(100).await;
    until("the writer is ready again", || async { writer.readiness.waiting_for().is_empty() }).await;
    writer.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_records_that_cannot_become_rows_does_not_hold_up_readings() {
    let config = config(&stack().kafka, &stack().clickhouse);
    let writer = Writer::ready(&config).await;
    let (mut source, rows) = (Source::new(&config), Rows::of(&config));
    for number in 0..20_000u32 {
        source.record(Some(&key(number)), b"no reading");
    }
    source.readings(10, 0, 10);
    source.delivered().await;
    rows.wait_for(100).await;
    writer.stop().await.unwrap();
    let stored = tokio::task::spawn_blocking(move || failures(&config)).await.unwrap();
    assert_eq!(stored.len(), 20_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_whose_kafka_was_silent_past_the_session_loses_nothing() {
    let stack = Stack::start_async(StackOptions::default()).await.expect("the stack starts");
    let config = config(&stack.kafka, &stack.clickhouse);
    let writer = Writer::ready(&config).await;
    let (mut source, rows) = (Source::new(&config), Rows::of(&config));
    source.readings(100, 0, 50);
    source.delivered().await;
    until("the writer works", || async { writer.metrics.rows() > 0 }).await;
    stack.kafka.pause().unwrap();
    let lost = || writer.metric("penstock_writer_rebalances_total{event=\"lost\"}");
    until("the partitions are lost", || async { lost() > 0.0 }).await;
    until("the writer notices", || async { writer.readiness.waiting_for() == ["kafka"] }).await;
    stack.kafka.resume().unwrap();
    source.readings(100, 50, 50);
    source.delivered().await;
    rows.wait_for(10_000).await;
    until("the writer is ready again", || async { writer.readiness.waiting_for().is_empty() }).await;
    writer.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_writers_share_the_partitions_and_nothing_is_missing() {
    let config = config(&stack().kafka, &stack().clickhouse);
    let rows = Rows::of(&config);
    let first = Writer::ready(&config).await;
    let mut source = Source::new(&config);
    source.readings(200, 0, 50);
    until("the first writer works", || async { first.metrics.rows() > 0 }).await;
    let second = Writer::ready(&config).await;
    source.readings(200, 50, 50);
    // More readings until the second one has its share, so that the rebalance happens under load.
    let mut sequence = 100;
    let deadline = std::time::Instant::now() + fleet::PATIENCE;
    while second.metrics.rows() == 0 {
        source.readings(200, sequence, 1);
        source.delivered().await;
        sequence += 1;
        assert!(std::time::Instant::now() < deadline, "the second writer gets no partition");
    }
    first.stop().await.unwrap();
    source.readings(200, sequence, 50);
    source.delivered().await;
    rows.wait_for(200 * (sequence + 50)).await;
    second.stop().await.unwrap();
    // Both left in good order, so nothing was read twice either.
    assert_eq!(rows.number("count()", "readings").await, 200 * (sequence + 50));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_waits_for_kafka_and_clickhouse_that_are_not_there_yet() {
    let stack = Stack::start_async(StackOptions::default()).await.expect("the stack starts");
    let config = config(&stack.kafka, &stack.clickhouse);
    stack.kafka.kill_9().unwrap();
    stack.clickhouse.kill_9().unwrap();
    let writer = Writer::start(&config);
    until("it waits", || async { writer.readiness.waiting_for() == ["kafka", "clickhouse", "schema"] }).await;
    stack.clickhouse.restart().unwrap();
    until("the schema is there", || async { writer.readiness.waiting_for() == ["kafka"] }).await;
    stack.kafka.restart().unwrap();
    writer.wait_ready().await;
    let mut source = Source::new(&config);
    source.readings(10, 0, 10);
    source.delivered().await;
    Rows::of(&config).wait_for(100).await;
    writer.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_ends_the_writer_with_a_clear_error() {
    let mut config = config(&stack().kafka, &stack().clickhouse);
    config.clickhouse.user = "nobody".to_owned();
    config.clickhouse.password = "wrong".into();
    let error = Writer::start(&config).ended().await.unwrap_err();
    assert!(error.to_string().contains("check clickhouse.user and clickhouse.password"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_with_another_number_of_partitions_ends_the_writer_with_a_clear_error() {
    let config = config(&stack().kafka, &stack().clickhouse);
    let settings = penstock_kafka::ClientSettings {
        brokers: config.kafka.brokers.clone(),
        client_id: "test".to_owned(),
        properties: Default::default(),
    };
    let topic = penstock_kafka::TopicSpec {
        name: format!("{}{READINGS}", config.kafka.topic_prefix),
        partitions: 3,
        replication_factor: -1,
        ..penstock_kafka::TopicSpec::default()
    };
    penstock_kafka::provision(&settings, &[topic], fleet::PATIENCE).await.unwrap();
    let error = Writer::start(&config).ended().await.unwrap_err();
    let wrong =
        matches!(&error, WriterError::Topics(ProvisionError::WrongPartitions { found: 3, expected: 48, .. }));
    assert!(wrong, "{error}");
}
