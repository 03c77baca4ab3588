//! Alerts in ClickHouse: each once, whatever happens to the writers. The oracle is the list of what was committed.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use penstock_kafka::{Transaction, TransactionRecord, TransactionSettings, TransactionalProducer};
use penstock_proto::DeviceId;
use penstock_proto::alert_json::to_json;
use penstock_proto::topics::DEVICE_ALERTS;
use penstock_proto::v1::DeviceAlert;
use penstock_system_tests::{Chain, until};

const PATIENCE: Duration = Duration::from_secs(90);

fn alert(number: u32) -> (DeviceId, DeviceAlert) {
    let mut bytes = [0xa1; 16];
    bytes[..4].copy_from_slice(&(number % 200).to_be_bytes());
    let device = DeviceId::from_bytes(bytes);
    let onset = 1_790_000_000_000 + i64::from(number) * 1_000;
    let alert = DeviceAlert {
        id: format!("00000000-0000-4000-8000-{number:012x}"),
        rule: "hot".to_owned(),
        device_id: device.to_string(),
        severity: 2,
        state: 1,
        onset,
        time: onset,
        ..DeviceAlert::default()
    };
    (device, alert)
}

/// Raises alerts until it is over, 250 in a transaction. Every fourth is aborted: its alerts must never be seen. How many
/// were committed.
fn raise(chain: &Chain, is_over: &AtomicBool) -> u64 {
    let open = |name: &str| {
        let transactional_id = format!("{}{name}", chain.prefix);
        let transactions = TransactionSettings { transactional_id, ..TransactionSettings::default() };
        TransactionalProducer::open(&chain.kafka(), &transactions, PATIENCE).unwrap()
    };
    let topic = format!("{}{DEVICE_ALERTS}", chain.prefix);
    let fill = |transaction: &mut Transaction<'_>, first: u32| {
        for (device, alert) in (first..first + 250).map(alert) {
            let json = to_json(&alert);
            let record = TransactionRecord {
                key: Some(device.as_bytes()),
                ..TransactionRecord::new(&topic, json.as_bytes())
            };
            transaction.send(&record).unwrap();
        }
        // So that they are in the log before it ends, and writers have time to be in the middle of something.
        thread::sleep(Duration::from_millis(200));
    };
    let (mut stage, mut raised, mut next) = (open("stage"), 0, 0);
    while !is_over.load(Ordering::Relaxed) {
        if next % 1_000 == 750 {
            let mut aborting = open("aborting");
            let mut transaction = aborting.begin().unwrap();
            fill(&mut transaction, next);
            transaction.abort(PATIENCE).unwrap();
        } else {
            let mut transaction = stage.begin().unwrap();
            fill(&mut transaction, next);
            transaction.commit(PATIENCE).unwrap();
            raised += 250;
        }
        next += 250;
    }
    raised
}

#[test]
fn g4_writers_killed_with_9_and_stopped_under_bursts_store_each_alert_once() {
    let chain = Chain::shared();
    let mut first = chain.writer("first");
    let mut second = chain.writer("second");
    let numbers = |what: &str| -> u64 {
        let sql = format!("SELECT {what}", what = what.replace("{db}", &chain.database));
        chain.stack.clickhouse.query(&sql).map_or(0, |answer| answer.trim().parse().unwrap())
    };
    chain.stack.clickhouse.query(&format!("SYSTEM STOP MERGES {}.alerts_stored", chain.database)).unwrap();
    let is_over = AtomicBool::new(false);
    let raised = thread::scope(|scope| {
        let raising = scope.spawn(|| raise(&chain, &is_over));
        for round in 0..12u64 {
            let victim = if round % 2 == 0 { &mut first } else { &mut second };
            let stored = || victim.metric("penstock_writer_alerts_rows_total", "");
            let before = stored();
            until("it stores alerts", PATIENCE, || stored() > before);
            if round % 6 == 5 {
                // Longer than its session: its partitions go to the other, and it finds out when it wakes.
                victim.signal(Signal::SIGSTOP);
                thread::sleep(Duration::from_secs(12));
                victim.signal(Signal::SIGCONT);
            } else {
                victim.kill_9();
                victim.restart();
            }
        }
        is_over.store(true, Ordering::Relaxed);
        raising.join().unwrap()
    });
    let seen = || numbers("count() FROM {db}.alerts");
    until("every alert is stored", PATIENCE, || seen() >= raised);
    thread::sleep(Duration::from_secs(3));
    assert_eq!(seen(), raised);
    assert_eq!(numbers("uniqExact(id) FROM {db}.alerts"), raised);
    assert_eq!(numbers("count() FROM {db}.alert_episodes"), raised);
    println!("{raised} alerts, {} rows", numbers("count() FROM {db}.alerts_stored"));
    for writer in [&mut first, &mut second] {
        assert!(writer.stop(Duration::from_secs(30)).success());
    }
}
