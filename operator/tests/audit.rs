//! The audit on a real Kafka and ClickHouse, with the real writer and the real program. Each breach is made on purpose,
//! and only it is found.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::time::Duration;

use penstock_kafka::{
    Consumer, ConsumerSettings, Polled, TransactionRecord, TransactionSettings, TransactionalProducer,
};
use penstock_proto::topics::{READINGS, STORAGE_FAILURES};
use penstock_proto::v1::SensorReading;
use prost::Message;
use serde_json::{Value, json};

use support::{PATIENCE, World, client, device, reading, until};

const DEVICES: u32 = 40;
const EACH: u64 = 50;

/// Readings, some of them sent again; records that are no readings; a transaction that was committed and one that was
/// aborted; all written. What the aborted one left is deleted, if the writer took it for records.
fn stored() -> World {
    let mut world = World::new();
    for sequence in 0..EACH {
        for number in 0..DEVICES {
            let payload = reading(sequence).encode_to_vec();
            world.send(READINGS, None, Some(device(number).as_bytes()), &payload, &[]);
        }
    }
    for sequence in [3, 4, 5] {
        world.send(READINGS, None, Some(device(7).as_bytes()), &reading(sequence).encode_to_vec(), &[]);
    }
    world.send(READINGS, Some(0), Some(b"no device"), b"x", &[]);
    world.send(READINGS, Some(0), None, b"y", &[]);
    let ancient = SensorReading { timestamp: 1_000_000_000_000, ..reading(900) };
    world.send(READINGS, None, Some(device(1).as_bytes()), &ancient.encode_to_vec(), &[]);
    world.delivered();
    let settings = TransactionSettings { transactional_id: world.topic("test"), ..Default::default() };
    let mut producer = TransactionalProducer::open(&client(), &settings, PATIENCE).unwrap();
    let topic = world.topic(READINGS);
    let written = world.watcher(READINGS, 48);
    for (sequence, commits) in [(1_000, true), (1_001, false)] {
        let mut transaction = producer.begin().unwrap();
        let payload = reading(sequence).encode_to_vec();
        let key = device(9);
        let record =
            TransactionRecord { key: Some(key.as_bytes()), ..TransactionRecord::new(&topic, &payload) };
        let before = written();
        transaction.send(&record).unwrap();
        // An abort takes back what was not sent yet.
        until("the record is in Kafka", || written() > before);
        if commits { transaction.commit(PATIENCE) } else { transaction.abort(PATIENCE) }.unwrap();
        drop(transaction);
        world.settled(READINGS, 48);
    }
    // The writer commits offsets of records only: without one after it, a marker at the end would not be looked at.
    world.send(READINGS, None, Some(device(9).as_bytes()), &reading(1_002).encode_to_vec(), &[]);
    world.delivered();
    world.write_all();
    delete(&world, "sequence = 1001");
    world.sql("OPTIMIZE TABLE {db}.readings FINAL");
    // What the table's TTL would do one day.
    delete(&world, "sequence = 900");
    world
}

fn delete(world: &World, condition: &str) {
    world.sql(&format!("ALTER TABLE {{db}}.readings DELETE WHERE {condition} SETTINGS mutations_sync = 2"));
}

/// Where the row of a reading comes from: partition, offset.
fn place(world: &World, number: u32, sequence: u64) -> (i32, i64) {
    let device = device(number);
    let row = world.sql(&format!(
        "SELECT kafka_partition, kafka_offset FROM {{db}}.readings \
         WHERE device_id = '{device}' AND sequence = {sequence}"
    ));
    let (partition, offset) = row.split_once('\t').unwrap();
    (partition.parse().unwrap(), offset.parse().unwrap())
}

fn audit(world: &World) -> (i32, Value) {
    world.json(&["audit", "--json"])
}

/// The breaches without what is said for people.
fn breaches(report: &Value) -> Vec<(String, i32, i64)> {
    let entries = report["breaches"].as_array().unwrap().iter();
    let mut found: Vec<_> = entries
        .map(|entry| {
            let number = |name: &str| entry[name].as_i64().unwrap();
            let kind = entry["kind"].as_str().unwrap().to_owned();
            (kind, i32::try_from(number("partition")).unwrap(), number("offset"))
        })
        .collect();
    found.sort();
    found
}

#[test]
fn what_the_writer_stored_holds_and_what_looks_odd_is_explained() {
    let world = stored();
    let (code, report) = audit(&world);
    assert_eq!((code, &report["holds"], breaches(&report)), (0, &true.into(), vec![]), "{report}");
    let records = u64::from(DEVICES) * EACH + 3 + 3 + 2;
    assert_eq!((&report["records"], &report["letters"]), (&records.into(), &2.into()));
    assert_eq!(report["rows"], records - 2 - 3 - 1);
    assert_eq!((&report["explained"]["resent"], &report["explained"]["expired"]), (&3.into(), &1.into()));
    // Two markers, and the record of the transaction that was aborted.
    assert_eq!(
        (&report["explained"]["without_record"], &report["offsets"]),
        (&3.into(), &(records + 3).into())
    );
    let (code, text, _) = world.run(&["audit", "--from", "1h"]);
    assert!(
        code == 0 && text.ends_with("holds: every record is exactly one row or one dead letter\n"),
        "{text}"
    );
    let (_, before) = world.json(&["audit", "--to", "1h", "--json"]);
    assert_eq!((&before["offsets"], &before["holds"]), (&0.into(), &true.into()));
}

#[test]
fn each_kind_of_breach_is_found_where_it_is() {
    let mut world = stored();
    let letters = world.records(STORAGE_FAILURES);
    let source = |name: &str| letters[0].header(name).unwrap().parse::<i64>().unwrap();
    let first = (0, source("penstock-source-offset"));
    assert_eq!(source("penstock-source-partition"), 0);
    let mut expected = Vec::new();
    let mut expect = |kind: &str, (partition, offset)| expected.push((kind.to_owned(), partition, offset));
    // Missing: a row is deleted; a record that is no reading has no letter.
    expect("missing", place(&world, 11, 20));
    delete(&world, &format!("device_id = '{}' AND sequence = 20", device(11)));
    // Doubled rows: of the same reading, and under another key.
    world.sql("SYSTEM STOP MERGES {db}.readings");
    let copy = |number: u32, sequence: u64, change: &str| {
        format!(
            "INSERT INTO {{db}}.readings SELECT * REPLACE ({change}) FROM \
             (SELECT * FROM {{db}}.readings WHERE device_id = '{}' AND sequence = {sequence})",
            device(number)
        )
    };
    for (number, change) in [(12, "sequence AS sequence"), (13, "sequence + 5000 AS sequence")] {
        expect("doubled-row", place(&world, number, 21));
        world.sql(&copy(number, 21, change));
    }
    // A row where the marker of the aborted transaction is.
    let (partition, offset) = place(&world, 9, 1_000);
    let marker = offset + 3;
    expect("row-without-record", (partition, marker));
    world.sql(&copy(9, 22, &format!("sequence + 6000 AS sequence, toUInt64({marker}) AS kafka_offset")));
    // Letters: one for a row, and a second for a record that has one.
    let row = place(&world, 14, 23);
    expect("row-and-letter", row);
    world.refused_record(Some(device(14).as_bytes()), b"z", row);
    expect("doubled-letter", first);
    world.refused_record(None, b"z", first);
    world.delivered();
    expected.sort();

    let (code, report) = audit(&world);
    assert_eq!((code, breaches(&report)), (1, expected), "{report}");
    assert_eq!(
        report["counts"],
        json!({"missing": 1, "doubled-row": 2, "doubled-letter": 1, "row-and-letter": 1, "row-without-record": 1})
    );
    let devices: Vec<_> =
        report["breaches"].as_array().unwrap().iter().map(|entry| entry["device"].clone()).collect();
    for number in [9, 11, 12, 13, 14] {
        assert!(devices.contains(&device(number).to_string().into()), "{devices:?}");
    }
    let (code, text, _) = world.run(&["audit", "--breaches-max", "2"]);
    assert!(code == 1 && text.contains("… and 4 more breaches"), "{text}");
    assert!(text.ends_with("FALSIFIED at 6 offsets\n"), "{text}");
}

#[test]
fn many_missing_rows_are_all_counted() {
    let world = stored();
    delete(&world, "sequence < 40");
    let (code, report) = world.json(&["audit", "--json", "--breaches-max", "5"]);
    assert_eq!((code, report["breaches"].as_array().unwrap().len()), (1, 5));
    // Of the readings that were sent again neither record has a row now.
    assert_eq!(report["counts"], json!({"missing": u64::from(DEVICES) * 40 + 3}));
}

#[test]
fn without_a_committed_offset_the_audit_says_that_the_writer_has_not_run() {
    let mut world = World::new();
    world.send(READINGS, None, Some(device(1).as_bytes()), &reading(1).encode_to_vec(), &[]);
    world.delivered();
    let (code, _, err) = world.run(&["audit"]);
    assert!(code == 1 && err.contains("has no committed offset") && err.contains(&world.group()), "{err}");
    let nowhere = ["audit", "--set", "kafka.topic_prefix=nowhere."];
    let (code, _, err) = world.run(&nowhere);
    assert!(code == 1 && err.contains("topic nowhere.iot.events.sensor-readings is not there"), "{err}");
}

#[test]
fn an_audit_does_not_disturb_the_writers_group() {
    let world = stored();
    let settings = ConsumerSettings {
        group: world.group(),
        topics: vec![world.topic(READINGS)],
        fetch_bytes_max: 1 << 20,
        session_timeout_ms: 10_000,
        instance_id: None,
        read_committed: false,
    };
    let mut member = Consumer::subscribe(&client(), &settings).unwrap();
    let step = |member: &mut Consumer| {
        let assigned = match member.poll(100, Duration::from_millis(50)).unwrap() {
            Polled::Assigned(partitions) => partitions,
            Polled::Revoked { .. } => panic!("the member lost partitions"),
            _ => return,
        };
        member.assign_done(&assigned).unwrap();
    };
    until("the member has its partitions", || {
        step(&mut member);
        member.group_metadata().is_some_and(|member| member.generation() > 0)
    });
    let before = member.group_metadata().unwrap();
    let mut audit = world.spawn(&["audit"]);
    until("the audit is through", || {
        step(&mut member);
        !audit.is_running()
    });
    assert_eq!(audit.end().0, 0);
    for _ in 0..20 {
        step(&mut member);
    }
    assert_eq!(member.group_metadata().unwrap(), before);
}
