//! Stores the rows of one batch, in one insert after the other, until every row is stored or known to be one that
//! ClickHouse does not take. A row that is stored twice is the same row: nothing has to be asked before trying again.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use penstock_service::backoff::Backoff;
use penstock_service::condition::Condition;
use tokio_util::sync::CancellationToken;

use super::alert::COLUMNS;
use crate::clickhouse::{CallError, Class};
use crate::insert::{Inserter, Outcome};
use crate::metrics::Metrics;
use crate::writer::gate::{Abandoned, pause_unless};

/// More rows of one batch are not taken for bad: then it is the table that is wrong, and somebody has to look.
const BAD_ROWS_MAX: usize = 100;

/// Where alerts are stored.
///
/// It has no circuit breaker: there is one insert at a time, with growing pauses, and trouble with this table must not
/// hold up readings.
#[derive(Debug)]
pub(super) struct Table {
    inserter: Inserter,
    sql: String,
    metrics: Metrics,
    condition: Condition,
    backoff_ms: (u64, u64),
    run_id: String,
    abort: CancellationToken,
}

/// A row that ClickHouse does not take, by its place in the batch, and what ClickHouse said.
pub(super) type BadRow = (usize, String);

impl Table {
    pub(super) fn new(
        inserter: Inserter,
        database: &str,
        metrics: Metrics,
        backoff_ms: (u64, u64),
        run_id: &str,
        abort: CancellationToken,
    ) -> Self {
        Self {
            inserter,
            sql: format!("INSERT INTO {database}.alerts_stored ({COLUMNS}) FORMAT RowBinary"),
            metrics,
            condition: Condition::new("storing alerts in ClickHouse"),
            backoff_ms,
            run_id: run_id.to_owned(),
            abort,
        }
    }

    pub(super) fn backoff(&self) -> Backoff {
        Backoff::new(self.backoff_ms.0, self.backoff_ms.1)
    }

    /// Stores the rows of the `number`-th batch of this process, which end at `ends` in `body`. Comes back with those
    /// that ClickHouse does not take.
    pub(super) async fn store(
        self: Arc<Self>,
        body: Bytes,
        ends: Vec<usize>,
        number: u64,
    ) -> Result<Vec<BadRow>, Abandoned> {
        let (mut bad, mut attempts, mut backoff) = (Vec::new(), 0u64, self.backoff());
        let mut todo = Vec::new();
        todo.push(0..ends.len());
        while let Some(rows) = todo.pop() {
            if rows.is_empty() {
                continue;
            }
            attempts += 1;
            let query_id = format!("penstock-alerts-{}-{number}-{attempts}", self.run_id);
            let insert = self.inserter.insert_as(&self.sql, slice(&body, &ends, &rows), &query_id);
            let outcome = tokio::select! {
                biased;
                outcome = insert => outcome,
                () = self.abort.cancelled() => return Err(Abandoned),
            };
            let error = match outcome {
                Outcome::Stored => {
                    self.metrics.alerts().stored(rows.len());
                    self.condition.worked();
                    backoff.reset();
                    continue;
                }
                Outcome::Rows(error) if rows.len() == 1 && bad.len() < BAD_ROWS_MAX => {
                    bad.push((rows.start, error.to_string()));
                    continue;
                }
                Outcome::Rows(_) if rows.len() > 1 && bad.len() < BAD_ROWS_MAX => {
                    let middle = rows.start + rows.len() / 2;
                    todo.push(middle..rows.end);
                    todo.push(rows.start..middle);
                    continue;
                }
                Outcome::Rows(error) => {
                    self.metrics.alerts().insert_failed(&error);
                    self.condition.failed("too_many_bad_rows", true, &error);
                    error
                }
                Outcome::NotSent(error)
                | Outcome::Fenced(error)
                | Outcome::Refused(error)
                | Outcome::Transient(error)
                | Outcome::Unknown(error) => {
                    self.failed(&error);
                    error
                }
            };
            tracing::debug!(rows = rows.len(), "an insert of alerts is tried again: {error}");
            todo.push(rows);
            pause_unless(backoff.next(), &self.abort).await?;
        }
        Ok(bad)
    }

    fn failed(&self, error: &CallError) {
        self.metrics.alerts().insert_failed(error);
        self.condition.failed(error.kind(), error.class() == Class::Permanent, error);
    }
}

/// The bytes of some rows: they lie one after the other.
fn slice(body: &Bytes, ends: &[usize], rows: &Range<usize>) -> Bytes {
    let end = |rows: usize| if rows == 0 { 0 } else { ends[rows - 1] };
    body.slice(end(rows.start)..end(rows.end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_cut_out_of_a_body_where_they_end() {
        let body = Bytes::from_static(b"abbccc");
        let ends = [1, 3, 6];
        assert_eq!(slice(&body, &ends, &(0..3)), "abbccc");
        assert_eq!(slice(&body, &ends, &(0..1)), "a");
        assert_eq!(slice(&body, &ends, &(1..3)), "bbccc");
        assert_eq!(slice(&body, &ends, &(2..3)), "ccc");
    }
}
