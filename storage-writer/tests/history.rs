//! Alerts against a real Kafka and a real ClickHouse. The oracle: every alert of a committed transaction is seen exactly
//! once, whatever happened on the way and whatever has been merged.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends")]

mod support;

use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use penstock_devstack::{ClickHouse, ClickHouseOptions, Stack, StackOptions};
use penstock_kafka::{ClientSettings, TransactionRecord, TransactionSettings, TransactionalProducer};
use penstock_proto::DeviceId;
use penstock_proto::alert_json::to_json;
use penstock_proto::topics::{DEVICE_ALERTS, LOW_BATTERY, header};
use penstock_proto::v1::{AlertSeverity, AlertState, DeviceAlert, SensorReading};
use penstock_service::Config;
use penstock_storage_writer::clickhouse::Client;
use penstock_storage_writer::migrations::{Migration, migrate};
use prost::Message;

use support::fleet::{PATIENCE, Rows, Source, Writer, config, failures, settings, until};
use support::{clickhouse_config, lines, unique, value};

/// The stack of this test binary. It ends with the process.
fn stack() -> &'static Stack {
    static STACK: OnceLock<Stack> = OnceLock::new();
    STACK.get_or_init(|| Stack::start(&StackOptions::default()).expect("the stack starts"))
}

/// Writes alerts as the alert stage does: in transactions.
struct Stage {
    client: ClientSettings,
    transactions: TransactionSettings,
    producer: TransactionalProducer,
    prefix: String,
}

/// A record of an alert topic: topic, key, value.
type Record = (&'static str, Vec<u8>, Option<Vec<u8>>);

impl Stage {
    fn new(config: &Config) -> Self {
        let transactions =
            TransactionSettings { transactional_id: unique("stage"), ..TransactionSettings::default() };
        let client = settings(config);
        let producer = TransactionalProducer::open(&client, &transactions, PATIENCE).unwrap();
        Self { client, transactions, producer, prefix: config.kafka.topic_prefix.clone() }
    }

    fn transact(&mut self, records: &[Record], commit: bool) {
        let mut transaction = self.producer.begin().unwrap();
        for (topic, key, value) in records {
            let topic = format!("{}{topic}", self.prefix);
            let record = TransactionRecord {
                key: Some(key),
                payload: value.as_deref(),
                ..TransactionRecord::new(&topic, b"")
            };
            transaction.send(&record).unwrap();
        }
        if commit {
            transaction.commit(PATIENCE).unwrap();
        } else {
            // Not before the records are in the log: there would be nothing that must not be seen. What this producer then
            // refuses to abort, its successor with the same id aborts.
            std::thread::sleep(Duration::from_millis(300));
            let aborted = transaction.abort(PATIENCE);
            drop(transaction);
            drop(aborted);
            self.producer = TransactionalProducer::open(&self.client, &self.transactions, PATIENCE).unwrap();
        }
    }

    /// Commits alerts, 250 at a time.
    fn raise(&mut self, alerts: &[DeviceAlert]) {
        for alerts in alerts.chunks(250) {
            self.transact(&alerts.iter().map(record).collect::<Vec<_>>(), true);
        }
    }
}

fn record(alert: &DeviceAlert) -> Record {
    let device: DeviceId = alert.device_id.parse().unwrap();
    let topic = if alert.rule == "battery" { LOW_BATTERY } else { DEVICE_ALERTS };
    (topic, device.as_bytes().to_vec(), Some(to_json(alert).into_bytes()))
}

fn now_ms() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

fn device(number: u32) -> String {
    format!("0a1b2c3d-0000-4000-8000-{number:012x}")
}

/// The `number`-th episode of the tests: its first alert.
fn firing(number: u32) -> DeviceAlert {
    let onset = 1_790_000_000_000 + i64::from(number) * 60_000;
    DeviceAlert {
        id: format!("00000000-0000-4000-8000-{number:012x}"),
        rule: if number.is_multiple_of(3) { "battery" } else { "hot" }.to_owned(),
        device_id: device(number % 40),
        severity: AlertSeverity::Warning.into(),
        state: AlertState::Firing.into(),
        onset,
        time: onset + 5_000,
        window_start: onset - 60_000,
        window_end: onset + 5_000,
        reading_count: 3,
        value: 85.5,
        threshold: 80.0,
        text: "85.5 °C \"over\" 80\n".to_owned(),
        source_partition: 17,
        source_offset: i64::from(number),
        reason: String::new(),
        repeat: 0,
    }
}

fn resolved(number: u32) -> DeviceAlert {
    let firing = firing(number);
    DeviceAlert { state: AlertState::Resolved.into(), time: firing.onset + 30_000, value: 70.0, ..firing }
}

/// Two alerts of each of these episodes.
fn episodes(numbers: std::ops::Range<u32>) -> Vec<DeviceAlert> {
    numbers.flat_map(|number| [firing(number), resolved(number)]).collect()
}

async fn seen(rows: &Rows, alerts: u64) {
    let distinct = || rows.number("uniqExact(id, state, repeat)", "alerts");
    until(&format!("{alerts} alerts are stored"), || async { distinct().await >= alerts }).await;
    assert_eq!(distinct().await, alerts);
    assert_eq!(rows.number("count()", "alerts").await, alerts);
}

async fn letters(config: &Config) -> Vec<support::fleet::Failure> {
    let config = config.clone();
    tokio::task::spawn_blocking(move || failures(&config)).await.unwrap()
}

fn sql(config: &Config, text: &str) -> String {
    text.replace("penstock.", &format!("{}.", config.clickhouse.database))
}

#[tokio::test(flavor = "multi_thread")]
async fn alerts_of_committed_transactions_are_rows_and_no_others() {
    let config = config(&stack().kafka, &stack().clickhouse);
    let writer = Writer::ready(&config).await;
    let (mut stage, rows) = (Stage::new(&config), Rows::of(&config));
    stage.raise(&episodes(0..10));
    let aborted: Vec<_> = episodes(10..500).iter().map(record).collect();
    stage.transact(&aborted, false);
    let odd = DeviceAlert {
        severity: AlertSeverity::Critical.into(),
        value: f64::NAN,
        threshold: f64::NEG_INFINITY,
        repeat: 2,
        reason: "flapping".to_owned(),
        source_offset: -1,
        ..firing(9)
    };
    stage.raise(std::slice::from_ref(&odd));
    seen(&rows, 21).await;
    let client = Client::new(&config.clickhouse).unwrap();
    let columns = "device_id, id, rule, severity, state, toUnixTimestamp64Milli(onset), \
         toUnixTimestamp64Milli(time), toUnixTimestamp64Milli(window_start), toUnixTimestamp64Milli(window_end), \
         reading_count, value, threshold, text = '85.5 °C \"over\" 80\\n', source_partition, source_offset, reason, repeat";
    let found = |filter: &str| {
        let query = format!("SELECT {columns} FROM penstock.alerts WHERE {filter} FORMAT CSV");
        let (client, query) = (client.clone(), sql(&config, &query));
        async move { value(&client, &query).await }
    };
    let plain = firing(1);
    assert_eq!(
        found(&format!("id = '{}' AND state = 'firing'", plain.id)).await,
        format!(
            "\"{}\",\"{}\",\"hot\",\"warning\",\"firing\",{},{},{},{},3,85.5,80,1,17,1,\"\",0",
            plain.device_id, plain.id, plain.onset, plain.time, plain.window_start, plain.window_end
        )
    );
    let strange = found("repeat = 2").await;
    assert!(strange.contains("\"critical\",\"firing\""), "{strange}");
    assert!(strange.ends_with(",3,nan,-inf,1,17,-1,\"flapping\",2"), "{strange}");
    let origin = "SELECT kafka_topic, count(), uniqExact(kafka_partition, kafka_offset), max(kafka_partition) < 12, \
         countIf(abs(dateDiff('second', raised_at, now64(3))) < 600) FROM penstock.alerts GROUP BY ALL ORDER BY 2 FORMAT TSV";
    let prefix = &config.kafka.topic_prefix;
    assert_eq!(
        lines(&client, &sql(&config, origin)).await,
        [format!("{prefix}{LOW_BATTERY}\t9\t9\t1\t9"), format!("{prefix}{DEVICE_ALERTS}\t12\t12\t1\t12")]
    );
    assert!(writer.metric("penstock_writer_alerts_rows_total") >= 21.0);
    assert_eq!(rows.number("count()", "alerts_stored").await, 21);
    writer.stop().await.unwrap();
    // After a stop in good order nothing is read again.
    let writer = Writer::ready(&config).await;
    stage.raise(&[firing(600)]);
    seen(&rows, 22).await;
    writer.stop().await.unwrap();
    assert_eq!(rows.number("count()", "alerts_stored").await, 22);
    assert!(letters(&config).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_that_is_stored_twice_is_seen_once_without_any_merge() {
    let mut config = config(&stack().kafka, &stack().clickhouse);
    let (client, rows) = (Client::new(&config.clickhouse).unwrap(), Rows::of(&config));
    migrate(&client, &config.clickhouse).await.unwrap();
    client.query(&sql(&config, "SYSTEM STOP MERGES penstock.alerts_stored")).await.unwrap();
    let mut alerts = episodes(0..300);
    alerts.push(DeviceAlert { repeat: 1, value: 99.0, ..firing(7) });
    for round in 1..=3 {
        // A group of its own reads everything again.
        config.writer.group = unique("writer");
        let writer = Writer::ready(&config).await;
        if round == 1 {
            Stage::new(&config).raise(&alerts);
        }
        let stored = || rows.number("count()", "alerts_stored");
        until("everything is stored once more", || async { stored().await >= round * 601 }).await;
        assert_eq!(stored().await, round * 601);
        seen(&rows, 601).await;
        writer.stop().await.unwrap();
    }
    assert_eq!(rows.number("count()", "alert_episodes").await, 300);
    assert_eq!(rows.number("sum(repeats)", "alert_episodes").await, 1);
    assert_eq!(rows.number("countIf(peak_value = 99)", "alert_episodes").await, 1);
    assert_eq!(rows.number("countIf(duration_s = 30)", "alert_episodes").await, 300);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_crashes_again_and_again_stores_each_alert_once() {
    let config = config(&stack().kafka, &stack().clickhouse);
    let (client, rows) = (Client::new(&config.clickhouse).unwrap(), Rows::of(&config));
    migrate(&client, &config.clickhouse).await.unwrap();
    client.query(&sql(&config, "SYSTEM STOP MERGES penstock.alerts_stored")).await.unwrap();
    Writer::ready(&config).await.stop().await.unwrap();
    let mut stage = Stage::new(&config);
    let mut rounds = 0;
    // At least five crashes, and until one has come between an insert and its commit: milliseconds, often met.
    while rounds < 5
        || (rounds < 30 && rows.number("count() - uniqExact(id, state)", "alerts_stored").await == 0)
    {
        let writer = Writer::start(&config);
        stage.raise(&episodes(rounds * 500..(rounds + 1) * 500));
        stage.transact(&[(DEVICE_ALERTS, vec![1; 16], Some(format!("bad {rounds:02}").into_bytes()))], true);
        let stored = || writer.metric("penstock_writer_alerts_rows_total");
        let deadline = std::time::Instant::now() + PATIENCE;
        while stored() <= f64::from(rounds % 5) * 100.0 {
            assert!(std::time::Instant::now() < deadline, "alerts are stored");
            tokio::time::sleep(Duration::from_micros(100)).await;
        }
        writer.crash().await;
        rounds += 1;
    }
    assert_ne!(
        rows.number("count() - uniqExact(id, state)", "alerts_stored").await,
        0,
        "no crash met its moment"
    );
    let writer = Writer::ready(&config).await;
    seen(&rows, u64::from(rounds) * 1_000).await;
    let bad =
        || async { letters(&config).await.into_iter().map(|(_, _, payload)| payload).collect::<Vec<_>>() };
    until("the letters are there", || async { bad().await.len() >= rounds as usize }).await;
    writer.stop().await.unwrap();
    let mut bad = bad().await;
    bad.sort();
    let expected: Vec<_> = (0..rounds).map(|round| format!("bad {round:02}").into_bytes()).collect();
    assert_eq!(bad, expected, "each letter once");
    seen(&rows, u64::from(rounds) * 1_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_clickhouse_is_away_alerts_wait_in_kafka() {
    let clickhouse = ClickHouse::start(&ClickHouseOptions::default()).expect("ClickHouse starts");
    let config = config(&stack().kafka, &clickhouse);
    let writer = Writer::ready(&config).await;
    let (mut stage, rows) = (Stage::new(&config), Rows::of(&config));
    stage.raise(&episodes(0..100));
    seen(&rows, 200).await;
    clickhouse.kill_9().unwrap();
    stage.raise(&episodes(100..2_600));
    let paused = || writer.metric("penstock_writer_alerts_paused");
    until("reading pauses", || async { paused() > 0.0 }).await;
    let unreachable =
        "penstock_writer_alerts_insert_failures_total{class=\"transient\",kind=\"unreachable\"}";
    assert!(writer.metric(unreachable) >= 1.0);
    // Longer than the session: it stays in the group.
    tokio::time::sleep(Duration::from_secs(7)).await;
    clickhouse.restart().unwrap();
    seen(&rows, 5_200).await;
    until("reading goes on", || async { paused() == 0.0 }).await;
    writer.stop().await.unwrap();
    assert_eq!(rows.number("count()", "alerts_stored").await, 5_200, "nothing was sent twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_alert_is_one_dead_letter_and_holds_nothing_up() {
    let config = config(&stack().kafka, &stack().clickhouse);
    let writer = Writer::ready(&config).await;
    let (mut stage, rows) = (Stage::new(&config), Rows::of(&config));
    let client = Client::new(&config.clickhouse).unwrap();
    let constraint = "ALTER TABLE penstock.alerts_stored ADD CONSTRAINT known CHECK rule != 'unwanted'";
    client.query(&sql(&config, constraint)).await.unwrap();
    let key = record(&firing(1)).1;
    let reading = SensorReading { timestamp: 1_790_000_000_000, ..SensorReading::default() };
    let of = |alert: &DeviceAlert| Some(to_json(alert).into_bytes());
    let bad: &[(&str, Record)] = &[
        ("undecodable", (DEVICE_ALERTS, key.clone(), Some(b"{\"id\":".to_vec()))),
        ("undecodable", (DEVICE_ALERTS, key.clone(), None)),
        ("undecodable", (LOW_BATTERY, key.clone(), Some(reading.encode_to_vec()))),
        ("undecodable", (DEVICE_ALERTS, key.clone(), of(&DeviceAlert { id: "x".into(), ..firing(1) }))),
        ("bad-key", (DEVICE_ALERTS, b"sensor-17".to_vec(), of(&firing(1)))),
        ("wrong-device", (LOW_BATTERY, key.clone(), of(&firing(2)))),
        ("in-future", (DEVICE_ALERTS, key.clone(), of(&DeviceAlert { onset: i64::MAX, ..firing(1) }))),
        ("too-old", (DEVICE_ALERTS, key.clone(), of(&DeviceAlert { window_start: i64::MIN, ..firing(1) }))),
        (
            "refused-by-storage",
            (DEVICE_ALERTS, key, of(&DeviceAlert { rule: "unwanted".into(), ..firing(1) })),
        ),
    ];
    stage.raise(&episodes(0..50));
    stage.transact(&bad.iter().map(|(_, record)| record.clone()).collect::<Vec<_>>(), true);
    stage.raise(&episodes(50..100));
    seen(&rows, 200).await;
    until("the letters are there", || async { letters(&config).await.len() >= bad.len() }).await;
    writer.stop().await.unwrap();
    // Their offsets are committed: another writer does not meet them again.
    let writer = Writer::ready(&config).await;
    stage.raise(&episodes(100..110));
    seen(&rows, 220).await;
    writer.stop().await.unwrap();
    let letters = letters(&config).await;
    let mut found: Vec<&str> = letters.iter().map(|(headers, ..)| headers[header::REASON].as_str()).collect();
    let mut expected: Vec<&str> = bad.iter().map(|(reason, _)| *reason).collect();
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected);
    for (headers, key, payload) in &letters {
        let topic = headers[header::SOURCE_TOPIC].strip_prefix(&config.kafka.topic_prefix).unwrap();
        assert!(headers[header::SOURCE_PARTITION].parse::<u16>().unwrap() < 12);
        assert!(headers[header::SOURCE_OFFSET].parse::<u64>().is_ok() && !headers[header::DETAIL].is_empty());
        let sent = |(_, (sent_to, sent_key, value)): &(&str, Record)| {
            *sent_to == topic
                && Some(sent_key) == key.as_ref()
                && value.as_deref().unwrap_or_default() == &payload[..]
        };
        assert!(bad.iter().any(sent), "{headers:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_that_come_and_go_share_the_alerts() {
    let config = config(&stack().kafka, &stack().clickhouse);
    let rows = Rows::of(&config);
    let first = Writer::ready(&config).await;
    let mut stage = Stage::new(&config);
    stage.raise(&episodes(0..500));
    let second = Writer::ready(&config).await;
    let works = || second.metric("penstock_writer_alerts_rows_total");
    let mut next = 500;
    let deadline = std::time::Instant::now() + PATIENCE;
    while works() == 0.0 {
        stage.raise(&episodes(next..next + 40));
        next += 40;
        assert!(std::time::Instant::now() < deadline, "the second writer gets no partition");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    first.stop().await.unwrap();
    stage.raise(&episodes(next..next + 500));
    seen(&rows, u64::from(next + 500) * 2).await;
    second.stop().await.unwrap();
}

/// The SQL of the section about alerts.
fn documented() -> Vec<String> {
    let text = include_str!("../../docs/OPERATIONS.md");
    let (_, section) = text.split_once("## Alert history").expect("the section is there");
    let section = section.split("\n## ").next().unwrap();
    let blocks = section.split("```sql\n").skip(1).map(|block| block.split("```").next().unwrap());
    let queries = blocks.flat_map(|block| block.split(";\n")).map(str::trim);
    queries.filter(|query| !query.is_empty()).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documented_queries_say_what_they_should() {
    let config = config(&stack().kafka, &stack().clickhouse);
    let writer = Writer::ready(&config).await;
    let (mut stage, rows) = (Stage::new(&config), Rows::of(&config));
    let client = Client::new(&config.clickhouse).unwrap();
    let documented_device = "0a1b2c3d-0000-4000-8000-0123456789ab";
    let (now, minute) = (now_ms(), 60_000);
    let at = |number: u32, device: &str, ago_minutes: i64| {
        let onset = now - ago_minutes * minute;
        let time = onset + minute;
        let rule = "hot".to_owned();
        DeviceAlert { device_id: device.to_owned(), onset, time, rule, ..firing(number) }
    };
    let ends = |alert: &DeviceAlert| DeviceAlert {
        state: AlertState::Resolved.into(),
        time: alert.onset + 10 * minute,
        value: 70.0,
        ..alert.clone()
    };
    let (old, over, on) = (
        at(1, documented_device, 40 * 24 * 60),
        at(2, documented_device, 2 * 24 * 60),
        at(3, documented_device, 30),
    );
    let worse = DeviceAlert {
        repeat: 1,
        value: 91.0,
        time: on.time + minute,
        text: "91 °C".to_owned(),
        ..on.clone()
    };
    let other = DeviceAlert { severity: AlertSeverity::Critical.into(), ..at(4, &device(5), 20) };
    stage.raise(&[old.clone(), ends(&old), over.clone(), ends(&over), on.clone(), worse, other.clone()]);
    // The reading that caused the alert that is still on.
    let mut source = Source::new(&config);
    let id: DeviceId = documented_device.parse().unwrap();
    let reading =
        SensorReading { timestamp: on.time, temperature: Some(85.5), sequence: 1, ..Default::default() };
    source.record(Some(id.as_bytes()), &reading.encode_to_vec());
    source.delivered().await;
    seen(&rows, 7).await;
    until("the reading is stored", || async { rows.number("count()", "readings").await == 1 }).await;

    let mut answers = Vec::new();
    for query in documented() {
        let answer = lines(&client, &format!("{} FORMAT TSVWithNames", sql(&config, &query))).await;
        answers.push(answer);
    }
    assert_eq!(answers.len(), 6);
    let column = |answer: &[String], name: &str| -> Vec<String> {
        let at = answer[0].split('\t').position(|found| found == name).unwrap_or_else(|| panic!("{name}"));
        answer[1..].iter().map(|row| row.split('\t').nth(at).unwrap().to_owned()).collect()
    };
    // 1: the episodes of a device.
    assert_eq!(column(&answers[0], "state"), ["firing", "resolved"]);
    assert_eq!(column(&answers[0], "duration_s"), ["\\N", "600"]);
    assert_eq!(column(&answers[0], "peak_value"), ["91", "85.5"]);
    assert_eq!(column(&answers[0], "repeats"), ["1", "0"]);
    // 2: everything that was said of it.
    assert_eq!(column(&answers[1], "state"), ["firing", "resolved", "firing", "firing"]);
    assert_eq!(column(&answers[1], "repeat"), ["0", "0", "0", "1"]);
    // 3: what is firing now, the worst first.
    assert_eq!(column(&answers[2], "device_id"), [&other.device_id, documented_device]);
    // 4: what was raised in the last hour, of whatever onset.
    assert_eq!(answers[3].len(), 1 + 7);
    // 5: by day and rule.
    assert_eq!(column(&answers[4], "episodes").iter().map(|n| n.parse::<u32>().unwrap()).sum::<u32>(), 3);
    // 6: the reading that caused it.
    assert_eq!(column(&answers[5], "temperature"), ["85.5"]);
    writer.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_on_device_and_onset_reach_the_key_through_the_views() {
    let config = config(&stack().kafka, &stack().clickhouse);
    let client = Client::new(&config.clickhouse).unwrap();
    migrate(&client, &config.clickhouse).await.unwrap();
    // 100 devices, one alert a minute each.
    let fill = "INSERT INTO penstock.alerts_stored (id, rule, device_id, severity, state, onset, time, raised_at) SELECT \
         generateUUIDv4(), 'hot', toUUID(concat('0a1b2c3d-0000-4000-8000-', leftPad(toString(number % 100), 12, '0'))), \
         'info', 'firing', toDateTime64('2026-03-01 00:00:00', 3, 'UTC') + intDiv(number, 100) * 60 AS onset, onset, onset \
         FROM numbers(1000000)";
    client.query(&sql(&config, fill)).await.unwrap();
    for view in ["alerts", "alert_episodes"] {
        let explain = format!(
            "EXPLAIN indexes = 1, json = 1 SELECT * FROM penstock.{view} WHERE device_id = '{}' AND onset >= \
             toDateTime('2026-03-02 00:00:00', 'UTC') AND onset < toDateTime('2026-03-02 01:00:00', 'UTC') FORMAT TSVRaw",
            device(5)
        );
        let plan = value(&client, &sql(&config, &explain)).await;
        let key = plan.split("PrimaryKey").nth(1).unwrap_or_else(|| panic!("{plan}"));
        assert!(key.contains("device_id") && key.contains("onset"), "{plan}");
        let selected = key.split("\"Selected Granules\":").nth(1).unwrap();
        let selected: u32 =
            selected.trim().split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap();
        println!("{view}: {selected} granules of 123");
        assert!(selected <= 2, "{view}: {selected} granules of 123");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_alerts_that_somebody_else_has_filled_is_not_thrown_away() {
    let config = clickhouse_config(&stack().clickhouse);
    let client = Client::new(&config).unwrap();
    let database = &config.database;
    client.query(&format!("CREATE DATABASE {database}")).await.unwrap();
    for migration in Migration::all().into_iter().filter(|migration| migration.version < 7) {
        for statement in migration.statements(&config).unwrap() {
            client.query(&statement).await.unwrap();
        }
    }
    client
        .query(&format!("INSERT INTO {database}.alerts (id, onset) VALUES ('mine', now64(3))"))
        .await
        .unwrap();
    let error = migrate(&client, &config).await.unwrap_err();
    assert!(error.to_string().contains("rename it, then migrate again"), "{error}");
    assert!(!error.is_transient());
    assert_eq!(value(&client, &format!("SELECT count() FROM {database}.alerts")).await, "1");
    client.query(&format!("RENAME TABLE {database}.alerts TO {database}.mine")).await.unwrap();
    migrate(&client, &config).await.unwrap();
    assert_eq!(value(&client, &format!("SELECT count() FROM {database}.alerts")).await, "0");
    // Again, over views: a migration that broke off is applied again.
    for statement in Migration::all().last().unwrap().statements(&config).unwrap() {
        client.query(&statement).await.unwrap();
    }
}
