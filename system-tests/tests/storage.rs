//! From Kafka to rows: nothing missing, whatever happens to ClickHouse or to a writer.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use penstock_devstack::{Stack, StackOptions};
use penstock_loadgen::Fleet;
use penstock_system_tests::{Chain, until};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

#[test]
fn clickhouse_away_for_20_seconds_under_load_nothing_is_missing_and_memory_stays_flat() {
    // Small batches, so that they are full and partitions are paused long before ClickHouse is back.
    let chain =
        Chain::new(Stack::start(&StackOptions::default()).unwrap()).with("writer.batch_rows_max", "500");
    let _gateway = chain.gateway();
    let writer = chain.writer("writer");
    let runtime = Runtime::new().unwrap();
    let mut options = chain.fleet();
    (options.devices, options.rate, options.duration) = (100, 2_000.0, Some(Duration::from_secs(30)));
    let fleet = Fleet::new(options).unwrap();
    let stats = fleet.stats();
    let running = runtime.spawn(fleet.run(CancellationToken::new()));
    until("the first rows", Duration::from_secs(30), || {
        writer.metric("penstock_writer_rows_total", "") > 1_000.0
    });

    chain.stack.clickhouse.kill_9().unwrap();
    let (killed_at, acked_before) = (Instant::now(), stats.acked.get());
    until("the writer to notice", Duration::from_secs(15), || {
        writer.metric("penstock_writer_paused", "") > 0.0
    });
    let before = writer.resident_bytes();
    let mut largest = before;
    while killed_at.elapsed() < Duration::from_secs(20) {
        largest = largest.max(writer.resident_bytes());
        thread::sleep(Duration::from_millis(200));
    }
    assert!(writer.metric("penstock_writer_paused", "") > 0.0, "reading pauses while ClickHouse is away");
    assert!(stats.acked.get() > acked_before + 10_000, "devices must not notice that ClickHouse is away");
    assert!(largest < before + (96 << 20), "memory grew from {before} to {largest} bytes");
    chain.stack.clickhouse.restart().unwrap();

    let (ledger, report) = runtime.block_on(running).unwrap().unwrap();
    let found = runtime.block_on(chain.verify(&Arc::new(ledger), true));
    assert_eq!(found.missing, 0, "{:?}", found.differences);
    assert!(report.acked > 50_000, "{report:?}");
}

#[test]
fn two_writers_one_killed_one_stopped_and_started_again_nothing_is_missing() {
    let chain = Chain::shared();
    let _gateway = chain.gateway();
    let mut first = chain.writer("first");
    let mut second = chain.writer("second");
    let runtime = Runtime::new().unwrap();
    let mut options = chain.fleet();
    (options.devices, options.rate, options.duration) = (100, 2_000.0, Some(Duration::from_secs(20)));
    let fleet = Fleet::new(options).unwrap();
    let running = runtime.spawn(fleet.run(CancellationToken::new()));
    let rows = |writer: &penstock_system_tests::Penstock| writer.metric("penstock_writer_rows_total", "");
    until("both writers to write", Duration::from_secs(60), || rows(&first) > 500.0 && rows(&second) > 500.0);

    first.kill_9();
    assert!(second.stop(Duration::from_secs(30)).success(), "SIGTERM ends a writer in good order");
    first.restart();
    second.restart();

    let (ledger, _) = runtime.block_on(running).unwrap().unwrap();
    let found = runtime.block_on(chain.verify(&Arc::new(ledger), true));
    assert_eq!(found.missing, 0, "{:?}", found.differences);
    first.signal(Signal::SIGTERM);
}

#[test]
fn a_writer_that_stops_in_good_order_leaves_no_duplicate_behind() {
    let chain = Chain::shared();
    let _gateway = chain.gateway();
    let mut writer = chain.writer("writer");
    let runtime = Runtime::new().unwrap();
    let mut options = chain.fleet();
    (options.devices, options.rate, options.count) = (50, 2_000.0, Some(12_000));
    let running = runtime.spawn(Fleet::new(options).unwrap().run(CancellationToken::new()));
    until("rows", Duration::from_secs(60), || writer.metric("penstock_writer_rows_total", "") > 1_000.0);
    assert!(writer.stop(Duration::from_secs(30)).success());
    writer.restart();
    let (ledger, report) = runtime.block_on(running).unwrap().unwrap();
    let found = runtime.block_on(chain.verify(&Arc::new(ledger), true));
    assert_eq!((found.missing, found.duplicates), (0, 0), "{:?}", found.differences);
    assert_eq!(found.stored_rows, Some(report.acked));
}
