//! Kafka's records become rows of the shadow, as the writer would make them. What it would refuse is skipped: it is a
//! dead letter already.

use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use penstock_kafka::{Batch, IncomingRecord, ScanFrom};
use penstock_proto::topics::READINGS;
use penstock_storage_writer::admit::{Record, TIMESTAMP_MS_MAX, admit};
use penstock_storage_writer::clickhouse::CallError;
use penstock_storage_writer::insert::Outcome;
use penstock_storage_writer::native::{Block, Row, Rows};
use penstock_storage_writer::stored::{OffsetSet, Span, ask_table};
use tokio::task::JoinHandle;

use super::ReplayError;
use super::ranges::Ranges;
use super::server::Server;
use crate::text::{counted, thousands};
use crate::{Cluster, Moment, Progress};

/// Rows of a block, and the bytes that end one sooner.
const ROWS_MAX: usize = 100_000;
const BYTES_MAX: usize = 32 << 20;
/// Blocks that are being stored while the next is filled.
const INSERTS_MAX: usize = 2;
const RECORDS_AT_ONCE: usize = 10_000;
const ATTEMPTS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(500);
/// More rows that ClickHouse does not take are not taken for bad: then something else is wrong.
const REFUSED_MAX: u64 = 10_000;

/// What became of the records.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rebuilt {
    pub(super) records: u64,
    pub(super) rows: u64,
    pub(super) skipped: u64,
}

/// One partition being read.
#[derive(Clone, Copy, Debug, Default)]
struct Lane {
    from: u64,
    to: u64,
    first: Option<u64>,
    /// Where its next record is expected; `None` before the first.
    next: Option<u64>,
    /// Where the last gap between records began.
    gap: Option<u64>,
    is_passed: bool,
}

/// Rebuilds, and takes from the ranges what Kafka deletes before it is read: that stays as it is.
pub(super) fn rebuild(
    server: &Arc<Server>,
    cluster: &Cluster,
    group: &str,
    ranges: &mut Ranges,
) -> Result<Rebuilt, ReplayError> {
    let mut run = Run {
        server,
        lanes: ranges.0.iter().map(|&(from, to)| Lane { from, to, ..Lane::default() }).collect(),
        rows: Rows::default(),
        inserts: VecDeque::new(),
        done: Rebuilt::default(),
        refused: 0,
        error: None,
        progress: Progress::start(),
        expected: ranges.offsets(),
    };
    run.lanes.iter_mut().for_each(|lane| lane.is_passed = lane.from >= lane.to);
    let starts: Vec<(i32, i64)> = ranges
        .filled()
        .filter_map(|(partition, range)| Some((partition.try_into().ok()?, range.start.try_into().ok()?)))
        .collect();
    let scanned = cluster.scan(READINGS, &ScanFrom::Offsets(starts), RECORDS_AT_ONCE, |batch| {
        Ok(match run.batch(batch) {
            Ok(true) => ControlFlow::Break(()),
            Ok(false) => ControlFlow::Continue(()),
            Err(error) => {
                run.error = Some(error);
                ControlFlow::Break(())
            }
        })
    });
    let ended = match run.error.take() {
        Some(error) => Err(error),
        None => scanned.map_err(ReplayError::from).and_then(|_| run.finish()),
    };
    run.inserts.iter().for_each(JoinHandle::abort);
    ended?;
    for (partition, low) in super::ranges::lows(cluster, group)?.into_iter().enumerate() {
        let Some(range) = ranges.0.get_mut(partition) else { continue };
        range.0 = run.lanes[partition].read_from(partition, low)?.min(range.1);
    }
    let mut done = run.done;
    done.skipped += run.refused;
    done.rows -= run.refused;
    Ok(done)
}

impl Lane {
    fn record(&mut self, offset: u64) {
        if self.next.is_some_and(|next| next < offset) {
            self.gap = self.next;
        }
        self.first.get_or_insert(offset);
        self.next = Some(offset + 1);
        self.is_passed |= offset + 1 >= self.to;
    }

    /// From which offset on the partition was read without anything missing. Offsets without a record are markers of
    /// transactions, unless Kafka's oldest record, `low`, has moved past them meanwhile: then they may have been records.
    fn read_from(&self, partition: usize, low: u64) -> Result<u64, ReplayError> {
        if low <= self.from {
            return Ok(self.from);
        }
        if self.gap.is_some_and(|gap| gap < low) {
            return Err(ReplayError::Overtaken { partition, low });
        }
        Ok(self.first.unwrap_or(low))
    }
}

struct Run<'a> {
    server: &'a Arc<Server>,
    lanes: Vec<Lane>,
    rows: Rows,
    inserts: VecDeque<JoinHandle<Result<u64, ReplayError>>>,
    done: Rebuilt,
    /// Rows that ClickHouse does not take.
    refused: u64,
    error: Option<ReplayError>,
    progress: Progress,
    expected: u64,
}

impl Run<'_> {
    /// Whether nothing more is to be read.
    fn batch(&mut self, batch: &Batch<'_>) -> Result<bool, ReplayError> {
        self.server.go_on()?;
        for record in batch {
            self.record(&record)?;
        }
        let (records, expected) = (self.done.records, self.expected);
        self.progress.tick(|seconds| describe(records, expected, seconds));
        Ok(self.lanes.iter().all(|lane| lane.is_passed))
    }

    fn record(&mut self, record: &IncomingRecord<'_>) -> Result<(), ReplayError> {
        let (Ok(partition), Ok(offset)) = (u16::try_from(record.partition), u64::try_from(record.offset))
        else {
            return Ok(());
        };
        let Some(lane) = self.lanes.get_mut(usize::from(partition)) else { return Ok(()) };
        lane.record(offset);
        if offset < lane.from || offset >= lane.to {
            return Ok(());
        }
        self.done.records += 1;
        let payload = if record.is_tombstone { None } else { Some(record.payload) };
        let Ok((device, reading)) = admit(&Record { key: record.key, payload }) else {
            self.done.skipped += 1;
            return Ok(());
        };
        self.rows.push(&Row {
            device,
            reading: &reading,
            received_at_ms: received_at_ms(record.timestamp_ms),
            kafka_partition: partition,
            kafka_offset: offset,
        });
        self.done.rows += 1;
        if self.rows.len() >= ROWS_MAX || self.rows.bytes() >= BYTES_MAX {
            self.send()?;
        }
        Ok(())
    }

    /// Begins to store the block; waits while others are under way.
    fn send(&mut self) -> Result<(), ReplayError> {
        while self.inserts.len() >= INSERTS_MAX {
            self.wait()?;
        }
        let mut body = Vec::with_capacity(self.rows.bytes() + 1_024);
        self.rows.encode(&mut body);
        self.rows.clear();
        let server = Arc::clone(self.server);
        self.inserts.push_back(self.server.runtime.spawn(store(server, body.into())));
        Ok(())
    }

    fn wait(&mut self) -> Result<(), ReplayError> {
        let Some(insert) = self.inserts.pop_front() else { return Ok(()) };
        let ended =
            self.server.runtime.block_on(insert).map_err(|error| ReplayError::Task(error.to_string()))?;
        self.refused += ended?;
        Ok(())
    }

    fn finish(&mut self) -> Result<(), ReplayError> {
        if !self.rows.is_empty() {
            self.send()?;
        }
        while !self.inserts.is_empty() {
            self.server.go_on()?;
            self.wait()?;
        }
        Ok(())
    }
}

/// As the writer does it.
fn received_at_ms(timestamp_ms: i64) -> i64 {
    if (0..=TIMESTAMP_MS_MAX).contains(&timestamp_ms) { timestamp_ms } else { Moment::now().ms }
}

/// Stores a block, each row once. Returns how many of its rows ClickHouse does not take.
async fn store(server: Arc<Server>, body: Bytes) -> Result<u64, ReplayError> {
    let table = Server::shadow(&server.id);
    let Some(block) = Block::parse(body) else {
        return Err(ReplayError::Task("a block cannot be read again".to_owned()));
    };
    let (mut todo, mut refused, mut attempts) = (vec![block], 0, 0);
    while let Some(block) = todo.pop() {
        server.go_on()?;
        if block.rows() == 0 {
            continue;
        }
        let id = server.statement_id();
        let cause = match server.inserter.insert_into(&table, block.body(), &id).await {
            Outcome::Stored => continue,
            Outcome::Rows(_) if block.rows() > 1 => {
                let rest = unstored(&server, &table, &block).await?;
                let (front, back) = rest.split_at(rest.rows() / 2);
                todo.extend([back, front]);
                continue;
            }
            Outcome::Rows(cause) => {
                refused += 1;
                if refused > REFUSED_MAX {
                    return Err(ReplayError::TooManyRefused { max: REFUSED_MAX, cause });
                }
                continue;
            }
            Outcome::NotSent(cause)
            | Outcome::Fenced(cause)
            | Outcome::Transient(cause)
            | Outcome::Refused(cause)
            | Outcome::Unknown(cause) => cause,
        };
        attempts += 1;
        if attempts == ATTEMPTS {
            return Err(ReplayError::Insert { table, attempts, cause });
        }
        tokio::time::sleep(PAUSE).await;
        let is_sent = !matches!(cause, CallError::NotSent(_));
        todo.push(if is_sent {
            server.ended(&id).await;
            unstored(&server, &table, &block).await?
        } else {
            block
        });
    }
    Ok(refused)
}

/// The rows of a block that are not stored.
async fn unstored(server: &Server, table: &str, block: &Block) -> Result<Block, ReplayError> {
    let mut spans: BTreeMap<u16, Span> = BTreeMap::new();
    for row in 0..block.rows() {
        let (partition, offset) = (block.partition(row), block.offset(row));
        let span = spans.entry(partition).or_insert(Span { partition, first: offset, next: offset + 1 });
        span.first = span.first.min(offset);
        span.next = span.next.max(offset + 1);
    }
    let spans: Vec<Span> = spans.into_values().collect();
    let mut attempt = 1;
    let found: BTreeMap<u16, OffsetSet> = loop {
        match ask_table(&server.client, &server.database, table, &spans).await {
            Ok(found) => break found,
            Err(cause) if attempt == ATTEMPTS => {
                return Err(ReplayError::Insert { table: table.to_owned(), attempts: attempt, cause });
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
        attempt += 1;
    };
    let is_stored =
        |partition: u16, offset: u64| found.get(&partition).is_some_and(|set| set.contains(offset));
    Ok(block.filter(|partition, offset| !is_stored(partition, offset)))
}

#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "figures for people"
)]
fn describe(records: u64, expected: u64, seconds: f64) -> String {
    let rate = records as f64 / seconds.max(0.001);
    let left = expected.saturating_sub(records) as f64 / rate.max(0.001);
    let share = if expected == 0 { 100.0 } else { 100.0 * records as f64 / expected as f64 };
    format!(
        "{} of {} read ({share:.0} %), {}/s, {left:.0} s left",
        thousands(records),
        counted(expected, "record"),
        thousands(rate as u64)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(from: u64, to: u64, offsets: &[u64]) -> Lane {
        let mut lane = Lane { from, to, ..Lane::default() };
        offsets.iter().for_each(|offset| lane.record(*offset));
        lane
    }

    #[test]
    fn what_kafka_deletes_before_it_is_read_is_left_alone() {
        assert_eq!(read(5, 9, &[5, 6, 7, 8]).read_from(0, 0).unwrap(), 5);
        assert_eq!(read(5, 9, &[5, 6, 7, 8]).read_from(0, 7).unwrap(), 5, "deleted after it was read");
        assert_eq!(read(5, 9, &[7, 8]).read_from(0, 0).unwrap(), 5, "markers of transactions");
        assert_eq!(read(5, 9, &[7, 8]).read_from(0, 7).unwrap(), 7);
        assert_eq!(read(5, 9, &[]).read_from(0, 9).unwrap(), 9);
        assert_eq!(read(5, 9, &[5, 8]).read_from(0, 5).unwrap(), 5);
        assert!(matches!(read(5, 9, &[5, 8]).read_from(0, 8), Err(ReplayError::Overtaken { low: 8, .. })));
    }

    #[test]
    fn a_partition_is_passed_with_its_last_offset_or_past_it() {
        assert!(!read(5, 9, &[5, 7]).is_passed);
        assert!(read(5, 9, &[5, 8]).is_passed);
        assert!(read(5, 9, &[5, 12]).is_passed);
    }
}
