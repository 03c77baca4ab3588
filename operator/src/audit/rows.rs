//! Asks ClickHouse which offsets have rows, mostly out of the projection `by_offset` of the table: bitmaps of 4,096
//! offsets, so that asking costs milliseconds however large the table is. Answers are bounded.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::Range;
use std::time::Duration;

use penstock_service::config::ClickHouse;
use penstock_storage_writer::clickhouse::{Class, Client};
use penstock_storage_writer::stored::CHUNK;
use tokio::runtime::Handle;

use crate::OperatorError;

/// Offsets of one question: 4,096 chunks and two more a partition, each a line of at most about 60 bytes, of the 4 MiB
/// that an answer may have.
pub(super) const OFFSETS_MAX: u64 = 1 << 24;
/// Chunks with holes of one question: 32,000 lines of at most about 50 bytes.
const HOLED_MAX: usize = 500;
/// Chunks with doubled rows of one question: 49,152 lines of at most about 80 bytes.
const DOUBLED_MAX: usize = 12;
/// Words of 64 offsets in a chunk.
const CHUNK_WORDS: u64 = CHUNK / 64;
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
}

/// 4,096 offsets, as the projection has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Chunk {
    partition: u32,
    number: u64,
    /// How many of the offsets have rows.
    stored: u64,
    /// How many rows they have.
    rows: u64,
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

    /// Which offsets of these ranges, at most [`OFFSETS_MAX`] in all, have rows; some words reach beyond their range.
    /// Comes back with the chunks that have more rows than offsets, by partition.
    pub(super) fn words(
        &self,
        ranges: &[(u32, Range<u64>)],
        mut each: impl FnMut(Word),
    ) -> Result<BTreeMap<u32, Vec<u64>>, OperatorError> {
        const WHAT: &str = "which offsets have rows";
        let (mut holed, mut doubled) = (Vec::new(), BTreeMap::<u32, Vec<u64>>::new());
        let answer = self.ask(WHAT, &chunks_sql(&self.database, ranges))?;
        lines(WHAT, &answer, parse_chunk, |Chunk { partition, number, stored, rows }| {
            if stored == CHUNK {
                let words = number * CHUNK_WORDS..(number + 1) * CHUNK_WORDS;
                words.for_each(|number| each(Word { partition, number, bits: u64::MAX }));
            } else {
                holed.push((partition, number));
            }
            if rows > stored {
                doubled.entry(partition).or_default().push(number);
            }
        })?;
        for chunks in holed.chunks(HOLED_MAX) {
            let answer = self.ask(WHAT, &holed_sql(&self.database, chunks))?;
            lines(WHAT, &answer, parse_word, &mut each)?;
        }
        Ok(doubled)
    }

    /// The rows of offsets that have more than one, among these chunks of a partition.
    pub(super) fn doubled(
        &self,
        partition: u32,
        chunks: &[u64],
        mut each: impl FnMut(Row),
    ) -> Result<(), OperatorError> {
        const WHAT: &str = "which offsets have several rows";
        for chunks in chunks.chunks(DOUBLED_MAX) {
            let answer = self.ask(WHAT, &doubled_sql(&self.database, partition, chunks))?;
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

/// Bitmaps of chunks. The expressions are those of the projection, or it would not be used.
fn bitmaps_sql(database: &str, wanted: &str) -> String {
    format!(
        "(SELECT kafka_partition, intDiv(kafka_offset, {CHUNK}) AS chunk, \
         groupBitmapState(toUInt16(kafka_offset % {CHUNK})) AS stored, count() AS rows \
         FROM {database}.readings WHERE {wanted} GROUP BY kafka_partition, chunk)"
    )
}

fn chunks_sql(database: &str, ranges: &[(u32, Range<u64>)]) -> String {
    let wanted: Vec<_> = ranges
        .iter()
        .map(|(partition, range)| {
            let (first, last) = (range.start / CHUNK, range.end.saturating_sub(1) / CHUNK);
            format!("(kafka_partition = {partition} AND chunk >= {first} AND chunk <= {last})")
        })
        .collect();
    let bitmaps = bitmaps_sql(database, &wanted.join(" OR "));
    format!("SELECT kafka_partition, chunk, bitmapCardinality(stored), rows FROM {bitmaps} FORMAT TSV")
}

fn holed_sql(database: &str, chunks: &[(u32, u64)]) -> String {
    let wanted: Vec<_> = chunks
        .iter()
        .map(|(partition, chunk)| format!("(kafka_partition = {partition} AND chunk = {chunk})"))
        .collect();
    let bitmaps = bitmaps_sql(database, &wanted.join(" OR "));
    format!(
        "SELECT kafka_partition, chunk * {CHUNK_WORDS} + intDiv(bit, 64) AS word, \
         groupBitOr(bitShiftLeft(toUInt64(1), bit % 64)) \
         FROM {bitmaps} ARRAY JOIN bitmapToArray(stored) AS bit GROUP BY kafka_partition, word FORMAT TSV"
    )
}

fn joined(numbers: &[u64]) -> String {
    let texts: Vec<_> = numbers.iter().map(u64::to_string).collect();
    texts.join(",")
}

fn limits(numbers: &[u64]) -> (u64, u64) {
    (numbers.iter().min().copied().unwrap_or(0), numbers.iter().max().copied().unwrap_or(0))
}

/// The rows themselves: `kafka_offset` has a skipping index, so its limits stand in the condition.
fn doubled_sql(database: &str, partition: u32, chunks: &[u64]) -> String {
    let (first, last) = limits(chunks);
    format!(
        "SELECT kafka_offset, count() AS rows, any(device_id) FROM {database}.readings \
         WHERE kafka_partition = {partition} AND kafka_offset >= {} AND kafka_offset < {} \
         AND intDiv(kafka_offset, {CHUNK}) IN ({}) GROUP BY kafka_offset HAVING rows > 1 \
         ORDER BY kafka_offset FORMAT TSV",
        first.saturating_mul(CHUNK),
        last.saturating_add(1).saturating_mul(CHUNK),
        joined(chunks)
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
    })
}

fn parse_chunk(line: &str) -> Option<Chunk> {
    let mut cells = line.split('\t');
    let partition = cells.next()?.parse().ok()?;
    let mut number = || cells.next()?.parse::<u64>().ok();
    let chunk = Chunk { partition, number: number()?, stored: number()?, rows: number()? };
    let is_sound = chunk.number < u64::MAX / CHUNK && (1..=CHUNK.min(chunk.rows)).contains(&chunk.stored);
    is_sound.then_some(chunk)
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
        let chunks = [(u32::MAX, u64::MAX / CHUNK); HOLED_MAX];
        assert!(holed_sql("d", &chunks).len() < 200_000);
        let tab = |cells: &[u64]| cells.iter().map(|cell| cell.to_string().len() + 1).sum::<usize>();
        let (partition, chunk, word) = (u64::from(u16::MAX), u64::MAX / CHUNK, u64::MAX / 64);
        let questions = [
            (
                tab(&[partition, chunk, CHUNK, u64::MAX]),
                usize::try_from(OFFSETS_MAX / CHUNK).unwrap() + 2 * 48,
            ),
            (tab(&[partition, word, u64::MAX]), HOLED_MAX * 64),
            (tab(&[u64::MAX, u64::MAX]) + 37, DOUBLED_MAX * 4096),
            (tab(&[u64::MAX, u64::MAX]) + 37, KEYS_MAX),
        ];
        for (line_bytes, lines) in questions {
            assert!(line_bytes * lines < 4 << 20, "{lines} lines of {line_bytes} bytes");
        }
    }

    #[test]
    fn the_question_is_that_of_the_projection() {
        let sql = chunks_sql("db", &[(5, 4096..8193)]);
        assert!(sql.contains("(kafka_partition = 5 AND chunk >= 1 AND chunk <= 2)"), "{sql}");
        let file = include_str!("../../../deploy/sql/0005_exactly_once.sql");
        for expression in [
            "intDiv(kafka_offset, 4096) AS chunk",
            "groupBitmapState(toUInt16(kafka_offset % 4096)) AS stored",
            "count() AS rows",
        ] {
            assert!(sql.contains(expression) && file.contains(expression), "{expression}");
        }
    }

    #[test]
    fn answers_are_parsed_and_anything_else_is_an_error() {
        let word = Word { partition: 3, number: 7, bits: u64::MAX };
        assert_eq!(parse_word("3\t7\t18446744073709551615"), Some(word));
        assert_eq!(parse_chunk("3\t7\t2\t3"), Some(Chunk { partition: 3, number: 7, stored: 2, rows: 3 }));
        for line in ["3\t7\t3\t2", "3\t7\t0\t0", "3\t7\t4097\t9999", "3\t7\t1"] {
            assert_eq!(parse_chunk(line), None, "{line}");
        }
        let key = parse_key("07070707-0707-0707-0707-070707070707\t1790000000000\t5").unwrap();
        assert_eq!(
            key,
            Key { device: u128::from_be_bytes([7; 16]), timestamp_ms: 1_790_000_000_000, sequence: 5 }
        );
        for line in ["", "3\t7", "x\t7\t8", "-3\t7\t8"] {
            let result = lines("what", &format!("{line}\n"), parse_word, |_| ());
            assert!(matches!(result, Err(OperatorError::Answer { .. })), "{line}");
        }
    }
}
