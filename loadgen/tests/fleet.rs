//! The fleet against a small MQTT server in the same process: what it publishes, and what its ledger says about it.
#![allow(clippy::unwrap_used, reason = "a test's helpers may fail the test")]

mod broker;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::Ordering;
use std::time::Duration;

use broker::{Behaviour, Broker, Kept};
use penstock_loadgen::{
    Fleet, FleetError, FleetOptions, Ledger, Outcome, Qos, Report, Verdict, Version, read_ledger,
};
use penstock_proto::DeviceId;
use tokio_util::sync::CancellationToken;

fn options(broker: &Broker) -> FleetOptions {
    FleetOptions {
        devices: 5,
        rate: 0.0,
        count: Some(500),
        seed: 3,
        inflight_max: 8,
        // The server keeps the last publishes before a cut to itself; if there are no more, the cut never comes.
        ack_timeout: Duration::from_secs(2),
        ..FleetOptions::new("127.0.0.1", broker.address.port(), broker.authority.cert_pem(), broker.mint())
    }
}

async fn run(options: FleetOptions) -> (Ledger, Report) {
    let fleet = Fleet::new(options).unwrap();
    let run = fleet.run(CancellationToken::new());
    // A run that does not end is a failure, not a wait for ever.
    tokio::time::timeout(Duration::from_secs(120), run).await.unwrap().unwrap()
}

type Name = (DeviceId, u64, i64);

fn names(kept: &[Kept]) -> BTreeSet<Name> {
    kept.iter().map(|reading| (reading.device, reading.sequence, reading.timestamp_ms)).collect()
}

fn acked(ledger: &Ledger) -> BTreeSet<Name> {
    let entries = ledger.entries().filter(|(_, _, entry)| entry.must_be_stored());
    entries.map(|(device, sequence, entry)| (device, sequence, entry.timestamp_ms)).collect()
}

const BOTH: [Version; 2] = [Version::V311, Version::V5];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_reading_is_published_once_and_acknowledged_with_each_version_and_qos() {
    for version in BOTH {
        for qos in [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce] {
            let broker = Broker::start(Behaviour::default()).await;
            let (ledger, report) = run(FleetOptions { version, qos, ..options(&broker) }).await;
            let kept = broker.kept();
            assert_eq!(
                (report.published, kept.len(), names(&kept).len()),
                (500, 500, 500),
                "{version:?} {qos:?}"
            );
            assert_eq!((report.resent, report.reconnects, report.devices), (0, 0, 5));
            assert_eq!(report.verdict, Verdict::NotVerified);
            if qos == Qos::AtMostOnce {
                assert_eq!((report.acked, report.unacknowledged), (0, 500));
            } else {
                assert_eq!((report.acked, report.unacknowledged), (500, 0));
                assert_eq!(acked(&ledger), names(&kept));
                assert_eq!(report.puback_ms.unwrap().samples, 500);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_lost_connection_the_same_bytes_are_sent_again_and_nothing_is_taken_for_acknowledged() {
    for version in BOTH {
        for qos in [Qos::AtLeastOnce, Qos::ExactlyOnce] {
            let broker = Broker::start(Behaviour { cut_after: Some(30), ..Behaviour::default() }).await;
            let (ledger, report) = run(FleetOptions { version, qos, ..options(&broker) }).await;
            assert!(report.reconnects >= 5 && report.resent > 0, "the fault was injected: {report:?}");
            assert_eq!((report.acked, report.unacknowledged), (500, 0));
            let kept = broker.kept();
            assert_eq!(acked(&ledger), names(&kept));
            assert!(kept.len() > 500, "some were kept twice");
            same_bytes_and_bounded_copies(&ledger, &kept);
        }
    }
}

fn same_bytes_and_bounded_copies(ledger: &Ledger, kept: &[Kept]) {
    let mut copies: HashMap<(DeviceId, u64), Vec<&Kept>> = HashMap::new();
    for reading in kept {
        copies.entry((reading.device, reading.sequence)).or_default().push(reading);
    }
    let mut last: HashMap<DeviceId, u64> = HashMap::new();
    for (device, sequence, entry) in ledger.entries() {
        let copies = &copies[&(device, sequence)];
        assert!(copies.iter().all(|copy| copy.bytes == copies[0].bytes));
        assert!(copies.len() <= usize::from(entry.sends), "{device} {sequence}: {} {entry:?}", copies.len());
    }
    // Of readings that were sent once, each comes after those before it.
    let sent_once: BTreeSet<_> = ledger
        .entries()
        .filter(|(_, _, e)| e.sends == 1)
        .map(|(device, sequence, _)| (device, sequence))
        .collect();
    for reading in kept.iter().filter(|reading| sent_once.contains(&(reading.device, reading.sequence))) {
        let before = last.insert(reading.device, reading.sequence);
        assert!(before.is_none_or(|before| before < reading.sequence));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_kept_without_an_acknowledgement_is_not_in_the_ledger_as_acknowledged() {
    let broker = Broker::start(Behaviour { silent: true, ..Behaviour::default() }).await;
    let drain_timeout = Duration::from_secs(2);
    let ack_timeout = Duration::from_secs(60);
    let (ledger, report) = run(FleetOptions { drain_timeout, ack_timeout, ..options(&broker) }).await;
    assert_eq!(names(&broker.kept()).len(), 5 * 8, "each device fills its window");
    assert_eq!((report.acked, report.unacknowledged), (0, 40));
    assert_eq!(report.verdict, Verdict::Incomplete);
    assert!(acked(&ledger).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledgements_in_another_order_are_given_to_the_right_readings() {
    for qos in [Qos::AtLeastOnce, Qos::ExactlyOnce] {
        for version in BOTH {
            let broker = Broker::start(Behaviour { reversed: 5, ..Behaviour::default() }).await;
            let options = FleetOptions { qos, version, invalid_fraction: 0.2, ..options(&broker) };
            let (ledger, report) = run(options).await;
            assert_eq!((report.acked + report.dead_letters, report.reconnects), (500, 0));
            assert_eq!(acked(&ledger), names(&broker.kept()));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_readings_are_dead_letters_whatever_the_version_says_about_them() {
    for qos in [Qos::AtLeastOnce, Qos::ExactlyOnce] {
        for version in BOTH {
            for batch in [1, 7] {
                let broker = Broker::start(Behaviour::default()).await;
                let options = FleetOptions { version, qos, batch, invalid_fraction: 0.3, ..options(&broker) };
                let (ledger, report) = run(options).await;
                let dead_letters = broker.state.dead_letters.load(Ordering::Relaxed) as u64;
                assert!(dead_letters > 50);
                assert_eq!((report.dead_letters, report.acked), (dead_letters, 500 - dead_letters));
                assert_eq!(acked(&ledger), names(&broker.kept()));
                assert_eq!((report.reconnects, report.resent), (0, 0), "{version:?} {qos:?}");
                let explicit =
                    ledger.entries().filter(|(_, _, e)| e.outcome == Outcome::DeadLettered).count() as u64;
                match (version, batch) {
                    (Version::V311, _) => assert_eq!(explicit, 0),
                    (Version::V5, 1) => assert_eq!(explicit, dead_letters),
                    (Version::V5, _) => assert!(explicit < dead_letters),
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_publish_is_counted_apart_and_not_sent_again() {
    let broker = Broker::start(Behaviour { refuse: true, ..Behaviour::default() }).await;
    let (_, report) = run(options(&broker)).await;
    assert_eq!((report.published, report.refused, report.acked, report.resent), (500, 500, 0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_receive_maximum_of_the_server_is_kept() {
    for qos in [Qos::AtLeastOnce, Qos::ExactlyOnce] {
        let behaviour = Behaviour { receive_max: Some(3), reversed: 2, ..Behaviour::default() };
        let broker = Broker::start(behaviour).await;
        let (_, report) = run(FleetOptions { qos, invalid_fraction: 0.1, ..options(&broker) }).await;
        assert_eq!((report.acked + report.dead_letters, report.reconnects), (500, 0), "{report:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ledger_file_says_the_same_as_the_ledger() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.csv");
    let broker = Broker::start(Behaviour { cut_after: Some(40), ..Behaviour::default() }).await;
    let options =
        FleetOptions { ledger: Some(path.clone()), invalid_fraction: 0.1, batch: 3, ..options(&broker) };
    let (ledger, _) = run(options).await;
    assert_eq!(read_ledger(&path).unwrap(), ledger);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_row_of_the_stations_is_published_one_station_in_batches() {
    let broker = Broker::start(Behaviour::default()).await;
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/data/station-weather-2013.csv");
    let options = FleetOptions {
        devices: 0,
        count: None,
        stations: Some(file.into()),
        stations_batch: BTreeMap::from([("EWR".to_owned(), 500)]),
        inflight_max: 64,
        ..options(&broker)
    };
    let (ledger, report) = run(options).await;
    assert_eq!((report.published, report.acked, report.devices), (26_115, 26_115, 3));
    assert_eq!(acked(&ledger), names(&broker.kept()));
    assert_eq!(report.puback_ms.unwrap().samples, 8_706 * 2 + 8_703_u64.div_ceil(500));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rate_and_a_duration_bound_a_run() {
    let broker = Broker::start(Behaviour::default()).await;
    let duration = Duration::from_secs(2);
    let options = FleetOptions { rate: 100.0, duration: Some(duration), count: None, ..options(&broker) };
    let (_, report) = run(options).await;
    // 200 are due, five of them may come at once at the start. A busy computer may be late, no device may be early.
    assert!((1..=205).contains(&report.published), "{report:?}");
    assert_eq!(report.acked, report.published);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelling_ends_a_run_with_everything_acknowledged() {
    let broker = Broker::start(Behaviour::default()).await;
    let fleet = Fleet::new(FleetOptions { count: None, ..options(&broker) }).unwrap();
    let (stats, cancel) = (fleet.stats(), CancellationToken::new());
    let running = tokio::spawn(fleet.run(cancel.clone()));
    while stats.acked.get() < 100 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    cancel.cancel();
    let (ledger, report) = running.await.unwrap().unwrap();
    assert_eq!((report.acked, report.unacknowledged), (report.published, 0));
    assert_eq!(acked(&ledger), names(&broker.kept()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_cannot_be_reached_is_an_error_that_says_why() {
    let broker = Broker::start(Behaviour::default()).await;
    let connect_timeout = Duration::from_millis(500);
    let refused = FleetOptions { port: 1, connect_timeout, ..options(&broker) };
    let other = Broker::start(Behaviour::default()).await;
    let untrusted =
        FleetOptions { ca_pem: other.authority.cert_pem().to_owned(), connect_timeout, ..options(&broker) };
    let unknown = FleetOptions { identities: other.mint(), connect_timeout, ..options(&broker) };
    for (options, expected) in [(refused, "refused"), (untrusted, "invalid peer certificate"), (unknown, "")]
    {
        let error = Fleet::new(options).unwrap().run(CancellationToken::new()).await.unwrap_err();
        assert!(matches!(error, FleetError::NotConnected { .. }));
        let text = error.to_string();
        assert!(text.contains(expected) && text.contains("127.0.0.1"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ledger_file_that_cannot_be_written_ends_the_run() {
    let broker = Broker::start(Behaviour::default()).await;
    let options = FleetOptions { ledger: Some("/dev/full".into()), ..options(&broker) };
    let error = Fleet::new(options).unwrap().run(CancellationToken::new()).await.unwrap_err();
    assert!(error.to_string().contains("/dev/full"), "{error}");
}
