//! Stores one batch: its block into ClickHouse, its refused records into the storage-failures topic. Tries until both
//! are done, or the writer gives up on it; never drops a row or a record.

use std::sync::Arc;
use std::time::{Duration, Instant};

use penstock_service::admin::Latch;
use penstock_service::backoff::Backoff;
use tokio_util::sync::CancellationToken;

use super::condition::Condition;
use super::failures::Failures;
use crate::batch::Cut;
use crate::clickhouse::{CallError, Class};
use crate::insert::{Inserter, Outcome};
use crate::metrics::Metrics;

/// What storing batches needs; shared by all inserts under way.
pub(super) struct Store {
    pub(super) inserter: Inserter,
    pub(super) failures: Failures,
    pub(super) metrics: Metrics,
    pub(super) clickhouse: Latch,
    pub(super) condition: Condition,
    pub(super) backoff_ms: (u64, u64),
    /// Begins the query id of every insert of this process.
    pub(super) run_id: String,
    /// Cancelled when nothing may be tried any longer.
    pub(super) abort: CancellationToken,
}

/// The writer stopped before the batch was stored. Its offsets are not committed, so it is read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Abandoned;

impl Store {
    /// Stores everything in `cut`, which is the `number`-th of this process.
    pub(super) async fn store(self: Arc<Self>, cut: Cut, number: u64) -> Result<(), Abandoned> {
        let rows = async { if cut.rows == 0 { Ok(()) } else { self.store_rows(&cut, number).await } };
        let refused = self.failures.send(&cut.refused, &self.metrics, self.backoff(), &self.abort);
        tokio::try_join!(rows, refused).map(drop)
    }

    async fn store_rows(&self, cut: &Cut, number: u64) -> Result<(), Abandoned> {
        let mut backoff = self.backoff();
        for attempt in 1u64.. {
            let query_id = format!("penstock-writer-{}-{number}-{attempt}", self.run_id);
            let started = Instant::now();
            let outcome = tokio::select! {
                biased;
                outcome = self.inserter.insert(cut.body.clone(), &query_id) => outcome,
                () = self.abort.cancelled() => return Err(Abandoned),
            };
            self.metrics.insert_took(started.elapsed().as_secs_f64());
            match outcome {
                Outcome::Stored => {
                    self.metrics.stored(cut.rows, cut.body.len());
                    self.metrics.clickhouse_up(true);
                    self.clickhouse.set(true);
                    self.condition.worked();
                    return Ok(());
                }
                // Rows that may be stored are sent again: the table keeps one row of each key.
                Outcome::Refused(error) | Outcome::Transient(error) | Outcome::Unknown(error) => {
                    self.failed(&error);
                }
            }
            self.pause(backoff.next()).await?;
            self.metrics.insert_retried();
        }
        Err(Abandoned)
    }

    fn failed(&self, error: &CallError) {
        self.metrics.insert_failed(error);
        self.metrics.clickhouse_up(false);
        self.clickhouse.set(false);
        self.condition.failed(error.kind(), error.class() == Class::Permanent, error);
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(self.backoff_ms.0, self.backoff_ms.1)
    }

    async fn pause(&self, pause: Duration) -> Result<(), Abandoned> {
        pause_unless(pause, &self.abort).await
    }
}

/// Waits, unless nothing may be tried any longer.
pub(super) async fn pause_unless(pause: Duration, abort: &CancellationToken) -> Result<(), Abandoned> {
    tokio::select! {
        biased;
        () = abort.cancelled() => Err(Abandoned),
        () = tokio::time::sleep(pause) => Ok(()),
    }
}
