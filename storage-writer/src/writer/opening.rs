//! What happens between the assignment of a partition and its first record: it is claimed, so that nobody else can
//! insert its rows any more, and ClickHouse is asked which of them it has.
//!
//! Runs beside the consumer's thread, which meanwhile goes on with the partitions it has. Tries until it is done, or
//! the assignment is over.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use penstock_service::backoff::Backoff;
use tokio::sync::mpsc::Sender;
use tokio_util::sync::CancellationToken;

use super::gate::{Abandoned, pause_unless};
use super::store::Store;
use crate::claims::Claim;
use crate::clickhouse::CallError;
use crate::fence::{Fence, TakeOverError};
use crate::offsets::Epoch;
use crate::stored::{self, OffsetSet, Span};

/// A partition that was assigned and is to be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Closed {
    pub(super) partition: u16,
    pub(super) epoch: Epoch,
    /// The committed offset; `None` if none was ever committed.
    pub(super) floor: Option<i64>,
}

/// A partition that may be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Opened {
    pub(super) closed: Closed,
    /// The claim under which its rows are inserted; `None` where rows need be stored only at least once.
    pub(super) claim: Option<Claim>,
    /// Offsets above the floor that are stored.
    pub(super) already: OffsetSet,
}

/// Opens the partitions, after `delay`. Those that another writer claims first are tried again, as long as `assignment`
/// lasts.
pub(super) async fn open(
    store: Arc<Store>,
    mut closed: Vec<Closed>,
    delay: Duration,
    assignment: CancellationToken,
    opened: Sender<Opened>,
) {
    let mut backoff = store.backoff();
    if pause_unless(delay, &assignment).await.is_err() {
        return;
    }
    while !closed.is_empty() {
        let done = tokio::select! {
            biased;
            () = assignment.cancelled() => return,
            () = store.abort.cancelled() => return,
            done = attempt(&store, &closed, &assignment) => done,
        };
        let Ok(done) = done else { return };
        closed.retain(|closed| done.iter().all(|opened| opened.closed != *closed));
        for partition in done {
            // Without a receiver the writer has ended.
            let _ = opened.send(partition).await;
        }
        if !closed.is_empty() && wait(&mut backoff, &assignment).await.is_err() {
            return;
        }
    }
}

async fn wait(backoff: &mut Backoff, assignment: &CancellationToken) -> Result<(), Abandoned> {
    pause_unless(backoff.next(), assignment).await
}

/// Opens what can be opened now.
async fn attempt(
    store: &Store,
    closed: &[Closed],
    assignment: &CancellationToken,
) -> Result<Vec<Opened>, Abandoned> {
    let Some(fence) = &store.fence else {
        return Ok(closed.iter().map(|closed| opened(*closed, None, &BTreeMap::new())).collect());
    };
    let permit = store.gate.pass(assignment, &store.metrics).await?;
    match claim_and_ask(store, fence, closed).await {
        Ok(opened) => {
            permit.worked();
            store.worked();
            Ok(opened)
        }
        Err(TakeOverError::Held { name, left_ms }) => {
            permit.worked();
            tracing::info!(name, left_ms, "inserts are held up; partitions wait");
            Ok(Vec::new())
        }
        Err(TakeOverError::Call(error)) => {
            permit.failed();
            store.failed(&error);
            Ok(Vec::new())
        }
    }
}

async fn claim_and_ask(
    store: &Store,
    fence: &Fence,
    closed: &[Closed],
) -> Result<Vec<Opened>, TakeOverError> {
    let started = std::time::Instant::now();
    let partitions: Vec<u16> = closed.iter().map(|closed| closed.partition).collect();
    let taken = fence.take_over(&partitions).await?;
    store.metrics.taken_over(taken.killed);
    let ours: Vec<Closed> =
        closed.iter().filter(|closed| taken.held.contains(&closed.partition)).copied().collect();
    let already = ask(store, &ours).await?;
    let seconds = started.elapsed().as_secs_f64();
    store.metrics.takeover_took(seconds);
    tracing::info!(
        partitions = ours.len(),
        claim = %taken.claim,
        killed = taken.killed,
        already_stored = already.values().map(OffsetSet::len).sum::<u64>(),
        seconds = format!("{seconds:.3}"),
        "partitions are taken over"
    );
    Ok(ours.into_iter().map(|closed| opened(closed, Some(taken.claim), &already)).collect())
}

async fn ask(store: &Store, closed: &[Closed]) -> Result<BTreeMap<u16, OffsetSet>, CallError> {
    let span = |closed: &Closed| Span {
        partition: closed.partition,
        first: closed.floor.unwrap_or(0).max(0).cast_unsigned(),
        next: u64::MAX,
    };
    stored::ask(&store.client, &store.database, &closed.iter().map(span).collect::<Vec<_>>()).await
}

fn opened(closed: Closed, claim: Option<Claim>, already: &BTreeMap<u16, OffsetSet>) -> Opened {
    Opened { closed, claim, already: already.get(&closed.partition).cloned().unwrap_or_default() }
}
