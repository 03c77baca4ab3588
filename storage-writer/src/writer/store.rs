//! Stores one batch: every row of it once, whatever ClickHouse answers or does not answer. Tries until that is done, or
//! the writer gives up on it; never drops a row that is this writer's to store.
//!
//! A block that is stored at the first attempt costs one request. After an answer that says otherwise it is asked which
//! of its rows are stored, and only the rest is sent again. After no answer at all the block is given up: what was sent
//! may still be stored, so its partitions are taken over anew, like those of another writer, and read again from their
//! committed offset. (To claim anew and to ask for this block alone would not do: another writer may have had the
//! partitions in between and stored records that lie in other batches here. `tests/fencing_model` has the trace.)

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use penstock_service::admin::Latch;
use penstock_service::backoff::Backoff;
use penstock_service::condition::Condition;
use tokio_util::sync::CancellationToken;

use super::gate::{Abandoned, Gate, pause_unless};
use crate::batch::Cut;
use crate::claims::{Claimed, Claims};
use crate::clickhouse::{CallError, Class, Client};
use crate::fence::Fence;
use crate::insert::{Inserter, Outcome};
use crate::metrics::Metrics;
use crate::native::Block;
use crate::offsets::OffsetRange;
use crate::stored::{self, OffsetSet, Span};

/// More rows of one batch are not taken for bad: then it is the table that is wrong, and somebody has to look.
const BAD_ROWS_MAX: usize = 1_000;

/// What storing batches needs; shared by all inserts under way.
pub(super) struct Store {
    pub(super) client: Client,
    pub(super) database: String,
    pub(super) inserter: Inserter,
    /// `None` where rows need be stored only at least once.
    pub(super) fence: Option<Fence>,
    pub(super) claims: Claims,
    pub(super) gate: Gate,
    pub(super) metrics: Metrics,
    pub(super) clickhouse: Latch,
    pub(super) condition: Condition,
    pub(super) backoff_ms: (u64, u64),
    /// Begins the query id of every insert of this process.
    pub(super) run_id: String,
    /// Cancelled when nothing may be tried any longer.
    pub(super) abort: CancellationToken,
}

/// A row that ClickHouse does not take, by its record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BadRow {
    pub(super) partition: u16,
    pub(super) offset: u64,
    /// What ClickHouse said.
    pub(super) detail: String,
}

/// How a batch was stored.
#[derive(Debug, Default)]
pub(super) struct Settled {
    /// Rows that have to become dead letters.
    pub(super) bad: Vec<BadRow>,
    /// What was given up, because it is not known what was stored, because another writer has claimed it, or because
    /// its assignment is over.
    pub(super) lost: Vec<OffsetRange>,
    /// Whether another writer has claimed some of it.
    pub(super) fenced: bool,
}

/// What is left to be done of a batch.
struct Rest {
    block: Block,
    /// Whether rows of it may be stored already.
    doubtful: bool,
}

impl Store {
    /// Stores the rows of `cut`, which is the `number`-th of this process and holds `ranges`.
    pub(super) async fn store(
        self: Arc<Self>,
        cut: &Cut,
        ranges: &[OffsetRange],
        number: u64,
    ) -> Result<Settled, Abandoned> {
        let mut attempts = Attempts { run_id: &self.run_id, number, made: 0 };
        if !cut.stored_before.is_empty() {
            self.feed_latest(&cut.stored_before, &mut attempts).await?;
        }
        let mut settled = Settled::default();
        if cut.rows > 0 {
            let claimed = self.claimed(ranges);
            let whole = claimed.as_ref().is_none_or(|claimed| covers(claimed, ranges));
            let mut doubtful = false;
            if whole {
                match self.attempt(cut.body.clone(), cut.rows, claimed.as_ref(), &mut attempts).await? {
                    Attempt::Stored => return Ok(settled),
                    Attempt::Again { doubtful: doubt } => doubtful = doubt,
                    Attempt::Rows(_) => doubtful = true,
                    Attempt::Lost { fenced } => settled.fenced = fenced,
                }
            }
            // Every block of this process can be read by it.
            let block = Block::parse(cut.body.clone()).ok_or(Abandoned)?;
            self.store_rest(Rest { block, doubtful }, ranges, &mut attempts, &mut settled).await?;
        }
        settled.lost = self.lost(ranges);
        Ok(settled)
    }

    /// Stores a block piece by piece, until nothing of it is left that this writer has to store.
    async fn store_rest(
        &self,
        rest: Rest,
        ranges: &[OffsetRange],
        attempts: &mut Attempts<'_>,
        settled: &mut Settled,
    ) -> Result<(), Abandoned> {
        let mut todo = vec![rest];
        while let Some(Rest { block, doubtful }) = todo.pop() {
            let claimed = self.claimed(ranges);
            let is_ours = |partition| claimed.as_ref().is_none_or(|claimed| claimed.get(partition).is_some());
            let mut block = block.filter(|partition, _| is_ours(partition));
            if doubtful {
                block = self.unstored(block, attempts).await?;
            }
            if block.rows() == 0 {
                continue;
            }
            match self.attempt(block.body(), block.rows(), claimed.as_ref(), attempts).await? {
                Attempt::Stored => {}
                Attempt::Again { doubtful } => todo.push(Rest { block, doubtful }),
                // Nothing of it is held any longer: neither is what is left to be done.
                Attempt::Lost { fenced } => settled.fenced |= fenced,
                Attempt::Rows(error) => {
                    let block = self.unstored(block, attempts).await?;
                    if block.rows() > 1 && settled.bad.len() < BAD_ROWS_MAX {
                        let (front, back) = block.split_at(block.rows() / 2);
                        todo.push(Rest { block: back, doubtful: false });
                        todo.push(Rest { block: front, doubtful: false });
                    } else if block.rows() == 1 {
                        let (partition, offset) = (block.partition(0), block.offset(0));
                        settled.bad.push(BadRow { partition, offset, detail: error.to_string() });
                    } else if block.rows() > 0 {
                        self.condition.failed("too_many_bad_rows", true, &error);
                        attempts.pause(self).await?;
                        todo.push(Rest { block, doubtful: false });
                    }
                }
            }
        }
        Ok(())
    }

    /// One attempt, and what follows from its outcome for the next.
    async fn attempt(
        &self,
        body: Bytes,
        rows: usize,
        claimed: Option<&Claimed>,
        attempts: &mut Attempts<'_>,
    ) -> Result<Attempt, Abandoned> {
        let permit = self.gate.pass(&self.abort, &self.metrics).await?;
        let bytes = body.len();
        let query_id = attempts.next();
        let started = Instant::now();
        let insert = async {
            match claimed {
                Some(claimed) => self.inserter.insert_claimed(body, rows, &query_id, claimed).await,
                None => self.inserter.insert(body, &query_id).await,
            }
        };
        let outcome = tokio::select! {
            biased;
            outcome = insert => outcome,
            () = self.abort.cancelled() => return Err(Abandoned),
        };
        self.metrics.insert_took(started.elapsed().as_secs_f64());
        let error = match outcome {
            Outcome::Stored => {
                permit.worked();
                self.metrics.stored(rows, bytes);
                self.worked();
                return Ok(Attempt::Stored);
            }
            Outcome::Rows(error) => {
                permit.worked();
                self.metrics.insert_failed(&error);
                return Ok(Attempt::Rows(error));
            }
            Outcome::Fenced(error) => {
                permit.worked();
                self.metrics.insert_fenced();
                tracing::info!("an insert was fenced: {error}");
                self.lose(claimed);
                return Ok(Attempt::Lost { fenced: true });
            }
            Outcome::NotSent(error)
            | Outcome::Refused(error)
            | Outcome::Transient(error)
            | Outcome::Unknown(error) => error,
        };
        permit.failed();
        self.failed(&error);
        if error.class() == Class::Unknown && claimed.is_some() {
            self.lose(claimed);
            return Ok(Attempt::Lost { fenced: false });
        }
        let doubtful = !matches!(error, CallError::NotSent(_));
        attempts.pause(self).await?;
        Ok(Attempt::Again { doubtful })
    }

    /// These partitions are this writer's no longer, until they are taken over anew.
    fn lose(&self, sent: Option<&Claimed>) {
        let Some(sent) = sent else { return };
        for partition in sent.partitions() {
            sent.get(partition).into_iter().for_each(|claim| self.claims.lose(partition, claim));
        }
    }

    /// The rows of a block that are not stored; all of it where rows need be stored only at least once. Those that are
    /// stored may be missing where the latest readings are kept, so they are sent there.
    async fn unstored(&self, block: Block, attempts: &mut Attempts<'_>) -> Result<Block, Abandoned> {
        if self.fence.is_none() {
            return Ok(block);
        }
        let spans = &spans(&block);
        let found =
            self.until_it_works(attempts, |_| async move {
                stored::ask(&self.client, &self.database, spans).await
            })
            .await?;
        let is_stored = |partition: u16, offset: u64| {
            found.get(&partition).is_some_and(|set: &OffsetSet| set.contains(offset))
        };
        let stored = block.filter(is_stored);
        if stored.rows() > 0 {
            self.metrics.found_stored(stored.rows());
            self.feed_latest(&stored.body(), attempts).await?;
        }
        Ok(block.filter(|partition, offset| !is_stored(partition, offset)))
    }

    async fn feed_latest(&self, block: &Bytes, attempts: &mut Attempts<'_>) -> Result<(), Abandoned> {
        let feed =
            |query_id: String| async move { self.inserter.feed_latest(block.clone(), &query_id).await };
        self.until_it_works(attempts, feed).await
    }

    /// Makes a call that may be made twice, until it works. It is given a query id.
    async fn until_it_works<T, F>(
        &self,
        attempts: &mut Attempts<'_>,
        call: impl Fn(String) -> F,
    ) -> Result<T, Abandoned>
    where
        F: Future<Output = Result<T, CallError>>,
    {
        loop {
            let permit = self.gate.pass(&self.abort, &self.metrics).await?;
            let result = tokio::select! {
                biased;
                result = call(attempts.next()) => result,
                () = self.abort.cancelled() => return Err(Abandoned),
            };
            match result {
                Ok(found) => {
                    permit.worked();
                    return Ok(found);
                }
                Err(error) => {
                    permit.failed();
                    self.failed(&error);
                    attempts.pause(self).await?;
                }
            }
        }
    }

    fn claimed(&self, ranges: &[OffsetRange]) -> Option<Claimed> {
        self.fence.as_ref().map(|_| self.claims.of(ranges))
    }

    fn lost(&self, ranges: &[OffsetRange]) -> Vec<OffsetRange> {
        let Some(claimed) = self.claimed(ranges) else { return Vec::new() };
        ranges.iter().filter(|range| !holds(&claimed, range)).copied().collect()
    }

    pub(super) fn worked(&self) {
        self.metrics.clickhouse_up(true);
        self.clickhouse.set(true);
        self.condition.worked();
    }

    pub(super) fn failed(&self, error: &CallError) {
        self.metrics.insert_failed(error);
        self.metrics.clickhouse_up(false);
        self.clickhouse.set(false);
        self.condition.failed(error.kind(), error.class() == Class::Permanent, error);
    }

    pub(super) fn backoff(&self) -> Backoff {
        Backoff::new(self.backoff_ms.0, self.backoff_ms.1)
    }
}

/// How an attempt ended.
enum Attempt {
    Stored,
    /// To be tried again; `doubtful` if rows may be stored.
    Again {
        doubtful: bool,
    },
    /// Some row is not taken.
    Rows(CallError),
    /// It is not known what was stored, or another writer has claimed some of it: the partitions are given up.
    Lost {
        fenced: bool,
    },
}

/// Names attempts, and spaces them out.
struct Attempts<'r> {
    run_id: &'r str,
    number: u64,
    made: u64,
}

impl Attempts<'_> {
    fn next(&mut self) -> String {
        self.made += 1;
        format!("penstock-writer-{}-{}-{}", self.run_id, self.number, self.made)
    }

    async fn pause(&self, store: &Store) -> Result<(), Abandoned> {
        let mut backoff = store.backoff();
        let mut pause = backoff.next();
        for _ in 1..self.made.min(16) {
            pause = backoff.next();
        }
        store.metrics.insert_retried();
        pause_unless(pause, &store.abort).await
    }
}

fn holds(claimed: &Claimed, range: &OffsetRange) -> bool {
    u16::try_from(range.partition).is_ok_and(|partition| claimed.get(partition).is_some())
}

fn covers(claimed: &Claimed, ranges: &[OffsetRange]) -> bool {
    ranges.iter().all(|range| holds(claimed, range))
}

/// What of each partition a block covers.
fn spans(block: &Block) -> Vec<Span> {
    let mut spans: BTreeMap<u16, Span> = BTreeMap::new();
    for row in 0..block.rows() {
        let (partition, offset) = (block.partition(row), block.offset(row));
        let span = spans.entry(partition).or_insert(Span { partition, first: offset, next: offset + 1 });
        span.first = span.first.min(offset);
        span.next = span.next.max(offset + 1);
    }
    spans.into_values().collect()
}
