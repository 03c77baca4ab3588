//! Asks ClickHouse which offsets have rows. Answers are small and bounded: a word of 64 offsets is one line.

use std::fmt::Write as _;
use std::ops::Range;
use std::time::Duration;

use penstock_service::config::ClickHouse;
use penstock_storage_writer::clickhouse::{Class, Client};
use tokio::runtime::Handle;

use crate::OperatorError;

/// Offsets of one question: 32,768 lines of at most about 66 bytes, of the 4 MiB that an answer may have.
pub(super) const OFFSETS_MAX: u64 = 1 << 21;
/// Words of one question about doubled rows: 32,000 lines of at most about 80 bytes.
const WORDS_MAX: usize = 500;
/// Keys of one question: 100 bytes each, of the 256 KiB that a statement may have.
pub(super) const KEYS_MAX: usize = 1_000;

const ATTEMPTS: u32 = 4;
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// A reading's key in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    /// As a number, most significant byte first.
    pub(super) device: u128,
    pub(super) timestamp_ms: i64,
    pub(super) sequence: u64,
}

/// The words of 64 offsets that have rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) partition: u32,
    /// Of the offsets `64 * number` to `64 * number + 63`.
    pub(super) number: u64,
    /// Which of them have rows.
    pub(super) bits: u64,
    /// How many rows they have.
    pub(super) rows: u64,
}

/// The table of readings.
pub(super) struct Rows {
    client: Client,
    runtime: Handle,
    database: String,
}

/// A row at an offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) offset: u64,
    pub(super) count: u64,
    pub(super) device: String,
}

impl Rows {
    pub(super) fn new(config: &ClickHouse, runtime: &Handle) -> Result<Self, OperatorError> {
        Ok(Self { client: Client::new(config)?, runtime: runtime.clone(), database: config.database.clone() })
    }

    fn ask(&self, what: &'static str, sql: &str) -> Result<String, OperatorError> {
        self.runtime.block_on(async {
            let mut attempt = 1;
            loop {
                match self.client.query(sql).await {
                    Ok(answer) => return Ok(answer),
                    // A question changes nothing, so it can be asked again whatever became of it.
                    Err(cause) if cause.class() != Class::Permanent && attempt < ATTEMPTS => {
                        attempt += 1;
                        tokio::time::sleep(RETRY_PAUSE).await;
                    }
                    Err(cause) => return Err(OperatorError::ClickHouse { what, cause }),
                }
            }
        })
    }

    /// Which offsets of these ranges, at most [`OFFSETS_MAX`] in all, have rows.
    pub(super) fn words(
        &self,
        ranges: &[(u32, Range<u64>)],
        each: impl FnMut(Word),
    ) -> Result<(), OperatorError> {
        const WHAT: &str = "which offsets have rows";
        let answer = self.ask(WHAT, &words_sql(&self.database, ranges))?;
        lines(WHAT, &answer, parse_word, each)
    }

    /// The rows of offsets that have more than one, among these words of a partition.
    pub(super) fn doubled(
        &self,
        partition: u32,
        words: &[u64],
        mut each: impl FnMut(Row),
    ) -> Result<(), OperatorError> {
        const WHAT: &str = "which offsets have several rows";
        for words in words.chunks(WORDS_MAX) {
            let answer = self.ask(WHAT, &doubled_sql(&self.database, partition, words))?;
            lines(WHAT, &answer, parse_row, &mut each)?;
        }
        Ok(())
    }

    /// The rows at these offsets of a partition, at most [`KEYS_MAX`].
    pub(super) fn at(
        &self,
        partition: u32,
        offsets: &[u64],
        each: impl FnMut(Row),
    ) -> Result<(), OperatorError> {
        const WHAT: &str = "which rows stand at offsets";
        if offsets.is_empty() {
            return Ok(());
        }
        let answer = self.ask(WHAT, &at_sql(&self.database, partition, offsets))?;
        lines(WHAT, &answer, parse_row, each)
    }

    /// Which of these keys, at most [`KEYS_MAX`], have a row.
    pub(super) fn stored(&self, keys: &[Key], each: impl FnMut(Key)) -> Result<(), OperatorError> {
        const WHAT: &str = "which readings have rows";
        if keys.is_empty() {
            return Ok(());
        }
        let answer = self.ask(WHAT, &stored_sql(&self.database, keys))?;
        lines(WHAT, &answer, parse_key, each)
    }
}

/// `kafka_offset` alone has a skipping index, so its limits stand in each condition.
fn words_sql(database: &str, ranges: &[(u32, Range<u64>)]) -> String {
    let conditions: Vec<_> = ranges
        .iter()
        .map(|(partition, Range { start, end })| {
            format!("(kafka_partition = {partition} AND kafka_offset >= {start} AND kafka_offset < {end})")
        })
        .collect();
    format!(
        "SELECT kafka_partition, intDiv(kafka_offset, 64) AS word, \
         groupBitOr(bitShiftLeft(toUInt64(1), bitAnd(kafka_offset, 63))), count() \
         FROM {database}.readings WHERE {} GROUP BY kafka_partition, word FORMAT TSV",
        conditions.join(" OR ")
    )
}

fn joined(numbers: &[u64]) -> String {
    let texts: Vec<_> = numbers.iter().map(u64::to_string).collect();
    texts.join(",")
}

fn limits(numbers: &[u64]) -> (u64, u64) {
    (numbers.iter().min().copied().unwrap_or(0), numbers.iter().max().copied().unwrap_or(0))
}

fn doubled_sql(database: &str, partition: u32, words: &[u64]) -> String {
    let (first, last) = limits(words);
    format!(
        "SELECT kafka_offset, count() AS rows, any(device_id) FROM {database}.readings \
         WHERE kafka_partition = {partition} AND kafka_offset >= {} AND kafka_offset <= {} \
         AND intDiv(kafka_offset, 64) IN ({}) GROUP BY kafka_offset HAVING rows > 1 ORDER BY kafka_offset FORMAT TSV",
        first.saturating_mul(64),
        last.saturating_mul(64).saturating_add(63),
        joined(words)
    )
}

fn at_sql(database: &str, partition: u32, offsets: &[u64]) -> String {
    let (first, last) = limits(offsets);
    format!(
        "SELECT kafka_offset, count(), any(device_id) FROM {database}.readings \
         WHERE kafka_partition = {partition} AND kafka_offset >= {first} AND kafka_offset <= {last} \
         AND kafka_offset IN ({}) GROUP BY kafka_offset FORMAT TSV",
        joined(offsets)
    )
}

fn stored_sql(database: &str, keys: &[Key]) -> String {
    let mut list = String::new();
    for Key { device, timestamp_ms, sequence } in keys {
        let comma = if list.is_empty() { "" } else { "," };
        let device = uuid(*device);
        let _ = write!(list, "{comma}('{device}',fromUnixTimestamp64Milli({timestamp_ms},'UTC'),{sequence})");
    }
    format!(
        "SELECT DISTINCT device_id, toUnixTimestamp64Milli(timestamp), sequence FROM {database}.readings \
         WHERE (device_id, timestamp, sequence) IN ({list}) FORMAT TSV"
    )
}

fn uuid(device: u128) -> String {
    penstock_proto::DeviceId::from_bytes(device.to_be_bytes()).to_string()
}

fn parse_uuid(text: &str) -> Option<u128> {
    let device: penstock_proto::DeviceId = text.parse().ok()?;
    Some(u128::from_be_bytes(*device.as_bytes()))
}

fn lines<T>(
    what: &'static str,
    answer: &str,
    parse: impl Fn(&str) -> Option<T>,
    each: impl FnMut(T),
) -> Result<(), OperatorError> {
    let parsed = answer.lines().map(|line| {
        parse(line).ok_or_else(|| OperatorError::Answer { what, line: line.chars().take(200).collect() })
    });
    parsed.collect::<Result<Vec<_>, _>>().map(|all| all.into_iter().for_each(each))
}

fn parse_word(line: &str) -> Option<Word> {
    let mut cells = line.split('\t');
    Some(Word {
        partition: cells.next()?.parse().ok()?,
        number: cells.next()?.parse().ok()?,
        bits: cells.next()?.parse().ok()?,
        rows: cells.next()?.parse().ok()?,
    })
}

fn parse_row(line: &str) -> Option<Row> {
    let mut cells = line.split('\t');
    Some(Row {
        offset: cells.next()?.parse().ok()?,
        count: cells.next()?.parse().ok()?,
        device: cells.next()?.to_owned(),
    })
}

fn parse_key(line: &str) -> Option<Key> {
    let mut cells = line.split('\t');
    Some(Key {
        device: parse_uuid(cells.next()?)?,
        timestamp_ms: cells.next()?.parse().ok()?,
        sequence: cells.next()?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_and_answers_stay_within_their_bounds() {
        let keys = [Key { device: u128::MAX, timestamp_ms: 4_102_444_799_999, sequence: u64::MAX }; KEYS_MAX];
        assert!(stored_sql("a_database_with_a_long_name", &keys).len() < 200_000);
        let offsets = [u64::MAX; KEYS_MAX];
        assert!(at_sql("d", u32::MAX, &offsets).len() < 200_000);
        assert!(doubled_sql("d", u32::MAX, &[u64::MAX / 64; WORDS_MAX]).len() < 200_000);
        let longest = format!("{}\t{}\t{}\t{}\n", u16::MAX, u64::MAX / 64, u64::MAX, u64::MAX);
        assert!(longest.len() as u64 * (OFFSETS_MAX / 64 + 2 * 48) < 4 << 20);
        let longest = format!("{}\t{}\t{}\n", u64::MAX, u64::MAX, uuid(0));
        assert!(longest.len() * 64 * WORDS_MAX < 4 << 20);
    }

    #[test]
    fn answers_are_parsed_and_anything_else_is_an_error() {
        let word = Word { partition: 3, number: 7, bits: u64::MAX, rows: 64 };
        assert_eq!(parse_word("3\t7\t18446744073709551615\t64"), Some(word));
        let key = parse_key("07070707-0707-0707-0707-070707070707\t1790000000000\t5").unwrap();
        assert_eq!(
            key,
            Key { device: u128::from_be_bytes([7; 16]), timestamp_ms: 1_790_000_000_000, sequence: 5 }
        );
        for line in ["", "3\t7\t8", "x\t7\t8\t9", "-3\t7\t8\t9"] {
            let result = lines("what", &format!("{line}\n"), parse_word, |_| ());
            assert!(matches!(result, Err(OperatorError::Answer { .. })), "{line}");
        }
    }
}
