//! Planted differences, one of each kind, and a property: whatever is planted is found, and nothing else.

use proptest::prelude::*;

use super::*;
use crate::ledger::DeviceLedger;

fn device(index: u8) -> DeviceId {
    DeviceId::from_bytes([index; 16])
}

fn entry(outcome: Outcome, invalid: Option<Reason>, sends: u16) -> Entry {
    Entry { timestamp_ms: 0, sent_us: 1, acked_us: 2, sends, outcome, invalid }
}

const ACKED: (Outcome, Option<Reason>, u16) = (Outcome::Acknowledged, None, 1);

/// Devices 0, 1, … with these readings; the first sequence number is 10, timestamps are 1000, 1001, …
fn ledger(devices: &[&[(Outcome, Option<Reason>, u16)]]) -> Ledger {
    let devices = (0u8..).zip(devices).map(|(index, readings)| {
        let mut ledger = DeviceLedger::new(device(index), 10);
        ledger.entries = (1_000..)
            .zip(*readings)
            .map(|(timestamp_ms, (outcome, invalid, sends))| Entry {
                timestamp_ms,
                ..entry(*outcome, *invalid, *sends)
            })
            .collect();
        ledger
    });
    Ledger { started_at_ms: 0, devices: devices.collect() }
}

/// The differences of Kafka records given as (device, position), in order.
fn kafka(ledger: &Ledger, records: &[(u8, u64)]) -> (Vec<Difference>, u64) {
    let oracle = Oracle::new(ledger);
    let mut found = Records::new(&oracle);
    for (offset, (index, position)) in (0..).zip(records) {
        found.saw(device(*index), 10 + position, 1_000 + i64::try_from(*position).unwrap(), 3, offset);
    }
    let mut differences = Differences::default();
    let missing = found.differences(&mut differences);
    (differences.first, missing.count())
}

/// The differences of rows given as (device, position, offset).
fn clickhouse(ledger: &Ledger, rows: &[(u8, u64, i64)]) -> (Vec<Difference>, u64, Duplicates) {
    let oracle = Oracle::new(ledger);
    let mut found = Rows::new(&oracle);
    for (index, position, offset) in rows {
        found.saw(device(*index), 10 + position, 1_000 + i64::try_from(*position).unwrap(), 3, *offset);
    }
    let counted = found.missing();
    let mut differences = Differences::default();
    let (missing, duplicates) = found.differences(false, &mut differences);
    assert_eq!(counted, missing.count());
    (differences.first, missing.count(), duplicates)
}

fn name(index: u8, position: u64) -> ReadingName {
    let timestamp_ms = 1_000 + i64::try_from(position).unwrap();
    ReadingName { device: device(index), sequence: 10 + position, timestamp_ms }
}

#[test]
fn nothing_is_found_where_everything_is_right() {
    let ledger = ledger(&[&[ACKED, ACKED], &[ACKED]]);
    assert_eq!(kafka(&ledger, &[(0, 0), (1, 0), (0, 1)]), (vec![], 0));
    assert_eq!(clickhouse(&ledger, &[(0, 1, 2), (0, 0, 0), (1, 0, 1)]), (vec![], 0, Duplicates::default()));
}

#[test]
fn an_acknowledged_reading_that_is_missing_is_named() {
    let ledger = ledger(&[&[ACKED, ACKED, ACKED]]);
    let (differences, missing) = kafka(&ledger, &[(0, 0), (0, 2)]);
    assert_eq!((differences, missing), (vec![Difference::MissingInKafka(name(0, 1))], 1));
    let (differences, missing, _) = clickhouse(&ledger, &[(0, 1, 5)]);
    let expected = [0, 2].map(|position| Difference::MissingInClickHouse(name(0, position)));
    assert_eq!((differences, missing), (expected.to_vec(), 2));
    let text = expected[0].to_string();
    let id = device(0);
    assert_eq!(
        text,
        format!(
            "missing-in-clickhouse: device {id} sequence 10 timestamp 1000 was acknowledged, ClickHouse has no row of it"
        )
    );
}

#[test]
fn a_reading_without_an_acknowledgement_may_be_stored_or_not() {
    let ledger = ledger(&[&[(Outcome::Unacknowledged, None, 1), (Outcome::Unacknowledged, None, 1)]]);
    assert_eq!(kafka(&ledger, &[(0, 1)]), (vec![], 0));
    assert_eq!(clickhouse(&ledger, &[(0, 0, 1)]).0, []);
}

#[test]
fn a_second_row_of_a_reading_is_a_duplicate_whatever_its_offset() {
    let ledger = ledger(&[&[ACKED, (Outcome::Acknowledged, None, 2)]]);
    let rows = [(0, 0, 7), (0, 0, 8), (0, 1, 1), (0, 1, 2), (0, 1, 3)];
    let (differences, missing, duplicates) = clickhouse(&ledger, &rows);
    let expected = [Difference::DuplicateRows(name(0, 0), 2), Difference::DuplicateRows(name(0, 1), 3)];
    assert_eq!((differences, missing), (expected.to_vec(), 0));
    assert_eq!(duplicates, Duplicates { sent_once: 1, resent: 2, offsets: 0 });
}

#[test]
fn rows_of_a_reading_that_was_sent_again_may_be_allowed_but_not_in_the_table_where_it_is_unique() {
    let ledger = ledger(&[&[(Outcome::Acknowledged, None, 2), (Outcome::Acknowledged, None, 2), ACKED]]);
    let oracle = Oracle::new(&ledger);
    let rows = |positions: &[u64]| {
        let mut rows = Rows::new(&oracle);
        for (offset, position) in (0..).zip(positions) {
            rows.saw(device(0), 10 + position, 1_000 + i64::try_from(*position).unwrap(), 3, offset);
        }
        rows
    };
    let mut differences = Differences::default();
    let (_, duplicates) = rows(&[0, 0, 1, 2]).differences(true, &mut differences);
    assert_eq!((duplicates, differences.total()), (Duplicates { sent_once: 0, resent: 1, offsets: 0 }, 0));
    assert_eq!((rows(&[0, 1, 2]).unique_differences(&mut differences), differences.total()), (0, 0));
    assert_eq!(rows(&[1, 1, 1]).unique_differences(&mut differences), 2);
    let expected = [Difference::MissingInClickHouse(name(0, 0)), Difference::DuplicateRows(name(0, 1), 3)];
    assert_eq!(differences.first, expected);
}

#[test]
fn a_record_that_is_stored_twice_is_found_by_its_offset() {
    let ledger = ledger(&[&[ACKED]]);
    let (differences, _, duplicates) = clickhouse(&ledger, &[(0, 0, 7), (0, 0, 7)]);
    let offset = Difference::DuplicateOffset { partition: 3, offset: 7, rows: 2 };
    assert_eq!(differences, [Difference::DuplicateRows(name(0, 0), 2), offset]);
    assert_eq!(duplicates, Duplicates { sent_once: 1, resent: 0, offsets: 1 });
}

#[test]
fn kafka_may_hold_a_reading_as_often_as_it_was_sent_and_no_more() {
    let ledger = ledger(&[&[(Outcome::Acknowledged, None, 2)]]);
    assert_eq!(kafka(&ledger, &[(0, 0), (0, 0)]).0, []);
    let (differences, _) = kafka(&ledger, &[(0, 0), (0, 0), (0, 0)]);
    assert_eq!(differences, [Difference::ExtraRecords(name(0, 0), 3, 2)]);
}

#[test]
fn readings_of_a_device_that_are_out_of_order_are_found() {
    let ledger = ledger(&[&[ACKED, ACKED, ACKED], &[ACKED]]);
    let (differences, missing) = kafka(&ledger, &[(0, 1), (1, 0), (0, 0), (0, 2)]);
    let expected = Difference::OutOfOrder { reading: name(0, 0), after: 11, partition: 3, offset: 2 };
    assert_eq!((differences, missing), (vec![expected], 0));
}

#[test]
fn readings_that_were_sent_again_may_stand_behind_later_ones() {
    let resent = (Outcome::Acknowledged, None, 2);
    let ledger = ledger(&[&[ACKED, resent, resent, ACKED]]);
    assert_eq!(kafka(&ledger, &[(0, 0), (0, 1), (0, 2), (0, 1), (0, 2), (0, 3)]).0, []);
}

#[test]
fn rows_of_other_runs_are_not_looked_at() {
    let ledger = ledger(&[&[ACKED]]);
    let oracle = Oracle::new(&ledger);
    let mut rows = Rows::new(&oracle);
    rows.saw(device(9), 10, 1_000, 0, 0);
    rows.saw(device(0), 10, 999, 0, 0);
    rows.saw(device(0), 9, 1_000, 0, 0);
    rows.saw(device(0), 11, 1_000, 0, 0);
    assert_eq!((rows.found, rows.missing()), (0, 1));
}

#[test]
fn what_was_refused_or_invalid_must_not_be_stored() {
    let invalid = (Outcome::DeadLettered, Some(Reason::TooOld), 1);
    let ledger = ledger(&[&[invalid, (Outcome::Refused, None, 1)]]);
    let expected =
        [Difference::InvalidStored(name(0, 0), Reason::TooOld), Difference::RefusedStored(name(0, 1))];
    assert_eq!(kafka(&ledger, &[(0, 0), (0, 1)]).0, expected);
    assert_eq!(clickhouse(&ledger, &[(0, 0, 1), (0, 1, 2)]).0, expected);
    assert_eq!(kafka(&ledger, &[]).0, []);
}

#[test]
fn a_valid_reading_that_was_acknowledged_as_a_dead_letter_is_found_without_asking_anyone() {
    let ledger = ledger(&[&[(Outcome::DeadLettered, None, 1), ACKED]]);
    let mut differences = Differences::default();
    Oracle::new(&ledger).differences(&mut differences);
    assert_eq!(differences.first, [Difference::ValidDeadLettered(name(0, 0))]);
}

#[test]
fn dead_letters_are_held_against_what_was_made_invalid_acknowledged_and_sent() {
    let too_old = |outcome, sends| (outcome, Some(Reason::TooOld), sends);
    let ledger = ledger(&[&[
        too_old(Outcome::DeadLettered, 1),
        too_old(Outcome::Acknowledged, 2),
        too_old(Outcome::Unacknowledged, 1),
        ACKED,
    ]]);
    let oracle = Oracle::new(&ledger);
    let differences_of = |letters: &[(u64, Reason)]| {
        let mut found = DeadLetters::new(&oracle);
        for (position, reason) in letters {
            found.saw(device(0), 10 + position, 1_000 + i64::try_from(*position).unwrap(), *reason);
        }
        // Those of other runs of the same device.
        found.saw(device(0), 10, 999, Reason::TooOld);
        found.saw(device(7), 10, 1_000, Reason::TooOld);
        let mut differences = Differences::default();
        let by_reason = found.differences(&mut differences);
        assert_eq!(by_reason.values().sum::<u64>(), letters.len() as u64);
        differences.first
    };
    let old =
        |positions: &[u64]| positions.iter().map(|position| (*position, Reason::TooOld)).collect::<Vec<_>>();
    for right in [&[0, 1][..], &[0, 1, 1], &[0, 1, 2]] {
        assert_eq!(differences_of(&old(right)), []);
    }
    assert_eq!(differences_of(&old(&[0, 2])), [Difference::MissingDeadLetter(name(0, 1), Reason::TooOld)]);
    assert_eq!(differences_of(&old(&[0, 0, 1])), [Difference::ExtraDeadLetters(name(0, 0), 2, 1)]);
    let wrong = [(0, Reason::TooOld), (1, Reason::NotFinite), (3, Reason::TooOld)];
    let expected = [
        Difference::WrongDeadLetter(name(0, 1), Reason::NotFinite, Some(Reason::TooOld)),
        Difference::WrongDeadLetter(name(0, 3), Reason::TooOld, None),
    ];
    assert_eq!(differences_of(&wrong), expected);
}

#[test]
fn differences_beyond_the_first_hundred_are_counted() {
    let readings = [ACKED; 250];
    let ledger = ledger(&[&readings]);
    let oracle = Oracle::new(&ledger);
    let mut differences = Differences::default();
    Records::new(&oracle).differences(&mut differences);
    assert_eq!((differences.first.len(), differences.total()), (100, 250));
    assert!(differences.to_string().ends_with("and 150 more: {\"missing-in-kafka\": 250}\n"));
}

#[test]
fn a_reading_that_two_stores_lack_is_one_missing_reading() {
    let ledger = ledger(&[&[ACKED, ACKED, ACKED]]);
    let oracle = Oracle::new(&ledger);
    let mut missing = [Missing::new(&ledger), Missing::new(&ledger)];
    missing[0].add(oracle.find(device(0), 10, 1_000).unwrap());
    missing[0].add(oracle.find(device(0), 11, 1_001).unwrap());
    missing[1].add(oracle.find(device(0), 11, 1_001).unwrap());
    assert_eq!((missing[0].count(), missing[0].union(&missing[1])), (2, 2));
}

proptest! {
    /// Rows of every acknowledged reading, some taken away and some doubled: exactly those are found.
    #[test]
    fn what_is_planted_is_found_and_nothing_else(
        copies in proptest::collection::vec(proptest::collection::vec(prop_oneof![1 => Just(0u8), 8 => Just(1), 1 => 2u8..5], 0..40), 1..6),
    ) {
        let readings: Vec<Vec<_>> = copies.iter().map(|copies| vec![ACKED; copies.len()]).collect();
        let ledger = ledger(&readings.iter().map(Vec::as_slice).collect::<Vec<_>>());
        let (mut rows, mut expected, mut offset) = (Vec::new(), Vec::new(), 0);
        for (index, copies) in (0u8..).zip(&copies) {
            for (position, copies) in (0..).zip(copies) {
                for _ in 0..*copies {
                    rows.push((index, position, offset));
                    offset += 1;
                }
                match copies {
                    0 => expected.push(Difference::MissingInClickHouse(name(index, position))),
                    1 => {}
                    _ => expected.push(Difference::DuplicateRows(name(index, position), *copies)),
                }
            }
        }
        let total = expected.len();
        expected.truncate(100);
        let (found, missing, duplicates) = clickhouse(&ledger, &rows);
        prop_assert_eq!(found, expected);
        let all = || copies.iter().flatten();
        prop_assert_eq!(missing, all().filter(|copies| **copies == 0).count() as u64);
        let extra: u64 = all().map(|copies| u64::from(copies.saturating_sub(1))).sum();
        prop_assert_eq!(duplicates, Duplicates { sent_once: extra, resent: 0, offsets: 0 });
        prop_assert!(total as u64 >= missing);
    }
}
