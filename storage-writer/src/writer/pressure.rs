//! Looks at how many parts `readings` has, and makes batches larger and older before ClickHouse has to slow inserts
//! down or refuse them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::gate::pause_unless;
use crate::clickhouse::{CallError, Client};
use crate::metrics::Metrics;

/// How often it looks.
const EVERY: Duration = Duration::from_secs(5);
/// Batches grow to this many times their size and age at most.
const STRETCH_MAX: f64 = 20.0;

/// How many times larger and older batches may grow; shared with whoever fills them.
#[derive(Clone, Debug)]
pub(super) struct Stretch(Arc<AtomicU64>);

impl Default for Stretch {
    fn default() -> Self {
        Self(Arc::new(AtomicU64::new(1.0f64.to_bits())))
    }
}

impl Stretch {
    /// At least 1.
    pub(super) fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }

    fn set(&self, stretch: f64) {
        self.0.store(stretch.to_bits(), Ordering::Relaxed);
    }
}

/// How far to stretch with this many parts: not below `soft_max`, then faster than the parts grow, since only larger
/// batches let merges catch up.
fn stretch(parts: u64, soft_max: u64) -> f64 {
    if parts <= soft_max {
        return 1.0;
    }
    #[allow(clippy::cast_precision_loss, reason = "parts are counted in thousands")]
    let ratio = parts as f64 / soft_max as f64;
    (ratio * ratio).min(STRETCH_MAX)
}

/// Looks until `stop`. What cannot be asked changes nothing: inserts meet the same trouble, and say so.
pub(super) async fn watch(
    client: Client,
    database: String,
    soft_max: u64,
    shared: Stretch,
    metrics: Metrics,
    stop: CancellationToken,
) {
    while pause_unless(EVERY, &stop).await.is_ok() {
        let Ok(parts) = parts(&client, &database).await else { continue };
        let now = stretch(parts, soft_max);
        if (now > 1.0) != (shared.get() > 1.0) {
            tracing::info!(
                parts,
                stretch = now,
                "the number of parts changes how large and old batches grow"
            );
        }
        shared.set(now);
        metrics.parts(parts, now);
    }
}

/// Active parts of the fullest partition of `readings`.
async fn parts(client: &Client, database: &str) -> Result<u64, CallError> {
    let sql = format!(
        "SELECT max(parts) FROM (SELECT count() AS parts FROM system.parts WHERE active AND database = '{database}' \
         AND table = 'readings' GROUP BY partition_id) FORMAT TSV"
    );
    let answer = client.query(&sql).await?;
    answer.trim().parse().map_err(|_| CallError::Broken(format!("asked for parts, it said {answer:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_stretch_with_the_parts_within_bounds() {
        assert_eq!(stretch(0, 300).to_bits(), 1.0f64.to_bits());
        assert_eq!(stretch(300, 300).to_bits(), 1.0f64.to_bits());
        assert!((stretch(600, 300) - 4.0).abs() < 1e-9);
        assert!((stretch(100_000, 300) - STRETCH_MAX).abs() < 1e-9);
        let shared = Stretch::default();
        assert_eq!(shared.get().to_bits(), 1.0f64.to_bits());
        shared.set(2.5);
        assert!((shared.get() - 2.5).abs() < 1e-9);
    }
}
