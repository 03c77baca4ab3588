//! Rows outside of the ranges go from one table to the other: whole months where nothing of them is rebuilt, else row by
//! row; and then again and again what came meanwhile, by its offsets.
//!
//! Which offsets a table has is known from the projection `by_offset`: bitmaps of 4,096 offsets, as true as the parts
//! they are in. What is in one table and not in the other is copied, so nothing is copied twice, and when nothing is
//! left nothing is missing. Only a merge can take an offset away: that of a reading that was sent twice, of which the
//! row that was received last stays.

use std::collections::BTreeMap;

use super::ReplayError;
use super::ranges::Ranges;
use super::server::{READINGS, Server};
use crate::Progress;
use crate::text::{counted, thousands};

/// Offsets in a bitmap of the projection.
const CHUNK: u64 = 4_096;
/// Lines of an answer: 40 bytes each at most, of the 4 MiB that it may have.
const CHUNKS_MAX: usize = 50_000;
/// Rows that are copied by their offsets in one statement, which holds the set of them in memory.
const ROWS_MAX: u64 = 1_000_000;
/// So few rows that came meanwhile can be copied while writers are held up.
const FEW: u64 = 100_000;
/// Rounds of copying what came meanwhile.
const ROUNDS_MAX: u32 = 10;

/// One month of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Month {
    /// Id of the table's partition: year and month.
    pub(super) id: String,
    /// Rows in it.
    pub(super) rows: u64,
    /// Rows of the ranges in it.
    pub(super) inside: u64,
}

/// The months of `readings`.
pub(super) fn months(server: &Server, ranges: &Ranges) -> Result<Vec<Month>, ReplayError> {
    let database = &server.database;
    let all = server.lines::<2>(
        "count the rows of months",
        &format!(
            "SELECT toUInt64(partition_id), sum(rows) FROM system.parts WHERE database = '{database}' \
             AND table = '{READINGS}' AND active GROUP BY 1 ORDER BY 1 FORMAT TSV"
        ),
    )?;
    let inside: BTreeMap<u64, u64> = server
        .lines::<2>(
            "count the rows of the ranges",
            &format!(
                "SELECT toUInt64(_partition_id), count() FROM {database}.{READINGS} WHERE {} GROUP BY 1 FORMAT TSV",
                ranges.inside()
            ),
        )?
        .into_iter()
        .map(|[id, rows]| (id, rows))
        .collect();
    let month = |[id, rows]: [u64; 2]| Month {
        id: id.to_string(),
        rows,
        inside: inside.get(&id).copied().unwrap_or(0),
    };
    Ok(all.into_iter().map(month).collect())
}

/// Copies the rows outside of the ranges, as far as they are there now.
pub(super) fn months_of(server: &Server, ranges: &Ranges) -> Result<(), ReplayError> {
    let (database, shadow) = (&server.database, Server::shadow(&server.id));
    let months = months(server, ranges)?;
    let mut progress = Progress::start();
    for (done, month) in months.iter().enumerate() {
        progress.tick(|_| {
            format!(
                "{done} of {}: {} of {}",
                counted(months.len() as u64, "month"),
                month.id,
                thousands(month.rows)
            )
        });
        if month.inside == 0 {
            server.run(
                "take over a month",
                &format!(
                    "ALTER TABLE {database}.{shadow} ATTACH PARTITION ID '{}' FROM {database}.{READINGS}",
                    month.id
                ),
            )?;
        } else if month.inside < month.rows {
            server.run(
                "copy a month",
                &format!(
                    "INSERT INTO {database}.{shadow} SELECT * FROM {database}.{READINGS} \
                     WHERE _partition_id = '{}' AND {}",
                    month.id,
                    ranges.outside()
                ),
            )?;
        }
    }
    // Rows of the ranges that came to a month after it was counted would be in the shadow now.
    let was_whole = |id: &str| months.iter().any(|month| month.id == id && month.inside == 0);
    if let Some(month) =
        self::months(server, ranges)?.iter().find(|month| month.inside > 0 && was_whole(&month.id))
    {
        return Err(ReplayError::Moved(format!(
            "somebody has stored rows of the rebuilt ranges in month {} meanwhile",
            month.id
        )));
    }
    Ok(())
}

/// Offsets of a bitmap that are missing.
type Chunk = [u64; 3];

/// The expressions are those of the projection, or it would not be used.
fn bitmaps(database: &str, table: &str, wanted: &str) -> String {
    format!(
        "(SELECT kafka_partition, intDiv(kafka_offset, {CHUNK}) AS chunk, \
         groupBitmapState(toUInt16(kafka_offset % {CHUNK})) AS stored \
         FROM {database}.{table}{wanted} GROUP BY kafka_partition, chunk)"
    )
}

/// What is in `from` and not in `to`: partition `p`, bitmap `c`, its missing `offsets` outside of the ranges.
fn difference(database: &str, from: &str, to: &str, ranges: &Ranges, chunks: &[Chunk]) -> String {
    let wanted = wanted(chunks);
    format!(
        "SELECT a.kafka_partition AS p, a.chunk AS c, \
         arrayFilter(o -> NOT {}, arrayMap(x -> c * {CHUNK} + x, bitmapToArray(bitmapAndnot(a.stored, b.stored)))) \
         AS offsets FROM {} a LEFT JOIN {} b \
         ON a.kafka_partition = b.kafka_partition AND a.chunk = b.chunk WHERE notEmpty(offsets)",
        ranges.covers("p", "o"),
        bitmaps(database, from, &wanted),
        bitmaps(database, to, &wanted),
    )
}

/// Chunks of one partition follow each other in `chunks`.
fn wanted(chunks: &[Chunk]) -> String {
    let mut spans: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    for [partition, chunk, _] in chunks {
        let span = spans.entry(*partition).or_insert((*chunk, *chunk));
        *span = (span.0.min(*chunk), span.1.max(*chunk));
    }
    let spans: Vec<String> = spans
        .into_iter()
        .map(|(partition, (first, last))| {
            format!("(kafka_partition = {partition} AND chunk >= {first} AND chunk <= {last})")
        })
        .collect();
    if spans.is_empty() { String::new() } else { format!(" WHERE {}", spans.join(" OR ")) }
}

/// What is missing in `to`, at most so many bitmaps of it.
fn missing(server: &Server, from: &str, to: &str, ranges: &Ranges) -> Result<Vec<Chunk>, ReplayError> {
    server.lines(
        "compare the offsets of two tables",
        &format!(
            "SELECT p, c, length(offsets) FROM ({}) ORDER BY p, c LIMIT {CHUNKS_MAX} FORMAT TSV",
            difference(&server.database, from, to, ranges, &[])
        ),
    )
}

/// The condition for rows that are missing: bounds for the index, then the very offsets.
fn is_missing(database: &str, from: &str, to: &str, ranges: &Ranges, chunks: &[Chunk]) -> String {
    let first = chunks.iter().map(|[_, chunk, _]| chunk * CHUNK).min().unwrap_or(0);
    let next = chunks.iter().map(|[_, chunk, _]| (chunk + 1) * CHUNK).max().unwrap_or(0);
    format!(
        "kafka_offset >= {first} AND kafka_offset < {next} AND (kafka_partition, kafka_offset) IN \
         (SELECT p, arrayJoin(offsets) FROM ({}))",
        difference(database, from, to, ranges, chunks)
    )
}

/// Parts of about [`ROWS_MAX`] missing rows.
fn batches(chunks: &[Chunk]) -> Vec<&[Chunk]> {
    let (mut batches, mut start, mut rows) = (Vec::new(), 0, 0);
    for (index, [.., missing]) in chunks.iter().enumerate() {
        if rows > 0 && rows + missing > ROWS_MAX {
            batches.push(&chunks[start..index]);
            (start, rows) = (index, 0);
        }
        rows += missing;
    }
    if start < chunks.len() {
        batches.push(&chunks[start..]);
    }
    batches
}

/// Copies what is missing in `to`, and says how much that was.
pub(super) fn round(server: &Server, from: &str, to: &str, ranges: &Ranges) -> Result<u64, ReplayError> {
    let chunks = missing(server, from, to, ranges)?;
    for batch in batches(&chunks) {
        server.run(
            "copy rows that came meanwhile",
            &format!(
                "INSERT INTO {database}.{to} SELECT * FROM {database}.{from} WHERE {}",
                is_missing(&server.database, from, to, ranges, batch),
                database = server.database
            ),
        )?;
    }
    Ok(chunks.iter().map(|[.., missing]| missing).sum())
}

/// Copies what came meanwhile until it is little.
pub(super) fn catch_up(server: &Server, ranges: &Ranges) -> Result<(), ReplayError> {
    let shadow = Server::shadow(&server.id);
    for _ in 0..ROUNDS_MAX {
        if round(server, READINGS, &shadow, ranges)? <= FEW {
            break;
        }
    }
    Ok(())
}

/// How many readings of missing offsets are missing, by the key of the reading: an offset that a merge took away is
/// that of a reading that was sent twice.
pub(super) fn lost(server: &Server, from: &str, to: &str, ranges: &Ranges) -> Result<u64, ReplayError> {
    const KEY: &str = "device_id, timestamp, sequence";
    let chunks = missing(server, from, to, ranges)?;
    let mut lost = 0;
    for batch in batches(&chunks) {
        let rows = format!(
            "SELECT {KEY} FROM {}.{from} WHERE {}",
            server.database,
            is_missing(&server.database, from, to, ranges, batch)
        );
        let [count] = server.numbers(
            "compare the readings of two tables",
            &format!(
                "SELECT count() FROM ({rows}) WHERE ({KEY}) NOT IN \
                 (SELECT {KEY} FROM {}.{to} WHERE ({KEY}) IN ({rows})) FORMAT TSV",
                server.database
            ),
        )?;
        lost += count;
    }
    Ok(lost)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_rows_are_copied_in_parts() {
        assert_eq!(batches(&[]), Vec::<&[Chunk]>::new());
        let chunks: Vec<Chunk> = (0..1_000).map(|chunk| [chunk / 500, chunk % 500, CHUNK]).collect();
        let parts = batches(&chunks);
        assert_eq!(parts.iter().map(|part| part.len()).sum::<usize>(), 1_000);
        assert!(parts.iter().all(|part| part.len() as u64 * CHUNK <= ROWS_MAX), "{}", parts.len());
        assert_eq!(
            wanted(parts[2]),
            " WHERE (kafka_partition = 0 AND chunk >= 488 AND chunk <= 499) OR \
             (kafka_partition = 1 AND chunk >= 0 AND chunk <= 231)"
        );
    }

    #[test]
    fn offsets_are_compared_by_the_projection() {
        let sql = difference("db", "a", "b", &Ranges(vec![(1, 2)]), &[]);
        let file = include_str!("../../../deploy/sql/0005_exactly_once.sql");
        for expression in [
            "intDiv(kafka_offset, 4096) AS chunk",
            "groupBitmapState(toUInt16(kafka_offset % 4096)) AS stored",
        ] {
            assert!(sql.contains(expression) && file.contains(expression), "{expression}");
        }
    }
}
