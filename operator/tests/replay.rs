//! `penstock replay` on a real Kafka and a real ClickHouse, beside a real writer. The oracle is what the writer had made of
//! the records before anything was tampered with.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends")]

#[path = "../../storage-writer/tests/support/mod.rs"]
mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use penstock_devstack::{Stack, StackOptions};
use penstock_operator::replay::{Outcome, Replay, ReplayError, Stage};
use penstock_operator::{Moment, OperatorError};
use penstock_service::Config;
use penstock_service::config::StorageGuarantee;
use penstock_storage_writer::clickhouse::Client;
use support::fleet::{Rows, Source, Writer, config, key, until};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

const DEVICES: u32 = 60;

fn stack() -> &'static Stack {
    static STACK: OnceLock<Stack> = OnceLock::new();
    STACK.get_or_init(|| Stack::start(&StackOptions::default()).expect("the stack starts"))
}

/// A database, its writer and its source.
struct Bench {
    config: Config,
    client: Client,
    writer: Writer,
    source: Source,
    rows: Rows,
}

impl Bench {
    async fn new() -> Self {
        let mut config = config(&stack().kafka, &stack().clickhouse);
        config.writer.rollup_every_ms = 200;
        let writer = Writer::ready(&config).await;
        let client = Client::new(&config.clickhouse).unwrap();
        Self { source: Source::new(&config), rows: Rows::of(&config), client, writer, config }
    }

    /// Sends readings of all devices, waits until they are stored and committed.
    async fn readings(&mut self, first: u64, count: u64) {
        self.source.readings(DEVICES, first, count);
        self.source.delivered().await;
        self.rows.wait_for(u64::from(DEVICES) * (first + count)).await;
        let plan = || async {
            self.plan(Replay::default())
                .await
                .is_ok_and(|plan| plan.offsets == u64::from(DEVICES) * (first + count))
        };
        until("everything is committed", plan).await;
    }

    async fn plan(&self, replay: Replay) -> Result<penstock_operator::replay::Plan, ReplayError> {
        let (config, runtime) = (self.config.clone(), Handle::current());
        tokio::task::spawn_blocking(move || replay.plan(&config, &runtime)).await.unwrap()
    }

    async fn replay(&self, replay: Replay) -> Result<Outcome, ReplayError> {
        self.watched(replay, CancellationToken::new(), |_| ()).await
    }

    async fn watched(
        &self,
        replay: Replay,
        cancel: CancellationToken,
        observer: impl Fn(Stage) + Send + 'static,
    ) -> Result<Outcome, ReplayError> {
        let (config, runtime) = (self.config.clone(), Handle::current());
        tokio::task::spawn_blocking(move || replay.run(&config, &runtime, &cancel, &observer)).await.unwrap()
    }

    /// Ends a replay at a stage as kill -9 would: nothing is cleaned up.
    async fn killed_at(&self, replay: Replay, stage: Stage) {
        let (config, runtime) = (self.config.clone(), Handle::current());
        let killed = tokio::task::spawn_blocking(move || {
            let observer = |at| {
                if at == stage {
                    std::panic::resume_unwind(Box::new("killed"))
                }
            };
            catch_unwind(AssertUnwindSafe(|| {
                replay.run(&config, &runtime, &CancellationToken::new(), &observer)
            }))
            .is_err()
        });
        assert!(killed.await.unwrap(), "the replay does not come to {stage:?}");
    }

    async fn sql(&self, sql: &str) -> String {
        let sql = sql.replace("{db}", &self.config.clickhouse.database);
        let settings = [("mutations_sync", "2"), ("lightweight_deletes_sync", "2")];
        self.client
            .execute(&sql, &settings, "", Duration::from_secs(60))
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error}"))
            .trim()
            .to_owned()
    }

    /// Every reading with everything the writer stores of it, as a number and as a count.
    async fn content(&self, condition: &str) -> String {
        self.sql(&format!(
            "SELECT count(), groupBitXor(cityHash64(device_id, timestamp, sequence, ifNull(temperature, -1), \
             ifNull(battery_level, 0), toString(metrics), received_at, kafka_partition, kafka_offset)) \
             FROM {{db}}.readings_unique WHERE {condition}"
        ))
        .await
    }

    /// Waits until rollups and latest readings say what the readings say.
    async fn agrees(&self) {
        const WINDOW: &str = "count() AS n, round(sum(temperature), 3) AS t";
        let readings = |start: &str| {
            format!(
                "SELECT toString(groupBitXor(cityHash64(device_id, w, n, t))), count() FROM (SELECT device_id, \
                 {start}(timestamp) AS w, {WINDOW} FROM {{db}}.readings_unique GROUP BY device_id, w)"
            )
        };
        let rollup = |view: &str, w: &str| {
            format!(
                "SELECT toString(groupBitXor(cityHash64(device_id, {w}, toUInt64(readings), \
                 round(temperature_avg * temperature_count, 3)))), count() FROM {{db}}.{view}"
            )
        };
        let latest = "SELECT toString(groupBitXor(cityHash64(device_id, timestamp, sequence, temperature))), count() \
                      FROM {db}.latest";
        let expected = "SELECT toString(groupBitXor(cityHash64(device_id, timestamp, sequence, temperature))), count() \
                        FROM (SELECT * FROM {db}.readings_unique ORDER BY device_id, timestamp DESC, sequence DESC \
                        LIMIT 1 BY device_id)";
        let pairs = [
            (rollup("by_minute", "minute"), readings("toStartOfMinute")),
            (rollup("by_hour", "hour"), readings("toStartOfHour")),
            (latest.to_owned(), expected.to_owned()),
        ];
        for (stored, expected) in pairs {
            until(&format!("agrees: {stored}"), || async {
                self.sql(&stored).await == self.sql(&expected).await
            })
            .await;
        }
    }

    /// Nothing of a replay is left, and every offset has one row.
    async fn is_clean(&self) {
        let tables = self
            .sql("SELECT count() FROM system.tables WHERE database = '{db}' AND (name LIKE 'readings_replay%' OR comment LIKE 'Penstock replay%')")
            .await;
        assert_eq!(tables, "0");
        let doubled =
            self.sql("SELECT count() - uniqExact(kafka_partition, kafka_offset) FROM {db}.readings").await;
        assert_eq!(doubled, "0");
    }

    /// Deletes, changes and adds rows of the time from `from` on.
    async fn tamper(&self, from: Moment) {
        let inside = format!("received_at >= fromUnixTimestamp64Milli({}, 'UTC')", from.ms);
        self.sql(&format!("ALTER TABLE {{db}}.readings DELETE WHERE {inside} AND sequence % 5 = 0")).await;
        self.sql(&format!(
            "ALTER TABLE {{db}}.readings UPDATE temperature = 99 WHERE {inside} AND sequence % 5 = 1"
        ))
        .await;
        // A reading that no record has, later than all others of its device, and one in a window of its own.
        self.sql(&format!(
            "INSERT INTO {{db}}.readings (device_id, timestamp, sequence, temperature, received_at, kafka_partition, \
             kafka_offset) SELECT device_id, timestamp + INTERVAL 1 DAY, 999999, 50, received_at, kafka_partition, kafka_offset \
             FROM {{db}}.readings WHERE {inside} AND sequence % 5 = 2 AND cityHash64(device_id) % 3 = 0"
        ))
        .await;
    }
}

fn since(from: Moment) -> Replay {
    Replay { from: Some(from), ..Replay::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_the_range_are_as_in_kafka_and_all_others_as_they_were() {
    let mut bench = Bench::new().await;
    bench.readings(0, 20).await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    let from = Moment::now();
    bench.readings(20, 30).await;
    bench.agrees().await;
    // Not what Kafka has, but outside of the range: nobody's business.
    bench.sql("ALTER TABLE {db}.readings UPDATE temperature = 77 WHERE sequence = 7").await;
    bench
        .sql(
            "INSERT INTO {db}.readings (device_id, timestamp, sequence, temperature, received_at, kafka_partition, \
             kafka_offset) SELECT device_id, timestamp - INTERVAL 6 MONTH, sequence, 1, received_at, kafka_partition + 100, \
             kafka_offset FROM {db}.readings WHERE sequence < 3",
        )
        .await;
    let before = bench.content("1").await;
    bench.tamper(from).await;
    assert_ne!(bench.content("1").await, before);

    let plan = bench.plan(since(from)).await.unwrap();
    assert_eq!((plan.offsets, plan.months.len()), (1_800, 2));
    assert_eq!(plan.months[0].rows_in_range, 0, "a month that is taken over whole");
    let outcome = bench.replay(since(from)).await.unwrap();
    println!("held for {:.3} s: {outcome:?}", outcome.held_s);
    assert_eq!((outcome.records, outcome.rows_rebuilt, outcome.skipped), (1_800, 1_800, 0));
    assert_eq!(outcome.rows_kept, 1_200 + 180);
    assert!(outcome.rows_dropped > 0, "the readings that no record has");
    assert_eq!(bench.content("1").await, before);
    bench.is_clean().await;
    // The writer goes on, and what was computed from dropped rows is gone. The readings to come touch the windows of those
    // that were changed, so these are computed anew.
    bench.sql("ALTER TABLE {db}.readings UPDATE temperature = 20.5 WHERE sequence = 7").await;
    bench.source.readings(DEVICES, 50, 1);
    bench.source.delivered().await;
    until("the writer goes on", || async { bench.rows.distinct().await == 3_240 }).await;
    bench.sql("ALTER TABLE {db}.readings DELETE WHERE kafka_partition >= 100").await;
    bench.agrees().await;
    bench.writer.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_are_no_rows_are_skipped_and_the_old_table_is_kept_if_wanted() {
    let mut bench = Bench::new().await;
    for _ in 0..7 {
        bench.source.record(Some(&key(1)), b"\xff\xff");
    }
    bench.source.readings(DEVICES, 0, 10);
    bench.source.delivered().await;
    bench.rows.wait_for(600).await;
    until("all is committed", || async {
        bench.plan(Replay::default()).await.is_ok_and(|plan| plan.offsets >= 607)
    })
    .await;
    let outcome = bench.replay(Replay { keep_old: true, ..Replay::default() }).await.unwrap();
    assert_eq!((outcome.records, outcome.rows_rebuilt, outcome.skipped), (607, 600, 7));
    let kept = outcome.kept_as.unwrap();
    assert_eq!(bench.sql(&format!("SELECT count() FROM {{db}}.{kept}")).await, "600");
    bench.is_clean().await;
    let comment = "SELECT comment LIKE 'One row a reading%' FROM system.tables WHERE database = '{db}' AND name = 'readings'";
    assert_eq!(bench.sql(comment).await, "1");
    // A table that was kept is in nobody's way.
    bench.replay(Replay::default()).await.unwrap();
    bench.writer.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_at_work_loses_and_doubles_nothing() {
    let mut bench = Bench::new().await;
    bench.readings(0, 50).await;
    let from = Moment { ms: 0 };
    bench.tamper(from).await;
    let stop = std::sync::Arc::new(AtomicBool::new(false));
    let load = {
        let (config, stop) = (bench.config.clone(), std::sync::Arc::clone(&stop));
        tokio::spawn(async move {
            let (mut source, mut sequence) = (Source::new(&config), 50);
            while !stop.load(Ordering::Relaxed) {
                source.readings(DEVICES, sequence, 10);
                source.delivered().await;
                sequence += 10;
            }
            sequence
        })
    };
    for _ in 0..3 {
        let outcome = bench.replay(since(from)).await.unwrap();
        println!("held for {:.3} s of {:.1} s, {} records", outcome.held_s, outcome.seconds, outcome.records);
        tokio::time::sleep(Duration::from_secs(4)).await;
    }
    stop.store(true, Ordering::Relaxed);
    let sent = load.await.unwrap() * u64::from(DEVICES);
    println!("{sent} readings");
    bench.rows.wait_for(sent).await;
    bench.is_clean().await;
    bench.agrees().await;
    bench.writer.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_is_killed_anywhere_leaves_readings_whole_and_the_next_one_ends_it() {
    let mut bench = Bench::new().await;
    bench.readings(0, 20).await;
    let before = bench.content("1").await;
    let stages = [
        Stage::Created,
        Stage::Rebuilt,
        Stage::Copied,
        Stage::Held,
        Stage::Exchanged,
        Stage::Released,
        Stage::Fed,
    ];
    for stage in stages {
        bench.tamper(Moment { ms: 0 }).await;
        let tampered = bench.content("1").await;
        bench.killed_at(since(Moment { ms: 0 }), stage).await;
        let expected = if stage < Stage::Exchanged { &tampered } else { &before };
        assert_eq!(&bench.content("1").await, expected, "{stage:?}");
        let replayed = bench.replay(since(Moment { ms: 0 })).await;
        let outcome = replayed.unwrap_or_else(|error| panic!("{stage:?}: {error}"));
        assert_eq!(outcome.finished.is_some(), stage >= Stage::Exchanged, "{stage:?}");
        assert_eq!(outcome.dropped_left_over, u64::from(stage < Stage::Exchanged), "{stage:?}");
        assert_eq!(bench.content("1").await, before, "{stage:?}");
        bench.is_clean().await;
    }
    bench.readings(20, 10).await;
    bench.agrees().await;
    bench.writer.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_reach_the_old_table_after_the_last_look_are_taken_over() {
    let mut bench = Bench::new().await;
    bench.readings(0, 10).await;
    bench.killed_at(Replay::default(), Stage::Exchanged).await;
    // As if a process had been stopped before its exchange until its hold was over: a writer has stored rows meanwhile.
    let old = bench.sql("SELECT name FROM system.tables WHERE database = '{db}' AND match(name, '^readings_replay_[0-9a-f]{16}$')").await;
    bench
        .sql(&format!(
            "INSERT INTO {{db}}.{old} (device_id, timestamp, sequence, temperature, received_at, kafka_partition, \
             kafka_offset) SELECT device_id, timestamp + INTERVAL 1 HOUR, 777, 7, received_at, kafka_partition, \
             kafka_offset + 1000000 FROM {{db}}.{old} WHERE sequence = 3"
        ))
        .await;
    bench.replay(Replay::default()).await.unwrap();
    assert_eq!(bench.rows.number("countIf(sequence = 777)", "readings").await, u64::from(DEVICES));
    bench.is_clean().await;
    bench.writer.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_is_interrupted_changes_nothing_and_cleans_up() {
    let mut bench = Bench::new().await;
    bench.readings(0, 20).await;
    bench.tamper(Moment { ms: 0 }).await;
    let tampered = bench.content("1").await;
    for stage in [Stage::Created, Stage::Rebuilt, Stage::Copied, Stage::Held] {
        let cancel = CancellationToken::new();
        let canceller = cancel.clone();
        let ended = bench
            .watched(Replay::default(), cancel, move |at| {
                if at == stage {
                    canceller.cancel()
                }
            })
            .await;
        assert!(matches!(ended, Err(ReplayError::Interrupted)), "{stage:?}: {ended:?}");
        assert_eq!(bench.content("1").await, tampered, "{stage:?}");
        let left =
            "SELECT count() FROM system.tables WHERE database = '{db}' AND name LIKE 'readings_replay%'";
        assert_eq!(bench.sql(left).await, "0", "{stage:?}");
    }
    bench.source.readings(DEVICES, 20, 1);
    bench.source.delivered().await;
    let stored = "SELECT count() FROM {db}.readings WHERE sequence = 20";
    until("the writer goes on", || async { bench.sql(stored).await == DEVICES.to_string() }).await;
    bench.writer.stop().await.unwrap();
}

/// Has Kafka forget the records of every partition below what its middle is.
fn forget_half(config: &Config, ranges: &[(u64, u64)]) -> Vec<u64> {
    let lows: Vec<u64> = ranges.iter().map(|(_, to)| to / 2).collect();
    let topic = format!("{}{}", config.kafka.topic_prefix, penstock_proto::topics::READINGS);
    let below = (0..).zip(lows.iter().map(|low| i64::try_from(*low).unwrap()));
    stack().kafka.delete_records(&topic, below).unwrap();
    lows
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_kafka_does_not_hold_any_more_are_kept() {
    let mut bench = Bench::new().await;
    bench.readings(0, 40).await;
    let before = bench.content("1").await;
    let all = bench.plan(Replay::default()).await.unwrap();
    let forgotten: u64 = forget_half(&bench.config, &all.ranges).iter().sum();
    assert!(forgotten > 1_000);
    until("Kafka has forgotten", || async {
        bench.plan(Replay::default()).await.is_ok_and(|plan| plan.offsets == 2_400 - forgotten)
    })
    .await;
    let outcome = bench.replay(since(Moment { ms: 0 })).await.unwrap();
    assert_eq!((outcome.not_in_kafka, outcome.rows_kept), (forgotten, forgotten));
    assert_eq!(outcome.records, 2_400 - forgotten);
    assert_eq!(bench.content("1").await, before);
    bench.is_clean().await;
    bench.agrees().await;
    bench.writer.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replays_at_once_are_not_made() {
    let mut bench = Bench::new().await;
    bench.readings(0, 10).await;
    let (held, go) = (CancellationToken::new(), CancellationToken::new());
    let (config, runtime) = (bench.config.clone(), Handle::current());
    let first = tokio::task::spawn_blocking({
        let (held, go) = (held.clone(), go.clone());
        let waiting = runtime.clone();
        move || {
            Replay::default().run(&config, &runtime, &CancellationToken::new(), &|at| {
                if at == Stage::Copied {
                    held.cancel();
                    waiting.block_on(go.cancelled());
                }
            })
        }
    });
    held.cancelled().await;
    let second = bench.replay(Replay::default()).await;
    assert!(matches!(second, Err(ReplayError::Another { .. })), "{second:?}");
    go.cancel();
    first.await.unwrap().unwrap();
    bench.is_clean().await;
    bench.writer.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_done_is_refused_with_a_remedy() {
    let mut bench = Bench::new().await;
    let never = bench.plan(Replay::default()).await.unwrap();
    assert_eq!(never.offsets, 0);
    bench.readings(0, 1).await;
    let (from, to) = (Some(Moment { ms: 2_000 }), Some(Moment { ms: 1_000 }));
    let error = bench.plan(Replay { from, to, keep_old: false }).await.unwrap_err();
    assert!(error.to_string().contains("--from 1970-01-01T00:00:02.000Z is not before --to"), "{error}");
    // Nothing that the writer has not committed.
    let outcome = bench.replay(since(Moment { ms: Moment::now().ms + 60_000 })).await.unwrap();
    assert_eq!(outcome.records, 0);
    let mut config = bench.config.clone();
    config.writer.guarantee = StorageGuarantee::AtLeastOnce;
    bench.config = config.clone();
    let error = bench.plan(Replay::default()).await.unwrap_err();
    assert!(matches!(error, ReplayError::NotFenced), "{error}");
    config.writer.guarantee = StorageGuarantee::ExactlyOnce;
    config.clickhouse.cluster = "c".to_owned();
    bench.config = config.clone();
    let error = bench.plan(Replay::default()).await.unwrap_err();
    assert!(matches!(error, ReplayError::Cluster(_)), "{error}");
    config.clickhouse.cluster = String::new();
    config.writer.group = "nobody".to_owned();
    bench.config = config;
    let error = bench.plan(Replay::default()).await.unwrap_err();
    assert!(matches!(error, ReplayError::Operator(OperatorError::WriterNeverRan { .. })), "{error}");
    bench.writer.stop().await.unwrap();
}
