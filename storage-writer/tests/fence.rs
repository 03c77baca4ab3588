//! Fencing on a real ClickHouse: what was sent before a takeover stores nothing after it, and what is stored is found.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use bytes::Bytes;
use penstock_proto::v1::SensorReading;
use penstock_proto::{DeviceId, ReadingView};
use penstock_service::config::ClickHouse as Config;
use penstock_storage_writer::claims::{Claim, Claimed};
use penstock_storage_writer::clickhouse::Client;
use penstock_storage_writer::fence::{Fence, Guard, TakeOverError};
use penstock_storage_writer::insert::{Inserter, Outcome};
use penstock_storage_writer::migrations::migrate;
use penstock_storage_writer::native::{Row, Rows};
use penstock_storage_writer::stored::{Span, ask};
use prost::Message;
use support::{clickhouse, clickhouse_config};

const T0: i64 = 1_790_000_000_000;
const MONTH_MS: i64 = 31 * 86_400_000;

async fn database() -> (Config, Client) {
    let config = clickhouse_config(clickhouse());
    let client = Client::new(&config).unwrap();
    migrate(&client, &config).await.unwrap();
    (config, client)
}

/// One row for each (partition, offset, timestamp); every row is another reading.
fn block(records: impl IntoIterator<Item = (u16, u64, i64)>) -> (Bytes, usize) {
    let mut rows = Rows::default();
    for (kafka_partition, kafka_offset, timestamp) in records {
        let reading = SensorReading {
            timestamp,
            sequence: kafka_offset,
            temperature: Some(20.0),
            ..Default::default()
        };
        let bytes = reading.encode_to_vec();
        let view = ReadingView::decode(&bytes).unwrap();
        let device = DeviceId::from_bytes([kafka_partition.to_le_bytes()[0]; 16]);
        rows.push(&Row { device, reading: &view, received_at_ms: timestamp, kafka_partition, kafka_offset });
    }
    let mut body = Vec::new();
    rows.encode(&mut body);
    (body.into(), rows.len())
}

fn all_of(partition: u16) -> Span {
    Span { partition, first: 0, next: u64::MAX }
}

async fn count(client: &Client, config: &Config) -> u64 {
    let sql = format!("SELECT count() FROM {}.readings", config.database);
    client.query(&sql).await.unwrap().trim().parse().unwrap()
}

async fn insert(
    inserter: &Inserter,
    claim: Claim,
    (body, rows): (Bytes, usize),
    partitions: &[u16],
) -> Outcome {
    let claimed = Claimed::new(partitions.iter().map(|partition| (*partition, claim)).collect());
    inserter.insert_claimed(body, rows, &uuid::Uuid::new_v4().to_string(), &claimed).await
}

#[tokio::test]
async fn an_insert_under_an_older_claim_stores_nothing_of_any_of_its_partitions() {
    let (config, client) = database().await;
    let (old, new) = (Fence::new(client.clone(), &config, "old"), Fence::new(client.clone(), &config, "new"));
    let inserter = Inserter::new(&config).unwrap();
    let first = old.take_over(&[1, 2]).await.unwrap();
    assert_eq!(first.held, [1, 2]);
    assert_eq!(
        insert(&inserter, first.claim, block([(1, 0, T0), (2, 0, T0)]), &[1, 2]).await,
        Outcome::Stored
    );

    let second = new.take_over(&[2]).await.unwrap();
    assert!(second.claim > first.claim);
    let outcome = insert(&inserter, first.claim, block([(1, 1, T0), (2, 1, T0)]), &[1, 2]).await;
    assert!(matches!(&outcome, Outcome::Fenced(_)), "{outcome:?}");
    assert_eq!(count(&client, &config).await, 2);
    // The partition that was not taken goes on, and the new owner stores the other.
    assert_eq!(insert(&inserter, first.claim, block([(1, 1, T0)]), &[1]).await, Outcome::Stored);
    assert_eq!(insert(&inserter, second.claim, block([(2, 1, T0)]), &[2]).await, Outcome::Stored);
    let found = ask(&client, &config.database, &[all_of(1), all_of(2)]).await.unwrap();
    assert_eq!(found[&1].ranges().collect::<Vec<_>>(), [(0, 2)]);
    assert_eq!(found[&2].ranges().collect::<Vec<_>>(), [(0, 2)]);
}

#[tokio::test]
async fn claims_survive_merges_and_go_up_for_every_owner() {
    let (config, client) = database().await;
    let fences: Vec<Fence> =
        (0..3).map(|number| Fence::new(client.clone(), &config, format!("{number}"))).collect();
    let mut last = Claim::default();
    for round in 0..4 {
        for fence in &fences {
            let taken = fence.take_over(&[7]).await.unwrap();
            assert!(taken.claim > last, "round {round}");
            last = taken.claim;
        }
        client.query(&format!("OPTIMIZE TABLE {}.writer_claims FINAL", config.database)).await.unwrap();
    }
    assert!(fences[2].holds_all(&[7], last).await.unwrap());
    assert!(!fences[2].holds_all(&[7, 8], last).await.unwrap(), "8 was never claimed");
}

#[tokio::test]
async fn of_two_takeovers_at_once_at_most_one_holds() {
    let (config, client) = database().await;
    let (one, two) = (Fence::new(client.clone(), &config, "one"), Fence::new(client.clone(), &config, "two"));
    for _ in 0..20 {
        let (one, two) = tokio::join!(one.take_over(&[3]), two.take_over(&[3]));
        let (one, two) = (one.unwrap(), two.unwrap());
        let greatest = one.claim.max(two.claim);
        assert_ne!(one.claim, two.claim);
        // The one with the smaller claim may have held it for a moment, before the other claimed; never after.
        for taken in [&one, &two].into_iter().filter(|taken| taken.claim != greatest) {
            let inserter = Inserter::new(&config).unwrap();
            let outcome = insert(&inserter, taken.claim, block([(3, 0, T0)]), &[3]).await;
            assert!(matches!(outcome, Outcome::Fenced(_)), "{outcome:?}");
        }
    }
    assert_eq!(count(&client, &config).await, 0);
}

/// The request of a claimed insert as bytes, so that it can be sent in pieces.
fn request(
    config: &Config,
    claim: Claim,
    partition: u16,
    (body, rows): &(Bytes, usize),
    id: &str,
) -> Vec<u8> {
    let guard = Guard::new(&config.database, &Claimed::new(vec![(partition, claim)]), *rows);
    let columns = "device_id, timestamp, sequence, temperature, humidity, pressure, battery_level, metrics, \
                   received_at, kafka_partition, kafka_offset";
    let structure: Vec<String> = penstock_storage_writer::native::COLUMNS
        .iter()
        .map(|(name, kind)| format!("{name} {}", kind.replace('\'', "\\'")))
        .collect();
    let sql = format!(
        "INSERT INTO {}.readings ({columns}) SELECT {columns} FROM input('{}') WHERE {} FORMAT Native",
        config.database,
        structure.join(", "),
        guard.condition
    );
    let mut encode = String::new();
    for byte in sql.bytes() {
        encode.push_str(&format!("%{byte:02X}"));
    }
    let comment = guard.log_comment.replace(' ', "%20");
    let head = format!(
        "POST /?query={encode}&query_id={id}&log_comment={comment}&async_insert=0&wait_end_of_query=1 HTTP/1.1\r\n\
         Host: x\r\nX-ClickHouse-User: {}\r\nX-ClickHouse-Key: {}\r\nContent-Length: {}\r\n\r\n",
        config.user,
        config.password.expose(),
        body.len()
    );
    [head.as_bytes(), body].concat()
}

fn connect(config: &Config) -> TcpStream {
    let address = config.url.trim_start_matches("http://");
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream
}

fn answer(stream: &mut TcpStream) -> String {
    let mut answer = vec![0; 2_000];
    let read = stream.read(&mut answer).unwrap_or(0);
    String::from_utf8_lossy(&answer[..read]).into_owned()
}

#[tokio::test]
async fn an_insert_that_was_stopped_in_its_body_stores_nothing_when_it_goes_on_after_the_takeover() {
    let (config, client) = database().await;
    let (old, new) = (Fence::new(client.clone(), &config, "old"), Fence::new(client.clone(), &config, "new"));
    let first = old.take_over(&[5]).await.unwrap();
    let big = block((0..60_000).map(|offset| (5, offset, T0)));
    let request = request(&config, first.claim, 5, &big, &uuid::Uuid::new_v4().to_string());
    let mut stream = connect(&config);
    let half = request.len() / 2;
    stream.write_all(&request[..half]).unwrap();
    let running = format!(
        "SELECT count() FROM system.processes WHERE startsWith(Settings['log_comment'], 'penstock-insert {} ')",
        config.database
    );
    while client.query(&running).await.unwrap().trim() != "1" {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    let second = new.take_over(&[5]).await.unwrap();
    assert_eq!((second.killed, &second.held[..]), (1, &[5][..]));
    let inserter = Inserter::new(&config).unwrap();
    assert_eq!(
        insert(&inserter, second.claim, block((0..10).map(|offset| (5, offset, T0))), &[5]).await,
        Outcome::Stored
    );
    // The sleeper wakes.
    let _ = stream.write_all(&request[half..]);
    let answer = answer(&mut stream);
    assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(count(&client, &config).await, 10);
}

#[tokio::test]
async fn a_request_that_reaches_clickhouse_after_the_takeover_stores_nothing() {
    let (config, client) = database().await;
    let (old, new) = (Fence::new(client.clone(), &config, "old"), Fence::new(client.clone(), &config, "new"));
    let first = old.take_over(&[5]).await.unwrap();
    let small = block([(5, 0, T0)]);
    let request = request(&config, first.claim, 5, &small, &uuid::Uuid::new_v4().to_string());
    let mut stream = connect(&config);
    // The head alone does not start the query: nothing is there to be killed.
    let head = request.len() - small.0.len();
    stream.write_all(&request[..head]).unwrap();
    let second = new.take_over(&[5]).await.unwrap();
    stream.write_all(&request[head..]).unwrap();
    let answer = answer(&mut stream);
    assert!(answer.contains("penstock: fenced") || answer.starts_with("HTTP/1.1 500"), "{answer}");
    assert_eq!(count(&client, &config).await, 0);
    assert!(second.claim > first.claim);
}

#[tokio::test]
async fn while_a_hold_is_in_force_nothing_is_taken_over() {
    let (config, client) = database().await;
    let fence = Fence::new(client.clone(), &config, "writer");
    fence.set_hold("re'play", 60_000).await.unwrap();
    let error = fence.take_over(&[1]).await.unwrap_err();
    assert!(
        matches!(&error, TakeOverError::Held { name, left_ms } if name == "re'play" && *left_ms > 30_000),
        "{error}"
    );
    fence.set_hold("re'play", 0).await.unwrap();
    assert_eq!(fence.take_over(&[1]).await.unwrap().held, [1]);
}

#[tokio::test]
async fn one_insert_is_one_part_a_month_and_what_is_stored_is_found_by_the_projection() {
    let (config, client) = database().await;
    let fence = Fence::new(client.clone(), &config, "writer");
    let claim = fence.take_over(&[1]).await.unwrap().claim;
    let inserter = Inserter::new(&config).unwrap();
    // More rows than `max_block_size`, over two months; every third offset is another partition's or a dead letter.
    let offsets = || (0..150_000u64).filter(|offset| offset % 3 != 2);
    let months = block(offsets().map(|offset| (1, offset, T0 + i64::from(offset % 2 == 0) * MONTH_MS)));
    assert_eq!(insert(&inserter, claim, months, &[1]).await, Outcome::Stored);
    let parts = format!(
        "SELECT count(), uniqExact(partition) FROM system.parts WHERE database = '{}' AND table = 'readings' AND level = 0",
        config.database
    );
    assert_eq!(client.query(&parts).await.unwrap().trim(), "2\t2");
    let span = Span { partition: 1, first: 50_000, next: 140_000 };
    let found = ask(&client, &config.database, &[span]).await.unwrap().remove(&1).unwrap();
    for offset in 0..150_001 {
        let expected = (50_000..140_000).contains(&offset) && offset % 3 != 2;
        assert_eq!(found.contains(offset), expected, "{offset}");
    }
    let plan = format!(
        "EXPLAIN SELECT kafka_partition, intDiv(kafka_offset, 4096) AS chunk, \
         groupBitmapState(toUInt16(kafka_offset % 4096)) AS stored FROM {}.readings \
         WHERE (kafka_partition = 1 AND chunk >= 12 AND chunk <= 34) GROUP BY kafka_partition, chunk",
        config.database
    );
    let plan = client.query(&plan).await.unwrap();
    assert!(plan.contains("by_offset"), "the projection is not used:\n{plan}");
}

#[tokio::test]
async fn a_batch_that_was_stored_in_one_month_only_is_found_in_part() {
    let (config, client) = database().await;
    let fence = Fence::new(client.clone(), &config, "writer");
    let claim = fence.take_over(&[1]).await.unwrap().claim;
    let inserter = Inserter::new(&config).unwrap();
    let database = &config.database;
    // Rows of the later month are refused when they are pushed to a view.
    let later = (T0 + MONTH_MS) / 1_000 - 86_400;
    client
        .query(&format!(
            "CREATE MATERIALIZED VIEW {database}.picky TO {database}.readings_latest AS SELECT device_id, timestamp \
             FROM {database}.readings WHERE throwIf(toUnixTimestamp(timestamp) > {later}) = 0"
        ))
        .await
        .unwrap();
    let months = block([(1, 0, T0), (1, 1, T0 + MONTH_MS)]);
    let outcome = insert(&inserter, claim, months, &[1]).await;
    assert!(matches!(outcome, Outcome::Rows(_)), "{outcome:?}");
    // Whatever is stored, asking says exactly that.
    let found = ask(&client, database, &[all_of(1)]).await.unwrap();
    let stored = found.get(&1).map_or(0, penstock_storage_writer::stored::OffsetSet::len);
    assert_eq!(stored, count(&client, &config).await);
}

#[tokio::test]
async fn whoever_holds_writers_up_takes_over_and_no_writer_inserts_meanwhile() {
    let (config, client) = database().await;
    let writer = Fence::new(client.clone(), &config, "writer");
    let replay = Fence::new(client.clone(), &config, "replay");
    let inserter = Inserter::new(&config).unwrap();
    let before = writer.take_over(&[3, 4]).await.unwrap();
    replay.set_hold("replay-1", 60_000).await.unwrap();
    let taken = replay.take_over_under(&[3, 4], "replay-1").await.unwrap();
    assert_eq!(taken.held, [3, 4]);
    assert!(replay.hold_left_ms("replay-1").await.unwrap() > 30_000);
    assert_eq!(replay.hold_left_ms("replay-2").await.unwrap(), 0);
    let outcome = insert(&inserter, before.claim, block([(3, 0, T0)]), &[3]).await;
    assert!(matches!(&outcome, Outcome::Fenced(_)), "{outcome:?}");
    // A writer that claims anew has the greatest claim, and finds the hold.
    let held = writer.take_over(&[3]).await;
    assert!(matches!(&held, Err(TakeOverError::Held { name, .. }) if name == "replay-1"), "{held:?}");
    assert!(!replay.holds_all(&[3, 4], taken.claim).await.unwrap());
    // Nobody goes on while somebody else holds writers up.
    replay.set_hold("replay-2", 60_000).await.unwrap();
    for own in ["replay-1", "replay-2"] {
        let held = replay.take_over_under(&[3, 4], own).await;
        assert!(matches!(&held, Err(TakeOverError::Held { name, .. }) if name != own), "{held:?}");
    }
    replay.set_hold("replay-1", 0).await.unwrap();
    replay.set_hold("replay-2", 0).await.unwrap();
    let after = writer.take_over(&[3, 4]).await.unwrap();
    assert_eq!(insert(&inserter, after.claim, block([(3, 0, T0)]), &[3]).await, Outcome::Stored);
}
