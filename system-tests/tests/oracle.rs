//! The oracle of the fault suite can fail: each thing that must not be is made to be, and found.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::sync::Arc;

use clickhouse::Client;
use penstock_loadgen::{Fleet, Ledger};
use penstock_system_tests::chaos::oracle::{Oracle, Verdict, tables};
use penstock_system_tests::{Chain, Penstock};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

/// A chain through which some readings have gone, late ones among them.
struct Stored {
    runtime: Runtime,
    chain: Chain,
    ledger: Arc<Ledger>,
    client: Client,
    _processes: [Penstock; 2],
}

impl Stored {
    fn new() -> Self {
        let chain = Chain::shared();
        let processes = [chain.gateway(), chain.writer("writer")];
        let runtime = Runtime::new().unwrap();
        let mut options = chain.fleet();
        (options.devices, options.rate, options.count) = (20, 0.0, Some(2_000));
        options.late_fraction = 0.1;
        let fleet = Fleet::new(options).unwrap();
        let (ledger, _) = runtime.block_on(fleet.run(CancellationToken::new())).unwrap();
        let target = chain.clickhouse();
        let client =
            Client::default().with_url(target.url).with_database(target.database).with_user(target.user);
        Self { runtime, chain, ledger: Arc::new(ledger), client, _processes: processes }
    }

    fn check(&self) -> Verdict {
        Oracle::default().check(&self.runtime, &self.chain, || true, &self.ledger, false)
    }

    fn rollups(&self) -> Vec<String> {
        self.runtime.block_on(tables::rollups_now(&self.client))
    }

    fn change(&self, statement: &str) {
        self.runtime.block_on(self.client.query(statement).execute()).unwrap();
    }
}

/// Fills a rollup from distinct readings.
fn fill(table: &str, window: &str, window_of: &str) -> String {
    let measures = ["temperature", "humidity", "pressure"].map(|measure| {
        let columns = ["count", "min", "avg", "max"];
        let names = columns.map(|column| format!("{measure}_{column}")).join(", ");
        (names, columns.map(|column| format!("{column}({measure})")).join(", "))
    });
    let names = measures.each_ref().map(|(names, _)| names.as_str()).join(", ");
    let values = measures.each_ref().map(|(_, values)| values.as_str()).join(", ");
    format!(
        "INSERT INTO {table} (device_id, {window}, readings, {names}, battery_level_min, refreshed_at) \
         SELECT device_id, {window_of} AS start, count(), {values}, min(battery_level), now64(3) \
         FROM readings_unique GROUP BY device_id, start"
    )
}

#[test]
fn a_row_that_is_there_twice_is_found() {
    let stored = Stored::new();
    let verdict = stored.check();
    assert_eq!(verdict.findings, Vec::<String>::new());
    assert_eq!((verdict.records, verdict.rows), (2_000, 2_000));
    // A merge would make one of them.
    stored.change("SYSTEM STOP MERGES readings");
    stored.change("INSERT INTO readings SELECT * FROM readings LIMIT 1");
    let findings = stored.check().findings;
    assert!(findings[0].ends_with("is 2 rows and 0 dead letters; wanted: one row"), "{findings:?}");
    assert!(findings.iter().any(|finding| finding.starts_with("duplicate-offset")), "{findings:?}");
}

#[test]
fn a_rollup_that_does_not_follow_from_the_readings_is_found() {
    let stored = Stored::new();
    assert_eq!(stored.check().findings, Vec::<String>::new());
    stored.change(&fill("readings_1m", "minute", "toStartOfMinute(timestamp)"));
    stored.change(&fill("readings_1h", "hour", "toStartOfHour(timestamp)"));
    assert_eq!(stored.rollups(), Vec::<String>::new());
    for (column, value) in [
        ("readings", "readings + 1"),
        ("temperature_count", "temperature_count + 1"),
        ("pressure_max", "pressure_max + 1"),
        ("humidity_avg", "humidity_avg * 1.001 + 0.001"),
        ("battery_level_min", "NULL"),
    ] {
        stored.change(&format!(
            "INSERT INTO readings_1m SELECT * REPLACE ({value} AS {column}, toDateTime64('2200-01-01', 3, 'UTC') AS refreshed_at) \
             FROM readings_1m FINAL ORDER BY ifNull(humidity_avg, 0) DESC, device_id, minute LIMIT 1"
        ));
        let findings = stored.rollups();
        assert!(findings.len() == 1 && findings[0].starts_with("readings_1m "), "{column}: {findings:?}");
        stored.change("TRUNCATE TABLE readings_1m");
        stored.change(&fill("readings_1m", "minute", "toStartOfMinute(timestamp)"));
    }
    stored.change("TRUNCATE TABLE readings_1h");
    let findings = stored.rollups();
    assert!(!findings.is_empty() && findings.iter().all(|finding| finding.starts_with("readings_1h ")));
}

#[test]
fn a_latest_reading_that_is_not_the_latest_is_found() {
    let stored = Stored::new();
    assert_eq!(stored.check().findings, Vec::<String>::new());
    stored.change(
        "INSERT INTO readings_latest (device_id, timestamp, sequence) SELECT device_id, timestamp + 1, sequence \
         FROM readings_latest FINAL ORDER BY device_id LIMIT 1",
    );
    let findings = stored.check().findings;
    assert!(findings.len() == 1 && findings[0].starts_with("latest of "), "{findings:?}");
    stored.change("TRUNCATE TABLE readings_latest");
    assert_eq!(stored.check().findings.len(), 20, "of each device");
}
