//! Rollups against a real ClickHouse: always what readings_unique says, computed anew.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use penstock_service::config;
use penstock_storage_writer::clickhouse::{CallError, Client};
use penstock_storage_writer::rollups::{Fence, Limits, Refreshed, Rollups};
use support::{clickhouse, lines, migrated, value};

const PARTITIONS: u16 = 4;
const DEVICES: u64 = 10;
const DAY_S: i64 = 86_400;
/// Small enough for every refresh of these tests to be cut into many statements.
const SMALL: Limits = Limits { round_offsets: 150, statement_rows: 40 };

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn between(&mut self, from: i64, to: i64) -> i64 {
        from + i64::try_from(self.below(u64::try_from(to - from).unwrap())).unwrap()
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// A reading as text of SQL: what makes it distinct, and its measurements.
#[derive(Clone, Debug)]
struct Reading {
    device: u64,
    timestamp_ms: i64,
    sequence: u64,
    measurements: String,
}

fn measurements(random: &mut Random) -> String {
    let mut some = |from, to| match random.one_in(4) {
        true => "NULL".to_owned(),
        false => format!("{}", random.between(from, to) as f64 / 64.0),
    };
    let floats = [some(-2_000, 4_000), some(0, 6_400), some(60_000, 70_000)].join(", ");
    let battery = if random.one_in(3) { "NULL".to_owned() } else { random.below(101).to_string() };
    format!("{floats}, {battery}")
}

/// A database, and the Kafka partitions whose records go into it.
struct Fleet {
    config: config::ClickHouse,
    client: Client,
    rollups: Rollups,
    /// The beginning of this month: late readings are of the month before.
    month_s: i64,
    partitions: Vec<Vec<Reading>>,
}

impl Fleet {
    async fn new() -> Self {
        let (config, client) = migrated(clickhouse()).await;
        let rollups = Rollups::new(client.clone(), &config);
        let month_s =
            value(&client, "SELECT toUnixTimestamp(toDateTime(toStartOfMonth(now('UTC')), 'UTC'))").await;
        let partitions = vec![Vec::new(); usize::from(PARTITIONS)];
        Self { config, client, rollups, month_s: month_s.parse().unwrap(), partitions }
    }

    async fn run(&self, sql: &str) {
        value(&self.client, &sql.replace("{db}", &self.config.database)).await;
    }

    async fn ask(&self, sql: &str) -> String {
        value(&self.client, &sql.replace("{db}", &self.config.database)).await
    }

    /// A new record in the partition of the reading's device.
    fn record(&mut self, reading: Reading) {
        let partition = usize::try_from(reading.device % u64::from(PARTITIONS)).unwrap();
        self.partitions[partition].push(reading);
    }

    /// A reading `seconds` behind the beginning of the month.
    fn reading(&mut self, device: u64, seconds: i64, sequence: u64, measurements: &str) {
        let timestamp_ms = (self.month_s + seconds) * 1_000;
        self.record(Reading { device, timestamp_ms, sequence, measurements: measurements.to_owned() });
    }

    /// New readings, late ones, ones that are sent again.
    fn send(&mut self, random: &mut Random, records: u64, round: i64) {
        for _ in 0..records {
            let sent: usize = self.partitions.iter().map(Vec::len).sum();
            if sent > 0 && random.one_in(4) {
                let partition = usize::try_from(random.below(u64::from(PARTITIONS))).unwrap();
                let count = self.partitions[partition].len() as u64;
                if count > 0 {
                    let index = usize::try_from(random.below(count)).unwrap();
                    let mut again = self.partitions[partition][index].clone();
                    if random.one_in(5) {
                        // A device that uses a sequence twice has one reading: the one received last.
                        again.measurements = measurements(random);
                    }
                    self.record(again);
                    continue;
                }
            }
            let seconds = match random.below(6) {
                0 => random.between(-6 * DAY_S, 2 * DAY_S),
                1 => random.between(-600, 600),
                _ => round * 120 + random.between(0, 300),
            };
            let reading = Reading {
                device: random.below(DEVICES),
                timestamp_ms: (self.month_s + seconds) * 1_000 + random.between(0, 1_000),
                sequence: random.below(3),
                measurements: measurements(random),
            };
            self.record(reading);
        }
    }

    fn ends(&self) -> Vec<(u16, u64)> {
        (0..).zip(self.partitions.iter().map(|records| records.len() as u64)).collect()
    }

    /// Stores records of all partitions from these offsets on, in one insert.
    async fn store(&self, from: &[(u16, u64)]) {
        let mut rows = Vec::new();
        for &(partition, from) in from {
            let records = self.partitions[usize::from(partition)].iter().enumerate();
            for (offset, record) in records.skip(usize::try_from(from).unwrap()) {
                let Reading { device, timestamp_ms, sequence, measurements } = record;
                // Received in the order of offsets.
                let received_at = self.month_s * 1_000 + i64::try_from(offset).unwrap();
                rows.push(format!(
                    "(toUUID('00000000-0000-4000-8000-{device:012x}'), \
                     fromUnixTimestamp64Milli({timestamp_ms}, 'UTC'), {sequence}, {measurements}, \
                     fromUnixTimestamp64Milli({received_at}, 'UTC'), {partition}, {offset})"
                ));
            }
        }
        if !rows.is_empty() {
            self.run(&format!(
                "INSERT INTO {{db}}.readings (device_id, timestamp, sequence, temperature, humidity, pressure, \
                 battery_level, received_at, kafka_partition, kafka_offset) SETTINGS optimize_on_insert = 0 VALUES {}",
                rows.join(", ")
            ))
            .await;
        }
    }

    async fn refresh(&self) -> Refreshed {
        self.rollups.refresh(&self.ends(), None).await.unwrap()
    }

    async fn refresh_fenced(&self, condition: &str) -> Result<Refreshed, CallError> {
        let condition = condition.replace("{db}", &self.config.database);
        let fence = Fence { condition: &condition, log_comment: "" };
        self.rollups.refresh(&self.ends(), Some(&fence)).await
    }

    /// A refresh that dies behind its first insert into a table. Says whether it did.
    async fn killed_behind(&self, table: &str) -> bool {
        let newest = self.ask(&format!("SELECT toString(max(refreshed_at)) FROM {{db}}.{table}")).await;
        let condition = format!("throwIf((SELECT max(refreshed_at) FROM {{db}}.{table}) > '{newest}') = 0");
        self.refresh_fenced(&condition).await.is_err()
    }

    async fn assert_exact(&self, context: &str) {
        for (view, window, of) in
            [("by_minute", "minute", "toStartOfMinute"), ("by_hour", "hour", "toStartOfHour")]
        {
            let each = |expression: &dyn Fn(&str) -> String| {
                ["temperature", "humidity", "pressure"].map(expression).join(", ")
            };
            let computed = each(&|name| format!("count({name}), min({name}), max({name}), avg({name})"));
            let kept = each(&|name| format!("{name}_count, {name}_min, {name}_max, {name}_avg"));
            let expected = format!(
                "SELECT device_id, {of}(timestamp) AS window, count(), min(battery_level), {computed} \
                 FROM {{db}}.readings_unique GROUP BY device_id, window ORDER BY device_id, window"
            );
            let found = format!(
                "SELECT device_id, {window}, readings, battery_level_min, {kept} \
                 FROM {{db}}.{view} ORDER BY device_id, {window}"
            );
            let (expected, found) = (self.ask(&expected).await, self.ask(&found).await);
            let (expected, found): (Vec<_>, Vec<_>) = (expected.lines().collect(), found.lines().collect());
            assert_eq!(found.len(), expected.len(), "{context}: windows in {view}");
            for (found, expected) in found.iter().zip(&expected) {
                assert!(is_same(found, expected), "{context}: {view}\n   found {found}\nexpected {expected}");
            }
        }
    }
}

/// Whether two rows are the same; averages, every fourth field from the eighth on, nearly.
fn is_same(found: &str, expected: &str) -> bool {
    let fields = found.split('\t').zip(expected.split('\t')).enumerate();
    fields.fold(true, |same, (index, (found, expected))| {
        let is_average = index >= 7 && index % 4 == 3;
        let near = match (found.parse::<f64>(), expected.parse::<f64>()) {
            (Ok(found), Ok(expected)) => (found - expected).abs() <= 1e-6 * expected.abs().max(1e-3),
            _ => false,
        };
        same && (found == expected || is_average && near)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn g3_rollups_are_exact_under_resends_late_readings_crashes_and_lost_progress() {
    let mut killed = 0;
    for seed in 0..3 {
        let mut random = Random(seed);
        let mut fleet = Fleet::new().await;
        for round in 0..10 {
            let context = format!("seed {seed}, round {round}");
            let mut stored = fleet.ends();
            let records = 20 + random.below(80);
            fleet.send(&mut random, records, round);
            if random.one_in(3) {
                // A batch is inserted again.
                let back = random.below(40);
                stored.iter_mut().for_each(|(_, offset)| *offset = offset.saturating_sub(back));
            }
            fleet.store(&stored).await;
            if random.one_in(3) {
                let table = ["readings", "readings_1m", "readings_1h", "rollup_progress"];
                let table = table[usize::try_from(random.below(4)).unwrap()];
                fleet.run(&format!("OPTIMIZE TABLE {{db}}.{table} FINAL")).await;
            }
            match random.below(6) {
                0 => fleet.run("TRUNCATE TABLE {db}.rollup_progress").await,
                1 => {
                    let back = "INSERT INTO {db}.rollup_progress SELECT kafka_partition, \
                                intDiv(next_offset, 2), refreshed_at + INTERVAL 1 MILLISECOND \
                                FROM {db}.rollup_progress FINAL";
                    fleet.run(back).await;
                }
                _ => {}
            }
            let limits = if random.one_in(2) { SMALL } else { Limits::default() };
            fleet.rollups = fleet.rollups.clone().with_limits(limits);
            if random.one_in(3) {
                let table = if random.one_in(2) { "readings_1m" } else { "readings_1h" };
                killed += u32::from(fleet.killed_behind(table).await);
            }
            if random.one_in(3) {
                // An owner that has not stored everything yet.
                let mut some = fleet.ends();
                some.iter_mut().for_each(|(_, end)| *end -= random.below(20).min(*end));
                fleet.rollups.refresh(&some[usize::from(random.one_in(2))..], None).await.unwrap();
            }
            fleet.refresh().await;
            fleet.assert_exact(&context).await;
            assert_eq!(fleet.refresh().await, Refreshed::default(), "{context}: all is done");
        }
    }
    assert!(killed > 3, "only {killed} refreshes were killed");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_refresh_is_done_again_in_full() {
    let mut fleet = Fleet::new().await;
    fleet.send(&mut Random(1), 200, 0);
    fleet.store(&[(0, 0), (1, 0), (2, 0), (3, 0)]).await;
    assert!(fleet.killed_behind("readings_1m").await);
    assert_ne!(fleet.ask("SELECT count() FROM {db}.by_minute").await, "0");
    assert_eq!(fleet.ask("SELECT max(next_offset) FROM {db}.rollup_progress FINAL").await, "0");
    assert!(fleet.killed_behind("readings_1h").await);
    assert_eq!(fleet.refresh().await.offsets, 200);
    fleet.assert_exact("after the third").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fence_that_throws_lets_nothing_through() {
    let mut fleet = Fleet::new().await;
    fleet.send(&mut Random(2), 100, 0);
    fleet.store(&[(0, 0), (1, 0), (2, 0), (3, 0)]).await;
    let error = fleet.refresh_fenced("throwIf(1 = 1, 'another writer owns this') = 0").await.unwrap_err();
    assert!(error.to_string().contains("another writer owns this"), "{error}");
    for table in ["by_minute", "by_hour", "rollup_progress"] {
        assert_eq!(fleet.ask(&format!("SELECT count() FROM {{db}}.{table}")).await, "0", "{table}");
    }
    fleet.refresh_fenced("throwIf(1 = 0, 'another writer owns this') = 0").await.unwrap();
    fleet.assert_exact("with a fence that is open").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn inserts_carry_the_comment_of_their_fence() {
    let mut fleet = Fleet::new().await;
    fleet.send(&mut Random(3), 20, 0);
    fleet.store(&[(0, 0), (1, 0), (2, 0), (3, 0)]).await;
    let comment = fleet.config.database.clone();
    let fence = Fence { condition: "1", log_comment: &comment };
    fleet.rollups.refresh(&fleet.ends(), Some(&fence)).await.unwrap();
    fleet.run("SYSTEM FLUSH LOGS query_log").await;
    let tables = format!(
        "SELECT DISTINCT extract(query, 'INSERT INTO [a-z0-9_]+\\\\.([a-z0-9_]+)') AS into FROM system.query_log \
         WHERE log_comment = '{comment}' ORDER BY into"
    );
    assert_eq!(lines(&fleet.client, &tables).await, ["readings_1h", "readings_1m", "rollup_progress"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_refresh_that_ends_after_a_newer_one_loses() {
    let mut fleet = Fleet::new().await;
    fleet.reading(0, 10, 1, "1, 1, 1, 1");
    fleet.store(&[(0, 0)]).await;
    let stale = {
        let (rollups, ends) = (fleet.rollups.clone(), fleet.ends());
        tokio::spawn(async move {
            // It has chosen its rows when it falls asleep, and stores them when it wakes up.
            let fence = Fence { condition: "sleep(2) = 0", log_comment: "" };
            rollups.refresh(&ends, Some(&fence)).await
        })
    };
    let asleep = format!(
        "SELECT count() FROM system.processes WHERE query LIKE '%INSERT INTO {}.readings_1m%sleep(2)%' \
         AND query NOT LIKE '%system.processes%'",
        fleet.config.database
    );
    support::fleet::until("the stale refresh computes minutes", || async {
        value(&fleet.client, &asleep).await != "0"
    })
    .await;
    fleet.reading(0, 11, 2, "2, 2, 2, 2");
    fleet.store(&[(0, 1)]).await;
    fleet.refresh().await;
    assert!(!stale.is_finished(), "the newer refresh overtakes it");
    fleet.assert_exact("before the stale one").await;
    stale.await.unwrap().unwrap();
    fleet.assert_exact("after the stale one").await;
    // Its progress has lost too.
    assert_eq!(fleet.refresh().await, Refreshed::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_grow_though_the_clock_jumps_back() {
    let mut fleet = Fleet::new().await;
    fleet.reading(0, 10, 1, "1, NULL, NULL, NULL");
    fleet.store(&[(0, 0)]).await;
    fleet.refresh().await;
    // As if all this had been done by a clock of the year 2100.
    for table in ["readings_1m", "readings_1h", "rollup_progress"] {
        let future = format!(
            "INSERT INTO {{db}}.{table} SELECT * REPLACE (toDateTime64('2100-01-01 00:00:00', 3, 'UTC') AS refreshed_at) \
             FROM {{db}}.{table} FINAL"
        );
        fleet.run(&future).await;
    }
    fleet.reading(0, 11, 2, "2, NULL, NULL, NULL");
    fleet.store(&[(0, 1)]).await;
    fleet.refresh().await;
    fleet.assert_exact("after the jump").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_span_is_covered_in_rounds() {
    let mut fleet = Fleet::new().await;
    fleet.send(&mut Random(4), 600, 0);
    fleet.store(&[(0, 0), (1, 0), (2, 0), (3, 0)]).await;
    fleet.rollups = fleet.rollups.clone().with_limits(SMALL);
    let refreshed = fleet.refresh().await;
    assert_eq!((refreshed.rounds, refreshed.offsets, refreshed.rows), (4, 600, 600));
    fleet.assert_exact("in rounds").await;
    // Offsets that Kafka had forgotten before there was a writer cost nothing.
    let far = [(9, 5_000_000_000), (0, fleet.ends()[0].1 + 5_000_000_000)];
    let refreshed = fleet.rollups.refresh(&far, None).await.unwrap();
    assert_eq!((refreshed.rounds, refreshed.offsets), (0, 10_000_000_000));
    assert_eq!(fleet.rollups.refresh(&far, None).await.unwrap(), Refreshed::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_are_counted_and_only_those_that_are_touched_are_written() {
    let mut fleet = Fleet::new().await;
    for second in 0..180 {
        fleet.reading(0, second, 0, "1, NULL, 3, NULL");
        fleet.reading(1, second, 0, "NULL, NULL, NULL, 7");
    }
    fleet.store(&[(0, 0), (1, 0)]).await;
    let refreshed = fleet.refresh().await;
    let expected = Refreshed { offsets: 360, rows: 360, windows: 6, hours: 2, rounds: 1 };
    assert_eq!(refreshed, expected);
    // One late reading, and one that is sent again.
    fleet.reading(0, -DAY_S, 0, "NULL, NULL, NULL, NULL");
    fleet.reading(1, 60, 0, "NULL, NULL, NULL, 7");
    fleet.store(&[(0, 180), (1, 180)]).await;
    let refreshed = fleet.refresh().await;
    assert_eq!(refreshed, Refreshed { offsets: 2, rows: 2, windows: 2, hours: 2, rounds: 1 });
    fleet.assert_exact("touched").await;
    // An average of nothing is nothing.
    let nothing = "SELECT count() FROM {db}.by_minute WHERE temperature_avg IS NULL AND humidity_avg IS NULL \
                   AND pressure_min IS NULL AND battery_level_min IS NULL AND readings = 1";
    assert_eq!(fleet.ask(nothing).await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_that_have_expired_are_left_alone() {
    let mut fleet = Fleet::new().await;
    fleet.run("SYSTEM STOP TTL MERGES {db}.readings").await;
    fleet.reading(0, -6 * 366 * DAY_S, 0, "1, 1, 1, 1");
    fleet.store(&[(0, 0)]).await;
    let refreshed = fleet.refresh().await;
    assert_eq!((refreshed.offsets, refreshed.windows), (1, 0));
    assert_eq!(fleet.ask("SELECT count() FROM {db}.by_minute").await, "0");
}
