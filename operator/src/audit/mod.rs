//! `penstock audit`: proves for a range of offsets that each record of the readings topic is exactly one row or one
//! dead letter.
//!
//! Reads Kafka once and holds no record. Memory: three bitmaps of 32 KiB a partition, the client's 32 MiB, about
//! 2 bytes a dead letter, 1,000 records that wait to be explained, and the breaches that are kept.

mod letters;
mod ranges;
mod report;
mod rows;
mod suspects;
mod window;

use std::collections::BTreeSet;
use std::ops::{ControlFlow, Range};

use jiff::{Timestamp, ToSpan as _, tz::TimeZone};
use penstock_kafka::{IncomingRecord, ScanFrom};
use penstock_proto::topics::READINGS;
use penstock_service::Config;
use roaring::RoaringTreemap;
use tokio::runtime::Handle;

pub use report::{Breach, Explained, Kind, PartitionRange, Report};

use crate::cluster::Inquiry;
use crate::text::{counted, thousands};
use crate::{Cluster, Moment, OperatorError, Progress};
use rows::{KEYS_MAX, OFFSETS_MAX, Rows};
use suspects::Suspect;
use window::{Standing, Window};

const RECORDS_AT_ONCE: usize = 10_000;
/// The table's TTL, in years.
const KEPT_YEARS: i64 = 5;

/// What to audit.
#[derive(Clone, Copy, Debug)]
pub struct Audit {
    /// From the first record that is not older; from the oldest there is where it is `None`.
    pub from: Option<Moment>,
    /// To the first record that is not older, it excluded; to what the writer has committed where it is `None`, and
    /// never further.
    pub to: Option<Moment>,
    /// Keep so many breaches; all are counted.
    pub breaches_max: usize,
}

impl Audit {
    /// Audits. Call it on a thread that may block; `runtime` runs what is asynchronous.
    ///
    /// # Errors
    /// [`OperatorError`] if Kafka or ClickHouse cannot be asked, or the writer has never committed anything.
    pub fn run(&self, config: &Config, runtime: &Handle) -> Result<Report, OperatorError> {
        let cluster = Cluster::new(config);
        let mut progress = Progress::start();
        let group = &config.writer.group;
        let (inquiry, ranges) = ranges::ask(&cluster, group, self.from, self.to)?;
        let window = (self.from.map(|from| from.ms), self.to.map(|to| to.ms));
        let topic = cluster.topic(READINGS);
        let mut report = Report::new(topic, group.clone(), window, ranges, self.breaches_max);
        let letters = letters::read(&cluster, &mut report, &mut progress)?;
        let starts: Vec<_> = report.ranges.iter().filter_map(start).collect();
        let lanes = report.ranges.iter().zip(letters).map(|(range, letters)| Lane::new(range, letters));
        let mut run = Run {
            lanes: lanes.collect(),
            rows: Rows::new(&config.clickhouse, runtime)?,
            inquiry,
            suspects: Vec::with_capacity(KEYS_MAX),
            kept_from_ms: kept_from_ms(),
            report,
        };
        let (mut seen, expected) = (0u64, run.expected());
        cluster.scan(READINGS, &ScanFrom::Offsets(starts), RECORDS_AT_ONCE, |batch| {
            for record in batch {
                run.record(&record)?;
            }
            seen += batch.len() as u64;
            progress.tick(|seconds| describe(seen, expected, seconds));
            let is_done = run.lanes.iter().all(|lane| lane.is_passed);
            Ok(if is_done { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        run.finish()?;
        run.report.seconds = progress.elapsed().as_secs_f64();
        Ok(run.report)
    }
}

fn start(range: &PartitionRange) -> Option<(i32, i64)> {
    let offset = i64::try_from(range.from).ok()?;
    (range.from < range.to).then_some((range.partition.cast_signed(), offset))
}

fn describe(seen: u64, expected: u64, seconds: f64) -> String {
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rate"
    )]
    let rate = (seen as f64 / seconds.max(0.001)) as u64;
    format!("{} of about {}, {}/s", counted(seen, "record"), thousands(expected), thousands(rate))
}

/// Rows with an earlier timestamp are deleted by the table's TTL: milliseconds since the Unix epoch.
fn kept_from_ms() -> i64 {
    let now = Timestamp::now().to_zoned(TimeZone::UTC);
    now.checked_sub(KEPT_YEARS.years()).map_or(i64::MIN, |time| time.timestamp().as_millisecond())
}

/// One partition on its way through its range.
struct Lane {
    partition: u32,
    range: Range<u64>,
    letters: RoaringTreemap,
    /// Where the records come from now.
    current: Option<Window>,
    /// The window after that, with its rows.
    next: Option<Window>,
    /// What has no window yet.
    rest: Range<u64>,
    /// No more records are needed.
    is_passed: bool,
}

impl Lane {
    fn new(range: &PartitionRange, letters: RoaringTreemap) -> Self {
        let offsets = range.offsets();
        Self {
            partition: range.partition,
            letters,
            current: None,
            next: None,
            rest: offsets.clone(),
            is_passed: offsets.is_empty(),
            range: offsets,
        }
    }

    fn wants_window(&self) -> bool {
        self.next.is_none() && !self.rest.is_empty()
    }
}

struct Run {
    /// By partition.
    lanes: Vec<Lane>,
    rows: Rows,
    inquiry: Inquiry,
    suspects: Vec<Suspect>,
    kept_from_ms: i64,
    report: Report,
}

impl Run {
    fn expected(&self) -> u64 {
        self.lanes.iter().map(|lane| lane.range.end - lane.range.start).sum()
    }

    fn record(&mut self, record: &IncomingRecord<'_>) -> Result<(), OperatorError> {
        let (Ok(index), Ok(offset)) = (usize::try_from(record.partition), u64::try_from(record.offset))
        else {
            return Ok(());
        };
        let Some(lane) = self.lanes.get(index) else { return Ok(()) };
        if offset >= lane.range.end {
            self.lanes[index].is_passed = true;
            return Ok(());
        }
        if offset < lane.range.start {
            return Ok(());
        }
        while self.lanes[index].current.as_ref().is_none_or(|window| offset >= window.range().end) {
            self.advance(index)?;
        }
        let lane = &mut self.lanes[index];
        let partition = lane.partition;
        let standing = lane.current.as_mut().map(|window| window.record(offset, &lane.letters));
        match standing {
            Some(Standing::Kept) | None => {}
            Some(Standing::RowAndLetter) => {
                let breach = Breach::new(Kind::RowAndLetter, partition, offset, "");
                let device = record.key.and_then(|key| penstock_proto::DeviceId::try_from(key).ok());
                self.report.breach(match device {
                    Some(device) => breach.of_device(&device),
                    None => breach,
                });
            }
            Some(Standing::Neither) => {
                self.suspects.push(Suspect::of(partition, offset, record));
                if self.suspects.len() >= KEYS_MAX {
                    self.explain()?;
                }
            }
        }
        Ok(())
    }

    /// Goes on to the next window of a partition.
    fn advance(&mut self, index: usize) -> Result<(), OperatorError> {
        if let Some(window) = self.lanes[index].current.take() {
            self.close(index, &window)?;
        }
        if self.lanes[index].wants_window() {
            self.load(index)?;
        }
        let lane = &mut self.lanes[index];
        lane.current = lane.next.take();
        Ok(())
    }

    /// Asks for the rows of the next window of a partition, and in the same question for those of others that will
    /// need one soon.
    fn load(&mut self, index: usize) -> Result<(), OperatorError> {
        let (mut asked, mut offsets) = (Vec::new(), 0);
        let others = (0..self.lanes.len()).filter(|other| *other != index);
        for lane in std::iter::once(index).chain(others) {
            let lane = &mut self.lanes[lane];
            if !lane.wants_window() {
                continue;
            }
            let range = Window::first_of(&lane.rest);
            offsets += range.end - range.start;
            if offsets > OFFSETS_MAX {
                break;
            }
            lane.rest.start = range.end;
            lane.next = Some(Window::new(range.clone(), &lane.letters));
            asked.push((lane.partition, range));
        }
        let lanes = &mut self.lanes;
        let doubled = self.rows.words(&asked, |word| {
            let lane = lanes.get_mut(word.partition as usize);
            if let Some(window) = lane.and_then(|lane| lane.next.as_mut()) {
                window.rows_at(word.number, word.bits);
            }
        })?;
        doubled.iter().try_for_each(|(partition, chunks)| self.doubled_rows(*partition, chunks))
    }

    /// Looks at chunks that have more rows than offsets.
    fn doubled_rows(&mut self, partition: u32, chunks: &[u64]) -> Result<(), OperatorError> {
        let Some(window) = self.lanes.get_mut(partition as usize).and_then(|lane| lane.next.as_mut()) else {
            return Ok(());
        };
        let report = &mut self.report;
        self.rows.doubled(partition, chunks, |row| {
            if window.range().contains(&row.offset) {
                window.more_rows(row.count.saturating_sub(1));
                let detail = format!("{} rows", row.count);
                let breach = Breach::new(Kind::DoubledRow, partition, row.offset, detail);
                report.breach(breach.of_device(&row.device));
            }
        })
    }

    /// A window whose records have all come.
    fn close(&mut self, index: usize, window: &Window) -> Result<(), OperatorError> {
        let tally = window.tally();
        self.report.offsets += tally.offsets;
        self.report.records += tally.records;
        self.report.rows += tally.rows;
        self.report.explained.without_record += tally.offsets - tally.records;
        let without: Vec<u64> = window.rows_without_record().collect();
        if without.is_empty() { Ok(()) } else { self.rows_without_record(index, without) }
    }

    fn rows_without_record(&mut self, index: usize, mut offsets: Vec<u64>) -> Result<(), OperatorError> {
        const KIND: Kind = Kind::RowWithoutRecord;
        let partition = self.lanes[index].partition;
        // Records may have been deleted by age since the range was fixed.
        let (low, _) = self.inquiry.watermarks(partition.cast_signed())?;
        let found = offsets.len();
        offsets.retain(|offset| *offset >= low.unsigned_abs());
        self.report.explained.deleted_meanwhile += (found - offsets.len()) as u64;
        let listed = &offsets[..offsets.len().min(self.report.room())];
        self.report.more(KIND, (offsets.len() - listed.len()) as u64);
        for offsets in listed.chunks(KEYS_MAX) {
            let mut devices = std::collections::BTreeMap::new();
            self.rows.at(partition, offsets, |row| {
                devices.insert(row.offset, row.device);
            })?;
            for offset in offsets {
                let breach = Breach::new(KIND, partition, *offset, "");
                self.report.breach(match devices.remove(offset) {
                    Some(device) => breach.of_device(&device),
                    None => breach,
                });
            }
        }
        Ok(())
    }

    fn explain(&mut self) -> Result<(), OperatorError> {
        let keys: Vec<_> = self.suspects.iter().filter_map(Suspect::key).collect();
        let mut stored = BTreeSet::new();
        self.rows.stored(&keys, |key| {
            stored.insert(key);
        })?;
        for suspect in self.suspects.drain(..) {
            suspect.judge(&stored, self.kept_from_ms, &mut self.report);
        }
        Ok(())
    }

    /// No more records come.
    fn finish(&mut self) -> Result<(), OperatorError> {
        for index in 0..self.lanes.len() {
            while self.lanes[index].current.is_some()
                || self.lanes[index].next.is_some()
                || !self.lanes[index].rest.is_empty()
            {
                self.advance(index)?;
            }
        }
        self.explain()
    }
}
