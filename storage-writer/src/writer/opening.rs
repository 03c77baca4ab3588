//! What happens between the assignment of a partition and its first record: Kafka is asked what is committed, the
//! partition is claimed, so that nobody else can insert its rows any more, and ClickHouse is asked which it has.
//!
//! Runs beside the consumer's thread, which meanwhile goes on with the partitions it has. Tries until it is done, or
//! the assignment is over.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::Sender;
use tokio_util::sync::CancellationToken;

use super::floors::{Floor, Group};
use super::gate::{Abandoned, pause_unless};
use super::store::Store;
use crate::claims::Claim;
use crate::clickhouse::CallError;
use crate::fence::{Fence, TakeOverError};
use crate::offsets::{Already, Epoch};
use crate::stored::{self, OffsetSet, Span};

/// A partition that was assigned and is to be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Closed {
    pub(super) partition: u16,
    pub(super) epoch: Epoch,
}

/// A partition that may be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Opened {
    pub(super) closed: Closed,
    /// The claim under which its rows are inserted; `None` where rows need be stored only at least once.
    pub(super) claim: Option<Claim>,
    /// The committed offset; `None` if none was ever committed.
    pub(super) floor: Option<i64>,
    /// Offsets above the floor that are done with.
    pub(super) already: Already,
}

/// Opens the partitions, after `delay`. Those that another writer claims first are tried again, as long as `assignment`
/// lasts.
pub(super) async fn open(
    store: Arc<Store>,
    group: Arc<Group>,
    mut closed: Vec<Closed>,
    delay: Duration,
    assignment: CancellationToken,
    opened: Sender<Opened>,
) {
    let mut backoff = store.backoff();
    if pause_unless(delay, &assignment).await.is_err() {
        return;
    }
    let work = async {
        let partitions: Vec<u16> = closed.iter().map(|closed| closed.partition).collect();
        let floors = group.floors(&partitions, store.backoff()).await;
        while !closed.is_empty() {
            let Ok(done) = attempt(&store, &closed, &floors, &assignment).await else { return };
            closed.retain(|closed| done.iter().all(|opened| opened.closed != *closed));
            for partition in done {
                // Without a receiver the writer has ended.
                let _ = opened.send(partition).await;
            }
            if !closed.is_empty() && pause_unless(backoff.next(), &assignment).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        biased;
        () = assignment.cancelled() => {}
        () = store.abort.cancelled() => {}
        () = work => {}
    }
}

/// Opens what can be opened now.
async fn attempt(
    store: &Store,
    closed: &[Closed],
    floors: &BTreeMap<u16, Floor>,
    assignment: &CancellationToken,
) -> Result<Vec<Opened>, Abandoned> {
    let Some(fence) = &store.fence else {
        let open = |closed: &Closed| opened(*closed, None, floors, &BTreeMap::new());
        return Ok(closed.iter().map(open).collect());
    };
    let permit = store.gate.pass(assignment, &store.metrics).await?;
    match claim_and_ask(store, fence, closed, floors).await {
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
    floors: &BTreeMap<u16, Floor>,
) -> Result<Vec<Opened>, TakeOverError> {
    let started = std::time::Instant::now();
    let partitions: Vec<u16> = closed.iter().map(|closed| closed.partition).collect();
    let taken = fence.take_over(&partitions).await?;
    store.metrics.taken_over(taken.killed);
    let ours: Vec<Closed> =
        closed.iter().filter(|closed| taken.held.contains(&closed.partition)).copied().collect();
    let already = ask(store, &ours, floors).await?;
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
    Ok(ours.into_iter().map(|closed| opened(closed, Some(taken.claim), floors, &already)).collect())
}

async fn ask(
    store: &Store,
    closed: &[Closed],
    floors: &BTreeMap<u16, Floor>,
) -> Result<BTreeMap<u16, OffsetSet>, CallError> {
    let span = |closed: &Closed| {
        let floor = floors.get(&closed.partition).and_then(|floor| floor.offset).unwrap_or(0);
        Span { partition: closed.partition, first: floor.max(0).cast_unsigned(), next: u64::MAX }
    };
    stored::ask(&store.client, &store.database, &closed.iter().map(span).collect::<Vec<_>>()).await
}

fn opened(
    closed: Closed,
    claim: Option<Claim>,
    floors: &BTreeMap<u16, Floor>,
    stored: &BTreeMap<u16, OffsetSet>,
) -> Opened {
    let Floor { offset, letters } = floors.get(&closed.partition).cloned().unwrap_or_default();
    let rows = stored.get(&closed.partition).cloned().unwrap_or_default();
    Opened { closed, claim, floor: offset, already: Already { rows, letters } }
}
