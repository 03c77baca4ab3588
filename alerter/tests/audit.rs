//! The audit of alerts can fail: each thing that must not be is made to be, and found.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends")]

mod support;

use std::sync::Arc;

use penstock_alerter::RuleSet;
use penstock_alerter::audit::{Audit, Breach, Report};
use penstock_devstack::{Kafka, KafkaOptions};
use penstock_kafka::{Outgoing, Producer, ProducerSettings, receipt};
use penstock_proto::alert_json::to_json;
use penstock_proto::topics::{DEVICE_ALERTS, READINGS};
use penstock_service::Config;

use support::{Alerter, Source, alerts, config, key, reading, settings, until};

/// Puts a record into the topic of alerts behind the stage's back.
async fn put(config: &Config, payload: &[u8]) {
    let producer = Producer::new(&settings(config), &ProducerSettings::default()).unwrap();
    let topic = producer.topic(&format!("{}{DEVICE_ALERTS}", config.kafka.topic_prefix)).unwrap();
    let device = key(1);
    let record = Outgoing {
        topic: &topic,
        key: Some(&device),
        payload,
        timestamp_ms: None,
        headers: &[],
        partition: None,
    };
    let (completion, delivered) = receipt();
    assert!(producer.send(record, completion).is_ok());
    delivered.await.unwrap();
}

fn look(audit: &mut Audit) -> Report {
    tokio::task::block_in_place(|| audit.look(0).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_doubled_false_or_no_alert_is_found() {
    let kafka = Kafka::start(&KafkaOptions::default()).unwrap();
    let config = config(&kafka);
    let alerter = Alerter::ready(&config).await;
    let mut source = Source::new(&config);
    let hot =
        |source: &mut Source, device| (0..5).for_each(|time| source.reading(device, &reading(time, 99.0)));
    hot(&mut source, 1);
    source.delivered().await;
    until("the alert is there", || async { !alerts(&config).is_empty() }).await;
    alerter.stop().await.unwrap();
    let rules = Arc::new(RuleSet::default_rules());
    let mut audit = Audit::new(settings(&config), &config.kafka.topic_prefix, rules);
    let report = look(&mut audit);
    assert_eq!((report.breaches, report.expected, report.found, report.readings), (vec![], 1, 1, 5));

    // Nobody is there to raise it.
    hot(&mut source, 2);
    source.delivered().await;
    let report = look(&mut audit);
    let [Breach::Missing(missing)] = &report.breaches[..] else { panic!("{:?}", report.breaches) };
    assert_eq!((report.readings, report.expected, report.found), (10, 2, 1));
    put(&config, to_json(missing).as_bytes()).await;
    assert_eq!(look(&mut audit).breaches, []);

    put(&config, to_json(missing).as_bytes()).await;
    assert_eq!(look(&mut audit).breaches, [Breach::Doubled(missing.clone(), 2)]);
    let mut never = missing.clone();
    never.id.replace_range(..4, "0000");
    put(&config, to_json(&never).as_bytes()).await;
    put(&config, b"no alert").await;
    let breaches = look(&mut audit).breaches;
    assert_eq!(breaches.len(), 3, "{breaches:?}");
    assert!(breaches.contains(&Breach::False(never)), "{breaches:?}");
    assert!(breaches.iter().any(|breach| matches!(breach, Breach::Unreadable { .. })), "{breaches:?}");

    // Whoever begins later does not know what the readings that are gone must have raised.
    let topic = format!("{}{READINGS}", config.kafka.topic_prefix);
    let partition = missing.source_partition;
    tokio::task::block_in_place(|| kafka.delete_records(&topic, [(partition, 5)]).unwrap());
    let mut later =
        Audit::new(settings(&config), &config.kafka.topic_prefix, Arc::new(RuleSet::default_rules()));
    let report = look(&mut later);
    assert_eq!((report.readings, report.partitions_cut, report.unsure), (5, 1, 1), "{report:?}");
    let [Breach::Unreadable { .. }, Breach::Doubled(..)] = &report.breaches[..] else { panic!("{report:?}") };
    assert_eq!(look(&mut audit).breaches.len(), 3, "who has seen them knows it");
}
