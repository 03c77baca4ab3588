//! Keeps the rollups by minute and by hour: one distinct reading counts once in them, however often it was sent or
//! inserted, however late it came.
//!
//! A refresh never adds to a window, it computes whole windows anew from `readings FINAL`. All readings of a device
//! lie in one Kafka partition, so whoever owns the partition knows an offset below which everything is stored. From
//! the offset where the last refresh ended (`rollup_progress`) up to that one, the rows of `readings` say which windows
//! (device, minute) are touched; these are computed, then the hours of these minutes, and only then progress is
//! written. A refresh that dies is done again in full, and ends with the same rows.
//!
//! **Versions.** Of two rows for a window the one with the greater `refreshed_at` stays. A version is the server's time,
//! or one millisecond more than the partition's last version if the clock has not gone on, and is written into
//! `rollup_progress` before it is used: a refresh that a new owner starts after it has fenced off the old one has a
//! greater version than everything the old one may still be inserting. Clocks may jump. Without a fence there must be
//! one refresh of a partition at a time.
//!
//! **Bounds.** Work goes in rounds of so many offsets ([`Limits::round_offsets`]), with progress written behind each. In
//! a round, a first query says where in time the rows lie: around the busiest five minutes, and by day. Each slice of
//! time is a statement of its own, and one with very many rows is parted by devices ([`Limits::statement_rows`]). A
//! statement that timed out or met a memory limit halves these limits for the refreshes after it.
//!
//! **What is read.** The rows of a span are found by the range of offsets of each part and of each four granules. Inserts
//! are merged with inserts of about the same time first, so these are the newest parts, whole: two columns of all their
//! rows, two more of those in the span. Windows are found by the primary key, which takes the set (device, minute) and
//! leaves the granules of these devices; and by the range of time of each part, which leaves those that hold the window.
//! A granule where a device's rows end cannot be told from one where later rows of the device are, so a part whose
//! range of time holds any window of a statement costs one granule for each device of the statement. That is what the
//! slices are for. Of a part with 38 million older rows, 20,000 devices of which 20 sent something late: in one statement
//! all 38 million rows are read, in two slices 220 thousand for the late ones and for the others none.

mod plan;
mod sql;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use penstock_service::config::ClickHouse;

use crate::clickhouse::{CallError, Client, Statement};
use plan::{Progress, Slice, Span};
use sql::Sql;

/// How much is done at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Kafka offsets, over all partitions, after which progress is written.
    pub round_offsets: u64,
    /// Rows to be covered by one statement: it computes as many windows at most. A device is never parted, so a device
    /// with more rows makes a larger statement.
    pub statement_rows: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { round_offsets: 64_000_000, statement_rows: 1_000_000 }
    }
}

impl Limits {
    /// Limits are halved so often at most.
    const HALVED_MAX: u32 = 8;

    fn halved(self, times: u32) -> Self {
        let half = |limit: u64| (limit >> times).max(1);
        Self { round_offsets: half(self.round_offsets), statement_rows: half(self.statement_rows) }
    }
}

/// Keeps a writer out that does not own its partitions any more.
#[derive(Clone, Copy, Debug)]
pub struct Fence<'a> {
    /// A boolean SQL expression without references to columns, that is true, or throws if another writer owns one of
    /// the partitions. It stands in the `WHERE` of every `INSERT ... SELECT`.
    pub condition: &'a str,
    /// The setting `log_comment` of these statements.
    pub log_comment: &'a str,
}

/// What a refresh did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refreshed {
    /// Kafka offsets that are covered now and were not before.
    pub offsets: u64,
    /// Rows of `readings` with these offsets.
    pub rows: u64,
    /// Minutes that were written, each for one device. May count those of another writer that refreshed other
    /// partitions in the same millisecond.
    pub windows: u64,
    /// Hours that were written, each for one device. As with `windows`.
    pub hours: u64,
    /// Rounds.
    pub rounds: u64,
}

/// Refreshes the rollups of one database. Clones share their connections and what they have learned about limits.
#[derive(Clone, Debug)]
pub struct Rollups {
    client: Client,
    database: String,
    deadline: Duration,
    server_deadline_s: String,
    limits: Limits,
    halved: Arc<AtomicU32>,
}

impl Rollups {
    /// Refreshes by `client`. Each statement may take `query_timeout_ms`.
    pub fn new(client: Client, config: &ClickHouse) -> Self {
        let deadline = Duration::from_millis(config.query_timeout_ms);
        Self {
            client,
            database: config.database.clone(),
            deadline,
            // The server gives up first, so that the outcome is known.
            server_deadline_s: deadline.as_secs().saturating_sub(1).max(1).to_string(),
            limits: Limits::default(),
            halved: Arc::default(),
        }
    }

    /// The same with other limits.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// Brings the rollups of partitions up to date. `covered` has, for each partition, an offset below which every Kafka
    /// record is stored in `readings`, or will never be. Does nothing for partitions that are up to date.
    ///
    /// # Errors
    /// [`CallError`] of the first statement that failed; rounds before it stay done, and the next refresh goes on
    /// behind them.
    pub async fn refresh(
        &self,
        covered: &[(u16, u64)],
        fence: Option<&Fence<'_>>,
    ) -> Result<Refreshed, CallError> {
        let halved = self.halved.load(Ordering::Relaxed);
        let result = Refresh::new(self, fence, self.limits.halved(halved)).run(covered).await;
        let next = match &result {
            Ok(_) => halved.saturating_sub(1),
            Err(error) if took_too_much(error) => (halved + 1).min(Limits::HALVED_MAX),
            Err(_) => halved,
        };
        self.halved.store(next, Ordering::Relaxed);
        result
    }
}

impl Rollups {
    /// Sets partitions back: what is stored at the offset or behind it is covered anew by the next refresh. Those that
    /// are not so far yet stay where they are. Returns the version that was given to this: every later refresh has a
    /// greater one, every earlier one a smaller one.
    ///
    /// No refresh may be under way: hold up and fence off whoever makes them, see [`crate::fence`].
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn set_back(&self, to: &[(u16, u64)]) -> Result<i64, CallError> {
        let refresh = Refresh::new(self, None, self.limits);
        let (now_ms, progress) = refresh.progress(to).await?;
        let last = progress.values().map(|progress| progress.version).max().unwrap_or_default();
        let version = plan::next_version(now_ms, last);
        let next_offset = |&(partition, offset): &(u16, u64)| {
            let found = progress.get(&partition).map_or(0, |progress| progress.next_offset);
            (partition, found.min(offset))
        };
        refresh.reach(&to.iter().map(next_offset).collect(), version).await?;
        Ok(version)
    }

    /// Computes anew the windows of readings that are not there any more: windows without any reading are removed.
    /// `gone` is a table with their `device_id` and `timestamp`; `version` is what [`Self::set_back`] returned. No
    /// refresh may be under way.
    ///
    /// # Errors
    /// [`CallError`]. It may be done again.
    pub async fn remove(&self, gone: &str, version: i64) -> Result<(), CallError> {
        let refresh = Refresh::new(self, None, self.limits);
        for statement in refresh.sql.remove(gone, version) {
            refresh.insert(statement).await?;
        }
        Ok(())
    }
}

/// Whether a smaller statement may work where this one did not.
fn took_too_much(error: &CallError) -> bool {
    match error {
        // TIMEOUT_EXCEEDED, TOO_SLOW, CANNOT_ALLOCATE_MEMORY, MEMORY_LIMIT_EXCEEDED
        CallError::Server(error) => matches!(error.code, Some(159 | 160 | 173 | 241)),
        CallError::Broken(_) => true,
        CallError::NotSent(_) => false,
    }
}

/// One refresh that is going on.
struct Refresh<'a> {
    rollups: &'a Rollups,
    sql: Sql<'a>,
    log_comment: &'a str,
    limits: Limits,
    done: Refreshed,
}

impl<'a> Refresh<'a> {
    fn new(rollups: &'a Rollups, fence: Option<&Fence<'a>>, limits: Limits) -> Self {
        let sql = Sql { database: &rollups.database, fence: fence.map_or("", |fence| fence.condition) };
        let log_comment = fence.map_or("", |fence| fence.log_comment);
        Self { rollups, sql, log_comment, limits, done: Refreshed::default() }
    }

    async fn run(mut self, covered: &[(u16, u64)]) -> Result<Refreshed, CallError> {
        if covered.is_empty() {
            return Ok(self.done);
        }
        let (now_ms, progress) = self.progress(covered).await?;
        let open = plan::open(covered, &progress);
        if open.is_empty() {
            return Ok(self.done);
        }
        let mut reached: BTreeMap<u16, u64> = open.iter().map(|span| (span.partition, span.from)).collect();
        let last = progress.values().map(|progress| progress.version).max().unwrap_or_default();
        let mut version = plan::next_version(now_ms, last);
        let stored = self.stored(&open).await?;
        // A version is written down before it is used.
        self.reach(&reached, version).await?;
        for round in plan::rounds(&stored, self.limits.round_offsets) {
            self.round(&round, version).await?;
            reached.extend(round.iter().map(|span| (span.partition, span.to)));
            version = plan::next_version(now_ms, version);
            self.reach(&reached, version).await?;
            self.done.rounds += 1;
            let Refreshed { rounds, rows, windows, hours, .. } = self.done;
            tracing::debug!(rounds, rows, windows, hours, "rollups went on");
        }
        // Offsets at which nothing is stored are done too.
        let end: BTreeMap<u16, u64> = open.iter().map(|span| (span.partition, span.to)).collect();
        if reached != end {
            self.reach(&end, plan::next_version(now_ms, version)).await?;
        }
        self.done.offsets = plan::offsets(&open);
        Ok(self.done)
    }

    /// The server's time, and how far partitions are.
    async fn progress(&self, covered: &[(u16, u64)]) -> Result<(i64, BTreeMap<u16, Progress>), CallError> {
        let partitions: Vec<u16> = covered.iter().map(|&(partition, _)| partition).collect();
        let mut now_ms = 0;
        let mut progress = BTreeMap::new();
        for line in self.select(self.sql.read_progress(&partitions)).await?.lines() {
            let mut fields = line.split('\t');
            let (partition, next_offset, version) =
                (number::<i64>(fields.next())?, number(fields.next())?, number(fields.next())?);
            match u16::try_from(partition) {
                Ok(partition) => drop(progress.insert(partition, Progress { next_offset, version })),
                Err(_) => now_ms = version,
            }
        }
        Ok((now_ms, progress))
    }

    /// A long span may begin long before the first row: records that Kafka had forgotten before there was a writer.
    async fn stored(&self, open: &[Span]) -> Result<Vec<Span>, CallError> {
        if plan::offsets(open) <= self.limits.round_offsets {
            return Ok(open.to_vec());
        }
        let mut first = BTreeMap::new();
        for line in self.select(self.sql.first_offsets(open)).await?.lines() {
            let mut fields = line.split('\t');
            first.insert(number(fields.next())?, number(fields.next())?);
        }
        let stored = plan::begin_at_first(open, &first);
        let offsets = plan::offsets(&stored);
        tracing::info!(offsets, "rollups have much to catch up with; progress is written as they go on");
        Ok(stored)
    }

    async fn reach(&self, reached: &BTreeMap<u16, u64>, version: i64) -> Result<(), CallError> {
        let rows: Vec<(u16, Progress)> = reached
            .iter()
            .map(|(&partition, &next_offset)| (partition, Progress { next_offset, version }))
            .collect();
        self.insert(self.sql.write_progress(&rows)).await
    }

    /// Computes what the rows of `spans` touch.
    async fn round(&mut self, spans: &[Span], version: i64) -> Result<(), CallError> {
        let slices = self.slices(spans).await?;
        tracing::debug!(version, ?spans, ?slices, "rollups are computed");
        if slices.is_empty() {
            return Ok(());
        }
        let hours = plan::hours(&slices);
        let is_large = |slice: &Slice| slice.rows > self.limits.statement_rows;
        let cuts = if hours.iter().any(is_large) || slices.iter().any(is_large) {
            self.cuts(spans, &slices).await?
        } else {
            Vec::new()
        };
        let parts = |slice: &Slice| plan::parted(if is_large(slice) { &cuts } else { &[] });
        for slice in &slices {
            for devices in parts(slice) {
                self.insert(self.sql.minutes(spans, slice, &devices, version)).await?;
            }
        }
        // Behind all minutes: an hour can have minutes of several slices.
        for slice in &hours {
            for devices in parts(slice) {
                self.insert(self.sql.hours(spans, slice, &devices, version)).await?;
            }
        }
        let counts = self.select(self.sql.counts(&slices, &hours, version)).await?;
        let mut counts = counts.split_whitespace();
        self.done.windows += number::<u64>(counts.next())?;
        self.done.hours += number::<u64>(counts.next())?;
        self.done.rows += slices.iter().map(|slice| slice.rows).sum::<u64>();
        Ok(())
    }

    async fn slices(&self, spans: &[Span]) -> Result<Vec<Slice>, CallError> {
        let text = self.select(self.sql.slices(spans)).await?;
        let slice = |line: &str| {
            let mut fields = line.split('\t');
            Ok(Slice {
                from_s: number(fields.next())?,
                to_s: number(fields.next())?,
                rows: number(fields.next())?,
                busiest: number::<u8>(fields.next())? == 1,
            })
        };
        text.lines().map(slice).collect::<Result<_, _>>().map(plan::few)
    }

    async fn cuts(&self, spans: &[Span], slices: &[Slice]) -> Result<Vec<String>, CallError> {
        let text = self.select(self.sql.cuts(spans, slices, self.limits.statement_rows)).await?;
        let mut cuts: Vec<String> = text.lines().map(str::to_owned).collect();
        // The last part has no end: what is inserted meanwhile is nobody's otherwise.
        cuts.pop();
        Ok(cuts)
    }

    async fn insert(&self, sql: String) -> Result<(), CallError> {
        let settings = [
            // Late readings of many months are no reason to refuse.
            ("max_partitions_per_insert_block", "0"),
            ("log_comment", self.log_comment),
        ];
        let settings = &settings[..if self.log_comment.is_empty() { 1 } else { 2 }];
        self.call(sql, settings).await.map(drop)
    }

    async fn select(&self, sql: String) -> Result<String, CallError> {
        self.call(sql, &[]).await
    }

    async fn call(&self, sql: String, settings: &[(&str, &str)]) -> Result<String, CallError> {
        let mut all = vec![
            ("wait_end_of_query", "1"),
            ("max_execution_time", self.rollups.server_deadline_s.as_str()),
            // Remembered answers to conditions are not to be trusted where a condition holds a set that a subquery made.
            ("use_query_condition_cache", "0"),
            // Rows of one key lie in one partition, in all tables that are read here.
            ("do_not_merge_across_partitions_select_final", "1"),
        ];
        all.extend_from_slice(settings);
        let statement = Statement { sql: "", settings: &all, query_id: "" };
        let answer = self.rollups.client.call(&statement, Bytes::from(sql), self.rollups.deadline).await?;
        String::from_utf8(answer).map_err(|_| CallError::Broken("the answer is not UTF-8".to_owned()))
    }
}

fn number<T: std::str::FromStr>(field: Option<&str>) -> Result<T, CallError> {
    field
        .and_then(|field| field.trim().parse().ok())
        .ok_or_else(|| CallError::Broken(format!("the answer holds {field:?} in place of a number")))
}
