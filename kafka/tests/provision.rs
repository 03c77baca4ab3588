//! Topics on a real Kafka: created when missing, checked when there, and never changed to fit.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use common::*;
use penstock_kafka::{ProvisionError, ScanFrom, Scanner, TopicSpec, delete_topics, provision, topic_specs};

fn provisioned(specs: &[TopicSpec]) -> Result<(), ProvisionError> {
    block_on(provision(&client(), specs, PATIENCE))
}

fn configured(name: &str, key: &str, value: &str) -> TopicSpec {
    TopicSpec { config: vec![(key.into(), value.into())], ..spec(name, 2) }
}

#[test]
fn missing_topics_are_created_and_can_be_written_to_at_once() {
    let specs = topic_specs(&format!("{}.", unique("contract")), -1);
    provisioned(&specs).unwrap();
    for spec in &specs {
        fill(&producer(), &spec.name, spec.partitions, 0, 1);
    }
    provisioned(&specs).unwrap();
}

#[test]
fn several_processes_may_create_the_same_topics() {
    let specs = [configured(&unique("race"), "retention.ms", "60000"), spec(&unique("race"), 48)];
    let tasks: Vec<_> = (0..4)
        .map(|_| {
            let specs = specs.clone();
            std::thread::spawn(move || provisioned(&specs))
        })
        .collect();
    for task in tasks {
        task.join().unwrap().unwrap();
    }
}

#[test]
fn a_wrong_number_of_partitions_is_named() {
    let name = topic("partitions", 3);
    let error = provisioned(&[spec(&name, 48)]).unwrap_err();
    assert_eq!(error, ProvisionError::WrongPartitions { topic: name, found: 3, expected: 48 });
    assert!(!error.is_transient());
}

#[test]
fn a_wrong_setting_is_named_and_only_given_settings_count() {
    let name = unique("settings");
    provisioned(&[configured(&name, "cleanup.policy", "delete,compact")]).unwrap();
    provisioned(&[configured(&name, "cleanup.policy", "compact,delete")]).unwrap();
    provisioned(&[spec(&name, 2)]).unwrap();
    let error = provisioned(&[configured(&name, "retention.ms", "60000")]).unwrap_err();
    let ProvisionError::WrongSetting { topic, key, found, expected } = error else { panic!("{error}") };
    assert_eq!((topic, key, expected), (name, "retention.ms".into(), "60000".into()));
    assert_eq!(found, "604800000");
}

#[test]
fn an_initial_setting_is_set_and_then_the_operators() {
    let name = unique("initial");
    let initial =
        |value: &str| TopicSpec { initial: vec![("retention.ms".into(), value.into())], ..spec(&name, 2) };
    provisioned(&[initial("60000")]).unwrap();
    provisioned(&[configured(&name, "retention.ms", "60000")]).unwrap();
    provisioned(&[initial("70000")]).unwrap();
}

#[test]
fn what_kafka_refuses_is_said_in_its_words() {
    let error = provisioned(&[configured(&unique("bad"), "retention.ms", "soon")]).unwrap_err();
    assert!(matches!(&error, ProvisionError::Refused { code, .. } if code == "INVALID_CONFIG"), "{error}");
    let error = provisioned(&[spec("not a topic name!", 1)]).unwrap_err();
    assert!(matches!(&error, ProvisionError::Refused { code, .. } if code == "TOPIC_EXCEPTION"), "{error}");
}

#[test]
fn more_replicas_than_brokers_are_refused_after_the_timeout() {
    let many = TopicSpec { replication_factor: 3, ..spec(&unique("replicas"), 1) };
    let error = block_on(provision(&client(), &[many], Duration::from_secs(2))).unwrap_err();
    assert!(
        matches!(&error, ProvisionError::Refused { code, .. } if code == "INVALID_REPLICATION_FACTOR"),
        "{error}"
    );
}

#[test]
fn deleted_topics_are_gone_and_deleting_them_again_is_no_error() {
    let name = topic("deleted", 1);
    block_on(delete_topics(&client(), &[&name], PATIENCE)).unwrap();
    assert!(Scanner::open(&client(), &name, &ScanFrom::Beginning, false).is_err());
    block_on(delete_topics(&client(), &[&name, &unique("never")], PATIENCE)).unwrap();
}
