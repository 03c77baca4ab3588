//! What the verifier found that must not be, one by one.

use std::collections::BTreeMap;
use std::fmt;

use penstock_proto::{DeviceId, Reason};
use serde::{Serialize, Serializer};

/// Differences that are kept one by one; further ones are only counted.
pub const SHOWN_MAX: usize = 100;

/// One thing that must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// Acknowledged, but Kafka has no record of it (G1).
    MissingInKafka(ReadingName),
    /// Acknowledged, but ClickHouse has no row of it (G3).
    MissingInClickHouse(ReadingName),
    /// ClickHouse has more than one row of it (G3).
    DuplicateRows(ReadingName, u8),
    /// ClickHouse has one Kafka record in more than one row (G3).
    DuplicateOffset {
        /// Kafka partition.
        partition: i64,
        /// Offset in it.
        offset: i64,
        /// Rows with both.
        rows: u64,
    },
    /// Kafka has more records of it than it was sent (G1: the producer is idempotent).
    ExtraRecords(ReadingName, u8, u16),
    /// It stands in Kafka behind one that the device published later (G2).
    OutOfOrder {
        /// The reading.
        reading: ReadingName,
        /// Sequence number of the one before it in Kafka.
        after: u64,
        /// Its Kafka partition.
        partition: i32,
        /// Its offset.
        offset: i64,
    },
    /// It is no valid reading, yet it is stored as one (G5).
    InvalidStored(ReadingName, Reason),
    /// It was refused, yet it is stored (G5).
    RefusedStored(ReadingName),
    /// It is valid, yet it was acknowledged as a dead letter (G5).
    ValidDeadLettered(ReadingName),
    /// It was acknowledged as a dead letter, or acknowledged though it is invalid, but there is no dead letter (G5).
    MissingDeadLetter(ReadingName, Reason),
    /// It is a dead letter, but not for the reason it was made invalid for; `None`: it is valid (G5).
    WrongDeadLetter(ReadingName, Reason, Option<Reason>),
    /// There are more dead letters of it than it was sent (G5).
    ExtraDeadLetters(ReadingName, u8, u16),
}

/// Which reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadingName {
    /// Its device.
    pub device: DeviceId,
    /// Its sequence number.
    pub sequence: u64,
    /// Its timestamp, Unix milliseconds.
    pub timestamp_ms: i64,
}

impl fmt::Display for ReadingName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { device, sequence, timestamp_ms } = self;
        write!(f, "device {device} sequence {sequence} timestamp {timestamp_ms}")
    }
}

impl Difference {
    /// The kind of difference, by which they are counted.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::MissingInKafka(_) => "missing-in-kafka",
            Self::MissingInClickHouse(_) => "missing-in-clickhouse",
            Self::DuplicateRows(..) => "duplicate-rows",
            Self::DuplicateOffset { .. } => "duplicate-offset",
            Self::ExtraRecords(..) => "extra-records",
            Self::OutOfOrder { .. } => "out-of-order",
            Self::InvalidStored(..) => "invalid-stored",
            Self::RefusedStored(_) => "refused-stored",
            Self::ValidDeadLettered(_) => "valid-dead-lettered",
            Self::MissingDeadLetter(..) => "missing-dead-letter",
            Self::WrongDeadLetter(..) => "wrong-dead-letter",
            Self::ExtraDeadLetters(..) => "extra-dead-letters",
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.kind())?;
        match self {
            Self::MissingInKafka(reading) => {
                write!(f, "{reading} was acknowledged, Kafka has no record of it")
            }
            Self::MissingInClickHouse(reading) => {
                write!(f, "{reading} was acknowledged, ClickHouse has no row of it")
            }
            Self::DuplicateRows(reading, rows) => write!(f, "{reading} is {rows} rows in ClickHouse"),
            Self::DuplicateOffset { partition, offset, rows } => {
                write!(f, "partition {partition} offset {offset} is {rows} rows in ClickHouse")
            }
            Self::ExtraRecords(reading, records, sends) => {
                write!(f, "{reading} is {records} records in Kafka, but it was sent {sends} times")
            }
            Self::OutOfOrder { reading, after, partition, offset } => {
                write!(
                    f,
                    "{reading} comes after sequence {after} in Kafka, partition {partition} offset {offset}"
                )
            }
            Self::InvalidStored(reading, reason) => write!(f, "{reading} is stored though it is {reason}"),
            Self::RefusedStored(reading) => write!(f, "{reading} is stored though it was refused"),
            Self::ValidDeadLettered(reading) => {
                write!(f, "{reading} is valid, but it was acknowledged as a dead letter")
            }
            Self::MissingDeadLetter(reading, reason) => {
                write!(f, "{reading} is {reason} and was acknowledged, but there is no dead letter")
            }
            Self::WrongDeadLetter(reading, stored, Some(made)) => {
                write!(f, "{reading} is a dead letter because of {stored}, it was made {made}")
            }
            Self::WrongDeadLetter(reading, stored, None) => {
                write!(f, "{reading} is a dead letter because of {stored}, but it is valid")
            }
            Self::ExtraDeadLetters(reading, letters, sends) => {
                write!(f, "{reading} is {letters} dead letters, but it was sent {sends} times")
            }
        }
    }
}

impl Serialize for Difference {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The differences of a verification: the first hundred, and how many of each kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Differences {
    /// The first hundred.
    pub first: Vec<Difference>,
    /// How many of each kind, all counted.
    pub counts: BTreeMap<&'static str, u64>,
}

impl Differences {
    pub(crate) fn push(&mut self, difference: Difference) {
        *self.counts.entry(difference.kind()).or_default() += 1;
        if self.first.len() < SHOWN_MAX {
            self.first.push(difference);
        }
    }

    pub(crate) fn append(&mut self, other: Self) {
        for (kind, count) in other.counts {
            *self.counts.entry(kind).or_default() += count;
        }
        let room = SHOWN_MAX.saturating_sub(self.first.len());
        self.first.extend(other.first.into_iter().take(room));
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        self.counts.values().sum()
    }

    /// All of a kind.
    pub fn of(&self, kind: &str) -> u64 {
        self.counts.get(kind).copied().unwrap_or(0)
    }
}

impl fmt::Display for Differences {
    /// A line each, and one for those that are only counted.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.first.iter().try_for_each(|difference| writeln!(f, "{difference}"))?;
        let more = self.total() - self.first.len() as u64;
        if more > 0 {
            writeln!(f, "and {more} more: {:?}", self.counts)?;
        }
        Ok(())
    }
}
