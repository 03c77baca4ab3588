//! Blocks, schema and errors against a real ClickHouse.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends")]

mod support;

use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use prost::Message;

use penstock_devstack::{ClickHouse, ClickHouseOptions};
use penstock_proto::v1::SensorReading;
use penstock_proto::{DeviceId, ReadingView};
use penstock_service::config;
use penstock_storage_writer::clickhouse::{CODES, CallError, Client};
use penstock_storage_writer::insert::{Inserter, Outcome};
use penstock_storage_writer::migrations::{self, MigrateError, Migration, State};
use penstock_storage_writer::native::{Row, Rows};
use support::{clickhouse, clickhouse_config, lines, migrated, value};

/// A reading with where it came from, as it goes into a block.
#[derive(Clone, Debug)]
struct Source {
    device: [u8; 16],
    reading: SensorReading,
    received_at_ms: i64,
    partition: u16,
    offset: u64,
}

fn block(sources: &[Source]) -> Bytes {
    let mut rows = Rows::default();
    for source in sources {
        let bytes = source.reading.encode_to_vec();
        rows.push(&Row {
            device: DeviceId::from_bytes(source.device),
            reading: &ReadingView::decode(&bytes).unwrap(),
            received_at_ms: source.received_at_ms,
            kafka_partition: source.partition,
            kafka_offset: source.offset,
        });
    }
    let mut out = Vec::new();
    rows.encode(&mut out);
    out.into()
}

fn source(device: u8, timestamp: i64, sequence: u64, temperature: f32) -> Source {
    Source {
        device: [device; 16],
        reading: SensorReading { timestamp, sequence, temperature: Some(temperature), ..Default::default() },
        received_at_ms: timestamp + 10,
        partition: 1,
        offset: sequence,
    }
}

/// The start of 2026-09-21 14:13:20 UTC, in milliseconds.
const T0: i64 = 1_790_000_000_000;

fn sources() -> impl Strategy<Value = Vec<Source>> {
    let name = prop_oneof!["[a-z_]{1,12}", "\\PC{0,20}", "[\\x00-\\x7f]{0,200}"];
    let reading = (
        any::<([u8; 16], Option<f32>, Option<f32>, Option<f32>, Option<u8>, u64)>(),
        1i64..4_102_444_799_999,
        proptest::collection::btree_map(name, any::<f64>(), 0..6),
    );
    let place = (0i64..4_102_444_799_999, any::<u16>(), any::<u64>());
    let source =
        (reading, place).prop_map(|((scalars, timestamp, metrics), (received_at_ms, partition, offset))| {
            let (device, temperature, humidity, pressure, battery, sequence) = scalars;
            let metrics = metrics.into_iter().collect();
            let battery_level = battery.map(i32::from);
            let reading = SensorReading {
                device_id: vec![],
                timestamp,
                temperature,
                humidity,
                pressure,
                battery_level,
                sequence,
                metrics,
            };
            Source { device, reading, received_at_ms, partition, offset }
        });
    proptest::collection::vec(source, 1..200)
}

/// A row as SQL shows it, every value exact: floats as their bits, names as hexadecimal digits.
fn shown(source: &Source) -> String {
    let Source { device, reading, received_at_ms, partition, offset } = source;
    let bits = |value: Option<f32>| value.map_or("\\N".to_owned(), |value| value.to_bits().to_string());
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02X}")).collect::<String>();
    let entry =
        |(name, value): (&String, &f64)| format!("{}={}", hex(name.as_bytes()), (value + 0.0).to_bits());
    let mut metrics: Vec<String> = reading.metrics.iter().map(entry).collect();
    metrics.sort_unstable();
    [
        DeviceId::from_bytes(*device).to_string(),
        reading.timestamp.to_string(),
        reading.sequence.to_string(),
        bits(reading.temperature),
        bits(reading.humidity),
        bits(reading.pressure),
        reading.battery_level.map_or("\\N".to_owned(), |level| level.to_string()),
        metrics.join(","),
        received_at_ms.to_string(),
        partition.to_string(),
        offset.to_string(),
    ]
    .join("\t")
}

const SHOW: &str = "SELECT device_id, toUnixTimestamp64Milli(timestamp), sequence, \
    reinterpretAsUInt32(temperature), reinterpretAsUInt32(humidity), reinterpretAsUInt32(pressure), battery_level, \
    arrayStringConcat(arraySort(arrayMap((name, value) -> concat(hex(name), '=', \
        toString(reinterpretAsUInt64(value))), mapKeys(metrics), mapValues(metrics))), ','), \
    toUnixTimestamp64Milli(received_at), kafka_partition, kafka_offset";

#[tokio::test(flavor = "multi_thread")]
async fn rows_read_back_as_they_were_encoded() {
    let (config, client) = migrated(clickhouse()).await;
    // Types of the real table, without its primary key and without expiry: every generated row must come back.
    let table = format!("{}.readings", config.database);
    let columns: Vec<String> = penstock_storage_writer::native::COLUMNS
        .iter()
        .map(|(name, kind)| format!("{name} {kind}"))
        .collect();
    client.query(&format!("DROP VIEW {}.readings_latest_feed", config.database)).await.unwrap();
    client.query(&format!("DROP TABLE {table} SYNC")).await.unwrap();
    client.query(&format!("CREATE TABLE {table} ({}) ENGINE = Memory", columns.join(", "))).await.unwrap();
    let inserter = Inserter::new(&config).unwrap();
    let mut runner = TestRunner::deterministic();
    for _ in 0..40 {
        let sources = sources().new_tree(&mut runner).unwrap().current();
        client.query(&format!("TRUNCATE TABLE {table}")).await.unwrap();
        assert_eq!(inserter.insert(block(&sources), "").await, Outcome::Stored);
        let mut stored = lines(&client, &format!("{SHOW} FROM {table}")).await;
        let mut expected: Vec<String> = sources.iter().map(shown).collect();
        stored.sort_unstable();
        expected.sort_unstable();
        assert_eq!(stored.len(), expected.len());
        for (stored, expected) in stored.iter().zip(&expected) {
            assert_eq!(stored, expected);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_real_table_takes_a_block_and_gives_it_back() {
    let (config, client) = migrated(clickhouse()).await;
    let inserter = Inserter::new(&config).unwrap();
    let mut whole = source(1, T0, 1, 21.5);
    whole.reading.humidity = Some(55.5);
    whole.reading.pressure = Some(1013.25);
    whole.reading.battery_level = Some(87);
    whole.reading.metrics = [("rssi".to_owned(), -71.0), ("wind_speed".to_owned(), 4.2)].into();
    let sources = [whole, source(2, T0 + 1, 2, -40.0), source(1, T0 + 2, 3, 22.0)];
    assert_eq!(inserter.insert(block(&sources), "").await, Outcome::Stored);
    let mut stored = lines(&client, &format!("{SHOW} FROM {}.readings", config.database)).await;
    let mut expected: Vec<String> = sources.iter().map(shown).collect();
    stored.sort_unstable();
    expected.sort_unstable();
    assert_eq!(stored, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reading_that_is_inserted_again_is_one_row_of_readings_unique() {
    let (config, client) = migrated(clickhouse()).await;
    let inserter = Inserter::new(&config).unwrap();
    let block = block(&[source(1, T0, 1, 20.0), source(1, T0, 2, 21.0), source(1, T0 + 1, 1, 22.0)]);
    for _ in 0..3 {
        assert_eq!(inserter.insert(block.clone(), "").await, Outcome::Stored);
    }
    let database = &config.database;
    assert_eq!(value(&client, &format!("SELECT count() FROM {database}.readings_unique")).await, "3");
    assert_eq!(
        value(&client, &format!("SELECT sum(temperature) FROM {database}.readings_unique")).await,
        "63"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_latest_reading_stays_under_late_and_repeated_readings() {
    let (config, client) = migrated(clickhouse()).await;
    let inserter = Inserter::new(&config).unwrap();
    let newest = source(1, T0 + 5, 9, 25.0);
    let blocks = [
        vec![source(1, T0 + 1, 1, 21.0), source(2, T0, 1, 30.0)],
        vec![newest.clone(), source(1, T0 + 5, 8, 24.0), source(1, T0 + 5, 3, 23.0)],
        // Late, and sent again.
        vec![source(1, T0 + 1, 1, 21.0), source(1, T0 + 4, 100, 22.0), source(1, T0 - 7_000_000_000, 1, 1.0)],
        vec![newest],
    ];
    let select = format!(
        "SELECT toUInt64(timestamp), sequence, temperature FROM {}.latest ORDER BY device_id",
        config.database
    );
    for sources in &blocks {
        assert_eq!(inserter.insert(block(sources), "").await, Outcome::Stored);
    }
    let expected = ["1790000000\t9\t25", "1790000000\t1\t30"];
    assert_eq!(lines(&client, &select).await, expected);
    client.query(&format!("OPTIMIZE TABLE {}.readings_latest FINAL", config.database)).await.unwrap();
    assert_eq!(lines(&client, &select).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_block_may_hold_readings_of_many_months() {
    let (config, client) = migrated(clickhouse()).await;
    let inserter = Inserter::new(&config).unwrap();
    let month_ms = 31 * 24 * 60 * 60 * 1000;
    let sources: Vec<Source> =
        (0..150u32).map(|i| source(1, T0 + month_ms * i64::from(i), u64::from(i), 1.0)).collect();
    assert_eq!(inserter.insert(block(&sources), "").await, Outcome::Stored);
    assert_eq!(value(&client, &format!("SELECT count() FROM {}.readings", config.database)).await, "150");
}

#[tokio::test(flavor = "multi_thread")]
async fn migrations_apply_once_whoever_runs_them() {
    let config = clickhouse_config(clickhouse());
    let client = Client::new(&config).unwrap();
    let all: Vec<u32> = Migration::all().iter().map(|migration| migration.version).collect();
    let pending = migrations::status(&client, &config).await.unwrap();
    assert!(pending.iter().all(|status| status.state == State::Pending), "{pending:?}");
    // Several writers at once.
    let (a, b, c) = tokio::join!(
        migrations::migrate(&client, &config),
        migrations::migrate(&client, &config),
        migrations::migrate(&client, &config),
    );
    for result in [a, b, c] {
        result.unwrap();
    }
    let again = migrations::migrate(&client, &config).await.unwrap();
    assert_eq!((again.applied, again.present), (vec![], all));
    let status = migrations::status(&client, &config).await.unwrap();
    assert!(status.iter().all(|status| matches!(status.state, State::Applied { .. })), "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_changed_after_it_was_applied_is_an_error() {
    let (config, client) = migrated(clickhouse()).await;
    let table = format!("{}.schema_migrations", config.database);
    client.query(&format!("TRUNCATE TABLE {table}")).await.unwrap();
    let tampered =
        format!("INSERT INTO {table} (version, name, sha256) VALUES (1, 'readings', '{}')", "0".repeat(64));
    client.query(&tampered).await.unwrap();
    let error = migrations::migrate(&client, &config).await.unwrap_err();
    assert!(matches!(error, MigrateError::Changed { version: 1, .. }), "{error}");
    assert!(error.to_string().contains("put the change into a new migration"), "{error}");
    assert!(!error.is_transient());
    // Nothing was applied behind it.
    assert_eq!(value(&client, &format!("SELECT count() FROM {table} WHERE version > 1")).await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_schema_is_left_alone() {
    let (config, client) = migrated(clickhouse()).await;
    let table = format!("{}.schema_migrations", config.database);
    let newer =
        format!("INSERT INTO {table} (version, name, sha256) VALUES (9999, 'future', '{}')", "f".repeat(64));
    client.query(&newer).await.unwrap();
    assert_eq!(migrations::migrate(&client, &config).await.unwrap().newer, [9999]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_codes_have_the_servers_names() {
    let client = Client::new(&clickhouse_config(clickhouse())).unwrap();
    for (code, name, _) in CODES {
        assert_eq!(
            value(&client, &format!("SELECT errorCodeToName(toUInt32({code}))")).await,
            *name,
            "{code}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_says_what_to_check() {
    let config = config::ClickHouse {
        user: "nobody".to_owned(),
        password: "wrong".into(),
        ..clickhouse_config(clickhouse())
    };
    let client = Client::new(&config).unwrap();
    let error = client.ping().await.unwrap_err();
    assert!(error.to_string().contains("check clickhouse.user and clickhouse.password"), "{error}");
    let outcome = Inserter::new(&config).unwrap().insert(block(&[source(1, T0, 1, 1.0)]), "").await;
    assert!(matches!(outcome, Outcome::Refused(_)), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_work_before_somebody_changes_something_is_refused() {
    let config = clickhouse_config(clickhouse());
    let inserter = Inserter::new(&config).unwrap();
    let block = block(&[source(1, T0, 1, 1.0)]);
    let outcome = inserter.insert(block.clone(), "").await;
    assert!(matches!(&outcome, Outcome::Refused(error) if error.kind() == "UNKNOWN_DATABASE"), "{outcome:?}");
    let (config, client) = migrated(clickhouse()).await;
    let inserter = Inserter::new(&config).unwrap();
    let outcome = inserter.insert(block.slice(..block.len() - 1), "").await;
    assert!(
        matches!(&outcome, Outcome::Refused(error) if error.kind() == "CANNOT_READ_ALL_DATA"),
        "{outcome:?}"
    );
    client.query(&format!("ALTER TABLE {}.readings DROP COLUMN kafka_offset", config.database)).await.ok();
    client.query(&format!("DROP TABLE {}.readings SYNC", config.database)).await.unwrap();
    let outcome = inserter.insert(block, "").await;
    assert!(matches!(&outcome, Outcome::Refused(error) if error.kind() == "UNKNOWN_TABLE"), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_is_transient_and_one_that_does_not_answer_is_unknown() {
    let server = ClickHouse::start(&ClickHouseOptions::default()).expect("ClickHouse starts");
    let (mut config, client) = migrated(&server).await;
    config.insert_timeout_ms = 1_000;
    let inserter = Inserter::new(&config).unwrap();
    let block = block(&[source(1, T0, 1, 1.0)]);
    assert_eq!(inserter.insert(block.clone(), "").await, Outcome::Stored);

    server.pause().unwrap();
    let outcome = inserter.insert(block.clone(), "").await;
    assert!(matches!(&outcome, Outcome::Unknown(CallError::Broken(_))), "{outcome:?}");
    server.resume().unwrap();

    server.kill_9().unwrap();
    let outcome = inserter.insert(block.clone(), "").await;
    assert!(matches!(&outcome, Outcome::NotSent(_) | Outcome::Unknown(_)), "{outcome:?}");
    let outcome = inserter.insert(block.clone(), "").await;
    assert!(matches!(&outcome, Outcome::NotSent(_)), "{outcome:?}");

    server.restart().unwrap();
    assert_eq!(inserter.insert(block, "").await, Outcome::Stored);
    assert_eq!(
        value(&client, &format!("SELECT count() FROM {}.readings_unique", config.database)).await,
        "1"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_takes_too_long_is_ended_by_the_server_or_by_us() {
    let config = config::ClickHouse { query_timeout_ms: 300, ..clickhouse_config(clickhouse()) };
    let client = Client::new(&config).unwrap();
    let started = std::time::Instant::now();
    let error = client.query("SELECT sleep(3)").await.unwrap_err();
    assert!(matches!(error, CallError::Broken(_)), "{error}");
    assert!(started.elapsed() < Duration::from_secs(3));
}
