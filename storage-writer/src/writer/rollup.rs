//! Keeps the rollups by minute and hour up to date with what this writer has stored.

use std::sync::Arc;
use std::time::{Duration, Instant};

use penstock_service::condition::Condition;
use tokio_util::sync::CancellationToken;

use super::consume::Covered;
use super::gate::pause_unless;
use super::store::Store;
use crate::claims::Claimed;
use crate::fence::Guard;
use crate::rollups::{Fence, Rollups};

/// Brings the rollups up to date every so often, until `stop`. A refresh that fails is done again at the next turn, in
/// full: nothing of it counts before its progress is recorded.
pub(super) async fn keep(
    store: Arc<Store>,
    rollups: Rollups,
    covered: Covered,
    every: Duration,
    stop: CancellationToken,
) {
    let condition = Condition::new("bringing the rollups up to date");
    while pause_unless(every, &stop).await.is_ok() {
        let held = store.claims.all();
        let ours: Vec<(u16, u64)> = covered
            .get()
            .into_iter()
            .filter(|(partition, _)| store.fence.is_none() || held.get(*partition).is_some())
            .collect();
        if ours.is_empty() {
            continue;
        }
        let started = Instant::now();
        let claimed = Claimed::new(
            ours.iter().filter_map(|(partition, _)| Some((*partition, held.get(*partition)?))).collect(),
        );
        let guard = store.fence.as_ref().map(|_| Guard::new(&store.database, &claimed, 0));
        let fence = guard
            .as_ref()
            .map(|guard| Fence { condition: &guard.condition, log_comment: &guard.log_comment });
        let refreshed = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            refreshed = rollups.refresh(&ours, fence.as_ref()) => refreshed,
        };
        match refreshed {
            Ok(refreshed) => {
                condition.worked();
                store.metrics.rolled_up(refreshed.windows + refreshed.hours, started.elapsed().as_secs_f64());
            }
            Err(error) => {
                condition.failed(error.kind(), false, &error);
                store.metrics.rollup_failed();
            }
        }
    }
}
