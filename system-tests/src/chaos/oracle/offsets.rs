//! Every offset of the readings topic is one row or one dead letter. Pure: fed with what Kafka and ClickHouse hold.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use penstock_proto::DeviceId;

/// Differences that are kept one by one; further ones are only counted.
const SHOWN_MAX: usize = 20;

/// Which reading a record holds. Records with the same key are one reading that was sent more than once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    device: u32,
    sequence: u64,
    timestamp_ms: i64,
}

/// What stands at an offset of the readings topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Record {
    /// Nothing that a reader of committed records sees.
    Nothing,
    Reading(Key),
    Undecodable,
}

/// How often something stands for an offset, by partition; 255 is that and more.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally(BTreeMap<i32, Vec<u8>>);

impl Tally {
    /// Adds one.
    pub(super) fn add(&mut self, partition: i32, offset: i64) {
        let Ok(place) = usize::try_from(offset) else { return };
        let counts = self.0.entry(partition).or_default();
        if counts.len() <= place {
            counts.resize(place + 1, 0);
        }
        counts[place] = counts[place].saturating_add(1);
    }

    fn of(&self, partition: i32, offset: usize) -> u8 {
        self.0.get(&partition).and_then(|counts| counts.get(offset)).copied().unwrap_or(0)
    }

    fn end(&self, partition: i32) -> usize {
        self.0.get(&partition).map_or(0, Vec::len)
    }

    /// All together.
    pub(super) fn total(&self) -> u64 {
        self.0.values().flatten().map(|count| u64::from(*count)).sum()
    }
}

/// What the topics hold, as far as they have been read: they are read further from round to round.
#[derive(Debug, Default)]
pub(super) struct Offsets {
    devices: HashMap<DeviceId, u32>,
    records: BTreeMap<i32, Vec<Record>>,
    /// Dead letters, by the offset of the record they are of.
    pub(super) letters: Tally,
}

/// What must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Difference {
    partition: i32,
    offset: usize,
    wanted: &'static str,
    what: String,
    rows: u8,
    letters: u8,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { partition, offset, wanted, what, rows, letters } = self;
        write!(
            f,
            "partition {partition} offset {offset} ({what}) is {rows} rows and {letters} dead letters; wanted: {wanted}"
        )
    }
}

/// What a comparison came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Comparison {
    /// Records of the readings topic.
    pub(super) records: u64,
    /// Records without a row because another record of the same reading has one.
    pub(super) collapsed: u64,
    /// Records that are neither row nor dead letter, so far.
    pub(super) missing: u64,
    /// Offsets with more than they should have, or with the wrong thing.
    pub(super) wrong: u64,
    /// The first of both.
    pub(super) first: Vec<Difference>,
}

impl Comparison {
    fn differs(&mut self, difference: Difference) {
        let count =
            if difference.rows + difference.letters == 0 { &mut self.missing } else { &mut self.wrong };
        *count += 1;
        if self.first.len() < SHOWN_MAX {
            self.first.push(difference);
        }
    }
}

impl Offsets {
    /// Where the records of a partition have not been read yet.
    pub(super) fn next(&self, partition: i32) -> i64 {
        i64::try_from(self.records.get(&partition).map_or(0, Vec::len)).unwrap_or(i64::MAX)
    }

    /// A record with a reading.
    pub(super) fn saw_reading(
        &mut self,
        partition: i32,
        offset: i64,
        device: DeviceId,
        sequence: u64,
        timestamp_ms: i64,
    ) {
        let number = u32::try_from(self.devices.len()).unwrap_or(u32::MAX);
        let device = *self.devices.entry(device).or_insert(number);
        self.saw(partition, offset, Record::Reading(Key { device, sequence, timestamp_ms }));
    }

    /// A record without one.
    pub(super) fn saw_undecodable(&mut self, partition: i32, offset: i64) {
        self.saw(partition, offset, Record::Undecodable);
    }

    fn saw(&mut self, partition: i32, offset: i64, record: Record) {
        let Ok(place) = usize::try_from(offset) else { return };
        let records = self.records.entry(partition).or_default();
        if records.len() <= place {
            records.resize(place + 1, Record::Nothing);
        }
        records[place] = record;
    }

    /// Holds rows and dead letters against the records.
    pub(super) fn compare(&self, rows: &Tally) -> Comparison {
        let collapsed = self.collapsed(rows);
        let mut found = Comparison::default();
        let partitions = self.records.keys().chain(rows.0.keys()).chain(self.letters.0.keys());
        let partitions: std::collections::BTreeSet<i32> = partitions.copied().collect();
        for partition in partitions {
            let records = self.records.get(&partition).map_or(&[][..], Vec::as_slice);
            let end = records.len().max(rows.end(partition)).max(self.letters.end(partition));
            for offset in 0..end {
                let record = records.get(offset).copied().unwrap_or(Record::Nothing);
                let (rows, letters) = (rows.of(partition, offset), self.letters.of(partition, offset));
                found.records += u64::from(record != Record::Nothing);
                let wanted = match (record, rows, letters) {
                    (Record::Nothing, 0, 0) | (Record::Reading(_), 1, 0) | (Record::Undecodable, 0, 1) => {
                        continue;
                    }
                    (Record::Reading(key), 0, 0) if collapsed.contains(&key) => {
                        found.collapsed += 1;
                        continue;
                    }
                    (Record::Nothing, ..) => "nothing",
                    (Record::Reading(_), ..) => "one row",
                    (Record::Undecodable, ..) => "one dead letter",
                };
                let what = self.describe(record);
                found.differs(Difference { partition, offset, wanted, what, rows, letters });
            }
        }
        found
    }

    /// Readings that have a record without a row, and another one with a row.
    fn collapsed(&self, rows: &Tally) -> HashSet<Key> {
        let readings = || {
            self.records.iter().flat_map(|(partition, records)| {
                records.iter().enumerate().filter_map(move |(offset, record)| match record {
                    Record::Reading(key) => Some((*key, rows.of(*partition, offset))),
                    _ => None,
                })
            })
        };
        let without: HashSet<Key> = readings().filter(|(_, rows)| *rows == 0).map(|(key, _)| key).collect();
        readings().filter(|(key, rows)| *rows > 0 && without.contains(key)).map(|(key, _)| key).collect()
    }

    fn describe(&self, record: Record) -> String {
        match record {
            Record::Nothing => "no record".to_owned(),
            Record::Undecodable => "undecodable".to_owned(),
            Record::Reading(Key { device, sequence, timestamp_ms }) => {
                let name = self.devices.iter().find(|(_, number)| **number == device);
                let name = name.map(|(name, _)| name.to_string()).unwrap_or_default();
                format!("device {name} sequence {sequence} timestamp {timestamp_ms}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: DeviceId = DeviceId::from_bytes([1; 16]);

    /// Offsets 0 and 1 of partition 3 are readings, 2 is undecodable.
    fn offsets() -> Offsets {
        let mut offsets = Offsets::default();
        offsets.saw_reading(3, 0, DEVICE, 1, 10);
        offsets.saw_reading(3, 1, DEVICE, 2, 20);
        offsets.saw_undecodable(3, 2);
        offsets.letters.add(3, 2);
        offsets
    }

    fn rows(offsets: &[i64]) -> Tally {
        let mut rows = Tally::default();
        offsets.iter().for_each(|offset| rows.add(3, *offset));
        rows
    }

    #[test]
    fn a_row_a_reading_and_a_dead_letter_an_undecodable_record_is_right() {
        let found = offsets().compare(&rows(&[0, 1]));
        assert_eq!(found, Comparison { records: 3, ..Comparison::default() });
    }

    #[test]
    fn a_record_that_is_neither_row_nor_dead_letter_is_missing() {
        let found = offsets().compare(&rows(&[1]));
        assert_eq!((found.missing, found.wrong), (1, 0));
        assert_eq!(
            found.first[0].to_string(),
            "partition 3 offset 0 (device 01010101-0101-0101-0101-010101010101 sequence 1 timestamp 10) is 0 rows and \
             0 dead letters; wanted: one row"
        );
    }

    #[test]
    fn a_row_too_many_a_letter_too_many_both_or_one_without_a_record_is_wrong() {
        for (row_offsets, letter) in [
            (&[0, 1, 1][..], None),
            (&[0, 1], Some(2)),
            (&[0, 1], Some(1)),
            (&[0, 1, 2], None),
            (&[0, 1, 7], None),
            (&[0, 1], Some(9)),
        ] {
            let mut offsets = offsets();
            letter.iter().for_each(|offset| offsets.letters.add(3, *offset));
            let found = offsets.compare(&rows(row_offsets));
            assert_eq!((found.missing, found.wrong), (0, 1), "{row_offsets:?} {letter:?}");
        }
    }

    #[test]
    fn a_row_may_be_missing_where_another_record_of_the_same_reading_has_one() {
        let mut offsets = offsets();
        offsets.saw_reading(5, 0, DEVICE, 1, 10);
        let found = offsets.compare(&rows(&[0, 1]));
        assert_eq!((found.collapsed, found.missing, found.wrong), (1, 0, 0));
        let found = offsets.compare(&rows(&[1]));
        assert_eq!((found.collapsed, found.missing), (0, 2), "neither has one");
    }

    #[test]
    fn offsets_that_no_reader_sees_are_no_records() {
        let mut offsets = offsets();
        offsets.saw_reading(3, 5, DEVICE, 3, 30);
        assert_eq!(offsets.next(3), 6);
        assert_eq!(offsets.compare(&rows(&[0, 1, 5])), Comparison { records: 4, ..Comparison::default() });
        assert_eq!(offsets.compare(&rows(&[0, 1, 4, 5])).wrong, 1);
    }
}
