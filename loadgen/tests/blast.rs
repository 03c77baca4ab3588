//! The benchmark client against a small MQTT server in the same process.
#![allow(clippy::unwrap_used, reason = "a test's helpers may fail the test")]

mod broker;

use std::collections::HashSet;
use std::time::Duration;

use broker::{Behaviour, Broker};
use penstock_loadgen::Version;
use penstock_loadgen::blast::{BlastOptions, blast};

fn options(broker: &Broker) -> BlastOptions {
    BlastOptions {
        host: "127.0.0.1".into(),
        port: broker.address.port(),
        ca_pem: broker.authority.cert_pem().into(),
        identities: Some(broker.mint()),
        topic: None,
        connections: 40,
        count: 4_010,
        inflight_max: 10,
        version: Version::V5,
        seed: 1,
        timeout: Duration::from_secs(60),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_message_is_a_distinct_valid_reading_and_is_acknowledged() {
    for version in [Version::V311, Version::V5] {
        let broker = Broker::start(Behaviour::default()).await;
        let report = blast(&BlastOptions { version, ..options(&broker) }).await.unwrap();
        assert_eq!((report.acked, report.refused, report.complete), (4_010, 0, true), "{report:?}");
        let kept = broker.kept();
        let distinct: HashSet<_> = kept.iter().map(|reading| (reading.device, reading.sequence)).collect();
        assert_eq!((kept.len(), distinct.len()), (4_010, 4_010));
        assert_eq!(kept.iter().map(|reading| reading.device).collect::<HashSet<_>>().len(), 40);
        assert!(report.puback_ms.unwrap().samples >= 40);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_receive_maximum_of_the_server_is_kept() {
    let broker = Broker::start(Behaviour { receive_max: Some(2), ..Behaviour::default() }).await;
    let report = blast(&options(&broker)).await.unwrap();
    assert!(report.complete, "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_connection_and_a_silent_server_end_the_run_with_what_was_acknowledged() {
    let broker = Broker::start(Behaviour { cut_after: Some(50), ..Behaviour::default() }).await;
    let report = blast(&options(&broker)).await.unwrap();
    assert!(!report.complete && report.error.is_some() && report.acked < 4_010, "{report:?}");
    let broker = Broker::start(Behaviour { silent: true, ..Behaviour::default() }).await;
    let timeout = Duration::from_secs(3);
    let report = blast(&BlastOptions { timeout, ..options(&broker) }).await.unwrap();
    assert_eq!((report.acked, report.complete), (0, false));
    assert!(report.error.unwrap().contains("not done within 3s"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_wants_a_certificate_is_not_reached_without_one() {
    let broker = Broker::start(Behaviour::default()).await;
    let error = blast(&BlastOptions { identities: None, ..options(&broker) }).await.unwrap_err();
    assert!(
        error.to_string().contains("trust the clients' certificates") || error.to_string().contains("closed")
    );
    assert!(blast(&BlastOptions { connections: 0, ..options(&broker) }).await.is_err());
}
