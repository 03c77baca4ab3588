//! Which offsets are stored: a set of them, and how ClickHouse is asked.
//!
//! ClickHouse keeps them as bitmaps of [`CHUNK`] offsets in the projection `by_offset`, so that asking costs
//! milliseconds however large the table is.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::clickhouse::{CallError, Client};

/// Offsets in one bitmap of the projection `by_offset`.
pub const CHUNK: u64 = 4096;

/// Chunks with holes whose offsets are asked for at once: at most 5 digits and a comma each, within the answer's limit.
const HOLED_CHUNKS_MAX: usize = 100;

/// Offsets of one partition, as ranges that neither overlap nor touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OffsetSet {
    /// First offset of a range, and the one behind its last.
    ranges: BTreeMap<u64, u64>,
}

impl OffsetSet {
    /// Adds the offsets from `first` up to, and without, `next`.
    pub fn insert(&mut self, mut first: u64, mut next: u64) {
        if first >= next {
            return;
        }
        if let Some((start, end)) = self.ranges.range(..=first).next_back().map(|(start, end)| (*start, *end))
            && end >= first
        {
            first = start;
            next = next.max(end);
        }
        while let Some((start, end)) =
            self.ranges.range(first..=next).next().map(|(start, end)| (*start, *end))
        {
            self.ranges.remove(&start);
            next = next.max(end);
        }
        self.ranges.insert(first, next);
    }

    /// Whether the offset is in it.
    #[inline]
    pub fn contains(&self, offset: u64) -> bool {
        !self.ranges.is_empty()
            && self.ranges.range(..=offset).next_back().is_some_and(|(_, next)| offset < *next)
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// How many offsets are in it.
    pub fn len(&self) -> u64 {
        self.ranges.iter().map(|(first, next)| next - first).sum()
    }

    /// Its ranges: the first offset of each, and the one behind its last.
    pub fn ranges(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.ranges.iter().map(|(first, next)| (*first, *next))
    }

    /// Drops everything below `offset`.
    pub fn forget_below(&mut self, offset: u64) {
        if self.ranges.is_empty() {
            return;
        }
        let mut kept = self.ranges.split_off(&offset);
        if let Some((_, next)) = self.ranges.pop_last()
            && next > offset
        {
            kept.insert(offset, next);
        }
        self.ranges = kept;
    }
}

/// Offsets of one partition that are asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The Kafka partition.
    pub partition: u16,
    /// The first offset.
    pub first: u64,
    /// The offset behind the last; `u64::MAX` for all that there are.
    pub next: u64,
}

/// Asks which offsets of the spans are rows of `readings`.
///
/// Says nothing about inserts that are still under way: they must be over before.
///
/// # Errors
/// [`CallError`]; one with class `Unknown` if the answer is not understood.
pub async fn ask(
    client: &Client,
    database: &str,
    spans: &[Span],
) -> Result<BTreeMap<u16, OffsetSet>, CallError> {
    ask_table(client, database, "readings", spans).await
}

/// The same of another table that has the projection `by_offset`.
///
/// # Errors
/// As with [`ask`].
pub async fn ask_table(
    client: &Client,
    database: &str,
    table: &str,
    spans: &[Span],
) -> Result<BTreeMap<u16, OffsetSet>, CallError> {
    let mut found = BTreeMap::new();
    if spans.is_empty() {
        return Ok(found);
    }
    let mut holed = Vec::new();
    let answer = client.query(&chunks_sql(database, table, spans)).await?;
    for line in answer.lines() {
        let chunk = parse_chunk(line).ok_or_else(|| unreadable(line))?;
        if chunk.stored == chunk.last - chunk.first + 1 {
            let base = chunk.number * CHUNK;
            let set: &mut OffsetSet = found.entry(chunk.partition).or_default();
            set.insert(base + chunk.first, base + chunk.last + 1);
        } else {
            holed.push((chunk.partition, chunk.number));
        }
    }
    for chunks in holed.chunks(HOLED_CHUNKS_MAX) {
        let answer = client.query(&holes_sql(database, table, chunks)).await?;
        for line in answer.lines() {
            let (partition, offsets) = parse_offsets(line).ok_or_else(|| unreadable(line))?;
            let set: &mut OffsetSet = found.entry(partition).or_default();
            offsets.into_iter().for_each(|offset| set.insert(offset, offset + 1));
        }
    }
    Ok(found.into_iter().filter_map(|(partition, set)| clip(partition, &set, spans)).collect())
}

/// What of `set` the spans ask about.
fn clip(partition: u16, set: &OffsetSet, spans: &[Span]) -> Option<(u16, OffsetSet)> {
    let mut clipped = OffsetSet::default();
    for span in spans.iter().filter(|span| span.partition == partition) {
        for (first, next) in set.ranges() {
            clipped.insert(first.max(span.first), next.min(span.next));
        }
    }
    (!clipped.is_empty()).then_some((partition, clipped))
}

/// One chunk of one partition, as the projection has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Chunk {
    partition: u16,
    number: u64,
    stored: u64,
    first: u64,
    last: u64,
}

/// The expressions are those of the projection, or it would not be used.
fn chunks_sql(database: &str, table: &str, spans: &[Span]) -> String {
    let mut wanted = String::new();
    for (index, span) in spans.iter().enumerate() {
        let or = if index == 0 { "" } else { " OR " };
        // Writing to a String cannot fail.
        let _ =
            write!(wanted, "{or}(kafka_partition = {} AND chunk >= {}", span.partition, span.first / CHUNK);
        if span.next != u64::MAX {
            let _ = write!(wanted, " AND chunk <= {}", span.next.saturating_sub(1) / CHUNK);
        }
        wanted.push(')');
    }
    format!(
        "SELECT kafka_partition, chunk, bitmapCardinality(stored), bitmapMin(stored), bitmapMax(stored) \
         FROM (SELECT kafka_partition, intDiv(kafka_offset, {CHUNK}) AS chunk, \
         groupBitmapState(toUInt16(kafka_offset % {CHUNK})) AS stored \
         FROM {database}.{table} WHERE {wanted} GROUP BY kafka_partition, chunk) FORMAT TSV"
    )
}

fn holes_sql(database: &str, table: &str, chunks: &[(u16, u64)]) -> String {
    let mut wanted = String::new();
    for (index, (partition, chunk)) in chunks.iter().enumerate() {
        let or = if index == 0 { "" } else { " OR " };
        let _ = write!(wanted, "{or}(kafka_partition = {partition} AND chunk = {chunk})");
    }
    format!(
        "SELECT kafka_partition, chunk, arrayStringConcat(bitmapToArray(stored), ',') \
         FROM (SELECT kafka_partition, intDiv(kafka_offset, {CHUNK}) AS chunk, \
         groupBitmapState(toUInt16(kafka_offset % {CHUNK})) AS stored \
         FROM {database}.{table} WHERE {wanted} GROUP BY kafka_partition, chunk) FORMAT TSV"
    )
}

fn parse_chunk(line: &str) -> Option<Chunk> {
    let mut fields = line.split('\t');
    let partition = fields.next()?.parse().ok()?;
    let mut number = || fields.next()?.parse::<u64>().ok();
    let chunk = Chunk { partition, number: number()?, stored: number()?, first: number()?, last: number()? };
    let sound = chunk.first <= chunk.last && chunk.last < CHUNK && chunk.number < u64::MAX / CHUNK;
    sound.then_some(chunk)
}

fn parse_offsets(line: &str) -> Option<(u16, Vec<u64>)> {
    let mut fields = line.split('\t');
    let partition = fields.next()?.parse().ok()?;
    let base = fields.next()?.parse::<u64>().ok()?.checked_mul(CHUNK)?;
    let offset =
        |text: &str| text.parse::<u64>().ok().filter(|offset| *offset < CHUNK).map(|offset| base + offset);
    let offsets: Option<Vec<u64>> = fields.next()?.split(',').map(offset).collect();
    Some((partition, offsets?))
}

fn unreadable(line: &str) -> CallError {
    let line: String = line.chars().take(200).collect();
    CallError::Broken(format!("asked which offsets are stored, it said {line:?}"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_set_of_ranges_is_a_set_of_offsets(
            inserts in proptest::collection::vec((0u64..200, 0u64..30), 0..30),
            below in 0u64..220,
        ) {
            let (mut set, mut plain) = (OffsetSet::default(), BTreeSet::new());
            for (first, len) in inserts {
                set.insert(first, first + len);
                plain.extend(first..first + len);
                let ranges: Vec<_> = set.ranges().collect();
                prop_assert!(ranges.windows(2).all(|pair| pair[0].1 < pair[1].0), "{:?}", ranges);
            }
            prop_assert_eq!(set.len(), plain.len() as u64);
            for offset in 0..240 {
                prop_assert_eq!(set.contains(offset), plain.contains(&offset));
            }
            set.forget_below(below);
            prop_assert_eq!(set.len(), plain.range(below..).count() as u64);
            prop_assert!(set.ranges().all(|(first, _)| first >= below));
        }
    }

    #[test]
    fn answers_are_read() {
        let chunk = Chunk { partition: 5, number: 508, stored: 2, first: 7, last: 8 };
        assert_eq!(parse_chunk("5\t508\t2\t7\t8"), Some(chunk));
        for line in [
            "",
            "5\t508\t2\t7",
            "x\t508\t2\t7\t8",
            "5\t508\t2\t8\t7",
            "5\t508\t2\t7\t4096",
            "70000\t1\t1\t1\t1",
        ] {
            assert_eq!(parse_chunk(line), None, "{line}");
        }
        assert_eq!(parse_offsets("5\t2\t0,4095"), Some((5, vec![8192, 12_287])));
        for line in ["5\t2\t", "5\t2\t4096", "5\t2", "5\t2\t1,,2"] {
            assert_eq!(parse_offsets(line), None, "{line}");
        }
    }

    #[test]
    fn only_what_was_asked_for_comes_back() {
        let mut set = OffsetSet::default();
        set.insert(0, 100);
        let spans =
            [Span { partition: 1, first: 10, next: 20 }, Span { partition: 2, first: 0, next: u64::MAX }];
        let (_, clipped) = clip(1, &set, &spans).unwrap();
        assert_eq!(clipped.ranges().collect::<Vec<_>>(), [(10, 20)]);
        assert_eq!(clip(2, &set, &spans).unwrap().1, set);
        assert_eq!(clip(3, &set, &spans), None);
    }

    #[test]
    fn the_question_is_that_of_the_projection() {
        let sql = chunks_sql("db", "readings", &[Span { partition: 5, first: 4096, next: 8192 }]);
        assert!(sql.contains("(kafka_partition = 5 AND chunk >= 1 AND chunk <= 1)"), "{sql}");
        let file = include_str!("../../deploy/sql/0005_exactly_once.sql");
        for expression in [
            "intDiv(kafka_offset, 4096) AS chunk",
            "groupBitmapState(toUInt16(kafka_offset % 4096)) AS stored",
        ] {
            assert!(sql.contains(expression) && file.contains(expression), "{expression}");
        }
    }
}
